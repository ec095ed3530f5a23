"""Messages: what we send is what the official SDK would send, what it answers we read, and the other way round."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.lib._parse._transform import transform_schema
from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.catalog.models import facts
from promptsmith.chat import Chunk, Reply, Request, Turn, Usage
from promptsmith.errors import (
    AuthenticationFailed,
    InputError,
    MalformedReply,
    ModelError,
    ProviderDown,
    ProviderError,
    RateLimited,
    RequestRefused,
)
from promptsmith.models.wire import CachePlan, codec, encode, max_output
from promptsmith.models.wire.schemas import anthropic_structure

CODEC = codec("anthropic")
HAIKU = "anthropic/claude-haiku-5-5"
LABELS = '{"type": "string", "enum": ["positive", "negative"]}'
ORDER = '{"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}, "required": ["id", "n"]}'


def request(text: str = "I love it", **changes: Any) -> Request:
    base: dict[str, Any] = {"model": HAIKU, "system": "Classify.", "turns": (Turn("user", text),), "static": "ab" * 32}
    return Request(**(base | changes))


def body(one: Request, *, stream: bool = False, foreign: bool = False, cache: CachePlan | None = None) -> dict[str, Any]:
    return CODEC.body(one, stream=stream, facts=facts(one.model), foreign=foreign, cache=cache)


def with_sdk(answer: Callable[[httpx2.Request], httpx2.Response], call: Callable[[anthropic.Anthropic], Any]) -> Any:
    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        anthropic.Anthropic(api_key="sk-test", base_url="http://provider", http_client=http, max_retries=0) as client,
    ):
        return call(client)


def sent_by_sdk(made: dict[str, Any]) -> httpx2.Request:
    seen: list[httpx2.Request] = []

    def answer(http: httpx2.Request) -> httpx2.Response:
        seen.append(http)
        if made.get("stream"):
            return httpx2.Response(200, content=b"", headers={"content-type": "text/event-stream"})
        return httpx2.Response(200, content=message("x"))

    with_sdk(answer, lambda client: client.messages.create(**made))
    return seen[0]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def message(*content: Any, stop: Any = "end_turn", usage: Any = None) -> bytes:
    blocks = [text(block) if isinstance(block, str) else block for block in content]
    value = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-5-5", "content": blocks, "stop_reason": stop}
    return json.dumps(value | {"stop_sequence": None, "usage": usage or {"input_tokens": 10, "output_tokens": 2}}).encode()


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def streaming(*deltas: str, stop: str = "end_turn") -> bytes:
    start = {"input_tokens": 5, "cache_read_input_tokens": 600, "cache_creation_input_tokens": 0, "output_tokens": 1}
    return b"".join(
        [
            event("message_start", message={"id": "m", "usage": start}),
            event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
            event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
            event("content_block_stop", index=0),
            event("content_block_start", index=1, content_block=text("")),
            event("ping"),
            *(event("content_block_delta", index=1, delta={"type": "text_delta", "text": words}) for words in deltas),
            event("content_block_stop", index=1),
            event(
                "message_delta",
                delta={"stop_reason": stop, "stop_sequence": None},
                usage={"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}},
            ),
            event("message_stop"),
        ]
    )


def streamed(pieces: Iterator[bytes] | list[bytes], one: Request | None = None) -> tuple[str, Reply]:
    decoder = CODEC.stream(one or request())
    words = "".join(chunk.text for piece in pieces for chunk in decoder.feed(piece))
    return words, decoder.close()


# --- what is sent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "cache", "stream"),
    [
        ({}, None, False),
        ({"parameters": {"max_tokens": 20, "effort": "low", "thinking": False, "service_tier": "auto"}}, None, False),
        ({"parameters": {"max_tokens": 20, "stop": "END", "thinking": True}}, CachePlan(mark=True, ttl="1h"), True),
        ({"schema": LABELS}, CachePlan(mark=True, ttl="5m"), False),
        ({"schema": ORDER, "turns": (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "ü\u2028"))}, None, False),
    ],
)
def test_the_body_auth_and_version_are_what_the_sdk_would_send(changes: dict[str, Any], cache: CachePlan | None, stream: bool) -> None:
    made = body(request(**changes), cache=cache, stream=stream)
    theirs = sent_by_sdk(made)
    assert json.loads(theirs.content) == json.loads(encode(made)) == made
    ours = CODEC.headers("sk-test")
    assert {name: theirs.headers[name] for name in ours} == ours
    assert set(ours) == {"Authorization", "anthropic-version"}
    assert theirs.url.path == CODEC.path


def test_static_text_is_one_marked_block_when_planned() -> None:
    made = body(request(), cache=CachePlan(mark=True, ttl="1h"))
    assert made["system"] == [{"type": "text", "text": "Classify.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert json.dumps(made).count("cache_control") == 1
    assert body(request(), cache=CachePlan(mark=False))["system"] == "Classify."
    assert body(request(), cache=CachePlan(mark=True), foreign=True)["system"] == "Classify."
    assert "system" not in body(request(system=""), cache=CachePlan(mark=True))


def test_the_prefix_does_not_depend_on_the_input() -> None:
    first, second = (encode(body(request(words), cache=CachePlan(mark=True))) for words in ("one", "another"))
    shared = first.index(b'"messages"')
    assert first[:shared] == second[:shared]


def test_a_ttl_that_the_model_does_not_have() -> None:
    with pytest.raises(InputError, match="5m or 1h, not '30m'"):
        body(request(), cache=CachePlan(mark=True, ttl="30m"))


def test_max_tokens_is_always_there() -> None:
    one = request()
    assert body(one)["max_tokens"] == max_output(one, facts(HAIKU)) > 1024
    assert body(request(parameters={"max_tokens": 3}))["max_tokens"] == 3


@pytest.mark.parametrize(
    ("model", "parameters", "words"),
    [
        (HAIKU, {"temperature": 0}, "does not take the parameter temperature: Anthropic's API has no sampling parameters"),
        (HAIKU, {"temperature": True}, "temperature"),
        (HAIKU, {"top_p": 0.5}, "top_p"),
        (HAIKU, {"top_k": 1}, "top_k"),
        ("gateway/claude", {"temperature": 0.5}, "temperature"),
        (HAIKU, {"seed": 1}, "parameter seed\n  hint: it takes max_tokens, effort"),
        (HAIKU, {"stop_sequences": "x"}, "called stop here"),
        (HAIKU, {"effort": "none"}, "has no effort 'none'\n  hint: it has low, medium"),
        (HAIKU, {"thinking": "on"}, "true or false"),
        ("anthropic/claude-opus-5-5", {"thinking": False}, "can't be turned off"),
        (HAIKU, {"output_config": "x"}, "parameter output_config"),
    ],
)
def test_a_parameter_that_is_not_taken_is_named(model: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        body(request(model=model, parameters=parameters), foreign=model.startswith("gateway/"))
    assert words in str(caught.value)


@pytest.mark.parametrize("foreign", [False, True])
def test_sampling_parameters_are_never_sent_not_even_their_defaults(foreign: bool) -> None:
    made = body(
        request(model="gateway/claude" if foreign else HAIKU, parameters={"temperature": 1.0, "top_p": 1, "top_k": None}), foreign=foreign
    )
    assert not {"temperature", "top_p", "top_k"} & set(made)


def test_no_prefill() -> None:
    with pytest.raises(InputError, match="prefill"):
        body(request(turns=(Turn("user", "x"), Turn("assistant", "The answer is"))))


# --- structured output ------------------------------------------------------------------------------------


def form(schema: Any) -> Any:
    made = body(request(schema=schema if isinstance(schema, str) else json.dumps(schema)))
    return made.get("output_config", {}).get("format", {}).get("schema")


def test_labels_are_asked_for_inside_an_object() -> None:
    assert form(LABELS) == {
        "type": "object",
        "properties": {"answer": {"enum": ["positive", "negative"]}},
        "additionalProperties": False,
        "required": ["answer"],
    }


leaf = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={
            "format": st.sampled_from(["date", "uuid", "color"]),
            "minLength": st.integers(0, 3),
            "pattern": st.just("^a"),
            "description": st.just("d"),
            "title": st.just("t"),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])}, optional={"minimum": st.integers(0, 3), "description": st.just("d")}
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["boolean", "null"])}, optional={"default": st.none()}),
    st.fixed_dictionaries({"enum": st.lists(st.sampled_from(["a", 1, None]), min_size=1)}, optional={"type": st.just("string")}),
    st.just({"const": "x"}),
)


def bigger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3)
    objects = fields.flatmap(
        lambda properties: st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.just(properties)},
            optional={"required": st.just(sorted(properties)[:1]), "additionalProperties": st.just(False), "maxProperties": st.just(9)},
        )
    )
    lists = st.fixed_dictionaries(
        {"type": st.just("array"), "items": inner}, optional={"minItems": st.integers(0, 3), "maxItems": st.just(4)}
    )
    unions = st.sampled_from(["anyOf", "oneOf", "allOf"]).flatmap(
        lambda name: st.fixed_dictionaries({name: st.lists(inner, min_size=1, max_size=2)})
    )
    return st.one_of(objects, lists, unions)


@given(st.dictionaries(st.sampled_from("xyz"), st.recursive(leaf, bigger, max_leaves=6), min_size=1), st.booleans())
@settings(deadline=None)
def test_schemas_become_what_the_sdks_transform_makes(properties: dict[str, Any], defs: bool) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": list(properties)}
    if defs:
        schema |= {"$defs": {"d": {"type": "string", "maxLength": 3}}, "properties": properties | {"d": {"$ref": "#/$defs/d"}}}
    made = anthropic_structure(json.dumps(schema))
    assert made is not None
    assert made.schema == transform_schema(json.loads(json.dumps(schema)))


def test_several_types_become_variants() -> None:
    schema = {"type": "object", "properties": {"a": {"type": ["string", "null"], "maxLength": 3, "description": "d"}}, "required": ["a"]}
    variants = [{"type": "string", "description": "{maxLength: 3}"}, {"type": "null"}]
    assert form(schema)["properties"]["a"] == {"anyOf": variants, "description": "d"}


@pytest.mark.parametrize(
    "inner",
    [
        {"type": "object", "additionalProperties": {"type": "string"}},  # the API would allow only the empty object
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True},
        {"type": "object"},
        {},
        True,
        {"$ref": "#"},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.org/x"},
        {"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]},
    ],
)
def test_a_schema_that_would_lose_its_meaning_is_not_sent(inner: Any) -> None:
    assert form({"type": "object", "properties": {"x": inner}, "required": ["x"]}) is None


def test_a_recursive_schema_is_not_sent() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
    assert form({"type": "object", "properties": {"x": {"$ref": "#/$defs/node"}}, "required": ["x"], "$defs": {"node": node}}) is None


@pytest.mark.parametrize("schema", ["", '{"type": "string", "maxLength": 9}', "{}", '{"type": ["object", "string"]}'])
def test_free_text_and_open_tops_get_no_structure(schema: str) -> None:
    assert form(schema) is None


def test_answers_are_unwrapped_alike_whole_and_streamed() -> None:
    one = request(schema=LABELS)
    assert CODEC.reply(message('{"answer":', ' "positive"}'), one).text == "positive"
    assert streamed([streaming(*'{"answer": "positive"}')], one) == ("positive", CODEC_REPLY)
    assert streamed([streaming("posi", "tive")], one) == ("positive", CODEC_REPLY)


CODEC_REPLY = Reply(text="positive", model=HAIKU, usage=Usage(605, 9, cached=600, reasoning=4))

# --- what comes back --------------------------------------------------------------------------------------


def test_a_reply() -> None:
    usage = {
        "input_tokens": 20,
        "cache_creation_input_tokens": 900,
        "cache_read_input_tokens": 1024,
        "output_tokens": 30,
        "output_tokens_details": {"thinking_tokens": 25},
    }
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    reply = CODEC.reply(message(thinking, "fi", "ne", usage=usage), request(), request_id="req_1")
    expected = Usage(input=1944, output=30, cached=1024, written=900, reasoning=25)
    assert reply == Reply(text="fine", model=HAIKU, usage=expected, request_id="req_1")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": None, "output_tokens_details": None}, Usage(5, 1)),
        ({"input_tokens": "many", "output_tokens": -1}, Usage()),
        ("free", Usage()),
    ],
)
def test_absent_and_odd_usage_is_tolerated(usage: Any, expected: Usage) -> None:
    assert CODEC.reply(message("x", usage=usage), request()).usage == expected
    assert CODEC.reply(b'{"type": "message", "content": [], "stop_reason": "end_turn"}', request()).usage == Usage()


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("end_turn", "end"),
        ("stop_sequence", "end"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refused"),
    ],
)
def test_stops(reason: str, stop: str) -> None:
    assert CODEC.reply(message("x", stop=reason), request()).stop == stop
    assert streamed([streaming("x", stop=reason)])[1].stop == stop


def test_a_tool_call_is_refused() -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    with pytest.raises(ModelError, match="tool call"):
        CODEC.reply(message("x", call, stop="tool_use"), request())
    with pytest.raises(ModelError, match="tool call"):
        streamed([event("content_block_start", index=0, content_block=call)])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "answered with nothing"),
        (b"<html><title>Bad Gateway</title>", "an HTML page titled 'Bad Gateway'"),
        (b"[1]", "begin with '[1]'"),
        (b"{}", "without content"),
        (b'{"content": "text"}', "without content"),
        (message("x", stop=None), "for the reason None"),
        (message("x", stop="pause_turn"), "for the reason 'pause_turn'"),
    ],
)
def test_what_is_no_reply(data: bytes, words: str) -> None:
    with pytest.raises(MalformedReply) as caught:
        CODEC.reply(data, request(), request_id="req_9")
    assert words in str(caught.value)
    assert (caught.value.provider, caught.value.request_id) == ("anthropic", "req_9")


def test_an_error_that_came_with_status_200() -> None:
    with pytest.raises(ProviderDown) as caught:
        CODEC.reply(told("overloaded_error"), request())
    assert (caught.value.status, caught.value.request_id) == (529, "req_body")
    assert "anthropic is overloaded (529)" in caught.value.message
    with pytest.raises(RateLimited, match="slow down"):
        CODEC.reply(b'{"error": {"message": "slow down", "type": "rate_limit_error"}}', request())


def test_lone_surrogates_become_replacement_characters() -> None:
    assert CODEC.reply(message("\ud83d", "\ude00\udc00"), request()).text == "😀\ufffd"
    assert streamed([streaming("\ud83d", "\ude00", "\udc00", "\ud800")])[1].text == "😀\ufffd\ufffd"


# --- streams ----------------------------------------------------------------------------------------------

STREAM = streaming("pösi", "tive")


def test_a_stream() -> None:
    decoder = CODEC.stream(request(), request_id="req_2")
    assert [chunk.text for chunk in decoder.feed(STREAM)] == ["pösi", "tive"]
    assert decoder.close() == Reply(text="pösitive", model=HAIKU, usage=Usage(605, 9, cached=600, reasoning=4), request_id="req_2")


def test_a_stream_cut_anywhere_gives_the_same() -> None:
    whole = streamed([STREAM])
    for place in range(len(STREAM)):
        assert streamed([STREAM[:place], STREAM[place:]]) == whole
    assert streamed([bytes([byte]) for byte in STREAM.replace(b"\n", b"\r\n")]) == whole


def test_a_stream_that_breaks_off_anywhere_is_never_a_reply() -> None:
    end = len(STREAM) - 2  # without the empty line the last event is whole
    for place in range(end):
        decoder = CODEC.stream(request())
        decoder.feed(STREAM[:place])
        with pytest.raises(ProviderDown, match="broke off") as caught:
            decoder.close()
        assert caught.value.retryable
    decoder = CODEC.stream(request())
    decoder.feed(STREAM[:end])
    assert decoder.close().complete


def test_a_stream_that_stops_without_a_reason() -> None:
    decoder = CODEC.stream(request())
    decoder.feed(event("message_stop"))
    with pytest.raises(ProviderDown, match="without saying why"):
        decoder.close()


def test_what_came_until_a_cut() -> None:
    decoder = CODEC.stream(request())
    decoder.feed(STREAM[: STREAM.index(b"tive")])
    part = decoder.so_far()
    assert (part.text, part.stop, part.usage) == ("pösi", "aborted", Usage(605, 1, cached=600))


def test_events_of_kinds_that_are_not_known_yet_are_passed_over() -> None:
    assert streamed([event("weather", sky="blue"), STREAM])[0] == "pösitive"


@pytest.mark.parametrize(
    ("kind", "error", "status", "retryable"),
    [
        ("overloaded_error", ProviderDown, 529, True),
        ("api_error", ProviderDown, 500, True),
        ("timeout_error", ProviderDown, 504, True),
        ("rate_limit_error", RateLimited, 429, True),
        ("invalid_request_error", RequestRefused, 400, False),
        ("authentication_error", AuthenticationFailed, 401, False),
        ("something_new", ProviderDown, 500, True),
    ],
)
def test_an_error_in_the_middle_of_a_stream(kind: str, error: type[ProviderError], status: int, retryable: bool) -> None:
    decoder = CODEC.stream(request(), request_id="req_3")
    decoder.feed(STREAM[: STREAM.index(b"event: content_block_stop")])
    with pytest.raises(error) as caught:
        decoder.feed(b"event: error\ndata: " + told(kind) + b"\n\n")
    assert (caught.value.status, caught.value.retryable, caught.value.request_id) == (status, retryable, "req_3")


@pytest.mark.parametrize("data", [b"data: {no\n\n", b"data: [1]\n\n", b"<html>\n", b"data: \xff\n\n"])
def test_garbage_in_a_stream(data: bytes) -> None:
    with pytest.raises(MalformedReply) as caught:
        CODEC.stream(request()).feed(data)
    assert caught.value.provider == "anthropic"


# --- errors -----------------------------------------------------------------------------------------------


def told(kind: str = "invalid_request_error", **more: Any) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": "No.", **more}, "request_id": "req_body"}).encode()


@pytest.mark.parametrize(
    ("status", "data", "kind", "retryable"),
    [
        (400, told(), RequestRefused, False),
        (401, told("authentication_error"), AuthenticationFailed, False),
        (402, told("billing_error"), RequestRefused, False),
        (404, told("not_found_error"), RequestRefused, False),
        (413, told("request_too_large"), RequestRefused, False),
        (429, told("rate_limit_error"), RateLimited, True),
        (429, told("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}), RateLimited, False),
        (429, told("rate_limit_error", details={"error_code": "ramp_limit_exceeded"}), RateLimited, True),
        (500, told("api_error"), ProviderDown, True),
        (529, told("overloaded_error"), ProviderDown, True),
    ],
)
def test_errors_by_status(status: int, data: bytes, kind: type[ProviderError], retryable: bool) -> None:
    error = CODEC.error(status, {"Request-Id": "req_7", "retry-after": "2"}, data)
    assert type(error) is kind
    assert (error.status, error.retryable, error.request_id, error.provider, error.retry_after) == (
        status,
        retryable,
        "req_7",
        "anthropic",
        2.0,
    )
    assert f"({status}): No." in error.message


def test_the_request_id_may_be_in_the_body_or_in_another_header() -> None:
    assert CODEC.error(400, {}, told()).request_id == "req_body"
    assert CODEC.error(400, {"X-Request-ID": "a"}, b"").request_id == "a"
    assert CODEC.request_id({}) == ""


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 503, 504, 529])
@pytest.mark.parametrize("should", [None, "true", "false"])
def test_another_try_is_decided_as_the_sdk_does(status: int, should: str | None) -> None:
    headers = {} if should is None else {"x-should-retry": should}
    with anthropic.Anthropic(api_key="x") as client:
        theirs = client._should_retry(httpx2.Response(status, headers=headers, request=httpx2.Request("POST", "http://provider")))
    assert CODEC.error(status, headers, told()).retryable is theirs


# --- as a server ------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
requests = st.builds(
    request,
    system=texts,
    turns=st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), texts), max_size=3).map(
        lambda turns: (*turns, Turn("user", "x"))
    ),
    parameters=st.fixed_dictionaries(
        {"max_tokens": st.integers(1, 10**6)},
        optional={
            "effort": st.sampled_from(facts(HAIKU).efforts),
            "thinking": st.booleans(),
            "stop": texts.filter(bool),
            "service_tier": st.sampled_from(["auto", "standard_only"]),
            "speed": st.just("fast"),
        },
    ),
    schema=st.sampled_from(["", LABELS, ORDER]),
)
replies = st.builds(
    Reply,
    text=texts,
    model=st.just(HAIKU),
    stop=st.sampled_from(["end", "length", "refused"]),
    usage=st.builds(
        Usage,
        input=st.integers(500, 10**6),
        output=st.integers(0, 999),
        cached=st.integers(0, 250),
        written=st.integers(0, 250),
        reasoning=st.integers(0, 99),
    ),
)


@given(requests, st.booleans(), st.booleans())
@settings(deadline=None)
def test_what_we_send_we_read_as_the_same_request(one: Request, stream: bool, mark: bool) -> None:
    made = body(one, stream=stream, cache=CachePlan(mark=mark, ttl="1h"))
    got = CODEC.read_request(encode(made))
    assert (got.model, got.system, got.turns, dict(got.parameters)) == ("claude-haiku-5-5", one.system, one.turns, dict(one.parameters))
    assert (got.stream, got.unsupported) == (stream, ())
    assert set(got.ignored) <= {"output_config.format", "system.cache_control"}  # what the one prompt has, and not each client
    sent = made.get("output_config", {}).get("format")
    assert (json.loads(got.schema) if got.schema else None) == (sent["schema"] if sent else None)


@given(replies)
@settings(deadline=None)
def test_what_we_answer_we_read_as_the_same_reply(reply: Reply) -> None:
    data = CODEC.write_reply(reply, model="m", id="msg_1")
    assert CODEC.reply(data, request()) == reply
    Message.model_validate_json(data, strict=True)


@given(replies, st.integers(1, 9))
@settings(deadline=None)
def test_what_we_stream_we_read_as_the_same_reply(reply: Reply, size: int) -> None:
    data = b"".join(written(reply, size))
    assert streamed([bytes([byte]) for byte in data]) == (reply.text, reply)


def written(reply: Reply, size: int) -> Iterator[bytes]:
    writer = CODEC.writer(model="m", id="msg_1")
    yield writer.start()
    for start in range(0, len(reply.text), size):
        yield writer.chunk(Chunk(reply.text[start : start + size]))
    yield writer.chunk(Chunk("", reply))


def test_the_sdk_reads_our_replies_and_streams() -> None:
    reply = Reply(text="pösitive", model="m", usage=Usage(9, 2, cached=4, written=1, reasoning=1))
    call = {"model": "x", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    whole = with_sdk(
        lambda _: httpx2.Response(200, content=CODEC.write_reply(reply, model="s@production", id="msg_1")),
        lambda client: client.messages.create(**call),
    )
    assert (whole.content[0].text, whole.stop_reason, whole.model) == ("pösitive", "end_turn", "s@production")
    assert (whole.usage.input_tokens, whole.usage.cache_read_input_tokens, whole.usage.output_tokens_details.thinking_tokens) == (4, 4, 1)

    def run(client: anthropic.Anthropic) -> tuple[str, Any]:
        with client.messages.stream(**call) as stream:
            return "".join(stream.text_stream), stream.get_final_message()

    words, final = with_sdk(
        lambda _: httpx2.Response(200, content=b"".join(written(reply, 3)), headers={"content-type": "text/event-stream"}), run
    )
    assert (words, final.stop_reason) == ("pösitive", "end_turn")
    assert (final.usage.input_tokens, final.usage.cache_read_input_tokens, final.usage.output_tokens) == (4, 4, 2)


def test_a_filtered_reply_stays_incomplete_for_the_client() -> None:
    filtered = Reply(text="x", model="m", stop="filtered")
    assert CODEC.reply(CODEC.write_reply(filtered, model="m", id="m"), request()).stop == "refused"


def test_an_aborted_reply_is_never_written_as_a_whole_one() -> None:
    with pytest.raises(ModelError, match="aborted"):
        CODEC.writer(model="m", id="m").chunk(Chunk("", Reply(text="x", model="m", stop="aborted")))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (529, anthropic.APIStatusError),
    ],
)
def test_the_sdk_reads_our_errors(status: int, kind: type[anthropic.APIStatusError]) -> None:
    data = CODEC.write_error(status, "No such prompt.", request_id="req_5")
    call = {"model": "x", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(kind, match="No such prompt") as caught:
        with_sdk(lambda _: httpx2.Response(status, content=data), lambda client: client.messages.create(**call))
    assert caught.value.type == json.loads(data)["error"]["type"]
    assert CODEC.error(status, {}, data).request_id == "req_5"


def test_the_sdk_sees_an_error_in_our_stream() -> None:
    writer = CODEC.writer(model="m", id="m")
    data = writer.start() + writer.error(529, "the provider is away")
    call = {"model": "x", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], "stream": True}
    with pytest.raises(anthropic.APIStatusError, match="the provider is away"):
        with_sdk(
            lambda _: httpx2.Response(200, content=data, headers={"content-type": "text/event-stream"}),
            lambda client: list(client.messages.create(**call)),
        )
    with pytest.raises(ProviderDown, match="the provider is away"):
        streamed([data])


def incoming(**fields: Any) -> Any:
    base = {"model": "sentiment@production", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    return CODEC.read_request(json.dumps(base | fields).encode())


def test_a_clients_request() -> None:
    got = incoming(
        system=[{"type": "text", "text": "A"}, {"type": "text", "text": "B", "cache_control": {"type": "ephemeral"}}],
        stop_sequences=["END"],
        temperature=0.5,
        thinking={"type": "enabled", "budget_tokens": 2000},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        metadata={"user_id": "u"},
        prompt_variables={"name": "Ann"},
        betas=["x"],
    )
    assert (got.system, got.turns) == ("AB", (Turn("user", "hi"),))
    assert got.parameters == {"max_tokens": 9, "stop": "END", "temperature": 0.5, "thinking": True, "effort": "low"}
    assert (got.schema, got.metadata, got.variables) == ('{"type":"object"}', {"user_id": "u"}, {"name": "Ann"})
    assert got.ignored == ("betas", "output_config.format", "system.cache_control", "thinking.budget_tokens")
    assert got.unsupported == ()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": [{}]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"stop_sequences": ["a", "b"]}, "stop_sequences with several texts"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image content (messages[0].content[0])"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_result content (messages[0].content[0])"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]},
            "a system message among the turns (messages[1])",
        ),
    ],
)
def test_what_is_not_done_is_named(fields: dict[str, Any], named: str) -> None:
    assert incoming(**fields).unsupported == (named,)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"{}", "model is missing"),
        (b'{"model": "x"}', "max_tokens is missing"),
        (b'{"model": "x", "max_tokens": 5}', "messages is missing"),
        (b'{"model": "x", "max_tokens": 5, "messages": [{"role": "boss"}]}', "messages[0].role"),
        (b'{"model": "x", "max_tokens": 5, "messages": [], "system": 3}', "system must be"),
        (b'{"model": "x", "max_tokens": 5, "messages": [], "output_config": {"format": {}}}', "output_config.format"),
        (b'{"model": "x", "max_tokens": true, "messages": []}', "max_tokens must be a whole number"),
    ],
)
def test_a_request_that_is_wrong_is_told_where(data: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        CODEC.read_request(data)
    assert words in str(caught.value)


NAMES = [
    "model",
    "max_tokens",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "delta",
    "error",
    "stop_reason",
    "usage",
    "message",
    "system",
    "content_block",
]
KINDS = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "message_delta",
    "message_stop",
    "text",
    "text_delta",
    "error",
    "user",
]


@given(
    st.recursive(
        st.none() | st.integers() | st.sampled_from(KINDS),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
        max_leaves=25,
    )
)
@settings(deadline=None)
def test_any_json_gives_a_value_or_an_error_of_ours(value: Any) -> None:
    data = json.dumps(value).encode()
    for read in (lambda: CODEC.read_request(data), lambda: CODEC.reply(data, request()), lambda: streamed([b"data: " + data + b"\n\n"])):
        try:
            read()
        except (InputError, ProviderError):
            pass
    assert isinstance(CODEC.error(500, {}, data), ProviderError)
