"""``promptsmith keys``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from ..frame import json_option, open_project, project_option, story, table, write_json

if TYPE_CHECKING:
    from ...service.keys import Key, Scope


@click.group("keys")
def command() -> None:
    """Add, list and revoke keys of the service."""


@command.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["run", "read", "admin"]),
    multiple=True,
    default=("run",),
    show_default=True,
    help="Call prompts; look at pages and figures; or both, and move aliases. Repeatable.",
)
@click.option("--task", "tasks", multiple=True, metavar="T", help="Only this task, or those below support/*. Repeatable; default: all.")
@click.option("--rpm", type=click.IntRange(min=1), metavar="N", help="Requests in any 60 seconds.")
@click.option("--tokens-per-day", type=click.IntRange(min=1), metavar="N", help="Tokens, in and out, a UTC day.")
@click.option("--usd-per-day", type=click.FloatRange(min=0, min_open=True), metavar="X", help="US dollars a UTC day.")
@project_option
def add_command(
    name: str,
    scopes: tuple[Scope, ...],
    tasks: tuple[str, ...],
    rpm: int | None,
    tokens_per_day: int | None,
    usd_per_day: float | None,
    project_dir: str | None,
) -> None:
    """Make the key NAME and write its secret on stdout, this once: only its digest is kept."""
    from ...service.opening import open_keys

    project = open_project(project_dir)
    key, secret = open_keys(project).add(name, scopes=scopes, tasks=tasks, rpm=rpm, tokens_per_day=tokens_per_day, usd_per_day=usd_per_day)
    click.echo(secret)
    story(f"added: {key.name} ({_may(key)}); its secret is shown this once")


@command.command("list")
@json_option
@project_option
def list_command(as_json: bool, project_dir: str | None) -> None:
    """List all keys, revoked ones too, and their limits."""
    from ...service.opening import open_keys

    keys = open_keys(open_project(project_dir)).keys()
    if as_json:
        write_json([_as_data(key) for key in keys])
        return
    if not keys:
        story("no keys; make one with: promptsmith keys add NAME")
        return
    header = ("KEY", "SCOPES", "TASKS", "RPM", "TOKENS/DAY", "USD/DAY", "CREATED", "REVOKED")
    click.echo(table([_row(key) for key in keys], header))


@command.command("revoke")
@click.argument("name")
@project_option
def revoke_command(name: str, project_dir: str | None) -> None:
    """Take the key NAME out of force. Running services refuse it from their next request on."""
    from ...service.opening import open_keys

    open_keys(open_project(project_dir)).revoke(name)
    story(f"revoked: {name}; running services refuse it from their next request on")


def _may(key: Key) -> str:
    return f"{', '.join(key.scopes)}; {', '.join(key.tasks) or 'all tasks'}"


def _row(key: Key) -> tuple[str, ...]:
    limits = (_number(key.rpm), _number(key.tokens_per_day), _number(key.usd_per_day))
    return key.name, ", ".join(key.scopes), ", ".join(key.tasks) or "all", *limits, _time(key.created) or "-", _time(key.revoked) or "-"


def _number(limit: float | None) -> str:
    return "-" if limit is None else f"{limit:,}"


def _time(when: float | None) -> str | None:
    return None if when is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def _as_data(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "scopes": key.scopes,
        "tasks": key.tasks,
        "rpm": key.rpm,
        "tokens_per_day": key.tokens_per_day,
        "usd_per_day": key.usd_per_day,
        "created": _time(key.created),
        "revoked": _time(key.revoked),
    }
