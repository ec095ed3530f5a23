"""What a search will do and may cost, before anything is called: the same numbers that the engine works by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ...budget import Limits
from ...catalog.models import allowance, facts
from ...catalog.prices import Rates
from ...catalog.tokens import estimate
from ...chat import Request, Usage
from ...evals.scorers.judge import REASON_TOKENS
from ..analysis import analyse
from ..material import SCORED, Material
from .drafts import draft_request, told_first
from .sizes import (
    EDITS,
    GROWTHS,
    MINIBATCH,
    PLATEAU,
    PRACTICE,
    ROUNDS,
    SHRINK_SHARE,
    rungs,
    staying,
    wanted_candidates,
    wanted_drafts,
    why_fewer,
)
from .strategies import strategies_for

MANY_CALLS = 2000
"""From more calls than this on a search at an unknown price is to be confirmed."""
_WRITTEN = 1 / 4
"""What the meta-model is taken to write of the room that it gets, its reasoning included."""
_JUDGED = 800
"""Tokens that a judge is taken to read besides the input and the answer."""
_JUDGMENT = 150
"""Tokens that it is taken to write, its reasoning left out."""

FindRates = Callable[[str], Rates | None]


class Count(msgspec.Struct, frozen=True):
    """How many calls: the least and the most that there can be, and what is expected."""

    least: int = 0
    expected: int = 0
    most: int = 0


class SearchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What one compile at ``-O2`` or ``-O3`` will do. Tokens and US dollars are estimates; limits are already applied to them.

    The most assumes that every answer is cut off once, which is asked for again with double the room, and that every
    text is repaired. The least is that of a baseline which gets every dev case right: the search stops there.
    """

    task: str
    level: int
    why: str
    engine: str
    prefer: str
    meta: str
    production: str
    judges: tuple[str, ...]
    """Models that judge answers."""
    shown: int
    """Examples that may be shown."""
    dev: int
    """Examples that are only scored."""
    baselines: int
    drafts: int
    """Texts that the meta-model is asked for before the race."""
    candidates: int
    """Combinations of a draft with a selection of examples."""
    candidates_why: str
    """Why they are fewer than usual; empty when they are not, or the user said how many."""
    meta_calls: Count
    scored_calls: Count
    """Calls of the production model."""
    judge_calls: Count
    tokens: tuple[int, int]
    """Expected and most, in and out."""
    usd: tuple[float, float] | None
    """Expected and most; ``None`` when a price is not known."""
    unpriced: tuple[str, ...]
    """Models whose price is not known."""
    limits: Limits

    @property
    def calls(self) -> Count:
        """All calls together, at most as many as the limit lets through."""
        counts = (self.meta_calls, self.scored_calls, self.judge_calls)
        most = self.limits.calls
        total = Count(sum(one.least for one in counts), sum(one.expected for one in counts), sum(one.most for one in counts))
        return total if most is None else Count(min(total.least, most), min(total.expected, most), min(total.most, most))

    def asks(self, confirm_usd: float) -> str:
        """Why this search is to be confirmed before it begins, in words; empty when it is not.

        By what it may cost at most where dollars are limited, else by what it is expected to cost; where a price is not
        known by its calls in the same way. Every search is, when the sum is 0.
        """
        if self.usd is None:
            calls = self.calls.expected if self.limits.calls is None else self.calls.most
            unknown = f"the price of {' and '.join(self.unpriced)} is not known"
            return f"{unknown}, and it may take {calls:,} calls" if calls > MANY_CALLS or not confirm_usd else ""
        expected, most = self.usd
        asked, told = (expected, "is expected to cost") if self.limits.usd is None else (most, "may cost up to")
        return f"it {told} ${asked:.2f}" if asked > confirm_usd or not confirm_usd else ""

    def line(self) -> str:
        """The plan in one line."""
        calls = self.calls
        parts = [
            f"{self.drafts} drafts, {self.candidates} candidates on {self.dev} dev cases",
            f"about {calls.expected:,} calls (at most {calls.most:,})",
            self._money(),
        ]
        return f"{self.task}: -O{self.level} plan: {'; '.join(parts)}"

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    def as_text(self) -> str:
        """The plan for a person, a fact a line."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.task}: -O{self.level} ({self.why}), {self.meta} writes, {self.production} answers"
        yield f"{self.shown + self.dev} visible examples: {self.shown} may be shown, {self.dev} are only scored (dev)"
        fewer = f" ({self.candidates_why})" if self.candidates_why else ""
        yield f"{self.drafts} drafts, {self.candidates} candidates{fewer}, {self.baselines} baselines, chosen by {self.prefer}"
        yield f"{self.meta_calls.least:,} to {self.meta_calls.most:,} calls of {self.meta}, about {self.meta_calls.expected:,}"
        yield f"{self.scored_calls.least:,} to {self.scored_calls.most:,} calls of {self.production}, about {self.scored_calls.expected:,}"
        if self.judges:
            judged = self.judge_calls
            yield f"{judged.least:,} to {judged.most:,} calls of {', '.join(dict.fromkeys(self.judges))}, about {judged.expected:,}"
        yield f"about {self.tokens[0]:,} tokens (estimated), at most {self.tokens[1]:,}; {self._money()}"
        if limited := limit_words(self.limits):
            yield f"limits: {limited}"
        if self.engine != "promptsmith":
            yield f"engine {self.engine} chooses its own calls within the limits; the numbers are those of promptsmith's"

    def _money(self) -> str:
        if self.usd is None:
            return f"price of {', '.join(self.unpriced)} unknown"
        return f"about ${self.usd[0]:.2f} (at most ${self.usd[1]:.2f})"


def limit_words(limits: Limits) -> str:
    """The limits in words; empty when there is none."""
    said = [
        "" if limits.usd is None else f"${limits.usd:g}",
        "" if limits.calls is None else f"{limits.calls:,} calls",
        "" if limits.tokens is None else f"{limits.tokens:,} tokens",
        "" if limits.seconds is None else f"{limits.seconds:g} seconds",
    ]
    return ", ".join(filter(None, said))


def first_requests(source: Material) -> list[tuple[str, Request]]:
    """The first requests to the meta-model by strategy, as far as they hold no answer of the production model."""
    drafting = strategies_for(source)[: wanted_drafts(source)]
    told = told_first(source)
    return [(one.name, draft_request(source, one, told=told)) for one in drafting if not one.needs_failures]


def plan_search(source: Material, rates: FindRates) -> SearchPlan:
    """The plan of searching for ``source``, whose level is 2 or 3. Calls nothing; the same for the same material."""
    trials = _trials(source)
    texts = _texts(source)
    judged = len(source.judges)
    scoring = Count(trials.least, trials.expected, 2 * trials.most)
    made = _all_calls(source, texts, scoring, trials)
    priced = {one.model: rates(one.model) for one in made}
    known = {model: price for model, price in priced.items() if price is not None}
    return SearchPlan(
        task=source.name,
        level=source.level,
        why=source.level_why,
        engine=source.engine,
        prefer=source.prefer,
        meta=source.meta.name if source.meta else "",
        production=source.model.name,
        judges=source.judges,
        shown=len(source.examples),
        dev=len(source.dev),
        baselines=_baselines(source),
        drafts=wanted_drafts(source),
        candidates=wanted_candidates(source),
        candidates_why=why_fewer(source),
        meta_calls=texts,
        scored_calls=scoring,
        judge_calls=Count(trials.least * judged, trials.expected * judged, trials.most * judged),
        tokens=_tokens(made, source.limits),
        usd=_dollars(made, source.limits, known) if len(known) == len(priced) else None,
        unpriced=tuple(model for model in priced if model not in known),
        limits=source.limits,
    )


# --- how much ---------------------------------------------------------------------------------------------


def _baselines(source: Material) -> int:
    return 3 if source.start is not None else 2


def _texts(source: Material) -> Count:
    """Calls of the meta-model: drafts, edits, and at most a repair of each, all cut off once."""
    drafts = wanted_drafts(source)
    expected, most = (_usual_rounds(), ROUNDS) if source.level > SCORED else (0, 0)
    return Count(0, drafts + EDITS * expected, 4 * (drafts + EDITS * most))


def _usual_rounds() -> int:
    # Somewhere between ending on the first plateau and never meeting one.
    return (PLATEAU + ROUNDS) // 2


def _trials(source: Material) -> Count:
    """Answers of the production model that are graded, each once."""
    dev, always, entrants = len(source.dev), _baselines(source), wanted_candidates(source)
    # The baselines begin; one that is right on all of the first cases is tried on the others, and may end the search.
    first = rungs(dev, dev)[0]
    least = always * first + dev - first
    practice = min(PRACTICE, len(source.examples))
    if source.level == SCORED:
        raced = always * dev + practice + _race(rungs(dev, entrants), entrants)
        return Count(least, raced, raced)
    batch, grown = (min(cases, len(source.examples)) for cases in (MINIBATCH, GROWTHS * MINIBATCH))
    # A round tries a parent and its edits on compile cases; every other edit is taken to be worth scoring in full.
    usual = always * dev + practice + _race(rungs(dev, dev), entrants) + _usual_rounds() * ((1 + EDITS) * batch + dev // 2)
    most = always * dev + practice + entrants * dev + ROUNDS * ((1 + EDITS) * grown + dev)
    # A step of the shrink pass that has begun is ended.
    return Count(least, usual + math.ceil(SHRINK_SHARE * usual), most + math.ceil(SHRINK_SHARE * most) + 2 * dev)


def _race(sizes: Sequence[int], entrants: int) -> int:
    trials, before = 0, 0
    for size in sizes:
        trials += (size - before) * entrants
        before, entrants = size, staying(entrants)
    return trials


# --- what it takes ----------------------------------------------------------------------------------------


class _Calls(msgspec.Struct, frozen=True, kw_only=True):
    """How often one model is called, and the tokens of a call."""

    model: str
    count: Count
    read: int
    most_read: int
    written: int
    most_written: int

    @property
    def expected(self) -> int:
        """Tokens of all expected calls."""
        return self.count.expected * (self.read + self.written)

    @property
    def most(self) -> int:
        """Tokens of all calls at most."""
        return self.count.most * (self.most_read + self.most_written)


def _all_calls(source: Material, texts: Count, scoring: Count, judging: Count) -> list[_Calls]:
    call = analyse(source).call
    given, answer = call.input or 0, call.output or 0
    (_, request), *_ = first_requests(source)
    brief = round(estimate(request.system + request.turns[0].text) * source.meta_known.token_factor)
    room = int(request.parameters["max_tokens"] or 0)
    longest = max(sum(map(estimate, row.inputs.values())) for row in source.visible)
    # Instructions are no longer than what the meta-model may write; a repair reads them as well.
    most_read = round((room + source.example_tokens + longest) * source.known.token_factor)
    most_written = answer if call.limit is None else 2 * call.limit
    production = source.model.name
    return [
        _Calls(model=request.model, count=texts, read=brief, most_read=brief + room, written=round(_WRITTEN * room), most_written=2 * room),
        _Calls(model=production, count=scoring, read=call.static + given, most_read=most_read, written=answer, most_written=most_written),
        *(_judge_calls(name, judging, given, answer) for name in source.judges),
    ]


def _judge_calls(name: str, count: Count, given: int, answer: int) -> _Calls:
    read = _JUDGED + given + 2 * answer
    reasoning = allowance(facts(name))
    written = _JUDGMENT + round(_WRITTEN * reasoning)
    return _Calls(model=name, count=count, read=read, most_read=2 * read, written=written, most_written=REASON_TOKENS + reasoning)


def _tokens(made: Sequence[_Calls], limits: Limits) -> tuple[int, int]:
    most = sum(one.most for one in made)
    return round(_kept(made, limits) * sum(one.expected for one in made)), most if limits.tokens is None else min(limits.tokens, most)


def _dollars(made: Sequence[_Calls], limits: Limits, known: Mapping[str, Rates]) -> tuple[float, float]:
    expected = sum(one.count.expected * known[one.model].cost(Usage(input=one.read, output=one.written)) for one in made)
    dearest = [known[one.model].worst(one.most_read, one.most_written) for one in made]
    most = sum(one.count.most * each for one, each in zip(made, dearest, strict=True))
    if limits.calls is not None:
        most = min(most, limits.calls * max(dearest))
    if limits.usd is not None:
        most = min(most, limits.usd)
    return min(_kept(made, limits) * expected, most), most


def _kept(made: Sequence[_Calls], limits: Limits) -> float:
    """The share of the expected calls that limits in calls and tokens let through."""
    calls, tokens = sum(one.count.expected for one in made), sum(one.expected for one in made)
    shares = [limit / total for limit, total in ((limits.calls, calls), (limits.tokens, tokens)) if limit is not None and total]
    return min([1.0, *shares])
