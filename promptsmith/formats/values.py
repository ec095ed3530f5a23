"""What every importer hands over and every exporter takes, and the list of what could not be carried."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ..canonical import Scalar
from ..catalog.models import facts
from ..contract import shorten
from ..errors import Problem
from ..prompt import TEXT_INPUT, Prompt, Variable
from ..redact import redact
from ..task import Example, Where
from ..task.document import MappingNode, Node, ScalarNode, SequenceNode, typed


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a foreign file: inputs by variable, the right answer (JSON when it is no text), and where it stands."""

    inputs: Mapping[str, str]
    output: Any
    where: Where
    id: str = ""


class Here(msgspec.Struct, frozen=True):
    """What an importer needs to know of the project: its endpoints, and the judge of rubrics that name none."""

    endpoints: tuple[str, ...] = ()
    judge: str = ""


class Foreign(msgspec.Struct, frozen=True, kw_only=True):
    """A foreign file in our words. What it holds besides stands in the :class:`Notes` of its reading."""

    name: str = ""
    description: str = ""
    prompt: str = ""
    """A system prompt to be used byte for byte; empty when the file holds none."""
    inputs: tuple[Variable, ...] = ()
    output: Any = None
    """As a task file has it: labels, ``"text"`` or ``{"json": schema}``; ``None`` lets the cases decide."""
    cases: tuple[Case, ...] = ()
    model: str = ""
    parameters: Mapping[str, Scalar] = {}
    scorers: tuple[Any, ...] = ()


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """What an exporter is given: a compiled prompt, the visible examples of its task, and never a sealed case."""

    prompt: Prompt
    examples: tuple[Example, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.prompt.task}@{self.prompt.id[:12]}"

    @property
    def names(self) -> list[str]:
        """The names of its inputs, :data:`TEXT_INPUT` for the one free text."""
        return [variable.name for variable in self.prompt.inputs] or [TEXT_INPUT]


class Notes:
    """Everything that has no equivalent on the other side, with its place."""

    def __init__(self, file: str = "") -> None:
        self.file = file
        self._found: list[tuple[Where, str]] = []

    def of(self, file: str) -> Notes:
        """The notes of a file that this one names; all are kept together."""
        other = Notes(file)
        other._found = self._found
        return other

    def where(self, node: Node | Where | None) -> Where:
        """A node's place in this file."""
        if isinstance(node, Where):
            return node
        return Where(self.file) if node is None else Where(self.file, node.line, node.path)

    def left(self, node: Node | Where | None, what: str) -> None:
        """Notes that something was not carried over, or was changed on the way."""
        self._found.append((self.where(node), what))

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[str]:
        """The notes, each once: what holds for several places names all of them. Secrets are taken out."""
        grouped: dict[tuple[str, str], list[Where]] = {}
        for where, what in self._found:
            grouped.setdefault((where.file, what), []).append(where)
        for (file, what), places in grouped.items():
            paths = list(dict.fromkeys(place.path for place in places if place.path))
            lines = list(dict.fromkeys(place.line for place in places if place.line))
            more = f" (also {_listed(lines[1:] or paths[1:])})" if len(lines) > 1 or len(paths) > 1 else ""
            place = f"{paths[0]}: " if paths and not lines else ""
            yield redact(str(Problem(file, lines[0] if lines else 0, f"{place}{what}{more}")))


def _listed(places: Sequence[object]) -> str:
    lines = all(isinstance(place, int) for place in places)
    return ("line " if len(places) == 1 else "lines ") * lines + ", ".join(map(str, places))


class Part:
    """One mapping of a foreign file. What nobody takes from it is noted when the ``with`` block ends, so nothing is lost unseen."""

    def __init__(self, node: Node | None, notes: Notes, what: str) -> None:
        self.node, self.notes, self.what = node, notes, what
        self._taken: set[str] = set()
        self._pairs: dict[str, tuple[ScalarNode, Node]] = {}
        if isinstance(node, MappingNode):
            self._pairs = {key.text: (key, value) for key, value in node.pairs}
        elif node is not None:
            notes.left(node, f"{what} is no mapping; it is left out")

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        for name, (key, _value) in self._pairs.items():
            if name not in self._taken:
                self.notes.left(key, f"{shorten(name)} of {self.what} has no equivalent; it is left out")

    def __contains__(self, name: str) -> bool:
        return name in self._pairs

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def key(self, name: str) -> Node:
        """Where the key stands."""
        return self._pairs[name][0]

    def take(self, *names: str) -> Node | None:
        """The node under the first of ``names`` that there is."""
        for name in names:
            if name in self._pairs:
                self._taken.add(name)
                return self._pairs[name][1]
        return None

    def text(self, *names: str) -> str:
        """The text under the first of ``names`` that there is, empty without one; anything but a scalar is noted."""
        node = self.take(*names)
        if node is None:
            return ""
        if isinstance(node, ScalarNode):
            return "" if node.plain and typed(node) is None else node.text
        self.notes.left(node, f"{shorten(names[0])} of {self.what} is no text; it is left out")
        return ""

    def items(self, *names: str) -> tuple[Node, ...]:
        """The items of the list under the first of ``names`` that there is; anything but a list is noted."""
        node = self.take(*names)
        if isinstance(node, SequenceNode):
            return node.items
        if node is not None and not (isinstance(node, ScalarNode) and typed(node) is None):
            self.notes.left(node, f"{shorten(names[0])} of {self.what} is no list; it is left out")
        return ()


# --- models -----------------------------------------------------------------------------------------------

PARAMETERS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "topP": "top_p",
    "max_tokens": "max_tokens",
    "maxTokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "maxOutputTokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "seed": "seed",
    "stop": "stop",
    "stopSequences": "stop",
    "stop_sequences": "stop",
    "frequency_penalty": "frequency_penalty",
    "frequencyPenalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "presencePenalty": "presence_penalty",
    "reasoning_effort": "effort",
    "reasoningEffort": "effort",
    "effort": "effort",
}
"""The names that foreign files have for the parameters of a call, and ours."""
_BUILT_IN = ("openai", "anthropic")
# openai/gpt-4o, and promptfoo's openai:chat:gpt-4o.
_QUALIFIED = re.compile(r"([\w.-]+)(?:/|:(?:chat:|completion:|responses:|messages:)?)(.+)")
_BY_START = {"gpt-": "openai", "o1": "openai", "o3": "openai", "o4": "openai", "chatgpt-": "openai", "claude": "anthropic"}


def model_name(written: str, here: Here, notes: Notes, node: Node | None, provider: str = "") -> str:
    """A foreign model's name as ``endpoint/model``; empty (and noted) when this project has no such endpoint.

    ``provider`` is what the file calls the model's maker, where that stands apart.
    """
    found = _QUALIFIED.fullmatch(written)
    maker, model = (found[1], found[2]) if found else (provider, written)
    maker = maker.lower() or next((maker for start, maker in _BY_START.items() if model.startswith(start)), "")
    if maker in (*_BUILT_IN, *here.endpoints) and model:
        name = f"{maker}/{model}"
        if name != written:
            notes.left(node, f"the model {shorten(written)} is taken for {name}")
        return name
    where = f"there is no endpoint {maker!r} in this project" if maker else "nothing tells at which endpoint it is"
    notes.left(node, f"the model {shorten(written)} is left out: {where}")
    return ""


def parameters(part: Part, model: str) -> dict[str, Scalar]:
    """The parameters of a call among the keys of ``part``; the others stay for it to note."""
    found: dict[str, Scalar] = {}
    known = facts(model) if model else None
    for name in part:
        ours = PARAMETERS.get(name)
        if ours is None:
            continue
        node = part.take(name)
        if isinstance(node, SequenceNode) and len(node.items) == 1:
            node = node.items[0]
        value = typed(node) if isinstance(node, ScalarNode) else None
        if value is None:
            part.notes.left(node, f"the parameter {name} is no single value; it is left out")
        elif not model:
            part.notes.left(node, f"the parameter {name} is left out, as its model is")
        elif known is not None and ours in {"temperature", "top_p"} and not known.temperature:
            part.notes.left(node, f"the parameter {name} is left out: {model} does not take it")
        else:
            found[ours] = value
    return found


def response_format(node: Node | None, notes: Notes) -> Any:
    """The output that OpenAI's ``response_format`` (or ``text.format``) asks for, as a task file has it."""
    with Part(node, notes, "the response format") as form:
        kind = form.text("type")
        if kind == "json_schema":
            # Chat completions hold name, schema and strict one level deeper than the Responses API.
            inner = form.take("json_schema")
            if inner is None:
                return named_schema(form, notes)
            with Part(inner, notes, "the response format") as own:
                return named_schema(own, notes)
        if kind not in ("", "text", "json_object"):
            notes.left(node, f"the response format {shorten(kind)} is left out")
        return {"json": {"type": "object"}} if kind == "json_object" else None


def named_schema(part: Part, notes: Notes) -> Any:
    """The schema among a name, a description and ``strict``; ``None`` (and noted) when there is none."""
    node = part.take("schema")
    if not isinstance(node, MappingNode):
        notes.left(part.node, "there is no JSON Schema under 'schema'; the response format is left out")
        return None
    return {"json": typed(node)}


def joined(texts: Sequence[str]) -> str:
    """Texts as paragraphs; empty ones do not count."""
    return "\n\n".join(text for text in texts if text.strip())
