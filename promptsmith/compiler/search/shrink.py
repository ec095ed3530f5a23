"""The shrink pass proposes what to take away from a prompt; whether that costs anything is measured elsewhere.

Delta debugging (Zeller and Hildebrandt 2002, IEEE Transactions on Software Engineering 28:183-200) with a prompt in place of a failing
input: large parts first, halved where they can't be spared, and nothing small while something larger is untried. The parts are those
that the text has (sections, lists, sentences), not runs of characters. Unlike ddmin it never asks again for what was refused after
something else was taken away: that would find little, and each question costs calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, TypeVar

import msgspec

from ... import canonical
from ...catalog.tokens import estimate
from ...contract import Contract, TextShape, shorten
from ..draft import subject
from ..lint import lint
from ..lint.reading import keys_of, labels_of, named
from ..material import Material
from ..template import with_examples
from .pieces import Piece, all_gone, joined, pieces
from .values import Candidate

_QUOTED_CHARS = 60
_T = TypeVar("_T")


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal: what would be left, and what it would spare."""

    instructions: str
    shown: tuple[str, ...]
    """Ids of the examples that would be left, in order."""
    said: str
    """What was taken away, in words."""
    tokens: int
    """Estimated tokens spared in each call; more than 0."""


class _Group(NamedTuple):
    """What is taken away at once: neighbouring pieces with what hangs on them, or examples."""

    pieces: tuple[int, ...] = ()
    examples: tuple[str, ...] = ()


class Shrinking:
    """One shrink pass over ``candidate``, whose examples are among those of ``source``.

    A round is a call of :meth:`propose`, the measuring of what it gave, and a call of :meth:`told` for each measured deletion. At most
    one deletion of a round can be kept, for each was measured against the prompt as it stood; the others that were as good are left
    untold and come again against the new one. Everything is the same for the same arguments and answers.

    It always ends. With n pieces and m examples there are at most 2(n + m) groups to try and n + m deletions to keep, so at most
    2(n + m) proposals when each is told as refused or kept, and (limit + 1)(n + m) when each round keeps one and leaves the rest untold.
    """

    def __init__(self, candidate: Candidate, source: Material, seed: int) -> None:
        self._source = source
        self._pieces = pieces(candidate.instructions)
        self._children = _children(self._pieces)
        self._examples = {example.id: example for example in source.examples}
        self._faults = self._faults_of(candidate.instructions)
        self._carriers = _carriers(self._pieces, source.contract)
        self._gone: frozenset[int] = frozenset()
        self._shown = candidate.shown
        self._proposed: dict[Deletion, _Group] = {}
        self._ever: set[tuple[str, tuple[str, ...]]] = set()
        shuffled = sorted(self._shown, key=lambda name: canonical.fraction("shrink", str(seed), name))
        # By chance, not by place: examples stand in file order, where one kind may fill a half.
        self._waiting: list[tuple[int, _Group]] = []
        """A heap, the most sparing on top."""
        self._wait([_Group(examples=tuple(shuffled))] if shuffled else [])
        self._wait(self._groups(self._children[-1]))

    @property
    def left(self) -> tuple[str, tuple[str, ...]]:
        """The instructions and the ids of the examples as they stand, without all that was kept away."""
        return joined(self._pieces, self._gone), self._shown

    def propose(self, limit: int) -> list[Deletion]:
        """Up to ``limit`` deletions to be measured, none of them proposed before, the most sparing first.

        The last spares at least half of what the first does, and later rounds hold nothing larger than the first (but for a heading
        that goes with the last of its section). Empty when nothing is left to try. What was proposed before and not told of is
        proposed again if something was kept since, and counts as refused if not.
        """
        self._wait(self._proposed.values())
        self._proposed = {}
        first = 0
        while self._waiting and len(self._proposed) < max(1, limit) and -2 * self._waiting[0][0] >= first:
            self._offer(heappop(self._waiting)[1])
            first = first or max((deletion.tokens for deletion in self._proposed), default=0)
        return list(self._proposed)

    def told(self, deletion: Deletion, kept: bool) -> None:
        """What was measured: it is ``kept`` when it costs nothing. What is refused comes again in halves.

        Raises :class:`ValueError` for a deletion that is not of this round, was told already, or is the second one kept.
        """
        group = self._proposed.get(deletion)
        if group is None:
            raise ValueError("this deletion is not waited for")
        if kept:
            gone, shown = self._after(group)
            if (joined(self._pieces, gone), shown) != (deletion.instructions, deletion.shown):
                raise ValueError("another deletion of this round was kept, and the two were not measured together")
            self._gone, self._shown = gone, shown
        else:
            self._wait(self._halves(group))
        del self._proposed[deletion]

    # --- proposals ----------------------------------------------------------------------------------------

    def _offer(self, group: _Group) -> None:
        """Proposes the group, or goes on with its halves when there is nothing in it to be measured."""
        deletion = self._deletion(group)
        if deletion is None:
            self._wait(self._halves(group))
        else:
            self._ever.add((deletion.instructions, deletion.shown))
            self._proposed[deletion] = group

    def _deletion(self, group: _Group) -> Deletion | None:
        gone, shown = self._after(group)
        spared = self._spares(group)
        if spared <= 0 or not self._keeps_names(gone):
            return None
        instructions = joined(self._pieces, gone)
        if (instructions, shown) in self._ever or (gone != self._gone and self._faults_of(instructions) - self._faults):
            return None
        return Deletion(instructions=instructions, shown=shown, said=self._words(group), tokens=spared)

    def _after(self, group: _Group) -> tuple[frozenset[int], tuple[str, ...]]:
        gone = all_gone(self._pieces, self._gone.union(group.pieces)) if group.pieces else self._gone
        return gone, tuple(name for name in self._shown if name not in group.examples)

    def _spares(self, group: _Group) -> int:
        return self._tokens(self._gone, self._shown) - self._tokens(*self._after(group))

    def _tokens(self, gone: frozenset[int], shown: tuple[str, ...]) -> int:
        return estimate(with_examples(joined(self._pieces, gone), [self._examples[name] for name in shown]))

    def _faults_of(self, instructions: str) -> Counter[str]:
        return Counter(finding.code for finding in lint(subject(self._source, instructions)))

    def _keeps_names(self, gone: frozenset[int]) -> bool:
        """Whether each name of the contract that the text has now is still in it."""
        return all(carriers <= self._gone or not carriers <= gone for carriers in self._carriers)

    # --- groups -------------------------------------------------------------------------------------------

    def _wait(self, groups: Iterable[_Group]) -> None:
        for group in groups:
            heappush(self._waiting, (-self._spares(group), group))

    def _halves(self, group: _Group) -> list[_Group]:
        """Smaller groups that together are the group, as far as it can be deleted."""
        if group.examples:
            return [_Group(examples=half) for half in _two(group.examples) if half != group.examples]
        if len(group.pieces) == 1:
            return self._groups(self._children[group.pieces[0]])
        return [_Group(half) for half in _two(group.pieces)]

    def _groups(self, siblings: Sequence[int]) -> list[_Group]:
        """Each section by itself, and two halves of what else can be deleted."""
        found: list[_Group] = []
        loose: list[int] = []
        for index in siblings:
            piece = self._pieces[index]
            if index in self._gone or not piece.says:
                continue
            if piece.kind in ("heading", "open"):
                found.append(_Group((index,)))
            elif self._keeps_names(self._after(_Group((index,)))[0]):
                loose.append(index)
            else:
                found += self._groups(self._children[index])
        return found + [_Group(half) for half in _two(tuple(loose))]

    # --- words --------------------------------------------------------------------------------------------

    def _words(self, group: _Group) -> str:
        if group.examples:
            names = [name for name in self._shown if name in group.examples]
            if len(names) == len(self._shown):
                return f"all {len(names)} examples" if len(names) > 1 else f"the only example, {names[0]}"
            return f"{len(names)} of {len(self._shown)} examples: {', '.join(names)}" if len(names) > 1 else f"the example {names[0]}"
        taken = [self._pieces[index] for index in group.pieces if index not in self._gone]
        first = _quoted(taken[0])
        if len(taken) > 1:
            return f"{len(taken)} {_kind_of(taken)}s, from {first} to {_quoted(taken[-1])}"
        return f"the {_kind_of(taken)} {first}"


def _children(whole: Sequence[Piece]) -> dict[int, list[int]]:
    """What hangs on each piece, by its index; what hangs on none under -1."""
    found: dict[int, list[int]] = {index: [] for index in range(-1, len(whole))}
    for piece in whole:
        found[piece.parent].append(piece.index)
    return found


def _carriers(whole: Sequence[Piece], contract: Contract) -> list[frozenset[int]]:
    """For each name of the contract that the text has: the pieces that it stands in."""
    names = [*labels_of(contract), *keys_of(contract), *_limits(contract)]
    found = [frozenset(piece.index for piece in whole if named(name, piece.text)) for name in names]
    return [carriers for carriers in found if carriers]


def _limits(contract: Contract) -> list[str]:
    """The numbers of the contract's limits. The lint knows limits that are wrong, not ones that are missing."""
    shape = contract.shape
    values = [getattr(shape, name) for name in shape.__struct_fields__] if isinstance(shape, TextShape) else []
    values += [check.value for check in contract.checks if check.kind in ("max_words", "min_words")]
    return [str(value) for value in values if isinstance(value, int) and not isinstance(value, bool)]


def _two(whole: tuple[_T, ...]) -> list[tuple[_T, ...]]:
    middle = len(whole) // 2
    return [half for half in (whole[:middle], whole[middle:]) if half]


def _kind_of(taken: Sequence[Piece]) -> str:
    kinds = {piece.kind for piece in taken}
    names = {"heading": "section", "open": "section", "item": "item", "sentence": "sentence", "block": "block"}
    return names[taken[0].kind] if len(kinds) == 1 else "piece"


def _quoted(piece: Piece) -> str:
    marks = {"heading": "# ", "item": "-*+• "}.get(piece.kind, "")
    return shorten(" ".join(piece.text.split()).lstrip(marks), _QUOTED_CHARS)
