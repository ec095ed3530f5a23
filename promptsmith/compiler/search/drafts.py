"""What the meta-model is asked during a search: a draft by one strategy, its repair, an edit after looking at failures.

The loop of failure, feedback in words and edited prompt is that of GEPA (Agrawal et al. 2025, arXiv:2507.19457) and,
before it, of ProTeGi (Pryzant et al. 2023, arXiv:2305.03495); that an optimizer is shown how earlier prompts did is
OPRO's (Yang et al. 2023, arXiv:2309.03409); facts about the data beside it are MIPRO's (Opsahl-Ong et al. 2024,
arXiv:2406.11695). Here the meta-model sees rows of the compile part alone: the dev part scores, and is shown to nobody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import msgspec

from ...catalog.tokens import estimate
from ...chat import Request
from ...contract import Contract, JsonShape, Labels
from ...prompt import TEXT_INPUT, example_line
from ..draft import asking, brief, fences, meta_prompt, outline, repairing, target
from ..lint import LintFinding
from ..material import Material, pair_of
from ..select import contrasting
from .strategies import CONTRAST_RULES, REFLECTION, WORKED_REASONING, Strategy, room_for_reasoning, system_of
from .values import Candidate

FAILURE_TOKENS = 6000
"""About how many tokens of failures the meta-model is shown."""
_CONTRAST_TOKENS = 4000
_NEAR_TOKENS = 2000
_PASSED = 3
"""How many plain passes are shown: what works now has to keep working."""
_PASSED_TOKENS = 1000
_MOST_CHARS = 4000
"""How much of one text is shown: a model that never stopped must not take the room of the other rows."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One case of the compile part, and what a prompt's answer to it came to."""

    inputs: Mapping[str, str]
    expected: str
    output: str
    passed: bool
    score: float = 0.0
    """0 to 1."""
    why: str = ""
    """What the scorers say of it."""
    broken: tuple[str, ...] = ()
    """How it breaks the contract, in words."""


def draft_request(
    source: Material, strategy: Strategy, failures: Sequence[Trial] = (), sample: int = 0, told: Mapping[str, str] | None = None
) -> Request:
    """The first request for a draft. ``failures`` are shown where the strategy needs them; ``sample`` tells equal requests apart.

    ``told`` is what :func:`told_first` says of ``source``, for who asks for several drafts: it takes an analysis of all examples.
    """
    parts = dict(told_first(source) if told is None else told)
    if strategy == CONTRAST_RULES:
        parts["contrasts"] = _contrasts(source)
    if strategy == WORKED_REASONING:
        parts["room"] = room_for_reasoning(source)
    if strategy.needs_failures:
        parts["failures"] = _listed(failures, FAILURE_TOKENS)
    return asking(source, system_of(strategy), fences(parts), sample)


def told_first(source: Material) -> dict[str, str]:
    """What every request for a draft tells of the task."""
    return brief(source, placed=False)


def repair_request(request: Request, said: str, faults: Sequence[LintFinding]) -> Request:
    """The request after the answer ``said`` to ``request`` had ``faults``: the same conversation, gone on with."""
    return repairing(request, said, faults)


def reflection_request(source: Material, parent: Candidate, trials: Sequence[Trial], sample: int = 0) -> Request:
    """Asks for a diagnosis of ``trials``, which are answers of ``parent``, and for its instructions edited.

    All failures come first, as far as about 6,000 tokens reach; then near misses, then a few passes.
    """
    failed = [trial for trial in trials if not trial.passed]
    near = [trial for trial in trials if is_near_miss(trial, source.contract)]
    passed = [trial for trial in trials if trial.passed and trial not in near]
    parts = {
        **outline(source),
        "target": target(source),
        "current_prompt": parent.instructions,
        "examples_in_it": f"{len(parent.shown)} solved examples stand behind the current prompt.",
        "failures": _listed(failed, FAILURE_TOKENS),
        "near_misses": _listed(near, _NEAR_TOKENS),
        "passes": _listed(passed[:_PASSED], _PASSED_TOKENS),
    }
    return asking(source, meta_prompt(REFLECTION), fences(parts), sample)


def is_near_miss(trial: Trial, contract: Contract) -> bool:
    """Whether it passed only just: below the full score, or with a form that had to be read kindly.

    Such are a label in another spelling than the expected one, and JSON with other text around it.
    """
    if not trial.passed:
        return False
    if trial.score < 1:
        return True
    if isinstance(contract.shape, Labels):
        return trial.output != trial.expected
    return isinstance(contract.shape, JsonShape) and not _is_bare_json(trial.output)


def _is_bare_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _listed(trials: Sequence[Trial], tokens: int) -> str:
    """A line for each of ``trials``, the first ones as far as ``tokens`` reach but one at least, and how many more there are."""
    lines: list[str] = []
    for trial in trials:
        line = _line(trial)
        tokens -= estimate(line)
        if lines and tokens < 0:
            lines.append(f"({len(trials) - len(lines)} more are not shown)")
            break
        lines.append(line)
    return "\n".join(lines) or "none"


def _line(trial: Trial) -> str:
    """One row as a JSON object: the input, what was expected, what was answered, what is wrong with that."""
    given = trial.inputs[TEXT_INPUT] if list(trial.inputs) == [TEXT_INPUT] else dict(trial.inputs)
    said = [reason for reason in trial.broken if reason not in trial.why]
    row = {
        "input": _cut(given) if isinstance(given, str) else {name: _cut(text) for name, text in given.items()},
        "expected": _cut(trial.expected),
        "output": _cut(trial.output),
        "why": _cut("; ".join([*said, *([trial.why] if trial.why else [])])),
    }
    line = json.dumps({name: value for name, value in row.items() if value or name != "why"}, ensure_ascii=False)
    # A model may answer with half a surrogate pair, which no request can carry.
    return line.encode("utf-8", "replace").decode("utf-8")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}… ({len(text) - _MOST_CHARS} characters more)"


def _contrasts(source: Material) -> str:
    """Pairs of examples that are alike and have different outputs, as far as their room reaches."""
    pairs: list[str] = []
    left = _CONTRAST_TOKENS
    for pair in contrasting(source.examples, seed=source.seed):
        lines = "\n".join(example_line(pair_of(example)) for example in pair)
        left -= estimate(lines)
        if pairs and left < 0:
            break
        pairs.append(lines)
    return "\n\n".join(pairs)
