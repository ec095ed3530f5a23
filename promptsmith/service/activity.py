"""What the ledger says, for the pages: calls by the hour and costs by the day, read on from where the last look has ended."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from copy import copy
from hashlib import sha256
from pathlib import Path

import msgspec

from ..store.whole import drafted

HOURS, DAYS = 24, 30
OTHER = "other"
"""Stands for task and model of what comes after the most that are told apart."""
RUN = "run"
"""The stage of calls in production."""
_CHUNK = 1 << 20
_TAIL = 256
"""Bytes before the place that was read to, by whose digest the file is known again."""
_CHECKPOINT_BYTES = 4 << 20
_DISORDER = 3600.0
"""Seconds by which a row may stand behind a later one: calls end in several processes."""
_GOOD = frozenset(("end", "length", "refused", "filtered", "cancelled", ""))
"""How a call ends that has not failed: a reply's stop, or the caller that left. An aborted reply is one that broke off."""


class Sum(msgspec.Struct, array_like=True):
    """What calls come to. ``calls`` are all, failed and cached ones too; ``cost`` in US dollars lacks the ``unpriced``."""

    calls: int = 0
    errors: int = 0
    cached: int = 0
    """Answered from here: by the cache, a record, a journal."""
    unpriced: int = 0
    cost: float = 0.0
    input: int = 0
    output: int = 0

    def add(self, other: Sum) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Of(msgspec.Struct, frozen=True, array_like=True):
    """Whose calls."""

    task: str
    model: str
    stage: str


class Spent(msgspec.Struct, frozen=True):
    """One task's calls of one model on one day (UTC), in all stages or production alone."""

    day: str
    task: str
    model: str
    sum: Sum


class _Row(msgspec.Struct):
    """Of a ledger row what is added up."""

    time: float
    task: str
    stage: str
    model: str
    input: int = 0
    output: int = 0
    cost: float | None = None
    source: str = ""
    status: str = ""


class _State(msgspec.Struct):
    """All that a look leaves behind; a checkpoint is this as JSON."""

    version: int = 2
    offset: int = 0
    tail: str = ""
    newest: float = 0.0
    damaged: int = 0
    hours: dict[int, dict[str, Sum]] = {}
    """By hour since the epoch and task, of calls in production."""
    days: dict[int, list[tuple[Of, Sum]]] = {}


class Activity:
    """Sums over the ledger at ``path``. Any thread may use it; :meth:`refresh` is for one that may wait for the disk.

    A ledger that was rotated or cut off is read from its start and what it held before stays counted, as its rows are
    newer; one that was replaced by rows that were counted already is counted anew. Damaged lines are skipped and counted.
    At most ``most`` combinations of task, model and stage are told apart in a day. ``checkpoint`` is a file
    to go on from after a restart; any trouble with it costs time only.
    """

    def __init__(self, path: Path, checkpoint: Path | None = None, *, most: int = 1000, clock: Callable[[], float] = time.time) -> None:
        self._path, self._checkpoint, self._most, self._clock = path, checkpoint, most, clock
        self._lock = threading.Lock()
        self._fd = -1
        self._kept = 0
        self._begin(_State())
        self._load()

    @property
    def damaged(self) -> int:
        """Lines that were no rows."""
        return self._state.damaged

    def refresh(self) -> None:
        """Reads what was written since; a ledger that can't be read changes nothing."""
        with self._lock:
            try:
                self._follow()
            except OSError:
                return
            self._prune()
            if self._checkpoint is not None and abs(self._state.offset - self._kept) >= _CHECKPOINT_BYTES:
                self._save()

    def hours(self, task: str) -> tuple[Sum, ...]:
        """Calls of ``task`` in production by the hour, the last 24: the oldest first, the last being the present hour."""
        with self._lock:
            now = int(self._clock() // 3600)
            return tuple(copy(self._state.hours.get(now - back, {}).get(task, Sum())) for back in range(HOURS - 1, -1, -1))

    def spent(self, *, days: int = DAYS, stage: str = "") -> list[Spent]:
        """By day, task and model, the newest day first; ``stage`` limits it to one."""
        with self._lock:
            today = int(self._clock() // 86400)
            found: dict[tuple[int, str, str], Sum] = {}
            for day in self._days:
                for of, one in self._days[day].items():
                    if today - days < day and (not stage or of.stage == stage):
                        found.setdefault((-day, of.task, of.model), Sum()).add(one)
            return [Spent(_date(-day), task, model, found[day, task, model]) for day, task, model in sorted(found)]

    # --- reading ------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Reads the file that is open to its end, then, if another is at the path, that one."""
        if self._fd < 0:
            self._open()
        self._read()
        found, own = os.stat(self._path), os.fstat(self._fd)
        if (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
            self._open()
            self._read()

    def _open(self) -> None:
        fd = os.open(self._path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        self.close()
        self._fd = fd

    def close(self) -> None:
        """Closes the ledger; the next refresh opens it again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read(self) -> None:
        if not self._goes_on():
            self._state.offset, self._state.tail = 0, ""
        if not self._state.offset:
            self._from_start()
        while chunk := os.pread(self._fd, _CHUNK, self._state.offset):
            end = chunk.rfind(b"\n") + 1
            if not end:
                if len(chunk) < _CHUNK:
                    break  # a line that is being written
                self._state.damaged += 1
                end = len(chunk)
            else:
                self._lines(chunk[:end])
            self._state.offset += end
        self._state.tail = self._tail(self._state.offset)

    def _goes_on(self) -> bool:
        """Whether the file holds before the offset what it held when it was read."""
        return not self._state.offset or self._tail(self._state.offset) == self._state.tail

    def _tail(self, offset: int) -> str:
        start = max(0, offset - _TAIL)
        found = os.pread(self._fd, offset - start, start)
        return sha256(found).hexdigest() if len(found) == offset - start else ""

    def _from_start(self) -> None:
        """Counts on top of what was counted, unless that is what the file holds: then anew."""
        first = next(iter(_rows(os.pread(self._fd, _CHUNK, 0).partition(b"\n")[0])), None)
        if first is not None and first.time < self._state.newest - _DISORDER:
            self._begin(_State())

    # --- adding up ----------------------------------------------------------------------------------------

    def _begin(self, state: _State) -> None:
        self._state = state
        self._days = {day: dict(rows) for day, rows in state.days.items()}

    def _lines(self, data: bytes) -> None:
        try:
            rows = _decoder.decode_lines(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            rows = _rows(data)
            self._state.damaged += sum(1 for line in data.split(b"\n") if line.strip()) - len(rows)
        now = self._clock()
        # Most rows of a chunk are of few kinds and hours: they are added up before they are filed.
        kinds: dict[tuple[str, str, str, int], Sum] = {}
        for row in rows:
            if not 0 < row.time < now + 86400:
                self._state.damaged += 1
                continue
            self._state.newest = max(self._state.newest, min(row.time, now))
            kind = (row.task, row.model, row.stage, int(row.time // 3600))
            one = kinds.get(kind)
            if one is None:
                one = kinds[kind] = Sum()
            _count(one, row)
        for (*names, hour), one in kinds.items():
            self._file(Of(*names), hour, one)

    def _file(self, of: Of, hour: int, counted: Sum) -> None:
        oldest_hour, oldest_day = self._oldest()
        if hour // 24 >= oldest_day:
            self._at(self._days.setdefault(hour // 24, {}), of).add(counted)
        if of.stage == RUN and hour >= oldest_hour:
            tasks = self._state.hours.setdefault(hour, {})
            known = of.task if of.task in tasks or len(tasks) < self._most else OTHER
            tasks.setdefault(known, Sum()).add(counted)

    def _at(self, sums: dict[Of, Sum], of: Of) -> Sum:
        found = sums.get(of)
        if found is None:
            if len(sums) >= self._most:
                stage = of.stage if of.stage in _STAGES else OTHER
                of = Of(OTHER, OTHER, stage)
            found = sums.setdefault(of, Sum())
        return found

    def _oldest(self) -> tuple[int, int]:
        now = self._clock()
        return int(now // 3600) - HOURS + 1, int(now // 86400) - DAYS + 1

    def _prune(self) -> None:
        oldest_hour, oldest_day = self._oldest()
        self._state.hours = {hour: tasks for hour, tasks in self._state.hours.items() if hour >= oldest_hour}
        self._days = {day: rows for day, rows in self._days.items() if day >= oldest_day}

    # --- the checkpoint -----------------------------------------------------------------------------------

    def _load(self) -> None:
        if self._checkpoint is None:
            return
        try:
            state = msgspec.json.decode(self._checkpoint.read_bytes(), type=_State)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return
        if state.version == _State().version and state.offset >= 0:
            self._begin(state)
            self._kept = state.offset

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        self._state.days = {day: list(rows.items()) for day, rows in self._days.items()}
        try:
            self._checkpoint.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with drafted(self._checkpoint, msgspec.json.encode(self._state), mode=0o600) as draft:
                draft.replace(self._checkpoint)
        except OSError:
            return
        self._kept = self._state.offset


_decoder = msgspec.json.Decoder(_Row)
_STAGES = frozenset((RUN, "compile", "eval", "plan"))


def _rows(data: bytes) -> list[_Row]:
    """Those lines that are rows."""
    found = []
    for line in data.split(b"\n"):
        try:
            found.append(_decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return found


def _count(one: Sum, row: _Row) -> None:
    one.calls += 1
    if row.status not in _GOOD:
        one.errors += 1
    if row.source != "model":
        one.cached += 1
        return
    one.input += row.input
    one.output += row.output
    if row.cost is None:
        one.unpriced += 1
    else:
        one.cost += row.cost


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * 86400))
