"""``Runtime``: the same runtime for callers that are not async."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Unpack

from ..config import Project
from ..errors import NotCompiled
from ..models.waiting import closing
from ..registry.resolve import Resolved
from ..store import Store
from .asynchronous import AsyncRuntime
from .core import notify
from .loop import LOOP
from .values import Compiler, Failure, Given, Hook, Policy, Progress, Result, RunOptions, StreamChunk

if TYPE_CHECKING:
    from ..task import Task


class Runtime:
    """Serves compiled prompts from threads. See :class:`AsyncRuntime` for the arguments.

    Works in any thread, in a forked child, and inside a running event loop (which it blocks while it waits).
    """

    def __init__(
        self,
        project: Project | str | PathLike[str] | None = None,
        *,
        store: Store | None = None,
        compiler: Compiler | None = None,
        models: Mapping[str, object] | None = None,
        cache: bool | None = None,
        on_contract_break: Policy | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.asynchronous = AsyncRuntime(
            project, store=store, compiler=compiler, models=models, cache=cache, on_contract_break=on_contract_break, hooks=hooks
        )

    def run(self, task: str | Task, given: Given, **options: Unpack[RunOptions]) -> Result:
        """The answer to one input; as :meth:`AsyncRuntime.run`. A hit in the reply cache is answered in this thread."""
        runtime = self.asynchronous
        try:
            call = runtime.prepare(task, given, options)
        except NotCompiled:
            if not options.get("compile_missing"):
                raise
            return LOOP.wait(runtime.run(task, given, **options))
        if not call.settled:
            return LOOP.wait(runtime.perform(call))
        for hook in runtime.hooks:
            notify(hook, runtime.event(call, call.result, call.error))
        return call.outcome()

    def stream(self, task: str | Task, given: Given, **options: Unpack[RunOptions]) -> Iterator[StreamChunk]:
        """The answer in pieces; as :meth:`AsyncRuntime.stream`."""
        from queue import SimpleQueue  # only streams need it

        arrived: SimpleQueue[StreamChunk | BaseException | None] = SimpleQueue()

        async def pump() -> None:
            # A queue between the threads: a hop for each piece would cost about 100 microseconds.
            try:
                async with closing(self.asynchronous.stream(task, given, **options)) as stream:
                    async for chunk in stream:
                        arrived.put(chunk)
            except BaseException as error:  # handed to the consuming thread, which raises it
                arrived.put(error)
            arrived.put(None)

        future = LOOP.start(pump())
        try:
            while (item := arrived.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            future.cancel()

    def run_many(
        self,
        task: str | Task,
        inputs: Sequence[Given],
        *,
        concurrency: int | None = None,
        on_progress: Progress | None = None,
        **options: Unpack[RunOptions],
    ) -> list[Result | Failure]:
        """Answers to many inputs, in their order; as :meth:`AsyncRuntime.run_many`."""
        return LOOP.wait(self.asynchronous.run_many(task, inputs, concurrency=concurrency, on_progress=on_progress, **options))

    def resolve(self, task: str | Task) -> Resolved:
        """The prompt that a call would be served with, and why that one."""
        return self.asynchronous.resolve(task)

    def close(self) -> None:
        """Writes what is waiting to be written. Needed by nobody: it also happens when the process ends."""
        self.asynchronous.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
