"""Grades an answer by scorers, a judge among them, before it is handed on: what it finds wrong goes back to the conductor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..chat import Reply, Request, Usage
from ..contract import Contract, TextShape, shorten
from ..errors import Problem, SourceError
from ..evals.attempt import Answered, Grader
from ..evals.scorers import build_scorers, check_specs, judges
from ..evals.suite import Case
from ..prompt import TEXT_INPUT
from ..task import Task
from ..task.values import ScorerSpec, Where

_TEXT = Contract(shape=TextShape())


class Grade(NamedTuple):
    """What the scorers say of an answer. ``score`` is ``None`` when they could not grade it; ``why`` says what is wrong."""

    score: float | None
    passed: bool
    why: str


def read_scorers(said: Iterable[Any]) -> tuple[ScorerSpec, ...]:
    """Scorers as the list ``scorers:`` of a task says them: a name, a mapping of one name to its options, or such a one as YAML.

    Raises :class:`SourceError` for one that can't be read.
    """
    values = [one if isinstance(one, ScorerSpec) else _value(one) for one in said]
    read = iter(
        Task("an answer", name="evaluate", output="text", scorers=[one for one in values if not isinstance(one, ScorerSpec)]).scorers
    )
    named = Where(file="evaluate")
    return tuple(one if isinstance(one, ScorerSpec) else msgspec.structs.replace(next(read), where=named) for one in values)


def _value(said: Any) -> Any:
    if not isinstance(said, str):
        return said
    import yaml  # here, for most runs grade nothing

    try:
        return yaml.safe_load(said)
    except yaml.YAMLError as error:
        raise SourceError([Problem("", 0, f"the scorer {shorten(said)} is no YAML: {' '.join(str(error).split())}")]) from None


class GradedBy:
    """The scorers of one run. Raises :class:`SourceError` for what is wrong with them.

    ``folder`` is where rubrics and functions are named from; ``ask`` reaches judges; ``author`` is the model whose answers
    are graded, which may not be its own judge.
    """

    def __init__(self, specs: Sequence[ScorerSpec], folder: Path, ask: Callable[[Request], Awaitable[Reply]], author: str) -> None:
        wrong = [Problem("", 0, f"{spec.name}: {mistake.what}", mistake.right) for spec in specs for mistake in check_specs([spec], _TEXT)]
        if wrong:
            raise SourceError(wrong)
        scorers = build_scorers(specs, _TEXT, folder=folder, ask=ask)
        for judge in judges(scorers):
            judge.judge.refuse(author)
        self._author = author
        self._grader = Grader(scorers, _TEXT, {}, own=False)

    async def grade(self, problem: str, answer: str) -> Grade:
        """The grade of an answer. Raises what would stop every call to a judge, and :class:`BudgetError`."""
        case = Case(id="answer", inputs={TEXT_INPUT: problem}, expected="")
        reply = Reply(text=answer, model=self._author)
        found = await self._grader.grade(case, Answered(reply=reply, usage=Usage(), cost=0.0, latency=0.0, source="model"))
        return Grade(found.score, bool(found.passed), found.why)
