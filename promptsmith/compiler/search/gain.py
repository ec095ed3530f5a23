"""What the chosen prompt gains over a baseline, corrected for having been chosen: an estimate without the winner's curse, and a bound.

The highest of many means is too high: on 40 cases, the best of 25 prompts that are all worth 0.70 looks 13 points better than another
of the same worth. So the gain is never read off the cases that the choice was made on. (All figures here are simulated.)

Estimate: cross-fitting. A fifth of the cases is held out, the choice is made again, by the same rule, on the others, and whoever is
chosen is judged against the baseline on the held-out fifth; all fifths of eight divisions are averaged. This is the selection step of
nested cross-validation (Varma and Simon 2006, BMC Bioinformatics 7:91) on scores that are there already, as Tsamardinos, Greasidou and
Borboudakis have it (2018, Machine Learning 107:1895-1922). Their BBC-CV bootstraps the cases instead and so chooses on 63 % of the
distinct ones. Where 8 or 25 candidates differ by up to 30 points, it is 1.4 and 1.8 points too low on 40 cases, folds 0.6 and 1.1.

Who left a race early has no scores on the later cases, and who is left has lucky scores on the earlier ones: held-out cases with the
finalists alone overstate the gain by 3 to 7 points. But a case that only the later rounds saw had no say in the earlier eliminations.
So each case is judged by a choice among all candidates that were scored on it, made on the other cases that all of these were scored
on; whether a candidate got as far as this case was decided without it. The first rounds would be judged by a choice on few cases, which
finds worse prompts than the real one; where it would be made on less than half of the cases, they are left out.

The baseline can be chosen too, in the folds as in the search, and such a search reports a gain of 0. The folds would say less than 0 of
it on average, so what is reported is 1 to 2 points too high where nothing at all is to be gained; none of that is claimed.

Bound: Tango's interval of the paired differences (:func:`~promptsmith.evals.statistics.tango_clustered`), each end at
``alpha / compared`` (Bonferroni; Dunn 1961, JASA 56:52-64). To claim a gain where there is none, one of ``compared`` candidates must have
a statistic over its limit on all cases; the chance is ``alpha`` at most, as far as Tango's approximation goes (5.7 % instead of 5 % at
worst, of one candidate on 6 cases). Who left the race early can't be claimed, so leaving only makes fewer claims. It holds for any rule
of choosing, for any elimination, and however candidates are correlated. Dunnett's limit (1955, JASA 50:1096-1121) would be 1.5 % lower for
8 candidates whose differences correlate by 0.24, and needs correlations that few cases don't show.

What neither corrects: candidates made from what dev scores said. A parent is sampled by them; its child's own scores are new.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from statistics import fmean

from ...evals.gate import ALPHA
from ...evals.show.words import count
from ...evals.statistics import per_look, tango_clustered
from .record import Gain

FOLDS = 5
DIVISIONS = 8
"""Ways of dividing the cases into folds that are averaged."""

Scores = Mapping[str, Mapping[str, float]]
"""Candidate id -> case id -> score, 0 to 1."""
Choose = Callable[[Mapping[str, Sequence[float]]], str]
"""The rule of choice: from the scores of each candidate, all on the same cases in the same order, to an id. It must not look at others."""

_DIGITS = 12
"""Equal means stay equal though their cases were summed in another order."""


def best(scores: Mapping[str, Sequence[float]]) -> str:
    """The id with the highest mean; of equals the first."""
    return max(scores, key=lambda one: round(fmean(scores[one]), _DIGITS))


def gain(
    chosen: str,
    baseline: str,
    scores: Scores,
    cases: Sequence[str],
    *,
    seed: int | str,
    compared: int | None = None,
    alpha: float = ALPHA,
    choose: Choose = best,
) -> Gain:
    """What ``chosen`` gains over ``baseline`` on those of ``cases`` (ids) that both were scored on.

    ``scores`` holds every candidate that could have been chosen, ``baseline`` too; one that left early has scores on a part of the cases.
    ``compared`` counts the candidates besides the baseline (default: all others in ``scores``); one that no dev case ever saw need not be
    counted. ``alpha`` is the one-sided level of each end. ``choose`` is the rule by which the search chose; it is given the baseline
    first and then the others by id, so that equals fall to no one by their scores. Where it does not lead to ``chosen`` on all cases,
    the estimate is moved by what ``chosen`` has more or less than the one it leads to.

    A choice that fell on the baseline itself is a gain of 0. The same arguments give the same result, whatever the order of the keys.
    Raises :class:`KeyError` for an unknown id, and :class:`ValueError` for fewer ``compared`` than have scores or a score out of range.
    """
    shared = [case for case in cases if case in scores[chosen] and case in scores[baseline]]
    if chosen == baseline:
        return Gain(estimate=0.0, lower=0.0, upper=0.0, cases=len(shared), compared=0)
    others = len(scores) - 1
    compared = others if compared is None else compared
    if compared < others:
        raise ValueError(f"{compared} candidates compared, but {others} have scores: that can't be")
    lower, upper = tango_clustered([scores[chosen][case] - scores[baseline][case] for case in shared], per_look(alpha, compared))
    rows = {one: scores[one] for one in (baseline, *sorted(scores.keys() - {baseline}))}
    estimate = _cross_fitted(chosen, baseline, rows, shared, choose, random.Random(f"{seed} gain"))
    return Gain(
        estimate=min(max(estimate, lower), upper),  # the bound knows all cases, the estimate not
        lower=lower,
        upper=upper,
        cases=len(shared),
        compared=compared,
        alpha=alpha,
        method=(
            f"estimate cross-fitted, {FOLDS} folds {DIVISIONS} times (Varma and Simon 2006; Tsamardinos et al. 2018); "
            f"ends by Tango's paired score interval (1998), one-sided {100 * alpha:g} % / {compared} (Bonferroni)"
        ),
    )


def words(gain: Gain, over: str) -> str:
    """One line for people; ``over`` names the baseline."""
    if not gain.compared:
        return f"no gain over {over}: it is what was chosen"
    if not gain.cases:
        return f"no measurable gain over {over}: no dev case was scored with both"
    where = f"on {count(gain.cases, 'dev case')}"
    corrected = f"corrected for the best of {gain.compared}" if gain.compared > 1 else "one candidate compared"
    if gain.measurable:
        sure = f"{100 * (1 - gain.alpha):g} % sure of at least {_signed(gain.lower)}"
        return f"{_signed(gain.estimate)} points over {over} {where} ({sure}; {corrected})"
    ends = f"{_signed(gain.lower)} to {_signed(gain.upper)}"
    return f"no measurable gain over {over}: {_signed(gain.estimate)} points {where}, {corrected}, could be from {ends}"


def _signed(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # + 0.0 makes -0.0 a zero


def _cross_fitted(chosen: str, baseline: str, scores: Scores, cases: Sequence[str], choose: Choose, rng: random.Random) -> float:
    if len(cases) < 2:
        return 0.0  # nothing can be held out
    finalists = {one: [by_case[case] for case in cases] for one, by_case in scores.items() if all(case in by_case for case in cases)}
    judged: list[float] = []
    # Without nested rounds, as when calls failed here and there, the finalists alone are left to choose among.
    for alive, own, known in list(_rounds(scores, cases)) or [(tuple(finalists), [True] * len(cases), cases)]:
        judged += _left_out(baseline, {one: [scores[one][case] for case in known] for one in alive}, own, choose, rng)
    return fmean(judged) + fmean(finalists[chosen]) - fmean(finalists[choose(finalists)])


_Round = tuple[Sequence[str], Sequence[bool], Sequence[str]]
"""Who was scored in it; which of the known cases are its own; the cases that all of these were scored on, in this round or before."""


def _rounds(scores: Scores, cases: Sequence[str]) -> Iterator[_Round]:
    """The rounds of the race whose candidates share at least half of the cases, two at least. Without a race it is one, of all cases."""
    alive_on = {case: tuple(one for one, by_case in scores.items() if case in by_case) for case in cases}
    for alive in dict.fromkeys(alive_on.values()):
        known = [case for case in cases if set(alive) <= set(alive_on[case])]
        if len(known) >= max(2, len(cases) // 2):
            yield alive, [alive_on[case] == alive for case in known], known


def _left_out(
    baseline: str, rows: Mapping[str, Sequence[float]], own: Sequence[bool], choose: Choose, rng: random.Random
) -> Iterator[float]:
    """Differences on each of the own cases, by whoever is chosen without its fold; every case as often as there are divisions."""
    places = list(range(len(own)))
    for _ in range(DIVISIONS):
        rng.shuffle(places)
        for first in range(min(FOLDS, len(places))):
            fold = places[first::FOLDS]
            judged = [place for place in fold if own[place]]
            if not judged:
                continue
            held = set(fold)
            kept = [place not in held for place in range(len(own))]
            picked = choose({one: list(compress(row, kept)) for one, row in rows.items()})
            yield from (rows[picked][place] - rows[baseline][place] for place in judged)
