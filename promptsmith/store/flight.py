"""Single flight: the same work is done once, for all tasks, threads and processes that want it at the same time.

In a process followers wait for the leader's future. Across processes the leader takes an advisory file lock, on a
miss only, which its process takes with it when it dies: one file per build key, 256 stripes for replies.

No deadlock, by rank: a build may wait for a stripe, and who holds a stripe waits for nobody. Where waiting is not
allowed, or a stripe is held by another key of this process, the work goes ahead without the lock: at worst it is
done twice. The same holds where no lock file can be made.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, TypeVar, cast

from ..canonical import sha256
from ..errors import StoreError
from .trouble import Trouble, private_folder

T = TypeVar("T")
Settle = Callable[[Callable[[], None]], None]
"""Calls what it is given once the work is where other processes find it; only then the lock is let go."""

_BUILD, _STRIPE = 1, 2
_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NOINHERIT", 0)
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.1
"""Seconds between two attempts at a lock that another process holds, growing from the first to the last."""

_holding: ContextVar[int] = ContextVar("promptsmith_flight_holding", default=0)
"""The rank of the lock that the current task works under, its child tasks included."""


class _Abandoned:
    """What followers get when their leader was cancelled: one of them leads now."""


_ABANDONED: Final = _Abandoned()


class _Call:
    """One piece of work under way. ``hurry``: somebody who must not wait for a lock waits for it."""

    __slots__ = ("future", "hurry")

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.hurry = False


class _Lane(NamedTuple):
    """Where a key's lock stands, what rank it has, and when it may be let go."""

    path: str
    rank: int
    settle: Settle


def _at_once(done: Callable[[], None]) -> None:
    done()


class Flight:
    """Single flight over the lock files in ``directory``, which is made at the first miss."""

    def __init__(self, directory: str, trouble: Trouble, settle: Settle = _at_once) -> None:
        self._directory = directory
        self._trouble = trouble
        self._settle = settle
        self._watched = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._guard = threading.Lock()
        self._calls: dict[str, _Call] = {}
        self._held: dict[str, int] = {}

    async def once(self, key: str, find: Callable[[], T | None], make: Callable[[], Awaitable[T]], *, looked: bool = False) -> T:
        """The reply under ``key``: found, or made once. ``make`` also stores what it makes.

        ``looked``: the caller has just called ``find``, in vain. It is called again under the lock all the same.
        """
        stripe = sha256(key)[:2]
        lane = _Lane(os.path.join(self._directory, f"reply-{stripe}.lock"), _STRIPE, self._settle)
        return await self._fly(f"reply {key}", lane, find, make, looked)

    async def once_build(self, key: str, find: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T:
        """What the build ``key`` (hex) builds: found, or made once. ``make`` also stores what it makes."""
        if not key.isalnum():
            raise StoreError(f"a build key is hex digits, not {key!r}")
        lane = _Lane(os.path.join(self._directory, f"build-{key}.lock"), _BUILD, _at_once)
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
                leads = call is None
                if call is None:
                    call = self._calls[key] = _Call()
            if leads:
                return await self._lead(key, call, lane, find, make)
            if _holding.get() >= lane.rank:
                call.hurry = True  # we hold a lock that its leader's lock may be waiting for
            outcome = await _outcome(call.future)
            if outcome is not _ABANDONED:
                return cast(T, outcome)

    async def _lead(self, key: str, call: _Call, lane: _Lane, find: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T:
        try:
            value = await self._locked(call, lane, find, make)
        except BaseException as error:
            self._calls.pop(key, None)
            if isinstance(error, Exception):
                call.future.set_exception(error)
            else:
                # Cancelled (or the process is ending): that concerns the leader alone.
                call.future.set_result(_ABANDONED)
            raise
        self._calls.pop(key, None)
        call.future.set_result(value)
        return value

    async def _locked(self, call: _Call, lane: _Lane, find: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T:
        lock = await self._acquire(call, lane)
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
            if lock is not None:
                settle(lambda: self._release(lock, lane.path))

    async def _acquire(self, call: _Call, lane: _Lane) -> int | None:
        """A descriptor that holds the lock of ``lane``, or ``None`` where the work is to go ahead without it."""
        pause = _FIRST_PAUSE
        while self._prepared():
            with self._guard:
                if lane.path in self._held:
                    return None  # by another key of this process
                try:
                    fd = self._try(lane.path)
                except OSError as error:
                    self._trouble.note(error)
                    return None
                if fd is not None:
                    self._held[lane.path] = fd
                    return fd
            if call.hurry or _holding.get() >= lane.rank:
                break
            # Polled, not waited for in a thread: a cancelled task leaves nothing behind that could still get the lock.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 1.5, _LAST_PAUSE)
        return None

    def _prepared(self) -> bool:
        """Whether there is a folder for locks; one ``stat`` (about 2 µs), or it is made."""
        if self._watched and os.path.exists(self._directory):
            return True
        try:
            private_folder(self._directory)
        except OSError as error:
            self._trouble.tell(error)
            return False
        self._watch_forks()
        return True

    def _try(self, path: str) -> int | None:
        """A new descriptor that holds the lock file ``path``, or ``None`` while another has it. Raises ``OSError``."""
        # On a descriptor (about 6 µs) and not through FileLock (about 90), which every reply would pay for. The two
        # exclude each other, and neither is a soft lock, which would outlive a killed process.
        from filelock import lock_descriptor

        fd = os.open(path, _OPEN, 0o600)
        kept = False
        try:
            # A file without a name was removed after we opened it: whoever comes next would lock another one.
            kept = lock_descriptor(fd, blocking=False) and os.fstat(fd).st_nlink > 0
        finally:
            if not kept:
                os.close(fd)
        return fd if kept else None

    def _watch_forks(self) -> None:
        # A forked child shares the locks of its parent and would keep them when the parent is gone.
        if not self._watched and hasattr(os, "register_at_fork"):
            me = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _let_go(me))
        self._watched = True

    def _release(self, fd: int, path: str) -> None:
        from filelock import unlock_descriptor

        with self._guard:
            if self._held.pop(path, None) != fd:
                return  # taken over a fork, and closed there
            # The lock goes with its descriptor in any case.
            with contextlib.suppress(OSError):
                unlock_descriptor(fd)
            with contextlib.suppress(OSError):
                os.close(fd)


def _let_go(me: weakref.ref[Flight]) -> None:
    """In a forked child: closes its copies of the parent's locks, which does not unlock them."""
    flight = me()
    if flight is not None:
        held, flight._held = flight._held, {}
        for fd in held.values():
            with contextlib.suppress(OSError):
                os.close(fd)


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
