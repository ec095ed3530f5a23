"""What stands in the tables, as entries, and moves as rows. All SQL about prompts is here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from ...errors import InputError, LockError, TamperedError
from ...prompt import Prompt
from ...receipt import Receipt
from ..entry import Entry, block
from ..moving import Decide, Moved, Note, keep_order, moved
from ..protocol import Expected, Move

if TYPE_CHECKING:
    from psycopg import Connection

T = TypeVar("T")
Loaded = Entry | LockError
"""A task's entry, or what is damaged about it."""


class Read(NamedTuple):
    """What one look at the tables has found."""

    versions: Mapping[str, int]
    loaded: Mapping[str, Loaded | None]
    """Of the tasks that have changed; ``None`` for one of which nothing is left."""
    keys: tuple[bytes, ...]
    """The keys of the service, oldest first, as whoever knows them wrote them."""
    canaries: tuple[bytes, ...]
    """Those that have not ended, the same way."""


def read(conn: Connection, known: Mapping[str, int], *, candidates: bool = True) -> Read:
    """Everything that is not as ``known`` (versions by task) has it, as of one moment; ``candidates``: with those of canaries."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        versions: dict[str, int] = dict(conn.execute("SELECT name, version FROM promptsmith_tasks").fetchall())
        changed = [name for name, version in versions.items() if known.get(name) != version]
        found = load(conn, changed, candidates=candidates) if changed else {}
        return Read(versions, {name: found.get(name) for name in changed}, keys(conn), _canaries(conn))


def load(conn: Connection, tasks: Sequence[str], *, candidates: bool = True) -> dict[str, Loaded]:
    """The entries of ``tasks``; those that have no row are left out."""
    names = list(tasks)
    aliases: dict[str, dict[str, str]] = defaultdict(dict)
    for task, alias, prompt in conn.execute("SELECT task, alias, prompt FROM promptsmith_aliases WHERE task = ANY(%s)", (names,)):
        aliases[task][alias] = prompt
    moves = _bodies(conn, "SELECT task, number::text AS row, body FROM promptsmith_moves WHERE task = ANY(%s) ORDER BY number", names)
    receipts = _bodies(conn, "SELECT task, prompt, body FROM promptsmith_receipts WHERE task = ANY(%s)", names)
    histories = {task: _parsed(partial(_history, task, moves[task]), task) for task in names}
    kept = {task: keep_order(aliases[task], history) for task, history in histories.items() if not isinstance(history, LockError)}
    for task, candidate in conn.execute("SELECT task, candidate FROM promptsmith_canaries WHERE task = ANY(%s) AND NOT ended", (names,)):
        if candidates and task in kept and candidate not in kept[task]:
            kept[task].append(candidate)
    prompts = _prompts(conn, [(task, prompt) for task, ids in kept.items() for prompt in ids])
    found: dict[str, Loaded] = {}
    for task, history in histories.items():
        if isinstance(history, LockError):
            found[task] = history
        elif kept[task] or history:
            known = _Known(aliases[task], history, kept[task], prompts[task], receipts[task])
            found[task] = _parsed(partial(_entry, task, known), task)
    return found


class _Known(NamedTuple):
    """What the tables have of one task; prompts and receipts as they stand there, by the prompt's id."""

    aliases: Mapping[str, str]
    history: tuple[Move, ...]
    kept: list[str]
    prompts: list[tuple[str, bytes]]
    receipts: list[tuple[str, bytes]]


def _history(task: str, moves: list[tuple[str, bytes]]) -> tuple[Move, ...]:
    return tuple(_value(body, Move, task, "move", number) for number, body in moves)


def _entry(task: str, known: _Known) -> Entry:
    prompts = {prompt: _prompt(body, task, prompt) for prompt, body in known.prompts}
    proofs = {prompt: _receipt(body, task, prompt) for prompt, body in known.receipts}
    text = block(task, known.aliases, [prompts[i] for i in known.kept if i in prompts], known.history, proofs)
    return Entry(task, text, file="the registry")


def _parsed(make: Callable[[], T], task: str) -> T | LockError:
    try:
        return make()
    except LockError as error:
        return error
    except (InputError, TamperedError) as error:
        return _damaged(task, error.message)


def _canaries(conn: Connection) -> tuple[bytes, ...]:
    return tuple(body for (body,) in conn.execute("SELECT body FROM promptsmith_canaries WHERE NOT ended ORDER BY number"))


def keys(conn: Connection) -> tuple[bytes, ...]:
    """All keys of the service."""
    return tuple(body for (body,) in conn.execute("SELECT body FROM promptsmith_keys ORDER BY number"))


def prompt_of(conn: Connection, prompt_id: str, task: str | None) -> Prompt | None:
    """A prompt by its id, of ``task`` or of any. Raises :class:`LockError` when it is damaged."""
    row = conn.execute(
        "SELECT task, body FROM promptsmith_prompts WHERE id = %s AND (task = %s OR %s::text IS NULL) ORDER BY task LIMIT 1",
        (prompt_id, task, task),
    ).fetchone()
    return None if row is None else _prompt(row[1], row[0], prompt_id)


def move(conn: Connection, task: str, alias: str, decide: Decide, *, expected: Expected, note: Note) -> Moved | None:
    """Makes one move in one transaction; of those that expect the same, one comes first and the others are refused."""
    with conn.transaction():
        entry = hold(conn, task)
        if isinstance(entry, LockError):
            raise entry
        made = moved(task, alias, entry, decide, expected=expected, note=note)
        if made is None:
            return None
        change = made.change
        if change.to is not None:
            put_prompts(conn, task, [change.to])
        if change.receipt is not None:
            put_receipts(conn, task, [change.receipt])
        put_alias(conn, task, alias, made.row.to)
        put_moves(conn, task, [made.row])
        return made


def hold(conn: Connection, task: str) -> Loaded | None:
    """A task's entry, which nobody else moves until the transaction ends. Waits ten seconds for one who holds it."""
    conn.execute("SET LOCAL lock_timeout = '10s'")
    conn.execute("INSERT INTO promptsmith_tasks (name) VALUES (%s) ON CONFLICT DO NOTHING", (task,))
    conn.execute("SELECT 1 FROM promptsmith_tasks WHERE name = %s FOR UPDATE", (task,))
    return load(conn, [task]).get(task)


def clear(conn: Connection, task: str) -> None:
    """Removes everything of a damaged task but the prompts that are whole."""
    for table in ("promptsmith_aliases", "promptsmith_moves", "promptsmith_receipts"):
        conn.execute(f"DELETE FROM {table} WHERE task = %s", (task,))
    for prompt_id, body in conn.execute("SELECT id, body FROM promptsmith_prompts WHERE task = %s", (task,)).fetchall():
        try:
            _prompt(body, task, prompt_id)
        except LockError:
            conn.execute("DELETE FROM promptsmith_prompts WHERE task = %s AND id = %s", (task, prompt_id))


def put_prompts(conn: Connection, task: str, prompts: Iterable[Prompt]) -> None:
    """Keeps prompts; one that is kept already may now be served another way, which is no part of its id."""
    rows = [(task, prompt.id, _encode(msgspec.structs.replace(prompt, task=task))) for prompt in prompts]
    _many(
        conn,
        "INSERT INTO promptsmith_prompts AS known (task, id, body) VALUES (%s, %s, %s) "
        "ON CONFLICT (task, id) DO UPDATE SET body = EXCLUDED.body WHERE known.body <> EXCLUDED.body",
        rows,
    )


def put_receipts(conn: Connection, task: str, receipts: Iterable[Receipt]) -> None:
    """Keeps receipts; one without its rows does not take the place of the same one with them."""
    _many(
        conn,
        "INSERT INTO promptsmith_receipts AS known (task, prompt, digest, body) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (task, prompt) DO UPDATE SET digest = EXCLUDED.digest, body = EXCLUDED.body "
        "WHERE known.digest <> EXCLUDED.digest OR length(known.body) < length(EXCLUDED.body)",
        [(task, receipt.prompt, receipt.digest, _encode(receipt)) for receipt in receipts],
    )


def put_alias(conn: Connection, task: str, alias: str, prompt_id: str | None) -> None:
    """Points an alias at a prompt that is kept, or removes it."""
    if prompt_id is None:
        conn.execute("DELETE FROM promptsmith_aliases WHERE task = %s AND alias = %s", (task, alias))
        return
    conn.execute(
        "INSERT INTO promptsmith_aliases AS known (task, alias, prompt) VALUES (%s, %s, %s) "
        "ON CONFLICT (task, alias) DO UPDATE SET prompt = EXCLUDED.prompt WHERE known.prompt <> EXCLUDED.prompt",
        (task, alias, prompt_id),
    )


def put_moves(conn: Connection, task: str, moves: Iterable[Move]) -> None:
    """Appends rows to a task's history."""
    rows = [(task, row.alias, row.from_, row.to, _encode(row)) for row in moves]
    _many(conn, "INSERT INTO promptsmith_moves (task, alias, from_prompt, to_prompt, body) VALUES (%s, %s, %s, %s, %s)", rows)


def _many(conn: Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    if rows:
        with conn.cursor() as cursor:
            cursor.executemany(statement, rows)


def _bodies(conn: Connection, statement: str, names: list[str]) -> Mapping[str, list[tuple[str, bytes]]]:
    found: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for task, name, body in conn.execute(statement, (names,)):
        found[task].append((name, body))
    return found


def _prompts(conn: Connection, wanted: list[tuple[str, str]]) -> Mapping[str, list[tuple[str, bytes]]]:
    found: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    rows = conn.execute(
        "SELECT p.task, p.id, p.body FROM promptsmith_prompts p JOIN unnest(%s::text[], %s::text[]) AS w (task, id) USING (task, id)",
        ([task for task, _ in wanted], [prompt for _, prompt in wanted]),
    )
    for task, prompt, body in rows:
        found[task].append((prompt, body))
    return found


def _prompt(body: bytes, task: str, prompt_id: str) -> Prompt:
    prompt = _value(body, Prompt, task, "prompt", prompt_id)
    if prompt.id != prompt_id or prompt.task != task:
        raise _damaged(task, f"prompt {prompt_id[:12]} is another one")
    try:
        return prompt.verified()
    except (InputError, TamperedError) as error:
        raise _damaged(task, f"prompt {prompt_id[:12]}: {error.message}") from None


def _receipt(body: bytes, task: str, prompt_id: str) -> Receipt:
    receipt = _value(body, Receipt, task, "receipt of prompt", prompt_id).verified()
    if receipt.prompt != prompt_id:
        raise _damaged(task, f"the receipt of prompt {prompt_id[:12]} is another one's")
    return receipt


def _value(body: bytes, kind: type[T], task: str, what: str, name: str) -> T:
    try:
        value: T = msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(task, f"{what} {name[:12]}: {error}") from None
    return value


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise InputError("a text has a lone surrogate, which no UTF-8 text can hold") from None


def _damaged(task: str, what: str) -> LockError:
    hint = f"`promptsmith push {task} --force --why '…'` puts the lock's in its place"
    return LockError(f"the registry: task {task!r} is damaged: {what}", hint=hint)
