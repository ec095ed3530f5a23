"""Looks: how many distinct prompts a holdout has been asked about. Each one makes the best of them look better than it is.

They stand in a file of the cache folder that is never cleared, and in the receipts of the lock; the larger count holds.
A suite that shares over half of its case ids with an earlier one inherits its looks: scorers and gate do not enter.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import StoreError
from ..receipt import Receipt
from ..store.append import Appender
from ..store.layout import LOOKS
from ..store.trouble import private_folder, unwritable

INHERITED = 0.5
"""A larger share of case ids than this makes it the same holdout."""


class SeenSuite(msgspec.Struct, frozen=True, kw_only=True, tag="suite", tag_field="row"):
    """The case ids of one suite, written before the first look at it."""

    suite: str
    task: str
    cases: str
    """Ids joined by line feeds."""


class Look(msgspec.Struct, frozen=True, kw_only=True, tag="look", tag_field="row"):
    """One prompt was scored on a suite; ``revealed``: its texts were shown."""

    suite: str
    prompt: str
    time: float
    """Seconds since the epoch."""
    revealed: bool = False
    looks: int = 0
    """How many there were with this one, as far as this file and the receipts knew."""


class Counted(NamedTuple):
    """Distinct prompts scored so far, this one among them, and how often texts were shown."""

    looks: int
    reveals: int


_decode = msgspec.json.Decoder(SeenSuite | Look).decode
_encode = msgspec.json.Encoder().encode


class Looks:
    """The looks that one cache folder knows of."""

    def __init__(self, cache: Path) -> None:
        self._path = cache / LOOKS

    def look(self, suite: str, task: str, cases: Sequence[str], prompt: str, receipts: Iterable[Receipt], *, revealed: bool) -> Counted:
        """Counts and records in one step, so that of two processes the second sees the first. Raises :class:`StoreError`."""
        from filelock import FileLock

        try:
            private_folder(str(self._path.parent))
            with FileLock(f"{self._path}.lock"):
                counted = self.count(cases, prompt, receipts)
                self.record(suite, task, cases, prompt, revealed=revealed, looks=counted.looks)
        except OSError as error:
            raise unwritable(str(self._path.parent), error) from error
        return counted

    def record(self, suite: str, task: str, cases: Sequence[str], prompt: str, *, revealed: bool, looks: int = 0) -> None:
        """Writes that ``prompt`` was scored. Raises :class:`StoreError` when that can't be kept."""
        rows: list[SeenSuite | Look] = []
        if not any(isinstance(row, SeenSuite) and row.suite == suite for row in self._rows()):
            rows.append(SeenSuite(suite=suite, task=task, cases="\n".join(cases)))
        rows.append(Look(suite=suite, prompt=prompt, time=time.time(), revealed=revealed, looks=looks))
        file = Appender(str(self._path))
        try:
            private_folder(str(self._path.parent))
            for row in rows:
                file.append(_encode(row))
        except OSError as error:
            raise unwritable(str(self._path.parent), error) from error
        finally:
            file.close()

    def count(self, cases: Sequence[str], prompt: str, receipts: Iterable[Receipt] = ()) -> Counted:
        """The looks at this holdout once ``prompt`` is scored on it. Raises :class:`StoreError`."""
        ids = set(cases)
        rows = self._rows()
        kin = _lineage(ids, {row.suite: set(row.cases.split("\n")) for row in rows if isinstance(row, SeenSuite)})
        looks = [row for row in rows if isinstance(row, Look) and row.suite in kin]
        reveals = sum(look.revealed for look in looks)
        counted, prompts = 0, set[str]()
        for look in looks:
            # A row knows of looks that this file has lost: what the receipts of the lock had counted.
            counted = max(counted + (look.prompt not in prompts), look.looks)
            prompts.add(look.prompt)
        for receipt in receipts:
            if receipt.rows and _is_kin(ids, [row.id for row in receipt.parse_rows()]):
                counted = max(counted, receipt.looks)
                prompts.add(receipt.prompt)
                reveals = max(reveals, receipt.reveals)
        return Counted(counted + (prompt not in prompts), reveals)

    def _rows(self) -> list[SeenSuite | Look]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self._path} can't be read: {error.strerror}", hint="looks at holdouts are counted there") from None
        rows = []
        for line in data.split(b"\n"):
            try:
                if line.strip():
                    rows.append(_decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # cut off by a crash or a full disk; the receipts still count
        return rows


def _lineage(ids: set[str], suites: Mapping[str, set[str]]) -> set[str]:
    """The suites that one with these case ids inherits from, directly or through others."""
    found: set[str] = set()
    waiting = [ids]
    while waiting:
        of = waiting.pop()
        kin = {name for name, cases in suites.items() if name not in found and _is_kin(of, cases)}
        found |= kin
        waiting += [suites[name] for name in kin]
    return found


def _is_kin(ids: set[str], others: Iterable[str]) -> bool:
    return bool(ids) and len(ids.intersection(others)) > INHERITED * len(ids)
