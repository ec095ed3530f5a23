"""Contracts: what is inferred, how it is told in words and as a schema, and that every answer is judged with reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from promptsmith.contract import (
    CHECKS,
    TEXT_LIMITS,
    Check,
    Contract,
    JsonShape,
    Labels,
    Shape,
    TextShape,
    Verdict,
    as_schema,
    check_line,
    error_lines,
    explain,
    find_json,
    format_lines,
    infer,
    normalise_label,
    schema_problem,
    validator,
)
from promptsmith.errors import SourceError
from promptsmith.task import Task, load_task

any_text = st.text(alphabet=st.characters(exclude_categories=[]), max_size=30)
keys = st.sampled_from(["a", "b", "queue", "x y", 'q"', "é", "n\n"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(keys, values, max_size=4)


def judged(shape: Shape, text: str, *checks: Check, inferred: bool = False) -> Verdict:
    return validator(Contract(shape, checks, inferred))(text)


def json_shape(schema: Any) -> JsonShape:
    return JsonShape(json.dumps(schema))


def schema_of(*outputs: Any) -> Any:
    shape = infer([json.dumps(output) for output in outputs]).shape
    assert isinstance(shape, JsonShape)
    return json.loads(shape.schema)


# --- labels -----------------------------------------------------------------------------------------------

MOOD = Labels(("Positive", "negative", "can't say"))


@pytest.mark.parametrize(
    "text", ["Positive", "positive", "POSITIVE", " positive\n", '"Positive."', "**positive**", "`positive`", "(positive)!", "“Positive”"]
)
def test_case_and_surrounding_punctuation_do_not_count_and_the_label_comes_back_as_written(text: str) -> None:
    assert judged(MOOD, text) == Verdict("Positive")


@pytest.mark.parametrize("text", ["positively", "positive negative", "The label is positive", "not positive", "pos itive", "-", "…"])
def test_anything_else_is_refused_with_the_labels_named(text: str) -> None:
    verdict = judged(MOOD, text)
    assert verdict.value is None
    (reason,) = verdict.reasons
    assert "none of the labels Positive, negative, can't say" in reason


@pytest.mark.parametrize("text", ["", "  ", "\n"])
@pytest.mark.parametrize("shape", [MOOD, Labels(("a", "b"), allow_other=True), TextShape(), json_shape({}), TextShape(max_words=3)])
def test_an_empty_answer_is_refused_as_empty(shape: Shape, text: str) -> None:
    for inferred in (False, True):
        assert judged(shape, text, inferred=inferred).reasons == ("the answer is empty",)


def test_other_answers_pass_where_the_task_allows_them() -> None:
    shape = Labels(("a", "b"), allow_other=True)
    assert judged(shape, " something else ") == Verdict("something else")
    assert judged(shape, "A.") == Verdict("a")


@given(st.lists(st.text(min_size=1, max_size=8).filter(str.strip), min_size=2, max_size=5, unique_by=normalise_label), st.data())
def test_every_label_is_its_own_answer(labels: list[str], data: st.DataObject) -> None:
    label = data.draw(st.sampled_from(labels))
    dressed = data.draw(st.sampled_from(["{}", " {} ", '"{}"', "**{}**.", "{}\n"])).format(label)
    assert judged(Labels(tuple(labels)), label) == Verdict(label)
    if normalise_label(dressed) == normalise_label(label):
        assert judged(Labels(tuple(labels)), dressed) == Verdict(label)


def test_labels_of_nothing_but_punctuation_can_be_told_apart() -> None:
    shape = Labels(("+", "-", "...", "?", "C++", "C"))
    for label in shape.labels:
        assert judged(shape, label) == Verdict(label)


@pytest.mark.parametrize("pair", [["yes", "Yes."], ["a", "a"], ["ﬁne", "fine"], ["Straße", "STRASSE"], [" x", "x "], ["n/a", '"N/A"']])
def test_two_labels_that_normalise_to_the_same_are_refused(pair: list[str]) -> None:
    with pytest.raises(SourceError, match=r"(?s)the same but for case and punctuation.*keep one of them"):
        Task("Decide.", output=["other", *pair])


def test_equal_labels_are_refused_in_a_file_too(tmp_path: Path) -> None:
    """One-letter texts are one object in CPython, so a check by identity would miss them."""
    path = tmp_path / "t.yaml"
    path.write_text("task: Decide.\noutput:\n  - a\n  - b\n  - a\n")
    with pytest.raises(SourceError, match=r"t\.yaml:5: the labels 'a' and 'a' are the same"):
        load_task(path)


@pytest.mark.parametrize("label", ["a\nb", "a\rb", "a\r\n- b"])
def test_a_label_over_several_lines_is_refused(label: str) -> None:
    """It would stand on two lines of the prompt, and its second line could look like a label of its own."""
    with pytest.raises(SourceError, match="each label on one line"):
        Task("Decide.", output=[label, "c"])


ODD = ["yes", "no", "on", "off", "null", "~", "true", "False", "1.10", "010", "1e3", "0x1F", "1_000", "2026-01-01", ".inf", "NaN"]


@pytest.mark.parametrize("quoted", [False, True])
def test_labels_stay_the_written_text_from_yaml_to_the_answer(tmp_path: Path, quoted: bool) -> None:
    labels = [f'"{label}"' for label in ODD] if quoted else ODD
    rows = "".join(f"  - {{input: text {number}, output: {label}}}\n" for number, label in enumerate(labels))
    path = tmp_path / "odd.yaml"
    path.write_text(f"task: Decide.\noutput: [{', '.join(labels)}]\nexamples:\n{rows}")
    task = load_task(path)
    assert task.contract.shape == Labels(tuple(ODD))
    assert [row.output for row in task.examples] == ODD
    assert [line for line in format_lines(task.contract) if line.startswith("- ")] == [f"- {label}" for label in ODD]
    assert json.loads(as_schema(task.contract))["enum"] == ODD
    for label in ODD:
        assert validator(task.contract)(label) == Verdict(label)


# --- JSON -------------------------------------------------------------------------------------------------

NUMBER_AND_SKU = {"n": {"type": "integer"}, "sku": {"type": "string"}}
ORDER = json_shape({"type": "object", "properties": NUMBER_AND_SKU, "required": ["n"], "additionalProperties": False})


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 1}',
        ' \n{"n": 1}\n ',
        '```json\n{"n": 1}\n```',
        '```\n{"n": 1}\n```',
        'Here is the JSON:\n```JSON\n{"n": 1}\n```\nAnything else?',
        'Sure! {"n": 1}',
        'Sure! {"n": 1} Hope this helps {really}.',
        'As [you] asked: {"n": 1}',
        'Answer {see below}: {"n": 1}',
        '```json\n{"n": 1}',
        '{"n": 1}```',
        'The schema is ```json\nnot json\n``` and so: ```json\n{"n": 1}\n```',
    ],
)
def test_fenced_and_prefixed_json_is_found(text: str) -> None:
    assert judged(ORDER, text) == Verdict({"n": 1})


AROUND = ["{}", "```json\n{}\n```", "Here it is: {}", "{}\n\nDone.", "```\n{}\n```\nBye"]


@given(objects | st.lists(values, max_size=3), st.sampled_from(AROUND))
def test_any_value_is_found_in_whatever_stands_around_it(value: Any, around: str) -> None:
    assert find_json(around.replace("{}", json.dumps(value))) == value


@given(any_text | st.text(alphabet='{}[]",:`\n\\ue0123456789.-tfn a', max_size=40))
@example('{"a": "\ud800"}')
@example('{"a": "\\ud800"}')
@example("```json\n```")
@example("[" * 200_000)
@example('{"n": ' * 3000)
@example('{"n": ' + "[" * 900 + "]" * 900 + "}")
@example('{"n": ' + "9" * 5000 + "}")
@example('{"n": 1e999}')
@example('{"n": NaN}')
@example("-Infinity")
@example("\x00")
def test_no_answer_of_a_model_ever_raises(text: str) -> None:
    strict = {"type": "object", "properties": {"n": {"type": "array", "items": {"maxLength": 3}}, "a": {"pattern": "^b"}}}
    schemas: list[Any] = [strict, {"enum": [1]}, {"$ref": "#"}, {}]
    for shape in (ORDER, *map(json_shape, schemas), MOOD, TextShape(regex="x"), TextShape()):
        for inferred in (False, True):
            verdict = judged(shape, text, Check("contains", "x"), Check("regex", "y"), inferred=inferred)
            assert all(isinstance(reason, str) and reason for reason in (*verdict.reasons, *verdict.notes))


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64, -(2**64), 10**30])
def test_large_integers_are_kept_exactly_and_checked(number: int) -> None:
    assert judged(ORDER, f'{{"n": {number}}}') == Verdict({"n": number})
    assert judged(json_shape({"type": "integer", "maximum": 5}), str(abs(number))).reasons


@pytest.mark.parametrize("text", ["NaN", "Infinity", '{"n": -Infinity}', '{"n": 1e999}', '{"n": [-1e400]}'])
def test_numbers_that_json_has_not_are_refused_even_where_anything_goes(text: str) -> None:
    """Taken, they would be written into the next JSON as ``NaN`` or ``Infinity``, which nothing else reads."""
    verdict = judged(json_shape({}), text)
    assert verdict.value is None
    assert verdict.reasons


def test_reasons_name_the_place() -> None:
    row = {"type": "object", "properties": {"sku": {"type": "string"}}}
    schema = {"type": "object", "properties": {"items": {"type": "array", "items": row}}}
    (reason,) = judged(json_shape(schema), '{"items": [{"sku": "a"}, {"sku": 5}]}').reasons
    assert reason.startswith("items[1].sku: ")


def test_every_break_has_its_reason_and_the_value_is_kept() -> None:
    verdict = judged(ORDER, '{"sku": 5, "more": 1}')
    assert verdict.value == {"sku": 5, "more": 1}
    assert len(verdict.reasons) == 3


def test_deep_nesting_is_a_reason() -> None:
    assert judged(json_shape({}), "[" * 100_000).reasons == ("is not JSON: it is nested too deeply",)


def test_a_megabyte_of_brackets_is_judged_at_once() -> None:
    """Trying each bracket as the beginning would be quadratic; the suite would not end."""
    assert judged(ORDER, "{ " * 500_000).reasons


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/schema.json", "https://example.invalid/x", "file:///etc/hostname"])
def test_a_schema_never_reaches_out(uri: str) -> None:
    """The validator's own way is to fetch the address while the task is read."""
    with pytest.raises(SourceError, match=r"is another document, and those are not followed"):
        Task("Extract.", output={"json": {"$ref": uri}})


def test_a_schema_that_reaches_out_is_a_reason_where_it_comes_from_elsewhere() -> None:
    """A lock file is not read by the task reader."""
    (reason,) = judged(json_shape({"$ref": "file:///etc/hostname"}), "{}").reasons
    assert "is another document" in reason


@pytest.mark.parametrize(
    "schema",
    [{"type": "x"}, {"pattern": "("}, {"$ref": "#/$defs/none"}, {"$ref": "other.json"}, {"required": "a"}, {"$schema": "x:y"}, {"enum": 5}],
)
def test_a_wrong_schema_is_refused_with_a_reason(schema: Any) -> None:
    with pytest.raises(SourceError, match=r"is no JSON Schema: .+"):
        Task("Extract.", output={"json": schema})


def test_a_schema_too_deep_for_the_validator_is_refused(tmp_path: Path) -> None:
    schema: Any = {"type": "object"}
    for _ in range(400):
        schema = {"type": "object", "properties": {"a": schema}}
    (tmp_path / "deep.json").write_text(json.dumps(schema))
    (tmp_path / "deeper.json").write_text('{"properties": {"a": ' * 50_000)
    for name in ("deep.json", "deeper.json"):
        with pytest.raises(SourceError):
            Task("Extract.", output={"json": name}, folder=tmp_path)


# --- text and checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "good", "bad", "reason"),
    [
        (TextShape(max_words=2), "a b", "a b c", "has 3 words, more than 2"),
        (TextShape(min_words=2), "a b", "a", "has 1 word, fewer than 2"),
        (TextShape(max_chars=3), " abc ", "abcd", "has 4 characters, more than 3"),
        (TextShape(min_chars=2), "ab", "a", "has 1 character, fewer than 2"),
        (TextShape(max_lines=2), "a\n\nb", "a\nb\nc", "has 3 lines, more than 2"),
        (TextShape(min_lines=2), "a\nb", "a", "has 1 line, fewer than 2"),
        (TextShape(regex="^Dear"), "Dear A", "Hi Dear", "does not match the pattern '^Dear'"),
    ],
)
def test_each_limit_of_a_text_is_checked_and_told(shape: TextShape, good: str, bad: str, reason: str) -> None:
    assert judged(shape, good) == Verdict(good.strip())
    assert judged(shape, bad).reasons == (reason,)
    assert judged(shape, bad, inferred=True) == Verdict(bad, notes=(reason,))


def test_all_broken_limits_are_told_at_once() -> None:
    assert len(judged(TextShape(max_words=1, max_chars=2, regex="z"), "one two").reasons) == 3


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (Check("max_words", 2), "a b", "a b c"),
        (Check("min_words", 2), "a b", "a"),
        (Check("regex", r"\d"), "a1", "a"),
        (Check("contains", "Refund"), "a REFUND", "a"),
        (Check("not_contains", "sorry"), "fine", "So SORRY"),
    ],
)
def test_each_check_is_a_rule_even_beside_an_inferred_contract(check: Check, good: str, bad: str) -> None:
    for inferred in (False, True):
        assert judged(TextShape(), good, check, inferred=inferred).ok
        verdict = judged(TextShape(), bad, check, inferred=inferred)
        assert len(verdict.reasons) == 1
        assert verdict.value == bad


def test_the_cases_above_are_all_kinds_of_checks_and_limits() -> None:
    assert set(CHECKS) == {"max_words", "min_words", "regex", "contains", "not_contains"}
    assert set(TEXT_LIMITS) | {"regex"} == set(TextShape.__struct_fields__)


# --- inference --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (["positive", "negative"], Labels),
        (["a", "b", "a", "b", "c"], Labels),
        (["yes", "no", "null"], Labels),
        (["1", "2", "1", "2", "1"], Labels),
        (["order a refund", "ask for help"], Labels),
        (["positive"], Labels),
        (['{"a": 1}'], JsonShape),
        (["[1]", "{}"], JsonShape),
        (["[]"], JsonShape),
        (["1", "2", "3", "4", "5"], JsonShape),
        (["true", "1", "2.5", '"x"'], JsonShape),
        (["One sentence here that says it all.", "Another that is quite different from it."], TextShape),
        (["a", "b", "c", "d", "e"], TextShape),
        (['{"a": 1}', "and some text in words that is long enough"], TextShape),
        (["x" * 60, "y"], TextShape),
        (["a\nb", "c"], TextShape),
        (["a\rb", "c"], TextShape),
        (['{"a": NaN}', '{"a": 1}', '{"a": 2}', '{"a": 3}'], TextShape),
        (['{"a": 1e999}', '{"a": 1}', '{"a": 2}', '{"a": 3}'], TextShape),
    ],
)
def test_the_kind_is_inferred_from_bare_outputs(outputs: list[str], kind: type) -> None:
    contract = infer(outputs)
    assert isinstance(contract.shape, kind)
    assert contract.inferred


outputs_of_a_kind = st.one_of(
    st.lists(objects.map(json.dumps), min_size=1, max_size=6),
    st.lists(values.map(json.dumps), min_size=1, max_size=6),
    st.lists(st.sampled_from(["Yes", "no", "maybe so"]), min_size=1, max_size=6),
    st.lists(st.text(min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=6),
)


@given(outputs_of_a_kind)
@example(["yes", "Yes."])
@example(['"a"', "[]"])
@example(["NaN", '{"a": 1}', "x y z", "w"])
def test_every_output_satisfies_the_contract_inferred_from_it_words_included(outputs: list[str]) -> None:
    judge = validator(infer(outputs))
    for output in outputs:
        verdict = judge(output)
        assert verdict.ok
        assert not verdict.notes


@given(st.lists(objects, min_size=1, max_size=6))
def test_keys_are_required_exactly_when_every_example_has_them(rows: list[dict[str, Any]]) -> None:
    schema = schema_of(*rows)
    assert set(schema["properties"]) == {key for row in rows for key in row}
    assert set(schema["required"]) == {key for key in schema["properties"] if all(key in row for row in rows)}


def test_integer_and_number_are_told_apart() -> None:
    assert schema_of({"a": 1}, {"a": 2})["properties"]["a"] == {"type": "integer"}
    assert schema_of({"a": 1}, {"a": 2.5})["properties"]["a"] == {"type": "number"}
    assert schema_of({"a": 1.0}, {"a": 2.5})["properties"]["a"] == {"type": "number"}
    assert schema_of({"a": True}, {"a": 1})["properties"]["a"] == {"type": ["boolean", "integer"]}


def test_null_is_a_type_of_its_own() -> None:
    assert schema_of({"a": None}, {"a": "x"})["properties"]["a"] == {"type": ["null", "string"]}
    assert schema_of({"a": None}, {"a": None})["properties"]["a"] == {"type": "null"}


def test_nested_objects_and_arrays_are_read_to_the_bottom() -> None:
    schema = schema_of(
        {"customer": {"name": "A", "vip": True}, "items": [{"sku": "x", "n": 1}, {"sku": "y"}]},
        {"customer": {"name": "B"}, "items": []},
    )
    customer, items = schema["properties"]["customer"], schema["properties"]["items"]
    assert (customer["required"], list(customer["properties"])) == (["name"], ["name", "vip"])
    assert items["type"] == "array"
    assert items["items"]["properties"]["n"] == {"type": "integer"}
    assert items["items"]["required"] == ["sku"]


def test_an_inferred_schema_enforces_types_and_required_keys_only() -> None:
    """The fourth order number must not break a schema inferred from three."""
    rows = [{"queue": queue, "n": 1} for queue in ["billing", "shipping"] * 4]
    contract = infer([json.dumps(row) for row in rows])
    judge = validator(contract)
    assert "enum" in schema_of(*rows)["properties"]["queue"]
    other_value, more = judge('{"queue": "returns", "n": 1}'), judge('{"queue": "billing", "n": 7, "extra": []}')
    assert other_value.ok
    assert more.ok
    assert "queue" in other_value.notes[0]
    assert more.notes
    assert not judge('{"queue": "billing", "n": "1"}').ok
    assert not judge('{"queue": "billing"}').ok
    assert not judge("[]").ok


def test_nested_types_and_required_keys_are_enforced_too() -> None:
    judge = validator(infer(['{"a": {"b": [{"c": 1}]}}']))
    assert not judge('{"a": {"b": [{"c": "1"}]}}').ok
    assert not judge('{"a": {"b": [{}]}}').ok
    assert judge('{"a": {"b": [{"c": 99, "d": 1}, {"c": 2}]}}').ok


def test_inferred_labels_and_limits_are_counted_not_enforced() -> None:
    labels = validator(infer(["up", "down", "up"]))("sideways")
    assert (labels.ok, labels.value, len(labels.notes)) == (True, "sideways", 1)
    text = validator(infer(["One short sentence with words.", "Another one of about the same."]))("w " * 50)
    assert (text.ok, len(text.notes)) == (True, 1)


def test_the_same_contract_declared_is_enforced() -> None:
    assert not judged(Labels(("up", "down")), "sideways").ok
    declared = json_shape({"type": "object", "properties": {"q": {"enum": ["a"]}}, "additionalProperties": False})
    assert not judged(declared, '{"q": "b"}').ok
    assert not judged(declared, '{"r": "a"}').ok


@given(outputs_of_a_kind)
def test_what_was_inferred_is_said_in_words(outputs: list[str]) -> None:
    said = explain(infer(outputs))
    assert "enforced" in said or "refused" in said


def test_optional_and_required_keys_are_named_in_the_words() -> None:
    said = explain(infer(['{"a": 1, "b": 2}', '{"a": 1}']))
    assert "required keys a" in said
    assert "optional keys b" in said
    assert "types and required keys are enforced" in said


# --- in words and as a schema -----------------------------------------------------------------------------

shapes: st.SearchStrategy[Shape] = st.one_of(
    st.builds(Labels, st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=4, unique=True).map(tuple), st.booleans()),
    st.builds(
        TextShape,
        max_words=st.none() | st.integers(0, 99),
        min_chars=st.none() | st.integers(0, 99),
        max_chars=st.none() | st.integers(0, 99),
        regex=st.none() | st.sampled_from([r"\A\d+\Z", "(?a)x", "(?P<n>a)(?P=n)", "(?#c)x", "a b", "^x$", "x{,3}"]),
    ),
    st.lists(values, min_size=1, max_size=4).map(lambda rows: infer([json.dumps(row) for row in rows]).shape),
    st.sampled_from([json_shape(schema) for schema in (True, False, {}, {"$ref": "#"}, {"anyOf": [{"type": "string"}, {"minimum": 3}]})]),
)


@given(shapes, st.booleans())
def test_the_schema_for_structured_output_is_one_that_validators_take(shape: Shape, inferred: bool) -> None:
    schema = json.loads(as_schema(Contract(shape, inferred=inferred)))
    assert schema_problem(schema) == ""
    jsonschema_rs.validator_for(schema)
    jsonschema_rs.meta.validate(schema)


@given(st.lists(values, min_size=1, max_size=5))
def test_the_schema_for_structured_output_allows_what_the_validator_allows(rows: list[Any]) -> None:
    contract = infer([json.dumps(row) for row in rows])
    if isinstance(contract.shape, JsonShape):
        check = jsonschema_rs.validator_for(json.loads(as_schema(contract)))
        assert all(check.is_valid(row) for row in rows)


def test_a_schema_for_structured_output_holds_only_what_is_enforced() -> None:
    labels = Labels(("a", "b"))
    assert json.loads(as_schema(Contract(labels))) == {"type": "string", "enum": ["a", "b"]}
    assert json.loads(as_schema(Contract(labels, inferred=True))) == {"type": "string"}
    assert json.loads(as_schema(Contract(Labels(("a", "b"), allow_other=True)))) == {"type": "string"}
    assert json.loads(as_schema(Contract(ORDER))) == json.loads(ORDER.schema)
    assert "enum" not in as_schema(infer([json.dumps({"q": q}) for q in "abababab"]))


HOSTILE_SCHEMAS: list[Any] = [
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}},
    {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"k": {"const": 1}}}]},
    {"type": "object", "properties": {"a": {"oneOf": [{"type": "null"}, {"minimum": 3}]}}},
    {"type": "object", "properties": {"a": {"type": "array", "items": {"not": {"type": "null"}}}}},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}}},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "required": ["ghost"]},
    {"type": "object", "properties": {"a": False}},
    {"type": "array", "prefixItems": [{"type": "integer"}]},
    {"type": "array", "items": False},
    {"type": "string", "pattern": "a\nb"},
    {"type": "number", "multipleOf": 0.5},
    {"if": {"type": "string"}, "then": {"minLength": 3}},
    {"type": "object", "dependentRequired": {"a": ["b"]}},
    False,
]


@pytest.mark.parametrize("schema", HOSTILE_SCHEMAS, ids=json.dumps)
def test_a_schema_beyond_words_is_carried_whole(schema: Any) -> None:
    lines = format_lines(Contract(json_shape(schema)))
    assert json.loads(lines[-1]) == schema
    assert error_lines(Contract(json_shape(schema)))


def mentioned(schema: Any) -> set[str]:
    """Every key, enum value, bound and description in a schema, as its words must carry it."""
    if not isinstance(schema, dict):
        return set()
    found = {json.dumps(key, ensure_ascii=False)[1:-1] for key in schema.get("properties", {})}
    found |= {json.dumps(value, ensure_ascii=False) for value in schema.get("enum", [])}
    found |= {str(schema[name]) for name in ("minimum", "maximum", "minItems", "maxLength", "description", "pattern") if name in schema}
    for child in schema.get("properties", {}).values():
        found |= mentioned(child)
    return found | mentioned(schema.get("items"))


leaf_schemas = st.sampled_from(
    [
        {"type": "integer", "minimum": -7, "maximum": 77},
        {"type": "string", "enum": ["p", "q\nr"], "description": "which one"},
        {"type": ["string", "null"], "maxLength": 44},
        {"type": "string", "pattern": r"^\d{4}  x$"},
        {"type": "boolean"},
        True,
    ]
)
plain_schemas = st.recursive(
    leaf_schemas,
    lambda inner: st.one_of(
        st.dictionaries(keys, inner, max_size=3).map(lambda found: {"type": "object", "properties": found, "description": "an object"}),
        inner.map(lambda items: {"type": "array", "items": items, "minItems": 2}),
    ),
    max_leaves=5,
)


@given(plain_schemas)
@example({"type": "array", "items": {"type": "array", "items": {"type": "object", "properties": {"deep": {"type": "null"}}}}})
def test_the_words_leave_nothing_of_a_schema_out(schema: Any) -> None:
    lines = format_lines(Contract(json_shape(schema)))
    assert not any("\n" in line for line in lines)
    text = "\n".join(lines)
    assert all(word in text for word in mentioned(schema))


@given(shapes, st.booleans())
def test_every_contract_has_words_and_errors_to_avoid(shape: Shape, inferred: bool) -> None:
    contract = Contract(shape, inferred=inferred)
    assert all(format_lines(contract))
    assert len(error_lines(contract)) >= 2


def test_the_words_of_labels_keys_and_limits() -> None:
    assert format_lines(Contract(Labels(("a", "b"))))[1:] == ["- a", "- b"]
    assert len(format_lines(Contract(Labels(("a", "b"), allow_other=True)))) == 4
    keys = ['- "n": whole number; always present', '- "sku": text; only when it applies, else left out']
    assert format_lines(Contract(ORDER))[2:] == keys
    assert format_lines(Contract(TextShape(max_words=60, min_lines=2)))[1:] == ["Use at most 60 words.", "Write at least 2 lines."]


def test_errors_to_avoid_come_from_the_contract() -> None:
    assert any('Leaving out "n"' in line for line in error_lines(Contract(ORDER)))
    assert any('for "sku"' in line for line in error_lines(Contract(ORDER)))
    assert any("not in the list" in line for line in error_lines(Contract(Labels(("a", "b")))))
    assert not any("not in the list" in line for line in error_lines(Contract(Labels(("a", "b"), allow_other=True))))


@pytest.mark.parametrize("kind", CHECKS)
def test_a_check_is_told_in_the_users_words_else_in_ours(kind: Any) -> None:
    value = 7 if kind.endswith("words") else "b  c"
    assert str(value) in check_line(Check(kind, value))
    assert check_line(Check(kind, value, "Say it my way.")) == "Say it my way."


def test_a_check_stays_on_its_line() -> None:
    assert check_line(Check("contains", "a\nb")) == r"The answer must contain: a\nb"
