"""The prompt and the model that serves it: what is cached, what a call costs, which parameters are taken."""

from __future__ import annotations

from collections.abc import Iterator

from ...chat import Request, Turn
from ...errors import InputError
from ...models.caching import cacheable, static_tokens
from .case import Case, Target
from .findings import LintFinding

_CHEAPEST_READ = 0.1
"""Of the input price. Where the catalog knows only an upper bound (0.5) of what a cached token costs, this one counts."""


def below_minimum(case: Case) -> Iterator[LintFinding]:
    """Long enough for the provider's prompt cache, where it has one."""
    target = case.target
    if target is None or not _caches(target) or cacheable(case.system, target.facts):
        return
    tokens, least = static_tokens(case.system, target.facts), target.facts.cache_minimum
    warm = round(least * target.facts.cache_rates[0].read)
    gain = f"; filled up to {least:,} with examples, a warm call would pay for {warm:,}" if warm < tokens else ""
    yield LintFinding(
        "below-cache-minimum",
        0,
        f"about {tokens:,} tokens, below the {least:,} from which {target.name} caches: each call pays for all of them{gain}",
    )


def far_above_minimum(case: Case) -> Iterator[LintFinding]:
    """No call pays more for the cached prompt than an uncached one of the least cacheable length would cost."""
    target = case.target
    if target is None or not _caches(target):
        return
    tokens, least = static_tokens(case.system, target.facts), target.facts.cache_minimum
    read = min(target.facts.cache_rates[0].read, _CHEAPEST_READ)
    if tokens * read > least:
        what = f"about {tokens:,} tokens: even cached by {target.name}, a call pays for {round(tokens * read):,} of them"
        yield LintFinding("far-above-cache-minimum", 0, f"{what}, more than for {least:,} uncached ones")


def _caches(target: Target) -> bool:
    return target.facts.cache != "none" and bool(target.facts.cache_rates) and not target.foreign


def rejected_parameters(case: Case) -> Iterator[LintFinding]:
    """No parameter that a call would be refused for: the codec of the wire decides, as it does for a call."""
    if case.target is None:
        return
    from ...models.wire import client_codec

    wire = client_codec(case.target.protocol, case.target.api)
    for name, value in case.target.parameters.items():
        request = Request(model=case.target.name, system="", turns=(Turn("user", "x"),), parameters={name: value})
        try:
            wire.body(request, stream=False, facts=case.target.facts, foreign=case.target.foreign)
        except InputError as error:
            yield LintFinding("rejected-parameter", 0, error.message + (f" ({error.hint})" if error.hint else ""))
