"""A plan that is killed goes on where it was: the same answer, and only calls in flight are made twice."""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from promptsmith.budget import Limits
from promptsmith.config import Project, find_project
from promptsmith.orchestration.experts import Experts
from promptsmith.orchestration.run import PlanOptions, run_plan
from promptsmith.orchestration.runnable import run_key
from promptsmith.orchestration.values import Expert, Input, Outcome, Plan, Step
from promptsmith.orchestration.workers import Workers
from promptsmith.store.folder import open_store
from promptsmith.store.journal import Outcome as Row
from promptsmith.store.journal import read_rows

from .provider import KEY, Ask, Provider
from .search_world import IN_FLIGHT, MODEL, config

ROOT = Path(__file__).parent.parent
KILLS = 20
WORKERS = """
[workers.joined]
kind = "function"
function = "tools.py:joined"
[workers.drawn]
kind = "function"
function = "tools.py:drawn"
"""
TOOLS = """
import pathlib, random
HERE = pathlib.Path(__file__).parent

def note(line):
    with open(HERE / "calls", "a") as file:
        file.write(line + "\\n")

def joined(context, arguments):
    note(f"joined {arguments['n']}")
    return {"n": arguments["n"], "of": sorted(context.items())}

def drawn():
    note("drawn")
    return random.random()
"""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


class World:
    """Answers by what stands in the request, in random times, and does something when the n-th different one is answered.

    What it says depends on all that it is shown, so that the answer of a plan depends on every step before it. Each seventh
    step is answered with nothing at first.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._known: set[bytes] = set()
        self.at: dict[int, Callable[[], None]] = {}

    @property
    def different(self) -> int:
        return len(self._known)

    async def __call__(self, ask: Ask) -> str:
        await asyncio.sleep(self._random.random() * 0.03)
        body = msgspec.json.encode(ask.body, order="deterministic")
        if body not in self._known:
            self._known.add(body)
            self.at.pop(len(self._known), lambda: None)()
        shown = f"{ask.system} {ask.text}"
        if "required form" not in shown and int(hashlib.sha256(shown.encode()).hexdigest(), 16) % 7 == 0:
            return ""
        return hashlib.sha256(shown.encode()).hexdigest()[:16]


def the_plan(rows: int = 6, width: int = 20, **fields: Any) -> Plan:
    """Rows of experts, each of which sees two of the row above, with a function in between; and one that sees the last row."""
    steps: list[Step] = []
    for row in range(rows):
        for place in range(width):
            above = tuple(dict.fromkeys(f"s{row - 1}_{(place + other) % width}" for other in (0, 3))) if row else ()
            who = {"worker": "joined", "arguments": {"n": place}} if place == row else {"expert": f"e{place % 3}"}
            context = (*above, *(() if row else ("topic",)))
            steps.append(Step(id=f"s{row}_{place}", instructions=f"Do {row} {place}.", needs=above, context=context, retries=2, **who))
    last = tuple(f"s{rows - 1}_{place}" for place in range(width))
    steps.append(Step(id="end", expert="e0", instructions="Put it together.", needs=last, context=last, retries=2))
    experts = tuple(Expert(name=f"e{n}", role=f"You are expert {n}.", model=MODEL) for n in range(3))
    return Plan(
        **{"name": "resumed", "steps": tuple(steps), "experts": experts, "inputs": (Input(name="topic"),), "result": ("end",), **fields}
    )


def project_in(folder: Path, url: str) -> Project:
    folder.mkdir(parents=True)
    (folder / "promptsmith.toml").write_text(config(url, more=WORKERS))
    (folder / "tools.py").write_text(TOOLS)
    return find_project(folder)


def run(project: Project, plan: Plan, *, limits: Limits | None = None, inputs: dict[str, Any] | None = None, **options: Any) -> Outcome:
    with open_store(project) as store:
        return asyncio.run(
            run_plan(
                plan,
                inputs={"topic": "rivers"} if inputs is None else inputs,
                project=project,
                store=store,
                experts=Experts(project, store),
                workers=Workers(project),
                limits=limits or Limits(),
                options=PlanOptions(**options),
            )
        )


CHILD = """
import sys
from pathlib import Path
import msgspec
from promptsmith.budget import Limits
from promptsmith.config import find_project
from promptsmith.orchestration.values import Plan
from tests.test_plan_resume import run

root, plan, calls = sys.argv[1:]
limits = Limits(calls=int(calls)) if calls else Limits()
outcome = run(find_project(root), msgspec.json.decode(Path(plan).read_bytes(), type=Plan), limits=limits)
sys.stdout.buffer.write(msgspec.json.encode(outcome))
"""


def started(project: Project, plan: Plan, calls: str = "") -> subprocess.Popen[bytes]:
    """A run in a process of its own."""
    file = project.root / "plan.json"
    file.write_bytes(msgspec.json.encode(plan))
    command = [sys.executable, "-c", CHILD, str(project.root), str(file), calls]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(running: subprocess.Popen[bytes]) -> Outcome:
    said, told = running.communicate(timeout=120)
    assert running.returncode == 0, told.decode()
    return msgspec.json.decode(said, type=Outcome)


def journaled(project: Project) -> int:
    """How many replies of models the journals hold."""
    paths = (project.cache / "journals").glob("plan-*.jsonl")
    rows = [row for path in paths for row in read_rows(str(path)) if isinstance(row, Row)]
    return sum(row.reply is not None and not row.reply.model.startswith("worker/") for row in rows)


def quiet(provider: Provider) -> Counter[str]:
    """How often each body came, once nothing is in flight any more."""
    provider.records.wait(lambda _: provider.records.in_flight == 0)
    return provider.records.digests()


def called(project: Project) -> Counter[str]:
    """How often each function was called."""
    return Counter((project.root / "calls").read_text().split("\n")[:-1])


def essence(outcome: Outcome) -> Any:
    """What a run came to, without the times and without who answered."""
    results = [(one.id, one.state, one.text, one.error, one.attempts, one.usage, one.cost, one.sent) for one in outcome.results]
    return outcome.run, outcome.state, outcome.answer, results, outcome.costs


def killed_often(folder: Path, plan: Plan, needed: Counter[str], kills: int, calls: str = "") -> tuple[Outcome, Project, int]:
    """What a run comes to that is killed at points uniform over the calls that are answered; and how many were in flight."""
    world = World(3)
    with Provider(world) as provider:
        project = project_in(folder, provider.base_url_openai)
        in_flight = []
        for point in range(kills):
            came, known = len(provider.records), journaled(project)
            running = started(project, plan, calls)
            world.at[max(1 + round(len(needed) * (point + 0.5) / kills), world.different + 1)] = running.kill
            _, told = running.communicate(timeout=120)
            assert running.returncode == -signal.SIGKILL, told.decode()
            in_flight.append(quiet(provider).total() - came - (journaled(project) - known))
        outcome = ended(started(project, plan, calls))
        seen = quiet(provider)
    assert max(in_flight) <= IN_FLIGHT
    assert sum(in_flight) > kills, "hardly anything was in flight: this shows nothing"
    if not calls:
        assert seen >= needed
        assert 0 < (seen - needed).total() <= sum(in_flight)
    return outcome, project, seen.total()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Counter[str]]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENAI_API_KEY", KEY)
        with Provider(World(1)) as provider:
            project = project_in(tmp_path_factory.mktemp("whole") / "project", provider.base_url_openai)
            outcome = ended(started(project, the_plan()))
            # On a busy machine the provider may have answered one before the sixteenth came.
            assert IN_FLIGHT // 2 < provider.records.max_in_flight <= IN_FLIGHT
            assert (outcome.state, outcome.replayed) == ("done", 0), outcome.why
            assert set(called(project).values()) == {1}
            return outcome, quiet(provider)


def test_kill_9_at_20_points_repeats_only_calls_in_flight_and_comes_to_the_same(
    tmp_path: Path, uninterrupted: tuple[Outcome, Counter[str]]
) -> None:
    whole, needed = uninterrupted
    outcome, project, _ = killed_often(tmp_path / "killed", the_plan(), needed, KILLS)
    assert essence(outcome) == essence(whole)
    assert outcome.replayed > len(needed) // 2
    # A function is called again only when it was under way.
    assert set(called(project)) == {f"joined {n}" for n in range(6)}
    assert called(project).total() <= 6 + KILLS


def test_kill_9_within_a_budget_never_makes_more_calls_than_it_and_those_in_flight(
    tmp_path: Path, uninterrupted: tuple[Outcome, Counter[str]]
) -> None:
    _, needed = uninterrupted
    limit, kills = len(needed) * 2 // 3, 4
    outcome, _, calls = killed_often(tmp_path / "killed", the_plan(), Counter(list(needed)[:limit]), kills, str(limit))
    assert (outcome.state, outcome.cause) == ("stopped", "budget")
    assert any(one.state == "done" for one in outcome.results)
    assert calls <= limit + kills * IN_FLIGHT


def test_ctrl_c_ends_it_at_once_and_it_goes_on(tmp_path: Path, uninterrupted: tuple[Outcome, Counter[str]]) -> None:
    whole, needed = uninterrupted
    world = World(5)
    with Provider(world) as provider:
        project = project_in(tmp_path / "broken-off", provider.base_url_openai)
        running = started(project, the_plan())
        world.at[len(needed) // 2] = lambda: running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=120)
        assert b"KeyboardInterrupt" in told
        assert b"never retrieved" not in told
        assert b"was destroyed" not in told
        assert essence(ended(started(project, the_plan()))) == essence(whole)
        assert (quiet(provider) - needed).total() <= IN_FLIGHT


# --- what is replayed ---------------------------------------------------------------------------------------


TELL = Step(id="tell", expert="teller", needs=("draw",), context=("draw",), instructions="Tell.")
DRAWS = Plan(steps=(Step(id="draw", worker="drawn"), TELL), experts=(Expert(name="teller", role="You tell.", model=MODEL),))


def test_a_function_that_cannot_be_repeated_is_replayed_all_the_same(tmp_path: Path) -> None:
    with Provider(World(1)) as provider:
        project = project_in(tmp_path / "drawn", provider.base_url_openai)
        stopped = run(project, DRAWS, inputs={}, limits=Limits(calls=0))
        assert (stopped.state, stopped.result("draw").state) == ("stopped", "done")
        outcome = run(project, DRAWS, inputs={})
        assert outcome.state == "done"
        assert outcome.result("draw").value == stopped.result("draw").value
        assert (outcome.result("draw").source, outcome.replayed) == ("journal", 1)
        assert called(project) == {"drawn": 1}


def test_a_finished_run_is_not_replayed(tmp_path: Path) -> None:
    with Provider(World(1)) as provider:
        project = project_in(tmp_path / "finished", provider.base_url_openai)
        first = run(project, DRAWS, inputs={})
        second = run(project, DRAWS, inputs={}, fresh=True)
        assert (first.state, second.state, second.replayed) == ("done", "done", 0)
        assert first.run == second.run
        assert called(project) == {"drawn": 2}
        assert first.result("draw").value != second.result("draw").value


def test_a_run_that_failed_and_may_do_better_goes_on(tmp_path: Path) -> None:
    """A worker that may fare better later does not cost the results of the others."""
    plan = Plan(steps=(Step(id="draw", worker="drawn"), Step(id="flaky", worker="flaky", needs=("draw",), retries=0)))
    project = project_in(tmp_path / "failed", "")
    with (project.root / "promptsmith.toml").open("a") as settings:
        settings.write('[workers.flaky]\nkind = "function"\nfunction = "tools.py:flaky"\n')
    project = find_project(project.root)
    flaky = '\ndef flaky():\n    if not (HERE / "up").exists():\n        raise OSError("down")\n    return "up"\n'
    (project.root / "tools.py").write_text(TOOLS + flaky)
    first = run(project, plan, inputs={})
    assert (first.state, first.result("draw").state) == ("failed", "done")
    (project.root / "up").touch()
    second = run(project, plan, inputs={})
    assert (second.state, second.result("draw").value) == ("done", first.result("draw").value)


# --- identity -----------------------------------------------------------------------------------------------


def key_of(plan: Plan, problem: str = "p", inputs: dict[str, Any] | None = None) -> str:
    return run_key(plan, problem, {"topic": "rivers"} if inputs is None else inputs, [None for _ in plan.steps])


def changed(**fields: Any) -> Plan:
    """The plan with its last step changed."""
    plan = the_plan()
    return msgspec.structs.replace(plan, steps=(*plan.steps[:-1], msgspec.structs.replace(plan.steps[-1], **fields)))


def test_names_limits_and_timeouts_do_not_make_another_run() -> None:
    own = key_of(the_plan())
    assert key_of(the_plan(name="other", about="x", analysis="y", limits=Limits(calls=5))) == own
    assert key_of(changed(timeout=5.0, type="report")) == own


@pytest.mark.parametrize(
    "plan",
    [
        changed(instructions="Else."),
        changed(context=()),
        changed(problem=True),
        changed(on_failure="skip"),
        changed(retries=5),
        changed(max_tokens=7),
        changed(arguments={"n": 1}),
        changed(id="fin"),
        the_plan(result=("s0_0",)),
    ],
)
def test_what_decides_makes_another_run(plan: Plan) -> None:
    assert key_of(plan) != key_of(the_plan())


def test_problem_inputs_and_prompts_make_another_run() -> None:
    plan = the_plan()
    keys = {
        key_of(plan),
        key_of(plan, "q"),
        key_of(plan, inputs={"topic": "seas"}),
        key_of(plan, inputs={"topic": ["rivers"]}),
        key_of(plan, inputs={"topic": 1}),
        key_of(plan, inputs={"topic": "1"}),
    }
    assert len(keys) == 6
