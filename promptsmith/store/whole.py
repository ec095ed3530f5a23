"""Files of the user's own, put in their place whole: a reader sees the old bytes or the new ones, and no kill leaves part of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def drafted(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = False) -> Iterator[Path]:
    """A file beside ``path`` that holds ``data``, to be moved there; it is gone at the end if it was not.

    It has the mode of the file that is at ``path``, without one ``mode``. ``durable``: it is on the disk before it can be
    moved. Raises ``OSError``.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        draft.chmod(path.stat().st_mode & 0o777 if path.exists() else mode)
        yield draft
    finally:
        draft.unlink(missing_ok=True)
