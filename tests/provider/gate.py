"""Who is let in: keys, versions, requests a minute, requests at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from math import ceil

from .messages import VERSIONS
from .refused import Dialect, Refused
from .settings import Settings


def check_key(headers: Mapping[str, str], dialect: Dialect, settings: Settings) -> None:
    """401 for a missing or wrong key, Anthropic's 400 for a missing or unknown version."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token if scheme.lower() == "bearer" else ""
    if dialect == "anthropic":
        key = headers.get("x-api-key", "") or key
    if settings.keys is not None and key not in settings.keys:
        raise _wrong_key(key, dialect)
    if dialect == "anthropic":
        version = headers.get("anthropic-version")
        if version is None:
            raise Refused(400, "anthropic-version: header is required")
        if version not in VERSIONS:
            raise Refused(400, f'anthropic-version: "{version}" is not a valid version')


def _wrong_key(key: str, dialect: Dialect) -> Refused:
    if dialect == "anthropic":
        return Refused(401, "invalid x-api-key" if key else "x-api-key header is required")
    if dialect == "foreign":
        return Refused(401)
    if not key:
        message = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth."
        return Refused(401, message)
    masked = f"{key[:4]}***{key[-4:]}" if len(key) > 12 else "***"
    message = f"Incorrect API key provided: {masked}. You can find your API key in your account."
    return Refused(401, message, code="invalid_api_key")


class Gate:
    """Counts what is being served and what was let in lately. Belongs to the provider's event loop."""

    def __init__(self) -> None:
        self._serving = 0
        self._lately: deque[float] = deque()

    def enter(self, settings: Settings, dialect: Dialect) -> dict[str, str]:
        """Lets a request in and returns its rate limit headers, or raises 429. Each entry needs one ``leave``."""
        if settings.max_in_flight is not None and self._serving >= settings.max_in_flight:
            message = f"Too many requests at a time: limit {settings.max_in_flight}."
            raise Refused(429, message, code=_code(dialect), headers={"retry-after-ms": str(settings.retry_after_ms)})
        headers = self._enter_window(settings, dialect) if settings.rpm is not None else {}
        self._serving += 1
        return headers

    def leave(self) -> None:
        self._serving -= 1

    def _enter_window(self, settings: Settings, dialect: Dialect) -> dict[str, str]:
        assert settings.rpm is not None
        now = settings.clock()
        while self._lately and self._lately[0] <= now - settings.window:
            self._lately.popleft()
        full = len(self._lately) >= settings.rpm
        if not full:
            self._lately.append(now)
        wait = (self._lately[0] if self._lately else now) + settings.window - now
        headers = _rate_headers(dialect, settings.rpm, settings.rpm - len(self._lately), wait)
        if full:
            message = f"Rate limit reached on requests per min (RPM): Limit {settings.rpm}. Please try again in {wait:.3f}s."
            raise Refused(429, message, code=_code(dialect), headers={**headers, "retry-after": str(ceil(wait))})
        return headers


def _code(dialect: Dialect) -> str | None:
    return "rate_limit_exceeded" if dialect == "openai" else None


def _rate_headers(dialect: Dialect, limit: int, left: int, wait: float) -> dict[str, str]:
    prefix = "anthropic-ratelimit-requests-" if dialect == "anthropic" else "x-ratelimit-"
    suffix = "" if dialect == "anthropic" else "-requests"
    return {f"{prefix}limit{suffix}": str(limit), f"{prefix}remaining{suffix}": str(left), f"{prefix}reset{suffix}": f"{wait:.3f}s"}
