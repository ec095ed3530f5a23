"""Intervals as places on an axis: what the templates draw as SVG. Places are percentages of the width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..evals.gate import Judgement, points
from ..evals.report import Report
from ..evals.rules import parse_condition
from ..evals.show import words

_SIDE = 1.5
"""Left free at both sides, so that a point at an end is seen whole."""
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)
_TICKS = 6


class Bar(NamedTuple):
    """An interval with the observed value in it."""

    label: str
    value: str
    left: float
    middle: float
    right: float
    kind: str


class Line(NamedTuple):
    """A place on the axis that has a meaning: a tick, zero, the margin."""

    place: float
    label: str
    kind: str
    anchor: str
    """Where the label stands: ``start``, ``middle``, ``end``."""


class Plot(NamedTuple):
    """One axis with the bars over it. ``summary`` says in words what is seen."""

    title: str
    summary: str
    bars: tuple[Bar, ...]
    ticks: tuple[Line, ...]
    lines: tuple[Line, ...]


class Axis(NamedTuple):
    """From ``low`` to ``high`` with a tick every ``step``."""

    low: float
    high: float
    step: float

    def place(self, value: float) -> float:
        """Where ``value`` stands, in percent of the width; at an end when it lies outside."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(_SIDE + (100 - 2 * _SIDE) * share, 3)

    def line(self, value: float, label: str, kind: str) -> Line:
        """``value`` as a line with its label."""
        place = self.place(value)
        return Line(place, label, kind, "start" if place < 8 else "end" if place > 92 else "middle")

    def ticks(self) -> Iterable[float]:
        """The values that have a tick."""
        return (self.low + place * self.step for place in range(round((self.high - self.low) / self.step) + 1))


def _axis(values: Sequence[float], low: float, high: float) -> Axis:
    """An axis from tick to tick round ``values``, within ``low`` and ``high``."""
    spread = max(max(values) - min(values), 0.05)
    step = next((step for step in _STEPS if spread / step <= _TICKS - 1), 0.5)
    start = max(low, math.floor(round(min(values) / step, 9)) * step)
    end = min(high, math.ceil(round(max(values) / step, 9)) * step)
    return Axis(start, end if end > start else start + step, step)


def rates(report: Report) -> Plot | None:
    """The arms' pass rates with their intervals; ``None`` when nothing was scored."""
    found = [(column.role, column.rate) for column in words.arm_columns(report) if column.rate is not None]
    if not found:
        return None
    required = _required(report)
    ends = [end for _, rate in found for end in rate] + [bound for bound, _ in required]
    axis = _axis(ends, 0.0, 1.0)
    bars = [
        Bar(role, words.share_within(rate), axis.place(rate[1]), axis.place(rate[0]), axis.place(rate[2]), role) for role, rate in found
    ]
    ticks = [axis.line(value, f"{100 * value:.0f} %", "tick") for value in axis.ticks()]
    lines = [axis.line(bound, f"required {text}", "bound") for bound, text in required]
    summary = "; ".join(f"{bar.label} {bar.value}" for bar in bars)
    return Plot("Pass rate, 95 % interval", summary, tuple(bars), tuple(ticks), tuple(lines))


def _required(report: Report) -> list[tuple[float, str]]:
    found = [parse_condition(text) for metric, text in report.head.rules.require.items() if metric == "pass_rate"]
    return [(condition.bound, f"{condition.compare} {100 * condition.bound:g} %") for condition in found]


def difference(judgement: Judgement) -> Plot | None:
    """Candidate minus baseline with its interval, zero and the margin; ``None`` without a comparison or an interval."""
    found = judgement.comparison
    if found is None or found.lower is None or found.upper is None:
        return None
    margin = [] if found.margin is None else [-found.margin]
    axis = _axis([found.lower, found.upper, 0.0, *margin], -1.0, 1.0)
    value = f"{points(found.difference)} ({100 * found.lower:+.1f} to {100 * found.upper:+.1f})"
    bar = Bar("difference", value, axis.place(found.lower), axis.place(found.difference), axis.place(found.upper), judgement.verdict)
    ticks = [axis.line(place, f"{100 * place:+.0f}" if abs(place) > 1e-9 else "0", "tick") for place in axis.ticks()]
    lines = [axis.line(0.0, "", "zero"), *(axis.line(place, f"margin {100 * place:g}", "margin") for place in margin)]
    title = f"Difference in {found.metric.replace('_', ' ')}, points, {words.levels(found)}"
    margin_said = f"; margin {100 * margin[0]:g} points" if margin else ""
    return Plot(title, f"difference {value}{margin_said}", (bar,), tuple(ticks), tuple(lines))
