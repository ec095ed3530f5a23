"""The ledger: one line per call, without any text, kept when everything else in the cache folder is cleared."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from .append import Appender, was_cut
from .trouble import Trouble

_encode = msgspec.json.Encoder().encode


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One call. Tokens as in ``Usage``, ``cost`` in US dollars (``None``: price unknown), times in seconds."""

    time: float
    """Seconds since the epoch, when the call ended."""
    task: str
    prompt: str
    """Prompt id, or empty for a call without one."""
    stage: str
    """What the call was for: ``run``, ``compile``, ``eval``, …"""
    model: str
    endpoint: str
    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0
    cost: float | None = None
    latency: float = 0.0
    attempts: int = 1
    source: str = ""
    """Where the reply came from: a call, the cache, a journal, a record."""
    status: str = ""
    """How it ended: the reply's stop reason, the name of the error (``RateLimited``, …), or ``cancelled``."""


# See chat.py.
msgspec.json.Decoder(LedgerRow)


class Ledger:
    """The file ``path``; ``damaged`` counts the lines that the last :meth:`rows` had to skip.

    ``cut`` counts those of them that a full disk or a crash cut off: the ledger is never cleared, so they would
    stand in the way for good.
    """

    def __init__(self, path: str, trouble: Trouble) -> None:
        self._path = path
        self._trouble = trouble
        self._file = Appender(path)
        self.damaged = self.cut = 0

    def append(self, row: LedgerRow) -> None:
        """Writes one row; trouble with the disk is warned of once and never raised: the call has been paid for."""
        line = _encode(row)
        try:
            try:
                self._file.append(line)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
                self._file.append(line)
        except OSError as error:
            self._trouble.tell(error)

    def rows(self) -> Iterator[LedgerRow]:
        """All rows in the order they were written; damaged lines are skipped and counted."""
        self.damaged = self.cut = 0
        try:
            file = open(self._path, "rb")  # noqa: SIM115 - the with below closes it; here only opening may fail
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._trouble.tell(error)
            return
        with file:
            for line in file:
                try:
                    yield msgspec.json.decode(line, type=LedgerRow)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    self.damaged += bool(line.strip())
                    self.cut += was_cut(line)

    def close(self) -> None:
        self._file.close()
