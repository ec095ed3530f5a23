"""Where the service keeps what it shares: in files of this machine, or in the database that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Project
from ..registry.protocol import Registry
from .keys import KeyFile, KeyStore

if TYPE_CHECKING:
    # Only types here: most projects have no server registry, and need not load what speaks to one.
    from .shipping import Shipper


def open_keys(project: Project, registry: Registry | None = None) -> KeyStore:
    """The keys of a project; in its server registry where it has one. ``registry`` is one that is open already."""
    if not project.config.registry:
        return KeyFile(project.root / project.config.service.keys)
    from ..registry.opening import open_registry
    from ..registry.postgres.registry import Postgres
    from .keys_postgres import KeyTable

    server = registry or open_registry(project, patient=True)
    assert isinstance(server, Postgres)  # the one kind of server that the settings can name
    return KeyTable(server)


def open_shipper(project: Project, registry: Registry) -> Shipper | None:
    """What brings the ledger into the server registry; ``None`` for a project that has none."""
    if not project.config.registry:
        return None
    from ..registry.postgres.registry import Postgres
    from .shipping import Shipper

    assert isinstance(registry, Postgres)
    return Shipper(project, registry.database)
