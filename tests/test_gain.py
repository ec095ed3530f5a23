"""The honest report of a compile: edge cases, exact results, and what must not depend on anything."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.compiler.search.gain import best, gain, words
from promptsmith.compiler.search.record import Gain
from promptsmith.evals.statistics import tango

CASES = [f"c{number}" for number in range(60)]


def of(*rows: Sequence[float]) -> dict[str, dict[str, float]]:
    """Scores by id (``0`` is the baseline), each row on the first cases."""
    return {str(number): dict(zip(CASES, row, strict=False)) for number, row in enumerate(rows)}


def noise(seed: int, candidates: int = 4, cases: int = 60) -> dict[str, dict[str, float]]:
    rng = random.Random(seed)
    return of(*([float(rng.random() < 0.7) for _ in range(cases)] for _ in range(candidates + 1)))


@st.composite
def races(draw: st.DrawFn) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Up to five candidates with scores of any kind, some on a beginning of the cases only; ``1`` is on all of them."""
    cases = draw(st.integers(0, 12))
    score = st.sampled_from([0.0, 1.0, 1 / 3, 0.5, 0.7])
    rows = [draw(st.lists(score, min_size=cases, max_size=cases)) for _ in range(2)]
    rows += draw(st.lists(st.lists(score, max_size=cases), max_size=4))
    return of(*rows), CASES[:cases]


# --- edges ------------------------------------------------------------------------------------------------


def test_without_cases_nothing_is_known() -> None:
    found = gain("1", "0", of([], []), [], seed=0)
    assert (found.estimate, found.lower, found.upper, found.cases, found.compared) == (0.0, -1.0, 1.0, 0, 1)
    assert not found.measurable
    assert words(found, "-O0") == "no measurable gain over -O0: no dev case was scored with both"


@pytest.mark.parametrize("candidates", [0, 3])
def test_a_choice_that_fell_on_the_baseline_is_no_gain(candidates: int) -> None:
    found = gain("0", "0", noise(1, candidates), CASES, seed=0)
    assert found == Gain(estimate=0.0, lower=0.0, upper=0.0, cases=60, compared=0)
    assert not found.measurable
    assert words(found, "-O0") == "no gain over -O0: it is what was chosen"


@pytest.mark.parametrize("score", [0.0, 1.0, 0.25])
def test_a_scorer_that_gives_everything_the_same_shows_no_gain(score: float) -> None:
    found = gain("1", "0", of(*[[score] * 60] * 6), CASES, seed=0)
    assert found.estimate == 0.0
    assert found.lower < 0 < found.upper
    assert not found.measurable
    assert found.lower == pytest.approx(-found.upper)


@pytest.mark.parametrize("cases", [1, 2])
def test_one_or_two_cases_prove_nothing(cases: int) -> None:
    found = gain("1", "0", of([0.0] * cases, [1.0] * cases), CASES[:cases], seed=0)
    assert found.cases == cases
    assert found.estimate == (cases == 2)  # of one case nothing can be held out
    assert not found.measurable


def test_one_candidate_that_is_always_better_gains_what_it_shows() -> None:
    found = gain("1", "0", of([0.0] * 20 + [1.0] * 40, [1.0] * 60), CASES, seed=0)
    assert found.estimate == pytest.approx(1 / 3)
    assert (found.lower, found.upper) == pytest.approx(tango(20, 0, 60))
    assert found.measurable


def test_an_unknown_id_is_an_error_of_the_caller() -> None:
    with pytest.raises(KeyError):
        gain("9", "0", noise(1), CASES, seed=0)


def test_a_score_out_of_range_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="a value of"):
        gain("1", "0", of([0.0], [1.5]), CASES[:1], seed=0)


# --- the bound --------------------------------------------------------------------------------------------


def test_the_bound_is_tangos_at_the_level_divided_by_the_candidates() -> None:
    scores = noise(3, candidates=8)
    chosen = max(scores, key=lambda one: fmean(scores[one].values()))
    assert chosen != "0"
    pairs = [(scores[chosen][case], scores["0"][case]) for case in CASES]
    better, worse = pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0))
    found = gain(chosen, "0", scores, CASES, seed=0)
    assert (found.lower, found.upper) == pytest.approx(tango(better, worse, 60, 0.05 / 8))
    assert found.compared == 8
    looser = gain(chosen, "0", scores, CASES, seed=0, alpha=0.2)
    assert (looser.lower, looser.upper) == pytest.approx(tango(better, worse, 60, 0.2 / 8))


def test_candidates_without_scores_count_when_they_are_named() -> None:
    scores = noise(3)
    few, many = (gain("1", "0", scores, CASES, seed=0, compared=compared) for compared in (None, 25))
    assert (few.compared, many.compared) == (4, 25)
    assert many.lower < few.lower < few.upper < many.upper


def test_fewer_compared_than_have_scores_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="3 candidates compared, but 4 have scores"):
        gain("1", "0", noise(3), CASES, seed=0, compared=3)


def test_only_cases_that_both_were_scored_on_count() -> None:
    """As when the budget ended in the middle of a rung."""
    found = gain("1", "0", of([0.0] * 60, [1.0] * 30, [1.0] * 10), CASES, seed=0)
    assert found.cases == 30
    assert found.estimate == 1.0


# --- the estimate -----------------------------------------------------------------------------------------


def test_the_best_of_equals_gains_less_than_it_shows() -> None:
    """Over 200 searches among 8 equal candidates it shows 8 points, of which next to nothing is left."""
    shown, left = [], []
    for seed in range(200):
        scores = noise(seed, candidates=8)
        chosen = max(scores, key=lambda one: fmean(scores[one].values()))
        shown.append(fmean(scores[chosen].values()) - fmean(scores["0"].values()))
        left.append(gain(chosen, "0", scores, CASES, seed=seed).estimate)
    assert fmean(shown) > 0.07
    assert abs(fmean(left)) < 0.02


def test_a_fold_is_judged_by_who_is_chosen_without_it() -> None:
    """Two cases, so two folds: each candidate wins by one of them, and is judged on the other, where the baseline is better."""
    left_out = 0.4 - 0.6
    shown_more_than_the_baseline = 0.55 - 0.6  # which is chosen on both
    found = gain("1", "0", of([0.6, 0.6], [0.7, 0.4], [0.4, 0.7]), CASES[:2], seed=0)
    assert found.estimate == pytest.approx(left_out + shown_more_than_the_baseline)


def test_who_left_early_takes_part_in_what_it_was_scored_on() -> None:
    """On the first half of the cases ``2`` is chosen, and judged; on the rest it is ``1``, who is chosen on all."""
    scores = of([0.0] * 60, [0.2] * 30 + [0.3] * 30, [0.25] * 30)
    assert gain("1", "0", scores, CASES, seed=0).estimate == pytest.approx((0.25 + 0.3) / 2)


def test_rounds_on_less_than_half_of_the_cases_judge_nothing() -> None:
    scores = of([0.0] * 60, [0.2] * 10 + [0.3] * 50, [0.9] * 10)
    assert gain("1", "0", scores, CASES, seed=0).estimate == pytest.approx(0.3)


def test_scores_that_are_missing_here_and_there_leave_the_choice_to_the_finalists() -> None:
    scores = of([0.0] * 60, [1.0] * 60)
    for number in range(3):  # thirds that do not nest, so no two of them share half of the cases
        scores[f"part {number}"] = dict.fromkeys(CASES[number::3], 1.0)
    found = gain("1", "0", scores, CASES, seed=0)
    assert (found.estimate, found.compared) == (1.0, 4)


def test_the_choice_is_made_again_by_the_callers_rule() -> None:
    """A rule that always takes the cheapest needs no correction: what is shown is what it gains."""
    scores = noise(5, candidates=8)
    shown = fmean(scores["3"].values()) - fmean(scores["0"].values())
    found = gain("3", "0", scores, CASES, seed=0, choose=lambda left: "3")
    assert found.estimate == pytest.approx(shown)


def test_a_rule_sees_the_baseline_first_and_never_all_cases_of_a_fold() -> None:
    seen: list[Mapping[str, Sequence[float]]] = []

    def choose(left: Mapping[str, Sequence[float]]) -> str:
        seen.append(left)
        return best(left)

    gain("1", "0", {"1": dict.fromkeys(CASES, 1.0), "0": dict.fromkeys(CASES, 0.0)}, CASES, seed=0, choose=choose)
    assert {tuple(left) for left in seen} == {("0", "1")}
    assert sorted({len(row) for left in seen for row in left.values()}) == [48, 60]
    assert sum(len(left["0"]) == 60 for left in seen) == 1  # only to see who is chosen on all


def test_of_equals_the_first_is_best() -> None:
    assert best({"b": [0.1, 0.2, 0.3], "a": [0.3, 0.2, 0.1], "c": [0.0, 0.0, 0.5]}) == "b"


# --- what must not matter ---------------------------------------------------------------------------------


@given(races(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_order_of_the_keys_does_not_matter(race: tuple[dict[str, dict[str, float]], list[str]], rng: random.Random) -> None:
    scores, cases = race
    mixed = [(one, list(by_case.items())) for one, by_case in scores.items()]
    rng.shuffle(mixed)
    for _, by_case in mixed:
        rng.shuffle(by_case)
    again = {one: dict(by_case) for one, by_case in mixed}
    assert gain("1", "0", again, cases, seed=7) == gain("1", "0", scores, cases, seed=7)


@given(races())
@settings(max_examples=150, deadline=None)
def test_the_estimate_lies_within_the_bound_and_no_gain_means_zero(race: tuple[dict[str, dict[str, float]], list[str]]) -> None:
    scores, cases = race
    found = gain("1", "0", scores, cases, seed=7)
    assert -1 <= found.lower <= found.estimate <= found.upper <= 1
    same = gain("1", "0", {"0": scores["0"], "1": scores["0"]}, cases, seed=7)
    assert same.estimate == 0.0
    assert not same.measurable


def test_a_seed_gives_one_result_and_another_seed_nearly_the_same() -> None:
    scores = noise(11, candidates=8)
    first, again, other = (gain("2", "0", scores, CASES, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.estimate != other.estimate
    assert first.estimate == pytest.approx(other.estimate, abs=0.05)
    assert (first.lower, first.upper) == (other.lower, other.upper)


# --- in words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            Gain(estimate=0.123, lower=0.041, upper=0.2, cases=60, compared=8),
            "+12.3 points over -O0 on 60 dev cases (95 % sure of at least +4.1; corrected for the best of 8)",
        ),
        (
            Gain(estimate=0.123, lower=0.041, upper=0.2, cases=60, compared=1, alpha=0.01),
            "+12.3 points over -O0 on 60 dev cases (99 % sure of at least +4.1; one candidate compared)",
        ),
        (
            Gain(estimate=0.02, lower=-0.03, upper=0.07, cases=60, compared=8),
            "no measurable gain over -O0: +2.0 points on 60 dev cases, corrected for the best of 8, could be from -3.0 to +7.0",
        ),
        (
            Gain(estimate=-0.0001, lower=-0.5, upper=0.4, cases=1, compared=2),
            "no measurable gain over -O0: +0.0 points on 1 dev case, corrected for the best of 2, could be from -50.0 to +40.0",
        ),
    ],
)
def test_a_gain_in_words(found: Gain, said: str) -> None:
    assert words(found, "-O0") == said


def test_the_method_says_how_it_was_corrected() -> None:
    method = gain("1", "0", noise(3), CASES, seed=0).method
    assert "cross-fitted" in method
    assert "one-sided 5 % / 4 (Bonferroni)" in method
