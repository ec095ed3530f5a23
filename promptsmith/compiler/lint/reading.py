"""Reading a prompt's text: what is judged, its lines, the lists in it, the language it is in."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ...contract import Contract, JsonShape, Labels, find_json
from .findings import LintFinding

INSTRUCTION_TOKENS = 4000
"""About how many tokens instructions may have, unless told otherwise."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is judged: the instructions (without the example block), and what they are instructions for."""

    text: str
    contract: Contract
    description: str = ""
    allowed: str = ""
    """Texts of the user's own (constraints, input names): numbers and dates in them are no faults."""
    most_tokens: int = INSTRUCTION_TOKENS


SLOT = re.compile(r"\{\{[^{}\n]*\}\}|\$\{[^{}\n]*\}|(?<![\w\"'])\{[A-Za-z_][A-Za-z0-9_ ]*\}(?![\w\"'])|%\([a-z_]+\)s")
"""A placeholder of the common template languages."""

Rule = Callable[[Subject], Iterator[LintFinding]]


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, from 1."""
    return iter(enumerate(text.split("\n"), 1))


def is_filled_later(text: str) -> bool:
    """Whether the text has a placeholder in it."""
    return SLOT.search(text) is not None


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """The sentences with the numbers of their lines; a line break ends one."""
    for number, line in numbered(text):
        for sentence in re.split(r"(?<=[.!?;])\s+", line):
            if sentence.strip():
                yield number, sentence.strip(" \t-*#")


def labels_of(contract: Contract) -> tuple[str, ...]:
    """The labels of a label contract, else none."""
    return contract.shape.labels if isinstance(contract.shape, Labels) else ()


def keys_of(contract: Contract) -> list[str]:
    """Every key of a JSON contract's schema, at any depth."""
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


def named(name: str, text: str) -> bool:
    """Whether ``name`` stands in ``text`` as a word of its own, case aside."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


_BULLET = re.compile(r"^\s*([-*•]|(?=\d+[.)]))(?:\d+[.)])?\s+[`\"'*]*([^:`\"'*\n]{1,60}?)[`\"'*]*\s*(?:[:\u2013\u2014-]\s.*|:\s*)?$")


def bullet_lists(text: str) -> Iterator[tuple[int, list[str]]]:
    """Runs of bullets of one kind: the first line's number and what stands before each bullet's colon, sentences left out."""
    start, kind, items = 0, "", list[str]()
    for number, line in [*numbered(text), (0, "")]:
        match = _BULLET.match(line)
        if items and (match is None or match[1] != kind) and not line.startswith(("  ", "\t")):
            yield start, items
            start, items = 0, []
        if match is not None:
            start, kind = start or number, match[1]
            if not match[2].endswith((".", "!", "?")):
                items.append(match[2].strip())


def inline_lists(text: str) -> Iterator[tuple[int, list[str]]]:
    """The single words of comma lists within a line, such as ``positive, negative or mixed``."""
    for number, line in numbered(text):
        for part in re.split(r"[.:;()\[\]]", line):
            items = [item.strip(" `\"'*") for item in re.split(r",|\bor\b|\band\b|/|\|", part)]
            if sum(map(bool, items)) >= 3:
                yield number, [item for item in items if len(item.split()) == 1]


def is_json(text: str) -> bool:
    """Whether the text is a JSON object or list, perhaps in a code fence."""
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
LEAST_WORDS = 20
LEAST_IN_TASK = 5
"""A description is a sentence or two; a prompt that short is caught by other rules."""
_LEAST_SHARE = 0.12


def language(text: str, least: int) -> str:
    """The language that most of the text's little words belong to, or an empty string when that is not clear."""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    if len(words) < least:
        return ""
    counts = Counter({name: sum(map(frozenset(stop.split()).__contains__, words)) for name, stop in _STOPWORDS.items()})
    (best, most), (_, second) = counts.most_common(2)
    return best if most >= _LEAST_SHARE * len(words) and most >= 1.5 * second else ""
