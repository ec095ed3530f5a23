"""Scorers of JSON: against a schema, and against the expected value path by path."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ...contract import Contract, JsonShape, find_json, json_path, shorten, validator
from .common import Inner, plain
from .protocol import Answer, Grade, Unscored

_MOST_PATHS = 20
"""Paths that a reason names; the rest is counted."""
_MOST_LEAVES = 2000
_MOST_DEEP = 50
_MOST_ALIGNED = 200
_MOST_PAIRED = 900
"""What deepdiff is given: in all, and in lists. It takes up to half a second then, and minutes for ten times as much."""

Path = tuple[str | int, ...]


def json_schema(schema: str) -> Inner:
    """Passes when the JSON in the output satisfies ``schema`` (JSON text)."""
    judge = validator(Contract(JsonShape(schema)))

    def grade(answer: Answer) -> Grade:
        reasons = judge(answer.output).reasons
        return plain(not reasons, "; ".join(reasons[:_MOST_PATHS]) or "satisfies the schema")

    return grade


class Difference(NamedTuple):
    """One place where two values differ; :data:`MISSING` stands for what one side has not."""

    path: Path
    expected: Any
    got: Any

    @property
    def weight(self) -> int:
        """How many parts differ here."""
        return max(leaves(self.expected), leaves(self.got))

    def told(self) -> str:
        """The difference in words."""
        place = shown_path(self.path)
        if self.got is MISSING:
            return f"{place}: missing, expected {_shown(self.expected)}"
        if self.expected is MISSING:
            return f"{place}: not expected, got {_shown(self.got)}"
        return f"{place}: expected {_shown(self.expected)}, got {_shown(self.got)}"


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()
IGNORED = _Missing()
"""Stands for what does not count, on both sides."""


def shown_path(path: Path) -> str:
    """A path in words; ``$`` is the whole value."""
    return json_path(list(path)) or "$"


def _shown(value: Any) -> str:
    if isinstance(value, dict | list) and leaves(value) > 20:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {leaves(value)} parts"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _parts(value: Any) -> Iterator[tuple[Any, int]]:
    """Every scalar and empty container in ``value``, and how deep it is. Not recursive: JSON may be nested a thousand deep."""
    stack = [(value, 0)]
    while stack:
        one, depth = stack.pop()
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        if inner:
            stack += [(item, depth + 1) for item in inner]
        else:
            yield one, depth


def leaves(value: Any) -> int:
    """How many scalars and empty containers ``value`` is made of; what is missing or ignored is none."""
    return sum(one is not MISSING and one is not IGNORED for one, _ in _parts(value))


def _deep(value: Any) -> bool:
    return any(depth > _MOST_DEEP for _, depth in _parts(value))


# --- comparing --------------------------------------------------------------------------------------------


class Rules(NamedTuple):
    """How values are compared."""

    tolerance: float = 0.0
    relative: float = 0.0
    ignore_order: bool = False

    def same(self, expected: Any, got: Any) -> bool:
        """Whether two scalars are equal: 1 is 1.0 but not true, and numbers may lie within the tolerance."""
        if _is_number(expected) and _is_number(got):
            return expected == got or self._near(expected, got)
        return type(expected) is type(got) and expected == got

    def _near(self, expected: float, got: float) -> bool:
        try:
            return bool(abs(expected - got) <= max(self.tolerance, self.relative * abs(expected)))
        except OverflowError:  # an integer beyond floats
            return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def differences(expected: Any, got: Any, rules: Rules) -> list[Difference]:
    """Every place where ``got`` is not ``expected``; empty when they are equal.

    Lists are compared place by place, or without order as bags. Where they differ, deepdiff may align or pair their
    items better; it is asked within bounds (it can take minutes for some thousand items), and the better account counts.
    """
    if _alike(expected, got):
        return []
    # Bags need a canonical form, which is written recursively.
    bags = rules.ignore_order and not (_deep(expected) or _deep(got))
    found = list(_place_by_place(expected, got, rules, bags=bags))
    if not any(isinstance(step, int) for one in found for step in one.path) or _deep(expected) or _deep(got):
        return found
    if not _within_bounds(expected, got, rules):
        return found
    aligned = _aligned(expected, got, rules)
    return found if aligned is None or _lost(aligned) >= _lost(found) else aligned


def _alike(expected: Any, got: Any) -> bool:
    """Whether two values are written alike, which most right answers are: a quick look before the long one."""
    try:
        return repr(expected) == repr(got)
    except RecursionError:
        return False


def _lost(found: Sequence[Difference]) -> int:
    return sum(one.weight for one in found)


def _place_by_place(expected: Any, got: Any, rules: Rules, *, bags: bool) -> Iterator[Difference]:
    stack: list[tuple[Path, Any, Any]] = [((), expected, got)]
    while stack:
        path, one, other = stack.pop()
        if isinstance(one, dict) and isinstance(other, dict) and (bool(one) == bool(other)):
            pairs: list[tuple[str | int, Any, Any]] = [(key, one.get(key, MISSING), other.get(key, MISSING)) for key in {**one, **other}]
        elif isinstance(one, list) and isinstance(other, list) and (bool(one) == bool(other)):
            pairs = list(_unmatched(one, other) if bags else _by_index(one, other))
        else:
            if not _same_part(one, other, rules):
                yield Difference(path, one, other)
            continue
        stack += [((*path, step), left, right) for step, left, right in reversed(pairs)]


def _same_part(one: Any, other: Any, rules: Rules) -> bool:
    if isinstance(one, _Missing) or isinstance(other, _Missing):
        return leaves(one) == leaves(other) == 0
    if isinstance(one, dict | list) or isinstance(other, dict | list):
        return False
    return rules.same(one, other)


def _by_index(one: list[Any], other: list[Any]) -> Iterator[tuple[int, Any, Any]]:
    for index in range(max(len(one), len(other))):
        yield index, one[index] if index < len(one) else MISSING, other[index] if index < len(other) else MISSING


def _unmatched(one: list[Any], other: list[Any]) -> Iterator[tuple[int, Any, Any]]:
    """Items that have no equal on the other side, by their index there; one pair when each side has one left."""
    left, right = ([repr(_plain(item)) for item in side] for side in (one, other))
    spare_left, spare_right = Counter(left) - Counter(right), Counter(right) - Counter(left)
    missing = [index for index, text in enumerate(left) if _take(spare_left, text)]
    extra = [index for index, text in enumerate(right) if _take(spare_right, text)]
    if len(missing) == len(extra) == 1:
        yield missing[0], one[missing[0]], other[extra[0]]
        return
    for index in missing:
        yield index, one[index], MISSING
    for index in extra:
        yield index, MISSING, other[index]


def _take(spare: Counter[str], text: str) -> bool:
    if spare[text] <= 0:
        return False
    spare[text] -= 1
    return True


def _plain(value: Any) -> Any:
    """``value`` so that equal JSON is equal in Python and the other way round: keys in order, 1.0 as 1, true as no number."""
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _within_bounds(expected: Any, got: Any, rules: Rules) -> bool:
    if leaves(expected) + leaves(got) > _MOST_LEAVES:
        return False
    longest = _longest_list(expected), _longest_list(got)
    # Without order each left item of a list is compared with each other one, as a diff of its own.
    return longest[0] * longest[1] <= _MOST_PAIRED if rules.ignore_order else max(longest) <= _MOST_ALIGNED


def _longest_list(value: Any) -> int:
    longest, stack = 0, [value]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            longest = max(longest, len(one))
        stack += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return longest


def _aligned(expected: Any, got: Any, rules: Rules) -> list[Difference] | None:
    """What deepdiff finds, or ``None`` when it can't compare these values (an integer beyond floats, a lone surrogate)."""
    from deepdiff import DeepDiff

    options: dict[str, Any] = {"view": "tree", "threshold_to_diff_deeper": 0, "ignore_private_variables": False}
    if rules.ignore_order:
        options |= {"ignore_order": True, "report_repetition": True, "cutoff_intersection_for_pairs": 1, "cutoff_distance_for_pairs": 1}
    try:
        tree = DeepDiff(_plain(expected), _plain(got), **options)
        levels = [(kind, level) for kind, found in tree.items() for level in found]
        listed = [one for kind, level in levels for one in _told_by(kind, level)]
    except Exception:  # whatever it can't do, place by place can
        return None
    return [one for one in listed if not _same_part(one.expected, one.got, rules)]


def _told_by(kind: str, level: Any) -> Iterator[Difference]:
    path = tuple(level.path(output_format="list"))
    if kind == "repetition_change":
        repetition = level.additional["repetition"]
        more, fewer = repetition["new_repeat"] - repetition["old_repeat"], repetition["old_repeat"] - repetition["new_repeat"]
        yield from (Difference(path, MISSING, _json(level.t1)) for _ in range(more))
        yield from (Difference(path, _json(level.t1), MISSING) for _ in range(fewer))
        return
    removed, added = kind.endswith("_removed"), kind.endswith("_added")
    yield Difference(path, MISSING if added else _json(level.t1), MISSING if removed else _json(level.t2))


def _json(value: Any) -> Any:
    """:func:`_plain` turned back, but for numbers."""
    if isinstance(value, bytes):
        return value == b"true"
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, list) else value


# --- what does not count ----------------------------------------------------------------------------------


def without(value: Any, steps: Sequence[str | int | None]) -> Any:
    """``value`` without what stands at a path (``None`` is every item or key); a list keeps its length."""
    if not steps:
        return IGNORED
    step, rest = steps[0], steps[1:]
    if isinstance(value, dict):
        changed = {key: without(item, rest) if step is None or step == key else item for key, item in value.items()}
        return {key: item for key, item in changed.items() if item is not IGNORED}
    if isinstance(value, list):
        return [without(item, rest) if step is None or step == index else item for index, item in enumerate(value)]
    return value


# --- the scorer -------------------------------------------------------------------------------------------


def json_diff(rules: Rules, ignore: Sequence[Sequence[str | int | None]], *, typed: bool) -> Inner:
    """The share of the expected value's parts that the output has, among the parts of both; passes when it has all and no other.

    A part is a scalar or an empty container. ``typed`` says that the contract reads outputs as JSON already.
    """

    def counted(value: Any) -> Any:
        for steps in ignore:
            value = without(value, steps)
        return value

    def grade(answer: Answer) -> Grade:
        try:
            expected = json.loads(answer.expected)
        except (ValueError, RecursionError):
            raise Unscored(f"the expected output {shorten(answer.expected)} is not JSON") from None
        try:
            got = answer.value if typed and answer.value is not None else find_json(answer.output)
        except ValueError as error:
            what = f"{shorten(answer.output)} " if answer.output.strip() else ""
            return plain(False, f"{what}{error}", paths={"$": 0.0})
        expected, got = counted(expected), counted(got)
        found = differences(expected, got, rules)
        if not found:
            return plain(True, "is the expected JSON")
        lost = _lost(found)
        kept = max(0, leaves(expected) - sum(leaves(one.expected) for one in found))
        return Grade(kept / (kept + lost), False, _reason(found), {shown_path(one.path): 0.0 for one in found[: 5 * _MOST_PATHS]})

    return grade


def _reason(found: Sequence[Difference]) -> str:
    more = f"; and {len(found) - _MOST_PATHS} more" if len(found) > _MOST_PATHS else ""
    return "; ".join(one.told() for one in found[:_MOST_PATHS]) + more
