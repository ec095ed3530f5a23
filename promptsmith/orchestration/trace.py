"""What every form says of a run of a plan in the same words: the terminal, ``plan trace``, the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..chat import Usage, total_cost
from ..evals.show.words import count, dollars, visible
from .runnable import needed
from .values import Event, EventKind, Outcome, State, Step, StepResult

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""
Facts = list[tuple[str, str]]
"""Label and text."""

MARKS: Mapping[State, str] = {"waiting": "○", "running": "▸", "done": "✓", "failed": "✗", "skipped": "-"}
PLAIN_MARKS: Mapping[State, str] = {"waiting": "o", "running": ">", "done": "+", "failed": "x", "skipped": "-"}
"""For a terminal that has ASCII alone."""

_KINDS: Mapping[EventKind, str] = {
    "run": "began",
    "analysis": "analysis",
    "plan": "plan",
    "compile": "compiled",
    "step_started": "started",
    "step_retried": "tried again",
    "step_done": "done",
    "step_failed": "failed",
    "step_skipped": "skipped",
    "replan": "another way",
    "added": "steps added",
    "asked_again": "asked again",
    "evaluated": "evaluated",
    "synthesis": "synthesis",
    "ended": "ended",
}
DECISIONS: frozenset[EventKind] = frozenset(_KINDS) - {"step_started", "step_retried", "step_done"}
"""What was decided, and what went wrong; the others only say how a step went on."""
NAMED = 6
"""Names that a list of them shows; the rest is counted."""


# --- the order of steps -----------------------------------------------------------------------------------


def layers(steps: Sequence[Step]) -> dict[str, int]:
    """The length of the longest way to each step, by id: 0 for one without needs. Unknown needs are left out."""
    waiting = {name: set(needs) for name, needs in needs_of(steps).items()}
    dependants: dict[str, list[str]] = {name: [] for name in waiting}
    for name, needs in waiting.items():
        for need in needs:
            dependants[need].append(name)
    found: dict[str, int] = {}
    ready, layer = [name for name, needs in waiting.items() if not needs], 0
    while ready:
        found |= dict.fromkeys(ready, layer)
        layer += 1
        after = []
        for name in ready:
            for dependant in dependants[name]:
                waiting[dependant].discard(name)
                if not waiting[dependant]:
                    after.append(dependant)
        ready = after
    # A plan has no cycle; a file that somebody changed may, and is shown all the same.
    return found | {name: layer for name in waiting if name not in found}


def needs_of(steps: Sequence[Step]) -> dict[str, list[str]]:
    """By id, the steps that each needs or sees, those of them that are here."""
    known = {step.id: step for step in steps}
    return {step.id: [need for need in needed(step, known) if need in known] for step in steps}


class Placed(NamedTuple):
    """A step in the tree: behind the last of its needs. ``others`` are its further needs."""

    depth: int
    step: Step
    others: tuple[str, ...]


def tree(steps: Sequence[Step]) -> list[Placed]:
    """Every step behind the deepest of its needs; those of one need in the order of the plan."""
    layer, order, all_needs = layers(steps), {step.id: place for place, step in enumerate(steps)}, needs_of(steps)
    children: dict[str | None, list[Placed]] = {}
    for step in steps:
        # Only a need of a lower layer can stand above, so there is no circle whatever a file says.
        needs = [need for need in all_needs[step.id] if layer[need] < layer[step.id]]
        parent = max(needs, key=lambda need: (layer[need], order[need]), default=None)
        children.setdefault(parent, []).append(Placed(0, step, tuple(need for need in all_needs[step.id] if need != parent)))
    placed, waiting = [], children.pop(None, [])[::-1]
    while waiting:
        placed.append(last := waiting.pop())
        waiting += [one._replace(depth=last.depth + 1) for one in reversed(children.pop(last.step.id, []))]
    return placed


# --- the steps of a run -----------------------------------------------------------------------------------


class Traced(NamedTuple):
    """A step with what it came to. Times are in seconds since the run began."""

    step: Step
    result: StepResult
    needs: tuple[str, ...]
    """The steps that it needs or sees."""
    ready: float
    """When nothing was left to wait for but a free place."""
    critical: bool
    """Whether it is on the critical path."""

    @property
    def ran(self) -> bool:
        """Whether it was started at all: one that failed and may be skipped was."""
        return started(self.result)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(0.0, self.result.ended - self.result.started) if self.ran else 0.0

    @property
    def waited(self) -> float:
        """How long it stood ready before it was started."""
        return max(0.0, self.result.started - self.ready) if self.ran else 0.0


def traced(outcome: Outcome) -> list[Traced]:
    """Every step, in the order of the plan; one that has no result is waiting."""
    results = {one.id: one for one in outcome.results}
    steps = {step.id: step for step in outcome.plan.steps}
    steps |= {name: Step(id=name) for name in results if name not in steps}
    brought, needs = _brought(outcome), needs_of(list(steps.values()))
    critical = set(critical_path(outcome))
    rows = []
    for step in steps.values():
        result = results.get(step.id) or StepResult(id=step.id, state="waiting")
        ends = [results[need].ended for need in needs[step.id] if need in results]
        rows.append(
            Traced(step, result, tuple(needs[step.id]), max([brought.get(step.id, brought.get("", 0.0)), *ends]), step.id in critical)
        )
    return rows


def started(result: StepResult) -> bool:
    """Whether a step was started at all."""
    return result.state in ("running", "done", "failed") or result.attempts > 0


def _brought(outcome: Outcome) -> dict[str, float]:
    """When each step came into the plan; under the empty name when the first plan stood."""
    found = {"": next((event.at for event in outcome.events if event.kind == "plan"), 0.0)}
    for event in outcome.events:
        for step in event.steps:
            found.setdefault(step.id, event.at)
    return found


def critical_path(outcome: Outcome) -> list[str]:
    """The steps that the length of the run hangs on, first to last: back from the last to end, always to the need that ended last.

    This is the critical path (Kelley and Walker 1959) of the times that were seen.
    """
    ran = {one.id: one for one in outcome.results if started(one) and one.ended > one.started}
    needs = needs_of(outcome.plan.steps)
    last = max(ran, key=lambda name: ran[name].ended, default=None)
    path: list[str] = []
    while last is not None and last not in path:
        path.append(last)
        last = max((need for need in needs.get(last, ()) if need in ran), key=lambda name: ran[name].ended, default=None)
    return path[::-1]


def path_line(outcome: Outcome) -> str:
    """The critical path in words; empty when nothing ran."""
    rows = [row for row in traced(outcome) if row.critical]
    if not rows:
        return ""
    rows.sort(key=lambda row: row.result.started)
    waited = sum(row.waited for row in rows)
    waiting = f", {lasted(waited)} of waiting for a free place" if waited >= 0.01 else ""
    took = f"{lasted(sum(row.seconds for row in rows))} of work{waiting}, in a run of {lasted(outcome.seconds)}"
    return visible(f"{listed([row.step.id for row in rows], ' → ')}: {took}")


def who(step: Step) -> str:
    """Who does a step."""
    return visible(f"worker {step.worker}" if step.worker else step.expert or "-")


def attempts(row: Traced) -> str:
    """How often it was asked, when that was more than once."""
    return f"{row.result.attempts} attempts" if row.result.attempts > 1 else ""


def came_from(result: StepResult) -> str:
    """Where an answer came from that no model gave in this run; empty for one that did."""
    return {"cache": "from the reply cache", "journal": "from the journal of an earlier run"}.get(result.source, "")


def retries(outcome: Outcome, step_id: str) -> list[Event]:
    """The attempts of a step that came to nothing, in order."""
    return [event for event in outcome.events if event.kind == "step_retried" and event.step == step_id]


def step_table(outcome: Outcome) -> Table:
    """Each step on a line, in the order in which they began."""
    header = ["", "step", "who", "state", "from", "took", "tokens", "cost"]
    rows = sorted(traced(outcome), key=lambda row: (not row.ran, row.result.started))
    return header, [
        [
            "*" if row.critical else "", visible(row.step.id), who(row.step), " ".join(filter(None, [row.result.state, attempts(row)])),
            f"{row.result.started:.2f} s" if row.ran else "-", lasted(row.seconds) if row.ran else "-",
            f"{tokens(row.result.usage):,}" if row.ran else "-", dollars(row.result.cost) if row.ran else "-",
        ]
        for row in rows
    ]  # fmt: skip


# --- cost -------------------------------------------------------------------------------------------------


def tokens(usage: Usage) -> int:
    """Tokens in and out."""
    return usage.input + usage.output


def spent(outcome: Outcome) -> float | None:
    """US dollars in all; ``None``: a price is unknown."""
    return total_cost(role.usd for role in outcome.costs)


def money(usd: float | None) -> str:
    """US dollars beside other words."""
    return "cost unknown" if usd is None else dollars(usd)


def cost_table(outcome: Outcome) -> Table:
    """What each role took, and all together."""
    header = ["role", "calls", "tokens in", "cached", "tokens out", "cost", "share"]
    total = spent(outcome)
    rows = [[visible(one.role), *_figures(one.calls, one.usage, one.usd), _share(one.usd, total)] for one in outcome.costs]
    calls, usage = sum(one.calls for one in outcome.costs), sum((one.usage for one in outcome.costs), Usage())
    return header, [*rows, ["in all", *_figures(calls, usage, total), _share(total, total)]]


def _share(usd: float | None, total: float | None) -> str:
    return f"{100 * usd / total:.0f} %" if total and usd is not None else "-"


def _figures(calls: int, usage: Usage, usd: float | None) -> list[str]:
    return [f"{calls:,}", f"{usage.input:,}", f"{usage.cached:,}", f"{usage.output:,}", dollars(usd)]


def against(outcome: Outcome) -> str:
    """The cost of the run against that of the same tokens on the conductor's model alone."""
    usd, baseline = spent(outcome), outcome.baseline_usd
    if not outcome.costs:
        return "$0: no model was called"
    if baseline is None:
        return f"{money(usd)}; what the same tokens would have cost on the strong model alone is unknown"
    strong = f"{dollars(baseline)} for the same tokens on the strong model alone"
    if usd is None or not baseline:
        return f"{money(usd)}, against {strong}"
    less = 1 - usd / baseline
    return f"{dollars(usd)}, against {strong}: {abs(100 * less):.0f} % {'less' if less >= 0 else 'more'}"


# --- what happened ----------------------------------------------------------------------------------------


class Told(NamedTuple):
    """An event in words."""

    at: float
    what: str
    step: str
    who: str
    """The role and its model."""
    text: str
    cost: str


def told(event: Event) -> Told:
    """An event in words."""
    result = event.result
    text = event.text or (result.error if result is not None else "")
    if event.steps and event.kind in ("plan", "added", "asked_again", "replan"):
        text = " ".join(filter(None, [text, f"({count(len(event.steps), 'step')}: {listed([step.id for step in event.steps])})"]))
    called = event.usage.counted or event.cost is None
    cost = ", ".join([f"{tokens(event.usage):,} tokens", money(event.cost)]) if called else ""
    return Told(event.at, _KINDS[event.kind], event.step, " ".join(filter(None, [event.role, event.model])), text, cost)


def decisions(outcome: Outcome) -> Iterator[Event]:
    """What was decided and what went wrong, in order."""
    return (event for event in outcome.events if event.kind in DECISIONS)


def ended(outcome: Outcome) -> str:
    """How a run ended."""
    return visible(" ".join(f"{outcome.state}: {outcome.why}".split())) if outcome.why else outcome.state


def states(outcome: Outcome) -> str:
    """How many steps came to what."""
    found = [row.result.state for row in traced(outcome)]
    told_states = ", ".join(f"{found.count(state)} {state}" for state in MARKS if state in found)
    return f"{count(len(found), 'step')}: {told_states}" if found else "no steps"


def title(outcome: Outcome) -> str:
    """The name of the run on one line."""
    name = outcome.plan.name or outcome.problem or "a plan"
    return visible(" ".join(name.split()))


def facts(outcome: Outcome) -> Facts:
    """What is known of the run as a whole."""
    plan = outcome.plan
    rounds = f", {count(outcome.rounds, 'round')}" if outcome.rounds > 1 else ""
    replayed = f"{count(outcome.replayed, 'call')} answered by the journal of an earlier run" if outcome.replayed else ""
    rows = [
        ("ended", ended(outcome)),
        ("steps", states(outcome)),
        ("took", f"{lasted(outcome.seconds)}{rounds}"),
        ("critical path", path_line(outcome)),
        ("cost", against(outcome)),
        ("score", f"{outcome.score:.2f}, as what grades the answer gave it" if outcome.score is not None else ""),
        *(("note", note) for note in outcome.notes),
        ("journal", replayed),
        ("plan", f"written by a {plan.author}" + (f": {plan.about}" if plan.about else "")),
        ("run", outcome.run),
    ]
    return [(label, visible(" ".join(text.split()))) for label, text in rows if text]


# --- text -------------------------------------------------------------------------------------------------


def lasted(seconds: float) -> str:
    """``0.42 s``, ``12.3 s``, ``12:05 min``."""
    if seconds < 99.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,}:{rest:02} min"


def listed(names: Sequence[str], between: str = ", ") -> str:
    """Names beside each other; of many the first and how many more there are."""
    more = f"{between}{len(names) - NAMED:,} more" if len(names) > NAMED + 1 else ""
    return between.join(names if not more else names[:NAMED]) + more
