"""Whether the static part of a call is marked for the provider's prompt cache, and for how long.

A write costs more than plain input (1.25 times for minutes, twice for an hour at Anthropic) and a read a tenth or
less, so a mark pays from the second or third call within its lifetime. How often a prompt is called is not configured
but seen: the gaps between calls decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..catalog.models import CacheRate, ModelFacts
from ..catalog.tokens import estimate
from .wire import CachePlan

_NO_MARK = CachePlan()
_SMOOTHING = 0.2


def static_tokens(system: str, facts: ModelFacts) -> int:
    """About how many tokens the static part has for this model's tokenizer."""
    return round(estimate(system) * facts.token_factor)


def cacheable(system: str, facts: ModelFacts) -> bool:
    """Whether the provider would cache a static part of this length at all."""
    return bool(facts.cache_rates) and facts.cache != "none" and static_tokens(system, facts) >= facts.cache_minimum


def break_even(rate: CacheRate) -> int:
    """From how many calls within one lifetime a marked prefix is cheaper than an unmarked one: write + reads < calls."""
    calls = 1
    while rate.write + rate.read * (calls - 1) >= calls and calls < 1000:
        calls += 1
    return calls


class CallRate:
    """How far apart the calls with one static part are, in seconds: an average that forgets."""

    def __init__(self) -> None:
        self._last: float | None = None
        self.gap: float | None = None

    def seen(self, now: float) -> None:
        """A call begins."""
        if self._last is not None:
            gap = now - self._last
            self.gap = gap if self.gap is None else self.gap + _SMOOTHING * (gap - self.gap)
        self._last = now


class CachePlanner:
    """Plans for the calls of one model. ``once``: its calls share no static part (a meta-model's), so none is marked."""

    def __init__(self, facts: ModelFacts, *, once: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._facts, self._once, self._clock = facts, once, clock
        self._rates: dict[str, tuple[bool, CallRate]] = {}

    def plan(self, static: str, system: str) -> CachePlan:
        """The plan for a call with this static part (by identity, and its text)."""
        if not self.marks(static, system):
            return _NO_MARK
        rate = self._rates[static][1]
        rate.seen(self._clock())
        ttl = self._lifetime(rate.gap)
        return _NO_MARK if ttl is None else CachePlan(mark=True, ttl=ttl)

    def marks(self, static: str, system: str) -> bool:
        """Whether calls with this static part can be marked at all."""
        if self._once or self._facts.cache not in ("explicit", "breakpoints"):
            return False
        known = self._rates.get(static)
        if known is None:
            known = self._rates[static] = (cacheable(system, self._facts), CallRate())
        return known[0]

    def _lifetime(self, gap: float | None) -> str | None:
        """The cheapest lifetime for calls that are ``gap`` seconds apart; ``None`` when no mark pays."""
        choices = [rate for rate in self._facts.cache_rates if rate.ttl]
        if not choices:
            return None
        if gap is None:
            return choices[0].ttl
        # A read renews a lifetime, so calls that are closer than it pay one write in all; it must see as many calls as
        # it takes to pay for its write, for a burst that ends.
        for rate in choices:
            if gap * (break_even(rate) - 1) < rate.seconds:
                return rate.ttl
        return None
