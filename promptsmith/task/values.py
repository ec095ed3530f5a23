"""A task as plain values: what the compiler, the runtime and the evals read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from ..canonical import Scalar
from ..contract import Check, Contract


class Where(msgspec.Struct, frozen=True):
    """A place in a file; ``line`` counts from 1, 0 when there is none. ``path`` is the place in a Python value."""

    file: str = ""
    line: int = 0
    path: str = ""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One input/output pair. ``output`` is the text as it will stand in the prompt (JSON text when ``json``)."""

    id: str
    inputs: Mapping[str, str]
    output: str
    json: bool = False
    tags: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    """Assertions that an imported row carries besides its output."""
    where: Where = Where()


class Constraint(msgspec.Struct, frozen=True):
    """A line for the prompt, optionally with a check that proves it."""

    say: str
    check: Check | None = None


class ModelSpec(msgspec.Struct, frozen=True):
    """A model by its full name (``endpoint/model``) and the parameters it is called with."""

    name: str
    parameters: Mapping[str, Scalar] = {}


ENGINES = ("promptsmith", "gepa")
"""The optimizers that ``compile: {engine: …}`` may name."""
Prefer = Literal["score", "cost", "balanced"]
PREFERENCES: tuple[Prefer, ...] = ("score", "cost", "balanced")
"""What ``compile: {prefer: …}`` may name."""


class CompileOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The ``compile:`` part of a task. ``None`` means not set here."""

    level: int | None = None
    seed: int | None = None
    candidates: int | None = None
    example_tokens: int | None = None
    engine: str | None = None
    prefer: Prefer | None = None
    budget: Mapping[str, float] = {}


class ScorerSpec(msgspec.Struct, frozen=True):
    """One scorer by name, with its options as written."""

    name: str
    options: Mapping[str, Any] = {}
    where: Where = Where()


class Mistake(NamedTuple):
    """What is wrong with a scorer or a rule, and what would be right. ``at`` is a key below ``gate``, or empty."""

    what: str
    right: str
    at: str = ""


class Vocabulary(Protocol):
    """Which scorers and rules there are: known above, and given to what reads a task."""

    def scorer(self, spec: ScorerSpec, contract: Contract) -> Iterable[Mistake]:
        """What is wrong with one scorer."""

    def files(self, spec: ScorerSpec) -> Iterable[str]:
        """The files that a scorer names, relative to the task file."""

    def gate(self, gate: Mapping[str, Any], scorers: Sequence[ScorerSpec], contract: Contract, tags: Sequence[str]) -> Iterable[Mistake]:
        """What is wrong with the gate of a task whose cases have these tags."""
