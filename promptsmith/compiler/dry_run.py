"""``compile --dry-run``: what would be sent to the meta-model, and what that may cost. Calls nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..catalog.prices import Rates
from ..catalog.tokens import estimate
from .draft import first_request
from .material import SCORED, Material
from .search.plan import SearchPlan, first_requests, plan_search


class Asked(msgspec.Struct, frozen=True):
    """One more draft that the meta-model is asked for at once."""

    strategy: str
    system: str
    message: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The first request of one compile, estimated. ``usd`` is for one call with all of its output, ``None`` when unknown.

    At ``-O2`` and ``-O3`` it has the plan of the ``search``, and the other drafts that are asked for at the same time.
    """

    task: str
    level: int
    why: str
    model: str
    system: str = ""
    message: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    search: SearchPlan | None = None
    others: tuple[Asked, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    def as_text(self) -> str:
        """The plan for a person, the messages in full."""
        if not self.model:
            return f"{self.task}: -O{self.level} ({self.why}) calls no model"
        cost = "unknown price" if self.usd is None else f"at most ${self.usd:.4f} a call"
        if self.search is None:
            head = [
                f"{self.task}: -O{self.level} ({self.why}), {self.model}",
                f"1 call, 2 when the lint finds faults, twice that when an answer is cut off; {cost}",
            ]
        else:
            head = [self.search.as_text(), f"a draft takes 1 call, 2 when the lint finds faults, twice that when cut off; {cost}"]
        sent = [f"about {self.input_tokens} tokens in (estimated), at most {self.output_tokens} out", ""]
        shown = _shown("", self.system, self.message)
        for other in self.others:
            # What the drafts have in common is shown once.
            shown += _shown(f" of {other.strategy}", other.system, "(as above)" if other.message == self.message else other.message)
        return "\n".join([*head, *sent, *shown])


def _shown(whose: str, system: str, message: str) -> list[str]:
    return [f"--- system{whose}", system.rstrip(), f"--- user{whose}", message]


def dry_run(source: Material, rates: Callable[[str], Rates | None]) -> Plan:
    """The plan of compiling ``source``."""
    if source.meta is None:
        return Plan(task=source.name, level=source.level, why=source.level_why, model="")
    asked = first_requests(source) if source.level >= SCORED else [("", first_request(source))]
    request = asked[0][1]
    message = request.turns[0].text
    tokens = round(estimate(request.system + message) * source.meta_known.token_factor)
    most = int(request.parameters["max_tokens"] or 0)
    price = rates(source.meta.name)
    return Plan(
        task=source.name,
        level=source.level,
        why=source.level_why,
        model=source.meta.name,
        system=request.system,
        message=message,
        input_tokens=tokens,
        output_tokens=most,
        # As a budget reserves it, so that the figure shown is one that --max-cost lets through.
        usd=price.worst(len((request.system + message).encode()), most) if price else None,
        search=plan_search(source, rates) if source.level >= SCORED else None,
        others=tuple(Asked(name, one.system, one.turns[0].text) for name, one in asked[1:]),
    )
