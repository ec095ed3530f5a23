"""Advisory locks between processes, by name: a file for each, or for the 256 stripes of replies a byte of one file.

Every lock belongs to an open file, not to the process as POSIX record locks do (closing any descriptor of the file
would let all of those go): two stores of one process exclude each other, and a dead process leaves none behind. A
forked child shares its parent's open files, so it closes its copies (:meth:`drop`), which unlocks nothing.

Nothing here excludes threads, and nothing is taken twice: that is the caller's duty.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Collection
from typing import Protocol

COUNT = 256
_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NOINHERIT", 0)


class Locks(Protocol):
    """Locks in one folder, which is there."""

    def take(self, name: str) -> bool:
        """Whether the lock is ours now; false while somebody else has it. Raises ``OSError``."""

    def give(self, names: Collection[str]) -> None:
        """Lets locks go that were taken."""

    def drop(self) -> None:
        """In a forked child: closes its copies of what the parent has open."""


class FileLocks:
    """A lock is the file ``<prefix><name>.lock`` in ``directory``."""

    def __init__(self, directory: str, prefix: str) -> None:
        self._start = os.path.join(directory, prefix)
        self._open: dict[str, int] = {}

    def take(self, name: str) -> bool:
        # On a descriptor and not through FileLock (about 90 µs). The two exclude each other, and neither is a soft
        # lock, which would outlive a killed process.
        from filelock import lock_descriptor

        fd = os.open(f"{self._start}{name}.lock", _OPEN, 0o600)
        kept = False
        try:
            # A file without a name was removed after we opened it: whoever comes next would lock another one.
            kept = lock_descriptor(fd, blocking=False) and os.fstat(fd).st_nlink > 0
        finally:
            if not kept:
                os.close(fd)
        if kept:
            self._open[name] = fd
        return kept

    def give(self, names: Collection[str]) -> None:
        from filelock import unlock_descriptor

        for name in names:
            fd = self._open.pop(name)
            # The lock goes with its descriptor in any case.
            with contextlib.suppress(OSError):
                unlock_descriptor(fd)
            with contextlib.suppress(OSError):
                os.close(fd)

    def drop(self) -> None:
        opened, self._open = self._open, {}
        for fd in opened.values():
            with contextlib.suppress(OSError):
                os.close(fd)


if sys.platform == "linux":
    import fcntl

    def _set(fd: int, kind: int, first: int, count: int) -> None:
        # struct flock: type, whence, start, length, pid (0 for locks of an open file); native sizes and alignment.
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", kind, os.SEEK_SET, first, count, 0))

    def _supported() -> bool:
        """Whether the kernel has such locks: Linux has since 3.15, some sandboxes that pass for it do not."""
        try:
            fd = os.memfd_create("promptsmith")
        except OSError:
            return False
        try:
            _set(fd, fcntl.F_WRLCK, 0, 1)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    class ByteLocks:
        """A lock, named by two hex digits, is a byte of the file ``path``: one system call to take one, at most one to give it.

        A file for each of them costs more than all the rest of keeping a reply, most of it for opening and closing.
        """

        def __init__(self, path: str) -> None:
            self._path = path
            self._fd = -1
            self._file: tuple[int, int] | None = None
            self._held = bytearray(COUNT)

        def take(self, name: str) -> bool:
            if self._identity() != self._file or self._fd < 0:
                self._reopen()
            byte = int(name, 16)
            try:
                _set(self._fd, fcntl.F_WRLCK, byte, 1)
            except (BlockingIOError, PermissionError):
                return False
            self._held[byte] = 1
            return True

        def give(self, names: Collection[str]) -> None:
            if self._fd < 0:
                return  # gone with their file
            free = sorted(int(name, 16) for name in names)
            for byte in free:
                self._held[byte] = 0
            # One call for all up to the next byte that is still held: unlocking what is not locked does no harm, and
            # in each call the interpreter's lock goes to another thread, which costs more than the call.
            end = 0
            for byte in free:
                if byte >= end:
                    held = self._held.find(1, byte)
                    end = held if held >= 0 else COUNT
                    with contextlib.suppress(OSError):
                        _set(self._fd, fcntl.F_UNLCK, byte, end - byte)

        def drop(self) -> None:
            fd, self._fd, self._file = self._fd, -1, None
            self._held = bytearray(COUNT)
            if fd >= 0:
                os.close(fd)

        def _identity(self) -> tuple[int, int] | None:
            # One stat (about 2 µs) a lock: after `rm -r` we would lock a file that nobody else can find.
            try:
                found = os.stat(self._path)
            except FileNotFoundError:
                return None
            return found.st_dev, found.st_ino

        def _reopen(self) -> None:
            # What is held on a file that is gone excludes nobody any more.
            self.drop()
            self._fd = os.open(self._path, _OPEN, 0o600)
            opened = os.fstat(self._fd)
            self._file = opened.st_dev, opened.st_ino

    def stripes(directory: str) -> Locks:
        """The locks of replies in ``directory``."""
        return ByteLocks(os.path.join(directory, "replies.lock")) if _supported() else FileLocks(directory, "reply-")

else:

    def stripes(directory: str) -> Locks:
        """The locks of replies in ``directory``."""
        return FileLocks(directory, "reply-")
