"""Langfuse exports: prompts (text or chat, with config, version and labels) and dataset items, as JSON or JSONL.

Fields as in Langfuse's public API (``GET /api/public/v2/prompts``, ``/api/public/dataset-items``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..contract import shorten
from ..prompt import TEXT_INPUT, Variable
from ..task.document import MappingNode, Node, ScalarNode, SequenceNode, typed
from .github import messages
from .source import Source, row_node
from .templates import Message, fold
from .values import Case, Foreign, Here, Notes, Part, model_name, parameters

_REFERENCE = re.compile(r"@@@langfusePrompt:.*?@@@")
_EXPECTED = ("expectedOutput", "expected_output")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def accepts(source: Source) -> bool:
    """Whether it holds prompts with ``prompt`` beside ``labels``, ``version`` or ``type``, or dataset items."""
    if source.name.endswith(".jsonl"):
        first = source.first_line
        return any(f'"{name}"' in first for name in _EXPECTED) and '"vars"' not in first
    if not source.is_json:
        return False
    prompts, items = _entries(source.tree)
    return bool(prompts or items)


def _keys(node: Node) -> set[str]:
    return {key.text for key, _ in node.pairs} if isinstance(node, MappingNode) else set()


def _entries(tree: Node) -> tuple[list[Node], list[Node]]:
    """The prompts and the dataset items in a document, wherever an export puts its list."""
    nodes: list[Node] = [tree] if isinstance(tree, MappingNode) else list(tree.items) if isinstance(tree, SequenceNode) else []
    if isinstance(tree, MappingNode):
        for key, value in tree.pairs:
            if key.text in ("data", "prompts", "items", "datasetItems") and isinstance(value, SequenceNode):
                nodes += value.items
    prompts = [node for node in nodes if "prompt" in _keys(node) and _keys(node) & {"labels", "version", "type", "config"}]
    items = [node for node in nodes if _keys(node) & set(_EXPECTED) and "input" in _keys(node)]
    return prompts, items


def read(source: Source, notes: Notes, here: Here) -> Foreign:
    """One prompt (that with the label ``production``, else the newest), and the dataset items as cases."""
    if source.name.endswith(".jsonl"):
        rows = list(source.rows())
        return _dataset([(row_node(row), row.where) for row in rows], (), notes)
    prompts, items = _entries(source.tree)
    _note_the_rest(source.tree, {*map(id, prompts), *map(id, items)}, notes)
    placed = [(item, notes.where(item)) for item in items]
    if not prompts:
        return _dataset(placed, (), notes)
    chosen = max(prompts, key=_rank)
    for other in prompts:
        if other is not chosen:
            notes.left(other, f"{_title(other)} is left out: {_title(chosen)} was taken")
    return _prompt(chosen, placed, notes, here)


def _note_the_rest(tree: Node, known: set[int], notes: Notes) -> None:
    if id(tree) in known:
        return
    for child in tree.items if isinstance(tree, SequenceNode) else ():
        if id(child) not in known:
            notes.left(child, "this is neither a prompt nor a dataset item; it is left out")
    if isinstance(tree, MappingNode):
        for key, value in tree.pairs:
            if key.text in ("data", "prompts", "items", "datasetItems"):
                _note_the_rest(value, known, notes)
            else:
                notes.left(key, f"{shorten(key.text)} of the export has no equivalent; it is left out")


def _rank(node: Node) -> tuple[bool, float]:
    value = typed(node)
    version = value.get("version")
    return "production" in (value.get("labels") or []), version if isinstance(version, int | float) else 0


def _title(node: Node) -> str:
    value = typed(node)
    return f"the prompt {shorten(str(value.get('name', '')))}, version {value.get('version', '?')}"


def _prompt(node: Node, items: Sequence[tuple[Node, Any]], notes: Notes, here: Here) -> Foreign:
    with Part(node, notes, "the prompt") as part:
        body = part.take("prompt")
        part.take("type")
        folded = fold(_messages(body, notes), "plain", notes)
        for text in [body.text] if isinstance(body, ScalarNode) else [folded.prompt]:
            for found in _REFERENCE.finditer(text):
                notes.left(body, f"{shorten(found[0])} stands for another prompt; it stands in this one as written")
        with Part(part.take("config"), notes, "config") as config:
            written = config.take("model", "model_name")
            name = model_name(written.text, here, notes, written) if isinstance(written, ScalarNode) else ""
            chosen = parameters(config, name)
        dataset = _dataset(items, folded.inputs, notes)
        return Foreign(
            name=part.text("name"),
            description=part.text("description") or folded.words,
            prompt=folded.prompt,
            inputs=folded.inputs,
            cases=(*folded.cases, *dataset.cases),
            model=name,
            parameters=chosen,
        )


def _messages(body: Node | None, notes: Notes) -> list[Message]:
    if isinstance(body, SequenceNode):
        return messages(body.items, notes)
    # A text prompt is a template as a whole: what it says becomes the prompt.
    return [Message("user", body.text, notes.where(body))] if isinstance(body, ScalarNode) else []


def _dataset(items: Sequence[tuple[Node, Any]], inputs: Sequence[Variable], notes: Notes) -> Foreign:
    cases: list[Case] = []
    names = [variable.name for variable in inputs]
    for node, where in items:
        with Part(node, notes, "a dataset item") as part:
            given, expected = part.take("input"), part.take(*_EXPECTED)
            row_id, status = part.text("id"), part.text("status").upper()
            if status == "ARCHIVED":
                notes.left(where, "an archived dataset item is left out")
                continue
            values = _values(given, names)
            if values is None or expected is None or typed(expected) is None:
                what = "has no expected output" if values is not None else "has an input of another form"
                notes.left(where, f"a dataset item {what}; it is left out")
                continue
            names = names or ([] if list(values) == [TEXT_INPUT] else list(values))
            answer = expected.text if isinstance(expected, ScalarNode) else typed(expected)
            cases.append(Case(inputs=values, output=answer, where=where, id=row_id))
    return Foreign(inputs=tuple(inputs) or tuple(map(Variable, names)), cases=tuple(cases))


def _values(node: Node | None, names: Sequence[str]) -> dict[str, str] | None:
    """A dataset item's input as texts by variable, ``None`` when it does not fit the variables."""
    if isinstance(node, ScalarNode):
        return {names[0] if names else TEXT_INPUT: node.text} if len(names) < 2 else None
    if not isinstance(node, MappingNode):
        return None
    values = {key.text: value.text for key, value in node.pairs if isinstance(value, ScalarNode) and _NAME.fullmatch(key.text)}
    return values if len(values) == len(node.pairs) and (not names or set(names) == set(values)) else None
