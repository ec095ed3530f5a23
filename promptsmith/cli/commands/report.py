"""``promptsmith report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...evals.report import Head, Reports
from ..frame import json_option, open_project, project_option, short, story, styled, table, width, write_json
from ..writing import out_options, write_reports


@click.command("report")
@click.argument("report_id", required=False, metavar="[ID]")
@click.option("--task", metavar="TASK", help="List the reports of this task only.")
@out_options
@json_option
@project_option
def command(
    report_id: str | None,
    task: str | None,
    as_json: bool,
    project_dir: str | None,
    junit: Path | None,
    markdown: Path | None,
    html: Path | None,
) -> None:
    """List the reports kept here, or open the one whose id begins with ID."""
    reports = Reports(open_project(project_dir).cache)
    if report_id is None:
        _list(reports.heads(task), as_json=as_json)
        return
    from ...evals.show.data import data
    from ...evals.show.terminal import terminal

    report = reports.load(report_id)
    if as_json:
        write_json(data(report))
    elif not (junit or markdown or html):
        click.echo(terminal(report, width=width(), color=styled()))
    write_reports([report], junit=junit, markdown=markdown, html=html)


def _list(heads: list[Head], *, as_json: bool) -> None:
    if as_json:
        write_json([_row(head) for head in heads])
    elif not heads:
        story("no report is kept here: promptsmith eval makes one")
    else:
        click.echo(table([_cells(head) for head in heads], ("report", "created", "task", "prompt", "model", "verdict", "passed", "cases")))


def _row(head: Head) -> dict[str, Any]:
    return {
        "id": head.id,
        "created": head.created,
        "task": head.task,
        "part": head.part,
        "prompt": head.candidate.prompt,
        "model": head.candidate.model,
        "verdict": head.judgement.verdict,
        "pass_rate": head.judgement.pass_rate[0] if head.judgement.pass_rate else None,
        "cases": head.candidate.tally.cases,
    }


def _cells(head: Head) -> tuple[str, ...]:
    row = _row(head)
    rate = row["pass_rate"]
    passed = "-" if rate is None else f"{rate:.3f}"
    return head.id, head.created, head.task, short(row["prompt"]), row["model"], row["verdict"], passed, str(row["cases"])
