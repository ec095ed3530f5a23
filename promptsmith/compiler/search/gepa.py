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
import importlib
import importlib.util
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
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
            adapter.stop()
        return "perfect" if bench.best_mean() == 1 else "done"


class _OverBudget(Exception):
    """Leaves gepa's loop, which looks at budgets between its iterations only."""


class _Adapter:
    """What gepa calls, in its own thread; the work is done in the loop of the search."""

    def __init__(self, bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
        self._bench, self._loop = bench, loop
        self._ended = False
        """Nobody waits for gepa any more."""
        self._under_way: Future[Any] | None = None
        self._left: BaseException | None = None
        """What ended it, when gepa itself did not."""
        self._trying: Candidate | None = None

    def optimize(self) -> None:
        """Runs gepa to its end. Raises what ends a search."""
        try:
            self._optimize()
        except Exception as error:
            raise (self._left or error) from None
        if self._left is not None:
            raise self._left

    def stop(self) -> None:
        """Whatever gepa still waits for is cut, and it gets nothing more. Edits that it left behind are told so."""
        self._ended = True
        if self._under_way is not None:
            self._under_way.cancel()
        bench = self._bench
        for one in bench.candidates.values():
            tried = bench.attempts.get(one.id, {})
            if one.origin.kind == "reflection" and one is not self._trying and tried and not any(case.id in tried for case in bench.dev):
                bench.drop(one, f"no better than its parent on {len(tried)} cases of the compile part")

    def _optimize(self) -> None:
        bench = self._bench
        limit = bench.source.limits.calls
        importlib.import_module("gepa").optimize(
            seed_candidate={_COMPONENT: _seed(bench)},
            trainset=list(bench.practice),
            valset=list(bench.dev),
            adapter=self,
            # It goes on until its own count of scored answers is used up, so without a limit it gets about what our engine would take.
            max_metric_calls=limit if limit is not None else ROUNDS * len(bench.dev),
            stop_callbacks=[lambda _state: self._left is not None or bench.best_mean() == 1],
            cache_evaluation=False,
            run_dir=None,
            logger=_Quiet(),
            seed=bench.source.seed,
        )

    def evaluate(self, batch: Sequence[Case], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """Scores of ``batch``; the traces are the candidate and its cases."""
        bench = self._bench
        self._trying = one = bench.add(candidate[_COMPONENT], (), Origin(kind="draft", strategy="template", selection="none"))
        if not self._done(bench.attempt((one, case) for case in batch)):
            self._leave(_OverBudget())
        self._trying = None
        attempts = bench.attempts[one.id]
        return importlib.import_module("gepa.core.adapter").EvaluationBatch(
            outputs=[attempts[case.id].output for case in batch],
            scores=[bench.score(one, case) for case in batch],
            trajectories=[(one, case) for case in batch] if capture_traces else None,
        )

    def make_reflective_dataset(self, _candidate: Mapping[str, str], batch: Any, components: Sequence[str]) -> dict[str, list[Any]]:
        """The traces as they are: :meth:`propose_new_texts` makes the request of them."""
        return {name: [{"candidate": one, "case": case} for one, case in batch.trajectories] for name in components}

    def propose_new_texts(self, candidate: dict[str, str], dataset: Mapping[str, Any], components: Sequence[str]) -> dict[str, str]:
        """The edit of our meta-model, linted; the text as it was when it can't be used."""
        bench, rows = self._bench, dataset[components[0]]
        parent: Candidate = rows[0]["candidate"]
        bench.round += 1
        trials = [trial_of(bench, parent, row["case"]) for row in rows]
        texts = self._done(written(bench, [reflection_request(bench.source, parent, trials, bench.round)], reflecting=True))
        if texts is None:
            self._leave(_OverBudget())
        if texts[0] is None:
            return dict(candidate)
        parents, said = (parent.id,), texts[0].said
        origin = Origin(kind="reflection", strategy="gepa", selection="none", parents=parents, said=said, round=bench.round)
        bench.add(texts[0].text, (), origin)
        return {_COMPONENT: texts[0].text}

    def _done(self, work: Coroutine[Any, Any, T]) -> T:
        if self._ended:
            work.close()
            self._leave(_OverBudget())
        try:
            self._under_way = future = asyncio.run_coroutine_threadsafe(work, self._loop)
            if self._ended:  # since a moment ago: nobody else will cut it
                future.cancel()
            return future.result()
        except BaseException as error:
            self._leave(error)

    def _leave(self, error: BaseException) -> NoReturn:
        """Raises ``error``, and remembers it: gepa goes on after most exceptions."""
        self._left = self._left or error
        raise error


def _seed(bench: Bench) -> str:
    """The instructions that gepa begins with: those of the prompt that a search was given, else the template's."""
    start = bench.source.start
    return bench.candidates[bench.template].instructions if start is None else start.instructions


class _Quiet:
    """gepa's logger: progress is told by the bench."""

    def log(self, message: str) -> None:
        """Nothing."""
