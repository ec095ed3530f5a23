"""``promptsmith cost``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from ...store import LedgerRow
from ..frame import json_option, open_workspace, project_option, short, story, table, write_json

_BY: Mapping[str, Callable[[LedgerRow], str]] = {
    "task": lambda row: row.task or "-",
    "prompt": lambda row: short(row.prompt or None),
    "model": lambda row: row.model,
    "stage": lambda row: row.stage,
    "day": lambda row: time.strftime("%Y-%m-%d", time.gmtime(row.time)),
}


@click.command("cost")
@click.option("--by", type=click.Choice(list(_BY)), default="task", show_default=True, help="What to add up by (days are UTC).")
@json_option
@project_option
def command(by: str, as_json: bool, project_dir: str | None) -> None:
    """Add up the ledger: calls, tokens and dollars."""
    ledger = open_workspace(project_dir).store.ledger
    rows = added_up(ledger.rows(), by)
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
