"""The gate's rules as a task file writes them: thresholds by metric, a baseline, a margin, tags that must not regress."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from ..errors import InputError, did_you_mean
from ..receipt import Rules

METRICS: dict[str, str] = {
    "pass_rate": "share of cases that pass, 0 to 1",
    "score": "mean score, 0 to 1",
    "contract": "share of answers that satisfy the contract, 0 to 1",
    "pass_k": "share of cases whose every repeat passes, 0 to 1",
    "mean_ms": "mean latency of a call, milliseconds",
    "p50_ms": "median latency of a call, milliseconds",
    "p95_ms": "95th percentile of the latency of a call, milliseconds",
    "cost_per_1k_usd": "US dollars for 1,000 inputs",
    "tokens_in": "mean input tokens of an input",
    "tokens_out": "mean output tokens of an input",
}
"""What a gate can require, besides ``scorers.<name>`` (mean score of one scorer) and ``tags.<tag>`` (pass rate of a tag)."""
SHARES = frozenset({"pass_rate", "score", "contract", "pass_k"})
BOUNDED = frozenset({"pass_rate", "score"})
"""Metrics that have an interval, so that a threshold may judge its end."""

Side = Literal["", "lower95", "upper95"]
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq,
}  # fmt: skip
_CONDITION = re.compile(r"(>=|<=|==|>|<)\s*(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")
_RIGHT = "write a comparison and a number, such as '>= 0.92'"


class Condition(NamedTuple):
    """One threshold: which value is judged (the observed one, or an end of its interval), how, and against what."""

    side: Side
    compare: str
    bound: float

    def holds(self, value: float) -> bool:
        if self.compare == "==":
            return math.isclose(value, self.bound, rel_tol=1e-9, abs_tol=1e-12)
        return _COMPARE[self.compare](value, self.bound)

    def __str__(self) -> str:
        return f"{self.side + ' ' if self.side else ''}{self.compare} {self.bound:g}"


class Mistake(NamedTuple):
    """What is wrong with one key of ``gate:``, and what would be right."""

    key: str
    what: str
    right: str


def parse_condition(text: str) -> Condition:
    """A condition as :class:`~promptsmith.receipt.Rules` holds it. Raises :class:`InputError`."""
    side, _, rest = text.partition(" ") if text.startswith(("lower95 ", "upper95 ")) else ("", "", text)
    found = _CONDITION.fullmatch(rest.strip())
    if found is None:
        raise InputError(f"{text!r} is no threshold", hint=_RIGHT)
    name: Side = "lower95" if side == "lower95" else "upper95" if side == "upper95" else ""
    return Condition(name, found[1], float(found[2]))


def gate_rules(gate: Mapping[str, Any]) -> Rules:
    """The rules that ``gate:`` of a task says. Raises :class:`InputError` for one that :func:`gate_mistakes` names."""
    written = gate.get("require", {})
    rules = {key: value for key, value in gate.items() if key != "require"}
    require = {str(metric): str(_condition(value)) for metric, value in written.items()}
    return msgspec.convert({**rules, "require": require}, Rules)


def gate_mistakes(gate: Mapping[str, Any], scorers: Sequence[str], tags: Sequence[str]) -> Iterator[Mistake]:
    """Everything that is wrong with ``gate:`` of a task whose suite has these scorers and tags."""
    for metric, value in gate.get("require", {}).items():
        yield from _metric_mistakes(str(metric), scorers, tags)
        try:
            condition = _condition(value)
        except InputError as error:
            yield Mistake(str(metric), error.message, error.hint)
        else:
            yield from _condition_mistakes(str(metric), condition)
    for tag in gate.get("must_pass", ()):
        if tag not in tags:
            known = f"the tags of its cases: {', '.join(tags)}" if tags else "give cases tags: [...]"
            yield Mistake("must_pass", f"no case of the holdout has the tag {tag!r}", did_you_mean(tag, tags) or known)


def _condition(value: Any) -> Condition:
    if isinstance(value, str):
        side, text = "", value
    elif isinstance(value, Mapping) and len(value) == 1:
        ((side, text),) = value.items()
    else:
        raise InputError(f"{value!r} is no threshold", hint=_RIGHT)
    if side not in ("", "lower95", "upper95") or not isinstance(text, str):
        raise InputError(f"{value!r} is no threshold", hint="write '>= 0.92', or {lower95: '>= 0.9'} to judge the interval's lower end")
    if "%" in text:
        raise InputError(f"{text!r} is no threshold: shares are written from 0 to 1", hint="90 % is '>= 0.9'")
    if "," in text:
        raise InputError(f"{text!r} is no threshold: a number has a point, not a comma", hint="write '>= 0.9'")
    return parse_condition(f"{side} {text.strip()}".strip())


def _metric_mistakes(metric: str, scorers: Sequence[str], tags: Sequence[str]) -> Iterator[Mistake]:
    kind, dot, name = metric.partition(".")
    known: Sequence[str] = {"scorers": scorers, "tags": tags}.get(kind, ()) if dot else ()
    if metric in METRICS or name in known:
        return
    names = [*METRICS, *(f"scorers.{scorer}" for scorer in scorers), *(f"tags.{tag}" for tag in tags)]
    yield Mistake(metric, f"there is no metric {metric!r}", did_you_mean(metric, names) or f"metrics here: {', '.join(names)}")


def _condition_mistakes(metric: str, condition: Condition) -> Iterator[Mistake]:
    share = metric in SHARES or metric.startswith(("scorers.", "tags."))
    if share and condition.bound > 1:
        yield Mistake(metric, f"{condition.bound:g} can't be reached: {metric} goes from 0 to 1", f"90 % is '{condition.compare} 0.9'")
    if condition.side and metric not in BOUNDED:
        yield Mistake(metric, f"{metric} has no interval whose end could be judged", f"write '{condition.compare} {condition.bound:g}'")
