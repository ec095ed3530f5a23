"""What a scorer is to the rest of the evals: it grades one answer against one expectation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from ...errors import PromptsmithError


class Unscored(PromptsmithError):
    """A scorer could not grade an answer. The case has no score then, which is neither a pass nor a failure."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as scorers see it."""

    case: str
    """Id of the case."""
    inputs: Mapping[str, str]
    expected: str
    """The expected output as the task has it: a label, a text, or JSON text."""
    output: str
    """What the model wrote, unchanged."""
    value: object = None
    """The output as the contract reads it: the label as written in the task, the JSON value, the text; ``None`` when broken."""
    label: str = ""
    """Of a contract of labels: the label that it read in the output, as the task writes it."""
    broken: tuple[str, ...] = ()
    """Why the output breaks the contract; empty when it holds."""
    latency: float = 0.0
    """Seconds that the model took."""
    cost: float | None = None
    """US dollars, ``None`` when the price is unknown."""
    model: str = ""
    """Full name of the model that answered."""
    baseline: str | None = None
    """What the incumbent wrote for the same case, for a judge that compares; ``None`` when there is none."""


class Grade(msgspec.Struct, frozen=True):
    """A score from 0 to 1, whether that passes, and why in words a person can act on."""

    score: float
    passed: bool
    why: str = ""
    paths: Mapping[str, float] = {}
    """For structured answers: score by path, only of the paths that differ."""
    cost: float | None = 0.0
    """US dollars that grading itself cost (a judge), ``None`` when unknown."""


class Scorer(Protocol):
    """Grades answers. ``version`` is part of a report's identity: it changes when the same answer could be graded differently."""

    @property
    def name(self) -> str:
        """The name under which its scores stand in reports; unique in a suite."""

    @property
    def version(self) -> str:
        """Name, version number and every option, as one text."""

    @property
    def weight(self) -> float:
        """Its share of a case's score."""

    async def grade(self, answer: Answer) -> Grade:
        """The grade of one answer. Raises :class:`Unscored` when it can't grade it."""
