"""``promptsmith cache``."""

from __future__ import annotations

import time

import click

from ..frame import json_option, open_workspace, project_option, story, write_json


@click.group("cache")
def command() -> None:
    """Look into the cache, check it, prune it, clear it."""


@command.command("stats")
@json_option
@project_option
def stats_command(as_json: bool, project_dir: str | None) -> None:
    """Count what the cache holds."""
    from ...store.maintain import stats

    data = stats(str(open_workspace(project_dir).project.cache))
    if as_json:
        write_json(data)
        return
    for part, figures in data.items():
        click.echo(f"{part}: {', '.join(_told(name, value) for name, value in figures.items())}")


def _told(name: str, value: object) -> str:
    if not isinstance(value, int | float):
        return f"{name} -"
    if name in ("oldest", "newest"):
        return f"{name} {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(value))}"
    return f"{name.replace('_', ' ')} {value:,}"


@command.command("verify")
@json_option
@project_option
def verify_command(as_json: bool, project_dir: str | None) -> None:
    """Check every row against its digest. Exit 1 when one does not match."""
    from ...store.maintain import verify

    findings = verify(str(open_workspace(project_dir).project.cache))
    if as_json:
        write_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{finding.part} {finding.key}: {finding.what}")
        if not findings:
            story("every row has its digest")
    if findings:
        raise SystemExit(1)


@command.command("prune")
@json_option
@project_option
def prune_command(as_json: bool, project_dir: str | None) -> None:
    """Remove replies, finished journals, captured calls, reports and runs of plans past their time, and replies over the size limit.

    Prompts and the records of their searches stay.
    """
    from ...store.maintain import prune

    project = open_workspace(project_dir).project
    settings = project.config.cache
    data = prune(str(project.cache), settings.reply_seconds, settings.reply_bytes, time.time())
    if as_json:
        write_json(data)
        return
    click.echo(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in data.items()))


@command.command("clear")
@click.option("--replies", is_flag=True, help="Only what holds answers; prompts stay.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@project_option
def clear_command(replies: bool, yes: bool, project_dir: str | None) -> None:
    """Remove prompts with the records of their searches, and what holds answers: replies, journals, captured calls, reports, runs of plans.

    Ledger and lock are never touched.
    """
    from ...store.maintain import clear

    project = open_workspace(project_dir).project
    what = f"{'' if replies else 'prompts, records of searches, '}replies, journals, captured calls, reports and runs of plans"
    if not yes:
        click.confirm(f"Remove all {what} from {project.relative(project.cache)}/?", abort=True, err=True)
    clear(str(project.cache), replies_only=replies)
    story(f"removed all {what}; the ledger stays")
