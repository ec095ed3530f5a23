"""Journals and ledger: whole lines whatever happens, written before a reply is handed on, replayed as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from promptsmith.chat import Reply, Usage
from promptsmith.errors import StoreError
from promptsmith.store import DiskStore, Journal, LedgerRow, Outcome, StoreWarning
from promptsmith.store.journal import is_finished, journal_path
from promptsmith.store.maintain import prune, verify

# Python 3.12 and later warn of what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

KEY = "5" * 64


def outcome(n: int, text: str = "x") -> Outcome:
    return Outcome(key=str(n), reply=Reply(text=text, model="m/x", usage=Usage(3, 1), cost=0.1), cost=0.1, attempts=2)


def ledger_row(n: int = 0) -> LedgerRow:
    return LedgerRow(time=float(n), task="t", prompt="p", stage="run", model="m/x", endpoint="m", input=n, cost=None)


def journal(folder: Path, key: str = KEY) -> Journal:
    return Journal(str(folder), "eval", key, {"task": "t"})


# --- replay -----------------------------------------------------------------------------------------------


def test_what_was_appended_is_replayed(tmp_path: Path) -> None:
    refused = Outcome(key="r", reply=Reply(text="no", model="m/x", stop="refused"))
    failed = Outcome(key="f", error="400: bad request", cost=None)
    with journal(tmp_path) as first:
        for row in (outcome(1), refused, failed):
            first.append(row)
        assert (first.replayed, first.finished) == (0, False)
    with journal(tmp_path) as again:
        assert again.entries == {"1": outcome(1), "r": refused, "f": failed}
        assert (again.replayed, again.damaged, again.finished) == (3, 0, False)


def test_the_last_outcome_of_a_key_counts(tmp_path: Path) -> None:
    with journal(tmp_path) as first:
        for text in ("old", "new"):
            first.append(outcome(1, text))
    with journal(tmp_path) as again:
        assert again.entries == {"1": outcome(1, "new")}


def test_a_finished_journal_says_so_with_its_result_and_can_be_begun_anew(tmp_path: Path) -> None:
    with journal(tmp_path) as first:
        first.append(outcome(1))
        first.finish({"prompt": "abc", "score": 0.5, "none": None})
        assert first.finished
        with pytest.raises(StoreError, match="finished"):
            first.append(outcome(2))
    with journal(tmp_path) as again:
        assert (again.finished, again.result) == (True, {"prompt": "abc", "score": 0.5, "none": None})
        assert is_finished(again.path)
        again.restart()
        assert (again.finished, again.result, again.entries) == (False, None, {})
        again.append(outcome(3))
        assert not is_finished(again.path)
    with journal(tmp_path) as last:
        assert list(last.entries) == ["3"]


def test_a_finished_journal_with_a_long_result_is_seen_as_finished(tmp_path: Path) -> None:
    with journal(tmp_path) as first:
        first.append(outcome(1, "y" * 300_000))
        assert not is_finished(first.path)
        first.finish({"text": "z" * 300_000})
        assert is_finished(first.path)


def test_each_line_is_json_with_key_reply_usage_cost_and_attempts(tmp_path: Path) -> None:
    with journal(tmp_path) as first:
        first.append(outcome(1, "a\nb\u2028"))
        lines = Path(first.path).read_text().splitlines(keepends=True)
    head, row = (json.loads(line) for line in Path(first.path).read_bytes().split(b"\n")[:-1])
    assert (head["kind"], head["key"], head["version"], head["describe"]) == ("eval", KEY, 1, {"task": "t"})
    assert (row["key"], row["cost"], row["attempts"]) == ("1", 0.1, 2)
    assert (row["reply"]["text"], row["reply"]["usage"]["input"]) == ("a\nb\u2028", 3)
    assert lines[-1].endswith("\n")


def test_the_journal_of_another_key_is_refused(tmp_path: Path) -> None:
    """Names carry half of the key; the header carries all of it."""
    journal(tmp_path).close()
    with pytest.raises(StoreError, match="another procedure"):
        journal(tmp_path, KEY[:32] + "6" * 32)
    path = Path(journal_path(str(tmp_path), "eval", KEY))
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))
    with pytest.raises(StoreError, match="newer"):
        journal(tmp_path)


@pytest.mark.parametrize(("kind", "key"), [("../x", KEY), ("eval", "../../../etc/passwd"), ("Eval", KEY), ("eval", "")])
def test_kind_and_key_can_name_no_path(tmp_path: Path, kind: str, key: str) -> None:
    with pytest.raises(StoreError, match="named by"):
        Journal(str(tmp_path), kind, key)


# --- damage -----------------------------------------------------------------------------------------------


def test_a_journal_cut_at_any_byte_replays_its_whole_rows_and_goes_on(tmp_path: Path) -> None:
    """No whole row is lost wherever a crash cut it, and the next row is not glued to the torn one."""
    with journal(tmp_path) as first:
        for n in range(4):
            first.append(outcome(n, "é" * n))
    path = Path(first.path)
    whole = path.read_bytes()
    # A row is there with its last brace; only the line end after it may be missing.
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")][1:]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = [str(n) for n, end in enumerate(ends) if end <= cut]
        with journal(tmp_path) as again:
            assert (list(again.entries), again.damaged) == (kept, 0)
            again.append(outcome(9))
        with journal(tmp_path) as last:
            assert list(last.entries) == [*kept, "9"]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[]", b'{"row":"outcome","key":7}', b'{"row":"other"}', b"[" * 100_000, b"\0" * 50])
def test_a_damaged_line_in_the_middle_is_skipped_counted_and_reported(tmp_path: Path, line: bytes) -> None:
    with DiskStore(tmp_path) as store, store.journal("eval", KEY) as first:
        first.append(outcome(1))
        path = Path(first.path)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with DiskStore(tmp_path) as store, store.journal("eval", KEY) as again:
        again.append(outcome(2))
    with DiskStore(tmp_path) as store, store.journal("eval", KEY) as last:
        assert (list(last.entries), last.damaged) == (["1", "2"], 1)
    assert [(finding.part, finding.key) for finding in verify(str(tmp_path))] == [("journals", path.name)]


@pytest.mark.parametrize("torn", [b"{", b'{"row":"outcome","key":"to', '{"row":"outcome","key":"é'.encode()[:-1]])
def test_a_row_torn_by_another_process_meanwhile_does_not_take_ours_with_it(tmp_path: Path, torn: bytes) -> None:
    """Nor is it a finding of ``verify``: it was never handed on, and nobody could ever mend it."""
    with DiskStore(tmp_path) as store, store.journal("eval", KEY) as first:
        first.append(outcome(1))
        with open(first.path, "ab") as other:
            other.write(torn)
        first.append(outcome(2))
    with DiskStore(tmp_path) as store, store.journal("eval", KEY) as again:
        assert (list(again.entries), again.damaged) == (["1", "2"], 0)
    assert verify(str(tmp_path)) == []


def test_a_journal_removed_during_the_work_is_made_again(tmp_path: Path) -> None:
    with journal(tmp_path) as first:
        first.append(outcome(1))
        os.remove(first.path)
        first.append(outcome(2))
    with journal(tmp_path) as again:
        assert list(again.entries) == ["2"]


def test_a_journal_that_cannot_be_written_stops_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be written"):
        journal(tmp_path / "file/journals")
    with journal(tmp_path / "journals") as first:
        first.append(outcome(1))
        os.remove(first.path)
        os.mkdir(first.path)
        with pytest.raises(StoreError, match="can't be written"):
            first.append(outcome(2))
        assert list(first.entries) == ["1"]


def test_a_link_in_the_place_of_a_journal_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / "journals").mkdir()
    os.symlink(target, journal_path(str(tmp_path / "journals"), "eval", KEY))
    with pytest.raises(StoreError):
        journal(tmp_path / "journals")
    assert target.read_text() == ""


# --- threads, processes, kill -9 --------------------------------------------------------------------------


def test_threads_append_whole_rows(tmp_path: Path) -> None:
    with journal(tmp_path) as first:

        def append_fifty(me: int) -> None:
            for n in range(50):
                first.append(outcome(me * 1000 + n, "y" * 5000))

        threads = [threading.Thread(target=append_fifty, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with journal(tmp_path) as again:
        assert (len(again.entries), again.damaged) == (400, 0)


APPEND = """
import sys
from promptsmith.store import DiskStore, LedgerRow, Outcome
from promptsmith.chat import Reply
folder, me = sys.argv[1], int(sys.argv[2])
with DiskStore(folder) as store, store.journal("eval", "5" * 64) as journal:
    for n in range(60):
        journal.append(Outcome(key=f"{me}-{n}", reply=Reply(text="y" * (n * 200), model="m/x")))
        store.ledger.append(LedgerRow(time=1.0, task="t" * n, prompt="", stage="run", model="m", endpoint="e", input=me))
"""


def test_sixteen_processes_append_whole_rows_to_one_journal_and_one_ledger(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", APPEND, str(tmp_path), str(n)]) for n in range(16)]
    assert [worker.wait() for worker in workers] == [0] * 16
    with DiskStore(tmp_path) as store:
        with store.journal("eval", KEY) as again:
            assert (len(again.entries), again.damaged) == (960, 0)
        assert len(list(store.ledger.rows())) == 960
        assert store.ledger.damaged == 0


KILLED = """
import os, signal, sys
from promptsmith.store import DiskStore, Outcome
from promptsmith.chat import Reply
store = DiskStore(sys.argv[1], linger=3600.0)
journal = store.journal("eval", "5" * 64)
for n in range(int(sys.argv[2])):
    reply = Reply(text=str(n), model="m/x")
    journal.append(Outcome(key=str(n), reply=reply))
    if n == int(sys.argv[2]) - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    store.put_reply(str(n), reply)
"""


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_kill_between_journal_and_cache_loses_no_paid_reply(tmp_path: Path, count: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(count)], check=False)
    assert done.returncode == -signal.SIGKILL
    with DiskStore(tmp_path) as store:
        assert [store.reply(str(n)) for n in range(count)] == [None] * count
        with store.journal("eval", KEY) as again:
            assert [row.reply.text for row in again.entries.values() if row.reply] == [str(n) for n in range(count)]
    assert verify(str(tmp_path)) == []


def test_an_outcome_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    with journal(tmp_path) as first:
        for n in range(5):
            first.append(outcome(n))
            with journal(tmp_path) as other:
                assert len(other.entries) == n + 1


def test_parent_and_forked_child_append_to_the_same_journal_and_ledger(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store, store.journal("eval", KEY) as first:
        first.append(outcome(1))
        store.ledger.append(ledger_row(1))
        pid = os.fork()
        if pid == 0:
            first.append(outcome(2))
            store.ledger.append(ledger_row(2))
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        first.append(outcome(3))
        store.ledger.append(ledger_row(3))
    with DiskStore(tmp_path) as store, store.journal("eval", KEY) as again:
        assert (list(again.entries), again.damaged) == (["1", "2", "3"], 0)
        assert [row.input for row in store.ledger.rows()] == [1, 2, 3]


# --- prune ------------------------------------------------------------------------------------------------


def test_prune_removes_finished_journals_past_the_ttl_and_no_others(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        for n, (age, finish) in enumerate([(100, True), (100, False), (5, True)]):
            with store.journal("eval", str(n) * 64) as one:
                one.append(outcome(1))
                if finish:
                    one.finish()
            os.utime(one.path, (10_000 - age,) * 2)
    assert prune(str(tmp_path), reply_ttl=50.0, size_limit=None, now=10_000.0)["journals"] == 1
    assert sorted(path.name[5] for path in (tmp_path / "journals").iterdir()) == ["1", "2"]


# --- ledger -----------------------------------------------------------------------------------------------


def test_ledger_rows_come_back_and_damaged_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        for n in range(3):
            store.ledger.append(ledger_row(n))
        with open(tmp_path / "ledger.jsonl", "ab") as file:
            file.write(b'\xff\n{"time":"x"}\n{"time":1.0,"ta')
        store.ledger.append(ledger_row(3))
        assert list(store.ledger.rows()) == [ledger_row(n) for n in range(4)]
        assert store.ledger.damaged == 3
    assert [finding.part for finding in verify(str(tmp_path))] == ["ledger"]


def test_the_ledger_has_no_place_for_a_text() -> None:
    """A new field is a decision: no prompt, input or output may stand in the ledger."""
    assert LedgerRow.__struct_fields__ == (
        "time", "task", "prompt", "stage", "model", "endpoint", "input", "output", "cached", "written", "reasoning", "cost", "latency",
        "attempts", "source", "status",
    )  # fmt: skip


@pytest.mark.parametrize("how", ["moved", "removed", "folder removed"])
def test_a_ledger_that_was_moved_or_removed_is_begun_again(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "cache"
    with DiskStore(folder) as store:
        store.ledger.append(ledger_row(1))
        if how == "moved":
            os.rename(folder / "ledger.jsonl", tmp_path / "old")
        else:
            os.remove(folder / "ledger.jsonl")
        if how == "folder removed":
            os.rmdir(folder)
        store.ledger.append(ledger_row(2))
        assert [row.input for row in store.ledger.rows()] == [2]
    assert (folder / "ledger.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_ledger_that_cannot_be_written_warns_once_and_never_raises(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with DiskStore(tmp_path) as store:
        with pytest.warns(StoreWarning):
            store.ledger.append(ledger_row(0))
        store.ledger.append(ledger_row(1))  # a second warning would be an error here
