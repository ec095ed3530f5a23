"""Many inputs through one prompt: bounded, in order, journaled, errors as values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Unpack

import msgspec

from .. import canonical
from ..errors import InputError, PromptsmithError, StoreError
from ..registry.resolve import Resolved
from .core import Call, Core
from .values import Failure, Given, Progress, Result, RunOptions

if TYPE_CHECKING:
    from ..store import Journal
    from ..task import Task

CONCURRENCY = 64
"""How many calls are under way at once unless the caller says otherwise; a model's own limit comes on top."""

Outcome = Result | Failure
OnResult = Callable[[int, Outcome], None]


async def run_many(
    runtime: Core,
    task: str | Task,
    inputs: Sequence[Given],
    *,
    concurrency: int | None = None,
    on_progress: Progress | None = None,
    on_result: OnResult | None = None,
    on_end: Callable[[], None] | None = None,
    target: str = "",
    **options: Unpack[RunOptions],
) -> list[Outcome]:
    """Answers to ``inputs`` in their order; an input that got no answer is a :class:`Failure` in its place.

    Each paid reply is journaled before it is handed on: after a crash the same call asks only for what was in
    flight. ``on_result`` is told each outcome in order, as soon as it and all before it are known; ``on_end`` puts
    them where they belong before the journal is closed, or a crash in between would lose both. ``target`` tells
    two runs over the same inputs apart (a bulk run gives its output path). Equal requests are asked once.
    """
    _check(inputs, concurrency)
    runtime.check(options)
    if options.get("compile_missing"):
        task = await runtime.ensure_compiled(task)
    # Once for all: an alias that moves meanwhile must not give half of them another prompt.
    resolved = runtime.resolve(task, options.get("canary_key"))
    prepared = [_prepared(runtime, resolved, given, options) for given in inputs]
    with _journal(runtime, prepared, target) or nullcontext() as journal:
        run = _Run(runtime, prepared, journal, on_progress, on_result)
        await run.all(concurrency or CONCURRENCY)
        if on_end is not None:
            on_end()
        if journal is not None:
            journal.finish(None)
    return run.in_order()


class _Run:
    """The state of one run: which outcomes are known, and up to where they were told."""

    def __init__(
        self,
        runtime: Core,
        prepared: Sequence[Call | Failure],
        journal: Journal | None,
        on_progress: Progress | None,
        on_result: OnResult | None,
    ) -> None:
        self.journal = journal
        self._runtime, self._prepared = runtime, prepared
        self._on_progress, self._on_result = on_progress, on_result
        self._outcomes: dict[int, Outcome] = {}
        self._told = 0
        self._twins: dict[str, list[int]] = {}
        for number, call in enumerate(prepared):
            if isinstance(call, Call):
                self._twins.setdefault(call.key, []).append(number)

    async def all(self, concurrency: int) -> None:
        """Every outcome, at most ``concurrency`` calls at a time."""
        for number, call in enumerate(self._prepared):
            if isinstance(call, Failure):
                self._known(number, call)
        groups = iter(self._twins.values())
        first = next(iter(self._twins.values()), None)
        if first is not None and len(self._twins) > 1 and self._warms(first[0]):
            # One call writes the provider's prompt cache; begun together, each of the others would write it too.
            await self._one(next(groups))

        async def worker() -> None:
            for numbers in groups:
                await self._one(numbers)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(concurrency, len(self._twins))):
                    workers.create_task(worker())
        except BaseExceptionGroup as group:
            # What ends a run (a full disk, an error in the caller's own callback) is one error, not a tree of them.
            raise group.exceptions[0] from group.exceptions[0].__cause__

    def in_order(self) -> list[Outcome]:
        return [self._outcomes[number] for number in range(len(self._prepared))]

    def _warms(self, number: int) -> bool:
        call = self._prepared[number]
        return isinstance(call, Call) and not call.settled and self._runtime.warms(call)

    async def _one(self, numbers: Sequence[int]) -> None:
        call = self._prepared[numbers[0]]
        assert isinstance(call, Call)
        call.journal = self.journal
        try:
            outcome: Outcome = await self._runtime.perform(call)
        except StoreError:
            # The journal can't be written: handing on what is not on disk would break the promise to resume.
            raise
        except PromptsmithError as error:
            outcome = Failure(error)
        for number in numbers:
            self._known(number, outcome if number == numbers[0] else _again(outcome))

    def _known(self, number: int, outcome: Outcome) -> None:
        self._outcomes[number] = outcome
        if self._on_progress is not None:
            self._on_progress(len(self._outcomes), len(self._prepared))
        while self._on_result is not None and self._told in self._outcomes:
            self._on_result(self._told, self._outcomes[self._told])
            self._told += 1


def _again(outcome: Outcome) -> Outcome:
    """The outcome of an equal request: the same answer, paid once."""
    return msgspec.structs.replace(outcome, source="journal", cost=0.0, calls=0, attempts=0) if isinstance(outcome, Result) else outcome


def _check(inputs: Sequence[Given], concurrency: int | None) -> None:
    if isinstance(inputs, str | Mapping):
        raise InputError("run_many takes a list of inputs, not one", hint="use run for one input")
    if concurrency is not None and concurrency < 1:
        raise InputError(f"concurrency must be at least 1, not {concurrency}")


def _prepared(runtime: Core, resolved: Resolved, given: Given, options: RunOptions) -> Call | Failure:
    try:
        return runtime.prepare(resolved, given, options)
    except PromptsmithError as error:
        return Failure(error)


def _journal(runtime: Core, prepared: Sequence[Call | Failure], target: str) -> Journal | None:
    """The journal of this very run, begun anew unless an earlier one was cut short; none on a read-only cache."""
    keys = [call.key for call in prepared if isinstance(call, Call)]
    identity = canonical.digest(["run_many", target, canonical.sha256("\n".join(keys))])
    try:
        journal = runtime.store.journal("run", identity)
    except StoreError:
        return None
    if journal.finished:
        journal.restart()
    return journal
