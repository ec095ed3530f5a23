"""Advice: signs that prove nothing, and on cases the proof that a plan is, or is not, worth its calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from promptsmith import compile_task
from promptsmith.budget import NO_LIMITS, Limits
from promptsmith.catalog.prices import Rate, Rates
from promptsmith.chat import Usage
from promptsmith.config import Project
from promptsmith.contract import Contract, Labels, TextShape
from promptsmith.errors import BudgetError, InputError
from promptsmith.evals.report import Reports
from promptsmith.orchestration.advice import after, most_usd, share_of, signs_of_plan, signs_of_problem, sums_up
from promptsmith.orchestration.values import Event, Expert, Plan, Step
from promptsmith.store.folder import open_store

from .conducting import CHEAP, STRONG, Models, plan, settings, step
from .provider import KEY, Ask, Provider

Make = Callable[..., Project]
Invoke = Callable[..., Result]
CASES = 40
LABELS = ("even", "odd")
HARD = "Write about this.\n" + "\n".join(f"- Part {name}: say all that matters of it." for name in ("one", "two", "three"))


def task(rows: int = CASES) -> str:
    """Case n is 'number n', and its answer whether n is even."""
    sealed = [f'  - {{input: "number {n}", output: {LABELS[n % 2]}, id: c{n:03}}}' for n in range(rows)]
    head = ["task: Say whether the number is even or odd.", f"output: [{', '.join(LABELS)}]", "examples:"]
    seen = ['  - {input: "a pair", output: even}', '  - {input: "a single one", output: odd}']
    return "\n".join([*head, *seen, *(["holdout:", *sealed] if rows else [])]) + "\n"


class Sides(Models):
    """The single prompt is wrong about ``wrong``, the plan about ``plan_wrong``; a plan is two experts one after the other."""

    def __init__(self) -> None:
        two = plan({**step("look"), "context": ["input"]}, step("say", "look"), synthesis="", result=["say"])
        super().__init__(two)
        self.wrong: Sequence[int] = ()
        self.plan_wrong: Sequence[int] = ()
        self.expert = self._say

    def _say(self, ask: Ask) -> str:
        number = int("".join(char for char in ask.text.rpartition("number ")[2].partition("<")[0] if char.isdigit()))
        if "Do look." in ask.text:
            return f"It is number {number}"
        wrong = self.plan_wrong if "Do say." in ask.text else self.wrong
        return LABELS[(number + (number in wrong)) % 2]


@pytest.fixture
def models() -> Sides:
    return Sides()


@pytest.fixture
def provider(models: Sides, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(models) as running:
        yield running


@pytest.fixture
def project(make_project: Make, provider: Provider) -> Project:
    return make_project({"parity": task()}, config=settings(provider))


def data(result: Result) -> Any:
    return json.loads(result.stdout)


# --- without cases ----------------------------------------------------------------------------------------


def test_without_cases_the_advice_is_unproven_and_needs_no_model(make_project: Make, invoke: Invoke) -> None:
    ended = invoke("advise", "Translate this sentence.", project=make_project(), code=3)
    assert ended.stdout.startswith("unproven: the signs are for one prompt\n")
    assert "single domain" in ended.stdout and "nothing is proven" in ended.stdout


def test_a_problem_with_parts_speaks_for_a_plan_and_stays_unproven(make_project: Make, invoke: Invoke) -> None:
    told = data(invoke("advise", HARD, "--json", project=make_project(), code=3))
    assert (told["advised"], told["leaning"], told["verdict"]) == ("unproven", "a plan", None)
    assert told["signs"] == [{"side": "a plan", "why": "it lists 3 parts", "strong": False}]


def test_the_conductors_own_plan_is_a_sign(project: Project, invoke: Invoke, models: Sides) -> None:
    models.said["plan"] = [plan(step("all"), synthesis="", result=["all"])]
    told = data(invoke("advise", HARD, "--json", project=project, code=3))
    assert told["leaning"] == "one prompt" and told["signs"][-1]["why"] == "the plan has one step"
    assert models.kinds() == ["plan"] and "id: all" in told["plan"]


def steps(*needs: Sequence[str], expert: str = "") -> Plan:
    """A plan whose step n needs the steps that are named."""
    made = tuple(Step(id=f"s{n}", expert=expert or f"e{n}", needs=tuple(names)) for n, names in enumerate(needs))
    return Plan(steps=made, experts=tuple(Expert(name=name) for name in dict.fromkeys(one.expert for one in made)))


TEXT, LABEL = Contract(shape=TextShape()), Contract(shape=Labels(LABELS))


@pytest.mark.parametrize(
    ("signs", "why", "side"),
    [
        (signs_of_problem("Sum up.", {}, NO_LIMITS), "single domain", "one prompt"),
        (signs_of_problem(HARD, {}, NO_LIMITS, LABEL), "single decision", "one prompt"),
        (signs_of_problem(HARD, {}, Limits(calls=3)), "small budget", "one prompt"),
        (signs_of_problem(HARD, {}, Limits(seconds=5)), "bound by latency", "one prompt"),
        (signs_of_problem(HARD, {}, NO_LIMITS, TEXT), "lists 3 parts", "a plan"),
        (signs_of_problem("Why? How? When?", {}, NO_LIMITS), "lists 3 parts", "a plan"),
        (signs_of_problem("word " * 200, {}, NO_LIMITS), "long: 200 words", "a plan"),
        (signs_of_plan(steps((), ("s0",), ("s1",))), "interdependent: each of the 3 steps", "one prompt"),
        (signs_of_plan(steps((), (), (), expert="one")), "one expert does all steps", "one prompt"),
        (signs_of_plan(steps((), (), ("s0", "s1"))), "3 steps, at most 2 one after the other", "a plan"),
        (signs_of_plan(steps((), ()), Limits(calls=3)), "small budget: the plan takes 4 calls", "one prompt"),
        (signs_of_plan(Plan(steps=(Step(id="a", worker="fetch"), Step(id="b", expert="e")))), "what no prompt can do: fetch", "a plan"),
    ],
)
def test_signs(signs: list[Any], why: str, side: str) -> None:
    assert any(why in sign.why for sign in signs)
    assert sums_up(signs) == side


def test_without_any_sign_one_prompt_is_enough() -> None:
    assert sums_up([]) == "one prompt"


def test_what_a_plan_may_cost_is_bounded_and_unknown_where_a_price_is(project: Project, provider: Provider) -> None:
    from promptsmith.orchestration.solve import AsyncSolver

    find = AsyncSolver(project).means.directory.rates.find
    made = Plan(steps=(Step(id="a", expert="e", max_tokens=1000), Step(id="b", expert="e", max_tokens=500, context=("a", "text"))))
    # b reads what a may have written, and the input; a token is four bytes.
    expected = (5 * 1000 + (1000 + 100) * 1 + 5 * 500) / 1e6
    assert most_usd(made, "", {"text": "x" * 400}, find, CHEAP) == pytest.approx(expected)
    assert most_usd(made, "", {}, lambda name: None, CHEAP) is None


# --- solve --auto -----------------------------------------------------------------------------------------


def test_auto_asks_one_prompt_where_nothing_speaks_for_a_plan(project: Project, invoke: Invoke, models: Sides) -> None:
    models.expert = "One answer."
    ended = invoke("solve", "--auto", "Translate this sentence.", project=project)
    assert ended.stdout == "One answer.\n" and models.kinds() == ["expert"]
    assert "single domain" in ended.stderr and "unproven" in ended.stderr


def test_auto_plans_where_something_does(project: Project, invoke: Invoke, models: Sides) -> None:
    models.said["plan"] = [plan(step("a"), step("b"))]
    models.expert = "Done."
    assert invoke("solve", "--auto", HARD, project=project).stdout == "The whole answer.\n"
    assert sorted(models.kinds()) == ["expert", "expert", "plan", "review"]


# --- with cases -------------------------------------------------------------------------------------------


def test_a_plan_that_is_better_is_used(project: Project, invoke: Invoke, models: Sides) -> None:
    models.wrong = range(0, CASES, 3)
    told = data(invoke("advise", "--task", "parity", "--json", project=project, code=0))
    assert (told["advised"], told["verdict"]) == ("use the plan", "promote")
    planned, single = told["arms"]
    assert planned["pass_rate"] == 1.0 and single["pass_rate"] == pytest.approx(1 - len(models.wrong) / CASES)
    assert len(models.of("expert")) == 3 * CASES and len(models.of("plan")) == 1
    report = Reports(project.cache).load(told["report"])
    assert report.head.judgement.comparison is not None and report.head.judgement.comparison.margin == 0.0
    assert [arm.model.partition("/")[0] for arm in report.head.arms] == ["plan", "openai"]


def test_a_plan_that_is_worse_is_not(project: Project, invoke: Invoke, models: Sides) -> None:
    models.plan_wrong = range(0, CASES, 3)
    ended = invoke("advise", "--task", "parity", project=project, code=1)
    assert ended.stdout.startswith("use one prompt\n") and "the plan is worse" in ended.stdout


def test_equal_and_dearer_is_one_prompt_once_a_gain_is_ruled_out(make_project: Make, provider: Provider, invoke: Invoke) -> None:
    """With no flips in 100 cases a gain of more than 5 points is ruled out; in 20 it is not."""
    project = make_project({"parity": task(100), "few": task(20)}, config=settings(provider))
    told = data(invoke("advise", "--task", "parity", "--json", project=project, code=1))
    assert (told["advised"], told["verdict"]) == ("use one prompt", "inconclusive")
    assert "a gain of more than 5 points is ruled out" in told["reasons"][0]
    few = data(invoke("advise", "--task", "few", "--json", project=project, code=3))
    assert few["advised"] == "inconclusive"
    assert data(invoke("advise", "--task", "few", "--worth", "25", "--json", project=project, code=1))["advised"] == "use one prompt"


def test_costs_of_both_sides_are_those_of_their_calls_and_counted_once(project: Project, invoke: Invoke, models: Sides) -> None:
    told = data(invoke("advise", "--task", "parity", "--json", project=project, code=3))
    with open_store(project) as store:
        rows = [row for row in store.ledger.rows() if row.model == CHEAP]
        assert not [row for row in store.ledger.rows() if row.model.startswith("plan/")]
    steps_cost = sum(row.cost or 0 for row in rows if row.stage == "plan")
    single_cost = sum(row.cost or 0 for row in rows if row.stage == "eval")
    planned, single = told["arms"]
    assert planned["usd_per_1k"] == pytest.approx(1000 * steps_cost / CASES)
    assert single["usd_per_1k"] == pytest.approx(1000 * single_cost / CASES)
    assert planned["usd_per_1k"] > single["usd_per_1k"] > 0


def test_the_same_advice_again_asks_nobody(project: Project, invoke: Invoke, models: Sides) -> None:
    models.wrong = range(0, CASES, 3)
    first = data(invoke("advise", "--task", "parity", "--json", project=project))
    asked = len(models.asked)
    again = data(invoke("advise", "--task", "parity", "--json", project=project))
    assert len(models.asked) == asked
    assert {**first, "report": "", "reasons": []} == {**again, "report": "", "reasons": []}


def test_a_written_plan_is_judged_on_cases_of_a_file(
    make_project: Make, provider: Provider, invoke: Invoke, models: Sides, tmp_path: Path
) -> None:
    project = make_project({}, config=settings(provider))
    models.wrong = range(0, CASES, 2)
    rows = [{"input": f"number {n}", "output": LABELS[n % 2]} for n in range(CASES)]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "plan.yaml").write_text(
        "inputs: {input: text}\nexperts: [{name: e, role: A counter.}]\nsteps:\n"
        "  - {id: say, expert: e, instructions: Do say., context: [input], problem: true}\n"
    )
    given = ["--cases", tmp_path / "cases.jsonl", "--plan", tmp_path / "plan.yaml"]
    told = data(invoke("advise", "Say whether the number is even or odd.", *given, "--json", project=project))
    assert told["advised"] == "use the plan" and not models.of("plan")


def test_a_plan_that_fails_on_a_case_is_wrong_there(project: Project, invoke: Invoke, models: Sides) -> None:
    say = models._say
    models.expert = lambda ask: "" if "Do say." in ask.text else say(ask)
    told = data(invoke("advise", "--task", "parity", "--json", project=project, code=1))
    assert told["advised"] == "use one prompt" and told["arms"][0]["pass_rate"] == 0.0


def test_a_synthesis_is_part_of_the_plan_and_of_its_cost(make_project: Make, provider: Provider, invoke: Invoke, models: Sides) -> None:
    project = make_project({"parity": task(12)}, config=settings(provider))
    models.said["plan"] = [plan({**step("look"), "context": ["input"]}, {**step("other"), "context": ["input"]})]
    models.said["review"] = [lambda ask: json.dumps({"decision": "done", "answer": "even"})]
    models.expert = lambda ask: "It is a number" if "Do " in ask.text else models._say(ask)
    told = data(invoke("advise", "--task", "parity", "--json", project=project, code=1))
    assert len(models.of("review")) == 12
    assert told["arms"][0]["pass_rate"] == 0.5
    with open_store(project) as store:
        strong = [row.cost or 0 for row in store.ledger.rows() if row.model == STRONG]
    assert told["arms"][0]["usd_per_1k"] > 1000 * (sum(strong) - max(strong)) / 12


def test_a_task_without_a_holdout_is_unproven(make_project: Make, provider: Provider, invoke: Invoke) -> None:
    project = make_project({"parity": task(0)}, config=settings(provider))
    assert "unproven" in invoke("advise", "--task", "parity", project=project, code=3).stdout


def test_cases_without_a_plan_or_a_conductor_say_what_is_missing(make_project: Make, invoke: Invoke) -> None:
    assert "no conductor is named" in invoke("advise", "--task", "parity", project=make_project({"parity": task()}), code=2).stderr


def test_a_proof_keeps_its_limits(project: Project, invoke: Invoke, models: Sides) -> None:
    """Each case's share of the limits is what the single prompt's calls leave; what does not fit is not begun."""
    invoke("advise", "--task", "parity", "--max-calls", str(CASES), project=project, code=5)
    assert models.kinds() in ([], ["plan"])
    ended = invoke("advise", "--task", "parity", "--max-calls", str(2 * CASES + 1), project=project, code=5)
    assert "incomplete" in ended.stderr
    assert len([kind for kind in models.kinds() if kind == "expert"]) <= 2 * CASES


def test_one_of_problem_and_task(project: Project, invoke: Invoke) -> None:
    invoke("advise", project=project, code=2)
    invoke("advise", "x y", "--task", "parity", project=project, code=2)
    assert "nowhere" in invoke("advise", "--task", "nowhere", project=project, code=2).stderr


def test_a_proof_within_a_limit_in_dollars(project: Project, invoke: Invoke, models: Sides) -> None:
    models.wrong = range(0, CASES, 3)
    told = data(invoke("advise", "--task", "parity", "--max-cost", "50", "--json", project=project))
    assert told["advised"] == "use the plan"
    with open_store(project) as store:
        assert sum(row.cost or 0 for row in store.ledger.rows()) < 50


def test_each_case_has_its_share_of_what_the_single_prompt_leaves(project: Project) -> None:
    prompt = compile_task("parity", project=project)
    cases = {f"number {n}": {} for n in range(10)}
    rates = Rates((Rate(input=1.0, output=5.0),))
    most = int(prompt.parameters["max_tokens"] or 0)
    tokens = 10 * (len(prompt.system.encode()) + len("number 0") + most)
    worst = (tokens - 10 * most + 5 * 10 * most) / 1e6
    share = share_of(Limits(usd=worst + 1.0, calls=35, tokens=tokens + 999, seconds=9.0), prompt, cases, lambda name: rates)
    assert share.usd == pytest.approx(0.1) and (share.calls, share.tokens, share.seconds) == (2, 99, None)
    for limits in (Limits(usd=worst / 2), Limits(calls=19), Limits(tokens=tokens // 2)):
        with pytest.raises(BudgetError):
            share_of(limits, prompt, cases, lambda name: rates)
    with pytest.raises(InputError, match="price"):
        share_of(Limits(usd=9.0), prompt, cases, lambda name: None)
    assert share_of(NO_LIMITS, prompt, cases, lambda name: None) == NO_LIMITS


def test_what_the_conductor_took_is_taken_off() -> None:
    told = [Event(kind="analysis", at=0.0), Event(kind="plan", at=1.0, usage=Usage(300, 50), cost=0.25, calls=2)]
    assert after(Limits(usd=1.0, calls=10, tokens=1000), told) == Limits(usd=0.75, calls=8, tokens=650)
    assert after(Limits(usd=0.1, calls=1, seconds=4.0), told) == Limits(usd=0.0, calls=0, seconds=4.0)
