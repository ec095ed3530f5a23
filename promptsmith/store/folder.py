"""The store in one cache folder: prompts, replies, journals, ledger and single flight, each made when first used."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from ..chat import Reply
from ..config import Project
from ..errors import StoreError
from ..prompt import Prompt
from .captures import Captures
from .copies import LockCopies
from .layout import CAPTURES, JOURNALS, LEDGER, LOCK_COPIES, LOCKS, PLANS, PROMPTS, REPLIES, SEARCHES
from .ledger import Ledger
from .plans import Plans
from .prompts import Prompts
from .replies import LINGER_SECONDS, Replies
from .searches import Searches
from .shelf import Shelf
from .trouble import Trouble, private_folder, unwritable

if TYPE_CHECKING:
    from .flight import Flight
    from .journal import Journal

T = TypeVar("T")

_LOOK_SECONDS, _PRUNE_SECONDS = 60.0, 86400.0


class DiskStore:
    """The store in ``folder`` (see :class:`promptsmith.store.Store`). Nothing is opened or made until it is used.

    Trouble with the disk (read-only, full) is one :class:`StoreWarning`; reads then find nothing and writes are
    dropped. Damage and tampering raise :class:`StoreError` and :class:`TamperedError`.

    Replies live ``reply_ttl`` seconds and take about ``reply_bytes`` on disk (``None``: no limit); in memory they are
    bounded by ``memory_entries`` and ``memory_bytes``.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        reply_ttl: float | None = None,
        reply_bytes: int | None = None,
        memory_entries: int = 4096,
        memory_bytes: int = 32 << 20,
        linger: float = LINGER_SECONDS,
    ) -> None:
        self.folder = os.path.abspath(folder)
        self._trouble = Trouble(self.folder)
        self._shelves = Shelf(self._path(PROMPTS)), Shelf(self._path(REPLIES))
        self._prompts = Prompts(self._shelves[0])
        self._replies = Replies(
            self._shelves[1],
            self._trouble,
            ttl=reply_ttl,
            memory_entries=memory_entries,
            memory_bytes=memory_bytes,
            linger=linger,
            tidy=self._tidy,
        )
        self._limits = reply_ttl, reply_bytes
        self._tidied = 0.0
        self._copies = LockCopies(self._path(LOCK_COPIES), self._trouble)
        self._searches = Searches(self._path(SEARCHES))
        self._plans = Plans(self._path(PLANS))
        self._flights: dict[str, Flight] = {}
        self.ledger = Ledger(self._path(LEDGER), self._trouble)
        self.captures = Captures(self._path(CAPTURES), self._trouble, ttl=reply_ttl)

    def _path(self, part: str) -> str:
        return os.path.join(self.folder, part)

    # --- prompts ------------------------------------------------------------------------------------------

    def prompt(self, prompt_id: str) -> Prompt | None:
        """The prompt with this id, verified. Raises :class:`TamperedError` when it was changed."""
        return self._found(lambda: self._prompts.get(prompt_id), None)

    def put_prompt(self, prompt: Prompt, build_key: str | None = None) -> bool:
        """Keeps ``prompt``, as the latest of its task; false (and one warning) when the disk did not take it."""
        try:
            self._prompts.put(prompt, build_key)
        except OSError as error:
            self._trouble.tell(error)
            return False
        return True

    def built(self, build_key: str) -> Prompt | None:
        """What this build key built, verified; ``None`` when it is to be built (again)."""
        return self._found(lambda: self._prompts.built(build_key), None)

    def latest(self, task: str) -> str | None:
        """The id of the prompt that was kept last for ``task``."""
        return self._found(lambda: self._prompts.latest(task), None)

    def prompt_ids(self, prefix: str = "", task: str | None = None) -> list[str]:
        """Ids that begin with ``prefix``, of one task or of all, newest first."""
        return self._found(lambda: self._prompts.ids(prefix, task), [])

    def _found(self, find: Callable[[], T], nothing: T) -> T:
        try:
            return find()
        except OSError as error:
            self._trouble.tell(error)
            return nothing

    # --- records of searches --------------------------------------------------------------------------------

    def put_search(self, record_digest: str, data: bytes) -> bool:
        """Keeps the record of a search, JSON, under its digest; false (and one warning) when the disk did not take it."""
        try:
            self._searches.put(record_digest, data)
        except OSError as error:
            self._trouble.tell(error)
            return False
        return True

    def search(self, record_digest: str) -> bytes | None:
        """The record kept under this digest, its bytes verified. Raises :class:`TamperedError` when they were changed."""
        return self._found(lambda: self._searches.get(record_digest), None)

    # --- runs of plans --------------------------------------------------------------------------------------

    def put_run(self, run: str, data: bytes) -> bool:
        """Keeps what a run of a plan came to, JSON, under its key; false (and one warning) when the disk did not take it."""
        try:
            self._plans.put(run, data)
        except OSError as error:
            self._trouble.tell(error)
            return False
        return True

    def run(self, run: str) -> bytes | None:
        """What the run with this key came to, its bytes verified. Raises :class:`TamperedError` when they were changed."""
        return self._found(lambda: self._plans.get(run), None)

    def runs(self, prefix: str = "") -> list[str]:
        """Keys of the runs of plans that begin with ``prefix``, newest first."""
        return self._found(lambda: self._plans.runs(prefix), [])

    # --- replies ------------------------------------------------------------------------------------------

    def reply(self, key: str) -> Reply | None:
        """The complete reply kept under a reply key. Raises :class:`TamperedError` when it was changed."""
        return self._replies.get(key)

    def put_reply(self, key: str, reply: Reply) -> None:
        """Keeps a complete reply, written soon by the batching writer; any other reply is ignored."""
        self._replies.put(key, reply)

    def _tidy(self) -> None:
        """Prunes once a day, and when the replies have outgrown their limit; looks at most once a minute."""
        ttl, limit = self._limits
        now = time.time()
        if (ttl is None and limit is None) or now - self._tidied < _LOOK_SECONDS:
            return
        self._tidied = now
        marker = os.path.join(self._path(REPLIES), "pruned")
        try:
            full = limit is not None and os.path.getsize(os.path.join(self._path(REPLIES), "cache.db")) > limit
            if full or now - _mtime(marker) > _PRUNE_SECONDS:
                from .maintain import prune

                # A tenth below the limit, or every later batch would be over it again.
                prune(self.folder, ttl, None if limit is None else limit * 9 // 10, now)
                with open(marker, "wb"):
                    os.utime(marker)
        except (OSError, StoreError) as error:
            self._trouble.note(error if isinstance(error, OSError) else OSError(None, error.message))

    # --- journals, last good copies -----------------------------------------------------------------------

    def journal(self, kind: str, key: str, describe: Mapping[str, object] | None = None) -> Journal:
        """The journal of one procedure. Raises :class:`StoreError` when it can't be kept."""
        from .journal import Journal  # only procedures of many calls have one

        return Journal(self._path(JOURNALS), kind, key, describe)

    def remember_lock(self, task: str, text: str) -> None:
        """Keeps the last good text of a task's lock entry."""
        self._copies.remember(task, text)

    def last_lock(self, task: str) -> str | None:
        """The last good text of a task's lock entry. Raises :class:`TamperedError` when it was changed."""
        return self._copies.last(task)

    def last_lock_at(self, task: str) -> float | None:
        """Unix time at which that text was last seen in a good lock; ``None`` when there is none."""
        return self._copies.kept_at(task)

    # --- single flight ------------------------------------------------------------------------------------

    async def once(self, key: str, find: Callable[[], T | None], make: Callable[[], Awaitable[T]], *, looked: bool = False) -> T:
        """What ``find`` finds, else what ``make`` makes and stores: once, for all who want this reply key now.

        ``looked``: the caller has just called ``find``, in vain.
        """
        return await self._flight().once(key, find, make, looked=looked)

    async def once_build(self, key: str, find: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T:
        """What ``find`` finds, else what ``make`` builds and stores: once, for all who want this build key now."""
        return await self._flight().once_build(key, find, make)

    def _flight(self) -> Flight:
        flight = self._flights.get(LOCKS)
        if flight is None:
            from .flight import Flight

            # setdefault is atomic: two threads get the same one.
            flight = self._flights.setdefault(LOCKS, Flight(self._path(LOCKS), self._trouble, self._replies.when_kept))
        return flight

    # --- the folder as a whole ----------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raises :class:`StoreError` when what is paid for could not be kept here; for compile and eval."""
        try:
            os.makedirs(self.folder, 0o700, exist_ok=True)
            probe = self._path(f".probe-{os.getpid()}-{os.urandom(4).hex()}")
            try:
                with open(probe, "xb") as file:
                    file.write(b"\0" * 65536)
            finally:
                with contextlib.suppress(OSError):
                    os.remove(probe)
            private_folder(self._path(JOURNALS))
            for shelf in self._shelves:
                shelf.writing().probe()
        except OSError as error:
            raise unwritable(self.folder, error) from error

    @property
    def writable(self) -> bool:
        """Whether :meth:`check_writable` passes."""
        try:
            self.check_writable()
        except StoreError:
            return False
        return True

    def clear(self, replies_only: bool) -> dict[str, int]:
        """Removes what holds answers, and prompts with the records of their searches unless ``replies_only``; never the ledger."""
        from .maintain import clear

        self._replies.forget()
        return clear(self.folder, replies_only)

    def flush(self) -> None:
        """Writes the replies that wait."""
        self._replies.flush()

    def close(self) -> None:
        """Writes what waits and closes all files; the next use opens them again."""
        self._replies.close()
        for shelf in self._shelves:
            shelf.close()
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mtime(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def open_store(project: Project) -> DiskStore:
    """The store in a project's cache folder, within the limits that its settings give."""
    settings = project.config.cache
    return DiskStore(project.cache, reply_ttl=settings.reply_seconds, reply_bytes=settings.reply_bytes)
