"""Counters shared by the processes of a machine: exact, never held by the dead, and made anew when their file is not sound."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.errors import StoreError
from promptsmith.store import counters as module
from promptsmith.store.counters import DAY, WINDOW, Locks, Over, SharedCounters, Used
from promptsmith.store.trouble import StoreWarning

# Python 3.12 and later warn of what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

NOW = 20_000 * DAY + 5 * 3600.0
KINDS: list[Callable[[int], Locks]] = [module.WholeFile]
if sys.platform == "linux":
    KINDS.append(module.ByteLocks)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kind of lock there is, as if it were the only one."""
    monkeypatch.setattr(module, "_locks", request.param)
    return str(request.param.__name__)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "counters"


# --- one process ------------------------------------------------------------------------------------------


class Model:
    """What the counters say, kept as plain as it can be: every request and its second."""

    def __init__(self) -> None:
        self.requests: dict[str, list[int]] = {}
        self.spent: Counter[tuple[str, int, str]] = Counter()

    def used(self, name: str, now: int) -> Used:
        count = sum(second > now - WINDOW for second in self.requests.get(name, ()))
        return Used(count, self.spent[name, now // DAY, "tokens"], self.spent[name, now // DAY, "micro"] / 1e6)

    def over(self, name: str, now: int, per_minute: int | None, tokens: int | None, usd: float | None) -> Over | None:
        used = self.used(name, now)
        if tokens is not None and used.tokens >= tokens:
            return Over("tokens", DAY - now % DAY)
        if usd is not None and used.usd >= usd:
            return Over("usd", DAY - now % DAY)
        if per_minute is not None and used.requests >= per_minute:
            room = next(later for later in range(now, now + WINDOW + 1) if self.used(name, later).requests < per_minute)
            return Over("requests", room - now)
        return None


NAMES = st.sampled_from("abc")
LIMITS = st.tuples(st.none() | st.integers(1, 6), st.none() | st.integers(1, 500), st.none() | st.sampled_from([0.001, 0.5, 2.0]))
STEPS = st.one_of(
    st.tuples(st.just("request"), NAMES, LIMITS),
    st.tuples(st.just("spend"), NAMES, st.tuples(st.integers(0, 200), st.integers(0, 10**6))),
    st.tuples(st.just("used"), NAMES, st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 1, 2, 7, 29, 59, 60, 61, 62, 200, DAY // 2, DAY, 3 * DAY]), st.none()),
    st.tuples(st.just("reopen"), st.none(), st.none()),
)


@given(steps=st.lists(STEPS, max_size=60), start=st.integers(0, 2 * DAY))
def test_they_count_as_a_plain_list_of_all_requests_does(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[str, object, object]], start: int
) -> None:
    path = tmp_path_factory.mktemp("counters") / "counters"
    counters, model, now = SharedCounters(path, slots=4), Model(), int(NOW) + start
    for kind, name, given_ in steps:
        if kind == "wait":
            now += name  # type: ignore[operator]
        elif kind == "reopen":
            counters = SharedCounters(path)
        elif kind == "used":
            assert counters.used(str(name), now) == model.used(str(name), now)
        elif kind == "spend":
            tokens, micro = given_  # type: ignore[misc]
            counters.spend(str(name), now, tokens=tokens, usd=micro / 1e6)
            model.spent[str(name), now // DAY, "tokens"] += tokens
            model.spent[str(name), now // DAY, "micro"] += micro
        else:
            per_minute, tokens, usd = given_  # type: ignore[misc]
            expected = model.over(str(name), now, per_minute, tokens, usd)
            assert counters.request(str(name), now, per_minute=per_minute, tokens=tokens, usd=usd) == expected
            if expected is None and per_minute is not None:
                model.requests.setdefault(str(name), []).append(now)


@given(times=st.lists(st.integers(0, 200 * 100), max_size=120).map(sorted), most=st.integers(1, 5))
def test_no_sixty_seconds_see_more_requests_than_the_limit_and_room_comes_when_it_was_said(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], most: int
) -> None:
    counters = SharedCounters(tmp_path_factory.mktemp("counters") / "counters", slots=2)
    let_in: list[float] = []
    for time in times:
        now = NOW + time / 100
        over = counters.request("a", now, per_minute=most)
        if over is None:
            let_in.append(now)
        else:
            assert 0 < over.wait <= WINDOW
            # Had nobody come before that second, the request would have been let in: no less than the limit, too.
            assert sum(int(old) > int(now + over.wait + 1e-6) - WINDOW for old in let_in) < most
    assert all(sum(start <= time < start + 60 for time in let_in) <= most for start in let_in)


def test_a_limit_bursts_then_waits_for_the_seconds_to_leave_the_minute(path: Path) -> None:
    counters = SharedCounters(path)
    assert [counters.request("a", NOW, per_minute=3) for _ in range(3)] == [None] * 3
    assert counters.request("a", NOW + 0.5, per_minute=3) == Over("requests", 60.5)
    assert counters.request("a", NOW + 60.9, per_minute=3) is not None
    assert counters.request("a", NOW + 61, per_minute=3) is None
    assert counters.used("a", NOW + 61).requests == 1


def test_a_refused_request_counts_nothing(path: Path) -> None:
    counters = SharedCounters(path)
    counters.spend("a", NOW, tokens=10)
    assert counters.request("a", NOW, per_minute=1, tokens=10) == Over("tokens", 19 * 3600.0)
    assert counters.used("a", NOW) == Used(0, 10, 0.0)


def test_a_clock_behind_what_was_counted_takes_nothing_back(path: Path) -> None:
    counters = SharedCounters(path)
    midnight = 20_001 * DAY
    counters.spend("a", midnight, tokens=5)
    counters.request("a", midnight, per_minute=2)
    # Read before midnight by a process that then waited for the slot.
    counters.spend("a", midnight - 0.001, tokens=7)
    assert counters.request("a", midnight - 0.001, per_minute=2) is None
    assert counters.request("a", midnight - 0.001, per_minute=2) is not None
    assert counters.used("a", midnight) == Used(2, 12, 0.0)


def test_a_clock_set_back_stops_nobody(path: Path) -> None:
    counters = SharedCounters(path)
    wrong = NOW + 400 * DAY
    counters.spend("a", wrong, tokens=10)
    assert counters.request("a", wrong, per_minute=1) is None
    assert counters.request("a", NOW, per_minute=1, tokens=10) is None


def test_sums_of_tiny_costs_are_exact_and_impossible_ones_count_nothing(path: Path) -> None:
    counters = SharedCounters(path)
    for _ in range(1000):
        counters.spend("a", NOW, usd=0.000000075)
    assert counters.used("a", NOW).usd == 0.000075
    for usd in (float("nan"), -1.0):
        counters.spend("a", NOW, tokens=-5, usd=usd)
    assert counters.used("a", NOW) == Used(0, 0, 0.000075)
    for _ in range(20):
        counters.spend("b", NOW, tokens=2**63, usd=float("inf"))
    assert counters.used("b", NOW).tokens == 2**64 - 1
    assert counters.request("b", NOW, usd=module.MOST_USD) is not None


# --- slots ------------------------------------------------------------------------------------------------


def test_a_full_table_gives_the_slot_that_was_not_used_for_longest(path: Path) -> None:
    counters, other = SharedCounters(path, slots=3), SharedCounters(path)
    for day, name in enumerate("abc"):
        counters.spend(name, NOW + day * DAY, tokens=1)
    other.spend("a", NOW + 3 * DAY, tokens=2)
    counters.spend("d", NOW + 3 * DAY, tokens=3)  # in the place of b
    assert [other.used(name, NOW + 3 * DAY).tokens for name in "ad"] == [2, 3]
    # Who still knows where b was does not take d's counts for its own.
    counters.spend("b", NOW + 3 * DAY, tokens=4)  # in the place of c
    assert [counters.used(name, NOW + 3 * DAY).tokens for name in "abd"] == [2, 4, 3]
    with pytest.raises(StoreError, match="all 3 counters of limits are in use today") as raised:
        other.spend("e", NOW + 3 * DAY, tokens=1)
    assert raised.value.hint
    assert [other.used(name, NOW + 3 * DAY).tokens for name in "abd"] == [2, 4, 3]
    other.spend("e", NOW + 4 * DAY, tokens=5)
    assert other.used("e", NOW + 4 * DAY).tokens == 5


def test_many_names_keep_apart(path: Path) -> None:
    counters, other = SharedCounters(path, slots=300), SharedCounters(path)
    for number in range(300):
        counters.spend(f"name{number}", NOW, tokens=number)
    assert [other.used(f"name{number}", NOW).tokens for number in range(300)] == list(range(300))


# --- the file ---------------------------------------------------------------------------------------------


def test_it_is_private_and_a_new_process_goes_on(path: Path) -> None:
    SharedCounters(path, slots=7).spend("a", NOW, tokens=5, usd=0.25)
    assert path.stat().st_mode & 0o777 == 0o600
    size = path.stat().st_size
    assert SharedCounters(path, slots=2000).used("a", NOW) == Used(0, 5, 0.25)
    assert path.stat().st_size == size


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"\0" * len(data),
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:10],
        lambda data: os.urandom(len(data)),
        lambda data: struct.pack("=8sII", b"pscount1", 320, 0) + data[16:],
        lambda data: b"{}\n",
    ],
    ids=["empty", "zeroed", "short", "long", "torn", "random", "no slots", "another's"],
)
def test_a_file_that_is_not_sound_is_made_anew_and_told(path: Path, damage: Callable[[bytes], bytes]) -> None:
    SharedCounters(path, slots=5).spend("a", NOW, tokens=5)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(StoreWarning, match="counted anew"):
        counters = SharedCounters(path, slots=5)
    counters.spend("a", NOW, tokens=1)
    assert SharedCounters(path).used("a", NOW).tokens == 1


@given(noise=st.binary(min_size=320, max_size=320), now=st.floats(1e9, 4e9))
def test_garbage_in_a_slot_ends_in_no_traceback(tmp_path_factory: pytest.TempPathFactory, noise: bytes, now: float) -> None:
    path = tmp_path_factory.mktemp("counters") / "counters"
    counters = SharedCounters(path, slots=1)
    counters.spend("a", now, tokens=1)
    data = path.read_bytes()
    # All but the digest, by which the slot is found.
    with path.open("r+b") as file:
        file.seek(64 + 16)
        file.write(noise[16:])
    assert len(path.read_bytes()) == len(data)
    counters.request("a", now, per_minute=10, tokens=10, usd=1.0)
    counters.spend("a", now, tokens=3, usd=0.1)
    later = now + 2 * DAY
    assert counters.used("a", later) == Used(0, 0, 0.0)
    assert counters.request("a", later, per_minute=1) is None


def test_a_file_that_was_removed_or_replaced_is_found_again_within_a_second(path: Path) -> None:
    ours, theirs = SharedCounters(path), SharedCounters(path)
    for counters in (ours, theirs):
        counters.spend("a", NOW, tokens=1)
    path.unlink()
    ours.spend("a", NOW + 1, tokens=1)
    theirs.spend("a", NOW + 1, tokens=1)
    assert ours.used("a", NOW + 1).tokens == theirs.used("a", NOW + 1).tokens == 2


def test_when_the_folder_is_gone_for_good_counting_goes_on(path: Path) -> None:
    counters = SharedCounters(path)
    counters.spend("a", NOW, tokens=1)
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.write_text("no folder")
    with pytest.warns(StoreWarning, match="can't be used"):
        counters.spend("a", NOW + 1, tokens=1)
    assert counters.used("a", NOW + 2).tokens == 2


def test_a_place_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be written"):
        SharedCounters(tmp_path / "file" / "counters")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(StoreError, match="can't be written"):
        SharedCounters(tmp_path / "link")
    assert (tmp_path / "file").read_text() == ""


def test_without_fcntl_each_process_counts_for_itself_and_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "platform", "win32")
    with pytest.warns(StoreWarning, match="for itself"):
        counters = SharedCounters(path)
    monkeypatch.undo()
    counters.spend("a", NOW, tokens=1)
    assert counters.request("a", NOW, per_minute=1) is None
    assert counters.request("a", NOW + 1, per_minute=1) is not None
    assert not path.exists()


# --- threads and processes --------------------------------------------------------------------------------


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def start_together(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Lets all go on once each of them is there; the last line of each."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate()[0].strip() for process in processes]


HEAD = """
import sys
from promptsmith.store import counters as module
from promptsmith.store.counters import SharedCounters
path, now, kind = sys.argv[1], float(sys.argv[2]), sys.argv[3]
module._locks = getattr(module, kind)
counters = SharedCounters(path, slots=16)
print("ready", flush=True)
sys.stdin.readline()
"""
REQUEST = HEAD + "print(sum(counters.request(f'n{i % 3}', now, per_minute=100) is None for i in range(600)))"
SPEND = (
    HEAD
    + """
import threading
def work():
    for i in range(500):
        counters.spend(f"n{i % 5}", now, tokens=i, usd=0.000001)
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
)


def test_four_processes_let_through_exactly_the_limit(path: Path, locks: str) -> None:
    """All of them make the file, find their slots and count at the same time."""
    let_in = start_together([python(REQUEST, path, NOW, locks) for _ in range(4)])
    assert sum(map(int, let_in)) == 300
    assert [SharedCounters(path).used(f"n{i}", NOW).requests for i in range(3)] == [100] * 3


def test_sums_of_processes_and_threads_are_exact(path: Path, locks: str) -> None:
    start_together([python(SPEND, path, NOW, locks) for _ in range(4)])
    counters = SharedCounters(path)
    for name in range(5):
        expected = Used(0, 4 * 3 * sum(range(name, 500, 5)), 4 * 3 * 100 * 0.000001)
        assert counters.used(f"n{name}", NOW) == expected


def test_children_of_a_fork_count_with_their_parent(path: Path, locks: str) -> None:
    """The parent's open file came along into them, and its locks with it: theirs must be their own."""
    counters = SharedCounters(path)
    counters.spend("a", NOW, tokens=1)
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for _ in range(1000):
                    counters.spend("a", NOW, tokens=1)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    for _ in range(1000):
        counters.spend("a", NOW, tokens=1)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert counters.used("a", NOW).tokens == 4001


def test_a_fork_while_a_thread_is_inside_stops_no_child(path: Path) -> None:
    counters = SharedCounters(path)
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        table = counters._table
        place = table.hold("a", int(NOW))
        inside.set()
        leave.wait()
        table.free(place)

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(30)
            counters.spend("b", NOW, tokens=1)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    leave.set()
    thread.join()
    assert status == 0
    assert counters.used("b", NOW).tokens == 1


HOLD = """
place = counters._table.hold("a", int(now))
print(place.byte, flush=True)
sys.stdin.readline()
"""


def test_a_process_killed_inside_the_lock_stops_nobody(path: Path, locks: str) -> None:
    counters = SharedCounters(path)
    with python(HEAD + HOLD, path, NOW, locks) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        byte = int(process.stdout.readline())
        assert _is_held(path, byte, locks)
        waiting = threading.Thread(target=counters.request, args=("a", NOW), kwargs={"per_minute": 5})
        waiting.start()
        process.kill()
        process.wait()
        waiting.join(30)
        assert not waiting.is_alive()
    assert counters.used("a", NOW).requests == 1


def _is_held(path: Path, byte: int, locks: str) -> bool:
    with path.open("r+b") as file:
        try:
            if locks == "WholeFile":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        except OSError:
            return True
    return False


def test_a_sum_that_a_killed_process_left_half_done_is_right_again_at_the_next_second(path: Path) -> None:
    counters = SharedCounters(path)
    for _ in range(4):
        counters.request("a", NOW, per_minute=10)
    place = counters._table.hold("a", int(NOW))
    counters._table.words[place.word + module._REQUESTS] -= 1  # between the two writes of count()
    counters._table.free(place)
    assert counters.used("a", NOW + 1).requests == 4


FOR_EVER = (
    HEAD
    + """
second = now
while True:
    second += 1
    counters.request("a", second, per_minute=10**6)
    counters.spend("a", now, tokens=1)
"""
)


def test_processes_killed_at_any_moment_leave_counters_that_are_right(path: Path, locks: str) -> None:
    for _ in range(6):
        processes = [python(FOR_EVER, path, NOW, locks) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("go\n")
            process.stdin.flush()
        counters = SharedCounters(path)
        reached = counters.used("a", NOW).tokens + 50
        while counters.used("a", NOW).tokens < reached:
            pass
        for process in processes:
            process.kill()
            process.communicate()
    later = NOW + 3 * DAY
    assert counters.used("a", later) == Used(0, 0, 0.0)
    assert [counters.request("a", later, per_minute=3) for _ in range(3)] == [None] * 3
    assert counters.request("a", later, per_minute=3) == Over("requests", WINDOW)
