"""What was paid: by task, by model, by day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..frame import Frame
from . import render
from .values import CostRow, Costs


class Row(NamedTuple):
    """A line of a table with its bar, in percent of the longest."""

    name: str
    cost: CostRow
    bar: float


class Table(NamedTuple):
    """The costs added up one way. ``what`` heads the first column."""

    what: str
    title: str
    rows: tuple[Row, ...]


def html(values: Costs, frame: Frame) -> str:
    """The page. Tasks and models come in the order given, as do days."""
    tables = [Table("task", "By task", _rows(values.tasks)), Table("model", "By model", _rows(values.models))]
    tables.append(Table("day (UTC)", "By day", _rows(values.days)))
    return render("costs", frame.at("costs"), total=values.total, window=values.window, tables=tables)


def _rows(rows: Sequence[CostRow]) -> tuple[Row, ...]:
    most = max((row.figures.usd for row in rows), default=0.0) or 1.0
    return tuple(Row(row.name, row, round(100 * row.figures.usd / most, 2)) for row in rows)
