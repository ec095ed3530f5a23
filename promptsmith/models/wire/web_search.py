"""The providers' own web search, which a request turns on by its options: what is asked for, and what an answer cites.

Anthropic's messages have it as the server tool ``web_search_20250305``, OpenAI's Responses as the hosted tool ``web_search``; fields
as in the types of their SDKs (``web_search_tool_20250305_param.py``, ``responses/web_search_tool_param.py``). Chat completions have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ...chat import WEB_SEARCH, WEB_SEARCH_DOMAINS, Request
from ...errors import InputError, MalformedReply, ProviderError
from .fields import at, mended, tidy

_PASSING = frozenset({"too_many_requests", "unavailable"})
"""Anthropic's codes of searches that may do better later."""


class WebSearch(NamedTuple):
    """What a request asks for."""

    most: int
    """Searches."""
    domains: tuple[str, ...]
    """Empty: any."""


def web_search(request: Request, *, stream: bool = False, foreign: bool = False) -> WebSearch | None:
    """What ``request`` asks of its provider's web search; ``None``: nothing.

    Raises :class:`InputError` where that can't be had: in a stream, or at a server that is not the protocol's owner.
    """
    most = request.options.get(WEB_SEARCH)
    if most is None:
        return None
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise InputError(f"the option {WEB_SEARCH} must be a whole number from 1 up, not {most!r}")
    if stream:
        raise InputError("an answer with web search is not streamed: its sources are known at its end")
    if foreign:
        raise InputError(
            f"{request.endpoint} is another server than its protocol's owner, and nothing says that it has web search",
            hint=f"set foreign = false in [endpoints.{request.endpoint}] when it passes web search on to the owner",
        )
    return WebSearch(most, tuple(str(request.options.get(WEB_SEARCH_DOMAINS) or "").split()))


def anthropic_tool(search: WebSearch) -> dict[str, Any]:
    """The search among the tools of a message."""
    tool: dict[str, Any] = {"type": "web_search_20250305", "name": "web_search", "max_uses": search.most}
    return tool | ({"allowed_domains": list(search.domains)} if search.domains else {})


def openai_tool(search: WebSearch) -> dict[str, Any]:
    """The search among the tools of a response."""
    tool: dict[str, Any] = {"type": "web_search"}
    return tool | ({"filters": {"allowed_domains": list(search.domains)}} if search.domains else {})


def anthropic_sources(blocks: Iterable[Any]) -> tuple[str, ...]:
    """URLs that an answer's text blocks cite."""
    cited = [one for block in blocks if at(block, "type") == "text" for one in _list(at(block, "citations"))]
    return _distinct(at(one, "url") for one in cited if at(one, "type") == "web_search_result_location")


def openai_sources(parts: Iterable[Any]) -> tuple[str, ...]:
    """URLs that an answer's text parts cite."""
    cited = [one for part in parts for one in _list(at(part, "annotations"))]
    return _distinct(at(one, "url") for one in cited if at(one, "type") == "url_citation")


def check_anthropic(blocks: Iterable[Any], request: Request, request_id: str) -> None:
    """Nothing. Raises :class:`ProviderError` when no search of an answer found its way to a result."""
    results = [block.get("content") for block in blocks if at(block, "type") == "web_search_tool_result"]
    if not results:
        raise _not_searched(request, request_id)
    codes = [str(at(one, "error_code") or "") for one in results]
    if all(codes):
        raise _failed(request, request_id, codes[-1], retryable=codes[-1] in _PASSING)


def check_openai(items: Iterable[Any], request: Request, request_id: str) -> None:
    """Nothing. Raises :class:`ProviderError` when no search of an answer found its way to a result."""
    states = [item.get("status") for item in items if at(item, "type") == "web_search_call"]
    if not states:
        raise _not_searched(request, request_id)
    if all(state == "failed" for state in states):
        raise _failed(request, request_id, "failed", retryable=True)


def paused(request: Request, request_id: str) -> ProviderError:
    """The error for a turn that Anthropic ended in the middle of its searches."""
    return ProviderError(
        f"{request.model} paused its turn in the middle of its searches",
        provider=request.endpoint,
        request_id=request_id,
        hint="allow fewer searches in one call",
    )


def _not_searched(request: Request, request_id: str) -> MalformedReply:
    return MalformedReply(
        f"{request.model} answered without searching the web",
        provider=request.endpoint,
        request_id=request_id,
        hint="ask for something that is to be looked up, and say so",
    )


def _failed(request: Request, request_id: str, code: str, *, retryable: bool) -> ProviderError:
    return ProviderError(
        f"the web search of {request.model} failed: {tidy(code, 80)}",
        provider=request.endpoint,
        request_id=request_id,
        retryable=retryable,
        hint="try again later" if retryable else "what it says is about the query",
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _distinct(urls: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(mended(url) for url in urls if isinstance(url, str) and url))
