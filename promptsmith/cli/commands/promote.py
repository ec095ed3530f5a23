"""``promptsmith promote``."""

from __future__ import annotations

import click

from ...promotion import promote
from ..frame import json_option, open_workspace, project_option, short, story, write_json


@click.command("promote")
@click.argument("ref")
@click.option("--to", "alias", default="production", show_default=True, metavar="ALIAS", help="The alias to move.")
@click.option("--why", default="", metavar="TEXT", help="The reason, kept in the lock's history.")
@click.option("--force", is_flag=True, help="Move a protected alias without a receipt; recorded as forced.")
@json_option
@project_option
def command(ref: str, alias: str, why: str, force: bool, as_json: bool, project_dir: str | None) -> None:
    """Move an alias to the prompt REF names; a bare task means the last one compiled here."""
    workspace = open_workspace(project_dir)
    resolved = workspace.resolver.resolve(ref, prefer="latest")
    moved = promote(workspace.lock, workspace.project, resolved.prompt, alias=alias, why=why, force=force)
    if as_json:
        forced = moved.move is not None and moved.move.forced
        data = {"task": moved.task, "alias": alias, "from": moved.before, "to": moved.after}
        write_json({**data, "moved": moved.move is not None, "forced": forced})
        return
    story(f"{resolved.chosen} = {short(resolved.prompt.id)}")
    if moved.move is None:
        click.echo(f"{moved.task}@{alias} is {short(moved.after)} already")
        return
    note = ", forced (no receipt)" if moved.move.forced else ""
    click.echo(f"{moved.task}@{alias}: {short(moved.before)} -> {short(moved.after)}{note}")
