"""How much of everything a search does. What runs it and what plans it read the same numbers here."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..material import Material
from ..select import SELECTIONS

DRAFTS: Mapping[int, int] = {2: 8, 3: 6}
"""Texts that the meta-model drafts at most, by level, unless more candidates are asked for than they make: each is combined with
selections of examples."""
CANDIDATES: Mapping[int, int] = {2: 16, 3: 9}
"""How many enter the race besides the baselines, by level, where the dev part can tell so many apart."""
LEAST_CANDIDATES = 4
ENOUGH = 40
"""Dev cases from which all of :data:`CANDIDATES` enter. The best of many on few cases is the luckiest one."""
PRACTICE = 16
"""Compile cases on which the instructions of the template are tried, so that drafts can learn from its failures."""
MOST_SHOWN = 24
"""Examples that a candidate of the race shows at most: all of them cost tokens in every call, and leave none to practise on."""

RUNGS = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of the dev part that a race is run on, one after the other."""
RUNG_LEAST = 8
"""Fewer cases than this tell candidates apart by luck alone."""
RUNG_STEP = 1.5
"""How many times as many cases the next rung has at least: a few more tell nothing new."""
FINALISTS = 2
"""Candidates that are compared on the whole dev part at least."""

MINIBATCH = 6
"""Compile cases that a reflection looks at first."""
GROWTHS = 3
"""How many minibatches it looks at, one after the other, until there are failures to learn from."""
FAILURES = 3
"""So many are enough for a round."""
EDITS = 2
"""Edits of one parent that are written side by side in a round."""
ROUNDS = 16
"""Rounds of reflection at most."""
IDLE = 3
"""Rounds in a row without a new best, after which the race goes on to more dev cases."""
PLATEAU = 3
"""The same on the whole dev part, after which reflection ends."""
SHRINK_SHARE = 0.1
"""What is left of a budget for shrinking; without one, how much it may add to the calls made until then."""


def default_candidates(level: int, dev: int) -> int:
    """How many candidates a dev part of so many cases is asked about, where nobody said."""
    return min(CANDIDATES[level], max(LEAST_CANDIDATES, CANDIDATES[level] * dev // ENOUGH))


def wanted_candidates(source: Material) -> int:
    """How many candidates are made to be compared with the baselines."""
    return source.candidates or default_candidates(source.level, len(source.dev))


def wanted_drafts(source: Material) -> int:
    """How many texts the meta-model is asked for before the race."""
    wanted = wanted_candidates(source)
    return min(wanted, max(DRAFTS[source.level], math.ceil(wanted / len(SELECTIONS))))


def why_fewer(source: Material) -> str:
    """Why there are fewer candidates than usual; empty when there are not, or the user said how many."""
    usual = CANDIDATES[source.level]
    if source.candidates is not None or wanted_candidates(source) == usual:
        return ""
    return f"instead of {usual}: {len(source.dev)} dev cases tell no more apart, {ENOUGH} would"


def rungs(cases: int, entrants: int) -> list[int]:
    """How many dev cases each rung of a race has: the last one has all. Two entrants need no rung before it."""
    sizes = [max(RUNG_LEAST, round(share * cases)) for share in RUNGS]
    # Halving as often as there are halves to leave.
    needed = max(1, (max(1, entrants) - 1).bit_length())
    found: list[int] = []
    for size in sizes[-needed:]:
        if size * RUNG_STEP <= cases and (not found or found[-1] * RUNG_STEP <= size):
            found.append(size)
    return [*found, cases]


def staying(entrants: int) -> int:
    """How many of so many go on to the next rung."""
    return min(entrants, max(FINALISTS, (entrants + 1) // 2))
