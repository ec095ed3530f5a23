"""The last good copy of a server registry on this machine's disk: one file of the lock's format, written whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from ...canonical import encode, sha256
from ...config import Project
from ...errors import StoreError
from ...store.copies import bytes_of, replace
from ...store.layout import REGISTRY
from ...store.trouble import private_folder
from ..blocks import EMPTY, HEADER


class Copy:
    """The copy of the registry called ``label``. A folder that can't be written keeps none, and stops nobody."""

    def __init__(self, project: Project, label: str) -> None:
        self.path = project.cache / REGISTRY / f"{sha256(label)[:16]}.lock"
        self._keys = self.path.with_suffix(".keys")

    def write(self, blocks: Mapping[str, str], keys: tuple[bytes, ...]) -> None:
        """Keeps the blocks of all tasks and the keys; of an unchanged copy only the time is renewed."""
        data = HEADER + encode("".join(blocks[task] for task in sorted(blocks))) if blocks else EMPTY
        self._put(self._keys, b"".join(key + b"\n" for key in keys))
        self._put(self.path, data)

    def _put(self, path: Path, data: bytes) -> None:
        with contextlib.suppress(OSError, StoreError):
            if bytes_of(str(path)) == data:
                os.utime(path)
                return
            private_folder(str(path.parent))
            replace(str(path), data)

    def keys(self) -> tuple[bytes, ...] | None:
        """The keys that were kept last; ``None`` when nobody knows."""
        with contextlib.suppress(OSError):
            data = bytes_of(str(self._keys))
            return None if data is None else tuple(data.splitlines())
        return None

    def renew(self) -> None:
        """Notes that the copy is still what the registry says."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def seen(self) -> float | None:
        """Unix time at which the copy was last known to be what the registry says; ``None`` without one."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return None
