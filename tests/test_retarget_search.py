"""``promptsmith retarget`` with a search: the current prompt takes part, and what did not end is not built on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result as Ended

from promptsmith.compiler.template import instructions_of
from promptsmith.config import Project
from promptsmith.prompt import Prompt
from promptsmith.store.folder import open_store

from .provider import KEY, Fault, Provider
from .searching import LUNA, SOL, endpoint, rows, served, task_file

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
NANO = "openai/gpt-5-nano"
PRICES = "".join(f"[prices.'{name}']\ninput = 1\noutput = 4\n" for name in (LUNA, SOL, NANO))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def compiled(make: Make, invoke: Invoke, provider: Provider) -> tuple[Project, Prompt]:
    """A project whose task was compiled at ``-O1`` for another model, and its prompt."""
    project = make({"notes": task_file()}, {"rows.jsonl": rows(60)}, endpoint(provider) + PRICES)
    invoke("compile", "notes", "-O1", project=project)
    return project, latest(project)


def latest(project: Project) -> Prompt:
    with open_store(project) as store:
        found = store.prompt(store.latest("notes") or "")
    assert found is not None
    return found


def record(project: Project, invoke: Invoke) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoke("show", "notes@latest", "--provenance", "--format", "json", project=project).stdout)["record"]
    return found


@pytest.mark.parametrize("level", ["-O2", "-O3"])
def test_a_search_begins_with_the_current_prompt_and_asks_the_new_model(make_project: Make, invoke: Invoke, level: str) -> None:
    with Provider(served) as provider:
        project, before = compiled(make_project, invoke, provider)
        text = project.task_file("notes").read_text()
        asked = len(provider.records)
        ended = invoke("retarget", "notes", "--model", NANO, level, "--yes", project=project)
        made = provider.records.all()[asked:]
    after, searched = latest(project), record(project, invoke)
    assert (after.model, before.model) == (NANO, LUNA)
    assert after.provenance.build.start == before.id
    assert {one.model for one in made} == {NANO.partition("/")[2], SOL.partition("/")[2]}
    (start,) = (one for one in searched["candidates"] if one["origin"]["kind"] == "start")
    assert instructions_of(start["system"]) == instructions_of(before.system)
    assert sorted(start["scores"]) == sorted(searched["dev_cases"]), "it is a baseline: scored in full"
    chosen = next(one for one in searched["candidates"] if one["id"] == searched["chosen"])
    assert chosen["mean"] >= start["mean"]
    told = [turn["content"] for one in made if one.model in SOL for turn in json.loads(one.body)["messages"]]
    shown = f"\n{instructions_of(before.system).strip()}\n</current_prompt"
    assert any(shown in text for text in told)
    # The edit that makes it stick is offered, and made when asked for.
    assert f"+ models: {{production: {NANO}, meta: {SOL}}}" in ended.stdout
    assert project.task_file("notes").read_text() == text
    again = invoke("retarget", f"notes@{before.id[:12]}", "--model", NANO, level, "--yes", "--write", project=project)
    assert len(provider.records) == asked + len(made), "it was compiled already"
    assert "wrote evals/notes.yaml, line 3" in again.stdout
    assert project.task_file("notes").read_text() == text.replace(LUNA, NANO)
    assert latest(project).id == after.id


def test_a_search_that_did_not_end_writes_nothing_and_says_so(make_project: Make, invoke: Invoke) -> None:
    with Provider(served) as provider:
        project, before = compiled(make_project, invoke, provider)
        text = project.task_file("notes").read_text()
        asked = len(provider.records)
        provider.faults.on(range(asked + 120, 100_000), Fault("status", status=503, retry_after_ms="1"))
        command = ("retarget", f"notes@{before.id[:12]}", "--model", NANO, "-O3", "--yes", "--write")
        ended = invoke(*command, project=project, code=4)
        assert "search ended: provider: " in ended.stderr
        assert f"unfinished (provider), and evals/notes.yaml is as it was: the same command for notes@{before.id[:12]} goes" in ended.stdout
        assert "promptsmith promote" not in ended.stdout
        assert project.task_file("notes").read_text() == text
        assert latest(project).model == NANO, "the best so far is kept"
        told = json.loads(invoke(*command, "--json", project=project, code=4).stdout)
        assert (told["unfinished"], told["written"]) == ("provider", False)
        provider.faults.clear()
        ended = invoke(*command, project=project)
        assert "calls answered by the journal of an earlier run" in ended.stderr
        assert "wrote evals/notes.yaml" in ended.stdout
    assert project.task_file("notes").read_text() == text.replace(LUNA, NANO)


def test_an_engine_stays_with_its_level(make_project: Make, invoke: Invoke) -> None:
    with Provider(served) as provider:
        project, _ = compiled(make_project, invoke, provider)
        invoke("compile", "notes", "-O3", "--engine", "gepa", "--max-calls", "150", "--yes", project=project)
        plan = invoke("retarget", "notes", "--model", NANO, "--dry-run", project=project).stdout
        assert "engine gepa chooses its own calls" in plan
        plan = invoke("retarget", "notes", "--model", NANO, "-O2", "--dry-run", project=project).stdout
        assert "engine gepa" not in plan
        assert "-O2 (asked for)" in plan


def test_a_limit_and_a_question_come_before_any_call(make_project: Make, invoke: Invoke) -> None:
    with Provider(served) as provider:
        project, _ = compiled(make_project, invoke, provider)
        (project.root / "promptsmith.toml").write_text(f"{project.file.read_text()}[compile]\nconfirm_usd = 0\n")
        asked = len(provider.records)
        ended = invoke("retarget", "notes", "--model", NANO, "-O2", project=project, code=2)
        assert "nobody is here to be asked" in ended.stderr
        plan = invoke("retarget", "notes", "--model", NANO, "-O2", "--dry-run", project=project).stdout
        assert "3 baselines" in plan
        assert len(provider.records) == asked
        invoke("retarget", "notes", "--model", NANO, "-O2", "--max-calls", "40", "--yes", project=project)
        assert len(provider.records) == asked + 40
