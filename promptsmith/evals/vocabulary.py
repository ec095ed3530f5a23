"""The vocabulary of scorers and rules that task files are checked against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contract import Contract
from ..errors import Problem, SourceError
from ..task import Task, load_task
from ..task.values import Mistake, ScorerSpec
from .rules import gate_mistakes
from .scorers import check_specs, default_specs
from .scorers.vocabulary import options_of


class _Vocabulary:
    def scorer(self, spec: ScorerSpec, contract: Contract) -> Iterator[Mistake]:
        for _, option, what, right in check_specs([spec], contract):
            yield Mistake(what, right, option)

    def files(self, spec: ScorerSpec) -> Iterator[str]:
        options = options_of(spec)
        for name in ("rubric", "calibrate", "schema"):
            if isinstance(options.get(name), str):
                yield options[name]
        function = str(options.get("function", "")).rpartition(":")[0]
        if function.endswith(".py"):
            yield function

    def gate(self, gate: Mapping[str, Any], scorers: Sequence[ScorerSpec], contract: Contract, tags: Sequence[str]) -> Iterator[Mistake]:
        names = [str(options_of(spec).get("name", spec.name)) for spec in scorers or default_specs(contract)]
        for mistake in gate_mistakes(gate, names, tags):
            yield Mistake(mistake.what, mistake.right, mistake.key)


VOCABULARY = _Vocabulary()
"""All that this promptsmith knows."""


def load_suite_task(path: Path, name: str) -> Task:
    """The task in a file, its scorers and gate checked as well. Raises :class:`SourceError` with everything that is wrong."""
    return load_task(path, name=name, vocabulary=VOCABULARY)


def check_task(task: Task) -> Task:
    """Itself. Raises :class:`SourceError` for scorers or rules that a task made in Python has wrong."""
    label = task.file or f"Task({task.name!r})"
    tags = sorted({tag for row in task.holdout for tag in row.tags})
    found = [(spec.where.line, mistake) for spec in task.scorers for mistake in VOCABULARY.scorer(spec, task.contract)]
    found += [(0, mistake) for mistake in VOCABULARY.gate(task.gate, task.scorers, task.contract, tags)]
    if found:
        raise SourceError([Problem(label, line, mistake.what, mistake.right) for line, mistake in found])
    return task
