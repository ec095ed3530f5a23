"""OpenAI's chat completions, as its API and the many servers that speak it have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from ...catalog.models import ModelFacts
from ...chat import Chunk, Reply, Request, Stop, Turn, Usage
from ...errors import InputError, MalformedReply, ModelError, ProviderDown, ProviderError
from .failures import response_error, stream_error
from .fields import (
    TEXT_PARTS,
    Answer,
    Wanted,
    at,
    bearer,
    cache_key,
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
    tidy,
    turn,
)
from .protocol import CachePlan, Incoming
from .schemas import is_wrapped, openai_structure, unwrap
from .sse import Event, EventParser
from .web_search import web_search

PARAMETERS = (
    "temperature", "top_p", "effort", "verbosity", "seed", "stop", "frequency_penalty", "presence_penalty", "service_tier", "store",
    "safety_identifier",
)  # fmt: skip
"""What its API takes besides the output limit, by our names."""

_THEIRS = {"effort": "reasoning_effort"}

STOPS: Mapping[str, Stop] = {
    "stop": "end",
    "length": "length",
    "content_filter": "filtered",
    # Other servers' words for the same.
    "eos": "end",
    "eos_token": "end",
    "stop_sequence": "end",
    "end_turn": "end",
    "max_tokens": "length",
    "model_length": "length",
}
_WRITTEN: Mapping[str, str] = {"end": "stop", "length": "length", "refused": "content_filter", "filtered": "content_filter"}
_ERROR_TYPES: Mapping[int, str] = {429: "rate_limit_error", 401: "authentication_error", 403: "permission_error"}


class OpenAI:
    """The codec."""

    name = "openai"
    path = "/chat/completions"
    reply_ids = "chatcmpl-"
    models_path = "/models"

    def headers(self, api_key: str) -> dict[str, str]:
        return bearer(api_key)

    # --- as a client ---

    def body(
        self, request: Request, *, stream: bool, facts: ModelFacts, foreign: bool = False, cache: CachePlan | None = None
    ) -> dict[str, Any]:
        check_turns(request)
        if web_search(request, stream=stream, foreign=foreign):
            raise InputError(
                f"{request.model} is called by chat completions, which have no web search",
                hint=f'set api = "responses" in [endpoints.{request.endpoint}]',
            )
        marks = facts.cache == "explicit" and not foreign
        plan = checked_plan(request, facts, cache) if marks else None
        body: dict[str, Any] = {
            "model": request.model.partition("/")[2],
            "messages": _messages(request, "system" if foreign else facts.system_role, plan),
            "max_tokens" if foreign else facts.max_tokens_name: max_output(request, facts),
        }
        for name, value in settings(request, PARAMETERS, facts, foreign):
            body[_THEIRS.get(name, name)] = value
        structure = openai_structure(request.schema) if facts.structured else None
        if structure is not None:
            form = {"name": "answer", "strict": structure.strict, "schema": structure.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        if marks:
            body |= cache_fields(request, plan)
        if stream:
            body["stream"] = True
            if facts.stream_usage:
                body["stream_options"] = {"include_usage": True}
        return body

    def fitted(self, request: Request, *, facts: ModelFacts, foreign: bool = False) -> Request:
        return fitting(request, PARAMETERS, facts, foreign)

    def reply(self, data: bytes, request: Request, *, request_id: str = "") -> Reply:
        provider = request.endpoint
        value = decode_reply(data, provider, request_id)
        choices = value.get("choices")
        if not choices and value.get("error"):
            raise stream_error(value, provider=provider, request_id=request_id)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = at(choice, "message")
        if not isinstance(message, dict):
            raise malformed("a reply without a message in it", provider, request_id, data)
        _refuse_calls(message, provider, request_id)
        refusal = message.get("refusal")
        stop = _stop(at(choice, "finish_reason"), provider, request_id)
        text = mended(_content(message.get("content")))
        if isinstance(refusal, str) and refusal:
            text, stop = mended(refusal), "refused"
        elif is_wrapped(request.schema):
            text = unwrap(text)
        return Reply(text=text, model=request.model, stop=stop, usage=_usage(value.get("usage")), request_id=request_id)

    def stream(self, request: Request, *, request_id: str = "") -> OpenAIStream:
        return OpenAIStream(request, request_id)

    def error(self, status: int, headers: Mapping[str, str], data: bytes, *, provider: str = "") -> ProviderError:
        return response_error(status, headers, data, provider=provider or self.name, request_id=self.request_id(headers))

    def request_id(self, headers: Mapping[str, str]) -> str:
        return header(headers, "x-request-id")

    # --- as a server ---

    def read_request(self, data: bytes) -> Incoming:
        wanted = Wanted(data)
        model = wanted.need("model", str, "a model's name")
        system, turns = conversation(wanted, _messages_in(wanted), _TEXT_PARTS)
        limit = wanted.scalars({"max_tokens": "max_tokens"}) | wanted.scalars({"max_completion_tokens": "max_tokens"})
        parameters = limit | wanted.scalars({_THEIRS.get(name, name): name for name in PARAMETERS if name != "stop"})
        stop = wanted.one_of("stop")
        if stop is not None:
            parameters["stop"] = stop
        form = wanted.take("response_format", dict, "an object") or {}
        options = wanted.section("stream_options", ("include_usage",))
        return wanted.incoming(
            FEATURES | _FEATURES,
            model=model,
            system="\n\n".join(system),
            turns=turns,
            parameters=parameters,
            schema=wanted_schema(wanted, form, ("json_schema", "schema"), "response_format"),
            user=wanted_user(wanted, parameters),
            metadata=wanted.texts("metadata"),
            usage=bool(options.get("include_usage")),
        )

    def write_reply(self, reply: Reply, *, model: str, id: str, created: int = 0, schema: str = "") -> bytes:  # noqa: ARG002  # not told
        refused = refuses(reply)
        message = {"role": "assistant", "content": None if refused else reply.text, "refusal": reply.text if refused else None}
        return encode(
            {
                "id": id,
                "object": "chat.completion",
                "created": created,
                "model": model,
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply, refused)}],
                "usage": _written_usage(reply.usage),
            }
        )

    def writer(self, *, model: str, id: str, created: int = 0, usage: bool = True, schema: str = "") -> OpenAIWriter:  # noqa: ARG002
        return OpenAIWriter(model, id, created, usage)

    def write_error(self, status: int, message: str, *, code: str = "", request_id: str = "") -> bytes:  # noqa: ARG002  # it goes in a header
        return encode(error_body(status, message, code))


# --- client side ------------------------------------------------------------------------------------------


def _messages(request: Request, role: str, plan: CachePlan | None) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if request.system:
        content: str | list[dict[str, Any]] = request.system
        if plan is not None:
            content = [{"type": "text", "text": request.system, "prompt_cache_breakpoint": {"mode": "explicit"}}]
        messages.append({"role": role, "content": content})
    messages += ({"role": one.role, "content": one.text} for one in request.turns)
    return messages


def checked_plan(request: Request, facts: ModelFacts, cache: CachePlan | None) -> CachePlan | None:
    """The plan, ``None`` for one that marks nothing. Raises :class:`InputError` for a lifetime that the model does not have."""
    plan = cache if cache is not None and cache.mark else None
    if plan is not None and plan.ttl and plan.ttl not in facts.ttls:
        raise InputError(f"{request.model} keeps a cached prefix for {' or '.join(facts.ttls)}, not {plan.ttl!r}")
    return plan


def cache_fields(request: Request, plan: CachePlan | None) -> dict[str, Any]:
    """What is said of the provider's prompt cache besides the mark itself, alike in both of OpenAI's APIs."""
    # Without a mark the explicit mode stays: the default one would write the whole prompt, the user's text included, at
    # 1.25 times its price and never read it again.
    if plan is None or not request.system:
        return {"prompt_cache_options": {"mode": "explicit"}}
    options = {"mode": "explicit", "ttl": plan.ttl} if plan.ttl else {"mode": "explicit"}
    return {"prompt_cache_key": plan.key or cache_key(request), "prompt_cache_options": options}


class _PlainDelta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    content: str = ""
    role: str | None = None
    refusal: None = None


class _PlainChoice(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    delta: _PlainDelta
    index: Literal[0] = 0
    finish_reason: str | None = None
    logprobs: None = None


class _Plain(msgspec.Struct, gc=False):
    """The chunk that nearly all are: one piece of text, or the end, and nothing else that matters."""

    choices: tuple[_PlainChoice]
    usage: None = None
    error: None = None


_Tokens = Annotated[int, msgspec.Meta(ge=0)]


class _PlainInput(msgspec.Struct, gc=False):
    cached_tokens: _Tokens = 0
    cache_write_tokens: _Tokens = 0


class _PlainOutput(msgspec.Struct, gc=False):
    reasoning_tokens: _Tokens = 0


class _PlainUsage(msgspec.Struct, gc=False):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    prompt_tokens_details: _PlainInput | None = None
    completion_tokens_details: _PlainOutput | None = None


class _PlainClose(msgspec.Struct, gc=False):
    """The chunk behind the end, which holds the usage and nothing else that matters."""

    choices: Annotated[list[None], msgspec.Meta(max_length=0)]
    usage: _PlainUsage
    error: None = None


_plain = msgspec.json.Decoder(_Plain)
_plain_close = msgspec.json.Decoder(_PlainClose)
_EVENT = b"data: {"
_DONE = b"data: [DONE]\n\n"


class OpenAIStream:
    """Chunks of ``chat.completion.chunk`` objects. Its proper end is a finish reason and then ``[DONE]``."""

    def __init__(self, request: Request, request_id: str) -> None:
        self._request, self._id = request, request_id
        self._events = EventParser()
        self._answer = Answer(is_wrapped(request.schema))
        self._finish: Stop | None = None
        self._refused = False
        self._done = False
        self._usage = Usage()

    @property
    def done(self) -> bool:
        return self._done

    def feed(self, data: bytes) -> list[Chunk]:
        chunks: list[Chunk] = []
        if not self._done and not self._refused and self._events.between(data):
            data = self._skimmed(data, chunks)
        try:
            return chunks + self._take(self._events.feed(data))
        except MalformedReply as error:
            raise self._named(error) from None

    def _skimmed(self, data: bytes, chunks: list[Chunk]) -> bytes:
        """Reads the plain chunks that ``data`` begins with, at a quarter of the price; returns what follows them."""
        start = 0
        while self._finish is None and data.startswith(_EVENT, start) and (end := data.find(b"\n\n", start)) > 0:
            try:
                choice = _plain.decode(data[start + 6 : end]).choices[0]
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                break
            stop = STOPS.get(choice.finish_reason) if choice.finish_reason is not None else None
            if choice.finish_reason is not None and stop is None:
                break
            start = end + 2
            self._finish = stop
            text = self._answer.add(choice.delta.content)
            if stop is not None:
                text += self._answer.end()
            if text:
                chunks.append(Chunk(text))
        return self._closing(data, start) if self._finish is not None else data[start:]

    def _closing(self, data: bytes, start: int) -> bytes:
        """Reads what plainly follows the last piece from ``start`` on, the usage and the end; returns what follows that."""
        if data.startswith(_EVENT, start) and (end := data.find(b"\n\n", start)) > 0:
            try:
                usage = _plain_close.decode(data[start + 6 : end]).usage
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                return data[start:]
            given, told = usage.prompt_tokens_details or _PlainInput(), usage.completion_tokens_details or _PlainOutput()
            self._usage = _counted(
                usage.prompt_tokens, usage.completion_tokens, given.cached_tokens, given.cache_write_tokens, told.reasoning_tokens
            )
            start = end + 2
        if data.startswith(_DONE, start):
            self._done = True
            return b""  # whatever follows is no part of the reply
        return data[start:]

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
        return Reply(text=self._answer.text, model=self._request.model, stop=stop, usage=self._usage, request_id=self._id)

    def _named(self, error: MalformedReply) -> MalformedReply:
        return MalformedReply(f"{self._provider}: {error.message}", provider=self._provider, request_id=self._id)

    def _take(self, events: Iterable[Event]) -> list[Chunk]:
        chunks: list[Chunk] = []
        for event in () if self._done else events:
            if not event.data:
                continue
            if event.data.strip() == "[DONE]":
                self._done = True
                break  # whatever follows is no part of the reply
            if text := self._read(self._object(event.data)):
                chunks.append(Chunk(text))
            if self._done:
                break
        return chunks

    def _object(self, data: str) -> dict[str, Any]:
        try:
            value = decode(data.encode())
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise MalformedReply(f"the stream has an event that is no JSON object: {tidy(data, 80)!r}")
        if value.get("error"):
            raise stream_error(value, provider=self._provider, request_id=self._id)
        return value

    def _read(self, value: dict[str, Any]) -> str:
        """The text that one chunk adds."""
        if value.get("usage"):
            self._usage = _usage(value["usage"])
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if at(choice, "index"):
            return ""
        delta = at(choice, "delta")
        delta = delta if isinstance(delta, dict) else {}
        _refuse_calls(delta, self._provider, self._id)
        text = self._answer.add(self._words(delta))
        finish = at(choice, "finish_reason")
        if finish is not None:
            self._finish = "refused" if self._refused else _stop(finish, self._provider, self._id)
            text += self._answer.end()
        # The words of a refusal are in the reply; they are no piece of an answer.
        return "" if self._refused else text

    def _words(self, delta: Mapping[str, Any]) -> str:
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            self._refused = True
            return refusal
        return _content(delta.get("content"))


def _content(content: Any) -> str:
    """The text of a message: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if at(part, "type") == "text" and isinstance(part.get("text"), str))
    return ""


def _refuse_calls(message: Any, provider: str, request_id: str) -> None:
    if at(message, "tool_calls") or at(message, "function_call"):
        raise tool_call(provider, request_id)


def tool_call(provider: str, request_id: str) -> MalformedReply:
    """The error that an answer is which is a call of a tool."""
    what = f"the model of {provider} answered with a tool call, which was not offered to it"
    return MalformedReply(what, provider=provider, request_id=request_id)


def _stop(finish: Any, provider: str, request_id: str) -> Stop:
    stop = STOPS.get(finish) if isinstance(finish, str) else None
    if stop is not None:
        return stop
    if finish == "error":
        raise ProviderDown(f"{provider} failed in the middle of its reply", provider=provider, request_id=request_id)
    if finish in ("tool_calls", "function_call"):
        raise tool_call(provider, request_id)
    raise MalformedReply(f"{provider} sent a reply that stopped for the reason {finish!r}", provider=provider, request_id=request_id)


def malformed(what: str, provider: str, request_id: str, data: bytes) -> MalformedReply:
    """The error for an answer that is no reply, with a summary of it."""
    return MalformedReply(f"{provider} sent {what}: {summary(data)}", provider=provider, request_id=request_id)


def _usage(usage: Any) -> Usage:
    cached = count(at(usage, "prompt_tokens_details", "cached_tokens"))
    written = count(at(usage, "prompt_tokens_details", "cache_write_tokens"))
    reasoning = count(at(usage, "completion_tokens_details", "reasoning_tokens"))
    return _counted(count(at(usage, "prompt_tokens")), count(at(usage, "completion_tokens")), cached, written, reasoning)


def _counted(given: int, output: int, cached: int, written: int, reasoning: int) -> Usage:
    # Some servers count the cached part beside the prompt instead of in it.
    return Usage(input=max(given, cached + written), output=output, cached=cached, written=written, reasoning=reasoning)


# --- server side ------------------------------------------------------------------------------------------

Features = dict[str, Callable[[Any], bool]]

FEATURES: Features = {
    "tools": bool,
    "tool_choice": lambda value: value not in ("none", "auto"),
    "top_logprobs": bool,
    "moderation": bool,
}
"""Fields of a request, in both of OpenAI's APIs, that ask for something promptsmith does not do, when they say so."""

_FEATURES: Features = {
    "functions": bool,
    "function_call": lambda value: value not in ("none", "auto"),
    "n": lambda value: value != 1,
    "logprobs": bool,
    "audio": bool,
    "modalities": lambda value: value not in ([], ["text"]),
    "logit_bias": bool,
    "prediction": bool,
    "web_search_options": lambda _value: True,
}

_TEXT_PARTS = {**TEXT_PARTS, "refusal": "refusal"}
_OF_MESSAGE = frozenset({"role", "content", "refusal", "type", "id", "status"})
"""What of a message is read, or says nothing that it would have to be read for: answers come back as they were given."""


def _messages_in(wanted: Wanted) -> Iterator[tuple[str, Any]]:
    """The messages, each with where it stands; what has to do with tools is noted as unsupported."""
    for place, message in enumerate(wanted.need("messages", list, "a list of messages")):
        where = f"messages[{place}]"
        if at(message, "role") in ("tool", "function") or at(message, "tool_calls") or at(message, "function_call"):
            wanted.unsupported.append(f"tool calls ({where})")
        else:
            yield where, message


def conversation(wanted: Wanted, messages: Iterable[tuple[str, Any]], kinds: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[Turn, ...]]:
    """System texts and turns. ``messages`` come with where they stand, ``kinds`` are the text parts of the API."""
    system: list[str] = []
    turns: list[Turn] = []
    for where, message in messages:
        role = at(message, "role")
        if role not in ("system", "developer", "user", "assistant"):
            raise InputError(f"{where}.role must be system, developer, user or assistant")
        content = message.get("content")
        if role == "assistant" and content is None:
            content = message.get("refusal") or ""
        text = wanted.content(content, f"{where}.content", kinds)
        wanted.pass_over(where, message, _OF_MESSAGE)
        if role in {"user", "assistant"}:
            turns.append(turn(role, text))
        elif turns:
            wanted.unsupported.append(f"a {role} message after the first turn ({where})")
        else:
            system.append(text)
    return tuple(system), tuple(turns)


def wanted_schema(wanted: Wanted, form: Mapping[str, Any], inside: tuple[str, ...], name: str) -> str:
    """The JSON Schema that a response format asks for, empty for free text; ``inside`` is the way to it in the field ``name``."""
    kind = form.get("type", "text")
    if kind == "text":
        return ""
    wanted.leave(name)  # where it is not refused, the prompt's contract stands in its place
    schema = at(form, *inside)
    if kind == "json_schema" and isinstance(schema, dict):
        return encode(schema).decode()
    if kind != "json_object":
        raise InputError(f"{name} must be of type text, json_object, or json_schema with a {'.'.join(inside)}")
    return '{"type":"object"}'


def wanted_user(wanted: Wanted, parameters: Mapping[str, Any]) -> str:
    """Whom a client calls for; ``safety_identifier`` is the newer name of ``user``."""
    return wanted.take("user", str, "a text") or parameters.get("safety_identifier") or ""


def refuses(reply: Reply) -> bool:
    """Whether the text of a reply is a refusal to be told as one: an empty one would be read as none."""
    return reply.stop == "refused" and bool(reply.text)


def _finish(reply: Reply, refusal: bool = False) -> str:
    finish = "stop" if refusal else _WRITTEN.get(reply.stop)
    if finish is None:
        raise ModelError(f"a reply that was {reply.stop} can't be passed on as a whole one")
    return finish


def _written_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.written},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def error_body(status: int, message: str, code: str) -> dict[str, Any]:
    """An error as both of OpenAI's APIs have it."""
    kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": mended(message), "type": kind, "param": None, "code": code or None}}


class OpenAIWriter:
    """A reply as ``chat.completion.chunk`` events, ended by ``[DONE]``."""

    def __init__(self, model: str, id: str, created: int, usage: bool) -> None:
        self._frame = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._usage = usage
        self._begun = False

    def start(self) -> bytes:
        return self._event({"role": "assistant", "content": ""})

    def chunk(self, chunk: Chunk) -> bytes:
        text = self._event({"content": chunk.text}) if chunk.text else b""
        self._begun = self._begun or bool(text)
        if chunk.reply is None:
            return text
        # Once text is out as content, a refusal can only be told as the nearest finish reason.
        refused = refuses(chunk.reply) and not self._begun
        if chunk.reply.text and not self._begun:
            text += self._event({"refusal" if refused else "content": chunk.reply.text})
        text += self._event({}, _finish(chunk.reply, refused))
        if self._usage:
            text += _data({**self._frame, "choices": [], "usage": _written_usage(chunk.reply.usage)})
        return text + b"data: [DONE]\n\n"

    def error(self, status: int, message: str, *, code: str = "") -> bytes:
        return _data(error_body(status, message, code))

    def _event(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return _data({**self._frame, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})


def _data(value: Mapping[str, Any]) -> bytes:
    return b"data: " + encode(value) + b"\n\n"
