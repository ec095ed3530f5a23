"""Reports as files: the options that name them, and writing them whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..evals.record import write_whole
from ..evals.report import Report
from .frame import story

F = TypeVar("F", bound=Callable[..., Any])


def out_options(function: F) -> F:
    """``--junit``, ``--markdown`` and ``--html``."""
    for name, what in (
        ("--html", "Write the report as one offline HTML page."),
        ("--markdown", "Write a summary for a pull request."),
        ("--junit", "Write JUnit XML for CI."),
    ):
        function = click.option(name, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help=what)(function)
    return function


def write_reports(reports: Sequence[Report], *, junit: Path | None, markdown: Path | None, html: Path | None) -> None:
    """Writes the reports in the forms that were asked for."""
    if junit:
        from ..evals.show.junit import junit as as_junit

        _write(junit, as_junit(*reports))
    if markdown:
        from ..evals.show.markdown import markdown as as_markdown

        _write(markdown, "\n\n".join(map(as_markdown, reports)))
    if html:
        from ..pages.report import html as as_html

        if len(reports) != 1:
            raise click.UsageError("--html is about one report: name one task")
        _write(html, as_html(reports[0]))


def _write(path: Path, text: str) -> None:
    write_whole(path, text.encode("utf-8", "replace"), "the report")
    story(f"written: {path}")
