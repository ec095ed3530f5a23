"""What the provider saw: every request, when it came and went, and how it ended."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from .values import Usage


@dataclass
class Record:
    """One request. Times are ``time.monotonic()`` of the provider's process; ``None`` is not yet."""

    number: int
    method: str
    path: str
    """With its query."""
    headers: Mapping[str, str]
    """Names in lower case."""
    started: float
    in_flight: int
    """Requests being served when this one came, itself included."""
    body: bytes = b""
    received: float | None = None
    """When the body was complete."""
    protocol: str = ""
    model: str = ""
    fault: str = ""
    """The kind of the fault that was injected."""
    status: int = 0
    """HTTP status of the answer; 0 before its headers."""
    usage: Usage | None = None
    events: int = 0
    """Events of a stream sent whole."""
    first_byte: float | None = None
    ended: float | None = None
    aborted: float | None = None
    """When the client was seen to have gone before its answer was complete."""

    @property
    def json(self) -> Any:
        """The parsed body."""
        return msgspec.json.decode(self.body)

    @property
    def digest(self) -> str:
        """sha256 of the body."""
        return hashlib.sha256(self.body).hexdigest()


class Records:
    """All records, or the last ``keep`` of them; the counters are of all. Every method may be called from any thread."""

    def __init__(self, keep: int | None = None) -> None:
        self._changed = threading.Condition()
        self._kept: deque[Record] = deque(maxlen=keep)
        self._in_flight = 0
        self._reset()

    def _reset(self) -> None:
        self._kept.clear()
        self._count = 0
        self._finished = 0
        self._max_in_flight = self._in_flight
        self._statuses: Counter[int] = Counter()

    # --- written by the server ----------------------------------------------------------------------------

    def begin(self, number: int, method: str, path: str, headers: Mapping[str, str]) -> Record:
        with self._changed:
            self._in_flight += 1
            self._count += 1
            self._max_in_flight = max(self._max_in_flight, self._in_flight)
            record = Record(number, method, path, headers, time.monotonic(), self._in_flight)
            self._kept.append(record)
            self._changed.notify_all()
            return record

    def received(self, record: Record, body: bytes) -> None:
        with self._changed:
            record.body = body
            record.received = time.monotonic()
            self._changed.notify_all()

    def end(self, record: Record, *, aborted: bool) -> None:
        with self._changed:
            record.ended = time.monotonic()
            if aborted:
                record.aborted = record.ended
            self._in_flight -= 1
            self._finished += 1
            self._statuses[record.status] += 1
            self._changed.notify_all()

    # --- read by tests ------------------------------------------------------------------------------------

    def all(self) -> list[Record]:
        """In order of arrival."""
        with self._changed:
            return list(self._kept)

    @property
    def last(self) -> Record:
        with self._changed:
            return self._kept[-1]

    def __len__(self) -> int:
        with self._changed:
            return self._count

    @property
    def in_flight(self) -> int:
        with self._changed:
            return self._in_flight

    @property
    def max_in_flight(self) -> int:
        with self._changed:
            return self._max_in_flight

    @property
    def statuses(self) -> Counter[int]:
        """How many requests ended with each status."""
        with self._changed:
            return Counter(self._statuses)

    def digests(self) -> Counter[str]:
        """How many kept requests had each body, by its sha256."""
        return Counter(record.digest for record in self.all())

    def usage(self) -> Usage:
        """The sum over the kept requests that were answered."""
        seen = [record.usage for record in self.all() if record.usage is not None]
        written: Counter[str] = Counter()
        for usage in seen:
            written.update(usage.written)
        return Usage(
            sum(usage.input for usage in seen),
            sum(usage.output for usage in seen),
            sum(usage.cached for usage in seen),
            dict(written),
            sum(usage.thinking for usage in seen),
        )

    def wait(self, ready: Callable[[list[Record]], bool], timeout: float = 10.0) -> list[Record]:
        """The records, as soon as ``ready`` says so (looked at when one comes, is complete, or ends). Raises :class:`TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: ready(list(self._kept)), timeout):
                raise TimeoutError(f"not so within {timeout:g} s; {self._count} requests came, {self._finished} ended")
            return list(self._kept)

    def clear(self) -> None:
        """Forgets what came so far; numbers go on, requests in flight stay counted."""
        with self._changed:
            self._reset()
