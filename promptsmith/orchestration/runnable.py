"""What can be run: inputs with their values, a plan without faults, its identity, and a plan into which another way was taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from .. import canonical
from ..errors import InputError, PromptsmithError, did_you_mean
from ..prompt import Prompt
from .values import Input, Plan, Step
from .workers.values import as_text


def bound_inputs(declared: Sequence[Input], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every input with its value, as data. Raises :class:`InputError` naming one that is missing, unknown or no JSON value."""
    names = [one.name for one in declared]
    for name in given:
        if name not in names:
            hint = did_you_mean(str(name), names) or (f"it takes {', '.join(names)}" if names else "it takes none")
            raise InputError(f"the plan has no input {name!r}", hint=hint)
    bound = {}
    for one in declared:
        if one.name not in given and one.default is None and one.required:
            raise InputError(f"input {one.name!r} of the plan is missing", hint=one.about)
        bound[one.name] = given.get(one.name, one.default)
        try:
            canonical.encode(as_text(bound[one.name]))
        except InputError as error:
            raise InputError(f"input {one.name!r} can't be used: {error.message}", hint=error.hint) from None
    return bound


def needed(step: Step, ids: Mapping[str, object]) -> tuple[str, ...]:
    """The steps that must have ended before ``step`` starts: those that it needs, and those that it sees."""
    return tuple(dict.fromkeys((*step.needs, *(name for name in step.context if name in ids))))


def check_plan(plan: Plan) -> None:
    """Nothing. Raises :class:`InputError` for a plan that can't be run, however it was made."""
    if not plan.steps:
        raise InputError("the plan has no steps")
    ids = {step.id: step for step in plan.steps}
    if len(ids) < len(plan.steps):
        twice, _ = Counter(step.id for step in plan.steps).most_common(1)[0]
        raise InputError(f"two steps of the plan have the id {twice!r}", hint="give each step an id of its own")
    names = {one.name for one in plan.inputs}
    for step in plan.steps:
        _check_step(step, ids, names)
    for name in plan.result:
        if name not in ids:
            raise InputError(f"the plan's result is the step {name!r}, which it does not have", hint=did_you_mean(name, ids))
    try:
        TopologicalSorter({step.id: needed(step, ids) for step in plan.steps}).prepare()
    except CycleError as error:
        # graphlib tells the way from need to dependant; people read what needs what.
        raise InputError(f"steps of the plan need each other: {' needs '.join(reversed(error.args[1]))}") from None


def _check_step(step: Step, ids: Mapping[str, Step], inputs: set[str]) -> None:
    if bool(step.expert) == bool(step.worker):
        raise InputError(f"step {step.id!r} names {'both an expert and a worker' if step.expert else 'neither an expert nor a worker'}")
    if step.id in inputs:
        raise InputError(f"{step.id!r} is both an input and a step of the plan", hint="give one of them another name")
    for name in step.needs:
        if name not in ids:
            raise InputError(f"step {step.id!r} needs {name!r}, which is no step of the plan", hint=did_you_mean(name, ids))
    for name in step.context:
        if name not in ids and name not in inputs:
            known = [*ids, *inputs]
            raise InputError(
                f"step {step.id!r} is to see {name!r}, which is neither an input nor a step of the plan", hint=did_you_mean(name, known)
            )
    wrong = {
        "retries": not step.retries >= 0,
        "timeout": step.timeout is not None and not step.timeout > 0,
        "max_tokens": step.max_tokens is not None and not step.max_tokens > 0,
    }
    for field in (name for name, bad in wrong.items() if bad):
        raise InputError(
            f"step {step.id!r} has {field}: {getattr(step, field)}", hint="retries: from 0 up; timeout and max_tokens: more than 0"
        )
    if step.on_failure == "fallback" and step.expert and not step.fallback:
        raise InputError(f"step {step.id!r} has on_failure: fallback and names no model", hint="fallback: <endpoint>/<model>")


def run_key(plan: Plan, problem: str, inputs: Mapping[str, Any], prompts: Sequence[Prompt | PromptsmithError | None]) -> str:
    """Identity of a run: what its steps do and see, the prompts of its experts (with their models), problem and inputs.

    Names, comments, limits and timeouts are no part of it: with a higher limit a run goes on where it was stopped.
    """
    steps = [msgspec.to_builtins(msgspec.structs.replace(step, where=type(step.where)(), timeout=None, type="")) for step in plan.steps]
    return canonical.digest(
        {
            "kind": "plan",
            "steps": canonical.sha256(as_text(steps)),
            "result": list(plan.result),
            "prompts": [one.id if isinstance(one, Prompt) else "" for one in prompts],
            "problem": canonical.sha256(problem),
            # In a list, so that a text is in quotes: "1" and 1 are not one input.
            "inputs": {name: canonical.sha256(as_text([value])) for name, value in inputs.items()},
        }
    )


def spliced(plan: Plan, failed: str, other: Plan) -> Plan:
    """``plan`` with the steps of ``other`` after the step that failed, whose dependants see their result in its place.

    A step of ``other`` that has the id of the failed one replaces it. Raises :class:`InputError` when that is no plan.
    """
    if not other.steps:
        raise InputError("the other way has no steps")
    again = any(step.id == failed for step in other.steps)
    heirs = (failed,) if again else other.result or (other.steps[-1].id,)
    known = {expert.name: expert for expert in plan.experts}
    for expert in other.experts:
        if known.setdefault(expert.name, expert) != expert:
            raise InputError(f"the other way's expert {expert.name!r} is another than the plan's", hint="give it another name")

    def inherited(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(heir for name in names for heir in (heirs if name == failed else (name,))))

    steps: list[Step] = []
    for step in plan.steps:
        if step.id == failed:
            steps += other.steps if again else (step, *other.steps)
        else:
            steps.append(msgspec.structs.replace(step, needs=inherited(step.needs), context=inherited(step.context)))
    made = msgspec.structs.replace(plan, steps=tuple(steps), experts=tuple(known.values()), result=inherited(plan.result))
    check_plan(made)
    return made
