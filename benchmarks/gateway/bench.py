"""The measurements: every round asks each gateway in turn, so that a machine that is busy for a while slows them alike."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple
from urllib.parse import urlsplit

from . import load
from .load import Load, Target, spoken
from .peers import Peer, Setup
from .processes import Running, free_port, held, pin
from .project import QUICK, SLOW

MANY, FEW, ONE_BY_ONE = 64, 16, 300
"""Connections of the rates and of the latencies, and requests in a row of the time to the first byte."""
HELD = 0.4
"""Of a core, for each worker where few cores have to do for two of them, the provider and the load."""
_START_SECONDS, _ANSWER_SECONDS = 90.0, 10.0
_PAUSE = 0.005


class Cores(NamedTuple):
    """Who computes where; none named: anywhere."""

    gateway: frozenset[int]
    provider: frozenset[int]
    load: frozenset[int]

    def __str__(self) -> str:
        if not self.gateway:
            return "nothing pinned"
        sides = zip(self._fields, self, strict=True)
        return ", ".join(f"{name} on core {'+'.join(map(str, sorted(cores)))}" for name, cores in sides)


def placed(workers: int) -> Cores:
    """A core for each worker, and one for provider and load or, where there are more, one for each of them."""
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(there) <= workers:
        anywhere: frozenset[int] = frozenset()
        return Cores(anywhere, anywhere, anywhere)
    return Cores(frozenset(there[:workers]), frozenset({there[workers]}), frozenset({there[min(workers + 1, len(there) - 1)]}))


class Samples:
    """What was measured: values by row and peer, one a round; and what went wrong."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.errors: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))

    def add(self, row: str, peer: str, value: float) -> None:
        self.values[row][peer].append(value)

    def failed(self, row: str, peer: str, found: Load) -> None:
        if found.errors:
            self.errors[row][peer].update(found.errors)


class Bench:
    """All measurements of one run. ``provider`` is the process whose address is ``setup.provider``."""

    def __init__(self, setup: Setup, provider: Running, peers: Sequence[Peer], *, rounds: int, seconds: float, wrk: bool) -> None:
        self._setup = setup
        self._provider = provider
        self._peers = peers
        self._rounds = rounds
        self._seconds = seconds
        self._wrk = wrk
        self._cores = placed(1)
        self.samples = Samples()

    # --- one gateway ------------------------------------------------------------------------------------------

    @contextmanager
    def _started(self, peer: Peer, workers: int = 1) -> Iterator[tuple[str, Running | None, float]]:
        """Its address, its process, and the seconds from its start to its first right answer."""
        if peer.command is None:
            yield self._setup.provider, None, 0.0
            return
        port = free_port()
        base = f"http://127.0.0.1:{port}"
        begin = time.perf_counter()
        log = self._setup.folder / f"{peer.name}.log"
        running = Running(peer.command(port, workers), log, environment=peer.environment, cores=self._cores.gateway)
        try:
            first_answer(peer.target(self._setup, base), running)
            yield base, running, time.perf_counter() - begin
        finally:
            running.stop()

    def usable(self) -> Iterator[str]:
        """Starts each once, uncounted, and says why those that give no right answer are left out from now on."""
        left = []
        for peer in self._peers:
            _tell(f"trying {peer.name}")
            try:
                with self._started(peer):
                    left.append(peer)
            except (OSError, RuntimeError) as error:
                yield f"{peer.name}: {error}"
        self._peers = left

    @property
    def names(self) -> list[str]:
        """The gateways that are measured."""
        return [peer.name for peer in self._peers]

    def cold(self) -> None:
        """``start`` in seconds, ``idle`` in MiB: of its largest process, and of all of them."""
        for number in range(self._rounds):
            for peer in self._peers:
                if peer.command is None:
                    continue
                _tell(f"start, round {number + 1}: {peer.name}")
                with self._started(peer) as (_, running, seconds):
                    assert running is not None
                    self.samples.add("start", peer.name, seconds)
                    self._weigh("idle", peer, running)

    def _weigh(self, row: str, peer: Peer, running: Running) -> None:
        sizes = running.memory().values()
        self.samples.add(row, peer.name, max(sizes))
        self.samples.add(f"{row} all", peer.name, sum(sizes))

    # --- all of them beside each other ------------------------------------------------------------------------

    def warm(self) -> None:
        """The rates, the latencies, and the memory after them."""
        with ExitStack() as stack:
            places = [(peer, *stack.enter_context(self._started(peer))[:2]) for peer in self._peers]
            for peer, base, _ in places:
                for task in (QUICK, SLOW):
                    load.ours(peer.target(self._setup, base, task), connections=MANY, seconds=1.0, cores=self._cores.load)
            rows: dict[str, Callable[[Peer, str, Running | None], None]] = {
                "requests": self._requests, "streams": self._streams, "first": self._first, "added": self._slow,
            }  # fmt: skip
            for number in range(self._rounds):
                for name, measure in rows.items():
                    for peer, base, running in places:
                        _tell(f"{name}, round {number + 1}: {peer.name}")
                        measure(peer, base, running)
            for peer, _, running in places:
                if running is not None:
                    self._weigh("loaded", peer, running)

    def _rate(self, row: str, peer: Peer, target: Target, running: Running | None) -> Load:
        before = running.cpu() if running else 0.0
        generate = load.wrk if self._wrk else load.ours
        found = generate(target, connections=MANY, seconds=self._seconds, cores=self._cores.load)
        self.samples.failed(row, peer.name, found)
        if found.answers:
            self.samples.add(row, peer.name, found.rate)
            self.samples.add(f"{row} p50", peer.name, found.p50)
            self.samples.add(f"{row} p99", peer.name, found.p99)
            if running:
                self.samples.add(f"{row} cpu", peer.name, (running.cpu() - before) / found.answers * 1e6)
        return found

    def _requests(self, peer: Peer, base: str, running: Running | None) -> None:
        self._rate("requests", peer, peer.target(self._setup, base), running)

    def _streams(self, peer: Peer, base: str, running: Running | None) -> None:
        self._rate("streams", peer, peer.target(self._setup, base, stream=True), running)

    def _first(self, peer: Peer, base: str, running: Running | None) -> None:  # noqa: ARG002 - as the others
        target = peer.target(self._setup, base, QUICK, stream=True)
        found = load.ours(target, connections=1, seconds=self._seconds, count=ONE_BY_ONE, cores=self._cores.load)
        self.samples.failed("first", peer.name, found)
        if found.answers and found.first_p50 is not None:
            self.samples.add("first", peer.name, found.first_p50)

    def _slow(self, peer: Peer, base: str, running: Running | None) -> None:  # noqa: ARG002
        target = peer.target(self._setup, base, SLOW)
        found = load.ours(target, connections=FEW, seconds=self._seconds, cores=self._cores.load)
        self.samples.failed("slow p50", peer.name, found)
        if found.answers:
            self.samples.add("slow p50", peer.name, found.p50)
            self.samples.add("slow p99", peer.name, found.p99)

    # --- two workers ------------------------------------------------------------------------------------------

    def scaling(self) -> None:
        """Two workers beside one, in the same places.

        ``scaled``: requests a second of two over those of one; ``scaled cpu``: of a request, likewise; ``scaled most``: the first of
        these if all cores did nothing but gateway, provider and load, each as long for a request as they took here; ``scaled held``:
        as the first, with so little of a core for each worker that the cores have room for two of them, the provider and the load.
        """
        self._cores = placed(2)
        pin(self._provider.pid, self._cores.provider or _everywhere())
        for number in range(self._rounds):
            for peer in (peer for peer in self._peers if peer.takes_workers):
                one, two = (self._scaled(peer, workers, number) for workers in (1, 2))
                self.samples.add("scaled", peer.name, two.rate / one.rate)
                self.samples.add("scaled cpu", peer.name, two.gateway / one.gateway)
                if not self._cores.gateway:
                    most = len(_everywhere()) * one.gateway / (two.gateway + two.others)
                    self.samples.add("scaled most", peer.name, min(2.0, most))
                    one, two = (self._scaled(peer, workers, number, share=HELD) for workers in (1, 2))
                    if one.held and two.held:
                        self.samples.add("scaled held", peer.name, two.rate / one.rate)

    def _scaled(self, peer: Peer, workers: int, number: int, *, share: float = 1.0) -> _Scaled:
        _tell(f"workers, round {number + 1}: {peer.name}, {workers}{f' with {share:g} of a core each' if share < 1.0 else ''}")
        with self._started(peer, workers) as (base, running, _):
            assert running is not None
            target = peer.target(self._setup, base)
            load.ours(target, connections=MANY, seconds=0.5, cores=self._cores.load)
            with held(running.pids() if share < 1.0 else (), share) as holds:
                gateway, others = running.cpu(), self._provider.cpu() + _children()
                generate = load.wrk if self._wrk else load.ours
                found = generate(target, connections=MANY, seconds=self._seconds, cores=self._cores.load)
                others = self._provider.cpu() + _children() - others
                gateway = running.cpu() - gateway
        row = f"workers {workers}" if share == 1.0 else f"held {workers}"
        self.samples.failed(row, peer.name, found)
        self.samples.add(row, peer.name, found.rate)
        if not found.answers:
            raise RuntimeError(f"{peer.name} with {workers} workers answered nothing: {found.errors}")
        return _Scaled(found.rate, gateway / found.answers, others / found.answers, holds)


class _Scaled(NamedTuple):
    """Requests a second, and seconds of CPU for one: the gateway's, and those of provider and load; whether its workers were held."""

    rate: float
    gateway: float
    others: float
    held: bool


def _children() -> float:
    """Seconds that the processes computed which this one has started and seen end."""
    times = os.times()
    return times.children_user + times.children_system


def _everywhere() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _tell(text: str) -> None:
    sys.stderr.write(f"  {text}\n")


def first_answer(target: Target, running: Running) -> None:
    """Waits until ``target`` is answered right. Raises :class:`RuntimeError` with what the process wrote when it is not."""
    parts = urlsplit(target.url)
    headers = {"content-type": "application/json", **target.headers}
    end = time.monotonic() + _START_SECONDS
    seen = "no connection"
    while time.monotonic() < end and not running.ended:
        connection = HTTPConnection(parts.netloc, timeout=_ANSWER_SECONDS)
        try:
            connection.request("POST", parts.path, target.body, headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200 and target.expect in spoken(body):
                return
            seen = f"{answer.status} {body[:300]!r}"
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(_PAUSE)
    raise RuntimeError(f"no right answer ({seen}); it wrote:\n{running.said()}")
