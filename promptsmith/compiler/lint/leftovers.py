"""What does not belong into a prompt, and texts that are none."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...catalog.tokens import estimate
from .findings import LintFinding
from .reading import LEAST_IN_TASK, LEAST_WORDS, SLOT, Subject, is_json, language, numbered

_PLACEHOLDER = re.compile(
    SLOT.pattern + r"|\[(?:INSERT|YOUR|ADD|FILL|TODO|PLACEHOLDER)[^\]\n]*\]|"
    r"<(?:INSERT|YOUR|ADD|FILL|PLACEHOLDER)[^>\n]*>|\b(?:TODO|FIXME|TBD|XXX)\b|\blorem ipsum\b"
)


def placeholders(subject: Subject) -> Iterator[LintFinding]:
    """No placeholder that nothing will ever fill."""
    for number, line in numbered(subject.text):
        for match in _PLACEHOLDER.finditer(line):
            if match[0] not in subject.description and match[0] not in subject.allowed:
                yield LintFinding("placeholder", number, f"{match[0]!r} is a placeholder that nothing fills")


_MORE_PLACEHOLDERS = re.compile(
    r"\{%[^%\n]*%\}|<<[A-Za-z_]\w*>>|\[\[[A-Za-z_][\w ]*\]\]|\b__[A-Z][A-Z_]+__\b|\[[A-Z][A-Z]+(?:[ _][A-Z]+)+\]"
)


def more_placeholders(subject: Subject) -> Iterator[LintFinding]:
    """Ways to write them that :func:`placeholders` leaves to prompts that are not drafts: template logic, other brackets."""
    for number, line in numbered(subject.text):
        for match in _MORE_PLACEHOLDERS.finditer(line):
            if match[0] not in subject.description and match[0] not in subject.allowed and not _PLACEHOLDER.search(match[0]):
                yield LintFinding("placeholder", number, f"{match[0]!r} is a placeholder that nothing fills")


_CHATTER = re.compile(
    r"(?i)^(?:sure|certainly|of course|absolutely|okay|great|got it)\b[,!.]|\bhere(?:'s| is| are)(?: the| your| an?)? (?:\w+ ){0,3}(?:system )?prompts?\b|"
    r"\b(?:I hope this helps|let me know if|feel free to (?:ask|adjust|modify)|as an AI (?:language )?model|I(?:'ve| have) (?:written|created|drafted|"
    r"designed|crafted)|this (?:system )?prompt (?:is designed|will|should|can|ensures|instructs)|the (?:following|above) (?:system )?prompt|"
    r"(?:optimi[sz]ed|revised|final|improved) (?:system )?prompt\b|copy(?: and |[- ])paste|would you like me to)"
)


def meta_chatter(subject: Subject) -> Iterator[LintFinding]:
    """No talk about the prompt, only the prompt."""
    for number, line in numbered(subject.text):
        if match := _CHATTER.search(line.strip()):
            yield LintFinding("meta-chatter", number, f"{match[0]!r} is talk about the prompt")
    if subject.text.lstrip().startswith("```"):
        yield LintFinding("meta-chatter", 1, "the prompt stands in a code fence")


def not_a_prompt(subject: Subject) -> Iterator[LintFinding]:
    """An answer that is something else: nothing, the task's own text, JSON, another language."""
    text = subject.text.strip()
    if not text:
        yield LintFinding("empty", 0, "there is no text")
        return
    if is_json(text):
        yield LintFinding("is-json", 0, "is a JSON value, not a prompt")
    if subject.description and " ".join(text.casefold().split()) == " ".join(subject.description.casefold().split()):
        yield LintFinding("echo", 0, "is the task's own description, word for word")
    spoken, wanted = language(text, LEAST_WORDS), language(subject.description, LEAST_IN_TASK)
    if spoken and wanted and spoken != wanted:
        yield LintFinding("other-language", 0, f"is written in another language ({spoken}) than the task ({wanted})")


def too_long(subject: Subject) -> Iterator[LintFinding]:
    """Within the length budget: each call pays for every token."""
    tokens = estimate(subject.text)
    if tokens > subject.most_tokens:
        yield LintFinding("too-long", 0, f"has about {tokens} tokens, more than its budget of {subject.most_tokens}")
