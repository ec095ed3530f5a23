"""A scorer that asks language models: by criteria, each with a reason, in a form that a program can check.

What is graded and what the model was given enter as fenced data, apart from the instructions. Grades are asked for as
structured output with the reason before the mark, never with a temperature. A pairwise judge sees both orders, since
judges prefer a place (Zheng et al. 2023, "Judging LLM-as-a-judge"): unless both agree, it is a tie.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec

from ... import canonical
from ...catalog.models import allowance, facts
from ...chat import Reply, Request, Turn, total_cost
from ...contract import find_json, shorten
from ...errors import InputError, PromptsmithError
from ...prompt import fenced
from .protocol import Answer, Grade, Unscored

Ask = Callable[[Request], Awaitable[Reply]]
"""How a judge reaches its model; cache, journal, ledger and budget are the caller's."""

REASON_TOKENS = 1024
"""Room for a judge's answer, its reasoning left out."""
_MOST_CHARACTERS = 200_000
"""A text longer than this is not sent to a judge, and not cut either: a grade of a part is no grade of the whole."""
_WORTH = {"win": 1.0, "tie": 0.5, "loss": 0.0}
_STOPPED = {
    "length": "was cut off at its length limit",
    "refused": "was a refusal",
    "filtered": "was stopped by the provider's filter",
    "aborted": "broke off",
}


class Scale(msgspec.Struct, frozen=True):
    """Marks from ``low`` to ``high``, passing from ``mark``; without ``high`` they are pass and fail."""

    low: int = 0
    high: int = 0
    mark: float = 1.0

    @property
    def marks(self) -> tuple[int | str, ...]:
        """Every mark that may be given."""
        return tuple(range(self.low, self.high + 1)) if self.high else ("pass", "fail")

    def worth(self, mark: int | str) -> float:
        """A mark as a score from 0 to 1."""
        if isinstance(mark, str):
            return float(mark == "pass")
        return (mark - self.low) / (self.high - self.low)

    def passes(self, mark: float | str) -> bool:
        """Whether a mark passes."""
        return mark == "pass" if isinstance(mark, str) else mark >= self.mark

    def words(self) -> str:
        """The scale as instructions."""
        if not self.high:
            return "The mark is `pass` when the answer meets the criteria, and `fail` when it misses any of them."
        return (
            f"The mark is a whole number from {self.low} to {self.high}. {self.high}: the answer meets the criteria fully. "
            f"{self.low}: it misses them altogether. From {self.mark:g} on the answer is good enough to be used."
        )


class Opinion(NamedTuple):
    """What one judge thinks of one answer."""

    score: float
    passed: bool
    why: str
    cost: float | None


class Judge:
    """Grades by asking ``models``, more than half of which must pass an answer.

    ``pairs`` is empty for a judge that gives marks; otherwise it is what the answer is compared with (``expected`` or
    ``baseline``), and ``scale.mark`` is 1 where only a win passes, 0.5 where a tie does.
    """

    def __init__(
        self, models: Sequence[str], criteria: str, ask: Ask, *, scale: Scale | None = None, pairs: str = "", same_model: bool = False
    ) -> None:
        self.models = tuple(models)
        self.scale = scale or Scale()
        self.pairs = pairs
        self._ask, self._same_model = ask, same_model
        text = template("judge_pair" if pairs else "judge")
        # The criteria go in last: what stands in braces there is the user's.
        self.system = text.replace("{marks}", self.scale.words()).replace("{criteria}", criteria.strip())

    def digest(self) -> str:
        """Identity of what judges are told, 16 hex digits: instructions, criteria and scale."""
        return canonical.digest([canonical.sha256(self.system), self.pairs, f"{self.scale.mark:g}"])[:16]

    def refuse(self, model: str) -> None:
        """Raises :class:`InputError` when ``model`` would judge its own answers and the task does not allow it."""
        if self._same_model or not model:
            return
        for judge in self.models:
            if _bare(judge) == _bare(model):
                raise InputError(
                    f"the judge {judge} is the model that it would judge ({model}), and models prefer their own answers",
                    hint="name another model as judge, or write same_model: true",
                )

    async def grade(self, answer: Answer) -> Grade:
        """The panel's grade. Raises :class:`Unscored` when so few judges answered that no majority is certain."""
        try:
            self.refuse(answer.model)
        except InputError as error:
            raise Unscored(error.message, hint=error.hint) from error
        _check_length(answer)
        found = await asyncio.gather(*(self._heard(model, answer) for model in self.models))
        opinions = [one for one in found if isinstance(one, Opinion)]
        problems = [one for one in found if not isinstance(one, Opinion)]
        passing, failing = sum(one.passed for one in opinions), sum(not one.passed for one in opinions)
        undecided = 2 * passing <= len(self.models) and 2 * failing < len(self.models)
        if problems and (undecided or not opinions):
            raise Unscored("; ".join(one.message for one in problems), hint=problems[0].hint) from problems[0].__cause__ or problems[0]
        passed = 2 * passing > len(self.models)
        cost = total_cost(one.cost for one in opinions)
        score = sum(one.score for one in opinions) / len(opinions)
        return Grade(score, passed, self._told(opinions, passing, problems), cost=cost)

    def _told(self, opinions: Sequence[Opinion], passing: int, problems: Sequence[Unscored]) -> str:
        if len(self.models) == 1:
            return opinions[0].why
        parts = [f"{passing} of {len(self.models)} judges pass it"]
        if 2 * passing == len(self.models):
            parts.append("a draw is no majority")
        return "; ".join([*parts, *(one.why for one in opinions), *(one.message for one in problems)])

    async def _heard(self, model: str, answer: Answer) -> Opinion | Unscored:
        try:
            return await (self._compared(model, answer) if self.pairs else self._marked(model, answer))
        except Exception as error:  # a provider can fail in any way; the other judges still count
            return error if isinstance(error, Unscored) else _unheard(model, error)

    # --- marks ----------------------------------------------------------------------------------------

    async def _marked(self, model: str, answer: Answer) -> Opinion:
        parts = [*_given(answer), *([("expected", answer.expected)] if answer.expected else []), ("answer", answer.output)]
        reason, mark, cost = await self._asked(model, parts, self.scale.marks)
        of = f" of {self.scale.high}" if self.scale.high else ""
        return Opinion(self.scale.worth(mark), self.scale.passes(mark), f"{model}: {mark}{of}: {reason}", cost)

    # --- pairs ----------------------------------------------------------------------------------------

    async def _compared(self, model: str, answer: Answer) -> Opinion:
        other = answer.baseline if self.pairs == "baseline" else answer.expected
        if not other:
            raise Unscored(f"there is no {self.pairs} answer to compare with")
        given, choices = _given(answer), ("first", "second", "tie")
        one, two = await asyncio.gather(
            self._asked(model, [*given, ("first", answer.output), ("second", other)], choices),
            self._asked(model, [*given, ("first", other), ("second", answer.output)], choices),
        )
        ended = {"first": "win", "second": "loss"}.get(str(one[1]), "tie")
        swapped = {"first": "loss", "second": "win"}.get(str(two[1]), "tie")
        result = ended if ended == swapped else "tie"
        if ended == swapped:
            why = f"{model}: a {result} against the {self.pairs} answer: {one[0]}"
        else:
            why = f"{model}: a tie, since the two orders disagree (shown first: {ended}; shown second: {swapped}): {one[0]} / {two[0]}"
        return Opinion(_WORTH[result], _WORTH[result] >= self.scale.mark, why, total_cost([one[2], two[2]]))

    # --- one call -------------------------------------------------------------------------------------

    async def _asked(self, model: str, parts: Sequence[tuple[str, str]], marks: Sequence[int | str]) -> tuple[str, int | str, float | None]:
        """Reason, mark and cost. Raises :class:`Unscored` for an answer that is none of the marks."""
        reply = await self._ask(
            Request(
                model=model,
                system=self.system,
                turns=(Turn("user", "\n\n".join(fenced(name, text) for name, text in parts)),),
                parameters={"max_tokens": REASON_TOKENS + allowance(facts(model))},
                schema=_schema(tuple(marks)),
            )
        )
        if not reply.complete:
            raise Unscored(f"the judge's answer ({model}) {_STOPPED.get(reply.stop, 'is not complete')}")
        reason, mark = _read(reply.text, marks, model)
        return reason, mark, reply.cost


def _bare(model: str) -> str:
    # The same model is reached through more than one endpoint: openai/gpt-x, router/openai/gpt-x.
    return model.rpartition("/")[2].casefold()


@cache
def template(name: str) -> str:
    """Instructions for judges, as their file holds them."""
    return files("promptsmith").joinpath("evals", "scorers", f"{name}.md").read_text("utf-8")


@cache
def _schema(marks: tuple[int | str, ...]) -> str:
    kind = "integer" if isinstance(marks[0], int) else "string"
    properties = {"reason": {"type": "string"}, "score": {"type": kind, "enum": list(marks)}}
    return json.dumps({"type": "object", "properties": properties, "required": ["reason", "score"], "additionalProperties": False})


def _read(text: str, marks: Sequence[int | str], model: str) -> tuple[str, int | str]:
    try:
        found: Any = find_json(text)
    except ValueError as error:
        raise Unscored(f"the judge's answer ({model}) {error}: {shorten(text)}") from None
    mark = found.get("score") if isinstance(found, dict) else None
    # By type too: true is 1 in Python, and 4.0 is the mark 4.
    known = next((each for each in marks if each == mark and not isinstance(mark, bool)), None)
    if known is None:
        raise Unscored(f"the judge's answer ({model}) has none of the marks {_listed(marks)}: {shorten(text)}")
    reason = found.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        raise Unscored(f"the judge's answer ({model}) has no reason: {shorten(text)}")
    return " ".join(reason.split()), known


def _listed(marks: Sequence[int | str]) -> str:
    return f"{marks[0]} to {marks[-1]}" if len(marks) > 3 else ", ".join(map(str, marks))


def _given(answer: Answer) -> list[tuple[str, str]]:
    return [(f"input-{name}" if name != "input" else name, text) for name, text in answer.inputs.items()]


def _check_length(answer: Answer) -> None:
    total = len(answer.output) + len(answer.expected) + len(answer.baseline or "") + sum(map(len, answer.inputs.values()))
    if total > _MOST_CHARACTERS:
        raise Unscored(f"too long for a judge: {total:,} characters of input and answer, the most is {_MOST_CHARACTERS:,}")


def _unheard(model: str, error: Exception) -> Unscored:
    told, hint = (error.message, error.hint) if isinstance(error, PromptsmithError) else (str(error), "")
    unscored = Unscored(f"the judge {model} could not be asked: {type(error).__name__}: {told}", hint=hint)
    unscored.__cause__ = error
    return unscored
