"""``promptsmith outdated``: models that go away by a dated catalog, and sources that changed; nothing is called."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from anthropic._data.deprecated_models import DEPRECATED_MODELS
from click.testing import Result
from openai.types.shared import chat_model

from promptsmith import compile_task
from promptsmith.catalog import models
from promptsmith.catalog.models import CURRENT, RETIREMENTS, SUCCESSORS, facts
from promptsmith.compiler.outdated import Outdated, outdated
from promptsmith.config import Project
from promptsmith.promotion import promote
from promptsmith.registry.lock import LockFile

Make = Callable[..., Project]
Invoke = Callable[..., Result]
DAY = date(2026, 11, 21)


def task(model: str, more: str = "") -> str:
    return f"task: Sort it.\noutput: [good, bad]\nmodels: {{production: {model}}}\nexamples: [{{input: fine, output: good}}]\n{more}"


def promoted(project: Project, name: str, alias: str = "production") -> str:
    prompt = compile_task(name, project=project)
    promote(LockFile(project.lock), project, prompt, alias=alias, why="a test", force=True)
    return prompt.id


def found(project: Project, today: date = DAY) -> list[Outdated]:
    rows, errors = outdated(project, LockFile(project.lock), today)
    assert errors == []
    return rows


# --- the catalog and the SDKs -----------------------------------------------------------------------------


def announced() -> dict[str, str]:
    """Full name to day, as the installed SDKs say it themselves."""
    said = re.sub(r"\s+", " ", Path(chat_model.__file__).read_text("utf-8").rpartition('"""Deprecated values:')[2])
    days = {}
    for names, day in re.findall(r'((?:"[^"]+",? ?)+): Announced shutdown date: (\d{4}-\d\d-\d\d)', said):
        days |= {f"openai/{name}": day for name in re.findall(r'"([^"]+)"', names)}
    for name, day in DEPRECATED_MODELS.items():
        days[f"anthropic/{name}"] = datetime.strptime(re.sub(r"(?<=\d)(st|nd|rd|th)", "", day), "%B %d, %Y").date().isoformat()
    return days


def test_what_the_sdks_call_deprecated_is_outdated_on_their_day() -> None:
    """Every model of both lists; an SDK that is newer than the table may have gained some, and agrees about the others."""
    theirs = announced()
    assert len(theirs) > 60 and any(name.startswith("anthropic/") for name in theirs)
    read = dict(re.findall(r"``(openai|anthropic)`` (\d+\.\d+)", models.__doc__ or ""))
    assert set(read) == {"openai", "anthropic"}
    for provider, known in read.items():
        days = {name: day for name, day in theirs.items() if name.startswith(f"{provider}/")}
        if not version(provider).startswith(f"{known}."):
            days = {name: day for name, day in days.items() if name in RETIREMENTS}
        assert {name: facts(name).retires for name in days} == days


def test_successors_are_models_that_can_be_called() -> None:
    assert set(SUCCESSORS) <= set(RETIREMENTS)
    assert set(SUCCESSORS.values()) <= set(CURRENT)
    assert [new for new in SUCCESSORS.values() if new in RETIREMENTS] == []
    assert facts("openai/gpt-4o-mini").successor == "openai/gpt-6-luna"
    assert facts("openai/gpt-5.1").successor is None  # none was seen


# --- what is listed ---------------------------------------------------------------------------------------


def test_a_model_is_retiring_before_its_day_and_retired_from_it_on(make_project: Make) -> None:
    project = make_project({"t": task("openai/gpt-5")})
    prompt = promoted(project, "t")
    (before,) = found(project, date(2026, 12, 10))
    assert before == Outdated(
        task="t",
        alias="production",
        prompt=prompt,
        state="retiring",
        why=f"openai/gpt-5 is shut down on 2026-12-11, in 1 day (table of {models.AS_OF})",
        model="openai/gpt-5",
        serves="production",
        day="2026-12-11",
        successor="openai/gpt-6.1-sol",
    )
    (after,) = found(project, date(2026, 12, 11))
    assert (after.state, after.why.partition(" (")[0]) == ("retired", "openai/gpt-5 was shut down on 2026-12-11")


def test_a_model_that_stays_and_sources_that_did_not_change_are_not_listed(make_project: Make, invoke: Invoke) -> None:
    project = make_project({"t": task("openai/gpt-6-luna"), "never": task("openai/gpt-5")})
    assert "the lock holds no promoted prompt" in invoke("outdated", project=project).stderr
    promoted(project, "t")
    assert found(project) == []
    shown = invoke("outdated", "--strict", project=project)
    assert (shown.stdout, shown.stderr) == ("", "nothing in the lock is outdated\n")
    assert data(invoke("outdated", "--json", project=project)) == {"prompts": [], "errors": []}


def test_each_alias_is_looked_at_by_itself(make_project: Make) -> None:
    """Staging has the newer prompt: what changed since concerns production alone, the old model both."""
    project = make_project({"t": task("openai/gpt-5-mini")})
    old = promoted(project, "t")
    path = project.task_file("t")
    path.write_text(path.read_text().replace("Sort it.", "Sort them."))
    new = promoted(project, "t", "staging")
    rows = [(row.alias, row.prompt, row.state, row.why.partition(" (")[0]) for row in found(project)]
    assert rows == [
        ("production", old, "retiring", "openai/gpt-5-mini is shut down on 2026-12-11, in 20 days"),
        ("production", old, "stale", "changed since it was compiled: task"),
        ("staging", new, "retiring", "openai/gpt-5-mini is shut down on 2026-12-11, in 20 days"),
    ]


def test_models_that_answer_in_its_place_are_looked_at_too(make_project: Make) -> None:
    project = make_project(
        {"t": task("openai/gpt-6-luna", "serve: {fallback: [openai/o1], on_contract_break: escalate, escalate: openai/gpt-4o}\n")}
    )
    promoted(project, "t")
    assert [(row.serves, row.model, row.state) for row in found(project)] == [
        ("fallback", "openai/o1", "retired"),
        ("escalate", "openai/gpt-4o", "retiring"),
    ]


def test_an_owners_endpoint_under_another_name_is_known_and_a_foreign_one_is_not(make_project: Make) -> None:
    """The successor carries the name of the same endpoint."""
    config = (
        '[endpoints.work]\nprotocol = "openai"\nforeign = false\n'
        '[endpoints.local]\nprotocol = "openai"\nbase_url = "http://127.0.0.1:9/v1"\n'
    )
    project = make_project({"a": task("work/gpt-5"), "b": task("local/gpt-5")}, config=config)
    promoted(project, "a")
    promoted(project, "b")
    assert [(row.task, row.model, row.successor) for row in found(project)] == [("a", "work/gpt-5", "work/gpt-6.1-sol")]


def test_a_missing_file_is_listed_and_a_wrong_one_is_an_error(make_project: Make, invoke: Invoke) -> None:
    project = make_project({"gone": task("openai/gpt-6-luna"), "wrong": task("openai/gpt-5")})
    promoted(project, "gone")
    promoted(project, "wrong")
    promoted(project, "wrong", "staging")
    project.task_file("gone").unlink()
    project.task_file("wrong").write_text("task: [\n")
    told = data(invoke("outdated", "--json", project=project, code=2))
    assert [(row["task"], row["alias"], row["state"]) for row in told["prompts"]] == [
        ("gone", "production", "no file"),
        ("wrong", "production", "retiring"),
        ("wrong", "staging", "retiring"),
    ]
    assert len(told["errors"]) == 1 and "wrong.yaml" in told["errors"][0]


def test_a_damaged_entry_is_named_and_the_others_are_listed(make_project: Make, invoke: Invoke) -> None:
    project = make_project({"a": task("openai/gpt-5"), "b": task("openai/gpt-5")})
    promoted(project, "a")
    promoted(project, "b")
    text = project.lock.read_text()
    at = text.index("\n  b:") if "\n  b:" in text else text.index("\nb:")
    project.lock.write_text(text[:at] + text[at:].replace("Sort it.", "Sort nothing.", 1))
    told = data(invoke("outdated", "--json", project=project, code=2))
    states = [(row["task"], row["state"]) for row in told["prompts"]]
    assert states == [("a", "retiring"), ("b", "damaged")]


# --- the command ------------------------------------------------------------------------------------------


def data(result: Result) -> Any:
    return json.loads(result.stdout)


def test_it_is_a_report_and_strict_makes_it_a_check(make_project: Make, invoke: Invoke) -> None:
    project = make_project({"t": task("openai/o3-mini")})
    prompt = promoted(project, "t")
    shown = invoke("outdated", project=project)
    (_, line) = shown.stdout.splitlines()
    for words in ("t@production", prompt[:12], "retired", "2026-10-23", "openai/gpt-5.6-sol", f"table of {models.AS_OF}"):
        assert words in line
    assert "promptsmith retarget TASK --model NEW" in shown.stderr
    assert invoke("outdated", "--strict", project=project, code=1).stdout == shown.stdout
    (row,) = data(invoke("outdated", "--json", "--strict", project=project, code=1))["prompts"]
    assert set(row) == set(Outdated.__struct_fields__)
    assert (row["state"], row["day"], row["successor"]) == ("retired", "2026-10-23", "openai/gpt-5.6-sol")


@pytest.mark.parametrize(("changed", "state"), [({"Sort it.": "Order it."}, "stale"), ({"Sort it.": "Sort it.  # same"}, None)])
def test_sources_are_compared_with_what_the_prompt_was_built_from(
    make_project: Make, changed: Mapping[str, str], state: str | None
) -> None:
    project = make_project({"t": task("openai/gpt-6-luna")})
    promoted(project, "t")
    path = project.task_file("t")
    for old, new in changed.items():
        path.write_text(path.read_text().replace(old, new))
    assert [row.state for row in found(project)] == ([state] if state else [])
