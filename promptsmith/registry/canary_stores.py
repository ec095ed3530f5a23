"""Opens the place where a project's canaries live."""

from __future__ import annotations

from ..config import Project
from ..store.layout import CANARIES
from .canaries import CanaryFile, CanaryStore
from .protocol import Registry


def open_canaries(project: Project, registry: Registry, *, patient: bool = False) -> CanaryStore:
    """The canaries of ``project``: in its cache folder, or in its server registry, which is ``registry``.

    ``patient`` is who would rather wait for the database than be without its answer: commands, not servers.
    """
    if not project.config.registry:
        return CanaryFile(project.cache / CANARIES)
    from .postgres.canaries import CanaryTable
    from .postgres.registry import Postgres

    assert isinstance(registry, Postgres)  # the one kind of server that the settings can name
    return CanaryTable(registry, patient=patient)
