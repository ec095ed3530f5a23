"""Gathers what the pages show from where it is kept: registry, cache, ledger, figures of the service, canaries.

Everything here may wait for the disk: call it in a thread. How much is read depends on how many tasks there are and on what
was added to the ledger since the last look, not on how long the ledger is.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..canary import Course, Watch, course
from ..compiler.search.kept import Kept, record_of
from ..errors import NotCompiled, PromptsmithError
from ..evals.report import Reports
from ..models.economy import economy
from ..orchestration.outcomes import load_outcome
from ..orchestration.trace import spent, title
from ..orchestration.values import Outcome
from ..pages.service.values import (
    Canary,
    CostRow,
    Costs,
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
from ..prompt import Prompt
from ..registry.canaries import ArmCounts, CanaryStore
from ..registry.canaries import Canary as KeptCanary
from ..registry.entry import Entry
from ..registry.moving import named_before
from ..registry.protocol import Move
from ..registry.resolve import LATEST, PRODUCTION, Resolved, Resolver
from .activity import Activity, Sum
from .metrics import PromptFigures

REPORTS, RUNS, VERSIONS = 200, 50, 50
"""Reports, runs of plans and versions of a task that are listed, the newest first."""
_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Sources:
    """Where everything is kept. ``figures`` are those since the service has started, as :meth:`Metrics.prompts` gives them."""

    resolver: Resolver
    activity: Activity
    figures: Callable[[], Sequence[PromptFigures]]
    canaries: CanaryStore
    clock: Callable[[], float] = time.time


# --- tasks ------------------------------------------------------------------------------------------------


def overview(sources: Sources) -> Overview:
    """Every task that has a file or was ever promoted."""
    sources.activity.refresh()
    counted, tried = _by_task(sources.figures()), _courses(sources)
    return Overview(tasks=tuple(_row(sources, task, counted[task], tried.get(task)) for task in sources.resolver.tasks()))


def _row(sources: Sources, task: str, counted: Sequence[PromptFigures], canary: Canary | None) -> TaskRow:
    entry, trouble = _entry(sources, task)
    return TaskRow(
        task=task,
        production=_production(entry),
        figures=_added(counted, _named(entry, PRODUCTION)),
        hours=_hours(sources, task),
        canary=canary,
        trouble=trouble,
    )


def task_page(sources: Sources, task: str, *, at: str = "", older: str = "", newer: str = "") -> TaskPage:
    """One prompt of a task: ``at`` is an alias or the start of an id, empty production or else what was compiled last.

    ``older`` and ``newer`` are ids to compare. Raises :class:`UnknownName`, :class:`NotCompiled`, :class:`LockError`,
    :class:`InputError` for a name that can't be one.
    """
    sources.activity.refresh()
    resolved = find(sources, task, at)
    counted = _by_task(sources.figures())[task]
    entry, trouble = _entry(sources, task)
    compared = (find(sources, task, older).prompt, find(sources, task, newer).prompt) if older and newer else None
    return TaskPage(
        task=task,
        chosen=resolved.chosen,
        origin=resolved.origin,
        prompt=resolved.prompt,
        versions=_versions(sources, task, entry, counted),
        production=_production(entry),
        figures=_added(counted, _named(entry, PRODUCTION)),
        hours=_hours(sources, task),
        cacheability=tuple(line for _, line in economy(sources.resolver.project, resolved.prompt)),
        compared=compared,
        receipt=entry.receipts.get(resolved.prompt.id) if entry is not None else None,
        moves=entry.history[::-1] if entry is not None else (),
        outside=entry.outside_moves() if entry is not None else (),
        before=_before(entry) if entry is not None else {},
        canary=_courses(sources, task).get(task),
        trouble=trouble,
    )


def find(sources: Sources, task: str, at: str = "") -> Resolved:
    """The prompt that ``at`` names; raises as :func:`task_page`."""
    if at:
        return sources.resolver.resolve(f"{task}@{at}")
    try:
        return sources.resolver.resolve(task)
    except NotCompiled:
        return sources.resolver.resolve(f"{task}@{LATEST}")


def kept(sources: Sources, task: str, at: str = "") -> Kept:
    """For the page of where a prompt comes from; raises as :func:`task_page`."""
    found = find(sources, task, at)
    return Kept(found.chosen, found.origin, found.prompt, record_of(sources.resolver.store, found.prompt))


def try_it(sources: Sources, task: str, *, at: str = "", given: Mapping[str, str] | None = None) -> TryIt:
    """The form for a task, filled in with what was ``given``; raises as :func:`task_page`."""
    resolved = find(sources, task, at)
    entry, _ = _entry(sources, task)
    aliases = tuple(sorted(entry.aliases, key=lambda alias: (alias != PRODUCTION, alias))) if entry is not None else ()
    others = tuple(one.id for one in _versions(sources, task, entry, ()) if not one.aliases)
    chosen = at if at in aliases else next((alias for alias in aliases if _named(entry, alias) == resolved.prompt.id), resolved.prompt.id)
    return TryIt(task=task, refs=(*aliases, *others), ref=chosen, inputs=resolved.prompt.inputs, given=given or {})


def _entry(sources: Sources, task: str) -> tuple[Entry | None, str]:
    """The task's part of the registry, and what is damaged; the last good copy then, if there is one."""
    resolver = sources.resolver
    try:
        entry, damaged = resolver.registry.serve(task, resolver.store.last_lock, resolver.store.remember_lock)
    except PromptsmithError as error:
        return None, error.message
    return entry, f"{damaged}; the last good copy is served" if damaged else ""


def _named(entry: Entry | None, alias: str) -> str:
    return entry.aliases.get(alias, "") if entry is not None else ""


def _production(entry: Entry | None) -> Production | None:
    prompt_id = _named(entry, PRODUCTION)
    prompt = entry.prompt(prompt_id) if entry is not None and prompt_id else None
    if entry is None or prompt is None:
        return None
    move = _arrival(entry.history, prompt_id)
    return Production(
        id=prompt_id,
        since=move.when if move is not None else "",
        who=move.who if move is not None else "",
        model=prompt.model,
        forced=entry.forced(PRODUCTION) is not None,
    )


def _arrival(history: Iterable[Move], prompt_id: str) -> Move | None:
    """The move that brought a prompt into production where it is now; a renewed receipt is none, nor is a move from outside."""
    moves = [move for move in history if move.alias == PRODUCTION and move.from_ != move.to]
    return moves[-1] if moves and moves[-1].to == prompt_id else None


def _before(entry: Entry) -> dict[str, str]:
    named = {alias: named_before(entry, alias, prompt_id) for alias, prompt_id in entry.aliases.items()}
    return {alias: prompt_id for alias, prompt_id in named.items() if prompt_id is not None}


def _versions(sources: Sources, task: str, entry: Entry | None, counted: Sequence[PromptFigures]) -> tuple[Version, ...]:
    resolver = sources.resolver
    origin = resolver.registry.standing().origin
    found: dict[str, tuple[Prompt, str]] = {one.id: (one, origin) for one in (entry.prompts() if entry is not None else ())}
    for prompt_id in itertools.islice(resolver.store.prompt_ids(task=task), VERSIONS):
        prompt = resolver.find(prompt_id) if prompt_id not in found else None
        if prompt is not None:
            found[prompt_id] = prompt, "cache"
    aliases: dict[str, list[str]] = defaultdict(list)
    for alias, prompt_id in sorted(entry.aliases.items()) if entry is not None else ():
        aliases[prompt_id].append(alias)
    figures = {one.prompt: _figures(one) for one in counted}
    rows = [
        Version(
            id=prompt.id,
            created=prompt.provenance.created,
            model=prompt.model,
            aliases=tuple(aliases[prompt.id]),
            origin=where,
            verdict=entry.receipts[prompt.id].verdict if entry is not None and prompt.id in entry.receipts else "",
            figures=figures.get(prompt.id, Figures()),
        )
        for prompt, where in found.values()
    ]
    # One that is named stays listed, however old it is.
    newest = sorted(rows, key=lambda row: row.created, reverse=True)
    return tuple(row for place, row in enumerate(newest) if place < VERSIONS or row.aliases)


# --- figures ----------------------------------------------------------------------------------------------


def _by_task(figures: Iterable[PromptFigures]) -> dict[str, list[PromptFigures]]:
    found: dict[str, list[PromptFigures]] = defaultdict(list)
    for one in figures:
        found[one.task].append(one)
    return found


def _figures(one: PromptFigures) -> Figures:
    return Figures(
        calls=one.calls,
        errors=one.errors,
        replayed=one.cache_hits,
        checked=one.checked,
        adherent=one.adherent,
        usd=one.cost,
        unpriced=one.unknown_cost,
        input=one.input,
        cached=one.cached,
        output=one.output,
        p50=one.p50,
        p95=one.p95,
    )


_COUNTED = ("calls", "errors", "replayed", "checked", "adherent", "usd", "unpriced", "input", "cached", "output")


def _added(counted: Iterable[PromptFigures], production: str) -> Figures:
    """All prompts together, with the latencies of the one in production."""
    found = {one.prompt: _figures(one) for one in counted}
    timed = found.get(production, Figures())
    return Figures(**{name: sum(getattr(one, name) for one in found.values()) for name in _COUNTED}, p50=timed.p50, p95=timed.p95)


def _hours(sources: Sources, task: str) -> Hours:
    ends = (int(sources.clock() // _HOUR) + 1) * _HOUR
    return Hours(tuple(one.calls for one in sources.activity.hours(task)), ends)


# --- canaries ---------------------------------------------------------------------------------------------


def _courses(sources: Sources, only: str = "") -> dict[str, Canary]:
    """The latest canary of each task, one that is open before one that has ended."""
    watch = Watch(sources.canaries, sources.resolver.registry)
    latest: dict[str, KeptCanary] = {}
    try:
        known = sources.canaries.all()
    except (OSError, PromptsmithError):
        return {}  # its own error is told by whoever serves; a page without it is better than none
    for one in sorted(known, key=lambda one: (one.ended is None, one.started)):
        if only in ("", one.task):
            latest[one.task] = one
    return {task: _canary(sources.canaries, watch.look(one) if one.ended is None else one) for task, one in latest.items()}


def _canary(store: CanaryStore, one: KeptCanary) -> Canary:
    try:
        found: Course | None = course(store, one)
        trouble: tuple[str, ...] = ()
    except (OSError, PromptsmithError) as error:
        found, trouble = None, (f"its outcomes can't be read: {error}",)
    return Canary(
        state="shadow" if one.mode == "shadow" and one.state == "running" else one.state,
        alias=one.alias,
        candidate=one.candidate,
        incumbent=one.incumbent,
        share=one.share,
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.started)),
        open=one.ended is None,
        forced=one.forced,
        why=one.why,
        ours=_arm(found.counts.candidate) if found is not None else Figures(),
        theirs=_arm(found.counts.incumbent) if found is not None else Figures(),
        says=trouble if found is None else found.words()[3:],  # after what it is, and a line for each arm
    )


def _arm(counts: ArmCounts) -> Figures:
    return Figures(calls=counts.calls, errors=counts.failed, checked=counts.judged, adherent=counts.kept)


# --- lists ------------------------------------------------------------------------------------------------


def report_list(sources: Sources, task: str = "", may: Callable[[str], bool] = lambda _: True) -> ReportList:
    """The newest reports, of one task or of all that the viewer ``may`` see."""
    heads = [head for head in Reports(sources.resolver.project.cache).heads() if may(head.task)]
    chosen = [head for head in heads if task in ("", head.task)]
    return ReportList(
        heads=tuple(chosen[:REPORTS]), tasks=tuple(sorted({head.task for head in heads})), task=task, more=max(0, len(chosen) - REPORTS)
    )


def trace_list(sources: Sources) -> TraceList:
    """The newest runs of plans; one whose file is damaged is listed as that."""
    store = sources.resolver.store
    runs = store.runs()
    return TraceList(runs=tuple(_run(sources, run) for run in runs[:RUNS]), more=max(0, len(runs) - RUNS))


def _run(sources: Sources, run: str) -> TraceRow:
    try:
        found: Outcome = load_outcome(sources.resolver.store, run)
    except PromptsmithError as error:
        return TraceRow(run=run, title=error.message, state="damaged", began=0.0)
    return TraceRow(
        run=run,
        title=title(found),
        state=found.state,
        began=found.began,
        steps=len(found.results),
        failed=sum(one.state != "done" for one in found.results),
        seconds=found.seconds,
        usd=spent(found),
    )


def costs(sources: Sources) -> Costs:
    """What the ledger came to in the last 30 days, in all stages; tasks and models by what was paid."""
    sources.activity.refresh()
    total = Sum()
    by: dict[str, dict[str, Sum]] = {"task": {}, "model": {}, "day": {}}
    for one in sources.activity.spent():
        total.add(one.sum)
        for kind, name in (("task", one.task), ("model", one.model), ("day", one.day)):
            by[kind].setdefault(name, Sum()).add(one.sum)
    return Costs(
        total=_paid(total),
        tasks=_dearest(by["task"]),
        models=_dearest(by["model"]),
        days=tuple(CostRow(day, _paid(by["day"][day])) for day in sorted(by["day"], reverse=True)),
    )


def _dearest(sums: Mapping[str, Sum]) -> tuple[CostRow, ...]:
    return tuple(CostRow(name, _paid(one)) for name, one in sorted(sums.items(), key=lambda row: (-row[1].cost, row[0])))


def _paid(one: Sum) -> Figures:
    return Figures(
        calls=one.calls, errors=one.errors, replayed=one.cached, usd=one.cost, unpriced=one.unpriced, input=one.input, output=one.output
    )
