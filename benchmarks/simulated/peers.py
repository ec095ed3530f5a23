"""gepa and dspy's optimizers, with the simulated models in the place of real ones.

They are no dependencies of the project: install them elsewhere (``pip install gepa==0.1.4 dspy optuna``) and name that
environment's interpreter by ``--peers``. Every one of them gets the meta-model of the meter, the same feedback text and
the same split; what they do with the budget is their own affair, and what they used of it stands in the table.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .contenders import Contender, Outcome, Trial
from .world import Case

GEPA_VERSION = "0.1.4"
_RIGHT = "The answer is right."
_MINIBATCH = 25
_FULL_EVERY = 5
"""MIPROv2's own default: a full evaluation after so many minibatch trials."""
_FRESH = 0.8
"""About the share of MIPROv2's calls that dspy's cache can't answer; so its trials come near the budget."""


def _load(name: str) -> Any:
    """A module of a peer, which nobody's type checker can see."""
    return importlib.import_module(name)


def _gepa_absent() -> str:
    if importlib.util.find_spec("gepa") is None:
        return f"gepa is not installed (pip install gepa=={GEPA_VERSION})"
    found = importlib.metadata.version("gepa")
    return "" if found == GEPA_VERSION else f"gepa {found} is installed, not {GEPA_VERSION}"


def _dspy_absent() -> str:
    return "" if importlib.util.find_spec("dspy") else "dspy is not installed (pip install dspy)"


def _mipro_absent() -> str:
    return _dspy_absent() or ("" if importlib.util.find_spec("optuna") else "optuna is not installed, which dspy's MIPROv2 needs")


# --- gepa -----------------------------------------------------------------------------------------------------


class _GepaAdapter:
    """One component, ``system``. The feedback is what the scorers say."""

    propose_new_texts = None

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def evaluate(self, batch: Sequence[Case], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """The scores of a batch, with traces when they are asked for."""
        scored = [(case, *self._trial.meter.score(candidate["system"], case)) for case in batch]
        return _load("gepa.core.adapter").EvaluationBatch(
            outputs=[output for _, output, _, _ in scored],
            scores=[score for _, _, score, _ in scored],
            trajectories=scored if capture_traces else None,
        )

    def make_reflective_dataset(self, _candidate: Mapping[str, str], eval_batch: Any, components_to_update: list[str]) -> Any:
        """What the reflection is shown of a batch."""
        rows = [
            {"Inputs": case.text, "Generated Outputs": output, "Feedback": why or _RIGHT}
            for case, output, _, why in eval_batch.trajectories
        ]
        return dict.fromkeys(components_to_update, rows)


class _GepaProgress:
    """Marks each new best prompt. A candidate has one component, whatever its name."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def on_valset_evaluated(self, event: Any) -> None:
        if event["is_best_program"]:
            self._trial.meter.mark(next(iter(event["candidate"].values())))


class _Quiet:
    def log(self, message: str) -> None:
        """Progress is told here."""


def gepa(trial: Trial) -> Outcome:
    """``gepa.optimize`` with its defaults."""
    result = _load("gepa").optimize(
        seed_candidate={"system": trial.description},
        trainset=list(trial.compile),
        valset=list(trial.dev),
        adapter=_GepaAdapter(trial),
        reflection_lm=lambda prompt: trial.meter.complete("", prompt),
        max_metric_calls=trial.budget,
        callbacks=[_GepaProgress(trial)],
        logger=_Quiet(),
        seed=trial.seed,
    )
    scores = result.val_aggregate_scores
    return Outcome(result.best_candidate["system"], scores[result.best_idx] - scores[0])


# --- dspy -----------------------------------------------------------------------------------------------------


class _Engine:
    """A simulated model as dspy's engine. ``complete`` is given the system text and the rest."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def complete(self, request: Any) -> Any:
        lm15 = _load("dspy.lm15")
        system = request.system or ""
        system = system if isinstance(system, str) else "".join(part.text for part in system)
        user = "\n".join(message.text or "" for message in request.messages)
        message = lm15.Message.assistant([lm15.TextPart(self._function(system, user))])
        return lm15.Response(id=None, model="simulated", message=message, finish_reason="stop", usage=lm15.Usage())

    def stream(self, request: Any) -> Any:
        return _load("dspy.lm15").response_to_events(self.complete(request))

    def close(self) -> None:
        """Nothing is open."""


def _rendered(instructions: str, demos: Sequence[Mapping[str, Any]]) -> str:
    """The prompt of a dspy program without dspy's own scaffolding, which would only cost it tokens."""
    shown = [f"Input: {demo['input']}\nOutput: {demo['output']}" for demo in demos]
    return "\n\n".join([instructions, *shown])


def _dspy(trial: Trial) -> tuple[Any, Any, Any]:
    """One run's setting: the program to start from, the production model and the meta-model."""
    dspy = _load("dspy")

    chat = dspy.ChatAdapter

    def format_(self: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        if list(signature.fields) != ["input", "output"]:
            return chat.format(self, signature, demos, inputs)
        return [{"role": "system", "content": _rendered(signature.instructions, demos)}, {"role": "user", "content": inputs["input"]}]

    def parse(self: Any, signature: Any, completion: str) -> Any:
        return {"output": completion} if list(signature.fields) == ["input", "output"] else chat.parse(self, signature, completion)

    # Its own adapter, but for the production model's calls: those are the instructions, the examples and the input.
    plain = type("Plain", (chat,), {"format": format_, "parse": parse})
    # In memory and anew for each run: dspy's cache on disk would answer for calls that this run did not make.
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    production = dspy.LM("simulated/production", engine=_Engine(trial.meter.answer), num_retries=0)
    meta = dspy.LM("simulated/meta", engine=_Engine(trial.meter.complete), num_retries=0)
    dspy.configure(lm=production, adapter=plain(), disable_history=True)
    for name in ("dspy", "optuna"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return dspy.Predict(dspy.Signature("input -> output", trial.description)), production, meta


def _dspy_examples(cases: Sequence[Case]) -> list[Any]:
    dspy = _load("dspy")

    return [dspy.Example(input=case.text, output=case.expected).with_inputs("input") for case in cases]


def _dspy_prompt(program: Any) -> str:
    predictor = program.predictors()[0]
    return _rendered(predictor.signature.instructions, predictor.demos)


def _graded(trial: Trial, gold: Any, prediction: Any) -> tuple[float, str]:
    case = trial.world.find(gold.input)
    assert case is not None
    return trial.world.grade(case, prediction.output)


def _trials(budget: int, dev: int, candidates: int) -> int:
    """The most trials whose calls fit: bootstrapping, the default program, minibatches, full evaluations."""

    def calls(trials: int) -> int:
        whole = 5 * candidates + dev + trials * _MINIBATCH + (trials // _FULL_EVERY + 1) * dev
        return math.ceil(_FRESH * whole)

    return next((trials for trials in range(200, 0, -1) if calls(trials) <= budget), 1)


def mipro(trial: Trial) -> Outcome:
    """MIPROv2 of dspy with instructions and examples, as many trials as the budget allows."""
    dspy = _load("dspy")

    program, production, meta = _dspy(trial)
    candidates = max(2, min(9, trial.budget // 100))
    optimizer = dspy.MIPROv2(
        metric=lambda gold, prediction, trace=None: _graded(trial, gold, prediction)[0],
        prompt_model=meta,
        task_model=production,
        auto=None,
        num_candidates=candidates,
        num_threads=1,
        metric_threshold=1.0,
        seed=trial.seed + 1,  # 0 would be its default seed
    )
    best = optimizer.compile(
        program,
        trainset=_dspy_examples(trial.compile),
        valset=_dspy_examples(trial.dev),
        num_trials=_trials(trial.budget, len(trial.dev), candidates),
        minibatch_size=_MINIBATCH,
        minibatch_full_eval_steps=_FULL_EVERY,
    )
    first = best.trial_logs[1]["full_eval_score"]
    return Outcome(_dspy_prompt(best), (best.score - first) / 100)


def dspy_gepa(trial: Trial) -> Outcome:
    """GEPA of dspy with its defaults."""
    dspy = _load("dspy")

    program, _, meta = _dspy(trial)

    def metric(gold: Any, prediction: Any, _trace: Any = None, _name: Any = None, _steps: Any = None) -> Any:
        score, why = _graded(trial, gold, prediction)
        return dspy.Prediction(score=score, feedback=why or _RIGHT)

    optimizer = dspy.GEPA(
        metric=metric,
        max_metric_calls=trial.budget,
        reflection_lm=meta,
        num_threads=1,
        track_stats=True,
        seed=trial.seed,
        gepa_kwargs={"callbacks": [_GepaProgress(trial)]},
    )
    best = optimizer.compile(program, trainset=_dspy_examples(trial.compile), valset=_dspy_examples(trial.dev))
    scores = best.detailed_results.val_aggregate_scores
    return Outcome(_dspy_prompt(best), max(scores) - scores[0])


CONTENDERS = (
    Contender(f"gepa {GEPA_VERSION}", gepa, _gepa_absent),
    Contender("dspy MIPROv2", mipro, _mipro_absent),
    Contender("dspy GEPA", dspy_gepa, _dspy_absent),
)
