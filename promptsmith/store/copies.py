"""Last good copies of lock entries: what is served while somebody repairs ``promptsmith.lock``."""

from __future__ import annotations

import contextlib
import os

from ..canonical import encode, sha256
from .seal import seal, unseal
from .trouble import Trouble, private_folder

SUFFIX = ".txt"


class LockCopies:
    """One small sealed file per task in ``directory``, named by the sha256 of the task's name."""

    def __init__(self, directory: str, trouble: Trouble) -> None:
        self._directory = directory
        self._trouble = trouble

    def remember(self, task: str, text: str) -> None:
        """Keeps ``text`` for ``task``; of an unchanged copy only its time is renewed."""
        name = sha256(task)
        path, data = self._path(name), seal(encode(text), name)
        try:
            if bytes_of(path) == data:
                with contextlib.suppress(OSError):  # in a folder that can't be written the copy is as good as before
                    os.utime(path)
            else:
                private_folder(self._directory)
                replace(path, data)
        except OSError as error:
            self._trouble.tell(error)

    def last(self, task: str) -> str | None:
        """What was kept last for ``task``. Raises :class:`TamperedError` for a damaged copy."""
        name = sha256(task)
        try:
            data = bytes_of(self._path(name))
        except OSError as error:
            self._trouble.tell(error)
            return None
        return None if data is None else unseal(data, f"the last good copy of {task!r}", name).decode()

    def kept_at(self, task: str) -> float | None:
        """Unix time at which the copy was last known to be that of a good lock; ``None`` without one."""
        try:
            return os.stat(self._path(sha256(task))).st_mtime
        except OSError:
            return None

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, f"{name}{SUFFIX}")


def bytes_of(path: str) -> bytes | None:
    """All of a file, ``None`` when there is none. Raises ``OSError``."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def replace(path: str, data: bytes) -> None:
    """Puts ``data`` in place of ``path`` in one step: a reader sees the old bytes or the new ones. Raises ``OSError``."""
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600), "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
