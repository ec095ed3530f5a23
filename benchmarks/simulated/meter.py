"""The one call counter: every contender reaches both simulated models through it, and through nothing else."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from .meta import MetaModel
from .world import Case, World, tokens


@dataclass(frozen=True)
class Mark:
    """The best prompt that a contender had after ``calls`` scored calls, by its own account; ``truth`` is its true score."""

    calls: int
    truth: float


class Meter:
    """Counts calls and tokens of one contender's run. ``scored`` are calls of the production model, ``meta`` of the other.

    Nothing is stopped here: who uses more calls than its budget is shown with what it used.
    """

    def __init__(self, world: World) -> None:
        self.world, self._meta_model = world, MetaModel(world)
        self.scored = self.meta = 0
        self.tokens_in = self.tokens_out = 0
        self.meta_tokens_in = self.meta_tokens_out = 0
        self.marks: list[Mark] = []
        self._asked: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def answer(self, system: str, user: str, sample: int = 0) -> str:
        """What the production model answers."""
        text = self.world.answer(system, user, sample)
        with self._lock:
            self.scored += 1
            self.tokens_in += tokens(system) + tokens(user)
            self.tokens_out += tokens(text)
        return text

    def score(self, system: str, case: Case, sample: int = 0) -> tuple[str, float, str]:
        """The answer to a case, its score and the feedback."""
        output = self.answer(system, case.text, sample)
        return output, *self.world.grade(case, output)

    def complete(self, system: str, user: str, sample: int | None = None) -> str:
        """What the meta-model writes. Asked the same again it writes something else, unless ``sample`` says which one."""
        with self._lock:
            number = self._asked[system, user]
            self._asked[system, user] += 1
        text = self._meta_model.complete(system, user, number if sample is None else sample)
        with self._lock:
            self.meta += 1
            self.meta_tokens_in += tokens(system) + tokens(user)
            self.meta_tokens_out += tokens(text)
        return text

    def mark(self, system: str) -> None:
        """Tells that ``system`` is the best prompt so far."""
        with self._lock:
            self.marks.append(Mark(self.scored, self.world.truth(system)))

    def calls_to(self, truth: float) -> int | None:
        """The scored calls after which the best prompt so far was first worth ``truth``; ``None``: never."""
        return next((mark.calls for mark in self.marks if mark.truth >= truth), None)
