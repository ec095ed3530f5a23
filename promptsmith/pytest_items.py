"""What pytest runs for one task file: an item for each sealed case and one for the gate, all served by one eval.

The eval runs when the first item of the file does. A failing case is a failure, and so is a gate that does not say
promote; what could not be judged (no prompt, a missing reply, a case without a score, a broken task file) is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from .canonical import sha256
from .config import Project, project_above
from .errors import PromptsmithError, SourceError
from .evals.evaluate import EvalOptions
from .evals.record import record_beside
from .evals.report import CaseReport, Report
from .evals.show import words
from .evals.show.terminal import summary
from .evals.vocabulary import load_suite_task
from .proving import Prover
from .registry.opening import open_registry
from .registry.protocol import LockWarning
from .registry.resolve import PRODUCTION, Resolved, Resolver
from .runtime.loop import LOOP
from .store.folder import open_store
from .store.trouble import StoreWarning
from .task import Task
from .task.document import MappingNode, parse_document, read_bytes
from .task.values import Example

GATE = "gate"
SECTION = "promptsmith"
_TELLING = ("task", "holdout")
"""A YAML file without any of these keys is data, or another tool's."""
_REASON, _OUTPUT = 300, 4000
"""Characters of a reason and of an output that are shown."""


def task_file(parent: pytest.Collector, path: Path, *, since: float | None = None) -> TaskFile | None:
    """The collector of the file at ``path`` if it is below the evals folder of the nearest project.

    ``since`` is set where several processes run the same tests: a report that was made from then on (Unix time) is theirs.
    """
    try:
        project = project_above(path.parent)
    except SourceError as error:
        raise pytest.Collector.CollectError(str(error)) from None
    if project is None or not path.is_relative_to(project.evals):
        return None
    file: TaskFile = TaskFile.from_parent(parent, path=path, project=project, since=since)
    return file


class TaskFile(pytest.File):
    """One task file, its eval and the report of it."""

    def __init__(self, *, project: Project, since: float | None, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]  # pytest's own
        self._project, self._since = project, since
        self._disk = open_store(project)
        self._task: Task | None = None
        self._resolved: Resolved | None = None
        self._report: Report | None = None

    @property
    def task_name(self) -> str:
        """The task's name, as for the command line."""
        return self.path.relative_to(self._project.evals).with_suffix("").as_posix()

    @property
    def report(self) -> Report:
        """The report of the eval, which has run when an item runs."""
        assert self._report is not None
        return self._report

    @property
    def options(self) -> EvalOptions:
        """What was asked for on the command line."""
        option = self.config.getoption
        cached_only = bool(option("promptsmith_cached_only"))
        return EvalOptions(
            model=option("promptsmith_model"),
            repeats=option("promptsmith_repeat"),
            cached_only=cached_only,
            record=record_beside(self.path) if cached_only else None,
        )

    def collect(self) -> Iterator[pytest.Item]:
        """An item for each case and the gate; one that says why when there is nothing to judge; none without a holdout."""
        if not _is_task(self.path):
            return
        try:
            self._task = load_suite_task(self._project.task_file(self.task_name), self.task_name)
            if not self._task.holdout:
                return
            self._resolved = self._in_production()
        except (PromptsmithError, Warning) as error:
            yield Unjudged.from_parent(self, name=GATE, why=str(error))
            return
        for row in self._task.holdout:
            yield CaseItem.from_parent(self, name=_item_name(row.id), row=row)
        yield GateItem.from_parent(self, name=GATE)

    def setup(self) -> None:
        """Runs the eval. pytest calls it before the file's first item, and gives what it raises to all of them."""
        if self._report is not None or self._task is None or self._resolved is None:
            return
        try:
            self._report = self._judged(self._task, self._resolved)
        except (PromptsmithError, Warning) as error:
            pytest.fail(str(error), pytrace=False)

    def teardown(self) -> None:
        """Closes the files of the cache."""
        self._disk.close()

    def _in_production(self) -> Resolved:
        """The prompt that is judged. Raises :class:`NotCompiled`, :class:`LockError`, and as warnings what would make it another."""
        with warnings.catch_warnings(), self._disk:
            warnings.simplefilter("error", LockWarning)  # a copy of what the lock once said is not to be judged in its place
            warnings.simplefilter("error", StoreWarning)
            return Resolver(self._project, self._disk, open_registry(self._project, patient=True)).resolve(f"{self.task_name}@{PRODUCTION}")

    def _judged(self, task: Task, resolved: Resolved) -> Report:
        """The report of this run: of workers of pytest-xdist one makes it, and the others read it."""
        options = self.options
        prover = Prover(self._project, self._disk, open_registry(self._project, patient=True))

        def find() -> Report | None:
            return None if self._since is None else prover.found(task, resolved, options, since=self._since)

        async def make() -> Report:
            return await prover.evaluate(task, resolved, options)

        return LOOP.wait(self._disk.once_build(sha256(f"pytest {task.name}"), find, make))


class Unjudged(pytest.Item):
    """Stands for a file that there is nothing to judge of: an error."""

    def __init__(self, *, why: str, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]  # pytest's own
        self._why = why

    def setup(self) -> None:
        pytest.fail(self._why, pytrace=False)

    def runtest(self) -> None:
        """Not reached."""

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{_file(self).task_name}: {self.name}"


class CaseItem(pytest.Item):
    """One sealed case: it passes when all its answers do."""

    def __init__(self, *, row: Example, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]  # pytest's own
        self._row = row

    def setup(self) -> None:
        """An error for a case without a score; skipped when it is not part of the suite for this prompt."""
        report = _file(self).report
        if self._row.id in report.head.left:
            pytest.skip(f"left the suite: {words.visible(report.head.left[self._row.id])}")
        case = self._case()
        if case.row.passed is None:
            pytest.fail(_case_text(report, case, "no score: ", self._place()), pytrace=False)

    def runtest(self) -> None:
        report, case = _file(self).report, self._case()
        if case.row.passed != 1:
            kind = "regressed: " if case in report.regressed() else ""
            pytest.fail(_case_text(report, case, kind, self._place()), pytrace=False)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        where = self._row.where
        line = where.line - 1 if where.line and Path(where.file).absolute() == self.path else None
        return self.path, line, f"{_file(self).task_name}: {self.name}"

    def _case(self) -> CaseReport:
        return next(case for case in _file(self).report.cases if case.id == self._row.id)

    def _place(self) -> str:
        where = self._row.where
        return f"{where.file}:{where.line}" if where.line else where.file


class GateItem(pytest.Item):
    """The gate's verdict on the whole suite: it passes when that is promote."""

    def runtest(self) -> None:
        report = _file(self).report
        text = _gate_text(report)
        if report.head.judgement.verdict != "promote":
            pytest.fail(text, pytrace=False)
        self.add_report_section("call", SECTION, text)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{_file(self).task_name}: {self.name}"


def _file(item: pytest.Item) -> TaskFile:
    assert isinstance(item.parent, TaskFile)
    return item.parent


def _is_task(path: Path) -> bool:
    """Whether the file is meant as a task: what can't be read as YAML is told as a broken one rather than passed over."""
    try:
        root = parse_document(read_bytes(path), str(path))
    except SourceError:
        return True
    return isinstance(root, MappingNode) and any(key.text in _TELLING for key, _ in root.pairs)


def _item_name(case_id: str) -> str:
    name = words.visible(case_id)
    return f"{name} (case)" if name == GATE else name


def _case_text(report: Report, case: CaseReport, kind: str, place: str) -> str:
    """Why first, since pytest's summary shows the first line only; then what was expected and what came."""
    said = words.now(case)
    why = words.why(said.attempt) if said.attempt is not None else "it was not reached"
    facts = {
        "expected": case.expected,
        "actual": words.answer_text(said),
        "before": words.answer_text(words.before(report, case)),
        "row": place,
    }
    first = words.shortened(words.visible(why), _REASON)
    return "\n".join([f"{kind}{first}", *(_fact(name, text) for name, text in facts.items() if text)])


def _fact(name: str, text: str) -> str:
    lines = words.shortened(words.visible(text, "\n\t"), _OUTPUT).split("\n")
    return "\n".join(f"{label:<10}{line}" for label, line in zip([f"{name}:", *[""] * len(lines)], lines, strict=False))


def _gate_text(report: Report) -> str:
    head = report.head
    lines = [summary(report), words.difference_line(head.judgement), *map(words.threshold_line, head.judgement.thresholds)]
    return "\n".join(filter(None, [*lines, *words.remarks(report), f"all of it: {words.how_to_see(head)}"]))
