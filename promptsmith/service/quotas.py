"""Limits of keys: requests a minute, tokens and dollars a day, shared by all workers of a machine."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..store.counters import Over, SharedCounters, Used
from .keys import Key

Code = Literal["rpm_limit", "token_limit", "cost_limit"]


class Refused(msgspec.Struct, frozen=True):
    """Why a request was not let in (429): in how many seconds it would be, and in words."""

    retry_after: float
    words: str
    code: Code


class Quotas:
    """Lets requests in and counts them.

    ``rpm`` is a sliding window, exact to the second: no more requests than that are let in within any 60 seconds, whichever
    workers they came to. A refused request is not counted. Tokens and dollars are counted by the UTC day, when a call is
    settled: calls under way when a limit is reached are finished, and come on top of it.
    """

    def __init__(self, counters: SharedCounters) -> None:
        self._counters = counters

    def admit(self, key: Key, now: float) -> Refused | None:
        """Counts a request of ``key`` at ``now`` (Unix time), or says why it is not let in.

        Raises :class:`StoreError` when more keys are in use than can be counted.
        """
        if not key.limited:
            return None
        over = self._counters.request(key.digest, now, per_minute=key.rpm, tokens=key.tokens_per_day, usd=key.usd_per_day)
        return None if over is None else _refused(key, over)

    def settle(self, key: Key, tokens: int, usd: float | None, now: float) -> None:
        """Counts what a call took; ``usd`` is ``None`` where that is not known. Raises as :meth:`admit`."""
        if key.tokens_per_day is not None or key.usd_per_day is not None:
            self._counters.spend(key.digest, now, tokens=tokens, usd=usd or 0.0)

    def used(self, key: Key, now: float) -> Used | None:
        """What is counted of a key with limits."""
        return self._counters.used(key.digest, now) if key.limited else None


def _refused(key: Key, over: Over) -> Refused:
    if over.what == "requests":
        return Refused(over.wait, f"the key {key.name} may make {key.rpm} requests a minute", "rpm_limit")
    if over.what == "tokens":
        words = f"the key {key.name} has used its {key.tokens_per_day} tokens of today; the next day begins at 00:00 UTC"
        return Refused(over.wait, words, "token_limit")
    words = f"the key {key.name} has used its ${key.usd_per_day:g} of today; the next day begins at 00:00 UTC"
    return Refused(over.wait, words, "cost_limit")
