"""The JSON Schema of a plan that a conductor writes, in the part of the language that providers enforce.

Every key is required and no other allowed, and a value of any shape (``output``, ``arguments``) is a text that holds YAML
or JSON: a strict schema has no open objects. What is left out is an empty text or list; only numbers may be null, since
providers limit how many keys of a schema may have two types.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...task.fields import Key, Schema
from .known import Known, rules
from .tables import FAILURES, expert_table, plan_table, step_table

_TEXT: Schema = {"type": "string"}
_NAMES: Schema = {"type": "array", "items": {"type": "string"}}
_PLAN = {"analysis": _TEXT, "result": _NAMES, "synthesis": _TEXT}
_EXPERT = {"name": _TEXT, "role": _TEXT, "scope": _TEXT, "instructions": _TEXT, "model": _TEXT}
_STEP: dict[str, Schema] = {
    "id": _TEXT,
    "type": _TEXT,
    "expert": _TEXT,
    "worker": _TEXT,
    "instructions": _TEXT,
    "needs": _NAMES,
    "context": _NAMES,
    "problem": {"type": "boolean"},
    "output": _TEXT,
    "arguments": _TEXT,
    "on_failure": {"type": "string", "enum": list(FAILURES)},
    "fallback": _TEXT,
    "max_tokens": {"type": ["integer", "null"]},
    "timeout": {"type": ["number", "null"]},
    "retries": {"type": "integer"},
}


def plan_schema(known: Known | None = None) -> dict[str, Any]:
    """JSON Schema of a plan for structured output. With ``known``, only its workers and models can be named."""
    held = rules("model", "json", known or Known(), Path())
    step = _STEP if known is None else {**_STEP, "worker": _one_of(known.workers), "fallback": _models(known)}
    expert = _EXPERT if known is None else {**_EXPERT, "model": _models(known)}
    schema = _object(_PLAN, plan_table(held).keys)
    parts = {
        "experts": {"type": "array", "items": _object(expert, expert_table(held).keys)},
        "steps": {"type": "array", "items": _object(step, step_table(held).keys)},
    }
    ordered = {"analysis": schema["properties"].pop("analysis"), **parts, **schema["properties"]}
    return {**schema, "properties": ordered, "required": list(ordered)}


def _models(known: Known) -> Schema:
    return _TEXT if known.models is None else _one_of(known.models)


def _one_of(names: frozenset[str]) -> Schema:
    return {"type": "string", "enum": ["", *sorted(names)]}


def _object(kinds: dict[str, Schema], keys: dict[str, Key]) -> Schema:
    """An object with these keys; the tables say what they are about."""
    properties = {name: {"description": keys[name].about, **kind} for name, kind in kinds.items()}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
