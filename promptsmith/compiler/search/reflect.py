"""``-O3``: reflection on what went wrong. A parent, a minibatch, diagnoses and edited prompts, and proof that one is better.

Reflective mutation with instance-wise Pareto selection: Agrawal et al. 2025, GEPA (arXiv:2507.19457). Ours differs in that a
minibatch grows until it holds failures, several edits of the same failures are written side by side and the best of them
counts, instructions and examples change together, and who is accepted runs in a race on growing beginnings of the dev part
(as in ``race.py``) instead of all of it at once. The dev part is never shown.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from ...canonical import fraction, input_digest
from ...evals.suite import Case
from ...task import Example
from ..select import cost, selected
from .answers import Read
from .bench import Bench
from .drafting import trial_of, written
from .drafts import Trial, reflection_request
from .pareto import case_front, sample_parent
from .race import ranked
from .sizes import EDITS, FAILURES, FINALISTS, GROWTHS, IDLE, MINIBATCH, PLATEAU, ROUNDS, rungs, staying
from .values import Candidate, Origin, Reason

_ADDED = 4
"""Examples that one edit adds at most."""
_WAYS = ("kept", "added", "nearest", "none")
"""What becomes of the examples in an edit: they stay, failures are added to them, they are chosen anew near the failures, or all go."""


class Proposal(msgspec.Struct, frozen=True):
    """A parent, what it was tried on in this round, and the cases that its edits are tried on."""

    parent: Candidate
    cases: tuple[Case, ...]
    proof: tuple[Case, ...]
    """Its failures and about as many passes: what an edit has to mend, and what it must not break."""


class Reflection:
    """Rounds of reflection on a pool of candidates that grows by edits and shrinks as the race goes on.

    Each round ends at a barrier; the next depends on nothing but recorded outcomes and the seed.
    """

    def __init__(self, bench: Bench, pool: Sequence[Candidate], always: Sequence[Candidate], size: int) -> None:
        """``pool`` and ``always`` were scored on the first ``size`` dev cases."""
        self._bench, self._pool, self._always, self._size = bench, list(pool), list(always), size
        self._order = shuffled(bench.practice, bench.source.seed)
        self._next = 0

    async def run(self, spare: float) -> Reason:
        """Rounds until nothing gets better on the whole dev part, or only ``spare`` of the budget (a share) is left."""
        if self._size < len(self._bench.dev) and not await self._grow():
            return "budget"
        idle, best = 0, self._best()
        for number in range(1, ROUNDS + 1):
            if self._size < len(self._bench.dev) and (idle >= IDLE or best == 1):
                if not await self._grow():
                    return "budget"
                idle, best = 0, self._best()
            if best == 1 and self._size == len(self._bench.dev):
                return "perfect"
            if idle >= PLATEAU:
                return "plateau"
            if self._bench.share() >= 1 - spare or not await self._round(number):
                return "budget"
            now = self._best()
            idle = 0 if now > best else idle + 1
            best = now
        return "done"

    async def finish(self) -> bool:
        """Scores the best of who is left, and the baselines, on the whole dev part. Returns whether the budget sufficed."""
        bench = self._bench
        if self._size == len(bench.dev):
            return True
        self._keep(FINALISTS)
        self._size = len(bench.dev)
        return await bench.attempt((one, case) for one in [*self._pool, *self._always] for case in bench.dev)

    def _best(self) -> float:
        cases = self._bench.dev[: self._size]
        return max((self._bench.mean(one, cases) for one in [*self._always, *self._pool]), default=0.0)

    async def _grow(self) -> bool:
        """The next rung: the better half of the pool is scored on more cases, and the baselines with it."""
        bench = self._bench
        sizes = rungs(len(bench.dev), len(bench.dev))
        self._keep(staying(len(self._pool)))
        grown = next(size for size in sizes if size > self._size)
        if not await bench.attempt((one, case) for one in [*self._always, *self._pool] for case in bench.dev[:grown]):
            return False
        self._size = grown
        return True

    def _keep(self, count: int) -> None:
        bench, alive = self._bench, ranked(self._bench, self._pool, self._bench.dev[: self._size])
        plain = [one for one in alive if not one.shown][:1] if self._size < len(bench.dev) // 2 else []
        kept = list({one.id: one for one in [*alive[:count], *plain]}.values())
        for one in alive:
            if one not in kept:
                bench.drop(one, f"not among the best {count} of {len(alive)} on {self._size} dev cases")
        self._pool = kept

    # --- a round ------------------------------------------------------------------------------------------

    async def _round(self, number: int) -> bool:
        """Edits of one parent, tried on its failures; the best of them, if better, is scored. False when the budget ended it."""
        bench = self._bench
        bench.round = number
        rng = random.Random(f"reflect {bench.source.seed} {number}")
        parent = self._parent(rng)
        proposal = await self._proposal(parent)
        if proposal is None:
            return False
        if not proposal.proof:
            return True
        edits = await self._edits(proposal, number, rng)
        if edits is None or not await bench.attempt((edit, case) for edit in edits for case in proposal.proof):
            self._drop(edits or (), "the budget ended before it was tried")
            return False
        accepted = self._accepted(edits, proposal)
        if accepted is None:
            return True
        if not await bench.attempt((accepted, case) for case in bench.dev[: self._size]):
            self._drop([accepted], "the budget ended before it was scored")
            return False
        self._pool.append(accepted)
        return True

    def _drop(self, edits: Sequence[Candidate], why: str) -> None:
        for edit in edits:
            self._bench.drop(edit, why)

    def _parent(self, rng: random.Random) -> Candidate:
        bench, cases = self._bench, self._bench.dev[: self._size]
        pool = self._pool or self._always
        scores = {one.id: {case.id: bench.score(one, case) for case in cases} for one in pool}
        counts = case_front(scores, [case.id for case in cases])
        return bench.candidates[sample_parent(counts, rng, [one.id for one in pool])]

    async def _proposal(self, parent: Candidate) -> Proposal | None:
        """A minibatch of ``parent``, grown until it holds failures; ``None`` when the budget ended it."""
        bench = self._bench
        cases: tuple[Case, ...] = ()
        for _ in range(GROWTHS):
            cases += self._minibatch(parent, cases)
            if not await bench.attempt((parent, case) for case in cases):
                return None
            if sum(bench.score(parent, case) < 1 for case in cases) >= FAILURES:
                break
        failed = [case for case in cases if bench.score(parent, case) < 1]
        passed = [case for case in cases if bench.score(parent, case) >= 1]
        return Proposal(parent, cases, (*failed, *passed[: max(FAILURES, len(failed))]) if failed else ())

    def _minibatch(self, parent: Candidate, known: Sequence[Case]) -> tuple[Case, ...]:
        """The next cases that ``parent`` does not show, without ``known``; every case comes up before any comes up again."""
        unfit = {*parent.shown, *(case.id for case in known)}
        taken: list[Case] = []
        for _ in self._order:
            case = self._order[self._next % len(self._order)]
            self._next += 1
            if case.id not in unfit:
                taken.append(case)
                unfit.add(case.id)
            if len(taken) == MINIBATCH:
                break
        return tuple(taken)

    # --- edits --------------------------------------------------------------------------------------------

    async def _edits(self, proposal: Proposal, number: int, rng: random.Random) -> list[Candidate] | None:
        bench, trials = self._bench, self._trials(proposal)
        requests = [reflection_request(bench.source, proposal.parent, trials, sample) for sample in range(EDITS)]
        texts = await written(bench, requests, reflecting=True)
        if texts is None:
            return None
        ways = ("kept", *(rng.choice(_WAYS) for _ in texts[1:]))
        made = [self._edit(proposal, text, number, how) for text, how in zip(texts, ways, strict=True) if text is not None]
        # One that was here before, its parent above all, is no edit.
        return [one for one in {one.id: one for one in made}.values() if one.origin.kind == "reflection" and one.origin.round == number]

    def _trials(self, proposal: Proposal) -> list[Trial]:
        """All that is known of a parent on the compile part: this round's cases first, then what it was tried on earlier."""
        bench, parent = self._bench, proposal.parent
        now = {case.id for case in proposal.cases}
        known = [case for case in bench.practice if bench.knows(parent, [case]) and case.id not in now]
        return [trial_of(bench, parent, case) for case in [*proposal.cases, *known]]

    def _edit(self, proposal: Proposal, text: Read, number: int, how: str) -> Candidate:
        parent = proposal.parent
        failed = [case for case in proposal.cases if self._bench.score(parent, case) < 1]
        origin = Origin(kind="reflection", strategy="reflection", selection=how, parents=(parent.id,), said=text.said, round=number)
        return self._bench.add(text.text, _examples(self._bench, parent, failed, how), origin)

    def _accepted(self, edits: Sequence[Candidate], proposal: Proposal) -> Candidate | None:
        """The edit that gains most in a case that the parent was tried on, if any gains.

        A case that an edit shows is answered by copying, so it is no proof of that edit.
        """
        gains = {edit.id: self._gained(edit, proposal) for edit in edits}
        for edit in edits:
            if gains[edit.id] <= 0:
                tried = f"{sum(case.id not in edit.shown for case in proposal.proof)} cases of the compile part"
                self._bench.drop(edit, f"no better than its parent on {tried} ({100 * gains[edit.id]:+.1f} points)")
        better = sorted((one for one in edits if gains[one.id] > 0), key=lambda one: (-gains[one.id], len(one.system), one.id))
        self._drop(better[1:], "another edit of the same round gained more")
        return better[0] if better else None

    def _gained(self, edit: Candidate, proposal: Proposal) -> float:
        """The mean gain of a case, 0 when the edit shows all of them."""
        bench, parent = self._bench, proposal.parent
        fair = [case for case in proposal.proof if case.id not in edit.shown]
        return bench.mean(edit, fair) - bench.mean(parent, fair) if fair else 0.0


def _examples(bench: Bench, parent: Candidate, failed: Sequence[Case], how: str) -> list[Example]:
    """Of ``source.examples``, by :data:`_WAYS`."""
    source = bench.source
    if how == "nearest":
        return selected(source, "nearest", [case.inputs for case in failed])
    wanted = set(parent.shown if how != "none" else ())
    room = source.example_tokens - sum(map(cost, bench.examples(wanted)))
    # Half of them: the others are what the edit is tried on.
    for example in bench.examples(case.id for case in failed[: min(_ADDED, len(failed) // 2)] if how == "added"):
        if cost(example) <= room:
            wanted.add(example.id)
            room -= cost(example)
    return [example for example in source.examples if example.id in wanted]


def shuffled(cases: Sequence[Case], seed: int) -> list[Case]:
    """Compile cases in the order in which they are practised on."""
    return sorted(cases, key=lambda case: (fraction("practice", str(seed), input_digest(case.inputs)), case.id))
