"""The whole record of one search as JSON: sources, models, options, every candidate with scores, usage and money."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from ... import canonical
from ...chat import Usage
from .values import Origin, Reason, Spent

FORMAT = 1
"""Version of the record's form."""

State = Literal["baseline", "out", "rejected", "scored", "chosen"]
"""``out``: left the race early; ``rejected``: an edit that no dev case was tried with, no better than its parent on the minibatch above
all; ``scored``: on the whole dev part."""


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What the chosen prompt gains over a baseline on the dev cases, corrected for having been chosen among many.

    Shares: 0.1 is ten points. ``lower`` and ``upper`` are the two ends of the corrected interval.
    """

    estimate: float
    lower: float
    upper: float
    cases: int
    compared: int
    """Candidates that it was chosen among."""
    alpha: float = 0.05
    """One-sided level of each end."""
    method: str = ""
    """How it was corrected, with its source."""

    @property
    def measurable(self) -> bool:
        """Whether the interval leaves out zero, above it."""
        return self.lower > 0


class CandidateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate, as the search left it."""

    id: str
    origin: Origin
    system: str
    shown: tuple[str, ...]
    """Ids of the examples in it."""
    tokens: int
    """Estimated tokens of its system prompt."""
    state: State
    why: str = ""
    """Why it is in that state."""
    scores: Mapping[str, float] = {}
    """Score (0 to 1) by dev case id, of those it was scored on."""
    practice: Mapping[str, float] = {}
    """Score by compile case id, of those it was tried on."""
    mean: float | None = None
    """Mean of ``scores``; ``None`` when there are none."""
    lower: float | None = None
    upper: float | None = None
    usage: Usage = Usage()
    """Of all calls that scored it."""
    usd: float | None = 0.0
    """US dollars of the same calls."""
    tokens_per_call: float | None = None
    """Mean tokens in and out of a call, once scored."""
    usd_per_1k: float | None = None
    """US dollars for 1,000 calls that find the prompt in the provider's cache; ``None``: price unknown or not scored."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage of the search took, replayed calls included."""

    name: str
    spent: Spent


class SearchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one search."""

    format: int = FORMAT
    task: str
    build: str
    """Build key."""
    version: str
    """Of promptsmith."""
    engine: str
    level: int
    prefer: str
    seed: int
    data_seed: int
    production: str
    meta: str
    options: Mapping[str, str] = {}
    sources: Mapping[str, str] = {}
    """sha256 of each file the task names, by path relative to the project."""
    compile_cases: int = 0
    dev_cases: tuple[str, ...] = ()
    """Ids, in file order."""
    reason: Reason = "done"
    why: str = ""
    """The reason in words."""
    chosen: str = ""
    chosen_why: str = ""
    front: tuple[str, ...] = ()
    """Ids of the candidates that no other beats in score, tokens and dollars at once, best score first."""
    over_template: Gain | None = None
    over_description: Gain | None = None
    """``None`` where the baseline is the chosen one itself, or nothing was scored."""
    candidates: tuple[CandidateRecord, ...] = ()
    """In the order in which they came up."""
    stages: tuple[Stage, ...] = ()
    spent: Spent = Spent()
    repeated: int = 0
    """Calls that were under way when an earlier run of this search was killed, and so may have been paid for twice."""
    replayed: int = 0
    """Calls that the journal of an earlier, unfinished run answered."""
    seconds: float = 0.0
    """Of this run."""
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """sha256 of the record, without what differs from run to run of the same search."""
        plain = msgspec.structs.replace(self, seconds=0.0, repeated=0, replayed=0)
        return canonical.sha256(msgspec.json.encode(plain, order="deterministic").decode())

    def candidate(self, candidate_id: str) -> CandidateRecord:
        """The candidate with this id. Raises :class:`KeyError`."""
        return next(one for one in self.candidates if one.id == candidate_id)


# See chat.py.
msgspec.json.Decoder(SearchRecord)
