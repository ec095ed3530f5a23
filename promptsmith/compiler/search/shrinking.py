"""The shrink pass at the bench: each deletion that is proposed is measured, and kept when it costs nothing measurable."""

from __future__ import annotations

from collections.abc import Sequence

from ...catalog.tokens import estimate
from .bench import Bench
from .shrink import Deletion, Shrinking
from .sizes import SHRINK_SHARE, rungs
from .values import Candidate, Origin

_AT_ONCE = 2
"""Deletions that are measured side by side; the one that spares most of those that cost nothing is kept."""
_SLACK = 1.0
"""How much score a deletion may be behind on the first cases and still be measured on all: one case of luck."""
_WORTH = 0.02
"""The share of a prompt's tokens below which a deletion does not pay for being measured."""
_NOISE = 1e-9
"""What two means of the same scores may differ by through rounding."""


async def shrink(bench: Bench) -> None:
    """Takes away from the best candidate what does not pay, until nothing is left to try or the pass has had its share of the calls.

    Every step is measured against the candidate that the pass began with, so that many small losses can't add up to a large one.
    """
    first = bench.best()
    if first is None or bench.best_mean() == 0:
        return  # where nothing is ever right, nothing can be lost
    shrinking = Shrinking(first, bench.source, bench.source.seed)
    allowed = _allowance(bench)
    current, number = first, 0
    while bench.calls.spent.calls < allowed and (deletions := shrinking.propose(_AT_ONCE)):
        if max(deletion.tokens for deletion in deletions) < _WORTH * estimate(current.system):
            return
        number += 1
        bench.round = number
        made = [_candidate(bench, deletion, current, number) for deletion in deletions]
        if not await _measured(bench, made, first):
            return
        good = [pair for pair in zip(deletions, made, strict=True) if _as_good(bench, pair[1], first)]
        for deletion, one in zip(deletions, made, strict=True):
            if (deletion, one) not in good:
                shrinking.told(deletion, kept=False)
        if good:
            deletion, current = max(good, key=lambda pair: (pair[0].tokens, pair[1].id))
            shrinking.told(deletion, kept=True)


def _allowance(bench: Bench) -> float:
    """The calls after which the pass ends; a limit in calls is its own end."""
    return float("inf") if bench.source.limits.calls is not None else bench.calls.spent.calls * (1 + SHRINK_SHARE)


def _candidate(bench: Bench, deletion: Deletion, parent: Candidate, number: int) -> Candidate:
    origin = Origin(kind="shrink", parents=(parent.id,), said=f"without {deletion.said}", round=number)
    return bench.add(deletion.instructions, bench.examples(deletion.shown), origin)


async def _measured(bench: Bench, made: Sequence[Candidate], first: Candidate) -> bool:
    """Scores them on growing beginnings of the dev part; who falls behind leaves. Returns whether the budget sufficed."""
    alive = list(made)
    for size in rungs(len(bench.dev), len(bench.dev)):
        cases = bench.dev[:size]
        enough = await bench.attempt((one, case) for one in alive for case in cases)
        if not enough:
            for one in alive:
                if not bench.knows(one, bench.dev):
                    bench.drop(one, "the budget ended before it was scored")
            return False
        slack = _SLACK / size if size < len(bench.dev) else 0.0
        for one in list(alive):
            lost = bench.mean(first, cases) - bench.mean(one, cases)
            if lost > slack + _NOISE:
                bench.drop(one, f"lost {100 * lost:.1f} points on {size} dev cases")
                alive.remove(one)
    return True


def _as_good(bench: Bench, one: Candidate, first: Candidate) -> bool:
    return bench.knows(one, bench.dev) and bench.mean(one, bench.dev) >= bench.mean(first, bench.dev) - _NOISE
