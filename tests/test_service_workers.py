"""Several workers on one port: seen and told alike, killed and replaced, reloaded, drained; canaries and shadows over all of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from aiohttp import ClientSession

import promptsmith
from promptsmith.config import Project
from promptsmith.prompt import Prompt
from promptsmith.registry.canaries import CanaryFile
from promptsmith.service.http import Limits, Server
from promptsmith.service.logs import Log
from promptsmith.service.worker import Worker
from promptsmith.store.layout import CANARIES

from .provider import KEY, Fault, Provider, Settings, constant
from .serving import (
    OPENAI,
    SECONDS,
    SENTIMENT,
    Answer,
    Serving,
    eventually,
    kept_or_broken,
    made,
    project_at,
    promote,
    reload,
    serving,
    settings_of,
)

CHAT = "/v1/chat/completions"
ROUNDS = 24
"""Fresh connections that the kernel spreads over two workers: that all go to one has a chance of 2 in 2^24."""


def near(task: str = "sentiment", mark: str = "") -> Prompt:
    """A prompt that is answered without a provider."""
    return made(task, "builtin/nearest", SENTIMENT, mark=mark)


@pytest.fixture(scope="module")
def service(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    project = project_at(tmp_path_factory.mktemp("workers"), settings_of(provider), near(), made("plain"))
    with serving(project, "--workers", "2") as running:
        yield running


def spread(call: Callable[[], Answer], rounds: int = ROUNDS) -> list[Answer]:
    return [call() for _ in range(rounds)]


def command(project: Project, *arguments: str, code: int = 0) -> str:
    """What a command in another process writes to stdout."""
    ended = subprocess.run(
        [sys.executable, "-m", "promptsmith", *arguments], cwd=project.root, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert ended.returncode == code, ended
    return ended.stdout


# --- one port ---------------------------------------------------------------------------------------------


def connections(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(entry).startswith("socket:")
    return found


def test_both_workers_answer_at_one_port(service: Serving) -> None:
    workers = service.workers()
    assert len(workers) == 2
    before = {pid: connections(pid) for pid in workers}
    with contextlib.ExitStack() as stack:
        for _ in range(ROUNDS):
            line = stack.enter_context(contextlib.closing(http.client.HTTPConnection(service.host, service.port, timeout=SECONDS)))
            line.request("POST", "/v1/run/sentiment", b'{"input": "It broke after a day."}')
            assert json.loads(line.getresponse().read())["value"] == "negative"
        taken = {pid: connections(pid) - before[pid] for pid in workers}
    assert sum(taken.values()) == ROUNDS
    assert min(taken.values()) > 0
    assert re.search(r"(?m)^promptsmith_workers 2(\.0)?$", service.call("GET", "/metrics").body.decode())


def test_figures_are_those_of_all_workers(service: Serving) -> None:
    def counted() -> float:
        page = service.call("GET", "/metrics").body.decode()
        return sum(float(row.rpartition(" ")[2]) for row in page.splitlines() if row.startswith('promptsmith_requests_total{task="plain"'))

    before = counted()
    spread(lambda: service.chat("plain"))
    assert {counted() for _ in range(ROUNDS)} == {before + ROUNDS}


def test_a_promotion_is_seen_by_every_worker_at_its_next_request(service: Serving) -> None:
    first, second = near(), near(mark="the second")
    for prompt in (second, first) * 6:
        promote(service.project, prompt)  # in this process, which is none of the service's
        seen = {one.headers["x-promptsmith-prompt"] for one in spread(lambda: service.run("sentiment", input="a"), 8)}
        assert seen == {prompt.id}
        assert service.call("GET", "/v1/models/sentiment").json["prompt"] == prompt.id


def test_a_promotion_is_seen_on_connections_that_are_open(service: Serving) -> None:
    lines = [http.client.HTTPConnection(service.host, service.port, timeout=SECONDS) for _ in range(8)]
    try:
        for prompt in (near(mark="one"), near(mark="two"), near()):
            promote(service.project, prompt)
            for line in lines:
                line.request("POST", "/v1/run/sentiment", b'{"input": "a"}')
                response = line.getresponse()
                response.read()
                assert response.headers["x-promptsmith-prompt"] == prompt.id
    finally:
        for line in lines:
            line.close()


# --- killed -----------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_no_finished_call_is_lost(tmp_path: Path, provider: Provider) -> None:
    project = project_at(tmp_path / "killed", settings_of(provider), near(), made("plain"))
    with serving(project, "--workers", "2") as service:
        finished: Counter[str] = Counter()
        failed: list[Exception] = []
        enough = threading.Event()

        def call(task: str, *, stream: bool) -> None:
            while not enough.is_set():
                try:
                    got = service.chat(task, "It broke after a day.", stream=stream)
                except (OSError, http.client.HTTPException) as error:  # a call on the worker that was killed
                    failed.append(error)
                    continue
                assert got.status == 200
                if not stream or got.data[-1] == "[DONE]":
                    finished[task] += 1

        threads = [
            threading.Thread(target=call, args=(task,), kwargs={"stream": stream})
            for task in ("plain", "sentiment")
            for stream in (False, True)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                seen = sum(finished.values())
                eventually(lambda seen=seen: sum(finished.values()) > seen + 40, "calls go on")  # type: ignore[misc]
                old = service.workers()
                os.kill(old[0], signal.SIGKILL)
                eventually(lambda old=old: len(set(service.workers()) - set(old)) == 1 and len(service.workers()) == 2, "a new one")  # type: ignore[misc]
        finally:
            enough.set()
            for thread in threads:
                thread.join(SECONDS)
        kept = Counter(row.task for row in service.ledger() if row.status == "end")
        for task in ("plain", "sentiment"):
            assert kept[task] >= finished[task] > 0, "a finished call is in the ledger"
            assert kept[task] <= finished[task] + len(failed) + len(threads), "and none twice"
        told = [line["error"] for line in service.log() if line["event"] == "trouble"]
        assert len(told) == 2
        assert all("SIGKILL" in one for one in told)
        assert {one.status for one in spread(lambda: service.run("sentiment", input="a"))} == {200}
        assert service.stop() == 0


def test_workers_end_when_their_parent_is_killed(tmp_path: Path, provider: Provider) -> None:
    project = project_at(tmp_path / "orphans", settings_of(provider), near())
    with serving(project, "--workers", "2") as service:
        workers = service.workers()
        service.process.kill()
        eventually(lambda: not any(alive(pid) for pid in workers), "the workers end by themselves")
        with pytest.raises(ConnectionError):
            socket.create_connection((service.host, service.port), timeout=SECONDS)


def test_workers_without_a_parent_finish_what_they_have_and_no_more(tmp_path: Path) -> None:
    with Slow(tmp_path / "orphans", "--workers", "2", pieces=40) as slow:
        _, response = slow.begun()
        workers = slow.service.workers()
        slow.service.process.kill()
        eventually(slow.refuses, "nobody listens any more")
        began, before = time.monotonic(), sum(computed(pid) for pid in workers)
        for _ in range(10):
            assert response.readline()
        # The end of a pipe can be read again and again, for as long as nobody looks away.
        assert sum(computed(pid) for pid in workers) - before < 0.5 * (time.monotonic() - began)
        assert response.read().endswith(b"data: [DONE]\n\n")


def computed(pid: int) -> float:
    """Seconds of CPU that a process took; 0 for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- told to end ------------------------------------------------------------------------------------------


class Slow:
    """A service whose streams take their time: a piece of four letters every 0.15 seconds."""

    def __init__(self, root: Path, *options: str, service: str = "", pieces: int = 10) -> None:
        self._stack = contextlib.ExitStack()
        pace = Settings(pace=0.15, piece=4)
        provider = self._stack.enter_context(Provider(constant("one " * pieces), settings=pace))
        project = project_at(root, settings_of(provider, service=service), made("slow", parameters={"max_tokens": 1000}), near())
        self.service = self._stack.enter_context(serving(project, *options))

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begun(self) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """A stream whose first event has come."""
        line = http.client.HTTPConnection(self.service.host, self.service.port, timeout=SECONDS)
        self._stack.callback(line.close)
        body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "a"}]}
        line.request("POST", CHAT, json.dumps(body).encode())
        response = line.getresponse()
        assert response.status == 200
        assert response.readline()
        return line, response

    def refuses(self) -> bool:
        try:
            socket.create_connection((self.service.host, self.service.port), timeout=SECONDS).close()
        except ConnectionError:
            return True
        return False


@pytest.mark.parametrize(("workers", "number"), [("1", signal.SIGTERM), ("2", signal.SIGTERM), ("2", signal.SIGINT)])
def test_what_is_under_way_is_finished_before_it_ends(tmp_path: Path, workers: str, number: int) -> None:
    """Told twice, as a terminal and a parent do; nobody else is let in any more."""
    with Slow(tmp_path / "drained", "--workers", workers) as slow:
        streams = [slow.begun()[1] for _ in range(3)]
        slow.service.process.send_signal(number)
        eventually(slow.refuses, "new connections are refused")
        slow.service.process.send_signal(number)
        for response in streams:
            rest = response.read()
            assert rest.endswith(b"data: [DONE]\n\n")
            assert b'"finish_reason":"stop"' in rest.replace(b" ", b"")
        assert slow.service.process.wait(SECONDS) == 0
        assert slow.service.trouble() == []
        assert slow.service.told("draining") == slow.service.told("stopped") == int(workers)
        assert sum(row.task == "slow" and row.status == "end" for row in slow.service.ledger()) == 3


def test_what_takes_too_long_is_cut_off_when_it_ends(tmp_path: Path) -> None:
    with Slow(tmp_path / "cut", service="drain_seconds = 0.1\n", pieces=200) as slow:
        _, response = slow.begun()
        assert slow.service.stop() == 0
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            assert b"[DONE]" not in response.read()
        assert [line["cut_off"] for line in slow.service.log() if line["event"] == "stopped"] == [1]


def test_a_connection_that_waits_for_its_next_request_does_not_hold_up_the_end(
    service: Serving, tmp_path: Path, provider: Provider
) -> None:
    project = project_at(tmp_path / "idle", settings_of(provider, service="drain_seconds = 3600\n"), near())
    with serving(project) as running, contextlib.ExitStack() as stack:
        for _ in range(3):
            line = stack.enter_context(contextlib.closing(http.client.HTTPConnection(running.host, running.port, timeout=SECONDS)))
            line.request("GET", "/healthz")
            line.getresponse().read()
        stack.enter_context(socket.create_connection((running.host, running.port)))
        assert running.stop() == 0


# --- told to read its settings again ----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_settings_are_read_again(tmp_path: Path, provider: Provider, workers: int) -> None:
    toml = settings_of(provider, service='client_system = "refuse"\n')
    project = project_at(tmp_path / "again", toml, made("plain"))
    file = project.root / "promptsmith.toml"

    def statuses() -> set[int]:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
        return {one.status for one in spread(lambda: service.call("POST", CHAT, {"model": "plain", "messages": messages}))}

    with serving(project, "--workers", str(workers)) as service:
        assert statuses() == {400}
        file.write_text(toml.replace('"refuse"', '"append"'))
        assert statuses() == {400}, "not before it is told to"
        reload(service)
        assert statuses() == {200}
        file.write_text(toml.replace('"refuse"', '"ignore"'))
        reload(service, "trouble")
        assert statuses() == {200}, "broken settings leave the old ones in force"
        told = [line for line in service.log() if line["event"] == "trouble"]
        assert len(told) == workers
        for line in told:
            assert "promptsmith.toml:2" in line["error"]
            assert "client_system" in line["error"]
        if workers == 2:
            for pid in service.workers():
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: service.told("trouble") == 2 * workers, "the parent has seen that they are gone")
            eventually(lambda: len(service.workers()) == 2 and answers(service), "there are new ones")
            assert statuses() == {200}, "a new worker has the settings that were last read"
        file.write_text(toml)
        reload(service)
        assert statuses() == {400}
        assert service.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_settings_that_are_read_again_and_again_leave_nothing_open(tmp_path: Path, provider: Provider) -> None:
    with serving(project_at(tmp_path / "open", settings_of(provider), made("plain"))) as service:

        def open_after_a_reload() -> int:
            reload(service)
            with ThreadPoolExecutor(4) as threads:  # pages are made when first asked for, once
                found = list(threads.map(lambda _: service.call("GET", "/").status, range(4)))
            assert found == [200] * 4
            assert service.call("POST", CHAT, {"model": "plain", "messages": [{"role": "user", "content": "a"}]}).status == 200
            return len(os.listdir(f"/proc/{service.pid}/fd"))

        open_after_a_reload()
        least = min(open_after_a_reload() for _ in range(2))
        for _ in range(3):
            last = open_after_a_reload()
        eventually(lambda: len(os.listdir(f"/proc/{service.pid}/fd")) <= least + 1, f"as many descriptors as before: {least}, then {last}")


def answers(service: Serving) -> bool:
    try:
        return service.call("GET", "/healthz").status == 200
    except OSError:
        return False


def test_a_stream_that_is_under_way_outlives_new_settings(tmp_path: Path) -> None:
    with Slow(tmp_path / "through") as slow:
        _, response = slow.begun()
        reload(slow.service)
        assert slow.service.run("sentiment", input="a").status == 200
        assert response.read().endswith(b"data: [DONE]\n\n")
        assert slow.service.stop() == 0
        assert slow.service.trouble() == []


def test_a_stream_that_began_before_new_settings_is_cut_off_in_time_too(tmp_path: Path) -> None:
    with Slow(tmp_path / "cut", service="answer_seconds = 2\n", pieces=400) as slow:
        _, response = slow.begun()
        reload(slow.service)
        told = response.read()
        assert b'"error"' in told
        assert not told.endswith(b"data: [DONE]\n\n")
        assert slow.service.stop() == 0


# --- starting ---------------------------------------------------------------------------------------------


def refused(project: Project, *options: str) -> str:
    """What a service that can't start tells a person."""
    ended = subprocess.run(
        [sys.executable, "-m", "promptsmith", "serve", *options],
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("port = 99999", "port"),
        ("workers = 0", "workers"),
        ('workers = "two"', "workers"),
        ("body_kbi = 3", "body_kib"),
        ("body_seconds = -1", "body_seconds"),
        ('client_system = "ignore"', "client_system"),
        ('cors = "https://a.example"', "cors"),
        ("concurrency = 0", "concurrency"),
        ("port = ", ""),
    ],
)
def test_a_mistake_in_the_settings_stops_the_start_with_its_line(tmp_path: Path, provider: Provider, line: str, told: str) -> None:
    project = project_at(tmp_path / "wrong", settings_of(provider), near())
    (project.root / "promptsmith.toml").write_text(settings_of(provider, service=line + "\n"))
    said = refused(project, "--port", "0")
    assert "promptsmith.toml:2" in said
    assert told in said


@pytest.mark.parametrize("first", ["1", "2"])
@pytest.mark.parametrize("second", ["1", "2"])
def test_a_port_that_is_taken_stops_the_start(tmp_path: Path, provider: Provider, first: str, second: str) -> None:
    """Also where two services with several workers could share it without knowing of each other."""
    project = project_at(tmp_path / "taken", settings_of(provider), near())
    with serving(project, "--workers", first) as service:
        said = refused(project, "--port", str(service.port), "--workers", second)
        assert str(service.port) in said
        assert "--port" in said
        assert answers(service)
        assert service.stop() == 0


def test_a_host_that_is_none_stops_the_start(tmp_path: Path, provider: Provider) -> None:
    project = project_at(tmp_path / "nowhere", settings_of(provider), near())
    assert "192.0.2.1" in refused(project, "--host", "192.0.2.1", "--port", "0")  # it is nobody's (RFC 5737)


def test_told_to_end_while_it_starts_it_leaves_nobody_behind(tmp_path: Path, provider: Provider) -> None:
    project = project_at(tmp_path / "starting", settings_of(provider), near())
    for tenths in range(8):
        process = subprocess.Popen(
            [sys.executable, "-m", "promptsmith", "serve", "--port", "0", "--workers", "3"],
            cwd=project.root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        threading.Event().wait(0.1 * tenths)
        process.terminate()
        assert process.wait(SECONDS) in {0, -signal.SIGTERM}
        eventually(lambda: not processes_in(project.root), "no worker is left")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_told_to_read_its_settings_while_it_starts_it_starts(tmp_path: Path, provider: Provider, workers: str) -> None:
    project = project_at(tmp_path / "starting", settings_of(provider), near())
    command = [sys.executable, "-m", "promptsmith", "serve", "--port", "0", "--workers", workers]
    with subprocess.Popen(command, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert b'"started"' in process.stderr.readline()
        told = threading.Event()

        def tell() -> None:
            while not told.wait(0.01):
                process.send_signal(signal.SIGHUP)

        teller = threading.Thread(target=tell)
        teller.start()
        try:
            assert process.stdout.readline().startswith(b"http://")
        finally:
            told.set()
            teller.join()
            process.terminate()
            _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 0
        assert b"killed" not in said
        assert b"reloaded" in said


def test_a_worker_that_dies_as_it_starts_keeps_nobody_waiting(tmp_path: Path, provider: Provider) -> None:
    project = project_at(tmp_path / "starting", settings_of(provider), near())
    command = [sys.executable, "-m", "promptsmith", "serve", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        eventually(lambda: children.read_text().split() != [], "a worker")
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
        assert process.stdout.readline().startswith(b"http://")
        process.terminate()
        assert process.wait(SECONDS) == 0


def processes_in(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and Path(os.readlink(entry / "cwd")) == folder and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


# --- the registry while it serves -------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"<<<<<<< HEAD\n", b"\xff\xfe\x00"])
def test_a_lock_that_is_damaged_leaves_the_last_good_one(tmp_path: Path, provider: Provider, damage: bytes) -> None:
    project = project_at(tmp_path / "damaged", settings_of(provider), near())
    with serving(project, "--workers", "2") as service:
        good = project.lock.read_bytes()
        before = {one.headers["x-promptsmith-origin"] for one in spread(lambda: service.run("sentiment", input="a"))}
        assert before == {"lock"}
        project.lock.write_bytes(damage + good)
        later = spread(lambda: service.run("sentiment", input="It broke after a day."))
        assert {(one.status, one.json["value"], one.headers["x-promptsmith-origin"]) for one in later} == {(200, "negative", "last good")}
        told = [line for line in service.log() if line["event"] == "trouble"]
        assert {line["level"] for line in told} == {"warning"}
        assert all("last good copy" in line["error"] for line in told)
        assert len(told) == 2, "each worker says so once"
        assert [line for line in service.lines() if not line.startswith("{")] == []
        project.lock.write_bytes(good)
        assert {one.headers["x-promptsmith-origin"] for one in spread(lambda: service.run("sentiment", input="a"))} == {"lock"}
        assert service.call("GET", "/readyz").status == 200


def test_one_prompt_that_can_be_served_is_enough_to_be_ready(tmp_path: Path, provider: Provider) -> None:
    """And where there is none, each reason is told."""
    project = project_at(tmp_path / "some", settings_of(provider), made("a"), made("b"), made("c"))
    text = project.lock.read_text()
    project.lock.write_text(text.replace("Do the task a.", "Do it.").replace("Do the task b.", "Do it."))
    with serving(project) as service:
        assert service.call("GET", "/readyz").status == 200
        project.lock.write_text(text.replace("Do the task ", "Do not "))
        ready = service.call("GET", "/readyz")
        assert ready.status == 200, "of the one that was served there is a good copy"
    with serving(project_at(tmp_path / "none", settings_of(provider))) as service:
        service.project.lock.write_text(text.replace("Do the task ", "Do not "))
        ready = service.call("GET", "/readyz")
        assert (ready.status, len(ready.json["problems"])) == (503, 3), ready.json
        service.project.lock.write_text(text)
        assert service.call("GET", "/readyz").status == 200


def test_a_service_without_prompts_waits_for_the_first(tmp_path: Path, provider: Provider) -> None:
    project = project_at(tmp_path / "empty", settings_of(provider))
    with serving(project, "--workers", "2") as service:
        ready = spread(lambda: service.call("GET", "/readyz"))
        assert {one.status for one in ready} == {503}
        assert "promptsmith promote" in ready[0].json["problems"][0]
        assert {one.status for one in spread(lambda: service.call("GET", "/healthz"))} == {200}
        assert service.call("GET", "/v1/models").json["data"] == []
        promote(project, near())
        assert {one.status for one in spread(lambda: service.call("GET", "/readyz"))} == {200}


def test_a_worker_that_ends_is_not_ready_and_well(tmp_path: Path, provider: Provider) -> None:
    """Nobody new can ask it by then, so it is asked here as its server asks it."""
    project = project_at(tmp_path / "ending", settings_of(provider), near())

    async def main() -> None:
        with (tmp_path / "log").open("wb", buffering=0) as stream:
            worker = Worker(project, 0, Log(stream=stream), None, closed=False)
            server = Server(worker.app, Limits(head_bytes=16 * 1024, head_seconds=SECONDS, idle_seconds=SECONDS))
            listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            async with ClientSession() as client:
                for draining, status, problems in ((False, 200, []), (True, 503, ["the service is ending"])):
                    worker.app.draining = draining
                    async with client.get(f"{url}/readyz") as answer:
                        assert (answer.status, (await answer.json())["problems"]) == (status, problems)
                    async with client.get(f"{url}/healthz") as answer:
                        assert answer.status == 200
            listener.close()
            await server.shutdown(0.0)
            await worker.app.arms.close()
            worker.app.core.close()

    asyncio.run(main())


def test_failed_calls_leave_nothing_for_the_garbage_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error and the frames of its traceback hold each other where a frame keeps it: megabytes an hour, while it comes seldom."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    asked = {"model": "plain", "messages": [{"role": "user", "content": "a"}], "max_tokens": 9}
    bodies = [{**asked, "stream": stream} for stream in (False, True)]

    async def calls(url: str) -> None:
        async with ClientSession() as client:

            async def call(number: int) -> None:
                async with client.post(url + (CHAT, "/v1/messages")[number % 2], json=bodies[number // 2 % 2]) as answer:
                    await answer.read()

            await asyncio.gather(*(call(number) for number in range(200)))

    async def main() -> list[str]:
        with (tmp_path / "log").open("wb", buffering=0) as stream:
            worker = Worker(project, 0, Log(stream=stream), None, closed=False)
            server = Server(worker.app, Limits(head_bytes=16 * 1024, head_seconds=SECONDS, idle_seconds=SECONDS))
            listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            await calls(url)  # what is made once
            gc.collect()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                await calls(url)
                gc.collect()
                frames = [one.f_code for one in gc.garbage if isinstance(one, FrameType)]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            listener.close()
            await server.shutdown(0.0)
            await worker.app.arms.close()
            worker.app.core.close()
        # Of what calls run through: threads of other tests may be looking for their databases meanwhile.
        floors = {Path(promptsmith.__file__).parent / floor for floor in ("models", "runtime", "service", "store")}
        return [f"{Path(code.co_filename).name}: {code.co_name}" for code in frames if floors & set(Path(code.co_filename).parents)]

    with Provider(kept_or_broken, settings=Settings(keep_records=10)) as failing:
        for fault in (Fault("status", status=500), Fault("status", status=400), Fault("reset"), Fault("reset", at=2), Fault("garbage")):
            failing.faults.chance(0.15, fault)
        project = project_at(tmp_path / "failing", settings_of(failing), made("plain", "hasty/gpt-4.1"))
        found = asyncio.run(main())
        assert found == []


# --- canaries ---------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path, provider: Provider) -> Iterator[tuple[Serving, Prompt, Prompt]]:
    """A service of two workers with an incumbent in production and another prompt as candidate."""
    incumbent, candidate = made("split", OPENAI, SENTIMENT), made("split", OPENAI, SENTIMENT, mark="Differently.")
    project = project_at(tmp_path / "canary", settings_of(provider), incumbent)
    promote(project, candidate, alias="candidate")
    with serving(project, "--workers", "2") as service:
        yield service, incumbent, candidate


def arms(answers: list[Answer]) -> set[str | None]:
    return {one.headers.get("x-promptsmith-arm") for one in answers}


def test_a_canary_answers_its_share_and_callers_stay_where_they_are(pair: tuple[Serving, Prompt, Prompt]) -> None:
    service, incumbent, candidate = pair
    named = {"incumbent": incumbent.id, "candidate": candidate.id}
    assert arms(spread(lambda: service.chat("split"))) == {None}
    command(service.project, "promote", "split@candidate", "--to", "production", "--canary", "50", "--force", "--why", "to try it")
    some = spread(lambda: service.chat("split"), 40)
    assert arms(some) == {"candidate", "incumbent"}
    assert all(one.headers["x-promptsmith-prompt"] == named[one.headers["x-promptsmith-arm"]] for one in some)
    asked: Mapping[str, Callable[[str], Answer]] = {
        "header": lambda who: service.call("POST", CHAT, body("split"), {"x-promptsmith-sticky": who}),
        "user": lambda who: service.chat("split", user=who),
        "metadata of OpenAI": lambda who: service.chat("split", metadata={"user_id": who}),
        "metadata of Anthropic": lambda who: service.messages("split", metadata={"user_id": who}),
        "the Responses API": lambda who: service.responses("split", metadata={"user_id": who}),
        "a run": lambda who: service.run("split", input="a", canary_key=who),
    }
    places: dict[str, set[str | None]] = {}
    for name, ask in asked.items():
        for who in (f"user {number}" for number in range(24)):  # that all are on one arm has a chance of 2 in 2^24
            found = arms([ask(who) for _ in range(2)])
            assert len(found) == 1, f"{name}: {who} went to and fro"
            places.setdefault(who, set()).update(found)
    assert all(len(found) == 1 for found in places.values()), "whoever calls is the same caller however it says so"
    assert set().union(*places.values()) == {"candidate", "incumbent"}
    assert arms(spread(lambda: service.chat(f"split@{candidate.id[:8]}"), 4)) == {None}, "who asks for a prompt by its id gets it"
    assert "canary" in command(service.project, "status")
    command(service.project, "promote", "split", "--to", "production", "--stop-canary", "--why", "enough")
    assert arms(spread(lambda: service.chat("split"))) == {None}
    assert service.trouble() == []


def body(task: str) -> dict[str, Any]:
    return {"model": task, "messages": [{"role": "user", "content": "a"}]}


def test_a_candidate_that_breaks_its_contract_is_stopped_for_all(tmp_path: Path, provider: Provider) -> None:
    incumbent, candidate = made("split", OPENAI, SENTIMENT), made("split", OPENAI, SENTIMENT, mark="BROKEN")
    project = project_at(tmp_path / "stopped", settings_of(provider), incumbent)
    promote(project, candidate, alias="candidate")
    with serving(project, "--workers", "2") as service:
        command(service.project, "promote", "split@candidate", "--to", "production", "--canary", "30", "--force", "--why", "to try it")
        store = CanaryFile(project.cache / CANARIES)
        calls = []
        while store.active("split", "production") is not None:
            calls.append(service.chat("split"))
            assert len(calls) < 1000, "a candidate that is never right is stopped soon"
        assert {(one.status, one.headers["x-promptsmith-arm"]) for one in calls} == {(200, "incumbent"), (502, "candidate")}
        assert {one.headers["x-promptsmith-adherent"] for one in calls if one.status == 502} == {"false"}
        later = spread(lambda: service.chat("split", user="a caller of the candidate"))
        assert {(one.status, one.headers["x-promptsmith-prompt"]) for one in later} == {(200, incumbent.id)}
        assert arms(later) == {None}
        [canary] = store.all()
        assert canary.state == "stopped"
        assert "keeps its contract less often" in canary.why
        shown = command(service.project, "status")
        assert "stopped" in shown
        assert any(line["event"] == "canary" and line["became"] == "stopped" for line in service.log())
        assert service.call("GET", "/v1/models/split").json["prompt"] == incumbent.id


def test_a_candidate_whose_calls_fail_is_stopped_for_all(tmp_path: Path, provider: Provider) -> None:
    """Its model is out of order, which the incumbent's is not."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    more = (
        f'[endpoints.down]\nprotocol = "openai"\nbase_url = "http://127.0.0.1:{port}/v1"\nforeign = false\n[limits.down]\ndeadline = 0.05\n'
    )
    incumbent, candidate = made("split", OPENAI, SENTIMENT), made("split", "down/gpt-4.1-mini", SENTIMENT)
    project = project_at(tmp_path / "failing", settings_of(provider, more=more), incumbent)
    promote(project, candidate, alias="candidate")
    with serving(project, "--workers", "2") as service:
        command(service.project, "promote", "split@candidate", "--to", "production", "--canary", "30", "--force", "--why", "to try it")
        store = CanaryFile(project.cache / CANARIES)
        calls = []
        while store.active("split", "production") is not None:
            calls.append(service.chat("split", stream=len(calls) % 2 == 0))
            assert len(calls) < 1000, "a candidate that never answers is stopped soon"
        *known, last = [(one.status, one.headers.get("x-promptsmith-arm")) for one in calls]
        assert set(known) <= {(200, "incumbent"), (502, "candidate"), (504, "candidate")}
        assert last in {(200, None), *known}, "a stream is counted when it has ended, so one more call may come before that is seen here"
        assert "calls fail more often" in store.all()[0].why
        assert {(one.status, one.headers["x-promptsmith-prompt"]) for one in spread(lambda: service.chat("split"))} == {(200, incumbent.id)}


def test_a_shadow_is_asked_and_never_heard(tmp_path: Path, provider: Provider) -> None:
    incumbent, candidate = made("split", OPENAI, SENTIMENT), made("split", OPENAI, SENTIMENT, mark="BROKEN")
    project = project_at(tmp_path / "shadow", settings_of(provider), incumbent)
    promote(project, candidate, alias="candidate")
    with serving(project, "--workers", "2") as service:
        command(service.project, "promote", "split@candidate", "--to", "production", "--shadow", "--force", "--why", "to look")
        store = CanaryFile(project.cache / CANARIES)
        canary = store.active("split", "production")
        assert canary is not None
        heard = []
        for number in range(6):
            heard += [
                service.chat("split"),
                service.messages("split"),
                service.chat("split", stream=True),
                service.run("split", input=f"a {number}"),
            ]
        assert {(one.status, one.headers["x-promptsmith-prompt"], one.headers.get("x-promptsmith-arm")) for one in heard} == {
            (200, incumbent.id, "incumbent")
        }
        assert b"It depends." not in b"".join(one.body for one in heard)

        def counted() -> Counter[tuple[str, bool | None]]:
            return Counter((one.arm, one.adherent) for one in store.outcomes(canary.id)[0])

        eventually(lambda: store.all()[0].state == "stopped" or counted()["candidate", False] >= len(heard), "its answers are judged")
        assert counted()["candidate", False] > 0
        assert counted()["incumbent", True] > 0
        assert counted()["candidate", True] == 0
        assert service.trouble() == []


def test_a_shadow_is_asked_too_while_the_incumbent_fails(tmp_path: Path) -> None:
    """Else an outage of the provider would count on one side only."""
    with Provider(kept_or_broken, settings=Settings(keep_records=10)) as failing:
        failing.faults.every(Fault("status", status=400))
        project = project_at(tmp_path / "outage", settings_of(failing), made("split", OPENAI, SENTIMENT))
        promote(project, made("split", "builtin/nearest", SENTIMENT), alias="candidate")
        with serving(project) as service:
            command(service.project, "promote", "split@candidate", "--to", "production", "--shadow", "--force", "--why", "to look")
            assert {service.chat("split").status for _ in range(4)} | {service.run("split", input="a").status} == {400}
            store = CanaryFile(project.cache / CANARIES)
            canary = store.active("split", "production")
            assert canary is not None
            expected = {("incumbent", True): 5, ("candidate", False): 5}
            eventually(lambda: Counter((one.arm, one.failed) for one in store.outcomes(canary.id)[0]) == expected, "both sides are counted")
