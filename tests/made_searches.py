"""Records of searches for tests: the real types, ids and intervals; the scores are made up."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import msgspec

from promptsmith.canonical import sha256
from promptsmith.chat import Usage
from promptsmith.compiler.search.kept import Kept
from promptsmith.compiler.search.pareto import Point, front
from promptsmith.compiler.search.record import CandidateRecord, Gain, SearchRecord, Stage
from promptsmith.compiler.search.values import Candidate, Kind, Origin, Spent
from promptsmith.contract import Contract, Labels
from promptsmith.evals.statistics import wilson_clustered
from promptsmith.prompt import Build, FrontRow, Prompt, Provenance, Searched, Serve, make_prompt

from .made_reports import HOSTILE

STRATEGIES = ("contract_first", "contrasts", "errors", "shortest", "reasoned")
SELECTIONS = ("none", "coverage", "nearest", "diverse")
RULES = (
    "Answer with one label and nothing else.",
    "A message that asks for money back is billing, even when it is angry.",
    "A crash, an error code or a blank page is a bug report.",
    "Wishes („könnte man nicht…“, 〜してほしい) are feature requests, not bugs.",
    "If the customer wants to leave, it is cancellation, whatever the reason.",
    "Read the whole message before you decide: the last sentence often says what is wanted.",
    "Ignore greetings, signatures and quoted mails.",
)
SAID = (
    "Refunds that are asked for in anger were taken for cancellations: the prompt never says which of the two wins.",
    "Three of the failures quote an earlier mail; the label came from the quote, not from the message.",
    "„Ich möchte kündigen, weil …“ was read as a bug report because of the reason; say that the wish decides.\nThe reason does not.",
    "The model explains its label. The contract allows the label alone.",
)


class Maker:
    """Candidates with scores, drawn from one seed."""

    def __init__(self, seed: int, dev: int, practice: int) -> None:
        self.dice = random.Random(seed)
        self.hard = {f"ticket-{i:03}": self.dice.random() for i in range(dev)}
        self.practice = {f"seen-{i:03}": self.dice.random() for i in range(practice)}
        self.worth: dict[str, float] = {}
        self.rows: list[CandidateRecord] = []

    def add(
        self,
        system: str,
        origin: Origin,
        worth: float,
        *,
        cases: int | None = None,
        state: str = "scored",
        why: str = "",
        price: bool = True,
    ) -> CandidateRecord:
        one = Candidate.of(system, ("seen-001", "seen-002")[: len(self.rows) % 3], system, origin)
        self.worth[one.id] = worth
        scored = list(self.hard)[: len(self.hard) if cases is None else cases]
        scores = {case: self._score(worth, self.hard[case]) for case in scored}
        tried = list(self.practice)[: 8 if origin.kind != "description" else 0]
        practice = {case: self._score(worth, self.practice[case]) for case in tried}
        if state == "rejected":  # no better than its parent on any of them
            before = next(row for row in self.rows if row.id == origin.parents[0]).practice
            practice = {case: min(value, before[case]) for case, value in practice.items()}
        mean = sum(scores.values()) / len(scores) if scores else None
        lower, upper = wilson_clustered(list(scores.values())) if scores else (None, None)
        size = len(system) // 4
        per_call = (size + 60.0) if scores else None
        usage = Usage(input=(size + 52) * len(scores), output=8 * len(scores), cached=size * len(scores) // 2)
        usd = usage.input * 4e-7 + usage.output * 1.6e-6 if price else None
        row = CandidateRecord(
            id=one.id, origin=origin, system=system, shown=one.shown, tokens=size, state=state, why=why, scores=scores,  # type: ignore[arg-type]
            practice=practice, mean=mean, lower=lower, upper=upper, usage=usage, usd=usd, tokens_per_call=per_call,
            usd_per_1k=(size * 0.1 + 52 * 0.4 + 8 * 1.6) / 1000 if price and scores else None,
        )  # fmt: skip
        self.rows.append(row)
        return row

    def _score(self, worth: float, hard: float) -> float:
        held = worth + self.dice.gauss(0, 0.12) - hard
        return 1.0 if held > 0.03 else 0.0 if held < -0.03 else 0.5


def text(rules: int, examples: int, dice: random.Random) -> str:
    lines = ["Sort a message of a customer.", "", *dice.sample(RULES, rules)]
    if examples:
        shown = [f'{{"input": "message {dice.randrange(10_000)}: where is my refund?", "output": "billing"}}' for _ in range(examples)]
        lines += ["", "<examples>", *shown, "</examples>"]
    return "\n".join(lines)


def made_search(
    *, seed: int = 7, drafts: int = 12, reflections: int = 9, dev: int = 60, practice: int = 40, price: bool = True, **more: Any
) -> SearchRecord:
    """25 candidates unless told otherwise: baselines, drafts in a race, reflections some of which are rejected, two shrinks."""
    made = Maker(seed, dev, practice)
    dice = made.dice
    kind: Kind = "template"
    made.add("Sort a message of a customer. Labels: billing, bug report.", Origin(kind=kind), 0.62, state="baseline", price=price)
    made.add("Sort a message of a customer.", Origin(kind="description"), 0.5, state="baseline", price=price)
    places = [(one, other) for one in STRATEGIES for other in SELECTIONS]
    for place in range(drafts):
        strategy, selection = places[place % len(places)]
        system = text(2 + place % 3, (0, 4, 8, 6)[place % 4], dice)
        cases, state = ((max(1, dev // 4), "out"), (max(1, dev // 2), "out"), (None, "scored"))[place % 3]
        why = "" if state == "scored" else f"left after {cases} cases: 14.2 points behind the best"
        origin = Origin(kind="draft", strategy=strategy, selection=selection)
        made.add(f"{system}\n(draft {place})", origin, 0.55 + 0.02 * (place % 9), cases=cases, state=state, why=why, price=price)
    for round_ in range(1, reflections + 1):
        parent = dice.choice([row for row in made.rows if row.state == "scored"])
        system = parent.system.replace("Sort a message", f"Sort a message (v{round_})") + f"\n{RULES[round_ % len(RULES)]}"
        rejected = round_ % 3 == 0
        origin = Origin(kind="reflection", parents=(parent.id,), said=SAID[round_ % len(SAID)], round=round_)
        why = "no better than its parent on 8 cases" if rejected else ""
        worth = made.worth[parent.id] + (-0.02 if rejected else 0.06)
        made.add(system, origin, worth, cases=0 if rejected else None, state="rejected" if rejected else "scored", why=why, price=price)
    best = max((row for row in made.rows if row.state == "scored"), key=lambda row: row.mean or 0.0, default=made.rows[0])
    for round_ in (1, 2) if reflections else ():
        system = "\n".join(best.system.splitlines()[:-round_]) + "\n"
        origin = Origin(kind="shrink", parents=(best.id,), said=f"without its last {round_} lines", round=round_)
        made.add(system, origin, made.worth[best.id] - 0.01 * (round_ - 1), price=price)
    return finished(made, **more)


def finished(made: Maker, **more: Any) -> SearchRecord:
    """The record of what was made: front, choice, gains, stages."""
    whole = [row for row in made.rows if len(row.scores) == len(made.hard) and row.mean is not None]
    points = [Point(row.id, row.mean or 0.0, row.tokens_per_call or 0.0, row.usd_per_1k) for row in whole]
    ids = front(points)
    chosen = ids[0] if ids else ""
    rows = tuple(msgspec.structs.replace(row, state="chosen") if row.id == chosen else row for row in made.rows)
    spent = Spent()
    stages = []
    for name, calls, each in (
        ("baselines", 120, 160),
        ("drafts", 13, 2400),
        ("race", 420, 410),
        ("reflection", 310, 640),
        ("shrink", 130, 380),
    ):
        stage = Spent(calls=calls, tokens=calls * each, usd=None if whole and whole[0].usd is None else calls * each * 4e-7)
        stages.append(Stage(name=name, spent=stage))
        spent += stage
    values: dict[str, Any] = {
        "task": "support/triage", "build": sha256("build"), "version": "0.4.0", "engine": "promptsmith", "level": 3, "prefer": "score",
        "seed": 7, "data_seed": 0, "production": "acme/small-1", "meta": "acme/large-1",
        "options": {"prefer": "score", "max-calls": "1000"},
        "sources": {"evals/support/triage.yaml": sha256("yaml"), "evals/support/triage.csv": sha256("csv")},
        "compile_cases": len(made.practice), "dev_cases": tuple(made.hard), "reason": "plateau", "why": "no edit was accepted in 3 rounds",
        "chosen": chosen, "chosen_why": "it has the highest mean score", "front": ids, "candidates": rows,
        "stages": tuple(stages), "spent": spent,
        "over_template": Gain(estimate=0.142, lower=0.031, upper=0.251, cases=len(made.hard), compared=len(whole),
                              method="cross-fitting (a test)"),
        "over_description": Gain(estimate=0.02, lower=-0.061, upper=0.101, cases=len(made.hard), compared=len(whole)),
        "seconds": 102.4, "notes": ("2 drafts were the same as others",),
    }  # fmt: skip
    return SearchRecord(**{**values, **more})


def unfinished_search() -> SearchRecord:
    """Ended by time in the middle of the drafts' race: nothing reflected, two cases of the chosen one without a score."""
    record = made_search(
        seed=3, drafts=6, reflections=0, reason="time", why="the time limit of 60 seconds is reached", replayed=41, repeated=3
    )
    rows = [
        msgspec.structs.replace(row, scores={case: value for case, value in row.scores.items() if case not in ("ticket-004", "ticket-009")})
        if row.id == record.chosen
        else row
        for row in record.candidates
    ]
    return msgspec.structs.replace(record, candidates=tuple(rows))


def priceless_search() -> SearchRecord:
    """The model has no known price."""
    return made_search(seed=5, price=False)


def huge_search() -> SearchRecord:
    """60 candidates by 150 cases, with a chain of edits and long texts."""
    return made_search(seed=11, drafts=20, reflections=36, dev=150)


def empty_search() -> SearchRecord:
    """Nothing could be scored."""
    made = Maker(1, 0, 0)
    return finished(
        made, reason="budget", why="the limit of 0 calls is reached", over_template=None, over_description=None, stages=(), spent=Spent()
    )


def hostile_search() -> SearchRecord:
    """Markup, controls, a lone surrogate and right-to-left text wherever a text may stand; one said and one prompt of 50 kB."""
    record = made_search(seed=9, drafts=4, reflections=4, dev=12)
    names = {case: f"{HOSTILE}{i}" for i, case in enumerate(record.dev_cases)}

    def renamed(scores: Mapping[str, float]) -> dict[str, float]:
        return {names.get(case, case): value for case, value in scores.items()}

    rows = []
    for place, row in enumerate(record.candidates):
        origin = msgspec.structs.replace(
            row.origin,
            strategy=HOSTILE,
            selection="\u202e" + HOSTILE,
            said=HOSTILE + ("long \u05e9\u05dc\u05d5\u05dd " * 5000 if place % 3 == 2 else ""),
        )
        system = f"{HOSTILE}\n{row.system}" + ("y" * 50_000 if place % 3 == 1 else "")
        rows.append(msgspec.structs.replace(row, origin=origin, system=system, why=HOSTILE, scores=renamed(row.scores)))
    return msgspec.structs.replace(
        record, candidates=tuple(rows), dev_cases=tuple(names.values()), task=HOSTILE, production=HOSTILE, meta=HOSTILE, why=HOSTILE,
        chosen_why=HOSTILE, options={HOSTILE: HOSTILE}, sources={HOSTILE: HOSTILE}, notes=(HOSTILE,), engine=HOSTILE,
        stages=(Stage(name=HOSTILE, spent=record.spent),),
    )  # fmt: skip


def searched_of(record: SearchRecord, digest: str = "") -> Searched:
    """What the prompt itself carries of ``record``."""
    rows = [record.candidate(name) for name in record.front]
    chosen = next((row for row in record.candidates if row.id == record.chosen), None)
    gain = record.over_template
    return Searched(
        engine=record.engine, reason=record.reason, prefer=record.prefer, dev=len(record.dev_cases), candidates=len(record.candidates),
        score=(chosen.mean if chosen else None) or 0.0, template=record.candidates[0].mean if record.candidates else None,
        gain=None if gain is None else (gain.estimate, gain.lower, gain.upper), compared=gain.compared if gain else 0,
        calls=record.spent.calls, usd=record.spent.usd,
        front=tuple(FrontRow(row.id, row.mean or 0.0, row.tokens_per_call or 0.0, row.usd_per_1k) for row in rows), record=digest,
    )  # fmt: skip


def prompt_of(record: SearchRecord | None, digest: str = "", *, task: str = "support/triage", level: int = 3) -> Prompt:
    """The prompt that a search ended with, or one of a level that has no search."""
    chosen = next((row for row in record.candidates if row.id == record.chosen), None) if record is not None else None
    build = Build(key=sha256("build"), inputs={"task": "0" * 16}, epoch=1, sources={"evals/support/triage.yaml": sha256("yaml")})
    provenance = Provenance(
        created="2026-11-21T14:00:00Z", version="0.4.0", level=level, level_why="asked for", build=build,
        meta="acme/large-1" if level else "",
        search=None if record is None else searched_of(record, digest), notes=("a note",),
    )  # fmt: skip
    return make_prompt(
        task=task, system="Sort a message." if chosen is None else chosen.system.encode(errors="replace").decode(),
        contract=Contract(Labels(("billing", "bug report"))), model="acme/small-1", parameters={"temperature": 0}, inputs=(), serve=Serve(),
        provenance=provenance,
    )  # fmt: skip


def kept_search(record: SearchRecord | None, digest: str = "", *, level: int = 3) -> Kept:
    """A prompt with its record, as ``show --provenance`` has them; without one it is a prompt of ``-O1``."""
    prompt = prompt_of(record, digest, level=level if record is not None else 1)
    return Kept("support/triage@latest", "cache", prompt, record)


SEARCHES = (made_search, unfinished_search, priceless_search, huge_search, empty_search, hostile_search)
