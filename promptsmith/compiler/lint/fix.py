"""Mends what can be mended with no loss: whole lines that go, and labels that are respelled. No other byte changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..clean import cleaned
from .case import Case
from .examples import respelled
from .findings import LintFinding
from .volatile import is_stamp

Edits = Mapping[int, str | None]
"""Lines by their number, as they are to be; ``None`` for one that goes."""


def edits_for(case: Case, findings: Sequence[LintFinding]) -> Edits:
    """What to change so that those of ``findings`` are gone that can be mended safely."""
    wanted = {name: {one.line for one in findings if one.code == name} for name in _MENDERS}
    edits: dict[int, str | None] = {}
    for name, mend in _MENDERS.items():
        if wanted[name]:
            edits |= {line: text for line, text in mend(case, wanted[name]).items() if line not in edits}
    return edits


def applied(text: str, edits: Edits) -> str:
    """``text`` with its lines edited; line ends are LF."""
    lines = (edits.get(number, line) for number, line in enumerate(text.split("\n"), 1))
    return "\n".join(line for line in lines if line is not None)


def _respelled(case: Case, lines: set[int]) -> dict[int, str | None]:
    text = case.system.split("\n")
    found: dict[int, str | None] = {}
    for number, written, shown, label in respelled(case):
        line = text[number - 1]
        if number in lines and written and written != shown and written[1:-1] == shown:
            found[number] = _replaced(line, written, written[0] + label + written[-1])
        elif number in lines and written.startswith('"'):
            found[number] = _replaced(line, written, json.dumps(label, ensure_ascii=False))
        elif number in lines and written:
            found[number] = _replaced(line, written, label)
    return found


def _replaced(line: str, old: str, new: str) -> str:
    before, _, after = line.rpartition(old)
    return before + new + after


def _without_chatter(case: Case, lines: set[int]) -> dict[int, str | None]:
    """What stands around the prompt, where the compiler would take the prompt out of it too (see ``clean.py``)."""
    text = case.system.split("\n")
    kept = cleaned(case.system).split("\n")
    bare = [line.rstrip() for line in text]
    start = next((at for at in range(len(bare) - len(kept) + 1) if bare[at : at + len(kept)] == kept), None)
    if start is None or not any(kept):
        return {}
    end = start + len(kept)
    outside = [number for number in range(1, len(text) + 1) if not start < number <= end]
    # The empty line end of a text file stays as it is, and so do blank lines on a side where nothing is said.
    before = [number for number in outside if number <= start] if any(map(str.strip, text[:start])) else []
    after = [number for number in outside if number > end] if any(map(str.strip, text[end:])) else []
    if after and not text[-1]:
        after = after[:-1]
    gone = before + after
    return dict.fromkeys(gone) if lines & set(gone) else {}


def _without_stamps(case: Case, lines: set[int]) -> dict[int, str | None]:
    text = case.system.split("\n")
    return dict.fromkeys(number for number in lines if number and is_stamp(text[number - 1]))


_MENDERS: Mapping[str, Callable[[Case, set[int]], dict[int, str | None]]] = {
    "meta-chatter": _without_chatter,
    "volatile": _without_stamps,
    "misspelt-output": _respelled,
}


def fixable(case: Case, findings: Iterable[LintFinding]) -> int:
    """How many of ``findings`` would be gone after a fix."""
    found = list(findings)
    return sum(finding.line in edits_for(case, [finding]) for finding in found)
