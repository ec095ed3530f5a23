"""A report as one offline HTML file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..evals.attempt import Attempt
from ..evals.report import ArmReport, CaseReport, Report
from ..evals.show import words
from . import page
from .diff import Piece, word_diff
from .frame import Frame
from .plot import difference, rates

FULL = 1000
"""Cases that are shown with their whole texts; those beyond, and those that pass, are one short row each."""
TEXT, SHORT, CELL, WHY = 4000, 100, 240, 300
"""Characters of one text: opened, in a short row, in the row of a case, of a reason."""
CHARACTERS = 6_000_000
"""Characters of all whole texts together."""
_PLAIN = 24
"""Outputs up to this length are compared by eye."""


class Answer(NamedTuple):
    """One answer as its pane shows it."""

    title: str
    text: str
    facts: str
    why: str
    kind: str


class Opened(NamedTuple):
    """What a case shows when it is opened. ``diff`` compares with what ``diff_title`` names; empty where the eye does."""

    inputs: str
    sealed: bool
    expected: str
    answers: tuple[Answer, ...]
    grades: tuple[tuple[str, str, str], ...]
    paths: tuple[tuple[str, str], ...]
    diff_title: str
    diff: tuple[Piece, ...]


class Row(NamedTuple):
    """One case."""

    id: str
    tags: tuple[str, ...]
    expected: str
    before: str
    now: str
    why: str
    opened: Opened | None


class Section(NamedTuple):
    """One group of cases."""

    group: words.Group
    title: str
    full: tuple[Row, ...]
    short: tuple[Row, ...]

    @property
    def number(self) -> int:
        return len(self.full) + len(self.short)


def html(report: Report, frame: Frame | None = None) -> str:
    """The report as one HTML file that needs nothing else: readable without its script, which filters and searches."""
    head = report.head
    sections = [section for section in _sections(report) if section.number]
    header, table = words.arm_table(report)
    tag_header, tags = words.tag_table(report)
    return page(
        "report.html",
        frame=frame,
        script="report.js",
        head=head,
        verdict=head.judgement.verdict,
        reasons=words.verdict_line(head.judgement).removeprefix(head.judgement.verdict),
        extent=words.extent(report),
        origin=words.origin(head),
        remarks=words.remarks(report),
        columns=words.arm_columns(report),
        header=header,
        table=table,
        plots=[plot for plot in (rates(report), difference(head.judgement)) if plot is not None],
        difference=words.difference_line(head.judgement),
        thresholds=[(one, words.threshold_line(one)) for one in head.judgement.thresholds],
        sections=sections,
        has_before=head.arm("baseline") is not None,
        cut=_cut(report, sections),
        tag_header=tag_header,
        tags_table=tags,
        numbered={tag: number for number, tag in enumerate(sorted({tag for case in report.cases for tag in case.tags}))},
        cases=len(report.cases),
        flaky=words.flaky(report),
        left=list(head.left.items()),
        sealed=words.SEALED,
    )


def _sections(report: Report) -> Iterable[Section]:
    """Whole rows for what needs a look, in order of need, until there are enough of them."""
    room, left = CHARACTERS, FULL
    for group, cases in words.groups(report).items():
        full: list[Row] = []
        for case in cases if group != "passing" else ():
            if left <= 0 or room <= 0:
                break
            row = _row(report, case, opened=True)
            full.append(row)
            left -= 1
            room -= _size(row)
        short = tuple(_row(report, case, opened=False) for case in cases[len(full) :])
        yield Section(group, words.heading(report, group).capitalize(), tuple(full), short)


def _size(row: Row) -> int:
    opened = row.opened
    if opened is None:
        return 0
    return (
        len(opened.inputs) + len(opened.expected) + sum(len(one.text) for one in opened.answers) + sum(len(one.text) for one in opened.diff)
    )


def _cut(report: Report, sections: Iterable[Section]) -> str:
    """What of the cases that need a look is only shown in short, in words."""
    needing = [section for section in sections if section.group != "passing"]
    short, number = sum(len(section.short) for section in needing), sum(section.number for section in needing)
    if not short:
        return ""
    shown = f"{number - short:,} of the {number:,} cases that do not simply pass are shown in full, the others in one line each"
    return f"{shown}; everything: promptsmith report {report.head.id} --json"


def _row(report: Report, case: CaseReport, *, opened: bool) -> Row:
    said, old = words.now(case), words.before(report, case)
    cell = CELL if opened else SHORT
    return Row(
        id=case.id,
        tags=case.tags,
        expected=words.shortened(case.expected, cell),
        before=words.shortened(words.answer_text(old), cell),
        now=words.shortened(words.answer_text(said), cell),
        why=words.shortened(words.why(said.attempt) if said.attempt is not None else "", WHY if opened else SHORT),
        opened=_opened(report, case, said, old) if opened else None,
    )


def _opened(report: Report, case: CaseReport, said: words.Said, old: words.Said) -> Opened:
    now = said.attempt
    grades = now.grades if now is not None else ()
    against, text = ("baseline", old.attempt.output) if old.attempt is not None else ("expected", case.expected)
    return Opened(
        inputs=words.shortened(words.inputs_text(case), TEXT),
        sealed=not case.inputs,
        expected=words.shortened(case.expected, TEXT),
        answers=tuple(_answers(report, case)),
        grades=tuple((one.scorer, words.plain(one.score), words.shortened(one.why, TEXT)) for one in grades),
        paths=tuple((path, f"{score:.2f}") for one in grades for path, score in list(one.paths.items())[:FULL]),
        diff_title=f"{against} → candidate",
        diff=_diff(text, now.output) if now is not None and now.source else (),
    )


def _diff(before: str, after: str) -> tuple[Piece, ...]:
    if before == after or max(len(before), len(after)) <= _PLAIN:
        return ()
    return tuple(word_diff(words.shortened(before, TEXT), words.shortened(after, TEXT)))


def _answers(report: Report, case: CaseReport) -> Iterable[Answer]:
    order = {"baseline": 0, "candidate": 1}
    for arm, attempts in sorted(zip(report.head.arms, case.attempts, strict=True), key=lambda pair: order.get(pair[0].role, 2)):
        for number, attempt in enumerate(attempts, start=1):
            of = f" {number} of {len(attempts)}" if len(attempts) > 1 else ""
            text = words.shortened(words.answer_text(words.Said("", attempt)), TEXT)
            kind = "open" if attempt.passed is None else "good" if attempt.passed else "bad"
            yield Answer(f"{arm.role}{of}", text, _facts(arm, attempt), words.shortened(attempt.why, TEXT), kind)


def _facts(arm: ArmReport, attempt: Attempt) -> str:
    passed = "no score" if attempt.passed is None else "passed" if attempt.passed else "did not pass"
    if not attempt.source:
        return passed
    called = [words.milliseconds(1000 * attempt.latency), words.dollars(attempt.cost)] if arm.prompt else []
    return ", ".join([passed, *called, f"from {words.source(arm, attempt.source)}"])
