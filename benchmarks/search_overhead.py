"""What a search adds to each call that it scores: a whole compile with models in this process, less the time in the models."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from promptsmith.compiler.build import ProjectCompiler
from promptsmith.compiler.material import Options
from promptsmith.compiler.search.values import OnStatus
from promptsmith.config import find_project
from promptsmith.store.folder import open_store

from .measure import MILLI, Figure, Measure, interleaved, show
from .simulated.dev import SUPPORT
from .simulated.meter import Meter
from .simulated.ours import META, PRODUCTION, SimulatedModel, task_of
from .simulated.world import World

TARGET = "at most 0.5 ms"


class Clock:
    """Seconds spent in functions, and how often they were called."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def around(self, function: Callable[..., str]) -> Callable[..., str]:
        def timed(*arguments: Any) -> str:
            begin = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - begin
                self.calls += 1

        return timed


def seconds_of(models: dict[str, object], world: World, options: Options, on_status: OnStatus | None) -> float:
    """Of a compile in a project of its own, with journal, reply cache and ledger, all of it on disk at the end.

    Making the project's folder and its files is not the search's work.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "promptsmith.toml").write_text("", encoding="utf-8")
        project, task = find_project(folder), task_of(world)
        with open_store(project) as store:
            store.check_writable()
            compiler = ProjectCompiler(project, store, models)
            begin = time.perf_counter()
            asyncio.run(compiler.build(task, options, on_status=on_status))
            store.flush()
            return time.perf_counter() - begin


def overhead(on_status: OnStatus | None = None, **options: Any) -> Measure:
    """Seconds of a compile for each scored call, without those that the models took."""
    world = World(SUPPORT)

    def measure() -> float:
        meter = Meter(world)
        production, meta = Clock(), Clock()
        models: dict[str, object] = {
            PRODUCTION: SimulatedModel(PRODUCTION, production.around(meter.answer)),
            META: SimulatedModel(META, meta.around(meter.complete)),
        }
        seconds = seconds_of(models, world, Options(**options), on_status)
        return (seconds - production.seconds - meta.seconds) / production.calls

    return measure


def figures() -> list[Figure]:
    """Both levels without a limit, ``-O3`` within a budget, where calls go in waves, and ``-O3`` when somebody watches."""
    watched = overhead(lambda status: None, level=3)
    seconds = interleaved(overhead(level=2), overhead(level=3), overhead(level=3, max_calls=600), watched, rounds=15)
    whats = ("search overhead of a scored call, -O2", "  -O3", "  -O3 within 600 calls", "  -O3 with a live view, drawing left out")
    return [Figure(what, taken * MILLI, "ms", TARGET) for what, taken in zip(whats, seconds, strict=True)]


if __name__ == "__main__":
    show(figures())
