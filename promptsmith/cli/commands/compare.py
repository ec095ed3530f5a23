"""``promptsmith compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ...errors import InputError, UnknownName
from ...evals.evaluate import EvalOptions
from ...evals.record import write_whole
from ...evals.report import Report
from ..frame import Workspace, json_option, open_workspace, project_option, story, styled, width, write_json
from ..judging import evaluated, resolved_suite


@click.command("compare")
@click.argument("what", nargs=-1, required=True, metavar="REPORT|REF...")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Serve each REF with this model (may be given again).")
@click.option("--cached-only", is_flag=True, help="Make no call.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write one offline HTML page.")
@json_option
@project_option
def command(
    what: tuple[str, ...], models: tuple[str, ...], cached_only: bool, html: Path | None, as_json: bool, project_dir: str | None
) -> None:
    """Put reports side by side: score, cost, latency, and which of them no other beats.

    Each argument is a report's id, or a REF that is evaluated now (with each --model, else with its own). Decides nothing.
    """
    workspace = open_workspace(project_dir)
    reports = [report for name in what for report in _reports(workspace, name, models, cached_only=cached_only)]
    if len(reports) < 2:
        raise InputError("there is one report and nothing to compare it with", hint="name two, or give --model twice")
    from ...evals.show import compare

    if as_json:
        write_json(compare.data(reports))
    else:
        click.echo(compare.terminal(reports, width=width(), color=styled()))
    if html:
        from ...pages import compare as page

        write_whole(html, page.html(reports).encode("utf-8", "replace"), "the page")
        story(f"written: {html}")


def _reports(workspace: Workspace, name: str, models: Sequence[str], *, cached_only: bool) -> list[Report]:
    from ...evals.report import Reports

    try:
        return [Reports(workspace.project.cache).load(name)]
    except UnknownName:
        if "@" not in name and not workspace.project.task_file(name).is_file():
            raise
    task, resolved = resolved_suite(workspace, name, "latest")
    return [evaluated(workspace, task, resolved, EvalOptions(model=model, cached_only=cached_only)) for model in (models or (None,))]
