"""``promptsmith.lock``: promoted prompts in full, in git, one readable file.

Reading costs one ``stat`` as long as the file stays the same, which sees ``promote``, ``git pull`` and
``git revert`` alike. Writing is a compare-and-swap under a file lock and replaces the file whole.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from ..canonical import encode
from ..errors import InputError, LockError, StoreError
from ..prompt import Prompt
from ..receipt import Receipt
from .blocks import EMPTY, Cut, cut, is_newer, problems, put
from .entries import Entries
from .entry import Entry
from .moving import Decide, Note, Place, back, moved, promotion, whoami
from .protocol import ANY, LOCK, Expected, Find, Move, Standing, Whole
from .writing import exclusive, replace

LOCK_NAME = "promptsmith.lock"
GITATTRIBUTES = "promptsmith.lock -text\n"
"""For ``.gitattributes``: git must not change the line ends, since every prompt's id is a digest of its bytes."""
GITIGNORE = "/.promptsmith.lock.lck\n/.promptsmith.lock.tmp\n"
"""For ``.gitignore``: what writing leaves beside the lock."""

Stamp = tuple[int, int, int]
_ABSENT: Stamp = (0, 0, 0)
_UNREADABLE: Stamp = (-1, -1, -1)
_UNREAD: Stamp = (-2, -2, -2)
_Served = tuple[Entry | None, str | None]
_LOOKS, _PAUSE = 5, 0.01
"""How often, and after how many seconds each, a file is looked at again that has lost a task."""


class _View:
    """The file as it was at one moment. Entries are read when first asked for; doing so twice at once is harmless."""

    __slots__ = ("cut", "entries", "error", "newer", "refused", "served", "stamp")

    def __init__(self, stamp: Stamp, found: Cut | None, error: LockError | None = None, newer: bool = False) -> None:
        self.stamp = stamp
        self.cut = found
        self.error = error
        self.newer = newer
        self.entries: dict[str, Entry] = {}
        self.refused: dict[str, LockError] = {}
        self.served: dict[str, _Served] = {}


class LockFile(Entries):
    """Promoted prompts in one file. A file that does not exist is an empty lock. Safe to share between threads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = os.fspath(path)
        self._view = _View(_UNREAD, None)
        self._good: dict[str, Entry] = {}

    # --- reading ------------------------------------------------------------------------------------------

    def resolve(self, task: str, alias: str) -> str | None:
        """The id under an alias, or ``None``. Raises :class:`LockError` when the task's block is damaged."""
        view = self._current()
        entry = view.entries.get(task) or self._entry(view, task)
        return entry.aliases.get(alias) if entry is not None else None

    def entry(self, task: str) -> Entry | None:
        """A task's part of the lock, or ``None``. Raises :class:`LockError` naming file and line of what is damaged."""
        return self._entry(self._current(), task)

    def prompt(self, prompt_id: str, task: str | None = None) -> Prompt | None:
        """A prompt by its whole id, verified, or ``None``; looked for in all tasks unless one is named."""
        view = self._current()
        names = (task,) if task is not None else tuple(self._holders(view, prompt_id))
        for name in names:
            entry = self._entry(view, name)
            found = entry.prompt(prompt_id) if entry is not None else None
            if found is not None:
                return found
        return None

    def tasks(self) -> tuple[str, ...]:
        """Every task of the file, damaged or not, sorted."""
        return self._pieces(self._current()).names()

    def standing(self) -> Standing:
        """Where entries come from: a file is always today's."""
        return LOCK

    def close(self) -> None:
        """Nothing: a file is open only while it is read."""

    def problems(self) -> tuple[str, ...]:
        """Everything that is damaged, as ``file:line: what``; reads the whole file."""
        view = self._current()
        if view.cut is None:
            return (str(view.error.message),) if view.error is not None else ()
        found = list(problems(view.cut, self.path.name))
        for name in view.cut.blocks:
            try:
                entry = self._entry(view, name)
                if entry is not None:
                    entry.check()
            except LockError as error:
                found.append(error.message)
        return tuple(found)

    def serve(
        self, task: str, last_good: Callable[[str], str | None], remember: Callable[[str, str], None]
    ) -> tuple[Entry | None, str | None]:
        """A task's entry to answer from, and what is damaged (``None``: nothing, and the entry is today's).

        ``last_good`` gives the kept copy of a task's block, ``remember`` keeps one; it is called once per good load.
        Raises :class:`LockError` for a damaged task that no good copy is known of, and for a newer lock version.
        """
        view = self._settled(task)
        known = view.served.get(task)
        if known is not None:
            return known
        try:
            entry = self._entry(view, task)
        except LockError as error:
            if view.newer:
                raise
            known = (self._fallback(task, last_good, error), error.message)
        else:
            known = (entry, None)
            if entry is None:
                self._good.pop(task, None)
            else:
                self._good[task] = entry
                _keep(remember, task, entry.text)
        view.served[task] = known
        return known

    def _settled(self, task: str) -> _View:
        """The file as it is, and not as git shows it for a moment: git removes a file before it writes the new one.

        Only a task that was served before and is now missing is worth the wait, once per change. For a damaged one
        the last good copy answers at once.
        """
        view = self._current()
        for _ in range(_LOOKS):
            if task not in self._good or task in view.served or not self._misses(view, task):
                break
            time.sleep(_PAUSE)
            view = self._current()
        return view

    def _misses(self, view: _View, task: str) -> bool:
        try:
            return self._entry(view, task) is None
        except LockError:
            return False

    def _fallback(self, task: str, last_good: Callable[[str], str | None], error: LockError) -> Entry:
        # What this process has served is never older than what it would go back to.
        if task in self._good:
            return self._good[task]
        try:
            text = last_good(task)
            entry = Entry.from_text(task, text) if text else None
        except (LockError, StoreError, InputError):
            entry = None  # the kept copy is unusable too: what is wrong with the lock is the thing to say
        if entry is None:
            raise error
        self._good[task] = entry
        return entry

    def stamp(self) -> Stamp:
        """What changes whenever the file does (time, inode, size): one ``stat``, about 2 µs."""
        try:
            status = os.stat(self._file)
        except (FileNotFoundError, NotADirectoryError):
            return _ABSENT
        except OSError:
            return _UNREADABLE
        return (status.st_mtime_ns, status.st_ino, status.st_size)

    def _current(self) -> _View:
        stamp = self.stamp()
        view = self._view
        if view.stamp != stamp:
            view = self._view = self._load()
        return view

    def _load(self) -> _View:
        try:
            stamp, data = _read_whole(self._file)
        except (FileNotFoundError, NotADirectoryError):
            return _View(_ABSENT, Cut((), {}, {}))
        except OSError as error:
            return _View(_UNREADABLE, None, self._unreadable(error))
        try:
            return _View(stamp, cut(data, self.path.name))
        except LockError as error:
            return _View(stamp, None, error, is_newer(data))

    def _unreadable(self, error: OSError) -> LockError:
        return LockError(f"{self.path.name} can't be read: {error.strerror or error}", hint=f"look at {self.path}")

    def _pieces(self, view: _View) -> Cut:
        if view.cut is None:
            raise _again(view.error or LockError(f"{self.path.name} was not read"))
        return view.cut

    def _entry(self, view: _View, task: str) -> Entry | None:
        known = view.entries.get(task)
        if known is not None:
            return known
        pieces = self._pieces(view)
        if task not in view.refused:
            try:
                return self._parse(view, pieces, task)
            except LockError as error:
                view.refused[task] = error
        raise _again(view.refused[task])

    def _parse(self, view: _View, pieces: Cut, task: str) -> Entry | None:
        damage = pieces.damaged.get(task)
        where = f"{self.path.name}:{damage.line}: " if damage else ""
        if damage:
            hint = f"repair these lines, or take the file from git: git checkout -- {self.path.name}"
            raise LockError(f"{where}task {task!r} {damage.what}", hint=hint)
        piece = pieces.blocks.get(task)
        if piece is None:
            return None
        entry = Entry(task, _decoded(piece.data, task, self.path.name, piece.line), file=self.path.name, line=piece.line)
        view.entries[task] = entry
        return entry

    def _holders(self, view: _View, prompt_id: str) -> Iterator[str]:
        """Tasks whose block has the id at the place of a kept prompt's."""
        wanted = [f"\n      - id: {quote}{prompt_id}{quote}\n".encode() for quote in ("", '"')]
        for name, piece in self._pieces(view).blocks.items():
            if any(line in piece.data for line in wanted):
                yield name

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
        """Move an alias to a prompt, or remove it (``None``); the row that was recorded, ``None`` when nothing changed.

        ``expected`` is the id that must stand under the alias (``None``: no prompt). Raises :class:`LockConflict`
        when another one does, :class:`LockError` when the task is damaged or the file can't be written (it is then
        unchanged), :class:`InputError` for an alias that can't be one, a receipt of another prompt, or a ``why`` that
        :func:`check_why` refuses.
        """
        change = promotion(task, to, receipt, forced=forced)
        return self._apply(task, alias, lambda _: change, expected=expected, note=Note(who, why, when))

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
        """Move an alias back to what it named before; back from its first promotion it is removed.

        A rollback after a rollback goes one further back. ``find`` is asked for a prompt that the lock no longer
        keeps in full, ``whole`` for the same receipt with its rows, which left the lock with the alias.

        Raises :class:`UnknownName` when there is nothing to go back from, or no text to go back to.
        """
        place = Place(self.path.name, f"find it in git: git log -S{{id}} -- {self.path.name}")
        row = self._apply(
            task, alias, lambda entry: back(entry, task, alias, place, find, whole), expected=expected, note=Note(who, why, when)
        )
        assert row is not None  # `back` never names the current prompt
        return row

    def _apply(self, task: str, alias: str, decide: Decide, *, expected: Expected, note: Note) -> Move | None:
        note = note.checked(alias, self.path.parent)
        with exclusive(self.path) as target:
            view = self._load()
            pieces = self._pieces(view)
            made = moved(task, alias, self._entry(view, task), decide, expected=expected, note=note)
            if made is None:
                return None
            replace(target, put(pieces, task, encode(made.text)))
            return made.row

    def adopt(self, task: str, text: str) -> bool:
        """Puts a task's block as another registry has it in the place of the one here; ``False`` when it is the same.

        Raises :class:`LockError` for a text that is no block of the task, or when the file can't be written.
        """
        Entry.from_text(task, text).check()
        with exclusive(self.path) as target:
            pieces = self._pieces(self._load())
            known = pieces.blocks.get(task)
            if known is not None and known.data == encode(text):
                return False
            replace(target, put(pieces, task, encode(text)))
            return True


def _again(error: LockError) -> LockError:
    """The same error to raise once more; one object raised many times would collect every traceback."""
    return LockError(error.message, hint=error.hint)


def _read_whole(path: str) -> tuple[Stamp, bytes]:
    """The bytes of a file and the stamp that belongs to them, also while an editor writes into it."""
    for _ in range(5):
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            data = file.read()
            after = os.fstat(file.fileno())
        stamp = (before.st_mtime_ns, before.st_ino, before.st_size)
        if stamp == (after.st_mtime_ns, after.st_ino, after.st_size) and len(data) == before.st_size:
            break
    return stamp, data


def _keep(remember: Callable[[str, str], None], task: str, text: str) -> None:
    # A cache that can't be written must not stop an answer; the store says so itself.
    with contextlib.suppress(StoreError):
        remember(task, text)


def _decoded(data: bytes, task: str, file: str, line: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        where = line + data.count(b"\n", 0, error.start)
        raise LockError(f"{file}:{where}: task {task!r} has a byte that is no UTF-8", hint="take the task's lines from git") from None


__all__ = ["ANY", "EMPTY", "GITATTRIBUTES", "GITIGNORE", "LOCK_NAME", "LockFile", "whoami"]
