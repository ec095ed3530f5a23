"""Faults that a stranger found: canaries, and a registry that many machines share."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result as Ended

from promptsmith import Runtime
from promptsmith.canary import Watch, course
from promptsmith.config import Project, find_project
from promptsmith.prompt import Prompt, Serve, Variable
from promptsmith.registry.canaries import Canary, CanaryFile, Outcome, Verdict, new_canary
from promptsmith.registry.lock import LockFile
from promptsmith.registry.opening import open_registry
from promptsmith.registry.postgres.address import find_address
from promptsmith.registry.postgres.canaries import CanaryTable
from promptsmith.registry.postgres.connection import Database
from promptsmith.registry.postgres.registry import Postgres
from promptsmith.registry.postgres.transfer import pull, push
from promptsmith.registry.resolve import Resolved, Resolver
from promptsmith.service.arms import Arms
from promptsmith.service.shipping import Shipper
from promptsmith.service.visit import Visit
from promptsmith.store import Ledger, LedgerRow
from promptsmith.store.folder import open_store
from promptsmith.store.layout import CANARIES
from promptsmith.store.trouble import Trouble

from .databases import Server, started
from .provider import Ask, Provider
from .serving import OPENAI, SECONDS, SENTIMENT, Canned, Say, Serving, eventually, made, project_at, reload, serving, settings_of
from .test_lock_file import prompt

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
Open = Callable[..., Postgres]
CALLS = 250


@pytest.fixture
def dying(mortal: Server) -> Iterator[Server]:
    yield mortal
    mortal.start()


def command(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in another process."""
    line = [sys.executable, "-m", "promptsmith", *arguments]
    return subprocess.run(line, cwd=project.root, capture_output=True, text=True, timeout=2 * SECONDS, check=False)


def machine(root: Path, url: str, provider: Provider, **more: str) -> Project:
    """A project on the server registry at ``url``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "promptsmith.toml").write_text(f"registry = {json.dumps(url)}\n" + settings_of(provider, **more))
    return find_project(root)


def kept(project: Project, *prompts: Prompt) -> None:
    """Puts prompts into the cache alone, as compile does."""
    with open_store(project) as store:
        for one in prompts:
            assert store.put_prompt(one)


def canary_beside(project: Project, candidate: Prompt, percent: str = "50") -> None:
    kept(project, candidate)
    ref = f"{candidate.task}@{candidate.id[:12]}"
    begun = command(project, "promote", ref, "--canary", percent, "--force", "--why", "to try it")
    assert begun.returncode == 0, begun


def locked(root: Path, provider: Provider, candidate: Prompt, **more: str) -> Project:
    """A prompt in the lock, and beside it a canary of one that is only in the cache."""
    project = project_at(root, settings_of(provider, **more), made("split", OPENAI, SENTIMENT))
    canary_beside(project, candidate)
    return project


def beside(candidate: Prompt, incumbent: Prompt, **more: Any) -> Canary:
    return new_canary("sentiment", "production", candidate=candidate.id, incumbent=incumbent.id, **{"share": 0.5, "who": "Ada", **more})


def called(service: Serving, store: CanaryFile, calls: int = CALLS) -> Counter[tuple[int, str | None]]:
    """Calls until the canary has ended, at most so many; statuses and arms."""
    found: Counter[tuple[int, str | None]] = Counter()
    while store.active("split", "production") is not None and found.total() < calls:
        one = service.chat("split")
        found[one.status, one.headers.get("x-promptsmith-arm")] += 1
    return found


# --- a candidate that can answer nobody ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_candidate_that_its_provider_refuses_is_stopped(provider: Provider, tmp_path: Path, status: int) -> None:
    """As when its model was retired there: every call of the candidate fails, none of the incumbent's."""
    with Canned() as canned:
        body = json.dumps({"error": {"message": "the model does not exist", "type": "invalid_request_error"}}).encode()
        canned.says.append(Say([body], status=status))
        project = locked(tmp_path / "p", provider, made("split", "canned/gpt-gone", SENTIMENT), canned=canned.url)
        with serving(project) as service:
            store = CanaryFile(project.cache / CANARIES)
            found = called(service, store)
            assert found[200, "incumbent"] and found[status, "candidate"]
            assert store.active("split", "production") is None, f"{found[status, 'candidate']} callers were refused, and it goes on"


def test_a_candidate_of_an_unknown_model_is_stopped(provider: Provider, tmp_path: Path) -> None:
    project = locked(tmp_path / "p", provider, made("split", "nowhere/gpt-gone", SENTIMENT))
    with serving(project) as service:
        store = CanaryFile(project.cache / CANARIES)
        found = called(service, store)
        assert store.active("split", "production") is None, found


def test_a_candidate_that_takes_other_inputs_is_stopped(provider: Provider, tmp_path: Path) -> None:
    project = locked(tmp_path / "p", provider, made("split", OPENAI, SENTIMENT, inputs=(Variable("text"), Variable("language"))))
    with serving(project) as service:
        store = CanaryFile(project.cache / CANARIES)
        found = called(service, store)
        assert store.active("split", "production") is None, found


def test_a_candidate_that_is_gone_leaves_its_callers_with_the_incumbent(provider: Provider, tmp_path: Path) -> None:
    """`Runtime` does so; see test_a_key_gets_production_in_a_shadow_after_a_move_and_when_the_candidate_is_gone."""
    project = locked(tmp_path / "p", provider, made("split", OPENAI, SENTIMENT, mark="other"))
    assert command(project, "cache", "clear", "--yes").returncode == 0
    with serving(project) as service:
        assert Counter(service.chat("split").status for _ in range(40)) == {200: 40}


def test_a_candidate_that_can_not_be_read_is_no_failure_of_the_incumbent(provider: Provider, tmp_path: Path) -> None:
    project = locked(tmp_path / "p", provider, made("split", OPENAI, SENTIMENT, mark="other"))
    for file in (project.cache / "prompts").glob("cache.db*"):
        file.unlink()
    (project.cache / "prompts" / "cache.db").write_bytes(b"garbage" * 1000)
    with serving(project) as service:
        statuses = Counter(service.chat("split").status for _ in range(40))
        store = CanaryFile(project.cache / CANARIES)
        [canary] = store.all()
        assert course(store, canary).counts.incumbent.failed == 0
        assert statuses == {200: 40}


# --- a canary and its alias ---------------------------------------------------------------------------------


class Overtaken:
    """A core whose lock git takes away just after a ref was resolved, and writes again, the same, a moment later."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver, self._resolver = self, resolver
        self.writing: list[threading.Timer] = []

    def resolve(self, ref: str) -> Resolved:
        found = self._resolver.resolve(ref)
        lock = self._resolver.project.lock
        if not self.writing:
            self.writing.append(threading.Timer(0.2, lock.write_bytes, (lock.read_bytes(),)))
            lock.unlink()
            self.writing[0].start()
        return found


def shadowed(project: Project, candidate: Prompt) -> CanaryFile:
    kept(project, candidate)
    begun = command(project, "promote", f"{candidate.task}@{candidate.id[:12]}", "--shadow", "--force", "--why", "to look at it")
    assert begun.returncode == 0, begun
    return CanaryFile(project.cache / CANARIES)


def told_of(store: CanaryFile) -> Counter[tuple[str, bool | None, bool]]:
    return Counter((one.arm, one.adherent, one.failed) for one in store.outcomes(store.all()[-1].id)[0])


def test_in_a_shadow_a_client_s_mistake_counts_on_neither_side(provider: Provider, tmp_path: Path) -> None:
    project = project_at(tmp_path / "p", settings_of(provider), made("split", OPENAI, SENTIMENT))
    store = shadowed(project, made("split", OPENAI, SENTIMENT, mark="other"))
    with serving(project) as service:
        for _ in range(5):
            assert service.chat("split", tools=[{"type": "function", "function": {"name": "f"}}]).status == 400
            assert service.run("split", inputs={"no": "such"}).status == 400
        assert {service.chat("split").status for _ in range(3)} == {200}
        eventually(lambda: told_of(store).total() == 6, "three answers, and three beside")
    assert told_of(store) == {("incumbent", True, False): 3, ("candidate", True, False): 3}


@pytest.mark.parametrize("stream", [False, True])
def test_in_a_shadow_both_sides_are_mended_alike(tmp_path: Path, stream: bool) -> None:
    """Answers that break the contract at first, and not when they are asked for again: whoever calls gets good ones from either."""

    def mends(ask: Ask) -> str:
        return "positive" if "required form" in ask.text else "It depends."

    repair = Serve(on_contract_break="repair")
    with Provider(mends) as mended:
        project = project_at(tmp_path / "p", settings_of(mended), made("split", OPENAI, SENTIMENT, serve=repair))
        store = shadowed(project, made("split", OPENAI, SENTIMENT, serve=repair, mark="other"))
        with serving(project) as service:
            for _ in range(3):
                service.chat("split", stream=stream)
            eventually(lambda: told_of(store).total() == 6, "three answers, and three beside")
        assert told_of(store) == {("incumbent", not stream, False): 3, ("candidate", not stream, False): 3}


def test_git_that_writes_the_lock_again_ends_no_canary(provider: Provider, tmp_path: Path) -> None:
    """git takes a file away before it writes the new one; the resolver waits for that (`LockFile._settled`), and not for ever.

    Seen with a service of two workers under load: ended after 79 checkouts of two commits that name the same prompt.
    """
    project = locked(tmp_path / "p", provider, made("split", OPENAI, SENTIMENT, mark="other"))
    canaries = CanaryFile(project.cache / CANARIES)
    with open_store(project) as store:
        core = Overtaken(Resolver(project, store))
        Arms(core, Watch(canaries, core._resolver.registry)).resolve("split", Visit("/", None), None)  # type: ignore[arg-type]
        core.writing[0].join()
    assert canaries.active("split", "production") is not None


def test_moves_that_no_request_has_seen_end_a_canary_too(provider: Provider, tmp_path: Path) -> None:
    third = made("split", OPENAI, SENTIMENT, mark="third")
    project = locked(tmp_path / "p", provider, made("split", OPENAI, SENTIMENT, mark="other"))
    kept(project, third)
    assert command(project, "promote", f"split@{third.id[:12]}", "--force", "--why", "it is better").returncode == 0
    assert command(project, "rollback", "split").returncode == 0
    assert "is running" not in command(project, "status").stdout


def test_a_rollback_after_a_completion_leaves_nobody_on_the_candidate(postgres: Server, database: str, opened: Open) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    registry = opened(postgres.url(database))
    registry.move("sentiment", "production", one, who="Ada")
    table = CanaryTable(registry, patient=True)
    canary = table.start(beside(two, one), two)
    table.settle(canary.id, Verdict("complete", "a drop is ruled out", ends=False), course(table, canary).counts)
    assert registry.resolve("sentiment", "production") == two.id
    registry.rollback("sentiment", "production")
    assert Watch(CanaryTable(registry), registry).canary("sentiment", "production") is None


def test_another_share_takes_the_calls_that_are_asked_for(provider: Provider, tmp_path: Path) -> None:
    candidate = made("split", OPENAI, SENTIMENT, mark="other")
    project = locked(tmp_path / "p", provider, candidate)
    ref = f"split@{candidate.id[:12]}"
    begun = command(project, "promote", ref, "--canary", "60", "--canary-calls", "77", "--force", "--why", "a larger share")
    [canary] = CanaryFile(project.cache / CANARIES).all()
    done = canary.share, canary.planned
    assert done == ((0.6, 77) if begun.returncode == 0 else (0.5, 1000)), "an option that was taken without a word does nothing"


def test_what_a_model_s_name_means_is_not_drawn_for(provider: Provider, tmp_path: Path) -> None:
    project = locked(tmp_path / "p", provider, made("split", OPENAI, SENTIMENT, mark="other"))
    with serving(project) as service:
        listed = {one["prompt"] for one in service.call("GET", "/v1/models").json["data"] if one["id"] == "split"}
        assert {service.call("GET", "/v1/models/split").json["prompt"] for _ in range(30)} == listed


# --- canaries of many machines ------------------------------------------------------------------------------


def test_a_stop_by_one_who_has_not_read_yet_keeps_what_was_counted(postgres: Server, database: str, opened: Open) -> None:
    """The pages' stop, and the end of a moved alias, on a worker that has just started."""
    one, two = prompt(mark="1"), prompt(mark="2")
    here, there = (opened(postgres.url(database)) for _ in range(2))
    here.move("sentiment", "production", one, who="Ada")
    busy, fresh = CanaryTable(here), CanaryTable(there)
    canary = busy.start(beside(two, one), two)
    busy.outcomes(canary.id)
    for turn in range(200):
        busy.append(canary.id, Outcome("candidate" if turn % 2 else "incumbent", True, False))
    eventually(lambda: busy.outcomes(canary.id)[1] == 200)
    eventually(lambda: fresh.active("sentiment", "production") is not None)
    Watch(fresh, there).stop(canary, "ended on the pages")
    table = CanaryTable(here, patient=True)
    eventually(lambda: table.all()[0].ended is not None)
    assert course(table, table.all()[0]).counts.candidate.calls == 100


def test_a_damaged_canary_row_is_told_and_can_be_taken_away(
    postgres: Server, database: str, provider: Provider, tmp_path: Path, opened: Open
) -> None:
    candidate = made("split", OPENAI, SENTIMENT, mark="other")
    opened(postgres.url(database)).move("split", "production", made("split", OPENAI, SENTIMENT), who="Ada")
    project = machine(tmp_path / "m", postgres.url(database), provider)
    canary_beside(project, candidate)
    postgres.execute("UPDATE promptsmith_canaries SET body = 'garbage'", database)
    again = command(project, "promote", f"split@{candidate.id[:12]}", "--canary", "50", "--force", "--why", "again")
    assert "Traceback" not in again.stderr
    assert "damaged" in again.stderr + command(project, "status").stderr


def test_a_canary_is_not_said_to_be_none_while_nobody_knows(dying: Server, provider: Provider, tmp_path: Path, opened: Open) -> None:
    name = dying.new_database()
    opened(dying.url(name)).move("split", "production", made("split", OPENAI, SENTIMENT), who="Ada")
    project = machine(tmp_path / "m", dying.url(name), provider)
    canary_beside(project, made("split", OPENAI, SENTIMENT, mark="other"))
    dying.kill()
    ended = command(project, "promote", "split", "--stop-canary")
    assert ended.returncode != 0
    assert "no canary runs" not in ended.stderr


def test_what_is_pulled_while_a_canary_runs_was_promoted(postgres: Server, database: str, opened: Open, tmp_path: Path) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    registry = opened(postgres.url(database))
    registry.move("sentiment", "production", one, who="Ada")
    table = CanaryTable(registry, patient=True)
    canary = table.start(beside(two, one), two)
    lock = LockFile(tmp_path / "promptsmith.lock")
    pull(registry, lock)
    table.settle(canary.id, Verdict("stopped", "enough"), course(table, canary).counts)
    push(lock, registry)
    assert not any(task.changed for task in push(lock, registry)), "a second push changes nothing"
    before = lock.path.read_bytes()
    assert any(task.changed for task in pull(registry, lock)) or lock.path.read_bytes() == before, "what a pull changes it says"
    assert two.id.encode() not in before, "nobody has promoted it"


def test_a_runtime_that_is_closed_leaves_no_thread(postgres: Server, database: str, make_project: Make) -> None:
    """So each SIGHUP of a service with a canary leaves one, which asks the database five times a second for ever."""
    one, two = prompt(mark="1"), prompt(mark="2")
    project = make_project(config=f"registry = {json.dumps(postgres.url(database))}\n")
    before = set(threading.enumerate())
    with Runtime(project) as runtime:
        core = runtime.asynchronous
        core.resolver.registry.move("sentiment", "production", one, who="Ada")
        canary = core.canaries.start(beside(two, one), two)
        core.canaries.append(canary.id, Outcome("candidate", True, False))
        eventually(lambda: CanaryTable(core.resolver.registry, patient=True).outcomes(canary.id)[1] == 1)  # type: ignore[arg-type]
        mine = [thread for thread in set(threading.enumerate()) - before if thread.name == "promptsmith-canaries"]
        assert mine
    for thread in mine:
        thread.join(5)
    assert not [thread for thread in mine if thread.is_alive()]


def test_a_database_that_hangs_is_out_of_reach(tmp_path: Path, opened: Open) -> None:
    """It takes connections and says nothing more: nobody could stop a canary, and nobody knows whether the alias was moved."""
    generator = started()
    server = next(generator)
    try:
        name = server.new_database()
        one, two = prompt(mark="1"), prompt(mark="2")
        registry = opened(server.url(name), patient=False)
        registry.move("sentiment", "production", one, who="Ada")
        table = CanaryTable(registry)
        table.start(beside(two, one), two)
        eventually(lambda: table.active("sentiment", "production") is not None)
        pid = server._server.get_pid()
        stopped = [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()), pid]
        for each in stopped:
            os.kill(each, signal.SIGSTOP)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                eventually(lambda: table.active("sentiment", "production") is None, "its canary has no share any more")
                assert registry.standing().origin == "last good"
        finally:
            for each in reversed(stopped):
                os.kill(each, signal.SIGCONT)
    finally:
        generator.close()


# --- a start, and a copy ------------------------------------------------------------------------------------


def test_a_task_that_was_damaged_is_served_as_it_was_after_a_restart(postgres: Server, database: str, opened: Open) -> None:
    item, other = prompt(), prompt("another")
    first = opened(postgres.url(database), "same", patient=False)
    for one in (item, other):
        first.move(one.task, "production", one, who="Ada")
    first.close()
    postgres.execute("UPDATE promptsmith_prompts SET body = 'garbage' WHERE task = 'sentiment'", database)
    again = opened(postgres.url(database), "same", patient=False)
    eventually(lambda: again.standing().origin == "registry")
    entry, damaged = again.serve("sentiment", lambda _: None, lambda *_: None)
    assert entry is not None
    assert entry.prompt(item.id) == item
    assert damaged


def test_the_copy_keeps_what_was_good_of_a_damaged_task(dying: Server, opened: Open) -> None:
    """A single `promptsmith status` while a row is damaged takes the task out of the copy on disk."""
    name = dying.new_database()
    item = prompt()
    first = opened(dying.url(name), "same")
    first.move("sentiment", "production", item, who="Ada")
    first.close()
    dying.execute("UPDATE promptsmith_prompts SET body = 'garbage'", name)
    looking = opened(dying.url(name), "same")
    looking.tasks()
    looking.close()
    dying.kill()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert opened(dying.url(name), "same", patient=False).resolve("sentiment", "production") == item.id


def test_registries_in_two_schemas_have_copies_of_their_own(dying: Server, opened: Open) -> None:
    name = dying.new_database()
    for schema in ("staging", "live"):
        dying.execute(f"CREATE SCHEMA {schema}", name)
    urls = {schema: f"{dying.url(name)}&options=-csearch_path%3D{schema}" for schema in ("staging", "live")}
    staging = opened(urls["staging"], "same")
    staging.move("sentiment", "production", prompt(mark="a draft"), who="Ada")
    staging.close()
    dying.kill()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live = opened(urls["live"], "same", patient=False)
        assert live.resolve("sentiment", "production") is None, "what staging has in production is served as live's last good"


def copied(project: Project, *prompts: Prompt) -> None:
    """Leaves a copy of a registry with these prompts, as a service that ran before does."""
    lock = LockFile(project.root / "copied.lock")
    for one in prompts:
        lock.move(one.task, "production", one, who="Ada")
    registry = open_registry(project)
    assert isinstance(registry, Postgres)
    registry._copy.write({task: str(lock.block_text(task)) for task in lock.tasks()}, ())


def test_a_service_starts_from_its_copy_while_the_database_is_silent(provider: Provider, tmp_path: Path) -> None:
    """At most 50 ms later than usual. The silent server here answers when the service is up, or else never."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=60"
        project = machine(tmp_path / "m", url, provider)
        copied(project, made("split", OPENAI, SENTIMENT))
        usual = project_at(tmp_path / "usual", settings_of(provider), made("split", OPENAI, SENTIMENT))
        took = []
        for one in (usual, usual, project):
            began = time.monotonic()
            with serving(one) as service:
                took.append(time.monotonic() - began)
                assert service.chat("split").status == 200
        assert took[2] < took[1] + 3, "it waited for the database"


def test_a_service_starts_with_the_lock_alone(provider: Provider, tmp_path: Path) -> None:
    project = machine(tmp_path / "m", "postgresql://me@127.0.0.1:1/x", provider)
    LockFile(project.lock).move("split", "production", made("split", OPENAI, SENTIMENT), who="Ada")
    with serving(project) as service:
        assert service.call("GET", "/healthz").status == 200
        assert service.call("GET", "/readyz").status == 200
        assert service.chat("split").status in {200, 401}  # its keys may be in the database


# --- the ledger of all machines -----------------------------------------------------------------------------


def shipped(server: Server, name: str) -> int:
    ((found,),) = server.execute("SELECT count(*) FROM promptsmith_ledger", name)
    assert isinstance(found, int)
    return found


def row(**more: Any) -> LedgerRow:
    return LedgerRow(**{"time": 1.7e9, "task": "a", "prompt": "p", "stage": "run", "model": "m", "endpoint": "e", **more})


@pytest.fixture
def shipping(postgres: Server, database: str, make_project: Make, opened: Open) -> tuple[Path, Ledger, Shipper]:
    project = make_project(config=f"registry = {json.dumps(postgres.url(database))}\n")
    opened(postgres.url(database)).tasks()
    path = project.cache / "ledger.jsonl"
    return path, Ledger(str(path), Trouble(str(project.cache))), Shipper(project, Database(find_address(project)))


def test_a_row_that_the_database_does_not_take_holds_up_no_other(
    postgres: Server, database: str, shipping: tuple[Path, Ledger, Shipper]
) -> None:
    """A provider that says 2**63 prompt tokens makes such a row."""
    _, ledger, shipper = shipping
    for number in (1, 2**63, 3):
        ledger.append(row(input=number))
    shipper.ship()
    assert shipped(postgres, database) >= 2


def test_a_ledger_that_was_repaired_counts_once(postgres: Server, database: str, shipping: tuple[Path, Ledger, Shipper]) -> None:
    """`doctor` says that there is a damaged line, and nothing but an editor takes it away."""
    path, ledger, shipper = shipping
    ledger.append(row(input=1))
    with path.open("ab") as file:
        file.write(b"garbage}\n")
    for number in range(2, 7):
        ledger.append(row(input=number))
    shipper.ship()
    path.write_bytes(path.read_bytes().replace(b"garbage}\n", b""))
    shipper.ship()
    assert shipped(postgres, database) == 6


def test_a_reload_ships_to_the_registry_that_is_read(postgres: Server, provider: Provider, tmp_path: Path, opened: Open) -> None:
    one = made("split", OPENAI, SENTIMENT)
    first, second = postgres.new_database(), postgres.new_database()
    for name in (first, second):
        opened(postgres.url(name)).move("split", "production", one, who="Ada")
    project = machine(tmp_path / "m", postgres.url(first), provider)
    with serving(project) as service:
        assert service.chat("split").status == 200
        eventually(lambda: shipped(postgres, first) == 1)
        machine(tmp_path / "m", postgres.url(second), provider)
        reload(service)
        assert service.chat("split").status == 200
        until = time.monotonic() + 8  # it ships once a second
        while shipped(postgres, second) == 0 and time.monotonic() < until:
            time.sleep(0.1)
        assert (shipped(postgres, first), shipped(postgres, second) > 0) == (1, True)


@pytest.fixture
def reading(postgres: Server, database: str, provider: Provider, tmp_path: Path, opened: Open) -> Iterator[Serving]:
    """A service with a canary, whose role may only read, after some calls."""
    opened(postgres.url(database)).move("split", "production", made("split", OPENAI, SENTIMENT), who="Ada")
    role = f"reader_{database}"
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    postgres.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}", database)
    canary_beside(machine(tmp_path / "admin", postgres.url(database), provider), made("split", OPENAI, SENTIMENT, mark="BROKEN"))
    with serving(machine(tmp_path / "m", postgres.url(database, role), provider)) as service:
        eventually(lambda: service.chat("split").headers.get("x-promptsmith-arm") is not None)
        for _ in range(60):
            service.chat("split")
        threading.Event().wait(3)  # outcomes and rows are written about once a second
        yield service


def test_where_outcomes_can_not_be_written_no_canary_has_a_share(reading: Serving) -> None:
    """Nobody could stop it: here every answer of the candidate breaks its contract."""
    assert {reading.chat("split").headers.get("x-promptsmith-arm") for _ in range(40)} == {None}


def test_that_nothing_can_be_written_is_told(reading: Serving) -> None:
    assert reading.told("trouble"), "neither an outcome nor a row of the ledger has arrived"


def test_the_log_is_lines_of_json_whatever_the_database_says(reading: Serving) -> None:
    assert [line for line in reading.lines() if not line.startswith("{")] == []
