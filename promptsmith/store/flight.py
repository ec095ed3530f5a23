"""Single flight: the same work is done once, for all tasks, threads and processes that want it at the same time.

In a process followers wait for the leader's future. Across processes the leader takes an advisory lock, on a miss
only, which its process takes with it when it dies: one file per build key, 256 stripes for replies.

No deadlock, by rank: a build may wait for a stripe, and who holds a stripe waits for nobody. Where waiting is not
allowed, or a stripe is held by another key of this process, the work goes ahead without the lock: at worst it is
done twice. The same holds where no lock file can be made.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from random import SystemRandom
from typing import Any, Final, NamedTuple, TypeVar, cast

from ..canonical import sha256
from ..errors import StoreError
from .stripes import FileLocks, Locks, stripes
from .trouble import Trouble, private_folder

T = TypeVar("T")

_BUILD, _STRIPE = 1, 2
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.1
"""Seconds between two attempts at a lock that another process holds, growing from the first to the last."""

_holding: ContextVar[int] = ContextVar("promptsmith_flight_holding", default=0)
"""The rank of the lock that the current task works under, its child tasks included."""


class _Abandoned:
    """What followers get when their leader was cancelled: one of them leads now."""


_ABANDONED: Final = _Abandoned()


class _Call:
    """One piece of work under way. ``hurry``: somebody who must not wait for a lock waits for it.

    ``future`` is made by its first follower; most have none.
    """

    __slots__ = ("future", "hurry")

    def __init__(self) -> None:
        self.future: Future[Any] | None = None
        self.hurry = False


class _Taken(NamedTuple):
    """A lock, and the call that it was taken for: in a forked child another call may have the lock of that name."""

    locks: Locks
    name: str
    call: _Call


Release = Callable[[Sequence[_Taken]], None]
Settle = Callable[[Release, _Taken], None]
"""Calls what it is given once the work is where other processes find it; only then the lock is let go.

With a list: what may go at the same time goes in one call.
"""


class _Lane(NamedTuple):
    """Which lock a key has, what rank it has, and when it may be let go."""

    locks: Locks
    name: str
    rank: int
    settle: Settle


def _at_once(release: Release, taken: _Taken) -> None:
    release((taken,))


class Flight:
    """Single flight over the locks in ``directory``, which is made at the first miss."""

    def __init__(self, directory: str, trouble: Trouble, settle: Settle = _at_once) -> None:
        self._directory = directory
        self._trouble = trouble
        self._settle = settle
        self._stripes = stripes(directory)
        self._builds: Locks = FileLocks(directory, "build-")
        self._watched = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._guard = threading.Lock()
        self._calls: dict[str, _Call] = {}
        self._held: dict[tuple[int, str], _Call] = {}

    async def once(self, key: str, find: Callable[[], T | None], make: Callable[[], Awaitable[T]], *, looked: bool = False) -> T:
        """The reply under ``key``: found, or made once. ``make`` also stores what it makes.

        ``looked``: the caller has just called ``find``, in vain. It is called again under the lock all the same.
        """
        lane = _Lane(self._stripes, sha256(key)[:2], _STRIPE, self._settle)
        return await self._fly(f"reply {key}", lane, find, make, looked)

    async def once_build(self, key: str, find: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T:
        """What the build ``key`` (hex) builds: found, or made once. ``make`` also stores what it makes."""
        if not key.isalnum():
            raise StoreError(f"a build key is hex digits, not {key!r}")
        lane = _Lane(self._builds, key, _BUILD, _at_once)
        return await self._fly(f"build {key}", lane, find, make, looked=False)

    async def _fly(self, key: str, lane: _Lane, find: Callable[[], T | None], make: Callable[[], Awaitable[T]], looked: bool) -> T:
        if self._pid != os.getpid():
            self._reset()
        while True:
            found = None if looked else find()
            looked = False
            if found is not None:
                return found
            with self._guard:
                call = self._calls.get(key)
                if call is None:
                    future, call = None, _Call()
                    self._calls[key] = call
                else:
                    future = call.future = call.future or Future()
            if future is None:
                return await self._lead(key, call, lane, find, make)
            if _holding.get() >= lane.rank:
                call.hurry = True  # we hold a lock that its leader's lock may be waiting for
            outcome = await _outcome(future)
            if outcome is not _ABANDONED:
                return cast(T, outcome)

    async def _lead(self, key: str, call: _Call, lane: _Lane, find: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T:
        try:
            value = await self._locked(call, lane, find, make)
        except BaseException as error:
            followers = self._ended(key, call)
            if followers is None:
                raise
            if isinstance(error, Exception):
                followers.set_exception(error)
            else:
                # Cancelled (or the process is ending): that concerns the leader alone.
                followers.set_result(_ABANDONED)
            raise
        followers = self._ended(key, call)
        if followers is not None:
            followers.set_result(value)
        return value

    def _ended(self, key: str, call: _Call) -> Future[Any] | None:
        """What the followers of ``call`` wait for, if it has any; nobody can join it any more."""
        with self._guard:
            if self._calls.get(key) is call:
                del self._calls[key]
            return call.future

    async def _locked(self, call: _Call, lane: _Lane, find: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T:
        taken = await self._acquire(call, lane)
        token = _holding.set(max(lane.rank, _holding.get()))
        settle: Settle = _at_once
        try:
            # Again: whoever held the lock before, or led before us, may have made it.
            found = find()
            if found is None:
                found = await make()
                settle = lane.settle
            return found
        finally:
            _holding.reset(token)
            if taken is not None:
                settle(self._release, taken)

    async def _acquire(self, call: _Call, lane: _Lane) -> _Taken | None:
        """The lock of ``lane``, or ``None`` where the work is to go ahead without it."""
        taken, pause = _Taken(lane.locks, lane.name, call), _FIRST_PAUSE
        while True:
            try:
                got = self._attempt(taken)
            except OSError as error:
                self._trouble.note(error)
                return None
            if got is None:
                return None
            if got:
                return taken
            if call.hurry or _holding.get() >= lane.rank:
                return None
            # Polled, not waited for in a thread: a cancelled task leaves nothing behind that could still get the lock.
            await asyncio.sleep(pause * SystemRandom().uniform(0.5, 1.0))
            pause = min(pause * 1.5, _LAST_PAUSE)

    def _attempt(self, taken: _Taken) -> bool | None:
        """Whether the lock was free; ``None`` when it can't be had, or is another key's of this process. Raises ``OSError``."""
        if not self._watched and not self._prepared():
            return None
        try:
            return self._try(taken)
        except FileNotFoundError:
            # Somebody removed the folder.
            return self._try(taken) if self._prepared() else None

    def _try(self, taken: _Taken) -> bool | None:
        place = id(taken.locks), taken.name
        with self._guard:
            if place in self._held:
                return None
            if not taken.locks.take(taken.name):
                return False
            self._held[place] = taken.call
            return True

    def _prepared(self) -> bool:
        """Whether there is a folder for locks now; it is made when missing."""
        try:
            private_folder(self._directory)
        except OSError as error:
            self._trouble.tell(error)
            return False
        self._watch_forks()
        return True

    def _watch_forks(self) -> None:
        # A forked child shares the locks of its parent and would keep them when the parent is gone.
        if not self._watched and hasattr(os, "register_at_fork"):
            me = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _let_go(me))
        self._watched = True

    def _release(self, taken: Sequence[_Taken]) -> None:
        with self._guard:
            for locks in (self._stripes, self._builds):
                # What was taken before a fork is not ours in the child.
                names = [one.name for one in taken if one.locks is locks and self._held.get((id(locks), one.name)) is one.call]
                for name in names:
                    del self._held[id(locks), name]
                if names:
                    locks.give(names)


def _let_go(me: weakref.ref[Flight]) -> None:
    """In a forked child: it has none of its parent's locks and calls, and its guard may be held by a thread that is not here."""
    flight = me()
    if flight is not None:
        flight._reset()
        flight._stripes.drop()
        flight._builds.drop()


async def _outcome(future: Future[Any]) -> Any:
    """Waits for another task's, thread's or loop's ``future``; being cancelled here does not cancel it."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    def wake(_: Future[Any]) -> None:
        # The loop may be closed by now: then nobody waits here any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finish)

    future.add_done_callback(wake)
    await done
    return future.result()
