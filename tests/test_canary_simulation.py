"""What the canary's test does over many simulated canaries, through the code that decides in the service."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from benchmarks.canary import Arms, canary, outcomes, quantile, runs, stopped_at
from promptsmith.canary import ALPHA, COMPLETE_ALPHA, STOP, Trial, Worse, lowest_and_highest
from promptsmith.registry.canaries import Outcome


def most(count: int, chance: float = ALPHA) -> int:
    """More than so many of ``count`` come, at this chance, in one of a thousand suites."""
    return int(binom.ppf(0.999, count, chance))


# --- a candidate that is as good ----------------------------------------------------------------------------


def test_looked_at_after_each_of_10000_calls_it_stops_falsely_no_more_often_than_stated() -> None:
    stops = runs(Arms(0.95, 0.95), 1000, 10_000)
    assert sum(stop is not None for stop in stops) <= most(1000)


def test_a_test_for_one_look_would_be_caught_here() -> None:
    """The same looks with the usual two-sample z test at the same level: that is what the bound above can see."""
    rng = np.random.default_rng(7)
    arm = rng.random((300, 10_000)) < 0.1
    bad = rng.random((300, 10_000)) < 0.05
    candidate, incumbent = np.cumsum(arm, axis=1), np.cumsum(~arm, axis=1)
    first, second = np.cumsum(bad & arm, axis=1), np.cumsum(bad & ~arm, axis=1)
    with np.errstate(all="ignore"):
        pooled = (first + second) / (candidate + incumbent)
        score = (first / candidate - second / incumbent) / np.sqrt(pooled * (1 - pooled) * (1 / candidate + 1 / incumbent))
    stopped = (np.nan_to_num(score)[:, 100:] > norm.ppf(1 - ALPHA)).any(axis=1)
    assert stopped.mean() > 10 * ALPHA


def again(rng: random.Random) -> Iterator[Outcome]:
    """A caller who got a broken answer tries up to five times more, and stays with their arm."""
    while True:
        arm = "candidate" if rng.random() < 0.1 else "incumbent"
        for _ in range(6):
            adherent = rng.random() < 0.8
            yield Outcome(arm, adherent, False)
            if adherent:
                break


def outages(rng: random.Random) -> Iterator[Outcome]:
    """The provider of both is down for 200 of each 1,500 calls, and callers are shared evenly."""
    while True:
        for number in range(1500):
            arm = "candidate" if rng.random() < 0.5 else "incumbent"
            failed = rng.random() < (0.7 if number < 200 else 0.01)
            yield Outcome(arm, None if failed else True, failed)


def beside(rng: random.Random) -> Iterator[Outcome]:
    """A shadow: both arms get each input, and a hard one is hard for both."""
    while True:
        right = 0.6 if rng.random() < 0.2 else 0.98
        yield Outcome("incumbent", rng.random() < right, False)
        yield Outcome("candidate", rng.random() < right, False)


@pytest.mark.parametrize("world", [again, outages, beside])
def test_neither_do_worlds_that_are_no_coin_tosses(world: Callable[[random.Random], Iterator[Outcome]]) -> None:
    def one(seed: int) -> int | None:
        found = world(random.Random(seed))
        return stopped_at(next(found) for _ in range(4000))

    assert sum(one(seed) is not None for seed in range(150)) <= most(150)


@pytest.mark.parametrize("arms", [Arms(0.95, 0.95, share=0.5), Arms(0.7, 0.7, share=0.02), Arms(0.9, 0.95), Arms(1, 1, 0.3, 0.3)], ids=str)
def test_nor_does_another_share_or_rate_or_a_better_candidate(arms: Arms) -> None:
    assert sum(stop is not None for stop in runs(arms, 150, 4000)) <= most(150)


@given(
    blocks=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), max_size=6),
    incumbent=st.floats(0.0001, 0.9999),
    better=st.floats(0, 1),
)
def test_the_stake_never_grows_on_average_while_the_candidate_is_not_worse(
    blocks: list[tuple[int, int]], incumbent: float, better: float
) -> None:
    """Exactly, over every block that could come next and whatever came before: that makes it a test martingale."""
    test = Worse()

    def block(into: Worse, incumbent_bad: int, candidate_bad: int) -> Worse:
        for number in range(5):
            into.feed(False, number < incumbent_bad)
        into.feed(True, bool(candidate_bad))
        return into

    for one in blocks:
        block(test, *one)
    candidate = incumbent * better
    mean = sum(
        binom.pmf(first, 5, incumbent) * (candidate if second else 1 - candidate) * block(copy.deepcopy(test), first, second).e_value
        for first in range(6)
        for second in range(2)
    )
    assert mean <= test.e_value * (1 + 1e-9)


# --- a candidate that is worse ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arms", "half", "nearly_all"),
    [
        (Arms(0.95, 0.85), 1300, 3000),
        (Arms(0.90, 0.80), 2000, 4800),
        (Arms(0.95, 0.0), 80, 130),
        (Arms(0.95, 0.95, 0.02, 0.12), 900, 2000),
    ],
    ids=str,
)
def test_a_drop_stops_within_the_stated_number_of_calls(arms: Arms, half: int, nearly_all: int) -> None:
    stops = runs(arms, 150, nearly_all + 2000, seed=1)
    median, high = quantile(stops, 0.5), quantile(stops, 0.95)
    assert median is not None and median <= half
    assert high is not None and high <= nearly_all


def test_one_that_turns_bad_after_5000_good_calls_is_stopped_too() -> None:
    def one(seed: int) -> int | None:
        rng = random.Random(seed)
        found = [*outcomes(rng, Arms(0.95, 0.95), 5000), *outcomes(rng, Arms(0.95, 0.85), 6000)]
        return stopped_at(found)

    stops = [one(seed) for seed in range(60)]
    assert sum(stop is not None for stop in stops) >= 57
    late = quantile(stops, 0.5)
    assert late is not None and 5000 < late <= 5000 + 2500


# --- completion ---------------------------------------------------------------------------------------------


def ends(arms: Arms, seed: int, planned: int = 300) -> str:
    """What a canary first comes to."""
    trial = Trial(canary(arms.share, planned))
    for outcome in outcomes(random.Random(seed), arms, 200_000):
        trial.feed(outcome)
        if trial.verdict is not None:
            return trial.verdict.state
    raise AssertionError("a canary has a last look")


def test_a_candidate_as_good_completes() -> None:
    assert [ends(Arms(0.95, 0.95), seed) for seed in range(40)].count("complete") >= 38


def test_one_that_is_worse_by_the_margin_seldom_completes() -> None:
    found = [ends(Arms(0.95, 0.90), seed) for seed in range(120)]
    assert found.count("complete") <= most(120, COMPLETE_ALPHA)


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 50), st.integers(1, 50))
def test_the_interval_holds_the_difference_and_turns_with_the_arms(a: int, n: int, b: int, m: int) -> None:
    a, b = min(a, n), min(b, m)
    lower, upper = lowest_and_highest((a, n), (b, m), 0.0125)
    assert -1 - 1e-12 <= lower <= a / n - b / m <= upper <= 1 + 1e-12
    turned = lowest_and_highest((b, m), (a, n), 0.0125)
    assert (turned.lower, turned.upper) == pytest.approx((-upper, -lower))


def test_the_interval_is_newcombes() -> None:
    """The paper's first example: 56/70 and 48/80, method 10, two-sided 95 %."""
    lower, upper = lowest_and_highest((56, 70), (48, 80), 0.025)
    assert (lower, upper) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_nothing_seen_rules_nothing_out() -> None:
    assert lowest_and_highest((0, 0), (5, 5), 0.01) == (-1.0, 1.0)
    assert math.isclose(STOP, 200)
