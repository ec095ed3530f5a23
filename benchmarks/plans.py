"""Running a plan: its wall time beside the critical path, and what the engine adds to each step, journal included.

The steps are functions in this process that sleep or do nothing, so that all that is left is the engine. Beside it runs a bare
``asyncio.TaskGroup`` in which each step awaits what it needs, without journal, results or events. LangGraph runs in the same rounds
where ``BENCH_PEERS_PYTHON`` is a Python that has it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from promptsmith.chat import Chunk, Reply, Request
from promptsmith.config import Project, find_project
from promptsmith.orchestration.experts import Experts
from promptsmith.orchestration.run import run_plan
from promptsmith.orchestration.values import Expert, Plan, Step
from promptsmith.orchestration.workers.values import Ask, WorkerResult
from promptsmith.store.folder import open_store

from .measure import MICRO, Figure, Measure, interleaved, show

Needs = Mapping[str, tuple[str, ...]]
MODEL = "here/model"
SECONDS = {"slow": 0.30, "a": 0.05, "b": 0.10, "c": 0.05, "d": 0.10, "e": 0.05, "end": 0.05}
UNEVEN: Needs = {"slow": (), "a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("d",), "end": ("slow", "e")}
MANY, AT_ONCE, PAUSE = 1000, 64, 0.05
CALLED = 10_000
LANGGRAPH = """
import asyncio, json, operator, sys, time
from typing import Annotated, TypedDict
from langgraph.graph import START, StateGraph

needs, seconds = json.loads(sys.argv[1]), json.loads(sys.argv[2])
class State(TypedDict):
    ended: Annotated[list, operator.add]
def node(name):
    async def run(state):
        if seconds[name]:
            await asyncio.sleep(seconds[name])
        return {"ended": [name]}
    return run
graph = StateGraph(State)
for name in needs:
    graph.add_node(name, node(name))
for name, before in needs.items():
    graph.add_edge(before or START, name)
app = graph.compile()
async def main():
    await app.ainvoke({"ended": []})
    begin = time.perf_counter()
    done = await app.ainvoke({"ended": []})
    assert sorted(done["ended"]) == sorted(needs)
    print(time.perf_counter() - begin)
asyncio.run(main())
"""


class Sleeping:
    """Workers that wait as long as their step says."""

    def check(self, name: str, *, allow_functions: bool) -> str:  # noqa: ARG002 - the protocol's name
        return name

    def identity(self, name: str) -> str:
        return name

    async def call(
        self,
        name: str,  # noqa: ARG002
        arguments: Mapping[str, Any],
        *,
        allow_functions: bool,  # noqa: ARG002
        instructions: str = "",  # noqa: ARG002
        problem: str = "",  # noqa: ARG002
        context: Mapping[str, Any] | None = None,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
        ask: Ask | None = None,  # noqa: ARG002
    ) -> WorkerResult:
        if arguments["seconds"]:
            await asyncio.sleep(arguments["seconds"])
        return WorkerResult(text="done", value="done")


class Instant:
    """A model that answers at once."""

    name = MODEL

    async def reply(self, request: Request) -> Reply:
        return Reply(text="done", model=request.model, cost=0.0)

    async def stream(self, request: Request) -> Any:
        yield Chunk("", await self.reply(request))


def working(needs: Needs, seconds: Mapping[str, float]) -> Plan:
    """A plan whose steps are workers."""
    steps = (
        Step(id=name, worker="sleep", needs=before, context=before, arguments={"seconds": seconds[name]}) for name, before in needs.items()
    )
    return Plan(steps=tuple(steps))


def asking(needs: Needs) -> Plan:
    """A plan whose steps are experts."""
    steps = (Step(id=name, expert="writer", instructions=f"Write {name}.", needs=before, context=before) for name, before in needs.items())
    return Plan(steps=tuple(steps), experts=(Expert(name="writer", role="You write.", model=MODEL, level=0),))


@contextmanager
def _project() -> Iterator[Project]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "promptsmith.toml").write_text("", encoding="utf-8")
        yield find_project(folder)


def ours(plan: Plan) -> Measure:
    """Seconds of a run in a new project, whose experts are compiled before."""

    async def run(project: Project) -> float:
        models: dict[str, object] = {MODEL: Instant()}
        with open_store(project) as store:
            experts = Experts(project, store, models)
            for expert in plan.experts:
                await experts.prompt(expert, None, lambda event: None)
            begin = time.perf_counter()
            done = await run_plan(plan, project=project, store=store, experts=experts, workers=Sleeping(), models=models)
            seconds = time.perf_counter() - begin
        if done.state != "done":
            raise RuntimeError(done.why)
        return seconds

    def measure() -> float:
        with _project() as project:
            return asyncio.run(run(project))

    return measure


def bare(needs: Needs, seconds: Mapping[str, float]) -> Measure:
    """Seconds of the same with tasks that await each other."""

    async def run() -> float:
        places = asyncio.Semaphore(AT_ONCE)
        tasks: dict[str, asyncio.Task[None]] = {}

        async def one(name: str, before: Sequence[asyncio.Task[None]]) -> None:
            for task in before:
                await task
            async with places:
                if seconds[name]:
                    await asyncio.sleep(seconds[name])

        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for name, before in needs.items():
                tasks[name] = group.create_task(one(name, [tasks[need] for need in before]))
        return time.perf_counter() - begin

    return _main(run)


def langgraph(needs: Needs, seconds: Mapping[str, float]) -> Measure | None:
    """Seconds of the same in LangGraph, the second time that it runs; ``None`` where it is not installed."""
    python = os.environ.get("BENCH_PEERS_PYTHON")
    if not python or subprocess.run([python, "-c", "import langgraph"], check=False, stderr=subprocess.DEVNULL).returncode:
        return None

    def measure() -> float:
        command = [python, "-c", LANGGRAPH, json.dumps(needs), json.dumps(seconds)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    return measure


def _main(run: Callable[[], Coroutine[Any, Any, float]]) -> Measure:
    return lambda: asyncio.run(run())


def uneven() -> list[Figure]:
    """The graph in which a wave scheduler takes 1.7 times its critical path."""
    critical: dict[str, float] = {}
    for name, before in UNEVEN.items():
        critical[name] = SECONDS[name] + max((critical[need] for need in before), default=0.0)
    longest = max(critical.values())
    peers = {"stdlib TaskGroup": bare(UNEVEN, SECONDS), "LangGraph": langgraph(UNEVEN, SECONDS)}
    return _beside(
        "uneven plan of 7 steps over its critical path", ours(working(UNEVEN, SECONDS)), peers, 1 / longest, "x", "at most 1.05", 9
    )


def many() -> list[Figure]:
    """Steps of 50 ms, 64 at once."""
    needs: Needs = {f"s{number}": () for number in range(MANY)}
    seconds = dict.fromkeys(needs, PAUSE)
    ideal = math.ceil(MANY / AT_ONCE) * PAUSE
    what = f"{MANY:,} steps of 50 ms, {AT_ONCE} at once, over the ideal"
    return _beside(what, ours(working(needs, seconds)), {"stdlib TaskGroup": bare(needs, seconds)}, 1 / ideal, "x", "at most 1.2", 5)


def overhead() -> list[Figure]:
    """Steps that take no time."""
    found: list[Figure] = []
    chain: Needs = {f"s{number}": (f"s{number - 1}",) if number else () for number in range(CALLED)}
    wide: Needs = dict.fromkeys(chain, ())
    nothing = dict.fromkeys(chain, 0.0)
    for what, needs in ((f"engine overhead of a step, {CALLED:,} in a row", chain), ("  beside each other", wide)):
        peers = {"stdlib TaskGroup": bare(needs, nothing)}
        found += _beside(what, ours(working(needs, nothing)), peers, MICRO / CALLED, "us", "at most 100 us", 5)
    few: Needs = {**{f"s{number}": () for number in range(8)}, "end": tuple(f"s{number}" for number in range(8))}
    peers_of_few = {"LangGraph": langgraph(few, dict.fromkeys(few, 0.0))}
    found += _beside("  a fan-out of 8, run in whole", ours(working(few, dict.fromkeys(few, 0.0))), peers_of_few, MICRO, "us", "-", 9)
    shorter = dict(list(wide.items())[:MANY])
    found += _beside("  of an expert's step, with its call", ours(asking(shorter)), {}, MICRO / MANY, "us", "-", 5)
    return found


def _beside(
    what: str, measure: Measure, peers: Mapping[str, Measure | None], factor: float, unit: str, target: str, rounds: int
) -> list[Figure]:
    """One row for each peer that is there; who is absent is named on stderr."""
    there = {name: peer for name, peer in peers.items() if peer is not None}
    for name in peers.keys() - there.keys():
        sys.stderr.write(f"  absent: {name} ({what.strip()}); BENCH_PEERS_PYTHON names a Python that has it\n")
    seconds = interleaved(measure, *there.values(), rounds=rounds)
    own = seconds[0] * factor
    if not there:
        return [Figure(what, own, unit, target)]
    return [Figure(what, own, unit, target, taken * factor, name) for name, taken in zip(there, seconds[1:], strict=True)]


def figures() -> list[Figure]:
    """All of them."""
    return [*uneven(), *many(), *overhead()]


if __name__ == "__main__":
    show(figures())
