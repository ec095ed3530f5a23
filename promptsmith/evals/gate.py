"""The gate: from evidence to a verdict. The same evidence gives the same verdict, from a run, a report or a receipt.

The order of the rules is the design's: what rules a prompt out; what leaves everything open; thresholds; the comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Literal

import msgspec

from ..receipt import CaseRow, Receipt, Rules
from . import statistics
from .rules import parse_condition
from .suite import listed

Word = Literal["promote", "reject", "inconclusive"]
EXIT_CODES: Mapping[Word, int] = {"promote": 0, "reject": 1, "inconclusive": 3}
ALPHA = 0.05
"""One-sided level of every decision to promote."""
REJECT_ALPHA = 0.025
"""One-sided level of a rejection, at most. At 0.05 alone 5.0 % of equally good candidates would be rejected (exact sum, 100 cases of
which 5 % flip independently, margin 10) and 94.9 % promoted; so it is 96.6 %. What it leaves open is inconclusive."""
MAJORITY = "majority answer "
"""What stands before the label when the baseline is the holdout's own majority answer."""
OWN_RECEIPT = "receipt "
"""What stands before the digest when the baseline is the prompt's own receipt (a look at drift)."""
_QUALITY = ("pass_rate", "score", "pass_k", "scorers.", "tags.")


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that a verdict depends on; see :class:`~promptsmith.receipt.Receipt` for the fields."""

    rows: tuple[CaseRow, ...]
    rules: Rules
    suite: str
    prompt: str
    against: str = ""
    metrics: Mapping[str, float | None] = {}
    must_pass: tuple[str, ...] = ()
    looks: int = 1
    rejections: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @classmethod
    def of(cls, receipt: Receipt) -> Evidence:
        """The evidence in a receipt."""
        return cls(
            rows=receipt.parse_rows(),
            rules=receipt.rules,
            suite=receipt.suite,
            prompt=receipt.prompt,
            against=receipt.against,
            metrics=receipt.metrics,
            must_pass=receipt.must_pass,
            looks=receipt.looks,
            rejections=receipt.rejections,
            doubts=receipt.doubts,
        )


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of ``require:`` and what was observed. ``holds`` is ``None`` when the value is unknown."""

    metric: str
    condition: str
    value: float | None
    lower: float | None = None
    upper: float | None = None
    holds: bool | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate against baseline on the same cases, as shares; ``lower`` and ``upper`` bound the difference."""

    metric: str
    before: float
    after: float
    lower: float | None
    upper: float | None
    """``None``: too few differences to say."""
    alpha: float
    """One-sided level of the lower end; the upper end, which rejects, has at most :data:`REJECT_ALPHA`."""
    margin: float | None
    """The drop that may go unseen; ``None`` when the candidate must be better."""
    better: int = 0
    """Cases that pass more often than with the baseline."""
    worse: int = 0
    mcnemar: float | None = None
    """Two-sided p of equal arms, as information; ``None`` with repeats."""
    needed: int | None = None
    """Cases that would decide at the observed rates; ``None``: no number would, or it is decided."""

    @property
    def difference(self) -> float:
        return self.after - self.before


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, why in words, and the numbers behind it."""

    verdict: Word
    reasons: tuple[str, ...]
    pass_rate: tuple[float, float, float] | None = None
    """Observed pass rate with its two-sided 95 % interval."""
    baseline_rate: tuple[float, float, float] | None = None
    comparison: Comparison | None = None
    thresholds: tuple[Threshold, ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


def judge(evidence: Evidence) -> Judgement:
    """The verdict on ``evidence``."""
    rows = [row for row in evidence.rows if row.passed is not None]
    thresholds = tuple(_thresholds(evidence, rows))
    comparison = _comparison(evidence, rows)
    verdict, reasons = _verdict(evidence, rows, thresholds, comparison)
    based = [row.base_passed for row in rows if row.base_passed is not None]
    return Judgement(
        verdict=verdict,
        reasons=tuple(reasons),
        pass_rate=_with_interval([row.passed or 0.0 for row in rows]),
        baseline_rate=_with_interval(based),
        comparison=comparison,
        thresholds=thresholds,
    )


def open_questions(evidence: Evidence) -> list[str]:
    """What leaves the verdict open whatever was scored."""
    missing = [row.id for row in evidence.rows if row.passed is None]
    found = list(evidence.doubts)
    if not evidence.rows and not found:
        found.append("there is no case to judge on")
    if missing:
        found.append(f"{_count(len(missing), 'case')} of {len(evidence.rows)} without a score ({listed(missing)})")
    if _compared(evidence):
        unknown = [row.id for row in evidence.rows if row.passed is not None and row.base_passed is None]
        if unknown:
            found.append(f"{_count(len(unknown), 'case')} of {len(evidence.rows)} without a score of the baseline ({listed(unknown)})")
    return found


def _verdict(
    evidence: Evidence, rows: Sequence[CaseRow], thresholds: Sequence[Threshold], comparison: Comparison | None
) -> tuple[Word, list[str]]:
    if evidence.rejections:
        return "reject", list(evidence.rejections)
    if questions := open_questions(evidence):
        return "inconclusive", questions
    if missed := [_missed(threshold) for threshold in thresholds if threshold.holds is False]:
        return "reject", missed
    if vetoes := list(_vetoes(evidence, rows)):
        return "reject", vetoes
    if unknown := [
        f"{threshold.metric} is not known, so {threshold.condition} can't be judged" for threshold in thresholds if threshold.holds is None
    ]:
        return "inconclusive", unknown
    held = [_held(threshold) for threshold in thresholds]
    if comparison is None:
        return _alone(held, thresholds)
    verdict, why = _compared_verdict(evidence, comparison)
    return verdict, [why, *held]


def _alone(held: list[str], thresholds: Sequence[Threshold]) -> tuple[Word, list[str]]:
    # A bound that an answer of no worth would hold as well requires nothing.
    if any(one.metric.startswith(_QUALITY) and not parse_condition(one.condition).holds(0.0) for one in thresholds):
        return "promote", held
    return "inconclusive", [
        "no other prompt is in production to compare with, and the gate requires no score: add gate: {require: {score: '>= …'}}"
    ]


def _compared_verdict(evidence: Evidence, found: Comparison) -> tuple[Word, str]:
    what = f"{name_against(evidence.against)}: {points(found.difference)}"
    if found.lower is None or found.upper is None:
        return "inconclusive", f"{what}; {_too_few(found)}"
    what += f" ({100 * found.lower:+.1f} to {100 * found.upper:+.1f})"
    if found.margin is None:
        if found.lower > 0:
            return "promote", f"better than the {what}"
        return "inconclusive", f"not shown to be better than the {what}{_wanted(found)}"
    if found.upper < 0:
        return "reject", f"worse than {what}"
    if found.lower >= -found.margin:
        unseen = f"a drop of up to {100 * found.margin:g} points could go unseen"
        return "promote", f"not worse than {what}; {unseen}"
    return "inconclusive", f"a drop of more than {100 * found.margin:g} points can't be ruled out against {what}{_wanted(found)}"


def _wanted(found: Comparison) -> str:
    if found.needed is None:
        return "; at these rates no number of cases would show it"
    return f"; at these rates about {found.needed} cases would decide"


def _too_few(found: Comparison) -> str:
    return f"fewer than {statistics.MIN_NONZERO} scores differ{_wanted(found)}"


# --- the comparison ---------------------------------------------------------------------------------------


def _compared(evidence: Evidence) -> bool:
    return bool(evidence.against)


def _must_win(evidence: Evidence) -> bool:
    return evidence.against.startswith(MAJORITY)


def _comparison(evidence: Evidence, rows: Sequence[CaseRow]) -> Comparison | None:
    pairs = [row for row in rows if row.base_passed is not None]
    if not _compared(evidence) or not pairs:
        return None
    margin = None if _must_win(evidence) else evidence.rules.margin
    alpha = statistics.per_look(ALPHA, max(1, evidence.looks)) if margin is None else ALPHA
    if evidence.rules.metric == "score" and margin is not None:
        return _by_score(evidence, pairs, margin, alpha)
    return _by_passes(pairs, margin, alpha)


def _by_passes(pairs: Sequence[CaseRow], margin: float | None, alpha: float) -> Comparison:
    before, after = [row.base_passed or 0.0 for row in pairs], [row.passed or 0.0 for row in pairs]
    differences = [new - old for new, old in zip(after, before, strict=True)]
    better, worse = sum(change > 0 for change in differences), sum(change < 0 for change in differences)
    whole = all(change in (-1, 0, 1) for change in differences)
    reject = min(alpha, REJECT_ALPHA)
    if whole:
        lower, upper = (statistics.tango(better, worse, len(pairs), level) for level in (alpha, reject))
        needed = statistics.needed_cases(better, worse, len(pairs), margin=margin, alpha=alpha)
    else:
        lower, upper = (statistics.tango_clustered(differences, level) for level in (alpha, reject))
        needed = statistics.needed_cases_clustered(differences, margin=margin, alpha=alpha)
    return Comparison(
        metric="pass_rate",
        before=fmean(before),
        after=fmean(after),
        lower=lower.lower,
        upper=upper.upper,
        alpha=alpha,
        margin=margin,
        better=better,
        worse=worse,
        mcnemar=statistics.mcnemar(better, worse) if whole else None,
        needed=needed,
    )


def _by_score(evidence: Evidence, pairs: Sequence[CaseRow], margin: float, alpha: float) -> Comparison:
    before = [row.base_score if row.base_score is not None else row.base_passed or 0.0 for row in pairs]
    after = [row.score for row in pairs]
    differences = [new - old for new, old in zip(after, before, strict=True)]
    seed = f"{evidence.suite}:{evidence.prompt}:{evidence.against}"
    lower, upper = (statistics.paired_bootstrap(differences, seed, level) for level in (alpha, min(alpha, REJECT_ALPHA)))
    return Comparison(
        metric="score",
        before=fmean(before),
        after=fmean(after),
        lower=lower.lower if lower else None,
        upper=upper.upper if upper else None,
        alpha=alpha,
        margin=margin,
        better=sum(change > 0 for change in differences),
        worse=sum(change < 0 for change in differences),
        needed=statistics.needed_cases_scores(differences, margin=margin, alpha=alpha),
    )


def _vetoes(evidence: Evidence, rows: Sequence[CaseRow]) -> Iterator[str]:
    """A case that must pass and no longer does; without an incumbent, one that does not pass."""
    wanted = set(evidence.must_pass)
    incumbent = _compared(evidence) and not _must_win(evidence)
    for row in rows:
        if row.id not in wanted or (row.passed or 0.0) >= 0.5:
            continue
        if not incumbent:
            yield f"case {row.id} must pass and does not"
        elif (row.base_passed or 0.0) >= 0.5:
            yield f"case {row.id} must pass and has regressed"


# --- thresholds -------------------------------------------------------------------------------------------


def _thresholds(evidence: Evidence, rows: Sequence[CaseRow]) -> Iterator[Threshold]:
    for metric, text in evidence.rules.require.items():
        condition = parse_condition(text)
        values = {"pass_rate": [row.passed or 0.0 for row in rows], "score": [row.score for row in rows]}.get(metric)
        interval = statistics.wilson_clustered(values) if values else None
        value = (fmean(values) if values else None) if values is not None else evidence.metrics.get(metric)
        judged: float | None = value
        if condition.side and values:
            # One-sided 95 %, so the two-sided interval of 90 %.
            ends = statistics.wilson_clustered(values, 1 - 2 * ALPHA)
            judged = ends.lower if condition.side == "lower95" else ends.upper
        yield Threshold(
            metric=metric,
            condition=text,
            value=value,
            lower=interval.lower if interval else None,
            upper=interval.upper if interval else None,
            holds=None if judged is None else condition.holds(judged),
        )


def _missed(threshold: Threshold) -> str:
    return f"{threshold.metric} {_shown(threshold)} misses {threshold.condition}"


def _held(threshold: Threshold) -> str:
    return f"{threshold.metric} {_shown(threshold)} holds {threshold.condition}"


def _shown(threshold: Threshold) -> str:
    value = "unknown" if threshold.value is None else f"{threshold.value:.4g}"
    return value if threshold.lower is None else f"{value} ({threshold.lower:.3f} to {threshold.upper:.3f})"


# --- words ------------------------------------------------------------------------------------------------


def name_against(against: str) -> str:
    """What the baseline was, in words."""
    if against.startswith(MAJORITY):
        return f"holdout's own {against}"
    if against.startswith(OWN_RECEIPT):
        return f"its own receipt {against.removeprefix(OWN_RECEIPT)[:12]}"
    return f"production {against[:12]}" if len(against) == 64 else against


def points(share: float) -> str:
    """A difference of shares in words."""
    return f"{100 * share:+.1f} points"


def _with_interval(rates: Sequence[float]) -> tuple[float, float, float] | None:
    if not rates:
        return None
    interval = statistics.wilson_clustered(rates)
    return fmean(rates), interval.lower, interval.upper


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
