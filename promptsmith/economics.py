"""What a way of working costs: parts by tokens and prices, calls with a cold and a warm provider cache, when it pays.

Pure arithmetic over what was measured. A price that is not known makes what it enters unknown (``None``), never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median_low
from typing import Literal, NamedTuple

from .catalog.models import ModelFacts
from .catalog.prices import Rates
from .catalog.tokens import estimate
from .chat import Usage
from .models.caching import cacheable, static_tokens
from .prompt import Prompt
from .task import Example

Never = Literal["never"]
_ROUNDING = 1e-12
"""What sums of money may be off by, as a share: neither one call more nor a saving follows from it."""


class Part(NamedTuple):
    """A part of the work: its tokens, and US dollars for a thousand of them (``None``: not known)."""

    tokens: int
    per_thousand: float | None


def total(parts: Iterable[Part]) -> float | None:
    """US dollars of all ``parts``; ``None`` when a price is not known."""
    costs = [None if part.per_thousand is None else part.tokens * part.per_thousand / 1000 for part in parts]
    return None if None in costs else math.fsum(cost for cost in costs if cost is not None)


def saved(before: float | None, after: float | None) -> float | None:
    """The share of ``before`` that ``after`` spares; negative when it costs more, ``None`` when it can't be said."""
    return None if before is None or after is None or before == 0 else 1 - after / before


def break_even(investment: float | None, before: float | None, after: float | None) -> int | Never | None:
    """How many calls pay back ``investment`` when each costs ``after`` instead of ``before``; ``None`` when a sum is not known."""
    if investment is None or before is None or after is None:
        return None
    if investment <= 0:
        return 0 if after <= before else "never"
    if before - after <= _ROUNDING * before:
        return "never"
    return math.ceil(investment / (before - after) * (1 - _ROUNDING))


def after_calls(calls: int, investment: float | None, each: float | None) -> float | None:
    """US dollars of ``calls`` calls and what was paid before the first of them."""
    return None if investment is None or each is None else investment + calls * each


# --- the provider's prompt cache --------------------------------------------------------------------------

Seen = Literal["cached", "none", "not seen"]
"""Whether calls have a cached prefix; ``not seen``: the catalog says that they could, and none of them had one."""


class Prefix(NamedTuple):
    """How many tokens of each call the provider caches, and how that is known."""

    tokens: int
    seen: Seen


class PerCall(NamedTuple):
    """US dollars of a mean call: ``cold`` writes the provider's cache, ``warm`` reads it; ``None``: not known."""

    cold: float | None
    warm: float | None


def cached_prefix(usages: Sequence[Usage], system: str, facts: ModelFacts) -> Prefix:
    """The prefix that calls of a prompt with the text ``system`` share, from what the provider counted.

    The median of the calls that had one: a call that was asked again with more room counts its prefix twice.
    """
    counted = [usage.cached + usage.written for usage in usages if usage.cached or usage.written]
    if counted:
        return Prefix(median_low(counted), "cached")
    return Prefix(0, "not seen" if cacheable(system, facts) else "none")


def estimated(prompt: Prompt, facts: ModelFacts, rates: Rates | None, examples: Sequence[Example]) -> PerCall:
    """A call with an input and an answer as long as the mean of ``examples``, without reasoning; tokens are estimates."""
    tokens = static_tokens(prompt.system, facts)
    inputs = _mean_tokens(("\n".join(example.inputs.values()) for example in examples), facts)
    outputs = _mean_tokens((example.output for example in examples), facts)
    prefix = Prefix(tokens, "cached") if cacheable(prompt.system, facts) else Prefix(0, "none")
    return per_call([Usage(input=tokens + inputs, output=outputs)], rates, prefix)


def _mean_tokens(texts: Iterable[str], facts: ModelFacts) -> int:
    found = [estimate(text) for text in texts]
    return round(fmean(found) * facts.token_factor) if found else 0


def per_call(usages: Sequence[Usage], rates: Rates | None, prefix: Prefix) -> PerCall:
    """The mean of the calls, priced as if each had found the cache cold, and as if each had found it warm.

    ``None`` without a price, without calls, and where a provider counted nothing; warm also when no call showed whether
    the provider caches.
    """
    if rates is None or not usages or not (rates.free or all(usage.counted for usage in usages)):
        return PerCall(None, None)

    def mean(*, warm: bool) -> float:
        return fmean(rates.cost(_with_prefix(usage, prefix.tokens, warm=warm)) for usage in usages)

    return PerCall(mean(warm=False), None if prefix.seen == "not seen" and not rates.free else mean(warm=True))


def _with_prefix(usage: Usage, tokens: int, *, warm: bool) -> Usage:
    tokens = min(tokens, usage.input)
    return Usage(input=usage.input, output=usage.output, cached=tokens if warm else 0, written=0 if warm else tokens)
