"""``AsyncRuntime``: the runtime for async callers, for one input and for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from .core import Core
from .many import run_many
from .values import Failure, Given, Progress, Result, RunOptions

if TYPE_CHECKING:
    from ..task import Task


class AsyncRuntime(Core):
    """Serves compiled prompts. Make one and keep it; it may be used from any number of tasks, threads and loops.

    ``project`` is a folder (default: found from the current one upwards). ``models`` adds or replaces models by
    name. ``cache=True`` lets replies come from and go to the reply cache. ``hooks`` are told of each call.
    """

    async def run_many(
        self,
        task: str | Task,
        inputs: Sequence[Given],
        *,
        concurrency: int | None = None,
        on_progress: Progress | None = None,
        **options: Unpack[RunOptions],
    ) -> list[Result | Failure]:
        """Answers to many inputs, in their order; an input that got none is a :class:`Failure` in its place.

        ``on_progress`` is told how many are done, and of how many. After a crash the same call asks only for what
        was in flight. See :func:`run_many`.
        """
        return await run_many(self, task, inputs, concurrency=concurrency, on_progress=on_progress, **options)
