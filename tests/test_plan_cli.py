"""``promptsmith plan lint``: every mistake with its line, exit 1; what is in the plan, exit 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from promptsmith.cli import cli

PLAN = """\
experts:
  - {name: writer, role: a writer of short notes}
steps:
  - {id: fetch, worker: page}
  - {id: note, expert: writer, instructions: Sum it up., needs: [fetch], context: [fetch]}
  - {id: sort, expert: triage, needs: [note], context: [note]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "promptsmith.toml").write_text("[workers.page]\nkind = 'function'\nfunction = 'tools:page'\n")
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "triage.yaml").write_text("task: Sort.\noutput: [a, b]\n")
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


@pytest.fixture
def lint() -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["plan", "lint", *arguments], catch_exceptions=False)

    return run


Lint = Callable[..., Result]


@pytest.mark.usefixtures("folder")
def test_a_sound_plan_is_told_in_a_line(lint: Lint) -> None:
    done = lint("plan.yaml")
    assert (done.exit_code, done.stdout) == (0, "plan.yaml: 3 steps, 1 expert, 0 inputs; result: sort\n")
    told = json.loads(lint("plan.yaml", "--json").stdout)
    assert told == {
        "file": "plan.yaml",
        "problems": [],
        "name": "plan",
        "inputs": [],
        "experts": ["writer"],
        "steps": ["fetch", "note", "sort"],
        "result": ["sort"],
    }


def test_problems_are_told_with_file_and_line(folder: Path, lint: Lint) -> None:
    (folder / "plan.yaml").write_text(
        PLAN.replace("worker: page", "worker: pages, needs: [sort]").replace("context: [note]", "context: [fetch]")
    )
    done = lint("plan.yaml")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "plan.yaml:4: there is no worker 'pages', did you mean 'page'?",
        "plan.yaml:4: the steps need each other in a cycle: fetch -> sort -> note -> fetch, take one of these needs out",
        "plan.yaml:6: the step 'sort' is to see the result of 'fetch' but does not need it, add 'fetch' to its needs",
    ]
    told = json.loads(lint("plan.yaml", "--json").stdout)
    assert [(row["file"], row["line"]) for row in told["problems"]] == [("plan.yaml", 4), ("plan.yaml", 4), ("plan.yaml", 6)]
    assert told["problems"][0]["what"] == "there is no worker 'pages'"


def test_a_models_plan_may_do_less(folder: Path, lint: Lint) -> None:
    (folder / "plan.yaml").write_text(PLAN.replace("worker: page", "worker: 'tools:page'"))
    assert lint("plan.yaml").exit_code == 0
    done = lint("plan.yaml", "--author", "model")
    assert done.exit_code == 1
    assert "plan.yaml:4: the worker 'tools:page' is a function" in done.stdout


def test_a_conductors_answer_is_read_by_its_ending(folder: Path, lint: Lint) -> None:
    (folder / "answer.json").write_text('Here:\n```json\n[{"description": "Sum it up.", "type": "short"}]\n```')
    (folder / "answer.xml").write_text("Here:\n<tasks><task><type>short</type><description>Sum it up.</description></task></tasks>")
    for name in ("answer.json", "answer.xml"):
        done = lint(name)
        assert (done.exit_code, done.stdout) == (0, f"{name}: 1 step, 1 expert, 0 inputs; result: short\n")


def test_without_a_project_no_worker_and_no_task_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lint: Lint) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    done = lint("plan.yaml")
    assert done.exit_code == 1
    assert "no worker is registered here" in done.stdout
    (tmp_path / "free.yaml").write_text("steps: [{id: a, worker: 'm:f'}]")
    assert lint("free.yaml").exit_code == 0


def test_what_is_no_file_is_a_usage_error(folder: Path, lint: Lint) -> None:
    assert lint("none.yaml").exit_code == 2
    assert "there is no file none.yaml" in lint("none.yaml").stderr
    assert "evals is a folder" in lint("evals").stderr
    (folder / "plan.yaml").write_bytes(b"steps: [\xff]")
    done = lint("plan.yaml")
    assert (done.exit_code, done.stdout) == (1, "plan.yaml:1: byte 0xff (at offset 8) is not UTF-8, save the file as UTF-8\n")
