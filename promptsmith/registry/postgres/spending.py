"""The ledger of all machines, added up by the server: the rows themselves may be many millions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    from psycopg import Connection

_BY: Mapping[str, str] = {
    "task": "coalesce(nullif(task, ''), '-')",
    "prompt": "coalesce(nullif(left(prompt, 12), ''), '-')",
    "model": "model",
    "stage": "stage",
    "day": "to_char(ended AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "machine": "machine",
}
_SUMS = """
SELECT {by} COLLATE "C" AS name,
    count(*) FILTER (WHERE paid), count(*) FILTER (WHERE NOT paid),
    {amounts},
    coalesce(sum(cost) FILTER (WHERE paid), 0), count(*) FILTER (WHERE paid AND cost IS NULL)
FROM (SELECT *, source = 'model' AS paid FROM promptsmith_ledger) AS rows
GROUP BY name ORDER BY name
"""
_AMOUNTS = ("input", "cached", "written", "output")
_COLUMNS = ("calls", "free", *_AMOUNTS, "cost", "unpriced")


def spent(conn: Connection, by: str) -> list[dict[str, Any]]:
    """One row for each group, sorted by its name: calls that were paid for and ``free`` ones, tokens, US dollars, unpriced calls."""
    amount = sql.SQL("coalesce(sum({}) FILTER (WHERE paid), 0)")
    amounts = sql.SQL(", ").join(amount.format(sql.Identifier(name)) for name in _AMOUNTS)
    found = conn.execute(sql.SQL(_SUMS).format(by=sql.SQL(_BY[by]), amounts=amounts))
    return [{by: name, **_plain(dict(zip(_COLUMNS, sums, strict=True)))} for name, *sums in found]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Tokens as whole numbers: the server adds them up as ``numeric``, since two of the largest are more than ``bigint`` holds."""
    return row | {name: int(row[name]) for name in _AMOUNTS}
