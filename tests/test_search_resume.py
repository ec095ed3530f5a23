"""A search that is killed goes on where it was: the same prompt and the same record, and only calls in flight are paid twice."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from promptsmith.compiler.build import Compiled, ProjectCompiler
from promptsmith.compiler.material import Options
from promptsmith.compiler.search.kept import record_of
from promptsmith.compiler.search.record import SearchRecord
from promptsmith.config import Project, find_project
from promptsmith.errors import ProviderDown
from promptsmith.evals.vocabulary import load_suite_task
from promptsmith.store.folder import open_store
from promptsmith.store.journal import Outcome, read_rows

from .provider import KEY, Provider
from .search_world import IN_FLIGHT, META, MODEL, World, WorldModel, models, project_in

KILLS = 20
COMPILE = ("compile", "sort", "-O3", "--yes")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def started(project: Project, *options: str) -> subprocess.Popen[str]:
    """A compile in a process of its own."""
    return process("-m", "promptsmith", "--project", str(project.root), *COMPILE, *options)


def process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(compiling: subprocess.Popen[str]) -> str:
    """What it told, after it came to its end."""
    _, told = compiling.communicate(timeout=120)
    assert compiling.returncode == 0, told
    return told


def kill_at(world: World, answer: int, compiling: subprocess.Popen[str]) -> None:
    """Kills it just before this answer goes out: the n-th of those that differ, or the next one if that was before."""
    world.at[max(answer, world.different + 1)] = compiling.kill
    told = compiling.communicate(timeout=120)
    assert compiling.returncode == -9, told


def kept(project: Project) -> tuple[str, SearchRecord]:
    """The id of the prompt that was compiled last, and the record of its search."""
    with open_store(project) as store:
        found = store.prompt(store.latest("sort") or "")
        assert found is not None
        record = record_of(store, found)
    assert record is not None
    return found.id, record


def journaled(project: Project) -> int:
    """How many outcomes the journals hold."""
    paths = (project.cache / "journals").glob("compile-*.jsonl")
    return sum(isinstance(row, Outcome) for path in paths for row in read_rows(str(path)))


def quiet(provider: Provider) -> Counter[str]:
    """How often each body came, once nothing is in flight any more."""
    provider.records.wait(lambda _: provider.records.in_flight == 0)
    return provider.records.digests()


Whole = tuple[str, str, Counter[str]]


def whole(folder: Path, seed: int, *options: str) -> Whole:
    """A run from beginning to end, in an order of arrival that ``seed`` decides: prompt id, digest of the record, requests."""
    with Provider(World(seed)) as provider:
        project = project_in(folder, provider.base_url_openai)
        ended(started(project, *options))
        prompt, record = kept(project)
        # On a busy machine the provider may have answered one before the sixteenth came.
        assert IN_FLIGHT // 2 < provider.records.max_in_flight <= IN_FLIGHT or options
        assert (record.repeated, record.replayed) == (0, 0)
        return prompt, record.digest(), quiet(provider)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What a run that nobody disturbs comes to."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENAI_API_KEY", KEY)
        return whole(tmp_path_factory.mktemp("whole") / "project", 1)


# --- kill -9 ------------------------------------------------------------------------------------------------


def killed_often(folder: Path, needed: Counter[str], kills: int, *options: str) -> tuple[str, SearchRecord]:
    """What one compile comes to that is killed at points uniform over the calls that are answered, 16 in flight."""
    world = World(3)
    with Provider(world) as provider:
        project = project_in(folder, provider.base_url_openai)
        in_flight = []
        for point in range(kills):
            came, known = len(provider.records), journaled(project)
            if world.different == len(needed):
                # What was in flight at a kill is answered all the same: behind the last of them nothing is left to be killed at.
                assert point >= kills - 2
                break
            kill_at(world, 1 + round(len(needed) * (point + 0.5) / kills), started(project, *options))
            in_flight.append(quiet(provider).total() - came - (journaled(project) - known))
        told = ended(started(project, *options))
        seen = quiet(provider)
    prompt, record = kept(project)
    assert max(in_flight) <= IN_FLIGHT
    assert sum(in_flight) > kills, "hardly anything was in flight: this shows nothing"
    assert seen >= needed
    repeated = (seen - needed).total()
    assert 0 < repeated <= sum(in_flight)
    # What is told is what the journal knows of; a call that had not left the process yet may be among them.
    assert repeated <= record.repeated <= kills * IN_FLIGHT
    assert f"{record.repeated} calls under way when it was killed may have been paid twice" in told
    assert f"{record.replayed} calls answered by the journal of an earlier run" in told
    return prompt, record


def test_kill_9_at_20_points_repeats_only_calls_in_flight_and_comes_to_the_same(tmp_path: Path, uninterrupted: Whole) -> None:
    prompt, digest, needed = uninterrupted
    assert whole(tmp_path / "other", 2) == uninterrupted, "the order of arrival decides"
    found, record = killed_often(tmp_path / "killed", needed, KILLS)
    assert (found, record.digest()) == (prompt, digest)


@pytest.mark.parametrize("limit", [("--max-calls", "100"), ("--max-cost", "0.25")], ids=" ".join)
def test_kill_9_within_a_budget_comes_to_the_same(tmp_path: Path, limit: tuple[str, str]) -> None:
    """What was paid before the kill counts as it did then, and only the calls in flight come on top."""
    prompt, digest, needed = whole(tmp_path / "whole", 1, *limit)
    found, record = killed_often(tmp_path / "killed", needed, 4, *limit)
    assert record.reason == "budget"
    assert (found, record.digest()) == (prompt, digest)


KILLED = """
import os, sys
from promptsmith import compile_task
from promptsmith.config import find_project
from promptsmith.store import DiskStore

root, point = sys.argv[1:]

def reach(here):
    if here == point:
        os.kill(os.getpid(), 9)

class Killed(DiskStore):
    def put_search(self, *args):
        reach("before the record")
        super().put_search(*args)
        reach("after the record")

    def put_prompt(self, *args):
        reach("before the prompt")
        super().put_prompt(*args)
        reach("after the prompt")

project = find_project(root)
compile_task("sort", project=project, store=Killed(project.cache), level=3)
"""


def test_kill_9_within_the_commit_repeats_nothing(tmp_path: Path, uninterrupted: Whole) -> None:
    """Between the last call and the end of the journal there is nothing left to be paid, wherever it is killed."""
    prompt, digest, needed = uninterrupted
    world = World(5)
    with Provider(world) as provider:
        first = project_in(tmp_path / "first", provider.base_url_openai)
        kill_at(world, len(needed), started(first))
        in_flight = quiet(provider).total() - journaled(first)
        assert 1 <= in_flight <= IN_FLIGHT
        for point in ("before the record", "after the record", "before the prompt", "after the prompt"):
            killed = process("-c", KILLED, str(first.root), point)
            _, told = killed.communicate(timeout=120)
            assert killed.returncode == -9, told
            # The last call is repeated once, by whoever is the first to come so far.
            assert quiet(provider) >= needed
            assert (quiet(provider) - needed).total() <= in_flight
            copy = find_project(shutil.copytree(first.root, first.root.parent / point.replace(" ", "-")))
            ended(started(copy))
            found, record = kept(copy)
            assert (found, record.digest()) == (prompt, digest)
            assert record.repeated <= in_flight
        asked = len(provider.records)
        assert "search ended" not in ended(started(first)), "the prompt was kept: there is nothing to search for"
        assert len(provider.records) == asked


# --- what is another search ---------------------------------------------------------------------------------


class Dying(WorldModel):
    """A model whose provider is down after so many answers."""

    left = 60

    async def reply(self, request: Any) -> Any:
        if self.answered >= self.left:
            raise ProviderDown("nothing answers")
        return await super().reply(request)


def searched(project: Project, given: Mapping[str, Any], **options: Any) -> Compiled:
    """A compile in this process."""
    with open_store(project) as store:
        compiler = ProjectCompiler(project, store, given)
        read = load_suite_task(project.root / "evals" / "sort.yaml", "sort")
        return asyncio.run(compiler.build(read, Options(**{"level": 3, **options})))


def recorded(compiled: Compiled) -> SearchRecord:
    assert compiled.record is not None
    return compiled.record


EDITS: dict[str, Callable[[str], str]] = {
    "the description": lambda text: text.replace("Sort each message.", "Sort every message."),
    "an example": lambda text: text.replace(" please look}", " please see}", 1).replace(' please look"', ' please see"', 1),
    "a parameter": lambda text: text.replace(f"production: {MODEL}", f"production: {{use: {MODEL}, max_tokens: 300}}"),
    "a constraint": lambda text: text.replace("examples:", "constraints: [Be quick.]\nexamples:"),
    "a scorer": lambda text: text.replace("examples:", "scorers: [fuzzy]\nexamples:"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "the seed": {"seed": 7},
    "candidates": {"candidates": 3},
    "the preference": {"prefer": "cost"},
    "the level": {"level": 2},
    "the budget": {"max_calls": 320},
    "the production model": {"model": "openai/gpt-5-nano"},
    "the meta-model": {"meta_model": "openai/gpt-6-astra"},
}


def worlds(kind: type[WorldModel] = WorldModel) -> dict[str, Any]:
    price = (1.0, 4.0)
    return {name: kind(name, price) for name in (MODEL, "openai/gpt-5-nano")} | {
        name: WorldModel(name, price) for name in (META, "openai/gpt-6-astra")
    }


@pytest.mark.parametrize("what", [*EDITS, *OPTIONS])
def test_a_changed_task_model_seed_or_option_starts_anew(tmp_path: Path, what: str) -> None:
    """Nothing of the unfinished search is replayed, and the result is that of a project that never had it."""
    results = []
    for name in ("fresh", "interrupted"):
        project = project_in(tmp_path / name)
        if name == "interrupted":
            assert recorded(searched(project, worlds(Dying))).reason == "provider"
            assert journaled(project) > 50
        file = project.root / "evals" / "sort.yaml"
        text = EDITS.get(what, str)(file.read_text())
        assert what not in EDITS or text != file.read_text()
        file.write_text(text)
        compiled = searched(project, worlds(), **OPTIONS.get(what, {}))
        record = recorded(compiled)
        assert (record.replayed, record.repeated) == (0, 0)
        results.append((compiled.prompt.id, record.digest()))
    assert results[0] == results[1]


def test_what_decides_nothing_goes_on(tmp_path: Path) -> None:
    """A comment, another limit of time: the journal of the interrupted search is replayed."""
    whole_run = searched(project_in(tmp_path / "whole"), models(1))
    project = project_in(tmp_path / "interrupted")
    assert recorded(searched(project, worlds(Dying))).reason == "provider"
    known = journaled(project)
    file = project.root / "evals" / "sort.yaml"
    file.write_text("# a comment\n" + file.read_text())
    given = models(2)
    compiled = searched(project, given, max_seconds=3600.0)
    assert recorded(compiled).replayed == known
    assert compiled.prompt.id == whole_run.prompt.id
    assert given[MODEL].answered + given[META].answered == recorded(compiled).spent.calls - known
