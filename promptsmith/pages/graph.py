"""A plan as a layered drawing: which box stands where, and the curves between them. Places are in the units of an SVG.

The method is that of Sugiyama, Tagawa and Toda 1981 (doi:10.1109/TSMC.1981.4308636): layers by the longest way, a long
edge is led through every layer between, crossings are lessened by ordering each layer by the mean places of its neighbours.
Places within a layer are the nearest to their neighbours' that keep the order and the distance (isotonic regression).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..orchestration.trace import layers, needs_of
from ..orchestration.values import Step

MOST = 40
"""Steps that are drawn; a table shows more of them better."""
WIDTH, HEIGHT = 172, 42
"""Of a box."""
_BETWEEN, _ASIDE, _BEND = 52, 10, 8
"""Between layers, between boxes of a layer, and beside a passing edge."""
_ROOM = 1120
"""Width in which a drawing is seen whole on a wide screen."""
_SWEEPS = 8


class Key(NamedTuple):
    """What has a place in a layer: the box of the step ``id``, or an edge from it that passes, to the step at place ``to``."""

    layer: int
    id: str
    to: int = -1

    @property
    def passes(self) -> bool:
        return self.to >= 0


class Box(NamedTuple):
    """One step; ``x`` and ``y`` are its upper left corner."""

    id: str
    x: float
    y: float


class Edge(NamedTuple):
    """A need: an SVG path from box to box, and that of its arrow's head."""

    source: str
    target: str
    path: str
    head: str


class Graph(NamedTuple):
    """A drawing of ``width`` by ``height``."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def graph(steps: Sequence[Step]) -> Graph | None:
    """The steps with their needs, left to right, or downwards where that is narrower; ``None`` when there are too many or none."""
    if not 0 < len(steps) <= MOST:
        return None
    rows = _Layered(steps)
    across, down = _drawn(rows, across=True), _drawn(rows, across=False)
    return across if across.width <= max(_ROOM, down.width) else down


class _Layered:
    """Layers of names in an order with few crossings, and who is joined with whom in the next one."""

    def __init__(self, steps: Sequence[Step]) -> None:
        layer, needs = layers(steps), needs_of(steps)
        self.rows: list[list[Key]] = [[] for _ in range(max(layer.values()) + 1)]
        self.chains: dict[tuple[str, str], list[Key]] = {}
        """The way of each edge, from box to box."""
        for step in steps:
            self.rows[layer[step.id]].append(Key(layer[step.id], step.id))
        for to, step in enumerate(steps):
            for need in needs[step.id]:
                if layer[need] < layer[step.id]:
                    between = [Key(place, need, to) for place in range(layer[need] + 1, layer[step.id])]
                    self.chains[need, step.id] = [Key(layer[need], need), *between, Key(layer[step.id], step.id)]
                    for key in between:
                        self.rows[key.layer].append(key)
        self.before: dict[Key, list[Key]] = {}
        self.after: dict[Key, list[Key]] = {}
        for chain in self.chains.values():
            for upper, lower in pairwise(chain):
                self.before.setdefault(lower, []).append(upper)
                self.after.setdefault(upper, []).append(lower)
        self._order()

    def _order(self) -> None:
        best, fewest = [list(row) for row in self.rows], self.crossings()
        for sweep in range(_SWEEPS):
            self._sweep(down=sweep % 2 == 0)
            found = self.crossings()
            if found < fewest:
                best, fewest = [list(row) for row in self.rows], found
        self.rows = best

    def _sweep(self, *, down: bool) -> None:
        joined = self.before if down else self.after
        rows = list(pairwise(self.rows if down else self.rows[::-1]))
        for fixed, row in rows:
            place = {key: spot for spot, key in enumerate(fixed)}
            mean = {key: _mean([place[one] for one in joined.get(key, ())], spot) for spot, key in enumerate(row)}
            row.sort(key=lambda key: mean[key])  # equal ones stay in order

    def crossings(self) -> int:
        """How many pairs of edges cross."""
        total = 0
        for upper, lower in pairwise(self.rows):
            place = {key: spot for spot, key in enumerate(lower)}
            ends = [sorted(place[one] for one in self.after.get(key, ())) for key in upper]
            for spot, one in enumerate(ends):
                total += sum(a > b for other in ends[spot + 1 :] for a in one for b in other)
        return total


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _drawn(rows: _Layered, *, across: bool) -> Graph:
    """``across``: layers stand beside each other; else below each other."""
    deep, wide = (WIDTH, HEIGHT) if across else (HEIGHT, WIDTH)
    size = {key: _BEND if key.passes else wide for row in rows.rows for key in row}
    middle = _middles(rows, size)
    least = min(middle[key] - size[key] / 2 for key in middle)
    middle = {key: round(place - least + 1, 1) for key, place in middle.items()}
    breadth = max(middle[key] + size[key] / 2 for key in middle) + 1
    length = len(rows.rows) * (deep + _BETWEEN) - _BETWEEN + 2

    def start(layer: int) -> float:
        return 1 + layer * (deep + _BETWEEN)

    def point(along: float, aside: float) -> str:
        return f"{along:g} {aside:g}" if across else f"{aside:g} {along:g}"

    boxes = []
    for key, at in middle.items():
        if not key.passes:
            corner = start(key.layer), at - wide / 2
            boxes.append(Box(key.id, *(corner if across else corner[::-1])))
    edges = []
    for (source, target), chain in rows.chains.items():
        curves = [f"M{point(start(chain[0].layer) + deep, middle[chain[0]])}"]
        for upper, lower in pairwise(chain):
            begin, end = start(upper.layer) + deep, start(lower.layer) - (7 if lower == chain[-1] else 0)
            half = (begin + end) / 2
            curves.append(f"C{point(half, middle[upper])} {point(half, middle[lower])} {point(end, middle[lower])}")
            if lower != chain[-1]:
                curves.append(f"L{point(start(lower.layer) + deep, middle[lower])}")
        tip, at = start(chain[-1].layer), middle[chain[-1]]
        head = f"M{point(tip, at)}L{point(tip - 8, at - 4)}L{point(tip - 8, at + 4)}Z"
        edges.append(Edge(source, target, "".join(curves), head))
    width, height = (length, breadth) if across else (breadth, length)
    return Graph(width, height, tuple(boxes), tuple(edges))


def _middles(rows: _Layered, size: Mapping[Key, float]) -> dict[Key, float]:
    """The middle of each within its layer: near its neighbours, at a distance from those beside it."""
    middle: dict[Key, float] = {}
    for row in rows.rows:
        middle |= _apart(row, size, [0.0] * len(row))
    for sweep in range(2 * _SWEEPS):
        joined = rows.before if sweep % 2 == 0 else rows.after
        for row in rows.rows if sweep % 2 == 0 else rows.rows[::-1]:
            wished = [_mean([middle[one] for one in joined.get(key, ())], middle[key]) for key in row]
            middle |= _apart(row, size, wished)
    return middle


def _apart(row: Sequence[Key], size: Mapping[Key, float], wished: Sequence[float]) -> dict[Key, float]:
    """The places nearest to those wished (least squares) at which none overlaps: pool adjacent violators."""
    offsets = [0.0]
    for one, other in pairwise(row):
        offsets.append(offsets[-1] + (size[one] + size[other]) / 2 + _ASIDE)
    blocks: list[tuple[float, int]] = []
    for wish, offset in zip(wished, offsets, strict=True):
        total, number = wish - offset, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / number:
            before, held = blocks.pop()
            total, number = total + before, number + held
        blocks.append((total, number))
    level = [total / number for total, number in blocks for _ in range(number)]
    return {key: at + offset for key, at, offset in zip(row, level, offsets, strict=True)}
