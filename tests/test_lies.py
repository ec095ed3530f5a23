"""What other harnesses report as passed that is not: each here as it would happen, and what promptsmith says instead."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result as Ended

from promptsmith import compile_task, evaluate
from promptsmith.config import Project
from promptsmith.errors import AuthenticationFailed
from promptsmith.evals.report import Reports
from promptsmith.registry.lock import LockFile
from tests.provider import KEY, Ask, Fault, Provider, Settings

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
LABELS = ("positive", "negative", "neutral")


def task(rows: int, more: str) -> str:
    lines = [
        "task: Classify the sentiment of a customer message.",
        f"output: [{', '.join(LABELS)}]",
        "models: {production: openai/gpt-6-luna}",
        "examples:",
        '  - {input: "This product is amazing!", output: positive}',
        '  - {input: "It broke after a day.", output: negative}',
        '  - {input: "When does the shop open?", output: neutral}',
        "holdout:",
        *(f'  - {{input: "sealed message number {n}", output: {LABELS[n % 3]}, id: "{n}"}}' for n in range(rows)),
    ]
    return "\n".join(lines) + f"\n{more}\n"


class Model:
    """Wrong on the cases below ``wrong``; counts what it is asked."""

    def __init__(self) -> None:
        self.wrong = 0
        self.asked: list[int] = []

    def __call__(self, ask: Ask) -> str:
        number = int(ask.text.rsplit(" ", 1)[-1])
        self.asked.append(number)
        return LABELS[(number + (number < self.wrong)) % 3]


def endpoint(provider: Provider) -> str:
    url = f'base_url = "{provider.base_url_openai}"\napi_key_env = "OPENAI_API_KEY"\nforeign = false\n'
    return f'[endpoints.openai]\nprotocol = "openai"\n{url}'


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def provider(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(model, Settings(latency=0.02)) as running:
        yield running


@pytest.fixture
def make(make_project: Make, provider: Provider) -> Make:
    def made(rows: int = 100, gate: str = "gate: {require: {pass_rate: '>= 0.9'}}") -> Project:
        project = make_project({"sentiment": task(rows, gate)}, config=endpoint(provider))
        compile_task("sentiment", project=project)
        return project

    return made


def test_a_resumed_eval_judges_all_rows_and_not_the_resumed_part(make: Make, model: Model, invoke: Invoke, tmp_path: Path) -> None:
    """promptfoo: killed, resumed, "351 passed (100%)", exit 0, where 600 of 1,000 pass; the new output path is ignored."""
    project = make()
    model.wrong = 40
    command = [sys.executable, "-m", "promptsmith", "--project", str(project.root), "eval", "sentiment", "--concurrency", "8"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while len(model.asked) < 60 and running.poll() is None:
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    for name in ("first", "second"):
        out = tmp_path / f"{name}.xml"
        found = json.loads(invoke("eval", "sentiment", "--json", "--junit", out, project=project, code=1).stdout)
        assert found["verdict"] == "reject"
        assert [case["id"] for case in found["cases"]] == [str(n) for n in range(100)]
        suite = ET.parse(out).getroot()
        assert (suite.get("tests"), suite.get("failures")) == ("101", "41")  # the cases, and the gate
    assert len(model.asked) <= 100 + 8
    assert all(head.judgement.pass_rate and head.judgement.pass_rate[0] == 0.6 for head in Reports(project.cache).heads())


def test_errors_do_not_vanish_from_the_denominator(make: Make, provider: Provider, invoke: Invoke) -> None:
    """pydantic-evals: 6 of 1,000 failed and the average is 1.0. promptfoo: 99 never evaluated, 90.1 % >= 90, exit 0."""
    project = make()
    provider.faults.on(range(20, 26), Fault("status", status=400))
    found = json.loads(invoke("eval", "sentiment", "--json", project=project, code=3).stdout)
    assert found["verdict"] == "inconclusive"
    assert sum(case["passed"] is None for case in found["cases"]) == 6
    assert "6 cases of 100 without a score" in found["reasons"][0]
    invoke("promote", "sentiment", project=project)  # asked again, all six
    assert Reports(project.cache).heads()[0].candidate.tally.scored == 100


def test_nothing_to_check_passes_nothing(make_project: Make, invoke: Invoke, tmp_path: Path) -> None:
    """promptfoo: a header-only CSV is "1 passed (100%)", exit 0."""
    base = "task: Greet.\noutput: text\nexamples: [{input: hi, output: hello}]\n"
    project = make_project({"greet": base}, {"rows.csv": "input,output\n"})
    compile_task("greet", project=project)
    assert "the suite is empty" in invoke("eval", "greet", project=project, code=3).output
    project.task_file("greet").write_text(f"{base}holdout: {{file: rows.csv}}\n")
    assert "header but no rows" in invoke("eval", "greet", project=project, code=2).output
    # Rows, and nothing that grades them.
    project.task_file("greet").write_text(f"{base}holdout: [{{input: hey, output: hello}}]\n")
    assert "no scorer grades the answers" in invoke("eval", "greet", project=project, code=3).output
    invoke("promote", "greet", project=project, code=3)
    empty = tmp_path / "outputs.jsonl"
    empty.write_text("")
    assert invoke("eval", "greet", "--outputs", empty, project=project, code=2).output


def test_a_rate_below_the_gate_is_no_success(make: Make, model: Model, invoke: Invoke) -> None:
    """inspect: 85 %, exit 0, no threshold to set; promptfoo: the threshold is an environment variable, never in the file."""
    project = make()
    model.wrong = 15
    ended = invoke("eval", "sentiment", project=project, code=1)
    assert "pass_rate 0.85 (0.767 to 0.907) misses >= 0.9" in " ".join(ended.output.split())
    assert LockFile(project.lock).resolve("sentiment", "production") is None


def test_two_runs_are_compared_case_by_case(make: Make, model: Model, invoke: Invoke) -> None:
    """Nobody compares two runs: 92 % then 90 % is a small change or eight new failures and ten old ones, and only pairs tell."""
    project = make(gate="gate: {margin: 0.05}")
    model.wrong = 8
    invoke("promote", "sentiment", project=project)
    compile_task("sentiment", project=project, example_tokens=0)
    model.wrong = 10
    ended = invoke("eval", "sentiment", project=project, code=3)
    told = " ".join(ended.output.split())
    assert "a drop of more than 5 points can't be ruled out" in told
    assert "0 cases better, 2 worse" in told
    assert [case.id for case in Reports(project.cache).load(Reports(project.cache).heads()[0].id).regressed()] == ["8", "9"]


def test_a_run_under_faults_scores_every_case(make: Make, provider: Provider) -> None:
    """A fifth of all calls fails: promptfoo scores 901 of 1,000, pydantic-evals 994, deepeval ends with the first error."""
    provider.faults.chance(0.1, Fault("status", status=429, retry_after_ms="20"), seed=3)
    provider.faults.chance(0.11, Fault("status", status=500), seed=4)
    report = evaluate("sentiment", project=make(200))
    assert report.head.candidate.tally.scored == 200
    assert report.head.judgement.verdict == "promote"


def test_a_key_that_is_refused_is_no_green_run(make: Make, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """themefinder: authentication errors were swallowed, exit 0 with no result."""
    project = make()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-this-one")
    invoke("eval", "sentiment", project=project, code=4)
    invoke("promote", "sentiment", project=project, code=4)
    assert Reports(project.cache).heads() == []
    with pytest.raises(AuthenticationFailed):
        evaluate("sentiment", project=project)


def test_rows_of_another_configuration_never_mix(make: Make, model: Model, invoke: Invoke) -> None:
    """strands: after a changed prompt old results counted as the new one's."""
    project = make()
    model.wrong = 100
    invoke("eval", "sentiment", "--max-calls", "50", project=project, code=3)
    model.wrong = 0
    compile_task("sentiment", project=project, example_tokens=0)
    found = json.loads(invoke("eval", "sentiment", "--json", project=project).stdout)
    assert sum(bool(case["passed"]) for case in found["cases"]) == 100


def test_a_repeat_is_asked_and_not_taken_from_the_first(make: Make, model: Model) -> None:
    """A cache that knows no repeats answers all of them alike, and every case looks stable."""
    report = evaluate("sentiment", project=make(20), repeats=3)
    assert len(model.asked) == 60
    assert report.head.candidate.tally.calls == 60


def test_a_page_is_not_green_when_the_gate_failed(make: Make, model: Model, invoke: Invoke, tmp_path: Path) -> None:
    """promptfoo view: the badge of 85 % is green though the gate of 90 % failed; JUnit says "Assertion failed" and no more."""
    project = make()
    model.wrong = 15
    page, xml = tmp_path / "r.html", tmp_path / "r.xml"
    invoke("eval", "sentiment", "--html", page, "--junit", xml, project=project, code=1)
    assert ">reject<" in page.read_text()
    failures = ET.parse(xml).getroot().findall(".//failure")
    assert len(failures) == 16
    assert "expected" in (failures[1].get("message") or "") + (failures[1].text or "")
    assert "negative" in (failures[1].get("message") or "") + (failures[1].text or "")
    names = [case.get("name") for case in ET.parse(xml).getroot().iter("testcase")]
    assert names == ["gate", *(str(n) for n in range(100))]  # in the file's order, not 0, 1, 10


def test_a_key_never_reaches_the_disk(make: Make, invoke: Invoke) -> None:
    """promptfoo keeps apiKey in the clear in its database."""
    project = make()
    invoke("promote", "sentiment", project=project)
    for path in (path for path in project.root.rglob("*") if path.is_file()):
        assert KEY.encode() not in path.read_bytes(), path


# --- what a model, a file or a caller may do ----------------------------------------------------------------


def test_huge_and_broken_outputs_are_failures_and_nothing_breaks(
    make_project: Make, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """1 MB, no JSON, control characters, nothing at all."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    outputs = ["x" * 1_000_000, '{"city": "Paris"', "\x00\x1b[31m", "[" * 5000, " "]

    def answer(ask: Ask) -> str:
        return outputs[int(ask.text.rsplit(" ", 1)[-1])]

    rows = "".join(f'  - {{input: "sealed text {n}", output: {{city: Rome}}, id: c{n}}}\n' for n in range(len(outputs)))
    text = (
        "task: Extract the city.\noutput: {json: {type: object, properties: {city: {type: string}}, required: [city]}}\n"
        "models: {production: openai/gpt-6-luna}\nexamples: [{input: in Paris, output: {city: Paris}}]\n"
        f"holdout:\n{rows}gate: {{require: {{score: '>= 0.5'}}}}\nscorers: [json_diff]\n"
    )
    with Provider(answer) as provider:
        project = make_project({"city": text}, config=endpoint(provider))
        compile_task("city", project=project)
        out = [tmp_path / name for name in ("r.html", "r.xml", "r.md")]
        ended = invoke("eval", "city", "--html", out[0], "--junit", out[1], "--markdown", out[2], project=project, code=1)
    assert "score 0 " in ended.output
    assert "\x1b[31m" not in ended.output
    ET.parse(out[1])
    assert out[2].stat().st_size < 65_000


def test_holdout_text_in_a_prompt_is_found_end_to_end(make: Make, model: Model, invoke: Invoke) -> None:
    project = make(40, gate="")
    file = project.task_file("sentiment")
    text = file.read_text().replace("sealed message number 7", "I waited three weeks and nobody at the desk ever answered 7")
    file.write_text(
        text.replace(
            "task: Classify",
            "prompt: 'Say positive, negative or neutral. I waited three weeks and nobody at the desk is bad.'\ntask: Classify",
        )
    )
    compile_task("sentiment", project=project)
    ended = invoke("eval", "sentiment", project=project, code=1)
    assert "holdout text stands in the prompt's instructions (cases 7)" in " ".join(ended.output.split())
    # Nobody's --force hides it: the receipt says reject.
    invoke("promote", "sentiment", "--force", "--why", "a test", project=project)
    (receipt,) = LockFile(project.lock).receipts("sentiment").values()
    assert receipt.verdict == "reject"


def test_rows_of_a_promptfoo_table_are_graded_by_their_assertions(make_project: Make, invoke: Invoke, tmp_path: Path) -> None:
    cells = {"France": "contains:Paris", "Italy": "equals:Rome", "Peru": "Lima", "Spain": "contains:Madrid"}
    table = "text,__expected\n" + "".join(f"the capital of {country},{cell}\n" for country, cell in cells.items())
    text = "task: Answer.\noutput: text\nexamples: [{input: hi, output: hello}]\nholdout: {file: rows.csv, map: {input: text}}\n"
    project = make_project({"capitals": f"{text}gate: {{require: {{pass_rate: '>= 0.5'}}}}\n"}, {"rows.csv": table})
    compile_task("capitals", project=project)
    outputs = tmp_path / "o.jsonl"
    said = {"the capital of France": "It is Paris.", "the capital of Italy": "It is Rome.", "the capital of Peru": "Lima"}
    said["the capital of Spain"] = "it is madrid"  # contains minds upper and lower case there
    outputs.write_text("".join(json.dumps({"input": one, "output": other}) + "\n" for one, other in said.items()))
    found = json.loads(invoke("eval", "capitals", "--outputs", outputs, "--json", project=project).stdout)
    assert [case["passed"] for case in found["cases"]] == [1.0, 0.0, 1.0, 0.0]
    assert "expected 'Rome'" in found["cases"][1]["answers"]["candidate"][0]["why"]
    assert found["verdict"] == "promote"
    # The same from a model: graded, and not "no scorer".
    graded = json.loads(invoke("eval", "capitals", "--json", project=project, code=1).stdout)
    assert [case["passed"] for case in graded["cases"]] == [0.0] * 4


def test_evaluate_works_inside_a_running_loop_and_in_threads(make: Make, model: Model) -> None:
    project = make(20)

    async def inside() -> tuple[str, str]:
        here = evaluate("sentiment", project=project).head.judgement.verdict
        there = await asyncio.to_thread(evaluate, "sentiment", project=project)
        return here, there.head.judgement.verdict

    assert asyncio.run(inside()) == ("promote", "promote")
    assert len(model.asked) == 20


def test_two_evals_at_once_in_one_process_ask_once(make: Make, model: Model) -> None:
    project = make(40)

    async def both() -> list[str]:
        found = await asyncio.gather(*(asyncio.to_thread(evaluate, "sentiment", project=project) for _ in range(2)))
        return [report.head.judgement.verdict for report in found]

    assert asyncio.run(both()) == ["promote", "promote"]
    assert set(model.asked) == set(range(40))
    # Each has a store of its own, and two keys of one stripe are not waited for: a few may be asked twice.
    assert len(model.asked) <= 60


def test_a_scorer_may_ask_a_prompt_itself(make_project: Make, invoke: Invoke) -> None:
    """A function of the user's runs in a thread of its own, so it may call what waits."""
    text = "task: Classify.\noutput: [good, bad]\nexamples: [{input: a fine day, output: good}, {input: an awful day, output: bad}]\n"
    rows = "holdout: [{input: a day so fine, output: good}, {input: a night most awful, output: bad}]\n"
    project = make_project({"mood": text + rows + "scorers: [{python: 'mine.py:grade'}]\ngate: {require: {score: '>= 1'}}\n"})
    source = f"from promptsmith import Runtime\n\ndef grade(output, inputs):\n    with Runtime({str(project.root)!r}) as one:\n"
    (project.evals / "mine.py").write_text(f"{source}        return one.run('mood@latest', inputs['input']).text == output\n")
    compile_task("mood", project=project)
    report = evaluate("mood", project=project)
    assert [case.row.passed for case in report.cases] == [1.0, 1.0]
