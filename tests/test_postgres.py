"""The registry in PostgreSQL: moves that reach everybody, a database that dies, hostile content, push and pull."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import traceback
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result as Ended

from promptsmith import Runtime, compile_task
from promptsmith.canary import Watch, course
from promptsmith.config import Config, Project, find_project
from promptsmith.errors import InputError, LockConflict, LockError, RegistryError, SourceError, UnknownName
from promptsmith.prompt import Prompt
from promptsmith.registry.canaries import Canary, Outcome, Verdict, new_canary
from promptsmith.registry.lock import LockFile
from promptsmith.registry.opening import open_registry
from promptsmith.registry.postgres.address import find_address
from promptsmith.registry.postgres.canaries import CanaryTable
from promptsmith.registry.postgres.connection import Database
from promptsmith.registry.postgres.migrating import migrations
from promptsmith.registry.postgres.registry import Postgres
from promptsmith.registry.postgres.spending import spent
from promptsmith.registry.postgres.transfer import pull, push
from promptsmith.registry.protocol import RegistryWarning
from promptsmith.service.keys import KeysWarning
from promptsmith.service.keys_postgres import KeyTable
from promptsmith.service.opening import open_keys
from promptsmith.service.shipping import Shipper
from promptsmith.store import Ledger, LedgerRow
from promptsmith.store.folder import open_store
from promptsmith.store.layout import LEDGER
from promptsmith.store.trouble import Trouble

from .databases import Server
from .test_lock_file import prompt, receipt_of
from .test_registry_conformance import eventually, promote

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
Open = Callable[..., Postgres]
SECRET = "Geheim/ni s:$%@ß"


def warned(found: list[warnings.WarningMessage]) -> list[str]:
    return [str(one.message) for one in found if issubclass(one.category, RegistryWarning)]


# --- settings -------------------------------------------------------------------------------------------------


def at(registry: str, make: Make) -> Project:
    return make(config=f"registry = {json.dumps(registry)}\n")


def test_a_password_comes_from_the_environment_and_is_never_shown(
    postgres: Server, database: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoted = SECRET.replace("'", "''")
    postgres.execute(f"CREATE ROLE locked_{database} LOGIN SUPERUSER PASSWORD '{quoted}'")
    url = postgres.url(database, f"locked_{database}", "PASSWORD").replace("PASSWORD", "$DATABASE_PASSWORD")
    monkeypatch.setenv("DATABASE_PASSWORD", SECRET)
    promote(opened(url), prompt())
    monkeypatch.setenv("WHOLE", postgres.url(database, f"locked_{database}", SECRET))
    assert opened("env:WHOLE").tasks() == opened(url.replace("$DATABASE_PASSWORD", "${DATABASE_PASSWORD}")).tasks() == ("sentiment",)


def test_a_wrong_password_is_told_without_it(
    postgres: Server, database: str, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.execute(f"CREATE ROLE locked_{database} LOGIN PASSWORD 'right'")
    wrong = f"wrong {SECRET}"
    monkeypatch.setenv("DATABASE_PASSWORD", wrong)
    url = postgres.url(database, f"locked_{database}", "PASSWORD").replace("PASSWORD", "$DATABASE_PASSWORD")
    caplog.set_level(logging.DEBUG)
    registry = opened(url)
    with pytest.raises(RegistryError, match="password authentication failed") as caught:
        promote(registry, prompt())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert registry.tasks() == ()  # of the lock that is shipped: there is none
    told = "\n".join([*traceback.format_exception(caught.value), *warned(found), caplog.text, *registry.problems()])
    assert "password authentication failed" in told
    assert database in told
    assert "Geheim" not in told


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("mysql://localhost/x", "of no known kind: mysql"),
        ("localhost:5432", "does not begin with postgresql://"),
        ("postgresql://me:$NOT_SET_HERE@localhost/x", "NOT_SET_HERE, which is not set"),
        ("env:NOT_SET_HERE", "NOT_SET_HERE, which is not set"),
    ],
)
def test_an_address_that_can_not_be_one_names_the_line(make_project: Make, invoke: Invoke, setting: str, what: str) -> None:
    project = at(setting, make_project)
    with pytest.raises(SourceError, match=r"promptsmith\.toml:1"):
        find_address(project)
    ended = invoke("status", project=project, code=2)
    assert what in ended.stderr


@pytest.mark.parametrize("query", ["sslmode=nonsense", "connect_timeout=x", "no_such_setting=1"])
def test_an_address_that_libpq_refuses_is_an_error_for_people(opened: Open, query: str) -> None:
    registry = opened(f"postgresql://me:{'hunter2'}@127.0.0.1:1/x?{query}")
    with pytest.raises(RegistryError) as caught:
        promote(registry, prompt())
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1:1/x" in str(caught.value)


def test_the_label_names_the_place_without_the_secret(make_project: Make) -> None:
    project = at("postgresql://me:pa%20ss@db.example:5433/prompts?sslmode=require&password=other", make_project)
    address = find_address(project)
    assert address.label == "postgresql://me@db.example:5433/prompts"
    assert address.told(ValueError("no: pa ss, pa%20ss and other\nmore")) == "no: [redacted], [redacted] and [redacted]"


def test_without_psycopg_the_extra_is_named(make_project: Make) -> None:
    project = at("postgresql://localhost/x", make_project)
    code = "import sys; sys.modules['psycopg'] = None; from promptsmith.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--project", project.root, "status"], capture_output=True, text=True, check=False, cwd=project.root
    )
    assert done.returncode == 2
    assert "pip install 'promptsmith[postgres]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_registry_nothing_of_it_is_loaded(promoted: Make) -> None:
    project = promoted()
    code = (
        "import sys; from promptsmith import Runtime; Runtime(sys.argv[1]).run('sentiment', 'It broke.'); "
        "print([name for name in sys.modules if 'psycopg' in name or 'postgres' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code, project.root], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- migrations -----------------------------------------------------------------------------------------------


def test_the_first_who_comes_makes_the_tables_and_nobody_makes_them_twice(postgres: Server, database: str, opened: Open) -> None:
    registries = [opened(postgres.url(database)) for _ in range(4)]
    threads = [threading.Thread(target=registry.tasks) for registry in registries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [registry.standing().origin for registry in registries] == ["registry"] * 4
    rows = postgres.execute("SELECT number, name FROM promptsmith_migrations ORDER BY number", database)
    assert rows == [(step.number, step.name) for step in migrations()]
    assert [step.number for step in migrations()] == list(range(1, len(migrations()) + 1))


def test_a_database_of_a_newer_version_is_refused(postgres: Server, database: str, opened: Open) -> None:
    url = postgres.url(database)
    promote(opened(url, "here"), prompt())
    postgres.execute("INSERT INTO promptsmith_migrations (number, name) VALUES (9000, '9000_later')", database)
    registry = opened(url, "here")
    with pytest.raises(RegistryError, match=r"version 9000.* knows versions up to") as caught:
        registry.tasks()
    assert "pip install -U" in caught.value.hint
    with pytest.raises(RegistryError, match="version 9000"):
        promote(opened(url), prompt())
    serving = opened(url, "here", patient=False)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        serving.tasks()
        eventually(lambda: serving.tasks() == ("sentiment",) and bool(warned(found)))
    assert serving.standing().origin == "last good"
    assert "version 9000" in warned(found)[0]


def test_a_role_without_rights_is_told_so(postgres: Server, database: str, opened: Open) -> None:
    postgres.execute(f"CREATE ROLE poor_{database} LOGIN")
    registry = opened(postgres.url(database, f"poor_{database}"))
    with pytest.raises(RegistryError, match="permission denied") as caught:
        promote(registry, prompt())
    assert "rights" in caught.value.hint


# --- a promotion reaches everybody ----------------------------------------------------------------------------


def on(postgres: Server, database: str, make: Make, name: str = "project", **more: Any) -> Project:
    """A project whose registry is the database; every one of them has a machine's cache of its own."""
    return make(config=f'registry = "{postgres.url(database)}"\n', name=name, **more)


def compiled(project: Project, mark: str = "") -> Prompt:
    from promptsmith import Task

    task = Task(f"Judge it. {mark}", name="sentiment", output=["good", "bad"], examples=[("fine", "good"), ("awful", "bad")])
    with open_store(project) as store:
        return compile_task(task, project=project, store=store)


def test_a_promotion_reaches_a_running_process(postgres: Server, database: str, make_project: Make, opened: Open) -> None:
    project = on(postgres, database, make_project)
    elsewhere = opened(postgres.url(database))
    first, second = compiled(project, "1"), compiled(project, "2")
    promote(elsewhere, first)
    with Runtime(project) as runtime:
        result = runtime.run("sentiment", "fine")
        assert (result.prompt, result.origin, result.age) == (first.id, "registry", 0.0)
        promote(elsewhere, second)
        eventually(lambda: runtime.resolve("sentiment").prompt.id == second.id)
        elsewhere.rollback("sentiment", "production")
        eventually(lambda: runtime.run("sentiment", "awful").prompt == first.id)


def test_serving_asks_the_database_nothing(postgres: Server, database: str, make_project: Make, opened: Open) -> None:
    """All tables are locked against readers: whoever asked the database would wait for ever."""
    import psycopg

    project = on(postgres, database, make_project)
    item = compiled(project)
    promote(opened(postgres.url(database)), item)
    with Runtime(project) as runtime, psycopg.connect(postgres.url(database)) as conn:
        runtime.run("sentiment", "fine")
        conn.execute("LOCK TABLE promptsmith_tasks, promptsmith_aliases, promptsmith_prompts IN ACCESS EXCLUSIVE MODE")
        for ref in ("sentiment", "sentiment@production", f"sentiment@{item.id[:8]}"):
            assert runtime.run(ref, "fine").prompt == item.id


def _mover(url: str, root: str, number: int, gate: Any, results: Any) -> None:
    registry = open_registry(Project(Path(root), Config(registry=url)), patient=True)
    won = []
    gate.wait()
    for turn in range(10):
        expected = registry.resolve("sentiment", "production")
        item = prompt(mark=f"{number}/{turn}")
        try:
            registry.move("sentiment", "production", item, expected=expected, who=f"process {number}")
        except LockConflict:
            continue
        won.append((expected, item.id))
    registry.close()
    results.put(won)


def test_four_processes_moving_at_once_lose_nothing(postgres: Server, database: str, opened: Open, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(4), context.Queue()
    args = [(postgres.url(database), str(tmp_path / f"process{number}"), number, gate, results) for number in range(4)]
    processes = [context.Process(target=_mover, args=one) for one in args]
    for process in processes:
        process.start()
    won = [pair for _ in processes for pair in results.get(timeout=120)]
    for process in processes:
        process.join()
    registry = opened(postgres.url(database))
    history = registry.history("sentiment")
    assert sorted((row.from_ or "", row.to or "") for row in history) == sorted((before or "", after) for before, after in won)
    assert len({before for before, _ in won}) == len(won)  # of those that expected the same, one moved
    assert all(before.to == after.from_ for before, after in pairwise(history))
    assert registry.resolve("sentiment", "production") == history[-1].to


def test_a_forked_child_listens_for_itself_and_leaves_the_parents_connection_alone(postgres: Server, database: str, opened: Open) -> None:
    registry, elsewhere = opened(postgres.url(database)), opened(postgres.url(database))
    first, second, third = (prompt(mark=mark) for mark in "123")
    promote(elsewhere, first)
    eventually(lambda: registry.resolve("sentiment", "production") == first.id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, which is what is tried
        child = os.fork()
    if child == 0:
        code = 1
        try:
            eventually(lambda: registry.resolve("sentiment", "production") == second.id)
            promote(registry, third)
            code = 0
        finally:
            os._exit(code)
    promote(elsewhere, second)
    assert os.waitpid(child, 0)[1] == 0
    eventually(lambda: registry.resolve("sentiment", "production") == third.id)
    assert registry.standing().origin == "registry"


def test_a_move_made_with_sql_is_seen_and_shows_as_made_outside(postgres: Server, database: str, opened: Open) -> None:
    registry = opened(postgres.url(database))
    one, two = prompt(mark="1"), prompt(mark="2")
    promote(registry, one, two)
    postgres.execute(f"UPDATE promptsmith_aliases SET prompt = '{one.id}'", database)
    eventually(lambda: registry.resolve("sentiment", "production") == one.id)
    (outside,) = registry.outside_moves("sentiment")
    assert (outside.recorded, outside.found) == (two.id, one.id)


def test_a_task_that_is_removed_with_sql_is_gone(postgres: Server, database: str, opened: Open) -> None:
    registry = opened(postgres.url(database))
    promote(registry, prompt("a"), prompt("b"))
    for table in ("aliases", "moves", "receipts", "prompts"):
        postgres.execute(f"DELETE FROM promptsmith_{table} WHERE task = 'a'", database)
    eventually(lambda: registry.tasks() == ("b",))
    assert registry.entry("a") is None


def test_two_projects_share_a_database_in_schemas_of_their_own(postgres: Server, database: str, opened: Open) -> None:
    for name in ("one", "two"):
        postgres.execute(f"CREATE SCHEMA {name}", database)
    one, two = (opened(f"{postgres.url(database)}&options=-csearch_path%3D{name}") for name in ("one", "two"))
    promote(one, prompt(mark="1"))
    promote(two, prompt(mark="2"))
    postgres.execute(f"DELETE FROM two.promptsmith_aliases WHERE prompt = '{prompt(mark='2').id}'", database)
    eventually(lambda: two.resolve("sentiment", "production") is None)
    assert one.resolve("sentiment", "production") == prompt(mark="1").id


# --- a database that is gone ----------------------------------------------------------------------------------


@pytest.fixture
def dying(mortal: Server) -> Iterator[Server]:
    yield mortal
    mortal.start()


def test_a_database_killed_while_serving_stops_nobody_and_is_found_again(dying: Server, make_project: Make, opened: Open) -> None:
    database = dying.new_database()
    project = on(dying, database, make_project)
    first, second = compiled(project, "1"), compiled(project, "2")
    promote(opened(dying.url(database), "elsewhere"), first)
    with Runtime(project) as runtime, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert runtime.run("sentiment", "fine").origin == "registry"
        dying.kill()
        eventually(lambda: runtime.run("sentiment", "fine").origin == "last good")
        for _ in range(100):
            result = runtime.run("sentiment", "fine")
        assert (result.prompt, result.value) == (first.id, "good")
        assert result.age is not None
        assert result.age > 0
        listener = runtime.asynchronous.resolver.registry
        threading.Event().wait(1)  # some more tries to connect, none of which says anything
        runtime.run("sentiment", "fine")
        (said,) = warned(found)
        assert "does not answer" in said
        assert "the last good copy is served until it is back" in said
        with pytest.raises(RegistryError, match="does not answer") as caught:
            listener.move("sentiment", "production", second)
        assert caught.value.retryable
        dying.start()
        eventually(lambda: runtime.run("sentiment", "fine").origin == "registry")
        promote(opened(dying.url(database), "another"), second)
        eventually(lambda: runtime.run("sentiment", "fine").prompt == second.id)
        assert len(warned(found)) == 1
        dying.kill()
        eventually(lambda: runtime.run("sentiment", "fine").origin == "last good")
        assert len(warned(found)) == 2  # of the second loss


def test_a_start_with_the_database_down_serves_the_copy(dying: Server, make_project: Make, opened: Open, invoke: Invoke) -> None:
    database = dying.new_database()
    project = on(dying, database, make_project)
    item = compiled(project)
    promote(opened(dying.url(database)), item)
    with Runtime(project) as runtime:
        assert runtime.run("sentiment", "fine").origin == "registry"
    dying.kill()
    with Runtime(project) as runtime, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = runtime.run("sentiment", "fine")
        assert (result.prompt, result.origin) == (item.id, "last good")
        assert result.age is not None
        assert 0 < result.age < 3600
        eventually(lambda: runtime.run("sentiment", "fine").ok and len(warned(found)) == 1)
        dying.start()
        eventually(lambda: runtime.run("sentiment", "fine").origin == "registry")
    dying.kill()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistryWarning)
        ended = invoke("history", "sentiment", project=project)
        assert item.id[:12] in ended.stdout
        ended = invoke("run", "sentiment", "fine", project=project)
        assert "from the last good copy" in ended.stderr
        ended = invoke("rollback", "sentiment", project=project, code=2)
        assert "does not answer" in ended.stderr
        ended = invoke("doctor", project=project, code=2)
        assert "out of reach" in ended.output


def test_without_a_copy_the_shipped_lock_serves(make_project: Make) -> None:
    project = make_project(config='registry = "postgresql://me@127.0.0.1:1/x"\n')
    item = compiled(project)
    promote(LockFile(project.lock), item)  # type: ignore[arg-type]
    with Runtime(project) as runtime, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = runtime.run("sentiment", "fine")
    assert (result.prompt, result.origin, result.age) == (item.id, "shipped lock", None)
    (said,) = warned(found)
    assert "promptsmith.lock is served in its place" in said


def test_with_neither_copy_nor_lock_the_reason_is_told(make_project: Make, invoke: Invoke) -> None:
    project = make_project(config='registry = "postgresql://me@127.0.0.1:1/x"\n')
    with Runtime(project) as runtime, warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistryWarning)
        with pytest.raises(RegistryError, match="does not answer") as caught:
            runtime.run("sentiment", "fine")
        assert caught.value.retryable
        ended = invoke("run", "sentiment", "fine", project=project, code=2)
    assert "does not answer" in ended.stderr


def test_a_start_waits_for_a_silent_database_no_longer_than_the_grace(make_project: Make, opened: Open) -> None:
    """A server that accepts and never says a word, as behind a firewall: the copy answers while the start still waits."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        project = make_project(config=f'registry = "postgresql://me@127.0.0.1:{silent.getsockname()[1]}/x"\n')
        registry = open_registry(project)
        assert isinstance(registry, Postgres)
        item = compiled(project)
        promote(LockFile(project.lock), item)  # type: ignore[arg-type]
        registry._copy.write({"sentiment": str(LockFile(project.lock).block_text("sentiment"))}, ())
        assert registry.resolve("sentiment", "production") == item.id
        assert registry.standing().origin == "last good"
        assert registry._listener is not None
        assert not registry._listener.settled.is_set()
        registry.close()


def test_a_damaged_copy_is_none(dying: Server, make_project: Make, opened: Open) -> None:
    database = dying.new_database()
    project = on(dying, database, make_project)
    item = compiled(project)
    registry = opened(dying.url(database), "project")
    promote(registry, item)
    promote(LockFile(project.lock), item)  # type: ignore[arg-type]
    registry.close()
    dying.kill()
    path = registry._copy.path
    whole = path.read_bytes()
    for data, origin in ((b"garbage", "shipped lock"), (whole.replace(b"Judge", b"Fudge"), "last good"), (whole, "last good")):
        path.write_bytes(data)
        with Runtime(project) as runtime, warnings.catch_warnings():
            warnings.simplefilter("ignore", RegistryWarning)
            warnings.simplefilter("ignore", UserWarning)
            result = runtime.run("sentiment", "fine")
        assert (result.prompt, result.origin) == (item.id, origin)


def test_a_cache_that_can_not_be_written_stops_nobody(
    postgres: Server, database: str, make_project: Make, opened: Open, tmp_path: Path
) -> None:
    (tmp_path / "machine0").mkdir()
    (tmp_path / "machine0" / "cache").write_text("a file where the folder would be")
    registry = opened(postgres.url(database))
    promote(registry, prompt())
    assert registry.resolve("sentiment", "production") == prompt().id
    assert registry.standing().origin == "registry"


# --- what stands in the tables --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("promptsmith_prompts", "body = 'garbage'"),
        ("promptsmith_prompts", "body = convert_to(replace(convert_from(body, 'utf8'), 'Classify', 'Falsify'), 'utf8')"),
        ("promptsmith_prompts", "body = '\\x00ff'"),
        ("promptsmith_moves", "body = '{}'"),
        ("promptsmith_receipts", "body = convert_to(replace(convert_from(body, 'utf8'), '\"looks\":2', '\"looks\":1'), 'utf8')"),
    ],
)
def test_tampered_rows_are_never_served_and_push_force_repairs_them(
    postgres: Server, database: str, make_project: Make, opened: Open, invoke: Invoke, table: str, change: str
) -> None:
    project = on(postgres, database, make_project)
    lock, item = LockFile(project.lock), compiled(project)
    item = msgspec.structs.replace(prompt(), task="sentiment")
    for registry in (lock, opened(postgres.url(database))):
        registry.move("sentiment", "production", item, who="Ada", receipt=receipt_of(item))
    serving = opened(postgres.url(database), patient=False)
    assert serving.resolve("sentiment", "production") == item.id
    promote(serving, prompt("another"))
    postgres.execute(f"UPDATE {table} SET {change} WHERE task = 'sentiment'", database)
    eventually(lambda: bool(serving.problems()))
    entry, damaged = serving.serve("sentiment", lambda _: None, lambda *_: None)
    assert entry is not None
    assert entry.prompt(item.id) == item  # what it was
    assert damaged is not None
    assert "damaged" in damaged
    with pytest.raises(LockError, match="damaged"):
        serving.entry("sentiment")
    assert serving.resolve("another", "production") == item.id
    fresh = opened(postgres.url(database))
    with pytest.raises(LockError, match="damaged"):
        fresh.serve("sentiment", lambda _: None, lambda *_: None)
    with pytest.raises(LockError, match="damaged"):
        promote(fresh, prompt(mark="2"))
    assert "damaged" in invoke("doctor", project=project, code=2).output
    assert "damaged" in invoke("push", project=project, code=2).stderr
    invoke("push", "--force", "--why", "it was damaged", project=project)
    eventually(lambda: not serving.problems())
    assert serving.prompt(item.id, "sentiment") == item
    assert len(serving.history("sentiment")) == 1


def test_rollback_reaches_beyond_the_five_that_a_lock_keeps(postgres: Server, database: str, opened: Open) -> None:
    registry = opened(postgres.url(database))
    items = [prompt(mark=str(number)) for number in range(9)]
    promote(registry, *items)
    for item in reversed(items[:-1]):
        assert registry.rollback("sentiment", "production").to == item.id
    assert registry.prompt(items[8].id) == items[8]


# --- push and pull --------------------------------------------------------------------------------------------


@pytest.fixture
def both(postgres: Server, database: str, make_project: Make, opened: Open) -> tuple[LockFile, Postgres]:
    project = on(postgres, database, make_project)
    return LockFile(project.lock), opened(postgres.url(database), "project")


Both = tuple[LockFile, Postgres]


def same(both: Both) -> bool:
    lock, registry = both
    return all(lock.block_text(task) == registry.block_text(task) for task in {*lock.tasks(), *registry.tasks()})


def test_push_brings_everything_and_does_so_once(both: Both) -> None:
    lock, registry = both
    one, two = prompt(mark="1"), prompt(mark="2")
    lock.move("sentiment", "production", one, who="Ada", why="first", receipt=receipt_of(one))
    lock.move("sentiment", "production", two, who="Ada", why="second", receipt=receipt_of(two))
    promote(lock, prompt("b"), alias="candidate")  # type: ignore[arg-type]
    tried = push(lock, registry, dry_run=True)
    assert registry.tasks() == ()
    done = push(lock, registry)
    assert done == tried
    assert [(task.task, dict(task.aliases), task.moves, task.prompts, task.receipts) for task in done] == [
        ("b", {"candidate": (None, prompt("b").id)}, 1, 1, 0),
        ("sentiment", {"production": (None, two.id)}, 2, 2, 2),
    ]
    assert same(both)
    stamp = registry.stamp()
    assert not any(task.changed for task in push(lock, registry))
    assert registry.stamp() == stamp
    lock.rollback("sentiment", "production", who="Ada")
    (done,) = push(lock, registry, ["sentiment"])
    assert (dict(done.aliases), done.moves) == ({"production": (two.id, one.id)}, 1)
    assert same(both)
    assert registry.history("sentiment")[-1].rollback


def test_push_refuses_when_the_server_has_moved_on_and_changes_nothing(both: Both) -> None:
    lock, registry = both
    one, two, three = (prompt(mark=mark) for mark in "123")
    promote(lock, one)  # type: ignore[arg-type]
    push(lock, registry)
    registry.move("sentiment", "production", two, who="Bob")
    lock.move("sentiment", "production", three, who="Ada")
    promote(lock, prompt("other"))  # type: ignore[arg-type]
    with pytest.raises(LockConflict, match=rf"sentiment: 1 move that the lock does not have, the last @production to {two.id[:12]} by Bob"):
        push(lock, registry)
    assert registry.tasks() == ("sentiment",)
    with pytest.raises(InputError, match="reason"):
        push(lock, registry, force=True)
    done = {task.task: task for task in push(lock, registry, force=True, why="Bob was wrong")}
    assert done["sentiment"].forced
    assert not done["other"].forced
    assert registry.resolve("sentiment", "production") == three.id
    last = registry.history("sentiment")[-1]
    assert (last.from_, last.to, last.why, last.forced) == (two.id, three.id, "Bob was wrong", True)
    assert [row.to for row in registry.history("sentiment")] == [one.id, two.id, three.id]
    assert not any(task.changed for task in push(lock, registry, ["other"]))


def test_push_does_not_undo_a_move_made_with_sql(postgres: Server, database: str, both: Both) -> None:
    lock, registry = both
    promote(lock, prompt(mark="1"), prompt(mark="2"))  # type: ignore[arg-type]
    push(lock, registry)
    postgres.execute(f"UPDATE promptsmith_aliases SET prompt = '{prompt(mark='1').id}'", database)
    with pytest.raises(LockConflict, match="moved outside"):
        push(lock, registry)


def test_pull_brings_everything_and_does_so_once(both: Both) -> None:
    lock, registry = both
    one, two = prompt(mark="1"), prompt(mark="2")
    promote(lock, prompt("mine"))  # type: ignore[arg-type]
    promote(registry, one)
    registry.move("sentiment", "production", two, who="Ada", receipt=receipt_of(two))
    before = lock.path.read_bytes()
    tried = pull(registry, lock, dry_run=True)
    assert lock.path.read_bytes() == before
    (done,) = pull(registry, lock)
    assert [done] == tried
    assert (done.task, dict(done.aliases), done.moves, done.prompts, done.receipts) == (
        "sentiment",
        {"production": (None, two.id)},
        2,
        2,
        1,
    )
    assert lock.block_text("sentiment") == registry.block_text("sentiment")
    assert lock.resolve("mine", "production") == prompt("mine").id
    after = lock.path.read_bytes()
    assert not any(task.changed for task in pull(registry, lock))
    assert lock.path.read_bytes() == after
    assert lock.problems() == ()


def test_pull_refuses_when_the_lock_has_moved_on(both: Both) -> None:
    lock, registry = both
    promote(registry, prompt(mark="1"))
    pull(registry, lock)
    lock.move("sentiment", "production", prompt(mark="2"), who="Ada")
    with pytest.raises(LockConflict, match="sentiment: 1 move that the server does not have"):
        pull(registry, lock)
    (done,) = pull(registry, lock, force=True)
    assert done.forced
    assert same(both)


def test_the_commands(postgres: Server, database: str, make_project: Make, invoke: Invoke) -> None:
    project = on(postgres, database, make_project)
    invoke("compile", project=project)
    assert "production: - ->" in invoke("promote", "sentiment", "--force", "--why", "first", project=project).stdout
    assert not project.lock.exists()  # the server is the truth
    assert invoke("run", "sentiment", "It broke.", project=project).stdout == "negative\n"
    assert "first" in invoke("history", "sentiment", project=project).stdout
    assert "fresh" in invoke("status", project=project).stdout
    assert "production" in invoke("list", project=project).stdout
    assert "1 tasks, every digest checked" in invoke("doctor", project=project).output
    assert "forced" in invoke("eval", "--locked", project=project).output
    pulled = json.loads(invoke("pull", "--json", project=project).stdout)
    assert [(task["task"], task["moves"], task["changed"]) for task in pulled["tasks"]] == [("sentiment", 1, True)]
    ended = invoke("pull", project=project)
    assert "promptsmith.lock is up to date" in ended.stderr
    assert ended.stdout == ""
    assert "up to date" in invoke("push", project=project).stderr
    invoke("rollback", "sentiment", project=project)
    assert re.search(r"moved on:\n *sentiment: 1 move that the lock does not have", invoke("push", project=project, code=2).stderr)
    assert "would change" in invoke("pull", "--dry-run", project=project).stderr
    assert "1 move" in invoke("pull", project=project).stdout
    assert LockFile(project.lock).resolve("sentiment", "production") is None
    assert "has no task" in invoke("push", "nonsense", project=project, code=2).stderr


def test_push_and_pull_without_a_server_say_so(make_project: Make, invoke: Invoke) -> None:
    for command in ("push", "pull"):
        assert "names no server registry" in invoke(command, project=make_project(), code=2).stderr


# --- keys -----------------------------------------------------------------------------------------------------


def test_keys_are_one_set_for_all_machines(postgres: Server, database: str, opened: Open) -> None:
    here, there = KeyTable(opened(postgres.url(database))), KeyTable(opened(postgres.url(database)))
    assert here.empty()
    assert there.empty()
    stamp = there.stamp()
    key, secret = here.add("app", scopes=("run", "read"), tasks=("support/*",), rpm=60, usd_per_day=1.5)
    assert here.find(secret) == key
    eventually(lambda: there.find(secret) == key)
    assert there.stamp() != stamp
    assert not there.empty()
    assert there.find("ps_" + "x" * 43) is None
    with pytest.raises(InputError, match="there is a key 'app' already"):
        there.add("app")
    assert there.revoke("app").revoked is not None
    eventually(lambda: here.find(secret) is None)
    with pytest.raises(UnknownName, match="revoked already"):
        here.revoke("app")
    again, _ = here.add("app")
    assert list(map(attrgetter("digest"), here.keys())) == [key.digest, again.digest]
    (body,) = postgres.execute("SELECT convert_from(body, 'utf8') FROM promptsmith_keys WHERE revoked", database)[0]
    assert secret not in str(body)


def test_keys_stay_in_force_while_the_database_is_down(dying: Server, opened: Open) -> None:
    url = dying.url(dying.new_database())
    keys = KeyTable(opened(url, "here"))
    key, secret = keys.add("app")
    dying.kill()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistryWarning)
        assert keys.find(secret) == key
        started = KeyTable(opened(url, "here", patient=False))
        assert started.find(secret) == key
        assert not started.empty()
        unknown = KeyTable(opened(url, "nowhere"))
        assert unknown.find(secret) is None
        assert not unknown.empty()  # so that it is no service without keys
        with pytest.raises(RegistryError, match="no copy of them is here"):
            unknown.keys()
        with pytest.raises(RegistryError, match="does not answer"):
            keys.add("another")


def test_a_damaged_key_leaves_those_that_were_read_last_in_force(postgres: Server, database: str, opened: Open) -> None:
    keys = KeyTable(opened(postgres.url(database)))
    key, secret = keys.add("app")
    assert keys.find(secret) == key
    postgres.execute("UPDATE promptsmith_keys SET body = 'garbage'", database)
    eventually(lambda: keys.stamp() == (b"garbage",))
    with pytest.warns(KeysWarning, match="damaged key"):
        assert keys.find(secret) == key
    with pytest.raises(RegistryError, match="damaged key"):
        KeyTable(opened(postgres.url(database))).find(secret)


def test_the_commands_for_keys(postgres: Server, database: str, make_project: Make, invoke: Invoke) -> None:
    project = on(postgres, database, make_project)
    secret = invoke("keys", "add", "app", project=project).stdout.strip()
    assert not (project.root / "promptsmith.keys").exists()
    assert open_keys(project).find(secret) is not None
    assert "app" in invoke("keys", "list", project=project).stdout
    invoke("keys", "revoke", "app", project=project)
    assert open_keys(project).find(secret) is None


# --- the ledger -----------------------------------------------------------------------------------------------


def rows_of(number: int, start: int = 0) -> list[LedgerRow]:
    return [
        LedgerRow(time=1.7e9 + n / 7, task="sentiment", prompt="p", stage="serve", model="m\x00", endpoint="e", input=n, cost=n / 1000)
        for n in range(start, start + number)
    ]


@pytest.fixture
def shipping(postgres: Server, database: str, make_project: Make, opened: Open) -> tuple[Project, Ledger, Shipper]:
    project = on(postgres, database, make_project)
    opened(postgres.url(database)).tasks()
    ledger = Ledger(str(project.cache / "ledger.jsonl"), Trouble(str(project.cache)))
    return project, ledger, Shipper(project, Database(find_address(project)))


def shipped(postgres: Server, database: str) -> list[tuple[object, ...]]:
    return postgres.execute("SELECT count(*), sum(input)::int, count(DISTINCT id) FROM promptsmith_ledger", database)


def row(**more: Any) -> LedgerRow:
    given = {"time": 1.0, "task": "t", "prompt": "p", "stage": "run", "model": "e/m", "endpoint": "e", "source": "model", **more}
    return msgspec.convert(given, LedgerRow)


def test_a_row_that_is_half_written_goes_over_when_it_is_whole(
    postgres: Server, database: str, shipping: tuple[Project, Ledger, Shipper]
) -> None:
    """The file grows while a batch goes over: the other half of a row must not be read as a row of its own."""
    project, _, shipper = shipping
    lines = [msgspec.json.encode(row(task=f"t{number}", time=number)) + b"\n" for number in (1.0, 2.0, 3.0)]
    ledger = project.cache / LEDGER
    ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_bytes(lines[0] + lines[1][:50])
    batches = shipper._batches()
    assert [line for _, line in next(batches).lines] == lines[:1]
    with ledger.open("ab") as file:
        file.write(lines[1][50:] + lines[2])
    assert [line for _, line in next(batches).lines] == lines[1:]


def test_the_largest_numbers_are_added_up(postgres: Server, database: str, shipping: tuple[Project, Ledger, Shipper]) -> None:
    _, ledger, shipper = shipping
    for number in (1.0, 2.0):
        ledger.append(row(time=number, input=2**63))
    ledger.close()
    assert shipper.ship() == 2
    with shipper._database.session() as conn:
        assert spent(conn, "task")[0]["input"] == 2 * (2**63 - 1)


def test_every_row_is_shipped_and_counts_once(postgres: Server, database: str, shipping: tuple[Project, Ledger, Shipper]) -> None:
    project, ledger, shipper = shipping
    assert shipper.ship() == 0
    for row in rows_of(2500):
        ledger.append(row)
    assert shipper.ship() == 2500
    assert shipper.ship() == 0
    ledger.append(rows_of(1, 9000)[0])
    with open(project.cache / "ledger.jsonl", "ab") as file:
        file.write(b'{"time": 1')  # a crash within a row
    assert shipper.ship() == 1
    for row in rows_of(2, 9001):
        ledger.append(row)  # on a line of its own
    assert shipper.ship() == 2
    expected = [(2503, sum(range(2500)) + 9000 + 9001 + 9002, 2503)]
    assert shipped(postgres, database) == expected
    (state,) = (project.cache / "registry").glob("*.shipped")
    for broken in (b"garbage", None, b'{"offset": 999999999, "inode": 1}'):
        state.unlink() if broken is None else state.write_bytes(broken)
        assert shipper.ship() == 0
        assert shipped(postgres, database) == expected


def test_the_costs_of_all_machines_are_added_up(postgres: Server, database: str, make_project: Make, opened: Open, invoke: Invoke) -> None:
    row, day = partial(LedgerRow, endpoint="e"), 1.7e9
    rows = [
        row(time=day, task="a", prompt="p" * 64, stage="run", model="x/m", input=10, output=2, cached=4, cost=0.5, source="model"),
        row(time=day, task="a", prompt="p" * 64, stage="run", model="x/m", input=7, output=1, written=3, source="model"),
        row(time=day + 86400, task="a", prompt="p" * 64, stage="run", model="x/m", input=10, output=2, cost=0.5, source="cache"),
        row(time=day + 86400, task="B", prompt="", stage="eval", model="y/m", input=1, output=1, cost=0.25, source="model"),
        row(time=day + 86400, task="", prompt="", stage="plan", model="y/m", source="model", status="error"),
    ]
    projects = [on(postgres, database, make_project, name=name) for name in ("one", "two")]
    for project in projects:
        assert json.loads(invoke("cost", "--all-machines", "--json", project=project).stdout) == []
    for project, machine in zip(projects, ("west", "north"), strict=True):
        ledger = Ledger(str(project.cache / "ledger.jsonl"), Trouble(str(project.cache)))
        for one in rows:
            ledger.append(msgspec.structs.replace(one, latency=len(machine) / 10))  # no two machines have one row
        shipper = Shipper(project, Database(find_address(project)))
        shipper._machine = machine
        assert shipper.ship() == len(rows)

    def cost(by: str, *more: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(invoke("cost", "--by", by, "--json", *more, project=projects[0]).stdout)
        return found

    for by in ("task", "prompt", "model", "stage", "day"):
        local, everywhere = cost(by), cost(by, "--all-machines")
        assert everywhere == [{name: value if name == by else 2 * value for name, value in row.items()} for row in local]
    machines = cost("machine", "--all-machines")
    assert [tuple(row[name] for name in ("machine", "calls", "cost", "unpriced")) for row in machines] == [
        ("north", 4, 0.75, 2),
        ("west", 4, 0.75, 2),
    ]
    assert "$1.0000 and 2 at an unknown price" in invoke("cost", "--all-machines", project=projects[0]).stdout
    assert "--all-machines" in invoke("cost", "--by", "machine", project=projects[0], code=2).stderr
    assert "server registry" in invoke("cost", "--all-machines", project=make_project(name="locked"), code=2).stderr


def _shipper(root: str, gate: Any) -> None:
    project = find_project(root)
    shipper = Shipper(project, Database(find_address(project)))
    gate.wait()
    for _ in range(20):
        shipper.ship()
    os.kill(os.getpid(), 9)


def test_shippers_of_several_processes_that_are_killed_count_nothing_twice(
    postgres: Server, database: str, shipping: tuple[Project, Ledger, Shipper]
) -> None:
    project, ledger, shipper = shipping
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(3)
    processes = [context.Process(target=_shipper, args=(str(project.root), gate)) for _ in range(2)]
    for process in processes:
        process.start()
    gate.wait()
    for row in rows_of(3000):
        ledger.append(row)
    for process in processes:
        process.join()
    shipper.ship()
    assert shipped(postgres, database) == [(3000, sum(range(3000)), 3000)]


def test_the_shipper_goes_on_when_the_database_is_back(dying: Server, make_project: Make, opened: Open) -> None:
    database = dying.new_database()
    project = on(dying, database, make_project)
    opened(dying.url(database)).tasks()
    ledger = Ledger(str(project.cache / "ledger.jsonl"), Trouble(str(project.cache)))
    shipper = Shipper(project, Database(find_address(project)))
    ledger.append(rows_of(1)[0])
    dying.kill()
    with pytest.raises(RegistryError):
        shipper.ship()
    shipper.start()
    ledger.append(rows_of(1, 1)[0])
    dying.start()
    eventually(lambda: shipped(dying, database) == [(2, 1, 2)])
    ledger.append(rows_of(1, 2)[0])
    shipper.close()
    assert shipped(dying, database) == [(3, 3, 3)]


# --- canaries -------------------------------------------------------------------------------------------------


def canary_of(candidate: Prompt, incumbent: Prompt, **more: Any) -> Canary:
    given: dict[str, Any] = {"share": 0.5, "who": "Ada", **more}
    return new_canary("sentiment", "production", candidate=candidate.id, incumbent=incumbent.id, **given)


def test_a_canary_is_one_for_all_machines_and_its_candidate_is_at_hand(
    postgres: Server, database: str, make_project: Make, opened: Open, invoke: Invoke
) -> None:
    project = on(postgres, database, make_project)
    first = compiled(project, "1")
    promote(opened(postgres.url(database)), first)
    elsewhere = opened(postgres.url(database), patient=False)
    table = CanaryTable(elsewhere)
    assert table.active("sentiment", "production") is None
    second = compiled(project, "2")
    invoke("promote", f"sentiment@{second.id[:12]}", "--canary", "50", "--force", "--why", "a try", project=project)
    eventually(lambda: table.active("sentiment", "production") is not None)
    canary = table.active("sentiment", "production")
    assert canary is not None
    assert (canary.candidate, canary.incumbent, canary.share, canary.forced) == (second.id, first.id, 0.5, True)
    assert elsewhere.resolve("sentiment", "production") == first.id
    other = on(postgres, database, make_project, name="other")  # which never compiled the candidate
    with Runtime(other) as runtime:
        served = {runtime.run("sentiment", "fine", canary_key=str(user)).prompt for user in range(40)}
        assert served == {first.id, second.id}
    assert canary.id in invoke("status", project=project).stdout
    invoke("promote", "sentiment", "--stop-canary", project=project)
    eventually(lambda: table.active("sentiment", "production") is None)


def test_outcomes_of_all_machines_come_in_one_order(postgres: Server, database: str, opened: Open) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    registries = [opened(postgres.url(database)) for _ in range(3)]
    promote(registries[0], one)
    tables = [CanaryTable(registry) for registry in registries]
    canary = tables[0].start(canary_of(two, one), two)
    for number, table in enumerate(tables):
        table.outcomes(canary.id)
        for turn in range(200):
            table.append(canary.id, Outcome("candidate" if number % 2 else "incumbent", turn % 2 == 0, turn % 7 == 0))
    eventually(lambda: all(table.outcomes(canary.id)[1] == 600 for table in tables))
    orders = [list(table.outcomes(canary.id)[0]) for table in [*tables, CanaryTable(registries[0], patient=True)]]
    assert all(order == orders[0] for order in orders)
    assert tables[0].outcomes(canary.id, 590)[1] == 600
    assert len(tables[0].outcomes(canary.id, 590)[0]) == 10
    patient = CanaryTable(registries[0], patient=True)
    patient.settle(canary.id, Verdict("stopped", "enough"), course(patient, canary).counts)
    left = "SELECT count(*) FROM promptsmith_outcomes"
    assert postgres.execute(left, database) == [(600,)]
    patient.start(canary_of(prompt(mark="3"), one), prompt(mark="3"))
    assert postgres.execute(left, database) == [(0,)]  # what they came to stands with the canary
    assert course(patient, patient.all()[0]).counts.candidate.calls == 200


def test_a_bad_canary_is_stopped_for_all_and_a_good_one_moves_the_alias(postgres: Server, database: str, opened: Open) -> None:
    one, bad, good = (prompt(mark=mark) for mark in "123")
    here, there = opened(postgres.url(database)), opened(postgres.url(database))
    promote(here, one)
    watches = [Watch(CanaryTable(registry), registry) for registry in (here, there)]
    table = CanaryTable(here, patient=True)
    kept = receipt_of(good)
    for candidate, fine in ((bad, False), (good, True)):
        table.start(canary_of(candidate, one, planned=200), candidate, receipt_of(candidate))
        eventually(lambda wanted=candidate.id: all(_candidate(watch) == wanted for watch in watches))  # type: ignore[misc]

        def serve(fine: bool = fine) -> bool:
            for watch in watches:
                canary = watch.canary("sentiment", "production")
                for turn in range(20) if canary is not None else ():
                    watch.outcome(canary, "candidate" if turn % 2 else "incumbent", fine or turn % 2 == 0, False)
            return all(watch.canary("sentiment", "production") is None for watch in watches)

        eventually(serve)
        eventually(lambda: table.all()[-1].ended is not None)  # written down in the background
    stopped, complete = table.all()
    assert (stopped.state, complete.state) == ("stopped", "complete")
    assert here.resolve("sentiment", "production") == good.id
    last = here.history("sentiment")[-1]
    assert (last.from_, last.to, last.who, last.why, last.receipt) == (
        one.id, good.id, "Ada", f"canary {complete.id} is complete", kept.digest,
    )  # fmt: skip
    assert here.receipts("sentiment")[good.id] == kept
    assert len(here.history("sentiment")) == 2


def _candidate(watch: Watch) -> str | None:
    canary = watch.canary("sentiment", "production")
    return canary.candidate if canary is not None else None


def test_without_the_database_no_canary_has_a_share(dying: Server, opened: Open) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    registry = opened(dying.url(dying.new_database()))
    promote(registry, one)
    table = CanaryTable(registry)
    canary = table.start(canary_of(two, one), two)
    assert table.active("sentiment", "production") == canary
    dying.kill()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistryWarning)
        eventually(lambda: table.active("sentiment", "production") is None)
        table.append(canary.id, Outcome("candidate", True, False))
        assert table.all() == ()
        dying.start()
        eventually(lambda: table.active("sentiment", "production") == canary)
    eventually(lambda: table.outcomes(canary.id)[1] == 1)


# --- the service ----------------------------------------------------------------------------------------------


def test_two_workers_of_a_service_follow_the_database_and_outlive_it(
    dying: Server, make_project: Make, opened: Open, invoke: Invoke
) -> None:
    database = dying.new_database()
    project = on(dying, database, make_project, name="server")
    elsewhere = opened(dying.url(database))
    first, second = compiled(project, "1"), compiled(project, "2")
    promote(elsewhere, first)
    command = [sys.executable, "-m", "promptsmith", "--project", str(project.root), "serve", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        try:
            assert running.stdout is not None
            found = re.search(r"http://\S+", running.stdout.readline())
            assert found
            served: list[tuple[int, str, str]] = []

            def ask(key: str = "") -> tuple[int, str, str]:
                served.append(_asked(found[0].rstrip("/"), key))
                return served[-1]

            eventually(lambda: ask() == (200, first.id, "registry"))
            promote(elsewhere, second)
            eventually(lambda: all(ask()[1] == second.id for _ in range(8)))
            _, secret = KeyTable(elsewhere).add("app")
            eventually(lambda: all(ask()[0] == 401 for _ in range(8)))
            assert ask(secret) == (200, second.id, "registry")
            dying.kill()
            eventually(lambda: all(ask(secret)[2] == "last good" for _ in range(8)))
            assert ask(secret) == (200, second.id, "last good")
            dying.start()
            eventually(lambda: all(ask(secret)[2] == "registry" for _ in range(8)))
            assert {status for status, *_ in served} == {200, 401}
        finally:
            running.terminate()
        assert running.wait(60) == 0
    calls = sum(status == 200 for status, *_ in served)
    Shipper(project, Database(find_address(project))).ship()  # what a worker could not ship before it ended
    assert dying.execute("SELECT count(*) FROM promptsmith_ledger", database) == [(calls,)]


def _asked(address: str, key: str) -> tuple[int, str, str]:
    """Status, prompt and origin of one answer."""
    request = urllib.request.Request(f"{address}/v1/run/sentiment", b'{"input": "fine"}', {"content-type": "application/json"})
    if key:
        request.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["x-promptsmith-prompt"], answer.headers["x-promptsmith-origin"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, "", ""
