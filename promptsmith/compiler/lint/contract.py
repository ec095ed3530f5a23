"""Instructions held against the contract: what they must name, and what they must not ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from ...contract import JsonShape, Labels, TextShape, normalise_label
from .findings import LintFinding
from .reading import Subject, bullet_lists, inline_lists, keys_of, labels_of, named, numbered


def missing_names(subject: Subject) -> Iterator[LintFinding]:
    """Every label, and every key of the schema, must be named."""
    text = subject.text
    for label in labels_of(subject.contract):
        if not named(label, text):
            yield LintFinding("missing-label", 0, f"the label {label!r} is not named")
    for key in keys_of(subject.contract):
        if not named(key, text):
            yield LintFinding("missing-key", 0, f"the key {key!r} is not named")


def foreign_labels(subject: Subject) -> Iterator[LintFinding]:
    """No label outside the contract, recognised by standing in a list with two of its labels."""
    labels = labels_of(subject.contract)
    if len(labels) < 2 or (isinstance(subject.contract.shape, Labels) and subject.contract.shape.allow_other):
        return
    for number, item in strangers(subject.text, labels):
        yield LintFinding("foreign-label", number, f"{item!r} stands among the labels and is none")


def strangers(text: str, names: Collection[str]) -> Iterator[tuple[int, str]]:
    """What stands in a list with two of ``names`` and is none of them, with the number of its line."""
    known = set(map(normalise_label, names))
    for number, items in [*bullet_lists(text), *inline_lists(text)]:
        if sum(normalise_label(item) in known for item in items) < 2:
            continue
        for item in items:
            if normalise_label(item) not in known and len(item.split()) <= 3:
                yield number, item


def foreign_keys(subject: Subject) -> Iterator[LintFinding]:
    """No JSON key outside the contract."""
    known = set(keys_of(subject.contract))
    if not known:
        return
    for number, line in numbered(subject.text):
        for key in re.findall(r'"([A-Za-z_][\w-]*)"\s*:', line):
            if key not in known:
                yield LintFinding("foreign-key", number, f"the key {key!r} is not in the schema")


_LIMIT = re.compile(
    r"(?i)\b(at most|no more than|maximum(?: of)?|max\.?|up to|under|fewer than|less than|within|limit(?:ed)? to|at least|"
    r"minimum(?: of)?|no fewer than|more than|exactly)\s+(?:of\s+)?(\d+|one|two|three|four|five|six|ten|twenty|fifty|(?:a )?hundred)\s*"
    r"(?:-\s*)?(words?|characters?|sentences?|lines?|paragraphs?|tokens?)\b"
)
_LOWER = ("at least", "minimum", "minimum of", "no fewer than", "more than")
_NUMBERS = {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "ten": 10,
    "twenty": 20,
    "fifty": 50,
    "hundred": 100,
    "a hundred": 100,
}


class Limit(NamedTuple):
    """A limit that a text states."""

    said: str
    value: int
    unit: str
    """In the singular: word, character, sentence, line, paragraph, token."""
    least: bool
    most: bool
    start: int


def limits_in(text: str) -> Iterator[Limit]:
    """The limits that ``text`` states; of what is exact both ends are one."""
    for match in _LIMIT.finditer(text):
        bound, count = match[1].lower(), match[2].lower()
        least = bound in _LOWER or bound == "exactly"
        most = bound not in _LOWER
        yield Limit(match[0], int(count) if count.isdigit() else _NUMBERS[count], match[3].lower().rstrip("s"), least, most, match.start())


def foreign_limits(subject: Subject) -> Iterator[LintFinding]:
    """No other limit than the contract's: a made-up one makes right answers wrong."""
    allowed = _allowed_limits(subject)
    for number, line in numbered(subject.text):
        for limit in limits_in(line):
            if (limit.value, limit.unit) not in allowed:
                yield LintFinding("foreign-limit", number, f"{limit.said!r} is no limit of the contract")


def _allowed_limits(subject: Subject) -> set[tuple[int, str]]:
    units = {"words": "word", "chars": "character", "lines": "line"}
    shape = subject.contract.shape
    allowed: set[tuple[int, str]] = set()
    if isinstance(shape, TextShape):
        for name in shape.__struct_fields__:
            value = getattr(shape, name)
            if isinstance(value, int):
                allowed.add((value, units[name.partition("_")[2]]))
    for check in subject.contract.checks:
        if check.kind in ("max_words", "min_words"):
            allowed.add((int(check.value), "word"))
    own = f"{subject.description}\n{subject.allowed}"
    allowed |= {(limit.value, limit.unit) for limit in limits_in(own)}
    if isinstance(shape, Labels):
        # "one word" describes an answer of one-word labels.
        allowed |= {(len(label.split()), "word") for label in shape.labels}
        allowed.add((1, "line"))
    if isinstance(shape, JsonShape):
        allowed |= _schema_limits(json.loads(shape.schema))
    return allowed


def _schema_limits(schema: Any) -> set[tuple[int, str]]:
    if isinstance(schema, list):
        return {limit for item in schema for limit in _schema_limits(item)}
    if not isinstance(schema, dict):
        return set()
    found = {(value, "character") for name, value in schema.items() if name in ("maxLength", "minLength") and isinstance(value, int)}
    return found | {limit for value in schema.values() for limit in _schema_limits(value)}


_WANTS_MORE = re.compile(
    r"(?i)\b(explain(?: your| the| why)?|justify|give (?:a |your )?reason(?:s|ing)?|provide (?:a |an |your )?(?:reason|reasoning|explanation|"
    r"justification|confidence)|include (?:a |an |your )?(?:reason|reasoning|explanation|justification|confidence|rationale)|"
    r"show your (?:work|reasoning)|think (?:out loud|aloud)|step[- ]by[- ]step (?:reasoning|explanation)|followed by (?:a |an )?(?:short |brief )?"
    r"(?:reason|explanation|justification)|add a (?:comment|note|summary))"
)
_MARKDOWN = re.compile(
    r"(?i)\b(?:use|in|as|with|format(?:ted)?(?: your answer)? (?:in|as|using)|wrap(?:ped)? in|inside|return)\s+(?:a |an )?"
    r"(?:markdown|bold|bullet points?|headings?|code (?:block|fence)s?|json code block)\b|\bmarkdown (?:table|list|format|code)\b"
)
_NEGATION = re.compile(
    r"(?i)\b(?:do not|don't|never|without|no|not|avoid|instead of|neither|nor|must not|should not|refrain|forbidden|rather than|omit)\b"
)


_OF_DATA = re.compile(
    r"(?i)(?:explain(?: the)?|justify)(?!\s+(?:(?:your|the|its|this)\s+)?(?:answer|label|choice|decision|reasoning|classification)\b)"
)
"""What may also be said of the inputs ("customers who want us to explain the bill"), unless it goes on as an order about the answer."""


def asks_for_more(subject: Subject) -> Iterator[LintFinding]:
    """No explanation and no markdown where the contract wants a label or JSON alone.

    The contract alone decides: a task that says "explain your answer" has one that does not allow it. Only what may be
    said of the inputs is no fault when the task says it too, and what asks for a key of the schema.
    """
    if isinstance(subject.contract.shape, TextShape):
        return
    own = f"{subject.description}\n{subject.allowed}".lower()
    keys = {key.casefold() for key in keys_of(subject.contract)}
    for number, line in numbered(subject.text):
        for pattern, code, what in (
            (_WANTS_MORE, "asks-to-explain", "asks for more than the answer"),
            (_MARKDOWN, "asks-for-markdown", "asks for markdown"),
        ):
            for match in pattern.finditer(line):
                of_data = match[0].lower() in own and _OF_DATA.match(line, match.start())
                if not is_negated(line, match.start()) and not of_data and keys.isdisjoint(match[0].casefold().split()):
                    yield LintFinding(code, number, f"{what} ({match[0]!r}), which the contract forbids")


def is_negated(text: str, end: int) -> bool:
    """Whether the sentence that stands before ``end`` says no ("do not …")."""
    return _NEGATION.search(re.split(r"[.!?;:]", text[:end])[-1]) is not None
