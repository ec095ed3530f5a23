"""Runs the arms of an eval: every case and repeat, bounded, in any order, with results in their places."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..contract import Validator, validator
from ..errors import BudgetError, ModelError
from ..prompt import Prompt
from ..render import Renderer
from .asking import Asker
from .attempt import ENDS, Answered, Attempt, Grader, unanswered
from .suite import Case

CONCURRENCY = 64
"""How many calls are under way at once unless the caller says otherwise; a model's own limit comes on top."""


IN_A_ROW = 30
"""After so many calls in a row without an answer the provider is taken to be down, and the rest is left for another time."""


class Progress(NamedTuple):
    """How far an eval is. ``cost`` is in US dollars, of the answers so far, ``None`` when a price is unknown."""

    done: int
    total: int
    seconds: float
    cost: float | None


OnProgress = Callable[[Progress], None]


class Arm:
    """One prompt with the model that serves it."""

    def __init__(self, prompt: Prompt, model: str | None = None) -> None:
        self.prompt = prompt
        self.model = model or prompt.model
        self.renderer = Renderer(prompt, model=model)
        self.validate: Validator = validator(prompt.contract)


class Ran(NamedTuple):
    """Attempts by arm, case and repeat; what was not reached has none. ``stopped`` says why, in words."""

    attempts: list[list[list[Attempt | None]]]
    stopped: str


class Runner:
    """The state of one eval under way."""

    def __init__(
        self, arms: Sequence[Arm], cases: Sequence[Case], repeats: int, asker: Asker, grader: Grader, *, pairs: bool = False
    ) -> None:
        """``pairs``: some scorer compares the candidate's answer with that of the second arm, the baseline."""
        self._arms, self._cases, self._repeats, self._pairs = arms, cases, repeats, pairs and len(arms) > 1
        self._asker, self._grader = asker, grader
        self._attempts: list[list[list[Attempt | None]]] = [[[None] * repeats for _ in cases] for _ in arms]
        self._started = time.monotonic()
        self._done, self._cost = 0, 0.0
        self._unknown = False
        self._stopped = ""
        self._failed_in_a_row = 0

    async def run(self, *, concurrency: int, seconds: float | None, on_progress: OnProgress | None = None) -> Ran:
        """Asks and grades everything, within ``seconds``.

        A call that fails leaves its case unscored; one that no other call could survive (a refused key, an unknown
        model, a full disk) ends the eval with its error. A budget that bites stops it.
        """
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await self._all(concurrency, on_progress)
        except TimeoutError:
            if not limit.expired():
                raise
            self._stopped = f"the time limit of {seconds:g} seconds is reached"
        return Ran(self._attempts, self._stopped)

    async def _all(self, concurrency: int, on_progress: OnProgress | None) -> None:
        jobs = self._jobs()

        async def worker() -> None:
            for arms, case, repeat in jobs:
                for arm in arms:
                    if self._stopped:
                        return  # calls under way are paid for: they may end
                    await self._one(arm, case, repeat)
                    if on_progress is not None:
                        on_progress(self._progress())

        try:
            async with asyncio.TaskGroup() as workers:
                await self._warm()
                for _ in range(min(concurrency, len(self._arms) * len(self._cases) * self._repeats)):
                    workers.create_task(worker())
        except BaseExceptionGroup as group:
            # What ends an eval is one error, not a tree of them.
            raise group.exceptions[0] from group.exceptions[0].__cause__

    def _jobs(self) -> Iterator[tuple[Sequence[int], int, int]]:
        # Case by case over the arms, so that both meet the same weather; repeats last, so that all cases have one early.
        for repeat in range(self._repeats):
            for case in range(len(self._cases)):
                open_ = [arm for arm in reversed(range(len(self._arms))) if self._attempts[arm][case][repeat] is None]
                # Pairs are asked one after the other, the baseline first; others need not wait for each other.
                yield from [(open_, case, repeat)] if self._pairs else [([arm], case, repeat) for arm in open_]

    async def _warm(self) -> None:
        """One call for each prompt that is worth it, before the many that read what it writes."""
        for number, arm in enumerate(self._arms):
            asked = self._unknown_case(arm)
            if asked is not None and len(self._cases) > 1 and self._asker.warms(arm.renderer.request(self._cases[asked].inputs)):
                await self._one(number, asked, 0)

    def _unknown_case(self, arm: Arm) -> int | None:
        """The first case whose answer is not here yet."""
        for place, case in enumerate(self._cases):
            if not self._asker.known(arm.renderer.key(arm.renderer.request(case.inputs))):
                return place
        return None

    async def _one(self, number: int, place: int, repeat: int) -> None:
        arm, case = self._arms[number], self._cases[place]
        try:
            request = arm.renderer.request(case.inputs, sample=repeat)
            answered = await self._asker.ask(request, prompt=arm.prompt.id, key=arm.renderer.key(request))
            attempt = await self._graded(number, place, repeat, answered)
        except ENDS:
            raise
        except BudgetError as error:
            self._stopped = error.message
            return
        except ModelError as error:
            attempt = unanswered("; ".join([error.message, *getattr(error, "__notes__", ())]))
            self._failed_in_a_row += 1
            if self._failed_in_a_row == IN_A_ROW:
                self._stopped = f"{IN_A_ROW} calls in a row got no answer: {error.message}"
        else:
            self._failed_in_a_row = 0
        self._attempts[number][place][repeat] = attempt
        self._done += 1
        self._unknown |= attempt.cost is None
        self._cost += attempt.cost or 0.0

    async def _graded(self, number: int, place: int, repeat: int, answered: Answered) -> Attempt:
        if answered.reply.stop in ("filtered", "aborted"):
            return unanswered(f"the answer was {answered.reply.stop}")
        baseline = None
        if self._pairs:
            other = self._attempts[1][place][repeat]
            # The baseline itself stands beside itself, which is a tie.
            baseline = answered.reply.text if number else other.output if other and other.source else None
        return await self._grader.grade(self._cases[place], answered, self._arms[number].validate, baseline)

    def _progress(self) -> Progress:
        total = len(self._arms) * len(self._cases) * self._repeats
        return Progress(self._done, total, time.monotonic() - self._started, None if self._unknown else self._cost)
