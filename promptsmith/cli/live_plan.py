"""A plan under way: its steps as a tree on stderr that is drawn over; nothing when that is not a terminal."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TextIO

from ..chat import total_cost
from ..evals.show.words import count
from ..orchestration import trace
from ..orchestration.values import Event, EventKind, OnEvent, Plan, State, Step
from .drawing import BOLD, DIM, RED, Drawing, Line, Look, drawing, lasting, watched

_TICK = 0.25
"""Seconds between two drawings when nothing happens: what runs is seen to take its time."""
_DEEPEST = 6
"""Levels of the tree that are indented."""
_STATES: Mapping[EventKind, State] = {
    "step_started": "running",
    "step_done": "done",
    "step_failed": "failed",
    "step_skipped": "skipped",
}
_NEED: Mapping[State, int] = {"failed": 0, "running": 1, "skipped": 2, "waiting": 3, "done": 4}
"""What is shown first where there is not room for all."""


class Seen(NamedTuple):
    """A step as far as its events tell."""

    step: Step
    state: State = "waiting"
    started: float = 0.0
    """In seconds since the run began."""
    ended: float = 0.0
    cost: float | None = 0.0
    tries: int = 0
    why: str = ""


@contextlib.contextmanager
def live_plan(plan: Plan | None = None) -> Iterator[OnEvent | None]:
    """A view of the run inside: a callback for its events, ``None`` when nobody watches. ``plan``, where it is known before."""
    stream = watched()
    if stream is None:
        yield None
        return
    view = LivePlan(stream, plan)
    ended = threading.Event()
    ticking = threading.Thread(target=view.tick, args=(ended,), name="live-plan", daemon=True)
    with drawing(view, "ran"):
        ticking.start()
        try:
            yield view
        finally:
            ended.set()
            ticking.join()


class LivePlan(Drawing):
    """Draws what the events so far come to."""

    def __init__(self, stream: TextIO, plan: Plan | None = None) -> None:
        super().__init__(stream)
        self._state = Watched(plan.steps if plan is not None else ())
        self._since: float | None = None
        """``time.monotonic()`` when the run began; ``None`` before its first event."""

    def __call__(self, event: Event) -> None:
        with self._lock:
            if self._since is None:
                self._since = time.monotonic() - event.at
            self._state.note(event)
            self.draw(self._now())

    def tick(self, ended: threading.Event) -> None:
        """Draws from time to time until ``ended`` is set."""
        while not ended.wait(_TICK):
            with self._lock:
                if self._since is not None:
                    self.draw(self._now())

    def lines(self, look: Look) -> list[str]:
        return frame(self._state, self._now(), look)

    def summed_up(self) -> str | None:
        return None if self._since is None else summed_up(self._state, self._now())

    def _now(self) -> float:
        return 0.0 if self._since is None else time.monotonic() - self._since


class Watched:
    """The steps of a run and what it cost, put together from its events."""

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        self.steps: dict[str, Seen] = {}
        self.said = ""
        """What was decided last."""
        self._costs: list[float | None] = []
        self._placed: list[trace.Placed] | None = None
        self._bring(steps)

    def note(self, event: Event) -> None:
        """Takes an event in."""
        self._bring(event.steps)
        if event.kind in _STATES or event.kind == "step_retried":
            self._step(event)
        else:
            told = trace.told(event)
            self.said = f"{told.what}: {told.text}" if told.text else told.what
        if event.kind != "step_retried":
            self._costs.append(event.cost if event.result is None else event.result.cost)

    def _bring(self, steps: Sequence[Step]) -> None:
        for step in steps:
            seen = self.steps.get(step.id)
            self.steps[step.id] = Seen(step) if seen is None else seen._replace(step=step)
        if steps:
            self._placed = None

    def _step(self, event: Event) -> None:
        if event.step not in self.steps:
            self._bring([Step(id=event.step)])
        seen = self.steps[event.step]
        if event.kind == "step_retried":
            seen = seen._replace(tries=seen.tries + 1, why=event.text)
        elif event.kind == "step_started":
            seen = Seen(seen.step, "running", started=event.at)
        else:
            why = "" if event.kind == "step_done" else event.text or (event.result.error if event.result is not None else "")
            cost = event.cost if event.result is None else event.result.cost
            seen = seen._replace(state=_STATES[event.kind], ended=event.at, cost=cost, why=why)
        self.steps[event.step] = seen

    @property
    def placed(self) -> list[trace.Placed]:
        """The steps as a tree."""
        if self._placed is None:
            self._placed = trace.tree([seen.step for seen in self.steps.values()])
        return self._placed

    @property
    def cost(self) -> float | None:
        """US dollars so far; ``None``: a price is unknown."""
        return total_cost(self._costs)


# --- what is drawn ----------------------------------------------------------------------------------------


def frame(state: Watched, now: float, look: Look) -> list[str]:
    """The lines of one drawing, each narrower than the terminal: how far it is, what was decided last, the steps."""
    head = [Line(_summary(state, now), BOLD)]
    if state.said:
        head.append(Line(" ".join(state.said.split()), DIM))
    room = max(1, look.height) - len(head)
    placed = state.placed
    shown = placed if len(placed) <= room else _most_needed(state, placed, room - 1)
    lines = [*head, *(_row(state.steps[one.step.id], one.depth, now, look) for one in shown)]
    if len(shown) < len(placed):
        ids = {one.step.id for one in shown}
        rest = Counter(seen.state for name, seen in state.steps.items() if name not in ids)
        lines.append(Line(f"  and {', '.join(f'{number} {name}' for name, number in rest.items())}", DIM))
    return [line.drawn(look) for line in lines[: max(1, look.height)]]


def _most_needed(state: Watched, placed: Sequence[trace.Placed], room: int) -> list[trace.Placed]:
    """What failed, then what runs, what is still to come, what is done (the latest first); all in the order of the tree."""

    def need(one: trace.Placed) -> tuple[int, float]:
        seen = state.steps[one.step.id]
        return _NEED[seen.state], -seen.ended

    kept = {one.step.id for one in sorted(placed, key=need)[: max(0, room)]}
    return [one for one in placed if one.step.id in kept]


def _row(seen: Seen, depth: int, now: float, look: Look) -> Line:
    mark = (trace.MARKS if look.unicode else trace.PLAIN_MARKS)[seen.state]
    indent = "  " * (min(depth, _DEEPEST) if look.width >= 40 else 0)
    parts = []
    if seen.state == "running":
        parts.append(lasting(max(0.0, now - seen.started)))
    elif seen.ended > seen.started > 0 or seen.state in ("done", "failed"):
        parts += [trace.lasted(max(0.0, seen.ended - seen.started)), trace.money(seen.cost)]
    if seen.state in ("failed", "skipped", "waiting"):
        parts.insert(0, seen.state)
    if seen.tries:
        parts.append(f"attempt {seen.tries + 1}" if seen.state == "running" else f"{seen.tries + 1} attempts")
    who = f" ({trace.who(seen.step)})" if look.width >= 60 and (seen.step.expert or seen.step.worker) else ""
    why = f": {' '.join(seen.why.split())}" if seen.why else ""
    style = {"failed": RED, "running": BOLD, "waiting": DIM, "skipped": DIM}.get(seen.state, "")
    return Line(f"{indent}{mark} {seen.step.id}{who} {', '.join(parts)}{why}", style)


def _summary(state: Watched, now: float) -> str:
    found = Counter(seen.state for seen in state.steps.values())
    counts = [f"{found[name]} {name}" for name in ("running", "failed", "skipped") if found[name]]
    done = f"{found['done']} of {count(len(state.steps), 'step')} done" if state.steps else "no steps yet"
    return ", ".join([done, *counts, lasting(now), trace.money(state.cost)])


def summed_up(state: Watched, now: float) -> str:
    """What a run came to, in a line."""
    found = Counter(seen.state for seen in state.steps.values())
    counts = ", ".join(f"{found[name]} {name}" for name in trace.MARKS if found[name])
    steps = f"{count(len(state.steps), 'step')}{f' ({counts})' if counts else ''}"
    return f"{steps} in {lasting(now)}: {trace.money(state.cost)}"
