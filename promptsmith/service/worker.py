"""One worker process: it listens, answers, reloads when told to, and ends only when its requests have."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..canary import Watch
from ..config import Project, find_project, section_problem
from ..errors import InputError, PromptsmithError, SourceError
from ..registry.canaries import Canary
from ..registry.canary_stores import open_canaries
from ..runtime.asynchronous import AsyncRuntime
from ..runtime.core import Core
from ..store.counters import SharedCounters
from ..store.layout import LEDGER
from . import http as web
from .app import App, Web
from .arms import Arms
from .door import Door
from .ending import Ending
from .keys import KeyStore
from .logs import Log
from .metrics import Metrics
from .opening import open_keys, open_shipper
from .quotas import Quotas
from .telemetry import open_telemetry
from .visit import Visit

if TYPE_CHECKING:
    from .activity import Activity
    from .shipping import Shipper

_BACKLOG = 4096
_LOOK_SECONDS = 1.0
_GC_OBJECTS, _GC_TURNS = 20_000, (5, 5)
"""Young objects until they are looked through, and how often that is until older ones are: all of them are few, once what is there
at the start is frozen."""
FOLDER, METRICS = "service", "metrics"
"""In the cache folder: what the workers of a machine share, and in it their figures."""


class Worker:
    """The application of one process, and the server around it."""

    def __init__(self, project: Project, number: int, log: Log, tls: ssl.SSLContext | None, *, closed: bool) -> None:
        self.number, self.log, self._tls, self._closed = number, log, tls, closed
        self.folder = project.cache / FOLDER
        self._metrics = Metrics(self.folder / METRICS, number, ledger=project.cache / LEDGER)
        self._quotas = Quotas(SharedCounters(self.folder / "quotas"))
        self._telemetry = open_telemetry(os.environ)
        self._retiring: dict[asyncio.Task[None], App] = {}
        """Applications that were replaced, and still have requests under way."""
        self.app = self._made(project)
        self._server = web.Server(self._answer, _limits(project), self._refused)
        self._ending = asyncio.Event()
        self._shipper: Shipper | None = None

    def _made(self, project: Project) -> App:
        core = AsyncRuntime(project, lean=True)
        watch = Watch(core.canaries, core.resolver.registry, self._changed)
        keys = open_keys(project, core.resolver.registry)
        door = Door(keys, self._quotas, closed=self._closed)
        ending = Ending(self._metrics, self.log, door, watch, self._telemetry)
        return App(core, door, Arms(core, watch), ending, self._pages(core, door, watch, keys))

    def _pages(self, core: Core, door: Door, watch: Watch, keys: KeyStore) -> Web:
        """The pages, made when first asked for: what they need takes longer to load than all the rest."""
        making: list[asyncio.Future[Web]] = []

        async def pages(request: web.Request, path: str, visit: Visit) -> web.StreamResponse | None:
            if not making or (making[0].done() and making[0].exception() is not None):
                making[:] = [asyncio.ensure_future(asyncio.to_thread(self._made_pages, core, door, watch, keys))]
            # Not the one that came first alone: all wait for it, and it goes on when its client leaves.
            return await (await asyncio.shield(making[0]))(request, path, visit)

        return pages

    def _made_pages(self, core: Core, door: Door, watch: Watch, keys: KeyStore) -> Web:
        from .moves import Moves
        from .sessions import Sessions
        from .web import Pages
        from .web_values import Sources

        sources = Sources(core.resolver, self._activity, self._metrics.prompts, watch.store)
        sessions = Sessions(self.folder / "session.key", keys)
        secure = bool(core.project.config.service.tls_cert)
        # They are made in threads, and what they say has happened: they wait for a database.
        moves = Moves(core.resolver, open_canaries(core.project, core.resolver.registry, patient=True), self._changed)
        return Pages(core, door, sources, sessions, moves, secure=secure)

    def _changed(self, canary: Canary) -> None:
        about = {"task": canary.task, "alias": canary.alias, "canary": canary.id, "became": canary.state, "why": canary.why}
        self.log.event("canary", "warning", **about)

    @cached_property
    def _activity(self) -> Activity:
        """One for all applications of this process: it goes on where it was when the settings are read again."""
        from .activity import Activity

        return Activity(self.folder.parent / LEDGER, self.folder / "activity.json")

    def _answer(self, request: web.Request) -> Awaitable[web.StreamResponse]:
        return self.app(request)  # whichever it is by then

    def _refused(self, request: web.Request, status: int, text: str) -> None:
        self.app.refused(request, status, text)

    async def serve(self, listener: socket.socket, ready: Callable[[], None]) -> None:
        """Answers until :meth:`end`; then lets what is under way finish."""
        loop = asyncio.get_running_loop()
        handshake = self.app.settings.body_seconds if self._tls is not None else None
        server = await loop.create_server(self._server, sock=listener, ssl=self._tls, ssl_handshake_timeout=handshake, backlog=_BACKLOG)
        watching = loop.create_task(self._look())
        self._ships()
        # What is there now stays: looking through it for garbage again and again took a fifth of a request's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_OBJECTS, *_GC_TURNS)
        self.log.together(loop)
        ready()
        warming = asyncio.ensure_future(asyncio.to_thread(self._warm))
        try:
            await self._ending.wait()
            await self._drained(server)
        finally:
            self.log.flush()
            watching.cancel()
            await warming
            await self.app.arms.close()
            if self._shipper is not None:
                await asyncio.to_thread(self._shipper.close)
            await asyncio.to_thread(self.app.core.close)
            self._metrics.close()
            if self._telemetry is not None:
                await asyncio.to_thread(self._telemetry.close)

    def _warm(self) -> None:
        """Looks up the prices of the models in production: the list of prices takes longer to load than many requests."""
        core = self.app.core
        for task in core.resolver.tasks():
            with contextlib.suppress(PromptsmithError):
                core.directory.rates.find(core.resolver.resolve(task).prompt.model)

    def _ships(self) -> None:
        """Ships the ledger into the registry that the settings name now."""
        core = self.app.core
        old, self._shipper = self._shipper, open_shipper(core.project, core.resolver.registry)
        if old is not None:
            threading.Thread(target=old.close, daemon=True).start()  # it ships what is left first
        if self._shipper is not None:
            self._shipper.start()

    def end(self) -> None:
        """Takes no further connections, and ends when the requests under way have been answered."""
        self._ending.set()

    def reload(self) -> None:
        """Reads the settings again. With a mistake in them the old ones stay, and the log names it."""
        if self._ending.is_set():
            self._stays("the service is ending")
            return
        try:
            project = read_again(self.app.core.project)
            self._closed = self._closed or not self.app.door.open()  # what was closed once does not open by itself
            if not project.config.registry:
                open_keys(project).keys()  # a damaged file is gone on without by who has read it before, and by no new application
            if self._tls is not None:
                _load(self._tls, project)
            old, self.app = self.app, self._made(project)
            self._server.limits = _limits(project)
            self._ships()
        except PromptsmithError as error:
            self._stays(error.message)
            return
        task = asyncio.get_running_loop().create_task(self._retired(old))
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)
        self.log.event("reloaded", worker=self.number)

    def _stays(self, why: str) -> None:
        self.log.event("trouble", "error", worker=self.number, error=f"the settings were not reloaded: {why}")

    @staticmethod
    async def _retired(app: App) -> None:
        """Lets an application that was replaced answer what it has under way."""
        app.draining = True
        await app.idle()
        await app.arms.close()
        await asyncio.to_thread(app.core.close)  # which a database may keep waiting, and nobody else

    @property
    def _apps(self) -> list[App]:
        """Those that have requests, the newest first."""
        return [self.app, *self._retiring.values()]

    async def _drained(self, server: asyncio.Server) -> None:
        settings = self.app.settings
        self.app.draining = True
        self.log.event("draining", worker=self.number, under_way=self.app.under_way)
        server.close()
        self._server.pre_shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_seconds):
                await asyncio.gather(self.app.idle(), *self._retiring)
                await self._server.sent()
        cut_off = sum(app.under_way for app in self._apps)
        await self._server.shutdown(timeout=1.0)
        self.log.event("stopped", worker=self.number, cut_off=cut_off)

    async def _look(self) -> None:
        """Ends requests that take too long."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for app in self._apps:
                app.end_late()


def _limits(project: Project) -> web.Limits:
    settings = project.config.service
    return web.Limits(settings.header_kib * 1024, head_seconds=settings.body_seconds, idle_seconds=settings.idle_seconds)


def listening(host: str, port: int, *, shared: bool) -> socket.socket:
    """A bound socket, which several processes can have at once if ``shared``. Raises :class:`InputError` when it can't be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"the service can't listen on {host}: {error.strerror or error}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise InputError(
            f"the service can't listen on {host}:{port}: {error.strerror or error}", hint="is another one running? --port names another"
        ) from None
    return made


def read_again(running: Project) -> Project:
    """The project as its settings are now. Raises :class:`PromptsmithError` for those that can't be gone on with, which changes nothing."""
    project = find_project(running.root)
    secure = tls_context(project) is not None
    if secure != bool(running.config.service.tls_cert):
        what = "tls_cert is set now, and the service runs without TLS" if secure else "tls_cert is gone, and the service runs with TLS"
        raise InputError(f"{what}: switching it on or off takes a restart")
    return project


def tls_context(project: Project) -> ssl.SSLContext | None:
    """What the settings' certificate makes; ``None`` without one. Raises :class:`SourceError` for files that can't be used."""
    if not project.config.service.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load(context, project)
    return context


def _load(context: ssl.SSLContext, project: Project) -> None:
    """Connections from now on get the certificate that the settings' files hold now.

    One that is half loaded would serve nobody: files that are new are tried on another context first.
    """
    cert, key = _pem(project, "tls_cert"), _pem(project, "tls_key")
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        what = f"{cert.name} and {key.name} are no certificate and its key: {error}"
        raise SourceError([section_problem(project, ("service", "tls_cert"), what, "")]) from None


def _pem(project: Project, setting: Literal["tls_cert", "tls_key"]) -> Path:
    settings = project.config.service
    file = project.root / os.path.expanduser(settings.tls_cert if setting == "tls_cert" else settings.tls_key)
    if not file.is_file():
        right = "it names a PEM file, relative to the project"
        raise SourceError([section_problem(project, ("service", setting), f"{setting}: there is no file {file}", right)])
    return file


def run(
    project: Project, number: int, listener: socket.socket, log: Log, parent: int | None, ready: Callable[[], None], *, closed: bool
) -> None:
    """One worker from start to end. It ends by SIGTERM or SIGINT, and when ``parent`` (the reading end of a pipe) does.

    ``closed``: it asks for a key even if there is none (any more).
    """
    tls = tls_context(project)

    async def main() -> None:
        worker = Worker(project, number, log, tls, closed=closed)
        loop = asyncio.get_running_loop()

        def orphaned(pipe: int) -> None:
            loop.remove_reader(pipe)  # its end can be read for ever
            worker.end()

        for name in ("SIGTERM", "SIGINT"):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(getattr(signal, name), worker.end)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, worker.reload)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # one that came while it started
        if parent is not None:
            loop.add_reader(parent, orphaned, parent)
        await worker.serve(listener, ready)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # it is not to be had on Windows
        return None
    return uvloop.new_event_loop


def raise_file_limit() -> None:
    """As many open connections as the system lets this process have."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard))
