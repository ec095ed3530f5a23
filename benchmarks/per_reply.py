"""What keeping costs: CPU of journal, reply cache and ledger per reply, with 64 replies in flight.

The same ``run_many`` over the same inputs on a model that answers at once, with a store and without; all threads
count, the writer's too, and so does writing out what waits at the end. A run over other inputs goes before, uncounted:
it opens the files, and makes the lock files where each stripe has one, which a cache folder pays for once.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from promptsmith import AsyncRuntime
from promptsmith.chat import Chunk, Reply, Request
from promptsmith.config import Project
from promptsmith.errors import StoreError
from promptsmith.runtime import run_many
from promptsmith.store import DiskStore, Journal, Ledger, LedgerRow
from promptsmith.store.trouble import Trouble

from .measure import MICRO, Figure, Measure, interleaved, show
from .projects import promoted

BEFORE = [f"I like product number {number}" for number in range(2000)]
INPUTS = [f"I love product number {number}" for number in range(2000)]
IN_FLIGHT = 64


class Instant:
    """A model that answers the next time the loop comes round."""

    name = "builtin/nearest"

    async def reply(self, request: Request) -> Reply:
        await asyncio.sleep(0)
        return Reply(text="positive", model=request.model, cost=0.0)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk("", await self.reply(request))


class NoLedger(Ledger):
    """Writes nothing."""

    def append(self, row: LedgerRow) -> None:
        pass


class NoStore(DiskStore):
    """Keeps nothing: the runtime goes on without a journal when none can be made."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ledger = NoLedger("", Trouble(""))

    def journal(self, *_: object, **__: object) -> Journal:
        raise StoreError("this store keeps no journal")


def run(project: Project, *, kept: bool) -> Measure:
    """CPU seconds per reply of one run, with a fresh store that keeps everything, or with one that keeps nothing."""

    def measure() -> float:
        with tempfile.TemporaryDirectory() as folder, (DiskStore if kept else NoStore)(Path(folder)) as store:
            runtime = AsyncRuntime(project, store=store, models={Instant.name: Instant()}, cache=kept)
            asyncio.run(run_many(runtime, "sentiment", BEFORE, concurrency=IN_FLIGHT))
            store.flush()
            begin = time.process_time()
            results = asyncio.run(run_many(runtime, "sentiment", INPUTS, concurrency=IN_FLIGHT))
            store.flush()
            taken = time.process_time() - begin
            assert all(result.ok for result in results)
        return taken / len(INPUTS)

    return measure


def figures() -> list[Figure]:
    """The store's share, and the whole run."""
    with promoted() as project:
        kept, bare = interleaved(run(project, kept=True), run(project, kept=False), rounds=7)
    against = "the same run with nothing kept"
    return [
        Figure("journal, cache and ledger per reply, CPU", (kept - bare) * MICRO, "µs", "at most 100 µs"),
        Figure("  the whole run per reply, CPU", kept * MICRO, "µs", "-", bare * MICRO, against),
    ]


if __name__ == "__main__":
    show(figures())
