"""Which examples stand in the prompt: chosen within a token budget, in file order, the same for the same seed.

Below ``-O2`` coverage alone chooses; from there the search tries each of :data:`SELECTIONS`. ``coverage`` fills the room
that the task gives. ``nearest`` and ``diverse`` stop at :data:`MOST` examples: every one is paid for with every call, and
with short and long blocks in the same race the scores tell whether the long ones are worth their tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from .. import canonical
from ..catalog.tokens import estimate
from ..contract import Labels
from ..prompt import example_line
from ..task import Example
from .material import Material, pair_of
from .near import Likeness

SELECTIONS = ("none", "coverage", "nearest", "diverse")
"""The ways to choose examples, by name."""
MOST = 12
"""How many examples ``nearest`` and ``diverse`` choose at most."""
COMPARED = 120
"""Among how many examples contrasts are looked for; each is compared with each."""
_FAILURES = 24
"""How many failures ``nearest`` looks at."""
_LENGTHS = 3
_DEPTH = 8
"""How deep a JSON answer's keys are told apart."""

_Shows = frozenset[tuple[str, str | None]]
"""What an answer shows: its label, or its keys (present, absent, with a short value)."""
_Costs = Mapping[int, int]
"""Tokens of an example's line, by ``id()``."""


def examples_for(source: Material) -> list[Example]:
    """The examples that stand in the prompt of ``source``; none in one written by hand."""
    if source.prompt is not None:
        return []
    labels = isinstance(source.contract.shape, Labels)
    return by_coverage(source.examples, tokens=source.example_tokens, seed=source.seed, labels=labels)


def by_coverage(examples: Sequence[Example], *, tokens: int, seed: int, labels: bool = False) -> list[Example]:
    """Examples that cover every kind of answer and every length, at most ``tokens`` together, in file order.

    Examples are grouped by what their answer shows (its label; which keys it has and their short values; its
    length). First come groups that together show everything once, then all groups in turn; each takes its short,
    middle and long inputs by turns, and no two neighbours begin with the same length. All other order is by a digest
    of seed and input, so a label's name has no say in it.
    """
    costs = {id(example): cost(example) for example in examples}
    groups = _groups(examples, _signer(examples, labels), seed)
    showing = _showing_all(list(groups))
    signs = [*showing, *(sign for sign in groups if sign not in set(showing))]
    bounds = _thirds(sorted(map(_input_length, examples)))
    queues = [_mixed_lengths(groups[sign], bounds, number) for number, sign in enumerate(signs)]
    chosen = _one_each(queues[: len(showing)], costs, tokens)
    taken = set(map(id, chosen))
    waiting = [[example for example in queue if id(example) not in taken] for queue in queues[len(showing) :] + queues[: len(showing)]]
    chosen += _in_turn(waiting, costs, tokens - sum(costs[number] for number in taken))
    return _in_file_order(chosen, examples)


def selected(source: Material, name: str, failures: Sequence[Mapping[str, str]] = (), tokens: int | None = None) -> list[Example]:
    """Examples of ``source`` by one of :data:`SELECTIONS`, at most ``tokens`` together (its ``example_tokens``), in file order.

    ``failures`` are the inputs that ``nearest`` keeps close to; without any it chooses nothing. Raises
    :class:`ValueError` for another name.
    """
    if name not in SELECTIONS:
        raise ValueError(f"there is no selection {name!r}, only {', '.join(SELECTIONS)}")
    room = source.example_tokens if tokens is None else tokens
    labels = isinstance(source.contract.shape, Labels)
    if name == "none" or source.prompt is not None:
        return []
    if name == "coverage":
        return by_coverage(source.examples, tokens=room, seed=source.seed, labels=labels)
    if name == "nearest":
        return by_nearness(source.examples, failures, tokens=room)
    return by_distance(source.examples, tokens=room, seed=source.seed, labels=labels)


def by_nearness(examples: Sequence[Example], failures: Sequence[Mapping[str, str]], *, tokens: int, most: int = MOST) -> list[Example]:
    """The examples nearest to ``failures``, which may be among them: at most ``tokens`` and ``most``, in file order.

    Each failure in turn (the first 24) takes the nearest example that is left. For one failure the outputs take turns,
    so next to the nearest example stands the nearest one with another answer: what tells them apart is what was missed.
    """
    likeness = Likeness([_text(example.inputs) for example in examples])
    queues = [_nearest_first(examples, likeness.to(_text(inputs))) for inputs in failures[:_FAILURES]]
    chosen = _in_turn(queues, {id(example): cost(example) for example in examples}, tokens, most)
    return _in_file_order(chosen, examples)


def by_distance(examples: Sequence[Example], *, tokens: int, seed: int, labels: bool = False, most: int = MOST) -> list[Example]:
    """Examples as unlike each other as can be: at most ``tokens`` and ``most``, in file order.

    Farthest-point selection (Gonzalez 1985): next comes the example whose likest chosen one is least like it, of those
    whose kind of answer was chosen least so far. The first one is drawn by the seed; what repeats a chosen one is left.
    """
    shows, likeness = _signer(examples, labels), Likeness([_text(example.inputs) for example in examples])
    signs = [shows(example) for example in examples]
    costs = list(map(cost, examples))
    drawn = [canonical.fraction("diverse", str(seed), canonical.input_digest(example.inputs)) for example in examples]
    likest = [0.0] * len(examples)
    chosen: list[int] = []
    counts: Counter[_Shows] = Counter()
    left = tokens
    while len(chosen) < most:
        open_ = [row for row in range(len(examples)) if costs[row] <= left and likest[row] < 1]
        if not open_:
            break
        best = min(open_, key=lambda row: (counts[signs[row]], likest[row], drawn[row], row))
        chosen.append(best)
        counts[signs[best]] += 1
        left -= costs[best]
        likest = [max(known, likeness.between(best, row)) for row, known in enumerate(likest)]
        likest[best] = 1.0  # one without words is not even like itself
    return [examples[row] for row in sorted(chosen)]


def contrasting(examples: Sequence[Example], *, seed: int, most: int = MOST) -> list[tuple[Example, Example]]:
    """Pairs of examples that are alike and have different outputs, the most alike first, no example twice.

    Of more than 120 examples, as many as that are drawn by the seed and compared.
    """
    drawn = sorted(examples, key=lambda one: canonical.fraction("contrast", str(seed), canonical.input_digest(one.inputs)))[:COMPARED]
    rows = _in_file_order(drawn, examples)
    likeness = Likeness([_text(example.inputs) for example in rows])
    pairs = [(row, other) for row in range(len(rows)) for other in range(row) if rows[row].output != rows[other].output]
    found: list[tuple[Example, Example]] = []
    taken: set[int] = set()
    for row, other in sorted(pairs, key=lambda pair: (-likeness.between(*pair), pair)):
        if len(found) == most:
            break
        if taken.isdisjoint((row, other)):
            taken |= {row, other}
            found.append((rows[other], rows[row]))
    return found


def cost(example: Example) -> int:
    """About how many tokens the example's line takes."""
    return estimate(example_line(pair_of(example))) + 1


# --- taking -----------------------------------------------------------------------------------------------


def _one_each(queues: Sequence[Sequence[Example]], costs: _Costs, tokens: int) -> list[Example]:
    """The first example of each queue that leaves room for the cheapest ones of the queues after it."""
    cheapest = [min(costs[id(example)] for example in queue) for queue in queues]
    reserved, left = sum(cheapest), tokens
    chosen: list[Example] = []
    for queue, least in zip(queues, cheapest, strict=True):
        reserved -= least
        room = min(left, max(left - reserved, least))
        example = next((example for example in queue if costs[id(example)] <= room), None)
        if example is not None:
            chosen.append(example)
            left -= costs[id(example)]
    return chosen


def _in_turn(queues: Sequence[Sequence[Example]], costs: _Costs, tokens: int, most: int | None = None) -> list[Example]:
    """One example of each queue after the other, none twice, until none fits any more or there are ``most``."""
    waiting = [iter(queue) for queue in queues]
    chosen: dict[int, Example] = {}
    left = tokens
    while waiting:
        going = []
        for queue in waiting:
            if most is not None and len(chosen) >= most:
                return list(chosen.values())
            example = next((one for one in queue if costs[id(one)] <= left and id(one) not in chosen), None)
            if example is not None:
                left -= costs[id(example)]
                chosen[id(example)] = example
                going.append(queue)
        waiting = going
    return list(chosen.values())


def _in_file_order(chosen: Sequence[Example], examples: Sequence[Example]) -> list[Example]:
    position = {id(example): number for number, example in enumerate(examples)}
    return sorted(chosen, key=lambda example: position[id(example)])


def _nearest_first(examples: Sequence[Example], likeness: Sequence[float]) -> list[Example]:
    """The examples by their likeness, the outputs taking turns; what has nothing in common is left out."""
    by_output: dict[str, list[Example]] = {}
    for row in sorted(range(len(examples)), key=lambda row: (-likeness[row], row)):
        if likeness[row] > 0:
            by_output.setdefault(examples[row].output, []).append(examples[row])
    return [example for turn in zip_longest(*by_output.values()) for example in turn if example is not None]


def _text(inputs: Mapping[str, str]) -> str:
    return "\n".join(inputs.values())


# --- what answers show ------------------------------------------------------------------------------------


def _groups(examples: Sequence[Example], shows: Callable[[Example], _Shows], seed: int) -> dict[_Shows, list[Example]]:
    """The examples by what they show, groups and members in the order that the seed gives."""
    groups: dict[_Shows, list[Example]] = {}
    for example in sorted(examples, key=lambda one: canonical.fraction("select", str(seed), canonical.input_digest(one.inputs))):
        groups.setdefault(shows(example), []).append(example)
    return groups


def _showing_all(signs: Sequence[_Shows]) -> list[_Shows]:
    """A few of ``signs`` that together show all that any of them shows: greedily the one with most that is new."""
    shown: set[tuple[str, str | None]] = set()
    chosen: list[_Shows] = []
    while signs:
        best = max(signs, key=lambda sign: len(sign - shown))
        if best <= shown:
            break
        chosen.append(best)
        shown |= best
    return chosen


def _signer(examples: Sequence[Example], labels: bool) -> Callable[[Example], _Shows]:
    if not labels and any(example.json for example in examples):
        return _json_signer(examples)
    if labels or len({example.output for example in examples}) * 2 <= len(examples):
        return lambda example: frozenset({("output", example.output)})
    bounds = _thirds(sorted(len(example.output) for example in examples))
    return lambda example: frozenset({("length", str(_bucket(len(example.output), bounds)))})


def _json_signer(examples: Sequence[Example]) -> Callable[[Example], _Shows]:
    leaves = {id(example): list(_leaves(_value(example), "", _DEPTH)) for example in examples}
    seen: dict[str, list[str]] = {}
    for found in leaves.values():
        for path, value in found:
            seen.setdefault(path, []).append(value)
    # Values that repeat are kinds of answers; the others are contents.
    kinds = {path for path, values in seen.items() if len(set(values)) * 2 <= len(values)}

    def shows(example: Example) -> _Shows:
        here = {(path, value if path in kinds else "") for path, value in leaves[id(example)]}
        present = {path for path, _ in here}
        return frozenset(here | {(path, None) for path in seen if path not in present})

    return shows


def _value(example: Example) -> Any:
    return json.loads(example.output) if example.json else example.output


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Every place in a JSON value, with its short value where it is a text or truth value, else its kind."""
    yield path, str(value) if isinstance(value, str | bool) else type(value).__name__
    if depth and isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, f"{path}.{key}", depth - 1)
    elif depth and isinstance(value, list):
        for child in value:
            yield from _leaves(child, f"{path}[]", depth - 1)


# --- lengths ----------------------------------------------------------------------------------------------


def _mixed_lengths(group: Sequence[Example], bounds: Sequence[int], first: int) -> list[Example]:
    """Short, middle and long inputs by turns, beginning with the length that ``first`` says."""
    buckets: list[list[Example]] = [[] for _ in range(_LENGTHS)]
    for example in group:
        buckets[(_bucket(_input_length(example), bounds) - first) % _LENGTHS].append(example)
    mixed: list[Example] = []
    for turn in range(max(map(len, buckets))):
        mixed += [bucket[turn] for bucket in buckets if turn < len(bucket)]
    return mixed


def _input_length(example: Example) -> int:
    return sum(map(len, example.inputs.values()))


def _thirds(lengths: Sequence[int]) -> list[int]:
    return [lengths[len(lengths) * part // _LENGTHS] for part in range(1, _LENGTHS)] if lengths else []


def _bucket(length: int, bounds: Sequence[int]) -> int:
    return sum(length >= bound for bound in bounds)
