"""A DSPy program's saved state (``program.save("x.json")``): instructions, fields and demos of its predictors.

The state holds each predictor's signature (instructions, and of every field prefix and description in order) and
demos; it does not say which fields are outputs (dspy.ai, "Saving and loading"; state as of DSPy 2.5 to 3.4).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ..contract import shorten
from ..prompt import Variable
from ..task.document import MappingNode, Node, ScalarNode, SequenceNode, typed
from .source import Source
from .values import Case, Foreign, Here, Notes, Part, model_name, parameters

_GIVEN = re.compile(r"Given the fields? (.*?), produce the fields? (.*?)\.", re.DOTALL)
_THOUGHTS = ("reasoning", "rationale")
_NO_FIELD = frozenset({"augmented", "dspy_uuid", "dspy_split", *_THOUGHTS})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def accepts(source: Source) -> bool:
    """Whether it holds a predictor: something with a signature and demos."""
    return source.is_json and bool(_predictors(source.tree))


def _predictors(tree: Node) -> list[tuple[str, Node]]:
    """Predictors by name; a program that is one predictor has no name for it."""
    if not isinstance(tree, MappingNode):
        return []
    if _is_predictor(tree):
        return [("", tree)]
    return [(key.text, value) for key, value in tree.pairs if _is_predictor(value)]


def _is_predictor(node: Node) -> bool:
    keys = {key.text for key, _ in node.pairs} if isinstance(node, MappingNode) else set()
    return "demos" in keys and bool(keys & {"signature", "signature_instructions", "extended_signature"})


def read(source: Source, notes: Notes, here: Here) -> Foreign:
    """The first predictor: its instructions as the description, its demos as examples."""
    predictors = _predictors(source.tree)
    if not predictors:
        notes.left(None, "no predictor with a signature and demos was found")
        return Foreign()
    name, node = predictors[0]
    with Part(source.tree, notes, "the program") as program:
        for other, _ in predictors:
            program.take(other)
        for other, place in predictors[1:]:
            notes.left(
                place, f"the predictor {shorten(other)} is left out: {shorten(name)} was taken; import makes one task of one predictor"
            )
        if node is source.tree:
            return _predictor(program, notes, here)
    with Part(node, notes, f"the predictor {shorten(name)}") as part:
        return _predictor(part, notes, here)


def _predictor(part: Part, notes: Notes, here: Here) -> Foreign:
    signature = part.take("extended_signature", "signature")
    with Part(signature, notes, "the signature") as own:
        instructions = own.text("instructions") or part.text("extended_signature_instructions", "signature_instructions")
        fields = [found for item in own.items("fields") if (found := _field(item, notes))]
    part.take("signature", "extended_signature_prefix", "signature_prefix")
    demos = part.items("demos")
    for name in ("traces", "train"):
        if part.items(name):
            notes.left(part.key(name), f"{name} is left out: it is what the optimizer saw, not what it made")
    inputs, outputs = _sides(instructions, fields, demos, part, notes)
    settings = part.take("lm")
    with Part(settings if isinstance(settings, MappingNode) else None, notes, "lm") as lm:
        written = lm.take("model")
        model = model_name(written.text, here, notes, written) if isinstance(written, ScalarNode) else ""
        chosen = parameters(lm, model)
    cases = [case for demo in demos if (case := _case(demo, inputs, outputs, notes))]
    abouts = dict(fields)
    return Foreign(
        description=instructions,
        inputs=tuple(Variable(name, about=abouts.get(name, "")) for name in inputs),
        output=_output(outputs, abouts),
        cases=tuple(cases),
        model=model,
        parameters=chosen,
    )


def _field(item: Node, notes: Notes) -> tuple[str, str] | None:
    """A field's name and what it is. DSPy's own description of an undescribed field is ``${name}``."""
    with Part(item, notes, "a field") as part:
        prefix, about = part.text("prefix"), part.text("description", "desc")
        bare = re.fullmatch(r"\$\{(\w+)\}", about)
        name = part.text("name") or (bare[1] if bare else "_".join(prefix.rstrip(": ").lower().split()))
    if not _NAME.fullmatch(name):
        notes.left(item, f"the field {shorten(prefix)} has no name that can be read; it is left out")
        return None
    return name, "" if bare else about


def _sides(
    instructions: str, fields: Sequence[tuple[str, str]], demos: Sequence[Node], part: Part, notes: Notes
) -> tuple[list[str], list[str]]:
    """Which fields are inputs and which outputs (thoughts that come before an answer are neither)."""
    names = [name for name, _ in fields if name not in _NO_FIELD]
    for demo in demos:
        names += [key.text for key, _ in demo.pairs if key.text not in (*_NO_FIELD, *names)] if isinstance(demo, MappingNode) else []
    said = _GIVEN.search(instructions)
    outputs = [name for name in re.findall(r"`(\w+)`", said[2]) if name in names] if said else []
    if not outputs and names:
        outputs = names[-1:]
        notes.left(part.node, f"the file does not say which fields are outputs: {outputs[0]!r} is taken, the others for inputs")
    if any(name in _THOUGHTS for name, _ in fields):
        notes.left(part.node, "the predictor reasons before it answers; the task asks for the answer alone")
    return [name for name in names if name not in outputs], outputs


def _output(outputs: Sequence[str], abouts: dict[str, str]) -> Any:
    if len(outputs) < 2:
        return None
    properties = {name: {"description": abouts[name]} if abouts.get(name) else {} for name in outputs}
    return {"json": {"type": "object", "properties": properties, "required": list(outputs), "additionalProperties": False}}


def _case(demo: Node, inputs: Sequence[str], outputs: Sequence[str], notes: Notes) -> Case | None:
    with Part(demo, notes, "a demo") as part:
        given = {name: _text(part.take(name)) for name in inputs}
        answers = {name: part.take(name) for name in outputs}
        for name in _THOUGHTS:
            if part.take(name) is not None:
                notes.left(demo, f"the {name} of a demo is left out")
        if not inputs or not outputs or any(value is None for value in (*given.values(), *answers.values())):
            notes.left(demo, "a demo lacks a field; it is left out")
            return None
        values = {name: typed(node) for name, node in answers.items() if node is not None}
        answer: Any = values if len(outputs) > 1 else _text(answers[outputs[0]])
        return Case(inputs={name: value for name, value in given.items() if value is not None}, output=answer, where=notes.where(demo))


def _text(node: Node | None) -> str | None:
    if isinstance(node, SequenceNode | MappingNode):
        return json.dumps(typed(node), ensure_ascii=False)
    return node.text if isinstance(node, ScalarNode) else None
