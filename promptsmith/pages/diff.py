"""What changed between two texts, by words."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

Kind = Literal["same", "gone", "new"]
_WORD = re.compile(r"(?:\d+(?:[.,:]\d+)+|\w+|[^\w\s])\s*|\s+")
"""A word with the blanks behind it: blanks of their own would all be alike, which takes the matcher ten times as long."""
MOST = 1500
"""Words of both texts together that are compared; longer differences are shown as one."""


class Piece(NamedTuple):
    """A run of text that is in both, only in the first (``gone``), or only in the second (``new``)."""

    kind: Kind
    text: str


def word_diff(before: str, after: str) -> list[Piece]:
    """``before`` and ``after`` as runs: those of kind ``same`` and ``gone`` give the first, ``same`` and ``new`` the second."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    middle = _middle(old[start : len(old) - end], new[start : len(new) - end])
    pieces = [Piece("same", "".join(old[:start])), *middle, Piece("same", "".join(old[len(old) - end :]))]
    return [piece for piece in pieces if piece.text]


def _common(old: list[str], new: list[str]) -> int:
    return next((place for place, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _middle(old: list[str], new: list[str]) -> list[Piece]:
    if len(old) + len(new) > MOST:  # the matcher's time grows with the square of it
        return [Piece("gone", "".join(old)), Piece("new", "".join(new))]
    pieces = []
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(Piece("same", "".join(old[i:j])))
        else:
            pieces += [Piece("gone", "".join(old[i:j])), Piece("new", "".join(new[k:m]))]
    return pieces
