"""An eval from beginning to end: suite, arms, answers, grades, verdict, report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from .. import canonical
from ..budget import NO_LIMITS, Budget, Limits
from ..chat import Reply, Request
from ..config import Project
from ..contract import Labels, normalise_label
from ..errors import InputError, ReplyMissing
from ..models.directory import Directory
from ..prompt import Prompt
from ..receipt import CaseRow, Receipt
from ..redact import redact
from ..store import Store
from ..task import Task
from .asking import Asker
from .attempt import Attempt, Grader, unanswered
from .gate import MAJORITY, OWN_RECEIPT, Evidence, judge
from .looks import Counted, Looks
from .measure import Tally, mean_score, pass_rate, tally
from .receipts import base_rows
from .record import Recorded, read_record, write_record
from .report import UNANSWERED, VERSION, ArmReport, CaseReport, Head, Report, Reports
from .rules import gate_rules
from .runner import CONCURRENCY, Arm, OnProgress, Ran, Runner
from .scorers import build_scorers, judges, pairwise
from .scorers.calibration import calibration
from .scorers.protocol import Scorer
from .suite import Admitted, Case, Part, Suite, admit, dev_rows, digest_without, make_suite

Ask = Callable[[Request], Awaitable[Reply]]


class EvalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an eval is run; nothing here changes what a prompt is worth, but for ``repeats`` and ``model``."""

    part: Part = "holdout"
    repeats: int = 1
    """Answers asked for each case."""
    model: str | None = None
    """Another model than the prompt's own, for the candidate."""
    fresh: bool = False
    """Nothing from the reply cache."""
    record: Path | None = None
    """File that the used replies are written to, or read from with ``cached_only``."""
    cached_only: bool = False
    """No call is made: what record and cache do not hold is an error."""
    reveal: bool = False
    """Keep the sealed inputs in the report; recorded."""
    concurrency: int = CONCURRENCY
    limits: Limits = NO_LIMITS


class Contender(msgspec.Struct, frozen=True):
    """A prompt in an eval, and which ref it answers to."""

    prompt: Prompt
    name: str


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """What the candidate is compared with: a prompt, its own receipt, or (with neither) the holdout's majority answer.

    ``reference`` stands beside a first promotion and decides nothing.
    """

    incumbent: Contender | None = None
    receipt: Receipt | None = None
    reference: Contender | None = None
    receipts: tuple[Receipt, ...] = ()
    """All receipts of the task, for the looks they count."""
    doubts: tuple[str, ...] = ()
    """Why nothing is there to compare with, which leaves the verdict open."""


class Evaluator:
    """Evaluates prompts of one project. ``models`` as in :class:`~promptsmith.models.directory.Directory`."""

    def __init__(self, project: Project, store: Store, models: Mapping[str, object] | None = None) -> None:
        self._project, self._store = project, store
        self._directory = Directory(project, models, patient=True)
        self.reports = Reports(project.cache)

    def identity(self, task: Task, candidate: Contender, against: Against, options: EvalOptions) -> str:
        """What makes two evals equal: suite, rules, arms, models, repeats."""
        scorers = self._scorers(task, _nobody)
        return _identity(self._suite(task, scorers, options.part), scorers, candidate, against, options)

    def looks(self, task: Task, candidate: Contender, against: Against, options: EvalOptions) -> int:
        """How many distinct prompts this holdout has been asked about once ``candidate`` is among them."""
        suite = self._suite(task, self._scorers(task, _nobody), options.part)
        return self._looks(suite, candidate.prompt, against, options, record=False).looks

    async def evaluate(
        self, task: Task, candidate: Contender, against: Against, options: EvalOptions, on_progress: OnProgress | None = None
    ) -> Report:
        """The report, kept in the cache folder.

        Raises :class:`InputError` for a prompt that the suite does not fit, :class:`StoreError` when nothing can be kept,
        :class:`ModelError` when no call can succeed (a refused key, a missing recorded reply).
        """
        check_options(options)
        self._store.check_writable()
        asker = self._asker(task, options)
        scorers = self._scorers(task, asker.judge)
        suite = self._suite(task, scorers, options.part)
        identity = _identity(suite, scorers, candidate, against, options)
        contenders = [candidate, *filter(None, (against.incumbent, against.reference))]
        admitted = admit(suite, {role: one.prompt for role, one in zip(_roles(against), contenders, strict=True)})
        if against.receipt is not None:
            admitted = _of_receipt(admitted, suite, against.receipt)
        arms = [Arm(one.prompt, options.model if one is candidate else None) for one in contenders]
        _refuse_own_judges(scorers, dict(zip(_roles(against), arms, strict=True)))
        for model in (*(arm.model for arm in arms), *(name for one in judges(scorers) for name in one.judge.models)):
            asker.check(model)
        counted = self._looks(suite, candidate.prompt, against, options, record=True)
        started = time.monotonic()
        with self._store.journal("eval", identity, {"task": task.name, "prompt": candidate.prompt.id}) as journal:
            if journal.finished:
                journal.restart()
            asker.journal = journal
            trust = await _calibrated(scorers)
            # The reference decides nothing, so it is no answer to be compared with.
            pairs = pairwise(scorers) and against.incumbent is not None
            runner = Runner(arms, admitted.cases, options.repeats, asker, _grader(task, scorers), pairs=pairs)
            ran = await runner.run(concurrency=options.concurrency, seconds=options.limits.seconds, on_progress=on_progress)
            found = Found(
                task=task,
                suite=suite,
                identity=identity,
                admitted=msgspec.structs.replace(admitted, doubts=(*admitted.doubts, *trust.doubts), notes=(*admitted.notes, *trust.notes)),
                counted=counted,
                contenders=contenders,
                arms=arms,
                ran=ran,
                against=against,
                options=options,
                started=started,
                spent=asker.spent,
            )
            report = report_of(found)
            self._keep(report, asker.used, options)
            if not _undecided(ran):
                # A finished journal is not replayed: what it holds must be in the cache by then, whatever kills us next.
                self._store.flush()
                journal.finish(None)
        return report

    def _suite(self, task: Task, scorers: Sequence[Scorer], part: Part) -> Suite:
        rows = task.holdout if part == "holdout" else dev_rows(task.examples, task.data_seed)
        return make_suite(task.name, rows, task.contract, [scorer.version for scorer in scorers], gate_rules(task.gate), part)

    def _scorers(self, task: Task, ask: Ask | None) -> tuple[Scorer, ...]:
        folder = Path(task.file).parent if task.file else self._project.root
        return build_scorers(task.scorers, task.contract, folder=folder, ask=ask)

    def _asker(self, task: Task, options: EvalOptions) -> Asker:
        record: Mapping[str, Recorded] = read_record(options.record) if options.record and options.cached_only else {}
        return Asker(
            self._directory, self._store, Budget(options.limits),
            task=task.name, record=record, fresh=options.fresh, calls=not options.cached_only,
        )  # fmt: skip

    def _looks(self, suite: Suite, prompt: Prompt, against: Against, options: EvalOptions, *, record: bool) -> Counted:
        """The looks, this one among them: to be recorded before anything is scored."""
        if suite.part != "holdout" or not suite.cases:
            return Counted(0, 0)
        looks = Looks(self._project.cache)
        ids = [case.id for case in suite.cases]
        if not record:
            return looks.count(ids, prompt.id, against.receipts)
        return looks.look(suite.digest, suite.task, ids, prompt.id, against.receipts, revealed=options.reveal)

    def _keep(self, report: Report, used: Mapping[str, Recorded], options: EvalOptions) -> None:
        self.reports.save(report)
        if options.record and not options.cached_only:
            write_record(options.record, used.values())


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a report is made of."""

    task: Task
    suite: Suite
    identity: str
    admitted: Admitted
    counted: Counted
    contenders: list[Contender]
    arms: list[Arm]
    ran: Ran
    against: Against
    options: EvalOptions
    started: float
    spent: float | None
    source: str = ""
    """The file of recorded outputs, when there is no prompt."""


def _identity(suite: Suite, scorers: Sequence[Scorer], candidate: Contender, against: Against, options: EvalOptions) -> str:
    receipt, incumbent, reference = against.receipt, against.incumbent, against.reference
    return canonical.digest(
        {
            "kind": "eval",
            "suite": suite.digest,
            "part": suite.part,
            "rules": canonical.sha256(msgspec.json.encode(suite.rules, order="deterministic").decode()),
            # What a judge is trusted by changes no grade, and yet the verdict.
            "trust": [one.trust() for one in judges(scorers)],
            "candidate": candidate.prompt.id,
            "model": options.model or candidate.prompt.model,
            "incumbent": incumbent.prompt.id if incumbent else "",
            "reference": reference.prompt.id if reference else "",
            "receipt": receipt.digest if receipt else "",
            "repeats": str(options.repeats),
            "fresh": str(options.fresh),
        }
    )


def _refuse_own_judges(scorers: Sequence[Scorer], arms: Mapping[str, Arm]) -> None:
    """Nothing. Raises :class:`InputError`, before anything is paid for, when a judge is the model of an arm that counts."""
    for calibrated in judges(scorers):
        for role, arm in arms.items():
            if role != "reference":
                calibrated.judge.refuse(arm.model)


def _grader(task: Task, scorers: Sequence[Scorer]) -> Grader:
    checks = {row.id: row.checks for row in (*task.holdout, *task.examples) if row.checks}
    return Grader(scorers, task.contract, checks, own=not task.scorers)


def _undecided(ran: Ran) -> bool:
    """Whether some case has no answer: then the journal stays open, and the same command goes on from it."""
    return bool(ran.stopped) or any(attempt is None or not attempt.source for arm in ran.attempts for case in arm for attempt in case)


def majority(cases: Sequence[Case], labels: Labels) -> str:
    """The label that most cases expect; of several the one that the contract names first."""
    as_written = {normalise_label(label): label for label in labels.labels}
    counts = Counter(as_written.get(normalise_label(case.expected), case.expected) for case in cases)
    order = {label: place for place, label in enumerate(labels.labels)}
    return min(counts, key=lambda label: (-counts[label], order.get(label, len(order))))


def _of_receipt(admitted: Admitted, suite: Suite, receipt: Receipt) -> Admitted:
    """Without the cases that the receipt has no score of: they can't have drifted. Notes how the suite changed since."""
    known = base_rows(receipt)
    newer = {case.id: "the receipt has no score of it" for case in admitted.cases if case.id not in known}
    gone = len(known.keys() - {case.id for case in suite.cases})
    notes = []
    if newer or gone:
        what = f"{len(newer)} cases were added and {gone} left the holdout since the receipt"
        notes.append(f"{what}: promptsmith promote {suite.task}@production renews it")
    if not gone and digest_without(suite, newer) != receipt.suite:
        notes.append("expected outputs, scorers or contract changed since the receipt: a difference may be theirs and not the model's")
    cases = tuple(case for case in admitted.cases if case.id in known)
    return msgspec.structs.replace(admitted, cases=cases, left=admitted.left | newer, notes=(*admitted.notes, *notes))


def _base(found: Found) -> tuple[str, dict[str, tuple[float | None, float | None]]]:
    """What the candidate is compared with, and its pass rate and score by case id."""
    cases, shape = found.admitted.cases, found.task.contract.shape
    if found.against.receipt is not None:
        rows = base_rows(found.against.receipt)
        known: dict[str, tuple[float | None, float | None]] = {
            case.id: (rows[case.id].passed, rows[case.id].score) for case in cases if case.id in rows
        }
        return OWN_RECEIPT + found.against.receipt.digest, known
    if found.against.incumbent is not None:
        attempts = found.ran.attempts[1]
        pairs: dict[str, tuple[float | None, float | None]] = {
            case.id: (pass_rate(row), mean_score(row)) for case, row in zip(cases, attempts, strict=True)
        }
        return found.against.incumbent.prompt.id, pairs
    if isinstance(shape, Labels) and cases:
        label = majority(cases, shape)
        same = normalise_label(label)
        return MAJORITY + label, {case.id: (float(normalise_label(case.expected) == same), None) for case in cases}
    return "", {}


def _rows(found: Found, base: Mapping[str, tuple[float | None, float | None]]) -> list[CaseRow]:
    rows = []
    for case, attempts in zip(found.admitted.cases, found.ran.attempts[0], strict=True):
        rate, score = pass_rate(attempts), mean_score(attempts)
        before = base.get(case.id, (None, None))
        rows.append(CaseRow(case.id, rate, before[0], score or 0.0, before[1]))
    return rows


def report_of(found: Found) -> Report:
    """The report of what was found, with its verdict."""
    against, base = _base(found)
    rows = _rows(found, base)
    suite, admitted, options = found.suite, found.admitted, found.options
    doubts = [*admitted.doubts, *found.against.doubts, *([f"stopped early: {found.ran.stopped}"] if found.ran.stopped else [])]
    tallies = [tally(admitted.cases, attempts) for attempts in found.ran.attempts]
    must_pass = tuple(name for name in suite.must_pass() if name not in admitted.left)
    evidence = Evidence(
        rows=tuple(rows),
        rules=suite.rules,
        suite=suite.digest,
        prompt=found.contenders[0].prompt.id if found.contenders else "",
        against=against,
        metrics=tallies[0].metrics,
        must_pass=must_pass,
        looks=found.counted.looks,
        rejections=admitted.rejections,
        doubts=tuple(doubts),
    )
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    head = Head(
        version=VERSION,
        id=canonical.digest([found.identity, created, str(time.time_ns())])[:12],
        identity=found.identity,
        created=created,
        task=found.task.name,
        part="outputs" if found.source else suite.part,
        suite=suite.digest,
        scorers=suite.scorers,
        rules=suite.rules,
        must_pass=must_pass,
        arms=_arms(found, tallies),
        against=against,
        judgement=judge(evidence),
        looks=found.counted.looks,
        reveals=found.counted.reveals + options.reveal,
        left=admitted.left,
        rejections=admitted.rejections,
        doubts=tuple(doubts),
        notes=(*found.task.notes, *admitted.notes),
        repeats=options.repeats,
        seconds=time.monotonic() - found.started,
        spent=found.spent,
        fresh=options.fresh,
        stopped=found.ran.stopped or (UNANSWERED if _undecided(found.ran) else ""),
    )
    by_id = {row.id: row for row in rows}
    cases = [
        _case(case, by_id[case.id], [arm[place] for arm in found.ran.attempts], reveal=options.reveal)
        for place, case in enumerate(admitted.cases)
        if case.id in by_id
    ]
    return Report(head=head, cases=tuple(cases))


def _roles(against: Against) -> list[str]:
    return ["candidate", *(["baseline"] if against.incumbent else []), *(["reference"] if against.reference else [])]


def _arms(found: Found, tallies: Sequence[Tally]) -> tuple[ArmReport, ...]:
    if found.source:
        return (ArmReport(role="candidate", prompt="", model="recorded outputs", name=found.source, tally=tallies[0]),)
    return tuple(
        ArmReport(role=role, prompt=one.prompt.id, model=arm.model, name=one.name, tally=counts)
        for role, one, arm, counts in zip(_roles(found.against), found.contenders, found.arms, tallies, strict=True)
    )


def _case(case: Case, row: CaseRow, arms: Sequence[Sequence[Attempt | None]], *, reveal: bool) -> CaseReport:
    attempts = tuple(tuple(_clean(attempt or unanswered("it was not reached")) for attempt in arm) for arm in arms)
    inputs = {name: redact(text) for name, text in case.inputs.items()} if reveal else {}
    return CaseReport(row=row, expected=redact(case.expected), tags=case.tags, inputs=inputs, attempts=attempts)


def _clean(attempt: Attempt) -> Attempt:
    """Without secrets: what a report holds is shown to people and kept."""
    output, why = redact(attempt.output), redact(attempt.why)
    if output == attempt.output and why == attempt.why:
        return attempt
    grades = tuple(msgspec.structs.replace(grade, why=redact(grade.why)) for grade in attempt.grades)
    return msgspec.structs.replace(attempt, output=output, why=why, grades=grades)


async def _nobody(request: Request) -> Reply:
    raise ReplyMissing(f"{request.model} is not to be asked here")


class _Trust(NamedTuple):
    """What is known of the judges of a suite."""

    doubts: tuple[str, ...]
    notes: tuple[str, ...]


async def _calibrated(scorers: Sequence[Scorer]) -> _Trust:
    """How far the judges agree with people; one that does not agree enough may not gate."""
    doubts: list[str] = []
    notes: list[str] = []
    for calibrated in judges(scorers):
        rows = calibrated.rows()
        if not rows:
            notes.append(f"{calibrated.name} is not calibrated: nothing shows that it agrees with people (calibrate: FILE)")
            continue
        found = await calibration(calibrated.judge, rows, min_kappa=calibrated.min_kappa)
        (notes if found.may_gate else doubts).append(f"{calibrated.name} {found.words()}")
    return _Trust(tuple(doubts), tuple(notes))


def check_options(options: EvalOptions) -> None:
    """Nothing. Raises :class:`InputError` for options that contradict each other."""
    if options.repeats < 1:
        raise InputError(f"repeats must be at least 1, not {options.repeats}")
    if options.fresh and options.cached_only:
        raise InputError("fresh asks the model anew and cached-only asks nobody", hint="choose one")
