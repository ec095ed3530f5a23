"""Plans that are shipped: each a YAML file of this folder, run by its name.

A plan that ``grows`` names a module here whose :class:`~.growth.Growth` adds steps as results come in. Everything else of it
(inputs, experts, models, instructions) is data in the YAML, and so is what ``--plan-only`` writes: edited, it grows as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...errors import InputError
from ..reading import Known, load_plan
from ..values import Input, Outcome, Plan
from .growth import Growth

FOLDER = Path(__file__).parent
CONDUCTED = "conductor-expert"
"""The pattern that is no written plan: a conductor writes one for the task, as for any problem in words."""


def patterns() -> tuple[str, ...]:
    """The names of all shipped plans, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


class Described(NamedTuple):
    """A pattern as it is listed."""

    name: str
    about: str
    inputs: Mapping[str, str]
    """What each input is, by name."""


def described() -> list[Described]:
    """Every pattern, sorted by name."""
    plans = [load_plan(FOLDER / f"{name}.yaml", Known()) for name in patterns()]
    written = [Described(plan.name, plan.about, {one.name: _told(one) for one in plan.inputs}) for plan in plans]
    about = (
        "A conductor plans a task for any number of experts, asks them again where something is unclear, and puts their results together."
    )
    return sorted([*written, Described(CONDUCTED, about, {"task": "the problem, in words"})])


def _told(one: Input) -> str:
    if one.required:
        return one.about
    short = isinstance(one.default, int) or (isinstance(one.default, str) and len(one.default) <= 40)
    return f"{one.about} ({f'default: {one.default}' if short else 'has a default'})"


def find_pattern(name: str) -> Path | None:
    """The file of a shipped plan; ``None`` when there is none of that name."""
    return FOLDER / f"{name}.yaml" if name in patterns() else None


def growth(plan: Plan) -> Growth | None:
    """The rule by which a plan grows, if it does."""
    if not plan.grows:
        return None
    found: Growth = import_module(f"{__name__}.{plan.grows.replace('-', '_')}").GROWTH
    return found


def begun(plan: Plan, inputs: Mapping[str, Any], workers: frozenset[str]) -> Plan:
    """The plan as it begins with these inputs. Raises :class:`InputError` for what the pattern can't use."""
    found = growth(plan)
    if found is None:
        return plan
    _check(plan, found, inputs)
    return found.begin(plan, inputs, workers)


def _check(plan: Plan, rule: Growth, inputs: Mapping[str, Any]) -> None:
    """Nothing. Raises :class:`InputError` for an edited plan that lacks what its rule reads, or has what the rule is to add."""
    shipped = load_plan(FOLDER / f"{plan.grows}.yaml", Known())
    why = f"the plan grows by {plan.grows}"
    hint = f"promptsmith solve {plan.grows} --plan-only writes the plan with all that it needs"
    steps = {step.id: step for step in plan.steps}
    for step in shipped.steps:
        if step.id not in steps or steps[step.id].output != step.output:
            raise InputError(f"{why}, whose step {step.id!r} it must keep, with its output", hint=hint)
    there = {one.name for one in plan.inputs}, {one.name for one in plan.experts}
    for what, wanted, has in zip(("input", "expert"), ([one.name for one in shipped.inputs], rule.experts), there, strict=True):
        for name in wanted:
            if name not in has:
                raise InputError(f"{why}, which needs the {what} {name!r}", hint=hint)
    for name in (*(word for step in plan.steps for word in (step.id, step.type)), *there[0], *inputs):
        if rule.own.match(name):
            raise InputError(f"{why}, which calls steps {name!r} itself", hint="take another name")


def valued(outcome: Outcome) -> Outcome:
    """The outcome with what the pattern came to in its own form."""
    found = growth(outcome.plan)
    return outcome if found is None else msgspec.structs.replace(outcome, value=found.value(outcome))


def files(outcome: Outcome) -> Mapping[str, str]:
    """The files that a pattern made, by their path with forward slashes."""
    found = growth(outcome.plan)
    return {} if found is None else found.files(outcome)


def problem_of(inputs: Mapping[str, Any], problem: str | None = None) -> tuple[str, dict[str, Any]]:
    """The task of :data:`CONDUCTED` as a problem in words, and the other inputs. Raises :class:`InputError` without one."""
    others = dict(inputs)
    task = problem or others.pop("task", None)
    if not isinstance(task, str) or not task.strip():
        raise InputError(f"input 'task' of {CONDUCTED} is missing", hint="--var task='…'; any other --var is an input that experts may see")
    return task, others
