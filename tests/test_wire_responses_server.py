"""The Responses API as a server: what a client sends is read, what we answer is what its types, its SDK and our own client read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseErrorEvent, ResponseStreamEvent
from pydantic import TypeAdapter

from promptsmith.catalog.models import facts
from promptsmith.chat import Chunk, Reply, Request, Turn, Usage
from promptsmith.errors import InputError, ModelError, ProviderDown, ProviderError, RateLimited
from promptsmith.models.wire import CachePlan, Codec, codec, encode
from promptsmith.models.wire.openai import OpenAI
from promptsmith.models.wire.openai_responses import OpenAIResponses
from promptsmith.models.wire.sse import EventParser

CODEC: Codec = codec("openai", "responses")
MODEL = "openai/gpt-6-luna"
LUNA = facts(MODEL)
ORDER = '{"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}'
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def request(**changes: Any) -> Request:
    return Request(**({"model": MODEL, "system": "Classify.", "turns": (Turn("user", "hi"),)} | changes))


def test_both_of_openais_apis_are_whole_codecs() -> None:
    assert isinstance(CODEC, OpenAIResponses)
    assert isinstance(codec("openai"), OpenAI)
    assert isinstance(codec("openai", "chat"), OpenAI)


# --- what a client sends ----------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
requests = st.builds(
    request,
    system=texts,
    turns=st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), texts), max_size=3).map(lambda some: (*some, Turn("user", "x"))),
    parameters=st.fixed_dictionaries(
        {"max_tokens": st.integers(16, 10**6)},
        optional={
            "temperature": st.floats(0, 2),
            "top_p": st.floats(0, 1),
            "effort": st.sampled_from(LUNA.efforts),
            "verbosity": st.sampled_from(["low", "high"]),
            "safety_identifier": texts.filter(bool),
        },
    ),
    schema=st.sampled_from(["", ORDER]),
)


@given(requests, st.booleans(), st.booleans())
@settings(deadline=None)
def test_what_we_send_we_read_as_the_same_request(one: Request, stream: bool, mark: bool) -> None:
    made = CODEC.body(one, stream=stream, facts=LUNA, cache=CachePlan(mark=mark))
    got = CODEC.read_request(encode(made))
    assert (got.model, got.system, got.turns, dict(got.parameters)) == ("gpt-6-luna", one.system, one.turns, dict(one.parameters))
    assert (got.stream, got.stream_usage, got.unsupported) == (stream, stream, ())
    assert got.user == one.parameters.get("safety_identifier", "")
    sent = made.get("text", {}).get("format")
    assert (json.loads(got.schema) if got.schema else None) == (sent["schema"] if sent else None)


def incoming(**fields: Any) -> Any:
    return CODEC.read_request(json.dumps({"model": "sentiment@production", "input": "hi"} | fields).encode())


def test_a_clients_request() -> None:
    got = incoming(
        instructions="A",
        input=[
            {"role": "developer", "content": [{"type": "input_text", "text": "B", "prompt_cache_breakpoint": {"mode": "explicit"}}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_text", "text": "y"}]},
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "z", "annotations": []}],
            },
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "user", "content": "w"},
        ],
        max_output_tokens=50,
        reasoning={"effort": "low", "summary": None},
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}, "verbosity": "low"},
        metadata={"a": "b"},
        prompt_variables={"name": "Ann", "n": 3, "tags": ["x"], "none": None},
        user="u1",
        store=True,
        temperature=None,
        service_tier="flex",
        include=["reasoning.encrypted_content"],
        parallel_tool_calls=True,
        truncation="auto",
    )
    assert got.system == "A\n\nB"
    assert got.turns == (Turn("user", "xy"), Turn("assistant", "z"), Turn("assistant", "no"), Turn("user", "w"))
    assert got.parameters == {"max_tokens": 50, "effort": "low", "verbosity": "low", "service_tier": "flex"}
    assert (got.schema, got.metadata, got.user) == ('{"type":"object"}', {"a": "b"}, "u1")
    assert got.variables == {"name": "Ann", "n": "3", "tags": '["x"]'}
    ignored = ("include", "input.content.prompt_cache_breakpoint", "parallel_tool_calls", "store", "text.format", "truncation")
    assert (got.ignored, got.unsupported) == (ignored, ())


def test_an_input_of_one_text_is_a_turn_and_store_is_no_obstacle() -> None:
    got = incoming(store=True, text={"format": {"type": "text"}}, stream=True)
    assert (got.turns, got.schema, got.stream, got.ignored) == ((Turn("user", "hi"),), "", True, ("store",))
    assert json.loads(CODEC.write_reply(Reply(text="x", model="m"), model="m", id="resp_1"))["store"] is False


def test_json_without_a_schema_is_any_object() -> None:
    assert incoming(text={"format": {"type": "json_object"}}).schema == '{"type":"object"}'


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "function_call_output item (input[0])"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference item (input[0])"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input_image content (input[0].content[0])",
        ),
        (
            {"input": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]},
            "a system message after the first turn (input[1])",
        ),
    ],
)
def test_what_is_not_done_is_named(fields: dict[str, Any], named: str) -> None:
    assert incoming(**fields).unsupported == (named,)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": None, "tool_choice": "auto"},
        {"background": False, "previous_response_id": None, "conversation": None, "prompt": None},
        {"include": []},
        {"include": None},
    ],
)
def test_features_that_are_switched_off_are_no_obstacle(fields: dict[str, Any]) -> None:
    assert incoming(**fields).unsupported == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{}", "model is missing"),
        (b'{"model": "x"}', "input is missing"),
        (b'{"model": "x", "input": {}}', "input must be a text or a list of items"),
        (b'{"model": "x", "input": [3]}', "input[0].role"),
        (b'{"model": "x", "input": [{"role": []}]}', "input[0].role"),
        (b'{"model": "x", "input": [{"role": "user"}]}', "input[0].content must be"),
        (b'{"model": "x", "input": [{"role": "user", "content": [{"type": "input_text"}]}]}', "input[0].content[0].text must be a text"),
        (b'{"model": "x", "input": "\\udc00"}', "input: the text has a lone surrogate"),
        (b'{"model": "x", "input": "", "instructions": 3}', "instructions must be a text"),
        (b'{"model": "x", "input": "", "max_output_tokens": "5"}', "max_tokens must be a whole number"),
        (b'{"model": "x", "input": "", "reasoning": "low"}', "reasoning must be an object"),
        (b'{"model": "x", "input": "", "reasoning": {"effort": 3}}', "reasoning.effort must be a text, not 3"),
        (b'{"model": "x", "input": "", "text": {"verbosity": []}}', "text.verbosity must be a text"),
        (b'{"model": "x", "input": "", "text": {"format": "json"}}', "text.format must be an object"),
        (b'{"model": "x", "input": "", "text": {"format": {"type": "json_schema"}}}', "text.format must be of type"),
        (b'{"model": "x", "input": "", "prompt_variables": "a"}', "prompt_variables must be"),
        (b'{"model": "x", "input": "", "user": 3}', "user must be a text"),
    ],
)
def test_a_request_that_is_wrong_is_told_where(data: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        CODEC.read_request(data)
    assert words in str(caught.value)


# --- what we answer ---------------------------------------------------------------------------------------


def events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in EventParser().feed(data)]


def written(reply: Reply, pieces: list[str], **about: Any) -> Iterator[bytes]:
    writer = CODEC.writer(**({"model": "s@production", "id": "resp_1", "created": 7} | about))
    yield writer.start()
    for piece in pieces:
        yield writer.chunk(Chunk(piece))
    yield writer.chunk(Chunk("", reply))


def test_a_stream_is_the_whole_sequence_of_events() -> None:
    reply = Reply(text="positive", model="m", usage=Usage(9, 2, cached=4, written=1, reasoning=1))
    got = events(b"".join(written(reply, ["posi", "tive"])))
    assert [event["type"].removeprefix("response.") for event in got] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in got] == list(range(10))
    whole = json.loads(CODEC.write_reply(reply, model="s@production", id="resp_1", created=7))
    assert got[-1]["response"] == whole
    assert (got[0]["response"]["status"], got[0]["response"]["output"], whole["status"]) == ("in_progress", [], "completed")
    assert {event["item_id"] for event in got if "item_id" in event} == {whole["output"][0]["id"]} == {"msg_1"}
    assert (got[6]["text"], got[8]["item"]) == ("positive", whole["output"][0])
    assert whole["usage"]["total_tokens"] == 11


STOPS = ["end", "length", "filtered", "refused"]
replies = st.builds(
    Reply,
    text=texts,
    model=st.just(MODEL),
    stop=st.sampled_from(STOPS),
    usage=st.builds(Usage, st.integers(500, 10**6), st.integers(0, 999), st.integers(0, 250), st.integers(0, 250), st.integers(0, 99)),
)


@given(replies, st.lists(st.integers(0, 20), max_size=4), st.booleans())
@settings(deadline=None)
def test_every_answer_is_of_the_sdks_types_and_every_part_agrees_with_the_whole(reply: Reply, cuts: list[int], told: bool) -> None:
    whole = CODEC.write_reply(reply, model="m", id="resp_1", created=7)
    Response.model_validate_json(whole, strict=True)
    edges = sorted({0, len(reply.text), *(cut for cut in cuts if cut < len(reply.text))}) if told or reply.stop != "refused" else [0]
    pieces = [reply.text[start:end] for start, end in pairwise(edges)]
    data = b"".join(written(reply, pieces, model="m"))
    got = events(data)
    for event in got:
        EVENT.validate_json(json.dumps(event), strict=True)
    deltas = "".join(event["delta"] for event in got if event["type"].endswith(".delta"))
    assert deltas == reply.text
    part = got[-1]["response"]["output"][0]["content"][0]
    assert part.get("text", part.get("refusal")) == reply.text
    if not (told and reply.stop == "refused"):
        assert got[-1]["response"] == json.loads(whole)


@pytest.mark.parametrize(
    ("stop", "text", "status", "reason", "kind"),
    [
        ("end", "a", "completed", None, "output_text"),
        ("end", "", "completed", None, "output_text"),
        ("length", "a", "incomplete", "max_output_tokens", "output_text"),
        ("filtered", "a", "incomplete", "content_filter", "output_text"),
        ("refused", "I can't.", "completed", None, "refusal"),
        ("refused", "", "incomplete", "content_filter", "output_text"),
    ],
)
def test_how_a_reply_stopped_is_told(stop: Any, text: str, status: str, reason: str | None, kind: str) -> None:
    whole = json.loads(CODEC.write_reply(Reply(text=text, model="m", stop=stop), model="m", id="r"))
    assert (whole["status"], (whole["incomplete_details"] or {}).get("reason")) == (status, reason)
    assert whole["output"][0]["content"][0]["type"] == kind


def test_a_refusal_after_words_that_are_out_is_an_incomplete_response() -> None:
    got = events(b"".join(written(Reply(text="half", model="m", stop="refused"), ["half"])))
    assert got[-1]["type"] == "response.incomplete"
    assert got[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}


def test_an_aborted_reply_is_never_written_as_a_whole_one() -> None:
    aborted = Reply(text="x", model="m", stop="aborted")
    with pytest.raises(ModelError, match="aborted"):
        CODEC.write_reply(aborted, model="m", id="r")
    with pytest.raises(ModelError, match="aborted"):
        list(written(aborted, ["x"]))


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (429, RateLimited, "rate_limit_exceeded"),
        (503, ProviderDown, "server_error"),
        (529, ProviderDown, "server_error"),
    ],
)
def test_a_stream_that_fails_says_so_in_a_failed_response_and_an_error_event(status: int, kind: type[ProviderError], code: str) -> None:
    writer = CODEC.writer(model="m", id="resp_1")
    data = writer.start() + writer.chunk(Chunk("half")) + writer.error(status, "the provider is away")
    *_, failed, error = events(data)
    EVENT.validate_json(json.dumps(failed), strict=True)
    ResponseErrorEvent.model_validate_json(json.dumps(error), strict=True)
    assert (failed["type"], failed["response"]["status"], failed["response"]["error"]["code"]) == ("response.failed", "failed", code)
    assert (error["type"], error["message"], error["sequence_number"]) == ("error", "the provider is away", failed["sequence_number"] + 1)
    decoder = CODEC.stream(request())
    with pytest.raises(kind, match="the provider is away"):
        decoder.feed(data)


def test_an_error_is_the_one_of_chat_completions() -> None:
    told = (404, "No such prompt.\ud800")
    assert CODEC.write_error(*told, code="unknown_prompt") == codec("openai").write_error(*told, code="unknown_prompt")
