"""Which examples a search tries in a prompt: none, by coverage, nearest to failures, as unlike each other as can be."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith import Task
from promptsmith.compiler.material import Material, Options, material
from promptsmith.compiler.near import Likeness
from promptsmith.compiler.select import COMPARED, MOST, SELECTIONS, contrasting, cost, examples_for, selected
from promptsmith.config import Config
from promptsmith.task import Example

TOPICS = {
    "refund": "I want my money back for the {thing} which I bought in {town}",
    "delivery": "when will the {thing} come that I ordered to {town}",
    "praise": "what a lovely {thing} you sent to us in {town}",
}
THINGS = "lamp chair table carpet kettle toaster mirror sofa clock shelf fridge oven bench rug pillow blanket".split()  # noqa: SIM905
TOWNS = ["Paris", "Oslo", "Rome", "Bonn", "Bath", "Lyon", "Cork", "Turku"]
ROWS = [
    (say.format(thing=thing, town=TOWNS[(number + shift) % len(TOWNS)]), label)
    for number, thing in enumerate(THINGS)
    for shift, (label, say) in enumerate(TOPICS.items())
]


def source_of(rows: Sequence[tuple[Any, Any]] = ROWS, level: int = 2, output: Any = None, **options: Any) -> Material:
    task = Task(
        "Sort the letters.",
        output=output or sorted({label for _, label in rows}),
        examples=rows,
        models={"production": "openai/gpt-6-luna", "meta": "anthropic/claude-opus-5-5"},
    )
    return material(task, Config(), Options(level=level, **options))


def ids(rows: Sequence[Example]) -> list[str]:
    return [row.id for row in rows]


def failures_of(source: Material, most: int = 5) -> list[dict[str, str]]:
    return [dict(row.inputs) for row in source.examples[:most]]


def test_the_selections_and_their_names() -> None:
    assert SELECTIONS == ("none", "coverage", "nearest", "diverse")
    source = source_of()
    assert selected(source, "none", failures_of(source)) == []
    assert selected(source, "coverage") == examples_for(source)
    with pytest.raises(ValueError, match="no selection 'all', only none, coverage, nearest, diverse"):
        selected(source, "all")


words = st.lists(
    st.sampled_from(["parcel", "lamp", "money", "back", "late", "lovely", "thanks", "Oslo", "包", "裹", "!", ":)"]), min_size=1, max_size=12
).map(" ".join)
tables = st.lists(st.tuples(words, st.sampled_from("abc")), min_size=1, max_size=40, unique_by=lambda row: row[0].casefold())


@given(tables, st.sampled_from(SELECTIONS), st.integers(0, 300), st.integers(0, 3), st.lists(words, max_size=5))
def test_a_selection_is_within_its_tokens_of_the_compile_part_in_file_order_and_the_same_again(
    rows: list[tuple[str, str]], name: str, tokens: int, seed: int, failed: list[str]
) -> None:
    source = source_of(rows, output=list("abc"), seed=seed)
    failures = [{"input": text} for text in failed]
    chosen = selected(source, name, failures, tokens)
    assert sum(map(cost, chosen)) <= tokens
    position = {row.id: number for number, row in enumerate(source.examples)}
    places = [position[row.id] for row in chosen]
    assert places == sorted(set(places))
    assert name == "coverage" or len(chosen) <= MOST
    assert selected(source, name, failures, tokens) == chosen


@pytest.mark.parametrize("name", SELECTIONS)
def test_the_room_is_the_tasks_unless_told(name: str) -> None:
    small, large = source_of(example_tokens=100), source_of(example_tokens=6000)
    failures = failures_of(small)
    assert sum(map(cost, selected(small, name, failures))) <= 100
    assert selected(small, name, failures, 6000) == selected(large, name, failures)
    assert selected(large, name, failures, 0) == []


@pytest.mark.parametrize("name", SELECTIONS)
def test_no_dev_row_is_ever_chosen(name: str) -> None:
    source = source_of()
    assert source.dev
    failures = [dict(row.inputs) for row in source.dev]
    assert not {row.id for row in selected(source, name, failures)} & {row.id for row in source.dev}


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_prompt_that_is_taken_as_it_is_gets_no_examples(name: str) -> None:
    task = Task("Sort.", output=sorted(TOPICS), examples=ROWS, prompt="Sort the letters.")
    source = material(task, Config(), Options(level=0))
    assert selected(source, name, failures_of(source)) == []


def test_coverage_fills_the_room_and_the_others_stay_small() -> None:
    source = source_of()
    failures = failures_of(source)
    assert len(selected(source, "coverage")) > MOST
    assert [len(selected(source, name, failures)) for name in ("nearest", "diverse")] == [MOST, MOST]


# --- nearest ----------------------------------------------------------------------------------------------


def test_nearest_takes_the_nearest_of_each_label() -> None:
    source = source_of(level=1)
    failure = {"input": "I want my money back for the broken kettle which I bought in Oslo"}
    chosen = selected(source, "nearest", [failure], tokens=sum(cost(row) for row in source.examples[:3]) + 5)
    assert Counter(row.output for row in chosen) == {"refund": 1, "delivery": 1, "praise": 1}
    assert "kettle" in next(row.inputs["input"] for row in chosen if row.output == "refund")


def test_nearest_shows_a_failure_of_the_compile_part_itself() -> None:
    source = source_of()
    failures = failures_of(source, 4)
    chosen = selected(source, "nearest", failures)
    assert all(any(row.inputs == failure for row in chosen) for failure in failures)
    assert len({row.output for row in chosen}) == 3


def test_every_failure_has_a_turn() -> None:
    source = source_of(level=1)
    failures = [{"input": f"{thing} broken"} for thing in THINGS[:12]]
    chosen = selected(source, "nearest", failures)
    assert [sum(thing in row.inputs["input"] for row in chosen) for thing in THINGS[:12]] == [1] * 12


def test_without_a_failure_or_anything_in_common_nothing_is_near() -> None:
    source = source_of()
    assert selected(source, "nearest") == []
    assert selected(source, "nearest", [{"input": "zzz qqq"}]) == []


def test_nearest_passes_over_what_does_not_fit() -> None:
    long = "I want my money back for the kettle " + "and so on " * 300
    source = source_of([*ROWS, (long, "refund")], level=1)
    chosen = selected(source, "nearest", [{"input": long}], tokens=200)
    assert chosen
    assert long not in [row.inputs["input"] for row in chosen]


# --- diverse ----------------------------------------------------------------------------------------------


def test_diverse_balances_the_labels() -> None:
    rows = [(f"praise {number} {THINGS[number % 16]} {TOWNS[number % 8]}", "praise") for number in range(60)]
    source = source_of([*rows, *[row for row in ROWS if row[1] != "praise"]], level=1)
    assert Counter(row.output for row in selected(source, "diverse")) == {"praise": 4, "refund": 4, "delivery": 4}


def test_diverse_takes_what_is_least_like_the_chosen_ones() -> None:
    groups = ["parcel late again", "money back please", "lovely warm lamp", "password reset link"]
    rows = [(f"{group} number{number}", "a") for group in groups for number in range(8)]
    source = source_of(rows, level=1, output=["a", "b"])
    for seed in range(5):
        chosen = selected(source_of(rows, level=1, output=["a", "b"], seed=seed), "diverse", tokens=4 * cost(source.examples[0]) + 6)
        assert sorted(row.inputs["input"].rsplit(" ", 1)[0] for row in chosen) == sorted(groups)


def test_diverse_leaves_what_repeats_a_chosen_one() -> None:
    source = source_of([("Late again!", "a"), ("late, again", "a"), ("again late.", "b"), ("A lamp", "b")], level=1)
    assert len(selected(source, "diverse")) == 2


def test_diverse_depends_on_the_seed() -> None:
    assert len({tuple(ids(selected(source_of(seed=seed), "diverse", tokens=60))) for seed in range(8)}) > 1


def test_diverse_tells_kinds_of_json_answers_apart() -> None:
    rows: list[tuple[Any, Any]] = [(f"letter {number} {THINGS[number % 16]}", {"kind": "a" if number else "b"}) for number in range(30)]
    schema = {"json": {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}}
    task = Task("Extract.", output=schema, examples=rows)
    chosen = selected(material(task, Config(), Options(level=0)), "diverse", tokens=60)
    assert '{"kind": "b"}' in [row.output for row in chosen]


# --- the same everywhere ----------------------------------------------------------------------------------

_PRINT = """
from tests.test_selections import *
source = source_of()
print([ids(selected(source, name, failures_of(source))) for name in SELECTIONS])
print([(one.id, other.id) for one, other in contrasting(source.examples, seed=1)])
print([Likeness([row.inputs["input"] for row in source.examples]).to("my lamp came back late to Oslo")])
"""


def test_every_process_chooses_the_same() -> None:
    """Sets have another order in each process, and sums of floats depend on the order."""
    told = {
        subprocess.run([sys.executable, "-c", _PRINT], env={"PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, check=True).stdout
        for seed in range(3)
    }
    assert len(told) == 1


# --- contrasts and likeness -------------------------------------------------------------------------------


@given(tables, st.integers(0, 3))
def test_contrasts_have_different_outputs_and_no_example_twice(rows: list[tuple[str, str]], seed: int) -> None:
    source = source_of(rows, level=1, output=list("abc"))
    pairs = contrasting(source.examples, seed=seed)
    assert len(pairs) <= MOST
    assert all(one.output != other.output for one, other in pairs)
    used = [row.id for pair in pairs for row in pair]
    assert len(used) == len(set(used))
    assert bool(pairs) == (len({label for _, label in rows}) > 1)


def test_of_many_examples_some_are_compared() -> None:
    rows = [(f"letter {number} {THINGS[number % 16]}", "ab"[number % 2]) for number in range(COMPARED + 100)]
    source = source_of(rows, level=1)
    assert len({tuple(one.id for one, _ in contrasting(source.examples, seed=seed)) for seed in range(4)}) > 1


@given(st.lists(words, min_size=2, max_size=12))
def test_likeness_is_a_share_the_same_both_ways(texts: list[str]) -> None:
    likeness = Likeness(texts)
    for row in range(len(texts)):
        for other in range(len(texts)):
            found = likeness.between(row, other)
            assert 0 <= found <= 1
            assert found == likeness.between(other, row) == likeness.to(texts[row])[other]


def test_rare_words_weigh_more() -> None:
    likeness = Likeness(["the kettle", "the lamp", "the chair", "a kettle", "the sofa"])
    assert likeness.between(0, 3) > likeness.between(0, 1) > 0
    assert likeness.to("THE Kettle!") == [1.0, *likeness.to("the kettle")[1:]]
    assert likeness.to("!?") == [0.0] * 5
    assert Likeness(["!?", "?!"]).between(0, 1) == 0.0
