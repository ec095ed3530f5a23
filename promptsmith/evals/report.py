"""Reports: what an eval found, as one value; kept as JSON lines in the cache folder, the head in the first."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from ..errors import InputError, StoreError, UnknownName
from ..receipt import CaseRow, Rules
from ..store.layout import REPORT_SUFFIX, REPORTS
from ..store.trouble import private_folder
from .attempt import Attempt
from .gate import MAJORITY, Judgement
from .measure import Tally
from .record import write_whole

VERSION = 1
UNANSWERED = "some cases got no answer"
"""Why a report is stopped that no limit stopped."""
_PREFIX = re.compile(r"[0-9a-f]{1,12}")


class ArmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One arm: the prompt, the model that served it, and what was observed."""

    role: str
    """``candidate``, ``baseline`` or ``reference`` (the ``-O0`` prompt beside a first promotion)."""
    prompt: str
    """Prompt id; empty for recorded outputs."""
    model: str
    name: str
    """Which ref it was and why, for people."""
    tally: Tally


class CaseReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One case with the answers of each arm, in the order of the arms. Inputs only when they were revealed."""

    row: CaseRow
    """Id, pass rates and scores, as the verdict saw them."""
    expected: str
    tags: tuple[str, ...] = ()
    inputs: dict[str, str] = {}
    attempts: tuple[tuple[Attempt, ...], ...]
    """By arm and repeat; an attempt that was not reached is unscored."""

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def change(self) -> float:
        """Pass rate of the candidate minus the baseline's, 0 where one is unknown."""
        passed, before = self.row.passed, self.row.base_passed
        return 0.0 if passed is None or before is None else passed - before


# See chat.py.
msgspec.json.Decoder(CaseReport)


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of a report but its cases."""

    version: int
    id: str
    """12 hex digits."""
    identity: str
    """Digest over suite, rules, arms, repeats: equal evals have equal ones."""
    created: str
    """UTC, RFC 3339."""
    task: str
    part: str
    """``holdout``, ``dev``, or ``outputs`` for recorded ones."""
    suite: str
    """Digest of the suite."""
    scorers: tuple[str, ...]
    rules: Rules
    must_pass: tuple[str, ...] = ()
    arms: tuple[ArmReport, ...]
    against: str = ""
    judgement: Judgement
    looks: int = 0
    reveals: int = 0
    left: dict[str, str] = {}
    """Why a case left the suite, by id."""
    rejections: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    repeats: int = 1
    seconds: float = 0.0
    spent: float | None = 0.0
    """US dollars paid by this run for answers and judges; ``None``: a price is unknown."""
    fresh: bool = False
    stopped: str = ""
    """Why it ended before every case was answered; empty when it did not."""

    @property
    def candidate(self) -> ArmReport:
        return self.arms[0]

    def arm(self, role: str) -> ArmReport | None:
        """The arm with this role."""
        return next((arm for arm in self.arms if arm.role == role), None)


# See chat.py.
msgspec.json.Decoder(Head)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole report."""

    head: Head
    cases: tuple[CaseReport, ...]

    def rows(self) -> tuple[CaseRow, ...]:
        """What the verdict was made of."""
        return tuple(case.row for case in self.cases)

    def regressed(self) -> list[CaseReport]:
        """Cases that passed more often before; none without a baseline of real answers."""
        return [case for case in self.cases if case.change < 0] if self.compared else []

    def fixed(self) -> list[CaseReport]:
        """Cases that pass more often than before."""
        return [case for case in self.cases if case.change > 0] if self.compared else []

    def failing(self) -> list[CaseReport]:
        """Cases that do not pass, regressed ones left out."""
        regressed = {case.id for case in self.regressed()}
        return [case for case in self.cases if case.row.passed is not None and case.row.passed < 1 and case.id not in regressed]

    def unscored(self) -> list[CaseReport]:
        """Cases without a score."""
        return [case for case in self.cases if case.row.passed is None]

    @property
    def compared(self) -> bool:
        """Whether there is a baseline of real answers."""
        return bool(self.head.against) and not self.head.against.startswith(MAJORITY)


class Reports:
    """The reports in a project's cache folder."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / REPORTS

    def path(self, report_id: str) -> Path:
        return self._folder / f"{report_id}{REPORT_SUFFIX}"

    def made(self, report_id: str) -> float:
        """When a kept report was written, in seconds since the epoch (``created`` knows whole seconds only)."""
        return self.path(report_id).stat().st_mtime

    def save(self, report: Report) -> Path:
        """Keeps a report. Raises :class:`StoreError` when the disk does not take it."""
        lines = [msgspec.json.encode(report.head), *map(msgspec.json.encode, report.cases)]
        path = self.path(report.head.id)
        try:
            private_folder(str(self._folder))
            write_whole(path, b"\n".join(lines) + b"\n", "the report")
        except (OSError, InputError) as error:
            raise StoreError(f"the report can't be kept: {error}") from None
        return path

    def heads(self, task: str | None = None) -> list[Head]:
        """The heads of all reports (of one task), newest first; what can't be read is left out."""
        found = []
        for path in self._folder.glob(f"*{REPORT_SUFFIX}"):
            try:
                with path.open("rb") as file:
                    head, written = msgspec.json.decode(file.readline(), type=Head), os.fstat(file.fileno()).st_mtime_ns
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if task is None or head.task == task:
                found.append((head.created, written, head))  # two reports may be of one second
        return [head for *_, head in sorted(found, key=lambda row: row[:2], reverse=True)]

    def load(self, prefix: str) -> Report:
        """The report whose id begins with ``prefix``. Raises :class:`UnknownName`, :class:`StoreError`."""
        if not _PREFIX.fullmatch(prefix):
            raise UnknownName(f"{prefix!r} is no report's id", hint="promptsmith report lists them")
        found = sorted(self._folder.glob(f"{prefix}*{REPORT_SUFFIX}"))
        if len(found) != 1:
            what = "no report has" if not found else f"{len(found)} reports have"
            raise UnknownName(f"{what} an id that begins with {prefix}", hint="promptsmith report lists them")
        return read_report(found[0])


def read_report(path: Path) -> Report:
    """The report in a file. Raises :class:`StoreError` naming what is wrong with it."""
    try:
        lines = path.read_bytes().splitlines()
        head = msgspec.json.decode(lines[0] if lines else b"", type=Head)
        decode = msgspec.json.Decoder(CaseReport).decode
        cases = tuple(map(decode, lines[1:]))
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is no report of this promptsmith: {error}", hint="run the eval again") from None
    return Report(head=head, cases=cases)
