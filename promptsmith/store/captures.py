"""Captured calls: redacted inputs and outputs of a share of the live calls, kept for a person to review.

They are users' text: in files for their owner only, bounded, gone after the replies' time and with
``cache clear --replies``. A lost one costs nothing, so nothing here ever fails a call.
"""

from __future__ import annotations

import errno
import os
import re
import time

import msgspec

from ..canonical import sha256
from ..errors import StoreError
from .append import Appender, was_cut
from .copies import replace
from .trouble import Trouble, private_folder

SUFFIX = ".jsonl"
SETTLED = ".settled"
MOST_BYTES = 8 << 20
"""Of one task's file: past it the oldest rows are dropped, down to half of it."""
ROW_BYTES = 1 << 20
"""Of one row: a longer one is not kept, or a few of them would drive out all others."""
_LOOK_SECONDS = 3600.0
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


class Capture(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call, secrets taken out. ``id`` is the id that its inputs have as a case."""

    id: str
    time: float
    """Seconds since the epoch, when the call ended."""
    prompt: str
    model: str
    """The model that answered."""
    inputs: dict[str, str]
    output: str
    ok: bool
    """Whether the output satisfies the contract."""
    reasons: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Capture).decode


class Captures:
    """The files in ``directory``: one of captured calls per task, and one of the ids that were labelled or dropped.

    Rows live ``ttl`` seconds (``None``: until there are too many) and take ``most`` bytes a task.
    """

    def __init__(self, directory: str, trouble: Trouble, *, ttl: float | None = None, most: int = MOST_BYTES) -> None:
        self._directory, self._trouble = directory, trouble
        self._ttl, self._most = ttl, most
        self._looked: dict[str, float] = {}

    def path(self, task: str, suffix: str = SUFFIX) -> str:
        """The file of ``task``. Its name can be any text, so the digest tells apart what looks alike as a file's name."""
        readable = _NOT_IN_NAMES.sub("-", task).strip(".-")[:80]
        return os.path.join(self._directory, f"{readable}-{sha256(task)[:12]}{suffix}")

    def add(self, task: str, row: Capture) -> None:
        """Keeps ``row``; trouble with the disk is warned of once and never raised."""
        line = _encode(row)
        if len(line) <= ROW_BYTES:
            self._append(self.path(task), line)
            self._tidy(self.path(task), row.time)

    def rows(self, task: str) -> list[Capture]:
        """The calls of ``task`` that are not past their time, oldest first; damaged lines are skipped."""
        since = _since(self._ttl, time.time())
        return [row for row in map(_row, self._lines(self.path(task))) if row is not None and row.time >= since]

    def settle(self, task: str, case: str) -> None:
        """Notes that the input with this id was labelled or dropped: it is not to be shown again."""
        self._append(self.path(task, SETTLED), case.encode())

    def settled(self, task: str) -> frozenset[str]:
        """The ids that were labelled or dropped."""
        return frozenset(line.decode("utf-8", "replace").strip() for line in self._lines(self.path(task, SETTLED)))

    def _append(self, path: str, line: bytes) -> None:
        # Opened for each row: rows are rare, and so nothing stays open for every task that was ever served.
        file = Appender(path)
        try:
            private_folder(self._directory)
            file.append(line)
        except OSError as error:
            self._trouble.tell(error)
        except StoreError as error:
            self._trouble.tell(OSError(errno.ELOOP, error.message))
        finally:
            file.close()

    def _lines(self, path: str) -> list[bytes]:
        try:
            return read_lines(path)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._trouble.tell(error)
            return []

    def _tidy(self, path: str, now: float) -> None:
        try:
            full = os.stat(path).st_size > self._most
            if full or now - self._looked.get(path, 0.0) > _LOOK_SECONDS:
                self._looked[path] = now
                trim(path, _since(self._ttl, now), self._most // 2 if full else None)
        except OSError as error:
            self._trouble.tell(error)


def read_lines(path: str) -> list[bytes]:
    """The lines of a file that is no link. Raises ``OSError``."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        return file.readlines()


def count_rows(path: str) -> tuple[int, int]:
    """How many captured calls a file holds, and how many damaged lines besides. Raises ``OSError``."""
    lines = [line for line in read_lines(path) if line.strip()]
    rows = sum(_row(line) is not None for line in lines)
    return rows, sum(_row(line) is None and not was_cut(line) for line in lines)


def trim(path: str, since: float, most: int | None = None) -> int:
    """Drops the rows before ``since`` (Unix time), then the oldest beyond ``most`` bytes; returns how many.

    Rows that others append meanwhile are carried over. Two who trim one file at the same moment can lose a row of that
    moment. Raises ``OSError``.
    """
    with open(path, "rb") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1  # what follows may be on its way
        lines = data[:whole].splitlines(keepends=True)
        kept = _kept(lines, since, most)
        if len(kept) == len(lines):
            return 0
        replace(path, b"".join(kept))
        file.seek(whole)
        late = file.readlines()  # written to the old file after it was read
    target = Appender(path)
    try:
        for line in late:
            target.append(line.rstrip(b"\n"))
    finally:
        target.close()
    return len(lines) - len(kept)


def _kept(lines: list[bytes], since: float, most: int | None) -> list[bytes]:
    kept: list[bytes] = []
    size = 0
    for line in reversed(lines):
        row = _row(line)
        if row is None or row.time < since:
            continue
        size += len(line)
        if most is not None and size > most:
            break
        kept.append(line)
    return kept[::-1]


def _row(line: bytes) -> Capture | None:
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _since(ttl: float | None, now: float) -> float:
    return 0.0 if ttl is None else now - ttl
