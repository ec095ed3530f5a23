"""Every task: what is in production and how it does."""

from __future__ import annotations

from ..frame import Frame
from . import render
from .values import Figures, Overview, TaskRow

_ADDED = ("calls", "errors", "replayed", "checked", "adherent", "unpriced", "usd")


def html(values: Overview, frame: Frame) -> str:
    """The page, tasks in the order given."""
    return render(
        "overview",
        frame.at("overview"),
        tasks=values.tasks,
        window=values.window,
        total=_total(values.tasks),
        canaries=[row for row in values.tasks if row.canary is not None and row.canary.open],
        troubles=[row for row in values.tasks if row.trouble],
    )


def _total(rows: tuple[TaskRow, ...]) -> Figures:
    """All tasks together, without latencies, which don't add up."""
    return Figures(**{name: sum(getattr(row.figures, name) for row in rows) for name in _ADDED})
