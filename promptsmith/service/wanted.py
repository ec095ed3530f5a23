"""What a client asks for: its body read once, its model name resolved, its words bound to the prompt's inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from ..canonical import Scalar
from ..chat import Turn
from ..contract import JsonShape, Labels
from ..errors import InputError
from ..models.wire import Codec, Incoming, read_body
from ..prompt import Prompt
from ..runtime.values import Given
from .refusals import Refusal


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    content: str


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool = False


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """The body that nearly every request has, of both protocols. Whatever has more in it goes the thorough way."""

    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    user: str | None = None


_RESPONSES = "/responses"
_plain = msgspec.json.Decoder(_Plain)
_ONCE = (b'"model"', b'"messages"', b'"stream"', b'"stream_options"', b'"max_tokens"', b'"include_usage"')


def read(data: bytes, codec: Codec) -> Incoming:
    """What a client sent. Raises :class:`InputError` naming the field that is wrong."""
    if codec.path == _RESPONSES:
        return codec.read_request(data)  # which has another body
    try:
        body = _plain.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return codec.read_request(data)
    ours = codec.name == "anthropic"
    if _repeats(data, body) or (ours and (body.max_tokens is None or body.user is not None or body.stream_options is not None)):
        return codec.read_request(data)
    return Incoming(
        model=body.model,
        turns=tuple([Turn(one.role, one.content) for one in body.messages]),
        parameters={"max_tokens": body.max_tokens} if body.max_tokens is not None else {},
        stream=bool(body.stream),
        stream_usage=bool(body.stream) if ours else body.stream_options is not None and body.stream_options.include_usage,
        user=body.user or "",
    )


def _repeats(data: bytes, body: _Plain) -> bool:
    """Whether a key may stand twice, which readers take differently: the thorough reader decides.

    A quote inside a text is escaped, so each of these stands in the bytes only as a key, or as the whole of a text; and a
    key could only be hidden from the count by escapes of ASCII letters.
    """
    count = data.count
    if b"\\u00" in data or any(count(key) > 1 for key in _ONCE):
        return True
    messages = len(body.messages)
    users = sum([one.role == "user" for one in body.messages]) + (body.user is not None)
    return count(b'"role"') != messages or count(b'"content"') != messages or count(b'"user"') != users


def given(prompt: Prompt, incoming: Incoming) -> tuple[Given, tuple[Turn, ...]]:
    """The values of the prompt's inputs, and the earlier turns. Raises :class:`InputError`.

    A prompt with one free text takes the last turn. Named inputs come, in this order, as ``prompt_variables``, as a JSON
    object in the last turn, or as ``metadata`` of their names; what is said in the last turn besides is the one that is missing.
    """
    if not incoming.turns or incoming.turns[-1].role != "user":
        raise InputError("the last message must be the user's", hint="an answer can't be begun for the model (prefill)")
    text, history = incoming.turns[-1].text, incoming.turns[:-1]
    if not prompt.inputs:
        if incoming.variables:
            raise InputError(f"{prompt.task} takes one text and no variables", hint="send it as the content of the last message")
        return text, history
    if incoming.variables:
        return _completed(prompt, incoming.variables, text), history
    written = _object(text, prompt)
    if written is not None:
        return written, history
    named = {name: value for name, value in incoming.metadata.items() if any(name == one.name for one in prompt.inputs)}
    return (_completed(prompt, named, text) if named else text), history


def _completed(prompt: Prompt, variables: Mapping[str, str], text: str) -> dict[str, str]:
    """``variables``, with ``text`` as the one that they lack."""
    values = dict(variables)
    if text.strip():
        # Not one with a default: who has given all the others may have sent any text, since the protocols demand one.
        missing = [one.name for one in prompt.inputs if one.default is None and one.name not in values]
        if len(missing) != 1:
            names = ", ".join(one.name for one in prompt.inputs)
            raise InputError(
                f"the last message has a text, and it is not clear which input of {prompt.task} it is",
                hint=f"its inputs are {names}: leave the message empty, or leave out the one without a default that it is",
            )
        values[missing[0]] = text
    return values


def _object(text: str, prompt: Prompt) -> dict[str, str] | None:
    """The inputs in a text that is a JSON object of declared names; ``None`` for any other text."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = read_body(text.encode())
    except InputError:
        return None  # a text like any other
    names = {one.name for one in prompt.inputs}
    if not value or not set(value) <= names:
        return None
    return {name: item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for name, item in value.items()}


def parameters(prompt: Prompt, incoming: Incoming) -> Mapping[str, Scalar]:
    """What of the client's parameters changes the call.

    The output limit, which one of the protocols demands, is the client's upper bound: a higher one leaves the prompt's
    own as it was tested. For whom it calls changes nothing, and no two callers must have two keys in the response cache.
    """
    if not incoming.parameters:
        return incoming.parameters
    own = prompt.parameters
    given = ((name, value) for name, value in incoming.parameters.items() if name != "safety_identifier")
    wanted = {name: _number(value) for name, value in given if name not in own or own[name] != value}
    limit, mine = wanted.get("max_tokens"), own.get("max_tokens")
    if isinstance(limit, int) and isinstance(mine, int) and limit >= mine > 0:
        wanted.pop("max_tokens")
    return wanted


_HEADERS = ("anthropic-beta", "anthropic-user-profile-id", "anthropic-workspace-id")
"""What Anthropic's client sends as headers of the parameters of a call."""


def ignored(prompt: Prompt, incoming: Incoming, inputs: Given, wanted: Mapping[str, Scalar], headers: Mapping[str, str]) -> tuple[str, ...]:
    """What of the request changes nothing, by name. ``inputs`` and ``wanted`` are what was made of it.

    Metadata is for named inputs, and for whom the client calls; and a builtin model has no parameters.
    """
    used = inputs if isinstance(inputs, Mapping) else {}
    return (
        *incoming.ignored,
        *[f"metadata.{name}" for name, value in incoming.metadata.items() if name != "user_id" and used.get(name) != value],
        *(wanted if prompt.model.startswith("builtin/") else ()),
        *[name for name in _HEADERS if name in headers],
    )


def _number(value: Scalar) -> Scalar:
    """0.0 as 0, which is the same to every provider: one request must not have two keys in the response cache."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check(prompt: Prompt, incoming: Incoming, *, appends: bool) -> None:
    """Nothing. Raises :class:`Refusal` or :class:`InputError` for what promptsmith does not do for a client.

    ``appends``: a system message of the client's own is put behind the prompt's.
    """
    if incoming.system and not appends:
        raise Refusal(
            400,
            f"{prompt.task} is a compiled prompt and has its own system message; the request brings another",
            code="system_message_refused",
            hint='leave it out; or let the service append it to the prompt: [service] client_system = "append"',
        )
    typed = isinstance(prompt.contract.shape, JsonShape)
    if incoming.unsupported:
        answer = "its JSON comes without a tool, and can be asked for by a response format" if typed else "it answers a text"
        raise InputError(
            f"this service does not do {', '.join(incoming.unsupported)}",
            hint=f"{prompt.task} is a compiled prompt: {answer}; its contract decides the form of the answer",
        )
    if incoming.schema and not typed:
        form = "one of its labels" if isinstance(prompt.contract.shape, Labels) else "text"
        raise InputError(
            f"{prompt.task} answers with {form}, and the request asks for a JSON Schema",
            hint="leave the response format out: the prompt's own contract decides it",
        )
