"""One run of a problem: a plan, bounded rounds of steps and of judging their results, and the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from .. import canonical
from ..budget import NO_LIMITS, Budget, Limits
from ..chat import Reply, Request, Usage, total_cost
from ..config import Project
from ..errors import BudgetError, InputError, PlanError, PromptsmithError
from ..evals.asking import Asker
from ..evals.attempt import Answered
from ..models.directory import Directory
from ..store import Journal, Store
from ..task.values import ScorerSpec
from .conductor import Conductor, Decision, PlanForm, Said, View, conductor_prompts
from .experts import Experts
from .grading import Grade, GradedBy
from .reading import Known
from .run import Part, PlanOptions, run_plan
from .similar import example_for, keep
from .values import Cause, Event, EventKind, Expert, Input, OnEvent, Outcome, Plan, RoleCost, Step, StepResult
from .workers import Workers

T = TypeVar("T")
MOST_ROUNDS = 10
_FRESH = frozenset({"run", "ended"})
"""Events of a round that the whole run tells itself."""


class SolveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a problem is solved."""

    conductor: str = ""
    """Who plans; empty: ``[models] conductor``, else the meta-model of the settings."""
    form: PlanForm = "json"
    """What the plan is written in: JSON (held to a schema where the endpoint can) or XML."""
    rounds: int = 2
    """How often steps are run and judged at most, the first time included."""
    limits: Limits = NO_LIMITS
    evaluate: tuple[ScorerSpec, ...] = ()
    """What grades the answer; one that does not pass goes back to the conductor while rounds are left."""
    most_steps: int | None = None
    """The most steps of a plan by the conductor; ``None``: what :class:`~promptsmith.orchestration.reading.Known` says."""
    keep: bool = True
    """Whether the outcome stays in the cache folder; of many runs that are one measurement it need not."""

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise InputError(f"a problem is worked on in 1 to {MOST_ROUNDS} rounds, not {self.rounds}")


Approve = Callable[[Plan], None]
"""Shown a conductor's plan before it is run, in a thread of its own. What it raises ends the run."""


class Means(NamedTuple):
    """What runs of one project share."""

    project: Project
    store: Store
    directory: Directory
    experts: Experts
    workers: Workers


class Rounds:
    """One run: its clock, its journal, what was spent by whom, and the results so far."""

    def __init__(
        self,
        means: Means,
        conductor: str,
        known: Known,
        problem: str,
        inputs: Mapping[str, Any],
        options: SolveOptions,
        on_event: OnEvent | None = None,
        *,
        tasks: Mapping[str, str] | None = None,
        approve: Approve | None = None,
    ) -> None:
        """``tasks``: what the tasks that ``known`` names are about."""
        self._approve = approve
        self._means, self._options, self._on_event = means, options, on_event
        self._problem, self._inputs = problem, dict(inputs)
        self._name, self._known = conductor, known
        self._budget = Budget(options.limits)
        self._asker = Asker(means.directory, means.store, self._budget, task="")
        self._conductor = Conductor(
            conductor,
            self._ask_conductor,
            known,
            catalog_name=means.project.config.catalog_name(conductor),
            form=options.form,
            tasks=tasks,
        )
        self._graded_by = GradedBy(options.evaluate, means.project.root, self._ask_judge, conductor) if options.evaluate else None
        self._began, self._started = time.time(), time.perf_counter()
        self._events: list[Event] = []
        self._costs: dict[str, RoleCost] = {}
        self._results: dict[str, StepResult] = {}
        self._plan = Plan()
        self._round = self._replayed = 0
        self._baseline: float | None = 0.0
        self._said = Decision(choice="done")
        self._grade: Grade | None = None
        self._notes: list[str] = []
        self._example = ""
        self._run = ""
        self._earlier: frozenset[str] = frozenset()
        """Keys of the calls that the journal held when this run began."""
        self._billed: set[str] = set()

    # --- the way of a run -----------------------------------------------------------------------------------

    async def plan(self) -> Plan:
        """The conductor's plan, not run. Equal problems reuse its reply."""
        self._means.store.check_writable()
        self._begin(None)
        # Kept as a run that has not begun: to solve the same problem then asks by the same request.
        self._keep(self._outcome("stopped", "it was planned, and not run", "user"))
        with self._journal("solve") as journal:
            plan = await self._planned()
            self._close(journal)
        return plan

    async def solve(self, plan: Plan | None = None) -> Outcome:
        """What became of the problem, by the conductor's plan or by one that was given. It is kept however it ends."""
        self._means.store.check_writable()
        self._begin(plan)
        outcome = self._outcome("stopped", "it has not come to its end", "user")
        # Before anything is asked: a run that is killed goes on with the same example.
        self._keep(outcome)
        try:
            with self._journal("solve") as journal:
                outcome = await self._ended(plan)
                if outcome.cause not in ("provider", "time", "budget"):
                    self._close(journal)
        except asyncio.CancelledError:
            outcome = self._outcome("stopped", "it was broken off", "user")
            raise
        except PromptsmithError as error:
            outcome = self._outcome("failed", error.message, cause_of(error))
            raise
        finally:
            self._keep(outcome)
        return outcome

    async def _ended(self, plan: Plan | None) -> Outcome:
        """The outcome. An error before there is a plan is raised; a later one ends the run with what was finished."""
        self._tell("run", text=self._problem, steps=plan.steps if plan is not None else ())
        self._plan = plan or await self._planned()
        if plan is None and self._approve is not None:
            await asyncio.to_thread(self._approve, self._plan)
        try:
            state, why, cause = await self._all_rounds()
        except PromptsmithError as error:
            if error.exit_code == InputError.exit_code:
                raise  # it can't be run as it was given
            cause = cause_of(error)
            state, why = ("stopped" if cause in ("budget", "time", "provider") else "failed"), error.message
        self._tell("ended", text=why or state)
        return self._outcome(state, why, cause)

    async def _all_rounds(self) -> tuple[Any, str, Cause]:
        best: tuple[float, Decision, Grade] | None = None
        for number in range(1, self._options.rounds + 1):
            self._round, last = number, number == self._options.rounds
            worked = await self._work()
            if worked is not None and worked.state != "done":
                return worked.state, worked.why, worked.cause or "step"
            decision = self._as_it_stands() if number == 1 else None
            decision = decision or await self._review(last=last)
            if decision.choice != "done":
                assert decision.plan is not None
                self._plan = decision.plan
                continue
            self._said = decision
            if self._graded_by is None:
                break
            grade = await self._graded(decision.answer)
            if best is None or (grade.score or 0.0) > best[0]:
                best = (grade.score or 0.0, decision, grade)
            if grade.passed or grade.score is None:
                break
        if best is not None:
            _, self._said, self._grade = best
            if not self._grade.passed:
                self._notes.append(f"the answer does not pass what grades it, and no round is left: {self._grade.why}")
        self._notes += self._said.notes
        return "done", "", ""

    # --- steps ----------------------------------------------------------------------------------------------

    async def _work(self) -> Outcome | None:
        """Runs the steps that have no result yet; ``None`` when there is none."""
        if all(step.id in self._results for step in self._plan.steps):
            return None

        def tell(event: Event) -> None:
            if event.result is not None:
                self._results[event.result.id] = event.result  # kept whatever becomes of the others
            if event.kind not in _FRESH:
                self._note(event)

        done = await run_plan(
            self._plan,
            problem=self._problem,
            inputs=self._inputs,
            project=self._means.project,
            store=self._means.store,
            experts=self._means.experts,
            workers=self._means.workers,
            limits=self._options.limits,
            on_event=tell,
            replan=self._replanned,
            options=PlanOptions(strong=self._name),
            part=Part(self._asker, self._means.directory, self._started, dict(self._results)),
        )
        self._plan = done.plan
        self._results |= {result.id: result for result in done.results}
        for cost in done.costs:
            self._add(cost)
        self._baseline = total_cost((self._baseline, done.baseline_usd))
        self._replayed += done.replayed
        return done

    def _as_it_stands(self) -> Decision | None:
        """The result of a plan whose one result is the answer, as its conductor said."""
        if self._plan.synthesis or len(self._plan.result) != 1:
            return None
        found = self._results.get(self._plan.result[0])
        if found is None or found.state != "done":
            return None
        return Decision(choice="done", answer=found.text, attribution={found.id: "the answer, as it stands"})

    # --- the conductor --------------------------------------------------------------------------------------

    async def _planned(self) -> Plan:
        said = await self._conductor.plan(self._problem, self._inputs, example=self._example)
        # The inputs are those that were given, whichever of them the conductor names.
        inputs = tuple(Input(name=name) for name in self._inputs)
        # What a run may spend is the caller's to say.
        plan = msgspec.structs.replace(said.value, about=self._problem, inputs=inputs, limits=NO_LIMITS)
        if self._means.project.config.models.production.startswith("builtin/"):
            # What the settings have for production reads examples out of prompts, and an expert's has none.
            plan = msgspec.structs.replace(plan, experts=tuple(self._played(expert) for expert in plan.experts))
        if plan.analysis:
            self._tell("analysis", text=plan.analysis, role="conductor")
        self._told_of("plan", said, "", plan.steps)
        return plan

    def _played(self, expert: Expert) -> Expert:
        named = expert.task or self._means.experts.model(expert)
        return expert if named else msgspec.structs.replace(expert, model=self._name)

    async def _review(self, *, last: bool) -> Decision:
        said = await self._conductor.review(self._view(), last=last)
        decision = said.value
        kinds: Mapping[str, EventKind] = {"done": "synthesis", "ask_again": "asked_again", "add_steps": "added"}
        new = [step for step in decision.plan.steps if step.id in decision.added] if decision.plan is not None else []
        self._told_of(kinds[decision.choice], said, decision.reason, new)
        return decision

    async def _replanned(self, plan: Plan, step: Step, failed: StepResult, results: Mapping[str, StepResult]) -> Plan:
        """Another way to what a step was for, from the conductor."""
        view = msgspec.structs.replace(self._view(), plan=plan, results={**self._results, **results})
        said = await self._conductor.replan(view, failed)
        self._told_of("replan", said, f"in the place of {step.id}", said.value.steps)
        return said.value

    def _view(self) -> View:
        graded = self._grade if self._grade is not None and not self._grade.passed else None
        return View(
            problem=self._problem,
            inputs=self._inputs,
            plan=self._plan,
            results=self._results,
            answer=self._said.answer if graded else "",
            evaluation=graded.why if graded else "",
        )

    async def _graded(self, answer: str) -> Grade:
        assert self._graded_by is not None
        grade = self._grade = await self._graded_by.grade(self._problem, answer)
        score = "not graded" if grade.score is None else f"{grade.score:.2f}, {'passed' if grade.passed else 'not passed'}"
        self._tell("evaluated", text=f"{score}{f': {grade.why}' if grade.why else ''}", role="judge")
        if grade.score is None:
            self._notes.append(f"the answer could not be graded: {grade.why}")
        return grade

    async def _ask_conductor(self, request: Request) -> Answered:
        return await self._ask(request, "conductor", "plan")

    async def _ask_judge(self, request: Request) -> Reply:
        return (await self._ask(request, "judge", "judge")).reply

    async def _ask(self, request: Request, role: str, stage: str) -> Answered:
        key = request.key()
        seconds = self._options.limits.seconds
        limit = asyncio.timeout(None if seconds is None else max(0.0, seconds - self._seconds()))
        try:
            async with limit:
                answered = await self._asker.ask(request, stage=stage, key=key)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeUp(f"the time limit of {seconds:g} seconds is reached") from None
        replayed = key in self._earlier and key not in self._billed
        self._billed.add(key)
        self._replayed += replayed
        if answered.source == "model" or replayed:  # what the reply cache alone answers, another run has paid for
            self._add(RoleCost(role, answered.calls, answered.usage, answered.cost))
        return answered

    # --- what is told and kept ------------------------------------------------------------------------------

    def _begin(self, plan: Plan | None) -> None:
        options = self._options
        self._run = canonical.digest(
            {
                "kind": "solve",
                "problem": canonical.sha256(self._problem),
                "inputs": canonical.sha256(_as_text(self._inputs)),
                "plan": canonical.sha256(_as_text(plan)) if plan is not None else "",
                "conductor": self._name,
                "prompts": conductor_prompts(),
                "form": options.form,
                "rounds": str(options.rounds),
                "evaluate": canonical.sha256(_as_text([(spec.name, dict(spec.options)) for spec in options.evaluate])),
                "known": canonical.sha256(_as_text(self._known)),
            }
        )
        if plan is None:
            self._example = example_for(self._means.store, self._run, self._problem)

    def _keep(self, outcome: Outcome) -> None:
        if self._options.keep:
            keep(self._means.store, outcome)

    def _journal(self, kind: str) -> Journal:
        journal = self._means.store.journal(kind, self._run, {"problem": self._problem[:200]})
        if journal.finished:
            journal.restart()
        self._asker.journal = journal
        self._earlier = frozenset(journal.entries)
        return journal

    def _close(self, journal: Journal) -> None:
        # A finished journal is not replayed: what it holds must be in the cache by then.
        self._means.store.flush()
        journal.finish(None)

    def _outcome(self, state: Any, why: str, cause: Cause) -> Outcome:
        plan, conducted = self._plan, self._costs.get("conductor")
        return Outcome(
            run=self._run,
            plan=plan,
            problem=self._problem,
            inputs=self._inputs,
            state=state,
            why=why,
            cause=cause,
            answer=self._said.answer,
            insights=self._said.insights,
            conflicts=self._said.conflicts,
            attribution=self._said.attribution,
            results=tuple(self._results[step.id] for step in plan.steps if step.id in self._results),
            events=tuple(self._events),
            costs=tuple(self._costs.values()),
            rounds=max(1, self._round),
            seconds=self._seconds(),
            began=self._began,
            baseline_usd=total_cost((self._baseline, conducted.usd if conducted else 0.0)),
            replayed=self._replayed,
            notes=tuple(self._notes),
            score=self._grade.score if self._grade else None,
            example=self._example,
        )

    def _told_of(self, kind: EventKind, said: Said[T], text: str, steps: Sequence[Step] = ()) -> None:
        again = f"(written again: {said.faults})" if said.faults else ""
        took = {"model": said.model, "usage": said.usage, "cost": said.cost, "calls": said.calls, "seconds": said.seconds}
        self._tell(kind, text=" ".join(filter(None, [text, again])), role="conductor", steps=tuple(steps), **took)

    def _tell(self, kind: EventKind, **fields: Any) -> None:
        self._note(Event(kind=kind, at=self._seconds(), **fields))

    def _note(self, event: Event) -> None:
        self._events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    def _add(self, more: RoleCost) -> None:
        had = self._costs.get(more.role, RoleCost(more.role, 0, Usage(), 0.0))
        self._costs[more.role] = RoleCost(more.role, had.calls + more.calls, had.usage + more.usage, total_cost((had.usd, more.usd)))

    def _seconds(self) -> float:
        return time.perf_counter() - self._started


class TimeUp(BudgetError):
    """The time limit of a run is reached."""


def cause_of(error: PromptsmithError) -> Cause:
    """What an error that ended a run was."""
    if isinstance(error, PlanError):
        return "conductor"
    if isinstance(error, TimeUp):
        return "time"
    if isinstance(error, BudgetError):
        return "budget"
    return "provider" if error.exit_code == 4 else "step"


def _as_text(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
