"""Many inputs through one prompt: order, errors as values, bounds, and what a kill -9 costs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptsmith import AsyncRuntime, Failure, Result, Runtime
from promptsmith.chat import Reply, Request
from promptsmith.config import Project
from promptsmith.errors import ContractError, InputError, ModelError, NotCompiled, StoreError
from promptsmith.runtime import run_many

Make = Callable[..., Project]
Toy = Any
"""The class that the fixture ``toy`` gives (see conftest)."""

SAY = {"say": 'task: Say it.\noutput: text\nexamples:\n  - {input: "a b", output: "c d"}\n  - {input: "e f", output: "g h i j"}\n'}


def echo(request: Request) -> str:
    return f"echo of {request.turns[-1].text}"


def journals(project: Project) -> list[dict[str, Any]]:
    """All rows of all journals of runs."""
    files = sorted((project.cache / "journals").glob("run-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def outcomes(project: Project) -> int:
    return sum(row["row"] == "outcome" for row in journals(project))


# --- what comes back --------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_inputs_however_long_each_takes(promoted: Make) -> None:
    ended: list[str] = []

    class Uneven:
        name = "toy/uneven"

        async def reply(self, request: Request) -> Reply:
            await asyncio.sleep(random.Random(request.turns[-1].text).uniform(0, 0.02))
            ended.append(request.turns[-1].text)
            return Reply(text=echo(request), model=self.name)

        stream = None

    inputs = [f"text {number}" for number in range(100)]
    with Runtime(promoted(SAY), models={"toy/uneven": Uneven()}) as runtime:
        results = runtime.run_many("say", inputs, model="toy/uneven")
    assert [result.text for result in results] == [f"echo of {text}" for text in inputs]
    assert ended != inputs


def test_the_async_and_the_sync_face_give_the_same(promoted: Make) -> None:
    inputs = ["It broke after a day.", "This product is amazing!", "When does the shop open?"]
    with Runtime(promoted()) as runtime:
        sync = runtime.run_many("sentiment", inputs)
        asynchronous = asyncio.run(runtime.asynchronous.run_many("sentiment", inputs))
        single = [runtime.run("sentiment", text) for text in inputs]
    values = ["negative", "positive", "neutral"]
    assert [r.value for r in sync] == [r.value for r in asynchronous] == [r.value for r in single] == values


def test_nothing_in_nothing_out(promoted: Make) -> None:
    with Runtime(promoted()) as runtime:
        assert runtime.run_many("sentiment", []) == []


def test_each_error_is_a_value_in_its_place_and_the_others_are_answered(promoted: Make, toy: Toy) -> None:
    def say(request: Request) -> object:
        text = request.turns[-1].text
        return {"down": ModelError("down"), "bug": KeyError("choices"), "odd": "purple"}.get(text, "positive")

    inputs: list[Any] = ["fine", "down", "odd", {"inptu": "x"}, "bug", 5, "\ud800", "also fine"]
    with Runtime(promoted(), models={"toy/small": toy(say)}) as runtime:
        results = runtime.run_many("sentiment", inputs, model="toy/small")
    assert [type(one.error) if isinstance(one, Failure) else one.value for one in results] == [
        "positive", ModelError, ContractError, InputError, ModelError, InputError, InputError, "positive",
    ]  # fmt: skip
    assert [one.ok for one in results] == [True, False, False, False, False, False, False, True]
    assert "did you mean 'input'" in str(results[3].error)


def test_what_is_wrong_for_all_inputs_is_raised_and_not_repeated_for_each(promoted: Make, make_project: Make) -> None:
    with Runtime(promoted()) as runtime:
        with pytest.raises(InputError, match="concurrency must be at least 1"):
            runtime.run_many("sentiment", ["x"], concurrency=0)
        with pytest.raises(InputError, match="list of inputs"):
            runtime.run_many("sentiment", "one text")
        with pytest.raises(InputError, match="list of inputs"):
            runtime.run_many("sentiment", {"input": "one text"})
        with pytest.raises(InputError, match="on_contract_break"):
            runtime.run_many("sentiment", ["x"], on_contract_break="never")
    with Runtime(make_project(name="fresh")) as runtime, pytest.raises(NotCompiled):
        runtime.run_many("sentiment", ["x"])


# --- bounds and progress ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("concurrency", "limit", "most"), [(5, 64, 5), (50, 3, 3), (None, 1000, 64), (1, 64, 1)])
def test_calls_under_way_are_bounded_by_the_run_and_by_the_models_limit(
    promoted: Make, toy: Toy, concurrency: int | None, limit: int, most: int
) -> None:
    model = toy(echo, seconds=0.002)
    project = promoted(SAY, config=f"[limits.toy]\nconcurrency = {limit}\n")
    with Runtime(project, models={"toy/small": model}) as runtime:
        results = runtime.run_many("say", [f"{n}" for n in range(130)], model="toy/small", concurrency=concurrency)
    assert len(results) == len(model.asked) == 130
    assert model.most == most


def test_progress_counts_up_to_the_total_errors_and_repeats_included(promoted: Make, toy: Toy) -> None:
    told: list[tuple[int, int]] = []
    model = toy(lambda request: ModelError("down") if "3" in request.turns[-1].text else "positive", seconds=0.001)
    inputs: list[Any] = [*(f"{n}" for n in range(40)), "7", "7", {"wrong": "name"}]
    with Runtime(promoted(), models={"toy/small": model}) as runtime:
        runtime.run_many("sentiment", inputs, model="toy/small", concurrency=8, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 43) for number in range(1, 44)]


def test_an_error_in_the_callers_own_callback_ends_the_run_as_that_error(promoted: Make, toy: Toy) -> None:
    model = toy(echo, seconds=0.002)

    def progress(done: int, total: int) -> None:
        if done == 10:
            raise ZeroDivisionError("mine")

    with Runtime(promoted(SAY), models={"toy/small": model}) as runtime:
        with pytest.raises(ZeroDivisionError, match="mine"):
            runtime.run_many("say", [f"{n}" for n in range(100)], model="toy/small", concurrency=4, on_progress=progress)
        assert len(model.asked) < 20
        # It is unfinished: what was paid for is known.
        results = runtime.run_many("say", [f"{n}" for n in range(100)], model="toy/small", concurrency=4)
    assert [result.source for result in results].count("journal") >= 10


def test_results_are_told_in_order_while_the_run_goes_on(promoted: Make, toy: Toy) -> None:
    told: list[tuple[int, str]] = []
    runtime = AsyncRuntime(promoted(SAY), models={"toy/small": toy(echo)})
    asyncio.run(run_many(runtime, "say", ["a", "b", "a", "c"], model="toy/small", on_result=lambda n, one: told.append((n, one.text))))
    assert told == [(0, "echo of a"), (1, "echo of b"), (2, "echo of a"), (3, "echo of c")]


# --- equal inputs -----------------------------------------------------------------------------------------


def test_equal_inputs_are_asked_and_paid_for_once(promoted: Make, toy: Toy) -> None:
    model = toy(echo)
    with Runtime(promoted(SAY), models={"toy/small": model}) as runtime:
        results = runtime.run_many("say", ["a", "b", "a", {"input": "a"}, "b", "A"], model="toy/small")
    assert [result.text for result in results] == [f"echo of {text}" for text in "abaabA"]
    assert sorted(echo(request) for request in model.asked) == ["echo of A", "echo of a", "echo of b"]
    assert sum(result.cost for result in results) == pytest.approx(0.003)
    assert [result.calls for result in results] == [1, 1, 0, 0, 0, 1]


def test_equal_inputs_fail_alike(promoted: Make, toy: Toy) -> None:
    model = toy(ModelError("down"))
    with Runtime(promoted(), models={"toy/small": model}) as runtime:
        results = runtime.run_many("sentiment", ["a", "a"], model="toy/small")
    assert [isinstance(one, Failure) for one in results] == [True, True]
    assert len(model.asked) == 1


# --- the journal ------------------------------------------------------------------------------------------


def test_each_answer_is_in_the_journal_before_it_is_handed_on(promoted: Make, toy: Toy) -> None:
    project = promoted(SAY)
    kept: list[tuple[int, int]] = []
    with Runtime(project, models={"toy/small": toy(echo, seconds=0.001)}) as runtime:
        runtime.run_many(
            "say", [f"{n}" for n in range(30)], model="toy/small", concurrency=4,
            on_progress=lambda done, total: kept.append((done, outcomes(project))),
        )  # fmt: skip
    assert all(written >= done for done, written in kept)
    assert journals(project)[-1]["row"] == "closing"


def test_a_finished_run_is_never_replayed(promoted: Make, toy: Toy) -> None:
    model = toy(echo)
    with Runtime(promoted(SAY), models={"toy/small": model}) as runtime:
        for _ in range(2):
            results = runtime.run_many("say", ["a", "b"], model="toy/small")
            assert [result.source for result in results] == ["model", "model"]
    assert len(model.asked) == 4


def test_an_unfinished_run_costs_nothing_for_what_was_answered(promoted: Make, toy: Toy) -> None:
    """The run is cut by cancelling it; answers that took a repair are known as a whole."""
    model = toy(lambda request: "positive" if len(request.turns) > 1 else "huh", seconds=0.002)
    project = promoted()
    runtime = AsyncRuntime(project, models={"toy/small": model})
    inputs = [f"{n}" for n in range(40)]
    reached = asyncio.Event()
    options: dict[str, Any] = {"model": "toy/small", "concurrency": 4, "on_contract_break": "repair"}

    async def cut() -> None:
        run = asyncio.create_task(
            runtime.run_many("sentiment", inputs, on_progress=lambda done, total: reached.set() if done == 20 else None, **options)
        )
        await reached.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(cut())
    paid = outcomes(project)
    asked = len(model.asked)
    results = asyncio.run(runtime.run_many("sentiment", inputs, **options))
    assert [result.value for result in results] == ["positive"] * 40
    known = [result for result in results if result.source == "journal"]
    assert len(known) >= 20
    assert {(result.cost, result.calls) for result in known} == {(0.0, 0)}
    assert len(model.asked) - asked == 80 - paid
    sources = Counter(row.source for row in runtime.store.ledger.rows())
    assert sources["journal"] == paid


def test_failures_are_asked_again_when_an_unfinished_run_goes_on(promoted: Make, toy: Toy) -> None:
    model = toy([ModelError("down"), "one", "two", "three", "four"])
    runtime = AsyncRuntime(promoted(SAY), models={"toy/small": model})

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        asyncio.run(runtime.run_many("say", ["a", "b", "c"], model="toy/small", concurrency=1, on_progress=stop))
    results = asyncio.run(runtime.run_many("say", ["a", "b", "c"], model="toy/small", concurrency=1))
    assert [(result.text, result.source) for result in results] == [("two", "model"), ("one", "journal"), ("three", "model")]


def test_other_inputs_another_model_or_another_target_are_another_run(promoted: Make, toy: Toy) -> None:
    project = promoted(SAY)
    runtime = AsyncRuntime(project, models={"toy/small": toy(echo), "toy/other": toy(echo, "toy/other")})
    for options in ({}, {"target": "out.jsonl"}, {"model": "toy/other"}, {"sample": 1}):
        asyncio.run(run_many(runtime, "say", ["a"], **{"model": "toy/small", **options}))
    asyncio.run(runtime.run_many("say", ["a", "b"], model="toy/small"))
    assert len(list((project.cache / "journals").glob("run-*.jsonl"))) == 5


def test_a_disk_that_fails_in_the_middle_ends_the_run_with_one_clear_error(promoted: Make, toy: Toy) -> None:
    """Answers that can't be journaled are not handed on; a run after the repair asks only for those."""
    project = promoted(SAY)
    folder, away = project.cache / "journals", project.cache / "away"

    def say(request: Request) -> str:
        if request.turns[-1].text == "5":
            folder.rename(away)
            folder.write_text("in the way")
        return echo(request)

    model = toy(say)
    inputs = [f"{n}" for n in range(10)]
    with Runtime(project, models={"toy/small": model}) as runtime:
        with pytest.raises(StoreError, match="can't be written"):
            runtime.run_many("say", inputs, model="toy/small", concurrency=1)
        folder.unlink()
        away.rename(folder)
        model.say = echo
        results = runtime.run_many("say", inputs, model="toy/small", concurrency=1)
    assert [result.source for result in results] == ["journal"] * 5 + ["model"] * 5
    assert Counter(request.turns[-1].text for request in model.asked) == Counter([*inputs, "5"])


def test_a_cache_folder_that_cannot_be_written_still_answers(promoted: Make, toy: Toy) -> None:
    project = promoted(SAY)
    (project.root / "blocked").write_text("")
    (project.root / "promptsmith.toml").write_text('[cache]\nfolder = "blocked/cache"\n')
    runtime = Runtime(project.root, models={"toy/small": toy(echo)})
    with pytest.warns(UserWarning, match="answers are served") as caught, runtime:
        results = runtime.run_many("say", [f"{n}" for n in range(20)], model="toy/small")
    assert [result.text for result in results] == [f"echo of {n}" for n in range(20)]
    assert len(caught) == 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_no_file_stays_open_after_a_run(promoted: Make, toy: Toy) -> None:
    with Runtime(promoted(SAY), models={"toy/small": toy([echo] * 15 + [ModelError("down")])}) as runtime:
        counts = []
        for number in range(20):
            runtime.run_many("say", [f"{number}"], model="toy/small")
            counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] <= counts[1]  # fewer when something of an earlier test was collected meanwhile


def test_two_equal_runs_at_the_same_time_both_end_whole(promoted: Make, toy: Toy) -> None:
    project = promoted(SAY)
    inputs = [f"{n}" for n in range(50)]
    got: list[list[str]] = []

    def work() -> None:
        with Runtime(project, models={"toy/small": toy(echo, seconds=0.001)}) as runtime:
            got.append([result.text for result in runtime.run_many("say", inputs, model="toy/small", concurrency=5)])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [[f"echo of {text}" for text in inputs]] * 3


def test_an_alias_that_moves_during_a_run_does_not_split_it(promoted: Make, toy: Toy) -> None:
    project = promoted(SAY)
    runtime = AsyncRuntime(project, models={"toy/small": toy(echo)})
    lock = project.lock.read_bytes()

    class Moving(list[str]):
        """Inputs whose reading takes production away halfway."""

        def __iter__(self) -> Any:
            for number, text in enumerate(super().__iter__()):
                if number == 5:
                    project.lock.write_bytes(b"")
                yield text

    results = asyncio.run(runtime.run_many("say", Moving(f"{n}" for n in range(10)), model="toy/small"))
    project.lock.write_bytes(lock)
    assert len({result.prompt for result in results if isinstance(result, Result)}) == 1
    assert all(result.ok for result in results)


# --- kill -9 ----------------------------------------------------------------------------------------------

IN_FLIGHT, TOTAL, KILLS = 16, 640, 20

KILLED = """\
import asyncio, json, os, sys
from promptsmith import Runtime
from promptsmith.chat import Reply

class Paid:
    "Each answer is noted as paid for, in one write, before it is returned."
    name = "toy/paid"
    file = os.open("paid", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async def reply(self, request):
        text = request.turns[-1].text
        await asyncio.sleep(0.015 + hash(text) % 7 / 1000)
        os.write(self.file, (text + "\\n").encode())
        return Reply(text="echo of " + text, model=self.name, cost=0.5)
    stream = None

total, in_flight = map(int, sys.argv[1:])
results = Runtime(models={"toy/paid": Paid()}).run_many("say", [str(n) for n in range(total)], model="toy/paid", concurrency=in_flight)
print(json.dumps([result.text for result in results]))
"""


def paid(project: Project) -> list[str]:
    path = project.root / "paid"
    return path.read_text().split() if path.exists() else []


def killed_run(project: Project, kill_after: int | None) -> list[str] | None:
    """Runs the child until ``kill_after`` answers have been paid for by it, or to its end; then what it printed."""
    (project.root / "killed.py").write_text(KILLED)
    before = len(paid(project))
    process = subprocess.Popen(
        [sys.executable, "killed.py", str(TOTAL), str(IN_FLIGHT)], cwd=project.root, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    with process:
        while kill_after is not None and process.poll() is None:
            if len(paid(project)) - before >= kill_after:
                process.kill()
                break
            threading.Event().wait(0.001)
        out, _ = process.communicate()
    return json.loads(out) if process.returncode == 0 else None


def test_after_kill_9_at_twenty_points_only_calls_in_flight_are_repeated(promoted: Make) -> None:
    """One run, killed twenty times, spread evenly over its length; each time only the calls in flight may be paid again."""
    project = promoted(SAY)
    answered: set[str] = set()
    for _ in range(KILLS):
        before = len(paid(project))
        assert killed_run(project, TOTAL // (KILLS + 1)) is None, "the child was to be killed before its end"
        new = paid(project)[before:]
        assert len(new) == len(set(new))
        assert len(answered.intersection(new)) <= IN_FLIGHT
        answered.update(new)
    before = len(paid(project))
    resumed = killed_run(project, None)
    new = paid(project)[before:]
    assert len(answered.intersection(new)) <= IN_FLIGHT
    assert answered.union(new) == {str(n) for n in range(TOTAL)}

    other = promoted(SAY, name="uninterrupted")
    assert resumed == killed_run(other, None)
    assert len(paid(other)) == TOTAL
    assert killed_run(project, TOTAL // 2) is None, "a finished run is asked anew, so this one can be killed"
