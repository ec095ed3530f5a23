"""Intervals and tests that decide a verdict: pure functions of plain numbers.

Differences are candidate minus baseline. Rates and differences are shares (0.1 is ten points), ``alpha`` is the level at each end
of an interval, ``n`` counts cases. No cases at all give the widest interval there is. Counts that can't be (a negative one, more
flips than cases, a value out of range or not a number) raise :class:`ValueError`.

Repeats: the case stays the unit, however often it is run. A case run k times counts once, with its pass rate; the ``_clustered``
functions take one value a case. They are score intervals for the mean of bounded values: Wilson's interval is the one for values
0 and 1, Tango's the one for -1, 0 and 1, and repeats only add values in between. The usual way, an effective sample size by the
design effect (Rao and Scott 1992, Biometrics 48:577-585; Korn and Graubard 1998, Survey Methodology 24:193-201), is not used,
because the design effect of few failures can't be estimated: ten cases run five times with one failure in fifty would get a
*higher* lower end than ten cases without any.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple

MIN_NONZERO = 8
"""A bootstrap of fewer differences than this says more about the few than about the prompt."""

_LEVELS = 32
"""Distinct differences (each way from zero) that are resampled as they are; finer ones are shared between their two neighbours."""

_NOISE = 1e-12
_DIGITS = 12
"""0.6 - 0.4 and 0.4 - 0.2 are the same difference."""


class Interval(NamedTuple):
    """Both ends, as shares."""

    lower: float
    upper: float


def wilson(passed: int, n: int, confidence: float = 0.95) -> Interval:
    """Two-sided score interval of a pass rate (Wilson 1927, JASA 22:209-212)."""
    _check(0 <= passed <= n, f"{passed} passed of {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    z = _z((1 - confidence) / 2)
    middle = passed + z * z / 2
    half = z * math.sqrt(passed * (n - passed) / n + z * z / 4)
    lower = (middle - half) / (n + z * z) if passed else 0.0
    upper = (middle + half) / (n + z * z) if passed < n else 1.0
    return Interval(lower, upper)


def wilson_clustered(rates: Sequence[float], confidence: float = 0.95) -> Interval:
    """Wilson's interval when cases were repeated: ``rates`` holds one pass rate (0..1) a case.

    With rates of 0 and 1 only it is :func:`wilson`.
    """
    return _mean_interval(rates, 0.0, 1.0, _z((1 - confidence) / 2))


def tango_score(better: float, worse: float, n: float, difference: float) -> float:
    """Tango's score statistic, standard normal when ``difference`` is the true one; it falls as ``difference`` rises.

    ``better`` cases were passed by the candidate only, ``worse`` by the baseline only. Tango (1998), Statistics in Medicine
    17:891-908, equations 24 to 26: the variance is that of the likeliest rates which have this difference, so it is right
    without any flip as well. A difference of -1 or 1 which was not seen gives an infinite score.
    """
    _check(better >= 0 and worse >= 0 and better + worse <= n, f"{better} better and {worse} worse of {n}")
    _check(-1 <= difference <= 1, f"a difference of {difference}")
    if difference > 0:  # the same table seen from the baseline; it spares a loss of digits and makes swapping the arms exact
        return -tango_score(worse, better, n, -difference)
    excess = better - worse - n * difference
    b = (2 * n - better + worse) * difference - (better + worse)  # never above 0 here
    c = -worse * difference * (1 - difference)
    q = max((math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n), -difference) if n else 0.0
    variance = n * (2 * q + difference * (1 - difference))
    if variance <= 0 or excess == 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def tango(better: int, worse: int, n: int, alpha: float = 0.05) -> Interval:
    """Paired score interval of candidate minus baseline: every difference :func:`tango_score` does not reject at ``alpha``."""
    _check(better >= 0 and worse >= 0 and better + worse <= n, f"{better} better and {worse} worse of {n}")
    if n == 0:
        return Interval(-1.0, 1.0)
    z = _z(alpha)
    return Interval(_tango_lower(better, worse, n, z), -_tango_lower(worse, better, n, z))


def tango_clustered(differences: Sequence[float], alpha: float = 0.05) -> Interval:
    """Tango's interval when cases were repeated: one difference of pass rates (-1..1) a case.

    The case is the unit, as in Obuchowski (1998), Statistics in Medicine 17:1495-1507. Tango's likelihood has the values -1, 0 and
    1; here it has the rates that k repeats can differ by as well, and is tilted to a mean by the same likelihood argument (Owen
    1988, Biometrika 75:237-249), both ends of the range included though none may have been seen. With differences of -1, 0
    and 1 only it is :func:`tango`.
    """
    return _mean_interval(differences, -1.0, 1.0, _z(alpha))


def per_look(alpha: float, looks: int) -> float:
    """What is left of ``alpha`` for each of so many looks at the same cases (Bonferroni)."""
    _check(looks >= 1, f"{looks} looks")
    return alpha / looks


def superiority(better: int, worse: int, n: int, looks: int = 1, alpha: float = 0.05) -> Interval:
    """:func:`tango` with ``alpha`` divided by the looks: the candidate is better when the lower end is above 0."""
    return tango(better, worse, n, per_look(alpha, looks))


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided p of equal arms (McNemar 1947, Psychometrika 12:153-157): both ways of flipping equally likely."""
    _check(better >= 0 and worse >= 0, f"{better} better and {worse} worse")
    flips = better + worse
    term = total = 1
    for i in range(min(better, worse)):
        term = term * (flips - i) // (i + 1)
        total += term
    return min(1.0, 2 * total / (1 << flips))


def needed_cases(better: int, worse: int, n: int, *, margin: float | None, alpha: float = 0.05) -> int | None:
    """How many cases would decide if flips went on at the observed rates; ``None``: no number would.

    With a ``margin`` (the drop allowed, a share) either a lower end of -margin or an upper end below 0 decides; with ``None``, when
    the candidate must beat the baseline, only a lower end above 0. Tango's statistic at fixed rates grows with the root of n.
    """
    return _needed(lambda difference: tango_score(better, worse, n, difference) / math.sqrt(n), margin, _z(alpha)) if n else None


def needed_cases_clustered(differences: Sequence[float], *, margin: float | None, alpha: float = 0.05) -> int | None:
    """:func:`needed_cases` with repeats: one difference of pass rates a case."""
    values = _distribution(differences, -1.0, 1.0)
    return _needed(lambda difference: _unit_score(values, -1.0, 1.0, difference), margin, _z(alpha)) if values else None


def needed_cases_scores(differences: Sequence[float], *, margin: float | None, alpha: float = 0.05) -> int | None:
    """:func:`needed_cases` for scores (:func:`paired_bootstrap`): by their mean and spread, and enough non-zero ones to begin with."""
    values = _distribution(differences, -math.inf, math.inf)
    nonzero = math.fsum(share for value, share in values.items() if value)
    if not nonzero:
        return None
    mean = _mean(values)
    spread = math.sqrt(sum(share * (value - mean) ** 2 for value, share in values.items()))
    decided = _needed(lambda difference: _ratio(mean - difference, spread), margin, _z(alpha))
    return None if decided is None else max(decided, math.ceil(MIN_NONZERO / nonzero))


def paired_bootstrap(differences: Sequence[float], seed: int | str, alpha: float = 0.05, resamples: int = 2000) -> Interval | None:
    """Interval of the mean paired difference of scores, by resampling cases (Efron and Tibshirani 1993, chapter 14: BCa).

    ``None`` with fewer than :data:`MIN_NONZERO` differences that are not zero: that is inconclusive. The same seed gives the same
    resamples on every platform. Equal differences are drawn together, so the time grows with the distinct ones, of which there are at most
    65: beyond that each is shared between the two nearest of 65 levels, which keeps the mean and can only widen the interval.
    """
    _check(resamples > 1, f"{resamples} resamples")
    values = _distribution(differences, -math.inf, math.inf)
    n = len(differences)
    if sum(1 for value in differences if round(value, _DIGITS)) < MIN_NONZERO:
        return None
    digest = hashlib.sha256(f"{seed}".encode()).digest()
    tree = _tree(_levels(values, n))
    bits = random.Random(int.from_bytes(digest)).getrandbits
    means = sorted(_draw(tree, n, bits) / n for _ in range(resamples))
    return _bca(values, n, means, alpha)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{what}: that can't be")


def _z(alpha: float) -> float:
    _check(0 < alpha < 0.5, f"a level of {alpha}")
    return -NormalDist().inv_cdf(alpha)


def _bisect(low: float, high: float, is_low: Callable[[float], bool]) -> float:
    """The last float for which ``is_low`` holds; it holds at ``low`` and not at ``high``."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if is_low(middle) else (low, middle)
    return low


def _tango_lower(better: int, worse: int, n: int, z: float) -> float:
    return _bisect(-1.0, (better - worse) / n, lambda difference: tango_score(better, worse, n, difference) >= z)


def _ratio(excess: float, spread: float) -> float:
    return excess / spread if spread else math.copysign(math.inf, excess) if excess else 0.0


def _needed(unit_score: Callable[[float], float], margin: float | None, z: float) -> int | None:
    """The smallest n with root(n) * score >= z, by the score of one case on average."""
    scores = [unit_score(0.0)] if margin is None else [unit_score(-margin), -unit_score(0.0)]
    best = max(scores)
    return max(1, math.ceil((z / best) ** 2)) if best > 1e-6 else None  # below that it is rounding


# Score interval of the mean of bounded values. `values` maps a value to its share of the cases.

_Values = dict[float, float]
_Node = tuple[int, float] | tuple[int, "_Node", "_Node"]


def _distribution(values: Iterable[float], low: float, high: float) -> _Values:
    counts = Counter(round(value, _DIGITS) for value in values)
    for value in counts:
        _check(math.isfinite(value) and low <= value <= high, f"a value of {value}")
    n = counts.total()
    return {value: count / n for value, count in sorted(counts.items())}


def _mean(values: _Values) -> float:
    return math.fsum(value * share for value, share in values.items())


def _mean_interval(values: Sequence[float], low: float, high: float, z: float) -> Interval:
    shares = _distribution(values, low, high)
    if not shares:
        return Interval(low, high)
    n = len(values)
    lower = low + _lower_end(_above(shares, low), n, z)
    upper = high - _lower_end(_below(shares, high), n, z)
    return Interval(lower, upper)


def _above(values: _Values, low: float) -> _Values:
    return {value - low: share for value, share in values.items()}


def _below(values: _Values, high: float) -> _Values:
    return {high - value: share for value, share in values.items()}


def _tilted(values: _Values, pull: float) -> tuple[float, float]:
    """Mean and variance of the likeliest distribution with a smaller mean; the weaker the ``pull`` (0..1), the nearer the seen one.

    Owen's weights, share / (1 + l * (value - mean)), written as share / (s + value) with s from 0 (full pull) to infinity.
    """
    weights = {value: share / (1 - pull + pull * value) for value, share in values.items()}
    total = math.fsum(weights.values())
    mean = math.fsum(value * weight for value, weight in weights.items()) / total
    return mean, math.fsum((value - mean) ** 2 * weight for value, weight in weights.items()) / total


def _reach(values: _Values) -> float:
    """The smallest mean to be had from the seen values alone; below it, unseen cases of value 0 must be supposed."""
    return 0.0 if 0.0 in values else 1 / math.fsum(share / value for value, share in values.items())


def _lower_end(values: _Values, n: int, z: float) -> float:
    """Lower end for the mean of values from 0 up, where cases of value 0 are possible though none may have been seen."""
    mean = _mean(values)
    unseen = n * mean / (n + z * z)  # with a share of unseen zeros the variance is end * (mean - end)
    if mean == 0 or unseen <= _reach(values):
        return unseen

    def near(pull: float) -> bool:
        end, variance = _tilted(values, pull)
        return n * (mean - end) ** 2 < z * z * variance

    return _tilted(values, _bisect(0.0, 1.0, near))[0]


def _unit_score(values: _Values, low: float, high: float, mean: float) -> float:
    """Score of a supposed mean, for one case; n of them have root(n) times as much."""
    seen = _mean(values)
    if mean == seen:
        return 0.0
    if mean > seen:
        return -_unit_score({-value: share for value, share in values.items()}, -high, -low, -mean)
    rest, target, shifted = seen - low, mean - low, _above(values, low)
    if target <= _reach(shifted):
        return math.sqrt((rest - target) / target) if target > 0 else math.inf
    pull = _bisect(0.0, 1.0, lambda pull: _tilted(shifted, pull)[0] > target)
    return _ratio(seen - mean, math.sqrt(_tilted(shifted, pull)[1]))


# Bootstrap. A level is a value with a whole-number weight; a tree of them has (weight, value) leaves and (weight, left, right) nodes.

_WEIGHT = 1 << 32


def _levels(values: _Values, n: int) -> list[tuple[int, float]]:
    if len(values) <= 2 * _LEVELS + 1:
        return [(round(share * n), value) for value, share in values.items()]
    step = max(map(abs, values)) / _LEVELS
    shared: Counter[int] = Counter()
    for value, share in values.items():
        below = math.floor(value / step)
        above = round(share * (value / step - below) * _WEIGHT)
        shared[below + 1] += above
        shared[below] += round(share * _WEIGHT) - above
    return [(weight, level * step) for level, weight in sorted(shared.items()) if weight]


def _tree(levels: list[tuple[int, float]]) -> _Node:
    if len(levels) == 1:
        return levels[0]
    left, right = _tree(levels[: len(levels) // 2]), _tree(levels[len(levels) // 2 :])
    return left[0] + right[0], left, right


def _draw(node: _Node, n: int, bits: Callable[[int], int]) -> float:
    """Sum of ``n`` draws."""
    if len(node) == 2:
        return n * node[1]
    weight, left, right = node
    on_left = _binomial(n, left[0], weight, bits)
    total = _draw(left, on_left, bits) if on_left else 0.0
    return total + _draw(right, n - on_left, bits) if on_left < n else total


def _binomial(n: int, part: int, whole: int, bits: Callable[[int], int]) -> int:
    """How many of ``n`` uniform numbers lie below part / whole, exactly: their binary digits are drawn until they differ from it."""
    hits = 0
    while n and part:
        part *= 2
        equal = bits(n).bit_count()
        if part >= whole:
            part -= whole
            hits += n - equal
        n = equal
    return hits


def _bca(values: _Values, n: int, means: Sequence[float], alpha: float) -> Interval:
    """Percentiles of the resampled means, moved by their bias and by the skewness of the cases (jackknife acceleration)."""
    mean = _mean(values)
    squares = math.fsum(share * (value - mean) ** 2 for value, share in values.items())
    cubes = math.fsum(share * (value - mean) ** 3 for value, share in values.items())
    skew = _ratio(cubes, 6 * squares**1.5 * math.sqrt(n)) if squares > _NOISE else 0.0
    below = sum((resampled < mean + _NOISE) + (resampled < mean - _NOISE) for resampled in means) / (2 * len(means))
    normal = NormalDist()
    bias = normal.inv_cdf(min(max(below, 0.5 / len(means)), 1 - 0.5 / len(means)))

    def end(z: float) -> float:
        shrink = 1 - skew * (bias + z)
        moved = bias + (bias + z) / shrink if shrink > 0 else math.copysign(math.inf, z)
        return _quantile(means, normal.cdf(moved))

    z = _z(alpha)
    return Interval(end(-z), end(z))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    left = min(int(place), len(ordered) - 2)
    return ordered[left] + (place - left) * (ordered[left + 1] - ordered[left])
