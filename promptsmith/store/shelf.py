"""One diskcache folder, opened when it is first needed and again after a fork or when its file was replaced."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .disk import SafeCache

RETRY_SECONDS = 30.0
"""How long a folder that could not be written is left in peace before writing is tried again."""


class Shelf:
    """The folder ``directory``; nothing is made there before something is written."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._path = os.path.join(directory, "cache.db")
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._cache: SafeCache | None = None
        self._file: tuple[int, int] = (0, 0)
        self._retry_at = 0.0
        self._retired: list[SafeCache] = []

    def reading(self) -> SafeCache | None:
        """The cache to read from; ``None`` when there is none yet. Raises ``OSError`` and :class:`StoreError`."""
        self._after_fork()
        file = self._identity()
        if file is None:
            return None
        cache = self._cache
        return cache if cache is not None and file == self._file else self._open()

    def writing(self) -> SafeCache:
        """The cache to write to, made when there is none. It may still refuse (``cache.writable``)."""
        self._after_fork()
        return self._usable(writing=True) or self._open(writing=True)

    def close(self) -> None:
        """Closes all files; the next use opens them again."""
        self._after_fork()
        with self._lock:
            caches = [*self._retired, *([self._cache] if self._cache is not None else [])]
            self._cache, self._retired = None, []
        for cache in caches:
            cache.close()

    def _identity(self) -> tuple[int, int] | None:
        # One stat (about 2 µs) a call: after `rm -r cache` a running service would write to a file without a name.
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino

    def _usable(self, writing: bool) -> SafeCache | None:
        cache = self._cache
        if cache is None or self._identity() != self._file:
            return None
        return cache if not writing or cache.writable or time.monotonic() < self._retry_at else None

    def _open(self, writing: bool = False) -> SafeCache:
        from .disk import open_cache

        with self._lock:
            usable = self._usable(writing)
            if usable is not None:
                return usable  # another thread was faster
            cache = open_cache(self.directory)
            if self._cache is not None:
                # Other threads may be reading from it at this moment, so it is closed at the end.
                self._retired.append(self._cache)
            self._cache, self._file = cache, self._identity() or (0, 0)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return cache

    def _after_fork(self) -> None:
        if self._pid == os.getpid():
            return
        # The parent's connections are kept, unused: closing one in the child could checkpoint under the parent.
        inherited = [*self._retired, *([self._cache] if self._cache is not None else [])]
        self._inherited = [*getattr(self, "_inherited", []), *inherited]
        self._forget()
