"""``promptsmith savings``: a strong and a cheap model measured on the same cases with the same prompt, at a real wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from click.testing import Result

from promptsmith import compile_task, evaluate
from promptsmith.config import Project
from promptsmith.evals.looks import Looks
from promptsmith.evals.report import Reports
from promptsmith.savings import CompileCost, compile_cost
from promptsmith.store import LedgerRow
from promptsmith.store.folder import open_store
from promptsmith.task import load_task

from .provider import KEY, Ask, Fault, Provider, Settings

Make = Callable[..., Project]
Invoke = Callable[..., Result]
STRONG, CHEAP = "openai/gpt-6.1-sol", "openai/gpt-6-luna"
LABELS = ("positive", "negative", "neutral")
CASES = 20


def task(*, long: bool = True, rows: int = CASES, more: str = "") -> str:
    """Sealed case n expects label n % 3; with ``long`` the prompt is long enough for the provider to cache it."""
    visible = [f'  - {{input: "{"a long visible message " * 12}{n}", output: {LABELS[n % 3]}}}' for n in range(40 if long else 3)]
    sealed = [f'  - {{input: "sealed message number {n}", output: {LABELS[n % 3]}, id: c{n:03}}}' for n in range(rows)]
    head = ["task: Classify the sentiment of a customer message.", f"output: [{', '.join(LABELS)}]"]
    holdout = ["holdout:", *sealed] if rows else []
    return "\n".join(
        [*head, f"models: {{production: {CHEAP}, meta: {STRONG}}}", "compile: {level: 0}", "examples:", *visible, *holdout, more]
    )


class Models:
    """The strong model is always right, the cheap one wrong about the cases in ``wrong``."""

    def __init__(self) -> None:
        self.wrong: Sequence[int] = (3, 7)
        self.asked: list[tuple[str, int, str]] = []

    def __call__(self, ask: Ask) -> str:
        number = int(ask.text.rsplit(" ", 1)[-1])
        self.asked.append((ask.model, number, ask.system))
        return LABELS[(number + (ask.model == "gpt-6-luna" and number in self.wrong)) % 3]


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def provider(models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # From gpt-5.6 on the provider finds prefixes by their key alone, whichever of its machines answers.
    with Provider(models, Settings(latency=0.02)) as running:
        yield running


def settings(provider: Provider, prices: str = "") -> str:
    address = f'base_url = "{provider.base_url_openai}"\napi_key_env = "OPENAI_API_KEY"\nforeign = false\n'
    return f'[endpoints.openai]\nprotocol = "openai"\n{address}{prices}'


PRICES = (
    f'[prices."{STRONG}"]\ninput = 40\noutput = 200\ncached = 4\nwritten = 50\n'
    f'[prices."{CHEAP}"]\ninput = 1\noutput = 5\ncached = 0.1\nwritten = 1.25\n'
)


@pytest.fixture
def project(make_project: Make, provider: Provider) -> Project:
    found = make_project({"s": task()}, config=settings(provider, PRICES))
    compile_task("s", project=found)
    return found


def data(result: Result) -> Any:
    return json.loads(result.stdout)


def test_both_models_answer_every_case_with_the_same_prompt(project: Project, models: Models, invoke: Invoke) -> None:
    told = data(invoke("savings", "s", "--json", project=project))
    assert sorted((model, number) for model, number, _ in models.asked) == sorted(
        (model, number) for model in ("gpt-6-luna", "gpt-6.1-sol") for number in range(CASES)
    )
    assert len({system for *_, system in models.asked}) == 1
    assert (told["strong"]["model"], told["cheap"]["model"], told["same_prompt"]) == (STRONG, CHEAP, True)
    assert (told["cases"], told["answered"], told["stopped"]) == (CASES, CASES, "")
    assert (told["strong"]["pass_rate"], told["cheap"]["pass_rate"]) == (1.0, 0.9)
    observed, lower, upper = told["difference"]
    assert observed == pytest.approx(-0.1) and lower < observed < upper
    report = Reports(project.cache).load(told["report"])
    assert {arm.prompt for arm in report.head.arms} == {told["prompt"]}


def test_cold_and_warm_are_the_counted_tokens_at_the_models_prices(project: Project, invoke: Invoke) -> None:
    told = data(invoke("savings", "s", "--json", project=project))
    for side, arm, (fresh, out, read, write) in (("strong", 0, (40, 200, 4, 50)), ("cheap", 1, (1, 5, 0.1, 1.25))):
        attempts = [case.attempts[arm][0] for case in Reports(project.cache).load(told["report"]).cases]
        prefixes = {attempt.usage.cached + attempt.usage.written for attempt in attempts}
        (prefix,) = prefixes
        assert prefix > 1024
        assert told[side]["provider_cache"] == {"tokens": prefix, "seen": "cached"}
        for kind, price in (("cold", write), ("warm", read)):
            each = [(one.usage.input - prefix) * fresh + prefix * price + one.usage.output * out for one in attempts]
            assert told[side][f"{kind}_per_1k_usd"] == pytest.approx(1000 * sum(each) / CASES / 1e6)
        paid = [attempt.cost for attempt in attempts]
        assert told[side]["paid_per_1k_usd"] == pytest.approx(1000 * sum(cost or 0 for cost in paid) / CASES)
    for kind in ("cold", "warm"):
        share = 1 - told["cheap"][f"{kind}_per_1k_usd"] / told["strong"][f"{kind}_per_1k_usd"]
        assert told["saved"][kind] == pytest.approx(share) and share > 0.9


def test_it_is_one_look_at_the_holdout_and_replies_are_used_again(project: Project, models: Models, invoke: Invoke) -> None:
    """The prompt that was evaluated is asked by the strong model alone; the same command again asks nobody."""
    evaluate("s", project=project)
    asked = len(models.asked)
    first = data(invoke("savings", "s", "--json", project=project))
    assert [model for model, *_ in models.asked[asked:]] == ["gpt-6.1-sol"] * CASES
    again = data(invoke("savings", "s", "--json", project=project))
    assert len(models.asked) == asked + CASES
    assert {**again, "report": ""} == {**first, "report": ""}
    cases = [row.id for row in load_task(project.task_file("s"), name="s").holdout]
    assert Looks(project.cache).count(cases, first["prompt"]).looks == 1
    heads = Reports(project.cache).heads("s")
    assert [head.looks for head in heads] == [1, 1, 1]


def test_the_compile_is_paid_back_by_the_difference(project: Project, invoke: Invoke) -> None:
    free = data(invoke("savings", "s", "--json", project=project))
    assert free["compile"] == {"usd": 0.0, "calls": 0, "failed": 0}
    assert free["pays_from"] == {"cold": 0, "warm": 0}
    ledger = open_store(project).ledger
    for cost in (0.5, 1.5):
        ledger.append(row(cost=cost, input=100))
    ledger.append(row(cost=9.0, input=100, task="another"))
    ledger.append(row(cost=9.0, input=100, stage="run"))
    told = data(invoke("savings", "s", "--calls", "500", "--json", project=project))
    assert told["compile"] == {"usd": 2.0, "calls": 2, "failed": 0}
    for kind in ("cold", "warm"):
        strong, cheap = (told[side][f"{kind}_per_1k_usd"] / 1000 for side in ("strong", "cheap"))
        calls = told["pays_from"][kind]
        assert 2.0 + calls * cheap <= calls * strong and 2.0 + (calls - 1) * cheap > (calls - 1) * strong
        assert told["strong"]["calls_usd"][kind] == pytest.approx(500 * strong)
        assert told["cheap"]["calls_usd"][kind] == pytest.approx(2.0 + 500 * cheap)
    shown = invoke("savings", "s", "--calls", "500", project=project).stdout
    assert "compiles of this task so far: $2.0000 in 2 calls by this ledger" in shown
    assert f"the compile is paid back after {told['pays_from']['warm']:,} calls" in shown
    assert "the same compiled prompt for both models" in shown


def test_a_price_that_is_not_known_is_unknown(make_project: Make, provider: Provider, invoke: Invoke) -> None:
    """An endpoint of another name has no list prices: nothing is saved that nobody can add up."""
    mine = settings(provider, PRICES) + settings(provider).replace("[endpoints.openai]", "[endpoints.work]")
    project = make_project({"s": task()}, config=mine)
    compile_task("s", project=project)
    told = data(invoke("savings", "s", "--strong", "work/gpt-6.1-sol", "--json", project=project))
    strong = told["strong"]
    assert [strong[f"{kind}_per_1k_usd"] for kind in ("cold", "warm", "paid")] == [None] * 3
    assert told["saved"] == told["pays_from"] == {"cold": None, "warm": None}
    assert strong["pass_rate"] == 1.0 and told["cheap"]["warm_per_1k_usd"] > 0
    shown = invoke("savings", "s", "--strong", "work/gpt-6.1-sol", project=project).stdout
    assert "saved warm: unknown" in shown and "when the compile is paid back is unknown" in shown
    assert "a limit in dollars" in invoke("savings", "s", "--strong", "work/gpt-6-sol", "--max-cost", "1", project=project, code=2).stderr


def test_a_prompt_too_short_to_be_cached_costs_the_same_warm(make_project: Make, provider: Provider, invoke: Invoke) -> None:
    project = make_project({"s": task(long=False)}, config=settings(provider, PRICES))
    compile_task("s", project=project)
    told = data(invoke("savings", "s", "--json", project=project))
    for side in ("strong", "cheap"):
        assert told[side]["provider_cache"] == {"tokens": 0, "seen": "none"}
        assert told[side]["cold_per_1k_usd"] == told[side]["warm_per_1k_usd"] == pytest.approx(told[side]["paid_per_1k_usd"])
    assert "nothing of a call is cached by its provider, warm is cold" in invoke("savings", "s", project=project).stdout


def test_what_runs_here_costs_nothing_and_is_named(make_project: Make, provider: Provider, invoke: Invoke) -> None:
    text = task().replace(f"production: {CHEAP}", "production: builtin/nearest")
    project = make_project({"s": text}, config=settings(provider, PRICES))
    compile_task("s", project=project)
    told = data(invoke("savings", "s", "--json", project=project))
    assert told["cheap"]["model"] == "builtin/nearest"
    assert (told["cheap"]["cold_per_1k_usd"], told["cheap"]["warm_per_1k_usd"]) == (0.0, 0.0)
    assert told["saved"] == {"cold": 1.0, "warm": 1.0}
    refused = invoke("savings", "s", "--max-cost", "1", project=project, code=2).stderr
    assert "says nothing of how long an answer may be" in refused and "compile it for a model at an endpoint" in refused


# --- what can't be measured -------------------------------------------------------------------------------


def test_a_limit_stops_it_with_exit_5_and_what_was_measured(project: Project, models: Models, invoke: Invoke) -> None:
    ended = invoke("savings", "s", "--max-calls", "15", "--json", project=project, code=5)
    told = data(ended)
    assert "incomplete: the limit of 15 calls is reached" in ended.stderr
    assert len(models.asked) == 15
    assert told["answered"] < CASES and told["stopped"]
    assert data(invoke("savings", "s", "--json", project=project))["answered"] == CASES
    assert len(models.asked) == 2 * CASES


def test_cases_without_an_answer_leave_both_sides(project: Project, provider: Provider, invoke: Invoke) -> None:
    provider.faults.on(2, Fault("status", status=400))
    ended = invoke("savings", "s", "--json", project=project, code=4)
    assert "incomplete: some cases got no answer" in ended.stderr
    assert data(ended)["answered"] == CASES - 1


def test_a_first_budget_of_nothing(project: Project, models: Models, invoke: Invoke) -> None:
    told = data(invoke("savings", "s", "--max-calls", "0", "--json", project=project, code=5))
    assert models.asked == []
    assert (told["answered"], told["difference"], told["saved"]) == (0, None, {"cold": None, "warm": None})


@pytest.mark.parametrize(
    ("change", "args", "words"),
    [
        (lambda text: text.replace(f", meta: {STRONG}", ""), (), "no strong model is named"),
        (lambda text: text, ("--strong", CHEAP), f"is served by {CHEAP} itself"),
        (lambda text: text.partition("holdout:")[0], (), "has no holdout to measure on"),
        (lambda text: text, ("--strong", "nope"), "nope"),
    ],
    ids=["no strong model", "one model", "no holdout", "unknown model"],
)
def test_what_can_not_be_compared_is_refused(
    make_project: Make, provider: Provider, models: Models, invoke: Invoke, change: Callable[[str], str], args: tuple[str, ...], words: str
) -> None:
    project = make_project({"s": change(task())}, config=settings(provider, PRICES))
    compile_task("s", project=project)
    assert words in invoke("savings", "s", *args, project=project, code=2).stderr
    assert models.asked == []


# --- the ledger -------------------------------------------------------------------------------------------


def row(**more: Any) -> LedgerRow:
    return LedgerRow(
        **{"time": 1.0, "task": "s", "prompt": "", "stage": "compile", "model": STRONG, "endpoint": "openai", "source": "model", **more}
    )


def test_what_the_ledger_knows_of_compiles() -> None:
    assert compile_cost([], "s", level=0) == CompileCost(0.0, 0, 0)
    assert compile_cost([], "s", level=1) == CompileCost(None, 0, 0)  # compiled elsewhere
    rows = [row(cost=0.25, input=1, output=1), row(cost=0.5, input=1), row(cost=None, status="ProviderTimeout")]
    assert compile_cost(rows, "s", level=1) == CompileCost(0.75, 2, 1)
    assert compile_cost([*rows, row(cost=None, input=5)], "s", level=1) == CompileCost(None, 3, 1)
    assert compile_cost([row(cost=0.0, source="journal")], "s", level=1) == CompileCost(None, 0, 0)
