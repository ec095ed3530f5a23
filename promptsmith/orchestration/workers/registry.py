"""The workers of a project, by name: which there are, who may name them, and calling one within its limits."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import msgspec

from ... import canonical
from ...chat import Reply, Request
from ...config import Project, own_section, section_problem
from ...errors import Problem, SourceError, UnknownName, WorkerError, did_you_mean
from ...models.directory import Directory
from ...models.waiting import Late, within
from . import kinds
from .values import Ask, Kind, Place, Worker, WorkerCall, WorkerResult, WorkerSettings

FUNCTION = "function"
_ALLOWED = "a plan by a person may also name module:function"


def kind_names() -> tuple[str, ...]:
    """The kinds of workers there are: the modules of ``kinds/``."""
    return tuple(sorted(module.name for module in iter_modules(kinds.__path__)))


def kind_of(name: str) -> Kind:
    """The kind called ``name``, which is one of :func:`kind_names`."""
    kind: Kind = import_module(f"{kinds.__name__}.{name}").KIND
    return kind


class Workers:
    """The workers that ``[workers.NAME]`` in the settings registers. Each is made when it is first called.

    ``models`` are models or official clients by name, as for a runtime. Raises :class:`SourceError` with everything that is
    wrong in those sections.
    """

    def __init__(self, project: Project, models: Mapping[str, object] | None = None) -> None:
        self._project = project
        self._directory = Directory(project, models)
        self._settings = _all_settings(project)
        self._made: dict[str, Worker] = {}

    @property
    def names(self) -> frozenset[str]:
        """Every registered worker."""
        return frozenset(self._settings)

    def kind(self, name: str) -> str:
        """The kind of a worker; a ``module:function`` that is not registered is a function."""
        return self._settings[name].kind if name in self._settings else FUNCTION

    def check(self, name: str, *, allow_functions: bool) -> str:
        """Itself. Raises :class:`UnknownName` for a worker that a plan may not name.

        ``allow_functions``: a person wrote the plan, which then may name ``module:function`` itself.
        """
        if name in self._settings or (allow_functions and ":" in name):
            return name
        known = sorted(self._settings)
        if ":" in name:
            hint = f"register it: [workers.NAME] kind = {FUNCTION!r}, function = {name!r}"
            raise UnknownName(f"the worker {name!r} is not registered, and only plans that a person wrote name functions", hint=hint)
        listed = f"registered here: {', '.join(known)}" if known else "none is registered here: [workers.NAME] in the settings"
        raise UnknownName(
            f"unknown worker {name!r}", hint=did_you_mean(name, known) or (f"{listed}; {_ALLOWED}" if allow_functions else listed)
        )

    def identity(self, name: str) -> str:
        """Digest of what decides a worker's results besides what it is given: its settings, its function's code."""
        settings = self._of(name)
        parts = {key: str(value) for key, value in msgspec.to_builtins(settings).items() if key not in ("timeout", "max_bytes")}
        return canonical.digest({**parts, "code": self._worker(name).code})

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
        """What the worker comes to.

        ``ask`` asks models for workers that need one (default: the model alone, without journal, cache or budget).
        ``timeout``, in seconds, goes before the one in the settings. Raises :class:`UnknownName` as :meth:`check`,
        :class:`InputError` for what the worker can't be given, :class:`WorkerError` and :class:`ModelError` when it fails,
        takes too long, or returns more than its ``max_bytes``.
        """
        self.check(name, allow_functions=allow_functions)
        settings = self._of(name)
        call = WorkerCall(worker=name, instructions=instructions, problem=problem, arguments=arguments, context=context or {})
        seconds = timeout or settings.timeout
        try:
            result = await within(seconds, self._worker(name).work(call, ask or self._ask))
        except Late:
            raise WorkerError(f"the worker {name} did not end within {seconds:g} s", retryable=True) from None
        return _bounded(result, name, settings.max_bytes)

    async def _ask(self, request: Request) -> Reply:
        return await self._directory.model(request.model).reply(request)

    def _of(self, name: str) -> WorkerSettings:
        found = self._settings.get(name)
        return found or kind_of(FUNCTION).settings(kind=FUNCTION, function=name)  # type: ignore[call-arg]  # that kind's own key

    def _worker(self, name: str) -> Worker:
        worker = self._made.get(name)
        if worker is None:
            settings = self._of(name)
            place = Place(name, self._project, self._directory)
            worker = self._made[name] = kind_of(settings.kind).make(settings, place)
        return worker


def _all_settings(project: Project) -> dict[str, WorkerSettings]:
    found: dict[str, WorkerSettings] = {}
    problems: list[Problem] = []
    for name, values in project.config.workers.items():
        try:
            found[name] = _settings(project, name, values)
        except SourceError as error:
            problems += error.problems
    if problems:
        raise SourceError(problems)
    return found


def _settings(project: Project, name: str, values: Mapping[str, Any]) -> WorkerSettings:
    steps = ("workers", name)
    kind = values.get("kind")
    if kind in kind_names():
        return own_section(project, steps, values, kind_of(kind).settings)
    # No kind's keys can be looked at; what is wrong is the kind alone.
    right = did_you_mean(str(kind), kind_names()) or f"the kinds are {', '.join(kind_names())}"
    said = f"has no kind {kind!r}" if "kind" in values else "says no kind"
    raise SourceError([section_problem(project, (*steps, "kind"), f"[workers.{name}] {said}", right)])


def _bounded(result: WorkerResult, name: str, most: int) -> WorkerResult:
    try:
        size = len(result.text.encode())
    except UnicodeEncodeError:
        raise WorkerError(f"the worker {name} returned a lone surrogate, which no UTF-8 text can hold") from None
    if size > most:
        raise WorkerError(
            f"the worker {name} returned {size:,} bytes, more than its limit of {most:,}",
            hint=f"let it return less, or raise max_bytes in [workers.{name}]",
        )
    return result
