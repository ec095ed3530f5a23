"""What the pages of the service show. Times in seconds since the epoch unless they are RFC 3339 texts; money in US dollars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from ...evals.report import Head
from ...prompt import Prompt, Variable
from ...receipt import Receipt
from ...registry.protocol import Move, OutsideMove

State = Literal["running", "shadow", "stopped", "complete"]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of a task, a prompt, a model, a day or one side of a canary, added up."""

    calls: int = 0
    """Failed ones and those answered from the reply cache included."""
    errors: int = 0
    replayed: int = 0
    """Answers from the reply cache."""
    checked: int = 0
    """Answers that were held against the contract, and of them ``adherent`` kept it."""
    adherent: int = 0
    usd: float = 0.0
    """Paid for the calls whose price is known."""
    unpriced: int = 0
    """Calls whose price is not known; they are not in ``usd``."""
    input: int = 0
    """Tokens, those that the provider cached included."""
    cached: int = 0
    """Tokens of ``input`` that the provider read from its prompt cache."""
    output: int = 0
    p50: float | None = None
    """Latency in seconds; ``None``: nothing was timed."""
    p95: float | None = None


class Hours(msgspec.Struct, frozen=True):
    """Calls in each of the last hours, the oldest first."""

    calls: tuple[int, ...] = ()
    ends: float = 0.0
    """End of the last hour."""


class Production(msgspec.Struct, frozen=True, kw_only=True):
    """What is in production."""

    id: str
    since: str = ""
    """RFC 3339; empty: no move is recorded."""
    who: str = ""
    model: str = ""
    forced: bool = False


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate beside the prompt under an alias, with what became of both sides' calls since it started."""

    state: State
    alias: str
    candidate: str
    incumbent: str
    share: float
    """Of the callers that the candidate answers, 0 to 1."""
    started: str
    """RFC 3339."""
    open: bool = True
    """Whether the candidate still gets its share. One that is complete keeps it until the alias moves."""
    forced: bool = False
    why: str = ""
    """Why it was stopped, or is complete."""
    ours: Figures = Figures()
    """Of the candidate."""
    theirs: Figures = Figures()
    """Of the incumbent."""
    says: tuple[str, ...] = ()
    """What the test says so far, a line each."""


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """One task on the overview."""

    task: str
    production: Production | None = None
    figures: Figures = Figures()
    """Of all its prompts; latencies of the one in production."""
    hours: Hours = Hours()
    canary: Canary | None = None
    trouble: str = ""
    """What is damaged, in words; the last good copy is served."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Every task. ``window`` says since when the figures are counted; the hours are always the last ones."""

    tasks: tuple[TaskRow, ...]
    window: str = "since the service has started"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt of the task that is still kept."""

    id: str
    created: str
    """RFC 3339."""
    model: str
    aliases: tuple[str, ...] = ()
    origin: str = ""
    """Where it is kept: lock, cache, registry."""
    verdict: str = ""
    """Of its receipt; empty: it has none."""
    figures: Figures = Figures()


class TaskPage(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt of a task, and everything about the task."""

    task: str
    chosen: str
    """What names the prompt that is shown: ``support/triage@production``."""
    origin: str
    """Where it came from."""
    prompt: Prompt
    versions: tuple[Version, ...]
    """The latest first."""
    production: Production | None = None
    figures: Figures = Figures()
    """Of the task, as on the overview."""
    hours: Hours = Hours()
    window: str = "since the service has started"
    cacheability: tuple[str, ...] = ()
    """Whether the provider can cache the prompt and what that comes to, a line each."""
    compared: tuple[Prompt, Prompt] | None = None
    """The two versions whose difference was asked for, the older one first."""
    receipt: Receipt | None = None
    """Of the prompt that is shown."""
    moves: tuple[Move, ...] = ()
    """The latest first."""
    outside: tuple[OutsideMove, ...] = ()
    before: Mapping[str, str] = {}
    """For each alias that can be moved back: the id that it would name then."""
    canary: Canary | None = None
    trouble: str = ""

    def aliases(self) -> dict[str, str]:
        """Which prompt each alias names."""
        return {alias: version.id for version in self.versions for alias in version.aliases}


class ReportList(msgspec.Struct, frozen=True, kw_only=True):
    """Reports, the newest first. ``more`` counts those that are not in ``heads``."""

    heads: tuple[Head, ...]
    tasks: tuple[str, ...] = ()
    """Every task that has reports, to choose from."""
    task: str = ""
    """The one that was chosen; empty: all."""
    more: int = 0


class TraceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a plan."""

    run: str
    title: str
    state: str
    began: float
    """0: unknown."""
    steps: int = 0
    failed: int = 0
    """Steps without a result."""
    seconds: float = 0.0
    usd: float | None = None
    """``None``: a price is not known."""


class TraceList(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of plans, the newest first."""

    runs: tuple[TraceRow, ...]
    more: int = 0


class CostRow(msgspec.Struct, frozen=True):
    """What one task, model or day came to."""

    name: str
    figures: Figures


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger, added up three ways."""

    total: Figures
    tasks: tuple[CostRow, ...] = ()
    models: tuple[CostRow, ...] = ()
    days: tuple[CostRow, ...] = ()
    """UTC, the latest first."""
    window: str = "last 30 days"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a prompt answered to the try-it form."""

    text: str
    prompt: str
    model: str
    source: str = ""
    """``model``, or where else the answer came from."""
    kept: bool | None = None
    """Whether it keeps the contract; ``None``: it was not checked."""
    why: str = ""
    """What of the contract it breaks."""
    seconds: float | None = None
    input: int = 0
    output: int = 0
    usd: float | None = None
    """``None``: the price is not known."""


class TryIt(msgspec.Struct, frozen=True, kw_only=True):
    """The try-it form of one task, with the answer to what was sent."""

    task: str
    refs: tuple[str, ...]
    """What may be asked: aliases, then ids of versions."""
    ref: str = "production"
    inputs: tuple[Variable, ...] = ()
    """As the prompt declares them; none: one free text."""
    given: Mapping[str, str] = {}
    """What was sent, by input."""
    answer: Answer | None = None
    error: str = ""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, for the error page."""

    status: int
    what: str
    hint: str = ""
    request: str = ""
    """Id of the request, by which the log knows it."""
    back: str = ""
    """Address of the page whose form was refused."""
