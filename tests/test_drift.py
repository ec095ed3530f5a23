"""``eval TASK@production --fresh``: has production drifted from its own receipt? Real models behind the loopback provider."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result as Ended

from promptsmith import compile_task, evaluate
from promptsmith.config import Project
from promptsmith.evals.report import Report, Reports
from promptsmith.registry.lock import LockFile
from tests.provider import KEY, Ask, Provider

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
LABELS = ("positive", "negative", "neutral")
ROWS = 80


def case(number: int, more: str = "") -> str:
    return f'  - {{input: "sealed message number {number}", output: {LABELS[number % 3]}, id: c{number:03}{more}}}\n'


TASK = f"""\
task: Classify the sentiment of a customer message.
output: [{", ".join(LABELS)}]
models: {{production: openai/gpt-6-luna}}
examples:
  - {{input: "This product is amazing!", output: positive}}
  - {{input: "It broke after a day.", output: negative}}
  - {{input: "When does the shop open?", output: neutral}}
holdout:
{"".join(map(case, range(ROWS)))}"""


class Answers:
    """Answers each case right, but for the numbers in ``wrong``; keeps what it was asked."""

    def __init__(self) -> None:
        self.wrong: set[int] = set()
        self.asked: list[int] = []

    def __call__(self, ask: Ask) -> str:
        number = int(ask.text.rsplit(" ", 1)[-1])
        self.asked.append(number)
        return LABELS[(number + (number in self.wrong)) % 3]


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def provider(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(answers) as running:
        yield running


def config(provider: Provider) -> str:
    endpoint = {"protocol": "openai", "base_url": provider.base_url_openai, "api_key_env": "OPENAI_API_KEY"}
    return "[endpoints.openai]\nforeign = false\n" + "".join(f'{name} = "{value}"\n' for name, value in endpoint.items())


@pytest.fixture
def project(make_project: Make, provider: Provider) -> Project:
    """A project whose production went through the gate, with all 80 cases right."""
    found = make_project({"sentiment": TASK}, config=config(provider))
    compile_task("sentiment", project=found)
    return found


@pytest.fixture
def proven(project: Project, invoke: Invoke, answers: Answers) -> Project:
    invoke("promote", "sentiment", "--why", "through the gate", project=project)
    assert LockFile(project.lock).receipts("sentiment")
    answers.asked.clear()
    return project


def newest(project: Project) -> Report:
    reports = Reports(project.cache)
    return reports.load(max(reports.heads("sentiment"), key=lambda head: reports.made(head.id)).id)


def receipt_digest(project: Project) -> str:
    (receipt,) = LockFile(project.lock).receipts("sentiment").values()
    return receipt.digest


def test_an_unchanged_provider_has_not_drifted(proven: Project, answers: Answers, invoke: Invoke) -> None:
    ended = invoke("eval", "sentiment@production", "--fresh", project=proven)
    first = ended.stdout.splitlines()[0]
    assert first.startswith("promote: not worse than its own receipt ")
    assert receipt_digest(proven)[:12] in first
    assert "a drop of up to 10 points could go unseen" in first
    assert "fresh: nothing came from the reply cache" in ended.stdout
    # Every case was asked anew, and none of the receipt's prompt beside it.
    assert sorted(answers.asked) == list(range(ROWS))
    report = newest(proven)
    assert report.head.against == f"receipt {receipt_digest(proven)}"
    assert [arm.role for arm in report.head.arms] == ["candidate"]
    assert all(row.row.base_passed == 1 for row in report.cases)
    # A look at drift is no promotion: the lock is as it was.
    assert [receipt.verdict for receipt in LockFile(proven.lock).receipts("sentiment").values()] == ["promote"]


def test_answers_that_changed_for_a_quarter_of_the_cases_are_rejected(proven: Project, answers: Answers, invoke: Invoke) -> None:
    answers.wrong = set(range(0, ROWS, 4))
    ended = invoke("eval", "sentiment@production", "--fresh", "--json", project=proven, code=1)
    assert json.loads(ended.stdout)["verdict"] == "reject"
    report = newest(proven)
    assert report.head.judgement.reasons[0].startswith("worse than its own receipt ")
    assert "-25.0 points" in report.head.judgement.reasons[0]
    assert [one.id for one in report.regressed()] == [f"c{n:03}" for n in range(0, ROWS, 4)]
    shown = invoke("report", report.head.id, project=proven).stdout
    assert re.search(r"regressed.*: 20 cases", shown)


def test_a_few_flips_prove_no_drift_and_flips_both_ways_may_leave_it_open(project: Project, answers: Answers, invoke: Invoke) -> None:
    answers.wrong = set(range(8))
    invoke("promote", "sentiment", project=project)
    answers.wrong = set(range(9))
    assert "not worse than its own receipt" in invoke("eval", "sentiment@production", "--fresh", project=project).stdout
    answers.wrong = {6, 7, *range(20, 30)}
    ended = invoke("eval", "sentiment@production", "--fresh", project=project, code=3)
    assert "can't be ruled out against its own receipt" in ended.stdout
    comparison = newest(project).head.judgement.comparison
    assert comparison is not None
    assert (comparison.better, comparison.worse) == (6, 10)


def test_without_fresh_the_cache_would_answer_and_no_drift_is_looked_for(proven: Project, answers: Answers) -> None:
    answers.wrong = set(range(ROWS))
    report = evaluate("sentiment@production", project=proven)
    assert not report.head.against.startswith("receipt")
    assert answers.asked == []


def test_a_veto_holds_against_the_receipt_as_well(make_project: Make, provider: Provider, answers: Answers, invoke: Invoke) -> None:
    text = TASK.replace(case(7), case(7, ", tags: [legal]")) + "gate: {must_pass: [legal]}\n"
    found = make_project({"sentiment": text}, config=config(provider))
    compile_task("sentiment", project=found)
    invoke("promote", "sentiment", project=found)
    answers.wrong = {7}
    assert "case c007 must pass and has regressed" in invoke("eval", "sentiment@production", "--fresh", project=found, code=1).stdout


# --- receipts that do not tell ----------------------------------------------------------------------------


def test_a_receipt_without_rows_says_so_and_decides_nothing(proven: Project, invoke: Invoke) -> None:
    text = proven.lock.read_text()
    bare = re.sub(r'\n +rows: (?:"[^\n]*"|\|2-?\n(?: +c\d[^\n]*\n?)+)', "", text)
    assert len(bare) < len(text) - 500
    proven.lock.write_text(bare)
    (receipt,) = LockFile(proven.lock).receipts("sentiment").values()
    assert receipt.rows == ""
    ended = invoke("eval", "sentiment@production", "--fresh", project=proven, code=3)
    assert "keeps no rows, so drift can't be told: promptsmith promote sentiment@production makes one" in ended.stdout
    # What it says helps.
    invoke("promote", "sentiment@production", project=proven)
    assert "its own receipt" in invoke("eval", "sentiment@production", "--fresh", project=proven).stdout


def test_a_forced_prompt_has_nothing_to_drift_from_and_that_is_said(project: Project, invoke: Invoke) -> None:
    invoke("promote", "sentiment", "--force", "--why", "in a hurry", project=project)
    assert LockFile(project.lock).receipts("sentiment") == {}
    ended = invoke("eval", "sentiment@production", "--fresh", project=project, code=3)
    assert "was promoted without a receipt, so drift can't be told" in ended.stdout


# --- a holdout that changed since -------------------------------------------------------------------------


def test_new_holdout_rows_are_left_out_and_said(proven: Project, answers: Answers, invoke: Invoke) -> None:
    file = proven.task_file("sentiment")
    file.write_text(file.read_text() + case(80) + case(81) + case(82))
    answers.wrong = {80, 81, 82}
    ended = invoke("eval", "sentiment@production", "--fresh", project=proven)
    assert "left the suite: 3 cases" in ended.stdout
    assert "c081: the receipt has no score of it" in ended.stdout
    said = " ".join(ended.stdout.split())
    assert "3 cases were added and 0 left the holdout since the receipt: promptsmith promote sentiment@production renews it" in said
    report = newest(proven)
    assert len(report.cases) == ROWS
    assert report.head.candidate.tally.cases == ROWS
    # They are not paid for either.
    assert sorted(answers.asked) == list(range(ROWS))
    answers.wrong = set()
    invoke("promote", "sentiment@production", project=proven)
    again = invoke("eval", "sentiment@production", "--fresh", project=proven).stdout
    assert "left the suite" not in again
    assert len(newest(proven).cases) == ROWS + 3


def test_rows_that_are_gone_are_said_and_the_others_compared(proven: Project, invoke: Invoke) -> None:
    file = proven.task_file("sentiment")
    file.write_text(file.read_text().replace(case(0), "").replace(case(1), ""))
    ended = invoke("eval", "sentiment@production", "--fresh", project=proven)
    assert "0 cases were added and 2 left the holdout since the receipt" in " ".join(ended.stdout.split())
    assert len(newest(proven).cases) == ROWS - 2


def test_another_expected_output_is_no_drift_and_the_report_says_that_it_may_be_that(proven: Project, invoke: Invoke) -> None:
    file = proven.task_file("sentiment")
    for number in range(0, ROWS, 4):
        file.write_text(file.read_text().replace(case(number), case(number).replace(LABELS[number % 3], LABELS[(number + 1) % 3])))
    ended = invoke("eval", "sentiment@production", "--fresh", project=proven, code=1)
    assert "expected outputs, scorers or contract changed since the receipt" in " ".join(ended.stdout.split())


def test_nothing_changed_and_nothing_is_said(proven: Project, invoke: Invoke) -> None:
    said = " ".join(invoke("eval", "sentiment@production", "--fresh", project=proven).stdout.split())
    assert "since the receipt" not in said
    assert "left the suite" not in said


def test_a_holdout_of_new_cases_alone_decides_nothing(proven: Project, invoke: Invoke, tmp_path: Path) -> None:
    file = proven.task_file("sentiment")
    file.write_text(file.read_text().partition("holdout:\n")[0] + "holdout:\n" + "".join(map(case, range(100, 130))))
    assert "there is no case to judge on" in invoke("eval", "sentiment@production", "--fresh", project=proven, code=3).stdout


# --- a drift check is paid for, and resumes ---------------------------------------------------------------


def test_a_check_that_was_cut_off_goes_on_from_its_own_journal(proven: Project, answers: Answers, invoke: Invoke) -> None:
    invoke("eval", "sentiment@production", "--fresh", "--max-calls", "30", project=proven, code=3)
    assert len(answers.asked) == 30
    invoke("eval", "sentiment@production", "--fresh", project=proven)
    assert sorted(answers.asked) == list(range(ROWS))
    # Finished, the next one asks everything anew.
    invoke("eval", "sentiment@production", "--fresh", project=proven)
    assert len(answers.asked) == 2 * ROWS


def test_every_form_of_the_report_says_what_it_was_compared_with(proven: Project, invoke: Invoke, tmp_path: Path) -> None:
    paths = {form: tmp_path / f"drift.{form}" for form in ("junit", "markdown", "html")}
    options = [text for form, path in paths.items() for text in (f"--{form}", str(path))]
    invoke("eval", "sentiment@production", "--fresh", *options, project=proven)
    for path in paths.values():
        assert f"its own receipt {receipt_digest(proven)[:12]}" in path.read_text(), path
