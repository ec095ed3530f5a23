"""What earlier runs tell a conductor: which example it was shown for an equal problem, and the plan of a similar one.

An equal problem is planned by the same request as before, so that its reply is in the cache: the example that the conductor
was shown is kept with the run before it is asked, and shown again. A similar problem's plan is shown as an example, and
never run in the place of one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import TamperedError
from ..models.nearest import grams
from ..redact import redact
from ..store import Store
from .outcomes import as_json
from .reading import plan_yaml
from .values import Outcome, Plan

_ALIKE = 0.5
"""How alike two problems must be, from 0 to 1, for the plan of one to be an example for the other. Ours, from looking at pairs."""
_SHOWN_CHARS = 12_000
"""A longer plan is no example."""
_LOOKED_AT = 100
"""So many of the latest runs are looked at."""


class _Earlier(msgspec.Struct, frozen=True, kw_only=True):
    """What of a run says whether its plan is an example, and which example it had itself."""

    state: Literal["done", "failed", "stopped"]
    plan: Plan
    problem: str = ""
    example: str = ""


_earlier = msgspec.json.Decoder(_Earlier)


def keep(store: Store, outcome: Outcome) -> None:
    """Keeps what a run came to, without secrets, in the place of what it came to before."""
    store.put_run(outcome.run, redact(as_json(outcome).decode()).encode())


def example_for(store: Store, run: str, problem: str) -> str:
    """The plan to show for a problem, as YAML; empty for none. The same each time that this ``run`` asks."""
    own = _read(store, run)
    if own is not None:
        return own.example
    wanted = set(grams(redact(problem)))
    best, found = 0.0, None
    for name in store.runs()[:_LOOKED_AT]:
        one = _read(store, name)
        if one is None or one.state != "done" or one.plan.author != "model":
            continue
        alike = _alike(wanted, set(grams(one.problem)))
        if alike > best:
            best, found = alike, one.plan
    text = plan_yaml(found) if found is not None and best >= _ALIKE else ""
    return text if len(text) <= _SHOWN_CHARS else ""


def _read(store: Store, run: str) -> _Earlier | None:
    """An example is a help and no need: what can't be read is none."""
    try:
        data = store.run(run)
        return None if data is None else _earlier.decode(data)
    except (TamperedError, msgspec.MsgspecError):
        return None


def _alike(one: set[str], other: set[str]) -> float:
    """The Sørensen-Dice coefficient of two sets of character n-grams."""
    return 2 * len(one & other) / (len(one) + len(other)) if one and other else 0.0
