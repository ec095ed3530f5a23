"""``promptsmith doctor``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import click
import msgspec

from ...errors import LockError, PromptsmithError
from ..frame import Workspace, json_option, open_workspace, project_option, write_json


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``bad`` findings make the exit code 2."""

    what: str
    said: str
    bad: bool = False


@click.command("doctor")
@json_option
@project_option
def command(as_json: bool, project_dir: str | None) -> None:
    """Check the project's settings and tasks, the cache's safety and the lock. Exit 2 when something is wrong."""
    workspace = open_workspace(project_dir)
    findings = [*_project(workspace), *_tasks(workspace), *_endpoints(workspace), *_cache(workspace), *_lock(workspace)]
    if as_json:
        write_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{'WRONG' if finding.bad else 'ok   '}  {finding.what}: {finding.said}")
    if any(finding.bad for finding in findings):
        raise SystemExit(2)


def _project(workspace: Workspace) -> Iterator[Finding]:
    project = workspace.project
    yield Finding("project", f"{project.root} ({project.file.name if project.file else 'no settings'})")
    if not project.evals.is_dir():
        yield Finding("tasks", f"the folder {project.config.evals}/ does not exist; promptsmith init makes one", True)


def _tasks(workspace: Workspace) -> Iterator[Finding]:
    from ...evals.vocabulary import load_suite_task
    from ...models.directory import Directory

    directory = Directory(workspace.project)
    for name in workspace.project.task_names():
        try:
            task = load_suite_task(workspace.project.task_file(name), name)
            for model in (task.production, task.meta):
                if model is not None:
                    directory.check(model.name)
            yield Finding(f"task {name}", f"{len(task.examples)} visible, {len(task.holdout)} holdout rows")
        except PromptsmithError as error:
            yield Finding(f"task {name}", str(error), True)


def _endpoints(workspace: Workspace) -> Iterator[Finding]:
    """Keys (whether they are set, never what they are), addresses, and models that are retired."""
    from ...catalog.models import facts, retired
    from ...config import ENDPOINTS
    from ...models.keys import find_key

    project = workspace.project
    used = _used_models(workspace)
    for name, endpoint in sorted({**ENDPOINTS, **project.config.endpoints}.items()):
        needed = any(model.startswith(f"{name}/") for model in used)
        if not needed and name not in project.config.endpoints:
            continue
        try:
            found = bool(find_key(endpoint.api_key_env, project.root)) if endpoint.api_key_env else None
        except PromptsmithError as error:
            yield Finding(f"endpoint {name}", str(error), True)
            continue
        key = "needs no key" if found is None else f"{endpoint.api_key_env} is {'set' if found else 'not set'}"
        yield Finding(f"endpoint {name}", f"{endpoint.protocol} at {endpoint.url()}, {key}", bad=found is False and needed)
    for model in sorted(used):
        if retired(model, dt.date.today()):
            yield Finding(f"model {model}", f"was shut down on {facts(model).retires} (table of {facts(model).as_of})", True)


def _used_models(workspace: Workspace) -> set[str]:
    from ...task import load_task

    models = workspace.project.config.models
    used = {models.production, models.meta} - {""}
    for name in workspace.project.task_names():
        try:
            task = load_task(workspace.project.task_file(name), name=name)
        except PromptsmithError:
            continue  # told by the task's own finding
        used |= {model.name for model in (task.production, task.meta) if model is not None}
    return used


def _cache(workspace: Workspace) -> Iterator[Finding]:
    from ...store.maintain import verify

    folder = workspace.project.cache
    name = workspace.project.relative(folder)
    if not folder.exists():
        yield Finding("cache", f"{name}/ does not exist yet")
        return
    try:
        workspace.store.check_writable()
        findings = verify(str(folder))
    except PromptsmithError as error:
        yield Finding("cache", str(error), True)
        return
    for found in findings:
        yield Finding("cache", f"{found.part} {found.key}: {found.what}", True)
    if not findings:
        yield Finding("cache", f"{name}/ is writable, every row has its digest")


def _lock(workspace: Workspace) -> Iterator[Finding]:
    name = workspace.project.config.lock
    try:
        tasks = workspace.lock.tasks()
    except LockError as error:
        yield Finding("lock", str(error), True)
        return
    good = 0
    for task in tasks:
        try:
            entry = workspace.lock.entry(task)
            assert entry is not None
            entry.check()
            good += 1
        except LockError as error:
            yield Finding("lock", str(error), True)
            continue
        for move in entry.outside_moves():
            yield Finding("lock", f"{task}@{move.alias} was moved outside promptsmith (a git revert does that)")
    yield Finding("lock", f"{name}: {good} tasks, every digest checked" if tasks else f"{name}: nothing is promoted yet")
