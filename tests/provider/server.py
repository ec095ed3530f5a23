"""The provider as a server: a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from aiohttp import web

from .answers import echo
from .cache import PrefixCache
from .faults import Schedule
from .records import Records
from .service import Service
from .settings import Settings
from .values import Answer

_HOST = "127.0.0.1"
_BACKLOG = 1024


class Provider:
    """A provider of models on the loopback interface, for as long as its ``with`` block lasts.

    ``answer``, ``faults``, ``records`` and ``cache`` may be used from any thread while it runs. An answer function
    that raised makes ``stop`` raise, so that a broken test can't pass for a failing provider.
    """

    def __init__(self, answer: Answer = echo, settings: Settings | None = None, *, port: int = 0) -> None:
        self.settings = settings or Settings()
        self.records = Records(self.settings.keep_records)
        self.faults = Schedule()
        self.cache = PrefixCache(
            clock=self.settings.clock,
            count=self.settings.count,
            keyless_hits=self.settings.keyless_hits,
            key_rpm=self.settings.key_rpm,
        )
        self.port = port
        self._answer = answer
        self._service: Service | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    @property
    def base_url_openai(self) -> str:
        return f"{self.url}/v1"

    @property
    def base_url_anthropic(self) -> str:
        return self.url

    @property
    def answer(self) -> Answer:
        return self._answer

    @answer.setter
    def answer(self, answer: Answer) -> None:
        self._answer = answer
        if self._service is not None:
            self._service.answer = answer

    def start(self) -> None:
        """Returns when connections are accepted; ``port`` is known from then on."""
        ready = threading.Event()
        # A thread, not a process: tests read its records, and change its answers, as plain values.
        self._thread = threading.Thread(target=self._run, args=(ready,), name="loopback provider", daemon=True)
        self._thread.start()
        ready.wait()
        if self._problem is not None:
            self._thread.join()
            raise self._problem

    def stop(self) -> None:
        """Ends all connections. Raises what an answer function raised."""
        if self._thread is None or self._loop is None or self._service is None:
            return
        self._loop.call_soon_threadsafe(self._service.stopping.set)
        self._thread.join()
        self._thread = None
        if self._problem is not None:
            raise self._problem
        if self._service.problems:
            raise self._service.problems[0]

    def __enter__(self) -> Provider:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.stop()
            return
        # The block's own error matters more than one that an answer function raised.
        with contextlib.suppress(Exception):
            self.stop()

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self.serve(ready.set))
        except BaseException as error:  # handed to the thread that waits in start() or stop()
            self._problem = error
        finally:
            ready.set()

    async def serve(self, ready: Callable[[], object]) -> None:
        """Serves in the running event loop until ``stop`` or cancellation; calls ``ready`` once connections are accepted."""
        self._loop = asyncio.get_running_loop()
        self._service = service = Service(self._answer, self.settings, self.faults, self.records, self.cache)
        server = web.Server(service.handle, handler_cancellation=True, access_log=None)
        # Requests are handled at once: what still runs when the provider stops is hanging on purpose.
        runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await runner.setup()
        site = web.TCPSite(runner, _HOST, self.port, backlog=_BACKLOG)
        try:
            await site.start()
            self.port = runner.addresses[0][1]
            ready()
            await service.stopping.wait()
        finally:
            service.stopping.set()
            await runner.cleanup()
            await asyncio.sleep(0)
            await server.shutdown(0.0)  # what was just being accepted


@contextlib.contextmanager
def refused_url() -> Iterator[str]:
    """The address of a port where nobody listens, and where nobody can begin to while the block lasts."""
    with socket.socket() as taken:
        taken.bind((_HOST, 0))
        yield f"http://{_HOST}:{taken.getsockname()[1]}"
