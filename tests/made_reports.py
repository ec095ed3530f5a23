"""Reports made by hand from answers, with the gate's own verdict and the runner's own tallies."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from promptsmith.canonical import sha256
from promptsmith.chat import Usage
from promptsmith.evals.attempt import Attempt, Graded
from promptsmith.evals.gate import MAJORITY, Evidence, judge
from promptsmith.evals.measure import mean_score, pass_rate, tally
from promptsmith.evals.report import VERSION, ArmReport, CaseReport, Head, Report
from promptsmith.evals.suite import Case
from promptsmith.receipt import CaseRow, Rules

HOSTILE = "</script><img src=x onerror=alert(1)>]]>\x00\x1b[2J\ud800\ufffe\x85\u202e & \"q\" 'a' | `b` @octocat #1 **x** {{ 7*7 }}"
"""An output that no form may let through as anything but text."""


def answer(output: str, expected: str, *, source: str = "model", paths: Mapping[str, float] | None = None, **more: Any) -> Attempt:
    """An answer graded by ``exact``."""
    passed = output == expected
    why = "" if passed else f"expected {expected[:80]!r}, got {output[:80]!r}"
    grades = (Graded("exact", float(passed), passed, why, paths or {}),)
    usage = Usage(input=812, output=1 + len(output) // 4, cached=640)
    values = {"output": output, "passed": passed, "score": float(passed), "why": why, "grades": grades, "usage": usage, "source": source}
    return Attempt(**{**values, "latency": 0.4 + (len(output) % 7) / 10, "cost": 0.0004, **more})


def unscored(why: str = "the provider failed: 503") -> Attempt:
    return Attempt(why=why)


def made_report(
    rows: Sequence[tuple[str, str, Sequence[Attempt], Sequence[Attempt]]],
    *,
    tags: Mapping[str, tuple[str, ...]] | None = None,
    rules: Rules | None = None,
    model: str = "acme/small-1",
    prompt: str = "candidate",
    inputs: Mapping[str, dict[str, str]] | None = None,
    suite: str = "",
    against: str | None = None,
    task: str = "support/triage",
    **head: Any,
) -> Report:
    """A report on ``rows``: id, expected, the candidate's answers, the baseline's (none anywhere: a first promotion)."""
    cases = [Case(id=name, inputs={"input": "?"}, expected=expected, tags=(tags or {}).get(name, ())) for name, expected, _, _ in rows]
    arms = [[row[2] for row in rows]] + ([[row[3] for row in rows]] if any(row[3] for row in rows) else [])
    tallies = [tally(cases, arm) for arm in arms]
    ids = [sha256(prompt), sha256("baseline")]
    if against is None:
        against = ids[1] if len(arms) > 1 else MAJORITY + "billing"
    label = against.removeprefix(MAJORITY)
    found = []
    for place, (name, expected, now, _) in enumerate(rows):
        old = (pass_rate(arms[1][place]), mean_score(arms[1][place])) if len(arms) > 1 else (float(expected == label), None)
        found.append(CaseRow(name, pass_rate(now), old[0] if against else None, mean_score(now) or 0.0, old[1]))
    rules = rules or Rules(require={"pass_rate": ">= 0.8", "p95_ms": "<= 1500"})
    evidence = Evidence(
        rows=tuple(found), rules=rules, suite=suite or sha256("suite"), prompt=ids[0], against=against, metrics=tallies[0].metrics,
        looks=head.get("looks", 1), doubts=head.get("doubts", ()), rejections=head.get("rejections", ()),
    )  # fmt: skip
    reports = [ArmReport(role="candidate", prompt=ids[0], model=model, name="support/triage@latest", tally=tallies[0])]
    if len(arms) > 1:
        reports.append(ArmReport(role="baseline", prompt=ids[1], model="acme/small-1", name="support/triage@production", tally=tallies[1]))
    values: dict[str, Any] = {
        "version": VERSION, "id": sha256(f"{prompt}{model}".encode(errors="replace"))[:12], "identity": sha256("identity"),
        "created": "2026-11-21T14:00:00Z",
        "task": task, "part": "holdout", "suite": evidence.suite, "scorers": ("exact-1",), "rules": rules, "arms": tuple(reports),
        "against": against, "judgement": judge(evidence), "looks": 1, "seconds": 12.3, "spent": 0.08,
    }  # fmt: skip
    made = tuple(
        CaseReport(
            row=row, expected=case.expected, tags=case.tags, inputs=(inputs or {}).get(case.id, {}),
            attempts=tuple(tuple(arm[place]) for arm in arms),
        )
        for place, (row, case) in enumerate(zip(found, cases, strict=True))
    )  # fmt: skip
    return Report(head=Head(**{**values, **head}), cases=made)


LABELS = ("billing", "bug report", "cancellation", "feature request")


def worse_report(n: int = 100, **more: Any) -> Report:
    """A candidate that lost 14 cases of ``n`` and won 3: rejected, with every kind of case in it."""
    dice = random.Random(4)
    rows, tags = [], {}
    for i in range(n):
        expected = LABELS[dice.randrange(4)]
        wrong = LABELS[(LABELS.index(expected) + 1) % 4]
        now, before = (wrong, expected) if i < 14 else (expected, wrong) if i < 17 else (wrong, wrong) if i < 21 else (expected, expected)
        rows.append((f"ticket-{i:03}", expected, [answer(now, expected)], [answer(before, expected)]))
        tags[f"ticket-{i:03}"] = (("angry", "calm")[i % 2], *(("short",) if i % 5 == 0 else ()))
    values: dict[str, Any] = {
        "left": {"ticket-900": "the candidate was built from it"}, "looks": 3, "reveals": 1,
        "notes": ("2 near duplicates stay in the holdout",),
    }  # fmt: skip
    return made_report(rows, tags=tags, **{**values, **more})


LONG = (
    "Dear Ms Brandt, thank you for writing. Your order 4412 left our warehouse on Tuesday and should reach you by Friday. "
    "If it does not, reply to this message and we refund the full amount of 49.90 EUR within five working days."
)


def text_report(**more: Any) -> Report:
    """Long texts, some broken, one hostile, one unscored, JSON paths."""
    changed = LONG.replace("Tuesday", "Monday").replace("full amount of 49.90 EUR", "amount")
    order = '{"order": 4412, "items": [{"sku": "A-1", "price": 49.9}], "refund": true}'
    wrong = order.replace("49.9", "4.99").replace("true", "false")
    rows = [
        ("letter-brandt", LONG, [answer(changed, LONG)], [answer(LONG, LONG)]),
        ("order-4412", order, [answer(wrong, order, paths={"items[0].price": 0.0, "refund": 0.0})], [answer(order, order)]),
        ("hostile", "a calm answer", [answer(HOSTILE, "a calm answer")], [answer("a calm answer", "a calm answer")]),
        ("outage", "anything", [unscored()], [answer("anything", "anything")]),
        *((f"fine-{i}", f"answer {i}", [answer(f"answer {i}", f"answer {i}")], [answer(f"answer {i}", f"answer {i}")]) for i in range(30)),
    ]
    given = {"letter-brandt": {"input": "Where is my order 4412?\nIt was due on Monday. — Brandt"}}
    return made_report(rows, inputs=given, tags={"order-4412": ("json",), "hostile": (HOSTILE,)}, **more)


def first_report(**more: Any) -> Report:
    """A first promotion, of ``builtin/nearest``, replayed from a record."""
    rows = [(f"c{i}", label := LABELS[i % 4], [answer(label if i % 9 else "bug report", label, source="record")], ()) for i in range(40)]
    return made_report(rows, **{"model": "builtin/nearest", "rules": Rules(), **more})


def repeated_report(**more: Any) -> Report:
    """Each case asked five times, some of them flaky."""
    rows = []
    for i in range(40):
        label = LABELS[i % 4]
        now = [answer(label if (i + j) % 7 else "billing", label) for j in range(5)]
        rows.append((f"c{i}", label, now, [answer(label if (i + j) % 11 else "billing", label) for j in range(5)]))
    return made_report(rows, repeats=5, **more)
