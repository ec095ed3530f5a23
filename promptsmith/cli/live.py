"""A search under way: a few lines on stderr that are drawn over; nothing when that is not a terminal.

The cursor is never hidden and nothing else of the terminal is changed, so that even a kill leaves nothing to be put right.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TextIO

from ..budget import Limits
from ..compiler.search import words
from ..compiler.search.values import OnStatus, Spent, Standing, Status
from ..evals.show.terminal import cut
from ..evals.show.words import count, dollars, visible

MOST = 8
"""Candidates that are shown; the rest is counted."""
_EVERY = 0.1
"""Seconds of the search between two drawings."""
_WINDOW, _LEAST = 60.0, 2.0
"""Seconds over which the rate is taken that the time to go is told from, and how many of them it takes at least."""
_BAR = 20
_BOLD, _DIM = "1", "2"


@contextlib.contextmanager
def live(limits: Limits) -> Iterator[OnStatus | None]:
    """A view of the search that runs inside: a callback for its statuses, ``None`` when nobody watches.

    Whatever ends the search, the lines are taken away and one that sums up stays. What others write to stderr meanwhile
    stands above.
    """
    stream = sys.stderr
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    view = LiveSearch(stream, limits)
    sys.stderr = _Above(stream, view)
    ended = "stopped after"
    try:
        yield view
        ended = "searched"
    finally:
        sys.stderr = stream
        view.close(ended)


class LiveSearch:
    """Draws each status over the last one. It may be called from another thread; after :meth:`close` it draws no more."""

    def __init__(self, stream: TextIO, limits: Limits) -> None:
        self._stream, self._limits = stream, limits
        self._lock = threading.RLock()
        self._drawn = 0
        """Lines of the drawing that stands there; the cursor is at the beginning of the line below."""
        self._open = False
        """Whether somebody else's text ended in the middle of a line."""
        self._status: Status | None = None
        self._shown = -math.inf
        self._closed = False
        self._pace = Pace()

    def __call__(self, status: Status) -> None:
        with self._lock:
            if self._closed:
                return
            self._status = status
            self._pace.note(status)
            if status.seconds - self._shown >= _EVERY:
                self._shown = status.seconds
                self._put(self._begun() + self._drawing(status))

    def close(self, ended: str = "searched") -> None:
        """Takes the drawing away and leaves a line that begins with ``ended`` and says what was spent."""
        with self._lock:
            if not self._closed and self._status is not None:
                self._put(f"{self._begun()}{ended} {summed_up(self._status)}\n")
            self._closed = True

    def above(self, text: str) -> None:
        """Writes somebody else's text where the drawing was; the next status is drawn below it."""
        with self._lock:
            self._put(self._erased() + text)
            self._open = not text.endswith("\n")
            self._shown = -math.inf

    def _drawing(self, status: Status) -> str:
        width, height = _size(self._stream)
        look = Look(width, height - 1, unicode="utf" in (self._stream.encoding or "").lower(), color=not os.environ.get("NO_COLOR"))
        lines = frame(status, self._limits, self._pace.to_go(self._limits), look)
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
            self._closed = True  # the terminal went away; the search goes on


class _Above:
    """A stream whose text goes above the drawing."""

    def __init__(self, stream: TextIO, view: LiveSearch) -> None:
        self._stream, self._view = stream, view

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # click tries so whether a stream takes bytes
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        if text:
            self._view.above(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# --- the time to go ---------------------------------------------------------------------------------------


class Pace:
    """How fast the search spends, from its last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Spent]] = deque()

    def note(self, status: Status) -> None:
        """Takes a status in."""
        self._seen.append((status.seconds, status.spent))
        while self._seen[-1][0] - self._seen[0][0] > _WINDOW:
            self._seen.popleft()

    def to_go(self, limits: Limits) -> tuple[str, float] | None:
        """What is used up first and in how many seconds; ``None`` where no limit or no rate can tell.

        A search may well end earlier, so this is no promise of when it ends.
        """
        if not self._seen:
            return None
        (start, before), (now, spent) = self._seen[0], self._seen[-1]
        found = [] if limits.seconds is None else [(max(0.0, limits.seconds - now), "time")]
        if now - start >= _LEAST:
            for name, limit, used, then in _amounts(limits, spent, before):
                if used > then:
                    found.append((max(0.0, (limit - used) * (now - start) / (used - then)), name))
        left, name = min(found, default=(0.0, ""))
        return (name, left) if name else None


def _amounts(limits: Limits, spent: Spent, before: Spent) -> Iterator[tuple[str, float, float, float]]:
    """Name, limit, amount now and amount then, of what is limited and known."""
    if limits.calls is not None:
        yield "calls", limits.calls, spent.calls, before.calls
    if limits.tokens is not None:
        yield "tokens", limits.tokens, spent.tokens, before.tokens
    if limits.usd is not None and spent.usd is not None and before.usd is not None:
        yield "dollars", limits.usd, spent.usd, before.usd


# --- what is drawn ----------------------------------------------------------------------------------------


class Look(NamedTuple):
    """The room that there is, in columns and lines, and what the terminal can show."""

    width: int
    height: int
    unicode: bool = True
    color: bool = False


def frame(status: Status, limits: Limits, to_go: tuple[str, float] | None, look: Look) -> list[str]:
    """The lines of one drawing, each narrower than the terminal: the stage, the budget, the best candidates."""
    out = sum(one.out for one in status.candidates)
    stage = f"{status.stage}{f', round {status.round}' if status.round else ''}"
    lines = [
        _Line(
            f"{stage}: {count(len(status.candidates), 'candidate')}, {out} out, {count(status.dev, 'dev case')}, {lasting(status.seconds)}",
            _BOLD,
        ),
        *(_Line(line) for line in _budget(status, limits, to_go, look)),
    ]
    standing = sorted(status.candidates, key=lambda one: (one.out, -one.mean, one.tokens, one.id))
    best = status.best.id if status.best is not None else ""
    for one in standing[:MOST]:
        style = _DIM if one.out else _BOLD if one.id == best else ""
        lines.append(_Line(_row(one, look, front=one.id in status.front), style))
    if len(standing) > MOST:
        lines.append(_Line(f"  and {len(standing) - MOST} more", _DIM))
    if status.front:
        lines.append(_Line(f"{words.MARK} no other is better and shorter at once", _DIM))
    return [line.drawn(look) for line in lines[: max(1, look.height)]]


class _Line(NamedTuple):
    text: str
    style: str = ""

    def drawn(self, look: Look) -> str:
        text = cut(visible(self.text), max(1, look.width - 1))  # a full line would already wrap on some terminals
        text = text if look.unicode else text.replace("…", "~").encode("ascii", "replace").decode()
        return f"\x1b[{self.style}m{text}\x1b[0m" if look.color and self.style else text


def _budget(status: Status, limits: Limits, to_go: tuple[str, float] | None, look: Look) -> Iterator[str]:
    spent = status.spent
    calls, tokens = (
        " of ".join(f"{one:,}" for one in pair if one is not None) for pair in ((spent.calls, limits.calls), (spent.tokens, limits.tokens))
    )
    cost = "cost unknown" if spent.usd is None else dollars(spent.usd)
    yield f"{calls} calls, {tokens} tokens, {cost}{'' if limits.usd is None else f' of {dollars(limits.usd)}'}"
    shares = [(used / limit if limit else 1.0, name) for name, limit, used, _ in _amounts(limits, spent, spent)]
    shares += [] if limits.seconds is None else [(status.seconds / limits.seconds if limits.seconds else 1.0, "time")]
    if shares:
        share, name = max(shares)
        full, empty = ("█", "░") if look.unicode else ("#", "-")
        size = _BAR if look.width >= 2 * _BAR else _BAR // 2
        done = round(size * min(share, 1.0))
        left = f", {to_go[0]} used up in about {lasting(to_go[1])}" if to_go is not None else ""
        yield f"{full * done}{empty * (size - done)} {100 * share:.0f} % of the {name}{left}"


def _row(one: Standing, look: Look, *, front: bool) -> str:
    """A candidate; what tells least goes first where there is little room."""
    parts = [words.MARK if front else " ", f"{one.mean:.3f}"]
    if look.width >= 3 * _BAR:
        parts.append(bar(one, unicode=look.unicode))
    if look.width >= 4 * _BAR:
        parts.append(f"{one.lower:.2f} to {one.upper:.2f} on {one.cases:>3}")
    if look.width >= 5 * _BAR:
        parts.append(f"{one.tokens:>6,} tokens")
    return " ".join([*parts, one.id[:6] if look.width < 2 * _BAR else one.id, one.name])


def bar(one: Standing, *, unicode: bool = True) -> str:
    """The score with its interval on a scale from 0 to 1."""
    outside, inside, mean = ("·", "─", "●") if unicode else (".", "-", "o")
    place, low, high = (min(_BAR - 1, max(0, int(value * _BAR))) for value in (one.mean, one.lower, one.upper))
    return "".join(mean if at == place else inside if low <= at <= high else outside for at in range(_BAR))


def summed_up(status: Status) -> str:
    """What a search took, in a line."""
    return f"{count(len(status.candidates), 'candidate')} in {lasting(status.seconds)}: {words.spent(status.spent)}"


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
