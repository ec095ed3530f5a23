"""A contract from bare examples, and in words what was inferred."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .shapes import Contract, JsonShape, Labels, Shape, TextShape, count_lines, count_words, normalise_label
from .validate import parse_json

_LABEL_CHARS = 48
_LABEL_WORDS = 6
_FEW = 3
_REPEATED = 0.6
_ENUM_MOST = 12


def infer(outputs: Sequence[str]) -> Contract:
    """The contract that ``outputs`` (as they stand in the examples, at least one) have in common.

    Objects and arrays make a JSON Schema; few distinct short answers make labels; anything else that parses as
    JSON a schema again; the rest is text with the limits seen.
    """
    values = _parsed(outputs)
    if values is not None and all(isinstance(value, dict | list) for value in values):
        shape: Shape = JsonShape(json.dumps(infer_schema(values), ensure_ascii=False))
    elif _look_like_labels(outputs):
        shape = Labels(_distinct(outputs))
    elif values is not None:
        shape = JsonShape(json.dumps(infer_schema(values), ensure_ascii=False))
    else:
        shape = _observed_limits(outputs)
    return Contract(shape, inferred=True)


def explain(contract: Contract) -> str:
    """One sentence about what an inferred contract was read from and what of it is a rule."""
    shape = contract.shape
    if isinstance(shape, Labels):
        return (
            f"labels: the examples use {len(shape.labels)} different short outputs; "
            "other answers are counted, not refused, until the labels stand in the file"
        )
    if isinstance(shape, JsonShape):
        schema = json.loads(shape.schema)
        keys = schema.get("properties", {})
        required = schema.get("required", [])
        optional = [key for key in keys if key not in required]
        types = schema["type"]
        parts = [f"JSON ({types if isinstance(types, str) else ' or '.join(types)})"]
        if required:
            parts.append(f"required keys {', '.join(required)}")
        if optional:
            parts.append(f"optional keys {', '.join(optional)}")
        return "; ".join(parts) + "; types and required keys are enforced, values and bounds are only described"
    if isinstance(shape, TextShape) and shape.max_words is not None:
        return f"text of {shape.min_words} to {shape.max_words} words as seen in the examples; the limits are described, not enforced"
    return "text"


def _parsed(outputs: Sequence[str]) -> list[Any] | None:
    try:
        return [parse_json(output) for output in outputs]
    except ValueError:
        return None


def _distinct(outputs: Sequence[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for output in outputs:
        first.setdefault(normalise_label(output), output.strip())
    return tuple(first.values())


def _look_like_labels(outputs: Sequence[str]) -> bool:
    if any(len(o) > _LABEL_CHARS or "\n" in o or "\r" in o or not 0 < count_words(o) <= _LABEL_WORDS for o in outputs):
        return False
    distinct = len({normalise_label(output) for output in outputs})
    return len(outputs) <= _FEW or distinct <= _REPEATED * len(outputs)


def _observed_limits(outputs: Sequence[str]) -> TextShape:
    words = [count_words(output) for output in outputs]
    lines = [count_lines(output) for output in outputs]
    return TextShape(min_words=min(words), max_words=max(words), max_lines=max(lines))


def infer_schema(values: Sequence[Any]) -> dict[str, Any]:
    """A JSON Schema (2020-12) that all ``values`` satisfy: types, required and optional keys, items, few-valued texts."""
    types = sorted({_type(value) for value in values})
    if "number" in types and "integer" in types:
        types.remove("integer")
    schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
    objects = [value for value in values if isinstance(value, dict)]
    if objects:
        schema |= _object_schema(objects)
    items = [item for value in values if isinstance(value, list) for item in value]
    if items:
        schema["items"] = infer_schema(items)
    texts = [value for value in values if isinstance(value, str)]
    if types == ["string"] and len(set(texts)) <= _ENUM_MOST and _look_like_labels(texts) and len(texts) > _FEW:
        schema["enum"] = list(dict.fromkeys(texts))
    return schema


def _object_schema(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = list(dict.fromkeys(key for value in objects for key in value))
    return {
        "properties": {key: infer_schema([value[key] for value in objects if key in value]) for key in keys},
        "required": [key for key in keys if all(key in value for value in objects)],
        "additionalProperties": False,
    }


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
