"""The conductor at a real wire: what it is asked, what of its answers is acted upon, what a solve takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from promptsmith.config import Project
from promptsmith.orchestration.solve import AsyncSolver, SolveOptions
from promptsmith.orchestration.values import Outcome

from .conducting import CHEAP, STRONG, Models, decision, done, parts, plan, settings, step
from .provider import KEY, Provider

Make = Callable[..., Project]


@pytest.fixture
def models() -> Models:
    return Models(plan(step("a"), step("b"), step("c"), step("d")))


@pytest.fixture
def provider(models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(models) as running:
        yield running


@pytest.fixture
def project(make_project: Make, provider: Provider) -> Project:
    return make_project({}, config=settings(provider))


def solve(project: Project, problem: str = "Compare four cities.", inputs: dict[str, Any] | None = None, **options: Any) -> Outcome:
    solver = AsyncSolver(project)
    try:
        return asyncio.run(solver.solve(problem, inputs, options=SolveOptions(**options)))
    finally:
        solver.store.close()


def test_four_experts_take_n_plus_one_calls_and_a_synthesis(project: Project, models: Models) -> None:
    outcome = solve(project)
    assert outcome.state == "done", outcome.why
    assert sorted(models.kinds()) == ["expert"] * 4 + ["plan", "review"]
    assert outcome.answer == "The whole answer."
    by_role = {cost.role: cost.calls for cost in outcome.costs}
    assert by_role == {"conductor": 2, "expert": 4}
