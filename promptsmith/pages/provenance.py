"""Where a prompt comes from, as one offline HTML file: the search with its candidates, or that there was none."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import NamedTuple

from ..compiler.search import words
from ..compiler.search.kept import Kept
from ..compiler.search.record import CandidateRecord, Gain, SearchRecord
from ..compiler.search.values import UNFINISHED
from ..evals.show.words import count, plain, shortened, visible
from . import page
from .diff import Piece, word_diff
from .frame import Frame
from .scatter import Scatter, letters, scatters

CHARACTERS = 400_000
"""Characters of all candidates' texts together; the chosen prompt's own comes on top."""
TEXT, SAID, NAME, CELL = 6_000, 1_500, 120, 24
"""Characters of one candidate's text, of what one edit said, of a name, of a case's id in a cell."""
ROW = 40
"""Characters of a name beside its row of cases."""
DEEPEST = 8
"""Levels of the lineage that are indented."""
_CELL = 10
"""Width of a case in the units of its row's drawing."""


class Cell(NamedTuple):
    """A candidate on one case: a bar whose height is the score. ``top`` and ``height`` are in percent."""

    x: int
    top: float
    height: float
    kind: str
    """``full``, ``part`` or ``none``: by score 1, between, 0."""
    says: str


class Row(NamedTuple):
    """A candidate in the heat map. ``says``: the row in words."""

    id: str
    name: str
    kind: str
    score: str
    says: str
    cells: tuple[Cell, ...]


class Hard(NamedTuple):
    """A case with how the candidates fared on it."""

    id: str
    mean: str
    solved: str
    chosen: str


class Heat(NamedTuple):
    """Candidates by cases, the hardest case first."""

    rows: tuple[Row, ...]
    cases: tuple[Hard, ...]
    width: int


class Entry(NamedTuple):
    """A candidate in the lineage."""

    candidate: CandidateRecord
    name: str
    depth: int
    score: str
    gained: str
    tone: str
    """``good``, ``bad`` or empty: whether what it gained is above or below zero."""
    said: str
    why: str
    others: tuple[str, ...]
    """Its parents but the first."""
    text: str
    diff: tuple[Piece, ...]
    """Against the first parent; empty for one without."""
    left_out: bool
    """Whether its text is not shown, because there are enough of them."""


class Share(NamedTuple):
    """A stage with its share of all that was spent, and its bar as part of the longest; in percent."""

    cells: list[str]
    percent: str
    bar: float


def html(kept: Kept, frame: Frame | None = None) -> str:
    """The page. It needs nothing else, and no script."""
    prompt, record, search = kept.prompt, kept.record, kept.prompt.provenance.search
    return page(
        "provenance.html",
        frame=frame,
        task=prompt.task,
        named=f"{kept.chosen}, from the {kept.origin}",
        made=words.made(prompt),
        system=prompt.system,
        no_search=words.no_search(prompt),
        summary=words.summarised(search) if search is not None and record is None else [],
        summary_front=words.summary_front(search) if search is not None and record is None else None,
        search=_search(record, search.record if search is not None else "") if record is not None else None,
    )


class Search(NamedTuple):
    """What the page shows of a record."""

    ended: str
    tone: str
    gains: list[tuple[str, str]]
    """Each line with its tone: ``good`` where there is a measurable gain, else ``open``."""
    facts: words.Facts
    scatters: list[Scatter]
    front: words.Table
    letters: list[str]
    stages: tuple[list[str], list[Share]]
    measure: str
    lineage: list[Entry]
    heat: Heat
    candidates: words.Table
    task: str


def _search(record: SearchRecord, digest: str) -> Search:
    named = letters(record)
    header, front = words.front_table(record)
    return Search(
        ended=words.ended(record),
        tone="open" if record.reason in UNFINISHED else "",
        gains=list(zip(words.gains(record), map(_tone, (record.over_template, record.over_description)), strict=True)),
        facts=words.searched(record, digest),
        scatters=scatters(record),
        front=(header, front),
        letters=[named[row[1]] for row in front],
        stages=_stages(record),
        measure=_measure(record),
        lineage=list(_lineage(record)),
        heat=heat(record),
        candidates=words.candidate_table(record),
        task=record.task,
    )


def _tone(gain: Gain | None) -> str:
    return "good" if gain is not None and gain.measurable else "open"


# --- cost by stage ----------------------------------------------------------------------------------------


def _measure(record: SearchRecord) -> str:
    """What the bars of the stages are shares of."""
    known = all(stage.spent.usd is not None for stage in record.stages)
    return "cost" if known and any(stage.spent.usd for stage in record.stages) else "tokens"


def _stages(record: SearchRecord) -> tuple[list[str], list[Share]]:
    header, rows = words.stage_table(record)
    dollars = _measure(record) == "cost"
    sizes = [(stage.spent.usd or 0.0) if dollars else float(stage.spent.tokens) for stage in record.stages]
    total, most = sum(sizes) or 1.0, max(sizes, default=0.0) or 1.0
    drawn = [(f"{100 * size / total:.0f}", round(100 * size / most, 2)) for size in (*sizes, 0.0)]
    return header, [Share(row, percent, bar) for row, (percent, bar) in zip(rows, drawn, strict=True)]


# --- lineage ----------------------------------------------------------------------------------------------


def _lineage(record: SearchRecord) -> Iterator[Entry]:
    room = CHARACTERS
    for placed in words.lineage(record):
        one = placed.candidate
        gained = words.step(record, one)
        parent = words.found(record, one.origin.parents[0]) if one.origin.parents else None
        text, diff = _text(one, parent)
        room -= len(text) + sum(len(piece.text) for piece in diff)
        yield Entry(
            candidate=one,
            name=shortened(visible(words.called(one.origin)), NAME),
            depth=min(placed.depth, DEEPEST),
            score=words.score(one) if one.mean is not None else "",
            gained=words.step_line(gained) if gained is not None else "",
            tone="" if gained is None or gained.difference == 0 else "good" if gained.difference > 0 else "bad",
            said=shortened(one.origin.said, SAID),
            why=shortened(one.why, SAID),
            others=one.origin.parents[1:],
            text=text if room > 0 else "",
            diff=diff if room > 0 else (),
            left_out=room <= 0,
        )


def _text(one: CandidateRecord, parent: CandidateRecord | None) -> tuple[str, tuple[Piece, ...]]:
    """The whole text, or what changed from the parent's."""
    text = shortened(one.system, TEXT)
    if parent is None:
        return text, ()
    return "", tuple(word_diff(shortened(parent.system, TEXT), text))


# --- heat map ---------------------------------------------------------------------------------------------


def heat(record: SearchRecord) -> Heat:
    """Candidates by cases: every case on which something was scored, the one with the lowest mean first."""
    rows = [one for one in record.candidates if one.scores]
    by_case = {case: [one.scores[case] for one in rows if case in one.scores] for case in record.dev_cases}
    means = {case: fmean(scores) for case, scores in by_case.items() if scores}
    cases = sorted(means, key=lambda case: means[case])  # equal ones stay in the order of the file
    chosen = words.found(record, record.chosen)
    hard = [
        Hard(
            id=case,
            mean=plain(means[case]),
            solved=f"{sum(score >= 1 for score in by_case[case])} of {len(by_case[case])}",
            chosen=f"{chosen.scores[case]:g}" if chosen is not None and case in chosen.scores else "-",
        )
        for case in cases
    ]
    # A mean of a few cases says little: who was scored on as many comes first.
    ordered = sorted(rows, key=lambda one: (-len(one.scores), -(one.mean or 0.0)))
    return Heat(tuple(_row(record, one, cases) for one in ordered), tuple(hard), _CELL * len(cases))


def _row(record: SearchRecord, one: CandidateRecord, cases: list[str]) -> Row:
    solved, partly = sum(score >= 1 for score in one.scores.values()), sum(0 < score < 1 for score in one.scores.values())
    missing = len(cases) - len(one.scores)
    return Row(
        id=one.id,
        name=shortened(visible(words.called(one.origin)), ROW),
        kind="chosen" if one.id == record.chosen else "",
        score=plain(one.mean),
        says=f"{count(solved, 'case')} solved, {partly} in part, {len(one.scores) - solved - partly} not"
        + (f", {missing} not scored" if missing else ""),
        cells=tuple(_cell(place, case, one.scores[case]) for place, case in enumerate(cases) if case in one.scores),
    )


def _cell(place: int, case: str, score: float) -> Cell:
    height = round(100 * min(max(score, 0.0), 1.0))
    kind = "full" if height == 100 else "part" if height else "none"
    shown = max(height, 12)  # a score of 0 was scored: it is seen as a line
    return Cell(_CELL * place, 100 - shown, shown, kind, f"{shortened(case, CELL)}: {score:g}")
