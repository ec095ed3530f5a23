"""Between the lock and the server registry: push what the lock has to the server, pull what the server has into the lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from ...errors import InputError, LockConflict, LockError, UnknownName, did_you_mean
from ..entry import Entry, check_why
from ..lock import LockFile
from ..moving import whoami
from ..protocol import Move
from . import rows
from .registry import Postgres

if TYPE_CHECKING:
    from psycopg import Connection


class Transferred(msgspec.Struct, frozen=True, kw_only=True):
    """What a push or pull changed about one task, on the side that was written to; all zero and empty: nothing."""

    task: str
    aliases: Mapping[str, tuple[str | None, str | None]] = {}
    """By name: the prompt's id before and after."""
    moves: int = 0
    """How many rows the history has gained."""
    prompts: int = 0
    """How many prompts were not there, or are served another way now."""
    receipts: int = 0
    forced: bool = False

    @property
    def changed(self) -> bool:
        return bool(self.aliases or self.moves or self.prompts or self.receipts)


def push(
    lock: LockFile, registry: Postgres, tasks: Sequence[str] = (), *, force: bool = False, why: str = "", dry_run: bool = False
) -> list[Transferred]:
    """Brings the server to where the lock is: all tasks or none. What the server has already is left alone.

    The server must stand where the lock's history has been. With ``force`` its aliases are moved to where the lock's are,
    each by a row of its own with ``why``; its history is never cut, but for a damaged task, which is replaced whole.
    Raises :class:`LockConflict` naming every task that has moved on there, :class:`LockError` for a damaged lock,
    :class:`RegistryError`.
    """
    if force and not why.strip():
        raise InputError("a forced push needs a reason", hint="--why 'why the lock is right and the server is not'")
    check_why(why)
    entries = {name: _whole(lock, name) for name in _names(tasks, lock.tasks(), "the lock")}
    who = whoami(lock.path.parent) if force else ""
    with registry.session() as conn, conn.transaction(force_rollback=dry_run):
        pairs = [(entry, rows.hold(conn, name)) for name, entry in entries.items()]
        if not force:
            _check(_differences(pairs, "the lock"), "the server has moved on", "promptsmith pull brings the lock up to date")
        return [_push(conn, entry, found, who if force else None, why) for entry, found in pairs]


def pull(registry: Postgres, lock: LockFile, tasks: Sequence[str] = (), *, force: bool = False, dry_run: bool = False) -> list[Transferred]:
    """Brings the lock to where the server is. Tasks that only the lock has stay as they are.

    The lock must stand where the server's history has been; with ``force`` its part is replaced all the same (git has it).
    Raises :class:`LockConflict` naming every task that has moved on in the lock, :class:`LockError`, :class:`RegistryError`.
    """
    with registry.session() as conn:
        read = rows.read(conn, {}, candidates=False)  # nobody has promoted those
    names = _names(tasks, tuple(name for name, loaded in read.loaded.items() if loaded is not None), "the server")
    found: dict[str, Entry] = {}
    for name in names:
        loaded = read.loaded[name]
        if isinstance(loaded, LockError):
            raise loaded
        assert loaded is not None  # `_names` gives those that are there
        found[name] = loaded
    here = {name: _readable(lock, name, force=force) for name in names}
    if not force:
        pairs = [(entry, here[name]) for name, entry in found.items()]
        _check(
            _differences(pairs, "the server"),
            "the lock has moved on",
            "promptsmith push brings the server up to date",
        )
    pulled = [_compared(name, here[name], entry, forced=force) for name, entry in found.items()]
    for name, entry in found.items() if not dry_run else ():
        lock.adopt(name, entry.text)
    return pulled


def _names(asked: Sequence[str], known: Sequence[str], place: str) -> list[str]:
    for name in asked:
        if name not in known:
            raise UnknownName(f"{place} has no task {name!r}", hint=did_you_mean(name, known))
    return sorted(set(asked or known))  # in one order, so that two who hold several tasks never wait for each other


def _whole(lock: LockFile, task: str) -> Entry:
    entry = lock.entry(task)
    assert entry is not None  # it is one of the lock's tasks
    return entry.check()


def _readable(lock: LockFile, task: str, *, force: bool) -> Entry | None:
    try:
        entry = lock.entry(task)
        return entry.check() if entry is not None else None
    except LockError:
        if force:
            return None
        raise


def _check(differences: list[str], what: str, hint: str) -> None:
    if differences:
        raise LockConflict(f"{what}:\n  " + "\n  ".join(differences), hint=f"{hint}; or --force")


def _differences(pairs: Sequence[tuple[Entry, rows.Loaded | None]], name: str) -> list[str]:
    """A line for each task whose target stands where its source, called ``name``, has never been."""
    return [line for source, target in pairs if target is not None for line in _difference(source, target, name)]


def _difference(source: Entry, target: rows.Loaded, name: str) -> Iterator[str]:
    if isinstance(target, LockError):
        yield target.message
        return
    shared = source.history[: len(target.history)]
    if shared != target.history:
        at = next((n for n, (one, other) in enumerate(zip(shared, target.history, strict=False)) if one != other), len(shared))
        more = target.history[at:]
        yield f"{source.task}: {len(more)} move{'s' * (len(more) != 1)} that {name} does not have, the last {_told(more[-1])}"
        return
    for outside in target.outside_moves():
        if outside.found != source.aliases.get(outside.alias):
            yield f"{source.task}@{outside.alias} was moved outside promptsmith: it is {_short(outside.found)}"


def _told(move: Move) -> str:
    return f"@{move.alias} to {_short(move.to)} by {move.who} at {move.when}"


def _short(prompt_id: str | None) -> str:
    return prompt_id[:12] if prompt_id else "no prompt"


def _push(conn: Connection, source: Entry, target: rows.Loaded | None, who: str | None, why: str) -> Transferred:
    """Writes what the server lacks; ``who`` forces it."""
    task = source.task
    if isinstance(target, LockError):
        rows.clear(conn, task)
    old = target if isinstance(target, Entry) else None
    rows.put_prompts(conn, task, source.prompts())
    rows.put_receipts(conn, task, source.receipts.values())
    known = old.history if old is not None else ()
    grown = source.history[: len(known)] == known
    aliases = _moved(old.aliases if old is not None else {}, source.aliases)
    new = source.history[len(known) :] if grown else _forced(aliases, source, who or "unknown", why)
    rows.put_moves(conn, task, new)
    for alias, (_, to) in aliases.items():
        rows.put_alias(conn, task, alias, to)
    return msgspec.structs.replace(_compared(task, old, source, forced=not grown), moves=len(new))


def _moved(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    names = sorted({*before, *after})
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _forced(aliases: Mapping[str, tuple[str | None, str | None]], source: Entry, who: str, why: str) -> tuple[Move, ...]:
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    digests = {prompt: receipt.digest for prompt, receipt in source.receipts.items()}
    return tuple(
        Move(alias=alias, from_=before, to=to, when=when, who=who, why=why, forced=True, receipt=digests.get(to or ""))
        for alias, (before, to) in aliases.items()
    )


def _compared(task: str, old: Entry | None, new: Entry, *, forced: bool) -> Transferred:
    """What ``new`` has that ``old`` has not."""
    prompts = {prompt.id: prompt for prompt in old.prompts()} if old is not None else {}
    receipts = old.receipts if old is not None else {}
    history = old.history if old is not None else ()
    return Transferred(
        task=task,
        aliases=_moved(old.aliases if old is not None else {}, new.aliases),
        moves=max(0, len(new.history) - len(history)),
        prompts=sum(prompts.get(prompt.id) != prompt for prompt in new.prompts()),
        receipts=sum(receipts.get(prompt) != receipt for prompt, receipt in new.receipts.items()),
        forced=forced and (old is None or old.text != new.text),
    )
