"""``promptsmith cost``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from ...config import Project
from ...errors import InputError
from ...store import LedgerRow
from ...store.folder import open_store
from ..frame import json_option, open_project, project_option, short, story, table, write_json

_BY: Mapping[str, Callable[[LedgerRow], str]] = {
    "task": lambda row: row.task or "-",
    "prompt": lambda row: short(row.prompt or None),
    "model": lambda row: row.model,
    "stage": lambda row: row.stage,
    "day": lambda row: time.strftime("%Y-%m-%d", time.gmtime(row.time)),
}
_MACHINE = "machine"


@click.command("cost")
@click.option("--by", type=click.Choice([*_BY, _MACHINE]), default="task", show_default=True, help="What to add up by (days are UTC).")
@click.option("--all-machines", is_flag=True, help="What the services of all machines have written into the server registry.")
@json_option
@project_option
def command(by: str, all_machines: bool, as_json: bool, project_dir: str | None) -> None:
    """Add up the ledger: calls, tokens and dollars.

    It is this machine's; with --all-machines that of every service on the same server registry, which ships what it
    has answered about once a second.
    """
    project = open_project(project_dir)
    if all_machines:
        rows = _everywhere(project, by)
    elif by == _MACHINE:
        raise InputError("the ledger here is of one machine", hint="promptsmith cost --all-machines --by machine")
    else:
        rows = added_up(open_store(project).ledger.rows(), by)
    if as_json:
        write_json(rows)
        return
    if not rows:
        story("the ledger is empty: nothing was called yet")
        return
    shown = [
        [row[by], *(str(row[name]) for name in ("calls", "free", "input", "cached", "written", "output")), _money(row)] for row in rows
    ]
    click.echo(table(shown, [by, "calls", "from cache", "tokens in", "cached", "written", "tokens out", "cost"]))


def _everywhere(project: Project, by: str) -> list[dict[str, Any]]:
    if not project.config.registry:
        raise InputError(
            "the ledger of all machines is in a server registry, which this project has not",
            hint="promptsmith.toml: registry = 'postgresql://…'",
        )
    from ...registry.postgres.address import find_address
    from ...registry.postgres.connection import Database

    with Database(find_address(project)).session() as conn:
        from ...registry.postgres.spending import spent  # psycopg is there: the database was asked for it

        return spent(conn, by)


def added_up(rows: Iterable[LedgerRow], by: str) -> list[dict[str, Any]]:
    """One row for each group, sorted by its name. ``unpriced`` counts paid calls whose price is not known."""
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = _BY[by](row)
        empty = {by: name, "calls": 0, "free": 0, "input": 0, "cached": 0, "written": 0, "output": 0, "cost": 0.0, "unpriced": 0}
        group = groups.setdefault(name, empty)
        if row.source != "model":
            group["free"] += 1
            continue
        group["calls"] += 1
        for field in ("input", "cached", "written", "output"):
            group[field] += getattr(row, field)
        if row.cost is None:
            group["unpriced"] += 1
        else:
            group["cost"] += row.cost
    return [groups[name] for name in sorted(groups)]


def _money(row: Mapping[str, Any]) -> str:
    unknown = f" and {row['unpriced']} at an unknown price" if row["unpriced"] else ""
    return f"${row['cost']:.4f}{unknown}"
