"""Builds a feature: a plan, its files side by side, reviews and fixes while there are issues (bounded), then documentation.

Nothing is written here and nothing that a model wrote is run: the files are texts, which the caller may have written below a
folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec

from ...chat import total_cost
from ...contract import Contract, JsonShape, shorten
from ...errors import InputError, Problem, SourceError
from ..values import Outcome, Plan, Step, StepResult
from .growth import Growth, SoFar, answer, understood

_PLAN = "plan"
_DOCS = ("docs-api", "docs-usage", "docs-architecture")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_MOST_FIXES = 10
_ALONE = "Give the text of the file alone, without a code fence."
_FENCE = re.compile(r"\A\s*```[^\n`]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_ISSUES = Contract(
    JsonShape(
        '{"type": "object", "properties": {"issues": {"type": "array", "items": {"type": "object", "properties": {'
        '"file": {"type": "string"}, "kind": {"type": "string", "enum": ["correctness", "performance", "security", "style"]}, '
        '"severity": {"type": "string", "enum": ["critical", "major", "minor"]}, "problem": {"type": "string"}, '
        '"fix": {"type": "string"}}, "required": ["file", "kind", "severity", "problem", "fix"], "additionalProperties": false}}, '
        '"summary": {"type": "string"}}, "required": ["issues", "summary"], "additionalProperties": false}'
    )
)


def _begin(plan: Plan, inputs: Mapping[str, Any], _workers: frozenset[str]) -> Plan:
    most = inputs.get("fixes", 2)
    if not str(most).isdecimal() or int(most) > _MOST_FIXES:
        raise InputError(f"input 'fixes' is {shorten(str(most))}", hint=f"give a number from 0 to {_MOST_FIXES}")
    return plan


def _grow(sofar: SoFar) -> Plan | None:
    if sofar.typed("docs"):
        return None
    if not sofar.typed("code"):
        read = understood(sofar, _PLAN, _files_planned)
        return read.again if read.value is None else _coded(sofar, [_code(sofar, number) for number in range(1, len(read.value) + 1)])
    reviews = sofar.typed("review")
    issues = _issues(sofar, reviews[-1])
    if issues and len(reviews) <= int(sofar.inputs["fixes"]):
        return _coded(sofar, [_fix(sofar, step, reviews[-1]) for step in _last(sofar.plan.steps) if _path(sofar, step) in issues])
    return sofar.with_steps(_docs(sofar, reviews[-1]), _DOCS)


# --- the plan ---------------------------------------------------------------------------------------------


def _files_planned(result: StepResult) -> list[str]:
    """The paths of the files, as they can be written. Raises :class:`SourceError` for one that can't be."""
    paths = [str(one["path"]) for one in result.value["files"]]
    folded = [path.casefold() for path in paths]
    wrong: list[tuple[str, str]] = []
    for path, low in zip(paths, folded, strict=True):
        if not all(_PART.fullmatch(part) for part in path.split("/")):
            wrong.append((f"{shorten(path)} can't be the path of a file", "join parts of letters, digits, '_', '-' and '.' by '/'"))
        elif folded.count(low) > 1 or any(str(parent) in folded for parent in PurePosixPath(low).parents):
            wrong.append((f"{shorten(path)} stands twice, or is a folder as well", "give each file a path of its own"))
    if wrong:
        raise SourceError([Problem("the plan", 0, *one) for one in dict.fromkeys(wrong)])
    return paths


def _plan_step(sofar: SoFar) -> str:
    """The step whose answer is the plan: the first, or the one that was asked again."""
    return f"{_PLAN}_2" if f"{_PLAN}_2" in sofar.results else _PLAN


def _path(sofar: SoFar, step: Step) -> str:
    """The file that a step writes: ``code-2`` and its fixes the second of the plan."""
    return _nth_path(sofar.value(_plan_step(sofar)), step)


def _nth_path(plan: Mapping[str, Any], step: Step) -> str:
    return str(plan["files"][int(step.id.split("-")[1]) - 1]["path"])


# --- code, reviews and fixes ------------------------------------------------------------------------------


def _code(sofar: SoFar, number: int) -> Step:
    plan = _plan_step(sofar)
    step = Step(id=f"code-{number}", type="code", expert="coder", needs=(plan,), context=("feature", "context", plan))
    return msgspec.structs.replace(step, instructions=f"Write the file {_path(sofar, step)} of the plan, in full. {_ALONE}")


def _fix(sofar: SoFar, step: Step, review: str) -> Step:
    path, plan = _path(sofar, step), _plan_step(sofar)
    return Step(
        id=f"{step.id.partition('-fix-')[0]}-fix-{len(sofar.typed('review'))}",
        type="code",
        expert="coder",
        instructions=(
            f"Correct the file {path}, which is in {step.id}: put right every issue that {review} names for it, and change nothing "
            f"else. Write the file in full. {_ALONE}"
        ),
        needs=(step.id, review, plan),
        context=("feature", "context", plan, step.id, review),
    )


def _coded(sofar: SoFar, steps: Sequence[Step]) -> Plan:
    """The plan with these steps, and a review of all files as they then stand."""
    latest = _last([*sofar.plan.steps, *steps])
    plan, files = _plan_step(sofar), tuple(step.id for step in latest)
    review = Step(
        id=f"review-{len(sofar.typed('review')) + 1}",
        type="review",
        expert="reviewer",
        instructions=(
            "Review the files against the feature and the plan: correctness, performance, security and style. Name each issue that "
            f"must be put right, with the path of its file; none where there is none.\n\n{_listed(sofar, latest)}"
        ),
        needs=(plan, *files),
        context=("feature", "context", plan, *files),
        output=_ISSUES,
    )
    return sofar.with_steps((*steps, review), [review.id])


def _issues(sofar: SoFar, review: str) -> set[str]:
    """The paths of the files that a review finds something wrong with; what is said of no file at all is of every file."""
    paths = {_path(sofar, step) for step in _last(sofar.plan.steps)}
    named = {issue["file"] for issue in sofar.value(review)["issues"]}
    return paths if named - paths else named


def _last(steps: Sequence[Step]) -> list[Step]:
    """The step that wrote each file last, in the order of the plan."""
    return list({step.id.partition("-fix-")[0]: step for step in steps if step.type == "code"}.values())


def _listed(sofar: SoFar, steps: Sequence[Step]) -> str:
    return "\n".join(["The files:", *(f"- {step.id}: {_path(sofar, step)}" for step in steps)])


def _docs(sofar: SoFar, review: str) -> list[Step]:
    latest, plan = _last(sofar.plan.steps), _plan_step(sofar)
    files = tuple(step.id for step in latest)
    told = {
        "docs-api": ("writer", "Write the API documentation: every public name with its arguments, results and errors."),
        "docs-usage": ("writer", "Write the usage guide: how to set it up, and examples from the simplest use on."),
        "docs-architecture": (
            "analyst",
            "Describe the architecture: the parts, what each is for, how data flows, and what was decided why.",
        ),
    }
    return [
        Step(
            id=name,
            type="docs",
            expert=expert,
            instructions=f"{what} Say only what the files show. Name what {review} leaves open.\n\n{_listed(sofar, latest)}",
            needs=(*files, plan, review),
            context=("feature", plan, review, *files),
            on_failure="skip",
        )
        for name, (expert, what) in told.items()
    ]


# --- what it came to --------------------------------------------------------------------------------------


def _value(outcome: Outcome) -> dict[str, Any]:
    """``plan``, ``code`` (texts by path), ``review`` (the last one), ``docs`` and ``cost`` (in US dollars, by stage)."""
    types = {step.id: step.type or step.id for step in outcome.plan.steps}
    reviews = [result.value for result in outcome.results if types[result.id] == "review" and result.state == "done"]
    stages: dict[str, list[float | None]] = {}
    for result in outcome.results:
        stages.setdefault(types[result.id], []).append(result.cost)
    return {
        "plan": answer(outcome, _PLAN).value,
        "code": _written(outcome),
        "review": reviews[-1] if reviews else None,
        "docs": {name.removeprefix("docs-"): _text(outcome, name) for name in _DOCS if name in types},
        "cost": {
            "total": total_cost(role.usd for role in outcome.costs),
            "stages": {stage: total_cost(costs) for stage, costs in stages.items()},
        },
    }


def _written(outcome: Outcome) -> dict[str, str]:
    """The files as they stood last, by path."""
    done = {result.id: result for result in outcome.results if result.state == "done"}
    latest = _last([step for step in outcome.plan.steps if step.id in done])
    plan = answer(outcome, _PLAN).value
    return {_nth_path(plan, step): _unfenced(done[step.id].text) for step in latest}


def _unfenced(text: str) -> str:
    found = _FENCE.match(text)
    return f"{(found[1] if found else text).rstrip()}\n"


def _text(outcome: Outcome, name: str) -> str | None:
    result = outcome.result(name)
    return result.text if result.state == "done" else None


def _made(outcome: Outcome) -> dict[str, str]:
    value = _value(outcome)
    code = {f"code/{path}": text for path, text in value["code"].items()}
    return code | {f"docs/{name}.md": f"{text}\n" for name, text in value["docs"].items() if text is not None}


GROWTH = Growth(_grow, _value, ("coder", "reviewer", "writer", "analyst"), re.compile(r"(code|review|docs)(-|$)|plan_2$"), _begin, _made)
