"""The one place through which every call of a search goes: meta-model, production model and judges.

What a search decides must depend on what its calls came to, and on nothing else: not on which reply came first, and not
on whether a reply was paid for now, earlier (the journal), or by somebody else (the reply cache). So within a budget the
calls of a batch are admitted in waves. When every unfinished job waits for a call and none is under way, the waiting
requests are put in order (position of the job, then order of asking) and reserved at their worst until one does not fit.
Those go out together; once all have ended, each counts at its recorded cost, and the rest is tried again. One that does not
fit with nothing under way is refused. Without limits there is nothing to decide, and each call goes out at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from fractions import Fraction
from typing import Generic, TypeVar

import msgspec

from ...budget import Budget, Limits, Reservation
from ...chat import Chunk, Reply, Request
from ...errors import BudgetError, ModelError
from ...evals.runner import IN_A_ROW
from ...models.directory import Directory
from ...models.directory import Stage as Way
from ...models.wrappers import reserve, settle
from ...runtime.core import answered
from ...store import Journal, Outcome, Store
from .outcomes import Outcomes, passing
from .values import SearchStopped, Spent

T = TypeVar("T")
Ask = Callable[[Request], Awaitable[Reply]]
"""Asks a model. Raises :class:`CallFailed`, and :class:`BudgetError` where the budget has no room for the call."""
Job = Callable[[Ask], Awaitable[T]]

CONCURRENCY = 64
_TURNS = 16
"""Turns of the event loop without any news before a wave goes: what a job asks at once (``asyncio.gather``, nested a few deep) is
asked by then, and a turn is no time: it does not depend on how fast anything is."""


class CallFailed(ModelError):
    """A call that would fail every time (HTTP 400, a filter): an outcome like any other, and replayed like one."""

    counted = False


class Calls:
    """The calls of one search: where replies come from, what they cost, what may still be spent.

    ``journal`` is the search's own, and unfinished. ``limits`` hold for calls, tokens and US dollars as recorded, replayed
    ones included, and once more for what is really spent (the wallet); ``seconds`` from now on.
    """

    def __init__(
        self,
        directory: Directory,
        store: Store,
        journal: Journal,
        limits: Limits,
        *,
        task: str,
        concurrency: int = CONCURRENCY,
        fresh: bool = False,
    ) -> None:
        self._directory, self._journal = directory, journal
        self._seconds, self._until = limits.seconds, time.monotonic() + (limits.seconds or 0.0)
        bounds = msgspec.structs.replace(limits, seconds=None)
        self.budget = Budget(bounds)
        self.outcomes = Outcomes(directory, store, journal, bounds, task=task, fresh=fresh)
        self.places = asyncio.Semaphore(concurrency)
        self._total, self._stages = _Tally(), dict[str, _Tally]()
        self._busy = False
        self.used: dict[str, Outcome] = {}
        """Outcomes that this run has used, by request key. Asked for again, one is at hand and costs nothing more."""
        self.replayed = 0
        """How many of them the journal of an earlier run had."""
        self.repeated = journal.cut_off
        """Calls that were under way when earlier runs were killed, by the marks that they wrote before sending: these may be
        paid twice, no others."""
        self.refused: BudgetError | None = None
        """Why the budget had no room for a call, the last time that it had none."""

    @property
    def spent(self) -> Spent:
        """Recorded cost of every outcome used."""
        return self._total.value()

    @property
    def stages(self) -> dict[str, Spent]:
        """The same by stage, in the order of their first calls."""
        return {name: tally.value() for name, tally in self._stages.items()}

    def check(self, models: Iterable[str]) -> None:
        """Nothing. Raises :class:`UnknownName` for a model that does not exist, :class:`InputError` for a price that a limit needs."""
        for name in models:
            self.budget.check_price(self._directory.check(name), self._directory.rates.find(name))

    async def batch(self, jobs: Sequence[Job[T]], *, stage: str, meta: bool = False) -> list[T | None]:
        """What each job comes to, in its place; ``None`` for one that lets the budget's refusal through.

        A job may ask one call after another, or several at once, and do its own work in between, in threads too; it must
        not wait for another job. A branch of a ``gather`` in it that first works in a thread should ask before the
        others do, or after them. ``meta``: what the jobs ask goes the way of a meta-model's calls, judges excepted.

        Raises :class:`SearchStopped` when the time is up, a provider fails for too long, or the wallet is empty; what
        would stop every call (a refused key, an unknown model or price, a full disk) as it is; and what a job raises.
        """
        if self._busy:
            raise RuntimeError("a search makes one batch of calls at a time")
        self._busy = True
        try:
            async with self.deadline():
                return await _Batch[T](self, stage, "meta" if meta else "run").run(jobs)
        finally:
            self._busy = False

    async def judge(self, request: Request) -> Reply:
        """What a judge answers, asked from inside a job and counted as its call."""
        return await _seat.get().ask(request, "run")

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """What is done within is cut when the search's time is up. Raises :class:`SearchStopped`."""
        if self._seconds is None:
            yield
            return
        late = SearchStopped("time", f"the time limit of {self._seconds:g} seconds is reached")
        left = self._until - time.monotonic()
        if left <= 0:
            raise late
        limit = asyncio.timeout(left)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise late from None

    # --- for batches --------------------------------------------------------------------------------------

    def reserve(self, request: Request) -> Reservation:
        """Room in the budget. Raises :class:`BudgetError`, and :class:`InputError` for an unknown price."""
        return reserve(self.budget, request, request.model, self._directory.rates.find(request.model))

    def settle(self, request: Request, held: Reservation, outcome: Outcome) -> None:
        """Counts an outcome at its recorded cost."""
        if outcome.reply is not None:
            settle(self.budget, held, outcome.reply, request.model)
        elif outcome.counted:
            self.budget.settle(held, tokens=None, usd=None)
        else:
            self.budget.settle(held, tokens=0, usd=0.0)

    def use(self, outcome: Outcome, stage: str) -> None:
        """Notes an outcome that is handed on for the first time."""
        self.used[outcome.key] = outcome
        self._total.add(outcome)
        self._stages.setdefault(stage, _Tally()).add(outcome)

    def replay(self, key: str) -> Outcome | None:
        """What an earlier run came to."""
        outcome = self._journal.entries.get(key)
        self.replayed += outcome is not None
        return outcome


async def complete(ask: Ask, request: Request) -> list[Reply]:
    """The replies it took, the last one final: after a stop at the length limit it is asked again with double the limit."""
    return await answered(_Asking(request.model, ask), request)


class _Asking:
    """An ask as a model."""

    def __init__(self, name: str, ask: Ask) -> None:
        self.name, self._ask = name, ask

    async def reply(self, request: Request) -> Reply:
        return await self._ask(request)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk("", await self.reply(request))


class _Tally:
    """A sum of outcomes that is the same to the last bit in whatever order they came."""

    def __init__(self) -> None:
        self._calls, self._tokens = 0, 0
        self._usd: Fraction | None = Fraction(0)

    def add(self, outcome: Outcome) -> None:
        self._calls += 1
        if outcome.reply is not None:
            self._tokens += outcome.reply.usage.input + outcome.reply.usage.output
        self._usd = None if self._usd is None or outcome.cost is None else self._usd + Fraction(outcome.cost)

    def value(self) -> Spent:
        return Spent(calls=self._calls, tokens=self._tokens, usd=None if self._usd is None else float(self._usd))


class _Seat:
    """One job's place in its batch."""

    __slots__ = ("_asked", "_batch", "_place", "over", "waiting", "way")

    def __init__(self, batch: _Batch[T], place: int, way: Way) -> None:
        self._batch, self._place, self.way = batch, place, way
        self._asked = 0
        self.waiting = 0
        """Calls that it waits for."""
        self.over = False

    async def ask(self, request: Request, way: Way | None = None) -> Reply:
        self._asked += 1
        outcome = await self._batch.ask(self, (self._place, self._asked), request, way or self.way)
        if outcome.reply is None:
            raise CallFailed(outcome.error)
        return outcome.reply

    @property
    def idle(self) -> bool:
        return not self.over and not self.waiting


_seat: ContextVar[_Seat] = ContextVar("promptsmith_search_seat")
"""The job that is running, its child tasks included."""


class _Asked:
    """One request of one job, waiting for its outcome."""

    __slots__ = ("future", "key", "order", "request", "seat", "way")

    def __init__(self, seat: _Seat, order: tuple[int, int], key: str, request: Request, way: Way) -> None:
        self.seat, self.order, self.key, self.request, self.way = seat, order, key, request, way
        self.future: asyncio.Future[Outcome | BudgetError] = asyncio.get_running_loop().create_future()


class _Call:
    """One call under way, and who waits for it."""

    __slots__ = ("asked", "held", "key", "outcome", "request", "way")

    def __init__(self, asked: list[_Asked], held: Reservation | None) -> None:
        first = asked[0]
        self.key, self.request, self.way = first.key, first.request, first.way
        self.asked, self.held = asked, held
        self.outcome: Outcome | None = None


class _Batch(Generic[T]):
    """The state of one batch."""

    def __init__(self, calls: Calls, stage: str, way: Way) -> None:
        self._calls, self._stage, self._way = calls, stage, way
        self._in_waves = calls.budget.limited
        self._waiting: list[_Asked] = []
        self._under_way: dict[str, _Call] = {}
        self._wave: list[_Call] = []
        self._flying = self._failed_in_a_row = 0
        self._progress = False
        """Whether some call was answered since the last time that none was flying."""
        self._again: list[tuple[_Call, SearchStopped]] = []
        """Calls that failed and may be lucky when the others have ended, each with what it says if not."""
        self._open = self._idle = 0
        """Jobs that are not over, and those of them that wait for no call."""
        self._news = 0
        self._stopped: SearchStopped | None = None

    async def run(self, jobs: Sequence[Job[T]]) -> list[T | None]:
        results: list[T | None] = [None] * len(jobs)
        if not jobs:
            return results
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._open = self._idle = len(jobs)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for place, job in enumerate(jobs):
                    self._tasks.create_task(self._run(_Seat(self, place, self._way), place, job, results))
                await self._end
        except BaseExceptionGroup as group:
            # What ends a batch is one error, not a tree of them.
            raise group.exceptions[0] from group.exceptions[0].__cause__
        return results

    async def _run(self, seat: _Seat, place: int, job: Job[T], results: list[T | None]) -> None:
        _seat.set(seat)
        try:
            results[place] = await job(seat.ask)
        except BudgetError:
            pass  # no room for it: it has no result
        except Exception as error:
            self._fail(error)
        finally:
            self._idle -= seat.idle
            seat.over = True
            self._open -= 1
            self._heard()

    async def ask(self, seat: _Seat, order: tuple[int, int], request: Request, way: Way) -> Outcome:
        key = request.key()
        used = self._calls.used.get(key)
        if used is not None:
            return used
        asked = _Asked(seat, order, key, request, way)
        self._waits(seat, 1)
        call = self._under_way.get(key)
        if call is not None:
            call.asked.append(asked)
        elif self._in_waves:
            self._waiting.append(asked)
        else:
            self._send(_Call([asked], None))
        self._heard()
        try:
            outcome = await asked.future
        except asyncio.CancelledError:
            if asked.future.cancelled():
                self._waits(seat, -1)
                self._heard()
            raise
        if isinstance(outcome, BudgetError):
            raise outcome
        return outcome

    # --- waves --------------------------------------------------------------------------------------------

    def _waits(self, seat: _Seat, more: int) -> None:
        self._idle -= seat.idle
        seat.waiting += more
        self._idle += seat.idle

    def _heard(self) -> None:
        """Something has changed: looks whether it is the end, or time for a wave."""
        self._news += 1
        if self._under_way or self._end.done():
            return
        if not self._open and not self._waiting:
            self._end.set_result(None)
        elif self._in_waves and not self._idle:
            self._loop.call_soon(self._still, self._news, _TURNS)

    def _still(self, news: int, turns: int) -> None:
        if news != self._news or self._end.done():
            return
        if turns:
            self._loop.call_soon(self._still, news, turns - 1)
            return
        try:
            self._admit()
        except Exception as error:  # an unknown price: no call can be made
            self._fail(error)
            return
        self._heard()

    def _admit(self) -> None:
        """Reserves what waits, in order, until one does not fit, and sends it."""
        groups: dict[str, list[_Asked]] = {}
        for asked in sorted(self._waiting, key=lambda one: one.order):
            if not asked.future.done():
                groups.setdefault(asked.key, []).append(asked)
        self._waiting = []
        self._wave = []
        left = iter(groups.values())
        for group in left:
            try:
                held = self._calls.reserve(group[0].request)
            except BudgetError as error:
                if self._wave:
                    self._waiting = [*group, *(asked for others in left for asked in others)]
                    break
                self._calls.refused = error
                self._tell(group, error)
            else:
                self._wave.append(_Call(group, held))
        for call in self._wave:
            self._send(call)
        if not self._under_way:
            self._settle()

    def _settle(self) -> None:
        """All calls of the wave have ended: they count at their recorded cost, in their order."""
        for call in self._wave:
            if call.held is not None and call.outcome is not None:
                self._calls.settle(call.request, call.held, call.outcome)
        self._wave = []

    # --- calls under way ----------------------------------------------------------------------------------

    def _send(self, call: _Call) -> None:
        outcome = self._calls.replay(call.key)
        if outcome is not None:
            self._ended(call, outcome)
            return
        self._under_way[call.key] = call
        self._launch(call)

    def _launch(self, call: _Call) -> None:
        self._flying += 1
        self._tasks.create_task(self._fly(call))

    async def _fly(self, call: _Call) -> None:
        calls = self._calls
        try:
            async with calls.places:
                if self._stopped is None:
                    self._ended(call, await calls.outcomes.get(call.key, call.request, call.way))
                    self._failed_in_a_row, self._progress = 0, True
        except BudgetError as error:  # the wallet's: the budget has let the call through
            self._again.append((call, SearchStopped("time", f"what was really spent is at its limit: {error}")))
        except ModelError as error:
            if not passing(error):
                self._fail(error)
                return
            words = "; ".join([error.message, *getattr(error, "__notes__", ())])
            self._again.append((call, SearchStopped("provider", words)))
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= IN_A_ROW:
                self._stopped = self._stopped or self._again[-1][1]  # those under way are paid for: they may end
        except Exception as error:
            self._fail(error)
        finally:
            self._flying -= 1
            if not self._flying:
                self._landed()

    def _ended(self, call: _Call, outcome: Outcome) -> None:
        self._under_way.pop(call.key, None)
        call.outcome = outcome
        self._calls.use(outcome, self._stage)
        self._tell(call.asked, outcome)

    def _tell(self, asked: Sequence[_Asked], outcome: Outcome | BudgetError) -> None:
        for one in asked:
            if not one.future.done():
                one.future.set_result(outcome)
                self._waits(one.seat, -1)

    def _landed(self) -> None:
        """No call is flying. What failed is tried again as long as others get through, and is the end when none does."""
        if self._end.done():
            return
        again, self._again = sorted(self._again, key=lambda one: one[0].asked[0].order), []
        if again and not self._progress:
            self._stopped = self._stopped or again[0][1]
        self._progress = False
        if self._stopped is not None:
            self._fail(self._stopped)
            return
        for call, _ in again:
            self._launch(call)
        if not again:
            self._settle()
            self._heard()

    def _fail(self, error: Exception) -> None:
        if not self._end.done():
            self._end.set_exception(error)
