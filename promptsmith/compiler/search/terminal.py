"""``show --provenance`` for a terminal: plain text of a given width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...evals.show.terminal import NARROWEST, aligned, columns, cut, wrapped
from ...evals.show.words import shortened, visible
from . import words
from .kept import Kept
from .record import SearchRecord

SAID = 400
"""Characters shown of what one edit said."""
_DEEPEST = 10
"""Levels of a lineage that are indented; those below stand as far in."""
_LABEL = 14
_NAME = 12
"""Columns that a name gets at least."""


def terminal(kept: Kept, *, width: int = 80, color: bool = False) -> str:
    """Where a prompt comes from, no line wider than ``width``."""
    return "\n".join(_Page(max(width, NARROWEST), color=color).lines(kept))


class _Page:
    """The width and colours that the text is written for."""

    def __init__(self, width: int, *, color: bool) -> None:
        self._width, self._color = width, color

    def lines(self, kept: Kept) -> Iterator[str]:
        yield from wrapped(visible(f"{kept.chosen}, from the {kept.origin}"), self._width)
        yield from self._facts(words.made(kept.prompt))
        search = kept.prompt.provenance.search
        if kept.record is not None:
            yield from self._record(kept.record, search.record if search is not None else "")
        elif search is not None:
            yield from self._heading("search")
            yield from self._facts(words.summarised(search))
            yield from self._table("front", words.summary_front(search))
        else:
            yield ""
            yield from self._wrapped(words.no_search(kept.prompt), 0, 0)

    def _record(self, record: SearchRecord, digest: str) -> Iterator[str]:
        yield from self._heading("search")
        yield from self._facts(words.searched(record, digest))
        yield from self._table("front", words.front_table(record))
        yield from self._table("spent by stage", words.stage_table(record))
        yield from self._table("candidates", words.candidate_table(record))
        yield from self._heading("lineage: what was made from what, and what it gained on the cases that both were scored on")
        for placed in words.lineage(record):
            yield from self._candidate(record, placed)

    def _candidate(self, record: SearchRecord, placed: words.Placed) -> Iterator[str]:
        one, indent = placed.candidate, 2 + 2 * min(placed.depth, _DEEPEST)
        parts = [f"{one.id} {words.called(one.origin)}", one.state, *([f"score {words.score(one)}"] if one.mean is not None else [])]
        gained = words.step(record, one)
        parts += [words.step_line(gained)] if gained is not None else []
        parts += [f"also from {name}" for name in one.origin.parents[1:]]
        parts += [" ".join(one.why.split())] if one.why else []
        line = visible(", ".join(parts))
        yield from (self._styled("1" if one.id == record.chosen else "0", text) for text in self._wrapped(line, indent, indent + 4))
        if one.origin.said:
            said = shortened(" ".join(one.origin.said.split()), SAID)
            yield from self._wrapped(visible(said), indent + 4, indent + 4)

    def _facts(self, facts: words.Facts) -> Iterator[str]:
        before = ""
        for label, text in facts:
            yield from self._wrapped(f"{label if label != before else '':<{_LABEL}}{text}", 0, _LABEL)
            before = label

    def _table(self, heading: str, table: words.Table) -> Iterator[str]:
        """A row a line where that fits, but for the ends of names; else each row in words: half a number is no number."""
        header, rows = table
        if not rows:
            return
        yield from self._heading(heading)
        sizes = [max(columns(row[place]) for row in (header, *rows)) for place in range(len(header))]
        over, name = sum(sizes) + 2 * len(sizes) - self._width, header.index("candidate") if "candidate" in header else 0
        if over <= 0 or sizes[name] - over >= _NAME:
            room = max(sizes[name] - max(over, 0), _NAME)
            short = [[cut(cell, room) if place == name else cell for place, cell in enumerate(row)] for row in rows]
            lines = aligned([header, *short], self._width - 2)
            yield self._styled("2", f"  {next(lines)}")
            yield from (f"  {line}" for line in lines)
        else:
            yield from (line for row in rows for line in self._row(header, row))

    def _row(self, header: Sequence[str], row: Sequence[str]) -> Iterator[str]:
        plain = ("", "id", "candidate", "stage", "state")
        cells = [cell if name in plain else f"{name} {cell}" for name, cell in zip(header, row, strict=True)]
        yield from self._wrapped(", ".join(filter(None, cells)).replace(f"{words.MARK}, ", f"{words.MARK} ", 1), 2, 6)

    def _heading(self, text: str) -> Iterator[str]:
        yield ""
        yield from (self._styled("1", line) for line in wrapped(text, self._width))

    def _wrapped(self, text: str, first: int, indent: int) -> list[str]:
        return wrapped(text, self._width, first=first, indent=indent)

    def _styled(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._color and style != "0" else text
