"""Judges inside a task, from end to end: the gate, calibration, pairs against what is in production, cost and budgets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result as Ended

from promptsmith import compile_task, evaluate
from promptsmith.budget import Limits
from promptsmith.config import Project
from promptsmith.errors import InputError, ReplyMissing, SourceError
from promptsmith.evals.report import Report
from promptsmith.registry.lock import LockFile
from tests.provider import KEY, Ask, Provider, Settings

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
LUNA, SOL = "openai/gpt-6-luna", "openai/gpt-6-sol"
KIND, RUDE = "I am sorry; it arrives tomorrow.", "No idea."


class Talk:
    """The served model answers with ``reply``; the judge gives ``mark``, a text or a function of what it is shown."""

    def __init__(self) -> None:
        self.reply: str | Callable[[Ask], str] = KIND
        self.mark: Any = "pass"
        self.judged: list[Ask] = []
        self.served: list[Ask] = []

    def __call__(self, ask: Ask) -> str:
        if ask.model != SOL.rpartition("/")[2]:
            self.served.append(ask)
            return self.reply(ask) if callable(self.reply) else self.reply
        self.judged.append(ask)
        mark = self.mark(ask) if callable(self.mark) else self.mark
        return mark if mark.startswith("raw ") else json.dumps({"reason": "as I see it", "score": mark})


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def provider(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(talk, Settings()) as running:
        yield running


@pytest.fixture
def make(make_project: Make, provider: Provider) -> Make:
    """A task of free text with these scorers and this gate; ``data`` are files beside it."""

    def made(scorers: str, gate: str = "{require: {score: '>= 0.8'}}", rows: int = 30, data: Any = None, model: str = LUNA) -> Project:
        lines = [
            "task: Reply to a complaint.",
            "output: text",
            f"models: {{production: {model}}}",
            "examples:",
            '  - {input: "My parcel is late!", output: "Sorry. It comes tomorrow."}',
            "holdout:",
            *(f'  - {{input: "complaint {n}", output: "A kind reply, number {n}.", id: c{n:02}}}' for n in range(rows)),
            f"gate: {gate}",
            f"scorers: {scorers}",
        ]
        endpoint = (
            f'[endpoints.openai]\nprotocol = "openai"\nbase_url = "{provider.base_url_openai}"\n'
            'api_key_env = "OPENAI_API_KEY"\nforeign = false\n'
        )
        project = make_project({"reply": "\n".join(lines) + "\n"}, data, config=endpoint)
        compile_task("reply", project=project)
        return project

    return made


def judge(**options: Any) -> str:
    return json.dumps([{"judge": {"model": SOL, "criteria": "The reply is kind.", **options}}])


def verdict(report: Report) -> str:
    return report.head.judgement.verdict


def test_a_judge_grades_a_suite_and_its_cost_counts(make: Make, talk: Talk, invoke: Invoke) -> None:
    project = make(judge())
    report = evaluate("reply", project=project)
    assert verdict(report) == "promote"
    assert (len(talk.served), len(talk.judged)) == (30, 30)
    answers = report.head.candidate.tally.cost
    assert answers is not None
    assert report.head.spent is not None
    assert report.head.spent > 1.5 * answers  # the judge's tokens are dearer than the answers'
    assert any("not calibrated" in note for note in report.head.notes)
    # All of it again, from the cache.
    again = evaluate("reply", project=project)
    assert (again.head.spent, len(talk.served), len(talk.judged), again.head.candidate.tally.sources) == (0, 30, 30, {"cache": 30})
    assert (len(talk.served), len(talk.judged)) == (30, 30)
    invoke("promote", "reply", project=project)
    talk.mark = "fail"
    assert verdict(evaluate("reply", project=project, fresh=True)) == "reject"


def test_judges_count_against_a_budget(make: Make, talk: Talk) -> None:
    report = evaluate("reply", project=make(judge()), limits=Limits(calls=20))
    assert verdict(report) == "inconclusive"
    assert len(talk.served) + len(talk.judged) == 20
    assert "20 calls" in report.head.stopped


@pytest.mark.parametrize("mark", ["raw it is fine", "excellent", "raw {}"])
def test_nonsense_is_unscored_and_inconclusive(make: Make, talk: Talk, invoke: Invoke, mark: str) -> None:
    talk.mark = lambda ask: mark if "complaint 7" in ask.text else "pass"
    project = make(judge())
    ended = invoke("eval", "reply", project=project, code=3)
    assert "1 case of 30 without a score (c07)" in ended.output
    assert "judge could not grade it" in ended.output
    invoke("promote", "reply", project=project, code=3)
    assert LockFile(project.lock).resolve("reply", "production") is None


def test_a_model_that_would_judge_itself_is_refused_before_anything_is_paid_for(make: Make, talk: Talk, invoke: Invoke) -> None:
    project = make(judge(), model=SOL)
    ended = invoke("eval", "reply", project=project, code=2)
    assert "is the model that it would judge" in ended.output
    assert "same_model: true" in ended.output
    assert not talk.served
    assert not talk.judged
    with pytest.raises(InputError, match="is the model that it would judge"):
        evaluate("reply", project=make(judge()), model=SOL)
    assert not talk.judged


def test_a_judge_below_its_kappa_may_not_gate(make: Make, talk: Talk, invoke: Invoke) -> None:
    """People and judge agree on half of the rows, which is what chance would give."""
    rows: list[object] = [{"input": "x", "output": f"answer {n}", "human": "pass" if n % 2 else "fail"} for n in range(12)]
    project = make(judge(calibrate="people.jsonl"), data={"people.jsonl": rows})
    ended = invoke("eval", "reply", project=project, code=3)
    told = " ".join(ended.output.split())
    assert "agrees with people on 6 of 12 rows (50%), Cohen's kappa 0.00, below 0.4: the judge may not gate" in told
    # One that agrees is trusted, and says how far.
    talk.mark = lambda ask: "fail" if any(f"answer {n}\n" in ask.text for n in range(0, 12, 2)) else "pass"
    report = evaluate("reply", project=project, fresh=True)
    assert verdict(report) == "promote"
    assert any("Cohen's kappa 1.00" in note for note in report.head.notes)


def test_a_kappa_that_was_raised_is_another_eval(make: Make, talk: Talk, invoke: Invoke) -> None:
    """A report made while the judge was trusted proves nothing once it is not."""
    rows: list[object] = [{"input": "x", "output": f"answer {n}", "human": "pass" if n else "fail"} for n in range(12)]
    talk.mark = lambda ask: "fail" if "answer 0\n" in ask.text or "answer 1\n" in ask.text else "pass"
    project = make(judge(calibrate="people.jsonl"), data={"people.jsonl": rows})
    invoke("eval", "reply", project=project)
    file = project.task_file("reply")
    file.write_text(file.read_text().replace('"people.jsonl"', '"people.jsonl", "min_kappa": 0.9'))
    assert "below 0.9: the judge may not gate" in " ".join(invoke("promote", "reply", project=project, code=3).output.split())
    file.write_text(file.read_text().replace("0.9", "0.4"))
    invoke("eval", "reply", project=project)
    (project.evals / "people.jsonl").write_text("".join(json.dumps({**dict(row), "human": "fail"}) + "\n" for row in rows))  # type: ignore[call-overload]
    assert "the judge may not gate" in " ".join(invoke("promote", "reply", project=project, code=3).output.split())


def test_a_judge_that_nobody_can_ask_ends_the_eval(make: Make, talk: Talk, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt judge costs nothing; a judge whose key is missing ends the eval, instead of a page of unscored cases."""
    ended = invoke("eval", "reply", project=make(judge(model="opnai/gpt-6-sol")), code=2)
    assert "unknown model 'opnai/gpt-6-sol'" in ended.output
    assert not talk.served
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    ended = invoke("eval", "reply", project=make(judge(model="anthropic/claude-opus-5-5")), code=4)
    assert "ANTHROPIC_API_KEY" in ended.output


def test_a_budget_that_bites_at_the_judge_stops_early_and_goes_on(make: Make, talk: Talk) -> None:
    project = make(judge(), rows=10)
    report = evaluate("reply", project=project, limits=Limits(calls=19), concurrency=64)
    assert "19 calls" in report.head.stopped
    assert verdict(report) == "inconclusive"
    assert verdict(evaluate("reply", project=project)) == "promote"
    assert (len(talk.served), len(talk.judged)) == (10, 10)


def test_a_record_holds_what_judges_said(make: Make, talk: Talk, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the record alone, with no key: the same grades; one judgement missing, and a call would be needed."""
    rows: list[object] = [{"input": "x", "output": f"answer {n}", "human": "pass" if n % 2 else "fail"} for n in range(6)]
    talk.mark = lambda ask: "fail" if any(f"answer {n}\n" in ask.text for n in range(0, 6, 2)) else "pass"
    project, record = make(judge(calibrate="people.jsonl"), data={"people.jsonl": rows}), tmp_path / "r.jsonl"
    evaluate("reply", project=project, record=record)
    lines = record.read_text().splitlines(keepends=True)
    assert len(lines) == 30 + 30 + 6
    monkeypatch.delenv("OPENAI_API_KEY")
    for part in ("replies", "journals"):
        shutil.rmtree(project.cache / part)
    asked = len(talk.served) + len(talk.judged)
    again = evaluate("reply@latest", project=project, cached_only=True, record=record)
    assert verdict(again) == "promote"
    assert again.head.candidate.tally.sources == {"record": 30}
    record.write_text("".join(line for line in lines if '"model":"gpt-6-sol' not in line.replace("openai/", "")))
    with pytest.raises(ReplyMissing, match="would be needed"):
        evaluate("reply@latest", project=project, cached_only=True, record=record)
    assert len(talk.served) + len(talk.judged) == asked


# --- pairs against what is in production ------------------------------------------------------------------


def better(ask: Ask) -> str:
    """The judge prefers what is polite, wherever it stands; equals are a tie."""
    first, second = (KIND in part for part in ask.text.split("<second>"))
    return "tie" if first == second else "first" if first else "second"


PAIRS = judge(pairwise=True, against="baseline", **{"pass": "tie"})


def test_a_pair_is_the_candidate_and_what_production_answers(make: Make, talk: Talk, invoke: Invoke) -> None:
    talk.mark = better
    project = make(PAIRS)
    invoke("promote", "reply", "--force", "--why", "the first, with nothing to compare", project=project)
    first = LockFile(project.lock).resolve("reply", "production")
    talk.reply = lambda ask: RUDE if "Sorry" in ask.system else KIND
    compile_task("reply", project=project, example_tokens=0)
    report = evaluate("reply", project=project)
    assert report.head.against == first
    assert verdict(report) == "promote"
    case = report.cases[0]
    assert (case.row.passed, case.row.score, case.row.base_score) == (1.0, 1.0, 0.5)
    assert (case.attempts[0][0].output, case.attempts[1][0].output) == (KIND, RUDE)
    invoke("promote", "reply", project=project)
    # The other way round it loses every pair.
    talk.reply = lambda ask: KIND if "Sorry" not in ask.system else RUDE
    compile_task("reply", project=project)
    ended = invoke("promote", "reply", project=project, code=1)
    assert "rejected" in ended.output


def test_a_pair_is_asked_in_both_orders_and_disagreement_is_a_tie(make: Make, talk: Talk, invoke: Invoke) -> None:
    talk.mark = "first"
    project = make(PAIRS)
    invoke("promote", "reply", "--force", "--why", "first", project=project)
    compile_task("reply", project=project, example_tokens=0)
    talk.judged.clear()
    report = evaluate("reply", project=project)
    assert {case.row.score for case in report.cases} == {0.5}
    assert all("the two orders disagree" in case.attempts[0][0].grades[0].why for case in report.cases)


@pytest.mark.parametrize("more", ["", "\nprompt: Reply kindly."])
def test_without_an_incumbent_a_pair_is_unscored(make: Make, talk: Talk, more: str) -> None:
    """Also where the -O0 prompt is asked beside one that was written by hand."""
    report = evaluate("reply", project=make(PAIRS + more))
    assert len(report.head.arms) == (2 if more else 1)
    assert verdict(report) == "inconclusive"
    assert not talk.judged
    assert "there is no baseline answer to compare with" in report.cases[0].attempts[0][0].why


def test_a_rubric_file_is_part_of_the_identity(make: Make, talk: Talk) -> None:
    project = make(judge(criteria=None, rubric="kind.md").replace('"criteria": null, ', ""), data={"kind.md": "Kind.\n"})
    one = evaluate("reply", project=project)
    (project.evals / "kind.md").write_text("Kind and short.\n")
    other = evaluate("reply", project=project)
    assert one.head.identity != other.head.identity
    assert (len(talk.served), len(talk.judged)) == (30, 60)
    (project.evals / "kind.md").unlink()
    with pytest.raises(SourceError, match="can't be read"):
        evaluate("reply", project=project)
