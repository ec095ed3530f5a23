"""Captured calls: a share of the live calls, redacted, bounded, pruned, and never the reason that a call fails."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result as Ended
from hypothesis import given
from hypothesis import strategies as st

from promptsmith import AsyncRuntime, Runtime, Task, canonical, compile_task, evaluate
from promptsmith.chat import Turn
from promptsmith.config import Project
from promptsmith.errors import ContractError, ModelError, SourceError
from promptsmith.prompt import Prompt
from promptsmith.registry.lock import LockFile
from promptsmith.runtime.loop import LOOP
from promptsmith.runtime.many import run_many
from promptsmith.store import DiskStore, StoreWarning
from promptsmith.store.captures import MOST_BYTES, ROW_BYTES, Capture, Captures, trim
from promptsmith.store.maintain import clear, prune, stats, verify
from promptsmith.store.trouble import Trouble
from promptsmith.task import load_task

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
SECRET = "sk-" + "b2" * 20


def text(capture: str = "100 %", more: str = "") -> str:
    return f"""\
task: Classify the sentiment of a customer message.
output: [positive, negative, neutral]
models: {{production: openai/small}}
examples:
  - {{input: "This product is amazing!", output: positive}}
  - {{input: "It broke after a day.", output: negative}}
serve: {{capture: {capture}{more}}}
"""


@pytest.fixture
def serving(promoted: Make, toy: Any) -> Callable[..., tuple[Runtime, Any]]:
    """A runtime on a promoted task that captures, and the model behind it."""

    def make(capture: str = "100 %", more: str = "", say: object = "positive", **options: Any) -> tuple[Runtime, Any]:
        project = promoted({"sentiment": text(capture, more)})
        model = toy(say, name="openai/small")
        return Runtime(project, models={"openai/small": model}, **options), model

    return make


def rows(runtime: Runtime) -> list[Capture]:
    return runtime.asynchronous.store.captures.rows("sentiment")


def folder(runtime: Runtime) -> Path:
    return runtime.asynchronous.project.cache / "captures"


def row(number: int, at: float | None = None, output: str = "positive") -> Capture:
    inputs = {"input": f"message {number}"}
    return Capture(
        id=canonical.case_id(inputs),
        time=time.time() if at is None else at,
        prompt="0" * 64,
        model="openai/small",
        inputs=inputs,
        output=output,
        ok=True,
    )


# --- the setting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "share"),
    [
        ("1 %", 0.01),
        ("1%", 0.01),
        ("'1 %'", 0.01),
        ("0.01", 0.01),
        ("33.3 %", 0.333),
        ("100 %", 1.0),
        ("1.0", 1.0),
        ("0", 0.0),
        (".5", 0.5),
    ],
)
def test_a_share_is_a_percentage_or_a_number(make_project: Make, written: str, share: float) -> None:
    project = make_project({"sentiment": text(written)})
    assert load_task(project.task_file("sentiment")).serve.capture == share


@pytest.mark.parametrize("written", ["1", "101 %", "-1 %", "1.5", "often", "'1 % of all'", "[1]", "true", "1 %%", "''", "nan", "1e9"])
def test_a_share_out_of_range_is_told_with_its_line(make_project: Make, written: str, invoke: Invoke) -> None:
    project = make_project({"sentiment": text(written)})
    with pytest.raises(SourceError) as caught:
        load_task(project.task_file("sentiment"))
    (problem,) = caught.value.problems
    assert problem.line == 7
    assert "capture" in problem.what
    assert problem.right == "write a share such as 1 % or 0.01, up to 100 %"
    assert "sentiment.yaml:7" in invoke("compile", "sentiment", project=project, code=2).output


@given(st.floats(min_value=0, max_value=1))
def test_every_share_comes_back_from_python_as_it_was(share: float) -> None:
    assert Task("x", output=["a", "b"], serve={"capture": share}).serve.capture == share


def test_the_share_is_no_part_of_identity_and_reaches_the_lock(make_project: Make, invoke: Invoke) -> None:
    project = make_project({"sentiment": text("0")})
    before = compile_task("sentiment", project=project)
    invoke("promote", "sentiment", "--force", "--why", "a start", project=project)
    project.task_file("sentiment").write_text(text("2.5 %"))
    after = compile_task("sentiment", project=project)
    assert after.id == before.id
    assert after.provenance.build.key == before.provenance.build.key
    # The same prompt, promoted again, is served as its task file says now.
    ended = invoke("promote", "sentiment", "--force", "--why", "capture a little", project=project)
    assert "stays" in ended.output
    assert "capture: 0.025" in project.lock.read_text()
    entry = LockFile(project.lock).entry("sentiment")
    assert entry is not None
    assert entry.prompt(before.id) == msgspec.structs.replace(after, provenance=after.provenance)
    assert "already" in invoke("promote", "sentiment", "--force", "--why", "again", project=project).output


def test_a_prompt_that_captures_comes_back_from_json(serving: Any) -> None:
    runtime, _ = serving("12 %")
    prompt = runtime.resolve("sentiment").prompt
    assert prompt.serve.capture == 0.12
    assert msgspec.json.decode(msgspec.json.encode(prompt), type=Prompt) == prompt


# --- what is captured -------------------------------------------------------------------------------------


def test_a_live_call_is_kept_with_what_a_reviewer_needs(serving: Any) -> None:
    runtime, _ = serving(say=" Positive ")
    before = time.time()
    result = runtime.run("sentiment", "I love it")
    (kept,) = rows(runtime)
    assert kept.id == canonical.case_id({"input": "I love it"})
    assert (kept.inputs, kept.output, kept.ok, kept.reasons) == ({"input": "I love it"}, " Positive ", True, ())
    assert (kept.prompt, kept.model) == (result.prompt, "openai/small")
    assert before - 1 <= kept.time <= time.time() + 1


def test_a_task_that_does_not_capture_leaves_no_trace(serving: Any) -> None:
    runtime, _ = serving("0")
    runtime.run("sentiment", "I love it")
    assert not folder(runtime).exists()


def test_run_run_many_and_stream_are_live_calls_in_both_faces(serving: Any) -> None:
    runtime, model = serving()
    runtime.run("sentiment", "one")
    runtime.run_many("sentiment", ["two", "three"])
    list(runtime.stream("sentiment", "four"))

    async def others() -> None:
        async with AsyncRuntime(runtime.asynchronous.project, models={"openai/small": model}) as other:
            await other.run("sentiment", "five")
            await other.run_many("sentiment", ["six"])
            async for _ in other.stream("sentiment", "seven"):
                pass

    asyncio.run(others())
    assert sorted(kept.inputs["input"] for kept in rows(runtime)) == sorted(["one", "two", "three", "four", "five", "six", "seven"])


def test_evals_and_compiles_are_no_live_calls(make_project: Make, toy: Any) -> None:
    holdout = "holdout:\n" + "".join(f'  - {{input: "sealed {n}", output: positive}}\n' for n in range(5))
    project = make_project({"sentiment": text() + holdout})
    compile_task("sentiment", project=project)
    model = toy("positive", name="openai/small")
    evaluate("sentiment", project=project, models={"openai/small": model})
    assert len(model.asked) == 5
    assert not (project.cache / "captures").exists()


def test_what_the_reply_cache_answers_is_a_live_call_too(serving: Any) -> None:
    runtime, model = serving(more=", cache: true")
    for _ in range(3):
        runtime.run("sentiment", "I love it")
    assert len(model.asked) == 1
    assert [kept.output for kept in rows(runtime)] == ["positive"] * 3


def test_an_answer_that_breaks_the_contract_is_kept_with_the_reasons(serving: Any) -> None:
    runtime, _ = serving(say="great")
    with pytest.raises(ContractError):
        runtime.run("sentiment", "I love it")
    with pytest.raises(ContractError):
        list(runtime.stream("sentiment", "I love it too"))
    assert [(kept.output, kept.ok) for kept in rows(runtime)] == [("great", False)] * 2
    assert all("none of the labels" in kept.reasons[0] for kept in rows(runtime))


def test_of_a_repaired_call_the_last_answer_is_kept_once(serving: Any) -> None:
    runtime, model = serving(say=["great", "positive"], more=", on_contract_break: repair")
    runtime.run("sentiment", "I love it")
    assert len(model.asked) == 2
    assert [(kept.output, kept.ok) for kept in rows(runtime)] == [("positive", True)]


def test_a_call_without_an_answer_is_not_kept(serving: Any) -> None:
    runtime, _ = serving(say=ModelError("down"))
    with pytest.raises(ModelError):
        runtime.run("sentiment", "I love it")
    assert rows(runtime) == []


def test_the_model_that_answered_is_named_also_when_its_answer_broke_the_contract(promoted: Make, toy: Any) -> None:
    project = promoted({"sentiment": text(more=", fallback: [openai/other]")})
    models = {"openai/small": toy(ModelError("down"), name="openai/small"), "openai/other": toy("great", name="openai/other")}
    runtime = Runtime(project, models=models)
    with pytest.raises(ContractError):
        runtime.run("sentiment", "I love it")
    assert [kept.model for kept in rows(runtime)] == ["openai/other"]


def test_a_call_with_earlier_turns_is_not_kept(serving: Any) -> None:
    """No example holds a conversation, so nobody could say what is right from the last turn alone."""
    runtime, _ = serving()
    runtime.run("sentiment", "and that?", history=[Turn("user", "hello"), Turn("assistant", "neutral")])
    assert rows(runtime) == []


def test_secrets_are_taken_out_of_inputs_outputs_and_reasons(serving: Any) -> None:
    runtime, _ = serving(say=f"the key is {SECRET}")
    with pytest.raises(ContractError):
        runtime.run("sentiment", f"my key is {SECRET}, why?")
    (kept,) = rows(runtime)
    assert kept.inputs == {"input": "my key is [redacted], why?"}
    assert kept.output == "the key is [redacted]"
    # The id is that of what is stored: the digest of the secret is nowhere.
    assert kept.id == canonical.case_id(kept.inputs)
    runtime.close()
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in folder(runtime).iterdir())


def test_named_inputs_are_kept_by_name_with_their_defaults(promoted: Make, toy: Any) -> None:
    more = "inputs: {ticket: text, locale: {default: en}}\nserve: {capture: 1.0}\n"
    project = promoted({"triage": f"task: Triage.\noutput: [a, b]\nmodels: {{production: openai/small}}\n{more}"})
    runtime = Runtime(project, models={"openai/small": toy("a")})
    runtime.run("triage", {"ticket": "help"})
    assert [kept.inputs for kept in runtime.asynchronous.store.captures.rows("triage")] == [{"ticket": "help", "locale": "en"}]


def test_half_a_surrogate_pair_in_an_answer_does_no_harm(serving: Any) -> None:
    runtime, _ = serving(say="\ud800", more=", on_contract_break: pass")
    assert runtime.run("sentiment", "x").text == "\ud800"
    assert [kept.output for kept in rows(runtime)] == ["?"]


# --- the draw ---------------------------------------------------------------------------------------------


def test_about_the_share_is_kept_and_each_call_is_drawn_for_anew(serving: Any) -> None:
    """2,000 calls with one and the same input: 600 expected, and 143 away from that is seven standard deviations."""
    runtime, _ = serving("30 %")
    for _ in range(2000):
        runtime.run("sentiment", "the same")
    assert abs(len(rows(runtime)) - 600) < 143


def test_a_resumed_run_many_draws_for_no_answer_twice(serving: Any) -> None:
    class Cut(Exception):
        """The run ends here."""

    def stop(number: int, outcome: object) -> None:
        if number == 1:
            raise Cut

    runtime, model = serving()

    async def cut_off() -> None:
        await run_many(runtime.asynchronous, "sentiment", ["one", "two", "three"], concurrency=1, on_result=stop)

    with pytest.raises(Cut):
        LOOP.wait(cut_off())
    runtime.run_many("sentiment", ["one", "two", "three"], concurrency=1)
    assert len(model.asked) == 3
    assert sorted(kept.inputs["input"] for kept in rows(runtime)) == ["one", "three", "two"]


# --- the file ---------------------------------------------------------------------------------------------


def captures(tmp_path: Path, **options: Any) -> Captures:
    return Captures(str(tmp_path / "captures"), Trouble(str(tmp_path)), **options)


def test_files_are_for_their_owner_only(serving: Any) -> None:
    runtime, _ = serving()
    runtime.run("sentiment", "x")
    (path,) = folder(runtime).iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder(runtime).stat().st_mode) == 0o700


@given(st.text(max_size=200).filter(lambda name: name.isprintable()), st.text(max_size=50).filter(lambda name: name.isprintable()))
def test_any_task_name_is_a_file_name_of_its_own(one: str, other: str) -> None:
    here = Captures("/nowhere", Trouble("/nowhere"))
    path = here.path(one)
    assert os.path.dirname(path) == "/nowhere"
    assert len(os.path.basename(path)) < 128
    assert (path == here.path(other)) == (one == other)


def test_names_that_a_file_system_may_confuse_are_kept_apart(tmp_path: Path) -> None:
    here = captures(tmp_path)
    names = ["support/triage", "support-triage", "Support/Triage", "../../etc/passwd", "a" * 500]
    for number, name in enumerate(names):
        here.add(name, row(number))
    assert [[kept.inputs["input"] for kept in here.rows(name)] for name in names] == [[f"message {n}"] for n in range(len(names))]
    assert len({path.name.lower() for path in (tmp_path / "captures").iterdir()}) == len(names)


def test_the_oldest_rows_go_when_a_file_is_full(tmp_path: Path) -> None:
    here = captures(tmp_path, most=20_000)
    for number in range(1000):
        here.add("t", row(number))
        assert os.path.getsize(here.path("t")) <= 20_000
    kept = [int(one.inputs["input"].split()[1]) for one in here.rows("t")]
    assert kept == list(range(1000 - len(kept), 1000))
    assert len(kept) > 20
    assert not list((tmp_path / "captures").glob("*.tmp"))


def test_one_huge_row_drives_out_no_other(tmp_path: Path) -> None:
    here = captures(tmp_path)
    here.add("t", row(1))
    here.add("t", row(2, output="x" * ROW_BYTES))
    assert [one.inputs["input"] for one in here.rows("t")] == ["message 1"]
    assert ROW_BYTES * 4 <= MOST_BYTES


def test_rows_past_their_time_are_neither_shown_nor_kept(tmp_path: Path) -> None:
    here = captures(tmp_path, ttl=100.0)
    now = time.time()
    here.add("t", row(1, now - 101))
    here.add("t", row(2, now - 50))
    assert [one.inputs["input"] for one in here.rows("t")] == ["message 2"]
    later = captures(tmp_path, ttl=100.0)
    later.add("t", row(3))  # a new process looks once an hour
    assert b"message 1" not in Path(here.path("t")).read_bytes()


def test_writers_that_append_while_a_file_is_trimmed_lose_nothing_new(tmp_path: Path) -> None:
    here = captures(tmp_path)
    path = here.path("t")
    for number in range(500):
        here.add("t", row(number, at=1000.0))
    done = threading.Event()

    def write() -> None:
        mine = captures(tmp_path)
        for number in range(500, 1500):
            mine.add("t", row(number, at=3000.0))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        trim(path, since=2000.0)
    writer.join()
    trim(path, since=2000.0)
    kept = {int(one.inputs["input"].split()[1]) for one in here.rows("t")}
    # A line goes to the old file when its writer had just looked up the path: only such a one may be missing.
    assert kept <= set(range(500, 1500))
    assert len(kept) >= 995


def test_processes_append_whole_lines(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from tests.test_captures import captures, row
from pathlib import Path
here = captures(Path({str(tmp_path)!r}))
for number in range(300):
    here.add("t", row(number, output="x" * (number * 7 % 3000)))
"""
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(captures(tmp_path).rows("t")) == 900


@given(st.lists(st.tuples(st.integers(0, 50), st.text(alphabet='a\n"\\é\u2028', max_size=20)), max_size=20))
def test_what_was_added_is_read_back(entries: list[tuple[int, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        here = captures(Path(name))
        added = [row(number, output=output) for number, output in entries]
        for one in added:
            here.add("t", one)
        assert here.rows("t") == added


def test_settled_ids_are_remembered(tmp_path: Path) -> None:
    here = captures(tmp_path)
    assert here.settled("t") == frozenset()
    here.settle("t", "a" * 12)
    here.settle("t", "b" * 12)
    assert captures(tmp_path).settled("t") == {"a" * 12, "b" * 12}
    assert here.settled("other") == frozenset()


# --- trouble ----------------------------------------------------------------------------------------------


def test_a_cache_folder_that_is_a_file_fails_no_call_and_warns_once(serving: Any) -> None:
    runtime, _ = serving()
    folder(runtime).write_text("in the way")
    with pytest.warns(StoreWarning, match="answers are served") as caught:
        assert [runtime.run("sentiment", "x").value for _ in range(3)] == ["positive"] * 3
    assert len(caught) == 1


def test_a_full_disk_fails_no_call_and_warns_once(serving: Any) -> None:
    """A limit on the size of files is a disk that is full."""
    import resource
    import signal

    runtime, _ = serving()
    runtime.run("sentiment", "x")
    path = Path(runtime.asynchronous.store.captures.path("sentiment"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, before[1]))
        with pytest.warns(StoreWarning) as caught:
            assert [runtime.run("sentiment", "y").value for _ in range(3)] == ["positive"] * 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(caught) == 1
    # What was cut off is no row, and the next one stands on a line of its own.
    runtime.run("sentiment", "z")
    assert [kept.inputs["input"] for kept in rows(runtime)] == ["x", "z"]
    assert [found for found in verify(str(path.parent.parent)) if found.part == "captures"] == []


def test_a_link_in_place_of_folder_or_file_is_not_followed(serving: Any, tmp_path: Path) -> None:
    runtime, _ = serving()
    target = tmp_path / "elsewhere"
    target.mkdir()
    folder(runtime).symlink_to(target)
    with pytest.warns(StoreWarning):
        assert runtime.run("sentiment", "x").value == "positive"
    assert list(target.iterdir()) == []
    folder(runtime).unlink()
    folder(runtime).mkdir(mode=0o700)
    file = tmp_path / "file"
    file.write_text("mine\n")
    Path(runtime.asynchronous.store.captures.path("sentiment")).symlink_to(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        assert runtime.run("sentiment", "x").value == "positive"
    assert file.read_text() == "mine\n"


# --- looking after them -----------------------------------------------------------------------------------


def test_stats_count_rows_and_tasks(serving: Any, invoke: Invoke) -> None:
    runtime, _ = serving()
    cache = str(runtime.asynchronous.project.cache)
    assert stats(cache)["captures"] == {"entries": 0, "bytes": 0, "oldest": None, "newest": None, "tasks": 0}
    for _ in range(3):
        runtime.run("sentiment", "x")
    found = stats(cache)["captures"]
    assert (found["entries"], found["tasks"]) == (3, 1)
    shown = json.loads(invoke("cache", "stats", "--json", project=runtime.asynchronous.project).stdout)
    assert shown["captures"]["entries"] == 3


def test_verify_names_damage_and_files_that_others_may_read(serving: Any, invoke: Invoke) -> None:
    runtime, _ = serving()
    runtime.run("sentiment", "x")
    project = runtime.asynchronous.project
    assert verify(str(project.cache)) == []
    (path,) = folder(runtime).iterdir()
    path.write_bytes(path.read_bytes() + b'{"id": 7}\n\xff\xff\n{"cut off')
    path.chmod(0o644)
    found = {finding.what for finding in verify(str(project.cache)) if finding.part == "captures"}
    assert found == {"2 damaged lines, which are skipped", "others may use this file (mode 0644, 0600 would be right)"}
    assert "damaged" in invoke("cache", "verify", project=project, code=1).stdout
    assert len(rows(runtime)) == 1


def test_prune_takes_what_is_past_the_replies_time(tmp_path: Path) -> None:
    here = captures(tmp_path)
    here.add("t", row(1, 1000.0))
    here.add("t", row(2, 2000.0))
    here.add("u", row(3, 1000.0))
    assert prune(str(tmp_path), reply_ttl=None, size_limit=None, now=2500.0)["captures"] == 0
    assert prune(str(tmp_path), reply_ttl=1000.0, size_limit=None, now=2500.0)["captures"] == 2
    assert [one.inputs["input"] for one in here.rows("t")] == ["message 2"]
    assert here.rows("u") == []


def test_clear_replies_removes_them_and_their_marks(serving: Any, invoke: Invoke) -> None:
    runtime, _ = serving()
    runtime.run("sentiment", "x")
    project = runtime.asynchronous.project
    runtime.asynchronous.store.captures.settle("sentiment", "a" * 12)
    ledger = (project.cache / "ledger.jsonl").read_bytes()
    ended = invoke("cache", "clear", "--replies", "--yes", project=project)
    assert "captured calls" in ended.output
    assert list(folder(runtime).iterdir()) == []
    assert (project.cache / "ledger.jsonl").read_bytes() == ledger
    runtime.run("sentiment", "y")
    assert clear(str(project.cache), replies_only=False)["captures"] == 1


def test_the_store_gives_captures_the_time_of_replies(tmp_path: Path) -> None:
    with DiskStore(tmp_path, reply_ttl=50.0) as store:
        store.captures.add("t", row(1, time.time() - 60))
        assert store.captures.rows("t") == []
