"""One step: what it may see, its attempts, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from math import fsum
from typing import Any, NamedTuple, Protocol

import msgspec

from .. import canonical
from ..budget import Budget
from ..catalog.prices import Rates
from ..chat import Reply, Request, Usage, total_cost
from ..contract import Contract, Validator, Verdict, validator
from ..errors import (
    AuthenticationFailed,
    BudgetError,
    InputError,
    ModelError,
    PromptsmithError,
    ReplyMissing,
    RequestRefused,
    StoreError,
    WorkerError,
)
from ..evals.asking import Asker
from ..evals.attempt import Answered
from ..models.waiting import Late, within
from ..models.wrappers import unusable
from ..prompt import Prompt
from ..redact import redact
from ..runtime.core import repaired
from ..store import Journal
from ..store import Outcome as Row
from .values import Cause, Event, Expert, OnEvent, RoleCost, Step, StepResult
from .workers.values import Ask, WorkerResult, as_text

STAGE = "plan"
"""Under which the ledger files the calls of steps."""
RESULT_CHARS = 1_000_000
"""Most characters of a result, and of its value as JSON text: it is kept, and goes into the requests of other steps."""

_USELESS = (AuthenticationFailed, RequestRefused, ReplyMissing, InputError)
"""Errors that the same request would meet again."""
_UNUSABLE = {
    "length": "it was cut off at its length limit",
    "refused": "it is a refusal",
    "filtered": "it was stopped by a filter",
    "aborted": "it broke off",
}


class Workers(Protocol):
    """Does what is no model's work: functions, fetches, searches."""

    def check(self, name: str, *, allow_functions: bool) -> str:
        """Itself. Raises :class:`UnknownName` for a worker that a plan may not name."""

    def identity(self, name: str) -> str:
        """Digest of what decides a worker's results besides what it is given."""

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        allow_functions: bool,
        instructions: str = "",
        problem: str = "",
        context: Mapping[str, Any] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a step's own, in the place of the worker's
        ask: Ask | None = None,
    ) -> WorkerResult:
        """What a worker gives. One that needs a model asks by ``ask``. Raises what failed."""


class Experts(Protocol):
    """Turns experts into compiled prompts, and these into requests."""

    async def prompt(self, expert: Expert, output: Contract | None, on_event: OnEvent, budget: Budget | None = None) -> Prompt:
        """The prompt of an expert whose answers are to satisfy ``output``, compiled now, within ``budget``, if need be."""

    def request(self, prompt: Prompt, step: Step, problem: str, context: Mapping[str, str]) -> Request:
        """What is asked for a step; all that it sees stands in the user turn, fenced as data."""


class Sight(NamedTuple):
    """What a step sees by the names of its context: as texts for experts, as values for workers; and why something is missing."""

    texts: Mapping[str, str]
    values: Mapping[str, Any]
    missing: Mapping[str, str]
    """By step."""

    def shown(self) -> dict[str, str]:
        """What an expert is shown: a note of what is missing stands under a name that no step has."""
        shown = dict(self.texts)
        for step, why in self.missing.items():
            shown[_free(f"missing-{step}", shown)] = f"step {step!r} gave no result: {why}"
        return shown

    def given(self, step: Step) -> dict[str, Any]:
        """What a worker is given: ``None`` for what is missing of its context."""
        return {name: self.values.get(name) for name in step.context}


_sorted = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


class Bill:
    """What the calls of a run cost, by role; ``earlier`` are the calls that its journal held when it began.

    A call counts once, and only in the run that pays for it: what the reply cache answers is another run's. Sums are exact,
    so that they do not depend on the order in which calls end.
    """

    def __init__(self, earlier: frozenset[str], strong: Rates | None) -> None:
        self._earlier, self._strong = earlier, strong
        self._billed: set[str] = set()
        self._paid: dict[str, list[_Paid]] = {}
        self._compared: list[float] = []
        self.replayed = 0
        """Calls that the journal answered."""

    def source(self, key: str, found: str) -> tuple[str, bool]:
        """Where what was ``found`` under ``key`` comes from, as this run sees it; and whether it is to be billed."""
        replayed = key in self._earlier
        first = key not in self._billed
        self._billed.add(key)
        self.replayed += replayed and first
        return ("journal" if replayed else found), (found == "model" or (replayed and first))

    def asked(self, role: str, answered: Answered) -> None:
        """Calls of a step that were paid for."""
        self._paid.setdefault(role, []).append(_Paid(answered.calls, answered.usage, answered.cost))
        if self._strong is not None:
            self._compared.append(self._strong.cost(answered.usage))

    def compiled(self, event: Event) -> None:
        """A compile, if it took anything."""
        if event.calls or event.usage.counted or event.cost != 0.0:
            self._paid.setdefault(event.role, []).append(_Paid(event.calls, event.usage, event.cost))

    @property
    def baseline(self) -> float | None:
        """US dollars of the steps' tokens on the strong model; ``None``: its price is unknown."""
        return None if self._strong is None else fsum(self._compared)

    def roles(self) -> tuple[RoleCost, ...]:
        """By name."""
        return tuple(_summed(role, paid) for role, paid in sorted(self._paid.items()))


class _Paid(NamedTuple):
    calls: int
    usage: Usage
    usd: float | None


def _summed(role: str, paid: Sequence[_Paid]) -> RoleCost:
    known = [one.usd for one in paid if one.usd is not None]
    usd = fsum(known) if len(known) == len(paid) else None
    return RoleCost(role, sum(one.calls for one in paid), sum((one.usage for one in paid), Usage()), usd)


class Fault(NamedTuple):
    """Why an attempt failed. ``useless``: another one would fail likewise; ``reply`` is what was answered, if anything was."""

    why: str
    reasons: tuple[str, ...] = ()
    reply: Reply | None = None
    useless: bool = False
    passing: bool = False
    """Whether another run may fare better though nothing is changed."""
    cause: Cause = "step"


class StepEnd(NamedTuple):
    """What a step came to, and the fault that it failed for good with."""

    result: StepResult
    fault: Fault | None


class Shared(NamedTuple):
    """What all steps of a run have in common."""

    asker: Asker
    journal: Journal
    experts: Experts
    workers: Workers
    bill: Bill
    problem: str
    most: int
    """Characters of a result."""
    identities: dict[str, str]
    """Of the workers, by name, as far as they were needed."""
    retried: Callable[[Step, str], None]
    """Told of each further attempt, and of the fault of the one before."""


class StepRun:
    """One step under way."""

    def __init__(self, shared: Shared, step: Step, sight: Sight, prompt: Prompt | PromptsmithError | None, functions: bool) -> None:
        """``prompt`` is the expert's, or why it has none, ``None`` for a worker; ``functions``: it may call ``module:function``."""
        self._shared, self._step, self._sight, self._prompt, self._functions = shared, step, sight, prompt, functions
        self._attempts = 0
        self._text, self._value, self._model, self._source, self._sent = "", None, "", "", ""
        self._usage = Usage()
        self._costs: list[float | None] = []

    async def run(self) -> StepEnd:
        """What it comes to, whatever happens. Raises :class:`StoreError` when the journal can't be written."""
        fault = await self._tried()
        result = StepResult(
            id=self._step.id,
            state="failed" if fault else "done",
            text="" if fault else self._text,
            value=None if fault else self._value,
            error=fault.why if fault else "",
            model=self._model,
            prompt=self._prompt.id if isinstance(self._prompt, Prompt) else "",
            source=self._source,
            attempts=self._attempts,
            usage=self._usage,
            cost=total_cost(self._costs),
            seen=tuple(self._sight.values),
            sent=self._sent,
        )
        return StepEnd(result, fault)

    async def _tried(self) -> Fault | None:
        try:
            if self._prompt is None:
                return await self._worker()
            if not isinstance(self._prompt, Prompt):
                cause: Cause = "budget" if isinstance(self._prompt, BudgetError) else "step"
                return Fault(f"its expert has no prompt: {_words(self._prompt)}", passing=True, cause=cause)
            fault = await self._expert(self._prompt, "")
            if fault and self._step.on_failure == "fallback" and self._step.fallback:
                self._shared.retried(self._step, f"{fault.why}; asking {self._step.fallback}")
                fault = await self._expert(self._prompt, self._step.fallback)
        except BudgetError as error:
            fault = Fault(f"budget: {error.message}", cause="budget")
        return fault

    # --- experts ------------------------------------------------------------------------------------------

    async def _expert(self, prompt: Prompt, model: str) -> Fault | None:
        try:
            first = request = self._request(prompt, model)
        except PromptsmithError as error:
            return Fault(error.message, useless=True)
        validate = _validator(self._step.output or prompt.contract)
        fault = None
        for number in range(self._step.retries + 1):
            if fault is not None:
                self._shared.retried(self._step, fault.why)
            fault = await self._attempt(self._answer(request, prompt.id, validate))
            if fault is None or fault.useless:
                break
            if fault.reply is not None:
                # Another sample: equal faults make equal requests, and these have their answer already.
                request = msgspec.structs.replace(repaired(first, fault.reply.text, fault.reasons), sample=number + 1)
        return fault

    def _request(self, prompt: Prompt, model: str) -> Request:
        step = self._step
        request = self._shared.experts.request(prompt, step, self._shared.problem if step.problem else "", self._sight.shown())
        if step.max_tokens is not None:
            request = msgspec.structs.replace(request, parameters={**request.parameters, "max_tokens": step.max_tokens})
        if model:
            request = msgspec.structs.replace(request, model=model)
        self._sent = request.turns[-1].text
        return request

    async def _answer(self, request: Request, prompt: str, validate: Validator) -> Fault | None:
        answered = await self._ask(request, prompt=prompt)
        reply = answered.reply
        self._model = reply.model
        if reply.stop != "end":
            return Fault(unusable(reply).message, (_UNUSABLE[reply.stop],), reply)
        verdict = _judged(reply.text, validate)
        if verdict.reasons:
            return Fault(f"the answer breaks its contract: {'; '.join(verdict.reasons)}", verdict.reasons, reply)
        too_long = self._long(reply.text)
        if too_long:
            return Fault(too_long, (too_long,), reply)
        self._text, self._value = as_text(verdict.value), verdict.value
        return None

    async def _ask(self, request: Request, *, prompt: str = "") -> Answered:
        key, bill = request.key(), self._shared.bill
        answered = await self._shared.asker.ask(request, prompt=prompt, stage=STAGE, key=key)
        self._source, paid = bill.source(key, answered.source)
        self._usage += answered.usage
        if paid:
            self._costs.append(answered.cost)
            bill.asked("worker" if self._prompt is None else "expert", answered)
        return answered

    async def _reply(self, request: Request) -> Reply:
        return (await self._ask(request)).reply

    # --- workers ------------------------------------------------------------------------------------------

    async def _worker(self) -> Fault | None:
        fault = None
        try:
            self._sent = as_text(self._step.arguments)
        except InputError as error:
            return Fault(f"its arguments can't be kept: {error.message}", useless=True)
        for number in range(self._step.retries + 1):
            if fault is not None:
                self._shared.retried(self._step, fault.why)
            fault = await self._attempt(self._worked(number))
            if fault is None or fault.useless:
                break
        return fault

    async def _worked(self, number: int) -> Fault | None:
        step, journal = self._step, self._shared.journal
        key = self._worker_key(number)
        row = journal.entries.get(key)
        kept = row.reply.text if row is not None and row.reply is not None else await self._called(key)
        if isinstance(kept, Fault):
            return kept
        self._source, _ = self._shared.bill.source(key, "worker")
        text, *others = json.loads(kept)
        verdict = _judged(text, _validator(step.output) if step.output else None)
        if verdict.reasons:
            return Fault(f"worker {step.worker} gave what breaks its contract: {'; '.join(verdict.reasons)}")
        self._text, self._value = text, verdict.value if step.output is not None else others[0] if others else text
        return None

    async def _called(self, key: str) -> str | Fault:
        """Its text, and its value where that is another, as JSON; journaled."""
        step, shared = self._step, self._shared
        given = await shared.workers.call(
            step.worker,
            step.arguments,
            allow_functions=self._functions,
            context=self._sight.given(step),
            instructions=step.instructions,
            problem=shared.problem if step.problem else "",
            timeout=step.timeout,
            ask=self._reply,
        )
        value = given.text if given.value is None else given.value
        try:
            too_long = self._long(given.text) or self._long(as_text(value))
            kept = as_text([given.text] if value is given.text or value == given.text else [given.text, value])
        except InputError as error:
            return Fault(f"what worker {step.worker} gave can't be kept: {error.message}", useless=True)
        if too_long:
            return Fault(too_long, useless=True)
        # A result is an outcome like a reply: it is kept before it is handed on. ``found``: what was paid has rows of its own.
        row = Row(key=key, reply=Reply(text=kept, model=f"worker/{step.worker}", cost=0.0), cost=0.0, found=True)
        shared.journal.append(row)
        return kept

    def _worker_key(self, number: int) -> str:
        """Identity of one attempt: the worker, all that it is given, and which step's attempt it is."""
        step, known = self._step, self._shared.identities
        identity = known.get(step.worker) or known.setdefault(step.worker, self._shared.workers.identity(step.worker))
        problem = self._shared.problem if step.problem else ""
        given = [identity, step.id, step.worker, number, step.arguments, self._sight.given(step), step.instructions, problem]
        return canonical.digest(["worker", canonical.sha256(_sorted(given))])

    # --- attempts -----------------------------------------------------------------------------------------

    async def _attempt(self, attempt: Awaitable[Fault | None]) -> Fault | None:
        """The fault of one attempt, whatever goes wrong in it; but a budget and a disk that are full end more than a step."""
        self._attempts += 1
        seconds = self._step.timeout
        try:
            fault = await (attempt if seconds is None else within(seconds, attempt))
        except Late:
            return Fault(f"it did not end within its timeout of {seconds:g} seconds", passing=True)
        except (BudgetError, StoreError):
            raise
        except PromptsmithError as error:
            passing = isinstance(error, ModelError | WorkerError)
            cause: Cause = "provider" if isinstance(error, ModelError) else "step"
            return Fault(_words(error), useless=isinstance(error, _USELESS), passing=passing, cause=cause)
        except Exception as error:  # a worker and a model may be the caller's code: whatever it raises is its step's alone
            return Fault(redact(f"{type(error).__name__}: {error}"), passing=True)
        return fault

    def _long(self, text: str) -> str:
        """Why ``text`` is too long for a result; empty when it is not."""
        if len(text) <= self._shared.most:
            return ""
        return f"its result has {len(text):,} characters, more than the {self._shared.most:,} that a result may have"


def _judged(text: str, validate: Validator | None) -> Verdict:
    if not text.strip():
        return Verdict("", ("it is empty",))
    return Verdict(text) if validate is None else validate(text)


def _words(error: PromptsmithError) -> str:
    return redact("; ".join([error.message, *getattr(error, "__notes__", ())]))


def _free(name: str, taken: Mapping[str, str]) -> str:
    while name in taken:
        name += "-"
    return name


_validator = lru_cache(maxsize=256)(validator)
"""Contracts are frozen values: equal ones are judged by one function."""
