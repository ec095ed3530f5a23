"""A report as the value that ``--json`` writes."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from ..attempt import Attempt
from ..gate import Comparison, Threshold
from ..report import ArmReport, CaseReport, Report
from . import words

VERSION = 1
"""Raised when a name changes its meaning or goes; new names may come without."""


def data(report: Report) -> dict[str, Any]:
    """The report as JSON values only. Shares are 0 to 1, times in ms, costs in US dollars; ``None`` is unknown or none.

    ``verdict`` is the word, ``says`` the line that every form begins with. ``cases`` stand in the suite's order; a case's ``group`` is
    ``regressed``, ``fixed``, ``failing``, ``unscored`` or ``passing``, its ``answers`` are those of each arm by role, one a repeat.
    ``inputs`` is ``None`` while they are sealed.
    """
    head, judgement = report.head, report.head.judgement
    group_of = {case.id: name for name, cases in words.groups(report).items() for case in cases}
    found: dict[str, Any] = {
        "version": VERSION,
        "verdict": judgement.verdict,
        "says": words.verdict_line(judgement),
        "reasons": list(judgement.reasons),
        "exit_code": judgement.exit_code,
        "report": head.id,
        "identity": head.identity,
        "created": head.created,
        "task": head.task,
        "part": head.part,
        "suite": head.suite,
        "scorers": list(head.scorers),
        "repeats": head.repeats,
        "rules": msgspec.to_builtins(head.rules),
        "must_pass": list(head.must_pass),
        "against": head.against,
        "pass_rate": _triple(judgement.pass_rate),
        "baseline_pass_rate": _triple(judgement.baseline_rate),
        "comparison": _comparison(judgement.comparison),
        "thresholds": [_threshold(one) for one in judgement.thresholds],
        "arms": [_arm(one) for one in head.arms],
        "counts": {"cases": len(report.cases)} | {name: len(cases) for name, cases in words.groups(report).items()},
        "looks": head.looks,
        "reveals": head.reveals,
        "left": dict(head.left),
        "notes": words.remarks(report),
        "fresh": head.fresh,
        "seconds": head.seconds,
        "spent_usd": head.spent,
        "cases": [_case(report, case, group_of[case.id]) for case in report.cases],
    }
    return json_safe(found)  # type: ignore[no-any-return]


def json_safe(value: Any) -> Any:
    """``value`` with what JSON and UTF-8 can't hold made so: NaN and infinities are ``None``, lone surrogates shown by their codes."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return _safe(value)
    return value  # as nearly always, and found out in a tenth of the time


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_safe(name): _safe(item) for name, item in value.items()}
    return [_safe(item) for item in value] if isinstance(value, list) else value


def _triple(found: words.Triple | None) -> dict[str, float] | None:
    return None if found is None else dict(zip(("value", "lower", "upper"), found, strict=True))


def _comparison(found: Comparison | None) -> dict[str, Any] | None:
    return None if found is None else {**msgspec.to_builtins(found), "difference": found.difference}


def _threshold(found: Threshold) -> dict[str, Any]:
    return dict(msgspec.to_builtins(found))


def _arm(arm: ArmReport) -> dict[str, Any]:
    counts = arm.tally
    return {
        "role": arm.role,
        "prompt": arm.prompt,
        "model": arm.model,
        "name": arm.name,
        "cases": counts.cases,
        "scored": counts.scored,
        "passed": counts.passed,
        "answers": counts.calls,
        "sources": dict(counts.sources),
        "cost_usd": counts.cost,
        "tokens": {name: getattr(counts.usage, name) for name in counts.usage.__struct_fields__},
        "provider_cache_share": counts.usage.cached / counts.usage.input if counts.usage.input else None,
        "metrics": {name: words.metric(arm, name) for name in counts.metrics},
        "tags": {name: {"cases": cases, "passed": passed} for name, (cases, passed) in counts.tags.items()},
        "flaky": list(counts.flaky),
    }


def _case(report: Report, case: CaseReport, group: str) -> dict[str, Any]:
    answers = zip(report.head.arms, case.attempts, strict=True)
    return {
        "id": case.id,
        "group": group,
        "tags": list(case.tags),
        "inputs": dict(case.inputs) or None,
        "expected": case.expected,
        "passed": case.row.passed,
        "baseline_passed": case.row.base_passed,
        "score": None if case.row.passed is None else case.row.score,
        "baseline_score": case.row.base_score,
        "answers": {arm.role: [_attempt(one) for one in attempts] for arm, attempts in answers},
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    answered = bool(attempt.source)
    return {
        "output": attempt.output if answered else None,
        "passed": attempt.passed,
        "score": attempt.score,
        "why": attempt.why,
        "grades": [
            {"scorer": one.scorer, "score": one.score, "passed": one.passed, "why": one.why, "paths": dict(one.paths)}
            for one in attempt.grades
        ],
        "broken": list(attempt.broken),
        "stop": attempt.stop if answered else None,
        "latency_ms": 1000 * attempt.latency if attempt.latency else None,
        "cost_usd": attempt.cost,
        "tokens_in": attempt.usage.input,
        "tokens_out": attempt.usage.output,
        "source": attempt.source or None,
    }
