"""From a ref to a prompt: the only place that decides which prompt a name means."""

from __future__ import annotations

import re
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from ..config import Project, check_task_name
from ..errors import InputError, LockError, NotCompiled, StoreError, UnknownName, did_you_mean
from ..prompt import Prompt
from ..store import Store
from .entry import Entry, check_alias
from .opening import open_registry
from .protocol import LAST_GOOD, SHIPPED, LockWarning, Registry

LATEST = "latest"
PRODUCTION = "production"
_PREFIX = re.compile(r"[0-9a-f]{4,64}")
_SHORT_PREFIX = re.compile(r"[0-9a-f]{1,3}")

Prefer = Literal["production", "latest"]


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt, which ref it answers to and why, and where its text came from."""

    prompt: Prompt
    chosen: str
    origin: str
    """``lock``, ``registry``, ``cache``, ``last good``, ``shipped lock``."""
    since: float | None = None
    """For a last good copy: Unix time at which it was last known to be current (``None``: not known)."""

    def age(self) -> float | None:
        """Seconds since the prompt was last known to be current: 0 unless it is a copy, ``None`` when nobody knows."""
        if self.origin not in {LAST_GOOD, SHIPPED}:
            return 0.0
        return None if self.since is None else max(0.0, time.time() - self.since)


class _Seen:
    """What is known of one state of the lock: refs resolved, and damage that was warned of."""

    __slots__ = ("refs", "stamp", "told")

    def __init__(self, stamp: object) -> None:
        self.stamp = stamp
        self.refs: dict[str, Resolved] = {}
        self.told: set[str] = set()


class Resolver:
    """Resolves refs against the registry and the cache. A ref seen before costs one ``stat`` of the lock, or none.

    Without a ``registry`` it is the one in the project's settings, opened for serving.
    """

    def __init__(self, project: Project, store: Store, registry: Registry | None = None) -> None:
        self.project = project
        self.store = store
        self.registry = registry or open_registry(project)
        self._seen = _Seen(None)
        self._good_at: dict[str, float] = {}

    def resolve(self, ref: str, prefer: Prefer = "production") -> Resolved:
        """The prompt that ``ref`` means: ``task@alias``, ``task@<id prefix>``, ``task@latest``, or a bare ``task``.

        A bare task is ``@production``; with ``prefer="latest"`` it is ``@latest`` where one exists here, else
        ``@production``. Raises :class:`UnknownName`, :class:`NotCompiled`, :class:`LockError`.
        """
        seen = self._current()
        known = seen.refs.get(ref)
        if known is not None and prefer == PRODUCTION:
            return known
        task, at, selector = ref.partition("@")
        check_task_name(task)
        if at and not selector:
            raise InputError(f"{ref!r} names no alias after '@'", hint=f"write {task}@production, {task}@latest or {task}@<id prefix>")
        if not at and prefer == LATEST and self.store.latest(task) is not None:
            return self._latest(task, f"{task}@latest (the last compiled here)")
        if not at:
            resolved = self._alias(task, PRODUCTION, f"{task}@production (a bare task name means production)")
        elif selector == LATEST:
            return self._latest(task, f"{task}@latest")
        elif _SHORT_PREFIX.fullmatch(selector):
            raise InputError(f"{ref!r} gives too little of a prompt's id", hint="give at least its first 4 digits")
        elif _PREFIX.fullmatch(selector):
            resolved = self._prefix(task, selector)
            if len(selector) < 64:  # another prompt may come to begin with it
                return resolved
        else:
            resolved = self._alias(task, check_alias(selector), f"{task}@{selector}")
        seen.refs[ref] = resolved
        return resolved

    def _current(self) -> _Seen:
        stamp = self.registry.stamp()
        seen = self._seen
        if stamp != seen.stamp:
            # A new one, not an emptied one: a thread still at work on the old file must not write into it.
            seen = self._seen = _Seen(stamp)
        return seen

    def entry(self, task: str) -> tuple[Entry | None, str]:
        """The task's part of the registry and where it came from; the last good copy, with a warning, when it is damaged."""
        entry, damaged = self.registry.serve(task, self.store.last_lock, self.store.remember_lock)
        if damaged:
            seen = self._current()
            if damaged not in seen.told:
                seen.told.add(damaged)
                warnings.warn(f"{damaged}; the last good copy is served", LockWarning, stacklevel=4)
            return entry, LAST_GOOD
        self._good_at[task] = time.time()
        return entry, self.registry.standing().origin

    def _since(self, task: str, origin: str) -> float | None:
        """What the registry says of its copy, else what this process has seen itself, else what the cache folder says."""
        if origin != LAST_GOOD:
            return None
        return self.registry.standing().since or self._good_at.get(task) or self.store.last_lock_at(task)

    def tasks(self) -> list[str]:
        """Every task that has a file or was ever promoted, sorted."""
        return sorted({*self.project.task_names(), *self.registry.tasks()})

    def find(self, prompt_id: str) -> Prompt | None:
        """A prompt by its whole id from the cache, else from a server registry; ``None`` also when they can't be read."""
        for look in (self.store.prompt, self.registry.prompt):
            with suppress(StoreError, LockError):
                found = look(prompt_id)
                if found is not None:
                    return found
        return None

    def _alias(self, task: str, alias: str, chosen: str) -> Resolved:
        entry, origin = self.entry(task)
        prompt_id = entry.aliases.get(alias) if entry else None
        if entry is None or prompt_id is None:
            raise self._nothing(task, alias, entry)
        prompt = entry.prompt(prompt_id)
        if prompt is None:
            raise LockError(f"the lock names prompt {prompt_id[:12]} as {task}@{alias} and does not hold it")
        return Resolved(prompt=prompt, chosen=chosen, origin=origin, since=self._since(task, origin))

    def _latest(self, task: str, chosen: str) -> Resolved:
        prompt_id = self.store.latest(task)
        prompt = self._kept(prompt_id, task) if prompt_id else None
        if prompt is None:
            self.known_task(task)
            raise NotCompiled(f"task {task} has not been compiled here", hint=f"promptsmith compile {task}")
        return Resolved(prompt=prompt, chosen=chosen, origin="cache")

    def _prefix(self, task: str, prefix: str) -> Resolved:
        entry, origin = self.entry(task)
        locked = [prompt_id for prompt_id in (entry.ids if entry else ()) if prompt_id.startswith(prefix)]
        cached = self.store.prompt_ids(prefix, task)
        found = sorted({*locked, *cached})
        if not found:
            self.known_task(task)
            raise UnknownName(f"task {task} has no prompt whose id begins with {prefix}", hint=f"promptsmith history {task} lists them")
        if len(found) > 1:
            listed = ", ".join(prompt_id[:16] for prompt_id in found[:5])
            raise UnknownName(f"{task}@{prefix} is ambiguous: {len(found)} prompts begin with it ({listed})", hint="give more digits")
        prompt_id = found[0]
        prompt = entry.prompt(prompt_id) if entry and prompt_id in locked else None
        if prompt is not None:
            return Resolved(prompt=prompt, chosen=f"{task}@{prompt_id[:12]}", origin=origin, since=self._since(task, origin))
        prompt = self._kept(prompt_id, task)
        if prompt is None:
            raise UnknownName(f"prompt {prompt_id[:12]} has left the cache")
        return Resolved(prompt=prompt, chosen=f"{task}@{prompt_id[:12]}", origin="cache")

    def _kept(self, prompt_id: str, task: str) -> Prompt | None:
        """A prompt of ``task`` from the cache. Two tasks may have the same one, which the cache holds once, under either name."""
        prompt = self.store.prompt(prompt_id)
        return prompt if prompt is None or prompt.task == task else msgspec.structs.replace(prompt, task=task)

    def task_file(self, task: str) -> Path:
        """The file of a task. Raises :class:`UnknownName` when there is none."""
        path = self.project.task_file(task)
        if not path.exists() and not path.is_symlink():  # a folder or a dead link in its place is for the reader to name
            self.known_task(task)
            raise UnknownName(
                f"task {task} has no file {self.project.relative(path)}", hint="its promoted prompts are served from the lock"
            )
        return path

    def known_task(self, task: str) -> None:
        """Nothing. Raises :class:`UnknownName`, with the nearest name, for a task that has neither file nor prompt."""
        known = self.tasks()
        if task not in known and self.store.latest(task) is None:
            here = f"tasks here: {', '.join(known[:10])}" if known else "no task is defined here: promptsmith init"
            raise UnknownName(f"unknown task {task!r}", hint=did_you_mean(task, known) or here)

    def _nothing(self, task: str, alias: str, entry: Entry | None) -> NotCompiled | UnknownName:
        self.known_task(task)
        if alias != PRODUCTION:
            aliases = tuple(entry.aliases) if entry is not None else ()
            near = did_you_mean(alias, (*aliases, PRODUCTION, LATEST))
            if near or entry is not None:
                return UnknownName(f"task {task} has no alias {alias!r}", hint=near or f"its aliases: {', '.join(aliases) or 'none'}")
        compiled = self.store.latest(task) is not None
        todo = f"{'' if compiled else f'promptsmith compile {task}, then '}promptsmith promote {task} --to {alias}"
        also = f"; or use {task}@latest" if compiled else ""
        return NotCompiled(f"task {task} has no prompt at @{alias}", hint=todo + also)
