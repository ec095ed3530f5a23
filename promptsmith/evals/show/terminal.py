"""A report for a terminal: plain text of a given width."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..gate import Word
from ..report import CaseReport, Report
from . import words

MOST: Mapping[str, int] = {"regressed": 20, "fixed": 10, "failing": 10, "unscored": 10}
"""How many cases of a group are shown; the rest is counted."""
LINES = 3
"""How many lines of a terminal one output may take."""
NARROWEST = 40
_REASON = 20
"""Characters of a reason that a line must have room for."""

_STYLES: Mapping[str, str] = {"promote": "1;32", "reject": "1;31", "inconclusive": "1;33", "head": "1", "missed": "31", "dim": "2"}


def terminal(report: Report, *, width: int = 80, color: bool = False) -> str:
    """The report as text, no line but the verdict's wider than ``width``: the verdict first, then what it rests on."""
    return "\n".join(_Page(report, max(width, NARROWEST), color=color).lines())


def summary(report: Report) -> str:
    """The report in a few lines: the verdict, what was judged, the pass rates."""
    arms = [f"{column.role}: {words.share_within(column.rate)}, {column.label}" for column in words.arm_columns(report)]
    return "\n".join([words.verdict_line(report.head.judgement), f"{words.title(report)} ({words.origin(report.head)})", *arms])


def columns(text: str) -> int:
    """The columns that ``text`` takes: two for wide characters (UAX 11), none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns."""
    if columns(text) <= width:
        return text
    kept, used = [], 1
    for char in text:
        used += columns(char)
        if used > width:
            break
        kept.append(char)
    return "".join(kept) + "…"


def aligned(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Left-aligned columns, together at most ``width`` wide: the widest give way."""
    sizes = [max(columns(row[place]) for row in rows) for place in range(len(rows[0]))]
    while sum(sizes) + 2 * (len(sizes) - 1) > width and max(sizes) > 4:
        sizes[sizes.index(max(sizes))] -= 1
    for row in rows:
        cells = [cut(cell, size) for cell, size in zip(row, sizes, strict=True)]
        yield "  ".join(cell + " " * (size - columns(cell)) for cell, size in zip(cells, sizes, strict=True)).rstrip()


def wrapped(text: str, width: int, *, first: int = 0, indent: int = 2) -> list[str]:
    """``text`` in lines of ``width`` columns."""
    return textwrap.wrap(text, width, initial_indent=" " * first, subsequent_indent=" " * indent, break_on_hyphens=False)


def _pieces(text: str, room: int) -> Iterator[str]:
    """``text`` in lines that lose none of its blanks, broken behind a blank where there is one."""
    piece = ""
    for char in text:
        if columns(piece) + columns(char) > room:
            end = piece.rfind(" ") + 1 or len(piece)
            yield piece[:end].rstrip()
            piece = piece[end:]
        piece += char
    yield piece


class _Page:
    """A report with the width and colours it is written for."""

    def __init__(self, report: Report, width: int, *, color: bool) -> None:
        self._report, self._head, self._width, self._color = report, report.head, width, color
        self._groups = words.groups(report)

    def lines(self) -> Iterator[str]:
        word: Word = self._head.judgement.verdict
        # Never wrapped, so that a program finds the whole verdict on the first line.
        yield self._styled(word, words.verdict_line(self._head.judgement))
        yield from self._wrapped(f"{words.title(self._report)} ({words.origin(self._head)})")
        yield from self._arms()
        yield from self._thresholds()
        for group in words.GROUPS:
            if group != "passing":
                yield from self._cases(group, self._groups[group])
        yield from self._tags()
        yield from self._listed(
            "flaky", (f"{role}: {words.count(len(ids), 'case')}: {', '.join(ids)}" for role, ids in words.flaky(self._report))
        )
        left = [f"{words.visible(case)}: {words.visible(reason)}" for case, reason in self._head.left.items()]
        yield from self._listed(f"left the suite: {words.count(len(left), 'case')}", left)
        yield from self._listed("notes", words.remarks(self._report))

    def _arms(self) -> Iterator[str]:
        yield ""
        for column in words.arm_columns(self._report):
            yield from self._wrapped(f"{column.role:<10} {column.label}", indent=11)
        yield ""
        header, rows = words.arm_table(self._report)
        yield from self._table([header, *rows])
        if difference := words.difference_line(self._head.judgement):
            yield ""
            yield from self._wrapped(f"difference {difference}", indent=11)

    def _thresholds(self) -> Iterator[str]:
        found = self._head.judgement.thresholds
        if found:
            yield from self._heading("thresholds")
        for threshold in found:
            for line in self._wrapped(words.threshold_line(threshold), first=2, indent=4):
                yield line if threshold.holds else self._styled("missed", line)

    def _cases(self, group: words.Group, cases: Sequence[CaseReport]) -> Iterator[str]:
        if not cases:
            return
        style = "reject" if group == "regressed" else "head"
        yield from self._heading(f"{words.heading(self._report, group)}: {words.count(len(cases), 'case')}", style)
        shown = [(case, list(self._facts(case, group))) for case in cases[: MOST[group]]]
        if self._fit_on_lines(shown):
            header = ["case", *(label for label, _ in shown[0][1])]
            yield from self._table([header, *([words.case_name(case), *map(words.visible, dict(facts).values())] for case, facts in shown)])
        else:
            yield from (line for case, facts in shown for line in self._block(case, facts))
        yield from self._more(len(cases) - MOST[group])

    def _facts(self, case: CaseReport, group: words.Group) -> Iterator[tuple[str, str]]:
        said, old = words.now(case), words.before(self._report, case)
        if case.inputs:
            yield "input", words.inputs_text(case)
        yield "expected", case.expected
        if group in ("regressed", "fixed"):
            yield "before", words.answer_text(old)
        yield "now", words.answer_text(said)
        if group != "fixed":
            yield "why", words.why(said.attempt) if said.attempt is not None else ""

    def _fit_on_lines(self, shown: Sequence[tuple[CaseReport, list[tuple[str, str]]]]) -> bool:
        """Whether a line a case shows all but the end of the reasons."""
        if len({tuple(label for label, _ in facts) for _, facts in shown}) > 1:
            return False
        rows = [[words.case_name(case), *(text[:_REASON] if label == "why" else text for label, text in facts)] for case, facts in shown]
        sizes = [max(columns(words.visible(text[: self._width])) for text in column) for column in zip(*rows, strict=True)]
        return sum(max(size, 8) for size in sizes) + 2 * len(sizes) <= self._width

    def _block(self, case: CaseReport, facts: Iterable[tuple[str, str]]) -> Iterator[str]:
        yield f"  {cut(words.case_name(case), self._width - 2)}"
        for label, text in facts:
            if text:
                yield from self._fact(label, text)

    def _fact(self, label: str, text: str) -> Iterator[str]:
        room = self._width - 14
        text = words.shortened(words.visible(text), LINES * room)
        for place, line in enumerate(_pieces(text, room)):
            yield f"    {label if place == 0 else '':<10}{line}"

    def _more(self, more: int) -> Iterator[str]:
        if more > 0:
            yield from self._wrapped(f"and {more:,} more: {words.how_to_see(self._head)}", first=2, indent=4)

    def _tags(self) -> Iterator[str]:
        header, rows = words.tag_table(self._report)
        if rows:
            yield from self._heading("tags")
            yield from self._table([header, *rows])

    def _listed(self, heading: str, texts: Iterable[str]) -> Iterator[str]:
        found = list(texts)
        if found:
            yield from self._heading(heading)
        for text in found[: MOST["unscored"]]:
            yield from self._wrapped(words.shortened(text, 4 * self._width), first=2, indent=4)
        yield from self._more(len(found) - MOST["unscored"])

    def _heading(self, text: str, style: str = "head") -> Iterator[str]:
        yield ""
        yield self._styled(style, text)

    def _table(self, rows: Sequence[Sequence[str]]) -> Iterator[str]:
        lines = aligned(rows, self._width - 2)
        yield self._styled("dim", f"  {next(lines)}")
        yield from (f"  {line}" for line in lines)

    def _wrapped(self, text: str, *, first: int = 0, indent: int = 0) -> list[str]:
        return wrapped(text, self._width, first=first, indent=indent)

    def _styled(self, style: str, text: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._color else text
