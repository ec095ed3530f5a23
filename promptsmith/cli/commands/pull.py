"""``promptsmith pull``."""

from __future__ import annotations

import click

from ...registry.lock import LockFile
from ...registry.postgres.transfer import pull
from ..frame import json_option, open_workspace, project_option
from ..transferring import server_of, write_transferred


@click.command("pull")
@click.argument("tasks", metavar="[TASK]...", nargs=-1)
@click.option("--force", is_flag=True, help="Take the server's although the lock has moved on.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@json_option
@project_option
def command(tasks: tuple[str, ...], force: bool, dry_run: bool, as_json: bool, project_dir: str | None) -> None:
    """Bring the lock to where the server registry is, for git and as what is shipped.

    All tasks, or those that are named. Refused, with what differs, when the lock has moves that the server does not know.
    """
    workspace = open_workspace(project_dir)
    done = pull(server_of(workspace), LockFile(workspace.project.lock), tasks, force=force, dry_run=dry_run)
    write_transferred(done, workspace.project.config.lock, as_json=as_json, dry_run=dry_run)
