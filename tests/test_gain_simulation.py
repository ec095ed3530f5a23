"""What a compile claims over many simulated searches: no gain where there is none, the gain where there is one, and how much of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import fmean

import pytest

from promptsmith.compiler.search.gain import best, gain
from promptsmith.compiler.search.record import Gain
from promptsmith.compiler.search.sizes import rungs

BASE = "0"
SEEDS = 400

Rows = list[list[float]]
"""Scores by candidate, the baseline first, and by case."""


def ids(count: int) -> list[str]:
    return [BASE, *(f"{number:02d}" for number in range(1, count))]


def drawn(rng: random.Random, truths: Sequence[float], cases: int, shared: float) -> Rows:
    """Each prompt gets a case right with its own chance; with chance ``shared`` the case decides, alike for all, how hard it is."""
    hard = [rng.random() for _ in range(cases)]
    return [[float((hard[case] if rng.random() < shared else rng.random()) < truth) for case in range(cases)] for truth in truths]


def flipped(rng: random.Random, rates: Sequence[tuple[float, float]], cases: int, right: float = 0.70) -> Rows:
    """A baseline and prompts that flip some of its cases: each is a share of all cases that it turns to right, and to wrong."""
    baseline = [float(rng.random() < right) for _ in range(cases)]
    rows = [baseline]
    for better, worse in rates:
        rows.append([float(rng.random() >= worse / right) if was else float(rng.random() < better / (1 - right)) for was in baseline])
    return rows


def raced(rows: Rows, sizes: Sequence[int]) -> list[int]:
    """How many cases each is scored on: on the first so many the better half goes on, and the baseline always."""
    scored = [len(rows[0])] * len(rows)
    alive = list(range(1, len(rows)))
    for rung in sizes:
        alive.sort(key=lambda one: (-sum(rows[one][:rung]), one))
        kept = (len(alive) + 1) // 2
        for one in alive[kept:]:
            scored[one] = rung
        alive = alive[:kept]
    return scored


def searched(rows: Rows, sizes: Sequence[int], seed: int, *, baseline_too: bool = True) -> tuple[int, Gain]:
    """Who is chosen, by the highest mean of who is left, and what is said of it."""
    cases = len(rows[0])
    names, scored = ids(len(rows)), raced(rows, sizes)
    left = [one for one in range(0 if baseline_too else 1, len(rows)) if scored[one] == cases]
    chosen = max(left, key=lambda one: (sum(rows[one]), -one))
    seen = {name: {f"c{case}": row[case] for case in range(known)} for name, row, known in zip(names, rows, scored, strict=True)}
    rule = best if baseline_too else lambda scores: best({one: row for one, row in scores.items() if one != BASE})
    return chosen, gain(names[chosen], BASE, seen, [f"c{case}" for case in range(cases)], seed=seed, choose=rule)


def halving(cases: int) -> list[int]:
    return [cases // 8, cases // 4, cases // 2]


def claims(rows: Callable[[random.Random], Rows], sizes: Sequence[int]) -> int:
    return sum(searched(rows(random.Random(f"claims {seed}")), sizes, seed)[1].measurable for seed in range(SEEDS))


# --- claims -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [0.0, 0.6])
@pytest.mark.parametrize("cases", [20, 50, 100])
@pytest.mark.parametrize("candidates", [8, 25])
def test_where_every_prompt_is_worth_the_same_a_gain_is_claimed_in_1_of_20_at_most(candidates: int, cases: int, shared: float) -> None:
    assert claims(lambda rng: drawn(rng, [0.70] * (candidates + 1), cases, shared), []) <= 0.05 * SEEDS


@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_so_it_is_after_a_race(shared: float) -> None:
    assert claims(lambda rng: drawn(rng, [0.70] * 9, 100, shared), halving(100)) <= 0.05 * SEEDS


@pytest.mark.parametrize("flat", [(0.10, 0.10), (0.025, 0.025)])
@pytest.mark.parametrize("race", [False, True])
def test_a_candidate_that_is_15_points_better_is_claimed_in_4_of_5(race: bool, flat: tuple[float, float]) -> None:
    """One of 8; 100 cases, of which it flips 20 in 100, and the others at most as many; raced on the rungs that the compiler uses."""
    rates = [flat] * 3 + [(0.175, 0.025)] + [flat] * 4
    used = rungs(100, len(rates))[:-1] if race else []
    assert claims(lambda rng: flipped(rng, rates, 100), used) >= 0.80 * SEEDS


# --- how much ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("race", [False, True])
@pytest.mark.parametrize(
    ("spread", "baseline_too", "most"),
    [
        (0.0, False, 0.01),
        (0.30, False, 0.01),
        (0.30, True, 0.01),
        # Where nothing is to be gained, what the folds say is 0 on average; of searches that end at the baseline it is not reported.
        (0.0, True, 0.02),
    ],
)
def test_the_estimate_is_within_one_point_of_the_true_gain_on_average(spread: float, baseline_too: bool, most: float, race: bool) -> None:
    """Over searches among 1, 8 and 25 candidates on 40, 100 and 150 cases; read off the same cases the gain is points too high."""
    errors, shown = [], []
    for candidates in (1, 8, 25):
        for cases in (40, 100, 150):
            for seed in range(60):
                rng = random.Random(f"{candidates} {cases} {seed}")
                truths = [0.65, *(0.65 + spread * rng.random() for _ in range(candidates))]
                rows = drawn(rng, truths, cases, 0.3)
                chosen, found = searched(rows, halving(cases) if race else [], seed, baseline_too=baseline_too)
                true = truths[chosen] - truths[0]
                errors.append(found.estimate - true)
                shown.append(fmean(rows[chosen]) - fmean(rows[0]) - true)
    assert abs(fmean(errors)) <= most
    assert fmean(shown) > 0.015
