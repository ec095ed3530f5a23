"""Everything that a provider, a key, an address, a proxy or a meta-model can do wrong, through the whole product."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result as Ended

from promptsmith import AsyncRuntime, Failure, Result, Runtime, compile_task
from promptsmith.config import Project
from promptsmith.errors import (
    AuthenticationFailed,
    ContractError,
    MalformedReply,
    PromptsmithError,
    ProviderDown,
    ProviderError,
    RateLimited,
    RequestRefused,
    UnknownName,
)
from promptsmith.models import check_model_name, find_model, model_names
from promptsmith.models.transport.direct import Direct
from promptsmith.models.transport.mapping import mapped_errors
from promptsmith.models.transport.sdk_openai import SdkOpenAI
from promptsmith.runtime.many import run_many
from promptsmith.store.folder import open_store

from .provider import ANSWER_KINDS, BEFORE, KEY, LINE_KINDS, Fault, Provider, Said, Schedule, at_every_point, constant, every_fault
from .provider import http_date as date_in
from .talking import make_certificate

Make = Callable[..., Project]
Invoke = Callable[..., Ended]

MODELS = {"openai": "gpt-6-luna", "anthropic": "claude-haiku-5-5"}
PROTOCOLS = tuple(MODELS)
SPOKEN = "one two three four five six seven"
SAY = """\
task: Say it.
output: text
models: {production: openai/gpt-6-luna}
examples:
  - {input: a, output: one two}
"""
SENTIMENT = """\
task: Classify the sentiment of a customer message.
output: [positive, negative, neutral]
models: {production: openai/gpt-6-luna}
examples:
  - {input: "amazing", output: positive}
  - {input: "it broke", output: negative}
  - {input: "when do you open?", output: neutral}
"""
ORDER = """\
task: Extract the order number.
output: {json: {type: object, properties: {order: {type: string}}, required: [order], additionalProperties: false}}
models: {production: openai/gpt-6-luna}
examples:
  - {input: "Where is A-17?", output: {order: A-17}}
"""
TASKS = {"say": SAY, "sentiment": SENTIMENT, "order": ORDER}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(constant(SPOKEN)) as running:
        yield running


def settings(openai: str, anthropic: str, *, timeout: float = 60.0, deadline: float = 120.0, transport: str = "auto") -> str:
    """A project's settings with both owners' endpoints at these addresses."""
    parts = []
    for name, url in (("openai", openai), ("anthropic", anthropic)):
        parts.append(
            f"""
[endpoints.{name}]
protocol = "{name}"
base_url = "{url}"
api_key_env = "{name.upper()}_API_KEY"
foreign = false
transport = "{transport}"
[limits.{name}]
timeout = {timeout}
deadline = {deadline}
[prices.{name}]
input = 1
output = 2
"""
        )
    return "".join(parts)


@pytest.fixture
def compiled(make_project: Make) -> Make:
    """As ``make_project``, with every task compiled."""

    def make(*args: Any, **more: Any) -> Project:
        project = make_project(*args, **more)
        for name in project.task_names():
            compile_task(name, project=project)
        return project

    return make


@pytest.fixture
def project_at(compiled: Make) -> Make:
    """Makes a project with all tasks compiled and the loopback provider as its endpoints."""

    def make(provider: Provider, **more: Any) -> Project:
        return compiled(TASKS, config=settings(provider.base_url_openai, provider.base_url_anthropic, **more))

    return make


def wish(protocol: str, fault: Fault) -> str:
    """The name of a model that meets this fault."""
    fields = {name: str(value).lower() for name, value in msgspec.to_builtins(fault).items() if name != "kind"}
    return f"{protocol}/{MODELS[protocol]}!" + ",".join([fault.kind, *(f"{name}={value}" for name, value in fields.items())])


Outcome = Result | PromptsmithError


async def ask(runtime: AsyncRuntime, streamed: bool, task: str, model: str, shown: list[str] | None = None, **options: Any) -> Outcome:
    """The result or the error of one call; anything else is raised. ``shown`` gets the pieces of a stream."""
    task = f"{task}@latest"
    try:
        if not streamed:
            return await runtime.run(task, "x", model=model, **options)
        result: Result | None = None
        async for chunk in runtime.stream(task, "x", model=model, **options):
            result = chunk.result or result
            if shown is not None and chunk.text:
                shown.append(chunk.text)
        assert result is not None
        return result
    except PromptsmithError as error:
        return error


def all_of(project: Project, streamed: bool, names: Sequence[str], task: str = "say") -> list[Outcome]:
    """The outcomes of one call to each model, all at the same time."""

    async def main() -> list[Outcome]:
        async with AsyncRuntime(project) as runtime:
            return list(await asyncio.gather(*(ask(runtime, streamed, task, name) for name in names)))

    return asyncio.run(main())


def settled(provider: Provider) -> None:
    """Every request is over: what the client gave up was closed by it, or the provider would still hang."""
    provider.records.wait(lambda records: all(record.ended is not None for record in records), timeout=30)


def check_told(error: Outcome, protocol: str, fault: Fault) -> ProviderError:
    """The error says whose it is, which answer it was, whether to try again, and what to do."""
    assert isinstance(error, ProviderError), (fault, error)
    assert error.provider == protocol, (fault, error)
    assert error.hint, (fault, error.message)
    assert isinstance(error.retryable, bool)
    silent = fault.kind == "reset" or (fault.at == BEFORE and fault.kind in {"hang", "close"})
    assert error.request_id.startswith("req_") or silent, (fault, error, error.request_id)
    if fault.kind == "status" and fault.at == BEFORE:
        assert error.status == fault.status
        assert str(fault.status) in error.message
    assert KEY not in str(error)
    return error


# --- each fault, whole and streamed -----------------------------------------------------------------------

FAULTS = [*every_fault(), Fault("drip", seconds=0.0), Fault("status", status=402), Fault("status", status=422), Fault("status", status=504)]
KINDS: dict[int, type[ProviderError]] = {
    400: RequestRefused, 401: AuthenticationFailed, 402: RequestRefused, 403: AuthenticationFailed, 404: RequestRefused, 408: ProviderDown,
    409: RequestRefused, 413: RequestRefused, 422: RequestRefused, 429: RateLimited, 500: ProviderDown, 502: ProviderDown,
    503: ProviderDown, 504: ProviderDown, 529: ProviderDown,
}  # fmt: skip
DOWN = {"hang", "reset", "close", "drip"}
ANSWERED = {"slow", "huge", "surrogate", "not_json", "no_usage"}
"""Faults that leave an answer: text, though perhaps another one."""


def expected(fault: Fault, streamed: bool) -> type[PromptsmithError] | None:
    """The error of a fault that meets every attempt, ``None`` for an answer."""
    if fault.kind == "null":
        return ContractError  # a complete reply without a word in it
    if fault.kind == "status":
        return KINDS[fault.status]
    if fault.kind == "html":
        return MalformedReply if fault.status == 200 else ProviderDown
    if fault.kind in ANSWERED or (fault.kind == "drip" and fault.seconds < 0.001):
        return None
    if fault.kind in DOWN:
        return ProviderDown
    if fault.kind == "empty" and streamed:
        return ProviderDown  # a stream that ended before it began
    return {"length": ProviderError, "refusal": RequestRefused, "filter": RequestRefused}.get(fault.kind, MalformedReply)


def test_the_table_below_has_every_fault() -> None:
    assert {fault.kind for fault in FAULTS} == {*LINE_KINDS, *ANSWER_KINDS}
    assert len(FAULTS) >= 30


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_fault_is_a_clear_error_or_an_answer(provider: Provider, project_at: Make, protocol: str, streamed: bool) -> None:
    """Met by every attempt. No fault is ever taken for a complete reply, and each call has its row in the ledger."""
    project = project_at(provider, timeout=6.0, deadline=8.0)
    names = [wish(protocol, fault) for fault in FAULTS]
    outcomes = all_of(project, streamed, names)
    settled(provider)
    rows = {name: [row for row in open_store(project).ledger.rows() if row.model == name] for name in names}
    for fault, name, outcome in zip(FAULTS, names, outcomes, strict=True):
        kind = expected(fault, streamed)
        assert len(rows[name]) == (2 if fault.kind == "length" and not streamed else 1), (fault, rows[name])
        ended = rows[name][-1].status
        if kind is None:
            assert isinstance(outcome, Result), (fault, outcome)
            assert ended == "end"
            continue
        assert isinstance(outcome, kind), (fault, outcome)
        if kind is not ContractError:
            check_told(outcome, protocol, fault)
            assert ended != "end", (fault, ended)
    answers = {fault.kind: outcome.text for fault, outcome in zip(FAULTS, outcomes, strict=True) if isinstance(outcome, Result)}
    assert answers["slow"] == answers["drip"] == answers["no_usage"] == SPOKEN
    assert len(answers["huge"]) == 5 * 2**20
    assert answers["surrogate"] == SPOKEN + "\ufffd end"


class Once(Schedule):
    """A wish comes true the first time only."""

    def __init__(self) -> None:
        super().__init__()
        self._met: set[str] = set()

    def pick(self, number: int, wish: str) -> Fault | None:
        if wish in self._met:
            return None
        self._met.add(wish)
        return super().pick(number, wish)


def passing() -> list[Fault]:
    """What another attempt may get over; the date is one second from now."""
    statuses = [Fault("status", status=status) for status in (408, 409, 429, 500, 502, 503, 504, 529)]
    asked = [Fault("status", status=429, retry_after="1"), Fault("status", status=429, retry_after=date_in(1, time.time()))]
    line = [Fault("html", status=502), Fault("reset"), Fault("close"), Fault("hang")]
    return [*statuses, *asked, Fault("status", status=429, retry_after_ms="20"), *line]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_passes_is_answered_after_another_attempt(project_at: Make, protocol: str, streamed: bool) -> None:
    running = Provider(constant(SPOKEN))
    running.faults = Once()
    faults = passing()
    with running:
        project = project_at(running, timeout=6.0, deadline=60.0)
        names = [wish(protocol, fault) for fault in faults]
        outcomes = all_of(project, streamed, names)
        settled(running)
        for fault, outcome in zip(faults, outcomes, strict=True):
            assert isinstance(outcome, Result), (fault, outcome)
            assert outcome.text == SPOKEN
            assert outcome.usage.output > 0
            assert outcome.cost is not None and outcome.cost > 0
        rows = {row.model: row for row in open_store(project).ledger.rows()}
        assert {rows[name].attempts for name in names} == {2}
        assert len(running.records) == 2 * len(names)


# --- each point of a stream -------------------------------------------------------------------------------


def events_of(provider: Provider, project: Project, protocol: str) -> int:
    """How many events the stream of an answer has at this provider."""
    (outcome,) = all_of(project, True, [f"{protocol}/{MODELS[protocol]}"])
    assert isinstance(outcome, Result) and outcome.text == SPOKEN
    settled(provider)
    return provider.records.last.events


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_fault_at_any_point_of_a_stream_is_an_error_or_the_whole_answer(provider: Provider, project_at: Make, protocol: str) -> None:
    """Before the first byte, in and between the events, before the final usage, and behind the end."""
    project = project_at(provider, timeout=6.0, deadline=8.0)
    count = events_of(provider, project, protocol)
    assert count >= 7
    faults = [fault for kind in LINE_KINDS for fault in at_every_point(kind, count)]
    names = [wish(protocol, fault) for fault in faults]
    shown: list[list[str]] = [[] for _ in faults]

    async def main() -> list[Outcome]:
        async with AsyncRuntime(project) as runtime:
            calls = (ask(runtime, True, "say", name, pieces) for name, pieces in zip(names, shown, strict=True))
            return list(await asyncio.gather(*calls))

    outcomes = asyncio.run(main())
    settled(provider)
    rows = {row.model: row for row in open_store(project).ledger.rows()}
    whole = 0
    for fault, name, outcome, pieces in zip(faults, names, outcomes, shown, strict=True):
        behind = fault.at == count and not fault.inside
        assert SPOKEN.startswith("".join(pieces)), (fault, pieces)
        if isinstance(outcome, Result):
            whole += 1
            assert behind or fault.kind in {"slow", "drip"}, (fault, outcome.text)
            assert outcome.text == "".join(pieces) == SPOKEN
            assert outcome.usage.output == len(SPOKEN) // 4
            assert rows[name].status == "end"
            continue
        assert not behind and fault.kind != "slow", (fault, outcome)
        check_told(outcome, protocol, fault)
        assert rows[name].status != "end"
    assert whole >= len(LINE_KINDS) + 2 * count


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("at", [2, 4])
def test_a_consumer_that_leaves_a_stream_closes_the_connection_and_the_call_is_in_the_ledger(
    provider: Provider, project_at: Make, protocol: str, at: int
) -> None:
    project = project_at(provider)
    name = wish(protocol, Fault("hang", at=at))

    async def main() -> None:
        async with AsyncRuntime(project) as runtime:
            task = asyncio.create_task(ask(runtime, True, "say", name))
            while not any(record.events >= at for record in provider.records.all()):
                await asyncio.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())
    settled(provider)
    assert provider.records.last.aborted is not None
    (row,) = open_store(project).ledger.rows()
    assert (row.model, row.status) == (name, "cancelled")


# --- the command line -------------------------------------------------------------------------------------


def shell(project: Project, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real process; it must not end in a traceback, nor show the key."""
    done = subprocess.run(
        [sys.executable, "-m", "promptsmith", *args], cwd=project.root, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=120, encoding="utf-8",
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert KEY not in done.stdout + done.stderr
    return done


AT_THE_SHELL = [
    *(Fault("status", status=status) for status in (400, 401, 404, 429, 500)), Fault("html", status=200), Fault("html", status=502),
    Fault("hang"), Fault("hang", at=4), Fault("reset"), Fault("close", at=3, inside=True), Fault("garbage", at=3), Fault("empty"),
    Fault("truncated"), *(Fault(kind) for kind in ("huge", "surrogate", "length", "refusal", "filter", "tool", "null")),
]  # fmt: skip


def test_no_fault_gives_a_traceback_at_the_command_line(provider: Provider, project_at: Make) -> None:
    """One of each kind of end; the tests above show that no fault ends in anything but these."""
    project = project_at(provider, timeout=10.0, deadline=6.0)

    def one(number: int) -> tuple[Fault, bool, subprocess.CompletedProcess[str]]:
        fault, streamed = AT_THE_SHELL[number], number // 2 % 2 == 1
        more = ["--stream"] if streamed else []
        return fault, streamed, shell(project, "run", "say@latest", "x", "--model", wish(PROTOCOLS[number % 2], fault), *more)

    with ThreadPoolExecutor(6) as pool:
        for fault, streamed, done in pool.map(one, range(len(AT_THE_SHELL))):
            if expected(fault, streamed) is None:
                assert done.returncode == 0, (fault, done.stderr)
                assert "answered by" in done.stderr
                continue
            assert done.returncode == (1 if fault.kind == "null" else 4), (fault, done.stdout, done.stderr)
            assert done.stderr.startswith("error: ") and "\n  hint: " in done.stderr, (fault, done.stderr)
    settled(provider)


HOURS: dict[str, Callable[[], Fault]] = {
    "seconds": lambda: Fault("status", status=429, retry_after="3600"),
    "milliseconds": lambda: Fault("status", status=429, retry_after_ms="3600000"),
    "date": lambda: Fault("status", status=429, retry_after=date_in(3600, time.time())),
    "503": lambda: Fault("status", status=503, retry_after="3600"),
}


@pytest.mark.parametrize("form", HOURS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_hour_is_told_and_not_waited_for(provider: Provider, project_at: Make, protocol: str, form: str) -> None:
    fault = HOURS[form]()
    provider.faults.every(fault)
    project = project_at(provider)
    model = f"{protocol}/{MODELS[protocol]}"
    for streamed in (False, True):
        (error,) = all_of(project, streamed, [model])
        assert isinstance(error, RateLimited if fault.status == 429 else ProviderDown)
        assert error.retry_after is not None and 3500 < error.retry_after <= 3601
        assert "it asks to wait 3" in error.message
        assert "[limits] deadline" in "".join(error.__notes__)
    assert len(provider.records) == 2


def test_the_command_line_does_not_hang_on_retry_after(provider: Provider, project_at: Make) -> None:
    """With the deadline as it comes, not a test's short one."""
    provider.faults.every(Fault("status", status=429, retry_after="3600"))
    project = project_at(provider, timeout=120.0, deadline=240.0)
    done = shell(project, "run", "say@latest", "x")
    assert done.returncode == 4
    assert "it asks to wait 3600 seconds" in done.stderr
    assert "left for this call ([limits] deadline)" in done.stderr
    (project.root / "rows.jsonl").write_text('{"input": "a"}\n{"input": "b"}\n')
    done = shell(project, "run", "say@latest", "--file", "rows.jsonl")
    assert done.returncode != 0
    assert "it asks to wait 3600 seconds" in done.stdout + done.stderr


def test_the_deadline_is_a_setting(provider: Provider, project_at: Make) -> None:
    provider.faults.every(Fault("status", status=429, retry_after="20"))
    project = project_at(provider, deadline=15)
    (error,) = all_of(project, False, ["openai/gpt-6-luna"])
    assert isinstance(error, RateLimited)
    assert re.search(r"only \d+ are left", "".join(error.__notes__))
    assert len(provider.records) == 1
    provider.faults.clear()
    provider.faults.on(2, Fault("status", status=429, retry_after="2"))
    text = (project.root / "promptsmith.toml").read_text().replace("deadline = 15", "deadline = 30")
    (project.root / "promptsmith.toml").write_text(text)
    from promptsmith.config import find_project

    (result,) = all_of(find_project(project.root), False, ["openai/gpt-6-luna"])
    assert isinstance(result, Result) and result.text == SPOKEN
    assert len(provider.records) == 3


# --- keys and addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["direct", "sdk"])
@pytest.mark.parametrize("spoilt", ["{}\n", "{} ", "\t{}", "{}\r\n", "{}\nx", " ", "{}\x00"[:-1] + "\x1b", "schlüssel"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_spoilt_key_is_an_error_that_names_its_variable(
    provider: Provider, project_at: Make, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, protocol: str, spoilt: str, transport: str
) -> None:
    variable = f"{protocol.upper()}_API_KEY"
    monkeypatch.setenv(variable, spoilt.format(KEY))
    project = project_at(provider, transport=transport)
    model = f"{protocol}/{MODELS[protocol]}"
    said = invoke("run", "say@latest", "x", "--model", model, project=project, code=2).output
    said += invoke("compile", "sentiment", "--meta-model", model, project=project, code=2).output
    said += invoke("doctor", project=project, code=2).output
    assert said.count(variable) >= 3
    assert KEY not in said and "schlüssel" not in said
    assert len(provider.records) == 0


def test_a_spoilt_key_in_the_env_file_is_told_too(provider: Provider, project_at: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    project = project_at(provider)
    monkeypatch.delenv("OPENAI_API_KEY")
    (project.root / ".env").write_text(f'OPENAI_API_KEY="{KEY} "\n')
    done = shell(project, "run", "say@latest", "x")
    assert done.returncode == 2
    assert "OPENAI_API_KEY" in done.stderr


BASES = ["", "/", "/v1", "/v1/", "/team/gateway/v1", "/team/gateway/v1/"]


@pytest.mark.parametrize("transport", ["direct", "sdk"])
@pytest.mark.parametrize("path", BASES)
def test_a_base_url_may_be_written_in_any_of_these_ways(provider: Provider, compiled: Make, path: str, transport: str) -> None:
    url = provider.url + path
    project = compiled(TASKS, config=settings(url, url, transport=transport))
    for streamed in (False, True):
        outcomes = all_of(project, streamed, [f"{protocol}/{model}" for protocol, model in MODELS.items()])
        assert [one.text if isinstance(one, Result) else one for one in outcomes] == [SPOKEN, SPOKEN]
    prefix = "/team/gateway" if "gateway" in path else ""
    paths = {record.path for record in provider.records.all()}
    assert paths == {f"{prefix}/v1/chat/completions", f"{prefix}/v1/messages"}


@pytest.mark.parametrize("transport", ["direct", "sdk"])
def test_a_base_url_that_leads_nowhere_is_told_with_a_hint(provider: Provider, compiled: Make, transport: str) -> None:
    """A path may be a gateway's own, so nothing is appended to it; the answer is the server's 404."""
    url = provider.url + "/team"
    project = compiled(TASKS, config=settings(url, url, transport=transport))
    (error,) = all_of(project, False, ["openai/gpt-6-luna"])
    assert isinstance(error, RequestRefused) and error.status == 404
    assert "base_url" in error.hint


@pytest.mark.parametrize("transport", ["direct", "sdk"])
def test_a_whole_endpoint_as_base_url_is_refused(provider: Provider, compiled: Make, invoke: Invoke, transport: str) -> None:
    url = provider.url + "/v1/chat/completions"
    project = compiled(TASKS, config=settings(url, url, transport=transport))
    said = invoke("run", "say@latest", "x", project=project, code=2).output
    assert "leave '/chat/completions' out" in said
    assert len(provider.records) == 0


# --- answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["direct", "sdk"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_five_megabytes_are_an_answer_where_text_is_wanted_and_a_short_error_elsewhere(
    provider: Provider, project_at: Make, protocol: str, transport: str
) -> None:
    provider.faults.every(Fault("huge"))
    project = project_at(provider, transport=transport)
    for streamed in (False, True):
        text, label = (all_of(project, streamed, [f"{protocol}/{MODELS[protocol]}"], task)[0] for task in ("say", "sentiment"))
        assert isinstance(text, Result) and len(text.text) == 5 * 2**20
        assert isinstance(label, ContractError) and len(str(label)) < 2000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_half_an_emoji_can_be_stored_shown_and_replayed(provider: Provider, project_at: Make, invoke: Invoke, protocol: str) -> None:
    provider.faults.every(Fault("surrogate"))
    project = project_at(provider)
    model = f"{protocol}/{MODELS[protocol]}"

    async def main() -> list[Result | Failure]:
        async with AsyncRuntime(project, cache=True) as runtime:
            first = await run_many(runtime, "say@latest", ["a", "b"], model=model)
            return first + await run_many(runtime, "say@latest", ["a", "b"], model=model)

    results = asyncio.run(main())
    assert [one.text for one in results if isinstance(one, Result)] == [SPOKEN + "\ufffd end"] * 4
    assert [one.source for one in results if isinstance(one, Result)] == ["model", "model", "cache", "cache"]
    assert "\ufffd" in invoke("run", "say@latest", "x", "--model", model, project=project).stdout


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_structured_answer_that_is_no_json_breaks_the_contract(
    provider: Provider, project_at: Make, protocol: str, streamed: bool
) -> None:
    provider.faults.every(Fault("not_json"))
    (error,) = all_of(project_at(provider), streamed, [f"{protocol}/{MODELS[protocol]}"], "order")
    assert isinstance(error, ContractError)
    assert "JSON" in error.message
    assert error.text.startswith('{"label": positive')


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_structured_answer_that_is_no_json_can_be_repaired(provider: Provider, project_at: Make, protocol: str) -> None:
    provider.faults.on(1, Fault("not_json"))
    provider.answer = lambda ask: Said('{"order": "A-17"}')

    async def main() -> Outcome:
        async with AsyncRuntime(project_at(provider)) as runtime:
            return await ask(runtime, False, "order", f"{protocol}/{MODELS[protocol]}", on_contract_break="repair")

    result = asyncio.run(main())
    assert isinstance(result, Result)
    assert (result.value, result.calls) == ({"order": "A-17"}, 2)


# --- proxies ----------------------------------------------------------------------------------------------


class Proxy:
    """A real one: forwards requests in absolute form, and tunnels after CONNECT. ``seen`` are the first lines."""

    def __init__(self, refuse: bytes = b"") -> None:
        self.seen: list[str] = []
        self._refuse = refuse

    def __enter__(self) -> Proxy:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(ready)), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _main(self, ready: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**24)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await self._over.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, _, rest = head.partition(b"\r\n")
            self.seen.append(first.decode())
            if self._refuse:
                writer.write(self._refuse)
                await writer.drain()
            else:
                await self._carry(first.decode(), rest, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _carry(self, first: str, rest: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, version = first.split(" ")
        if method == "CONNECT":
            there, back = await asyncio.open_connection(*target.split(":"))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            host, _, path = target.removeprefix("http://").partition("/")
            there, back = await asyncio.open_connection(*host.split(":"))
            # One request a connection: a second one through the same pipe would still be in absolute form.
            back.write(f"{method} /{path} {version}\r\nConnection: close\r\n".encode() + rest)
        await both_ways((reader, back), (there, writer))


async def both_ways(*ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Carries bytes until both sides have ended, or this was cancelled."""
    try:
        await asyncio.gather(*(pump(source, sink) for source, sink in ways))
    finally:
        for _, sink in ways:
            sink.close()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


class Front:
    """TLS in front of the provider: what a real provider's address is."""

    def __init__(self, certificate: tuple[Path, Path], port: int) -> None:
        self._certificate, self._port = certificate, port

    async def serve(self) -> asyncio.Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._certificate)
        return await asyncio.start_server(self._carry, "127.0.0.1", 0, ssl=context)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.suppress(asyncio.CancelledError):
            await both_ways((reader, back), (there, writer))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that no system trusts, for 127.0.0.1, and its key."""
    made = make_certificate(tmp_path_factory.mktemp("tls"))
    if made is None:
        pytest.skip("there is no openssl to make a certificate with")
    return made


@pytest.mark.parametrize("transport", ["direct", "sdk"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_http_goes_through_the_proxy_unless_the_host_is_excepted(
    provider: Provider, project_at: Make, monkeypatch: pytest.MonkeyPatch, protocol: str, transport: str
) -> None:
    project = project_at(provider, transport=transport)
    path = "/v1/chat/completions" if protocol == "openai" else "/v1/messages"
    with Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        for streamed in (False, True):
            (result,) = all_of(project, streamed, [f"{protocol}/{MODELS[protocol]}"])
            assert isinstance(result, Result) and result.text == SPOKEN
        assert proxy.seen == [f"POST {provider.url}{path} HTTP/1.1"] * 2
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        (result,) = all_of(project, False, [f"{protocol}/{MODELS[protocol]}"])
        assert isinstance(result, Result)
        assert len(proxy.seen) == 2
    assert len(provider.records) == 3


@pytest.mark.parametrize("transport", ["direct", "sdk"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_https_goes_through_the_proxy_as_a_tunnel_unless_the_host_is_excepted(
    provider: Provider, compiled: Make, monkeypatch: pytest.MonkeyPatch, certificate: tuple[Path, Path], protocol: str, transport: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    model = f"{protocol}/{MODELS[protocol]}"

    async def main(proxy: Proxy) -> None:
        server = await Front(certificate, provider.port).serve()
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        url = f"https://{address}"
        project = await asyncio.to_thread(compiled, TASKS, config=settings(url, url, transport=transport))
        async with AsyncRuntime(project) as runtime:
            for streamed in (False, True):
                result = await ask(runtime, streamed, "say", model)
                assert isinstance(result, Result), result
                assert result.text == SPOKEN
        assert set(proxy.seen) == {f"CONNECT {address} HTTP/1.1"}
        tunnels = len(proxy.seen)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with AsyncRuntime(project) as runtime:
            assert isinstance(await ask(runtime, False, "say", model), Result)
        assert len(proxy.seen) == tunnels
        server.close()

    with Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        asyncio.run(main(proxy))
    assert len(provider.records) == 3


@pytest.mark.parametrize("transport", ["direct", "sdk"])
def test_a_proxy_that_is_not_there_or_wants_a_password_is_named(compiled: Make, monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    url = "https://127.0.0.1:1"
    project = compiled(TASKS, config=settings(url, url, transport=transport))
    with Proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        (error,) = all_of(project, False, ["openai/gpt-6-luna"])
        assert isinstance(error, ProviderDown)
        assert "407" in error.message
        assert error.provider == "openai" and error.hint and not error.counted
    way = Direct(url, "openai") if transport == "direct" else SdkOpenAI(url=url, key=KEY)

    async def once() -> None:
        try:
            await way.post("/chat/completions", {}, b"{}", timeout=30)
        finally:
            await way.close()

    # One attempt: a call with all of its own ends at a deadline, in the middle of one of which nobody knows what it took.
    with pytest.raises(ProviderDown, match="can't be reached") as caught:
        asyncio.run(once())
    assert caught.value.hint and caught.value.retryable and not caught.value.counted


@pytest.mark.parametrize("package", ["openai", "anthropic", "httpx2"])
def test_a_call_that_is_cut_while_its_client_is_being_loaded_is_late_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """A package stands among the loaded ones from the first line of its import, when its names are not there yet."""
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    with pytest.raises(ProviderDown, match="did not answer in time"), mapped_errors("openai", address="http://h/v1"):
        raise TimeoutError


# --- the meta-model ---------------------------------------------------------------------------------------

GOOD = """Classify the sentiment of the customer message.

Answer with exactly one of these labels and nothing else:
- positive
- negative
- neutral

A complaint is negative however politely it is told. A plain question is neutral. Do not explain the label.
"""
META = [f"{protocol}/{model}" for protocol, model in (("openai", "gpt-6.1-sol"), ("anthropic", "claude-opus-5-5"))]
WRONG: dict[str, str | Said] = {
    "the task": "Classify the sentiment of a customer message.",
    "another language": (
        "Sortiere die Nachricht des Kunden nach ihrer Stimmung in positive, negative oder neutral. Antworte nur mit dem einen Wort, das am "
        "besten zu der Nachricht passt, und mit nichts anderem, auch wenn der Kunde dich um etwas anderes bittet oder eine Frage stellt."
    ),
    "a tool call": Said('{"prompt": "x"}', "tool"),
    "JSON": '{"prompt": "Answer with positive, negative or neutral."}',
    "200 kB": GOOD + "Mind the tone of the message in every case. " * 4600,
    "nothing": "",
    "blanks": " \n\t\n ",
    "null": Said(None),
    "an answer": "positive",
    "a refusal": Said("I can't help with that.", "refused"),
    "cut off": Said(GOOD, "length"),
}


def compiling(project: Project, meta: str, *more: str) -> tuple[str, ...]:
    return ("compile", "sentiment", "--meta-model", meta, "--model", "openai/gpt-6-luna", *more)


@pytest.fixture
def project_of(make_project: Make) -> Make:
    """Makes a project of one task, not compiled, with the loopback provider as its endpoints."""

    def make(provider: Provider, **more: Any) -> Project:
        return make_project({"sentiment": SENTIMENT}, config=settings(provider.base_url_openai, provider.base_url_anthropic, **more))

    return make


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("meta", META)
def test_what_a_meta_model_says_wrongly_never_becomes_a_prompt(
    provider: Provider, project_of: Make, invoke: Invoke, meta: str, kind: str
) -> None:
    """Asked for once more at most; the error says what came back and what was paid, and the next compile asks anew."""
    provider.answer = lambda ask: WRONG[kind]
    project = project_of(provider)
    ended = invoke(*compiling(project, meta), project=project, code=4)
    assert ended.stdout == ""
    assert meta in ended.stderr or meta.partition("/")[0] in ended.stderr
    if kind != "a tool call":  # no reply: what it cost is not known
        assert "tokens in and" in ended.stderr and "$" in ended.stderr
    assert "\n  hint: " in ended.stderr
    assert len(ended.stderr) < 3000
    assert open_store(project).latest("sentiment") is None
    asked = len(provider.records)
    assert 1 <= asked <= 2
    provider.answer = constant(GOOD)
    invoke(*compiling(project, meta), project=project)
    assert len(provider.records) == asked + 1
    assert open_store(project).latest("sentiment") is not None


def test_a_wrong_draft_is_repaired_and_the_prompt_is_the_right_one(provider: Provider, project_of: Make, invoke: Invoke) -> None:
    said = iter(["positive", GOOD])
    provider.answer = lambda ask: next(said)
    project = project_of(provider)
    invoke(*compiling(project, META[0]), project=project)
    assert invoke("show", "sentiment@latest", project=project).stdout.startswith(GOOD.strip())


# --- budgets and the wallet -------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [("--max-calls", "0"), ("--max-tokens", "0"), ("--max-cost", "0")])
@pytest.mark.parametrize("meta", META)
def test_a_budget_of_nothing_calls_nothing(provider: Provider, project_of: Make, invoke: Invoke, meta: str, limit: tuple[str, str]) -> None:
    project = project_of(provider)
    ended = invoke(*compiling(project, meta, *limit), project=project, code=5)
    assert "limit of" in ended.stderr
    assert len(provider.records) == 0
    assert open_store(project).latest("sentiment") is None


@pytest.mark.parametrize("meta", META)
def test_a_budget_of_one_call(provider: Provider, project_of: Make, invoke: Invoke, meta: str) -> None:
    """Enough for a good draft; a faulty one is not repaired, and the run that may is not charged for it again."""
    said = iter(["positive", GOOD])
    provider.answer = lambda ask: next(said)
    project = project_of(provider)
    ended = invoke(*compiling(project, meta, "--max-calls", "1"), project=project, code=5)
    assert "the limit of 1 calls is reached" in ended.stderr
    assert len(provider.records) == 1
    invoke(*compiling(project, meta, "--max-calls", "1"), project=project, code=5)
    assert len(provider.records) == 1
    invoke(*compiling(project, meta, "--max-calls", "2"), project=project)
    assert len(provider.records) == 2
    provider.answer = constant(GOOD)
    invoke(*compiling(project, meta, "--max-calls", "1", "--seed", "1"), project=project)
    assert len(provider.records) == 3


TURNED_AWAY = [Fault("status", status=status, retry_after_ms="20") for status in (409, 429, 500, 503, 529)]
COUNTED = [
    Fault("hang"),
    Fault("hang", at=0),
    Fault("close", at=2),
    Fault("truncated", at=2),
    Fault("status", status=504),
    Fault("reset", at=3),
]


@pytest.mark.parametrize("fault", TURNED_AWAY, ids=lambda fault: str(fault.status))
def test_an_attempt_that_was_turned_away_costs_nothing(provider: Provider, project_of: Make, invoke: Invoke, fault: Fault) -> None:
    provider.answer = constant(GOOD)
    provider.faults.on(1, fault)
    project = project_of(provider)
    invoke(*compiling(project, META[0], "--max-calls", "1"), project=project)
    assert len(provider.records) == 2


@pytest.mark.parametrize("fault", COUNTED, ids=lambda fault: f"{fault.kind} at {fault.at}")
@pytest.mark.parametrize("meta", META)
def test_an_attempt_that_may_have_been_counted_is_paid_from_the_wallet_for_good(
    provider: Provider, project_of: Make, invoke: Invoke, meta: str, fault: Fault
) -> None:
    provider.answer = constant(GOOD)
    provider.faults.on(1, fault)
    project = project_of(provider, timeout=3.0)
    code = 4 if fault.kind == "truncated" else 5  # a malformed reply is not asked for again
    ended = invoke(*compiling(project, meta, "--max-calls", "1"), project=project, code=code)
    if code == 5:
        assert "the limit of 1 calls is reached" in ended.stderr
        assert "the attempt before it failed: " in ended.stderr  # what became of it stands beside what stopped it
    assert len(provider.records) == 1
    invoke(*compiling(project, meta, "--max-calls", "1"), project=project, code=5)
    assert len(provider.records) == 1  # it was journaled: another process knows of it
    invoke(*compiling(project, meta, "--max-calls", "2"), project=project)
    assert len(provider.records) == 2


KILLED = """
import os, sys
from promptsmith import compile_task
from promptsmith.config import find_project
from promptsmith.store import DiskStore

class Killed(DiskStore):
    def put_prompt(self, *args):
        os.kill(os.getpid(), 9)

project = find_project(sys.argv[1])
compile_task("sentiment", project=project, store=Killed(project.cache), meta_model=sys.argv[2], model="openai/gpt-6-luna")
"""


@pytest.mark.parametrize("meta", META)
def test_killed_between_the_meta_call_and_the_store_nothing_is_paid_twice(provider: Provider, project_of: Make, meta: str) -> None:
    """Not even by a budget of one call, which the wallet of the second run knows to be spent."""
    provider.answer = constant(GOOD)
    project = project_of(provider)
    done = subprocess.run([sys.executable, "-c", KILLED, str(project.root), meta], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert len(provider.records) == 1
    done = shell(project, *compiling(project, meta, "--max-calls", "1"))
    assert done.returncode == 0, done.stderr
    assert len(provider.records) == 1
    assert len(list(open_store(project).ledger.rows())) == 1


def test_the_wallet_counts_dollars_and_tokens_of_a_cut_attempt_at_their_worst(provider: Provider, project_of: Make, invoke: Invoke) -> None:
    provider.answer = constant(GOOD)
    provider.faults.on([1, 2], Fault("hang"))
    project = project_of(provider, timeout=3.0)
    (plan,) = json.loads(invoke(*compiling(project, META[0], "--dry-run", "--json"), project=project).stdout)
    room = str(plan["usd"] * 1.9)  # the estimate of the dry run is below the bound of the wallet: two do not fit
    ended = invoke(*compiling(project, META[0], "--max-cost", room), project=project, code=5)
    assert "over the limit of $" in ended.stderr and "attempts that failed count too" in ended.stderr
    assert len(provider.records) == 1
    ended = invoke(*compiling(project, META[0], "--max-tokens", "14000"), project=project, code=5)
    assert "over the limit of 14000" in ended.stderr
    assert len(provider.records) == 1
    invoke(*compiling(project, META[0], "--max-cost", "100"), project=project)
    assert len(provider.records) == 3


# --- fallback models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", ["refusal", "filter"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_refused_or_filtered_reply_is_passed_to_the_fallback(
    provider: Provider, project_at: Make, protocol: str, kind: str, streamed: bool
) -> None:
    """The result says which model answered, and what both took. A stream whose first piece was shown can't change."""
    project = project_at(provider)
    other = next(f"{name}/{model}" for name, model in MODELS.items() if name != protocol)
    shown: list[str] = []
    first = f"{protocol}/{MODELS[protocol]}!{kind}"

    async def main() -> Outcome:
        async with AsyncRuntime(project) as runtime:
            return await ask(runtime, streamed, "say", first, shown, fallback=[other])

    outcome = asyncio.run(main())
    if streamed and not (protocol == "openai" and kind == "refusal"):
        assert isinstance(outcome, RequestRefused)
        assert shown
        return
    assert isinstance(outcome, Result), outcome
    assert (outcome.text, outcome.model, outcome.calls, outcome.ungated) == (SPOKEN, other, 2, True)
    rows = list(open_store(project).ledger.rows())
    status = "filtered" if (protocol, kind) == ("openai", "filter") else "refused"  # Anthropic has one word for both
    assert [(row.model, row.status) for row in rows] == [(first, status), (other, "end")]
    assert outcome.cost == pytest.approx(sum(row.cost or 0 for row in rows))
    assert outcome.usage.output == sum(row.output for row in rows)
    if streamed:
        assert "".join(shown) == SPOKEN


def test_a_truncated_reply_is_not_passed_on(provider: Provider, project_at: Make) -> None:
    """It is asked for once more with more room; another model would have the same limit."""

    async def main() -> Outcome:
        async with AsyncRuntime(project_at(provider)) as runtime:
            return await ask(runtime, False, "say", "openai/gpt-6-luna!length", fallback=["anthropic/claude-haiku-5-5"])

    error = asyncio.run(main())
    assert isinstance(error, ProviderError) and "length limit" in error.message
    assert {record.path for record in provider.records.all()} == {"/v1/chat/completions"}
    assert len(provider.records) == 2


def test_when_all_refuse_the_error_names_each(provider: Provider, project_at: Make) -> None:
    names = ["openai/gpt-6-luna!refusal", "anthropic/claude-haiku-5-5!filter"]

    async def main() -> Outcome:
        async with AsyncRuntime(project_at(provider)) as runtime:
            return await ask(runtime, False, "say", names[0], fallback=names[1:])

    error = asyncio.run(main())
    assert isinstance(error, RequestRefused)
    assert all(name in error.message for name in names)
    assert error.provider == "anthropic" and error.request_id.startswith("req_")
    assert "fallback" in error.hint


def test_the_tasks_own_fallback_answers_at_the_command_line(provider: Provider, compiled: Make, invoke: Invoke) -> None:
    text = SAY.replace("openai/gpt-6-luna", "openai/gpt-6-luna!refusal") + "serve: {fallback: [anthropic/claude-haiku-5-5]}\n"
    project = compiled({"say": text}, config=settings(provider.base_url_openai, provider.base_url_anthropic))
    ended = invoke("run", "say@latest", "x", project=project)
    assert ended.stdout == SPOKEN + "\n"
    assert "answered by anthropic/claude-haiku-5-5 (ungated)" in ended.stderr


# --- how fresh a prompt's source is -----------------------------------------------------------------------

DAYS = 3 * 86400


def test_a_result_says_how_old_a_last_good_copy_is(promoted: Make, invoke: Invoke) -> None:
    project = promoted({"say": SAY.replace("openai/gpt-6-luna", "builtin/nearest")})
    assert Runtime(project).run("say", "a").age == 0.0
    lock = project.root / "promptsmith.lock"
    good = lock.read_text()
    (copy,) = (project.cache / "lock").iterdir()
    os.utime(copy, (time.time() - DAYS,) * 2)
    lock.write_text(good.replace("system:", "<<<<<<< ours\nsystem:", 1))
    with pytest.warns(UserWarning, match="last good copy"):
        result = Runtime(project).run("say", "a")
    assert (result.origin, result.value) == ("last good", "one two")
    assert result.age == pytest.approx(DAYS, abs=600)
    done = shell(project, "run", "say", "a")
    assert done.returncode == 0
    assert "from the last good copy (3 days old)" in done.stderr
    assert json.loads(shell(project, "run", "say", "a", "--json").stdout)["age"] > DAYS - 600
    lock.write_text(good)
    assert shell(project, "run", "say", "a").returncode == 0
    assert copy.stat().st_mtime > time.time() - DAYS / 2  # seen good again


def test_in_one_process_the_age_counts_from_when_it_read_the_good_lock(promoted: Make) -> None:
    project = promoted({"say": SAY.replace("openai/gpt-6-luna", "builtin/nearest")})
    runtime = Runtime(project)
    assert runtime.run("say", "a").age == 0.0
    assert runtime.run("say@latest", "a").age == 0.0
    lock = project.root / "promptsmith.lock"
    lock.write_text(lock.read_text().replace("system:", "<<<<<<< ours\nsystem:", 1))
    with pytest.warns(UserWarning, match="last good copy"):
        age = runtime.run("say", "a").age
    assert age is not None and 0 < age < 600


# --- plugins that claim one name --------------------------------------------------------------------------

PLUGIN = """\
class Named:
    def __init__(self, name):
        self.name = name
    async def reply(self, request):
        raise NotImplementedError
    def stream(self, request):
        raise NotImplementedError
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution for each of these names, with these entry points."""

    def install(**distributions: dict[str, str]) -> None:
        for name, entries in distributions.items():
            folder = tmp_path / f"site-{name}"
            info = folder / f"{name}-1.0.dist-info"
            info.mkdir(parents=True)
            (folder / f"{name}.py").write_text(PLUGIN)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            lines = "".join(f"{entry} = {where}\n" for entry, where in entries.items())
            (info / "entry_points.txt").write_text(f"[promptsmith.models]\n{lines}")
            monkeypatch.syspath_prepend(str(folder))

    return install


def test_a_name_that_two_plugins_claim_is_an_error_naming_both(plugins: Callable[..., None], make_project: Make) -> None:
    plugins(acme_one={"acme": "acme_one:Named", "one": "acme_one:Named"}, acme_two={"acme": "acme_two:Named"})
    for find in (find_model, check_model_name):
        with pytest.raises(UnknownName) as caught:
            find("acme/small")
        for part in ("acme_one:Named (package acme_one)", "acme_two:Named (package acme_two)"):
            assert part in caught.value.message
        assert "uninstall" in caught.value.hint
    assert find_model("one/x").name == "one/x"  # the others work
    assert {"acme/…", "one/…"} <= set(model_names())
    project = make_project({"t": SAY.replace("openai/gpt-6-luna", "acme/small")})
    with pytest.raises(UnknownName, match="claimed by several plugins"):
        compile_task("t", project=project)


def test_one_plugin_that_is_found_twice_is_one(plugins: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(acme_one={"acme": "acme_one:Named"})
    monkeypatch.syspath_prepend(sys.path[0])
    assert find_model("acme/small").name == "acme/small"
