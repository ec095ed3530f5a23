"""Binds the compiler into the public runtime (the runtime stands below the compiler and is given it as a value)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from . import runtime
from .compiler.build import Compiled, ProjectCompiler
from .compiler.material import Options
from .config import Project, find_project
from .errors import InputError
from .prompt import Prompt
from .registry.opening import open_registry
from .registry.resolve import Resolver
from .runtime.loop import LOOP
from .runtime.values import Hook, Policy
from .store import Store
from .store.folder import open_store
from .task import Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .evals.report import Report
    from .orchestration.solve import AsyncSolver, SolveOptions
    from .orchestration.values import Event, OnEvent, Outcome, Plan

Place = Project | str | PathLike[str] | None


def _bound(project: Place, store: Store | None, models: Mapping[str, object] | None = None) -> tuple[Project, Store, ProjectCompiler]:
    found = project if isinstance(project, Project) else find_project(project)
    kept = store or open_store(found)
    return found, kept, ProjectCompiler(found, kept, models)


class AsyncRuntime(runtime.AsyncRuntime):
    """Serves compiled prompts, and compiles missing ones when asked to. See :class:`promptsmith.runtime.AsyncRuntime`."""

    def __init__(
        self,
        project: Place = None,
        *,
        store: Store | None = None,
        models: Mapping[str, object] | None = None,
        cache: bool | None = None,
        on_contract_break: Policy | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        found, kept, compiler = _bound(project, store, models)
        super().__init__(found, store=kept, compiler=compiler, models=models, cache=cache, on_contract_break=on_contract_break, hooks=hooks)


class Runtime(runtime.Runtime):
    """Serves compiled prompts to callers that are not async. See :class:`promptsmith.runtime.Runtime`."""

    def __init__(
        self,
        project: Place = None,
        *,
        store: Store | None = None,
        models: Mapping[str, object] | None = None,
        cache: bool | None = None,
        on_contract_break: Policy | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        found, kept, compiler = _bound(project, store, models)
        super().__init__(found, store=kept, compiler=compiler, models=models, cache=cache, on_contract_break=on_contract_break, hooks=hooks)


def compile_task(task: Task | str, *, project: Place = None, store: Store | None = None, force: bool = False, **options: Any) -> Prompt:
    """The compiled prompt of a task (a :class:`Task`, or the name of a task file), from the cache where it is there.

    ``options`` are those of :class:`~promptsmith.compiler.material.Options`: ``level``, ``model``, ``meta_model``, ``seed``,
    ``example_tokens``, from level 2 ``candidates``, ``prefer`` and ``engine``, and the limits ``max_usd``, ``max_calls``,
    ``max_tokens`` and ``max_seconds``. Nobody is asked before a search. Raises :class:`SourceError` for a wrong task,
    :class:`StoreError` when the cache can't be written, :class:`BudgetError` when a limit bites before there is a prompt.
    """
    found, kept, compiler = _bound(project, store)
    if isinstance(task, str):
        task = _from_file(task, Resolver(found, kept))
    elif not isinstance(task, Task):
        raise InputError(f"a task is named by a text, or given as a Task, not as {type(task).__name__}")
    compiled: Compiled = LOOP.wait(compiler.build(task, Options(**options), force=force))
    return compiled.prompt


def _from_file(name: str, resolver: Resolver) -> Task:
    from .evals.vocabulary import load_suite_task

    return load_suite_task(resolver.task_file(name), name)


def evaluate(
    ref: str | Task,
    *,
    project: Place = None,
    store: Store | None = None,
    models: Mapping[str, object] | None = None,
    **options: Any,
) -> Report:
    """A report on the prompt that ``ref`` names, judged on its task's sealed holdout; kept in the cache folder.

    A bare task is the prompt last compiled here, else the one in production; a :class:`Task` is the prompt compiled from
    exactly that, and judged on its own holdout. ``options`` are those of
    :class:`~promptsmith.evals.evaluate.EvalOptions` (``repeats``, ``model``, ``fresh``, ``record``, ``cached_only``,
    ``limits``, …). Raises :class:`SourceError` for a wrong task, :class:`NotCompiled` for one with no prompt,
    :class:`ModelError` when no call can succeed.
    """
    # Here, because who only serves prompts should not load what judges them.
    from .evals.evaluate import EvalOptions
    from .proving import Prover

    found, kept, compiler = _bound(project, store, models)
    registry = open_registry(found, patient=True)
    resolver = Resolver(found, kept, registry)
    if isinstance(ref, str):
        resolved = resolver.resolve(ref, prefer="production" if options.get("cached_only") else "latest")
        task = _from_file(resolved.prompt.task, resolver)
    else:
        resolved, task = runtime.AsyncRuntime(found, store=kept, compiler=compiler).resolve(ref), ref
    return LOOP.wait(Prover(found, kept, registry, models).evaluate(task, resolved, EvalOptions(**options)))


def solve(
    problem: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    project: Place = None,
    store: Store | None = None,
    models: Mapping[str, object] | None = None,
    on_event: OnEvent | None = None,
    **options: Any,
) -> Outcome:
    """What became of a problem: planned by a conductor, worked on by experts side by side, put together by the conductor.

    ``options`` are those of :class:`~promptsmith.orchestration.solve.SolveOptions` (``conductor``, ``rounds``, ``limits``,
    ``evaluate`` as a task's ``scorers``, …); ``on_event`` is told every decision, call and retry. Raises what
    :meth:`~promptsmith.orchestration.solve.AsyncSolver.solve` raises, which is the same for async code.
    """
    return LOOP.wait(_solver(project, store, models).solve(problem, inputs, options=_solve_options(options), on_event=on_event))


def run_plan(
    plan: Plan,
    inputs: Mapping[str, Any] | None = None,
    *,
    problem: str = "",
    project: Place = None,
    store: Store | None = None,
    models: Mapping[str, object] | None = None,
    on_event: OnEvent | None = None,
    **options: Any,
) -> Outcome:
    """What a plan came to (``Plan.from_yaml(FILE)``), with the values of its inputs; as :func:`solve` else."""
    solver = _solver(project, store, models)
    return LOOP.wait(solver.run_plan(plan, inputs, problem=problem, options=_solve_options(options), on_event=on_event))


def stream_solve(
    problem: str | Plan,
    inputs: Mapping[str, Any] | None = None,
    *,
    project: Place = None,
    store: Store | None = None,
    models: Mapping[str, object] | None = None,
    **options: Any,
) -> AsyncIterator[Event | Outcome]:
    """Every event of a problem being solved, or of a plan being run, as it happens, and last the outcome."""
    return _solver(project, store, models).stream(problem, inputs, options=_solve_options(options))


def _solver(project: Place, store: Store | None, models: Mapping[str, object] | None) -> AsyncSolver:
    from .orchestration.solve import AsyncSolver

    return AsyncSolver(project, store=store, models=models)


def _solve_options(given: Mapping[str, Any]) -> SolveOptions:
    from .orchestration.grading import read_scorers
    from .orchestration.solve import SolveOptions

    return SolveOptions(**{**given, "evaluate": read_scorers(given.get("evaluate", ()))})
