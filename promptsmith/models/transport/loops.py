"""One thing per event loop: made at first use, closed with its loop, left alone after a fork."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_Kept = dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[T, None]]]


class PerLoop(Generic[T]):
    """Makes a ``T`` for each event loop that asks for one.

    A client's connections belong to the loop that opened them. Nothing tells a library that a loop ends, except that
    ``asyncio.run`` (and uvloop's) closes the loop's async generators: so each ``T`` is held by one, which closes it.
    ``abandon`` makes a ``T`` that can no longer be closed forget its connections without touching them: in a forked
    child they are the parent's, and at exit their loop no longer runs. ``close`` and ``abandon`` must not hold what
    holds the ``PerLoop``.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]], abandon: Callable[[T], None]) -> None:
        self._make, self._close, self._abandon = make, close, abandon
        self._kept: _Kept[T] = {}
        self._inherited: list[_Kept[T]] = []
        self._begin()
        _LIVE.add(self)

    def _begin(self) -> None:
        # Not __del__: what the collector finds in a cycle it finalises in any order, and an aiohttp session before the
        # generator that would have closed it. The finalizer holds them outside of any cycle, and runs at exit as well.
        self._ending = weakref.finalize(self, _shut, self._kept, self._abandon)

    def find(self) -> T | None:
        """The running loop's, if there is one yet."""
        kept = self._kept.get(asyncio.get_running_loop())
        return kept[0] if kept is not None else None

    async def get(self) -> T:
        """The running loop's, made now if need be."""
        found = self.find()
        if found is not None:
            return found
        for loop in [loop for loop in list(self._kept) if loop.is_closed()]:
            self._abandon(self._kept.pop(loop)[0])
        loop = asyncio.get_running_loop()
        keeper = _keep(self._make(), self._close, self._kept, loop)
        made = await anext(keeper)  # runs to its yield without giving way, so no other task can make a second one
        self._kept[loop] = made, keeper
        return made

    async def close(self) -> None:
        """Closes the running loop's; asks other running loops to close theirs."""
        kept = self._kept.get(asyncio.get_running_loop())
        if kept is not None:
            await kept[1].aclose()
        _shut(self._kept, self._abandon)

    def forked(self) -> None:
        """In the child: what the parent's loops hold is kept from being closed, and never used."""
        self._ending.detach()
        for made, _ in self._kept.values():
            self._abandon(made)
        self._inherited.append(self._kept)
        self._kept = {}
        self._begin()


async def _keep(made: T, close: Callable[[T], Awaitable[None]], kept: _Kept[T], loop: asyncio.AbstractEventLoop) -> AsyncGenerator[T, None]:
    try:
        yield made
    finally:
        kept.pop(loop, None)
        await close(made)


def _shut(kept: _Kept[T], abandon: Callable[[T], None]) -> None:
    """Asks running loops to close theirs; what belongs to a loop that is over is let go."""
    for loop, (made, keeper) in list(kept.items()):
        try:
            if loop.is_running():
                loop.call_soon_threadsafe(loop.create_task, keeper.aclose())
                continue
        except RuntimeError:
            pass  # it was closed just now
        abandon(made)
        kept.pop(loop, None)


_LIVE: weakref.WeakSet[PerLoop[Any]] = weakref.WeakSet()
"""Only for the hook below, which can't be taken back once registered and must not keep a transport alive."""


def _all_forked() -> None:
    for one in list(_LIVE):
        one.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_all_forked)
