"""Figures of the service in words, alike on every page."""

from __future__ import annotations

import time
from typing import NamedTuple

from ...evals.show import words
from .values import Canary, Figures, Hours

NONE = "-"
SHORT = 12
"""Digits of an id that people are shown."""
_HOUR = 3600


def short(prompt_id: str | None) -> str:
    """The digits by which people are shown an id."""
    return prompt_id[:SHORT] if prompt_id else NONE


def moment(written: str) -> str:
    """An RFC 3339 time in UTC, to the minute."""
    return f"{written[:10]} {written[11:16]}" if written[10:11] == "T" and len(written) >= 16 else written or NONE


def clock(seconds: float) -> str:
    """A time of the epoch in UTC, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds)) if seconds else NONE


def share(part: int, whole: int) -> str:
    """``part`` of ``whole`` as percentage."""
    return words.share(part / whole) if whole else NONE


def adherence(found: Figures) -> str:
    """The share of answers that kept the contract, and of how many."""
    return f"{share(found.adherent, found.checked)} of {found.checked:,}" if found.checked else "nothing checked"


def errors(found: Figures) -> str:
    """Failed calls and their share."""
    return f"{found.errors:,} ({share(found.errors, found.calls)})" if found.errors else "0"


def money(found: Figures) -> str:
    """What was paid for the calls whose price is known; unknown when there is none such."""
    if found.unpriced and not found.usd:
        return words.UNKNOWN
    return f"${found.usd:,.2f}" if found.usd >= 1 else words.dollars(found.usd)


def unpriced(found: Figures) -> str:
    """How many calls the sum leaves out; empty when none."""
    return f"and {words.count(found.unpriced, 'call')} at an unknown price" if found.unpriced else ""


def latency(seconds: float | None) -> str:
    """A latency."""
    return NONE if seconds is None else words.milliseconds(1000 * seconds)


def replayed(found: Figures) -> str:
    """The share of answers from the reply cache."""
    return share(found.replayed, found.calls)


def provider_cached(found: Figures) -> str:
    """The share of input tokens that the provider had cached."""
    return share(found.cached, found.input)


def canary_line(found: Canary) -> str:
    """Which prompt gets what, in one line."""
    if found.state == "shadow":
        return f"{short(found.candidate)} runs beside {short(found.incumbent)}, its answers are thrown away"
    return f"{100 * found.share:g} % of the callers to {short(found.candidate)}, the rest to {short(found.incumbent)}"


class Spark(NamedTuple):
    """A row of columns, one an hour: left edge, top and height in a box of ``width`` by ``height``; in words ``says``."""

    columns: tuple[tuple[float, float, float], ...]
    width: int
    height: int
    says: str


WIDE, TALL = 5, 24


def spark(hours: Hours) -> Spark:
    """Calls per hour as columns; an hour with a call is never without one that is seen."""
    most = max(hours.calls, default=0)
    columns = []
    for place, calls in enumerate(hours.calls):
        height = round(max(1.5, TALL * calls / most), 2) if calls else 0.0
        columns.append((WIDE * place, round(TALL - height, 2), height))
    return Spark(tuple(columns), WIDE * len(hours.calls), TALL, _says(hours, most))


def _says(hours: Hours, most: int) -> str:
    over = f"in the last {len(hours.calls)} hours" if hours.calls else "in the last hours"
    if not most:
        return f"no calls {over}"
    quiet = hours.calls.count(0)
    # The first of equals: the reader is told of one hour, not of the last.
    start = hours.ends - _HOUR * (len(hours.calls) - hours.calls.index(most))
    peak = f"most {most:,} in the hour from {time.strftime('%H:%M', time.gmtime(start))} UTC"
    none = f", none in {words.count(quiet, 'hour')}" if quiet else ""
    return f"{words.count(sum(hours.calls), 'call')} {over}: {peak}, {hours.calls[-1]:,} in the last{none}"
