"""A report as GitHub-flavoured Markdown, short enough for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ..report import CaseReport, Report
from . import words

MOST = 7900
"""Characters of the whole, whatever the report. (GitHub takes 65,536; a reader takes less.)"""
CELL, LINE, VERDICT = 60, 240, 1500
"""Characters of a cell, of a line of prose, of the verdict, before they are escaped."""
_LAST = 300
"""Characters kept for the last line, which says how to see the rest."""

_SPECIAL = re.compile(r"[&<|*`\[\]\\~!$]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.|(?<!\w)[@#](?=\w)")


def markdown(report: Report) -> str:
    """The report as Markdown of fewer than 8,000 characters: verdict, numbers, regressed cases; the rest folded, as far as it fits."""
    page = _Page(MOST - _LAST)
    head = report.head
    word, _, reasons = words.shortened(words.verdict_line(head.judgement), VERDICT).partition(":")
    page.add([f"**{word}**:{escaped(reasons)}" if reasons else f"**{word}**", ""])
    page.add([escaped(words.shortened(f"{words.title(report)} ({words.origin(head)})", LINE)), ""])
    page.add([*_arms(report), ""])
    page.add([escaped(words.shortened(words.difference_line(head.judgement), LINE)), ""] if head.judgement.comparison else [])
    page.add([*(f"- {escaped(words.shortened(words.threshold_line(one), LINE))}" for one in head.judgement.thresholds), ""])
    found = words.groups(report)
    for group in words.GROUPS:
        if group != "passing":
            _cases(page, report, group, found[group])
    header, rows = words.tag_table(report)
    page.fold("by tag", len(rows), table(header), (_row(map(escaped, map(_cell, row))) for row in rows))
    left = (f"- {code(_cell(case))}: {escaped(words.shortened(words.visible(why), LINE))}" for case, why in head.left.items())
    page.fold("left the suite", len(head.left), [], left)
    flaky = [(role, case) for role, cases in words.flaky(report) for case in cases]
    page.fold("flaky", len(flaky), [], (f"- {role}: {code(_cell(case))}" for role, case in flaky))
    remarks = words.remarks(report)
    page.fold("notes", len(remarks), [], (f"- {escaped(words.shortened(remark, LINE))}" for remark in remarks))
    return page.text() + f"\nEverything: `{words.how_to_see(head)}`\n"


def escaped(text: str) -> str:
    """``text`` as nothing but text: no markup, no link, nobody called."""
    # Behind @ and # it takes a blank of no width: GitHub looks for names after it has read the entities.
    return _SPECIAL.sub(lambda found: f"{found[0]}&#8203;" if found[0] in "@#" else f"&#{ord(found[0])};", text)


def code(text: str) -> str:
    """``text`` in the type of code. Not in backticks: there a bar would end a table's cell, and can't be escaped reliably."""
    return f"<code>{escaped(text)}</code>" if text else ""


def table(header: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [_row(header), _row("---" for _ in header)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return words.shortened(words.visible(text), CELL)


def _arms(report: Report) -> Iterator[str]:
    columns = words.arm_columns(report)
    for column in columns:
        yield f"- {column.role}: {escaped(words.shortened(column.label, LINE))}"
    yield ""
    header, rows = words.arm_table(report)
    yield from table(header)
    for row in rows[:20]:
        yield _row(escaped(_cell(cell)) for cell in row)


def _cases(page: _Page, report: Report, group: words.Group, cases: Sequence[CaseReport]) -> None:
    compared = group in ("regressed", "fixed")
    header = ["case", "expected", *(["before"] if compared else []), "now", "why"]
    rows = (_case(report, case, compared=compared) for case in cases)
    page.fold(words.heading(report, group), len(cases), table(header), rows, fold=group != "regressed")


def _case(report: Report, case: CaseReport, *, compared: bool) -> str:
    said = words.now(case)
    reason = words.why(said.attempt) if said.attempt is not None else ""
    old = [words.answer_text(words.before(report, case))] if compared else []
    texts = [words.case_name(case), case.expected, *old, words.answer_text(said)]
    return _row([*(code(_cell(text)) for text in texts), escaped(words.shortened(words.visible(reason), 2 * CELL))])


class _Page:
    """Lines that are taken as long as they fit."""

    def __init__(self, most: int) -> None:
        self._lines: list[str] = []
        self._room = most

    def text(self) -> str:
        return "\n".join(self._lines)

    def add(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._take(line)

    def fold(self, heading: str, number: int, first: Sequence[str], rows: Iterator[str], *, fold: bool = True) -> None:
        """A section that can be folded; when its rows do not fit, it says how many are missing."""
        if not number:
            return
        what = f"{heading}: {number:,}"
        opening = [f"<details><summary>{what}</summary>", ""] if fold else [f"**{what}**", ""]
        closing = ["", "</details>", ""] if fold else [""]
        ends = ["", f"and {number:,} more", *closing]
        needed = sum(len(line) + 1 for line in (*opening, *first, *ends))
        if needed > self._room:
            self._take(f"{what} (left out for length)")
            return
        self.add([*opening, *first])
        self._room -= sum(len(line) + 1 for line in ends)
        shown = self._rows(rows)
        self._room += sum(len(line) + 1 for line in ends)
        self.add([*(["", f"and {number - shown:,} more"] if shown < number else []), *closing])

    def _rows(self, rows: Iterator[str]) -> int:
        shown = 0
        for row in rows:
            if not self._take(row):
                break
            shown += 1
        return shown

    def _take(self, line: str) -> bool:
        if len(line) + 1 > self._room:
            return False
        self._lines.append(line)
        self._room -= len(line) + 1
        return True
