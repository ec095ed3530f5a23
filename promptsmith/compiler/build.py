"""``compile_task``: from a task to a prompt in the cache, once per build key."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

import msgspec

from .. import canonical, contract
from ..config import Config, Project
from ..errors import LockError
from ..models import check_model_name
from ..prompt import Build, Prompt, Provenance, make_prompt
from ..registry.lock import LockFile
from ..store import Store
from ..task import Task
from ..version import VERSION
from .material import DEFAULTS, Material, Options, material
from .select import examples_for
from .template import system_prompt

Source = Literal["built", "cache", "lock"]


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """What a compile came to. ``source`` says whether it was built now or found; ``notes`` are for a person."""

    prompt: Prompt
    source: Source
    notes: tuple[str, ...] = ()


async def compile_task(
    task: Task,
    *,
    config: Config,
    store: Store,
    options: Options,
    force: bool,
    locked: Callable[[str], Prompt | None],
    relative: Callable[[str], str],
    models: Collection[str] = (),
) -> Compiled:
    """The prompt of ``task``: from the cache, else from the lock (``locked`` finds by build key), else built now.

    The same build key is built once, however many tasks, threads and processes ask. ``force`` builds again.
    Raises :class:`StoreError` when the cache can't be written, :class:`UnknownName` for a model that does not exist.
    """
    source = material(task, config, options)
    check_model_name(source.model.name, models)
    store.check_writable()
    parts = source.parts()
    key = canonical.build_key(parts)
    build = Build(
        key=key,
        inputs={name: value[:16] for name, value in parts.items()},
        epoch=canonical.COMPILER_EPOCH,
        sources={relative(path): digest for path, digest in task.sources.items()},
        defaults=config.build_defaults(),
        options=options.given(),
    )
    found = None if force else _find(store, key, locked)
    if found is None:
        found = await store.once_build(key, lambda: None if force else _find(store, key, locked), lambda: _make(task, source, build, store))
    compiled = _refreshed(found, task, build)
    store.put_prompt(compiled.prompt, key)
    return compiled


def _find(store: Store, key: str, locked: Callable[[str], Prompt | None]) -> Compiled | None:
    prompt = store.built(key)
    if prompt is not None:
        return Compiled(prompt=prompt, source="cache", notes=prompt.provenance.notes)
    prompt = locked(key)
    return None if prompt is None else Compiled(prompt=prompt, source="lock", notes=prompt.provenance.notes)


def _refreshed(found: Compiled, task: Task, build: Build) -> Compiled:
    """A prompt that was found carries the name, policy and sources of the task that asks now; its text is the same."""
    prompt = found.prompt
    provenance = msgspec.structs.replace(prompt.provenance, build=build)
    if prompt.task == task.name and prompt.serve == task.serve and provenance == prompt.provenance:
        return found
    fresh = msgspec.structs.replace(prompt, task=task.name, serve=task.serve, provenance=provenance)
    return msgspec.structs.replace(found, prompt=fresh)


async def _make(task: Task, source: Material, build: Build, store: Store) -> Compiled:
    chosen = examples_for(source)
    notes = _notes(task, source, len(chosen))
    provenance = Provenance(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        version=VERSION,
        level=source.level,
        level_why=source.level_why,
        build=build,
        seed=source.seed,
        visible=" ".join(dict.fromkeys(canonical.case_id(example.inputs) for example in source.examples)),
        shown=len(chosen),
        notes=notes,
    )
    prompt = make_prompt(
        task=task.name,
        system=system_prompt(source, chosen),
        contract=source.contract,
        model=source.model.name,
        parameters=source.model.parameters,
        inputs=source.inputs,
        serve=task.serve,
        provenance=provenance,
    )
    store.put_prompt(prompt, build.key)
    return Compiled(prompt=prompt, source="built", notes=notes)


def _notes(task: Task, source: Material, shown: int) -> tuple[str, ...]:
    notes = list(task.notes)
    if source.contract.inferred:
        notes.append(f"contract inferred from {len(source.examples)} examples: {contract.explain(source.contract)}")
    if shown < len(source.examples) and source.prompt is None:
        notes.append(f"{shown} of {len(source.examples)} examples stand in the prompt (budget {source.example_tokens} tokens)")
    if not source.examples and source.prompt is None:
        notes.append("the task has no visible examples: the prompt is the description and the contract alone")
    return tuple(notes)


class ProjectCompiler:
    """The compiler of one project: what the runtime and the command line call."""

    def __init__(self, project: Project, store: Store, models: Collection[str] = ()) -> None:
        """``models`` are names of models that a caller brings along."""
        self._project, self._store, self._models = project, store, models
        self._lock = LockFile(project.lock)

    def find(self, task: Task) -> Prompt | None:
        """The prompt that an earlier compile made of exactly this task with these settings, or ``None``."""
        key = canonical.build_key(material(task, self._project.config, DEFAULTS).parts())
        return self._store.built(key) or self._locked(task.name, key)

    async def compile(self, task: Task) -> Prompt:
        """The prompt of ``task`` with no options set."""
        return (await self.build(task)).prompt

    async def build(self, task: Task, options: Options = DEFAULTS, *, force: bool = False) -> Compiled:
        """As :func:`compile_task`, in this project."""
        return await compile_task(
            task,
            config=self._project.config,
            store=self._store,
            options=options,
            force=force,
            locked=lambda key: self._locked(task.name, key),
            relative=lambda path: self._project.relative(Path(path)),
            models=self._models,
        )

    def _locked(self, name: str, key: str) -> Prompt | None:
        try:
            entry = self._lock.entry(name)
        except LockError:
            # A damaged entry has nothing to offer here; whoever serves or promotes the task names the damage.
            return None
        return next((prompt for prompt in entry.prompts() if prompt.provenance.build.key == key), None) if entry else None
