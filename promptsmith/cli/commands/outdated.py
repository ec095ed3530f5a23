"""``promptsmith outdated``."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from ..frame import json_option, open_workspace, project_option, short, story, table, write_json


@click.command("outdated")
@click.option("--strict", is_flag=True, help="Exit 1 when there is anything to report.")
@json_option
@project_option
def command(strict: bool, as_json: bool, project_dir: str | None) -> None:
    """List prompts in the lock whose model is shut down or about to be, or whose sources changed.

    Days of shutdown come from a table of the providers' announcements that carries its own date; nothing is called.
    """
    from ...compiler.outdated import outdated

    workspace = open_workspace(project_dir)
    found, errors = outdated(workspace.project, workspace.registry, datetime.now(UTC).date())
    if as_json:
        data = [{name: getattr(row, name) for name in row.__struct_fields__} for row in found]
        write_json({"prompts": data, "errors": [str(error) for error in errors]})
    elif found:
        rows = [
            [
                f"{row.task}@{row.alias}" if row.alias else row.task,
                short(row.prompt),
                row.state,
                row.day or "-",
                row.successor or "-",
                row.why,
            ]
            for row in found
        ]
        click.echo(table(rows, ["prompt", "id", "state", "date", "successor", "why"]))
        if any(row.state in ("retired", "retiring") for row in found):
            story("promptsmith retarget TASK --model NEW compiles one for another model")
    elif not errors:
        story("nothing in the lock is outdated" if workspace.registry.tasks() else "the lock holds no promoted prompt")
    for error in errors:
        story(f"error: {error}")
    if errors or any(row.state == "damaged" for row in found):
        raise SystemExit(2)
    if strict and found:
        raise SystemExit(1)
