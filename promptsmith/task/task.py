"""``Task``: what to do, examples, what a right answer looks like. From a file, or made in Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import canonical
from ..contract import Contract
from ..prompt import Serve, Variable
from .document import Problems, from_python, parse_document, read_bytes, shown
from .reader import Reading, source_digest
from .values import CompileOptions, Constraint, Example, ModelSpec, ScorerSpec, Vocabulary


@dataclass(frozen=True, init=False, eq=False)
class Task:
    """A task as its file says it; ``Task(...)`` takes the same things as Python values and checks them the same way.

    ``examples`` are ``{"input": …, "output": …}`` mappings or ``(input, output)`` pairs. ``output`` is a list of
    labels, ``"text"``, ``{"text": {"max_words": 60}}`` or ``{"json": schema}``; without it the examples decide.
    Raises :class:`SourceError` with everything that is wrong.
    """

    name: str
    description: str
    inputs: tuple[Variable, ...]
    contract: Contract
    examples: tuple[Example, ...]
    holdout: tuple[Example, ...]
    data_seed: int
    """Decides which rows are on which side: the ``seed`` of the examples' file, else of the holdout's, else 0."""
    constraints: tuple[Constraint, ...]
    production: ModelSpec | None
    meta: ModelSpec | None
    options: CompileOptions
    scorers: tuple[ScorerSpec, ...]
    gate: Mapping[str, Any]
    serve: Serve
    prompt: str | None
    sources: Mapping[str, str]
    """sha256 (line ends normalised) of each file the task was read from, by absolute path."""
    notes: tuple[str, ...]
    """What was found in data files and is no error: duplicates left out, contradictions, near duplicates."""
    file: str

    def __init__(
        self,
        description: str,
        *,
        name: str = "",
        inputs: Any = None,
        output: Any = None,
        examples: Iterable[Any] | Mapping[str, Any] = (),
        holdout: Iterable[Any] | Mapping[str, Any] = (),
        constraints: Iterable[Any] = (),
        models: Mapping[str, Any] | None = None,
        compile: Mapping[str, Any] | None = None,
        scorers: Iterable[Any] = (),
        gate: Mapping[str, Any] | None = None,
        serve: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        folder: str | Path = ".",
    ) -> None:
        said: dict[str, Any] = {
            "task": description,
            "inputs": inputs,
            "output": output,
            "examples": _rows(examples),
            "holdout": _rows(holdout),
            "constraints": list(constraints),
            "models": models,
            "compile": compile,
            "scorers": list(scorers),
            "gate": gate,
            "serve": serve,
            "prompt": prompt,
        }
        given = {key: value for key, value in said.items() if value is not None and value != []}
        label = f"Task({name!r})" if name else "Task(...)"
        reading = Reading(Problems(label), Path(folder).absolute())
        fields = reading.task(from_python(given, label))
        digest = canonical.digest([canonical.sha256(description), fields["contract"].digest()])
        self._set(name=name or f"inline-{digest[:8]}", file="", **fields)

    def _set(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def _rows(examples: Iterable[Any] | Mapping[str, Any]) -> Any:
    if isinstance(examples, Mapping):
        return dict(examples)
    return [{"input": row[0], "output": row[1]} if isinstance(row, tuple) and len(row) == 2 else row for row in examples]


def load_task(path: Path, *, name: str = "", vocabulary: Vocabulary | None = None) -> Task:
    """The task in a file, called ``name`` (default: the file's own name). Raises :class:`SourceError`.

    Without a ``vocabulary``, scorers and gate are checked for their shape only.
    """
    data = read_bytes(path)
    reading = Reading(Problems(shown(path)), path.absolute().parent, vocabulary)
    reading.sources[str(path.absolute())] = source_digest(data)
    fields = reading.task(parse_document(data, shown(path), reading.problems))
    task = Task.__new__(Task)
    task._set(name=name or path.stem, file=str(path.absolute()), **fields)
    return task
