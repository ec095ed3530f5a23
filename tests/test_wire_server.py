"""What a gateway needs of the codecs: strict reading of what anybody sends, and answers that the stock SDKs take over a real socket."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import anthropic
import httpx2
import msgspec
import openai
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from promptsmith.chat import Chunk, Reply, Request, Stop, Turn, Usage
from promptsmith.errors import InputError
from promptsmith.models.wire import Codec, Incoming, codec, encode, read_body
from promptsmith.models.wire.anthropic import read_count, write_count

CHAT, RESPONSES, MESSAGES = codec("openai"), codec("openai", "responses"), codec("anthropic")
CODECS: Mapping[str, Codec] = {"chat": CHAT, "responses": RESPONSES, "messages": MESSAGES}
API = pytest.mark.parametrize("api", CODECS)

# --- reading: any bytes are a request or a clear error ------------------------------------------------------

PLAIN: Mapping[str, dict[str, Any]] = {
    "chat": {"model": "s", "messages": [{"role": "user", "content": "hi"}]},
    "responses": {"model": "s", "input": [{"role": "user", "content": "hi"}]},
    "messages": {"model": "s", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
}
FULL: Mapping[str, dict[str, Any]] = {
    "chat": {
        "model": "sentiment@production",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "be kind"}]},
            {"role": "user", "content": "hi", "name": "ann"},
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
        ],
        "max_completion_tokens": 50,
        "temperature": 0.5,
        "stop": ["\n"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [],
        "user": "u",
        "metadata": {"a": "b"},
        "prompt_variables": {"n": 3},
    },
    "responses": {
        "model": "sentiment@production",
        "instructions": "be kind",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "y"}]},
        ],
        "max_output_tokens": 50,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        "stream": True,
        "store": True,
        "include": [],
        "metadata": {"a": "b"},
        "prompt_variables": {"n": 3},
    },
    "messages": {
        "model": "sentiment@production",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "assistant", "content": "y"}],
        "stop_sequences": ["END"],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "stream": True,
        "metadata": {"user_id": "u"},
        "prompt_variables": {"n": 3},
    },
}
NAMES = sorted({name for full in FULL.values() for name in full} | {"role", "content", "type", "text", "format", "schema", "effort"})
WORDS = ["user", "assistant", "system", "text", "json_schema", "message", "image", "input_text", "none", "\ud800", "\x00", "é", ""]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=5)
    | st.sampled_from([10**30, -(10**400), 1e308, 2**63, 2**64 - 1])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=20,
)


def read_all_ways(data: bytes, **ways: Callable[[bytes], Incoming]) -> None:
    """Nothing but a value that can be passed on, or an :class:`InputError` that can be shown."""
    readers = ways or {**{name: one.read_request for name, one in CODECS.items()}, "count": read_count}
    for read in readers.values():
        try:
            got = read(data)
        except InputError as error:
            str(error).encode()
        else:
            assert msgspec.json.decode(msgspec.json.encode(got), type=Incoming) == got


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes(data: bytes) -> None:
    read_all_ways(data)


@given(values)
@settings(deadline=None)
def test_any_json(value: Any) -> None:
    read_all_ways(json.dumps(value).encode())


@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=8), st.sampled_from(sorted(CODECS)))
@settings(deadline=None)
def test_any_fields_beside_those_that_are_needed(fields: dict[str, Any], api: str) -> None:
    read_all_ways(json.dumps(PLAIN[api] | fields).encode(), one=CODECS[api].read_request)


AWKWARD: Sequence[Any] = (None, True, -1, 1.5, 10**30, "", "x", "\ud800", [], [[]], {}, {"type": []}, [None, {"text": {}}])
"""What no field should be. Lists and objects are no keys of a Python dictionary, nor may a set be asked for them."""
MORE = (
    *("tools", "tool_choice", "mcp_servers", "container", "functions", "function_call", "n", "logprobs", "audio", "modalities"),
    *("logit_bias", "prediction", "web_search_options", "previous_response_id", "conversation", "background", "prompt", "include"),
)


@API
@pytest.mark.parametrize("name", sorted({*NAMES, *MORE}))
def test_each_field_with_awkward_values(api: str, name: str) -> None:
    for value in AWKWARD:
        read_all_ways(json.dumps(PLAIN[api] | {name: value}).encode(), one=CODECS[api].read_request)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every object or list inside ``value`` with each of its keys or indexes."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from places(value[key])


@given(st.sampled_from(sorted(CODECS)), st.lists(st.tuples(st.integers(0, 10**6), values), min_size=1, max_size=3))
@settings(deadline=None)
def test_a_full_request_with_any_of_its_parts_changed(api: str, changes: list[tuple[int, Any]]) -> None:
    body = copy.deepcopy(FULL[api])
    for which, value in changes:
        found = list(places(body))
        inside, key = found[which % len(found)]
        inside[key] = value
    read_all_ways(json.dumps(body).encode(), one=CODECS[api].read_request)


@given(st.sampled_from(sorted(CODECS)), st.data())
@settings(deadline=None)
def test_the_bytes_of_a_full_request_cut_changed_and_added_to(api: str, data: st.DataObject) -> None:
    body = bytearray(json.dumps(FULL[api], ensure_ascii=False).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        body[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    read_all_ways(bytes(body), one=CODECS[api].read_request)


@given(st.sampled_from(sorted(CODECS)), st.integers(0, 10**6), st.sampled_from([None, 1, "x", [], {"a": []}]), st.booleans(), st.booleans())
@settings(deadline=None)
def test_a_key_that_stands_twice_anywhere_is_refused_by_its_name(api: str, which: int, value: Any, before: bool, hidden: bool) -> None:
    objects = [inside[key] for inside, key in places({"": FULL[api]}) if isinstance(inside[key], dict) and inside[key]]
    chosen = objects[which % len(objects)]
    name = sorted(chosen)[which % len(chosen)]
    written = f"\\u{ord(name[0]):04x}{name[1:]}" if hidden else name
    whole, again = json.dumps(chosen), f'"{written}": {json.dumps(value)}'
    twice = f"{{{again}, {whole[1:]}" if before else f"{whole[:-1]}, {again}}}"
    with pytest.raises(InputError) as caught:
        CODECS[api].read_request(json.dumps(FULL[api]).replace(whole, twice, 1).encode())
    assert f'the key "{name}" twice' in caught.value.message


def test_of_two_models_neither_is_taken() -> None:
    smuggled = b'{"model": "cheap", "messages": [{"role": "user", "content": "hi"}], "model": "dear"}'
    with pytest.raises(InputError, match='the key "model" twice in one object'):
        CHAT.read_request(smuggled)


@API
@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (b"[" * 100_000, "nested more than 128 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 128 levels"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested more than 128 levels"),
        (b"9" * 1_000_000, "a number beyond 64 bits"),
        (b"-9223372036854775809", "a number beyond 64 bits"),
        (b"1e999", "a number that is too large"),
        (b"-1e999", "a number that is too large"),
        (b"NaN", "NaN is no JSON value"),
        (b"-Infinity", "-Infinity is no JSON value"),
        (b'"\\ud83d"', "x: the text has a lone surrogate (U+D83D)"),
        (b'{"\\udead": 1}', "a key of x: the text has a lone surrogate"),
        (b'[{"y": ["", "\\ud800\\ud800"]}]', "x[0].y[1]: the text has a lone surrogate"),
        (b'"\xff"', "not UTF-8 (byte 8)"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\xc0\x80"', "not UTF-8"),
        (b'"\x00"', "not JSON"),
        (b"'x'", "not JSON"),
        (b'"x",', "not JSON"),
        (b'"x"} {', "not JSON"),
    ],
)
def test_what_no_reader_should_guess_about_is_refused(api: str, inside: bytes, words: str) -> None:
    rest = json.dumps(PLAIN[api]).encode()[1:]
    with pytest.raises(InputError) as caught:
        CODECS[api].read_request(b'{"x": ' + inside + b", " + rest)
    assert words in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("data", ['{"model": "s"}'.encode("utf-16"), '{"model": "s"}'.encode("utf-32"), b'\xef\xbb\xbf{"model": "s"}'])
def test_json_is_utf_8_without_a_mark(data: bytes) -> None:
    with pytest.raises(InputError, match="not JSON"):
        read_body(data)


def test_what_is_allowed_is_read_as_it_stands() -> None:
    deep: Any = 0
    for _ in range(127):
        deep = [deep]
    value = {"pair": "\U0001f600", "quoted": "\\ud800", "most": 2**63 - 1, "least": -(2**63), "deep": deep, "small": 1e-400, "": [{}] * 200}
    assert read_body(json.dumps(value).encode()) == value


# --- reading: what a service needs of a request -------------------------------------------------------------


@API
def test_named_inputs_come_with_every_protocol(api: str) -> None:
    variables = {"product": "Lamp", "stars": 2, "tags": ["a"], "sure": True, "none": None}
    body = PLAIN[api] | {"prompt_variables": variables, "metadata": {"product": "Lamp", "user_id": "u1"}}
    got = CODECS[api].read_request(json.dumps(body).encode())
    assert got.variables == {"product": "Lamp", "stars": "2", "tags": '["a"]', "sure": "true"}
    assert got.metadata == {"product": "Lamp", "user_id": "u1"}


@API
def test_json_in_the_users_text_arrives_as_it_was_written(api: str) -> None:
    written = '{"a": 1.10, "a": "ü\\ud800"}'
    body = json.loads(json.dumps(PLAIN[api]).replace('"hi"', json.dumps(written)))
    assert CODECS[api].read_request(json.dumps(body).encode()).turns == (Turn("user", written),)


@pytest.mark.parametrize(
    ("api", "fields", "user"),
    [
        ("chat", {"user": "ann"}, "ann"),
        ("chat", {"safety_identifier": "5f"}, "5f"),
        ("chat", {"safety_identifier": "5f", "user": "ann"}, "ann"),
        ("chat", {"metadata": {"user_id": "ann"}}, ""),
        ("responses", {"safety_identifier": "5f"}, "5f"),
        ("responses", {"user": "ann"}, "ann"),
        ("messages", {"metadata": {"user_id": "ann"}}, "ann"),
        ("messages", {"metadata": {"user_id": None}}, ""),
        ("messages", {}, ""),
    ],
)
def test_whom_a_client_calls_for(api: str, fields: dict[str, Any], user: str) -> None:
    assert CODECS[api].read_request(json.dumps(PLAIN[api] | fields).encode()).user == user


@API
@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "5"])
def test_an_output_limit_is_a_number_of_tokens(api: str, limit: Any) -> None:
    name = "max_output_tokens" if api == "responses" else "max_tokens"
    with pytest.raises(InputError, match="max_tokens must be a whole number"):
        CODECS[api].read_request(json.dumps(PLAIN[api] | {name: limit}).encode())


def test_a_count_needs_no_output_limit_and_reads_the_rest() -> None:
    body = {"model": "s", "system": "Be kind.", "messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "x"}]}
    got = read_count(json.dumps(body).encode())
    assert (got.system, got.turns, got.unsupported) == ("Be kind.", (Turn("user", "hi"),), ("tools",))
    with pytest.raises(InputError, match="max_tokens is missing"):
        MESSAGES.read_request(json.dumps(body).encode())
    with pytest.raises(InputError, match="messages is missing"):
        read_count(b'{"model": "s"}')
    assert json.loads(write_count(17)) == {"input_tokens": 17}


# --- writing: what one side writes the other reads ----------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
usages = st.builds(Usage, st.integers(500, 10**6), st.integers(0, 999), st.integers(0, 250), st.integers(0, 250), st.integers(0, 99))
REQUEST = Request(model="up/m", system="", turns=(Turn("user", "x"),))


def heard(one: Codec, reply: Reply, cuts: list[int] | None, *, size: int = 7) -> tuple[str, Reply]:
    """What the codec's own client makes of ``reply`` as its server writes it: whole, or streamed in pieces cut at ``cuts``."""
    if cuts is None:
        got = one.reply(one.write_reply(reply, model="m", id="id_1"), REQUEST)
        return got.text, got
    data = b"".join(streamed(one, reply, cuts))
    decoder = one.stream(REQUEST)
    chunks = [chunk for start in range(0, len(data), size) for chunk in decoder.feed(data[start : start + size])]
    return "".join(chunk.text for chunk in chunks), decoder.close()


def streamed(one: Codec, reply: Reply, cuts: list[int]) -> Iterator[bytes]:
    writer = one.writer(model="m", id="id_1", created=7)
    yield writer.start()
    # The words of a refusal are no pieces of an answer: a decoder of ours gives them with the reply alone.
    edges = [] if reply.stop == "refused" else sorted({0, len(reply.text), *(cut for cut in cuts if cut < len(reply.text))})
    for start, end in pairwise(edges):
        yield writer.chunk(Chunk(reply.text[start:end]))
    yield writer.chunk(Chunk("", reply))


def told(api: str, reply: Reply) -> Stop:
    """The stop that a protocol can tell: Anthropic's has no filter, OpenAI's no refusal without words."""
    if api == "messages":
        return "refused" if reply.stop == "filtered" else reply.stop
    return "filtered" if reply.stop == "refused" and not reply.text else reply.stop


replies = st.builds(Reply, text=texts, model=st.just("up/m"), stop=st.sampled_from(["end", "length", "refused", "filtered"]), usage=usages)
ways = st.none() | st.lists(st.integers(0, 20), max_size=4)


@given(st.sampled_from(sorted(CODECS)), replies, ways)
@settings(deadline=None)
def test_what_is_written_is_what_the_protocols_client_reads(api: str, reply: Reply, cuts: list[int] | None) -> None:
    text, got = heard(CODECS[api], reply, cuts)
    assert (got.text, got.stop, got.usage) == (reply.text, told(api, reply), reply.usage)
    if cuts is not None and reply.stop != "refused":
        assert text == reply.text


@given(st.sampled_from(sorted(CODECS)), st.sampled_from(sorted(CODECS)), replies, ways, ways)
@settings(deadline=None)
def test_a_reply_of_one_protocol_passed_on_by_another_is_the_same(
    upstream: str, ours: str, reply: Reply, cuts: list[int] | None, again: list[int] | None
) -> None:
    _, came = heard(CODECS[upstream], reply, cuts)
    _, got = heard(CODECS[ours], came, again)
    assert (got.text, got.usage) == (reply.text, reply.usage)
    assert got.stop == told(ours, came)
    assert (got.stop == "end") == (reply.stop == "end")


# --- writing: the stock SDKs over a socket ------------------------------------------------------------------

USAGE = Usage(9, 2, cached=4, written=1, reasoning=1)
TEXT = "pösitive 😀\u2028 end"


class Case(NamedTuple):
    """What the service does when asked for a model of this name."""

    reply: Reply = Reply(text=TEXT, model="m", usage=USAGE)
    refuse: int = 0
    """Answer with an error of this status."""
    fail: Literal["", "error", "reset", "end"] = ""
    """What becomes of a stream after its first piece: an error event, a reset connection, an end of the bytes."""


def stopped(stop: Stop, text: str = TEXT) -> Case:
    return Case(Reply(text=text, model="m", stop=stop, usage=USAGE))


CASES: Mapping[str, Case] = {
    "good": Case(),
    "json": stopped("end", '{"id": "A-1", "n": 2}'),
    "empty": stopped("end", ""),
    "long": stopped("length"),
    "refused": stopped("refused", "I can't do that."),
    "filtered": stopped("filtered"),
    **{f"status-{status}": Case(refuse=status) for status in (400, 401, 403, 404, 409, 413, 429, 500, 503, 529)},
    "fails": Case(fail="error"),
    "resets": Case(fail="reset"),
    "ends": Case(fail="end"),
}
PATHS = {"/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/messages": "messages"}
STREAM = {"content-type": "text/event-stream"}


class Service:
    """A service of three endpoints, as small as can be: it reads by a codec, does what the model's name says, writes by the codec."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[Incoming] = []
        self._ready = threading.Event()
        self._end: Callable[[], object] = bool

    @contextmanager
    def running(self) -> Iterator[Service]:
        thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        thread.start()
        assert self._ready.wait(10)
        yield self
        self._end()
        thread.join(10)

    async def _serve(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        self._end = lambda: loop.call_soon_threadsafe(ended.set)
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await ended.wait()
        await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        data = await request.read()
        if request.path == "/v1/messages/count_tokens":
            self.seen.append(read_count(data))
            return web.Response(body=write_count(17), content_type="application/json")
        one = CODECS[PATHS[request.path]]
        try:
            got = one.read_request(data)
        except InputError as error:
            return web.Response(status=400, body=one.write_error(400, str(error), code="bad_request"), content_type="application/json")
        self.seen.append(got)
        case = CASES[got.model]
        if case.refuse:
            body = one.write_error(case.refuse, "No, thank you.", code="because", request_id="req_9")
            return web.Response(status=case.refuse, body=body, content_type="application/json")
        if not got.stream:
            return web.Response(body=one.write_reply(case.reply, model=got.model, id="id_1", created=7), content_type="application/json")
        return await self._stream(request, one, got, case)

    async def _stream(self, request: web.BaseRequest, one: Codec, got: Incoming, case: Case) -> web.StreamResponse:
        response = web.StreamResponse(headers=STREAM)
        await response.prepare(request)
        writer = one.writer(model=got.model, id="id_1", created=7, usage=got.stream_usage)
        await response.write(writer.start())
        text = "" if case.reply.stop == "refused" else case.reply.text
        for start in range(0, len(text), 3):
            await response.write(writer.chunk(Chunk(text[start : start + 3])))
            if case.fail == "error":
                await response.write(writer.error(503, "the provider is away", code="upstream"))
            if case.fail == "reset" and request.transport is not None:
                request.transport.abort()
            if case.fail:
                return response
        await response.write(writer.chunk(Chunk("", case.reply)))
        return response


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service().running() as one:
        yield one


class Heard(NamedTuple):
    text: str
    stop: str | None
    input: int | None
    """Tokens, cached ones included."""
    output: int | None
    cached: int | None
    refusal: str | None = None


def of_chat(answer: Any) -> Heard:
    choice, usage = answer.choices[0], answer.usage
    counted = (usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details.cached_tokens) if usage else (None,) * 3
    return Heard(choice.message.content or "", choice.finish_reason, *counted, refusal=choice.message.refusal)


def of_response(answer: Any) -> Heard:
    usage = answer.usage
    refusals = [part.refusal for item in answer.output for part in item.content if part.type == "refusal"]
    stop = answer.status if answer.incomplete_details is None else answer.incomplete_details.reason
    return Heard(answer.output_text, stop, usage.input_tokens, usage.output_tokens, usage.input_tokens_details.cached_tokens, *refusals)


def of_message(answer: Any) -> Heard:
    usage = answer.usage
    total = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    return Heard(answer.content[0].text, answer.stop_reason, total, usage.output_tokens, usage.cache_read_input_tokens)


class Asked(NamedTuple):
    """Arguments of a call, by the names that the SDK's method takes."""

    model: str

    def chat(self) -> dict[str, Any]:
        return {"model": self.model, "messages": [{"role": "user", "content": "hi"}]}

    def responses(self) -> dict[str, Any]:
        return {"model": self.model, "input": "hi"}

    def messages(self) -> dict[str, Any]:
        return {"model": self.model, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


@contextmanager
def openai_client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="ps-x", base_url=f"{service.url}/v1", max_retries=0, timeout=20) as client:
        yield client


@contextmanager
def anthropic_client(service: Service) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="ps-x", base_url=service.url, max_retries=0, timeout=20) as client:
        yield client


def chat_whole(service: Service, model: str) -> Heard:
    with openai_client(service) as client:
        return of_chat(client.chat.completions.create(**Asked(model).chat()))


def chat_raw(service: Service, model: str) -> Heard:
    with openai_client(service) as client:
        chunks = list(client.chat.completions.create(**Asked(model).chat(), stream=True, stream_options={"include_usage": True}))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    refusal = "".join(delta.refusal or "" for delta in deltas) or None
    stop = next((choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason), None)
    usage = chunks[-1].usage
    counted = (usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details.cached_tokens) if usage else (None,) * 3
    return Heard("".join(delta.content or "" for delta in deltas), stop, *counted, refusal=refusal)


def chat_helper(service: Service, model: str) -> Heard:
    with (
        openai_client(service) as client,
        client.chat.completions.stream(**Asked(model).chat(), stream_options={"include_usage": True}) as it,
    ):
        pieces = "".join(event.delta for event in it if event.type == "content.delta")
        final = of_chat(it.current_completion_snapshot)
    assert pieces == final.text
    return final


def responses_whole(service: Service, model: str) -> Heard:
    with openai_client(service) as client:
        return of_response(client.responses.create(**Asked(model).responses()))


def responses_raw(service: Service, model: str) -> Heard:
    with openai_client(service) as client:
        events = list(client.responses.create(**Asked(model).responses(), stream=True))
    final = events[-1]
    if final.type not in ("response.completed", "response.incomplete"):
        return Heard("", None, None, None, None)
    got = of_response(final.response)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == got.text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return got


def responses_helper(service: Service, model: str) -> Heard:
    with openai_client(service) as client, client.responses.stream(**Asked(model).responses()) as it:
        events = list(it)
        pieces = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        # As with OpenAI itself, the helper has a final response only of what was completed.
        final = of_response(it.get_final_response() if events[-1].type == "response.completed" else events[-1].response)
    assert pieces == final.text
    return final


def messages_whole(service: Service, model: str) -> Heard:
    with anthropic_client(service) as client:
        return of_message(client.messages.create(**Asked(model).messages()))


def messages_raw(service: Service, model: str) -> Heard:
    with anthropic_client(service) as client:
        events = list(client.messages.create(**Asked(model).messages(), stream=True))
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    ends = [event for event in events if event.type == "message_delta"]
    if not ends:
        return Heard(text, None, None, None, None)
    usage = ends[0].usage
    total = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    return Heard(text, ends[0].delta.stop_reason, total, usage.output_tokens, usage.cache_read_input_tokens)


def messages_helper(service: Service, model: str) -> Heard:
    with anthropic_client(service) as client, client.messages.stream(**Asked(model).messages()) as it:
        pieces = "".join(it.text_stream)
        final = of_message(it.get_final_message())
    assert pieces == final.text
    return final


Way = Callable[[Service, str], Heard]
WAYS: Mapping[str, tuple[Way, ...]] = {
    "chat": (chat_whole, chat_raw, chat_helper),
    "responses": (responses_whole, responses_raw, responses_helper),
    "messages": (messages_whole, messages_raw, messages_helper),
}
EACH = pytest.mark.parametrize(("api", "way"), [(api, way) for api, some in WAYS.items() for way in some])
STREAMS = pytest.mark.parametrize(("api", "way"), [(api, way) for api, some in WAYS.items() for way in some[1:]])
STOPS: Mapping[str, Mapping[str, str]] = {
    "chat": {"end": "stop", "length": "length", "filtered": "content_filter", "refused": "stop"},
    "responses": {"end": "completed", "length": "max_output_tokens", "filtered": "content_filter", "refused": "completed"},
    "messages": {"end": "end_turn", "length": "max_tokens", "filtered": "refusal", "refused": "refusal"},
}


@EACH
@pytest.mark.parametrize("model", ["good", "empty", "long", "filtered", "refused"])
def test_the_sdks_read_text_usage_and_stop(service: Service, api: str, way: Way, model: str) -> None:
    reply = CASES[model].reply
    got = way(service, model)
    assert (got.stop, got.input, got.output, got.cached) == (STOPS[api][reply.stop], 9, 2, 4)
    told = reply.stop == "refused" and api != "messages"
    assert (got.refusal if told else got.text) == reply.text
    assert got.text == "" if told else got.refusal is None


@pytest.mark.parametrize(("model", "kind"), [("long", openai.LengthFinishReasonError), ("filtered", openai.ContentFilterFinishReasonError)])
def test_the_openai_helper_takes_no_incomplete_answer_for_a_final_one(service: Service, model: str, kind: type[Exception]) -> None:
    with openai_client(service) as client, client.chat.completions.stream(**Asked(model).chat()) as it:
        list(it)
        with pytest.raises(kind):
            it.get_final_completion()


class Order(BaseModel):
    id: str
    n: int


def test_the_sdks_parse_structured_answers_and_we_read_the_schema_that_they_send(service: Service) -> None:
    with openai_client(service) as client:
        chat = client.chat.completions.parse(**Asked("json").chat(), response_format=Order).choices[0].message.parsed
        response = client.responses.parse(**Asked("json").responses(), text_format=Order).output_parsed
    with anthropic_client(service) as other:
        message = other.messages.parse(**Asked("json").messages(), output_format=Order).parsed_output
    assert chat == response == message == Order(id="A-1", n=2)
    assert [sorted(json.loads(one.schema)["properties"]) for one in service.seen[-3:]] == [["id", "n"]] * 3
    assert [one.unsupported for one in service.seen[-3:]] == [()] * 3


OPENAI_ERRORS: Mapping[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError, 401: openai.AuthenticationError, 403: openai.PermissionDeniedError, 404: openai.NotFoundError,
    409: openai.ConflictError, 429: openai.RateLimitError, 500: openai.InternalServerError, 503: openai.InternalServerError,
}  # fmt: skip
ANTHROPIC_ERRORS: Mapping[int, tuple[type[anthropic.APIStatusError], str]] = {
    400: (anthropic.BadRequestError, "invalid_request_error"),
    401: (anthropic.AuthenticationError, "authentication_error"),
    403: (anthropic.PermissionDeniedError, "permission_error"),
    404: (anthropic.NotFoundError, "not_found_error"),
    409: (anthropic.ConflictError, "conflict_error"),
    413: (anthropic.APIStatusError, "request_too_large"),
    429: (anthropic.RateLimitError, "rate_limit_error"),
    500: (anthropic.InternalServerError, "api_error"),
    503: (anthropic.InternalServerError, "api_error"),
    529: (anthropic.InternalServerError, "overloaded_error"),
}


@pytest.mark.parametrize("status", OPENAI_ERRORS)
@pytest.mark.parametrize("way", [*WAYS["chat"], *WAYS["responses"]])
def test_the_openai_sdk_raises_its_own_errors(service: Service, way: Way, status: int) -> None:
    with pytest.raises(OPENAI_ERRORS[status], match="No, thank you") as caught:
        way(service, f"status-{status}")
    assert (caught.value.status_code, caught.value.code) == (status, "because")


@pytest.mark.parametrize("status", ANTHROPIC_ERRORS)
@pytest.mark.parametrize("way", WAYS["messages"])
def test_the_anthropic_sdk_raises_its_own_errors(service: Service, way: Way, status: int) -> None:
    kind, name = ANTHROPIC_ERRORS[status]
    with pytest.raises(kind, match="No, thank you") as caught:
        way(service, f"status-{status}")
    assert (caught.value.status_code, caught.value.type, caught.value.error_code) == (status, name, "because")


@STREAMS
def test_an_error_in_the_middle_of_a_stream_is_raised_by_the_sdk(service: Service, api: str, way: Way) -> None:
    kind: type[Exception] = anthropic.APIStatusError if api == "messages" else openai.APIError
    with pytest.raises(kind, match="the provider is away") as caught:
        way(service, "fails")
    if isinstance(caught.value, openai.APIError):
        assert (caught.value.type, caught.value.code) == ("server_error", "upstream")
    else:
        assert getattr(caught.value, "type", None) == "api_error"


@STREAMS
def test_a_connection_that_is_reset_is_never_a_stop(service: Service, api: str, way: Way) -> None:
    kinds = (openai.APIConnectionError, anthropic.APIConnectionError, httpx2.TransportError)
    with pytest.raises(kinds):
        way(service, "resets")


@pytest.mark.parametrize(("api", "way"), [(api, some[1]) for api, some in WAYS.items()])
def test_a_stream_that_only_ends_has_no_stop_and_no_usage(service: Service, api: str, way: Way) -> None:
    got = way(service, "ends")
    assert (got.stop, got.input, got.output) == (None, None, None)


def test_the_asynchronous_sdks_read_the_same(service: Service) -> None:
    async def run() -> tuple[Heard, ...]:
        async with (
            openai.AsyncOpenAI(api_key="ps-x", base_url=f"{service.url}/v1", max_retries=0, timeout=20) as one,
            anthropic.AsyncAnthropic(api_key="ps-x", base_url=service.url, max_retries=0, timeout=20) as other,
        ):
            whole = of_chat(await one.chat.completions.create(**Asked("good").chat()))
            async with one.responses.stream(**Asked("good").responses()) as it:
                response = of_response(await it.get_final_response())
            async with other.messages.stream(**Asked("good").messages()) as stream:
                message = of_message(await stream.get_final_message())
        return whole, response, message

    assert [(one.text, one.input, one.output, one.cached) for one in asyncio.run(run())] == [(TEXT, 9, 2, 4)] * 3


def test_what_the_sdks_send_is_read(service: Service) -> None:
    extra = {"prompt_variables": {"product": "Lamp"}}
    with openai_client(service) as client:
        client.chat.completions.create(**Asked("good").chat(), user="ann", metadata={"a": "b"}, max_completion_tokens=7, extra_body=extra)
        client.responses.create(
            **Asked("good").responses(), instructions="Be kind.", safety_identifier="5f", max_output_tokens=20, store=True, extra_body=extra
        )
    with anthropic_client(service) as other:
        system = [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
        call: dict[str, Any] = {**Asked("good").messages(), "system": system, "metadata": {"user_id": "ann"}, "extra_body": extra}
        other.messages.create(**call, extra_headers={"anthropic-version": "2023-06-01"}, stop_sequences=["END"])
    chat, response, message = service.seen[-3:]
    assert [one.variables for one in (chat, response, message)] == [{"product": "Lamp"}] * 3
    assert [one.user for one in (chat, response, message)] == ["ann", "5f", "ann"]
    assert [one.system for one in (chat, response, message)] == ["", "Be kind.", "Be kind."]
    assert [one.parameters.get("max_tokens") for one in (chat, response, message)] == [7, 20, 50]
    assert (chat.metadata, response.ignored, message.parameters["stop"]) == ({"a": "b"}, ("store",), "END")


def test_tools_and_images_of_the_sdks_are_told_as_unsupported(service: Service) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    tool: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    with openai_client(service) as client:
        client.chat.completions.create(model="good", messages=[{"role": "user", "content": [image]}], tools=[tool])  # type: ignore[call-overload]
    with anthropic_client(service) as other:
        call: dict[str, Any] = {"model": "good", "max_tokens": 5, "messages": [{"role": "user", "content": [picture]}]}
        other.messages.create(**call, tools=[{"name": "f", "input_schema": {"type": "object"}}])
    chat, message = service.seen[-2:]
    assert chat.unsupported == ("image_url content (messages[0].content[0])", "tools")
    assert message.unsupported == ("image content (messages[0].content[0])", "tools")


def test_a_body_that_is_refused_is_the_sdks_bad_request(service: Service) -> None:
    with openai_client(service) as client, pytest.raises(openai.BadRequestError, match="prompt_variables must be an object") as caught:
        client.responses.create(**Asked("good").responses(), extra_body={"prompt_variables": 3})
    assert caught.value.code == "bad_request"


def test_the_anthropic_sdk_counts_tokens(service: Service) -> None:
    with anthropic_client(service) as client:
        counted = client.messages.count_tokens(model="s", system="Be kind.", messages=[{"role": "user", "content": "hi"}])
    assert counted.input_tokens == 17
    assert (service.seen[-1].model, service.seen[-1].system, service.seen[-1].parameters) == ("s", "Be kind.", {})


def test_a_client_that_did_not_ask_for_usage_gets_none_in_its_stream(service: Service) -> None:
    with openai_client(service) as client:
        chunks = list(client.chat.completions.create(**Asked("good").chat(), stream=True))
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


@API
def test_a_reply_that_came_in_no_pieces_is_written_at_the_end(api: str) -> None:
    one, reply = CODECS[api], Reply(text="all at once", model="up/m", usage=USAGE)
    writer = one.writer(model="m", id="id_1")
    decoder = one.stream(REQUEST)
    chunks = decoder.feed(writer.start() + writer.chunk(Chunk("", reply)))
    assert ("".join(chunk.text for chunk in chunks), decoder.close()) == ("all at once", reply)


def test_a_refusal_after_words_that_are_out_is_a_filter_to_openais_clients() -> None:
    reply = Reply(text="half", model="m", stop="refused")
    writer = CHAT.writer(model="m", id="c")
    data = writer.start() + writer.chunk(Chunk("half")) + writer.chunk(Chunk("", reply))
    assert b'"finish_reason":"content_filter"' in data
    assert b'"refusal":"half"' not in data


def test_errors_are_encodable_whatever_they_repeat() -> None:
    for one in CODECS.values():
        json.loads(one.write_error(400, "\ud800", code="x"))
        one.writer(model="m", id="x").error(500, "\ud800")
    assert encode({"x": "ü"}) == '{"x":"ü"}'.encode()
