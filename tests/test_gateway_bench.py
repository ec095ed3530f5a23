"""The instruments that the service is measured with: a generator that sees wrong answers, a provider that fails, checks that can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.gateway.bench import Samples
from benchmarks.gateway.http import Answer, Line, address, request
from benchmarks.gateway.load import Target, ours, percentile, spoken
from benchmarks.gateway.processes import held, started_provider
from benchmarks.gateway.provider import digest, joined
from benchmarks.gateway.table import markdown
from benchmarks.soak import growth, lost_rows

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started_provider(tmp_path_factory.mktemp("provider"), ()) as (url, _):
        yield url


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started_provider(tmp_path_factory.mktemp("failing"), (), "--faults", "0.9") as (url, _):
        yield url


def body(user: str, *, system: str = "Sort.", stream: bool = False, model: str = "echo-0") -> str:
    turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return json.dumps({"model": model, "messages": turns, "stream": stream, "stream_options": {"include_usage": True}})


def ask(url: str, *bodies: str, path: str = CHAT) -> list[Answer | OSError]:
    async def asked() -> list[Answer | OSError]:
        line = Line(*address(url))
        found: list[Answer | OSError] = []
        for one in bodies:
            try:
                found.append(await line.ask(request(url + path, {}, one.encode())))
            except OSError as error:
                found.append(error)
        line.close()
        return found

    return asyncio.run(asked())


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_tells_what_was_asked(provider: str, stream: bool) -> None:
    [answer] = ask(provider, body("It broke. #12345", stream=stream))
    assert isinstance(answer, Answer)
    assert answer.status == 200
    assert answer.sent < answer.first <= answer.last
    assert digest("Sort.", "It broke. #12345") in spoken(answer.body)
    assert b'"prompt_tokens":12345' in answer.body
    assert (b"data: [DONE]" in answer.body) is stream


@pytest.mark.parametrize("stream", [False, True])
def test_messages_too(provider: str, stream: bool) -> None:
    asked = {
        "model": "echo-0",
        "system": [{"type": "text", "text": "Sort."}],
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": stream,
    }
    [answer] = ask(provider, json.dumps(asked), path=MESSAGES)
    assert isinstance(answer, Answer)
    assert digest("Sort.", "Hi") in spoken(answer.body)
    assert (b"message_stop" in answer.body) is stream


def test_a_process_that_is_held_is_let_go(tmp_path: Path) -> None:
    with started_provider(tmp_path, ()) as (url, running):
        groups = Path(f"/proc/{running.pid}/cgroup")
        before = groups.read_text()
        with held(running.pids(), 0.5) as holds:
            if not holds:
                pytest.skip("no cgroup of the cpu controller can be made here")
            assert "benchmark" in groups.read_text()
            [answer] = ask(url, body("Hello"))
            assert isinstance(answer, Answer) and answer.status == 200
        assert groups.read_text() == before


def test_a_load_counts_right_and_wrong_answers(provider: str) -> None:
    right = Target(provider + CHAT, {}, body("Hi"), digest("Sort.", "Hi"))
    found = ours(right, connections=4, seconds=10, count=200)
    assert (found.answers, found.errors) == (200, {})
    assert found.first_p50 is not None
    assert 0 < found.first_p50 <= found.p50 <= found.p99
    wrong = Target(provider + CHAT, {}, body("Hi", stream=True), digest("Another.", "Hi"))
    assert ours(wrong, connections=4, seconds=10, count=200).errors == {"wrong": 200}
    refused = Target(provider + CHAT, {}, "{}", "")
    assert ours(refused, connections=1, seconds=10, count=5).errors == {"400": 5}


def test_faults_strike_numbered_messages_only(failing: str) -> None:
    plain = ask(failing, *[body("Hi")] * 50)
    assert [answer.status for answer in plain if isinstance(answer, Answer)] == [200] * 50
    struck = ask(failing, *[body(f"Hi #{number}", stream=number % 2 > 0) for number in range(60)])
    lost = [answer for answer in struck if isinstance(answer, OSError)]
    statuses = {answer.status for answer in struck if isinstance(answer, Answer)}
    assert lost
    assert 500 in statuses


def test_chunks_are_joined() -> None:
    assert joined(b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n") == b"abc0123456789"


def test_percentiles() -> None:
    assert percentile([], 0.5) == 0
    assert percentile(range(100), 0.99) == 99
    assert percentile([1.0], 0.99) == 1.0


def test_rows_that_are_lost_doubled_or_of_another_prompt_are_found() -> None:
    finished = bytes([0, 1, 2, 1, 1])
    rows = {0: ["a"], 2: ["b"], 3: ["a", "a"], 4: ["b"]}
    assert lost_rows(finished, ["a", "b"], rows) == ([1], [3], [4])


def test_growth_is_seen_and_warming_up_is_not() -> None:
    steady = [(float(at), 50.0 if at > 20 else 30.0 + at) for at in range(100)]
    assert growth(steady) == pytest.approx((0, 0))
    grown, slope = growth([(float(at), 50 + at * 0.1) for at in range(101)])
    assert grown == pytest.approx(5.0, abs=0.2)
    assert slope == pytest.approx(360)


def test_the_table_compares_round_by_round_and_tells_of_failures() -> None:
    samples = Samples()
    for peer, rates in {"direct": [9000.0, 9000.0], "aiohttp relay": [1000.0, 2000.0], "promptsmith": [800.0, 1800.0]}.items():
        for rate in rates:
            samples.add("requests", peer, rate)
    samples.errors["requests"]["Portkey"]["500"] += 3
    text = markdown(samples, ["direct", "aiohttp relay", "promptsmith", "Portkey"])
    assert "| 1,500 (1,000 to 2,000) | 1,300 (800 to 1,800) | fails | 0.85 |" in text
    assert "- Portkey, requests: 500 3 times" in text


def test_added_times_are_over_the_provider_itself() -> None:
    samples = Samples()
    for peer, first in {"direct": 0.25, "aiohttp relay": 0.75, "promptsmith": 1.0}.items():
        samples.add("first", peer, first)
    assert "|  | 0.50 | 0.75 | 1.50 |" in markdown(samples, ["direct", "aiohttp relay", "promptsmith"])


def test_the_relay_is_a_gateway(provider: str, tmp_path: Path) -> None:
    from benchmarks.gateway import peers
    from benchmarks.gateway.bench import Bench
    from benchmarks.gateway.project import MODELS, made, words

    tasks = {task: (model, words(task)) for task, model in MODELS.items()}
    project, prompts = made(tmp_path / "project", provider, tasks)
    assert {name: prompt.system for name, prompt in prompts.items()} == {name: system for name, (_, system) in tasks.items()}
    setup = peers.Setup(provider, project, {name: system for name, (_, system) in tasks.items()}, tmp_path)
    with started_provider(tmp_path, ()) as (_, running):
        bench = Bench(setup, running, [peers.direct(setup), peers.relay(setup)], rounds=1, seconds=0.2, wrk=False)
        assert list(bench.usable()) == []
        bench.cold()
    assert bench.names == ["direct", "aiohttp relay"]
    assert bench.samples.values["start"]["aiohttp relay"][0] > 0
    assert bench.samples.values["idle"]["aiohttp relay"][0] > 1
