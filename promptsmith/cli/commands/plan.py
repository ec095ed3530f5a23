"""``promptsmith plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ...errors import InputError, Problem, SourceError
from ..frame import json_option, project_option, write_json
from .plan_trace import trace_command

if TYPE_CHECKING:
    from ...orchestration.reading import Known
    from ...orchestration.values import Author, Plan


@click.group("plan")
def command() -> None:
    """Check plans, and see what a run of one did."""


command.add_command(trace_command)


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """Name the patterns: the plans that are shipped, which 'solve PATTERN' runs, with their inputs."""
    from ...orchestration.patterns import described

    rows = described()
    if as_json:
        write_json([row._asdict() for row in rows])
        return
    for row in rows:
        click.echo(f"{row.name}: {row.about}")
        for one, about in row.inputs.items():
            click.echo(f"    --var {one}=…  {about}")


@command.command("lint")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--author", type=click.Choice(["person", "model"]), default="person", help="Whose rules hold: a model's plan may do less.")
@json_option
@project_option
def lint_command(file: Path, author: Author, as_json: bool, project_dir: str | None) -> None:
    """Find everything that is wrong with a plan, with file and line. Exit 1 when something is.

    FILE is YAML; one that ends in .json or .xml is read as a conductor's answer. Workers and tasks are those of the
    project around the file, else none.
    """
    if not file.is_file():
        raise InputError(f"{file} is a folder" if file.is_dir() else f"there is no file {file}", hint="name the file of a plan")
    try:
        plan = _read(file, author, _known(file, project_dir))
    except SourceError as error:
        _tell_problems(file, error.problems, as_json)
        raise SystemExit(1) from None
    if as_json:
        write_json({"file": str(file), "problems": [], **_summary(plan)})
    else:
        click.echo(_in_words(file, plan))


def _read(file: Path, author: Author, known: Known) -> Plan:
    from ...orchestration.reading import load_plan, read_plan
    from ...task.document import decoded, read_bytes, shown

    form = _form(file)
    if form == "yaml" and author == "person":
        return load_plan(file, known)
    return read_plan(decoded(read_bytes(file), shown(file)), form=form, file=shown(file), author=author, known=known)


def _form(file: Path) -> Literal["yaml", "json", "xml"]:
    return {".json": "json", ".xml": "xml"}.get(file.suffix.lower(), "yaml")  # type: ignore[return-value]


def _known(file: Path, project_dir: str | None) -> Known:
    """What a plan of the project around the file may name."""
    from ...config import find_project, project_above
    from ...orchestration.patterns import CONDUCTED, patterns
    from ...orchestration.reading import Known
    from ...orchestration.workers import Workers

    plans = frozenset((*patterns(), CONDUCTED))
    explicit = project_dir or click.get_current_context().find_root().obj
    project = find_project(explicit) if explicit else project_above(file.absolute().parent)
    if project is None:
        return Known(plans=plans)
    return Known(workers=Workers(project).names, tasks=frozenset(project.task_names()), plans=plans)


def _tell_problems(file: Path, problems: tuple[Problem, ...], as_json: bool) -> None:
    if as_json:
        rows = [problem._asdict() for problem in problems]
        write_json({"file": str(file), "problems": rows})
        return
    for problem in problems:
        click.echo(str(problem))


def _summary(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.name,
        "inputs": [one.name for one in plan.inputs],
        "experts": [one.name for one in plan.experts],
        "steps": [step.id for step in plan.steps],
        "result": list(plan.result),
    }


def _in_words(file: Path, plan: Plan) -> str:
    counts = [(len(plan.steps), "step"), (len(plan.experts), "expert"), (len(plan.inputs), "input")]
    told = ", ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in counts)
    return f"{file}: {told}; result: {', '.join(plan.result)}"
