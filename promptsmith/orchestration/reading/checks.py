"""From what a plan's text says to a ``Plan``: names are known, needs are acyclic, context is declared."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from ...budget import NO_LIMITS, Limits
from ...errors import did_you_mean
from ...task.document import Node, Problems
from ...task.fields import BAD
from ..values import Expert, Input, Plan, Step
from .known import MOST_PROBLEMS, Known, Rules
from .tables import ID, INPUT_NAME, Found, Named, step_id

_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")
_NEAR_NAMES = 1000
_NEAR_TIMES = 10
"""Suggestions are looked for among so many names, so many times: each compares all names."""
_CYCLES = 10
_CYCLE_SHOWN = 12


class Checked:
    """One plan being checked: collects problems and makes the values."""

    def __init__(self, values: Mapping[str, Any], root: Node, *, short: bool, rules: Rules, known: Known, problems: Problems) -> None:
        self.values = {name: value for name, value in values.items() if value is not BAD}
        self.bad = {name for name, value in values.items() if value is BAD}
        self.root, self.short, self.rules, self.known, self.problems = root, short, rules, known, problems
        self.name = self.values["name"].text if "name" in self.values else ""
        self.near_left = _NEAR_TIMES

    def plan(self, name: str = "") -> Plan:
        """The plan, called ``name`` if it does not say. Raises :class:`SourceError` with everything that is wrong."""
        self.name = self.name or name
        inputs = self._inputs()
        self.experts = self._experts()
        drafts = self._drafts()
        self.drafts = {draft.id: draft for draft in drafts}
        self.input_names = {one.name for one in inputs}
        steps = [self._step(draft) for draft in drafts if not self._too_much(draft.node)]
        self._cycles(drafts)
        result = self._result(drafts)
        self.problems.raise_if_any()
        return Plan(
            name=self.name,
            about=self.values.get("about", ""),
            inputs=tuple(inputs),
            experts=tuple(self.experts.values()),
            steps=tuple(steps),
            result=result,
            limits=_limits(self.values.get("limits")),
            author=self.rules.author,
            analysis=self.values.get("analysis", ""),
            synthesis=self.values.get("synthesis", ""),
            grows=self.values.get("grows", ""),
        )

    # --- inputs and experts ---------------------------------------------------------------------------

    def _inputs(self) -> list[Input]:
        found: dict[str, Input] = {}
        given = {name: Input(name=name) for name in self.known.inputs}
        for name, rest in self.values.get("inputs", ()):
            if not INPUT_NAME.fullmatch(name.text):
                right = "use at most 64 letters, digits, '_' and '-', starting with a letter"
                self.problems.add(name.node, f"{name.text[:80]!r} can't be an input's name", right)
            elif name.text in found:
                self.problems.add(name.node, f"the input {name.text!r} is named twice", "name each once")
            else:
                default = rest.get("default")
                found[name.text] = Input(
                    name=name.text, about=rest.get("about", ""), default=default, required=rest.get("required", "default" not in rest)
                )
        return list({**given, **found}.values())

    def _experts(self) -> dict[str, Expert]:
        """The plan's own experts by name. One with a problem stays, so that steps that name it are no problem too."""
        found: dict[str, Expert] = {}
        for item in self.values.get("experts", ()):
            name = item.values.get("name", BAD)
            if name is BAD:
                continue
            if name.text in found:
                self.problems.add(name.node, f"the expert {name.text!r} is described twice", "keep one of them")
            found[name.text] = self._expert(name.text, item)
        return found

    def _expert(self, name: str, item: Found) -> Expert:
        values: dict[str, Any] = {key: value.text if isinstance(value, Named) else value for key, value in item.values.items()}
        described = [key for key in ("role", "scope", "instructions") if key in item.values]
        task = item.values.get("task")
        if task is None and not described:
            self.problems.add(item.node, f"the expert {name!r} has no role", "add role:, or task: with the name of a task of the project")
        if task is not None and described:
            self.problems.add(item.node, f"the expert {name!r} has a task and {described[0]}", "keep one: a task says all of it")
        if isinstance(task, Named) and task.text not in self.known.tasks:
            self._unknown_expert(task, f"the expert {name!r} is the task", self.known.tasks, "a task of the project")
        self._model(item.values.get("model"))
        return Expert(**{key: value for key, value in values.items() if value is not BAD})

    def _model(self, model: Any) -> None:
        if isinstance(model, Named) and self.known.models is not None and model.text not in self.known.models:
            right = self._near(model.text, self.known.models) or f"the models are {_listed(self.known.models)}"
            self.problems.add(model.node, f"there is no model {model.text!r} here", right)

    # --- steps ----------------------------------------------------------------------------------------

    def _drafts(self) -> list[Draft]:
        """Every step, with an id given to a short task that has none. One whose id is wrong is checked by its number."""
        items: list[Found] = self.values.get("steps", [])
        if "steps" in self.values and not items:
            self.problems.add(self.root, "the plan has no steps", "write at least one")
        fresh = _Fresh({item.values["id"].text for item in items if isinstance(item.values.get("id"), Named)})
        found: dict[str, Draft] = {}
        for number, item in enumerate(items, 1):
            step = self._id(item, number, found, fresh)
            found[step] = Draft(step, item)
            if self._too_much(item.node):
                break
        return list(found.values())

    def _too_much(self, node: Node) -> bool:
        """Whether so much is wrong that nothing further is looked at, which is then told once."""
        if "steps" not in self.bad and len(self.problems) >= MOST_PROBLEMS:
            self.problems.add(node, "too much is wrong: the steps after this one are not looked at", "mend these first")
            self.bad.add("steps")
        return "steps" in self.bad

    def _id(self, item: Found, number: int, found: Mapping[str, Draft], fresh: _Fresh) -> str:
        given = item.values.get("id")
        if given is None and self.short:
            return fresh.id(item.values.get("type"), number)
        if given is None:
            self.problems.add(item.node, "a step has no 'id'", "add it: a word that other steps can name")
        elif isinstance(given, Named) and given.text not in found:
            return given.text
        elif isinstance(given, Named):
            first = found[given.text].node.line
            place = f" (first in line {first})" if first else ""
            self.problems.add(given.node, f"the id {given.text!r} stands twice{place}", "give each step an id of its own")
        return f"#{number}"

    def _while_few_problems(self, names: Sequence[Named]) -> Iterator[Named]:
        return (name for name in names if len(self.problems) < MOST_PROBLEMS)

    def _step(self, draft: Draft) -> Step:
        values = {name: value for name, value in draft.item.values.items() if value is not BAD}
        expert, worker = self._who(draft, values)
        needs = self._needs(draft, values)
        self._check_work(draft, expert, worker)
        self._check_failure(draft, values, worker)
        by_model = self.short and bool(expert)
        context = self._context(draft, values, needs)
        plain = ("max_tokens", "timeout", "retries", "on_failure", "arguments", "output")
        return Step(
            id=draft.id,
            expert=expert,
            worker=worker,
            instructions=values.get("instructions", ""),
            needs=needs,
            context=context,
            problem=values.get("problem", by_model),
            fallback=values["fallback"].text if "fallback" in values else "",
            type=values.get("type", self.known.default_type if self.short else ""),
            where=self.problems.where(draft.node),
            **{name: values[name] for name in plain if name in values},
        )

    def _who(self, draft: Draft, values: Mapping[str, Any]) -> tuple[str, str]:
        """The expert and the worker of a step, one of them empty."""
        expert, worker = values.get("expert"), values.get("worker")
        said = [name for name in ("expert", "worker") if name in draft.item.values]
        if len(said) == 2:
            self.problems.add(draft.node, f"the step {draft.id!r} has an expert and a worker", "keep one of them")
        elif not said and self.short:
            return self._by_type(values.get("type", self.known.default_type))
        elif not said:
            self.problems.add(
                draft.node, f"the step {draft.id!r} has neither an expert nor a worker", "say who does it: expert: or worker:"
            )
        if expert is not None:
            self._check_expert(expert)
        if worker is not None:
            self._check_worker(worker)
        return expert.text if expert else "", worker.text if worker else ""

    def _by_type(self, kind: str) -> tuple[str, str]:
        """Who does a short task: the worker of its type's name, else the expert or task, else an expert of that role."""
        if kind in self.known.workers:
            return "", kind
        name = kind if kind in self.experts or self._take(kind) or kind in self.known.tasks else _slug(kind) or "expert"
        if name not in self.known.tasks and not self._take(name):
            self.experts.setdefault(name, Expert(name=name, role=kind))
        return name, ""

    def _take(self, name: str) -> bool:
        """Whether a plan may name an expert that it does not describe; from then on the plan describes it."""
        if name not in self.experts:
            given = next((one for one in self.known.experts if one.name == name), None)
            if given is None:
                return False
            self.experts[name] = given
        return True

    def _check_expert(self, expert: Named) -> None:
        if "experts" not in self.bad and not self._take(expert.text) and expert.text not in self.known.tasks:
            names = {*self.experts, *(one.name for one in self.known.experts), *self.known.tasks}
            self._unknown_expert(expert, "the expert is", names, "an expert of the plan or a task of the project")

    def _unknown_expert(self, name: Named, what: str, names: Collection[str], kind: str) -> None:
        if self._is_plan(name):
            return
        right = self._near(name.text, names) or (f"known are {_listed(names)}" if names else f"describe it below experts:, or make {kind}")
        self.problems.add(name.node, f"{what} {name.text[:80]!r}, which is not {kind}", right)

    def _is_plan(self, name: Named) -> bool:
        """Whether a name is that of a plan, which is then told."""
        if not name.text or name.text not in {self.name, *self.known.plans}:
            return False
        whose = "this plan itself" if name.text == self.name else "a plan"
        self.problems.add(name.node, f"{name.text!r} is {whose}, and a plan runs no plan", "name an expert, a task or a worker")
        return True

    def _check_worker(self, worker: Named) -> None:
        if worker.text in self.known.workers:
            return
        if ":" in worker.text:
            self._check_function(worker)
        elif not self._is_plan(worker):
            names = self.known.workers
            right = self._near(worker.text, names) or (f"the workers are {_listed(names)}" if names else "no worker is registered here")
            self.problems.add(worker.node, f"there is no worker {worker.text[:80]!r}", right)

    def _check_function(self, worker: Named) -> None:
        if not self.rules.trusted:
            what = f"the worker {worker.text[:80]!r} is a function, and a plan that a model wrote may run none"
            names = self.known.workers
            self.problems.add(worker.node, what, f"name a registered worker: {_listed(names)}" if names else "no worker is registered here")
        elif not _FUNCTION.fullmatch(worker.text):
            self.problems.add(
                worker.node, f"the worker {worker.text[:80]!r} is no function", "write module:function, such as package.module:name"
            )

    def _needs(self, draft: Draft, values: Mapping[str, Any]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for need in self._while_few_problems(values.get("needs", ())):
            if need.text == draft.id:
                self.problems.add(need.node, f"the step {draft.id!r} needs itself", "take it out of its needs")
            elif need.text not in self.drafts:
                self._unknown_step(need, f"the step {draft.id!r} needs")
            else:
                found[need.text] = None
        return tuple(found)

    def _unknown_step(self, name: Named, what: str) -> None:
        if name.text in self.input_names:
            self.problems.add(name.node, f"{what} {name.text!r}, which is an input", "name it in context: inputs are there from the start")
        elif not self.bad & {"steps"}:
            right = self._near(name.text, self.drafts)
            self.problems.add(name.node, f"{what} {name.text[:80]!r}, which is no step", right or f"the steps are {_listed(self.drafts)}")

    def _context(self, draft: Draft, values: Mapping[str, Any], needs: tuple[str, ...]) -> tuple[str, ...]:
        said = values.get("context", self.short)
        if isinstance(said, bool):
            return needs if said else ()
        return tuple(dict.fromkeys(name.text for name in self._while_few_problems(said) if self._may_see(draft, name, needs)))

    def _may_see(self, draft: Draft, name: Named, needs: tuple[str, ...]) -> bool:
        what = f"the step {draft.id!r} is to see"
        if name.text in self.input_names or name.text in needs:
            return True
        if name.text == draft.id:
            self.problems.add(name.node, f"{what} its own result", "take it out of its context")
        elif name.text in self.drafts:
            self.problems.add(name.node, f"{what} the result of {name.text!r} but does not need it", f"add {name.text!r} to its needs")
        elif name.text == "problem":
            self.problems.add(name.node, f"{what} 'problem', which is no input and no step", "write problem: true")
        elif not self.bad & {"steps", "inputs"}:
            right = self._near(name.text, {*self.input_names, *self.drafts}) or "declare it below inputs:, or name a step that it needs"
            self.problems.add(name.node, f"{what} {name.text[:80]!r}, which is no input and no step", right)
        return False

    def _check_work(self, draft: Draft, expert: str, worker: str) -> None:
        """Somebody must say what an expert does; only a worker takes arguments."""
        own = self.experts.get(expert)
        told = own is not None and bool(own.instructions or own.task)
        if expert and "instructions" not in draft.item.values and not told and expert not in self.known.tasks:
            self.problems.add(draft.node, f"the step {draft.id!r} has no instructions", "say what is to be done")
        if expert and not worker and "arguments" in draft.item.values:
            right = "write them into its instructions, or name a worker"
            self.problems.add(draft.node, f"the step {draft.id!r} has arguments, which only a worker takes", right)
        if draft.id in self.input_names:
            self.problems.add(draft.node, f"{draft.id!r} is a step and an input, so a context can't name either", "rename one of them")

    def _check_failure(self, draft: Draft, values: Mapping[str, Any], worker: str) -> None:
        asked = values.get("on_failure") == "fallback"
        given = "fallback" in draft.item.values
        if asked and worker:
            self.problems.add(
                draft.node,
                f"the step {draft.id!r} is a worker's, and a worker has no model to fall back from",
                "choose fail, skip or replan",
            )
        elif asked and not given:
            self.problems.add(draft.node, f"the step {draft.id!r} falls back on no model", "add fallback: endpoint/model")
        elif given and not asked and "on_failure" not in self._unread(draft):
            self.problems.add(draft.node, f"the step {draft.id!r} has a fallback that nothing asks", "add on_failure: fallback")
        self._model(values.get("fallback"))

    @staticmethod
    def _unread(draft: Draft) -> set[str]:
        return {name for name, value in draft.item.values.items() if value is BAD}

    # --- the graph ------------------------------------------------------------------------------------

    def _cycles(self, drafts: list[Draft]) -> None:
        """Names each cycle that a walk over the needs closes, up to a few. Linear in steps and needs."""
        needs = {draft.id: [need for need in draft.needs() if need.text in self.drafts and need.text != draft.id] for draft in drafts}
        done: set[str] = set()
        order = {step: number for number, step in enumerate(self.drafts)}
        for cycle in islice((cycle for draft in drafts for cycle in _walk(draft.id, needs, done)), _CYCLES):
            self._tell_cycle(cycle, needs, order)

    def _tell_cycle(self, cycle: list[str], needs: Mapping[str, list[Named]], order: Mapping[str, int]) -> None:
        first = cycle.index(min(cycle, key=order.__getitem__))
        turned = cycle[first:] + cycle[:first]
        shown = turned if len(turned) <= _CYCLE_SHOWN else [*turned[: _CYCLE_SHOWN - 1], "…", turned[-1]]
        need = next(one for one in needs[turned[0]] if one.text == turned[1])
        what = f"the steps need each other in a cycle: {' -> '.join([*shown, turned[0]])}"
        self.problems.add(need.node, what, "take one of these needs out")

    def _result(self, drafts: list[Draft]) -> tuple[str, ...]:
        if "result" in self.bad:
            return ()
        said = self.values.get("result")
        if said is None or not said:
            needed = {need.text for draft in drafts for need in draft.needs()}
            return tuple(draft.id for draft in drafts if draft.id not in needed)
        for name in self._while_few_problems(said):
            if name.text not in self.drafts:
                self._unknown_step(name, "the result is")
        return tuple(dict.fromkeys(name.text for name in said))

    def _near(self, name: str, known: Collection[str]) -> str:
        if len(known) > _NEAR_NAMES or not self.near_left:
            return ""
        self.near_left -= 1
        return did_you_mean(name[:80], known)


class Draft(NamedTuple):
    """A step with an id, not yet checked."""

    id: str
    item: Found

    @property
    def node(self) -> Node:
        return self.item.node

    def needs(self) -> list[Named]:
        needs = self.item.values.get("needs", BAD)
        return [] if needs is BAD else needs


class _Fresh:
    """Gives ids that no step has: the type's name, then with a number."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = taken
        self.counts: dict[str, int] = {}

    def id(self, kind: Any, number: int) -> str:
        base = _slug(kind) if isinstance(kind, str) else ""
        if base and base not in self.taken:
            self.taken.add(base)
            return base
        base = base or "step"
        count = self.counts.get(base, number - 1 if base == "step" else 1)
        while True:
            count += 1
            name = step_id(str(count)) if base == "step" else f"{base}-{count}"
            if name not in self.taken:
                self.counts[base] = count
                self.taken.add(name)
                return name


def _walk(start: str, needs: Mapping[str, list[Named]], done: set[str]) -> Iterator[list[str]]:
    """The cycles that a depth-first walk from ``start`` closes; ``done`` takes what was walked."""
    if start in done:
        return
    path, places = [start], {start: 0}
    open_ = [iter(needs[start])]
    while open_:
        need = next(open_[-1], None)
        if need is None:
            open_.pop()
            done.add(path[-1])
            del places[path.pop()]
        elif need.text in places:
            yield path[places[need.text] :]
        elif need.text not in done:
            places[need.text] = len(path)
            path.append(need.text)
            open_.append(iter(needs[need.text]))


def _slug(text: str) -> str:
    """An id made of a text, empty when there is none in it."""
    found = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_0123456789")[:56].rstrip("-_")
    return found if ID.fullmatch(found) else ""


def _limits(values: Mapping[str, Any] | None) -> Limits:
    if not values:
        return NO_LIMITS
    read: dict[str, Any] = {name: float(value) if name in ("usd", "seconds") else value for name, value in values.items()}
    return Limits(**read)


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:10]
    return ", ".join(shown) + (f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else "")
