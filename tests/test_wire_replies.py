"""Answers of providers with any one of their parts changed to something else: each is a reply, or an error of ours."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from promptsmith.chat import Reply, Request, Turn
from promptsmith.errors import ProviderError
from promptsmith.models.wire.web_search import WEB_SEARCH

from .test_wire_server import AWKWARD, CODECS, places

ASKED = Request(model="openai/m", system="s", turns=(Turn("user", "x"),))
SCHEMA = '{"type":"array","items":{"type":"string"}}'
REQUESTS = {
    "plain": ASKED,
    "wrapped": msgspec.structs.replace(ASKED, schema=SCHEMA),
    "searching": msgspec.structs.replace(ASKED, options={WEB_SEARCH: 3}),
}
CHAT_USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
USAGE = {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 3}, "cache_read_input_tokens": 3}
TEXT = '{"answer":["a"]}'
LOCATION = {"type": "web_search_result_location", "url": "https://example.org", "title": "t"}
CITATION = {"type": "url_citation", "url": "https://example.org", "title": "t", "start_index": 0, "end_index": 2}
MESSAGE = {
    "type": "message",
    "phase": "final_answer",
    "content": [{"type": "output_text", "text": TEXT, "annotations": [CITATION]}],
}
SEARCH = {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}
FOUND = {"type": "web_search_result", "url": "https://example.org", "title": "t", "encrypted_content": "e", "page_age": None}
FAILED = {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}
BLOCKS = [
    {
        "type": "text",
        "text": TEXT,
        "citations": [{"type": "web_search_result_location", "url": "https://example.org", "title": "t"}],
    },
    {"type": "server_tool_use", "name": "web_search", "id": "i", "input": {"query": "q"}},
    {"type": "web_search_tool_result", "tool_use_id": "i", "content": [FOUND]},
    {"type": "web_search_tool_result", "tool_use_id": "i", "content": FAILED},
]


def chat(**more: Any) -> dict[str, Any]:
    message = {
        "role": "assistant",
        "content": TEXT,
        "refusal": None,
        "annotations": [{"type": "url_citation", "url_citation": CITATION}],
    }
    return {"id": "c", "choices": [{"index": 0, "finish_reason": "stop", "message": message | more}], "usage": CHAT_USAGE}


def piece(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "finish_reason": finish, "delta": delta}], "usage": None}


def response(status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"id": "r", "status": status, "output": [SEARCH, MESSAGE], "usage": USAGE, "error": None, "incomplete_details": None} | more


def said(stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "content": BLOCKS,
        "stop_reason": stop,
        "stop_details": None,
        "usage": USAGE,
    } | more


def spoken(blocks: Sequence[Any]) -> list[dict[str, Any]]:
    """The events of a stream of Anthropic's protocol."""
    events: list[dict[str, Any]] = [{"type": "message_start", "message": said(content=[])}]
    for index, block in enumerate(blocks):
        events += [
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": "x"}},
            {"type": "content_block_delta", "index": index, "delta": {"type": "citations_delta", "citation": CITATION}},
            {"type": "content_block_stop", "index": index},
        ]
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": USAGE}
    return [*events, end, {"type": "message_stop"}]


WHOLE: Mapping[str, Sequence[dict[str, Any]]] = {
    "chat": [
        chat(),
        chat(content=None, refusal="No."),
        chat(content=None, tool_calls=[{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]),
        chat(content=[{"type": "text", "text": "x"}]),
        {"error": {"message": "no", "type": "t", "code": "c"}},
    ],
    "responses": [
        response(),
        response("incomplete", incomplete_details={"reason": "max_output_tokens"}),
        response("failed", error={"code": "server_error", "message": "no"}),
        response(output=[{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]),
        response(output=[{"type": "function_call", "name": "f", "arguments": "{}", "call_id": "i"}]),
    ],
    "messages": [
        said(),
        said("refusal", stop_details={"type": "refusal", "category": "c", "explanation": "e"}),
        said("tool_use", content=[{"type": "tool_use", "id": "i", "name": "f", "input": {}}]),
        {"type": "error", "error": {"type": "overloaded_error", "message": "no"}},
    ],
}
STREAMED: Mapping[str, Sequence[Sequence[dict[str, Any]]]] = {
    "chat": [
        [
            piece(role="assistant", content=""),
            piece(content=TEXT[:9]),
            piece(content=TEXT[9:]),
            piece("stop"),
            {"choices": [], "usage": CHAT_USAGE},
        ],
        [piece(refusal="No."), piece("stop")],
        [piece(tool_calls=[{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]), piece("tool_calls")],
        [piece(content="x"), {"error": {"message": "no", "code": 500}}],
    ],
    "responses": [
        [
            {"type": "response.created", "response": response("in_progress", output=[])},
            {"type": "response.output_item.added", "output_index": 0, "item": MESSAGE | {"content": []}},
            {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": TEXT},
            {"type": "response.output_text.annotation.added", "output_index": 0, "annotation": CITATION},
            {"type": "response.completed", "response": response()},
        ],
        [{"type": "response.refusal.delta", "output_index": 0, "delta": "No."}, {"type": "response.completed", "response": response()}],
        [{"type": "response.failed", "response": response("failed", error={"code": "server_error", "message": "no"})}],
        [{"type": "error", "code": "c", "message": "no", "param": None}],
    ],
    "messages": [
        spoken(BLOCKS[:1]),
        spoken(BLOCKS),
        [{"type": "message_start", "message": said(content=[])}, {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}],
    ],
}


def changed(value: Any) -> list[Any]:
    """``value`` with each of its parts changed to each of the values, and left out."""
    found = []
    for number, _ in enumerate(places(value)):
        for other in AWKWARD:
            copied = copy.deepcopy(value)
            inside, key = list(places(copied))[number]
            inside[key] = other
            found.append(copied)
        copied = copy.deepcopy(value)
        inside, key = list(places(copied))[number]
        del inside[key]
        found.append(copied)
    return found


def heard(api: str, events: Sequence[Any], request: Request) -> Reply:
    """What a stream of these events comes to."""
    stream = CODECS[api].stream(request, request_id="r")
    for event in events:
        stream.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    if api == "chat":
        stream.feed(b"data: [DONE]\n\n")
    return stream.close()


def tried(what: object, read: Callable[[], object]) -> None:
    try:
        read()
    except ProviderError as error:
        str(error).encode()
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}, of {json.dumps(what)}") from error


@pytest.mark.parametrize("asked", REQUESTS)
@pytest.mark.parametrize(("api", "which"), [(api, which) for api, bodies in WHOLE.items() for which in range(len(bodies))])
def test_an_answer_with_any_of_its_parts_changed(api: str, which: int, asked: str) -> None:
    found = changed(WHOLE[api][which])
    assert len(found) > 50
    for body in found:
        tried(body, lambda body=body: CODECS[api].reply(json.dumps(body).encode(), REQUESTS[asked], request_id="r"))  # type: ignore[misc]
        assert isinstance(CODECS[api].error(500, {}, json.dumps(body).encode()), ProviderError)


@pytest.mark.parametrize("asked", ["plain", "wrapped"])  # an answer with web search is not streamed
@pytest.mark.parametrize(("api", "which"), [(api, which) for api, streams in STREAMED.items() for which in range(len(streams))])
def test_a_stream_with_any_of_its_parts_changed(api: str, which: int, asked: str) -> None:
    for events in changed(list(STREAMED[api][which])):
        tried(events, lambda events=events: heard(api, events, REQUESTS[asked]))  # type: ignore[misc]


def test_what_is_changed_is_read_when_it_is_not() -> None:
    """Or the tests above would show nothing."""
    for api, bodies in WHOLE.items():
        both = msgspec.structs.replace(REQUESTS["searching"], schema=SCHEMA)
        reply = CODECS[api].reply(json.dumps(bodies[0]).encode(), both, request_id="r")
        assert (reply.text, reply.stop, reply.usage.cached) == ('["a"]', "end", 3), api
    for api, streams in STREAMED.items():
        reply = heard(api, streams[0], REQUESTS["plain"])
        assert (reply.text.startswith(TEXT), reply.stop, reply.usage.cached) == (True, "end", 3), api
