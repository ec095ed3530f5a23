"""Google's dotprompt (``.prompt``): front matter with Picoschema, and a Handlebars template with role markers.

After google.github.io/dotprompt (frontmatter, picoschema, template); checked against the package ``dotpromptz``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..contract import JsonShape, Labels, shorten
from ..errors import InputError
from ..prompt import Variable
from ..registry.emit import emit
from ..task import Where
from ..task.document import Node, ScalarNode, typed
from .carried import checks_left, model_left, output_left, parameters_as, settings_left
from .source import Source
from .templates import Message, fold, handlebars_text, turn_template
from .values import Foreign, Here, Notes, Outgoing, Part, model_name, parameters

_ROLE = re.compile(r"""\{\{\s*role\s+["'](\w+)["']\s*\}\}|\{\{\s*(history)\s*\}\}""")
_ROLES = {"system": "system", "user": "user", "model": "assistant", "assistant": "assistant"}
_SCALARS = frozenset({"string", "number", "integer", "boolean", "null", "any"})
_PARAMETERS = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "stop": "stopSequences",
    "seed": "seed",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}
_MARKER = "<<<dotprompt:"


def accepts(source: Source) -> bool:
    """Whether its extension says so."""
    return source.name.endswith(".prompt")


def read(source: Source, notes: Notes, here: Here) -> Foreign:
    """Template as prompt, input schema as inputs, output schema as contract."""
    head, body, line = source.front
    with Part(head, notes, "the front matter") as part:
        folded = fold(_messages(body, line, notes), "handlebars", notes, _inputs(part.take("input"), notes))
        written = part.take("model")
        name = model_name(written.text, here, notes, written) if isinstance(written, ScalarNode) else ""
        with Part(part.take("config"), notes, "config") as settings:
            chosen = parameters(settings, name)
        return Foreign(
            name=part.text("name"),
            description=part.text("description") or folded.words,
            prompt=folded.prompt,
            inputs=folded.inputs,
            output=_output(part.take("output"), notes),
            cases=folded.cases,
            model=name,
            parameters=chosen,
        )


def _messages(body: str, line: int, notes: Notes) -> list[Message]:
    found = []
    role, start = "user", 0
    for marker in [*_ROLE.finditer(body), None]:
        text = body[start : marker.start() if marker else None]
        if text.strip():
            lead = len(text) - len(text.lstrip())
            found.append(Message(role, text.strip(), Where(notes.file, line + body.count("\n", 0, start + lead))))
        if marker is None:
            break
        start = marker.end()
        here = Where(notes.file, line + body.count("\n", 0, marker.start()))
        if marker[2]:
            notes.left(here, "{{history}} is left out: earlier turns stand before the input by themselves")
            role = "assistant"  # what dotprompt takes the text behind it for
        elif marker[1] in _ROLES:
            role = _ROLES[marker[1]]
        else:
            notes.left(here, f"the role {shorten(marker[1])} is not known; its text is taken for the user's")
            role = "user"
    return found


def _inputs(node: Node | None, notes: Notes) -> list[Variable]:
    with Part(node, notes, "input") as part:
        schema = part.take("schema")
        defaults = typed(given) if (given := part.take("default")) is not None else {}
        if not isinstance(defaults, dict):
            notes.left(given, "default of input is no mapping; it is left out")
            defaults = {}
        compiled = json_schema(typed(schema), notes, schema) if schema is not None else None
        properties = (compiled or {}).get("properties", {})
        return [_variable(name, properties.get(name, {}), defaults, compiled, notes, schema) for name in {**properties, **defaults}]


def _variable(
    name: str, schema: Any, defaults: Mapping[str, Any], whole: Mapping[str, Any] | None, notes: Notes, node: Node | None
) -> Variable:
    schema = schema if isinstance(schema, dict) else {}
    kinds = schema.get("type", "string")
    if kinds not in ("string", ["string", "null"]):
        notes.left(node, f"the input {name!r} is {kinds} there; here every input is text")
    default = defaults.get(name)
    if isinstance(default, dict | list):
        notes.left(node, f"the default of the input {name!r} is no text; it is left out")
        default = None
    if default is None and whole is not None and name not in whole.get("required", []):
        default = ""
    return Variable(name, default=None if default is None else str(default), about=str(schema.get("description", "")))


def _output(node: Node | None, notes: Notes) -> Any:
    with Part(node, notes, "output") as part:
        kind, schema = part.text("format"), part.take("schema")
        compiled = json_schema(typed(schema), notes, schema) if schema is not None else None
        if compiled is not None:
            labels = compiled.get("enum")
            only_texts = isinstance(labels, list) and len(labels) > 1 and all(isinstance(label, str) for label in labels)
            return labels if only_texts and (kind == "enum" or compiled.get("type") == "string") else {"json": compiled}
        if kind == "json" and schema is None:
            return {"json": {}}
        if kind not in ("", "text", "json"):
            notes.left(part.key("format"), f"the output format {shorten(kind)} is left out")
        return None


# --- Picoschema -------------------------------------------------------------------------------------------


def json_schema(value: Any, notes: Notes, node: Node | None) -> dict[str, Any] | None:
    """Picoschema, or JSON Schema as it stands, as JSON Schema; what can't be read is noted and left out."""
    try:
        if isinstance(value, dict) and (isinstance(value.get("type"), str) and value["type"] in {*_SCALARS, "object", "array"}):
            return value
        if isinstance(value, dict) and isinstance(value.get("properties"), dict):
            return {"type": "object", **value}
        return _pico(value)
    except _NoSchema as error:
        notes.left(node, f"the schema is left out: {error}")
        return None


class _NoSchema(Exception):
    """Picoschema that can't be compiled; says why."""


def _pico(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return _scalar(value)
    if not isinstance(value, dict):
        raise _NoSchema(f"{shorten(str(value))} is neither a type nor a mapping")
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for key, child in value.items():
        if key == "(*)":
            schema["additionalProperties"] = _pico(child)
            continue
        found = re.fullmatch(r"([^()?]+)(\?)?(?:\(([^()]*)\))?", key)
        if found is None:
            raise _NoSchema(f"the key {shorten(key)} can't be read")
        name, optional = found[1], bool(found[2])
        schema["properties"][name] = _nullable(_property(found[3] or "", child)) if optional else _property(found[3] or "", child)
        if not optional:
            schema["required"].append(name)
    if not schema["required"]:
        del schema["required"]
    return schema


def _scalar(text: str) -> dict[str, Any]:
    kind, _, about = text.partition(",")
    if kind.strip() not in _SCALARS:
        raise _NoSchema(f"{shorten(kind)} names a schema that stands elsewhere")
    schema: dict[str, Any] = {} if kind.strip() == "any" else {"type": kind.strip()}
    return {**schema, "description": about.strip()} if about.strip() else schema


def _property(given: str, child: Any) -> dict[str, Any]:
    kind, _, about = given.partition(",")
    if kind == "array":
        schema: dict[str, Any] = {"type": "array", "items": _pico(child)}
    elif kind == "enum":
        schema = {"enum": child if isinstance(child, list) else [child]}
    elif kind in ("", "object"):
        schema = _pico(child)
    else:
        raise _NoSchema(f"{shorten(kind)} in brackets is neither array, object nor enum")
    return {**schema, "description": about.strip()} if about.strip() else schema


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {**schema, "enum": [*schema["enum"], None]} if "enum" in schema else schema


# --- the other way ----------------------------------------------------------------------------------------


def write(outgoing: Outgoing, notes: Notes) -> str:
    """The prompt as one file. Raises :class:`InputError` for a prompt that dotprompt would take apart."""
    prompt = outgoing.prompt
    if _MARKER in prompt.system:
        raise InputError(f"the prompt holds {_MARKER!r}, which dotprompt takes for a marker of its own")
    head: dict[str, Any] = {}
    if not model_left(prompt, notes, "model"):
        head["model"] = prompt.model
    config: dict[str, Any] = parameters_as(prompt, _PARAMETERS, notes)
    if "stopSequences" in config:
        config["stopSequences"] = [config["stopSequences"]]
    if config:
        head["config"] = config
    head["input"] = _input_head(outgoing)
    shape = prompt.contract.shape
    if isinstance(shape, JsonShape):
        head["output"] = {"format": "json", "schema": json.loads(shape.schema)}
    elif isinstance(shape, Labels) and not shape.allow_other and not prompt.contract.inferred:
        head["output"] = {"format": "enum", "schema": {"type": "string", "enum": list(shape.labels)}}
    else:
        output_left(prompt, notes)
    checks_left(prompt, notes)
    settings_left(prompt, notes)
    if outgoing.examples:
        notes.left(None, "the task's examples are left out, but for those that stand in the prompt: dotprompt has no tests")
    system = prompt.system
    if re.search(r"(?<!\{)(?:\{\{)*\{\Z", system):
        notes.left(None, "the prompt ends with '{', which Handlebars can't tell from the tag behind it: a line end stands between")
        system += "\n"
    body = f'{{{{role "system"}}}}{handlebars_text(system, before_tag=True)}{{{{role "user"}}}}{turn_template(prompt.inputs, {})}'
    return f"---\n# {outgoing.title}, exported by promptsmith\n{emit(head)}---\n{body}\n"


def _input_head(outgoing: Outgoing) -> dict[str, Any]:
    inputs = outgoing.prompt.inputs or (Variable("input"),)
    properties = {v.name: {"type": "string", "description": v.about} if v.about else {"type": "string"} for v in inputs}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required := [v.name for v in inputs if v.default is None]:
        schema["required"] = required
    head: dict[str, Any] = {"schema": schema}
    if defaults := {v.name: v.default for v in inputs if v.default is not None}:
        head["default"] = defaults
    return head
