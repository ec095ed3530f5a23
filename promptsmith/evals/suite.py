"""The sealed suite of a task: its holdout cases, scorers and gate, as today's task file has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from .. import canonical
from ..contract import Contract, Labels, TextShape, normalise_label
from ..errors import InputError
from ..prompt import Prompt
from ..receipt import Rules
from ..task.values import Example
from .leak import find_leaks

Part = Literal["holdout", "dev"]
MOST_LEAVING = 0.1
"""When more of the suite than this is known to the prompt, what is left decides nothing."""
DEV_SHARE, DEV_LEAST, DEV_ROWS = 0.4, 8, 20


class Case(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sealed case."""

    id: str
    inputs: dict[str, str]
    expected: str
    tags: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    """Assertions that the row carries besides its output, as identity sees them."""


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """What a prompt is judged on. Its digest is part of a report's identity: cases, scorers with versions, contract."""

    task: str
    part: Part
    cases: tuple[Case, ...]
    contract: Contract
    scorers: tuple[str, ...]
    """Versions of the scorers."""
    rules: Rules
    digest: str

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(sorted({tag for case in self.cases for tag in case.tags}))

    def must_pass(self) -> tuple[str, ...]:
        """Ids of the cases with a tag that must pass."""
        wanted = set(self.rules.must_pass)
        return tuple(case.id for case in self.cases if wanted.intersection(case.tags))


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """The cases that both arms can be judged on, and what was found on the way."""

    cases: tuple[Case, ...]
    left: dict[str, str]
    """Why a case left, by id."""
    rejections: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def make_suite(
    task: str, examples: Iterable[Example], contract: Contract, scorers: Sequence[str], rules: Rules, part: Part = "holdout"
) -> Suite:
    """The suite of these examples. Raises :class:`InputError` for two cases with one id."""
    cases = tuple(
        Case(
            id=row.id,
            inputs=dict(row.inputs),
            expected=row.output,
            tags=row.tags,
            checks=tuple(f"{check.kind}={check.value}" for check in row.checks),
        )
        for row in examples
    )
    _refuse_twins(task, cases)
    digest = _digest(cases, scorers, contract)
    return Suite(task=task, part=part, cases=cases, contract=contract, scorers=tuple(scorers), rules=rules, digest=digest)


def digest_without(suite: Suite, ids: Collection[str]) -> str:
    """The digest that ``suite`` would have without these cases."""
    return _digest([case for case in suite.cases if case.id not in ids], suite.scorers, suite.contract)


def _digest(cases: Iterable[Case], scorers: Sequence[str], contract: Contract) -> str:
    rows = [canonical.sha256(msgspec.json.encode(case, order="deterministic").decode()) for case in cases]
    return canonical.digest({"kind": "suite", "cases": sorted(rows), "scorers": list(scorers), "contract": contract.digest()})


def dev_rows(visible: Sequence[Example], seed: int) -> list[Example]:
    """The dev part of the visible rows: the same whatever is added; none while either part would be too small."""
    if len(visible) < DEV_ROWS:
        return []
    dev = [row for row in visible if canonical.fraction("dev", str(seed), canonical.input_digest(row.inputs)) < DEV_SHARE]
    return dev if min(len(dev), len(visible) - len(dev)) >= DEV_LEAST else []


def _refuse_twins(task: str, cases: Sequence[Case]) -> None:
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise InputError(f"two cases of {task} have the id {case.id!r}", hint="ids name cases in receipts; give each row its own")
        seen.add(case.id)


def admit(suite: Suite, prompts: Mapping[str, Prompt]) -> Admitted:
    """What of ``suite`` these prompts, by role (``candidate`` is among them), can be judged on.

    A case that one of them was built from, or shows among its examples, leaves for all. Raises :class:`InputError`
    when the candidate can't give an answer that the suite expects, or one of them can't be asked. What is in production
    may lack an answer: it fails the cases that expect it.
    """
    notes = [note for role, prompt in prompts.items() for note in _fit(suite, prompt, role)]
    left: dict[str, str] = {}
    rejections: list[str] = []
    if suite.part == "holdout":
        for name, prompt in prompts.items():
            known = set(prompt.provenance.visible.split())
            left |= {
                case.id: f"the {name} was built from it"
                for case in suite.cases
                if case.id not in left and canonical.case_id(case.inputs) in known
            }
            leaks = find_leaks(prompt, {case.id: sealed_texts(case.inputs, case.expected, suite.contract) for case in suite.cases})
            left |= {case: f"the {name} shows it among its examples" for case in leaks.examples if case not in left}
            if leaks.instructions and name == "candidate":
                rejections.append(f"holdout text stands in the prompt's instructions (cases {listed(leaks.instructions)})")
            elif leaks.instructions:
                left |= {case: f"the {name} has its text in its instructions" for case in leaks.instructions if case not in left}
    cases = tuple(case for case in suite.cases if case.id not in left)
    return Admitted(
        cases=cases, left=left, rejections=tuple(rejections), doubts=tuple(_doubts(suite, cases)), notes=tuple(dict.fromkeys(notes))
    )


def _doubts(suite: Suite, cases: Sequence[Case]) -> Iterable[str]:
    if not suite.cases:
        yield f"the suite is empty: {suite.task} has no {suite.part} rows"
    elif not cases:
        yield "every case left the suite"
    elif len(suite.cases) - len(cases) > MOST_LEAVING * len(suite.cases):
        yield f"{len(suite.cases) - len(cases)} of {len(suite.cases)} cases left the suite, more than a tenth"
    if not suite.scorers and not any(case.checks for case in suite.cases):
        yield "no scorer grades the answers"


def _fit(suite: Suite, prompt: Prompt, role: str) -> Iterable[str]:
    """Notes on how the prompt's contract differs from the task's. Raises :class:`InputError` where it can't do."""
    short, hint = prompt.id[:12], f"compile it again: promptsmith compile {suite.task}"
    if role == "baseline":
        hint = "the two can't be compared: move production once by promptsmith promote … --force --why '…'"
    _check_inputs(suite, prompt, hint)
    theirs, ours = prompt.contract.shape, suite.contract.shape
    if isinstance(theirs, Labels) and isinstance(ours, Labels) and not theirs.allow_other:
        known = set(map(normalise_label, theirs.labels))
        missing = sorted({case.expected for case in suite.cases if normalise_label(case.expected) not in known})
        if missing:
            what = f"prompt {short} can't answer {', '.join(missing)}, which the suite of {suite.task} expects"
            if role == "candidate":
                raise InputError(what, hint=hint)
            yield what
    if type(theirs) is not type(ours):
        raise InputError(f"prompt {short} answers with {_kind(theirs)}, the task {suite.task} asks for {_kind(ours)}", hint=hint)
    if prompt.contract.digest() != suite.contract.digest():
        yield f"prompt {short} was compiled for another contract than the task has today"


def _check_inputs(suite: Suite, prompt: Prompt, hint: str) -> None:
    needed = {variable.name for variable in prompt.inputs if variable.default is None} if prompt.inputs else {"input"}
    takes = {variable.name for variable in prompt.inputs} or {"input"}
    for case in suite.cases[:1]:
        if not needed <= set(case.inputs) <= takes:
            raise InputError(
                f"prompt {prompt.id[:12]} takes the inputs {', '.join(sorted(takes))}, the cases of {suite.task} have "
                f"{', '.join(sorted(case.inputs))}",
                hint=hint,
            )


def _kind(shape: object) -> str:
    return {"Labels": "a label", "JsonShape": "JSON", "TextShape": "text"}[type(shape).__name__]


def sealed_texts(inputs: Mapping[str, str], expected: str, contract: Contract) -> list[str]:
    """The texts of a case that give it away when they stand in a prompt."""
    # A label stands in every prompt, and JSON's keys do; only free text can give a case away.
    return [*inputs.values(), *([expected] if isinstance(contract.shape, TextShape) else [])]


def listed(names: Sequence[str]) -> str:
    """The first five of ``names``, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
