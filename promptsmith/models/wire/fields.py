"""Reading and writing what both protocols have: JSON, texts, counts, parameters, incoming fields."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ... import canonical
from ...canonical import Scalar
from ...catalog.models import ModelFacts
from ...chat import Request, Turn
from ...errors import InputError, MalformedReply, did_you_mean
from ...redact import redact
from .protocol import Incoming
from .schemas import unwrap

SHOWN = 300
"""Characters of a provider's words that an error repeats at most."""

DEFAULT_OUTPUT = 1024
"""Tokens of visible output when a request names no limit; the runtime always names one, from the contract."""

_TITLE = re.compile(r"(?is)<title[^>]*>(.*?)</title>")
_HTML = re.compile(r"(?i)\s*(?:<!doctype html|<html)")
_KEY = re.compile(r"[\x21-\x7e]+")


def encode(body: Mapping[str, Any]) -> bytes:
    """``body`` as compact JSON, keys in their order. Raises :class:`InputError` for text that is not valid Unicode."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise InputError("the request has a lone surrogate in it, which no UTF-8 text can hold") from None


def decode(data: bytes) -> Any:
    """The JSON value in ``data``. Raises :class:`ValueError`."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # msgspec refuses escaped lone surrogates, which a stream has when it cuts an emoji in two; the standard library
        # takes them. UnicodeDecodeError is a ValueError.
        try:
            return json.loads(data)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None


def decode_reply(data: bytes, provider: str, request_id: str) -> dict[str, Any]:
    """The JSON object in a response. Raises :class:`MalformedReply` saying what came instead."""
    try:
        value = decode(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise MalformedReply(
            f"{provider} answered with {summary(data)} instead of a reply",
            provider=provider,
            request_id=request_id,
            hint="is the endpoint's base_url right?",
        )
    return value


def summary(data: bytes) -> str:
    """What ``data`` looks like, in a few words for a person; secrets are taken out."""
    if not data.strip():
        return "nothing"
    text = data[:4096].decode(errors="replace")
    if _HTML.match(text):
        title = _TITLE.search(text)
        return f"an HTML page titled {tidy(title[1])!r}" if title else "an HTML page"
    return f"{len(data)} bytes that begin with {tidy(text[:120])!r}"


def tidy(text: str, limit: int = SHOWN) -> str:
    """``text`` on one line without secrets, at most ``limit`` characters."""
    # Cut after redacting: half a key would not be recognised.
    line = " ".join(mended(redact(text[: 8 * limit])).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def mended(text: str) -> str:
    """``text`` with halves of surrogate pairs joined, and those that stand alone as U+FFFD: nothing could store them."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def bearer(api_key: str) -> dict[str, str]:
    """The header with the key, none for an empty one. Raises :class:`InputError` for a key that no header can carry."""
    if not api_key:
        return {}
    if not _KEY.fullmatch(api_key):
        raise InputError(
            "the API key has a blank, a line break or another character in it that no key has",
            hint="look for a trailing line break where the key is set",
        )
    return {"Authorization": f"Bearer {api_key}"}


def count(value: Any) -> int:
    """A number of tokens; what is absent or no number is 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def header(headers: Mapping[str, str], name: str) -> str:
    """The header called ``name`` (in small letters), in whatever letters it came; empty without it."""
    found = headers.get(name)
    if found is not None:
        return found
    return next((value for key, value in headers.items() if key.lower() == name), "")


def at(value: Any, *keys: str) -> Any:
    """The value below ``keys``, ``None`` where one is absent or no object."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


class Answer:
    """The text of a streamed reply as it grows: fit to be stored, and unwrapped where it was wrapped for its schema."""

    def __init__(self, wrapped: bool) -> None:
        self._parts: list[str] = []
        self._half = ""
        # Held back until it is clear whether the answer came wrapped (None: it is clear).
        self._start: str | None = "" if wrapped else None
        self._held: list[str] = []

    def add(self, delta: str) -> str:
        """What of ``delta``, and of what was held back before, can be shown now."""
        if self._start is None and not self._half and not self._held and delta.isascii():
            self._parts.append(delta)
            return delta
        text = self._half + delta
        # The first half of a surrogate pair waits for the second.
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return self._pass(mended(text[:-1] if self._half else text))

    def end(self) -> str:
        """What was still held back."""
        shown = self._pass(mended(self._half))
        self._half = ""
        late = self._start or (unwrap("".join(self._held)) if self._held else "")
        self._start = None
        self._held.clear()
        self._parts.append(late)
        return shown + late

    def _pass(self, text: str) -> str:
        if self._start is not None:
            text = self._start + text
            if not text.strip():
                self._start = text
                return ""
            self._start = None
            if text.lstrip().startswith("{"):
                self._held.append(text)
                return ""
        if self._held:
            self._held.append(text)
            return ""
        self._parts.append(text)
        return text

    @property
    def text(self) -> str:
        return "".join([*self._parts, *self._held, self._start or ""])


# --- what is asked ----------------------------------------------------------------------------------------


def check_turns(request: Request) -> None:
    """Raises :class:`InputError` when there is nothing to answer."""
    if not request.turns or request.turns[-1].role != "user":
        raise InputError(
            "the last turn of a request must be the user's",
            hint="an answer can't be begun for the model (prefill): current models refuse it",
        )


def max_output(request: Request, facts: ModelFacts) -> int:
    """The output limit that is sent with ``request``, in tokens: its own, or a default with room for reasoning.

    Raises :class:`InputError` when it is no positive whole number.
    """
    limit = request.parameters.get("max_tokens")
    if limit is None:
        limit = DEFAULT_OUTPUT + facts.reasoning_allowance
        return min(limit, facts.max_output) if facts.max_output else limit
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"max_tokens must be a whole number from 1 up, not {limit!r}")
    return limit


def cache_key(request: Request) -> str:
    """The routing key of everything that shares ``request``'s static block."""
    return "ps:" + (request.static or canonical.sha256(request.system))[:24]


_NO_OPS: Mapping[str, Scalar] = {
    "temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "verbosity": "medium", "store": False,
    "effort": "none", "thinking": False,
}  # fmt: skip
"""Values that say what a model does anyway that does not take the parameter; clients send them unasked."""

_ELSEWHERE = {
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "reasoning_effort": "effort",
    "stop_sequences": "stop",
}
_OURS = frozenset({"model", "messages", "system", "stream", "stream_options", "response_format", "output_config", "tools", "functions"})
"""Fields of a body that are made from the request and are no parameters."""

_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "temperature": ((int, float), "a number"),
    "top_p": ((int, float), "a number"),
    "frequency_penalty": ((int, float), "a number"),
    "presence_penalty": ((int, float), "a number"),
    "seed": ((int,), "a whole number"),
    "max_tokens": ((int,), "a whole number"),
    "effort": ((str,), "text"),
    "stop": ((str,), "text"),
    "thinking": ((bool,), "true or false"),
    "verbosity": ((str,), "text"),
    "service_tier": ((str,), "text"),
    "safety_identifier": ((str,), "text"),
    "store": ((bool,), "true or false"),
}
_ANYWHERE = frozenset({*_KINDS, "top_k", "speed", "inference_geo"})
"""What some provider takes."""


def settings(request: Request, known: Sequence[str], facts: ModelFacts, foreign: bool) -> Iterator[tuple[str, Scalar]]:
    """The parameters to send besides the output limit, in a fixed order.

    Raises :class:`InputError` naming the first that the model does not take. ``None`` means the provider's default.
    """
    for name, value in sorted(request.parameters.items()):
        if name == "max_tokens" or value is None:
            continue
        if name in _ELSEWHERE:
            raise InputError(f"the parameter {name} is called {_ELSEWHERE[name]} here")
        refusal = _refusal(request.model, name, value, known, facts, foreign)
        if refusal is None:
            yield name, value
        elif not asks_nothing(name, value, facts):
            raise refusal


def asks_nothing(name: str, value: Scalar, facts: ModelFacts) -> bool:
    """Whether a model that does not take the parameter does what it says anyway: then it is left out."""
    if name in {"effort", "thinking"} and facts.reasoning_allowance:
        return False  # left to itself it reasons
    return name in _NO_OPS and value == _NO_OPS[name] and isinstance(value, bool) == isinstance(_NO_OPS[name], bool)


def fitting(request: Request, known: Sequence[str], facts: ModelFacts, foreign: bool) -> Request:
    """``request`` without the parameters that its model does not take: they were meant for the one in whose place it is asked."""

    def is_taken(name: str, value: Scalar) -> bool:
        try:
            list(settings(msgspec.structs.replace(request, parameters={name: value}), known, facts, foreign))
        except InputError:
            return False
        return True

    taken = {name: value for name, value in request.parameters.items() if is_taken(name, value)}
    return request if len(taken) == len(request.parameters) else msgspec.structs.replace(request, parameters=taken)


def _refusal(model: str, name: str, value: Scalar, known: Sequence[str], facts: ModelFacts, foreign: bool) -> InputError | None:
    """Why the model does not take a parameter. Raises :class:`InputError` for a value of another kind."""
    sampling = name in {"temperature", "top_p"} and not facts.temperature
    if name in _OURS or sampling or (name not in known and not foreign):
        return _not_taken(model, name, known, facts)
    _check_kind(name, value)
    return _wrong_effort(model, value, facts, foreign) if name == "effort" else None


def _not_taken(model: str, name: str, known: Sequence[str], facts: ModelFacts) -> InputError:
    offered = [other for other in ("max_tokens", *known) if facts.temperature or other not in {"temperature", "top_p"}]
    # A parameter that exists elsewhere is not misspelt: "seed" is not meant to be "speed", nor "speed" to be "seed".
    hint = (name not in _ANYWHERE and did_you_mean(name, offered)) or f"it takes {', '.join(offered)}"
    return InputError(f"{model} does not take the parameter {name}", hint=hint)


def _check_kind(name: str, value: Scalar) -> None:
    if name in _KINDS:
        kinds, words = _KINDS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InputError(f"the parameter {name} must be {words}, not {value!r}")


def _wrong_effort(model: str, value: Scalar, facts: ModelFacts, foreign: bool) -> InputError | None:
    if value in facts.efforts or (foreign and not facts.efforts):
        return None
    if not facts.efforts:
        return InputError(f"{model} does not take the parameter effort: it does no reasoning")
    return InputError(f"{model} has no effort {value!r}", hint=f"it has {', '.join(facts.efforts)}")


# --- what a client sent -----------------------------------------------------------------------------------


MAX_DEPTH = 128
"""Levels of objects and lists in a client's body; no schema that a provider takes has nearly as many."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TWICE_HINT = "two readers could take it for two different requests"


def read_body(data: bytes) -> dict[str, Any]:
    """The JSON object that a client sent, all of its texts fit for UTF-8.

    Stricter than JSON's grammar where two readers of the same bytes could differ, or where what was read could not be passed
    on: no key twice in an object, no ``NaN`` or ``Infinity``, no number beyond 64 bits, no half of a surrogate pair, at most
    :data:`MAX_DEPTH` levels. Raises :class:`InputError`.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"the request's body is not JSON: it is not UTF-8 (byte {error.start + 1})") from None
    try:
        body = json.loads(text, object_pairs_hook=_object, parse_int=_whole, parse_float=_number, parse_constant=_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise InputError(f"the request's body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise InputError("the request's body must be a JSON object")
    # Seldom needed: as many levels take as many brackets, and half a pair takes an escape.
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        _check_depth(body)
    if _SURROGATE.search(text):
        _check_texts(body)
    return body


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise InputError(f"the request's body has the key {_shown(twice)} twice in one object", hint=_TWICE_HINT)
    return made


def _whole(digits: str) -> int:
    # A text of more digits than a 64-bit number has is not even converted, which would take the square of their number.
    number = int(digits) if len(digits) <= 20 else None
    if number is None or not -(2**63) <= number < 2**63:
        raise InputError(f"the request's body has a number beyond 64 bits: {tidy(digits, 40)}", hint="send it as a text")
    return number


def _number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InputError(f"the request's body has a number that is too large: {tidy(digits, 40)}", hint="send it as a text")
    return number


def _constant(name: str) -> None:
    raise InputError(f"the request's body is not JSON: {name} is no JSON value")


def _too_deep() -> InputError:
    return InputError(f"the request's body is nested more than {MAX_DEPTH} levels deep")


def _check_depth(body: Any) -> None:
    level = [body]
    for _ in range(MAX_DEPTH):
        inside = (value.values() if isinstance(value, dict) else value for value in level)
        level = [value for values in inside for value in values if isinstance(value, (dict, list))]
        if not level:
            return
    raise _too_deep()


def _check_texts(value: Any, where: str = "") -> None:
    """Raises :class:`InputError` for the first text or key that UTF-8 can't hold, with the way to it."""
    if isinstance(value, str):
        try:
            canonical.encode(value)
        except InputError as error:
            raise InputError(f"{tidy(where, 120)}: {error.message}", hint=error.hint) from None
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_texts(name, f"a key of {where or 'the body'}")
            _check_texts(item, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _check_texts(item, f"{where}[{place}]")


TEXT_PARTS: Mapping[str, str] = {"text": "text"}
"""The kinds of content that are text, each with the field that holds it: Anthropic's. A kind without one is passed over."""

_PLACE = re.compile(r"\[[0-9]+\]")


class Wanted:
    """The fields of an incoming body; what is not taken in the end is told as ignored."""

    def __init__(self, data: bytes) -> None:
        self._body = read_body(data)
        self.unsupported: list[str] = []
        self.ignored: set[str] = set()
        """Parts of fields that change nothing, such as ``messages.name``."""

    def take(self, name: str, kind: type | tuple[type, ...], words: str) -> Any:
        """The field, ``None`` when it is absent or null. Raises :class:`InputError` when it is of another kind."""
        value = self._body.pop(name, None)
        if value is None:
            return None
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InputError(f"{name} must be {words}, not {_shown(value)}")
        return value

    def need(self, name: str, kind: type, words: str) -> Any:
        value = self.take(name, kind, words)
        if value is None:
            raise InputError(f"{name} is missing; it must be {words}")
        return value

    def section(self, name: str, read: Collection[str]) -> dict[str, Any]:
        """A field that is an object, of which the keys in ``read`` are read; empty when it is absent."""
        value: dict[str, Any] = self.take(name, dict, "an object") or {}
        self.pass_over(name, value, read)
        return value

    def pass_over(self, where: str, part: Mapping[str, Any], read: Collection[str]) -> None:
        """Notes what a part of the body has besides the keys that are ``read``; what is null or empty says nothing."""
        for name, value in part.items():
            if name not in read and value not in (None, "", [], {}):
                self.leave(f"{where}.{name}")

    def leave(self, where: str) -> None:
        """Notes a part of the body that changes nothing, wherever in a list it stands."""
        self.ignored.add(_PLACE.sub("", where))

    def texts(self, name: str) -> dict[str, str]:
        """A field that is an object of texts; another value in it is taken as its JSON, null as left out."""
        value = self.take(name, dict, "an object of texts") or {}
        given = {key: item for key, item in value.items() if item is not None}
        return {key: item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for key, item in given.items()}

    def refuse(self, fields: Mapping[str, Callable[[Any], bool]]) -> None:
        """Notes the features that are asked for; each field comes with what makes it one."""
        for name, asks in fields.items():
            if name in self._body and asks(value := self._body[name]) and value is not None:
                self.unsupported.append(name)
            self._body.pop(name, None)

    def scalars(self, names: Mapping[str, str]) -> dict[str, Scalar]:
        """Parameters by our names, from the protocol's."""
        found: dict[str, Scalar] = {}
        for theirs, ours in names.items():
            value = self.take(theirs, (str, int, float, bool), "text, a number, true or false") if theirs in self._body else None
            if value is not None:
                _check_kind(ours, value)
                if ours == "max_tokens" and value < 1:
                    raise InputError(f"max_tokens must be a whole number from 1 up, not {value}")
                found[ours] = value
        return found

    def one_of(self, name: str) -> str | None:
        """A stop sequence: a text, or a list of one."""
        value = self.take(name, (str, list), "a text or a list of texts")
        texts: list[Any] = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in texts if item is not None):
            raise InputError(f"{name} must be a text or a list of texts")
        if len(texts) > 1:
            self.unsupported.append(f"{name} with several texts")
        return texts[0] if len(texts) == 1 else None

    def content(self, value: Any, where: str, kinds: Mapping[str, str] = TEXT_PARTS) -> str:
        """The text of a message's content; kinds of content that are none of ``kinds`` are noted as unsupported."""
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise InputError(f"{where} must be a text or a list of parts, not {_shown(value)}")
        texts: list[str] = []
        for place, part in enumerate(value):
            kind = at(part, "type")
            if not isinstance(kind, str):
                raise InputError(f"{where}[{place}] must be a part with a type")
            if kind not in kinds:
                self.unsupported.append(f"{tidy(kind, 40)} content ({where}[{place}])")
            elif not kinds[kind]:
                self.leave(f"{where}.{kind}")
            elif isinstance(text := part.get(kinds[kind]), str):
                texts.append(text)
                self.pass_over(where, part, ("type", kinds[kind]))
            else:
                raise InputError(f"{where}[{place}].{kinds[kind]} must be a text, not {_shown(text)}")
        return "".join(texts)

    def incoming(
        self,
        features: Mapping[str, Callable[[Any], bool]],
        *,
        model: str,
        system: str,
        turns: tuple[Turn, ...],
        parameters: Mapping[str, Scalar],
        schema: str,
        user: str,
        metadata: Mapping[str, str],
        usage: bool | None = None,
    ) -> Incoming:
        """What was read, with what all protocols have; to be called last, as what is left over then is ignored.

        ``features`` are the fields that ask for what is not done (see :meth:`refuse`); ``usage`` is whether a stream tells
        it, ``None`` where it always does.
        """
        stream = self.take("stream", bool, "true or false") or False
        variables = self.texts("prompt_variables")
        self.refuse(features)
        return Incoming(
            model=model,
            system=system,
            turns=turns,
            parameters=parameters,
            schema=schema,
            stream=stream,
            stream_usage=stream if usage is None else usage,
            user=user,
            metadata=metadata,
            variables=variables,
            unsupported=tuple(self.unsupported),
            ignored=tuple(sorted(self.ignored | {name for name, value in self._body.items() if value is not None})),
        )


def text_in(section: Mapping[str, Any], key: str, where: str) -> str | None:
    """The text below ``key``, ``None`` when it is absent or null. Raises :class:`InputError` when it is another value."""
    value = section.get(key)
    if value is None or isinstance(value, str):
        return value
    raise InputError(f"{where}.{key} must be a text, not {_shown(value)}")


def turn(role: str, text: str) -> Turn:
    """A turn by a role's name, which is ``user`` or ``assistant``."""
    return Turn("assistant" if role == "assistant" else "user", text)


def _shown(value: Any) -> str:
    return tidy(json.dumps(value, ensure_ascii=True), 60)
