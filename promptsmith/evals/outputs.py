"""Recorded outputs, scored without any model."""

from __future__ import annotations

import json
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from .. import canonical
from ..chat import Reply
from ..config import Project
from ..task import Task
from ..task.document import Problems
from ..task.rows import Row, read_rows, written_value
from .attempt import Answered, Attempt, Grader, unanswered
from .evaluate import Against, EvalOptions, Found, report_of
from .looks import Counted
from .measure import OUTPUTS
from .report import Report, Reports
from .rules import gate_rules
from .runner import Ran
from .scorers import build_scorers
from .suite import Admitted, Case, make_suite


def evaluate_outputs(project: Project, task: Task, path: Path) -> Coroutine[Any, Any, Report]:
    """A report (never a receipt) on the outputs of a JSONL, CSV or TSV file with ``id`` or ``input``, and ``output``.

    Rows are matched by id, else by normalised input; a case without an output is unscored. Raises :class:`SourceError`
    for a file that can't be read and for rows without these.
    """
    outputs = _read(path)
    digest = canonical.sha256(path.read_bytes())
    return _evaluate(project, task, outputs, path.name, digest)


async def _evaluate(project: Project, task: Task, outputs: _Outputs, source: str, digest: str) -> Report:
    started = time.monotonic()
    folder = Path(task.file).parent if task.file else project.root
    scorers = build_scorers(task.scorers, task.contract, folder=folder, ask=None)
    suite = make_suite(task.name, task.holdout, task.contract, [scorer.version for scorer in scorers], gate_rules(task.gate))
    checks = {row.id: row.checks for row in task.holdout if row.checks}
    grader = Grader(scorers, task.contract, checks, own=not task.scorers)
    attempts: list[list[Attempt | None]] = [[await _graded(grader, case, outputs)] for case in suite.cases]
    used = sum(bool(row and row[0] and row[0].source) for row in attempts)
    doubts = () if suite.cases else (f"the suite is empty: {task.name} has no holdout rows",)
    notes = (f"{used} of {len(suite.cases)} cases have an output in {source}, which has {outputs.rows} rows",)
    report = report_of(
        Found(
            task=task,
            suite=suite,
            identity=canonical.digest(["outputs", suite.digest, digest]),
            admitted=Admitted(cases=suite.cases, left={}, doubts=doubts, notes=notes),
            counted=Counted(0, 0),
            contenders=[],
            arms=[],
            ran=Ran([attempts], ""),
            against=Against(),
            options=EvalOptions(),
            started=started,
            spent=0.0,
            source=source,
        )
    )
    Reports(project.cache).save(report)
    return report


class _Outputs:
    """Outputs by id and by normalised input."""

    def __init__(self) -> None:
        self.by_id: dict[str, str] = {}
        self.by_input: dict[str, str] = {}
        self.rows = 0

    def find(self, case: Case) -> str | None:
        found = self.by_id.get(case.id)
        return found if found is not None else self.by_input.get(canonical.input_digest(case.inputs))


def _read(path: Path) -> _Outputs:
    problems = Problems(str(path))
    found = _Outputs()
    for row in read_rows(path, problems):
        found.rows += 1
        _take(found, row, problems)
    problems.raise_if_any()
    return found


def _take(found: _Outputs, row: Row, problems: Problems) -> None:
    values = row.values
    if "output" not in values or not ({"id", "input"} & set(values)):
        problems.at(row.where, "a row has an output, and an id or an input", 'write {"id": …, "output": …}')
        return
    output = _text(values["output"])
    if "id" in values:
        _put(found.by_id, _text(values["id"]), output, row, problems)
    if "input" in values:
        given = values["input"]
        inputs = {name: _text(value) for name, value in given.items()} if isinstance(given, Mapping) else {"input": _text(given)}
        found.by_input.setdefault(canonical.input_digest(inputs), output)


def _put(found: dict[str, str], name: str, output: str, row: Row, problems: Problems) -> None:
    if found.setdefault(name, output) != output:
        problems.at(row.where, f"the id {name!r} has another output above", "give each case one output")


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else written_value(value)


async def _graded(grader: Grader, case: Case, outputs: _Outputs) -> Attempt:
    output = outputs.find(case)
    if output is None:
        return unanswered("no output is recorded for it")
    reply = Reply(text=output, model=OUTPUTS)
    return await grader.grade(case, Answered(reply=reply, usage=reply.usage, cost=None, latency=0.0, source=OUTPUTS))
