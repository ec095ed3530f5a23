"""Engines: what a search does at its bench. Ours races drafts and, at ``-O3``, reflects on failures and shrinks the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Protocol

from ...evals.suite import Case
from ...task import Example
from ..material import SCORED
from ..select import SELECTIONS, cost, examples_for, selected
from ..template import instructions_of, system_prompt
from .bench import Bench
from .drafting import trial_of, written
from .drafts import Trial, draft_request, told_first
from .race import race
from .reflect import Reflection, shuffled
from .shrinking import shrink
from .sizes import FINALISTS, MOST_SHOWN, PRACTICE, SHRINK_SHARE, rungs, wanted_candidates, wanted_drafts
from .strategies import strategies_for
from .values import Candidate, Origin, Reason


class Engine(Protocol):
    """What finds prompts. It decides at barriers, over outcomes in their places, so that a run that was killed goes on as it began."""

    async def search(self, bench: Bench) -> Reason:
        """Adds candidates to ``bench`` and scores them there; says why it ended.

        Every call goes through the bench. Raises :class:`~.values.SearchStopped` when time or provider end the search.
        """
        ...


class PromptsmithEngine:
    """Drafts by distinct strategies and with distinct examples, raced against the baselines; at ``-O3`` reflection and a shrink pass."""

    async def search(self, bench: Bench) -> Reason:
        always = baselines(bench)
        if not await bench.attempt((one, case) for one in always for case in bench.dev[: _first_rung(bench)]):
            return "budget"
        if await _perfect(bench, always):
            return "perfect"
        bench.stage = "drafts"
        entrants = await _drafted(bench)
        if entrants is None:
            return "budget"
        bench.stage = "race"
        reflects = bench.source.level > SCORED
        until = _first_rung(bench) if reflects else len(bench.dev)
        alive = await race(bench, entrants, always, until=until)
        if alive is None:
            return "budget"
        if not reflects:
            return "perfect" if bench.best_mean() == 1 else "done"
        return await _reflected(bench, alive, always, until)


async def _reflected(bench: Bench, pool: Sequence[Candidate], always: Sequence[Candidate], size: int) -> Reason:
    """Reflection, the last rungs of the race, and the shrink pass, for which a part of the budget is kept."""
    bench.stage = "reflection"
    reflection = Reflection(bench, pool, always, size)
    reason = await reflection.run(SHRINK_SHARE + bench.estimate_of((len(always) + FINALISTS) * (len(bench.dev) - size)))
    bench.stage = "final"
    if not await reflection.finish():
        return "budget"
    bench.stage = "shrink"
    await shrink(bench)
    return reason


# --- baselines ------------------------------------------------------------------------------------------


def baselines(bench: Bench) -> list[Candidate]:
    """The ``-O0`` prompt of the compile part, the bare description, and the prompt that a retarget begins with: always scored."""
    source = bench.source
    shown = examples_for(source)
    system = system_prompt(source, shown)
    template = bench.add(instructions_of(system), shown, Origin(kind="template"), system)
    bench.template = template.id
    found = [template, bench.add(source.description.strip(), (), Origin(kind="description"))]
    if source.start is not None:
        # One that was written by hand takes part exactly as it is; one of a retarget lost its examples with its model.
        selection = "coverage" if source.start.id else "none"
        found.append(bench.add(source.start.instructions, _shown(bench, selection), Origin(kind="start", selection=selection)))
    return list({one.id: one for one in found}.values())


def _first_rung(bench: Bench) -> int:
    return rungs(len(bench.dev), len(bench.dev))[0]


async def _perfect(bench: Bench, always: Sequence[Candidate]) -> bool:
    """Whether a baseline leaves nothing to gain; one that fails on the first cases is not tried on more for that."""
    promising = [one for one in always if perfect_on(bench, [one], bench.dev[: _first_rung(bench)])]
    for one in promising:
        if await bench.attempt((one, case) for case in bench.dev) and perfect_on(bench, [one], bench.dev):
            return True
    return False


def perfect_on(bench: Bench, candidates: Sequence[Candidate], cases: Sequence[Case]) -> bool:
    """Whether one of them, all tried on ``cases``, is right on each."""
    return any(bench.mean(one, cases) == 1 for one in candidates)


# --- drafts ---------------------------------------------------------------------------------------------


async def _drafted(bench: Bench) -> list[Candidate] | None:
    """Drafts, each with several choices of examples; ``None`` when the budget let no draft through."""
    source = bench.source
    plain = bench.add(bench.candidates[bench.template].instructions, (), Origin(kind="draft", strategy="template", selection="none"))
    practice = shuffled(bench.practice, source.seed)[:PRACTICE]
    await bench.attempt((plain, case) for case in practice)
    failures = [trial_of(bench, plain, case) for case in practice if bench.knows(plain, [case]) and bench.score(plain, case) < 1]
    texts = await _texts(bench, failures)
    if texts is None:
        return None
    inputs = [dict(failure.inputs) for failure in failures]
    shown = {selection: _shown(bench, selection, inputs) for selection in SELECTIONS}
    if plain.id != bench.template:
        bench.drop(plain, f"only tried on {len(practice)} cases of the compile part, for its failures")
    entrants: dict[str, Candidate] = {}
    for (name, text), selection in _crossed(texts):
        if len(entrants) >= wanted_candidates(source):
            break
        one = bench.add(text, shown[selection], Origin(kind="draft", strategy=name, selection=selection))
        entrants[one.id] = one
    return list(entrants.values())


async def _texts(bench: Bench, failures: Sequence[Trial]) -> list[tuple[str, str]] | None:
    """Usable drafts with the names of their strategies; equal ones are one."""
    source = bench.source
    strategies = [one for one in strategies_for(source) if failures or not one.needs_failures]
    count = wanted_drafts(source)
    asked = [(strategies[number % len(strategies)], number // len(strategies)) for number in range(count)]
    told = told_first(source)
    found = await written(bench, [draft_request(source, strategy, failures, sample, told) for strategy, sample in asked])
    if found is None:
        return None
    texts: dict[str, str] = {}
    for (strategy, _), read in zip(asked, found, strict=True):
        if read is not None:
            texts.setdefault(read.text, strategy.name)
    return [(name, text) for text, name in texts.items()]


def _crossed(texts: Sequence[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], str]]:
    """Every text by itself first, then with each selection, so that the first few combinations have as many of both as can be."""
    for text in texts:
        yield text, "none"
    others = [name for name in SELECTIONS if name != "none"]
    for turn, (place, text) in product(range(len(others)), enumerate(texts)):
        yield text, others[(place + turn) % len(others)]


def _shown(bench: Bench, selection: str, failures: Sequence[dict[str, str]] = ()) -> list[Example]:
    """Examples by a selection, as many as a candidate of the race may show."""
    source = bench.source
    total = sum(map(cost, source.examples))
    room = min(source.example_tokens, total // 2, total * MOST_SHOWN // max(1, len(source.examples)))
    return selected(source, selection, failures, room)
