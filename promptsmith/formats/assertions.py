"""promptfoo's assertions as our scorers (promptfoo.dev, "Assertions & metrics").

An assertion that all cases share becomes a scorer with its value. One of the same kind with another value in each case
becomes the case's expected output, graded by the scorer of that kind. Everything else is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ..contract import bad_regex, shorten
from ..task import Where
from .values import Notes

_TEXTS: Mapping[str, tuple[str, bool]] = {
    "equals": ("exact", False),
    "contains": ("contains", False),
    "icontains": ("contains", True),
    "contains-all": ("contains_all", False),
    "icontains-all": ("contains_all", True),
    "contains-any": ("contains_any", False),
    "icontains-any": ("contains_any", True),
    "starts-with": ("starts_with", False),
    "regex": ("regex", False),
}
"""Assertions about the text: our scorer, and whether case is ignored."""
_LISTS = ("contains-all", "icontains-all", "contains-any", "icontains-any")
_EXPECTED_FIRST = ("equals", "contains", "icontains", "starts-with", "similar", "levenshtein", "rouge-n", "contains-all", "icontains-all")
"""Kinds that can be a case's expected output, the plainest first."""
_NEAR = {
    "similar": ("fuzzy", 0.75, "compares by embeddings there, by edit distance here"),
    "levenshtein": ("fuzzy", None, "counts edits there, measures a share of the text here"),
    "rouge-n": ("rouge_l", 0.75, "counts n-grams there, the longest common subsequence here"),
}
"""Assertions with a scorer that is like them and not the same; the threshold that promptfoo has by default."""


class Assertion(msgspec.Struct, frozen=True, kw_only=True):
    """One assertion as written. ``value`` is text, a number, a list or a mapping; ``more`` what it carries besides."""

    type: str
    value: Any = None
    negated: bool = False
    threshold: float | None = None
    weight: float | None = None
    metric: str = ""
    grader: str = ""
    where: Where = Where()

    @property
    def told(self) -> str:
        return f"the assertion {'not-' * self.negated}{self.type}"

    def same(self) -> str:
        """What two assertions have in common that say the same."""
        return repr((self.type, self.value, self.negated, self.threshold, self.weight, self.metric))

    def kind(self) -> str:
        """:meth:`same`, the value aside."""
        return repr((self.type, self.negated, self.threshold, self.weight, self.metric))


class Graded(msgspec.Struct, frozen=True, kw_only=True):
    """Scorers for all cases, and each case's expected output (``None`` where it has none)."""

    scorers: tuple[Any, ...]
    expected: tuple[Any, ...]


def graded(cases: Sequence[Sequence[Assertion]], shared: Sequence[Assertion], notes: Notes) -> Graded:
    """What the assertions of all ``cases``, and those ``shared`` by all, come to."""
    common = [first for first in (cases[0] if cases else ()) if len(cases) > 1 and all(_holds(case, first) for case in cases)]
    telling = _telling(cases, common) or _telling(cases, [])
    said = {one.same() for one in common if telling is None or one.kind() != telling.kind()}
    expected: list[Any] = []
    for case in cases:
        answer = None
        for one in case:
            if telling is not None and one.kind() == telling.kind() and answer is None:
                answer = _as_output(one)
            elif one.same() not in said:
                notes.left(one.where, f"{one.told} holds for this case alone; it is not carried over")
        expected.append(answer)
    everywhere = [*shared, *(one for one in common if one.same() in said)]
    scorers = [scorer for one in everywhere if (scorer := scorer_of(one, notes)) is not None]
    if telling is not None and (scorer := scorer_of(telling, notes, with_value=False)) is not None:
        scorers.insert(0, scorer)
    return Graded(scorers=tuple(_each_once(scorers)), expected=tuple(expected))


def _holds(case: Iterable[Assertion], one: Assertion) -> bool:
    return any(other.same() == one.same() for other in case)


def _telling(cases: Sequence[Sequence[Assertion]], aside: Sequence[Assertion]) -> Assertion | None:
    """The first assertion of the kind that says in every case what is expected there."""
    without = {one.same() for one in aside}
    # A case that asserts nothing of its own has no expected output, and says nothing about the kind either.
    own = [said for case in cases if (said := [one for one in case if one.same() not in without])]
    for kind in _EXPECTED_FIRST:
        found = [next((one for one in case if one.type == kind), None) for case in own]
        first = found[0] if found else None
        if first is None or first.negated or not all(one is not None and one.kind() == first.kind() for one in found):
            continue
        if all(one is not None and _as_output(one) is not None for one in found):
            return first
    return None


def _as_output(one: Assertion) -> Any:
    if one.type in _LISTS:
        items = [str(item) for item in one.value] if isinstance(one.value, list) else []
        return ("\n" if any("," in item for item in items) else ", ").join(items) or None
    if isinstance(one.value, dict | list):
        return one.value if one.type == "equals" else None
    return None if one.value is None or not str(one.value).strip() else str(one.value)


def _each_once(scorers: Sequence[Any]) -> list[Any]:
    return [scorer for at, scorer in enumerate(scorers) if scorer not in scorers[:at]]


# --- one assertion ----------------------------------------------------------------------------------------


_Made = tuple[str, dict[str, Any]]
"""A scorer's name and its own options."""


class _NoScorer(Exception):
    """There is no scorer that grades so; says why."""


def scorer_of(one: Assertion, notes: Notes, *, with_value: bool = True) -> Any:
    """The scorer that grades as ``one`` asserts, as a task file has it; ``None`` (and noted) when there is none.

    ``with_value`` is false when the value stands in each case as its expected output.
    """
    try:
        name, options = _make(one, notes, with_value=with_value)
    except _NoScorer as error:
        notes.left(one.where, f"{one.told} is not carried over: {error}")
        return None
    if not with_value:
        options.pop("value", None)
    said = {"not": one.negated or None, "weight": one.weight, "name": one.metric or None}
    options |= {key: value for key, value in said.items() if value is not None}
    return {name: options} if options else name


def _make(one: Assertion, notes: Notes, *, with_value: bool) -> _Made:
    if isinstance(one.value, str) and one.value.startswith("file://"):
        raise _NoScorer(f"it reads {shorten(one.value)}")
    if one.type in _TEXTS:
        return _about_text(one, with_value=with_value)
    if one.type in _NEAR:
        return _near(one, notes)
    maker = _MAKERS.get(one.type)
    if maker is None:
        raise _NoScorer("there is no scorer for it")
    return maker(one, notes)


def _about_text(one: Assertion, *, with_value: bool) -> _Made:
    name, ignore = _TEXTS[one.type]
    if one.value is None:
        raise _NoScorer("it names no value")
    if one.type == "regex":
        if problem := bad_regex(str(one.value)):
            raise _NoScorer(f"{shorten(str(one.value))} is no regular expression in Python ({problem})")
        return name, {"value": one.value}
    if one.type == "equals" and isinstance(one.value, dict | list):
        if with_value:
            raise _NoScorer("json_diff compares with the expected output of a case, and with no other value")
        return "json_diff", {}
    return name, {"value": one.value, "ignore_case": True} if ignore else {"value": one.value}


def _near(one: Assertion, notes: Notes) -> _Made:
    name, threshold, how = _NEAR[one.type]
    notes.left(one.where, f"{one.told} becomes {name}, which is not the same: {one.type} {how}")
    if one.type == "levenshtein" and one.threshold is not None:
        notes.left(one.where, f"the threshold {one.threshold:g} of levenshtein is a count of edits; it is left out")
    elif one.threshold is not None:
        threshold = one.threshold
    return name, {"value": one.value} if threshold is None else {"value": one.value, "threshold": threshold}


def _json(one: Assertion, notes: Notes) -> _Made:
    if isinstance(one.value, str) and one.value.strip():
        raise _NoScorer(f"{shorten(one.value)} is no JSON Schema")
    if one.type == "contains-json":
        notes.left(one.where, f"{one.told} becomes json_schema, which wants the JSON to be the answer and not a part of it")
    return "json_schema", {"schema": one.value if isinstance(one.value, dict) else True}


def _words(one: Assertion, _notes: Notes) -> _Made:
    limits = _word_limit(one.value)
    if not limits:
        raise _NoScorer("it names no number of words")
    return "word_limit", limits


def _ceiling(one: Assertion, _notes: Notes) -> _Made:
    if one.threshold is None:
        raise _NoScorer("it names no threshold")
    return one.type, {"max": one.threshold / 1000 if one.type == "latency" else one.threshold}  # milliseconds there


def _judge(one: Assertion, notes: Notes) -> _Made:
    if not isinstance(one.value, str) or not one.value.strip():
        raise _NoScorer("its rubric is no text")
    if one.threshold is not None:
        notes.left(one.where, f"the threshold {one.threshold:g} of {one.type} is left out: a judge has a pass mark on its own scale")
    if not one.grader:
        raise _NoScorer("it names no model that could be the judge; import again with --judge endpoint/model")
    return "judge", {"criteria": one.value, "model": one.grader}


_MAKERS: Mapping[str, Callable[[Assertion, Notes], _Made]] = {
    "is-json": _json,
    "contains-json": _json,
    "word-count": _words,
    "latency": _ceiling,
    "cost": _ceiling,
    "llm-rubric": _judge,
    "g-eval": _judge,
    "model-graded-closedqa": _judge,
}


def _word_limit(value: Any) -> dict[str, int]:
    if isinstance(value, dict):
        return {name: int(value[name]) for name in ("min", "max") if isinstance(value.get(name), int)}
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    return {"min": value, "max": value} if isinstance(value, int) and not isinstance(value, bool) else {}


# --- the other way ----------------------------------------------------------------------------------------

_BACK: Mapping[str, str] = {"max_words": "word-count", "min_words": "word-count", "contains": "icontains", "not_contains": "not-icontains"}


def from_checks(checks: Iterable[Any]) -> list[dict[str, Any]]:
    """A contract's checks as assertions; all of them have one."""
    found = []
    for check in checks:
        value: Any = {check.kind[:3]: check.value} if check.kind.endswith("_words") else check.value
        found.append({"type": _BACK.get(check.kind, check.kind), "value": value})
    return found
