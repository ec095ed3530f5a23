"""Readers for the parts of a task file: each reads a node, collects what is wrong, and describes itself as JSON Schema.

Pydantic was tried for this: it can't see whether a scalar was quoted, its unions give several errors for one
mistake, and its locations are paths where a person wants a line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from ..errors import did_you_mean
from .document import MappingNode, Node, Problems, ScalarNode, SequenceNode, typed

Schema = dict[str, Any]

_SHARE = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(%?)")


class Bad:
    """What a reader returns for a node it has reported; kept apart from every real value."""

    def __repr__(self) -> str:
        return "BAD"


BAD = Bad()


class Field(Protocol):
    """Reads one node. Returns :data:`BAD` after adding to ``problems``."""

    def read(self, node: Node, problems: Problems) -> Any: ...

    def schema(self) -> Schema: ...


class Key(NamedTuple):
    """One key of a mapping."""

    field: Field
    about: str
    required: bool = False


def kind_of(node: Node) -> str:
    """The node's kind as a person would say it."""
    if isinstance(node, ScalarNode):
        return "nothing" if node.plain and node.text == "" else f"{node.text[:40]!r}"
    return "a list" if isinstance(node, SequenceNode) else "a mapping"


class Written:
    """A scalar as its written text (``yes``, ``1.10`` and ``null`` stay what they are)."""

    def __init__(self, what: str, *, empty: bool = False) -> None:
        self.what, self.empty = what, empty

    def read(self, node: Node, problems: Problems) -> Any:
        if not isinstance(node, ScalarNode):
            problems.add(node, f"{self.what} is {kind_of(node)}", "write one text")
            return BAD
        if not self.empty and not node.text.strip():
            problems.add(node, f"{self.what} is empty", "write a text")
            return BAD
        return node.text

    def schema(self) -> Schema:
        return {"type": ["string", "number", "boolean", "null"]}


class Number:
    """A number within bounds, both included; whole ones only if ``whole``."""

    def __init__(self, what: str, *, low: float = -math.inf, high: float = math.inf, whole: bool = True) -> None:
        self.what, self.low, self.high, self.whole = what, low, high, whole

    def read(self, node: Node, problems: Problems) -> Any:
        value = typed(node) if isinstance(node, ScalarNode) else None
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            problems.add(node, f"{self.what} is {kind_of(node)}", f"write {self._right()}")
            return BAD
        return value

    def _right(self) -> str:
        noun = "a whole number" if self.whole else "a number"
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{noun} from {self.low:g} to {self.high:g}"
        return f"{noun}, {self.low:g} or more" if math.isfinite(self.low) else noun

    def schema(self) -> Schema:
        schema: Schema = {"type": "integer" if self.whole else "number"}
        if math.isfinite(self.low):
            schema["minimum"] = self.low
        if math.isfinite(self.high):
            schema["maximum"] = self.high
        return schema


class Share:
    """A share as a percentage (``1 %``) or a number (``0.01``), read as a number from 0 to 1.

    A bare ``1`` is refused: it could mean all and it could mean one in a hundred.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def read(self, node: Node, problems: Problems) -> Any:
        text = node.text.strip() if isinstance(node, ScalarNode) else ""
        found = _SHARE.fullmatch(text)
        # Decimal: 33.3 / 100 is not 0.333 in binary, and the share is shown to people.
        value = Decimal(found[1]) / (100 if found[2] else 1) if found else Decimal(-1)
        if not 0 <= value <= 1 or text == "1":
            problems.add(node, f"{self.what} is {kind_of(node)}", "write a share such as 1 % or 0.01, up to 100 %")
            return BAD
        return float(value)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": f"^{_SHARE.pattern}$"}]}


class Flag:
    """``true`` or ``false``."""

    def __init__(self, what: str) -> None:
        self.what = what

    def read(self, node: Node, problems: Problems) -> Any:
        value = typed(node) if isinstance(node, ScalarNode) else None
        if not isinstance(value, bool):
            problems.add(node, f"{self.what} is {kind_of(node)}", "write true or false")
            return BAD
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


class Choice:
    """One of a few names."""

    def __init__(self, what: str, names: Sequence[str]) -> None:
        self.what, self.names = what, tuple(names)

    def read(self, node: Node, problems: Problems) -> Any:
        if isinstance(node, ScalarNode) and node.text in self.names:
            return node.text
        near = did_you_mean(node.text, self.names) if isinstance(node, ScalarNode) else ""
        problems.add(node, f"{self.what} is {kind_of(node)}", f"write one of {', '.join(self.names)}{'; ' + near if near else ''}")
        return BAD

    def schema(self) -> Schema:
        return {"enum": list(self.names)}


class Plain:
    """Any value, typed by the YAML 1.2 core schema."""

    def read(self, node: Node, problems: Problems) -> Any:  # noqa: ARG002 - the protocol's signature
        return typed(node)

    def schema(self) -> Schema:
        return {}


class Setting:
    """A text, number, ``true``, ``false`` or ``null``."""

    def __init__(self, what: str) -> None:
        self.what = what

    def read(self, node: Node, problems: Problems) -> Any:
        if not isinstance(node, ScalarNode):
            problems.add(node, f"{self.what} is {kind_of(node)}", "write a text, a number, true or false")
            return BAD
        return typed(node)

    def schema(self) -> Schema:
        return {"type": ["string", "number", "boolean", "null"]}


class ListOf:
    """A list of the same kind of thing. ``least`` is how many there must be."""

    def __init__(self, what: str, item: Field, *, least: int = 0) -> None:
        self.what, self.item, self.least = what, item, least

    def read(self, node: Node, problems: Problems) -> Any:
        if not isinstance(node, SequenceNode):
            problems.add(node, f"{self.what} is {kind_of(node)}", "write a list")
            return BAD
        if len(node.items) < self.least:
            problems.add(node, f"{self.what} has {len(node.items)} entries", f"write at least {self.least}")
            return BAD
        values = [self.item.read(item, problems) for item in node.items]
        return BAD if any(value is BAD for value in values) else values

    def schema(self) -> Schema:
        return {"type": "array", "items": self.item.schema(), "minItems": self.least}


class Record:
    """A mapping with known keys; an unknown one is an error with the nearest known name."""

    def __init__(self, what: str, keys: Mapping[str, Key]) -> None:
        self.what, self.keys = what, dict(keys)

    def read(self, node: Node, problems: Problems) -> Any:
        before = len(problems)
        values = self.parts(node, problems)
        return BAD if len(problems) > before else values

    def parts(self, node: Node, problems: Problems) -> dict[str, Any]:
        """What could be read, with :data:`BAD` for the keys whose values could not."""
        if not isinstance(node, MappingNode):
            problems.add(node, f"{self.what} is {kind_of(node)}", f"write a mapping with the keys {', '.join(self.keys)}")
            return {}
        values: dict[str, Any] = {}
        for key, child in node.pairs:
            known = self.keys.get(key.text)
            if known is None:
                near = did_you_mean(key.text, self.keys)
                problems.add(key, f"unknown key {key.text!r} in {self.what}", near or f"the keys are {', '.join(self.keys)}")
            else:
                values[key.text] = known.field.read(child, problems)
        for name, key_spec in self.keys.items():
            if key_spec.required and not any(key.text == name for key, _ in node.pairs):
                problems.add(node, f"{self.what} has no {name!r}", f"add it: {key_spec.about}")
        return values

    def schema(self) -> Schema:
        return {
            "type": "object",
            "properties": {name: {"description": key.about, **key.field.schema()} for name, key in self.keys.items()},
            "required": [name for name, key in self.keys.items() if key.required],
            "additionalProperties": False,
        }


class MapOf:
    """A mapping with keys of the user's own."""

    def __init__(self, what: str, value: Field) -> None:
        self.what, self.value = what, value

    def read(self, node: Node, problems: Problems) -> Any:
        if not isinstance(node, MappingNode):
            problems.add(node, f"{self.what} is {kind_of(node)}", "write a mapping")
            return BAD
        values = {key.text: self.value.read(child, problems) for key, child in node.pairs}
        return BAD if any(value is BAD for value in values.values()) else values

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.value.schema()}


class Convert:
    """Reads with ``inner`` and passes the value on to ``build(value, node, problems)``."""

    def __init__(self, inner: Field, build: Callable[[Any, Node, Problems], Any]) -> None:
        self.inner, self.build = inner, build

    def read(self, node: Node, problems: Problems) -> Any:
        value = self.inner.read(node, problems)
        return BAD if value is BAD else self.build(value, node, problems)

    def schema(self) -> Schema:
        return self.inner.schema()


class ByKind:
    """Dispatches on what stands there, so that one mistake gives one error and not one for each alternative."""

    def __init__(
        self, what: str, right: str, *, scalar: Field | None = None, sequence: Field | None = None, mapping: Field | None = None
    ) -> None:
        self.what, self.right = what, right
        self.scalar, self.sequence, self.mapping = scalar, sequence, mapping

    def read(self, node: Node, problems: Problems) -> Any:
        field = self.scalar if isinstance(node, ScalarNode) else self.sequence if isinstance(node, SequenceNode) else self.mapping
        if field is None or (isinstance(node, ScalarNode) and node.plain and node.text == ""):
            problems.add(node, f"{self.what} is {kind_of(node)}", self.right)
            return BAD
        return field.read(node, problems)

    def schema(self) -> Schema:
        return {"anyOf": [field.schema() for field in (self.scalar, self.sequence, self.mapping) if field]}


class ByKey:
    """A mapping whose one telling key decides which record it is."""

    def __init__(self, what: str, records: Mapping[str, Field]) -> None:
        self.what, self.records = what, dict(records)

    def read(self, node: Node, problems: Problems) -> Any:
        assert isinstance(node, MappingNode)
        telling = [key.text for key, _ in node.pairs if key.text in self.records]
        if len(telling) != 1:
            found = ", ".join(key.text for key, _ in node.pairs) or "no keys"
            near = next((hint for key, _ in node.pairs if (hint := did_you_mean(key.text, self.records))), "")
            problems.add(node, f"{self.what} has {found}", f"write exactly one of {', '.join(self.records)}{'; ' + near if near else ''}")
            return BAD
        return self.records[telling[0]].read(node, problems)

    def schema(self) -> Schema:
        return {"anyOf": [record.schema() for record in self.records.values()]}
