"""One thread per process that holds a connection, listens for moves, and comes back after every loss."""

from __future__ import annotations

import os
import socket
import threading
import weakref
from contextlib import suppress
from random import SystemRandom
from typing import TYPE_CHECKING, Protocol

from ...errors import PromptsmithError, RegistryError
from .connection import Database

if TYPE_CHECKING:
    from psycopg import Connection

CHANNEL = "promptsmith"
POLL_SECONDS = 10.0
"""How often it looks without being told: behind a pooler that drops notifications, a promotion still arrives."""
HANG_SECONDS, FIRST_SECONDS = 5.0, 60.0
"""How long one look may take; the first one, which loads everything, longer."""
_TURN_SECONDS = 0.5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


class Owner(Protocol):
    """Who wants to know. Every method is called in the listener's thread."""

    def refresh(self, conn: Connection, *, whole: bool) -> None:
        """Something may have changed; with ``whole``, anything may have."""
        ...

    def lost(self, error: PromptsmithError) -> None:
        """The database is out of reach."""
        ...


class Listener:
    """Starts at once, and ends when its owner is gone.

    ``connecting`` is set when it begins to connect, ``settled`` when the first try has ended.
    """

    def __init__(self, database: Database, owner: Owner) -> None:
        self._database = database
        self._owner = weakref.ref(owner)
        self._stop = threading.Event()
        self._patience = FIRST_SECONDS
        self.connecting = threading.Event()
        self.settled = threading.Event()
        threading.Thread(target=self._run, name="promptsmith-registry", daemon=True).start()

    def close(self) -> None:
        """Ends the thread within a turn; nobody waits for it."""
        self._stop.set()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._over():
            try:
                self._load()
                with self._database.told(), self._database.connect() as conn:
                    self._heed(conn)
                    pause = _FIRST_PAUSE
                    self._listen(conn)
            except PromptsmithError as error:
                self._lost(error)
            except Exception as error:  # a thread that ends would leave everybody with what was, and nobody would know
                self._lost(RegistryError(f"the registry can't be read: {self._database.address.told(error)}"))
            self.settled.set()
            self._stop.wait(pause * SystemRandom().uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _over(self) -> bool:
        return self._stop.is_set() or self._owner() is None

    def _load(self) -> None:
        # Apart from the connecting: how long it takes says nothing about the database.
        try:
            import psycopg  # noqa: F401
        finally:
            self.connecting.set()

    def _heed(self, conn: Connection) -> None:
        conn.execute(f"LISTEN {CHANNEL}")
        self._refresh(conn, whole=True)
        self.settled.set()

    def _listen(self, conn: Connection) -> None:
        idle = 0.0
        while not self._over():
            told = sum(1 for _ in conn.notifies(timeout=_TURN_SECONDS, stop_after=1))
            idle = 0.0 if told else idle + _TURN_SECONDS
            if told or idle >= POLL_SECONDS:
                self._refresh(conn, whole=False)
                idle = 0.0

    def _refresh(self, conn: Connection, *, whole: bool) -> None:
        owner = self._owner()
        if owner is None:
            return
        # One that takes connections and says no word more is as good as dead; libpq would wait for it for ever.
        waiting = threading.Timer(self._patience, _cut_off, (conn,))
        waiting.daemon = True
        waiting.start()
        try:
            owner.refresh(conn, whole=whole)
        finally:
            waiting.cancel()
        self._patience = HANG_SECONDS

    def _lost(self, error: PromptsmithError) -> None:
        owner = self._owner()
        if owner is not None and not self._stop.is_set():
            owner.lost(error)


def _cut_off(conn: Connection) -> None:
    with suppress(Exception), socket.socket(fileno=os.dup(conn.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


__all__ = ["CHANNEL", "POLL_SECONDS", "Listener", "Owner"]
