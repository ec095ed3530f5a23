"""The command line: each command and flag, what goes to stdout and stderr, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from promptsmith.cli import COMMANDS, cli, commands
from promptsmith.config import Project

Invoke = Callable[..., Result]
TASK = """\
task: Sort a message.
output: [good, bad]
examples:
  - {input: a fine day, output: good}
  - {input: an awful night, output: bad}
"""
NAMED = """\
task: Sort a message.
inputs: {subject: text, body: {default: none}}
output: [good, bad]
examples:
  - {input: {subject: a fine day}, output: good}
  - {input: {subject: an awful night}, output: bad}
"""
BROKEN = """\
task: Sort a message.
output: [good, bad]
prompt: |
  Answer.
  <examples>
  {"input":"a fine day","output":"splendid"}
  </examples>
"""


def data(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.fixture
def project(make_project: Callable[..., Project], invoke: Invoke) -> Project:
    """A project with one task, compiled and in production."""
    made = make_project({"t": TASK})
    invoke("compile", "t", project=made)
    invoke("promote", "t", "--force", "--why", "first", project=made)
    return made


def shell(*args: str | bytes, cwd: Path, given: bytes = b"", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """The real process."""
    return subprocess.run(
        [sys.executable, "-m", "promptsmith", *args],
        cwd=cwd,
        input=given,
        capture_output=True,
        check=False,
        env={**os.environ, **(env or {})},
    )


def second(project: Project, invoke: Invoke) -> tuple[str, str]:
    """Compiles and promotes another prompt; the ids of the first and the second."""
    before = data(invoke("list", "--json", project=project))[0]["id"]
    invoke("compile", "t", "--example-tokens", "20", project=project)
    invoke("promote", "t", "--force", "--why", "second", project=project)
    return before, data(invoke("list", "--json", project=project))[0]["id"]


# --- the overview -----------------------------------------------------------------------------------------


def test_help_lists_every_command_and_each_has_its_own(invoke: Invoke) -> None:
    """The overview names all commands; each explains itself."""
    overview = invoke("--help").stdout
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", overview, re.MULTILINE)
        assert invoke(name, "--help").stdout.startswith("Usage: ")
    first = "init demo compile run promote rollback history show diff list status cache doctor"
    later = "eval report compare examples lint cost import export outdated retarget savings"
    assert {*first.split(), *later.split()} <= set(COMMANDS)
    files = (file.stem.removesuffix("_") for file in Path(commands.__file__).parent.glob("[!_]*.py"))
    assert set(COMMANDS) == {*files} - {"bulk_run", "plan_trace"}  # parts of run and plan


def test_version(invoke: Invoke) -> None:
    """``--version`` says it in one line."""
    assert re.fullmatch(r"promptsmith, version \d+\.\d+\.\d+\n", invoke("--version").stdout)


@pytest.mark.parametrize(
    ("wrong", "right"), [("compil", "compile"), ("promot", "promote"), ("roll-back", "rollback"), ("histroy", "history")]
)
def test_a_misspelled_command_is_answered_with_the_right_one(invoke: Invoke, wrong: str, right: str) -> None:
    """Exit 2 and did-you-mean; nothing on stdout."""
    result = invoke(wrong, code=2)
    assert f"Did you mean '{right}'?" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "args",
    [
        ("compile", "--nope"),
        ("compile", "t", "-O9"),
        ("compile", "t", "-Ox"),
        ("compile", "t", "--seed", "x"),
        ("compile", "t", "--seed", "-1"),
        ("run",),
        ("run", "t", "a", "--out", "o.jsonl"),
        ("run", "t", "--var", "novalue"),
        ("run", "t", "a", "--var", "input=b"),
        ("run", "t", "a", "--file", "x.jsonl"),
        ("run", "t", "--file", "x.jsonl", "--stream"),
        ("run", "t", "a", "--concurrency", "0"),
        ("promote",),
        ("rollback",),
        ("show", "t", "--format", "xml"),
        ("diff", "t"),
        ("history",),
        ("cache", "nope"),
        ("init", "--ci", "jenkins"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2(project: Project, invoke: Invoke, args: tuple[str, ...]) -> None:
    """A usage error says how it is used, on stderr."""
    result = invoke(*args, project=project, code=2)
    assert result.stdout == ""
    assert "Error: " in result.stderr


def test_outside_a_project_commands_say_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    """No guessing where the tasks might be."""
    monkeypatch.chdir(tmp_path)
    for args in (["compile"], ["run", "t", "x"], ["list"], ["status"], ["doctor"], ["cache", "stats"], ["history", "t"], ["show", "t"]):
        result = invoke(*args, code=2)
        assert "promptsmith init" in result.stderr
        assert result.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("compile", "tt"), "unknown task 'tt'"),
        (("run", "nosuch", "x"), "unknown task 'nosuch'\n  hint: tasks here: sort/message"),
        (("run", "sort/mesage", "x"), "did you mean 'sort/message'?"),
        (("show", "sort/message@prodction"), "did you mean 'production'?"),
        (("run", "sort/message@ffff", "x"), "no prompt whose id begins with ffff"),
        (("run", "sort/message@", "x"), "names no alias after '@'"),
        (("run", "../x", "x"), "can't be a task's name"),
        (("run", "sort/message", "x", "--model", "builtin/neerest"), "did you mean 'builtin/nearest'?"),
        (("compile", "sort/message", "--model", "acme/x"), "unknown model 'acme/x'"),
        (("compile", "sort/message", "-O1"), "-O1 (asked for) needs a meta-model"),
        (("promote", "nosuch", "--why", "x"), "unknown task 'nosuch'"),
        (("promote", "sort/message", "--to", "abcdef12", "--why", "x"), "abcdef12"),
        (("promote", "sort/message", "--to", "latest", "--why", "x"), "latest"),
        (("rollback", "sort/message@staging"), "nothing to roll back"),
        (("history", "nosuch"), "unknown task 'nosuch'"),
        (("diff", "sort/message", "nosuch"), "unknown task 'nosuch'"),
        (("run", "sort/message", "--var", "inputs=x"), "did you mean 'input'?"),
        (("run", "sort/message", "--var", "input=@nofile"), "nofile can't be read"),
        (("run", "sort/message", "--file", "nofile.jsonl"), "there is no such file"),
        (("--project", "nowhere", "list"), "is no promptsmith project"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_names_are_exit_2_with_what_is_known(
    make_project: Callable[..., Project], invoke: Invoke, args: tuple[str, ...], said: str
) -> None:
    """Task, alias, prefix, model, variable, file: each unknown name is answered in words, with nothing on stdout."""
    project = make_project({"sort/message": TASK})
    invoke("compile", project=project)
    invoke("promote", "sort/message", "--force", "--why", "x", project=project)
    result = invoke(*args, project=None if "--project" in args else project, code=2)
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stdout == ""


def test_an_ambiguous_id_prefix_is_refused(project: Project, invoke: Invoke) -> None:
    """Prompts are made until two begin alike; four digits then name none of them, more digits do."""
    ids: list[str] = []
    pair: tuple[str, str] | None = None
    from promptsmith import Task, compile_task
    from promptsmith.store.folder import open_store

    with open_store(project) as store:
        while pair is None:
            text = f"You are sorter number {len(ids)}."
            made = compile_task(Task("Sort.", name="t", output=["good", "bad"], prompt=text), project=project, store=store).id
            pair = next(((made, other) for other in ids if other[:4] == made[:4]), None)
            ids.append(made)
    result = invoke("show", f"t@{pair[0][:4]}", project=project, code=2)
    assert "is ambiguous: 2 prompts begin with it" in result.stderr
    assert data(invoke("show", f"t@{pair[0][:20]}", "--format", "json", project=project))["id"] == pair[0]


# --- compile ----------------------------------------------------------------------------------------------


def test_compile_says_what_it_made_and_makes_it_once(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """Compiled first, from the cache then, compiled again with --force; the id stays the same."""
    project = make_project({"t": TASK})
    rows = [data(invoke("compile", "t", "--json", *more, project=project))[0] for more in ([], [], ["--force"], ["-O0"])]
    assert [row["source"] for row in rows] == ["compiled", "from the cache", "compiled", "from the cache"]
    assert len({row["id"] for row in rows}) == 1
    first = rows[0]
    assert (first["task"], first["level"], first["model"], first["examples"]) == ("t", 0, "builtin/nearest", 2)
    assert first["level_why"] == "no meta-model is named"
    text = invoke("compile", "t", project=project).stdout
    assert text == f"t@{first['id'][:12]}  from the cache, -O0 (no meta-model is named), for builtin/nearest\n"


def test_compile_without_names_takes_all_tasks(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """Every task file below evals/, sorted; the same task named twice is compiled once."""
    project = make_project({"b": TASK, "a/x": TASK})
    assert [row["task"] for row in data(invoke("compile", "--json", project=project))] == ["a/x", "b"]
    assert [row["task"] for row in data(invoke("compile", "b", "b", "--json", project=project))] == ["b"]
    empty = make_project({}, name="empty")
    assert "no task file below evals/" in invoke("compile", project=empty, code=2).stderr


def test_one_wrong_task_stops_itself_alone(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """The others are compiled and told; all that is wrong is told at once; exit 2."""
    project = make_project({"a": "task: x\ntaks: y\n", "b": TASK, "c": "taks: z\n"})
    result = invoke("compile", "--json", project=project, code=2)
    assert [row["task"] for row in data(result)] == ["b"]
    assert [re.search(r"(\w)\.yaml:(\d)", line).groups() for line in result.stderr.splitlines()] == [("a", "2"), ("c", "1"), ("c", "1")]  # type: ignore[union-attr]


def test_options_of_compile_change_the_prompt_or_its_model(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """--example-tokens and --seed make another build, --model another target."""
    project = make_project({"t": TASK})
    plain, small, seeded = (
        data(invoke("compile", "t", "--json", *more, project=project))[0] for more in ([], ["--example-tokens", "20"], ["--seed", "9"])
    )
    assert small["id"] != plain["id"]
    assert small["examples"] < 2
    assert seeded["source"] == "compiled"


def test_explain_shows_what_was_read(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """Contract, labels with their counts, examples and size stand before the result."""
    project = make_project({"t": TASK.replace("output: [good, bad]\n", "")})
    result = invoke("compile", "t", "--explain", project=project)
    for line in (
        "task       t",
        "contract   ",
        "examples   2 visible, 2 chosen by coverage",
        "model      builtin/nearest",
        "prompt     about ",
    ):
        assert re.search(f"^{re.escape(line)}", result.stdout, re.MULTILINE)
    assert "contract inferred from 2 examples" in result.stderr


def test_write_contract_puts_the_inferred_contract_into_the_file(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """The file gains its output line and the prompt's contract is no longer inferred; a second time nothing is written."""
    rows = "".join(f"  - {{input: text {n} {'x' * n}, output: {'ab'[n % 2]}}}\n" for n in range(6))
    project = make_project({"t": f"task: Sort.\nexamples:\n{rows}"})
    result = invoke("compile", "t", "--write-contract", project=project)
    assert "wrote the inferred contract" in result.stderr
    assert project.task_file("t").read_text().splitlines()[1] == 'output: ["a", "b"]'
    assert not data(invoke("show", "t", "--format", "json", project=project))["contract"].get("inferred")
    assert "declares its contract already" in invoke("compile", "t", "--write-contract", project=project).stderr


# --- run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "given"),
    [
        (("a fine day",), None),
        (("-",), "a fine day\n"),
        ((), "a fine day"),
        (("--var", "input=a fine day"), None),
        (("--stream", "a fine day"), None),
    ],
)
def test_run_takes_text_from_everywhere(project: Project, invoke: Invoke, args: tuple[str, ...], given: str | None) -> None:
    """TEXT, '-', standard input, --var: the answer alone on stdout, which prompt answered on stderr."""
    result = invoke("run", "t", *args, project=project, given=given)
    assert result.stdout == "good\n"
    if "--stream" not in args:
        assert "t@production (a bare task name means production)" in result.stderr


def test_run_reads_a_variable_from_a_file(project: Project, invoke: Invoke, tmp_path: Path) -> None:
    """``--var k=@file`` is the file's text, a byte order mark and one final line end aside."""
    (tmp_path / "mail.txt").write_bytes(b"\xef\xbb\xbfan awful night\n")
    assert invoke("run", "t", "--var", f"input=@{tmp_path / 'mail.txt'}", project=project).stdout == "bad\n"
    (tmp_path / "mail.txt").write_bytes(b"caf\xe9")
    assert "is not UTF-8 (byte 3)" in invoke("run", "t", "--var", f"input=@{tmp_path / 'mail.txt'}", project=project, code=2).stderr


def test_run_with_named_inputs(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """Declared inputs by name; a missing and an unknown one are errors that name them."""
    project = make_project({"t": NAMED})
    invoke("compile", project=project)
    run = ("run", "t@latest", "--var")
    assert invoke(*run, "subject=a fine day", project=project).stdout == "good\n"
    assert invoke(*run, "subject=an awful night", "--var", "body=x=y", project=project).stdout == "bad\n"
    assert invoke("run", "t@latest", "a fine day", project=project).stdout == "good\n"  # one input has no default: the text is it
    assert "'subject' is missing" in invoke(*run, "body=x", project=project, code=2).stderr
    assert "did you mean 'subject'?" in invoke(*run, "subjct=x", project=project, code=2).stderr


def test_run_as_json_says_everything(project: Project, invoke: Invoke) -> None:
    """--json: value, prompt, why that one, model, cost; also with --stream and for a value that is JSON."""
    for more in ((), ("--stream",)):
        found = data(invoke("run", "t", "a fine day", "--json", *more, project=project))
        assert (found["value"], found["ok"], found["text"], found["model"], found["ungated"]) == (
            "good",
            True,
            "good",
            "builtin/nearest",
            False,
        )
        assert len(found["prompt"]) == 64
        assert found["origin"] == "lock"


def test_run_by_ref(project: Project, invoke: Invoke) -> None:
    """A bare task is production; @latest and an id prefix name others; the output says which."""
    first, other = second(project, invoke)
    invoke("rollback", "t", project=project)
    for ref, wanted in (("t", first), ("t@production", first), ("t@latest", other), (f"t@{other[:8]}", other), (f"t@{first}", first)):
        assert data(invoke("run", ref, "a fine day", "--json", project=project))["prompt"] == wanted


def test_a_task_without_a_prompt_is_not_served(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """The raw description is never served in a prompt's place."""
    project = make_project({"t": TASK})
    result = invoke("run", "t", "x", project=project, code=2)
    assert "task t has no prompt at @production" in result.stderr
    assert "promptsmith compile t" in result.stderr


def test_an_answer_that_breaks_the_contract_is_exit_1(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """What the model said is told, and why it is not an answer."""
    project = make_project({"t": BROKEN})
    invoke("compile", project=project)
    result = invoke("run", "t@latest", "a fine day", project=project, code=1)
    assert "'splendid' is none of the labels good, bad" in result.stderr
    assert result.stdout == ""


def test_a_model_that_fails_is_exit_4(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """``builtin/nearest`` without examples can't answer, and says what would help."""
    project = make_project({"t": "task: Sort.\noutput: [good, bad]\n"})
    invoke("compile", project=project)
    result = invoke("run", "t@latest", "x", project=project, code=4)
    assert "this prompt has none" in result.stderr


def test_another_model_is_flagged_ungated(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """A prompt may be served with a model it was not compiled for, and the result says so."""
    project = make_project({"t": TASK}, config="[models]\nproduction = 'builtin/nearest'\n")
    invoke("compile", project=project)
    assert not data(invoke("run", "t@latest", "x", "--model", "builtin/nearest", "--json", project=project))["ungated"]


def test_cache_flag_answers_from_the_reply_cache(project: Project, invoke: Invoke) -> None:
    """--cache keeps the reply; the second answer was not asked for again."""
    sources = [
        data(invoke("run", "t", "a fine day", "--json", flag, project=project))["source"] for flag in ("--cache", "--cache", "--no-cache")
    ]
    assert sources == ["model", "cache", "model"]


# --- promote, rollback, history ---------------------------------------------------------------------------


def test_without_the_gates_consent_production_moves_by_force_and_a_reason_alone(
    make_project: Callable[..., Project], invoke: Invoke
) -> None:
    """What the gate does not let through moves only by --force with --why, and is recorded as forced."""
    project = make_project({"t": TASK})
    invoke("compile", project=project)
    said = invoke("promote", "t", "--why", "x", project=project, code=3).stderr
    assert "t@production stays where it is" in said
    assert "the suite is empty: t has no holdout rows" in said
    assert "needs a reason" in invoke("promote", "t", "--force", project=project, code=2).stderr
    assert "needs a reason" in invoke("promote", "t", "--force", "--why", "  ", project=project, code=2).stderr
    assert not project.lock.exists()
    moved = data(invoke("promote", "t", "--force", "--why", "because", "--json", project=project))
    assert (moved["task"], moved["alias"], moved["from"], moved["moved"], moved["forced"]) == ("t", "production", None, True, True)
    again = data(invoke("promote", "t", "--force", "--why", "because", "--json", project=project))
    assert again["moved"] is False
    assert "is " in invoke("promote", "t", "--force", "--why", "because", project=project).stdout
    (move,) = data(invoke("history", "t", "--json", project=project))["moves"]
    assert (move["why"], move["forced"], move["to"]) == ("because", True, moved["to"])


def test_a_forced_move_needs_no_sound_task_file(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """In an incident production moves by force whatever today's file says; without force its mistakes stop the move."""
    project = make_project({"t": TASK})
    invoke("compile", project=project)
    project.task_file("t").write_text(TASK + "taks: x\n")
    assert "t.yaml:6: unknown key 'taks'" in invoke("promote", "t", "--why", "x", project=project, code=2).stderr
    result = invoke("promote", "t", "--force", "--why", "x", project=project)
    assert re.search(r"no receipt goes with this move: .*t\.yaml:6: unknown key 'taks'", result.stderr)
    assert "forced (no receipt)" in result.stdout


def test_other_aliases_move_freely_and_protection_is_a_setting(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """Only protected aliases need a receipt; which ones are is in the settings."""
    project = make_project({"t": TASK}, config="protected = ['production', 'canary']\n")
    invoke("compile", project=project)
    invoke("promote", "t", "--to", "staging", "--why", "look", project=project)
    invoke("promote", "t", "--to", "canary", "--why", "look", project=project, code=3)
    assert [row["alias"] for row in data(invoke("list", "--json", project=project))] == ["staging"]
    assert not data(invoke("history", "t", "--json", project=project))["moves"][0].get("forced")


def test_promoting_twice_leaves_the_lock_as_it_is(project: Project, invoke: Invoke) -> None:
    """Nothing changed, so not one byte does."""
    before = project.lock.read_bytes()
    invoke("promote", "t", "--force", "--why", "again", project=project)
    assert project.lock.read_bytes() == before


def test_rollback_works_without_a_cache_and_ends_with_the_first(project: Project, invoke: Invoke) -> None:
    """Back to the one before with nothing but the lock; from the first promotion the alias is removed."""
    first, other = second(project, invoke)
    shutil.rmtree(project.cache)
    moved = data(invoke("rollback", "t", "--why", "bad answers", "--json", project=project))
    assert (moved["from"], moved["to"]) == (other, first)
    assert invoke("run", "t", "a fine day", project=project).stdout == "good\n"
    assert "the alias is removed" in invoke("rollback", "t", project=project).stdout
    assert data(invoke("list", "--json", project=project))[0]["how"] == "not promoted"
    assert "has no prompt at @production" in invoke("run", "t", "x", project=project, code=2).stderr
    assert "nothing to roll back" in invoke("rollback", "t", project=project, code=2).stderr
    moves = data(invoke("history", "t", "--json", project=project))["moves"]
    assert [bool(move.get("rollback")) for move in moves] == [False, False, True, True]
    assert moves[2]["why"] == "bad answers"


def test_rollback_of_another_alias(project: Project, invoke: Invoke) -> None:
    """By task@alias or --to; production stays."""
    invoke("promote", "t", "--to", "staging", "--why", "x", project=project)
    invoke("rollback", "t@staging", project=project)
    invoke("promote", "t", "--to", "staging", "--why", "x", project=project)
    invoke("rollback", "t", "--to", "staging", project=project)
    assert [row["alias"] for row in data(invoke("list", "--json", project=project))] == ["production"]


def test_history_as_a_table_and_before_any_move(project: Project, make_project: Callable[..., Project], invoke: Invoke) -> None:
    """Who moved what from where to where, when and why."""
    second(project, invoke)
    lines = invoke("history", "t", project=project).stdout.splitlines()
    assert lines[0].split() == ["when", "alias", "from", "to", "who", "how", "why"]
    assert ["forced" in line for line in lines[1:]] == [True, True]
    fresh = make_project({"t": TASK}, name="fresh")
    result = invoke("history", "t", project=fresh)
    assert result.stdout == ""
    assert "no alias of t was ever moved" in result.stderr


def test_a_reason_of_another_shape_is_refused_and_one_in_the_file_is_shown_on_one_line(
    make_project: Callable[..., Project], invoke: Invoke
) -> None:
    """``--why`` takes one line of up to 500 characters; what a hand wrote into the lock breaks neither table nor terminal."""
    project = make_project({"t": TASK})
    invoke("compile", project=project)
    why = "first line\n  - second: # line \x1b[2J "
    for command in ("promote t --force", "rollback t"):
        for bad, what in ((why, "U+000A"), ("w" * 501, "501 characters")):
            assert what in invoke(*command.split(), "--why", bad, project=project, code=2).stderr
        invoke("promote", "t", "--force", "--why", "w" * 500, project=project)
    text = project.lock.read_text()
    old = f"why: |2-\n{' ' * 10}{'w' * 500}\n"
    assert old in text
    project.lock.write_text(text.replace(old, f"why: {json.dumps(why)}\n"))
    header, line = invoke("history", "t", project=project).stdout.splitlines()
    assert line.endswith(r"forced  first line - second: # line \x1b[2J")
    assert header.index("why") == line.index("first line")
    assert data(invoke("history", "t", "--json", project=project))["moves"][0]["why"] == why


def test_a_move_made_outside_shows_as_such(project: Project, invoke: Invoke) -> None:
    """An alias edited by hand (or by a git revert of its line) is served, and named in list, status, history and doctor."""
    first, other = second(project, invoke)
    text = project.lock.read_text()
    line = next(line for line in text.splitlines() if "production:" in line and other in line)
    project.lock.write_text(text.replace(line, line.replace(other, first), 1))
    assert data(invoke("run", "t", "a fine day", "--json", project=project))["prompt"] == first
    assert data(invoke("list", "--json", project=project))[0]["how"] == "moved outside"
    assert "moved outside promptsmith" in invoke("status", project=project).stderr
    assert "moved outside promptsmith" in invoke("history", "t", project=project).stderr
    assert "moved outside promptsmith" in invoke("doctor", project=project).stdout


# --- show, diff, list, status, doctor ---------------------------------------------------------------------


def test_show_prints_the_prompt_alone_on_stdout(project: Project, invoke: Invoke) -> None:
    """The system text to the byte, so it can be piped; what is known about it stands on stderr and in the JSON."""
    whole = data(invoke("show", "t", "--format", "json", project=project))
    result = invoke("show", "t@production", project=project)
    assert result.stdout == whole["system"] + "\n"
    for word in ("id  ", "model", "compiled", "examples", "contract", whole["id"]):
        assert word in result.stderr
    assert "Sort a message." in result.stdout


def test_diff_shows_each_part_that_differs(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """Text as a unified diff, contract, model and inputs by structure, examples by line."""
    project = make_project({"a": TASK, "b": NAMED.replace("[good, bad]", "[good, bad, ugly]").replace("Sort a", "Judge a")})
    invoke("compile", project=project)
    assert "the same" in invoke("diff", "a", "a@latest", project=project).stdout
    text = invoke("diff", "a", "b", project=project).stdout
    assert "-Sort a message." in text.splitlines()
    assert "+Judge a message." in text.splitlines()
    assert "contract:" in text
    assert "ugly" in text
    assert "inputs:" in text
    assert "examples: 2 removed, 2 added" in text
    parts = data(invoke("diff", "a", "b", "--json", project=project))
    assert set(parts) == {"a", "b", "same", "contract", "inputs", "examples", "text"}
    assert parts["same"] is False
    assert data(invoke("diff", "a", "a", "--json", project=project))["same"] is True


def test_list_and_status(project: Project, invoke: Invoke) -> None:
    """What is in production and how it came there; whether it is fresh, and what was compiled since."""
    invoke("compile", "t", "--example-tokens", "20", project=project)
    (row,) = data(invoke("list", "--json", project=project))
    assert (row["task"], row["alias"], row["model"], row["how"]) == ("t", "production", "builtin/nearest", "forced")
    (state,) = data(invoke("status", "--json", project=project))["tasks"]
    assert (state["state"], state["production"]) == ("fresh", row["id"])
    assert state["latest"] not in (None, row["id"])
    assert row["id"][:12] in invoke("list", project=project).stdout
    assert invoke("status", project=project).stdout.splitlines()[0].split("  ")[0] == "task"


def test_doctor_finds_what_is_wrong(project: Project, invoke: Invoke) -> None:
    """All is well: exit 0. A wrong task file, a tampered lock or cache row: named, exit 2."""
    assert all(not finding["bad"] for finding in data(invoke("doctor", "--json", project=project)))
    project.task_file("wrong").write_text("task: x\ntaks: y\n")
    text = invoke("doctor", project=project, code=2).stdout
    assert re.search(r"^WRONG  task wrong: .*wrong\.yaml:2: unknown key 'taks'", text, re.MULTILINE)
    project.task_file("wrong").write_text("task: x\nmodels: {production: acme/small}\n")
    assert "unknown model 'acme/small'" in invoke("doctor", project=project, code=2).stdout
    project.task_file("wrong").write_text("task: x\noutput: [a, b]\nscorers: [exct]\n")
    assert "wrong.yaml:3: unknown scorer 'exct', did you mean 'exact'?" in invoke("doctor", project=project, code=2).stdout


def test_a_folder_or_a_dead_link_in_the_place_of_a_task_file_is_named(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """What stands there is said, not that the task had no file."""
    project = make_project({})
    project.task_file("x").mkdir()
    assert "evals/x.yaml: this is a folder, name a file" in invoke("compile", "x", project=project, code=2).stderr
    project.task_file("x").rmdir()
    project.task_file("x").symlink_to("nowhere")
    assert "evals/x.yaml: there is no such file" in invoke("compile", "x", project=project, code=2).stderr


def test_json_is_on_stdout_and_parses_for_every_command_that_has_it(project: Project, invoke: Invoke) -> None:
    """One JSON value on stdout, whatever the command also says on stderr."""
    second(project, invoke)
    for line in (
        "compile t --json",
        "compile --check --json",
        "run t hello --json",
        "promote t --to x --why y --json",
        "rollback t@x --json",
        "history t --json",
        "list --json",
        "status --json",
        "doctor --json",
        "show t --format json",
        "cache stats --json",
        "cache verify --json",
        "cache prune --json",
        "diff t t@production --json",
    ):
        data(invoke(*line.split(), project=project))


# --- the cache commands -----------------------------------------------------------------------------------


def filled(project: Project) -> bytes:
    """Puts a reply into the cache (in a process of its own, whose end writes it); the ledger's bytes."""
    shell("run", "t", "a fine day", "--cache", cwd=project.root)
    return (project.cache / "ledger.jsonl").read_bytes()


def test_cache_stats_counts(project: Project, invoke: Invoke) -> None:
    """What is there, part by part."""
    filled(project)
    found = data(invoke("cache", "stats", "--json", project=project))
    assert (found["prompts"]["entries"], found["replies"]["entries"]) == (1, 1)
    assert found["ledger"]["rows"] >= 1
    assert invoke("cache", "stats", project=project).stdout.startswith("prompts: entries 1")


def test_cache_verify_and_prune_on_a_sound_cache(project: Project, invoke: Invoke) -> None:
    """Nothing wrong, nothing removed."""
    filled(project)
    assert data(invoke("cache", "verify", "--json", project=project)) == []
    assert set(data(invoke("cache", "prune", "--json", project=project)).values()) == {0}


def test_cache_prune_removes_what_has_had_its_time(project: Project, invoke: Invoke) -> None:
    """With a time of zero every reply is past it; prompts stay."""
    filled(project)
    (project.root / "promptsmith.toml").write_text("[cache]\nreply_days = 0\n")
    assert data(invoke("cache", "prune", "--json", project=project))["expired"] == 1
    found = data(invoke("cache", "stats", "--json", project=project))
    assert (found["prompts"]["entries"], found["replies"]["entries"]) == (1, 0)


@pytest.mark.parametrize(("flags", "left"), [((), (0, 0)), (("--replies",), (1, 0))])
def test_cache_clear_never_touches_ledger_and_lock(project: Project, invoke: Invoke, flags: tuple[str, ...], left: tuple[int, int]) -> None:
    """Prompts and replies go (with --replies the latter only), production serves on, the ledger keeps every byte."""
    ledger, lock = filled(project), project.lock.read_bytes()
    result = invoke("cache", "clear", *flags, "--yes", project=project)
    assert "the ledger stays" in result.stderr
    found = data(invoke("cache", "stats", "--json", project=project))
    assert (found["prompts"]["entries"], found["replies"]["entries"]) == left
    assert (project.cache / "ledger.jsonl").read_bytes() == ledger
    assert project.lock.read_bytes() == lock
    assert invoke("run", "t", "a fine day", project=project).stdout == "good\n"


def judged(project: Project, invoke: Invoke) -> Path:
    """Judges ``t`` on a holdout; the report that is kept, which holds what was answered."""
    project.task_file("t").write_text(TASK + "holdout: [{input: a day so fine, output: good}, {input: nights most awful, output: bad}]\n")
    invoke("eval", "t", project=project, code=3)
    (report,) = (project.cache / "reports").iterdir()
    assert b'"good"' in report.read_bytes()
    return report


@pytest.mark.parametrize("flags", [(), ("--replies",)])
def test_cache_clear_takes_reports_and_never_touches_the_looks(project: Project, invoke: Invoke, flags: tuple[str, ...]) -> None:
    """A report holds answers; how often a holdout was looked at must not be forgotten with it."""
    report = judged(project, invoke)
    looks = (project.cache / "looks.jsonl").read_bytes()
    assert looks
    assert data(invoke("cache", "stats", "--json", project=project))["reports"]["entries"] == 1
    invoke("cache", "clear", *flags, "--yes", project=project)
    assert not report.exists()
    assert (project.cache / "looks.jsonl").read_bytes() == looks
    assert data(invoke("report", "--json", project=project)) == []


def test_cache_prune_removes_reports_past_their_time(project: Project, invoke: Invoke) -> None:
    """A report stays as long as replies do."""
    report = judged(project, invoke)
    assert data(invoke("cache", "prune", "--json", project=project))["reports"] == 0
    old = report.stat().st_mtime - 31 * 86400
    os.utime(report, (old, old))
    assert data(invoke("cache", "prune", "--json", project=project))["reports"] == 1
    assert not report.exists()


def test_cache_clear_asks_first(project: Project, invoke: Invoke) -> None:
    """No or no answer: nothing is removed and the exit code says so."""
    filled(project)
    for given in ("n\n", ""):
        invoke("cache", "clear", project=project, given=given, code=1)
        assert data(invoke("cache", "stats", "--json", project=project))["prompts"]["entries"] == 1
    invoke("cache", "clear", project=project, given="y\n")
    assert data(invoke("cache", "stats", "--json", project=project))["prompts"]["entries"] == 0


# --- init and demo ----------------------------------------------------------------------------------------


def test_init_makes_a_project_that_works_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    """In an empty folder: a task with 20 visible and 40 holdout rows, which compiles and answers; doctor is content."""
    monkeypatch.chdir(tmp_path)
    result = invoke("init")
    commands = [shlex.split(part)[1:] for part in result.stdout.partition(": ")[2].split("&&")]
    assert [words[0] for words in commands] == ["compile", "run"]
    for words in commands:
        ended = invoke(*words)
    assert ended.stdout == "positive\n"
    findings = data(invoke("doctor", "--json"))
    assert any("20 visible, 40 holdout rows" in finding["said"] for finding in findings)
    assert (tmp_path / "evals" / "sentiment.yaml").read_text().startswith("# yaml-language-server: $schema=task.schema.json\n")
    assert (tmp_path / "evals" / "task.schema.json").is_file()


def test_init_never_overwrites(tmp_path: Path, invoke: Invoke) -> None:
    """What is there keeps its bytes; what is missing is added; a second time nothing is written."""
    root = tmp_path / "new" / "deep"
    (root / "evals").mkdir(parents=True)
    mine = {"promptsmith.toml": "# mine\n", "evals/sentiment.yaml": "task: mine\n", ".gitignore": "/mine\n"}
    for name, text in mine.items():
        (root / name).write_text(text)
    invoke("init", root)
    assert {name: (root / name).read_text() for name in mine} == mine
    assert (root / "evals" / "data" / "sentiment.holdout.jsonl").is_file()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert "nothing written" in invoke("init", root).stderr
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_init_of_another_folder_names_it_in_the_next_step(tmp_path: Path, invoke: Invoke) -> None:
    """What ``init DIR`` says to do next works where it was said."""
    folder = tmp_path / "my project"
    said = invoke("init", str(folder)).stdout
    assert said.startswith(f"Next: cd {shlex.quote(str(folder))} && promptsmith compile sentiment")


def test_init_into_a_file_is_refused(tmp_path: Path, invoke: Invoke) -> None:
    """Neither the folder nor its evals/ may be a file."""
    (tmp_path / "file").touch()
    assert "is a file" in invoke("init", tmp_path / "file", code=2).stderr
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "evals").touch()
    assert "is a file" in invoke("init", tmp_path / "p", code=2).stderr


def test_init_writes_a_workflow_whose_commands_work(tmp_path: Path, invoke: Invoke) -> None:
    """--ci github: valid YAML, and each promptsmith line of it passes in a project in order."""
    invoke("init", tmp_path / "p")
    assert not (tmp_path / "p" / ".github").exists()
    invoke("init", tmp_path / "p", "--ci", "github")
    workflow = yaml.safe_load((tmp_path / "p" / ".github" / "workflows" / "promptsmith.yml").read_text())
    (job,) = workflow["jobs"].values()
    lines = [shlex.split(step["run"])[1:] for step in job["steps"] if step.get("run", "").startswith("promptsmith ")]
    assert lines
    for prepare in (["compile", "sentiment"], ["promote", "sentiment", "--force", "--why", "x"]):
        invoke(*prepare, project=tmp_path / "p")
    for line in lines:
        assert line[0] in cli.list_commands(None)  # type: ignore[arg-type]
        invoke(*line, project=tmp_path / "p")


def test_what_init_tells_git_to_ignore_is_all_that_is_left_behind(tmp_path: Path, invoke: Invoke) -> None:
    """After compile, run and promote, git sees sources, settings and the lock, and nothing else."""
    root = tmp_path / "p"
    invoke("init", root)
    for line in (["compile"], ["promote", "sentiment", "--force", "--why", "x"], ["run", "sentiment", "hello", "--cache"]):
        invoke(*line, project=root)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-o", "--exclude-standard"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.split()
    assert sorted(listed) == [
        ".gitattributes",
        ".gitignore",
        "cache/.gitignore",
        "cache/README.md",
        "evals/data/sentiment.holdout.jsonl",
        "evals/sentiment.yaml",
        "evals/task.schema.json",
        "promptsmith.lock",
        "promptsmith.toml",
    ]


def way(done: subprocess.CompletedProcess[bytes]) -> list[tuple[str, int]]:
    """The commands that a demo showed, answers aside, with their exit codes."""
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    found: list[tuple[str, int]] = []
    for line in done.stdout.decode().splitlines():
        if line.startswith("$ promptsmith "):
            found.append((shlex.split(line)[2], 0))
        elif ended := re.fullmatch(r"# exit code (\d)", line):
            found[-1] = (found[-1][0], int(ended[1]))
    return [(name, code) for name, code in found if name != "run"]


def test_demo_works_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """The whole way with no key: the gate's word, two forced moves, a rollback; the current folder stays empty."""
    (tmp_path / "here").mkdir()
    (tmp_path / "temp").mkdir()
    done = shell("demo", cwd=tmp_path / "here", env={"TMPDIR": str(tmp_path / "temp")})
    assert not list((tmp_path / "here").iterdir())
    (place,) = (tmp_path / "temp").iterdir()
    first = [("init", 0), ("compile", 0), ("eval", 3), ("promote", 3), ("promote", 0)]
    worse = [("compile", 0), ("promote", 3), ("promote", 0), ("rollback", 0)]
    assert way(done) == [*first, *worse, ("history", 0), ("eval", 0), ("list", 0)]
    history = json.loads(shell("history", "sentiment", "--json", cwd=place).stdout)["moves"]
    assert [(move.get("forced", False), move.get("rollback", False)) for move in history] == [(True, False), (True, False), (False, True)]
    assert history[0]["to"] == history[2]["to"] != history[1]["to"]
    assert "<html" in (place / "report.html").read_text()


def test_demo_of_the_shipped_tasks_passes_the_gate(tmp_path: Path) -> None:
    """As ``make demo`` calls it: intent is promoted by its receipt, a worse prompt is rejected, sentiment gets its verdict."""
    tasks = Path(__file__).parent.parent / "evals"
    before = {path: path.stat().st_mtime_ns for path in tasks.rglob("*")}
    done = shell("demo", str(tmp_path / "d"), "--tasks", str(tasks), cwd=tmp_path)
    first = [("init", 0), ("compile", 0), ("eval", 0), ("promote", 0)]
    worse = [("compile", 0), ("promote", 1), ("promote", 0), ("rollback", 0)]
    assert way(done) == [*first, *worse, ("history", 0), ("eval", 0), ("list", 0), ("compile", 0), ("eval", 3)]
    assert b"forced (the gate says reject)" in done.stdout
    assert [move.get("forced", False) for move in json.loads(shell("history", "intent", "--json", cwd=tmp_path / "d").stdout)["moves"]] == [
        False,
        True,
        False,
    ]
    assert {path: path.stat().st_mtime_ns for path in tasks.rglob("*")} == before


def test_demo_in_a_named_folder(tmp_path: Path, invoke: Invoke) -> None:
    """``demo DIR`` leaves the project there to play with; a second time it works on what it finds."""
    for _ in range(2):
        invoke("demo", tmp_path / "d")
    assert (tmp_path / "d" / "promptsmith.lock").is_file()


# --- a damaged lock ---------------------------------------------------------------------------------------


def tampered(project: Project) -> int:
    """Changes one word of the promoted prompt; the line it stands in."""
    lines = project.lock.read_text().splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines) if "Sort a message." in line)
    lines[number] = lines[number].replace("Sort", "Short")
    project.lock.write_text("".join(lines))
    return number + 1


def test_a_tampered_lock_is_named_and_never_served(project: Project, invoke: Invoke) -> None:
    """With no good copy at hand, every command that needs it says file and line, and exits with 2."""
    tampered(project)
    shutil.rmtree(project.cache)
    before = project.lock.read_bytes()
    for line in (
        "run t x",
        "show t@production",
        "rollback t",
        "history t",
        "list",
        "status",
        "compile --check",
        "diff t@production t@production",
    ):
        result = invoke(*line.split(), project=project, code=2)
        assert re.search(r"promptsmith\.lock:\d+: task 't' is damaged", result.output), line
    assert re.search(r"^WRONG  lock: promptsmith\.lock:\d+", invoke("doctor", project=project, code=2).stdout, re.MULTILINE)
    invoke("compile", "t", project=project)
    assert "is damaged" in invoke("promote", "t", "--force", "--why", "x", project=project, code=2).stderr
    assert project.lock.read_bytes() == before


def test_the_last_good_copy_is_served_with_a_warning(project: Project) -> None:
    """Serving goes on from what was good before; the warning names the line and shows no code of ours."""
    shell("run", "t", "a fine day", cwd=project.root)
    tampered(project)
    done = shell("run", "t", "a fine day", cwd=project.root)
    assert (done.returncode, done.stdout) == (0, b"good\n")
    assert re.match(rb"warning: promptsmith\.lock:\d+: task 't' is damaged", done.stderr)
    assert b".py" not in done.stderr


def test_merge_markers_stop_their_task_alone(make_project: Callable[..., Project], invoke: Invoke) -> None:
    """A conflict in one task's lines leaves the other task served."""
    project = make_project({"a": TASK, "b": TASK.replace("Sort", "Judge")})
    invoke("compile", project=project)
    for name in ("a", "b"):
        invoke("promote", name, "--force", "--why", "x", project=project)
    text = project.lock.read_text()
    (line,) = (line for line in text.splitlines(keepends=True) if "Judge a message." in line)
    project.lock.write_text(text.replace(line, f"<<<<<<< ours\n{line}=======\n{line}>>>>>>> theirs\n"))
    shutil.rmtree(project.cache)
    assert invoke("run", "a", "a fine day", project=project).stdout == "good\n"
    assert re.search(r"promptsmith\.lock:\d+", invoke("run", "b", "a fine day", project=project, code=2).stderr)


def test_a_newer_lock_is_refused(project: Project, invoke: Invoke) -> None:
    """A lock that a later version wrote is neither read nor written."""
    text = project.lock.read_text()
    assert text.startswith("version: 1\n")
    project.lock.write_text(text.replace("version: 1\n", "version: 2\n", 1))
    for line in ("run t x", "rollback t", "promote t --force --why x"):
        assert "newer" in invoke(*line.split(), project=project, code=2).stderr
    assert project.lock.read_text().startswith("version: 2\n")


# --- real processes ---------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error(project: Project) -> None:
    """``promptsmith show … | head -1`` ends quietly."""
    command = f"{shlex.quote(sys.executable)} -m promptsmith show t@production 2>err | head -c 5"
    done = subprocess.run(["bash", "-c", command], cwd=project.root, capture_output=True, check=True)
    assert len(done.stdout) == 5
    assert b"Traceback" not in (project.root / "err").read_bytes()


def test_the_console_script_and_the_module_are_the_same(project: Project) -> None:
    """``promptsmith`` and ``python -m promptsmith``."""
    script = Path(sys.executable).with_name("promptsmith")
    if not script.exists():
        pytest.skip("the console script is not installed beside this Python")
    one = subprocess.run([script, "run", "t", "a fine day"], cwd=project.root, capture_output=True, check=True)
    assert one.stdout == shell("run", "t", "a fine day", cwd=project.root).stdout == b"good\n"


def test_a_text_as_long_as_an_argument_may_be(project: Project) -> None:
    """100,000 characters on the command line, a million by standard input."""
    assert shell("run", "t", "a fine day " * 9000, cwd=project.root).stdout == b"good\n"
    assert shell("run", "t", "-", cwd=project.root, given=b"an awful night " * 70_000).stdout == b"bad\n"
