"""The research loop: typed subtasks, each done by the worker or expert of its type, in several rounds; then a report.

All that subtasks find is collected for those after them; a judge of it may ask for another round.

A type is the name of a registered worker or of an expert of the plan: to add one touches the settings or the YAML alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ...contract import Contract, JsonShape, shorten
from ...errors import InputError, PlanError
from ..values import Outcome, Plan, Step
from .growth import Growth, SoFar

_PLAN, _JUDGE, _SEARCH, _REPORT = "plan", "judge", "web_search", "write_report"
_ORCHESTRATOR = "orchestrator"
_LEAST, _MOST, _MOST_ROUNDS = 3, 5, 10


def _begin(plan: Plan, inputs: Mapping[str, Any], workers: frozenset[str]) -> Plan:
    """The plan whose orchestrator may name the types that there are."""
    if _SEARCH not in workers:
        raise InputError(
            f"research needs a worker {_SEARCH}, and none is registered",
            hint=f"[workers.{_SEARCH}] kind = 'search', model = 'endpoint/model' in the settings; a function of yours does too",
        )
    rounds = inputs.get("rounds", 2)
    if not str(rounds).isdecimal() or not 1 <= int(rounds) <= _MOST_ROUNDS:
        raise InputError(f"input 'rounds' is {shorten(str(rounds))}", hint=f"give a number from 1 to {_MOST_ROUNDS}")
    output = Contract(JsonShape(json.dumps(_closed({"analysis": {"type": "string"}, "subtasks": _subtasks(plan, workers, _LEAST)}))))
    steps = [msgspec.structs.replace(step, output=output) if step.id == _PLAN else step for step in plan.steps]
    return msgspec.structs.replace(plan, steps=tuple(steps))


def _subtasks(plan: Plan, workers: frozenset[str], least: int) -> dict[str, Any]:
    types = list(dict.fromkeys([*sorted(workers), *(one.name for one in plan.experts if one.name != _ORCHESTRATOR)]))
    row = _closed({"type": {"type": "string", "enum": types}, "instruction": {"type": "string", "minLength": 1}})
    return {"type": "array", "minItems": least, "maxItems": _MOST, "items": row}


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _grow(sofar: SoFar) -> Plan | None:
    steps, judged = sofar.plan.steps, sofar.typed(_JUDGE)
    if any(step.id.startswith("report") for step in steps):
        return None
    found = _found(sofar.plan)
    begun = max((int(step.id.split("-")[1]) for step in found), default=0)
    verdict = sofar.value(judged[-1]) if judged and len(judged) == begun else None
    if not found or (verdict and not verdict["enough"] and verdict["subtasks"]):
        return _round(sofar, judged[-1] if judged else _PLAN, begun + 1)
    if not sofar.done(step.id for step in found if step.worker):
        return None  # a report of nothing would be made up
    return _reported(sofar)


def _found(plan: Plan) -> list[Step]:
    """The steps that find something, in their order."""
    return [step for step in plan.steps if step.id.startswith(("search-", "analysis-"))]


def _round(sofar: SoFar, source: str, number: int) -> Plan:
    """The plan with the subtasks of one round, which ``source`` names, and a judge of all that is collected then.

    Workers collect side by side and see nothing; experts see all that is collected by then. Raises :class:`PlanError` when
    nothing would be collected.
    """
    subtasks = sofar.value(source)["subtasks"]
    tools = [one for one in subtasks if one["type"] in sofar.workers and one["type"] != _REPORT]
    thought = [one for one in subtasks if one not in tools and one["type"] != _REPORT]
    if not tools and not _found(sofar.plan):
        raise PlanError(f"step {source!r} names no subtask that collects anything: a {_SEARCH}, or another worker")
    searches = [
        Step(id=f"search-{number}-{place}", type=one["type"], worker=one["type"], instructions=one["instruction"], on_failure="skip")
        for place, one in enumerate(tools, 1)
    ]
    seen = tuple(step.id for step in (*_found(sofar.plan), *searches))
    analyses = [
        Step(
            id=f"analysis-{number}-{place}",
            type=one["type"],
            expert=one["type"],
            instructions=one["instruction"],
            needs=seen,
            context=("question", *seen),
            on_failure="skip",
        )
        for place, one in enumerate(thought, 1)
    ]
    steps = [*searches, *analyses]
    if number < int(sofar.inputs["rounds"]):
        steps.append(_judge(sofar, number, (*seen, *(step.id for step in analyses))))
    return sofar.with_steps(steps, [step.id for step in (*_found(sofar.plan), *searches) if step.worker])


def _judge(sofar: SoFar, number: int, seen: tuple[str, ...]) -> Step:
    keys = {"enough": {"type": "boolean"}, "why": {"type": "string"}, "subtasks": _subtasks(sofar.plan, sofar.workers, 0)}
    return Step(
        id=f"judge-{number}",
        type=_JUDGE,
        expert=_ORCHESTRATOR,
        instructions=(
            "Judge what is collected: does it answer the question? If not, name the subtasks of one more round, each another approach "
            "than those that failed or found nothing; they see all that is collected. If it does, name none."
        ),
        needs=seen,
        context=("question", *seen),
        output=Contract(JsonShape(json.dumps(_closed(keys)))),
        on_failure="skip",
    )


def _reported(sofar: SoFar) -> Plan:
    """The plan with its last step: what subtasks of the type said that is to be written, from all that was collected."""
    sources = (_PLAN, *sofar.done(sofar.typed(_JUDGE)))
    asked = [one["instruction"] for source in sources for one in sofar.value(source)["subtasks"] if one["type"] == _REPORT]
    told = "\n".join(f"- {one}" for one in asked)
    seen = tuple(step.id for step in _found(sofar.plan))
    report = Step(
        id="report",
        type=_REPORT,
        expert=_REPORT,
        instructions="Write the final report that answers the question." + (f" It was planned so:\n{told}" if told else ""),
        needs=seen,
        context=("question", *seen),
    )
    return sofar.with_steps([report], [report.id])


def _value(outcome: Outcome) -> dict[str, Any]:
    """``analysis``, ``rounds``, what was ``collected`` (``{id, type, instruction, result, error}``), and the ``report``."""
    found = _found(outcome.plan)
    states = {result.id: result for result in outcome.results}
    first = states[_PLAN].value
    return {
        "analysis": first["analysis"] if isinstance(first, dict) else "",
        "rounds": max((int(step.id.split("-")[1]) for step in found), default=0),
        "collected": [
            {
                "id": step.id,
                "type": step.type,
                "instruction": step.instructions,
                "result": states[step.id].value if states[step.id].state == "done" else None,
                "error": states[step.id].error,
            }
            for step in found
        ],
        "report": states["report"].text if "report" in states and states["report"].state == "done" else None,
    }


GROWTH = Growth(_grow, _value, (_ORCHESTRATOR, _REPORT), re.compile(r"(search|analysis|judge|report)(-|$)|write_report$"), _begin)
