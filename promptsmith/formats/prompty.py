"""Prompty, versions 1 and 2: front matter, and a Jinja template cut into messages by lines such as ``system:``.

Version 1 has ``model: {api, configuration, parameters}``, ``sample`` and inputs by name; version 2 has
``model: {id, provider, options}``, properties with a ``kind``, and ``template: {format, parser}`` (prompty.ai; checked
against the package ``prompty``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..contract import JsonShape, shorten
from ..errors import InputError
from ..prompt import Prompt, Variable
from ..registry.emit import Quoted, emit
from ..task import Where
from ..task.document import MappingNode, Node, ScalarNode, SequenceNode, typed
from .carried import checks_left, model_left, output_left, parameters_as, settings_left
from .source import Source
from .templates import Message, fold, jinja_names, jinja_text, turn_template
from .values import Foreign, Here, Notes, Outgoing, Part, model_name, parameters, response_format

_ROLE = re.compile(r"(?im)^[ \t]*#?[ \t]*(system|developer|user|assistant|tool|function)(\[[^\]\n]*\])?[ \t]*:[ \t]*$")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_KINDS = {"string": "string", "integer": "integer", "float": "number", "number": "number", "boolean": "boolean", "array": "array"}
_BACK = {"string": "string", "integer": "integer", "number": "float", "boolean": "boolean", "array": "array", "object": "object"}
_PARAMETERS = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "stop": "stopSequences",
    "seed": "seed",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "effort": "reasoningEffort",
}
_DESCRIBED = frozenset({"type", "description", "properties", "required", "items", "enum", "additionalProperties"})


def accepts(source: Source) -> bool:
    """Whether its extension says so."""
    return source.name.endswith(".prompty")


def read(source: Source, notes: Notes, here: Here) -> Foreign:
    """Template as prompt, inputs and outputs as inputs and contract."""
    head, body, line = source.front
    with Part(head, notes, "the front matter") as part:
        name, chosen, from_model = _model(part, notes, here)
        _check_template(part, notes)
        folded = fold(_messages(body, line, notes), "jinja", notes, _inputs(part.take("inputs"), notes))
        return Foreign(
            name=part.text("name"),
            description=part.text("description") or folded.words,
            prompt=folded.prompt,
            inputs=folded.inputs,
            output=_output(part.take("outputs"), notes) or from_model,
            cases=folded.cases,
            model=name,
            parameters=chosen,
        )


def _model(part: Part, notes: Notes, here: Here) -> tuple[str, dict[str, Any], Any]:
    """Model and parameters; the output that version 1's ``response_format`` asks for."""
    node = part.take("model")
    if isinstance(node, ScalarNode):
        return model_name(node.text, here, notes, node), {}, None
    with Part(node, notes, "model") as model:
        with Part(model.take("configuration"), notes, "the model's configuration") as first:
            provider = first.text("type").removeprefix("azure_").replace("azure", "")
            deployed = first.take("name", "model", "azure_deployment")
        written = model.take("id") or deployed
        provider = model.text("provider") or provider
        if model.text("api", "apiType") not in ("", "chat"):
            notes.left(node, f"the api {shorten(model.text('api', 'apiType'))} is left out: prompts here are for chat")
        name = model_name(written.text, here, notes, written, provider) if isinstance(written, ScalarNode) else ""
        with Part(model.take("options", "parameters"), notes, "the model's options") as options:
            chosen = parameters(options, name)
            return name, chosen, response_format(options.take("response_format"), notes)


def _check_template(part: Part, notes: Notes) -> None:
    node = part.take("template")
    formats: list[Node] = [node] if isinstance(node, ScalarNode) else []
    if isinstance(node, MappingNode):
        with Part(node, notes, "template") as template:
            formats = [found for found in (template.take("format"), template.take("type")) if found is not None]
            template.take("parser")
    for found in formats:
        kind = found.text if isinstance(found, ScalarNode) else str((typed(found) or {}).get("kind", "jinja2"))
        if kind not in ("jinja2", "mustache", "jinja"):
            notes.left(found, f"the template format {shorten(kind)} is not known; the template is read as Jinja")


def _messages(body: str, line: int, notes: Notes) -> list[Message]:
    found = []
    role, start = "system", 0
    for marker in [*_ROLE.finditer(body), None]:
        text = body[start : marker.start() if marker else None]
        lead = len(text) - len(text.lstrip("\n"))
        place = Where(notes.file, line + body.count("\n", 0, start + lead))
        if text.strip() and role in _ROLES:
            found.append(Message(_ROLES[role], text.strip("\n"), place))
        elif text.strip():
            notes.left(place, f"the message of role {role} is left out")
        if marker is not None:
            role, start = marker[1].lower(), marker.end()
    return found


def _inputs(node: Node | None, notes: Notes) -> list[Variable]:
    found = []
    for name, item, place in _properties(node, notes, "inputs"):
        with Part(item if isinstance(item, MappingNode) else None, notes, f"the input {name!r}") as part:
            kind = part.text("kind", "type") or "string"
            default = part.text("default") if "default" in part else None
            optional = part.text("required") == "false"
            about = part.text("description")
        if kind in ("thread", "image", "file", "audio"):
            notes.left(place, f"the input {name!r} of kind {kind} can't be carried: inputs here are text")
            continue
        if kind != "string":
            notes.left(place, f"the input {name!r} is {kind} there; here every input is text")
        found.append(Variable(name, default="" if default is None and optional else default, about=about))
    return found


def _properties(node: Node | None, notes: Notes, what: str) -> list[tuple[str, Node, Node]]:
    """Properties by name, from a mapping (version 1) or a list with names (version 2)."""
    if isinstance(node, MappingNode):
        return [(key.text, value, key) for key, value in node.pairs]
    found: list[tuple[str, Node, Node]] = []
    for item in node.items if isinstance(node, SequenceNode) else ():
        pairs = {key.text: value for key, value in item.pairs} if isinstance(item, MappingNode) else {}
        name = pairs.get("name")
        if isinstance(name, ScalarNode) and isinstance(item, MappingNode):
            rest = MappingNode(tuple(pair for pair in item.pairs if pair[0].text != "name"), item.line)
            found.append((name.text, rest, item))
        else:
            notes.left(item, f"an entry of {what} has no name; it is left out")
    if node is not None and not isinstance(node, SequenceNode):
        notes.left(node, f"{what} is neither a mapping nor a list; it is left out")
    return found


def _output(node: Node | None, notes: Notes) -> Any:
    properties = _properties(node, notes, "outputs")
    if not properties:
        return None
    return {"json": _object([(name, item) for name, item, _ in properties], notes)}


def _object(properties: list[tuple[str, Node]], notes: Notes) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for name, item in properties:
        with Part(item if isinstance(item, MappingNode) else None, notes, f"the output {name!r}") as part:
            schema["properties"][name] = _property(part, notes)
            if part.text("required") != "false":
                schema["required"].append(name)
    return schema


def _property(part: Part, notes: Notes) -> dict[str, Any]:
    kind = part.text("kind", "type") or "string"
    schema: dict[str, Any] = {"type": _KINDS[kind]} if kind in _KINDS else {}
    if kind == "object":
        inner = _properties(part.take("properties"), notes, "properties")
        schema = _object([(name, item) for name, item, _ in inner], notes) if inner else {"type": "object"}
    elif kind == "array":
        items = part.take("items")
        if isinstance(items, MappingNode):
            with Part(items, notes, "items") as of:
                schema["items"] = _property(of, notes)
                of.take("name")
    elif not schema:
        notes.left(part.node, f"the kind {shorten(kind)} is not known; any value is taken")
    if about := part.text("description"):
        schema["description"] = about
    if choices := part.items("enumValues", "enum"):
        schema["enum"] = [typed(choice) for choice in choices]
    return schema


# --- the other way ----------------------------------------------------------------------------------------


def write(outgoing: Outgoing, notes: Notes) -> str:
    """The prompt as a version 2 file. Raises :class:`InputError` for a prompt that Prompty would cut into other messages."""
    prompt = outgoing.prompt
    system = jinja_text(prompt.system)
    marker = next((number for number, line in enumerate(system.splitlines(), 1) if _ROLE.fullmatch(line)), 0)
    if marker:
        raise InputError(
            f"line {marker} of the prompt is {system.splitlines()[marker - 1].strip()!r}, which Prompty takes for the start of a message",
            hint="change that line in the prompt, or export to another format",
        )
    if system.splitlines() != system.strip("\n").split("\n"):
        notes.left(None, "line ends at the start or end of the prompt, and unusual ones inside it, are not kept by Prompty")
    rename = jinja_names(outgoing.names)
    for name, other in rename.items():
        notes.left(None, f"the input {name!r} is called {other!r} there: Jinja reads '-' as minus")
    head: dict[str, Any] = {"name": outgoing.title, "description": f"Compiled by promptsmith from the task {prompt.task}."}
    head |= _model_head(prompt, parameters_as(prompt, _PARAMETERS, notes), notes)
    head["inputs"] = [_input(v, rename) for v in prompt.inputs or (Variable("input"),)]
    shape = prompt.contract.shape
    if isinstance(shape, JsonShape):
        outputs = _as_properties(json.loads(shape.schema))
        if outputs is None:
            notes.left(None, "the contract's JSON Schema says more than Prompty's outputs can; it is told in the prompt only")
        else:
            head["outputs"] = outputs
    else:
        output_left(prompt, notes)
    checks_left(prompt, notes)
    settings_left(prompt, notes)
    if outgoing.examples:
        notes.left(None, "the task's examples are left out, but for those that stand in the prompt: Prompty has no tests")
    head["template"] = {"format": {"kind": "jinja2"}, "parser": {"kind": "prompty"}}
    # Prompty looks for the next '---' wherever it stands, so none may stand in the front matter.
    front = emit(_all_quoted(head)).replace("---", r"\x2d\x2d\x2d")
    return f"---\n{front}---\nsystem:\n{system}\nuser:\n{turn_template(prompt.inputs, rename)}\n"


def _model_head(prompt: Prompt, options: dict[str, Any], notes: Notes) -> dict[str, Any]:
    if model_left(prompt, notes, "model"):
        return {}
    if "stopSequences" in options:
        options["stopSequences"] = [options["stopSequences"]]
    provider, _, name = prompt.model.partition("/")
    return {"model": {"id": name, "provider": provider, **({"options": options} if options else {})}}


def _input(variable: Variable, rename: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": rename.get(variable.name, variable.name), "kind": "string"}
    if variable.about:
        entry["description"] = variable.about
    return {**entry, "required": True} if variable.default is None else {**entry, "default": variable.default}


def _as_properties(schema: Any) -> list[dict[str, Any]] | None:
    """An object's schema as Prompty's list of properties; ``None`` when it says more than they can."""
    if not isinstance(schema, dict) or schema.get("type") != "object" or not schema.get("properties"):
        return None
    if not set(schema) <= _DESCRIBED or schema.get("additionalProperties", False) is not False:
        return None
    required = schema.get("required", [])
    entries = [_as_property(name, child, name in required) for name, child in schema["properties"].items()]
    return None if any(entry is None for entry in entries) else [entry for entry in entries if entry is not None]


def _as_property(name: str, schema: Any, required: bool) -> dict[str, Any] | None:
    kind = schema.get("type") if isinstance(schema, dict) else None
    if not isinstance(kind, str) or kind not in _BACK or not set(schema) <= _DESCRIBED:
        return None
    entry: dict[str, Any] = {"name": name, "kind": _BACK[kind], "required": required}
    if "description" in schema:
        entry["description"] = schema["description"]
    if "enum" in schema:
        entry["enumValues"] = schema["enum"]
    if kind == "object":
        inner = _as_properties(schema)
        return None if inner is None else {**entry, "properties": inner}
    if kind == "array":
        items = _as_property("item", schema.get("items"), True)
        return None if items is None else {**entry, "items": {key: items[key] for key in items if key not in ("name", "required")}}
    return entry


def _all_quoted(value: Any) -> Any:
    if isinstance(value, str):
        return Quoted(value)
    if isinstance(value, dict):
        return {key: _all_quoted(item) for key, item in value.items()}
    return [_all_quoted(item) for item in value] if isinstance(value, list) else value
