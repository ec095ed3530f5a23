"""The sync face: threads, forks, running loops, Ctrl-C, and processes that end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from promptsmith import Runtime, compile_task
from promptsmith.chat import Chunk, Reply, Request
from promptsmith.config import Project
from promptsmith.errors import ContractError, InputError, ModelError, UnknownName
from promptsmith.runtime.loop import LOOP

Make = Callable[..., Project]
HANG = 60
"""Seconds after which a child process counts as hanging."""

CHILD = """\
import asyncio, contextlib, os, signal, sys, threading, time
from concurrent.futures import CancelledError
from pathlib import Path
from promptsmith import Runtime
from promptsmith.chat import Chunk, Reply

class Slow:
    name = "toy/slow"
    async def reply(self, request):
        Path("asked").touch()
        try:
            await asyncio.sleep(300)
        except asyncio.CancelledError:
            Path("cancelled").touch()
            raise
        return Reply(text="positive", model=self.name)
    async def stream(self, request):
        yield Chunk("posi")
        await self.reply(request)

runtime = Runtime(models={"toy/slow": Slow()})

def begin():
    def call():
        with contextlib.suppress(CancelledError):
            runtime.run("sentiment", "x", model="toy/slow")
    threading.Thread(target=call, daemon=True).start()
    while not Path("asked").exists():
        time.sleep(0.01)
"""


def child(project: Project, code: str) -> subprocess.Popen[str]:
    """A Python process in the project that runs ``code`` after CHILD."""
    script = project.root / "child.py"
    script.write_text(f"{CHILD}\n{textwrap.dedent(code)}")
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script)], cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip


def finished(project: Project, code: str) -> str:
    """What a child printed. It must end by itself, without an error, and say nothing on stderr."""
    with child(project, code) as process:
        try:
            out, err = process.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert (process.returncode, err) == (0, ""), err
    return out


def appears(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        threading.Event().wait(0.01)


# --- answers ----------------------------------------------------------------------------------------------


def test_run_stream_and_run_many_answer_without_any_loop(promoted: Make) -> None:
    with Runtime(promoted()) as runtime:
        assert runtime.run("sentiment", "It broke after a day.").value == "negative"
        chunks = list(runtime.stream("sentiment", "It broke after a day."))
        assert ("".join(chunk.text for chunk in chunks), chunks[-1].result.value) == ("negative", "negative")
        many = runtime.run_many("sentiment", ["It broke after a day.", "This product is amazing!"])
        assert [result.value for result in many] == ["negative", "positive"]


def test_errors_reach_the_calling_thread_as_they_are(promoted: Make, toy: Any) -> None:
    models = {"toy/small": toy("huh"), "toy/down": toy(ModelError("down"), "toy/down")}
    with Runtime(promoted(), models=models) as runtime:
        with pytest.raises(ContractError):
            runtime.run("sentiment", "x", model="toy/small")
        with pytest.raises(ModelError, match="down"):
            runtime.run("sentiment", "x", model="toy/down")
        with pytest.raises(InputError, match="no option"):
            runtime.run("sentiment", "x", tiemout=3)
        with pytest.raises(ContractError):
            list(runtime.stream("sentiment", "x", model="toy/small"))
        with pytest.raises(UnknownName):
            runtime.run("sentiment@candidate", "x")


def test_many_threads_share_one_loop_and_one_limit(promoted: Make, toy: Any) -> None:
    model = toy(lambda request: "positive" if request.turns[-1].text.endswith("0") else "negative", seconds=0.005)
    runtime = Runtime(promoted(config="[limits.toy]\nconcurrency = 4\n"), models={"toy/small": model})
    answers: dict[int, str] = {}

    def work(start: int) -> None:
        for number in range(start, start + 5):
            answers[number] = runtime.run("sentiment", f"input {number}", model="toy/small").value

    threads = [threading.Thread(target=work, args=[start]) for start in range(0, 100, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: "negative" if number % 10 else "positive" for number in range(100)}
    assert model.most == 4
    assert [thread.name for thread in threading.enumerate()].count("promptsmith") == 1
    runtime.close()


def test_the_first_calls_of_many_threads_make_one_loop(promoted: Make) -> None:
    """Each thread that found no loop could make one of its own; a short switch interval makes them try."""
    out = finished(
        promoted(),
        """
        sys.setswitchinterval(1e-6)
        start = threading.Barrier(32)
        def work():
            start.wait()
            runtime.run("sentiment", "It broke after a day.")
        def all_at_once():
            threads = [threading.Thread(target=work) for _ in range(32)]
            [t.start() for t in threads]
            [t.join() for t in threads]
            return [t.name for t in threading.enumerate()].count("promptsmith")
        print(all_at_once(), flush=True)
        pid = os.fork()
        if pid == 0:
            print(all_at_once(), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        """,
    )
    assert out.split() == ["1", "1"]


def test_no_type_of_ours_is_read_by_msgspec_outside_an_import(promoted: Make) -> None:
    """Two threads in which msgspec (0.22) reads the fields of one type at once crash the process; an import is one thread's."""
    out = finished(
        promoted(),
        """
        from msgspec import _utils
        from promptsmith import Task, compile_task, evaluate
        from promptsmith.registry.lock import LockFile
        learned = []
        def watch(frame, event, argument):
            if event == "call" and frame.f_code is _utils.get_class_annotations.__code__:
                kind, importing = frame.f_locals["obj"], False
                while frame := frame.f_back:
                    importing |= frame.f_code.co_filename == "<frozen importlib._bootstrap>"
                learned.append((kind.__module__.partition(".")[0], kind.__name__, importing))
        threading.setprofile(watch)
        sys.setprofile(watch)
        task = Task("Sort.", name="t", output=["a", "b"], examples=[("x", "a"), ("y", "b")], holdout=[("z", "a"), ("v", "b")])
        for _ in range(2):
            with Runtime(cache=True) as one:
                one.run("sentiment", "fine")
                one.run(task, "x", compile_missing=True)
                one.run_many("sentiment", ["fine", "well"])
                list(one.stream("sentiment", "well"))
                list(one.asynchronous.store.ledger.rows())
            compile_task(task)
            evaluate(task)
            LockFile(runtime.asynchronous.project.lock).entry("sentiment").check()
        sys.setprofile(None)
        names = {name for module, name, _ in learned if module == "promptsmith"}
        print("Head" in names, [name for module, name, late in learned if module == "promptsmith" and not late])
        """,
    )
    assert out == "True []\n"


def test_a_type_of_the_callers_is_first_used_by_many_threads_at_once(promoted: Make) -> None:
    """``into=`` makes msgspec read the fields of a type that no import of ours could."""
    out = finished(
        promoted(),
        """
        import msgspec
        from promptsmith.runtime.values import turned_into
        sys.setswitchinterval(1e-6)
        for number in range(60):
            inner = msgspec.defstruct("Inner", [(f"f{at}", dict[str, list[int]], {}) for at in range(20)])
            outer = msgspec.defstruct("Outer", [(f"g{at}", list[inner], []) for at in range(20)])
            start = threading.Barrier(8)
            def work():
                start.wait()
                turned_into(outer, {"g0": [{"f0": {"a": [1]}}]})
            threads = [threading.Thread(target=work) for _ in range(8)]
            [t.start() for t in threads]
            [t.join() for t in threads]
        pid = os.fork()
        if pid == 0:
            turned_into(outer, {})
            os._exit(0)
        print(os.waitpid(pid, 0)[1])
        """,
    )
    assert out == "0\n"


def test_a_cache_hit_is_answered_in_the_callers_own_thread(promoted: Make) -> None:
    told: list[str] = []
    with Runtime(promoted(), hooks=[lambda event: told.append(threading.current_thread().name)], cache=True) as runtime:
        runtime.run("sentiment", "x")
        runtime.run("sentiment", "x")
    assert told[0] != threading.current_thread().name
    assert told[1] == threading.current_thread().name


# --- running loops ----------------------------------------------------------------------------------------


def test_it_works_inside_a_running_loop(promoted: Make) -> None:
    with Runtime(promoted()) as runtime:

        async def main() -> list[str]:
            streamed = [chunk.text for chunk in runtime.stream("sentiment", "It broke after a day.")]
            return [runtime.run("sentiment", "This product is amazing!").value, "".join(streamed)]

        assert asyncio.run(main()) == ["positive", "negative"]


class Selfish:
    """A model that calls the sync runtime from the loop that it runs in."""

    name = "toy/selfish"

    def __init__(self, use: Callable[[], object]) -> None:
        self.use = use

    async def reply(self, request: Request) -> Reply:
        self.use()
        return Reply(text="positive", model=self.name)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk("", await self.reply(request))


@pytest.mark.parametrize("how", ["run", "stream", "run_many", "compile_task"])
def test_calling_it_from_our_own_loop_is_a_clear_error_not_a_deadlock(promoted: Make, how: str) -> None:
    project = promoted()
    inner = Runtime(project)
    uses = {
        "run": lambda: inner.run("sentiment", "x"),
        "stream": lambda: list(inner.stream("sentiment", "x")),
        "run_many": lambda: inner.run_many("sentiment", ["x"]),
        "compile_task": lambda: compile_task("sentiment", project=project),
    }
    with Runtime(project, models={"toy/selfish": Selfish(uses[how])}) as runtime:
        call = LOOP.start(runtime.asynchronous.run("sentiment", "x", model="toy/selfish"))
        with pytest.raises(InputError, match=r"promptsmith's own event loop.*\n.*AsyncRuntime"):
            call.result(HANG)
        assert runtime.run("sentiment", "This product is amazing!").value == "positive"


# --- streams ----------------------------------------------------------------------------------------------


class Endless:
    """Streams until somebody stops it."""

    name = "toy/endless"

    def __init__(self) -> None:
        self.stopped = threading.Event()

    async def reply(self, request: Request) -> Reply:
        raise ModelError("streams only")

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        try:
            while True:
                await asyncio.sleep(0.001)
                yield Chunk("x ")
        finally:
            self.stopped.set()


def test_a_consumer_that_stops_early_ends_the_models_generator(promoted: Make) -> None:
    model = Endless()
    with Runtime(promoted(), models={"toy/endless": model}) as runtime:
        for chunk in runtime.stream("sentiment", "x", model="toy/endless"):
            assert chunk.text == "x "
            break
        assert model.stopped.wait(HANG)


def test_a_stream_that_nobody_reads_asks_nobody(promoted: Make, toy: Any) -> None:
    model = toy()
    with Runtime(promoted(), models={"toy/small": model}) as runtime:
        stream: Iterator[Any] = runtime.stream("sentiment", "x", model="toy/small")
        del stream
    assert model.asked == []


# --- fork -------------------------------------------------------------------------------------------------


def test_a_forked_child_and_its_parent_both_go_on(promoted: Make) -> None:
    """The parent forks with its loop in use: a call is under way in another thread, and hits are in memory."""
    out = finished(
        promoted(),
        """
        def use(who, text):
            first = runtime.run("sentiment", text, cache=True).source
            again = runtime.run("sentiment", text, cache=True).source
            many = [r.value for r in runtime.run_many("sentiment", [who, "It broke after a day."])]
            streamed = list(runtime.stream("sentiment", "This product is amazing!"))[-1].result.value
            print(who, first, again, many[1], streamed, flush=True)
        use("parent", "one")
        begin()
        pid = os.fork()
        if pid == 0:
            use("child", "two")
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        use("parent", "three")
        """,
    )
    assert out.splitlines() == [
        "parent model cache negative positive", "child model cache negative positive", "parent model cache negative positive",
    ]  # fmt: skip


def test_multiprocessing_workers_answer(promoted: Make) -> None:
    out = finished(
        promoted(),
        """
        import multiprocessing
        def work(text):
            return runtime.run("sentiment", text).value
        if __name__ == "__main__":
            work("warm")
            with multiprocessing.get_context("fork").Pool(3) as pool:
                print(*pool.map(work, ["It broke after a day.", "This product is amazing!"] * 5))
        """,
    )
    assert out.split() == ["negative", "positive"] * 5


# --- the end of the process -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        "runtime.run('sentiment', 'x', cache=True)",
        "list(runtime.stream('sentiment', 'x'))",
        "next(runtime.stream('sentiment', 'x', model='toy/slow'))",
        "stream = runtime.stream('sentiment', 'x', model='toy/slow'); next(stream)",
        "runtime.run_many('sentiment', ['x', 'y'])",
        "asyncio.run(runtime.asynchronous.run('sentiment', 'x'))",
        "Runtime(hooks=[lambda event: None]).run('sentiment', 'x')",
        "begin()",
    ],
)
def test_the_process_ends_without_close(promoted: Make, use: str) -> None:
    """Exit code 0, nothing on stderr, and no wait for a call that would take minutes."""
    finished(promoted(), use)


def test_a_reply_that_waits_to_be_written_is_written_at_the_end(promoted: Make) -> None:
    project = promoted()
    code = "print(runtime.run('sentiment', 'It broke after a day.', cache=True).source)"
    assert [finished(project, code), finished(project, code)] == ["model\n", "cache\n"]


def test_a_call_under_way_at_the_end_is_cancelled(promoted: Make) -> None:
    project = promoted()
    finished(project, "begin()")
    assert (project.root / "cancelled").exists()


@pytest.mark.parametrize(
    "call",
    [
        "runtime.run('sentiment', 'x', model='toy/slow')",
        "list(runtime.stream('sentiment', 'x', model='toy/slow'))",
        "runtime.run_many('sentiment', ['x', 'y'], model='toy/slow')",
        "runtime.run('sentiment', 'x', model='toy/slow', cache=True, fallback=['builtin/nearest'])",
        "asyncio.run(runtime.asynchronous.run('sentiment', 'x', model='toy/slow'))",
    ],
)
def test_ctrl_c_ends_a_call_at_once_and_cancels_the_model(promoted: Make, call: str) -> None:
    project = promoted()
    code = f"""
    try:
        {call}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        while not Path("cancelled").exists():
            time.sleep(0.01)
        print(runtime.run("sentiment", "It broke after a day.").value)
    """
    with child(project, code) as process:
        appears(project.root / "asked", process)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert (process.returncode, out, err) == (0, "interrupted\nnegative\n", "")


def test_an_uncaught_ctrl_c_ends_the_process(promoted: Make) -> None:
    project = promoted()
    with child(project, "runtime.run('sentiment', 'x', model='toy/slow')") as process:
        appears(project.root / "asked", process)
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == -signal.SIGINT
    assert err.strip().endswith("KeyboardInterrupt")
    assert (project.root / "cancelled").exists()


def test_other_calls_go_on_when_one_thread_gives_up(promoted: Make, toy: Any) -> None:
    """Only the call that is waited for is cancelled, not the loop."""
    quick, slow = toy(seconds=0.05), toy(name="toy/slow", seconds=60)
    with Runtime(promoted(), models={"toy/small": quick, "toy/slow": slow}) as runtime:
        future = LOOP.start(runtime.asynchronous.run("sentiment", "x", model="toy/slow"))
        other = LOOP.start(runtime.asynchronous.run("sentiment", "x", model="toy/small"))
        while not slow.asked:
            threading.Event().wait(0.001)
        future.cancel()
        assert other.result(HANG).value == "positive"
        assert slow.cancelled == 1
