"""``promptsmith compile``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ...compiler.material import Options
from ...errors import PromptsmithError, SourceError, UnknownName
from ...task import Task
from ...task.values import ENGINES, PREFERENCES
from ..compiling import compiled, unfinished
from ..confirming import confirm_search
from ..frame import Workspace, json_option, open_workspace, project_option, short, story, write_json


@click.command("compile")
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@click.option("-O", "level", type=click.IntRange(0, 3), metavar="LEVEL", help="0: template. 1: draft. 2: drafts raced. 3: and edited.")
@click.option("--model", metavar="NAME", help="Compile for this production model.")
@click.option("--seed", type=click.IntRange(0), help="Decides ties between examples.")
@click.option("--example-tokens", type=click.IntRange(0), help="About how many tokens of examples the prompt may hold.")
@click.option("--meta-model", metavar="NAME", help="The strong model that writes the prompt.")
@click.option("--candidates", type=click.IntRange(1), metavar="N", help="Compare so many candidates, from -O2.")
@click.option("--engine", type=click.Choice(ENGINES), help="The optimizer, at -O3 (promptsmith).")
@click.option("--prefer", type=click.Choice(PREFERENCES), help="What decides among the best candidates, from -O2 (score).")
@click.option("--max-cost", "max_usd", type=click.FloatRange(0), metavar="USD", help="Spend at most so many US dollars for each task.")
@click.option("--max-calls", type=click.IntRange(0), metavar="N", help="Make at most so many calls for each task.")
@click.option("--max-tokens", type=click.IntRange(0), metavar="N", help="Use at most so many tokens for each task.")
@click.option("--max-seconds", type=click.FloatRange(0), metavar="S", help="Stop after so many seconds for each task.")
@click.option("--yes", is_flag=True, help="Do not ask before a search that may cost more than compile.confirm_usd.")
@click.option("--dry-run", is_flag=True, help="Show what the meta-model would be asked and what that may cost; call nothing.")
@click.option("--force", is_flag=True, help="Compile again even if the cache has the prompt.")
@click.option("--check", is_flag=True, help="Compile nothing: say whether production is stale (exit 1).")
@click.option("--write-contract", is_flag=True, help="Write the inferred contract into the task file.")
@click.option("--explain", is_flag=True, help="Show what was read from the task.")
@json_option
@project_option
def command(
    tasks: tuple[str, ...],
    check: bool,
    write_contract: bool,
    explain: bool,
    force: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    project_dir: str | None,
    **options: Any,
) -> None:
    """Compile tasks into prompts (all of them when none is named)."""
    workspace = open_workspace(project_dir)
    if check:
        _check(workspace, list(tasks), as_json)
        return
    if dry_run:
        _dry_run(workspace, _named(workspace, tasks), Options(**options), as_json, explain=explain)
        return
    rows, errors, codes = [], [], []
    for name in _named(workspace, tasks):
        try:
            chosen = Options(**options)
            row, code = _compile(workspace, name, chosen, as_json, yes=yes, force=force, write=write_contract, explain=explain)
            rows.append(row)
            codes.append(code)
        except (SourceError, UnknownName) as error:
            # A wrong task stops itself alone: the others are compiled, and all that is wrong is told at once.
            errors.append(error)
    if as_json:
        write_json(rows)
    else:
        for row in rows:
            click.echo(f"{row['task']}@{short(row['id'])}  {row['source']}, -O{row['level']} ({row['level_why']}), for {row['model']}")
    if errors:
        raise SystemExit(_told(errors))
    if code := next(filter(None, codes), 0):
        raise SystemExit(code)


def _told(errors: Sequence[PromptsmithError]) -> int:
    """Writes ``errors`` for people; the exit code of the first."""
    for error in errors:
        story(f"error: {error}")
    return errors[0].exit_code


def _named(workspace: Workspace, tasks: tuple[str, ...]) -> list[str]:
    names = list(dict.fromkeys(tasks)) or workspace.project.task_names()
    if not names:
        raise click.UsageError(f"there is no task file below {workspace.project.config.evals}/")
    return names


def _dry_run(workspace: Workspace, names: Sequence[str], options: Options, as_json: bool, *, explain: bool) -> None:
    from ...compiler.build import started
    from ...compiler.dry_run import dry_run
    from ...compiler.material import material
    from ...evals.vocabulary import load_suite_task
    from ...models.directory import Directory

    rates = Directory(workspace.project).rates
    texts, rows = [], []
    for name in names:
        task = load_suite_task(workspace.find_task(name), name)
        plan = dry_run(started(material(task, workspace.project.config, options), None), rates.find)
        rows.append(plan.as_data() | (_explained(workspace, task, options, as_json) if explain else {}))
        texts.append(plan.as_text())
    if as_json:
        write_json(rows)
    else:
        click.echo("\n\n".join(texts))


def _explained(workspace: Workspace, task: Task, options: Options, as_json: bool) -> dict[str, Any]:
    """What was read from a task: written for a person, or returned for JSON."""
    import msgspec

    from ...compiler.analysis import analyse
    from ...compiler.explain import asked_by_holdout, in_data, in_words
    from ...compiler.material import material
    from ...models.directory import Directory

    source = material(task, workspace.project.config, options)
    # A compile shows the compile part alone; the task's owner sees everything.
    source = msgspec.structs.replace(source, examples=source.visible)
    found = analyse(source, Directory(workspace.project).rates.find(source.model.name), task.notes)
    asked = asked_by_holdout(task, found)
    if not as_json:
        click.echo(in_words(found, asked))
        return {}
    return {"analysis": in_data(found, asked)}


def _compile(
    workspace: Workspace, name: str, options: Options, as_json: bool, *, yes: bool, force: bool, write: bool, explain: bool
) -> tuple[dict[str, Any], int]:
    """What is told of the compile of one task, and its exit code."""
    from ...evals.vocabulary import load_suite_task

    path = workspace.find_task(name)
    task = load_suite_task(path, name)
    if write:
        from ...compiler.writeback import write_contract

        story(write_contract(path, task))
        task = load_suite_task(path, name)
    more = _explained(workspace, task, options, as_json) if explain else {}
    confirm_search(workspace, task, options, yes=yes, force=force)
    built = compiled(workspace, task, options, as_json=as_json, force=force)
    prompt = built.prompt
    for note in built.notes:
        story(f"{name}: {note}")
    reason, code = unfinished(built)
    row = {
        "task": name,
        "id": prompt.id,
        "source": {"built": "compiled", "cache": "from the cache", "lock": "from the lock"}[built.source],
        "level": prompt.provenance.level,
        "level_why": prompt.provenance.level_why,
        "model": prompt.model,
        "examples": prompt.provenance.shown,
        "notes": list(built.notes),
        "unfinished": reason,
        **more,
    }
    return row, code


def _check(workspace: Workspace, tasks: list[str], as_json: bool) -> None:
    from ...compiler.stale import FAILING, check_tasks

    for name in tasks:
        # A misspelled name must not look like a task that was never promoted.
        workspace.resolver.known_task(name)
    checks, errors = check_tasks(tasks or workspace.resolver.tasks(), workspace.project, workspace.registry)
    if as_json:
        rows = [{"task": one.task, "state": one.state, "why": one.why} for one in checks]
        write_json({"tasks": rows, "errors": [str(error) for error in errors]})
    else:
        for one in checks:
            click.echo(f"{one.task}: {one.state}{': ' + one.why if one.why else ''}")
        for error in errors:
            story(f"error: {error}")
    if errors or any(one.state == "damaged" for one in checks):
        raise SystemExit(2)
    if any(one.state in FAILING for one in checks):
        raise SystemExit(1)
