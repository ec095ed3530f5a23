"""Runs the steps of a graph, each the moment that what it needs has ended: no waves, bounded, in plan order where several are ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import Enum
from graphlib import TopologicalSorter
from heapq import heappop, heappush

CONCURRENCY = 64
"""How many steps are under way at once unless the caller says otherwise; a model's own limit comes on top."""


class Ended(Enum):
    """What the end of a step means for the others."""

    FREES = "its dependants may start"
    BLOCKS = "its dependants may not start, all others may"
    HALTS = "nothing new may start; what is under way ends"


Do = Callable[[str], Awaitable[Ended]]


async def run_graph(needs: Mapping[str, Collection[str]], do: Do, *, concurrency: int = CONCURRENCY) -> bool:
    """Does every step of ``needs`` (ids with the ids that must have ended before); whether none of them halted the rest.

    Ready steps start in the order of ``needs``. It returns when nothing is under way and nothing more may start. Raises
    :class:`graphlib.CycleError`, and what ``do`` raises, after all that was under way has been cancelled and has ended;
    cancelled itself, it leaves no task behind.
    """
    graph = _Graph(needs, do, concurrency)
    try:
        async with asyncio.TaskGroup() as tasks:
            graph.fill(tasks)
    except BaseExceptionGroup as group:
        # What ends a run is one error, not a tree of them.
        raise group.exceptions[0] from group.exceptions[0].__cause__
    return not graph.halted


class _Graph:
    """Which steps are ready and how many are under way."""

    def __init__(self, needs: Mapping[str, Collection[str]], do: Do, concurrency: int) -> None:
        self._ids, self._do = list(needs), do
        self._places = {step: place for place, step in enumerate(self._ids)}
        self._sorter = TopologicalSorter(needs)
        self._sorter.prepare()
        self._ready: list[int] = []
        self._free = concurrency
        self.halted = False

    def fill(self, tasks: asyncio.TaskGroup) -> None:
        """Starts what may start."""
        for step in self._sorter.get_ready():
            heappush(self._ready, self._places[step])
        while self._ready and self._free and not self.halted:
            self._free -= 1
            tasks.create_task(self._one(self._ids[heappop(self._ready)], tasks))

    async def _one(self, step: str, tasks: asyncio.TaskGroup) -> None:
        ended = await self._do(step)
        self._free += 1
        if ended is Ended.FREES:
            self._sorter.done(step)
        elif ended is Ended.HALTS:
            self.halted = True
        self.fill(tasks)
