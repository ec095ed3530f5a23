"""Whether a problem is worth a plan, or one prompt is enough: signs without proof, and on cases the proof.

That several experts beat one prompt is no rule: in the recorded runs of meta-prompting (Suzgun and Kalai 2024,
arXiv:2401.12954) the gain is on few tasks, at many times the input tokens. So a plan is compared with the single compiled
prompt on the same cases, by the statistics of the gate, and has to be better: the same score for more calls is no reason.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from .. import canonical
from ..budget import NO_LIMITS, Budget, Limits
from ..catalog.prices import Rates
from ..chat import Chunk, Reply, Request, Usage, total_cost
from ..compiler.build import ProjectCompiler
from ..contract import Contract, Labels, TextShape, format_lines
from ..errors import BudgetError, ProviderDown
from ..evals.evaluate import Against, Contender, EvalOptions, Evaluator
from ..evals.gate import Word
from ..evals.report import Report
from ..evals.runner import OnProgress
from ..evals.vocabulary import check_task
from ..prompt import TEXT_INPUT, Prompt, bind, user_turn
from ..store import LedgerRow, Store
from ..task import Task
from .experts import output_source
from .solve import AsyncSolver, SolveOptions
from .trace import layers
from .values import Event, Expert, Input, OnEvent, Outcome, Plan, Step

Side = Literal["one prompt", "a plan"]
Advised = Literal["use one prompt", "use the plan", "inconclusive", "unproven"]
EXIT_CODES: Mapping[Advised, int] = {"use the plan": 0, "use one prompt": 1, "inconclusive": 3, "unproven": 3}
"""As of the gate, whose candidate is the plan."""

_SHORT_WORDS = 40
_LONG_WORDS = 150
_QUICK_SECONDS = 15.0
"""A plan takes three calls one after the other (plan, step, synthesis), each of some seconds."""
_FEW_CALLS = 4
"""A plan with two steps takes as many: the plan, the steps, the synthesis."""
_STEP_TOKENS = 4096
"""What an expert's answer is taken to have at most where its step sets no limit."""
_PLAN = "plan/"
"""Before the digest of a plan that stands as a model in an eval."""


class Sign(NamedTuple):
    """Something that speaks for one side, and why, in words. ``strong``: it decides alone."""

    side: Side
    why: str
    strong: bool = False


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One side of the proof. ``None``: not known."""

    name: str
    pass_rate: float | None
    score: float | None
    usd_per_1k: float | None
    mean_ms: float | None


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What is advised, what speaks for it, and the proof if there are cases."""

    advised: Advised
    leaning: Side
    """What the signs say; no proof."""
    signs: tuple[Sign, ...]
    reasons: tuple[str, ...] = ()
    """What the proof says."""
    verdict: Word | None = None
    """Of the gate, the plan being the candidate; ``None`` without cases."""
    report: str = ""
    """Id of the report that holds the cases."""
    arms: tuple[Arm, ...] = ()
    """The plan, then the single prompt."""
    plan: Plan | None = None
    stopped: str = ""
    """Why not every case was answered."""


# --- signs ------------------------------------------------------------------------------------------------


def signs_of_problem(problem: str, inputs: Mapping[str, Any], limits: Limits, contract: Contract | None = None) -> list[Sign]:
    """What the problem's text, its inputs and limits and the form of its answer say, without asking anybody."""
    found: list[Sign] = []
    if limits.calls is not None and limits.calls < _FEW_CALLS:
        found.append(
            Sign("one prompt", f"small budget: a plan with two steps takes {_FEW_CALLS} calls, and the limit is {limits.calls}", True)
        )
    if limits.seconds is not None and limits.seconds < _QUICK_SECONDS:
        why = f"bound by latency: a plan takes at least three calls one after the other, and the limit is {limits.seconds:g} s"
        found.append(Sign("one prompt", why, strong=True))
    if contract is not None and isinstance(contract.shape, Labels):
        found.append(Sign("one prompt", "single decision: the answer is one of a few labels"))
    words, parts = len(problem.split()), _parts(problem)
    if parts > 1:
        found.append(Sign("a plan", f"it lists {parts} parts"))
    elif words <= _SHORT_WORDS:
        found.append(Sign("one prompt", f"single domain: {words} words, and no list of parts"))
    elif words >= _LONG_WORDS:
        found.append(Sign("a plan", f"long: {words} words"))
    if len(inputs) > 2:
        found.append(Sign("a plan", f"{len(inputs)} inputs, which experts could look at apart"))
    return found


def signs_of_plan(plan: Plan, limits: Limits = NO_LIMITS) -> list[Sign]:
    """What a plan for the problem says of it."""
    steps, ways = plan.steps, layers(plan.steps)
    longest = 1 + max(ways.values(), default=0)
    if len(steps) == 1:
        return [Sign("one prompt", "the plan has one step" + (", and needs a worker" if steps[0].worker else ""), not steps[0].worker)]
    found: list[Sign] = []
    workers, experts = {step.worker for step in steps if step.worker}, {step.expert for step in steps if step.expert}
    if workers:
        found.append(Sign("a plan", f"it needs what no prompt can do: {', '.join(sorted(workers))}", True))
    if longest == len(steps):
        found.append(Sign("one prompt", f"interdependent: each of the {len(steps)} steps waits for the one before it", not workers))
    else:
        found.append(Sign("a plan", f"{len(steps)} steps, at most {longest} one after the other"))
    if len(experts) == 1 and not workers:
        found.append(Sign("one prompt", "single domain: one expert does all steps", strong=True))
    elif len(experts) > 1:
        found.append(Sign("a plan", f"{len(experts)} fields: {', '.join(sorted(experts))}"))
    if limits.calls is not None and limits.calls < len(steps) + 2:
        found.append(Sign("one prompt", f"small budget: the plan takes {len(steps) + 2} calls, and the limit is {limits.calls}", True))
    return found


def sums_up(signs: Sequence[Sign]) -> Side:
    """Which side the signs are on: a strong one decides, else their number; one prompt where nothing speaks for a plan."""
    strong = [sign.side for sign in signs if sign.strong]
    sides = strong or [sign.side for sign in signs]
    # The simpler one first: a tie is no reason for more calls.
    return "a plan" if sides.count("a plan") > sides.count("one prompt") else "one prompt"


def _parts(problem: str) -> int:
    """How many parts a problem lists: items of a list, else questions."""
    items = len(re.findall(r"^[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+\S", problem, re.MULTILINE))
    return max(items, problem.count("?"))


def one_prompt(problem: str, inputs: Mapping[str, Any], model: str) -> Plan:
    """The problem as a plan of one step: one call, and nobody plans it."""
    names = tuple(inputs)
    expert = Expert(name="solver", role="Somebody who knows the field of the problem well and answers it completely.", model=model)
    step = Step(id="answer", expert="solver", instructions="Solve the problem.", problem=True, context=names)
    told = tuple(Input(name=name) for name in names)
    return Plan(name="one-prompt", about=problem, inputs=told, experts=(expert,), steps=(step,), result=("answer",))


def most_usd(plan: Plan, problem: str, inputs: Mapping[str, Any], rates: Callable[[str], Rates | None], production: str) -> float | None:
    """US dollars that the steps of a plan take at most, each asked once; ``None``: a price is unknown.

    A step reads the problem, its inputs, and what the steps before it may have written; an answer is taken to have 4,096
    tokens where its step sets no limit, a token to be four bytes of text.
    """
    experts = {expert.name: expert for expert in plan.experts}
    room = {step.id: step.max_tokens or _STEP_TOKENS for step in plan.steps}
    sizes = {name: len(str(value).encode()) // 4 for name, value in inputs.items()}
    costs: list[float | None] = []
    for step in plan.steps:
        if step.worker:
            continue
        expert = experts.get(step.expert)
        known = rates((expert.model if expert else "") or production)
        seen = sum(room.get(name, sizes.get(name, 0)) for name in step.context)
        told = len(f"{step.instructions}{problem if step.problem else ''}".encode()) // 4
        costs.append(None if known is None else known.worst(seen + told, room[step.id]))
    return total_cost(costs)


# --- proof ------------------------------------------------------------------------------------------------


class Advisor:
    """Gives advice in one project; what is asked is asked through its solver."""

    def __init__(self, solver: AsyncSolver, models: Mapping[str, object] | None = None) -> None:
        self._solver, self._models = solver, dict(models or {})

    async def advise(
        self,
        problem: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        task: Task | None = None,
        plan: Plan | None = None,
        options: SolveOptions | None = None,
        worth: float = 0.05,
        on_progress: OnProgress | None = None,
    ) -> Advice:
        """Advice on a problem, or on a task, whose holdout is the proof.

        Signs come from the problem, and from ``plan`` or the plan of a conductor where one is named. A plan that costs
        more than the prompt and whose gain can't be above ``worth`` (a share of cases) is advised against. Raises what
        asking the conductor and :meth:`Evaluator.evaluate` raise.
        """
        chosen, contract = options or SolveOptions(), task.contract if task is not None else None
        signs = signs_of_problem(problem, inputs or {}, chosen.limits, contract)
        asked: list[Event] = []
        if plan is None and (chosen.conductor or self._solver.conducts or (task is not None and task.holdout)):
            plan = await self._planned(problem, inputs or {}, task, chosen, asked.append)
        signs += signs_of_plan(plan, chosen.limits) if plan is not None else []
        found = Advice(advised="unproven", leaning=sums_up(signs), signs=tuple(signs), plan=plan)
        if task is None or not task.holdout or plan is None:
            return found
        left = msgspec.structs.replace(chosen, limits=after(chosen.limits, asked))
        report = await self._proof(task, plan, left, on_progress)
        return _proven(found, report, worth)

    async def _planned(self, problem: str, inputs: Mapping[str, Any], task: Task | None, options: SolveOptions, on_event: OnEvent) -> Plan:
        if task is None:
            return await self._solver.plan(problem, inputs, options=options, on_event=on_event)
        # Planned once for all cases: what is theirs alone stands in the inputs, which it does not see.
        names = [variable.name for variable in task.inputs] or [TEXT_INPUT]
        given = dict.fromkeys(names, "(differs from case to case)")
        return await self._solver.plan(problem_of(task), given, options=options, on_event=on_event)

    async def _proof(self, task: Task, plan: Plan, options: SolveOptions, on_progress: OnProgress | None) -> Report:
        """Both sides on the holdout: the plan stands as a model that serves the very prompt it is compared with."""
        project, store = self._solver.project, self._solver.store
        compiled = await ProjectCompiler(project, store, self._models).build(task)
        prompt = compiled.prompt
        task = _must_be_better(task)
        check_task(task)
        cases = {user_turn(prompt.inputs, bind(prompt.inputs, dict(row.inputs))): dict(row.inputs) for row in task.holdout}
        share = share_of(options.limits, prompt, cases, self._solver.means.directory.rates.find)
        planned = PlanModel(
            self._solver, _for_task(plan, task), problem_of(task), cases, msgspec.structs.replace(options, limits=share, keep=False)
        )
        evaluator = Evaluator(project, _Unbilled(store), {**self._models, planned.name: planned})
        candidate = Contender(prompt, f"a plan of {len(plan.steps)} steps")
        # Another object than the candidate: only the candidate is served with the options' model.
        single = Contender(msgspec.structs.replace(prompt), f"the single prompt {prompt.id[:12]}")
        chosen = EvalOptions(model=planned.name, limits=Limits(seconds=options.limits.seconds))
        return await evaluator.evaluate(task, candidate, Against(incumbent=single), chosen, on_progress)


def problem_of(task: Task) -> str:
    """A task as a problem in words: what to do, and the form of the answer."""
    return "\n".join([task.description.strip(), "", *format_lines(task.contract)])


def with_cases(task: Task | None, problem: str, cases: Path) -> Task:
    """The task with the rows of a data file as its holdout; without one, a task of the problem, its contract inferred from them.

    Raises :class:`SourceError` for a file that is wrong.
    """
    rows = {"file": str(cases.absolute())}
    if task is None:
        read = Task(problem, examples=rows)
        return _changed(read, examples=(), holdout=read.examples)
    inputs = {one.name: {} if one.default is None else {"default": one.default} for one in task.inputs}
    read = Task(task.description, inputs=inputs or None, output=output_source(task.contract), examples=rows)
    return _changed(task, holdout=read.examples)


def _changed(task: Task, **fields: Any) -> Task:
    other = copy.copy(task)
    other.__dict__.update(fields)
    return other


def _must_be_better(task: Task) -> Task:
    """With a gate that asks for a gain: no drop goes unseen, and no threshold of another question decides."""
    kept = {name: value for name, value in task.gate.items() if name == "metric"}
    return _changed(task, gate={**kept, "margin": 0})


def _for_task(plan: Plan, task: Task) -> Plan:
    """The plan with the form of the task's answers on the step whose result is the answer."""
    contract = task.contract
    if plan.synthesis or len(plan.result) != 1 or contract.inferred or isinstance(contract.shape, TextShape):
        return plan
    steps = tuple(
        msgspec.structs.replace(step, output=Contract(shape=contract.shape))
        if step.id == plan.result[0] and step.expert and step.output is None
        else step
        for step in plan.steps
    )
    return msgspec.structs.replace(plan, steps=steps)


def after(limits: Limits, events: Iterable[Event]) -> Limits:
    """What is left of ``limits`` once the calls that ``events`` tell of are taken off, replayed or not."""
    for event in events:
        used = {"usd": event.cost or 0.0, "calls": event.calls, "tokens": event.usage.input + event.usage.output}
        left = {name: max(0, getattr(limits, name) - amount) for name, amount in used.items() if getattr(limits, name) is not None}
        limits = msgspec.structs.replace(limits, **left)
    return limits


def share_of(limits: Limits, prompt: Prompt, cases: Mapping[str, Any], rates: Callable[[str], Rates | None]) -> Limits:
    """What the plan may take for each case, once the single prompt's calls are reserved at their worst.

    Raises :class:`BudgetError` when the limits leave nothing.
    """
    reserved = Budget(msgspec.structs.replace(limits, seconds=None))
    most = prompt.parameters.get("max_tokens")
    for text in cases if reserved.limited and not prompt.model.startswith("builtin/") else ():
        size = len(prompt.system.encode()) + len(text.encode())
        held = reserved.reserve(
            model=prompt.model, input_bytes=size, max_output=most if isinstance(most, int) else 0, rates=rates(prompt.model)
        )
        reserved.settle(held, tokens=None, usd=None)
    count = max(1, len(cases))
    left = Limits(
        usd=None if limits.usd is None else (limits.usd - reserved.usd) / count,
        calls=None if limits.calls is None else (limits.calls - reserved.calls) // count,
        tokens=None if limits.tokens is None else (limits.tokens - reserved.tokens) // count,
    )
    if left.calls == 0 or left.tokens == 0:
        raise BudgetError(f"the limits leave the plan nothing for each of {count} cases", hint="raise them, or give fewer cases")
    return left


class PlanModel:
    """A plan as a model: it is asked what a prompt is asked, and answers what the plan comes to for that case."""

    def __init__(
        self, solver: AsyncSolver, plan: Plan, problem: str, cases: Mapping[str, Mapping[str, str]], options: SolveOptions
    ) -> None:
        """``cases``: inputs by the user turn that a prompt would get for them."""
        self._solver, self._plan, self._problem, self._cases, self._options = solver, plan, problem, cases, options
        body = msgspec.json.encode([plan, problem, options.conductor, options.rounds], order="deterministic").decode()
        self.name = f"{_PLAN}{canonical.sha256(body)[:12]}"

    async def reply(self, request: Request) -> Reply:
        """The plan's answer, with what all its calls took. Raises :class:`BudgetError` and :class:`ModelError`."""
        inputs = self._cases[request.turns[-1].text]
        names = {one.name for one in self._plan.inputs}
        given = {name: text for name, text in inputs.items() if name in names}
        outcome = await self._solver.run_plan(self._plan, given, problem=self._told(inputs, names), options=self._options)
        if outcome.cause in ("budget", "time"):
            raise BudgetError(f"a run of the plan was stopped: {outcome.why}")
        if outcome.cause in ("provider", "conductor"):
            raise ProviderDown(f"a run of the plan got no answer: {outcome.why}", retryable=False, counted=True)
        usage, cost = taken(outcome, self._solver.means.directory.rates.find)
        # A plan that failed has answered nothing, which is wrong and not unscored.
        return Reply(text=outcome.answer, model=self.name, usage=usage, cost=cost, latency=outcome.seconds)

    async def stream(self, request: Request) -> Any:
        """The whole answer as one piece."""
        yield Chunk("", await self.reply(request))

    def _told(self, inputs: Mapping[str, str], names: set[str]) -> str:
        """The problem; inputs that the plan does not declare stand in it."""
        loose = {name: text for name, text in inputs.items() if name not in names}
        return "\n\n".join([self._problem, *(f"{name}:\n{text}" for name, text in loose.items())])


def taken(outcome: Outcome, rates: Callable[[str], Rates | None]) -> tuple[Usage, float | None]:
    """Tokens and US dollars of all answers of a run, whoever paid for them first."""
    usage, costs = Usage(), list[float | None]()
    calls = [(result.model, result.usage, result.cost) for result in outcome.results]
    calls += [(event.model, event.usage, event.cost) for event in outcome.events if event.role == "conductor" and event.model]
    for model, used, cost in calls:
        usage += used
        known = rates(model) if used.counted else None
        costs.append(cost if known is None else known.cost(used))
    return usage, total_cost(costs)


class _Unbilled:
    """The store, but for the ledger's rows of plans: their calls have rows of their own."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @property
    def ledger(self) -> Any:
        return self

    def append(self, row: LedgerRow) -> None:
        if not row.model.startswith(_PLAN):
            self._store.ledger.append(row)


def _proven(found: Advice, report: Report, worth: float) -> Advice:
    head = report.head
    judged = head.judgement
    arms = tuple(
        Arm(
            name=arm.name,
            pass_rate=arm.tally.metrics.get("pass_rate"),
            score=arm.tally.metrics.get("score"),
            usd_per_1k=arm.tally.metrics.get("cost_per_1k_usd"),
            mean_ms=arm.tally.metrics.get("mean_ms"),
        )
        for arm in head.arms[:2]
    )
    advised, reasons = _decided(report, arms, worth)
    return msgspec.structs.replace(
        found, advised=advised, reasons=(*reasons, *judged.reasons), verdict=judged.verdict, report=head.id, arms=arms, stopped=head.stopped
    )


def _decided(report: Report, arms: Sequence[Arm], worth: float) -> tuple[Advised, list[str]]:
    judged = report.head.judgement
    if judged.verdict == "promote":
        return "use the plan", ["the plan is better"]
    if judged.verdict == "reject":
        return "use one prompt", ["the plan is worse"]
    compared = judged.comparison
    if compared is None or compared.upper is None or report.head.doubts or report.unscored() or compared.upper > worth:
        return "inconclusive", []
    plan, single = arms
    if plan.usd_per_1k is None or single.usd_per_1k is None or plan.usd_per_1k <= single.usd_per_1k:
        return "inconclusive", []
    return "use one prompt", [f"a gain of more than {100 * worth:g} points is ruled out, and the plan costs more"]
