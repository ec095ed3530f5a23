"""``models/retry.py``: what is asked again, when, how often, and what stops it. Time and dice are the test's."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.chat import Chunk, Reply, Request, Turn
from promptsmith.errors import (
    AuthenticationFailed,
    InputError,
    MalformedReply,
    ModelError,
    ProviderDown,
    ProviderError,
    RateLimited,
    RequestRefused,
)
from promptsmith.models.retry import Retried, Retry, RetryBudget, with_retries
from promptsmith.models.waiting import Late

REQUEST = Request(model="toy/small", system="", turns=(Turn("user", "x"),))
REPLY = Reply(text="yes", model="toy/small")


class TestClock:
    """Sleeping is instant and moves the time; the dice say ``dice`` each time."""

    __test__ = False

    def __init__(self, dice: float = 0.5) -> None:
        self.time = 100.0
        self.dice = dice
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def random(self) -> float:
        return self.dice


def answers(*outcomes: Reply | Exception) -> Callable[[], Awaitable[Reply]]:
    """A call that comes to these, one after the other."""
    left = iter(outcomes)

    async def call() -> Reply:
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return call


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main)


def retried(
    outcomes: Sequence[Reply | Exception], policy: Retry | None = None, clock: TestClock | None = None, budget: RetryBudget | None = None
) -> Reply:
    reply: Reply = run(with_retries(answers(*outcomes), policy or Retry(), clock or TestClock(), budget or RetryBudget()))
    return reply


def notes(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", ()))


# --- which errors, how often --------------------------------------------------------------------------


def test_a_first_success_is_handed_on_as_it_is() -> None:
    assert retried([REPLY]) is REPLY


def test_a_failure_that_may_pass_is_tried_again_and_counted() -> None:
    clock = TestClock()
    reply = retried([ProviderDown("down"), RateLimited("slow"), REPLY], clock=clock)
    assert (reply.text, reply.attempts) == ("yes", 3)
    assert len(clock.slept) == 2


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationFailed("401"),
        RequestRefused("400"),
        MalformedReply("html"),
        InputError("ours"),
        ModelError("no"),
        RateLimited("no quota", retryable=False),
        ProviderDown("no trust", retryable=False),
    ],
)
def test_what_will_not_pass_is_not_tried_again(error: Exception) -> None:
    clock = TestClock()
    with pytest.raises(type(error)) as caught:
        retried([error, REPLY], clock=clock)
    assert caught.value is error
    assert (clock.slept, notes(error)) == ([], "")


def test_an_error_that_is_no_error_of_ours_passes_untouched() -> None:
    with pytest.raises(ZeroDivisionError):
        retried([ZeroDivisionError(), REPLY])


def test_the_last_of_six_attempts_is_the_end_and_says_so() -> None:
    clock = TestClock()
    last = ProviderDown("the sixth")
    with pytest.raises(ProviderDown, match="the sixth") as caught:
        retried([*(ProviderDown(str(n)) for n in range(5)), last, REPLY], clock=clock)
    assert caught.value is last
    assert len(clock.slept) == 5
    assert "after 6 attempts" in notes(last)


# --- how long -----------------------------------------------------------------------------------------


def test_waits_double_up_to_the_cap_and_the_dice_decide_all_of_them() -> None:
    """Full jitter: from nothing to the whole of 0.5, 1, 2, 4, 8, 8 … seconds."""
    clock = TestClock(dice=1.0)
    retried([*(ProviderDown("down") for _ in range(6)), REPLY], Retry(attempts=7), clock)
    assert clock.slept == [0.5, 1, 2, 4, 8, 8]
    clock = TestClock(dice=0.0)
    retried([*(ProviderDown("down") for _ in range(6)), REPLY], Retry(attempts=7), clock)
    assert clock.slept == [0] * 6


def test_what_the_provider_asks_for_is_honoured_on_each_attempt() -> None:
    clock = TestClock(dice=0.0)
    outcomes = [RateLimited("slow", retry_after=3), ProviderDown("down"), RateLimited("slow", retry_after=0.02), REPLY]
    assert retried(outcomes, clock=clock).attempts == 4
    assert clock.slept == [3, 0, 0.02]


@given(asked=st.floats(0.001, 100), dice=st.floats(0, 0.999))
def test_the_wait_is_never_shorter_than_asked_for_and_hardly_longer(asked: float, dice: float) -> None:
    clock = TestClock(dice)
    retried([RateLimited("slow", retry_after=asked), REPLY], clock=clock)
    assert asked <= clock.slept[0] <= asked * 1.1


def test_an_hour_is_not_waited_for() -> None:
    clock = TestClock()
    with pytest.raises(RateLimited) as caught:
        retried([RateLimited("slow", retry_after=3600), REPLY], clock=clock)
    assert clock.slept == []
    assert "the provider asks to wait 3780 seconds" in notes(caught.value)
    assert "only 240" in notes(caught.value)


def test_waits_and_attempts_together_stay_within_the_deadline() -> None:
    clock = TestClock(dice=0.0)
    with pytest.raises(RateLimited) as caught:
        retried([RateLimited("slow", retry_after=4)] * 9, Retry(attempts=9, deadline=10), clock)
    assert clock.slept == [4, 4]
    assert "only 2 are left" in notes(caught.value)


def test_an_attempt_that_does_not_come_to_an_end_is_cut_at_the_deadline() -> None:
    async def main() -> None:
        with pytest.raises(ProviderDown, match=r"within 0\.02 seconds") as caught:
            await with_retries(asyncio.Event().wait, Retry(deadline=0.02), TestClock(), RetryBudget())  # type: ignore[arg-type]
        assert not caught.value.retryable

    run(main())


def test_the_deadline_names_what_went_wrong_before() -> None:
    calls = iter([RateLimited("slow", retry_after=0.01)])

    async def call() -> Reply:
        for error in calls:
            raise error
        await asyncio.Event().wait()
        return REPLY

    with pytest.raises(RateLimited, match="slow") as caught:
        run(with_retries(call, Retry(deadline=0.05), TestClock(), RetryBudget()))
    assert "the time for all attempts is over" in notes(caught.value)


def test_what_an_attempt_took_that_was_cut_off_nobody_knows() -> None:
    """Though the attempt before it took nothing."""
    calls = iter([RateLimited("slow", status=429, retry_after=0.01)])

    async def call() -> Reply:
        for error in calls:
            assert not error.counted
            raise error
        await asyncio.Event().wait()
        return REPLY

    with pytest.raises(RateLimited) as caught:
        run(with_retries(call, Retry(deadline=0.05), TestClock(), RetryBudget()))
    assert caught.value.counted


@pytest.mark.parametrize(("closed", "kind"), [(30.0, RateLimited), (0.0, ProviderDown)])
def test_a_call_that_came_to_no_place_has_taken_nothing_and_may_be_repeated(closed: float, kind: type[ProviderError]) -> None:
    async def call() -> Reply:
        raise Late(begun=False, closed=closed)

    with pytest.raises(kind) as caught:
        run(with_retries(call, Retry(deadline=5), TestClock(), RetryBudget(), "openai/m"))
    assert (caught.value.counted, caught.value.retryable, caught.value.retry_after or 0.0) == (False, True, closed)
    assert notes(caught.value) == ""


def test_a_cancelled_wait_ends_at_once() -> None:
    asked = 0

    async def call() -> Reply:
        nonlocal asked
        asked += 1
        raise RateLimited("slow", retry_after=100)

    class Waiting(TestClock):
        async def sleep(self, seconds: float) -> None:
            begun.set()
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(with_retries(call, Retry(), Waiting(), RetryBudget()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    begun = asyncio.Event()
    run(main())
    assert asked == 1


# --- the budget ---------------------------------------------------------------------------------------


def test_a_storm_is_not_amplified() -> None:
    """Of a thousand calls to a provider that is down, retries add the burst and a fifth, not five thousand."""
    budget, clock = RetryBudget(per_second=0.0, burst=20), TestClock(dice=0.0)
    asked = 0

    async def down() -> Reply:
        nonlocal asked
        asked += 1
        raise ProviderDown("down")

    async def main() -> list[str]:
        told = []
        for _ in range(1000):
            with pytest.raises(ProviderDown) as caught:
                await with_retries(down, Retry(), clock, budget)
            told.append(notes(caught.value))
        return told

    told = run(main())
    assert 1000 + 20 <= asked <= 1000 + 20 + 200
    assert "too many calls of this endpoint are being repeated" in told[-1]


def test_a_budget_that_was_used_up_comes_back_with_calls_and_with_time() -> None:
    budget = RetryBudget(share=0.1, per_second=1.0, burst=2)
    assert [budget.take(0.0, patient=False) for _ in range(3)] == [0, 0, None]
    for _ in range(10):
        budget.called()
    assert budget.take(0.0, patient=False) == 0
    assert budget.take(0.0, patient=False) is None
    assert budget.take(1.0, patient=False) == 0
    assert [budget.take(100.0, patient=False) for _ in range(3)] == [0, 0, None]


def test_a_patient_procedure_waits_for_the_budget_of_a_provider_that_fails() -> None:
    """Nobody waits for one answer of an eval; an interactive call fails at once."""
    clock, down, fine = TestClock(dice=0.0), ProviderDown("down"), Reply(text="x", model="m/m")
    budget = RetryBudget(share=0.0, per_second=1.0, burst=1)
    budget.take(clock.now(), patient=False)
    said = iter([down, down, fine])

    async def call() -> Reply:
        one = next(said)
        if isinstance(one, Exception):
            raise one
        return one

    assert run(with_retries(call, Retry(patient=True), clock, budget)).attempts == 3
    assert clock.now() >= 2.0
    said = iter([down, down, fine])
    with pytest.raises(ProviderDown):
        run(with_retries(call, Retry(), TestClock(dice=0.0), RetryBudget(share=0.0, per_second=0.0, burst=0.0)))


def test_a_provider_that_pushes_back_is_waited_for_when_the_budget_is_empty() -> None:
    """A 429 is no failure: its retries are spread, one a second, and none is lost while the deadline allows."""
    budget = RetryBudget(share=0.0, per_second=1.0, burst=1)
    clock = TestClock(dice=0.0)
    budget.take(clock.now(), patient=False)
    assert retried([RateLimited("slow", retry_after=0.1), REPLY], clock=clock, budget=budget).attempts == 2
    assert clock.slept == [1.0]
    assert [budget.take(clock.now(), patient=True) for _ in range(3)] == [1, 2, 3]
    assert budget.take(clock.now(), patient=True, at_most=3) is None, "and nothing was taken by asking"
    assert budget.take(clock.now(), patient=True) == 4


def test_models_of_one_endpoint_share_a_budget() -> None:
    budget = RetryBudget(share=0, per_second=0, burst=1)
    policy = Retry(attempts=2)

    def model(*outcomes: Reply | Exception) -> Retried:
        return Retried(Toy(outcomes), policy, budget=budget, clock=TestClock())

    assert run(model(ProviderDown("down"), REPLY).reply(REQUEST)).attempts == 2
    with pytest.raises(ProviderDown):
        run(model(ProviderDown("down"), REPLY).reply(REQUEST))


# --- streams ------------------------------------------------------------------------------------------


class Toy:
    """Streams each outcome as its text's letters; an error is raised after as many letters as its message has before ``!``."""

    name = "toy/small"

    def __init__(self, outcomes: Sequence[Reply | Exception]) -> None:
        self.outcomes = iter(outcomes)
        self.closed = 0

    async def reply(self, request: Request) -> Reply:
        return await answers(next(self.outcomes))()

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        try:
            outcome = next(self.outcomes)
            if isinstance(outcome, Exception):
                for letter in itertools.takewhile("!".__ne__, str(outcome)):
                    yield Chunk(letter)
                raise outcome
            for letter in outcome.text:
                yield Chunk(letter)
            yield Chunk("", outcome)
        finally:
            self.closed += 1


async def _heard(model: Retried) -> list[Chunk]:
    return [chunk async for chunk in model.stream(REQUEST)]


def test_a_stream_is_begun_again_before_its_first_piece() -> None:
    toy = Toy([ProviderDown("!"), RateLimited("!", retry_after=1), REPLY])
    heard = run(_heard(Retried(toy, clock=TestClock())))
    assert "".join(chunk.text for chunk in heard) == "yes"
    assert heard[-1].reply is not None
    assert heard[-1].reply.attempts == 3
    assert toy.closed == 3


def test_a_stream_that_has_begun_is_not_repeated() -> None:
    toy = Toy([ProviderDown("ye!"), REPLY])
    clock = TestClock()

    async def main() -> str:
        text = ""
        with pytest.raises(ProviderDown):
            async for chunk in Retried(toy, clock=clock).stream(REQUEST):
                text += chunk.text
        return text

    assert run(main()) == "ye"
    assert (clock.slept, toy.closed) == ([], 1)


def test_a_stream_that_fails_for_good_says_so() -> None:
    with pytest.raises(RequestRefused):
        run(_heard(Retried(Toy([RequestRefused("!"), REPLY]), clock=TestClock())))
    with pytest.raises(ProviderDown) as caught:
        run(_heard(Retried(Toy([ProviderDown("!")] * 6), clock=TestClock())))
    assert "after 6 attempts" in notes(caught.value)


def test_a_stream_that_is_left_early_is_closed() -> None:
    toy = Toy([REPLY])

    async def main() -> None:
        stream = Retried(toy).stream(REQUEST)
        assert (await anext(stream)).text == "y"
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert toy.closed == 1

    run(main())


@given(st.lists(st.sampled_from(["down", "slow", "wait", "bad", "ok"]), min_size=1, max_size=12), st.integers(1, 8), st.integers(0, 1000))
def test_whatever_happens_limits_hold(script: list[str], attempts: int, seed: int) -> None:
    """Never more attempts than allowed, never past the deadline, and the outcome is the last attempt's."""
    made: dict[str, Callable[[], Reply | ProviderError]] = {
        "down": lambda: ProviderDown("down"),
        "slow": lambda: RateLimited("slow", retry_after=2.5),
        "wait": lambda: RateLimited("wait", retry_after=50),
        "bad": lambda: RequestRefused("bad"),
        "ok": lambda: REPLY,
    }
    outcomes = [made[kind]() for kind in script] + [REPLY]
    used: list[Reply | ProviderError] = []
    dice = random.Random(seed)
    clock = TestClock()

    async def call() -> Reply:
        clock.dice = dice.random()
        used.append(outcomes[len(used)])
        return await answers(used[-1])()

    began = clock.time
    try:
        reply = run(with_retries(call, Retry(attempts=attempts, deadline=30), clock, RetryBudget()))
    except ProviderError as error:
        assert error is used[-1]
    else:
        assert used[-1] is REPLY
        assert reply.attempts == len(used)
    assert len(used) <= attempts
    assert clock.time - began < 30


def test_a_stream_that_stops_coming_is_a_provider_that_is_down() -> None:
    class Stuck(Toy):
        async def stream(self, request: Request) -> AsyncIterator[Chunk]:
            yield Chunk("y")
            await asyncio.Event().wait()

    heard = []

    async def main() -> None:
        async for chunk in Retried(Stuck([]), Retry(deadline=0.05)).stream(REQUEST):
            heard.append(chunk.text)

    with pytest.raises(ProviderDown, match=r"within 0\.05 seconds"):
        run(main())
    assert heard == ["y"]
