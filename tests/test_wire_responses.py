"""The Responses API: what we send is what the official SDK would send, what comes back we read, by both transports and end to end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.responses import Response

from promptsmith import Failure, Runtime, Task, compile_task
from promptsmith.catalog.models import facts
from promptsmith.chat import Reply, Request, Turn, Usage
from promptsmith.compiler.lint.case import Case, Target
from promptsmith.compiler.lint.target import rejected_parameters
from promptsmith.config import Endpoint, Project, read_config
from promptsmith.errors import InputError, MalformedReply, ProviderDown, ProviderError, RateLimited, RequestRefused, SourceError
from promptsmith.models.directory import Directory
from promptsmith.models.transport.direct import Direct
from promptsmith.models.transport.sdk_openai import SdkOpenAI
from promptsmith.models.wire import CachePlan, client_codec, encode
from promptsmith.models.wire.openai import OpenAI
from promptsmith.models.wire.openai_responses import OpenAIResponses
from promptsmith.store.folder import open_store

from .provider import KEY, Fault, Provider, Said, Settings, at_every_point, constant, echo

CODEC = client_codec("openai", "responses")
MODEL = "openai/gpt-6-luna"
LUNA = facts(MODEL)
LABELS = '{"type": "string", "enum": ["positive", "negative"]}'
ORDER = '{"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}, "required": ["id", "n"]}'


def request(text: str = "I love it", **changes: Any) -> Request:
    base: dict[str, Any] = {"model": MODEL, "system": "Classify.", "turns": (Turn("user", text),), "static": "ab" * 32}
    return Request(**(base | changes))


def body(one: Request, *, stream: bool = False, foreign: bool = False, cache: CachePlan | None = None) -> dict[str, Any]:
    return CODEC.body(one, stream=stream, facts=facts(one.model), foreign=foreign, cache=cache)


def message(text: str, kind: str = "output_text", key: str = "text", **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": kind, key: text, "annotations": []}], **more}


def response(*output: Any, **changes: Any) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
    return {"id": "r", "object": "response", "status": "completed", "error": None, "output": list(output), "usage": usage} | changes


def read(value: Any, **changes: Any) -> Reply:
    return CODEC.reply(json.dumps(value).encode(), request(**changes), request_id="req_1")


def events(*values: Any) -> bytes:
    return b"".join(f"event: {value['type']}\ndata: {json.dumps(value)}\n\n".encode() for value in values)


def delta(text: Any, kind: str = "output_text", **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "output_index": 0, "content_index": 0, "delta": text, **more}


def ended(kind: str = "completed", *output: Any, **changes: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": response(*output, status=kind, **changes)}


def streamed(pieces: list[bytes], **changes: Any) -> tuple[str, Reply]:
    decoder = CODEC.stream(request(**changes), request_id="req_2")
    text = "".join(chunk.text for piece in pieces for chunk in decoder.feed(piece))
    return text, decoder.close()


# --- what is sent -----------------------------------------------------------------------------------------


def sent_by_sdk(made: dict[str, Any]) -> httpx2.Request:
    seen: list[httpx2.Request] = []

    def answer(http: httpx2.Request) -> httpx2.Response:
        seen.append(http)
        if made.get("stream"):
            return httpx2.Response(200, content=events(ended()), headers={"content-type": "text/event-stream"})
        return httpx2.Response(200, json=response())

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        openai.OpenAI(api_key="sk-test", base_url="http://provider/v1", http_client=http, max_retries=0) as client,
    ):
        client.responses.create(**made)
    return seen[0]


@pytest.mark.parametrize(
    ("changes", "cache", "stream"),
    [
        ({}, None, False),
        ({"parameters": {"max_tokens": 20, "effort": "low", "verbosity": "low", "service_tier": "flex"}}, None, False),
        ({"parameters": {"temperature": 0.2, "top_p": 0.5}}, None, True),
        ({"schema": LABELS, "parameters": {"verbosity": "low"}}, CachePlan(mark=True, ttl="30m"), False),
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


def test_a_request_is_instructions_and_turns_in_that_order() -> None:
    made = body(request(parameters={"max_tokens": 50, "effort": "low", "verbosity": "high"}, schema=ORDER))
    form = made["text"].pop("format")
    assert list(made)[:4] == ["model", "instructions", "input", "max_output_tokens"]
    assert made == {
        "model": "gpt-6-luna",
        "instructions": "Classify.",
        "input": [{"role": "user", "content": "I love it"}],
        "max_output_tokens": 50,
        "reasoning": {"effort": "low"},
        "text": {"verbosity": "high"},
        "store": False,
        "prompt_cache_options": {"mode": "explicit"},
    }
    assert (form["type"], form["name"], form["strict"], set(form["schema"]["properties"])) == ("json_schema", "answer", True, {"id", "n"})


def test_a_marked_static_part_is_a_developer_message_for_instructions_can_not_be_marked() -> None:
    made = body(request(), cache=CachePlan(mark=True, ttl="30m"))
    part = {"type": "input_text", "text": "Classify.", "prompt_cache_breakpoint": {"mode": "explicit"}}
    assert made["input"] == [{"role": "developer", "content": [part]}, {"role": "user", "content": "I love it"}]
    assert "instructions" not in made
    assert made["prompt_cache_key"] == "ps:" + "ab" * 12
    assert made["prompt_cache_options"] == {"mode": "explicit", "ttl": "30m"}
    other = body(request("another input"), cache=CachePlan(mark=True, ttl="30m"))
    assert encode(made).partition(b"I love it")[0] == encode(other).partition(b"another input")[0]
    with pytest.raises(InputError, match="30m"):
        body(request(), cache=CachePlan(mark=True, ttl="12h"))


@pytest.mark.parametrize(("model", "foreign"), [("openai/gpt-5.4", False), ("openai/gpt-4.1", False), (MODEL, True), ("mine/qwen3", True)])
def test_no_cache_field_goes_to_who_does_not_know_it(model: str, foreign: bool) -> None:
    assert b"prompt_cache" not in encode(body(request(model=model), foreign=foreign, cache=CachePlan(mark=True, ttl="30m")))


def test_a_foreign_server_is_sent_only_what_the_user_asked_for() -> None:
    made = body(
        request(model="mine/qwen3", parameters={"max_tokens": 5, "effort": "low", "top_k": 3}, schema=ORDER), foreign=True, stream=True
    )
    assert made == {
        "model": "qwen3",
        "instructions": "Classify.",
        "input": [{"role": "user", "content": "I love it"}],
        "max_output_tokens": 5,
        "reasoning": {"effort": "low"},
        "top_k": 3,
        "stream": True,
    }


@pytest.mark.parametrize(
    ("model", "parameters", "words"),
    [
        (MODEL, {"seed": 7}, "seed"),
        (MODEL, {"stop": "\n"}, "stop"),
        (MODEL, {"frequency_penalty": 0.5}, "frequency_penalty"),
        (MODEL, {"max_output_tokens": 50}, "is called max_tokens here"),
        (MODEL, {"max_tokens": 15}, "from 16 up"),
        (MODEL, {"effort": "huge"}, "no effort"),
        ("openai/o3", {"temperature": 0.5}, "temperature"),
        ("mine/qwen3", {"text": "x", "verbosity": "low"}, "made from the prompt"),
        ("mine/qwen3", {"input": "x"}, "made from the prompt"),
    ],
)
def test_a_parameter_that_is_not_taken_is_named(model: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        body(request(model=model, parameters=parameters), foreign=model.startswith("mine/"))


def test_what_happens_anyway_is_left_out_and_store_is_the_users() -> None:
    assert body(request(parameters={"presence_penalty": 0, "store": None})) == body(request())
    assert body(request(parameters={"store": True}))["store"] is True


@pytest.mark.parametrize("turns", [(), (Turn("user", "a"), Turn("assistant", "b"))])
def test_there_must_be_something_to_answer(turns: tuple[Turn, ...]) -> None:
    with pytest.raises(InputError, match="last turn"):
        body(request(turns=turns))


def test_without_a_system_text_there_are_no_instructions() -> None:
    assert "instructions" not in body(request(system=""))


# --- what comes back --------------------------------------------------------------------------------------

COUNTED = {
    "input_tokens": 1500,
    "input_tokens_details": {"cached_tokens": 1100, "cache_write_tokens": 200},
    "output_tokens": 30,
    "output_tokens_details": {"reasoning_tokens": 25},
}


def test_a_reply() -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    aside = message("Let me see.", phase="commentary")
    reply = read(response(thought, aside, message("posi"), message("tive", phase="final_answer"), usage=COUNTED))
    assert reply == Reply(text="positive", model=MODEL, usage=Usage(1500, 30, cached=1100, written=200, reasoning=25), request_id="req_1")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ({}, Usage()),
        ({"input_tokens": 5, "output_tokens": 1, "input_tokens_details": None}, Usage(5, 1)),
        ({"input_tokens": 5, "input_tokens_details": {"cached_tokens": 20}}, Usage(20, 0, cached=20)),
        ({"input_tokens": "many", "output_tokens": -1, "output_tokens_details": 7}, Usage()),
    ],
)
def test_absent_and_odd_usage_is_tolerated(usage: Any, expected: Usage) -> None:
    assert read(response(message("x"), usage=usage)).usage == expected


@pytest.mark.parametrize(("reason", "stop"), [("max_output_tokens", "length"), ("content_filter", "filtered")])
def test_incomplete_replies_say_why(reason: str, stop: str) -> None:
    details = {"incomplete_details": {"reason": reason}}
    reply = read(response(message("posi"), status="incomplete", **details))
    assert (reply.text, reply.stop, reply.complete) == ("posi", stop, False)
    assert streamed([events(delta("posi"), ended("incomplete", message("posi"), **details))]) == (
        "posi",
        Reply(text="posi", model=MODEL, stop=reply.stop, usage=Usage(10, 2), request_id="req_2"),
    )


def test_a_refusal_is_no_answer_whole_and_streamed() -> None:
    refused = message("I can't.", "refusal", "refusal")
    whole = read(response(refused), schema=LABELS)
    assert (whole.text, whole.stop) == ("I can't.", "refused")
    shown, reply = streamed([events(delta("I ", "refusal"), delta("can't.", "refusal"), ended("completed", refused))], schema=LABELS)
    assert (shown, reply.text, reply.stop) == ("", "I can't.", "refused")


@pytest.mark.parametrize(
    ("schema", "content", "text"),
    [
        (LABELS, '{"answer": "positive"}', "positive"),
        (LABELS, "positive", "positive"),
        (ORDER, '{"id": "a", "n": 1}', '{"id": "a", "n": 1}'),
    ],
)
def test_answers_are_unwrapped_alike_whole_and_streamed(schema: str, content: str, text: str) -> None:
    assert read(response(message(content)), schema=schema).text == text
    shown, reply = streamed([events(delta(content[:4]), delta(content[4:]), ended())], schema=schema)
    assert (shown, reply.text) == (text, text)


CALL = {"type": "function_call", "name": "f", "arguments": "{}"}


def test_a_tool_call_is_refused() -> None:
    with pytest.raises(MalformedReply, match="tool call"):
        read(response(CALL))
    with pytest.raises(MalformedReply, match="tool call"):
        streamed([events({"type": "response.output_item.added", "output_index": 0, "item": CALL})])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "nothing"),
        (b"<html><title>Bad gateway</title>", "Bad gateway"),
        (b"[1]", "instead of a reply"),
        (b"{}", "without output"),
        (b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}', "without output"),
        (b'{"output": []}', "status None"),
        (b'{"output": [], "status": "in_progress"}', "in_progress"),
        (b'{"output": [], "status": "incomplete", "incomplete_details": {"reason": "moon"}}', "moon"),
    ],
)
def test_what_is_no_reply(data: bytes, words: str) -> None:
    with pytest.raises(MalformedReply, match=words) as caught:
        CODEC.reply(data, request(), request_id="req_1")
    assert (caught.value.provider, caught.value.request_id) == ("openai", "req_1")


FAILURES = pytest.mark.parametrize(
    ("error", "kind", "status", "retryable"),
    [
        ({"code": "server_error", "message": "boom"}, ProviderDown, 500, True),
        ({"code": "rate_limit_exceeded", "message": "slow"}, RateLimited, 429, True),
        ({"code": "insufficient_quota", "message": "no money"}, RateLimited, 429, False),
        ({"code": "invalid_prompt", "message": "no"}, RequestRefused, 400, False),
    ],
)


@FAILURES
def test_a_response_that_failed(error: Any, kind: type[ProviderError], status: int, retryable: bool) -> None:
    """In a body, as ``response.failed`` and as ``error`` events of both shapes."""
    failed = response(status="failed", error=error, usage=None)
    ways: list[Callable[[], object]] = [
        lambda: read(failed),
        lambda: streamed([events(delta("a"), {"type": "response.failed", "response": failed})]),
        lambda: streamed([events(delta("a"), {"type": "error", **error})]),
        lambda: streamed([events(delta("a"), {"type": "error", "error": error})]),
    ]
    for way in ways:
        with pytest.raises(kind, match=error["message"]) as caught:
            way()
        assert (caught.value.status, caught.value.retryable, caught.value.provider) == (status, retryable, "openai")


def test_a_response_that_was_cancelled_or_failed_without_a_word() -> None:
    for status in ("cancelled", "failed"):
        with pytest.raises(ProviderDown):
            read(response(status=status))
        with pytest.raises(ProviderDown):
            streamed([events(ended(status))])


# --- streams ----------------------------------------------------------------------------------------------

STREAM = events(
    {"type": "response.created", "response": response(status="in_progress", usage=None)},
    {"type": "response.output_item.added", "output_index": 0, "item": message("", status="in_progress")},
    delta("pösi"),
    delta("tive"),
    {"type": "response.output_text.done", "output_index": 0, "text": "pösitive"},
    ended("completed", message("pösitive"), usage=COUNTED),
)
WHOLE = Reply(text="pösitive", model=MODEL, usage=Usage(1500, 30, cached=1100, written=200, reasoning=25), request_id="req_2")


def test_a_stream_cut_anywhere_gives_the_same() -> None:
    assert streamed([STREAM]) == ("pösitive", WHOLE)
    for place in range(len(STREAM)):
        assert streamed([STREAM[:place], STREAM[place:]]) == ("pösitive", WHOLE)
    assert streamed([bytes([byte]) for byte in STREAM.replace(b"\n", b"\r\n")]) == ("pösitive", WHOLE)
    assert streamed([STREAM + b"data: [DONE]\n\n" + STREAM]) == ("pösitive", WHOLE), "what follows the end is no part of it"


def test_a_stream_that_breaks_off_anywhere_is_never_a_reply() -> None:
    end = len(STREAM.rstrip())
    for place in range(end):
        decoder = CODEC.stream(request())
        decoder.feed(STREAM[:place])
        with pytest.raises(ProviderDown, match="broke off") as caught:
            decoder.close()
        assert caught.value.retryable
    decoder = CODEC.stream(request())
    decoder.feed(STREAM[:end])
    assert decoder.close().complete


def test_a_stream_that_says_done_without_an_end() -> None:
    with pytest.raises(ProviderDown, match="without saying why"):
        streamed([events(delta("x")) + b"data: [DONE]\n\n"])


def test_what_came_until_a_cut() -> None:
    decoder = CODEC.stream(request())
    decoder.feed(events(delta("abc")))
    assert (decoder.so_far().text, decoder.so_far().stop) == ("abc", "aborted")


def test_reasoning_commentary_comments_and_nulls_are_no_text() -> None:
    data = b": hello\n\n" + events(
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning"}},
        {"type": "response.reasoning_text.delta", "output_index": 0, "delta": "hm"},
        {"type": "response.output_item.added", "output_index": 1, "item": message("", phase="commentary")},
        delta("Let me see.", output_index=1),
        delta(None, output_index=2),
        delta("yes", output_index=2),
        {"type": "response.something.new"},
        ended(),
    )
    assert streamed([data])[0] == "yes"


def test_a_text_that_comes_at_the_end_only_is_not_lost() -> None:
    assert streamed([events(ended("completed", message("positive")))])[0] == "positive"
    shown, reply = streamed([events(ended("completed", message("No.", "refusal", "refusal")))])
    assert (shown, reply.text, reply.stop) == ("", "No.", "refused")


@pytest.mark.parametrize(
    "data",
    [b"data: {no\n\n", b"data: [1]\n\n", b"<html>\n", b"data: \xff\n\n", b'data: {"type":"response.completed","response":null}\n\n'],
)
def test_garbage_in_a_stream(data: bytes) -> None:
    with pytest.raises(MalformedReply) as caught:
        CODEC.stream(request()).feed(data)
    assert caught.value.provider == "openai"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "text", "phase"]), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(["type", "status", "output", "usage", "error", "incomplete_details", "response", "item", "delta", "output_index"])


KINDS = st.sampled_from(["response.output_text.delta", "response.output_item.added", "response.completed", "response.failed", "error"])


@given(st.dictionaries(FIELDS, ANYTHING, max_size=6), KINDS | ANYTHING)
@example({"delta": "x", "output_index": [1]}, "response.output_text.delta")
@example({"item": {"type": "message", "phase": "commentary"}, "output_index": {}}, "response.output_item.added")
@example({}, ["response.completed"])
@example({"response": None}, "response.completed")
def test_any_json_gives_a_value_or_an_error_of_ours(value: dict[str, Any], kind: Any) -> None:
    for call in (lambda: read(value), lambda: streamed([b"data: " + json.dumps(value | {"type": kind}).encode() + b"\n\n"])):
        try:
            call()
        except ProviderError as error:
            assert error.provider == "openai"


# --- both transports --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_credentials_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(constant("positive")) as running:
        yield running


Config = Callable[..., Project]


@pytest.fixture
def project(provider: Provider, make_project: Config) -> Callable[..., Project]:
    """Makes a project whose OpenAI is the loopback provider, called by the Responses API."""

    def make(transport: str = "auto", url: str = provider.base_url_openai) -> Project:
        lines = ['[endpoints.openai]\nprotocol = "openai"\napi = "responses"\napi_key_env = "OPENAI_API_KEY"\nforeign = false']
        return make_project(config="\n".join([*lines, f'base_url = "{url}"', f'transport = "{transport}"', ""]))

    return make


def asked_whole(project: Project, one: Request) -> Reply:
    return asyncio.run(Directory(project).model(one.model).reply(one))


def asked_streamed(project: Project, one: Request) -> tuple[str, Reply]:
    async def main() -> tuple[str, Reply]:
        chunks = [chunk async for chunk in Directory(project).model(one.model).stream(one)]
        assert chunks[-1].reply is not None
        return "".join(chunk.text for chunk in chunks), chunks[-1].reply

    return asyncio.run(main())


def seen(reply: Reply) -> tuple[str, str, Usage, float | None]:
    assert reply.request_id
    return reply.text, reply.stop, reply.usage, reply.cost


def test_both_ways_send_the_same_and_bring_back_the_same(project: Callable[..., Project], provider: Provider) -> None:
    """Method, path, JSON body and auth header; text, stop, usage, cost and request id; streams included."""
    provider.answer = echo
    one = request("one two three four five six", system="Say it again. " * 400, parameters={"max_tokens": 900, "effort": "low"})
    results, shown = [], []
    for transport in ("direct", "sdk"):
        made = project(transport)
        results.append(seen(asked_whole(made, one)))
        text, reply = asked_streamed(made, one)
        shown.append(text)
        results.append(seen(reply))
        provider.cache.clear()
    assert results[:2] == results[2:]
    assert shown == ["one two three four five six"] * 2
    assert results[0][0] == shown[0]
    assert results[0][2].written == results[1][2].cached > 1024
    assert results[0][3] is not None
    sent = [
        (record.method, record.path, record.json, {name: record.headers.get(name) for name in ("authorization", "content-type")})
        for record in provider.records.all()
    ]
    assert sent[:2] == sent[2:]
    assert [(method, path) for method, path, *_ in sent] == [("POST", "/v1/responses")] * 4
    assert [body.get("stream", False) for _, _, body, _ in sent] == [False, True, False, True]
    assert sent[0][3]["authorization"] == f"Bearer {KEY}"
    agents = [record.headers["user-agent"] for record in provider.records.all()]
    assert ["OpenAI" in agent for agent in agents] == [False, False, True, True]


@pytest.mark.parametrize("said", [Said("posi", "length"), Said("posi", "filtered"), Said("I can't.", "refused"), Said(None)])
@pytest.mark.parametrize("transport", ["direct", "sdk"])
def test_other_ends_come_back_alike_whole_and_streamed(
    project: Callable[..., Project], provider: Provider, transport: str, said: Said
) -> None:
    provider.answer = lambda ask: said
    whole = asked_whole(project(transport), request())
    _, reply = asked_streamed(project(transport), request())
    assert seen(whole)[:3] == seen(reply)[:3]
    assert (whole.text, whole.stop) == (said.text or "", said.stop)


def test_the_sdks_own_types_read_what_we_read(provider: Provider) -> None:
    """The loopback provider's answer is a ``Response`` of the package's, and we find the same in it."""

    async def main() -> bytes:
        transport = Direct(provider.url, "openai")
        try:
            made = encode(body(request()))
            return (await transport.post(CODEC.path, CODEC.headers(KEY), made, timeout=10)).data
        finally:
            await transport.close()

    data = asyncio.run(main())
    theirs, ours = Response.model_validate_json(data), CODEC.reply(data, request())
    assert theirs.usage is not None
    assert (theirs.output_text, theirs.usage.input_tokens) == (ours.text, ours.usage.input) != ("", 0)


FAULTS = [fault for kind in ("reset", "close", "html", "garbage", "truncated", "status") for fault in at_every_point(kind, 9)]


@pytest.mark.parametrize("transport", ["direct", "sdk"])
def test_a_fault_at_any_point_of_a_stream_is_an_error_or_the_whole_reply(provider: Provider, transport: str) -> None:
    """Never a part of it that looks whole: before the headers, after them, after and inside each event."""

    async def main() -> list[tuple[Fault, Reply | ProviderError]]:
        carrier = Direct(provider.url, "openai") if transport == "direct" else SdkOpenAI(url=provider.url, key=KEY)
        made, results = encode(body(request(), stream=True)), list[tuple[Fault, Reply | ProviderError]]()
        try:
            for number, fault in enumerate(FAULTS, 1):
                provider.faults.on(number, fault)
                results.append((fault, await one(carrier, made)))
        finally:
            await carrier.close()
        return results

    async def one(carrier: Any, made: bytes) -> Reply | ProviderError:
        try:
            async with carrier.stream(CODEC.path, CODEC.headers(KEY), made, timeout=10) as answer:
                if answer.status >= 300:
                    return CODEC.error(answer.status, answer.headers, b"".join([piece async for piece in answer.pieces]))
                decoder = CODEC.stream(request(), request_id=CODEC.request_id(answer.headers))
                async for piece in answer.pieces:
                    decoder.feed(piece)
                    if decoder.done:
                        break
                return decoder.close()
        except ProviderError as error:
            return error

    results = asyncio.run(main())
    replies = [(fault, result) for fault, result in results if isinstance(result, Reply)]
    assert all(result.text == "positive" and result.complete and result.usage.counted for _, result in replies)
    assert all(fault.at >= 9 for fault, _ in replies), "the reply is whole with its last event only"
    assert len(results) - len(replies) > len(FAULTS) / 2


@pytest.mark.parametrize(("status", "kind"), [(401, "AuthenticationFailed"), (404, "RequestRefused"), (400, "RequestRefused")])
@pytest.mark.parametrize("transport", ["direct", "sdk"])
def test_an_error_of_the_provider_is_ours(
    project: Callable[..., Project], provider: Provider, transport: str, status: int, kind: str
) -> None:
    provider.faults.every(Fault("status", status=status))
    with pytest.raises(ProviderError) as caught:
        asked_whole(project(transport), request())
    assert (type(caught.value).__name__, caught.value.status, bool(caught.value.request_id)) == (kind, status, True)
    assert len(provider.records.all()) == 1


def test_what_may_succeed_later_is_tried_again(project: Callable[..., Project], provider: Provider) -> None:
    provider.faults.on(1, Fault("status", status=429, retry_after_ms="20"))
    provider.faults.on(2, Fault("reset"))
    assert asked_whole(project(), request()).text == "positive"
    assert len(provider.records.all()) == 3


# --- end to end -------------------------------------------------------------------------------------------


def task(model: str = MODEL, rows: int = 2, **models: str) -> Task:
    words = "a good deal of text, so that many of them are long enough to be cached"
    return Task(
        "Classify the sentiment.",
        name="s",
        output=["positive", "negative"],
        examples=[(f"row {n}: {words}", ("positive", "negative")[n % 2]) for n in range(rows)],
        models={"production": model, **models},
    )


@pytest.mark.parametrize("transport", ["direct", "sdk"])
def test_the_runtime_answers_and_streams_with_structured_output_and_a_cost(
    project: Callable[..., Project], provider: Provider, transport: str
) -> None:
    made = project(transport)
    compile_task(task(), project=made)
    with Runtime(made) as runtime:
        result = runtime.run(task(), "what a day")
        *_, last = runtime.stream(task(), "another day")
    assert (result.value, result.model) == ("positive", MODEL)
    assert last.result is not None
    assert last.result.value == "positive"
    assert result.cost
    sent = [record.json for record in provider.records.all()]
    assert {record.path for record in provider.records.all()} == {"/v1/responses"}
    assert [one["text"]["format"]["schema"]["properties"]["answer"]["enum"] for one in sent] == [["positive", "negative"]] * 2
    assert [one["store"] for one in sent] == [False, False]
    assert [row.cost is not None for row in open_store(made).ledger.rows()] == [True, True]


def test_many_calls_write_the_providers_cache_once(project: Callable[..., Project], provider: Provider) -> None:
    """N calls are one write and N - 1 reads, with byte-identical prefixes."""
    long, made = task(rows=80), project()
    compile_task(long, project=made)
    with Runtime(made) as runtime:
        results = runtime.run_many(long, [f"text {n}" for n in range(12)], concurrency=6)
    usages = [result.usage for result in results if not isinstance(result, Failure)]
    assert len(usages) == 12
    assert (sum(usage.written > 0 for usage in usages), sum(usage.cached > 0 for usage in usages)) == (1, 11)
    assert len({json.dumps(record.json["input"][0]) for record in provider.records.all()}) == 1


def test_a_meta_model_goes_by_the_same_api(project: Callable[..., Project], provider: Provider) -> None:
    good = "Classify the sentiment of the text.\n\nAnswer with exactly one of these labels and nothing else:\n- positive\n- negative\n"
    provider.answer = constant(good)
    written = compile_task(task(meta="openai/gpt-6-sol"), project=project())
    assert written.system.startswith(good.strip())
    (record,) = provider.records.all()
    assert (record.path, record.json["model"]) == ("/v1/responses", "gpt-6-sol")
    assert "prompt_cache_key" not in record.json


def test_a_foreign_server_gets_no_field_that_it_might_not_know(make_project: Config) -> None:
    """Its answer is read all the same, whole and streamed; a model's name that is also an owner's changes nothing."""
    with Provider(lambda ask: "positive", Settings(keys=None)) as provider:
        made = make_project(config=f'[endpoints.mine]\nprotocol = "openai"\napi = "responses"\nbase_url = "{provider.base_url_openai}"\n')
        with Runtime(made) as runtime:
            result = runtime.run(task("mine/gpt-6-luna"), "a", compile_missing=True)
            *_, last = runtime.stream(task("mine/gpt-6-luna"), "b")
        whole, stream = provider.records.all()
    assert last.result is not None
    assert result.value == last.result.value == "positive"
    assert whole.path == stream.path == "/v1/responses"
    assert set(whole.json) == {"model", "instructions", "input", "max_output_tokens"}
    assert set(stream.json) == {*whole.json, "stream"}
    assert "authorization" not in whole.headers


def test_a_server_without_the_api_is_an_error_with_a_hint(make_project: Config) -> None:
    with Provider(constant("positive"), Settings(keys=None, foreign=True)) as provider:
        made = make_project(config=f'[endpoints.mine]\nprotocol = "openai"\napi = "responses"\nbase_url = "{provider.base_url_openai}"\n')
        with pytest.raises(RequestRefused, match="404") as caught:
            asked_whole(made, request(model="mine/qwen3"))
    assert caught.value.hint


# --- the setting ------------------------------------------------------------------------------------------


def test_chat_completions_unless_the_endpoint_says_otherwise() -> None:
    assert isinstance(client_codec("openai"), OpenAI)
    assert isinstance(client_codec("openai", "chat"), OpenAI)
    assert isinstance(client_codec("openai", "responses"), OpenAIResponses)
    assert Endpoint(protocol="openai").api is None


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_the_setting_is_of_openais_protocol_only(tmp_path: Path, api: str) -> None:
    file = tmp_path / "promptsmith.toml"
    file.write_text(f'[endpoints.mine]\nprotocol = "anthropic"\napi = "{api}"\n[endpoints.other]\nprotocl = "openai"\n')
    with pytest.raises(SourceError) as caught:
        read_config(file)
    mine, other = caught.value.problems
    assert (mine.line, other.line) == (3, 5)
    assert "endpoints.mine: api chooses between the two APIs of the protocol openai" in mine.what
    assert mine.right == "leave api out"
    with pytest.raises(InputError, match="protocol anthropic"):
        Endpoint(protocol="anthropic", api=api)  # type: ignore[arg-type]


def test_another_api_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "promptsmith.toml"
    file.write_text('[endpoints.mine]\nprotocol = "openai"\napi = "assistants"\n')
    with pytest.raises(SourceError, match=r"3: endpoints\.mine\.api: .*assistants"):
        read_config(file)


def test_the_lint_knows_what_the_api_does_not_take() -> None:
    def found(api: str | None) -> list[str]:
        target = Target(name=MODEL, parameters={"seed": 1}, facts=LUNA, protocol="openai", foreign=False, api=api)
        return [finding.what for finding in rejected_parameters(Case(system="x", target=target))]

    assert found(None) == []
    assert "seed" in found("responses")[0]
