"""Flexible orchestrator and workers: an analysis with two or three approaches, each then worked out by a worker of its own.

What the orchestrator and the workers are told are templates with named variables; any further inputs are the context.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ...contract import shorten
from ...errors import InputError, Problem, SourceError
from ..reading import Form, Known, read_plan
from ..reading.tables import INPUT_NAME
from ..values import Input, Outcome, Plan, Step, StepResult
from .growth import Growth, SoFar, answer, understood
from .templates import fill, variables

_FIRST, _WORKER = "orchestrate", "worker"
_ORCHESTRATOR_TEMPLATE, _WORKER_TEMPLATE = "orchestrator_template", "worker_template"
_SETTINGS = ("form", _ORCHESTRATOR_TEMPLATE, _WORKER_TEMPLATE, "type")
_LEAST, _MOST = 2, 3
_FORMS = {
    "json": "",
    "xml": (
        "Answer with this alone:\n<analysis>…</analysis>\n<tasks>\n  <task>\n    <type>a word for the approach</type>\n"
        "    <description>what the worker is to do</description>\n  </task>\n</tasks>\nIn texts write &lt; for < and &amp; for &."
    ),
}


def _begin(plan: Plan, inputs: Mapping[str, Any], _workers: frozenset[str]) -> Plan:
    """The plan with every given input as context, the orchestrator's template filled, and the workers' tried."""
    names = {one.name for one in plan.inputs}
    for name in inputs:
        if not INPUT_NAME.fullmatch(name):
            raise InputError(
                f"{name!r} can't be an input's name", hint="use at most 64 letters, digits, '_' and '-', starting with a letter"
            )
    plan = msgspec.structs.replace(plan, inputs=(*plan.inputs, *(Input(name=name) for name in inputs if name not in names)))
    values = {one.name: inputs.get(one.name, one.default) for one in plan.inputs}
    form = _form(values)
    template = str(values[_ORCHESTRATOR_TEMPLATE])
    told = "\n\n".join(filter(None, (fill(template, _names(values), name=_ORCHESTRATOR_TEMPLATE), _FORMS[form])))
    fill(str(values[_WORKER_TEMPLATE]), {**_names(values), "type": "", "description": ""}, name=_WORKER_TEMPLATE)
    steps = [
        msgspec.structs.replace(step, instructions=told, context=_seen(template, values), output=step.output if form == "json" else None)
        if step.id == _FIRST
        else step
        for step in plan.steps
    ]
    return msgspec.structs.replace(plan, steps=tuple(steps))


def _form(values: Mapping[str, Any]) -> Form:
    form: Form = values["form"]
    if not isinstance(form, str) or form not in _FORMS:
        raise InputError(f"input 'form' is {shorten(str(form))}", hint=f"it is {' or '.join(_FORMS)}")
    return form


def _context(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of what is known of the task besides the task itself."""
    return tuple(name for name in values if name not in (*_SETTINGS, "task"))


def _names(values: Mapping[str, Any]) -> dict[str, str]:
    """What the variables of a template become: the tags between which each value is shown."""
    named = {name: f"<{name}>" for name in ("task", *_context(values))}
    return {**named, "context": ", ".join(f"<{name}>" for name in _context(values)) or "(none is given)"}


def _seen(template: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The inputs that a step may see by its template."""
    named = variables(template)
    return tuple(name for name in ("task", *_context(values)) if name in named or (name != "task" and "context" in named))


def _grow(sofar: SoFar) -> Plan | None:
    if _worked(sofar.plan):
        return None
    read = understood(sofar, _FIRST, lambda result: _approaches(sofar, result))
    if read.value is None:
        return read.again
    steps = tuple(_step(sofar, step, number) for number, step in enumerate(read.value.steps, 1))
    return msgspec.structs.replace(sofar.with_steps(steps, [step.id for step in steps]), analysis=read.value.analysis)


def _worked(plan: Plan) -> list[Step]:
    """The steps of the approaches."""
    return [step for step in plan.steps if step.id.startswith("approach-")]


def _approaches(sofar: SoFar, result: StepResult) -> Plan:
    known = Known(default_type=str(sofar.inputs["type"]), most_steps=50)
    plan = read_plan(result.text, form=_form(sofar.inputs), author="model", known=known)
    if not _LEAST <= len(plan.steps) <= _MOST:
        count = len(plan.steps)
        raise SourceError([Problem("the answer", 0, f"it has {count} approach{'es' * (count != 1)}", f"give {_LEAST} to {_MOST}")])
    return plan


def _step(sofar: SoFar, approach: Step, number: int) -> Step:
    template = str(sofar.inputs[_WORKER_TEMPLATE])
    told = {**_names(sofar.inputs), "type": approach.type, "description": approach.instructions}
    return Step(
        id=f"approach-{number}",
        type=approach.type,
        expert=_WORKER,
        instructions=fill(template, told, name=_WORKER_TEMPLATE),
        context=_seen(template, sofar.inputs),
        on_failure="skip",
    )


def _value(outcome: Outcome) -> dict[str, Any]:
    """``analysis``, and for each approach ``{type, description, result}``; one that failed has ``error`` and no result."""
    steps = _worked(outcome.plan)
    first = answer(outcome, _FIRST)
    approaches: tuple[Step, ...] = ()
    if steps:
        known = Known(default_type=str(outcome.inputs["type"]), most_steps=50)
        approaches = read_plan(first.text, form=_form(outcome.inputs), author="model", known=known).steps
    rows = []
    for step, approach in zip(steps, approaches, strict=True):
        result = outcome.result(step.id)
        row = {"type": step.type, "description": approach.instructions, "result": result.text if result.state == "done" else None}
        rows.append(row if result.state == "done" else {**row, "error": result.error})
    return {"analysis": outcome.plan.analysis, "results": rows}


GROWTH = Growth(_grow, _value, (_WORKER,), re.compile(r"approach-|orchestrate_2$"), _begin)
