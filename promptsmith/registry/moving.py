"""What a move comes to, whatever it is written into: the row for the history, and the task's part as it is afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import InputError, LockConflict, LockError, UnknownName
from ..prompt import Prompt
from ..receipt import Receipt
from .entry import KEPT, Entry, block, check_alias, check_why
from .protocol import ANY, Expected, Find, Move, Whole


class Change(NamedTuple):
    """What a move wants: where to, the prompt (``None`` removes the alias), and how it is recorded."""

    to: Prompt | None
    receipt: Receipt | None = None
    forced: bool = False
    rollback: bool = False


class Note(NamedTuple):
    """What is recorded beside a move; ``None`` is found out when it is made."""

    who: str | None
    why: str
    when: datetime | None

    def checked(self, alias: str, folder: Path | None) -> Note:
        """Itself, with somebody who moves. Raises :class:`InputError` for an alias or a reason that can't be one."""
        check_alias(alias)
        check_why(self.why)
        return self if self.who is not None else self._replace(who=whoami(folder))


class Place(NamedTuple):
    """What people call the registry, and what to do for a prompt (``{id}``) that it no longer holds."""

    name: str
    lost: str


class Moved(NamedTuple):
    """A move that is to be written: its row, the task's block after it, and the change that it came from."""

    row: Move
    text: str
    change: Change


Decide = Callable[[Entry | None], Change]


def promotion(task: str, to: Prompt | None, receipt: Receipt | None, *, forced: bool) -> Change:
    """The change to ``to``. Raises :class:`TamperedError`, and :class:`InputError` for the receipt of another prompt."""
    if to is not None:
        to = msgspec.structs.replace(to.verified(), task=task)
    if receipt is not None and (to is None or receipt.verified().prompt != to.id):
        raise InputError(f"the receipt is for prompt {receipt.prompt[:12]}, not for {to.id[:12] if to else 'a removal'}")
    return Change(to, receipt, forced)


def back(entry: Entry | None, task: str, alias: str, place: Place, find: Find | None, whole: Whole | None) -> Change:
    """The change to what the alias named before. Raises :class:`UnknownName` when there is nothing to go back from or to."""
    current = entry.aliases.get(alias) if entry is not None else None
    if entry is None or current is None:
        raise UnknownName(f"{task}@{alias} names no prompt in {place.name}, so there is nothing to roll back")
    before = named_before(entry, alias, current)
    if before is None:
        return Change(None, rollback=True)
    receipt = entry.receipts.get(before)
    found = whole(receipt) if whole is not None and receipt is not None and not receipt.rows else None
    same = found is not None and receipt is not None and found.verified().digest == receipt.digest
    return Change(_kept(entry, before, place, find), found if same else None, rollback=True)


def moved(task: str, alias: str, entry: Entry | None, decide: Decide, *, expected: Expected, note: Note) -> Moved | None:
    """What is to be written, ``None`` when everything stays as it is.

    Raises :class:`LockConflict` when the alias does not name ``expected``, :class:`LockError` for a damaged entry, and
    what ``decide`` raises.
    """
    found = entry.check().aliases.get(alias) if entry is not None else None
    if expected is not ANY and expected != found:
        raise LockConflict(
            f"{task}@{alias} names {_short(found)}, not {_short(expected)} as expected: somebody moved it first",
            hint="look at `promptsmith history` and try again",
        )
    change = decide(entry)
    if _nothing(entry, found, change):
        return None
    row = _row(entry, alias, found, change, note)
    text = _block(task, entry, row, change)
    _read_back(task, text, change)
    return Moved(row, text, change)


def whoami(folder: Path | None = None) -> str:
    """Who moves an alias: git's ``user.name``, else the user of the operating system."""
    import subprocess

    try:
        done = subprocess.run(
            ["git", "config", "user.name"],  # the one on the PATH is meant
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5,
            check=False,
        )
        name = done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        name = ""  # no git, or no such folder
    return name or _os_user()


def _os_user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return f"user {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def _kept(entry: Entry, prompt_id: str, place: Place, find: Find | None) -> Prompt:
    prompt = entry.prompt(prompt_id) or (find(prompt_id) if find is not None else None)
    if prompt is not None and prompt.verified().id == prompt_id:
        return msgspec.structs.replace(prompt, task=entry.task)
    date = next((move.when for move in reversed(entry.history) if move.to == prompt_id), "an unknown time")
    raise UnknownName(
        f"prompt {prompt_id} of {entry.task}, promoted {date}, is no longer kept in {place.name}, the cache or a registry",
        hint=place.lost.format(id=prompt_id),
    )


def _short(prompt_id: str | None) -> str:
    return f"prompt {prompt_id[:12]}" if prompt_id else "no prompt"


def _nothing(entry: Entry | None, found: str | None, change: Change) -> bool:
    """Whether a change would leave everything as it is; a renewed receipt is a change, and so is another way to serve."""
    if found != (change.to.id if change.to else None):
        return False
    kept = entry.prompt(found) if entry is not None and found is not None else None
    if kept is not None and change.to is not None and kept.serve != change.to.serve:
        return False  # no part of the prompt's id
    if change.receipt is None or entry is None:
        return True
    known = entry.receipts.get(change.receipt.prompt)
    return known is not None and known == change.receipt


def _row(entry: Entry | None, alias: str, found: str | None, change: Change, note: Note) -> Move:
    moment = (note.when or datetime.now(UTC)).astimezone(UTC)
    to = change.to.id if change.to else None
    receipt = change.receipt or (entry.receipts.get(to) if entry is not None and to and not change.forced else None)
    return Move(
        alias=alias,
        from_=found,
        to=to,
        when=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        who=note.who or "unknown",
        why=note.why,
        forced=change.forced,
        rollback=change.rollback,
        receipt=receipt.digest if receipt is not None else None,
    )


def _block(task: str, entry: Entry | None, row: Move, change: Change) -> str:
    aliases = dict(entry.aliases) if entry is not None else {}
    known = {prompt.id: prompt for prompt in entry.prompts()} if entry is not None else {}
    history = (*(entry.history if entry is not None else ()), row)
    receipts = dict(entry.receipts) if entry is not None else {}
    if change.to is None:
        aliases.pop(row.alias, None)
    else:
        aliases[row.alias] = change.to.id
        known[change.to.id] = change.to
    if change.receipt is not None:
        receipts[change.receipt.prompt] = change.receipt
    return block(task, aliases, [known[i] for i in keep_order(aliases, history) if i in known], history, receipts)


def _read_back(task: str, text: str, change: Change) -> None:
    """Before anything is touched: what can't be read again as it is meant is never written."""
    try:
        entry = Entry.from_text(task, text).check()
    except LockError as error:
        raise LockError(f"this move can't be written so that it could be read again: {error.message}", hint="nothing was changed") from None
    if change.to is not None and entry.prompt(change.to.id) != change.to:
        raise LockError(f"prompt {change.to.id[:12]} would not return from the lock as it is; nothing was changed")


def keep_order(aliases: Mapping[str, str], history: tuple[Move, ...]) -> list[str]:
    """Ids to keep in full: those under an alias, then per alias the four before it, the most recent first."""
    order = dict.fromkeys(aliases[name] for name in sorted(aliases))
    before: dict[str, dict[str, None]] = {}
    for move in reversed(history):
        seen = before.setdefault(move.alias, {})
        for prompt_id in (move.to, move.from_):
            if prompt_id and prompt_id != aliases.get(move.alias) and prompt_id not in seen and len(seen) < KEPT:
                seen[prompt_id] = None
                order.setdefault(prompt_id)
    return list(order)


def named_before(entry: Entry, alias: str, current: str) -> str | None:
    """What an alias named before ``current``: the moves as a stack, off which a rollback takes the top."""
    stack: list[str] = []
    for move in entry.history:
        if move.alias != alias:
            continue
        if move.rollback and len(stack) > 1 and stack[-2] == move.to:
            stack.pop()
        elif move.to is None:
            stack.clear()
        elif not stack or stack[-1] != move.to:
            stack.append(move.to)
    if current in stack:  # also after a move from outside, back to something recorded
        del stack[len(stack) - stack[::-1].index(current) - 1 :]
    return stack[-1] if stack else None
