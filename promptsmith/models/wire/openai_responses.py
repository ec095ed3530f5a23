"""OpenAI's Responses API: the other API of its protocol. As a server it keeps no response that a later request could name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from ...catalog.models import ModelFacts
from ...chat import Chunk, Reply, Request, Stop, Usage
from ...errors import InputError, MalformedReply, ModelError, ProviderDown, ProviderError
from .failures import response_error, stream_error
from .fields import (
    Wanted,
    at,
    bearer,
    check_turns,
    count,
    decode_reply,
    encode,
    fitting,
    header,
    max_output,
    mended,
    settings,
    text_in,
    tidy,
)
from .openai import (
    FEATURES,
    Features,
    OpenAIStream,
    cache_fields,
    checked_plan,
    conversation,
    error_body,
    malformed,
    refuses,
    tool_call,
    wanted_schema,
    wanted_user,
)
from .protocol import CachePlan, Incoming
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
    reply_ids = "resp_"
    models_path = "/models"

    def headers(self, api_key: str) -> dict[str, str]:
        return bearer(api_key)

    # --- as a client ---

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

    def fitted(self, request: Request, *, facts: ModelFacts, foreign: bool = False) -> Request:
        return fitting(request, PARAMETERS, facts, foreign)

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
        return header(headers, "x-request-id")

    # --- as a server ---

    def read_request(self, data: bytes) -> Incoming:
        wanted = Wanted(data)
        model = wanted.need("model", str, "a model's name")
        instructions = wanted.take("instructions", str, "a text")
        system, turns = conversation(wanted, _items_in(wanted), _TEXT_PARTS)
        parameters = wanted.scalars({"max_output_tokens": "max_tokens"} | {name: name for name in _SCALARS})
        sections = {name: wanted.section(name, read) for name, read in (("reasoning", ("effort",)), ("text", ("verbosity", "format")))}
        for name, (section, key) in _INSIDE.items():
            value = text_in(sections[section], key, section)
            if value is not None:
                parameters[name] = value
        included = wanted.take("include", list, "a list of texts")
        if included and all(item in _NOTHING for item in included):
            wanted.leave("include")
        elif included:
            wanted.unsupported.append("include")
        form = sections["text"].get("format") or {}
        if not isinstance(form, dict):
            raise InputError("text.format must be an object")
        return wanted.incoming(
            FEATURES | _FEATURES,
            model=model,
            system="\n\n".join(filter(None, (instructions, *system))),
            turns=turns,
            parameters=parameters,
            schema=wanted_schema(wanted, form, ("schema",), "text.format"),
            user=wanted_user(wanted, parameters),
            metadata=wanted.texts("metadata"),
        )

    def write_reply(self, reply: Reply, *, model: str, id: str, created: int = 0, schema: str = "") -> bytes:
        refused = refuses(reply)
        status, reason = _ended(reply, refused)
        item = _item(id, [_part(reply.text, refused)], status)
        return encode(_whole(_response(model, id, created, schema), status, reason, [item], reply.usage))

    def writer(self, *, model: str, id: str, created: int = 0, usage: bool = True, schema: str = "") -> ResponsesWriter:  # noqa: ARG002
        return ResponsesWriter(model, id, created, schema)

    def write_error(self, status: int, message: str, *, code: str = "", request_id: str = "") -> bytes:  # noqa: ARG002  # it goes in a header
        return encode(error_body(status, message, code))


# --- client side ------------------------------------------------------------------------------------------


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


# --- server side ------------------------------------------------------------------------------------------

_SCALARS = tuple(name for name in PARAMETERS if name not in _INSIDE and name != "store")
"""``store`` is ignored: nothing is kept here whatever it says, which the answer tells."""

_WRITTEN: Mapping[str, str] = {"length": "max_output_tokens", "refused": "content_filter", "filtered": "content_filter"}

_TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}

_NOTHING = ("reasoning.encrypted_content",)
"""What a client may ask to have included, and there is none of it here."""

_FEATURES: Features = {
    "previous_response_id": bool,
    "conversation": bool,
    "background": bool,
    "prompt": bool,
}


def _items_in(wanted: Wanted) -> Iterator[tuple[str, Any]]:
    """The messages of the input, each with where it stands; other items are noted as ignored or unsupported."""
    given = wanted.take("input", (str, list), "a text or a list of items")
    if given is None:
        raise InputError("input is missing; it must be a text or a list of items")
    if isinstance(given, str):
        yield "input", {"role": "user", "content": given}
        return
    for place, item in enumerate(given):
        kind = at(item, "type")
        if kind == "reasoning":
            wanted.leave("input.reasoning")  # of an earlier answer, which its model goes on from without
        elif isinstance(kind, str) and kind != "message":
            wanted.unsupported.append(f"{tidy(kind, 40)} item (input[{place}])")
        else:
            yield f"input[{place}]", item


def _ended(reply: Reply, refused: bool) -> tuple[str, str]:
    """The status of a response, and why it is incomplete."""
    if refused or reply.stop == "end":
        return "completed", ""
    reason = _WRITTEN.get(reply.stop)
    if reason is None:
        raise ModelError(f"a reply that was {reply.stop} can't be passed on as a whole one")
    return "incomplete", reason


def _response(model: str, id: str, created: int, schema: str) -> dict[str, Any]:
    """A response that has only begun."""
    # Clients parse a text where the response says that it is JSON.
    form = {"type": "json_schema", "name": "answer", "schema": msgspec.Raw(schema.encode())} if schema else {"type": "text"}
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": False,
        "temperature": None,
        "text": {"format": form},
        "tool_choice": "none",
        "tools": [],
        "top_p": None,
        "background": False,
        "previous_response_id": None,
        "store": False,
        "usage": None,
    }


def _whole(response: Mapping[str, Any], status: str, reason: str, output: list[Any], usage: Usage) -> dict[str, Any]:
    details = {"reason": reason} if reason else None
    return {**response, "status": status, "incomplete_details": details, "output": output, "usage": _written_usage(usage)}


def _item(id: str, content: list[Any], status: str) -> dict[str, Any]:
    return {"id": f"msg_{id.removeprefix('resp_')}", "type": "message", "status": status, "role": "assistant", "content": content}


def _part(text: str, refused: bool = False) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text} if refused else {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _written_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.written},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


class ResponsesWriter:
    """A reply as the numbered events of a response with one message of one part, ended by the event with the whole response."""

    def __init__(self, model: str, id: str, created: int, schema: str) -> None:
        self._response = _response(model, id, created, schema)
        self._place = {"item_id": _item(id, [], "")["id"], "output_index": 0, "content_index": 0}
        self._number = 0
        self._parts: list[str] = []

    def start(self) -> bytes:
        return (
            self._event("response.created", response=self._response)
            + self._event("response.in_progress", response=self._response)
            + self._event("response.output_item.added", output_index=0, item=_item(self._response["id"], [], "in_progress"))
        )

    def chunk(self, chunk: Chunk) -> bytes:
        text = self._delta(chunk.text) if chunk.text else b""
        return text if chunk.reply is None else text + self._end(chunk.reply)

    def error(self, status: int, message: str, *, code: str = "") -> bytes:
        error = error_body(status, message, code)["error"]
        kind = "rate_limit_exceeded" if status == 429 else "server_error"
        failed = {**self._response, "status": "failed", "error": {"code": kind, "message": error["message"]}}
        # What this writer has not begun is a provider's response, whose id the client knows and we don't.
        told = self._event("response.failed", response=failed) if self._number else b""
        # The SDK raises on an event with an error inside it and on no other; its own type for the event has the same
        # facts at the top.
        facts = {"code": error["code"] or kind, "message": error["message"], "param": None, "error": error}
        return told + self._event("error", **facts)

    def _delta(self, text: str, refused: bool = False) -> bytes:
        begun = b"" if self._parts else self._begin(refused)
        self._parts.append(text)
        return begun + self._of_part("delta", refused, delta=text)

    def _begin(self, refused: bool) -> bytes:
        # The part begins with its first words, as only these tell whether it is a refusal.
        return self._event("response.content_part.added", **self._place, part=_part("", refused))

    def _end(self, reply: Reply) -> bytes:
        refused = refuses(reply) and not self._parts
        status, reason = _ended(reply, refused)
        late = b"" if self._parts else self._delta(reply.text, refused) if reply.text else self._begin(refused)
        part = _part("".join(self._parts), refused)
        item = _item(self._response["id"], [part], status)
        key = "refusal" if refused else "text"
        return (
            late
            + self._of_part("done", refused, **{key: part[key]})
            + self._event("response.content_part.done", **self._place, part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._event(f"response.{status}", response=_whole(self._response, status, reason, [item], reply.usage))
        )

    def _of_part(self, what: str, refused: bool, **fields: Any) -> bytes:
        if refused:
            return self._event(f"response.refusal.{what}", **self._place, **fields)
        return self._event(f"response.output_text.{what}", **self._place, **fields, logprobs=[])

    def _event(self, kind: str, **fields: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + encode(value) + b"\n\n"
