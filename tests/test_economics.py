"""The arithmetic of savings: the worked table, break-even, and what a cold and a warm provider cache make of a call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.catalog.models import facts
from promptsmith.catalog.prices import Rate, Rates
from promptsmith.chat import Usage
from promptsmith.economics import Part, PerCall, Prefix, after_calls, break_even, cached_prefix, estimated, per_call, saved, total
from promptsmith.prompt import Provenance, make_prompt
from promptsmith.task import Task

sums = st.floats(0, 1e6, allow_nan=False)
some_tokens = st.integers(0, 10**9)


def test_the_worked_table() -> None:
    """Planning, coding, review and docs, each by its own model, against all 9,000 tokens by the planner's."""
    split = [Part(1000, 0.03), Part(5000, 0.0015), Part(1000, 0.015), Part(2000, 0.003)]
    strong = [Part(part.tokens, 0.03) for part in split]
    before, after = total(strong), total(split)
    assert before == pytest.approx(0.27)
    assert after == pytest.approx(0.0585)
    share = saved(before, after)
    assert share is not None and round(100 * share) == 78


def test_an_unknown_price_is_unknown_and_never_nothing() -> None:
    assert total([Part(1000, 0.03), Part(1, None)]) is None
    assert total([Part(0, None)]) is None
    assert total([]) == 0.0
    assert saved(None, 1.0) is None and saved(1.0, None) is None and saved(0.0, 1.0) is None
    assert break_even(None, 2.0, 1.0) is None and break_even(1.0, None, 1.0) is None and break_even(1.0, 2.0, None) is None
    assert after_calls(5, None, 1.0) is None and after_calls(5, 1.0, None) is None
    assert after_calls(5, 1.0, 2.0) == 11.0


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e3), st.floats(0, 1e3))
def test_break_even_is_the_first_number_of_calls_that_pays(investment: float, before: float, after: float) -> None:
    calls = break_even(investment, before, after)
    if calls == "never":
        assert before - after <= 1e-12 * before
        return
    assert isinstance(calls, int)
    # As exact as the sums themselves are.
    slack = 1e-9 * (investment + calls * before)
    assert investment + calls * after <= calls * before + slack
    assert investment + (calls - 1) * after >= (calls - 1) * before - slack


def test_break_even_with_nothing_paid_and_with_nothing_saved() -> None:
    assert break_even(0.0, 2.0, 1.0) == 0
    assert break_even(0.0, 1.0, 1.0) == 0
    assert break_even(0.0, 1.0, 2.0) == "never"
    assert break_even(1.0, 1.0, 1.0) == "never"
    assert break_even(1.0, 0.3, 0.2) == 10


@given(st.lists(st.tuples(some_tokens, st.floats(0, 10)), max_size=8), st.floats(0, 10))
def test_dearer_parts_never_make_a_cheaper_sum(parts: list[tuple[int, float]], more: float) -> None:
    cheap, dear = total([Part(*part) for part in parts]), total([Part(tokens, price + more) for tokens, price in parts])
    assert cheap is not None and dear is not None
    assert dear >= cheap


# --- cold and warm ----------------------------------------------------------------------------------------

RATES = Rates((Rate(input=4.0, output=10.0, cached=0.4, written=5.0),))
LONG = "word " * 4000
LUNA = facts("openai/gpt-6-luna")


def test_the_prefix_is_what_the_provider_counted() -> None:
    """The median of the calls that had one: a retried call counts it twice, an early one not at all."""
    usages = [Usage(2000, 5), Usage(2000, 5, written=1500), Usage(2000, 5, cached=1500), Usage(4000, 9, cached=3000)]
    assert cached_prefix(usages, LONG, LUNA) == Prefix(1500, "cached")
    assert cached_prefix([Usage(20, 5)], "short", LUNA) == Prefix(0, "none")
    assert cached_prefix([Usage(2000, 5)] * 9, LONG, LUNA) == Prefix(0, "not seen")
    assert cached_prefix([Usage(2000, 5)] * 9, LONG, facts("local/any")) == Prefix(0, "none")


def test_a_cold_call_writes_the_prefix_and_a_warm_one_reads_it() -> None:
    each = per_call([Usage(2000, 100, cached=1500), Usage(3000, 300, written=1500)], RATES, Prefix(1500, "cached"))
    cold = ((500 * 4 + 1500 * 5 + 100 * 10) + (1500 * 4 + 1500 * 5 + 300 * 10)) / 2e6
    warm = ((500 * 4 + 1500 * 0.4 + 100 * 10) + (1500 * 4 + 1500 * 0.4 + 300 * 10)) / 2e6
    assert each == PerCall(pytest.approx(cold), pytest.approx(warm))


def test_nothing_is_promised_that_was_not_seen() -> None:
    plain = 1000 * 4 / 1e6
    usage = Usage(1000, 0)
    assert per_call([usage], RATES, Prefix(0, "none")) == PerCall(pytest.approx(plain), pytest.approx(plain))
    assert per_call([usage], RATES, Prefix(0, "not seen")) == PerCall(pytest.approx(plain), None)
    assert per_call([usage], None, Prefix(0, "none")) == PerCall(None, None)
    assert per_call([], RATES, Prefix(0, "none")) == PerCall(None, None)
    assert per_call([usage, Usage()], RATES, Prefix(0, "none")) == PerCall(None, None)  # one was not counted
    free = Rates((Rate(input=0.0, output=0.0),))
    assert per_call([Usage()], free, Prefix(0, "none")) == PerCall(0.0, 0.0)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**5)), min_size=1, max_size=6), st.integers(0, 10**6))
def test_warm_never_costs_more_than_cold(calls: list[tuple[int, int]], tokens: int) -> None:
    each = per_call([Usage(*call) for call in calls], RATES, Prefix(tokens, "cached"))
    assert each.cold is not None and each.warm is not None
    assert each.warm <= each.cold * (1 + 1e-12)


def test_an_estimate_takes_the_mean_example() -> None:
    task = Task("x", output=["good", "evil"], examples=[("four", "good"), ("four" * 3, "evil")])
    prompt = make_prompt(
        task="t", system=LONG, contract=task.contract, model="openai/gpt-6-luna", parameters={}, inputs=(), serve=task.serve,
        provenance=Provenance(created="", version="", level=0, level_why="", build=None),  # type: ignore[arg-type]
    )  # fmt: skip
    tokens = 5000
    each = estimated(prompt, LUNA, RATES, task.examples)
    assert each.cold == pytest.approx((tokens * 5 + 2 * 4 + 1 * 10) / 1e6)
    assert each.warm == pytest.approx((tokens * 0.4 + 2 * 4 + 1 * 10) / 1e6)
