"""What ``push`` and ``pull`` share."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from ..errors import InputError
from ..registry.postgres.registry import Postgres
from ..registry.postgres.transfer import Transferred
from .frame import Workspace, short, story, write_json


def server_of(workspace: Workspace) -> Postgres:
    """The project's server registry. Raises :class:`InputError` when it has none."""
    registry = workspace.registry
    if not isinstance(registry, Postgres):
        name = workspace.project.relative(workspace.project.file) if workspace.project.file else "the settings"
        raise InputError(f"{name} names no server registry", hint='registry = "postgresql://user:$PASSWORD_VARIABLE@host/database"')
    return registry


def write_transferred(done: Sequence[Transferred], where: str, *, as_json: bool, dry_run: bool) -> None:
    """A line for each alias that moved, and one for what else a task has gained."""
    if as_json:
        write_json({"to": where, "dry_run": dry_run, "tasks": [{**msgspec.to_builtins(task), "changed": task.changed} for task in done]})
        return
    for task in done:
        for alias, (before, after) in task.aliases.items():
            click.echo(f"{task.task}@{alias}: {short(before)} -> {short(after)}")
        if task.changed:
            click.echo(f"{task.task}: {_gained(task)}")
    changed = sum(task.changed for task in done)
    would = "would change" if dry_run else "changed"
    story(f"{where}: {changed} of {len(done)} task{'s' * (len(done) != 1)} {would}" if changed else f"{where} is up to date")


def _gained(task: Transferred) -> str:
    amounts = ((task.moves, "move"), (task.prompts, "prompt"), (task.receipts, "receipt"))
    parts = [f"{number} {what}{'s' * (number != 1)}" for number, what in amounts if number]
    return ", ".join([*parts, "forced"] if task.forced else parts) or "its aliases alone"
