"""Where functions print: stdout is a command's result, so what users' functions print goes to stderr."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_lock = threading.Lock()
_aside = threading.local()


class _Stdout:
    """The stdout that it stands for, but for threads in which a function prints aside."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner
        self.users = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if getattr(_aside, "on", False) else self.inner, name)


@contextmanager
def printing_aside() -> Iterator[None]:
    """What this thread prints within goes to stderr; other threads print where they did."""
    _aside.on = True
    stand_in = _installed()
    try:
        yield
    finally:
        _aside.on = False
        _left(stand_in)


def _installed() -> _Stdout:
    with _lock:
        found: Any = sys.stdout
        stand_in = found if isinstance(found, _Stdout) else _Stdout(found)
        stand_in.users += 1
        put: Any = stand_in
        sys.stdout = put
        return stand_in


def _left(stand_in: _Stdout) -> None:
    with _lock:
        stand_in.users -= 1
        # Somebody else may have put another stdout in its place meanwhile; that one is theirs.
        if not stand_in.users and sys.stdout is stand_in:
            sys.stdout = stand_in.inner
