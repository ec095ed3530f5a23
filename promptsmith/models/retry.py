"""One retry policy for all models: the official clients' own is off, so that no two multiply.

A wait is what the provider asked for (``retry-after``), else exponential with full jitter, which spreads a crowd best
(Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). Retries of one endpoint draw on a common
budget, so that they add little to the load of a provider that is already failing ("Timeouts, retries, and backoff with
jitter", Amazon Builders' Library; the figures, a fifth and ten a second, are those of Finagle's RetryBudget).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from random import SystemRandom
from typing import Protocol

import msgspec

from ..chat import Chunk, Reply, Request
from ..errors import PromptsmithError, ProviderError, RateLimited, TimedOut
from .limits import Limited
from .protocol import Model
from .waiting import Late, Span, closing, pieces, within

_SHARE = 0.2
_PER_SECOND = 10.0
_BURST = 100.0
_ROUNDING = 1e-9


class Retry(msgspec.Struct, frozen=True):
    """``attempts`` in all, waits from ``base`` to ``cap`` seconds, all (calls, and waits between them) within ``deadline`` seconds.

    ``patient``: nobody waits for this one answer, so an empty budget delays it and does not end it.
    ``queued``: somebody does, so the wait for a place among the calls under way counts, too.
    """

    attempts: int = 6
    base: float = 0.5
    cap: float = 8.0
    deadline: float | None = 240.0
    patient: bool = False
    queued: bool = False


class Clock(Protocol):
    """Time and dice."""

    def now(self) -> float:
        """Seconds from some beginning."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""

    def random(self) -> float:
        """From 0 up to, but not, 1."""


class SystemClock:
    """The real ones."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)
    # Not the generator that all modules share: an application may have seeded that, and forks of it draw the same.
    random = SystemRandom().random


class RetryBudget:
    """What the retries of one endpoint may add to its load: a fifth of its calls, ten a second, and a hundred at once.

    Shared by threads. A retry that a provider's 429 has asked for may overdraw it and waits until it is paid; for a
    provider that fails, an empty budget is the end.
    """

    def __init__(self, *, share: float = _SHARE, per_second: float = _PER_SECOND, burst: float = _BURST) -> None:
        self._share, self._per_second, self._burst = share, per_second, burst
        self._balance = burst
        self._at: float | None = None
        self._guard = threading.Lock()

    def called(self) -> None:
        """A first attempt was made."""
        # Without the lock: a lost fifth of a retry is worth less than a lock on each call.
        self._balance = min(self._burst, self._balance + self._share)

    def take(self, now: float, *, patient: bool, at_most: float | None = None) -> float | None:
        """Seconds until the next retry is paid for; ``None`` (and nothing taken) when it may not be made, or not ``at_most`` so late."""
        with self._guard:
            if self._at is not None:
                self._balance = min(self._burst, self._balance + (now - self._at) * self._per_second)
            self._at = now
            missing = 1.0 - self._balance if self._balance < 1.0 - _ROUNDING else 0.0
            if missing and not (patient and self._per_second):
                return None
            delay = missing / self._per_second if missing else 0.0
            if at_most is not None and delay >= at_most:
                return None
            self._balance -= 1.0
            return delay


async def with_retries(call: Callable[[], Awaitable[Reply]], policy: Retry, clock: Clock, budget: RetryBudget, name: str = "") -> Reply:
    """The reply of the first attempt that succeeds, with the number of attempts in it.

    Raises the last attempt's error, with a note saying why there was no further one, when it is not retryable or
    attempts, deadline or budget are used up. Waiting for longer than the deadline leaves is not begun.
    """
    trial = Trial(policy, clock, budget, name)
    return await _tried(trial, lambda: within(trial.span.left(), call()))


async def _tried(trial: Trial, attempt: Callable[[], Awaitable[Reply]]) -> Reply:
    while True:
        try:
            reply = await attempt()
        except (PromptsmithError, Late) as error:
            await trial.again(error)
        else:
            return trial.counted(reply)


class Retried:
    """A model asked again when that may help; a stream only before its first piece.

    It stands around :class:`~promptsmith.models.limits.Limited`, so that a call which waits to be repeated takes
    nobody's place. Models that share an endpoint should share ``budget``.
    """

    def __init__(self, model: Model, policy: Retry | None = None, *, budget: RetryBudget | None = None, clock: Clock | None = None) -> None:
        self._model = model
        self._policy = policy or Retry()
        self._budget = budget or RetryBudget()
        self._clock = clock or SystemClock()

    @property
    def name(self) -> str:
        return self._model.name

    async def reply(self, request: Request) -> Reply:
        model = self._model
        if not isinstance(model, Limited):
            return await with_retries(lambda: model.reply(request), self._policy, self._clock, self._budget, self.name)
        trial = Trial(self._policy, self._clock, self._budget, self.name)
        # It cuts the attempts itself: a thousand calls that wait for four places are not late.
        return await _tried(trial, lambda: model.reply(request, trial.span))

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        trial = Trial(self._policy, self._clock, self._budget, self.name)
        while True:
            begun = False
            try:
                async with closing(self._begun(request, trial)) as stream:
                    async for chunk in stream:
                        begun = True
                        yield trial.chunk(chunk)
                    return
            except (PromptsmithError, Late) as error:
                if begun and not isinstance(error, Late):
                    raise
                await trial.again(error)

    def around(self, wrap: Callable[[Model], Model]) -> Retried:
        """The same, with ``wrap`` around the model that each attempt asks."""
        model = self._model.around(wrap) if isinstance(self._model, Limited) else wrap(self._model)
        return Retried(model, self._policy, budget=self._budget, clock=self._clock)

    def _begun(self, request: Request, trial: Trial) -> AsyncIterator[Chunk]:
        if isinstance(self._model, Limited):
            return self._model.stream(request, trial.span)
        return pieces(self._model.stream(request), trial.span.left())


class Trial:
    """The attempts of one call, counted from when this is made."""

    __slots__ = ("_attempts", "_began", "_budget", "_clock", "_failed", "_name", "_policy", "span")

    def __init__(self, policy: Retry, clock: Clock, budget: RetryBudget, name: str) -> None:
        self._policy, self._clock, self._budget, self._name = policy, clock, budget, name
        self._attempts = 1
        self._began = clock.now()
        self.span = Span(policy.deadline, clock.now, queued=policy.queued)
        self._failed: PromptsmithError | None = None
        budget.called()

    async def again(self, error: PromptsmithError | Late) -> None:
        """Returns when it is time for the next attempt. Raises the provider's error when there is none."""
        try:
            if isinstance(error, Late):
                raise self._out_of_time(error) from None
            if not error.retryable:
                if self._failed is not None:
                    # What stops a repetition (a budget) has to do with what made it necessary.
                    error.add_note(f"the attempt before it failed: {self._failed.message}")
                raise error
            if self._attempts >= self._policy.attempts:
                raise self._given_up(error, "no attempt is left", spent=self._attempts > 1)
            wait = self._wait(error)
            left = self.span.left()
            if left is not None and wait >= left:
                asked = isinstance(error, ProviderError) and error.retry_after
                what = "the provider asks to wait" if asked else "the next attempt would be in"
                why = f"{what} {wait:.0f} seconds, and only {left:.0f} are left for this call ([limits] deadline)"
                raise self._given_up(error, why, spent=not asked and self._attempts > 1)
            paid = self._budget.take(self._clock.now(), patient=self._policy.patient or isinstance(error, RateLimited), at_most=left)
            if paid is None:
                raise self._given_up(error, "too many calls of this endpoint are being repeated already", spent=True)
            self._failed = error.with_traceback(None)  # which holds the caller's frame, and that this
            await self._clock.sleep(max(wait, paid))
            self._attempts += 1
        finally:
            del error  # the traceback of what is raised here holds this frame

    def _last(self) -> PromptsmithError | None:
        """What the attempt before failed with, which is not kept: whoever raises it has this in a frame of the traceback."""
        failed, self._failed = self._failed, None
        return failed

    def _wait(self, error: PromptsmithError) -> float:
        asked = error.retry_after if isinstance(error, ProviderError) else None
        if asked is not None and asked > 0:
            # Not one second earlier, and not all of a crowd at the same moment.
            return asked * (1 + 0.1 * self._clock.random())
        return self._clock.random() * min(self._policy.cap, self._policy.base * 2.0 ** (self._attempts - 1))

    def _out_of_time(self, late: Late) -> PromptsmithError:
        """What an attempt before this one failed with, or that there was none to the end."""
        failed, over = self._last(), "the time for all attempts is over"
        if failed is None and not late.begun:
            return self._unbegun(late)
        if failed is None:
            return self._given_up(self._unanswered(late), over, spent=True)
        if isinstance(failed, ProviderError):
            failed.counted = failed.counted or late.begun  # nobody knows what the attempt that was cut off took
        return self._given_up(failed, over, spent=True)

    def _unanswered(self, late: Late) -> ProviderError:
        return TimedOut(
            f"there was no answer within {self._policy.deadline:g} seconds",
            provider=self._name.partition("/")[0],
            request_id=late.request_id,
            retryable=False,
            hint=self._hint("deadline"),
        )

    def _unbegun(self, late: Late) -> ProviderError:
        """Nothing was asked of the provider, so that another try, later, does no harm."""
        provider = self._name.partition("/")[0]
        if late.closed:
            told = f"{self._name} has answered 429 and wants no calls for another {late.closed:.0f} seconds"
            return RateLimited(told, provider=provider, status=429, retry_after=late.closed)
        told = f"the call waited {self._policy.deadline:g} seconds for a place among those to {self._name} that may be under way at a time"
        return TimedOut(told, provider=provider, counted=False, hint=self._hint("concurrency or deadline"))

    def _hint(self, limit: str) -> str:
        return f"raise the limit: [limits.'{self._name}'] {limit}" if self._name else ""

    def _given_up(self, error: PromptsmithError, why: str, *, spent: bool) -> PromptsmithError:
        if isinstance(error, ProviderError):
            error.spent = spent
        error.add_note(f"after {self._attempts} attempt{'s' * (self._attempts > 1)}: {why}")
        return error

    def counted(self, reply: Reply) -> Reply:
        """The reply as it was come by: after so many attempts, and after all the time that they and the waits took."""
        if self._attempts == 1:
            return reply
        seconds = self._clock.now() - self._began
        return msgspec.structs.replace(reply, attempts=reply.attempts + self._attempts - 1, latency=seconds)

    def chunk(self, chunk: Chunk) -> Chunk:
        if chunk.reply is None or self._attempts == 1:
            return chunk
        return Chunk(chunk.text, self.counted(chunk.reply))
