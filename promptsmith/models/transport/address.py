"""Where an endpoint is: base URLs as people write them, and the proxy on the way there."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from ...errors import InputError

Protocol = Literal["openai", "anthropic"]

_ENDINGS = ("/chat/completions", "/completions", "/responses", "/messages")
_LOOKS_LIKE = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}


def base_url(text: str, protocol: Protocol) -> str:
    """``text`` as the protocol's paths are appended to it, without a slash at its end.

    ``openai``: ``/v1`` is appended to a URL without a path (a path may be a gateway's own and stays). ``anthropic``:
    a ``/v1`` at the end is taken away, for the protocol's paths begin with it. Raises :class:`InputError`.
    """
    parts = _split(text, protocol)
    path = parts.path.rstrip("/")
    for ending in _ENDINGS:
        if path.endswith(ending):
            raise InputError(f"the base URL {text!r} ends with {ending!r}, which is appended to it", hint=f"leave {ending!r} out")
    path = path.removesuffix("/v1") if protocol == "anthropic" else path or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _split(text: str, protocol: Protocol) -> SplitResult:
    hint = f"it looks like {_LOOKS_LIKE[protocol]}"
    if not text or re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise InputError(f"the base URL {text!r} is empty or has blanks in it", hint=hint)
    if "://" not in text:
        raise InputError(f"the base URL {text!r} does not say how to get there", hint=f"write http://{text} or https://{text}")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"the base URL {text!r} can't be read: {error}", hint=hint) from None
    if parts.scheme.lower() not in ("http", "https"):
        raise InputError(f"the base URL {text!r} begins with {parts.scheme}://; only http:// and https:// are known", hint=hint)
    if not parts.hostname:
        raise InputError(f"the base URL {text!r} names no host", hint=hint)
    if parts.username is not None or parts.password is not None:
        # Not repeated in the message: it would put the password into logs.
        raise InputError("the base URL has a user or password in it", hint="name the key's variable in api_key_env instead")
    if parts.query or parts.fragment:
        raise InputError(f"the base URL {text!r} has a query or fragment, which calls can't carry", hint=hint)
    return parts


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for ``url`` (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``), or ``None``.

    Raises :class:`InputError` for a proxy of a kind that can't be used.
    """
    from urllib.request import getproxies, proxy_bypass  # 20 ms; an aiohttp user has it loaded already

    parts = urlsplit(url)
    found = getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    scheme = proxy.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise InputError(
            f"the environment names a {scheme} proxy for {parts.scheme}:// addresses, which is not supported",
            hint=f"name an http proxy in {parts.scheme.upper()}_PROXY, or except the host in NO_PROXY",
        )
    return proxy
