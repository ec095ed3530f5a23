"""``promptsmith serve`` for a quarter of an hour at half its load, with a provider that fails, promotions all the time and workers killed.

Every answer is checked to be the right one for its message and for one of the two prompts that take turns in production, every call
that was seen to its end must have its row in the ledger, errors may only be those that the provider was told to make, and workers may
not grow. It ends with status 1 when one of these does not hold. Needs Linux; ``make soak`` runs it, CI doesn't.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import uvloop

from promptsmith.prompt import Prompt
from promptsmith.registry.lock import LockFile
from promptsmith.store.folder import open_store

from .gateway.bench import first_answer
from .gateway.http import Answer, Line, address, request
from .gateway.load import Target, ours, spoken
from .gateway.processes import Running, free_port, started_provider
from .gateway.project import key, made, promptsmith, words
from .gateway.provider import digest

TASK, OTHER = "sentiment", "other"
LINES = 256
_FIRST = 1000
"""The number of the first call: higher than the tokens of the calls that have none."""
_CALIBRATION = 5.0
_LOOK_SECONDS = 1.0
_KILLED_SECONDS = 3.0
"""How long after a worker was killed a lost connection is laid to that."""
_BACK_SECONDS = 15.0
_GROWTH = 5.0
"""MiB that a worker may have grown between the second and the last quarter of the run."""
_CHAT, _MESSAGES = "/v1/chat/completions", "/v1/messages"


class Call(NamedTuple):
    """One kind of call."""

    path: str
    stream: bool
    ends: bytes
    """What stands in a stream that is whole."""


KINDS = (
    *[Call(_CHAT, stream=False, ends=b"")] * 5,
    *[Call(_CHAT, stream=True, ends=b"data: [DONE]")] * 4,
    Call(_MESSAGES, stream=False, ends=b""),
)
"""Taken in turn; an Anthropic client's calls are translated, since the model is OpenAI's."""


class Place:
    """Which prompt is in production, as far as whoever moves it knows."""

    def __init__(self, lock: LockFile, prompts: Sequence[Prompt]) -> None:
        self._lock = lock
        self._prompts = prompts
        self.now = 0
        self.moves = 0
        self.moving = False

    async def move(self) -> None:
        """The other one goes into production."""
        self.moving = True
        self.now = 1 - self.now
        await asyncio.to_thread(
            self._lock.move, TASK, "production", self._prompts[self.now], who="soak", why=f"turn {self.moves}", forced=True
        )
        self.moves += 1
        self.moving = False

    def settled(self) -> int | None:
        """A number that stays the same as long as only one prompt can be right; ``None`` while a move is under way."""
        return None if self.moving else self.moves


class Seen:
    """What the clients saw. ``finished`` holds for each call by its number: 0, or 1 and 2 for the prompt that answered."""

    def __init__(self) -> None:
        self.finished = bytearray(_FIRST)
        self.counted: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        """What may not happen."""
        self.examples: dict[str, str] = {}
        self.times: list[float] = []

    @property
    def calls(self) -> int:
        return len(self.finished) - _FIRST

    def number(self) -> int:
        """Of the next call."""
        self.finished.append(0)
        return len(self.finished) - 1

    def failed(self, kind: str, example: str) -> None:
        self.failures[kind] += 1
        self.examples.setdefault(kind, example)


class Soak:
    """One run against a service that is up."""

    def __init__(self, base: str, secret: str, prompts: Sequence[Prompt], place: Place, running: Running, workers: int) -> None:
        self._base = base
        self._headers = {"authorization": f"Bearer {secret}", "anthropic-version": "2023-06-01"}
        self._systems = [prompt.system for prompt in prompts]
        self._ids = [prompt.id for prompt in prompts]
        self._place = place
        self._running = running
        self._workers = workers
        self._killed = float("-inf")
        self.kills = 0
        self.seen = Seen()
        self.memory: dict[int, list[tuple[float, float]]] = defaultdict(list)
        """Resident MiB of each process by the time."""

    async def run(self, seconds: float, rate: float, kill_every: float) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        end = begin + seconds
        host, port = address(self._base)
        async with asyncio.TaskGroup() as group:
            for number in range(LINES):
                line = Line(host, port)
                group.create_task(self._calls(line, begin + number / rate, end, LINES / rate))
            group.create_task(self._promote(end))
            group.create_task(self._kill(end, kill_every))
            group.create_task(self._look(begin, end))

    async def _calls(self, line: Line, when: float, end: float, every: float) -> None:
        loop = asyncio.get_running_loop()
        while when < end:
            await asyncio.sleep(max(0.0, when - loop.time()))
            when += every
            await self._call(line)
        line.close()

    async def _call(self, line: Line) -> None:
        number = self.seen.number()
        kind = KINDS[number % len(KINDS)]
        user = f"Order {number} came late, and nobody answers the phone. #{number}"
        body = {"model": TASK, "messages": [{"role": "user", "content": user}], "stream": kind.stream}
        if kind.path == _MESSAGES:
            body["max_tokens"] = 100
        settled, expected = self._place.settled(), self._place.now
        try:
            answer = await line.ask(request(self._base + kind.path, self._headers, msgspec.json.encode(body)))
        except OSError as error:
            if time.monotonic() - self._killed < _KILLED_SECONDS:
                self.seen.counted["lost with a killed worker"] += 1
            else:
                self.seen.failed("lost connections", str(error))
            return
        self.seen.times.append(answer.last - answer.sent)
        which = self._which(kind, user, answer)
        if which is None:
            return
        self.seen.finished[number] = which + 1
        self.seen.counted["right answers"] += 1
        if settled is not None and settled == self._place.settled() and which != expected:
            self.seen.failed("answers by a prompt that was out of production", f"call {number}")

    def _which(self, kind: Call, user: str, answer: Answer) -> int | None:
        """The prompt that a right answer came from; anything else is counted."""
        if answer.status != 200:
            self._refused(answer)
            return None
        if kind.ends not in answer.body:
            if b'"error"' in answer.body:
                self.seen.counted["streams that told of an error"] += 1
            else:
                self.seen.failed("streams that ended without a word", repr(answer.body[-300:]))
            return None
        text = spoken(answer.body)
        for which, system in enumerate(self._systems):
            if digest(system, user) in text:
                if answer.header("x-promptsmith-prompt") != self._ids[which]:
                    self.seen.failed("answers that name another prompt", repr(answer.head))
                return which
        self.seen.failed("wrong answers", repr(text[:300]))
        return None

    def _refused(self, answer: Answer) -> None:
        if answer.header("x-promptsmith-error") == "upstream":
            self.seen.counted[f"the provider's errors, status {answer.status}"] += 1
        else:
            self.seen.failed(f"errors of ours, status {answer.status}", repr(answer.body[:300]))

    async def _promote(self, end: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            await self._place.move()
            await asyncio.sleep(1)

    async def _kill(self, end: float, every: float) -> None:
        """The oldest worker is spared: its memory is watched for the whole run."""
        loop = asyncio.get_running_loop()
        while loop.time() + every < end:
            await asyncio.sleep(every)
            victims = self._running.children()[1:]
            if not victims:
                continue
            self._killed = time.monotonic()
            os.kill(random.choice(victims), signal.SIGKILL)
            self.kills += 1
            while len(self._running.children()) < self._workers:
                if time.monotonic() - self._killed > _BACK_SECONDS:
                    self.seen.failed("killed workers that did not come back", f"after {_BACK_SECONDS:.0f} s")
                    break
                await asyncio.sleep(0.1)

    async def _look(self, begin: float, end: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            for pid, size in self._running.memory().items():
                self.memory[pid].append((loop.time() - begin, size))
            self._read_log()
            await asyncio.sleep(_LOOK_SECONDS)

    def _read_log(self) -> None:
        """Looks for mistakes of ours in what the service wrote, and empties it: a line a call would fill the disk."""
        text = self._running.log.read_text(errors="replace")
        os.truncate(self._running.log, 0)
        for line in text.splitlines():
            if "Traceback" in line or ('"event":"trouble"' in line and "killed by SIGKILL" not in line):
                self.seen.failed("mistakes in the log", line[:500])


def growth(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """MiB between the medians of the second and the last quarter of the time, and the slope in MiB an hour behind the first quarter."""
    begin, end = samples[0][0], samples[-1][0]
    quarter = (end - begin) / 4
    second = [size for at, size in samples if begin + quarter <= at <= begin + 2 * quarter]
    last = [size for at, size in samples if at >= end - quarter]
    later = [(at, size) for at, size in samples if at >= begin + quarter]
    slope, _ = statistics.linear_regression([at for at, _ in later], [size for _, size in later])
    return statistics.median(last) - statistics.median(second), slope * 3600


def lost_rows(finished: bytes, ids: Sequence[str], rows: Mapping[int, Sequence[str]]) -> tuple[list[int], list[int], list[int]]:
    """Finished calls without a row, with more than one, and with the row of another prompt."""
    lost, twice, other = [], [], []
    for number, which in enumerate(finished):
        if not which:
            continue
        found = rows.get(number, ())
        if not found:
            lost.append(number)
        elif len(found) > 1:
            twice.append(number)
        elif found[0] != ids[which - 1]:
            other.append(number)
    return lost, twice, other


def _half_load(target: Target) -> float:
    return ours(target, connections=64, seconds=_CALIBRATION).rate / 2


def _counts(provider: str) -> dict[str, int]:
    connection = HTTPConnection(urlsplit(provider).netloc)
    connection.request("GET", "/counts")
    counts: dict[str, int] = json.loads(connection.getresponse().read())
    connection.close()
    return counts


def _report(soak: Soak, place: Place, provider: Mapping[str, int], rate: float) -> None:
    seen = soak.seen
    times = sorted(seen.times) or [0.0]
    write = sys.stdout.write
    write(f"calls: {seen.calls:,} at {rate:,.0f} a second; promotions: {place.moves}; workers killed: {soak.kills}\n")
    write("the provider: " + ", ".join(f"{name} {number:,}" for name, number in sorted(provider.items())) + "\n")
    for name, number in sorted(seen.counted.items()):
        write(f"{name}: {number:,}\n")
    write(f"p50 {times[len(times) // 2] * 1000:.1f} ms, p99 {times[int(len(times) * 0.99)] * 1000:.1f} ms, retries included\n")


def _weigh(soak: Soak, worker: int) -> None:
    samples = soak.memory[worker]
    if len(samples) < 8:
        soak.seen.failed("no worker lived long enough to be weighed", f"{len(samples)} looks at {worker}")
        return
    grown, slope = growth(samples)
    sys.stdout.write(
        f"memory of the oldest worker: {samples[0][1]:.1f} to {samples[-1][1]:.1f} MiB; {grown:+.2f} MiB between the second "
        f"and the last quarter, {slope:+.1f} MiB an hour\n"
    )
    if grown > _GROWTH:
        soak.seen.failed("memory that grows", f"{grown:+.2f} MiB, at most {_GROWTH:.0f}")


def _check_ledger(soak: Soak, rows: Mapping[int, Sequence[str]], ids: Sequence[str]) -> None:
    lost, twice, other = lost_rows(bytes(soak.seen.finished), ids, rows)
    sys.stdout.write(f"ledger: {sum(map(len, rows.values())):,} rows of answers, {len(lost):,} lost of finished calls\n")
    for kind, numbers in (("lost ledger rows", lost), ("calls with two rows", twice), ("rows of another prompt", other)):
        if numbers:
            soak.seen.failures[kind] += len(numbers)
            soak.seen.examples[kind] = f"calls {numbers[:5]}"


def _soak(options: argparse.Namespace, folder: Path) -> Soak:
    with started_provider(folder, (), "--faults", str(options.faults)) as (url, _):
        tasks = {name: ("echo-0", words(f"You sort messages for {name}.")) for name in (TASK, OTHER)}
        project, made_prompts = made(folder / "project", url, tasks)
        prompts = [made_prompts[TASK], made_prompts[OTHER]]
        secret = key(project)
        port = free_port()
        command = promptsmith(project, "serve", "--port", str(port), "--workers", str(options.workers))
        running = Running(command, folder / "serve.log")
        base = f"http://127.0.0.1:{port}"
        body = json.dumps({"model": TASK, "messages": [{"role": "user", "content": "When does the shop open?"}]})
        target = Target(base + _CHAT, {"authorization": f"Bearer {secret}"}, body, digest(prompts[0].system, "When does the shop open?"))
        place = Place(LockFile(project.lock), prompts)
        soak = Soak(base, secret, prompts, place, running, options.workers)
        try:
            first_answer(target, running)
            rate = options.rate or _half_load(target)
            oldest = running.children()[:1]
            seconds = options.minutes * 60
            uvloop.run(soak.run(seconds, rate, min(options.kill_every, seconds / 3)))
            provider = _counts(url)
            survived = oldest and running.children()[:1] == oldest
        finally:
            running.stop()
        _report(soak, place, provider, rate)
        if survived:
            _weigh(soak, oldest[0])
        else:
            soak.seen.failed("the oldest worker ended though nobody killed it", running.said())
        rows: dict[int, list[str]] = defaultdict(list)
        with open_store(project) as store:
            for row in store.ledger.rows():
                if row.status == "end":
                    rows[row.input].append(row.prompt)
        _check_ledger(soak, rows, [prompt.id for prompt in prompts])
    return soak


def main() -> None:
    """Runs it and writes what was seen; the status is 1 when something may not be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--faults", type=float, default=0.05, metavar="SHARE", help="of the provider's answers")
    parser.add_argument("--kill-every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--rate", type=float, help="calls a second (default: half of what 64 connections get)")
    options = parser.parse_args()
    if options.workers < 2:
        parser.error("it takes two workers: one is killed now and then, and one is watched")
    with tempfile.TemporaryDirectory() as folder:
        soak = _soak(options, Path(folder))
    for kind, number in soak.seen.failures.items():
        sys.stdout.write(f"NOT ALLOWED: {kind}: {number:,}, such as {soak.seen.examples[kind]}\n")
    sys.stdout.write("failed\n" if soak.seen.failures else "passed\n")
    sys.exit(1 if soak.seen.failures else 0)


if __name__ == "__main__":
    main()
