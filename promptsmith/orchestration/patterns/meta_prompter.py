"""The meta-prompter: a strong model splits a task into subtasks for experts of set types, whose results it puts together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ..reading import Known, read_plan
from ..values import Outcome, Plan, Step, StepResult
from .growth import Growth, SoFar, answer, refuse_taken, understood

_SPLIT, _JOINED, _TASK = "decompose", "synthesis", "task"
_STRONG = ("planner", "synthesizer")
"""The experts that no subtask may name."""
_MOST = 20


def _begin(plan: Plan, _inputs: Mapping[str, Any], _workers: frozenset[str]) -> Plan:
    """The plan whose planner is told of its experts."""
    told = "\n".join(f"- {one.name}: {one.scope or one.role}" for one in plan.experts if one.name not in _STRONG)
    steps = [
        msgspec.structs.replace(step, instructions=f"{step.instructions}\n\nThe experts:\n{told}") if step.id == _SPLIT else step
        for step in plan.steps
    ]
    return msgspec.structs.replace(plan, steps=tuple(steps))


def _grow(sofar: SoFar) -> Plan | None:
    subtasks = sofar.typed("subtask")
    if sofar.typed(_JOINED) or (subtasks and not sofar.done(subtasks)):
        return None
    if subtasks:
        joined = Step(
            id=_JOINED,
            type=_JOINED,
            expert="synthesizer",
            instructions="Put the results of the subtasks together into one complete answer to the task.",
            needs=subtasks,
            context=(_TASK, *subtasks),
        )
        return sofar.with_steps([joined], [_JOINED])
    read = understood(sofar, _SPLIT, lambda result: _subtasks(sofar, result))
    if read.value is None:
        return read.again
    return sofar.with_steps(read.value, [step.id for step in read.value])


def _subtasks(sofar: SoFar, result: StepResult) -> tuple[Step, ...]:
    """The steps of a decomposition: each sees the task, and the results that it says it needs."""
    experts = tuple(one for one in sofar.plan.experts if one.name not in _STRONG)
    known = Known(experts=experts, inputs=tuple(sofar.inputs), most_steps=_MOST)
    plan = read_plan(result.text, form="json", author="model", known=known)
    refuse_taken(plan.steps, (*(step.id for step in sofar.plan.steps), *sofar.inputs, _JOINED))
    return tuple(
        msgspec.structs.replace(
            step, type="subtask", problem=False, context=tuple(dict.fromkeys((_TASK, *step.context))), output=None, on_failure="skip"
        )
        for step in plan.steps
    )


def _value(outcome: Outcome) -> dict[str, Any]:
    subtasks = [step for step in outcome.plan.steps if step.type == "subtask"]
    results = {result.id: result for result in outcome.results}
    split = answer(outcome, _SPLIT).value
    return {
        "analysis": split["analysis"] if isinstance(split, dict) else "",
        "subtasks": [
            {
                "id": step.id,
                "description": step.instructions,
                "expert": step.expert,
                "depends_on": list(step.needs),
                "context": list(step.context),
                "model": results[step.id].model,
                "result": results[step.id].text if results[step.id].state == "done" else None,
                "error": results[step.id].error,
            }
            for step in subtasks
        ],
        "answer": outcome.answer,
    }


GROWTH = Growth(_grow, _value, _STRONG, re.compile(r"(subtask|synthesis|decompose_2)$"), _begin)
