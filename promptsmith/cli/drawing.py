"""Lines on stderr that are drawn over while long work runs; nothing when that is not a terminal.

The cursor is never hidden and nothing else of the terminal is changed, so that even a kill leaves nothing to be put right.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TextIO

from ..evals.show.terminal import cut
from ..evals.show.words import visible

EVERY = 0.1
"""Seconds of the work between two drawings."""
BOLD, DIM, RED = "1", "2", "31"


def watched() -> TextIO | None:
    """stderr, when somebody watches it who can be shown a drawing."""
    return sys.stderr if sys.stderr and sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else None


@contextlib.contextmanager
def drawing(view: Drawing, done: str) -> Iterator[None]:
    """``view`` draws while the work inside runs.

    Whatever ends it, the lines are taken away and one that sums up stays, which begins with ``done`` or ``stopped after``. What
    others write to stderr meanwhile stands above.
    """
    stream = sys.stderr
    sys.stderr = _Above(stream, view)
    ended = "stopped after"
    try:
        yield
        ended = done
    finally:
        sys.stderr = stream
        view.close(ended)


class Drawing(ABC):
    """Draws over what it drew last. It may be called from another thread; after :meth:`close` it draws no more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._drawn = 0
        """Lines of the drawing that stands there; the cursor is at the beginning of the line below."""
        self._open = False
        """Whether somebody else's text ended in the middle of a line."""
        self._shown = -math.inf
        self._closed = False

    @abstractmethod
    def lines(self, look: Look) -> list[str]:
        """The drawing as it is now."""

    @abstractmethod
    def summed_up(self) -> str | None:
        """What was done, in a line; ``None`` when there is nothing to say."""

    def draw(self, now: float) -> None:
        """Draws, unless that was done a moment before ``now``, which is in seconds of the work."""
        with self._lock:
            if not self._closed and now - self._shown >= EVERY:
                self._shown = now
                self._put(self._begun() + self._drawing())

    def close(self, ended: str) -> None:
        """Takes the drawing away and leaves a line that begins with ``ended`` and sums up."""
        with self._lock:
            told = None if self._closed else self.summed_up()
            if told is not None:
                self._put(f"{self._begun()}{ended} {told}\n")
            self._closed = True

    def above(self, text: str) -> None:
        """Writes somebody else's text where the drawing was; the next one is drawn below it."""
        with self._lock:
            self._put(self._erased() + text)
            self._open = not text.endswith("\n")
            self._shown = -math.inf

    def _drawing(self) -> str:
        width, height = _size(self._stream)
        look = Look(width, height - 1, unicode="utf" in (self._stream.encoding or "").lower(), color=not os.environ.get("NO_COLOR"))
        lines = self.lines(look)
        self._drawn = len(lines)
        return "".join(f"{line}\n" for line in lines)

    def _erased(self) -> str:
        # After a narrowing some terminals break long lines anew and the drawing takes more lines than this: then some of it
        # stays. Going up further would take other people's lines away on those that don't.
        drawn, self._drawn = self._drawn, 0
        return f"\r\x1b[{drawn}A\x1b[J" if drawn else ""

    def _begun(self) -> str:
        """What comes before the next drawing, so that it begins on a line of its own."""
        begun = "\n" if self._open else self._erased()
        self._open = False
        return begun

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._closed = True  # the terminal went away; the work goes on


class _Above:
    """A stream whose text goes above the drawing."""

    def __init__(self, stream: TextIO, view: Drawing) -> None:
        self._stream, self._view = stream, view

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # click tries so whether a stream takes bytes
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        if text:
            self._view.above(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Look(NamedTuple):
    """The room that there is, in columns and lines, and what the terminal can show."""

    width: int
    height: int
    unicode: bool = True
    color: bool = False


class Line(NamedTuple):
    """A line before it is cut to the terminal's width."""

    text: str
    style: str = ""

    def drawn(self, look: Look) -> str:
        """The line, narrower than the terminal."""
        text = cut(visible(self.text), max(1, look.width - 1))  # a full line would already wrap on some terminals
        text = text if look.unicode else text.replace("…", "~").encode("ascii", "replace").decode()
        return f"\x1b[{self.style}m{text}\x1b[0m" if look.color and self.style else text


def lasting(seconds: float) -> str:
    """``0:42``, ``12:05``, ``1:02:09``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _size(stream: TextIO) -> Sequence[int]:
    """Columns and lines as they are now; 80 by 24 where the terminal does not know."""
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return found.columns or 80, found.lines or 24
