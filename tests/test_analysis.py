"""What is known of a task before any model is called, and that it is counted right, cheaply and without the holdout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from promptsmith import canonical
from promptsmith.catalog.models import facts
from promptsmith.catalog.prices import Rate, Rates
from promptsmith.catalog.tokens import estimate
from promptsmith.compiler.analysis import Analysis, Gap, Mixed, analyse
from promptsmith.compiler.draft import first_request
from promptsmith.compiler.explain import asked_by_holdout, in_words
from promptsmith.compiler.facts import fact_lines
from promptsmith.compiler.material import Material, Options, material
from promptsmith.compiler.near import COMPARED_CHARS, COMPARED_ROWS, is_near, neighbours
from promptsmith.config import Config, Project
from promptsmith.models.caching import break_even, cacheable, static_tokens
from promptsmith.task import Task, load_task

MakeProject = Callable[..., Project]
Invoke = Callable[..., Result]

LUNA, HAIKU = "openai/gpt-6-luna", "anthropic/claude-haiku-4-5"
PRICE = Rates((Rate(input=2.0, output=10.0, cached=0.2, written=2.5),))


def source_of(task: Task, **options: Any) -> Material:
    return material(task, Config(), Options(**{"level": 0, **options}))


def found_in(task: Task, **options: Any) -> Analysis:
    return analyse(source_of(task, **options))


def sorting(pairs: Sequence[tuple[str, str]], labels: Sequence[str] = ("a", "b", "c"), **more: Any) -> Task:
    return Task("Sort it.", output=list(labels), examples=list(pairs), **more)


def from_file(folder: Path, rows: Sequence[object], output: str = "[a, b, c]") -> Task:
    """A task whose examples stand in a data file, where contradictions and repetitions are no errors."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "t.yaml").write_text(f"task: Sort it.\noutput: {output}\nexamples: {{file: rows.jsonl}}\n")
    return load_task(folder / "t.yaml")


# --- labels -----------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_labels_are_counted(labels: list[str]) -> None:
    """Counts, ratio, labels without an example and with one alone are those of the rows."""
    balance = found_in(sorting([(f"row {number}", label) for number, label in enumerate(labels)], "abcde")).balance
    counts = Counter(labels)
    assert balance is not None
    assert dict(balance.counts) == counts
    assert [count for _, count in balance.counts] == sorted(counts.values(), reverse=True)
    assert balance.ratio == pytest.approx(max(counts.values()) / min(counts.values()), abs=0.005)
    assert balance.missing == tuple(label for label in "abcde" if label not in counts)
    assert set(balance.once) == {label for label in counts if counts[label] == 1}


def test_a_label_counts_as_the_contract_writes_it() -> None:
    """Inferred labels are as the first example writes them; the others may differ in case and punctuation."""
    balance = found_in(Task("Sort it.", examples=[("one", "a"), ("two", "A."), ("three", "b")])).balance
    assert balance is not None
    assert balance.counts == (("a", 2), ("b", 1))


def test_one_label_only_is_said() -> None:
    said = in_words(found_in(sorting([("one", "a"), ("two", "a")], "ab")))
    assert "all examples have one label" in said
    assert "no example shows b" in said


def test_a_task_without_examples_is_analysed() -> None:
    found = found_in(Task("Sort it.", output=["a", "b"]), model=LUNA)
    assert (found.balance, found.inputs, found.outputs, found.gaps, found.call.input) == (None, None, None, (), None)
    assert fact_lines(found) == ["There are no examples."]
    assert "0 visible" in in_words(found)


# --- gaps -------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["billing", "delivery", 3]},
        "urgent": {"type": "boolean"},
        "order": {"type": ["string", "null"]},
        "note": {"type": "string"},
        "never": {"type": "object", "properties": {"inside": {"enum": ["x"]}}},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"unit": {"enum": ["kg", "g"]}}}},
    },
    "required": ["queue", "urgent"],
}


def test_gaps_of_a_json_contract() -> None:
    answers = [
        {"queue": "billing", "urgent": True, "order": "A1", "note": "x", "lines": [{"unit": "kg"}]},
        {"queue": 3, "urgent": True, "order": "A2", "note": "y", "lines": [{"unit": "kg"}, {"unit": "kg"}]},
    ]
    task = Task("Extract it.", output={"json": SCHEMA}, examples=[(f"letter {n}", answer) for n, answer in enumerate(answers)])
    assert found_in(task).gaps == (
        Gap("value", "queue", '"delivery"'),
        Gap("value", "urgent", "false"),
        Gap("absent", "order"),
        Gap("type", "order", "null"),
        Gap("absent", "note"),
        Gap("present", "never"),
        Gap("absent", "lines"),
        Gap("empty", "lines"),
        Gap("absent", "lines[].unit"),
        Gap("value", "lines[].unit", '"g"'),
    )
    said = in_words(found_in(task))
    for words in ('"queue" as "delivery"', '"note" left out', '"never" at all', '"lines" empty', '"lines[].unit" as "g"'):
        assert words in said


def test_one_is_not_true_and_one_point_zero_is_one() -> None:
    schema = {"enum": [1, True, "1"]}
    task = Task("Say it.", output={"json": schema}, examples=[("one", 1.0), ("text", "1")])
    assert found_in(task).gaps == (Gap("value", "", "true"),)


@given(st.lists(st.fixed_dictionaries({}, optional={"k": st.sampled_from("xyz"), "l": st.lists(st.just("i"))}), min_size=1, max_size=8))
def test_an_inferred_contract_has_no_optional_key_or_value_gap(answers: list[dict[str, Any]]) -> None:
    """What was read off the examples is shown by them."""
    task = Task("Extract it.", examples=[(f"letter {n}", answer) for n, answer in enumerate(answers)])
    assert task.contract.inferred
    assert {gap.kind for gap in found_in(task).gaps} <= {"empty", "items"}


def test_gaps_that_the_holdout_has_cases_of_are_names_of_the_contract() -> None:
    """The person is told that a label is asked for; never a text of the holdout, and no compile sees even that."""
    holdout = [("a sealed secret", "b"), ("another secret", "a")]
    task = sorting([("one", "a"), ("two", "a")], "abc", holdout=holdout)
    found = found_in(task)
    assert asked_by_holdout(task, found) == (Gap("label", "", "b"),)
    said = in_words(found, asked_by_holdout(task, found))
    assert "the holdout has cases of b" in said
    assert "secret" not in said
    bare = sorting([("one", "a"), ("two", "a")], "abc")
    assert asked_by_holdout(bare, found_in(bare)) == ()
    assert fact_lines(found) == fact_lines(found_in(bare))


# --- repetitions ------------------------------------------------------------------------------------------


def test_contradictions_are_found_and_those_that_the_reader_noted_are_told(tmp_path: Path) -> None:
    rows = [
        {"input": "Where is it?", "output": "a"},
        {"input": "Something else", "output": "a"},
        {"input": "where  is IT?", "output": "b"},
        {"input": "where is it?", "output": "A"},
        {"input": "Where is it?", "output": "c"},
    ]
    task = from_file(tmp_path, rows)
    found = analyse(source_of(task), noted=task.notes)
    assert [len(one.rows) for one in found.contradictions] == [3]
    assert [place.rpartition(":")[2] for place in found.contradictions[0].rows] == ["1", "3", "5"]
    assert found.mixed == (Mixed("a", "b", 1), Mixed("a", "c", 1))
    assert found.noted == task.notes
    said = in_words(found)
    assert "1 input with several outputs (contradictions)" in said
    assert "contradictions (same input, two outputs)" in said
    assert "Inputs that stand with several different outputs: 1." in "\n".join(fact_lines(found))


def test_json_answers_that_are_written_otherwise_do_not_contradict(tmp_path: Path) -> None:
    rows = [
        {"input": "x", "output": {"k": 1, "l": 2}},
        {"input": "X", "output": {"l": 2.0, "k": 1}},
        {"input": "y", "output": {"k": 1, "l": 2}},
        {"input": "Y", "output": {"k": 3, "l": 2}},
    ]
    found = found_in(from_file(tmp_path, rows, "{json: {type: object}}"))
    assert [len(one.rows) for one in found.contradictions] == [2]


def test_near_duplicates_say_whether_their_answers_differ() -> None:
    pairs = [
        ("Where is my order today", "a"),
        ("wher is my order today", "a"),
        ("My order today, where is it", "b"),
        ("I want my money back at once", "c"),
    ]
    found = found_in(sorting(pairs))
    assert (found.near.rows, found.near.differing) == (2, 1)
    assert [pair.same_output for pair in found.near.pairs] == [False, True]
    assert found.mixed == (Mixed("a", "b", 1),)
    assert "2 examples nearly equal to an earlier one, 1 with another output" in in_words(found)
    assert 'Labels that stand with equal or nearly equal inputs, and how often: "a" and "b" (1).' in fact_lines(found)


few_words = st.lists(st.sampled_from(["red", "reed", "green", "blue", "bluer", "sky", "tree", "at"]), max_size=9).map(" ".join)


@given(st.lists(few_words, max_size=25, unique=True))
def test_filtering_finds_what_comparing_all_with_all_finds(texts: list[str]) -> None:
    words = [frozenset(text.split()) for text in texts]
    expected = {row for row in range(len(texts)) if any(is_near(words[row], words[other]) for other in range(row))}
    found = neighbours(texts)
    assert {row for row, _ in found.pairs} == expected
    assert all(other < row and is_near(words[row], words[other]) for row, other in found.pairs)
    assert (found.unfinished, found.clipped) == (0, 0)


def test_a_script_without_blanks_is_compared_by_characters() -> None:
    assert neighbours(["请问我的订单在哪里", "请问我的订单在哪里呢", "我想要退款"]).pairs == ((1, 0),)


def test_rows_that_all_use_the_same_few_words_are_bounded_and_said() -> None:
    """All sets of four of sixteen words: each row meets more others than are compared, and none is near."""
    words = [canonical.sha256(str(number))[:10] for number in range(16)]
    texts = list(map(" ".join, combinations(words, 4)))
    found = neighbours(texts)
    assert not found.pairs
    assert 0 < found.unfinished < len(texts)
    task = sorting([(text, "a") for text in texts])
    assert f"compared with {COMPARED_ROWS} others only" in in_words(found_in(task))


def test_long_inputs_are_compared_by_their_beginning_and_that_is_said() -> None:
    same = " ".join(f"word{number}" for number in range(300))
    assert len(same) > COMPARED_CHARS
    found = found_in(sorting([(same + " one", "a"), (same + " two", "a")]))
    assert (found.near.rows, found.near.clipped) == (1, 2)
    assert "2 examples compared by the first 1,000 characters only" in in_words(found)


# --- lengths, tokens, money -------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=50))
def test_percentiles_are_by_nearest_rank(lengths: list[int]) -> None:
    """At least half, and at least 95 %, are as long or shorter, and no smaller length has that."""
    found = found_in(Task("Write it.", output="text", examples=[(f"{n:04d}" + "x" * length, "y") for n, length in enumerate(lengths)]))
    assert found.inputs is not None
    chars = found.inputs.chars
    values = [length + 4 for length in lengths]
    assert (chars.least, chars.most) == (min(values), max(values))
    for value, percent in ((chars.median, 50), (chars.p95, 95)):
        assert value in values
        assert 100 * sum(one <= value for one in values) >= percent * len(values)
        assert 100 * sum(one < value for one in values) < percent * len(values)


@pytest.mark.parametrize("model", [LUNA, HAIKU, "openai/gpt-4o", "builtin/nearest", "other/unknown"])
@pytest.mark.parametrize("tokens", [200, 40_000])
def test_tokens_and_caching_are_those_of_the_target(model: str, tokens: int) -> None:
    """As the catalog and the cache planner have them for the very prompt that -O0 makes."""
    from promptsmith.compiler.select import examples_for
    from promptsmith.compiler.template import system_prompt

    task = sorting([(f"row {n} " + "words " * 20, "ab"[n % 2]) for n in range(400)], "ab")
    source = source_of(task, model=model, example_tokens=tokens)
    system, known = system_prompt(source, examples_for(source)), facts(model)
    found = analyse(source)
    assert found.call.static == static_tokens(system, known)
    assert found.call.examples == found.call.static - static_tokens(system_prompt(source, ()), known)
    assert found.caching.cacheable is cacheable(system, known)
    assert found.caching.minimum == known.cache_minimum
    assert [one.break_even for one in found.caching.lifetimes] == list(map(break_even, known.cache_rates))
    assert (found.call.limit is None) == model.startswith("builtin/")
    words = "nothing is known of" if known.cache == "none" else "cacheable (from" if found.caching.cacheable else "not cacheable"
    assert words in in_words(found)


def test_tokens_of_an_input_are_those_of_its_turn() -> None:
    task = Task("Sort it.", inputs=["title", "body"], output=["a", "b"], examples=[({"title": "t", "body": "b" * 30}, "a")])
    found = found_in(task)
    assert found.inputs is not None
    assert found.inputs.chars.median == 31
    assert found.call.input == estimate(f"<title>\nt\n</title>\n<body>\n{'b' * 30}\n</body>")


def test_an_input_that_never_varies_is_named() -> None:
    rows = [({"lang": "en", "text": f"text {n}"}, "a") for n in range(3)]
    found = found_in(Task("Sort it.", inputs=["lang", "text"], output=["a", "b"], examples=rows))
    assert found.fixed_inputs == ("lang",)
    assert "all have the same lang" in in_words(found)
    assert 'Inputs that have the same value in every example: "lang".' in fact_lines(found)


def test_costs_are_those_of_a_thousand_calls() -> None:
    """Cold pays the write of a static part that is cacheable, warm its read; too short, both pay plain input."""
    rows = [(f"row {n} " + "words " * 20, "ab"[n % 2]) for n in range(400)]
    for tokens, paid in ((40_000, True), (100, False)):
        source = source_of(sorting(rows, "ab"), model=LUNA, example_tokens=tokens)
        found = analyse(source, PRICE)
        call, costs = found.call, found.costs
        assert costs is not None
        assert call.input is not None
        assert call.output is not None
        assert call.limit is not None
        assert found.caching.cacheable is paid
        rest = (call.input * 2.0 + call.output * 10.0) / 1000
        assert costs.cold == pytest.approx(call.static * (2.5 if paid else 2.0) / 1000 + rest)
        assert costs.warm == pytest.approx(call.static * (0.2 if paid else 2.0) / 1000 + rest)
        assert costs.at_limit == pytest.approx(1000 * PRICE.worst(call.static + call.input, call.limit))
    assert analyse(source).costs is None
    assert f"unknown: no price is known for {LUNA}" in in_words(analyse(source))


def test_a_prompt_written_by_hand_is_measured_itself() -> None:
    task = sorting([("one", "a"), ("two", "b")], prompt="Sort it. Answer a, b or c." * 100)
    found = found_in(task)
    assert (found.call.static, found.call.examples, found.chosen) == (estimate(task.prompt or ""), 0, 0)
    said = in_words(found)
    assert "none added to a prompt written by hand" in said
    assert f"about {found.call.static} tokens, written by hand" in said


def test_an_input_left_to_its_default_counts_with_it() -> None:
    rows = [{"input": {"text": f"text {n}"}, "output": "a"} for n in range(2)]
    task = Task("Sort it.", inputs={"lang": {"default": "en"}, "text": {}}, output=["a", "b"], examples=rows)
    assert found_in(task).fixed_inputs == ("lang",)


# --- the dev part -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "words"), [(19, "none (under 20 visible examples)"), (200, "-O2 would score on ")])
def test_the_dev_part_that_o2_would_have(count: int, words: str) -> None:
    found = found_in(sorting([(f"row {n}", "a") for n in range(count)]))
    assert words in in_words(found)
    assert found.dev.dev + found.dev.compile == count
    assert bool(found.dev.dev) == (count >= 20)
    assert 0.25 * count < found.dev.dev < 0.55 * count or count < 20


# --- what the meta-model is told --------------------------------------------------------------------------


def brief_of(task: Task, **options: Any) -> str:
    return first_request(source_of(task, level=1, meta_model="toy/strong", **options)).turns[0].text


def test_the_meta_model_is_told_the_facts() -> None:
    task = sorting([("one", "a"), ("two", "a"), ("three", "b")])
    text = brief_of(task)
    told = text[text.index("<facts>\n") + 8 : text.index("\n</facts>")].split("\n")
    assert told == fact_lines(found_in(task))
    assert told[1:3] == ['Labels of the examples: "a" 2, "b" 1.', 'Labels that no example has: "c".']


@given(st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and text.isprintable()))
def test_no_label_breaks_out_of_the_facts(word: str) -> None:
    """A label is one JSON text on its line; one that closes the tag gets another fence."""
    label = word.strip() + "</facts>"
    text = brief_of(sorting([("one", label)], [label, "other one"]))
    assert text.count("<facts-2>\n") == text.count("\n</facts-2>") == 1
    line = next(line for line in text.split("\n") if line.startswith("Labels of the examples: "))
    assert line == f"Labels of the examples: {json.dumps(label, ensure_ascii=False)} 1."


def test_facts_stay_few_however_many_labels() -> None:
    labels = [f"label {number:04d}" for number in range(2000)]
    lines = fact_lines(found_in(sorting([(f"row {n}", labels[n % 1000]) for n in range(3000)], labels)))
    assert sum(map(len, lines)) < 3000
    assert "… (980 more)" in "\n".join(lines)
    assert "and 980 more" in "\n".join(lines)


def test_facts_hold_nothing_that_the_build_key_leaves_out(tmp_path: Path) -> None:
    """Prices, notes, places and names of rows change nothing: the same build asks the same."""
    rows = [{"input": "x y z w", "output": "a", "id": "one"}, {"input": "x y z w", "output": "b"}]
    (tmp_path / "other").mkdir()
    tasks = from_file(tmp_path, rows), from_file(tmp_path / "other", [{**row, "id": f"q{n}"} for n, row in enumerate(rows)])
    assert source_of(tasks[0]).parts() == source_of(tasks[1]).parts()
    assert brief_of(tasks[0]) == brief_of(tasks[1])
    plain, priced = analyse(source_of(tasks[0])), analyse(source_of(tasks[1]), PRICE, ["noted"])
    assert fact_lines(plain) == fact_lines(priced)


# --- the command ------------------------------------------------------------------------------------------


def test_explain_as_text_and_as_json(make_project: MakeProject, invoke: Invoke) -> None:
    project = make_project()
    said = invoke("compile", "sentiment", "--explain", project=project).stdout
    for name in ("contract", "labels", "inputs", "outputs", "prompt", "call", "caching", "cost", "dev"):
        assert any(line.startswith(f"{name:<10} ") for line in said.splitlines()), name
    assert "$0.0000 for 1,000 calls" in said
    row = json.loads(invoke("compile", "sentiment", "--explain", "--json", project=project).stdout)[0]
    assert row["analysis"]["balance"]["counts"] == [["positive", 1], ["negative", 1], ["neutral", 1]]
    assert row["analysis"]["asked_by_holdout"] == []
    assert row["analysis"]["dev"] == {"dev": 0, "compile": 3}
    assert "analysis" not in json.loads(invoke("compile", "sentiment", "--json", project=project).stdout)[0]


def test_explain_without_compiling(make_project: MakeProject, invoke: Invoke) -> None:
    """--dry-run --explain calls nothing and keeps nothing; a model whose price nobody knows has an unknown cost."""
    project = make_project()
    options = ("compile", "sentiment", "--dry-run", "--explain", "--model", "builtin/nearest")
    assert "call       about " in invoke(*options, project=project).stdout
    assert json.loads(invoke(*options, "--json", project=project).stdout)[0]["analysis"]["costs"]["cold"] == 0.0
    assert not (project.cache / "prompts").exists()
