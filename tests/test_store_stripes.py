"""Locks between processes: whoever has one has it alone, and it goes with its open file and in no other way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.store.stripes import COUNT, FileLocks, Locks, stripes

# Python 3.12 and later warn of what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

Make = Callable[[], Locks]
NAMES = [f"{number:02x}" for number in range(COUNT)]


@pytest.fixture(params=["stripes", "files"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Locks in one folder, each as another process has them: with open files of its own."""
    (tmp_path / "locks").mkdir()
    folder = str(tmp_path / "locks")
    return (lambda: stripes(folder)) if request.param == "stripes" else lambda: FileLocks(folder, "reply-")


def test_a_lock_is_had_by_one_until_it_is_given(make: Make) -> None:
    ours, theirs = make(), make()
    assert ours.take("00")
    assert ours.take("ff")
    assert not theirs.take("00")
    assert theirs.take("01")
    ours.give(["00"])
    assert theirs.take("00")
    assert not theirs.take("ff")
    for locks in (ours, theirs):
        locks.drop()


def test_another_store_of_the_same_process_that_closes_takes_nothing_along(make: Make) -> None:
    """POSIX record locks would all go with the first descriptor of their file that is closed."""
    ours, other, theirs = make(), make(), make()
    assert ours.take("00")
    assert other.take("01")
    other.drop()
    assert not theirs.take("00")
    assert theirs.take("01")
    for locks in (ours, theirs):
        locks.drop()


@given(held=st.sets(st.sampled_from(NAMES), min_size=1), data=st.data())
def test_giving_some_gives_them_all_and_no_other(tmp_path_factory: pytest.TempPathFactory, held: set[str], data: st.DataObject) -> None:
    folder = str(tmp_path_factory.mktemp("locks"))
    ours, theirs = stripes(folder), stripes(folder)
    given_back = data.draw(st.sets(st.sampled_from(sorted(held))))
    assert all(ours.take(name) for name in held)
    ours.give(given_back)
    assert {name for name in NAMES if theirs.take(name)} == set(NAMES) - (held - given_back)
    for locks in (ours, theirs):
        locks.drop()


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_when_the_folder_is_gone_the_next_lock_stands_in_the_new_one(make: Make, tmp_path: Path, how: str) -> None:
    ours, theirs = make(), make()
    assert ours.take("00")
    if how == "removed":
        shutil.rmtree(tmp_path / "locks")
    else:
        (tmp_path / "locks").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        ours.take("01")
    ours.give(["00"])
    (tmp_path / "locks").mkdir()
    assert ours.take("02")
    assert not theirs.take("02")
    assert theirs.take("00")
    for locks in (ours, theirs):
        locks.drop()


HOLD = """
import os, sys
from promptsmith.store.stripes import FileLocks, stripes
locks = stripes(sys.argv[1]) if sys.argv[2] == "stripes" else FileLocks(sys.argv[1], "reply-")
print(locks.take("00"), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("kind", ["stripes", "files"])
def test_a_killed_process_has_no_locks_left(tmp_path: Path, kind: str) -> None:
    ours: Locks = stripes(str(tmp_path)) if kind == "stripes" else FileLocks(str(tmp_path), "reply-")
    arguments = [sys.executable, "-c", HOLD, str(tmp_path), kind]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        assert not ours.take("00")
        process.kill()
        process.wait()
        assert ours.take("00")
        ours.drop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_that_drops_its_copies_unlocks_nothing_and_keeps_nothing(make: Make) -> None:
    ours, theirs = make(), make()
    assert ours.take("00")
    (child_reads, we_write), (we_read, child_writes) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ours.drop()
            alone = not ours.take("00")  # it is its parent's, and stays so
            os.write(child_writes, b"x")
            os.read(child_reads, 1)
            code = 0 if alone else 2
        finally:
            os._exit(code)
    os.read(we_read, 1)
    assert not theirs.take("00")
    ours.give(["00"])
    assert theirs.take("00")  # though the child lives on
    os.write(we_write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (child_reads, we_write, we_read, child_writes):
        os.close(fd)
    for locks in (ours, theirs):
        locks.drop()
