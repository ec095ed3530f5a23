"""The figures of a run as a markdown table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .bench import HELD, Samples
from .peers import DIRECT, OURS, RELAY


class Row(NamedTuple):
    """One line. ``added`` subtracts what the client sees without a gateway in the same round."""

    key: str
    what: str
    reach: str
    digits: int = 0
    added: bool = False


ROWS = (
    Row("requests", "requests/s, 64 connections", "at least 0.75 x the relay"),
    Row("requests p50", "  p50, ms", "-", 1),
    Row("requests p99", "  p99, ms", "-", 1),
    Row("requests cpu", "  CPU of the gateway for one, µs", "-"),
    Row("streams", "streams/s, 64 connections", "at least 0.75 x the relay"),
    Row("streams p50", "  p50, ms", "-", 1),
    Row("streams p99", "  p99, ms", "-", 1),
    Row("streams cpu", "  CPU of the gateway for one, µs", "-"),
    Row("first", "added time to the first byte of a stream, one connection, ms", "at most 0.5", 2, added=True),
    Row("slow p50", "added p50, 16 connections, 50 ms upstream, ms", "at most 2.5", 2, added=True),
    Row("slow p99", "added p99, ms", "at most 10", 2, added=True),
    Row("scaled", "2 workers over one", "at least 1.8", 2),
    Row("scaled most", "  the most that these cores allow", "-", 2),
    Row("scaled held", f"2 workers over one, each held to {HELD:g} of a core", "at least 1.8", 2),
    Row("scaled cpu", "  CPU for a request, 2 workers over one", "-", 2),
    Row("idle", "memory of a worker, idle, MiB", "at most 80"),
    Row("loaded", "memory of a worker, after the load, MiB", "at most 80"),
    Row("loaded all", "  of all its processes", "-"),
    Row("start", "start to the first answer, s", "at most 0.5", 2),
)


def markdown(samples: Samples, peers: Sequence[str]) -> str:
    """Medians (lowest to highest of the rounds), a column for each peer; the last one compares ours with the relay, round by round."""
    lines = [_line(["", "reach", *peers, f"{OURS} / relay"]), _line(["---", "---", *["---:"] * (len(peers) + 1)])]
    for row in ROWS:
        cells = [_cell(samples, row, peer) for peer in peers]
        if any(cells):
            lines.append(_line([row.what, row.reach, *cells, _ratio(samples, row)]))
    return "\n".join([*lines, "", *_notes(samples)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(samples: Samples, row: Row, peer: str) -> str:
    values = figures(samples, row, peer)
    if values:
        middle, lowest, highest = (_number(pick(values), row.digits) for pick in (statistics.median, min, max))
        return f"{middle} ({lowest} to {highest})" if len(values) > 1 else middle
    return "fails" if peer in samples.errors.get(row.key, {}) else ""


def figures(samples: Samples, row: Row, peer: str) -> list[float]:
    """The values of a row, one a round."""
    values = samples.values.get(row.key, {}).get(peer, [])
    if not row.added:
        return values
    bare = samples.values[row.key].get(DIRECT, [])
    return [value - floor for value, floor in zip(values, bare, strict=False)] if peer != DIRECT else []


def _ratio(samples: Samples, row: Row) -> str:
    pairs = list(zip(figures(samples, row, OURS), figures(samples, row, RELAY), strict=False))
    if not pairs or any(base <= 0 for _, base in pairs):
        return ""
    return f"{statistics.median(own / base for own, base in pairs):.2f}"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _notes(samples: Samples) -> list[str]:
    lines = []
    for row, by_peer in samples.errors.items():
        for peer, kinds in by_peer.items():
            lines.append(f"- {peer}, {row}: " + ", ".join(f"{kind} {number:,} times" for kind, number in sorted(kinds.items())))
    return lines


def plain(samples: Samples, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured, to be written as JSON."""
    copied: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    return {
        "about": copied(about),
        "values": {row: copied(by_peer) for row, by_peer in samples.values.items()},
        "errors": {row: {peer: copied(kinds) for peer, kinds in by_peer.items()} for row, by_peer in samples.errors.items()},
    }
