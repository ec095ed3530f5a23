"""The emitter: every text comes back from every YAML reader as it went in, and what can stand as a block does."""

from __future__ import annotations

import contextlib
import math
import random
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.errors import InputError, LockError
from promptsmith.registry.emit import LONG, Flow, Quoted, emit, is_bare
from promptsmith.registry.lines import Declined, read_lines
from promptsmith.registry.reader import read

NASTY = [
    "",
    " ",
    "\t",
    "\n",
    "\n\n",
    "\n\n\n",
    " \n",
    "\n ",
    "\t\n",
    "\n\t",
    "a",
    "a\n",
    "a\n\n",
    "a\n\n\n",
    "a ",
    "a \n",
    " a",
    "  a\nb",
    "\ta\nb",
    "\n a",
    "\n\n  a\n",
    "a\n   \nb",
    "a\n   ",
    "a\n \n",
    "a\t\nb\t",
    "a\n\tb",
    "%",
    "%YAML 1.1\n---\n",
    "---",
    "---\na",
    "...",
    "a\n...\nb",
    "a\n---\nb",
    "# no comment",
    "a # b",
    "a: b",
    "a:\n b",
    "- a",
    "- a\n- b",
    "? a",
    "| a",
    "> a",
    "|2-\n a",
    "&a b",
    "*a",
    "!a",
    "!!str a",
    "@a",
    "`a",
    "{a}",
    "[a",
    "'",
    "''",
    '"',
    '\\"',
    "\\",
    "a\\n",
    "{{x}}",
    "</examples>",
    "<<",
    "=",
    "~",
    "null",
    "Null",
    "true",
    "TRUE",
    "yes",
    "Yes",
    "y",
    "N",
    "on",
    "off",
    "1",
    "01",
    "0o7",
    "0x1f",
    "0b01",
    "1e5",
    "1E5",
    "1.5",
    ".5",
    "5.",
    "-1",
    "+1",
    "1_000",
    "12:30",
    "1:2:3",
    ".inf",
    "-.inf",
    ".nan",
    "nan",
    "Infinity",
    "2026-01-01",
    "2026-01-01T00:00:00Z",
    "0" * 64,
    "1e" + "1" * 62,
    "12345e67",
    "0b" + "1" * 62,
    "deadbeef" * 8,
    "3f" * 32,
    "a\r",
    "a\r\nb\r\n",
    "\r",
    "a\rb",
    "a\x85b",
    "a\n\x85b",
    "a\u2028b\nc",
    "a\u2029b",
    "\ufeffa",
    "a\n\ufeffb",
    "a\x00b",
    "a\n\x07b",
    "\x1b[0m",
    "\x7f",
    "a\n\x9fb",
    "\ufffe",
    "\uffff",
    "a\n\uffff",
    "😀",
    "😀\n😀",
    "é\nü",
    "\xa0",
    "\xa0\n\xa0",
    "\u200b\n",
    "x" * 10_000,
    ("x" * 10_000 + "\n") * 3,
    " " * 10_000,
    "é" * 10_000,
    "\t" * 200,
    "a" * LONG,
    "a" * (LONG + 1),
    " " * (LONG + 1) + "a",
    "x" * 200 + " ",
    "<<<<<<< HEAD\na\n=======\nb\n>>>>>>> x\n",
]
PLAIN = "ab \n\t:#-'\"|>%&*!{}[],?@`\\.0é😀"
ODD = PLAIN + "\r\x00\x07\x1b\x7f\x85\x9f\xa0\u2028\u2029\ufeff\ufffe\uffff\u200b\ud7ff\ue000"
READERS = [yaml.CSafeLoader, yaml.SafeLoader]
MUST_QUOTE = re.compile("[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def refuse(line: int, what: str) -> LockError:
    return LockError(f"{line}: {what}")


def everywhere(text: str) -> Any:
    """A text at every place where the lock could hold one."""
    return {"first": text, "list": [text, {"in": text, "after": 1}, [text]], "deep": {"er": {"est": text}, "next": True}, "last": text}


def assert_returns(value: Any, *loaders: Any) -> None:
    written = emit(value)
    assert written.endswith("\n")
    assert read(written, refuse) == value
    with contextlib.suppress(Declined):
        assert read_lines(written) == value
    for loader in loaders:
        assert yaml.load(written, loader) == value


@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text)[:30])
def test_a_nasty_text_returns_unchanged_from_every_reader_at_every_place(text: str) -> None:
    assert_returns(everywhere(text), *READERS)
    assert_returns(text, *READERS)
    assert_returns({text: text, "z": text} if len(text) < 500 else {"z": text}, *READERS)


def fuzz(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for number in range(count):
        alphabet = PLAIN if number % 2 else ODD
        texts.append("".join(rng.choices(alphabet, k=rng.choice((1, 2, 3, 5, 8, 20, 60, 130)))))
    return texts


def test_twenty_thousand_fuzzed_texts_return_unchanged() -> None:
    """Each through our reader and libyaml; a tenth also through PyYAML's own slow parser."""
    texts = fuzz(20_000, seed=7)
    for start in range(0, len(texts), 500):
        part = {f"k{i}": text for i, text in enumerate(texts[start : start + 500])}
        assert_returns(part, yaml.CSafeLoader)
        if start % 5000 == 0:
            assert_returns(part, yaml.SafeLoader)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_property_any_text_returns_unchanged(text: str) -> None:
    assert_returns(everywhere(text), *READERS)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(values)
def test_property_any_structure_returns_with_its_types(value: Any) -> None:
    """1, 1.0, "1" and true stay what they are, which equality alone would not show."""
    written = emit(value)
    for back in (read(written, refuse), yaml.load(written, yaml.CSafeLoader)):
        assert repr(back) == repr(value)


def test_the_quick_reader_leaves_escaped_surrogates_to_the_parser_and_takes_what_only_looks_like_one() -> None:
    with pytest.raises(Declined):
        read_lines('a: "\\ud83d\\ude00"\n')
    for text in ("\\ud83d", "\\\\ud83d", "\\udc00 \\"):
        assert read_lines(emit({"a": text})) == {"a": text} == yaml.safe_load(emit({"a": text}))


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.text(st.sampled_from("ab0y e:")), values, min_size=1))
def test_property_the_quick_reader_takes_everything_that_is_written(value: Any) -> None:
    written = emit(value, 4)
    if ".inf" not in written:
        assert repr(read_lines(written)) == repr(value)


def test_what_the_quick_reader_takes_the_yaml_parser_takes_for_the_same() -> None:
    """30,000 texts of the emitter's making, damaged at random: taken alike, or declined and left to the parser."""
    rng = random.Random(13)
    value: Any = {
        "a": [{"id": "3f", "b": ["x", ["y z", 1.5]], "n": {}}, "q\nr\n\n"],
        "k: 1": {"t": "  l\n\n m\n", "u": None, "v": [-3, True, []]},
        "e": "z" * 120,
        "f": Flow({"key": "3f", "n": 10, "é": {"a b.csv": "0e1", "\x7f": ""}}),
    }
    lines = emit(value, 2).split("\n")
    taken = 0
    for _ in range(30_000):
        part = list(lines)
        for _ in range(rng.randrange(1, 3)):
            at = rng.randrange(len(part))
            column = rng.randrange(len(part[at]) + 1)
            change = rng.choice(
                [
                    "",
                    " ",
                    "\t",
                    "\x85",
                    "\xa0",
                    "  ",
                    "-",
                    "- ",
                    ":",
                    ": ",
                    "a",
                    "1",
                    '"',
                    "\\",
                    "|",
                    "|2",
                    "+",
                    "#",
                    " #",
                    "\n",
                    "\n  ",
                    "'",
                    "{}",
                    "0",
                    "e",
                    ",",
                    "---",
                    "yes",
                    "}",
                    ', "n": 1',
                    "\\u00e9",
                ]
            )
            part[at] = rng.choice(
                [
                    part[at][:column] + change + part[at][column:],
                    part[at][:column] + change + part[at][column + 1 :],
                    part[rng.randrange(len(part))],
                    "  " + part[at],
                ]
            )
        text = "\n".join(part)
        with contextlib.suppress(Declined):
            quick = read_lines(text)
            taken += 1
            assert repr(quick) == repr(read(text, refuse)), text
    assert taken > 3000


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(ODD)))
def test_property_texts_with_lines_stand_as_blocks_unless_a_control_forbids(text: str) -> None:
    written = emit({"k": text})
    blocked = written.startswith("k: |2")
    assert blocked == (("\n" in text or len(text) > LONG) and not MUST_QUOTE.search(text))
    if not blocked:
        assert written.count("\n") == 1


def test_a_block_shows_the_text_line_by_line() -> None:
    assert emit({"system": "  one\n\ntwo 😀 \n"}) == "system: |2\n    one\n\n  two 😀 \n"
    assert emit([{"id": "a", "system": "x\ny"}]) == "- id: a\n  system: |2-\n    x\n    y\n"


def test_a_quoted_text_stays_on_one_line_whatever_its_length() -> None:
    rows = Quoted("abc:1:0:0.5 " * 300)
    assert emit({"rows": rows}).count("\n") == 1
    assert_returns({"rows": rows}, *READERS)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(NASTY)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        texts.filter(lambda t: len(t) < 150), texts | st.integers(-(2**62), 2**62) | st.dictionaries(st.text(max_size=9), texts)
    )
)
def test_property_a_flow_stands_on_one_line_and_returns_from_every_reader(value: dict[str, Any]) -> None:
    for holder in ({"build": Flow(value), "z": "y"}, [Flow(value), "y"], {"a": [{"b": Flow(value)}]}):
        written = emit(holder, 4)  # type: ignore[arg-type]
        assert written.count("\n") == 2
        assert_returns(holder, *READERS)


def test_the_quick_reader_takes_a_flow_as_it_is_written_and_leaves_every_other_spelling_to_the_parser() -> None:
    value: dict[str, Any] = {"k": "3f", "n": 7, "d": {"a b.csv": "é"}}
    line = emit({"f": Flow(value)})
    assert line == 'f: {"k": "3f", "n": 7, "d": {"a b.csv": "é"}}\n'
    assert read_lines(line) == {"f": value}
    for old, new, says in (
        ('"k"', '"n": 7, "k"', None),
        ("7", "7.0", 7.0),
        ("7", "7e5", None),
        ("7", "1.0e+2", 100.0),
        ("7", "-0", 0),
        ("7", "true", True),
        ("7", " 7", 7),
        ("7", "seven", "seven"),
        ("é", "\\u00e9", 7),
        ("{", "{ ", 7),
    ):
        other = line.replace(old, new, 1)
        with pytest.raises(Declined):
            read_lines(other)
        if says is None:
            with pytest.raises(LockError):
                read(other, refuse)
        else:
            assert repr(read(other, refuse)["f"]["n"]) == repr(says)


def test_a_flow_refuses_what_no_reader_would_give_back() -> None:
    bad: list[dict[str, Any]] = [{"k" * 1001: "v"}, {"a": {"k" * 1001: "v"}}]
    for value in bad:
        with pytest.raises(InputError, match="too long for a key"):
            emit({"f": Flow(value)})
    bad = [{"\ud800": "v"}, {"a": "\ud800"}, {"a": {"b": "\ud800"}}]
    for value in bad:
        with pytest.raises(InputError, match="lone surrogate"):
            emit({"f": Flow(value)})
    assert_returns({"f": Flow({"k" * 1000: "v"}), "empty": Flow({})}, *READERS)


@pytest.mark.parametrize("text", [t for t in NASTY if re.fullmatch(r"[A-Za-z0-9_./-]+", t)])
def test_a_bare_text_is_a_text_in_yaml_1_1_and_1_2(text: str) -> None:
    core = re.compile(
        r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|null|true|false", re.IGNORECASE
    )
    if is_bare(text):
        assert not core.fullmatch(text)
        assert yaml.safe_load(text) == text


def test_ids_that_look_like_numbers_are_quoted_and_others_are_not() -> None:
    rng = random.Random(3)
    ids = ["".join(rng.choices("0123456789abcdef", k=12)) for _ in range(3000)]
    ids += ["".join(rng.choices("0123456789e", k=12)) for _ in range(3000)] + ["0b" + "".join(rng.choices("01", k=10)) for _ in range(100)]
    assert yaml.load(emit(ids), yaml.SafeLoader) == ids
    assert all(yaml.load(emit([i]), yaml.CSafeLoader) == [i] for i in ids[:200])
    assert is_bare("3f" * 32)
    assert not is_bare("123456789012")
    assert not is_bare("1e1234567890")
    assert not is_bare("0b1010101010")


@pytest.mark.parametrize("number", [0.1, 1.0, -0.0, 1e-07, 1e22, 1.5e-10, 1e308, math.inf, -math.inf, 123456789.125, 5e-324])
def test_floats_return_as_floats(number: float) -> None:
    written = emit({"x": number})
    for back in (read(written, refuse), yaml.safe_load(written)):
        assert isinstance(back["x"], float)
        assert repr(back["x"]) == repr(number)
    assert math.isnan(read(emit([math.nan]), refuse)[0])


def test_a_lone_surrogate_is_refused_wherever_it_stands() -> None:
    for value in ("a\ud800", {"k": "x\n\udfff"}, {"\ud800": 1}, ["\udcff" * 200]):
        with pytest.raises(InputError, match="lone surrogate"):
            emit(value)


def test_a_key_too_long_for_a_reader_and_a_foreign_type_are_refused() -> None:
    with pytest.raises(InputError, match="too long for a key"):
        emit({"k" * 1001: 1})
    assert_returns({"k" * 1000: 1}, *READERS)
    with pytest.raises(InputError, match="not set"):
        emit({"k": {1, 2}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1\na: 2\n", "twice"),
        ("a: &x b\n", "anchor"),
        ("a: *x\n", "anchor"),
        ("a: !!str b\n", "tag"),
        ("a: !x {}\n", "tag"),
        ("a: &x [b]\n", "anchor"),
        ("a: yes\n", "without quotes"),
        ("a: 2026-01-01\n", "without quotes"),
        ("a: 010\n", "without quotes"),
        ("a: b c\n", "without quotes"),
        ("a:\n", "without quotes"),
        ("1: a\n", "no text"),
        ("? [a]\n: b\n", "no text"),
        ("a: b\n---\nc: d\n", "one plain"),
        ("---\na: b\n", "one plain"),
        ("a: b\n...\n", "one plain"),
        ("", "one plain"),
        ("a: [b\n", "not YAML"),
        ("a: 'b\n", "not YAML"),
        ("a: \x07\n", "YAML"),
        ("a: b\rc: d\n", "carriage"),
        ("a: " + "[" * 5000 + "]" * 5000 + "\n", "deep"),
        ("<<: {a: b}\n", "without quotes"),
    ],
)
def test_what_the_emitter_never_writes_is_refused(text: str, why: str) -> None:
    with pytest.raises(LockError, match=why):
        read(text, refuse)
