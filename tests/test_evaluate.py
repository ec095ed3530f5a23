"""Evals from end to end: real models behind the loopback provider, the gate, receipts, records, resume after kill -9."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result as Ended

from promptsmith import Task, compile_task, evaluate
from promptsmith.budget import Limits
from promptsmith.config import Project, find_project
from promptsmith.errors import InputError, NotCompiled, ReplyMissing
from promptsmith.evals.locked import check_lock
from promptsmith.evals.receipts import receipt_of, recheck
from promptsmith.evals.report import Report, Reports
from promptsmith.registry.lock import LockFile
from tests.made_reports import worse_report
from tests.provider import KEY, Ask, Fault, Provider, Settings

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
LABELS = ("positive", "negative", "neutral")


def task(model: str = "openai/gpt-6-luna", more: str = "", rows: int = 60) -> str:
    """A task whose sealed inputs end in the number of the case; case n expects label n % 3."""
    lines = [
        "task: Classify the sentiment of a customer message.",
        f"output: [{', '.join(LABELS)}]",
        f"models: {{production: {model}}}",
        "examples:",
        '  - {input: "This product is amazing!", output: positive}',
        '  - {input: "It broke after a day.", output: negative}',
        '  - {input: "When does the shop open?", output: neutral}',
        "holdout:",
        *(f'  - {{input: "sealed message number {n}", output: {LABELS[n % 3]}, id: c{n:03}, tags: [t{n % 2}]}}' for n in range(rows)),
    ]
    return "\n".join(lines) + "\n" + more


class Wrong:
    """Answers each case right, but for those whose numbers are in ``wrong``; counts what it is asked."""

    def __init__(self, wrong: Sequence[int] = ()) -> None:
        self.wrong = set(wrong)
        self.asked: list[int] = []

    def __call__(self, ask: Ask) -> str:
        number = int(ask.text.rsplit(" ", 1)[-1])
        self.asked.append(number)
        return LABELS[(number + (number in self.wrong)) % 3]


@pytest.fixture
def answers() -> Wrong:
    return Wrong()


@pytest.fixture
def provider(answers: Wrong, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(answers) as running:
        yield running


def config(provider: Provider) -> str:
    server = f'protocol = "openai"\nbase_url = "{provider.base_url_openai}"\napi_key_env = "OPENAI_API_KEY"\nforeign = false\n'
    return f"[endpoints.openai]\n{server}"


@pytest.fixture
def project(make_project: Make, provider: Provider) -> Project:
    found = make_project({"sentiment": task()}, config=config(provider))
    compile_task("sentiment", project=found)
    return found


def verdict(report: Report) -> str:
    return report.head.judgement.verdict


def test_a_first_eval_and_the_same_again_from_the_cache(project: Project, answers: Wrong) -> None:
    report = evaluate("sentiment", project=project)
    assert verdict(report) == "promote"
    assert report.head.against.startswith("majority answer")
    assert sorted(answers.asked) == list(range(60))
    tally = report.head.candidate.tally
    assert (tally.cases, tally.scored, tally.passed, tally.sources) == (60, 60, 60.0, {"model": 60})
    assert tally.cost is not None and tally.cost > 0
    assert report.head.spent == pytest.approx(tally.cost)
    assert tally.metrics["contract"] == 1.0 and tally.usage.input > 0
    again = evaluate("sentiment", project=project)
    assert len(answers.asked) == 60
    assert again.head.candidate.tally.sources == {"cache": 60}
    assert again.head.spent == 0.0
    assert again.head.candidate.tally.cost == pytest.approx(tally.cost)
    assert again.head.identity == report.head.identity
    assert [case.row for case in again.cases] == [case.row for case in report.cases]
    assert Reports(project.cache).load(report.head.id) == report


def test_the_first_call_goes_alone_so_that_the_provider_writes_its_prompt_cache_once(make_project: Make, answers: Wrong) -> None:
    examples = "".join(f'  - {{input: "{"a long visible message " * 12}{n}", output: {LABELS[n % 3]}}}\n' for n in range(40))
    text = task(rows=20).replace("examples:\n", f"examples:\n{examples}", 1)
    with Provider(answers, Settings(latency=0.05)) as provider:
        found = make_project({"sentiment": text}, config=config(provider))
        os.environ["OPENAI_API_KEY"] = KEY
        compile_task("sentiment", project=found)
        report = evaluate("sentiment", project=found)
    usage = report.head.candidate.tally.usage
    per_call = usage.written
    assert per_call > 0
    assert usage.cached == pytest.approx(19 * per_call, rel=0.02)


def test_a_task_made_in_python_is_judged_like_a_file(make_project: Make) -> None:
    project = make_project({})
    made = Task(
        "Is it a greeting?",
        name="greeting",
        output=["yes", "no"],
        examples=[("hello there", "yes"), ("where is my order", "no")],
        holdout=[("hello and good day", "yes"), ("the order is late", "no")],
    )
    with pytest.raises(NotCompiled, match="compile it first with compile_task"):
        evaluate(made, project=project)
    prompt = compile_task(made, project=project)
    report = evaluate(made, project=project)
    assert (report.head.task, report.head.arm("candidate").prompt, len(report.cases)) == ("greeting", prompt.id, 2)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="given as a Task"):
        evaluate(5, project=project)  # type: ignore[arg-type]


def test_reports_of_one_second_are_listed_newest_first(tmp_path: Path) -> None:
    reports, made = Reports(tmp_path), worse_report(20)
    ids = [f"{number:012x}" for number in (5, 9, 1, 7)]
    for number, name in enumerate(ids):
        path = reports.save(msgspec.structs.replace(made, head=msgspec.structs.replace(made.head, id=name)))
        os.utime(path, ns=(number, number))
    assert [head.id for head in reports.heads()] == ids[::-1]


def test_a_worse_prompt_is_rejected_and_an_equal_one_promoted(project: Project, answers: Wrong, invoke: Invoke) -> None:
    invoke("promote", "sentiment", "--why", "first", project=project)
    first = LockFile(project.lock).resolve("sentiment", "production")
    assert first is not None
    receipt = LockFile(project.lock).receipts("sentiment")[first]
    assert (receipt.verdict, receipt.counts.passed, recheck(receipt).verdict) == ("promote", 60, "promote")
    assert len(receipt.parse_rows()) == 60
    compile_task("sentiment", project=project, example_tokens=0)
    answers.wrong = set(range(0, 60, 3))
    ended = invoke("promote", "sentiment", project=project, code=1)
    assert "is rejected: worse than production" in ended.output
    assert LockFile(project.lock).resolve("sentiment", "production") == first
    report = Reports(project.cache).heads()[0]
    assert report.judgement.verdict == "reject"
    assert len(Reports(project.cache).load(report.id).regressed()) == 20
    # A refused prompt that is forced carries its evidence, and is forced for ever.
    invoke("promote", "sentiment", "--force", "--why", "we know better", project=project)
    lock = LockFile(project.lock)
    assert [row.state for row in check_lock(lock)] == ["forced"]
    invoke("eval", "--locked", project=project)
    assert "we know better; the gate said reject" in invoke("eval", "--locked", "--strict", project=project, code=1).output


def test_promote_uses_the_report_of_the_same_eval(project: Project, answers: Wrong, invoke: Invoke) -> None:
    evaluate("sentiment", project=project)
    shutil.rmtree(project.cache / "replies")
    asked = len(answers.asked)
    invoke("promote", "sentiment", project=project)
    assert len(answers.asked) == asked
    before = project.lock.read_bytes()
    assert "already" in invoke("promote", "sentiment", "--to", "production", project=project).output or project.lock.read_bytes() == before


def test_production_has_its_receipt_renewed_when_the_holdout_grew(project: Project, invoke: Invoke) -> None:
    invoke("promote", "sentiment", project=project)
    file = project.task_file("sentiment")
    file.write_text(file.read_text() + '  - {input: "sealed message number 60", output: positive, id: c060}\n')
    ended = invoke("promote", "sentiment@production", project=project)
    assert "stays" in ended.output and "with receipt" in ended.output
    lock = LockFile(project.lock)
    assert [receipt.counts.cases for receipt in lock.receipts("sentiment").values()] == [61]
    assert [row.state for row in check_lock(lock)] == ["proven"]


def test_an_alias_that_is_not_protected_needs_no_gate(project: Project, answers: Wrong, invoke: Invoke) -> None:
    invoke("promote", "sentiment", "--to", "staging", project=project)
    assert answers.asked == []


def test_a_tampered_receipt_row_is_found(project: Project, invoke: Invoke) -> None:
    invoke("promote", "sentiment", project=project)
    text = project.lock.read_text()
    assert "c000:1:" in text
    project.lock.write_text(text.replace("c000:1:", "c000:0:"))
    assert "damaged" in invoke("eval", "--locked", project=project, code=1).output


def test_looks_are_counted_over_prompts_and_reach_the_receipt(project: Project, invoke: Invoke) -> None:
    for tokens in (0, 20, 6000):
        compile_task("sentiment", project=project, example_tokens=tokens)
        report = evaluate("sentiment", project=project)
    assert report.head.looks == 3
    again = evaluate("sentiment", project=project)
    assert again.head.looks == 3
    assert again.head.judgement.comparison is not None
    assert again.head.judgement.comparison.alpha == pytest.approx(0.05 / 3)
    invoke("promote", "sentiment", project=project)
    (receipt,) = LockFile(project.lock).receipts("sentiment").values()
    assert receipt.looks == 3
    shutil.rmtree(project.cache)
    compile_task("sentiment", project=project, example_tokens=10)
    assert evaluate("sentiment", project=project).head.looks == 4


def test_faults_are_retried_and_every_case_is_scored(make_project: Make, answers: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of all calls fails with 429 or 500."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(answers) as provider:
        provider.faults.chance(0.1, Fault("status", status=429, retry_after_ms="5"), seed=1)
        provider.faults.chance(0.11, Fault("status", status=500), seed=2)
        found = make_project({"sentiment": task(rows=200)}, config=config(provider))
        compile_task("sentiment", project=found)
        report = evaluate("sentiment", project=found)
        assert report.head.candidate.tally.scored == 200
        assert verdict(report) == "promote"
        assert len(provider.records) > 220


def test_what_stays_broken_is_unscored_and_inconclusive_and_resumes(project: Project, provider: Provider, answers: Wrong) -> None:
    """A call that the provider refuses for good is no wrong answer, and no right one."""
    provider.faults.on(range(11, 14), Fault("status", status=400))
    report = evaluate("sentiment", project=project)
    assert verdict(report) == "inconclusive"
    assert report.head.candidate.tally.scored == 57
    assert "3 cases of 60 without a score" in report.head.judgement.reasons[0]
    assert all("400" in case.attempts[0][0].why for case in report.unscored())
    asked = len(answers.asked)
    again = evaluate("sentiment", project=project)
    assert verdict(again) == "promote"
    assert len(answers.asked) == asked + 3


def test_a_provider_that_is_down_is_not_asked_for_every_case(make_project: Make, monkeypatch: pytest.MonkeyPatch, answers: Wrong) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(answers) as provider:
        provider.faults.every(Fault("status", status=400))
        found = make_project({"sentiment": task(rows=300)}, config=config(provider))
        compile_task("sentiment", project=found)
        report = evaluate("sentiment", project=found, concurrency=4)
        assert verdict(report) == "inconclusive"
        assert "30 calls in a row got no answer" in report.head.stopped
        assert len(provider.records) < 40
        provider.faults.clear()
        assert verdict(evaluate("sentiment", project=found)) == "promote"


def test_a_refused_key_ends_the_eval_with_its_error(project: Project, monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    ended = invoke("eval", "sentiment", project=project, code=4)
    assert "error:" in ended.output
    assert "Traceback" not in ended.output


def test_repeats_ask_each_case_several_times_and_list_the_flaky_ones(make_project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    seen: dict[int, int] = {}

    def answer(ask: Ask) -> str:
        number = int(ask.text.rsplit(" ", 1)[-1])
        seen[number] = seen.get(number, 0) + 1
        return LABELS[(number + (number < 5 and seen[number] == 2)) % 3]

    with Provider(answer) as provider:
        found = make_project({"sentiment": task()}, config=config(provider))
        compile_task("sentiment", project=found)
        report = evaluate("sentiment", project=found, repeats=3)
        asked = dict(seen)
        assert len(asked) == 60 and min(asked.values()) == 3  # a broken connection may have been tried again
        tally = report.head.candidate.tally
        assert tally.flaky == tuple(f"c{n:03}" for n in range(5))
        assert tally.metrics["pass_k"] == pytest.approx(55 / 60)
        assert tally.metrics["pass_rate"] == pytest.approx((55 + 5 * 2 / 3) / 60)
        assert report.cases[0].row.passed == pytest.approx(2 / 3)
        assert recheck(receipt_of(report)).verdict == verdict(report)
        evaluate("sentiment", project=found, repeats=3)
        assert seen == asked


def test_a_budget_that_bites_is_inconclusive_and_the_same_command_goes_on(project: Project, answers: Wrong, invoke: Invoke) -> None:
    ended = invoke("eval", "sentiment", "--max-calls", "25", project=project, code=3)
    assert "stopped early: the limit of 25 calls is reached" in ended.output
    assert len(answers.asked) == 25
    invoke("eval", "sentiment", project=project)
    assert sorted(answers.asked) == list(range(60))
    assert "limit in dollars" not in invoke("eval", "sentiment", "--max-cost", "0", project=project).output


@pytest.mark.parametrize("limits", [Limits(calls=0), Limits(tokens=0), Limits(usd=0.0), Limits(seconds=0.0)])
def test_a_budget_of_nothing_asks_nothing(project: Project, answers: Wrong, limits: Limits) -> None:
    report = evaluate("sentiment", project=project, limits=limits)
    assert verdict(report) == "inconclusive"
    assert answers.asked == []


def test_fresh_asks_anew(project: Project, answers: Wrong) -> None:
    evaluate("sentiment", project=project)
    evaluate("sentiment", project=project, fresh=True)
    assert len(answers.asked) == 120


def test_another_model_serves_the_candidate_and_never_mixes(project: Project, provider: Provider) -> None:
    one = evaluate("sentiment", project=project)
    other = evaluate("sentiment", project=project, model="openai/gpt-5-mini")
    assert one.head.identity != other.head.identity
    assert other.head.candidate.model == "openai/gpt-5-mini"
    assert len(provider.records) == 120


def test_the_default_gate_never_passes_an_empty_suite_or_a_header_only_file(make_project: Make, invoke: Invoke) -> None:
    text = task("builtin/nearest", rows=0).replace("holdout:\n", "")
    found = make_project({"sentiment": text})
    compile_task("sentiment", project=found)
    assert "the suite is empty" in invoke("eval", "sentiment", project=found, code=3).output
    (found.evals / "rows.csv").write_text("input,output\n")
    found.task_file("sentiment").write_text(text + "holdout: {file: rows.csv}\n")
    assert "header but no rows" in invoke("eval", "sentiment", project=found, code=2).output


def test_dev_rows_decide_nothing(make_project: Make, invoke: Invoke) -> None:
    rows = "".join(f'  - {{input: "visible message {n}", output: {LABELS[n % 3]}}}\n' for n in range(60))
    text = task("builtin/nearest", rows=6).replace("examples:\n", f"examples:\n{rows}", 1)
    found = make_project({"sentiment": text})
    compile_task("sentiment", project=found)
    ended = invoke("eval", "sentiment", "--dev", project=found)
    assert "decide nothing" in ended.output
    assert not (found.cache / "looks.jsonl").exists()


def test_inputs_stay_sealed_unless_revealed_and_that_is_recorded(project: Project) -> None:
    report = evaluate("sentiment", project=project)
    assert all(not case.inputs for case in report.cases)
    assert b"sealed message" not in Reports(project.cache).path(report.head.id).read_bytes()
    shown = evaluate("sentiment", project=project, reveal=True)
    assert shown.cases[0].inputs == {"input": "sealed message number 0"}
    assert evaluate("sentiment", project=project).head.reveals == 1


def test_secrets_never_reach_a_report_or_a_record(make_project: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    secret = "sk-" + "b2" * 20
    with Provider(lambda ask: f"positive {secret}") as provider:
        text = (
            task()
            .replace("output: [positive, negative, neutral]", "output: text")
            .replace("output: text\nmodels", "output: text\nscorers: [exact]\nmodels")
        )
        found = make_project({"sentiment": text}, config=config(provider))
        compile_task("sentiment", project=found)
        record = tmp_path / "r.jsonl"
        report = evaluate("sentiment", project=found, record=record)
    kept = Reports(found.cache).path(report.head.id).read_text() + record.read_text()
    assert secret not in kept
    assert "[redacted]" in kept


# --- CI with no key ---------------------------------------------------------------------------------------


def git(root: Path, *args: str) -> None:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", *identity, *args], cwd=root, check=True, capture_output=True)


def test_a_fresh_clone_judges_from_the_record_with_no_key(
    project: Project, provider: Provider, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = project.evals / "sentiment.replies.jsonl"
    invoke("promote", "sentiment", project=project)
    invoke("eval", "sentiment@production", "--record", str(record), project=project)
    asked = len(provider.records)
    git(project.root, "init", "-q")
    (project.root / ".gitignore").write_text("/cache/*\n")
    git(project.root, "add", "-A")
    git(project.root, "commit", "-qm", "record")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(project.root), str(clone))
    monkeypatch.delenv("OPENAI_API_KEY")
    there = find_project(clone)
    ended = invoke("eval", "sentiment", "--cached-only", "--json", project=there)
    found = json.loads(ended.stdout)
    assert found["verdict"] == "promote"
    invoke("eval", "--locked", "--strict", project=there)
    assert len(provider.records) == asked
    # One recorded reply fewer, and the eval says that a call would be needed.
    lines = (clone / "evals" / "sentiment.replies.jsonl").read_text().splitlines(keepends=True)
    (clone / "evals" / "sentiment.replies.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(ReplyMissing, match="would be needed"):
        evaluate("sentiment", project=there, cached_only=True, record=clone / "evals" / "sentiment.replies.jsonl")


# --- kill -9 ----------------------------------------------------------------------------------------------


def test_kill_9_anywhere_repeats_only_calls_in_flight(make_project: Make, monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    """Twenty points over the run, 16 in flight; the verdict is made of all rows."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers = Wrong(range(0, 60, 4))
    rng = random.Random(7)
    with Provider(answers, Settings(latency=0.03)) as provider:
        found = make_project({"sentiment": task()}, config=config(provider))
        compile_task("sentiment", project=found)
        whole = evaluate("sentiment", project=found)
        for point in range(20):
            shutil.rmtree(found.cache / "replies")
            shutil.rmtree(found.cache / "journals")
            answers.asked.clear()
            command = [sys.executable, "-m", "promptsmith", "--project", str(found.root), "eval", "sentiment", "--concurrency", "16"]
            if point % 2:
                command.append("--fresh")
            before = len(provider.records)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            target = before + rng.randrange(1, 60)
            while len(provider.records) < target and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            report = evaluate("sentiment", project=found, concurrency=16, fresh=bool(point % 2))
            assert len(answers.asked) <= 60 + 16
            assert set(answers.asked) <= set(range(60))
            assert [case.row for case in report.cases] == [case.row for case in whole.cases]


def test_an_unknown_model_and_a_broken_option_are_clear(project: Project, invoke: Invoke) -> None:
    ended = invoke("eval", "sentiment", "--model", "opnai/x", project=project, code=2)
    assert "unknown model" in ended.output
    with pytest.raises(InputError, match="repeats"):
        evaluate("sentiment", project=project, repeats=0)
    ended = invoke("eval", "sentiment", "--fresh", "--cached-only", project=project, code=2)
    assert "choose one" in ended.output
    ended = invoke("eval", "--locked", "--fresh", "--repeat", "3", project=project, code=2)
    assert "--locked asks no model, so --repeat, --fresh would do nothing" in ended.output


def test_a_python_scorer_that_breaks_is_unscored_and_never_a_pass(make_project: Make, invoke: Invoke) -> None:
    scorers: dict[str, str] = {
        "raises": "def grade(output):\n    raise ValueError('no idea')\n",
        "seven": "def grade(output):\n    return 7\n",
        "hangs": "import time\ndef grade(output):\n    time.sleep(60)\n",
    }
    for name, source in scorers.items():
        option = "{function: 'mine.py:grade', timeout: 0.2}"
        found = make_project(
            {"sentiment": task("builtin/nearest", f"scorers: [{{python: {option}}}]\n", rows=6)}, {"mine.py": source}, name=name
        )
        compile_task("sentiment", project=found)
        ended = invoke("eval", "sentiment", project=found, code=3)
        assert "6 cases of 6 without a score" in ended.output


def test_replayed_answers_and_builtin_models_are_named_for_what_they_are(make_project: Make, invoke: Invoke, tmp_path: Path) -> None:
    found = make_project({"sentiment": task("builtin/nearest")})
    compile_task("sentiment", project=found)
    assert "no language model" in invoke("eval", "sentiment", "--record", str(tmp_path / "r"), project=found, code=3).output
    shown: Any = invoke("eval", "sentiment@latest", "--cached-only", "--record", str(tmp_path / "r"), project=found, code=3).output
    assert "record" in shown
