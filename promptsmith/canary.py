"""Canaries judged while they run: a sequential test that may be looked at after every call.

The test asks whether the candidate does something bad (breaks its contract, fails) more often than the incumbent. It
is a test martingale, so that looking at it after each call for ever raises a false alarm with at most the stated chance
(Ville 1939). Outcomes are cut into blocks of six in a fixed mix of both arms; each block multiplies a stake by the
likelihood ratio of "the candidate's odds are r times the incumbent's" to "both are alike, at the block's own weighted
mean". That ratio has a mean of at most 1 whenever the candidate is not worse, whatever the rates are: it is the
E-variable of two Bernoulli samples in Turner, Ly and Grünwald (2024), "Generic E-variables for exact sequential k-sample
tests that allow for optional stopping", Journal of Statistical Planning and Inference 230. The incumbent's rate is
estimated from the blocks before, the stake is spread over several r, and part of it is held back and staked bit by bit,
for a candidate that turns bad later.

Which arm a call goes to may depend on everything before it (a caller who got a bad answer tries again): an outcome is
taken or left by the counts alone, before it is looked at, so that the ones taken of an arm are like draws from a row of
their own. Rates may change as long as they change for both: only what is bad in one block is compared, and a block is some twenty
calls (at a tenth), so that an outage of both counts against neither.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from typing import Protocol

import msgspec

from .errors import PromptsmithError, UnknownName
from .evals.statistics import Interval, wilson
from .registry.canaries import Arm, ArmCounts, Canary, CanaryStore, CanaryWarning, Counts, Outcome, Verdict, arm_of

ALPHA = 0.01
"""The chance that a canary of a candidate which is not worse is ever stopped, over both tests together."""
STOP = 2 / ALPHA
"""The e-value that stops: each of the two tests has half of :data:`ALPHA`."""
COMPLETE_ALPHA = 0.05
"""The chance, over all looks together, that a candidate worse by the margin completes (as exact as Wilson's intervals are)."""
LOOKS = (1, 2, 4, 8)
"""It is looked whether a canary is complete after so many times its planned calls of the candidate; then it ends."""

_BLOCK = 6
_ODDS = (1.5, 2.5, 4.0, 8.0, 20.0)
_FIRST = 0.5
"""Staked at the beginning; the rest is held back."""
_LATER = 50
_ROOM = 2
"""Blocks that may wait for the other arm; what comes on top is left. More would find a drop 5 % sooner, and stop in outages."""
_SETTLE = 64
"""Calls after which the mix is first set by what the calls have been; then at each doubling."""
_SEEN, _BAD = 5.0, 0.5
"""What the incumbent is taken to have done before its first call."""


class Worse:
    """The test of one rate: an e-value against "the candidate is not worse". O(1) for each outcome."""

    __slots__ = ("_bad", "_blocks", "_counts", "_held", "_mix", "_queues", "_room", "_seen", "_stakes", "_until", "_wanted", "e_value")

    def __init__(self) -> None:
        self.e_value = 1.0
        self._held = 1 - _FIRST
        self._stakes = [_FIRST / len(_ODDS)] * len(_ODDS)
        self._seen, self._bad = _SEEN, _BAD
        self._blocks = 0
        self._counts = [0, 0]
        self._until = _SETTLE
        self._queues: tuple[list[bool], list[bool]] = ([], [])
        self._mix = self._wanted = (_BLOCK - 1, 1)  # incumbent, candidate
        self._room = _ROOM

    def feed(self, candidate: bool, bad: bool) -> None:
        """One more outcome of an arm."""
        self._counts[candidate] += 1
        self._until -= 1
        if not self._until:
            self._settle()
        queues, mix = self._queues, self._mix
        queue = queues[candidate]
        if len(queue) < self._room * mix[candidate]:
            queue.append(bad)
            if len(queues[0]) >= mix[0] and len(queues[1]) >= mix[1]:
                self._block()

    def _settle(self) -> None:
        """Asks for the mix that the calls really have. Until then only what completes a block that has begun is taken."""
        total = self._until = sum(self._counts)  # next when they have doubled
        share = min(_BLOCK - 1, max(1, round(_BLOCK * self._counts[1] / total)))
        self._wanted = (_BLOCK - share, share)
        if self._wanted != self._mix:
            self._room = max(math.ceil(len(each) / size) for each, size in zip(self._queues, self._mix, strict=True))
            self._change()

    def _change(self) -> None:
        if self._room == 0:
            self._mix, self._room = self._wanted, _ROOM

    def _block(self) -> None:
        (incumbents, candidates), (first, second) = self._mix, self._queues
        incumbent_bad, candidate_bad = sum(first[:incumbents]), sum(second[:candidates])
        del first[:incumbents], second[:candidates]
        self._stake(incumbents, incumbent_bad, candidates, candidate_bad)
        self._seen += incumbents
        self._bad += incumbent_bad
        if self._wanted != self._mix:
            self._room -= 1
            self._change()

    def _stake(self, incumbents: int, incumbent_bad: int, candidates: int, candidate_bad: int) -> None:
        rate = self._bad / self._seen
        moved = self._held / (_LATER + self._blocks)
        self._held -= moved
        self._blocks += 1
        added = moved / len(_ODDS)
        total = self._held
        for place, odds in enumerate(_ODDS):
            worse = odds * rate / (1 + (odds - 1) * rate)
            both = (candidates * worse + incumbents * rate) / _BLOCK
            stake = (self._stakes[place] + added) * ((1 - worse) / (1 - both)) ** (candidates - candidate_bad)
            stake *= ((1 - rate) / (1 - both)) ** (incumbents - incumbent_bad)
            if candidate_bad:
                stake *= (worse / both) ** candidate_bad
            if incumbent_bad:
                stake *= (rate / both) ** incumbent_bad
            self._stakes[place] = stake
            total += stake
        self.e_value = total


def lowest_and_highest(candidate: tuple[int, int], incumbent: tuple[int, int], alpha: float) -> Interval:
    """Candidate minus incumbent, each as (how many, of how many), with ``alpha`` at each end.

    Newcombe (1998), Statistics in Medicine 17:873-890, method 10: of the two Wilson intervals.
    """
    if not candidate[1] or not incumbent[1]:
        return Interval(-1.0, 1.0)
    (one, one_lower, one_upper), (two, two_lower, two_upper) = (
        (count / of, *wilson(count, of, 1 - 2 * alpha)) for count, of in (candidate, incumbent)
    )
    difference = one - two
    return Interval(difference - math.hypot(one - one_lower, two_upper - two), difference + math.hypot(one_upper - one, two - two_lower))


class Trial:
    """Everything that the outcomes of one canary say so far: the same outcomes in the same order give the same verdict.

    A complete canary is watched on up to its last look: it may still be stopped.
    """

    __slots__ = ("_looks", "_margin", "_shadow", "_tallies", "adherence", "closed", "failures", "verdict")

    def __init__(self, canary: Canary) -> None:
        self.verdict: Verdict | None = None
        self.closed = False
        """Nothing that comes now changes anything."""
        self.adherence, self.failures = Worse(), Worse()
        self._tallies: dict[Arm, list[int]] = {"candidate": [0, 0, 0, 0], "incumbent": [0, 0, 0, 0]}
        self._looks = [times * canary.planned for times in LOOKS]
        self._margin = canary.margin
        self._shadow = canary.mode == "shadow"

    def feed(self, outcome: Outcome) -> None:
        """One more outcome, in the order of the store."""
        if self.closed:
            return
        arm, adherent, failed = outcome
        tally = self._tallies[arm]
        candidate = arm == "candidate"
        tally[0] += 1
        tally[1] += failed
        self.failures.feed(candidate, failed)
        if adherent is not None and not failed:
            tally[2] += 1
            tally[3] += adherent
            self.adherence.feed(candidate, not adherent)
        if self.failures.e_value >= STOP or self.adherence.e_value >= STOP:
            self._close(self._worse())
        elif candidate and tally[0] == self._looks[0]:
            self._look()

    def counts(self) -> Counts:
        """Both arms' counts."""
        names = ArmCounts.__struct_fields__
        return Counts(**{arm: ArmCounts(**dict(zip(names, tally, strict=True))) for arm, tally in self._tallies.items()})

    def _close(self, why: str) -> None:
        self.verdict, self.closed = Verdict("stopped", why), True

    def _worse(self) -> str:
        counts = self.counts()
        if self.adherence.e_value >= STOP:
            return f"the candidate keeps its contract less often: {_adherence(counts.candidate)} against {_adherence(counts.incumbent)}"
        return f"the candidate's calls fail more often: {_failures(counts.candidate)} against {_failures(counts.incumbent)}"

    def _look(self) -> None:
        del self._looks[0]
        last = not self._looks
        if self.verdict is None:
            ruled_out, found = self._ruled_out()
            drop = f"worse by more than {100 * self._margin:g} points"
            if ruled_out:
                # A shadow has shown what it was asked for; its calls cost as much as those that answer.
                self.verdict = Verdict("complete", f"{drop} is ruled out after {found}", ends=self._shadow)
                self.closed = self._shadow
            elif last:
                self._close(f"{drop} is not ruled out after {found}")
        self.closed = self.closed or last

    def _ruled_out(self) -> tuple[bool, str]:
        """Whether a drop of the margin is, and on what."""
        candidate, incumbent = self._tallies["candidate"], self._tallies["incumbent"]
        alpha = COMPLETE_ALPHA / len(LOOKS)
        kept = lowest_and_highest((candidate[3], candidate[2]), (incumbent[3], incumbent[2]), alpha)
        failed = lowest_and_highest((candidate[1], candidate[0]), (incumbent[1], incumbent[0]), alpha)
        found = f"{candidate[0]} calls of the candidate: adherence {_ends(kept)}, failed calls {_ends(failed)}"
        return kept.lower >= -self._margin and failed.upper <= self._margin, found


def _adherence(arm: ArmCounts) -> str:
    return f"{_percent(arm.kept, arm.judged)} of {arm.judged} answers" if arm.judged else "no answer so far"


def _failures(arm: ArmCounts) -> str:
    return f"{_percent(arm.failed, arm.calls)} of {arm.calls} calls" if arm.calls else "no call so far"


def _percent(part: int, of: int) -> str:
    return f"{100 * part / of:.1f} %"


def _ends(interval: Interval) -> str:
    return f"{100 * interval.lower:+.1f} to {100 * interval.upper:+.1f} points"


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """How a canary goes, or went."""

    canary: Canary
    counts: Counts
    adherence_e: float | None = None
    """Evidence that the candidate keeps its contract less often; :data:`STOP` stops it. ``None`` when it no longer runs."""
    failures_e: float | None = None
    stop: float = STOP

    def words(self) -> tuple[str, ...]:
        """A line for each thing that there is to say."""
        canary = self.canary
        share = f"{100 * canary.share:g} %"
        what = f"is asked beside for {share} of the calls" if canary.mode == "shadow" else f"answers {share} of the callers"
        head = f"{canary.task}@{canary.alias}: {canary.mode} {canary.id}{' (forced)' * canary.forced}"
        candidate = _arm("candidate", canary.candidate, self.counts.candidate)
        arms = candidate, _arm("incumbent", canary.incumbent, self.counts.incumbent)
        if canary.state == "running":
            return f"{head} is running: the candidate {what}", *arms, *self._evidence()
        if canary.state == "stopped":
            return f"{head} was stopped: {canary.why}", *arms
        if canary.ended is not None and canary.mode == "canary":
            return f"{head} was complete, and the alias was moved to the candidate: {canary.why}", *arms
        until = "" if canary.ended else f"; until then the candidate {what}"
        return f"{head} is complete: {canary.why}", *arms, f"this moves the alias: {canary.command}{until}"

    def _evidence(self) -> tuple[str, ...]:
        if self.adherence_e is None or self.failures_e is None:
            return ()  # its outcomes could not be read
        canary = self.canary
        drop = f"worse by more than {100 * canary.margin:g} points"
        found = f"{self.adherence_e:.2g} for adherence, {self.failures_e:.2g} for failed calls"
        return (
            f"evidence that the candidate is worse: {found}; {self.stop:g} stops it",
            f"complete once the candidate has had {canary.planned} calls and {drop} is ruled out",
        )


def _arm(name: str, prompt: str, arm: ArmCounts) -> str:
    return f"{name} {prompt[:12]}: contract kept in {_adherence(arm)}; failed: {_failures(arm)}"


def course(store: CanaryStore, canary: Canary) -> Course:
    """How ``canary`` goes, by all its outcomes until now; or how it went, by what was counted then.

    Raises ``OSError`` or :class:`StoreError`.
    """
    if canary.counts is not None:
        return Course(canary=canary, counts=canary.counts)
    trial = Trial(canary)
    for outcome in store.outcomes(canary.id)[0]:
        trial.feed(outcome)
    return Course(canary=canary, counts=trial.counts(), adherence_e=trial.adherence.e_value, failures_e=trial.failures.e_value)


class Resolves(Protocol):
    """The part of a registry that a watch asks."""

    def resolve(self, task: str, alias: str) -> str | None:
        """The id under an alias, or ``None``."""
        ...


class _Followed:
    """One canary as this process follows it: its trial, and how far its outcomes were read."""

    __slots__ = ("canary", "place", "settled", "trial")

    def __init__(self, canary: Canary) -> None:
        self.canary = canary
        self.trial = Trial(canary)
        self.place = 0
        self.settled: Verdict | None = None
        """The verdict that the store was told."""


class Watch:
    """What a server asks and tells at each request. Nothing here raises: without its store the incumbent answers.

    ``registry`` tells when an alias was moved meanwhile, which ends its canary; ``told`` hears of each canary that this brings
    to another state. Safe to share between threads.
    """

    def __init__(
        self, store: CanaryStore, registry: Resolves | None = None, told: Callable[[Canary], object] = lambda canary: None
    ) -> None:
        self.store = store
        self._tell_state = told
        self._registry = registry
        self._followed: dict[str, _Followed] = {}
        self._ended: dict[str, Canary] = {}
        """Ended by this process: they stay so even where the store could not write it."""
        self._guard = threading.Lock()
        self._told = False

    def canary(self, task: str, alias: str, now: str | None = None) -> Canary | None:
        """The canary that has a share of an alias. ``now``: the prompt that was found under it, if it was looked up already."""
        canary = self.store.active(task, alias)
        if canary is None or canary.id in self._ended:
            return None
        moved = self._moved(canary, now)
        if moved is None:
            return canary
        self._stop(canary, moved)
        return None

    def look(self, canary: Canary) -> Canary:
        """Decides without a new outcome; the canary as it then is."""
        moved = self._moved(canary)
        return self._stop(canary, moved) if moved else self._decide(canary, None)

    def arm(self, canary: Canary, sticky: str | None = None) -> Arm:
        """Which arm answers a caller; in a shadow always the incumbent."""
        return "incumbent" if canary.mode == "shadow" else arm_of(canary, sticky)

    def shadows(self, canary: Canary, sticky: str | None = None) -> bool:
        """Whether the candidate is to be asked beside."""
        return canary.mode == "shadow" and arm_of(canary, sticky) == "candidate"

    def outcome(self, canary: Canary, arm: Arm, adherent: bool | None, error: bool) -> Canary:
        """Notes what became of one call, and decides; the canary as it then is.

        ``adherent`` is ``None`` when the answer can't be judged; a call with an ``error`` says nothing about adherence.
        """
        return self._decide(canary, Outcome(arm, adherent, error))

    def stop(self, canary: Canary, why: str) -> Canary:
        """Ends a canary for another reason than its outcomes; the canary as it then is."""
        return self._stop(canary, Verdict("stopped", why))

    def _decide(self, canary: Canary, outcome: Outcome | None) -> Canary:
        with self._guard:
            known = self._ended.get(canary.id)
            if known is not None:
                return known
            try:
                if outcome is not None and not self._follow(canary).trial.closed:
                    self.store.append(canary.id, outcome)
                followed = self._read(canary)
            except (OSError, PromptsmithError) as problem:
                self._tell(problem)
                return canary
            verdict = followed.trial.verdict
            if verdict is followed.settled or verdict is None:
                return canary
            return self._settle(canary, verdict, followed.trial.counts())

    def _stop(self, canary: Canary, verdict: Verdict) -> Canary:
        with self._guard:
            try:
                followed = self._read(canary)
                # Where nothing was read yet, `course` counts the outcomes that are kept.
                counts = followed.trial.counts() if followed.place else None
            except (OSError, PromptsmithError) as problem:
                self._tell(problem)
                counts = None
            return self._settle(canary, verdict, counts)

    def _moved(self, canary: Canary, now: str | None = None) -> Verdict | None:
        """How a canary ends whose alias names another prompt than the incumbent; ``None`` while it names none, or nobody can tell.

        Under an alias that names none nobody is served. It comes back the next moment when git writes the lock anew.
        """
        if now is None:
            if self._registry is None:
                return None
            try:
                now = self._registry.resolve(canary.task, canary.alias)
            except (OSError, PromptsmithError):  # a damaged lock: its last good copy is served
                return None
        if now is None or now == canary.incumbent:
            return None
        place = f"{canary.task}@{canary.alias}"
        if now == canary.candidate:
            return Verdict("complete" if canary.state == "complete" else "stopped", f"{place} was moved to the candidate")
        return Verdict("stopped", f"{place} was moved to prompt {now[:12]} meanwhile")

    def _follow(self, canary: Canary) -> _Followed:
        followed = self._followed.get(canary.id)
        if followed is None:
            self._leave()
            followed = self._followed[canary.id] = _Followed(canary)
        return followed

    def _leave(self) -> None:
        """Lets go of canaries that were ended by somebody else."""
        for one in [followed.canary for followed in self._followed.values()]:
            active = self.store.active(one.task, one.alias)
            if active is None or active.id != one.id:
                del self._followed[one.id]
                self.store.close(one.id)

    def _read(self, canary: Canary) -> _Followed:
        followed = self._follow(canary)
        if not followed.trial.closed:
            outcomes, followed.place = self.store.outcomes(canary.id, followed.place)
            for outcome in outcomes:
                followed.trial.feed(outcome)
        return followed

    def _settle(self, canary: Canary, verdict: Verdict, counts: Counts | None) -> Canary:
        written = True
        try:
            settled = self.store.settle(canary.id, verdict, counts)
        except (OSError, PromptsmithError) as problem:
            self._tell(problem)
            written = isinstance(problem, UnknownName)  # of what is not there any more, nothing is left to be written
            settled = msgspec.structs.replace(canary, state=verdict.state, why=verdict.why, counts=counts)
        if written and (followed := self._followed.get(canary.id)) is not None:
            followed.settled = verdict
        if verdict.ends:
            self._ended[canary.id] = settled
            self._followed.pop(canary.id, None)
            self.store.close(canary.id)
        if written or verdict.ends:
            self._tell_state(settled)  # else the next outcome tries again
        return settled

    def _tell(self, problem: Exception) -> None:
        # A canary that is not known any more was ended meanwhile, by another process.
        if not self._told and not isinstance(problem, UnknownName):
            self._told = True
            warnings.warn(f"canaries can't be kept: {problem}", CanaryWarning, stacklevel=4)
