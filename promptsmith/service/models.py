"""``GET /v1/models``: the prompts that can be called, in a form that both official clients read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ..contract import format_lines
from ..errors import PromptsmithError
from ..prompt import Prompt
from ..registry.resolve import PRODUCTION, Resolver


def listing(resolver: Resolver, allows: Callable[[str], bool]) -> dict[str, Any]:
    """All prompts under an alias whose task is allowed. A damaged task is left out: its own call says why."""
    rows = [row for task in resolver.tasks() if allows(task) for row in _rows(resolver, task)]
    return {
        "object": "list",
        "data": rows,
        "has_more": False,
        "first_id": rows[0]["id"] if rows else None,
        "last_id": rows[-1]["id"] if rows else None,
    }


def one_model(name: str, prompt: Prompt, alias: str) -> dict[str, Any]:
    """One prompt as a model, by the name that it is called by."""
    return _row(name, prompt, alias)


def _rows(resolver: Resolver, task: str) -> list[dict[str, Any]]:
    try:
        entry, _ = resolver.entry(task)
    except PromptsmithError:
        return []
    found = []
    for alias, prompt_id in sorted((entry.aliases if entry else {}).items(), key=lambda row: (row[0] != PRODUCTION, row[0])):
        assert entry is not None
        prompt = entry.prompt(prompt_id)
        if prompt is not None:
            found.append(_row(task if alias == PRODUCTION else f"{task}@{alias}", prompt, alias))
    return found


def _row(name: str, prompt: Prompt, alias: str) -> dict[str, Any]:
    created = prompt.provenance.created
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "created": int(datetime.fromisoformat(created).astimezone(UTC).timestamp()),
        "created_at": created,
        "owned_by": "promptsmith",
        "display_name": name,
        "lifecycle": "active",
        "alias": alias,
        "prompt": prompt.id,
        "target_model": prompt.model,
        "contract": format_lines(prompt.contract),
        "inputs": [one.name for one in prompt.inputs],
    }
