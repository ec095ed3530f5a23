"""OpenAI's Responses API, as a client has it: the other API of the protocol, chosen per endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...catalog.models import ModelFacts
from ...chat import Reply, Request, Stop, Usage
from ...errors import InputError, MalformedReply, ProviderDown, ProviderError
from .failures import response_error, stream_error
from .fields import at, bearer, check_turns, count, decode_reply, max_output, mended, settings
from .openai import OpenAIStream, cache_fields, checked_plan, malformed, tool_call
from .protocol import CachePlan
from .schemas import is_wrapped, openai_structure, unwrap
from .web_search import check_openai, openai_sources, openai_tool, web_search

PARAMETERS = ("temperature", "top_p", "effort", "verbosity", "service_tier", "store", "safety_identifier")
"""What it takes besides the output limit, by our names: it has no ``seed``, no ``stop`` and no penalties."""

LEAST_OUTPUT = 16
"""The smallest ``max_output_tokens`` that OpenAI takes here ("integer below minimum value. Expected a value >= 16")."""

STOPS: Mapping[str, Stop] = {"max_output_tokens": "length", "content_filter": "filtered"}
"""Why a response is incomplete."""

_INSIDE = {"effort": ("reasoning", "effort"), "verbosity": ("text", "verbosity")}
_MADE = frozenset({"input", "instructions", "reasoning", "text", "prompt_cache_key", "prompt_cache_options"})
"""Fields that are made from the request and are no parameters, besides those of every protocol."""

_REFUSAL = "response.refusal.delta"
_DELTAS = frozenset({"response.output_text.delta", _REFUSAL})
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


class OpenAIResponses:
    """The codec."""

    name = "openai"
    path = "/responses"
    models_path = "/models"

    def headers(self, api_key: str) -> dict[str, str]:
        return bearer(api_key)

    def body(
        self, request: Request, *, stream: bool, facts: ModelFacts, foreign: bool = False, cache: CachePlan | None = None
    ) -> dict[str, Any]:
        check_turns(request)
        marks = facts.cache == "explicit" and not foreign
        plan = checked_plan(request, facts, cache) if marks else None
        body: dict[str, Any] = {
            "model": request.model.partition("/")[2],
            **_conversation(request, plan),
            "max_output_tokens": _max_output(request, facts, foreign),
        }
        for name, value in settings(request, PARAMETERS, facts, foreign):
            if name in _MADE:
                raise InputError(f"{request.model} does not take the parameter {name}: it is made from the prompt")
            section, key = _INSIDE.get(name, ("", name))
            (body.setdefault(section, {}) if section else body)[key] = value
        structure = openai_structure(request.schema) if facts.structured else None
        if structure is not None:
            form = {"type": "json_schema", "name": "answer", "strict": structure.strict, "schema": structure.schema}
            body.setdefault("text", {})["format"] = form
        search = web_search(request, stream=stream, foreign=foreign)
        if search is not None:
            body |= {"tools": [openai_tool(search)], "max_tool_calls": search.most}
        if not foreign:
            # Nothing here refers to an earlier response, and the default is to keep each one for at least 30 days.
            body.setdefault("store", False)
        if marks:
            body |= cache_fields(request, plan)
        if stream:
            body["stream"] = True
        return body

    def reply(self, data: bytes, request: Request, *, request_id: str = "") -> Reply:
        provider = request.endpoint
        value = decode_reply(data, provider, request_id)
        if value.get("error"):
            raise stream_error(value, provider=provider, request_id=request_id)
        if not isinstance(value.get("output"), list):
            raise malformed("a response without output in it", provider, request_id, data)
        stop = _stop(value, provider, request_id)
        searched = web_search(request) is not None
        said = _said(value["output"], provider, request_id, searched=searched)
        text = mended(said.text)
        if said.refused:
            stop = "refused"
        elif is_wrapped(request.schema):
            text = unwrap(text)
        if searched and stop == "end":
            check_openai(value["output"], request, request_id)
        usage = _usage(value.get("usage"))
        return Reply(text=text, model=request.model, stop=stop, usage=usage, request_id=request_id, sources=said.sources)

    def stream(self, request: Request, *, request_id: str = "") -> ResponsesStream:
        return ResponsesStream(request, request_id)

    def error(self, status: int, headers: Mapping[str, str], data: bytes, *, provider: str = "") -> ProviderError:
        return response_error(status, headers, data, provider=provider or self.name, request_id=self.request_id(headers))

    def request_id(self, headers: Mapping[str, str]) -> str:
        lower = {name.lower(): value for name, value in headers.items()}
        return lower.get("x-request-id", "")


def _conversation(request: Request, plan: CachePlan | None) -> dict[str, Any]:
    turns: list[dict[str, Any]] = [{"role": one.role, "content": one.text} for one in request.turns]
    if not request.system:
        return {"input": turns}
    if plan is None:
        return {"instructions": request.system, "input": turns}
    # Instructions can't carry a breakpoint, a developer message can; both stand before the turns.
    part = {"type": "input_text", "text": request.system, "prompt_cache_breakpoint": {"mode": "explicit"}}
    return {"input": [{"role": "developer", "content": [part]}, *turns]}


def _max_output(request: Request, facts: ModelFacts, foreign: bool) -> int:
    limit = max_output(request, facts)
    if limit < LEAST_OUTPUT and not foreign:
        raise InputError(
            f"{request.model} takes max_tokens from {LEAST_OUTPUT} up by the Responses API, not {limit}",
            hint="raise max_tokens; a shorter answer costs nothing more",
        )
    return limit


class ResponsesStream(OpenAIStream):
    """Chunks of typed ``response.…`` events. Its proper end is the event that carries the whole response."""

    def __init__(self, request: Request, request_id: str) -> None:
        super().__init__(request, request_id)
        self._aside: set[int] = set()
        self._begun = False

    def _read(self, value: dict[str, Any]) -> str:
        """The text that one event adds."""
        kind = str(value.get("type"))
        if kind == "error":
            raise stream_error(value, provider=self._provider, request_id=self._id)
        if kind in _DELTAS:
            return self._delta(value, refusal=kind == _REFUSAL)
        if kind == "response.output_item.added":
            item = value.get("item")
            _check_item(item, self._provider, self._id)
            if _is_aside(item):
                self._aside.add(count(value.get("output_index")))
        elif kind in _ENDS:
            response = value.get("response")
            if not isinstance(response, dict):
                raise MalformedReply(f"the stream has an event {kind!r} without a response in it")
            return self._end({"status": kind.rpartition(".")[2], **response})
        return ""

    def _delta(self, value: Mapping[str, Any], *, refusal: bool) -> str:
        piece = value.get("delta")
        if not isinstance(piece, str) or count(value.get("output_index")) in self._aside:
            return ""
        self._begun = True
        self._refused = self._refused or refusal
        text = self._answer.add(piece)
        # The words of a refusal are in the reply; they are no piece of an answer.
        return "" if self._refused else text

    def _end(self, response: Mapping[str, Any]) -> str:
        stop = _stop(response, self._provider, self._id)
        text = ""
        if not self._begun:
            # A server may send the whole text at the end only.
            said = _said(response.get("output"), self._provider, self._id)
            self._refused = said.refused
            text = self._answer.add(said.text)
        self._usage = _usage(response.get("usage"))
        self._finish = "refused" if self._refused else stop
        self._done = True
        text += self._answer.end()
        return "" if self._refused else text


class _Said(NamedTuple):
    text: str
    refused: bool
    sources: tuple[str, ...] = ()


def _said(output: Any, provider: str, request_id: str, *, searched: bool = False) -> _Said:
    """The text of the answer, or of the refusal where there is one; reasoning and commentary are neither."""
    items = output if isinstance(output, list) else []
    for item in items:
        if not (searched and at(item, "type") == "web_search_call"):
            _check_item(item, provider, request_id)
    parts = [part for item in items if at(item, "type") == "message" and not _is_aside(item) for part in _parts(item)]
    refusal = _texts(parts, "refusal", "refusal")
    return _Said(refusal or _texts(parts, "output_text", "text"), bool(refusal), openai_sources(parts) if searched else ())


def _parts(item: Any) -> Iterable[Any]:
    content = at(item, "content")
    return content if isinstance(content, list) else ()


def _texts(parts: Iterable[Any], kind: str, key: str) -> str:
    return "".join(part[key] for part in parts if at(part, "type") == kind and isinstance(part.get(key), str))


def _is_aside(item: Any) -> bool:
    """Whether a message is the model's commentary on the way to its answer."""
    return bool(at(item, "phase") == "commentary")


def _check_item(item: Any, provider: str, request_id: str) -> None:
    kind = at(item, "type")
    if isinstance(kind, str) and kind.endswith("_call"):
        raise tool_call(provider, request_id)


def _stop(response: Mapping[str, Any], provider: str, request_id: str) -> Stop:
    status = response.get("status")
    if status == "completed":
        return "end"
    if status == "failed":
        raise stream_error({"error": response.get("error")}, provider=provider, request_id=request_id)
    if status == "cancelled":
        raise ProviderDown(f"{provider} cancelled its reply", provider=provider, request_id=request_id)
    reason = at(response, "incomplete_details", "reason") if status == "incomplete" else None
    stop = STOPS.get(reason) if isinstance(reason, str) else None
    if stop is None:
        what = f"is incomplete for the reason {reason!r}" if status == "incomplete" else f"has the status {status!r}"
        raise MalformedReply(f"{provider} sent a response that {what}", provider=provider, request_id=request_id)
    return stop


def _usage(usage: Any) -> Usage:
    cached = count(at(usage, "input_tokens_details", "cached_tokens"))
    written = count(at(usage, "input_tokens_details", "cache_write_tokens"))
    return Usage(
        # Some servers count the cached part beside the input instead of in it.
        input=max(count(at(usage, "input_tokens")), cached + written),
        output=count(at(usage, "output_tokens")),
        cached=cached,
        written=written,
        reasoning=count(at(usage, "output_tokens_details", "reasoning_tokens")),
    )
