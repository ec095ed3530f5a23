"""Which calls are marked for the provider's prompt cache, and for how long, by the call rate that is seen."""

from __future__ import annotations

import pytest

from promptsmith.catalog.models import facts
from promptsmith.models.caching import CachePlanner, break_even, cacheable, static_tokens
from promptsmith.models.wire import CachePlan

LONG = "Answer with one word, and mind the rules. " * 400
SHORT = "Answer with one word."


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def plans(model: str, gap: float, calls: int = 30, system: str = LONG, *, once: bool = False) -> list[CachePlan]:
    """The plans of calls that are ``gap`` seconds apart."""
    clock = Clock()
    planner = CachePlanner(facts(model), once=once, clock=clock)
    made = []
    for _ in range(calls):
        made.append(planner.plan("a prompt", system))
        clock.now += gap
    return made


@pytest.mark.parametrize(
    ("gap", "ttl"),
    [(0.01, "5m"), (60, "5m"), (299, "5m"), (301, "1h"), (1199, "1h"), (1799, "1h"), (1801, None), (3500, None), (7200, None)],
)
def test_anthropics_lifetime_is_the_one_that_the_call_rate_pays_for(gap: float, ttl: str | None) -> None:
    """Five minutes pay from two calls within them, an hour from three: calls that are rarer are not marked."""
    first, *_, last = plans("anthropic/claude-haiku-5-5", gap)
    assert first == CachePlan(mark=True, ttl="5m"), "nothing is known of the rate yet"
    assert last == (CachePlan(mark=True, ttl=ttl) if ttl else CachePlan())


@pytest.mark.parametrize(("gap", "mark"), [(1, True), (1799, True), (1801, False)])
def test_openais_lifetime_is_half_an_hour(gap: float, mark: bool) -> None:
    assert plans("openai/gpt-6-luna", gap)[-1] == (CachePlan(mark=True, ttl="30m") if mark else CachePlan())


def test_the_rate_is_seen_anew_when_it_changes() -> None:
    clock = Clock()
    planner = CachePlanner(facts("anthropic/claude-haiku-5-5"), once=False, clock=clock)
    seen = []
    for gap in [7200.0] * 5 + [1.0] * 40:
        seen.append(planner.plan("a prompt", LONG).ttl)
        clock.now += gap
    assert seen[4] == ""
    assert seen[-1] == "5m"


def test_prompts_have_rates_of_their_own() -> None:
    clock = Clock()
    planner = CachePlanner(facts("anthropic/claude-haiku-5-5"), once=False, clock=clock)
    for _ in range(10):
        planner.plan("rare", LONG)
        clock.now += 7200
    assert not planner.plan("rare", LONG).mark
    assert planner.plan("another", LONG).mark


@pytest.mark.parametrize("model", ["anthropic/claude-haiku-5-5", "openai/gpt-6-luna"])
def test_one_shot_calls_and_short_prompts_are_never_marked(model: str) -> None:
    assert not any(plan.mark for plan in plans(model, 1, once=True))
    assert not any(plan.mark for plan in plans(model, 1, system=SHORT))
    assert not CachePlanner(facts(model), once=True).marks("a prompt", LONG)


@pytest.mark.parametrize("model", ["openai/gpt-5.5", "openai/gpt-4o", "local/qwen3"])
def test_nothing_is_marked_where_no_mark_is_known(model: str) -> None:
    assert not any(plan.mark for plan in plans(model, 1))


@pytest.mark.parametrize(
    ("model", "minimum"), [("anthropic/claude-haiku-5-5", 512), ("anthropic/claude-haiku-4-5", 4096), ("openai/gpt-6-luna", 1024)]
)
def test_the_models_own_minimum_decides(model: str, minimum: int) -> None:
    known = facts(model)
    longest = next(n for n in range(1, 20_000) if static_tokens("word " * n, known) >= minimum)
    assert cacheable("word " * longest, known)
    assert not cacheable("word " * (longest - 8), known)


@pytest.mark.parametrize(
    ("model", "calls"),
    [
        ("anthropic/claude-haiku-5-5", [2, 3]),
        ("anthropic/claude-sonnet-5-5", [2, 3]),
        ("openai/gpt-6-luna", [2]),
        ("openai/gpt-6.1-sol", [2]),
    ],
)
def test_break_even_is_that_of_the_price_lists(model: str, calls: list[int]) -> None:
    assert [break_even(rate) for rate in facts(model).cache_rates] == calls
