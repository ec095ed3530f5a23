"""What a compile gets to see: parts, seeds, levels, and which choices are part of a build's identity."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith import Task, canonical
from promptsmith.budget import Limits
from promptsmith.compiler.analysis import analyse
from promptsmith.compiler.build import started
from promptsmith.compiler.material import DEFAULTS, Material, Options, material
from promptsmith.compiler.select import examples_for
from promptsmith.config import CompileSettings, Config, Project
from promptsmith.errors import InputError, SourceError
from promptsmith.evals.suite import DEV_LEAST, DEV_ROWS, DEV_SHARE, dev_rows
from promptsmith.task import load_task

Make = Callable[..., Project]
META = "strong/model"
ROWS = [(f"message number {number}", "ab"[number % 2]) for number in range(60)]


def task(rows: Any = ROWS, **more: Any) -> Task:
    said: dict[str, Any] = {"output": ["a", "b"], "models": {"meta": META}, **more}
    return Task(said.pop("description", "Sort it."), examples=rows, **said)


def of(made: Task, level: int | None = 2, config: Config | None = None, **options: Any) -> Material:
    return material(made, config or Config(), Options(level=level, **options))


def key(source: Material) -> str:
    return canonical.build_key(source.parts())


# --- parts ------------------------------------------------------------------------------------------------


def test_from_level_2_the_dev_part_is_apart_and_is_never_shown() -> None:
    source = of(task())
    assert source.level == 2 and source.unscored == ""
    assert set(map(id, source.dev)).isdisjoint(map(id, source.examples))
    assert sorted([*source.dev, *source.examples], key=lambda row: row.where.path) == sorted(source.visible, key=lambda row: row.where.path)
    for row in source.visible:
        below = canonical.fraction("dev", "0", canonical.input_digest(row.inputs)) < DEV_SHARE
        assert (row in source.dev) == below
    assert {row.inputs["input"] for row in examples_for(source)}.isdisjoint(row.inputs["input"] for row in source.dev)


@pytest.mark.parametrize("level", [0, 1])
def test_below_level_2_all_rows_are_the_compile_part(level: int) -> None:
    source = of(task(), level)
    assert (source.examples, source.dev, source.scorers, source.judges) == (source.visible, (), (), ())


@given(st.sets(st.text("abcdefgh", min_size=3, max_size=6), min_size=30, max_size=60), st.integers(0, 5), st.text("xyz", min_size=7))
def test_an_added_row_and_another_seed_of_the_compile_move_no_row(inputs: set[str], seed: int, added: str) -> None:
    rows = [(text, "ab"[number % 2]) for number, text in enumerate(sorted(inputs))]
    before, after = (
        {row.inputs["input"] for row in dev_rows(task(some).examples, seed)} for some in (rows, [*rows, (added, "a")])
    )  # fmt: skip
    if before and after:
        assert after - {added} == before
    assert of(task(rows), seed=1).dev == of(task(rows), seed=2).dev


def test_the_data_seed_is_that_of_the_examples_file(make_project: Make) -> None:
    data = {"rows.jsonl": [{"input": text, "output": label} for text, label in ROWS]}

    def seed(examples: str, holdout: str = "") -> tuple[int, set[str]]:
        text = f"task: Sort it.\noutput: [a, b]\nmodels: {{meta: {META}}}\nexamples: {examples}\n{holdout}"
        project = make_project({"t": text}, data)
        loaded = load_task(project.task_file("t"), name="t")
        return loaded.data_seed, {row.inputs["input"] for row in of(loaded).dev}

    split = "{file: rows.jsonl, split: {examples: 0.8, holdout: 0.2}"
    assert seed("{file: rows.jsonl}")[0] == 0
    assert seed("{file: rows.jsonl, seed: 4}")[0] == 4
    assert seed(f"{split}, seed: 3}}")[0] == 3
    assert seed("[{input: x, output: a}]", f"holdout: {split}, seed: 5}}\n")[0] == 5
    assert seed("{file: rows.jsonl, seed: 1}", f"holdout: {split}, seed: 5}}\n")[0] == 1
    assert seed("{file: rows.jsonl}")[1] != seed("{file: rows.jsonl, seed: 4}")[1]


def test_a_task_made_in_python_has_the_data_seed_0_unless_its_file_says_otherwise(tmp_path: Path) -> None:
    assert task().data_seed == 0
    (tmp_path / "rows.csv").write_text("input,output\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    assert task({"file": "rows.csv", "seed": 9}, folder=tmp_path).data_seed == 9


def test_what_is_explained_counts_dev_rows_by_the_data_seed(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("input,output\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    for seed in range(3):
        made = task({"file": "rows.csv", "seed": seed}, folder=tmp_path)
        assert analyse(of(made, 0)).dev.dev == len(dev_rows(made.examples, seed)) == len(of(made).dev)


# --- too few ----------------------------------------------------------------------------------------------


def test_with_too_few_examples_level_2_falls_to_1_and_says_so() -> None:
    for level in (2, 3):
        source = of(task(ROWS[:12]), level)
        assert (source.level, source.dev) == (1, ())
        assert source.unscored == f"unscored: 12 examples, and a dev part needs {DEV_ROWS}"
        assert source.level_why == f"-O{level} asked for; unscored: 12 examples, and a dev part needs 20"
        assert key(source) == key(of(task(ROWS[:12]), 1))  # it is that very prompt
    assert of(task(ROWS[:1])).unscored.startswith("unscored: 1 example, ")
    assert of(task([])).unscored.startswith("unscored: 0 examples, ")


def test_parts_that_are_too_small_are_no_parts() -> None:
    """Twenty rows of which fewer than eight fall on one side are not parted."""
    by_side = {True: [], False: []}  # type: dict[bool, list[tuple[str, str]]]
    for number in itertools.count():
        row = (f"message {number}", "ab"[number % 2])
        by_side[canonical.fraction("dev", "0", canonical.input_digest({"input": row[0]})) < DEV_SHARE].append(row)
        if min(map(len, by_side.values())) >= 30:
            break
    for dev, rest in ((DEV_LEAST - 1, 30), (30, DEV_LEAST - 1)):
        source = of(task([*by_side[True][:dev], *by_side[False][:rest]]))
        assert source.level == 1 and source.examples == source.visible
        assert source.unscored == f"unscored: {dev + rest} examples, which data seed 0 does not part into 8 to show and 8 to score"
    source = of(task([*by_side[True][:DEV_LEAST], *by_side[False][:12]]))
    assert (source.level, len(source.dev), len(source.examples)) == (2, 8, 12)


def test_without_a_meta_model_nothing_above_level_0_can_be_compiled() -> None:
    for rows in (ROWS, ROWS[:3]):
        with pytest.raises(InputError, match=r"-O2 \(asked for\) needs a meta-model"):
            of(task(rows, models={}))


# --- prompts written by hand ------------------------------------------------------------------------------


def test_a_search_begins_with_the_prompt_that_was_written_by_hand() -> None:
    source = of(task(prompt="By hand."))
    assert source.start is not None
    assert (source.start.id, source.start.instructions, source.prompt, source.written) == ("", "By hand.", None, "By hand.")
    assert source.parts()["prompt"] == of(task(prompt="By hand."), 0).parts()["prompt"]
    assert key(source) != key(of(task(prompt="By another hand."))) != key(of(task()))


def test_a_prompt_by_hand_is_kept_where_nothing_can_be_scored() -> None:
    source = of(task(ROWS[:5], prompt="By hand."))
    assert (source.level, source.prompt, source.start) == (0, "By hand.", None)
    assert source.unscored


def test_a_project_that_sets_a_level_does_not_mean_prompts_written_by_hand() -> None:
    source = of(task(prompt="By hand."), None, Config(compile=CompileSettings(level=2)))
    assert (source.level, source.level_why) == (0, "its prompt is written by hand")
    assert of(task(prompt="By hand.", compile={"level": 2}), None).level == 2


def test_a_single_draft_does_not_throw_away_a_prompt_written_by_hand() -> None:
    with pytest.raises(InputError, match=r"(?s)-O1 \(asked for\) writes a new prompt.*-O2 or -O3 to begin with it"):
        started(of(task(prompt="By hand."), 1), None)


# --- identity ---------------------------------------------------------------------------------------------

MATTERS: dict[str, dict[str, Any]] = {
    "candidates": {"compile": {"candidates": 5}},
    "engine": {"compile": {"engine": "gepa"}},
    "prefer": {"compile": {"prefer": "cost"}},
    "usd": {"compile": {"budget": {"usd": 2}}},
    "calls": {"compile": {"budget": {"calls": 200}}},
    "tokens": {"compile": {"budget": {"tokens": 20_000}}},
    "scorers": {"scorers": ["contract"]},
    "a scorer's options": {"scorers": [{"exact": {"ignore_case": True}}]},
    "a judge": {"scorers": [{"judge": {"criteria": "Is it right?", "model": "strong/judge"}}]},
    "another judge": {"scorers": [{"judge": {"criteria": "Is it right?", "model": "strong/other"}}]},
    "the judge's criteria": {"scorers": [{"judge": {"criteria": "Is it kind?", "model": "strong/judge"}}]},
    "seed": {"compile": {"seed": 3}},
    "one more row": {"rows": [*ROWS, ("one more", "a")]},
}
NEVER: dict[str, dict[str, Any]] = {
    "name": {"name": "another/name"},
    "holdout": {"holdout": [("secret", "a")]},
    "gate": {"gate": {"margin": 0.05}},
    "serve": {"serve": {"on_contract_break": "pass", "cache": True}},
    "a time limit": {"compile": {"budget": {"seconds": 5}}},
    "what is the default": {"compile": {"level": 2, "engine": "promptsmith", "prefer": "score"}},
    "the scorers that would be taken": {"scorers": ["exact"]},
}


@pytest.mark.parametrize("level", [2, 3])
def test_what_decides_a_search_is_in_the_key_and_all_keys_differ(level: int) -> None:
    keys = {name: key(of(task(**changes), level)) for name, changes in {"": {}, **MATTERS}.items()}
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize("name", ["candidates", "engine", "prefer", "usd", "calls", "tokens", "scorers", "a judge"])
def test_below_level_2_it_changes_nothing(name: str) -> None:
    for level in (0, 1):
        assert key(of(task(**MATTERS[name]), level)) == key(of(task(), level))


@pytest.mark.parametrize("name", NEVER)
@pytest.mark.parametrize("level", [0, 2, 3])
def test_what_serves_or_gates_is_in_no_key(name: str, level: int) -> None:
    assert key(of(task(**NEVER[name]), level)) == key(of(task(), level))


def test_how_far_a_judge_is_trusted_is_in_no_key(tmp_path: Path) -> None:
    judged = [{"input": f"text {number}", "output": "a", "human": number % 2 == 0} for number in range(4)]
    (tmp_path / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged))
    judge = {"criteria": "Is it right?", "model": "strong/judge"}
    trusted = task(scorers=[{"judge": {**judge, "calibrate": "judged.jsonl", "min_kappa": 0.9}}])
    found = material(trusted, Config(), Options(level=2), tmp_path)
    assert key(of(task(scorers=[{"judge": judge}]))) == key(found)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_seconds": st.floats(0, 1e6),
            "max_usd": st.floats(0, 1e6),
            "max_calls": st.integers(0, 10**6),
            "max_tokens": st.integers(0, 10**9),
            "candidates": st.integers(1, 99),
            "prefer": st.sampled_from(["score", "cost", "balanced"]),
        },
    ),
    st.integers(0, 3),
)
def test_flags_count_as_the_same_words_in_the_file_do(flags: dict[str, Any], level: int) -> None:
    """However an option is said, the identity is the same; a time limit is never in it, and the lock brings the rest back."""
    budget = {name.removeprefix("max_"): value for name, value in flags.items() if name.startswith("max_")}
    rest = {name: value for name, value in flags.items() if not name.startswith("max_")}
    said = task(compile={**rest, "budget": budget})
    by_flag, by_file = of(task(), level, **flags), of(said, level)
    assert by_flag.parts() == by_file.parts()
    assert by_flag.limits == by_file.limits
    timeless = {name: value for name, value in flags.items() if name != "max_seconds"}
    assert of(task(), level, **timeless).parts() == by_flag.parts()
    kept = Options(level=level, **flags).given(level)
    assert material(task(), Config(), Options.from_given(kept)).parts() == by_flag.parts()
    assert "max_seconds" not in kept
    assert level > 1 or kept == {"level": str(level)}


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_data_seed_is_a_part_of_its_own_from_level_2(one: int, other: int) -> None:
    made = [msgspec.structs.replace(of(task()), data_seed=seed) for seed in (one, other)]
    differing = [part for part in made[0].parts() if made[0].parts()[part] != made[1].parts()[part]]
    assert differing == (["data_seed"] if one != other else [])
    assert not {"data_seed", "scorers"} & of(task(), 1).parts().keys()


def test_the_limits_are_the_file_s_tightened_by_the_flags() -> None:
    said = task(compile={"budget": {"usd": 2, "calls": 50, "seconds": 9}})
    found = of(said, max_usd=3.0, max_calls=40, max_tokens=7).limits
    assert found == Limits(usd=2.0, calls=40, tokens=7, seconds=9.0)
    assert of(said, 0).limits == Limits(usd=2.0, calls=50, seconds=9.0)


def test_flags_win_over_the_file() -> None:
    said = task(compile={"candidates": 5, "prefer": "cost", "engine": "promptsmith"})
    found = of(said, candidates=7, prefer="balanced", engine="gepa")
    assert (found.candidates, found.prefer, found.engine) == (7, "balanced", "gepa")
    kept = of(said)
    assert (kept.candidates, kept.prefer, kept.engine) == (5, "cost", "promptsmith")
    assert (of(task()).candidates, of(task()).prefer, of(task()).engine) == (None, "score", "promptsmith")


def test_checks_that_rows_carry_are_part_of_how_a_search_scores(tmp_path: Path) -> None:
    """Rows of another tool's test suite may assert more than their output; who asserts otherwise grades otherwise."""

    def made(word: str, **more: Any) -> Material:
        rows = f"first,{word}:a\n" + "".join(f"{text},contains:{label}\n" for text, label in ROWS)
        (tmp_path / "rows.csv").write_text(f"input,__expected\n{rows}")
        return of(task({"file": "rows.csv"}, folder=tmp_path, output="text", **more))

    one, other, named = made("contains"), made("equals"), made("contains", scorers=["contract"])
    assert one.visible[0].checks and not other.visible[0].checks and one.level == other.level == 2
    assert [part for part in one.parts() if one.parts()[part] != other.parts()[part]] == ["scorers"]
    # Beside scorers that the task names they count as well, and without any they stand alone.
    assert {*one.scorers} - {*named.scorers} == {"alone"}
    assert {*named.scorers} - {*one.scorers} == {named.scorers[0]}


def test_without_anything_to_grade_by_nothing_is_searched() -> None:
    """Any text would pass: a race would be won by chance."""
    source = of(task([(text, f"an answer to {text}") for text, _ in ROWS], output="text"))
    assert (source.level, source.dev) == (1, ())
    assert source.unscored == "unscored: the task names no scorers, and its contract has nothing to grade a text by"
    assert of(task([(text, f"an answer to {text}") for text, _ in ROWS], output="text", scorers=["rouge_l"])).level == 2


# --- scorers ----------------------------------------------------------------------------------------------


def test_a_scorer_s_file_is_part_of_its_version(make_project: Make) -> None:
    text = f"task: Sort it.\noutput: [a, b]\nmodels: {{meta: {META}}}\nexamples: {{file: rows.jsonl}}\nscorers:\n  - python: mine.py:good\n"
    rows = [{"input": text, "output": label} for text, label in ROWS]
    project = make_project({"t": text}, {"rows.jsonl": rows, "mine.py": "def good(output):\n    return True\n"})
    first = of(load_task(project.task_file("t"), name="t"))
    (project.evals / "mine.py").write_text("def good(output):\n    return False\n")
    second = of(load_task(project.task_file("t"), name="t"))
    assert [part for part in first.parts() if first.parts()[part] != second.parts()[part]] == ["scorers"]
    (project.evals / "mine.py").unlink()
    with pytest.raises(SourceError, match=r"(?s)t\.yaml:.*mine\.py"):
        of(load_task(project.task_file("t"), name="t"))
    assert of(load_task(project.task_file("t"), name="t"), 1).level == 1


def test_scorers_of_a_task_without_a_file_are_looked_for_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def good(output):\n    return True\n")
    made = task(scorers=[{"python": "mine.py:good"}])
    assert "sha256:" in material(made, Config(), Options(level=2), tmp_path).scorers[0]


def test_the_files_of_scorers_are_known_however_the_task_was_read(make_project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the task, a rubric, and a module of the project; a module from elsewhere is not the project's source."""
    judge = "  - judge: {rubric: rubric.md, model: x/judge}\n"
    text = f"task: Sort it.\noutput: [a, b]\nmodels: {{meta: {META}}}\nexamples: {{file: rows.jsonl}}\nscorers:\n"
    text += "".join(f"  - {one}\n" for one in ("python: mine.py:good", "python: {function: 'ours_xyz:good', name: b}")) + judge
    rows = [{"input": text, "output": label} for text, label in ROWS]
    good = "def good(output):\n    return True\n"
    project = make_project({"t": text}, {"rows.jsonl": rows, "mine.py": good, "rubric.md": "Is it kind?"})
    (project.root / "ours_xyz.py").write_text(good)
    monkeypatch.syspath_prepend(str(project.root))
    source = material(load_task(project.task_file("t"), name="t"), Config(), Options(level=2), project.root)
    assert sorted(map(Path, source.files)) == [
        project.evals / "mine.py", project.evals / "rubric.md", project.root / "ours_xyz.py",
    ]  # fmt: skip
    assert material(load_task(project.task_file("t"), name="t"), Config(), Options(level=1), project.root).files == {}
    away = material(load_task(project.task_file("t"), name="t"), Config(), Options(level=2), project.evals)
    assert project.root / "ours_xyz.py" not in map(Path, away.files)


def test_every_call_of_a_judge_is_counted() -> None:
    criteria = {"criteria": "Is it right?"}
    panel = {"judge": {**criteria, "name": "panel", "models": ["x/one", "x/two"]}}
    paired = {"judge": {**criteria, "name": "paired", "model": "x/three", "pairwise": True}}
    assert of(task(scorers=[panel, paired, "exact"])).judges == ("x/one", "x/two", "x/three", "x/three")


# --- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prefer": "scores"}, "unknown preference 'scores'.*score"),
        ({"engine": "dspy"}, "unknown engine 'dspy'.*promptsmith, gepa"),
        ({"candidates": 0}, "0 candidates can't be compared"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"(?s){told}"):
        Options(**options)


@pytest.mark.parametrize("name", ["max_usd", "max_calls", "max_tokens", "max_seconds"])
def test_a_negative_limit_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="can't be kept"):
        of(task(), 0, **{name: -1})


def test_nothing_set_means_no_limit_and_nothing_for_the_lock() -> None:
    assert (DEFAULTS.limits, DEFAULTS.given()) == (Limits(), {})
