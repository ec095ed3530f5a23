"""Which candidates no other beats, which of them is taken, and from which the next one is bred: pure functions of scores and prices."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from ...catalog.models import ModelFacts
from ...catalog.prices import Rates
from ...chat import Usage
from ...economics import Prefix, cached_prefix, per_call
from ...evals.statistics import tango_clustered
from ...models.caching import static_tokens
from ...task.values import Prefer

__all__ = ["Point", "Prefer", "case_front", "choose", "front", "sample_parent", "warm_usd_per_1k"]

_NOISE = 1e-9
"""What two means of the same scores may differ by through rounding."""
_TWO_SIDED_95 = 0.025


class Point(NamedTuple):
    """A candidate as the front sees it."""

    id: str
    score: float
    """Mean over the dev cases, 0 to 1."""
    tokens: float
    """Mean tokens of a call, in and out."""
    usd_per_1k: float | None
    """US dollars for 1,000 calls; ``None``: not known."""


def front(points: Iterable[Point]) -> tuple[str, ...]:
    """Ids of the points that no other beats: none has at least its score for at most its tokens and dollars, and one of them better.

    When the dollars of any point are not known, no dollars are compared. Best score first, then fewer tokens, then by id.
    """
    return tuple(point.id for point in _front(list(points)))


def choose(points: Iterable[Point], prefer: Prefer, paired: Callable[[str, str], Sequence[float]]) -> tuple[str, str]:
    """The id of the point on the front that is taken, and why in words.

    ``paired(a, b)`` gives the differences of score, a minus b, over the dev cases that both were scored on.

    - ``score``: the highest mean score; of equals the one with fewer tokens, then by id.
    - ``balanced``: the cheapest whose mean is within one standard error of the best, the error that of the paired differences
      (one-standard-error rule: Breiman, Friedman, Olshen and Stone 1984, Classification and Regression Trees, section 3.4.3).
    - ``cost``: the cheapest that is not measurably worse than the best: the two-sided 95 % interval of its paired difference
      (:func:`~promptsmith.evals.statistics.tango_clustered`) does not lie wholly below zero.

    Cheapest is fewest dollars, where all are known, then fewest tokens. Raises :class:`ValueError` when there is no point.
    """
    left = _front(list(points))
    if not left:
        raise ValueError("there is no candidate to choose from")
    best = left[0]
    if prefer == "score":
        return best.id, f"it has the highest mean score, {best.score:.3f}"
    holds, says, none = _EQUAL_ENOUGH[prefer]
    equals = [point for point in left if point is best or holds(paired(point.id, best.id))]
    taken = min(equals, key=_cost(equals))
    if taken is best:
        return best.id, f"it has the highest mean score, {best.score:.3f}, and no cheaper one {none}"
    return taken.id, f"it is the cheapest that {says} the best: its mean score is {taken.score:.3f}, that of {best.id} {best.score:.3f}"


def _front(points: Sequence[Point]) -> list[Point]:
    priced = _priced(points)

    def wants(point: Point) -> tuple[float, ...]:
        """Less is better in each."""
        plain = (-point.score, point.tokens)
        return (*plain, point.usd_per_1k) if priced and point.usd_per_1k is not None else plain

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    wanted = [wants(point) for point in points]
    kept = [point for point, own in zip(points, wanted, strict=True) if not any(beats(other, own) for other in wanted)]
    return sorted(kept, key=lambda point: (-point.score, point.tokens, point.id))


def _cost(points: Sequence[Point]) -> Callable[[Point], tuple[float, float, float, str]]:
    """What the cheapest has least of. Tokens decide where dollars do not, as among models that cost nothing."""
    priced = _priced(points)
    return lambda point: (point.usd_per_1k or 0.0 if priced else 0.0, point.tokens, -point.score, point.id)


def _priced(points: Sequence[Point]) -> bool:
    return all(point.usd_per_1k is not None for point in points)


def _within_one_error(differences: Sequence[float]) -> bool:
    # One case shows no spread, so it excuses no difference.
    if not differences:
        return False
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return fmean(differences) >= -error - _NOISE


def _not_measurably_worse(differences: Sequence[float]) -> bool:
    return bool(differences) and tango_clustered(differences, _TWO_SIDED_95).upper >= 0


_EQUAL_ENOUGH: Mapping[str, tuple[Callable[[Sequence[float]], bool], str, str]] = {
    "balanced": (_within_one_error, "is within one standard error of", "is within one standard error of it"),
    "cost": (_not_measurably_worse, "is not measurably worse than", "is as good within what can be measured"),
}
"""By preference: whether a candidate is as good as the best, how that is said, and what is said where there is none."""

# --- which candidate the next one is bred from ------------------------------------------------------------


def case_front(scores: Mapping[str, Mapping[str, float]], cases: Iterable[str]) -> dict[str, int]:
    """How many cases each candidate is the best on, by id, without those that another dominates.

    ``scores`` maps a candidate's id to its score by case; a candidate without a score on a case does not take part in it. Instance-wise
    Pareto selection: Agrawal et al. 2025, GEPA (arXiv:2507.19457), algorithm 2. A candidate is dominated when another one is among the
    best on each case that it is among the best on, and on one more. A specialist for one hard case so stays a parent, which no mean shows.
    """
    won: dict[str, set[str]] = {}
    for case in cases:
        here = {name: by_case[case] for name, by_case in scores.items() if case in by_case}
        most = max(here.values(), default=0.0)
        for name, score in here.items():
            if score >= most - _NOISE:
                won.setdefault(name, set()).add(case)
    kept = [name for name in scores if name in won and not any(won[name] < other for other in won.values())]
    return {name: len(won[name]) for name in kept}


def sample_parent(counts: Mapping[str, int], rng: random.Random, order: Sequence[str]) -> str:
    """An id drawn in proportion to its count; ``order`` (all ids) makes the draw the same whatever the order of ``counts``.

    Raises :class:`ValueError` when nothing can be drawn.
    """
    names = [name for name in order if counts.get(name, 0) > 0]
    if not names:
        raise ValueError("there is no candidate to breed from")
    return rng.choices(names, [counts[name] for name in names])[0]


# --- dollars ----------------------------------------------------------------------------------------------


def warm_usd_per_1k(system: str, usages: Sequence[Usage], rates: Rates | None, facts: ModelFacts) -> float | None:
    """US dollars of 1,000 calls like ``usages`` that find the static part ``system`` in the provider's cache.

    The cached prefix is the one that the provider counted; where no call had one yet, as when all of them came at once, it is the
    estimated length of ``system``, if that is long enough to be cached. ``None`` without a price, without calls, or where a provider
    counted nothing.
    """
    prefix = cached_prefix(usages, system, facts)
    if prefix.seen == "not seen":
        prefix = Prefix(static_tokens(system, facts), "cached")
    warm = per_call(usages, rates, prefix).warm
    return None if warm is None else 1000 * warm
