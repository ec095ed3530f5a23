"""What a compiled prompt on a cheap model saves, measured: the same prompt and cases on a strong model beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from . import economics
from .budget import NO_LIMITS, Limits
from .catalog.models import facts
from .config import Project
from .errors import InputError
from .evals.evaluate import Against, Contender, EvalOptions, Evaluator
from .evals.measure import mean_score, pass_rate
from .evals.report import UNANSWERED, CaseReport, Report
from .evals.runner import OnProgress
from .evals.statistics import tango_clustered
from .evals.vocabulary import check_task
from .models.rates import RateTable
from .prompt import Prompt
from .receipt import Receipt
from .registry.resolve import Resolved
from .store import LedgerRow, Store
from .task import Task

_STRONG, _CHEAP = 0, 1
"""The arms of the eval: the candidate is the one that may be served with another model than its own."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One model with the prompt. Shares are 0 to 1, sums are US dollars of a mean call; ``None``: not known."""

    model: str
    answered: int
    """Cases that were scored on both sides: all figures are about these."""
    pass_rate: float | None
    score: float | None
    cold: float | None
    """A call that finds nothing in the provider's prompt cache, and writes it."""
    warm: float | None
    """A call that finds the prompt there."""
    paid: float | None
    """As the calls of this eval were really priced, whenever they were made."""
    prefix: economics.Prefix


class CompileCost(msgspec.Struct, frozen=True):
    """What all compiles of a task took, as far as the ledger here knows."""

    usd: float | None
    """``None``: a price is unknown, or a model wrote the prompt and the ledger knows of no call."""
    calls: int
    failed: int
    """Calls that ended in an error, whose cost nobody knows."""


class Savings(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and what follows from it."""

    task: str
    prompt: str
    chosen: str
    report: str
    """Id of the report that holds the cases."""
    cases: int
    strong: Side
    cheap: Side
    difference: tuple[float, float, float] | None
    """Pass rate of the cheap model minus the strong one's on the same cases, with its two-sided 95 % interval."""
    compile: CompileCost
    stopped: str
    """Why not every case was answered; empty when every one was."""
    by_limit: bool
    """Whether a limit stopped it."""

    def saved(self, kind: str) -> float | None:
        """The share that the cheap model saves, ``cold`` or ``warm``."""
        return economics.saved(getattr(self.strong, kind), getattr(self.cheap, kind))

    def pays_from(self, kind: str) -> int | economics.Never | None:
        """How many calls, all ``cold`` or all ``warm``, pay back the compile."""
        return economics.break_even(self.compile.usd, getattr(self.strong, kind), getattr(self.cheap, kind))


async def measure(
    project: Project,
    store: Store,
    task: Task,
    resolved: Resolved,
    strong: str,
    *,
    receipts: Sequence[Receipt] = (),
    limits: Limits = NO_LIMITS,
    models: Mapping[str, object] | None = None,
    on_progress: OnProgress | None = None,
) -> Savings:
    """Scores the prompt on the holdout with ``strong`` and with its own model, and prices the calls of both.

    It counts as one look at the holdout, by the prompt. Raises :class:`InputError` without a holdout or with one model for
    both, and what :meth:`Evaluator.evaluate` raises.
    """
    prompt = resolved.prompt
    if strong == prompt.model:
        raise InputError(f"{resolved.chosen} is served by {strong} itself", hint="name a stronger model with --strong")
    if not task.holdout:
        raise InputError(f"task {task.name} has no holdout to measure on", hint="add holdout: rows to the task file")
    if limits != NO_LIMITS and "max_tokens" not in prompt.parameters:
        raise InputError(
            f"{resolved.chosen}, for {prompt.model}, says nothing of how long an answer may be, so {strong} can't be held to a limit",
            hint="compile it for a model at an endpoint, or leave the limit out",
        )
    check_task(task)
    options = EvalOptions(model=strong, limits=limits)
    against = Against(incumbent=Contender(prompt, resolved.chosen), receipts=tuple(receipts))
    # Another object than the incumbent: only the candidate is served with the options' model.
    strong_arm = Contender(prompt, f"{resolved.chosen}, by {strong}")
    report = await Evaluator(project, store, models).evaluate(task, strong_arm, against, options, on_progress)
    return summed_up(report, prompt, resolved.chosen, project, store.ledger.rows())


def summed_up(report: Report, prompt: Prompt, chosen: str, project: Project, ledger: Iterable[LedgerRow]) -> Savings:
    """What a report with a strong and a cheap arm says."""
    head = report.head
    both = [case for case in report.cases if all(pass_rate(case.attempts[arm]) is not None for arm in (_STRONG, _CHEAP))]
    rates = RateTable(project.cache / "rates.json", project.config.prices)

    def side(arm: int) -> Side:
        return _side(both, arm, head.arms[arm].model, prompt, project, rates)

    return Savings(
        task=head.task,
        prompt=prompt.id,
        chosen=chosen,
        report=head.id,
        cases=len(report.cases),
        strong=side(_STRONG),
        cheap=side(_CHEAP),
        difference=_difference(both),
        compile=compile_cost(ledger, head.task, level=prompt.provenance.level),
        stopped=head.stopped,
        by_limit=head.stopped not in ("", UNANSWERED),
    )


def _side(cases: Sequence[CaseReport], arm: int, model: str, prompt: Prompt, project: Project, rates: RateTable) -> Side:
    attempts = [attempt for case in cases for attempt in case.attempts[arm]]
    usages = [attempt.usage for attempt in attempts]
    prefix = economics.cached_prefix(usages, prompt.system, facts(project.config.catalog_name(model)))
    each = economics.per_call(usages, rates.find(model), prefix)
    return Side(
        model=model,
        answered=len(cases),
        pass_rate=_mean([pass_rate(case.attempts[arm]) for case in cases]),
        score=_mean([mean_score(case.attempts[arm]) for case in cases]),
        cold=each.cold,
        warm=each.warm,
        paid=_mean([attempt.cost for attempt in attempts]),
        prefix=prefix,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _difference(cases: Sequence[CaseReport]) -> tuple[float, float, float] | None:
    rates = [(pass_rate(case.attempts[_CHEAP]), pass_rate(case.attempts[_STRONG])) for case in cases]
    differences = [cheap - strong for cheap, strong in rates if cheap is not None and strong is not None]
    if not differences:
        return None
    lower, upper = tango_clustered(differences, alpha=0.025)
    return sum(differences) / len(differences), lower, upper


def compile_cost(rows: Iterable[LedgerRow], task: str, *, level: int) -> CompileCost:
    """What the ledger says of the compiles of ``task``, the present prompt's and all before it.

    ``level`` is the present prompt's: what no model wrote cost nothing.
    """
    mine = [row for row in rows if row.task == task and row.stage == "compile" and row.source == "model"]
    # A call without a reply has no tokens; whether its provider counted it, only the provider knows.
    failed = [row for row in mine if row.cost is None and not (row.input or row.output)]
    costs = [row.cost for row in mine if row.cost is not None or row.input or row.output]
    if not costs:
        return CompileCost(None if level else 0.0, 0, len(failed))
    known = [cost for cost in costs if cost is not None]
    return CompileCost(sum(known) if len(known) == len(costs) else None, len(costs), len(failed))
