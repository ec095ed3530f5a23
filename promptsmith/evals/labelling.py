"""Labelled rows into a task's data: where they go, whether they may, and writing them whole.

A task file is never changed: rows go into the JSONL file that it names for their side, else into a new one that a person
may name there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from .. import canonical
from ..config import Project
from ..contract import JsonShape, Labels, shorten, validator
from ..errors import InputError, StoreError, did_you_mean
from ..prompt import TEXT_INPUT, bind
from ..registry.writing import cannot, replace
from ..store.layout import LOCKS
from ..store.trouble import private_folder, unwritable
from ..task import Example, Task, Where
from ..task.document import MappingNode, Problems, read_document, shown
from ..task.reader import DATA_FILE
from ..task.rows import Row, map_rows, parse_json, read_rows, split_side

Side = Literal["examples", "holdout"]
SIDES: tuple[Side, ...] = ("examples", "holdout")
REVIEWED: Mapping[Side, str] = {"examples": ".reviewed.jsonl", "holdout": ".reviewed-holdout.jsonl"}
"""What a new file of labelled rows is called, behind the task's name."""
WAIT = 30.0
"""Seconds to wait for another process that labels into the same file."""
_BARE = re.compile(r"[A-Za-z0-9_./-]+")
_OUTPUTS = ("output", "expected", "label")


class Place(msgspec.Struct, frozen=True):
    """The file that rows of ``side`` go to."""

    path: Path
    side: Side
    spec: Mapping[str, Any] = {}
    """``map``, ``split`` and ``seed`` as the task file has them."""
    line: str = ""
    """What the task file has to say to name the file; empty when it does."""
    instead: int = 0
    """Rows that the side has elsewhere: the line takes their place, so a new file begins with them."""


class Added(NamedTuple):
    """A row that was written. ``notes`` say where its output does not match an inferred contract."""

    row: Example
    notes: tuple[str, ...]


class TaskRows:
    """The rows that a task has, in its own files and in those of labelled rows that it does not name yet."""

    def __init__(self, project: Project, task: Task) -> None:
        self._project, self._task = project, task
        self.typed = isinstance(task.contract.shape, JsonShape) and not task.contract.inferred

    def known(self, more: Mapping[Path, Mapping[str, Any]] | None = None) -> dict[str, Example]:
        """All rows, those of the files in ``more`` (and how to read them) among them, by the digest of their input."""
        rows = [*self._task.examples, *self._task.holdout]
        for path, spec in (more or {}).items():
            rows += self.read(path, spec)
        for path, labelled in self.unnamed().items():
            rows += [] if path in (more or {}) else labelled
        found: dict[str, Example] = {}
        for row in rows:
            found.setdefault(canonical.input_digest(row.inputs), row)
        return found

    def unnamed(self) -> dict[Path, list[Example]]:
        """The rows of the files of labelled rows that the task file does not name."""
        named = set(map(_real, map(Path, self._task.sources)))
        paths = [path for side in SIDES if (path := _default(self._project, self._task, side)) not in named]
        return {path: rows for path in paths if (rows := self.read(path, {}))}

    def read(self, path: Path, spec: Mapping[str, Any]) -> list[Example]:
        """The rows of one file. Raises :class:`SourceError`."""
        if not path.is_file() or not path.read_bytes().strip():
            return []
        problems = Problems(shown(path))
        rows = list(self.mapped(read_rows(path, problems), problems, spec.get("map", {})))
        problems.raise_if_any()
        return rows

    def mapped(self, rows: Iterable[Row], problems: Problems, mapping: Mapping[str, str]) -> Iterator[Example]:
        """Rows as the task reads them."""
        return map_rows(rows, problems, mapping=mapping, inputs=self._task.inputs, json_outputs=self.typed)


class Labelling:
    """Adds labelled rows to one side of a task from a file.

    ``file`` overrules where they go. Raises :class:`InputError` when no row can be added there.
    """

    def __init__(self, project: Project, task: Task, side: Side, file: Path | None = None) -> None:
        self.place = _place(project, task, side, file)
        self._project, self._task = project, task
        self._judge = validator(task.contract)
        self._rows = TaskRows(project, task)

    def known(self) -> dict[str, Example]:
        """The rows that there are, by the digest of their input."""
        return self._rows.known({self.place.path: self.place.spec})

    def misplaced(self, inputs: Mapping[str, str]) -> str:
        """Why the file puts a row with these inputs on another side; empty when it does not."""
        split = self.place.spec.get("split")
        if split is None:
            return ""
        seed = self.place.spec.get("seed", 0)
        side = split_side(inputs, seed, examples=split.get("examples", 0.0), holdout=split.get("holdout", 0.0))
        if side == self.place.side:
            return ""
        where = f"on the {side} side" if side else "on no side"
        return f"{shown(self.place.path)} is split, and this input falls {where} of it (seed {seed})"

    def add(self, given: str | Mapping[str, str], output: str, tags: Sequence[str] = ()) -> Added:
        """Writes one row, whole or not at all.

        Raises :class:`InputError` for inputs that the task does not take, an output that breaks its contract, an input
        that it has already, or one that belongs to the other side of a split.
        """
        inputs = bind(self._task.inputs, given)
        if not any(text.strip() for text in inputs.values()):
            raise InputError("the input is empty")
        if wrong := self.misplaced(inputs):
            raise InputError(wrong, hint=f"--to {_other(self.place.side)} where that is meant: in a split file the input alone decides")
        text, cell, notes = self._output(output)
        row = Example(
            id=canonical.case_id(inputs),
            inputs=inputs,
            output=text,
            json=self._rows.typed or isinstance(cell, dict | list),
            tags=_tags(tags),
            where=Where(shown(self.place.path)),
        )
        with _alone(self._project, self.place.path):
            self._refuse_known(row)
            self._write(self._line(row, cell))
        return Added(row, notes)

    # --- checks -------------------------------------------------------------------------------------------

    def _output(self, output: str) -> tuple[str, Any, tuple[str, ...]]:
        """The output's text as an example has it, its value in a row, and notes."""
        canonical.encode(output)
        shape = self._task.contract.shape
        verdict = self._judge(output)
        text, cell = verdict.value, verdict.value
        if isinstance(shape, JsonShape) and verdict.ok:
            text = json.dumps(verdict.value, ensure_ascii=False)
            # A text in a row of a JSON task is read as JSON: what is a JSON string stands there with its quotes.
            cell = text if isinstance(verdict.value, str) and self._rows.typed else verdict.value
        reasons = verdict.reasons or self._judge(text).reasons
        if reasons:
            near = did_you_mean(output.strip(), shape.labels) if isinstance(shape, Labels) else ""
            raise InputError(f"the output {shorten(output)} breaks the contract of {self._task.name}: {'; '.join(reasons)}", hint=near)
        return text, cell, verdict.notes

    def _refuse_known(self, row: Example) -> None:
        known = self.known()
        other = known.get(canonical.input_digest(row.inputs))
        if other is not None:
            place = other.where.path or f"{other.where.file}:{other.where.line}"
            if _same(row, other):
                raise InputError(f"this input stands at {place} already, with this output")
            said = f"this input has another output at {place}: {shorten(other.output)}"
            raise InputError(said, hint="one of them is wrong: mend that row, or leave this one")
        if any(one.id == row.id for one in known.values()):
            raise InputError(f"the id {row.id} of this input is that of another row", hint="give that row an id of its own")

    # --- the file -----------------------------------------------------------------------------------------

    def _line(self, row: Example, cell: Any) -> bytes:
        """The row as a line of the file, checked to be read back as it is meant."""
        values = self._values(row, cell)
        line = json.dumps(values, ensure_ascii=False)
        problems = Problems(shown(self.place.path))
        # Of a row alone the reader can't know that another one has an id or tags.
        mapping = {name: column for name, column in self.place.spec.get("map", {}).items() if column in values}
        read = list(self._rows.mapped([Row(parse_json(line), Where(shown(self.place.path)), typed=True)], problems, mapping))
        problems.raise_if_any()
        if len(read) != 1 or (read[0].inputs, read[0].tags, read[0].json) != (row.inputs, row.tags, row.json) or not _same(read[0], row):
            raise InputError(f"this row can't stand in {shown(self.place.path)} so that it would be read as it is meant")
        return line.encode()

    def _values(self, row: Example, cell: Any) -> dict[str, Any]:
        """The columns of a row, called as the task file maps them, else as in the file's first row."""
        mapping, first = self.place.spec.get("map", {}), self._first()
        values: dict[str, Any] = {}
        if not self._task.inputs:
            column = "text" if "text" in first and TEXT_INPUT not in first else TEXT_INPUT
            values[mapping.get(TEXT_INPUT, column)] = row.inputs[TEXT_INPUT]
        elif not mapping and TEXT_INPUT not in row.inputs and not set(row.inputs) & set(first):
            values[TEXT_INPUT] = dict(row.inputs)
        else:
            values |= {mapping.get(name, name): text for name, text in row.inputs.items()}
        output = next((name for name in _OUTPUTS if name in first and name not in values), "output")
        values[mapping.get("output", output)] = cell
        if row.id != canonical.case_id(row.inputs):
            values[mapping.get("id", "id")] = row.id
        if row.tags:
            values[mapping.get("tags", "tags")] = list(row.tags)
        return values

    def _first(self) -> Mapping[str, Any]:
        if not self.place.path.is_file():
            return {}
        return next((row.values for row in read_rows(self.place.path, Problems())), {})

    def _write(self, line: bytes) -> None:
        path = self.place.path
        try:
            before = path.read_bytes() if path.exists() else self._moved()
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot(path, error) from None
        end = b"\r\n" if before.endswith(b"\r\n") else b"\n"
        cut = b"" if not before or before.endswith(b"\n") else end
        # Not an append: the kernel may end a write in the middle when its process is killed.
        replace(path, before + cut + line + end)

    def _moved(self) -> bytes:
        """The rows that stand elsewhere today, as lines of the new file."""
        rows = getattr(self._task, self.place.side) if self.place.instead else ()
        if any(row.checks for row in rows):
            raise InputError(
                f"the {self.place.side} of {self._task.name} carry assertions, which can't be copied into {shown(self.place.path)}",
                hint="save their file as JSONL first",
            )
        return b"".join(self._line(row, _cell(row, typed=self._rows.typed)) + b"\n" for row in rows)


def _place(project: Project, task: Task, side: Side, file: Path | None) -> Place:
    sources = _sources(task)
    own = sources.get(side)
    if own is None and "split" in (other := sources.get(_other(side)) or {}):
        own = other  # one file for both
    named = None if own is None or "file" not in own else _real(Path(task.file).parent / own["file"])
    path = named if file is None else _real(file)
    if own is not None and path is not None and path == named and path.suffix.lower() == ".jsonl":
        return Place(path, side, own)
    if own is not None and "split" in own:
        assert named is not None
        raise InputError(
            f"both sides of {task.name} come from {shown(named)}, which is split: no second file can stand beside it",
            hint="label into it; a CSV or TSV file has to be saved as JSONL first (each row keeps its side)",
        )
    for name, source in sources.items():
        if "file" in source and path == _real(Path(task.file).parent / source["file"]) and name != side:
            raise InputError(f"{shown(path)} holds the {name} of {task.name}", hint=f"--to {name}, or another --file")
    if file is not None and file.suffix.lower() != ".jsonl":
        raise InputError(f"labelled rows go into a .jsonl file, not into {file}")
    target = _default(project, task, side) if file is None else _real(file)
    relative = Path(os.path.relpath(target, Path(task.file).resolve().parent)).as_posix()
    shown_name = relative if _BARE.fullmatch(relative) else json.dumps(relative, ensure_ascii=False)
    instead = len(getattr(task, side)) if own is not None else 0
    return Place(target, side, {}, f"{side}: {{file: {shown_name}}}", instead)


def _sources(task: Task) -> dict[str, Mapping[str, Any]]:
    """What the task file says of each side that it has: a data file's keys, or nothing for rows written there."""
    root = read_document(task.file)
    assert isinstance(root, MappingNode)
    found: dict[str, Mapping[str, Any]] = {}
    for key, node in root.pairs:
        if key.text in SIDES:
            found[key.text] = DATA_FILE.read(node, Problems()) if isinstance(node, MappingNode) else {}
    return found


def _default(project: Project, task: Task, side: Side) -> Path:
    return _real(project.evals / "data" / f"{task.name}{REVIEWED[side]}")


def _real(path: Path) -> Path:
    # A link is followed: replacing it by a file would cut off what it leads to.
    return Path(os.path.realpath(path))


def _other(side: Side) -> Side:
    return "holdout" if side == "examples" else "examples"


def _tags(tags: Sequence[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(tag.strip() for tag in tags))
    if "" in found:
        raise InputError("a tag is empty")
    return found


def _same(one: Example, other: Example) -> bool:
    if one.json and other.json:
        return bool(json.loads(one.output) == json.loads(other.output))
    return one.output == other.output


def _cell(row: Example, *, typed: bool) -> Any:
    value = json.loads(row.output) if row.json else row.output
    return row.output if typed and isinstance(value, str) else value


@contextlib.contextmanager
def _alone(project: Project, path: Path) -> Iterator[None]:
    """The only right to write ``path``; the lock lies in the cache folder, so that nothing is left among the data."""
    from filelock import FileLock, Timeout

    folder = os.path.join(project.cache, LOCKS)
    guard = FileLock(os.path.join(folder, f"data-{canonical.sha256(str(path))[:16]}.lck"), timeout=WAIT, thread_local=False)
    try:
        private_folder(folder)
        guard.acquire()
    except Timeout:
        raise StoreError(f"another process has been writing {shown(path)} for {WAIT:.0f} seconds", hint="wait for it, or end it") from None
    except OSError as error:
        raise unwritable(str(project.cache), error) from None
    try:
        yield
    finally:
        guard.release()
