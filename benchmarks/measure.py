"""Timing beside peers in the same run.

Repetitions alternate (A B A B), so that a machine that is busy for a while slows both alike; what is reported is
the median of each, and their ratio.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

MICRO, MILLI = 1e6, 1e3
Measure = Callable[[], float]
"""Does the work once and returns the seconds that count."""


class Figure(NamedTuple):
    """One row of the table. ``target`` is what we mean to reach, in words: on another machine it may read otherwise."""

    what: str
    ours: float
    unit: str
    target: str
    peer: float | None = None
    against: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None


def interleaved(*measures: Measure, rounds: int = 15) -> list[float]:
    """The median of each, in seconds, over ``rounds`` in which they take turns; a first round warms up uncounted."""
    seconds: list[list[float]] = [[] for _ in measures]
    for counted in range(-1, rounds):
        for taken, measure in zip(seconds, measures, strict=True):
            value = measure()
            if counted >= 0:
                taken.append(value)
    return [statistics.median(taken) for taken in seconds]


def seconds_of(work: Callable[[], object], times: int = 1) -> Measure:
    """Measures one call of ``work``, as the mean of ``times`` calls in a row."""

    def measure() -> float:
        begin = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - begin) / times

    return measure


def process(arguments: Sequence[str], folder: Path) -> Measure:
    """Measures this Python with ``arguments`` in ``folder``, from its start to its end."""
    command, environment = [sys.executable, *arguments], _environment(folder)

    def measure() -> float:
        begin = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
        return time.perf_counter() - begin

    return measure


def promptsmith(arguments: Sequence[str], folder: Path) -> Measure:
    """Measures the console script: these are its two lines (``-m`` would add the import of runpy)."""
    return process(["-c", "from promptsmith.cli import main; main()", *arguments], folder)


def _environment(folder: Path) -> Mapping[str, str]:
    # Bytecode in a folder of this run: an installed package has its own, a checkout may not (PYTHONDONTWRITEBYTECODE).
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PROMPTSMITH_"))}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode")}


def table(figures: Iterable[Figure]) -> str:
    """Figures as aligned text, a line each."""
    head = ("figure", "ours", "peer", "ratio", "target", "peer is")
    rows = [head, *(_cells(figure) for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if 1 <= i <= 3 else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _cells(figure: Figure) -> tuple[str, ...]:
    peer = f"{_number(figure.peer)} {figure.unit}" if figure.peer is not None else "-"
    ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else "-"
    return figure.what, f"{_number(figure.ours)} {figure.unit}", peer, ratio, figure.target, figure.against or "-"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def show(figures: Iterable[Figure]) -> None:
    """Writes the table of ``figures``."""
    sys.stdout.write(table(figures))
