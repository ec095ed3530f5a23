"""The pytest plugin, each time in a pytest of its own: warnings are errors there, and no run may show a traceback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from promptsmith.config import CONFIG_NAME, Project
from promptsmith.evals.report import Head, Reports
from promptsmith.pytest_plugin import _may_have_settings

from .provider import KEY, Ask, Fault, Provider
from .test_architecture import HEAVY

Ended = subprocess.CompletedProcess[str]
MakeProject = Callable[..., Project]

FRUIT = """\
task: Say whether it is a fruit or a tool.
output: [fruit, tool]
holdout: {file: data/sealed.jsonl}
examples:
  - {input: "a ripe sweet apple", output: fruit}
  - {input: "a ripe sweet pear", output: fruit}
  - {input: "a heavy steel hammer", output: tool}
  - {input: "a heavy steel wrench", output: tool}
"""
GOOD = [
    *({"input": f"a ripe sweet plum {n}", "output": "fruit", "id": f"fruit-{n}"} for n in range(8)),
    *({"input": f"a heavy steel saw {n}", "output": "tool", "id": f"tool-{n}"} for n in range(8)),
]
WRONG = [*GOOD[:-1], {"input": "a ripe sweet chisel", "output": "tool", "id": "odd one"}]


_ALONE = ("-p", "no:schemathesis", "-p", "no:hypothesispytest")
"""Without the plugins of our own tests that take longer to load than all the rest."""


def run(project: Project | Path, *args: str, code: int | None = None, **env: str) -> Ended:
    """``pytest ARGS`` in the project's folder."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "OPENAI_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *_ALONE, "-W", "error", *args],
        cwd=project.root if isinstance(project, Project) else project,
        env=clean | env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout
    if code is not None:
        assert done.returncode == code, done.stdout + done.stderr
    return done


def outcomes(done: Ended) -> dict[str, int]:
    """The counts of pytest's last line."""
    last = done.stdout.rstrip().rsplit("\n", 1)[-1]
    return {what.rstrip("s"): int(number) for number, what in re.findall(r"(\d+) (passed|failed|errors?|skipped|deselected)", last)}


def reports(project: Project) -> list[Head]:
    return Reports(project.cache).heads()


@pytest.fixture
def fruit(promoted: Callable[..., Project]) -> Callable[..., Project]:
    """A project with one task in production that ``builtin/nearest`` serves well."""

    def make(rows: list[dict[str, str]] | None = None, **more: object) -> Project:
        return promoted({"fruit": FRUIT}, {"data/sealed.jsonl": GOOD if rows is None else rows}, **more)

    return make


# --- what is collected ------------------------------------------------------------------------------------


def test_items_are_the_cases_and_the_gate(fruit: Callable[..., Project]) -> None:
    """One item a case by id, and the gate; collecting them runs nothing and needs neither model nor key."""
    project = fruit(config="[models]\nproduction = 'openai/gpt-6-luna'\n")
    listed = run(project, "evals", "--collect-only", "-q", code=0).stdout
    assert [line.removeprefix("evals/fruit.yaml::") for line in listed.splitlines() if "::" in line] == [
        *(row["id"] for row in GOOD),
        "gate",
    ]
    assert reports(project) == []
    assert not list(project.cache.glob("journals/eval-*"))


def test_everything_passes_where_the_gate_promotes(fruit: Callable[..., Project]) -> None:
    project = fruit()
    done = run(project, "evals", "-rP", code=0)
    assert outcomes(done) == {"passed": len(GOOD) + 1}
    (head,) = reports(project)
    assert head.judgement.verdict == "promote"
    assert f"promote: {'; '.join(head.judgement.reasons)}" in done.stdout
    assert "builtin/nearest is no language model" in done.stdout


def test_foreign_yaml_is_left_alone(fruit: Callable[..., Project]) -> None:
    """Beside the evals folder, data and other tools' YAML in it, other endings; a folder without settings."""
    project = fruit()
    task = (project.evals / "fruit.yaml").read_text()
    (project.root / "elsewhere.yaml").write_text(task)
    (project.root / "deploy").mkdir()
    (project.root / "deploy" / "service.yaml").write_text("kind: Service\n---\nkind: Deployment\n")
    (project.evals / "fruit.yml").write_text(task)
    (project.evals / "data" / "rows.yaml").write_text("- {input: a, output: b}\n- {input: c, output: d}\n")
    (project.evals / "data" / "more.yaml").write_text("rows: [1, 2]\n")
    stranger = project.root.parent / "stranger"
    (stranger / "evals").mkdir(parents=True)
    (stranger / "evals" / "fruit.yaml").write_text(task)
    listed = run(project, ".", "../stranger", "--collect-only", "-q", code=0).stdout
    assert {line.partition("::")[0] for line in listed.splitlines() if "::" in line} == {"project/evals/fruit.yaml"}
    assert run(stranger, "evals", code=5).stdout.count("no tests ran") == 1


def test_a_task_without_holdout_has_no_items(promoted: Callable[..., Project]) -> None:
    run(promoted(), "evals", code=5)


def test_a_case_that_is_called_gate(fruit: Callable[..., Project]) -> None:
    listed = run(fruit([*GOOD, {"input": "a heavy steel file", "output": "tool", "id": "gate"}]), "evals", "--collect-only", "-q").stdout
    assert [line.partition("::")[2] for line in listed.splitlines() if "::" in line][-2:] == ["gate (case)", "gate"]


def test_settings_in_pyproject_and_another_evals_folder(fruit: Callable[..., Project]) -> None:
    project = fruit()
    (project.root / "evals").rename(project.root / "suites")
    (project.root / CONFIG_NAME).unlink()
    (project.root / "pyproject.toml").write_text("[tool.promptsmith]\nevals = 'suites'\n")
    assert outcomes(run(project, ".", "-k", "gate", code=0)) == {"passed": 1, "deselected": len(GOOD)}


def test_only_settings_make_a_folder_a_candidate(tmp_path: Path) -> None:
    """The plugin's own test for a project, made without reading settings, sees all that ``config.py`` takes for one."""
    assert not _may_have_settings(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert not _may_have_settings(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool]\npromptsmith = {evals = 'suites'}\n")
    assert _may_have_settings(tmp_path)
    (tmp_path / "pyproject.toml").unlink()
    (tmp_path / CONFIG_NAME).touch()
    assert _may_have_settings(tmp_path)


def test_it_costs_nothing_where_it_is_not_used(tmp_path: Path) -> None:
    """In a folder without settings the plugin is there, and nothing heavier than pytest was loaded for it."""
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "fruit.yaml").write_text(FRUIT)
    (tmp_path / "test_it.py").write_text(f"""
import sys
def test_loaded(pytestconfig):
    assert pytestconfig.pluginmanager.hasplugin("promptsmith")
    assert not set(sys.modules) & {set(HEAVY) | {"click"}!r}
    ours = {{name for name in sys.modules if name.split(".")[0] == "promptsmith"}}
    assert ours == {{"promptsmith", "promptsmith.version", "promptsmith.pytest_plugin"}}
""")
    assert outcomes(run(tmp_path, ".", "-p", "no:xdist", code=0)) == {"passed": 1}
    assert [entry.value for entry in entry_points(group="pytest11") if entry.name == "promptsmith"] == ["promptsmith.pytest_plugin"]


# --- what can't be judged ---------------------------------------------------------------------------------


def test_no_production_prompt_is_one_error_that_says_what_to_run(make_project: MakeProject) -> None:
    project = make_project({"fruit": FRUIT}, {"data/sealed.jsonl": GOOD})
    done = run(project, "evals", code=1)
    assert outcomes(done) == {"error": 1}
    assert "task fruit has no prompt at @production" in done.stdout
    assert "promptsmith compile fruit" in done.stdout
    assert "fruit.yaml::gate" in done.stdout


def test_a_broken_task_file_shows_every_problem_and_hides_no_other_task(fruit: Callable[..., Project]) -> None:
    project = fruit()
    (project.evals / "broken.yaml").write_text(FRUIT.replace("task:", "taks:").replace("[fruit, tool]", "[fruit]"))
    (project.evals / "scored.yaml").write_text(FRUIT + "scorers: [exakt]\ngate: {require: {pass_rate: '> 90%'}}\n")
    (project.evals / "torn.yaml").write_text("task: [\n")
    done = run(project, "evals", code=1)
    assert outcomes(done) == {"passed": len(GOOD) + 1, "error": 3}
    for line in ("broken.yaml:1: ", "broken.yaml:2: ", "scored.yaml:9: ", "scored.yaml:10: ", "torn.yaml:1: "):
        assert f"evals/{line}" in done.stdout, line


def test_broken_settings_are_told_in_one_place(fruit: Callable[..., Project]) -> None:
    project = fruit()
    (project.root / CONFIG_NAME).write_text("evlas = 'x'\n")
    done = run(project, "evals")
    assert done.returncode == 2
    assert f"{CONFIG_NAME}:1: unknown key 'evlas'" in done.stdout


def test_a_damaged_lock_is_an_error_and_no_older_copy_is_judged(fruit: Callable[..., Project]) -> None:
    project = fruit()
    run(project, "evals", "-k", "gate", code=0)  # from now on there is a last good copy
    project.lock.write_text(project.lock.read_text().replace("fruit or a tool", "fruit or a stone"))
    done = run(project, "evals", code=1)
    assert outcomes(done) == {"error": 1}
    assert "promptsmith.lock" in done.stdout


def test_a_case_without_a_score_is_an_error_with_the_reason(fruit: Callable[..., Project]) -> None:
    project = fruit()
    with (project.evals / "fruit.yaml").open("a") as file:
        file.write("scorers: [{python: 'own.py:grade'}]\n")
    (project.evals / "own.py").write_text(
        "def grade(output, case):\n    if case == 'tool-3':\n        raise LookupError('no such tool')\n    return True\n"
    )
    done = run(project, "evals", code=1)
    assert outcomes(done) == {"passed": len(GOOD) - 1, "error": 1, "failed": 1}
    assert "ERROR at setup of fruit: tool-3" in done.stdout
    assert re.search(r"no score: .*no such tool", done.stdout)
    assert re.search(r"^inconclusive: 1 case of 16 without a score \(tool-3\)", done.stdout, re.MULTILINE)


def test_a_case_that_the_prompt_was_built_from_is_skipped(fruit: Callable[..., Project]) -> None:
    project = fruit()
    shown = '  - {input: "a ripe sweet apple", output: fruit}\n'
    (project.evals / "fruit.yaml").write_text(FRUIT.replace(shown, ""))
    with (project.evals / "data" / "sealed.jsonl").open("a") as file:
        file.write('{"input": "a ripe sweet apple", "output": "fruit", "id": "known"}\n')
    done = run(project, "evals", "-rs", code=0)
    assert outcomes(done) == {"passed": len(GOOD) + 1, "skipped": 1}
    assert "left the suite: the candidate was built from it" in done.stdout


# --- failures ---------------------------------------------------------------------------------------------


def test_a_failing_case_shows_expected_actual_and_why(fruit: Callable[..., Project]) -> None:
    """The block, the first line in the summary; ``-k`` by case id and ``--lf`` work; the other cases pass."""
    project = fruit(WRONG)
    done = run(project, "evals", code=1)
    assert outcomes(done) == {"passed": len(GOOD), "failed": 1}  # one of sixteen: the gate promotes
    _, _, block = done.stdout.partition("_ fruit: odd one _")
    assert re.match(
        r"_+\nexpected 'tool', got 'fruit'\nexpected: tool\nactual:   fruit\nrow:      evals/data/sealed.jsonl:16\n=+ short", block
    )
    assert "FAILED evals/fruit.yaml::odd one - Failed: expected 'tool'" in done.stdout
    assert outcomes(run(project, "evals", "-k", "fruit-3", code=0)) == {"passed": 1, "deselected": len(GOOD)}
    again = run(project, "evals", "--lf", "-v", code=1)
    assert outcomes(again) == {"failed": 1}
    assert "odd one FAILED" in again.stdout


def test_a_regressed_case_shows_what_came_before(fruit: Callable[..., Project], invoke: Callable[..., object]) -> None:
    """Where the gate compares with another prompt."""
    project = fruit()
    invoke("promote", "fruit@production", "--to", "stable", project=project)
    changed = FRUIT.replace('hammer", output: tool', 'hammer", output: fruit') + "gate: {versus: stable}\n"
    (project.evals / "fruit.yaml").write_text(changed.replace("steel wrench", "iron wrench"))
    invoke("compile", "fruit", project=project)
    invoke("promote", "fruit", "--force", "--why", "a worse one", project=project)
    done = run(project, "evals", "-k", "tool-2 or gate", code=1)
    assert outcomes(done) == {"failed": 2, "deselected": len(GOOD) - 1}
    assert (
        "\nregressed: expected 'tool', got 'fruit'\nexpected: tool\nactual:   fruit\nbefore:   tool\nrow:      evals/data/sealed.jsonl:11\n"
    ) in done.stdout
    assert "\nreject: worse than production" in done.stdout


@pytest.mark.parametrize(
    ("gate", "word"),
    [("gate: {require: {pass_rate: '>= 0.99'}}\n", "reject"), ("gate: {require: {p95_ms: '<= 0'}}\n", "reject"), ("", "inconclusive")],
)
def test_the_gate_fails_with_the_verdicts_words(fruit: Callable[..., Project], gate: str, word: str) -> None:
    project = fruit(WRONG if gate else [*GOOD[:2], *WRONG[-2:]])
    with (project.evals / "fruit.yaml").open("a") as file:
        file.write(gate)
    done = run(project, "evals", "-k", "gate", code=1)
    (head,) = reports(project)
    assert head.judgement.verdict == word
    assert f"\n{word}: {'; '.join(head.judgement.reasons)}\n" in done.stdout
    assert f"promptsmith report {head.id} --html FILE" in done.stdout
    assert f"FAILED evals/fruit.yaml::gate - Failed: {word}: " in done.stdout


# --- models -----------------------------------------------------------------------------------------------


def answers(ask: Ask) -> str:
    return "fruit" if "sweet" in ask.text else "tool"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(answers) as running:
        yield running


def endpoint(provider: Provider, production: str = "openai/gpt-6-luna") -> str:
    return f"""
[models]
production = "{production}"
[endpoints.openai]
protocol = "openai"
base_url = "{provider.base_url_openai}"
api_key_env = "OPENAI_API_KEY"
foreign = false
"""


def test_under_xdist_the_eval_runs_once(fruit: Callable[..., Project], provider: Provider) -> None:
    """Two workers share the items of a file: one report, one call a case, the same outcomes as without."""
    project = fruit(WRONG, config=endpoint(provider))
    done = run(project, "evals", "-n", "2", "-v", "--dist", "load", code=1, OPENAI_API_KEY=KEY)
    assert outcomes(done) == {"passed": len(GOOD), "failed": 1}
    assert {"gw0", "gw1"} <= set(re.findall(r"\[(gw\d)\]", done.stdout))
    (head,) = reports(project)
    assert head.candidate.tally.sources == {"model": len(WRONG)}
    assert len(provider.records.all()) == len(WRONG)
    # Another run makes its own report, from the cache.
    run(project, "evals", "-n", "2", code=1, OPENAI_API_KEY=KEY)
    assert [len(reports(project)), len(provider.records.all())] == [2, len(WRONG)]


def test_under_xdist_there_are_never_two_verdicts(fruit: Callable[..., Project], provider: Provider) -> None:
    """An eval in which a call failed for good is not run again by the other worker, which might have more luck."""
    project = fruit(config=endpoint(provider))
    provider.faults.on(2, Fault("status", status=400))
    done = run(project, "evals", "-n", "2", "--dist", "load", code=1, OPENAI_API_KEY=KEY)
    assert outcomes(done) == {"passed": len(GOOD) - 1, "error": 1, "failed": 1}
    assert "inconclusive: 1 case of 16 without a score" in done.stdout
    (head,) = reports(project)
    assert head.stopped
    assert len(provider.records.all()) == len(GOOD)


def test_another_model_and_several_answers(fruit: Callable[..., Project], provider: Provider) -> None:
    project = fruit(config=endpoint(provider, "builtin/nearest"))
    run(project, "evals", "--promptsmith-model", "openai/gpt-6-luna", "--promptsmith-repeat", "2", code=0, OPENAI_API_KEY=KEY)
    (head,) = reports(project)
    assert (head.candidate.model, head.repeats, head.candidate.tally.calls) == ("openai/gpt-6-luna", 2, 2 * len(GOOD))
    run(project, "evals", "--promptsmith-model", "openai/gpt-6-luna", "-k", "gate", code=0)  # every reply is here: no key is needed
    shutil.rmtree(project.cache / "replies")
    done = run(project, "evals", "--promptsmith-model", "openai/gpt-6-luna", "-k", "gate", code=1)
    assert outcomes(done) == {"error": 1, "deselected": len(GOOD)}
    assert "OPENAI_API_KEY" in done.stdout
    assert "'0' is no number from 1 to 1000" in run(project, "evals", "--promptsmith-repeat", "0", code=4).stderr


def test_a_fresh_clone_with_no_key_and_no_network(fruit: Callable[..., Project], invoke: Callable[..., object]) -> None:
    """Recorded with a key, committed, cloned, judged without; another prompt has no recorded replies, and that is said."""
    with Provider(answers) as provider, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        project = fruit(config=endpoint(provider))
        invoke("eval", "fruit@production", "--record", project.evals / "fruit.replies.jsonl", project=project)
        asked = len(provider.records.all())
    assert asked == len(GOOD)
    (project.root / ".gitignore").write_text("/cache\n")
    clone = project.root.parent / "clone"
    author = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "x"], ["clone", "-q", ".", clone]):
        subprocess.run(["git", *command], cwd=project.root, check=True)
    assert not (clone / "cache").exists()

    done = run(clone, "evals", "--promptsmith-cached-only", "-rP", code=0)
    assert outcomes(done) == {"passed": len(GOOD) + 1}
    assert "answers replayed from a record" in done.stdout

    (clone / "evals" / "fruit.yaml").write_text(FRUIT.replace("Say whether", "Tell whether"))
    invoke("compile", "fruit", project=clone)
    invoke("promote", "fruit", "--force", "--why", "other words", project=clone)
    done = run(clone, "evals", "--promptsmith-cached-only", "-k", "gate or tool-1", code=1)
    assert outcomes(done) == {"error": 2, "deselected": len(GOOD) - 1}
    assert "a call to openai/gpt-6-luna would be needed: neither the record nor the cache has this reply" in done.stdout


@pytest.mark.parametrize("recorded", [False, True])
def test_the_workflow_that_init_writes_passes(
    fruit: Callable[..., Project], invoke: Callable[..., object], monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """Each step in order with no key: what needs no answers, and the gates once there is a record."""
    project = fruit()
    invoke("init", project.root, "--ci", "github")
    (project.evals / "sentiment.yaml").unlink()  # builtin/nearest does not get through its gate
    record = project.evals / "fruit.replies.jsonl"
    if recorded:
        invoke("eval", "fruit@production", "--record", record, project=project)
        subprocess.run(["rm", "-r", project.cache / "replies", project.cache / "reports"], check=True)
    (job,) = yaml.safe_load((project.root / ".github/workflows/promptsmith.yml").read_text())["jobs"].values()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    ran = []
    for step in job["steps"]:
        command = step.get("run", "pip")
        when = re.fullmatch(r"hashFiles\('(.*)'\) != ''", step.get("if", "hashFiles('promptsmith.toml') != ''"))
        assert when is not None
        if command.startswith("pip") or not list(project.root.glob(when[1])):
            continue
        done = subprocess.run(["bash", "-c", command], cwd=project.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        ran.append(command.split()[0])
    assert ran == ["promptsmith"] * 3 + ["pytest"] * recorded
