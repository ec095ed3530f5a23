"""What an answer must look like, as plain values."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, get_args

import msgspec

from .. import canonical

CheckKind = Literal["max_words", "min_words", "regex", "contains", "not_contains"]
CHECKS: tuple[str, ...] = get_args(CheckKind)
TEXT_LIMITS = ("min_words", "max_words", "min_chars", "max_chars", "min_lines", "max_lines")

_SURROUNDING = " \t\r\n\"'`“”\u2018\u2019«».,;:!?*_()[]{}<>"


class Labels(msgspec.Struct, frozen=True, tag="labels", forbid_unknown_fields=True):
    """One of a fixed set of answers, returned as written here."""

    labels: tuple[str, ...]
    allow_other: bool = False


class JsonShape(msgspec.Struct, frozen=True, tag="json", forbid_unknown_fields=True):
    """A JSON value that satisfies a JSON Schema (draft 2020-12 unless it names another)."""

    schema: str
    """The schema as JSON text, keys in the order the user wrote them."""


class TextShape(msgspec.Struct, frozen=True, tag="text", omit_defaults=True, forbid_unknown_fields=True):
    """Free text within limits; ``None`` is no limit. Words are runs without blanks, lines are non-empty."""

    min_words: int | None = None
    max_words: int | None = None
    min_chars: int | None = None
    max_chars: int | None = None
    min_lines: int | None = None
    max_lines: int | None = None
    regex: str | None = None


Shape = Labels | JsonShape | TextShape


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule about the output's text that a program can decide. ``say`` is the same rule in the user's words."""

    kind: CheckKind
    value: str | int
    say: str = ""


class Contract(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What every output must satisfy.

    An ``inferred`` contract enforces types and required keys only; its enums, labels and bounds are words for
    the prompt and are counted, not enforced (three order numbers do not prove a pattern).
    """

    shape: Shape
    checks: tuple[Check, ...] = ()
    inferred: bool = False

    def digest(self) -> str:
        """Identity of the contract, 64 hex digits. The user's wording of a check is not part of it."""
        checks = [f"{check.kind}={check.value}" for check in self.checks]
        shape = msgspec.json.encode(self.shape, order="deterministic").decode()
        return canonical.digest({"kind": "contract", "shape": shape, "checks": checks, "inferred": self.inferred})


def normalise_label(text: str) -> str:
    """A label without case, surrounding blanks and punctuation (``'"Positive."'`` is ``positive``)."""
    folded = unicodedata.normalize("NFKC", text).casefold().strip()
    return folded.strip(_SURROUNDING) or folded


def count_words(text: str) -> int:
    """How many runs without blanks ``text`` has."""
    return len(text.split())


def count_lines(text: str) -> int:
    """How many lines of ``text`` are not empty."""
    return sum(1 for line in text.splitlines() if line.strip())


def bad_regex(pattern: str) -> str:
    """Why ``pattern`` is not a regular expression, or an empty string."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error) or type(error).__name__
    return ""
