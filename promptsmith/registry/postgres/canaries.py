"""Canaries in the server registry: one state and one order of outcomes for the services of many machines."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from ...errors import LockError, RegistryError, UnknownName
from ...prompt import Prompt
from ...receipt import Receipt
from ..canaries import Canary, CanaryWarning, Counts, Outcome, Verdict, begun, settled
from ..entry import Entry
from ..moving import Note, promotion
from . import rows
from .registry import Postgres

if TYPE_CHECKING:
    from psycopg import Connection

_SECONDS = 0.2
"""How often a process that serves a canary adds its outcomes and takes in those of the others."""
_LAST_SECONDS = 3.0
_MOST_WAITING = 100_000
"""Outcomes that wait for the database; older ones are forgotten, and then count on neither side."""
_decode = msgspec.json.Decoder(Canary).decode
_encode = msgspec.json.Encoder().encode
_WRITTEN = {
    Outcome(arm, adherent, failed): f"{arm[0]}{'!' if failed else {True: '+', False: '-', None: '?'}[adherent]}"
    for arm in ("candidate", "incumbent")
    for adherent in (True, False, None)
    for failed in (False, True)
}
_READ = {text: Outcome(one.arm, None if one.failed else one.adherent, one.failed) for one, text in _WRITTEN.items()}
_Active = dict[tuple[str, str], Canary]


class CanaryTable:
    """A :class:`promptsmith.registry.canaries.CanaryStore` in one database. Safe to share between threads.

    While the database is out of reach no canary has a share: nobody could stop one. In a process that serves, outcomes
    come and go in a thread of its own, and a request waits for none of it; who is ``patient`` (a command) asks the database.

    A canary that is complete moves its alias to the candidate, by compare-and-swap against the incumbent.
    """

    def __init__(self, registry: Postgres, *, patient: bool = False) -> None:
        self._registry = registry
        self._patient = patient
        self._seen: tuple[tuple[bytes, ...] | None, _Active] = None, {}
        self._own()

    def _own(self) -> None:
        self._pid = os.getpid()
        self._guard = threading.Lock()
        self._waiting: deque[tuple[str, Outcome]] = deque(maxlen=_MOST_WAITING)
        self._verdicts: deque[tuple[str, Verdict, Counts | None]] = deque()
        self._known: dict[str, list[Outcome]] = {}
        self._places: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._refused = False
        """The database answers and does not take what became of calls: as good as out of reach."""

    # --- states -------------------------------------------------------------------------------------------

    def active(self, task: str, alias: str) -> Canary | None:
        """The canary that has a share of an alias, out of memory."""
        bodies = self._registry.canaries()
        if bodies is None or self._refused:
            return None
        seen, active = self._seen
        if bodies is not seen:
            active = {(one.task, one.alias): one for one in _readable(bodies)}
            self._seen = bodies, active
        return active.get((task, alias))

    def all(self) -> tuple[Canary, ...]:
        """Every canary that was ever started, oldest first; none while the database is out of reach."""
        try:
            with self._registry.session() as conn:
                found = conn.execute("SELECT body FROM promptsmith_canaries ORDER BY number").fetchall()
        except RegistryError:
            if self._patient:
                raise  # whoever is about to decide something must not take it for none
            return ()  # the registry itself has warned of it
        readable = _readable(body for (body,) in found)
        if self._patient and len(readable) < len(found):
            what = f"{len(found) - len(readable)} damaged rows in promptsmith_canaries are left out; another canary takes the place of one"
            warnings.warn(what, CanaryWarning, stacklevel=3)
        return readable

    def start(self, canary: Canary, prompt: Prompt | None = None, receipt: Receipt | None = None) -> Canary:
        """Starts ``canary``, or gives the one of the same two prompts that runs already another share.

        ``prompt`` is the candidate and ``receipt`` its evidence, which every machine needs. Raises :class:`InputError` while
        another candidate runs beside the alias, :class:`RegistryError`.
        """
        with self._registry.session() as conn, conn.transaction():
            rows.hold(conn, canary.task)
            if prompt is not None:
                rows.put_prompts(conn, canary.task, [prompt.verified()])
            if receipt is not None:
                rows.put_receipts(conn, canary.task, [receipt.verified()])
            row = conn.execute(
                "SELECT body FROM promptsmith_canaries WHERE task = %s AND alias = %s AND NOT ended", (canary.task, canary.alias)
            ).fetchone()
            (old,) = _readable([row[0]]) or (None,) if row is not None else (None,)
            if row is not None and old is None:  # damaged: nobody is given to it, and it must stand in nobody's way
                conn.execute("UPDATE promptsmith_canaries SET ended = true WHERE task = %s AND alias = %s", (canary.task, canary.alias))
            after = begun(old, canary)
            _forget(conn, canary.task)
            for one in after:
                _put(conn, one)
        return after[-1]

    def settle(self, canary_id: str, verdict: Verdict, counts: Counts | None = None) -> Canary:
        """Writes down how a canary stands; a process that serves does so in the background.

        Raises :class:`UnknownName` for one that is not known, :class:`RegistryError`.
        """
        if self._patient:
            return self._settle(canary_id, verdict, counts)
        old = next((one for one in _readable(self._registry.canaries() or ()) if one.id == canary_id), None)
        if old is None:
            raise UnknownName(f"there is no canary {canary_id}")
        self._begin()
        self._verdicts.append((canary_id, verdict, counts))
        return settled(old, verdict, counts)

    def _settle(self, canary_id: str, verdict: Verdict, counts: Counts | None) -> Canary:
        with self._registry.session() as conn:
            row = conn.execute("SELECT task FROM promptsmith_canaries WHERE id = %s", (canary_id,)).fetchone()
            if row is None:
                raise UnknownName(f"there is no canary {canary_id}")
            with conn.transaction():
                entry = rows.hold(conn, row[0])
                (body,) = conn.execute("SELECT body FROM promptsmith_canaries WHERE id = %s FOR UPDATE", (canary_id,)).fetchone() or (b"",)
                old = _decode(body)
                new = settled(old, verdict, counts)
                if new != old and new.state == "complete" and old.state == "running" and isinstance(entry, Entry) and _complete(conn, new):
                    # At once: a rollback before the next request must not bring its share back.
                    new = msgspec.structs.replace(new, ended=time.time())
                if new != old:
                    _put(conn, new)
        return new

    # --- outcomes -----------------------------------------------------------------------------------------

    def append(self, canary_id: str, outcome: Outcome) -> None:
        """Adds one outcome, soon."""
        self._begin()
        self._waiting.append((canary_id, outcome))

    def outcomes(self, canary_id: str, after: int = 0) -> tuple[Sequence[Outcome], int]:
        """The outcomes of all machines from a place on, and the place after them. Raises :class:`RegistryError` for who is patient."""
        if self._patient:
            with self._registry.session() as conn:
                found = [outcome for _, outcome in _outcomes(conn, canary_id, 0)]
            return found[after:], len(found)
        self._begin()
        known = self._known.setdefault(canary_id, [])
        end = len(known)
        return known[after:end], end

    def close(self, canary_id: str) -> None:
        """Forgets its outcomes here."""
        self._known.pop(canary_id, None)
        self._places.pop(canary_id, None)

    def _begin(self) -> None:
        if self._pid != os.getpid():
            self._own()
        if self._thread is None:
            with self._guard:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="promptsmith-canaries", daemon=True)
                    self._thread.start()

    def end(self) -> None:
        """Brings what waits to the database, if that can be, and ends the thread."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None and self._pid == os.getpid():
            thread.join(_LAST_SECONDS)

    def _run(self) -> None:
        over = False
        while not over:
            over = self._stop.wait(_SECONDS)
            try:
                self.exchange()
                self._refused = False
            except Exception as error:  # whatever it is, the thread goes on: nobody else could stop a canary
                # The registry's own thread warns when the database is out of reach.
                if not getattr(error, "retryable", False) and not self._refused:
                    self._refused = True
                    warnings.warn(f"no canary has a share, since its outcomes can't be kept: {error}", CanaryWarning, stacklevel=2)

    def exchange(self) -> None:
        """Adds what waits, and takes in what the others have added. Raises :class:`RegistryError`, with nothing lost."""
        if self._waiting or self._known:
            with self._registry.database.session() as conn:
                taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
                try:
                    _add(conn, taken)
                except BaseException:
                    room = _MOST_WAITING - len(self._waiting)
                    self._waiting.extendleft(reversed(taken[-room:] if room > 0 else []))
                    raise
                for canary_id, known in list(self._known.items()):
                    self._take(conn, canary_id, known)
        while self._verdicts:
            # What was removed meanwhile, or is damaged, has nothing left to be settled.
            with contextlib.suppress(UnknownName, msgspec.MsgspecError):
                self._settle(*self._verdicts[0])
            self._verdicts.popleft()

    def _take(self, conn: Connection, canary_id: str, known: list[Outcome]) -> None:
        for number, outcome in _outcomes(conn, canary_id, self._places.get(canary_id, 0)):
            known.append(outcome)
            self._places[canary_id] = number


def _readable(bodies: Iterable[bytes]) -> tuple[Canary, ...]:
    """All but the damaged ones: nobody is given to those."""
    found = []
    for body in bodies:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            found.append(_decode(body))
    return tuple(found)


def _put(conn: Connection, canary: Canary) -> None:
    conn.execute(
        "INSERT INTO promptsmith_canaries (id, task, alias, candidate, ended, body) VALUES (%s, %s, %s, %s, %s, %s) "
        "ON CONFLICT (id) DO UPDATE SET ended = EXCLUDED.ended, body = EXCLUDED.body",
        (canary.id, canary.task, canary.alias, canary.candidate, canary.ended is not None, _encode(canary)),
    )


def _forget(conn: Connection, task: str) -> None:
    """Drops the outcomes of canaries that have ended: what they came to stands with the canary."""
    bodies = conn.execute("SELECT body FROM promptsmith_canaries WHERE task = %s AND ended", (task,)).fetchall()
    done = [one.id for one in _readable(body for (body,) in bodies) if one.counts is not None]
    conn.execute("DELETE FROM promptsmith_outcomes WHERE canary = ANY(%s)", (done,))


def _complete(conn: Connection, canary: Canary) -> bool:
    """Moves the alias to the candidate within the same transaction, unless it was moved meanwhile; whether it did."""
    prompt = rows.prompt_of(conn, canary.candidate, canary.task)
    if prompt is None or canary.mode == "shadow":
        return False
    change = promotion(canary.task, prompt, None, forced=canary.forced)
    note = Note(canary.who or "unknown", f"canary {canary.id} is complete", datetime.now(UTC))
    try:
        return rows.move(conn, canary.task, canary.alias, lambda _: change, expected=canary.incumbent, note=note) is not None
    except LockError:
        return False  # somebody was faster, which ends the canary too


def _add(conn: Connection, taken: Sequence[tuple[str, Outcome]]) -> None:
    """Adds outcomes in their order, all or none; those of a canary that is not there are left out."""
    batch: dict[str, list[str]] = defaultdict(list)
    for canary_id, outcome in taken:
        batch[canary_id].append(_WRITTEN[outcome])
    with conn.transaction():
        for canary_id, written in sorted(batch.items()):
            if conn.execute("SELECT 1 FROM promptsmith_canaries WHERE id = %s FOR UPDATE", (canary_id,)).fetchone() is not None:
                conn.execute(
                    "INSERT INTO promptsmith_outcomes (canary, outcome)"
                    " SELECT %s, o FROM unnest(%s::text[]) WITH ORDINALITY AS t (o, n) ORDER BY n",
                    (canary_id, written),
                )


def _outcomes(conn: Connection, canary_id: str, after: int) -> list[tuple[int, Outcome]]:
    found = conn.execute(
        "SELECT number, outcome FROM promptsmith_outcomes WHERE canary = %s AND number > %s ORDER BY number", (canary_id, after)
    )
    return [(number, _READ[text]) for number, text in found if text in _READ]
