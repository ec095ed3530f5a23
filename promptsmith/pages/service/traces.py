"""The runs of plans that are kept, the newest first."""

from __future__ import annotations

from ...evals.show.words import dollars, shortened
from ..frame import Frame
from . import render
from .values import TraceList

TITLE = 200
"""Characters of a title."""


def html(values: TraceList, frame: Frame) -> str:
    """The page."""
    rows = [(run, shortened(run.title, TITLE), dollars(run.usd)) for run in values.runs]
    return render("traces", frame.at("traces"), rows=rows, more=values.more)
