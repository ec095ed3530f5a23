"""A search under way: a few lines on stderr that are drawn over; nothing when that is not a terminal."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from ..budget import Limits
from ..compiler.search import words
from ..compiler.search.values import OnStatus, Spent, Standing, Status
from ..evals.show.words import count, dollars
from .drawing import BOLD, DIM, Drawing, Line, Look, drawing, lasting, watched

MOST = 8
"""Candidates that are shown; the rest is counted."""
_WINDOW, _LEAST = 60.0, 2.0
"""Seconds over which the rate is taken that the time to go is told from, and how many of them it takes at least."""
_BAR = 20


@contextlib.contextmanager
def live(limits: Limits) -> Iterator[OnStatus | None]:
    """A view of the search that runs inside: a callback for its statuses, ``None`` when nobody watches."""
    stream = watched()
    if stream is None:
        yield None
        return
    view = LiveSearch(stream, limits)
    with drawing(view, "searched"):
        yield view


class LiveSearch(Drawing):
    """Draws the last status."""

    def __init__(self, stream: TextIO, limits: Limits) -> None:
        super().__init__(stream)
        self._limits = limits
        self._status: Status | None = None
        self._pace = Pace()

    def __call__(self, status: Status) -> None:
        with self._lock:
            self._status = status
            self._pace.note(status)
            self.draw(status.seconds)

    def lines(self, look: Look) -> list[str]:
        return [] if self._status is None else frame(self._status, self._limits, self._pace.to_go(self._limits), look)

    def summed_up(self) -> str | None:
        return None if self._status is None else summed_up(self._status)


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


def frame(status: Status, limits: Limits, to_go: tuple[str, float] | None, look: Look) -> list[str]:
    """The lines of one drawing, each narrower than the terminal: the stage, the budget, the best candidates."""
    out = sum(one.out for one in status.candidates)
    stage = f"{status.stage}{f', round {status.round}' if status.round else ''}"
    lines = [
        Line(
            f"{stage}: {count(len(status.candidates), 'candidate')}, {out} out, {count(status.dev, 'dev case')}, {lasting(status.seconds)}",
            BOLD,
        ),
        *(Line(line) for line in _budget(status, limits, to_go, look)),
    ]
    standing = sorted(status.candidates, key=lambda one: (one.out, -one.mean, one.tokens, one.id))
    best = status.best.id if status.best is not None else ""
    for one in standing[:MOST]:
        style = DIM if one.out else BOLD if one.id == best else ""
        lines.append(Line(_row(one, look, front=one.id in status.front), style))
    if len(standing) > MOST:
        lines.append(Line(f"  and {len(standing) - MOST} more", DIM))
    if status.front:
        lines.append(Line(f"{words.MARK} no other is better and shorter at once", DIM))
    return [line.drawn(look) for line in lines[: max(1, look.height)]]


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
