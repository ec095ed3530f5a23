"""What a search over prompts works with: candidates, where they come from, and what can be seen of a search under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from ... import canonical
from ...errors import PromptsmithError

Kind = Literal["description", "template", "start", "draft", "reflection", "shrink"]
"""``description`` and ``template`` (the ``-O0`` prompt) are the baselines, and so is ``start``: the prompt that a search was given to
begin with, by a retarget or written by hand."""
BASELINES: tuple[Kind, ...] = ("template", "description", "start")

Reason = Literal["done", "perfect", "plateau", "budget", "time", "provider"]
"""Why a search ended."""
UNFINISHED: frozenset[Reason] = frozenset({"time", "provider"})
"""Ends that another run would not meet again: such a result is never kept under the build key."""


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a candidate comes from."""

    kind: Kind
    strategy: str = ""
    """Name of the meta-prompt that its instructions were drafted by."""
    selection: str = ""
    """Name of the way in which its examples were chosen."""
    parents: tuple[str, ...] = ()
    """Ids of the candidates that it was made from."""
    said: str = ""
    """What the meta-model said was wrong with the parent, or what a shrink took away."""
    round: int = 0
    """The round of reflection or shrinking, from 1."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt that takes part: its text decides its id, so equal texts are one candidate."""

    id: str
    """The first 12 hex digits of the sha256 of ``system``."""
    instructions: str
    """``system`` without its example section."""
    shown: tuple[str, ...]
    """Ids of the examples in its example section, in order; all of the compile part."""
    system: str
    origin: Origin

    @classmethod
    def of(cls, instructions: str, shown: tuple[str, ...], system: str, origin: Origin) -> Candidate:
        """A candidate with the id that its text has."""
        return cls(id=canonical.sha256(system)[:12], instructions=instructions, shown=shown, system=system, origin=origin)


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Calls, tokens (in and out) and US dollars; ``usd`` is ``None`` when a price is unknown."""

    calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0

    def __add__(self, other: Spent) -> Spent:
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        return Spent(calls=self.calls + other.calls, tokens=self.tokens + other.tokens, usd=usd)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a candidate stands at a moment of the search, on the dev cases it was scored on so far."""

    id: str
    name: str
    """For people: ``draft contract_first, coverage`` or ``reflection 3 on 1f0c…``."""
    mean: float
    """Mean score, 0 to 1."""
    lower: float
    upper: float
    """Two-sided 95 % interval of the mean."""
    cases: int
    tokens: int
    """Estimated tokens of its system prompt."""
    out: bool = False
    """Whether it has left the race."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A search at one moment: what the live view shows."""

    stage: str
    """``baselines``, ``drafts``, ``race``, ``reflection``, ``shrink``, ``final``."""
    round: int
    spent: Spent
    seconds: float
    dev: int
    """Cases of the dev part."""
    candidates: tuple[Standing, ...]
    front: tuple[str, ...]
    """Ids of the candidates that no other one beats in score and tokens both."""
    best: Candidate | None
    """The candidate that would be taken now."""


OnStatus = Callable[[Status], None]


class SearchStopped(PromptsmithError):
    """A search can't go on: its budget, its time or its provider ended. What was found so far stands."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason
