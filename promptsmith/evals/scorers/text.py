"""Scorers that compare texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...contract import count_words, normalise_label, shorten
from .common import Inner, plain, wanted
from .items import shown_items, wanted_items
from .matching import Matcher, Pattern
from .protocol import Answer, Grade, Unscored


def exact(value: str | None) -> Inner:
    """Passes when the output is the expected text; of a contract of labels, when the label that is served is."""

    def grade(answer: Answer) -> Grade:
        target = answer.expected if value is None else value
        if answer.output == target or (answer.label and answer.label == target):
            return plain(True, f"is {shorten(target)}")
        near = normalise_label(answer.output) == normalise_label(target) if len(answer.output) < 1000 else False
        note = "; only case or punctuation differ" if near else ""
        return plain(False, f"expected {shorten(target)}, got {shorten(answer.output)}{note}")

    return grade


def label(value: str | None) -> Inner:
    """Passes when the output is the expected label but for case and punctuation around it, as contracts read labels."""

    def grade(answer: Answer) -> Grade:
        target = wanted(value, answer)
        if normalise_label(answer.output) == normalise_label(target):
            return plain(True, f"is the label {shorten(target)}")
        return plain(False, f"expected the label {shorten(target)}, got {shorten(answer.output)}")

    return grade


def contains(value: str | None) -> Inner:
    """Passes when the text occurs in the output."""
    return _holds(value, lambda output, target: target in output, "contains", "does not contain")


def starts_with(value: str | None) -> Inner:
    """Passes when the output begins with the text."""
    return _holds(value, str.startswith, "starts with", "does not start with")


def ends_with(value: str | None) -> Inner:
    """Passes when the output ends with the text."""
    return _holds(value, str.endswith, "ends with", "does not end with")


def _holds(value: str | None, holds: Callable[[str, str], bool], yes: str, no: str) -> Inner:
    def grade(answer: Answer) -> Grade:
        target = wanted(value, answer)
        if holds(answer.output, target):
            return plain(True, f"{yes} {shorten(target)}")
        return plain(False, f"{shorten(answer.output)} {no} {shorten(target)}")

    return grade


def contains_all(values: tuple[str, ...] | None) -> Inner:
    """Passes when each of the texts occurs; the score is the share that does."""

    def grade(answer: Answer) -> Grade:
        targets = values or wanted_items(answer.expected)
        missing = [target for target in targets if target not in answer.output]
        if not missing:
            return plain(True, f"contains {shown_items(targets)}")
        return Grade(1 - len(missing) / len(targets), False, f"does not contain {shown_items(missing)}")

    return grade


def contains_any(values: tuple[str, ...] | None) -> Inner:
    """Passes when at least one of the texts occurs."""

    def grade(answer: Answer) -> Grade:
        targets = values or wanted_items(answer.expected)
        found = next((target for target in targets if target in answer.output), None)
        if found is not None:
            return plain(True, f"contains {shorten(found)}")
        return plain(False, f"contains none of {shown_items(targets)}")

    return grade


def regex(value: str | None, matcher: Matcher, *, ignore_case: bool) -> Inner:
    """Passes when the pattern matches somewhere in the output."""
    own = None if value is None else Pattern(value, matcher, ignore_case=ignore_case)

    async def grade(answer: Answer) -> Grade:
        pattern = own or _expected_pattern(answer, matcher, ignore_case=ignore_case)
        found = await pattern.first(answer.output)
        if found is not None:
            return plain(True, f"{shorten(found)} matches the pattern {pattern.text!r}")
        return plain(False, f"{shorten(answer.output)} does not match the pattern {pattern.text!r}")

    return grade


def _expected_pattern(answer: Answer, matcher: Matcher, *, ignore_case: bool) -> Pattern:
    from ...contract import bad_regex

    text = wanted(None, answer)
    if problem := bad_regex(text):
        raise Unscored(f"the expected output {shorten(text)} is no regular expression ({problem})")
    return Pattern(text, matcher, ignore_case=ignore_case)


def word_limit(low: int | None, high: int | None) -> Inner:
    """Passes when the number of words is within limits. Words are runs without blanks."""

    def grade(answer: Answer) -> Grade:
        count = count_words(answer.output)
        has = f"has {count} word{'s' * (count != 1)}"
        if high is not None and count > high:
            return plain(False, f"{has}, more than {high}")
        if low is not None and count < low:
            return plain(False, f"{has}, fewer than {low}")
        return plain(True, has)

    return grade


def prepared(value: Any, fold: Callable[[str], str]) -> Any:
    """The options' texts, folded as outputs will be: one text as it is, several as a tuple."""
    if isinstance(value, list | tuple):
        return tuple(map(fold, value))
    return fold(value) if isinstance(value, str) else value
