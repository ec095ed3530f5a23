"""``-O0``: from a task to a prompt. The same for the same source, one fact a line, no holdout, once per build key."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from promptsmith import canonical, compile_task
from promptsmith.chat import Request, Turn
from promptsmith.compiler.analysis import analyse
from promptsmith.compiler.build import Compiled, ProjectCompiler
from promptsmith.compiler.explain import in_words
from promptsmith.compiler.facts import fact_lines
from promptsmith.compiler.material import Material, Options, material
from promptsmith.compiler.select import by_coverage, cost, examples_for
from promptsmith.compiler.template import system_prompt
from promptsmith.config import CompileSettings, Config, Limit, Models, Project
from promptsmith.contract import Labels, validator
from promptsmith.errors import InputError, StoreError, UnknownName
from promptsmith.models.nearest import Nearest
from promptsmith.promotion import promote
from promptsmith.prompt import read_examples
from promptsmith.registry.lock import LockFile
from promptsmith.store.folder import DiskStore
from promptsmith.task import Example, Task, load_task

T = TypeVar("T")
MakeProject = Callable[..., Project]
NONE = Options()
DEFAULTS = Config()


def source_of(task: Task, options: Options = NONE, config: Config = DEFAULTS) -> Material:
    return material(task, config, options)


def system_of(task: Task, options: Options = NONE, config: Config = DEFAULTS) -> str:
    source = source_of(task, options, config)
    return system_prompt(source, examples_for(source))


def key_of(task: Task, options: Options = NONE, config: Config = DEFAULTS) -> str:
    return canonical.build_key(source_of(task, options, config).parts())


# --- one fact a line --------------------------------------------------------------------------------------

# Names of one length that occur in nothing else, so that "names it" can be read off a line.
names = st.integers(0, 0xFFFF).map(lambda number: f"zq{number:04x}k")
some_names = st.lists(names, min_size=3, max_size=7, unique=True)
limits = st.integers(1000, 9999)


def line_names(line: str, what: str) -> bool:
    """Whether ``line`` names ``what``; 55555 does not name 5555."""
    digits = (r"(?<!\d)", r"(?!\d)") if what.isdigit() else ("", "")
    return re.search(re.escape(what).join(digits), line) is not None


def assert_only_lines_naming_it_change(before: str, after: str, old: str, new: str) -> None:
    """What went named ``old``, what came names ``new``, and all lines that name either went or came."""
    was, now = Counter(before.split("\n")), Counter(after.split("\n"))
    gone, come = was - now, now - was
    assert gone == Counter({line: count for line, count in was.items() if line_names(line, old)})
    assert come == Counter({line: count for line, count in now.items() if line_names(line, new)})
    assert gone
    assert before.replace(old, new) == after


def labels_task(labels: Sequence[str], declared: bool = True) -> Task:
    rows = [(f"text number {number}" + " word" * (number % 5), label) for number, label in enumerate(labels * 3)]
    return Task("Sort it.", output=list(labels) if declared else None, examples=rows, constraints=["Be quick."])


@given(some_names, st.data(), st.booleans(), st.sampled_from([6000, 120]))
def test_changing_a_label_changes_exactly_the_lines_that_name_it(
    found: list[str], data: st.DataObject, declared: bool, tokens: int
) -> None:
    new, *labels = found
    old = data.draw(st.sampled_from(labels))
    options = Options(example_tokens=tokens)
    changed = [new if label == old else label for label in labels]
    before, after = (system_of(labels_task(some, declared), options) for some in (labels, changed))
    assert_only_lines_naming_it_change(before, after, old, new)
    assert f"- {new}" in after.split("\n")


def json_task(keys: Sequence[str], required: Sequence[str], values: Sequence[str], declared: bool = True) -> Task:
    """The last key holds an object and a list, with the other keys inside them."""
    *flat, nested = keys
    inner: dict[str, Any] = {key: {"type": "string", "enum": list(values)} for key in flat}
    within = {"type": "object", "properties": {"list": {"type": "array", "items": {"type": "object", "properties": inner}}}}
    schema = {"type": "object", "properties": {**inner, nested: within}, "required": list(required)}
    rows = []
    for number in range(8):
        there = [key for at, key in enumerate(flat) if key in required or (number >> at % 3) % 2]
        row: dict[str, Any] = dict.fromkeys(there, values[number % len(values)])
        if nested in required or number % 2:
            row[nested] = {"list": [dict(row)] if number % 4 else []}
        rows.append((f"letter number {number}", row))
    return Task("Extract it.", output={"json": schema} if declared else None, examples=rows)


@given(some_names, st.data(), st.booleans())
def test_changing_a_key_changes_exactly_the_lines_that_name_it(found: list[str], data: st.DataObject, declared: bool) -> None:
    new, *keys = found
    required = data.draw(st.lists(st.sampled_from(keys), unique=True))
    old = data.draw(st.sampled_from(keys))
    values = ["one", "two"]

    def renamed(all_of_them: Sequence[str]) -> list[str]:
        return [new if key == old else key for key in all_of_them]

    before, after = json_task(keys, required, values, declared), json_task(renamed(keys), renamed(required), values, declared)
    assert_only_lines_naming_it_change(system_of(before), system_of(after), old, new)


@given(some_names, st.data())
def test_changing_an_enum_value_changes_exactly_the_lines_that_name_it(found: list[str], data: st.DataObject) -> None:
    new, *values = found
    old = data.draw(st.sampled_from(values))
    changed = [new if value == old else value for value in values]
    assert_only_lines_naming_it_change(*(system_of(json_task(["alpha", "beta"], ["alpha"], some)) for some in (values, changed)), old, new)


@given(some_names, st.data())
def test_making_a_key_optional_changes_only_lines_that_name_it(keys: list[str], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(keys))
    values = ["one"]
    schema = json.loads(json_task(keys, keys, values).contract.shape.schema)  # type: ignore[union-attr]
    rows = [(f"letter {number}", dict.fromkeys(keys[:-1], "one") | {keys[-1]: {"list": []}}) for number in range(3)]
    before = system_of(Task("Extract it.", output={"json": schema}, examples=rows))
    fewer = {**schema, "required": [name for name in keys if name != key]}
    after = system_of(Task("Extract it.", output={"json": fewer}, examples=rows))
    was, now = Counter(before.split("\n")), Counter(after.split("\n"))
    assert was - now
    assert all(key in line for line in (was - now) + (now - was))


LIMITS = ["max_words", "max_chars", "max_lines", "min_words", "min_chars", "min_lines"]


@pytest.mark.parametrize("name", [*LIMITS, "regex"])
@given(limits, limits)
@settings(max_examples=15)
def test_changing_a_limit_changes_exactly_the_lines_that_name_it(name: str, old: int, new: int) -> None:
    assume(old != new)

    def task(value: int) -> Task:
        said: Any = f"^{value}" if name == "regex" else value
        return Task("Write it.", output={"text": {"max_lines": 55555, name: said}}, constraints=["Be kind."])

    assert_only_lines_naming_it_change(system_of(task(old)), system_of(task(new)), str(old), str(new))


@pytest.mark.parametrize("kind", ["max_words", "min_words", "contains", "not_contains", "regex", "say"])
@given(limits, limits)
@settings(max_examples=15)
def test_changing_a_constraint_changes_exactly_the_lines_that_name_it(kind: str, old: int, new: int) -> None:
    assume(old != new)

    def task(value: int) -> Task:
        number: Any = value if kind.endswith("words") else f"a{value}b"
        constraint = f"Never say {value}." if kind == "say" else {"check": {kind: number}}
        return Task("Write it.", output="text", constraints=["Be kind.", constraint, {"say": "Be brief.", "check": {"max_words": 999}}])

    assert_only_lines_naming_it_change(system_of(task(old)), system_of(task(new)), str(old), str(new))


@given(st.lists(names, min_size=2, max_size=4, unique=True), st.data())
def test_changing_an_input_changes_exactly_the_lines_that_name_it(found: list[str], data: st.DataObject) -> None:
    new, *variables = found
    old = data.draw(st.sampled_from(variables))

    def task(all_of_them: Sequence[str]) -> Task:
        rows = [(dict.fromkeys(all_of_them, f"v{number}"), "a" if number % 2 else "b") for number in range(4)]
        return Task("Sort it.", inputs=list(all_of_them), output=["a", "b"], examples=rows)

    changed = [new if name == old else name for name in variables]
    assert_only_lines_naming_it_change(system_of(task(variables)), system_of(task(changed)), old, new)


@pytest.mark.parametrize(
    "more",
    [{"constraints": ["Be kind.", "Be zq0k."]}, {"output": {"text": {"max_words": 77, "max_chars": 8888}}}],
    ids=["constraint", "limit"],
)
def test_adding_a_constraint_or_limit_adds_its_line_alone(more: dict[str, Any]) -> None:
    base: dict[str, Any] = {"output": {"text": {"max_words": 77}}, "constraints": ["Be kind."]}
    was, now = (Counter(system_of(Task("Write it.", **said)).split("\n")) for said in (base, {**base, **more}))
    assert not was - now
    assert (now - was).total() == 1


def test_a_rule_in_words_stays_on_one_line() -> None:
    lines = system_of(Task("Write it.", output="text", constraints=["Be\n  kind,\nalways."])).split("\n")
    assert "- Be kind, always." in lines


def test_blanks_and_breaks_inside_a_pattern_are_kept() -> None:
    task = Task("Write it.", output="text", constraints=[{"check": {"regex": "a  b\nc"}}])
    assert r"- The answer must match this regular expression: a  b\nc" in system_of(task).split("\n")


def test_the_prompt_has_role_rules_format_errors_and_examples_in_this_order() -> None:
    """Static first, examples last: what provider caches and ``builtin/nearest`` read."""
    system = system_of(Task("Sort it.", output=["a", "b"], examples=[("x", "a"), ("y", "b")], constraints=["Be quick."]))
    titles = ["# Task", "# Input", "# Rules", "# Output format", "# Errors to avoid", "# Examples", "<examples>", "</examples>"]
    places = [system.index(title) for title in ("You do one task", *titles)]
    assert places == sorted(places)
    assert system.endswith("</examples>")


# --- no holdout, nothing volatile, nothing breaks out -----------------------------------------------------

hidden = st.lists(st.integers(0, 0xFFFFFF).map(lambda number: f"hq{number:06x}h"), min_size=1, max_size=6, unique=True)


@given(hidden, st.sampled_from(["labels", "json", "text", "inferred"]))
def test_no_holdout_text_is_in_the_prompt_or_what_the_lock_keeps_of_it(words: list[str], kind: str) -> None:
    outputs: dict[str, Any] = {"labels": ["up", "down"], "json": {"json": {}}, "text": "text", "inferred": None}
    rows = [("it rose", "up"), ("it fell", "down")]
    holdout = [{"input": f"about {word}", "output": "up", "id": f"id-{word}", "tags": [word]} for word in words]
    task = Task("Say it.", name="t", output=outputs[kind], examples=rows, holdout=holdout)
    source = source_of(task)
    kept = msgspec.json.encode(
        [system_prompt(source, examples_for(source)), source.parts(), in_words(analyse(source)), fact_lines(analyse(source))]
    ).decode()
    assert not any(word in kept for word in words)
    assert key_of(task) == key_of(Task("Say it.", output=outputs[kind], examples=rows))


def test_the_compiler_can_not_even_see_the_holdout() -> None:
    assert "holdout" in Task.__annotations__
    assert not [name for name in Material.__struct_fields__ if "holdout" in name]


def test_a_split_file_gives_its_sealed_rows_to_no_prompt(make_project: MakeProject) -> None:
    rows: list[object] = [{"input": f"sealed or not {number:03d}x", "output": "ab"[number % 2]} for number in range(80)]
    rows += [{"input": "Sealed  OR not 003x", "output": "b"}]
    text = "task: Sort it.\noutput: [a, b]\nexamples: {file: rows.jsonl, split: {examples: 0.5, holdout: 0.5}}\n"
    project = make_project({"t": text}, {"rows.jsonl": rows})
    task = load_task(project.task_file("t"), name="t")
    assert len(task.holdout) > 20
    compiled = built(project, task)
    kept = msgspec.json.encode([compiled.prompt, compiled.notes]).decode()
    shown = {pair.inputs["input"] for pair in read_examples(compiled.prompt.system)}
    assert shown == {example.inputs["input"] for example in task.examples}
    assert not any(example.inputs["input"] in kept or example.id in kept for example in task.holdout)


HOSTILE = ["</examples>", "<examples>", "\n", "\u2028", "\x00", '"}', '{"input": "x", "output": "y"}', "# Rules", "\r", "é", "{a}", "%s"]
hostile_texts = st.lists(st.sampled_from([*HOSTILE, "a", "b", " "]), max_size=6).map("".join)


@given(st.lists(st.tuples(hostile_texts, st.booleans()), max_size=6))
def test_no_example_changes_a_line_outside_the_block(rows: list[tuple[str, bool]]) -> None:
    examples = [(f"{number}{text}", f"{text}." if flag else f"-{text}") for number, (text, flag) in enumerate(rows)]
    task = Task("Write it.", output="text", examples=examples)
    lines = system_of(task).split("\n")
    plain = system_of(Task("Write it.", output="text", examples=[(str(number), "x") for number in range(len(rows))])).split("\n")
    start = lines.index("<examples>") if rows else len(lines)
    assert lines[: start + 1] == plain[: start + 1]
    assert len(lines) == len(plain)
    assert [(pair.inputs["input"], pair.output) for pair in read_examples("\n".join(lines))] == examples


VOLATILE = """
import hashlib, sys
from promptsmith import Runtime, compile_task
for name in ("sentiment", "extract", "write"):
    prompt = compile_task(name, project=sys.argv[1], force=True)
    print(prompt.id, hashlib.sha256(prompt.system.encode()).hexdigest(), prompt.provenance.build.key)
"""
EXTRACT = """\
task: Extract it.
examples:
  - {input: "order 5 is late", output: {n: 5, tags: [late], who: null}}
  - {input: "order 7 of Ann", output: {n: 7.5, tags: [], who: Ann, more: {a: 1}}}
constraints: [Be exact., {say: Be brief., check: {max_words: 50}}]
"""
WRITE = """\
task: Write it.
inputs: [title, body]
output: {text: {max_words: 60}}
examples:
  - {input: {title: t, body: b}, output: A text.}
"""
SENTIMENT = """\
task: Classify the sentiment.
output: [positive, negative]
examples:
  - {input: "This product is amazing!", output: positive}
  - {input: "It broke after a day.", output: negative}
"""


def test_nothing_volatile_stands_in_a_prompt(make_project: MakeProject, tmp_path: Path) -> None:
    """Other folders, processes, hash seeds, time zones and places to stand give the same bytes and ids."""
    tasks = {"sentiment": SENTIMENT, "extract": EXTRACT, "write": WRITE}
    found = []
    for number, zone in enumerate(["UTC", "Pacific/Kiritimati", "America/New_York"]):
        project = make_project(tasks, name=f"project-{number}")
        (tmp_path / f"stand-{number}").mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": str(number * 7919), "TZ": zone, "USER": f"user{number}", "LC_ALL": "C"}
        command = [sys.executable, "-c", VOLATILE, str(project.root)]
        where = tmp_path / f"stand-{number}"
        done = subprocess.run(command, env=environment, cwd=where, capture_output=True, text=True, check=True)
        found.append(done.stdout)
    assert len(set(found)) == 1
    assert len(found[0].splitlines()) == 3


def test_a_prompt_holds_no_date_no_count_and_no_name() -> None:
    task = Task("Sort it.", name="support/secret-name", output=["a", "b"], examples=[("x", "a"), ("y", "b")])
    assert not re.search(r"\d|support|secret-name|promptsmith", system_of(task))


def test_the_same_content_under_other_names_is_the_same_prompt(make_project: MakeProject) -> None:
    commented = "# A comment.\n" + SENTIMENT.replace("examples:", "# Another.\nexamples:  # and more")
    project = make_project({"sentiment": SENTIMENT, "support/mood": commented})
    one, other = (built(project, load_task(project.task_file(name), name=name)) for name in ("sentiment", "support/mood"))
    assert one.prompt.id == other.prompt.id
    assert (one.prompt.task, other.prompt.task) == ("sentiment", "support/mood")
    assert (one.source, other.source) == ("built", "cache")


# --- examples by coverage ---------------------------------------------------------------------------------


def rows(outputs: Sequence[Any], length: Callable[[int], int] = lambda number: 1) -> list[tuple[str, Any]]:
    return [(f"text {number:04d}" + " word" * length(number), output) for number, output in enumerate(outputs)]


def chosen(task: Task, tokens: int = 6000, seed: int = 0) -> list[Example]:
    return examples_for(source_of(task, Options(example_tokens=tokens, seed=seed)))


@given(st.lists(st.sampled_from("abcdef"), min_size=6, max_size=40), st.integers(0, 3), st.data())
@settings(suppress_health_check=[HealthCheck.filter_too_much])
def test_every_label_is_shown_whenever_one_example_of_each_fits(outputs: list[str], seed: int, data: st.DataObject) -> None:
    assume(len(set(outputs)) > 1)
    lengths = data.draw(st.lists(st.integers(0, 80), min_size=len(outputs), max_size=len(outputs)))
    task = Task("Sort it.", output=list("abcdefg"), examples=rows(outputs, lambda number: lengths[number]))
    cheapest: dict[str, int] = {}
    for example in task.examples:
        cheapest[example.output] = min(cost(example), cheapest.get(example.output, cost(example)))
    tokens = data.draw(st.integers(sum(cheapest.values()), sum(map(cost, task.examples))))
    found = chosen(task, tokens, seed)
    assert {example.output for example in found} == set(outputs)
    assert sum(map(cost, found)) <= tokens


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20), st.integers(0, 400))
def test_the_budget_is_kept_and_no_room_for_another_is_left(outputs: list[str], tokens: int) -> None:
    task = Task("Sort it.", output=list("abc"), examples=rows(outputs, lambda number: number % 7 * 5))
    found = chosen(task, tokens)
    left = tokens - sum(map(cost, found))
    assert left >= 0
    assert all(cost(example) > left for example in task.examples if example not in found)
    assert [example for example in task.examples if example in found] == found


def test_long_labels_are_labels_too() -> None:
    labels = [f"the request is about topic number {word}" for word in ("one", "two", "three", "four", "five", "six")]
    task = Task("Sort it.", output=labels, examples=rows(labels + labels[:1] * 9))
    assert {example.output for example in chosen(task, sum(map(cost, task.examples[:6])) + 3)} == set(labels)


def test_every_optional_key_is_shown_present_and_absent() -> None:
    """Forty rows of which few show what the others do not; a budget for about eight."""
    plain: dict[str, Any] = {"id": 1, "queue": "billing"}
    outputs = [dict(plain) for _ in range(36)]
    for number, key in enumerate(("order", "note", "due", "lang")):
        outputs.insert(number * 9 + 5, {**plain, key: "x"})
    outputs[20] = {"id": 2, "queue": "shipping", "inner": {"deep": {"key": 1}}, "list": [{"a": 1}]}
    task = Task("Extract it.", output={"json": {"type": "object"}}, examples=rows(outputs))
    for seed in range(5):
        found = [json.loads(example.output) for example in chosen(task, tokens=8 * cost(task.examples[0]) + 60, seed=seed)]
        assert len(found) < 14
        for key in ("order", "note", "due", "lang", "inner", "list"):
            assert {key in output for output in found} == {True, False}, (seed, key)
        assert {output["queue"] for output in found} == {"billing", "shipping"}


def test_a_key_that_few_answers_lack_is_shown_absent_too() -> None:
    outputs = [{"id": 1, "note": "x", "due": "x"} for _ in range(40)]
    del outputs[23]["note"], outputs[37]["due"]
    task = Task("Extract it.", output={"json": {"type": "object"}}, examples=rows(outputs))
    for seed in range(5):
        found = [json.loads(example.output) for example in chosen(task, tokens=4 * cost(task.examples[0]), seed=seed)]
        assert [{key in output for output in found} for key in ("id", "note", "due")] == [{True}, {True, False}, {True, False}]


def test_short_middle_and_long_inputs_are_shown_even_with_one_example_a_label() -> None:
    labels = [f"label{number}" for number in range(12)]
    lengths = (1, 20, 60)
    task = Task("Sort it.", output=labels, examples=rows(labels * 9, lambda number: lengths[number // 12 % 3]))
    found = chosen(task, tokens=12 * 48)
    counts = Counter(len(example.inputs["input"].split()) - 2 for example in found)
    assert set(counts) == set(lengths)
    assert {example.output for example in found} == set(labels)


def test_texts_are_covered_by_the_length_of_their_answers() -> None:
    outputs = ["word " * (1 if number < 20 else 25 if number < 40 else 60) + str(number) for number in range(60)]
    found = chosen(Task("Write it.", output="text", examples=rows(outputs)), tokens=330)
    assert len(found) < 12
    assert {len(example.output.split()) // 20 for example in found} == {0, 1, 3}


def test_what_is_chosen_depends_on_the_seed_alone_and_no_row_moves() -> None:
    outputs = ["a", "b", "c"] * 30
    task = Task("Sort it.", output=["a", "b", "c"], examples=rows(outputs))
    picks = [[example.id for example in chosen(task, 200, seed)] for seed in range(6)]
    assert picks == [[example.id for example in chosen(task, 200, seed)] for seed in range(6)]
    assert len({tuple(pick) for pick in picks}) > 1
    position = {example.id: number for number, example in enumerate(task.examples)}
    assert all([position[id] for id in pick] == sorted(position[id] for id in pick) for pick in picks)


def test_another_seed_moves_no_row_between_visible_and_holdout(make_project: MakeProject) -> None:
    data: list[object] = [{"input": f"text {number}", "output": "ab"[number % 2]} for number in range(60)]
    text = "task: Sort it.\noutput: [a, b]\ncompile: {seed: SEED}\nexamples: {file: rows.jsonl, split: {examples: 0.5, holdout: 0.5}}\n"
    project = make_project({name: text.replace("SEED", name[1:]) for name in ("s0", "s1", "s2")}, {"rows.jsonl": data})
    tasks = [load_task(project.task_file(name), name=name) for name in ("s0", "s1", "s2")]
    assert len({tuple(example.id for example in task.holdout) for task in tasks}) == 1
    assert len({key_of(task) for task in tasks}) == 3


@given(st.lists(st.text(max_size=20), min_size=1, max_size=12, unique_by=canonical.normalise), st.integers(0, 2))
def test_choosing_never_fails_and_never_repeats(inputs: list[str], seed: int) -> None:
    examples = [Example(id=str(number), inputs={"input": text}, output=str(number % 3)) for number, text in enumerate(inputs)]
    found = by_coverage(examples, tokens=40, seed=seed)
    assert len({example.id for example in found}) == len(found)
    assert by_coverage([], tokens=40, seed=seed) == []


def test_outputs_of_different_kinds_do_not_stop_a_compile() -> None:
    task = Task("Answer it.", examples=[("a", {"x": 1}), ("b", "a plain text of words that goes on"), ("c", [1]), ("d", "5"), ("e", None)])
    assert len(read_examples(system_of(task))) == 5


# --- the build key ----------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "description": "Sort it.",
    "output": ["a", "b"],
    "examples": [("x", "a"), ("y", "b")],
    "constraints": ["Be quick."],
    "models": {"production": {"use": "builtin/nearest", "temperature": 1}},
}
IN: dict[str, dict[str, Any]] = {
    "description": {"description": "Sort it!"},
    "prompt": {"prompt": "By hand."},
    "inputs": {"inputs": ["one"]},
    "an input's words": {"inputs": {"one": {"about": "it"}}},
    "labels": {"output": ["a", "b", "c"]},
    "allow_other": {"output": {"labels": ["a", "b"], "allow_other": True}},
    "inferred": {"output": None},
    "an example's input": {"examples": [("x!", "a"), ("y", "b")]},
    "an example's output": {"examples": [("x", "b"), ("y", "b")]},
    "one more example": {"examples": [("x", "a"), ("y", "b"), ("z", "b")]},
    "a constraint": {"constraints": ["Be slow."]},
    "a constraint's check": {"constraints": [{"say": "Be quick.", "check": {"max_words": 5}}]},
    "model": {"models": {"production": "builtin/other"}},
    "a parameter": {"models": {"production": {"use": "builtin/nearest", "temperature": 2}}},
    "a parameter's type": {"models": {"production": {"use": "builtin/nearest", "temperature": 1.0}}},
    "seed": {"compile": {"seed": 7}},
    "example tokens": {"compile": {"example_tokens": 77}},
}
OUT: dict[str, dict[str, Any]] = {
    "name": {"name": "another/name"},
    "holdout": {"holdout": [("secret", "a")]},
    "gate": {"gate": {"margin": 0.05}},
    "scorers (below -O2)": {"scorers": ["exact"]},
    "serve": {"serve": {"on_contract_break": "pass", "fallback": ["builtin/nearest"], "cache": True}},
    "a time limit": {"compile": {"budget": {"seconds": 5}}},
    "level that is the default": {"compile": {"level": 0}},
    "ids and tags": {"examples": [{"input": "x", "output": "a", "id": "1", "tags": ["hard"]}, {"input": "y", "output": "b"}]},
}


def base(**changes: Any) -> Task:
    said = {**BASE, **changes}
    return Task(said.pop("description"), **said)


@pytest.mark.parametrize("name", IN)
def test_in_the_build_key_is(name: str) -> None:
    assert key_of(base(**IN[name])) != key_of(base())


def test_all_keys_of_the_list_are_different() -> None:
    assert len({key_of(base(**changes)) for changes in ({}, *IN.values())}) == len(IN) + 1


@pytest.mark.parametrize("name", OUT)
def test_not_in_the_build_key_is(name: str) -> None:
    assert key_of(base(**OUT[name])) == key_of(base())


def test_settings_that_build_are_in_the_key_and_those_that_serve_are_not() -> None:
    task = Task("Sort it.", output=["a", "b"], examples=[("x", "a")])
    serving = Config(limits={"builtin/nearest": Limit(concurrency=2, timeout=1.0)}, lock="other.lock", evals="tasks", protected=())
    building = [
        Config(models=Models(production="builtin/other")),
        Config(compile=CompileSettings(seed=5)),
        Config(compile=CompileSettings(example_tokens=50)),
    ]
    assert key_of(task, config=serving) == key_of(task)
    assert len({key_of(task, config=config) for config in (Config(), *building)}) == 4


def test_flags_win_over_the_file_and_the_file_over_the_settings() -> None:
    task = Task("Sort it.", output=["a", "b"], compile={"seed": 3}, models={"production": {"use": "builtin/nearest", "temperature": 1}})
    config = Config(compile=CompileSettings(seed=2, example_tokens=22))
    source = source_of(task, Options(seed=4), config)
    assert (source.seed, source.example_tokens, source.model.parameters) == (4, 22, {"temperature": 1})
    assert source_of(task, NONE, config).seed == 3
    other = source_of(task, Options(model="builtin/other"), config)
    assert (other.model.name, other.model.parameters) == ("builtin/other", {})


numbers = st.none() | st.integers(0)


@given(st.builds(Options, level=st.none() | st.just(0), model=st.none() | st.text(), seed=numbers, example_tokens=numbers))
def test_options_come_back_from_what_the_lock_keeps(options: Options) -> None:
    assert Options.from_given(options.given()) == options


# --- level, contract, and what is said about them ---------------------------------------------------------


def test_a_level_that_needs_a_meta_model_is_refused_clearly() -> None:
    task = Task("Sort it.", output=["a", "b"])
    for source in ((task, Options(level=1), Config()), (task, NONE, Config(compile=CompileSettings(level=1)))):
        with pytest.raises(InputError, match=r"(?s)-O1 .*needs a meta-model.*compile with -O0"):
            source_of(*source)


@pytest.mark.parametrize("level", [-1, 4])
def test_a_level_that_does_not_exist_is_refused_clearly(level: int) -> None:
    task = Task("Sort it.", output=["a", "b"], models={"meta": "strong/model"})
    with pytest.raises(InputError, match=rf"(?s)there is no level {level}.*-O0 to -O3"):
        source_of(task, Options(level=level))


def test_the_level_is_said_with_its_reason() -> None:
    task = Task("Sort it.", output=["a", "b"])
    named = Task("Sort it.", output=["a", "b"], models={"meta": "strong/model"})
    assert source_of(task).level_why == "no meta-model is named"
    assert source_of(named, Options(level=0)).level_why == "asked for"
    assert source_of(Task("Sort it.", output=["a", "b"], compile={"level": 0})).level_why == "set in the task file"
    assert source_of(task, config=Config(compile=CompileSettings(level=0))).level_why == "set in the project's settings"


def test_a_named_meta_model_means_level_one_and_is_not_passed_over_in_silence() -> None:
    named = Task("Sort it.", output=["a", "b"], models={"meta": "strong/model"})
    for task, config in ((named, Config()), (Task("Sort it.", output=["a", "b"]), Config(models=Models(meta="strong/model")))):
        source = source_of(task, config=config)
        assert (source.level, source.level_why) == (1, "the meta-model strong/model is named")
        assert source.meta is not None
        assert source.meta.name == "strong/model"
    by_hand = Task("Sort it.", output=["a", "b"], prompt="By hand.", models={"meta": "strong/model"})
    assert source_of(by_hand).level == 0


def test_no_key_in_the_environment_changes_a_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(base())
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    assert key_of(base()) == before


def test_a_compile_says_what_it_inferred(make_project: MakeProject) -> None:
    project = make_project({"extract": EXTRACT})
    task = load_task(project.task_file("extract"), name="extract")
    (note,) = [note for note in built(project, task).notes if "inferred" in note]
    for word in ("from 2 examples", "required keys n, tags, who", "optional keys more", "types and required keys are enforced"):
        assert word in note


def test_a_compile_says_how_many_examples_the_budget_left_out(make_project: MakeProject) -> None:
    task = Task("Sort it.", output=["a", "b"], examples=rows("ab" * 30))
    compiled = built(make_project(), task, Options(example_tokens=100))
    shown = len(read_examples(compiled.prompt.system))
    assert f"{shown} of 60 examples stand in the prompt (budget 100 tokens)" in compiled.notes
    assert compiled.prompt.provenance.shown == shown < 60


def test_a_task_without_examples_is_compiled_and_says_so(make_project: MakeProject) -> None:
    compiled = built(make_project(), Task("Sort it.", output=["a", "b"]))
    assert "<examples>" not in compiled.prompt.system
    assert any("no visible examples" in note for note in compiled.notes)


def test_odd_labels_survive_from_the_file_to_the_answer(make_project: MakeProject) -> None:
    labels = ["yes", "no", "on", "null", "1.10", "010", "true"]
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf"]
    examples = "".join(f"  - {{input: {word}, output: {label}}}\n" for word, label in zip(words, labels, strict=True))
    project = make_project({"odd": f"task: Decide.\noutput: [{', '.join(labels)}]\nexamples:\n{examples}"})
    prompt = built(project, load_task(project.task_file("odd"), name="odd")).prompt
    assert prompt.contract.shape == Labels(tuple(labels))
    judge, model = validator(prompt.contract), Nearest()
    for word, label in zip(words, labels, strict=True):
        reply = asyncio.run(model.reply(Request(model=prompt.model, system=prompt.system, turns=(Turn("user", word),))))
        assert reply.text == label
        assert judge(reply.text).value == label


@pytest.mark.parametrize("schema", [{"type": "string"}, {"type": ["string", "null"]}, {"type": "integer"}, {}])
def test_the_examples_of_any_json_task_are_answers_that_hold(make_project: MakeProject, schema: Any) -> None:
    """Also where the JSON is a bare string: its quotes are part of the answer."""
    values: list[Any] = [2**64, 7] if schema.get("type") == "integer" else ["abc", "7"]
    task = Task("Read it.", output={"json": schema}, examples=[("one", values[0]), ("two", values[1])])
    prompt = built(make_project(), task).prompt
    for pair, value in zip(read_examples(prompt.system), values, strict=True):
        verdict = validator(prompt.contract)(pair.output)
        assert verdict.ok
        assert verdict.value == value


# --- compiling once ---------------------------------------------------------------------------------------


class Counting(DiskStore):
    """A store that counts what is really built."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.builds: list[str] = []

    async def once_build(self, key: str, find: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T:
        async def counted() -> T:
            self.builds.append(key)
            await asyncio.sleep(0)  # let the others come while it is made
            return await make()

        return await super().once_build(key, find, counted)


def built(project: Project, task: Task, options: Options = NONE, force: bool = False) -> Compiled:
    with DiskStore(project.cache) as store:
        return asyncio.run(ProjectCompiler(project, store).build(task, options, force=force))


@pytest.fixture
def counting(make_project: MakeProject) -> Iterator[tuple[Project, Counting]]:
    project = make_project()
    with Counting(project.cache) as store:
        yield project, store


def test_a_hundred_callers_at_once_compile_once(counting: tuple[Project, Counting]) -> None:
    project, store = counting
    compiler = ProjectCompiler(project, store)

    async def all_at_once() -> list[Compiled]:
        return await asyncio.gather(*(compiler.build(base(name="t")) for _ in range(100)))

    found = asyncio.run(all_at_once())
    assert len(store.builds) == 1
    assert len({compiled.prompt.id for compiled in found}) == 1


def test_threads_that_ask_at_once_compile_once(counting: tuple[Project, Counting]) -> None:
    project, store = counting
    gate, found = threading.Barrier(12), []

    def ask() -> None:
        gate.wait()
        found.append(asyncio.run(ProjectCompiler(project, store).build(base(name="t"))).prompt.id)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(store.builds), len(found), len(set(found))) == (1, 12, 1)


def test_different_builds_do_not_share_a_prompt(counting: tuple[Project, Counting]) -> None:
    project, store = counting
    compiler = ProjectCompiler(project, store)

    async def both() -> list[Compiled]:
        return await asyncio.gather(*(compiler.build(base(description=f"Sort it {number}.")) for number in range(8)))

    assert len({compiled.prompt.id for compiled in asyncio.run(both())}) == len(store.builds) == 8


AT_ONCE = """
import asyncio, sys
from promptsmith.compiler.build import ProjectCompiler
from promptsmith.config import find_project
from promptsmith.store.folder import open_store
from promptsmith.task import load_task
project = find_project(sys.argv[1])
with open_store(project) as store:
    task = load_task(project.task_file("sentiment"), name="sentiment")
    sys.stdin.readline()
    compiled = asyncio.run(ProjectCompiler(project, store).build(task))
print(compiled.source, compiled.prompt.id)
"""


def test_processes_that_ask_at_once_compile_once(make_project: MakeProject) -> None:
    project = make_project()
    command = [sys.executable, "-c", AT_ONCE, str(project.root)]
    asking = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    for process in asking:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in asking]
    assert sorted(source for source, _ in said) == ["built", *["cache"] * 5]
    assert len({id for _, id in said}) == 1


def test_a_second_compile_is_found_in_the_cache(make_project: MakeProject) -> None:
    project = make_project()
    first, second = built(project, base(name="t")), built(project, base(name="t"))
    assert (first.source, second.source) == ("built", "cache")
    assert second.prompt == first.prompt
    assert second.notes == first.notes


def test_force_builds_again_and_gives_the_same_prompt(counting: tuple[Project, Counting]) -> None:
    project, store = counting
    compiler = ProjectCompiler(project, store)
    again = [asyncio.run(compiler.build(base(), force=True)) for _ in range(2)]
    assert [compiled.source for compiled in again] == ["built", "built"]
    assert again[0].prompt.id == again[1].prompt.id
    assert len(store.builds) == 2


def test_with_an_empty_cache_the_prompt_is_found_in_the_lock(make_project: MakeProject, counting: tuple[Project, Counting]) -> None:
    project, store = counting
    task = load_task(project.task_file("sentiment"), name="sentiment")
    first = built(project, task).prompt
    promote(LockFile(project.lock), project, first, alias="production", why="first", force=True)
    assert sum(store.clear(replies_only=False).values()) > 0
    compiler = ProjectCompiler(project, store)
    assert compiler.find(task) == first
    found = asyncio.run(compiler.build(task))
    assert (found.source, found.prompt.id, store.builds) == ("lock", first.id, [])
    assert asyncio.run(compiler.build(task)).source == "cache"


def test_a_damaged_lock_does_not_stop_a_compile(make_project: MakeProject) -> None:
    project = make_project()
    project.lock.write_text("<<<<<<< ours\nversion: 1\n=======\n")
    assert built(project, base(name="t")).source == "built"


def test_a_changed_policy_is_taken_up_without_a_build(counting: tuple[Project, Counting]) -> None:
    project, store = counting
    compiler = ProjectCompiler(project, store)
    first = asyncio.run(compiler.build(base(name="t"))).prompt
    second = asyncio.run(compiler.build(base(name="t", serve={"on_contract_break": "pass"}))).prompt
    assert (first.id, first.serve.on_contract_break) == (second.id, "")
    assert second.serve.on_contract_break == "pass"
    assert len(store.builds) == 1


def test_a_cache_that_can_not_be_written_refuses_and_loses_nothing(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project()
    blocked = tmp_path / "blocked"
    blocked.write_text("not a folder")
    with DiskStore(blocked) as store, pytest.raises(StoreError, match="blocked"):
        asyncio.run(ProjectCompiler(project, store).build(base()))
    assert blocked.read_text() == "not a folder"
    assert not project.lock.exists()


def test_an_unknown_model_is_refused_before_anything_is_made(make_project: MakeProject) -> None:
    project = make_project()
    with pytest.raises(UnknownName, match=r"(?s)unknown model 'builtin/nearset'.*did you mean 'builtin/nearest'"):
        built(project, base(), Options(model="builtin/nearset"))
    assert not project.cache.exists()


HAND = "You are terse.\n\n  Indented,\ttabbed, trailing  \n{braces} <tags> %s 😀\n\n"


def test_a_prompt_by_hand_is_used_byte_for_byte(make_project: MakeProject) -> None:
    project = make_project()
    task = base(prompt=HAND)
    compiled = built(project, task)
    assert compiled.prompt.system == HAND
    assert compiled.prompt.contract == base().contract
    assert compiled.prompt.provenance.shown == 0
    assert not any("examples stand" in note for note in compiled.notes)


def test_a_prompt_by_hand_in_a_file_is_used_byte_for_byte(make_project: MakeProject) -> None:
    project = make_project({"hand": f"task: Sort it.\noutput: [a, b]\nprompt: {json.dumps(HAND, ensure_ascii=False)}\n"})
    assert built(project, load_task(project.task_file("hand"), name="hand")).prompt.system == HAND


def test_every_visible_input_is_in_the_provenance_and_no_other(make_project: MakeProject) -> None:
    """A later gate drops holdout cases that the compiler has seen; it needs all of them, shown or not."""
    task = Task("Sort it.", output=["a", "b"], examples=rows("ab" * 30), holdout=[("sealed", "a")])
    provenance = built(make_project(), task, Options(example_tokens=60)).prompt.provenance
    assert provenance.visible.split() == [canonical.case_id(example.inputs) for example in task.examples]


def test_the_public_function_takes_a_task_or_a_name(make_project: MakeProject) -> None:
    project = make_project()
    by_name = compile_task("sentiment", project=project)
    assert by_name.id == compile_task(load_task(project.task_file("sentiment")), project=project).id
    assert compile_task("sentiment", project=project, seed=5).provenance.seed == 5


def test_the_public_function_names_what_is_no_task(make_project: MakeProject) -> None:
    project = make_project()
    with pytest.raises(UnknownName, match=r"unknown task 'sentimnt'\n.*did you mean 'sentiment'"):
        compile_task("sentimnt", project=project)
    with pytest.raises(InputError, match="given as a Task, not as int"):
        compile_task(5, project=project)  # type: ignore[arg-type]


def test_what_is_explained_is_what_is_compiled() -> None:
    task = Task("Sort it.", output=["a", "b", "c"], examples=rows("ab" * 30))
    said = in_words(analyse(source_of(task, Options(example_tokens=100))))
    shown = len(chosen(task, 100))
    for words in (f"60 visible, {shown} chosen", "no meta-model is named", "builtin/nearest", "no example shows c", "- a", "a 30, b 30"):
        assert words in said


def test_shipped_evals_compile_to_prompts_with_examples_of_every_label(make_project: MakeProject) -> None:
    root = Path(__file__).parent.parent / "evals"
    for path in sorted(root.rglob("*.yaml")):
        task = load_task(path)
        pairs: Mapping[str, int] = Counter(example.output for example in examples_for(source_of(task)))
        assert pairs, path
        if isinstance(task.contract.shape, Labels):
            assert set(pairs) == set(task.contract.shape.labels)
