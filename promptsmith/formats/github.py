"""GitHub Models' ``.prompt.yml``: messages, model, parameters, test data and evaluators.

Keys as docs.github.com ("Storing prompts in GitHub repositories") and the types of github/gh-models name them: string
evaluators ignore case but for ``equals``; ``jsonSchema`` is JSON text with ``name`` and ``schema``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..contract import JsonShape, shorten
from ..errors import SourceError
from ..prompt import Variable
from ..registry.emit import emit
from ..task.document import MappingNode, Node, ScalarNode, SequenceNode, from_python, typed
from ..task.rows import NotJson, parse_json
from .carried import checks_left, example_inputs, model_left, output_left, parameters_as, settings_left
from .source import Source, in_line
from .templates import Message, fold, turn_template
from .values import Case, Foreign, Here, Notes, Outgoing, Part, model_name, named_schema, parameters

_STRING = {"equals": "exact", "contains": "contains", "startsWith": "starts_with", "endsWith": "ends_with"}
_EXPECTED = "{{expected}}"
_PARAMETERS = {"max_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP"}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "model": "assistant"}


def accepts(source: Source) -> bool:
    """Whether it is a mapping with messages, by its extension or its content."""
    if source.name.endswith((".prompt.yml", ".prompt.yaml")):
        return True
    if source.is_table:
        return False
    tree = source.tree
    keys = {key.text for key, _ in tree.pairs} if isinstance(tree, MappingNode) else set()
    return not source.is_json and "messages" in keys and not keys & {"prompts", "tests", "providers"}


def read(source: Source, notes: Notes, here: Here) -> Foreign:
    """The prompt, its test data as cases, its evaluators as scorers."""
    with Part(source.tree, notes, "the prompt file") as part:
        rows = part.items("testData")
        # GitHub puts in what a row has and leaves every other {{x}} alone.
        known = {key.text for row in rows if isinstance(row, MappingNode) for key, _ in row.pairs}
        folded = fold(messages(part.items("messages"), notes), "plain", notes, known=known)
        written = part.take("model")
        name = model_name(written.text, here, notes, written) if isinstance(written, ScalarNode) else ""
        with Part(part.take("modelParameters"), notes, "modelParameters") as settings:
            chosen = parameters(settings, name)
        cases = [case for item in rows if (case := _case(item, folded.inputs, notes))]
        scorers = [scorer for item in part.items("evaluators") if (scorer := _scorer(item, here, notes))]
        return Foreign(
            name=part.text("name"),
            description=part.text("description") or folded.words,
            prompt=folded.prompt,
            inputs=folded.inputs,
            output=_output(part, notes),
            cases=(*folded.cases, *cases),
            model=name,
            parameters=chosen,
            scorers=tuple(scorers),
        )


def messages(items: Sequence[Node], notes: Notes) -> list[Message]:
    """Chat messages with a text each; a list of content parts counts as its texts."""
    found = []
    for item in items:
        with Part(item, notes, "a message") as part:
            if part.text("type") not in ("", "message", "chatmessage"):
                notes.left(item, f"the {part.text('type')} {shorten(part.text('name'))} among the messages is left out")
                continue
            role, content = part.text("role"), part.take("content")
            text = _content(content, notes)
            if role.lower() not in _ROLES:
                notes.left(item, f"the message of role {shorten(role)} is left out")
            elif text.strip():
                found.append(Message(_ROLES[role.lower()], text.removesuffix("\n"), notes.where(_text_place(content or item))))
    return found


def _text_place(node: Node) -> Node:
    return node.items[0] if isinstance(node, SequenceNode) and node.items else node


def _content(node: Node | None, notes: Notes) -> str:
    if isinstance(node, ScalarNode):
        return node.text
    texts = []
    for item in node.items if isinstance(node, SequenceNode) else ():
        with Part(item, notes, "a part of a message") as part:
            kind = part.text("type")
            if kind in ("text", "input_text", "output_text", ""):
                texts.append(part.text("text"))
            else:
                notes.left(item, f"a part of type {shorten(kind)} is left out: only text is carried")
    return "".join(texts)


def _output(part: Part, notes: Notes) -> Any:
    node, written = part.take("responseFormat"), part.take("jsonSchema")
    kind = node.text if isinstance(node, ScalarNode) else ""
    if isinstance(written, ScalarNode):
        try:
            tree = in_line(from_python(parse_json(written.text), notes.file), written.line)
        except (NotJson, SourceError):
            notes.left(written, "jsonSchema is no JSON text; it is left out")
            return None
        with Part(tree, notes, "jsonSchema") as schema:
            return named_schema(schema, notes)
    if kind == "json_object":
        return {"json": {"type": "object"}}
    if written is not None or kind not in ("", "text"):
        notes.left(written or node, f"{'jsonSchema' if written else 'responseFormat'} can't be read; it is left out")
    return None


def _case(item: Node, inputs: Sequence[Variable], notes: Notes) -> Case | None:
    with Part(item, notes, "a row of testData") as part:
        given = {name: part.text(name) for name in _names(inputs) if name in part}
        expected = part.take("expected")
        missing = [v.name for v in inputs or (Variable("input"),) if v.name not in given and v.default is None]
        if expected is None or missing:
            what = f"has no {missing[0]!r}" if missing else "has no expected output"
            notes.left(item, f"a row of testData {what}; it is left out")
            return None
        return Case(inputs=given, output=expected.text if isinstance(expected, ScalarNode) else typed(expected), where=notes.where(item))


def _names(inputs: Sequence[Variable]) -> list[str]:
    return [variable.name for variable in inputs] or ["input"]


def _scorer(item: Node, here: Here, notes: Notes) -> Any:
    with Part(item, notes, "an evaluator") as part:
        named = {"name": part.text("name")} if part.text("name") else {}
        if "string" in part:
            with Part(part.take("string"), notes, "a string evaluator") as rule:
                kind = next((kind for kind in _STRING if kind in rule), "")
                value = rule.text(kind) if kind else ""
            if not kind:
                notes.left(item, "the evaluator names no rule that there is; it is left out")
                return None
            options = {} if value == _EXPECTED else {"value": value}
            return {_STRING[kind]: {**options, **named, **({} if kind == "equals" else {"ignore_case": True})}}
        if "llm" in part:
            return _judge(part.take("llm"), named, here, notes)
        uses = part.take("uses")
        what = f"uses {shorten(uses.text)}, whose prompt is GitHub's own" if isinstance(uses, ScalarNode) else "names no rule"
        notes.left(item, f"the evaluator {what}; it is left out")
        return None


def _judge(node: Node | None, named: dict[str, str], here: Here, notes: Notes) -> Any:
    with Part(node, notes, "an llm evaluator") as part:
        rubric = "\n\n".join(text for text in (part.text("systemPrompt"), part.text("prompt")) if text)
        options: dict[str, Any] = {"criteria": rubric, **named}
        choices = part.take("choices")
        if choices is not None:
            notes.left(choices, "the choices of the llm evaluator are left out: a judge here gives a score of its own scale")
        judged_by = part.take("modelId")
        model = model_name(judged_by.text, here, notes, judged_by) if isinstance(judged_by, ScalarNode) else ""
        if not (model or here.judge):
            notes.left(node, "the llm evaluator is left out: no model that could be the judge; import again with --judge endpoint/model")
            return None
        options["model"] = model or here.judge
    return {"judge": options}


# --- the other way ----------------------------------------------------------------------------------------


def write(outgoing: Outgoing, notes: Notes) -> str:
    """The prompt with its visible examples as test data."""
    prompt = outgoing.prompt
    document: dict[str, Any] = {"name": outgoing.title, "description": f"Compiled by promptsmith from the task {prompt.task}."}
    if not model_left(prompt, notes, "model"):
        document["model"] = prompt.model
    if chosen := parameters_as(prompt, _PARAMETERS, notes):
        document["modelParameters"] = chosen
    shape = prompt.contract.shape
    if isinstance(shape, JsonShape):
        document["responseFormat"] = "json_schema"
        document["jsonSchema"] = json.dumps({"name": "answer", "schema": json.loads(shape.schema)}, ensure_ascii=False, indent=2)
    else:
        output_left(prompt, notes)
    checks_left(prompt, notes)
    document["messages"] = [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": turn_template(prompt.inputs, {})},
    ]
    for name in outgoing.names:
        if f"{{{{{name}}}}}" in prompt.system:
            notes.left(None, f"the prompt itself holds {{{{{name}}}}}: GitHub has no escape for it and will put the input there too")
    rows = [{**example_inputs(outgoing, example), "expected": example.output} for example in outgoing.examples]
    if rows:
        document["testData"] = rows
        notes.left(None, "evaluators are left out: GitHub's string evaluators do not know the expected output of a row")
    settings_left(prompt, notes)
    return emit(document)
