"""One timer for all connections of a pool, or of a server: a timer for each would be set and cancelled with every exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

NEVER = float("inf")


class Watched(Protocol):
    """What may come too late. ``until`` is when, by the loop's clock."""

    until: float

    def late(self) -> None:
        """``until`` has passed."""


class Deadlines:
    """Of one event loop. ``pause`` is the least number of seconds between two looks at all: a limit is kept to that."""

    def __init__(self, watched: Collection[Watched], *, pause: float = 0.0) -> None:
        self._watched, self._pause = watched, pause
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = NEVER

    def watch(self, one: Watched, seconds: float | None) -> None:
        """From now on ``one`` is late in ``seconds``; ``None``: never."""
        if seconds is None:
            one.until = NEVER
            return
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        until = one.until = loop.time() + seconds
        if until < self._wakes:
            self._wake_at(loop, until)

    def stop(self) -> None:
        """Nothing is late any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._wakes = None, NEVER

    def _wake_at(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes = when
        self._timer = loop.call_at(when, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tells those that are late, and sleeps until the next one could be."""
        now = loop.time()
        self._timer, self._wakes = None, NEVER
        for one in list(self._watched):
            if one.until <= now:
                one.late()
        soonest = min((one.until for one in self._watched), default=NEVER)
        if soonest < NEVER:
            self._wake_at(loop, max(soonest, now + self._pause))
