"""Calls of a search: hard budgets whatever the order of arrival, resume from any point, every end that a search can have."""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptsmith.budget import Limits
from promptsmith.chat import Chunk, Reply, Request, Turn, Usage
from promptsmith.compiler.search.calls import Ask, CallFailed, Calls, complete
from promptsmith.compiler.search.values import SearchStopped, Spent
from promptsmith.config import Project, find_project
from promptsmith.errors import AuthenticationFailed, BudgetError, InputError, ProviderDown, RequestRefused, StoreError, UnknownName
from promptsmith.evals.scorers.protocol import Answer
from promptsmith.models.directory import Directory
from promptsmith.models.wallet import opened
from promptsmith.store import DiskStore, Journal
from promptsmith.store.folder import open_store
from promptsmith.store.maintain import verify

from .provider import Ask as Heard
from .provider import Fault, Provider

MODEL = "sim/small"
PRICES = f"[prices.'{MODEL}']\ninput = 100\noutput = 500\n"
KEY = "c" * 64


def request(text: str, *, model: str = MODEL, room: int = 64) -> Request:
    return Request(model=model, system="Answer.", turns=(Turn("user", text),), parameters={"max_tokens": room})


def number(text: str, most: int) -> int:
    """From 0 up to, but not, ``most``: the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % most


class Sim:
    """A model that answers each request always the same, in no certain time, and counts what it would charge for.

    What begins with ``bad`` is refused; what says ``plain`` stops at its length one time in three.
    """

    name = MODEL

    def __init__(self, pace: random.Random | None = None) -> None:
        self.pace = pace
        self.asked: list[str] = []
        self.under_way: set[str] = set()
        self.most = 0
        self.charged = Usage()
        self.usd = 0.0
        self.answered = 0
        self.on_answer: Callable[[], None] = lambda: None

    async def reply(self, request: Request) -> Reply:
        room = request.parameters["max_tokens"]
        assert isinstance(room, int)
        what = f"{request.turns[-1].text} {room}"
        self.asked.append(what)
        self.under_way.add(what)
        self.most = max(self.most, len(self.under_way))
        try:
            await self._take_time()
        finally:
            self.under_way.discard(what)
        if what.startswith("bad"):
            raise RequestRefused(f"no: {what}", status=400)
        usage = Usage(input=1 + number(what, request.size()), output=1 + number(what[::-1], room))
        reply = Reply(
            text=f"to {what}",
            model=self.name,
            stop="length" if room == 64 and "plain" in what and number(what, 3) == 0 else "end",
            usage=usage,
            cost=(usage.input * 100 + usage.output * 500) / 1e6,
        )
        self.charged += usage
        self.usd += reply.cost or 0.0
        self.answered += 1
        self.on_answer()
        return reply

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk("", await self.reply(request))

    async def _take_time(self) -> None:
        if self.pace is None:
            return
        if self.pace.random() < 0.2:
            await asyncio.sleep(self.pace.random() / 500)
        for _ in range(self.pace.randrange(30)):
            await asyncio.sleep(0)


@contextmanager
def workshop(config: str = PRICES) -> Iterator[tuple[Project, DiskStore]]:
    """A project of its own with its store."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "promptsmith.toml").write_text(config)
        project = find_project(folder)
        with open_store(project) as store:
            yield project, store


def made(project: Project, store: DiskStore, journal: Journal, model: Any, limits: Limits, concurrency: int = 16) -> Calls:
    return Calls(Directory(project, {MODEL: model}), store, journal, limits, task="t", concurrency=concurrency)


Work = Callable[[Ask], Awaitable[Any]]


def jobs_of(calls: Calls, seed: int, pace: random.Random, count: int = 12) -> list[Work]:
    """Jobs of every kind that a search has; what they ask and come to depends on ``seed`` and replies, not on ``pace``."""

    async def plain(ask: Ask, name: str) -> Any:
        return [reply.text for reply in await complete(ask, request(f"{name} plain"))]

    async def chain(ask: Ask, name: str) -> Any:
        said = ""
        for _ in range(3):
            said = (await ask(request(f"{name} after {hashlib.sha256(said.encode()).hexdigest()[:6]}"))).text
        return said

    async def threads(ask: Ask, name: str) -> Any:
        import time

        first = await ask(request(f"{name} answer"))
        await asyncio.to_thread(time.sleep, pace.random() / 500)
        return first.text, (await calls.judge(request(f"{name} judge of {first.text}"))).text

    async def panel(ask: Ask, name: str) -> Any:
        first = await ask(request(f"{name} answer"))
        found = await asyncio.gather(*(calls.judge(request(f"{name} judge {n}")) for n in range(3)), return_exceptions=True)
        return first.text, [one.text if isinstance(one, Reply) else type(one).__name__ for one in found]

    async def shared(ask: Ask, name: str) -> Any:
        return (await ask(request("what all ask"))).text, (await ask(request(f"{name} alone"))).text

    async def bad(ask: Ask, name: str) -> Any:
        try:
            await ask(request(f"bad {name}"))
        except CallFailed as error:
            return error.message, (await ask(request(f"{name} after bad"))).text

    async def stubborn(ask: Ask, name: str) -> Any:
        try:
            return (await ask(request(f"{name} {'long ' * 40}"))).text
        except BudgetError:
            return (await ask(request("s"))).text

    kinds = (plain, chain, threads, panel, shared, bad, stubborn)

    def job(n: int) -> Work:
        kind = kinds[number(f"{seed} {n}", len(kinds))]
        return lambda ask: kind(ask, f"{seed}-{n}")

    return [job(n) for n in range(count)]


async def searched(calls: Calls, seed: int, pace: random.Random) -> list[Any]:
    """Two batches, the second over what the first came to."""
    first = await calls.batch(jobs_of(calls, seed, pace), stage="one")
    second = await calls.batch(jobs_of(calls, seed + 1 + sum(one is not None for one in first), pace, 8), stage="two")
    return [first, second]


def run(calls: Calls, seed: int, pace: int = 0) -> list[Any]:
    async def main() -> list[Any]:
        result = await searched(calls, seed, random.Random(pace))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return asyncio.run(main())


def within(spent: Spent, limits: Limits) -> bool:
    assert spent.usd is not None
    return (
        (limits.calls is None or spent.calls <= limits.calls)
        and (limits.tokens is None or spent.tokens <= limits.tokens)
        and (limits.usd is None or spent.usd <= limits.usd + 1e-12)
    )


LIMITS = st.one_of(
    st.builds(Limits, calls=st.integers(0, 60)),
    st.builds(Limits, tokens=st.integers(0, 8000)),
    st.builds(Limits, usd=st.floats(0, 1.5)),
    st.builds(Limits, calls=st.integers(10, 60), tokens=st.integers(1000, 8000), usd=st.floats(0.1, 1.5)),
    st.just(Limits()),
)
quick = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])


# --- the same whatever comes first --------------------------------------------------------------------------


@quick
@given(limits=LIMITS, seed=st.integers(0, 10**6), paces=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)))
def test_results_and_cost_do_not_depend_on_who_is_faster_and_stay_within_the_limits(
    limits: Limits, seed: int, paces: tuple[int, int]
) -> None:
    seen = []
    for pace, concurrency in zip((*paces, 0), (16, 5, 1), strict=True):
        with workshop() as (project, store), store.journal("compile", KEY) as journal:
            model = Sim(random.Random(pace))
            calls = made(project, store, journal, model, limits, concurrency)
            result = run(calls, seed, pace)
            assert model.most <= concurrency
            assert within(calls.spent, limits)
            assert within(Spent(calls=model.answered, tokens=model.charged.input + model.charged.output, usd=model.usd), limits)
            refused = None if calls.refused is None else str(calls.refused)
            seen.append((result, calls.spent, calls.stages, refused, sorted(model.asked)))
    assert seen[0] == seen[1] == seen[2]
    assert max(Counter(seen[0][-1]).values(), default=0) <= 1
    assert sum((spent.calls for spent in seen[0][2].values()), 0) == seen[0][1].calls


@quick
@given(limits=LIMITS, seed=st.integers(0, 10**6), cut=st.floats(0, 1), pace=st.integers(0, 10**6))
def test_from_any_beginning_of_its_journal_a_search_comes_to_the_same_and_pays_for_the_rest_only(
    limits: Limits, seed: int, cut: float, pace: int
) -> None:
    """What kill -9 leaves is a beginning of the journal; here the reply cache is lost with it."""
    with workshop() as (project, store), store.journal("compile", KEY) as journal:
        whole = made(project, store, journal, Sim(random.Random(pace)), limits)
        result = run(whole, seed, pace)
        written = Path(journal.path).read_bytes()
        known = dict(journal.entries)
    left = written[: round(cut * len(written))]
    with workshop() as (project, store):
        with store.journal("compile", KEY) as journal:
            Path(journal.path).write_bytes(left)
        with store.journal("compile", KEY) as journal:
            kept = set(journal.entries)
            model = Sim(random.Random(pace + 1))
            again = made(project, store, journal, model, limits)
            assert run(again, seed, pace + 1) == result
            assert (again.spent, again.stages) == (whole.spent, whole.stages)
            assert again.replayed == len(kept)
            assert len(model.asked) == len(known) - len(kept)
            assert journal.entries.keys() == known.keys()
            assert again.repeated == left.count(b'"row":"sent"') - _rows_without_an_answer(left, kept)


def _rows_without_an_answer(left: bytes, kept: set[str]) -> int:
    """Sent rows whose calls were answered, and the one that was cut off itself."""
    sent = [line for line in left.split(b"\n") if line.startswith(b'{"row":"sent"')]
    return sum(not line.endswith(b"}") or any(key.encode() in line for key in kept) for line in sent)


@quick
@given(seed=st.integers(0, 10**6), points=st.lists(st.integers(0, 40), min_size=1, max_size=3), budget=st.booleans())
def test_after_cancels_nothing_is_asked_twice_but_what_was_under_way(seed: int, points: list[int], budget: bool) -> None:
    limits = Limits(calls=1000) if budget else Limits()
    with workshop() as (project, store), store.journal("compile", KEY) as journal:
        result = run(made(project, store, journal, Sim(), limits), seed)
        needed = len(journal.entries)
    with workshop() as (project, store):
        asked = 0
        for point in points:
            model = Sim(random.Random(seed))
            with store.journal("compile", KEY) as journal:
                _cancel(made(project, store, journal, model, limits), seed, model, point)
            asked += len(model.asked)
        with store.journal("compile", KEY) as journal:
            model = Sim()
            calls = made(project, store, journal, model, limits)
            assert run(calls, seed) == result
        assert asked + len(model.asked) == needed + calls.repeated
        assert calls.repeated <= 16 * len(points)


def _cancel(calls: Calls, seed: int, model: Sim, point: int) -> None:
    """Runs until so many calls were answered."""

    async def main() -> None:
        task = asyncio.create_task(searched(calls, seed, random.Random(seed)))
        model.on_answer = lambda: task.cancel() if model.answered > point else None
        await asyncio.wait([task])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert task.cancelled() or task.exception() is None

    asyncio.run(main())


# --- budgets ------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "promptsmith.toml").write_text(PRICES)
    return find_project(tmp_path)


@pytest.fixture
def store(project: Project) -> Iterator[DiskStore]:
    with open_store(project) as opened_store:
        yield opened_store


@pytest.fixture
def journal(store: DiskStore) -> Iterator[Journal]:
    with store.journal("compile", KEY) as opened_journal:
        yield opened_journal


def one(text: str) -> Work:
    return lambda ask: ask(request(text))


def texts(replies: Sequence[Any]) -> list[str | None]:
    return [reply and reply.text for reply in replies]


@pytest.mark.parametrize(("calls", "expected"), [(0, [None, None]), (1, ["to a 64", None]), (2, ["to a 64", "to b 64"])])
def test_budgets_of_no_call_and_of_one(
    project: Project, store: DiskStore, journal: Journal, calls: int, expected: list[str | None]
) -> None:
    model = Sim()
    asking = made(project, store, journal, model, Limits(calls=calls))
    assert texts(asyncio.run(asking.batch([one("a"), one("b")], stage="s"))) == expected
    assert len(model.asked) == asking.spent.calls == calls
    assert (asking.refused is None) == (calls == 2)


def test_within_a_budget_calls_go_in_waves_by_place_of_the_job(project: Project, store: DiskStore, journal: Journal, toy: Any) -> None:
    """The second call of the first job comes before the first call of the last one that did not fit."""
    model = toy(say=lambda asked: Reply(text="x", model=MODEL, usage=Usage(5, 5)), name=MODEL)

    def twice(name: str) -> Work:
        async def job(ask: Ask) -> None:
            await ask(request(f"{name}1"))
            await ask(request(f"{name}2"))

        return job

    # A call is reserved at 73 tokens (7 + 2 bytes in, 64 out): two fit, and what they leave of that is used.
    asking = made(project, store, journal, model, Limits(tokens=150))
    asyncio.run(asking.batch([twice(name) for name in "kml"], stage="s"))
    assert [asked.turns[-1].text for asked in model.asked] == ["k1", "m1", "k2", "m2", "l1", "l2"]
    assert asking.spent.tokens == 60


def test_what_a_job_asks_at_once_goes_in_one_wave_however_deep_it_is_nested(project: Project, store: DiskStore, journal: Journal) -> None:
    async def deep(ask: Ask, depth: int) -> None:
        if depth:
            await asyncio.gather(deep(ask, depth - 1))
        else:
            await ask(request("deep"))

    async def both(ask: Ask) -> None:
        await asyncio.gather(ask(request("flat")), deep(ask, 5))

    model = Sim()
    asking = made(project, store, journal, model, Limits(calls=9))
    asyncio.run(asking.batch([both, one("next")], stage="s"))
    assert model.asked == ["flat 64", "deep 64", "next 64"]


def test_without_limits_nobody_waits_for_others(project: Project, store: DiskStore, journal: Journal) -> None:
    later = asyncio.Event()

    class Waiting(Sim):
        async def reply(self, request: Request) -> Reply:
            text = request.turns[-1].text
            if text == "slow":
                await later.wait()
            if text == "second":
                later.set()
            return await super().reply(request)

    async def quick_job(ask: Ask) -> str:
        await ask(request("first"))
        return (await ask(request("second"))).text

    calls = made(project, store, journal, Waiting(), Limits())
    assert len(asyncio.run(calls.batch([one("slow"), quick_job], stage="s"))) == 2
    assert calls.spent.calls == 3


def test_a_price_that_nobody_knows_is_an_error_before_anything_is_sent(store: DiskStore, journal: Journal, project: Project) -> None:
    model = Sim()
    directory = Directory(project, {MODEL: model, "sim/other": model})
    calls = Calls(directory, store, journal, Limits(usd=1.0), task="t")
    for trial in (lambda: calls.check([MODEL, "sim/other"]), lambda: asyncio.run(calls.batch([one("a"), other], stage="s"))):
        with pytest.raises(InputError, match="price of sim/other is not known"):
            trial()
    assert model.asked == []
    calls.check([MODEL])
    Calls(directory, store, journal, Limits(calls=1), task="t").check([MODEL, "sim/other"])
    with pytest.raises(UnknownName):
        calls.check(["sim/missing"])


async def other(ask: Ask) -> Reply:
    return await ask(request("b", model="sim/other"))


def test_a_cost_that_is_not_known_makes_the_sum_unknown(project: Project, store: DiskStore, journal: Journal, toy: Any) -> None:
    model = toy(say=lambda asked: Reply(text="x", model=MODEL, usage=Usage(3, 4)), name=MODEL)
    calls = made(project, store, journal, model, Limits(calls=9))
    asyncio.run(calls.batch([one("a"), one("b")], stage="s"))
    assert calls.spent == Spent(calls=2, tokens=14, usd=None)


# --- where replies come from --------------------------------------------------------------------------------


def test_equal_requests_of_all_jobs_are_one_call_with_one_cost_and_one_ledger_row(
    project: Project, store: DiskStore, journal: Journal
) -> None:
    model = Sim()
    calls = made(project, store, journal, model, Limits(calls=2))
    for _ in range(2):
        assert texts(asyncio.run(calls.batch([one("same")] * 5, stage="race"))) == ["to same 64"] * 5
    asyncio.run(calls.batch([one("new")], stage="final"))
    assert len(model.asked) == calls.spent.calls == 2
    assert {name: spent.calls for name, spent in calls.stages.items()} == {"race": 1, "final": 1}
    assert [(row.task, row.stage, row.source, row.status) for row in store.ledger.rows()] == [
        ("t", "compile", "model", "end"),
        ("t", "compile", "model", "end"),
    ]


def test_what_the_cache_holds_counts_at_its_recorded_cost_and_is_journaled_but_not_paid_again(project: Project, store: DiskStore) -> None:
    with store.journal("compile", "d" * 64) as other_journal:
        first = made(project, store, other_journal, Sim(), Limits())
        asyncio.run(first.batch([one("a"), one("b")], stage="s"))
    for _ in range(2):  # from the cache, then from the journal
        with store.journal("compile", KEY) as journal:
            model = Sim()
            calls = made(project, store, journal, model, Limits(calls=2))
            asyncio.run(calls.batch([one("a"), one("b"), one("c")], stage="s"))
            assert model.asked == []
            assert calls.spent == first.spent
            assert [outcome.found for outcome in journal.entries.values()] == [True, True]
            assert opened(Limits(calls=2), journal).calls == 0
            store.put_reply("nothing", Reply(text="", model=MODEL))
    assert calls.replayed == 2
    with store.journal("compile", "d" * 64) as other_journal:
        assert opened(Limits(calls=2), other_journal).calls == 2


def test_a_reply_that_stops_at_its_length_is_asked_for_again_and_both_count(project: Project, store: DiskStore, journal: Journal) -> None:
    text = next(f"plain {n}" for n in range(100) if number(f"plain {n} 64", 3) == 0)
    calls = made(project, store, journal, Sim(), Limits(calls=9))
    [replies] = asyncio.run(calls.batch([lambda ask: complete(ask, request(text))], stage="s"))
    assert replies is not None
    assert [reply.stop for reply in replies] == ["length", "end"]
    assert calls.spent.calls == len(journal.entries) == 2


def test_refused_and_truncated_replies_are_outcomes_that_are_replayed(project: Project, store: DiskStore, toy: Any) -> None:
    model = toy(say=lambda asked: Reply(text="no", model=MODEL, stop=asked.turns[-1].text, cost=0.5), name=MODEL)
    for _ in range(2):
        with store.journal("compile", KEY) as journal:
            calls = made(project, store, journal, model, Limits())
            found = asyncio.run(calls.batch([one(stop) for stop in ("refused", "length", "filtered")], stage="s"))
            assert [reply and reply.stop for reply in found] == ["refused", "length", "filtered"]
            assert calls.spent.usd == 1.5
    assert len(model.asked) == calls.replayed == 3


@pytest.mark.parametrize("counted", [False, True])
def test_a_call_that_fails_for_good_fails_again_in_the_same_words_without_being_sent(
    project: Project, store: DiskStore, toy: Any, counted: bool
) -> None:
    """One that may have been counted takes its whole reservation, in the first run and in the next."""
    model = toy(say=[RequestRefused("no room for sk-proj-abcdefghijklmnopqrstuvwxyz", status=400, counted=counted)], name=MODEL)
    seen = []
    for _ in range(2):
        with store.journal("compile", KEY) as journal:
            calls = made(project, store, journal, model, Limits(tokens=1000))

            async def job(ask: Ask) -> str:
                with pytest.raises(CallFailed) as failed:
                    await ask(request("a"))
                return str(failed.value)

            seen.append((asyncio.run(calls.batch([job], stage="s")), calls.spent, calls.budget.tokens, calls.budget.calls))
            assert "abcdefghijklmnop" not in Path(journal.path).read_text()
    assert seen[0] == seen[1]
    assert seen[0][2:] == (len(b"Answer.a") + 64 if counted else 0, 1)
    assert len(model.asked) == 1
    cost = seen[0][1].usd
    assert cost == (pytest.approx((8 * 100 + 64 * 500) / 1e6) if counted else 0.0)


def test_judges_ask_as_part_of_the_job_that_grades(project: Project, store: DiskStore, journal: Journal) -> None:
    from promptsmith.evals.scorers.judge import Judge

    marks = '{"reason": "fine", "score": "pass"}'

    class Marking(Sim):
        async def reply(self, request: Request) -> Reply:
            reply = await super().reply(request)
            return Reply(text=marks, model=MODEL, usage=reply.usage, cost=reply.cost) if request.schema else reply

    calls = made(project, store, journal, Marking(), Limits(calls=3))
    judge = Judge([MODEL], "Is it right?", calls.judge, same_model=True)

    async def job(ask: Ask, name: str) -> float:
        reply = await ask(request(name))
        answer = Answer(case=name, inputs={"input": name}, expected="x", output=reply.text, model=MODEL)
        return (await judge.grade(answer)).score

    found = asyncio.run(calls.batch([lambda ask: job(ask, "a")], stage="race"))
    assert found == [1.0]
    assert calls.stages["race"].calls == 2


def test_a_journal_with_marks_of_calls_is_sound_and_one_without_them_is_read(project: Project, store: DiskStore) -> None:
    with store.journal("compile", KEY) as journal:
        asyncio.run(made(project, store, journal, Sim(), Limits()).batch([one("a"), one("b")], stage="s"))
        written = Path(journal.path).read_text()
    assert verify(store.folder) == []
    Path(journal.path).write_text("".join(row for row in written.splitlines(keepends=True) if '"row":"sent"' not in row))
    with store.journal("compile", KEY) as journal:
        assert (len(journal.entries), journal.cut_off, journal.damaged) == (2, 0, 0)
        journal.sent("k")
        journal.restart()
    with store.journal("compile", KEY) as journal:
        assert (journal.entries, journal.cut_off) == ({}, 0)


# --- ends ---------------------------------------------------------------------------------------------------


def down(asked: Request) -> Exception:
    return ProviderDown(f"no answer to {asked.turns[-1].text}")


@pytest.mark.parametrize("limits", [Limits(), Limits(calls=100)])
def test_a_dead_provider_stops_the_search_with_what_it_said_and_keeps_what_was_paid(
    project: Project, store: DiskStore, toy: Any, limits: Limits
) -> None:
    class Dying(Sim):
        async def reply(self, request: Request) -> Reply:
            if self.answered >= 3:
                raise down(request)
            return await super().reply(request)

    jobs = [one(f"q{n}") for n in range(200)]
    dying = Dying()
    with store.journal("compile", KEY) as journal:
        calls = made(project, store, journal, dying, limits)
        with pytest.raises(SearchStopped, match="no answer to q") as stopped:
            asyncio.run(calls.batch(jobs, stage="s"))
        assert stopped.value.reason == "provider"
        assert calls.spent.calls == len(journal.entries) == 3
        assert calls.repeated == 0
    with store.journal("compile", KEY) as journal:
        back = Sim()
        calls = made(project, store, journal, back, limits)
        assert calls.repeated == 0, "those that failed were not cut off"
        if not limits.calls:
            assert None not in asyncio.run(calls.batch(jobs, stage="s"))
            assert len(back.asked) == 197


def test_a_call_that_failed_is_asked_again_as_long_as_others_get_through(project: Project, store: DiskStore, journal: Journal) -> None:
    class Moody(Sim):
        failures = 0

        async def reply(self, request: Request) -> Reply:
            if request.turns[-1].text == "b" and self.failures < 1:
                self.failures += 1
                raise down(request)
            return await super().reply(request)

    calls = made(project, store, journal, Moody(), Limits(calls=9))
    assert texts(asyncio.run(calls.batch([one("a"), one("b")], stage="s"))) == ["to a 64", "to b 64"]
    assert calls.spent.calls == 2
    assert [row.status for row in store.ledger.rows()] == ["end", "ProviderDown", "end"]


def test_the_wallet_counts_failed_attempts_and_leaves_the_search_unfinished(project: Project, store: DiskStore) -> None:
    class Moody(Sim):
        failures = 0

        async def reply(self, request: Request) -> Reply:
            if request.turns[-1].text == "a" and self.failures < 1:
                self.failures += 1
                await asyncio.sleep(0.001)
                raise down(request)
            return await super().reply(request)

    limits = Limits(calls=2)
    with store.journal("compile", KEY) as journal:
        model = Moody()
        calls = made(project, store, journal, model, limits)
        with pytest.raises(SearchStopped, match=r"what was really spent is at its limit: the limit of 2 calls") as stopped:
            asyncio.run(calls.batch([one("a"), one("b")], stage="s"))
        assert stopped.value.reason == "time"
        assert calls.spent.calls == 1
        assert (model.answered, model.failures) == (1, 1)
        assert opened(limits, journal).calls == 2
    with store.journal("compile", KEY) as journal:
        calls = made(project, store, journal, model, Limits(calls=3))
        assert texts(asyncio.run(calls.batch([one("a"), one("b")], stage="s"))) == ["to a 64", "to b 64"]
        assert (calls.replayed, calls.repeated, calls.spent.calls) == (1, 0, 2)


@pytest.mark.parametrize("error", [AuthenticationFailed("bad key", status=401), RequestRefused("no such model", status=404)])
def test_what_would_stop_every_call_is_raised_at_once_and_no_outcome(
    project: Project, store: DiskStore, journal: Journal, toy: Any, error: Exception
) -> None:
    class Refusing(Sim):
        async def reply(self, request: Request) -> Reply:
            if request.turns[-1].text == "a":
                raise error
            await asyncio.sleep(60)
            raise AssertionError

    async def main() -> None:
        with pytest.raises(type(error)) as raised:
            await calls.batch([one("b"), one("a")], stage="s")
        assert raised.value is error
        assert asyncio.all_tasks() == {asyncio.current_task()}

    calls = made(project, store, journal, Refusing(), Limits(calls=5))
    asyncio.run(main())
    assert journal.entries == {}


def test_a_missing_key_is_named_unless_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with workshop() as (project, store), store.journal("compile", KEY) as journal:
        calls = Calls(Directory(project), store, journal, Limits(calls=5), task="t")
        with pytest.raises(AuthenticationFailed, match="OPENAI_API_KEY"):
            asyncio.run(calls.batch([lambda ask: ask(request("a", model="openai/gpt-6-luna"))], stage="s"))
        kept = request("a", model="openai/gpt-6-luna")
        store.put_reply(kept.key(), Reply(text="kept", model=kept.model, usage=Usage(1, 1), cost=0.1))
        calls = Calls(Directory(project), store, journal, Limits(calls=5), task="t")
        assert texts(asyncio.run(calls.batch([lambda ask: ask(kept)], stage="s"))) == ["kept"]


def test_when_the_time_is_up_calls_under_way_are_cut_and_settled_at_their_worst(project: Project, store: DiskStore, toy: Any) -> None:
    class Slow(Sim):
        async def reply(self, request: Request) -> Reply:
            if request.turns[-1].text == "slow":
                await asyncio.sleep(60)
            return await super().reply(request)

    limits = Limits(seconds=0.3, calls=9)
    with store.journal("compile", KEY) as journal:
        calls = made(project, store, journal, Slow(), limits)

        async def main() -> None:
            with pytest.raises(SearchStopped, match=r"the time limit of 0\.3 seconds is reached") as stopped:
                await calls.batch([one("slow"), one("a")], stage="s")
            assert stopped.value.reason == "time"
            assert asyncio.all_tasks() == {asyncio.current_task()}
            with pytest.raises(SearchStopped):
                await calls.batch([one("never")], stage="s")
            with pytest.raises(SearchStopped):
                async with calls.deadline():
                    raise AssertionError

        asyncio.run(main())
        assert (calls.spent.calls, len(journal.entries)) == (1, 1)
        assert [lost.tokens for lost in journal.lost] == [len(b"Answer.slow") + 64]
        assert opened(limits, journal).calls == 2
    with store.journal("compile", KEY) as journal:
        assert made(project, store, journal, Sim(), limits).repeated == 1


def test_no_time_at_all_sends_nothing(project: Project, store: DiskStore, journal: Journal) -> None:
    model = Sim()
    calls = made(project, store, journal, model, Limits(seconds=0))
    with pytest.raises(SearchStopped):
        asyncio.run(calls.batch([one("a")], stage="s"))
    assert model.asked == []


def test_other_work_can_be_kept_within_the_time(project: Project, store: DiskStore, journal: Journal) -> None:
    async def main() -> None:
        calls = made(project, store, journal, Sim(), Limits(seconds=0.05))
        with pytest.raises(SearchStopped):
            async with calls.deadline():
                await asyncio.sleep(60)
        with pytest.raises(TimeoutError):
            async with made(project, store, journal, Sim(), Limits(seconds=60)).deadline():
                raise TimeoutError

    asyncio.run(main())


def test_what_a_job_raises_ends_the_batch_as_it_is(project: Project, store: DiskStore, journal: Journal) -> None:
    async def broken(ask: Ask) -> None:
        await ask(request("a"))
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await calls.batch([one("b"), broken], stage="s")
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert texts(await calls.batch([one("b")], stage="s")) == ["to b 64"]

    calls = made(project, store, journal, Sim(), Limits(calls=5))
    asyncio.run(main())


def test_a_failed_call_that_no_job_expects_ends_the_batch(project: Project, store: DiskStore, journal: Journal) -> None:
    calls = made(project, store, journal, Sim(), Limits())
    with pytest.raises(CallFailed, match="no: bad idea"):
        asyncio.run(calls.batch([one("bad idea")], stage="s"))


@pytest.mark.parametrize("limits", [Limits(), Limits(calls=5)])
def test_a_job_may_give_up_a_call(project: Project, store: DiskStore, journal: Journal, limits: Limits) -> None:
    """What is under way by then is paid for and counts."""

    class Slow(Sim):
        async def reply(self, request: Request) -> Reply:
            await asyncio.sleep(0.02)
            return await super().reply(request)

    async def impatient(ask: Ask) -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await ask(request("a"))
        return (await ask(request("b"))).text

    calls = made(project, store, journal, Slow(), limits)
    assert asyncio.run(calls.batch([impatient], stage="s")) == ["to b 64"]
    assert calls.spent.calls == 2


def test_one_batch_at_a_time_and_none_without_jobs(project: Project, store: DiskStore, journal: Journal) -> None:
    calls = made(project, store, journal, Sim(), Limits(calls=5))
    assert asyncio.run(calls.batch([], stage="s")) == []

    async def nested(ask: Ask) -> None:
        await calls.batch([one("a")], stage="s")

    with pytest.raises(RuntimeError, match="one batch"):
        asyncio.run(calls.batch([nested], stage="s"))


def test_a_disk_that_takes_no_row_ends_the_search(project: Project, store: DiskStore, journal: Journal) -> None:
    calls = made(project, store, journal, Sim(), Limits(calls=5))
    shutil.rmtree(Path(journal.path).parent)
    with pytest.raises(StoreError):
        asyncio.run(calls.batch([one("a")], stage="s"))
    assert calls.spent.calls == 0


# --- over a real wire ---------------------------------------------------------------------------------------

WIRE = "openai/gpt-6-luna"


def wired(provider: Provider) -> str:
    address = f'base_url = "{provider.base_url_openai}"\napi_key_env = "OPENAI_API_KEY"\n'
    return f'[endpoints.openai]\nprotocol = "openai"\nforeign = false\n{address}'


def asks(count: int) -> list[Work]:
    return [lambda ask, n=n: ask(request(f"number {n}", model=WIRE)) for n in range(count)]  # type: ignore[misc]


def said(ask: Heard) -> str:
    return f"to {ask.text}"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    from .provider import KEY as RIGHT

    monkeypatch.setenv("OPENAI_API_KEY", RIGHT)


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("seed", range(3))
def test_over_a_wire_with_faults_no_limit_is_passed_and_results_are_the_same(seed: int) -> None:
    """A fifth of the attempts fail: turned away, down, broken off. What is used stays within the limits, to the token."""
    limits = Limits(calls=30, tokens=1800, usd=0.01)
    seen = []
    for faults in (False, True):
        with Provider(said) as provider, workshop(wired(provider)) as (project, store), store.journal("compile", KEY) as journal:
            for status in (429, 500, 503) if faults else ():
                provider.faults.chance(0.07, Fault("status", status=status, retry_after_ms="1"), seed=seed)
            calls = Calls(Directory(project, patient=True), store, journal, limits, task="t", concurrency=16)
            found = asyncio.run(calls.batch(asks(40), stage="s"))
            assert within(calls.spent, limits)
            counted = provider.records.usage()
            assert provider.records.statuses[200] == calls.spent.calls
            assert counted.input + counted.output == calls.spent.tokens
            assert faults == (len(provider.records) > calls.spent.calls)
            seen.append((texts(found), calls.spent))
    assert seen[0] == seen[1]
    assert 0 < sum(text is None for text in seen[0][0]) < 40


@pytest.mark.usefixtures("key")
def test_over_a_wire_a_dead_provider_a_refusal_and_a_wrong_key_are_told_apart() -> None:
    with Provider(said) as provider, workshop(wired(provider)) as (project, store):
        with store.journal("compile", KEY) as journal:
            provider.faults.on(1, Fault("status", status=400))
            provider.faults.every(Fault("status", status=503, retry_after_ms="1"))
            calls = Calls(Directory(project, patient=True), store, journal, Limits(calls=100), task="t")

            async def caught(ask: Ask) -> str:
                with pytest.raises(CallFailed):
                    await ask(request("refused", model=WIRE))
                return "refused"

            assert asyncio.run(calls.batch([caught], stage="s")) == ["refused"]
            with pytest.raises(SearchStopped) as stopped:
                asyncio.run(calls.batch(asks(8), stage="s"))
            assert stopped.value.reason == "provider"
            assert "attempts" in str(stopped.value)
        provider.faults.clear()
        before = len(provider.records)
        with store.journal("compile", KEY) as journal:
            calls = Calls(Directory(project, patient=True), store, journal, Limits(calls=100), task="t")
            assert asyncio.run(calls.batch([caught], stage="s")) == ["refused"]
            assert len(provider.records) == before
            assert None not in asyncio.run(calls.batch(asks(8), stage="s"))
        provider.faults.every(Fault("status", status=401))
        with store.journal("compile", KEY) as journal:
            calls = Calls(Directory(project, patient=True), store, journal, Limits(calls=100), task="t")
            with pytest.raises(AuthenticationFailed):
                asyncio.run(calls.batch(asks(9), stage="s"))
