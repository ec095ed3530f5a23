"""The reports that are kept, the newest first."""

from __future__ import annotations

from typing import NamedTuple

from ...evals.report import Head
from ...evals.show import words
from ..frame import Frame
from . import render
from .values import ReportList
from .words import short


class Row(NamedTuple):
    """One report. ``who``: prompt and model of the candidate."""

    head: Head
    who: str
    rate: str
    against: str
    of: str


def html(values: ReportList, frame: Frame) -> str:
    """The page."""
    return render("reports", frame.at("reports"), page=values, rows=[_row(head) for head in values.heads])


def _row(head: Head) -> Row:
    candidate, cases = head.candidate, head.candidate.tally.cases
    who = ", ".join(filter(None, [short(candidate.prompt) if candidate.prompt else "", candidate.model]))
    against = head.arm("baseline")
    return Row(
        head,
        who,
        words.share_within(head.judgement.pass_rate),
        short(against.prompt) if against is not None and against.prompt else "no incumbent",
        f"{words.count(cases, 'case')} of the {head.part}" if head.part != "outputs" else f"{words.count(cases, 'recorded output')}",
    )
