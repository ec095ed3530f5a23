"""A provider's error, in its own words and with what is needed to decide about another try."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from ...errors import AuthenticationFailed, ProviderDown, ProviderError, RateLimited, RequestRefused
from .fields import at, decode, summary, tidy

FINAL_CODES = frozenset(
    {
        # A 429 that no waiting helps; the rest of Anthropic's list is in anthropic/_error_classes.py.
        "insufficient_quota",
        "billing_hard_limit_reached",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "linked_organization_spend_limit_reached",
    }
)

_BEHIND = frozenset({408, 502, 504})
"""A gateway gave up waiting: the model behind it may have answered, and its tokens may have been counted."""

STATUS_OF: Mapping[str, int] = {
    # Errors in the middle of a stream have a type but no status of their own.
    "invalid_request_error": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "timeout_error": 504,
    "conflict_error": 409,
    "request_too_large": 413,
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "data_residency_mismatch": 400,
    "bio_policy": 400,
    "misalignment_policy_violation": 400,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "server_error": 500,
    "api_error": 500,
    "overloaded_error": 529,
}


_STATUS = re.compile("[3-5][0-9]{2}")
_ID = re.compile(r"[\x21-\x7e]{1,200}")
"""It goes on in a header, which can't carry all that JSON can."""
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
"""A word for programs; what is longer or has other characters is none."""
_LONGEST = 1e12
"""Seconds: no wait is longer, and what is worked out with it stays a number."""


class Told(msgspec.Struct, frozen=True):
    """What an error's body says."""

    message: str = ""
    kind: str = ""
    code: str = ""
    status: int | None = None
    request_id: str = ""


def read_told(value: Any) -> Told:
    """The error in a body of either protocol, or in those of servers that imitate them."""
    error = at(value, "error")
    if isinstance(error, str):
        return Told(message=error, kind=_text(at(value, "type")))
    inner = error if isinstance(error, dict) else value if isinstance(value, dict) else {}
    message = inner.get("message") or inner.get("detail") or at(value, "message") or at(value, "detail")
    code = at(inner, "details", "error_code") or inner.get("code")
    named = _text(inner.get("param"))
    if named and isinstance(message, str) and named not in message:
        message = f"{named}: {message}"  # as in "Invalid value: 'standard_only'.", which says not of what
    status = int(code) if isinstance(code, int | str) and _STATUS.fullmatch(str(code)) else None
    return Told(
        message=message if isinstance(message, str) else "",
        kind=_text(inner.get("type")),
        code="" if status else _text(code),
        status=status,
        request_id=said if _ID.fullmatch(said := _text(at(value, "request_id"))) else "",
    )


def response_error(status: int, headers: Mapping[str, str], data: bytes, *, provider: str, request_id: str) -> ProviderError:
    """The error that a response is."""
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        told = read_told(decode(data))
    except ValueError:
        told = Told()
    message = told.message or f"it answered with {summary(data)}"
    should = {"true": True, "false": False}.get(lower.get("x-should-retry", "").strip().lower())
    return make_error(
        status,
        msgspec.structs.replace(told, message=message),
        provider=provider,
        request_id=request_id or told.request_id,
        retry_after=retry_after(lower),
        should_retry=should,
    )


def stream_error(value: Any, *, provider: str, request_id: str) -> ProviderError:
    """The error that stands in a stream, or in a body whose status said that all was well."""
    told = read_told(value)
    status = told.status or STATUS_OF.get(told.code) or STATUS_OF.get(told.kind) or 500
    message = told.message or f"it broke off with an error of type {told.kind or 'unknown'}"
    told = msgspec.structs.replace(told, message=message)
    # The reply had begun.
    return make_error(status, told, provider=provider, request_id=request_id or told.request_id, counted=True)


def make_error(
    status: int,
    told: Told,
    *,
    provider: str,
    request_id: str = "",
    retry_after: float | None = None,
    should_retry: bool | None = None,
    counted: bool = False,
) -> ProviderError:
    """The error of our tree for a status and what the provider said."""
    final = bool({told.code, told.kind} & FINAL_CODES)
    kind, what, hint = _kind(status, final)
    retryable = status in {408, 409, 429} or status >= 500 if should_retry is None else should_retry
    wait = f"; it asks to wait {retry_after:.0f} seconds" if retry_after is not None and retry_after >= 1 else ""
    return kind(
        f"{provider} {what} ({status}): {tidy(told.message)}{wait}",
        provider=provider,
        status=status,
        request_id=request_id,
        code=told.code if _CODE.fullmatch(told.code) else "",
        retryable=retryable and not final,
        retry_after=retry_after,
        counted=counted or status in _BEHIND,
        hint=hint,
    )


def _kind(status: int, final: bool) -> tuple[type[ProviderError], str, str]:
    if final:
        return RateLimited, "takes no more calls before a limit is raised", "raise the quota or spend limit with the provider"
    if status == 401:
        return AuthenticationFailed, "does not accept the key", "is the key complete, current and of this provider?"
    if status == 403:
        return AuthenticationFailed, "does not allow this call", "may this key use this model, from here?"
    if status == 429:
        return RateLimited, "wants fewer calls", ""
    if status == 408 or status >= 500:
        return ProviderDown, "is overloaded" if status == 529 else "failed", ""
    hints = {404: "does the model exist, and is the endpoint's base_url right?", 413: "the request is too long"}
    return RequestRefused, "refused the request", hints.get(status, "is the endpoint's base_url right?" if status < 400 else "")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds to wait, from ``retry-after-ms`` or ``retry-after`` (seconds or an HTTP date); names in lower case.

    A date counts from the response's own ``date``, so that a wrong clock here does not matter.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    then = _moment(value)
    if then is None:
        return None
    now = _moment(headers.get("date", ""))
    return max(0.0, then - (time.time() if now is None else now))


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return min(number, _LONGEST) if number >= 0 and math.isfinite(number) else None


def _moment(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        # What email.utils raises for a malformed date has changed between Python versions.
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
