"""What was observed of one arm: shares, latencies, costs, by scorer and by tag."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import msgspec

from ..chat import Usage, total_cost
from .attempt import Attempt
from .suite import Case

OUTPUTS = "outputs"
"""The source of recorded outputs: what they took is not known."""


class Tally(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One arm in numbers."""

    cases: int
    scored: int
    """Cases of which every answer has a score."""
    passed: float
    """Sum of the cases' pass rates; a whole number without repeats."""
    calls: int
    """Answers, wherever they came from."""
    sources: dict[str, int] = {}
    """Answers by where they came from."""
    cost: float | None = None
    """US dollars of all answers as recorded, ``None`` when a price is unknown."""
    usage: Usage = Usage()
    metrics: dict[str, float | None] = {}
    """By name, see :data:`promptsmith.evals.rules.METRICS`; ``None``: unknown."""
    tags: dict[str, tuple[int, float]] = {}
    """By tag: cases and the sum of their pass rates."""
    flaky: tuple[str, ...] = ()
    """Ids of cases that passed in some repeats and failed in others."""


def pass_rate(attempts: Iterable[Attempt | None]) -> float | None:
    """The share of a case's answers that passed; ``None`` when one is missing or unscored."""
    passed = [attempt.passed if attempt is not None else None for attempt in attempts]
    return None if None in passed or not passed else sum(map(bool, passed)) / len(passed)


def mean_score(attempts: Iterable[Attempt | None]) -> float | None:
    """The mean score of a case's answers; ``None`` when one is missing or unscored."""
    scores = [attempt.score if attempt is not None else None for attempt in attempts]
    found = [score for score in scores if score is not None]
    return fmean(found) if found and len(found) == len(scores) else None


def tally(cases: Sequence[Case], attempts: Sequence[Sequence[Attempt | None]]) -> Tally:
    """``attempts`` by case and repeat, in the order of ``cases``."""
    answers = [attempt for row in attempts for attempt in row if attempt is not None and attempt.source]
    rates = [pass_rate(row) for row in attempts]
    known = [rate for rate in rates if rate is not None]
    tags: dict[str, tuple[int, float]] = {}
    for case, rate in zip(cases, rates, strict=True):
        for tag in case.tags if rate is not None else ():
            count, passed = tags.get(tag, (0, 0.0))
            tags[tag] = count + 1, passed + (rate or 0.0)
    called = [answer for answer in answers if answer.source != OUTPUTS]
    cost = total_cost(answer.cost for answer in answers)
    usage = Usage(*(sum(getattr(answer.usage, name) for answer in answers) for name in Usage.__struct_fields__))
    sources: dict[str, int] = {}
    for answer in answers:
        sources[answer.source] = sources.get(answer.source, 0) + 1
    return Tally(
        cases=len(cases),
        scored=len(known),
        passed=sum(known),
        calls=len(answers),
        sources=dict(sorted(sources.items())),
        cost=cost,
        usage=usage,
        metrics=_metrics(attempts, answers, called, known, cost, usage, tags),
        tags=dict(sorted(tags.items())),
        flaky=tuple(case.id for case, rate in zip(cases, rates, strict=True) if rate is not None and 0 < rate < 1),
    )


def _metrics(
    attempts: Sequence[Sequence[Attempt | None]],
    answers: Sequence[Attempt],
    called: Sequence[Attempt],
    rates: Sequence[float],
    cost: float | None,
    usage: Usage,
    tags: Mapping[str, tuple[int, float]],
) -> dict[str, float | None]:
    scores = [score for row in attempts if (score := mean_score(row)) is not None]
    times = sorted(1000 * answer.latency for answer in called)
    count = len(called)
    found: dict[str, float | None] = {
        "pass_rate": _mean(rates),
        "score": _mean(scores),
        "contract": _mean([not answer.broken for answer in answers]),
        "pass_k": _mean([rate == 1 for rate in rates]),
        "mean_ms": _mean(times),
        "p50_ms": percentile(times, 0.5),
        "p95_ms": percentile(times, 0.95),
        "cost_per_1k_usd": 1000 * cost / count if cost is not None and count else None,
        "tokens_in": usage.input / count if count else None,
        "tokens_out": usage.output / count if count else None,
    }
    by_scorer: dict[str, list[float]] = {}
    for answer in answers:
        for grade in answer.grades:
            if grade.score is not None:
                by_scorer.setdefault(grade.scorer, []).append(grade.score)
    found |= {f"scorers.{name}": _mean(values) for name, values in sorted(by_scorer.items())}
    return found | {f"tags.{name}": passed / cases for name, (cases, passed) in sorted(tags.items())}


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest of the ``ordered`` values that ``share`` of them do not exceed (nearest rank); ``None`` of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
