"""Writes a plan as YAML that a person can read, edit and run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from ...contract import Contract, JsonShape, Labels
from ...errors import InputError
from ...registry.emit import emit
from ...task.values import Where
from ..values import Expert, Input, Plan, Step

_PLAN = ("name", "about", "analysis", "inputs", "experts", "steps", "result", "synthesis", "limits", "grows")
_STEP = (
    "id", "type", "expert", "worker", "instructions", "needs", "context", "problem", "output", "arguments",
    "on_failure", "fallback", "max_tokens", "timeout", "retries",
)  # fmt: skip


def plan_yaml(plan: Plan) -> str:
    """The plan as YAML, its keys in a fixed order.

    ``read_plan`` reads an equal plan from it, but for the lines on which its steps stand. Raises :class:`InputError` for
    a contract that no ``output`` can say (one that was inferred, or has checks).
    """
    said: dict[str, Any] = {
        **_given(plan, ("name", "about", "analysis", "synthesis", "grows")),
        "inputs": {one.name: _input(one) for one in plan.inputs},
        "experts": [_given(one, Expert.__struct_fields__) for one in plan.experts],
        "steps": [_step(step) for step in plan.steps],
        "result": list(plan.result),
        "limits": _given(plan.limits, plan.limits.__struct_fields__),
    }
    return emit({key: said[key] for key in _PLAN if said.get(key)})


def without_places(plan: Plan) -> Plan:
    """The plan without the lines on which its steps stand: equal for equal plans, however they were written."""
    return msgspec.structs.replace(plan, steps=tuple(msgspec.structs.replace(step, where=Where()) for step in plan.steps))


def _given(value: msgspec.Struct, names: tuple[str, ...]) -> dict[str, Any]:
    """What of a value is not left at its default."""
    defaults = _defaults(type(value))
    found = {name: getattr(value, name) for name in names}
    return {name: item for name, item in found.items() if item != defaults[name]}


@cache
def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


def _input(one: Input) -> Any:
    said = _given(one, ("about", "default"))
    if one.required != ("default" not in said):
        said["required"] = one.required
    return said or "text"


def _step(step: Step) -> dict[str, Any]:
    said = _given(step, tuple(name for name in _STEP if name != "arguments"))
    if step.arguments:
        said["arguments"] = step.arguments
    if step.output is not None:
        said["output"] = _output(step.output)
    ordered = {name: said[name] for name in _STEP if name in said}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in ordered.items()}


def _output(contract: Contract) -> Any:
    if contract.checks or contract.inferred:
        raise InputError("a step's contract has checks or was inferred, which no output: can say", hint="give it a shape alone")
    shape = contract.shape
    if isinstance(shape, Labels):
        return {"labels": list(shape.labels), "allow_other": True} if shape.allow_other else list(shape.labels)
    if isinstance(shape, JsonShape):
        return {"json": json.loads(shape.schema)}
    limits: Mapping[str, Any] = _given(shape, shape.__struct_fields__)
    return {"text": limits} if limits else "text"
