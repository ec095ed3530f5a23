"""Scorers of similarity."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...contract import shorten
from .common import Inner, wanted
from .items import common_length
from .protocol import Answer, Grade, Unscored

FUZZY_PASS = 0.8
ROUGE_PASS = 0.5
_MOST_PAIRS = 2_000_000_000
_MOST_WINDOW_PAIRS = 20_000_000
"""``partial_ratio`` slides a window and takes some hundred times as long."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that put no blanks between words: there each character stands for itself."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def fuzzy(value: str | None, kind: str) -> Inner:
    """The ratio called ``kind`` of rapidfuzz, from 0 to 1."""
    most = _MOST_WINDOW_PAIRS if kind == "partial_ratio" else _MOST_PAIRS

    def grade(answer: Answer) -> Grade:
        from rapidfuzz import fuzz

        target = wanted(value, answer)
        if len(target) * len(answer.output) > most:
            raise Unscored(f"texts of {len(target):,} and {len(answer.output):,} characters are too long for {kind}")
        score: float = getattr(fuzz, kind)(answer.output, target) / 100
        return Grade(min(1.0, score), score >= FUZZY_PASS, f"{shorten(answer.output)} is {score:.0%} like {shorten(target)}")

    return grade


def words(text: str) -> list[str]:
    """The words of a text for ROUGE: runs of letters and digits without case, single characters where no blanks divide words."""
    return _WORD.findall(text.casefold())


def rouge_l(value: str | None) -> Inner:
    """ROUGE-L F1 (Lin 2004): harmonic mean of the longest common subsequence's share in both texts, by words, without stemming."""

    def grade(answer: Answer) -> Grade:
        expected, found = words(wanted(value, answer)), words(answer.output)
        if not expected:
            raise Unscored("the expected output has no words to compare with")
        score = f1(expected, found)
        return Grade(score, score >= ROUGE_PASS, f"shares {score:.0%} of its word order with {shorten(value or answer.expected)}")

    return grade


def f1(expected: Sequence[str], found: Sequence[str]) -> float:
    """F1 by the longest common subsequence, 0 to 1."""
    total = len(expected) + len(found)
    return 2 * common_length(expected, found) / total if total else 1.0
