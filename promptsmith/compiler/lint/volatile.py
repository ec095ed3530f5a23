"""What ages: dates, times and ids in the static part."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .findings import LintFinding
from .reading import Subject, numbered

_VOLATILE = re.compile(
    r"\b(?:19|20)\d\d-[01]\d-[0-3]\d(?:[T ]\d\d:\d\d)?|\b\d{1,2}[./]\d{1,2}[./](?:19|20)\d\d\b|"
    r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December) \d{1,2}(?:st|nd|rd|th)?,? (?:19|20)\d\d\b|"
    r"\b\d{1,2} (?:January|February|March|April|May|June|July|August|September|October|November|December) (?:19|20)\d\d\b|"
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|(?i:\btoday(?:'s date)? is\b|\bthe current (?:date|time|year) is\b|"
    r"\bas of (?:today|now|20\d\d)\b|\b(?:request|session|conversation|run) id:? ?[\w-]{6,}|\bgenerated (?:on|at) )"
)


def volatile_text(subject: Subject) -> Iterator[LintFinding]:
    """No date and no id: they age, and each change of the static part misses the provider's prompt cache."""
    own = subject.description + subject.allowed
    for number, line in numbered(subject.text):
        for match in _VOLATILE.finditer(line):
            if match[0] not in own:
                yield LintFinding("volatile", number, f"{match[0].strip()!r} will not stay true")


_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)\.?"
_MORE_VOLATILE = re.compile(
    rf"\b{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? (?:19|20)\d\d\b|\b\d{{1,2}}\.? {_MONTH} (?:19|20)\d\d\b|\b(?:19|20)\d\d/[01]?\d/[0-3]?\d\b|"
    r"\b[01]?\d:[0-5]\d:[0-5]\d\b|\b2[0-3]:[0-5]\d:[0-5]\d\b|(?i:\b(?:it is|it's|the time is|time:) (?:now )?\d{1,2}:\d\d\b)|(?i:\b(?:current|today's) (?:date|time)\s*[:=])|"
    r"\b1[5-9]\d{8}(?:\d{3})?\b|\b[0-9a-f]{40}\b|\b(?i:request|session|trace|conversation|run|build|user|customer|ticket|message)[-_ ](?i:id|number)\s*[:=#]\s*(?=\S*\d)[\w-]{4,}"
)
"""Besides: other ways to write dates, times of day with seconds, Unix times, commit hashes, numbered runs."""


def more_volatile_text(subject: Subject) -> Iterator[LintFinding]:
    """What :func:`volatile_text` leaves to prompts that are not drafts."""
    own = subject.description + subject.allowed
    for number, line in numbered(subject.text):
        for match in _MORE_VOLATILE.finditer(line):
            if match[0] not in own and not _VOLATILE.search(line):
                yield LintFinding("volatile", number, f"{match[0].strip()!r} will not stay true")


_STAMP_WORDS = frozenset("at by build built changed compiled created date exported generated id in last modified number of on prompt request revision run "
                         "session the time timestamp trace updated utc version written".split())  # fmt: skip
_OF_TODAY = re.compile(r"(?i)\b(?:today|current|now|as of|it is|it's)\b")


def is_stamp(line: str) -> bool:
    """Whether a line says nothing but when, or in which run, the text was made: it can go, and nothing is lost."""
    if _OF_TODAY.search(line):
        return False
    rest = _MORE_VOLATILE.sub(" ", _VOLATILE.sub(" ", line))
    return rest != line and set(re.findall(r"[a-z]+", rest.lower())) <= _STAMP_WORDS and not re.search(r"\d{5}", rest)
