"""A contract's JSON Schema as the structured output of each provider.

Only what helps is sent. Free text needs no schema (it would come back as an escaped string that can't be streamed), a
schema that a provider would narrow against its meaning is not sent at all, and an answer that is no object is asked
for as ``{"answer": …}``, since both providers want an object at the top, and unwrapped when it comes back.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from ...contract.validate import parse_json

ANSWER = "answer"

Schema = dict[str, Any]


class Structure(msgspec.Struct, frozen=True):
    """What to ask a provider for. ``schema`` is shared between calls and must not be changed."""

    schema: Schema
    strict: bool = False


class _UnfitError(Exception):
    """The schema uses something that the provider's form of it does not have."""


@lru_cache(maxsize=256)
def openai_structure(schema: str) -> Structure | None:
    """The schema for ``response_format``: strict where it qualifies, else as a description; ``None`` for no schema."""
    whole = _rooted(schema)
    if whole is None:
        return None
    try:
        return Structure(_strict_whole(whole), strict=True)
    except (_UnfitError, RecursionError):
        return Structure(whole)


@lru_cache(maxsize=256)
def anthropic_structure(schema: str) -> Structure | None:
    """The schema for ``output_config.format``, as the SDK's own transform makes it; ``None`` for no schema."""
    whole = _rooted(schema)
    if whole is None:
        return None
    try:
        _check_references(whole)
        return Structure(_transformed(whole), strict=True)
    except (_UnfitError, RecursionError):
        return None


@lru_cache(maxsize=256)
def is_wrapped(schema: str) -> bool:
    """Whether an answer to this schema is asked for inside an object."""
    parsed = _parsed(schema)
    return parsed is not None and _shape(parsed) == "value"


def unwrap(text: str) -> str:
    """The answer inside ``{"answer": …}``: a text bare, another value as JSON. What is no such object stays as it is."""
    try:
        value = parse_json(text.strip())
    except ValueError:
        # Cut off, or no JSON: whoever checks the contract says so, about the text that really came.
        return text
    if not isinstance(value, dict) or set(value) != {ANSWER}:
        return text
    inner = value[ANSWER]
    return inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)


_META = frozenset({"$schema", "$id", "$comment"})
"""Keys about the schema itself."""


def _parsed(schema: str) -> Schema | None:
    if not schema:
        return None
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _rooted(schema: str) -> Schema | None:
    """The schema with an object at the top, or ``None`` when it asks for free text or its top can't be told."""
    parsed = _parsed(schema)
    shape = _shape(parsed) if parsed is not None else ""
    if parsed is None or not shape:
        return None
    whole = {key: value for key, value in parsed.items() if key not in _META}
    if shape == "object":
        return whole
    if any(reference.startswith("#") and not reference.startswith("#/$defs/") for reference in _references(whole)):
        return None
    definitions = whole.pop("$defs", None)
    wrapper: Schema = {"type": "object", "properties": {ANSWER: whole}, "required": [ANSWER], "additionalProperties": False}
    return {"$defs": definitions, **wrapper} if definitions else wrapper


def _shape(schema: Schema) -> str:
    """``object``, ``value`` (to be wrapped), or empty for what gets no structured output.

    A top that may be an object or something else is left alone: unwrapping could not tell its objects from ours.
    """
    literals = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if literals is not None:
        scalar = isinstance(literals, list) and literals and all(_is_scalar(value) for value in literals)
        return "value" if scalar else ""
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else []
    if kinds == ["object"]:
        return "object"
    if not kinds or "object" in kinds or kinds == ["string"]:
        return ""
    return "value"


# --- OpenAI -----------------------------------------------------------------------------------------------

_ANNOTATIONS = _META | frozenset({"examples", "default", "deprecated", "readOnly", "writeOnly"})
"""Keys that allow and forbid nothing; strict mode refuses some of them."""

_EVERYWHERE = frozenset({"type", "title", "description", "enum", "const", "anyOf", "$ref", "$defs"})
_STRICT_KEYS = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
}
_STRICT_KEYS["integer"] = _STRICT_KEYS["number"]
_STRICT_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
# Limits as users of structured outputs report them (no official page was at hand); a schema beyond them goes as a description.
_MAX_DEPTH, _MAX_PROPERTIES, _MAX_LITERALS = 10, 5000, 1000


def _strict_whole(schema: Schema) -> Schema:
    strict = _strict(schema, 1)
    if "anyOf" in strict or sum(len(keys) for keys in _all(strict, "properties")) > _MAX_PROPERTIES:
        raise _UnfitError
    if sum(len(values) for values in _all(strict, "enum")) > _MAX_LITERALS:
        raise _UnfitError
    return strict


def _strict(schema: Any, depth: int) -> Schema:
    """``schema`` in strict mode's subset: nothing optional, nothing open. Raises when that would change its meaning."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        raise _UnfitError
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    allowed = _EVERYWHERE.union(*(_STRICT_KEYS.get(name, frozenset()) for name in kinds if isinstance(name, str)))
    strict = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
    if not set(strict) <= allowed or ("$ref" in strict and len(strict) > 1):
        raise _UnfitError
    if not set(strict) & {"type", "enum", "const", "anyOf", "$ref"} or strict.get("format", "date") not in _STRICT_FORMATS:
        raise _UnfitError
    if "object" in kinds:
        properties = _closed(strict)
        strict["properties"] = {name: _strict(child, depth + 1) for name, child in properties.items()}
        strict["additionalProperties"] = False
    if "array" in kinds:
        strict["items"] = _strict(strict.get("items"), depth + 1)
    if "anyOf" in strict:
        strict["anyOf"] = [_strict(child, depth + 1) for child in strict["anyOf"]]
    if "$defs" in strict:
        strict["$defs"] = {name: _strict(child, depth) for name, child in strict["$defs"].items()}
    return strict


def _closed(schema: Schema) -> Schema:
    """The properties of an object that has these and no others, all of them required."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties or schema.get("additionalProperties", False) is not False:
        raise _UnfitError
    if set(schema.get("required", ())) != set(properties):
        raise _UnfitError
    return properties


# --- Anthropic --------------------------------------------------------------------------------------------

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})


def _transformed(schema: Any) -> Schema:
    """As ``transform_schema`` of the anthropic package: what the API does not enforce goes into the description.

    Where that function would forbid what the schema means to allow (an object with free keys), or fails, this raises;
    several types become ``anyOf``, which it does not know.
    """
    if not isinstance(schema, dict):
        raise _UnfitError
    rest = dict(schema)
    made: Schema = {}
    if "$defs" in rest:
        made["$defs"] = {name: _transformed(child) for name, child in rest.pop("$defs").items()}
    if "$ref" in rest:
        return {**made, "$ref": rest["$ref"]}
    if isinstance(rest.get("type"), list):
        rest = _one_type_each(rest)
    kind = _take_kind(rest, made)
    for name in ("description", "title"):
        if rest.get(name) is not None:
            made[name] = rest[name]
        rest.pop(name, None)
    if kind is not None:
        _take_details(kind, rest, made)
    if rest:
        words = "{" + ", ".join(f"{key}: {value}" for key, value in rest.items()) + "}"
        made["description"] = f"{made['description']}\n\n{words}" if "description" in made else words
    return made


def _one_type_each(schema: Schema) -> Schema:
    about: Schema = {key: schema[key] for key in ("description", "title") if key in schema}
    if "enum" in schema or "const" in schema:
        return {key: value for key, value in schema.items() if key != "type"}
    details = {key: value for key, value in schema.items() if key not in {"type", *about}}
    variants = [{"type": name, **_of_type(name, details)} for name in schema["type"]]
    return {**about, "anyOf": variants}


def _of_type(kind: str, details: Schema) -> Schema:
    known = {
        "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
        "array": {"items", "minItems", "maxItems", "uniqueItems"},
        "string": {"minLength", "maxLength", "pattern", "format"},
    }
    number = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    mine = known.get(kind, number if kind in {"number", "integer"} else set())
    return {key: value for key, value in details.items() if key in mine}


def _take_kind(rest: Schema, made: Schema) -> str | None:
    """Moves what decides the kind of value from ``rest`` to ``made``; the one type that then has details, if any."""
    kind = rest.pop("type", None)
    variants = {name: rest.pop(name, None) for name in ("anyOf", "oneOf", "allOf")}
    literals = rest.get("enum")
    if isinstance(literals, list) and literals and all(_is_scalar(value) for value in literals):
        made["enum"] = rest.pop("enum")
    if "const" in rest and _is_scalar(rest["const"]):
        made["const"] = rest.pop("const")
    literal = "enum" in made or "const" in made
    if literal:
        kind = None
    given = [name for name, value in variants.items() if isinstance(value, list)]
    if given:
        if len(given) > 1 or kind == "object":
            raise _UnfitError  # the SDK's transform keeps the first of them, or empties the object
        name = "allOf" if given == ["allOf"] else "anyOf"
        made[name] = [_transformed(child) for child in variants[given[0]] or ()]
    elif not literal:
        if not isinstance(kind, str) or kind not in _TYPES:
            raise _UnfitError
        made["type"] = kind
    return kind if isinstance(kind, str) else None


def _take_details(kind: str, rest: Schema, made: Schema) -> None:
    if kind == "object":
        properties = rest.pop("properties", None)
        if not isinstance(properties, dict) or not properties or rest.pop("additionalProperties", False) not in {False, None}:
            raise _UnfitError
        made["properties"] = {name: _transformed(child) for name, child in properties.items()}
        made["additionalProperties"] = False
        if rest.get("required") is not None:
            made["required"] = list(rest["required"])
        rest.pop("required", None)
    elif kind == "string":
        _keep_or_describe("format", _FORMATS, rest, made)
    elif kind == "array":
        if rest.get("items") is not None:
            made["items"] = _transformed(rest["items"])
        rest.pop("items", None)
        _keep_or_describe("minItems", {0, 1}, rest, made)


def _keep_or_describe(name: str, kept: Collection[Any], rest: Schema, made: Schema) -> None:
    value = rest.pop(name, None)
    if value in kept:
        made[name] = value
    elif value is not None:
        rest[name] = value  # at the end, where the SDK's transform has it


def _check_references(schema: Schema) -> None:
    """Raises for a reference that is not to ``$defs``, and for a schema that refers to itself: the API has no recursion."""
    definitions = schema.get("$defs", {})
    prefix = "#/$defs/"
    done: set[str] = set()

    def follow(part: Any, above: frozenset[str]) -> None:
        for reference in _references(part):
            name = reference.removeprefix(prefix)
            if not reference.startswith(prefix) or name not in definitions or name in above:
                raise _UnfitError
            if name not in done:
                follow(definitions[name], above | {name})
                done.add(name)

    follow({key: value for key, value in schema.items() if key != "$defs"}, frozenset())


# --- both -------------------------------------------------------------------------------------------------


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _all(schema: Any, key: str) -> Iterator[Any]:
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name == key and isinstance(value, (dict, list)):
                yield value
            yield from _all(value, key)
    elif isinstance(schema, list):
        for value in schema:
            yield from _all(value, key)
