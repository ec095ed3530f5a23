"""How long an answer from the reply cache takes through ``AsyncRuntime.run``: from memory, and from disk."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence

import diskcache

from promptsmith import AsyncRuntime
from promptsmith.config import Project
from promptsmith.store import DiskStore

from .measure import MICRO, Figure, Measure, interleaved, show
from .projects import promoted

INPUTS = [f"I love product number {number}" for number in range(500)]


def hits(runtime: AsyncRuntime, inputs: Sequence[str]) -> Measure:
    """Seconds for one hit, the mean over ``inputs``."""

    async def all_of_them() -> float:
        begin = time.perf_counter()
        for text in inputs:
            result = await runtime.run("sentiment", text)
            assert result.source == "cache"
        return (time.perf_counter() - begin) / len(inputs)

    return lambda: asyncio.run(all_of_them())


def lookups(cache: diskcache.Cache, keys: Sequence[str]) -> Measure:
    """Seconds for one ``get``, the mean over ``keys``."""

    def measure() -> float:
        begin = time.perf_counter()
        for key in keys:
            assert cache.get(key) is not None
        return (time.perf_counter() - begin) / len(keys)

    return measure


def figures() -> list[Figure]:
    """A hit from memory and a hit from disk."""
    with promoted() as project, DiskStore(project.cache) as warm, DiskStore(project.cache, memory_entries=0) as cold:
        memory, disk = AsyncRuntime(project, store=warm, cache=True), AsyncRuntime(project, store=cold, cache=True)
        rows = asyncio.run(_fill(project, memory))
        with tempfile.TemporaryDirectory() as folder, diskcache.Cache(folder) as cache:
            for key, value in rows.items():
                cache.set(key, value)
            from_memory, from_disk, peer = interleaved(hits(memory, INPUTS), hits(disk, INPUTS), lookups(cache, list(rows)))
    against = "diskcache.Cache.get of the same bytes"
    return [
        Figure("reply-cache hit, from memory", from_memory * MICRO, "µs", "at most 40 µs", peer * MICRO, against),
        Figure("reply-cache hit, from disk", from_disk * MICRO, "µs", "at most 80 µs", peer * MICRO, against),
    ]


async def _fill(project: Project, runtime: AsyncRuntime) -> dict[str, bytes]:
    """Puts the answers to all inputs into the reply cache; returns its rows as they stand on disk."""
    for text in INPUTS:
        await runtime.run("sentiment", text)
    runtime.store.flush()
    with diskcache.Cache(str(project.cache / "replies")) as cache:
        return {key: cache.get(key) for key in cache.iterkeys()}


if __name__ == "__main__":
    show(figures())
