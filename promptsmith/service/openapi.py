"""The service as an OpenAPI 3.1 document: a typed path for each prompt, and in short the APIs that the providers' own clients speak."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from ..contract import as_schema, format_lines
from ..prompt import TEXT_INPUT, Prompt, Variable

Schema = dict[str, Any]

_DATA = frozenset({"enum", "const", "default", "examples"})
"""Keywords of a schema whose values are data: what looks like a reference in them is none."""
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose values are schemas by names of the user's own, which may be those of keywords."""


class ServedTask(NamedTuple):
    """A task that can be called, and the prompt that answers it."""

    task: str
    prompt: Prompt


def document(tasks: Sequence[ServedTask], *, version: str, url: str = "", secured: bool = True) -> dict[str, Any]:
    """The document (OpenAPI 3.1.0, schemas in JSON Schema 2020-12) of a service of ``tasks``.

    ``url`` is where it is reached from outside, ``secured`` whether it asks for a key.
    """
    names = dict(zip((one.task for one in tasks), _names(one.task for one in tasks), strict=True))
    paths = {f"/v1/run/{quote(one.task, safe='/')}": {"post": _run(one, names[one.task])} for one in tasks}
    values = {f"{names[one.task]}.value": _placed(one.prompt, f"#/components/schemas/{names[one.task]}.value") for one in tasks}
    examples = [one.task for one in tasks[:3]]
    return {
        "openapi": "3.1.0",
        "info": {"title": "promptsmith", "version": version, "description": _ABOUT},
        "servers": [{"url": url or "/"}],
        "security": [{"bearer": []}, {"key": []}] if secured else [],
        "paths": paths | _apis(examples) | _reading(),
        "components": {
            "schemas": {**_SHARED, **values},
            "responses": {"Error": _json_answer("What went wrong, and what would be right.", _ref("schemas", "Error"))},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


_ABOUT = (
    "Compiled prompts behind the APIs that everyone already calls. A prompt is named by its task, which means the one in "
    "production, by `task@alias`, or by `task@` and the beginning of its id."
)


# --- typed runs -------------------------------------------------------------------------------------------


def _run(one: ServedTask, name: str) -> dict[str, Any]:
    about = "\n".join([f"Prompt `{one.prompt.id[:12]}` for `{one.prompt.model}`.", "", *format_lines(one.prompt.contract)])
    return {
        "operationId": f"run_{name}",
        "summary": f"Run {one.task}",
        "description": about,
        "tags": ["run"],
        "requestBody": _json_body(_run_body(one.prompt)),
        "responses": {
            "200": _json_answer("The answer.", _answer(one.prompt, name), stream="events `text` with pieces, and `result` with the answer"),
            **_errors(),
        },
    }


def _run_body(prompt: Prompt) -> Schema:
    """One text as ``input``, or all inputs by name as ``inputs``."""
    declared = prompt.inputs or (Variable(TEXT_INPUT),)
    required = [one.name for one in declared if one.default is None]
    by_name: Schema = {
        "type": "object",
        "properties": {one.name: _input(one) for one in declared},
        "required": required,
        "additionalProperties": False,
    }
    properties: Schema = {
        "inputs": by_name,
        "canary_key": {"type": "string", "description": "Whose calls stay on one side of a canary: of a user, a session."},
        "stream": {"type": "boolean", "default": False},
    }
    whole: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if len(required) > 1:
        return {**whole, "required": ["inputs"]}
    alone = next((one for one in declared if one.default is None), declared[0])
    text = {key: value for key, value in _input(alone).items() if key != "default"}
    return {**whole, "properties": {"input": text, **properties}, "oneOf": [{"required": ["input"]}, {"required": ["inputs"]}]}


def _input(one: Variable) -> Schema:
    about = {"maxLength": one.max_chars, "default": one.default, "description": one.about or None}
    return {"type": "string", **{key: value for key, value in about.items() if value is not None}}


def _answer(prompt: Prompt, name: str) -> Schema:
    """The answer. Where a task lets broken ones pass, their value is of any kind and ``ok`` tells it."""
    good = _answer_of(_ref("schemas", f"{name}.value"), ok=True)
    return {"oneOf": [good, _answer_of({}, ok=False)]} if prompt.serve.on_contract_break == "pass" else good


def _answer_of(value: Schema, *, ok: bool) -> Schema:
    properties: Schema = {
        "value": value,
        "text": {"type": "string", "description": "The model's answer as it wrote it."},
        "task": {"type": "string"},
        "prompt": {"type": "string", "description": "The id of the prompt that answered."},
        "model": {"type": "string", "description": "The model that answered; another than the prompt's when a fallback did."},
        "source": {"enum": ["model", "cache", "journal", "builtin"]},
        "cost": {"type": ["number", "null"], "description": "US dollars; null when a price is unknown."},
        "usage": _ref("schemas", "Usage"),
        "ok": {"const": ok, "description": "Whether the answer satisfies the contract."},
        "reasons": {"type": "array", "items": {"type": "string"}, **({"maxItems": 0} if ok else {"minItems": 1})},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _placed(prompt: Prompt, place: str) -> Schema | bool:
    """The contract's schema as it stands at ``place``, its references to its own parts among them."""
    schema = json.loads(as_schema(prompt.contract))
    if isinstance(schema, dict):
        # An identity of its own would be what its references start from.
        schema.pop("$id", None)
    moved: Schema | bool = _moved(schema, place)
    return moved


def _moved(schema: Any, place: str) -> Any:
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict) or "$id" in schema:
        return schema
    return {key: _moved_under(key, value, place) for key, value in schema.items()}


def _moved_under(key: str, value: Any, place: str) -> Any:
    if key in {"$ref", "$dynamicRef"} and isinstance(value, str):
        return place + value[1:] if value == "#" or value.startswith("#/") else value
    if key in _NAMED and isinstance(value, dict):
        return {name: _moved(item, place) for name, item in value.items()}
    return value if key in _DATA else _moved(value, place)


def _names(tasks: Iterable[str]) -> Iterator[str]:
    """A name that components and operations may have for each task, none twice."""
    taken: set[str] = set()
    for task in tasks:
        plain = name = re.sub(r"[^A-Za-z0-9_-]", "_", task)
        number = 1
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        yield name


# --- the providers' APIs, and what can be read ------------------------------------------------------------


def _apis(examples: list[str]) -> dict[str, Any]:
    def body(required: Sequence[str], **properties: Schema) -> dict[str, Any]:
        model = {"type": "string", "description": "A task, `task@alias`, or `task@` and the beginning of an id.", "examples": examples}
        inputs = {
            "type": ["object", "null"],
            "additionalProperties": {"type": "string"},
            "description": "Values of the prompt's inputs, by name.",
        }
        common: Schema = {"model": model, "prompt_variables": inputs, "stream": {"type": ["boolean", "null"]}}
        return _json_body({"type": "object", "properties": common | properties, "required": ["model", *required]})

    messages = _messages("text")
    anthropic: Schema = {"messages": messages, "max_tokens": {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}}
    given: Schema = {"anyOf": [{"type": "string"}, _messages("input_text", "output_text")]}
    counted: Schema = {"type": "object", "properties": {"input_tokens": {"type": "integer"}}, "required": ["input_tokens"]}
    return {
        "/v1/chat/completions": _api("chat", "OpenAI's chat completions", body(["messages"], messages=messages), "choices"),
        "/v1/responses": _api("responses", "OpenAI's responses", body(["input"], input=given), "output"),
        "/v1/messages": _api("messages", "Anthropic's messages", body(["messages", "max_tokens"], **anthropic), "content"),
        "/v1/messages/count_tokens": {
            "post": {
                "operationId": "count_tokens",
                "summary": "The input tokens of a message, the prompt's own among them, as an estimate",
                "tags": ["providers"],
                "requestBody": body(["messages"], messages=messages),
                "responses": {"200": _json_answer("The number of tokens.", counted), **_errors()},
            }
        },
    }


def _messages(*kinds: str) -> Schema:
    part = {"type": "object", "properties": {"type": {"enum": list(kinds)}, "text": {"type": "string"}}, "required": ["type", "text"]}
    content = {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]}
    roles = {"enum": ["user", "assistant"]}
    message = {"type": "object", "properties": {"role": roles, "content": content}, "required": ["role", "content"]}
    return {"type": "array", "items": message, "minItems": 1}


def _api(name: str, about: str, body: Mapping[str, Any], holds: str) -> dict[str, Any]:
    answer = {
        "type": "object",
        "properties": {"id": {"type": "string"}, "model": {"type": "string"}, holds: {"type": "array"}, "usage": {"type": "object"}},
        "required": ["id", "model", holds],
    }
    said = _json_answer("The answer as the provider has it.", answer, stream="the provider's own events")
    operation = {"operationId": name, "summary": about, "tags": ["providers"], "requestBody": body, "responses": {"200": said, **_errors()}}
    return {"post": operation}


def _reading() -> dict[str, Any]:
    model: Schema = {"type": "object", "required": ["id", "object"]}
    models: Schema = {
        "type": "object",
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": model}},
        "required": ["object", "data"],
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "description": "As `model` has it in a call."}
    figures = {"description": "The figures, in Prometheus's text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    health: Schema = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    fit = _json_answer("It can.", health)
    one = _get("model", "One prompt", _json_answer("The prompt.", model), **_errors())
    one["get"]["parameters"] = [name]
    return {
        "/v1/models": _get("models", "The prompts that can be called", _json_answer("The prompts.", models), **_errors()),
        "/v1/models/{name}": one,
        "/metrics": _get("metrics", "The figures of all workers", figures, **_errors()),
        "/healthz": _get("health", "Whether the service runs", _json_answer("It runs.", health), security=[]),
        "/readyz": _get("ready", "Whether the service can answer", fit, security=[], **{"503": _json_answer("It can't.", health)}),
    }


def _get(name: str, about: str, answer: Schema, *, security: list[Any] | None = None, **others: Any) -> dict[str, Any]:
    operation = {"operationId": name, "summary": about, "tags": ["service"], "responses": {"200": answer, **others}}
    return {"get": operation if security is None else {**operation, "security": security}}


# --- shared -----------------------------------------------------------------------------------------------

_REFUSALS = ("400", "401", "403", "404", "413", "429", "502", "503", "504")

_SHARED: Mapping[str, Any] = {
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "code": {"type": ["string", "null"]},
                    "hint": {"type": "string"},
                },
                "required": ["message", "type"],
            }
        },
        "required": ["error"],
    },
    "Usage": {
        "type": "object",
        "description": "Tokens; the cached ones are contained in the input.",
        "properties": {name: {"type": "integer", "minimum": 0} for name in ("input", "output", "cached")},
        "required": ["input", "output", "cached"],
    },
}


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _json_body(schema: Schema) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _json_answer(about: str, schema: Schema, *, stream: str = "") -> dict[str, Any]:
    content: Schema = {"application/json": {"schema": schema}}
    if stream:
        content["text/event-stream"] = {"schema": {"description": f"Server-sent events: {stream}."}}
    return {"description": about, "content": content}


def _errors() -> dict[str, Any]:
    return {status: _ref("responses", "Error") for status in (*_REFUSALS, "default")}
