"""Structured output: which schemas each provider accepts, and texts that satisfy simple ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .refused import Refused

Schema = Mapping[str, Any]

_DEPTH = 10
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SHAPES = frozenset(
    {"$defs", "$ref", "additionalProperties", "anyOf", "definitions", "items", "minItems", "properties", "required", "type"}
)
_COMMON = _SHAPES | {"const", "description", "enum", "format", "title"}
_OPENAI_KEYWORDS = _COMMON | {
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maxItems",
    "maximum",
    "minimum",
    "multipleOf",
    "pattern",
}
_ANTHROPIC_KEYWORDS = _COMMON | {"$schema", "allOf", "default"}
_ANTHROPIC_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})


# --- what OpenAI accepts under strict ---------------------------------------------------------------------


def check_openai(name: str, schema: Schema, *, strict: bool, field: str) -> None:
    """Raises the 400 that OpenAI answers to a bad name, or under ``strict`` to a schema outside its subset."""
    if not _NAME.fullmatch(name):
        message = f"Invalid '{field}.name': string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        raise Refused(400, message, param=f"{field}.name", code="invalid_value")
    if not strict:
        return
    fault = "schema must be a JSON Schema of 'type: \"object\"'" if schema.get("type") != "object" else _openai_fault(schema, (), 1)
    if fault:
        where = fault if fault.startswith("In context=") else f"{fault}, got 'type: {json.dumps(schema.get('type'))}'."
        raise Refused(
            400, f"Invalid schema for response_format '{name}': {where}", param=field.partition(".")[0], code="invalid_json_schema"
        )


def _openai_fault(schema: object, context: tuple[str, ...], depth: int) -> str:
    """The first fault in document order, or an empty text."""
    at = f"In context={context!r}, "
    if not isinstance(schema, Mapping):
        return at + "schema must be an object."
    if depth > _DEPTH:
        return at + f"the schema has more than {_DEPTH} levels of nesting."
    for keyword in schema:
        if keyword not in _OPENAI_KEYWORDS:
            return at + f"'{keyword}' is not permitted."
    if not schema.keys() & {"type", "$ref", "anyOf", "enum", "const"}:
        return at + "schema must have a 'type' key."
    return _openai_object_fault(schema, at) or _openai_inner_fault(schema, context, depth)


def _openai_object_fault(schema: Schema, at: str) -> str:
    if schema.get("type") == "array" and "items" not in schema:
        return at + "array schema missing items."
    if schema.get("type") != "object" and "properties" not in schema:
        return ""
    if schema.get("additionalProperties") is not False:
        return at + "'additionalProperties' is required to be supplied and to be false."
    missing = [name for name in schema.get("properties", {}) if name not in schema.get("required", ())]
    if missing or set(schema.get("required", ())) - set(schema.get("properties", {})):
        last = f" Missing '{missing[0]}'." if missing else ""
        return at + "'required' is required to be supplied and to be an array including every key in properties." + last
    return ""


def _openai_inner_fault(schema: Schema, context: tuple[str, ...], depth: int) -> str:
    for group in ("properties", "$defs", "definitions"):
        step = 0 if group != "properties" else 1
        for name, inner in schema.get(group, {}).items():
            if fault := _openai_fault(inner, (*context, group, name), depth + step):
                return fault
    if "items" in schema and (fault := _openai_fault(schema["items"], (*context, "items"), depth + 1)):
        return fault
    for place, inner in enumerate(schema.get("anyOf", ())):
        if fault := _openai_fault(inner, (*context, "anyOf", str(place)), depth):
            return fault
    return ""


# --- what Anthropic accepts -------------------------------------------------------------------------------


def check_anthropic(schema: Schema) -> None:
    """Raises the 400 that Anthropic answers to a schema outside its subset."""
    if fault := _anthropic_fault(schema):
        raise Refused(400, f"output_config.format.schema: {fault}")


def _anthropic_fault(schema: object) -> str:
    if not isinstance(schema, Mapping):
        return "Input should be a valid dictionary"
    kind = schema.get("type")
    unsupported = sorted(keyword for keyword in schema if keyword not in _ANTHROPIC_KEYWORDS)
    if unsupported:
        return f"For {str(kind)!r} type, properties {', '.join(unsupported)} are not supported"
    if not schema.keys() & {"type", "$ref", "anyOf", "allOf", "enum", "const"}:
        return "Schema type is required"
    if (kind == "object" or "properties" in schema) and schema.get("additionalProperties") is not False:
        return "For 'object' type, 'additionalProperties' must be explicitly set to false"
    if schema.get("minItems", 0) not in {0, 1}:
        return "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    if "format" in schema and schema["format"] not in _ANTHROPIC_FORMATS:
        return f"For 'string' type, format {schema['format']!r} is not supported"
    if any(isinstance(value, (dict, list)) for value in schema.get("enum", ())):
        return "Enum values must be strings, numbers, booleans or null"
    inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("definitions", {}).values()]
    inner += [*schema.get("anyOf", ()), *schema.get("allOf", ()), *([schema["items"]] if "items" in schema else [])]
    return next((fault for part in inner if (fault := _anthropic_fault(part))), "")


# --- texts that fit ---------------------------------------------------------------------------------------


def fit(text: str, schema: Schema) -> str:
    """A JSON text that satisfies ``schema`` and says ``text`` where it can.

    A text that is such JSON already passes as it is. Simple schemas only: bounds and patterns are not looked at.
    """
    try:
        given: object = json.loads(text)
    except ValueError:
        given = text
    return json.dumps(_fit(given, schema, schema, text), ensure_ascii=False)


def _fit(given: object, schema: Schema, root: Schema, text: str) -> object:
    if "$ref" in schema:
        return _fit(given, _resolve(schema["$ref"], root), root, text)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _choose(given, schema["enum"])
    if schema.get("anyOf"):
        options = [option for option in schema["anyOf"] if _alike(given, option)] or schema["anyOf"]
        return _fit(given, options[0], root, text)
    kind = schema.get("type")
    if isinstance(kind, list):
        return _fit(given, {"anyOf": [{**schema, "type": one} for one in kind]}, root, text)
    return _fit_kind(given, schema, root, text)


def _fit_kind(given: object, schema: Schema, root: Schema, text: str) -> object:
    kind = schema.get("type")
    if kind == "object":
        known = given if isinstance(given, dict) else {}
        if "properties" not in schema:
            return known
        names = [name for name in schema.get("properties", {}) if name in known or name in schema.get("required", ())]
        return {name: _fit(known.get(name, given), schema["properties"][name], root, text) for name in names}
    if kind == "array":
        items = given if isinstance(given, list) else [given]
        return [_fit(item, schema.get("items", {}), root, text) for item in items]
    return _scalar(given, kind, text)


def _scalar(given: object, kind: object, text: str) -> object:
    if kind == "string":
        return given if isinstance(given, str) else text
    if kind in {"integer", "number"}:
        number = re.search(r"-?\d+(?:\.\d+)?", given if isinstance(given, str) else json.dumps(given))
        value = float(number[0]) if number else 0.0
        return int(value) if kind == "integer" or value.is_integer() else value
    if kind == "boolean":
        return given if isinstance(given, bool) else str(given).strip().casefold() in {"true", "yes", "1"}
    return None if kind == "null" else given


def _choose(given: object, options: list[object]) -> object:
    if given in options:
        return given
    words = str(given).casefold()
    return next((option for option in options if str(option).casefold() in words), options[0])


def _alike(given: object, schema: Schema) -> bool:
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = schema.get("type")
    if "enum" in schema:
        return given in schema["enum"]
    if "const" in schema:
        return bool(given == schema["const"])
    if kind in {"integer", "number"}:
        return isinstance(given, (int, float)) and not isinstance(given, bool)
    return kind in kinds and isinstance(given, kinds[str(kind)])


def _resolve(reference: str, root: Schema) -> Schema:
    node: Any = root
    for key in reference.removeprefix("#/").split("/") if reference != "#" else ():
        node = node[key]
    assert isinstance(node, Mapping)
    return node
