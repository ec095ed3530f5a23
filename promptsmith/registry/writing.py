"""Replaces a file whole or not at all, one writer at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import LockError

WAIT = 30.0
"""Seconds to wait for another writer."""


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[Path]:
    """Hold the only right to write ``path``; gives the file itself where ``path`` is a symbolic link.

    The right is an advisory lock on ``.<name>.lck`` beside the file, gone with its process. Raises
    :class:`LockError` when the folder can't be written or another writer holds it for :data:`WAIT` seconds.
    """
    from filelock import FileLock, Timeout

    target = Path(os.path.realpath(path))
    guard = FileLock(beside(target, "lck"), timeout=WAIT, poll_interval=0.01, thread_local=False)
    try:
        guard.acquire()
    except Timeout:
        raise LockError(f"{path.name}: another process has been writing it for {WAIT:.0f} seconds", hint="wait for it, or end it") from None
    except (OSError, NotImplementedError) as error:
        raise cannot(path, error) from None
    try:
        yield target
    finally:
        guard.release()


def replace(target: Path, data: bytes) -> None:
    """Put ``data`` in the place of ``target``: at every moment the file is the old one or the new one.

    The caller holds :func:`exclusive`. Raises :class:`LockError`, with the old file unchanged.
    """
    temporary = beside(target, "tmp")  # one name: what a killed writer left behind is overwritten by the next
    try:
        before = os.stat(target) if target.exists() else None
        _write(temporary, data, before)
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise cannot(target, error) from None
    _sync_folder(target.parent)


def beside(target: Path, suffix: str) -> Path:
    """The hidden file of this kind in the same folder."""
    return target.with_name(f".{target.name}.{suffix}")


def cannot(path: Path, error: BaseException) -> LockError:
    """The error for a file that can't be written."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return LockError(f"{path.name} can't be written: {reason}; nothing was changed", hint=f"look at the folder {path.parent}")


def _write(temporary: Path, data: bytes, before: os.stat_result | None) -> None:
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        if before is not None:
            os.chmod(temporary, before.st_mode & 0o7777)
        os.fsync(file.fileno())
    if before is not None:
        after = os.stat(temporary)
        # Readers tell files apart by time, inode and size. Inodes are used again and the kernel's clock for files is
        # coarse (4 ms), so of two quick moves the second could look like what was there before the first.
        if after.st_mtime_ns <= before.st_mtime_ns:
            os.utime(temporary, ns=(after.st_atime_ns, before.st_mtime_ns + 1000))


def _sync_folder(folder: Path) -> None:
    # Not every system can sync a folder (Windows); the file itself is safe either way.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
