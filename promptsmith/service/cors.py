"""Pages of other sites: which may call (Fetch standard, 3.2 "CORS protocol")."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urlsplit

_LOOPBACK = re.compile(r"127(\.[0-9]{1,3}){3}")
"""The address itself: ``127.0.0.1.example.com`` is somebody's name."""

PREFLIGHT = {
    "access-control-allow-methods": "GET, POST",
    # The SDKs send headers of their own from a browser too; the wildcard covers all but authorization.
    "access-control-allow-headers": "authorization, content-type, x-api-key, *",
    "access-control-max-age": "600",
}


def headers(origin: str) -> dict[str, str]:
    """What lets a page of ``origin`` read an answer."""
    return {"access-control-allow-origin": origin, "access-control-expose-headers": "*", "vary": "origin"}


@lru_cache(maxsize=64)  # the same few names come again and again
def is_local(host: str) -> bool:
    """Whether a ``Host`` header names this machine. Any other name may be a stranger's that was pointed here (DNS rebinding)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in {"localhost", "::1"} or _LOOPBACK.fullmatch(name) is not None


def same(origin: str, host: str) -> bool:
    """Whether a page of ``origin`` came from this very service, as the request's ``host`` names it."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
