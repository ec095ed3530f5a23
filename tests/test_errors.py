"""The error tree: its drawing is true, and every error is worded for a person."""

from __future__ import annotations

import pickle

import pytest

from promptsmith import errors
from promptsmith.errors import ContractError, Problem, PromptsmithError, SourceError, did_you_mean


def drawn() -> set[tuple[str, str]]:
    """(child, parent) for each class that the module's docstring draws."""
    assert errors.__doc__ is not None
    block = errors.__doc__.partition("::")[2].partition("``exit_code``")[0]
    edges: set[tuple[str, str]] = set()
    above: list[tuple[int, str]] = []
    for line in filter(str.strip, block.splitlines()):
        name = line.strip("│├└─ ")
        column = line.index(name)
        above = [(place, other) for place, other in above if place < column]
        edges.add((name, above[-1][1] if above else "Exception"))
        above.append((column, name))
    return edges


def defined() -> set[tuple[str, str]]:
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PromptsmithError)]
    return {(kind.__name__, base.__name__) for kind in kinds for base in kind.__bases__}


def test_the_drawn_tree_is_the_class_tree() -> None:
    assert drawn() == defined()
    assert len(drawn()) > 10


def test_siblings_are_drawn_in_order() -> None:
    """A sorted drawing gives a new class one right place."""
    assert errors.__doc__ is not None
    top = [line.strip("│├└─ ") for line in errors.__doc__.splitlines() if line.startswith(("    ├", "    └"))]
    assert top == sorted(top)


@pytest.mark.parametrize("name", sorted(child for child, _ in defined()))
def test_every_error_says_how_a_command_ends_and_is_documented(name: str) -> None:
    kind = getattr(errors, name)
    assert kind.exit_code in {1, 2, 3, 4, 5}
    assert isinstance(kind.retryable, bool)
    assert kind.__doc__
    assert kind.__doc__.strip().split("\n")[0].endswith((".", "``"))


def test_a_hint_stands_on_its_own_line() -> None:
    assert str(PromptsmithError("no such thing", hint="make one")) == "no such thing\n  hint: make one"
    assert str(PromptsmithError("no such thing")) == "no such thing"


def test_a_contract_error_keeps_reasons_and_text() -> None:
    error = ContractError("broken", reasons=["too long"], text="long")
    assert (error.reasons, error.text, error.exit_code) == (("too long",), "long", 1)


def test_a_source_error_lists_its_problems_by_line_and_each_once() -> None:
    first, second = Problem("a.yaml", 2, "wrong", "write it right"), Problem("a.yaml", 11, "also wrong")
    error = SourceError([second, first, first])
    assert error.problems == (first, second)
    assert str(error) == "a.yaml:2: wrong, write it right\na.yaml:11: also wrong"


def test_a_problem_of_a_whole_file_names_no_line() -> None:
    assert str(Problem("a.yaml", 0, "there is no such file")) == "a.yaml: there is no such file"


def test_did_you_mean_names_only_what_is_near() -> None:
    assert did_you_mean("sentimant", ["sentiment", "triage"]) == "did you mean 'sentiment'?"
    assert did_you_mean("zzz", ["sentiment", "triage"]) == ""
    assert did_you_mean("x", []) == ""


def test_errors_cross_process_borders() -> None:
    """A process pool hands errors over as pickles; one that can't be unpickled breaks the whole pool."""
    for error in (
        PromptsmithError("a", hint="b"),
        ContractError("a", reasons=["r"], text="t", hint="h"),
        SourceError([Problem("f", 1, "w", "r")]),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
