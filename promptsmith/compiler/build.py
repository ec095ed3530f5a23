"""From a task to a prompt in the cache, once per build key."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from .. import canonical, contract
from ..budget import Budget, Limits
from ..chat import Request, Usage
from ..config import Project
from ..errors import DraftError, InputError, LockError
from ..models import Model
from ..models.directory import Directory
from ..models.wallet import opened, paid_from
from ..models.wrappers import Budgeted, Journaled, Metered
from ..prompt import Build, Prompt, Provenance, make_prompt
from ..registry.lock import LockFile
from ..store import Journal, Store
from ..task import Task
from ..task.values import ENGINES
from ..version import VERSION
from .draft import Draft, draft
from .material import DEFAULTS, SCORED, Material, Options, Start, material
from .meta_digest import meta_digest
from .output_limit import with_output_limit
from .search.record import SearchRecord
from .search.values import UNFINISHED, OnStatus
from .select import examples_for
from .template import instructions_of, system_prompt, with_examples

Source = Literal["built", "cache", "lock"]


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """What a compile came to. ``source`` says whether it was built now or found; ``notes`` are for a person."""

    prompt: Prompt
    source: Source
    notes: tuple[str, ...] = ()
    record: SearchRecord | None = None
    """How it was found, from ``-O2``, when it was built now."""
    calls: int = 0
    """That building it now took; with them ``usage`` (known at ``-O1`` only) and ``usd`` (``None``: a price is unknown)."""
    usage: Usage = Usage()
    usd: float | None = 0.0

    @property
    def unfinished(self) -> bool:
        """Whether time or a provider ended the search: the prompt is the best so far, and another run goes on from there."""
        return self.record is not None and self.record.reason in UNFINISHED


def _refreshed(found: Compiled, task: Task, source: Material, build: Build) -> Compiled:
    """A prompt that was found carries the name, policy, sources and level's reason of the task that asks now; its text is the same."""
    prompt = found.prompt
    provenance = msgspec.structs.replace(prompt.provenance, build=build, level_why=source.level_why)
    if prompt.task == task.name and prompt.serve == task.serve and provenance == prompt.provenance:
        return found
    fresh = msgspec.structs.replace(prompt, task=task.name, serve=task.serve, provenance=provenance)
    return msgspec.structs.replace(found, prompt=fresh)


def _notes(task: Task, source: Material, shown: int) -> tuple[str, ...]:
    notes = list(task.notes)
    if source.contract.inferred:
        notes.append(f"contract inferred from {len(source.visible)} examples: {contract.explain(source.contract)}")
    if shown < len(source.examples) and source.prompt is None:
        notes.append(f"{shown} of {len(source.examples)} examples stand in the prompt (budget {source.example_tokens} tokens)")
    if not source.visible and source.prompt is None:
        notes.append("the task has no visible examples: the prompt is the description and the contract alone")
    return tuple(notes)


class ProjectCompiler:
    """The compiler of one project: what the runtime and the command line call.

    ``models`` are models, or official SDK clients, that a caller brings along, by name.
    """

    def __init__(self, project: Project, store: Store, models: Mapping[str, object] | None = None) -> None:
        self._project, self._store = project, store
        self._directory = Directory(project, models)
        self._lock = LockFile(project.lock)

    def find(self, task: Task) -> Prompt | None:
        """The prompt that an earlier compile made of exactly this task with these settings, or ``None``."""
        key = self._record(task, self._material(task, DEFAULTS), DEFAULTS).key
        return self._store.built(key) or self._locked(task.name, key)

    async def compile(self, task: Task) -> Prompt:
        """The prompt of ``task`` with no options set."""
        return (await self.build(task)).prompt

    def cached(self, task: Task, options: Options = DEFAULTS, *, start: Prompt | None = None) -> Compiled | None:
        """What :meth:`build` would return without building anything; ``None`` when it would have to build."""
        source = started(self._material(task, options), start)
        record = self._record(task, source, options)
        found = self._find(task.name, record.key)
        return None if found is None else self._taken(found, task, source, record)

    async def build(
        self,
        task: Task,
        options: Options = DEFAULTS,
        *,
        force: bool = False,
        start: Prompt | None = None,
        on_status: OnStatus | None = None,
        budget: Budget | None = None,
    ) -> Compiled:
        """The prompt of ``task``: from the cache, else from the lock, else built now.

        The same build key is built once, however many tasks, threads and processes ask. ``force`` builds again, and takes no reply from
        the cache for it. With ``start`` the meta-model begins with that prompt, which was written for another model.
        ``on_status`` is told how a search (from ``-O2``) stands. ``budget`` is a caller's, which all calls have to fit into
        besides the compile's own; a search is given what is left of it. A search that time or a provider ended returns the best so
        far, which is not kept under the build key. Raises :class:`StoreError` when the cache can't be written,
        :class:`UnknownName` for a model that does not exist, :class:`BudgetError` when a limit bites, :class:`ModelError` when
        the meta-model writes nothing usable.
        """
        source = started(self._material(task, options), start)
        if budget is not None and budget.limited and source.level >= SCORED:
            source = msgspec.structs.replace(source, limits=source.limits.tightened(budget.left()))
        self._directory.check(source.model.name)
        if source.meta is not None:
            self._directory.check(source.meta.name)
        self._store.check_writable()
        record = self._record(task, source, options)

        def find() -> Compiled | None:
            return None if force else self._find(task.name, record.key)

        async def make() -> Compiled:
            return await self._make(task, source, record, fresh=force, on_status=on_status, budget=budget)

        found = find()
        if found is None:
            found = await self._store.once_build(record.key, find, make)
        return self._taken(found, task, source, record)

    def _taken(self, found: Compiled, task: Task, source: Material, record: Build) -> Compiled:
        compiled = _refreshed(found, task, source, record)
        self._store.put_prompt(compiled.prompt, None if compiled.unfinished else record.key)
        return compiled

    def _material(self, task: Task, options: Options) -> Material:
        return material(task, self._project.config, options, self._project.root)

    async def _make(
        self, task: Task, source: Material, record: Build, *, fresh: bool, on_status: OnStatus | None, budget: Budget | None
    ) -> Compiled:
        if source.meta is None:
            return self._kept(task, source, record, None)
        with self._store.journal("compile", record.key) as journal:
            if journal.finished:
                journal.restart()
            if source.level >= SCORED:
                searched = await self._searched(task, source, record, journal, fresh=fresh, on_status=on_status)
                if budget is not None and searched.record is not None:
                    took = searched.record.spent
                    budget.count(calls=took.calls, tokens=took.tokens, usd=took.usd or 0.0)
                return searched
            meta = self._meta_model(source.meta.name, source.name, journal, source.limits)
            if budget is not None:
                meta = Budgeted(meta, budget, self._directory.rates.find(source.meta.name))
            try:
                drafted = await draft(source, meta)
            except DraftError:
                # An end, not an interruption: compiled again, the meta-model is asked anew.
                journal.finish(None)
                raise
            compiled = self._kept(task, source, record, drafted)
            # Only now: a compile that is killed before the prompt is kept pays for nothing twice.
            journal.finish(None)
        return compiled

    async def _searched(
        self, task: Task, source: Material, build: Build, journal: Journal, *, fresh: bool, on_status: OnStatus | None
    ) -> Compiled:
        from .search.kept import put_record
        from .search.run import search

        bare = _provenance(source, build, 0, ())

        def prompt_of(system: str) -> Prompt:
            return self._prompt(task, source, system, bare)

        ended = await search(
            source,
            build,
            scorers=task.scorers,
            folder=Path(task.file).parent if task.file else self._project.root,
            directory=self._directory,
            store=self._store,
            journal=journal,
            prompt_of=prompt_of,
            fresh=fresh,
            on_status=on_status,
        )
        searched = msgspec.structs.replace(ended.searched, record=put_record(self._store, ended.record))
        notes = (*task.notes, *ended.record.notes)
        made = msgspec.structs.replace(_provenance(source, build, len(ended.candidate.shown), notes), search=searched)
        prompt = self._prompt(task, source, ended.candidate.system, made)
        took = ended.searched
        compiled = Compiled(prompt=prompt, source="built", notes=notes, record=ended.record, calls=took.calls, usd=took.usd)
        if not compiled.unfinished:
            self._store.put_prompt(prompt, build.key)
            # As below: an unfinished one stays open, and is gone on with.
            journal.finish(None)
        return compiled

    def template(self, task: Task) -> Prompt:
        """The ``-O0`` prompt of ``task``, made and not kept: what stands beside a first promotion, one written by hand included."""
        options = Options(level=0)
        source = msgspec.structs.replace(self._material(task, options), prompt=None, written=None)
        return self._made(task, source, self._record(task, source, options), None).prompt

    def _kept(self, task: Task, source: Material, record: Build, drafted: Draft | None) -> Compiled:
        compiled = self._made(task, source, record, drafted)
        self._store.put_prompt(compiled.prompt, record.key)
        return compiled

    def _made(self, task: Task, source: Material, record: Build, drafted: Draft | None) -> Compiled:
        chosen = examples_for(source)
        notes = _notes(task, source, len(chosen))
        if drafted is None:
            system = system_prompt(source, chosen)
        else:
            system = with_examples(drafted.text, chosen)
            notes = (*notes, drafted.told)
        prompt = self._prompt(task, source, system, _provenance(source, record, len(chosen), notes))
        made = Compiled(prompt=prompt, source="built", notes=notes)
        if drafted is None:
            return made
        return msgspec.structs.replace(made, calls=drafted.calls, usage=drafted.usage, usd=drafted.cost)

    def _prompt(self, task: Task, source: Material, system: str, provenance: Provenance) -> Prompt:
        return make_prompt(
            task=task.name,
            system=system,
            contract=source.contract,
            model=source.model.name,
            parameters=with_output_limit(source),
            inputs=source.inputs,
            serve=task.serve,
            provenance=provenance,
        )

    def _meta_model(self, name: str, task: str, journal: Journal, limits: Limits) -> Model:
        """The meta-model of one compile: within its budget and its wallet, journaled, metered."""
        rates = self._directory.rates.find(name)
        paying = paid_from(opened(limits, journal), self._directory.model(name, "meta"), rates, journal)
        metered = Metered(paying, self._store, task=task, prompt="", stage="compile")
        replayed = Journaled(metered, journal, Request.key, lambda reply, source: None)
        return Budgeted(replayed, Budget(limits), rates)

    def _record(self, task: Task, source: Material, options: Options) -> Build:
        parts = source.parts()
        begun = source.start.id if source.start else ""
        meta, prompts = None, ""
        if source.meta is not None:
            prompts = meta_digest(source.level, started=bool(begun))
            meta = {"model": source.meta.name, "parameters": canonical.parameters(source.meta.parameters), "prompts": prompts}
            if begun:
                meta["start"] = begun
        return Build(
            key=canonical.build_key(parts, meta=meta),
            inputs={name: value[:16] for name, value in parts.items()},
            epoch=canonical.COMPILER_EPOCH,
            sources={self._project.relative(Path(path)): digest for path, digest in {**task.sources, **source.files}.items()},
            defaults=self._project.config.build_defaults(),
            options=options.given(source.level),
            meta_prompts=prompts[:16],
            start=begun,
        )

    def _find(self, name: str, key: str) -> Compiled | None:
        prompt = self._store.built(key)
        if prompt is not None:
            return Compiled(prompt=prompt, source="cache", notes=prompt.provenance.notes)
        prompt = self._locked(name, key)
        return None if prompt is None else Compiled(prompt=prompt, source="lock", notes=prompt.provenance.notes)

    def _locked(self, name: str, key: str) -> Prompt | None:
        try:
            entry = self._lock.entry(name)
        except LockError:
            # A damaged entry has nothing to offer here; whoever serves or promotes the task names the damage.
            return None
        return next((prompt for prompt in entry.prompts() if prompt.provenance.build.key == key), None) if entry else None


def started(source: Material, start: Prompt | None) -> Material:
    """``source`` with the prompt that the meta-model begins with; without a meta-model, or a prompt, it begins with what it had.

    Raises :class:`InputError` where a draft would throw away a prompt that was written by hand, and for an engine that edits prompts
    at a level that edits none.
    """
    if source.level == SCORED and source.engine != ENGINES[0]:
        raise InputError(
            f"the engine {source.engine} edits prompts, and -O{SCORED} ({source.level_why}) edits none",
            hint="compile with -O3, or take the engine out",
        )
    if start is None and source.level == 1 and source.written is not None:
        raise InputError(
            f"-O1 ({source.level_why}) writes a new prompt, and the task has one that was written by hand (prompt:)",
            hint="compile with -O0 to take it as it is, with -O2 or -O3 to begin with it, or take prompt: out of the task",
        )
    if start is None or source.meta is None:
        return source
    return msgspec.structs.replace(source, start=Start(start.id, start.model, instructions_of(start.system)))


def _provenance(source: Material, record: Build, shown: int, notes: tuple[str, ...]) -> Provenance:
    return Provenance(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        version=VERSION,
        level=source.level,
        level_why=source.level_why,
        build=record,
        seed=source.seed,
        meta=source.meta.name if source.meta else "",
        visible=" ".join(dict.fromkeys(canonical.case_id(example.inputs) for example in source.visible)),
        shown=shown,
        notes=notes,
    )
