"""One file that only grows: a line per write, whole lines whoever else writes, found again after a fork or a move."""

from __future__ import annotations

import errno
import os
import stat
import threading


class Appender:
    """Appends lines to ``path``; ``first`` is written before them when the file is new or empty.

    Each line goes out in exactly one ``write`` on an ``O_APPEND`` descriptor, so lines of several threads and
    processes never mix (on a local file system). A line that a crash or a full disk cut off is never continued.
    """

    def __init__(self, path: str, first: bytes = b"") -> None:
        self._path = path
        self._first = first
        self._fd = -1
        self._file: tuple[int, int] = (0, 0)
        self._end = -1
        """The size after our own last whole line; while the file has it, its last byte is known."""
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Makes the file and its first line, so that a folder that can't be written is found out early."""
        self._own()
        with self._lock:
            if self._first and self._ready() == 0:
                self._write(self._first + b"\n")

    def append(self, line: bytes) -> None:
        """Writes ``line`` (without a line end) and returns when it is with the kernel. Raises ``OSError``."""
        self._own()
        with self._lock:
            size = self._ready()
            if size == 0 and self._first:
                line = self._first + b"\n" + line
            elif size and size != self._end and self._last_byte(size) != b"\n":
                line = b"\n" + line
            self._write(line + b"\n")
            self._end = size + len(line) + 1

    def close(self) -> None:
        """Closes the file; the next append opens it again."""
        self._own()
        with self._lock:
            self._shut()

    def _own(self) -> None:
        if self._pid != os.getpid():
            # A thread of the parent may have held the lock at the fork; nobody here would ever free it.
            self._lock = threading.Lock()
            self._pid = os.getpid()
            self._shut()

    def _shut(self) -> None:
        fd, self._fd, self._end = self._fd, -1, -1
        if fd >= 0:
            os.close(fd)

    def _ready(self) -> int:
        """Opens the file when it is not open, or is no longer the one at ``path``; returns its size in bytes."""
        if self._fd >= 0:
            try:
                # One stat (about 2 µs) tells size and identity: rotated and removed files are left behind.
                found = os.stat(self._path)
            except FileNotFoundError:
                found = None
            if found is not None and (found.st_dev, found.st_ino) == self._file:
                return found.st_size
            self._shut()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_BINARY", "O_NONBLOCK"):
            flags |= getattr(os, name, 0)
        fd = os.open(self._path, flags, 0o600)
        opened = os.fstat(fd)
        if not stat.S_ISREG(opened.st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", self._path)
        self._fd, self._file = fd, (opened.st_dev, opened.st_ino)
        return opened.st_size

    def _last_byte(self, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._fd, 1, size - 1)
        os.lseek(self._fd, size - 1, os.SEEK_SET)
        return os.read(self._fd, 1)

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from None
        if written != len(data):
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes could be written", self._path)


def was_cut(line: bytes) -> bool:
    """Whether a line that is no JSON object is the beginning of one, as a crash or a full disk leaves it."""
    return line.startswith(b"{") and not line.rstrip().endswith(b"}")
