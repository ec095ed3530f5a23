"""The measuring stick itself: that a prompt's true score is what it says, and that nobody gets more than the others.

The held-out families appear here for what any family must satisfy, and nowhere else in the tests.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.simulated import contenders, ours, peers
from benchmarks.simulated.__main__ import main
from benchmarks.simulated.contenders import Contender, Outcome, Row, Trial, best_of_k, measured
from benchmarks.simulated.dev import CLAIMS, DEV, FLAT, ONE_OF_EIGHT, ORDERS, SUPPORT, one_of_eight
from benchmarks.simulated.held_out import HELD_OUT, TONE, VISITS
from benchmarks.simulated.meta import _FILLERS, _ROLES, MetaModel, wrapped
from benchmarks.simulated.meter import Meter
from benchmarks.simulated.world import Case, Family, World, tokens
from promptsmith import Runtime
from promptsmith.catalog.tokens import estimate
from promptsmith.chat import Reply
from promptsmith.compiler.lint import Subject, lint
from promptsmith.evals.attempt import Answered, Grader
from promptsmith.evals.scorers import build_scorers
from promptsmith.evals.suite import Case as SuiteCase
from promptsmith.models import Model
from promptsmith.prompt import Pair, example_block

ROOT = Path(__file__).parents[1]
FAMILIES = DEV + HELD_OUT
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
dev_family = pytest.mark.parametrize("family", DEV, ids=lambda family: family.name)


def with_examples(world: World, count: int, order: Callable[[Case], object] = lambda case: 0) -> str:
    pairs = [Pair({"input": case.text}, case.expected) for case in sorted(world.visible[:count], key=order)]
    return f"{world.family.description}\n{example_block(pairs)}"


def empirical(family: Family, write: Callable[[World], str], seeds: int = 6) -> tuple[float, float]:
    """The mean score of prompts over all cases of some worlds, and their mean true score."""
    scores, truths = [], []
    for seed in range(seeds):
        world = World(family, seed)
        prompt = write(world)
        truths.append(world.truth(prompt))
        scores += [world.grade(case, world.answer(prompt, case.text))[0] for case in (*world.visible, *world.sealed)]
    return fmean(scores), fmean(truths)


# --- families ---------------------------------------------------------------------------------------------------


def test_half_of_the_families_are_held_out() -> None:
    assert len(FAMILIES) >= 8
    assert len(HELD_OUT) * 2 >= len(FAMILIES)
    assert all(family.held_out for family in HELD_OUT)
    assert not any(family.held_out for family in DEV)
    assert len({family.name for family in FAMILIES}) == len({family.character for family in FAMILIES}) == len(FAMILIES)


def test_nothing_but_this_benchmark_names_the_held_out_families() -> None:
    """Neither the package nor another test nor another benchmark may look at them."""
    allowed = {ROOT / "tests" / "test_simulated.py", *(ROOT / "benchmarks" / "simulated").glob("*.py")}
    files = [path for folder in ("promptsmith", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    named = re.compile(r"held_out\b|\bHELD_OUT\b")
    assert [path for path in files if path not in allowed and named.search(path.read_text("utf-8"))] == []


def test_the_package_imports_no_benchmark() -> None:
    imports = re.compile(r"^\s*(?:from|import) +(?:\.*)benchmarks\b", re.MULTILINE)
    assert [path for path in (ROOT / "promptsmith").rglob("*.py") if imports.search(path.read_text("utf-8"))] == []


@every_family
def test_inputs_are_many_and_varied(family: Family) -> None:
    world = World(family)
    texts = [case.text for case in (*world.visible, *world.sealed)]
    assert len(world.visible) == len(world.sealed) == 150
    assert len(set(texts)) == 300
    assert all("\n" not in text and '"' not in text and "\\" not in text and "{" not in text for text in texts)
    shown = {case.kind.name for case in world.visible}
    assert shown == {kind.name for kind in family.kinds if kind.weight / sum(one.weight for one in family.kinds) > 0.03} | shown


@every_family
def test_every_wording_is_recognised_as_what_it_says(family: Family) -> None:
    world = World(family)
    for facet in family.facets:
        for holds, sentences in ((True, facet.says), (False, facet.wrong)):
            for sentence in sentences:
                assert set(world.statements(f"Some text.\n- {sentence}\nMore text.")) == {(facet.name, holds)}, sentence


@every_family
def test_what_every_prompt_has_states_nothing(family: Family) -> None:
    world = World(family)
    assert list(world.statements("\n".join([family.description, *_FILLERS, *_ROLES]))) == []


@every_family
def test_examples_are_read_and_state_nothing(family: Family) -> None:
    world = World(family)
    cases = world.visible[:20]
    forms = (
        example_block([Pair({"input": case.text}, case.expected, json=family.shape == "json") for case in cases]),
        "\n\n".join(f"Input: {case.text}\nOutput: {case.expected}" for case in cases),
        "\n\n".join(f"[[ ## input ## ]]\n{case.text}\n\n[[ ## output ## ]]\n{case.expected}" for case in cases),
    )
    for form in forms:
        assert [(shown.case, shown.right) for shown in world.examples(form)] == [(case, True) for case in cases]
        assert list(world.statements(form)) == []


@every_family
def test_not_knowing_a_facet_changes_the_answer(family: Family) -> None:
    world = World(family)
    for case in world.visible:
        for name in case.kind.needs:
            score, why = world.grade(case, world.without(name, case))
            keys = len(family.schema["properties"]) if family.schema else 1
            assert score == pytest.approx(1 - 1 / keys if world.facet(name).key_of_json else 0)
            assert "expected" in why


@every_family
def test_feedback_is_what_the_default_scorers_say(family: Family, tmp_path: Path) -> None:
    """So that gepa and dspy are told the same as promptsmith's own compiler."""
    world = World(family)
    task = ours.task_of(world)
    grader = Grader(build_scorers(task.scorers, task.contract, folder=tmp_path), task.contract, {}, own=False)
    for case, example in zip(world.visible[:60], task.examples[:60], strict=True):
        assert example.inputs == {"input": case.text}
        outputs = {case.expected, f"Answer: {case.expected}", case.expected.upper(), "I can't tell from this message."}
        for output in {*outputs, *(world.without(name, case) for name in case.kind.needs)}:
            if family.shape == "json" and not output.startswith("{"):
                continue  # what is no JSON is told at more length there
            if family.shape == "json" and output == case.expected.upper():
                continue
            answered = Answered(
                reply=Reply(text=output, model="m"), usage=Reply(text="", model="").usage, cost=None, latency=0, source="model"
            )
            attempt = asyncio.run(grader.grade(SuiteCase(id="x", inputs={"input": case.text}, expected=example.output), answered))
            score, why = world.grade(case, output)
            if family.shape == "labels" and attempt.passed:
                continue  # a contract reads a label whatever its case; the model never answers so
            assert (score, why) == (pytest.approx(attempt.score), attempt.why)


def test_tokens_are_estimated_as_promptsmith_does() -> None:
    for text in ("", "abc", "abcd" * 100, "Grüße, 東京"):
        assert tokens(text) == estimate(text)


# --- the production model ---------------------------------------------------------------------------------------


@every_family
def test_answers_are_the_same_in_every_process(family: Family) -> None:
    world, again = World(family, 3), World(family, 3)
    prompt = world.ideal()
    assert [case.text for case in world.visible] == [case.text for case in again.visible]
    answers = [world.answer(prompt, case.text) for case in world.visible]
    assert answers == [again.answer(prompt, case.text) for case in again.visible]
    assert [case.text for case in World(family, 4).visible] != [case.text for case in world.visible]
    samples = [world.answer(prompt, case.text, 1) for case in world.visible]
    assert samples == [again.answer(prompt, case.text, 1) for case in again.visible]


def test_another_process_gives_the_same_numbers() -> None:
    code = (
        "from benchmarks.simulated.world import World; from benchmarks.simulated.dev import SUPPORT; w = World(SUPPORT, 5); "
        "print([w.answer(w.ideal(), case.text) for case in w.visible], w.truth(w.ideal()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    world = World(SUPPORT, 5)
    assert done.stdout.strip() == f"{[world.answer(world.ideal(), case.text) for case in world.visible]} {world.truth(world.ideal())}"


@every_family
@pytest.mark.parametrize("prompt", ["bare", "ideal", "examples", "drafted"])
def test_the_true_score_is_the_mean_of_many(family: Family, prompt: str) -> None:
    def write(world: World) -> str:
        if prompt == "drafted":
            return MetaModel(world).complete("Write a system prompt.", with_examples(world, 60))
        return {"bare": family.description, "ideal": world.ideal(), "examples": with_examples(world, 30)}[prompt]

    mean, truth = empirical(family, write)
    assert mean == pytest.approx(truth, abs=0.045)  # four standard errors of 1,800 draws


@every_family
def test_what_a_prompt_tells_is_what_it_is_worth(family: Family) -> None:
    world = World(family)
    bare = world.truth(family.description)
    needed = {name for kind in family.kinds for name in kind.needs}
    for facet in family.facets:
        if not facet.says:
            continue
        told = {world.truth(world.written([sentence])) for sentence in facet.says}
        assert max(told) - min(told) < 0.01  # but for their length, paraphrases are worth the same
        if facet.name in needed:
            assert min(told) > bare
        else:
            assert max(told) == pytest.approx(bare, abs=0.01)
        for sentence in facet.wrong:
            assert world.truth(world.written([sentence])) < bare
            assert world.truth(world.written([sentence])) < world.truth(world.written([sentence, facet.says[0]])) < min(told)


@pytest.mark.parametrize("family", [SUPPORT, ORDERS, CLAIMS, TONE], ids=lambda family: family.name)
def test_examples_teach_and_wrong_ones_do_not(family: Family) -> None:
    world = World(family)
    few, many = world.truth(with_examples(world, 10)), world.truth(with_examples(world, 40))
    assert world.truth(family.description) < few < many
    mislabelled = [Pair({"input": case.text}, "nonsense") for case in world.visible[:40]]
    assert world.truth(f"{family.description}\n{example_block(mislabelled)}") < few


def test_order_of_examples_matters_where_it_should() -> None:
    world = World(TONE)
    sorted_by_output = world.truth(with_examples(world, 30, lambda case: case.expected))
    mixed = world.truth(with_examples(world, 30, lambda case: case.text))
    assert mixed > sorted_by_output + 0.05
    world = World(SUPPORT)
    assert world.truth(with_examples(world, 30, lambda case: case.expected)) == pytest.approx(world.truth(with_examples(world, 30)))


def test_length_costs_and_costs_more_where_it_should() -> None:
    padding = "The weather has no part in this. " * 60
    for family, least in ((SUPPORT, 0.001), (VISITS, 0.08)):
        world = World(family)
        assert world.truth(f"{world.ideal()}\n{padding}") < world.best() - least


def test_flat_is_flat() -> None:
    world = World(FLAT)
    prompts = [FLAT.description, "", with_examples(world, 100), "Anything at all. " * 500, MetaModel(world).complete("Write.", "a prompt")]
    assert {world.truth(prompt) for prompt in prompts} == {0.7}


def test_one_of_eight_is_fifteen_points_better_and_few_cases_flip() -> None:
    world = World(ONE_OF_EIGHT, visible=600, sealed=0)
    truths = sorted(world.truth(prompt) for prompt in one_of_eight())
    assert truths == pytest.approx([0.7] * 7 + [0.85])
    best = max(one_of_eight(), key=world.truth)
    for other in one_of_eight():
        if other != best:
            marks = [
                (world.answer(best, case.text) == case.expected, world.answer(other, case.text) == case.expected) for case in world.visible
            ]
            assert fmean(one != two for one, two in marks) <= 0.2


def test_what_is_no_case_gets_no_answer() -> None:
    world = World(SUPPORT)
    assert world.answer(world.ideal(), "What is the weather?") == "I can't tell from this message."
    case = world.visible[0]
    assert world.answer("x", f"<input>\n{case.text}\n</input>") == world.answer("x", case.text)


def test_too_few_templates_are_an_error() -> None:
    poor = replace(FLAT, openers=("",), closers=("",), slots={"number": ("1",), "day": ("Monday",)})
    with pytest.raises(ValueError, match="flat make only 4 different inputs, not 300"):
        World(poor)


# --- the meta-model ---------------------------------------------------------------------------------------------


def failures_of(world: World, prompt: str, count: int) -> list[tuple[Case, str, str]]:
    found = []
    for case in world.visible:
        output = world.answer(prompt, case.text)
        score, why = world.grade(case, output)
        if score < 1:
            found.append((case, output, why))
    return found[:count]


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if any(f.says and not f.approach for f in family.facets)], ids=lambda f: f.name
)
def test_drafts_and_reflections_improve_on_average(family: Family) -> None:
    drafted, reflected, before = [], [], []
    for seed in range(8):
        world = World(family, seed)
        meta = MetaModel(world)
        draft = meta.complete("You write system prompts.", with_examples(world, 60))
        prompt = draft
        for step in range(4):
            shown = "\n\n".join(
                f"# Example\n## Inputs\n{c.text}\n\n## Output\n{o}\n\n## Feedback\n{w}" for c, o, w in failures_of(world, prompt, 3)
            )
            prompt = meta.complete("", f"The current instructions:\n{prompt}\n\nFailures:\n{shown}\n\nWrite better ones.", step)
        before.append(world.truth(family.description))
        drafted.append(world.truth(draft))
        reflected.append(world.truth(prompt))
    assert fmean(before) < fmean(drafted) < fmean(reflected)


def test_it_knows_only_what_a_request_shows() -> None:
    world = World(SUPPORT)
    meta = MetaModel(world)
    for sample in range(20):
        assert world.truth(meta.complete("Write a system prompt.", SUPPORT.description, sample)) == pytest.approx(
            world.truth(SUPPORT.description), abs=0.02
        )
    one = next(case for case in world.visible if case.kind.name == "gift")
    drafts = [meta.complete("Write a system prompt.", f"Input: {one.text}\nOutput: {one.expected}", sample) for sample in range(200)]
    assert {name for draft in drafts for name in world.knowledge(draft).told} == {"gift"}
    assert any(world.knowledge(draft).told == {"gift": False} for draft in drafts)  # and now and then it gets it wrong


def test_a_failure_tells_more_than_a_pair() -> None:
    world = World(SUPPORT)
    meta = MetaModel(world)
    one = next(case for case in world.visible if case.kind.name == "damaged")
    why = world.grade(one, "shipping")[1]
    pairs = [meta.complete("", f"Input: {one.text}\nOutput: {one.expected}", sample) for sample in range(100)]
    failures = [meta.complete("", f"Input: {one.text}\nOutput: shipping\nFeedback: {why}", sample) for sample in range(100)]
    learned = [sum(world.knowledge(text).told.get("damaged", False) for text in texts) for texts in (pairs, failures)]
    assert 0 < learned[0] < learned[1] - 10


def test_it_is_deterministic_and_varies_by_sample() -> None:
    world = World(CLAIMS)
    texts = [MetaModel(world).complete("Write.", with_examples(world, 40), sample) for sample in range(10)]
    assert texts == [MetaModel(World(CLAIMS)).complete("Write.", with_examples(world, 40), sample) for sample in range(10)]
    assert len(set(texts)) > 5


def test_asked_for_a_short_prompt_it_writes_a_shorter_one() -> None:
    world = World(SUPPORT)
    lengths = [
        fmean(tokens(MetaModel(world).complete(f"Write a {word} prompt.", "", sample)) for sample in range(30))
        for word in ("short", "good")
    ]
    assert lengths[0] < lengths[1] - 5


def test_answers_in_the_form_that_is_asked_for() -> None:
    assert wrapped("", "… Provide the new instructions within ``` blocks.", prompt="P", notes="N") == "```\nP\n```"
    start = "Respond with the corresponding output fields, starting with the field `[[ ## reasoning ## ]]`, "
    fields = wrapped(
        "",
        f"{start}then `[[ ## proposed_instruction ## ]]`, and then ending with the marker for `[[ ## completed ## ]]`.",
        prompt="P",
        notes="N",
    )
    assert fields == "[[ ## reasoning ## ]]\nN\n\n[[ ## proposed_instruction ## ]]\nP\n\n[[ ## completed ## ]]"
    tags = wrapped("Answer with <diagnosis>…</diagnosis> and <prompt>…</prompt>.", "<task>x</task>", prompt="P", notes="N")
    assert tags == "<diagnosis>\nN\n</diagnosis>\n<prompt>\nP\n</prompt>"
    keys = wrapped('Answer with a JSON object: {"diagnosis": text, "prompt": text}.', "", prompt="P", notes="N")
    assert json.loads(keys) == {"diagnosis": "N", "prompt": "P"}
    assert wrapped("Write a system prompt.", "<task>x</task>", prompt="P", notes="N") == "P"


@dev_family
def test_its_drafts_pass_the_lint(family: Family) -> None:
    world = World(family)
    task = ours.task_of(world)
    meter = Meter(world)
    for _ in range(20):
        draft = meter.complete("You write system prompts. Do not repeat the examples.", with_examples(world, 40))
        assert lint(Subject(text=draft, contract=task.contract, description=family.description)) == []


# --- counting and comparing -------------------------------------------------------------------------------------


def test_the_meter_counts_every_call() -> None:
    world = World(SUPPORT)
    meter = Meter(world)
    case = world.visible[0]
    output, score, why = meter.score("A prompt.", case)
    assert (output, (score, why)) == (world.answer("A prompt.", case.text), world.grade(case, output))
    meter.answer("A prompt.", case.text)
    assert (meter.scored, meter.meta) == (2, 0)
    assert meter.tokens_in == 2 * (tokens("A prompt.") + tokens(case.text))
    assert meter.tokens_out == 2 * tokens(output)
    first, second = (meter.complete("Write.", with_examples(world, 40)) for _ in range(2))
    assert first != second
    assert meter.complete("Write.", with_examples(world, 40), 0) == first
    assert (meter.scored, meter.meta) == (2, 3)
    assert meter.meta_tokens_out == 2 * tokens(first) + tokens(second)


def test_marks_tell_how_soon_a_score_was_reached() -> None:
    def climb(trial: Trial) -> Outcome:
        trial.mean(trial.description, trial.dev)
        trial.meter.mark(trial.description)
        trial.mean(trial.world.ideal(), trial.dev)
        return Outcome(trial.world.ideal(), 0.5)

    row = measured(Contender("climber", climb), SUPPORT, 0, 200)
    best = World(SUPPORT).best()
    assert (row.scored, row.meta) == (120, 0)
    assert row.calls_to(best) == 120
    assert row.calls_to(row.begun) == 60
    assert row.calls_to(0.99) is None
    assert row.overclaimed == pytest.approx(0.5 - (best - row.begun))
    assert Row.from_json(json.loads(json.dumps(row.as_json()))) == row


@dev_family
def test_best_of_k_keeps_its_budget(family: Family) -> None:
    row = measured(Contender("best", best_of_k), family, 1, 300)
    assert (row.scored, row.meta) == (300, 4)
    assert [measured(Contender("best", best_of_k), family, 1, budget).scored for budget in (1, 2, 7, 119, 121)] == [1, 2, 6, 118, 120]
    assert row == measured(Contender("best", best_of_k), family, 1, 300)


def test_choosing_the_best_of_many_overclaims_where_all_are_worth_the_same() -> None:
    """What the table is for: the claim of a naive search on the flat family is not true."""
    rows = [measured(Contender("best", best_of_k), FLAT, seed, 600) for seed in range(10)]
    assert all(row.truth == row.begun == 0.7 for row in rows)
    assert fmean(row.overclaimed or 0.0 for row in rows) > 0.03


def test_compile_and_dev_share_no_case() -> None:
    world = World(SUPPORT)
    trial = Trial(world, Meter(world), 100, 0)
    texts = [{case.text for case in part} for part in (trial.compile, trial.dev, world.sealed)]
    assert [len(part) for part in texts] == [90, 60, 150]
    assert len(set.union(*texts)) == 300


# --- promptsmith and its peers ----------------------------------------------------------------------------------


def test_simulated_models_serve_a_runtime(tmp_path: Path) -> None:
    (tmp_path / "promptsmith.toml").write_text("")
    world = World(SUPPORT)
    meter = Meter(world)
    assert all(isinstance(model, Model) for model in ours.models(meter).values())
    with Runtime(tmp_path, models=ours.models(meter), on_contract_break="pass") as runtime:
        task = ours.task_of(world, holdout=True)
        assert len(task.holdout) == 150
        results = [runtime.run(task, case.text, compile_missing=True) for case in world.sealed[:5]]
    assert (meter.scored, meter.meta) == (5, 1)
    assert all(result.model == ours.PRODUCTION and result.usage.input > 100 and result.text for result in results)
    assert meter.tokens_in == sum(result.usage.input for result in results)


@dev_family
@pytest.mark.parametrize("level", [0, 1])
def test_promptsmith_runs_as_a_contender(family: Family, level: int) -> None:
    contender = ours.CONTENDERS[level]
    assert contender.absent() == ""
    row = measured(contender, family, 0, 100)
    assert (row.scored, row.meta, row.claimed) == (0, level, None)
    assert row.truth >= row.begun - 0.001
    assert row.tokens > 500  # the examples stand in it


def test_who_is_absent_says_why_and_gets_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    absent = [one for one in contenders.contenders() if one.absent()]
    assert main(["--family", "flat", "--seeds", "1", "--budget", "60"]) == 0
    told = capsys.readouterr().out
    for one in absent:
        assert f"absent: {one.name}: {one.absent()}" in told
        assert not re.search(rf"^{re.escape(one.name)} ", told, re.MULTILINE)
    assert re.search(r"^best of k drafts +0\.700 +0\.700", told, re.MULTILINE)


def test_rows_as_json_and_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--family", "flat", "--seeds", "2", "--budget", "120", "--only", "best of k drafts", "--json"]) == 0
    rows = [Row.from_json(json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    assert [(row.family, row.seed, row.scored) for row in rows] == [("flat", 0, 120), ("flat", 1, 120)]
    assert main(["--family", "nowhere"]) == 2
    assert "nothing to run" in capsys.readouterr().err


def test_what_breaks_is_told_and_the_rest_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def fall(trial: Trial) -> Outcome:
        raise RuntimeError("no such thing")

    known = (Contender("best", best_of_k), Contender("faller", fall))
    assert main(["--family", "flat", "--seeds", "1", "--budget", "60"], known) == 1
    told = capsys.readouterr().out
    assert "broken: faller on flat, seed 0: RuntimeError: no such thing" in told
    assert re.search(r"^best +0\.700", told, re.MULTILINE)
    assert not re.search(r"^faller", told, re.MULTILINE)


def test_a_peers_interpreter_that_is_none_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    never = Contender("never", best_of_k, lambda: "never here")
    assert main(["--family", "flat", "--seeds", "1", "--peers", str(tmp_path / "python")], (never,)) == 1
    assert "No such file" in capsys.readouterr().out


def test_another_interpreter_runs_what_is_absent_here(capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = Contender("best of k drafts", best_of_k, lambda: "not in this process")
    assert main(["--family", "flat", "--seeds", "1", "--budget", "120", "--peers", sys.executable, "--json"], (elsewhere,)) == 0
    (row,) = (Row.from_json(json.loads(line)) for line in capsys.readouterr().out.splitlines())
    assert row == measured(Contender("best of k drafts", best_of_k), FLAT, 0, 120)


@pytest.mark.parametrize("run", peers.CONTENDERS, ids=lambda one: one.name)
def test_peers_run_where_they_are_installed(run: Contender) -> None:
    """Both ways: where a peer is absent it says which package is missing, where it is present it is measured."""
    if run.absent():
        assert re.search(r"is not installed|is installed, not", run.absent())
        assert importlib.util.find_spec(run.absent().split()[0]) is None or "is installed, not" in run.absent()
        return
    row = measured(run, SUPPORT, 0, 200)
    assert row.meta > 0
    assert row.scored > 100
    assert row.claimed is not None
