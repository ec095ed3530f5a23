"""What the service counts: a call at a time, in cells that every worker can read (see cells.py), shown to Prometheus and the pages."""

from __future__ import annotations

import os
import platform
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from operator import add
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..store.trouble import Trouble
from ..version import VERSION
from .cells import NOWHERE, Found, Key, other_cells, own_cells, own_memory
from .prometheus import CONTENT_TYPE, Family, Histogram, Labels, text

__all__ = ["CONTENT_TYPE", "Called", "Endpoint", "Metrics", "PromptFigures", "Source"]

Endpoint = Literal["chat", "messages", "responses", "run", "count_tokens"]
Source = Literal["model", "cache", "builtin"]

LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
OVERHEAD = (0.000025, 0.00005, 0.000075, 0.0001, 0.00015, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0)
FIRST_BYTE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets, in seconds."""

OTHER = "other"
"""Stands in every label of the series that takes what comes after the most series."""
_LABEL_BYTES = 128

_CALLS, _ERRORS, _ARMS = range(3)
_LABELS: Sequence[tuple[str, ...]] = (
    ("task", "prompt", "alias", "model", "endpoint"),
    ("task", "prompt", "alias", "model", "endpoint", "code", "status"),
    ("task", "prompt", "alias", "arm"),
)
"""By kind of series."""

# The cells of a series of calls. A histogram is its sum and then its buckets.
_FAILED, _STREAMS, _INPUT, _OUTPUT, _CACHED, _COST, _UNKNOWN, _CHECKED, _ADHERENT, _MODEL, _CACHE, _BUILTIN, _LATENCY = range(13)
_OVERHEAD = _LATENCY + len(LATENCY) + 2
_FIRST_BYTE = _OVERHEAD + len(OVERHEAD) + 2
_CELLS = (_FIRST_BYTE + len(FIRST_BYTE) + 2, 1, 4)
"""By kind of series; an arm has calls, failed ones, checked and adherent answers."""
_SOURCES: dict[str, int] = {"model": _MODEL, "cache": _CACHE, "builtin": _BUILTIN}
_LAYOUT = sha256(repr((1, LATENCY, OVERHEAD, FIRST_BYTE, _LABELS, _CELLS)).encode()).digest()[:16]


class Called(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request to the service that has ended. Times in seconds, ``cost`` in US dollars (``None``: price unknown)."""

    task: str
    prompt: str
    """The whole id; empty for a request that found no prompt, as are the names around it."""
    alias: str
    model: str
    endpoint: Endpoint
    arm: str = ""
    """``candidate`` or ``incumbent`` while there is a canary."""
    status: int = 200
    error: str = ""
    """Why it failed, as a code (``rate_limited``, …) and never a text; empty for a good answer. Failed without one is ``http``."""
    seconds: float = 0.0
    overhead_seconds: float = 0.0
    """Of ``seconds`` what was spent here, not waiting for client or model."""
    first_byte_seconds: float | None = None
    input: int = 0
    output: int = 0
    cached: int = 0
    """Of ``input`` those that the provider had in its prompt cache."""
    cost: float | None = None
    adherent: bool | None = None
    """Whether the answer kept the contract; ``None``: it was not checked."""
    source: Source | None = "model"
    """Where the answer came from; ``None``: there was none."""
    stream: bool = False


class PromptFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt since the service has started, over all its aliases, models and endpoints."""

    task: str
    prompt: str
    calls: int
    errors: int
    checked: int
    adherent: int
    input: int
    output: int
    cached: int
    cost: float
    unknown_cost: int
    """Calls whose price is not known, which ``cost`` lacks."""
    cache_hits: int
    p50: float | None
    """Seconds, interpolated within its bucket; ``None`` without a call."""
    p95: float | None


class Metrics:
    """The counters of one worker process, and the sums of all that count in ``folder``.

    :meth:`called`, :meth:`began` and :meth:`ended` are for one thread of the worker; the rest may be called in any. A forked
    child counts for itself. At most ``most`` series of each kind are kept, later ones count as ``other``. When no file can be
    had (a full disk), one warning says so, and the worker counts in its memory.
    """

    def __init__(self, folder: Path, worker: int, *, ledger: Path | None = None, most: int = 512) -> None:
        self._folder, self._worker, self._ledger, self._most = folder, worker, ledger, most
        # A series is its head, its key (a label and what msgpack puts before it) and its cells.
        self._size = 32 + sum(
            (most + 1) * (24 + len(labels) * (_LABEL_BYTES + 5) + 8 * cells) // 8 * 8 for labels, cells in zip(_LABELS, _CELLS, strict=True)
        )
        self._trouble = Trouble(str(folder))
        self._closed = False
        self._start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_starter(weakref.ref(self)))

    def _start(self) -> None:
        """Finds the cells of this process, and the series that its predecessor left there."""
        try:
            self._own = own_cells(self._folder, self._worker, _LAYOUT, self._size)
        except OSError as error:
            self._trouble.tell(error)
            self._own = own_memory(_LAYOUT, self._size)
        self._flying = self._own.flying
        self._kept: tuple[dict[Key, memoryview[float]], ...] = ({}, {}, {})
        for kind, key, cells in self._own.blocks():
            self._kept[kind][key] = cells
        self._others = tuple(self._cells(kind, (OTHER,) * len(labels)) for kind, labels in enumerate(_LABELS))
        # As callers name them: unlike the labels neither cut nor made text of.
        self._calls: dict[tuple[str, ...], memoryview[float]] = {}
        self._errors: dict[tuple[str | int, ...], memoryview[float]] = {}
        self._arms: dict[tuple[str, ...], memoryview[float]] = {}

    def began(self) -> None:
        """A request is in flight."""
        self._flying[0] += 1.0

    def ended(self) -> None:
        """A request that :meth:`began` is no longer in flight."""
        self._flying[0] -= 1.0

    def called(self, call: Called) -> None:
        """Counts a request."""
        key = (call.task, call.prompt, call.alias, call.model, call.endpoint)
        cells = self._calls.get(key)
        if cells is None:
            cells = self._calls[key] = self._series(_CALLS, key, self._calls)
        seconds = call.seconds
        cells[_LATENCY] += seconds
        cells[_LATENCY + 1 + bisect_left(LATENCY, seconds)] += 1.0
        seconds = call.overhead_seconds
        cells[_OVERHEAD] += seconds
        cells[_OVERHEAD + 1 + bisect_left(OVERHEAD, seconds)] += 1.0
        first = call.first_byte_seconds
        if first is not None:
            cells[_FIRST_BYTE] += first
            cells[_FIRST_BYTE + 1 + bisect_left(FIRST_BYTE, first)] += 1.0
        if call.source is not None:
            cells[_SOURCES[call.source]] += 1.0
        cells[_INPUT] += call.input
        cells[_OUTPUT] += call.output
        cells[_CACHED] += call.cached
        if call.cost is None:
            cells[_UNKNOWN] += 1.0
        else:
            cells[_COST] += call.cost
        if call.adherent is not None:
            cells[_CHECKED] += 1.0
            if call.adherent:
                cells[_ADHERENT] += 1.0
        if call.stream:
            cells[_STREAMS] += 1.0
        if call.error or call.status >= 400:
            cells[_FAILED] += 1.0
            self._failed(call, key)
        if call.arm:
            self._side(call)

    def render(self, more: Iterable[Family] = ()) -> bytes:
        """The page for Prometheus, of type :data:`CONTENT_TYPE`; ``more`` is what others have to tell (a canary's state)."""
        calls, errors, arms = self._sums(whole_ids=False)
        return text([*_of_calls(calls), _of_errors(errors), *_of_arms(arms), *self._gauges(), *more])

    def prompts(self) -> list[PromptFigures]:
        """The figures of all prompts, sorted by task and id; what counted as ``other`` stands under this name."""
        sums: dict[Key, list[float]] = {}
        for key, values in self._sums(whole_ids=True)[_CALLS].items():
            _merge(sums, key[:2], values)
        return [_figures(key, values) for key, values in sorted(sums.items())]

    def close(self) -> None:
        """Lets the file go; what was counted stays. Nothing is counted after this."""
        self._closed = True
        self._drop()

    # --- series -------------------------------------------------------------------------------------------

    def _failed(self, call: Called, key: tuple[str, ...]) -> None:
        key_of: tuple[str | int, ...] = (*key, call.error or "http", call.status)
        cells = self._errors.get(key_of)
        if cells is None:
            cells = self._errors[key_of] = self._series(_ERRORS, key_of, self._errors)
        cells[0] += 1.0

    def _side(self, call: Called) -> None:
        key = (call.task, call.prompt, call.alias, call.arm)
        cells = self._arms.get(key)
        if cells is None:
            cells = self._arms[key] = self._series(_ARMS, key, self._arms)
        cells[0] += 1.0
        if call.error or call.status >= 400:
            cells[1] += 1.0
        if call.adherent is not None:
            cells[2] += 1.0
            cells[3] += call.adherent

    def _series(self, kind: int, key: Sequence[str | int], known: dict[Any, memoryview[float]]) -> memoryview[float]:
        """The cells for labels that :meth:`called` has not met yet."""
        if len(known) >= 4 * self._most:
            known.clear()  # names that differ only behind the labels' length, or came too late: they are found again
        return self._cells(kind, tuple(_label(str(one)) for one in key))

    def _cells(self, kind: int, key: Key) -> memoryview[float]:
        kept = self._kept[kind]
        found = kept.get(key)
        if found is None and len(kept) <= self._most:  # and other
            found = self._own.add(kind, key, _CELLS[kind])
        if found is None:
            return self._others[kind]
        kept[key] = found
        return found

    def _drop(self) -> None:
        self._kept, self._others = ({}, {}, {}), ()
        self._calls, self._errors, self._arms = {}, {}, {}
        self._flying = NOWHERE
        self._own.close()

    def _again(self) -> None:
        """In a forked child: the cells are the parent's."""
        self._drop()
        if not self._closed:
            self._start()

    # --- sums ---------------------------------------------------------------------------------------------

    def _sums(self, *, whole_ids: bool) -> tuple[dict[Key, list[float]], ...]:
        sums: tuple[dict[Key, list[float]], ...] = ({}, {}, {})
        for cells in [self._own, *(found.cells for found in self._rest())]:
            for kind, key, values in cells.blocks():
                counted = list(values)
                if any(counted):
                    _merge(sums[kind], key if whole_ids else (key[0], key[1][:12], *key[2:]), counted)
        return sums

    def _rest(self) -> Iterator[Found]:
        return other_cells(self._folder, _LAYOUT, self._own.file)

    def _gauges(self) -> Iterator[Family]:
        alive = [self._own, *(found.cells for found in self._rest() if found.alive)]
        flying = sum(cells.flying[0] for cells in alive)
        yield Family("promptsmith_in_flight_requests", "gauge", "Requests that are being answered.", [((), flying)])
        yield Family("promptsmith_workers", "gauge", "Worker processes that count.", [((), float(len(alive)))])
        build: Labels = (("version", VERSION), ("python", platform.python_version()))
        yield Family("promptsmith_build_info", "gauge", "Always 1; the labels tell what runs.", [(build, 1.0)])
        if self._ledger is not None:
            yield Family("promptsmith_ledger_bytes", "gauge", "Size of the ledger.", [((), float(_bytes_of(self._ledger)))])


def _starter(metrics: weakref.ref[Metrics]) -> Callable[[], None]:
    """What a forked child does; it keeps nothing alive."""

    def start() -> None:
        found = metrics()
        if found is not None:
            found._again()

    return start


def _merge(sums: dict[Key, list[float]], key: Key, values: list[float]) -> None:
    found = sums.get(key)
    sums[key] = values if found is None else list(map(add, found, values))


def _label(text: str) -> str:
    return text.encode("utf-8", "replace")[:_LABEL_BYTES].decode("utf-8", "ignore")


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# --- families -----------------------------------------------------------------------------------------------


def _of_calls(sums: dict[Key, list[float]]) -> Iterator[Family]:
    rows = [(_labels(_CALLS, key), values) for key, values in sorted(sums.items())]

    def counter(name: str, about: str, at: int) -> Family:
        return Family(name, "counter", about, [(labels, values[at]) for labels, values in rows])

    def by(name: str, about: str, label: str, cells: dict[str, int]) -> Family:
        samples = [((*labels, (label, value)), values[at]) for labels, values in rows for value, at in cells.items()]
        return Family(name, "counter", about, samples)

    def histogram(name: str, about: str, at: int, bounds: Sequence[float]) -> Family:
        seen = [(labels, Histogram(values[at + 1 : at + 2 + len(bounds)], values[at])) for labels, values in rows]
        return Family(name, "histogram", about, [(labels, one) for labels, one in seen if any(one.counts)], bounds)

    requests = [(labels, float(sum(_latencies(values)))) for labels, values in rows]
    yield Family("promptsmith_requests_total", "counter", "Requests that have ended, failed ones included.", requests)
    yield counter("promptsmith_streams_total", "Those of them that were streams.", _STREAMS)
    yield histogram("promptsmith_latency_seconds", "From the request to the end of its answer.", _LATENCY, LATENCY)
    yield histogram("promptsmith_overhead_seconds", "The part of it that was spent here.", _OVERHEAD, OVERHEAD)
    yield histogram("promptsmith_first_byte_seconds", "From the request to the first byte of its answer.", _FIRST_BYTE, FIRST_BYTE)
    kinds = {"input": _INPUT, "output": _OUTPUT, "cached": _CACHED}
    yield by("promptsmith_tokens_total", "Tokens; cached are those of input that the provider had cached.", "kind", kinds)
    yield counter("promptsmith_cost_usd_total", "US dollars, without the calls of unknown price.", _COST)
    yield counter("promptsmith_unknown_cost_total", "Requests whose price is not known.", _UNKNOWN)
    yield by("promptsmith_answers_total", "Requests by where their answer came from.", "source", _SOURCES)
    yield counter("promptsmith_checked_total", "Answers that were checked against the contract.", _CHECKED)
    yield counter("promptsmith_adherent_total", "Those of them that kept it.", _ADHERENT)


def _of_errors(sums: dict[Key, list[float]]) -> Family:
    samples = [(_labels(_ERRORS, key), values[0]) for key, values in sorted(sums.items())]
    return Family("promptsmith_errors_total", "counter", "Requests that failed, by code and status.", samples)


def _of_arms(sums: dict[Key, list[float]]) -> Iterator[Family]:
    whats = ("requests", "errors", "checked", "adherent")
    abouts = ("Requests of each side of a canary.", "Those that failed.", "Answers that were checked.", "Answers that kept the contract.")
    for at, (what, about) in enumerate(zip(whats, abouts, strict=True)):
        samples = [(_labels(_ARMS, key), values[at]) for key, values in sorted(sums.items())]
        yield Family(f"promptsmith_canary_{what}_total", "counter", about, samples)


def _labels(kind: int, key: Key) -> Labels:
    return tuple(zip(_LABELS[kind], key, strict=True))


# --- figures ------------------------------------------------------------------------------------------------


def _latencies(values: list[float]) -> list[float]:
    return values[_LATENCY + 1 : _LATENCY + 2 + len(LATENCY)]


def _figures(key: Key, values: list[float]) -> PromptFigures:
    counts = _latencies(values)
    return PromptFigures(
        task=key[0],
        prompt=key[1],
        calls=int(sum(counts)),
        errors=int(values[_FAILED]),
        checked=int(values[_CHECKED]),
        adherent=int(values[_ADHERENT]),
        input=int(values[_INPUT]),
        output=int(values[_OUTPUT]),
        cached=int(values[_CACHED]),
        cost=values[_COST],
        unknown_cost=int(values[_UNKNOWN]),
        cache_hits=int(values[_CACHE]),
        p50=quantile(counts, LATENCY, 0.5),
        p95=quantile(counts, LATENCY, 0.95),
    )


def quantile(counts: Sequence[float], bounds: Sequence[float], share: float) -> float | None:
    """As Prometheus's ``histogram_quantile``: linear within a bucket, the highest bound for what is above it; ``None`` without any."""
    rank = share * sum(counts)
    if not rank:
        return None
    seen = 0.0
    for place, (bound, count) in enumerate(zip(bounds, counts, strict=False)):
        if count and seen + count >= rank:
            low = bounds[place - 1] if place else 0.0
            return low + (bound - low) * (rank - seen) / count
        seen += count
    return bounds[-1]
