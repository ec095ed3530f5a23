"""A report as JUnit XML, the form that CI servers read: one suite, one case each, and the gate as a case of its own.

There is no standard; this is the common core of what Jenkins, GitLab and GitHub's actions read, as pytest writes it (``xunit2``).
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from ..attempt import Attempt
from ..report import CaseReport, Report
from . import words

GATE = "gate"
MESSAGE, BODY = 300, 2000
"""Characters of one output in a failure's message and in its body."""
PATHS = 50
_TEXT = "\n\t"


def junit(*reports: Report) -> str:
    """The reports as XML 1.0, a suite each.

    A case that does not pass is a ``failure``, one without a score an ``error``; one that left the suite is skipped. The gate fails
    unless it promotes: a ``failure`` when it rejects, an ``error`` when nothing is decided.
    """
    root = ET.Element("testsuites", name="promptsmith")
    root.extend(map(_suite, reports))
    _count(root)
    root.set("time", f"{sum(report.head.seconds for report in reports):.3f}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(report: Report) -> ET.Element:
    head = report.head
    name = _clean(f"{head.task} ({head.part})")
    suite = ET.Element("testsuite", name=name, timestamp=head.created.removesuffix("Z"), time=f"{head.seconds:.3f}")
    _properties(suite, report)
    _gate(suite, report)
    regressed = {case.id for case in report.regressed()}
    for case in report.cases:
        _case(suite, report, case, "regressed" if case.id in regressed else "failed")
    for case_id, reason in head.left.items():
        ET.SubElement(_testcase(suite, report, _clean(case_id)), "skipped", message=_clean(f"left the suite: {reason}"))
    _count(suite)
    return suite


def _count(element: ET.Element) -> None:
    for key, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(key, str(sum(1 for _ in element.iter(tag))))


def _properties(suite: ET.Element, report: Report) -> None:
    head = report.head
    properties = ET.SubElement(suite, "properties")
    values = {"verdict": head.judgement.verdict, "report": head.id, "suite": head.suite, "prompt": head.candidate.prompt}
    for key, value in (values | {"model": head.candidate.model}).items():
        ET.SubElement(properties, "property", name=key, value=_clean(value))


def _gate(suite: ET.Element, report: Report) -> None:
    judgement = report.head.judgement
    case = _testcase(suite, report, GATE)
    verdict = words.verdict_line(judgement)
    lines = [verdict, *(f"{column.role}: {words.share_within(column.rate)}, {column.label}" for column in words.arm_columns(report))]
    lines += filter(None, [words.difference_line(judgement), *map(words.threshold_line, judgement.thresholds), *words.remarks(report)])
    text = _clean("\n".join(lines))
    if judgement.verdict == "promote":
        ET.SubElement(case, "system-out").text = text
    else:
        kind = "failure" if judgement.verdict == "reject" else "error"
        ET.SubElement(case, kind, message=_clean(verdict), type=judgement.verdict).text = text


def _case(suite: ET.Element, report: Report, case: CaseReport, kind: str) -> None:
    attempts = case.attempts[0]
    element = _testcase(suite, report, words.case_name(case), sum(one.latency for one in attempts))
    said = words.now(case)
    if case.row.passed is None:
        reason = words.why(said.attempt) if said.attempt is not None else "it was not reached"
        ET.SubElement(element, "error", message=_clean(f"no score: {_brief(reason)}"), type="unscored").text = _body(report, case)
    elif case.row.passed < 1:
        ET.SubElement(element, "failure", message=_clean(_message(case, said)), type=kind).text = _body(report, case)


def _testcase(suite: ET.Element, report: Report, name: str, seconds: float = 0.0) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=_clean(report.head.task), name=name, time=f"{seconds:.3f}")


def _message(case: CaseReport, said: words.Said) -> str:
    reason = words.why(said.attempt) if said.attempt is not None else ""
    expected, actual = _brief(case.expected), _brief(words.answer_text(said))
    return f"expected {expected!r}, got {actual!r}" + (f": {_brief(reason)}" if reason else "")


def _body(report: Report, case: CaseReport) -> str:
    lines = [f"input: {_long(words.inputs_text(case))}", f"expected: {_long(case.expected)}"]
    if old := words.answer_text(words.before(report, case)):
        lines.append(f"before: {_long(old)}")
    lines += _answers(case.attempts[0])
    return _clean("\n".join(lines))


def _answers(attempts: Sequence[Attempt]) -> list[str]:
    lines = []
    for number, attempt in enumerate(attempts, start=1):
        of = f" {number} of {len(attempts)}" if len(attempts) > 1 else ""
        lines.append(f"actual{of}: {_long(words.answer_text(words.Said('', attempt)))}")
        lines += [f"why{of}: {_long(attempt.why)}"] if attempt.why else []
        differing = [f"path {path} ({grade.scorer}): {score:.2f}" for grade in attempt.grades for path, score in grade.paths.items()]
        lines += differing[:PATHS] + ([f"and {len(differing) - PATHS} more paths"] if len(differing) > PATHS else [])
    return lines


def _brief(text: str) -> str:
    return words.shortened(text, MESSAGE)


def _long(text: str) -> str:
    return words.shortened(text, BODY)


def _clean(text: str) -> str:
    """``text`` as XML 1.0 can hold it: every character outside its production Char is one that does not print."""
    return words.visible(text, _TEXT)
