"""Solves problems and runs plans in one project, awaited or as a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from os import PathLike
from typing import Any

import msgspec

from .. import canonical
from ..config import Project, find_project
from ..contract import shorten
from ..errors import InputError, PromptsmithError
from ..models.directory import Directory
from ..store import Store
from ..store.folder import open_store
from ..task import load_task
from .experts import Experts
from .patterns import CONDUCTED, begun, patterns, valued
from .reading import Known
from .reading.tables import INPUT_NAME
from .rounds import Approve, Means, Rounds, SolveOptions
from .run import PlanOptions, run_plan
from .similar import keep
from .values import CONDUCTOR, Event, Expert, OnEvent, Outcome, Plan
from .workers import Workers
from .workers.values import as_text

__all__ = ["AsyncSolver", "SolveOptions"]

_TASKS_TOLD = 30


class AsyncSolver:
    """Solves problems and runs plans in one project. ``models`` are models, or official SDK clients, by name."""

    def __init__(
        self,
        project: Project | str | PathLike[str] | None = None,
        *,
        store: Store | None = None,
        models: Mapping[str, object] | None = None,
    ) -> None:
        self.project = project if isinstance(project, Project) else find_project(project)
        self.store = store or open_store(self.project)
        self._models = dict(models or {})
        directory = Directory(self.project, models, patient=True)
        self.means = Means(self.project, self.store, directory, Experts(self.project, self.store, models), Workers(self.project, models))

    async def plan(
        self, problem: str, inputs: Mapping[str, Any] | None = None, *, options: SolveOptions | None = None, on_event: OnEvent | None = None
    ) -> Plan:
        """The conductor's plan for a problem, not run; its ``about`` is the problem. Raises as :meth:`solve`."""
        return await self._rounds(problem, inputs, options, on_event).plan()

    async def solve(
        self,
        problem: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        options: SolveOptions | None = None,
        on_event: OnEvent | None = None,
        approve: Approve | None = None,
    ) -> Outcome:
        """What became of a problem, kept in the cache folder; after a kill, the same call goes on where it was.

        ``approve`` is shown the conductor's plan before it is run, in a thread; what it raises ends the run.

        Raises :class:`InputError` without a conductor or a problem, and before there is a plan :class:`PlanError` when the
        conductor writes none, :class:`BudgetError` when a limit bites, :class:`ModelError` when its model does not answer.
        Later these end the run with what was finished: see ``state``, ``why`` and ``cause`` of the outcome.
        """
        return await self._rounds(problem, inputs, options, on_event, approve).solve()

    async def run_plan(
        self,
        plan: Plan,
        inputs: Mapping[str, Any] | None = None,
        *,
        problem: str = "",
        options: SolveOptions | None = None,
        on_event: OnEvent | None = None,
    ) -> Outcome:
        """What a plan came to, kept in the cache folder; after a kill, the same call goes on where it was.

        ``problem`` is what steps see that ask for it (default: what the plan is about). A plan that says how its results
        are put together (``synthesis``), or plans failed steps anew, needs a conductor for that, and so does grading. Raises
        :class:`InputError` for inputs that the plan lacks or does not have.
        """
        chosen, problem = options or SolveOptions(), problem or plan.about
        plan = self._played(begun(plan, inputs or {}, self.means.workers.names), chosen.conductor)
        if plan.synthesis or chosen.evaluate or any(step.on_failure == "replan" for step in plan.steps):
            chosen = msgspec.structs.replace(chosen, limits=plan.limits.tightened(chosen.limits))
            return self._kept(await self._rounds(problem, inputs, chosen, on_event).solve(plan), chosen)
        outcome = await run_plan(
            plan,
            problem=problem,
            inputs=dict(inputs or {}),
            project=self.project,
            store=self.store,
            experts=self.means.experts,
            workers=self.means.workers,
            limits=chosen.limits,
            on_event=on_event,
            models=self._models,
            options=PlanOptions(strong=self.conductor(chosen.conductor) if self.conducts or chosen.conductor else ""),
        )
        return self._kept(outcome, chosen)

    def _played(self, plan: Plan, conductor: str) -> Plan:
        """The plan with ``conductor`` in the place of the settings' own, who also plays roles that production can't.

        A built-in model reads examples out of prompts, and an expert's has none.
        """
        builtin = self.project.config.models.production.startswith("builtin/")

        def played(one: Expert) -> Expert:
            strong = one.model == CONDUCTOR or (builtin and not one.task and not self.means.experts.model(one))
            return msgspec.structs.replace(one, model=conductor or CONDUCTOR) if strong else one

        return msgspec.structs.replace(plan, experts=tuple(map(played, plan.experts)))

    def _kept(self, outcome: Outcome, options: SolveOptions) -> Outcome:
        outcome = valued(outcome)
        if options.keep:
            keep(self.store, outcome)
        return outcome

    async def stream(
        self, problem: str | Plan, inputs: Mapping[str, Any] | None = None, *, options: SolveOptions | None = None
    ) -> AsyncIterator[Event | Outcome]:
        """Every event as it happens, and last the outcome. Raises as :meth:`solve`; left early, the run is cancelled."""
        arrived: asyncio.Queue[Event | None] = asyncio.Queue()

        async def run() -> Outcome:
            try:
                if isinstance(problem, Plan):
                    return await self.run_plan(problem, inputs, options=options, on_event=arrived.put_nowait)
                return await self.solve(problem, inputs, options=options, on_event=arrived.put_nowait)
            finally:
                arrived.put_nowait(None)

        running = asyncio.create_task(run())
        try:
            while (event := await arrived.get()) is not None:
                yield event
            yield await running
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await running

    def conductor(self, named: str = "") -> str:
        """The model that conducts. Raises :class:`InputError` when there is none, :class:`UnknownName` for an unknown one."""
        models = self.project.config.models
        name = named or models.conductor or models.meta
        if not name or name.startswith("builtin/"):
            raise InputError(
                f"{name} can't plan, a language model can" if name else "no conductor is named, and this needs a model that plans",
                hint="name one: --conductor endpoint/model, or conductor = 'endpoint/model' in [models] of the settings; "
                "a written plan whose results need no putting together runs without one",
            )
        return self.means.directory.check(name)

    @property
    def conducts(self) -> bool:
        """Whether the settings name a model that can conduct."""
        models = self.project.config.models
        name = models.conductor or models.meta
        return bool(name) and not name.startswith("builtin/")

    def answering_model(self, named: str = "") -> str:
        """Who answers a problem alone: the production model, else the conductor where that one only repeats examples."""
        production = self.project.config.models.production
        return self.conductor(named) if production.startswith("builtin/") else production

    def known(self, most_steps: int | None = None, inputs: Iterable[str] = (), *, person: bool = False) -> Known:
        """What a plan may name here. A conductor chooses among the models that the settings name, a ``person`` among all."""
        config = self.project.config
        chosen = (config.models.production, config.models.meta, config.models.conductor)
        named = {*chosen, *config.limits, *config.prices, *self._models}
        return Known(
            workers=self.means.workers.names,
            tasks=frozenset(self.project.task_names()),
            models=None if person else frozenset(name for name in named if "/" in name),
            plans=frozenset((*patterns(), CONDUCTED)),
            inputs=tuple(inputs),
            most_steps=most_steps,
        )

    def _rounds(
        self,
        problem: str,
        inputs: Mapping[str, Any] | None,
        options: SolveOptions | None,
        on_event: OnEvent | None,
        approve: Approve | None = None,
    ) -> Rounds:
        chosen = options or SolveOptions()
        if not problem.strip():
            raise InputError("there is no problem to solve: the text is empty")
        canonical.encode(problem)
        for name, value in (inputs or {}).items():
            if not INPUT_NAME.fullmatch(name):
                right = "use at most 64 letters, digits, '_' and '-', starting with a letter"
                raise InputError(f"{shorten(name)} can't be an input's name", hint=right)
            canonical.encode(as_text(value))
        known = self.known(chosen.most_steps, inputs or ())
        return Rounds(
            self.means,
            self.conductor(chosen.conductor),
            known,
            problem,
            inputs or {},
            chosen,
            on_event,
            tasks=self._tasks(known.tasks),
            approve=approve,
        )

    def _tasks(self, names: Iterable[str]) -> dict[str, str]:
        """What the project's tasks are about, as far as they are few and can be read: a conductor may take them as experts."""
        told: dict[str, str] = {}
        for name in sorted(names)[:_TASKS_TOLD]:
            with suppress(PromptsmithError):
                told[name] = load_task(self.project.task_file(name), name=name).description.strip().partition("\n")[0][:200]
        return told
