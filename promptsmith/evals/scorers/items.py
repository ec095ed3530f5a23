"""Items of a list in a text, and scorers that compare such lists."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ...contract import find_json, shorten
from .common import Inner
from .protocol import Answer, Grade, Unscored

_BULLET = re.compile(r"^\s*(?:[-*•‣–]|\d{1,4}[.)])\s+")  # noqa: RUF001 - bullets that models write
_SHOWN = 8
_MOST_PAIRS = 1_000_000_000
"""Of a dynamic programme that takes 64 pairs a step."""


def items_of(text: str, separator: str | None = None) -> list[str]:
    """The items of a JSON list, or of a text: its lines when it has several, else what ``;`` or else ``,`` separates.

    Bullets and numbers before lines do not belong to the items; empty items do not count.
    """
    if separator is None:
        listed = _json_list(text)
        if listed is not None:
            return listed
        separator = next((mark for mark in ("\n", ";") if mark in text.strip()), ",")
    parts = (_BULLET.sub("", part).strip() for part in text.split(separator))
    return [part for part in parts if part]


def _json_list(text: str) -> list[str] | None:
    if "[" not in text:
        return None
    try:
        found = find_json(text)
    except ValueError:
        return None
    return [_written(item) for item in found] if isinstance(found, list) else None


def _written(item: Any) -> str:
    if isinstance(item, str):
        return item.strip()
    whole = isinstance(item, float) and item.is_integer()
    return json.dumps(int(item) if whole else item, sort_keys=True, ensure_ascii=False)


def wanted_items(expected: str, separator: str | None = None) -> list[str]:
    """The items of the expected output. Raises :class:`Unscored` when it has none."""
    found = items_of(expected, separator)
    if not found and expected.strip() != "[]":
        raise Unscored("the expected output has no items to look for")
    return found


def shown_items(items: Sequence[str]) -> str:
    """Items in a reason: the first few, and how many more."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(map(shorten, items[:_SHOWN])) + more


def as_set(values: tuple[str, ...] | None, separator: str | None) -> Inner:
    """F1 of the items, each counted once, in any order. Two empty lists are equal."""

    def grade(answer: Answer) -> Grade:
        expected = dict.fromkeys(values or wanted_items(answer.expected, separator))
        found = dict.fromkeys(items_of(answer.output, separator))
        common = sum(item in expected for item in found)
        score = 2 * common / (len(expected) + len(found)) if expected or found else 1.0
        missing = [item for item in expected if item not in found]
        extra = [item for item in found if item not in expected]
        return Grade(score, score == 1.0, _told(len(expected), missing, extra))

    return grade


def as_list(values: tuple[str, ...] | None, separator: str | None) -> Inner:
    """F1 of the items by their longest common subsequence: order and repetition count. Two empty lists are equal."""

    def grade(answer: Answer) -> Grade:
        from collections import Counter

        expected = list(values or wanted_items(answer.expected, separator))
        found = items_of(answer.output, separator)
        common = common_length(expected, found)
        score = 2 * common / (len(expected) + len(found)) if expected or found else 1.0
        missing = list((Counter(expected) - Counter(found)).elements())
        extra = list((Counter(found) - Counter(expected)).elements())
        why = _told(len(expected), missing, extra)
        return Grade(score, score == 1.0, "has the items in another order" if score < 1 and not missing and not extra else why)

    return grade


def common_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence. Raises :class:`Unscored` for sequences too long to compare."""
    if len(one) * len(other) > _MOST_PAIRS:
        raise Unscored(f"{len(one):,} and {len(other):,} items or words are too many to compare")
    from rapidfuzz.distance import LCSseq

    numbers: dict[str, int] = {}
    left, right = ([numbers.setdefault(item, len(numbers)) for item in side] for side in (one, other))
    return LCSseq.similarity(left, right)


def _told(count: int, missing: Sequence[str], extra: Sequence[str]) -> str:
    if not missing and not extra:
        return f"has all {count} items" if count else "is empty, as expected"
    parts = [f"misses {shown_items(missing)}"] if missing else []
    return "; ".join([*parts, f"has {shown_items(extra)}, not expected"] if extra else parts)
