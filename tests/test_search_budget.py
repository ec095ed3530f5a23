"""Budgets of a search are hard, its result does not depend on who answers first, and every end is honest about what it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result as Ended

from promptsmith.chat import Reply, Request
from promptsmith.compiler.build import Compiled, ProjectCompiler
from promptsmith.compiler.material import Options
from promptsmith.compiler.search.record import SearchRecord
from promptsmith.config import Project
from promptsmith.errors import ProviderDown, RequestRefused
from promptsmith.evals.vocabulary import load_suite_task
from promptsmith.store.folder import open_store

from .provider import KEY, Ask, Fault, Provider, Said
from .search_world import (
    IN_FLIGHT,
    LABELS,
    META,
    META_PRICE,
    MODEL,
    PRODUCTION_PRICE,
    World,
    WorldModel,
    models,
    number,
    project_in,
    right,
    task,
)

Invoke = Callable[..., Ended]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def searched(project: Project, given: Mapping[str, Any] | None = None, **options: Any) -> Compiled:
    """A compile in this process; without models of its own it asks the project's endpoints."""
    with open_store(project) as store:
        read = load_suite_task(project.root / "evals" / "sort.yaml", "sort")
        return asyncio.run(ProjectCompiler(project, store, given).build(read, Options(**{"level": 3, **options})))


def recorded(compiled: Compiled) -> SearchRecord:
    assert compiled.record is not None
    return compiled.record


def built(project: Project, compiled: Compiled) -> bool:
    """Whether the prompt is kept under its build key; it is kept in any case."""
    with open_store(project) as store:
        assert store.prompt(compiled.prompt.id) is not None
        assert store.latest("sort") == compiled.prompt.id
        return store.built(compiled.prompt.provenance.build.key) is not None


def asked(given: Mapping[str, WorldModel]) -> int:
    return sum(model.answered for model in given.values())


# --- never over, and always the same ------------------------------------------------------------------------

LIMITS: list[dict[str, float]] = [
    *({"max_calls": calls} for calls in (0, 1, 2, 7, 16, 17, 33, 50, 67, 80, 100, 130, 160, 190, 220, 300, 5000)),
    *({"max_tokens": tokens} for tokens in (0, 1, 300, 2500, 6000, 12_000, 20_000, 33_000, 10**7)),
    *({"max_usd": usd} for usd in (0.0, 1e-9, 0.0007, 0.004, 0.1, 0.19, 0.25, 0.31, 100.0)),
    {"max_calls": 120, "max_tokens": 30_000, "max_usd": 0.3},
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_no_limit_is_passed_and_the_order_of_arrival_decides_nothing(tmp_path: Path, limits: dict[str, float]) -> None:
    """In the models' own count, to the call, the token and the last bit of a dollar."""
    seen = []
    for seed in (1, 2):
        project = project_in(tmp_path / f"{seed}")
        given = models(seed)
        compiled = searched(project, given, **limits)
        record = recorded(compiled)
        assert record.spent.calls == asked(given) <= limits.get("max_calls", 10**9)
        tokens = sum(model.usage.input + model.usage.output for model in given.values())
        assert record.spent.tokens == tokens <= limits.get("max_tokens", 10**9)
        assert record.spent.usd is not None
        assert record.spent.usd == pytest.approx(sum(model.usd for model in given.values()))
        assert record.spent.usd <= limits.get("max_usd", 1e9)
        assert max(model.most for model in given.values()) <= IN_FLIGHT
        assert built(project, compiled)
        seen.append((compiled.prompt.id, record.digest(), record.reason, record.chosen_why))
    assert seen[0] == seen[1]


def test_the_sweep_reaches_every_stage(tmp_path: Path) -> None:
    """Else the limits above would say nothing of some of them: each stage is the last one under some limit, and the first limits bite."""
    last = set()
    for number_, limits in enumerate(LIMITS):
        record = recorded(searched(project_in(tmp_path / f"{number_}"), models(), **limits))
        last.add((record.reason, record.stages[-1].name if record.stages else ""))
    assert {("budget", stage) for stage in ("", "baselines", "drafts", "race", "reflection")} < last
    assert any(reason != "budget" for reason, _ in last)


def test_budgets_of_nothing_and_of_one_call_keep_the_template_and_say_so(tmp_path: Path, invoke: Invoke) -> None:
    with Provider(World()) as provider:
        for limit in ("--max-calls=0", "--max-tokens=0", "--max-cost=0", "--max-calls=1"):
            project = project_in(tmp_path / limit, provider.base_url_openai)
            ended = invoke("compile", "sort", "-O3", limit, project=project)
            assert "search ended: budget: " in ended.stderr
            assert "-O0 prompt" in ended.stderr
            assert len(provider.records) == (limit == "--max-calls=1")
            assert "Messages about" not in invoke("show", "sort", project=project).stdout


# --- over a wire, with a provider that fails ----------------------------------------------------------------

TROUBLE = (
    (0.06, Fault("status", status=429, retry_after_ms="1")),
    (0.06, Fault("status", status=500, retry_after_ms="1")),
    (0.04, Fault("status", status=503, retry_after_ms="1")),
    (0.03, Fault("reset", at=0)),  # an answer has begun: it may have been counted
    (0.02, Fault("close", at=2)),
    (0.03, Fault("status", status=400)),
)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "limits", [{"max_calls": 40}, {"max_calls": 100}, {"max_tokens": 9000}, {"max_usd": 0.2}, {"max_usd": 0.3}], ids=str
)
def test_the_provider_never_counts_more_than_the_limit(tmp_path: Path, limits: dict[str, float], seed: int) -> None:
    """A quarter of the attempts fail: turned away, refused for good, broken off. All that was ever answered is within the limits."""
    with Provider(World(seed)) as provider:
        for chance, fault in TROUBLE:
            provider.faults.chance(chance, fault, seed=seed)
        project = project_in(tmp_path / "project", provider.base_url_openai)
        for _ in range(2):  # the second run has the wallet of the first
            compiled = searched(project, **limits)
            record = recorded(compiled)
            records = provider.records.all()
            assert sum(one.status == 200 for one in records) <= limits.get("max_calls", 10**9)
            counted = [(one.model, one.usage) for one in records if one.usage is not None]
            assert sum(usage.input + usage.output for _, usage in counted) <= limits.get("max_tokens", 10**9)
            prices = {META.partition("/")[2]: META_PRICE, MODEL.partition("/")[2]: PRODUCTION_PRICE}
            usd = sum(usage.input * prices[name][0] + usage.output * prices[name][1] for name, usage in counted) / 1e6
            assert usd <= limits.get("max_usd", 1e9)
            assert record.spent.usd is not None
            assert record.spent.calls <= limits.get("max_calls", 10**9)
            assert record.spent.tokens <= limits.get("max_tokens", 10**9)
            assert record.spent.usd <= limits.get("max_usd", 1e9)
            assert record.reason in ("budget", "time")
            assert built(project, compiled) == (record.reason == "budget")
            assert len(records) > record.spent.calls
            if record.reason == "budget":
                break


class Refusing(World):
    """One answer in nine is refused, one in thirteen is stopped by the filter: which ones, the request decides."""

    async def __call__(self, ask: Ask) -> str | Said:
        said = await super().__call__(ask)
        draw = number(f"{ask.system} {ask.text}", 9 * 13)
        if draw % 9 == 0:
            return Said("I can't help with that.", "refused")
        return Said(said[:2], "filtered") if draw % 13 == 0 else said


@pytest.mark.parametrize("limits", [{"max_calls": 120}, {"max_tokens": 15_000}, {"max_usd": 0.2}], ids=str)
def test_with_a_provider_that_turns_away_and_refuses_the_result_is_the_same(tmp_path: Path, limits: dict[str, float]) -> None:
    """What is turned away costs nothing and is asked again; what is refused is an outcome."""
    seen = []
    for seed in (None, 1, 2):
        with Provider(Refusing(seed or 0)) as provider:
            for status in (429, 500, 503) if seed else ():
                provider.faults.chance(0.08, Fault("status", status=status, retry_after_ms="1"), seed=seed or 0)
            project = project_in(tmp_path / f"{seed}", provider.base_url_openai)
            record = recorded(searched(project, **limits))
            assert provider.records.statuses[200] == record.spent.calls
            assert (len(provider.records) > record.spent.calls) == bool(seed)
            assert provider.records.max_in_flight <= IN_FLIGHT
            seen.append((record.reason, record.chosen, record.digest()))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][0] == "budget"


@pytest.mark.parametrize("prefer", ["score", "cost"])
def test_which_calls_found_the_providers_prompt_cache_does_not_decide(tmp_path: Path, prefer: str) -> None:
    """That depends on who came first, and so does what was paid; what is chosen does not."""
    house = " ".join(f"Rule {row} of the house says to be calm about number {37 * row}." for row in range(120))
    seen, cached = [], set()
    for seed in (1, 2, 3):
        with Provider(World(seed)) as provider:
            text = task().replace("Sort each message.", f"Sort each message. {house}")
            project = project_in(tmp_path / f"{seed}", provider.base_url_openai, text=text)
            compiled = searched(project, prefer=prefer)
            record = recorded(compiled)
            cached.add(provider.records.usage().cached)
            seen.append((compiled.prompt.id, record.chosen_why, record.front, [one.scores for one in record.candidates]))
    assert seen[0] == seen[1] == seen[2]
    assert min(cached) > 0


def test_an_empty_wallet_leaves_it_unfinished(tmp_path: Path, invoke: Invoke) -> None:
    """Broken answers may have been counted: they take from the limit, and no result of chance is kept under the build key."""
    with Provider(World()) as provider:
        provider.faults.on(range(20, 60), Fault("close", at=2))
        project = project_in(tmp_path / "project", provider.base_url_openai)
        ended = invoke("compile", "sort", "-O3", "--max-calls", "60", project=project, code=5)
        assert "search ended: time: what was really spent is at its limit: the limit of 60 calls is reached" in ended.stderr
        assert "unfinished" in ended.stderr
        assert provider.records.statuses[200] == 60
        with open_store(project) as store:
            found = store.prompt(store.latest("sort") or "")
            assert found is not None
            assert found.provenance.search is not None
            assert found.provenance.search.reason == "time"
            assert store.built(found.provenance.build.key) is None
        invoke("compile", "sort", "-O3", "--max-calls", "60", project=project, code=5)
        assert len(provider.records) == 60, "the wallet of the first run is the second one's too"


# --- reasons ------------------------------------------------------------------------------------------------


class Failing(WorldModel):
    """A model whose provider is down after so many answers, or answers nothing in time."""

    left = 10**9
    seconds = 0.0

    async def reply(self, request: Request) -> Reply:
        if self.answered >= self.left:
            await asyncio.sleep(self.seconds)
            if not self.seconds:
                raise ProviderDown("nothing answers")
        return await super().reply(request)


class Knowing(WorldModel):
    """A production model that needs no rules."""

    async def reply(self, request: Request) -> Reply:
        reply = await super().reply(request)
        return Reply(text=right(request.turns[-1].text.split()[0]), model=self.name, usage=reply.usage, cost=reply.cost)


class Obedient(WorldModel):
    """A production model that follows every rule it is given."""

    async def reply(self, request: Request) -> Reply:
        reply = await super().reply(request)
        word = request.turns[-1].text.split()[0]
        stated = f"Messages about {word} are {right(word)}." in request.system
        return Reply(text=right(word), model=self.name, usage=reply.usage, cost=reply.cost) if stated else reply


def with_model(kind: type[WorldModel], **more: Any) -> dict[str, WorldModel]:
    made = kind(MODEL, PRODUCTION_PRICE)
    for name, value in more.items():
        setattr(made, name, value)
    return {MODEL: made, META: WorldModel(META, META_PRICE)}


@pytest.mark.parametrize("level", [2, 3])
def test_a_perfect_seed_stops_at_once(tmp_path: Path, level: int) -> None:
    """No meta-model is asked, and one baseline alone is scored on all cases."""
    given = with_model(Knowing)
    project = project_in(tmp_path / "project")
    compiled = searched(project, given, level=level)
    record = recorded(compiled)
    assert record.reason == "perfect"
    assert given[META].answered == 0
    assert asked(given) <= 2 * len(record.dev_cases)
    assert [one.origin.kind for one in record.candidates] == ["template", "description"]
    assert built(project, compiled)


@pytest.mark.parametrize(
    ("kind", "options", "words", "reason"),
    [
        (WorldModel, {"level": 2}, 12, "done"),
        (WorldModel, {"level": 3}, 12, "plateau"),
        (Obedient, {"level": 3}, 3, "perfect"),
        (WorldModel, {"level": 3, "max_calls": 60}, 12, "budget"),
        (WorldModel, {"level": 2, "max_calls": 30}, 12, "budget"),
    ],
)
def test_an_end_that_another_run_would_meet_again_is_kept(
    tmp_path: Path, kind: type[WorldModel], options: dict[str, Any], words: int, reason: str
) -> None:
    project = project_in(tmp_path / "project", text=task(words=words))
    given = with_model(kind)
    compiled = searched(project, given, **options)
    assert recorded(compiled).reason == reason
    assert not compiled.unfinished
    assert built(project, compiled)
    before = asked(given)
    again = searched(project, given, **options)
    assert (again.source, again.prompt.id) == ("cache", compiled.prompt.id)
    assert asked(given) == before


@pytest.mark.parametrize(
    ("share", "seconds", "options", "reason"),
    [(0.1, 0.0, {}, "provider"), (0.6, 0.0, {}, "provider"), (0.6, 60.0, {"max_seconds": 2.0}, "time")],
    ids=["provider early", "provider late", "time"],
)
def test_time_and_a_dead_provider_leave_the_best_so_far_and_the_next_run_pays_for_the_rest(
    tmp_path: Path, invoke: Invoke, share: float, seconds: float, options: dict[str, Any], reason: str
) -> None:
    whole = recorded(searched(project_in(tmp_path / "whole"), models()))
    project = project_in(tmp_path / "project")
    left = round(share * whole.spent.calls)
    given = with_model(Failing, left=left, seconds=seconds)
    compiled = searched(project, given, **options)
    record = recorded(compiled)
    assert record.reason == reason
    assert compiled.unfinished
    assert not built(project, compiled)
    assert left <= record.spent.calls < whole.spent.calls
    shown = invoke("show", "sort@latest", "--provenance", project=project)
    assert f"{reason}: {record.why}" in shown.stdout
    assert compiled.prompt.system in invoke("show", "sort@latest", project=project).stdout
    with Provider(World()) as provider:
        (project.root / "promptsmith.toml").write_text(project_in(tmp_path / "wired", provider.base_url_openai).file.read_text())
        assert invoke("run", "sort@latest", "amber 1 please look", project=project.root).stdout.strip() in LABELS
    (project.root / "promptsmith.toml").write_text((tmp_path / "whole" / "promptsmith.toml").read_text())
    fresh = models(3)
    finished = searched(project, fresh)
    assert recorded(finished).replayed == record.spent.calls
    assert asked(fresh) == whole.spent.calls - record.spent.calls
    assert (recorded(finished).chosen, recorded(finished).digest()) == (whole.chosen, whole.digest())
    assert built(project, finished)


def test_a_dead_provider_from_the_first_call_on_leaves_the_template(tmp_path: Path, invoke: Invoke) -> None:
    with Provider(World()) as provider:
        provider.faults.every(Fault("status", status=503, retry_after_ms="1"))
        project = project_in(tmp_path / "project", provider.base_url_openai)
        ended = invoke("compile", "sort", "-O3", "--yes", project=project, code=4)
        assert "search ended: provider" in ended.stderr
        assert "nothing could be scored: it is the -O0 prompt of the compile part" in ended.stderr
        provider.faults.clear()
        invoke("compile", "sort", "-O3", "--yes", project=project)


def test_what_fails_for_good_is_an_outcome_and_no_end(tmp_path: Path) -> None:
    class Picky(WorldModel):
        async def reply(self, request: Request) -> Reply:
            if number(request.turns[-1].text, 5) == 0:
                raise RequestRefused("no", status=400)
            return await super().reply(request)

    project = project_in(tmp_path / "project")
    given = with_model(Picky)
    record = recorded(searched(project, given, max_calls=100))
    assert record.spent.calls == 100 > asked(given)
    assert record.reason == "budget"


# --- prices -------------------------------------------------------------------------------------------------

JUDGED = "scorers: [{judge: {model: openai/nobody-knows, criteria: Is it right?}}]\n"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (task(), ["--model", "openai/nobody-knows"]),
        (task(), ["--meta-model", "openai/nobody-knows"]),
        (task(more=JUDGED), []),
    ],
    ids=["production", "meta", "judge"],
)
def test_an_unknown_price_with_a_limit_in_dollars_is_an_error_before_any_call(
    tmp_path: Path, invoke: Invoke, text: str, options: list[str]
) -> None:
    with Provider(World()) as provider:
        project = project_in(tmp_path / "project", provider.base_url_openai, text=text)
        ended = invoke("compile", "sort", "-O3", "--max-cost", "1", *options, project=project, code=2)
        assert "the price of openai/nobody-knows is not known" in ended.stderr
        assert len(provider.records) == 0
