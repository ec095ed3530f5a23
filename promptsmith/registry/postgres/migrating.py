"""Brings the tables up to date: numbered files, each applied once, by whoever comes first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...errors import RegistryError

if TYPE_CHECKING:
    from psycopg import Connection

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x70726F6D7074736D
"""Of PostgreSQL's advisory locks: the one that everybody who migrates takes (``promptsm`` as a number)."""


class Migration(NamedTuple):
    """One step; ``name`` is its file's."""

    number: int
    name: str
    path: Path


def migrations() -> tuple[Migration, ...]:
    """Every step that this promptsmith knows, in order."""
    found = (Migration(int(path.name[:4]), path.stem, path) for path in _FOLDER.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return tuple(sorted(found))


def migrate(conn: Connection) -> int:
    """Applies what is missing, in one transaction; the number of the newest step.

    Raises :class:`RegistryError` for a database that a newer promptsmith has migrated, ``psycopg.Error`` when it can't be.
    """
    known = migrations()
    if missing(_applied(conn), known):
        with conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            _apply(conn, missing(_applied(conn), known))  # another may have been here first
    return known[-1].number


def missing(applied: frozenset[int], known: tuple[Migration, ...]) -> tuple[Migration, ...]:
    """The steps that are not in ``applied``. Raises :class:`RegistryError` when ``applied`` holds a later one."""
    newest = max(applied, default=0)
    if newest > known[-1].number:
        raise RegistryError(
            f"the registry's tables are of version {newest}, and this promptsmith knows versions up to {known[-1].number}",
            hint="upgrade promptsmith: pip install -U 'promptsmith[postgres]'",
        )
    return tuple(step for step in known if step.number not in applied)


def _applied(conn: Connection) -> frozenset[int]:
    # Not to_regclass: within one transaction it goes on saying what it has said before another had made the table.
    found = conn.execute("SELECT 1 FROM pg_class WHERE relname = 'promptsmith_migrations' AND pg_table_is_visible(oid)").fetchone()
    if found is None:
        return frozenset()
    return frozenset(number for (number,) in conn.execute("SELECT number FROM promptsmith_migrations"))


def _apply(conn: Connection, steps: tuple[Migration, ...]) -> None:
    conn.execute(
        "CREATE TABLE IF NOT EXISTS promptsmith_migrations ("
        "number integer PRIMARY KEY, name text NOT NULL, applied timestamptz NOT NULL DEFAULT now())"
    )
    for step in steps:
        conn.execute(step.path.read_bytes())
        conn.execute("INSERT INTO promptsmith_migrations (number, name) VALUES (%s, %s)", (step.number, step.name))
