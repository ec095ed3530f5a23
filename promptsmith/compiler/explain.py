"""What the compiler read from a task, in words, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ..evals.suite import DEV_LEAST, DEV_ROWS
from ..task import Task
from .analysis import CALLS, Analysis, Balance, Sizes
from .gaps import Gap, gaps
from .near import COMPARED_CHARS, COMPARED_ROWS

_MOST = 20
"""How many of anything are named; ``--json`` names all."""


def asked_by_holdout(task: Task, found: Analysis) -> tuple[Gap, ...]:
    """Those gaps of the visible examples that the holdout has cases of: names of the contract, never a case's text.

    For the person who owns the task alone: no compile sees it.
    """
    still_open = set(gaps(task.contract, task.holdout))
    return tuple(gap for gap in found.gaps if task.holdout and gap not in still_open)


def in_words(found: Analysis, asked: Sequence[Gap] = ()) -> str:
    """An analysis as lines of text. ``asked`` are the gaps that the holdout has cases of."""
    facts = [
        ("task", [found.task]),
        ("level", [f"-O{found.level} ({found.level_why})"]),
        ("model", [found.model]),
        ("contract", [found.inferred or "declared in the task file", *found.contract]),
        ("examples", list(_example_lines(found))),
        ("labels", list(_balance_lines(found.balance)) if found.balance else []),
        ("gaps", list(_gap_lines(found, asked))),
        ("repeats", list(_repeat_lines(found))),
        ("noted", list(found.noted)),
        ("inputs", [_sizes(found.inputs)] if found.inputs else []),
        ("outputs", [_sizes(found.outputs)] if found.outputs else []),
        ("prompt", [_prompt(found)]),
        ("call", [_call(found)]),
        ("caching", [_caching(found)]),
        ("cost", list(_cost_lines(found))),
        ("dev", [_dev(found)]),
    ]
    return "\n".join(f"{name if not number else '':<10} {line}" for name, lines in facts for number, line in enumerate(lines))


def in_data(found: Analysis, asked: Sequence[Gap] = ()) -> dict[str, Any]:
    """The same as plain data for JSON, nothing shortened."""
    data: dict[str, Any] = msgspec.to_builtins(found)
    return {**data, "asked_by_holdout": msgspec.to_builtins(tuple(asked))}


def _example_lines(found: Analysis) -> Iterator[str]:
    chosen = f"{found.chosen} chosen by coverage within {found.example_tokens} tokens"
    yield f"{found.examples} visible, {'none added to a prompt written by hand' if found.by_hand else chosen}"
    if found.fixed_inputs:
        yield f"all have the same {_named(found.fixed_inputs)}"


def _balance_lines(balance: Balance) -> Iterator[str]:
    yield _named([f"{label} {count}" for label, count in balance.counts])
    if balance.ratio > 1:
        yield f"the most frequent stands {balance.ratio:g} times as often as the least frequent"
    if len(balance.counts) == 1:
        yield "all examples have one label: they show no difference to learn"
    if balance.once:
        yield f"one example alone shows {_named(balance.once)}"


def _gap_lines(found: Analysis, asked: Sequence[Gap]) -> Iterator[str]:
    if found.gaps:
        yield f"no example shows {_named(list(map(str, found.gaps)))}"
    if asked:
        yield f"the holdout has cases of {_named(list(map(str, asked)))}"


def _repeat_lines(found: Analysis) -> Iterator[str]:
    if found.contradictions:
        places = ["/".join(one.rows) for one in found.contradictions]
        yield f"{_count(len(places), 'input')} with several outputs (contradictions): {_named(places)}"
    near = found.near
    if near.rows:
        pairs = [f"{pair.row} and {pair.other}{'' if pair.same_output else ' (other output)'}" for pair in near.pairs]
        rows = _count(near.rows, "example")
        yield f"{rows} nearly equal to an earlier one, {near.differing} with another output: {_listed(pairs, near.rows)}"
    if near.unfinished:
        rows = _count(near.unfinished, "example")
        yield f"{rows} compared with {COMPARED_ROWS} others only, so near-duplicates may have been missed"
    if near.clipped:
        yield f"{_count(near.clipped, 'example')} compared by the first {COMPARED_CHARS:,} characters only"
    if found.mixed:
        yield "labels on equal or nearly equal inputs: " + _named([f"{one.one}/{one.other} {one.times}" for one in found.mixed])


def _sizes(sizes: Sizes) -> str:
    chars, tokens = sizes.chars, sizes.tokens
    return (
        f"{chars.least} to {chars.most} characters, half of them up to {chars.median}, 95 % up to {chars.p95} "
        f"(about {tokens.least} to {tokens.most}, {tokens.median} and {tokens.p95} tokens)"
    )


def _prompt(found: Analysis) -> str:
    tokens = f"about {found.call.static} tokens"
    if found.by_hand:
        return f"{tokens}, written by hand"
    return f"{tokens}, {found.call.examples} of them examples (estimated by the -O0 template)"


def _call(found: Analysis) -> str:
    call = found.call
    given = "" if call.input is None else f" + {call.input} for the median input"
    limit = "no output limit is sent" if call.limit is None else f"at most {call.limit} out"
    return f"about {call.static}{given} tokens in, {limit}"


def _caching(found: Analysis) -> str:
    caching = found.caching
    if caching.style == "none":
        return f"nothing is known of prompt caching at {found.model}"
    if not caching.cacheable:
        return f"not cacheable: the static part has about {found.call.static} tokens, the provider caches from {caching.minimum}"
    pays = [f"from {one.break_even} calls{f' within {one.ttl}' if one.ttl else ''}" for one in caching.lifetimes]
    return f"cacheable (from {caching.minimum} tokens); pays {' or '.join(pays)}"


def _cost_lines(found: Analysis) -> Iterator[str]:
    costs = found.costs
    if costs is None:
        yield f"unknown: no price is known for {found.model}"
        return
    yield f"${costs.cold:.4f} for {CALLS:,} calls cold, ${costs.warm:.4f} warm (median input and output, no reasoning)"
    if costs.at_limit is not None:
        yield f"at most ${costs.at_limit:.4f} when each writes all that it may"


def _dev(found: Analysis) -> str:
    dev = found.dev
    if dev.dev:
        return f"-O2 would score on {dev.dev} and build from {dev.compile} examples"
    why = f"under {DEV_ROWS} visible examples" if found.examples < DEV_ROWS else f"a part would have under {DEV_LEAST} examples"
    return f"none ({why}): -O2 and -O3 would return the -O1 result, unscored"


def _named(names: Sequence[str]) -> str:
    return _listed(names[:_MOST], len(names))


def _listed(names: Sequence[str], count: int) -> str:
    more = count - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
