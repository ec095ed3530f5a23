"""The OpenAPI document of the service: valid, one typed path for each prompt, and what it says of bodies and answers is so."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from promptsmith.contract import Check, Contract, JsonShape, Labels, Shape, TextShape, validator
from promptsmith.errors import InputError
from promptsmith.models.wire import codec
from promptsmith.models.wire.anthropic import read_count
from promptsmith.prompt import Build, Prompt, Provenance, Serve, Variable, bind, make_prompt
from promptsmith.service.openapi import ServedTask, document

LABELS = Labels(("positive", "negative"))
TREE = JsonShape(
    json.dumps(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "https://example.com/tree",
            "type": "object",
            "properties": {
                "name": {"$ref": "#/$defs/word"},
                "default": {"$ref": "#/$defs/word"},
                "children": {"type": "array", "items": {"$ref": "#"}},
                "kind": {"enum": ["a", {"$ref": "#/$defs/word"}]},
            },
            "required": ["name"],
            "additionalProperties": False,
            "$defs": {"word": {"type": "string", "minLength": 1}},
        }
    )
)


def prompt(task: str, shape: Shape = LABELS, inputs: tuple[Variable, ...] = (), *, broken: str = "", inferred: bool = False) -> Prompt:
    return make_prompt(
        task=task,
        system="Secret words of the prompt.",
        contract=Contract(shape, checks=(Check("not_contains", "?"),), inferred=inferred),
        model="openai/gpt-6-luna",
        parameters={"max_tokens": 16},
        inputs=inputs,
        serve=Serve(on_contract_break=broken),
        provenance=Provenance(
            created="2026-11-20T09:00:00Z", version="0.6.0", level=0, level_why="asked for", build=Build(key="0" * 64, inputs={}, epoch=1)
        ),
    )


REVIEW = (Variable("product"), Variable("stars", default="5", max_chars=2, about="1 to 5"), Variable("review", max_chars=4000))
TASKS = [
    ServedTask("sentiment", prompt("sentiment")),
    ServedTask("billing/intent", prompt("billing/intent", broken="pass")),
    ServedTask("billing_intent", prompt("billing_intent", TREE)),
    ServedTask("review", prompt("review", TextShape(max_chars=200), REVIEW)),
    ServedTask("one", prompt("one", JsonShape('{"type": "integer"}'), (Variable("text"), Variable("tone", default="calm")))),
    ServedTask("guessed", prompt("guessed", inferred=True)),
]
WHOLE = document(TASKS, version="0.6.0", url="https://prompts.example.com")
RUN = "/v1/run/"


def body_of(path: str, method: str = "post") -> dict[str, Any]:
    found: dict[str, Any] = WHOLE["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
    return found


def answer_of(task: str) -> dict[str, Any]:
    found: dict[str, Any] = WHOLE["paths"][RUN + task]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    return found


def takes(schema: dict[str, Any], value: Any) -> bool:
    """Whether ``value`` satisfies a schema that stands in the document."""
    return jsonschema.Draft202012Validator({**schema, "components": WHOLE["components"]}).is_valid(value)


def result(value: Any, *, ok: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "value": value,
        "text": "x",
        "task": "t",
        "prompt": "0" * 64,
        "model": "m",
        "source": "model",
        "cost": None,
        "usage": {"input": 9, "output": 2, "cached": 0},
        "ok": ok,
        "reasons": [] if ok else ["it is no label"],
    } | more


@pytest.mark.parametrize("tasks", [TASKS, []])
def test_the_document_is_openapi_3_1(tasks: list[ServedTask]) -> None:
    made = json.loads(json.dumps(document(tasks, version="0.6.0")))
    assert made["openapi"] == "3.1.0"
    OPENAPI_31_VALIDATOR.validate(made)
    loaded = schemathesis.openapi.from_dict(made)
    loaded.validate()
    assert sorted(operation.ok().path for operation in loaded.get_all_operations()) == sorted(made["paths"])


def test_each_reference_leads_to_something_and_each_operation_has_its_own_name() -> None:
    registry = Registry().with_resource("", Resource(contents=WHOLE, specification=DRAFT202012))
    found = list(references(WHOLE))
    assert any(".value/$defs/word" in one for one in found)
    for one in found:
        registry.resolver().lookup(one)
    ids = [operation["operationId"] for methods in WHOLE["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    assert all(one.replace("_", "").replace("-", "").isalnum() for one in ids)


def references(value: Any) -> Any:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "enum":
                continue
            if key == "$ref" and isinstance(item, str):
                yield item
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_schema_in_it_is_one() -> None:
    for name in WHOLE["components"]["schemas"]:
        jsonschema.Draft202012Validator.check_schema(WHOLE["components"]["schemas"][name])
    for methods in WHOLE["paths"].values():
        for operation in methods.values():
            if "requestBody" in operation:
                jsonschema.Draft202012Validator.check_schema(operation["requestBody"]["content"]["application/json"]["schema"])


def test_what_is_served_is_in_it() -> None:
    paths = set(WHOLE["paths"])
    assert {RUN + one.task for one in TASKS} < paths
    assert {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/healthz",
        "/readyz",
    } < paths
    assert WHOLE["servers"] == [{"url": "https://prompts.example.com"}]
    assert WHOLE["info"]["version"] == "0.6.0"


def test_keys_are_bearer_or_x_api_key_and_health_needs_none() -> None:
    schemes = WHOLE["components"]["securitySchemes"]
    assert schemes == {"bearer": {"type": "http", "scheme": "bearer"}, "key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}
    assert WHOLE["security"] == [{"bearer": []}, {"key": []}]
    assert WHOLE["paths"]["/healthz"]["get"]["security"] == WHOLE["paths"]["/readyz"]["get"]["security"] == []
    assert document([], version="1", secured=False)["security"] == []


def test_the_words_of_a_prompt_are_not_in_it() -> None:
    assert "Secret words" not in json.dumps(WHOLE)


# --- bodies: what the document allows is what a prompt takes --------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
named = st.dictionaries(st.sampled_from(["input", "product", "stars", "review", "text", "tone", "other"]), texts, max_size=4)


@given(st.sampled_from(TASKS), st.fixed_dictionaries({}, optional={"input": texts, "inputs": named}))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_body_is_allowed_exactly_when_the_prompt_takes_it(one: ServedTask, body: dict[str, Any]) -> None:
    try:
        taken = len(body) == 1 and bool(bind(one.prompt.inputs, next(iter(body.values()))))
    except InputError:
        taken = False
    assert takes(body_of(RUN + one.task), body) is taken


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": 3},
        {"input": None},
        {"input": "a", "inputs": {"input": "a"}},
        {"inputs": {"input": 3}},
        {"input": "a", "model": "x"},
        {"input": "a", "stream": "yes"},
        {"input": "a", "canary_key": 3},
        [],
        "a",
    ],
)
def test_other_bodies_are_not_allowed(body: Any) -> None:
    assert not takes(body_of(RUN + "sentiment"), body)


def test_a_body_may_stream_and_name_whose_call_it_is() -> None:
    assert takes(body_of(RUN + "sentiment"), {"input": "a", "stream": True, "canary_key": "ann"})
    assert "text/event-stream" in WHOLE["paths"][RUN + "sentiment"]["post"]["responses"]["200"]["content"]
    about = body_of(RUN + "review")["properties"]["inputs"]["properties"]["stars"]
    assert about == {"type": "string", "maxLength": 2, "default": "5", "description": "1 to 5"}


READERS = {
    "/v1/chat/completions": codec("openai").read_request,
    "/v1/responses": codec("openai", "responses").read_request,
    "/v1/messages": codec("anthropic").read_request,
    "/v1/messages/count_tokens": read_count,
}


def closed(value: Any) -> Any:
    """The document with nothing in its objects that it does not describe."""
    if isinstance(value, list):
        return [closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    more = {"additionalProperties": False} if "properties" in value and "type" in value else {}
    return {key: closed(item) for key, item in value.items()} | more


@pytest.mark.parametrize("path", READERS)
def test_what_the_document_allows_of_the_providers_apis_is_read(path: str) -> None:
    operations = [one.ok() for one in schemathesis.openapi.from_dict(closed(WHOLE)).get_all_operations()]

    @given(next(one for one in operations if one.path == path).as_strategy())
    @settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
    def each(case: schemathesis.Case) -> None:
        assert isinstance(case.body, dict)
        # To JSON Schema 5.0 is an integer too.
        whole = {name: int(value) if isinstance(value, float) else value for name, value in case.body.items()}
        got = READERS[path](json.dumps(whole).encode())
        assert (got.model, got.unsupported, got.ignored) == (whole["model"], (), ())

    each()


# --- answers: the value is the contract's ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "value", "good"),
    [
        ("sentiment", "positive", True),
        ("sentiment", "great", False),
        ("billing_intent", {"name": "a", "default": "b", "children": [{"name": "c"}]}, True),
        ("billing_intent", {"name": "a", "children": [{"name": ""}]}, False),
        ("billing_intent", {"name": "a", "default": 3}, False),
        ("billing_intent", {"name": "a", "kind": {"$ref": "#/$defs/word"}}, True),
        ("review", "x" * 200, True),
        ("review", "x" * 201, False),
        ("one", 3, True),
        ("one", "3", False),
        ("guessed", "anything: an inferred label is no rule", True),
    ],
)
def test_the_value_of_an_answer_is_the_contracts(task: str, value: Any, good: bool) -> None:
    assert takes(answer_of(task), result(value)) is good


@given(st.sampled_from(TASKS), st.sampled_from(["positive", "Negative.", '{"name": "a"}', "3", "some words", "4.5", "[]"]))
@settings(deadline=None)
def test_what_the_contract_lets_pass_is_of_the_values_schema(one: ServedTask, text: str) -> None:
    verdict = validator(one.prompt.contract)(text)
    if verdict.ok:
        assert takes(answer_of(one.task), result(verdict.value))


def test_only_where_broken_answers_pass_an_answer_may_be_broken() -> None:
    broken = result("great", ok=False)
    assert takes(answer_of("billing/intent"), broken)
    assert not takes(answer_of("billing/intent"), result("great"))
    assert takes(answer_of("billing/intent"), result("positive"))
    assert not takes(answer_of("sentiment"), broken)


def test_an_answer_without_one_of_its_parts_is_none() -> None:
    whole = result("positive")
    for name in whole:
        assert not takes(answer_of("sentiment"), {key: value for key, value in whole.items() if key != name}), name


def test_all_refusals_are_of_one_form() -> None:
    error = WHOLE["components"]["responses"]["Error"]["content"]["application/json"]["schema"]
    assert takes(error, {"error": {"message": "No such prompt.", "type": "invalid_request_error", "code": "unknown_prompt", "hint": "x"}})
    assert not takes(error, {"error": "no"})
    for path in WHOLE["paths"]:
        for method, operation in WHOLE["paths"][path].items():
            if not operation.get("security", True):
                continue
            refusals = {status: said for status, said in operation["responses"].items() if status != "200"}
            assert refusals.keys() >= {"400", "401", "403", "404", "413", "429", "default"}, (path, method)
            assert all(said == {"$ref": "#/components/responses/Error"} for said in refusals.values())
