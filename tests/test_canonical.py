"""Identity: every field that counts changes it, nothing else does, and today's identities stay what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from promptsmith import canonical
from promptsmith.canonical import UNKEYED, Scalar
from promptsmith.chat import Request, Turn
from promptsmith.contract import Check, Contract, JsonShape, Labels, TextShape
from promptsmith.errors import InputError
from promptsmith.prompt import Build, Prompt, Provenance, Serve, Variable, layout, make_prompt

text = st.text(max_size=12)
numbers = st.one_of(st.integers(), st.floats(allow_nan=False))
scalars: st.SearchStrategy[Scalar] = st.one_of(text, numbers, st.booleans(), st.none())
mappings = st.dictionaries(text, scalars, max_size=4)


def written(values: Mapping[str, Scalar]) -> str:
    """A mapping as identity must see it: ``1``, ``1.0``, ``True`` and ``"1"`` are four values (Python's == has two)."""
    return repr(sorted(values.items(), key=lambda item: item[0]))


# --- canonical form ---------------------------------------------------------------------------------------


def test_a_digest_is_sha256_over_rfc_8785() -> None:
    assert canonical.digest({"b": "é", "a": [1, True, None]}) == hashlib.sha256('{"a":[1,true,null],"b":"é"}'.encode()).hexdigest()


json_values = st.recursive(
    st.text(max_size=6)
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
@example({"b\x00": '\x1f\x7f\b\t\n\f\r"\\/é😀\u2028', "a": (1, True, None, -0)})
@example({"\U00010000": 1, "\uffff": 2})
@example({"a": 2**53 - 1, "b": [-(2**53) + 1], "B": ()})
@example([1.0, 1e21, -0.0])
def test_every_value_is_digested_in_the_form_that_rfc_8785_gives_it(value: Any) -> None:
    assert canonical.digest(value) == hashlib.sha256(rfc8785.dumps(value)).hexdigest()


@pytest.mark.parametrize("value", [2**53, -(2**53), {"a": 2**64}])
def test_a_number_that_json_can_not_carry_is_refused_not_rounded(value: Any) -> None:
    with pytest.raises(InputError, match="identity"):
        canonical.digest(value)


@pytest.mark.parametrize("value", ["\ud800", {"a": "x\udfff"}, {"\ud800": "a"}])
def test_a_lone_surrogate_has_no_identity(value: Any) -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        canonical.digest(value)


def test_the_place_of_a_lone_surrogate_is_named() -> None:
    with pytest.raises(InputError, match=r"U\+DC80\) at character 4"):
        canonical.sha256("abc\udc80")


@given(scalars, scalars)
@example(1, 1.0)
@example(1, True)
@example(0.0, -0.0)
@example("1", 1)
@example("float:1.0", 1.0)
@example(None, "None")
@example(2**53, 2**53 + 1)
def test_parameters_are_equal_only_if_written_alike(one: Scalar, other: Scalar) -> None:
    same = canonical.digest([canonical.decimal(one)]) == canonical.digest([canonical.decimal(other)])
    assert same == (repr(one) == repr(other))


def test_a_float_parameter_stands_as_its_shortest_decimal() -> None:
    assert canonical.decimal(0.1) == "float:0.1"
    assert canonical.decimal(0.1 + 0.2) == "float:0.30000000000000004"


def test_a_parameter_that_is_no_scalar_is_refused() -> None:
    with pytest.raises(InputError, match="list"):
        canonical.decimal([1])  # type: ignore[arg-type]


# --- prompt id --------------------------------------------------------------------------------------------

shapes = st.one_of(
    st.builds(Labels, st.lists(text, min_size=2, max_size=3).map(tuple), st.booleans()),
    st.builds(JsonShape, st.sampled_from(['{"type":"object"}', '{"type":"array"}', "true"])),
    st.builds(TextShape, max_words=st.none() | st.integers(0, 99), regex=st.none() | text),
)
check = st.builds(Check, st.just("max_words"), st.integers(0, 99)) | st.builds(Check, st.just("contains"), text)
checks = st.lists(check, max_size=2).map(tuple)
contracts = st.builds(Contract, shapes, checks, st.booleans())
variable = st.builds(Variable, st.sampled_from("abc"), st.none() | text, st.none() | st.integers(1, 99), text)
variables = st.lists(variable, max_size=2, unique_by=lambda one: one.name).map(tuple)
IN_PROMPT = {"system": text, "contract": contracts, "model": text, "parameters": mappings, "inputs": variables}
BUILT = Build(key="k", inputs={}, epoch=1)
PROVENANCE = Provenance(created="2026-01-01T00:00:00Z", version="1", level=0, level_why="asked for", build=BUILT)


def identity(field: str, value: Any) -> str:
    """A value of a field as the identity must tell it apart."""
    if field == "parameters":
        return written(value)
    if field == "system":
        return str(value).replace("\r\n", "\n").replace("\r", "\n")
    return repr(value)


@given(st.fixed_dictionaries(IN_PROMPT), st.data())
def test_each_field_of_a_prompt_is_in_its_id(fields: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(IN_PROMPT)))
    changed = data.draw(IN_PROMPT[field])
    rest: dict[str, Any] = {"task": "t", "serve": Serve(), "provenance": PROVENANCE}
    one = make_prompt(**fields, **rest)
    other = make_prompt(**{**fields, field: changed}, **rest)
    assert (one.id == other.id) == (identity(field, fields[field]) == identity(field, changed))


def prompt(**changes: Any) -> Prompt:
    fields: dict[str, Any] = {
        "task": "sentiment",
        "system": "Say it.\n",
        "contract": Contract(Labels(("yes", "no"))),
        "model": "builtin/nearest",
        "parameters": {"temperature": 0.5, "max_tokens": 20},
        "inputs": (),
        "serve": Serve(),
        "provenance": PROVENANCE,
    }
    return make_prompt(**{**fields, **changes})


@given(text, mappings)
def test_name_provenance_and_serving_are_not_in_a_prompts_id(words: str, values: Mapping[str, Scalar]) -> None:
    provenance = Provenance(
        created=words, version=words, level=2, level_why=words, seed=9, visible=words, shown=7, notes=(words,), meta=words,
        build=Build(key=words, inputs={"a": words}, epoch=3, options={"b": words}),
    )  # fmt: skip
    serve = Serve(on_contract_break="pass", cache=True, fallback=(words,), escalate=words)
    again = prompt(task=words, provenance=provenance, serve=serve, parameters={**values})
    assert again.id == prompt(parameters={**values}).id


@given(st.permutations(["a", "b", "c"]))
def test_the_order_of_parameters_is_not_in_a_prompts_id(names: list[str]) -> None:
    assert prompt(parameters={name: ord(name) for name in names}).id == prompt(parameters={"a": 97, "b": 98, "c": 99}).id


def test_the_renderer_is_in_a_prompts_id() -> None:
    later = msgspec.structs.replace(prompt(), renderer=canonical.RENDERER + 1)
    assert later.computed_id() != prompt().id


def test_a_contracts_wording_is_not_in_its_digest_but_its_rules_are() -> None:
    def digest(check: Check) -> str:
        return Contract(TextShape(), (check,)).digest()

    assert digest(Check("max_words", 5, "Be brief.")) == digest(Check("max_words", 5))
    assert digest(Check("max_words", 5)) != digest(Check("min_words", 5))
    assert digest(Check("max_words", 5)) != digest(Check("max_words", 6))


def test_today_s_identities_stay() -> None:
    """Pinned: a change here makes every promoted prompt, cached reply and build of our users another one."""
    assert prompt().id == "c63938dac04051cde573ba63cea9af96bf3cba492538ffb48a0b921e80843f02"
    assert request().key() == "6dc3abc330bfdb3458580d86b7aac2999907e6dcc437054b30f1afee454d2217"
    assert canonical.build_key(canonical.build_parts(**BUILD)) == "03fff9d4a5f1d26b0f33f02eecdd9c0e10f601b5501ee35bd1318e5ef9587c7b"
    assert canonical.case_id({"input": "Hello  World"}) == "1915f68973e0"
    assert round(canonical.fraction("0", "abc"), 6) == 0.72812


# --- reply key --------------------------------------------------------------------------------------------

turn_lists = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), text), max_size=3).map(tuple)
IN_REPLY: dict[str, Any] = {
    "model": st.tuples(st.sampled_from(["one", "two"]), st.sampled_from("mn")).map("/".join),
    "static": st.sampled_from(["a" * 64, "b" * 64]),
    "turns": turn_lists,
    "parameters": mappings,
    "schema": text,
    "sample": st.integers(0, 5),
    "options": st.dictionaries(text.filter(lambda name: name not in UNKEYED), scalars, max_size=3),
}


def request(**changes: Any) -> Request:
    fields: dict[str, Any] = {
        "model": "openai/gpt",
        "system": "Say it.",
        "turns": (Turn("user", "Hello"),),
        "parameters": {"temperature": 0.5},
        "static": "a" * 64,
        "schema": '{"type":"string"}',
    }
    return Request(**{**fields, **changes})


@given(st.fixed_dictionaries(IN_REPLY), st.data())
def test_each_field_of_a_request_is_in_its_key(fields: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(IN_REPLY)))
    changed = data.draw(IN_REPLY[field])
    one, other = request(**fields), request(**{**fields, field: changed})
    told = written if field in ("parameters", "options") else repr
    assert (one.key() == other.key()) == (told(fields[field]) == told(changed))


def test_the_fields_of_a_request_are_all_accounted_for() -> None:
    """A new field must be put into the key (and above) or be argued out of it here."""
    assert set(Request.__struct_fields__) == {*IN_REPLY, "system"}


@given(st.sampled_from(sorted(UNKEYED)), scalars, st.dictionaries(text, scalars, max_size=3))
def test_what_is_on_the_closed_list_is_not_in_the_key(name: str, value: Scalar, options: dict[str, Scalar]) -> None:
    options.pop(name, None)
    assert request(options={**options, name: value}).key() == request(options=options).key()


def test_the_closed_list_is_the_one_of_the_design() -> None:
    """Stream flags, provider-cache marks and keys, transport, timeouts, credentials; nothing may join them silently."""
    assert sorted(UNKEYED) == ["cache_key", "cache_marks", "credentials", "stream", "timeout", "transport"]


@given(text, text)
def test_without_a_prompt_id_the_static_text_is_in_the_key(one: str, other: str) -> None:
    assert (request(static="", system=one).key() == request(static="", system=other).key()) == (one == other)


@given(text, text)
def test_no_text_can_imitate_the_border_between_two_turns(one: str, other: str) -> None:
    parts = request(turns=(Turn("user", one), Turn("user", other)))
    whole = [request(turns=(Turn("user", one + middle + other),)) for middle in ("", "\n", ";user:1:", f";user:{len(other.encode())}:")]
    assert parts.key() not in {joined.key() for joined in whole}


def test_the_default_sample_is_sample_zero() -> None:
    assert request(sample=0).key() == request().key() != request(sample=1).key()


def test_the_endpoints_name_is_in_the_key_and_no_address_of_it() -> None:
    assert request(model="mine/gpt").key() != request(model="yours/gpt").key()
    assert request(model="mine/gpt").endpoint == "mine"


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"stop": ["a", "b"]}},
        {"options": {"response_format": {"type": "json"}}},
        {"turns": (Turn("user", "\ud800"),)},
        {"schema": "\ud800"},
        {"parameters": {"x": "\ud800"}},
    ],
)
def test_a_request_that_can_not_be_keyed_is_an_error(changes: dict[str, Any]) -> None:
    """A silent miss would call, and pay, again and again."""
    with pytest.raises(InputError):
        request(**changes).key()


# --- build key --------------------------------------------------------------------------------------------

BUILD: dict[str, Any] = {
    "description": "Classify it.",
    "prompt": None,
    "inputs": "text",
    "contract": Contract(Labels(("yes", "no"))).digest(),
    "examples": ['{"input": "a", "output": "yes"}'],
    "constraints": ["Be brief.\n"],
    "model": "builtin/nearest",
    "params": {"temperature": 0.5},
    "level": 0,
    "options": {"example_tokens": 6000},
    "seed": 0,
}
IN_BUILD: dict[str, Any] = {
    "description": text,
    "prompt": st.none() | text,
    "inputs": variables.map(layout),
    "contract": contracts.map(Contract.digest),
    "examples": st.lists(text, max_size=3),
    "constraints": st.lists(text, max_size=3),
    "model": text,
    "params": mappings,
    "level": st.integers(0, 3),
    "options": mappings,
    "seed": st.integers(0, 2**70),
}


@given(st.fixed_dictionaries(IN_BUILD), st.data())
def test_each_part_of_a_build_is_in_its_key(fields: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(IN_BUILD)))
    changed = data.draw(IN_BUILD[field])
    one, other = canonical.build_parts(**fields), canonical.build_parts(**{**fields, field: changed})
    told = written if field in ("params", "options") else repr
    same = told(fields[field]) == told(changed)
    assert (canonical.build_key(one) == canonical.build_key(other)) == same
    assert [name for name in one if one[name] != other[name]] == ([] if same else [PART.get(field, field)])


PART = {"description": "task", "params": "model", "level": "options"}
"""The part that a field belongs to, where it is not one of its own."""


def test_epoch_and_meta_model_are_in_the_build_key() -> None:
    parts = canonical.build_parts(**BUILD)
    assert canonical.build_key(parts, epoch=canonical.COMPILER_EPOCH) == canonical.build_key(parts)
    later, with_meta = canonical.build_key(parts, epoch=99), canonical.build_key(parts, meta=["strong/model", "digest"])
    assert len({canonical.build_key(parts), later, with_meta}) == 3


def test_kinds_of_identity_do_not_meet() -> None:
    """The same object under two kinds has two digests, because each kind is named inside."""
    assert len({prompt().id, request().key(), canonical.build_key(canonical.build_parts(**BUILD)), prompt().contract.digest()}) == 4


# --- rows -------------------------------------------------------------------------------------------------


@given(text, text)
@example("Hello  World", "hello world")
@example("ﬁne", "FINE")
@example("a\u00a0b", "a b")
def test_inputs_are_one_case_exactly_when_they_normalise_alike(one: str, other: str) -> None:
    same = canonical.case_id({"input": one}) == canonical.case_id({"input": other})
    assert same == (canonical.normalise(one) == canonical.normalise(other))


@given(text)
def test_normalising_ignores_case_blanks_and_nothing_visible(words: str) -> None:
    assert canonical.normalise(f"  {words}\t") == canonical.normalise(words)
    assert canonical.normalise(words + "x") != canonical.normalise(words)


def test_a_case_id_is_twelve_hex_digits_and_knows_its_variables() -> None:
    assert len(canonical.case_id({"input": "a"})) == 12
    assert canonical.case_id({"a": "x", "b": "y"}) == canonical.case_id({"b": "y", "a": "x"}) != canonical.case_id({"a": "y", "b": "x"})


@given(st.lists(text, max_size=3))
def test_a_fraction_depends_on_its_parts_alone(parts: list[str]) -> None:
    assert 0 <= canonical.fraction(*parts) < 1
    assert canonical.fraction(*parts) == canonical.fraction(*parts) != canonical.fraction(*parts, "more")


def test_fractions_are_spread_evenly() -> None:
    found = [canonical.fraction("0", str(number)) for number in range(2000)]
    assert 0.27 < sum(value < 0.3 for value in found) / 2000 < 0.33
