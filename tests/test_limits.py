"""``models/limits.py``: places, rates, and how many calls at a time are found out. Long stories run in time that jumps."""

from __future__ import annotations

import asyncio
import math
import os
import random
import selectors
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.chat import Chunk, Reply, Request, Turn, Usage
from promptsmith.config import Limit
from promptsmith.errors import ModelError, ProviderDown, RateLimited, SourceError
from promptsmith.models.limits import Bucket, Gate, Limited, Window, gate_for
from promptsmith.models.nearest import Nearest
from promptsmith.models.retry import Retried, Retry

REQUEST = Request(model="toy/small", system="", turns=(Turn("user", "x"),))
ROOT = Path(__file__).parent.parent


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop in which nobody waits: when nothing can run, the time jumps to the next timer."""

    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.time


class _Jumps(selectors.DefaultSelector):
    time = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout is None:
            raise AssertionError("everybody waits for somebody else")
        if not found and timeout:
            self.time += timeout
        return found


def story(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Runs ``main`` in time that jumps."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


class LoopClock:
    """The jumping time for retries."""

    now = staticmethod(now)
    sleep = staticmethod(asyncio.sleep)

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed).random


class Provider:
    """Bears ``bears`` calls at a time, and ``per_window`` in each ``window`` seconds; what is more it refuses."""

    name = "toy/small"

    def __init__(
        self, *, bears: float = float("inf"), per_window: float = float("inf"), window: float = 60.0, latency: float = 0.05
    ) -> None:
        self.bears, self.per_window, self.window, self.latency = bears, per_window, window, latency
        self.retry_after: float | None = None
        self.usage = Usage(10, 10)
        self.under_way = self.most = self.refused = 0
        self.begun: list[float] = []
        self.seen: list[tuple[float, int]] = []
        self._used: dict[int, int] = {}
        self._dice = random.Random(7)

    async def reply(self, request: Request) -> Reply:
        self.begun.append(now())
        window = int(now() // self.window)
        if self.under_way >= self.bears or self._used.get(window, 0) >= self.per_window:
            self.refused += 1
            wait = self.retry_after if self._used.get(window, 0) < self.per_window else (window + 1) * self.window - now()
            await asyncio.sleep(0.003)
            raise RateLimited("fewer", retry_after=wait)
        self._used[window] = self._used.get(window, 0) + 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.latency * self._dice.uniform(0.7, 1.3))
        finally:
            self.under_way -= 1
            self.seen.append((now(), self.under_way))
        return Reply(text="yes", model=self.name, usage=self.usage)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        reply = await self.reply(request)
        for letter in reply.text:
            yield Chunk(letter)
        yield Chunk("", reply)


async def busy(provider: Provider, limit: Limit, seconds: float, users: int = 64) -> tuple[int, int]:
    """``users`` who ask again and again for so long: how many answers, how many failures."""
    gate = Gate(limit, now=now)
    model = Retried(Limited(provider, limit, gate), Retry(), clock=LoopClock())
    until = now() + seconds
    outcome = [0, 0]

    async def user() -> None:
        while now() < until:
            try:
                await model.reply(REQUEST)
                outcome[0] += 1
            except RateLimited:
                outcome[1] += 1

    await asyncio.gather(*(user() for _ in range(users)))
    return outcome[0], outcome[1]


# --- how many at a time -------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_after", [None, 0.05, 1.0])
def test_a_provider_that_bears_twenty_gets_about_twenty_and_few_to_refuse(retry_after: float | None) -> None:
    """The issue's figure: 15 to 25 under way within ten seconds, at most 5 % refused, and nobody's call lost."""
    provider = Provider(bears=20)
    provider.retry_after = retry_after

    async def main() -> tuple[int, int]:
        return await busy(provider, Limit(timeout=1e6), 10.0)

    answers, failures = story(main)
    began = provider.begun[0]
    # Seen at the end of a call, so one less than while it was there.
    later = [under_way + 1 for at, under_way in provider.seen if began + 2 < at < began + 10]
    assert 15 <= min(later) <= max(later) <= 25
    assert provider.refused <= 0.05 * len(provider.begun)
    assert failures == 0
    assert answers > 0.9 * 20 * 10 / 0.05


def test_a_provider_that_bears_more_than_is_configured_is_not_held_back() -> None:
    provider = Provider()

    async def main() -> None:
        await busy(provider, Limit(concurrency=30, timeout=1e6), 2.0)

    story(main)
    assert (provider.most, provider.refused) == (30, 0)


def test_a_provider_that_comes_to_bear_more_is_given_more() -> None:
    provider = Provider(bears=5)

    async def main() -> None:
        async def grows() -> None:
            await asyncio.sleep(10)
            provider.bears = 40

        await asyncio.gather(busy(provider, Limit(timeout=1e6), 60.0), grows())

    story(main)
    assert 36 <= max(under_way + 1 for at, under_way in provider.seen[-400:-64]) <= 41


def test_a_provider_that_comes_to_bear_less_is_given_less() -> None:
    provider = Provider(bears=40)

    async def main() -> None:
        async def shrinks() -> None:
            await asyncio.sleep(10)
            provider.bears = 8

        await asyncio.gather(busy(provider, Limit(timeout=1e6), 20.0), shrinks())

    story(main)
    began = provider.begun[0]
    late = [at for at in provider.begun if at > began + 12]
    assert max(under_way + 1 for at, under_way in provider.seen if began + 12 < at) <= 9
    assert len(late) > 0.8 * 8 * 8 / 0.05, "and it is kept busy"


def test_a_provider_with_a_limit_per_minute_is_waited_for_by_all_together() -> None:
    """No number of calls at a time is right here: what it says about when to come again is kept by everybody."""
    provider = Provider(per_window=500)

    async def main() -> tuple[int, int]:
        return await busy(provider, Limit(timeout=1e6), 180.0)

    answers, failures = story(main)
    assert answers >= 1500
    assert failures <= 0.01 * answers
    assert provider.refused <= 0.12 * len(provider.begun)


def test_a_refusal_that_no_waiting_helps_changes_nothing() -> None:
    class Broke(Provider):
        async def reply(self, request: Request) -> Reply:
            raise RateLimited("the quota is used up", retryable=False)

    async def main() -> int:
        gate = Gate(Limit(), now=now)
        limited = Limited(Broke(), Limit(), gate)
        for _ in range(5):
            with pytest.raises(RateLimited):
                await limited.reply(REQUEST)
        return gate.size

    assert story(main) == 64


def test_one_round_trip_halves_once() -> None:
    """Sixty refusals of calls that were sent together are one piece of news."""
    window = Window(64)
    for _ in range(60):
        window.refused(1.0, 2, 1.1)
    assert window.size == 32
    for _ in range(60):
        window.refused(1.05, 2, 1.2)
    assert window.size == 32, "these were sent before the cut, too"
    window.refused(1.2, 2, 1.3)
    assert window.size == 16


def test_it_does_not_fall_below_what_was_under_way_when_the_first_was_refused() -> None:
    window = Window(64)
    for under_way in range(50, 64):
        window.refused(1.0, under_way, 1.1)
    assert window.size == 49


def test_it_grows_by_one_per_round_trip_and_only_where_it_was_used() -> None:
    window = Window(64)
    window.refused(1.0, 1, 1.1)
    assert window.size == 32
    for _ in range(500):
        window.accepted(1.2, 10, 1.3)
    assert window.size == 32, "ten at a time say nothing about more than 32"
    window = Window(64)
    window.refused(1.0, 59, 1.1)
    window.refused(1.2, 1, 1.3)
    assert window.size == 29
    window.paused()
    for _ in range(29):
        window.accepted(2.0, 29, 2.1)
    assert window.size == 29
    window.accepted(2.0, 29, 2.1)
    assert window.size == 30


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 64), st.floats(0, 5)), max_size=200))
def test_it_is_never_below_one_nor_above_what_is_configured(events: list[tuple[bool, int, float]]) -> None:
    window, at = Window(20), 0.0
    for well, under_way, passed in events:
        before = window.size
        (window.accepted if well else window.refused)(at, under_way, at + passed)
        at += passed
        assert 1 <= window.size <= 20
        assert window.size >= before // 2


# --- rates --------------------------------------------------------------------------------------------


def _most_in_a_minute(times: list[float]) -> int:
    return max(sum(1 for other in times if at <= other < at + 60 - 1e-6) for at in times)


@pytest.mark.parametrize("rpm", [1, 6, 60, 600])
def test_no_minute_holds_more_requests_than_are_allowed_and_few_less(rpm: int) -> None:
    provider = Provider(latency=0.01)

    async def main() -> None:
        gate = Gate(Limit(rpm=rpm), now=now)
        limited = Limited(provider, Limit(rpm=rpm, timeout=1e6), gate)
        await asyncio.gather(*(limited.reply(REQUEST) for _ in range(3 * rpm + 1)))

    story(main)
    assert _most_in_a_minute(provider.begun) <= rpm
    assert provider.begun[-1] - provider.begun[0] <= 180 / 0.94


@given(st.integers(1, 5000) | st.floats(0.5, 5000), st.lists(st.floats(0.0, 20), min_size=1, max_size=200))
def test_a_bucket_never_lets_more_through_in_a_minute(per_minute: float, pauses: list[float]) -> None:
    bucket, at, taken = Bucket(per_minute), 1.0, []
    for pause in pauses:
        at += pause
        delay = bucket.delay(1.0, at)
        assert delay >= 0
        at += delay
        assert bucket.delay(1.0, at) <= 1e-6, "it says exactly how long to wait"
        bucket.take(1.0, at)
        taken.append(at)
    assert _most_in_a_minute(taken) <= math.ceil(per_minute)


def test_tokens_are_estimated_when_a_call_begins_and_set_right_when_it_ends() -> None:
    """The estimate (prompt and max_tokens) is 1,000 and the truth 100: what was too much is given back at once."""
    limit = Limit(tpm=6000, timeout=1e6)
    request = Request(model="toy/small", system="x" * 2000, turns=(Turn("user", ""),), parameters={"max_tokens": 500})

    def seconds(usage: Usage) -> float:
        provider = Provider(latency=0.01)
        provider.usage = usage

        async def main() -> float:
            limited = Limited(provider, limit, Gate(limit, now=now))
            for _ in range(20):
                await limited.reply(request)
            return provider.begun[-1] - provider.begun[0]

        return float(story(main))

    assert 150 < seconds(Usage(700, 300)) < 220  # 19,000 tokens at 95 a second, less the first ones
    assert 10 < seconds(Usage(70, 30)) < 40
    assert 150 < seconds(Usage()) < 220, "without a count the estimate stands"


def test_a_call_larger_than_the_whole_allowance_goes_when_nothing_else_is_missing() -> None:
    limit = Limit(tpm=1000, timeout=1e6)
    request = Request(model="toy/small", system="x" * 40000, turns=(Turn("user", ""),))
    provider = Provider(latency=0.01)
    provider.usage = Usage(10_000, 10)

    async def main() -> None:
        limited = Limited(provider, limit, Gate(limit, now=now))
        await limited.reply(request)
        await limited.reply(request)

    story(main)
    assert provider.begun[1] - provider.begun[0] > 500


def test_waiting_for_a_place_is_not_being_late() -> None:
    """Neither for the model's timeout nor for the deadline of all attempts: twenty calls, one a minute."""
    provider = Provider(latency=0.01)
    limit = Limit(rpm=1, timeout=5)

    async def main() -> None:
        model = Retried(Limited(provider, limit, Gate(limit, now=now)), Retry(deadline=10), clock=LoopClock())
        replies = await asyncio.gather(*(model.reply(REQUEST) for _ in range(20)))
        assert len(replies) == 20

    story(main)
    assert provider.begun[-1] - provider.begun[0] >= 19 * 60 - 1e-6


def test_the_deadline_of_all_attempts_cuts_a_call_that_has_its_place() -> None:
    async def main() -> float:
        model = Retried(Limited(Provider(latency=1000), Limit(timeout=100)), Retry(deadline=10), clock=LoopClock())
        came = now()
        with pytest.raises(ProviderDown, match="within 10 seconds"):
            await model.reply(REQUEST)
        with pytest.raises(ProviderDown, match="within 10 seconds"):
            async for _ in model.stream(REQUEST):
                pass
        return now() - came

    assert story(main) == pytest.approx(20, abs=0.1)


def test_a_call_that_is_too_slow_fails_as_the_provider_does_and_may_be_repeated() -> None:
    async def main() -> None:
        with pytest.raises(ProviderDown, match="toy/small did not answer within 2 seconds") as caught:
            await Limited(Provider(latency=100), Limit(timeout=2)).reply(REQUEST)
        assert caught.value.retryable
        assert isinstance(caught.value, ModelError)
        assert "[limits.'toy/small'] timeout" in caught.value.hint

    story(main)


# --- places -------------------------------------------------------------------------------------------


def test_first_come_first_served() -> None:
    class Noting(Provider):
        async def reply(self, request: Request) -> Reply:
            order.append(request.sample)
            return await super().reply(request)

    order: list[int] = []

    async def main() -> None:
        limited = Limited(Noting(), Limit(concurrency=3))
        requests = [Request(model="toy/small", system="", turns=(), sample=number) for number in range(30)]
        await asyncio.gather(*(limited.reply(one) for one in requests))

    story(main)
    assert order == list(range(30))


def test_cancelled_waiters_and_calls_give_their_places_back_at_once() -> None:
    async def main() -> None:
        gate = Gate(Limit(concurrency=2), now=now)
        limited = Limited(Provider(latency=100), Limit(concurrency=2, timeout=1e6), gate)
        calls = [asyncio.create_task(limited.reply(REQUEST)) for _ in range(6)]
        await asyncio.sleep(1)
        assert gate.under_way == 2
        for call in (calls[0], calls[2], calls[3]):  # one with a place, two that wait
            call.cancel()
        await asyncio.sleep(0.001)
        assert gate.under_way == 2, "the next has the place already"
        calls[1].cancel()
        await asyncio.gather(*calls[:4], return_exceptions=True)
        replies = await asyncio.gather(*calls[4:])
        assert len(replies) == 2
        assert gate.under_way == 0

    story(main)


def test_a_waiter_cancelled_in_the_moment_it_gets_its_place_passes_it_on() -> None:
    async def main() -> None:
        gate = Gate(Limit(concurrency=1), now=now)
        place = await gate.enter(0)
        waiters = [asyncio.create_task(gate.enter(0)) for _ in range(2)]
        await asyncio.sleep(0)
        gate.left(place)  # the first has it now, and has not run yet
        waiters[0].cancel()
        second = await waiters[1]
        gate.left(second)
        assert gate.under_way == 0

    story(main)


def test_failures_and_streams_give_their_places_back() -> None:
    async def main() -> None:
        provider = Provider()
        gate = Gate(Limit(concurrency=1), now=now)
        limited = Limited(provider, Limit(concurrency=1, timeout=5), gate)
        async with aclosing(limited.stream(REQUEST)) as stream:  # type: ignore[type-var]  # it is a generator
            await anext(stream)
            assert gate.under_way == 1
        assert gate.under_way == 0, "left early"
        assert "".join([chunk.text async for chunk in limited.stream(REQUEST)]) == "yes"
        provider.latency = 100
        with pytest.raises(ProviderDown):
            await limited.reply(REQUEST)
        with pytest.raises(ProviderDown):
            async for _ in limited.stream(REQUEST):
                pass
        assert gate.under_way == 0

    story(main)


def test_what_goes_wrong_in_anybodys_model_is_a_model_error() -> None:
    class Broken(Provider):
        async def reply(self, request: Request) -> Reply:
            raise ZeroDivisionError("oops")

    async def main() -> None:
        limited = Limited(Broken(), Limit())
        with pytest.raises(ModelError, match="toy/small failed: ZeroDivisionError: oops"):
            await limited.reply(REQUEST)
        with pytest.raises(ModelError, match="ZeroDivisionError"):
            async for _ in limited.stream(REQUEST):
                pass

    story(main)


def test_the_limit_is_the_processes_and_not_one_loops() -> None:
    """Real threads, each with its loop; a place given back in one is taken in another."""
    guard = threading.Lock()

    class Threads(Provider):
        async def reply(self, request: Request) -> Reply:
            with guard:
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                self.begun.append(0.0)
            await asyncio.sleep(0.001)
            with guard:
                self.under_way -= 1
            return Reply(text="yes", model=self.name)

    provider = Threads()
    limited = Limited(provider, Limit(concurrency=3))

    async def many() -> None:
        await asyncio.gather(*(limited.reply(REQUEST) for _ in range(100)))

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    assert (len(provider.begun), provider.most) == (500, 3)


def test_a_loop_that_ended_with_waiters_in_it_does_not_hold_up_the_others() -> None:
    async def wait(gate: Gate) -> None:
        for _ in range(3):
            asyncio.ensure_future(gate.enter(0))  # noqa: RUF006  # left behind on purpose
        await asyncio.sleep(0)

    async def main(gate: Gate) -> None:
        gate.left(await asyncio.wait_for(gate.enter(0), 5))

    gate = Gate(Limit(concurrency=1))
    held = asyncio.run(gate.enter(0))
    dead = asyncio.new_event_loop()
    dead.run_until_complete(wait(gate))
    tasks = asyncio.all_tasks(dead)
    dead.close()
    gate.left(held)
    asyncio.run(main(gate))
    assert gate.under_way == 0
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_does_not_wait_for_its_parents_calls() -> None:
    code = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore")
from promptsmith.config import Limit
from promptsmith.models.limits import Gate
gate = Gate(Limit(concurrency=1))
asyncio.run(gate.enter(0))
pid = os.fork()
if pid == 0:
    asyncio.run(asyncio.wait_for(gate.enter(0), 5))
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), gate.under_way)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "7 1\n"


def test_runtimes_share_what_is_known_of_an_endpoints_model() -> None:
    class Named(Provider):
        limits_key = "https://h/v1 small"

    one, other = gate_for(Named(), Limit()), gate_for(Named(), Limit())
    assert one is other is not None
    assert gate_for(Named(), Limit(concurrency=2)) is not one, "other limits are another gate"
    assert gate_for(Provider(), Limit()) is not gate_for(Provider(), Limit()), "models of no known place are each for itself"


def test_the_builtin_model_stands_at_no_gate_unless_it_is_asked_for() -> None:
    assert gate_for(Nearest(), Limit()) is None
    assert gate_for(Nearest(), Limit(concurrency=2)) is not None


@pytest.mark.parametrize("line", ["rpm = 0", "tpm = 0", "rpm = -1", "rpm = 'many'", "rpn = 5"])
def test_limits_that_make_no_sense_are_refused(make_project: Callable[..., Any], line: str) -> None:
    with pytest.raises(SourceError, match=line.split(" ", maxsplit=1)[0]):
        make_project(config=f"[limits.'openai/gpt-6-luna']\n{line}\n")


def test_limits_come_from_the_settings(make_project: Callable[..., Any]) -> None:
    project = make_project(config="[limits.'openai/gpt-6-luna']\nrpm = 500\ntpm = 200000\n")
    assert project.config.limit("openai/gpt-6-luna") == Limit(rpm=500, tpm=200000)
    assert project.config.limit("openai/other") == Limit()
