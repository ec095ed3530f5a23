"""What stands around a model: a limit of calls at a time, the ledger, the reply cache, the models to fall back on."""

from __future__ import annotations

import time
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal

from ..budget import Budget, Reservation
from ..catalog.prices import Rates
from ..chat import Chunk, Reply, Request
from ..errors import InputError, ModelError, StoreError
from ..store import Journal, LedgerRow, Outcome, Store, StoreWarning
from .protocol import Model
from .waiting import closing

Found = Callable[[Reply, Literal["cache", "journal"]], None]


class Metered:
    """Writes one ledger row for each call, failed ones included."""

    def __init__(self, model: Model, store: Store, *, task: str, prompt: str, stage: str) -> None:
        self._model = model
        self._store = store
        self._task, self._prompt, self._stage = task, prompt, stage

    @property
    def name(self) -> str:
        return self._model.name

    async def reply(self, request: Request) -> Reply:
        started = time.perf_counter()
        try:
            reply = await self._model.reply(request)
        except BaseException:
            self._write(None, time.perf_counter() - started)
            raise
        self._write(reply, reply.latency or time.perf_counter() - started)
        return reply

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        started = time.perf_counter()
        final: Reply | None = None
        try:
            async with closing(self._model.stream(request)) as stream:
                async for chunk in stream:
                    final = chunk.reply or final
                    yield chunk
        finally:
            self._write(final, time.perf_counter() - started)

    def _write(self, reply: Reply | None, latency: float) -> None:
        row = ledger_row(reply, task=self._task, prompt=self._prompt, stage=self._stage, model=self.name, latency=latency, source="model")
        self._store.ledger.append(row)


def ledger_row(reply: Reply | None, *, task: str, prompt: str, stage: str, model: str, latency: float, source: str) -> LedgerRow:
    """The row of one call. A reply that was not paid for now (``source`` not ``model``) costs nothing now."""
    endpoint = model.partition("/")[0]
    paid = reply if source == "model" else None
    return LedgerRow(
        time=time.time(),
        task=task,
        prompt=prompt,
        stage=stage,
        model=model,
        endpoint=endpoint,
        input=paid.usage.input if paid else 0,
        output=paid.usage.output if paid else 0,
        cached=paid.usage.cached if paid else 0,
        written=paid.usage.written if paid else 0,
        reasoning=paid.usage.reasoning if paid else 0,
        cost=paid.cost if paid else (None if reply is None else 0.0),
        latency=latency,
        attempts=paid.attempts if paid else 0,
        source=source,
        status=reply.stop if reply else "failed",
    )


def kept_reply(store: Store, key: str) -> Reply | None:
    """The reply in the cache; a damaged row is refused with a warning, and counts as a miss: a cache must stop nobody."""
    try:
        return store.reply(key)
    except StoreError as error:
        warnings.warn(f"{error.message}; the model is asked again", StoreWarning, stacklevel=2)
        return None


class Cached:
    """Answers from the store where it can; equal requests that miss at the same time make one call.

    ``found`` is told each reply that was not asked for by this call; ``missed`` is a key that was looked up in vain
    just before.
    """

    def __init__(self, model: Model, store: Store, key: Callable[[Request], str], found: Found, missed: str = "") -> None:
        self._model, self._store, self._key, self._found, self._missed = model, store, key, found, missed

    @property
    def name(self) -> str:
        return self._model.name

    async def reply(self, request: Request) -> Reply:
        key = self._key(request)
        made: list[Reply] = []

        async def make() -> Reply:
            reply = await self._model.reply(request)
            made.append(reply)
            self._store.put_reply(key, reply)
            return reply

        reply = await self._store.once(key, lambda: kept_reply(self._store, key), make, looked=key == self._missed)
        if not made:
            self._found(reply, "cache")
        return reply

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        key = self._key(request)
        found = kept_reply(self._store, key)
        if found is not None:
            self._found(found, "cache")
            yield Chunk(found.text)
            yield Chunk("", found)
            return
        async with closing(self._model.stream(request)) as stream:
            async for chunk in stream:
                if chunk.reply is not None:
                    self._store.put_reply(key, chunk.reply)
                yield chunk


class Journaled:
    """Replays what the procedure's journal holds; each new reply is written there before it is handed on."""

    def __init__(self, model: Model, journal: Journal, key: Callable[[Request], str], found: Found) -> None:
        self._model, self._journal, self._key, self._found = model, journal, key, found

    @property
    def name(self) -> str:
        return self._model.name

    async def reply(self, request: Request) -> Reply:
        key = self._key(request)
        outcome = self._journal.entries.get(key)
        if outcome is not None and outcome.reply is not None:
            self._found(outcome.reply, "journal")
            return outcome.reply
        reply = await self._model.reply(request)
        self._journal.append(Outcome(key=key, reply=reply, cost=reply.cost, attempts=reply.attempts))
        return reply

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        reply = await self.reply(request)
        yield Chunk(reply.text)
        yield Chunk("", reply)


class Budgeted:
    """Keeps a procedure within its limits: each call is reserved at its worst before it is made, and settled after.

    A call that failed or was cut settles at its reservation, since nobody knows what the provider counted.
    """

    def __init__(self, model: Model, budget: Budget, rates: Rates | None) -> None:
        self._model, self._budget, self._rates = model, budget, rates

    @property
    def name(self) -> str:
        return self._model.name

    async def reply(self, request: Request) -> Reply:
        held = self._reserve(request)
        try:
            reply = await self._model.reply(request)
        except BaseException:
            self._budget.settle(held, tokens=None, usd=None)
            raise
        self._budget.settle(held, tokens=reply.usage.input + reply.usage.output, usd=reply.cost)
        return reply

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        held = self._reserve(request)
        final: Reply | None = None
        try:
            async with closing(self._model.stream(request)) as stream:
                async for chunk in stream:
                    final = chunk.reply or final
                    yield chunk
        finally:
            used = None if final is None else final.usage.input + final.usage.output
            self._budget.settle(held, tokens=used, usd=final.cost if final else None)

    def _reserve(self, request: Request) -> Reservation:
        size = len(request.system.encode()) + sum(len(turn.text.encode()) for turn in request.turns)
        most = request.parameters.get("max_tokens")
        if not isinstance(most, int):
            raise InputError(f"a call to {self.name} within a budget needs max_tokens")
        return self._budget.reserve(model=self.name, input_bytes=size, max_output=most, rates=self._rates)


class Fallback:
    """Asks the models in turn until one answers. A stream changes model only before its first piece."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = tuple(models)

    @property
    def name(self) -> str:
        return self._models[0].name

    async def reply(self, request: Request) -> Reply:
        failed: ModelError | None = None
        for model in self._models:
            try:
                return await model.reply(aimed(request, model))
            except ModelError as error:
                failed = _because(error, failed)
        assert failed is not None
        raise failed

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        failed: ModelError | None = None
        for model in self._models:
            begun = False
            try:
                async with closing(model.stream(aimed(request, model))) as stream:
                    async for chunk in stream:
                        begun = True
                        yield chunk
            except ModelError as error:
                if begun:
                    raise
                failed = _because(error, failed)
            else:
                return
        assert failed is not None
        raise failed


def aimed(request: Request, model: Model) -> Request:
    """The same request for another model."""
    if request.model == model.name:
        return request
    return Request(
        model=model.name,
        system=request.system,
        turns=request.turns,
        parameters=request.parameters,
        static=request.static,
        schema=request.schema,
        sample=request.sample,
        options=request.options,
    )


def _because(error: ModelError, earlier: ModelError | None) -> ModelError:
    if earlier is None:
        return error
    # A new one: callers that share one call share its error too, and must not all write into it.
    return ModelError(f"{earlier.message}; then {error.message}", hint=error.hint)
