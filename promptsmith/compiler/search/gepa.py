"""``--engine gepa``: the gepa package (Agrawal et al. 2025, arXiv:2507.19457) as the engine of a search, an extra.

It decides what is tried; everything else stays ours: calls go through the bench (budget, journal, replay), it is given the
compile part to learn from and the dev part to score on and no holdout, edits are written and linted as those of our own
engine, and the report is ours. gepa's evaluation cache stays off (it keys cases by their place in a list, so that a row of one
part is answered for another), and it gets no run folder: its own resume draws other minibatches than an uninterrupted
run, and goes on with whatever task left its state there. Run again with the same seed it asks for the same things in the
same order, so the journal, which is named by the build key, is what it resumes from.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import io
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from ...errors import InputError
from ...evals.suite import Case
from .bench import Bench
from .drafting import trial_of, written
from .drafts import reflection_request
from .engine import baselines, perfect_on
from .sizes import ROUNDS
from .values import Candidate, Origin, Reason

T = TypeVar("T")
_COMPONENT = "system"


class GepaEngine:
    """gepa's loop at our bench. Raises :class:`InputError` when the package is not installed."""

    name = "gepa"

    def __init__(self) -> None:
        if importlib.util.find_spec("gepa") is None:
            raise InputError("the engine gepa is not installed", hint="pip install 'promptsmith[gepa]', or leave --engine out")

    async def search(self, bench: Bench) -> Reason:
        always = baselines(bench)
        if not await bench.attempt((one, case) for one in always for case in bench.dev):
            return "budget"
        if perfect_on(bench, always, bench.dev):
            return "perfect"
        bench.stage = "reflection"
        adapter = _Adapter(bench, asyncio.get_running_loop())
        try:
            await asyncio.to_thread(adapter.optimize)
        except _OverBudget:
            return "budget"
        finally:
            adapter.ended = True
        return "perfect" if bench.best_mean() == 1 else "done"


class _OverBudget(Exception):
    """Leaves gepa's loop, which looks at budgets between its iterations only."""


class _Adapter:
    """What gepa calls, in its own thread; the work is done in the loop of the search."""

    def __init__(self, bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
        self._bench, self._loop = bench, loop
        self._written = 0
        self._left: BaseException | None = None
        self.ended = False
        """Set when nobody waits for gepa any more."""

    def optimize(self) -> None:
        """Runs gepa to its end. Raises what ends a search."""
        try:
            self._optimize()
        except Exception as error:
            raise (self._left or error) from None
        if self._left is not None:
            raise self._left

    def _optimize(self) -> None:
        bench = self._bench
        limit = bench.source.limits.calls
        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            importlib.import_module("gepa").optimize(
                seed_candidate={_COMPONENT: bench.candidates[bench.template].instructions},
                trainset=list(bench.practice),
                valset=list(bench.dev),
                adapter=self,
                # Our budget ends it; without one, about as much as our own engine would do.
                max_metric_calls=limit if limit is not None else ROUNDS * len(bench.dev),
                stop_callbacks=[lambda _state: self._left is not None or bench.best_mean() == 1],
                cache_evaluation=False,
                logger=_Quiet(),
                seed=bench.source.seed,
            )

    def evaluate(self, batch: Sequence[Case], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """Scores of ``batch``; the traces are the candidate and its cases."""
        one = self._candidate(candidate[_COMPONENT])
        if not self._done(self._bench.attempt((one, case) for case in batch)):
            self._leave(_OverBudget())
        attempts = self._bench.attempts[one.id]
        return importlib.import_module("gepa.core.adapter").EvaluationBatch(
            outputs=[attempts[case.id].output for case in batch],
            scores=[self._bench.score(one, case) for case in batch],
            trajectories=[(one, case) for case in batch] if capture_traces else None,
        )

    def make_reflective_dataset(self, _candidate: Mapping[str, str], batch: Any, components: Sequence[str]) -> dict[str, list[Any]]:
        """The traces as they are: :meth:`propose_new_texts` makes the request of them."""
        return {name: [{"candidate": one, "case": case} for one, case in batch.trajectories] for name in components}

    def propose_new_texts(self, candidate: dict[str, str], dataset: Mapping[str, Any], components: Sequence[str]) -> dict[str, str]:
        """The edit of our meta-model, linted; the text as it was when it can't be used."""
        rows = dataset[components[0]]
        parent: Candidate = rows[0]["candidate"]
        self._written += 1
        trials = [trial_of(self._bench, parent, row["case"]) for row in rows]
        request = reflection_request(self._bench.source, parent, trials, self._written)
        texts = self._done(written(self._bench, [request], reflecting=True))
        if texts is None:
            self._leave(_OverBudget())
        if texts[0] is None:
            return dict(candidate)
        origin = Origin(kind="reflection", strategy="gepa", selection="none", parents=(parent.id,), said=texts[0].said, round=self._written)
        self._bench.add(texts[0].text, (), origin)
        return {_COMPONENT: texts[0].text}

    def _candidate(self, text: str) -> Candidate:
        return self._bench.add(text, (), Origin(kind="draft", strategy="template", selection="none"))

    def _done(self, work: Coroutine[Any, Any, T]) -> T:
        if self.ended:
            work.close()
            self._leave(_OverBudget())
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except BaseException as error:
            self._leave(error)
            raise

    def _leave(self, error: BaseException) -> NoReturn:
        """Raises ``error``, and remembers it: gepa goes on after most exceptions."""
        self._left = self._left or error
        raise error


class _Quiet:
    """gepa's logger: progress is told by the bench."""

    def log(self, message: str) -> None:
        """Nothing."""
