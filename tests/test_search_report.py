"""What a search says of itself when calls fail, answers are no use, or an engine is asked for what it does not do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from promptsmith.compiler.search.words import tried
from promptsmith.config import find_project
from promptsmith.errors import InputError, RequestRefused
from promptsmith.savings import compile_cost
from promptsmith.store.folder import open_store

from .searching import BIG, SMALL, WORDS, Model, a_task, answers, big, compiled, drafted, label_of, number, small, writes


def test_calls_that_fail_make_no_prompt_a_cheap_one() -> None:
    """A failed call took no tokens, and a mean that counted it as none would put what fails on the front and let ``cost`` choose it."""

    def says(system: str, text: str) -> object:
        if "Answer with one label" in system and number("fails", text) % 2:
            return RequestRefused("no", status=400)
        return answers(system, text)

    found = compiled(a_task(60), production=small(says))
    record = found.record
    drafts = [one for one in record.candidates if one.origin.kind == "draft" and one.tokens_per_call is not None]
    assert drafts
    for one in (*drafts, found.template):
        assert one.tokens_per_call is not None
        assert one.tokens_per_call >= one.tokens


def test_what_never_answered_is_not_said_to_cost_nothing() -> None:
    found = compiled(a_task(60), production=small(lambda *_: RequestRefused("no", status=400)))
    for one in found.record.candidates:
        if one.tokens_per_call is not None:
            assert one.tokens_per_call == one.tokens
            assert one.usd_per_1k is None


@pytest.mark.parametrize("engine", ["promptsmith", "gepa"])
def test_answers_that_are_no_use_are_counted_over_all_rounds(engine: str) -> None:
    refused = "I can't help with that."
    meta = big(lambda system, turns, sample: refused if "<diagnosis>" in system else writes(system, turns, sample))
    found = compiled(a_task(60), 3, meta=meta, engine=engine, max_calls=400)
    edits = [one for one in found.big.asked if "<diagnosis>" in one.system]
    first = [one for one in edits if len(one.turns) == 1]
    assert len(first) > 4
    (note,) = [one for one in found.record.notes if "could not be used (reflection)" in one]
    assert note.startswith(f"{len(first)} answers of the meta-model could not be used (reflection): it has faults")


@pytest.mark.parametrize("level", [2, 3])
def test_what_a_search_took_is_what_savings_pays_back(tmp_path: Path, level: int) -> None:
    """Every stage of it, drafts and answers both: the ledger calls all of them a compile."""
    record = compiled(a_task(60), level, folder=tmp_path).record
    with open_store(find_project(tmp_path)) as store:
        paid = compile_cost(store.ledger.rows(), "notes", level=level)
    assert (paid.calls, paid.failed) == (record.spent.calls, 0)
    assert paid.usd == pytest.approx(record.spent.usd)
    assert len(record.stages) > 2


def test_examples_move_with_the_instructions() -> None:
    """An edit keeps its parent's examples, gets failures added, has them chosen anew, or loses them all."""
    ways = dict[str, int]()
    for seed in range(6):
        found = compiled(a_task(60, seed=seed), 3, seed=seed)
        compile_part = {one for each in found.record.candidates for one in each.practice}
        for one in found.record.candidates:
            if one.origin.kind != "reflection":
                continue
            parent = found.record.candidate(one.origin.parents[0])
            way = one.origin.selection
            ways[way] = ways.get(way, 0) + 1
            if way == "kept":
                assert one.shown == parent.shown
            elif way == "none":
                assert one.shown == ()
            elif way == "added":
                added = set(one.shown) - set(parent.shown)
                assert set(parent.shown) <= set(one.shown)
                assert len(added) <= 4
                assert all(parent.practice[name] < 1 for name in added), "what is added is what it failed on"
                assert added <= compile_part
    assert set(ways) == {"kept", "added", "nearest", "none"}, ways


def test_fewer_candidates_than_usual_are_explained() -> None:
    few, many = compiled(a_task(24)), compiled(a_task(120))
    (note,) = few.record.notes
    assert note == f"4 candidates instead of 16: {len(few.record.dev_cases)} dev cases tell no more apart, 40 would"
    assert note in few.prompt.provenance.notes
    assert not many.record.notes
    assert not compiled(a_task(24), candidates=4).record.notes, "it was asked for"


def test_as_many_candidates_as_are_asked_for() -> None:
    """More than the usual drafts make with all selections of examples: then more drafts are asked for."""

    def another(system: str, turns: Sequence[str], sample: int) -> str:
        return drafted([word for n, word in enumerate(WORDS) if number("more", system, sample, n) % 4 == 0], f"Think {sample} times.")

    found = compiled(a_task(120), candidates=50, meta=big(another))
    first = [one for one in found.big.asked if len(one.turns) == 1]
    assert len(first) == 13
    raced = [one for one in found.record.candidates if one.origin.kind == "draft" and one.scores]
    assert len(raced) == 50


def test_what_was_tried_is_counted_by_what_became_of_it() -> None:
    """Nothing is called scored that was not, and a baseline is one when it is chosen too."""
    none = compiled(a_task(60), 3, max_calls=0).record
    assert tried(none) == f"2 candidates on {len(none.dev_cases)} dev cases: 2 baselines"
    perfect = compiled(a_task(60), 3, production=small(lambda _, text: label_of(text))).record
    assert tried(perfect).endswith(": 2 baselines")
    for limit in (60, 120, 200, 800):
        record = compiled(a_task(60), 3, max_calls=limit).record
        numbers = [int(part.split()[0]) for part in tried(record).partition(": ")[2].split(", ")]
        assert sum(numbers) == len(record.candidates)


def test_an_engine_that_edits_is_for_the_level_that_edits(tmp_path: Path) -> None:
    def unasked(name: str) -> Model:
        return Model(name, lambda _: AssertionError("nobody is asked"))

    with pytest.raises(InputError, match=r"the engine gepa edits prompts, and -O2 \(asked for\) edits none") as raised:
        compiled(a_task(60), 2, engine="gepa", production=unasked(SMALL), meta=unasked(BIG), folder=tmp_path)
    assert raised.value.hint == "compile with -O3, or take the engine out"
