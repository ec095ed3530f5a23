"""Journals: every paid outcome of one procedure, written before it is handed on, replayed when it is run again."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import msgspec

from ..chat import Reply
from ..errors import StoreError
from .append import Appender, was_cut
from .copies import replace
from .trouble import private_folder, unwritable

VERSION = 1
SUFFIX = ".jsonl"
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_KEY = re.compile(r"[0-9a-f]{32,128}")


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="journal", tag_field="row"):
    """The first row: whose journal this is. ``describe`` says it to people."""

    kind: str
    key: str
    version: int
    started: float
    describe: dict[str, object] = {}


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag="outcome", tag_field="row", omit_defaults=True):
    """What one call ended with: a whole reply, or the words of the error that ended it for good.

    ``cost`` is in US dollars, failed attempts included, ``None`` when the price is unknown.
    """

    key: str
    reply: Reply | None = None
    error: str = ""
    cost: float | None = None
    attempts: int = 1
    tokens: int = 0
    """Set for an attempt that failed and may have been counted all the same: the most that it took, as ``cost`` is the
    most that it cost. Such a row is no outcome of its call."""
    counted: bool = False
    """Of a call that failed for good: whether the provider may have counted it all the same."""
    found: bool = False
    """Whether the reply was in the cache: another procedure has paid for it."""


class Sent(msgspec.Struct, frozen=True, kw_only=True, tag="sent", tag_field="row", omit_defaults=True):
    """A call goes out; ``over``: it failed without an outcome. Only written by procedures that tell how many were cut off."""

    key: str
    over: bool = False


class Closing(msgspec.Struct, frozen=True, kw_only=True, tag="closing", tag_field="row"):
    """The last row of a procedure that came to its end."""

    result: dict[str, object] | None
    ended: float


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Header | Outcome | Sent | Closing).decode


def journal_path(folder: str, kind: str, key: str) -> str:
    """Where the journal of this procedure stands. Raises :class:`StoreError` for a kind or key that is no name."""
    if not _KIND.fullmatch(kind) or not _KEY.fullmatch(key):
        raise StoreError(f"a journal is named by a word and a hex key, not {kind!r} and {key!r}")
    return os.path.join(folder, f"{kind}-{key[:32]}{SUFFIX}")


class Journal:
    """The journal of one procedure, open for replay and appending; safe for several threads and processes.

    ``entries`` holds the last outcome of each call key, replayed and new ones alike; ``replayed`` how many of them
    came from the file; ``lost`` the attempts that failed and may have been paid for; ``cut_off`` how many calls were
    under way when earlier runs were killed; ``damaged`` how many lines could not be read (rows that a crash or a full
    disk cut off are no damage: they were never handed on). Redaction is the caller's duty.
    """

    def __init__(self, folder: str, kind: str, key: str, describe: Mapping[str, object] | None = None) -> None:
        """Opens or begins it. Raises :class:`StoreError` when it can't be written or is another procedure's."""
        self.path = journal_path(folder, kind, key)
        self._header = Header(kind=kind, key=key, version=VERSION, started=time.time(), describe=dict(describe or {}))
        self._begin()
        self._file = Appender(self.path, _encode(self._header))
        try:
            private_folder(folder)
            if os.path.exists(self.path):
                self._read()
            self._file.start()
        except OSError as error:
            self._file.close()
            raise unwritable(folder, error) from error
        self.replayed = len(self.entries)
        self.cut_off += len(self._open)

    def _begin(self) -> None:
        self.entries: dict[str, Outcome] = {}
        self.lost: list[Outcome] = []
        self.finished = False
        self.result: dict[str, object] | None = None
        self.damaged = 0
        self.replayed = 0
        self.cut_off = 0
        self._open: set[str] = set()

    def append(self, outcome: Outcome) -> None:
        """Writes ``outcome`` in one ``O_APPEND`` write, then counts it in.

        Raises :class:`StoreError` when it could not be written: a paid reply is not handed on unjournaled.
        """
        if self.finished:
            raise StoreError(f"{self.path} is finished; it can only be begun anew")
        self._write(outcome)
        self._count(outcome)

    def sent(self, key: str, *, over: bool = False) -> None:
        """Notes that a call goes out, or that one which did is ``over`` without an outcome: what is neither was cut off."""
        self._write(Sent(key=key, over=over))

    def finish(self, result: dict[str, object] | None = None) -> None:
        """Closes the journal with the procedure's result (JSON values only)."""
        self._write(Closing(result=result, ended=time.time()))
        self.finished, self.result = True, result

    def restart(self) -> None:
        """Begins anew, dropping what was journaled; the old file is replaced in one step."""
        try:
            replace(self.path, _encode(self._header) + b"\n")
        except OSError as error:
            raise unwritable(os.path.dirname(self.path), error) from error
        self._begin()

    def close(self) -> None:
        """Closes the file; the journal stays as it is."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, row: Outcome | Sent | Closing) -> None:
        try:
            self._file.append(_encode(row))
        except OSError as error:
            raise unwritable(os.path.dirname(self.path), error) from error

    def _read(self) -> None:
        for row in read_rows(self.path):
            if isinstance(row, Outcome):
                self._count(row)
            elif isinstance(row, Sent):
                self._follow(row)
            elif isinstance(row, Closing):
                self.finished, self.result = True, row.result
            elif isinstance(row, Header):
                self._check(row)
            else:
                self.damaged += 1

    def _count(self, row: Outcome) -> None:
        if row.tokens:
            self.lost.append(row)
        else:
            self.entries[row.key] = row
            self._open.discard(row.key)

    def _follow(self, row: Sent) -> None:
        if row.over:
            self._open.discard(row.key)
            return
        self.cut_off += row.key in self._open  # a later run has sent it again
        self._open.add(row.key)

    def _check(self, header: Header) -> None:
        if header.version > VERSION:
            raise StoreError(f"{self.path} was written by a newer promptsmith", hint="update promptsmith, or remove the file")
        if (header.kind, header.key) != (self._header.kind, self._header.key):
            raise StoreError(f"{self.path} is the journal of another procedure ({header.kind} {header.key})", hint="remove the file")


def read_rows(path: str) -> list[Header | Outcome | Sent | Closing | None]:
    """The rows of a journal file, ``None`` for each damaged line; rows that were cut off are dropped. Raises ``OSError``."""
    rows: list[Header | Outcome | Sent | Closing | None] = []
    with open(path, "rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                rows.append(_decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                # What a crash or a full disk cut off was never handed on, and stays where it is when rows follow it.
                if line.endswith(b"\n") and not was_cut(line):
                    rows.append(None)
    return rows


def is_finished(path: str) -> bool:
    """Whether the last complete row of a journal closes it; reads from the end. Raises ``OSError``."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        length = 1 << 16
        while True:
            file.seek(max(0, size - length))
            lines = [line for line in file.read(length).split(b"\n") if line.strip()]
            whole = length >= size
            if whole or len(lines) > 1:
                return bool(lines) and lines[-1].startswith(b'{"row":"closing"')
            length *= 4
