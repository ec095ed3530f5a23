"""``-O2`` and ``-O3``: what the engine asks, scores, keeps and writes down, on models whose answers depend on the prompt."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import pytest
from click.testing import Result as Ended
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.chat import Request
from promptsmith.compiler.draft import meta_prompt
from promptsmith.compiler.material import Material, Options, material
from promptsmith.compiler.search.kept import record_of
from promptsmith.compiler.search.pareto import Point, front
from promptsmith.compiler.search.record import CandidateRecord, SearchRecord
from promptsmith.compiler.search.sizes import DRAFTS, FINALISTS, default_candidates, rungs
from promptsmith.compiler.search.strategies import STRATEGIES, strategies_for, system_of
from promptsmith.compiler.search.words import told_search
from promptsmith.compiler.select import SELECTIONS, cost
from promptsmith.compiler.template import instructions_of
from promptsmith.config import Config, Project
from promptsmith.errors import InputError
from promptsmith.evals.vocabulary import load_suite_task
from promptsmith.prompt import read_examples
from promptsmith.registry.lock import LockFile
from promptsmith.render import Renderer
from promptsmith.store.folder import open_store
from promptsmith.task import Example, Task
from tests.provider import KEY, Provider

from .searching import (
    ALONE,
    BIG,
    LABELS,
    PRICES,
    SMALL,
    WORDS,
    Found,
    Model,
    a_task,
    answers,
    between,
    big,
    compiled,
    drafted,
    endpoint,
    label_of,
    letters,
    lines_of,
    number,
    rows,
    rule,
    served,
    small,
    task_file,
    text_of,
    writes,
)

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
JUDGE = "toy/judge"


def source_of(task: Task, level: int = 2, **options: Any) -> Material:
    return material(task, Config(), Options(level=level, **options))


def candidates(found: Found, kind: str) -> list[CandidateRecord]:
    return [one for one in found.record.candidates if one.origin.kind == kind]


def asked_with(found: Found, one: CandidateRecord) -> list[str]:
    """The inputs that the production model was given with this candidate."""
    return [request.turns[-1].text for request in found.small.asked if request.system == one.system]


def drafts_asked(found: Found) -> list[Request]:
    return [one for one in found.big.asked if len(one.turns) == 1 and one.system != meta_prompt("reflection")]


def reflections_asked(found: Found) -> list[Request]:
    return [one for one in found.big.asked if one.system == meta_prompt("reflection")]


# --- drafts -----------------------------------------------------------------------------------------------


def test_drafts_are_written_by_distinct_strategies() -> None:
    task = a_task(60)
    found = compiled(task)
    strategies = strategies_for(source_of(task))
    assert len(strategies) >= 4
    asked = [one.system for one in drafts_asked(found)]
    assert len(asked) == min(DRAFTS[2], default_candidates(2, len(found.record.dev_cases)))
    assert set(asked) == {system_of(one) for one in strategies}, "every strategy that fits the task has a turn"
    assert max(Counter(asked).values()) - min(Counter(asked).values()) <= 1
    named = {one.origin.strategy for one in candidates(found, "draft")} - {"template"}
    assert named == {one.name for one in strategies} <= {one.name for one in STRATEGIES}
    # One that is asked twice is asked for another draft.
    assert len({(one.system, one.sample) for one in drafts_asked(found)}) == len(asked)


def test_drafts_from_errors_see_what_the_plain_template_got_wrong() -> None:
    task = a_task(60)
    found = compiled(task)
    source = source_of(task)
    shown = {row.inputs["input"]: row.output for row in source.examples}
    plain = next(one for one in candidates(found, "draft") if one.origin.strategy == "template")
    told = [one for one in drafts_asked(found) if meta_prompt("error_driven").strip() in one.system]
    assert told
    for request in told:
        lines = lines_of("failures", request.turns[0].text)
        assert lines
        for line in lines:
            assert shown[line["input"]] == line["expected"] != line["output"] == answers(plain.system, line["input"])


def test_drafts_are_combined_with_selections_of_examples() -> None:
    found = compiled(a_task(100), candidates=20)
    made = [one for one in candidates(found, "draft") if one.origin.strategy != "template"]
    assert {one.origin.selection for one in made} == set(SELECTIONS)
    assert all(bool(one.shown) == (one.origin.selection != "none") for one in made)
    for strategy in {one.origin.strategy for one in made}:
        assert len({one.origin.selection for one in made if one.origin.strategy == strategy}) > 1
    for one in made:
        assert len(read_examples(one.system)) == len(one.shown)


def test_identical_drafts_are_one_candidate() -> None:
    found = compiled(a_task(60), meta=big(lambda *_: drafted(["crash", "refund"])))
    made = [one for one in candidates(found, "draft") if one.origin.strategy != "template"]
    assert len(drafts_asked(found)) > 1
    assert {instructions_of(one.system) for one in made} == {drafted(["crash", "refund"])}
    assert len([one for one in made if not one.shown]) == 1
    systems = [one.system for one in found.record.candidates]
    assert len(set(systems)) == len(systems), "and no text takes part twice"
    calls = Counter((one.system, one.turns[-1].text) for one in found.small.asked)
    assert max(calls.values()) == 1


FAULTY = "Sort the note: {input}. Answer with billing or bug."


def test_a_draft_with_faults_is_repaired_once() -> None:
    """The lint's findings are told; what is right then takes part."""

    def says(system: str, turns: Sequence[str], sample: int) -> str:
        return FAULTY if len(turns) == 1 else writes(system, turns[:1], sample)

    found = compiled(a_task(60), meta=big(says))
    first, again = drafts_asked(found), [one for one in found.big.asked if len(one.turns) > 1]
    assert len(again) == len(first) > 0
    for request in again:
        assert [turn.role for turn in request.turns] == ["user", "assistant", "user"]
        assert request.turns[1].text == FAULTY
        assert "praise" in request.turns[2].text and "{input}" in request.turns[2].text, "what is missing, and what is left over"
    assert FAULTY not in {instructions_of(one.system) for one in found.record.candidates}
    assert len(candidates(found, "draft")) > 2


def test_a_draft_that_stays_faulty_does_not_take_part() -> None:
    found = compiled(a_task(60), meta=big(lambda *_: FAULTY))
    assert Counter(len(one.turns) for one in found.big.asked) == {1: 8, 3: 8}, "one repair each, and no more"
    assert not [one for one in found.record.candidates if "{input}" in one.system]
    assert any("8 answers of the meta-model could not be used" in note for note in found.record.notes)
    assert found.prompt.provenance.notes == found.compiled.notes == found.record.notes
    assert found.prompt.system == found.template.system
    assert any("no gain over -O0: it is what was chosen" in line for line in told_search(found.record))


# --- scoring ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [2, 3])
def test_candidates_are_scored_on_dev_alone_by_the_production_model(level: int) -> None:
    task = a_task(60)
    found, source = compiled(task, level), source_of(task, level)
    dev = {row.id: row for row in source.dev}
    texts = {row.inputs["input"]: row for row in source.dev}
    assert set(found.record.dev_cases) == set(dev)
    assert {one.model for one in found.small.asked} == {SMALL}
    for one in found.record.candidates:
        assert set(one.scores) <= set(dev)
        asked = [text for text in asked_with(found, one) if text in texts]
        assert sorted(texts[text].id for text in asked) == sorted(one.scores), "each dev case is asked once, and scored"
        for case, score in one.scores.items():
            assert score == float(answers(one.system, dev[case].inputs["input"]) == dev[case].output)


GRADER = '''
"""Length counts."""

def short(output, expected):
    return {"score": 1.0 if output == expected else 0.25 if len(output) < 12 else 0.0, "why": f"graded {output!r} by mine.py"}
'''


def test_a_python_function_can_be_the_scorer(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GRADER)
    task = a_task(60, scorers=[{"python": "mine.py:short"}], folder=tmp_path)
    found = compiled(task, 3, folder=tmp_path)
    scores = {score for one in found.record.candidates for score in one.scores.values()}
    assert scores == {0.0, 0.25, 1.0}
    asked = "\n".join(request.turns[0].text for request in reflections_asked(found))
    assert "by mine.py" in asked, "the scorer's reasons reach the meta-model"


def test_an_answer_that_breaks_the_contract_is_worth_nothing(tmp_path: Path) -> None:
    """Whatever the scorer thinks of it."""
    (tmp_path / "mine.py").write_text("def fine(output):\n    return 1.0\n")
    task = a_task(60, scorers=[{"python": "mine.py:fine"}], folder=tmp_path)
    found = compiled(task, folder=tmp_path)
    texts = {row.id: row.inputs["input"] for row in source_of(a_task(60)).dev}
    scores = [(score, answers(one.system, texts[case])) for one in found.record.candidates for case, score in one.scores.items()]
    assert {score for score, _ in scores} == {0.0, 1.0}
    assert all(score == float("could be" not in said) for score, said in scores)


def judged(request: Request) -> str:
    """Likes answers that are a label alone."""
    liked = not re.search("could be", request.turns[-1].text)
    return json.dumps({"reason": "a label should stand alone", "score": "pass" if liked else "fail"})


def free_text_task(scorers: Sequence[object], count: int = 60, **more: Any) -> Task:
    return a_task(count, output="text", scorers=scorers, **more)


def test_a_judge_can_be_the_scorer() -> None:
    judge = Model(JUDGE, judged)
    task = free_text_task([{"judge": {"model": JUDGE, "criteria": "A label stands alone."}}])
    found = compiled(task, more={JUDGE: judge}, config=PRICES + f"[prices.'{JUDGE}']\ninput = 1\noutput = 4\n")
    assert judge.asked
    for one in found.record.candidates:
        texts = {row.id: row.inputs["input"] for row in source_of(task).dev}
        for case, score in one.scores.items():
            assert score == float("could be" not in answers(one.system, texts[case]))
    spent = found.record.spent
    assert spent.calls == len(found.small.asked) + len(found.big.asked) + len(judge.asked), "judges count"


def test_a_weighted_mix_of_scorers() -> None:
    scorers = [{"exact": {"weight": 3}}, {"word_limit": {"max": 3, "weight": 1}}]
    task = free_text_task(scorers)
    found, source = compiled(task), source_of(task)
    rows_by_id = {row.id: row for row in source.dev}
    for one in found.record.candidates:
        for case, score in one.scores.items():
            said = answers(one.system, rows_by_id[case].inputs["input"])
            assert score == (3 * (said == rows_by_id[case].output) + (len(said.split()) <= 3)) / 4
    assert {0.0, 0.25, 1.0} <= {score for one in found.record.candidates for score in one.scores.values()}


def test_a_pairwise_judge_compares_with_the_answer_of_the_template() -> None:
    """The baseline answer is the ``-O0`` prompt's to the same case."""
    seen: list[str] = []

    def prefers_shorter(request: Request) -> str:
        text = request.turns[-1].text
        seen.append(text)
        one, two = between("first", text), between("second", text)
        better = "tie" if len(one) == len(two) else "first" if len(one) < len(two) else "second"
        return json.dumps({"reason": "the shorter one", "score": better})

    judge = Model(JUDGE, prefers_shorter)
    scorers = [{"judge": {"model": JUDGE, "criteria": "Short.", "pairwise": True, "against": "baseline", "pass": "tie"}}]
    task = free_text_task(scorers)
    found = compiled(task, more={JUDGE: judge})
    template = found.template.system
    texts = {row.id: row.inputs["input"] for row in source_of(task).dev}
    for one in found.record.candidates:
        for case, score in one.scores.items():
            ours, theirs = answers(one.system, texts[case]), answers(template, texts[case])
            assert score == (0.5 if len(ours) == len(theirs) else float(len(ours) < len(theirs)))
    assert seen
    assert set(found.template.scores.values()) == {0.5}, "it ties with itself"


# --- the race ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_race_compares_on_the_very_same_cases(level: int, seed: int) -> None:
    """Growing beginnings of one order: whoever was scored on so many cases was scored on the same ones."""
    record = compiled(a_task(100, seed), level, seed=seed).record
    sets = sorted({frozenset(one.scores) for one in record.candidates}, key=len)
    assert len({len(cases) for cases in sets}) == len(sets) >= 3
    for less, more in pairwise(sets):
        assert less < more
    assert {len(cases) for cases in sets if cases} <= set(rungs(len(record.dev_cases), len(record.dev_cases)))


def test_the_better_half_goes_on_and_bad_candidates_cost_little() -> None:
    found = compiled(a_task(100), candidates=16)
    record = found.record
    raced = [one for one in candidates(found, "draft") if one.origin.strategy != "template"]
    first = min(len(one.scores) for one in raced)
    assert first == rungs(len(record.dev_cases), 16)[0] == 8
    early = [one for one in raced if len(one.scores) == first]
    assert len(early) >= len(raced) // 2
    assert all(len(asked_with(found, one)) == first for one in early), "nothing else was asked of them"
    for size in sorted({len(one.scores) for one in raced})[:-1]:
        cases = next(set(one.scores) for one in raced if len(one.scores) == size)
        left = [fmean(one.scores[case] for case in cases) for one in raced if len(one.scores) == size]
        stayed = [fmean(one.scores[case] for case in cases) for one in raced if len(one.scores) > size]
        assert len(stayed) == max(FINALISTS, (len(left) + len(stayed) + 1) // 2)
        assert max(left) <= min(stayed)
    in_full = len(record.dev_cases) * len(raced)
    assert sum(len(one.scores) for one in raced) < 0.5 * in_full


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_template_and_bare_description_are_always_scored_in_full(level: int, seed: int) -> None:
    task = a_task(70, seed)
    record = compiled(task, level, seed=seed).record
    by_kind = {one.origin.kind: one for one in record.candidates if one.state in ("baseline", "chosen")}
    for kind in ("template", "description"):
        assert set(by_kind[kind].scores) == set(record.dev_cases)  # type: ignore[index]
    assert by_kind["description"].system == task.description
    shown = set(by_kind["template"].shown)
    assert shown and not shown & set(record.dev_cases), "the -O0 prompt of the compile part"


def test_a_template_without_examples_is_still_the_baseline() -> None:
    """It is the plain template that drafts from errors are shown failures of."""
    record = compiled(a_task(60), example_tokens=0).record
    template = next(one for one in record.candidates if one.origin.kind == "template")
    assert (template.state, template.why, template.shown) == ("baseline", "", ())
    assert len(template.scores) == len(record.dev_cases)


@pytest.mark.parametrize("level", [2, 3])
def test_a_prompt_written_by_hand_takes_part_as_it_is(level: int) -> None:
    by_hand = drafted(list(WORDS)[:11], ALONE)
    found = compiled(a_task(60, prompt=by_hand), level, meta=big(lambda *_: drafted([])), production=small(strict), example_tokens=0)
    (start,) = candidates(found, "start")
    assert (start.system, len(start.scores)) == (by_hand, len(found.record.dev_cases))
    assert (found.record.candidate(found.record.chosen).mean or 0) >= (start.mean or 0)
    asked = drafts_asked(found)
    assert asked and all(between("current_prompt", one.turns[0].text) == by_hand for one in asked)


# --- -O3 --------------------------------------------------------------------------------------------------


def strict(system: str, text: str) -> str:
    """No luck: what the prompt does not say is answered wrongly."""
    word = next(word for word in WORDS if word in text)
    return WORDS[word] if word in system else next(label for label in LABELS if label != WORDS[word])


def some_drafts(*texts: str) -> Callable[[str, Sequence[str], int], str]:
    """A meta-model whose drafts are these in turn, by strategy; whose edits change nothing that matters."""

    def says(system: str, turns: Sequence[str], sample: int) -> str:
        if system == meta_prompt("reflection"):
            return "I would not know what to change."
        place = next(place for place, one in enumerate(STRATEGIES) if meta_prompt(one.name).strip() in system)
        return texts[place % len(texts)]

    return says


def parents_asked(found: Found) -> set[str]:
    """The instructions that the meta-model was asked to edit."""
    return {between("current_prompt", one.turns[0].text) for one in reflections_asked(found)}


def test_parents_come_from_the_front_over_cases() -> None:
    """A specialist is bred from though its mean is lower; what another one does as well everywhere and better somewhere is not."""
    words = list(WORDS)
    broad, special, beaten = drafted(words[:6]), drafted(words[6:10]), drafted(words[:2])
    parents: set[str] = set()
    for seed in range(6):
        meta = big(some_drafts(broad, special, beaten, drafted([])))
        found = compiled(a_task(100), 3, seed=seed, example_tokens=0, production=small(strict), meta=meta)
        parents |= parents_asked(found)
    assert parents == {broad, special}


def test_examples_and_minibatches_come_from_the_compile_part_alone() -> None:
    task = a_task(100)
    found, source = compiled(task, 3), source_of(task, 3)
    compile_ids = {row.id for row in source.examples}
    dev_texts = {row.inputs["input"] for row in source.dev}
    assert candidates(found, "reflection")
    for one in found.record.candidates:
        assert set(one.shown) <= compile_ids
        assert set(one.practice) <= compile_ids
        assert {pair.inputs["input"] for pair in read_examples(one.system)}.isdisjoint(dev_texts)
    assert any(one.practice for one in candidates(found, "reflection"))
    assert any(one.shown for one in found.record.candidates)


def all_said(requests: Iterable[Request]) -> str:
    return msgspec.json.encode(list(requests)).decode()


@given(st.integers(0, 19), st.sampled_from([2, 3]), st.sampled_from(["labels", "text"]))
@settings(max_examples=12)
def test_dev_and_holdout_texts_go_nowhere(seed: int, level: int, shape: str) -> None:
    """No dev text in any request to the meta-model nor in a prompt; no holdout text in any request at all."""
    more: dict[str, Any] = {"output": "text", "scorers": ["exact"]} if shape == "text" else {}
    task = a_task(60, seed, holdout=rows(20, seed, first=500), **more)
    found, source = compiled(task, level, seed=seed), source_of(task, level)
    dev = [letters(seed, n) for n in range(60) if text_of(n, seed) in {row.inputs["input"] for row in source.dev}]
    sealed = [letters(seed, n) for n in range(500, 520)]
    assert len(dev) == len(source.dev)
    to_meta, to_production = all_said(found.big.asked), all_said(found.small.asked)
    prompts = "\n".join([found.prompt.system, *(one.system for one in found.record.candidates)])
    assert [word for word in dev if word in to_meta or word in prompts] == []
    assert [word for word in sealed if word in to_meta or word in to_production or word in prompts] == []
    assert [word for word in sealed if word in msgspec.json.encode(found.record).decode()] == []
    assert all(word in to_production for word in dev[:8]), "the test can fail: dev texts are asked"


def test_failures_reasons_and_contract_breaks_reach_the_meta_model() -> None:
    task = a_task(100)
    found = compiled(task, 3)
    expected = {row.inputs["input"]: row.output for row in source_of(task, 3).examples}
    lines = [line for one in reflections_asked(found) for line in lines_of("failures", one.turns[0].text)]
    assert lines
    for line in lines:
        assert expected[line["input"]] == line["expected"]
        assert line["why"]
    broken = [line for line in lines if "could be" in line["output"]]
    wrong = [line for line in lines if line["output"] in LABELS]
    assert broken and wrong
    assert all("label" in line["why"] for line in broken), broken[0]
    assert all(line["expected"] in line["why"] for line in wrong), wrong[0]
    said = {one.origin.said for one in candidates(found, "reflection")}
    assert any("It has no rule for" in text for text in said), "and its diagnosis is kept"


def test_near_misses_reach_the_meta_model() -> None:
    """Right, but in another spelling than the contract's."""

    def shouts(system: str, text: str) -> str:
        said = answers(system, text)
        return said.upper() if number("loud", text) % 2 else said

    found = compiled(a_task(100), 3, production=small(shouts))
    lines = [line for one in reflections_asked(found) for line in lines_of("near_misses", one.turns[0].text)]
    assert lines
    assert all(line["output"] == line["expected"].upper() for line in lines)


def test_instructions_and_examples_move_together() -> None:
    both = 0
    for seed in range(4):
        found = compiled(a_task(100, seed), 3, seed=seed)
        for one in candidates(found, "reflection"):
            parent = found.record.candidate(one.origin.parents[0])
            assert instructions_of(one.system) != instructions_of(parent.system) or one.shown != parent.shown
            both += instructions_of(one.system) != instructions_of(parent.system) and one.shown != parent.shown
    assert both


def test_an_edit_that_is_no_better_on_its_minibatch_is_not_scored() -> None:
    def spoils(system: str, turns: Sequence[str], sample: int) -> str:
        if system == meta_prompt("reflection"):
            return f"<diagnosis>Less is more.</diagnosis><prompt>{drafted([list(WORDS)[sample]])}</prompt>"
        return drafted(list(WORDS)[:8])

    found = compiled(a_task(100), 3, production=small(strict), meta=big(spoils), example_tokens=0)
    edits = candidates(found, "reflection")
    assert edits
    for one in edits:
        assert (one.state, dict(one.scores)) == ("rejected", {})
        assert "no better than its parent" in one.why
        assert one.practice
    assert found.record.reason == "plateau"


def test_of_the_edits_of_a_round_the_best_one_goes_on() -> None:
    words = list(WORDS)
    edits = (drafted(words[:5], "Say it plainly."), drafted(words))

    def says(system: str, turns: Sequence[str], sample: int) -> str:
        if system == meta_prompt("reflection"):
            return f"<diagnosis>Say more.</diagnosis><prompt>{edits[sample]}</prompt>"
        return drafted(words[:4])

    found = compiled(a_task(100), 3, production=small(strict), meta=big(says), example_tokens=0)
    first = {one.system: one for one in candidates(found, "reflection") if one.origin.round == 1}
    assert set(first) == set(edits)
    assert first[edits[1]].scores
    assert not first[edits[0]].scores and first[edits[0]].state == "rejected"


@pytest.mark.parametrize("tokens", [0, 60])
def test_no_candidate_holds_more_examples_than_the_user_allows(tokens: int) -> None:
    for seed in range(4):
        found = compiled(a_task(100, seed), 3, seed=seed, example_tokens=tokens)
        for one in found.record.candidates:
            assert sum(cost(row) for row in source_of(a_task(100, seed), 3).examples if row.id in one.shown) <= tokens
    assert candidates(found, "reflection")


def right(one: CandidateRecord, row: Example) -> bool:
    return answers(one.system, row.inputs["input"]) == row.output


@pytest.mark.parametrize("seed", range(4))
def test_an_edit_is_accepted_only_if_better_and_then_scored(seed: int) -> None:
    found = compiled(a_task(100, seed), 3, seed=seed)
    edits = candidates(found, "reflection")
    taken = [one for one in edits if one.scores]
    assert taken and any("kept" in one.origin.selection for one in taken)
    compile_part = {row.inputs["input"]: row for row in source_of(a_task(100, seed), 3).examples}
    for one in taken:
        proof = [compile_part[text] for text in takewhile(compile_part.__contains__, asked_with(found, one))]
        (parent,) = (found.record.candidate(name) for name in one.origin.parents)
        gained = [right(one, row) - right(parent, row) for row in proof if row.id not in one.shown]
        assert proof and sum(gained) > 0
    for one in edits:
        if not one.scores:
            assert one.state == "rejected" and one.why
    # At most one edit of a round goes on.
    assert max(Counter(one.origin.round for one in taken).values()) == 1


def test_reflection_finds_what_drafts_do_not_say() -> None:
    """Rules for all that failed: from half of the words to nearly all."""
    raced, found = (compiled(a_task(100), level, example_tokens=0) for level in (2, 3))
    assert (found.record.candidate(found.record.chosen).mean or 0) > (raced.record.candidate(raced.record.chosen).mean or 0) + 0.2
    assert found.record.over_template is not None and found.record.over_template.measurable


def test_a_shrink_keeps_only_deletions_that_cost_nothing() -> None:
    padding = [f"Remember to stay calm and friendly in all that you do, part {word}." for word in ("one", "two", "three", "four")]
    complete = drafted(list(WORDS)[:9], ALONE, *padding)
    found = compiled(a_task(100), 3, production=small(strict), meta=big(some_drafts(complete)), example_tokens=0)
    shrunk = candidates(found, "shrink")
    assert shrunk
    scored = [one for one in found.record.candidates if one.mean is not None and len(one.scores) == len(found.record.dev_cases)]
    before = max(one.mean or 0 for one in scored if one.origin.kind != "shrink")
    chosen = found.record.candidate(found.record.chosen)
    assert chosen.origin.kind == "shrink" and chosen.mean == before
    kept = {name for one in shrunk for name in one.origin.parents if found.record.candidate(name).origin.kind == "shrink"} | {chosen.id}
    for name in kept:
        assert (found.record.candidate(name).mean or 0) >= before
    assert not any(line in found.prompt.system for line in padding), "what no answer needs is gone"
    needed = [word for word in list(WORDS)[:9] if any(word in text for text in asked_with(found, chosen))]
    assert all(rule(word) in found.prompt.system for word in needed), "and what answers need is there"
    lost = [one for one in shrunk if "lost" in one.why]
    assert lost and all(len(one.scores) < len(found.record.dev_cases) for one in lost)


def test_a_shrink_does_not_trade_a_single_case() -> None:
    """A sentence that one dev case alone needs stays, though the first cases do not show it."""
    only = source_of(a_task(100), 3).dev[-1].inputs["input"]
    needed = "Mind the odd one out whenever there is one, and take your time with it."

    def says(system: str, text: str) -> str:
        said = strict(system, text)
        return said if text != only or needed in system else next(label for label in LABELS if label != label_of(text))

    complete = drafted(WORDS, needed, "Remember to stay calm and friendly in all that you do, come what may.")
    found = compiled(a_task(100), 3, production=small(says), meta=big(some_drafts(complete)), example_tokens=0)
    dropped = [one for one in candidates(found, "shrink") if needed not in one.system]
    assert dropped and needed in found.prompt.system
    assert (found.record.candidate(found.record.chosen).mean or 0) >= max(one.mean or 0 for one in candidates(found, "draft"))
    kept = {name for one in candidates(found, "shrink") for name in one.origin.parents} | {found.record.chosen}
    assert not kept & {one.id for one in dropped}


@pytest.mark.parametrize("seed", range(4))
def test_states_say_what_became_of_a_candidate(seed: int) -> None:
    """A shrink may come back to a text that was here before: that one was scored in full, and stays so."""
    record = compiled(a_task(80, seed), 3, seed=seed).record
    everything = len(record.dev_cases)
    for one in record.candidates:
        if one.state in ("scored", "chosen"):
            assert (len(one.scores), one.why) == (everything, "")
        elif one.state == "out":
            assert len(one.scores) < everything and one.why
        elif one.state == "rejected":
            assert one.origin.kind == "reflection" and not one.scores and one.why
        else:
            assert one.origin.kind in ("template", "description")
    assert [one.id for one in record.candidates if one.state == "chosen"] == [record.chosen]
    assert {record.candidate(name).state for name in record.front} <= {"baseline", "scored", "chosen"}


# --- the choice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [2, 3])
def test_the_front_is_kept_and_told(level: int) -> None:
    found = compiled(a_task(80), level)
    record, searched = found.record, found.prompt.provenance.search
    assert searched is not None
    full = [one for one in record.candidates if len(one.scores) == len(record.dev_cases)]
    points = [Point(one.id, one.mean or 0.0, one.tokens_per_call or 0.0, one.usd_per_1k) for one in full]
    assert tuple(row.id for row in searched.front) == record.front == front(points)
    for row in searched.front:
        one = record.candidate(row.id)
        assert (row.score, row.tokens, row.usd_per_1k) == (one.mean, one.tokens_per_call, one.usd_per_1k)
        assert row.usd_per_1k is not None and row.tokens > 0
    told = told_search(record)
    assert [line.split()[1] for line in told if line.startswith("front ")] == list(record.front)


def graded_by_length(losses: dict[str, int]) -> Callable[[str, str], str]:
    """Right but for as many dev cases, in the order of their texts, as belong to what the system text says or is."""
    dev = sorted(row.inputs["input"] for row in source_of(a_task(80)).dev)

    def says(system: str, text: str) -> str:
        lost = next((count for name, count in losses.items() if name == system or f"a {name} sorter" in system), len(dev))
        right = label_of(text)
        wrong = text in dev and dev.index(text) < lost
        return next(label for label in LABELS if label != right) if wrong else right

    return says


def test_prefer_picks_by_what_is_preferred() -> None:
    """Long and best, shorter and one case behind, the bare description three behind, which is no measurable loss."""
    task = a_task(80)
    losses = {"gold": 1, "silver": 2, task.description: 4}
    texts = [drafted([], f"Work as a {name} sorter would.{' Stay calm.' * calm}") for name, calm in (("gold", 40), ("silver", 20))]
    picked = {}
    for prefer in ("score", "balanced", "cost"):
        meta = big(lambda system, turns, sample: texts[place_of(system) % 2])
        found = compiled(task, production=small(graded_by_length(losses)), meta=meta, example_tokens=0, candidates=4, prefer=prefer)
        picked[prefer] = found.prompt.system
        record = found.record
        assert (record.prefer, record.chosen_why != "") == (prefer, True)
        assert found.prompt.provenance.search is not None and found.prompt.provenance.search.prefer == prefer
    assert picked == {"score": texts[0], "balanced": texts[1], "cost": task.description}


def place_of(system: str) -> int:
    """The place of the strategy that a request for a draft goes by."""
    return next(place for place, one in enumerate(STRATEGIES) if meta_prompt(one.name).strip() in system)


# --- determinism ------------------------------------------------------------------------------------------


def paced(seed: int) -> Callable[[Request], int]:
    return lambda request: number(seed, request.system, request.turns[-1].text) % 9


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("limits", [{}, {"max_calls": 260}, {"max_usd": 0.06}], ids=["free", "calls", "dollars"])
def test_the_order_of_arrival_decides_nothing(level: int, limits: dict[str, Any]) -> None:
    """One call at a time, all at once, or in any order: the same prompt and the same record."""
    ways: list[dict[str, Any]] = [{"at_once": 1}, {}, {"pace": paced(1)}, {"pace": paced(2), "at_once": 7}]
    found = [compiled(a_task(70), level, production=small(**way), meta=big(**way), **limits) for way in ways]
    assert len({one.prompt.id for one in found}) == 1
    assert len({one.record.digest() for one in found}) == 1
    assert len({msgspec.json.encode(msgspec.structs.replace(one.record, seconds=0.0)) for one in found}) == 1


def test_the_seed_decides() -> None:
    same = [compiled(a_task(60), seed=3).prompt.id for _ in range(2)]
    assert len(set(same)) == 1
    others = {compiled(a_task(60), seed=seed).prompt.id for seed in range(6)}
    assert len(others) > 1
    records = [compiled(a_task(60), seed=seed).record for seed in (3, 4)]
    assert records[0].dev_cases == records[1].dev_cases, "a seed never moves a row"


# --- the artifact -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [2, 3])
def test_the_record_holds_everything(level: int) -> None:
    found = compiled(a_task(70), level, seed=5, max_calls=900, prefer="balanced", candidates=7)
    record = found.record
    assert (record.production, record.meta, record.seed, record.data_seed) == (SMALL, BIG, 5, 0)
    assert (record.level, record.engine, record.prefer) == (level, "promptsmith", "balanced")
    assert record.options == {"level": str(level), "seed": "5", "max_calls": "900", "prefer": "balanced", "candidates": "7"}
    assert record.reason in ("done", "perfect", "plateau", "budget") and record.chosen_why
    assert record.build == found.prompt.provenance.build.key
    usd, calls = 0.0, 0
    for one in record.candidates:
        asked = len(asked_with(found, one))
        assert asked == len(one.scores) + len(one.practice)
        assert (one.usage.input > 0 and (one.usd or 0) > 0) == (asked > 0)
        usd, calls = usd + (one.usd or 0), calls + asked
        if one.scores:
            assert one.mean == pytest.approx(fmean(one.scores.values()))
            assert one.lower is not None and one.upper is not None and one.lower <= one.mean <= one.upper
    assert calls == len(found.small.asked)
    assert record.spent.calls == calls + len(found.big.asked) == sum(stage.spent.calls for stage in record.stages)
    assert usd < (record.spent.usd or 0) == pytest.approx(sum(stage.spent.usd or 0 for stage in record.stages))
    wanted = ["baselines", "drafts", "race"] if level == 2 else ["baselines", "drafts", "race", "reflection"]
    assert [stage.name for stage in record.stages][: len(wanted)] == wanted
    assert msgspec.json.decode(msgspec.json.encode(record), type=SearchRecord) == record


def test_a_whole_record_is_kept_under_the_digest_that_the_prompt_names(tmp_path: Path) -> None:
    found = compiled(a_task(60), folder=tmp_path)
    searched = found.prompt.provenance.search
    assert searched is not None and searched.record == found.record.digest()
    from promptsmith.config import find_project

    with open_store(find_project(tmp_path)) as store:
        assert record_of(store, found.prompt) == found.record
    assert (searched.candidates, searched.dev) == (len(found.record.candidates), len(found.record.dev_cases))
    assert (searched.calls, searched.usd) == (found.record.spent.calls, found.record.spent.usd)


@pytest.mark.parametrize("level", [2, 3])
def test_the_prompt_is_one_plain_static_text(level: int) -> None:
    found = compiled(a_task(60), level)
    prompt = found.prompt
    chosen = found.record.candidate(found.record.chosen)
    assert prompt.system == chosen.system
    assert not re.search(r"\{\{?\w+\}?\}|\$\{|<\w+_placeholder>|\[\[", instructions_of(prompt.system))
    renderer = Renderer(prompt)
    requests = [renderer.request({"input": text}) for text in ("one thing", "another {thing}")]
    assert {one.system for one in requests} == {prompt.system}
    assert [one.turns[-1].text for one in requests] == ["one thing", "another {thing}"]


def test_level_why_and_notes() -> None:
    found = compiled(a_task(60, compile={"level": 3}), level=None)  # type: ignore[arg-type]
    source = found.prompt.provenance
    assert (source.level, source.level_why, source.meta) == (3, "set in the task file", BIG)
    assert source.shown == len(found.record.candidate(found.record.chosen).shown)
    assert source.notes == (*found.record.notes,)
    asked = compiled(a_task(60), 2).prompt.provenance
    assert (asked.level, asked.level_why) == (2, "asked for")
    few = compiled(a_task(19), 3).compiled
    assert few.record is None
    assert few.prompt.provenance.level == 1
    assert few.prompt.provenance.level_why == "-O3 asked for; unscored: 19 examples, and a dev part needs 20"
    assert few.prompt.provenance.search is None


def test_without_a_meta_model_a_search_is_refused() -> None:
    with pytest.raises(InputError, match=r"-O2 \(asked for\) needs a meta-model"):
        compiled(a_task(60, models={"production": SMALL}))


def test_fewer_examples_give_fewer_candidates() -> None:
    few, many = compiled(a_task(24)), compiled(a_task(120))
    raced, of_many = ([one for one in candidates(found, "draft") if one.origin.strategy != "template"] for found in (few, many))
    assert len(raced) < len(of_many) == 16
    assert len(raced) <= default_candidates(2, len(few.record.dev_cases))


def test_a_perfect_baseline_ends_the_search_at_once() -> None:
    found = compiled(a_task(60), 3, production=small(lambda system, text: label_of(text)))
    assert (found.record.reason, found.big.asked) == ("perfect", [])
    assert found.prompt.system == found.template.system
    dev, first = len(found.record.dev_cases), rungs(len(found.record.dev_cases), len(found.record.dev_cases))[0]
    assert len(found.small.asked) == dev + first


# --- compiled once ----------------------------------------------------------------------------------------


def test_a_second_compile_makes_no_calls_and_force_searches_again(tmp_path: Path) -> None:
    first = compiled(a_task(60), 3, folder=tmp_path)
    assert first.compiled.source == "built"
    second = compiled(a_task(60), 3, folder=tmp_path)
    assert (second.compiled.source, second.small.asked, second.big.asked) == ("cache", [], [])
    assert second.prompt == first.prompt
    forced = compiled(a_task(60), 3, folder=tmp_path, force=True)
    assert forced.compiled.source == "built"
    assert forced.record.digest() == first.record.digest()
    assert forced.prompt.id == first.prompt.id
    other = compiled(a_task(60), 3, folder=tmp_path, prefer="cost")
    assert other.compiled.source == "built", "another option is another search"


# --- over a provider, from the command line ---------------------------------------------------------------


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(served) as running:
        yield running


@pytest.fixture
def make(make_project: Make, provider: Provider) -> Make:
    def made(more: str = "holdout: {file: held.jsonl}", count: int = 60, data: dict[str, Any] | None = None) -> Project:
        files: dict[str, Any] = {"rows.jsonl": rows(count), "held.jsonl": rows(60, first=500), **(data or {})}
        return make_project({"notes": task_file(more)}, files, config=endpoint(provider))

    return made


def test_no_request_body_of_a_whole_compile_holds_what_it_must_not(make: Make, provider: Provider, invoke: Invoke) -> None:
    project = make()
    ended = invoke("compile", "notes", "-O3", "--yes", "--json", project=project)
    (row,) = json.loads(ended.stdout)
    assert row["level"] == 3
    task = load_suite_task(project.task_file("notes"), "notes")
    dev = {row.inputs["input"] for row in material(task, project.config, Options(level=3)).dev}
    seen = {"gpt-6-luna": "", "gpt-6-sol": ""}
    for record in provider.records.all():
        seen[record.json["model"]] += record.body.decode()
    assert [n for n in range(500, 560) if letters(0, n) in "".join(seen.values())] == []
    shown = [n for n in range(60) if text_of(n) in dev]
    assert len(shown) == len(dev) > 8
    assert [n for n in shown if letters(0, n) in seen["gpt-6-sol"]] == []
    assert all(letters(0, n) in seen["gpt-6-luna"] for n in shown)
    # And none of them reaches the meta-model by the artifact either, when it is started from again.
    system = json.loads(invoke("show", "notes", "--format", "json", project=project).stdout)["system"]
    assert [n for n in [*shown, *range(500, 560)] if letters(0, n) in system] == []


def test_provenance_survives_promotion_and_show(make: Make, invoke: Invoke) -> None:
    project = make("holdout: {file: held.jsonl}\ngate: {require: {pass_rate: '>= 0.3'}}")
    invoke("compile", "notes", "-O2", "--yes", project=project)
    before = json.loads(invoke("show", "notes", "--provenance", "--format", "json", project=project).stdout)
    invoke("promote", "notes", project=project)
    entry = LockFile(project.lock).entry("notes")
    assert entry is not None
    (locked,) = entry.prompts()
    assert locked.provenance.search is not None
    assert json.loads(msgspec.json.encode(locked.provenance.search)) == before["provenance"]["search"]
    after = json.loads(invoke("show", "notes@production", "--provenance", "--format", "json", project=project).stdout)
    assert after["provenance"]["search"] == before["provenance"]["search"]
    assert after["record"] == before["record"] and after["record"]["dev_cases"]
    # Another machine has the lock alone.
    invoke("cache", "clear", "--yes", project=project)
    told = invoke("show", "notes@production", "--provenance", project=project).output
    assert "is not in this cache" in told and "dev cases" in told


def test_check_is_fresh_after_promotion_and_stale_when_a_scorer_changed(make: Make, invoke: Invoke) -> None:
    grader = "def right(output, expected):\n    return output == expected\n"
    more = "holdout: {file: held.jsonl}\nscorers: [{python: 'mine.py:right'}]\ngate: {require: {score: '>= 0.3'}}"
    project = make(more, data={"mine.py": grader})
    invoke("compile", "notes", "-O2", "--yes", project=project)
    invoke("promote", "notes", project=project)
    assert invoke("compile", "--check", project=project).stdout.startswith("notes: fresh")
    (project.root / "evals" / "mine.py").write_text(grader.replace("==", "!="))
    assert "scorers" in invoke("compile", "--check", project=project, code=1).stdout


def test_a_compile_tells_its_end_and_its_gain(make: Make, invoke: Invoke) -> None:
    project = make()
    told = " ".join(invoke("compile", "notes", "-O2", "--yes", project=project).stderr.split())
    assert "-O2 plan:" in told and "search ended:" in told and "chosen" in told and "over -O0" in told and "front" in told
    again = invoke("compile", "notes", "-O2", "--yes", project=project)
    assert "from the cache" in again.stdout
