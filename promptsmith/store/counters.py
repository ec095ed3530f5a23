"""Counters that all processes of a machine share: by name the requests of the last minute, the tokens and dollars of the day.

One file that each process maps into its memory, of slots that are found by the digest of a name. A slot is read and
written under a lock on its first byte, so a count that decides is never one that two have seen. The locks belong to an
open file (``fcntl(2)``, open file description locks): the kernel gives them back when their holder is killed. A process
that dies in the middle leaves a slot that is right again at the next second: sums are made anew from their parts, and
what is not a sum is a single word.

The file is never truncated or grown: whoever has it mapped would die of that (SIGBUS). One that is damaged is replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
import sys
import threading
import warnings
import weakref
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from ..errors import StoreError
from .trouble import StoreWarning, Trouble, private_folder, unwritable
from .whole import drafted

SLOTS = 4096
MOST_USD = 1e6
"""Dollars a day beyond which a slot does not count; it could hold eighteen times as many."""

DAY = 86400
WINDOW = 61
"""Seconds that are counted, the current one and 60 before it: so any 60 seconds lie inside, wherever in one they begin."""

_PICO = 1e12
_MOST = 2**64 - 1

_HEADER = struct.Struct("=8sII")
_MAGIC = b"pscount1"
_HEADER_BYTES, _SLOT_BYTES, _DIGEST_BYTES = 64, 320, 16
_FREE = bytes(_DIGEST_BYTES)
# Words of eight bytes in a slot, after the digest: the last second counted, the requests of the window that ends with
# it, the day, its tokens, its picodollars (a token may cost a millionth of a millionth, and sums must stay exact). Then,
# in half words, the requests of each second of the window, in the place of the second modulo 61.
_SECOND, _REQUESTS, _DAY, _TOKENS, _PICODOLLARS, _SECONDS = 2, 3, 4, 5, 6, 7
_NO_SECONDS = memoryview(bytes(4 * WINDOW)).cast("I")


class Over(NamedTuple):
    """Which limit is reached, and in how many seconds there is room again."""

    what: Literal["requests", "tokens", "usd"]
    wait: float


class Used(NamedTuple):
    """Requests of the last minute, tokens and US dollars of the UTC day."""

    requests: int
    tokens: int
    usd: float


class Locks(Protocol):
    """Exclusive locks on the bytes of one open file, each waited for."""

    def take(self, byte: int, /) -> None: ...

    def give(self, byte: int, /) -> None: ...


class NoLocks:
    """Where there are none to be had: each process counts for itself, and its threads are kept apart anyway."""

    def take(self, _byte: int, /) -> None: ...

    def give(self, _byte: int, /) -> None: ...


if sys.platform != "win32":
    import fcntl

    class WholeFile:
        """The file as a whole (``flock(2)``): for systems whose byte locks belong to a process and go with any closed descriptor."""

        def __init__(self, fd: int) -> None:
            self._fd, self._depth = fd, 0

        # The table's lock and a slot's may be held at once, and are one here.
        def take(self, _byte: int, /) -> None:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            self._depth += 1

        def give(self, _byte: int, /) -> None:
            self._depth = max(0, self._depth - 1)
            if not self._depth:
                fcntl.flock(self._fd, fcntl.LOCK_UN)


if sys.platform == "linux":

    class ByteLocks:
        """One byte each. Raises ``OSError`` where the kernel has no locks of open files (before Linux 3.15, in some sandboxes)."""

        def __init__(self, fd: int) -> None:
            self._fd = fd
            self.take(0)
            self.give(0)

        def take(self, byte: int, /) -> None:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, _flock(fcntl.F_WRLCK, byte))

        def give(self, byte: int, /) -> None:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, byte))

    @cache  # two for each slot
    def _flock(kind: int, byte: int) -> bytes:
        # struct flock: type, whence, start, length, pid (0 for locks of an open file); native sizes and alignment.
        return struct.pack("hhqqi0q", kind, os.SEEK_SET, byte, 1, 0)

    def _locks(fd: int) -> Locks:
        try:
            return ByteLocks(fd)
        except OSError:
            return WholeFile(fd)

elif sys.platform != "win32":

    def _locks(fd: int) -> Locks:
        return WholeFile(fd)


class _Place(NamedTuple):
    """Where the slot of a name begins, as byte and as word."""

    byte: int
    word: int
    digest: bytes


class _Table:
    """The slots of one open file, as one process has them mapped."""

    def __init__(self, memory: mmap.mmap, locks: Locks, file: tuple[int, int] | None) -> None:
        self.file = file
        self.pid = os.getpid()
        self.words = memoryview(memory).cast("Q")
        self._halves = memoryview(memory).cast("I")
        self._memory = memory
        self._locks = locks
        self._slots = (len(memory) - _HEADER_BYTES) // _SLOT_BYTES
        self._threads = threading.Lock()
        self._known: dict[str, _Place] = {}

    def hold(self, name: str, second: int) -> _Place:
        """The slot of ``name``, for the caller alone until :meth:`free`, and rolled on to the day of ``second``.

        Raises :class:`StoreError` when there is none left.
        """
        self._threads.acquire()
        place = self._known.get(name)
        try:
            while True:
                if place is None:
                    place = self._known[name] = self._find(name, second // DAY)
                self._locks.take(place.byte)
                if self._memory[place.byte : place.byte + _DIGEST_BYTES] == place.digest:
                    self._roll_day(place.word, second // DAY)
                    return place
                # Another name has it by now: the table was full, and ours had not been used that day.
                self._locks.give(place.byte)
                del self._known[name]
                place = None
        except BaseException:
            if place is not None:
                self._locks.give(place.byte)
            self._threads.release()
            raise

    def free(self, place: _Place) -> None:
        """Lets a slot go that :meth:`hold` gave."""
        self._locks.give(place.byte)
        self._threads.release()

    def roll_minute(self, word: int, second: int) -> int:
        """Takes the seconds that have left the window out of a slot; the second in which is counted now.

        A clock that is behind what another process has counted (each reads its own before it waits for the slot) counts
        in the later second; one that was set back by more than the window begins anew.
        """
        words = self.words
        last = words[word + _SECOND]
        gone = second - last
        if -WINDOW < gone <= 0:
            return last
        first = self.seconds(word)
        if 0 < gone < WINDOW:
            for passed in range(last + 1, second + 1):
                self._halves[first + passed % WINDOW] = 0
        else:
            self._halves[first : first + WINDOW] = _NO_SECONDS
        # Before the second, which says that it was done; and anew, which mends what a killed process left half done.
        words[word + _REQUESTS] = sum(self._halves[first : first + WINDOW])
        words[word + _SECOND] = second
        return second

    def count(self, word: int, second: int) -> None:
        """One request more, in the second that :meth:`roll_minute` gave."""
        self._halves[self.seconds(word) + second % WINDOW] += 1
        self.words[word + _REQUESTS] += 1

    def room_at(self, word: int, second: int, most: int) -> int:
        """The second in which fewer than ``most`` requests will be in the window, if none are added."""
        first, left = self.seconds(word), self.words[word + _REQUESTS]
        for old in range(second - WINDOW + 1, second):
            left -= self._halves[first + old % WINDOW]
            if left < most:
                return old + WINDOW
        return second + WINDOW

    @staticmethod
    def seconds(word: int) -> int:
        """The first half word of a slot's seconds."""
        return 2 * (word + _SECONDS)

    def _roll_day(self, word: int, day: int) -> None:
        words = self.words
        # One day back is a clock that was read before midnight.
        if 0 <= words[word + _DAY] - day <= 1:
            return
        words[word + _TOKENS] = words[word + _PICODOLLARS] = 0
        words[word + _DAY] = day

    def _find(self, name: str, day: int) -> _Place:
        """The slot of ``name``, a free one, or the one that was not used for longest, all under the table's lock."""
        digest = hashlib.sha256(name.encode()).digest()[:_DIGEST_BYTES]
        start = int.from_bytes(digest[:8], "little")
        if len(self._known) >= self._slots:
            self._known.clear()
        self._locks.take(0)
        try:
            for step in range(self._slots):
                place = self._at((start + step) % self._slots, digest)
                found = self._memory[place.byte : place.byte + _DIGEST_BYTES]
                if found == digest:
                    return place
                if found == _FREE:
                    self._claim(place, day)
                    return place
            return self._reuse(digest, day)
        finally:
            self._locks.give(0)

    def _at(self, slot: int, digest: bytes) -> _Place:
        byte = _HEADER_BYTES + slot * _SLOT_BYTES
        return _Place(byte, byte // 8, digest)

    def _reuse(self, digest: bytes, day: int) -> _Place:
        # Never the way back to a free slot: those that were put behind it would not be found any more.
        for slot in sorted(range(self._slots), key=lambda slot: self.words[self._at(slot, digest).word + _DAY]):
            place = self._at(slot, digest)
            self._locks.take(place.byte)
            try:
                if self.words[place.word + _DAY] != day:
                    self._claim(place, day)
                    return place
            finally:
                self._locks.give(place.byte)
        raise StoreError(
            f"all {self._slots} counters of limits are in use today",
            hint="keys with limits share them: revoke some, or remove the file while no service runs, and today's counts begin anew",
        )

    def _claim(self, place: _Place, day: int) -> None:
        words, first = self.words, self.seconds(place.word)
        for field in (_SECOND, _REQUESTS, _TOKENS, _PICODOLLARS):
            words[place.word + field] = 0
        self._halves[first : first + WINDOW] = _NO_SECONDS
        words[place.word + _DAY] = day
        # Last: half a digest is nobody's, and its slot is used again another day.
        self._memory[place.byte : place.byte + _DIGEST_BYTES] = place.digest


class SharedCounters:
    """The counters in the file ``path``, which is made when missing, with ``slots`` names that can be counted a day.

    A file that is there keeps its own number of slots. One that is damaged or of another form is replaced, with a
    :class:`StoreWarning`; one that is replaced or removed by others is opened again within a second. Where the system has
    no ``fcntl`` (Windows), each process counts for itself, and says so. Times are Unix times in seconds.

    What is counted is in the kernel's hands at once, so killed processes take nothing along; a machine that loses its
    power may lose what the kernel has not written yet. Raises :class:`StoreError` when the file can't be made.
    """

    def __init__(self, path: str | Path, slots: int = SLOTS) -> None:
        self.path = Path(os.path.abspath(path))
        self._slots = slots
        self._trouble = Trouble(str(self.path.parent))
        self._looked = 0
        self._table = self._opened()

    def request(
        self, name: str, now: float, *, per_minute: int | None = None, tokens: int | None = None, usd: float | None = None
    ) -> Over | None:
        """Counts a request of ``name``, unless a limit is reached: then it says which, and counts nothing.

        ``per_minute`` bounds the requests of any 60 seconds, ``tokens`` and ``usd`` what the UTC day may have taken
        before this request. Raises :class:`StoreError` when all slots are in use.
        """
        second = int(now)
        table = self._current(second)
        place = table.hold(name, second)
        try:
            word, words = place.word, table.words
            if tokens is not None and words[word + _TOKENS] >= tokens:
                return Over("tokens", DAY - now % DAY)
            if usd is not None and words[word + _PICODOLLARS] >= _picodollars(usd):
                return Over("usd", DAY - now % DAY)
            if per_minute is not None:
                second = table.roll_minute(word, second)
                if words[word + _REQUESTS] >= per_minute:
                    return Over("requests", table.room_at(word, second, per_minute) - now)
                table.count(word, second)
            return None
        finally:
            table.free(place)

    def spend(self, name: str, now: float, *, tokens: int = 0, usd: float = 0.0) -> None:
        """Adds to what ``name`` took today. Raises :class:`StoreError` when all slots are in use."""
        second = int(now)
        table = self._current(second)
        place = table.hold(name, second)
        try:
            words, word = table.words, place.word
            words[word + _TOKENS] = min(words[word + _TOKENS] + max(tokens, 0), _MOST)
            words[word + _PICODOLLARS] = min(words[word + _PICODOLLARS] + _picodollars(usd), _MOST)
        finally:
            table.free(place)

    def used(self, name: str, now: float) -> Used:
        """What is counted of ``name``. Raises :class:`StoreError` when all slots are in use."""
        second = int(now)
        table = self._current(second)
        place = table.hold(name, second)
        try:
            table.roll_minute(place.word, second)
            words, word = table.words, place.word
            return Used(words[word + _REQUESTS], words[word + _TOKENS], words[word + _PICODOLLARS] / _PICO)
        finally:
            table.free(place)

    def _current(self, second: int) -> _Table:
        table = self._table
        if table.pid != os.getpid():
            # A forked child has its parent's open file, whose locks do not exclude the parent.
            table = self._table = self._opened()
        elif second != self._looked:
            self._looked = second  # one stat a second
            if table.file is not None and _identity(self.path) != table.file:
                table = self._again(table)
        return table

    def _again(self, table: _Table) -> _Table:
        try:
            self._table = self._opened()
        except StoreError as error:
            # Counting goes on among those who have the old file.
            self._trouble.tell(error.__cause__ if isinstance(error.__cause__, OSError) else OSError(None, error.message))
            return table
        return self._table

    def _opened(self) -> _Table:
        if sys.platform == "win32":
            warnings.warn(f"{sys.platform} has no fcntl: each worker keeps the limits of keys for itself", StoreWarning, stacklevel=3)
            return _Table(mmap.mmap(-1, _size(self._slots)), NoLocks(), None)
        try:
            fd = _open(self.path, self._slots)
        except OSError as error:
            raise unwritable(str(self.path.parent), error) from error
        memory = mmap.mmap(fd, 0)
        status = os.fstat(fd)
        table = _Table(memory, _locks(fd), (status.st_dev, status.st_ino))
        # Not closed by whoever finds that the file was replaced: other threads may be at work on it.
        weakref.finalize(table, os.close, fd)
        return table


def _picodollars(usd: float) -> int:
    return round(min(usd, MOST_USD) * _PICO) if usd > 0 else 0  # nan is not larger than 0 either


def _size(slots: int) -> int:
    return _HEADER_BYTES + slots * _SLOT_BYTES


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open(path: Path, slots: int) -> int:
    """The file, opened; made or replaced by one process while the others wait. Raises ``OSError``."""
    from filelock import FileLock

    private_folder(str(path.parent))
    with FileLock(f"{path}.lock", timeout=10):
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            if _sound(fd):
                return fd
            os.close(fd)
            warnings.warn(f"{path} was damaged: what keys used of their limits is counted anew", StoreWarning, stacklevel=5)
        # Written in full: a page that a full disk has no room for would kill the process that touches it.
        empty = _HEADER.pack(_MAGIC, _SLOT_BYTES, slots).ljust(_size(slots), b"\0")
        with drafted(path, empty, mode=0o600) as draft:
            os.replace(draft, path)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)


def _sound(fd: int) -> bool:
    head = os.pread(fd, _HEADER.size, 0)
    if len(head) < _HEADER.size:
        return False
    magic, slot_bytes, slots = _HEADER.unpack(head)
    return (magic, slot_bytes) == (_MAGIC, _SLOT_BYTES) and slots > 0 and os.fstat(fd).st_size == _size(slots)
