"""What the guides say of the service, sentence by sentence where somebody found that it was not so: contracts at the door, the
response cache, figures, signals, settings, plain runs and lists."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from promptsmith.config import Service
from promptsmith.prompt import Serve
from promptsmith.service.keys import KeyFile
from promptsmith.service.quotas import Quotas
from promptsmith.store.counters import SharedCounters

from .made_shop import slow_events
from .provider import Ask, Fault, Provider, Said
from .serving import (
    ANTHROPIC,
    ORDER,
    SECONDS,
    SENTIMENT,
    Answer,
    Say,
    Serving,
    World,
    eventually,
    made,
    project_at,
    reload,
    serving,
    settings_of,
    world,
)  # fmt: skip
from .test_service_truth import APIS, ask, fresh, request_bytes, said

DOCS = Path(__file__).parent.parent / "docs"
CHAT = "/v1/chat/completions"
SLOW, HALF = 6.0, 5.0
"""Seconds that a model takes, and what no service of its own takes beside it."""
LIMITS = """\
[limits."anthropic/claude-sonnet-4-6"]
concurrency = 1
[limits."openai/gpt-4o"]
timeout = 6
deadline = 6
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    cache, repair = Serve(cache=True), Serve(on_contract_break="repair")
    prompts = [
        made("say"),
        made("say-a", ANTHROPIC),
        made("say-f", "foreign/llama-9"),
        made("cached", serve=cache),
        made("cached-label", shape=SENTIMENT, serve=cache),
        made("repaired", shape=SENTIMENT, serve=repair),
        made("label", shape=SENTIMENT),
        made("order", shape=ORDER),
        made("spare", serve=Serve(fallback=("builtin/nearest",))),
        made("slow-spare", "openai/gpt-4o", serve=Serve(fallback=(ANTHROPIC,))),
        made("alone", "anthropic/claude-sonnet-4-6"),
        made("spare-a", "openai/gpt-4o-mini", serve=Serve(fallback=(ANTHROPIC,))),
        made("escalated-a", shape=SENTIMENT, serve=Serve(on_contract_break="escalate", escalate=ANTHROPIC)),
        made("homeless", "nowhere/model"),
        made("unescalated", shape=SENTIMENT, serve=Serve(on_contract_break="escalate")),
        made("canned", "canned/gpt-4.1-mini"),
        made("escalated", shape=SENTIMENT, serve=Serve(on_contract_break="escalate", escalate="nowhere/strong")),
    ]
    with world(tmp_path_factory.mktemp("promises") / "project", *prompts, options=("--workers", "2"), more=LIMITS) as found:
        yield found


def figures(service: Serving, name: str, headers: dict[str, str] | None = None, **labels: str) -> float:
    """The sum of all samples of a metric with these labels."""
    page = service.call("GET", "/metrics", headers=headers).body.decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def cli(root: Path, *words: str) -> str:
    command = [sys.executable, "-m", "promptsmith", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=SECONDS).stdout.strip()


# --- the contract at the door -----------------------------------------------------------------------------

STOPPED = {"chat": '"finish_reason":"length"', "messages": '"stop_reason":"max_tokens"', "responses": '"reason":"max_output_tokens"'}


@pytest.mark.parametrize("task", ["label", "repaired", "cached", "spare-length", "crossed"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", STOPPED)
def test_an_answer_that_stopped_at_its_length_goes_out_as_it_is(at: World, api: str, task: str, stream: bool) -> None:
    """serve.md: "An answer that stopped early (length, refusal, filter) goes out as it is: it says so in its own protocol."

    So it does where the provider's bytes are relayed. Everywhere else it is a 502 `provider_refused`, after a second, paid call.
    """
    task = {"spare-length": "spare", "crossed": "say" if api == "messages" else "say-a"}.get(task, task)
    at.provider.answer = lambda _: Said("half an answ", "length")
    found = ask(at, api, task, fresh(), stream=stream)
    assert found.status == 200, found.body
    assert STOPPED[api] in found.body.decode().replace('": ', '":'), found.body[-600:]


def test_a_clients_output_limit_is_kept_in_every_call(at: World) -> None:
    """serve.md: "`max_tokens` can only lower the prompt's own limit". A client that pays for 5 tokens is sent up to 10."""
    at.provider.answer = lambda ask: Said("one two three four five six seven", "length") if limit(ask.body) <= 5 else "x " * 16
    for task in ("say", "say-a", "cached", "repaired"):
        ask(at, "chat", task, fresh(), max_tokens=5)
        sent = [limit(record.json) for record in at.provider.records.all()]
        assert max(sent) <= 5, (task, sent)
        at.provider.records.clear()


def limit(body: dict[str, Any]) -> int:
    return int(body.get("max_tokens") or body.get("max_completion_tokens") or body["max_output_tokens"])


@pytest.mark.parametrize("task", ["escalated", "unescalated"])
def test_a_stronger_model_that_is_none_is_no_mistake_of_the_client_and_costs_nothing(at: World, task: str) -> None:
    """The prompt's own `escalate` names no model, or there is none: the client has done nothing wrong."""
    at.provider.answer = lambda _: "It depends."
    found = ask(at, "chat", task, fresh())
    assert not at.provider.records.all(), "core.prepare looks for the stronger model `before anything is paid for`"
    assert found.status >= 500, found.body


def test_a_prompt_whose_model_is_not_known_here_is_no_mistake_of_the_client(at: World) -> None:
    """An endpoint that was taken out of the settings: the client hears that the model that it named is not found, and which others are."""
    found = ask(at, "chat", "homeless", fresh())
    assert found.headers["x-promptsmith-task"] == "homeless", "the name of the client's has been found"
    assert found.status >= 500, found.body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("task", ["spare-a", "escalated-a"])
def test_what_another_model_does_not_take_makes_no_mistake_of_the_client(at: World, task: str, stream: bool) -> None:
    """A client sends a temperature, which the prompt's model takes. While that model is down, or breaks the contract, it is told that
    its request is wrong (400, don't repeat) for a model that it has not named, and the outage is told nowhere."""
    if task == "escalated-a" and stream:
        pytest.skip("a stream is not escalated")
    at.provider.answer = lambda _: "positive"
    assert ask(at, "chat", task, fresh(), stream=stream, temperature=0.5).status == 200
    if task == "spare-a":
        number = at.provider.records.last.number + 1
        at.provider.faults.on(number, Fault("status", status=503, retry_after="600"))
    else:
        at.provider.answer = lambda one: "It depends." if one.model.startswith("gpt") else "positive"
    found = ask(at, "chat", task, fresh(), stream=stream, temperature=0.5)
    assert found.status == 200 or found.status >= 500, found.body


# --- what a client may say --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "name", "value"),
    [("say", "top_k", 3), ("say", "guided_choice", ["x"]), ("say-f", "guided_choice", ["x"]), ("say-f", "min_p", 0.2)],
)
def test_a_parameter_that_is_left_out_is_told(at: World, task: str, name: str, value: object) -> None:
    """serve.md: "Parameters go to the model where it takes them …; one that it does not take is a 400."

    These are neither sent nor refused nor named anywhere (`Incoming.ignored` is read by nobody).
    """
    found = ask(at, "chat", task, fresh(), **{name: value})
    asked = (at.foreign if task == "say-f" else at.provider).records.all()
    sent = bool(asked) and name in asked[-1].json
    told = any(name in words for key, words in found.headers.items() if key.startswith("x-promptsmith-"))
    assert found.status == 400 or sent or told, found.headers


# --- what an answer says of itself ------------------------------------------------------------------------


def own(found: Answer, *, stream: bool) -> float:
    """Seconds that the service says it took itself."""
    return int(found.comment["overhead_us"] if stream else found.headers["x-promptsmith-overhead-us"]) / 1e6


async def slowly(one: Ask) -> str:
    await asyncio.sleep(SLOW)
    return f"You said: {one.text}"


@pytest.mark.parametrize("stream", [False, True])
def test_the_wait_for_an_equal_call_under_way_is_no_overhead_of_ours(at: World, stream: bool) -> None:
    """serve.md: the overhead is "what the service itself took, without waiting for model and client"."""
    at.provider.answer = slowly
    text = fresh()
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: ask(at, "chat", "cached", text, stream=stream), range(3)))
    assert sorted(one.headers["x-promptsmith-source"] for one in found) == ["cache", "cache", "model"]
    assert max(own(one, stream=stream) for one in found) < HALF


@pytest.mark.parametrize("stream", [False, True])
def test_the_wait_for_a_place_at_the_model_is_no_overhead_of_ours(at: World, stream: bool) -> None:
    """The relay tells it right; an answer by the runtime counts it as the service's own work."""
    at.provider.answer = slowly
    with ThreadPoolExecutor(3) as threads:  # three over two workers with a place each: one has to wait
        found = list(threads.map(lambda number: ask(at, "chat", "alone", f"{number}", stream=stream), range(3)))
    assert {one.status for one in found} == {200}
    assert max(own(one, stream=stream) for one in found) < HALF


@pytest.mark.parametrize("stream", [False, True])
def test_the_wait_for_a_model_that_failed_is_no_overhead_of_ours(at: World, stream: bool) -> None:
    at.service.chat("say")
    at.provider.faults.on(at.provider.records.last.number + 1, Fault("hang"))
    found = ask(at, "chat", "slow-spare", fresh(), stream=stream)
    assert (found.status, found.headers["x-promptsmith-fallback"]) == (200, "openai/gpt-4o failed")
    assert own(found, stream=stream) < HALF


class Slow(list[bytes]):
    """Pieces that a model begins with after a long time."""

    def __iter__(self) -> Iterator[bytes]:
        time.sleep(SLOW)
        return super().__iter__()


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_the_wait_for_a_stream_that_broke_at_its_first_event_is_no_overhead_of_ours(at: World, api: str) -> None:
    """Relayed, and by the runtime: the call is repeated, for nothing was passed on yet."""
    overloaded = Slow([b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'])
    at.canned.says[:] = [Say(overloaded, stream=True), Say(slow_events("Hello"), stream=True)]
    found = ask(at, api, "canned", fresh(), stream=True)
    assert found.status == 200 and b"Hello" in found.body
    assert len(at.canned.bodies) == 2
    assert own(found, stream=True) < HALF


def test_a_broken_answer_out_of_the_cache_says_where_it_came_from(at: World) -> None:
    """The second 502 has been answered by the cache. It says neither source nor cache nor cost, and counts as a model's."""
    at.provider.answer = lambda _: "It depends."
    text = fresh()
    before = figures(at.service, "promptsmith_answers_total", task="cached-label", source="cache")
    first, second = ask(at, "chat", "cached-label", text), ask(at, "chat", "cached-label", text)
    assert (first.status, first.headers["x-promptsmith-source"]) == (502, "model")
    assert len(at.provider.records) == 1
    assert second.status == 502
    told = {name: second.headers.get(f"x-promptsmith-{name}") for name in ("source", "cache", "cost-usd")}
    assert told == {"source": "cache", "cache": "hit", "cost-usd": "0"}
    assert figures(at.service, "promptsmith_answers_total", task="cached-label", source="cache") == before + 1


# --- the response cache -----------------------------------------------------------------------------------


def test_replies_that_were_cleared_are_not_given_out_any_more(at: World) -> None:
    """`promptsmith cache clear --replies` says "removed all replies"; a service that runs goes on giving them out of its memory."""
    text = fresh()
    for _ in range(4):
        ask(at, "chat", "cached", text)
    eventually(lambda: '"replies": 0' not in cli(at.project.root, "cache", "stats", "--json"), "the reply is on disk")
    assert "removed all replies" in cli_told(at.project.root, "cache", "clear", "--replies", "--yes")
    at.provider.records.clear()
    at.provider.answer = lambda _: "another answer"
    found = [ask(at, "chat", "cached", text) for _ in range(4)]
    assert {said("chat", one) for one in found} == {"another answer"}


def cli_told(root: Path, *words: str) -> str:
    command = [sys.executable, "-m", "promptsmith", *words]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=SECONDS)
    return ended.stdout + ended.stderr


# --- figures ----------------------------------------------------------------------------------------------


def test_only_answers_count_as_answers(at: World) -> None:
    """`promptsmith_answers_total` is "by where their answer came from"; a refused request and a count of tokens had no model's."""
    before = figures(at.service, "promptsmith_answers_total", source="model")
    assert at.service.chat("no-such-task").status == 404
    assert at.service.chat("say", tools=[{"type": "function", "function": {"name": "f"}}]).status == 400
    body = {"model": "say", "messages": [{"role": "user", "content": "x"}]}
    assert at.service.call("POST", "/v1/messages/count_tokens", body).status == 200
    assert not at.provider.records.all()
    assert figures(at.service, "promptsmith_answers_total", source="model") == before


def test_tokens_are_those_that_a_model_took(at: World) -> None:
    """A hit of the cache has cost no token: the ledger and the key's account say 0, the metric adds the first call's again."""
    text = fresh()
    assert ask(at, "chat", "cached", text).headers["x-promptsmith-source"] == "model"
    before = figures(at.service, "promptsmith_tokens_total", task="cached")
    rows = len(at.service.ledger())
    for _ in range(3):
        assert ask(at, "chat", "cached", text).headers["x-promptsmith-source"] == "cache"
    assert sum(row.input + row.output for row in at.service.ledger()[rows:]) == 0
    assert figures(at.service, "promptsmith_tokens_total", task="cached") == before


def test_requests_that_are_too_many_count_on_every_path(tmp_path: Path) -> None:
    with world(tmp_path / "project", made("say"), service="concurrency = 1\n") as at:
        at.provider.faults.every(Fault("hang"))
        with socket.create_connection((at.service.host, at.service.port), timeout=SECONDS) as held:
            held.sendall(request_bytes("chat", "say", "x", stream=False))
            eventually(lambda: bool(at.provider.records.all()), "the one request is under way")
            assert {ask(at, api, "say").status for api in APIS} == {503}
            body = {"model": "say", "messages": [{"role": "user", "content": "x"}]}
            assert at.service.call("POST", "/v1/messages/count_tokens", body).status == 503
            for endpoint in ("chat", "messages", "responses", "run", "count_tokens"):
                assert figures(at.service, "promptsmith_errors_total", endpoint=endpoint, code="overloaded") == 1, endpoint


# --- keys -------------------------------------------------------------------------------------------------


def test_a_call_that_a_builtin_model_ended_is_charged_for_what_the_first_one_took(tmp_path: Path) -> None:
    """keys.md: "A call is counted when it ends, in and out, at what it cost". The answer's own header tells a cost of dollars."""
    with world(tmp_path / "project", made("spare", serve=Serve(fallback=("builtin/nearest",)))) as at:
        secret = cli(at.project.root, "keys", "add", "shop", "--tokens-per-day", "100000", "--usd-per-day", "5")
        at.provider.answer = lambda _: Said("I can't help with that.", "refused")
        body = {"model": "spare", "messages": [{"role": "user", "content": "x"}]}
        found = at.service.call("POST", CHAT, body, {"x-api-key": secret})
        assert (found.status, found.headers["x-promptsmith-source"]) == (200, "builtin")
        cost = float(found.headers["x-promptsmith-cost-usd"])
        assert cost > 0
        [key] = KeyFile(at.project.root / "promptsmith.keys").keys()
        used = Quotas(SharedCounters(at.project.cache / "service" / "quotas")).used(key, time.time())
        assert used is not None
        assert used.usd == pytest.approx(cost)
        assert used.tokens > 0


def test_damaged_keys_shut_nobody_out_when_the_settings_are_read_again(tmp_path: Path) -> None:
    """keys.md: "When the file is damaged, for instance by a merge, running services go on with the keys that they read last"."""
    with world(tmp_path / "project", made("say")) as at:
        headers = {"x-api-key": cli(at.project.root, "keys", "add", "shop")}
        assert at.service.call("GET", "/v1/models", headers=headers).status == 200
        file = at.project.root / "promptsmith.keys"
        file.write_bytes(file.read_bytes() + b"<<<<<<< HEAD\n")
        assert at.service.call("GET", "/v1/models", headers=headers).status == 200
        before = at.service.told("reloaded") + at.service.told("trouble")
        os.kill(at.service.pid, signal.SIGHUP)
        eventually(lambda: at.service.told("reloaded") + at.service.told("trouble") > before, "it has been told")
        found = at.service.call("GET", "/v1/models", headers=headers)
        assert found.status == 200, found.body


def test_the_hint_for_a_missing_key_says_how_to_send_one(tmp_path: Path) -> None:
    """It comes as "send Authorization: Bearer [redacted] or x-api-key": the placeholder is taken for a secret."""
    with world(tmp_path / "project", made("say")) as at:
        cli(at.project.root, "keys", "add", "shop")
        found = at.service.chat("say")
        assert found.status == 401
        assert "Bearer <key>" in found.json["error"]["message"]


# --- signals ----------------------------------------------------------------------------------------------


def test_every_setting_but_the_four_is_read_again(tmp_path: Path) -> None:
    """operations.md: "`host`, `port`, `workers` and `cache` take a restart"; so does `header_kib`, with `idle_seconds` and the time for
    headers, and the log says `reloaded`."""
    with world(tmp_path / "project", made("say"), service="header_kib = 4\n") as at:
        large = {"x-large": "x" * 6000}
        assert at.service.call("GET", "/healthz", headers=large).status == 431
        file = at.project.root / "promptsmith.toml"
        file.write_text(file.read_text().replace("header_kib = 4", "header_kib = 16"))
        reload(at.service)
        assert at.service.call("GET", "/healthz", headers=large).status == 200


def test_a_certificate_that_was_added_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    """Settings that name a certificate (of a file that does not even exist) are "reloaded", and the service goes on without TLS."""
    with world(tmp_path / "project", made("say"), service="header_kib = 16\n") as at:
        file = at.project.root / "promptsmith.toml"
        file.write_text(file.read_text().replace("header_kib = 16", 'tls_cert = "none.pem"\ntls_key = "none.key"'))
        os.kill(at.service.pid, signal.SIGHUP)
        eventually(lambda: at.service.told("reloaded") + at.service.told("trouble") > 0, "it has been told")
        told = [line for line in at.service.lines() if "tls" in line or "none.pem" in line]
        assert told, at.service.lines()


def test_a_request_ends_in_time_whatever_is_read_again_meanwhile(tmp_path: Path) -> None:
    """`answer_seconds` ends what takes too long, until a SIGHUP: requests that were under way then are looked after by nobody."""
    with world(tmp_path / "project", made("say"), service="answer_seconds = 2\n") as at:
        at.provider.faults.every(Fault("hang"))
        assert at.service.chat("say").status == 504
        at.provider.records.clear()
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(at.service.chat, "say")
            eventually(lambda: bool(at.provider.records.all()), "the request is under way")
            reload(at.service)
            try:
                assert answer.result(SECONDS - 5).status == 504
            finally:
                at.service.stop(signal.SIGKILL)


def test_settings_read_again_while_it_ends_do_not_hold_up_the_end(tmp_path: Path) -> None:
    """After SIGTERM and then SIGHUP the last answer goes out, and the process stays for the whole of `drain_seconds`."""
    with world(tmp_path / "project", made("say"), service="drain_seconds = 3600\n") as at:
        go = threading.Event()

        async def when_told(_: Ask) -> str:
            while not go.is_set():
                await asyncio.sleep(0.01)
            return "done"

        at.provider.answer = when_told
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(at.service.chat, "say")
            eventually(lambda: bool(at.provider.records.all()), "the request is under way")
            os.kill(at.service.pid, signal.SIGTERM)
            eventually(lambda: at.service.told("draining") == 1, "it is ending")
            os.kill(at.service.pid, signal.SIGHUP)
            eventually(lambda: at.service.told("reloaded") + at.service.told("trouble") > 0, "it has been told")
            go.set()
            assert answer.result().status == 200
        assert at.service.process.wait(SECONDS) == 0


# --- health -----------------------------------------------------------------------------------------------


def test_a_service_that_can_serve_no_prompt_is_not_ready(tmp_path: Path) -> None:
    """operations.md: "503 with the reasons … when no prompt can be served". `/v1/models` is empty, each call a 503, and it is ready."""
    with Provider() as provider:
        project = project_at(tmp_path / "project", settings_of(provider), made("say"))
        text = project.lock.read_text()
        project.lock.write_text(text.replace("Do the task say.", "Do the task so."))
        assert project.lock.read_text() != text
        with serving(project) as service:
            assert service.chat("say").status == 503
            assert service.call("GET", "/v1/models").json["data"] == []
            found = service.call("GET", "/readyz")
            assert (found.status, bool(found.json["problems"])) == (503, True)


# --- settings that can't work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        'cors = ["https://app.example.com/"]',
        'cors = ["app.example.com"]',
        'cors = ["*"]',
        'sticky_header = "x sticky:"',
        'tls_cert = "none.pem"\ntls_key = "none.key"',
    ],
)
def test_a_setting_that_can_not_work_stops_the_start_with_its_line(tmp_path: Path, line: str) -> None:
    """operations.md: "Settings that can't work end the start with the file and the line".

    No origin ever has a path or lacks its scheme, and no header has such a name: these start, and refuse every page. Files of a
    certificate that are not there do end the start, without file and line of the settings.
    """
    with Provider() as provider:
        project = project_at(tmp_path / "project", settings_of(provider), made("say"))
        (project.root / "promptsmith.toml").write_text(settings_of(provider, service=line + "\n"))
        try:
            with serving(project):
                pytest.fail("it has started")
        except AssertionError as error:
            assert "did not start" in str(error)
            assert "promptsmith.toml:2" in str(error)


# --- documents --------------------------------------------------------------------------------------------


def test_the_document_has_every_path(at: World) -> None:
    """serve.md: `/openapi.json` is "all of this"; the list of paths has `/v1/models/NAME` and `/metrics`, too."""
    paths = at.service.call("GET", "/openapi.json").json["paths"]
    assert "/metrics" in paths
    assert any(path.startswith("/v1/models/") for path in paths)


def test_every_setting_of_the_service_is_in_its_guide() -> None:
    """settings.md: "all keys are in serve"."""
    guide = (DOCS / "guides" / "serve.md").read_text()
    _, _, guide = guide.partition("## Keys, TLS, settings")
    missing = [field.name for field in msgspec.structs.fields(Service) if f"\n{field.name} =" not in guide and field.name != "keys"]
    assert not missing


def test_a_request_that_is_refused_for_its_headers_is_in_the_log(tmp_path: Path) -> None:
    """operations.md: "One line of JSON for each request when it has ended", `warning` for one that was refused (4xx)."""
    with world(tmp_path / "project", made("say"), service="header_kib = 1\n") as at:
        assert at.service.call("GET", "/healthz", headers={"x-large": "x" * 3000}).status == 431
        at.service.chat("say")
        eventually(lambda: at.service.told("request") >= 1, "the next request is in the log")
        assert 431 in {line.get("status") for line in at.service.log()}
