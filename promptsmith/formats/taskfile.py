"""Writes what an importer found as a new task of the project: a YAML file, and a JSONL file when there are many rows."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .. import canonical
from ..config import Project
from ..contract import Contract, JsonShape, schema_problem, validator
from ..errors import InputError, SourceError, StoreError
from ..prompt import Variable
from ..redact import MASK, redact
from ..registry.emit import emit
from ..task import ScorerSpec, load_task
from .values import Case, Foreign, Notes

INLINE_MOST = 12
"""More rows than this stand in a file of their own."""

_NO_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a new task, and how many rows are in it."""

    task: str
    files: tuple[Path, ...]
    rows: int


def write_task(project: Project, name: str, found: Foreign, notes: Notes, *, source: str, holdout: float = 0.0) -> Written:
    """Writes the task called ``name``; ``holdout`` is the share of its rows to be sealed.

    Nothing is overwritten, and what is written is read back first. Raises :class:`InputError` when a file stands there
    already or the task would not be readable, :class:`StoreError` when the folder can't be written.
    """
    path = project.task_file(name)
    data = path.parent / "data" / f"{path.stem}.jsonl"
    for there in (path, data):
        if os.path.lexists(there):
            raise InputError(f"{project.relative(there)} is there already; nothing is overwritten", hint="give another name: --name NAME")
    output = _output(found.output, notes)
    typed = isinstance(output, Mapping)
    cases = _fitting(found.cases, output, notes)
    inline = not holdout and len(cases) <= INLINE_MOST and _all_different(cases)
    rows = [_row(case, found.inputs, typed=typed, inline=inline) for case in cases]
    document = _document(found, output, notes)
    if rows:
        document["examples"] = rows if inline else _data_file(data, path, holdout)
    texts = {path: f"# Imported from {Path(source).name} by promptsmith.\n{emit(_ordered(_cleaned(document, notes)))}"}
    if rows and not inline:
        texts[data] = "".join(json.dumps(_cleaned(row, notes), ensure_ascii=False) + "\n" for row in rows)
    _put(texts, path, name)
    return Written(task=name, files=tuple(texts), rows=len(rows))


_ORDER = ("task", "inputs", "output", "examples", "models", "scorers", "prompt")


def _ordered(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in _ORDER if key in document}


def _document(found: Foreign, output: Any, notes: Notes) -> dict[str, Any]:
    description = found.description.strip() or found.prompt.strip()
    if not description:
        description = "Answer as the examples do."
        notes.left(None, "the file does not say what is to be done: write it into 'task:'")
    document: dict[str, Any] = {"task": description}
    if found.inputs:
        document["inputs"] = {variable.name: _variable(variable) for variable in found.inputs}
    if output is not None:
        document["output"] = output
    if found.model:
        document["models"] = {"production": {"use": found.model, **found.parameters} if found.parameters else found.model}
    if scorers := _usable(found.scorers, notes):
        document["scorers"] = scorers
    if found.prompt.strip():
        document["prompt"] = found.prompt
    return document


def _usable(scorers: Sequence[Any], notes: Notes) -> list[Any]:
    """The scorers that a task may have, each with a name of its own."""
    from ..evals.scorers import check_specs

    usable: list[Any] = []
    names: set[str] = set()
    for scorer in scorers:
        kind, options = next(iter(scorer.items())) if isinstance(scorer, Mapping) else (scorer, {})
        wanted = str(options.get("name", kind))
        name = next(one for one in (wanted, *(f"{wanted}-{number}" for number in range(2, 1000))) if one not in names)
        if name != wanted:
            options = {**options, "name": name}
        wrong = check_specs([ScorerSpec(kind, options)], None)
        if wrong:
            notes.left(None, f"the scorer {name} is left out: {wrong[0].what}")
            continue
        names.add(name)
        usable.append({kind: options} if options else kind)
    return usable


def _variable(variable: Variable) -> Any:
    said = {"default": variable.default, "max_chars": variable.max_chars, "about": variable.about or None}
    return {key: value for key, value in said.items() if value is not None} or "text"


def _output(output: Any, notes: Notes) -> Any:
    """The declared output; a schema that no validator takes is noted and left out."""
    if not isinstance(output, Mapping):
        return output
    problem = schema_problem(output["json"])
    if problem:
        notes.left(None, f"the output's schema is left out: it is no JSON Schema ({problem})")
        return None
    return output


def _fitting(cases: Sequence[Case], output: Any, notes: Notes) -> list[Case]:
    """The cases whose outputs the declared contract allows."""
    fitting = []
    for case in cases:
        answer = _as_json(case.output) if isinstance(output, Mapping) else case.output
        if problem := _misfit(answer, output):
            notes.left(case.where, f"the row's expected output {problem}; the row is left out")
        else:
            fitting.append(msgspec.structs.replace(case, output=answer))
    return fitting


def _misfit(answer: Any, output: Any) -> str:
    """How an expected output breaks the declared contract; empty when it does not."""
    if isinstance(answer, str) and not answer.strip():
        return "is empty"
    if isinstance(output, Mapping):
        verdict = validator(Contract(JsonShape(json.dumps(output["json"]))))(json.dumps(answer, ensure_ascii=False))
        return "" if verdict.ok else f"breaks the schema ({'; '.join(verdict.reasons)})"
    return "is none of the labels" if isinstance(output, list) and answer not in output else ""


def _as_json(answer: Any) -> Any:
    """An expected output of a JSON task: a text that spells an object or a list is that."""
    if not isinstance(answer, str):
        return answer
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return answer
    return value if isinstance(value, dict | list) else answer


def _all_different(cases: Sequence[Case]) -> bool:
    # In a task file two rows of one input are an error; in a data file they are counted.
    return len({canonical.input_digest(case.inputs) for case in cases}) == len(cases)


def _row(case: Case, inputs: Sequence[Variable], *, typed: bool, inline: bool) -> dict[str, Any]:
    given: Any = dict(case.inputs) if inputs else next(iter(case.inputs.values()), "")
    answer = case.output
    if typed and not inline and isinstance(answer, str):
        answer = json.dumps(answer, ensure_ascii=False)
    elif not typed and not isinstance(answer, str | dict | list):
        answer = json.dumps(answer)
    row: dict[str, Any] = {"input": given, "output": answer}
    if case.id:
        row["id"] = case.id
    return row


def _data_file(data: Path, task: Path, holdout: float) -> dict[str, Any]:
    spec: dict[str, Any] = {"file": data.relative_to(task.parent).as_posix()}
    if holdout:
        spec["split"] = {"examples": round(1 - holdout, 6), "holdout": holdout}
    return spec


def _cleaned(value: Any, notes: Notes) -> Any:
    """``value`` without secrets; that one was there is noted."""
    if isinstance(value, str):
        text = redact(value)
        if text != value:
            notes.left(None, f"a secret stood in it; {MASK} stands in its place")
        return text
    if isinstance(value, Mapping):
        return {key: _cleaned(item, notes) for key, item in value.items()}
    return [_cleaned(item, notes) for item in value] if isinstance(value, list | tuple) else value


# --- files ------------------------------------------------------------------------------------------------


def _put(texts: Mapping[Path, str], task: Path, name: str) -> None:
    """Makes all files or none. The task file comes last: a kill before it leaves no task."""
    try:
        task.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=task.parent, ignore_cleanup_errors=True) as folder:
            drafts = {path: Path(folder) / path.relative_to(task.parent) for path in texts}
            for path, draft in drafts.items():
                draft.parent.mkdir(exist_ok=True)
                _write(draft, texts[path])
            _read_back(drafts[task], name)
            _publish(drafts, task)
    except OSError as error:
        raise StoreError(f"{task} can't be written: {error.strerror}") from None


def _read_back(draft: Path, name: str) -> None:
    try:
        load_task(draft, name=name)
    except SourceError as error:
        told = "\n".join(f"  {problem.what}" for problem in error.problems)
        raise InputError(
            f"the task that this file makes can't be read:\n{told}", hint="mend this in the file, and import it again"
        ) from None


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _publish(drafts: Mapping[Path, Path], task: Path) -> None:
    made: list[Path] = []
    try:
        for path in sorted(drafts, key=lambda path: path == task):
            path.parent.mkdir(exist_ok=True)
            place_new(drafts[path], path)
            made.append(path)
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def place_new(draft: Path, path: Path) -> None:
    """Gives a finished file its name, whole and in one step. Raises :class:`InputError` when one stands there already."""
    try:
        try:
            os.link(draft, path)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            # A file system without links: the name is reserved first, then the file moves there.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            os.replace(draft, path)
    except FileExistsError:
        raise InputError(f"{path} is there already; nothing is overwritten", hint="give another name") from None
