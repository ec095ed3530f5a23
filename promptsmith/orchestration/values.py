"""A plan as data, what its steps come to, and what happens on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from ..budget import NO_LIMITS, Limits
from ..chat import Usage
from ..contract import Contract
from ..task.values import Where

OnFailure = Literal["fail", "skip", "fallback", "replan"]
"""What becomes of the plan when a step fails for good: it ends as failed (what was finished is kept); the step's dependants are told
and go on without it; a stronger model is asked; the conductor is asked for another way."""

Author = Literal["person", "model"]
"""Who wrote a plan. One of a model may name registered workers alone, and has caps of its own."""


GROWS = ("meta-prompter", "build-feature", "orchestrator-workers", "research")
"""The rules of the patterns: each adds steps to a plan, read from what earlier steps answered."""
CONDUCTOR = "conductor"
"""In the place of an expert's model: the conductor of the settings, else their meta-model."""


class Input(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One named input of a plan: a text, or any JSON value (lists too), which stands in a request as JSON text."""

    name: str
    about: str = ""
    default: Any = None
    required: bool = True


class Expert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A role that a model plays: compiled into a prompt of its own, reusable across plans.

    Either ``task`` names a task of the project, or ``role`` and the rest describe one.
    """

    name: str
    task: str = ""
    role: str = ""
    scope: str = ""
    """What it is responsible for, and what it is not."""
    instructions: str = ""
    model: str = ""
    """Production model, or :data:`CONDUCTOR`; empty: the one of the settings for this role, else for all."""
    level: int | None = None
    """Of the compile; ``None``: the project's."""


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step: an expert or a worker does ``instructions``, seeing its ``context`` and nothing else."""

    id: str
    expert: str = ""
    """Name of an expert of the plan, or of a task of the project."""
    worker: str = ""
    """Name of a registered worker; ``module:function`` in a plan that a person wrote."""
    instructions: str = ""
    needs: tuple[str, ...] = ()
    """Ids of the steps that must have ended before it starts."""
    context: tuple[str, ...] = ()
    """Names of the inputs, and ids of the needed steps, that it may see."""
    problem: bool = False
    """Whether it sees the original problem as well."""
    output: Contract | None = None
    """What its result must satisfy; ``None``: any text."""
    arguments: Mapping[str, Any] = {}
    """Constant arguments of a worker."""
    on_failure: OnFailure = "fail"
    fallback: str = ""
    """The stronger model of ``on_failure: fallback``."""
    max_tokens: int | None = None
    timeout: float | None = None
    """Seconds of one attempt."""
    retries: int = 1
    """Further attempts after one that failed, came out empty or broke its contract."""
    type: str = ""
    """A name for people and patterns (``web_search``, ``write_report``)."""
    where: Where = Where()


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A validated plan: ids are unique, needs are known and acyclic, context is declared."""

    name: str = ""
    about: str = ""
    inputs: tuple[Input, ...] = ()
    experts: tuple[Expert, ...] = ()
    steps: tuple[Step, ...] = ()
    result: tuple[str, ...] = ()
    """Ids of the steps whose results are the plan's; one: its result is the plan's."""
    limits: Limits = NO_LIMITS
    author: Author = "person"
    analysis: str = ""
    """What a conductor said of the problem."""
    synthesis: str = ""
    """How a conductor wants the results put together; empty in a plan without a conductor."""
    grows: str = ""
    """The shipped rule (one of :data:`GROWS`) that adds steps as results come in; empty: the plan stays as it is."""

    def step(self, step_id: str) -> Step:
        """The step with this id. Raises :class:`KeyError`."""
        return next(one for one in self.steps if one.id == step_id)


State = Literal["waiting", "running", "done", "failed", "skipped"]


class StepResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a step came to. A failure is a state and a reason, never a text that looks like a result."""

    id: str
    state: State
    text: str = ""
    value: Any = None
    """The typed value of a label or JSON output; the text of any other."""
    error: str = ""
    """Why it failed or was skipped."""
    model: str = ""
    """Who answered; empty for a worker."""
    prompt: str = ""
    """Id of the expert's prompt."""
    source: str = ""
    """``model``, ``cache``, ``journal``, ``worker``."""
    attempts: int = 0
    started: float = 0.0
    """Seconds since the run began."""
    ended: float = 0.0
    usage: Usage = Usage()
    cost: float | None = 0.0
    """US dollars; ``None``: a price is unknown."""
    seen: tuple[str, ...] = ()
    """Names of the inputs and steps that it was shown."""
    sent: str = ""
    """The user turn of its request, or a worker's arguments as JSON."""


EventKind = Literal[
    "run", "analysis", "plan", "compile", "step_started", "step_retried", "step_done", "step_failed", "step_skipped",
    "replan", "added", "asked_again", "evaluated", "synthesis", "ended",
]  # fmt: skip


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened: a decision, a call, a retry."""

    kind: EventKind
    at: float
    """Seconds since the run began."""
    step: str = ""
    role: str = ""
    """``conductor``, ``expert``, ``worker``, ``compiler``, ``judge``."""
    text: str = ""
    """What was decided, or why it failed."""
    model: str = ""
    usage: Usage = Usage()
    cost: float | None = 0.0
    calls: int = 0
    """Of a compile or a decision of the conductor: the calls that it took."""
    result: StepResult | None = None
    steps: tuple[Step, ...] = ()
    """The steps that it brings: all of the plan (``run``, ``plan``), or those that are new (``added``, ``replan``)."""
    seconds: float = 0.0
    """How long the call took that it tells of, which ended at ``at``."""


OnEvent = Callable[[Event], None]


class RoleCost(msgspec.Struct, frozen=True):
    """What one role took. ``usd`` is ``None`` when a price is unknown."""

    role: str
    calls: int
    usage: Usage
    usd: float | None


Cause = Literal["", "step", "conductor", "provider", "budget", "time", "user"]
"""What ended a run that is not done: a step that failed, a conductor that wrote nothing usable, a provider, a limit, the user."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run of a plan came to, whole: it is what ``--json`` writes and the page shows."""

    run: str
    """The run's key: equal plans, inputs and models have one."""
    plan: Plan
    problem: str = ""
    inputs: Mapping[str, Any] = {}
    state: Literal["done", "failed", "stopped"]
    """``stopped``: a limit or the user ended it."""
    why: str = ""
    answer: str = ""
    """The result of the plan, or the conductor's synthesis."""
    insights: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    """Contradictions between results, and how they were resolved."""
    attribution: Mapping[str, str] = {}
    """What each step contributed, by step id, as the conductor says."""
    results: tuple[StepResult, ...] = ()
    """In the order of the plan's steps."""
    events: tuple[Event, ...] = ()
    costs: tuple[RoleCost, ...] = ()
    rounds: int = 1
    seconds: float = 0.0
    began: float = 0.0
    """When it began, in seconds since the epoch; 0: unknown."""
    baseline_usd: float | None = None
    """What the same tokens would have cost on the conductor's model alone; ``None``: unknown."""
    notes: tuple[str, ...] = ()
    """What a reader should know of the answer: what was dropped, what no round was left for."""
    score: float | None = None
    """What the evaluator gave the answer, 0 to 1; ``None``: it was not graded."""
    example: str = ""
    """The plan of a similar problem that the conductor was shown, as YAML."""
    cause: Cause = ""
    value: Any = None
    """What a pattern that grows came to, in its own form: a JSON value."""
    replayed: int = 0
    """Calls that the journal of an unfinished run answered."""

    def result(self, step_id: str) -> StepResult:
        """The result of one step. Raises :class:`KeyError`."""
        return next(one for one in self.results if one.id == step_id)
