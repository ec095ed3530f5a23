"""One search from beginning to end: parts, bench, engine, choice, an honest report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from ...catalog.tokens import estimate
from ...chat import Usage, total_cost
from ...contract import shorten
from ...evals.attempt import Grader
from ...evals.scorers import build_scorers, judges, pairwise
from ...evals.statistics import wilson_clustered
from ...evals.suite import Case, make_suite
from ...models.directory import Directory
from ...prompt import Build, FrontRow, Prompt, Searched
from ...receipt import Rules
from ...store import Journal, Store
from ...task import Example, ScorerSpec
from ...version import VERSION
from ..material import Material
from .bench import Bench, worth
from .calls import Calls
from .engine import Engine, PromptsmithEngine, baselines
from .gain import Choose, best, gain
from .pareto import choose, front
from .record import CandidateRecord, Gain, SearchRecord, Stage, State
from .sizes import wanted_candidates, why_fewer
from .values import BASELINES, Candidate, OnStatus, Reason, SearchStopped


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What a search came to."""

    candidate: Candidate
    record: SearchRecord
    searched: Searched
    """The record in short, but for its digest."""


async def search(
    source: Material,
    build: Build,
    *,
    scorers: Sequence[ScorerSpec],
    folder: Path,
    directory: Directory,
    store: Store,
    journal: Journal,
    prompt_of: Callable[[str], Prompt],
    fresh: bool = False,
    on_status: OnStatus | None = None,
) -> Ended:
    """The best prompt that ``source`` allows within its limits, with the record of how it was found.

    ``scorers`` are the task's own, and may name files in ``folder``: nothing here has a field for the holdout. ``prompt_of`` makes a
    prompt of a system text. With ``fresh`` no reply comes from the cache. Raises :class:`InputError` for a budget that can't be kept
    or a judge that would judge itself, and what would stop every call, such as :class:`AuthenticationFailed`. Time and dead providers
    end it with what was found so far.
    """
    started = time.monotonic()
    calls = Calls(directory, store, journal, source.limits, task=source.name, fresh=fresh)
    calls.check([source.model.name, *([source.meta.name] if source.meta is not None else [])])
    bench = _bench(source, calls, directory, prompt_of, scorers, folder, on_status)
    reason, why = await _ended(engine_of(source.engine), bench)
    return _summed_up(bench, build, reason, why, time.monotonic() - started)


def engine_of(name: str) -> Engine:
    """The engine of this name. Raises :class:`InputError` when it is not installed."""
    if name == "gepa":
        from .gepa import GepaEngine

        return GepaEngine()
    return PromptsmithEngine()


async def _ended(engine: Engine, bench: Bench) -> tuple[Reason, str]:
    try:
        reason = await engine.search(bench)
    except SearchStopped as stopped:
        return stopped.reason, stopped.message
    return reason, ""


def _bench(
    source: Material,
    calls: Calls,
    directory: Directory,
    prompt_of: Callable[[str], Prompt],
    specs: Sequence[ScorerSpec],
    folder: Path,
    on_status: OnStatus | None,
) -> Bench:
    scorers = build_scorers(specs, source.contract, folder=folder, ask=calls.judge)
    for calibrated in judges(scorers):
        calibrated.judge.refuse(source.model.name)
        calls.check(calibrated.judge.models)
    checks = {row.id: row.checks for row in source.visible if row.checks}
    versions = [scorer.version for scorer in scorers]
    return Bench(
        source,
        calls,
        Grader(scorers, source.contract, checks, own=not specs),
        prompt_of,
        practice=_cases(source, source.examples, versions),
        dev=_cases(source, source.dev, versions),
        rates=directory.rates.find(source.model.name),
        pairs=pairwise(scorers),
        on_status=on_status,
    )


def _cases(source: Material, rows: Sequence[Example], versions: Sequence[str]) -> tuple[Case, ...]:
    return make_suite(source.name, rows, source.contract, versions, Rules(), "dev").cases


# --- the report -------------------------------------------------------------------------------------------


def _summed_up(bench: Bench, build: Build, reason: Reason, why: str, seconds: float) -> Ended:
    source, calls = bench.source, bench.calls
    chosen, chosen_why = _chosen(bench)
    description = next((one for one in bench.candidates.values() if one.origin.kind == "description"), None)
    points = [bench.point(one) for one in bench.scored()]
    over_template = _gain(bench, chosen, bench.candidates[bench.template])
    record = SearchRecord(
        task=source.name,
        build=build.key,
        version=VERSION,
        engine=source.engine,
        level=source.level,
        prefer=source.prefer,
        seed=source.seed,
        data_seed=source.data_seed,
        production=source.model.name,
        meta=source.meta.name if source.meta else "",
        options=build.options,
        sources=build.sources,
        compile_cases=len(bench.practice),
        dev_cases=tuple(row.id for row in source.dev),
        reason=reason,
        why=why,
        chosen=chosen.id,
        chosen_why=chosen_why,
        front=front(points),
        over_template=over_template,
        over_description=_gain(bench, chosen, description) if description is not None else None,
        candidates=tuple(_recorded(bench, one, chosen) for one in bench.candidates.values()),
        stages=tuple(Stage(name=name, spent=spent) for name, spent in calls.stages.items()),
        spent=calls.spent,
        repeated=calls.repeated,
        replayed=calls.replayed,
        seconds=seconds,
        notes=tuple(_notes(bench)),
    )
    return Ended(candidate=chosen, record=record, searched=_in_short(bench, record))


def _chosen(bench: Bench) -> tuple[Candidate, str]:
    """Who is taken, and why. Without anybody scored in full it is the best so far, and at worst the ``-O0`` prompt."""
    points = [bench.point(one) for one in bench.scored()]
    if (constant := _constant(bench)) is not None:
        why = f"every answer of every candidate was scored {constant:g}: nothing tells them apart, so it is the -O0 prompt"
        return bench.candidates[bench.template], why
    if points:
        found, why = choose(points, bench.source.prefer, bench.differences)
        return bench.candidates[found], why
    if not bench.template:
        baselines(bench)
    leader = bench.leader()
    if leader is None:
        return bench.candidates[bench.template], "nothing could be scored: it is the -O0 prompt of the compile part"
    tried = [case for case in bench.dev if bench.knows(leader, [case])]
    return leader, f"nothing was scored on all {len(bench.dev)} dev cases: it is the best on the {len(tried)} that were reached"


def _constant(bench: Bench) -> float | None:
    """The one score that all answers got, of the template and of others: a scorer or a model that tells nothing. ``None``: they differ."""
    scored = bench.scored()
    if len(scored) < 2 or all(one.id != bench.template for one in scored):
        return None
    found = {bench.score(one, case) for one in scored for case in bench.dev}
    return found.pop() if len(found) == 1 else None


def _notes(bench: Bench) -> Iterator[str]:
    """What a person should know: fewer candidates than usual, answers that could not be used or count 0 without being wrong."""
    if "drafts" in bench.calls.stages and (why := why_fewer(bench.source)):
        yield f"{wanted_candidates(bench.source)} candidates {why}"
    for (stage, why), count in bench.unusable.items():
        yield f"{count:,} answer{'s' * (count != 1)} of the meta-model could not be used ({stage}): it {why}"
    attempts = [attempt for by_case in bench.attempts.values() for attempt in by_case.values()]
    failed = [attempt.why for attempt in attempts if attempt.stop == "aborted"]
    ungraded = [attempt.why for attempt in attempts if attempt.score is None]
    for whys, what in ((failed, "calls of the production model failed for good"), (ungraded, "answers could not be graded")):
        if whys:
            # Of equals the first by its words: answers came in no certain order.
            often, _ = min(Counter(whys).items(), key=lambda pair: (-pair[1], pair[0]))
            yield f"{len(whys):,} of {len(attempts):,} {what} and count 0: {shorten(often, 300)}"


def _gain(bench: Bench, chosen: Candidate, baseline: Candidate) -> Gain | None:
    """``None`` where one of both was not scored in full, or they are the same."""
    if chosen.id == baseline.id or not bench.dev or not all(bench.knows(one, bench.dev) for one in (chosen, baseline)):
        return None
    scores = {one.id: _scores(bench, one, bench.dev) for one in bench.candidates.values()}
    scores = {name: by_case for name, by_case in scores.items() if by_case}
    return gain(chosen.id, baseline.id, scores, [case.id for case in bench.dev], seed=bench.source.seed, choose=_rule(bench))


def _rule(bench: Bench) -> Choose:
    """The rule by which this search chooses, on any of its cases: what a candidate's calls cost stays as it was seen."""
    if bench.source.prefer == "score":
        return best

    def choose_by(scores: Mapping[str, Sequence[float]]) -> str:
        points = [bench.point(bench.candidates[name], fmean(row)) for name, row in scores.items()]
        found, _ = choose(points, bench.source.prefer, lambda a, b: [one - other for one, other in zip(scores[a], scores[b], strict=True)])
        return found

    return choose_by


def _scores(bench: Bench, candidate: Candidate, cases: Sequence[Case]) -> dict[str, float]:
    tried = bench.attempts.get(candidate.id, {})
    return {case.id: worth(tried[case.id]) for case in cases if case.id in tried}


def _recorded(bench: Bench, candidate: Candidate, chosen: Candidate) -> CandidateRecord:
    # In the order of the cases, not of the answers: a sum of costs depends on it in its last digits.
    tried = bench.attempts.get(candidate.id, {})
    attempts = [tried[case.id] for case in (*bench.practice, *bench.dev) if case.id in tried]
    state, scores = _state(bench, candidate, chosen), _scores(bench, candidate, bench.dev)
    bounds = wilson_clustered(list(scores.values())) if scores else None
    point = bench.point(candidate) if bench.dev and bench.knows(candidate, bench.dev) else None
    return CandidateRecord(
        id=candidate.id,
        origin=candidate.origin,
        system=candidate.system,
        shown=candidate.shown,
        tokens=estimate(candidate.system),
        state=state,
        why=bench.left(candidate) or ("" if state in ("chosen", "baseline", "scored") else "the search ended before it was scored in full"),
        scores=scores,
        practice=_scores(bench, candidate, bench.practice),
        mean=sum(scores.values()) / len(scores) if scores else None,
        lower=bounds.lower if bounds else None,
        upper=bounds.upper if bounds else None,
        usage=sum((attempt.usage for attempt in attempts), Usage()),
        usd=total_cost(attempt.cost for attempt in attempts),
        tokens_per_call=point.tokens if point else None,
        usd_per_1k=point.usd_per_1k if point else None,
    )


def _state(bench: Bench, candidate: Candidate, chosen: Candidate) -> State:
    if candidate.id == chosen.id:
        return "chosen"
    if candidate.origin.kind in BASELINES:
        return "baseline"
    if bench.knows(candidate, bench.dev):
        return "scored"
    tried = any(bench.knows(candidate, [case]) for case in bench.dev)
    return "rejected" if candidate.origin.kind == "reflection" and not tried else "out"


def _in_short(bench: Bench, record: SearchRecord) -> Searched:
    by_id = {one.id: one for one in record.candidates}
    chosen, template = by_id[record.chosen], by_id.get(bench.template)
    over = record.over_template
    return Searched(
        engine=record.engine,
        reason=record.reason,
        prefer=record.prefer,
        dev=len(record.dev_cases),
        candidates=len(record.candidates),
        score=chosen.mean,
        template=template.mean if template else None,
        gain=(over.estimate, over.lower, over.upper) if over else None,
        compared=over.compared if over else 0,
        calls=record.spent.calls,
        usd=record.spent.usd,
        front=tuple(
            FrontRow(id=name, score=row.mean or 0.0, tokens=row.tokens_per_call or 0.0, usd_per_1k=row.usd_per_1k)
            for name in record.front
            for row in (by_id[name],)
        ),
    )
