"""Sums over the ledger that are read on, whatever happens to its file, and that a restart does not begin anew."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.service import activity as activity_of
from promptsmith.service.activity import Activity, Sum
from promptsmith.store.ledger import Ledger, LedgerRow
from promptsmith.store.trouble import Trouble

NOW = 1_795_000_000.0
HOUR, DAY = 3600.0, 86400.0


def row(time: float = NOW, **more: Any) -> LedgerRow:
    base: dict[str, Any] = {
        "task": "sentiment", "prompt": "p1", "stage": "run", "model": "openai/gpt-4o-mini", "endpoint": "openai", "input": 100,
        "output": 10, "cost": 0.25, "latency": 0.3, "source": "model", "status": "end",
    }  # fmt: skip
    return LedgerRow(time=time, **{**base, **more})


def write(path: Path, *rows: LedgerRow) -> None:
    ledger = Ledger(str(path), Trouble(str(path.parent)))
    for one in rows:
        ledger.append(one)
    ledger.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def opened(path: Path, **more: Any) -> Activity:
    made = Activity(path, clock=lambda: NOW, **more)
    made.refresh()
    return made


def calls(activity: Activity) -> int:
    return sum(one.sum.calls for one in activity.spent())


# --- what is added up -------------------------------------------------------------------------------------


def test_calls_errors_tokens_and_costs_by_task_model_and_stage(path: Path) -> None:
    write(
        path,
        row(),
        row(cost=None),
        row(source="cache", input=0, output=0, cost=0.0),
        row(status="RateLimited", input=0, output=0, cost=None),
        row(status="cancelled"),
        row(status="aborted"),
        row(model="x/y"),
        row(stage="compile"),
    )
    own = Sum(calls=6, errors=2, cached=1, unpriced=2, cost=0.75, input=400, output=40)
    one = Sum(calls=1, cost=0.25, input=100, output=10)
    assert [(of.model, of.sum) for of in opened(path).spent(stage="run")] == [("openai/gpt-4o-mini", own), ("x/y", one)]
    assert [(of.model, of.sum) for of in opened(path).spent(stage="compile")] == [("openai/gpt-4o-mini", one)]


def test_the_last_day_by_the_hour(path: Path) -> None:
    write(path, row(), row(NOW - HOUR), row(NOW - HOUR, status="Timeout"), row(NOW - 23 * HOUR), row(NOW - 24 * HOUR), row(stage="eval"))
    write(path, row(task="spam"))
    hours = opened(path).hours("sentiment")
    assert [one.calls for one in hours] == [1, *[0] * 21, 2, 1]
    assert [one.errors for one in hours] == [*[0] * 22, 1, 0]
    assert opened(path).hours("unknown") == (Sum(),) * 24


def test_the_last_month_by_the_day(path: Path) -> None:
    write(
        path, row(NOW - 29 * DAY), row(NOW - 30 * DAY), row(NOW - DAY, prompt="p2"), row(NOW - DAY), row(model="x/y"), row(stage="compile")
    )
    found = [(one.day, one.task, one.model, one.sum.calls, one.sum.cost) for one in opened(path).spent()]
    assert found == [
        ("2026-11-18", "sentiment", "openai/gpt-4o-mini", 1, 0.25),
        ("2026-11-18", "sentiment", "x/y", 1, 0.25),
        ("2026-11-17", "sentiment", "openai/gpt-4o-mini", 2, 0.5),
        ("2026-10-20", "sentiment", "openai/gpt-4o-mini", 1, 0.25),
    ]
    assert len(opened(path).spent(stage="run")) == 3
    assert [one.day for one in opened(path).spent(days=2, stage="run")] == ["2026-11-18", "2026-11-17"]


def test_what_is_past_is_let_go(path: Path) -> None:
    now = [NOW]
    write(path, row())
    activity = Activity(path, clock=lambda: now[0])
    activity.refresh()
    now[0] += 40 * DAY
    write(path, row(now[0]))
    activity.refresh()
    assert [one.calls for one in activity.hours("sentiment")] == [*[0] * 23, 1]
    assert len(activity.spent()) == 1
    assert list(activity._days) == [int(now[0] // DAY)]
    assert len(activity._state.hours) == 1
    assert calls(activity) == 1


def test_no_more_than_the_most_are_told_apart(path: Path) -> None:
    write(path, *(row(task=f"t{number}", stage=f"s{number % 50}" if number % 2 else "run") for number in range(300)))
    activity = opened(path, most=10)
    assert calls(activity) == 300
    assert all(len(rows) <= 16 for rows in activity._days.values())
    assert len(activity._state.hours[int(NOW // 3600)]) == 11
    assert activity.hours("other")[-1].calls == 140


def test_what_is_handed_out_does_not_change(path: Path) -> None:
    write(path, row())
    activity = opened(path)
    hours, spent = activity.hours("sentiment"), activity.spent()
    write(path, row())
    activity.refresh()
    assert hours[-1].calls == spent[0].sum.calls == 1
    assert activity.hours("sentiment")[-1].calls == calls(activity) == 2


# --- reading on -------------------------------------------------------------------------------------------


def test_only_new_bytes_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, *[row()] * 5000)
    activity = opened(path)
    asked: list[int] = []
    own = os.pread

    def watched(fd: int, count: int, at: int) -> bytes:
        found = own(fd, count, at)
        asked.append(len(found))
        return found

    monkeypatch.setattr(os, "pread", watched)
    activity.refresh()
    assert sum(asked) < 2000
    write(path, row())
    activity.refresh()
    assert sum(asked) < 4000
    assert calls(activity) == 5001


def test_there_is_no_ledger_yet(path: Path) -> None:
    activity = opened(path)
    assert activity.spent() == []
    write(path, row())
    activity.refresh()
    assert calls(activity) == 1


def test_a_line_that_is_being_written_waits_for_its_end(path: Path) -> None:
    whole = msgspec.json.encode(row()) + b"\n"
    path.write_bytes(whole + whole[:50])
    activity = opened(path)
    assert calls(activity) == 1
    with path.open("ab") as file:
        file.write(whole[50:])
    activity.refresh()
    assert (calls(activity), activity.damaged) == (2, 0)


def test_damaged_lines_are_skipped_and_counted(path: Path) -> None:
    good = msgspec.json.encode(row())
    lines = [
        good,
        b"",
        b"{",
        b"\xff\xfe",
        good[:40],
        b'{"time": "x"}',
        b"[]",
        msgspec.json.encode(row(-5.0)),
        msgspec.json.encode(row(1e300)),
        good,
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    activity = opened(path)
    assert (calls(activity), activity.damaged) == (2, 7)


def test_a_line_without_an_end_takes_no_memory_and_hides_nothing_behind_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_of, "_CHUNK", 4096)
    good = msgspec.json.encode(row()) + b"\n"
    path.write_bytes(good + b"x" * 50_000 + b"\n" + good)
    activity = opened(path)
    assert calls(activity) == 2
    assert activity.damaged >= 1


def test_a_rotated_ledger_is_read_to_its_end_and_its_successor_from_the_start(path: Path) -> None:
    write(path, row(NOW - HOUR), row(NOW - HOUR))
    activity = opened(path)
    write(path, row(NOW - 60))
    path.rename(path.with_suffix(".1"))
    write(path, row(), row())
    activity.refresh()
    assert calls(activity) == 5
    assert [one.calls for one in activity.hours("sentiment")][-2:] == [2 if NOW % HOUR >= 60 else 3, 3 if NOW % HOUR >= 60 else 2]
    write(path, row())
    activity.refresh()
    assert calls(activity) == 6


def test_a_ledger_that_is_away_for_a_moment(path: Path) -> None:
    write(path, row())
    activity = opened(path)
    path.rename(path.with_suffix(".1"))
    activity.refresh()
    assert calls(activity) == 1
    write(path, row(NOW + 1))
    activity.refresh()
    assert calls(activity) == 2


@pytest.mark.parametrize("more", [1, 50])
def test_a_ledger_cut_off_and_written_again_counts_on_top(path: Path, more: int) -> None:
    """Shorter than it was, or longer: by its bytes it is seen to be another."""
    write(path, *[row(NOW - 100)] * 10)
    activity = opened(path)
    os.truncate(path, 0)
    write(path, *(row(NOW - 50 + number / 100) for number in range(more)))
    activity.refresh()
    assert calls(activity) == 10 + more


def test_a_ledger_that_was_written_anew_with_its_old_rows_is_counted_anew(path: Path) -> None:
    rows = [row(NOW - 2 * DAY + number * HOUR) for number in range(40)]
    write(path, *rows)
    activity = opened(path)
    other = path.with_suffix(".new")
    write(other, *rows[1::2])
    other.replace(path)
    activity.refresh()
    assert calls(activity) == 20
    os.truncate(path, 0)
    activity.refresh()
    write(path, *rows)
    activity.refresh()
    assert calls(activity) == 40


@given(parts=st.lists(st.integers(0, 400), max_size=30), rows=st.integers(0, 12))
def test_in_whatever_pieces_it_is_written_the_sums_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, parts: list[int], rows: int
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    data = b"".join(msgspec.json.encode(row(NOW - number * HOUR, prompt=f"p{number % 3}")) + b"\n" for number in range(rows))
    path.write_bytes(b"")
    activity = opened(path)
    at = 0
    for part in [*parts, len(data)]:
        with path.open("ab") as file:
            file.write(data[at : at + part])
        at += part
        activity.refresh()
    assert activity.spent() == opened(path).spent()
    assert (calls(activity), activity.damaged) == (rows, 0)


def test_threads_that_look_at_once_count_once(path: Path) -> None:
    write(path, *[row()] * 2000)
    activity = Activity(path, clock=lambda: NOW)
    threads = [threading.Thread(target=activity.refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls(activity) == 2000


# --- the checkpoint ---------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "service" / "activity.json"


def test_a_restart_goes_on_from_the_checkpoint(path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, *(row(NOW - number * HOUR, task=f"t{number % 3}", status="Timeout" if number % 5 else "end") for number in range(100)))
    monkeypatch.setattr(activity_of, "_CHECKPOINT_BYTES", 1)
    opened(path, checkpoint=checkpoint)
    write(path, row(), row(stage="eval"))
    read: list[int] = []
    own = activity_of._decoder.decode_lines

    class Watched:
        def decode_lines(self, data: bytes) -> Any:
            read.append(len(data))
            return own(data)

        decode = staticmethod(activity_of._decoder.decode)

    monkeypatch.setattr(activity_of, "_decoder", Watched())
    again = opened(path, checkpoint=checkpoint)
    assert 0 < sum(read) < 1000
    whole = opened(path)
    assert again.spent() == whole.spent()
    assert all(again.hours(f"t{number}") == whole.hours(f"t{number}") for number in range(3))
    assert checkpoint.stat().st_mode & 0o077 == 0


def test_a_checkpoint_is_written_when_much_was_read(path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_of, "_CHECKPOINT_BYTES", 1000)
    write(path, row())
    activity = opened(path, checkpoint=checkpoint)
    assert not checkpoint.exists()
    write(path, *[row()] * 10)
    activity.refresh()
    written = checkpoint.read_bytes()
    write(path, row())
    activity.refresh()
    assert checkpoint.read_bytes() == written


def test_a_ledger_that_was_rotated_while_nobody_looked(path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_of, "_CHECKPOINT_BYTES", 1)
    write(path, *[row(NOW - 100)] * 3)
    opened(path, checkpoint=checkpoint)
    path.unlink()
    write(path, row(), row())
    assert calls(opened(path, checkpoint=checkpoint)) == 5


BAD: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "cut": lambda good: good[: len(good) // 2],
    "binary": lambda good: b"\xff" * 100,
    "other version": lambda good: good.replace(b'"version":2', b'"version":1'),
    "negative": lambda good: good.replace(b'"offset":', b'"offset":-'),
    "list": lambda good: b"[]",
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_checkpoint_costs_time_only(path: Path, checkpoint: Path, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_of, "_CHECKPOINT_BYTES", 1)
    write(path, *[row()] * 3)
    opened(path, checkpoint=checkpoint)
    good = checkpoint.read_bytes()
    changed = BAD[bad](good)
    assert changed != good
    checkpoint.write_bytes(changed)
    assert calls(opened(path, checkpoint=checkpoint)) == 3


def test_a_checkpoint_that_can_not_be_written_is_no_error(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_of, "_CHECKPOINT_BYTES", 1)
    (tmp_path / "file").write_text("")
    write(path, row())
    activity = opened(path, checkpoint=tmp_path / "file" / "activity.json")
    assert calls(activity) == 1
    activity.close()
    write(path, row())
    activity.refresh()
    assert calls(activity) == 2
