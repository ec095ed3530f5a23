"""The tasks in evals/: enough rows, no repetitions, balanced, a quarter hard, and everything loads without a note."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from rapidfuzz import fuzz

from promptsmith.contract import Labels, validator
from promptsmith.task import Example, Task, load_task

EVALS = Path(__file__).parent.parent / "evals"
NAMES = ("sentiment", "support/triage", "intent", "rewrite/plain-english")
REASONS = ("negation", "mixed", "typos", "language")


@pytest.fixture(scope="module", params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(EVALS / f"{request.param}.yaml", name=request.param)


def text(example: Example) -> str:
    return " ".join(example.inputs.values())


def test_these_are_all_tasks() -> None:
    assert sorted(NAMES) == sorted(path.relative_to(EVALS).with_suffix("").as_posix() for path in EVALS.rglob("*.yaml"))


def test_enough_rows(task: Task) -> None:
    assert len(task.examples) >= 30
    assert len(task.holdout) >= 100
    assert task.notes == ()


def test_no_two_rows_are_alike(task: Task) -> None:
    texts = [text(example) for example in (*task.examples, *task.holdout)]
    worst = max((fuzz.token_set_ratio(one, other), one, other) for one, other in itertools.combinations(texts, 2))
    assert worst[0] <= 60, worst


def kinds(task: Task, rows: Sequence[Example]) -> list[Counter[str]]:
    if isinstance(task.contract.shape, Labels):
        return [Counter(row.output for row in rows)]
    if not rows[0].json:
        return []
    return [Counter(json.loads(row.output)[key] for row in rows) for key in ("queue", "urgency")]


def test_labels_are_balanced(task: Task) -> None:
    for rows in (task.examples, task.holdout):
        for counts in kinds(task, rows):
            assert max(counts.values()) <= 2 * min(counts.values()), counts
    if isinstance(task.contract.shape, Labels):
        assert {row.output for row in task.examples} == set(task.contract.shape.labels)


def test_a_quarter_is_hard_for_a_named_reason(task: Task) -> None:
    for rows in (task.examples, task.holdout):
        hard = [row for row in rows if "hard" in row.tags]
        assert len(hard) >= len(rows) / 4
        assert all(len(row.tags) >= 2 for row in hard)
        assert set(REASONS) <= {tag for row in hard for tag in row.tags}


def test_every_output_satisfies_the_contract(task: Task) -> None:
    judge = validator(task.contract)
    for row in (*task.examples, *task.holdout):
        assert judge(row.output).ok, row


def test_intent_has_many_labels() -> None:
    shape = load_task(EVALS / "intent.yaml").contract.shape
    assert isinstance(shape, Labels)
    assert len(shape.labels) >= 12
