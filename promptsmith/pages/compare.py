"""Several reports beside each other as one offline HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from ..evals.report import Report
from ..evals.show import words
from ..evals.show.compare import compared, grid, has_grid, paired_line, rows
from . import page


def html(reports: Sequence[Report]) -> str:
    """The comparison as one HTML file that needs nothing else. Raises :class:`InputError` for fewer than two reports."""
    found = compared(reports)
    header, *table = rows(found)
    return page(
        "compare.html",
        entries=[(entry, words.title(entry.report), entry.report.head) for entry in found.entries],
        comparable=found.comparable,
        grid=grid(found) if has_grid(found) else [],
        header=header,
        table=table,
        paired=[paired_line(one) for one in found.paired],
        notes=found.notes,
    )
