"""Texts of cases inside a prompt: what the prompt knows, no case can prove."""

from __future__ import annotations

from collections.abc import Iterator

from ...evals.leak import RUN, leaks_in
from .case import Case
from .findings import LintFinding


def holdout_texts(case: Case) -> Iterator[LintFinding]:
    """No text of a sealed case, neither in the instructions nor as an example. Its words are not told, only its id."""
    found = leaks_in(case.system, case.holdout)
    for name, where in (*((name, "instructions") for name in found.instructions), *((name, "examples") for name in found.examples)):
        yield LintFinding("holdout-text", 0, f"text of the sealed case {name} stands in the {where} ({_MEASURE})")


def dev_texts(case: Case) -> Iterator[LintFinding]:
    """No text of a case that scores in the instructions; nor as an example, where prompts are chosen by those scores."""
    found = leaks_in(case.system, case.dev)
    for name in found.instructions:
        yield LintFinding("dev-text", 0, f"text of the dev case {name} stands in the instructions ({_MEASURE})")
    for name in () if case.dev_shown else found.examples:
        yield LintFinding("dev-text", 0, f"the dev case {name} stands among the examples")


_MEASURE = f"{RUN} words in a row, or a shorter text whole"
