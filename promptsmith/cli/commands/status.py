"""``promptsmith status``."""

from __future__ import annotations

from typing import Any

import click

from ...compiler.stale import check_tasks
from ...errors import LockError, StoreError
from ..canaries import courses, data, words
from ..frame import Workspace, json_option, open_workspace, project_option, short, story, table, write_json


@click.command("status")
@json_option
@project_option
def command(as_json: bool, project_dir: str | None) -> None:
    """Say for each task whether production is fresh, what was compiled since, what was moved by hand, and how canaries go."""
    workspace = open_workspace(project_dir)
    checks, errors = check_tasks(workspace.resolver.tasks(), workspace.project, workspace.registry)
    rows = [{"task": check.task, "state": check.state, "why": check.why, **_ids(workspace, check.task)} for check in checks]
    canaries = None
    try:
        canaries = courses(workspace)
    except (StoreError, LockError) as unknown:
        if unknown.retryable:
            story(f"how canaries go is not known: {unknown.message}")  # the rest is shown of a copy
        else:
            errors = [*errors, unknown]
    if as_json:
        told = None if canaries is None else data(canaries)
        write_json({"tasks": rows, "canaries": told, "errors": [str(error) for error in errors]})
    else:
        shown = [[row["task"], row["state"], short(row["production"]), short(row["latest"]), row["why"]] for row in rows]
        click.echo(table(shown, ["task", "state", "production", "latest here", "why"]))
        for row in rows:
            for moved in row["outside"]:
                story(f"{row['task']}: {moved}")
        for line in words(canaries or []):
            click.echo(line)
    for error in errors:
        story(f"error: {error}")
    if errors or any(check.state == "damaged" for check in checks):
        raise SystemExit(2)


def _ids(workspace: Workspace, task: str) -> dict[str, Any]:
    production, outside = None, []
    try:
        entry = workspace.registry.entry(task)
        if entry is not None:
            production = entry.aliases.get("production")
            outside = [f"@{m.alias} was moved outside promptsmith: {short(m.recorded)} -> {short(m.found)}" for m in entry.outside_moves()]
    except LockError:
        # The check above has said what is damaged and where.
        production = None
    try:
        latest = workspace.store.latest(task)
    except StoreError as error:
        story(f"error: {error}")
        latest = None
    return {"production": production, "latest": latest, "outside": outside}
