"""Who is compared, on what terms, and what one run comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .meter import Mark, Meter
from .world import Case, Family, World

DRAFT_REQUEST = (
    "You write system prompts. The user's message describes a task and shows solved examples. Write a system prompt that states "
    "the rules behind them, so that a small model gets other inputs right too. Answer with the system prompt and nothing else."
)


@dataclass(frozen=True)
class Trial:
    """One run of one contender: a world, what may be called, and how often. ``compile`` may be shown, ``dev`` only scored."""

    world: World
    meter: Meter
    budget: int
    """Scored calls. Calls of the meta-model are counted beside them."""
    seed: int

    @property
    def compile(self) -> tuple[Case, ...]:
        return tuple(case for number, case in enumerate(self.world.visible) if number % 5 < 3)

    @property
    def dev(self) -> tuple[Case, ...]:
        return tuple(case for number, case in enumerate(self.world.visible) if number % 5 >= 3)

    @property
    def description(self) -> str:
        return self.world.family.description

    def mean(self, system: str, cases: Sequence[Case]) -> float:
        """The mean score of a prompt over ``cases``; one scored call for each."""
        return sum(self.meter.score(system, case)[1] for case in cases) / len(cases)


@dataclass(frozen=True)
class Outcome:
    """What a contender hands over: the whole text that stands before an input, and the gain that it claims over where it began.

    ``claimed`` is ``None`` when it claims nothing.
    """

    prompt: str
    claimed: float | None = None


@dataclass(frozen=True)
class Contender:
    """``absent`` says why it can't run here, or is empty; it is asked before each table and nothing is put in its place."""

    name: str
    run: Callable[[Trial], Outcome]
    absent: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class Row:
    """One run, measured. Scores are 0 to 1; ``scored`` and ``meta`` are calls; ``tokens`` are those of the resulting prompt."""

    contender: str
    family: str
    seed: int
    truth: float
    begun: float
    """The true score of the bare description."""
    claimed: float | None
    scored: int
    meta: int
    tokens: int
    marks: tuple[Mark, ...]

    @property
    def overclaimed(self) -> float | None:
        """Claimed minus true gain."""
        return None if self.claimed is None else self.claimed - (self.truth - self.begun)

    def calls_to(self, truth: float) -> int | None:
        """The scored calls after which its best prompt so far was first worth ``truth``; ``None``: never."""
        return next((mark.calls for mark in self.marks if mark.truth >= truth), None)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Row:
        return cls(**{**row, "marks": tuple(Mark(**mark) for mark in row["marks"])})


def measured(contender: Contender, family: Family, seed: int, budget: int) -> Row:
    """One run of one contender."""
    world = World(family, seed)
    trial = Trial(world, Meter(world), budget, seed)
    outcome = contender.run(trial)
    trial.meter.mark(outcome.prompt)
    known = world.knowledge(outcome.prompt)
    return Row(
        contender=contender.name,
        family=family.name,
        seed=seed,
        truth=world.truth(outcome.prompt),
        begun=world.truth(family.description),
        claimed=outcome.claimed,
        scored=trial.meter.scored,
        meta=trial.meter.meta,
        tokens=known.tokens,
        marks=tuple(trial.meter.marks),
    )


def bare(trial: Trial) -> Outcome:
    """The description as it is."""
    return Outcome(trial.description)


def best_of_k(trial: Trial) -> Outcome:
    """As many drafts as the budget can score on the dev part beside the bare description; the best one wins."""
    cases = trial.dev[: max(1, trial.budget // 2)]
    first = best = trial.mean(trial.description, cases)
    prompt = trial.description
    for draft in _drafts(trial, trial.budget // len(cases) - 1):
        score = trial.mean(draft, cases)
        if score > best:
            prompt, best = draft, score
            trial.meter.mark(prompt)
    return Outcome(prompt, best - first)


def _drafts(trial: Trial, count: int) -> Iterator[str]:
    lines = [f"Input: {case.text}\nOutput: {case.expected}" for case in trial.compile]
    request = "\n\n".join([f"The task: {trial.description}", *lines])
    for _ in range(count):
        yield trial.meter.complete(DRAFT_REQUEST, request)


def contenders() -> tuple[Contender, ...]:
    """Everybody, present or not."""
    from . import ours, peers

    return (Contender("bare description", bare), Contender("best of k drafts", best_of_k), *ours.CONTENDERS, *peers.CONTENDERS)
