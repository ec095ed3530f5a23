"""``promptsmith advise``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...budget import Limits
from ..frame import code_prints_aside, json_option, open_workspace, project_option, story, table, write_json
from .solve import problem_variable

if TYPE_CHECKING:
    from ...orchestration.advice import Advice


@click.command("advise")
@click.argument("problem", required=False)
@click.option("--task", "name", metavar="TASK", help="The task that the problem is; its holdout is the proof.")
@click.option(
    "--cases", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Rows with input and output: prove it on these."
)
@click.option(
    "--plan", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Judge this plan, not one of a conductor."
)
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="An input of the problem, as for solve.")
@click.option("--conductor", metavar="NAME", default="", help="The model that plans.")
@click.option(
    "--worth",
    type=click.FloatRange(0, 100),
    default=5.0,
    show_default=True,
    metavar="POINTS",
    help="A smaller gain is not worth a dearer plan.",
)
@click.option("--max-cost", type=click.FloatRange(0), metavar="USD", help="Spend at most so many US dollars on the proof.")
@click.option("--max-calls", type=click.IntRange(0), metavar="N", help="Make at most so many calls for the proof.")
@click.option("--max-tokens", type=click.IntRange(0), metavar="N", help="Use at most so many tokens for the proof.")
@click.option("--max-seconds", type=click.FloatRange(0), metavar="S", help="Stop the proof after so many seconds.")
@json_option
@project_option
def command(
    problem: str | None,
    name: str | None,
    cases: Path | None,
    file: Path | None,
    variables: tuple[str, ...],
    conductor: str,
    worth: float,
    max_cost: float | None,
    max_calls: int | None,
    max_tokens: int | None,
    max_seconds: float | None,
    as_json: bool,
    project_dir: str | None,
) -> None:
    """Say whether one prompt is enough for PROBLEM, or a plan of several experts is worth its calls.

    Signs alone prove nothing: without cases the advice is unproven. With cases the plan and the single compiled prompt
    answer all of them, and the plan must be better, by the statistics of the gate. Exit codes: 0 use the plan, 1 use one
    prompt, 3 unproven or inconclusive, 4 a provider failed, 5 a limit stopped it.
    """
    from ...evals.vocabulary import load_suite_task
    from ...orchestration.advice import EXIT_CODES, Advisor, with_cases
    from ...orchestration.reading import load_plan
    from ...orchestration.solve import AsyncSolver, SolveOptions
    from ...runtime.loop import LOOP
    from ..progress import progress

    if (problem is None) == (name is None):
        raise click.UsageError("give a PROBLEM or --task, one of them")
    workspace = open_workspace(project_dir)
    task = load_suite_task(workspace.find_task(name), name) if name is not None else None
    if cases is not None:
        task = with_cases(task, problem or "", cases)
    solver = AsyncSolver(workspace.project, store=workspace.store)
    limits = Limits(usd=max_cost, calls=max_calls, tokens=max_tokens, seconds=max_seconds)
    with code_prints_aside():
        found = LOOP.wait(
            Advisor(solver).advise(
                problem or (task.description if task is not None else ""),
                dict(map(problem_variable, variables)),
                task=task,
                plan=load_plan(file, solver.known(person=True)) if file is not None else None,
                options=SolveOptions(conductor=conductor, limits=limits),
                worth=worth / 100,
                on_progress=progress(),
            )
        )
    if as_json:
        write_json(_data(found))
    else:
        click.echo("\n".join(_told(found)))
    if found.stopped:
        from ...evals.report import UNANSWERED

        story(f"incomplete: {found.stopped}")
        raise SystemExit(4 if found.stopped == UNANSWERED else 5)
    raise SystemExit(EXIT_CODES[found.advised])


def _told(found: Advice) -> Iterator[str]:
    from ...evals.show.words import dollars, plain, share

    yield found.advised if found.verdict else f"{found.advised}: the signs are for {found.leaning}"
    for sign in found.signs:
        yield f"  {sign.side}: {sign.why}"
    if found.arms:
        rows = [
            [
                arm.name,
                share(arm.pass_rate),
                plain(arm.score),
                dollars(arm.usd_per_1k),
                "-" if arm.mean_ms is None else f"{arm.mean_ms:,.0f} ms",
            ]
            for arm in found.arms
        ]
        yield table(rows, ["", "passed", "score", "1,000 answers", "mean latency"])
    yield from found.reasons
    if found.report:
        yield f"promptsmith report {found.report} has the cases"
    else:
        yield "nothing is proven: give cases by --cases FILE, or a task with a holdout by --task"


def _data(found: Advice) -> dict[str, Any]:
    import msgspec

    from ...orchestration.reading import plan_yaml

    data: dict[str, Any] = msgspec.to_builtins(found)
    data["signs"] = [sign._asdict() for sign in found.signs]
    return {**data, "plan": plan_yaml(found.plan) if found.plan is not None else ""}
