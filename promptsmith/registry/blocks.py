"""Cuts a lock file into the blocks of its tasks without parsing them, so that damage to one stops no other.

A task's name is the only thing that stands two columns in; everything below it is indented by four or more.
What stands further left is a merge marker or does not belong there, and costs only the tasks that it touches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..errors import LockError
from .emit import key

VERSION = 1
HEADER = f"version: {VERSION}\ntasks:\n".encode()
EMPTY = f"version: {VERSION}\ntasks: {{}}\n".encode()
"""A lock with no task, as ``init`` writes it."""

_VERSION = re.compile(rb"version: ([0-9]{1,9})(?:\n|\Z)")
_LEFT = re.compile(rb"\n(?! {4})([^\n]+)")
_MARKER = re.compile(rb"([<=>|])\1{6}(?: |\Z)")
_GIT = "take the file from git, or let git's copy of it be merged again"


class Piece(NamedTuple):
    """A run of whole lines: one task's block, or lines that belong to none (``name`` is ``None``)."""

    name: str | None
    line: int
    """Of its first line, counted from 1."""
    data: bytes
    conflict: bool
    """Whether it stands between merge markers."""


class Damage(NamedTuple):
    """What is wrong with a task as a whole, and where."""

    line: int
    what: str


class Cut(NamedTuple):
    """A lock file in pieces. ``damaged`` holds the name ``""`` for lines before the first task."""

    pieces: tuple[Piece, ...]
    blocks: Mapping[str, Piece]
    damaged: Mapping[str, Damage]

    def names(self) -> tuple[str, ...]:
        """Every task, damaged or not, sorted."""
        return tuple(sorted({*self.blocks, *filter(None, self.damaged)}))


def cut(data: bytes, file: str) -> Cut:
    """The pieces of a whole file. Raises :class:`LockError` when its head is damaged or its version newer."""
    # A checkout with Windows line ends: no text of ours holds a bare carriage return, so nothing is lost.
    data = data.replace(b"\r\n", b"\n") if b"\r" in data else data
    _check_head(data, file)
    if data in (EMPTY, HEADER):
        return Cut((), {}, {})
    if not data.startswith(HEADER):
        raise LockError(f"{file}:2: has no 'tasks:' in its second line, so nothing in it can be found", hint=_GIT)
    return _Cutter(data).cut()


def put(old: Cut, name: str, block: bytes) -> bytes:
    """The whole file with one task's block replaced or added; every other piece stays as it is, damaged or not."""
    pieces = [piece.data for piece in old.pieces]
    if name in old.blocks:
        pieces[old.pieces.index(old.blocks[name])] = block
    else:
        later = (i for i, piece in enumerate(old.pieces) if piece.name is not None and not piece.conflict and piece.name > name)
        pieces.insert(next(later, len(pieces)), block)
    return HEADER + b"".join(piece if piece.endswith(b"\n") else piece + b"\n" for piece in pieces)


def is_newer(data: bytes) -> bool:
    """Whether a file is in a later format than this promptsmith reads."""
    version = _VERSION.match(data.replace(b"\r\n", b"\n", 1))
    return version is not None and int(version[1]) > VERSION


def _check_head(data: bytes, file: str) -> None:
    if not data or data.isspace():
        raise LockError(f"{file}:1: the file is empty", hint=f"{_GIT}; or delete it to start with no promoted prompt")
    version = _VERSION.match(data)
    if version is None:
        what = "has an unresolved merge conflict" if _MARKER.match(data) else f"does not begin with 'version: {VERSION}'"
        raise LockError(f"{file}:1: {what}", hint=_GIT)
    if int(version[1]) > VERSION:
        raise LockError(
            f"{file}:1: written by a newer promptsmith (version {int(version[1])}, this one reads {VERSION})",
            hint="upgrade promptsmith: pip install -U promptsmith",
        )
    if int(version[1]) != VERSION:
        raise LockError(f"{file}:1: there is no version {int(version[1])} of this file", hint=_GIT)


class _Cutter:
    """One pass over the lines that stand left of a task's content."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pieces: list[Piece] = []
        self.blocks: dict[str, Piece] = {}
        self.damaged: dict[str, Damage] = {}
        self.owner = ""  # the task that indented lines belong to; "" before the first
        self.before = ""  # the owner where the conflict began: each of its sides goes on from there
        self.inside = 0  # the line of the opening marker while between markers
        self.last = 0  # the same, also after the closing one
        self.opened: tuple[str | None, int, int, bool] | None = None  # name, line, offset, conflict of the running piece

    def cut(self) -> Cut:
        closing = False
        end = counted = len(HEADER) - 1  # the line end before the first task
        line = 2
        for match in _LEFT.finditer(self.data, end):
            start = match.start() + 1
            line += self.data.count(b"\n", counted, start)
            counted = start
            self._content(match.start() > end, closing)
            closing = self._left(match[1], line, start)
            end = match.end()
        self._content(len(self.data) > end + 1, closing)
        self._close(len(self.data))
        if not self.data.endswith(b"\n") and self.owner:
            self._hurt(self.owner, self.data.count(b"\n") + 1, "ends in the middle of a line")
        whole = {name: piece for name, piece in self.blocks.items() if name not in self.damaged}
        return Cut(tuple(self.pieces), whole, self.damaged)

    def _content(self, some: bool, closing: bool) -> None:
        """Judge the indented lines that stood between two lines at the left."""
        if some and self.inside:
            self._hurt(self.owner, self.inside, "has an unresolved merge conflict")
        elif some and closing:
            self._hurt(self.before, self.last, "has an unresolved merge conflict")
        elif some and not self.pieces and self.opened is None:
            self._hurt("", 3, "lines that belong to no task")

    def _left(self, text: bytes, line: int, start: int) -> bool:
        """Take in one line at the left; whether it closes a conflict."""
        marker = _MARKER.match(text)
        if marker:
            return self._marker(marker[1], text, line, start)
        name = _name(text)
        if name is None:
            self._hurt(self.owner, line, f"has a line that does not belong there: {text[:60].decode(errors='replace')!r}")
            return False
        self._open(name, line, start)
        if self.inside:
            self._hurt(name, self.inside, "has an unresolved merge conflict")
        self.owner = name
        return False

    def _marker(self, kind: bytes, text: bytes, line: int, start: int) -> bool:
        self._open(None, line, start)
        if kind == b"<" and not self.inside and self._closes(start):
            self.inside = self.last = line
            self.before = self.owner
        elif kind in b"=|" and self.inside:
            self.owner = self.before
        elif kind == b">" and self.inside:
            self.inside = 0
            return True
        else:
            self._hurt(self.owner, line, f"has a merge marker left over: {text[:60].decode(errors='replace')}")
        return False

    def _closes(self, start: int) -> bool:
        """Whether a closing marker follows before the next opening one."""
        close = self.data.find(b"\n>>>>>>>", start)
        reopen = self.data.find(b"\n<<<<<<<", start)
        return close >= 0 and (reopen < 0 or close < reopen)

    def _open(self, name: str | None, line: int, start: int) -> None:
        self._close(start)
        self.opened = (name, line, start, bool(self.inside))

    def _close(self, end: int) -> None:
        name, line, start, conflict = self.opened or (None, 3, len(HEADER), False)
        if end == start:
            return
        piece = Piece(name, line, self.data[start:end], conflict)
        self.pieces.append(piece)
        if name is None:
            return
        if name in self.blocks:
            self._hurt(name, line, f"stands twice in the file, first in line {self.blocks[name].line}")
        self.blocks[name] = piece

    def _hurt(self, name: str, line: int, what: str) -> None:
        self.damaged.setdefault(name, Damage(line, what))


def _name(text: bytes) -> str | None:
    """The task that a line names, or ``None`` when it names none."""
    if not text.startswith(b"  ") or not text.endswith(b":"):
        return None
    try:
        written = text[2:-1].decode()
        name = json.loads(written) if written.startswith('"') else written
    except ValueError:
        return None
    return name if isinstance(name, str) and key(name) == written else None


def problems(found: Cut, file: str) -> Iterator[str]:
    """Every damage that was seen while cutting, as ``file:line: what``."""
    for name, (line, what) in sorted(found.damaged.items(), key=lambda item: item[1].line):
        yield f"{file}:{line}: {f'task {name!r} {what}' if name else what}"
