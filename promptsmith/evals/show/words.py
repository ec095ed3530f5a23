"""What every form of a report says in the same words: the verdict, the arms, the difference, the groups of cases."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from ...models.nearest import NAME as NEAREST
from .. import statistics
from ..attempt import Attempt
from ..gate import OWN_RECEIPT, REJECT_ALPHA, Comparison, Judgement, Threshold, name_against, points
from ..measure import pass_rate
from ..report import ArmReport, CaseReport, Head, Report

Group = Literal["regressed", "fixed", "failing", "unscored", "passing"]
GROUPS: tuple[Group, ...] = ("regressed", "fixed", "failing", "unscored", "passing")
"""In the order in which they are shown; a case is in one of them."""

UNKNOWN = "unknown"
_NOT_ASCII = re.compile(r"[^ -~]")
Triple = tuple[float, float, float]
"""An observed value with both ends of its interval."""


# --- text -------------------------------------------------------------------------------------------------


def visible(text: str, keep: str = "") -> str:
    r"""``text`` with everything that does not print, but for what is in ``keep``, shown by its code (``\x1b``)."""
    if text.isprintable():
        return text
    return _NOT_ASCII.sub(lambda found: found[0] if found[0].isprintable() or found[0] in keep else ascii(found[0])[1:-1], text)


def shortened(text: str, most: int) -> str:
    """``text``, cut to about ``most`` characters; a cut says how long the whole is."""
    if len(text) <= most:
        return text
    tail = f"… ({len(text):,} characters)"
    return text[: max(1, most - len(tail))].rstrip() + tail


def count(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# --- numbers ----------------------------------------------------------------------------------------------


def share(value: float | None) -> str:
    """A share as percentage."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def share_within(found: Triple | None) -> str:
    """A share with its interval."""
    return UNKNOWN if found is None else f"{share(found[0])} ({100 * found[1]:.1f} to {100 * found[2]:.1f})"


def within(lower: float, upper: float) -> str:
    """Both ends of a difference's interval, in points."""
    return f"({100 * lower:+.1f} to {100 * upper:+.1f})"


def plain(value: float | None) -> str:
    """A score."""
    return UNKNOWN if value is None else f"{value:.3f}"


def dollars(value: float | None) -> str:
    """US dollars, with the digits that a small amount needs."""
    if value is None:
        return UNKNOWN
    return "$0" if value == 0 else f"${value:.4f}" if value >= 0.001 else f"${value:.2g}"


def milliseconds(value: float | None) -> str:
    """A latency."""
    return UNKNOWN if value is None else f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms"


def tokens(value: float | None) -> str:
    """A mean number of tokens."""
    return UNKNOWN if value is None else f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:,.1f}"


# --- verdict ----------------------------------------------------------------------------------------------


def verdict_line(judgement: Judgement) -> str:
    """The verdict and the gate's reasons for it, as every form says it."""
    return visible(": ".join([judgement.verdict, *(["; ".join(judgement.reasons)] if judgement.reasons else [])]))


def title(report: Report) -> str:
    """What was judged on what, on one line."""
    return visible(f"{report.head.task}: {extent(report)}")


def extent(report: Report) -> str:
    """How many cases of what."""
    head, cases = report.head, count(len(report.cases), "case")
    asked = f", each asked {head.repeats} times" if head.repeats > 1 else ""
    of = ", recorded outputs" if head.part == "outputs" else f" of the {head.part}"
    return f"{cases}{of}{asked}"


def origin(head: Head) -> str:
    """Which report it is."""
    return f"report {head.id}, {head.created}"


def threshold_line(found: Threshold) -> str:
    """One rule of ``require:``, what was observed, and whether it holds."""
    value = UNKNOWN if found.value is None else f"{found.value:.4g}"
    if found.lower is not None and found.upper is not None:
        value += f" ({found.lower:.3f} to {found.upper:.3f})"
    return f"{visible(found.metric)} {value}, required {found.condition}: {held(found)}"


def held(found: Threshold) -> str:
    """Whether a threshold holds, in a word or two."""
    return {True: "holds", False: "missed", None: "can't be judged"}[found.holds]


def difference_line(judgement: Judgement) -> str:
    """Candidate minus baseline with its interval, and what is known beside it; empty without a comparison."""
    found = judgement.comparison
    if found is None:
        return ""
    known = found.lower is not None and found.upper is not None
    ends = within(found.lower or 0.0, found.upper or 0.0) if known else "(no interval)"
    parts = [f"{points(found.difference)} {ends}, {levels(found)}"]
    parts.append(f"{count(found.better, 'case')} better, {found.worse:,} worse")
    parts.append(f"margin {100 * found.margin:g} points" if found.margin is not None else "must be better")
    if found.mcnemar is not None:
        p = f"= {found.mcnemar:.3f}" if found.mcnemar >= 0.001 else "< 0.001"
        parts.append(f"McNemar p {p} (for information)")
    return f"{found.metric} {'; '.join(parts)}"


def levels(found: Comparison) -> str:
    """The one-sided levels of the two ends of a difference: the upper one, which rejects, has its own."""
    lower, upper = (f"one-sided {share(1 - alpha)}" for alpha in (found.alpha, min(found.alpha, REJECT_ALPHA)))
    return f"each end at {lower}" if lower == upper else f"lower end at {lower}, upper at {upper}"


# --- arms -------------------------------------------------------------------------------------------------


class ArmColumn(NamedTuple):
    """One arm as a column of the table: its role, who it is, and its pass rate with the interval."""

    role: str
    label: str
    rate: Triple | None
    arm: ArmReport | None
    """``None``: a baseline that was not asked (the majority answer, a receipt)."""


def arm_columns(report: Report) -> list[ArmColumn]:
    """The baseline first, then the candidate, then what stands beside them."""
    head = report.head
    columns = [ArmColumn("candidate", label(head.candidate), head.judgement.pass_rate, head.candidate)]
    for number, arm in enumerate(head.arms[1:], start=1):
        rate = head.judgement.baseline_rate if arm.role == "baseline" else _observed(report, number)
        columns.insert(0 if arm.role == "baseline" else len(columns), ArmColumn(arm.role, label(arm), rate, arm))
    if head.against and head.arm("baseline") is None:
        columns.insert(0, ArmColumn("baseline", visible(name_against(head.against)), head.judgement.baseline_rate, None))
    return columns


def label(arm: ArmReport) -> str:
    """Who an arm is: the prompt's id, how it was named, the model."""
    parts = [arm.prompt[:12], arm.name, f"on {arm.model}" if arm.model else ""]
    return visible(" ".join(filter(None, parts))) or "recorded outputs"


def _observed(report: Report, number: int) -> Triple | None:
    rates = [rate for case in report.cases if (rate := pass_rate(case.attempts[number])) is not None]
    if not rates:
        return None
    interval = statistics.wilson_clustered(rates)
    return sum(rates) / len(rates), interval.lower, interval.upper


def _metric(name: str, form: Callable[[float | None], str]) -> Callable[[ArmReport], str]:
    return lambda arm: form(metric(arm, name))


def source(arm: ArmReport, name: str) -> str:
    """Where an arm's answers came from; what ``builtin/nearest`` answers comes from no model."""
    return NEAREST if name == "model" and arm.model == NEAREST else name


def _sources(arm: ArmReport) -> str:
    found = {source(arm, name): number for name, number in arm.tally.sources.items()}
    if len(found) == 1:
        return f"{next(iter(found))} (all {arm.tally.calls:,})"
    return ", ".join(f"{name} {number:,} ({share(number / arm.tally.calls)})" for name, number in found.items()) or "-"


_OF_CALLS = ("mean_ms", "p50_ms", "p95_ms", "cost_", "tokens_")


def metric(arm: ArmReport, name: str) -> float | None:
    """What was observed of an arm; recorded outputs tell nothing of latency, cost and tokens."""
    known = arm.prompt or not name.startswith(_OF_CALLS)
    return arm.tally.metrics.get(name) if known else None


def _latency(arm: ArmReport) -> str:
    return f"{milliseconds(metric(arm, 'p50_ms'))}, {milliseconds(metric(arm, 'p95_ms'))}"


def _tokens(arm: ArmReport) -> str:
    return f"{tokens(metric(arm, 'tokens_in'))} in, {tokens(metric(arm, 'tokens_out'))} out"


def _cached(arm: ArmReport) -> str:
    usage = arm.tally.usage
    return f"{share(usage.cached / usage.input)} of input tokens" if usage.input else "-"


_ROWS: tuple[tuple[str, Callable[[ArmReport], str]], ...] = (
    ("score", _metric("score", plain)),
    ("contract", _metric("contract", share)),
    ("latency p50, p95", _latency),
    ("cost per 1k", _metric("cost_per_1k_usd", dollars)),
    ("cost in all", lambda arm: dollars(arm.tally.cost)),
    ("tokens", _tokens),
    ("provider cache", _cached),
    ("answers from", _sources),
)


def arm_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one line a metric, one column an arm; scorers only where there are several."""
    columns = arm_columns(report)
    names = ["pass rate", *(name for name, _ in _ROWS)]
    cells = [[share_within(column.rate), *(_cell(column, form) for _, form in _ROWS)] for column in columns]
    if report.head.repeats > 1:
        names.insert(1, f"pass^{report.head.repeats}")
        for column, row in zip(columns, cells, strict=True):
            row.insert(1, _cell(column, _metric("pass_k", share)))
    for scorer in _scorers(report.head):
        names.append(visible(scorer))
        for column, row in zip(columns, cells, strict=True):
            row.append(_cell(column, _metric(f"scorers.{scorer}", plain)))
    rows = [[name, *(row[place] for row in cells)] for place, name in enumerate(names)]
    return ["", *(column.role for column in columns)], rows


def _cell(column: ArmColumn, form: Callable[[ArmReport], str]) -> str:
    return form(column.arm) if column.arm is not None else "-"


def _scorers(head: Head) -> list[str]:
    names = [name.removeprefix("scorers.") for name in head.candidate.tally.metrics if name.startswith("scorers.")]
    return names if len(names) > 1 else []


def tag_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Pass rates by tag; no rows where no case has a tag."""
    baseline = report.head.arm("baseline")
    header = ["tag", "cases", *(["baseline"] if baseline else []), "candidate", *(["difference"] if baseline else [])]
    rows = []
    for tag, (cases, passed) in report.head.candidate.tally.tags.items():
        row = [visible(tag), f"{cases:,}"]
        before = baseline.tally.tags.get(tag) if baseline else None
        if baseline:
            row.append(share(before[1] / before[0]) if before else UNKNOWN)
        row.append(share(passed / cases))
        if baseline:
            row.append(points(passed / cases - before[1] / before[0]) if before else UNKNOWN)
        rows.append(row)
    return header, rows


# --- cases ------------------------------------------------------------------------------------------------


def groups(report: Report) -> dict[Group, list[CaseReport]]:
    """Every case in one group, in the order of :data:`GROUPS`."""
    regressed, fixed = ({case.id for case in cases} for cases in (report.regressed(), report.fixed()))
    found: dict[Group, list[CaseReport]] = {name: [] for name in GROUPS}
    for case in report.cases:
        found[_group(case, regressed, fixed)].append(case)
    return found


def _group(case: CaseReport, regressed: set[str], fixed: set[str]) -> Group:
    if case.row.passed is None:
        return "unscored"
    if case.id in regressed:
        return "regressed"
    if case.id in fixed:
        return "fixed"
    return "passing" if case.row.passed >= 1 else "failing"


def heading(report: Report, group: Group) -> str:
    """What a group is called in this report."""
    if group == "unscored":
        return "without a score"
    return "still failing" if group == "failing" and report.compared else group


def case_name(case: CaseReport) -> str:
    """A case's id with its tags."""
    return visible(case.id) + (f" [{', '.join(map(visible, case.tags))}]" if case.tags else "")


class Said(NamedTuple):
    """What one arm answered to a case, in words: how many of its repeats passed, and the answer that tells most."""

    summary: str
    """Empty for a single answer."""
    attempt: Attempt | None


def now(case: CaseReport) -> Said:
    """The candidate's answer: of several the first that did not pass."""
    return _said(case.attempts[0])


def before(report: Report, case: CaseReport) -> Said:
    """The baseline's; of a baseline that was not asked only whether it passed, and nothing without a baseline."""
    for number, arm in enumerate(report.head.arms):
        if arm.role == "baseline":
            return _said(case.attempts[number])
    rate = case.row.base_passed
    if rate is None or not report.head.against.startswith(OWN_RECEIPT):
        return Said("", None)
    return Said({1.0: "passed", 0.0: "did not pass"}.get(rate, f"passed in {share(rate)} of its repeats") + " (from its receipt)", None)


def _said(attempts: Sequence[Attempt]) -> Said:
    if not attempts:
        return Said("", None)
    telling = next((one for one in attempts if one.passed is None), None) or next((one for one in attempts if not one.passed), attempts[0])
    passed = sum(bool(one.passed) for one in attempts)
    return Said(f"{passed} of {len(attempts)} passed" if len(attempts) > 1 else "", telling)


def answer_text(said: Said) -> str:
    """What was answered, or that there was no answer."""
    if said.attempt is None:
        return said.summary
    output = said.attempt.output if said.attempt.source else "(no answer)"
    stop = "" if said.attempt.stop == "end" else f" (stopped: {said.attempt.stop})"
    return f"{said.summary + ': ' if said.summary else ''}{output or '(empty)'}{stop}"


def why(attempt: Attempt) -> str:
    """Why an answer did not pass or has no score, with the paths that differ."""
    return "; ".join(filter(None, [attempt.why, paths(attempt)]))


def paths(attempt: Attempt) -> str:
    """The paths that differ, those that the reason does not name already."""
    found = [f"{path} {score:.2f}" for grade in attempt.grades for path, score in grade.paths.items() if path not in attempt.why]
    return f"paths: {', '.join(found)}" if found else ""


SEALED = "sealed; --reveal shows them"
"""Stands where the inputs would, unless they were revealed."""


def inputs_text(case: CaseReport) -> str:
    """The inputs of a case, or that they are sealed."""
    if not case.inputs:
        return SEALED
    if len(case.inputs) == 1:
        return next(iter(case.inputs.values()))
    return json.dumps(case.inputs, ensure_ascii=False, indent=1)


# --- remarks ----------------------------------------------------------------------------------------------


def remarks(report: Report) -> list[str]:
    """Everything that a reader must know to take the numbers for what they are."""
    shown = any(case.inputs for case in report.cases) or not report.cases
    return [visible(text) for text in (*_remarks(report.head), *([] if shown else [f"inputs: {SEALED}"]))]


def _remarks(head: Head) -> Iterator[str]:
    for arm in head.arms:
        yield from not_a_model(head, arm)
    if head.part == "dev":
        yield "dev cases are for looking: they are no evidence for a promotion"
    if head.looks:
        yield f"look {head.looks} at this holdout{': the best of several looks reads better than it is' if head.looks > 1 else ''}"
    if head.reveals:
        yield f"its texts were revealed {count(head.reveals, 'time')}"
    if head.fresh:
        yield "fresh: nothing came from the reply cache"
    yield from (doubt for doubt in head.doubts if doubt not in head.judgement.reasons)
    yield from head.notes
    yield f"{dollars(head.spent)} paid by this run, in {head.seconds:,.1f} s"
    if head.part != "outputs" and any(source != "model" for arm in head.arms for source in arm.tally.sources):
        yield "costs and latencies of the arms are those of the answers used, whenever these were given"


def not_a_model(head: Head, arm: ArmReport) -> Iterator[str]:
    """Where an arm's answers are not those of a language model asked for this eval."""
    if arm.model == NEAREST:
        yield f"{arm.role}: {NEAREST} is no language model: it answers with the output of the most similar examples"
    recorded = arm.tally.sources.get("record", 0)
    if head.part == "outputs":
        yield f"{arm.role}: outputs read from a file; no model was called"
    elif recorded:
        all_of_them = recorded == arm.tally.calls
        yield f"{arm.role}: {'all' if all_of_them else f'{recorded:,} of'} {arm.tally.calls:,} answers replayed from a record" + (
            "; no model was called" if all_of_them else ""
        )


def flaky(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    """By role, the cases that passed in some repeats and failed in others."""
    return [(arm.role, tuple(map(visible, arm.tally.flaky))) for arm in report.head.arms if arm.tally.flaky]


def how_to_see(head: Head) -> str:
    """The command that shows the rest."""
    return f"promptsmith report {head.id} --html FILE"
