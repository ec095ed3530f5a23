"""Counters that outlive their process: a file of floats for each worker, mapped into its memory and readable by all others.

A cell is 8 aligned bytes of a shared mapping: what is added there is with the kernel at once, so ``kill -9`` loses nothing,
and a reader sees a cell before an addition or after it. A series (one set of labels) is a block of cells behind its key, and
counts from the moment at which the header's length takes it in. A worker's successor goes on in the file of the dead one,
so sums over all files never go backwards.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

Key = tuple[str, ...]
NOWHERE = memoryview(b"").cast("d")
_HEADER = 32
"""16 bytes that tell the layout, the length in use (u64), requests in flight (f64)."""
_USED, _FLYING = 2, 3  # as cells of 8 bytes
_BLOCK = struct.Struct("=IIQ")
"""Kind, bytes of the key, cells."""
_SUFFIX = ".cells"
_MOST_FILES = 64
_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

if sys.platform == "win32":

    def _taken(fd: int) -> bool:
        from filelock import lock_descriptor

        return lock_descriptor(fd, blocking=False)

else:
    import fcntl

    def _taken(fd: int) -> bool:
        """Whether the file is ours now. The lock belongs to the open file and goes with the process."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class Block(NamedTuple):
    """One series."""

    kind: int
    key: Key
    cells: memoryview[float]
    """Floats; writable in the process whose file it is."""


class Cells:
    """One mapped file, ``layout`` being 16 bytes that tell what the cells mean. One thread at a time adds series."""

    def __init__(self, mapped: mmap.mmap, layout: bytes, fd: int = -1) -> None:
        self._fd = fd
        self._bytes = memoryview(mapped)
        self._whole = self._bytes.cast("Q")
        self._floats = self._bytes.cast("d")
        if self._bytes[:16] != layout:
            self._bytes[:_HEADER] = layout + struct.pack("=Qd", _HEADER, 0.0)

    @property
    def flying(self) -> memoryview[float]:
        """One cell: requests in flight."""
        return self._floats[_FLYING : _FLYING + 1]

    @property
    def file(self) -> tuple[int, int] | None:
        """Device and inode; ``None`` for memory without a file."""
        if self._fd < 0:
            return None
        found = os.fstat(self._fd)
        return found.st_dev, found.st_ino

    def add(self, kind: int, key: Key, count: int) -> memoryview[float] | None:
        """The cells of a new series, at zero; ``None`` when there is no room."""
        name = msgspec.msgpack.encode(key)
        at = int(self._whole[_USED])
        start = at + _BLOCK.size + _padded(len(name))
        end = start + 8 * count
        if end > len(self._bytes):
            return None
        head = _BLOCK.pack(kind, len(name), count) + name
        # A process killed here once may have left something behind the end.
        self._bytes[at:end] = head.ljust(end - at, b"\0")
        self._whole[_USED] = end
        return self._floats[start // 8 : end // 8]

    def blocks(self) -> Iterator[Block]:
        """All series; of a damaged file those before the damage."""
        return (block for _, block in self._walk())

    def mend(self) -> None:
        """Forgets what stands behind damage, where no series would be found again."""
        self._whole[_USED] = max((end for end, _ in self._walk()), default=_HEADER)

    def _walk(self) -> Iterator[tuple[int, Block]]:
        at, used = _HEADER, min(int(self._whole[_USED]), len(self._bytes))
        while at + _BLOCK.size <= used:
            kind, length, count = _BLOCK.unpack_from(self._bytes, at)
            start = at + _BLOCK.size + _padded(length)
            end = start + 8 * count
            if end > used:
                return
            try:
                key = msgspec.msgpack.decode(self._bytes[at + _BLOCK.size : at + _BLOCK.size + length], type=Key)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return
            yield end, Block(kind, key, self._floats[start // 8 : end // 8])
            at = end

    def close(self) -> None:
        """Lets the file go: the next worker goes on in it. Nothing is added after this."""
        fd, self._fd = self._fd, -1
        # The mapping, which has a descriptor of its own, goes with the last view of it.
        self._bytes, self._whole, self._floats = memoryview(b""), memoryview(b"").cast("Q"), NOWHERE
        if fd >= 0:
            os.close(fd)


def own_cells(folder: Path, worker: int, layout: bytes, size: int) -> Cells:
    """A file that is this process's alone: the one that a dead worker of the number left, else a new one. Raises ``OSError``."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(_MOST_FILES):
        path = folder / f"{worker}-{number}{_SUFFIX}"
        fd = os.open(path, _OPEN, 0o600)
        try:
            # A file without a name was cleared away after it was opened.
            if _taken_soon(fd) and os.fstat(fd).st_nlink:
                return _mapped(fd, layout, size)
        except OSError:
            os.close(fd)
            raise
        os.close(fd)
    raise OSError(f"{_MOST_FILES} processes count as worker {worker}")


def _taken_soon(fd: int) -> bool:
    """As :func:`_taken`. Whoever only looks whether a worker is alive has the lock for some microseconds."""
    for _ in range(3):
        if _taken(fd):
            return True
        time.sleep(0.001)
    return False


def _mapped(fd: int, layout: bytes, size: int) -> Cells:
    if os.fstat(fd).st_size != size or os.read(fd, len(layout)) != layout:
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        # Written, not only made long: a full disk is an error here, and would be the end of the process (SIGBUS) later.
        if os.write(fd, bytes(size)) != size:
            raise OSError("the disk is full")
    cells = Cells(mmap.mmap(fd, size), layout, fd)
    cells.mend()
    cells.flying[0] = 0.0
    return cells


def own_memory(layout: bytes, size: int) -> Cells:
    """Cells of this process that nobody else sees, for when no file can be had."""
    return Cells(mmap.mmap(-1, size), layout)


class Found(NamedTuple):
    """The file of another worker."""

    cells: Cells
    alive: bool


def other_cells(folder: Path, layout: bytes, own: tuple[int, int] | None) -> Iterator[Found]:
    """The files of all others, dead and alive; what is none or has another layout is left out."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                if (found.st_dev, found.st_ino) == own or found.st_size < _HEADER or file.read(16) != layout:
                    continue
                mapped = mmap.mmap(file.fileno(), found.st_size - found.st_size % 8, access=mmap.ACCESS_READ)
                alive = not _taken(file.fileno())
        except OSError:
            continue
        yield Found(Cells(mapped, layout), alive)


def clear(folder: Path) -> None:
    """Removes the files that no process has: a service that starts counts from zero. Files in use stay."""
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if _taken(file.fileno()):
                path.unlink()


def _padded(length: int) -> int:
    return (length + 7) & ~7
