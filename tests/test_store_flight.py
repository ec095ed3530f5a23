"""Single flight: once over tasks, threads, loops and processes; nobody waits for ever, and a dead leader frees all."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from promptsmith.canonical import sha256
from promptsmith.chat import Reply
from promptsmith.errors import StoreError
from promptsmith.store import DiskStore, StoreWarning
from promptsmith.store.flight import Flight
from promptsmith.store.stripes import stripes
from promptsmith.store.trouble import Trouble

# Python 3.12 and later warn of what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

TIMEOUT = 30.0
"""Far more than any of these takes; a deadlock fails instead of hanging."""


class Work:
    """Something that takes its time and is counted: ``make`` waits until it is let go."""

    def __init__(self) -> None:
        self.made = 0
        self.kept: int | None = None
        self.started = asyncio.Event()
        self.go = asyncio.Event()

    def find(self) -> int | None:
        return self.kept

    async def make(self) -> int:
        self.made += 1
        self.started.set()
        await self.go.wait()
        self.kept = 7
        return 7


def flight(folder: Path) -> Flight:
    return Flight(str(folder / "locks"), Trouble(str(folder)))


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT):
            await work()

    asyncio.run(bounded())


async def settle() -> None:
    """Lets all tasks run until each of them waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def nothing() -> None:
    return None


async def seven() -> int:
    return 7


def is_free(folder: Path, key: str) -> bool:
    """Whether somebody else could take the stripe of ``key`` now."""
    others = stripes(str(folder / "locks"))
    free = others.take(sha256(key)[:2])
    others.drop()
    return free


@contextmanager
def held_elsewhere(folder: Path, key: str) -> Iterator[None]:
    """The stripe of ``key`` is somebody else's."""
    (folder / "locks").mkdir(exist_ok=True)
    others = stripes(str(folder / "locks"))
    assert others.take(sha256(key)[:2])
    try:
        yield
    finally:
        others.drop()


def same_stripe(key: str) -> str:
    """Another key of the same stripe."""
    return next(other for other in map(str, range(10_000)) if other != key and sha256(other)[:2] == sha256(key)[:2])


# --- one process ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["once", "once_build"])
def test_a_hundred_tasks_make_it_once(tmp_path: Path, kind: str) -> None:
    async def work() -> None:
        job, air = Work(), flight(tmp_path)
        tasks = [asyncio.create_task(getattr(air, kind)("k", job.find, job.make)) for _ in range(100)]
        await job.started.wait()
        job.go.set()
        assert await asyncio.gather(*tasks) == [7] * 100
        assert job.made == 1

    run(work)


def test_what_is_there_takes_no_lock_and_makes_no_file(tmp_path: Path) -> None:
    async def work() -> None:
        assert await flight(tmp_path).once("k", lambda: 3, seven) == 3
        assert not (tmp_path / "locks").exists()

    run(work)


def test_threads_with_loops_of_their_own_make_it_once(tmp_path: Path) -> None:
    air = flight(tmp_path)
    made: list[int] = []
    answers: list[int] = []
    barrier = threading.Barrier(16)
    kept: list[int] = []

    async def make() -> int:
        made.append(1)
        await asyncio.sleep(0.05)
        kept.append(7)
        return 7

    def thread() -> None:
        barrier.wait()
        answers.append(asyncio.run(air.once("k", lambda: kept[0] if kept else None, make)))

    threads = [threading.Thread(target=thread) for _ in range(16)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(TIMEOUT)
    assert answers == [7] * 16
    assert made == [1]


def test_a_leader_whose_loop_is_gone_before_its_follower_wakes_does_no_harm(tmp_path: Path) -> None:
    """A follower that gave up leaves a callback to its closed loop behind."""

    async def work() -> None:
        job, air = Work(), flight(tmp_path)
        leader = asyncio.create_task(air.once("k", job.find, job.make))
        await job.started.wait()

        def give_up() -> None:
            async def short() -> None:
                async with asyncio.timeout(0.01):
                    await air.once("k", job.find, job.make)

            with pytest.raises(TimeoutError):
                asyncio.run(short())

        await asyncio.to_thread(give_up)
        job.go.set()
        assert await leader == 7

    run(work)


def test_an_error_goes_to_all_who_waited_and_the_next_call_tries_again(tmp_path: Path) -> None:
    async def work() -> None:
        job, air = Work(), flight(tmp_path)

        async def fail() -> int:
            await job.make()
            raise StoreError("no")

        tasks = [asyncio.create_task(air.once("k", nothing, fail)) for _ in range(5)]
        await job.started.wait()
        await settle()
        job.go.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreError] * 5
        assert job.made == 1
        assert await air.once("k", nothing, seven) == 7

    run(work)


def test_when_the_leader_is_cancelled_one_follower_takes_over(tmp_path: Path) -> None:
    async def work() -> None:
        job, air = Work(), flight(tmp_path)
        tasks = [asyncio.create_task(air.once("k", job.find, job.make)) for _ in range(5)]
        await job.started.wait()
        await settle()
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        await settle()
        job.go.set()
        assert await asyncio.gather(*tasks[1:]) == [7] * 4
        assert job.made == 2

    run(work)


def test_a_cancelled_follower_disturbs_nobody(tmp_path: Path) -> None:
    async def work() -> None:
        job, air = Work(), flight(tmp_path)
        tasks = [asyncio.create_task(air.once("k", job.find, job.make)) for _ in range(3)]
        await job.started.wait()
        await settle()
        tasks[1].cancel()
        await settle()
        assert tasks[1].cancelled()
        job.go.set()
        assert (await tasks[0], await tasks[2]) == (7, 7)
        assert job.made == 1

    run(work)


def test_locks_are_free_after_success_error_and_cancellation(tmp_path: Path) -> None:
    async def work() -> None:
        job, air = Work(), flight(tmp_path)

        async def fail() -> int:
            assert not is_free(tmp_path, "k")
            raise StoreError("no")

        with pytest.raises(StoreError):
            await air.once("k", nothing, fail)
        assert is_free(tmp_path, "k")
        task = asyncio.create_task(air.once("k", job.find, job.make))
        await job.started.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert is_free(tmp_path, "k")
        assert await air.once("k", nothing, seven) == 7
        assert is_free(tmp_path, "k")

    run(work)


# --- stripes ----------------------------------------------------------------------------------------------


def test_another_key_of_a_stripe_that_this_process_holds_is_not_waited_for(tmp_path: Path) -> None:
    async def work() -> None:
        job, air = Work(), flight(tmp_path)
        task = asyncio.create_task(air.once("k", job.find, job.make))
        await job.started.wait()
        assert await air.once(same_stripe("k"), nothing, seven) == 7
        assert not is_free(tmp_path, "k")  # the first one still has it
        job.go.set()
        assert await task == 7

    run(work)


def test_who_holds_a_stripe_waits_for_no_other(tmp_path: Path) -> None:
    """A reply made within another goes ahead when its stripe is busy elsewhere: two such could wait for each other."""

    async def work() -> None:
        air = flight(tmp_path)
        with held_elsewhere(tmp_path, "inner"):
            assert await air.once("outer", nothing, lambda: air.once("inner", nothing, seven)) == 7

    run(work)


def test_who_holds_a_stripe_does_not_follow_one_who_waits_for_another(tmp_path: Path) -> None:
    """It joins a call whose leader waits for a busy stripe: that leader stops waiting."""

    async def work() -> None:
        air = flight(tmp_path)
        with held_elsewhere(tmp_path, "inner"):
            waiting = asyncio.create_task(air.once("inner", nothing, seven))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            assert await air.once("outer", nothing, lambda: air.once("inner", nothing, seven)) == 7
            assert await waiting == 7

    run(work)


def test_a_build_waits_for_a_stripe_but_not_for_another_build(tmp_path: Path) -> None:
    async def work() -> None:
        air = flight(tmp_path)
        (tmp_path / "locks").mkdir()
        with FileLock(tmp_path / "locks/build-bb.lock"):
            assert await air.once_build("aa", nothing, lambda: air.once_build("bb", nothing, seven)) == 7
        with held_elsewhere(tmp_path, "k"):
            building = asyncio.create_task(air.once_build("aa", nothing, lambda: air.once("k", nothing, seven)))
            await asyncio.sleep(0.05)
            assert not building.done()
        assert await building == 7

    run(work)


def test_waiting_for_another_process_leaves_the_loop_free_and_can_be_cancelled(tmp_path: Path) -> None:
    async def work() -> None:
        air = flight(tmp_path)
        with held_elsewhere(tmp_path, "k"):
            task = asyncio.create_task(air.once("k", nothing, seven))
            for _ in range(50):
                await asyncio.sleep(0.001)  # the loop turns while the lock is waited for
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
        assert await air.once("k", nothing, seven) == 7

    run(work)


def test_what_another_process_made_meanwhile_is_found_after_the_wait(tmp_path: Path) -> None:
    async def work() -> None:
        job, air = Work(), flight(tmp_path)
        with held_elsewhere(tmp_path, "k"):
            task = asyncio.create_task(air.once("k", job.find, job.make))
            await asyncio.sleep(0.01)
            job.kept = 3
        assert await task == 3
        assert job.made == 0

    run(work)


def test_where_no_lock_file_can_be_made_it_is_once_in_the_process(tmp_path: Path) -> None:
    async def work() -> None:
        (tmp_path / "file").write_text("")
        job, air = Work(), flight(tmp_path / "file")
        tasks = [asyncio.create_task(air.once("k", job.find, job.make)) for _ in range(10)]
        await job.started.wait()
        await settle()
        job.go.set()
        assert await asyncio.gather(*tasks) == [7] * 10
        assert job.made == 1

    with pytest.warns(StoreWarning):
        run(work)


def test_a_lock_file_that_is_a_folder_does_not_stop_the_work(tmp_path: Path) -> None:
    async def work() -> None:
        (tmp_path / "locks/build-aa.lock").mkdir(parents=True)
        assert await flight(tmp_path).once_build("aa", nothing, seven) == 7

    run(work)


def test_a_build_key_can_name_no_path(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        asyncio.run(flight(tmp_path).once_build("../x", nothing, seven))


# --- with the store's own replies -------------------------------------------------------------------------


def test_the_stripe_is_let_go_only_when_the_reply_is_on_disk(tmp_path: Path) -> None:
    """Else another process would get the lock, find nothing, and pay again."""

    async def work() -> None:
        with DiskStore(tmp_path, linger=3600.0) as store:

            async def make() -> Reply:
                reply = Reply(text="x", model="m/x")
                store.put_reply("k", reply)
                return reply

            assert (await store.once("k", lambda: store.reply("k"), make)).text == "x"
            assert not is_free(tmp_path, "k")
            store.flush()
            assert is_free(tmp_path, "k")
            with DiskStore(tmp_path) as other:
                assert other.reply("k") is not None

    run(work)


def test_who_asks_while_a_batch_is_being_written_is_told_when_the_next_one_is(tmp_path: Path) -> None:
    """The batch under way does not hold the later row; without a further put somebody must still look."""
    with DiskStore(tmp_path, linger=0.0) as store:
        store.put_reply("first", Reply(text="x", model="m/x"))
        store.flush()
        kept = threading.Event()
        with closing(sqlite3.connect(tmp_path / "replies/cache.db", isolation_level=None)) as con:
            con.execute("BEGIN IMMEDIATE")
            store.put_reply("second", Reply(text="x", model="m/x"))
            while not store._replies._writing:
                time.sleep(0.001)
            store._replies.when_kept(lambda _: kept.set(), None)
            assert not kept.is_set()
            con.execute("ROLLBACK")
        assert kept.wait(TIMEOUT)


ONCE = """
import asyncio, sys
from promptsmith.store import DiskStore, StoreWarning
from promptsmith.chat import Reply
folder, kind = sys.argv[1:3]
async def main():
    with DiskStore(folder) as store:
        async def work(n):
            key = f"{n:064x}"
            async def make():
                with open(f"{folder}/made", "a") as file:
                    file.write(f"{n}\\n")
                await asyncio.sleep(0.01)
                reply = Reply(text=key, model="m/x")
                store.put_reply(key, reply)
                if kind == "once_build":
                    store.flush()
                return reply
            reply = await getattr(store, kind)(key, lambda: store.reply(key), make)
            assert reply.text == key
        print(flush=True)
        sys.stdin.readline()
        for n in range(12):
            await asyncio.gather(work(n), work(n))
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["once", "once_build"])
def test_processes_at_once_make_each_thing_once(tmp_path: Path, kind: str) -> None:
    pipe = subprocess.PIPE
    processes = [subprocess.Popen([sys.executable, "-c", ONCE, str(tmp_path), kind], stdin=pipe, stdout=pipe) for _ in range(8)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=TIMEOUT)
    assert [process.returncode for process in processes] == [0] * 8
    assert sorted((tmp_path / "made").read_text().split(), key=int) == [str(n) for n in range(12)]


HOLD = """
import asyncio, sys
from promptsmith.store import DiskStore, StoreWarning
async def main():
    store = DiskStore(sys.argv[1])
    async def make():
        print("held", flush=True)
        await asyncio.sleep(3600)
    await getattr(store, sys.argv[2])("aa", lambda: None, make)
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["once", "once_build"])
def test_a_killed_leader_takes_its_lock_with_it(tmp_path: Path, kind: str) -> None:
    async def work(leader: subprocess.Popen[bytes]) -> None:
        task = asyncio.create_task(getattr(DiskStore(tmp_path), kind)("aa", nothing, seven))
        await asyncio.sleep(0.05)
        assert not task.done()
        leader.send_signal(signal.SIGKILL)
        assert await task == 7

    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), kind], stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        assert leader.stdout.readline() == b"held\n"
        run(lambda: work(leader))


def test_a_forked_child_waits_for_no_future_of_its_parent(tmp_path: Path) -> None:
    """The parent leads when it forks; the child has no such leader and goes its own way once the lock is free."""
    air = flight(tmp_path)
    in_make, release = threading.Event(), threading.Event()

    async def make() -> int:
        in_make.set()
        await asyncio.to_thread(release.wait)
        return 7

    thread = threading.Thread(target=lambda: asyncio.run(air.once("k", nothing, make)))
    thread.start()
    in_make.wait(TIMEOUT)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(int(TIMEOUT))
            code = 0 if asyncio.run(air.once("k", nothing, seven)) == 7 else 2
        finally:
            os._exit(code)
    time.sleep(0.02)
    release.set()
    thread.join(TIMEOUT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
