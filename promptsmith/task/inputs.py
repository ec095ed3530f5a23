"""Rows of a data file as inputs of a prompt, for bulk runs: no outputs needed, other columns are left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import did_you_mean
from ..prompt import TEXT_INPUT, Variable
from .document import Problems, shown
from .rows import Row, read_rows, written_value

_TEXT_COLUMNS = (TEXT_INPUT, "text")


def input_rows(path: Path, inputs: Sequence[Variable]) -> list[tuple[Row, dict[str, str]]]:
    """Each row with the variables that it gives. Raises :class:`SourceError` with everything that is wrong.

    Named inputs stand in columns of their own names (in JSONL also as an object in ``input``); a task with one free
    text reads the column ``input``, else ``text``.
    """
    problems = Problems(shown(path))
    found = [(row, _values(row, inputs, problems)) for row in read_rows(path, problems)]
    problems.raise_if_any()
    return found


def _values(row: Row, inputs: Sequence[Variable], problems: Problems) -> dict[str, str]:
    given: Mapping[str, Any] = row.values
    inner = given.get(TEXT_INPUT)
    if inputs and isinstance(inner, dict):
        given = inner
    if not inputs:
        column = next((name for name in _TEXT_COLUMNS if name in given), "")
        return {TEXT_INPUT: _text(row, given, column or TEXT_INPUT, None, problems)}
    return {v.name: _text(row, given, v.name, v.default, problems) for v in inputs if v.name in given or v.default is None}


def _text(row: Row, given: Mapping[str, Any], name: str, default: str | None, problems: Problems) -> str:
    value = given.get(name, default)
    if value is None:
        near = did_you_mean(name, given)
        listed = ", ".join(map(repr, list(given)[:10]))
        problems.at(row.where, f"there is no {name!r}", near or f"the row has {listed}")
        return ""
    if isinstance(value, dict | list):
        problems.at(row.where, f"{name!r} is no text", "write one text for each input")
        return ""
    return written_value(value)
