"""``promptsmith solve`` and the Python faces: problems in words, written plans, files, exit codes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

import promptsmith
from promptsmith import AsyncSolver, Outcome, Plan, run_plan, solve, stream_solve
from promptsmith.config import Project
from promptsmith.errors import InputError, SourceError
from promptsmith.orchestration.files import write_files
from promptsmith.orchestration.values import Event

from .conducting import PRICES, STRONG, Models, done, plan, settings, step
from .provider import KEY, Ask, Fault, Provider, Said

Make = Callable[..., Project]
Invoke = Callable[..., Result]
PROBLEM = "Compare two cities."

WORDS = """\
name: words
about: Counts the words of a text, and says how many there are.
inputs: {text: text}
steps:
  - {id: count, worker: "tools:count", context: [text]}
  - {id: say, worker: "tools:say", needs: [count], context: [count]}
result: [say]
"""
TOOLS = """\
def count(text):
    return len(text.split())

def say(count):
    return f"{count} words"

def fail(text):
    raise ValueError(text)
"""


@pytest.fixture
def models() -> Models:
    return Models(plan(step("a"), step("b")))


@pytest.fixture
def provider(models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(models) as running:
        yield running


@pytest.fixture
def project(make_project: Make, provider: Provider) -> Project:
    return make_project({}, config=settings(provider))


@pytest.fixture
def bare(make_project: Make, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with no model, no key, and a module of functions beside its settings."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    project = make_project({})
    (project.root / "tools.py").write_text(TOOLS)
    (project.root / "words.yaml").write_text(WORDS)
    monkeypatch.chdir(project.root)
    return project


# --- problems in words ------------------------------------------------------------------------------------


def test_a_problem_is_solved_and_the_answer_is_all_of_stdout(project: Project, invoke: Invoke, models: Models) -> None:
    ended = invoke("solve", PROBLEM, project=project)
    assert ended.stdout == "The whole answer.\n"
    assert "conductor  2" in ended.stderr and "expert     2" in ended.stderr and "done" in ended.stderr
    assert sorted(models.kinds()) == ["expert", "expert", "plan", "review"]


def test_json_is_the_whole_outcome(project: Project, invoke: Invoke) -> None:
    told = json.loads(invoke("solve", PROBLEM, "--json", project=project).stdout)
    assert told["state"] == "done" and told["answer"] == "The whole answer."
    assert [result["id"] for result in told["results"]] == ["a", "b"]
    assert {cost["role"]: cost["calls"] for cost in told["costs"]} == {"conductor": 2, "expert": 2}


def test_plan_only_writes_yaml_that_can_be_edited_and_run(project: Project, invoke: Invoke, models: Models, tmp_path: Path) -> None:
    written = invoke("solve", PROBLEM, "--plan-only", project=project).stdout
    assert models.kinds() == ["plan"]
    assert yaml.safe_load(written)["about"] == PROBLEM
    file = tmp_path / "plan.yaml"
    file.write_text(written.replace("Do b.", "Do b with care."))
    ended = invoke("solve", file, project=project)
    assert ended.stdout == "The whole answer.\n"
    # The plan is not asked for again; its results are put together by the conductor.
    assert sorted(models.kinds()) == ["expert", "expert", "plan", "review"]
    assert any("Do b with care." in ask.text for ask in models.of("expert"))
    assert PROBLEM in models.of("expert")[0].text


def test_inputs_are_texts_files_and_any_json(project: Project, invoke: Invoke, models: Models, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("from a file\n")
    models.said["plan"] = [plan({**step("a"), "context": ["place", "note", "features"]}, synthesis="", result=["a"])]
    given = ["--var", "place=Rome", "--var", f"note=@{tmp_path / 'note.txt'}", "--var", 'features:=["warm", {"old": true}]']
    invoke("solve", PROBLEM, *given, project=project)
    (asked,) = models.of("expert")
    for text in ("Rome", "from a file", '["warm", {"old": true}]'):
        assert text in asked.text


@pytest.mark.parametrize("option", ["place", "features:=[1,"])
def test_a_wrong_input_is_named(project: Project, invoke: Invoke, models: Models, option: str) -> None:
    assert option.partition(":")[0] in invoke("solve", PROBLEM, "--var", option, project=project, code=2).stderr
    assert not models.asked


def test_without_a_conductor_it_says_what_to_do(bare: Project, invoke: Invoke) -> None:
    ended = invoke("solve", PROBLEM, project=bare, code=2)
    assert "no conductor is named" in ended.stderr and "--conductor" in ended.stderr
    assert "Traceback" not in ended.output


def test_a_missing_key_is_named(make_project: Make, provider: Provider, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    ended = invoke("solve", PROBLEM, project=make_project({}, config=settings(provider)), code=4)
    assert "OPENAI_API_KEY" in ended.stderr


def test_recorded_replies_need_no_key(project: Project, invoke: Invoke, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered once, plan and synthesis too, is answered from the cache by whoever runs it again."""
    first = invoke("solve", PROBLEM, project=project)
    asked = len(models.asked)
    monkeypatch.delenv("OPENAI_API_KEY")
    again = invoke("solve", PROBLEM, project=project)
    assert again.stdout == first.stdout and len(models.asked) == asked


def test_a_word_that_is_no_pattern_is_no_problem_either(project: Project, invoke: Invoke, models: Models) -> None:
    assert "neither a pattern nor a plan's file" in invoke("solve", "code-revew", project=project, code=2).stderr
    assert not models.asked


def test_the_html_page_holds_the_run(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    invoke("solve", PROBLEM, "--html", page, project=project)
    text = page.read_text()
    assert PROBLEM in text and "The whole answer." in text and "a-expert" in text


# --- exit codes -------------------------------------------------------------------------------------------


def test_a_limit_is_exit_5_and_the_same_command_goes_on(project: Project, invoke: Invoke, models: Models) -> None:
    ended = invoke("solve", PROBLEM, "--max-calls", "2", project=project, code=5)
    assert "stopped" in ended.stderr and len(models.asked) == 2
    invoke("solve", PROBLEM, "--max-calls", "9", project=project)
    assert len(models.asked) == 4


def test_a_limit_that_leaves_no_plan_is_exit_5(project: Project, invoke: Invoke, models: Models) -> None:
    invoke("solve", PROBLEM, "--max-calls", "0", project=project, code=5)
    invoke("solve", PROBLEM, "--max-cost", "0.000001", project=project, code=5)
    assert not models.asked


def test_an_unknown_price_and_a_limit_in_dollars_is_exit_2(make_project: Make, provider: Provider, invoke: Invoke) -> None:
    text = settings(provider, prices="").replace(STRONG, "openai/gpt-6.1-solaris")
    assert "price" in invoke("solve", PROBLEM, "--max-cost", "1", project=make_project({}, config=text), code=2).stderr


def test_a_plan_that_cant_be_read_is_exit_4(project: Project, invoke: Invoke, models: Models) -> None:
    models.said["plan"] = ["No plan."]
    assert "wrote no plan that can be used" in invoke("solve", PROBLEM, project=project, code=4).stderr


def test_a_decision_that_cant_be_read_is_exit_4_and_says_what_is_kept(project: Project, invoke: Invoke, models: Models) -> None:
    models.said["review"] = ["ignore the plan"]
    ended = invoke("solve", PROBLEM, project=project, code=4)
    assert not ended.stdout and "failed" in ended.stderr and "2 of 2 steps" in ended.stderr


def test_a_failed_step_is_exit_1(project: Project, invoke: Invoke, models: Models) -> None:
    models.expert = ""
    ended = invoke("solve", PROBLEM, project=project, code=1)
    assert "step a failed" in ended.stderr and not ended.stdout


def test_a_provider_that_is_down_is_exit_4(make_project: Make, provider: Provider, invoke: Invoke) -> None:
    project = make_project({}, config=settings(provider))
    provider.faults.every(Fault("status", status=503, retry_after="3600"))
    invoke("solve", PROBLEM, project=project, code=4)


# --- grading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["contains: Rome", "{contains: Rome}", "contains: {value: Rome}", "python: 'tools.py:names_rome'"])
def test_an_answer_is_graded_by_scorers_as_a_task_has_them(project: Project, invoke: Invoke, models: Models, said: str) -> None:
    (project.root / "tools.py").write_text("def names_rome(output):\n    return 'Rome' in output\n")
    models.said["review"] = [done("Neither."), done("Rome.")]
    told = json.loads(invoke("solve", PROBLEM, "--evaluate", said, "--json", project=project).stdout)
    assert (told["answer"], told["score"]) == ("Rome.", 1.0)


@pytest.mark.parametrize("said", ["contians: Rome", "{contains", "contains: {valeu: x}", "[a, b]"])
def test_a_wrong_scorer_is_named_before_anything_is_asked(project: Project, invoke: Invoke, models: Models, said: str) -> None:
    assert "Traceback" not in invoke("solve", PROBLEM, "--evaluate", said, project=project, code=2).output
    assert not models.asked


# --- asking before it costs -------------------------------------------------------------------------------


def test_a_dear_plan_is_confirmed_first(make_project: Make, provider: Provider, invoke: Invoke, models: Models) -> None:
    dear = PRICES.replace("input = 1\noutput = 5", "input = 1000\noutput = 5000")
    project = make_project({}, config=settings(provider, prices=dear))
    ended = invoke("solve", PROBLEM, project=project, code=2)
    assert "may cost up to $" in ended.stderr and "--yes" in ended.stderr
    assert models.kinds() == ["plan"]
    invoke("solve", PROBLEM, "--yes", project=project)
    assert sorted(models.kinds()) == ["expert", "expert", "plan", "review"]


# --- written plans ----------------------------------------------------------------------------------------


def test_a_written_plan_of_functions_needs_no_key_and_no_model(bare: Project, invoke: Invoke) -> None:
    ended = invoke("solve", "words.yaml", "--var", "text=one two three", project=bare)
    assert ended.stdout == "3 words\n"
    again = json.loads(invoke("solve", "words.yaml", "--var", "text=one two", "--json", project=bare).stdout)
    assert [(result["id"], result["state"]) for result in again["results"]] == [("count", "done"), ("say", "done")]


def test_a_written_plan_of_builtin_models_needs_no_key(make_project: Make, invoke: Invoke, tmp_path: Path) -> None:
    project = make_project()
    file = tmp_path / "mood.yaml"
    file.write_text("inputs: {message: text}\nsteps:\n  - {id: mood, expert: sentiment, context: [message]}\n")
    assert invoke("solve", file, "--var", "message=This product is amazing!", project=project).stdout == "positive\n"


@pytest.mark.parametrize("given", [(), ("--var", "text=a", "--var", "other=b")], ids=["missing", "unknown"])
def test_inputs_of_a_written_plan_are_checked(bare: Project, invoke: Invoke, given: tuple[str, ...]) -> None:
    ended = invoke("solve", "words.yaml", *given, project=bare, code=2)
    assert ("other" if given else "text") in ended.stderr


def test_inputs_of_a_written_plan_with_a_synthesis_are_checked_as_well(project: Project, invoke: Invoke, models: Models) -> None:
    file = project.root / "both.yaml"
    file.write_text(
        "inputs: {text: text}\nexperts: [{name: e, role: R.}]\nsynthesis: Nicely.\nabout: A text.\n"
        "steps:\n  - {id: a, expert: e, instructions: Do it., context: [text]}\n"
    )
    assert "'text'" in invoke("solve", file, project=project, code=2).stderr
    assert not models.asked


def test_a_wrong_plan_is_told_with_its_lines(bare: Project, invoke: Invoke) -> None:
    (bare.root / "bad.yaml").write_text(WORDS.replace("needs: [count]", "needs: [cuont]"))
    ended = invoke("solve", "bad.yaml", "--var", "text=a", project=bare, code=2)
    assert "bad.yaml:6" in ended.stderr and "did you mean" in ended.stderr
    assert "no such file" in invoke("solve", "nowhere.yaml", project=bare, code=2).stderr


def test_a_failed_function_is_exit_1_and_named(bare: Project, invoke: Invoke) -> None:
    (bare.root / "fails.yaml").write_text("inputs: {text: text}\nsteps:\n  - {id: it, worker: 'tools:fail', context: [text], retries: 0}\n")
    assert "step it failed" in invoke("solve", "fails.yaml", "--var", "text=why not", project=bare, code=1).stderr


def test_plan_only_of_a_written_plan_needs_no_conductor(bare: Project, invoke: Invoke) -> None:
    written = invoke("solve", "words.yaml", "--plan-only", project=bare).stdout
    assert yaml.safe_load(written)["result"] == ["say"]


def test_a_written_plan_with_a_synthesis_needs_a_conductor(bare: Project, invoke: Invoke) -> None:
    (bare.root / "both.yaml").write_text(WORDS + "synthesis: Say it nicely.\n")
    assert "no conductor is named" in invoke("solve", "both.yaml", "--var", "text=a", project=bare, code=2).stderr


# --- files ------------------------------------------------------------------------------------------------


def test_out_holds_answer_plan_and_results(bare: Project, invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "made"
    invoke("solve", "words.yaml", "--var", "text=one two", "--out", out, project=bare)
    assert (out / "answer.md").read_text() == "2 words\n"
    assert (out / "results" / "count.json").read_text() == "2\n"
    assert yaml.safe_load((out / "plan.yaml").read_text())["name"] == "words"
    before = (out / "answer.md").stat().st_mtime_ns
    ended = invoke("solve", "words.yaml", "--var", "text=one", "--out", out, project=bare, code=2)
    assert "is there already" in ended.stderr and (out / "answer.md").stat().st_mtime_ns == before
    invoke("solve", "words.yaml", "--var", "text=one", "--out", out, "--yes", project=bare)
    assert (out / "answer.md").read_text() == "1 words\n"


BAD_PATHS = ["../x", "/etc/x", "a/../../x", "", "a\\b", "a\0b", "~/x:y", "..", "a//../b"]


@pytest.mark.parametrize("name", BAD_PATHS)
def test_nothing_is_written_outside_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    with pytest.raises(InputError, match="can't be a file"):
        write_files(folder, {"good.txt": "x", name: "x"})
    assert not folder.exists() and [path.name for path in tmp_path.iterdir() if path.name != "user-cache"] == []


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    folder, other = tmp_path / "out", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (other / "kept.txt").write_text("mine")
    (folder / "dir").symlink_to(other)
    (folder / "file.txt").symlink_to(other / "kept.txt")
    for name in ("dir/new.txt", "file.txt", "dir"):
        with pytest.raises(InputError, match="symbolic link"):
            write_files(folder, {name: "theirs"}, overwrite=True)
    assert [path.name for path in other.iterdir()] == ["kept.txt"] and (other / "kept.txt").read_text() == "mine"


@given(st.lists(st.text(alphabet=st.sampled_from("ab./\\~-_ \0\n"), max_size=8), max_size=4))
def test_whatever_a_path_is_it_stays_below_the_folder(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    base = tmp_path_factory.mktemp("paths")
    folder = base / "out"
    try:
        written = write_files(folder, dict.fromkeys(names, "x"))
    except InputError:
        written = []
    assert all(folder.resolve() in path.resolve().parents for path in written)
    assert [path.name for path in base.iterdir()] in ([], ["out"])


# --- Python -----------------------------------------------------------------------------------------------


def test_solve_in_python(project: Project, models: Models) -> None:
    seen: list[Event] = []
    outcome = solve(
        PROBLEM,
        project=project,
        on_event=seen.append,
        rounds=1,
        evaluate=["contains: whole", {"contains": {"value": "answer", "name": "b"}}],
    )
    assert outcome.score == 1.0
    assert isinstance(outcome, Outcome) and outcome.answer == "The whole answer."
    kinds = [event.kind for event in seen]
    assert kinds[0] == "run" and kinds[-1] == "ended" and kinds.count("step_done") == 2 and "synthesis" in kinds
    assert [event.at for event in seen] == sorted(event.at for event in seen)
    assert len(models.asked) == 4


def test_events_stream_as_they_happen_and_the_outcome_comes_last(project: Project) -> None:
    async def all_of() -> list[Event | Outcome]:
        return [one async for one in stream_solve(PROBLEM, project=project)]

    *events, last = asyncio.run(all_of())
    assert isinstance(last, Outcome) and last.state == "done"
    told = [event for event in events if isinstance(event, Event)]
    assert len(told) == len(events) and [event.kind for event in told] == [event.kind for event in last.events]


def test_a_stream_that_is_left_early_ends_the_run(project: Project, models: Models) -> None:
    async def first() -> None:
        stream = stream_solve(PROBLEM, project=project)
        async for event in stream:
            assert isinstance(event, Event)
            break
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator

    asyncio.run(first())
    assert len(models.asked) <= 1


def test_an_error_of_a_stream_is_raised(project: Project, models: Models) -> None:
    models.said["plan"] = ["no plan"]

    async def all_of() -> list[Event | Outcome]:
        return [one async for one in stream_solve(PROBLEM, project=project)]

    with pytest.raises(promptsmith.PromptsmithError, match="wrote no plan"):
        asyncio.run(all_of())


def test_a_plan_from_yaml_is_run_in_python(bare: Project) -> None:
    made = Plan.from_yaml(WORDS, project=bare)
    assert made.name == "words" and Plan.from_yaml(bare.root / "words.yaml", project=bare).steps[0].worker == "tools:count"
    outcome = run_plan(made, {"text": "a b c d"}, project=bare)
    assert outcome.answer == "4 words"
    assert Plan.from_yaml(made.to_yaml(), project=bare).result == made.result
    with pytest.raises(SourceError):
        Plan.from_yaml("steps: []\n", project=bare)


def test_async_code_awaits_the_same(bare: Project) -> None:
    async def both() -> list[str]:
        solver = AsyncSolver(bare.root)
        made = Plan.from_yaml(WORDS, project=bare)
        outcomes = await asyncio.gather(*(solver.run_plan(made, {"text": "x " * number}) for number in (1, 2)))
        return [outcome.answer for outcome in outcomes]

    assert asyncio.run(both()) == ["1 words", "2 words"]


def test_models_are_brought_along(make_project: Make, toy: Callable[..., object]) -> None:
    strong = toy(lambda request: plan(step("a"), synthesis="", result=["a"]), name="mine/strong")
    cheap = toy("From mine.", name="mine/cheap")
    project = make_project({}, config='[models]\nproduction = "mine/cheap"\nconductor = "mine/strong"\n[compile]\nlevel = 0\n')
    assert solve(PROBLEM, project=project, models={"mine/strong": strong, "mine/cheap": cheap}).answer == "From mine."


def test_killed_at_any_point_it_goes_on_and_repeats_only_what_was_under_way(
    make_project: Make, models: Models, monkeypatch: pytest.MonkeyPatch, invoke: Invoke
) -> None:
    """kill -9 after each request: decisions of the conductor and finished steps are not paid for again."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chain = plan(step("a"), step("b", "a"), step("c", "b"))
    for point in range(1, 6):
        models.said["plan"], models.asked = [chain], []
        held = threading.Event()

        async def wait(ask: Ask, point: int = point, held: threading.Event = held) -> str | Said:
            if len(models.asked) == point - 1 and not held.is_set():
                models.asked.append(("killed", ask))
                held.set()
                await asyncio.sleep(3600)
            answer = models(ask)
            assert isinstance(answer, str)
            return answer

        with Provider(wait) as provider:
            project = make_project({}, config=settings(provider), name=f"killed-{point}")
            running = subprocess.Popen([sys.executable, "-m", "promptsmith", "--project", str(project.root), "solve", PROBLEM])
            assert held.wait(60)
            running.kill()
            running.wait()
            assert invoke("solve", PROBLEM, project=project).stdout == "The whole answer.\n"
        # Five calls, and the one that was under way twice.
        assert sorted(models.kinds()) == sorted(["killed", "plan", "expert", "expert", "expert", "review"]), point
