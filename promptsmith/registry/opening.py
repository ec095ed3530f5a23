"""Opens the registry that a project's settings name."""

from __future__ import annotations

from ..config import Project
from .lock import LockFile
from .protocol import Registry


def open_registry(project: Project, *, patient: bool = False) -> Registry:
    """The registry of ``project``: its lock file, or the database that ``registry`` names. Nothing is connected to yet.

    ``patient`` is who would rather wait some seconds than decide by a copy: commands, not the runtime. Raises
    :class:`SourceError` for an address that can't be one, :class:`RegistryError` without psycopg.
    """
    lock = LockFile(project.lock)
    if not project.config.registry:
        return lock
    from .postgres.address import find_address
    from .postgres.connection import Database
    from .postgres.copies import Copy
    from .postgres.registry import Postgres

    address = find_address(project)
    return Postgres(Database(address), Copy(project, address.place or address.url), lock, patient=patient)
