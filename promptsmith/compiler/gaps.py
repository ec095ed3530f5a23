"""What a contract allows and no example shows. Every gap is a name or value of the contract, never an example's text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from ..contract import Contract, JsonShape, Labels, normalise_label
from ..task import Example

GapKind = Literal["label", "present", "absent", "value", "type", "items", "empty"]


class Gap(msgspec.Struct, frozen=True):
    """One thing that no example shows: a label, or at ``path`` of a JSON answer its presence, absence, a value or a type."""

    kind: GapKind
    path: str
    value: str = ""
    """The label, the value as JSON, or the type."""

    def __str__(self) -> str:
        if self.kind == "label":
            return self.value
        place = json.dumps(self.path, ensure_ascii=False) if self.path else "the answer"
        words = {
            "present": "at all",
            "absent": "left out",
            "value": f"as {self.value}",
            "type": f"as {self.value}",
            "items": "with an item",
            "empty": "empty",
        }
        return f"{place} {words[self.kind]}"


def gaps(contract: Contract, examples: Sequence[Example]) -> tuple[Gap, ...]:
    """What ``contract`` allows and ``examples`` do not show, in the contract's order; nothing when there is no example.

    A JSON Schema is read along ``properties`` and ``items``: optional keys always or never there, values of an ``enum``
    and of true or false, types of several, lists never or always empty. Below a key that never occurs, and below other keywords
    (``anyOf``, ``$ref``), nothing is looked for. Free text has no gaps.
    """
    shape = contract.shape
    if not examples or not isinstance(shape, Labels | JsonShape):
        return ()
    if isinstance(shape, Labels):
        shown = {normalise_label(example.output) for example in examples}
        return tuple(Gap("label", "", label) for label in shape.labels if normalise_label(label) not in shown)
    values = [json.loads(example.output) for example in examples if example.json]
    return tuple(dict.fromkeys(_json_gaps(json.loads(shape.schema), values, "")))


def _json_gaps(schema: Any, values: Sequence[Any], path: str) -> Iterator[Gap]:
    if not isinstance(schema, dict) or not values:
        return
    yield from _value_gaps(schema, values, path)
    yield from _key_gaps(schema, [value for value in values if isinstance(value, dict)], path)
    if isinstance(schema.get("items"), dict):
        yield from _list_gaps(schema, [value for value in values if isinstance(value, list)], path)


def _value_gaps(schema: dict[str, Any], values: Sequence[Any], path: str) -> Iterator[Gap]:
    kinds = schema.get("type", ())
    allowed = schema.get("enum", [True, False] if kinds == "boolean" else ())
    shown = set(map(_written, values)) if allowed else set()
    yield from (Gap("value", path, _written(value)) for value in allowed if _written(value) not in shown)
    if isinstance(kinds, list) and len(kinds) > 1:
        seen = set(map(_kind, values))
        yield from (Gap("type", path, kind) for kind in kinds if not _is_kind(kind, seen))


def _key_gaps(schema: dict[str, Any], objects: Sequence[dict[str, Any]], path: str) -> Iterator[Gap]:
    required = schema.get("required", ())
    for key, child in schema.get("properties", {}).items() if objects else ():
        inside, place = [value[key] for value in objects if key in value], f"{path}.{key}" if path else key
        if key not in required and child is not False:
            if not inside:
                yield Gap("present", place)
            elif len(inside) == len(objects):
                yield Gap("absent", place)
        yield from _json_gaps(child, inside, place)


def _list_gaps(schema: dict[str, Any], lists: Sequence[list[Any]], path: str) -> Iterator[Gap]:
    if not lists:
        return
    if not any(lists) and schema.get("maxItems") != 0:
        yield Gap("items", path)
    if all(lists) and not schema.get("minItems"):
        yield Gap("empty", path)
    yield from _json_gaps(schema["items"], [item for value in lists for item in value], f"{path}[]")


def _written(value: Any) -> str:
    # JSON Schema holds 1 and 1.0 to be equal, Python holds True and 1 to be equal as well.
    number = value if not isinstance(value, float) or not value.is_integer() else int(value)
    return json.dumps(number, ensure_ascii=False, sort_keys=True)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _is_kind(kind: str, seen: Iterable[str]) -> bool:
    return kind in seen or (kind == "number" and "integer" in seen)
