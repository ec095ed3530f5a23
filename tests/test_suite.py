"""Suites: which cases both arms are judged on, holdout text in prompts, looks at a holdout, recorded replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith import Task
from promptsmith.chat import Usage
from promptsmith.errors import InputError, SourceError
from promptsmith.evals.leak import find_leaks
from promptsmith.evals.looks import Looks
from promptsmith.evals.record import Recorded, read_record, write_record
from promptsmith.evals.suite import Suite, admit, dev_rows, make_suite
from promptsmith.prompt import Build, Pair, Prompt, Provenance, Serve, example_block, make_prompt
from promptsmith.receipt import CaseRow, Counts, Receipt, Rules, make_receipt

ROWS = [(f"message number {n} about a thing", "yes" if n % 2 else "no") for n in range(30)]


def task(**more: Any) -> Task:
    given: dict[str, Any] = {"output": ["yes", "no"], "examples": [("a", "yes"), ("b", "no")], "holdout": ROWS, "name": "t"}
    return Task("Decide.", **{**given, **more})


def suite(of: Task | None = None, **more: Any) -> Suite:
    found = of or task()
    return make_suite(found.name, found.holdout, found.contract, ["exact 1"], Rules(**more))


def prompt(system: str, of: Task | None = None, visible: str = "") -> Prompt:
    found = of or task()
    provenance = Provenance(
        created="2026-01-01T00:00:00Z", version="1", level=1, level_why="", build=Build(key="", inputs={}, epoch=1), visible=visible
    )
    return make_prompt(
        task="t", system=system, contract=found.contract, model="builtin/nearest", parameters={}, inputs=found.inputs, serve=Serve(),
        provenance=provenance,
    )  # fmt: skip


LONG = "the parcel was left in the rain next to the wrong door again"


def test_eight_words_in_a_row_in_the_instructions_reject() -> None:
    of = task(holdout=[{"input": LONG, "output": "no"}, *[{"input": text, "output": label} for text, label in ROWS]])
    found = admit(suite(of), {"candidate": prompt(f"Decide. For example: {LONG.upper()}!", of)})
    assert len(found.rejections) == 1
    assert of.holdout[0].id in found.rejections[0]
    near = " ".join(LONG.split()[:7])
    assert admit(suite(of), {"candidate": prompt(f"Decide. {near}.", of)}).rejections == ()


def test_holdout_text_among_the_examples_leaves_the_suite_for_both_arms() -> None:
    of = task()
    block = example_block([Pair({"input": ROWS[3][0]}, "yes")])
    found = admit(suite(of), {"candidate": prompt("Decide."), "baseline": prompt(f"Decide.\n\n{block}", of)})
    assert list(found.left) == [of.holdout[3].id]
    assert "the baseline shows it" in found.left[of.holdout[3].id]
    assert len(found.cases) == len(ROWS) - 1
    assert found.rejections == found.doubts == ()


def test_over_a_tenth_leaving_is_inconclusive() -> None:
    of = task()
    block = example_block([Pair({"input": text}, label) for text, label in ROWS[:4]])
    found = admit(suite(of), {"candidate": prompt(f"Decide.\n\n{block}", of)})
    assert found.doubts == ("4 of 30 cases left the suite, more than a tenth",)


def test_a_case_that_the_prompt_was_built_from_leaves() -> None:
    of = task()
    found = admit(suite(of), {"candidate": prompt("Decide.", of, visible=of.holdout[0].id)})
    assert found.left == {of.holdout[0].id: "the candidate was built from it"}


def test_short_texts_count_whole_and_very_short_ones_not() -> None:
    texts = {"four": ["it broke after lunch"], "three": ["it broke again"], "part": ["it broke after lunch yesterday"]}
    found = find_leaks(prompt("Say no when it broke after lunch, or when it broke again."), texts)
    assert found.instructions == ("four",)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=8, max_size=20), st.integers(0, 12))
def test_property_a_run_of_eight_words_is_found_wherever_it_stands(words: list[str], at: int) -> None:
    start = min(at, len(words) - 8)
    quoted = " ".join(words[start : start + 8])
    assert find_leaks(prompt(f"Before, {quoted}: after"), {"x": [" ".join(words)]}).instructions == ("x",)


def test_an_empty_suite_and_no_scorer_are_doubts() -> None:
    of = task(holdout=[])
    assert admit(suite(of), {"candidate": prompt("x", of)}).doubts == ("the suite is empty: t has no holdout rows",)
    bare = make_suite("t", task().holdout, task().contract, [], Rules())
    assert admit(bare, {"candidate": prompt("x")}).doubts == ("no scorer grades the answers",)


def test_two_cases_with_one_id_are_refused() -> None:
    rows = [{"input": "one text", "output": "yes", "id": "same"}, {"input": "another text", "output": "no", "id": "same"}]
    with pytest.raises((InputError, SourceError), match="same"):
        suite(task(holdout=rows))


def test_labels_that_the_prompt_does_not_know_are_an_error_and_another_contract_a_note() -> None:
    old = prompt("x", task(output=["yes", "maybe"], examples=[("a", "yes"), ("b", "maybe")], holdout=[]))
    with pytest.raises(InputError, match="can't answer no"):
        admit(suite(), {"candidate": old})
    wider = prompt("x", task(output=["yes", "no", "maybe"]))
    assert "another contract" in admit(suite(), {"candidate": wider}).notes[0]
    text = prompt("x", task(output="text"))
    with pytest.raises(InputError, match="answers with text"):
        admit(suite(), {"candidate": text})
    # What is in production may lack a label, and fails those cases; what can't be compared says the way out.
    assert any("can't answer no" in note for note in admit(suite(), {"candidate": wider, "baseline": old}).notes)
    with pytest.raises(InputError) as caught:
        admit(suite(), {"candidate": wider, "baseline": text})
    assert "--force" in caught.value.hint


def test_the_digest_sees_cases_and_scorers_and_not_their_order_or_the_gate() -> None:
    base = suite()
    assert suite(margin=0.2).digest == base.digest
    assert suite(task(holdout=ROWS[::-1])).digest == base.digest
    assert suite(task(holdout=ROWS[1:])).digest != base.digest
    assert make_suite("t", task().holdout, task().contract, ["exact 2"], Rules()).digest != base.digest


def test_a_dev_row_stays_one_when_rows_are_added() -> None:
    rows = [(f"visible row {n}", "yes" if n % 2 else "no") for n in range(60)]
    few, many = task(examples=rows[:40], holdout=[]), task(examples=rows, holdout=[])
    dev = {row.id for row in dev_rows(few.examples, 0)}
    assert dev
    assert dev <= {row.id for row in dev_rows(many.examples, 0)}
    assert dev_rows(task(examples=rows[:19], holdout=[]).examples, 0) == []


# --- looks ------------------------------------------------------------------------------------------------


def ids(first: int, last: int) -> list[str]:
    return [f"{n:012x}" for n in range(first, last)]


def look(looks: Looks, suite_digest: str, cases: list[str], of: str, *, revealed: bool = False) -> None:
    looks.record(suite_digest, "t", cases, of, revealed=revealed)


def test_distinct_prompts_are_counted_and_the_same_one_once(tmp_path: Path) -> None:
    looks = Looks(tmp_path)
    assert looks.count(ids(0, 100), "p1") == (1, 0)
    look(looks, "s1", ids(0, 100), "p1")
    look(looks, "s1", ids(0, 100), "p1", revealed=True)
    assert looks.count(ids(0, 100), "p1") == (1, 1)
    assert looks.count(ids(0, 100), "p2") == (2, 1)


def test_a_suite_inherits_the_looks_of_one_that_shares_over_half_of_its_cases(tmp_path: Path) -> None:
    looks = Looks(tmp_path)
    look(looks, "s1", ids(0, 100), "p1")
    look(looks, "s2", ids(40, 140), "p2")  # shares 60 with s1
    assert looks.count(ids(90, 170), "p3").looks == 3  # shares 50 of 80 with s2, and s2 inherits from s1
    assert looks.count(ids(90, 195), "p3").looks == 1  # shares less than half
    assert looks.count(ids(500, 600), "p3").looks == 1


def receipt(cases: list[str], looks: int, of: str = "r" * 64) -> Receipt:
    rows = [CaseRow(name, 1.0, None, 1.0) for name in cases]
    return make_receipt(suite="s", prompt=of, model="m/m", verdict="promote", counts=Counts(len(rows), len(rows)), rows=rows, looks=looks)


def test_receipts_of_the_lock_count_when_the_cache_is_gone(tmp_path: Path) -> None:
    looks = Looks(tmp_path)
    assert looks.count(ids(0, 100), "p1", [receipt(ids(0, 100), 7)]).looks == 8
    assert looks.count(ids(0, 100), "r" * 64, [receipt(ids(0, 100), 7)]).looks == 7
    assert looks.count(ids(200, 300), "p1", [receipt(ids(0, 100), 7)]).looks == 1
    look(looks, "s1", ids(0, 100), "p1")
    look(looks, "s1", ids(0, 100), "p2")
    assert looks.count(ids(0, 100), "p3", [receipt(ids(0, 100), 1)]).looks == 3


def test_a_line_that_a_crash_cut_off_is_skipped(tmp_path: Path) -> None:
    looks = Looks(tmp_path)
    look(looks, "s1", ids(0, 100), "p1")
    with (tmp_path / "looks.jsonl").open("ab") as file:
        file.write(b'{"row":"look","suite":"s1","pro')
    look(looks, "s1", ids(0, 100), "p2")
    assert looks.count(ids(0, 100), "p3").looks == 3


# --- records ----------------------------------------------------------------------------------------------


def recorded(key: str, text: str) -> Recorded:
    return Recorded(key=key * 64, model="m/m", reply=text, usage=Usage(10, 2), cost=0.25, latency=0.5)


def test_a_record_is_sorted_redacted_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "t.replies.jsonl"
    secret = "sk-" + "a1" * 20
    write_record(path, [recorded("b", "two\nlines"), recorded("a", f"key {secret} \u2028")])
    text = path.read_text()
    assert [line[8] for line in text.split("\n")[:-1]] == ["a", "b"]
    assert secret not in text
    found = read_record(path)
    assert found["b" * 64] == recorded("b", "two\nlines")
    assert found["a" * 64].reply == "key [redacted] \u2028"


def test_a_damaged_record_names_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_record(path, [recorded("a", "x")])
    path.write_text(path.read_text() + "garbage\n" + path.read_text().replace('"x"', '"y"'))
    with pytest.raises(SourceError) as caught:
        read_record(path)
    assert [(problem.line, problem.what.split(":")[0]) for problem in caught.value.problems] == [
        (2, "this line is no recorded reply"),
        (3, "the reply aaaaaaaaaaaa stands twice, with different words"),
    ]
    with pytest.raises(InputError, match="can't be read"):
        read_record(tmp_path / "none.jsonl")
