"""Scorers: each grades one answer against one expectation.

What builds and runs them is imported when it is used: reading a task needs only their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...contract import Contract
from ...task.values import ScorerSpec
from .protocol import Answer, Grade, Scorer, Unscored
from .vocabulary import KINDS, Wrong, check_specs, default_specs, scorer_names, table

if TYPE_CHECKING:
    from .build import Calibrated
    from .judge import Ask

__all__ = [
    "KINDS",
    "Answer",
    "Grade",
    "Scorer",
    "Unscored",
    "Wrong",
    "build_scorers",
    "check_specs",
    "default_specs",
    "judges",
    "pairwise",
    "scorer_names",
    "table",
]


def build_scorers(specs: Sequence[ScorerSpec], contract: Contract, *, folder: Path, ask: Ask | None = None) -> tuple[Scorer, ...]:
    """The scorers of a suite. ``folder`` is the task file's: files are named from there; ``ask`` reaches judges' models.

    Without ``specs`` the contract decides (:func:`default_specs`). Without ``ask`` judges have their versions, and
    leave every answer unscored. Raises :class:`~promptsmith.errors.SourceError` with everything that is wrong, each at
    its place in the task file.
    """
    from .build import build

    return build(specs, contract, folder=folder, ask=ask)


def judges(scorers: Iterable[Scorer]) -> tuple[Calibrated, ...]:
    """The judges among ``scorers``, each with its calibration file."""
    from .build import judging

    return judging(scorers)


def pairwise(scorers: Iterable[Scorer]) -> bool:
    """Whether some judge compares an answer with the baseline's: then that one must be there first."""
    return any(calibrated.judge.pairs == "baseline" for calibrated in judges(scorers))
