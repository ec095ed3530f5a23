"""promptsmith itself as a contender: the simulated models as promptsmith's models, a family as a task, a level as a run."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .contenders import Contender, Outcome, Trial
from .meter import Meter
from .world import Case, World, tokens

if TYPE_CHECKING:
    from promptsmith.chat import Chunk, Reply, Request
    from promptsmith.compiler.search.record import SearchRecord
    from promptsmith.compiler.search.values import Status
    from promptsmith.task import Task

PRODUCTION, META = "simulated/production", "simulated/meta"


class SimulatedModel:
    """A simulated model as :class:`promptsmith.models.protocol.Model`: no latency, no price, usage by the estimate.

    ``function`` is given the system text, the turns as one text and the sample index of the request.
    """

    def __init__(self, name: str, function: Callable[[str, str, int], str]) -> None:
        self.name, self._function = name, function

    async def reply(self, request: Request) -> Reply:
        from promptsmith.chat import Reply, Usage

        user = "\n\n".join(turn.text for turn in request.turns)
        text = self._function(request.system, user, request.sample)
        usage = Usage(input=tokens(request.system) + tokens(user), output=tokens(text))
        return Reply(text=text, model=self.name, usage=usage)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        from promptsmith.chat import Chunk

        reply = await self.reply(request)
        yield Chunk(reply.text)
        yield Chunk("", reply)


def models(meter: Meter) -> dict[str, object]:
    """Both models, as ``Runtime(models=…)`` and the compiler take them; every call is counted by ``meter``."""
    return {PRODUCTION: SimulatedModel(PRODUCTION, meter.answer), META: SimulatedModel(META, meter.complete)}


def task_of(world: World, *, holdout: bool = False) -> Task:
    """A world as a task. The sealed cases are left out unless ``holdout``: no compile needs them."""
    from promptsmith.task import Task

    family = world.family
    output: Any = {"labels": list(family.labels), "json": {"json": family.schema}, "text": "text"}[family.shape]
    return Task(
        family.description,
        name=family.name,
        output=list(family.labels) if family.shape == "labels" else output,
        examples=[_row(world, case) for case in world.visible],
        holdout=[_row(world, case) for case in world.sealed] if holdout else (),
        models={"production": PRODUCTION, "meta": META},
        scorers=["exact"] if family.shape == "text" else (),
    )


def _row(world: World, case: Case) -> dict[str, Any]:
    import json

    return {"input": case.text, "output": json.loads(case.expected) if world.family.shape == "json" else case.expected}


def compiled(level: int, trial: Trial) -> Outcome:
    """What a compile at ``level`` comes to, in a project of its own. Levels below 2 score nothing and claim nothing.

    The budget limits all calls, those of the meta-model included, so at most so many are scored ones. The gain that is claimed is
    the one over the bare description, where every contender begins; none is claimed where it is not measurable.
    """
    import asyncio

    from promptsmith.compiler.build import ProjectCompiler
    from promptsmith.compiler.material import Options
    from promptsmith.config import find_project
    from promptsmith.store.folder import open_store

    best: list[str] = []

    def watch(status: Status) -> None:
        if status.best is not None and best[-1:] != [status.best.system]:
            best.append(status.best.system)
            trial.meter.mark(status.best.system)

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "promptsmith.toml").write_text("", encoding="utf-8")
        project = find_project(folder)
        with open_store(project) as store:
            compiler = ProjectCompiler(project, store, models(trial.meter))
            options = Options(level=level, seed=trial.seed, max_calls=trial.budget if level > 1 else None)
            built = asyncio.run(compiler.build(task_of(trial.world), options, on_status=watch))
    return Outcome(built.prompt.system, _claimed(built.record))


def _claimed(record: SearchRecord | None) -> float | None:
    if record is None:
        return None
    gain = record.over_description
    return gain.estimate if gain is not None and gain.measurable else 0.0


def _absent() -> str:
    if importlib.util.find_spec("msgspec") is None or importlib.util.find_spec("promptsmith") is None:
        return "promptsmith's dependencies are not installed here"
    return ""


CONTENDERS = tuple(Contender(f"promptsmith -O{level}", functools.partial(compiled, level), _absent) for level in range(4))
