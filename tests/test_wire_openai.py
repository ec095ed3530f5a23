"""Chat completions: what we send is what the official SDK would send, what it answers we read, and the other way round."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import msgspec
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from promptsmith.catalog.models import ModelFacts, facts
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
from promptsmith.models.wire import CachePlan, codec, encode, max_output, retry_after
from promptsmith.models.wire.fields import DEFAULT_OUTPUT

CODEC = codec("openai")
LUNA = facts("openai/gpt-6-luna")
LABELS = '{"type": "string", "enum": ["positive", "negative"]}'
ORDER = '{"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}, "required": ["id", "n"]}'


def request(text: str = "I love it", **changes: Any) -> Request:
    base: dict[str, Any] = {"model": "openai/gpt-6-luna", "system": "Classify.", "turns": (Turn("user", text),), "static": "ab" * 32}
    return Request(**(base | changes))


def body(
    one: Request, known: ModelFacts | None = None, *, stream: bool = False, foreign: bool = False, cache: CachePlan | None = None
) -> dict[str, Any]:
    return CODEC.body(one, stream=stream, facts=known or facts(one.model), foreign=foreign, cache=cache)


def with_sdk(answer: Callable[[httpx2.Request], httpx2.Response], call: Callable[[openai.OpenAI], Any]) -> Any:
    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        openai.OpenAI(api_key="sk-test", base_url="http://provider/v1", http_client=http, max_retries=0) as client,
    ):
        return call(client)


def sent_by_sdk(made: dict[str, Any]) -> httpx2.Request:
    seen: list[httpx2.Request] = []

    def answer(http: httpx2.Request) -> httpx2.Response:
        seen.append(http)
        if made.get("stream"):
            return httpx2.Response(200, content=b"data: [DONE]\n\n", headers={"content-type": "text/event-stream"})
        return httpx2.Response(200, content=completion("x"))

    with_sdk(answer, lambda client: client.chat.completions.create(**made))
    return seen[0]


def completion(content: Any, *, finish: Any = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    value = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-6-luna-2026", "choices": [choice]}
    return json.dumps(value | {"usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}}).encode()


def events(*values: Any, done: bool = True) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values) + (b"data: [DONE]\n\n" if done else b"")


def delta(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}}


def streamed(pieces: Iterator[bytes] | list[bytes], one: Request | None = None) -> tuple[str, Reply]:
    decoder = CODEC.stream(one or request())
    text = "".join(chunk.text for piece in pieces for chunk in decoder.feed(piece))
    return text, decoder.close()


# --- what is sent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "cache", "stream"),
    [
        ({}, None, False),
        ({"parameters": {"max_tokens": 20, "effort": "low", "verbosity": "low", "service_tier": "flex"}}, None, False),
        ({"parameters": {"temperature": 0.2, "seed": 7, "stop": "\n"}}, None, True),
        ({"schema": LABELS}, CachePlan(mark=True, ttl="30m"), False),
        ({"schema": ORDER, "turns": (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "ü\u2028"))}, CachePlan(mark=True), True),
    ],
)
def test_the_body_and_auth_are_what_the_sdk_would_send(changes: dict[str, Any], cache: CachePlan | None, stream: bool) -> None:
    made = body(request(**changes), cache=cache, stream=stream)
    theirs = sent_by_sdk(made)
    assert json.loads(theirs.content) == json.loads(encode(made)) == made
    ours = CODEC.headers("sk-test")
    assert {name: theirs.headers[name] for name in ours} == ours
    assert theirs.url.path == "/v1" + CODEC.path


def test_static_text_is_one_marked_block_with_a_key_when_planned() -> None:
    made = body(request(), cache=CachePlan(mark=True, ttl="30m"))
    assert made["messages"][0] == {
        "role": "developer",
        "content": [{"type": "text", "text": "Classify.", "prompt_cache_breakpoint": {"mode": "explicit"}}],
    }
    assert made["prompt_cache_options"] == {"mode": "explicit", "ttl": "30m"}
    assert made["prompt_cache_key"] == "ps:" + ("ab" * 32)[:24]
    assert body(request(), cache=CachePlan(mark=True, key="ps:x:3"))["prompt_cache_key"] == "ps:x:3"


def test_without_a_plan_nothing_is_marked_and_the_costly_default_is_off() -> None:
    for plan in (None, CachePlan(mark=False)):
        made = body(request(), cache=plan)
        assert made["messages"][0]["content"] == "Classify."
        assert made["prompt_cache_options"] == {"mode": "explicit"}
        assert "prompt_cache_key" not in made


@pytest.mark.parametrize(("model", "foreign"), [("openai/gpt-5.5", False), ("openai/gpt-6-luna", True), ("local/qwen3", True)])
def test_no_cache_field_goes_to_who_does_not_know_it(model: str, foreign: bool) -> None:
    made = body(request(model=model), foreign=foreign, cache=CachePlan(mark=True))
    assert "prompt_cache" not in json.dumps(made)


def test_the_prefix_does_not_depend_on_the_input() -> None:
    first, second = (encode(body(request(text), cache=CachePlan(mark=True))) for text in ("one", "another"))
    shared = first.index(b'{"role":"user"')
    assert first[:shared] == second[:shared]


def test_a_ttl_that_the_model_does_not_have() -> None:
    with pytest.raises(InputError, match="30m, not '1h'"):
        body(request(), cache=CachePlan(mark=True, ttl="1h"))


def test_a_foreign_server_is_sent_only_what_any_server_knows() -> None:
    made = body(request(model="local/org/qwen3", schema=LABELS, parameters={"max_tokens": 9, "min_p": 0.1}), foreign=True, stream=True)
    assert made == {
        "model": "org/qwen3",
        "messages": [{"role": "system", "content": "Classify."}, {"role": "user", "content": "I love it"}],
        "max_tokens": 9,
        "min_p": 0.1,
        "stream": True,
    }


def test_what_is_known_of_a_foreign_server_is_used() -> None:
    known = msgspec.structs.replace(facts("local/qwen3"), structured=True, stream_usage=True)
    made = body(request(model="local/qwen3", schema=LABELS), known, foreign=True, stream=True)
    assert made["stream_options"] == {"include_usage": True}
    assert made["response_format"]["json_schema"]["strict"] is True


@pytest.mark.parametrize(
    ("model", "parameters", "words"),
    [
        ("openai/gpt-6-luna", {"temprature": 1}, "does not take the parameter temprature\n  hint: did you mean 'temperature'"),
        ("openai/gpt-6-luna", {"top_k": 3}, "parameter top_k"),
        ("openai/gpt-6-luna", {"thinking": True}, "parameter thinking"),
        ("openai/gpt-6-luna", {"reasoning_effort": "low"}, "called effort here"),
        ("openai/gpt-6-luna", {"max_completion_tokens": 5}, "called max_tokens here"),
        ("openai/gpt-6-luna", {"stream": True}, "parameter stream"),
        ("local/qwen3", {"messages": "x"}, "parameter messages"),
        ("openai/gpt-6-luna", {"effort": "huge"}, "has no effort 'huge'"),
        ("openai/gpt-4.1", {"effort": "low"}, "does no reasoning"),
        ("openai/gpt-5", {"temperature": 0}, "does not take the parameter temperature"),
        ("openai/gpt-6-luna", {"temperature": "hot"}, "must be a number, not 'hot'"),
        ("openai/gpt-6-luna", {"temperature": True}, "must be a number"),
        ("openai/gpt-6-luna", {"max_tokens": 0}, "from 1 up"),
        ("openai/gpt-6-luna", {"max_tokens": True}, "from 1 up"),
        ("openai/gpt-6-luna", {"max_tokens": 1.5}, "from 1 up"),
    ],
)
def test_a_parameter_that_is_not_taken_is_named(model: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        body(request(model=model, parameters=parameters), foreign=model.startswith("local/"))
    assert words in str(caught.value)


def test_what_happens_anyway_and_none_are_left_out() -> None:
    made = body(request(model="openai/gpt-5", parameters={"temperature": 1, "top_p": 1.0, "seed": None}))
    assert not {"temperature", "top_p", "seed"} & set(made)
    made = body(request(model="openai/gpt-4.1", parameters={"effort": "none", "thinking": False}))
    assert not {"effort", "reasoning_effort", "thinking"} & set(made)


@pytest.mark.parametrize(("name", "value"), [("thinking", False), ("thinking", 0), ("frequency_penalty", False), ("temperature", 0)])
def test_what_would_not_happen_anyway_is_not_left_out(name: str, value: Any) -> None:
    """A model that reasons by itself is not asked to stop by a parameter that is left out; and False is no number."""
    with pytest.raises(InputError, match=name):
        body(request(model="openai/gpt-5", parameters={name: value}))


@pytest.mark.parametrize("turns", [(), (Turn("assistant", "x"),), (Turn("user", "x"), Turn("assistant", "Sure:"))])
def test_there_must_be_something_to_answer(turns: tuple[Turn, ...]) -> None:
    with pytest.raises(InputError, match="last turn"):
        body(request(turns=turns))


def test_an_output_limit_is_always_sent() -> None:
    one = request()
    assert body(one)["max_completion_tokens"] == max_output(one, LUNA) == DEFAULT_OUTPUT + LUNA.reasoning_allowance
    small = msgspec.structs.replace(LUNA, max_output=100)
    assert max_output(one, small) == 100
    assert max_output(request(parameters={"max_tokens": 7}), LUNA) == 7


@pytest.mark.parametrize("key", ["sk-x\n", "sk x", "sk-ü", "\ud800"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InputError) as caught:
        CODEC.headers(key)
    assert "API key" in str(caught.value)
    assert key.strip() not in str(caught.value)


def test_no_key_no_header() -> None:
    assert CODEC.headers("") == {}


def test_a_lone_surrogate_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        encode(body(request("\ud800")))


# --- structured output ------------------------------------------------------------------------------------


def form(schema: str, model: str = "openai/gpt-6-luna") -> Any:
    made = body(request(model=model, schema=schema)).get("response_format")
    return made["json_schema"] if made else None


def test_labels_are_asked_for_inside_an_object() -> None:
    made = form(LABELS)
    assert made["strict"] is True
    assert made["schema"] == {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": ["positive", "negative"]}},
        "required": ["answer"],
        "additionalProperties": False,
    }


def test_an_object_with_all_keys_required_is_closed_and_strict() -> None:
    made = form('{"$schema": "x", "default": {}, ' + ORDER[1:])
    assert made["strict"] is True
    assert made["schema"] == json.loads(ORDER) | {"additionalProperties": False}


@pytest.mark.parametrize(
    "change",
    [
        {"required": ["id"]},  # strict mode would force the other key into every answer
        {"additionalProperties": True},
        {"additionalProperties": {"type": "string"}},
        {"properties": {"id": {"type": "string", "minLength": 2}, "n": {"type": "integer"}}},
        {"properties": {"id": {"type": "string", "format": "color"}, "n": {"type": "integer"}}},
        {"properties": {"id": {}, "n": {"type": "integer"}}},
        {"properties": {"id": {"oneOf": [{"type": "string"}]}, "n": {"type": "integer"}}},
        {"properties": {"id": {"type": "object"}, "n": {"type": "integer"}}},
        {"properties": {"id": {"type": "array"}, "n": {"type": "integer"}}},
        {"properties": {"id": {"enum": list(range(1001))}, "n": {"type": "integer"}}},
        {"allOf": [{"required": ["id"]}]},
    ],
)
def test_a_schema_that_does_not_qualify_goes_as_a_description(change: dict[str, Any]) -> None:
    schema = json.loads(ORDER) | change
    assert form(json.dumps(schema)) == {"name": "answer", "strict": False, "schema": schema}


def test_definitions_move_to_the_top_when_wrapped() -> None:
    made = form('{"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "integer"}}}')
    assert made["strict"] is True
    assert made["schema"]["$defs"] == {"x": {"type": "integer"}}
    assert made["schema"]["properties"]["answer"] == {"type": "array", "items": {"$ref": "#/$defs/x"}}


@pytest.mark.parametrize(
    "schema",
    [
        "",
        '{"type": "string"}',
        '{"type": "string", "maxLength": 9}',
        "{}",
        "true",
        "{no",
        '{"type": ["object", "null"]}',
        '{"anyOf": [{"type": "object"}]}',
    ],
)
def test_free_text_and_open_tops_get_no_structure(schema: str) -> None:
    assert form(schema) is None


def test_a_model_without_structured_output_gets_none() -> None:
    assert form(LABELS, "openai/gpt-4-turbo") is None


@pytest.mark.parametrize(
    ("schema", "content", "text"),
    [
        (LABELS, '{"answer": "positive"}', "positive"),
        (LABELS, '\n {"answer":"say \\"hi\\""} ', 'say "hi"'),
        (LABELS, "positive", "positive"),
        (LABELS, '{"answer": "posi', '{"answer": "posi'),
        (LABELS, '{"answer": "a", "more": 1}', '{"answer": "a", "more": 1}'),
        ('{"type": "array"}', '{"answer": [1, "ü", null]}', '[1, "ü", null]'),
        ('{"type": "number"}', '{"answer": 1.5}', "1.5"),
        ('{"type": "number"}', '{"answer": 1e999}', '{"answer": 1e999}'),
        (ORDER, '{"answer": 1}', '{"answer": 1}'),
        ('{"type": "string"}', '{"answer": "x"}', '{"answer": "x"}'),
    ],
)
def test_answers_are_unwrapped_alike_whole_and_streamed(schema: str, content: str, text: str) -> None:
    one = request(schema=schema)
    assert CODEC.reply(completion(content), one).text == text
    pieces = [delta(char) for char in content]
    chunks, reply = streamed([events(*pieces, delta(finish="stop"), USAGE)], one)
    assert (chunks, reply.text) == (text, text)


# --- what comes back --------------------------------------------------------------------------------------


def test_a_reply() -> None:
    usage = {
        "prompt_tokens": 2000,
        "completion_tokens": 30,
        "total_tokens": 2030,
        "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 900},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    data = json.dumps(json.loads(completion("fine")) | {"usage": usage}).encode()
    reply = CODEC.reply(data, request(), request_id="req_1")
    expected = Usage(input=2000, output=30, cached=1024, written=900, reasoning=20)
    assert reply == Reply(text="fine", model="openai/gpt-6-luna", usage=expected, request_id="req_1")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ({}, Usage()),
        ({"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": None, "completion_tokens_details": None}, Usage(5, 1)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": None}}, Usage(5)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}}, Usage(8, cached=8)),
        ({"prompt_tokens": "many", "completion_tokens": True}, Usage()),
        ({"prompt_tokens": -5, "completion_tokens": 1.5}, Usage()),
        ("free", Usage()),
    ],
)
def test_absent_and_odd_usage_is_tolerated(usage: Any, expected: Usage) -> None:
    data = json.dumps(json.loads(completion("x")) | {"usage": usage}).encode()
    assert CODEC.reply(data, request()).usage == expected


@pytest.mark.parametrize(
    ("finish", "stop"),
    [("stop", "end"), ("length", "length"), ("content_filter", "filtered"), ("eos_token", "end"), ("model_length", "length")],
)
def test_stops(finish: str, stop: str) -> None:
    assert CODEC.reply(completion("x", finish=finish), request()).stop == stop
    assert streamed([events(delta("x"), delta(finish=finish))])[1].stop == stop


def test_a_refusal() -> None:
    reply = CODEC.reply(completion(None, refusal="I can't."), request(schema=LABELS))
    assert (reply.text, reply.stop, reply.complete) == ("I can't.", "refused", False)
    text, reply = streamed([events(delta(refusal="I "), delta(refusal="can't."), delta(finish="stop"))])
    assert (text, reply.text, reply.stop) == ("", "I can't.", "refused")


def test_content_in_parts_and_without_any() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert CODEC.reply(completion(parts), request()).text == "ab"
    odd = [{"type": "text"}, {"type": "text", "text": 3}, {"type": "thinking", "text": "hm"}, "c", None]
    assert CODEC.reply(completion(odd), request()).text == ""
    assert CODEC.reply(completion("x", refusal=3), request()).stop == "end"
    assert CODEC.reply(completion(None), request()).text == ""


@pytest.mark.parametrize(
    "message",
    [{"tool_calls": [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"function_call": {"name": "f"}}],
)
def test_a_tool_call_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="tool call"):
        CODEC.reply(completion(None, finish="tool_calls", **message), request())
    with pytest.raises(ModelError, match="tool call"):
        streamed([events(delta(**message))])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "answered with nothing"),
        (b"  \n", "answered with nothing"),
        (b"<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head></html>", "an HTML page titled '502 Bad Gateway'"),
        (b"<html>", "an HTML page"),
        (b"\xff\xfe\x00", "3 bytes"),
        (b"[1]", "3 bytes that begin with '[1]'"),
        (b'{"id": "x"', "that begin with"),
        (b"[" * 200_000, "200000 bytes"),
        (b'{"choices": []}', "without a message"),
        (b'{"choices": [{}]}', "without a message"),
        (b'{"choices": 3}', "without a message"),
        (completion("x", finish=None), "for the reason None"),
        (completion("x", finish="vanished"), "for the reason 'vanished'"),
    ],
)
def test_what_is_no_reply(data: bytes, words: str) -> None:
    with pytest.raises(MalformedReply) as caught:
        CODEC.reply(data, request(), request_id="req_9")
    assert words in str(caught.value)
    assert (caught.value.provider, caught.value.request_id) == ("openai", "req_9")


def test_an_error_that_came_with_status_200() -> None:
    with pytest.raises(ProviderDown, match="upstream is away") as caught:
        CODEC.reply(b'{"error": {"message": "upstream is away", "code": 502}}', request())
    assert (caught.value.status, caught.value.retryable) == (502, True)


def test_a_reply_of_5_mb() -> None:
    assert len(CODEC.reply(completion("x" * 5_000_000), request()).text) == 5_000_000


@pytest.mark.parametrize(("content", "text"), [("\ud800", "\ufffd"), ("a\udc00b", "a\ufffdb"), ("\ud83d\ude00", "😀"), ("é😀", "é😀")])
def test_lone_surrogates_become_replacement_characters(content: str, text: str) -> None:
    assert CODEC.reply(completion(content), request()).text == text
    pieces = [delta(char) for char in content]
    shown, reply = streamed([events(*pieces, delta(finish="stop"))])
    assert (shown, reply.text) == (text, text)


# --- streams ----------------------------------------------------------------------------------------------

STREAM = events(
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    delta("pösi"),
    delta("tive"),
    delta(finish="stop"),
    USAGE,
)


def test_a_stream() -> None:
    decoder = CODEC.stream(request(), request_id="req_2")
    assert [chunk.text for chunk in decoder.feed(STREAM)] == ["pösi", "tive"]
    assert decoder.close() == Reply(text="pösitive", model="openai/gpt-6-luna", usage=Usage(9, 2, cached=4), request_id="req_2")


def test_a_stream_cut_anywhere_gives_the_same() -> None:
    whole = streamed([STREAM])
    for place in range(len(STREAM)):
        assert streamed([STREAM[:place], STREAM[place:]]) == whole
    assert streamed([bytes([byte]) for byte in STREAM.replace(b"\n", b"\r\n")]) == whole


def test_a_stream_that_breaks_off_anywhere_is_never_a_reply() -> None:
    end = STREAM.index(b"[DONE]") + len("[DONE]")
    for place in range(end):
        decoder = CODEC.stream(request())
        decoder.feed(STREAM[:place])
        with pytest.raises(ProviderDown, match="broke off") as caught:
            decoder.close()
        assert caught.value.retryable
    decoder = CODEC.stream(request())
    decoder.feed(STREAM[:end])
    assert decoder.close().complete


def test_a_stream_that_says_done_without_a_reason() -> None:
    decoder = CODEC.stream(request())
    decoder.feed(events(delta("x")))
    with pytest.raises(ProviderDown, match="without saying why"):
        decoder.close()


def test_what_came_until_a_cut() -> None:
    decoder = CODEC.stream(request())
    decoder.feed(events(delta("abc"), done=False))
    assert (decoder.so_far().text, decoder.so_far().stop) == ("abc", "aborted")


def test_other_choices_reasoning_comments_and_nulls_are_no_text() -> None:
    data = b": hello\n\n" + events(
        {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}], "usage": None},
        delta(None, reasoning_content="hm"),
        {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        {"choices": []},
        delta("yes", "stop"),
    )
    assert streamed([data])[0] == "yes"


@pytest.mark.parametrize(
    ("error", "kind", "status", "retryable"),
    [
        ({"message": "busy", "type": "server_error"}, ProviderDown, 500, True),
        ({"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}, RateLimited, 429, True),
        ({"message": "no money", "type": "insufficient_quota", "code": "insufficient_quota"}, RateLimited, 429, False),
        ({"message": "bad", "type": "invalid_request_error"}, RequestRefused, 400, False),
        ({"message": "upstream", "code": 502}, ProviderDown, 502, True),
        ("just words", ProviderDown, 500, True),
    ],
)
def test_an_error_in_the_middle_of_a_stream(error: Any, kind: type[ProviderError], status: int, retryable: bool) -> None:
    decoder = CODEC.stream(request(), request_id="req_3")
    decoder.feed(events(delta("a"), done=False))
    with pytest.raises(kind) as caught:
        decoder.feed(events({"error": error}, done=False))
    assert (caught.value.status, caught.value.retryable, caught.value.request_id) == (status, retryable, "req_3")


@pytest.mark.parametrize("data", [b"data: {no\n\n", b"data: [1]\n\n", b"<html>\n", b"data: \xff\n\n"])
def test_garbage_in_a_stream(data: bytes) -> None:
    with pytest.raises(MalformedReply) as caught:
        CODEC.stream(request()).feed(data)
    assert caught.value.provider == "openai"


# --- errors -----------------------------------------------------------------------------------------------


def told(message: str = "No.", **more: Any) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "param": None, "code": None, **more}}).encode()


@pytest.mark.parametrize(
    ("status", "data", "kind", "retryable"),
    [
        (400, told(), RequestRefused, False),
        (401, told(), AuthenticationFailed, False),
        (402, told(), RequestRefused, False),
        (403, told(), AuthenticationFailed, False),
        (404, told(), RequestRefused, False),
        (408, told(), ProviderDown, True),
        (409, told(), RequestRefused, True),
        (413, told(), RequestRefused, False),
        (422, b'{"detail": "No."}', RequestRefused, False),
        (429, told(), RateLimited, True),
        (429, told(code="insufficient_quota"), RateLimited, False),
        (500, told(), ProviderDown, True),
        (503, b'{"error": "No."}', ProviderDown, True),
        (529, told(), ProviderDown, True),
        (302, b'{"message": "No."}', RequestRefused, False),
    ],
)
def test_errors_by_status(status: int, data: bytes, kind: type[ProviderError], retryable: bool) -> None:
    error = CODEC.error(status, {"X-Request-Id": "req_7"}, data, provider="local")
    assert type(error) is kind
    assert (error.status, error.retryable, error.request_id, error.provider, error.exit_code) == (status, retryable, "req_7", "local", 4)
    assert error.message.startswith("local ")
    assert f"({status}): No." in error.message


@pytest.mark.parametrize(
    ("headers", "status", "retryable"),
    [({"x-should-retry": "true"}, 400, True), ({"X-Should-Retry": "false"}, 500, False), ({"x-should-retry": "maybe"}, 500, True)],
)
def test_the_provider_decides_about_another_try(headers: dict[str, str], status: int, retryable: bool) -> None:
    assert CODEC.error(status, headers, told()).retryable is retryable


def test_no_header_makes_an_exhausted_quota_retryable() -> None:
    assert not CODEC.error(429, {"x-should-retry": "true"}, told(code="insufficient_quota")).retryable


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "3600"}, 3600.0),
        ({"retry-after-ms": "20", "retry-after": "9"}, 0.02),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"Date": "Sat, 21 Nov 2026 10:00:00 GMT", "Retry-After": "Sat, 21 Nov 2026 10:00:07 GMT"}, 7.0),
        ({"Date": "Sat, 21 Nov 2026 10:00:00 GMT", "Retry-After": "Sat, 21 Nov 2026 09:00:00 GMT"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Sat, 99 Foo"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after_in_its_three_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert CODEC.error(429, headers, told()).retry_after == seconds
    assert retry_after({name.lower(): value for name, value in headers.items()}) == seconds


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it answered with nothing"),
        (b"<html><title>503 Service Unavailable</title>", "an HTML page titled '503 Service Unavailable'"),
        (b"upstream connect error", "'upstream connect error'"),
        (b'{"error": {}}', "it answered with 13 bytes"),
        (b'{"error": {"message": 5}}', "it answered with"),
        (b"[]", "it answered with"),
        (b"\xff" * 9, "9 bytes"),
    ],
)
def test_bodies_that_are_no_error_are_summed_up(data: bytes, words: str) -> None:
    assert words in CODEC.error(503, {}, data).message


def test_secrets_and_length_in_a_providers_words() -> None:
    message = CODEC.error(401, {}, told("Incorrect API key provided: sk-proj-abcdefghijklmnopqrstuvwxyz. " + "x" * 5000)).message
    assert "abcdefgh" not in message
    assert "[redacted]" in message
    assert len(message) < 400


def test_a_lone_surrogate_in_an_error_can_be_shown() -> None:
    CODEC.error(400, {}, told("\ud800 no")).message.encode()


def test_an_error_crosses_process_borders_with_all_it_knows() -> None:
    error = CODEC.error(429, {"x-request-id": "r", "retry-after": "2", "x-should-retry": "false"}, told())
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (RateLimited, str(error), vars(error))
    assert (again.retryable, again.retry_after, RateLimited.retryable) == (False, 2.0, True)


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
            "temperature": st.floats(0, 2),
            "top_p": st.floats(0, 1),
            "effort": st.sampled_from(LUNA.efforts),
            "stop": texts.filter(bool),
            "seed": st.integers(-(2**53), 2**53),
            "store": st.booleans(),
            "verbosity": st.sampled_from(["low", "high"]),
        },
    ),
    schema=st.sampled_from(["", LABELS, ORDER]),
)
replies = st.builds(
    Reply,
    text=texts,
    model=st.just("openai/gpt-6-luna"),
    stop=st.sampled_from(["end", "length", "filtered"]),
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
    made = body(one, stream=stream, cache=CachePlan(mark=mark))
    got = CODEC.read_request(encode(made))
    assert (got.model, got.system, got.turns, dict(got.parameters)) == ("gpt-6-luna", one.system, one.turns, dict(one.parameters))
    assert (got.stream, got.stream_usage, got.unsupported) == (stream, stream, ())
    sent = made.get("response_format")
    assert (json.loads(got.schema) if got.schema else None) == (sent["json_schema"]["schema"] if sent else None)


@given(replies)
@settings(deadline=None)
def test_what_we_answer_we_read_as_the_same_reply(reply: Reply) -> None:
    data = CODEC.write_reply(reply, model="m", id="chatcmpl-1", created=7)
    assert CODEC.reply(data, request()) == reply
    ChatCompletion.model_validate_json(data, strict=True)


@given(replies, st.integers(1, 9))
@settings(deadline=None)
def test_what_we_stream_we_read_as_the_same_reply(reply: Reply, size: int) -> None:
    data = b"".join(written(reply, size))
    text, read = streamed([bytes([byte]) for byte in data])
    assert (text, read) == (reply.text, reply)


def written(reply: Reply, size: int) -> Iterator[bytes]:
    writer = CODEC.writer(model="m", id="chatcmpl-1", created=7)
    yield writer.start()
    for start in range(0, len(reply.text), size):
        yield writer.chunk(Chunk(reply.text[start : start + size]))
    yield writer.chunk(Chunk("", reply))


def test_the_sdk_reads_our_replies_and_streams() -> None:
    reply = Reply(text="pösitive", model="m", usage=Usage(9, 2, cached=4, written=1, reasoning=1))
    whole = with_sdk(
        lambda _: httpx2.Response(200, content=CODEC.write_reply(reply, model="s@production", id="c1", created=7)),
        lambda client: client.chat.completions.create(model="x", messages=[{"role": "user", "content": "x"}]),
    )
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason, whole.model) == ("pösitive", "stop", "s@production")
    assert (whole.usage.prompt_tokens, whole.usage.prompt_tokens_details.cached_tokens, whole.usage.total_tokens) == (9, 4, 11)
    chunks: list[ChatCompletionChunk] = with_sdk(
        lambda _: httpx2.Response(200, content=b"".join(written(reply, 3)), headers={"content-type": "text/event-stream"}),
        lambda client: list(client.chat.completions.create(model="x", messages=[{"role": "user", "content": "x"}], stream=True)),
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "pösitive"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(chunk.model_dump_json(), strict=True)


def test_a_client_that_did_not_ask_for_usage_gets_none() -> None:
    writer = CODEC.writer(model="m", id="c", usage=False)
    assert b"prompt_tokens" not in writer.chunk(Chunk("", Reply(text="", model="m")))


@pytest.mark.parametrize("text", ["I can't.", ""])
def test_refused_replies_stay_incomplete_for_the_client(text: str) -> None:
    refused = Reply(text=text, model="openai/gpt-6-luna", stop="refused")
    assert not CODEC.reply(CODEC.write_reply(refused, model="m", id="c"), request()).complete
    assert not streamed(list(written(refused, 4)))[1].complete


def test_an_aborted_reply_is_never_written_as_a_whole_one() -> None:
    with pytest.raises(ModelError, match="aborted"):
        CODEC.write_reply(Reply(text="x", model="m", stop="aborted"), model="m", id="c")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_the_sdk_reads_our_errors(status: int, kind: type[openai.APIStatusError]) -> None:
    data = CODEC.write_error(status, "No such prompt.\ud800", code="unknown_prompt")
    with pytest.raises(kind, match="No such prompt") as caught:
        with_sdk(lambda _: httpx2.Response(status, content=data), lambda client: client.chat.completions.create(model="x", messages=[]))
    assert caught.value.code == "unknown_prompt"
    assert CODEC.error(status, {}, data).status == status


def test_the_sdk_sees_an_error_in_our_stream() -> None:
    writer = CODEC.writer(model="m", id="c")
    data = writer.start() + writer.error(503, "the provider is away")
    with pytest.raises(openai.APIError, match="the provider is away"):
        with_sdk(
            lambda _: httpx2.Response(200, content=data, headers={"content-type": "text/event-stream"}),
            lambda client: list(client.chat.completions.create(model="x", messages=[], stream=True)),
        )
    with pytest.raises(ProviderDown, match="the provider is away"):
        streamed([data])


def incoming(**fields: Any) -> Any:
    base = {"model": "sentiment@production", "messages": [{"role": "user", "content": "hi"}]}
    return CODEC.read_request(json.dumps(base | fields).encode())


def test_a_clients_request() -> None:
    got = incoming(
        messages=[
            {"role": "developer", "content": "A"},
            {"role": "system", "content": [{"type": "text", "text": "B", "prompt_cache_breakpoint": {"mode": "explicit"}}]},
            {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
            {"role": "assistant", "content": "z"},
            {"role": "user", "content": "w"},
        ],
        max_tokens=5,
        max_completion_tokens=6,
        reasoning_effort="low",
        stop=["\n"],
        metadata={"a": "b"},
        prompt_variables={"name": "Ann", "n": 3},
        user="u1",
        n=1,
        temperature=None,
    )
    assert got.system == "A\n\nB"
    assert got.turns == (Turn("user", "xy"), Turn("assistant", "z"), Turn("user", "w"))
    assert got.parameters == {"max_tokens": 6, "effort": "low", "stop": "\n"}
    assert (got.metadata, got.variables) == ({"a": "b"}, {"name": "Ann", "n": "3"})
    assert (got.ignored, got.unsupported) == (("messages.content.prompt_cache_breakpoint",), ())
    assert got.user == "u1"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": [{}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"stop": ["a", "b"]}, "stop with several texts"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "image_url content (messages[0].content[0])",
        ),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "tool calls (messages[0])"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]},
            "a system message after the first turn (messages[1])",
        ),
    ],
)
def test_what_is_not_done_is_named(fields: dict[str, Any], named: str) -> None:
    assert incoming(**fields).unsupported == (named,)


@pytest.mark.parametrize("fields", [{"tools": []}, {"tools": None}, {"tool_choice": "none"}, {"logprobs": False}, {"modalities": ["text"]}])
def test_features_that_are_switched_off_are_no_obstacle(fields: dict[str, Any]) -> None:
    assert incoming(**fields).unsupported == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff", "not JSON"),
        (b"[" * 200_000, "nested more than"),
        (b"{}", "model is missing"),
        (b'{"model": 3}', "model must be a model's name, not 3"),
        (b'{"model": "x"}', "messages is missing"),
        (b'{"model": "x", "messages": "hi"}', "messages must be a list"),
        (b'{"model": "x", "messages": [3]}', "messages[0].role"),
        (b'{"model": "x", "messages": [{"role": "boss"}]}', "messages[0].role"),
        (b'{"model": "x", "messages": [{"role": "user"}]}', "messages[0].content must be"),
        (b'{"model": "x", "messages": [{"role": "user", "content": [{"type": "text"}]}]}', "messages[0].content[0]"),
        (b'{"model": "x", "messages": [{"role": "user", "content": [3]}]}', "messages[0].content[0]"),
        (b'{"model": "x", "messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content: the text has a lone surrogate"),
        (b'{"model": "\\ud800", "messages": []}', "lone surrogate"),
        (b'{"model": "x", "messages": [], "max_tokens": "5"}', "max_tokens must be a whole number"),
        (b'{"model": "x", "messages": [], "temperature": [1]}', "temperature must be"),
        (b'{"model": "x", "messages": [], "stream": "yes"}', "stream must be true or false"),
        (b'{"model": "x", "messages": [], "stop": 3}', "stop must be"),
        (b'{"model": "x", "messages": [], "response_format": {"type": "json_schema"}}', "response_format must be"),
    ],
)
def test_a_request_that_is_wrong_is_told_where(data: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        CODEC.read_request(data)
    assert words in str(caught.value)


NAMES = ["model", "messages", "role", "content", "type", "text", "choices", "message", "delta", "error", "finish_reason", "usage", "stop"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, "tools", "index"]), inner, max_size=5),
        max_leaves=25,
    )
)
@settings(deadline=None)
def test_any_json_gives_a_value_or_an_error_of_ours(value: Any) -> None:
    data = json.dumps(value).encode()
    for read in (
        lambda: CODEC.read_request(data),
        lambda: CODEC.reply(data, request()),
        lambda: streamed([events(value)]),
    ):
        try:
            read()
        except (InputError, ProviderError):
            pass
    assert isinstance(CODEC.error(500, {}, data), ProviderError)


def test_unknown_protocols_are_named() -> None:
    with pytest.raises(InputError, match="anthropic and openai"):
        codec("grpc")
