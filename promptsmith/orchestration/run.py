"""Runs a plan: its inputs bound, its experts compiled, each step as soon as it can, every outcome journaled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ..budget import NO_LIMITS, Budget, Limits
from ..config import Project
from ..contract import Contract
from ..errors import BudgetError, InputError, ModelError, PlanError, PromptsmithError, StoreError
from ..evals.asking import Asker
from ..models.directory import Directory
from ..prompt import Prompt, fenced
from ..store import Store
from .patterns import growth
from .patterns.growth import SoFar
from .runnable import bound_inputs, check_plan, needed, run_key, spliced
from .schedule import CONCURRENCY, Ended, run_graph
from .steps import RESULT_CHARS, Bill, Experts, Fault, Shared, Sight, StepRun, Workers
from .values import Author, Cause, Event, EventKind, Expert, OnEvent, Outcome, Plan, Step, StepResult
from .workers.values import as_text

Replan = Callable[[Plan, Step, StepResult, Mapping[str, StepResult]], Awaitable[Plan | None]]
"""Asked for another way when a step failed for good: with the plan as it stands, the step, what it came to, and all results so
far. Gives a plan of new steps, whose result takes the place of the step's, or ``None`` when there is no other way."""


class PlanOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a plan is run."""

    concurrency: int = CONCURRENCY
    """Steps under way at once."""
    result_chars: int = RESULT_CHARS
    """Most characters of one result; a longer one is a failure, never cut."""
    replans: int = 3
    """How often another way is asked for."""
    fresh: bool = False
    """Nothing comes from the reply cache."""
    strong: str = ""
    """The model whose price the same tokens are given at, for comparison."""

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("result_chars", 1), ("replans", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")


class Part(NamedTuple):
    """What a run goes on with that is part of a longer one: its calls, its clock, and the results that it has."""

    asker: Asker
    """With its journal open, which is the longer run's to close; budget and limits are its own."""
    directory: Directory
    since: float
    """``time.perf_counter()`` when the longer run began."""
    results: Mapping[str, StepResult] = {}
    """Steps that are not run again, by id."""


async def run_plan(
    plan: Plan,
    *,
    problem: str = "",
    inputs: Mapping[str, Any] | None = None,
    project: Project,
    store: Store,
    experts: Experts,
    workers: Workers,
    limits: Limits = NO_LIMITS,
    on_event: OnEvent | None = None,
    replan: Replan | None = None,
    models: Mapping[str, object] | None = None,
    options: PlanOptions | None = None,
    part: Part | None = None,
) -> Outcome:
    """What the plan comes to, within its limits and ``limits``.

    A step that fails is a result with its reason, and so is one that the budget had no room for: what was finished is
    kept. Run again after a kill or a stop, the same plan goes on where it was. Raises :class:`InputError` for inputs and
    plans that can't be run, :class:`UnknownName` for models and workers that do not exist, and :class:`StoreError` when
    the journal can't be written.
    """
    chosen, bounds = options or PlanOptions(), plan.limits.tightened(limits)
    check_plan(plan)
    bound = bound_inputs(plan.inputs, inputs or {})
    directory = part.directory if part else Directory(project, models)
    chronicle = _Chronicle(on_event, part.since if part else time.perf_counter())
    # The time is kept by the run.
    spendable = part.asker.budget if part else Budget(msgspec.structs.replace(bounds, seconds=None))
    staff = _Staff(experts, workers, directory, spendable, bounds.seconds, chronicle, frozenset(project.config.workers))

    async def ran(asker: Asker, results: Mapping[str, StepResult]) -> _Run:
        assert asker.journal is not None
        # What came since a longer run began is none of an earlier one's.
        earlier = frozenset(asker.journal.entries.keys() - asker.used.keys())
        bill = Bill(earlier, directory.rates.find(chosen.strong) if chosen.strong else None)
        shared = Shared(asker, asker.journal, experts, workers, bill, problem, chosen.result_chars, {}, chronicle.retried)
        run = _Run(plan, bound, shared, staff, chronicle, replan, chosen, dict(results))
        await run.within(bounds.seconds)
        return run

    if part is not None:
        await staff.ready(plan, plan.steps, plan.author)
        run = await ran(part.asker, part.results)
        return run.outcome(run_key(plan, problem, bound, staff.prompts(plan)))
    chronicle.tell("run", text=plan.name, steps=plan.steps)
    await staff.ready(plan, plan.steps, plan.author)
    key = run_key(plan, problem, bound, staff.prompts(plan))
    asker = Asker(directory, store, spendable, task=plan.name or "plan", fresh=chosen.fresh)
    with store.journal("plan", key, {"plan": plan.name}) as journal:
        if journal.finished:
            journal.restart()
        asker.journal = journal
        try:
            run = await ran(asker, {})
        except asyncio.CancelledError:
            chronicle.tell("ended", text="stopped by the user; run it again to go on")
            raise
        chronicle.tell("ended", text=run.why or "done")
        if not run.unfinished:
            store.flush()  # what the journal holds is not replayed any more, and must be in the cache by then
            journal.finish({"why": run.why})
    return run.outcome(key)


# --- who does it ------------------------------------------------------------------------------------------


_Role = tuple[Expert, Contract | None]


class _Staff:
    """The prompts of a plan's experts, each compiled once, and its workers, looked up before anything is paid for."""

    def __init__(
        self,
        experts: Experts,
        workers: Workers,
        directory: Directory,
        budget: Budget,
        seconds: float | None,
        chronicle: _Chronicle,
        registered: frozenset[str],
    ) -> None:
        self.registered = registered
        """Names of the registered workers."""
        self._experts, self._workers, self._directory, self._budget = experts, workers, directory, budget
        self._seconds, self._chronicle = seconds, chronicle
        self._prompts: dict[_Role, Prompt | PromptsmithError] = {}
        self._steps: dict[str, Prompt | PromptsmithError | None] = {}
        self._functions: dict[str, bool] = {}

    async def ready(self, plan: Plan, steps: Sequence[Step], author: Author) -> None:
        """Compiles and checks what ``steps`` need, which ``author`` wrote.

        Raises for what does not exist or can't be priced. A compile that failed is its steps' own fault.
        """
        person, named = author == "person", {expert.name: expert for expert in plan.experts}
        roles = {
            step.id: (named.get(step.expert) or Expert(name=step.expert, task=step.expert), step.output) for step in steps if step.expert
        }
        for step in steps:
            if step.worker:
                self._workers.check(step.worker, allow_functions=person)
            if step.fallback:
                self._check(step.fallback)
        await self._compile([role for role in dict.fromkeys(roles.values()) if role not in self._prompts])
        for step in steps:
            self._functions[step.id] = person
            self._steps[step.id] = self._prompts[roles[step.id]] if step.id in roles else None

    def prompts(self, plan: Plan) -> list[Prompt | PromptsmithError | None]:
        """Of all steps of a plan, in their order."""
        return [self._steps[step.id] for step in plan.steps]

    def prompt(self, step: Step) -> Prompt | PromptsmithError | None:
        """The prompt of a step's expert, or why there is none; ``None`` for a worker."""
        return self._steps[step.id]

    def functions(self, step: Step) -> bool:
        """Whether a step may call ``module:function``."""
        return self._functions[step.id]

    async def _compile(self, roles: Sequence[_Role]) -> None:
        async def one(number: str) -> Ended:
            role = roles[int(number)]
            try:
                prompt = self._prompts[role] = await self._experts.prompt(*role, self._chronicle.heard, self._budget)
            except (ModelError, BudgetError) as error:
                self._prompts[role] = error
            else:
                self._check(prompt.model)
            return Ended.FREES

        seconds = self._seconds
        limit = asyncio.timeout(None if seconds is None else max(0.0, seconds - self._chronicle.now()))
        try:
            async with limit:
                # Two searches at once would each be given all that is left.
                places = 1 if self._budget.limited else CONCURRENCY
                await run_graph({str(number): () for number in range(len(roles))}, one, concurrency=places)
        except TimeoutError:
            if not limit.expired():
                raise
            for role in roles:
                self._prompts.setdefault(role, BudgetError(f"the time limit of {seconds:g} seconds is reached"))

    def _check(self, model: str) -> None:
        self._directory.check(model)
        if self._budget.limits.usd is not None:
            self._budget.check_price(model, self._directory.rates.find(model))


def _task(name: str) -> Expert:
    """The expert that a task of the project is."""
    return Expert(name=name, task=name)


class _Chronicle:
    """Tells what happens, in the order in which it does."""

    def __init__(self, on_event: OnEvent | None, since: float) -> None:
        self._on_event, self._since = on_event, since
        self.events: list[Event] = []
        """Without the results, which stand beside them."""
        self.compiled: list[Event] = []

    def now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._since

    def tell(self, kind: EventKind, **fields: Any) -> None:
        event = Event(kind=kind, at=self.now(), **fields)
        self.events.append(event if event.result is None else msgspec.structs.replace(event, result=None))
        if self._on_event is not None:
            self._on_event(event)

    def heard(self, event: Event) -> None:
        """Passes on what a compile tells."""
        event = msgspec.structs.replace(event, at=self.now(), role=event.role or "compiler")
        self.events.append(event)
        self.compiled.append(event)
        if self._on_event is not None:
            self._on_event(event)

    def retried(self, step: Step, why: str) -> None:
        self.tell("step_retried", step=step.id, role=role_of(step), text=why)


def role_of(step: Step) -> str:
    """``worker`` or ``expert``."""
    return "worker" if step.worker else "expert"


# --- running it -------------------------------------------------------------------------------------------


class _Run:
    """A plan under way: its results so far, and what ended it."""

    def __init__(
        self,
        plan: Plan,
        inputs: Mapping[str, Any],
        shared: Shared,
        staff: _Staff,
        chronicle: _Chronicle,
        replan: Replan | None,
        options: PlanOptions,
        results: dict[str, StepResult],
    ) -> None:
        self._plan, self._inputs, self._shared, self._staff, self._chronicle = plan, inputs, shared, staff, chronicle
        self._replan, self._replans, self._options, self._results = replan, options.replans, options, results
        self._steps = {step.id: step for step in plan.steps}
        self._running: dict[str, float] = {}
        self._blocked: list[str] = []
        self._cause: Cause = ""
        self.why = ""
        """Why it did not come to its end; empty when it did."""
        self.unfinished = False
        """Whether another run is to go on with what this one has journaled."""

    async def within(self, seconds: float | None) -> None:
        """Runs it, until ``seconds`` since it began have passed."""
        await self._timed(seconds)
        if not self._cause and not any(result.state == "done" for result in self._wanted()):
            failed = "; ".join(f"step {result.id!r} failed: {result.error}" for result in self._wanted())
            self._end("step", f"the plan has no result: {failed}")

    async def _timed(self, seconds: float | None) -> None:
        limit = asyncio.timeout(None if seconds is None else max(0.0, seconds - self._chronicle.now()))
        try:
            async with limit:
                await self._rounds()
        except TimeoutError:
            if not limit.expired():
                raise
            self._end("time", f"the time limit of {seconds:g} seconds is reached", unfinished=True)
            for step, started in self._running.items():
                self._keep(self._steps[step], StepResult(id=step, state="failed", error=self.why), started)

    async def _rounds(self) -> None:
        """Every runnable step; then, where one failed for which there may be another way, what that brings."""
        while True:
            open_ = {step.id: step for step in self._plan.steps if step.id not in self._results}
            graph = {step.id: [need for need in needed(step, self._steps) if need in open_] for step in open_.values()}
            if not await run_graph(graph, self._do, concurrency=self._options.concurrency):
                return
            if not self._blocked and not await self._grown():
                return
            for failed in [step.id for step in self._plan.steps if step.id in self._blocked]:
                if not await self._another_way(failed):
                    return
            self._blocked = []

    async def _do(self, name: str) -> Ended:
        step, started = self._steps[name], self._chronicle.now()
        self._running[name] = started
        self._chronicle.tell("step_started", step=name, role=role_of(step), text=step.expert or step.worker)
        end = await StepRun(self._shared, step, self._sight(step), self._staff.prompt(step), self._staff.functions(step)).run()
        del self._running[name]
        skipped = end.fault is not None and end.fault.cause != "budget" and step.on_failure == "skip"
        self._keep(step, msgspec.structs.replace(end.result, state="skipped") if skipped else end.result, started)
        return Ended.FREES if end.fault is None or skipped else self._failed(step, end.fault)

    def _failed(self, step: Step, fault: Fault) -> Ended:
        if fault.cause == "budget":
            self._end("budget", fault.why, unfinished=True)
        elif step.on_failure == "replan" and self._replan is not None and not self._cause:
            self._blocked.append(step.id)
            return Ended.BLOCKS
        else:
            self._end(fault.cause, f"step {step.id!r} failed: {fault.why}", unfinished=fault.passing)
        return Ended.HALTS

    def _end(self, cause: Cause, why: str, *, unfinished: bool = False) -> None:
        self.unfinished = self.unfinished or unfinished
        if not self._cause:
            self._cause, self.why = cause, why

    def _keep(self, step: Step, result: StepResult, started: float) -> None:
        result = msgspec.structs.replace(result, started=started, ended=self._chronicle.now())
        self._results[step.id] = result
        kind: EventKind = "step_done" if result.state == "done" else "step_skipped" if result.state == "skipped" else "step_failed"
        self._chronicle.tell(
            kind, step=step.id, role=role_of(step), text=result.error, model=result.model, usage=result.usage, cost=result.cost,
            result=result, seconds=result.ended - started,
        )  # fmt: skip

    def _sight(self, step: Step) -> Sight:
        """Exactly what the step declares; of a step that it needs without seeing it, only that it gave no result."""
        texts: dict[str, str] = {}
        values: dict[str, Any] = {}
        missing: dict[str, str] = {}
        for name in step.context:
            result = self._results.get(name)
            if result is None:
                values[name] = self._inputs[name]
                texts[name] = as_text(values[name])
            elif result.state == "done":
                texts[name], values[name] = result.text, result.value
            else:
                missing[name] = result.error
        for name in step.needs:
            if name not in values and self._results[name].state != "done":
                missing.setdefault(name, "it failed")
        return Sight(texts, values, missing)

    # --- another way --------------------------------------------------------------------------------------

    async def _another_way(self, failed: str) -> bool:
        """Asks for one and takes it into the plan; when there is none the plan has failed."""
        step, result = self._steps[failed], self._results[failed]
        why = f"step {failed!r} failed: {result.error}"
        if not self._replans:
            self._end("step", f"{why}; no further plan is asked for", unfinished=True)
            return False
        self._replans -= 1
        assert self._replan is not None
        try:
            other = await self._replan(self._plan, step, result, dict(self._results))
            if other is None:
                self._end("step", why)
                return False
            await self._take(step, other)
        except StoreError:
            raise
        except BudgetError as error:
            self._end("budget", f"budget: {error.message}", unfinished=True)
            return False
        except PromptsmithError as error:
            self._end("conductor", f"{why}; and no other way was found: {error.message}", unfinished=True)
            return False
        return True

    async def _take(self, failed: Step, other: Plan) -> None:
        plan = spliced(self._plan, failed.id, other)
        await self._staff.ready(plan, other.steps, "person" if self._plan.author == other.author == "person" else "model")
        again = any(step.id == failed.id for step in other.steps)
        if again:
            del self._results[failed.id]
        self._plan, self._steps = plan, {step.id: step for step in plan.steps}
        self._chronicle.tell("replan", step=failed.id, role="conductor", text=other.analysis, steps=other.steps)

    # --- more of it ---------------------------------------------------------------------------------------

    async def _grown(self) -> bool:
        """Whether the plan's own rule has added steps to it, now that all have ended."""
        rule = growth(self._plan)
        if rule is None or self._cause:
            return False
        try:
            more = rule.grow(SoFar(self._plan, dict(self._results), self._inputs, self._staff.registered))
            if more is None:
                return False
            check_plan(more)
            new = [step for step in more.steps if step.id not in self._steps]
            # What such steps name was read from a model's answer.
            await self._staff.ready(more, new, "model")
        except PlanError as error:
            self._end("conductor", error.message)
            return False
        self._plan, self._steps = more, {step.id: step for step in more.steps}
        self._chronicle.tell("added", text=more.grows, steps=tuple(new))
        return True

    # --- its end ------------------------------------------------------------------------------------------

    def outcome(self, key: str) -> Outcome:
        """What it came to. ``key`` is the run's."""
        results = tuple(self._results.get(step.id) or self._never(step) for step in self._plan.steps)
        done = [result for result in self._wanted() if result.state == "done"]
        bill = self._shared.bill
        for event in self._chronicle.compiled:
            bill.compiled(event)
        return Outcome(
            run=key,
            plan=self._plan,
            problem=self._shared.problem,
            inputs=self._inputs,
            state="done" if not self._cause else "stopped" if self._cause in ("budget", "time") else "failed",
            why=self.why,
            cause=self._cause,
            answer=done[0].text if len(done) == len(self._last()) == 1 else "\n".join(fenced(one.id, one.text) for one in done),
            results=results,
            events=tuple(self._chronicle.events),
            costs=bill.roles(),
            seconds=self._chronicle.now(),
            began=time.time() - self._chronicle.now(),
            baseline_usd=bill.baseline,
            notes=tuple(f"step {result.id!r} was skipped: {result.error}" for result in results if result.state == "skipped"),
            replayed=bill.replayed,
        )

    def _wanted(self) -> list[StepResult]:
        return [self._results.get(name) or self._never(self._steps[name]) for name in self._last()]

    def _never(self, step: Step) -> StepResult:
        return StepResult(id=step.id, state="waiting", error=f"not started: {self.why}")

    def _last(self) -> tuple[str, ...]:
        """The steps whose results are the plan's; of a plan that names none, those that no other one needs."""
        if self._plan.result:
            return self._plan.result
        used = {name for step in self._plan.steps for name in needed(step, self._steps)}
        return tuple(step.id for step in self._plan.steps if step.id not in used)
