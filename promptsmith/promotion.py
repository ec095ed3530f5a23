"""Promote and roll back: the only way an alias moves."""

from __future__ import annotations

import msgspec

from .config import Project
from .errors import GateError, InputError
from .prompt import Prompt
from .registry.lock import LockFile
from .registry.protocol import Find, Move


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """What a move came to. ``move`` is ``None`` when the alias stood there already."""

    task: str
    alias: str
    before: str | None
    after: str | None
    move: Move | None


def promote(lock: LockFile, project: Project, prompt: Prompt, *, alias: str, why: str, force: bool) -> Promotion:
    """Moves ``alias`` to ``prompt`` by compare-and-swap against what it names now.

    A protected alias (``production`` by default) needs a receipt; until a gate can write one, ``force`` with a
    reason, and the move is recorded as forced. Raises :class:`GateError`, :class:`LockConflict`, :class:`LockError`.
    """
    protected = alias in project.config.protected
    before = lock.resolve(prompt.task, alias)
    if before == prompt.id:
        return Promotion(task=prompt.task, alias=alias, before=before, after=prompt.id, move=None)
    if protected and not force:
        raise GateError(
            f"{prompt.task}@{alias} is protected, and prompt {prompt.id[:12]} has no receipt that shows it may go there",
            hint="move it without one by --force --why '…'; the lock records the move as forced",
        )
    if force and not why.strip():
        raise InputError("a forced move needs a reason", hint="--why 'what you know that the gate does not'")
    move = lock.move(prompt.task, alias, prompt, expected=before, why=why, forced=protected and force)
    return Promotion(task=prompt.task, alias=alias, before=before, after=prompt.id, move=move)


def rollback(lock: LockFile, task: str, *, alias: str, why: str, find: Find) -> Promotion:
    """Moves ``alias`` back to what it named before; from its first promotion, to nothing.

    Works without cache and network as long as the lock holds the earlier prompt; ``find`` looks further.
    """
    before = lock.resolve(task, alias)
    move = lock.rollback(task, alias, expected=before, why=why, find=find)
    return Promotion(task=task, alias=alias, before=before, after=move.to, move=move)
