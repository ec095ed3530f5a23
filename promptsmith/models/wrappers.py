"""What stands around a model: a limit of calls at a time, the ledger, the reply cache, the models to fall back on."""

from __future__ import annotations

import asyncio
import copy
import time
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ..budget import Budget, Reservation
from ..catalog.prices import Rates
from ..chat import Chunk, Reply, Request
from ..contract import shorten
from ..errors import InputError, ModelError, ProviderDown, ProviderError, RequestRefused, StoreError
from ..store import LedgerRow, Store, StoreWarning
from .protocol import Model
from .waiting import closing

if TYPE_CHECKING:
    from ..store import Journal

_HERE = "builtin/"
Found = Callable[[Reply, Literal["cache", "journal"]], None]
Lost = Callable[[Request, Reservation, "BaseException | None"], None]
"""Told of a call that failed and may have been counted, and of what was reserved for it."""


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
        except BaseException as error:
            self._write(None, time.perf_counter() - started, error)
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
        except BaseException as error:
            self._write(final, time.perf_counter() - started, error)
            raise
        self._write(final, time.perf_counter() - started)

    def _write(self, reply: Reply | None, latency: float, error: BaseException | None = None) -> None:
        row = ledger_row(
            reply,
            task=self._task,
            prompt=self._prompt,
            stage=self._stage,
            model=self.name,
            latency=latency,
            source="model",
            error=error,
        )
        self._store.ledger.append(row)


def ledger_row(
    reply: Reply | None,
    *,
    task: str,
    prompt: str,
    stage: str,
    model: str,
    latency: float,
    source: str,
    error: BaseException | None = None,
) -> LedgerRow:
    """The row of one call. A reply that was not paid for now (``source`` not ``model``) costs nothing now.

    ``error`` is what a call without a reply ended with.
    """
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
        status=reply.stop if reply else _ending(error),
    )


def _ending(error: BaseException | None) -> str:
    """How a call without a reply ended: the error's name in the tree (its own when it is none of ours), or ``cancelled``."""
    if error is None:
        return ModelError.__name__  # a stream ended without its reply, which the runtime calls so
    if not isinstance(error, Exception):
        return "cancelled"  # by the caller, by the call's timeout, or because the process is ending
    ours = (kind.__name__ for kind in type(error).__mro__ if kind.__module__ == ModelError.__module__)
    return next(ours, type(error).__name__)


def may_have_counted(error: BaseException) -> bool:
    """Whether the provider may have begun with a call that ended so, and told nobody what it took."""
    status = getattr(error, "status", None)
    return getattr(error, "counted", True) and (status is None or status < 300)


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
        """The same in pieces. The one that asks has them as they come, the others the whole answer when it is there."""
        key = self._key(request)
        come: asyncio.Queue[Chunk | None] = asyncio.Queue()
        asking = asyncio.ensure_future(
            self._store.once(
                key,
                lambda: kept_reply(self._store, key),
                lambda: self._asked(request, key, come.put_nowait),
                looked=key == self._missed,
            )
        )
        asking.add_done_callback(lambda _: come.put_nowait(None))
        made = False
        try:
            while (chunk := await come.get()) is not None:
                made = True
                yield chunk
            reply = await asking
        finally:
            asking.cancel()
            await asyncio.wait([asking])
            # Looked at, so that nobody is told of an error that nobody looked at.
            _ = asking.cancelled() or asking.exception()
        if not made:
            self._found(reply, "cache")
            yield Chunk(reply.text)
            yield Chunk("", reply)

    async def _asked(self, request: Request, key: str, take: Callable[[Chunk], None]) -> Reply:
        final: Reply | None = None
        async with closing(self._model.stream(request)) as stream:
            async for chunk in stream:
                if chunk.reply is not None:
                    final = chunk.reply
                    self._store.put_reply(key, final)
                take(chunk)
        if final is None:
            raise ModelError(f"{self.name} ended its stream without a reply")
        return final


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
        from ..store.journal import Outcome  # a run of one input has no journal and need not load them

        self._journal.append(Outcome(key=key, reply=reply, cost=reply.cost, attempts=reply.attempts))
        return reply

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        reply = await self.reply(request)
        yield Chunk(reply.text)
        yield Chunk("", reply)


class Budgeted:
    """Keeps a procedure within its limits: each call is reserved at its worst before it is made, and settled after.

    A call that was cut, or failed after the provider may have begun with it, settles at its reservation, since nobody
    knows what was counted, and ``lost`` is told; one that was turned away costs nothing.
    """

    def __init__(self, model: Model, budget: Budget, rates: Rates | None, lost: Lost | None = None) -> None:
        self._model, self._budget, self._rates, self._lost = model, budget, rates, lost

    @property
    def name(self) -> str:
        return self._model.name

    async def reply(self, request: Request) -> Reply:
        held = self._reserve(request)
        try:
            reply = await self._model.reply(request)
        except BaseException as error:
            self._settle(request, held, None, error)
            raise
        self._settle(request, held, reply, None)
        return reply

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        held = self._reserve(request)
        final: Reply | None = None
        try:
            async with closing(self._model.stream(request)) as stream:
                async for chunk in stream:
                    final = chunk.reply or final
                    yield chunk
        except BaseException as error:
            self._settle(request, held, final, error)
            raise
        self._settle(request, held, final, None)

    def _settle(self, request: Request, held: Reservation, reply: Reply | None, error: BaseException | None) -> None:
        if reply is not None:
            settle(self._budget, held, reply, self.name)
        elif not getattr(error, "counted", True):
            self._budget.release(held)
        else:
            self._budget.settle(held, tokens=None, usd=None)
            if self._lost is not None:
                self._lost(request, held, error)

    def _reserve(self, request: Request) -> Reservation:
        return reserve(self._budget, request, self.name, self._rates)


def reserve(budget: Budget, request: Request, model: str, rates: Rates | None) -> Reservation:
    """Room in ``budget`` for a call at its worst. Raises as :meth:`Budget.reserve`, and :class:`InputError` without max_tokens."""
    # What runs in this process is paid by nobody, and bounded by its prompt.
    most = 0 if model.startswith(_HERE) else request.parameters.get("max_tokens")
    if not isinstance(most, int):
        raise InputError(f"a call to {model} within a budget needs max_tokens")
    return budget.reserve(model=model, input_bytes=request.size(), max_output=most, rates=rates)


def settle(budget: Budget, held: Reservation, reply: Reply, model: str) -> None:
    """Puts what the provider counted for ``reply`` in the place of its reservation."""
    # A provider that counted nothing may have taken as much as was reserved; what runs in this process takes nothing.
    unknown = not reply.usage.counted and not model.startswith(_HERE)
    budget.settle(held, tokens=None if unknown else reply.usage.input + reply.usage.output, usd=reply.cost)


class Later:
    """A model that is made when it is first asked: a fallback whose key is missing stops nobody who does not need it.

    ``fit`` makes a request that was meant for another model one for this.
    """

    def __init__(self, name: str, make: Callable[[], Model], fit: Callable[[Request], Request] = lambda request: request) -> None:
        self.name, self._make, self._fit = name, make, fit

    async def reply(self, request: Request) -> Reply:
        return await self._make().reply(self._fit(request))

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        async with closing(self._make().stream(self._fit(request))) as stream:
            async for chunk in stream:
                yield chunk


class Fallback:
    """Asks the models in turn until one answers. A stream changes model only before its first piece.

    A reply that was refused, or stopped by the provider's filter, is no answer: ``passed`` is told of it, for it was
    paid for, and the next model is asked. One that was cut off at its length limit is: another model has the same limit.
    ``skipped`` is told the name of each model that gave no answer.
    """

    def __init__(
        self,
        models: Sequence[Model],
        passed: Callable[[Reply], None] = lambda reply: None,
        skipped: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._models, self._passed, self._skipped = tuple(models), passed, skipped

    @property
    def name(self) -> str:
        return self._models[0].name

    async def reply(self, request: Request) -> Reply:
        failed: ModelError | None = None
        for model in self._models:
            try:
                return self._answer(await model.reply(aimed(request, model)))
            except ModelError as error:
                self._skipped(model.name)
                failed = _because(error, failed)
        assert failed is not None
        try:
            raise failed
        finally:
            del failed  # its traceback holds this frame

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        failed: ModelError | None = None
        for model in self._models:
            begun = False
            try:
                async with closing(model.stream(aimed(request, model))) as stream:
                    async for chunk in stream:
                        if chunk.reply is not None and not begun:
                            self._answer(chunk.reply)
                        begun = begun or bool(chunk.text)
                        yield chunk
            except ModelError as error:
                if begun:
                    raise
                self._skipped(model.name)
                failed = _because(error, failed)
            else:
                return
        assert failed is not None
        try:
            raise failed
        finally:
            del failed  # its traceback holds this frame

    def _answer(self, reply: Reply) -> Reply:
        if reply.stop in _NO_ANSWER:
            self._passed(reply)
            raise unusable(reply)
        return reply


_NO_ANSWER = frozenset({"refused", "filtered"})
_ELSEWHERE = "another model may answer: serve: {fallback: [...]} in the task, or fallback=[...] in the call"
_UNUSABLE: Mapping[str, tuple[type[ProviderError], str, str]] = {
    "length": (ProviderError, "stopped at its length limit", "give it more room: a larger max_tokens, or a longer limit in the contract"),
    "refused": (RequestRefused, "refused to answer", _ELSEWHERE),
    "filtered": (RequestRefused, "was stopped by its provider's filter", _ELSEWHERE),
    "aborted": (ProviderDown, "broke off", ""),
}


def unusable(reply: Reply) -> ProviderError:
    """Why a reply that is not complete can't be used."""
    kind, why, hint = _UNUSABLE[reply.stop]
    return kind(
        f"{reply.model} {why}; it said {shorten(reply.text)}",
        provider=reply.model.partition("/")[0],
        request_id=reply.request_id,
        retryable=False,
        counted=True,
        hint=hint,
    )


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
    # Another one: callers that share one call share its error too, and must not all write into it.
    both = copy.copy(error)
    both.message = f"{earlier.message}; then {error.message}"
    both.args = (both.message,)
    return both
