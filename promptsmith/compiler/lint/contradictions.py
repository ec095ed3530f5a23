"""Instructions that contradict the contract or each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ...contract import JsonShape, Labels, TextShape, normalise_label
from .contract import Limit, is_negated, limits_in, strangers
from .findings import LintFinding
from .reading import Subject, labels_of, named, numbered, sentences

_UNSURE = re.compile(
    r"(?i)\b(?:none|nothing|no label|no category|unsure|not sure|uncertain|unclear|in doubt|otherwise|can(?:'|no)t (?:tell|decide)|else)\b"
)
_ANSWER = r"(?:^|[,:]\s*|\b(?:then|and|must|should|please)\s+)(?:answer|say|return|reply|respond|write|output|use|choose|pick|label it|classify it)(?: it)?(?: with| as| only)?(?: the label)?\s+"
_QUOTED_ANSWER = re.compile(rf"(?i){_ANSWER}[\"'`“]([^\"'`“”\n]{{1,40}})[\"'`”]")
_BARE_ANSWER = re.compile(rf"(?i){_ANSWER}([\w-]+(?: [\w-]+){{0,2}})(?: instead)?\s*[.;!]?$")
_NO_NAMES = frozenset("a an and as by exactly it no none nothing of one only only that the them this to what whichever with your".split())


def labels_in_prose(subject: Subject) -> Iterator[LintFinding]:
    """No label outside the contract at the end of a sentence such as "classify it as positive, negative or mixed"."""
    labels = labels_of(subject.contract)
    if not labels or (isinstance(subject.contract.shape, Labels) and subject.contract.shape.allow_other):
        return
    known = set(map(normalise_label, labels))
    for number, line in numbered(subject.text):
        for match in _ALTERNATIVES.finditer(line):
            names = [normalise_label(name) for name in re.findall(r"[\w-]+", match[1])]
            if sum(name in known for name in names) >= 2 and normalise_label(match[2]) not in known:
                yield LintFinding("foreign-label", number, f"{match[2]!r} stands among the labels and is none")


_ALTERNATIVES = re.compile(
    r"\b(?:as|be|between|from|is|of|with|answer|choose|return|say|write)\s+((?:[\w-]+,\s*)+[\w-]+),?\s+or\s+[\"'`]?([\w-]+)"
)


def foreign_values(subject: Subject) -> Iterator[LintFinding]:
    """No value of a key beside those of the schema, recognised by standing in a list with two of them."""
    if not isinstance(subject.contract.shape, JsonShape):
        return
    enums = list(_enums(json.loads(subject.contract.shape.schema)))
    known = {normalise_label(value) for values in enums for value in values}
    for values in enums:
        for number, item in strangers(subject.text, values):
            if normalise_label(item) not in known:
                yield LintFinding("foreign-value", number, f"{item!r} stands among the values {', '.join(values)} and is none")


def _enums(schema: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(schema, list):
        for item in schema:
            yield from _enums(item)
    elif isinstance(schema, dict):
        texts = [value for value in schema.get("enum", ()) if isinstance(value, str)]
        if len(texts) > 1:
            yield tuple(texts)
        for child in schema.values():
            yield from _enums(child)


def foreign_answers(subject: Subject) -> Iterator[LintFinding]:
    """No order to answer, when nothing fits or at all, with what is no label."""
    shape = subject.contract.shape
    if not isinstance(shape, Labels) or shape.allow_other:
        return
    for number, sentence in sentences(subject.text):
        quoted = list(_QUOTED_ANSWER.finditer(sentence))
        bare = [] if quoted or not _UNSURE.search(sentence) else list(_BARE_ANSWER.finditer(sentence))
        for match in quoted + bare:
            if not is_negated(sentence, match.start()) and _is_foreign(match[1], subject):
                yield LintFinding("foreign-answer", number, f"tells the model to answer {match[1]!r}, which is no label")


def _is_foreign(answer: str, subject: Subject) -> bool:
    words = answer.casefold().split()
    if words[0] in _NO_NAMES or len(words) > 3:
        return False
    return not any(named(label, answer) or normalise_label(label) == normalise_label(answer) for label in labels_of(subject.contract))


# --- one instruction against another ----------------------------------------------------------------------

_REASONS = re.compile(
    r"(?i)\b(?:explain|justify)(?: your| the)? (?:answer|choice|decision|label|reasoning|classification|thinking)\b|\bexplain why\b|"
    r"\b(?:give|include|provide|add|write)\s+(?:(?:a|an|the|your|short|brief|one)\s+)*(?:reason|reasoning|explanation|justification|rationale)\b|"
    r"\bshow your (?:work|reasoning)\b|\bthink (?:aloud|out loud)\b"
)
_ALONE = re.compile(
    r"(?i)\b(?:and nothing else|without (?:any |an )?(?:explanation|reasoning|justification)|no (?:explanation|reasoning|justification)|"
    r"only the (?:label|answer|word|category|result)|(?:label|answer|word|category|result) (?:only|alone)|(?:one|a single) word\b)"
)
_MARKDOWN = re.compile(r"(?i)\b(?:use|in|as|with)\s+(?:a )?(?:markdown|bullet points?|bold|headings)\b|\bmarkdown (?:table|list)\b")
_NO_MARKDOWN = re.compile(
    r"(?i)\b(?:no|without|never use|do not use|don't use|avoid)\s+(?:any )?(?:markdown|bullet points?|bold|headings)\b|\bplain text only\b"
)
_AS_JSON = re.compile(r"(?i)\b(?:answer|respond|reply|return|output|write|format)\b[^.;:]{0,40}\bJSON\b")
_NO_JSON = re.compile(
    r"(?i)\b(?:no|not|never|without|don't)\s+(?:(?:use|answer|reply|return|write|output|any|as|in|with)\s+){0,3}JSON\b|\bplain text only\b"
)
_OPPOSITES = (
    ("wants a reason", _REASONS, "wants the answer alone", _ALONE),
    ("wants markdown", _MARKDOWN, "forbids it", _NO_MARKDOWN),
    ("wants JSON", _AS_JSON, "forbids it", _NO_JSON),
)
_OF_THE_ANSWER = frozenset(
    "a always an and answer answers be concise contain exactly have has in is it its keep length limit make may must of output please reply replies respond "
    "response responses should stay text the to total use with write your".split()
)
_SPOKEN = re.compile(
    r"(?i)\b(?:answer|reply|respond|write)\b[^.;:]{0,30}\bin (English|German|French|Spanish|Italian|Portuguese|Dutch|Polish|Chinese|Japanese|Korean)\b"
)
_CONDITION = re.compile(r"(?i)\b(?:if|when|unless|otherwise|except|for|or|whichever|same)\b")
_OTHER_FORM = re.compile(
    r"(?i)\b(?:answer|respond|reply|return|output|write|format)\b[^.;:]{0,40}?\b(?:in|as|with|an?|valid|plain)\s+(JSON|XML|YAML|CSV|HTML|table|plain text|full sentences?|single word|paragraph|list)\b"
)
_FORMS_OF_JSON = frozenset({"json", "list", "table"})
"""What a JSON answer may be called."""
_FORMS_OF_LABELS = frozenset({"single word", "plain text"})
_CAPITALS = re.compile(r"(?i)\b(?:in|use|as)\s+(?:all[- ])?(?:upper[- ]?case|caps|capitals|capital letters)\b")


def contradictions(subject: Subject) -> Iterator[LintFinding]:
    """No two instructions of which one can't be followed, and none that the contract rules out."""
    said = list(sentences(subject.text))
    yield from _against_form(subject, said)
    yield from _limits_at_odds(said)
    yield from _two_languages(said)
    if isinstance(subject.contract.shape, TextShape):  # for the others the contract decides, by faults of their own
        yield from _opposites(said)


def _against_form(subject: Subject, said: list[tuple[int, str]]) -> Iterator[LintFinding]:
    shape = subject.contract.shape
    if isinstance(shape, TextShape):
        return
    wanted = "a label" if isinstance(shape, Labels) else "JSON"
    for number, sentence in said:
        for match in _OTHER_FORM.finditer(sentence):
            form = match[1].lower()
            fits = form in _FORMS_OF_JSON if isinstance(shape, JsonShape) else form in _FORMS_OF_LABELS
            if not fits and not is_negated(sentence, match.end()):
                yield LintFinding("contradiction", number, f"asks for {match[1]}, and the contract wants {wanted}")
        capitals = _CAPITALS.search(sentence)
        if capitals and not is_negated(sentence, capitals.start()) and any(label != label.upper() for label in labels_of(subject.contract)):
            yield LintFinding("contradiction", number, "asks for capitals, and the labels are written without")


def _limits_at_odds(said: list[tuple[int, str]]) -> Iterator[LintFinding]:
    """Only limits of the answer as a whole: a title and a body may differ."""
    found = [(number, limit) for number, sentence in said for limit in limits_of_answer(sentence)]
    for number, limit in found:
        for other_number, other in found:
            if limit.least and other.most and limit.unit == other.unit and limit.value > other.value:
                yield LintFinding("contradiction", max(number, other_number), f"{limit.said!r} and {other.said!r} can't both be kept")


def limits_of_answer(sentence: str) -> Iterator[Limit]:
    """The limits in a sentence that speaks of nothing but the answer."""
    for limit in limits_in(sentence):
        if not _CONDITION.search(sentence) and set(re.findall(r"[a-z']+", sentence[: limit.start].lower())) <= _OF_THE_ANSWER:
            yield limit


def _two_languages(said: list[tuple[int, str]]) -> Iterator[LintFinding]:
    found = {
        match[1].capitalize(): number
        for number, sentence in said
        if not _CONDITION.search(sentence) and (match := _SPOKEN.search(sentence)) and not is_negated(sentence, match.end())
    }
    if len(found) > 1:
        yield LintFinding("contradiction", max(found.values()), f"asks for answers in {' and in '.join(found)}")


def _opposites(said: list[tuple[int, str]]) -> Iterator[LintFinding]:
    for wants, wanted, forbids, forbidden in _OPPOSITES:
        one = _first(said, wanted, negated=False)
        other = _first(said, forbidden, negated=None)
        if one and other:
            yield LintFinding("contradiction", max(one, other), f"line {one} {wants} and line {other} {forbids}")


def _first(said: list[tuple[int, str]], pattern: re.Pattern[str], *, negated: bool | None) -> int:
    """The line of the first match that is negated, is not, or either (``None``); 0 for none."""
    for number, sentence in said:
        for match in pattern.finditer(sentence):
            if negated is None or is_negated(sentence, match.start()) is negated:
                return number
    return 0
