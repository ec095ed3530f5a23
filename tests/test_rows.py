"""task/rows.py: data files to examples, sides of a split, repeated rows."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith import canonical
from promptsmith.contract import Check
from promptsmith.errors import Problem
from promptsmith.prompt import Variable
from promptsmith.task.document import Problems, ScalarNode
from promptsmith.task.rows import MOST_MISTAKES, Row, dedupe, map_rows, read_rows, split_side, written_value
from promptsmith.task.values import Example, Where

NODE = ScalarNode("map", plain=True, line=4)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(name: str, content: str | bytes) -> tuple[list[Row], list[Problem]]:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    problems = Problems("evals/t.yaml")
    return list(read_rows(name, problems, NODE)), list(problems)


def good(name: str, content: str | bytes) -> list[Row]:
    rows, problems = rows_of(name, content)
    assert problems == []
    return rows


def values(name: str, content: str | bytes) -> list[Mapping[str, Any]]:
    return [row.values for row in good(name, content)]


def examples_of(name: str, content: str, **options: Any) -> tuple[list[Example], list[Problem]]:
    Path(name).write_text(content, encoding="utf-8", newline="")
    problems = Problems("evals/t.yaml")
    return list(map_rows(read_rows(name, problems, NODE), problems, NODE, **options)), list(problems)


def mapped(name: str, content: str, **options: Any) -> list[Example]:
    examples, problems = examples_of(name, content, **options)
    assert problems == []
    return examples


def refused(name: str, content: str, **options: Any) -> Problem:
    examples, problems = examples_of(name, content, **options)
    assert len(problems) == 1, (examples, problems)
    return problems[0]


# --- CSV and TSV ------------------------------------------------------------------------------------------


def test_a_record_is_named_by_its_first_line_and_keeps_its_line_breaks() -> None:
    rows = good("a.csv", 'text,label\n"one\n""two"", three",x\n\nfour,y\n')
    assert [(row.values["text"], row.where, row.typed) for row in rows] == [
        ('one\n"two", three', Where("a.csv", 2), False),
        ("four", Where("a.csv", 5), False),
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "A.CSV"])
def test_tables_are_read_alike_with_any_line_ends_and_a_byte_order_mark(name: str) -> None:
    sep = "\t" if "tsv" in name else ","
    text = f'text{sep}label\n"a{sep}b\nc"{sep}x\nd{sep}y'
    expected = [{"text": f"a{sep}b\nc", "label": "x"}, {"text": "d", "label": "y"}]
    for content in (text, "\ufeff" + text, text.replace("\n", "\r\n"), text + "\n", text + "\r\n\r\n"):
        assert values(name, content) == expected


def test_quotes_inside_a_bare_field_are_text() -> None:
    assert values("a.tsv", 'text\tlabel\nthe 5" one, "big"\tx\n') == [{"text": 'the 5" one, "big"', "label": "x"}]


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ('text,label\na,b\n"c,d\ne,f\n', 3, "never closed"),
        ('text,label\na,b\n"x\ny","z\ne,f\n', 4, "never closed"),
        ('text,label\n"a,b\nc,d\n"e",f\n', 2, "closed only in line 4, where 'e\",f' follows"),
        ('text,label\na,b\n"c" d,e\n', 3, "after its closing quote with ' d,e'"),
        ("text,label\na,b\n1,2,3\n", 3, "the row has 3 fields, the header has 2"),
        ("text,label\na,b\n1\n", 3, "the row has 1 field, the header has 2"),
        ("text,label,text\na,b,c\n", 1, "two columns are named 'text'"),
        ("text, label,label\na,b,c\n", 1, "two columns are named 'label'"),
        ("text,,label\na,b,c\n", 1, "column 2 has no name"),
        ('"text" x,label\na,b\n', 1, "closing quote"),
        ("text,label\n", 1, "header but no rows"),
        ("", 0, "empty"),
        ("\n\n", 0, "empty"),
        (b"text,label\na,b\nc\0,d\n", 3, "NUL"),
        (b"text,label\na,b\nc\xff,d\n", 3, "byte 0xff (at offset 16) is not UTF-8"),
        (b"PK\x03\x04\x14\x00\x08\n", 1, "NUL"),
        ("text,label\na,b\n".encode("utf-16"), 1, "UTF-16"),
        (b"text,label\ra,b\r", 1, "lone carriage return"),
    ],
)
def test_a_bad_table_is_one_error_with_its_line(content: str | bytes, line: int, words: str) -> None:
    problem = rows_of("a.csv", content)[1]
    assert len(problem) == 1
    assert (problem[0].file, problem[0].line) == ("a.csv", line) and words in problem[0].what, problem


def test_mistakes_inside_rows_are_told_together_and_the_other_rows_are_read() -> None:
    rows, problems = rows_of("a.csv", 'text,label\n1,2,3\na,b\n"c"d,e\nf\ng,h\n')
    assert [row.values["text"] for row in rows] == ["a", "g"]
    assert [problem.line for problem in problems] == [2, 4, 5]


@pytest.mark.parametrize("bad", ["x,y,z", '"x"y,z', "x"])
def test_reading_stops_after_many_mistakes(bad: str) -> None:
    _, problems = rows_of("a.csv", "text,label\n" + f"{bad}\n" * 1000)
    assert len(problems) == MOST_MISTAKES + 1 and "stopped after 20 mistakes" in problems[-1].what


def test_a_field_of_16_mb_is_read_and_a_larger_one_refused() -> None:
    """The csv module stops at 131,072 characters, or at whatever another library set for the whole process."""
    size = 16 * 1024 * 1024
    lines = ("x" * 1023 + "\n") * (size // 1024)
    before = csv.field_size_limit()
    assert len(good("a.csv", 'text,label\n"' + lines + '",y\n')[0].values["text"]) == size
    assert len(good("a.csv", "text,label\n" + "x" * size + ",y\n")[0].values["text"]) == size
    (problem,) = rows_of("a.csv", "text,label\na,b\n" + '"' + lines + 'x",y\n')[1]
    assert problem.line == 3 and "not closed within 16 MB" in problem.what
    assert csv.field_size_limit() == before


def test_a_line_without_end_is_refused_before_memory_is_full() -> None:
    with open("a.csv", "wb") as stream:
        stream.write(b"text,label\n")
        stream.seek(200 * 1024 * 1024)
        stream.write(b"x")
    Path("b.csv").write_bytes(b"text,label\n" + b"x" * (40 * 1024 * 1024))
    for name, words in (("a.csv", "NUL"), ("b.csv", "longer than 32 MB")):
        problems = Problems()
        assert list(read_rows(name, problems)) == []
        assert [(problem.line, words in problem.what) for problem in problems] == [(2, True)]


def test_reading_takes_no_memory_beyond_a_row() -> None:
    with open("a.csv", "w", encoding="utf-8") as stream:
        stream.write("text,label\n")
        stream.writelines(f'"row {number}, {"x" * 100}",y\n' for number in range(50_000))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_rows("a.csv", Problems()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 50_000 and peak < 500_000


def test_a_file_that_cannot_be_opened_is_told_where_it_is_named() -> None:
    Path("d.csv").mkdir()
    for name, words in (
        ("x.csv", "x.csv: there is no such file"),
        ("d.csv", "d.csv: this is a folder"),
        ("x.xlsx", "kind of file"),
        ("a\0.csv", "NUL"),
    ):
        problems = Problems("evals/t.yaml")
        assert list(read_rows(name, problems, NODE)) == []
        (problem,) = problems
        assert (problem.file, problem.line) == ("evals/t.yaml", 4) and words in problem.what


_FIELDS = st.text(st.sampled_from('ab",\n \t') | st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=8)


@given(st.lists(st.lists(_FIELDS, min_size=3, max_size=3), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_the_csv_module_writes_is_read_back(table: list[list[str]], end: str, tabs: bool) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t" if tabs else ",", lineterminator=end)
    writer.writerow(["a", "b", "c"])
    writer.writerows(table)
    rows = values("p.tsv" if tabs else "p.csv", out.getvalue().encode())
    assert [list(row.values()) for row in rows] == table


@given(st.text(st.sampled_from('ab,"\n'), max_size=30))
@settings(max_examples=400, deadline=None)
def test_a_table_is_accepted_exactly_when_the_strict_csv_module_accepts_it(body: str) -> None:
    text = "h,i\n" + body
    try:
        theirs: list[list[str]] | None = [record for record in csv.reader(io.StringIO(text, newline=""), strict=True) if record][1:]
    except csv.Error:
        theirs = None
    rows, problems = rows_of("p.csv", text)
    if theirs is None:
        assert problems
    else:
        assert [list(row.values.values()) for row in rows] == [record for record in theirs if len(record) == 2]
        assert bool(problems) == (not theirs or any(len(record) != 2 for record in theirs))


@given(
    st.sampled_from(["p.csv", "p.tsv", "p.jsonl"]),
    st.binary(max_size=120) | st.text(st.sampled_from('a,"{}[]:1.\\ud8\n\r\t \0\ufeffé')).map(str.encode),
)
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_read_or_told_and_never_raise(name: str, data: bytes) -> None:
    rows, problems = rows_of(name, data)
    assert rows or problems
    str([str(problem) for problem in problems]).encode()
    collected = Problems("t.yaml")
    for example in map_rows(rows, collected, json_outputs=True):
        example.output.encode()


# --- JSONL ------------------------------------------------------------------------------------------------


def test_json_lines_keep_types_lines_and_the_written_text_of_numbers() -> None:
    rows = good("a.jsonl", '\ufeff{"input": "a\\u0000", "output": 1.10}\r\n\n  \n{"input": "b", "output": -0, "n": [1e2]}')
    assert [row.where for row in rows] == [Where("a.jsonl", 1), Where("a.jsonl", 4)] and rows[0].typed
    assert rows[0].values == {"input": "a\0", "output": 1.1}
    assert [written_value(row.values["output"]) for row in rows] == ["1.10", "-0"]
    assert written_value(rows[1].values["n"][0]) == "1e2"


def test_a_line_separator_inside_a_json_text_ends_no_line() -> None:
    assert [row.values["input"] for row in good("a.jsonl", '{"input": "a\u2028b\x85c"}\n{"input": "d"}')] == ["a\u2028b\x85c", "d"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"input": "a"', "not valid JSON"),
        ("{'input': 'a'}", "not valid JSON"),
        ('{"input": "a"},', "Extra data at character 15"),
        ("[1, 2]", "this line is a list"),
        ('"text"', "this line is a text"),
        ("3.50", "this line is the number 3.50"),
        ("null", "this line is null"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"x": {"a": 1, "b": 0, "b": 2}}', "the key 'b' stands twice"),
        ('{"a": NaN}', "NaN is no JSON value"),
        ('{"a": 1e999}', "1e999 is too large"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"\\uDFFF": 1}', "half of a surrogate pair"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested more than 100 deep"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested more than 100 deep"),
        ('{"a": "x\0"}', "NUL"),
    ],
)
def test_a_bad_json_line_is_one_error_with_its_line(line: str, words: str) -> None:
    _, problems = rows_of("a.jsonl", '{"input": "a"}\n' + line + "\n")
    assert [(problem.file, problem.line) for problem in problems] == [("a.jsonl", 2)]
    assert words in problems[0].what


def test_surrogate_pairs_and_nesting_within_bounds_are_read() -> None:
    deep = "[" * 99 + "]" * 99
    assert values("a.jsonl", '{"a": "\\ud83d\\ude00", "b": ' + deep + "}")[0]["a"] == "\U0001f600"


def test_bad_json_lines_are_told_together_up_to_a_limit() -> None:
    rows, problems = rows_of("a.jsonl", '{"a": 1}\nx\n{"a": 2}\n[]\n')
    assert len(rows) == 2 and [problem.line for problem in problems] == [2, 4]
    _, problems = rows_of("a.jsonl", "x\n" * 1000)
    assert len(problems) == MOST_MISTAKES + 1


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_json_file_without_rows_is_an_error(content: str) -> None:
    assert [problem.what for problem in rows_of("a.jsonl", content)[1]] == ["the file has no rows"]


@given(
    st.lists(
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.integers() | st.text(st.characters(exclude_categories=["Cs"])) | st.floats(allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_what_json_writes_is_read_back(table: list[dict[str, Any]], escaped: bool) -> None:
    text = "\n".join(json.dumps(row, ensure_ascii=escaped) for row in table)
    assert values("p.jsonl", text) == table


# --- mapping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "output"), [("input", "output"), ("text", "label"), ("text", "expected"), ("input", "label")])
def test_usual_column_names_need_no_map(text: str, output: str) -> None:
    (example,) = mapped("a.csv", f"{text},{output}\nhello,x\n")
    assert (example.inputs, example.output, example.where) == ({"input": "hello"}, "x", Where("a.csv", 2))
    assert example.id == canonical.case_id({"input": "hello"})


def test_output_wins_over_expected_over_label_and_input_over_text() -> None:
    (example,) = mapped("a.csv", "label,expected,output,text,input\n1,2,3,4,5\n")
    assert (example.inputs["input"], example.output) == ("5", "3")
    assert mapped("a.csv", "label,expected,input\n1,2,5\n")[0].output == "2"


def test_a_map_names_every_column() -> None:
    (example,) = mapped(
        "a.csv",
        'q,a,key,groups,id,output\nhello,x, k1 ,"hard, new",no,no\n',
        mapping={"input": "q", "output": "a", "id": "key", "tags": "groups"},
    )
    assert (example.inputs, example.output, example.id, example.tags) == ({"input": "hello"}, "x", "k1", ("hard", "new"))


def test_named_inputs_come_from_their_columns_or_from_one_object() -> None:
    inputs = (Variable("ticket"), Variable("language", default="en"))
    assert mapped("a.csv", "ticket,language,label\nhelp,de,x\n", inputs=inputs)[0].inputs == {"ticket": "help", "language": "de"}
    assert mapped("a.csv", "body,label\nhelp,x\n", inputs=inputs, mapping={"ticket": "body"})[0].inputs == {
        "ticket": "help",
        "language": "en",
    }
    (example,) = mapped("a.jsonl", '{"input": {"ticket": "help"}, "output": "x"}', inputs=inputs)
    assert example.inputs == {"ticket": "help", "language": "en"}


def test_a_column_that_feeds_an_input_is_not_taken_for_the_output() -> None:
    inputs = (Variable("label"), Variable("tags"))
    (example,) = mapped("a.csv", "label,tags,expected\na,b,c\n", inputs=inputs)
    assert (example.inputs, example.output, example.tags) == ({"label": "a", "tags": "b"}, "c", ())


def test_a_missing_column_is_told_once_with_the_columns_there_are() -> None:
    problem = refused("a.csv", "texts,category\na,b\nc,d\n")
    assert (problem.file, problem.line) == ("a.csv", 1)
    assert (
        "no column 'input' or 'text'" in problem.what
        and "map: {input: <column>}" in problem.right
        and "'texts', 'category'" in problem.right
    )
    problem = refused("a.csv", "text,category\na,b\nc,d\n")
    assert "'output', 'expected' or 'label'" in problem.what and "'text', 'category'" in problem.right
    problem = refused("a.csv", "text,label,out_put\na,b,c\nc,d,e\n", mapping={"output": "output"})
    assert (problem.file, problem.line) == ("evals/t.yaml", 4)
    assert problem.what == "'map' takes output from 'output', which a.csv does not have" and "did you mean 'out_put'?" in problem.right
    assert "no column 'ticket'" in refused("a.csv", "tickets,label\na,b\n", inputs=(Variable("ticket"),)).what


def test_a_map_with_an_unknown_key_is_an_error_at_the_map() -> None:
    problem = refused("a.csv", "text,label\na,b\n", mapping={"ouput": "label"})
    assert (problem.file, problem.line, problem.right) == ("evals/t.yaml", 4, "did you mean 'output'?")
    assert "unknown key 'input'" in refused("a.csv", "t,label\na,b\n", inputs=(Variable("t"),), mapping={"input": "t"}).what


def test_json_rows_may_leave_out_id_and_tags_but_a_name_that_no_row_has_is_told() -> None:
    text = '{"text": "a", "label": "x"}\n{"text": "b", "label": "y", "k": 7, "g": ["t"]}\n'
    examples = mapped("a.jsonl", text, mapping={"id": "k", "tags": "g"})
    assert [example.id for example in examples] == [canonical.case_id({"input": "a"}), "7"] and examples[1].tags == ("t",)
    _, problems = examples_of("a.jsonl", text, mapping={"tags": "groups"})
    assert [(problem.line, "which no row of a.jsonl has" in problem.what) for problem in problems] == [(4, True)]


def test_each_json_row_without_a_needed_key_is_told_with_its_line() -> None:
    examples, problems = examples_of("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n{"label": "y"}\n{"text": "c", "label": "z"}\n')
    assert [example.inputs["input"] for example in examples] == ["a", "c"]
    assert [problem.line for problem in problems] == [2, 3]


@pytest.mark.parametrize(
    ("json_text", "output"), [("1.10", "1.10"), ("1", "1"), ("true", "true"), ("null", "null"), ('"yes"', "yes"), ('""', "")]
)
def test_json_scalars_become_their_written_text(json_text: str, output: str) -> None:
    (example,) = mapped("a.jsonl", f'{{"input": {json_text if json_text != "null" else 7}, "output": {json_text}}}')
    assert (example.output, example.json) == (output, False)


def test_json_objects_become_compact_json_text() -> None:
    for json_outputs in (False, True):
        (example,) = mapped("a.jsonl", '{"input": "a", "output": {"k":  [1, "é", 1.50]}}', json_outputs=json_outputs)
        assert (example.output, example.json) == ('{"k": [1, "é", 1.5]}', True)


def test_json_text_is_taken_as_json_only_for_a_json_contract() -> None:
    text = 'text,label\na,"{""k"":1}"\nb,1.10\nc,plain words\n'
    found = [(example.output, example.json) for example in mapped("a.csv", text, json_outputs=True)]
    assert found == [('{"k": 1}', True), ("1.10", True), ("plain words", False)]
    assert [example.json for example in mapped("a.csv", text)] == [False, False, False]
    assert "stands twice" in refused("a.csv", 'text,label\na,"{""k"":1,""k"":2}"\n', json_outputs=True).what


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"input": null, "output": "x"}', "'input' is null"),
        ('{"input": ["a"], "output": "x"}', "'input' is a list"),
        ('{"input": {"a": 1}, "output": "x"}', "'input' is an object"),
        ('{"input": "a", "output": "x", "id": [1]}', "the id is a list"),
        ('{"input": "a", "output": "x", "tags": {"a": 1}}', "the tags is an object"),
        ('{"input": "a", "output": "x", "tags": [["a"]]}', "a tag is a list"),
        ('{"input": "a", "output": "x", "tags": "[a"}', "the tags can't be read"),
    ],
)
def test_an_unusable_value_is_told_with_its_line(row: str, words: str) -> None:
    problem = refused("a.jsonl", '{"input": "a", "output": "x"}\n' + row)
    assert (problem.file, problem.line) == ("a.jsonl", 2) and words in problem.what


def test_an_unknown_name_in_an_input_object_is_told() -> None:
    problem = refused("a.jsonl", '{"input": {"tickt": "a"}, "output": "x"}', inputs=(Variable("ticket"),))
    assert problem.what == "unknown input 'tickt'" and problem.right == "did you mean 'ticket'?"


def test_an_empty_output_cell_is_an_error() -> None:
    assert refused("a.csv", "text,label\na,x\nb, \n").line == 3


@pytest.mark.parametrize(
    ("cell", "tags"),
    [("a", ["a"]), ("a, b", ["a", "b"]), ("a b  a", ["a", "b"]), ('["a b", "c"]', ["a b", "c"]), ("", []), ("[1.10]", ["1.10"])],
)
def test_tags_are_a_json_list_or_words(cell: str, tags: list[str]) -> None:
    quoted = cell.replace('"', '""')
    assert list(mapped("a.csv", f'text,label,tags\na,b,"{quoted}"\n')[0].tags) == tags


def test_wrong_rows_of_a_mapping_stop_the_reading_after_many() -> None:
    _, problems = examples_of("a.jsonl", '{"input": null, "output": "x"}\n' * 1000)
    assert len(problems) == MOST_MISTAKES + 1


# --- promptfoo --------------------------------------------------------------------------------------------


def expected(cell: str) -> Example:
    return mapped("a.csv", 'text,__expected\na,"' + cell.replace('"', '""') + '"\n')[0]


def test_contains_gives_the_output_and_keeps_the_assertion() -> None:
    example = expected("contains: Billing Inquiries")
    assert (example.output, example.checks) == ("Billing Inquiries", (Check("contains", "Billing Inquiries"),))


@pytest.mark.parametrize(
    ("cell", "output"),
    [
        ("equals:x: y", "x: y"), ("plain", "plain"), ("Note: bring ID", "Note: bring ID"), ("contain:x", "contain:x"),
        ("Contains:x", "Contains:x"), ("human", "human"), ("cost", "cost"), ("http://x", "http://x"), ("not sure", "not sure"),
    ],
)  # fmt: skip
def test_plain_values_are_the_output(cell: str, output: str) -> None:
    assert (expected(cell).output, expected(cell).checks) == (output, ())


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("llm-rubric: is polite", "llm-rubric"), ("icontains:x", "icontains"), ("regex:^a", "regex"), ("javascript:1", "javascript"),
        ("python: f()", "python"), ("not-contains:x", "not-contains"), ("similar(0.8):x", "similar(0.8)"), ("is-json", "is-json"),
        ("not-is-json", "not-is-json"), ("contains-any: a,b", "contains-any"), ("similar:cosine(0.9):x", "similar:cosine(0.9)"),
        ("file://check.py", "file://"), ("grade: good", "grade"), ("fn:x", "fn"), ("latency(5)", "latency(5)"),
        ("trajectory:tool-used:x", "trajectory:tool-used"),
        (" regex:a\nb", "regex"), ("contains(0.5):x", "contains(0.5)"),
    ],
)  # fmt: skip
def test_any_other_assertion_is_named_and_refused(cell: str, name: str) -> None:
    problem = refused("a.csv", 'text,__expected\na,"' + cell + '"\n')
    assert (problem.line, problem.what) == (2, f"the assertion {name!r} can't be read yet")


def test_an_assertion_without_a_text_and_several_assertions_are_errors() -> None:
    assert "names no text" in refused("a.csv", "text,__expected\na,contains:\n").what
    assert "__expected2" in refused("a.csv", "text,__expected,__expected2\na,b,c\n").what


def test_a_mapped_output_leaves_the_assertions_aside_but_a_bare_label_column_does_not() -> None:
    text = "text,label,__expected\na,L,llm-rubric:x\n"
    assert mapped("a.csv", text, mapping={"output": "label"})[0].output == "L"
    assert "llm-rubric" in refused("a.csv", text).what
    assert mapped("a.csv", "t,x,__expected\na,L,contains:L\n", mapping={"input": "t", "output": "__expected"})[0].checks


# --- sides ------------------------------------------------------------------------------------------------

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(_TEXTS, st.integers())
@settings(deadline=None)
def test_inputs_that_normalise_alike_share_a_side(text: str, seed: int) -> None:
    noisy = f"  {text.upper()}\n"
    if canonical.normalise(noisy) == canonical.normalise(text):
        assert split_side({"input": noisy}, seed) == split_side({"input": text}, seed)


@given(st.lists(_TEXTS, unique=True, max_size=20), _TEXTS, st.integers(0, 5))
@settings(deadline=None)
def test_adding_a_row_moves_no_other_row(texts: Sequence[str], added: str, seed: int) -> None:
    """The sides of the rows after an insertion anywhere are those before it."""
    before = {text: split_side({"input": text}, seed) for text in texts}
    after = {text: split_side({"input": text}, seed) for text in [added, *texts]}
    assert {text: after[text] for text in texts} == before


@given(_TEXTS, st.floats(0, 0.5), st.floats(0, 0.5))
@settings(deadline=None)
def test_a_larger_share_only_takes_rows_in(text: str, share: float, more: float) -> None:
    if split_side({"input": text}, 0, share, 0) == "examples":
        assert split_side({"input": text}, 0, share + more, 0) == "examples"


def test_the_shares_are_kept_and_the_seed_moves_rows() -> None:
    sides = [split_side({"input": f"row {number}"}, 0, 0.5, 0.3) for number in range(4000)]
    assert abs(sides.count("examples") / 4000 - 0.5) < 0.03
    assert abs(sides.count("holdout") / 4000 - 0.3) < 0.03
    assert sides != [split_side({"input": f"row {number}"}, 1, 0.5, 0.3) for number in range(4000)]
    assert None not in {split_side({"input": f"row {number}"}, 0) for number in range(1000)}


def test_the_sides_of_known_rows_are_pinned() -> None:
    """A change here moves sealed rows of every user into their visible half."""
    sides = "".join((split_side({"input": f"row {number}"}, 0) or "-")[0] for number in range(24))
    assert sides == "heeeeehheehhehhhheheheee"


# --- repeated rows ----------------------------------------------------------------------------------------


def row(text: str, output: str, line: int, file: str = "a.csv", *, is_json: bool = False) -> Example:
    inputs = {"input": text}
    return Example(id=canonical.case_id(inputs), inputs=inputs, output=output, json=is_json, where=Where(file, line))


def deduped(visible: list[Example], holdout: list[Example]) -> tuple[list[int], list[int], tuple[str, ...], list[Problem]]:
    problems = Problems("evals/t.yaml")
    found = dedupe(visible, holdout, problems)
    return [each.where.line for each in found.visible], [each.where.line for each in found.holdout], found.notes, list(problems)


def test_exact_duplicates_in_a_file_collapse_to_the_first() -> None:
    visible, holdout, notes, problems = deduped(
        [row("Hi", "x", 2), row(" hi ", "X", 3), row("b", "y", 4)], [row("c", "x", 5), row("C", "x", 6)]
    )
    assert (visible, holdout, problems) == ([2, 4], [5], [])
    assert notes == ("2 exact duplicates left out: a.csv:3 and a.csv:2; a.csv:6 and a.csv:5",)


def test_json_outputs_are_the_same_whatever_the_order_of_their_keys() -> None:
    visible, _, notes, _ = deduped([row("a", '{"x": 1, "y": 2}', 2, is_json=True), row("a", '{"y": 2, "x": 1}', 3, is_json=True)], [])
    assert visible == [2] and "exact duplicate" in notes[0]


def test_holdout_rows_with_a_visible_input_leave_the_holdout() -> None:
    visible, holdout, notes, problems = deduped([row("a", "x", 2)], [row("A", "x", 3), row("a", "y", 4), row("b", "x", 5)])
    assert (visible, holdout, problems) == ([2], [5], [])
    assert notes == (
        "2 holdout rows left out because their inputs are visible: a.csv:3 and a.csv:2; a.csv:4 and a.csv:2",
        "1 contradiction (same input, two outputs): a.csv:4 and a.csv:2",
    )


def test_contradictions_in_a_file_are_counted_and_the_first_five_listed() -> None:
    visible, _, (note,), problems = deduped([row("a", f"x{number}", number) for number in range(2, 10)], [])
    assert visible == list(range(2, 10)) and problems == []
    assert note.startswith("7 contradictions") and note.count(";") == 5 and note.endswith("; …")


def test_a_holdout_input_stands_there_once() -> None:
    _, holdout, notes, _ = deduped([], [row("a", "x", 2), row("a", "y", 3)])
    assert holdout == [2] and notes[0].startswith("1 contradiction")


def test_near_duplicates_are_counted_within_and_across_the_sides() -> None:
    visible, holdout, notes, _ = deduped(
        [row("Order 17 is late", "x", 2), row("order 18 is late!", "x", 3), row("1+1", "x", 4), row("2+2", "x", 5)],
        [row("Order: 9 is late", "x", 6)],
    )
    assert (visible, holdout) == ([2, 3, 4, 5], [6])
    assert notes == (
        "1 holdout row equal to a visible one but for punctuation and digits: a.csv:6 and a.csv:2",
        "1 row equal to another but for punctuation and digits: a.csv:3 and a.csv:2",
    )


def test_inline_rows_that_repeat_or_contradict_are_errors() -> None:
    inline = "evals/t.yaml"
    _, _, notes, problems = deduped(
        [row("a", "x", 2, inline), row("A", "x", 3, inline), row("a", "y", 4, inline)], [row("a", "x", 5, inline), row("a", "z", 6, inline)]
    )
    assert notes == () and [problem.line for problem in problems] == [3, 4, 5, 6]
    assert [problem.what for problem in problems] == [
        "this input stands here already (line 2)",
        "this input has another output (line 2)",
        "this input is visible already (line 2)",
        "this input has another output (line 2)",
    ]


def test_a_file_row_that_repeats_an_inline_row_is_no_error() -> None:
    visible, holdout, notes, problems = deduped([row("a", "x", 2, "evals/t.yaml"), row("a", "x", 7)], [row("a", "x", 9)])
    assert (visible, holdout, problems) == ([2], [], []) and len(notes) == 2


@given(st.lists(st.tuples(st.sampled_from("aAbB1."), st.sampled_from("xy"), st.booleans()), max_size=12))
@settings(deadline=None)
def test_no_holdout_input_is_visible_or_repeated(cases: list[tuple[str, str, bool]]) -> None:
    rows = [(row(text, output, line), sealed) for line, (text, output, sealed) in enumerate(cases, 2)]
    found = dedupe([each for each, sealed in rows if not sealed], [each for each, sealed in rows if sealed], Problems("t.yaml"))
    seen = {canonical.input_digest(each.inputs) for each in found.visible}
    sealed_inputs = [canonical.input_digest(each.inputs) for each in found.holdout]
    assert not seen & set(sealed_inputs) and len(set(sealed_inputs)) == len(sealed_inputs)
    assert seen | set(sealed_inputs) == {canonical.input_digest(each.inputs) for each, _ in rows}


def test_one_and_true_are_two_answers() -> None:
    """In Python they are equal; in JSON they contradict each other."""
    outputs = ('{"k": 1}', '{"k": true}', '{"k": 1.0}')
    rows = [
        Example(id=f"r{line}", inputs={"input": "a"}, output=output, json=True, where=Where("a.jsonl", line))
        for line, output in enumerate(outputs, 2)
    ]
    found = dedupe(rows, [], Problems("t.yaml"))
    assert [example.where.line for example in found.visible] == [2, 3]
    assert found.notes[0].startswith("1 exact duplicate left out: a.jsonl:4 and a.jsonl:2")
    assert found.notes[1].startswith("1 contradiction")
