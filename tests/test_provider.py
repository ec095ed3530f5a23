"""The loopback provider, seen by the official SDKs: they get from it exactly what they expect of the real ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import anthropic
import anthropic.types as claude
import msgspec
import openai
import pydantic
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from openai.types.shared.chat_model import ChatModel
from openai.types.shared.responses_model import ResponsesModel

from promptsmith.prompt import Pair, example_block
from tests.provider import (
    ANSWER_KINDS,
    BEFORE,
    HEADERS,
    KEY,
    LINE_KINDS,
    STATUSES,
    Ask,
    Fault,
    Provider,
    Said,
    Schedule,
    Settings,
    Usage,
    at_every_point,
    constant,
    every_fault,
    http_date,
    nearest,
    provider_process,
    refused_url,
    scripted,
)
from tests.provider.bodies import ChatBody, CountBody, MessagesBody, ResponsesBody
from tests.provider.catalog import models

Protocol = Literal["chat", "responses", "messages"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
TEXT = "I would call this one positive, all in all."
LUNA, HAIKU, OLDER = "gpt-6-luna", "claude-haiku-5-5", "gpt-5.4-mini"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(constant(TEXT)) as running:
        yield running


class Clients:
    """The official clients of one provider. They check each answer against their own types, and never retry."""

    def __init__(self, provider: Provider, *, key: str = KEY, retries: int = 0, timeout: float = 10.0, prefix: str = "") -> None:
        shared: dict[str, Any] = {"api_key": key, "max_retries": retries, "timeout": timeout, "_strict_response_validation": True}
        # Without the certificates that nobody needs on the loopback, whose loading is most of a client's making.
        plain_openai, plain_claude = openai.DefaultHttpxClient(verify=False), anthropic.DefaultHttpxClient(verify=False)
        self.openai = openai.OpenAI(base_url=f"{provider.url}{prefix}/v1", http_client=plain_openai, **shared)
        self.claude = anthropic.Anthropic(base_url=f"{provider.url}{prefix}", http_client=plain_claude, **shared)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self.openai.close()
        self.claude.close()

    def call(self, protocol: Protocol, text: str = "hi", /, *, stream: bool = False, **more: Any) -> Any:
        """One plain request."""
        if protocol == "chat":
            more = {"model": LUNA, "messages": [{"role": "user", "content": text}], **more}
            if stream:
                more.setdefault("stream_options", {"include_usage": True})
            return self.openai.chat.completions.create(stream=stream, **more)
        if protocol == "responses":
            return self.openai.responses.create(stream=stream, **{"model": LUNA, "input": text, **more})
        more = {"model": HAIKU, "messages": [{"role": "user", "content": text}], "max_tokens": 1000, **more}
        return self.claude.messages.create(stream=stream, **more)


@pytest.fixture
def clients(provider: Provider) -> Iterator[Clients]:
    with Clients(provider) as made:
        yield made


def raises(name: str) -> Any:
    """The exception of that name, of either SDK."""
    return pytest.raises((getattr(openai, name), getattr(anthropic, name)))


def text_of(protocol: Protocol, answer: Any) -> Any:
    if protocol == "chat":
        return answer.choices[0].message.content
    return answer.output_text if protocol == "responses" else "".join(block.text for block in answer.content)


def piece_of(protocol: Protocol, event: Any) -> str:
    """The text in one event of a stream."""
    if protocol == "chat":
        return "".join(choice.delta.content or "" for choice in event.choices)
    if protocol == "responses":
        return event.delta if event.type == "response.output_text.delta" else ""
    return event.delta.text if event.type == "content_block_delta" else ""


def unknown_to(model: object, path: str = "") -> list[str]:
    """Every field in an SDK's value that its own types don't have."""
    if isinstance(model, list):
        return [name for place, item in enumerate(model) for name in unknown_to(item, f"{path}[{place}]")]
    if not isinstance(model, pydantic.BaseModel):
        return []
    found = [f"{path}.{name}" for name in model.model_extra or {}]
    return found + [name for field in type(model).model_fields for name in unknown_to(getattr(model, field, None), f"{path}.{field}")]


# --- the wire, as the SDKs type it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "params"),
    [
        (ChatBody, CompletionCreateParamsStreaming),
        (ResponsesBody, ResponseCreateParamsStreaming),
        (MessagesBody, claude.message_create_params.MessageCreateParamsStreaming),
        (CountBody, claude.MessageCountTokensParams),
    ],
)
def test_a_body_has_only_fields_that_the_sdk_can_send(body: type[msgspec.Struct], params: type) -> None:
    """Fields that later SDKs add are theirs to send; a test that failed at each of their releases would say nothing of us."""
    assert set(body.__struct_fields__) <= set(params.__annotations__)


def test_every_model_is_one_that_the_sdk_knows() -> None:
    chat = set(get_args(ChatModel))
    known = {name for part in get_args(ResponsesModel) for name in get_args(part)} | chat
    anthropic_names = {name for part in get_args(claude.Model) for name in get_args(part)}
    for facts in models().values():
        assert facts.name in (known if facts.dialect == "openai" else anthropic_names)
        assert facts.dialect == "anthropic" or facts.chat == (facts.name in chat)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_answer_is_what_the_sdk_types_say(provider: Provider, clients: Clients, protocol: Protocol) -> None:
    answer = clients.call(protocol, "x" * 400)
    assert text_of(protocol, answer) == TEXT
    assert unknown_to(answer) == []
    assert answer._request_id == "req_000000000000000000000001"
    used = provider.records.last.usage
    assert used == Usage(input=100, output=len(TEXT) // 4)
    if protocol == "chat":
        assert answer.choices[0].finish_reason == "stop"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (100, 10, 110)
    elif protocol == "responses":
        assert answer.status == "completed"
        assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (100, 10, 110)
    else:
        assert answer.stop_reason == "end_turn"
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (100, 10)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stream_is_what_the_sdk_types_say(provider: Provider, clients: Clients, protocol: Protocol) -> None:
    with clients.call(protocol, "x" * 400, stream=True) as stream:
        events = list(stream)
    assert "".join(piece_of(protocol, event) for event in events) == TEXT
    assert [name for event in events for name in unknown_to(event)] == []
    assert sum(1 for event in events if piece_of(protocol, event)) >= 3
    if protocol == "chat":
        assert [chunk.usage is None for chunk in events] == [True] * (len(events) - 1) + [False]
        assert events[-1].choices == []
        assert events[-1].usage.total_tokens == 110
        assert events[0].choices[0].delta.role == "assistant"
        assert events[-2].choices[0].finish_reason == "stop"
    elif protocol == "responses":
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].response.usage.total_tokens == 110
    else:
        assert [event.type for event in events][-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert events[0].message.usage.input_tokens == 100
        assert events[-2].usage.output_tokens == 10
    assert provider.records.wait(lambda seen: seen[-1].ended is not None)[-1].aborted is None


def test_the_sdks_own_stream_helpers_put_the_answer_together(clients: Clients) -> None:
    with clients.openai.chat.completions.stream(model=LUNA, messages=[{"role": "user", "content": "hi"}]) as chat:
        assert chat.get_final_completion().choices[0].message.content == TEXT
    with clients.openai.responses.stream(model=LUNA, input="hi") as responses:
        assert responses.get_final_response().output_text == TEXT
    with clients.claude.messages.stream(model=HAIKU, max_tokens=100, messages=[{"role": "user", "content": "hi"}]) as messages:
        assert "".join(messages.text_stream) == TEXT
        assert messages.get_final_message().usage.output_tokens == 10


def test_the_stream_on_the_wire(provider: Provider) -> None:
    """What the SDKs hide: ``[DONE]``, the ping, event names, usage only when asked for."""
    chat = raw(provider, "/v1/chat/completions", {"model": LUNA, "messages": [{"role": "user", "content": "hi"}], "stream": True})
    assert chat.endswith("data: [DONE]\n\n")
    assert '"usage"' not in chat
    assert '"obfuscation"' in chat
    body = {"model": HAIKU, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert 'event: ping\ndata: {"type":"ping"}\n\n' in raw(provider, "/v1/messages", body)


def raw(provider: Provider, path: str, body: object, **headers: str) -> str:
    sent = {"authorization": f"Bearer {KEY}", "anthropic-version": "2026-10-21", "content-type": "application/json", **headers}
    with urlopen(Request(provider.url + path, json.dumps(body).encode(), sent), timeout=10) as answer:
        return str(answer.read().decode())


def test_models_and_token_counts(clients: Clients) -> None:
    assert LUNA in [model.id for model in clients.openai.models.list()]
    assert clients.openai.models.retrieve(LUNA).id == LUNA
    assert HAIKU in [model.id for model in clients.claude.models.list()]
    assert unknown_to(clients.claude.models.retrieve(HAIKU)) == []
    with pytest.raises(anthropic.NotFoundError):
        clients.claude.models.retrieve("claude-zero")
    counted = clients.claude.messages.count_tokens(model=HAIKU, system="s" * 40, messages=[{"role": "user", "content": "u" * 80}])
    assert counted.input_tokens == 30


def test_any_path_before_the_version_and_none_without(provider: Provider) -> None:
    with Clients(provider, prefix="/gateway/team-1") as clients:
        for protocol in PROTOCOLS:
            assert text_of(protocol, clients.call(protocol)) == TEXT
    for path in ("/chat/completions", "//v1/chat/completions", "/v1/chat/completions/"):
        with pytest.raises(HTTPError, match="404"):
            raw(provider, path, {})


# --- who is let in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_wrong_key_is_401(provider: Provider, protocol: Protocol) -> None:
    with Clients(provider, key="sk-wrong") as clients, raises("AuthenticationError") as caught:
        clients.call(protocol)
    assert caught.value.request_id == "req_000000000000000000000001"
    if isinstance(caught.value, openai.AuthenticationError):
        assert caught.value.code == "invalid_api_key"
        assert "Incorrect API key provided" in caught.value.message
    else:
        assert caught.value.type == "authentication_error"


def test_where_a_key_may_stand(provider: Provider) -> None:
    ask = {"model": HAIKU, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    assert TEXT[:9] in raw(provider, "/v1/messages", ask, authorization="", **{"x-api-key": KEY})
    for path, headers in (
        ("/v1/chat/completions", {"authorization": "", "x-api-key": KEY}),
        ("/v1/chat/completions", {"authorization": KEY}),
        ("/v1/messages", {"authorization": ""}),
    ):
        with pytest.raises(HTTPError, match="401"):
            raw(provider, path, ask, **headers)
    with pytest.raises(HTTPError, match="400"):
        raw(provider, "/v1/messages", ask, **{"anthropic-version": "1999-01-01"})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unknown_model_is_404(clients: Clients, protocol: Protocol) -> None:
    with raises("NotFoundError") as caught:
        clients.call(protocol, model="gpt-zero")
    assert "gpt-zero" in caught.value.message
    if isinstance(caught.value, openai.NotFoundError):
        assert caught.value.code == "model_not_found"
    else:
        assert caught.value.type == "not_found_error"


USER = [{"role": "user", "content": "hi"}]
PIECE = {"type": "text", "text": "hi"}
MARK = {"type": "ephemeral"}
POINT = {"mode": "explicit"}


@pytest.mark.parametrize(
    ("protocol", "fields", "says"),
    [
        ("chat", {"extra_body": {"cache": True}}, "Unknown parameter: 'cache'."),
        ("chat", {"extra_body": {"messages": [{**USER[0], "cache_control": MARK}]}}, "Unknown parameter: 'messages[0].cache_control'."),
        ("chat", {"extra_body": {"messages": None}}, "Invalid type for 'messages'"),
        ("chat", {"messages": []}, "empty array"),
        ("chat", {"messages": [{"role": "user", "content": 3}]}, "expected a string or an array, but got an integer instead"),
        ("chat", {"messages": [{"role": "model", "content": "hi"}]}, "Invalid value: 'model'"),
        ("chat", {"max_tokens": 10}, "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
        ("chat", {"max_completion_tokens": 0}, "integer below minimum value"),
        ("chat", {"temperature": "hot"}, "Invalid type for 'temperature': expected a decimal"),
        ("chat", {"temperature": 0, "model": "o3"}, "Only the default (1) value is supported"),
        ("chat", {"model": "gpt-5.5-pro"}, "not a chat model"),
        ("chat", {"model": OLDER, "prompt_cache_options": POINT}, "'prompt_cache_options' is not supported"),
        ("chat", {"prompt_cache_options": {"ttl": "12h"}}, "Invalid value: '12h'"),
        ("chat", {"prompt_cache_retention": "in_memory"}, "does not support 'in_memory'"),
        ("chat", {"stream_options": {"include_usage": True}}, "only allowed when 'stream' is enabled"),
        ("chat", {"response_format": {"type": "json_object"}}, "must contain the word 'json'"),
        ("responses", {"extra_body": {"messages": USER}}, "Unknown parameter: 'messages'."),
        ("responses", {"extra_body": {"max_tokens": 5}}, "Unknown parameter: 'max_tokens'."),
        ("responses", {"input": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, "Invalid value: 'text'"),
        ("responses", {"previous_response_id": "resp_1"}, "not found"),
        ("messages", {"extra_body": {"temperature": 1}}, "temperature: Extra inputs are not permitted"),
        ("messages", {"extra_body": {"top_p": 0.5}}, "top_p: Extra inputs are not permitted"),
        ("messages", {"extra_body": {"top_k": 5}}, "top_k: Extra inputs are not permitted"),
        ("messages", {"extra_body": {"prompt_cache_key": "k"}}, "prompt_cache_key: Extra inputs are not permitted"),
        ("messages", {"extra_body": {"max_tokens": "many"}}, "max_tokens: Input should be a valid integer"),
        ("messages", {"messages": [*USER, {"role": "assistant", "content": "The answer is"}]}, "prefill"),
        ("messages", {"messages": [{"role": "user", "content": [{**PIECE, "x": 1}]}]}, "messages.0.content.0.x: Extra"),
        ("messages", {"messages": [{"role": "user", "content": ""}]}, "must have non-empty content"),
        ("messages", {"system": [{**PIECE, "cache_control": MARK}] * 5}, "A maximum of 4 blocks with cache_control"),
        ("messages", {"system": [{**PIECE, "cache_control": MARK}], "cache_control": {**MARK, "ttl": "1h"}}, "must not come after"),
        ("messages", {"model": "claude-opus-5-5", "thinking": {"type": "disabled"}}, "can't be disabled"),
        ("messages", {"model": "claude-sonnet-5-5", "tool_choice": {"type": "any"}}, "forced tool use"),
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 2000}}, "`max_tokens` must be greater"),
    ],
)  # fmt: skip
def test_what_a_provider_refuses(clients: Clients, protocol: Protocol, fields: dict[str, Any], says: str) -> None:
    with raises("APIStatusError") as caught:
        clients.call(protocol, **fields)
    assert caught.value.status_code == (404 if "not a chat" in says else 400)
    assert says in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_a_missing_field_is_named(provider: Provider) -> None:
    with pytest.raises(HTTPError, match="400") as caught:
        raw(provider, "/v1/messages", {"model": HAIKU, "messages": USER})
    error = json.loads(caught.value.read())
    caught.value.close()
    request_id = f"req_{1:024d}"
    assert error == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "max_tokens: Field required"},
        "request_id": request_id,
    }


def test_older_models_sample_under_the_older_version(clients: Clients) -> None:
    old: dict[str, Any] = {"extra_headers": {"anthropic-version": "2023-06-01"}, "extra_body": {"temperature": 0}}
    assert clients.call("messages", model="claude-haiku-4-5", **old).content
    with pytest.raises(anthropic.BadRequestError, match="only the default value"):
        clients.call("messages", model=HAIKU, **old)


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("status", STATUSES)
def test_each_status_is_the_sdks_own_exception(provider: Provider, clients: Clients, protocol: Protocol, status: int) -> None:
    provider.faults.every(Fault("status", status=status))
    named = {400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError", 409: "ConflictError",
             429: "RateLimitError"}  # fmt: skip
    claude_only = {408: "RequestTimeoutError", 413: "ContentTooLargeError", 503: "ServiceUnavailableError", 529: "OverloadedError"}
    if protocol == "messages":
        named |= claude_only
    with raises("APIStatusError") as caught:
        clients.call(protocol)
    assert type(caught.value).__name__ == named.get(status, "InternalServerError" if status >= 500 else "APIStatusError")
    assert caught.value.request_id == "req_000000000000000000000001"
    assert caught.value.type
    if protocol == "messages":
        assert caught.value.type in get_args(claude.shared.ErrorType)
    assert provider.records.last.status == status


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_sdks_obey_what_is_said_about_retrying(provider: Provider, protocol: Protocol) -> None:
    with Clients(provider, retries=2) as clients:
        provider.faults.on([1, 2], Fault("status", status=429, retry_after_ms="1"))
        assert text_of(protocol, clients.call(protocol)) == TEXT
        assert [record.headers["x-stainless-retry-count"] for record in provider.records.all()] == ["0", "1", "2"]
        provider.faults.clear()
        provider.faults.every(Fault("status", status=500, should_retry="false"))
        with raises("InternalServerError"):
            clients.call(protocol)
        assert len(provider.records) == 4


def test_retry_after_in_all_its_forms(provider: Provider, clients: Clients) -> None:
    now = 1_790_000_000.0
    for fault, header, value in (
        (Fault("status", status=429, retry_after="2"), "retry-after", "2"),
        (Fault("status", status=429, retry_after=http_date(5, now)), "retry-after", "Mon, 21 Sep 2026 14:13:25 GMT"),
        (Fault("status", status=429, retry_after_ms="1500"), "retry-after-ms", "1500"),
        (Fault("status", status=429, retry_after="3600"), "retry-after", "3600"),
    ):
        provider.faults.every(fault)
        with pytest.raises(openai.RateLimitError) as caught:
            clients.call("chat")
        assert caught.value.response.headers[header] == value
        assert caught.value.code == "rate_limit_exceeded"
    provider.faults.every(Fault("status", status=429, retry_after="3600"))
    with Clients(provider, retries=2) as patient, pytest.raises(openai.RateLimitError):
        patient.call("chat")
    assert len(provider.records) == 5


# --- the line ---------------------------------------------------------------------------------------------

GONE = (openai.APIConnectionError, anthropic.APIConnectionError)
BROKEN = (openai.OpenAIError, anthropic.AnthropicError, ValueError, pytest.importorskip("httpx2").TransportError)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("at", [BEFORE, HEADERS, 2])
@pytest.mark.parametrize("kind", ["reset", "close"])
def test_a_connection_that_ends_early(provider: Provider, clients: Clients, protocol: Protocol, kind: Any, at: int) -> None:
    provider.faults.every(Fault(kind, at=at))
    with pytest.raises(GONE):
        clients.call(protocol)
    seen = provider.records.wait(lambda records: records[-1].ended is not None)[-1]
    assert seen.status == (0 if at == BEFORE else 200)


def test_a_hanging_provider_and_a_client_that_gives_up(provider: Provider) -> None:
    provider.faults.every(Fault("hang"))
    with Clients(provider, timeout=0.1) as clients:
        for protocol in PROTOCOLS:
            with raises("APITimeoutError"):
                clients.call(protocol)
    for record in provider.records.wait(lambda records: len(records) == 3 and all(one.aborted for one in records)):
        assert record.aborted is not None
        assert record.aborted > record.started
        assert record.status == 0


def test_a_stream_that_its_client_leaves(provider: Provider, clients: Clients) -> None:
    provider.faults.every(Fault("hang", at=3))
    for protocol in PROTOCOLS:
        with clients.call(protocol, stream=True) as stream:
            next(iter(stream))
    for record in provider.records.wait(lambda records: len(records) == 3 and all(one.aborted for one in records)):
        assert record.status == 200
        assert record.events <= 3


def test_a_provider_that_stops_does_not_wait_for_what_hangs() -> None:
    with Provider(constant(TEXT)) as provider, Clients(provider) as clients:
        provider.faults.every(Fault("hang"))
        ended: list[BaseException] = []

        def call() -> None:
            try:
                clients.call("chat")
            except openai.APIConnectionError as error:
                ended.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        provider.records.wait(lambda records: bool(records) and records[0].received is not None)
        provider.stop()
        thread.join()
        assert len(ended) == 1
    assert provider.records.last.aborted is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pages_garbage_and_nothing(provider: Provider, clients: Clients, protocol: Protocol) -> None:
    provider.faults.every(Fault("html", status=502))
    with raises("InternalServerError") as caught:
        clients.call(protocol)
    assert "<!DOCTYPE html>" in str(caught.value.body)
    for fault in (Fault("html", status=200), Fault("empty"), Fault("garbage"), Fault("truncated")):
        provider.faults.every(fault)
        with pytest.raises(BROKEN):
            clients.call(protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [kind for kind in LINE_KINDS if kind not in {"hang", "slow", "drip"}])
def test_each_fault_at_each_point_of_a_stream(provider: Provider, clients: Clients, protocol: Protocol, kind: Any) -> None:
    """What came before the fault arrives; nothing after it does; and the client is never left waiting."""
    with clients.call(protocol, stream=True) as stream:
        events = len(list(stream))
    # The SDKs swallow [DONE] and the ping, each an event on the wire.
    events += protocol != "responses"
    for fault in at_every_point(kind, events):
        provider.faults.every(fault)
        got, ended = "", False
        try:
            with clients.call(protocol, stream=True) as stream:
                for event in stream:
                    if getattr(event, "type", "") == "error":
                        raise openai.OpenAIError(event.message)
                    got += piece_of(protocol, event)
            ended = True
        except BROKEN:
            pass
        last = provider.records.wait(lambda records: records[-1].ended is not None)[-1]
        assert TEXT.startswith(got)
        assert last.events == max(fault.at - fault.inside, 0)
        # A stream may end without an error only where the SDK can't know: after its last word, or with nothing said.
        assert not ended or got == TEXT or kind in {"empty", "html", "garbage", "truncated", "close"}, fault


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["slow", "drip"])
def test_a_slow_line_changes_nothing(provider: Provider, clients: Clients, protocol: Protocol, stream: bool, kind: Any) -> None:
    provider.faults.every(Fault(kind, at=HEADERS, seconds=0.0))
    answer = clients.call(protocol, stream=stream)
    assert (("".join(piece_of(protocol, event) for event in answer)) if stream else text_of(protocol, answer)) == TEXT


def test_latency_comes_before_the_first_byte_and_pace_between_events() -> None:
    with Provider(constant(TEXT), Settings(latency=0.03, pace=0.005)) as provider, Clients(provider) as clients:
        events = list(clients.call("chat", stream=True))
        record = provider.records.wait(lambda records: records[-1].ended is not None)[-1]
    assert record.first_byte is not None
    assert record.first_byte - record.started >= 0.03
    assert record.ended is not None
    assert record.ended - record.first_byte >= 0.005 * len(events)


def test_nobody_listens() -> None:
    with refused_url() as url, openai.OpenAI(api_key=KEY, base_url=url, max_retries=0) as client, pytest.raises(openai.APIConnectionError):
        client.models.list()


# --- strange answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_reasons_to_stop(provider: Provider, clients: Clients, stream: bool) -> None:
    """Each protocol's word for a cut, a refusal, a filter and a tool call."""
    words: dict[Any, tuple[str, str, str]] = {
        "length": ("length", "incomplete", "max_tokens"),
        "refusal": ("stop", "completed", "refusal"),
        "filter": ("content_filter", "incomplete", "refusal"),
        "tool": ("tool_calls", "completed", "tool_use"),
    }
    for kind, (chat, responses, messages) in words.items():
        provider.faults.every(Fault(kind))
        completion, response, message = (_final(clients, protocol, stream) for protocol in PROTOCOLS)
        assert completion.choices[0].finish_reason == chat
        assert response.status == responses
        assert message.stop_reason == messages
        if kind == "refusal":
            assert completion.choices[0].message.content is None
            assert completion.choices[0].message.refusal
            assert response.output[0].content[0].type == "refusal"
            assert message.stop_details.type == "refusal"
        if kind == "tool":
            assert json.loads(completion.choices[0].message.tool_calls[0].function.arguments) == {"question": "what now?"}
            assert json.loads(response.output[0].arguments) == {"question": "what now?"}
            assert message.content[0].input == {"question": "what now?"}


def _final(clients: Clients, protocol: Protocol, stream: bool) -> Any:
    if not stream:
        return clients.call(protocol)
    if protocol == "chat":
        with clients.openai.chat.completions.stream(model=LUNA, messages=USER) as chat:  # type: ignore[arg-type]
            with contextlib.suppress(openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError):
                return chat.get_final_completion()
            return chat.current_completion_snapshot
    if protocol == "responses":
        with clients.openai.responses.stream(model=LUNA, input="hi") as responses:
            last = list(responses)[-1]
            return last.response  # type: ignore[union-attr]
    with clients.claude.messages.stream(model=HAIKU, max_tokens=99, messages=USER) as messages:  # type: ignore[arg-type]
        return messages.get_final_message()


def test_answers_that_are_hard_to_read(provider: Provider) -> None:
    shared: dict[str, Any] = {"api_key": KEY, "max_retries": 0}
    with openai.OpenAI(base_url=provider.base_url_openai, **shared) as client:
        provider.faults.every(Fault("null"))
        assert client.chat.completions.create(model=LUNA, messages=USER).choices[0].message.content is None  # type: ignore[arg-type]
        assert client.responses.create(model=LUNA, input="hi").output == []
        provider.faults.every(Fault("no_usage"))
        assert client.chat.completions.create(model=LUNA, messages=USER).usage is None  # type: ignore[arg-type]
        assert client.responses.create(model=LUNA, input="hi").usage is None
        provider.faults.every(Fault("surrogate"))
        assert client.responses.create(model=LUNA, input="hi").output_text == TEXT + "\ud83d end"
        provider.faults.every(Fault("huge"))
        for protocol in ("chat", "responses"):
            body: dict[str, Any] = {"messages": USER} if protocol == "chat" else {"input": "hi"}
            path = "/v1/chat/completions" if protocol == "chat" else "/v1/responses"
            for stream in (False, True):
                assert len(raw(provider, path, {"model": LUNA, "stream": stream, **body})) > 5 * 1024 * 1024
        provider.faults.every(Fault("not_json"))
        with pytest.raises(pydantic.ValidationError):
            client.chat.completions.parse(model=LUNA, messages=USER, response_format=Verdict)  # type: ignore[arg-type]
    with anthropic.Anthropic(base_url=provider.base_url_anthropic, **shared) as claude_client:
        for kind in ANSWER_KINDS - {"huge"}:
            provider.faults.every(Fault(kind))
            message = claude_client.messages.create(model=HAIKU, max_tokens=99, messages=USER)  # type: ignore[arg-type]
            assert (message.content == []) == (kind == "null")
            assert (getattr(message, "usage", None) is None) == (kind == "no_usage")


# --- limits of the request, structured output -------------------------------------------------------------


def test_output_is_held_to_the_requests_limits() -> None:
    with Provider(constant("one two three four"), Settings(reasoning_tokens=3)) as provider, Clients(provider) as clients:
        chat = clients.call("chat", max_completion_tokens=5)
        assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("one two thr", "length")
        assert chat.usage.completion_tokens == 5
        assert chat.usage.completion_tokens_details.reasoning_tokens == 3
        response = clients.call("responses", max_output_tokens=2)
        assert (response.output_text, response.incomplete_details.reason) == ("", "max_output_tokens")
        plain = clients.call("chat", reasoning_effort="none", stop=["three"])
        assert (plain.choices[0].message.content, plain.choices[0].finish_reason) == ("one two ", "stop")
        message = clients.call("messages", thinking={"type": "disabled"}, stop_sequences=["three", "two"])
        assert (message.content[0].text, message.stop_reason, message.stop_sequence) == ("one ", "stop_sequence", "two")


class Verdict(pydantic.BaseModel):
    label: Literal["positive", "negative"]
    sure: bool
    words: list[str]
    note: str | None


def test_structured_output_through_the_sdks_parsers(clients: Clients) -> None:
    chat = clients.openai.chat.completions.parse(model=LUNA, messages=USER, response_format=Verdict)  # type: ignore[arg-type]
    responses = clients.openai.responses.parse(model=LUNA, input="hi", text_format=Verdict)
    messages = clients.claude.messages.parse(model=HAIKU, max_tokens=99, messages=USER, output_format=Verdict)  # type: ignore[arg-type]
    for found in (chat.choices[0].message.parsed, responses.output_parsed, messages.parsed_output):
        assert found is not None
        assert found.label == "positive"
        assert found.words == [TEXT]


OPEN = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}
CLOSED = {**OPEN, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "openai_says", "claude_says"),
    [
        (CLOSED, "", ""),
        (
            OPEN,
            "'additionalProperties' is required to be supplied and to be false",
            "'additionalProperties' must be explicitly set to false",
        ),
        ({**CLOSED, "required": []}, "'required' is required to be supplied", ""),
        ({**CLOSED, "properties": {"label": {"type": "string", "minLength": 2}}}, "'minLength' is not permitted", "minLength"),
        ({**CLOSED, "properties": {"label": {"type": "integer", "maximum": 2}}}, "", "maximum"),
        ({"type": "array", "items": {"type": "string"}}, "got 'type: \"array\"'", ""),
        ({**CLOSED, "properties": {"label": {"oneOf": [{"type": "string"}]}}}, "'oneOf' is not permitted", "oneOf"),
    ],
)
def test_schemas_outside_the_strict_subset_are_refused(clients: Clients, schema: Any, openai_says: str, claude_says: str) -> None:
    asked = {"name": "verdict", "schema": schema, "strict": True}
    calls: list[tuple[str, Callable[[], Any]]] = [
        (openai_says, lambda: clients.call("chat", response_format={"type": "json_schema", "json_schema": asked})),
        (openai_says, lambda: clients.call("responses", text={"format": {"type": "json_schema", **asked}})),
        (claude_says, lambda: clients.call("messages", output_config={"format": {"type": "json_schema", "schema": schema}})),
    ]
    for says, call in calls:
        if says:
            with raises("BadRequestError") as caught:
                call()
            assert says in caught.value.message
        else:
            call()


# --- prefix caches ----------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


STATIC = "x" * 4 * 1500
"""1,500 tokens."""


def claude_call(clients: Clients, text: str = "hi", *, ttl: str = "5m", **more: Any) -> claude.Usage:
    system = [{"type": "text", "text": STATIC, "cache_control": {"type": "ephemeral", "ttl": ttl}}]
    used: claude.Usage = clients.call("messages", text, **{"system": system, **more}).usage
    return used


def figures(used: claude.Usage) -> tuple[int, int | None, int | None]:
    return used.input_tokens, used.cache_creation_input_tokens, used.cache_read_input_tokens


def test_anthropic_n_calls_are_one_write_and_the_rest_reads(provider: Provider, clients: Clients) -> None:
    seen = [figures(claude_call(clients, f"a question of its own, number {n:02d}")) for n in range(5)]
    assert seen == [(8, 1500, 0)] + [(8, 0, 1500)] * 4
    assert provider.records.usage()._replace(output=0) == Usage(5 * 1508, 0, 4 * 1500, {"5m": 1500})


def test_anthropic_lifetimes_and_what_renews_them() -> None:
    clock = Clock()
    with Provider(constant(TEXT), Settings(clock=clock)) as provider, Clients(provider) as clients:
        assert claude_call(clients).cache_creation_input_tokens == 1500
        for _ in range(3):  # each read renews the five minutes
            clock.now += 299
            assert claude_call(clients).cache_read_input_tokens == 1500
        clock.now += 301
        hour = claude_call(clients, ttl="1h")
        assert hour.cache_creation is not None
        assert (hour.cache_creation.ephemeral_1h_input_tokens, hour.cache_creation.ephemeral_5m_input_tokens) == (1500, 0)
        clock.now += 3599
        assert claude_call(clients).cache_read_input_tokens == 1500


@pytest.mark.parametrize(
    ("model", "cached"), [(HAIKU, True), ("claude-sonnet-5", True), ("claude-opus-4-7", False), ("claude-haiku-4-5", False)]
)
def test_anthropic_minimum_of_each_model(clients: Clients, model: str, cached: bool) -> None:
    assert bool(claude_call(clients, model=model).cache_creation_input_tokens) == cached
    assert bool(claude_call(clients, model=model).cache_read_input_tokens) == cached


def test_anthropic_what_makes_it_another_prefix(clients: Clients) -> None:
    claude_call(clients)
    assert claude_call(clients, model="claude-sonnet-5-5").cache_read_input_tokens == 0
    assert claude_call(clients, speed="fast").cache_read_input_tokens == 0
    tool = {"name": "f", "input_schema": {"type": "object"}}
    assert claude_call(clients, tools=[tool]).cache_read_input_tokens == 0
    assert claude_call(clients, thinking={"type": "disabled"}).cache_read_input_tokens == 1500  # only the messages depend on it
    split = [{"type": "text", "text": STATIC[:3000]}, {"type": "text", "text": STATIC[3000:], "cache_control": MARK}]
    assert claude_call(clients, system=split).cache_read_input_tokens == 0


def test_anthropic_several_breakpoints_and_a_growing_conversation(clients: Clients) -> None:
    turns: list[dict[str, Any]] = [{"role": "user", "content": "q" * 4000}]
    first = clients.call("messages", system=STATIC, messages=turns, cache_control=MARK).usage
    assert figures(first) == (0, 2500, 0)
    turns += [{"role": "assistant", "content": "a" * 400}, {"role": "user", "content": "q" * 400}]
    assert figures(clients.call("messages", system=STATIC, messages=turns, cache_control=MARK).usage) == (0, 200, 2500)
    # More than twenty blocks later the old entry is out of sight.
    turns += [{"role": "assistant", "content": "a" * 4}, {"role": "user", "content": "q" * 4}] * 12
    assert clients.call("messages", system=STATIC, messages=turns, cache_control=MARK).usage.cache_read_input_tokens == 0


def test_an_entry_is_readable_only_once_its_answer_has_begun() -> None:
    """Calls that start together all write; those after the first byte read."""
    together = threading.Barrier(4)

    async def wait(ask: Ask) -> str:
        await asyncio.to_thread(together.wait, 10)
        return TEXT

    with Provider(wait) as provider, Clients(provider) as clients:
        threads = [threading.Thread(target=claude_call, args=(clients, f"q{n}")) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [record.usage.written_total for record in provider.records.all() if record.usage] == [1500] * 4
        assert provider.records.max_in_flight == 4
        provider.answer = constant(TEXT)
        assert claude_call(clients).cache_read_input_tokens == 1500


def test_a_failed_call_writes_nothing(provider: Provider, clients: Clients) -> None:
    provider.faults.on(1, Fault("status", status=529))
    with pytest.raises(anthropic.InternalServerError):
        claude_call(clients)
    assert claude_call(clients).cache_read_input_tokens == 0


def test_anthropic_prewarming(clients: Clients) -> None:
    warm = clients.call("messages", max_tokens=0, system=[{"type": "text", "text": STATIC, "cache_control": MARK}])
    assert (warm.content, warm.usage.output_tokens, warm.usage.cache_creation_input_tokens) == ([], 0, 1500)
    assert claude_call(clients).cache_read_input_tokens == 1500


def openai_call(clients: Clients, text: str, *, protocol: Protocol = "chat", marked: bool = True, **more: Any) -> tuple[int, int, int]:
    """Input, cached and written tokens of a call with a static system text."""
    part: dict[str, Any] = {"type": "text" if protocol == "chat" else "input_text", "text": STATIC}
    if marked:
        part["prompt_cache_breakpoint"] = POINT
        more = {"prompt_cache_options": POINT, **more}
    more = {"prompt_cache_key": "ps:1", **more}
    turns = [{"role": "developer", "content": [part]}, {"role": "user", "content": text}]
    if protocol == "chat":
        used = clients.call("chat", messages=turns, **more).usage
        return used.prompt_tokens, used.prompt_tokens_details.cached_tokens, used.prompt_tokens_details.cache_write_tokens
    used = clients.call("responses", input=turns, **more).usage
    return used.input_tokens, used.input_tokens_details.cached_tokens, used.input_tokens_details.cache_write_tokens


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_openai_explicit_breakpoints_are_one_write_and_the_rest_reads(clients: Clients, protocol: Protocol) -> None:
    seen = [openai_call(clients, f"q{n:03d}", protocol=protocol) for n in range(5)]
    assert seen == [(1501, 0, 1500)] + [(1501, 1500, 0)] * 4


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_openai_naive_use_writes_each_time_and_never_reads(clients: Clients, protocol: Protocol) -> None:
    seen = [openai_call(clients, f"q{n:03d}", protocol=protocol, marked=False) for n in range(5)]
    assert seen == [(1501, 0, 1501)] * 5


def test_openai_instructions_carry_no_breakpoint(clients: Clients) -> None:
    for n in range(2):
        used = clients.call("responses", f"q{n}", instructions=STATIC, prompt_cache_key="k").usage.input_tokens_details
        assert (used.cached_tokens, used.cache_write_tokens) == (0, 1500)


def test_openai_a_conversation_reads_what_its_last_turn_wrote(clients: Clients) -> None:
    turns: list[Any] = [{"role": "user", "content": STATIC}]
    clients.call("chat", messages=turns, prompt_cache_key="k")
    turns += [{"role": "assistant", "content": "a" * 40}, {"role": "user", "content": "q" * 40}]
    used = clients.call("chat", messages=turns, prompt_cache_key="k").usage.prompt_tokens_details
    assert (used.cached_tokens, used.cache_write_tokens) == (1500, 20)


def test_openai_what_makes_it_another_prefix(clients: Clients) -> None:
    openai_call(clients, "first")
    form = {"type": "json_schema", "json_schema": {"name": "v", "schema": CLOSED}}
    others: tuple[dict[str, Any], ...] = (
        {"prompt_cache_key": "ps:2"},
        {"model": "gpt-6-sol"},
        {"reasoning_effort": "low"},
        {"verbosity": "low"},
        {"service_tier": "flex"},
        {"response_format": form},
    )
    for other in others:
        assert openai_call(clients, "second", **other)[1] == 0, other
    assert openai_call(clients, "third", prompt_cache_key=openai.omit)[1] == 0
    assert openai_call(clients, "fourth", prompt_cache_key=openai.omit)[1] == 0
    assert openai_call(clients, "fifth")[1] == 1500


def test_openai_explicit_mode_without_a_breakpoint_caches_nothing(clients: Clients) -> None:
    for _ in range(2):
        assert openai_call(clients, "same", marked=False, prompt_cache_options=POINT) == (1501, 0, 0)


def test_openai_lifetimes() -> None:
    clock = Clock()
    with Provider(constant(TEXT), Settings(clock=clock)) as provider, Clients(provider) as clients:
        openai_call(clients, "a")
        clock.now += 1799
        assert openai_call(clients, "b")[1] == 1500
        clock.now += 2
        long = {"protocol": "responses", "prompt_cache_options": {"mode": "explicit", "ttl": "12h"}}
        assert openai_call(clients, "c", **long)[1:] == (0, 1500)  # type: ignore[arg-type]
        assert provider.records.last.usage == Usage(1500, 10, 0, {"12h": 1500})
        clock.now += 43_199
        assert openai_call(clients, "d")[1] == 1500


def test_openai_a_busy_key_spills_over_to_another_machine() -> None:
    clock = Clock()
    with Provider(constant(TEXT), Settings(clock=clock, key_rpm=3)) as provider, Clients(provider) as clients:
        assert [openai_call(clients, f"q{n}")[2] > 0 for n in range(7)] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_older_openai_models_find_the_longest_prefix_in_steps(clients: Clients, protocol: Protocol) -> None:
    """1,024 tokens at least, then steps of 128, free to write."""
    first = openai_call(clients, "q" * 400, protocol=protocol, marked=False, model=OLDER)
    second = openai_call(clients, "z" * 400, protocol=protocol, marked=False, model=OLDER)
    assert first == (1600, 0, 0)
    assert second == (1600, 1408, 0)


# --- a third party's server -------------------------------------------------------------------------------


def test_a_foreign_server_knows_only_the_oldest_fields() -> None:
    with Provider(constant(TEXT), Settings(foreign=True, keys=None)) as provider, Clients(provider) as clients:
        chat = clients.call("chat", model="qwen3", max_tokens=20, temperature=0, stop=["."])
        assert (chat.choices[0].message.content, chat.usage.total_tokens) == (TEXT[:-1], 10)
        assert chat.usage.prompt_tokens_details is None
        assert chat._request_id is None
        with clients.call("chat", model="qwen3", stream=True) as stream:
            assert [chunk.usage for chunk in stream][-1].total_tokens == 10
        for field in ({"max_completion_tokens": 9}, {"reasoning_effort": "low"}, {"prompt_cache_key": "k"}, {"service_tier": "flex"}):
            with pytest.raises(openai.BadRequestError, match=f"Extra inputs are not permitted: '{next(iter(field))}'"):
                clients.call("chat", model="qwen3", **field)
        part = {"type": "text", "text": "hi", "prompt_cache_breakpoint": POINT}
        with pytest.raises(openai.BadRequestError):
            clients.call("chat", model="qwen3", messages=[{"role": "user", "content": [part]}])
        for protocol in ("responses", "messages"):
            with raises("NotFoundError"):
                clients.call(protocol, model="qwen3")


# --- caps -------------------------------------------------------------------------------------------------


def test_more_than_the_cap_in_flight_is_429() -> None:
    entered, leave = threading.Semaphore(0), threading.Event()

    async def wait(ask: Ask) -> str:
        entered.release()
        await asyncio.to_thread(leave.wait, 10)
        return TEXT

    with Provider(wait, Settings(max_in_flight=2, retry_after_ms=7)) as provider, Clients(provider) as clients:
        threads = [threading.Thread(target=clients.call, args=("chat",)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert entered.acquire(timeout=10)
        assert entered.acquire(timeout=10)
        with pytest.raises(openai.RateLimitError) as caught:
            clients.call("chat")
        leave.set()
        for thread in threads:
            thread.join()
        assert clients.call("chat").choices[0].message.content == TEXT
    assert caught.value.response.headers["retry-after-ms"] == "7"
    assert provider.records.statuses == {200: 3, 429: 1}
    assert provider.records.max_in_flight == 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_more_than_the_cap_a_minute_is_429(protocol: Protocol) -> None:
    clock = Clock()
    with Provider(constant(TEXT), Settings(rpm=2, clock=clock)) as provider, Clients(provider) as clients:
        clients.call(protocol)
        clock.now += 20
        clients.call(protocol)
        with raises("RateLimitError") as caught:
            clients.call(protocol)
        assert caught.value.response.headers["retry-after"] == "40"
        clock.now += 41
        clients.call(protocol)


# --- answers, faults, records -----------------------------------------------------------------------------


def test_an_answer_function_is_told_everything(provider: Provider, clients: Clients) -> None:
    asks: list[Ask] = []

    def answer(ask: Ask) -> Said:
        asks.append(ask)
        return Said("so")

    provider.answer = answer
    turns: list[Any] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    clients.call("chat", messages=[{"role": "system", "content": "S"}, *turns])
    clients.call("responses", instructions="S", input=turns)
    clients.call("messages", system=[{"type": "text", "text": "S"}], messages=turns)
    assert [ask.protocol for ask in asks] == list(PROTOCOLS)
    for number, ask in enumerate(asks, 1):
        assert ask.system == "S"
        assert ask.turns == (("user", "a"), ("assistant", "b"), ("user", "c"))
        assert ask.text == "c"
        assert ask.number == number
        assert ask.schema is None
        assert ask.body["model"] == ask.model
        assert ask.headers["authorization"] == f"Bearer {KEY}"


def test_nearest_answers_by_the_examples_of_the_prompt(provider: Provider, clients: Clients) -> None:
    provider.answer = nearest()
    system = "Classify.\n" + example_block(
        [Pair({"input": "great and lovely"}, "positive"), Pair({"input": "broken and ugly"}, "negative")]
    )
    for text, label in (("how lovely", "positive"), ("an ugly thing", "negative")):
        assert clients.call("messages", text, system=system).content[0].text == label
        assert clients.call("responses", text, instructions=system).output_text == label
    assert clients.call("messages", "no examples").content[0].text == "no examples"


def test_a_script_that_is_too_short_fails_the_test() -> None:
    provider = Provider(scripted(["one", Said("two", "length")]))
    provider.start()
    with Clients(provider) as clients:
        assert clients.call("chat").choices[0].message.content == "one"
        assert clients.call("chat").choices[0].finish_reason == "length"
        with pytest.raises(openai.InternalServerError):
            clients.call("chat")
    with pytest.raises(AssertionError, match="request 3 has no scripted answer left"):
        provider.stop()


def test_a_request_can_wish_for_its_fault(provider: Provider, clients: Clients) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        clients.call("chat", extra_headers={"x-fault": "429,retry-after-ms=20,code=insufficient_quota"})
    assert (caught.value.code, caught.value.response.headers["retry-after-ms"]) == ("insufficient_quota", "20")
    with pytest.raises(anthropic.InternalServerError, match="Overloaded"):
        clients.call("messages", model=f"{HAIKU}!529")
    assert clients.call("chat", model=f"{LUNA}!slow,seconds=0").model == LUNA
    with pytest.raises(openai.BadRequestError, match="no fault"):
        clients.call("chat", model=f"{LUNA}!earthquake")


def test_chance_depends_on_seed_and_number_alone() -> None:
    one, two, other = Schedule(), Schedule(), Schedule()
    for schedule, seed in ((one, 7), (two, 7), (other, 8)):
        schedule.chance(0.2, Fault("reset"), seed=seed)
    hit = [number for number in range(1, 1001) if one.pick(number, "")]
    assert hit == [number for number in range(1000, 0, -1) if two.pick(number, "")][::-1]
    assert hit != [number for number in range(1, 1001) if other.pick(number, "")]
    assert 150 < len(hit) < 250


@pytest.mark.parametrize("fault", [fault for fault in every_fault() if fault.kind not in {"hang", "huge"}], ids=str)
def test_every_fault_leaves_the_provider_fit_for_the_next_request(provider: Provider, clients: Clients, fault: Fault) -> None:
    provider.faults.on([1, 2, 3], msgspec.structs.replace(fault, seconds=0.0))
    for protocol in PROTOCOLS:
        with contextlib.suppress(*BROKEN):
            clients.call(protocol)
    assert clients.call("chat").choices[0].message.content == TEXT
    assert [record.fault for record in provider.records.all()] == [fault.kind] * 3 + [""]


def test_what_is_recorded(provider: Provider, clients: Clients) -> None:
    for text in ("same", "same", "other"):
        clients.call("chat", text)
    clients.call("messages")
    records = provider.records
    assert sorted(records.digests().values()) == [1, 1, 2]
    assert len(records) == 4
    assert (records.in_flight, records.max_in_flight) == (0, 1)
    last = records.last
    assert (last.number, last.method, last.path, last.protocol, last.model, last.status) == (
        4,
        "POST",
        "/v1/messages",
        "messages",
        HAIKU,
        200,
    )
    assert last.json["messages"] == USER
    assert last.headers["anthropic-version"] == "2026-10-21"
    assert last.received is not None
    assert last.ended is not None
    assert last.started <= last.received <= last.ended
    records.clear()
    assert (len(records), records.all(), records.max_in_flight) == (0, [], 0)


def test_a_body_that_is_no_json_or_too_large() -> None:
    with Provider(constant(TEXT), Settings(max_body=1000)) as provider, Clients(provider) as clients:
        with pytest.raises(anthropic.ContentTooLargeError):
            clients.call("messages", "x" * 1000)
        for body in (b"{", b"[]", b'"\\ud800"', b"\xff"):
            request = Request(provider.url + "/v1/chat/completions", body, {"authorization": f"Bearer {KEY}"})
            with pytest.raises(HTTPError, match="400") as caught:
                urlopen(request, timeout=10)
            caught.value.close()


# --- as a process -----------------------------------------------------------------------------------------


def test_the_provider_as_a_process() -> None:
    with provider_process("--answer", "constant:so", "--fault", "1:slow,seconds=0", "--max-in-flight", "5") as url:
        with openai.OpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0) as client:
            assert client.responses.create(model=LUNA, input="hi").output_text == "so"
        with urlopen(f"{url}/_provider/stats", timeout=10) as answer:
            stats = json.loads(answer.read())
    assert (stats["requests"], stats["max_in_flight"], stats["statuses"]) == (1, 1, {"200": 1})


def test_the_bare_process() -> None:
    with provider_process("--bare", "--answer", "constant:so", "--latency", "0.02") as url:
        shared: dict[str, Any] = {"api_key": "any", "max_retries": 0, "_strict_response_validation": True}
        with openai.OpenAI(base_url=f"{url}/v1", **shared) as client, anthropic.Anthropic(base_url=url, **shared) as claude_client:
            started = time.monotonic()
            assert client.chat.completions.create(model=LUNA, messages=USER).choices[0].message.content == "so"  # type: ignore[arg-type]
            assert time.monotonic() - started >= 0.02
            assert client.responses.create(model=LUNA, input="hi").output_text == "so"
            message = claude_client.messages.create(model=HAIKU, max_tokens=9, messages=USER)  # type: ignore[arg-type]
            assert text_of("messages", message) == "so"
            with pytest.raises(openai.NotFoundError):
                client.models.list()


def test_a_taken_port_is_an_error_of_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="address already in use"):
            Provider(port=taken.getsockname()[1]).start()
