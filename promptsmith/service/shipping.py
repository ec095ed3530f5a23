"""Ships the ledger into the server registry: every row is on this machine's disk first, and goes over in batches.

How far it has come stands in a file beside the registry's copy and is written after the rows are: a row may be sent
twice, after a crash, and has an id by which it counts once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..canonical import sha256
from ..config import Project
from ..registry.postgres.connection import Database
from ..registry.protocol import RegistryWarning
from ..store.copies import replace
from ..store.layout import LEDGER, REGISTRY
from ..store.ledger import LedgerRow
from ..store.trouble import private_folder

if TYPE_CHECKING:
    from psycopg import Connection

BATCH = 1000
SECONDS = 1.0
_LONGEST_PAUSE = 30.0
_MOST = 2**63 - 1
"""What a column holds: a provider may say anything, and one row must not hold up all that follow."""
_INSERT = (
    "INSERT INTO promptsmith_ledger (id, machine, ended, task, prompt, stage, model, endpoint, input, output, cached, written,"
    " reasoning, cost, latency, attempts, source, status)"
    f" VALUES ({', '.join(['%s'] * 18)}) ON CONFLICT (id) DO NOTHING"
)
_decode = msgspec.json.Decoder(LedgerRow).decode


class Place(msgspec.Struct, frozen=True):
    """Up to where a ledger is shipped: the byte, and the file that it is one of."""

    offset: int = 0
    inode: int = 0


class _Batch(NamedTuple):
    """Whole lines of the ledger, each with the byte that it begins at, and the byte after them."""

    lines: list[tuple[int, bytes]]
    place: Place


class Shipper:
    """Ships the ledger of ``project`` into ``database``; of many processes that share a cache folder one at a time does."""

    def __init__(self, project: Project, database: Database) -> None:
        self._ledger = project.cache / LEDGER
        self._state = project.cache / REGISTRY / f"{sha256(database.address.place or database.address.url)[:16]}.shipped"
        self._database = database
        self._machine = platform.node() or "unknown"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Ships every second, in a thread of its own, until :meth:`close`."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="promptsmith-ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ships what is left, unless the database is out of reach: then the next start does."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        pause = SECONDS
        last = told = False
        while not last:
            last = self._stop.wait(pause)
            try:
                self.ship()
                pause, told = SECONDS, False
            except Exception as error:  # whatever it is, the thread goes on
                pause = min(2 * pause, _LONGEST_PAUSE)
                # The registry's own thread warns when the database is out of reach.
                if not getattr(error, "retryable", False) and not told:
                    told = True
                    warnings.warn(f"the ledger does not reach the registry, its rows wait here: {error}", RegistryWarning, stacklevel=2)

    def ship(self) -> int:
        """Ships everything that is not shipped yet; how many rows were new. 0 while another process does it.

        Raises :class:`RegistryError`, with nothing lost, and ``OSError`` when the folder can't be used.
        """
        from filelock import FileLock, Timeout

        private_folder(str(self._state.parent))
        counted = 0
        with contextlib.suppress(Timeout), FileLock(self._state.with_suffix(".shipping"), timeout=0):
            for batch in self._batches():
                if batch.lines:
                    with self._database.session() as conn, conn.transaction():
                        counted += self._put(conn, batch.lines)
                replace(str(self._state), msgspec.json.encode(batch.place))
        return counted

    def _batches(self) -> Iterator[_Batch]:
        try:
            file = open(self._ledger, "rb")  # noqa: SIM115 - the with below closes it; here only opening may fail
        except (FileNotFoundError, NotADirectoryError):
            return
        with file:
            found = os.fstat(file.fileno())
            place = self._place()
            # Another file under the name, or one that was cut: from its beginning. What was shipped already counts once.
            at = place.offset if place.inode == found.st_ino and place.offset <= found.st_size else 0
            file.seek(at)
            while True:
                lines: list[tuple[int, bytes]] = []
                start = at
                while len(lines) < BATCH and (line := file.readline()).endswith(b"\n"):
                    lines.append((at, line))
                    at += len(line)
                file.seek(at)  # half of a line that is just being written is read again, as a whole
                if at == start:
                    return
                yield _Batch(lines, Place(at, found.st_ino))

    def _place(self) -> Place:
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=Place)
        except (OSError, msgspec.MsgspecError):
            return Place()

    def _put(self, conn: Connection, lines: list[tuple[int, bytes]]) -> int:
        rows = [values for _, line in lines if (values := _values(line, self._machine)) is not None]
        if not rows:
            return 0
        with conn.cursor() as cursor:
            cursor.executemany(_INSERT, rows)
            return cursor.rowcount


def _values(line: bytes, machine: str) -> tuple[object, ...] | None:
    """A row for the table; ``None`` for a damaged line, as a crash leaves it."""
    try:
        row = _decode(line)
        ended = datetime.fromtimestamp(row.time, UTC)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, OverflowError, OSError):
        return None
    # Not its place: a ledger that was repaired has others. Time and latency, to the nanosecond, tell two rows apart.
    number = hashlib.sha256(line).digest()[:16]
    words = [_text(word) for word in (row.task, row.prompt, row.stage, row.model, row.endpoint)]
    counts = [min(number, _MOST) for number in (row.input, row.output, row.cached, row.written, row.reasoning)]
    amounts = (*counts, row.cost, row.latency, min(row.attempts, 2**31 - 1))
    return (number, _text(machine), ended, *words, *amounts, _text(row.source), _text(row.status))


def _text(text: str) -> str:
    return text.replace("\x00", "\\0")  # which a text of PostgreSQL can't hold
