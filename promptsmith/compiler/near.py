"""Inputs that are nearly the same: found among many rows without comparing each with each.

Two inputs are near when they share at least 60 % of their different words (Jaccard) and rapidfuzz's token-set ratio is
at least 90. Which rows to compare is found by prefix filtering (Chaudhuri, Ganti and Kaushik 2006; Bayardo, Ma and
Srikant 2007): with the rarest words first, two sets that share so many words have one in common among the first few, so
rows that meet there alone are compared and none of the others could be near.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

from .. import canonical

RATIO = 90
"""The least token-set ratio (0 to 100) of two inputs that are near."""
COMPARED_CHARS = 1000
"""How much of an input is compared, from its beginning."""
COMPARED_ROWS = 200
"""With how many earlier rows one row is compared at most; bounds the work on rows that all use the same few words."""
_BITS = 512

# Scripts that put no blanks between words: each character counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


class Neighbours(NamedTuple):
    """Rows (by position) that are near an earlier one, and what was left out of the search."""

    pairs: tuple[tuple[int, int], ...]
    """``(row, the first earlier row found near it)``, one pair a row at most."""
    unfinished: int
    """Rows without a near one that met more than :data:`COMPARED_ROWS` others, so one may have been missed."""
    clipped: int
    """Rows longer than :data:`COMPARED_CHARS`."""


class _Row(NamedTuple):
    words: frozenset[str]
    prefix: tuple[str, ...]
    bits: int
    """A bit for each word, words sharing the bits: no more of them differ between two rows than words do."""


def neighbours(texts: Sequence[str]) -> Neighbours:
    """The near ones among ``texts``, which are normalised and differ."""
    rows = _rows(list(map(_words, texts)))
    meeting: defaultdict[str, list[int]] = defaultdict(list)
    pairs, unfinished = [], 0
    for number, row in enumerate(rows):
        near, finished = _first_near(row, rows, _meeting(meeting, row.prefix))
        if near is not None:
            pairs.append((number, near))
        unfinished += not finished
        for word in row.prefix:
            meeting[word].append(number)
    return Neighbours(tuple(pairs), unfinished, sum(len(text) > COMPARED_CHARS for text in texts))


def is_near(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether inputs with these words are near; those without any never are."""
    shared = len(one & other)
    if not shared or 5 * shared < 3 * (len(one) + len(other) - shared):
        return False
    if shared == len(one) == len(other):
        return True
    from rapidfuzz import fuzz

    return fuzz.token_set_ratio(" ".join(one), " ".join(other), score_cutoff=RATIO) >= RATIO


class Likeness:
    """How alike texts are, by the words that they share: weighted Jaccard similarity, 0 to 1.

    A word weighs the more the fewer of ``texts`` have it (inverse document frequency, Sparck Jones 1972). Only the
    first :data:`COMPARED_CHARS` characters of a text count.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        sets = [_words(_folded(text)) for text in texts]
        counts = Counter(word for words in sets for word in words)
        self._weights = {word: math.log(1 + len(sets) / count) for word, count in counts.items()}
        self._unseen = math.log(1 + len(sets))
        self._rows = list(map(self._weighed, sets))

    def between(self, row: int, other: int) -> float:
        """Likeness of two of the texts, by position."""
        return self._shared(self._rows[row], self._rows[other])

    def to(self, text: str) -> list[float]:
        """Likeness of each of the texts to another text."""
        mine = self._weighed(_words(_folded(text)))
        return [self._shared(mine, row) for row in self._rows]

    def _weighed(self, words: frozenset[str]) -> tuple[frozenset[str], float]:
        return words, sum(self._weights.get(word, self._unseen) for word in sorted(words))

    def _shared(self, one: tuple[frozenset[str], float], other: tuple[frozenset[str], float]) -> float:
        if one[0] and one[0] == other[0]:
            return 1.0
        # In a fixed order: a sum of floats depends on it, and a set's order is another one in each process.
        shared = sum(self._weights[word] for word in sorted(one[0] & other[0]))
        return shared / (one[1] + other[1] - shared) if shared else 0.0


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text[:COMPARED_CHARS]))


def _folded(text: str) -> str:
    return canonical.normalise(text[: 2 * COMPARED_CHARS])


def _rows(sets: Sequence[frozenset[str]]) -> list[_Row]:
    counts = Counter(word for words in sets for word in words)
    ranks = {word: rank for rank, word in enumerate(sorted(counts, key=lambda word: (counts[word], word)))}
    masks = {word: 1 << rank % _BITS for word, rank in ranks.items()}
    return [
        _Row(words, tuple(sorted(words, key=ranks.__getitem__)[: _prefix(len(words))]), reduce(or_, map(masks.__getitem__, words), 0))
        for words in sets
    ]


def _first_near(row: _Row, rows: Sequence[_Row], others: Iterable[int]) -> tuple[int | None, bool]:
    """The first of ``others`` near ``row``, and whether the search came to an end."""
    for count, number in enumerate(others):
        if count == COMPARED_ROWS:
            return None, False
        other = rows[number]
        # Sharing 60 % of all words is differing in at most a quarter of both sizes; the bits show less, and at once.
        may_be = 4 * (row.bits ^ other.bits).bit_count() <= len(row.words) + len(other.words)
        if may_be and is_near(row.words, other.words):
            return number, True
    return None, True


def _prefix(size: int) -> int:
    """How many of a row's rarest words can't all be missing from a row that shares 60 % with it."""
    return size - -(-3 * size // 5) + 1 if size else 0


def _meeting(meeting: defaultdict[str, list[int]], prefix: Sequence[str]) -> Iterator[int]:
    """Earlier rows that have one of these words in their own prefix, each once, those with the rarest word first."""
    seen: set[int] = set()
    for word in prefix:
        for row in meeting.get(word, ()):
            if row not in seen:
                seen.add(row)
                yield row
