"""256 advisory locks in one file, for replies: one system call to take one, one to let it go.

POSIX record locks (fcntl) on single bytes. They belong to the process and go with it, however it ends, and a forked
child has none of them. A lock file for each stripe was measured: opening it costs more than all the rest of keeping a
reply. Where there is no fcntl (Windows) no lock can be taken: processes may then ask for the same reply twice.
"""

from __future__ import annotations

import os

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

COUNT = 256


class Stripes:
    """The locks in ``path``, which is made at the first use. Not for exclusion inside a process: that is the caller's."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self, stripe: int) -> bool:
        """Whether stripe ``stripe`` is ours now; false while another process has it. Raises ``OSError``."""
        if fcntl is None:
            return True
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, stripe)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def give(self, stripe: int) -> None:
        """Lets a stripe go."""
        if fcntl is not None and self._fd is not None:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, stripe)

    def close(self) -> None:
        """Lets every stripe go."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)
