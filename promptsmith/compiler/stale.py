"""Whether what is in production was built from what the files say today. Needs no model, no cache, no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from .. import canonical
from ..config import Project
from ..errors import LockError, PromptsmithError
from ..prompt import Build
from ..registry.protocol import Registry
from ..registry.resolve import PRODUCTION
from ..task import load_task, source_digest_of
from .material import Options, material
from .meta_digest import meta_digest

State = Literal["fresh", "stale", "outdated", "not promoted", "no file", "damaged"]
FAILING: frozenset[State] = frozenset({"stale", "damaged"})


class Check(msgspec.Struct, frozen=True):
    """One task's state: ``stale`` when what the user wrote differs, ``outdated`` when only the compiler does."""

    task: str
    state: State
    why: str = ""


def check_task(name: str, project: Project, registry: Registry, alias: str = PRODUCTION) -> Check:
    """Compares the task's files of today with what the prompt under ``alias`` was built from.

    Files with equal bytes are not parsed. Raises :class:`SourceError` for a task file that is wrong.
    """
    try:
        entry = registry.entry(name)
    except LockError as error:
        return Check(name, "damaged", error.message)
    prompt_id = entry.aliases.get(alias) if entry else None
    prompt = entry.prompt(prompt_id) if entry and prompt_id else None
    if prompt is None:
        return Check(name, "not promoted", f"no prompt of it is in {alias}")
    path = project.task_file(name)
    if not path.is_file():
        return Check(name, "no file", f"{project.relative(path)} does not exist; production serves from the lock")
    build = prompt.provenance.build
    changed = [] if _same_files(project, build) else _changed_parts(name, path, project, build)
    if changed:
        return Check(name, "stale", f"changed since it was compiled: {', '.join(changed)}")
    if build.meta_prompts and build.meta_prompts != meta_digest(prompt.provenance.level, started=bool(build.start))[:16]:
        return Check(name, "outdated", "built with other meta-prompts than today's")
    if build.epoch != canonical.COMPILER_EPOCH:
        return Check(name, "outdated", f"built by compiler epoch {build.epoch}, now {canonical.COMPILER_EPOCH}")
    return Check(name, "fresh")


def _same_files(project: Project, build: Build) -> bool:
    if not build.sources or build.defaults != project.config.build_defaults():
        return False
    try:
        return all(source_digest_of(project.root / name) == digest for name, digest in build.sources.items())
    except OSError:
        return False


def _changed_parts(name: str, path: Path, project: Project, build: Build) -> list[str]:
    task = load_task(path, name=name)
    parts: Mapping[str, str] = material(task, project.config, Options.from_given(build.options)).parts()
    return [part for part, digest in parts.items() if build.inputs.get(part) != digest[:16]]


def check_tasks(names: list[str], project: Project, registry: Registry) -> tuple[list[Check], list[PromptsmithError]]:
    """Every task's state, and the errors of those whose files can't be read."""
    checks: list[Check] = []
    errors: list[PromptsmithError] = []
    for name in names:
        try:
            checks.append(check_task(name, project, registry))
        except PromptsmithError as error:
            errors.append(error)
    return checks, errors
