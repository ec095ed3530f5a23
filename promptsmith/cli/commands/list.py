"""``promptsmith list``."""

from __future__ import annotations

from typing import Any

import click

from ...errors import LockError
from ...registry.entry import Entry
from ...registry.protocol import Move
from ..frame import Workspace, how_moved, json_option, open_workspace, project_option, short, story, table, write_json


@click.command("list")
@json_option
@project_option
def command(as_json: bool, project_dir: str | None) -> None:
    """List tasks, the prompts under their aliases, and how those came there."""
    workspace = open_workspace(project_dir)
    rows = [row for name in workspace.resolver.tasks() for row in _rows(workspace, name)]
    if as_json:
        write_json(rows)
    elif not rows:
        story("no task is defined here; make one with: promptsmith init")
    else:
        shown = [[row["task"], row["alias"] or "-", short(row["id"]), row["model"] or "-", row["when"] or "-", row["how"]] for row in rows]
        click.echo(table(shown, ["task", "alias", "prompt", "model", "since", "how"]))
    if any(row["how"] == "damaged" for row in rows):
        raise SystemExit(2)


def _rows(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    nothing = {"task": name, "alias": None, "id": None, "model": None, "when": None}
    try:
        entry = workspace.registry.entry(name)
        if entry is None or not entry.aliases:
            return [{**nothing, "how": "not promoted"}]
        return [_row(entry, alias, prompt_id) for alias, prompt_id in entry.aliases.items()]
    except LockError as error:
        story(f"error: {error}")
        return [{**nothing, "how": "damaged"}]


def _row(entry: Entry, alias: str, prompt_id: str) -> dict[str, Any]:
    last = next((move for move in reversed(entry.history) if move.alias == alias), None)
    prompt = entry.prompt(prompt_id)
    return {
        "task": entry.task,
        "alias": alias,
        "id": prompt_id,
        "model": prompt.model if prompt else None,
        "when": last.when if last else None,
        "how": _how(entry, last, prompt_id),
    }


def _how(entry: Entry, last: Move | None, prompt_id: str) -> str:
    if last is None or last.to != prompt_id:
        return "moved outside"
    return "rollback to forced" if last.rollback and entry.forced(last.alias) else how_moved(last)
