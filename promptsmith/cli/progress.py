"""How far long work is: one line on stderr that is written over; nothing when that is not a terminal."""

from __future__ import annotations

import sys
import time

from ..evals.runner import OnProgress, Progress

_EVERY = 0.1
"""Seconds between two looks."""


def progress() -> OnProgress | None:
    """A callback that shows progress, ``None`` when nobody watches."""
    return _Line() if sys.stderr and sys.stderr.isatty() else None


class _Line:
    def __init__(self) -> None:
        self._shown = 0.0

    def __call__(self, at: Progress) -> None:
        now = time.monotonic()
        last = at.done == at.total
        if now - self._shown < _EVERY and not last:
            return
        self._shown = now
        sys.stderr.write(f"\r{told(at)}\x1b[K{chr(10) if last else ''}")
        sys.stderr.flush()


def told(at: Progress) -> str:
    """Done of all, answers a second, cost so far, seconds to go."""
    rate = at.done / at.seconds if at.seconds else 0.0
    left = f", {(at.total - at.done) / rate:.0f} s to go" if rate and at.done < at.total else ""
    cost = "cost unknown" if at.cost is None else f"${at.cost:.4f}"
    return f"{at.done}/{at.total}  {rate:.0f}/s  {cost}{left}"
