"""What the gate does over many seeds, through the code that judges: good prompts get in, worse ones and parrots do not."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from promptsmith.evals.gate import MAJORITY, Evidence, judge
from promptsmith.receipt import CaseRow, Rules

SEEDS, CASES = 400, 100


def words(rows: Callable[[random.Random], Sequence[CaseRow]], against: str = "a" * 64, seeds: int = SEEDS, **more: object) -> Counter[str]:
    """The verdicts over all seeds."""
    found = Counter[str]()
    for seed in range(seeds):
        drawn = tuple(rows(random.Random(seed)))
        evidence = Evidence(rows=drawn, rules=Rules(**more), suite="5" * 64, prompt="b" * 64, against=against)  # type: ignore[arg-type]
        found[judge(evidence).verdict] += 1
    return found


def pairs(rng: random.Random, better: float, worse: float, *, base: float = 0.85) -> list[CaseRow]:
    """Each case flips on its own: with chance ``better`` to right, ``worse`` to wrong; else both arms do alike."""
    rows = []
    for number in range(CASES):
        kind = rng.choices("bw=", [better, worse, 1 - better - worse])[0]
        before, after = {"b": (0.0, 1.0), "w": (1.0, 0.0)}.get(kind) or (float(rng.random() < base),) * 2
        rows.append(CaseRow(f"c{number}", after, before, after, before))
    return rows


def test_an_equally_good_candidate_is_promoted_in_19_of_20() -> None:
    """5 % of the cases flip in total, each on its own and half each way; n = 100, margin 10."""
    found = words(lambda rng: pairs(rng, 0.025, 0.025))
    assert found["promote"] >= 0.95 * SEEDS
    assert found["reject"] <= 0.05 * SEEDS


def test_the_chance_of_each_verdict_by_exact_sum() -> None:
    """The same summed over all tables instead of drawn: 96.6 % of equally good candidates are promoted."""
    found = Counter[str]()
    for better in range(16):
        for worse in range(16):
            same = CASES - better - worse
            chance = math.comb(CASES, better) * math.comb(CASES - better, worse) * 0.025 ** (better + worse) * 0.95**same
            if chance > 1e-8:
                flips = [(0.0, 1.0)] * better + [(1.0, 0.0)] * worse + [(1.0, 1.0)] * same
                rows = tuple(CaseRow(f"c{n}", after, before, after) for n, (before, after) in enumerate(flips))
                evidence = Evidence(rows=rows, rules=Rules(), suite="5" * 64, prompt="b" * 64, against="a" * 64)
                found[judge(evidence).verdict] += chance  # type: ignore[assignment]
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    assert found["promote"] == pytest.approx(0.966, abs=0.0005)
    assert found["reject"] <= 0.034


@pytest.mark.parametrize("also_better", [0.0, 0.025, 0.10])
def test_a_candidate_worse_by_15_points_is_promoted_in_1_of_20(also_better: float) -> None:
    found = words(lambda rng: pairs(rng, also_better, also_better + 0.15))
    assert found["promote"] <= 0.05 * SEEDS


def test_the_same_holds_for_scores() -> None:
    def graded(worse: float) -> Callable[[random.Random], list[CaseRow]]:
        def rows(rng: random.Random) -> list[CaseRow]:
            before = [rng.random() for _ in range(CASES)]
            after = [min(1.0, max(0.0, score - worse + rng.gauss(0, 0.1))) for score in before]
            return [CaseRow(f"c{n}", 1.0, 1.0, new, old) for n, (new, old) in enumerate(zip(after, before, strict=True))]

        return rows

    # Few seeds: each resamples its differences some thousand times.
    assert words(graded(0.0), seeds=12, metric="score")["promote"] == 12
    assert words(graded(0.20), seeds=12, metric="score")["promote"] == 0


@pytest.mark.parametrize("share", [0.34, 0.45, 0.55, 0.7, 0.95])
def test_a_prompt_that_always_says_positive_is_never_a_first_promotion(share: float) -> None:
    def rows(rng: random.Random) -> list[CaseRow]:
        labels = ["positive" if rng.random() < share else rng.choice(["negative", "neutral"]) for _ in range(CASES)]
        majority = Counter(labels).most_common(1)[0][0]
        return [
            CaseRow(f"c{n}", float(label == "positive"), float(label == majority), float(label == "positive"))
            for n, label in enumerate(labels)
        ]

    assert words(rows, against=f"{MAJORITY}positive")["promote"] == 0


def test_a_first_prompt_that_is_better_than_the_majority_answer_gets_in() -> None:
    def rows(rng: random.Random) -> list[CaseRow]:
        found = []
        for number in range(CASES):
            right, parrot = float(rng.random() < 0.8), float(rng.random() < 0.4)
            found.append(CaseRow(f"c{number}", right, parrot, right))
        return found

    assert words(rows, against=f"{MAJORITY}positive")["promote"] >= 0.95 * SEEDS
