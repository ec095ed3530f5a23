"""Grades an answer by scorers, a judge among them, before it is handed on: what it finds wrong goes back to the conductor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..chat import Reply, Request, Usage
from ..contract import Contract, TextShape
from ..errors import Problem, SourceError
from ..evals.attempt import Answered, Grader
from ..evals.scorers import build_scorers, check_specs, judges
from ..evals.suite import Case
from ..prompt import TEXT_INPUT
from ..task.values import ScorerSpec

_TEXT = Contract(shape=TextShape())


class Grade(NamedTuple):
    """What the scorers say of an answer. ``score`` is ``None`` when they could not grade it; ``why`` says what is wrong."""

    score: float | None
    passed: bool
    why: str


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
