"""Candidates by score and cost as places on two axes: what a template draws as SVG. Places are percentages of width and height."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..compiler.search import words
from ..compiler.search.record import CandidateRecord, SearchRecord
from ..evals.show.words import count, dollars, plain, tokens
from .plot import Axis, Line

_STEPS = 4
"""From tick to tick, at most, along the spread of the values."""


class Dot(NamedTuple):
    """One candidate. ``lower`` and ``upper`` are the ends of its score's interval, for those that are named."""

    x: float
    y: float
    lower: float
    upper: float
    kind: str
    """``chosen``, ``front`` or ``other``."""
    name: str
    """The letter that the table of the front has too; empty for those that are not on it."""
    says: str


class Stroke(NamedTuple):
    """A straight piece of the front's line."""

    x1: float
    y1: float
    x2: float
    y2: float


class Scatter(NamedTuple):
    """Score upwards, cost to the right; ``summary`` says in words what is seen."""

    title: str
    summary: str
    dots: tuple[Dot, ...]
    front: tuple[Stroke, ...]
    across: tuple[Line, ...]
    up: tuple[Line, ...]


Cost = Callable[[CandidateRecord], float | None]
Form = Callable[[float | None], str]


def scatters(record: SearchRecord) -> list[Scatter]:
    """Score against tokens, and against dollars where the prices are known, of all that was scored on the whole dev part."""
    sides = (
        _scatter(record, "dollars per 1,000 calls, provider cache warm", lambda one: one.usd_per_1k, dollars, "$"),
        _scatter(record, "tokens per call", lambda one: one.tokens_per_call, tokens, ""),
    )
    return [side for side in sides if side is not None]


def letters(record: SearchRecord) -> dict[str, str]:
    """The letter of each candidate on the front, by id."""
    return {name: chr(ord("A") + place) if place < 26 else str(place) for place, name in enumerate(record.front)}


def _scatter(record: SearchRecord, title: str, cost: Cost, form: Form, unit: str) -> Scatter | None:
    whole = [one for one in record.candidates if one.mean is not None and one.scores and len(one.scores) >= len(record.dev_cases)]
    placed = [(one, one.mean, at) for one in whole if one.mean is not None and (at := cost(one)) is not None]
    if not placed or len(placed) < len(whole):
        return None
    named = letters(record)
    across = axis([at for _, _, at in placed])
    ends = [end for one, mean, _ in placed for end in (mean, *((one.lower, one.upper) if one.id in named else ())) if end is not None]
    up = axis(ends, lowest=0.0, highest=1.0)
    dots = [_dot(record, named, one, mean, at, across, up, form) for one, mean, at in placed]
    best = _staircase([(at, mean) for one, mean, at in placed if one.id in named])
    order = {name: place for place, name in enumerate(named.values())}
    on_front = sorted((dot for dot in dots if dot.name), key=lambda dot: order[dot.name])
    summary = "; ".join([count(len(dots), "candidate"), *(dot.says for dot in on_front)])
    return Scatter(
        title=f"Score against {title}",
        summary=summary,
        dots=tuple(sorted(dots, key=lambda dot: bool(dot.name))),  # what has a name is drawn last, over the others
        front=tuple(_strokes([(across.place(at), 100 - up.place(mean)) for at, mean in best])),
        across=tuple(across.line(value, unit + _digits(value, across.step), "tick") for value in across.ticks()),
        up=tuple(up.line(value, _digits(value, up.step), "tick")._replace(place=100 - up.place(value)) for value in up.ticks()),
    )


def _dot(
    record: SearchRecord,
    named: dict[str, str],
    one: CandidateRecord,
    mean: float,
    at: float,
    across: Axis,
    up: Axis,
    form: Form,
) -> Dot:
    name = named.get(one.id, "")
    kind = "chosen" if one.id == record.chosen else "front" if name else "other"
    says = f"{name + ' ' if name else ''}{one.id} {words.called(one.origin)}: {plain(mean)} for {form(at)}"
    lower, upper = (mean if end is None else end for end in (one.lower, one.upper))
    return Dot(across.place(at), 100 - up.place(mean), 100 - up.place(lower), 100 - up.place(upper), kind, name, says)


def axis(values: Sequence[float], *, lowest: float = 0.0, highest: float = math.inf) -> Axis:
    """An axis from tick to tick round ``values``, all of them finite, with steps of 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    spread = max(high - low, 0.01 * abs(high), 1e-9)
    size = 10.0 ** math.floor(math.log10(spread / _STEPS))
    step = next(size * factor for factor in (1, 2, 5, 10, 20) if spread / (size * factor) <= _STEPS)
    start, end = math.floor(round(low / step, 9)) * step, math.ceil(round(high / step, 9)) * step
    start, end = max(lowest, start), min(highest, end)
    if end - start < step / 2:
        start, end = (start, start + step) if start + step <= highest else (end - step, end)
    return Axis(start, end, step)


def _digits(value: float, step: float) -> str:
    """A tick with the digits that tell it from the next."""
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of ``points`` (cost, score) that no other beats in these two, the cheapest first."""
    kept: list[tuple[float, float]] = []
    for at, mean in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or mean > kept[-1][1]:
            kept.append((at, mean))
    return kept


def _strokes(corners: Sequence[tuple[float, float]]) -> Iterator[Stroke]:
    """From corner to corner as steps: between two of the front nothing in the middle is to be had."""
    for (x1, y1), (x2, y2) in pairwise(corners):
        yield Stroke(x1, y1, x2, y1)
        yield Stroke(x2, y1, x2, y2)
