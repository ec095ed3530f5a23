"""Whether the service tells the truth: about failures, about what an answer cost, about where it came from; and its response cache."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptsmith.prompt import Prompt, Serve

from .provider import Answer as Answering
from .provider import Ask, Fault, Said
from .serving import (
    ANTHROPIC,
    LETTER,
    OPENAI,
    ORDER,
    SECONDS,
    SENTIMENT,
    Answer,
    Say,
    Serving,
    World,
    eventually,
    made,
    promote,
    serving,
    spoken,
    world,
)  # fmt: skip

APIS = ("chat", "messages", "responses", "run")
TASKS = ("say", "say-a", "say-r", "say-f")
SAME = {"chat": "say", "messages": "say-a", "responses": "say-r"}
ENDS = {"chat": b"data: [DONE]", "messages": b"message_stop", "responses": b"response.completed", "run": b"event: result"}
"""What tells a client of each API that a stream is whole."""
CROWDED = {
    "o0": "openai/gpt-4.1", "a0": "anthropic/claude-sonnet-4-6", "r0": "answers/gpt-4o",
    "o1": "openai/gpt-4o-mini", "a1": "anthropic/claude-opus-4-8", "r1": "answers/gpt-5.2",
    "o2": "openai/gpt-5.1", "a2": "anthropic/claude-sonnet-5", "o3": "openai/gpt-5.4",
}  # fmt: skip
"""Each its own model: where a provider keeps wanting fewer calls, the calls of that model wait together for as long as it said."""
NEVER = "600"
"""A Retry-After that no deadline has room for: then nothing is repeated."""


def prompts() -> list[Prompt]:
    spare, both = Serve(fallback=(ANTHROPIC,)), Serve(fallback=(ANTHROPIC, "builtin/nearest"))
    return [
        made("say"),
        made("say-a", ANTHROPIC),
        made("say-r", "answers/gpt-4.1-mini"),
        made("say-f", "foreign/llama-9"),
        made("hasty", "hasty/gpt-4.1"),
        made("hasty-alone", "hasty/gpt-5.2"),
        *(made(f"hasty-{stream}", f"hasty/{model}") for stream, model in enumerate(("gpt-4o", "gpt-4o-mini"))),
        *(made(f"shut-{stream}", f"shut/{model}") for stream, model in enumerate(("gpt-4o", "gpt-4o-mini"))),
        *(made(f"shut-spare-{stream}", f"shut/{model}", serve=spare) for stream, model in enumerate(("gpt-4o", "gpt-4o-mini"))),
        *(
            made(f"metered-{stream}", f"metered/{model}", parameters={"max_tokens": 9900})
            for stream, model in enumerate(("gpt-4o", "gpt-4o-mini"))
        ),
        *(made(task, model) for task, model in CROWDED.items()),
        made("spare", serve=spare),
        made("spare-twice", serve=both),
        made("canned", "canned/gpt-4.1-mini"),
        made("canned-a", "canned-a/claude-haiku-5-5"),
        made("canned-r", "canned-r/gpt-4.1-mini"),
        *(made(f"strict{end}", model, SENTIMENT) for end, model in (("", OPENAI), ("-a", ANTHROPIC))),
        *(made(f"lax{end}", model, SENTIMENT, serve=Serve(on_contract_break="pass")) for end, model in (("", OPENAI), ("-a", ANTHROPIC))),
        made("repair", shape=SENTIMENT, serve=Serve(on_contract_break="repair")),
        made("escalate", shape=SENTIMENT, serve=Serve(on_contract_break="escalate", escalate=ANTHROPIC)),
    ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("truth") / "project", *prompts(), pace=0.003) as found:
        yield found
        assert not found.service.trouble()


def ask(at: World, api: str, task: str, text: str = "Hello", **more: Any) -> Answer:
    if api == "run":
        return at.service.run(task, input=text, **more)
    call: Callable[..., Answer] = getattr(at.service, api)
    return call(task, text, **more)


def said(api: str, answer: Answer) -> str:
    if api == "run":
        return str(answer.json["text"])
    if api == "chat":
        return str(answer.json["choices"][0]["message"]["content"])
    if api == "messages":
        return "".join(block["text"] for block in answer.json["content"])
    return "".join(part["text"] for item in answer.json["output"] if item["type"] == "message" for part in item["content"])


def streamed_text(api: str, answer: Answer) -> str:
    """The text of a stream, put together from its pieces."""
    if api == "chat":
        return "".join(one["choices"][0]["delta"].get("content") or "" for one in answer.data if one != "[DONE]" and one.get("choices"))
    if api == "messages":
        return "".join(one["delta"].get("text", "") for one in answer.data if one["type"] == "content_block_delta")
    if api == "responses":
        return "".join(one["delta"] for one in answer.data if one["type"] == "response.output_text.delta")
    return "".join(one["text"] for one in answer.data if "text" in one and "value" not in one)


def error_in(answer: Answer) -> dict[str, Any]:
    """The error of an answer, however it came."""
    if "event-stream" not in answer.headers["content-type"]:
        return dict(answer.json["error"])
    last = answer.data[-1]
    return dict(last.get("error") or last)


def next_numbers(at: World, count: int) -> list[int]:
    """The numbers that the next requests will have at the provider."""
    at.service.chat("say")
    first = at.provider.records.last.number + 1
    at.provider.records.clear()
    return list(range(first, first + count))


# --- a stream that breaks ---------------------------------------------------------------------------------

BREAKS = [
    Fault(kind, at=7, inside=inside) for kind in ("reset", "close", "garbage", "truncated", "html", "empty") for inside in (False, True)
]
BREAKS.append(Fault("status", at=7, status=529))


@pytest.mark.parametrize("fault", BREAKS, ids=lambda fault: f"{fault.kind}{'-inside' * fault.inside}")
def test_a_stream_that_breaks_is_told_as_broken_and_never_as_ended(at: World, fault: Fault) -> None:
    at.provider.faults.every(fault)
    at.foreign.faults.every(fault)
    begun = 0
    for api, task in itertools.product(APIS, TASKS):
        found = ask(at, api, task, "word " * 30, stream=True)
        assert found.status in (200, 502), (api, task, found)
        assert ENDS[api] not in found.body, (api, task)
        assert b'"finish_reason":"stop"' not in found.body
        assert b'"stop_reason":"end_turn"' not in found.body
        assert error_in(found)["message"], (api, task)
        # What comes in one package with its own break has not begun for the client.
        begun += found.status == 200
        if found.status == 200:
            assert found.comment["adherent"] == "unknown"
    assert begun >= 12
    assert not [row for row in at.service.ledger()[-16:] if row.status == "end"]


def test_the_official_clients_raise_over_a_broken_stream(at: World) -> None:
    at.provider.faults.every(Fault("reset", at=7))
    with (
        openai.OpenAI(api_key="x", base_url=at.service.base, max_retries=0, timeout=SECONDS) as ours,
        anthropic.Anthropic(api_key="x", base_url=at.service.url, max_retries=0, timeout=SECONDS) as theirs,
    ):
        turns: Any = [{"role": "user", "content": "word " * 30}]
        for task in ("say", "say-a", "say-r"):
            with pytest.raises(openai.APIError) as chat:
                list(ours.chat.completions.create(model=task, messages=turns, stream=True))
            assert not isinstance(chat.value, openai.APIConnectionError)
            with pytest.raises(openai.APIError) as response:
                events = []
                for event in ours.responses.create(model=task, input="word " * 30, stream=True):
                    events.append(event)
                    if event.type in ("error", "response.failed"):  # how that API tells it, which some versions raise over
                        raise openai.APIError(str(event), None, body=None)  # type: ignore[arg-type]
            assert not isinstance(response.value, openai.APIConnectionError)
            with pytest.raises(anthropic.APIStatusError), theirs.messages.stream(model=task, max_tokens=64, messages=turns) as stream:
                list(stream.text_stream)


def test_a_provider_that_ends_without_its_end_is_not_helped_to_one(at: World) -> None:
    """A finish reason came and then nothing: the client sees what came, and that it broke off."""
    finished = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
    at.canned.says[:] = [Say([finished], stream=True)]
    found = ask(at, "chat", "canned", stream=True)
    assert b"[DONE]" not in found.body
    assert "broke off" in error_in(found)["message"]
    at.canned.says[:] = [Say([finished + b"data: [DONE]"], stream=True)]  # the last line lacks its end
    assert ask(at, "chat", "canned", stream=True).body.rstrip().endswith(b"[DONE]")


@pytest.mark.parametrize("api", SAME)
def test_events_of_five_megabytes(at: World, api: str) -> None:
    words = b"x" * (5 * 2**20)
    events = {
        "chat": [b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":"stop"}]}\n\n' % words, b"data: [DONE]\n\n"],
        "messages": [
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}\n\n'
            % words,
            b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}\n\n',
            b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        ],
        "responses": [
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"%b"}\n\n' % words,
            b'event: response.completed\ndata: {"type":"response.completed","response":{"status":"completed","output":[]}}\n\n',
        ],
    }[api]
    whole = b"".join(events)
    at.canned.says[:] = [Say([whole[place : place + 50_000] for place in range(0, len(whole), 50_000)], stream=True)]
    task = {"chat": "canned", "messages": "canned-a", "responses": "canned-r"}[api]
    found = ask(at, api, task, stream=True)
    head, _, tail = found.body.partition(b": promptsmith ")
    assert head + tail.partition(b"\n\n")[2] == whole


GARBAGE = [b"", b"{", b"[]", b"null", b'{"choices": 7}', b"\xff\xfe", b"<html><title>Hi</title>", b'{"content": "x"}', b"x" * 100_000]


@pytest.mark.parametrize("task", ["canned", "canned-a", "canned-r"])
def test_an_answer_that_is_none(at: World, task: str) -> None:
    for body, api in itertools.product(GARBAGE, ("chat", "messages", "run")):
        at.canned.says[:] = [Say([body])]
        found = ask(at, api, task)
        assert found.status == 502, (body, api, found)
        assert error_in(found)["message"]
        assert found.headers["x-promptsmith-error"] == "upstream"
        assert len(found.body) < 2000


# --- statuses ---------------------------------------------------------------------------------------------


def test_the_id_of_the_providers_call_and_the_number_of_attempts_are_told(at: World) -> None:
    for api, task in itertools.product(APIS, TASKS):
        asked = at.foreign if task == "say-f" else at.provider
        first = ask(at, api, task)
        number = asked.records.last.number
        asked.faults.on(number + 1, Fault("status", status=500))
        second = ask(at, api, task)
        for found, expected, attempts in ((first, number, None), (second, number + 2, "2")):
            assert found.status == 200, (api, task, found.body)
            # Other people's servers have no ids; then it is ours.
            name = found.headers["x-promptsmith-request-id"] if task == "say-f" else f"req_{expected:024d}"
            assert found.headers["x-request-id"] == found.headers["request-id"] == name, (api, task, found.headers)
            assert found.headers.get("x-promptsmith-attempts") == attempts


@pytest.mark.parametrize("status", [400, 404, 413, 429, 500, 503, 529])
@pytest.mark.parametrize("stream", [False, True])
def test_the_providers_status_its_id_and_its_retry_after_pass_through(at: World, status: int, stream: bool) -> None:
    at.provider.faults.every(Fault("status", status=status, retry_after=NEVER, message="because I say so"))
    tasks = (f"o{stream:d}", f"a{stream:d}", f"r{stream:d}") if status == 429 else ("say", "say-a", "say-r")
    for api, task in itertools.product(APIS, tasks):
        found = ask(at, api, task, stream=stream)
        assert found.status == status, (api, task, found.body)
        record = at.provider.records.last
        assert found.headers["x-request-id"] == found.headers["request-id"] == f"req_{record.number:024d}"
        assert "because I say so" in error_in(found)["message"]
        if status in (429, 500, 503, 529):
            assert found.headers["retry-after"] == NEVER
            assert found.headers["retry-after-ms"] == str(int(NEVER) * 1000)
        assert found.headers["x-promptsmith-error"] == "upstream"
        assert found.headers["x-promptsmith-prompt"]
    assert len(at.provider.records) == 12


def test_the_official_clients_raise_the_same_as_over_the_provider(at: World) -> None:
    wanted = {
        400: (openai.BadRequestError, anthropic.BadRequestError),
        404: (openai.NotFoundError, anthropic.NotFoundError),
        429: (openai.RateLimitError, anthropic.RateLimitError),
        503: (openai.InternalServerError, anthropic.InternalServerError),
        529: (openai.InternalServerError, anthropic.APIStatusError),
    }
    turns: Any = [{"role": "user", "content": "Hi"}]
    with (
        openai.OpenAI(api_key="x", base_url=at.service.base, max_retries=0, timeout=SECONDS) as ours,
        anthropic.Anthropic(api_key="x", base_url=at.service.url, max_retries=0, timeout=SECONDS) as theirs,
    ):
        for status, (our_error, their_error) in wanted.items():
            at.provider.faults.every(Fault("status", status=status, retry_after=NEVER))
            for task in ("o2", "a2"):
                for stream in (False, True) if status != 429 else (False,):
                    with pytest.raises(our_error) as chat:
                        ours.chat.completions.create(model=task, messages=turns, stream=stream)
                    assert chat.value.request_id == f"req_{at.provider.records.last.number:024d}"
                    with pytest.raises(our_error):
                        ours.responses.create(model=task, input="Hi", stream=stream)
                    with pytest.raises(their_error) as message:
                        theirs.messages.create(model=task, max_tokens=64, messages=turns, stream=stream)
                    assert message.value.request_id == f"req_{at.provider.records.last.number:024d}"


def test_a_secret_in_a_providers_error_is_not_passed_on(at: World) -> None:
    secret = "sk-proj-" + "a1B2" * 12
    at.provider.faults.every(Fault("status", status=401, message=f"Incorrect API key provided: {secret}."))
    for api in APIS:
        found = ask(at, api, "say")
        assert secret not in found.body.decode()
    assert not any(secret in json.dumps(line) for line in at.service.log())


# --- repeating --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("api", "task"), [("chat", "say"), ("messages", "say-a"), ("responses", "say-r"), ("chat", "say-a"), ("run", "say")]
)
@pytest.mark.parametrize("stream", [False, True])
def test_retry_after_is_kept_on_each_attempt(at: World, api: str, task: str, stream: bool) -> None:
    first, second, _ = next_numbers(at, 3)
    at.provider.faults.on(first, Fault("status", status=429, retry_after_ms="120"))
    at.provider.faults.on(second, Fault("status", status=503, retry_after_ms="250"))
    found = ask(at, api, task, stream=stream)
    assert found.status == 200
    assert (ENDS[api] in found.body) is stream
    records = at.provider.records.all()
    assert len(records) == 3
    gaps = [later.started - (earlier.ended or 0.0) for earlier, later in itertools.pairwise(records)]
    assert gaps[0] >= 0.1  # what was asked for, and not one attempt's wait for another's
    assert gaps[1] >= 0.23
    if api in SAME and SAME[api] == task:
        assert found.headers["x-promptsmith-attempts"] == "3"
    overhead = found.comment["overhead_us"] if stream else found.headers["x-promptsmith-overhead-us"]
    assert int(overhead) < 350_000  # the waits are the provider's, and none of our own time


@pytest.mark.parametrize("stream", [False, True])
def test_a_wait_beyond_the_deadline_is_not_begun(at: World, stream: bool) -> None:
    at.provider.faults.every(Fault("status", status=429, retry_after="5"))
    for api in APIS:
        before = len(at.provider.records)
        found = ask(at, api, f"hasty-{stream:d}", stream=stream)
        assert (found.status, found.headers["retry-after"]) == (429, "5")
        assert len(at.provider.records) == before + 1
        assert "deadline" in error_in(found)["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_wants_no_calls_for_longer_than_the_deadline_is_not_waited_for(at: World, stream: bool) -> None:
    """Who comes next is told at once, with the provider's own pause, or has the answer of another model."""
    [first] = next_numbers(at, 1)
    at.provider.faults.on(first, Fault("status", status=429, retry_after="300"))
    assert ask(at, "chat", f"shut-{stream:d}", stream=stream).status == 429
    at.provider.records.clear()
    for api in APIS:
        found = ask(at, api, f"shut-{stream:d}", stream=stream)
        assert found.status == 429, found.body
        assert 0 < int(found.headers["retry-after"]) <= 60
        assert "wants no calls for another" in error_in(found)["message"]
        assert found.headers["x-should-retry"] == "true"
    assert len(at.provider.records) == 0
    for api in APIS:
        spared = ask(at, api, f"shut-spare-{stream:d}", stream=stream)
        assert spared.status == 200, spared.body
        assert spared.headers["x-promptsmith-model"] == ANTHROPIC


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_that_a_call_did_not_take_are_there_for_the_next(at: World, stream: bool) -> None:
    """Each is thought to take all that may go at once, and takes some fifty: the next would wait for three seconds, which it has not."""
    for api in APIS:
        assert {ask(at, api, f"metered-{stream:d}", stream=stream).status for _ in range(3)} == {200}


def all_at_once(at: World, task: str, *, stream: bool) -> dict[str, Answer]:
    """The answers of every API to calls that are made at the same time."""
    with ThreadPoolExecutor(len(APIS)) as threads:
        calls = {api: threads.submit(ask, at, api, task, "word " * 20, stream=stream) for api in APIS}
        return {api: call.result() for api, call in calls.items()}


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_hangs_is_left_at_the_deadline(at: World, stream: bool) -> None:
    at.provider.faults.every(Fault("hang"))
    for found in all_at_once(at, "hasty", stream=stream).values():
        assert found.status == 504
        assert error_in(found)["message"]
    at.provider.records.wait(lambda kept: all(record.aborted is not None for record in kept), SECONDS)


@pytest.mark.parametrize("stream", [False, True])
def test_the_wait_for_a_place_is_within_the_deadline_too(at: World, stream: bool) -> None:
    at.provider.faults.every(Fault("hang"))
    with ThreadPoolExecutor(12) as threads:
        for found in threads.map(lambda api: ask(at, api, "hasty-alone", stream=stream), APIS * 3):
            assert found.status == 504
            assert "deadline" in error_in(found)["message"]
    at.provider.records.wait(lambda kept: all(record.ended is not None for record in kept), SECONDS)
    held = sum((record.ended or 0.0) - record.started for record in at.provider.records.all())
    # One after the other, each for its whole 2 seconds, they would have held the one place for 24; so only for what they began apart.
    assert held < 12


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_a_stream_that_hangs_or_drips_is_left_at_the_deadline(at: World, kind: str) -> None:
    at.provider.faults.every(Fault(kind, at=7, seconds=0.1))  # type: ignore[arg-type]
    for api, found in all_at_once(at, "hasty", stream=True).items():
        assert found.status == 200
        assert ENDS[api] not in found.body
        assert error_in(found)["message"]
        assert found.comment["cost_usd"] == "unknown"
    at.provider.records.wait(lambda kept: all(record.aborted is not None for record in kept), SECONDS)


def test_a_provider_that_is_not_there(at: World) -> None:
    """Half of an answer, as one that is no stream."""
    at.provider.faults.every(Fault("reset", at=2))
    for api, task in itertools.product(APIS, ("hasty",)):
        found = ask(at, api, task)
        assert found.status == 502
        assert found.headers["x-promptsmith-error"] == "upstream"


# --- fallbacks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
def test_fallbacks_are_named_in_the_headers(at: World, api: str, stream: bool) -> None:
    def answer(one: Ask) -> str | Said:
        return "from the spare one" if one.protocol == "messages" else Said("I won't", "refused")

    at.provider.answer = answer
    refused = ask(at, api, "spare", stream=stream)
    [first] = next_numbers(at, 1)
    at.provider.faults.on(first, Fault("status", status=503, retry_after=NEVER))
    failed = ask(at, api, "spare", stream=stream)
    for found in (refused, failed):
        assert found.status == 200, found.body
        assert (streamed_text if stream else said)(api, found) == "from the spare one"
        assert found.headers["x-promptsmith-fallback"] == f"{OPENAI} failed"
        assert found.headers["x-promptsmith-model"] == ANTHROPIC
        assert found.headers["x-promptsmith-ungated"] == "true"
        if api != "run":
            assert ANTHROPIC in found.body.decode()
    at.provider.faults.every(Fault("status", status=503, retry_after=NEVER))
    last = ask(at, api, "spare-twice", stream=stream)
    assert last.headers["x-promptsmith-fallback"] == f"{OPENAI}, {ANTHROPIC} failed"
    assert (last.status, last.headers["x-promptsmith-source"]) == (200, "builtin")
    none = ask(at, api, "spare", stream=stream)
    assert (none.status, none.headers["x-promptsmith-fallback"]) == (503, f"{OPENAI}, {ANTHROPIC} failed")
    at.provider.faults.clear()
    at.provider.answer = spoken
    assert "x-promptsmith-fallback" not in ask(at, api, "spare", stream=stream).headers


# --- a client that leaves ---------------------------------------------------------------------------------

PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}


def request_bytes(api: str, task: str, text: str, *, stream: bool) -> bytes:
    """A whole HTTP request."""
    body: dict[str, Any] = {"stream": stream}
    if api == "run":
        body["input"] = text
    elif api == "responses":
        body |= {"model": task, "input": text}
    else:
        body |= {"model": task, "max_tokens": 64, "messages": [{"role": "user", "content": text}]}
    data = json.dumps(body).encode()
    path = PATHS.get(api, f"/v1/run/{task}")
    return b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        path.encode(),
        len(data),
        data,
    )


def leave(service: Serving, data: bytes, wait: Callable[[], object], *, read: bool) -> None:
    """Sends a request and is gone once ``wait`` returns; with ``read``, after the first bytes of the answer."""
    with socket.create_connection((service.host, service.port), timeout=SECONDS) as client:
        client.sendall(data)
        wait()
        if read:
            assert client.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("task", ["say", "say-a", "say-r", "say-f", "spare", "repair"])
@pytest.mark.parametrize("api", APIS)
def test_a_client_that_leaves_ends_the_call_at_the_provider(at: World, api: str, task: str) -> None:
    before = len(at.service.log())
    provider = at.foreign if task == "say-f" else at.provider
    for stream, fault in ((False, Fault("hang")), (True, Fault("hang")), (True, Fault("hang", at=7))):
        provider.records.clear()
        provider.faults.every(fault)
        begun = fault.at > 0

        def came() -> None:
            provider.records.wait(lambda kept: any(record.received is not None for record in kept), SECONDS)

        leave(at.service, request_bytes(api, task, "word " * 20, stream=stream), came, read=begun)
        [record] = provider.records.wait(lambda kept: bool(kept) and all(record.aborted is not None for record in kept), SECONDS)
        assert record.aborted is not None
    provider.faults.clear()
    assert ask(at, api, "say").status == 200

    def gone() -> list[int]:
        return [line["status"] for line in at.service.log()[before:] if line.get("client_gone")]

    eventually(lambda: len(gone()) == 3, "the log tells of each")
    assert set(gone()) <= {200, 499}


def test_a_client_that_leaves_between_attempts_ends_them(at: World) -> None:
    at.provider.faults.every(Fault("status", status=429, retry_after="30"))

    def came() -> None:
        at.provider.records.wait(lambda kept: any(record.ended is not None for record in kept), SECONDS)

    before = len(at.service.log())
    leave(at.service, request_bytes("chat", "o3", "Hi", stream=False), came, read=False)
    eventually(lambda: any(line.get("client_gone") for line in at.service.log()[before:]), "the log tells of it")
    assert len(at.provider.records) == 1


# --- contracts at the door --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "-a"])
@pytest.mark.parametrize("api", APIS)
def test_an_answer_that_breaks_its_contract_is_refused_or_passed_with_a_header(at: World, api: str, end: str) -> None:
    at.provider.answer = lambda _: "no label at all"
    before = len(at.service.ledger())
    refused = ask(at, api, f"strict{end}")
    assert (refused.status, error_in(refused)["code"] if api != "messages" else "") == (502, "contract_broken" if api != "messages" else "")
    assert "breaks the contract" in error_in(refused)["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["x-promptsmith-source"] == "model"
    assert float(refused.headers["x-promptsmith-cost-usd"]) > 0  # it was paid for
    passed = ask(at, api, f"lax{end}")
    assert (passed.status, said(api, passed), passed.headers["x-promptsmith-adherent"]) == (200, "no label at all", "false")
    streamed = ask(at, api, f"lax{end}", stream=True)
    assert ENDS[api] in streamed.body
    assert streamed.comment["adherent"] == "false"
    assert streamed_text(api, streamed) == "no label at all"
    broken = ask(at, api, f"strict{end}", stream=True)
    assert (broken.status, ENDS[api] in broken.body) == (200, False)
    assert "breaks the contract" in error_in(broken)["message"]
    assert float(broken.comment["cost_usd"]) > 0
    assert len(at.provider.records) == len(at.service.ledger()) - before == 4


@pytest.mark.parametrize("api", APIS)
def test_an_answer_is_repaired(at: World, api: str) -> None:
    at.provider.answer = lambda one: "neutral" if "required form" in one.text else "no label at all"
    found = ask(at, api, "repair")
    assert (found.status, said(api, found), found.headers["x-promptsmith-adherent"]) == (200, "neutral", "true")
    assert found.headers["x-promptsmith-attempts"] == "2"
    assert len(at.provider.records) == 2
    at.provider.answer = lambda _: "no label at all"
    worse = ask(at, api, "repair")
    assert worse.status == 502
    assert float(worse.headers["x-promptsmith-cost-usd"]) == pytest.approx(sum(row.cost or 0 for row in at.service.ledger()[-2:]))
    streamed = ask(at, api, "repair", stream=True)
    assert "breaks the contract" in error_in(streamed)["message"]
    assert ENDS[api] not in streamed.body


@pytest.mark.parametrize("api", APIS)
def test_an_answer_is_asked_of_a_stronger_model(at: World, api: str) -> None:
    at.provider.answer = lambda one: "neutral" if one.protocol == "messages" else "no label at all"
    found = ask(at, api, "escalate")
    assert (found.status, said(api, found)) == (200, "neutral")
    assert (found.headers["x-promptsmith-model"], found.headers["x-promptsmith-ungated"]) == (ANTHROPIC, "true")
    streamed = ask(at, api, "escalate", stream=True)
    assert "breaks the contract" in error_in(streamed)["message"]


# --- what is written down ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_headers_comment_ledger_and_log_say_the_same(at: World, stream: bool) -> None:
    for api, task in itertools.product(APIS, ("say", "say-a")):
        before = len(at.service.ledger())
        found = ask(at, api, task, "word " * 10, stream=stream)
        used = at.provider.records.last.usage
        assert used is not None
        [row] = at.service.ledger()[before:]
        assert (row.input, row.output, row.task, row.prompt) == (used.input, used.output, task, found.headers["x-promptsmith-prompt"])
        told = found.comment["cost_usd"] if stream else found.headers["x-promptsmith-cost-usd"]
        assert row.cost == pytest.approx(float(told))
        assert row.cost > 0
        eventually(lambda: at.service.log()[-1].get("request_id") == found.headers["x-promptsmith-request-id"], "the log has its line")  # noqa: B023
        line = at.service.log()[-1]
        assert (line["input"], line["output"], line["cost"], line["prompt"]) == (
            used.input,
            used.output,
            pytest.approx(row.cost),
            row.prompt[:12],
        )
        if stream:
            assert (found.comment["input"], found.comment["output"]) == (str(used.input), str(used.output))
            assert found.comment["prompt"] == row.prompt[:12]


@pytest.mark.parametrize(("api", "task"), [("chat", "say"), ("messages", "say"), ("run", "say-a")])
@pytest.mark.parametrize("stream", [False, True])
def test_whoever_has_the_last_byte_has_a_row_in_the_ledger(at: World, tmp_path: Path, api: str, task: str, stream: bool) -> None:
    project = at.project
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("promptsmith.toml", "promptsmith.lock"):
        (copy / name).write_bytes((project.root / name).read_bytes())
    from promptsmith.config import find_project

    with serving(find_project(copy)) as service:
        with socket.create_connection((service.host, service.port), timeout=SECONDS) as client:
            client.sendall(request_bytes(api, task, "Hi", stream=stream))
            got = b""
            while not (got.endswith(b"0\r\n\r\n") if stream else _is_whole(got)):
                piece = client.recv(65536)
                assert piece, got
                got += piece
            os.kill(service.pid, signal.SIGKILL)
        service.process.wait()
        [row] = service.ledger()
        assert (row.task, row.status, row.attempts) == (task, "end", 1)


def _is_whole(data: bytes) -> bool:
    head, _, body = data.partition(b"\r\n\r\n")
    size = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
    return size is not None and len(body) == size


# --- a service with little patience -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("impatient") / "project", *prompts(), service="answer_seconds = 0.5", pace=0.003) as found:
        yield found
        assert not found.service.trouble()


@pytest.mark.parametrize("task", ["say", "say-a"])
def test_an_answer_that_takes_too_long_is_ended_and_said_to_be(impatient: World, task: str) -> None:
    at = impatient
    at.reset()
    at.provider.faults.every(Fault("hang"))
    for stream in (False, True):
        assert {found.status for found in all_at_once(at, task, stream=stream).values()} == {504}
    at.provider.faults.every(Fault("hang", at=7))
    for api, found in all_at_once(at, task, stream=True).items():
        assert found.status == 200
        assert ENDS[api] not in found.body
        assert b"HTTP/1.1" not in found.body
        assert "longer than the service allows" in error_in(found)["message"]


def test_a_client_that_does_not_read_is_left(impatient: World) -> None:
    at = impatient
    at.reset()
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 100_000)
    at.canned.says[:] = [Say([piece] * 300, stream=True)]
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(SECONDS)
        client.connect((at.service.host, at.service.port))
        client.sendall(request_bytes("chat", "canned", "Hi", stream=True))
        eventually(lambda: any(line.get("client_gone") for line in at.service.log()), "the connection is given up")
        with contextlib.suppress(ConnectionError):
            got = b"".join(iter(lambda: client.recv(1 << 20), b""))
            assert b"[DONE]" not in got


# --- the response cache -----------------------------------------------------------------------------------


def cached_prompts() -> list[Prompt]:
    cache, none = Serve(cache=True), Serve()
    twins = {"plain": {}, "named": {"inputs": LETTER}}
    return [
        made("cached", serve=cache),
        made("cached-a", ANTHROPIC, serve=cache),
        made("cached-order", shape=ORDER, serve=cache),
        made("other", serve=cache, mark="another prompt"),
        *(made(name, serve=cache, system=f"The {name} one.", **more) for name, more in twins.items()),
        *(made(f"{name}-twin", serve=none, system=f"The {name} one.", **more) for name, more in twins.items()),
    ]


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("caching") / "project", *cached_prompts(), options=("--workers", "2")) as found:
        yield found
        assert not found.service.trouble()


_texts = itertools.count()


def fresh(what: str = "text") -> str:
    """Words that no other test has said."""
    return f"{what} {os.getpid()} {next(_texts)}"


def source(answer: Answer, *, stream: bool = False) -> str:
    if stream and ": promptsmith" not in answer.body.decode():
        return "broken"
    return answer.headers["x-promptsmith-source"]


@pytest.mark.parametrize("task", ["cached", "cached-a"])
def test_an_equal_call_is_answered_from_the_cache(caching: World, task: str) -> None:
    at, text = caching, fresh()
    at.reset()
    first = ask(at, "chat", task, text)
    assert source(first) == "model"
    rows = len(at.service.ledger())
    for number, (api, stream) in enumerate(itertools.product(APIS, (False, True))):
        found = ask(at, api, task, text, stream=stream)
        assert (found.status, source(found, stream=stream)) == (200, "cache"), (api, stream)
        assert (streamed_text if stream else said)(api, found) == f"You said: {text}"
        cost = found.comment["cost_usd"] if stream else found.headers["x-promptsmith-cost-usd"]
        assert cost == "0"
        row = at.service.ledger()[rows + number]
        assert (row.source, row.cost) == ("cache", 0.0)
    assert len(at.provider.records) == 1
    assert source(ask(at, "chat", task, text + ".")) == "model"


@pytest.mark.parametrize("how", ["whole", "stream", "both"])
@pytest.mark.parametrize("task", ["cached", "cached-a"])
def test_twenty_equal_calls_at_once_over_two_workers_make_one(caching: World, how: str, task: str) -> None:
    at, text = caching, fresh()
    at.reset()

    async def slowly(one: Ask) -> str:
        await asyncio.sleep(0.4)
        return f"You said: {one.text}"

    answer: Answering = slowly
    at.provider.answer = answer
    together = threading.Barrier(20)

    def call(number: int) -> tuple[str, str]:
        api = ("chat", "messages", "responses", "run")[number % 4]
        stream = how == "stream" or (how == "both" and number % 2 == 0)
        together.wait(SECONDS)
        found = ask(at, api, task, text, stream=stream)
        assert found.status == 200, found.body
        return (streamed_text if stream else said)(api, found), source(found, stream=stream)

    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(call, range(20)))
    assert {words for words, _ in found} == {f"You said: {text}"}
    assert sorted(where for _, where in found) == ["cache"] * 19 + ["model"]
    assert len(at.provider.records) == 1


def test_both_workers_answer(caching: World) -> None:
    at = caching
    at.reset()
    assert len(at.service.workers()) == 2
    seen = {line.get("worker") for line in at.service.log() if line["event"] == "request"}
    busy = [
        sum(int(value) for value in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]) for pid in at.service.workers()
    ]
    assert all(busy) or len(seen) == 2


def test_a_leader_that_leaves_does_not_take_the_others_along(caching: World) -> None:
    at, text = caching, fresh()
    at.reset()
    go = threading.Event()

    async def when_told(one: Ask) -> str:
        while not go.is_set():
            await asyncio.sleep(0.01)
        return f"You said: {one.text}"

    at.provider.answer = when_told
    for stream in (False, True):
        go.clear()
        text = fresh()
        at.provider.records.clear()

        def came() -> None:
            at.provider.records.wait(lambda kept: any(record.received is not None for record in kept), SECONDS)

        with ThreadPoolExecutor(4) as threads:
            with socket.create_connection((at.service.host, at.service.port), timeout=SECONDS) as leader:
                leader.sendall(request_bytes("chat", "cached", text, stream=stream))
                came()
                others = [threads.submit(ask, at, "chat", "cached", text, stream=stream) for _ in range(4)]
            at.provider.records.wait(lambda kept: kept[0].aborted is not None and len(kept) == 2, SECONDS)
            go.set()
            for one in others:
                assert (streamed_text if stream else said)("chat", one.result()) == f"You said: {text}"
        assert len(at.provider.records) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_whole_answer_is_never_kept(caching: World, stream: bool) -> None:
    at = caching
    at.reset()
    told = {"length": '"finish_reason":"length"', "refused": '"refusal":"half an"', "filtered": '"finish_reason":"content_filter"'}
    for stop, words in told.items():
        text = fresh()
        at.provider.answer = lambda _, stop=stop: Said("half an", stop)  # type: ignore[misc]
        for _ in range(2):
            before = len(at.provider.records)
            bad = ask(at, "chat", "cached", text, stream=stream)
            assert (bad.status, source(bad)) == (200, "model")
            assert words in bad.body.decode()
            assert len(at.provider.records) == before + 1
        at.provider.answer = spoken
        good = ask(at, "chat", "cached", text, stream=stream)
        assert (source(good), f"You said: {text}" in str(good.data if stream else good.json)) == ("model", not stream) or stream
        assert source(good) == "model"
    text = fresh()
    at.provider.faults.every(Fault("reset", at=3) if stream else Fault("truncated"))
    assert b"[DONE]" not in ask(at, "chat", "cached", text, stream=stream).body
    at.provider.faults.clear()
    assert source(ask(at, "chat", "cached", text, stream=stream)) == "model"


def test_an_answer_that_breaks_the_contract_is_no_whole_one_either_way(caching: World) -> None:
    """It is kept, as an answer of the model; what it comes to is the contract's, each time."""
    at, text = caching, fresh()
    at.reset()
    at.provider.answer = lambda _: '{"sku": 1}'
    for _ in range(2):
        assert ask(at, "chat", "cached-order", text).status == 502


def digest_of(one: Ask) -> str:
    """An answer that depends on everything in the request but for how it is delivered and cached by the provider."""
    left = {key: value for key, value in one.body.items() if key not in ("stream", "stream_options", "prompt_cache_key")}
    # Not at the very beginning: a stop sequence would leave nothing of it, and an empty answer is none.
    return f"said {hashlib.sha256(json.dumps(left, sort_keys=True).encode()).hexdigest()[:16]}"


small = st.text('ab:{}"0 \n</>', min_size=0, max_size=3)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.0, 0.5, 1, 1.0]),
        "top_p": st.sampled_from([0.5, 1]),
        "seed": st.sampled_from([0, 1]),
        "stop": st.sampled_from(["x", "temperature", "0"]),
        "max_tokens": st.sampled_from([30, 31, 64, 1000]),
        "frequency_penalty": st.sampled_from([0, 0.5]),
    },
)
unknown = st.fixed_dictionaries(
    {},
    optional={
        "guided_choice": st.sampled_from([["x"], ["y"]]),
        "min_p": st.sampled_from([0, 1]),
        "user": st.sampled_from(["x", "xtemperature: 0"]),
    },
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=small.filter(str.strip), more=parameters, rest=unknown, history=st.lists(st.tuples(small, small), max_size=1))
def test_the_cache_answers_as_the_model_would(
    caching: World, text: str, more: Mapping[str, Any], rest: Mapping[str, Any], history: list[tuple[str, str]]
) -> None:
    """Whatever a request holds, its answer is the one that the same request gets where nothing is cached."""
    at = caching
    at.provider.answer = digest_of
    turns = [{"role": role, "content": f"{words}."} for pair in history for role, words in zip(("user", "assistant"), pair, strict=True)]
    body = {"messages": [*turns, {"role": "user", "content": text}], **more, **rest}
    kept = at.service.call("POST", "/v1/chat/completions", {"model": "plain", **body})
    asked = at.service.call("POST", "/v1/chat/completions", {"model": "plain-twin", **body})
    assert (kept.status, asked.status) == (200, 200), (kept.body, asked.body)
    assert said("chat", kept) == said("chat", asked)
    again = at.service.call("POST", "/v1/chat/completions", dict(reversed([("model", "plain"), *body.items()])))
    assert (source(again), said("chat", again)) == ("cache", said("chat", asked))  # the order of keys is no difference


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(letter=small, tone=small, way=st.sampled_from(["prompt_variables", "json", "metadata"]))
def test_where_one_input_ends_and_the_next_begins_is_a_difference(caching: World, letter: str, tone: str, way: str) -> None:
    at = caching
    at.provider.answer = digest_of
    values = {"letter": letter, "tone": tone}
    more: dict[str, Any] = {} if way == "json" else {way: values}
    text = json.dumps(values) if way == "json" else ""
    kept, asked = (ask(at, "chat", task, text, **more) for task in ("named", "named-twin"))
    assert kept.status == asked.status
    if kept.status == 200:
        assert said("chat", kept) == said("chat", asked)


def test_the_prompt_is_a_part_of_the_key(caching: World) -> None:
    at, text = caching, fresh()
    at.reset()
    at.provider.answer = digest_of
    answers = {task: said("chat", ask(at, "chat", task, text)) for task in ("cached", "other", "plain")}
    assert len(set(answers.values())) == 3
    # A promotion is seen at the next call, in every worker, and its answers are its own.
    promote(at.project, made("other", serve=Serve(cache=True), mark="the next one"))
    for _ in range(6):
        found = ask(at, "chat", "other", text)
        assert found.headers["x-promptsmith-prompt"] == made("other", mark="the next one").id
        assert said("chat", found) not in answers.values()


def test_nought_is_nought(caching: World) -> None:
    at, text = caching, fresh()
    at.reset()
    for number, value in enumerate((b"0", b"0.0", b"-0.0", b"0e5", b"0.00")):
        body = b'{"model":"cached","temperature":%b,"messages":[{"role":"user","content":"%b"}]}' % (value, text.encode())
        found = at.service.call("POST", "/v1/chat/completions", body)
        assert (found.status, source(found)) == (200, "cache" if number else "model"), value
    assert len(at.provider.records) == 1
