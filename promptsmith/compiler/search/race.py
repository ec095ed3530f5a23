"""A race: many candidates, few calls. Bad ones leave after few cases, all are compared on the same ones.

Successive halving (Karnin, Koren and Somekh 2013, ICML; Jamieson and Talwalkar 2016, AISTATS, arXiv:1502.07943) on growing
beginnings of the dev part: every rung scores who is left on the same cases, and the better half goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...catalog.tokens import estimate
from ...evals.suite import Case
from .bench import Bench
from .sizes import rungs, staying
from .values import Candidate


async def race(bench: Bench, entrants: Sequence[Candidate], always: Sequence[Candidate], *, until: int) -> list[Candidate] | None:
    """Runs ``entrants``, and ``always``, who never leave, to the first rung of at least ``until`` dev cases. Returns who is left.

    ``None`` when the budget does not suffice: who was not scored on the whole of a rung goes no further, and it decides nothing.
    """
    alive = [one for one in entrants if one not in always]
    for size in rungs(len(bench.dev), len(alive) if until == len(bench.dev) else len(bench.dev)):
        cases = bench.dev[:size]
        if not await bench.attempt((one, case) for one in [*always, *alive] for case in cases):
            for one in alive:
                if not bench.knows(one, cases):
                    bench.drop(one, f"the budget ended before it was scored on {size} cases")
            return None
        if size == len(bench.dev):
            break
        alive = _better_half(bench, alive, cases, plain=until < len(bench.dev))
        if size >= until:
            break
    return alive


def ranked(bench: Bench, candidates: Sequence[Candidate], cases: Sequence[Case]) -> list[Candidate]:
    """The best first, by mean score on ``cases``; of equals the shorter one, then by id."""
    return sorted(candidates, key=lambda one: (-bench.mean(one, cases), estimate(one.system), one.id))


def _better_half(bench: Bench, alive: Sequence[Candidate], cases: Sequence[Case], *, plain: bool) -> list[Candidate]:
    """With ``plain``, the best one without examples stays as well: an edit gains most where nothing else shows the rules."""
    order = ranked(bench, alive, cases)
    kept = order[: staying(len(order))]
    kept += [one for one in order if not one.shown and plain][:1]
    for place, one in enumerate(order, start=1):
        if one not in kept:
            bench.drop(one, f"place {place} of {len(order)} on {len(cases)} dev cases")
    return list({one.id: one for one in kept}.values())
