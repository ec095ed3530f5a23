"""Receipts from reports, and their verdicts computed again."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import PromptsmithError
from ..receipt import CaseRow, Counts, Receipt, make_receipt
from .gate import Evidence, Judgement, judge
from .report import ArmReport, Report, Reports


def receipt_of(report: Report) -> Receipt:
    """The evidence of a report, sealed."""
    head, judgement = report.head, report.head.judgement
    intervals = {}
    if judgement.pass_rate:
        intervals["pass_rate"] = judgement.pass_rate[1:]
    if judgement.baseline_rate:
        intervals["baseline"] = judgement.baseline_rate[1:]
    compared = judgement.comparison
    if compared and compared.lower is not None and compared.upper is not None:
        intervals["difference"] = (compared.lower, compared.upper)
    baseline = head.arm("baseline")
    return make_receipt(
        suite=head.suite,
        prompt=head.candidate.prompt,
        model=head.candidate.model,
        verdict=judgement.verdict,
        counts=_counts(head.candidate),
        baseline=_counts(baseline) if baseline else None,
        against=head.against,
        intervals=intervals,
        looks=head.looks,
        cost=head.candidate.tally.cost,
        rules=head.rules,
        metrics={name: head.candidate.tally.metrics.get(name) for name in head.rules.require},
        must_pass=head.must_pass,
        repeats=head.repeats,
        left=len(head.left),
        rejections=head.rejections,
        doubts=head.doubts,
        reveals=head.reveals,
        rows=report.rows(),
    )


def _counts(arm: ArmReport) -> Counts:
    tally = arm.tally
    return Counts(cases=tally.cases, passed=round(tally.passed), unscored=tally.cases - tally.scored)


def whole_receipt(reports: Reports, receipt: Receipt) -> Receipt | None:
    """The same receipt with its rows, made again from the report that it came from; ``None`` when that is gone."""
    for head in reports.heads():
        if (head.candidate.prompt, head.suite) != (receipt.prompt, receipt.suite):
            continue
        try:
            found = receipt_of(reports.load(head.id))
        except PromptsmithError:
            continue  # damaged or being written: another may do
        if found.digest == receipt.digest:
            return found
    return None


def recheck(receipt: Receipt) -> Judgement:
    """The verdict that a receipt's rows, rules and metrics give. Raises :class:`TamperedError` for rows of another shape."""
    return judge(Evidence.of(receipt))


def base_rows(receipt: Receipt) -> dict[str, CaseRow]:
    """The rows of a prompt's own receipt by case id, to compare with what it does today."""
    return {row.id: row for row in _scored(receipt)}


def _scored(receipt: Receipt) -> Iterator[CaseRow]:
    yield from (row for row in receipt.parse_rows() if row.passed is not None)
