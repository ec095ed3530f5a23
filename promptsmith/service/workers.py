"""All workers of one service: several processes on one port, kept running, told together what they are told."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from ..config import Project
from ..errors import InputError, PromptsmithError, RegistryError
from ..registry.opening import open_registry
from .cells import clear
from .logs import Log
from .opening import open_keys
from .worker import FOLDER, METRICS, listening, raise_file_limit, read_again, run, tls_context

_SOON_SECONDS = 5.0
"""A worker that ends sooner than this is not started again at once."""
_LONGEST_PAUSE = 10.0
_PAUSE = 0.05
_NUMBER = struct.Struct("=I")
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


def serve(project: Project, log: Log, ready: Callable[[str], None]) -> None:
    """Serves until a signal ends it; ``ready`` is told the address once requests are answered there.

    Raises :class:`InputError` for settings that can't work, before anything is answered.
    """
    if hasattr(signal, "SIGHUP"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # it waits until there is somebody to read the settings again
    settings = project.config.service
    closed = check_reach(project)
    tls = tls_context(project)
    raise_file_limit()
    clear(project.cache / FOLDER / METRICS)
    several = settings.workers > 1
    if several and not hasattr(os, "fork"):
        raise InputError("more than one worker needs a system with fork", hint="workers = 1")
    if several and settings.port:
        listening(settings.host, settings.port, shared=False).close()  # another service that shares the port would get half of the calls
    first = listening(settings.host, settings.port, shared=several)
    address = _address(first, settings.host, secure=tls is not None)
    log.event("started", address=address, workers=settings.workers, pid=os.getpid())
    if several:
        _Crew(project, log, first, closed=closed).run(lambda: ready(address))
    else:
        run(project, 0, first, log, None, lambda: ready(address), closed=closed)


def check_reach(project: Project) -> bool:
    """Whether the service asks for a key, whatever becomes of the keys while it runs.

    Raises :class:`InputError` for one that anybody could reach and that asks for no key.
    """
    host = project.config.service.host
    registry = open_registry(project)  # not patient: where a copy is, a start waits for no database
    try:
        keys = open_keys(project, registry).keys()
    except RegistryError as error:
        if error.retryable:
            return True  # nobody knows the keys, so nobody is let in until the database is back
        raise
    finally:
        registry.close()
    if _is_loopback(host):
        return bool(keys)
    if any(key.revoked is None for key in keys):
        return True
    raise InputError(
        f"the service would listen on {host}, beyond this machine, and no key is asked for",
        hint="promptsmith keys add NAME makes one; or listen on 127.0.0.1",
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(listener: socket.socket, host: str, *, secure: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{listener.getsockname()[1]}"


class _Crew:
    """The parent of the workers. It answers nothing itself."""

    def __init__(self, project: Project, log: Log, first: socket.socket, *, closed: bool) -> None:
        self._project, self._log, self._closed = project, log, closed
        # Bound and not listening: it keeps the port, and gets no connection.
        self._first = first
        self._host, self._port = project.config.service.host, first.getsockname()[1]
        self._alive: dict[int, tuple[int, float]] = {}
        self._again: dict[int, float] = {}
        self._failures = 0
        self._ending = False
        self._mine, self._theirs = os.pipe()
        self._told, self._telling = os.pipe()
        """By which workers say that they answer."""

    def run(self, ready: Callable[[], None]) -> None:
        """Until all have ended. ``ready`` is called when as many answer as there are to be."""
        for name in _SIGNALS:
            signal.signal(name, self._hup if name == signal.SIGHUP else self._end)
        if hasattr(signal, "SIGHUP"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        silent = set(range(self._project.config.service.workers))
        for number in silent:
            self._start(number)
        while self._alive or (self._again and not self._ending):
            now = time.monotonic()
            for number, at in list(self._again.items()):
                if at <= now and not self._ending:
                    del self._again[number]
                    self._start(number)
            pid, status = self._ended()
            if pid:
                self._gone(pid, status)
            elif silent:
                silent -= self._heard()
                if not silent:
                    ready()
            else:
                self._heard()
        self._first.close()

    def _heard(self) -> set[int]:
        """The workers that have begun to answer; waits a moment for one."""
        found, _, _ = select.select([self._told], [], [], _PAUSE)
        return {number for (number,) in _NUMBER.iter_unpack(os.read(self._told, 1024 * _NUMBER.size))} if found else set()

    @staticmethod
    def _ended() -> tuple[int, int]:
        try:
            return os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0, 0

    def _gone(self, pid: int, status: int) -> None:
        number, since = self._alive.pop(pid, (-1, 0.0))
        if number < 0 or self._ending:
            return
        lived = time.monotonic() - since
        self._failures = self._failures + 1 if lived < _SOON_SECONDS else 0
        pause = min(_LONGEST_PAUSE, 0.1 * 2**self._failures) if self._failures else 0.0
        self._log.event("trouble", "error", worker=number, error=f"worker {number} ended ({_how(status)}); a new one starts")
        self._again[number] = time.monotonic() + pause

    def _start(self, number: int) -> None:
        # A signal in between would be the parent's, and the new worker would never be told to end.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork() if not self._ending else -1
            if pid > 0:
                self._alive[pid] = number, time.monotonic()
            elif pid == 0:
                for name in _SIGNALS:
                    signal.signal(name, signal.SIG_DFL)
                before = {*before, signal.SIGHUP}  # which it hears once it can do something about it
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if pid == 0:
            self._work(number)

    def _work(self, number: int) -> NoReturn:
        """What the child does."""
        code = 1
        try:
            os.close(self._theirs)
            os.close(self._told)
            listener = listening(self._host, self._port, shared=True)
            run(self._project, number, listener, self._log, self._mine, lambda: self._tell(number), closed=self._closed)
            code = 0
        except BaseException as error:
            self._log.event("trouble", "error", worker=number, error=f"{type(error).__name__}: {error}")
        finally:
            # Not sys.exit: what the parent has open, and would do at its end, is the parent's.
            sys.stdout.flush()
            os._exit(code)

    def _tell(self, number: int) -> None:
        os.write(self._telling, _NUMBER.pack(number))  # so few bytes come as one piece

    def _end(self, *_: object) -> None:
        self._ending = True
        self._all(signal.SIGTERM)

    def _hup(self, *_: object) -> None:
        with contextlib.suppress(PromptsmithError):  # the workers say what is wrong with the settings
            self._project = read_again(self._project)
        self._all(signal.SIGHUP)

    def _all(self, number: int) -> None:
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _how(status: int) -> str:
    number = os.waitstatus_to_exitcode(status)
    return f"killed by {signal.Signals(-number).name}" if number < 0 else f"with status {number}"
