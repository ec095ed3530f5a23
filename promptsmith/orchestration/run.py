"""Runs a plan: its inputs bound, its experts compiled, each step as soon as it can, every outcome journaled."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import msgspec

from .. import canonical
from ..budget import NO_LIMITS, Budget, Limits
from ..config import Project
from ..contract import Contract
from ..errors import BudgetError, InputError, ModelError, PromptsmithError, StoreError, did_you_mean
from ..evals.asking import Asker
from ..models.directory import Directory
from ..prompt import Prompt, fenced
from ..store import Journal, Store
from .schedule import CONCURRENCY, Ended, run_graph
from .steps import RESULT_CHARS, Bill, Doing, Experts, Fault, Shared, Sight, Workers, as_text
from .values import Author, Cause, Event, EventKind, Expert, Input, OnEvent, Outcome, Plan, Step, StepResult

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
    chronicle = _Chronicle(on_event, time.perf_counter() if part is None else part.since)
    directory = Directory(project, models) if part is None else part.directory
    if part is None:
        chronicle.tell("run", text=plan.name, steps=plan.steps)
    staff = _Staff(experts, workers, directory, Budget(bounds), chronicle)
    await staff.ready(plan, plan.steps, plan.author)
    key = run_key(plan, problem, bound, [staff.prompt(step) for step in plan.steps])
    with _journaled(store, key, plan, part) as journal:
        asker = part.asker if part else Asker(directory, store, Budget(bounds), task=plan.name or "plan", fresh=chosen.fresh)
        if part is None:
            asker.journal = journal
        # Of a longer run the asker knows what came since it began.
        bill = Bill(frozenset(journal.entries.keys() - asker.used.keys()), directory.rates.find(chosen.strong) if chosen.strong else None)
        shared = Shared(asker, journal, experts, workers, bill, problem, chosen.result_chars, {}, chronicle.retried)
        run = _Run(plan, bound, shared, staff, chronicle, replan, chosen, dict(part.results) if part else {})
        try:
            await run.within(bounds.seconds)
        except asyncio.CancelledError:
            if part is None:
                chronicle.tell("ended", text="stopped by the user; run it again to go on")
            raise
        outcome = run.outcome(key, problem)
        if part is None:
            chronicle.tell("ended", text=outcome.why or outcome.state)
            if not run.unfinished:
                journal.finish({"state": outcome.state})
    return msgspec.structs.replace(outcome, events=tuple(chronicle.events), seconds=chronicle.now())


# --- what is run ------------------------------------------------------------------------------------------


def bound_inputs(declared: Sequence[Input], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every input with its value, as data. Raises :class:`InputError` naming one that is missing, unknown or no JSON value."""
    names = [one.name for one in declared]
    for name in given:
        if name not in names:
            hint = did_you_mean(str(name), names) or (f"it takes {', '.join(names)}" if names else "it takes none")
            raise InputError(f"the plan has no input {name!r}", hint=hint)
    bound = {}
    for one in declared:
        if one.name not in given and one.default is None and one.required:
            raise InputError(f"input {one.name!r} of the plan is missing", hint=one.about)
        bound[one.name] = given.get(one.name, one.default)
        try:
            canonical.encode(as_text(bound[one.name]))
        except InputError as error:
            raise InputError(f"input {one.name!r} can't be used: {error.message}", hint=error.hint) from None
    return bound


def needed(step: Step, ids: Mapping[str, object]) -> tuple[str, ...]:
    """The steps that must have ended before ``step`` starts: those that it needs, and those that it sees."""
    return tuple(dict.fromkeys((*step.needs, *(name for name in step.context if name in ids))))


def check_plan(plan: Plan) -> None:
    """Nothing. Raises :class:`InputError` for a plan that can't be run, however it was made."""
    if not plan.steps:
        raise InputError("the plan has no steps")
    ids = {step.id: step for step in plan.steps}
    if len(ids) < len(plan.steps):
        twice, _ = Counter(step.id for step in plan.steps).most_common(1)[0]
        raise InputError(f"two steps of the plan have the id {twice!r}", hint="give each step an id of its own")
    names = {one.name for one in plan.inputs}
    for step in plan.steps:
        _check_step(step, ids, names)
    for name in plan.result:
        if name not in ids:
            raise InputError(f"the plan's result is the step {name!r}, which it does not have", hint=did_you_mean(name, ids))
    try:
        TopologicalSorter({step.id: needed(step, ids) for step in plan.steps}).prepare()
    except CycleError as error:
        # graphlib tells the way from need to dependant; people read what needs what.
        raise InputError(f"steps of the plan need each other: {' needs '.join(reversed(error.args[1]))}") from None


def _check_step(step: Step, ids: Mapping[str, Step], inputs: set[str]) -> None:
    if bool(step.expert) == bool(step.worker):
        raise InputError(f"step {step.id!r} names {'both an expert and a worker' if step.expert else 'neither an expert nor a worker'}")
    if step.id in inputs:
        raise InputError(f"{step.id!r} is both an input and a step of the plan", hint="give one of them another name")
    for name in step.needs:
        if name not in ids:
            raise InputError(f"step {step.id!r} needs {name!r}, which is no step of the plan", hint=did_you_mean(name, ids))
    for name in step.context:
        if name not in ids and name not in inputs:
            known = [*ids, *inputs]
            raise InputError(
                f"step {step.id!r} is to see {name!r}, which is neither an input nor a step of the plan", hint=did_you_mean(name, known)
            )
    if step.on_failure == "fallback" and step.expert and not step.fallback:
        raise InputError(f"step {step.id!r} has on_failure: fallback and names no model", hint="fallback: <endpoint>/<model>")


def run_key(plan: Plan, problem: str, inputs: Mapping[str, Any], prompts: Sequence[Prompt | PromptsmithError | None]) -> str:
    """Identity of a run: what its steps do and see, the prompts of its experts (with their models), problem and inputs.

    Names, comments, limits and timeouts are no part of it: with a higher limit a run goes on where it was stopped.
    """
    steps = [msgspec.to_builtins(msgspec.structs.replace(step, where=type(step.where)(), timeout=None, type="")) for step in plan.steps]
    return canonical.digest(
        {
            "kind": "plan",
            "steps": canonical.sha256(as_text(steps)),
            "result": list(plan.result),
            "prompts": [one.id if isinstance(one, Prompt) else "" for one in prompts],
            "problem": canonical.sha256(problem),
            # In a list, so that a text is in quotes: "1" and 1 are not one input.
            "inputs": {name: canonical.sha256(as_text([value])) for name, value in inputs.items()},
        }
    )


def spliced(plan: Plan, failed: str, other: Plan) -> Plan:
    """``plan`` with the steps of ``other`` after the step that failed, whose dependants see their result in its place.

    A step of ``other`` that has the id of the failed one replaces it. Raises :class:`InputError` when that is no plan.
    """
    if not other.steps:
        raise InputError("the other way has no steps")
    again = any(step.id == failed for step in other.steps)
    heirs = (failed,) if again else other.result or (other.steps[-1].id,)
    known = {expert.name: expert for expert in plan.experts}
    for expert in other.experts:
        if known.setdefault(expert.name, expert) != expert:
            raise InputError(f"the other way's expert {expert.name!r} is another than the plan's", hint="give it another name")

    def inherited(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(heir for name in names for heir in (heirs if name == failed else (name,))))

    steps: list[Step] = []
    for step in plan.steps:
        if step.id == failed:
            steps += other.steps if again else (step, *other.steps)
        else:
            steps.append(msgspec.structs.replace(step, needs=inherited(step.needs), context=inherited(step.context)))
    made = msgspec.structs.replace(plan, steps=tuple(steps), experts=tuple(known.values()), result=inherited(plan.result))
    check_plan(made)
    return made


@contextmanager
def _journaled(store: Store, key: str, plan: Plan, part: Part | None) -> Iterator[Journal]:
    """The journal of this very run, begun anew unless an earlier one was cut short; of a part, the one of the whole."""
    if part is not None:
        assert part.asker.journal is not None
        yield part.asker.journal
        return
    with store.journal("plan", key, {"plan": plan.name}) as journal:
        if journal.finished:
            journal.restart()
        yield journal


# --- who does it ------------------------------------------------------------------------------------------


_Role = tuple[Expert, Contract | None]


class _Staff:
    """The prompts of a plan's experts, each compiled once, and its workers, looked up before anything is paid for."""

    def __init__(self, experts: Experts, workers: Workers, directory: Directory, budget: Budget, chronicle: _Chronicle) -> None:
        self._experts, self._workers, self._directory, self._budget = experts, workers, directory, budget
        self._chronicle = chronicle
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
                prompt = self._prompts[role] = await self._experts.prompt(*role, self._chronicle.heard)
            except (ModelError, BudgetError) as error:
                self._prompts[role] = error
            else:
                self._check(prompt.model)
            return Ended.FREES

        await run_graph({str(number): () for number in range(len(roles))}, one)

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
        self._why = ""
        self.unfinished = False
        """Whether another run is to go on with what this one has journaled."""

    async def within(self, seconds: float | None) -> None:
        """Runs it, until ``seconds`` since it began have passed."""
        limit = asyncio.timeout(None if seconds is None else max(0.0, seconds - self._chronicle.now()))
        try:
            async with limit:
                await self._rounds()
        except TimeoutError:
            if not limit.expired():
                raise
            self._end("time", f"the time limit of {seconds:g} seconds is reached", unfinished=True)
            for step, started in self._running.items():
                fault = Fault(self._why)
                self._keep(self._steps[step], StepResult(id=step, state="failed", error=fault.why), started)

    async def _rounds(self) -> None:
        """Every runnable step; then, where one failed for which there may be another way, what that brings."""
        while True:
            open_ = {step.id: step for step in self._plan.steps if step.id not in self._results}
            graph = {step.id: [need for need in needed(step, self._steps) if need in open_] for step in open_.values()}
            if not await run_graph(graph, self._do, concurrency=self._options.concurrency):
                return
            if not self._blocked:
                return
            for failed in [step.id for step in self._plan.steps if step.id in self._blocked]:
                if not await self._another_way(failed):
                    return
            self._blocked = []

    async def _do(self, name: str) -> Ended:
        step, started = self._steps[name], self._chronicle.now()
        self._running[name] = started
        self._chronicle.tell("step_started", step=name, role=role_of(step), text=step.expert or step.worker)
        came = await Doing(self._shared, step, self._sight(step), self._staff.prompt(step), self._staff.functions(step)).come()
        del self._running[name]
        skipped = came.fault is not None and came.fault.cause != "budget" and step.on_failure == "skip"
        self._keep(step, msgspec.structs.replace(came.result, state="skipped") if skipped else came.result, started)
        return Ended.FREES if came.fault is None or skipped else self._failed(step, came.fault)

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
            self._cause, self._why = cause, why

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

    # --- its end ------------------------------------------------------------------------------------------

    def outcome(self, key: str, problem: str) -> Outcome:
        """What it came to."""
        results = tuple(self._results.get(step.id) or self._never(step) for step in self._plan.steps)
        by_id = {result.id: result for result in results}
        wanted = [by_id[name] for name in self._plan.result or self._last()]
        done = [result for result in wanted if result.state == "done"]
        if not done and not self._cause:
            said = "; ".join(f"step {result.id!r} failed: {result.error}" for result in wanted)
            self._end("step", f"the plan has no result: {said}")
        bill = self._shared.bill
        for event in self._chronicle.compiled:
            bill.compiled(event)
        return Outcome(
            run=key,
            plan=self._plan,
            problem=problem,
            inputs=self._inputs,
            state="done" if not self._cause else "stopped" if self._cause in ("budget", "time") else "failed",
            why=self._why,
            cause=self._cause,
            answer=done[0].text if len(wanted) == 1 and done else "\n".join(fenced(result.id, result.text) for result in done),
            results=results,
            costs=bill.roles(),
            baseline_usd=bill.baseline,
            replayed=bill.replayed,
            began=time.time() - self._chronicle.now(),
        )

    def _never(self, step: Step) -> StepResult:
        return StepResult(id=step.id, state="waiting", error=f"not started: {self._why}")

    def _last(self) -> tuple[str, ...]:
        """The steps that no other one needs."""
        used = {name for step in self._plan.steps for name in needed(step, self._steps)}
        return tuple(step.id for step in self._plan.steps if step.id not in used)
