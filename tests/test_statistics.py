"""Intervals and tests against published values, brute force, scipy and simulation."""

import math
import random
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from promptsmith.evals.statistics import (
    Interval,
    mcnemar,
    needed_cases,
    needed_cases_clustered,
    needed_cases_scores,
    paired_bootstrap,
    per_look,
    superiority,
    tango,
    tango_clustered,
    tango_score,
    wilson,
    wilson_clustered,
)

CORNERS = [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 50), (50, 0, 50), (0, 50, 50), (25, 25, 50), (1, 0, 10_000), (5_000, 5_000, 10_000)]


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 400))
    better = draw(st.integers(0, n))
    return better, draw(st.integers(0, n - better)), n


@st.composite
def repeated(draw: st.DrawFn) -> list[float]:
    """Differences of pass rates of cases that were run k times in each arm."""
    k = draw(st.integers(1, 6))
    passes = st.integers(0, k)
    return [(a - b) / k for a, b in draw(st.lists(st.tuples(passes, passes), min_size=1, max_size=60))]


def differences(better: int, worse: int, n: int) -> list[float]:
    return [1.0] * better + [-1.0] * worse + [0.0] * (n - better - worse)


# Tango's interval


def test_tango_gives_the_worked_example_of_the_paper() -> None:
    """Tango (1998), section 6.1, table V: 44 crossover pairs on contact lenses, one against the new system, margin 0.1."""
    score = tango_score(0, 1, 44, -0.1)
    assert round(score, 3) == 1.709
    assert round(float(stats.norm.sf(score)), 3) == 0.044
    assert round(tango(0, 1, 44, alpha=0.05).lower, 3) == -0.096


def test_tango_gives_the_interval_of_fagerland() -> None:
    """Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33:2850-2875, table V: airway reactivity of 21 children."""
    assert tuple(round(end, 3) for end in tango(1, 7, 21, alpha=0.025)) == (-0.517, -0.026)


@pytest.mark.parametrize(
    ("better", "worse", "n", "alpha", "published"),
    [
        (28, 25, 618, 0.05, (-0.0148, 0.0247)),  # scoreci.mp(25, 28, 618, 0.90)
        (20, 60, 1000, 0.025, (-0.0584, -0.0231)),  # scoreci.mp(60, 20, 1000, 0.95)
        (60, 20, 1000, 0.025, (0.0231, 0.0584)),  # scoreci.mp(20, 60, 1000, 0.95)
        (48, 41, 549, 0.05, (-0.0157, 0.0414)),  # scoreci.mp(41, 48, 549, 0.90)
    ],
)
def test_tango_gives_what_the_r_package_propcis_gives(
    better: int, worse: int, n: int, alpha: float, published: tuple[float, float]
) -> None:
    """PropCIs 0.3-0, as printed in public repositories that ran it; its scoreci.mp(b, c, n) is the interval of (c - b) / n."""
    assert tuple(round(end, 4) for end in tango(better, worse, n, alpha)) == published


def independent_score(better: int, worse: int, n: int, difference: float) -> float:
    """The score test with the likelihood maximised by search, not by Tango's equation."""

    def minus_likelihood(q: float) -> float:
        cells = ((better, q + difference), (worse, q), (n - better - worse, 1 - 2 * q - difference))
        return -math.fsum(count * math.log(max(rate, 1e-300)) for count, rate in cells if count)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    q = float(optimize.minimize_scalar(minus_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x)
    return (better - worse - n * difference) / math.sqrt(n * (2 * q + difference - difference**2))


@pytest.mark.parametrize(("better", "worse", "n"), [(0, 0, 25), (0, 1, 44), (1, 7, 21), (3, 3, 100), (12, 2, 50), (0, 9, 9), (40, 5, 60)])
def test_tango_is_the_score_test_inverted_by_brute_force(better: int, worse: int, n: int) -> None:
    step, z = 0.002, float(stats.norm.isf(0.05))
    grid = [i * step for i in range(-499, 500)]
    kept = [difference for difference in grid if abs(independent_score(better, worse, n, difference)) <= z]
    lower, upper = tango(better, worse, n)
    assert lower == pytest.approx(min(kept), abs=1.01 * step)
    assert upper == pytest.approx(max(kept), abs=1.01 * step)


@given(tables(), st.floats(-0.98, 0.98))
def test_tangos_equation_is_the_likeliest_table_with_that_difference(table: tuple[int, int, int], difference: float) -> None:
    assert tango_score(*table, difference) == pytest.approx(independent_score(*table, difference), rel=1e-3, abs=1e-3)


@given(tables(), st.sampled_from([0.005, 0.025, 0.05, 0.2]))
def test_tangos_ends_are_where_the_score_is_critical(table: tuple[int, int, int], alpha: float) -> None:
    better, worse, n = table
    z = float(stats.norm.isf(alpha))
    lower, upper = tango(better, worse, n, alpha)
    assert lower == -1 if worse == n else tango_score(*table, lower) == pytest.approx(z, rel=1e-6)
    assert upper == 1 if better == n else tango_score(*table, upper) == pytest.approx(-z, rel=1e-6)


@given(tables())
def test_tango_holds_the_estimate_within_its_range(table: tuple[int, int, int]) -> None:
    better, worse, n = table
    lower, upper = tango(*table)
    assert -1 <= lower <= (better - worse) / n <= upper <= 1
    assert lower < upper


@given(tables())
def test_swapping_the_arms_negates_tango(table: tuple[int, int, int]) -> None:
    better, worse, n = table
    lower, upper = tango(better, worse, n)
    assert tango(worse, better, n) == (-upper, -lower)


@given(tables())
def test_a_smaller_alpha_widens_tango(table: tuple[int, int, int]) -> None:
    narrow, wide = tango(*table, alpha=0.05), tango(*table, alpha=0.005)
    assert wide.lower <= narrow.lower
    assert narrow.upper <= wide.upper


@given(tables(), st.floats(-1 + 1e-9, 1 - 1e-9), st.floats(-1 + 1e-9, 1 - 1e-9))
def test_a_wider_margin_is_never_harder_to_meet(table: tuple[int, int, int], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert tango_score(*table, low) >= tango_score(*table, high) - 1e-9


@given(tables())
def test_another_flip_against_the_candidate_never_helps_it(table: tuple[int, int, int]) -> None:
    better, worse, n = table
    if better + worse < n:
        before, after = tango(better, worse, n), tango(better, worse + 1, n)
        assert after.lower <= before.lower + 1e-12
        assert after.upper <= before.upper + 1e-12


@pytest.mark.parametrize("table", CORNERS)
def test_tango_holds_in_the_corners(table: tuple[int, int, int]) -> None:
    better, worse, n = table
    lower, upper = tango(*table)
    assert -1 <= lower <= (better - worse) / n <= upper <= 1
    assert math.isfinite(tango_score(*table, (better - worse) / n))


def test_no_cases_prove_nothing() -> None:
    assert tango(0, 0, 0) == tango_clustered([]) == (-1, 1)
    assert wilson(0, 0) == wilson_clustered([]) == (0, 1)
    assert superiority(0, 0, 0, looks=3) == (-1, 1)
    assert paired_bootstrap([], seed=1) is None
    assert needed_cases(0, 0, 0, margin=0.1) is None
    assert needed_cases_clustered([], margin=0.1) is None
    assert needed_cases_scores([], margin=0.1) is None
    assert mcnemar(0, 0) == 1


@pytest.mark.parametrize("counts", [(-1, 0, 5), (0, -1, 5), (3, 3, 5)])
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int]) -> None:
    for function in (tango, superiority, lambda *table: tango_score(*table, 0.0), lambda *table: needed_cases(*table, margin=0.1)):
        with pytest.raises(ValueError, match="can't be"):
            function(*counts)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(6, 5),
        lambda: wilson(1, 5, confidence=1.0),
        lambda: tango(1, 1, 5, alpha=0.0),
        lambda: tango_score(1, 1, 5, 1.5),
        lambda: tango_clustered([0.5, 1.5]),
        lambda: tango_clustered([math.nan]),
        lambda: wilson_clustered([-0.1]),
        lambda: paired_bootstrap([0.1] * 9 + [math.nan], seed=1),
        lambda: paired_bootstrap([0.1] * 9, seed=1, resamples=1),
        lambda: superiority(1, 1, 5, looks=0),
        lambda: mcnemar(-1, 3),
    ],
)
def test_values_out_of_range_are_refused(call: object) -> None:
    with pytest.raises(ValueError, match="can't be"):
        call()  # type: ignore[operator]


# Wilson and McNemar


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_is_scipys(counts: tuple[int, int], confidence: float) -> None:
    theirs = stats.binomtest(*counts).proportion_ci(confidence, method="wilson")
    assert wilson(*counts, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_scipys_exact_binomial_test(better: int, worse: int) -> None:
    theirs = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert mcnemar(better, worse) == mcnemar(worse, better) == pytest.approx(theirs, rel=1e-9)


def test_six_flips_one_way_are_the_fewest_mcnemar_calls_significant() -> None:
    assert mcnemar(5, 0) > 0.05 > mcnemar(6, 0)


def test_mcnemar_of_many_flips() -> None:
    assert mcnemar(5_100, 4_900) == pytest.approx(stats.binomtest(5_100, 10_000).pvalue, rel=1e-9)


# Repeats


@given(tables(), st.sampled_from([0.005, 0.025, 0.05]))
def test_without_repeats_the_clustered_interval_is_tangos(table: tuple[int, int, int], alpha: float) -> None:
    assert tango_clustered(differences(*table), alpha) == pytest.approx(tango(*table, alpha), abs=1e-9)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_without_repeats_the_clustered_rate_is_wilsons(passed: list[bool]) -> None:
    assert wilson_clustered([float(p) for p in passed]) == pytest.approx(wilson(sum(passed), len(passed)), abs=1e-9)


@given(repeated())
def test_the_clustered_interval_holds_the_estimate_and_swaps(case_differences: list[float]) -> None:
    lower, upper = tango_clustered(case_differences)
    mean = math.fsum(case_differences) / len(case_differences)
    assert -1 <= lower <= mean + 1e-9
    assert mean - 1e-9 <= upper <= 1
    assert tango_clustered([-d for d in case_differences]) == pytest.approx((-upper, -lower), abs=1e-12)


def multinomial_score(values: list[float], low: float, high: float, mean: float) -> float:
    """Score of a supposed mean, by Owen's likeliest shares of all possible values; the unseen ends get a trace of a case each."""
    counts = Counter({low: 1e-9, high: 1e-9})
    counts.update(values)
    total = sum(counts.values())

    def excess(pull: float) -> float:
        return sum(count * (value - mean) / (1 + pull * (value - mean)) for value, count in counts.items())

    edges = sorted((-1 / (high - mean), 1 / (mean - low)))
    pull = float(optimize.brentq(excess, edges[0] * (1 - 1e-13), edges[1] * (1 - 1e-13), xtol=1e-15, rtol=1e-14))
    shares = {value: count / total / (1 + pull * (value - mean)) for value, count in counts.items()}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    variance = sum(share * (value - mean) ** 2 for value, share in shares.items())
    return (float(np.mean(values)) - mean) * math.sqrt(len(values) / variance)


@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 9 + [-0.2],
        [0.0] * 20 + [0.4, -0.2, -0.2, -0.6],
        [0.0] * 30 + [1.0, -1.0, 0.5, 0.5, -0.25],
        [0.2] * 12,
        [0.0, 0.2, -0.4, 0.6, -0.8] * 8,
    ],
)
def test_the_clustered_ends_are_where_the_multinomial_score_is_critical(values: list[float]) -> None:
    lower, upper = tango_clustered(values)
    z = float(stats.norm.isf(0.05))
    assert multinomial_score(values, -1, 1, lower) == pytest.approx(z, rel=2e-3)
    assert multinomial_score(values, -1, 1, upper) == pytest.approx(-z, rel=2e-3)
    rates = [(1 + v) / 2 for v in values]
    lower, upper = wilson_clustered(rates, confidence=0.9)
    assert multinomial_score(rates, 0, 1, lower) == pytest.approx(z, rel=2e-3)
    assert multinomial_score(rates, 0, 1, upper) == pytest.approx(-z, rel=2e-3)


def test_a_failure_among_repeats_never_raises_the_lower_end() -> None:
    """Which an effective sample size by the estimated design effect does: why the case is the unit here instead."""
    clean, one_failure = [1.0] * 10, [1.0] * 9 + [0.8]
    assert wilson_clustered(one_failure).lower < wilson_clustered(clean).lower
    assert tango_clustered([0.0] * 9 + [-0.2]).lower < tango_clustered([0.0] * 10).lower
    rate = 0.98
    variance = sum((r - rate) ** 2 for r in one_failure) / (10 * 9)
    effective = rate * (1 - rate) / variance
    assert wilson(round(effective * rate), round(effective)).lower > wilson(10, 10).lower


@given(repeated(), st.data())
def test_one_case_doing_worse_never_raises_an_end(case_differences: list[float], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(case_differences) - 1))
    worse = [*case_differences]
    worse[i] = data.draw(st.floats(-1, worse[i]))
    before, after = tango_clustered(case_differences), tango_clustered(worse)
    assert after.lower <= before.lower + 1e-9
    assert after.upper <= before.upper + 1e-9


def test_repeats_narrow_the_interval_only_by_what_they_average_out() -> None:
    """The same cases five times over, alike each time, are no more than the same cases; coin flips averaged are."""
    assert tango_clustered([1.0] * 3 + [-1.0] * 3 + [0.0] * 94) == pytest.approx(tango(3, 3, 100), abs=1e-9)
    averaged = tango_clustered([0.2] * 3 + [-0.2] * 3 + [0.0] * 94)
    assert tango(3, 3, 100).lower < averaged.lower < 0 < averaged.upper < tango(3, 3, 100).upper


# Bootstrap


def test_the_bootstrap_is_scipys_bca() -> None:
    rng = random.Random(3)
    for _ in range(4):
        sample = [rng.choices([0.0, -1.0, -0.25, 0.5], [50, 5, 20, 25])[0] for _ in range(80)]
        mine = paired_bootstrap(sample, seed=0, resamples=20_000)
        theirs = stats.bootstrap((sample,), np.mean, confidence_level=0.9, n_resamples=20_000, method="BCa", rng=0).confidence_interval
        assert mine == pytest.approx((theirs.low, theirs.high), abs=0.05 * (theirs.high - theirs.low))


def test_the_bootstrap_is_seeded_and_the_same_everywhere() -> None:
    """Only whole bits of the generator are drawn, and sums are taken in a fixed order."""
    sample = [0.0] * 30 + [0.25, -0.5, 0.125, 1.0, -0.25] * 4
    first = paired_bootstrap(sample, seed="report 1")
    assert first == paired_bootstrap(list(reversed(sample)), seed="report 1")
    assert first != paired_bootstrap(sample, seed="report 2")
    assert first == pytest.approx(GOLDEN, abs=1e-12)


GOLDEN = (-0.015, 0.13250733686427)


def test_fewer_than_eight_nonzero_differences_are_inconclusive() -> None:
    assert paired_bootstrap([0.0] * 100 + [0.5] * 7, seed=1) is None
    assert paired_bootstrap([0.0] * 100 + [0.5] * 8, seed=1) is not None
    assert paired_bootstrap([0.0] * 100 + [0.5] * 7 + [1e-17], seed=1) is None


def test_the_bootstrap_of_equal_differences_is_a_point() -> None:
    assert paired_bootstrap([0.1] * 40, seed=1) == pytest.approx((0.1, 0.1))


def test_ten_thousand_distinct_differences_are_resampled_on_levels_that_only_widen() -> None:
    rng = random.Random(1)
    sample = [rng.gauss(0.01, 0.2) for _ in range(10_000)]
    found = paired_bootstrap(sample, seed=1, resamples=4_000)
    half = 1.6449 * float(np.std(sample)) / 100
    mean = float(np.mean(sample))
    assert found == pytest.approx((mean - half, mean + half), abs=0.1 * half)
    outlier = [rng.gauss(0, 0.01) for _ in range(9_990)] + [1.0] * 10
    found = paired_bootstrap(outlier, seed=1)
    assert found is not None
    assert found.upper - found.lower > 0.95 * 2 * 1.6449 * float(np.std(outlier)) / 100


@given(st.lists(st.sampled_from([-1.0, -0.5, -0.2, 0.0, 0.3, 1.0]), min_size=1, max_size=60), st.integers(0, 5))
@settings(max_examples=40)
def test_the_bootstrap_stays_among_the_differences(sample: list[float], seed: int) -> None:
    found = paired_bootstrap(sample, seed, resamples=200)
    if found is not None:
        assert min(sample) - 1e-9 <= found.lower <= found.upper <= max(sample) + 1e-9


# The number of cases that would decide


@pytest.mark.parametrize(("margin", "cases"), [(0.02, 133), (0.05, 52), (0.10, 25)])
def test_without_flips_the_needed_cases_are_those_of_the_design(margin: float, cases: int) -> None:
    assert needed_cases(0, 0, 40, margin=margin) == needed_cases_clustered([0.0] * 40, margin=margin) == cases
    assert tango(0, 0, cases).lower >= -margin > tango(0, 0, cases - 1).lower


def decides(better: int, worse: int, n: int, margin: float | None) -> bool:
    lower, upper = tango(better, worse, n)
    return lower > 0 if margin is None else lower >= -margin or upper < 0


@given(tables(), st.sampled_from([None, 0.0, 0.02, 0.1]))
def test_the_needed_cases_decide_and_far_fewer_do_not(table: tuple[int, int, int], margin: float | None) -> None:
    """At the same rates: so many copies of the table that the count is a whole multiple of it."""
    better, worse, n = table
    needed = needed_cases(better, worse, n, margin=margin)
    if needed is None:
        assert better <= worse if margin is None else (better == worse and margin == 0)
        return
    copies = math.ceil(needed / n)
    if abs(needed / n - copies) > 1e-6 or copies == needed / n:
        assert decides(better * copies, worse * copies, n * copies, margin)
    if (fewer := (needed - 1) // n) >= 1:
        assert not decides(better * fewer, worse * fewer, n * fewer, margin)


@given(tables(), st.sampled_from([None, 0.02, 0.1]))
def test_needed_cases_agree_with_and_without_repeats(table: tuple[int, int, int], margin: float | None) -> None:
    plain, clustered = needed_cases(*table, margin=margin), needed_cases_clustered(differences(*table), margin=margin)
    assert (plain is None) == (clustered is None)
    if plain is not None and clustered is not None:
        assert abs(plain - clustered) <= max(1, 1e-6 * plain)


def test_needed_cases_with_repeats_decide() -> None:
    block = [0.0] * 8 + [-0.4, 0.2]
    needed = needed_cases_clustered(block, margin=0.05)
    assert needed is not None
    assert tango_clustered(block * math.ceil(needed / 10)).lower >= -0.05
    assert tango_clustered(block * (needed // 10 - 1)).lower < -0.05


def test_needed_cases_of_scores_decide() -> None:
    block = [0.0] * 6 + [0.5, -0.25, 0.25, -0.5]
    needed = needed_cases_scores(block, margin=0.05)
    assert needed is not None
    enough, too_few = (paired_bootstrap(block * math.ceil(factor * needed / 10), seed=1) for factor in (1.2, 0.8))
    assert enough is not None
    assert too_few is not None
    assert too_few.lower < -0.05 <= enough.lower
    assert needed_cases_scores([0.0] * 50, margin=0.05) is None
    assert needed_cases_scores([0.1, 0.2, -0.3] * 10, margin=None) is None  # a mean of 0, but for rounding
    assert needed_cases_scores([0.0] * 99 + [0.001], margin=0.5) == 800  # eight that are not zero, at one in a hundred


# What the rule does, by simulation

MARGIN = 0.10


@cache
def verdict(better: int, worse: int, n: int) -> str:
    return ruled(tango(better, worse, n))


def ruled(interval: Interval) -> str:
    if interval.upper < 0:
        return "reject"
    return "promote" if interval.lower >= -MARGIN else "inconclusive"


def share_of(wanted: str, verdicts: list[str]) -> float:
    return verdicts.count(wanted) / len(verdicts)


def binomial(k: int, n: int, rate: float) -> float:
    return math.comb(n, k) * rate**k * (1 - rate) ** (n - k)


def chances(better_rate: float, worse_rate: float, n: int) -> dict[str, float]:
    """The chance of each verdict when every case flips independently: summed over all tables, not simulated."""
    total = Counter[str]()
    for better in range(n + 1):
        some = binomial(better, n, better_rate)
        for worse in range(n - better + 1 if some > 1e-10 else 0):
            chance = some * binomial(worse, n - better, worse_rate / (1 - better_rate))
            if chance > 1e-10:
                total[verdict(better, worse, n)] += chance
    return dict(total)


def test_an_equally_good_candidate_is_promoted() -> None:
    """5 of 100 cases flip, each as likely one way as the other."""
    verdicts = []
    for seed in range(2_000):
        better = random.Random(seed).getrandbits(5).bit_count()
        verdicts.append(verdict(better, 5 - better, 100))
    assert share_of("promote", verdicts) >= 0.95


def test_an_equally_good_candidate_is_rejected_no_more_often_than_alpha() -> None:
    """When the number of flips varies as well, rejections alone take all of alpha: 94.9 % are promoted, by exact sum."""
    chance = chances(0.025, 0.025, 100)
    assert chance["reject"] == pytest.approx(0.05, abs=0.0005)
    assert chance["promote"] == pytest.approx(0.949, abs=0.0005)


@pytest.mark.parametrize("also_better", [0.0, 0.025, 0.05, 0.10])
def test_a_candidate_worse_by_15_points_is_promoted_in_at_most_one_of_twenty(also_better: float) -> None:
    verdicts = []
    for seed in range(1_000):
        rng = random.Random(seed)
        flips = Counter(rng.choices("bw=", [also_better, also_better + 0.15, 0.85 - 2 * also_better], k=100))
        verdicts.append(verdict(flips["b"], flips["w"], 100))
    assert share_of("promote", verdicts) <= 0.05
    assert chances(also_better, also_better + 0.15, 100).get("promote", 0.0) <= 0.007


@pytest.mark.parametrize(("flips", "n"), [(0.11, 50), (0.15, 100), (0.2, 200), (0.3, 100)])
def test_a_candidate_worse_by_just_the_margin_is_promoted_in_about_alpha(flips: float, n: int) -> None:
    better = (flips - MARGIN) / 2
    assert chances(better, better + MARGIN, n).get("promote", 0.0) <= 0.06


@pytest.mark.parametrize(("better_rate", "worse_rate"), [(0.025, 0.025), (0.01, 0.06), (0.1, 0.02), (0.3, 0.3), (0.02, 0.15)])
@pytest.mark.parametrize("n", [40, 100])
def test_tango_covers_at_about_its_level(better_rate: float, worse_rate: float, n: int) -> None:
    true, below, above = better_rate - worse_rate, 0.0, 0.0
    for better in range(n + 1):
        some = binomial(better, n, better_rate)
        for worse in range(n - better + 1 if some > 1e-9 else 0):
            chance = some * binomial(worse, n - better, worse_rate / (1 - better_rate))
            if chance > 1e-9:
                score = tango_score(better, worse, n, true)
                below, above = below + chance * (score > 1.6449), above + chance * (score < -1.6449)
    assert below <= 0.075  # a score test is right on average, not in every corner of a discrete table
    assert above <= 0.075
    assert 1 - below - above >= 0.88


@given(st.lists(st.sampled_from(["positive", "negative", "neutral"]), min_size=1, max_size=200))
def test_a_prompt_that_always_says_the_same_never_beats_the_majority_answer(labels: list[str]) -> None:
    majority = Counter(labels).most_common(1)[0][0]
    better = sum(label == "positive" != majority for label in labels)
    worse = sum(label == majority != "positive" for label in labels)
    assert superiority(better, worse, len(labels)).lower <= 0
    assert superiority(better, worse, len(labels), looks=7).lower <= 0
    assert needed_cases(better, worse, len(labels), margin=None) is None


def test_always_positive_is_never_a_first_promotion_by_simulation() -> None:
    for seed in range(500):
        labels = random.Random(seed).choices(["positive", "negative"], [0.55, 0.45], k=60)
        majority = max(sorted(set(labels)), key=labels.count)
        better = sum(label == "positive" != majority for label in labels)
        worse = sum(label == majority != "positive" for label in labels)
        assert superiority(better, worse, 60).lower <= 0
        case_differences = [float(label == "positive") - float(label == majority) for label in labels]
        assert tango_clustered(case_differences).lower <= 0


def run_repeats(rng: random.Random, repeats: int, *, drop: float = 0.0, n: int = 100) -> list[float]:
    """One in ten cases is a coin flip in both arms (so 5 % of the pairs differ); ``drop`` of the cases fail in the candidate only."""
    found = []
    for _ in range(n):
        if rng.random() < drop:
            found.append(-1.0)
        elif rng.random() < 0.1:
            found.append((rng.getrandbits(repeats).bit_count() - rng.getrandbits(repeats).bit_count()) / repeats)
        else:
            found.append(0.0)
    return found


@pytest.mark.parametrize("repeats", [3, 5])
def test_the_rule_holds_with_repeats(repeats: int) -> None:
    rng = random.Random(repeats)
    equal = [ruled(tango_clustered(run_repeats(rng, repeats))) for _ in range(300)]
    worse = [ruled(tango_clustered(run_repeats(rng, repeats, drop=0.15))) for _ in range(300)]
    assert share_of("promote", equal) >= 0.95
    assert share_of("promote", worse) <= 0.05


@pytest.mark.parametrize(("repeats", "n"), [(3, 50), (5, 150)])
def test_intervals_with_repeats_cover_at_least_about_their_level(repeats: int, n: int) -> None:
    """Cases differ: some always pass, some never, the rest sometimes. Pooling all runs as independent cases covers far less."""
    rng = random.Random(7)
    covered = pooled_covered = 0
    for _ in range(400):
        chance = [rng.choices([1.0, 0.0, rng.random()], [6, 2, 2])[0] for _ in range(n)]
        passes = [sum(rng.random() < c for _ in range(repeats)) for c in chance]
        lower, upper = wilson_clustered([p / repeats for p in passes], confidence=0.9)
        pooled = wilson(sum(passes), n * repeats, confidence=0.9)
        covered += lower <= 0.7 <= upper
        pooled_covered += pooled.lower <= 0.7 <= pooled.upper
    assert covered / 400 >= 0.87
    assert pooled_covered / 400 < 0.80


def test_ten_looks_find_a_winner_among_equals_unless_alpha_is_divided() -> None:
    """Ten candidates, all as good as the baseline, are tried on the same 100 cases; one in five cases flips."""
    won = cache(lambda better, worse, looks: superiority(better, worse, 100, looks).lower > 0)
    plain = divided = 0
    for seed in range(400):
        rng = random.Random(seed)
        candidates = [Counter(rng.choices("bw=", [0.1, 0.1, 0.8], k=100)) for _ in range(10)]
        plain += any(won(flips["b"], flips["w"], 1) for flips in candidates)
        divided += any(won(flips["b"], flips["w"], 10) for flips in candidates)
    assert plain / 400 > 0.25
    assert divided / 400 <= 0.05
    assert superiority(12, 5, 100, looks=10) == tango(12, 5, 100, alpha=0.005)
    assert per_look(0.05, 10) == pytest.approx(0.005)


def test_the_bootstrap_covers_at_about_its_level_and_bca_pays_when_drops_are_rare_and_deep() -> None:
    """One case in twenty loses everything, others gain a little; the percentile interval misses low nearly twice as often."""
    rng = random.Random(11)
    missed = percentile_missed = 0
    for seed in range(250):
        sample = rng.choices([0.0, -1.0, 0.1], [60, 5, 35], k=150)
        found = paired_bootstrap(sample, seed, resamples=400)
        assert found is not None
        missed += found.lower > -0.015
        sums = sorted(sum(rng.choices(sample, k=150)) / 150 for _ in range(200))
        percentile_missed += sums[10] > -0.015
    assert missed / 250 <= 0.075
    assert percentile_missed > missed
