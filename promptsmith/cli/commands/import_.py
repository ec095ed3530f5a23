"""``promptsmith import``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from ...config import ENDPOINTS, Project
from ...errors import InputError
from ..frame import json_option, open_project, project_option, story, write_json

FORMATS = ("promptfoo", "github", "dotprompt", "prompty", "langfuse", "openai", "dspy")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--from", "form", type=click.Choice(FORMATS), help="The file's format (default: told by its name and content).")
@click.option("--name", metavar="TASK", help="The new task's name (default: the file's).")
@click.option("--out", type=click.Path(path_type=Path), help="The task file to write, below evals/; another way to say --name.")
@click.option(
    "--holdout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="Seal this share of the rows (default: none; all are visible).",
)
@click.option("--judge", metavar="MODEL", help="The judge of rubrics that name no model (default: the project's meta-model).")
@json_option
@project_option
def command(
    file: Path,
    form: str | None,
    name: str | None,
    out: Path | None,
    holdout: float,
    judge: str | None,
    as_json: bool,
    project_dir: str | None,
) -> None:
    """Make a task of FILE: a prompt, prompt file or test suite of another tool.

    Writes a new task file (and a data file when there are many rows), and never over an old one. What has no
    equivalent is named on stderr, with its place.
    """
    from ...formats import Here, imported, write_task

    if name and out:
        raise click.UsageError("--name and --out say the same; give one of them")
    project = open_project(project_dir)
    here = Here((*ENDPOINTS, *project.config.endpoints), judge or project.config.models.meta)
    found_form, found, notes = imported(file, here, form or "")
    task = name or (_task_of(out, project) if out else _from_file(file))
    written = write_task(project, task, found, notes, source=str(file), holdout=holdout)
    told = list(notes)
    for note in told:
        story(note)
    files = [project.relative(path) for path in written.files]
    story(f"read as {found_form}; wrote {' and '.join(files)}: {_counted(written.rows, 'row')}, {_counted(len(told), 'note')} above")
    if written.rows and not holdout:
        story("all rows are visible examples; --holdout 0.4 seals a share of them for the gate")
    if as_json:
        data: dict[str, Any] = {"task": task, "format": found_form, "files": files, "rows": written.rows, "notes": told}
        write_json(data)
    else:
        click.echo(task)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _from_file(file: Path) -> str:
    stem = re.sub(r"(\.prompt)?\.[^.]*\Z", "", file.name)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.")
    if not name:
        raise InputError(f"no task name can be made of {file.name!r}", hint="give one: --name NAME")
    return name


def _task_of(out: Path, project: Project) -> str:
    try:
        inside = out.absolute().relative_to(project.evals.absolute())
    except ValueError:
        raise InputError(f"{out} does not lie below {project.relative(project.evals)}/, where tasks live") from None
    if inside.suffix != ".yaml":
        raise InputError(f"{out} is no task file: its name must end in .yaml")
    return inside.with_suffix("").as_posix()
