"""One daemon thread with an event loop per process, for callers that are not async.

Made on first use, made anew in a forked child (checked by pid), stopped when the process ends. anyio's blocking
portal was measured: it is slower, keeps an unclosed process alive, and holds Ctrl-C until the call has ended.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import InputError

T = TypeVar("T")

_LAST_SECONDS = 0.05
"""How long cancelled tasks may take to end when the process does."""


class LoopThread:
    """Runs coroutines for blocking callers."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result. Ctrl-C (or any other exception in the waiting thread) cancels it at once.

        Raises :class:`InputError` when called from the loop's own thread, which would wait for itself.
        """
        future = self.start(coroutine)
        try:
            return future.result()
        except BaseException:
            # Not only the coroutine's own errors arrive here: Ctrl-C interrupts the wait.
            future.cancel()
            raise

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """The coroutine begun in the loop. Raises like :meth:`wait`."""
        loop = self._running()
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise InputError(
                "the sync Runtime was called from promptsmith's own event loop, which would wait for itself",
                hint="use AsyncRuntime with await in async code",
            )
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is not None and self._pid == os.getpid():
            return self._loop
        with self._guard:
            if self._loop is None or self._pid != os.getpid():
                self._start()
            assert self._loop is not None
            return self._loop

    def _forked(self) -> None:
        # Here and not at the next call, where the child's first threads could each make a lock, and a loop, of their own.
        self._guard = threading.Lock()
        self._loop = self._thread = None

    def _start(self) -> None:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(loop,), name="promptsmith", daemon=True)
        self._thread.start()
        self._loop, self._pid = loop, os.getpid()
        atexit.register(self._stop, self._pid)

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _stop(self, pid: int) -> None:
        loop, thread = self._loop, self._thread
        if pid != os.getpid() or loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_wind_up(), loop)
        thread.join(timeout=2)
        self._loop = None


async def _wind_up() -> None:
    """Cancels what still runs, lets it end, and stops the loop: at once where nothing runs, for every process waits for this."""
    loop, current = asyncio.get_running_loop(), asyncio.current_task()
    running = [task for task in asyncio.all_tasks() if task is not current]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=_LAST_SECONDS)
    await loop.shutdown_asyncgens()  # as asyncio.run does; connections are closed by it, too
    loop.stop()


LOOP = LoopThread()
"""The process's one loop thread. Not configuration: it has no state that a caller could see."""
