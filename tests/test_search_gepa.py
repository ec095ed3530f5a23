"""``--engine gepa``: the package decides what is tried; budget, holdout, resume and report stay ours."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gepa
import gepa.core.state
import pytest
from click.testing import Result as Ended

from promptsmith.chat import Reply, Request
from promptsmith.compiler.build import Compiled, ProjectCompiler
from promptsmith.compiler.material import Options
from promptsmith.compiler.search.record import SearchRecord
from promptsmith.compiler.template import instructions_of
from promptsmith.config import Project
from promptsmith.errors import ProviderDown
from promptsmith.evals.vocabulary import load_suite_task
from promptsmith.store.folder import open_store

from .provider import KEY, Fault, Provider
from .search_world import META, META_PRICE, MODEL, PRODUCTION_PRICE, World, WorldModel, models, project_in
from .searching import LABELS, Found, a_task, big, compiled, drafted, label_of, letters, rows, small, text_of, writes

Invoke = Callable[..., Ended]
COMPILE = ("compile", "sort", "-O3", "--engine", "gepa", "--yes")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def searched(project: Project, given: dict[str, Any] | None = None, **options: Any) -> Compiled:
    """A compile by gepa in this process; without models of its own it asks the project's endpoints."""
    with open_store(project) as store:
        read = load_suite_task(project.root / "evals" / "sort.yaml", "sort")
        asked = Options(**{"level": 3, "engine": "gepa", "max_calls": 300, **options})
        return asyncio.run(ProjectCompiler(project, store, given).build(read, asked))


def recorded(compiled: Compiled) -> SearchRecord:
    assert compiled.record is not None
    return compiled.record


def found(**more: Any) -> Found:
    given = {"engine": "gepa", "max_calls": 800, "meta": big(one_of_two), **more}
    return compiled(a_task(60), 3, **given)


def one_of_two(system: str, turns: Sequence[str], sample: int) -> str:
    """gepa asks for one edit at a time, each time for another one."""
    return writes(system, turns, sample % 2)


def asked(given: dict[str, Any]) -> int:
    return sum(model.answered for model in given.values())


# --- what it does -------------------------------------------------------------------------------------------


def test_it_finds_better_prompts_and_the_report_is_ours() -> None:
    ended = found()
    record = ended.record
    assert (record.engine, record.level) == ("gepa", 3)
    assert ended.prompt.provenance.search is not None
    assert ended.prompt.provenance.search.engine == "gepa"
    edits = [one for one in record.candidates if one.origin.kind == "reflection"]
    assert len([one for one in edits if one.state in ("scored", "chosen")]) > 5
    chosen = next(one for one in record.candidates if one.state == "chosen")
    assert chosen.origin.kind == "reflection"
    assert chosen.mean is not None
    assert ended.template.mean is not None
    assert chosen.mean > ended.template.mean
    assert all(one.origin.said and one.origin.parents for one in edits)
    assert record.over_template is not None
    assert record.over_template.estimate < chosen.mean - ended.template.mean, "not corrected for having chosen the best of many"
    # Both baselines are scored in full, as with any engine.
    assert {one.origin.kind for one in record.candidates if one.state == "baseline"} == {"template", "description"}
    assert all(set(one.scores) == set(record.dev_cases) for one in record.candidates if one.state == "baseline")


def test_it_says_of_every_candidate_why_it_left() -> None:
    """One that gepa did not accept is no victim of the budget, and one that the budget cut is not called worse."""
    for limit in (130, 160, 200, 300, 800):
        record = found(max_calls=limit, meta=big(sometimes_worse)).record
        edits = [one for one in record.candidates if one.origin.kind == "reflection"]
        for one in edits:
            parent = next(other for other in record.candidates if other.id == one.origin.parents[0])
            if one.why.startswith("no better than its parent on 3 cases"):
                assert one.state == "rejected"
                assert sum(one.practice[name] - parent.practice[name] for name in one.practice) <= 0
            elif one.why:
                assert one.why == "the search ended before it was scored in full"
                assert (one, record.reason) == (edits[-1], "budget")
            else:
                assert set(one.scores) == set(record.dev_cases)
        if limit == 800:
            assert {one.state for one in edits} == {"rejected", "scored", "chosen"}


def sometimes_worse(system: str, turns: Sequence[str], sample: int) -> str:
    return (
        one_of_two(system, turns, sample)
        if sample % 3
        else f"<diagnosis>none</diagnosis><prompt>{drafted((), f'Think {sample} times.')}</prompt>"
    )


def test_a_search_that_begins_with_a_prompt_begins_gepa_with_it() -> None:
    by_hand = f"Sort the note by what it is about, and think of customers. Answer with one of {', '.join(LABELS)}."
    ended = compiled(a_task(60, prompt=by_hand), 3, engine="gepa", max_calls=400, meta=big(one_of_two))
    first = next(one for one in ended.record.candidates if one.origin.kind == "reflection")
    (parent,) = (one for one in ended.record.candidates if one.id == first.origin.parents[0])
    assert instructions_of(parent.system) == by_hand
    assert parent.shown == ()


def test_it_prints_nothing_and_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that compiles goes on printing meanwhile."""
    stdout, seen = sys.stdout, set[bool]()

    def says(system: str, turns: Sequence[str], sample: int) -> str:
        seen.add(sys.stdout is stdout)
        return "<diagnosis>x</diagnosis><prompt>Answer with one label.</prompt>"

    compiled(a_task(60), 3, engine="gepa", max_calls=150, meta=big(says))
    assert seen == {True}
    assert capsys.readouterr().out == ""


# --- budget -------------------------------------------------------------------------------------------------

LIMITS: list[dict[str, float]] = [
    *({"max_calls": calls} for calls in (0, 1, 7, 23, 24, 25, 40, 61, 90, 150, 300)),
    *({"max_calls": 10**6, "max_tokens": tokens} for tokens in (0, 1500, 6000, 20_000)),
    *({"max_calls": 10**6, "max_usd": usd} for usd in (0.0, 1e-9, 0.004, 0.1, 0.3)),
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_no_limit_is_passed_and_the_order_of_arrival_decides_nothing(tmp_path: Path, limits: dict[str, float]) -> None:
    seen = []
    for seed in (1, 2):
        given = models(seed)
        record = recorded(searched(project_in(tmp_path / f"{seed}"), given, **limits))
        assert record.spent.calls == asked(given) <= limits["max_calls"]
        tokens = sum(model.usage.input + model.usage.output for model in given.values())
        assert record.spent.tokens == tokens <= limits.get("max_tokens", 10**9)
        assert record.spent.usd is not None
        assert record.spent.usd == pytest.approx(sum(model.usd for model in given.values()))
        assert record.spent.usd <= limits.get("max_usd", 1e9)
        seen.append((record.chosen, record.digest(), record.reason))
    assert seen[0] == seen[1]
    assert seen[0][2] == "budget" or limits == {"max_calls": 300}


def test_without_a_limit_it_ends(tmp_path: Path) -> None:
    record = recorded(searched(project_in(tmp_path / "project"), models(), max_calls=None))
    assert record.reason == "done"
    assert record.spent.calls > 100


# --- what it must not see -----------------------------------------------------------------------------------


def test_no_request_holds_holdout_rows_and_none_to_the_meta_model_holds_dev_rows() -> None:
    sealed = rows(20, first=500)
    given = a_task(60, holdout=sealed)
    assert given.holdout
    ended = compiled(given, 3, engine="gepa", max_calls=400)
    texts = [text for one in (*ended.small.asked, *ended.big.asked) for text in (one.system, *(turn.text for turn in one.turns))]
    assert not [text for text in texts for n in range(500, 520) if letters(0, n) in text]
    dev = set(ended.record.dev_cases)
    told = "\n".join(turn.text for one in ended.big.asked for turn in one.turns)
    assert ended.big.asked
    numbers = {example.id: n for n in range(60) for example in given.examples if text_of(n) in example.inputs.values()}
    assert len(dev & set(numbers)) > 10
    assert not [numbers[name] for name in dev if letters(0, numbers[name]) in told]
    assert any(letters(0, n) in told for name, n in numbers.items() if name not in dev), "the failures of the compile part are told"
    assert not [name for one in ended.record.candidates for name in one.shown if name in dev]


def test_what_it_is_given_has_no_holdout_and_its_cache_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real optimizer runs; what it was called with is looked at."""
    seen: list[dict[str, Any]] = []
    real = gepa.optimize

    def looked_at(**given: Any) -> Any:
        seen.append(given)
        return real(**given)

    monkeypatch.setattr(gepa, "optimize", looked_at)
    made = a_task(60, holdout=rows(20, first=500))
    ended = compiled(made, 3, engine="gepa", max_calls=200)
    (given,) = seen
    dev = set(ended.record.dev_cases)
    assert {case.id for case in given["valset"]} == dev
    assert {case.id for case in given["trainset"]} == {row.id for row in made.examples} - dev
    assert given["cache_evaluation"] is False
    assert given["run_dir"] is None


def test_it_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = project_in(tmp_path / "project")
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    searched(project, models(), max_calls=120)
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert not [path for path in project.cache.rglob("*") if "gepa" in path.name]


# --- resume -------------------------------------------------------------------------------------------------


class Failing(WorldModel):
    """A model whose provider is down after so many answers, or answers nothing in time."""

    left = 10**9
    seconds = 0.0

    async def reply(self, request: Request) -> Reply:
        if self.answered >= self.left:
            await asyncio.sleep(self.seconds)
            if not self.seconds:
                raise ProviderDown("nothing answers")
        return await super().reply(request)


def failing(left: int, seconds: float = 0.0, name: str = MODEL) -> dict[str, Any]:
    given = models()
    made = Failing(name, PRODUCTION_PRICE if name == MODEL else META_PRICE)
    made.left, made.seconds = left, seconds
    return given | {name: made}


@pytest.mark.parametrize("left", [0, 11, 30, 60, 100, 150])
def test_a_dead_provider_leaves_the_best_so_far_and_the_next_run_comes_to_the_same(tmp_path: Path, left: int) -> None:
    limits = {"max_calls": None}  # failed calls would take from it
    whole = searched(project_in(tmp_path / "whole"), models(5), **limits)
    project = project_in(tmp_path / "project")
    first = searched(project, failing(left), **limits)
    assert recorded(first).reason == "provider"
    assert first.unfinished
    with open_store(project) as store:
        assert store.prompt(first.prompt.id) is not None
        assert store.built(first.prompt.provenance.build.key) is None
    fresh = models(6)
    again = searched(project, fresh, **limits)
    assert recorded(again).replayed == recorded(first).spent.calls
    assert asked(fresh) == recorded(whole).spent.calls - recorded(first).spent.calls
    assert (again.prompt.id, recorded(again).digest()) == (whole.prompt.id, recorded(whole).digest())


@pytest.mark.parametrize("limit", [(), ("--max-calls", "140")], ids=["no limit", "140 calls"])
def test_kill_9_repeats_only_calls_in_flight_and_comes_to_the_same(tmp_path: Path, invoke: Invoke, limit: tuple[str, ...]) -> None:
    with Provider(World(1)) as provider:
        project = project_in(tmp_path / "whole", provider.base_url_openai)
        invoke(*COMPILE, *limit, project=project)
        whole = json.loads(invoke("show", "sort", "--provenance", "--format", "json", project=project).stdout)
        needed = provider.records.digests()
    world = World(2)
    with Provider(world) as provider:
        project = project_in(tmp_path / "killed", provider.base_url_openai)
        for point in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
            command = [sys.executable, "-m", "promptsmith", "--project", str(project.root), *COMPILE, *limit]
            compiling = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            world.at[max(round(point * needed.total()), world.different + 1)] = compiling.kill
            _, told = compiling.communicate(timeout=120)
            assert compiling.returncode == -9, told
        provider.records.wait(lambda _: provider.records.in_flight == 0)
        ended = invoke(*COMPILE, *limit, project=project)
        again = json.loads(invoke("show", "sort", "--provenance", "--format", "json", project=project).stdout)
        seen = provider.records.digests()
    assert again["id"] == whole["id"]
    assert [one["id"] for one in again["record"]["candidates"]] == [one["id"] for one in whole["record"]["candidates"]]
    assert seen >= needed
    assert (seen - needed).total() <= again["record"]["repeated"]
    assert "calls answered by the journal of an earlier run" in ended.stderr


def test_another_task_starts_anew(tmp_path: Path) -> None:
    """gepa's own state would be gone on with, whatever the task."""
    project = project_in(tmp_path / "project")
    assert recorded(searched(project, failing(80))).reason == "provider"
    file = project.root / "evals" / "sort.yaml"
    file.write_text(file.read_text().replace("Sort each message.", "Sort every message."))
    assert recorded(searched(project, models())).replayed == 0


# --- ends ---------------------------------------------------------------------------------------------------


def test_a_dead_meta_model_ends_it(tmp_path: Path) -> None:
    compiled = searched(project_in(tmp_path / "project"), failing(1, name=META))
    assert recorded(compiled).reason == "provider"
    assert recorded(compiled).chosen


def test_time_ends_it(tmp_path: Path) -> None:
    compiled = searched(project_in(tmp_path / "project"), failing(60, 60.0), max_seconds=2.0)
    assert recorded(compiled).reason == "time"
    assert compiled.unfinished


def test_a_meta_model_that_refuses_ends_it_with_a_baseline() -> None:
    ended = found(max_calls=150, meta=big(lambda *_: "I can't help with that."))
    assert next(one.origin.kind for one in ended.record.candidates if one.state == "chosen") in ("template", "description", "draft")
    assert "could not be used" in " ".join(ended.record.notes)


def test_a_perfect_baseline_asks_no_meta_model() -> None:
    ended = compiled(a_task(60), 3, engine="gepa", production=small(lambda _, text: label_of(text)))
    assert ended.record.reason == "perfect"
    assert not ended.big.asked


def test_a_refused_key_is_an_error_and_no_result(tmp_path: Path, invoke: Invoke) -> None:
    """What would stop every call goes through gepa's own catching of exceptions."""
    with Provider(World()) as provider:
        provider.faults.on(range(70, 10_000), Fault("status", status=401))
        project = project_in(tmp_path / "project", provider.base_url_openai)
        ended = invoke(*COMPILE, project=project, code=4)
    assert "Traceback" not in ended.stderr
    assert "401" in ended.stderr or "key" in ended.stderr


def test_a_cancel_cuts_what_is_under_way_and_waits_for_nothing(tmp_path: Path) -> None:
    """gepa runs in a thread that can't be stopped; what it waits for can, and after that it gets nothing more."""

    async def cancelled() -> None:
        given = failing(60, 3600.0)
        with open_store(project) as store:
            read = load_suite_task(project.root / "evals" / "sort.yaml", "sort")
            compiler = ProjectCompiler(project, store, given)
            work = asyncio.ensure_future(compiler.build(read, Options(level=3, engine="gepa", max_calls=300)))
            while given[MODEL].answered < 60:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
        await asyncio.get_running_loop().shutdown_default_executor()
        assert given[MODEL].answered == 60

    project = project_in(tmp_path / "project")
    asyncio.run(cancelled())


# --- not there ----------------------------------------------------------------------------------------------

WITHOUT = """
import importlib.machinery, sys

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "gepa" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Without
from promptsmith.cli import main
main()
"""


def test_without_the_package_it_says_so_before_any_call(tmp_path: Path) -> None:
    with Provider(World()) as provider:
        project = project_in(tmp_path / "project", provider.base_url_openai)
        command = [sys.executable, "-c", WITHOUT, "--project", str(project.root), *COMPILE]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert run.returncode == 2, run.stderr
        assert "the engine gepa is not installed" in run.stderr
        assert "pip install 'promptsmith[gepa]', or leave --engine out" in run.stderr
        assert "Traceback" not in run.stderr
        assert len(provider.records) == 0
