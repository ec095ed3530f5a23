"""What every scorer has in common, in one place: extraction, negation, threshold, weight, and what a breakdown means."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from .matching import Pattern
from .protocol import Answer, Grade, Unscored

Inner = Callable[[Answer], "Grade | Awaitable[Grade]"]
"""Grades an answer whose output is extracted and folded already; ``why`` is in words whether it passes or not."""

_LONGEST_WHY = 2000


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """The options that any scorer takes."""

    name: str
    weight: float = 1.0
    threshold: float | None = None
    negated: bool = False
    extract: Pattern | None = None
    ignore_case: bool = False
    strip: bool = False


class Wrapped:
    """A scorer: one kind's way of grading within the common options.

    ``inner`` grades the prepared answer. Whatever goes wrong in it is :class:`Unscored` here, never a zero.
    """

    def __init__(self, inner: Inner, common: Common, version: str) -> None:
        self.inner = inner
        self.name, self.version, self.weight = common.name, version, float(common.weight)
        self._common = common
        self._prepares = common.extract is not None or common.ignore_case or common.strip

    async def grade(self, answer: Answer) -> Grade:
        """The grade of one answer. Raises :class:`Unscored` when it can't grade it, with the reason as its cause."""
        try:
            if self._prepares:
                prepared = await self._prepared(answer)
                if prepared is None:
                    assert self._common.extract is not None
                    return Grade(0.0, False, f"nothing in the output matches the pattern {self._common.extract.text!r}")
                answer = prepared
            found = self.inner(answer)
            grade = found if isinstance(found, Grade) else await found
            return self._decided(grade)
        except Unscored as unscored:
            raise Unscored(_clean(unscored.message), hint=unscored.hint) from (unscored.__cause__ or unscored)
        except Exception as error:  # a scorer may break in any way
            raise Unscored(_clean(f"the scorer broke: {type(error).__name__}: {error}")) from error

    async def _prepared(self, answer: Answer) -> Answer | None:
        """The answer with the output that counts; ``None`` when there is nothing to extract."""
        common = self._common
        output, value, label = answer.output, answer.value, answer.label
        if common.extract is not None:
            extracted = await common.extract.last(output)
            if extracted is None:
                return None
            if extracted != output:
                output, value, label = extracted, None, ""
        return msgspec.structs.replace(
            answer, output=self._folded(output), expected=self._folded(answer.expected), value=value, label=self._folded(label)
        )

    def _folded(self, text: str) -> str:
        return folded(text, ignore_case=self._common.ignore_case, strip=self._common.strip)

    def _decided(self, grade: Grade) -> Grade:
        score = grade.score
        if not 0.0 <= score <= 1.0:  # NaN is not between them either
            raise Unscored(f"its score is {score!r}, not a number from 0 to 1")
        passed, why = grade.passed, grade.why
        if self._common.threshold is not None:
            passed = score >= self._common.threshold
            why = f"{why}; the score {_number(score)} is {'not ' * (not passed)}at least {_number(self._common.threshold)}"
        if self._common.negated:
            why = f"{why}, which it must not" if passed else why
            score, passed = 1.0 - score, not passed
        return Grade(score, passed, _clean(why), grade.paths, grade.cost)


def folded(text: str, *, ignore_case: bool, strip: bool) -> str:
    """``text`` without the differences that do not count."""
    if strip:
        text = text.strip()
    return text.casefold() if ignore_case else text


def _number(value: float) -> str:
    # Rounded down: 0.7996 is no 0.8 where 0.8 is asked for.
    return f"{math.floor(value * 1000) / 1000:g}"


def _clean(why: str) -> str:
    """Reasons are stored and sent: no lone surrogate, and no megabyte of an answer."""
    if len(why) > _LONGEST_WHY:
        why = f"{why[: _LONGEST_WHY - 1]}…"
    return why if why.isascii() else why.encode("utf-8", "backslashreplace").decode()


def plain(holds: bool, why: str, *, paths: Mapping[str, float] | None = None) -> Grade:
    """A grade of all or nothing."""
    return Grade(1.0 if holds else 0.0, holds, why, paths or {})


def wanted(value: str | None, answer: Answer) -> str:
    """The text to compare with: ``value``, else the case's expected output. Raises :class:`Unscored` for an empty one."""
    text = answer.expected if value is None else value
    if not text:
        raise Unscored("there is nothing to compare with: the expected output is empty")
    return text
