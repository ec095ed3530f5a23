"""``compile --check``: whether production was built from what the files say today."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result

from promptsmith import canonical
from promptsmith.compiler.build import ProjectCompiler
from promptsmith.compiler.material import Options
from promptsmith.compiler.search.strategies import search_prompts_digest
from promptsmith.config import Project
from promptsmith.evals.vocabulary import load_suite_task
from promptsmith.prompt import Prompt
from promptsmith.registry.lock import LockFile
from promptsmith.store.folder import open_store
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


# --- from -O2 -----------------------------------------------------------------------------------------------

SEARCHED = """\
task: Sort a message.
output: [good, bad]
models: {meta: toy/meta}
compile: {level: 2, candidates: 4}
scorers:
  - exact
  - python: mine.py:short
examples: {file: many.jsonl}
holdout: {file: held.jsonl}
"""
MANY: list[object] = [{"input": f"message {number}", "output": "good" if number % 2 else "bad"} for number in range(40)]
GRADER = "def short(output):\n    return len(output) < 20\n"
DRAFT = "Sort the message.\n\nAnswer with exactly one of these labels and nothing else:\n- good\n- bad\n"


@pytest.fixture
def searched(make_project: Callable[..., Project], invoke: Invoke, toy: Any) -> Project:
    """A project whose one task was compiled at ``-O2`` and is in production."""
    made = make_project({"t": SEARCHED}, {"many.jsonl": MANY, "held.jsonl": HELD, "mine.py": GRADER})
    compiled_at_2(made, toy)
    invoke("promote", "t", "--force", "--why", "test", project=made)
    assert production(made).provenance.level == 2
    return made


def compiled_at_2(project: Project, toy: Any, **options: Any) -> None:
    task = load_suite_task(project.task_file("t"), "t")
    with open_store(project) as store:
        compiler = ProjectCompiler(project, store, {"toy/meta": toy(DRAFT, "toy/meta")})
        asyncio.run(compiler.build(task, Options(**options)))


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        ("candidates: 4", "candidates: 5", "options"),
        ("candidates: 4", "candidates: 4, prefer: cost", "options"),
        ("candidates: 4", "candidates: 4, engine: gepa", "options"),
        ("candidates: 4", "candidates: 4, budget: {calls: 500}", "options"),
        ("candidates: 4", "candidates: 4, seed: 2", "seed"),
        ("level: 2", "level: 3", "options"),
        ("many.jsonl}", "many.jsonl, seed: 7}", "data_seed"),
        ("  - exact", "  - exact: {ignore_case: true}", "scorers"),
        ("  - exact", "  - judge: {criteria: Is it right?, model: toy/judge}", "scorers"),
    ],
)
def test_each_part_that_decides_a_search_makes_it_stale(searched: Project, invoke: Invoke, before: str, after: str, part: str) -> None:
    """What scores and what chooses is a part of what was compiled, and is named; nobody is called to find that out."""
    change(searched.task_file("t"), before, after)
    assert state(searched, invoke, code=1) == ("stale", f"changed since it was compiled: {part}")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("candidates: 4", "candidates: 4, budget: {seconds: 9}"),
        ("candidates: 4", "candidates: 4, prefer: score, engine: promptsmith"),
        ("scorers:", "gate: {margin: 0.05}\nserve: {cache: true}\nscorers:"),
        ("holdout: {file: held.jsonl}\n", ""),
        ("task: Sort", "# a comment\ntask: Sort"),
    ],
    ids=["time", "defaults", "gate and serve", "holdout", "comment"],
)
def test_what_decides_no_search_stays_fresh(searched: Project, invoke: Invoke, before: str, after: str) -> None:
    """A time limit, words that say the default, and what only gates or serves."""
    change(searched.task_file("t"), before, after)
    assert state(searched, invoke) == ("fresh", "")


def test_a_scorer_s_file_is_watched(searched: Project, invoke: Invoke) -> None:
    """Its bytes stand in the lock like those of data files; a change in it is a changed scorer."""
    assert "evals/mine.py" in production(searched).provenance.build.sources
    assert state(searched, invoke) == ("fresh", "")
    change(searched.evals / "mine.py", "< 20", "< 30")
    assert state(searched, invoke, code=1) == ("stale", "changed since it was compiled: scorers")


def test_equal_bytes_run_no_scorer(searched: Project, invoke: Invoke) -> None:
    """A scorer that would raise when it is loaded is not loaded while all files are as the lock says."""
    path = searched.evals / "mine.py"
    path.write_text("raise RuntimeError('loaded')\n")
    assert "mine.py' can't be loaded" in invoke("compile", "--check", project=searched, code=2).stderr
    sources = {**production(searched).provenance.build.sources, "evals/mine.py": source_digest_of(path)}
    moved_to(searched, sources=sources)
    assert state(searched, invoke) == ("fresh", "")


def test_flags_of_a_search_are_taken_from_the_lock(make_project: Callable[..., Project], invoke: Invoke, toy: Any) -> None:
    """A budget and a preference of the command line are kept, a time limit is not."""
    made = make_project(
        {"t": SEARCHED}, {"many.jsonl": MANY, "held.jsonl": HELD, "mine.py": GRADER}, "[prices.toy]\ninput = 1\noutput = 1\n"
    )
    compiled_at_2(made, toy, prefer="cost", max_calls=900, max_usd=2.5, max_seconds=300.0)
    invoke("promote", "t", "--force", "--why", "test", project=made)
    assert production(made).provenance.build.options == {"prefer": "cost", "max_usd": "2.5", "max_calls": "900"}
    change(made.task_file("t"), "task: Sort", "# read again\ntask: Sort")
    assert state(made, invoke) == ("fresh", "")
    change(made.task_file("t"), "candidates: 4", "candidates: 4, budget: {calls: 800}")
    assert state(made, invoke, code=1) == ("stale", "changed since it was compiled: options")


def test_other_meta_prompts_of_a_search_are_outdated(searched: Project, invoke: Invoke) -> None:
    """The prompts that a search writes drafts by are those of its level, not those of one draft."""
    build = production(searched).provenance.build
    assert build.meta_prompts == search_prompts_digest(2)[:16]
    moved_to(searched, meta_prompts="0" * 16)
    assert state(searched, invoke) == ("outdated", "built with other meta-prompts than today's")


def test_more_examples_make_an_unscored_prompt_stale(make_project: Callable[..., Project], invoke: Invoke, toy: Any) -> None:
    """What was asked for and could not be done is asked for still: with enough rows the check says so."""
    made = make_project({"t": SEARCHED}, {"many.jsonl": MANY[:12], "held.jsonl": HELD, "mine.py": GRADER})
    compiled_at_2(made, toy)
    invoke("promote", "t", "--force", "--why", "test", project=made)
    made_at = production(made).provenance
    assert made_at.level == 1
    assert made_at.level_why == "-O2 set in the task file; unscored: 12 examples, and a dev part needs 20"
    assert state(made, invoke) == ("fresh", "")
    (made.evals / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in MANY))
    found, why = state(made, invoke, code=1)
    assert found == "stale" and {"examples", "options", "scorers", "data_seed"} <= set(why.partition(": ")[2].split(", "))


# --- the compiler's own -------------------------------------------------------------------------------------


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
