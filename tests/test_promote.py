"""Promotion through the gate from end to end: which report counts, what is refused, what the lock says for ever."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result as Ended

from promptsmith import compile_task, evaluate
from promptsmith.budget import Limits
from promptsmith.config import Project
from promptsmith.evals.locked import check_lock
from promptsmith.evals.report import Reports
from promptsmith.receipt import make_receipt
from promptsmith.registry.lock import LockFile
from tests.provider import KEY, Ask, Provider, Settings

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
LABELS = ("positive", "negative", "neutral")


def task(more: str = "", rows: int = 60, labels: Sequence[str] = LABELS) -> str:
    """Case n expects label n % 3; even ones have the tag ``even``, odd ones ``odd``."""
    lines = [
        "task: Classify the sentiment of a customer message.",
        f"output: [{', '.join(labels)}]",
        "models: {production: openai/gpt-6-luna}",
        "examples:",
        '  - {input: "This product is amazing!", output: positive}',
        '  - {input: "It broke after a day.", output: negative}',
        '  - {input: "When does the shop open?", output: neutral}',
        "holdout:",
        *(
            f'  - {{input: "sealed message number {n}", output: {labels[n % len(labels)]}, id: c{n:03}, tags: [{("even", "odd")[n % 2]}]}}'
            for n in range(rows)
        ),
    ]
    return "\n".join(lines) + "\n" + more


class Model:
    """Answers right, but for the cases whose numbers are in ``wrong``."""

    def __init__(self) -> None:
        self.wrong: set[int] = set()
        self.asked: list[int] = []
        self.labels: Sequence[str] = LABELS

    def __call__(self, ask: Ask) -> str:
        number = int(ask.text.rsplit(" ", 1)[-1])
        self.asked.append(number)
        return self.labels[(number + (number in self.wrong)) % len(self.labels)]


def endpoint(provider: Provider) -> str:
    url = f'base_url = "{provider.base_url_openai}"\napi_key_env = "OPENAI_API_KEY"\nforeign = false\n'
    return f'[endpoints.openai]\nprotocol = "openai"\n{url}'


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def provider(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(model, Settings(latency=0.01)) as running:
        yield running


@pytest.fixture
def make(make_project: Make, provider: Provider) -> Make:
    def made(more: str = "", data: Any = None, **options: Any) -> Project:
        project = make_project({"sentiment": task(more, **options)}, data, config=endpoint(provider))
        compile_task("sentiment", project=project)
        return project

    return made


def said(ended: Ended) -> str:
    return " ".join(ended.output.split())


def in_production(project: Project) -> str | None:
    return LockFile(project.lock).resolve("sentiment", "production")


# --- which report counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [
        ("output: negative, id: c001", "output: positive, id: c001", 0),
        ("sealed message number 1\"", "sealed message number 001\"", 1),
        ("id: c001, tags: [odd]", "id: c001, tags: [even]", 0),
        ("scorers: [exact]", "scorers: [label]", 0),
        ("gate: {margin: 0.1}", "gate: {margin: 0.1, require: {pass_rate: '>= 0.5'}}", 0),
        ("gate: {margin: 0.1}", "gate: {margin: 0.1, must_pass: [odd]}", 0),
    ],
)  # fmt: skip
def test_a_report_of_another_suite_or_gate_proves_nothing(
    make: Make, model: Model, invoke: Invoke, before: str, after: str, asked: int
) -> None:
    project = make("scorers: [exact]\ngate: {margin: 0.1}\n")
    first = evaluate("sentiment", project=project)
    file = project.task_file("sentiment")
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    model.asked.clear()
    invoke("promote", "sentiment", project=project)
    assert len(Reports(project.cache).heads()) == 2
    assert len({head.identity for head in Reports(project.cache).heads()}) == 2
    assert len(model.asked) == asked  # the answers are the same; only what is made of them is not
    assert first.head.judgement.verdict == "promote"


def test_a_python_scorer_that_changed_is_another_eval(make: Make, invoke: Invoke) -> None:
    data = {"mine.py": "def grade(output, expected):\n    return output == expected\n"}
    project = make("scorers: [{python: 'mine.py:grade'}]\n", data=data)
    assert evaluate("sentiment", project=project).head.judgement.verdict == "promote"
    (project.evals / "mine.py").write_text("def grade(output, expected):\n    return output == 'positive'\n")
    invoke("promote", "sentiment", project=project, code=3)
    assert in_production(project) is None


def test_a_report_that_was_edited_moves_nothing(make: Make, model: Model, invoke: Invoke) -> None:
    project = make()
    model.wrong = set(range(45))
    report = evaluate("sentiment", project=project)
    assert report.head.judgement.verdict == "inconclusive"
    path = Reports(project.cache).path(report.head.id)
    path.write_text(path.read_text().replace('"verdict":"inconclusive"', '"verdict":"promote"', 1))
    ended = invoke("promote", "sentiment", project=project, code=2)
    assert "does not give the verdict it has written down" in ended.output
    assert in_production(project) is None


def test_a_report_with_repeats_a_budget_or_another_model_is_not_the_gates(make: Make, model: Model, invoke: Invoke) -> None:
    project = make()
    for flags in (("--repeat", "2"), ("--model", "openai/gpt-5-mini"), ("--max-calls", "0")):
        invoke("eval", "sentiment", *flags, project=project, code=3 if "--max-calls" in flags and not model.asked else 0)
    invoke("promote", "sentiment", project=project)
    assert {head.candidate.model for head in Reports(project.cache).heads()} == {"openai/gpt-6-luna", "openai/gpt-5-mini"}
    (receipt,) = LockFile(project.lock).receipts("sentiment").values()
    assert (receipt.repeats, receipt.model, receipt.doubts) == (1, "openai/gpt-6-luna", ())


# --- what the lock says for ever --------------------------------------------------------------------------


def test_a_forced_move_is_shown_for_ever(make: Make, model: Model, invoke: Invoke) -> None:
    project = make()
    invoke("promote", "sentiment", "--force", "--why", "we could not wait", project=project)
    forced = in_production(project)
    assert "forced" in said(invoke("list", project=project))
    compile_task("sentiment", project=project, example_tokens=0)
    invoke("promote", "sentiment", project=project)
    history = said(invoke("history", "sentiment", project=project))
    assert "forced" in history
    assert "we could not wait" in history
    invoke("eval", "--locked", "--strict", project=project)
    # Back at the forced prompt: nothing has proven it since.
    invoke("rollback", "sentiment", "--why", "the other was worse", project=project)
    assert in_production(project) == forced
    assert "forced" in said(invoke("list", project=project))
    assert "we could not wait" in said(invoke("eval", "--locked", project=project))
    invoke("eval", "--locked", "--strict", project=project, code=1)
    # A receipt ends that for the alias; the history still tells.
    invoke("promote", "sentiment@production", project=project)
    assert [row.state for row in check_lock(LockFile(project.lock))] == ["proven"]
    assert "forced" in said(invoke("history", "sentiment", project=project))
    invoke("eval", "--locked", "--strict", project=project)


def test_a_rollback_brings_the_rows_of_the_receipt_back_from_its_report(make: Make, invoke: Invoke) -> None:
    project = make()
    invoke("promote", "sentiment", project=project)
    first = LockFile(project.lock).receipts("sentiment")
    compile_task("sentiment", project=project, example_tokens=0)
    invoke("promote", "sentiment", project=project)
    (project.cache / "reports" / "0123456789ab.jsonl").write_text("damaged\n")
    invoke("rollback", "sentiment", "--why", "back", project=project)
    assert [row.state for row in check_lock(LockFile(project.lock))] == ["proven"]
    assert {name: LockFile(project.lock).receipts("sentiment")[name] for name in first} == first
    invoke("eval", "--locked", "--strict", project=project)


def test_after_a_rollback_without_the_report_the_receipt_is_there_without_its_rows(make: Make, invoke: Invoke) -> None:
    project = make()
    invoke("promote", "sentiment", project=project)
    compile_task("sentiment", project=project, example_tokens=0)
    invoke("promote", "sentiment", project=project)
    assert [row.state for row in check_lock(LockFile(project.lock))] == ["proven"]
    shutil.rmtree(project.cache / "reports")
    invoke("rollback", "sentiment", "--why", "back", project=project)
    (row,) = check_lock(LockFile(project.lock))
    assert row.state == "no rows"
    invoke("eval", "--locked", project=project)
    assert "promote it again" in said(invoke("eval", "--locked", "--strict", project=project, code=1))
    invoke("promote", "sentiment@production", project=project)
    invoke("eval", "--locked", "--strict", project=project)


# --- verdicts -----------------------------------------------------------------------------------------------


def test_several_metrics_with_their_own_thresholds(make: Make, model: Model, invoke: Invoke) -> None:
    gate = """
gate:
  require:
    pass_rate: ">= 0.9"
    score: {lower95: ">= 0.8"}
    contract: "== 1"
    p95_ms: "<= 60000"
    cost_per_1k_usd: "<= 4.0"
    scorers.exact: ">= 0.9"
    tags.odd: ">= 0.5"
"""
    project = make(gate)
    found = json.loads(invoke("eval", "sentiment", "--json", project=project).stdout)
    assert found["verdict"] == "promote"
    model.wrong = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31}
    ended = invoke("eval", "sentiment", "--fresh", project=project, code=1)
    assert "tags.odd 0.4667 misses >= 0.5" in said(ended)
    assert "pass_rate 0.7333" in said(ended)


def test_a_case_that_must_pass_vetoes(make: Make, model: Model, invoke: Invoke) -> None:
    project = make("gate: {must_pass: [odd]}\n")
    invoke("promote", "sentiment", project=project)
    compile_task("sentiment", project=project, example_tokens=0)
    model.wrong = {7}
    ended = invoke("promote", "sentiment", project=project, code=1)
    assert "case c007 must pass and has regressed" in said(ended)


def test_a_first_prompt_that_always_says_the_same_is_never_promoted(make: Make, model: Model, invoke: Invoke) -> None:
    project = make()
    model.wrong = {n for n in range(60) if n % 3}
    model.labels = ("positive",) * 3
    ended = invoke("promote", "sentiment", project=project, code=3)
    assert "not shown to be better than the holdout's own majority answer positive" in said(ended)
    assert in_production(project) is None


def test_a_requirement_that_nothing_could_miss_promotes_nothing(make_project: Make, invoke: Invoke) -> None:
    text = "task: Greet.\noutput: text\nexamples: [{input: hi, output: hello}]\nholdout: [{input: hey, output: hello}]\nscorers: [exact]\n"
    for condition in ("<= 1", ">= 0"):
        project = make_project({"greet": text + f"gate: {{require: {{score: '{condition}'}}}}\n"})
        compile_task("greet", project=project)
        assert "the gate requires no score" in invoke("eval", "greet", project=project, code=3).output


def test_a_new_label_in_the_task_does_not_lock_production_for_ever(make: Make, model: Model, invoke: Invoke) -> None:
    """What is in production can't say it, so it fails those cases; that is what a new prompt is for."""
    project = make()
    invoke("promote", "sentiment", project=project)
    first = in_production(project)
    labels = (*LABELS, "mixed")
    project.task_file("sentiment").write_text(
        task(labels=labels).replace('When does the shop open?", output: neutral', 'Good and bad.", output: mixed')
    )
    ended = invoke("eval", "sentiment@production", project=project, code=2)
    assert "can't answer mixed" in said(ended)
    assert "promptsmith compile sentiment" in said(ended)
    compile_task("sentiment", project=project)
    model.labels = labels
    ended = invoke("promote", "sentiment", project=project)
    assert in_production(project) != first


def test_the_o0_prompt_stands_beside_a_first_promotion_and_decides_nothing(make: Make, model: Model, invoke: Invoke) -> None:
    project = make("prompt: Answer with one of the three labels.\n")
    report = evaluate("sentiment", project=project)
    assert [arm.role for arm in report.head.arms] == ["candidate", "reference"]
    assert report.head.arms[1].name == "the -O0 prompt of the same task"
    assert report.head.against == "majority answer positive"
    assert "-O0" in invoke("eval", "sentiment", project=project).output
    assert len(model.asked) == 120


def test_a_forged_receipt_says_something_else_than_its_rows(make: Make, invoke: Invoke) -> None:
    """Every digest is right, and the verdict is not what these rows give."""
    project = make()
    invoke("promote", "sentiment", project=project)
    lock = LockFile(project.lock)
    entry = lock.entry("sentiment")
    assert entry is not None
    (prompt,) = entry.prompts()
    (real,) = entry.receipts.values()
    rows = [row._replace(passed=0.0, score=0.0) for row in real.parse_rows()]
    evidence = {name: getattr(real, name) for name in real.__struct_fields__ if name not in ("rows", "rows_digest", "digest")}
    lock.move("sentiment", "production", prompt, expected=prompt.id, why="forged", receipt=make_receipt(rows=rows, **evidence))
    ended = invoke("eval", "--locked", project=project, code=1)
    assert "the receipt says promote, its rows say" in said(ended)


def test_two_promotions_at_once_leave_a_sound_lock(make: Make) -> None:
    project = make()
    both = [process(project, "promote", "sentiment") for _ in range(2)]
    told = [one.communicate(timeout=120)[0] for one in both]
    assert 0 in [one.returncode for one in both], told
    assert all("Traceback" not in text for text in told)
    assert [row.state for row in check_lock(LockFile(project.lock))] == ["proven"]


def test_what_is_wrong_with_one_of_several_is_said_before_anything_is_paid_for(
    make: Make, model: Model, invoke: Invoke, tmp_path: Path
) -> None:
    project = make()
    (project.evals / "zoo.yaml").write_text(task())
    assert "zoo" in invoke("eval", project=project, code=2).output  # never compiled
    compile_task("zoo", project=project)
    assert "one report" in invoke("eval", "--html", tmp_path / "x.html", project=project, code=2).output
    assert model.asked == []
    found = invoke("eval", "--junit", tmp_path / "x.xml", "--json", project=project)
    assert [one["task"] for one in json.loads(found.stdout)] == ["sentiment", "zoo"]


def test_two_tasks_with_the_same_prompt_are_promoted_each_for_itself(make_project: Make, invoke: Invoke) -> None:
    """The cache holds the prompt once; whose it is, the ref says."""
    text = "task: Classify.\noutput: [good, bad]\nexamples: [{input: fine, output: good}, {input: awful, output: bad}]\n"
    project = make_project({"alpha": text, "beta": text})
    one, other = (compile_task(name, project=project) for name in ("alpha", "beta"))
    assert one.id == other.id
    for ref in ("alpha", f"alpha@{one.id[:12]}"):
        invoke("promote", ref, "--force", "--why", "x", project=project)
        lock = LockFile(project.lock)
        assert (lock.resolve("alpha", "production"), lock.resolve("beta", "production")) == (one.id, None)
    assert "beta@latest" in invoke("run", "beta@latest", "fine", project=project).output


# --- limits -------------------------------------------------------------------------------------------------


def test_a_provider_that_says_slow_down_is_asked_more_slowly_and_every_case_is_scored(
    make_project: Make, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most eight calls at a time are let in; 64 workers ask."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(model, Settings(latency=0.01, max_in_flight=8, retry_after_ms=5)) as provider:
        project = make_project({"sentiment": task(rows=150)}, config=endpoint(provider))
        compile_task("sentiment", project=project)
        report = evaluate("sentiment", project=project)
        refused = len(provider.records) - 150
    assert report.head.candidate.tally.scored == 150
    assert refused > 0
    assert refused < 10 * 150


def test_a_time_limit_stops_early_and_the_same_command_goes_on(make_project: Make, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(model, Settings(latency=0.2)) as provider:
        project = make_project({"sentiment": task(rows=60)}, config=endpoint(provider))
        compile_task("sentiment", project=project)
        report = evaluate("sentiment", project=project, limits=Limits(seconds=0.5), concurrency=4)
        assert "the time limit of 0.5 seconds is reached" in report.head.stopped
        assert report.head.judgement.verdict == "inconclusive"
        assert 0 < report.head.candidate.tally.scored < 60
        whole = evaluate("sentiment", project=project, concurrency=64)
        assert whole.head.judgement.verdict == "promote"
        assert len(model.asked) <= 60 + 4


# --- two at once, and kill -9 -------------------------------------------------------------------------------


def process(project: Project, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "promptsmith", "--project", str(project.root), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_processes_that_judge_the_same_ask_once(make: Make, model: Model) -> None:
    project = make()
    both = [process(project, "eval", "sentiment", "--json") for _ in range(2)]
    told = [one.communicate(timeout=120)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    # Two keys of one stripe are not waited for: a few may be asked twice, and no answer is missing.
    assert set(model.asked) == set(range(60))
    assert len(model.asked) <= 75
    heads = Reports(project.cache).heads()
    assert [(head.judgement.verdict, head.looks, head.candidate.tally.scored) for head in heads] == [("promote", 1, 60)] * 2


def test_no_look_is_lost_when_two_prompts_are_judged_at_once(make: Make) -> None:
    project = make()
    ids = [compile_task("sentiment", project=project, example_tokens=tokens).id for tokens in (0, 20, 6000)]
    several = [process(project, "eval", f"sentiment@{one[:12]}", "--json") for one in ids]
    for one in several:
        one.communicate(timeout=120)
    looks = [head.looks for head in Reports(project.cache).heads()]
    assert sorted(looks) == [1, 2, 3]
    assert evaluate(f"sentiment@{ids[0][:12]}", project=project).head.looks == 3


def test_the_best_of_several_looks_is_not_promoted_as_if_it_were_the_only_one(make: Make, model: Model, invoke: Invoke) -> None:
    """A report from before the other looks divides alpha by too few; it is made again from the cache."""
    project = make()
    model.wrong = set(range(28))
    first = compile_task("sentiment", project=project)
    early = evaluate("sentiment", project=project)
    assert (early.head.judgement.verdict, early.head.looks) == ("promote", 1)
    for tokens in (0, 20, 40, 60, 80):
        other = compile_task("sentiment", project=project, example_tokens=tokens)
        evaluate(f"sentiment@{other.id[:12]}", project=project)
    asked = len(model.asked)
    looks = max(head.looks for head in Reports(project.cache).heads())
    assert looks > 2
    ended = invoke("promote", f"sentiment@{first.id[:12]}", project=project, code=3)
    assert "not shown to be better" in said(ended)
    assert Reports(project.cache).heads()[0].looks == looks
    assert len(model.asked) == asked


def test_looks_that_the_cache_has_lost_stay_counted(make: Make, invoke: Invoke) -> None:
    project = make()
    for tokens in (0, 20, 6000):
        compile_task("sentiment", project=project, example_tokens=tokens)
        evaluate("sentiment", project=project)
    invoke("promote", "sentiment", project=project)
    shutil.rmtree(project.cache)
    compile_task("sentiment", project=project, example_tokens=10)
    assert [evaluate("sentiment", project=project).head.looks for _ in range(3)] == [4, 4, 4]


KILLED_AT_THE_END = """
import os, signal, sys
from promptsmith import evaluate
evaluate("sentiment", project=sys.argv[1])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_just_after_the_end_nothing_is_asked_again(make: Make, model: Model) -> None:
    """A finished journal is not replayed, so by then the reply cache must hold everything."""
    project = make()
    done = subprocess.run([sys.executable, "-c", KILLED_AT_THE_END, str(project.root)], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(model.asked) == 60
    assert evaluate("sentiment", project=project).head.spent == 0
    assert len(model.asked) == 60


def test_killed_between_journal_and_cache_nothing_is_asked_again(make: Make, model: Model) -> None:
    """Paid replies that reached the journal and not the cache come from there."""
    project = make()
    stopped = process(project, "eval", "sentiment", "--max-calls", "40")
    stopped.communicate(timeout=120)
    assert stopped.returncode == 3
    shutil.rmtree(project.cache / "replies")
    report = evaluate("sentiment", project=project)
    assert sorted(model.asked) == list(range(60))
    assert report.head.candidate.tally.sources == {"journal": 40, "model": 20}
    assert report.head.candidate.tally.scored == 60


def test_a_clone_renews_nothing_and_proves_everything(make: Make, invoke: Invoke, tmp_path: Path) -> None:
    """Without a cache folder the lock alone says what is proven."""
    project = make()
    invoke("promote", "sentiment", project=project)
    other = tmp_path / "elsewhere"
    (other / "evals").mkdir(parents=True)
    (other / "promptsmith.toml").write_bytes((project.root / "promptsmith.toml").read_bytes())
    (other / "promptsmith.lock").write_bytes(project.lock.read_bytes())
    assert "proven" in invoke("eval", "--locked", "--strict", project=other).output
