"""Waiting for an answer: not for ever, and for a stream only while it is listened to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


class Late(TimeoutError):
    """The seconds that were allowed have passed; a ``TimeoutError`` of the model's own is its failure, not this.

    ``request_id`` is the provider's name for the call, when its answer had begun. A call that had not ``begun`` was still
    waiting for a place; ``closed`` is how many more seconds the provider wants no calls of this model at all.
    """

    def __init__(self, request_id: str = "", *, begun: bool = True, closed: float = 0.0) -> None:
        super().__init__(request_id)
        self.request_id, self.begun, self.closed = request_id, begun, closed


def named(error: BaseException, request_id: str) -> None:
    """Lets a cancellation carry the name of the call that it ends, for the :class:`Late` that it becomes."""
    error.__dict__.setdefault("request_id", request_id)


class Span:
    """The seconds that a call may take in all (``None``: any), counted by ``now``; those spent waiting for a place only if ``queued``."""

    __slots__ = ("_seconds", "_until", "now", "queued")

    def __init__(self, seconds: float | None, now: Callable[[], float], *, queued: bool = False) -> None:
        self.now, self.queued = now, queued
        self._seconds = seconds
        self._until = now() + (seconds or 0.0)

    def left(self) -> float | None:
        """Never negative."""
        return None if self._seconds is None else max(0.0, self._until - self.now())

    def extend(self, seconds: float) -> None:
        """These did not count."""
        self._until += seconds


async def within(seconds: float | None, answer: Awaitable[T]) -> T:
    """What ``answer`` comes to. Raises :class:`Late` when that takes longer than ``seconds``."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await answer
    except TimeoutError as error:
        if limit.expired():
            raise Late(getattr(error.__cause__, "request_id", "")) from None
        raise


async def pieces(stream: AsyncIterator[T], seconds: float | None) -> AsyncIterator[T]:
    """What ``stream`` yields, which may keep its consumer waiting for ``seconds`` in all; closed with its consumer.

    Each piece is waited for on its own: a timeout around a ``yield`` would cancel whatever the consumer does with
    the piece, and count its time too. Raises :class:`Late`.
    """
    left = seconds
    async with closing(stream):
        while True:
            began = time.perf_counter()
            try:
                piece = await within(left, anext(stream))
            except StopAsyncIteration:
                return
            if left is not None:
                left = max(0.0, left - (time.perf_counter() - began))
            yield piece


@asynccontextmanager
async def closing(stream: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """``stream``, closed at the end. A generator that is only dropped runs on until it is collected."""
    try:
        yield stream
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
