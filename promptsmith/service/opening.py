"""Where the service keeps what it shares: in files of this machine, or in the database that the settings name."""

from __future__ import annotations

from ..config import Project
from ..registry.opening import open_registry
from ..registry.postgres.registry import Postgres
from ..registry.protocol import Registry
from .keys import KeyFile, KeyStore
from .keys_postgres import KeyTable
from .shipping import Shipper


def open_keys(project: Project, registry: Registry | None = None) -> KeyStore:
    """The keys of a project; in its server registry where it has one. ``registry`` is one that is open already."""
    if project.config.registry:
        server = registry or open_registry(project, patient=True)
        assert isinstance(server, Postgres)  # the one kind of server that the settings can name
        return KeyTable(server)
    return KeyFile(project.root / project.config.service.keys)


def open_shipper(project: Project, registry: Registry) -> Shipper | None:
    """What brings the ledger into the server registry; ``None`` for a project that has none."""
    return Shipper(project, registry.database) if isinstance(registry, Postgres) else None
