"""``promptsmith rollback``."""

from __future__ import annotations

import click

from ...evals.report import Reports
from ...promotion import rollback
from ..canaries import moved as ended_by_move
from ..frame import json_option, open_workspace, project_option, short, write_json


@click.command("rollback")
@click.argument("task")
@click.option("--to", "alias", default="", metavar="ALIAS", help="The alias to move back (default: that in TASK@ALIAS, else production).")
@click.option("--why", default="", metavar="TEXT", help="The reason, kept in the lock's history.")
@json_option
@project_option
def command(task: str, alias: str, why: str, as_json: bool, project_dir: str | None) -> None:
    """Move a task's alias back to the prompt it named before. Works with an empty cache."""
    workspace = open_workspace(project_dir)
    task, _, named = task.partition("@")
    alias = alias or named or "production"
    reports = Reports(workspace.project.cache)
    moved = rollback(workspace.registry, task, alias=alias, why=why, find=workspace.resolver.find, reports=reports)
    ended_by_move(workspace, task, alias)
    if as_json:
        write_json({"task": task, "alias": alias, "from": moved.before, "to": moved.after})
        return
    gone = "" if moved.after else " (it was the first promotion: the alias is removed)"
    click.echo(f"{task}@{alias}: {short(moved.before)} -> {short(moved.after)}{gone}")
