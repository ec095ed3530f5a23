"""The conductor: a strong model that plans, judges results, asks again or adds steps, and puts the answer together.

Whatever it is told of a problem, of inputs and of results stands between tags as data, and of what it answers only a plan
or a decision of the typed form is acted upon: anything else is told to it once as a fault, and is then an error. No plan
is made up in the place of one that can't be read.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from .. import canonical
from ..catalog.models import allowance, facts
from ..chat import Request, Turn, Usage, total_cost
from ..contract import find_json, shorten
from ..errors import PlanError, SourceError
from ..evals.attempt import Answered
from ..prompt import fenced
from ..redact import redact
from .reading import Known, plan_schema, plan_yaml, read_plan
from .values import Plan, Step, StepResult
from .workers.values import as_text

T = TypeVar("T")

Ask = Callable[[Request], Awaitable[Answered]]
"""How the conductor's model is reached; cache, journal, ledger and budget are the caller's."""
PlanForm = Literal["json", "xml"]
Choice = Literal["done", "ask_again", "add_steps"]

_ROOM = 8192
"""Tokens for a plan or a synthesis, the model's reasoning left out."""
_INPUT_CHARS = 8000
"""How much of one input a conductor is shown: experts see all of it."""
_RESULT_CHARS = 40_000
"""How much of one result it is shown: a worker that returns megabytes must not take the room of the others."""
_ALL_CHARS = 240_000
"""How much of all results together."""
_FAULTS_CHARS = 4000
_STOPPED = {
    "length": "was cut off at its length limit, twice",
    "refused": "was a refusal",
    "filtered": "was stopped by the provider's filter",
    "aborted": "broke off",
}


class Question(msgspec.Struct, frozen=True):
    """What an expert is asked again."""

    step: str
    question: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the conductor makes of the results."""

    choice: Choice
    reason: str = ""
    plan: Plan | None = None
    """The plan with the steps that were added, or asked again."""
    added: tuple[str, ...] = ()
    """Ids of the steps that are new in it."""
    answer: str = ""
    insights: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    attribution: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()


class Said(NamedTuple, Generic[T]):
    """What was read from an answer, and what it took. ``faults``: what was wrong with a first answer, in words."""

    value: T
    model: str
    calls: int
    usage: Usage
    cost: float | None
    seconds: float
    faults: str = ""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """How a problem stands: what the conductor is shown of it."""

    problem: str
    inputs: Mapping[str, Any]
    plan: Plan
    results: Mapping[str, StepResult]
    """By step id."""
    answer: str = ""
    """The last answer, when it was graded."""
    evaluation: str = ""
    """What the grading found wrong with it."""


class Conductor:
    """One model with what it may plan with. Raises :class:`PlanError` for an answer that can't be used, asked for twice."""

    def __init__(
        self, model: str, ask: Ask, known: Known, *, catalog_name: str = "", form: PlanForm = "json", tasks: Mapping[str, str] | None = None
    ) -> None:
        self.model, self._ask, self._known, self._form = model, ask, known, form
        self._tasks = dict(tasks or {})
        self._room = _ROOM + allowance(facts(catalog_name or model))

    async def plan(self, problem: str, inputs: Mapping[str, Any], *, example: str = "") -> Said[Plan]:
        """A plan for the problem. Equal problems with equal inputs make an equal request."""
        return await self._asked(self.plan_request(problem, inputs, example), self._read_plan, "plan_again", "plan")

    def plan_request(self, problem: str, inputs: Mapping[str, Any], example: str = "") -> Request:
        """What it is asked for a plan."""
        parts = {"problem": problem, **self._means(inputs), **({"similar_plan": example} if example else {})}
        return self._request(f"{template('conductor')}\n{template(f'plan_{self._form}')}", parts, self._plan_schema())

    async def review(self, view: View, *, last: bool) -> Said[Decision]:
        """What it makes of the results. ``last``: no further round is left, so it must be done."""
        request = self.review_request(view, last=last)
        return await self._asked(request, lambda text: self._read_decision(text, view, last), "review_again", "decision")

    def review_request(self, view: View, *, last: bool) -> Request:
        """What it is asked for a decision."""
        left = template("review_last" if last else "review_open").strip()
        graded = {"earlier_answer": view.answer, "evaluation": view.evaluation} if view.evaluation else {}
        parts = {**_standing(view), **self._means(view.inputs), **graded}
        return self._request(template("review").replace("{rounds_left}", left), parts, json.dumps(decision_schema(self._known, last=last)))

    async def replan(self, view: View, failed: StepResult) -> Said[Plan]:
        """Another way to what a step was for: a plan whose steps take its place."""
        parts = {**_standing(view), **self._means(view.inputs), "failed_step": failed.id, "failed_with": failed.error}
        request = self._request(f"{template('replan')}\n{template('plan_json')}", parts, json.dumps(plan_schema(self._known)))
        return await self._asked(request, lambda text: self._read_other_way(text, view), "plan_again", "plan")

    # --- asking -------------------------------------------------------------------------------------------

    async def _asked(self, request: Request, read: Callable[[str], T], again: str, what: str) -> Said[T]:
        first = await self._answer(request, what, ())
        value, faults = _tried(read, first.reply.text)
        paid = [first]
        if faults:
            turns = (
                *request.turns,
                Turn("assistant", first.reply.text.strip() or "(nothing)"),
                Turn("user", template(again).replace("{faults}", fenced("faults", faults[:_FAULTS_CHARS])).strip()),
            )
            paid.append(await self._answer(msgspec.structs.replace(request, turns=turns), what, paid))
            value, more = _tried(read, paid[-1].reply.text)
            if more:
                raise PlanError(
                    f"the conductor {self.model} wrote no {what} that can be used, asked twice; {_spent(paid)}. "
                    f"What is wrong with it:\n{more}",
                    hint=f"it wrote {shorten(redact(paid[-1].reply.text), 200)}",
                )
        assert value is not None
        usage = sum((one.usage for one in paid), Usage())
        return Said(value, self.model, len(paid), usage, total_cost(one.cost for one in paid), sum(one.latency for one in paid), faults)

    async def _answer(self, request: Request, what: str, before: Sequence[Answered]) -> Answered:
        answered = await self._ask(request)
        if why := _STOPPED.get(answered.reply.stop):
            raise PlanError(
                f"the {what} of the conductor {self.model} {why}; {_spent([*before, answered])}",
                hint=f"it said {shorten(redact(answered.reply.text), 200)}",
            )
        return answered

    def _request(self, system: str, parts: Mapping[str, str], schema: str) -> Request:
        told = "\n\n".join(fenced(name, text) for name, text in parts.items())
        return Request(
            model=self.model, system=system.strip(), turns=(Turn("user", told),), parameters={"max_tokens": self._room}, schema=schema
        )

    def _plan_schema(self) -> str:
        return json.dumps(plan_schema(self._known)) if self._form == "json" else ""

    def _means(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        """What a plan may name: inputs (with their texts, each between tags of its own), workers, tasks, the most steps."""
        parts = {"workers": "\n".join(sorted(self._known.workers)) or "none"}
        if self._known.models:
            parts["models"] = "\n".join(sorted(self._known.models))
        if self._tasks:
            parts["tasks"] = "\n".join(f"{name}: {about}" for name, about in sorted(self._tasks.items()))
        if self._known.most_steps is not None:
            parts["most_steps"] = str(self._known.most_steps)
        parts["inputs"] = "\n".join(inputs) or "none"
        return parts | {f"input-{name}": _cut(as_text(value), _INPUT_CHARS) for name, value in inputs.items()}

    # --- reading ------------------------------------------------------------------------------------------

    def _read_plan(self, text: str) -> Plan:
        if not text.strip():
            raise _Faults("the answer is empty")
        return read_plan(text, form=self._form, author="model", known=self._known)

    def _read_other_way(self, text: str, view: View) -> Plan:
        try:
            said = find_json(text)
        except ValueError as error:
            raise _Faults(f"the answer {error}") from None
        if not isinstance(said, dict) or not isinstance(said.get("steps"), list):
            raise _Faults("the answer is no JSON object with a list of steps")
        return new_steps(said, view, self._known)

    def _read_decision(self, text: str, view: View, last: bool) -> Decision:
        said = _typed(text)
        if last and said.decision != "done":
            raise _Faults(f"decision is {said.decision}, and no further round is left: it must be done")
        if said.decision == "done":
            return _done(said, view)
        if said.decision == "ask_again":
            return _asking_again(said, view)
        return self._adding(said, view)

    def _adding(self, said: _Written, view: View) -> Decision:
        if not said.steps:
            raise _Faults("decision is add_steps, and steps is empty")
        more = new_steps({"steps": said.steps, "experts": said.experts}, view, self._known)
        taken = {step.id for step in view.plan.steps} & {step.id for step in more.steps}
        if taken:
            raise _Faults(f"the plan has steps of these ids already: {', '.join(sorted(taken))}; give new steps ids of their own")
        named = {expert.name: expert for expert in view.plan.experts}
        for expert in more.experts:
            if named.setdefault(expert.name, expert) != expert:
                raise _Faults(f"the plan has another expert of the name {expert.name!r}; give the new one a name of its own")
        plan = msgspec.structs.replace(view.plan, steps=(*view.plan.steps, *more.steps), experts=tuple(named.values()))
        return Decision(choice="add_steps", reason=said.reason, plan=plan, added=tuple(step.id for step in more.steps))


@cache
def template(name: str) -> str:
    """An instruction to the conductor, as its file holds it. What it names in braces is put in by plain replacement."""
    return files("promptsmith").joinpath("orchestration", "prompts", f"{name}.md").read_text("utf-8")


def conductor_prompts() -> str:
    """Digest of everything that a conductor is instructed with."""
    names = sorted(file.name for file in files("promptsmith").joinpath("orchestration", "prompts").iterdir() if file.name.endswith(".md"))
    return canonical.digest({name: canonical.sha256(template(name.removesuffix(".md"))) for name in names})


# --- what it is shown ---------------------------------------------------------------------------------------


def _standing(view: View) -> dict[str, str]:
    """Problem, plan, what became of each step, and the results of those that are done, each between tags of its own."""
    states = [_state(step, view.results.get(step.id)) for step in view.plan.steps]
    done = [result for result in view.results.values() if result.state == "done"]
    share = max(1000, min(_RESULT_CHARS, _ALL_CHARS // max(1, len(done))))
    shown = {f"result-{result.id}": _cut(result.text, share) for result in done}
    return {"problem": view.problem, "plan": plan_yaml(view.plan), "steps": "\n".join(states), **shown}


def _state(step: Step, result: StepResult | None) -> str:
    if result is None:
        return f"{step.id}: not run"
    return f"{step.id}: {result.state}{f' ({shorten(result.error, 500)})' if result.error else ''}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}\n[cut here: {len(text) - limit} more characters were left out]"


# --- what it answers ----------------------------------------------------------------------------------------


class _Faults(Exception):
    """What is wrong with an answer, in words for the model."""


class _Part(msgspec.Struct, frozen=True):
    step: str
    contribution: str = ""


class _Written(msgspec.Struct, frozen=True):
    """A decision as it is written. Other keys are nobody's business."""

    decision: Choice
    reason: str = ""
    ask: tuple[Question, ...] = ()
    experts: tuple[dict[str, Any], ...] = ()
    steps: tuple[dict[str, Any], ...] = ()
    insights: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    answer: str = ""
    attribution: tuple[_Part, ...] = ()


def _tried(read: Callable[[str], T], text: str) -> tuple[T | None, str]:
    """What was read, or what is wrong."""
    try:
        return read(text), ""
    except _Faults as error:
        return None, str(error)
    except SourceError as error:
        return None, "\n".join(str(problem) for problem in error.problems)


def _typed(text: str) -> _Written:
    try:
        return msgspec.convert(find_json(text), _Written)
    except msgspec.ValidationError as error:
        raise _Faults(str(error)) from None
    except ValueError as error:
        raise _Faults(f"the answer {error}") from None


def _done(said: _Written, view: View) -> Decision:
    if not said.answer.strip():
        raise _Faults("decision is done, and answer is empty")
    known = {step.id for step in view.plan.steps}
    unknown = sorted({part.step for part in said.attribution} - known)
    notes = (f"the conductor names contributions of steps that the plan does not have: {', '.join(unknown)}; they were dropped",)
    return Decision(
        choice="done",
        reason=said.reason,
        answer=said.answer.strip(),
        insights=said.insights,
        conflicts=said.conflicts,
        attribution={part.step: part.contribution for part in said.attribution if part.step in known},
        notes=notes if unknown else (),
    )


def _asking_again(said: _Written, view: View) -> Decision:
    """The plan with a further step for each question: the same expert, shown what it saw and its own result."""
    if not said.ask:
        raise _Faults("decision is ask_again, and ask is empty")
    steps = {step.id: step for step in view.plan.steps}
    added: list[Step] = []
    for asked in said.ask:
        step = steps.get(asked.step)
        if step is None or not step.expert:
            experts = ", ".join(one.id for one in view.plan.steps if one.expert)
            raise _Faults(f"ask names the step {asked.step!r}; only steps of experts can be asked again: {experts}")
        if not asked.question.strip():
            raise _Faults(f"the question to step {asked.step!r} is empty")
        added.append(_again(step, asked.question, view, [*steps, *(one.id for one in added)]))
    plan = msgspec.structs.replace(view.plan, steps=(*view.plan.steps, *added))
    return Decision(choice="ask_again", reason=said.reason, plan=plan, added=tuple(step.id for step in added))


def _again(step: Step, question: str, view: View, taken: Sequence[str]) -> Step:
    number = next(count for count in range(2, len(taken) + 3) if f"{step.id}_{count}" not in taken)
    done = {result.id for result in view.results.values() if result.state == "done"}
    own = (step.id,) if step.id in done else ()
    told = f"You have worked on this before{f'; your result is in {step.id}' if own else ''}."
    return msgspec.structs.replace(
        step,
        id=f"{step.id}_{number}",
        instructions=f"{told} Answer this question about it:\n{question.strip()}",
        needs=(*(name for name in step.needs if name in done), *own),
        context=(*(name for name in step.context if name in done or name in view.inputs), *own),
        output=None,
    )


def new_steps(said: Mapping[str, Any], view: View, known: Known) -> Plan:
    """Steps (and experts) that the conductor wrote behind a plan, read as a plan of a model, with what they may see of it.

    They may name the plan's experts, its inputs and the steps that are done. Raises :class:`SourceError` with all that is wrong.
    """
    done = [step.id for step in view.plan.steps if step.id in view.results and view.results[step.id].state == "done"]
    inputs = [one.name for one in view.plan.inputs]
    # What is done is there from the start, as an input is.
    written = {
        "experts": list(said.get("experts") or ()),
        "steps": [_without_done(step, done) for step in said["steps"]],
        "result": list(said.get("result") or ()),
    }
    told = msgspec.structs.replace(known, inputs=(*inputs, *done), experts=(*known.experts, *view.plan.experts))
    plan = read_plan(json.dumps(written), form="json", author="model", known=told)
    steps = tuple(
        msgspec.structs.replace(step, needs=(*step.needs, *(name for name in step.context if name in done))) for step in plan.steps
    )
    return msgspec.structs.replace(plan, inputs=(), steps=steps)


def _without_done(step: Any, done: Sequence[str]) -> Any:
    """A step as written, without needs that are met."""
    if not isinstance(step, Mapping):
        return step
    return {
        key: [need for need in value if need not in done] if key in ("needs", "depends_on") and isinstance(value, list) else value
        for key, value in step.items()
    }


def decision_schema(known: Known, *, last: bool) -> dict[str, Any]:
    """JSON Schema of a decision, as structured output takes it: every key required, no other one."""
    parts = plan_schema(known)["properties"]
    text: dict[str, Any] = {"type": "string"}
    texts = {"type": "array", "items": text}
    keys: dict[str, Any] = {
        "reason": text,
        "decision": {"type": "string", "enum": ["done"] if last else ["done", "ask_again", "add_steps"]},
        "ask": _rows("step", "question"),
        "experts": parts["experts"],
        "steps": parts["steps"],
        "insights": texts,
        "conflicts": texts,
        "answer": text,
        "attribution": _rows("step", "contribution"),
    }
    if last:
        keys = {name: schema for name, schema in keys.items() if name not in ("ask", "experts", "steps")}
    return {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}


def _rows(*names: str) -> dict[str, Any]:
    row = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }
    return {"type": "array", "items": row}


def _spent(paid: Sequence[Answered]) -> str:
    cost = total_cost(one.cost for one in paid)
    usage = sum((one.usage for one in paid), Usage())
    money = "at an unknown price" if cost is None else f"${cost:.4f}"
    return f"{len(paid)} call{'s' * (len(paid) != 1)}, {usage.input} tokens in and {usage.output} out, {money}"
