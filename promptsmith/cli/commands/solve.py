"""``promptsmith solve``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...budget import Limits
from ...errors import InputError, UnknownName
from ..frame import code_prints_aside, goes_on_after_ctrl_c, json_option, open_project, project_option, short, story, table

if TYPE_CHECKING:
    from ...orchestration.solve import AsyncSolver, SolveOptions
    from ...orchestration.values import Event, Outcome, Plan

_CODES: Mapping[str, int] = {"step": 1, "conductor": 4, "provider": 4, "budget": 5, "time": 5}
"""Exit codes of a run that is not done, by its cause."""


@click.command("solve")
@click.argument("target", metavar="PROBLEM|PATTERN|FILE")
@click.option(
    "--var", "variables", multiple=True, metavar="NAME=VALUE", help="An input; NAME=@FILE reads a file, NAME:=JSON gives any value."
)
@click.option("--problem", metavar="TEXT", help="With a plan: the problem that its steps see (default: what it is about).")
@click.option("--plan-only", is_flag=True, help="Write the plan as YAML and run nothing; 'solve FILE' runs it, edited or not.")
@click.option("--auto", is_flag=True, help="Ask one prompt where nothing says that a plan is worth its calls.")
@click.option("--conductor", metavar="NAME", default="", help="The model that plans and puts results together.")
@click.option("--form", type=click.Choice(["json", "xml"]), default="json", show_default=True, help="What the conductor writes plans in.")
@click.option("--rounds", type=click.IntRange(1, 10), default=2, show_default=True, metavar="N", help="Work and judge so often at most.")
@click.option("--evaluate", multiple=True, metavar="SCORER", help="Grade the answer: NAME, or 'NAME: VALUE' as in a task's scorers.")
@click.option("--max-steps", type=click.IntRange(1), metavar="N", help="Plan at most so many steps.")
@click.option("--max-cost", type=click.FloatRange(0), metavar="USD", help="Spend at most so many US dollars.")
@click.option("--max-calls", type=click.IntRange(0), metavar="N", help="Make at most so many calls.")
@click.option("--max-tokens", type=click.IntRange(0), metavar="N", help="Use at most so many tokens.")
@click.option("--max-seconds", type=click.FloatRange(0), metavar="S", help="Stop after so many seconds.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write what happened as one offline HTML page."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write the answer and each step's result there."
)
@click.option("--yes", is_flag=True, help="Do not ask before a plan that may cost more than compile.confirm_usd; replace files in --out.")
@json_option
@project_option
def command(
    target: str,
    variables: tuple[str, ...],
    problem: str | None,
    plan_only: bool,
    auto: bool,
    html: Path | None,
    out: Path | None,
    yes: bool,
    as_json: bool,
    project_dir: str | None,
    **options: Any,
) -> None:
    """Solve a problem with several experts: a conductor plans, they work side by side, it puts the results together.

    PROBLEM is a text; PATTERN the name of a shipped plan (plan list); FILE a plan in YAML. A problem in words needs a model that
    plans; a written plan needs one only to put results together. Exit codes: 1 a step failed, 4 a provider or the
    conductor did, 5 a limit stopped it; what was finished is kept, and the same command goes on from there.
    """
    from ...orchestration.patterns import CONDUCTED, problem_of
    from ...orchestration.solve import AsyncSolver

    project = open_project(project_dir)
    solver = AsyncSolver(project)
    inputs = dict(map(problem_variable, variables))
    conducted = target == CONDUCTED
    if conducted:
        target, inputs, problem = *problem_of(inputs, problem), None
    plan = None if conducted else _written(target, solver)
    if plan is None and problem is not None:
        raise click.UsageError("--problem goes with a plan; a problem in words is its own")
    chosen = _options(options)
    if plan_only:
        plan = plan or _planned(solver, target, inputs, chosen)
        _write_plan(plan, as_json)
        return
    if auto and plan is None:
        plan = _advised(solver, target, inputs, chosen)
    outcome = _solved(solver, plan, target if plan is None else problem or "", inputs, chosen, yes=yes, as_json=as_json)
    _write(outcome, as_json)
    if html is not None:
        from ...evals.record import write_whole
        from ...pages.trace import html as as_html

        write_whole(html, as_html(outcome).encode("utf-8", "replace"), "the page")
        story(f"written: {html}")
    if out is not None and outcome.state == "done":
        from ...orchestration.files import write_files

        for path in write_files(out, dict(_files(outcome)), overwrite=yes):
            story(f"written: {path}")
    if outcome.state != "done":
        raise SystemExit(_CODES.get(outcome.cause, 1))


# --- what is asked for ------------------------------------------------------------------------------------


def problem_variable(option: str) -> tuple[str, Any]:
    """The name and value that a ``--var`` gives: a text, a file's text, or with ``:=`` any JSON value."""
    found = re.match(r"([A-Za-z_][A-Za-z0-9_-]*):=", option)
    if found is None:
        from .run import variable

        return variable(option)
    try:
        return found[1], json.loads(option[found.end() :])
    except ValueError as error:
        raise InputError(f"--var {found[1]}: the value is not JSON: {error}", hint="write NAME=TEXT for a text as it is") from None


def _written(target: str, solver: AsyncSolver) -> Plan | None:
    """The plan in a file, or a shipped one; ``None`` for a problem in words."""
    from ...orchestration.patterns import CONDUCTED, find_pattern, patterns
    from ...orchestration.reading import load_plan

    known = solver.known(person=True)
    words = bool(re.search(r"\s", target.strip()))
    if target.endswith((".yaml", ".yml")) and (not words or Path(target).is_file()):
        return load_plan(Path(target), known)
    path = find_pattern(target)
    if path is not None:
        return load_plan(path, known)
    if not words:
        from ...errors import did_you_mean

        names = sorted((*patterns(), CONDUCTED))
        raise UnknownName(
            f"{target!r} is neither a pattern nor a plan's file, and no problem in words",
            hint=did_you_mean(target, names) or f"patterns: {', '.join(names)}; a file ends in .yaml; a problem is a sentence",
        )
    return None


def _options(options: Mapping[str, Any]) -> SolveOptions:
    from ...orchestration.grading import read_scorers
    from ...orchestration.solve import SolveOptions

    return SolveOptions(
        conductor=options["conductor"],
        form=options["form"],
        rounds=options["rounds"],
        limits=Limits(usd=options["max_cost"], calls=options["max_calls"], tokens=options["max_tokens"], seconds=options["max_seconds"]),
        evaluate=read_scorers(options["evaluate"]),
        most_steps=options["max_steps"],
    )


# --- doing it ---------------------------------------------------------------------------------------------


def _planned(solver: AsyncSolver, problem: str, inputs: Mapping[str, Any], options: SolveOptions) -> Plan:
    from ...runtime.loop import LOOP

    return LOOP.wait(solver.plan(problem, inputs, options=options))


def _advised(solver: AsyncSolver, problem: str, inputs: Mapping[str, Any], options: SolveOptions) -> Plan | None:
    """One prompt as a plan of one step, where nothing says that more are worth their calls; else ``None``."""
    from ...orchestration.advice import one_prompt, signs_of_problem, sums_up

    signs = signs_of_problem(problem, inputs, options.limits)
    advised = sums_up(signs)
    for sign in signs:
        story(f"{sign.side}: {sign.why}")
    if advised != "one prompt":
        return None
    story("so one prompt is asked (unproven: promptsmith advise --cases FILE proves it)")
    return one_prompt(problem, inputs, solver.answering_model(options.conductor))


def _solved(
    solver: AsyncSolver, plan: Plan | None, problem: str, inputs: Mapping[str, Any], options: SolveOptions, *, yes: bool, as_json: bool
) -> Outcome:
    from ...runtime.loop import LOOP
    from ..live_plan import live_plan

    with ExitStack() as shown:
        shown.enter_context(goes_on_after_ctrl_c())
        shown.enter_context(code_prints_aside())
        view = None if as_json or plan is None else shown.enter_context(live_plan(plan))
        planned: list[Event] = []

        def approve(made: Plan) -> None:
            nonlocal view
            _confirm(solver, made, problem, inputs, options, yes=yes)
            # Only now: what is drawn over and over leaves no room for a question.
            view = None if as_json else shown.enter_context(live_plan(made))
            for event in planned:
                on_event(event)

        def on_event(event: Event) -> None:
            if view is not None:
                view(event)
            elif event.kind == "plan" and event not in planned:
                planned.append(event)

        if plan is None:
            return LOOP.wait(solver.solve(problem, inputs, options=options, on_event=on_event, approve=approve))
        return LOOP.wait(solver.run_plan(plan, inputs, problem=problem, options=options, on_event=on_event))


def _confirm(solver: AsyncSolver, plan: Plan, problem: str, inputs: Mapping[str, Any], options: SolveOptions, *, yes: bool) -> None:
    """Asks before a conductor's plan that may cost more than the set sum, unless its cost is limited.

    Raises :class:`InputError` when nobody is there to be asked, :class:`click.Abort` when the answer is no.
    """
    from ...orchestration.advice import most_usd

    config = solver.project.config
    usd = most_usd(plan, problem, inputs, solver.means.directory.rates.find, config.models.production)
    story(f"plan: {', '.join(step.id for step in plan.steps)}{'' if usd is None else f'; its steps may cost up to ${usd:.2f}'}")
    if yes or usd is None or usd <= config.compile.confirm_usd or options.limits.usd is not None:
        return
    why = f"the plan's {len(plan.steps)} steps may cost up to ${usd:.2f}"
    if not sys.stdin.isatty():
        raise InputError(
            f"{why}, and nobody is here to be asked",
            hint="confirm it with --yes, or limit it: --max-cost USD (compile.confirm_usd is the sum that needs no question)",
        )
    click.confirm(f"{why}. Go on?", abort=True, err=True)


# --- what is written --------------------------------------------------------------------------------------


def _write_plan(plan: Plan, as_json: bool) -> None:
    from ...orchestration.reading import plan_yaml

    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(plan), indent=2).decode())
    else:
        click.echo(plan_yaml(plan), nl=False)


def _write(outcome: Outcome, as_json: bool) -> None:
    from ...evals.show.words import dollars
    from ...orchestration.outcomes import as_json as encoded

    if as_json:
        import msgspec

        click.echo(msgspec.json.format(encoded(outcome), indent=2).decode())
    elif outcome.answer:
        click.echo(outcome.answer)
    for result in outcome.results:
        if result.state in ("failed", "skipped"):
            story(f"step {result.id} {result.state}: {result.error}")
    for note in outcome.notes:
        story(f"note: {note}")
    rows = [[cost.role, str(cost.calls), str(cost.usage.input), str(cost.usage.output), dollars(cost.usd)] for cost in outcome.costs]
    if rows:
        story(table(rows, ["role", "calls", "tokens in", "out", "cost"]))
    done = sum(result.state == "done" for result in outcome.results)
    why = f": {outcome.why}" if outcome.why else ""
    story(f"run {short(outcome.run)} {outcome.state}{why} ({done} of {len(outcome.plan.steps)} steps, {outcome.seconds:.1f} s)")


def _files(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """What ``--out`` gets, by name: the answer, the plan, each step's result, and what a pattern made."""
    from ...orchestration.patterns import files
    from ...orchestration.reading import plan_yaml

    yield from files(outcome).items()
    if outcome.value is not None:
        yield "result.json", f"{json.dumps(outcome.value, indent=2, ensure_ascii=False)}\n"
    yield "answer.md", f"{outcome.answer}\n"
    yield "plan.yaml", plan_yaml(outcome.plan)
    for result in outcome.results:
        if result.state == "done":
            typed = result.value is not None and not isinstance(result.value, str)
            text = json.dumps(result.value, indent=2, ensure_ascii=False) if typed else result.text
            yield f"results/{result.id}.{'json' if typed else 'md'}", f"{text}\n"
