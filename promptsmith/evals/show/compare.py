"""Several reports beside each other: prompts and models by quality, cost and latency, with the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ...errors import InputError
from .. import statistics
from ..gate import ALPHA, points
from ..report import Report
from . import words
from .data import json_safe
from .terminal import NARROWEST, aligned, columns, wrapped

MARK = "*"
"""Stands beside what is on the Pareto front."""


class Entry(NamedTuple):
    """The candidate of one report. ``front``: no other is at least as good in everything and better in something."""

    report: Report
    letter: str
    """``A``, ``B``, … in the order given."""
    prompt: str
    """The first twelve digits of its id."""
    model: str
    name: str
    rate: words.Triple | None
    score: float | None
    cost: float | None
    """US dollars for 1,000 inputs."""
    p95: float | None
    """Milliseconds."""
    tokens_in: float | None
    tokens_out: float | None
    front: bool = False


class Paired(NamedTuple):
    """One report against the first, on the cases that both scored; shares, with an end at one-sided 95 % each."""

    letter: str
    cases: int
    difference: float
    lower: float
    upper: float


class Table(NamedTuple):
    """What there is to show. ``comparable``: all are reports on one suite, so a front and differences mean something."""

    entries: tuple[Entry, ...]
    comparable: bool
    paired: tuple[Paired, ...]
    notes: tuple[str, ...]


def compared(reports: Sequence[Report]) -> Table:
    """The reports' candidates beside each other. Raises :class:`InputError` for fewer than two."""
    if len(reports) < 2:
        raise InputError("comparing takes two reports or more", hint="promptsmith report lists them")
    entries = [_entry(report, _letter(place)) for place, report in enumerate(reports)]
    comparable = len({(report.head.suite, report.head.part) for report in reports}) == 1
    on_front = _front(entries) if comparable else set()
    marked = tuple(entry._replace(front=entry.letter in on_front) for entry in entries)
    paired = tuple(_paired(marked[0], other) for other in marked[1:]) if comparable else ()
    return Table(marked, comparable, tuple(one for one in paired if one.cases), tuple(map(words.visible, _notes(marked, comparable))))


def terminal(reports: Sequence[Report], *, width: int = 80, color: bool = False) -> str:
    """The comparison as plain text."""
    found, width = compared(reports), max(width, NARROWEST)
    lines = [line for entry in found.entries for line in wrapped(f"{entry.letter}  {words.title(entry.report)}; {entry.name}", width)]
    lines.append("")
    if has_grid(found) and _width(grid(found)) <= width:
        lines += [*aligned(grid(found), width), ""]
    lines += [_styled(line, color=color) for line in _table(rows(found), width)]
    lines += ["", *(line for text in (*map(paired_line, found.paired), *found.notes) for line in wrapped(text, width))]
    return "\n".join(lines)


def has_grid(found: Table) -> bool:
    """Whether there are several prompts and several models."""
    return len({entry.model for entry in found.entries}) > 1 and len({entry.prompt for entry in found.entries}) > 1


def _table(found: list[list[str]], width: int) -> Iterator[str]:
    """A row a report where that fits; else a column a report, in as many tables as it takes: half a number is no number."""
    if _width(found) <= width:
        yield from aligned(found, width)
        return
    header, *body = found
    most = max(columns(cell) for row in body for cell in row) + 2
    at_once = max(1, (width - max(map(len, header))) // most)
    for place in range(0, len(body), at_once):
        yield from ["", *aligned(list(zip(header, *body[place : place + at_once], strict=True)), width)][place == 0 :]


def _width(found: list[list[str]]) -> int:
    """Columns that a table takes when nothing is cut."""
    return sum(max(map(columns, column)) + 2 for column in zip(*found, strict=True)) - 2


def _styled(line: str, *, color: bool) -> str:
    return f"\x1b[1m{line}\x1b[0m" if color and line.endswith(MARK) else line


def data(reports: Sequence[Report]) -> dict[str, Any]:
    """The comparison as JSON values only; units as in the fields of :class:`Entry`."""
    found = compared(reports)
    entries = []
    for entry in found.entries:
        named = {name: value for name, value in entry._asdict().items() if name not in ("report", "rate", "cost", "p95")}
        rate = None if entry.rate is None else dict(zip(("value", "lower", "upper"), entry.rate, strict=True))
        head = entry.report.head
        more = {"report": head.id, "task": head.task, "suite": head.suite, "part": head.part, "verdict": head.judgement.verdict}
        entries.append({**more, **named, "pass_rate": rate, "cost_per_1k_usd": entry.cost, "p95_ms": entry.p95})
    paired = [one._asdict() for one in found.paired]
    return json_safe(  # type: ignore[no-any-return]
        {"comparable": found.comparable, "entries": entries, "paired": paired, "notes": list(found.notes)}
    )


def rows(found: Table) -> list[list[str]]:
    """Header and one row a report, the best score first."""
    header = ["", "prompt", "model", "pass rate", "score", "cost per 1k", "p95", "tokens in", "tokens out", "front"]
    body = [
        [
            entry.letter, entry.prompt, entry.model, words.share_within(entry.rate), words.plain(entry.score), words.dollars(entry.cost),
            words.milliseconds(entry.p95), words.tokens(entry.tokens_in), words.tokens(entry.tokens_out), MARK if entry.front else "",
        ]
        for entry in sorted(found.entries, key=lambda entry: (-(entry.score or 0.0), entry.letter))
    ]  # fmt: skip
    return [header, *body]


def grid(found: Table) -> list[list[str]]:
    """Prompts down, models across; a cell has score, cost and latency, and the mark of the front."""
    models = list(dict.fromkeys(entry.model for entry in found.entries))
    prompts = list(dict.fromkeys(entry.prompt for entry in found.entries))
    lines = [["prompt", *models]]
    for prompt in prompts:
        here = [[entry for entry in found.entries if (entry.prompt, entry.model) == (prompt, model)] for model in models]
        lines.append([prompt or "-", *(" / ".join(map(cell, entries)) or "-" for entries in here)])
    return lines


def cell(entry: Entry) -> str:
    """One report in a word."""
    mark = f" {MARK}" if entry.front else ""
    return f"{entry.letter} {words.plain(entry.score)}, {words.dollars(entry.cost)}, {words.milliseconds(entry.p95)}{mark}"


def paired_line(one: Paired) -> str:
    """A difference in words."""
    ends = words.within(one.lower, one.upper)
    return f"{one.letter} against A: pass rate {points(one.difference)} {ends} on {words.count(one.cases, 'case')}"


def _entry(report: Report, letter: str) -> Entry:
    arm = report.head.candidate
    return Entry(
        report=report,
        letter=letter,
        prompt=words.visible(arm.prompt[:12]),
        model=words.visible(arm.model),
        name=words.label(arm),
        rate=report.head.judgement.pass_rate,
        score=words.metric(arm, "score"),
        cost=words.metric(arm, "cost_per_1k_usd"),
        p95=words.metric(arm, "p95_ms"),
        tokens_in=words.metric(arm, "tokens_in"),
        tokens_out=words.metric(arm, "tokens_out"),
    )


def _letter(place: int) -> str:
    """``A`` to ``Z``, then ``AA``."""
    more, last = divmod(place, 26)
    return (_letter(more - 1) if more else "") + chr(ord("A") + last)


# --- the front --------------------------------------------------------------------------------------------

_SIDES: dict[str, Callable[[Entry], float | None]] = {
    "score": lambda entry: None if entry.score is None else -entry.score,
    "cost": lambda entry: entry.cost,
    "latency": lambda entry: entry.p95,
}
"""Smaller is better. A side that no report knows is left out; an entry that lacks one that others know has no place."""


def _front(entries: Sequence[Entry]) -> set[str]:
    places = _places(entries)
    return {letter for letter, place in places.items() if not any(_dominates(other, place) for other in places.values())}


def _places(entries: Sequence[Entry]) -> dict[str, tuple[float, ...]]:
    sides = [_SIDES[name] for name in _known_sides(entries)]
    found = {}
    for entry in entries:
        values = [side(entry) for side in sides]
        if values and None not in values:
            found[entry.letter] = tuple(value for value in values if value is not None)
    return found


def _known_sides(entries: Sequence[Entry]) -> list[str]:
    return [name for name, side in _SIDES.items() if any(side(entry) is not None for entry in entries)]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _paired(first: Entry, other: Entry) -> Paired:
    before = {case.id: case.row.passed for case in first.report.cases}
    differences = [row.passed - base for row in other.report.rows() if row.passed is not None and (base := before.get(row.id)) is not None]
    interval = statistics.tango_clustered(differences, ALPHA)
    mean = sum(differences) / len(differences) if differences else 0.0
    return Paired(other.letter, len(differences), mean, interval.lower, interval.upper)


# --- notes ------------------------------------------------------------------------------------------------


def _notes(entries: Sequence[Entry], comparable: bool) -> Iterator[str]:
    if not comparable:
        yield "not comparable: these are reports on different suites, so there is no front and no difference"
    else:
        yield "pass rates with their 95 % interval; costs, latencies and tokens are those of the answers used"
        yield f"{MARK} on the Pareto front: none of the others is at least as good in {_sides(entries)} and better in one of them"
        yield from _unplaced(entries)
    for what, values in (
        ("cases", {entry.letter: frozenset(case.id for case in entry.report.cases) for entry in entries}),
        ("repeats", {entry.letter: entry.report.head.repeats for entry in entries}),
    ):
        if comparable and len(set(values.values())) > 1:
            shown = {letter: len(value) if isinstance(value, frozenset) else value for letter, value in values.items()}
            yield f"judged on different {what}: {', '.join(f'{letter} {number}' for letter, number in shown.items())}"
    for entry in entries:
        if missing := len(entry.report.unscored()):
            yield f"{entry.letter}: {words.count(missing, 'case')} without a score"
        yield from (f"{entry.letter}: {remark}" for remark in words.not_a_model(entry.report.head, entry.report.head.candidate))


def _sides(entries: Sequence[Entry]) -> str:
    return ", ".join(_known_sides(entries))


def _unplaced(entries: Sequence[Entry]) -> Iterator[str]:
    lost = [entry.letter for entry in entries if entry.letter not in _places(entries)]
    if lost:
        yield f"not placed, because a price or a score is unknown: {', '.join(lost)}"
    unknown = [name for name in _SIDES if name not in _known_sides(entries)]
    if unknown:
        yield f"unknown of all, so not weighed: {', '.join(unknown)}"
