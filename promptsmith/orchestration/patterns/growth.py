"""How a plan grows: after its steps have ended, a rule reads their results and adds steps, until it adds none.

A rule is a pure function of the plan, its results and its inputs. So a run that was killed grows the same way again, and the
steps that it had done come from the journal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from ...errors import PlanError, Problem, SourceError
from ...prompt import fenced
from ..values import Outcome, Plan, Step, StepResult

T = TypeVar("T")


class SoFar(NamedTuple):
    """Where a run stands: every step of ``plan`` has a result."""

    plan: Plan
    results: Mapping[str, StepResult]
    inputs: Mapping[str, Any]
    workers: frozenset[str]
    """Names of the registered workers."""

    def done(self, steps: Iterable[str]) -> tuple[str, ...]:
        """Those of ``steps`` that are done."""
        return tuple(step for step in steps if step in self.results and self.results[step].state == "done")

    def value(self, step: str) -> Any:
        """The typed result of a step, ``None`` where it has none."""
        return self.results[step].value if self.done([step]) else None

    def typed(self, *types: str) -> tuple[str, ...]:
        """Ids of the steps of these types."""
        return tuple(step.id for step in self.plan.steps if step.type in types)

    def with_steps(self, steps: Iterable[Step], result: Iterable[str]) -> Plan:
        """The plan with further steps, and other results."""
        return msgspec.structs.replace(self.plan, steps=(*self.plan.steps, *steps), result=tuple(result))


def _as_it_is(plan: Plan, _inputs: Mapping[str, Any], _workers: frozenset[str]) -> Plan:
    return plan


def _no_files(_outcome: Outcome) -> Mapping[str, str]:
    return {}


class Growth(NamedTuple):
    """The rule of a pattern."""

    grow: Callable[[SoFar], Plan | None]
    """The plan with further steps; ``None`` when it is complete. Raises :class:`PlanError` for results that it can't use."""
    value: Callable[[Outcome], Any]
    """What a run came to, in the pattern's own form: a JSON value."""
    experts: tuple[str, ...]
    """The experts whom the steps that it adds name."""
    own: re.Pattern[str]
    """What ids and types of steps that it adds begin with: no step or input of the plan may be called so."""
    begin: Callable[[Plan, Mapping[str, Any], frozenset[str]], Plan] = _as_it_is
    """The plan fitted to its inputs and to the registered workers."""
    files: Callable[[Outcome], Mapping[str, str]] = _no_files
    """The files that it made, by path."""


class Understood(NamedTuple, Generic[T]):
    """What was read from a step's answer; ``again`` is the plan in which it is asked once more, told what is wrong."""

    value: T | None
    again: Plan | None = None


def understood(sofar: SoFar, step_id: str, read: Callable[[StepResult], T]) -> Understood[T]:
    """What ``read`` makes of a step's answer, which raises :class:`SourceError` for one that can't be used.

    Such an answer is asked for once more. Raises :class:`PlanError` when the second can't be used either.
    """
    second = f"{step_id}_2"
    result = sofar.results.get(second) or sofar.results[step_id]
    try:
        return Understood(read(result))
    except SourceError as error:
        faults = "\n".join(str(problem) for problem in error.problems[:20])
    if result.id == second:
        raise PlanError(f"step {step_id!r} gave nothing that can be used, asked twice. What is wrong with it:\n{faults}")
    step = sofar.plan.step(step_id)
    told = f"Your earlier answer, in {step_id}, can't be used. What is wrong with it:\n{fenced('faults', faults)}\nAnswer again, in full."
    retry = msgspec.structs.replace(
        step, id=second, instructions=f"{step.instructions}\n\n{told}", needs=(*step.needs, step_id), context=(*step.context, step_id)
    )
    return Understood(None, sofar.with_steps([retry], [second]))


def refuse_taken(steps: Iterable[Step], taken: Iterable[str]) -> None:
    """Nothing. Raises :class:`SourceError` for steps whose ids the plan has already."""
    both = sorted({step.id for step in steps} & set(taken))
    if both:
        raise SourceError([Problem("the answer", 0, f"the plan has these names already: {', '.join(both)}", "take other ids")])


def answer(outcome: Outcome, step_id: str) -> StepResult:
    """The last answer to a step that may have been asked twice."""
    found = {result.id: result for result in outcome.results}
    return found.get(f"{step_id}_2") or found[step_id]
