"""Values for the service's pages: the real types; the names, texts and figures are made up."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from promptsmith.canonical import sha256
from promptsmith.contract import Check, Contract, Labels
from promptsmith.pages.frame import Frame
from promptsmith.pages.service.values import (
    Answer,
    Canary,
    CostRow,
    Costs,
    Fault,
    Figures,
    Hours,
    Overview,
    Production,
    ReportList,
    TaskPage,
    TaskRow,
    TraceList,
    TraceRow,
    TryIt,
    Version,
)
from promptsmith.prompt import Build, Pair, Prompt, Provenance, Serve, Variable, example_block, make_prompt
from promptsmith.receipt import CaseRow, Counts, Receipt, Rules, make_receipt
from promptsmith.registry.protocol import Move

from .made_reports import first_report, repeated_report, text_report, worse_report

NOON = 1_795_262_400.0
"""2026-11-21T12:00:00Z."""
TASKS = (
    "support/triage",
    "support/reply-to-complaints-about-late-deliveries-in-the-nordic-countries",
    "invoices/extract",
    "invoices/line-items-to-cost-centres",
    "legal/clause-risk",
    "search/query-rewrite",
    "moderation/first-pass",
    "sentiment",
    "translate/product-titles",
    "weekly-digest",
)
MODELS = ("acme/small", "acme/large-2026-10", "openai/gpt-5-mini", "anthropic/claude-haiku-4-5", "builtin/nearest")
LABELS = ("billing", "bug report", "feature request", "cancellation", "other")
RULE = (
    "Read the whole message before you decide: the last sentence often says what is wanted. A message that asks for money back is "
    "billing, even when it is angry. A crash, an error code or a blank page is a bug report. Wishes („könnte man nicht…“, 〜してほしい) "
    "are feature requests, not bugs. If the customer wants to leave, it is cancellation, whatever the reason given for it."
)


def frame(**more: Any) -> Frame:
    """Signed in as an admin of a server registry, unless said otherwise."""
    return Frame(**{
        "nonce": "bm9uY2Utb2YtYS10ZXN0", "project": "acme-support", "who": "ops", "admin": True, "csrf": "token-1",
        "server_registry": True, **more
    })  # fmt: skip


def reader(**more: Any) -> Frame:
    """Signed in without the right to move anything."""
    return frame(admin=False, who="dashboard", **more)


def figures(seed: int, calls: int = 12_480) -> Figures:
    dice = random.Random(seed)
    checked = calls - dice.randrange(calls // 10 + 1)
    return Figures(
        calls=calls,
        errors=dice.choice((0, 0, calls // 400)),
        replayed=calls // dice.randrange(3, 9),
        checked=checked,
        adherent=checked - dice.randrange(checked // 20 + 1),
        usd=calls * dice.uniform(0.0001, 0.004),
        unpriced=dice.choice((0, 0, 0, calls // 50)),
        input=calls * 1_940,
        cached=calls * 1_510,
        output=calls * 12,
        p50=dice.uniform(0.2, 0.9) if calls else None,
        p95=dice.uniform(0.9, 3.2) if calls else None,
    )


def hours(seed: int, busy: int = 900) -> Hours:
    dice = random.Random(seed)
    day = [busy * (0.1 + max(0.0, 1 - abs(hour - 14) / 9)) for hour in range(24)]
    return Hours(tuple(int(most * dice.uniform(0.6, 1)) if hour > 1 else 0 for hour, most in enumerate(day)), NOON)


def prompt(number: int = 0, task: str = "support/triage", *, rules: int = 5, examples: int = 6, **more: Any) -> Prompt:
    """About 3,000 characters."""
    pairs = [Pair({"input": f"Message {i}: the invoice {4000 + i} was paid twice, please look"}, LABELS[i % 5]) for i in range(examples)]
    numbered = "\n".join(f"{i + 1}. {RULE if i % 2 else RULE[: 160 + 20 * i]}" for i in range(rules + number % 3))
    system = f"You sort messages of customers for the support desk of a shop.\n\n{numbered}\n\n{example_block(pairs)}"
    checked = Contract(Labels(LABELS), checks=(Check("max_chars", 15, "No more than 15 characters."),))
    given = {
        "task": task,
        "system": system,
        "contract": checked if number % 2 else Contract(Labels(LABELS), inferred=True),
        "model": MODELS[number % 3],
        "parameters": {"max_tokens": 16, "temperature": 0.0},
        "inputs": (),
        "serve": Serve(),
        "provenance": Provenance(
            created=f"2026-11-{20 - number % 19:02d}T09:{number % 60:02d}:11Z", version="0.6.0", level=1, level_why="asked for",
            build=Build(key=sha256(f"{number}"), inputs={"task": "0" * 16}, epoch=1), meta="acme/large-2026-10", shown=examples,
        ),
    }  # fmt: skip
    return make_prompt(**{**given, **more})


def receipt(of: Prompt, against: str = "") -> Receipt:
    rows = [CaseRow(f"c{i}", float(i % 11 > 0), float(i % 8 > 0), float(i % 11 > 0)) for i in range(120)]
    return make_receipt(
        suite=sha256("suite"),
        prompt=of.id,
        model=of.model,
        verdict="promote",
        counts=Counts(120, 109),
        baseline=Counts(120, 105),
        against=against or sha256("before"),
        intervals={"pass_rate": (0.845, 0.949), "baseline": (0.805, 0.922), "difference": (-0.021, 0.088)},
        looks=4,
        cost=0.31,
        rules=Rules(require={"pass_rate": ">= 0.9", "p95_latency": "<= 2.5"}, must_pass=("legal",)),
        rows=rows,
    )


def canary(**more: Any) -> Canary:
    given = {
        "state": "running",
        "alias": "production",
        "candidate": prompt(1).id,
        "incumbent": prompt(2).id,
        "share": 0.1,
        "started": "2026-11-21T08:30:00Z",
        "ours": figures(31, 1_204),
        "theirs": figures(32, 10_873),
        "says": ("adherence: candidate 1.2 points lower (-3.0 to +0.6); it stops when it is significantly worse, error rate 1 %",),
    }
    return Canary(**{**given, **more})


def moves(number: int = 40) -> tuple[Move, ...]:
    """The latest first."""
    dice = random.Random(7)
    reasons = (
        "",
        "better on refunds",
        "the new model is half the price; gate says no drop",
        "regression on German messages, see the report of Monday",
    )
    found = []
    for place in range(number):
        kind = dice.choice(("promoted", "promoted", "rollback", "forced"))
        found.append(
            Move(
                alias=dice.choice(("production", "production", "candidate")),
                from_=sha256(f"{place + 1}") if place + 1 < number else None,
                to=sha256(f"{place}"),
                when=f"2026-{11 - place // 20:02d}-{28 - place % 20:02d}T14:{place:02d}:00Z",
                who=dice.choice(("Ada Lovelace", "ci", "Grace Hopper")),
                why=dice.choice(reasons),
                forced=kind == "forced",
                rollback=kind == "rollback",
                receipt=sha256(f"r{place}") if kind == "promoted" else None,
            )
        )
    return tuple(found)


def versions() -> tuple[Version, ...]:
    aliases = {1: ("candidate",), 2: ("production", "eu"), 4: ("last-good",)}
    made = [prompt(number) for number in range(6)]
    return tuple(
        Version(
            id=one.id, created=one.provenance.created, model=one.model, aliases=aliases.get(number, ()),
            origin="lock" if number else "cache", verdict="promote" if number in (1, 2) else "",
            figures=figures(number, 4_000 // (number + 1)),
        )
        for number, one in enumerate(made)
    )  # fmt: skip


def task_page(number: int = 2, **more: Any) -> TaskPage:
    shown = prompt(number)
    given = {
        "task": "support/triage",
        "chosen": "support/triage@production",
        "origin": "lock",
        "prompt": shown,
        "versions": versions(),
        "production": Production(id=prompt(2).id, since="2026-11-20T16:04:00Z", who="Ada Lovelace", model=prompt(2).model),
        "figures": figures(1),
        "hours": hours(1),
        "cacheability": (
            "too short to be cached on openai/gpt-5-mini (about 812 tokens, the least is 1,024)",
            "the prompt's tokens, 1,000 calls: $0.2030 each (estimated)",
        ),
        "compared": (prompt(3), prompt(2)),
        "receipt": receipt(shown),
        "moves": moves(),
        "before": {"production": prompt(3).id, "eu": prompt(4).id},
        "canary": canary(),
    }
    return TaskPage(**{**given, **more})


def overview(**more: Any) -> Overview:
    canaries = {0: canary(), 5: canary(state="shadow"), 6: canary(state="stopped", open=False, why="worse")}
    rows = [
        TaskRow(
            task=name,
            production=Production(
                id=sha256(name), since=f"2026-11-{3 + place:02d}T10:{place:02d}:00Z", who=("Ada Lovelace", "ci")[place % 2],
                model=MODELS[place % 5], forced=place == 4,
            ),
            figures=figures(place, (12_480, 310, 88_204, 4_120, 96, 51_233, 140_882, 7_001, 12, 0)[place]),
            hours=hours(place, (900, 20, 6_000, 300, 8, 4_000, 9_000, 500, 1, 0)[place]),
            canary=canaries.get(place),
            trouble="promptsmith.lock:412: not a prompt; the last good copy is served" if place == 3 else "",
        )
        for place, name in enumerate(TASKS)
    ]  # fmt: skip
    rows[8] = msgspec.structs.replace(rows[8], production=None)
    return Overview(**{"tasks": tuple(rows), **more})


def reports(**more: Any) -> ReportList:
    made = (worse_report(), text_report(), first_report(), repeated_report())
    heads = tuple(one.head for one in made for _ in range(6))
    return ReportList(**{"heads": heads, "tasks": tuple(sorted({head.task for head in heads})), "more": 1_204, **more})


def traces(**more: Any) -> TraceList:
    titles = (
        "Why did deliveries to Oslo slow down in October, and which of the three carriers explains it?",
        "weekly numbers",
        "Compare the two contracts",
    )
    rows = tuple(
        TraceRow(run=sha256(f"run {i}"), title=titles[i % 3], state=("done", "done", "failed", "stopped")[i % 4], began=NOON - 5_000 * i,
                 steps=3 + i, failed=i % 4 // 2 * 2,
                 seconds=4.2 * (i + 1), usd=None if i == 5 else 0.013 * i)
        for i in range(12)
    )  # fmt: skip
    return TraceList(**{"runs": rows, **more})


def costs(**more: Any) -> Costs:
    given = {
        "total": figures(99, 305_000),
        "tasks": tuple(CostRow(name, figures(i, 30_000 // (i + 1))) for i, name in enumerate(TASKS)),
        "models": tuple(CostRow(name, figures(20 + i, 50_000 // (i + 1))) for i, name in enumerate(MODELS)),
        "days": tuple(CostRow(f"2026-11-{21 - i:02d}", figures(40 + i, 9_000 + 411 * (i % 7))) for i in range(14)),
    }
    return Costs(**{**given, **more})


def answer(**more: Any) -> Answer:
    given = {
        "text": "billing",
        "prompt": prompt(2).id,
        "model": prompt(2).model,
        "source": "model",
        "kept": True,
        "seconds": 0.412,
        "input": 803,
        "output": 3,
        "usd": 0.00021,
    }
    return Answer(**{**given, **more})  # fmt: skip


def try_it(**more: Any) -> TryIt:
    given = {"task": "support/triage", "refs": ("production", "candidate", prompt(1).id, prompt(4).id)}
    return TryIt(**{**given, **more})


INPUTS = (
    Variable("message", about="what the customer wrote", max_chars=4_000),
    Variable("language", default="en", about="ISO 639-1"),
    Variable("history", about="earlier messages of the same conversation, the latest last"),
)
FAULT = Fault(status=404, what="unknown task 'support/triagge'", hint="did you mean support/triage?", request="req_01jd0c2v9w")
