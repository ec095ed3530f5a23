"""The front, who is taken from it, who the next candidate is bred from, and what a call costs with the provider's cache warm."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.catalog.models import facts
from promptsmith.catalog.prices import Rate, Rates
from promptsmith.chat import Usage
from promptsmith.compiler.search.pareto import Point, Prefer, case_front, choose, front, sample_parent, warm_usd_per_1k
from promptsmith.evals.statistics import tango_clustered

PREFERENCES: tuple[Prefer, ...] = ("score", "balanced", "cost")
few = st.integers(0, 4)
priced = st.lists(st.tuples(few, few, few), max_size=12).map(
    lambda rows: [Point(f"c{n:02}", score / 4, 100.0 + tokens, usd / 8) for n, (score, tokens, usd) in enumerate(rows)]
)


def dominates(a: Point, b: Point, *, dollars: bool) -> bool:
    at_least = a.score >= b.score and a.tokens <= b.tokens
    better = a.score > b.score or a.tokens < b.tokens
    if dollars:
        assert a.usd_per_1k is not None and b.usd_per_1k is not None
        at_least, better = at_least and a.usd_per_1k <= b.usd_per_1k, better or a.usd_per_1k < b.usd_per_1k
    return at_least and better


@given(priced)
def test_the_front_is_what_nobody_dominates(points: list[Point]) -> None:
    expected = {a.id for a in points if not any(dominates(b, a, dollars=True) for b in points)}
    found = front(points)
    assert set(found) == expected and len(found) == len(expected)
    by_id = {point.id: point for point in points}
    assert list(found) == sorted(found, key=lambda name: (-by_id[name].score, by_id[name].tokens, name))


@given(priced, st.randoms(use_true_random=False))
def test_the_order_of_the_points_has_no_say(points: list[Point], rng: random.Random) -> None:
    mixed = rng.sample(points, len(points))
    assert front(mixed) == front(points)
    if points:
        for prefer in PREFERENCES:
            assert choose(mixed, prefer, _no_difference) == choose(points, prefer, _no_difference)


@given(priced.filter(bool), st.data())
def test_one_unknown_price_leaves_all_dollars_out(points: list[Point], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(points) - 1))
    points[place] = points[place]._replace(usd_per_1k=None)
    assert set(front(points)) == {a.id for a in points if not any(dominates(b, a, dollars=False) for b in points)}


def test_equals_all_stay_and_no_points_have_no_front() -> None:
    assert front([]) == ()
    assert front([Point("b", 0.5, 10, 1.0), Point("a", 0.5, 10, 1.0)]) == ("a", "b")


def _no_difference(a: str, b: str) -> list[float]:
    return [0.0] * 20


def _paired(scores: dict[str, Sequence[float]]) -> Callable[[str, str], list[float]]:
    return lambda a, b: [one - other for one, other in zip(scores[a], scores[b], strict=True)]


def _points(scores: dict[str, Sequence[float]], tokens: dict[str, int]) -> list[Point]:
    return [Point(name, fmean(values), tokens[name], tokens[name] / 100) for name, values in scores.items()]


# 40 cases: `near` loses two and wins one, `far` loses eight and wins two, `bad` loses twenty.
BEST = [1.0] * 30 + [0.0] * 10
SCORES: dict[str, Sequence[float]] = {
    "best": BEST,
    "near": [0.0] * 2 + [1.0] * 28 + [1.0] * 1 + [0.0] * 9,
    "far": [0.0] * 7 + [1.0] * 23 + [1.0] * 3 + [0.0] * 7,
    "bad": [0.0] * 20 + [1.0] * 10 + [0.0] * 10,
}
TOKENS = {"best": 900, "near": 500, "far": 300, "bad": 50}


def test_each_preference_takes_its_own() -> None:
    points, paired = _points(SCORES, TOKENS), _paired(SCORES)
    near, far, bad = (paired(name, "best") for name in ("near", "far", "bad"))
    assert fmean(near) >= -stdev(near) / math.sqrt(40) and fmean(far) < -stdev(far) / math.sqrt(40)
    assert tango_clustered(far, 0.025).upper >= 0 > tango_clustered(bad, 0.025).upper
    taken = {prefer: choose(points, prefer, paired) for prefer in PREFERENCES}
    assert {prefer: name for prefer, (name, _) in taken.items()} == {"score": "best", "balanced": "near", "cost": "far"}
    assert taken["score"][1] == "it has the highest mean score, 0.750"
    assert taken["balanced"][1] == (
        "it is the cheapest that is within one standard error of the best: its mean score is 0.725, that of best 0.750"
    )
    assert taken["cost"][1] == "it is the cheapest that is not measurably worse than the best: its mean score is 0.650, that of best 0.750"


def test_without_dollars_the_cheapest_has_the_fewest_tokens_and_free_calls_are_compared_by_tokens() -> None:
    dear = [Point("best", 0.75, 900, 1.0), Point("near", 0.74, 500, 3.0), Point("other", 0.74, 600, 2.0)]
    assert choose(dear, "cost", _no_difference)[0] == "best"
    assert choose([dear[0]._replace(usd_per_1k=None), *dear[1:]], "cost", _no_difference)[0] == "near"
    assert choose([point._replace(usd_per_1k=0.0) for point in dear], "balanced", _no_difference)[0] == "near"


def test_a_tie_goes_to_fewer_tokens_then_to_the_id() -> None:
    tied = [Point("c", 0.5, 10, 1.0), Point("b", 0.5, 9, 2.0), Point("a", 0.5, 10, 1.0)]
    assert choose(tied, "score", _no_difference)[0] == "b"
    assert choose([tied[0], tied[2]], "score", _no_difference)[0] == "a"


@pytest.mark.parametrize("prefer", ["balanced", "cost"])
def test_a_cheaper_one_that_was_never_compared_is_not_taken(prefer: Prefer) -> None:
    points = [Point("best", 0.9, 900, 9.0), Point("cheap", 0.2, 10, 0.1)]
    taken, why = choose(points, prefer, lambda a, b: [])
    assert taken == "best" and "no cheaper one" in why


def test_one_standard_error_of_one_case_excuses_nothing() -> None:
    points = [Point("best", 0.9, 900, 9.0), Point("cheap", 0.8, 10, 0.1)]
    assert choose(points, "balanced", lambda a, b: [-0.1])[0] == "best"
    assert choose(points, "balanced", lambda a, b: [0.0])[0] == "cheap"


def test_what_is_dominated_is_never_taken() -> None:
    """Its wider spread alone would let `noisy` in where `sure`, better and cheaper, is measurably worse."""
    points = [Point("best", 0.9, 900, 9.0), Point("sure", 0.8, 10, 0.1), Point("noisy", 0.8, 11, 0.1)]
    differences = {"sure": [-0.1] * 40, "noisy": [-1.0] * 12 + [1.0] * 8 + [0.0] * 20}
    assert choose(points, "cost", lambda a, b: differences[a])[0] == "best"


def test_nobody_can_be_taken_from_nothing() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        choose([], "score", _no_difference)


# --- parents ----------------------------------------------------------------------------------------------

tables = st.integers(1, 6).flatmap(
    lambda cases: st.lists(st.lists(st.integers(0, 2), min_size=cases, max_size=cases), min_size=1, max_size=6).map(
        lambda rows: {f"p{n}": {f"case{k}": value / 2 for k, value in enumerate(row)} for n, row in enumerate(rows)}
    )
)


def test_the_example_of_the_paper() -> None:
    """Agrawal et al. 2025, section 3: best on task 1 only, and another as good there and best on task 2 as well: the first is out."""
    scores = {
        "one": {"t1": 0.9, "t2": 0.1, "t3": 0.0},
        "two": {"t1": 0.9, "t2": 0.8, "t3": 0.1},
        "three": {"t1": 0.1, "t2": 0.2, "t3": 0.7},
    }
    assert case_front(scores, ["t1", "t2", "t3"]) == {"two": 2, "three": 1}


@given(tables)
def test_every_case_keeps_one_of_its_best_and_counts_are_true(scores: dict[str, dict[str, float]]) -> None:
    cases = sorted({case for row in scores.values() for case in row})
    best = {case: {name for name in scores if scores[name][case] == max(row[case] for row in scores.values())} for case in cases}
    counts = case_front(scores, cases)
    won = {name: {case for case in cases if name in best[case]} for name in scores}
    for case in cases:
        assert best[case] & set(counts)
    for name, count in counts.items():
        assert count == len(won[name]) > 0
        assert not any(won[name] < won[other] for other in scores)
    for name in set(scores) - set(counts):
        assert not won[name] or any(won[name] < won[other] for other in scores)


def test_a_case_that_nobody_ran_counts_for_nobody_and_one_that_few_ran_for_them() -> None:
    assert case_front({"a": {"x": 1.0}, "b": {"x": 0.0, "y": 0.0}}, ["x", "y", "z"]) == {"a": 1, "b": 1}
    assert case_front({}, ["x"]) == {}


def test_parents_are_drawn_in_proportion() -> None:
    counts = {"a": 6, "b": 3, "c": 1}
    rng = random.Random("draws")
    drawn = [sample_parent(counts, rng, ["a", "b", "c"]) for _ in range(2000)]
    for name, count in counts.items():
        share, expected = drawn.count(name) / 2000, count / 10
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 2000)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5)), st.integers())
def test_the_draw_is_the_same_for_the_same_seed(counts: dict[str, int], seed: int) -> None:
    order = sorted(counts)
    turned = dict(reversed(counts.items()))
    if not any(counts.values()):
        with pytest.raises(ValueError, match="breed"):
            sample_parent(counts, random.Random(seed), order)
        return
    drawn = sample_parent(counts, random.Random(seed), order)
    assert counts[drawn] > 0
    assert drawn == sample_parent(turned, random.Random(seed), order)


# --- dollars ----------------------------------------------------------------------------------------------

RATES = Rates((Rate(input=4.0, output=10.0, cached=0.4, written=5.0),))
LUNA = facts("openai/gpt-6-luna")
LONG = "word " * 4000


def test_a_warm_call_reads_what_the_provider_counted() -> None:
    usages = [Usage(2000, 100, cached=1500), Usage(3000, 300, written=1500)]
    expected = 1000 * fmean([500 * 4 + 1500 * 0.4 + 100 * 10, 1500 * 4 + 1500 * 0.4 + 300 * 10]) / 1e6
    assert warm_usd_per_1k(LONG, usages, RATES, LUNA) == pytest.approx(expected)


def test_calls_that_all_came_cold_are_priced_by_the_length_of_the_static_part() -> None:
    expected = 1000 * (1000 * 4 + 5000 * 0.4 + 100 * 10) / 1e6
    assert warm_usd_per_1k(LONG, [Usage(6000, 100)], RATES, LUNA) == pytest.approx(expected)
    whole = 1000 * (2000 * 0.4) / 1e6  # never more than was sent
    assert warm_usd_per_1k(LONG, [Usage(2000, 0)], RATES, LUNA) == pytest.approx(whole)


def test_what_is_not_cached_costs_the_full_price() -> None:
    full = pytest.approx(1000 * (2000 * 4 + 100 * 10) / 1e6)
    assert warm_usd_per_1k("short", [Usage(2000, 100)], RATES, LUNA) == full
    assert warm_usd_per_1k(LONG, [Usage(2000, 100)], RATES, facts("local/any")) == full


def test_an_unknown_price_is_unknown_and_free_is_free() -> None:
    assert warm_usd_per_1k(LONG, [Usage(2000, 100)], None, LUNA) is None
    assert warm_usd_per_1k(LONG, [], RATES, LUNA) is None
    assert warm_usd_per_1k(LONG, [Usage()], RATES, LUNA) is None
    assert warm_usd_per_1k(LONG, [Usage()], Rates((Rate(input=0.0, output=0.0),)), LUNA) == 0.0
