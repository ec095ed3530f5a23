"""Holdout text inside a prompt: a case that the prompt knows proves nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .. import canonical
from ..errors import InputError
from ..prompt import Prompt, read_examples, without_examples

RUN = 8
"""So many words in a row of a holdout text give it away."""
SHORTEST = 4
"""A shorter text counts when it stands there whole; below this it may do so by accident."""

_WORD = re.compile(r"\w+")


class Leaks(NamedTuple):
    """Ids of the cases whose text stands in the prompt: in its instructions, or in one of its examples."""

    instructions: tuple[str, ...]
    examples: tuple[str, ...]


class _Text:
    """A text as runs of words, looked up in constant time."""

    def __init__(self, parts: Iterable[str]) -> None:
        self._runs: dict[int, set[tuple[str, ...]]] = {size: set() for size in range(SHORTEST, RUN + 1)}
        for part in parts:
            words = _words(part)
            for size, runs in self._runs.items():
                runs.update(tuple(words[at : at + size]) for at in range(len(words) - size + 1))

    def has(self, text: str) -> bool:
        words = _words(text)
        if len(words) < SHORTEST:
            return False
        size = min(RUN, len(words))
        return any(tuple(words[at : at + size]) in self._runs[size] for at in range(len(words) - size + 1))


def _words(text: str) -> list[str]:
    return _WORD.findall(canonical.normalise(text))


def find_leaks(prompt: Prompt, texts: Mapping[str, Iterable[str]]) -> Leaks:
    """Which cases (by id, with the texts that are sealed) stand in ``prompt``."""
    return leaks_in(prompt.system, texts)


def leaks_in(system: str, texts: Mapping[str, Iterable[str]]) -> Leaks:
    """:func:`find_leaks` for a system prompt that is not compiled."""
    instructions = _Text([without_examples(system)])
    try:
        pairs = read_examples(system)
    except InputError:
        pairs = []  # a block written by hand: then it counts as instructions
        instructions = _Text([system])
    shown = _Text(text for pair in pairs for text in (*pair.inputs.values(), pair.output))
    inside, beside = [], []
    for case, sealed in texts.items():
        parts = list(sealed)
        if any(map(instructions.has, parts)):
            inside.append(case)
        elif any(map(shown.has, parts)):
            beside.append(case)
    return Leaks(tuple(inside), tuple(beside))
