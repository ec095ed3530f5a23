"""Finds what is wrong with a system prompt before anybody pays for calls with it.

Each finding has a code, the line where it stands and a reason that a meta-model can act on. The checks look for what
the contract says, so text in the task that tries to instruct the meta-model changes nothing in how its answer is judged.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from ..catalog.tokens import estimate
from ..contract import Contract, JsonShape, Labels, TextShape, find_json, normalise_label, shorten
from ..redact import has_secret


class LintFinding(msgspec.Struct, frozen=True):
    """One fault. ``line`` counts from 1; 0 when the prompt as a whole is meant."""

    code: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what} [{self.code}]" if self.line else f"{self.what} [{self.code}]"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is judged: the instructions (without the example block), and what they are instructions for."""

    text: str
    contract: Contract
    description: str = ""
    allowed: str = ""
    """Texts of the user's own (constraints, input names): numbers and dates in them are no faults."""
    most_tokens: int = 4000


Rule = Callable[[Subject], Iterator[LintFinding]]


def lint(subject: Subject) -> list[LintFinding]:
    """All findings, in line order."""
    found = [finding for rule in RULES for finding in rule(subject)]
    return sorted(dict.fromkeys(found), key=lambda finding: (finding.line, finding.code))


# --- the contract -----------------------------------------------------------------------------------------


def missing_names(subject: Subject) -> Iterator[LintFinding]:
    """Every label, and every key of the schema, must be named."""
    text = subject.text
    for label in _labels(subject.contract):
        if not _named(label, text):
            yield LintFinding("missing-label", 0, f"the label {label!r} is not named")
    for key in _keys(subject.contract):
        if not _named(key, text):
            yield LintFinding("missing-key", 0, f"the key {key!r} is not named")


def foreign_labels(subject: Subject) -> Iterator[LintFinding]:
    """No label outside the contract, recognised by standing in a list with two of its labels."""
    labels = _labels(subject.contract)
    if len(labels) < 2 or (isinstance(subject.contract.shape, Labels) and subject.contract.shape.allow_other):
        return
    known = {normalise_label(label) for label in labels}
    for number, items in [*_bullet_lists(subject.text), *_inline_lists(subject.text)]:
        if sum(normalise_label(item) in known for item in items) < 2:
            continue
        for item in items:
            if normalise_label(item) not in known and len(item.split()) <= 3:
                yield LintFinding("foreign-label", number, f"{item!r} stands among the labels and is none")


def foreign_keys(subject: Subject) -> Iterator[LintFinding]:
    """No JSON key outside the contract."""
    known = set(_keys(subject.contract))
    if not known:
        return
    for number, line in _lines(subject.text):
        for key in re.findall(r'"([A-Za-z_][\w-]*)"\s*:', line):
            if key not in known:
                yield LintFinding("foreign-key", number, f"the key {key!r} is not in the schema")


_LIMIT = re.compile(
    r"(?i)\b(at most|no more than|maximum(?: of)?|max\.?|up to|under|fewer than|less than|within|limit(?:ed)? to|at least|"
    r"minimum(?: of)?|no fewer than|more than|exactly)\s+(?:of\s+)?(\d+|one|two|three|four|five|six|ten|twenty|fifty|(?:a )?hundred)\s*"
    r"(?:-\s*)?(words?|characters?|sentences?|lines?|paragraphs?|tokens?)\b"
)
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


def foreign_limits(subject: Subject) -> Iterator[LintFinding]:
    """No other limit than the contract's: a made-up one makes right answers wrong."""
    allowed = _allowed_limits(subject)
    for number, line in _lines(subject.text):
        for match in _LIMIT.finditer(line):
            count, unit = match[2].lower(), match[3].lower().rstrip("s")
            value = int(count) if count.isdigit() else _NUMBERS[count]
            if (value, unit) not in allowed:
                yield LintFinding("foreign-limit", number, f"{match[0]!r} is no limit of the contract")


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
    for match in _LIMIT.finditer(own):
        count = match[2].lower()
        allowed.add((int(count) if count.isdigit() else _NUMBERS[count], match[3].lower().rstrip("s")))
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


def asks_for_more(subject: Subject) -> Iterator[LintFinding]:
    """No explanation and no markdown where the contract wants a label or JSON alone."""
    if isinstance(subject.contract.shape, TextShape):
        return
    own = subject.description + subject.allowed
    for number, line in _lines(subject.text):
        for pattern, code, what in (
            (_WANTS_MORE, "asks-to-explain", "asks for more than the answer"),
            (_MARKDOWN, "asks-for-markdown", "asks for markdown"),
        ):
            for match in pattern.finditer(line):
                before = re.split(r"[.!?;:]", line[: match.start()])[-1]
                if not _NEGATION.search(before) and match[0].lower() not in own.lower():
                    yield LintFinding(code, number, f"{what} ({match[0]!r}), which the contract forbids")


# --- what does not belong into a prompt -------------------------------------------------------------------

_PLACEHOLDER = re.compile(
    r"\{\{[^{}\n]*\}\}|\$\{[^{}\n]*\}|(?<![\w\"'])\{[A-Za-z_][A-Za-z0-9_ ]*\}(?![\w\"'])|\[(?:INSERT|YOUR|ADD|FILL|TODO|PLACEHOLDER)[^\]\n]*\]|"
    r"<(?:INSERT|YOUR|ADD|FILL|PLACEHOLDER)[^>\n]*>|\b(?:TODO|FIXME|TBD|XXX)\b|\blorem ipsum\b|%\([a-z_]+\)s"
)


def placeholders(subject: Subject) -> Iterator[LintFinding]:
    """No placeholder that nothing will ever fill."""
    for number, line in _lines(subject.text):
        for match in _PLACEHOLDER.finditer(line):
            if match[0] not in subject.description and match[0] not in subject.allowed:
                yield LintFinding("placeholder", number, f"{match[0]!r} is a placeholder that nothing fills")


_CHATTER = re.compile(
    r"(?i)^(?:sure|certainly|of course|absolutely|okay|great|got it)\b[,!.]|\bhere(?:'s| is| are)(?: the| your| an?)? (?:\w+ ){0,3}(?:system )?prompts?\b|"
    r"\b(?:I hope this helps|let me know if|feel free to (?:ask|adjust|modify)|as an AI (?:language )?model|I(?:'ve| have) (?:written|created|drafted|"
    r"designed|crafted)|this (?:system )?prompt (?:is designed|will|should|can|ensures|instructs)|the (?:following|above) (?:system )?prompt|"
    r"(?:optimi[sz]ed|revised|final|improved) (?:system )?prompt\b|copy(?: and |[- ])paste|would you like me to)"
)


def meta_chatter(subject: Subject) -> Iterator[LintFinding]:
    """No talk about the prompt, only the prompt."""
    for number, line in _lines(subject.text):
        if match := _CHATTER.search(line.strip()):
            yield LintFinding("meta-chatter", number, f"{match[0]!r} is talk about the prompt")
    if subject.text.lstrip().startswith("```"):
        yield LintFinding("meta-chatter", 1, "the prompt stands in a code fence")


def secrets(subject: Subject) -> Iterator[LintFinding]:
    """No key, token or password."""
    for number, line in _lines(subject.text):
        if has_secret(line):
            yield LintFinding("secret", number, "holds what looks like a key, a token or a password")


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
    for number, line in _lines(subject.text):
        for match in _VOLATILE.finditer(line):
            if match[0] not in own:
                yield LintFinding("volatile", number, f"{match[0].strip()!r} will not stay true")


# --- the prompt as a whole --------------------------------------------------------------------------------


def not_a_prompt(subject: Subject) -> Iterator[LintFinding]:
    """An answer that is something else: nothing, the task's own text, JSON, another language."""
    text = subject.text.strip()
    if not text:
        yield LintFinding("empty", 0, "there is no text")
        return
    if _is_json(text):
        yield LintFinding("is-json", 0, "is a JSON value, not a prompt")
    if subject.description and " ".join(text.casefold().split()) == " ".join(subject.description.casefold().split()):
        yield LintFinding("echo", 0, "is the task's own description, word for word")
    spoken, wanted = _language(text, _LEAST_WORDS), _language(subject.description, _LEAST_IN_TASK)
    if spoken and wanted and spoken != wanted:
        yield LintFinding("other-language", 0, f"is written in another language ({spoken}) than the task ({wanted})")


def too_long(subject: Subject) -> Iterator[LintFinding]:
    """Within the length budget: each call pays for every token."""
    tokens = estimate(subject.text)
    if tokens > subject.most_tokens:
        yield LintFinding("too-long", 0, f"has about {tokens} tokens, more than its budget of {subject.most_tokens}")


RULES: Sequence[Rule] = (
    missing_names,
    foreign_labels,
    foreign_keys,
    foreign_limits,
    asks_for_more,
    placeholders,
    meta_chatter,
    secrets,
    volatile_text,
    not_a_prompt,
    too_long,
)


# --- reading a prompt's text ------------------------------------------------------------------------------


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return iter(enumerate(text.split("\n"), 1))


def _labels(contract: Contract) -> tuple[str, ...]:
    return contract.shape.labels if isinstance(contract.shape, Labels) else ()


def _keys(contract: Contract) -> list[str]:
    if not isinstance(contract.shape, JsonShape):
        return []
    return list(dict.fromkeys(_schema_keys(json.loads(contract.shape.schema))))


def _schema_keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            for key, child in properties.items():
                yield key
                yield from _schema_keys(child)
        yield from _schema_keys(schema.get("items"))


def _named(name: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


_BULLET = re.compile(r"^\s*([-*•]|(?=\d+[.)]))(?:\d+[.)])?\s+[`\"'*]*([^:`\"'*\n]{1,60}?)[`\"'*]*\s*(?:[:\u2013\u2014-]\s.*|:\s*)?$")


def _bullet_lists(text: str) -> Iterator[tuple[int, list[str]]]:
    """Runs of bullets of one kind: the first line's number and what stands before each bullet's colon, sentences left out."""
    start, kind, items = 0, "", list[str]()
    for number, line in [*_lines(text), (0, "")]:
        match = _BULLET.match(line)
        if items and (match is None or match[1] != kind) and not line.startswith(("  ", "\t")):
            yield start, items
            start, items = 0, []
        if match is not None:
            start, kind = start or number, match[1]
            if not match[2].endswith((".", "!", "?")):
                items.append(match[2].strip())


def _inline_lists(text: str) -> Iterator[tuple[int, list[str]]]:
    """The single words of comma lists within a line, such as ``positive, negative or mixed``."""
    for number, line in _lines(text):
        for part in re.split(r"[.:;()\[\]]", line):
            items = [item.strip(" `\"'*") for item in re.split(r",|\bor\b|\band\b|/|\|", part)]
            if sum(map(bool, items)) >= 3:
                yield number, [item for item in items if len(item.split()) == 1]


def _is_json(text: str) -> bool:
    if not text.lstrip("`json\n ").startswith(("{", "[")):
        return False
    try:
        return isinstance(find_json(text), dict | list)
    except ValueError:
        return False


_STOPWORDS = {
    "English": "the and of to is that with for are not this be or as from",
    "German": "der die das und ist nicht mit für ein eine den dem oder auf wenn",
    "French": "le la les et est pas des une un pour dans avec que ne ou",
    "Spanish": "el los las y es no una un para con que por del al como",
    "Italian": "il gli e è non una un per con che di del come sono della",
    "Portuguese": "o os e é não uma um para com que por do da como são",
    "Dutch": "de het en is niet een met voor van dat op als zijn of",
}
_LEAST_WORDS = 20
_LEAST_IN_TASK = 5
"""A description is a sentence or two; a prompt that short is caught by other rules."""
_LEAST_SHARE = 0.12


def _language(text: str, least: int) -> str:
    """The language that most of the text's little words belong to, or an empty string when that is not clear."""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    if len(words) < least:
        return ""
    counts = Counter({name: sum(word in set(stop.split()) for word in words) for name, stop in _STOPWORDS.items()})
    (best, most), (_, second) = counts.most_common(2)
    return best if most >= _LEAST_SHARE * len(words) and most >= 1.5 * second else ""


def listed(findings: Sequence[LintFinding], most: int = 20) -> str:
    """Findings as lines, for a person or a meta-model."""
    lines = [f"- {finding}" for finding in findings[:most]]
    if len(findings) > most:
        lines.append(f"- and {len(findings) - most} more")
    return "\n".join(lines) or shorten("")
