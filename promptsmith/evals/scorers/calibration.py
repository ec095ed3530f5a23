"""How far a judge agrees with people: agreement and Cohen's kappa over rows that people judged."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...chat import total_cost
from ...errors import Problem, SourceError, did_you_mean
from .judge import Judge
from .protocol import Answer, Unscored

_KEYS = ("input", "output", "expected", "human", "id")
_IN_FLIGHT = 8


class Judged(msgspec.Struct, frozen=True):
    """One row: an answer, and whether people pass it."""

    answer: Answer
    human: bool


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """How a judge did on ``rows`` rows. A row that it could not grade counts as one on which it does not agree."""

    rows: int
    agreed: int
    kappa: float | None
    """Cohen's kappa; ``None`` where it is not defined: people gave all rows the same verdict, and the judge too."""
    unscored: int
    min_kappa: float
    disagreements: tuple[str, ...] = ()
    """Ids of the rows on which judge and people differ."""
    cost: float | None = 0.0

    @property
    def agreement(self) -> float:
        """The share of rows on which judge and people agree."""
        return self.agreed / self.rows

    @property
    def may_gate(self) -> bool:
        """Whether the judge agrees with people well enough to decide about a promotion."""
        return self.kappa is not None and self.kappa >= self.min_kappa

    def words(self) -> str:
        """All of it in one line."""
        text = f"agrees with people on {self.agreed} of {self.rows} rows ({self.agreement:.0%})"
        if self.kappa is None:
            text += "; Cohen's kappa is not defined where all rows have one verdict, so the judge may not gate"
        elif self.may_gate:
            text += f", Cohen's kappa {self.kappa:.2f} (at least {self.min_kappa:g})"
        else:
            text += f", Cohen's kappa {self.kappa:.2f}, below {self.min_kappa:g}: the judge may not gate"
        return f"{text}; {self.unscored} could not be graded" if self.unscored else text


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa (Cohen 1960) of two raters' verdicts, row by row; ``None`` where chance alone would agree on all."""
    total = len(pairs)
    if not total:
        return None
    one, other = Counter(first for first, _ in pairs), Counter(second for _, second in pairs)
    observed = sum(first == second for first, second in pairs) / total
    # Whole numbers decide whether it is defined: 1 minus a sum of shares need not be 0 exactly.
    chance = sum(one[name] * other[name] for name in one)
    if chance == total * total:
        return None
    expected = chance / (total * total)
    return (observed - expected) / (1 - expected)


async def calibration(judge: Judge, rows: Sequence[Judged], *, min_kappa: float) -> Calibration:
    """Grades ``rows`` with ``judge`` and compares. The judged model is unknown there, so any judge may grade them."""
    limit = asyncio.Semaphore(_IN_FLIGHT)
    costs: list[float | None] = []

    async def verdict(row: Judged) -> str:
        async with limit:
            try:
                grade = await judge.grade(row.answer)
            except Unscored:
                return "unscored"
        costs.append(grade.cost)
        return _word(grade.passed)

    verdicts = await asyncio.gather(*map(verdict, rows))
    pairs = [(_word(row.human), found) for row, found in zip(rows, verdicts, strict=True)]
    return Calibration(
        rows=len(rows),
        agreed=sum(first == second for first, second in pairs),
        kappa=kappa(pairs),
        unscored=verdicts.count("unscored"),
        min_kappa=min_kappa,
        disagreements=tuple(row.answer.case for row, (first, second) in zip(rows, pairs, strict=True) if first != second),
        cost=total_cost(costs),
    )


def _word(passed: bool) -> str:
    return "pass" if passed else "fail"


def read_calibration(path: Path, judge: Judge) -> list[Judged]:
    """The rows of a .jsonl file ``{input, output, human}``, with an optional ``expected`` and ``id``.

    ``human`` is pass or fail, true or false, or a mark on the judge's scale. Raises :class:`SourceError` with all mistakes.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SourceError(
            [Problem(str(path), 0, f"the calibration file can't be read: {why}", "give a path relative to the task file")]
        ) from None
    rows: list[Judged] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row, problem = _row(line, number, judge)
        if row is not None:
            rows.append(row)
        else:
            problems.append(Problem(str(path), number, *problem))
    if not rows and not problems:
        problems.append(Problem(str(path), 0, "the calibration file has no rows", "write {input, output, human} rows, one a line"))
    if problems:
        raise SourceError(problems)
    return rows


def _row(line: str, number: int, judge: Judge) -> tuple[Judged | None, tuple[str, str]]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, (f"the row is not JSON ({error})", "write one JSON object a line")
    if not isinstance(found, dict):
        return None, ("the row is no object", "write {input, output, human}")
    for key in found:
        if key not in _KEYS:
            return None, (f"unknown key {key!r}", did_you_mean(key, _KEYS) or f"the keys are {', '.join(_KEYS)}")
    missing = [key for key in ("input", "output", "human") if key not in found]
    if missing:
        return None, (f"the row has no {' and no '.join(missing)}", "write {input, output, human}")
    passed = _human(found["human"], judge)
    if passed is None:
        return None, (f"human is {found['human']!r}", _marks(judge))
    inputs = found["input"] if isinstance(found["input"], Mapping) else {"input": found["input"]}
    texts = [found["output"], found.get("expected", ""), *inputs.values()]
    if not all(isinstance(text, str) for text in texts):
        return None, ("input, output and expected are texts", "write them as JSON strings; input may be an object of them")
    case = str(found.get("id", f"line {number}"))
    return Judged(Answer(case=case, inputs=inputs, expected=found.get("expected", ""), output=found["output"]), passed), ("", "")


def _human(value: Any, judge: Judge) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return {"pass": True, "fail": False}.get(value.strip().casefold())
    if judge.scale.high and isinstance(value, int | float) and judge.scale.low <= value <= judge.scale.high:
        return judge.scale.passes(value)
    return None


def _marks(judge: Judge) -> str:
    return f"write pass, fail, or a mark from {judge.scale.low} to {judge.scale.high}" if judge.scale.high else "write pass or fail"
