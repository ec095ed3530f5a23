"""OpenAI's hosted prompts (``pmpt_…``), as JSON copied from the dashboard or from a response.

The product ends on 2026-11-30 and has no export; what people hold is the prompt object (``instructions`` or messages,
``model``, parameters, ``text.format``), or a response that echoes ``instructions``. A request that only names an id holds
no text.
"""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..task.document import MappingNode, Node, ScalarNode, typed
from .github import messages
from .source import Source
from .templates import Message, fold
from .values import Foreign, Here, Notes, Part, model_name, parameters, response_format

_TEXTS = ("instructions", "messages", "input")


def accepts(source: Source) -> bool:
    """Whether it carries the id of a hosted prompt."""
    return source.is_json and _is_hosted(source.tree)


def _is_hosted(node: Node) -> bool:
    if not isinstance(node, MappingNode):
        return False
    pairs = {key.text: value for key, value in node.pairs}
    for name in ("id", "prompt_id"):
        found = pairs.get(name)
        if isinstance(found, ScalarNode) and found.text.startswith("pmpt_"):
            return True
    return "prompt" in pairs and _is_hosted(pairs["prompt"])


def read(source: Source, notes: Notes, here: Here) -> Foreign:
    """Instructions and messages as the prompt. Raises :class:`InputError` when the file holds only a reference."""
    with Part(source.tree, notes, "the prompt object") as part:
        if not any(name in part for name in _TEXTS):
            inner = part.take("prompt")
            if isinstance(inner, MappingNode) and any(key.text in _TEXTS for key, _ in inner.pairs):
                with Part(inner, notes, "the prompt object") as own:
                    return _read(own, notes, here)
            raise InputError(
                f"{source.file} names a hosted prompt and does not hold its text",
                hint="copy instructions or messages from the dashboard before 2026-11-30, into 'instructions' or 'messages'",
            )
        return _read(part, notes, here)


def _read(part: Part, notes: Notes, here: Here) -> Foreign:
    found: list[Message] = []
    for key in _TEXTS:
        node = part.take(key)
        if isinstance(node, ScalarNode) and node.text.strip():
            found.append(Message("system" if key == "instructions" else "user", node.text, notes.where(node)))
        elif node is not None and not isinstance(node, ScalarNode):
            found += messages(getattr(node, "items", ()), notes)
    folded = fold(found, "plain", notes)
    written = part.take("model")
    name = model_name(written.text, here, notes, written, "openai") if isinstance(written, ScalarNode) else ""
    chosen = parameters(part, name)
    with Part(part.take("reasoning"), notes, "reasoning") as reasoning:
        chosen |= parameters(reasoning, name)
    for name_of in ("tools", "variables", "metadata"):
        node = part.take(name_of)
        if node is not None and typed(node):
            told = {"tools": "tools can't be carried", "variables": "values of variables are samples and no examples"}
            notes.left(node, f"{name_of} is left out: {told.get(name_of, 'it has no equivalent')}")
    return Foreign(
        name=part.text("name"),
        description=part.text("description") or folded.words,
        prompt=folded.prompt,
        inputs=folded.inputs,
        output=_output(part, notes),
        cases=folded.cases,
        model=name,
        parameters=chosen,
    )


def _output(part: Part, notes: Notes) -> Any:
    with Part(part.take("text"), notes, "text") as text:
        form = text.take("format")
    return response_format(form or part.take("response_format"), notes)
