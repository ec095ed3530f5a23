"""Anthropic's messages, in the version that its SDK 2.x speaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...catalog.models import ModelFacts
from ...chat import Chunk, Reply, Request, Stop, Usage
from ...errors import InputError, MalformedReply, ModelError, ProviderDown, ProviderError
from .failures import response_error, stream_error
from .fields import (
    TEXT_PARTS,
    Answer,
    Wanted,
    asks_nothing,
    at,
    bearer,
    check_turns,
    count,
    decode,
    decode_reply,
    encode,
    fitting,
    header,
    max_output,
    mended,
    settings,
    summary,
    text_in,
    tidy,
    turn,
)
from .protocol import CachePlan, Incoming
from .schemas import anthropic_structure, is_wrapped, unwrap
from .sse import Event, EventParser
from .web_search import anthropic_sources, anthropic_tool, check_anthropic, paused, web_search

VERSION = "2026-10-21"
"""``anthropic-version``, as in ``anthropic/_constants.py`` of SDK 2.11."""

PARAMETERS = ("effort", "thinking", "stop", "service_tier", "speed", "inference_geo")
"""What its API takes besides the output limit, by our names."""

_NEVER = ("temperature", "top_p", "top_k")
_STOPS: Mapping[str, Stop] = {
    "end_turn": "end",
    "stop_sequence": "end",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refused",
}
_WRITTEN: Mapping[str, str] = {"end": "end_turn", "length": "max_tokens", "refused": "refusal", "filtered": "refusal"}
_ERROR_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Anthropic:
    """The codec."""

    name = "anthropic"
    path = "/v1/messages"
    reply_ids = "msg_"
    models_path = "/v1/models?limit=1000"

    def headers(self, api_key: str) -> dict[str, str]:
        return {**bearer(api_key), "anthropic-version": VERSION}

    # --- as a client ---

    def body(
        self, request: Request, *, stream: bool, facts: ModelFacts, foreign: bool = False, cache: CachePlan | None = None
    ) -> dict[str, Any]:
        check_turns(request)
        _refuse_sampling(request, facts)
        body: dict[str, Any] = {"model": request.model.partition("/")[2], "max_tokens": max_output(request, facts)}
        if request.system:
            body["system"] = _system(request, facts, None if foreign else cache)
        body["messages"] = [{"role": one.role, "content": one.text} for one in request.turns]
        output: dict[str, Any] = {}
        for name, value in settings(request, PARAMETERS, facts, foreign):
            if name == "effort":
                output["effort"] = value
            elif name == "thinking":
                body["thinking"] = _thinking(request, bool(value), facts)
            elif name == "stop":
                body["stop_sequences"] = [value]
            elif name not in _NEVER:
                body[name] = value
        structure = anthropic_structure(request.schema) if facts.structured else None
        if structure is not None:
            output["format"] = {"type": "json_schema", "schema": structure.schema}
        if output:
            body["output_config"] = output
        search = web_search(request, stream=stream, foreign=foreign)
        if search is not None:
            body["tools"] = [anthropic_tool(search)]
        if stream:
            body["stream"] = True
        return body

    def fitted(self, request: Request, *, facts: ModelFacts, foreign: bool = False) -> Request:
        return fitting(request, PARAMETERS, facts, foreign)

    def reply(self, data: bytes, request: Request, *, request_id: str = "") -> Reply:
        provider = request.endpoint
        value = decode_reply(data, provider, request_id)
        if value.get("type") == "error" or (value.get("error") and "content" not in value):
            raise stream_error(value, provider=provider, request_id=request_id)
        blocks = value.get("content")
        if not isinstance(blocks, list):
            raise MalformedReply(f"{provider} sent a reply without content: {summary(data)}", provider=provider, request_id=request_id)
        searched = web_search(request) is not None
        texts = [_block_text(block, provider, request_id, searched=searched) for block in blocks]
        if searched and value.get("stop_reason") == "pause_turn":
            raise paused(request, request_id)
        stop = _stop(value.get("stop_reason"), provider, request_id)
        if searched and stop == "end":
            check_anthropic(blocks, request, request_id)
        text = mended("".join(texts))
        if is_wrapped(request.schema):
            text = unwrap(text)
        usage = _Counts().take(value.get("usage")).usage()
        sources = anthropic_sources(blocks) if searched else ()
        return Reply(text=text, model=request.model, stop=stop, usage=usage, request_id=request_id, sources=sources)

    def stream(self, request: Request, *, request_id: str = "") -> AnthropicStream:
        return AnthropicStream(request, request_id)

    def error(self, status: int, headers: Mapping[str, str], data: bytes, *, provider: str = "") -> ProviderError:
        return response_error(status, headers, data, provider=provider or self.name, request_id=self.request_id(headers))

    def request_id(self, headers: Mapping[str, str]) -> str:
        return header(headers, "request-id") or header(headers, "x-request-id")

    # --- as a server ---

    def read_request(self, data: bytes) -> Incoming:
        return _read(data, limited=True)

    def write_reply(self, reply: Reply, *, model: str, id: str, created: int = 0, schema: str = "") -> bytes:  # noqa: ARG002  # not told
        content = [{"type": "text", "text": reply.text, "citations": None}]
        return encode({**_message(model, id), "content": content, "stop_reason": _finish(reply), "usage": _written_usage(reply.usage)})

    def writer(self, *, model: str, id: str, created: int = 0, usage: bool = True, schema: str = "") -> AnthropicWriter:  # noqa: ARG002
        return AnthropicWriter(model, id)

    def write_error(self, status: int, message: str, *, code: str = "", request_id: str = "") -> bytes:
        return encode(_error_body(status, message, code, request_id))


# --- client side ------------------------------------------------------------------------------------------


def _refuse_sampling(request: Request, facts: ModelFacts) -> None:
    for name in _NEVER:
        value = request.parameters.get(name)
        if value is None or asks_nothing(name, value, facts):
            continue
        raise InputError(
            f"{request.model} does not take the parameter {name}: Anthropic's API has no sampling parameters since {VERSION}",
            hint="leave it out; effort steers how much the model thinks",
        )


def _system(request: Request, facts: ModelFacts, plan: CachePlan | None) -> str | list[dict[str, Any]]:
    if plan is None or not plan.mark or facts.cache != "breakpoints":
        return request.system
    if plan.ttl and plan.ttl not in facts.ttls:
        raise InputError(f"{request.model} keeps a cached prefix for {' or '.join(facts.ttls)}, not {plan.ttl!r}")
    control = {"type": "ephemeral", "ttl": plan.ttl} if plan.ttl else {"type": "ephemeral"}
    return [{"type": "text", "text": request.system, "cache_control": control}]


def _thinking(request: Request, wanted: bool, facts: ModelFacts) -> dict[str, str]:
    if wanted:
        return {"type": "adaptive"}
    if facts.thinking_always_on:
        raise InputError(f"the thinking of {request.model} can't be turned off", hint="leave thinking out, or set effort: low")
    return {"type": "disabled"}


class _Counts:
    """Usage as it comes in: at the start of a stream, and again, cumulative, at its end."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._reasoning = 0

    def take(self, usage: Any) -> _Counts:
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            value = at(usage, name)
            if value is not None:
                self._counts[name] = count(value)
        self._reasoning = count(at(usage, "output_tokens_details", "thinking_tokens")) or self._reasoning
        return self

    def usage(self) -> Usage:
        cached = self._counts.get("cache_read_input_tokens", 0)
        written = self._counts.get("cache_creation_input_tokens", 0)
        return Usage(
            # input_tokens counts only what was neither read from the cache nor written to it.
            input=self._counts.get("input_tokens", 0) + cached + written,
            output=self._counts.get("output_tokens", 0),
            cached=cached,
            written=written,
            reasoning=self._reasoning,
        )


class AnthropicStream:
    """Chunks of message events. Its proper end is a stop reason and then ``message_stop``."""

    def __init__(self, request: Request, request_id: str) -> None:
        self._request, self._id = request, request_id
        self._events = EventParser()
        self._answer = Answer(is_wrapped(request.schema))
        self._finish: Stop | None = None
        self._done = False
        self._counts = _Counts()

    @property
    def done(self) -> bool:
        return self._done

    def feed(self, data: bytes) -> list[Chunk]:
        try:
            return self._take(self._events.feed(data))
        except MalformedReply as error:
            raise MalformedReply(f"{self._provider}: {error.message}", provider=self._provider, request_id=self._id) from None

    def close(self) -> Reply:
        try:
            self._take(self._events.close())
        except MalformedReply:
            # What is left over at the end of a connection is half an event.
            pass
        if not self._done or self._finish is None:
            what = "ended without saying why it stopped" if self._done else "broke off before its end"
            raise ProviderDown(f"the reply of {self._provider} {what}", provider=self._provider, request_id=self._id)
        return self._reply(self._finish)

    def so_far(self) -> Reply:
        return self._reply("aborted")

    @property
    def _provider(self) -> str:
        return self._request.endpoint

    def _reply(self, stop: Stop) -> Reply:
        usage = self._counts.usage()
        return Reply(text=self._answer.text, model=self._request.model, stop=stop, usage=usage, request_id=self._id)

    def _take(self, events: Iterable[Event]) -> list[Chunk]:
        chunks: list[Chunk] = []
        for event in () if self._done else events:
            if not event.data or event.name == "ping":
                continue
            if text := self._read(event.data):
                chunks.append(Chunk(text))
            if self._done:
                break  # whatever follows is no part of the reply
        return chunks

    def _read(self, data: str) -> str:
        """The text that one event adds."""
        try:
            value = decode(data.encode())
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise MalformedReply(f"the stream has an event that is no JSON object: {tidy(data, 80)!r}")
        kind = value.get("type")
        if kind == "error" or (kind is None and value.get("error")):
            raise stream_error(value, provider=self._provider, request_id=self._id)
        if kind == "message_start":
            self._counts.take(at(value, "message", "usage"))
        elif kind == "content_block_start":
            return self._answer.add(_block_text(value.get("content_block"), self._provider, self._id))
        elif kind == "content_block_delta":
            words = at(value, "delta", "text") if at(value, "delta", "type") == "text_delta" else None
            return self._answer.add(words) if isinstance(words, str) else ""
        elif kind == "message_delta":
            return self._end(value)
        elif kind == "message_stop":
            self._done = True
        # Kinds that are not known here may be added by the provider at any time.
        return ""

    def _end(self, value: Mapping[str, Any]) -> str:
        self._counts.take(value.get("usage"))
        reason = at(value, "delta", "stop_reason")
        if reason is None:
            return ""
        self._finish = _stop(reason, self._provider, self._id)
        return self._answer.end()


def _block_text(block: Any, provider: str, request_id: str, *, searched: bool = False) -> str:
    kind = at(block, "type")
    if kind == "text" and isinstance(text := block.get("text"), str):
        return text
    if searched and kind == "server_tool_use" and block.get("name") == "web_search":
        return "\n\n"  # what was said before a search and after it are not one sentence
    if kind in ("tool_use", "server_tool_use"):  # a list may be asked for in a tuple, not in a set
        raise MalformedReply(
            f"the model of {provider} answered with a tool call, which was not offered to it", provider=provider, request_id=request_id
        )
    return ""


def _stop(reason: Any, provider: str, request_id: str) -> Stop:
    stop = _STOPS.get(reason) if isinstance(reason, str) else None
    if stop is not None:
        return stop
    raise MalformedReply(f"{provider} sent a reply that stopped for the reason {reason!r}", provider=provider, request_id=request_id)


# --- server side ------------------------------------------------------------------------------------------

_FEATURES = {
    "tools": bool,
    "tool_choice": lambda value: at(value, "type") not in ("auto", "none"),
    "mcp_servers": bool,
    "container": bool,
}
"""Fields of a request that ask for something promptsmith does not do, when they say so."""

_PARTS = {**TEXT_PARTS, "thinking": "", "redacted_thinking": ""}
"""What an answer may hold that comes back in a later turn: its thoughts are of no use to another call."""


def read_count(data: bytes) -> Incoming:
    """What a client wants the tokens counted of: a request that needs no output limit. Raises :class:`InputError`."""
    return _read(data, limited=False)


def write_count(tokens: int) -> bytes:
    """The answer to a request that :func:`read_count` read: its input tokens."""
    return encode({"input_tokens": tokens})


def _read(data: bytes, *, limited: bool) -> Incoming:
    wanted = Wanted(data)
    model = wanted.need("model", str, "a model's name")
    parameters = wanted.scalars({"max_tokens": "max_tokens"})
    if limited and not parameters:
        raise InputError("max_tokens is missing; it must be a whole number")
    system = _wanted_system(wanted)
    turns = _conversation(wanted)
    parameters |= wanted.scalars({name: name for name in ("service_tier", "speed", "inference_geo", *_NEVER)})
    stop = wanted.one_of("stop_sequences")
    if stop is not None:
        parameters["stop"] = stop
    thinking = wanted.take("thinking", dict, "an object")
    if thinking is not None:
        parameters["thinking"] = thinking.get("type") != "disabled"
        wanted.pass_over("thinking", thinking, ("type",))
    output = wanted.section("output_config", ("effort", "format"))
    effort = text_in(output, "effort", "output_config")
    if effort is not None:
        parameters["effort"] = effort
    metadata = wanted.texts("metadata")
    return wanted.incoming(
        _FEATURES,
        model=model,
        system=system,
        turns=turns,
        parameters=parameters,
        schema=_wanted_schema(wanted, output),
        user=metadata.get("user_id", ""),
        metadata=metadata,
    )


def _wanted_system(wanted: Wanted) -> str:
    system = wanted.take("system", (str, list), "a text or a list of text blocks")
    return "" if system is None else wanted.content(system, "system")


def _conversation(wanted: Wanted) -> tuple[Any, ...]:
    turns = []
    for place, message in enumerate(wanted.need("messages", list, "a list of messages")):
        where = f"messages[{place}]"
        role = at(message, "role")
        if role == "system":
            wanted.unsupported.append(f"a system message among the turns ({where})")
            continue
        if role not in ("user", "assistant"):
            raise InputError(f"{where}.role must be user or assistant")
        turns.append(turn(role, wanted.content(message.get("content"), f"{where}.content", _PARTS)))
        wanted.pass_over(where, message, ("role", "content"))
    return tuple(turns)


def _wanted_schema(wanted: Wanted, output: Mapping[str, Any]) -> str:
    form = output.get("format")
    if form is None:
        return ""
    schema = at(form, "schema")
    if at(form, "type") != "json_schema" or not isinstance(schema, dict):
        raise InputError("output_config.format must be of type json_schema with a schema")
    wanted.leave("output_config.format")  # where it is not refused, the prompt's contract stands in its place
    return encode(schema).decode()


def _finish(reply: Reply) -> str:
    finish = _WRITTEN.get(reply.stop)
    if finish is None:
        raise ModelError(f"a reply that was {reply.stop} can't be passed on as a whole one")
    return finish


def _message(model: str, id: str) -> dict[str, Any]:
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _written_usage(Usage()),
    }


def _written_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": max(0, usage.input - usage.cached - usage.written),
        "cache_creation_input_tokens": usage.written,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    }


def _error_body(status: int, message: str, code: str, request_id: str = "") -> dict[str, Any]:
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    error: dict[str, Any] = {"type": kind, "message": mended(message)}
    if code:
        error["details"] = {"error_code": code}
    return {"type": "error", "error": error, "request_id": request_id or None}


class AnthropicWriter:
    """A reply as message events with one text block."""

    def __init__(self, model: str, id: str) -> None:
        self._model, self._id = model, id
        self._begun = False

    def start(self) -> bytes:
        block = {"type": "text", "text": "", "citations": None}
        return _event("message_start", message=_message(self._model, self._id)) + _event(
            "content_block_start", index=0, content_block=block
        )

    def chunk(self, chunk: Chunk) -> bytes:
        # What came in no pieces, as the words of a refusal do, comes with the reply alone.
        late = chunk.reply.text if chunk.reply is not None and not self._begun else ""
        words = chunk.text or late
        text = _event("content_block_delta", index=0, delta={"type": "text_delta", "text": words}) if words else b""
        self._begun = self._begun or bool(text)
        if chunk.reply is None:
            return text
        delta = {"stop_reason": _finish(chunk.reply), "stop_sequence": None}
        usage = _written_usage(chunk.reply.usage)
        return text + _event("content_block_stop", index=0) + _event("message_delta", delta=delta, usage=usage) + _event("message_stop")

    def error(self, status: int, message: str, *, code: str = "") -> bytes:
        return _named("error", _error_body(status, message, code))


def _event(kind: str, **fields: Any) -> bytes:
    return _named(kind, {"type": kind, **fields})


def _named(name: str, value: Mapping[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + encode(value) + b"\n\n"
