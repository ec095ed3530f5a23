"""Replies: complete ones only, in memory and on disk, written in batches and never lost at the end of a process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import get_args

import pytest

from promptsmith.chat import Reply, Stop, Usage
from promptsmith.errors import StoreError, TamperedError
from promptsmith.store import DiskStore, StoreWarning
from promptsmith.store.maintain import prune, stats, verify
from promptsmith.store.replies import Memory

# Python 3.12 and later warn of what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

LATER = 3600.0
"""A linger so long that the writer never gets to write by itself within a test."""


def reply_of(text: str = "positive") -> Reply:
    return Reply(text=text, model="openai/x", usage=Usage(10, 2, 5), cost=0.001, latency=0.5, attempts=2, request_id="r1")


def rows(folder: Path) -> list[tuple[str, float | None]]:
    path = folder / "replies/cache.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as con:
        if not con.execute("SELECT count(*) FROM sqlite_master WHERE name = 'Cache'").fetchone()[0]:
            return []  # the writer is making the file at this moment
        return con.execute("SELECT key, expire_time FROM Cache ORDER BY rowid").fetchall()


def change(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "replies/cache.db", isolation_level=None)) as con:
        con.execute(statement, values)


# --- what is kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", get_args(Stop))
def test_only_complete_replies_are_kept(tmp_path: Path, stop: Stop) -> None:
    reply = Reply(text="x", model="m/x", stop=stop)
    with DiskStore(tmp_path) as store:
        store.put_reply("k", reply)
        assert store.reply("k") == (reply if stop == "end" else None)
    with DiskStore(tmp_path) as store:
        assert store.reply("k") == (reply if stop == "end" else None)


def test_a_reply_comes_back_whole_from_memory_from_the_queue_and_from_disk(tmp_path: Path) -> None:
    reply = reply_of("é\r\n\u2028\0 {}")
    with DiskStore(tmp_path, linger=LATER, memory_entries=0) as store:
        store.put_reply("k", reply)
        assert rows(tmp_path) == []
        assert store.reply("k") == reply  # not on disk yet and not in memory
    with DiskStore(tmp_path) as store:
        assert store.reply("k") == reply
        (tmp_path / "replies/cache.db").unlink()
        assert store.reply("k") == reply  # from memory


def test_memory_is_bounded_by_entries_and_by_bytes_and_drops_the_oldest() -> None:
    by_entries, by_bytes = Memory(3, 10**6), Memory(100, 250)
    for memory in (by_entries, by_bytes):
        for n in range(4):
            memory.put(str(n), reply_of(str(n)), 80, None)
            memory.get("0")
        assert [key for key in "0123" if memory.get(key)] == ["0", "2", "3"]
    by_bytes.put("large", reply_of(), 251, None)
    assert by_bytes.get("large") is None
    by_entries.put("0", reply_of("new"), 80, None)
    assert by_entries.get("0") == reply_of("new")


def test_replies_that_another_store_clears_leave_the_memory(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store, DiskStore(tmp_path) as other:
        for times in range(2):
            store.put_reply("k", reply_of(str(times)))
            store.flush()
            assert store.reply("k") == reply_of(str(times))
            other.clear(replies_only=True)
            until = time.monotonic() + 30.0
            while store.reply("k") is not None:
                assert time.monotonic() < until, "it goes on giving out what was cleared"
        store.put_reply("k", reply_of("new"))
        assert store.reply("k") == reply_of("new")


def test_clear_writes_through_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    with DiskStore(tmp_path / "cache") as store:
        store.put_reply("k", reply_of())
        store.flush()
        (tmp_path / "cache" / "replies" / "cleared").symlink_to(outside)
        with pytest.raises(StoreError, match="cleared can't be written"):
            store.clear(replies_only=True)
    assert outside.read_text() == ""


def test_replies_are_written_in_batches(tmp_path: Path) -> None:
    """All rows put before a flush have one store time: they shared a transaction."""
    before = set(threading.enumerate())
    with DiskStore(tmp_path, linger=LATER) as store:
        for n in range(500):
            store.put_reply(str(n), reply_of(str(n)))
        store.put_reply("7", reply_of("newer"))
        assert len([thread for thread in set(threading.enumerate()) - before if thread.name == "promptsmith-replies"]) == 1
        store.flush()
        assert len(rows(tmp_path)) == 500
        with closing(sqlite3.connect(tmp_path / "replies/cache.db")) as con:
            ((span,),) = con.execute("SELECT max(store_time) - min(store_time) FROM Cache").fetchall()
            assert span < LATER
    with DiskStore(tmp_path) as store:
        assert store.reply("7") == reply_of("newer")


def test_the_writer_writes_without_being_asked(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.put_reply("k", reply_of())
        while not rows(tmp_path):
            time.sleep(0.005)


def test_a_crowded_queue_is_written_by_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptsmith.store.replies.PENDING_BYTES", 10_000)
    with DiskStore(tmp_path, linger=LATER) as store:
        for n in range(5):
            store.put_reply(str(n), reply_of("x" * 4000))
        assert len(rows(tmp_path)) == 3


# --- nothing is lost at the end ---------------------------------------------------------------------------

PUT = """
import sys
from promptsmith.store import DiskStore
from promptsmith.chat import Reply
store = DiskStore(sys.argv[1], linger=3600.0)
for n in range(5000):
    store.put_reply(str(n), Reply(text=str(n), model="m/x"))
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError", "store.close()", "del store"])
def test_all_rows_are_on_disk_after_the_process_whatever_its_end(tmp_path: Path, end: str) -> None:
    subprocess.run([sys.executable, "-c", PUT + end, str(tmp_path)], stderr=subprocess.DEVNULL, check=False)
    assert len(rows(tmp_path)) == 5000


def _child(folder: str) -> None:
    DiskStore(folder, linger=LATER).put_reply("from-child", reply_of())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_all_rows_are_on_disk_after_a_multiprocessing_child(tmp_path: Path, method: str) -> None:
    """Such a child ends without atexit before Python 3.13."""
    kind: type[BaseProcess] = getattr(multiprocessing.get_context(method), "Process")  # noqa: B009 - typeshed has no such attribute
    child = kind(target=_child, args=(str(tmp_path),))
    child.start()
    child.join()
    assert [key for key, _ in rows(tmp_path)] == ["from-child"]


def forked(work: Callable[[], None]) -> int:
    """Runs ``work`` in a forked child and returns its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_starts_with_an_empty_queue_and_its_own_writer(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, linger=LATER)
    store.put_reply("kept", reply_of())
    store.flush()
    assert store.reply("kept") is not None
    store.put_reply("waiting", reply_of("parent's"))

    def child() -> None:
        assert store.reply("waiting") is None
        assert store.reply("kept") == reply_of()
        store.put_reply("child", reply_of())
        store.close()

    assert forked(child) == 0
    assert [key for key, _ in rows(tmp_path)] == ["kept", "child"]  # the parent's row was not written by the child
    store.close()
    assert [key for key, _ in rows(tmp_path)] == ["kept", "child", "waiting"]


def test_forks_while_the_writer_is_at_work_neither_hang_nor_lose_rows(tmp_path: Path) -> None:
    with DiskStore(tmp_path, linger=0.0) as store:
        for n in range(20):
            for m in range(20):
                store.put_reply(f"parent {n} {m}", reply_of("x" * 2000))

            def child(n: int = n) -> None:
                store.put_reply(f"child {n}", reply_of())
                store.close()

            assert forked(child) == 0
    assert len(rows(tmp_path)) == 20 * 21
    assert verify(str(tmp_path)) == []


def test_a_killed_process_loses_only_what_waited(tmp_path: Path) -> None:
    code = PUT + "store.flush()\nstore.put_reply('lost', Reply(text='x', model='m/x'))\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert len(rows(tmp_path)) == 5000
    assert verify(str(tmp_path)) == []


def test_a_closed_store_can_be_used_again(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    store = DiskStore(tmp_path, linger=LATER)
    for n in range(3):
        store.put_reply(str(n), reply_of())
        store.close()
        assert len(rows(tmp_path)) == n + 1
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "promptsmith-replies"]


def test_threads_put_and_get_at_once(tmp_path: Path) -> None:
    missing: list[str] = []
    with DiskStore(tmp_path, memory_entries=5, linger=0.0) as store:

        def work(me: int) -> None:
            for n in range(200):
                store.put_reply(f"{me} {n}", reply_of())
                missing.extend(key for key in (f"{me} {n}", f"{me} {n // 2}") if store.reply(key) is None)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert missing == []
    assert len(rows(tmp_path)) == 1600


# --- age and size -----------------------------------------------------------------------------------------


def test_a_reply_past_its_time_is_found_neither_in_memory_nor_on_disk(tmp_path: Path) -> None:
    with DiskStore(tmp_path, reply_ttl=1000.0) as store:
        store.put_reply("k", reply_of())
        store.flush()
        ((_, expires),) = rows(tmp_path)
        assert expires is not None
        assert abs(expires - time.time() - 1000.0) < 100.0
    with DiskStore(tmp_path, reply_ttl=-1.0) as store:
        store.put_reply("past", reply_of())
        assert store.reply("past") is None
    change(tmp_path, "UPDATE Cache SET expire_time = 1000.0")
    with DiskStore(tmp_path) as store:
        assert store.reply("k") is None


def test_prune_removes_expired_rows_then_the_oldest_until_the_limit(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        for n in range(10):
            store.put_reply(str(n), reply_of("x" * 10_000))
            store.flush()
    change(tmp_path, "UPDATE Cache SET store_time = 1000.0 + CAST(key AS INTEGER)")
    change(tmp_path, "UPDATE Cache SET expire_time = 1500.0 WHERE key = '9'")
    counts = prune(str(tmp_path), reply_ttl=None, size_limit=45_000, now=2000.0)
    assert counts == {"expired": 1, "over_limit": 5, "orphans": 0, "journals": 0, "captures": 0, "reports": 0, "plans": 0}
    assert [key for key, _ in rows(tmp_path)] == ["5", "6", "7", "8"]
    assert prune(str(tmp_path), reply_ttl=993.5, size_limit=None, now=2000.0)["expired"] == 2
    assert [key for key, _ in rows(tmp_path)] == ["7", "8"]
    assert verify(str(tmp_path)) == []


def test_prune_survives_bad_rows_and_takes_those_without_a_time(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.put_reply("good", reply_of())
    insert = "INSERT INTO Cache (key, raw, store_time, expire_time, mode, filename, size) VALUES (?, ?, ?, ?, ?, ?, ?)"
    change(tmp_path, insert, "no time", 1, "text", None, 1, None, 0)
    change(tmp_path, insert, 7, 1, 1.0, b"\xff", 4, "../../outside", "text")
    change(tmp_path, insert, "kept", 1, 1.0, None, 1, None, None)
    outside = tmp_path.parent / "outside"
    outside.write_text("x")
    assert prune(str(tmp_path), None, 10**6, time.time())["expired"] == 2
    assert {key for key, _ in rows(tmp_path)} == {"good", "kept"}
    assert outside.exists()


def test_prune_removes_old_files_without_a_row_and_keeps_young_ones(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.put_reply("large", reply_of("x" * 2**21))
    names = ["aa/bb/" + "1" * 28 + ".val", "aa/bb/" + "2" * 28 + ".val"]
    for name, age in zip(names, (7200, 0), strict=True):
        path = tmp_path / "replies" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (time.time() - age,) * 2)
    assert prune(str(tmp_path), None, None, time.time())["orphans"] == 1
    with DiskStore(tmp_path) as store:
        assert store.reply("large") == reply_of("x" * 2**21)
    assert prune(str(tmp_path), None, 10_000, time.time())["over_limit"] == 1
    assert [path.name for path in (tmp_path / "replies").rglob("*.val")] == ["2" * 28 + ".val"]


def test_the_writer_keeps_the_replies_near_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptsmith.store.folder._LOOK_SECONDS", 0.0)
    with DiskStore(tmp_path, reply_bytes=100_000, linger=0.0) as store:
        for n in range(60):
            store.put_reply(str(n), reply_of("x" * 10_000))
            store.flush()
        while len(rows(tmp_path)) > 10:
            store.put_reply("wake", reply_of())
            time.sleep(0.01)
        assert store.prompt_ids() == []
    assert rows(tmp_path)


# --- rows that somebody changed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "assignment",
    ["value = CAST(replace(CAST(value AS TEXT), 'positive', 'negative') AS BLOB)", "value = 'x'", "value = 7", "mode = 4",
     "mode = 2, value = NULL, filename = '../../x'", "expire_time = 'never'", "value = (SELECT value FROM Cache WHERE key = 'other')"],
)  # fmt: skip
def test_a_changed_or_exchanged_row_is_refused(tmp_path: Path, assignment: str) -> None:
    with DiskStore(tmp_path) as store:
        store.put_reply("k", reply_of())
        store.put_reply("other", reply_of("other"))
    change(tmp_path, f"UPDATE Cache SET {assignment} WHERE key = 'k'")
    with DiskStore(tmp_path) as store:
        with pytest.raises(TamperedError):
            store.reply("k")
        assert store.reply("other") == reply_of("other")
        store.put_reply("k", reply_of())
        store.flush()
    with DiskStore(tmp_path) as store:
        assert store.reply("k") == reply_of()


def test_a_damaged_file_is_named_to_readers_and_warned_of_to_writers(tmp_path: Path) -> None:
    (tmp_path / "replies").mkdir(parents=True)
    (tmp_path / "replies/cache.db").write_bytes(b"no database at all" * 1000)
    store = DiskStore(tmp_path)
    with pytest.raises(StoreError, match=r"cache\.db"):
        store.reply("k")
    store.put_reply("k", reply_of())
    with pytest.warns(StoreWarning, match=r"cache\.db"):
        store.close()
    assert store.reply("k") == reply_of()  # from memory


def test_no_place_on_disk_is_one_warning_and_memory_serves_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = DiskStore(tmp_path / "file/cache")
    store.put_reply("0", reply_of())
    with pytest.warns(StoreWarning, match="nothing is kept"):
        store.flush()
    for n in range(5):  # a second warning would be an error here
        store.put_reply(str(n), reply_of())
        store.flush()
        assert store.reply(str(n)) == reply_of()
    assert store.reply("other") is None
    store.close()


def test_stats_of_replies(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.put_reply("k", reply_of("x" * 2**21))
        store.put_reply("l", reply_of())
    found = stats(str(tmp_path))["replies"]
    assert found["entries"] == 2
    assert isinstance(found["bytes"], int)
    assert found["bytes"] > 2**21
