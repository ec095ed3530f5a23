"""The bench that an engine works at: candidates are made, tried on cases and written about here, and nowhere else.

An engine sees the compile part, whose rows it may show, and the dev part, which is only scored. The holdout is not here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from statistics import fmean

from ...canonical import fraction, input_digest
from ...catalog.prices import Rates
from ...catalog.tokens import estimate
from ...chat import Reply, Request, Usage, total_cost
from ...contract import Labels
from ...evals.attempt import Answered, Attempt, Grader
from ...evals.runner import Arm
from ...evals.statistics import wilson_clustered
from ...evals.suite import Case
from ...prompt import Prompt
from ...task import Example
from ..material import Material
from ..template import with_examples
from .calls import Ask, CallFailed, Calls, complete
from .pareto import Point, front, warm_usd_per_1k
from .values import Candidate, OnStatus, Origin, Standing, Status
from .words import called

_EVERY = 0.2
"""Seconds between two looks at a search under way."""

Wanted = tuple[Candidate, Case]


class Bench:
    """The state of one search: who takes part, and every outcome by candidate and case."""

    def __init__(
        self,
        source: Material,
        calls: Calls,
        grader: Grader,
        prompt_of: Callable[[str], Prompt],
        *,
        practice: Sequence[Case],
        dev: Sequence[Case],
        rates: Rates | None = None,
        pairs: bool = False,
        on_status: OnStatus | None = None,
    ) -> None:
        """``practice`` are the cases of the compile part; ``prompt_of`` makes a prompt of a system text.

        ``pairs``: some scorer compares an answer with that of the ``-O0`` prompt.
        """
        self.source, self.calls = source, calls
        self.practice, self.dev = tuple(practice), _mixed(dev, source)
        self.candidates: dict[str, Candidate] = {}
        self.out: dict[str, str] = {}
        """Why a candidate left before it was scored on the whole dev part, by id."""
        self.attempts: dict[str, dict[str, Attempt]] = {}
        """Outcomes by candidate and case id, of both parts."""
        self.unusable = Counter[tuple[str, str]]()
        """How many answers of the meta-model could not be used, by stage and why."""
        self.stage, self.round = "baselines", 0
        self.template = ""
        """Id of the ``-O0`` prompt."""
        self._rates = rates
        self._examples = {example.id: example for example in source.examples}
        self._grader, self._prompt_of, self._pairs, self._on_status = grader, prompt_of, pairs, on_status
        self._arms: dict[str, Arm] = {}
        # By candidate id. Outcomes are only ever added, so their number tells whether what was counted still holds.
        self._complete: set[str] = set()
        self._points: dict[str, tuple[int, Point]] = {}
        self._standings: dict[str, tuple[tuple[int, bool], Standing]] = {}
        self._started = self._looked = time.monotonic()

    # --- who takes part -----------------------------------------------------------------------------------

    def add(self, instructions: str, shown: Sequence[Example], origin: Origin, system: str | None = None) -> Candidate:
        """A candidate of these instructions and examples; the one that is here already when its text is the same."""
        text = with_examples(instructions, shown) if system is None else system
        made = Candidate.of(instructions, tuple(example.id for example in shown), text, origin)
        return self.candidates.setdefault(made.id, made)

    def examples(self, ids: Iterable[str]) -> list[Example]:
        """The examples of the compile part with these ids."""
        return [self._examples[name] for name in ids]

    def drop(self, candidate: Candidate, why: str) -> None:
        """``candidate`` leaves; it stays in the record."""
        self.out[candidate.id] = why

    def left(self, candidate: Candidate) -> str:
        """Why ``candidate`` left early; empty for one that was scored on the whole dev part, whatever was said of it before or since."""
        return "" if self._is_complete(candidate) else self.out.get(candidate.id, "")

    def prompt(self, candidate: Candidate) -> Prompt:
        """The candidate as a prompt."""
        return self._prompt_of(candidate.system)

    # --- what is known ------------------------------------------------------------------------------------

    def score(self, candidate: Candidate, case: Case) -> float:
        """The score of an outcome, 0 to 1; an answer that breaks the contract is worth nothing."""
        return worth(self.attempts[candidate.id][case.id])

    def knows(self, candidate: Candidate, cases: Iterable[Case]) -> bool:
        """Whether ``candidate`` was tried on all of ``cases``."""
        tried = self.attempts.get(candidate.id, {})
        return all(case.id in tried for case in cases)

    def mean(self, candidate: Candidate, cases: Sequence[Case]) -> float:
        """The mean score on ``cases``, all of which it was tried on."""
        return fmean(self.score(candidate, case) for case in cases)

    def scored(self) -> list[Candidate]:
        """The candidates that were scored on the whole dev part, in the order in which they came up."""
        return [one for one in self.candidates.values() if self._is_complete(one)]

    def _is_complete(self, candidate: Candidate) -> bool:
        if candidate.id not in self._complete and self.dev and self.knows(candidate, self.dev):
            self._complete.add(candidate.id)
        return candidate.id in self._complete

    def point(self, candidate: Candidate, score: float | None = None) -> Point:
        """Score, tokens and dollars of a candidate by the dev cases that it was scored on; ``score`` stands in for theirs."""
        tried = self.attempts[candidate.id]
        counted, point = self._points.get(candidate.id, (0, None))
        if point is None or counted != len(tried):
            known = [tried[case.id] for case in self.dev if case.id in tried]
            # A call that failed took no tokens, which makes no prompt a cheap one.
            usages = [attempt.usage for attempt in known if attempt.stop != "aborted"]
            tokens = fmean(usage.input + usage.output for usage in usages) if usages else float(estimate(candidate.system))
            usd = warm_usd_per_1k(candidate.system, usages, self._rates, self.source.known)
            point = Point(candidate.id, fmean(map(worth, known)), tokens, usd)
            self._points[candidate.id] = len(tried), point
        return point if score is None else point._replace(score=score)

    def differences(self, one: str, other: str) -> list[float]:
        """Case by case over the dev part, what ``one`` scored more than ``other``; both by id."""
        a, b = self.candidates[one], self.candidates[other]
        return [self.score(a, case) - self.score(b, case) for case in self.dev]

    def best(self) -> Candidate | None:
        """The candidate with the highest mean score on the whole dev part; of equals the cheapest, then by id."""
        points = sorted(map(self.point, self.scored()), key=lambda point: (-point.score, point.tokens, point.id))
        return self.candidates[points[0].id] if points else None

    def share(self) -> float:
        """The largest share of any limit that is used up, 0 to 1; 0 without limits."""
        limits, spent = self.source.limits, self.calls.spent
        used = [(spent.calls, limits.calls), (spent.tokens, limits.tokens), (spent.usd, limits.usd)]
        return max((value / limit if limit else 1.0 for value, limit in used if limit is not None and value is not None), default=0.0)

    def estimate_of(self, calls: int) -> float:
        """About what share of the budget so many more calls of the production model take, by what calls took so far."""
        return self.share() * calls / self.calls.spent.calls if self.calls.spent.calls else 0.0

    def best_mean(self) -> float:
        """The highest mean score on the whole dev part, 0 before anybody has one."""
        best = self.best()
        return 0.0 if best is None else self.mean(best, self.dev)

    # --- trying -------------------------------------------------------------------------------------------

    async def attempt(self, wanted: Iterable[Wanted]) -> bool:
        """Has each candidate answer its case, and grades it, once. Returns whether the budget let all of them through.

        Raises :class:`SearchStopped` when time or provider end it.
        """
        missing = self._missing(wanted)
        if self._pairs and any(one.id != self.template for one, _ in missing):
            template = self.candidates[self.template]
            if not await self.attempt([(template, case) for _, case in missing]):
                return False
            missing = self._missing(missing)
        found = await self.calls.batch([self._trial(one, case) for one, case in missing], stage=self.stage)
        self.look()
        return all(attempt is not None for attempt in found)

    async def write(self, requests: Sequence[Request]) -> list[Reply | CallFailed | None]:
        """What the meta-model answers to each, or why it would fail every time; ``None`` where the budget did not admit the call."""
        found = await self.calls.batch([_written(request) for request in requests], stage=self.stage, meta=True)
        self.look()
        return found

    def _missing(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        asked = {(one.id, case.id): (one, case) for one, case in wanted}
        return [trial for (one, case), trial in asked.items() if case not in self.attempts.get(one, {})]

    def _trial(self, candidate: Candidate, case: Case) -> Callable[[Ask], Awaitable[Attempt]]:
        arm = self._arms.get(candidate.id)
        if arm is None:
            arm = self._arms[candidate.id] = Arm(self.prompt(candidate))

        async def job(ask: Ask) -> Attempt:
            attempt = await self._graded(ask, candidate, arm, case)
            self.attempts.setdefault(candidate.id, {})[case.id] = attempt
            self._look_now_and_then()
            return attempt

        return job

    async def _graded(self, ask: Ask, candidate: Candidate, arm: Arm, case: Case) -> Attempt:
        try:
            replies = await complete(ask, arm.renderer.request(case.inputs))
        except CallFailed as error:
            # It would fail every time, in production too: that is an outcome.
            return Attempt(passed=False, score=0.0, why=error.message, stop="aborted", source="model")
        answered = Answered(
            reply=replies[-1],
            usage=sum((reply.usage for reply in replies), Usage()),
            cost=total_cost(reply.cost for reply in replies),
            latency=sum(reply.latency for reply in replies),
            source="model",
        )
        return await self._grader.grade(case, answered, arm.validate, self._baseline(candidate, case, answered))

    def _baseline(self, candidate: Candidate, case: Case, answered: Answered) -> str | None:
        if not self._pairs:
            return None
        return answered.reply.text if candidate.id == self.template else self.attempts[self.template][case.id].output

    # --- being watched ------------------------------------------------------------------------------------

    def _look_now_and_then(self) -> None:
        if self._on_status is not None and time.monotonic() - self._looked >= _EVERY:
            self.look()

    def look(self) -> None:
        """Tells whoever watches how the search stands."""
        if self._on_status is not None:
            self._looked = time.monotonic()
            self._on_status(self._status())

    def _status(self) -> Status:
        return Status(
            stage=self.stage,
            round=self.round,
            spent=self.calls.spent,
            seconds=time.monotonic() - self._started,
            dev=len(self.dev),
            candidates=tuple(one for one in map(self._standing, self.candidates.values()) if one is not None),
            front=front([self.point(one) for one in self.scored()]),
            best=self.leader(),
        )

    def leader(self) -> Candidate | None:
        """Who would be taken now: the best that is scored in full, before that the best of those tried on most cases."""
        best = self.best()
        if best is not None:
            return best
        tried = [one for one in map(self._standing, self.candidates.values()) if one is not None]
        most = max((one.cases for one in tried), default=0)
        leading = max((one for one in tried if one.cases == most), key=lambda one: one.mean, default=None)
        return self.candidates[leading.id] if leading is not None else None

    def _standing(self, candidate: Candidate) -> Standing | None:
        tried, out = self.attempts.get(candidate.id, {}), bool(self.left(candidate))
        now = len(tried), out
        kept = self._standings.get(candidate.id)
        if kept is not None and kept[0] == now:
            return kept[1]
        scores = [worth(tried[case.id]) for case in self.dev if case.id in tried]
        if not scores:
            return None
        lower, upper = wilson_clustered(scores)
        standing = Standing(
            id=candidate.id,
            name=called(candidate.origin),
            mean=fmean(scores),
            lower=lower,
            upper=upper,
            cases=len(scores),
            tokens=estimate(candidate.system),
            out=out,
        )
        self._standings[candidate.id] = now, standing
        return standing


def worth(attempt: Attempt) -> float:
    """What an outcome counts in a search, 0 to 1: nothing where the answer breaks the contract or could not be graded."""
    return 0.0 if attempt.broken or attempt.score is None else attempt.score


def _written(request: Request) -> Callable[[Ask], Awaitable[Reply | CallFailed]]:
    async def job(ask: Ask) -> Reply | CallFailed:
        try:
            return (await complete(ask, request))[-1]
        except CallFailed as error:
            return error

    return job


def _mixed(dev: Sequence[Case], source: Material) -> tuple[Case, ...]:
    """The dev cases in an order whose every beginning has all answers in about their shares: races are run on beginnings."""
    ordered = sorted(dev, key=lambda case: (fraction("race", str(source.seed), input_digest(case.inputs)), case.id))
    if not isinstance(source.contract.shape, Labels):
        return tuple(ordered)
    places: dict[str, int] = {}
    totals: dict[str, int] = {}
    for case in ordered:
        totals[case.expected] = totals.get(case.expected, 0) + 1
    keyed = []
    for number, case in enumerate(ordered):
        places[case.expected] = places.get(case.expected, 0) + 1
        keyed.append(((places[case.expected] - 0.5) / totals[case.expected], number, case))
    return tuple(case for _, _, case in sorted(keyed, key=lambda one: one[:2]))
