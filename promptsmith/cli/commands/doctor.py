"""``promptsmith doctor``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from ...errors import AuthenticationFailed, LockError, PromptsmithError
from ...registry.protocol import Registry
from ..frame import Workspace, json_option, open_workspace, project_option, write_json

if TYPE_CHECKING:
    from ...config import Endpoint


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``bad`` findings make the exit code 2."""

    what: str
    said: str
    bad: bool = False


@click.command("doctor")
@click.option("--online", is_flag=True, help="Ask each endpoint for its list of models: is it there, is the key right? Costs nothing.")
@json_option
@project_option
def command(online: bool, as_json: bool, project_dir: str | None) -> None:
    """Check the project's settings and tasks, keys and models, the cache's safety and the lock. Exit 2 when something is wrong."""
    workspace = open_workspace(project_dir)
    findings = [*_project(workspace), *_tasks(workspace), *_endpoints(workspace, online), *_cache(workspace), *_lock(workspace)]
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


def _endpoints(workspace: Workspace, online: bool) -> Iterator[Finding]:
    """Keys (whether they are set, never what they are), addresses, and models that are retired, unknown or not there."""
    from ...config import ENDPOINTS
    from ...models.keys import find_key

    project = workspace.project
    used = _used_models(workspace)
    for name, endpoint in sorted({**ENDPOINTS, **project.config.endpoints}.items()):
        mine = sorted(model for model in used if model.startswith(f"{name}/"))
        if not mine and name not in project.config.endpoints:
            continue
        try:
            key = find_key(endpoint.api_key_env, project.root) if endpoint.api_key_env else ""
        except PromptsmithError as error:
            yield Finding(f"endpoint {name}", str(error), True)
            continue
        said = f"{endpoint.api_key_env} is {'set' if key else 'not set'}" if endpoint.api_key_env else "needs no key"
        missing = bool(endpoint.api_key_env) and not key
        yield Finding(f"endpoint {name}", f"{endpoint.protocol} at {endpoint.url()}, {said}", bad=missing and bool(mine))
        yield from _by_table(workspace, mine)
        if online and not missing:
            yield from _asked(name, endpoint, key, mine)


def _by_table(workspace: Workspace, models: Sequence[str]) -> Iterator[Finding]:
    """What the dated table says of models; one that it does not know may be newer than it is."""
    from ...catalog.models import CURRENT, facts, near, retired

    for model in models:
        known = facts(workspace.project.config.catalog_name(model))
        if retired(known.model, dt.date.today()):
            yield Finding(f"model {model}", f"was shut down on {known.retires} (table of {known.as_of})", True)
        elif known.model not in CURRENT and known.model.startswith(("openai/", "anthropic/")) and "/ft:" not in known.model:
            others = ", ".join(near(known.model))
            yield Finding(f"model {model}", f"is not in the table of {known.as_of}{f', which has {others}' if others else ''}")


def _asked(name: str, endpoint: Endpoint, key: str, models: Sequence[str]) -> Iterator[Finding]:
    """What the endpoint itself says: whether it is there, takes the key, and has the models."""
    from difflib import get_close_matches

    from ...models.listing import listed_models
    from ...runtime.loop import LOOP

    try:
        there = LOOP.wait(listed_models(name, endpoint, key))
    except AuthenticationFailed as error:
        # Not in the provider's words, which repeat the ends of the key.
        yield Finding(f"endpoint {name}", f"does not accept the key in {endpoint.api_key_env} ({error.status})", True)
        return
    except PromptsmithError as error:
        yield Finding(f"endpoint {name}", str(error), True)
        return
    if there is None:
        yield Finding(f"endpoint {name}", "answers, and has no list of its models")
        return
    yield Finding(f"endpoint {name}", f"answers, {'takes the key, ' if key else ''}has {len(there)} models")
    for model in models:
        own = model.partition("/")[2]
        if own not in there:
            others = ", ".join(f"{name}/{other}" for other in get_close_matches(own, there, n=3))
            yield Finding(f"model {model}", f"is not in the endpoint's list{f', which has {others}' if others else ''}", True)


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
    server = bool(workspace.project.config.registry)
    part, name = ("registry", "the server registry") if server else ("lock", workspace.project.config.lock)
    try:
        tasks = workspace.registry.tasks()
        if server:
            yield from _server(workspace.registry)
    except PromptsmithError as error:
        yield Finding(part, str(error), True)
        return
    good = 0
    for task in tasks:
        try:
            entry = workspace.registry.entry(task)
            assert entry is not None
            entry.check()
            good += 1
        except LockError as error:
            yield Finding(part, str(error), True)
            continue
        for move in entry.outside_moves():
            yield Finding(part, f"{task}@{move.alias} was moved outside promptsmith (a git revert does that)")
    yield Finding(part, f"{name}: {good} tasks, every digest checked" if tasks else f"{name}: nothing is promoted yet")


def _server(registry: Registry) -> Iterator[Finding]:
    standing = registry.standing()
    if standing.origin != "registry":
        yield Finding("registry", f"out of reach: what is looked at is the {standing.origin}", True)
