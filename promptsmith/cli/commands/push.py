"""``promptsmith push``."""

from __future__ import annotations

import click

from ...registry.lock import LockFile
from ...registry.postgres.transfer import push
from ..frame import json_option, open_workspace, project_option
from ..transferring import server_of, write_transferred


@click.command("push")
@click.argument("tasks", metavar="[TASK]...", nargs=-1)
@click.option("--force", is_flag=True, help="Move the server's aliases to the lock's although it has moved on; recorded as forced.")
@click.option("--why", default="", metavar="TEXT", help="The reason of a forced push, kept in the server's history.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@json_option
@project_option
def command(tasks: tuple[str, ...], force: bool, why: str, dry_run: bool, as_json: bool, project_dir: str | None) -> None:
    """Bring the server registry to where the lock is: prompts, aliases, history and receipts.

    All tasks, or those that are named. Refused, with what differs, when the server has moved on.
    """
    workspace = open_workspace(project_dir)
    registry = server_of(workspace)
    done = push(LockFile(workspace.project.lock), registry, tasks, force=force, why=why, dry_run=dry_run)
    write_transferred(done, registry.database.address.label, as_json=as_json, dry_run=dry_run)
