"""Which prompts in the lock are to be made anew: their model goes away, or what they were made from has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Literal

import msgspec

from ..catalog.models import facts
from ..config import Project
from ..errors import LockError, PromptsmithError
from ..prompt import Prompt
from ..registry.protocol import Registry
from .stale import Check, check_task

Why = Literal["retired", "retiring", "stale", "outdated", "no file", "damaged"]
"""``retired``: its model is shut down; ``retiring``: the day is announced; the others as in :mod:`.stale`."""
_AGES = frozenset({"stale", "outdated", "no file", "damaged"})


class Outdated(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why the prompt under one alias is not what it should be."""

    task: str
    alias: str
    prompt: str
    """Prompt id; empty when the lock's entry is damaged."""
    state: Why
    why: str
    model: str = ""
    serves: str = ""
    """What ``model`` does for the prompt: ``production``, ``fallback`` or ``escalate``."""
    day: str = ""
    """ISO date: of the model's shutdown, else of the compile."""
    successor: str | None = None
    """The model that its provider recommends instead, by the name of the same endpoint."""


def outdated(project: Project, registry: Registry, today: date) -> tuple[list[Outdated], list[PromptsmithError]]:
    """All reasons by task and alias, the model's first; and the errors of tasks whose files can't be read."""
    found: list[Outdated] = []
    errors: list[PromptsmithError] = []
    for name in sorted(registry.tasks()):
        try:
            entry = registry.entry(name)
        except LockError as error:
            found.append(Outdated(task=name, alias="", prompt="", state="damaged", why=error.message))
            continue
        for alias, prompt_id in sorted(entry.aliases.items()) if entry else ():
            prompt = entry.prompt(prompt_id) if entry else None
            if prompt is not None:
                found += _of_models(prompt, name, alias, project, today)
                try:
                    found += _of_sources(prompt, alias, check_task(name, project, registry, alias))
                except PromptsmithError as error:
                    errors.append(error)
    return found, _distinct(errors)


def _of_models(prompt: Prompt, task: str, alias: str, project: Project, today: date) -> Iterator[Outdated]:
    serve = prompt.serve
    used = [("production", prompt.model), *(("fallback", model) for model in serve.fallback), ("escalate", serve.escalate)]
    for serves, model in used:
        known = facts(project.config.catalog_name(model))
        if known.retires is None:
            continue
        days = (date.fromisoformat(known.retires) - today).days
        gone = days <= 0
        when = f"was shut down on {known.retires}" if gone else f"is shut down on {known.retires}, in {days} day{'s' * (days != 1)}"
        yield Outdated(
            task=task,
            alias=alias,
            prompt=prompt.id,
            state="retired" if gone else "retiring",
            why=f"{model} {when} (table of {known.as_of})",
            model=model,
            serves=serves,
            day=known.retires,
            successor=known.successor and f"{model.partition('/')[0]}/{known.successor.partition('/')[2]}",
        )


def _of_sources(prompt: Prompt, alias: str, check: Check) -> Iterator[Outdated]:
    if check.state in _AGES:
        made = prompt.provenance.created[:10]
        yield Outdated(task=check.task, alias=alias, prompt=prompt.id, state=check.state, why=check.why, day=made)  # type: ignore[arg-type]


def _distinct(errors: Sequence[PromptsmithError]) -> list[PromptsmithError]:
    """Each file's errors once, however many aliases its task has."""
    return list({str(error): error for error in errors}.values())
