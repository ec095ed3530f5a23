"""Outcomes of plans for tests: the real types, ids, events and sums; the texts are made up."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from promptsmith.canonical import sha256
from promptsmith.chat import Usage, total_cost
from promptsmith.orchestration.values import Event, Expert, Input, Outcome, Plan, RoleCost, Step, StepResult

from .made_reports import HOSTILE

CHEAP, STRONG = "openai/gpt-4o-mini", "anthropic/claude-opus-5-5"
BEGAN = 1_790_000_000.25


def run_of(steps: tuple[Step, ...], results: tuple[StepResult, ...], events: tuple[Event, ...] = (), **more: Any) -> Outcome:
    """The outcome of ``steps``, with costs and baseline summed up from what is given."""
    plan = Plan(
        name=more.pop("name", "launch"),
        about=more.pop("about", ""),
        steps=steps,
        experts=tuple(Expert(name=name, role=name) for name in dict.fromkeys(step.expert for step in steps if step.expert)),
        inputs=more.pop("declared", ()),
        result=(steps[-1].id,) if steps else (),
        author=more.pop("author", "person"),
    )
    by_id = {step.id: step for step in steps}
    costs = []
    asked = [event for event in events if event.role == "conductor" and event.usage.counted]
    if asked:
        costs.append(RoleCost("conductor", len(asked), sum((e.usage for e in asked), Usage()), total_cost(e.cost for e in asked)))
    answered = [one for one in results if one.usage.counted and by_id[one.id].expert]
    if answered:
        usage = sum((one.usage for one in answered), Usage())
        costs.append(RoleCost("expert", sum(one.attempts for one in answered), usage, total_cost(one.cost for one in answered)))
    usd = total_cost(one.usd for one in costs)
    values: dict[str, Any] = {
        "run": sha256(repr([step.id for step in steps])), "plan": plan, "state": "done", "results": results, "events": events,
        "costs": tuple(costs), "seconds": max((one.ended for one in results), default=0.0) + 0.4, "began": BEGAN,
        "baseline_usd": None if usd is None or not usd else usd * 6,
    }  # fmt: skip
    return Outcome(**{**values, **more})


def result(step_id: str, started: float, ended: float, state: str = "done", **more: Any) -> StepResult:
    """What an expert answered."""
    text = f"What {step_id} found: the plan holds.\n\n* one finding\n* another, with <b>markup</b> & signs" if state == "done" else ""
    values: dict[str, Any] = {
        "id": step_id, "state": state, "text": text, "value": text, "model": CHEAP, "source": "model", "attempts": 1, "started": started,
        "ended": ended, "usage": Usage(input=820, output=240, cached=512), "cost": 0.00031, "seen": ("brief",),
        "prompt": sha256(repr(step_id))[:12],
        "sent": f"<instructions>\nDo {step_id}.\n</instructions>\n<context name=\"brief\">\nA lamp for reading in bed.\n</context>",
    }  # fmt: skip
    return StepResult(**{**values, **more})


def nothing(step_id: str, state: str = "skipped", error: str = "") -> StepResult:
    """A step that was never started."""
    return StepResult(id=step_id, state=state, error=error)  # type: ignore[arg-type]


def conducted(**more: Any) -> Outcome:
    """A conductor's plan of seven steps: one was tried again, one failed, one was skipped, one was added in a second round."""
    steps = (
        Step(id="market", expert="analyst", instructions="Say who would buy it.", context=("brief",)),
        Step(id="price", worker="fetch", instructions="Look up prices.", arguments={"url": "https://example.test/prices"}),
        Step(id="name", expert="writer", instructions="Propose a name.", needs=("market",), context=("brief", "market")),
        Step(id="claims", expert="lawyer", instructions="Check the claims.", needs=("market",), context=("market",), on_failure="skip"),
        Step(id="leaflet", expert="writer", instructions="Write the leaflet.", needs=("name", "claims"), context=("name",)),
        Step(id="offer", expert="analyst", instructions="Set the price.", needs=("market", "price"), context=("market", "price")),
        Step(id="check", expert="analyst", instructions="Compare offer and leaflet.", needs=("offer", "name"), problem=True),
    )
    results = (
        result("market", 1.2, 2.6),
        result(
            "price",
            1.2,
            1.45,
            model="",
            source="worker",
            usage=Usage(),
            cost=0.0,
            prompt="",
            text='{"median": 39.9}',
            value={"median": 39.9},
        ),
        result("name", 2.6, 4.9, attempts=2, cost=0.0007, usage=Usage(input=1640, output=480)),
        result("claims", 2.6, 3.1, "failed", error="the reply broke its contract twice: no JSON object was found", attempts=2),
        nothing("leaflet", error="claims, which it needs, failed"),
        result("offer", 2.6, 3.8, source="cache"),
        result("check", 5.6, 6.9),
    )
    by_conductor: dict[str, Any] = {"role": "conductor", "model": STRONG, "usage": Usage(input=900, output=400), "cost": 0.0145}
    again: dict[str, Any] = {"role": "expert", "model": CHEAP, "usage": Usage(input=820, output=240), "cost": 0.00035}
    events = (
        Event(kind="run", at=0.0, text="7 steps at most"),
        Event(kind="analysis", at=0.5, role="conductor", text="Two fields: market and law. A lamp is sold on trust."),
        Event(kind="plan", at=1.2, **by_conductor, text="six steps, two experts", steps=steps[:6], seconds=1.2),
        *(Event(kind="step_started", at=one.started, step=one.id, role="expert") for one in results if one.attempts),
        Event(kind="step_retried", at=3.7, step="name", text="the answer was empty", **again),
        Event(kind="step_failed", at=3.1, step="claims", role="expert", result=results[3]),
        Event(kind="step_skipped", at=3.1, step="leaflet", result=results[4]),
        Event(kind="added", at=5.6, **by_conductor, text="nobody compared the two", steps=steps[6:], seconds=0.6),
        Event(kind="synthesis", at=8.1, **by_conductor, text="put together", seconds=1.2),
        Event(kind="ended", at=8.2, text="done"),
    )  # fmt: skip
    values: dict[str, Any] = {
        "problem": "Plan the launch of a lamp for reading in bed.",
        "inputs": {"brief": "A lamp for reading in bed.", "markets": ["DE", "JP"]},
        "declared": (Input(name="brief", about="what is sold"), Input(name="markets")), "author": "model", "rounds": 2, "seconds": 8.2,
        "answer": "Call it **Leselicht** and sell it at 39.90.\n\nThe leaflet waits for the check of its claims.",
        "insights": ("Buyers read in the dark: the light must be warm.", "Two of three competitors cost more."),
        "conflicts": ("market said 29.90, price said 39.90: the median of the shops decides.",),
        "attribution": {"market": "who buys it", "name": "the name", "offer": "the price"},
        "replayed": 1,
    }  # fmt: skip
    return run_of(steps, results, events, **{**values, **more})


def diamond(**more: Any) -> Outcome:
    """Four written steps that all went well."""
    steps = (
        Step(id="split", worker="shop:split"),
        Step(id="left", expert="reader", needs=("split",)),
        Step(id="right", expert="reader", needs=("split",)),
        Step(id="join", expert="writer", needs=("left", "right"), context=("left", "right")),
    )
    spans = {"split": (0.0, 0.1), "left": (0.1, 0.9), "right": (0.3, 1.4), "join": (1.4, 2.0)}
    results = tuple(result(name, *span) for name, span in spans.items())
    return run_of(steps, results, name="diamond", answer="joined", **more)


def all_failed() -> Outcome:
    """Every expert failed."""
    steps = tuple(Step(id=f"try-{i}", expert="reader") for i in range(3)) + (
        Step(id="sum", expert="writer", needs=("try-0", "try-1", "try-2")),
    )
    results = (
        *(result(f"try-{i}", 0.0, 0.5 + i, "failed", error="401: the key was not accepted") for i in range(3)),
        nothing("sum", error="try-0 failed"),
    )
    return run_of(steps, results, state="failed", why="try-0 failed: 401: the key was not accepted", answer="")


def stopped() -> Outcome:
    """A limit ended it: steps are waiting, the price of one is unknown, nothing is known of the baseline."""
    steps = (
        Step(id="first", expert="reader"),
        Step(id="second", expert="reader", needs=("first",)),
        Step(id="third", expert="reader", needs=("second",)),
    )
    return run_of(
        steps, (result("first", 0.0, 3.0, cost=None),), state="stopped", why="the limit of 1 calls is reached", baseline_usd=None
    )  # fmt: skip


def empty() -> Outcome:
    """Stopped before there was a plan."""
    return run_of((), (), state="stopped", why="stopped by the user", problem="Plan it.", name="")


def hostile() -> Outcome:
    """HOSTILE in every field that takes text."""
    steps = (
        Step(id=HOSTILE, expert=HOSTILE, instructions=HOSTILE, context=(HOSTILE,), type=HOSTILE),
        Step(id=f"{HOSTILE}2", worker=HOSTILE, needs=(HOSTILE,), arguments={HOSTILE: HOSTILE}, instructions=HOSTILE),
        Step(id=f"{HOSTILE}3", expert=HOSTILE, needs=(HOSTILE, f"{HOSTILE}2")),
    )
    results = (
        result(HOSTILE, 0.0, 1.0, text=HOSTILE, value={HOSTILE: HOSTILE}, model=HOSTILE, sent=HOSTILE, seen=(HOSTILE,), prompt=HOSTILE,
               source=HOSTILE),
        result(f"{HOSTILE}2", 1.0, 2.0, "failed", error=HOSTILE, model="", source="worker", sent=HOSTILE),
        nothing(f"{HOSTILE}3", error=HOSTILE),
    )  # fmt: skip
    events = tuple(
        Event(kind=kind, at=float(place), step=HOSTILE, role=HOSTILE, text=HOSTILE, model=HOSTILE, steps=steps)  # type: ignore[arg-type]
        for place, kind in enumerate(("run", "analysis", "plan", "step_retried", "step_failed", "replan", "added", "synthesis", "ended"))
    )
    return run_of(
        steps, results, events, name=HOSTILE, about=HOSTILE, problem=HOSTILE, why=HOSTILE, state="failed", answer=HOSTILE,
        insights=(HOSTILE,), conflicts=(HOSTILE,), attribution={HOSTILE: HOSTILE}, inputs={HOSTILE: HOSTILE, "list": [HOSTILE]},
        declared=(Input(name=HOSTILE, about=HOSTILE),),
        costs=(RoleCost(HOSTILE, 1, Usage(input=1), 0.1),), author="model",
    )  # fmt: skip


def many(number: int, *, seed: int = 5, size: int = 200, needs: int = 3, fill: str = "a finding, ") -> Outcome:
    """A plan of ``number`` steps with up to ``needs`` needs each, texts of about ``size`` characters; every 17th failed."""
    dice = random.Random(seed)
    steps: list[Step] = []
    results: list[StepResult] = []
    for place in range(number):
        before = [steps[i].id for i in sorted(dice.sample(range(max(0, place - 30), place), min(needs, place // 3)))]
        start = max((one.ended for one in results if one.id in before), default=0.0) + dice.random() * 0.05
        text = (fill * (size // len(fill) + 1))[:size]
        name = f"step-{place:04}-{dice.choice(('read', 'compare', 'write', 'check'))}"
        steps.append(Step(id=name, expert=f"expert-{place % 4}", needs=tuple(before), context=tuple(before), instructions=text))
        state = "failed" if place % 17 == 16 else "done"
        results.append(
            result(
                name,
                start,
                start + 0.05 + dice.random(),
                state,
                text=text,
                value=text,
                sent=text,
                seen=tuple(before),
                error=text * (state == "failed"),
            )
        )
    events = [Event(kind="step_started", at=one.started, step=one.id, role="expert") for one in results]
    events += [
        Event(kind="step_failed" if one.state == "failed" else "step_done", at=one.ended, step=one.id, role="expert", result=one)
        for one in results
    ]
    return run_of(
        tuple(steps), tuple(results), tuple(sorted(events, key=lambda event: event.at)), name=f"{number} steps", answer="all done"
    )


def chain(number: int) -> Outcome:
    """One step behind the other."""
    steps = tuple(Step(id=f"link-{i:02}", expert="reader", needs=(f"link-{i - 1:02}",) if i else ()) for i in range(number))
    return run_of(steps, tuple(result(step.id, i / 2, i / 2 + 0.5) for i, step in enumerate(steps)), name=f"chain of {number}")


def fan(number: int) -> Outcome:
    """One, then many beside each other, then one."""
    inner = tuple(Step(id=f"reviewer {i} of the code", expert="reviewer", needs=("read",)) for i in range(number - 2))
    steps = (Step(id="read", worker="shop:read"), *inner, Step(id="report", expert="writer", needs=tuple(step.id for step in inner)))
    results = (
        result("read", 0.0, 0.2),
        *(result(step.id, 0.2 + 0.3 * (i // 8), 0.6 + 0.3 * (i // 8)) for i, step in enumerate(inner)),
        result("report", 3.0, 3.7),
    )
    return run_of(steps, results, name=f"fan of {number}")


OUTCOMES: tuple[Callable[[], Outcome], ...] = (conducted, diamond, all_failed, stopped, empty, hostile)
