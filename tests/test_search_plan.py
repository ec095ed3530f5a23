"""The plan of a search, before anything is called: its numbers, what it says, and the question that it leads to."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from promptsmith import Task
from promptsmith.catalog.prices import Rate, Rates
from promptsmith.chat import Request
from promptsmith.compiler.build import ProjectCompiler
from promptsmith.compiler.material import Material, Options, material
from promptsmith.compiler.search.plan import MANY_CALLS, SearchPlan, first_requests, plan_search
from promptsmith.compiler.search.sizes import (
    CANDIDATES,
    DRAFTS,
    EDITS,
    ENOUGH,
    LEAST_CANDIDATES,
    PRACTICE,
    ROUNDS,
    RUNG_LEAST,
    default_candidates,
    rungs,
    staying,
)
from promptsmith.config import Config, Project
from promptsmith.store.folder import open_store

from .provider import KEY, Ask, Provider

Make = Callable[..., Project]
Invoke = Callable[..., Result]
META = "anthropic/claude-opus-5-5"
DRAFT = "Sort the message by its kind.\n\nAnswer with exactly one of these labels and nothing else:\n- a\n- b\n"
ROWS = [(f"message number {number} is about {'tea' if number % 3 else 'coffee'}", "ab"[number % 2]) for number in range(60)]
PRICED = {META: Rates((Rate(input=5.0, output=25.0),)), "toy/small": Rates((Rate(input=0.1, output=0.4),))}


def task(rows: Any = ROWS, **more: Any) -> Task:
    said: dict[str, Any] = {"output": ["a", "b"], "models": {"meta": META, "production": "toy/small"}, **more}
    return Task("Sort it.", examples=rows, **said)


def of(level: int = 2, rows: Any = ROWS, more: dict[str, Any] | None = None, **options: Any) -> Material:
    return material(task(rows, **(more or {})), Config(), Options(level=level, **options))


def plan(level: int = 2, **options: Any) -> SearchPlan:
    return plan_search(of(level, **options), PRICED.get)


# --- numbers ----------------------------------------------------------------------------------------------


@given(st.integers(8, 500), st.sampled_from([2, 3]))
def test_fewer_cases_mean_fewer_candidates(dev: int, level: int) -> None:
    found = default_candidates(level, dev)
    assert LEAST_CANDIDATES <= found <= CANDIDATES[level]
    assert found <= default_candidates(level, dev + 1)
    assert dev < ENOUGH or found == CANDIDATES[level]


@given(st.integers(8, 500), st.integers(1, 64))
def test_a_race_ends_on_all_cases_with_few_left(dev: int, entrants: int) -> None:
    sizes = rungs(dev, entrants)
    assert sizes == sorted(set(sizes)) and sizes[-1] == dev and sizes[0] >= min(RUNG_LEAST, dev)
    left = entrants
    for _ in sizes[:-1]:
        left = staying(left)
    assert 1 <= left <= entrants
    if dev >= 64 and entrants <= 16:
        assert left <= 2


def test_the_numbers_of_a_race() -> None:
    """All that enter are tried on the first rung, who is left on what the next one adds, the baselines on everything."""
    found = plan()
    assert (found.dev, found.baselines) == (len(of().dev), 2)
    assert found.candidates == default_candidates(2, found.dev)
    assert found.drafts == min(DRAFTS[2], found.candidates)
    entrants, trials, before = found.candidates, 2 * found.dev + PRACTICE, 0
    for size in rungs(found.dev, entrants):
        trials += (size - before) * entrants
        before, entrants = size, staying(entrants)
    assert (found.scored_calls.expected, found.scored_calls.most) == (trials, 2 * trials)
    assert (found.meta_calls.least, found.meta_calls.expected, found.meta_calls.most) == (0, found.drafts, 4 * found.drafts)
    assert found.judge_calls.most == 0


def test_level_3_reflects_on_top_of_it() -> None:
    two, three = plan(2, candidates=4), plan(3, candidates=4)
    assert three.meta_calls.most == 4 * (three.drafts + ROUNDS * EDITS)
    assert three.scored_calls.most > two.scored_calls.most
    assert three.scored_calls.least == two.scored_calls.least


def test_judges_are_counted_and_priced() -> None:
    panel = {"scorers": [{"judge": {"criteria": "Is it right?", "models": ["x/one", "x/two"]}}]}
    found = plan_search(of(more=panel), {**PRICED, "x/one": PRICED[META], "x/two": PRICED[META]}.get)
    assert found.judge_calls.expected == 2 * found.scored_calls.expected
    assert found.usd is not None and plan().usd is not None
    assert found.usd[0] > plan().usd[0]  # type: ignore[index]
    assert plan_search(of(more=panel), PRICED.get).unpriced == ("x/one", "x/two")


limits = st.fixed_dictionaries(
    {},
    optional={"max_usd": st.floats(0, 100), "max_calls": st.integers(0, 10_000), "max_tokens": st.integers(0, 10**7)},
)


@given(limits, st.sampled_from([2, 3]), st.none() | st.integers(1, 40))
def test_the_plan_keeps_the_budget_and_is_the_same_each_time(given_limits: dict[str, Any], level: int, candidates: int | None) -> None:
    found = plan(level, candidates=candidates, **given_limits)
    assert found == plan(level, candidates=candidates, **given_limits)
    calls = found.calls
    assert 0 <= calls.least <= calls.expected <= calls.most <= given_limits.get("max_calls", calls.most)
    assert found.usd is not None
    assert 0 <= found.usd[0] <= found.usd[1] <= given_limits.get("max_usd", found.usd[1])
    assert 0 <= found.tokens[0] <= found.tokens[1] <= given_limits.get("max_tokens", found.tokens[1])


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("right", [False, True])
def test_a_real_search_stays_within_its_plan(make_project: Make, toy: Any, level: int, right: bool) -> None:
    """Whatever the engine does, it does not do more than was said before, and not less."""
    number = iter(range(10**6))

    def meta(request: Request) -> str:
        return f"<diagnosis>It is too short.</diagnosis>\n<prompt>\nRule {next(number)}. {DRAFT}</prompt>" if level == 3 else DRAFT

    def production(request: Request) -> str:
        text = request.turns[-1].text
        place = next(place for place, (message, _) in enumerate(ROWS) if f"{message}" == text.strip() or message in text)
        good = ROWS[place][1]
        return good if right or (place * 7 + len(request.system)) % 4 else "ab"[good == "a"]

    models = {META: toy(meta, META), "toy/small": toy(production, "toy/small")}
    project = make_project({})
    with open_store(project) as store:
        built = asyncio.run(ProjectCompiler(project, store, models).build(task(), Options(level=level)))
    said = plan(level)
    assert built.record is not None and built.record.reason == ("perfect" if right else built.record.reason)
    meta_calls, scored = len(models[META].asked), len(models["toy/small"].asked)
    assert said.meta_calls.least <= meta_calls <= said.meta_calls.most
    assert said.scored_calls.least <= scored <= said.scored_calls.most
    assert len(built.record.dev_cases) == said.dev
    if right:
        assert meta_calls == 0


# --- words ------------------------------------------------------------------------------------------------


def test_the_plan_says_what_will_happen() -> None:
    said = plan(3, max_usd=0.5, max_calls=300, max_seconds=60.0)
    text = said.as_text()
    assert f"{len(of().examples)} may be shown, {said.dev} are only scored (dev)" in text
    assert f"{said.candidates} candidates (instead of {CANDIDATES[3]}: {said.dev} dev cases tell no more apart, {ENOUGH} would)" in text
    assert "limits: $0.5, 300 calls, 60 seconds" in text
    assert "at most $0.50" in text
    assert "(at most 300)" in said.line() and "\n" not in said.line()
    many = plan(2, rows=[(f"message {number}", "ab"[number % 2]) for number in range(150)])
    assert many.candidates == CANDIDATES[2] and "instead of" not in many.as_text()
    assert plan(2, candidates=3).candidates_why == ""
    assert "engine gepa chooses its own calls" in plan(3, engine="gepa").as_text()
    json.dumps(said.as_data())


def test_a_prompt_by_hand_is_one_baseline_more() -> None:
    assert plan_search(of(more={"prompt": "By hand."}), PRICED.get).baselines == 3


def test_the_first_requests_hold_no_row_that_is_only_scored() -> None:
    source = of()
    asked = first_requests(source)
    assert [name for name, _ in asked] == ["contract_first", "contrast_rules", "shortest"]
    for _, request in asked:
        assert not [row for row in source.dev if json.dumps(row.inputs["input"]) in request.turns[0].text]
        assert [row for row in source.examples if json.dumps(row.inputs["input"]) in request.turns[0].text]


# --- whether to ask ---------------------------------------------------------------------------------------


def test_who_is_asked_and_who_is_not() -> None:
    free = plan(3)
    assert free.usd is not None
    expected, most = free.usd
    assert f"is expected to cost ${expected:.2f}" in free.asks(expected / 2)
    assert free.asks(expected * 1.01) == ""  # the most is far above it, but nobody expects that
    limited = plan(3, max_usd=most / 2)
    assert f"may cost up to ${most / 2:.2f}" in limited.asks(most / 4)
    assert limited.asks(most / 2) == ""
    assert plan(3, max_usd=0.0).asks(0.0) != ""  # a sum of 0 always asks


def test_an_unknown_price_is_asked_about_only_when_there_are_many_calls() -> None:
    few, many = (plan_search(of(candidates=count), {}.get) for count in (None, 400))
    assert few.usd is None and few.calls.expected <= MANY_CALLS < many.calls.expected
    assert few.asks(1.0) == "" and "price of toy/small, anthropic" not in few.line()
    assert f"price of {META}, toy/small unknown" in few.line()
    assert many.asks(1.0) == f"the price of {META} and toy/small is not known, and it may take {many.calls.expected:,} calls"
    assert plan_search(of(candidates=400, max_calls=MANY_CALLS), {}.get).asks(1.0) == ""
    assert few.asks(0.0) != ""


# --- the command ------------------------------------------------------------------------------------------

TEXT = f"task: Sort it.\noutput: [a, b]\nmodels: {{meta: {META}}}\nexamples: {{file: rows.jsonl}}\n"
DEAR = f"[prices.'{META}']\ninput = 1000\noutput = 1000\n"


@pytest.fixture
def asked() -> list[Ask]:
    return []


@pytest.fixture
def provider(asked: list[Ask], monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    def answer(ask: Ask) -> str:
        asked.append(ask)
        return DRAFT

    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with Provider(answer) as running:
        yield running


@pytest.fixture
def project(make_project: Make, provider: Provider) -> Callable[..., Project]:
    def make(settings: str = DEAR, text: str = TEXT) -> Project:
        endpoint = (
            f'[endpoints.anthropic]\nprotocol = "anthropic"\nbase_url = "{provider.url}"\n'
            'api_key_env = "ANTHROPIC_API_KEY"\nforeign = false\n'
        )
        data: list[object] = [{"input": text, "output": label} for text, label in ROWS]
        return make_project({"t": text}, {"rows.jsonl": data}, config=endpoint + settings)

    return make


def test_without_a_terminal_a_dear_search_is_refused(project: Callable[..., Project], invoke: Invoke, asked: list[Ask]) -> None:
    refused = invoke("compile", "t", "-O2", project=project(), code=2)
    assert "t: -O2 plan: " in refused.stderr
    assert "is expected to cost $" in refused.stderr
    assert "--yes" in refused.stderr and "--max-cost" in refused.stderr and "compile.confirm_usd" in refused.stderr
    assert refused.stdout == "" and asked == []


def test_yes_compiles_and_what_is_cached_is_not_asked_about(project: Callable[..., Project], invoke: Invoke, asked: list[Ask]) -> None:
    made = project()
    (first,) = json.loads(invoke("compile", "t", "-O2", "--yes", "--json", project=made).stdout)
    assert first["level"] == 2 and first["source"] == "compiled"
    paid = len(asked)
    assert paid > 0
    again = invoke("compile", "t", "-O2", "--json", project=made)
    assert json.loads(again.stdout)[0]["source"] == "from the cache"
    assert "plan" not in again.stderr and len(asked) == paid
    invoke("compile", "t", "-O2", "--force", project=made, code=2)
    invoke("compile", "t", "-O2", "--candidates", "3", project=made, code=2)
    assert len(asked) == paid


def test_a_limit_below_the_sum_needs_no_question(project: Callable[..., Project], invoke: Invoke, asked: list[Ask]) -> None:
    made = project(DEAR + "[compile]\nconfirm_usd = 0.5\n")
    invoke("compile", "t", "-O2", "--max-cost", "0.6", project=made, code=2)
    done = invoke("compile", "t", "-O2", "--max-cost", "0.4", project=made)
    assert "nobody is here" not in done.stderr and "(at most $0.40)" in done.stderr
    assert asked == []  # a draft might cost more than the whole budget


def test_the_sum_is_a_setting_and_0_asks_always(project: Callable[..., Project], invoke: Invoke) -> None:
    invoke("compile", "t", "-O2", project=project(f"[prices.'{META}']\ninput = 0\noutput = 0\n[compile]\nconfirm_usd = 0\n"), code=2)


def test_below_level_2_nothing_is_asked(project: Callable[..., Project], invoke: Invoke, asked: list[Ask]) -> None:
    done = invoke("compile", "t", "-O1", project=project())
    assert "plan" not in done.stderr and len(asked) == 1


@pytest.mark.parametrize(("reply", "code"), [("n\n", 1), ("y\n", 0)])
def test_at_a_terminal_it_is_asked(project: Callable[..., Project], asked: list[Ask], reply: str, code: int) -> None:
    made = project()
    main, side = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "promptsmith", "compile", "t", "-O2", "--json"],
            cwd=made.root, env=os.environ, stdin=side, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as running:  # fmt: skip
            os.write(main, reply.encode())
            out, told = running.communicate()
    finally:
        os.close(main)
        os.close(side)
    assert "it is expected to cost $" in told and "Go on? [y/N]" in told
    assert (running.returncode, bool(asked)) == (code, code == 0)
    assert bool(out) == (code == 0)


def test_a_dry_run_shows_the_plan_and_the_first_requests(project: Callable[..., Project], invoke: Invoke, asked: list[Ask]) -> None:
    made = project()
    text = invoke("compile", "t", "-O3", "--dry-run", "--max-cost", "2", project=made).stdout
    assert "limits: $2" in text
    assert text.count("--- system") == 3 and "--- system of shortest" in text and "(as above)" in text
    (row,) = json.loads(invoke("compile", "t", "-O3", "--dry-run", "--json", project=made).stdout)
    assert row["search"]["candidates"] == default_candidates(3, row["search"]["dev"])
    assert f"{row['search']['drafts']} drafts, {row['search']['candidates']} candidates" in text
    assert [one["strategy"] for one in row["others"]] == ["contrast_rules", "shortest"]
    (plain,) = json.loads(invoke("compile", "t", "-O1", "--dry-run", "--json", project=made).stdout)
    assert plain["search"] is None and plain["others"] == []
    assert asked == []


def test_too_few_examples_are_said_and_nothing_is_asked(project: Callable[..., Project], invoke: Invoke, asked: list[Ask]) -> None:
    rows = ", ".join(f"{{input: {text}, output: {label}}}" for text, label in ROWS[:5])
    made = project(text=TEXT.replace("{file: rows.jsonl}", f"[{rows}]"))
    done = invoke("compile", "t", "-O3", project=made)
    assert "compiled, -O1 (-O3 asked for; unscored: 5 examples, and a dev part needs 20)" in done.stdout
    assert len(asked) == 1 and "plan" not in done.stderr
    invoke("compile", "t", "-O1", project=made)
    found = invoke("compile", "t", "-O3", project=made)  # the same prompt, and yet it says what was asked for now
    assert "from the cache, -O1 (-O3 asked for; unscored: 5 examples" in found.stdout
    assert "unscored: 5 examples" in invoke("show", "t", project=made).stderr
    assert len(asked) == 1


def test_what_is_explained_at_level_2_is_of_all_visible_examples(project: Callable[..., Project], invoke: Invoke) -> None:
    made = project()
    told = invoke("compile", "t", "-O2", "--dry-run", "--explain", project=made).stdout
    dev = len(of().dev)
    assert "60 visible" in told and f"60 visible examples: {60 - dev} may be shown, {dev} are only scored (dev)" in told


def test_retarget_asks_too(project: Callable[..., Project], invoke: Invoke, asked: list[Ask]) -> None:
    made = project()
    invoke("compile", "t", "-O0", project=made)
    refused = invoke("retarget", "t", "--model", "builtin/nearest2", "-O2", project=made, code=2)
    assert "unknown" in refused.stderr or "--yes" in refused.stderr
    told = invoke("retarget", "t", "--model", "openai/gpt-4o-mini", "-O2", project=made, code=2)
    assert "--yes" in told.stderr and "-O2 plan" in told.stderr
    assert asked == []
