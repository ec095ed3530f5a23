"""What one model is asked at most: calls at a time, requests and tokens a minute, and less when it answers 429.

How many calls at a time a provider bears is mostly not known, so it is found out: half as many after a 429, but not
fewer than were under way when the first call was refused; one more per round trip while all goes well; and where a
number is known to be too high, only a careful try now and then. (Plain halving and adding, as in TCP, was tried against a
provider that bears 20: it swings between 10 and 21.)
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable

from ..catalog.tokens import estimate
from ..chat import Chunk, Reply, Request, Usage
from ..config import Limit
from ..errors import ModelError, PromptsmithError, RateLimited, TimedOut
from .protocol import Model
from .waiting import Late, Span, closing, pieces, within

_MINUTE = 60.0
_BUILTIN = "builtin/"
_FIRST_HOLD = 1.0
_LONGEST_HOLD = 30.0
_LONGEST_PAUSE = 60.0
_OUTPUT_GUESS = 256


class Bucket:
    """At most ``per_minute`` in any sixty seconds, a twentieth of it at once. Times are given by the caller."""

    def __init__(self, per_minute: float) -> None:
        self._capacity = max(1.0, per_minute / 20)
        # What may go at once is taken off, so that no minute, wherever it begins, holds more.
        self._rate = (per_minute - self._capacity + 1.0) / _MINUTE if per_minute >= 1.0 else per_minute / _MINUTE
        self._level = self._capacity
        self._at = 0.0

    def delay(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` may be taken; more than fits at once is let through when nothing else is missing."""
        self._fill(now)
        missing = min(amount, self._capacity) - self._level
        return missing / self._rate if missing > 1e-9 else 0.0

    def take(self, amount: float, now: float) -> None:
        """Takes ``amount``, going below zero if need be; a negative one gives back."""
        self._fill(now)
        self._level = min(self._capacity, self._level - amount)

    def _fill(self, now: float) -> None:
        if now > self._at:
            if self._at:
                self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
            self._at = now


class Window:
    """How many calls at a time, found out from what the provider refuses. Times are given by the caller."""

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._size = float(most)
        self._edge = float("inf")
        """The smallest number under way at which a call was refused lately."""
        self._cut_at = float("-inf")
        self._floor = 1.0
        self._hold = _FIRST_HOLD
        self._try_at = float("-inf")

    @property
    def size(self) -> int:
        return int(self._size)

    def accepted(self, began: float, under_way: int, now: float) -> None:
        """A call went well that was one of ``under_way`` when it began."""
        # Calls that began before the last cut, or with room to spare, say nothing about a larger number.
        if self._size >= self._most or began <= self._cut_at or under_way < self.size:
            return
        if under_way >= self._edge:
            self._edge, self._hold = float("inf"), _FIRST_HOLD  # it is not too high any more
        grown = min(self._most, self._size + 1.0 / self._size)
        if grown >= self._edge:
            if now < self._try_at:
                return
            grown = min(self._most, self._edge)
            self._try_at = now + self._hold
        self._size = grown

    def refused(self, began: float, under_way: int, now: float) -> None:
        """A call was refused that was one of ``under_way`` when it began."""
        if began > self._cut_at:
            self._cut_at = now
            self._floor = max(1.0, self._size / 2)
            self._edge = float("inf")
            self._hold = min(_LONGEST_HOLD, 2 * self._hold)
        self._edge = min(self._edge, float(max(2, under_way)))
        # Until the calls of the same round trip are back, they may bring it down to the half of what it was, no further.
        self._size = max(self._floor, min(self._size, self._edge - 1.0))
        self._try_at = now + self._hold

    def paused(self) -> None:
        """The provider said when it will take calls again: what was found out before was not about calls at a time."""
        self._edge, self._hold, self._try_at = float("inf"), _FIRST_HOLD, float("-inf")


class Place:
    """One call's place among those under way."""

    __slots__ = ("began", "tokens", "under_way")

    def __init__(self, began: float, under_way: int, tokens: float) -> None:
        self.began, self.under_way, self.tokens = began, under_way, tokens


class _Waiter:
    __slots__ = ("_future", "_loop", "place", "timed", "tokens")

    def __init__(self, tokens: float) -> None:
        self.tokens = tokens
        self.place: Place | None = None
        self.timed = False
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    async def wait(self) -> None:
        await self._future

    def wake(self) -> bool:
        """Whether the waiter's loop is still there to hear it."""
        return self._soon(self._woken)

    def call_later(self, delay: float, what: Callable[[_Waiter], None]) -> bool:
        """Whether the waiter's loop is still there to call ``what``."""
        return self._soon(self._loop.call_later, delay, what, self)

    def _woken(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def _soon(self, what: Callable[..., object], *given: object) -> bool:
        try:
            if _running_loop() is self._loop:
                self._loop.call_soon(what, *given)  # a twentieth of the other's cost, which wakes the loop through a pipe
            else:
                self._loop.call_soon_threadsafe(what, *given)
        except RuntimeError:
            return False
        return True


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Gate:
    """The limits of one model, for all tasks, event loops and threads; first come, first served."""

    def __init__(self, limit: Limit, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._window = Window(limit.concurrency)
        self._requests = Bucket(limit.rpm) if limit.rpm is not None else None
        self._tokens = Bucket(limit.tpm) if limit.tpm is not None else None
        self._forget()
        _GATES.add(self)

    def _forget(self) -> None:
        self._guard = threading.Lock()
        self._under_way = 0
        self._waiting: deque[_Waiter] = deque()
        self._closed_until = float("-inf")

    @property
    def counts_tokens(self) -> bool:
        return self._tokens is not None

    @property
    def under_way(self) -> int:
        return self._under_way

    @property
    def size(self) -> int:
        """How many calls may be under way at the moment."""
        return self._window.size

    async def enter(self, tokens: float) -> Place:
        """A place for a call of about ``tokens``; to be given back with one of the methods below."""
        place = self.at_once(tokens)
        if place is not None:
            return place
        with self._guard:
            waiter = _Waiter(tokens)
            self._waiting.append(waiter)
            self._pump()
        try:
            await waiter.wait()
        except BaseException as error:
            error.__dict__["counted"] = False  # nothing was asked of the provider
            # Cancelled: the place, if it was given just now, is for the next one.
            with self._guard:
                if waiter.place is None:
                    self._waiting.remove(waiter)
                    self._pump()
                else:
                    self._free(waiter.place, 0.0)
            raise
        assert waiter.place is not None
        return waiter.place

    async def enter_within(self, span: Span, tokens: float) -> Place:
        """As :meth:`enter`, at the cost of ``span`` if that counts the wait, else of nobody. Raises :class:`Late`."""
        place = self.at_once(tokens)
        if place is not None:
            return place
        if span.queued:
            return await self._entered_within(span.left(), tokens)
        came = span.now()
        try:
            return await self.enter(tokens)
        finally:
            span.extend(span.now() - came)

    async def _entered_within(self, seconds: float | None, tokens: float) -> Place:
        """A wait that can't end in time is not begun: a fallback may answer now."""
        closed = self._closed_until - self._now()
        if seconds is not None and closed >= seconds:
            raise Late(begun=False, closed=closed)
        try:
            return await within(seconds, self.enter(tokens))
        except Late:
            raise Late(begun=False, closed=max(0.0, self._closed_until - self._now())) from None

    def at_once(self, tokens: float) -> Place | None:
        """A place for which nobody has to wait, if there is one."""
        with self._guard:
            return self._taken(tokens) if not self._waiting and not self._delay(tokens) else None

    def accepted(self, place: Place, used: Usage) -> None:
        """The call is over and went well."""
        with self._guard:
            self._window.accepted(place.began, place.under_way, self._now())
            self._free(place, float(used.input + used.output) or place.tokens)

    def told(self, tokens: float, used: Usage) -> None:
        """What a call that was let in for ``tokens`` has taken, where that is known only after its place was given back."""
        if self._tokens is None or not used.counted:
            return
        with self._guard:
            self._tokens.take(float(used.input + used.output) - tokens, self._now())
            self._pump()

    def refused(self, place: Place, retry_after: float | None) -> None:
        """The provider wanted fewer calls."""
        with self._guard:
            now = self._now()
            self._window.refused(place.began, place.under_way, now)
            if self._window.size == 1 and retry_after is not None:
                # Fewer calls at a time can't help: it is a limit per minute, and all calls wait for it together.
                self._closed_until = max(self._closed_until, now + min(retry_after, _LONGEST_PAUSE))
                self._window.paused()
            self._free(place, 0.0)

    def left(self, place: Place) -> None:
        """The call is over and says nothing about the provider's limits: it failed, or was cut off."""
        with self._guard:
            self._free(place, place.tokens)

    # --- all of these with the guard held -------------------------------------------------------------

    def _delay(self, tokens: float) -> float:
        """Seconds until a place can be had, as far as time decides; infinite when another call must end first."""
        if self._under_way >= self._window.size:
            return float("inf")
        if self._requests is None and self._tokens is None and self._closed_until < 0:
            return 0.0
        now = self._now()
        delay = max(0.0, self._closed_until - now)
        if self._requests is not None:
            delay = max(delay, self._requests.delay(1.0, now))
        if self._tokens is not None:
            delay = max(delay, self._tokens.delay(tokens, now))
        return delay

    def _taken(self, tokens: float) -> Place:
        now = self._now()
        self._under_way += 1
        if self._requests is not None:
            self._requests.take(1.0, now)
        if self._tokens is not None:
            self._tokens.take(tokens, now)
        return Place(now, self._under_way, tokens)

    def _free(self, place: Place, used: float) -> None:
        self._under_way -= 1
        if self._tokens is not None and used != place.tokens:
            self._tokens.take(used - place.tokens, self._now())
        if self._waiting:
            self._pump()

    def _pump(self) -> None:
        """Gives places to those who wait, as many as there are."""
        while self._waiting:
            first = self._waiting[0]
            delay = self._delay(first.tokens)
            if delay:
                if delay == float("inf") or first.timed:
                    return
                first.timed = first.call_later(delay, self._time_is_up)
                if first.timed:
                    return
                self._waiting.popleft()  # its loop is over
                continue
            self._waiting.popleft()
            first.place = self._taken(first.tokens)
            if not first.wake():
                self._under_way -= 1

    def _time_is_up(self, waiter: _Waiter) -> None:
        with self._guard:
            waiter.timed = False
            self._pump()


_GATES: weakref.WeakSet[Gate] = weakref.WeakSet()
"""Only for the hook below: in a forked child nobody gives back the places that the parent's calls hold."""

_SHARED: weakref.WeakValueDictionary[tuple[str, Limit], Gate] = weakref.WeakValueDictionary()
"""A provider counts the calls of the whole process, so all runtimes in it share what is known of an endpoint's model."""


def _all_forget() -> None:
    for gate in list(_GATES):
        gate._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_all_forget)


def gate_for(model: Model, limit: Limit) -> Gate | None:
    """The gate that calls to ``model`` pass, ``None`` where nothing is limited.

    Models that name the same ``limits_key`` (an endpoint's address and the model's name there) share one.
    """
    if model.name.startswith(_BUILTIN) and limit == Limit():
        return None  # it answers in this very thread: there is nobody to spare
    key = getattr(model, "limits_key", "")
    if not key:
        return Gate(limit)
    gate = _SHARED.get((key, limit))
    if gate is None:
        gate = _SHARED.setdefault((key, limit), Gate(limit))
    return gate


class Limited:
    """A model within its limits: places at a time, a rate, and ``limit.timeout`` seconds for each call once it has a place.

    Whatever goes wrong in the model comes out as a :class:`ModelError`, so that a fallback may answer.
    """

    def __init__(self, model: Model, limit: Limit, gate: Gate | None = None) -> None:
        self._model = model
        self._limit = limit
        self._gate = gate or gate_for(model, limit)

    @property
    def name(self) -> str:
        return self._model.name

    def around(self, wrap: Callable[[Model], Model]) -> Limited:
        """The same limits and the same places, with ``wrap`` around the model."""
        return Limited(wrap(self._model), self._limit, self._gate)

    async def reply(self, request: Request, span: Span | None = None) -> Reply:
        """The whole answer. ``span`` cuts the call, and its wait for a place if that counts: raises :class:`Late`."""
        gate = self._gate
        if gate is None:
            return await self._asked(request, span)
        place = await self._entered(gate, request, span)
        try:
            reply = await self._asked(request, span)
        except BaseException as error:
            self._ended(gate, place, error)
            raise
        gate.accepted(place, reply.usage)
        return reply

    async def stream(self, request: Request, span: Span | None = None) -> AsyncIterator[Chunk]:
        """The answer in pieces; as :meth:`reply`."""
        gate = self._gate
        place = await self._entered(gate, request, span) if gate is not None else None
        final: Reply | None = None
        try:
            async with closing(pieces(self._model.stream(request), self._seconds(span))) as stream:
                async for chunk in stream:
                    final = chunk.reply or final
                    yield chunk
        except BaseException as error:
            if gate is not None and place is not None:
                self._ended(gate, place, error)
                place = None
            if not isinstance(error, Exception) or self._told_above(error, span):
                raise
            raise self._failed(error) from error
        finally:
            if gate is not None and place is not None:
                gate.accepted(place, final.usage if final is not None else Usage())

    @staticmethod
    async def _entered(gate: Gate, request: Request, span: Span | None) -> Place:
        tokens = tokens_of(request) if gate.counts_tokens else 0.0
        return await (gate.enter(tokens) if span is None else gate.enter_within(span, tokens))

    async def _asked(self, request: Request, span: Span | None) -> Reply:
        try:
            return await within(self._seconds(span), self._model.reply(request))
        except Exception as error:  # a model may be anybody's code
            if self._told_above(error, span):
                raise
            raise self._failed(error) from error

    def _seconds(self, span: Span | None) -> float:
        left = span.left() if span is not None else None
        return self._limit.timeout if left is None else min(left, self._limit.timeout)

    @staticmethod
    def _ended(gate: Gate, place: Place, error: BaseException) -> None:
        if isinstance(error, RateLimited) and error.retryable:
            gate.refused(place, error.retry_after)
        else:
            gate.left(place)

    @staticmethod
    def _told_above(error: Exception, span: Span | None) -> bool:
        """An error of ours, or that the time for all attempts is over."""
        return isinstance(error, PromptsmithError) or (isinstance(error, Late) and span is not None and span.left() == 0.0)

    def _failed(self, error: Exception) -> ModelError:
        if not isinstance(error, Late):
            return ModelError(f"{self.name} failed: {type(error).__name__}: {error}")
        return TimedOut(
            f"{self.name} did not answer within {self._limit.timeout:g} seconds",
            provider=self.name.partition("/")[0],
            request_id=error.request_id,
            hint="raise the limit: [limits.'" + self.name + "'] timeout",
        )


def tokens_of(request: Request) -> float:
    """About how many tokens a call will count for at the provider, its output included."""
    asked = request.parameters.get("max_tokens")
    return float(input_tokens(request) + (asked if isinstance(asked, int) else _OUTPUT_GUESS))


def input_tokens(request: Request) -> int:
    """About how many tokens a request is."""
    return estimate(request.system) + sum(estimate(turn.text) for turn in request.turns)
