"""One answer of one arm to one case, graded; and the grading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..chat import Reply, Stop, Usage
from ..contract import Check, Contract, Labels, Validator, shorten, validator
from ..errors import AuthenticationFailed, BudgetError, ReplyMissing, UnknownName
from .scorers import judges
from .scorers.protocol import Answer, Grade, Scorer, Unscored
from .suite import Case

ENDS = (AuthenticationFailed, UnknownName, ReplyMissing)
"""Errors that every other call would meet too."""
IN_VAIN = (*ENDS, BudgetError)
"""Why asking a judge says nothing about the case: the eval ends, or stops early."""


class Graded(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one scorer said. ``score`` is ``None`` when it could not grade the answer."""

    scorer: str
    score: float | None
    passed: bool | None
    why: str = ""
    paths: Mapping[str, float] = {}


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer. ``passed`` and ``score`` are ``None`` when it is unscored; ``why`` says what is wrong, or why unscored."""

    output: str = ""
    passed: bool | None = None
    score: float | None = None
    why: str = ""
    grades: tuple[Graded, ...] = ()
    broken: tuple[str, ...] = ()
    """How the answer breaks the contract."""
    stop: Stop = "end"
    latency: float = 0.0
    """Seconds, of the calls that produced it, whenever they were made."""
    cost: float | None = None
    """US dollars of those calls, judges not included; ``None``: unknown."""
    usage: Usage = Usage()
    source: str = ""
    """``model``, ``cache``, ``journal``, ``record``; empty when there is no answer."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """The final reply to one case, and what it took to get it."""

    reply: Reply
    usage: Usage
    cost: float | None
    latency: float
    source: str
    calls: int = 1


class Grader:
    """Grades answers by the suite's scorers. An answer passes when it satisfies the contract and every scorer passes it.

    ``own`` says that the task names no scorers: then a row's own assertions stand in for the default ones. Where there
    are none of those either, a row without assertions among rows with some says that the answer is its expected output.
    """

    def __init__(self, scorers: Sequence[Scorer], contract: Contract, checks: Mapping[str, Sequence[Check]], *, own: bool) -> None:
        self._scorers, self._checks, self._own = tuple(scorers), checks, own
        self._validate, self._labels = validator(contract), isinstance(contract.shape, Labels)
        self._judges = {calibrated.name for calibrated in judges(scorers)}
        self._weights = {scorer.name: scorer.weight for scorer in scorers}

    async def grade(self, case: Case, answered: Answered, validate: Validator | None = None, baseline: str | None = None) -> Attempt:
        """The graded answer; ``validate`` judges by the contract of the prompt that gave it, ``baseline`` is the other's answer.

        Raises what would stop every call to a judge, and :class:`BudgetError`.
        """
        reply = answered.reply
        verdict = (validate or self._validate)(reply.text)
        broken = ("the model refused to answer",) if reply.stop == "refused" else verdict.reasons
        answer = Answer(
            case=case.id,
            inputs=case.inputs,
            expected=case.expected,
            output=reply.text,
            value=None if broken else verdict.value,
            label=verdict.value if self._labels and not broken else "",
            baseline=baseline,
            broken=broken,
            latency=answered.latency,
            cost=answered.cost,
            model=reply.model,
        )
        checks = self._checks.get(case.id, ())
        equals = self._own and bool(self._checks) and not self._scorers
        said = answer.label or reply.text  # a label as the contract writes it, however the model did
        grades = [_asserted(checks, said)] if checks else [_equal(case.expected, said)] if equals else []
        if not (checks and self._own):
            grades += [await self._grade(scorer, answer) for scorer in self._scorers]
        return self._attempt(answered, tuple(grades), broken)

    async def _grade(self, scorer: Scorer, answer: Answer) -> Graded:
        try:
            grade: Grade = await scorer.grade(answer)
        except Unscored as error:
            if scorer.name in self._judges and isinstance(error.__cause__, IN_VAIN):
                raise error.__cause__ from None
            return Graded(scorer.name, None, None, error.message)
        return Graded(scorer.name, grade.score, grade.passed, grade.why, grade.paths)

    def _attempt(self, answered: Answered, grades: tuple[Graded, ...], broken: tuple[str, ...]) -> Attempt:
        reply = answered.reply
        missing = [grade for grade in grades if grade.score is None]
        scored = not missing and bool(grades)
        return Attempt(
            output=reply.text,
            passed=(not broken and all(grade.passed for grade in grades)) if scored else None,
            score=self._score(grades) if scored else None,
            why=_why(missing, grades, broken),
            grades=grades,
            broken=broken,
            stop=reply.stop,
            latency=answered.latency,
            cost=answered.cost,
            usage=answered.usage,
            source=answered.source,
        )

    def _score(self, grades: Sequence[Graded]) -> float:
        weights = [self._weights.get(grade.scorer, 1.0) for grade in grades]
        total = sum(weights)
        return sum(weight * (grade.score or 0.0) for weight, grade in zip(weights, grades, strict=True)) / total if total else 0.0


def unanswered(why: str) -> Attempt:
    """A case that got no answer: unscored."""
    return Attempt(why=why)


ASSERTED = "assertions"
"""The name under which a row's own assertions are graded."""


def _asserted(checks: Sequence[Check], output: str) -> Graded:
    # promptfoo's contains, which unlike a constraint's minds upper and lower case.
    broken = [f"does not contain {shorten(str(check.value))}" for check in checks if str(check.value) not in output]
    return Graded(ASSERTED, 0.0 if broken else 1.0, not broken, "; ".join(broken))


def _equal(expected: str, output: str) -> Graded:
    same = output.strip() == expected.strip()
    return Graded(ASSERTED, float(same), same, "" if same else f"expected {shorten(expected)}, got {shorten(output)}")


def _why(missing: Sequence[Graded], grades: Sequence[Graded], broken: Sequence[str]) -> str:
    if missing:
        return "; ".join(f"{grade.scorer} could not grade it: {grade.why}" for grade in missing)
    if not grades:
        return "no scorer grades it"
    said = [grade.why for grade in grades if not grade.passed and grade.why]
    return "; ".join(dict.fromkeys([*broken, *said]))
