"""Canaries from the command line: begin one, end one, say how they go."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ..canary import Course, Watch, course
from ..errors import PromptsmithError, UnknownName
from ..prompt import Prompt
from ..receipt import Receipt
from ..registry.canaries import Canary, CanaryStore, Counts, Verdict
from ..registry.canary_stores import open_canaries
from ..store.trouble import reason
from .frame import Workspace, short, story, write_json


def begin(workspace: Workspace, canary: Canary, prompt: Prompt, receipt: Receipt | None, verdict: str | None, *, as_json: bool) -> None:
    """Starts ``canary``, which the gate has let through, and says so."""
    canary = open_canaries(workspace.project, workspace.registry, patient=True).start(canary, prompt, receipt)
    if as_json:
        place = {"task": canary.task, "alias": canary.alias, "from": canary.incumbent, "to": canary.incumbent}
        told = {"verdict": verdict, "moved": False, "forced": canary.forced, "receipt": receipt.digest if receipt else None}
        write_json({**place, **told, "canary": msgspec.to_builtins(canary)})
        return
    share = f"{100 * canary.share:g} %"
    does = f"is asked beside for {share} of the calls" if canary.mode == "shadow" else f"answers {share} of the callers"
    how = f"receipt {canary.receipt[:12]}" if canary.receipt else "no receipt"
    click.echo(
        f"{canary.task}@{canary.alias} stays {short(canary.incumbent)}; {short(canary.candidate)} {does}{', forced' * canary.forced}, {how}"
    )
    story(f"{canary.mode} {canary.id}: promptsmith serve counts its calls, promptsmith status says how it goes")


def stop(workspace: Workspace, task: str, alias: str, why: str, *, as_json: bool) -> None:
    """Ends the canary beside an alias. Raises :class:`UnknownName` when there is none."""
    store = open_canaries(workspace.project, workspace.registry, patient=True)
    store.all()  # says what is wrong with a damaged file
    canary = store.active(task, alias)
    if canary is None:
        workspace.resolver.known_task(task)
        raise UnknownName(f"no canary runs beside {task}@{alias}", hint="promptsmith status lists them")
    counts = course(store, canary).counts
    ended = store.settle(canary.id, Verdict("stopped", f"ended by hand{f': {why}' if why else ''}"), counts)
    if as_json:
        write_json(_data(course(store, ended)))
        return
    click.echo("\n".join(course(store, ended).words()))


def moved(workspace: Workspace, task: str, alias: str) -> None:
    """Ends the canary beside an alias that has just been moved: before the next request it may have come back."""
    Watch(open_canaries(workspace.project, workspace.registry, patient=True), workspace.registry).canary(task, alias)


def courses(workspace: Workspace) -> list[Course]:
    """How every canary goes or went, oldest first; what is to be decided by now is decided. Raises :class:`StoreError`."""
    store = open_canaries(workspace.project, workspace.registry, patient=True)
    watch = Watch(store, workspace.registry)
    return [_course(store, watch.look(canary) if canary.ended is None else canary) for canary in store.all()]


def _course(store: CanaryStore, canary: Canary) -> Course:
    try:
        return course(store, canary)
    except (OSError, PromptsmithError) as error:
        story(f"error: the outcomes of canary {canary.id} can't be read: {reason(error) if isinstance(error, OSError) else error.message}")
        return Course(canary=canary, counts=canary.counts or Counts())


def data(found: list[Course]) -> list[dict[str, Any]]:
    """For ``--json``."""
    return [_data(one) for one in found]


def words(found: list[Course]) -> list[str]:
    """What people are told: those that have a share, and of each alias the one that ended last."""
    last = {(one.canary.task, one.canary.alias): one.canary.id for one in found}
    shown = [one for one in found if one.canary.ended is None or last[one.canary.task, one.canary.alias] == one.canary.id]
    return [line for one in shown for line in _indented(one.words())]


def _indented(lines: tuple[str, ...]) -> list[str]:
    return [lines[0], *(f"  {line}" for line in lines[1:])]


def _data(one: Course) -> dict[str, Any]:
    canary: dict[str, Any] = msgspec.to_builtins(one.canary)
    canary.pop("counts")
    found: dict[str, Any] = msgspec.to_builtins(one)
    return {**found, "canary": canary, "command": one.canary.command if one.canary.state == "complete" else None}
