"""Texts from the meta-model: asked for side by side, read, and repaired once where the lint finds faults."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...chat import Reply, Request
from ...evals.suite import Case
from .answers import Read, read_draft, read_reflection
from .bench import Bench, worth
from .calls import CallFailed
from .drafts import Trial, repair_request
from .values import Candidate


async def written(bench: Bench, requests: Sequence[Request], *, reflecting: bool = False) -> list[Read | None] | None:
    """A usable text for each request, ``None`` in the place of one that got none; ``None`` at all when the budget left no call."""
    if not requests:
        return []
    replies = await bench.write(requests)
    if bench.calls.refused and not any(replies):
        return None
    read = [_read(bench, reply, reflecting) for reply in replies]
    read = await _repaired(bench, requests, replies, read, reflecting)
    _tell(bench, read)
    return [one if one is not None and one.usable else None for one in read]


async def _repaired(
    bench: Bench, requests: Sequence[Request], replies: Sequence[Reply | CallFailed | None], read: list[Read | None], reflecting: bool
) -> list[Read | None]:
    """``read`` with another answer in the place of each that has faults; the meta-model is told them once."""
    asked: dict[int, Request] = {}
    for place, (request, reply, one) in enumerate(zip(requests, replies, read, strict=True)):
        if isinstance(reply, Reply) and one is not None and one.faults:
            asked[place] = repair_request(request, reply.text, one.faults)
    again = await bench.write(list(asked.values())) if asked else []
    repaired = dict(zip(asked, (_read(bench, reply, reflecting) for reply in again), strict=True))
    return [_after(one, repaired.get(place)) for place, one in enumerate(read)]


def _after(first: Read | None, repaired: Read | None) -> Read | None:
    """The repaired answer, which holds the prompt alone, with what was said of the first one."""
    if repaired is None or first is None:
        return first
    return msgspec.structs.replace(repaired, said=repaired.said or first.said)


def _read(bench: Bench, reply: Reply | CallFailed | None, reflecting: bool) -> Read | None:
    if reply is None:
        return None
    if isinstance(reply, CallFailed):
        return Read(unusable=f"never came: {reply.message}")
    return (read_reflection if reflecting else read_draft)(reply, bench.source)


def _tell(bench: Bench, read: Sequence[Read | None]) -> None:
    """Notes what could not be used, and why."""
    for one in read:
        if one is not None and not one.usable:
            bench.unusable[bench.stage, one.unusable or "has faults that a repair did not mend"] += 1


def trial_of(bench: Bench, candidate: Candidate, case: Case) -> Trial:
    """What a candidate's answer to a case of the compile part came to, as the meta-model is told."""
    attempt = bench.attempts[candidate.id][case.id]
    return Trial(
        inputs=case.inputs,
        expected=case.expected,
        output=attempt.output,
        passed=bool(attempt.passed),
        score=worth(attempt),
        why=attempt.why,
        broken=attempt.broken,
    )
