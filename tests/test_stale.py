"""``compile --check``: whether production was built from what the files say today."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import Result

from promptsmith import canonical
from promptsmith.config import Project
from promptsmith.prompt import Prompt
from promptsmith.registry.lock import LockFile
from promptsmith.task import source_digest_of

Invoke = Callable[..., Result]

TASK = """\
task: Sort a message.
output: [good, bad]
constraints:
  - Be quick.
holdout: {file: held.jsonl}
examples: {file: rows.jsonl}
"""
ROWS: list[object] = [
    {"input": f"message {word}", "output": kind} for word, kind in [("one", "good"), ("two", "bad"), ("three", "good"), ("four", "bad")]
]
HELD: list[object] = [{"input": "sealed message", "output": "bad"}]


@pytest.fixture
def project(make_project: Callable[..., Project], invoke: Invoke) -> Project:
    """A project whose one task is compiled and in production."""
    made = make_project({"t": TASK}, {"rows.jsonl": ROWS, "held.jsonl": HELD})
    released(made, invoke)
    return made


def released(project: Project, invoke: Invoke, *options: str) -> None:
    invoke("compile", "t", *options, project=project)
    invoke("promote", "t", "--force", "--why", "test", project=project)


def state(project: Project, invoke: Invoke, code: int = 0) -> tuple[str, str]:
    """State and reason of the task ``t``, the exit code asserted."""
    (row,) = json.loads(invoke("compile", "--check", "--json", project=project, code=code).stdout)["tasks"]
    return row["state"], row["why"]


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def moved_to(project: Project, **build: object) -> None:
    """Puts the production prompt back with other facts about its build."""
    lock = LockFile(project.lock)
    prompt = production(project)
    provenance = msgspec.structs.replace(prompt.provenance, build=msgspec.structs.replace(prompt.provenance.build, **build))
    lock.move("t", "production", None)
    project.lock.unlink()
    LockFile(project.lock).move("t", "production", msgspec.structs.replace(prompt, provenance=provenance), why="test")


def production(project: Project) -> Prompt:
    lock = LockFile(project.lock)
    prompt_id = lock.resolve("t", "production")
    assert prompt_id is not None
    prompt = lock.prompt(prompt_id)
    assert prompt is not None
    return prompt


def test_unchanged_is_fresh(project: Project, invoke: Invoke) -> None:
    """What was just compiled and promoted is fresh, in words too."""
    assert state(project, invoke) == ("fresh", "")
    assert invoke("compile", "--check", project=project).stdout == "t: fresh\n"


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        ("Sort a message.", "Sort a message well.", "task"),
        ("[good, bad]", "[good, bad, ugly]", "contract"),
        ("  - Be quick.\n", "  - Be slow.\n", "constraints"),
        ("  - Be quick.\n", "  - {say: Be quick., check: {max_words: 9}}\n", "constraints"),
        ("constraints:\n", "prompt: Just sort.\nconstraints:\n", "prompt"),
        ("constraints:\n", "compile: {seed: 4}\nconstraints:\n", "seed"),
        ("constraints:\n", "compile: {example_tokens: 4}\nconstraints:\n", "options"),
        ("constraints:\n", "models: {production: {use: builtin/nearest, temperature: 1}}\nconstraints:\n", "model"),
        ("{file: rows.jsonl}", "[{input: a, output: good}]", "examples"),
        ("constraints:\n", "inputs: [input]\nconstraints:\n", "inputs"),
    ],
)
def test_each_part_that_is_compiled_makes_it_stale(project: Project, invoke: Invoke, before: str, after: str, part: str) -> None:
    """A change of what the prompt is built from is stale (exit 1), and the part that changed is named."""
    change(project.task_file("t"), before, after)
    found, why = state(project, invoke, code=1)
    assert found == "stale"
    assert part in why.partition(": ")[2].split(", ")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("task: Sort", "# a comment\n\ntask: Sort"),
        ("task: Sort a message.", "task: 'Sort a message.'  # quoted"),
        ("output: [good, bad]", "output:\n- good\n- bad"),
        ("constraints:\n  - Be quick.\n", "constraints: [Be quick.]\n"),
        ("constraints:\n", "gate: {require: {pass_rate: '>= 0.9'}}\nconstraints:\n"),
        ("constraints:\n", "scorers: [exact]\nconstraints:\n"),
        ("constraints:\n", "serve: {on_contract_break: pass, cache: true}\nconstraints:\n"),
        ("holdout: {file: held.jsonl}\n", ""),
    ],
    ids=["comment", "quotes", "block", "flow", "gate", "scorers", "serve", "holdout"],
)
def test_what_is_not_compiled_stays_fresh(project: Project, invoke: Invoke, before: str, after: str) -> None:
    """Comments, spelling, holdout, gate, scorers and serve policy are no part of a prompt."""
    change(project.task_file("t"), before, after)
    assert state(project, invoke) == ("fresh", "")


def test_a_change_of_the_holdout_file_stays_fresh(project: Project, invoke: Invoke) -> None:
    """Growing the sealed set changes no prompt."""
    with (project.evals / "held.jsonl").open("a") as file:
        file.write('{"input": "one more", "output": "good"}\n')
    assert state(project, invoke) == ("fresh", "")


def test_a_change_of_a_visible_row_is_stale(project: Project, invoke: Invoke) -> None:
    """A data file that the task names is watched like the task file."""
    change(project.evals / "rows.jsonl", "message two", "message 2")
    assert state(project, invoke, code=1) == ("stale", "changed since it was compiled: examples")


def test_a_schema_file_is_watched(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """The file that a contract names is part of the source."""
    text = "task: x\noutput: {json: shape.json}\nexamples: [{input: a, output: {n: 1}}]\n"
    project = make_project({"t": text}, {"shape.json": '{"type": "object"}'})
    released(project, invoke)
    assert state(project, invoke) == ("fresh", "")
    (project.evals / "shape.json").write_text('{"type": "object", "required": ["n"]}')
    assert state(project, invoke, code=1)[0] == "stale"


def test_line_ends_are_no_change(project: Project, invoke: Invoke) -> None:
    """git may check the same files out with CRLF."""
    for path in project.evals.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert state(project, invoke) == ("fresh", "")


def test_settings_that_tasks_fall_back_to_are_compared(project: Project, invoke: Invoke) -> None:
    """Another default model in the project's settings is another prompt; a cache setting is not."""
    (project.root / "promptsmith.toml").write_text("[cache]\nreply_days = 3\n")
    assert state(project, invoke) == ("fresh", "")
    (project.root / "promptsmith.toml").write_text("[models]\nproduction = 'acme/small'\n")
    assert state(project, invoke, code=1) == ("stale", "changed since it was compiled: model")
    (project.root / "promptsmith.toml").write_text("[compile]\nseed = 8\n")
    assert state(project, invoke, code=1) == ("stale", "changed since it was compiled: seed")


@pytest.mark.parametrize("options", [("--seed", "5"), ("--example-tokens", "20"), ("-O0",), ("--model", "builtin/nearest")])
def test_options_that_came_from_flags_are_taken_from_the_lock(
    make_project: Callable[..., Project], invoke: Invoke, options: tuple[str, ...]
) -> None:
    """What was compiled with flags is fresh without repeating them, also when files have to be read."""
    project = make_project({"t": TASK}, {"rows.jsonl": ROWS, "held.jsonl": HELD})
    released(project, invoke, *options)
    assert state(project, invoke) == ("fresh", "")
    change(project.task_file("t"), "task: Sort", "# read again\ntask: Sort")
    assert state(project, invoke) == ("fresh", "")
    change(project.task_file("t"), "Sort a", "Order a")
    assert state(project, invoke, code=1) == ("stale", "changed since it was compiled: task")


def test_an_older_compiler_is_outdated_not_stale(project: Project, invoke: Invoke) -> None:
    """A new epoch alone is reported with exit 0; the user's change still wins."""
    moved_to(project, epoch=canonical.COMPILER_EPOCH - 1)
    found, why = state(project, invoke)
    assert found == "outdated"
    assert f"epoch {canonical.COMPILER_EPOCH - 1}, now {canonical.COMPILER_EPOCH}" in why
    change(project.task_file("t"), "Sort a", "Order a")
    assert state(project, invoke, code=1)[0] == "stale"


def test_equal_bytes_are_not_parsed(project: Project, invoke: Invoke) -> None:
    """A file whose digest stands in the lock is not read as YAML: even one that could not be."""
    path = project.task_file("t")
    path.write_text("{{{ no yaml")
    invoke("compile", "--check", project=project, code=2)
    sources = {**production(project).provenance.build.sources, "evals/t.yaml": source_digest_of(path)}
    moved_to(project, sources=sources)
    assert state(project, invoke) == ("fresh", "")


def test_a_task_never_promoted_is_reported_not_failed(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """Nothing is in production that could be stale."""
    project = make_project({"t": TASK}, {"rows.jsonl": ROWS, "held.jsonl": HELD})
    assert state(project, invoke) == ("not promoted", "no prompt of it is in production")
    invoke("compile", "t", project=project)
    assert state(project, invoke)[0] == "not promoted"


def test_an_absent_cache_is_not_stale_and_not_made(project: Project, invoke: Invoke) -> None:
    """The check needs lock and files alone: no cache before, none after."""
    shutil.rmtree(project.cache)
    assert state(project, invoke) == ("fresh", "")
    assert not project.cache.exists()


def test_the_check_moves_with_the_project(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    """Paths in the lock are relative: a clone elsewhere is as fresh."""
    clone = tmp_path / "elsewhere" / "clone"
    shutil.copytree(project.root, clone, ignore=shutil.ignore_patterns("cache"))
    assert json.loads(invoke("compile", "--check", "--json", project=clone).stdout)["tasks"][0]["state"] == "fresh"


def test_a_task_whose_file_is_gone_serves_on(project: Project, invoke: Invoke) -> None:
    """Production comes from the lock; the check says that the source is missing."""
    project.task_file("t").unlink()
    found, why = state(project, invoke)
    assert (found, why) == ("no file", "evals/t.yaml does not exist; production serves from the lock")


def test_a_named_data_file_that_is_gone_is_an_error(project: Project, invoke: Invoke) -> None:
    """A task that can't be read any more is bad input (exit 2) with its line."""
    (project.evals / "rows.jsonl").unlink()
    result = invoke("compile", "--check", project=project, code=2)
    assert "t.yaml:6: " in result.stderr
    assert "rows.jsonl: there is no such file" in result.stderr


def test_one_wrong_task_does_not_hide_the_others(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """Every task is looked at; a wrong file, a stale one and a fresh one are told in one go."""
    simple = "task: {0}\noutput: [a, b]\nexamples: [{{input: i, output: a}}]\n"
    project = make_project({name: simple.format(name) for name in ("broken", "fresh", "stale")})
    for name in ("broken", "fresh", "stale"):
        invoke("compile", name, project=project)
        invoke("promote", name, "--force", "--why", "test", project=project)
    project.task_file("broken").write_text("task: x\ntaks: y\n")
    change(project.task_file("stale"), "task: stale", "task: other")
    result = invoke("compile", "--check", project=project, code=2)
    assert result.stdout == "fresh: fresh\nstale: stale: changed since it was compiled: task\n"
    assert "broken.yaml:2: unknown key 'taks'" in result.stderr
    assert invoke("compile", "--check", "fresh", project=project).stdout == "fresh: fresh\n"
    invoke("compile", "--check", "stale", "fresh", project=project, code=1)


def test_a_damaged_lock_is_named_with_its_line(project: Project, invoke: Invoke) -> None:
    """A tampered prompt in the lock is neither fresh nor stale (exit 2)."""
    change(project.lock, "Sort a message.", "Sort a massage.")
    found, why = state(project, invoke, code=2)
    assert found == "damaged"
    assert why.startswith("promptsmith.lock:")


def test_a_misspelled_task_is_not_passed_over(project: Project, invoke: Invoke) -> None:
    """A name that no task has must not be green in CI."""
    result = invoke("compile", "--check", "tt", project=project, code=2)
    assert "unknown task 'tt'" in result.stderr


def test_the_check_loads_no_yaml_and_no_store(project: Project) -> None:
    """When nothing changed, neither YAML nor the cache's machinery is loaded: that is what makes 1,000 tasks quick."""
    code = (
        "import sys; from promptsmith.cli import cli\n"
        "try: cli(['compile', '--check'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'yaml', 'diskcache', 'jsonschema_rs', 'deepdiff', 'filelock'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project.root, env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout == "t: fresh\n"
    assert done.stderr.strip() == "[]"


def test_a_changed_setting_in_a_task_moves_with_promotion(project: Project, invoke: Invoke) -> None:
    """The way back to fresh is to compile and promote."""
    change(project.task_file("t"), "Sort a", "Order a")
    state(project, invoke, code=1)
    invoke("compile", "t", project=project)
    assert state(project, invoke, code=1)[0] == "stale"
    invoke("promote", "t", "--force", "--why", "changed", project=project)
    assert state(project, invoke) == ("fresh", "")
