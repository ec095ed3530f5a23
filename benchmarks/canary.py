"""How often the canary's test stops a candidate that is as good, and how soon one that is worse.

``python -m benchmarks.canary`` simulates calls and feeds them, one by one, to the code that decides in the service; every
call is a look. It prints how many calls of both arms it took. No model is asked, and no service runs.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from promptsmith.canary import ALPHA, Trial
from promptsmith.registry.canaries import Arm, Canary, Outcome, new_canary


class Arms(NamedTuple):
    """What is true of both arms, as shares; the candidate gets ``share`` of the calls."""

    adherence: float
    candidate_adherence: float
    failures: float = 0.02
    candidate_failures: float = 0.02
    share: float = 0.1


GRID: dict[str, Arms] = {
    "alike, 95 % adherence": Arms(0.95, 0.95),
    "alike, half the calls": Arms(0.95, 0.95, share=0.5),
    "alike, 70 % adherence": Arms(0.70, 0.70),
    "adherence 95 -> 85 %": Arms(0.95, 0.85),
    "adherence 90 -> 80 %": Arms(0.90, 0.80),
    "adherence 95 -> 90 %": Arms(0.95, 0.90),
    "adherence 95 -> 0 %": Arms(0.95, 0.0),
    "failures 2 -> 12 %": Arms(0.95, 0.95, candidate_failures=0.12),
}


def canary(share: float = 0.1, planned: int = 10**9) -> Canary:
    """One that no look completes, so that only the sequential test ends it."""
    return new_canary("simulated", "production", candidate="c" * 64, incumbent="1" * 64, share=share, planned=planned)


def outcomes(rng: random.Random, arms: Arms, calls: int) -> Sequence[Outcome]:
    """Calls in their order, each to an arm by chance."""
    chances: dict[Outcome, float] = {}
    both: tuple[tuple[Arm, float, float, float], ...] = (
        ("candidate", arms.share, arms.candidate_failures, arms.candidate_adherence),
        ("incumbent", 1 - arms.share, arms.failures, arms.adherence),
    )
    for arm, share, failures, adherence in both:
        chances[Outcome(arm, None, True)] = share * failures
        chances[Outcome(arm, True, False)] = share * (1 - failures) * adherence
        chances[Outcome(arm, False, False)] = share * (1 - failures) * (1 - adherence)
    return rng.choices(list(chances), list(chances.values()), k=calls)


def stopped_at(found: Iterable[Outcome], share: float = 0.1) -> int | None:
    """After how many calls the test stops; ``None``: it does not."""
    trial = Trial(canary(share))
    for number, outcome in enumerate(found, 1):
        trial.feed(outcome)
        if trial.verdict is not None:
            return number
    return None


def runs(arms: Arms, count: int, calls: int, seed: int = 0) -> list[int | None]:
    """:func:`stopped_at` of so many simulated canaries."""
    return [stopped_at(outcomes(random.Random(f"{seed}/{number}/{arms}"), arms, calls), arms.share) for number in range(count)]


def quantile(stops: Sequence[int | None], share: float) -> int | None:
    """Within how many calls this share of the canaries was stopped; ``None`` when fewer were."""
    ordered = sorted(stop for stop in stops if stop is not None)
    place = -int(-share * len(stops) // 1) - 1  # rounded up
    return ordered[place] if place < len(ordered) else None


def main(count: int = 1000, calls: int = 10_000) -> None:
    """Prints the table."""
    print(f"{count} canaries of {calls} calls each, a look after every call, alpha {ALPHA:g} over both tests")
    print(f"{'truth':24} {'share':>6} {'stopped':>8} {'half within':>12} {'95 % within':>12}")
    for name, arms in GRID.items():
        stops = runs(arms, count, calls)
        stopped = sum(stop is not None for stop in stops) / count
        half, most = (quantile(stops, share) or "-" for share in (0.5, 0.95))
        print(f"{name:24} {arms.share:>6.0%} {stopped:>8.1%} {half:>12} {most:>12}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
