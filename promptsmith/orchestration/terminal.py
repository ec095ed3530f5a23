"""``plan trace`` for a terminal: plain text of a given width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..evals.show.terminal import NARROWEST, aligned, columns, wrapped
from ..evals.show.words import shortened, visible
from . import trace
from .values import Outcome

SAID, EVENTS, STEPS = 400, 60, 100
"""Characters of one text, events, and steps that are shown; the rest is counted."""
_LABEL = 15


def terminal(outcome: Outcome, *, width: int = 80, color: bool = False) -> str:
    """What a run did, no line wider than ``width``; the answer comes last, whole."""
    return "\n".join(_Page(max(width, NARROWEST), color=color).lines(outcome))


class _Page:
    """The width and colours that the text is written for."""

    def __init__(self, width: int, *, color: bool) -> None:
        self._width, self._color = width, color

    def lines(self, outcome: Outcome) -> Iterator[str]:
        yield from (self._styled("1", line) for line in wrapped(shortened(trace.title(outcome), SAID), self._width))
        for label, text in trace.facts(outcome):
            yield from wrapped(f"{label:<{_LABEL}}{shortened(text, SAID)}", self._width, indent=_LABEL)
        yield from self._steps(outcome)
        if outcome.costs:
            yield from self._table("cost", *trace.cost_table(outcome))
        yield from self._listed("decisions", [self._event(one) for one in map(trace.told, trace.decisions(outcome))], EVENTS)
        yield from self._listed("insights", outcome.insights)
        yield from self._listed("conflicts, resolved", outcome.conflicts)
        yield from self._listed("attribution", [f"{name}: {text}" for name, text in outcome.attribution.items()])
        if outcome.answer:
            yield from self._heading("answer")
            yield from (visible(line, "\t") for line in outcome.answer.splitlines())

    def _steps(self, outcome: Outcome) -> Iterator[str]:
        rows = {row.step.id: row for row in trace.traced(outcome)}
        placed = trace.tree([row.step for row in rows.values()])
        yield from self._heading("steps (* on the critical path)")
        for one in placed[:STEPS]:
            row = rows[one.step.id]
            indent = 2 + 2 * min(one.depth, 8)
            took = [trace.lasted(row.seconds), trace.money(row.result.cost)] if row.ran else []
            also = [f"also after {trace.listed(one.others)}"] if one.others else []
            asked = [row.result.state, trace.who(row.step), row.result.model]
            parts = [*asked, *took, trace.attempts(row), trace.came_from(row.result), *also]
            line = f"{trace.MARKS[row.result.state]} {'*' if row.critical else ' '} {one.step.id}: {', '.join(filter(None, parts))}"
            failed = row.result.state in ("failed", "skipped")
            style = "31" if row.result.state == "failed" else "0"
            yield from (self._styled(style, text) for text in self._wrapped(visible(" ".join(line.split())), indent, indent + 4))
            if failed and row.result.error:
                yield from self._wrapped(self._short(row.result.error), indent + 4, indent + 4)
        if len(placed) > STEPS:
            yield f"  and {len(placed) - STEPS:,} more: --html FILE shows them"

    def _event(self, event: trace.Told) -> str:
        parts = [event.step, event.who, event.text, event.cost]
        return f"{event.at:8.2f} s  {event.what}: {', '.join(filter(None, parts))}".removesuffix(": ")

    def _listed(self, heading: str, texts: Sequence[str], most: int = 20) -> Iterator[str]:
        if not texts:
            return
        yield from self._heading(heading)
        for text in texts[:most]:
            yield from self._wrapped(self._short(text), 2, 4)
        if len(texts) > most:
            yield f"  and {len(texts) - most:,} more: --html FILE shows them"

    def _table(self, heading: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
        """A row a line where that fits, else each row in words: half a number is no number."""
        yield from self._heading(heading)
        if sum(max(columns(row[place]) for row in (header, *rows)) + 2 for place in range(len(header))) > self._width:
            for name, *cells in rows:
                told = ", ".join(f"{label} {cell}" for label, cell in zip(header[1:], cells, strict=True))
                yield from self._wrapped(f"{self._short(name)}: {told}", 2, 4)
            return
        lines = aligned([header, *rows], self._width - 2)
        yield self._styled("2", f"  {next(lines)}")
        yield from (f"  {line}" for line in lines)

    def _heading(self, text: str) -> Iterator[str]:
        yield ""
        yield from (self._styled("1", line) for line in wrapped(text, self._width))

    def _short(self, text: str) -> str:
        return visible(shortened(" ".join(text.split()), SAID))

    def _wrapped(self, text: str, first: int, indent: int) -> list[str]:
        return wrapped(text, self._width, first=first, indent=indent)

    def _styled(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._color and style != "0" else text
