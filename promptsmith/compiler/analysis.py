"""What can be known of a task before any model is called: its contract, its examples, what a call will take.

Everything is counted from the visible examples, the contract and dated tables, so it is the same for the same task. The
holdout has no part in it: :class:`~promptsmith.compiler.material.Material` does not hold it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from .. import canonical
from ..catalog.models import CacheStyle
from ..catalog.prices import Rates
from ..chat import Usage
from ..contract import Labels, explain, format_lines, normalise_label
from ..evals.suite import dev_rows
from ..models.caching import break_even, cacheable, static_tokens
from ..prompt import user_turn
from ..task import Example
from ..task.rows import place
from .gaps import Gap, gaps
from .material import Material
from .near import neighbours
from .output_limit import with_output_limit
from .select import examples_for
from .template import system_prompt

CALLS = 1000
"""For how many calls costs are told."""
_LISTED = 10


class Lengths(msgspec.Struct, frozen=True):
    """How long some texts are; percentiles by nearest rank."""

    least: int
    median: int
    p95: int
    most: int


class Sizes(msgspec.Struct, frozen=True):
    """Lengths of the inputs or outputs: in characters, and in tokens as sent (estimated for the target's tokenizer)."""

    chars: Lengths
    tokens: Lengths


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """How often the examples show each label, the most frequent first, among equals in the contract's order.

    ``counts`` holds those that they do show.
    """

    counts: tuple[tuple[str, int], ...]
    ratio: float
    """The most frequent label's count over the least frequent one's, of those that are shown."""
    missing: tuple[str, ...]
    """Labels of the contract that no example has."""
    once: tuple[str, ...]
    """Labels that one example alone has."""


class Contradiction(msgspec.Struct, frozen=True):
    """Examples whose input is the same but for case and blanks, by their places: the first with each of its outputs."""

    rows: tuple[str, ...]


class NearPair(msgspec.Struct, frozen=True):
    """An example and the first earlier one found near it, by their places."""

    row: str
    other: str
    same_output: bool


class Near(msgspec.Struct, frozen=True, kw_only=True):
    """Near-duplicates among different inputs (see :mod:`promptsmith.compiler.near`)."""

    rows: int
    """How many examples are near an earlier one."""
    differing: int
    """How many of them have another output than that one."""
    pairs: tuple[NearPair, ...]
    """The first of them, those with another output before the others."""
    unfinished: int
    """Examples that were not compared with all that could be near."""
    clipped: int
    """Examples of which only the beginning was compared."""


class Mixed(msgspec.Struct, frozen=True):
    """Two labels that stand with the same input, or with inputs that are nearly the same, and how often."""

    one: str
    other: str
    times: int


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one call, estimated for the target's tokenizer. Instructions are the ``-O0`` template's, or those written by hand."""

    static: int
    """Instructions and examples: the same for every input."""
    examples: int
    """The examples' share of ``static``."""
    input: int | None
    """The median input, its tags included; ``None`` without examples."""
    output: int | None
    """The median output of the examples, without any reasoning."""
    limit: int | None
    """The most that a call may write, room for reasoning included; ``None`` when none is sent."""


class Lifetime(msgspec.Struct, frozen=True):
    """One lifetime of a cached prefix, and from how many calls within it caching costs less than not caching."""

    ttl: str
    """As the provider writes it; empty when it can't be chosen."""
    break_even: int


class Caching(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the target's provider would cache the static part."""

    style: CacheStyle
    cacheable: bool
    minimum: int
    """Tokens below which nothing is cached."""
    lifetimes: tuple[Lifetime, ...]


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars for 1,000 calls with the median input and output; reasoning is not in them."""

    cold: float
    """Nothing comes from the provider's cache; each call writes the static part to it where it is cacheable."""
    warm: float
    """Every call reads the static part from it; as ``cold`` where it is not cacheable."""
    at_limit: float | None
    """The most that they can cost: each writes as much as it may. ``None`` when no limit is sent."""


class DevPart(msgspec.Struct, frozen=True):
    """How ``-O2`` would part the visible examples; ``dev`` 0: it would score nothing and return the ``-O1`` result."""

    dev: int
    compile: int


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. Optional parts are ``None`` where they do not apply or there is no example."""

    task: str
    level: int
    level_why: str
    model: str
    contract: tuple[str, ...]
    """In words, a fact a line."""
    inferred: str
    """What of the contract was inferred, and how; empty when the task file declares it."""
    examples: int
    by_hand: bool
    """Whether the task file holds the prompt; then no example is chosen."""
    chosen: int
    """How many stand in the prompt."""
    example_tokens: int
    """The budget that they were chosen within."""
    balance: Balance | None
    """For labels alone."""
    gaps: tuple[Gap, ...]
    """What the contract allows and no example shows; for labels the same as ``balance.missing``."""
    fixed_inputs: tuple[str, ...]
    """Declared inputs that have one value in all examples (of at least two)."""
    contradictions: tuple[Contradiction, ...]
    near: Near
    mixed: tuple[Mixed, ...]
    """For labels alone, the most frequent first."""
    noted: tuple[str, ...]
    """What the reader of the data files said: duplicates left out, contradictions, rows alike."""
    inputs: Sizes | None
    outputs: Sizes | None
    call: Call
    caching: Caching
    costs: Costs | None
    """``None`` when the price is not known."""
    dev: DevPart


def analyse(source: Material, rates: Rates | None = None, noted: Sequence[str] = ()) -> Analysis:
    """The analysis of ``source``. ``rates`` are its production model's, ``None`` when unknown; no model is called.

    ``noted`` is what the reader said of the task's files (:attr:`Task.notes`), handed on as it is. Neither changes
    anything else in the result.
    """
    chosen, shape = examples_for(source), source.contract.shape
    system = system_prompt(source, chosen)
    inputs, outputs = _inputs(source), _outputs(source)
    call, caching = _call(source, system, inputs, outputs), _caching(source, system)
    groups = _same_inputs(source.examples)
    against = [group for group in groups if len(group) > 1]
    near, differing = _near(groups)
    clashing = [(group[0], other) for group in against for other in group[1:]]
    return Analysis(
        task=source.name,
        level=source.level,
        level_why=source.level_why,
        model=source.model.name,
        contract=tuple(format_lines(source.contract)),
        inferred=explain(source.contract) if source.contract.inferred else "",
        examples=len(source.examples),
        by_hand=source.prompt is not None,
        chosen=len(chosen),
        example_tokens=source.example_tokens,
        balance=_balance(shape, source.examples) if isinstance(shape, Labels) and source.examples else None,
        gaps=gaps(source.contract, source.examples),
        fixed_inputs=_fixed(source),
        contradictions=tuple(Contradiction(tuple(map(place, group))) for group in against),
        near=near,
        mixed=_mixed(shape, [*clashing, *differing]) if isinstance(shape, Labels) else (),
        noted=tuple(noted),
        inputs=inputs,
        outputs=outputs,
        call=call,
        caching=caching,
        costs=_costs(call, caching, rates) if rates else None,
        dev=_dev(source),
    )


# --- lengths, tokens, money -------------------------------------------------------------------------------


def _inputs(source: Material) -> Sizes | None:
    chars = [sum(map(len, example.inputs.values())) for example in source.examples]
    return _sizes(source, chars, [user_turn(source.inputs, example.inputs) for example in source.examples])


def _outputs(source: Material) -> Sizes | None:
    outputs = [example.output for example in source.examples]
    return _sizes(source, list(map(len, outputs)), outputs)


def _sizes(source: Material, chars: Sequence[int], sent: Sequence[str]) -> Sizes | None:
    if not chars:
        return None
    return Sizes(_lengths(chars), _lengths([static_tokens(text, source.known) for text in sent]))


def _lengths(values: Sequence[int]) -> Lengths:
    ordered = sorted(values)
    return Lengths(ordered[0], _ranked(ordered, 50), _ranked(ordered, 95), ordered[-1])


def _ranked(ordered: Sequence[int], percent: int) -> int:
    return ordered[-(-percent * len(ordered) // 100) - 1]


def _call(source: Material, system: str, inputs: Sizes | None, outputs: Sizes | None) -> Call:
    static = static_tokens(system, source.known)
    limit = with_output_limit(source).get("max_tokens")
    return Call(
        static=static,
        examples=static - static_tokens(system_prompt(source, ()), source.known),
        input=inputs.tokens.median if inputs else None,
        output=outputs.tokens.median if outputs else None,
        limit=limit if isinstance(limit, int) else None,
    )


def _caching(source: Material, system: str) -> Caching:
    known = source.known
    lifetimes = tuple(Lifetime(rate.ttl, break_even(rate)) for rate in known.cache_rates)
    return Caching(style=known.cache, cacheable=cacheable(system, known), minimum=known.cache_minimum, lifetimes=lifetimes)


def _costs(call: Call, caching: Caching, rates: Rates) -> Costs:
    total, output = call.static + (call.input or 0), call.output or 0
    cached = call.static if caching.cacheable else 0
    return Costs(
        cold=CALLS * rates.cost(Usage(input=total, output=output, written=cached)),
        warm=CALLS * rates.cost(Usage(input=total, output=output, cached=cached)),
        at_limit=None if call.limit is None else CALLS * rates.worst(total, call.limit),
    )


def _dev(source: Material) -> DevPart:
    dev = len(dev_rows(source.visible, source.data_seed))
    return DevPart(dev, len(source.visible) - dev)


# --- the examples -----------------------------------------------------------------------------------------


def _balance(shape: Labels, examples: Sequence[Example]) -> Balance:
    found = Counter(map(_label_of(shape), examples))
    shown = dict.fromkeys([label for label in shape.labels if label in found] + list(found))
    counts = sorted(((label, found[label]) for label in shown), key=lambda pair: -pair[1])
    return Balance(
        counts=tuple(counts),
        ratio=round(counts[0][1] / counts[-1][1], 2),
        missing=tuple(label for label in shape.labels if label not in shown),
        once=tuple(label for label, count in counts if count == 1),
    )


def _fixed(source: Material) -> tuple[str, ...]:
    if len(source.examples) < 2:
        return ()
    return tuple(v.name for v in source.inputs if len({example.inputs[v.name] for example in source.examples}) == 1)


_Group = Sequence[Example]
"""Examples of one normalised input, one for each different output."""
_Pair = tuple[Example, Example]


def _same_inputs(examples: Iterable[Example]) -> list[_Group]:
    groups: dict[tuple[str, ...], dict[str, Example]] = {}
    for example in examples:
        groups.setdefault(_input(example), {}).setdefault(_answer(example), example)
    return [list(group.values()) for group in groups.values()]


def _input(example: Example) -> tuple[str, ...]:
    return tuple(canonical.normalise(text) for _, text in sorted(example.inputs.items()))


def _answer(example: Example) -> str:
    """The output without the differences that do not make another answer."""
    if not example.json:
        return canonical.normalise(example.output)
    return json.dumps(json.loads(example.output, parse_float=_number), sort_keys=True)


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value


def _near(groups: Sequence[_Group]) -> tuple[Near, list[_Pair]]:
    """The near ones among the first examples of different inputs, and the pairs of them with different outputs."""
    firsts = [group[0] for group in groups]
    found = neighbours([" ".join(_input(example)) for example in firsts])
    pairs = [(firsts[row], firsts[other]) for row, other in found.pairs]
    equal = [pair for pair in pairs if _answer(pair[0]) == _answer(pair[1])]
    differing = [pair for pair in pairs if _answer(pair[0]) != _answer(pair[1])]
    listed = [NearPair(place(row), place(other), False) for row, other in differing[:_LISTED]]
    listed += [NearPair(place(row), place(other), True) for row, other in equal[: _LISTED - len(listed)]]
    near = Near(rows=len(pairs), differing=len(differing), pairs=tuple(listed), unfinished=found.unfinished, clipped=found.clipped)
    return near, differing


def _mixed(shape: Labels, pairs: Iterable[_Pair]) -> tuple[Mixed, ...]:
    label = _label_of(shape)
    counted = Counter(tuple(sorted((label(one), label(other)))) for one, other in pairs)
    found = [Mixed(one, other, times) for (one, other), times in counted.items() if one != other]
    return tuple(sorted(found, key=lambda mixed: (-mixed.times, mixed.one, mixed.other)))


def _label_of(shape: Labels) -> Callable[[Example], str]:
    """Reads an example's label, as the contract writes it."""
    written = {normalise_label(label): label for label in shape.labels}
    return lambda example: written.get(normalise_label(example.output), example.output)
