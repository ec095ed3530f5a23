"""What a plan may name, and how large it may be: by who wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from ...task.document import Bounds
from ..values import Author, Expert

Form = Literal["yaml", "json", "xml"]

MOST_STEPS = 10_000
"""No plan has more."""
MOST_PROBLEMS = 100
"""In one list of steps: what follows is told once these are mended, so that a plan that is all wrong costs no more time."""
MOST_ANSWER = 4 * 1024 * 1024
"""Characters of a model's answer that is looked at for a plan."""
BOUNDS = Bounds(nodes=500_000, smaller="split the plan into smaller ones", empty="write at least 'steps:'")


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan may name, and how large one may be."""

    workers: frozenset[str] = frozenset()
    """Names of the registered workers."""
    tasks: frozenset[str] = frozenset()
    """Names of the project's tasks: a step or an expert may name one."""
    experts: tuple[Expert, ...] = ()
    """Experts that a plan may name without describing them; the plan that is read describes those that it names."""
    inputs: tuple[str, ...] = ()
    """Inputs that the caller gives: steps may see them, and the plan that is read declares them."""
    models: frozenset[str] | None = None
    """Full names of the models that a plan may name; ``None``: any ``endpoint/model``."""
    plans: frozenset[str] = frozenset()
    """Names of patterns and plans: none of them can be an expert or a worker, since a plan runs no plan."""
    most_steps: int | None = None
    """The most steps; ``None``: 50 for a model's plan. Never more than 10,000."""
    default_type: str = "general"
    """The type of a task of a short list that names none."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for one reading."""

    author: Author
    steps: int
    """The most steps."""
    text: int
    """The most characters of one text."""
    embedded: bool
    """Whether ``output`` and ``arguments`` may be texts that hold YAML: in forms that can't write any value in place."""
    folder: Path
    """What paths of schema files are relative to."""

    @property
    def trusted(self) -> bool:
        """Whether a person wrote the plan."""
        return self.author == "person"


_STEPS: dict[Author, int] = {"person": MOST_STEPS, "model": 50}
_TEXT: dict[Author, int] = {"person": 200_000, "model": 20_000}


def rules(author: Author, form: Form, known: Known, folder: Path) -> Rules:
    """The rules for a plan of this author in this form."""
    most = _STEPS[author] if known.most_steps is None else known.most_steps
    return Rules(author=author, steps=min(most, MOST_STEPS), text=_TEXT[author], embedded=form != "yaml", folder=folder)
