"""Connections to the database: migrated, with errors for people, and without a password in any of them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ...errors import RegistryError
from .address import Address
from .migrating import migrate

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg_pool import ConnectionPool

CONNECT_SECONDS = 5
_POOL_SECONDS = 2.0
_SETTINGS: dict[str, Any] = {
    "application_name": "promptsmith",
    "client_encoding": "utf8",
    "connect_timeout": CONNECT_SECONDS,
    # A server that is gone without a word is noticed within some ten seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_BUSY = frozenset({"55P03", "57014"})
"""A lock that was not to be had in time, a statement that took too long."""


class Database:
    """One database. Connections commit by themselves; a transaction is opened where one is needed. Safe between threads.

    Raises :class:`RegistryError` at once when psycopg is not installed.
    """

    def __init__(self, address: Address) -> None:
        if find_spec("psycopg") is None or find_spec("psycopg_pool") is None:
            raise RegistryError(
                "a registry in PostgreSQL needs psycopg, which is not installed", hint="pip install 'promptsmith[postgres]'"
            )
        self.address = address
        # Whatever goes wrong is told by our errors; without a handler its log (of the pool too) would go to stderr.
        logging.getLogger("psycopg").addHandler(logging.NullHandler())
        self._pool: ConnectionPool[Connection] | None = None
        self._used = False
        self._own()

    def _own(self) -> None:
        # Connections and locks of the process that this one was forked from are not ours.
        self._guard, self._pid = threading.Lock(), os.getpid()
        self._forked, self._pool = self._pool, None

    def connect(self) -> Connection:
        """A connection of its own, to a database that is up to date. Raises :class:`RegistryError`."""
        import psycopg

        with self.told():
            conn = psycopg.connect(self.address.url, autocommit=True, prepare_threshold=None, **self._settings())
        try:
            with self.told():
                migrate(conn)
        except BaseException:
            conn.close()
            raise
        return conn

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection for some statements: the first time one of its own, later one of the pool. Raises :class:`RegistryError`."""
        if self._pid != os.getpid():
            self._own()
        pooled = self._pooled()
        if pooled is None:
            with self.connect() as conn, self.told():
                yield conn
            return
        pool, conn = pooled
        try:
            with self.told():
                yield conn
        finally:
            pool.putconn(conn)

    def _pooled(self) -> tuple[ConnectionPool[Connection], Connection] | None:
        """``None`` at the first use, since a pool says nothing of why it can't connect, and as long as it can't."""
        from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

        with self._guard:
            if self._pool is None and self._used:
                kwargs = {"autocommit": True, "prepare_threshold": None, **self._settings()}
                self._pool = ConnectionPool(
                    self.address.url, min_size=0, max_size=4, max_idle=60, kwargs=kwargs, check=ConnectionPool.check_connection, open=True
                )
            pool, self._used = self._pool, True
        if pool is None:
            return None
        try:
            return pool, pool.getconn(timeout=_POOL_SECONDS)
        except (PoolTimeout, PoolClosed):
            return None

    def _settings(self) -> dict[str, Any]:
        """Ours, but for those that the address decides itself."""
        return {name: value for name, value in _SETTINGS.items() if f"{name}=" not in self.address.url}

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turns an error of psycopg into a :class:`RegistryError`."""
        import psycopg

        try:
            yield
        except psycopg.OperationalError as error:
            what = f"the registry {self.address.label} does not answer: {self.address.told(error)}"
            busy = error.sqlstate in _BUSY
            hint = "somebody holds it for long: try again" if busy else "is the database up, and are the name and the password right?"
            raise RegistryError(what, retryable=True, hint=hint) from None
        except psycopg.Error as error:
            what = f"the registry {self.address.label} does not do what it is asked: {self.address.told(error)}"
            rights = "the role needs rights on the tables promptsmith_*, and to make them the first time"
            raise RegistryError(what, hint=rights if error.sqlstate else "is the address in the settings whole?") from None

    def close(self) -> None:
        """Closes the pool; a later use opens it again."""
        pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.close()
