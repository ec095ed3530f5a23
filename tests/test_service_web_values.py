"""What the pages show, gathered from a real project, ledger, figures and canaries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from promptsmith import Runtime, compile_task
from promptsmith.config import Project
from promptsmith.errors import UnknownName
from promptsmith.evals.report import Reports
from promptsmith.orchestration.outcomes import as_json
from promptsmith.orchestration.trace import spent
from promptsmith.pages.frame import Frame
from promptsmith.pages.service import costs as costs_page
from promptsmith.pages.service import overview as overview_page
from promptsmith.pages.service import task as task_page
from promptsmith.promotion import promote
from promptsmith.prompt import Prompt
from promptsmith.registry.canaries import CanaryFile, Outcome, Verdict, new_canary
from promptsmith.registry.lock import LockFile
from promptsmith.service import web_values
from promptsmith.service.activity import Activity
from promptsmith.service.metrics import Called, Metrics
from promptsmith.service.web_values import Sources
from promptsmith.store.ledger import LedgerRow

from .made_outcomes import chain
from .made_reports import worse_report

Make = Callable[..., Project]
FRAME = Frame(nonce="bm9uY2U=", admin=True)


class World:
    """A project with one promoted task, and another prompt of it that is only compiled."""

    def __init__(self, project: Project, runtime: Runtime, folder: Path) -> None:
        self.project, self.store = project, runtime.asynchronous.store
        self.metrics = Metrics(folder / "metrics", 0)
        self.canaries = CanaryFile(project.cache / "canaries")
        self.activity = Activity(project.cache / "ledger.jsonl")
        self.sources = Sources(runtime.asynchronous.resolver, self.activity, self.metrics.prompts, self.canaries)
        first = LockFile(project.lock).entry("sentiment")
        assert first is not None
        self.first = first.prompts()[0]
        file = project.task_file("sentiment")
        file.write_text(file.read_text().replace("customer message", "message of a customer"))
        self.second = compile_task("sentiment", project=project, store=self.store)

    def promote(self, prompt: Prompt, **more: Any) -> None:
        promote(LockFile(self.project.lock), self.project, prompt, **{"alias": "production", "why": "better", "force": True, **more})

    def called(self, prompt: Prompt, **more: Any) -> None:
        given = {"task": "sentiment", "prompt": prompt.id, "alias": "production", "model": prompt.model, "endpoint": "chat", "seconds": 0.2}
        self.metrics.called(Called(**{**given, "cost": 0.25, **more}))

    def paid(self, **more: Any) -> None:
        given = {"time": time.time(), "task": "sentiment", "prompt": "p", "stage": "run", "model": "acme/small", "endpoint": "acme"}
        self.store.ledger.append(LedgerRow(**{**given, "input": 10, "output": 2, "cost": 0.5, "source": "model", "status": "end", **more}))


@pytest.fixture
def world(promoted: Make, tmp_path: Path) -> Iterator[World]:
    project = promoted()
    with Runtime(project) as runtime:
        made = World(project, runtime, tmp_path)
        yield made
        made.activity.close()
        made.metrics.close()


def test_the_overview_says_what_is_in_production_since_when_and_by_whom(world: World) -> None:
    (row,) = web_values.overview(world.sources).tasks
    move = LockFile(world.project.lock).history("sentiment")[-1]
    assert row.production is not None
    assert (row.production.id, row.production.since, row.production.who) == (world.first.id, move.when, move.who)
    assert row.production.forced
    assert (row.figures.calls, row.figures.p50, row.canary, row.trouble) == (0, None, None, "")
    assert "sentiment" in overview_page.html(web_values.overview(world.sources), FRAME)


def test_figures_are_of_all_prompts_and_latencies_of_production(world: World) -> None:
    world.called(world.first, adherent=True, input=10, cached=8)
    world.called(world.first, adherent=False, cost=None)
    world.called(world.second, adherent=True, source="cache", seconds=30.0, cost=0.0)
    world.called(world.second, error="provider", seconds=30.0)
    figures = web_values.overview(world.sources).tasks[0].figures
    assert (figures.calls, figures.errors, figures.replayed, figures.checked, figures.adherent) == (4, 1, 1, 3, 2)
    assert (figures.usd, figures.unpriced, figures.input, figures.cached) == (0.5, 1, 10, 8)
    assert figures.p95 is not None
    assert figures.p95 < 1
    by_id = {version.id: version.figures for version in web_values.task_page(world.sources, "sentiment").versions}
    assert (by_id[world.first.id].calls, by_id[world.second.id].calls) == (2, 2)


def test_the_hours_and_the_costs_are_the_ledgers(world: World) -> None:
    world.paid()
    world.paid(stage="eval", model="acme/large", cost=2.0)
    world.paid(task="other", cost=None)
    hours = web_values.overview(world.sources).tasks[0].hours
    assert len(hours.calls) == 24
    assert sum(hours.calls) == 1, "an eval is no call in production"
    assert 0 < hours.ends - time.time() <= 3600
    world.paid()
    found = web_values.costs(world.sources)
    assert (found.total.calls, found.total.usd, found.total.unpriced, found.total.input) == (4, 3.0, 1, 40)
    assert [(row.name, row.figures.usd) for row in found.tasks] == [("sentiment", 3.0), ("other", 0.0)]
    assert [row.name for row in found.models] == ["acme/large", "acme/small"]
    assert [row.name for row in found.days] == [time.strftime("%Y-%m-%d", time.gmtime())]
    assert "acme/large" in costs_page.html(found, FRAME)


def test_a_task_has_its_versions_receipt_history_and_difference(world: World) -> None:
    world.promote(world.second)
    page = web_values.task_page(world.sources, "sentiment", older=world.first.id, newer=world.second.id)
    assert page.prompt.id == world.second.id
    assert {version.id: version.aliases for version in page.versions} == {world.first.id: (), world.second.id: ("production",)}
    assert [version.origin for version in page.versions] == ["lock", "lock"]
    assert [move.to for move in page.moves] == [world.second.id, world.first.id]
    assert page.before == {"production": world.first.id}
    assert page.compared == (world.first, world.second)
    assert page.receipt is None
    html = task_page.html(page, FRAME)
    assert "message of a customer" in html
    assert "promptsmith rollback sentiment" in html


def test_a_prompt_is_found_by_alias_by_id_and_when_nothing_was_promoted(world: World, make_project: Make) -> None:
    assert web_values.task_page(world.sources, "sentiment", at=world.second.id).prompt == world.second
    assert web_values.task_page(world.sources, "sentiment", at="latest").prompt == world.second
    assert web_values.kept(world.sources, "sentiment").prompt.id == world.first.id
    with pytest.raises(UnknownName, match="unknown task"):
        web_values.task_page(world.sources, "sentimant")
    with pytest.raises(UnknownName):
        web_values.task_page(world.sources, "sentiment", at="nosuch")
    world.project.lock.unlink()
    page = web_values.task_page(world.sources, "sentiment")
    assert (page.prompt.id, page.production, page.moves) == (world.second.id, None, ())
    assert web_values.overview(world.sources).tasks[0].production is None


def test_a_damaged_task_is_shown_from_its_last_good_copy_with_what_is_wrong(world: World) -> None:
    web_values.overview(world.sources)
    text = world.project.lock.read_text()
    world.project.lock.write_text(text.replace(world.first.system.split("\n")[0], "something else entirely"))
    (row,) = web_values.overview(world.sources).tasks
    assert row.production is not None
    assert row.production.id == world.first.id
    assert row.trouble.startswith("promptsmith.lock:")
    assert row.trouble.endswith("the last good copy is served")
    with pytest.warns(UserWarning, match="the last good copy is served"):
        assert web_values.task_page(world.sources, "sentiment").trouble == row.trouble


def test_a_canary_is_shown_with_what_became_of_both_arms(world: World) -> None:
    begun = world.canaries.start(new_canary("sentiment", "production", candidate=world.second.id, incumbent=world.first.id, share=0.1))
    for outcome in (Outcome("candidate", False, False), Outcome("incumbent", True, False), Outcome("incumbent", None, True)):
        world.canaries.append(begun.id, outcome)
    canary = web_values.overview(world.sources).tasks[0].canary
    assert canary is not None
    assert (canary.state, canary.open, canary.share) == ("running", True, 0.1)
    assert (canary.ours.calls, canary.ours.checked, canary.ours.adherent, canary.ours.errors) == (1, 1, 0, 0)
    assert (canary.theirs.calls, canary.theirs.checked, canary.theirs.adherent, canary.theirs.errors) == (2, 1, 1, 1)
    assert canary.says[0].startswith("evidence that the candidate is worse")
    world.canaries.settle(begun.id, Verdict("stopped", "it was worse"))
    page = web_values.task_page(world.sources, "sentiment")
    assert page.canary is not None
    assert (page.canary.state, page.canary.open, page.canary.why) == ("stopped", False, "it was worse")
    assert "it was worse" in task_page.html(page, FRAME)


def test_the_try_it_form_offers_aliases_and_versions(world: World) -> None:
    form = web_values.try_it(world.sources, "sentiment")
    assert (form.refs, form.ref) == (("production", world.second.id), "production")
    assert web_values.try_it(world.sources, "sentiment", at=world.second.id[:8]).ref == world.second.id
    assert web_values.try_it(world.sources, "sentiment", given={"input": "x"}).given == {"input": "x"}


def test_reports_and_runs_are_listed_newest_first(world: World) -> None:
    reports = Reports(world.project.cache)
    for day in (1, 2):
        made = worse_report()
        head = msgspec.structs.replace(made.head, id=f"{day}" * 12, created=f"2026-11-0{day}T00:00:00Z", task=f"task-{day}")
        reports.save(msgspec.structs.replace(made, head=head))
    found = web_values.report_list(world.sources)
    assert [head.task for head in found.heads] == ["task-2", "task-1"]
    assert found.tasks == ("task-1", "task-2")
    assert [head.task for head in web_values.report_list(world.sources, "task-1").heads] == ["task-1"]

    run = chain(3)
    world.store.put_run(run.run, as_json(run))
    (row,) = web_values.trace_list(world.sources).runs
    assert (row.run, row.state, row.steps, row.failed) == (run.run, "done", 3, 0)
    assert row.usd == spent(run) != 0
    (world.project.cache / "plans" / f"{run.run}.json").write_text("{}")
    assert web_values.trace_list(world.sources).runs[0].state == "damaged"


def test_a_long_ledger_is_read_once(world: World) -> None:
    """What a second look reads is what was added; a million rows take no longer than none."""
    for _ in range(200):
        world.paid()
    assert web_values.costs(world.sources).total.calls == 200
    path = world.project.cache / "ledger.jsonl"
    with path.open("r+b") as file:  # what was read stands before the last rows, and is not read again
        file.write(b"?" * 1000)
    world.paid()
    assert web_values.costs(world.sources).total.calls == 201
