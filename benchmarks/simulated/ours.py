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
    """What a compile at ``level`` comes to, in a project of its own. Levels below 2 score nothing and claim nothing."""
    import asyncio

    from promptsmith.compiler.build import ProjectCompiler
    from promptsmith.compiler.material import Options
    from promptsmith.config import find_project
    from promptsmith.store.folder import open_store

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "promptsmith.toml").write_text("", encoding="utf-8")
        project = find_project(folder)
        with open_store(project) as store:
            compiler = ProjectCompiler(project, store, models(trial.meter))
            options = Options(level=level, seed=trial.seed)
            built = asyncio.run(compiler.build(task_of(trial.world), options))
    return Outcome(built.prompt.system)


def _absent(level: int) -> str:
    if importlib.util.find_spec("msgspec") is None or importlib.util.find_spec("promptsmith") is None:
        return "promptsmith's dependencies are not installed here"
    from promptsmith.compiler.material import BUILT_LEVELS

    if level not in BUILT_LEVELS:
        return f"this version compiles -O{' and -O'.join(map(str, BUILT_LEVELS))} only"
    # Whoever builds -O2 hands its budget and its claimed gain through `compiled`, and takes this line out then.
    return "" if level < 2 else f"-O{level} is built but not yet connected to this benchmark"


CONTENDERS = tuple(
    Contender(f"promptsmith -O{level}", functools.partial(compiled, level), functools.partial(_absent, level)) for level in range(4)
)
