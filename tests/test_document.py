"""task/document.py: YAML to nodes, every kind of bad file to one clear error."""

from __future__ import annotations

import enum
import json
import math
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from promptsmith.errors import Problem, SourceError
from promptsmith.task.document import (
    MAX_BYTES,
    MappingNode,
    Node,
    Problems,
    ScalarNode,
    SequenceNode,
    from_python,
    parse_document,
    read_bytes,
    read_document,
    shown,
    typed,
    written,
)
from promptsmith.task.values import Where


def problems_of(data: bytes | str) -> list[Problem]:
    with pytest.raises(SourceError) as caught:
        parse_document(data, "evals/t.yaml")
    return list(caught.value.problems)


def problem_of(data: bytes | str) -> Problem:
    (problem,) = problems_of(data)
    assert problem.file == "evals/t.yaml"
    return problem


def scalars(text: str) -> dict[str, ScalarNode]:
    node = parse_document(text, "t.yaml")
    assert isinstance(node, MappingNode)
    return {key.text: value for key, value in node.pairs if isinstance(value, ScalarNode)}


# --- what is read -----------------------------------------------------------------------------------------


def test_nodes_know_their_line_column_and_whether_they_were_quoted() -> None:
    node = parse_document("a: yes\nb:\n  - 'x'\n  - |\n    two\n    lines\n", "t.yaml")
    assert node == MappingNode(
        (
            (ScalarNode("a", True, 1, 1), ScalarNode("yes", True, 1, 4)),
            (
                ScalarNode("b", True, 2, 1),
                SequenceNode((ScalarNode("x", False, 3, 5), ScalarNode("two\nlines\n", False, 4, 5)), 3),
            ),
        ),
        1,
    )


@pytest.mark.parametrize("text", ["yes", "no", "on", "true", "null", "~", "1.10", "010", "0x1F", "1e3", "2024-01-01", "1_000", "12:30"])
def test_a_label_stays_as_it_was_written(text: str) -> None:
    assert written(scalars(f"a: {text}\n")["a"]) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("Null", None), ("nULL", "nULL"),
        ("true", True), ("FALSE", False), ("tRUE", "tRUE"), ("yes", "yes"), ("on", "on"), ("y", "y"),
        ("1", 1), ("-1", -1), ("+7", 7), ("010", 10), ("0o17", 15), ("0x1F", 31), ("0b1", "0b1"), ("1_000", "1_000"),
        ("9223372036854775808", 2**63), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"),
        ("1.10", 1.1), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-2.5E-1", -0.25), (".", "."), ("1e", "1e"),
        (".inf", math.inf), ("-.INF", -math.inf), ("+.Inf", math.inf), ("inf", "inf"), ("nan", "nan"),
        ("'1'", "1"), ('"true"', "true"), ("''", ""), ("٣", "٣"),
    ],
)  # fmt: skip
def test_typing_follows_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    found = typed(scalars(f"a: {text}\n")["a"])
    assert found == value and type(found) is type(value)


def test_not_a_number_is_typed() -> None:
    assert math.isnan(typed(scalars("a: .nan")["a"]))


def test_block_scalars_are_text_and_collections_are_typed_inside() -> None:
    assert typed(parse_document("a: |\n  1\nb: [1, '1', {c: ~}]\n", "t")) == {"a": "1\n", "b": [1, "1", {"c": None}]}


def test_escapes_may_hold_what_raw_text_may_not() -> None:
    assert scalars(r'a: "x\0\N\L\P\U0001F600"')["a"].text == "x\0\x85\u2028\u2029\U0001f600"


def test_a_byte_order_mark_and_any_line_ends_are_taken() -> None:
    lines = [b"\xef\xbb\xbfa: 1", b"b: 'x", b"  y'", b"b: 2", b""]
    for end in (b"\n", b"\r\n", b"\r"):
        assert problem_of(end.join(lines)).line == 4
    assert typed(parse_document(b"\xef\xbb\xbfa: 1", "t")) == {"a": 1}


def test_an_alias_shares_the_node_and_means_the_last_anchor_of_its_name() -> None:
    node = parse_document("a: &x [1]\nb: *x\nc: &x 2\nd: *x\ne: &y {f: &y 3, g: *y}\nh: *y\n", "t")
    assert isinstance(node, MappingNode)
    assert node.pairs[1][1] is node.pairs[0][1]
    assert typed(node) == {"a": [1], "b": [1], "c": 2, "d": 2, "e": {"f": 3, "g": 3}, "h": 3}


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"", 0, "empty"),
        (b"# only a comment\n", 0, "empty"),
        (b"---\n...\n", 0, "empty"),
        (b"a: 1\n\tb: 2\n", 2, "tab"),
        (b"a:\n\t- b\n", 2, "tab"),
        (b"a: |\n\tb\n", 2, "tab"),
        (b"-\tb: 1\n  c: 2\n", 1, "tab"),
        (b"a: 1\nb: \xff\n", 2, "byte 0xff (at offset 8) is not UTF-8"),
        (b"a: 1\r\nb: \xe4 \r\n", 2, "byte 0xe4 (at offset 9)"),
        ("a: 1".encode("utf-16"), 1, "UTF-16"),
        (b"a: 1\nb: x\x00y\n", 2, "NUL"),
        (b"a: 1\n\nb: x\x07y\n", 3, "U+0007"),
        ("a: 1\nb: \ufffe\n".encode(), 2, "U+FFFE"),
        ("a: 1\nb: x\x85y\n".encode(), 2, "U+0085"),
        ("a: 1\n# c \u2028\n".encode(), 2, "U+2028"),
        ("a: 1\nb: 'x\u2029y'\n".encode(), 2, "U+2029"),
        (b'a: 1\nb: "\\ud800"\n', 2, "surrogate"),
        (b'a: 1\nb: "\\U00110000"\n', 2, "U+10FFFF"),
        (b'a: 1\nb: "c:\\dir"\n', 2, "backslash"),
        (b'a: 1\nb: "x\nc: 2\nd: 3\n', 2, "never closed"),
        (b"a: 1\nb: see: this\n", 2, "': '"),
        (b"a: 1\nb: [1,\nc: 2\n", 3, "'[' in line 2 is not closed"),
        (b"a: {b: 1\n", 1, "'{' in line 1 is not closed"),
        (b"a: @home\n", 1, "'@'"),
        (b"- a\nb: 1\n", 2, "list that begins in line 1"),
        (b"a: it\nb: 'it's'\n", 2, "mapping that begins in line 1"),
        (b"a: 1\n---\nb: 2\n", 2, "second document"),
        (b"a: 1\nb: *c\n", 2, "*c names no anchor"),
        (b"a: 1\nb: &c [1, *c]\n", 2, "*c stands inside"),
        (b"a: 1\nb: &c {d: [*c]}\n", 2, "*c stands inside"),
        (b"a: 1\nb: !!python/object:os.system x\n", 2, "tag '!!python/object:os.system'"),
        (b"a: 1\nb: !mine [1]\n", 2, "tag '!mine'"),
        (b"a: 1\nb: !!int 3\n", 2, "tag '!!int'"),
        (b"a: 1\nb: ! 3\n", 2, "tag '!'"),
        (b"a: 1\n? [b, c]\n: 2\n", 2, "key is a list"),
        (b"a: 1\nb: 2\n'a': 3\n", 3, "'a' stands twice (first in line 1)"),
        (b"a: 1\nb: " + b"7" * 5000, 2, "5000 digits"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_error_with_its_line(data: bytes, line: int, words: str) -> None:
    problem = problem_of(data)
    assert (problem.line, words in problem.what) == (line, True), problem
    assert "\n" not in str(problem)


def test_a_lone_surrogate_in_a_python_text_is_refused_with_its_line() -> None:
    assert problem_of("a: 1\nb: \ud800\n").line == 2


def test_all_mistakes_that_leave_a_tree_are_told_at_once() -> None:
    found = problems_of("a: 1\na: 2\nb: !x 3\nc: {d: 1, d: 2}\na: 4\n")
    assert [problem.line for problem in found] == [2, 3, 4, 5]


def test_with_a_collector_a_tree_comes_back_and_the_reader_can_add_to_it() -> None:
    problems = Problems("t.yaml")
    node = parse_document("a: 1\na: 2\nb: 3\n", "t.yaml", problems)
    assert typed(node) == {"a": 1, "b": 3} and len(problems) == 1
    problems.add(node, "something else")
    problems.at(Where("rows.csv", 7), "elsewhere", "mend it")
    with pytest.raises(SourceError) as caught:
        problems.raise_if_any()
    assert [str(problem).split(":")[:2] for problem in caught.value.problems] == [["rows.csv", "7"], ["t.yaml", "1"], ["t.yaml", "2"]]


def test_an_empty_collector_raises_nothing() -> None:
    Problems("t.yaml").raise_if_any()


def test_a_syntax_error_stands_alone_even_after_other_mistakes() -> None:
    assert problem_of("a: 1\na: 2\nb: [\n").line == 3


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_an_alias_bomb_is_refused_without_expanding_in_memory() -> None:
    tracemalloc.start()
    try:
        problem = problem_of(bomb(12))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "100,000 nodes" in problem.what and problem.line == 5
    assert peak < 2_000_000


def test_aliases_are_counted_as_what_they_stand_for() -> None:
    """99,999 nodes below one list pass, one more does not; written out or by aliases alike."""
    assert isinstance(parse_document("[" + "x," * 99_999 + "]", "t"), SequenceNode)
    assert "nodes" in problem_of("[" + "x," * 100_000 + "]").what
    # 1 root + 1,000 in the anchored list (itself included) + 99 or 98 aliases of 1,000 + singles
    shared = "[&a [" + "x," * 999 + "]," + "*a," * 98
    assert isinstance(parse_document(shared + "x," * 999 + "]", "t"), SequenceNode)
    assert "nodes" in problem_of(shared + "x," * 1_000 + "]").what


def test_a_long_text_repeated_by_aliases_is_refused() -> None:
    text = "x" * (1024 * 1024)
    assert "16 MB of text" in problem_of(f"- &a {text}\n" + "- *a\n" * 16).what
    assert isinstance(parse_document(f"- &a {text}\n" + "- *a\n" * 15, "t"), SequenceNode)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}")])
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    parse_document(opening * 100 + "x" + closing * 100, "t")
    assert "nested" in problem_of(opening * 101 + "x" + closing * 101).what


def test_nesting_through_aliases_is_bounded() -> None:
    deep = "[" * 50 + "x" + "]" * 50
    parse_document(f"- &a {deep}\n- " + "[" * 49 + "*a" + "]" * 49, "t")
    assert "nested" in problem_of(f"- &a {deep}\n- " + "[" * 50 + "*a" + "]" * 50).what


def test_a_million_brackets_do_not_kill_the_process() -> None:
    assert "nested" in problem_of(b"[" * 1_000_000).what
    assert "nested" in problem_of(b"{a: " * 250_000).what
    assert "nested" in problem_of(b"- " * 250_000).what


# --- files ------------------------------------------------------------------------------------------------


def file_problem(path: Path | str) -> Problem:
    with pytest.raises(SourceError) as caught:
        read_document(path)
    (problem,) = caught.value.problems
    return problem


def test_a_huge_file_is_refused_after_16_mb(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as stream:
        stream.truncate(100 * 1024 * 1024)  # sparse
    tracemalloc.start()
    try:
        problem = file_problem(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "larger than 16 MB" in problem.what and "JSONL" in problem.right
    assert peak < 2 * MAX_BYTES + 1_000_000


def test_missing_folder_and_unreadable_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evals").mkdir()
    assert str(file_problem("evals/x.yaml")) == "evals/x.yaml: there is no such file"
    assert str(file_problem("evals")) == "evals: this is a folder, name a file"
    assert "NUL" in file_problem("a\0b").what or "null" in file_problem("a\0b").what
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    assert file_problem(loop).what.startswith("the file can't be read: ")


def test_a_file_is_read_and_shown_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "evals" / "a.yaml"
    path.parent.mkdir()
    path.write_bytes(b"a: 1\na: 2\n")
    assert read_bytes(path) == b"a: 1\na: 2\n"
    assert shown(path) == str(path)
    monkeypatch.chdir(tmp_path)
    assert file_problem(path).file == "evals/a.yaml"
    monkeypatch.chdir(path.parent)
    assert shown("../evals/a.yaml") == "a.yaml"
    assert shown("../b.csv") == str(tmp_path / "b.csv")
    assert shown(os.fsdecode(b"\xff.csv")).encode()


def test_importing_the_module_does_not_load_yaml() -> None:
    code = "import sys, promptsmith.task.document, promptsmith.task.rows; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


# --- Python values ----------------------------------------------------------------------------------------


class Colour(str, enum.Enum):
    RED = "red"


class Odd(float):
    def __repr__(self) -> str:
        return "Odd"


def test_python_values_become_nodes_that_type_back_to_them() -> None:
    value = {"a": ["1", 1, 1.5, True, None, -math.inf, 10**30], "b": ("x", {"c": ""}), "d": "null", "e": 1e300}
    assert typed(from_python(value)) == {**value, "b": ["x", {"c": ""}]}
    assert from_python("true") == ScalarNode("true", plain=False)
    assert from_python(True) == ScalarNode("true", plain=True)
    assert from_python(Colour.RED).text == "red"  # type: ignore[union-attr]
    assert typed(from_python(Odd(2.5))) == 2.5
    assert math.isnan(typed(from_python(math.nan)))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, {2}]}, "a[1]: a value of type set"),
        ({"a": {1: 2}}, "a: the key '1' is int"),
        ({"a": b"x"}, "a: a value of type bytes"),
        ({"a": {"b": "x\ud800"}}, "a.b: the text has a lone surrogate (U+D800) at character 2"),
        ({"a\ud800": 1}, "surrogate"),
        ({"a": 10**4000}, "a: a number of 13288 bits"),
        (object(), "a value of type object"),
    ],
)
def test_other_python_values_are_refused_with_their_place(value: Any, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        from_python(value)
    assert words in str(caught.value)
    assert not str(caught.value).startswith(":")
    str(caught.value).encode()


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    with pytest.raises(SourceError, match="nested"):
        from_python({"a": loop})


def test_many_values_are_refused() -> None:
    shared: Any = ["x"] * 10
    for _ in range(6):
        shared = [shared] * 10
    with pytest.raises(SourceError, match="100,000"):
        from_python(shared)


# --- properties -------------------------------------------------------------------------------------------

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)
_YAMLISH = st.lists(
    st.sampled_from(
        [*"ab1:-[]{},&*!|>'\"#%@?\\ \t\n\r.~"] + ["\x85", "\u2028", "é", "\0", "\ufeff", "---\n", "- ", ": ", "&a ", "*a", "\\u"]
    ),
    max_size=60,
).map("".join)


def walk(node: Node, depth: int = 0) -> int:
    """The number of nodes; fails on a tree that no reader could walk."""
    assert depth <= 101
    if isinstance(node, ScalarNode):
        node.text.encode()
        return 1
    children = node.items if isinstance(node, SequenceNode) else [value for _, value in node.pairs]
    return 1 + sum(walk(child, depth + 1) for child in children)


def reads_or_refuses(data: bytes | str) -> None:
    try:
        node = parse_document(data, "t.yaml")
    except SourceError as error:
        assert error.problems
        str(error).encode()
    else:
        assert walk(node) <= 100_000
        typed(node)


@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf")
@example(b"%YAML 2.0\n---\na")
@example(b"%TAG ! x\n---\na")
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    reads_or_refuses(data)


@given(_YAMLISH | st.text(st.characters()))
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    reads_or_refuses(text)


@given(_VALUES)
@settings(max_examples=200, deadline=None)
def test_any_plain_value_survives_the_way_through_nodes(value: Any) -> None:
    assert typed(from_python(value)) == value


@given(_VALUES)
@settings(max_examples=200, deadline=None)
def test_json_is_read_as_yaml_with_the_same_value(value: Any) -> None:
    """JSON with ASCII escapes is YAML but for surrogate pairs, which are refused and never misread."""
    text = json.dumps(value)
    if "\\ud" not in text and "Infinity" not in text and value not in (None, "") and len(text) < 900:
        assert typed(parse_document(text, "t")) == value
