"""The registry in PostgreSQL: read out of memory, kept up to date by a listener, moved by compare-and-swap."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from ...config import check_task_name
from ...errors import LockError, PromptsmithError, RegistryError
from ...prompt import Prompt
from ...receipt import Receipt
from ..entries import Entries
from ..entry import Entry
from ..lock import LockFile
from ..moving import Change, Decide, Note, Place, back, promotion
from ..protocol import ANY, LAST_GOOD, SHIPPED, Expected, Find, Move, RegistryWarning, Standing, Whole
from . import rows
from .connection import CONNECT_SECONDS, Database
from .copies import Copy
from .listener import Listener

if TYPE_CHECKING:
    from psycopg import Connection

GRACE_SECONDS = 0.04
"""How long a start waits for the database where a copy can answer: what a dead one costs."""
PATIENCE_SECONDS = CONNECT_SECONDS + 3.0
"""The same where nothing else can, and for those who are about to decide something."""
_LIVE = Standing("registry")
_PLACE = Place("the registry", "look for it in the lock of the project's history, and promote it again: git log -S{id}")


class _View:
    """What is known at one moment; never changed after it was made. ``file`` answers as long as nothing was read."""

    __slots__ = ("canaries", "entries", "error", "file", "keys", "number", "refused", "standing", "versions")

    def __init__(
        self,
        number: int,
        standing: Standing,
        *,
        file: LockFile | None = None,
        error: PromptsmithError | None = None,
        entries: Mapping[str, Entry] | None = None,
        refused: Mapping[str, LockError] | None = None,
        versions: Mapping[str, int] | None = None,
        keys: tuple[bytes, ...] | None = None,
        canaries: tuple[bytes, ...] | None = None,
    ) -> None:
        self.number = number
        self.standing = standing
        self.file = file
        self.error = error
        self.entries = entries or {}
        """Of a damaged task, what it was before."""
        self.refused = refused or {}
        self.versions = versions or {}
        self.keys = keys
        self.canaries = canaries
        """``None`` while the database is out of reach."""


class Postgres(Entries):
    """Promoted prompts in one database. Nothing is opened before it is used. Safe between threads, and after a fork.

    Answers come out of memory: a thread in the background reads what has moved. A database that is out of reach costs one
    warning; then the last good state goes on, at a start the copy on disk, without one the ``shipped`` lock file. Who is
    ``patient`` waits for the database at a start, and is told when it can never be reached.
    """

    def __init__(self, database: Database, copy: Copy, shipped: LockFile, *, patient: bool = False) -> None:
        self.database = database
        self._copy = copy
        self._shipped = shipped
        self._patient = patient
        self._view = _View(0, Standing(SHIPPED), file=shipped)
        self._listener: Listener | None = None
        self._contact: float | None = None
        self._warning = ""
        self._begun = 0
        self._own()

    def _own(self) -> None:
        # Threads of the process that this one was forked from are not here, and what they hold is never let go.
        self._pid = os.getpid()
        self._guard, self._reading = threading.Lock(), threading.Lock()
        self._forked, self._listener = self._listener, None

    # --- reading ------------------------------------------------------------------------------------------

    def stamp(self) -> Hashable:
        """What changes with every move and every loss of the database; reads no disk while there is a database."""
        view = self._current()
        return view.number if view.file is None else (view.number, view.file.stamp())

    def standing(self) -> Standing:
        """Where entries come from: the database, a copy of it and since when, or the shipped lock."""
        view = self._current()
        if view.file is not None and view.standing.origin == LAST_GOOD:
            return Standing(LAST_GOOD, self._copy.seen())  # another process may renew it
        return view.standing

    def tasks(self) -> tuple[str, ...]:
        """Every task, damaged or not, sorted."""
        view = self._current()
        return view.file.tasks() if view.file is not None else tuple(sorted({*view.entries, *view.refused}))

    def entry(self, task: str) -> Entry | None:
        """A task's entry, or ``None``. Raises :class:`LockError` for a damaged one."""
        view = self._current()
        if view.file is not None:
            return view.file.entry(task)
        if task in view.refused:
            raise _again(view.refused[task])
        return view.entries.get(task)

    def serve(
        self, task: str, last_good: Callable[[str], str | None], remember: Callable[[str, str], None]
    ) -> tuple[Entry | None, str | None]:
        """A task's entry to answer from, and what is damaged; of a damaged task what it was before.

        Raises :class:`LockError` for a damaged task that nothing good is known of, and :class:`RegistryError` when there is
        neither a database nor a copy nor a lock.
        """
        view = self._current()
        if view.file is not None:
            return self._from_file(view, view.file, task, last_good, remember)
        error = view.refused.get(task)
        if error is not None and task not in view.entries:
            raise _again(error)
        return view.entries.get(task), error.message if error is not None else None

    def _from_file(
        self,
        view: _View,
        file: LockFile,
        task: str,
        last_good: Callable[[str], str | None],
        remember: Callable[[str, str], None],
    ) -> tuple[Entry | None, str | None]:
        try:
            found = file.serve(task, last_good, remember) if file is self._shipped else file.serve(task, _nothing, _forget)
        except LockError as error:
            if file is self._shipped:
                raise
            return self._shipped.serve(task, last_good, remember)[0], error.message
        if found[0] is None and file is self._shipped and view.error is not None and not file.tasks():
            raise _again(view.error)
        return found

    def prompt(self, prompt_id: str, task: str | None = None) -> Prompt | None:
        """A prompt by its whole id, verified, or ``None``; one that is not at hand is looked for in the database."""
        view = self._current()
        if view.file is not None:
            return view.file.prompt(prompt_id, task)
        for name in (task,) if task is not None else view.entries:
            found = view.entries[name].prompt(prompt_id) if name in view.entries else None
            if found is not None:
                return found
        try:
            with self.database.session() as conn:
                return rows.prompt_of(conn, prompt_id, task)
        except RegistryError:
            return None

    def keys(self) -> tuple[bytes, ...] | None:
        """The keys of the service, out of memory or the copy; ``None`` when nobody knows."""
        return self._current().keys

    def canaries(self) -> tuple[bytes, ...] | None:
        """The canaries that have not ended, out of memory; ``None`` while the database is out of reach."""
        return self._current().canaries

    def problems(self) -> tuple[str, ...]:
        """What is damaged in the database, and that it is out of reach."""
        view = self._current()
        found = [view.error.message] if view.error is not None else []
        if view.file is not None:
            return (*found, *view.file.problems())
        return (*found, *(error.message for _, error in sorted(view.refused.items())))

    # --- writing ------------------------------------------------------------------------------------------

    def move(
        self,
        task: str,
        alias: str,
        to: Prompt | None,
        *,
        expected: Expected = ANY,
        why: str = "",
        who: str | None = None,
        receipt: Receipt | None = None,
        forced: bool = False,
        when: datetime | None = None,
    ) -> Move | None:
        """As :meth:`LockFile.move`; :class:`RegistryError` when the database is out of reach."""
        change = promotion(task, to, receipt, forced=forced)
        return self._apply(task, alias, lambda *_: change, expected=expected, note=Note(who, why, when))

    def rollback(
        self,
        task: str,
        alias: str,
        *,
        expected: Expected = ANY,
        why: str = "",
        who: str | None = None,
        when: datetime | None = None,
        find: Find | None = None,
        whole: Whole | None = None,
    ) -> Move:
        """As :meth:`LockFile.rollback`; the database keeps every prompt that was ever promoted."""

        def decide(conn: Connection, entry: Entry | None) -> Change:
            def kept(prompt_id: str) -> Prompt | None:
                return rows.prompt_of(conn, prompt_id, task) or (find(prompt_id) if find is not None else None)

            return back(entry, task, alias, _PLACE, kept, whole)

        row = self._apply(task, alias, decide, expected=expected, note=Note(who, why, when))
        assert row is not None  # `back` never names the current prompt
        return row

    def _apply(
        self, task: str, alias: str, decide: Callable[[Connection, Entry | None], Change], *, expected: Expected, note: Note
    ) -> Move | None:
        check_task_name(task)
        note = note.checked(alias, self._shipped.path.parent)
        with self.session() as conn:
            within: Decide = lambda entry: decide(conn, entry)  # noqa: E731 - a partial would not name what it leaves open
            made = rows.move(conn, task, alias, within, expected=expected, note=note)
        return made.row if made is not None else None

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection to write with; what was written is seen here when it ends. Raises :class:`RegistryError`."""
        self._own_again()
        with self.database.session() as conn:
            yield conn
            # What was written is written, whatever becomes of the connection now; the listener will bring it too.
            with suppress(RegistryError), self.database.told():
                self.refresh(conn, whole=False)

    # --- keeping up ---------------------------------------------------------------------------------------

    def refresh(self, conn: Connection, *, whole: bool) -> None:
        """Takes in what has changed. One reader at a time, so that an older state never follows a newer one."""
        with self._reading:
            old = self._view
            started = old.file is None
            read = rows.read(conn, {} if whole or not started else old.versions)
            self._contact = time.time()
            same = read.versions == old.versions and (read.keys, read.canaries) == (old.keys, old.canaries)
            if started and old.standing is _LIVE and same and not read.loaded:
                self._copy.renew()
                return
            entries = {task: entry for task, entry in old.entries.items() if task in read.versions}
            refused = {task: error for task, error in old.refused.items() if task in read.versions}
            for task, loaded in read.loaded.items():
                refused.pop(task, None)
                if isinstance(loaded, LockError):
                    refused[task] = loaded
                    before = _good_in(old.file, task) if task not in entries else None
                    if before is not None:
                        entries[task] = before
                elif loaded is None:
                    entries.pop(task, None)
                elif task not in entries or entries[task].text != loaded.text:
                    entries[task] = loaded
            self._warning = ""
            self._view = _View(
                old.number + 1, _LIVE, entries=entries, refused=refused, versions=read.versions, keys=read.keys, canaries=read.canaries
            )
            self._copy.write({task: entry.text for task, entry in entries.items()}, read.keys)

    def lost(self, error: PromptsmithError) -> None:
        """Goes on with what is known. Only the first of many failed tries changes anything."""
        with self._reading:
            old = self._view
            if old.error is not None:
                return
            if old.file is None:
                standing = Standing(LAST_GOOD, self._contact)
                self._view = _View(
                    old.number + 1, standing, error=error, entries=old.entries, refused=old.refused, versions=old.versions, keys=old.keys
                )
            else:
                self._view = self._from_disk(error)
            self._warning = f"{error.message}; {self._instead(self._view)}"

    def _from_disk(self, error: PromptsmithError | None = None) -> _View:
        number = self._view.number + 1
        if self._copy.seen() is not None:
            file = LockFile(self._copy.path)
            try:
                file.tasks()
                return _View(number, Standing(LAST_GOOD), file=file, error=error, keys=self._copy.keys())
            except LockError:
                pass  # a damaged copy is none
        return _View(number, Standing(SHIPPED), file=self._shipped, error=error)

    def _instead(self, view: _View) -> str:
        if view.standing.origin == SHIPPED:
            return f"{self._shipped.path.name} is served in its place"
        return "the last good copy is served until it is back"

    def _current(self) -> _View:
        if self._begun != os.getpid():
            self._begin()
        if self._warning:
            warning, self._warning = self._warning, ""
            warnings.warn(warning, RegistryWarning, stacklevel=5)
        return self._view

    def _own_again(self) -> None:
        if self._pid != os.getpid():
            self._own()

    def _begin(self) -> None:
        self._own_again()
        with self._guard:
            if self._begun == os.getpid():
                return
            if self._view.file is not None:
                self._view = self._from_disk()
            listener = self._listener = Listener(self.database, self)
            self._wait(listener)
            self._begun = os.getpid()

    def _wait(self, listener: Listener) -> None:
        if self._patient or self._view.standing.origin == SHIPPED:
            listener.settled.wait(PATIENCE_SECONDS)
        else:
            listener.connecting.wait(PATIENCE_SECONDS)
            listener.settled.wait(GRACE_SECONDS)
        error = self._view.error
        if self._patient and error is not None and not getattr(error, "retryable", False):
            listener.close()
            raise _again(error)

    def close(self) -> None:
        """Ends the thread and the connections; the next use begins again."""
        listener, self._listener = self._listener, None
        if self._begun == os.getpid() and listener is not None:
            self._begun = 0
            listener.close()
        self.database.close()


def _again(error: PromptsmithError) -> PromptsmithError:
    """The same error to raise once more; one object raised many times would collect every traceback."""
    if isinstance(error, RegistryError):
        return RegistryError(error.message, retryable=error.retryable, hint=error.hint)
    return LockError(error.message, hint=error.hint)


def _good_in(file: LockFile | None, task: str) -> Entry | None:
    """What the copy, or else the shipped lock, has of a task that is damaged in the database."""
    with suppress(LockError):
        return file.entry(task) if file is not None else None
    return None


def _nothing(_: str) -> None:
    return None


def _forget(_: str, __: str) -> None:
    return None
