"""Import and export: every format on a file as people have them, its own parser where the index has one, hostile input.

``dotpromptz`` and ``prompty`` read what is exported. GitHub's, promptfoo's, Langfuse's, OpenAI's and DSPy's files are
checked by their documented rules: the index has no parser of theirs for Python.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.cli.commands import export, import_
from promptsmith.compiler.build import ProjectCompiler
from promptsmith.config import Project
from promptsmith.contract import Contract, JsonShape, Labels, TextShape
from promptsmith.errors import InputError, PromptsmithError
from promptsmith.evals.scorers import check_specs
from promptsmith.formats import EXPORTS, IMPORTS, Here, Outgoing, exported, imported
from promptsmith.formats.source import Source
from promptsmith.formats.table import detect
from promptsmith.formats.templates import handlebars_text, jinja_text
from promptsmith.formats.values import Notes, model_name
from promptsmith.prompt import Build, Prompt, Provenance, Serve, Variable, make_prompt, read_examples
from promptsmith.runtime.loop import LOOP
from promptsmith.store.folder import open_store
from promptsmith.task import Task, load_task
from promptsmith.task.document import typed

HERE = Path(__file__).parent / "formats"
Invoke = Callable[..., Result]

FIXTURES = {
    "triage.promptfoo.yaml": "promptfoo",
    "capitals.promptfoo.csv": "promptfoo",
    "cases.promptfoo.jsonl": "promptfoo",
    "suite/promptfooconfig.yaml": "promptfoo",
    "summary.prompt.yml": "github",
    "order.prompt.yml": "github",
    "greeting.prompt": "dotprompt",
    "answer.v1.prompty": "prompty",
    "answer.v2.prompty": "prompty",
    "critic.langfuse.json": "langfuse",
    "items.langfuse.jsonl": "langfuse",
    "reply.openai.json": "openai",
    "program.dspy.json": "dspy",
}


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    return make_project({})


def bring(invoke: Invoke, project: Project, file: str | Path, *more: str, name: str = "new") -> tuple[Task, list[str]]:
    """Imports a fixture; the task that came of it, and what was said on stderr without the folder of the fixtures."""
    said = (
        invoke("import", HERE / file, "--name", name, *more, project=project).stderr.replace(f"{HERE}/", "").replace("tests/formats/", "")
    )
    return load_task(project.task_file(name), name=name), said.splitlines()


def compiled(project: Project, task: Task) -> Prompt:
    with open_store(project) as store:
        return LOOP.wait(ProjectCompiler(project, store).build(task)).prompt


def pairs(task: Task) -> list[tuple[dict[str, str], str]]:
    return [(dict(example.inputs), example.output) for example in task.examples]


def scorers(task: Task) -> list[Any]:
    return [{spec.name: dict(spec.options)} if spec.options else spec.name for spec in task.scorers]


# --- every fixture ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "form"), FIXTURES.items())
def test_the_format_is_told_by_name_and_content(file: str, form: str, tmp_path: Path) -> None:
    assert detect(Source(HERE / file)) == form
    if not file.endswith((".prompt", ".prompty", ".csv", ".jsonl")):
        # Where the extension is everybody's, the content decides.
        other = tmp_path / ("x.json" if file.endswith("json") else "x.yaml")
        other.write_bytes((HERE / file).read_bytes())
        assert detect(Source(other)) == form


@pytest.mark.parametrize("file", FIXTURES)
def test_what_is_imported_loads_and_compiles(file: str, project: Project, invoke: Invoke) -> None:
    task, _ = bring(invoke, project, file)
    assert task.description
    assert list(check_specs(task.scorers, task.contract)) == []
    prompt = compiled(project, task)
    assert prompt.provenance.level == 0
    if task.prompt is not None:
        assert prompt.system == task.prompt.replace("\r\n", "\n")


def mappings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all mappings in a document."""
    if isinstance(value, dict):
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from mappings(item, (*path, key))


def planted(value: Any, path: tuple[Any, ...]) -> Any:
    """The document with one key more in the mapping at ``path``."""
    if not path:
        return {**value, "x-planted": "x-value"}
    changed = value.copy()
    changed[path[0]] = planted(value[path[0]], path[1:])
    return changed


# Parts that are left out as a whole, and are named as such.
WHOLE = {
    "triage.promptfoo.yaml": {("env",), ("providers", 1)},
    "critic.langfuse.json": {("data", 1), ("datasetItems", 0, "metadata"), *(("datasetItems", number, "input") for number in range(5))},
    "reply.openai.json": {("variables",), ("tools", 0)},
    "program.dspy.json": {("metadata",), ("metadata", "dependency_versions"), ("explain",), ("explain", "signature")},
    "answer.v1.prompty": {("sample",)},
    "answer.v2.prompty": {("metadata",), ("model", "connection"), ("template", "parser"), ("template", "format"), ("inputs", 2)},
    "greeting.prompt": {("input", "schema"), ("output", "schema")},
    "summary.prompt.yml": {("evaluators", 3, "llm", "choices", 0), ("evaluators", 3, "llm", "choices", 1)},
}


@pytest.mark.parametrize("file", [file for file in FIXTURES if not file.endswith((".csv", ".jsonl"))])
def test_no_key_of_a_source_is_lost_unseen(file: str, tmp_path: Path) -> None:
    """One unknown key more, in every mapping of a file in turn: it is carried over or named."""
    source = Source(HERE / file)
    front = file.endswith((".prompt", ".prompty"))
    head, body, _ = source.front if front else (source.tree, "", 0)
    assert head is not None
    document = typed(head)
    shutil.copytree(HERE / "suite", tmp_path / "suite")
    path = tmp_path / file
    missed = set()
    for place in mappings(document):
        text = json.dumps(planted(document, place))
        path.write_text(f"---\n{text}\n---\n{body}" if front else text)
        _, found, notes = imported(path, Here())
        if "x-planted" not in "\n".join(notes) and "x-planted" not in repr(found):
            missed.add(place)
    assert [place for place in missed if not any(place[: len(whole)] == whole for whole in WHOLE.get(file, ()))] == []


# --- promptfoo --------------------------------------------------------------------------------------------


def test_promptfoo_config(project: Project, invoke: Invoke) -> None:
    task, said = bring(invoke, project, "triage.promptfoo.yaml")
    assert task.description == "Route support tickets"
    assert task.prompt == "You route support tickets. Answer with the queue alone."
    assert [v.name for v in task.inputs] == ["ticket"]
    # Written text stays that: no and Yes are no booleans.
    assert pairs(task) == [
        ({"ticket": "Where is my parcel?"}, "delivery"),
        ({"ticket": "You charged me twice!"}, "billing"),
        ({"ticket": "The invoice has the wrong name on it"}, "billing"),
        ({"ticket": "Yes"}, "no"),
    ]
    assert task.production is not None
    assert task.production.name == "openai/gpt-4o-mini"
    assert dict(task.production.parameters) == {"max_tokens": 20, "temperature": 0}
    assert scorers(task) == [
        "exact",
        {"latency": {"max": 2.0}},
        {"cost": {"max": 0.002}},
        {"contains": {"value": "sorry", "ignore_case": True, "not": True, "weight": 2, "name": "no-excuses"}},
        {"judge": {"criteria": "The answer names one queue and nothing else.", "model": "openai/gpt-4o"}},
    ]
    for note in (
        "triage.promptfoo.yaml:6: the prompt 'Which queue does this ticket belong to?…' is left out: 'short' was taken",
        "triage.promptfoo.yaml:7: the prompt 'prompts/build.py' is left out: only texts and chat messages are read, never code",
        "triage.promptfoo.yaml:13: 'apiKey' of the provider's config",
        "triage.promptfoo.yaml:15: the provider is left out: openai/gpt-4o-mini was taken",
        "triage.promptfoo.yaml:30: the assertion javascript is not carried over",
        "triage.promptfoo.yaml:40: the assertion python holds for this case alone",
        "triage.promptfoo.yaml:41: the variable 'locale' stands in no message",
        "triage.promptfoo.yaml:47: the test has no expected output",
        "triage.promptfoo.yaml:48: 'outputPath' of the config",
    ):
        assert any(line.startswith(note) for line in said), note


def test_promptfoo_csv_with_several_assertions(project: Project, invoke: Invoke) -> None:
    """One that differs is the expected output, one that all share a scorer of its own."""
    task, said = bring(invoke, project, "capitals.promptfoo.csv")
    assert pairs(task)[0] == ({"country": "France"}, "Paris")
    assert scorers(task) == ["contains", {"latency": {"max": 1.5}}]
    assert task.contract.shape == TextShape()
    assert any("column __description" in line for line in said)


def test_promptfoo_tests_and_prompts_in_files(project: Project, invoke: Invoke) -> None:
    task, said = bring(invoke, project, "suite/promptfooconfig.yaml")
    assert [v.name for v in task.inputs] == ["style", "text", "audience"]
    assert scorers(task) == [{"contains": {"ignore_case": True}}]
    assert any(line.startswith("suite/summarise.txt:4: '{% if audience %}' is template logic") for line in said)
    assert any(line.startswith("suite/summarise.txt:5: another prompt begins here") for line in said)
    assert any("there is no endpoint 'vertex' in this project" in line for line in said)


@pytest.mark.parametrize(
    ("written", "scorer"),
    [
        ("type: equals\nvalue: a", {"exact": {"value": "a"}}),
        ("type: contains\nvalue: a", {"contains": {"value": "a"}}),
        ("type: icontains\nvalue: a", {"contains": {"value": "a", "ignore_case": True}}),
        ("type: not-contains\nvalue: a", {"contains": {"value": "a", "not": True}}),
        ("type: contains-all\nvalue: [a, b]", {"contains_all": {"value": ["a", "b"]}}),
        ("type: icontains-any\nvalue: [a, b]", {"contains_any": {"value": ["a", "b"], "ignore_case": True}}),
        ("type: starts-with\nvalue: a", {"starts_with": {"value": "a"}}),
        ("type: regex\nvalue: a+", {"regex": {"value": "a+"}}),
        ("type: is-json", {"json_schema": {"schema": True}}),
        ("type: is-json\nvalue: {type: object}", {"json_schema": {"schema": {"type": "object"}}}),
        ("type: contains-json\nvalue: {type: array}", {"json_schema": {"schema": {"type": "array"}}}),
        ("type: similar\nvalue: a\nthreshold: 0.9", {"fuzzy": {"value": "a", "threshold": 0.9}}),
        ("type: levenshtein\nvalue: a\nthreshold: 5", {"fuzzy": {"value": "a"}}),
        ("type: rouge-n\nvalue: a b", {"rouge_l": {"value": "a b", "threshold": 0.75}}),
        ("type: word-count\nvalue: {min: 2, max: 5}", {"word_limit": {"min": 2, "max": 5}}),
        ("type: word-count\nvalue: 4", {"word_limit": {"min": 4, "max": 4}}),
        ("type: latency\nthreshold: 500", {"latency": {"max": 0.5}}),
        ("type: cost\nthreshold: 0.01", {"cost": {"max": 0.01}}),
        ("type: llm-rubric\nvalue: is kind\nprovider: openai:gpt-4o", {"judge": {"criteria": "is kind", "model": "openai/gpt-4o"}}),
        ("type: equals\nvalue: a\nweight: 3\nmetric: m", {"exact": {"value": "a", "weight": 3, "name": "m"}}),
    ],
)
def test_promptfoo_assertions_for_all_tests(written: str, scorer: Any, tmp_path: Path, project: Project, invoke: Invoke) -> None:
    body = written.replace("\n", "\n      ")
    config = f"prompts: ['Say {{{{x}}}}']\ndefaultTest:\n  assert:\n    - {body}\n"
    (tmp_path / "c.yaml").write_text(config)
    task, _ = bring(invoke, project, tmp_path / "c.yaml")
    assert scorers(task) == [scorer]
    assert list(check_specs(task.scorers, task.contract)) == []


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("type: javascript\nvalue: output.length", "there is no scorer for it"),
        ("type: python\nvalue: file://x.py", "it reads 'file://x.py'"),
        ("type: regex\nvalue: '(?<year>a)[['", "is no regular expression in Python"),
        ("type: moderation", "there is no scorer for it"),
        ("type: latency", "it names no threshold"),
        ("type: llm-rubric\nvalue: is kind", "--judge endpoint/model"),
        ("type: contains", "it names no value"),
        ("type: not-a-thing\nvalue: 1", "there is no scorer for it"),
    ],
)
def test_promptfoo_assertions_without_equivalent_are_named(
    written: str, why: str, tmp_path: Path, project: Project, invoke: Invoke
) -> None:
    body = written.replace("\n", "\n      ")
    (tmp_path / "c.yaml").write_text(f"prompts: ['Say {{{{x}}}}']\ndefaultTest:\n  assert:\n    - {body}\n")
    task, said = bring(invoke, project, tmp_path / "c.yaml")
    assert task.scorers == ()
    assert any(re.search(r"c\.yaml:4: the assertion .* is not carried over", line) and why in line for line in said), said


def test_a_judge_for_rubrics_that_name_none(tmp_path: Path, project: Project, invoke: Invoke) -> None:
    (tmp_path / "c.yaml").write_text("prompts: ['Say {{x}}']\ndefaultTest:\n  assert: [{type: llm-rubric, value: is kind}]\n")
    task, _ = bring(invoke, project, tmp_path / "c.yaml", "--judge", "anthropic/claude-opus-4-5")
    assert scorers(task) == [{"judge": {"criteria": "is kind", "model": "anthropic/claude-opus-4-5"}}]


@pytest.mark.parametrize(
    ("cell", "scorer"),
    [
        ('"contains-any: a, b"', {"contains_any": {"value": ["a", "b"]}}),
        ("not-regex: ^x", {"regex": {"value": "^x", "not": True}}),
        ("similar(0.9):near", {"fuzzy": {"value": "near", "threshold": 0.9}}),
        ("similar:near", {"fuzzy": {"value": "near", "threshold": 0.8}}),
        ("word-count: 3", {"word_limit": {"min": 3, "max": 3}}),
        ("grade: is kind", {"judge": {"criteria": "is kind", "model": "openai/gpt-4o"}}),
        ('"is-json: {""type"": ""object""}"', {"json_schema": {"schema": {"type": "object"}}}),
        ("is-json: {not json", None),
        ("javascript: output.length", None),
        ("eval: output.length", None),
    ],
)
def test_cells_of_a_table(cell: str, scorer: Any, tmp_path: Path, project: Project, invoke: Invoke) -> None:
    rows = "".join(f"{text},equals: {text},{cell},note,0.5\n" for text in ("one", "two"))
    (tmp_path / "c.csv").write_text(f"q,__expected1,__expected2,__metadata:by,__threshold\n{rows}")
    task, said = bring(invoke, project, tmp_path / "c.csv", "--judge", "openai/gpt-4o")
    assert scorers(task) == ["exact", *([scorer] if scorer else [])]
    assert scorer or any("is not carried over" in line for line in said)
    for column in ("__metadata:by", "__threshold"):
        assert any(f"the column {column} has no equivalent" in line and "also line 3" in line for line in said)


def test_rows_of_different_kinds_have_no_expected_output(tmp_path: Path, project: Project, invoke: Invoke) -> None:
    (tmp_path / "c.csv").write_text("q,__expected\none,equals: 1\ntwo,contains: 2\n")
    said = invoke("import", tmp_path / "c.csv", project=project, code=2).stderr
    for note in ("holds no prompt and no examples", ":2: the assertion equals holds for this case alone", ":3: the assertion contains"):
        assert note in said


def test_variables_that_some_tests_leave_out(tmp_path: Path, project: Project, invoke: Invoke) -> None:
    """promptfoo takes them from defaultTest, or renders nothing."""
    (tmp_path / "c.yaml").write_text(
        "prompts: ['{{tone}} words about {{x}} {{extra}}']\ndefaultTest: {vars: {tone: kind}}\ntests:\n"
        "  - {vars: {x: a}, assert: [{type: equals, value: A}]}\n"
        "  - {vars: {x: b, tone: rude, extra: now}, assert: [{type: equals, value: B}]}\n"
    )
    task, said = bring(invoke, project, tmp_path / "c.yaml")
    assert [(v.name, v.default) for v in task.inputs] == [("tone", "kind"), ("x", None), ("extra", "")]
    assert [inputs for inputs, _ in pairs(task)] == [{"tone": "kind", "x": "a", "extra": ""}, {"tone": "rude", "x": "b", "extra": "now"}]
    assert any("c.yaml:4: the variable 'extra' is not given" in line for line in said)


def test_json_outputs_of_promptfoo(tmp_path: Path, project: Project, invoke: Invoke) -> None:
    (tmp_path / "c.yaml").write_text(
        "tests:\n  - {vars: {t: a}, assert: [{type: equals, value: {n: 1}}]}\n  - {vars: {t: b}, assert: [{type: equals, value: {n: 2}}]}\n"
    )
    task, _ = bring(invoke, project, tmp_path / "c.yaml")
    assert pairs(task)[1] == ({"t": "b"}, '{"n": 2}')
    assert isinstance(task.contract.shape, JsonShape)
    assert scorers(task) == ["json_diff"]


# --- the other formats ------------------------------------------------------------------------------------


def test_github(project: Project, invoke: Invoke) -> None:
    task, said = bring(invoke, project, "summary.prompt.yml")
    assert task.description == "Summarizes input text concisely"
    assert task.prompt is not None
    assert task.prompt.startswith("You are a text summarizer. Your only job is to summarize text given to you.\n\nSummarize the given text")
    assert "between <input> and </input>" in task.prompt
    assert [output for _, output in pairs(task)] == [
        "Summary - A fox jumped over a lazy, unresponsive dog.",
        "Summary - The museum is open from nine to five on weekdays.",
    ]
    assert scorers(task) == [
        {"starts_with": {"value": "Summary -", "name": "Output should start with 'Summary -'", "ignore_case": True}},
        {"exact": {"name": "As expected"}},
        {"judge": {"criteria": "Is this a short summary of {{input}}? {{completion}}", "name": "concise", "model": "openai/gpt-4o"}},
    ]
    assert any(line.startswith("summary.prompt.yml:32: the evaluator uses 'github/similarity'") for line in said)
    assert any(line.startswith("summary.prompt.yml:24: a row of testData has no expected output") for line in said)


def test_github_with_a_schema_and_solved_turns(project: Project, invoke: Invoke) -> None:
    task, said = bring(invoke, project, "order.prompt.yml")
    assert isinstance(task.contract.shape, JsonShape)
    assert pairs(task) == [
        ({"message": "I ordered 2 things as A-1"}, '{"id": "A-1", "items": 2}'),
        ({"message": "My order B-7 is late"}, '{"id": "B-7"}'),
    ]
    assert task.prompt is not None
    (shown,) = read_examples(task.prompt)
    assert (shown.inputs, json.loads(shown.output)) == ({"message": "I ordered 2 things as A-1"}, {"id": "A-1", "items": 2})
    assert any(line.startswith("order.prompt.yml:14: the row's expected output breaks the schema") for line in said)


def test_dotprompt(project: Project, invoke: Invoke) -> None:
    task, said = bring(invoke, project, "greeting.prompt")
    assert [(v.name, v.default, v.about) for v in task.inputs] == [
        ("name", "Guest", "how the guest wants to be called"),
        ("language", "", ""),
        ("visits", None, ""),
    ]
    assert isinstance(task.contract.shape, JsonShape)
    assert task.prompt is not None
    assert "Never write {{name}}." in task.prompt
    for note in (
        "greeting.prompt:28: '{{#if language}}' is template logic",
        "greeting.prompt:35: '{{>footer}}' is template logic",
        "greeting.prompt:27: '{{! keep it short }}' is a comment",
        "greeting.prompt:32: {{history}} is left out",
        "greeting.prompt:5: 'tools' of the front matter",
        "greeting.prompt:8: 'topK' of config",
    ):
        assert any(line.startswith(note) for line in said), (note, said)


def test_picoschema_means_what_dotpromptz_says(project: Project) -> None:
    from dotpromptz import parse_document, picoschema_to_json_schema

    text = (HERE / "greeting.prompt").read_text("utf-8")
    schema = parse_document(text).raw["output"]["schema"]  # type: ignore[index]
    _, found, _ = imported(HERE / "greeting.prompt", Here())
    assert found.output == {"json": asyncio.run(picoschema_to_json_schema(schema))}


def test_prompty_1(project: Project, invoke: Invoke) -> None:
    task, said = bring(invoke, project, "answer.v1.prompty")
    assert [(v.name, v.default, v.about) for v in task.inputs] == [("first_name", "Jo", "the customer"), ("question", None, "")]
    assert task.prompt is not None
    assert "Write {{ and }} when asked for braces." in task.prompt
    assert "internal" not in task.prompt
    assert task.production is not None
    assert dict(task.production.parameters) == {"max_tokens": 300, "temperature": 0.2}
    assert isinstance(task.contract.shape, JsonShape)
    assert json.loads(task.contract.shape.schema) == {"type": "object"}
    assert "0123456789abcdef" not in "\n".join([*said, project.task_file("new").read_text()])
    for note in (":9: 'azure_endpoint'", ":11: 'api_key'", ":19: 'sample'", ":26: '{# internal #}'"):
        assert any(line.startswith(f"answer.v1.prompty{note}") for line in said), note


def test_prompty_2(project: Project, invoke: Invoke) -> None:
    task, said = bring(invoke, project, "answer.v2.prompty")
    assert [(v.name, v.default) for v in task.inputs] == [("text", None), ("hint", "none")]
    assert isinstance(task.contract.shape, JsonShape)
    schema = json.loads(task.contract.shape.schema)
    assert schema["required"] == ["name", "places"]
    assert schema["properties"]["places"] == {"type": "array", "items": {"type": "string"}}
    assert any("input 'history' of kind thread can't be carried" in line for line in said)


def test_langfuse(project: Project, invoke: Invoke) -> None:
    """The prompt with the label production, not the newest; archived and unanswered items stay away."""
    task, said = bring(invoke, project, "critic.langfuse.json")
    assert task.prompt is not None
    assert "Do you like {{movie}}? 😀" in task.prompt
    assert [example.id for example in task.examples] == ["i1", "i2"]
    assert pairs(task)[0] == ({"criticLevel": "harsh", "movie": "Dune 2"}, "yes")
    for note in ("data[1]: the prompt 'movie-critic', version 3 is left out", "the placeholder 'history'", "@@@langfusePrompt:name=style"):
        assert any(note in line for line in said), note
    items, _ = bring(invoke, project, "items.langfuse.jsonl", name="items")
    assert pairs(items) == [({"input": "Is water wet?"}, "yes"), ({"input": "Is fire wet?"}, "no")]


def test_openai_hosted_prompt(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    task, said = bring(invoke, project, "reply.openai.json")
    assert [v.name for v in task.inputs] == ["company", "customer_name", "issue"]
    assert task.production is not None
    assert (task.production.name, dict(task.production.parameters)) == ("openai/gpt-4.1", {"max_tokens": 400, "temperature": 1})
    assert any("tools is left out" in line for line in said)
    reference = tmp_path / "r.json"
    reference.write_text('{"model": "gpt-5", "prompt": {"id": "pmpt_123", "version": "2", "variables": {"city": "Rome"}}}')
    refused = invoke("import", reference, project=project, code=2)
    assert "names a hosted prompt and does not hold its text" in refused.stderr
    assert "before 2026-11-30" in refused.stderr


def test_dspy(project: Project, invoke: Invoke) -> None:
    """Instructions are the description; the demos stand in the prompt that is compiled of them."""
    task, said = bring(invoke, project, "program.dspy.json")
    assert task.prompt is None
    assert [(v.name, v.about) for v in task.inputs] == [("text", "a customer's message")]
    assert [output for _, output in pairs(task)] == ["positive", "negative", "neutral"]
    assert len(read_examples(compiled(project, task).system)) == 3
    assert any("the predictor 'explain' is left out" in line for line in said)
    assert any("classify.demos[3]: a demo lacks a field" in line for line in said)


# --- writing ----------------------------------------------------------------------------------------------


def test_many_rows_stand_in_a_file_and_a_share_can_be_sealed(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    rows = "".join(f"question number {number} of them,equals: answer {number % 3}\n" for number in range(60))
    (tmp_path / "many.csv").write_text("q,__expected\n" + rows)
    task, said = bring(invoke, project, tmp_path / "many.csv", "--holdout", "0.4")
    assert len(task.examples) + len(task.holdout) == 60
    assert 10 < len(task.holdout) < 40
    assert (project.evals / "data" / "new.jsonl").is_file()
    assert any("wrote evals/new.yaml and evals/data/new.jsonl: 60 rows" in line for line in said)


def test_nothing_is_overwritten_and_nothing_half_is_left(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    bring(invoke, project, "program.dspy.json")
    before = project.task_file("new").read_bytes()
    again = invoke("import", HERE / "summary.prompt.yml", "--name", "new", project=project, code=2)
    assert "evals/new.yaml is there already; nothing is overwritten" in again.stderr
    assert project.task_file("new").read_bytes() == before
    # A data file in the way leaves no task either.
    (project.evals / "data").mkdir()
    (project.evals / "data" / "other.jsonl").write_text("mine")
    invoke("import", HERE / "capitals.promptfoo.csv", "--name", "other", "--holdout", "0.5", project=project, code=2)
    assert (project.evals / "data" / "other.jsonl").read_text() == "mine"
    assert sorted(os.listdir(project.evals)) == ["data", "new.yaml"]


def test_rows_of_one_input_go_to_a_data_file(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    """In a task file they would be an error; real suites have them."""
    (tmp_path / "c.csv").write_text("q,__expected\nsame,equals: a\nSame,equals: b\nother,equals: c\n")
    task, _ = bring(invoke, project, tmp_path / "c.csv")
    assert (project.evals / "data" / "new.jsonl").is_file()
    assert any("contradiction" in note for note in task.notes)


def test_a_secret_never_reaches_a_task_or_the_terminal(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    key = "sk-proj-" + "a1B2c3D4" * 5
    (tmp_path / "c.prompt.yml").write_text(
        f"messages: [{{role: system, content: 'Use {key} for calls.'}}, {{role: user, content: '{{{{input}}}}'}}]\n"
        f"testData: [{{input: 'my key is {key}', expected: ok}}]\n'{key}': 1\n"
    )
    said = invoke("import", tmp_path / "c.prompt.yml", project=project)
    assert key not in said.output
    assert key not in (project.evals / "c.yaml").read_text()
    assert "a secret stood in it" in said.stderr


def test_a_file_whose_task_would_be_wrong_is_refused_in_words(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    items = [{"id": "same", "input": text, "expectedOutput": "a"} for text in ("one", "two")]
    (tmp_path / "i.json").write_text(json.dumps(items))
    said = invoke("import", tmp_path / "i.json", "--name", "new", project=project, code=2).stderr
    assert "the task that this file makes can't be read" in said
    assert "the id 'same' is also that of the row" in said
    assert list(project.evals.iterdir()) == []


def test_where_the_task_goes(project: Project, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    assert invoke("import", HERE / "summary.prompt.yml", project=project).stdout == "summary\n"
    assert invoke("import", HERE / "summary.prompt.yml", "--out", "evals/a/b.yaml", project=project).stdout == "a/b\n"
    assert "does not lie below evals/" in invoke("import", HERE / "summary.prompt.yml", "--out", "b.yaml", project=project, code=2).stderr
    assert "must end in .yaml" in invoke("import", HERE / "summary.prompt.yml", "--out", "evals/b.yml", project=project, code=2).stderr
    assert "can't be a task's name" in invoke("import", HERE / "summary.prompt.yml", "--name", "../x", project=project, code=2).stderr
    invoke("import", HERE / "summary.prompt.yml", "--name", "x", "--out", "evals/x.yaml", project=project, code=2)
    data = json.loads(invoke("import", HERE / "items.langfuse.jsonl", "--json", "--name", "j", project=project).stdout)
    assert (data["task"], data["format"], data["files"], data["rows"]) == ("j", "langfuse", ["evals/j.yaml"], 2)


def test_the_formats_of_the_commands_are_those_of_the_table() -> None:
    assert set(import_.FORMATS) == set(IMPORTS)
    assert set(export.FORMATS) == set(EXPORTS)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("openai:chat:gpt-4o", "openai/gpt-4o"),
        ("openai:ft:gpt-4o:org::1", "openai/ft:gpt-4o:org::1"),
        ("anthropic:messages:claude-haiku-4-5", "anthropic/claude-haiku-4-5"),
        ("local/llama3:8b", "local/llama3:8b"),
        ("gpt-4.1-mini", "openai/gpt-4.1-mini"),
        ("claude-haiku-4-5", "anthropic/claude-haiku-4-5"),
        ("vertex:gemini-2.5-pro", ""),
        ("mixtral", ""),
        ("", ""),
    ],
)
def test_names_of_models(written: str, name: str) -> None:
    notes = Notes("f")
    assert model_name(written, Here(("local",)), notes, None) == name
    assert (written == name) == (not list(notes)) or not written


def test_parameters_that_a_model_does_not_take_are_named(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "prompts: ['Say {{x}}']\nproviders: [{id: 'anthropic:messages:claude-opus-4-5', config: {temperature: 0, max_tokens: 9}}]\n"
    )
    task, said = bring(invoke, project, tmp_path / "c.yaml")
    assert task.production is not None
    assert dict(task.production.parameters) == {"max_tokens": 9}
    assert any("temperature is left out: anthropic/claude-opus-4-5 does not take it" in line for line in said)


# --- hostile input ----------------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.yaml", b"", "the file is empty"),
        ("x.json", b"   \n", "the file is empty"),
        ("x.prompt", b"\x00\x01\x02", "NUL byte"),
        ("x.prompty", b"\xff\xfe\x00a", "UTF-16"),
        ("x.yaml", b"\x89PNG\r\n\x1a\n", "is not UTF-8"),
        ("x.yaml", b"prompts: [a" + b"a" * (17 << 20), "larger than 16 MB"),
        ("x.yaml", BOMB.encode(), "more than 100,000 nodes"),
        ("x.yaml", b"[" * 200, "nested more than 100 deep"),
        ("x.json", b"[" * 5000, "nested more than 100 deep"),
        ("x.json", b'{"prompts": [1, 2', "not valid JSON"),
        ("x.json", b'{"a": 1, "a": 2}', "stands twice"),
        ("x.json", b"42", "is no prompt file that can be read"),
        ("x.yaml", b"just words", "is no prompt file that can be read"),
        ("x.yaml", b"prompts: !!python/object:os.system [a]", "has no meaning here"),
        ("x.yaml", b"task: mine\n", "--from dotprompt|prompty"),
        ("x.prompt", b"---\nmodel: x\n", "is never closed"),
        ("x.prompt", b"---\nmodel: [\n---\nhi", "x.prompt:"),
        ("x.prompt", b"---\nmodel: a/b\n---\n", "holds no prompt and no examples"),
        ("x.csv", b"a,b\n", "no rows"),
        ("x.csv", b'a,b\n"open', "never closed"),
        ("x.jsonl", b"{}\nnot json\n", "not valid JSON"),
        ("x.prompt.yml", b"- 1\n- 2\n", "holds no prompt and no examples"),
        ("x.yaml", b"prompts: 7\ntests: 8\nproviders: {a: {b: [c]}}\n", ""),
    ],
)
def test_hostile_files(name: str, content: bytes, said: str, project: Project, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    if said:
        assert said in invoke("import", tmp_path / name, "--name", "new", project=project, code=2).stderr
        assert not project.evals.exists() or list(project.evals.rglob("*")) == []
    else:
        invoke("import", tmp_path / name, "--name", "new", project=project)


def test_a_literal_that_looks_like_the_variable(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    """What is read back from the template must not be mistaken for its variables."""
    (tmp_path / "c.prompty").write_text(
        "---\nname: c\n---\nsystem:\nSort it.\nuser:\none\nassistant:\nA\nuser:\n{% raw %}{{text}}{% endraw %} is {{text}}\n"
    )
    task, said = bring(invoke, project, tmp_path / "c.prompty")
    assert [v.name for v in task.inputs] == ["text"]
    assert any("c.prompty:7: the earlier turns from here are no solved inputs" in line for line in said)


def test_a_missing_file_and_a_folder(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    assert "there is no such file" in invoke("import", tmp_path / "no.yaml", project=project, code=2).stderr
    assert "is a folder" in invoke("import", tmp_path, project=project, code=2).stderr


def test_a_config_reads_no_file_outside_its_folder(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("the secret words {{x}}")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "inner" / "c.yaml").write_text(
        "prompts: [file://../secret.txt, file://link.txt, 'Say {{x}}']\ntests: file:///etc/passwd.csv\n"
    )
    task, said = bring(invoke, project, tmp_path / "inner" / "c.yaml")
    assert task.prompt is not None
    assert "secret words" not in task.prompt
    assert sum("it lies outside the config's folder" in line for line in said) == 3


@pytest.mark.parametrize("form", IMPORTS)
@pytest.mark.parametrize("file", FIXTURES)
def test_any_file_read_as_any_format_is_an_import_or_an_error_for_people(form: str, file: str) -> None:
    try:
        imported(HERE / file, Here(), form)
    except PromptsmithError as error:
        assert str(error)


@given(st.sampled_from(sorted(FIXTURES)), st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=6))
def test_damaged_files_never_give_a_traceback(file: str, at: int, length: int, put: bytes) -> None:
    import tempfile

    data = (HERE / file).read_bytes()
    at %= len(data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(file).name
        path.write_bytes(data[:at] + put + data[at + length :])
        try:
            _, _, notes = imported(path, Here())
            list(notes)
        except PromptsmithError as error:
            assert str(error)


# --- export -----------------------------------------------------------------------------------------------


def a_prompt(system: str, inputs: tuple[Variable, ...] = (), **more: Any) -> Prompt:
    made: dict[str, Any] = {
        "task": "support/triage",
        "contract": Contract(TextShape()),
        "model": "openai/gpt-4o-mini",
        "parameters": {"max_tokens": 64, "temperature": 0.5},
        "serve": Serve(),
        "provenance": Provenance(
            created="2026-11-20T00:00:00Z", version="0", level=0, level_why="", build=Build(key="k", inputs={}, epoch=1)
        ),
        **more,
    }
    return make_prompt(system=system, inputs=inputs, **made)


TRICKY = 'Write {{name}} and {% raw %} or {# x #} as they are, {{{so}}}, \\{{ and \\\\{{too}} "quoted" \\'
TEXTS = st.text(st.sampled_from("{}%#\\\"'!-ab \nß😀"), max_size=40)


@given(TEXTS)
def test_jinja_renders_any_text_as_it_is(text: str) -> None:
    environment = jinja2.Environment(keep_trailing_newline=True)
    assert environment.from_string(jinja_text(text)).render() == text


# A '{' right before a tag can't be written in Handlebars; the exporter puts a line end between.
@given(TEXTS.filter(lambda text: not re.search(r"(?<!\{)(\{\{)*\{\Z", text)))
def test_handlebars_renders_any_text_as_it_is(text: str) -> None:
    from dotpromptz_handlebars import EscapeFunction, Handlebars

    engine = Handlebars(escape_fn=EscapeFunction.NO_ESCAPE)
    engine.register_template("t", handlebars_text(text, before_tag=True) + "{{x}}")
    assert engine.render("t", {"x": "|"}) == text + "|"


INPUTS = (Variable("ticket", about="what the customer wrote"), Variable("locale", default="en"))


def test_dotprompt_reads_what_is_exported() -> None:
    from dotpromptz import DataArgument, Dotprompt

    for system, inputs in ((TRICKY, INPUTS), ("Sort it.\n\nWith care: {{#if x}}", ())):
        prompt = a_prompt(system, inputs, contract=Contract(JsonShape('{"type": "object", "properties": {"a": {"type": "string"}}}')))
        text, notes = exported(Outgoing(prompt=prompt), "dotprompt")
        given = {v.name: f"<b>{v.name}</b> {{{{x}}}}" for v in inputs} or {"input": "free & text"}
        shown = asyncio.run(Dotprompt().render(text, DataArgument(input=given)))
        assert [message.role.value for message in shown.messages] == ["system", "user"]
        texts = ["".join(part.text for part in message.content) for message in shown.messages]
        from promptsmith.prompt import user_turn

        assert texts == [system, user_turn(inputs, given)]
        assert (shown.model, shown.config) == ("openai/gpt-4o-mini", {"maxOutputTokens": 64, "temperature": 0.5})
        assert shown.output.format == "json"  # type: ignore[union-attr]
        assert list(notes) == []


def test_prompty_reads_what_is_exported(tmp_path: Path) -> None:
    import prompty

    schema = {
        "type": "object",
        "properties": {"queue": {"type": "string", "enum": ["a", "b"]}, "n": {"type": "array", "items": {"type": "integer"}}},
        "required": ["queue"],
        "additionalProperties": False,
    }
    for system, inputs in ((TRICKY, INPUTS), ("Sort it.\n\nWith --- care.", ())):
        prompt = a_prompt(system, inputs, contract=Contract(JsonShape(json.dumps(schema))))
        text, notes = exported(Outgoing(prompt=prompt), "prompty")
        (tmp_path / "x.prompty").write_text(text, "utf-8")
        agent = prompty.load(tmp_path / "x.prompty")
        given = {v.name: f"<b>{v.name}</b> {{{{x}}}}" for v in inputs} or {"input": "free & text"}
        from promptsmith.prompt import user_turn

        messages = prompty.prepare(agent, given)
        assert [(message.role, message.text) for message in messages] == [("system", system), ("user", user_turn(inputs, given))]
        assert (agent.model.id, agent.model.provider) == ("gpt-4o-mini", "openai")
        assert (agent.model.options.max_output_tokens, agent.model.options.temperature) == (64, 0.5)
        assert [(one.name, one.kind, bool(one.required)) for one in agent.outputs] == [("queue", "string", True), ("n", "array", False)]
        assert list(notes) == []


def test_prompty_refuses_a_prompt_that_it_would_cut() -> None:
    with pytest.raises(InputError, match=r"line 2 of the prompt is 'User:'"):
        exported(Outgoing(prompt=a_prompt("Answer like this.\nUser:\nhello")), "prompty")
    with pytest.raises(InputError, match="marker of its own"):
        exported(Outgoing(prompt=a_prompt("Write <<<dotprompt:role:user>>> now")), "dotprompt")


def test_promptfoo_export_by_its_documented_rules() -> None:
    """A JSON prompt is parsed, then each text is rendered with the test's variables (Nunjucks reads these as Jinja does)."""
    prompt = a_prompt(TRICKY, (Variable("order-no"), Variable("locale", default="en")))
    text, notes = exported(Outgoing(prompt=prompt), "promptfoo")
    config = yaml.safe_load(text)
    chat = json.loads(config["prompts"][0]["raw"])
    environment = jinja2.Environment(keep_trailing_newline=True)
    shown = [environment.from_string(one["content"]).render(order_no="A-1", locale="de") for one in chat]
    assert shown == [TRICKY, "<order-no>\nA-1\n</order-no>\n<locale>\nde\n</locale>"]
    passed = {"omitDefaults": True, "temperature": 0.5, "passthrough": {"max_completion_tokens": 64}}
    assert config["providers"] == [{"id": "openai:chat:gpt-4o-mini", "config": passed}]
    assert config["defaultTest"]["vars"] == {"locale": "en"}
    assert any("'order-no' is called 'order_no' there" in note for note in notes)


SEALED = "a sealed case that nobody may see"
TASK = f"""\
task: Route a ticket.
inputs: {{ticket: {{about: what the customer wrote}}}}
output: [billing, delivery]
examples:
  - {{input: {{ticket: "Where is {{{{it}}}}?"}}, output: delivery}}
  - {{input: {{ticket: "You charged me twice"}}, output: billing}}
holdout:
  - {{input: {{ticket: {SEALED}}}, output: billing}}
models: {{production: {{use: openai/gpt-4o-mini, temperature: 0.5, max_tokens: 40}}}}
"""


@pytest.mark.parametrize("form", ["promptfoo", "github", "dotprompt", "prompty"])
def test_a_round_trip_keeps_instructions_inputs_and_examples(
    form: str, make_project: Callable[..., Project], invoke: Invoke, tmp_path: Path
) -> None:
    project = make_project({"route": TASK})
    invoke("compile", "route", project=project)
    before = json.loads(invoke("show", "route", "--format", "json", project=project).stdout)
    out = tmp_path / {"promptfoo": "p.yaml", "github": "p.prompt.yml", "dotprompt": "p.prompt", "prompty": "p.prompty"}[form]
    said = invoke("export", "route", "--to", form, "--out", out, project=project).stderr
    assert SEALED not in out.read_text("utf-8") + said
    task, _ = bring(invoke, project, out, name="back")
    assert task.prompt == before["system"]
    assert [v.name for v in task.inputs] == ["ticket"]
    assert task.production is not None
    assert (task.production.name, dict(task.production.parameters)) == ("openai/gpt-4o-mini", {"max_tokens": 40, "temperature": 0.5})
    if form in ("promptfoo", "github"):
        assert pairs(task) == [({"ticket": "Where is {{it}}?"}, "delivery"), ({"ticket": "You charged me twice"}, "billing")]
        assert isinstance(task.contract.shape, Labels)
    if form == "dotprompt":
        assert task.contract == Contract(Labels(("billing", "delivery")))
    # The prompt is the same text, so it is the same prompt but for its contract and inputs' descriptions.
    assert compiled(project, task).system == before["system"]


def test_promptfoo_export_says_that_the_holdout_is_sealed(make_project: Callable[..., Project], invoke: Invoke) -> None:
    project = make_project({"route": TASK})
    invoke("compile", "route", project=project)
    result = invoke("export", "route", "--to", "promptfoo", project=project)
    assert "the holdout is sealed and left out" in result.stderr
    assert "the tests are the 2 visible examples of the task, 2 of which stand in the prompt itself" in result.stderr
    config = yaml.safe_load(result.stdout)
    assert [test["assert"] for test in config["tests"]] == [
        [{"type": "equals", "value": "delivery"}],
        [{"type": "equals", "value": "billing"}],
    ]


@pytest.mark.parametrize("form", ["openai", "anthropic"])
def test_bodies_are_those_that_show_prints(form: str, make_project: Callable[..., Project], invoke: Invoke) -> None:
    project = make_project()
    invoke("compile", "sentiment", project=project)
    written = invoke("export", "sentiment", "--to", form, project=project).stdout
    assert written == invoke("show", "sentiment", "--format", form, project=project).stdout


def test_text_export_is_the_system_text(make_project: Callable[..., Project], invoke: Invoke, tmp_path: Path) -> None:
    project = make_project({"route": TASK})
    invoke("compile", "route", project=project)
    system = json.loads(invoke("show", "route", "--format", "json", project=project).stdout)["system"]
    result = invoke("export", "route", "--to", "text", "--out", tmp_path / "p.txt", project=project)
    assert (tmp_path / "p.txt").read_text("utf-8") == system
    for what in ("openai/gpt-4o-mini", "the input 'ticket'", "one of 2 labels"):
        assert what in result.stderr


def test_export_overwrites_only_when_told(make_project: Callable[..., Project], invoke: Invoke, tmp_path: Path) -> None:
    project = make_project()
    invoke("compile", "sentiment", project=project)
    out = tmp_path / "p.txt"
    out.write_text("mine")
    assert "is there already" in invoke("export", "sentiment", "--to", "text", "--out", out, project=project, code=2).stderr
    assert out.read_text() == "mine"
    invoke("export", "sentiment", "--to", "text", "--out", out, "--force", project=project)
    assert out.read_text() != "mine"
    missing = invoke("export", "sentiment", "--to", "text", "--out", tmp_path / "no" / "p.txt", project=project, code=2)
    assert "can't be written" in missing.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["p.txt"]


def test_what_a_format_cannot_carry_is_named() -> None:
    from promptsmith.contract import Check

    prompt = a_prompt(
        "Sort it.",
        (Variable("ticket", max_chars=20),),
        contract=Contract(TextShape(max_words=9, max_lines=2), (Check("not_contains", "sorry"),)),
        parameters={"max_tokens": 64, "verbosity": "low"},
        serve=Serve(on_contract_break="repair", fallback=("anthropic/claude-haiku-4-5",)),
    )
    for form in ("github", "dotprompt", "prompty", "text"):
        said = "\n".join(exported(Outgoing(prompt=prompt), form)[1])
        words = ["limits of the text", "sorry", "on_contract_break", "fallback"]
        words += [] if form == "text" else ["verbosity", "limit of 20 characters"]
        for word in words:
            assert word in said, (form, word)
    text, notes = exported(Outgoing(prompt=prompt), "promptfoo")
    assert {"type": "word-count", "value": {"max": 9}} in yaml.safe_load(text)["defaultTest"]["assert"]
    assert {"type": "not-icontains", "value": "sorry"} in yaml.safe_load(text)["defaultTest"]["assert"]
    assert any("max_lines" in note for note in notes)
