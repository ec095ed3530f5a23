"""``promptsmith lint``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...contract import Contract, TextShape
from ...errors import InputError
from ...prompt import without_examples
from ..frame import Workspace, json_option, open_workspace, project_option, short, story, write_json


@click.command("lint")
@click.argument("what", metavar="REF|FILE")
@click.option("--task", metavar="TASK", help="Judge a text file as the prompt of this task.")
@json_option
@project_option
def command(what: str, task: str | None, as_json: bool, project_dir: str | None) -> None:
    """Find faults in a compiled prompt, or in a text file that holds one. Exit 1 when there are any."""
    from ...compiler.lint import Subject, lint

    workspace = open_workspace(project_dir)
    path = Path(what)
    if path.is_file():
        contract, description = _judged_as(workspace, task)
        name, text, own = what, _read(path), ""
    else:
        prompt = workspace.resolver.resolve(what, prefer="latest").prompt
        contract, description = prompt.contract, ""
        # What the task itself says may stand in its prompt: its own dates and limits are no faults.
        name, text, own = f"{prompt.task}@{short(prompt.id)}", without_examples(prompt.system), _own(workspace, prompt.task)
    findings = lint(Subject(text=text, contract=contract, description=description, allowed=own))
    if as_json:
        rows: list[dict[str, Any]] = [{"code": one.code, "line": one.line, "what": one.what} for one in findings]
        write_json({"subject": name, "findings": rows})
    else:
        for one in findings:
            click.echo(f"{name}:{one}" if not one.line else f"{name}:{one.line}: {one.what} [{one.code}]")
        if not findings:
            story(f"{name}: no fault found")
    if findings:
        raise SystemExit(1)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None


def _judged_as(workspace: Workspace, task: str | None) -> tuple[Contract, str]:
    if task is None:
        return Contract(TextShape(), inferred=True), ""
    from ...task import load_task

    loaded = load_task(workspace.find_task(task), name=task)
    return loaded.contract, loaded.description


def _own(workspace: Workspace, task: str) -> str:
    """What the user wrote for a task, where its file is still there."""
    if not workspace.project.task_file(task).is_file():
        return ""
    from ...task import load_task

    loaded = load_task(workspace.project.task_file(task), name=task)
    return "\n".join([loaded.description, *(line.say for line in loaded.constraints)])
