"""``promptsmith eval``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ...budget import Limits
from ...errors import InputError
from ...evals.evaluate import EvalOptions, check_options
from ...evals.report import Report
from ...evals.runner import CONCURRENCY
from ...registry.resolve import Prefer, Resolved
from ...task import Task
from ..frame import Workspace, json_option, open_workspace, project_option, story, write_json
from ..judging import evaluated, resolved_suite
from ..writing import out_options, write_reports

_WORST = ("inconclusive", "reject")
"""Verdicts from better to worse, as far as they are no promotion."""


@click.command("eval")
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--dev", is_flag=True, help="Score the dev part of the visible rows instead: for looking, decides nothing.")
@click.option("--repeat", "repeats", type=click.IntRange(1, 1000), default=1, metavar="K", help="Ask for so many answers to each case.")
@click.option("--model", metavar="NAME", help="Serve the candidate with this model instead of its own.")
@click.option("--fresh", is_flag=True, help="Take nothing from the reply cache; for what production names: has it drifted?")
@click.option(
    "--record", type=click.Path(path_type=Path), metavar="FILE", help="Write the replies used, for git; with --cached-only read them."
)
@click.option("--cached-only", is_flag=True, help="Make no call: an answer that neither record nor cache has is an error.")
@click.option("--outputs", type=click.Path(path_type=Path), metavar="FILE", help="Score the outputs of this file without any model.")
@click.option("--locked", is_flag=True, help="Compute every receipt of the lock again, without any model.")
@click.option("--strict", is_flag=True, help="With --locked: a forced entry is a failure.")
@click.option("--reveal", is_flag=True, help="Keep the sealed inputs in the report; this is recorded.")
@click.option("--concurrency", type=click.IntRange(1), metavar="N", help="At most so many calls at a time (64).")
@click.option("--max-cost", type=click.FloatRange(0), metavar="USD", help="Spend at most so many US dollars for each task.")
@click.option("--max-calls", type=click.IntRange(0), metavar="N", help="Make at most so many calls for each task.")
@click.option("--max-tokens", type=click.IntRange(0), metavar="N", help="Use at most so many tokens for each task.")
@click.option("--max-seconds", type=click.FloatRange(0), metavar="S", help="Stop after so many seconds for each task.")
@out_options
@json_option
@project_option
def command(
    refs: tuple[str, ...],
    dev: bool,
    outputs: Path | None,
    locked: bool,
    strict: bool,
    max_cost: float | None,
    max_calls: int | None,
    max_tokens: int | None,
    max_seconds: float | None,
    concurrency: int | None,
    as_json: bool,
    project_dir: str | None,
    junit: Path | None,
    markdown: Path | None,
    html: Path | None,
    **chosen: Any,
) -> None:
    """Judge prompts on the sealed holdout of their tasks (all tasks that have one, when none is named).

    A bare task is the prompt last compiled here, else the one in production; with --cached-only the one in production.
    Exit codes: 0 promote, 1 reject, 3 inconclusive.
    """
    workspace = open_workspace(project_dir)
    _refuse_idle_options("locked" if locked else "outputs" if outputs else "")
    if locked:
        raise SystemExit(_locked(workspace, refs, strict=strict, as_json=as_json))
    limits = Limits(usd=max_cost, calls=max_calls, tokens=max_tokens, seconds=max_seconds)
    options = EvalOptions(part="dev" if dev else "holdout", limits=limits, concurrency=concurrency or CONCURRENCY, **chosen)
    check_options(options)
    if options.record and len(refs) != 1:
        raise click.UsageError("--record is about one task: name it")
    if outputs:
        reports = [_outputs(workspace, refs, outputs)]
    else:
        # All of them first: what is wrong with the last task is said before anything is paid for.
        prefer: Prefer = "production" if options.cached_only else "latest"
        judged = [resolved_suite(workspace, ref, prefer) for ref in refs or _all(workspace)]
        if html and len(judged) != 1:
            raise click.UsageError("--html is about one report: name one task")
        reports = [_one(workspace, task, resolved, options) for task, resolved in judged]
    _write(reports, as_json=as_json, dev=dev)
    write_reports(reports, junit=junit, markdown=markdown, html=html)
    if not dev:
        raise SystemExit(_exit_code(reports))


_USED = {
    "locked": {"locked", "strict", "refs", "as_json", "project_dir"},
    "outputs": {"outputs", "refs", "as_json", "project_dir", "junit", "markdown", "html"},
}
"""The options that mean something where no model is asked."""


def _refuse_idle_options(way: str) -> None:
    """Nothing. Raises a usage error for options that would be ignored: somebody relies on them."""
    context = click.get_current_context()
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    idle = [option.opts[0] for option in context.command.params if option.name in given and way and option.name not in _USED[way]]
    if idle:
        raise click.UsageError(f"--{way} asks no model, so {', '.join(idle)} would do nothing")


def _all(workspace: Workspace) -> list[str]:
    """The tasks that have a holdout and a prompt to judge."""
    from ...evals.vocabulary import load_suite_task

    names = [name for name in workspace.project.task_names() if load_suite_task(workspace.project.task_file(name), name).holdout]
    if not names:
        raise InputError(f"no task below {workspace.project.config.evals}/ has a holdout", hint="add holdout: rows to a task file")
    return names


def _one(workspace: Workspace, task: Task, resolved: Resolved, options: EvalOptions) -> Report:
    import msgspec

    from ...evals.record import record_beside

    if options.cached_only and options.record is None:
        options = msgspec.structs.replace(options, record=record_beside(workspace.project.task_file(task.name)))
    story(f"{resolved.chosen} = {resolved.prompt.id[:12]}")
    return evaluated(workspace, task, resolved, options)


def _outputs(workspace: Workspace, refs: Sequence[str], path: Path) -> Report:
    from ...evals.outputs import evaluate_outputs
    from ...evals.vocabulary import load_suite_task
    from ...runtime.loop import LOOP

    if len(refs) != 1:
        raise click.UsageError("--outputs is about one task: name it")
    name = refs[0].partition("@")[0]
    task = load_suite_task(workspace.find_task(name), name)
    return LOOP.wait(evaluate_outputs(workspace.project, task, path))


def _write(reports: Sequence[Report], *, as_json: bool, dev: bool) -> None:
    from ...evals.show.data import data
    from ...evals.show.terminal import terminal
    from ..frame import styled, width

    if as_json:
        values = [data(report) for report in reports]
        write_json(values[0] if len(values) == 1 else values)
        return
    click.echo("\n\n".join(terminal(report, width=width(), color=styled()) for report in reports))
    if dev:
        story("dev rows are for looking: they decide nothing")


def _exit_code(reports: Sequence[Report]) -> int:
    """The worst verdict's."""
    codes = {report.head.judgement.verdict: report.head.judgement.exit_code for report in reports}
    return next((codes[verdict] for verdict in reversed(_WORST) if verdict in codes), 0)


def _locked(workspace: Workspace, refs: Sequence[str], *, strict: bool, as_json: bool) -> int:
    from ...evals.locked import check_lock
    from ..frame import table

    found = check_lock(workspace.registry, refs)
    if as_json:
        write_json([row.as_data() for row in found])
    elif found:
        click.echo(table([row.cells() for row in found], ("prompt", "alias", "receipt", "state", "why")))
    else:
        story("the lock holds no promoted prompt")
    return 1 if any(row.failed(strict=strict) for row in found) else 0
