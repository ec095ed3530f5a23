"""``promptsmith history``."""

from __future__ import annotations

import click
import msgspec

from ..frame import how_moved, json_option, open_workspace, project_option, short, story, table, write_json


@click.command("history")
@click.argument("task")
@json_option
@project_option
def command(task: str, as_json: bool, project_dir: str | None) -> None:
    """Show every move of a task's aliases, the latest last."""
    workspace = open_workspace(project_dir)
    workspace.resolver.known_task(task)
    entry = workspace.registry.entry(task)
    moves = entry.history if entry else ()
    outside = entry.outside_moves() if entry else ()
    if as_json:
        write_json({"task": task, "moves": msgspec.to_builtins(moves), "outside": msgspec.to_builtins(outside)})
        return
    if not moves:
        story(f"no alias of {task} was ever moved")
    else:
        rows = [[m.when, m.alias, short(m.from_), short(m.to), m.who, how_moved(m), m.why] for m in moves]
        click.echo(table(rows, ["when", "alias", "from", "to", "who", "how", "why"]))
    for move in outside:
        story(f"moved outside promptsmith: @{move.alias} is {short(move.found)}, the history left it at {short(move.recorded)}")
