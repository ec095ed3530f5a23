"""Pages of other sites: which may call (Fetch standard, 3.2 "CORS protocol")."""

from __future__ import annotations

from urllib.parse import urlsplit

PREFLIGHT = {
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "authorization, content-type, x-api-key, anthropic-version, x-promptsmith-sticky",
    "access-control-max-age": "600",
}


def headers(origin: str) -> dict[str, str]:
    """What lets a page of ``origin`` read an answer."""
    return {"access-control-allow-origin": origin, "access-control-expose-headers": "*", "vary": "origin"}


def is_local(host: str) -> bool:
    """Whether a ``Host`` header names this machine. Any other name may be a stranger's that was pointed here (DNS rebinding)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.startswith("127.") or name == "::1"


def same(origin: str, host: str) -> bool:
    """Whether a page of ``origin`` came from this very service, as the request's ``host`` names it."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
