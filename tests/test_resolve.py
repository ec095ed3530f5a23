"""From a ref to a prompt: names, aliases, id prefixes, moves seen by a running process, and a damaged lock."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from promptsmith import Runtime, Task, compile_task
from promptsmith.config import Project
from promptsmith.errors import InputError, LockError, NotCompiled, PromptsmithError, UnknownName
from promptsmith.promotion import promote, rollback
from promptsmith.prompt import Prompt
from promptsmith.registry.lock import LockFile
from promptsmith.registry.resolve import LockWarning, Resolver
from promptsmith.store import DiskStore
from promptsmith.store.folder import open_store

Make = Callable[..., Project]

JUDGE = 'task: Judge it.\noutput: [good, bad]\nexamples:\n  - {input: "fine", output: good}\n  - {input: "awful", output: bad}\n'


def compiled(project: Project, description: str, name: str = "sentiment") -> Prompt:
    """A prompt of a task made in Python, kept in the project's cache."""
    task = Task(description, name=name, output=["good", "bad"], examples=[("fine", "good"), ("awful", "bad")])
    with open_store(project) as store:
        return compile_task(task, project=project, store=store)


def move(project: Project, prompt: Prompt, alias: str = "production") -> None:
    promote(LockFile(project.lock), project, prompt, alias=alias, why="a test", force=True)


def damage(project: Project, task: str) -> bytes:
    """Breaks the task's part of the lock as a merge does; the bytes from before."""
    before = project.lock.read_bytes()
    lines = before.decode().split("\n")
    at = next(number for number, line in enumerate(lines) if re.fullmatch(rf"  {task}:", line))
    lines[at + 2 : at + 2] = ["<<<<<<< HEAD", "=======", ">>>>>>> other"]
    project.lock.write_text("\n".join(lines))
    return before


# --- refs -------------------------------------------------------------------------------------------------


def test_a_bare_task_is_production_and_says_so(promoted: Make) -> None:
    project = promoted()
    newer = compiled(project, "Another one.")
    with Runtime(project) as runtime:
        bare, named, latest = (runtime.resolve(ref) for ref in ("sentiment", "sentiment@production", "sentiment@latest"))
    assert bare.prompt == named.prompt
    assert bare.prompt.id != newer.id == latest.prompt.id
    assert (bare.origin, named.origin, latest.origin) == ("lock", "lock", "cache")
    assert bare.chosen == "sentiment@production (a bare task name means production)"
    assert named.chosen == "sentiment@production"
    assert latest.chosen == "sentiment@latest"


def test_other_commands_prefer_the_latest_where_there_is_one_here(promoted: Make) -> None:
    project = promoted()
    newer = compiled(project, "Another one.")
    store = open_store(project)
    found = Resolver(project, store).resolve("sentiment", prefer="latest")
    assert found.prompt.id == newer.id
    assert "latest" in found.chosen
    store.close()
    shutil.rmtree(project.cache)
    found = Resolver(project, store).resolve("sentiment", prefer="latest")
    assert found.prompt.id != newer.id
    assert found.origin == "lock"
    store.close()


def test_an_alias_of_ones_own(promoted: Make) -> None:
    project = promoted()
    candidate = compiled(project, "Another one.")
    move(project, candidate, "candidate")
    with Runtime(project) as runtime:
        assert runtime.resolve("sentiment@candidate").prompt.id == candidate.id
        assert runtime.resolve("sentiment").prompt.id != candidate.id
        with pytest.raises(UnknownName, match=r"no alias 'candidat'\n.*did you mean 'candidate'"):
            runtime.resolve("sentiment@candidat")
        with pytest.raises(UnknownName, match=r"no alias 'xyz'\n.*its aliases: candidate, production"):
            runtime.resolve("sentiment@xyz")


def test_an_id_prefix_finds_prompts_in_the_lock_and_in_the_cache(promoted: Make) -> None:
    project = promoted()
    in_cache = compiled(project, "Another one.")
    with Runtime(project) as runtime:
        in_lock = runtime.resolve("sentiment").prompt
        for prompt, origin in ((in_lock, "lock"), (in_cache, "cache")):
            for digits in (12, 64):
                found = runtime.resolve(f"sentiment@{prompt.id[:digits]}")
                assert (found.prompt.id, found.origin) == (prompt.id, origin)
                assert found.chosen == f"sentiment@{prompt.id[:12]}"


def test_an_ambiguous_prefix_lists_the_prompts_and_an_absent_one_says_so(make_project: Make) -> None:
    """Prompts are made until two ids begin with the same four digits."""
    project = make_project()
    twins = _twins(project)
    with open_store(project) as store:
        for prompt in twins:
            store.put_prompt(prompt)
    four = twins[0].id[:4]
    absent = "0000" if four != "0000" else "1111"
    with Runtime(project) as runtime:
        with pytest.raises(UnknownName, match=rf"sentiment@{four} is ambiguous: 2 prompts.*\n.*more digits") as raised:
            runtime.resolve(f"sentiment@{four}")
        assert all(prompt.id[:16] in str(raised.value) for prompt in twins)
        with pytest.raises(UnknownName, match=f"no prompt whose id begins with {absent}"):
            runtime.resolve(f"sentiment@{absent}")
        with pytest.raises(UnknownName, match="unknown task 'sentimnt'"):
            runtime.resolve(f"sentimnt@{absent}")
        assert runtime.resolve(f"sentiment@{twins[1].id[:16]}").prompt.id == twins[1].id


def _twins(project: Project) -> tuple[Prompt, Prompt]:
    import msgspec

    first = compiled(project, "Any.")
    shutil.rmtree(project.cache)
    seen: dict[str, Prompt] = {}
    for number in range(100_000):
        other = msgspec.structs.replace(first, system=f"{first.system}\n{number}")
        other = msgspec.structs.replace(other, id=other.computed_id())
        if other.id[:4] in seen:
            return seen[other.id[:4]], other
        seen[other.id[:4]] = other
    raise AssertionError("no two alike")


def test_a_prefix_of_another_tasks_prompt_is_not_found(promoted: Make) -> None:
    project = promoted({"one": JUDGE, "two": JUDGE.replace("Judge", "Weigh")})
    with Runtime(project) as runtime:
        other = runtime.resolve("two").prompt.id
        with pytest.raises(UnknownName, match="no prompt whose id begins"):
            runtime.resolve(f"one@{other[:12]}")


def test_an_unknown_task_is_an_error_with_the_nearest_name(promoted: Make, make_project: Make) -> None:
    project = promoted({"sentiment": JUDGE, "support/triage": JUDGE.replace("Judge", "Sort")})
    with Runtime(project) as runtime:
        with pytest.raises(UnknownName, match=r"unknown task 'sentimnet'\n.*did you mean 'sentiment'"):
            runtime.run("sentimnet", "x")
        with pytest.raises(UnknownName, match="did you mean 'support/triage'"):
            runtime.run("suport/triage@production", "x")
        with pytest.raises(UnknownName, match="tasks here: sentiment, support/triage"):
            runtime.run("zzz@latest", "x")
    with Runtime(make_project({}, name="empty")) as runtime, pytest.raises(UnknownName, match="promptsmith init"):
        runtime.run("zzz", "x")


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("sentiment@", "names no alias after '@'"),
        ("", "can't be a task's name"),
        ("@production", "can't be a task's name"),
        ("../sentiment", "can't be a task's name"),
        ("/etc/passwd", "can't be a task's name"),
        ("senti\0ment", "can't be a task's name"),
        ("sentiment@abc", "too little of a prompt's id\n.*first 4 digits"),
        ("sentiment@Production", "lower-case"),
        ("sentiment@a@b", "can't be an alias"),
        ("sentiment@" + "g" * 100, "can't be an alias"),
    ],
)
def test_what_can_be_no_ref_is_a_clear_error(promoted: Make, ref: str, said: str) -> None:
    with Runtime(promoted()) as runtime, pytest.raises(InputError, match=said):
        runtime.resolve(ref)


def test_a_task_without_a_prompt_says_what_to_do_next(make_project: Make) -> None:
    project = make_project({"sentiment": JUDGE})
    with Runtime(project) as runtime:
        with pytest.raises(NotCompiled, match=r"no prompt at @production\n.*promptsmith compile sentiment, then promptsmith promote"):
            runtime.resolve("sentiment")
        with pytest.raises(NotCompiled, match="not been compiled here"):
            runtime.resolve("sentiment@latest")
        compile_task("sentiment", project=project, store=runtime.asynchronous.store)
        with pytest.raises(NotCompiled, match=r"promptsmith promote sentiment --to production; or use sentiment@latest"):
            runtime.resolve("sentiment")
        with pytest.raises(NotCompiled, match="promptsmith promote sentiment --to candidate; or use sentiment@latest"):
            runtime.resolve("sentiment@candidate")
        with pytest.raises(UnknownName, match=r"no alias 'prodction'\n.*'production'"):
            runtime.resolve("sentiment@prodction")
        assert runtime.resolve("sentiment@latest").origin == "cache"


# --- moves are seen by a running process ------------------------------------------------------------------


def test_promote_and_rollback_are_seen_by_the_next_call(promoted: Make) -> None:
    project = promoted()
    with Runtime(project) as runtime:
        first = runtime.run("sentiment", "fine").prompt
        second = compiled(project, "Another one.")
        assert runtime.run("sentiment", "fine").prompt == first
        move(project, second)
        assert runtime.run("sentiment", "fine").prompt == second.id
        third = compiled(project, "A third one.")
        move(project, third)
        assert runtime.run("sentiment", "fine").prompt == third.id
        rollback(LockFile(project.lock), "sentiment", alias="production", why="a test", find=lambda _: None)
        assert runtime.run("sentiment", "fine").prompt == second.id


def test_a_promotion_by_another_process_is_seen_by_the_next_call(promoted: Make) -> None:
    project = promoted()
    with Runtime(project) as runtime:
        first = runtime.run("sentiment", "fine").prompt
        second = compiled(project, "Another one.")
        command = [sys.executable, "-m", "promptsmith", "promote", f"sentiment@{second.id[:12]}", "--force", "--why", "a test"]
        done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False, env=_environment())
        assert done.returncode == 0, done.stderr
        assert runtime.run("sentiment", "fine").prompt == second.id != first


def test_a_git_revert_of_the_lock_is_seen_by_the_next_call(promoted: Make) -> None:
    project = promoted()
    _git(project, "init", "-q")
    _commit(project, "one")
    with Runtime(project) as runtime:
        first = runtime.run("sentiment", "fine").prompt
        second = compiled(project, "Another one.")
        move(project, second)
        _commit(project, "two")
        assert runtime.run("sentiment", "fine").prompt == second.id
        _git(project, "revert", "--no-edit", "HEAD")
        assert runtime.run("sentiment", "fine").prompt == first


def test_no_call_fails_while_git_changes_the_lock_back_and_forth(promoted: Make) -> None:
    """Git removes a file before it writes the new one; a runtime that served a task does not go down over that."""
    project = promoted()
    _git(project, "init", "-q")
    _commit(project, "one")
    second = compiled(project, "Another one.")
    move(project, second)
    _commit(project, "two")
    problems: list[BaseException] = []
    served: set[str] = set()
    stop = threading.Event()

    def serve() -> None:
        try:
            while not stop.is_set():
                served.add(runtime.resolve("sentiment").prompt.id)
        except PromptsmithError as error:
            problems.append(error)

    with Runtime(project) as runtime, warnings.catch_warnings():
        warnings.simplefilter("ignore", LockWarning)
        threads = [threading.Thread(target=serve) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(60):
            _git(project, "checkout", "-q", "HEAD~1" if number % 2 == 0 else "-")
        stop.set()
        for thread in threads:
            thread.join()
    assert [str(problem) for problem in problems] == []
    assert len(served) == 2


def test_a_move_seen_by_one_thread_is_not_undone_by_another_that_still_reads_the_old_lock(promoted: Make) -> None:
    """The other thread is played by the store: it comes in between reading the old file and keeping what it said."""
    project = promoted()
    second = compiled(project, "Another one.")
    meanwhile: list[Callable[[], object]] = []

    class Meddling(DiskStore):
        def remember_lock(self, task: str, text: str) -> None:
            super().remember_lock(task, text)
            while meanwhile:
                meanwhile.pop()()

    with Meddling(project.cache) as store:
        resolver = Resolver(project, store)
        seen: list[str] = []
        meanwhile += [lambda: seen.append(resolver.resolve("sentiment").prompt.id), lambda: move(project, second)]
        old = resolver.resolve("sentiment").prompt.id
        assert seen == [second.id] != [old]
        assert resolver.resolve("sentiment").prompt.id == second.id


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def _git(project: Project, *arguments: str) -> None:
    identity = ["-c", "user.name=A Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=project.root, check=True, capture_output=True)


def _commit(project: Project, message: str) -> None:
    _git(project, "add", "promptsmith.lock")
    _git(project, "commit", "-q", "-m", message)


# --- a damaged, unreadable or missing lock ----------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True], ids=["same process", "started anew"])
def test_a_damaged_entry_is_served_from_its_last_good_copy_with_one_warning(promoted: Make, restarted: bool) -> None:
    project = promoted({"one": JUDGE, "two": JUDGE.replace("Judge", "Weigh")})
    runtime = Runtime(project)
    before = {name: runtime.run(name, "fine").prompt for name in ("one", "two")}
    damage(project, "one")
    if restarted:
        runtime.close()
        runtime = Runtime(project)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for ref in ("one", "one@production", f"one@{before['one'][:12]}"):
            for _ in range(3):
                result = runtime.run(ref, "fine")
                assert (result.prompt, result.origin) == (before["one"], "last good")
        sound = runtime.run("two", "fine")
    assert (sound.prompt, sound.origin) == (before["two"], "lock")
    assert [warning.category for warning in caught] == [LockWarning]
    assert re.search(r"promptsmith\.lock:\d+: task 'one'.*last good copy is served", str(caught[0].message))
    runtime.close()


def test_a_repaired_lock_is_served_again_and_new_damage_is_told_again(promoted: Make) -> None:
    project = promoted({"one": JUDGE})
    with Runtime(project) as runtime:
        runtime.run("one", "fine")
        for _ in range(2):
            good = damage(project, "one")
            with pytest.warns(LockWarning):
                assert runtime.run("one", "fine").origin == "last good"
            project.lock.write_bytes(good)
            assert runtime.run("one", "fine").origin == "lock"


def test_a_damaged_entry_that_was_never_good_here_is_an_error_naming_the_line(promoted: Make) -> None:
    project = promoted({"one": JUDGE, "two": JUDGE.replace("Judge", "Weigh")})
    shutil.rmtree(project.cache)
    damage(project, "one")
    with Runtime(project) as runtime:
        with pytest.raises(LockError, match=r"promptsmith\.lock:\d+: task 'one'"):
            runtime.run("one", "fine")
        assert runtime.run("two", "fine").origin == "lock"


def test_a_tampered_prompt_in_the_lock_is_refused_never_served(promoted: Make) -> None:
    project = promoted({"one": JUDGE})
    with Runtime(project) as runtime:
        good = runtime.run("one", "fine").prompt
        text = project.lock.read_text()
        assert "Judge it." in text
        project.lock.write_text(text.replace("Judge it.", "Judge it kindly."))
        with pytest.warns(LockWarning, match="last good"):
            assert runtime.run("one", "fine").prompt == good
        assert "kindly" not in runtime.resolve("one").prompt.system
    shutil.rmtree(project.cache)
    with Runtime(project) as runtime, pytest.raises(PromptsmithError, match="does not match"):
        runtime.run("one", "fine")


@pytest.mark.parametrize("how", ["a folder in its place", "binary"])
def test_a_running_runtime_does_not_go_down_with_the_lock(promoted: Make, how: str) -> None:
    project = promoted({"one": JUDGE})
    with Runtime(project) as runtime:
        good = runtime.run("one", "fine").prompt
        project.lock.unlink()
        if how == "binary":
            project.lock.write_bytes(bytes(range(256)) * 100)
        else:
            project.lock.mkdir()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(5):
                result = runtime.run("one", "fine")
                assert (result.prompt, result.origin) == (good, "last good")
    assert [warning.category for warning in caught] == [LockWarning]


def test_a_lock_that_is_gone_for_good_is_an_empty_lock(promoted: Make) -> None:
    """As after a git revert of the first promotion: nothing is promoted any more, and nothing old is served."""
    project = promoted({"one": JUDGE})
    with Runtime(project) as runtime:
        runtime.run("one", "fine")
        project.lock.unlink()
        for _ in range(2):
            with pytest.raises(NotCompiled, match="no prompt at @production"):
                runtime.run("one", "fine")


def test_the_last_good_copy_in_memory_is_enough_when_the_cache_cannot_be_used_either(promoted: Make) -> None:
    project = promoted({"one": JUDGE})
    with Runtime(project) as runtime:
        good = runtime.run("one", "fine").prompt
        shutil.rmtree(project.cache)
        project.cache.write_text("a file where the folder was")
        damage(project, "one")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                assert runtime.run("one", "fine").prompt == good
    assert sorted(warning.category.__name__ for warning in caught) == ["LockWarning", "StoreWarning"]


def test_a_newer_lock_is_refused(promoted: Make) -> None:
    project = promoted({"one": JUDGE})
    project.lock.write_text(re.sub(r"^version: \d+", "version: 999", project.lock.read_text(), flags=re.MULTILINE))
    with Runtime(project) as runtime, pytest.raises(LockError, match="newer"):
        runtime.run("one", "fine")


def test_a_deleted_cache_leaves_production_and_takes_latest(promoted: Make) -> None:
    project = promoted({"one": JUDGE})
    with Runtime(project) as runtime:
        served = runtime.run("one", "fine").prompt
    shutil.rmtree(project.cache)
    with Runtime(project) as runtime:
        assert runtime.run("one", "fine").prompt == served
        assert runtime.run(f"one@{served[:8]}", "fine").prompt == served
        with pytest.raises(NotCompiled, match="not been compiled here"):
            runtime.run("one@latest", "fine")
