"""What a run of a plan did, as one offline HTML file: graph, timings, cost, decisions, and what each step saw and gave."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..evals.show.terminal import cut
from ..evals.show.words import shortened, visible
from ..orchestration import trace as words
from ..orchestration.values import Outcome
from . import page, shown_size
from .frame import Frame
from .graph import HEIGHT, WIDTH, Graph, graph
from .plot import Axis, Line
from .scatter import axis

ROOM = 1_000_000
"""Bytes of all texts of the steps together, as they stand on the page."""
ANSWER, TEXT, SAID, WHY, NAME = 60_000, 6_000, 1_500, 160, 60
"""Characters of the answer, of one text, of what one event says, of a reason beside a step, of a name."""
EVENTS, LISTED, TICKS = 200, 60, 8
"""Events, insights, and retries on a bar that are shown; the rest is counted."""
_FIRST, _SECOND = 21, 25
"""Columns of the two lines in a box."""


class Span(NamedTuple):
    """A step on the axis of time; places in percent. From ``ready`` to ``left`` it waited for a free place."""

    ready: float
    left: float
    width: float
    retries: tuple[float, ...]


class Entry(NamedTuple):
    """A step in the table of timings."""

    number: int
    """By which links name it: its id is somebody's text."""
    id: str
    who: str
    mark: str
    state: str
    tried: str
    """How often, where that was more than once."""
    critical: bool
    needs: str
    start: str
    took: str
    cost: str
    why: str
    span: Span | None
    """``None``: it was never started."""


class Pane(NamedTuple):
    """One text of a step; ``kind`` is ``bad`` for why it failed."""

    title: str
    text: str
    kind: str = ""


class Opened(NamedTuple):
    """What a step shows when it is opened; no panes when there are enough of them on the page."""

    entry: Entry
    facts: str
    needs: tuple[tuple[str, int], ...]
    panes: tuple[Pane, ...]
    left_out: bool


class Node(NamedTuple):
    """A box of the graph with its two lines. ``says``: all of it in words."""

    entry: Entry
    x: float
    y: float
    first: str
    second: str
    says: str


def html(outcome: Outcome, frame: Frame | None = None) -> str:
    """The page. It needs nothing else, and no script."""
    rows = words.traced(outcome)
    numbers = {row.step.id: number for number, row in enumerate(rows)}
    across = axis([0.0, max([outcome.seconds, *(row.result.ended for row in rows)], default=0.0)])
    entries = {row.step.id: _entry(outcome, row, numbers[row.step.id], across) for row in rows}
    drawn = graph([row.step for row in rows])
    room = Room(ROOM)
    return page(
        "trace.html",
        frame=frame,
        title=shortened(words.title(outcome), SAID),
        began=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(outcome.began)) if outcome.began else "",
        state=outcome.state,
        tone={"done": "promote", "failed": "reject", "stopped": "inconclusive"}[outcome.state],
        mark={"done": words.MARKS["done"], "failed": words.MARKS["failed"], "stopped": words.MARKS["skipped"]}[outcome.state],
        ended=shortened(words.ended(outcome).removeprefix(outcome.state), SAID),
        facts=[(label, shortened(text, SAID)) for label, text in words.facts(outcome) if label != "ended"],
        wrong=[entry for entry in entries.values() if entry.state in ("failed", "skipped")][:LISTED],
        drawn=drawn,
        nodes=list(_nodes(drawn, entries, rows)) if drawn is not None else [],
        edges=_edges(drawn, rows) if drawn is not None else [],
        box=(WIDTH, HEIGHT),
        entries=sorted(entries.values(), key=lambda entry: (entry.span is None, entry.span.left if entry.span else 0.0)),
        ticks=_ticks(across),
        answer=shortened(outcome.answer, ANSWER),
        lists=[
            (name, [shortened(text, SAID) for text in texts[:LISTED]], max(0, len(texts) - LISTED))
            for name, texts in _lists(outcome)
            if texts
        ],
        costs=words.cost_table(outcome) if outcome.costs else None,
        against=words.against(outcome),
        events=[_event(words.told(event), numbers) for event in list(words.decisions(outcome))[:EVENTS]],
        more_events=max(0, sum(1 for _ in words.decisions(outcome)) - EVENTS),
        problem=shortened(outcome.problem, TEXT),
        analysis=shortened(outcome.plan.analysis, TEXT),
        example=shortened(outcome.example, TEXT),
        inputs=[(shortened(name, NAME), shortened(_text(value), TEXT)) for name, value in list(outcome.inputs.items())[:LISTED]],
        opened=_all_opened(outcome, rows, entries, room),
        run=outcome.run,
    )


def _lists(outcome: Outcome) -> Iterator[tuple[str, Sequence[str]]]:
    yield "Insights", outcome.insights
    yield "Conflicts, and how they were resolved", outcome.conflicts
    yield "Who contributed what", [f"{shortened(name, NAME)}: {text}" for name, text in outcome.attribution.items()]


class Room:
    """Bytes that texts may still take on the page."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, text: str, most: int) -> str | None:
        """``text`` of at most ``most`` characters; ``None`` when it, or one before it, has no room."""
        text = shortened(text, most)
        self._left -= shown_size(text) if len(text) <= self._left else len(text)
        return text if self._left >= 0 else None


# --- timings ----------------------------------------------------------------------------------------------


def _entry(outcome: Outcome, row: words.Traced, number: int, across: Axis) -> Entry:
    result = row.result
    span = None
    if row.ran:
        ready, left, right = (across.place(at) for at in (min(row.ready, result.started), result.started, result.ended))
        again = [across.place(event.at) for event in words.retries(outcome, row.step.id)[:TICKS]]
        span = Span(ready, left, round(max(right - left, 0.25), 3), tuple(again))
    return Entry(
        number=number,
        id=shortened(row.step.id, NAME),
        who=shortened(words.who(row.step), NAME),
        mark=words.MARKS[result.state],
        state=result.state,
        tried=words.attempts(row),
        critical=row.critical,
        needs=words.listed([shortened(need, NAME // 3) for need in row.needs]),
        start=f"{result.started:.2f} s" if row.ran else "",
        took=words.lasted(row.seconds) if row.ran else "",
        cost=words.money(result.cost) if row.ran else "",
        why=shortened(" ".join(result.error.split()), WHY),
        span=span,
    )


def _ticks(across: Axis) -> list[Line]:
    digits = 0 if across.step >= 1 else 1 if across.step >= 0.1 else 2
    return [across.line(value, f"{value:,.{digits}f} s", "tick") for value in across.ticks()]


# --- the graph --------------------------------------------------------------------------------------------


def _nodes(drawn: Graph, entries: Mapping[str, Entry], rows: Sequence[words.Traced]) -> Iterator[Node]:
    steps = {row.step.id: row for row in rows}
    for box in drawn.boxes:
        entry, row = entries[box.id], steps[box.id]
        word = "" if row.result.state == "done" else row.result.state
        second = " · ".join(filter(None, [word, entry.took, _name(row)]))
        says = ", ".join(filter(None, [entry.id, entry.who, entry.state, entry.tried, entry.took, entry.cost, entry.why]))
        yield Node(entry, box.x, box.y, cut(visible(f"{entry.mark} {entry.id}"), _FIRST), cut(visible(second), _SECOND), says)


def _name(row: words.Traced) -> str:
    return row.step.worker or row.step.expert


def _edges(drawn: Graph, rows: Sequence[words.Traced]) -> list[tuple[str, str, bool]]:
    """Path, head, and whether it is on the critical path; those that are come last, over the others."""
    ended = {row.step.id: row.result.ended for row in rows if row.critical}
    last = {
        row.step.id: max((need for need in row.needs if need in ended), key=lambda need: ended[need], default="")
        for row in rows
        if row.critical
    }
    found = [(edge.path, edge.head, last.get(edge.target) == edge.source) for edge in drawn.edges]
    return sorted(found, key=lambda edge: edge[2])


# --- what each step saw and gave --------------------------------------------------------------------------


def _all_opened(outcome: Outcome, rows: Sequence[words.Traced], entries: Mapping[str, Entry], room: Room) -> list[Opened]:
    """In the order of the plan. Where there is not room for all, what failed and what the result is made of goes first."""
    first = {"failed": 0, "skipped": 0}
    order = sorted(rows, key=lambda row: first.get(row.result.state, 1 if row.step.id in outcome.plan.result else 2))
    found = {row.step.id: _opened(row, entries, room) for row in order}
    return [found[row.step.id] for row in rows]


def _opened(row: words.Traced, entries: Mapping[str, Entry], room: Room) -> Opened:
    result, step = row.result, row.step
    panes = []
    left_out = False
    for title, text, kind in (
        ("why", result.error, "bad"),
        ("instructions", step.instructions, ""),
        ("arguments" if step.worker else "what it was sent", result.sent, ""),
        ("what it gave", result.text, "good"),
        ("its value", _value(result.value, result.text), ""),
    ):
        taken = room.take(text, TEXT)
        left_out = left_out or taken is None
        if taken:
            panes.append(Pane(title, taken, kind))
    tokens = f"{words.tokens(result.usage):,} tokens" if result.usage.counted else ""
    known = [result.model, f"prompt {result.prompt[:12]}" if result.prompt else "", tokens, words.came_from(result)]
    known.append(f"saw {words.listed([shortened(name, NAME // 2) for name in result.seen])}" if result.seen else "")
    needs = tuple((entries[need].id, entries[need].number) for need in row.needs[: words.NAMED])
    return Opened(entries[step.id], shortened(", ".join(filter(None, known)), SAID // 3), needs, tuple(panes), left_out)


def _value(value: Any, text: str) -> str:
    return "" if value is None or value == text else _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def _event(told: words.Told, numbers: Mapping[str, int]) -> tuple[words.Told, int | None]:
    short = told._replace(
        text=shortened(told.text, SAID), step=shortened(told.step, NAME), who=shortened(told.who, NAME), at=round(told.at, 2)
    )
    return short, numbers.get(told.step)
