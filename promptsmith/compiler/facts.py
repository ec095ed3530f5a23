"""What the analysis tells the meta-model: a few lines, the same for the same build.

Nothing here depends on what the build key leaves out (prices, what readers of files noted, places of rows). Labels and keys stand as JSON
texts, so that none can pass for a line of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from .analysis import Analysis, Balance, Sizes

_MOST = 20
"""How many of anything are named."""


def fact_lines(found: Analysis, *, placed: bool = True) -> list[str]:
    """The facts, one a line. Not ``placed``: it is open which examples will stand behind the prompt."""
    if not found.examples:
        return ["There are no examples."]
    chosen = f"; {found.chosen} of them (about {found.call.examples} tokens) are added behind your prompt" if placed else ""
    lines = [f"Examples: {found.examples}{chosen}."]
    if found.balance:
        lines += _balance_lines(found.balance)
    elif found.gaps:
        lines.append(f"Allowed by the contract, shown by no example: {_named(map(str, found.gaps), quote=False)}.")
    if found.mixed:
        pairs = [f"{_quoted(pair.one)} and {_quoted(pair.other)} ({pair.times})" for pair in found.mixed]
        lines.append(f"Labels that stand with equal or nearly equal inputs, and how often: {_named(pairs, quote=False)}.")
    if found.contradictions:
        lines.append(f"Inputs that stand with several different outputs: {len(found.contradictions)}. One of each is wrong or undecidable.")
    if found.near.rows:
        lines.append(f"Examples that nearly repeat an earlier one: {found.near.rows}.")
    if found.fixed_inputs:
        lines.append(f"Inputs that have the same value in every example: {_named(found.fixed_inputs)}.")
    return [*lines, *_size_lines(found)]


def _balance_lines(balance: Balance) -> list[str]:
    counts = [f"{_quoted(label)} {count}" for label, count in balance.counts]
    if len(counts) > _MOST:
        half = _MOST // 2
        counts = [*counts[:half], f"… ({len(counts) - _MOST} more)", *counts[-half:]]
    lines = [f"Labels of the examples: {', '.join(counts)}."]
    if balance.missing:
        lines.append(f"Labels that no example has: {_named(balance.missing)}.")
    return lines


def _size_lines(found: Analysis) -> list[str]:
    lines = []
    # Of labels the contract says all.
    for name, sizes in (("Inputs", found.inputs), ("Outputs", None if found.balance else found.outputs)):
        if sizes:
            lines.append(f"{name} have {_lengths(sizes)}.")
    if found.caching.cacheable:
        lines.append("A plain prompt with its examples is long enough for the target's provider to cache it between calls.")
    elif found.caching.style != "none":
        lines.append(
            f"The target's provider caches a prompt from {found.caching.minimum} tokens; a plain one with its examples stays below."
        )
    return lines


def _lengths(sizes: Sizes) -> str:
    chars = sizes.chars
    return f"{chars.least} to {chars.most} characters, half of them up to {chars.median}, 95 % up to {chars.p95}"


def _named(values: Iterable[str], *, quote: bool = True) -> str:
    names: Sequence[str] = [_quoted(value) if quote else value for value in values]
    more = len(names) - _MOST
    return ", ".join(names[:_MOST]) + (f" and {more} more" if more > 0 else "")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
