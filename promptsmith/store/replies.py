"""Replies in memory and on disk: read at once, written in batches by one thread per process and folder.

The journal carries durability, so a reply may wait some milliseconds in memory; :meth:`Replies.flush`, ``close``
and the end of the process write what waits. (A daemon writer without that lost 5,000 of 5,000 rows.)
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..chat import Reply
from ..errors import StoreError, TamperedError
from .seal import seal, unseal
from .shelf import Shelf
from .trouble import Trouble

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode

LINGER_SECONDS = 0.05
"""How long the writer lets rows gather: with 0.02 a busy run pays noticeably more for its writer and the caller trading the
interpreter's lock. So long another process may wait for a reply that is known here, little beside what a model takes."""
LOOK_SECONDS = 0.05
"""How long replies that another process has cleared may still be given out of memory: a look for that costs 2 µs."""
CLEARED = "cleared"
"""A file beside the replies, which ``clear`` makes one byte longer each time."""
PENDING_BYTES = 64 << 20
"""More than this waiting to be written, and the caller writes it: rows are never dropped because the disk is slow."""


class _Held(NamedTuple):
    reply: Reply
    size: int
    expires: float | None


class _Waiting(NamedTuple):
    data: bytes
    reply: Reply
    expires: float | None


class Memory:
    """The replies used last, bounded by count and by bytes (of their JSON)."""

    def __init__(self, entries: int, size: int) -> None:
        self._limit, self._size_limit = entries, size
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Reply | None:
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return None
            if held.expires is not None and held.expires <= time.time():
                self._drop(key)
                return None
            self._held.move_to_end(key)
            return held.reply

    def put(self, key: str, reply: Reply, size: int, expires: float | None) -> None:
        with self._lock:
            if key in self._held:
                self._drop(key)
            self._held[key] = _Held(reply, size, expires)
            self._size += size
            while self._held and (len(self._held) > self._limit or self._size > self._size_limit):
                self._drop(next(iter(self._held)))

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
            self._size = 0

    def _drop(self, key: str) -> None:
        self._size -= self._held.pop(key).size


class Replies:
    """The replies on ``shelf``, which live ``ttl`` seconds (``None``: until pruned by size).

    ``tidy`` is called by the writer's thread after each batch; it must not raise.
    """

    def __init__(
        self,
        shelf: Shelf,
        trouble: Trouble,
        *,
        ttl: float | None = None,
        memory_entries: int = 4096,
        memory_bytes: int = 32 << 20,
        linger: float = LINGER_SECONDS,
        tidy: Callable[[], None] | None = None,
    ) -> None:
        self._shelf = shelf
        self._marker = os.path.join(shelf.directory, CLEARED)
        self._trouble = trouble
        self._ttl = ttl
        self._bounds = (memory_entries, memory_bytes)
        self._linger = linger
        self._tidy = tidy
        self._hooked = False
        self._reset()

    def _reset(self) -> None:
        """Everything that a child process must not share with its parent."""
        self._pid = os.getpid()
        self._memory = Memory(*self._bounds)
        self._looked, self._cleared = 0.0, self._times_cleared()
        self._pending: dict[str, _Waiting] = {}
        self._pending_bytes = 0
        self._writing: dict[str, _Waiting] = {}
        self._callbacks: dict[Callable[[list[Any]], None], list[Any]] = {}
        self._lock = threading.Lock()
        # Held while SQLite is at work for a batch; a fork waits for it (see _register).
        self._gate = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._gated = False
        self._thread: threading.Thread | None = None

    # --- reading ------------------------------------------------------------------------------------------

    def get(self, key: str) -> Reply | None:
        """The complete reply kept under ``key``. Raises :class:`TamperedError` for a changed row."""
        if self._pid != os.getpid():
            self._reset()
        memory = self._current()
        reply = memory.get(key)
        if reply is not None:
            return reply
        waiting = self._pending.get(key) or self._writing.get(key)
        if waiting is not None:
            return waiting.reply if waiting.expires is None or waiting.expires > time.time() else None
        try:
            cache = self._shelf.reading()
            found = None if cache is None else cache.value(key)
        except OSError as error:
            self._trouble.tell(error)
            return None
        if found is None:
            return None
        data, expires = found
        reply = read_reply(key, data)
        memory.put(key, reply, len(data), expires)
        return reply

    def _current(self) -> Memory:
        """The memory, an empty one when the replies were cleared."""
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            cleared = self._times_cleared()
            if cleared != self._cleared:
                # A new one, not an emptied one: a thread that read an old reply from the disk must not put it into it.
                self._memory, self._cleared = Memory(*self._bounds), cleared
        return self._memory

    def _times_cleared(self) -> tuple[int, int]:
        """What is another whenever the replies were cleared, or their folder was removed after that."""
        try:
            found = os.stat(self._marker)
        except OSError:
            return 0, 0
        return found.st_ino, found.st_size

    # --- writing ------------------------------------------------------------------------------------------

    def put(self, key: str, reply: Reply) -> None:
        """Keeps a complete reply; a truncated, refused, filtered or aborted one is ignored."""
        if not reply.complete:
            return
        if self._pid != os.getpid():
            self._reset()
        data = seal(_encode(reply), key)
        expires = None if self._ttl is None else time.time() + self._ttl
        self._memory.put(key, reply, len(data), expires)
        with self._lock:
            self._pending[key] = _Waiting(data, reply, expires)
            self._pending_bytes += len(data)
            crowded = self._pending_bytes > PENDING_BYTES
            if self._thread is None:
                self._start()
            self._call_writer()
        if crowded:
            self._write_out()
        self._trouble.say()

    def when_kept(self, done: Callable[[list[T]], None], what: T) -> None:
        """Calls ``done`` with ``what`` once everything put so far is on disk (or could not be written): at once, or by the writer.

        All that was given with one ``done`` for one batch comes in one call.
        """
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            if self._pending or self._writing:
                self._callbacks.setdefault(done, []).append(what)
                if self._thread is None:
                    self._start()
                # The batch under way took its callbacks with it; without this nobody would look at ours.
                self._call_writer()
                return
        done([what])

    def _call_writer(self) -> None:
        # Setting it again would cost a lock. Who clears it looks at what waits only afterwards.
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Writes what waits, in the caller's thread."""
        if self._pid != os.getpid():
            self._reset()
        self._write_out()
        self._trouble.say()

    def close(self) -> None:
        """Writes what waits and ends the writer; a later :meth:`put` starts it again."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            thread, self._thread = self._thread, None
            stop, self._stop = self._stop, threading.Event()
            stop.set()
            wake, self._wake = self._wake, threading.Event()
            wake.set()
        self._write_out()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
            atexit.unregister(self.close)
        self._trouble.say()

    def forget(self) -> None:
        """Drops what is in memory and what waits to be written; for ``clear``."""
        if self._pid != os.getpid():
            self._reset()
        with self._gate, self._lock:
            self._pending, self._pending_bytes = {}, 0
            self._memory.clear()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, args=(self._wake, self._stop), name="promptsmith-replies", daemon=True)
        self._thread.start()
        self._register()

    def _register(self) -> None:
        # Registered only now, so that a store that is never written to leaves nothing behind.
        atexit.register(self.close)
        if "multiprocessing.util" in sys.modules:
            # Children of multiprocessing end without running atexit (until Python 3.13).
            from multiprocessing.util import Finalize

            Finalize(None, _call, args=(weakref.ref(self), Replies.close), exitpriority=10)
        if hasattr(os, "register_at_fork") and not self._hooked:
            self._hooked = True  # such a hook can't be taken back, and a second one would wait for the first
            # A child made while SQLite holds a mutex would wait for it for ever: the fork waits for the batch instead.
            me = weakref.ref(self)
            os.register_at_fork(before=lambda: _call(me, Replies.before_fork), after_in_parent=lambda: _call(me, Replies.after_fork))

    def before_fork(self) -> None:
        """Waits for the batch that is being written."""
        if self._pid == os.getpid():
            # Not for ever: a fork must not hang because a disk does.
            self._gated = self._gate.acquire(timeout=5.0)

    def after_fork(self) -> None:
        """Lets the writer of the parent go on."""
        if self._gated:
            self._gated = False
            self._gate.release()

    def _work(self, wake: threading.Event, stop: threading.Event) -> None:
        while not stop.is_set():
            wake.wait()
            stop.wait(self._linger)
            wake.clear()
            self._write_out()
            if self._tidy is not None and not stop.is_set():
                with self._gate:
                    self._tidy()

    def _write_out(self) -> None:
        with self._gate:
            with self._lock:
                # In this order: a reader without the lock finds a row in one of the two at every moment.
                rows = self._writing = self._pending
                self._pending, self._pending_bytes = {}, 0
                callbacks, self._callbacks = self._callbacks, {}
            try:
                if rows:
                    self._store(rows)
            finally:
                self._writing = {}
                for done, what in callbacks.items():
                    done(what)

    def _store(self, rows: dict[str, _Waiting]) -> None:
        from .disk import Row

        try:
            self._shelf.writing().write([Row(key, row.data, row.expires) for key, row in rows.items()])
        except OSError as error:
            self._trouble.note(error)
        except StoreError as error:
            # A damaged file: the writer must live on, and the next caller who reads hears of it.
            self._trouble.note(OSError(None, error.message))


def read_reply(key: str, data: object) -> Reply:
    """The reply in a row. Raises :class:`TamperedError` for a wrong digest or shape, or a reply that is not complete."""
    body = unseal(data, f"reply {key[:12]} in the cache", key)
    try:
        reply = msgspec.json.decode(body, type=Reply)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TamperedError(f"reply {key[:12]} in the cache can't be read ({error})") from None
    if not reply.complete:
        raise TamperedError(f"reply {key[:12]} in the cache is not complete; such replies are never kept")
    return reply


def _call(me: weakref.ref[Replies], method: Callable[[Replies], None]) -> None:
    replies = me()
    if replies is not None:
        method(replies)
