"""The Prometheus text format, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite, isnan
from typing import Literal

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]


class Histogram(msgspec.Struct, frozen=True):
    """Observations by bucket (not yet added up), the last being those above every bound, and their sum."""

    counts: Sequence[float]
    total: float


class Family(msgspec.Struct, frozen=True):
    """One metric and its samples. ``bounds`` are a histogram's, without the infinite one."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Sequence[tuple[Labels, float | Histogram]] = ()
    bounds: Sequence[float] = ()


def text(families: Iterable[Family]) -> bytes:
    """The page. A family without samples is left out."""
    return "".join(line for family in families if family.samples for line in _lines(family)).encode("utf-8", "replace")


def _lines(family: Family) -> Iterator[str]:
    about = family.help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {family.name} {about}\n# TYPE {family.name} {family.kind}\n"
    for labels, value in family.samples:
        shown = ",".join(f'{name}="{_escaped(label)}"' for name, label in labels)
        if isinstance(value, Histogram):
            yield from _histogram(family, shown, value)
        else:
            yield f"{family.name}{_braced(shown)} {_number(value)}\n"


def _histogram(family: Family, labels: str, value: Histogram) -> Iterator[str]:
    begin = f"{family.name}_bucket{{{labels}{',' if labels else ''}le="
    seen = 0.0
    for bound, count in zip((*map(_number, family.bounds), "+Inf"), value.counts, strict=True):
        seen += count
        yield f'{begin}"{bound}"}} {_number(seen)}\n'
    yield f"{family.name}_sum{_braced(labels)} {_number(value.total)}\n{family.name}_count{_braced(labels)} {_number(seen)}\n"


def _braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if not isfinite(value):
        return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
