"""Keys of the service: made, found, revoked, limited; the file that keeps their digests; the commands."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import Result as Ended
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.config import Project, find_project
from promptsmith.errors import InputError, LockError, SourceError, UnknownName
from promptsmith.service.keys import Key, KeyFile, KeyRing, KeyStore, KeysWarning, allowed, make_key
from promptsmith.service.opening import open_keys
from promptsmith.service.quotas import Quotas, Refused
from promptsmith.store.counters import SharedCounters, Used

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
NOW = 1_800_000_000.0  # 08:00 UTC
DIGEST = "ab" * 32


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "promptsmith.keys")


@pytest.fixture
def quotas(tmp_path: Path) -> Quotas:
    return Quotas(SharedCounters(tmp_path / "cache" / "counters"))


def key(**fields: object) -> Key:
    return Key(**{"name": "app", "digest": DIGEST, "created": NOW} | fields)  # type: ignore[arg-type]


# --- a key ------------------------------------------------------------------------------------------------


def test_a_secret_is_random_told_once_and_kept_as_a_digest(file: KeyFile) -> None:
    made = [file.add(f"app{number}") for number in range(3)]
    assert len({secret for _, secret in made}) == 3
    kept = file.path.read_text()
    for one, secret in made:
        assert secret.startswith("ps_") and len(secret) == 46
        assert one.digest == hashlib.sha256(secret.encode()).hexdigest()
        assert secret not in kept and secret[3:] not in kept and secret not in repr(one)
        assert one.digest in kept


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x\r\ny"},
        {"name": "é"},
        {"name": "a" * 65},
        {"scopes": ()},
        {"scopes": ("root",)},
        {"tasks": ("../secret",)},
        {"tasks": ("*",)},
        {"tasks": ("support*",)},
        {"rpm": 0},
        {"rpm": -1},
        {"tokens_per_day": 0},
        {"tokens_per_day": 10**18},
        {"usd_per_day": 0.0},
        {"usd_per_day": float("nan")},
        {"usd_per_day": float("inf")},
        {"digest": "ab"},
    ],
    ids=repr,
)
def test_what_can_not_be_a_key_is_said(fields: dict[str, object]) -> None:
    with pytest.raises(InputError):
        key(**fields)


def test_scopes_and_tasks_bound_what_a_key_may_do() -> None:
    run, read, admin = key(), key(scopes=("read",)), key(scopes=("admin",))
    assert allowed(run, "run", "a") and not allowed(run, "read") and not allowed(run, "admin", "a")
    assert allowed(read, "read") and not allowed(read, "run", "a")
    assert all(allowed(admin, scope) for scope in ("run", "read", "admin"))
    some = key(scopes=("admin",), tasks=("support/*", "sentiment"))
    assert allowed(some, "run", "support/route") and allowed(some, "run", "support/a/b") and allowed(some, "admin", "sentiment")
    for task in ("support", "supporting/route", "sentiment2", "a/sentiment", ""):
        assert not allowed(some, "run", task)
    assert allowed(some, "read")


@given(st.text(max_size=60) | st.from_regex(r"ps_[\x00-\uffff]{43}", fullmatch=True))
def test_any_text_that_is_no_secret_finds_nothing(text: str) -> None:
    assert KeyRing([make_key("app")[0]]).find(text) is None


def test_only_the_whole_secret_finds_its_key() -> None:
    (one, secret), (two, other) = make_key("one"), make_key("two")
    ring = KeyRing([one, two])
    assert ring.find(secret) is one and ring.find(other) is two
    for wrong in (secret[:-1], f"{secret}x", secret.swapcase(), f" {secret}", secret.replace("ps_", "sk_"), one.digest, "\ud800" * 46):
        assert ring.find(wrong) is None


# --- the file ---------------------------------------------------------------------------------------------


def test_it_is_a_key_store(file: KeyFile) -> None:
    store: KeyStore = file
    made, secret = store.add("app", scopes=["read", "run", "read"], tasks=["a", "a"], rpm=5, tokens_per_day=10, usd_per_day=0.5)
    assert made.scopes == ("read", "run") and made.tasks == ("a",)
    assert store.keys() == (made,)
    assert KeyFile(file.path).find(secret) == made


def test_it_is_for_its_owner_only_and_lines_of_json(file: KeyFile) -> None:
    file.add("one", rpm=3)
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.path.chmod(0o644)
    file.add("two")
    assert file.path.stat().st_mode & 0o777 == 0o600
    rows = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert [row["name"] for row in rows] == ["one", "two"]
    assert rows[0].keys() == {"name", "digest", "created", "scopes", "rpm"}


def test_a_name_is_free_again_once_it_is_revoked(file: KeyFile) -> None:
    _, first = file.add("app")
    with pytest.raises(InputError, match="there is a key 'app' already"):
        file.add("app")
    assert file.revoke("app").revoked
    _, second = file.add("app")
    assert file.find(first) is None
    assert (found := file.find(second)) is not None and found.name == "app"
    file.revoke("app")
    assert len(file.keys()) == 2 and file.find(second) is None


def test_revoking_says_what_there_is(file: KeyFile) -> None:
    file.add("billing")
    with pytest.raises(UnknownName, match="did you mean 'billing'"):
        file.revoke("biling")
    file.revoke("billing")
    with pytest.raises(UnknownName, match="is revoked already"):
        file.revoke("billing")


def test_another_process_changes_it_and_the_next_request_knows(file: KeyFile) -> None:
    running = KeyFile(file.path)
    assert running.find("ps_" + "a" * 43) is None and running.empty()
    made, secret = file.add("app")
    assert running.find(secret) == made and not running.empty()
    for _ in range(20):  # quick moves, within one tick of the file system's clock
        before = running.stamp()
        file.revoke("app")
        assert running.stamp() != before and running.find(secret) is None
        _, secret = file.add("app")
        assert running.find(secret) is not None


def test_a_service_that_had_keys_does_not_open_when_their_file_is_gone(file: KeyFile) -> None:
    _, secret = file.add("app")
    running = KeyFile(file.path)
    assert not running.empty()
    file.path.unlink()
    assert running.find(secret) is None and not running.empty()
    assert KeyFile(file.path).empty()


BAD = {
    "no json": (b"nonsense", "is no key"),
    "torn": (b'{"name":"x","digest":"ab', "is no key"),
    "a field": (b'{"name":"x","digest":"%s","created":1,"role":"admin"}' % DIGEST.encode(), "is no key"),
    "a type": (b'{"name":"x","digest":"%s","created":1,"rpm":"many"}' % DIGEST.encode(), "is no key"),
    "a scope": (b'{"name":"x","digest":"%s","created":1,"scopes":["root"]}' % DIGEST.encode(), "is no key"),
    "a limit": (b'{"name":"x","digest":"%s","created":1,"rpm":0}' % DIGEST.encode(), "a limit of 0 rpm can't be kept"),
    "bytes": (b'{"name":"\xff","digest":"%s","created":1}' % DIGEST.encode(), "is no key"),
    "deep": (b"[" * 100_000, "is no key"),
    "a secret": (b'{"name":"x","digest":"ps_%s","created":1}' % (b"s" * 43), "64 hex digits"),
}


@pytest.mark.parametrize(("line", "words"), BAD.values(), ids=BAD)
def test_a_damaged_file_stops_a_start_with_its_line_and_no_worker(file: KeyFile, line: bytes, words: str) -> None:
    _, secret = file.add("app")
    running = KeyFile(file.path)
    assert running.find(secret)
    file.path.write_bytes(file.path.read_bytes() + b"\n" + line + b"\n")
    with pytest.raises(SourceError) as raised:
        KeyFile(file.path).keys()
    (problem,) = raised.value.problems
    assert str(problem).startswith("promptsmith.keys:3: ") and words in problem.what
    assert "sss" not in str(raised.value)
    with pytest.warns(KeysWarning, match="stay in force"):
        assert running.find(secret)
    assert running.find(secret) and not running.empty()  # told once
    with pytest.raises(SourceError):
        KeyFile(file.path).find(secret)
    before = file.path.read_bytes()
    for change in (lambda: file.add("other"), lambda: file.revoke("app")):
        with pytest.raises(SourceError):
            change()
    assert file.path.read_bytes() == before


def test_all_damaged_lines_are_told_at_once_and_a_key_stands_once(file: KeyFile) -> None:
    good = msgspec.json.encode(key())
    same_name = msgspec.json.encode(key(digest="cd" * 32))
    file.path.write_bytes(b"\n".join([good, b"{}", same_name, good]))
    with pytest.raises(SourceError) as raised:
        file.keys()
    assert [problem.line for problem in raised.value.problems] == [2, 3, 4]
    assert "stands twice" in str(raised.value)


def test_a_file_that_can_not_be_read_keeps_the_keys_in_force(file: KeyFile) -> None:
    _, secret = file.add("app")
    assert file.find(secret)
    file.path.unlink()
    file.path.mkdir()
    with pytest.warns(KeysWarning, match="can't be read"):
        assert file.find(secret)


def test_a_folder_in_its_place_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    file = KeyFile(tmp_path / "keys")
    with pytest.raises(InputError, match="can't be read"):
        file.keys()
    with pytest.raises((InputError, LockError)):
        file.add("app")


ADD = """
import sys
from promptsmith.service.keys import KeyFile
file = KeyFile(sys.argv[1])
for number in range(10):
    file.add(f"{sys.argv[2]}-{number}")
    if number % 2:
        file.revoke(f"{sys.argv[2]}-{number}")
"""


def test_processes_that_add_and_revoke_at_once_lose_nothing(file: KeyFile) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", ADD, str(file.path), name]) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    kept = file.keys()
    assert {one.name for one in kept} == {f"{name}-{number}" for name in "abc" for number in range(10)}
    assert {one.name for one in kept if one.revoked} == {f"{name}-{number}" for name in "abc" for number in range(1, 10, 2)}


# --- limits -----------------------------------------------------------------------------------------------


def test_requests_a_minute(quotas: Quotas) -> None:
    app, other = key(rpm=2), key(rpm=2, digest="cd" * 32)
    assert [quotas.admit(app, NOW) for _ in range(2)] == [None, None]
    refused = quotas.admit(app, NOW + 10)
    assert refused == Refused(51.0, "the key app may make 2 requests a minute", "rpm_limit")
    assert quotas.admit(other, NOW) is None
    assert quotas.admit(app, NOW + 10 + refused.retry_after) is None


def test_tokens_and_dollars_a_day(quotas: Quotas) -> None:
    tokens, dollars = key(tokens_per_day=100), key(usd_per_day=0.5, digest="cd" * 32)
    quotas.settle(tokens, 99, 9.0, NOW)
    quotas.settle(dollars, 10**9, 0.499999, NOW)
    assert quotas.admit(tokens, NOW) is None and quotas.admit(dollars, NOW) is None
    quotas.settle(tokens, 1, None, NOW)
    quotas.settle(dollars, 0, 0.000001, NOW)
    assert quotas.used(dollars, NOW) == Used(0, 10**9, 0.5)
    for one, code in ((tokens, "token_limit"), (dollars, "cost_limit")):
        refused = quotas.admit(one, NOW)
        assert refused is not None and (refused.code, refused.retry_after) == (code, 16 * 3600.0)
        assert "00:00 UTC" in refused.words
        assert quotas.admit(one, NOW + refused.retry_after) is None


def test_a_key_without_limits_takes_no_slot(tmp_path: Path) -> None:
    counters = SharedCounters(tmp_path / "cache" / "counters", slots=1)
    quotas = Quotas(counters)
    quotas.settle(key(rpm=1), 1, 1.0, NOW)  # nothing of it is limited by the day
    for number in range(3):
        free = key(digest=f"{number:064x}")
        assert quotas.admit(free, NOW) is None and quotas.used(free, NOW) is None
        quotas.settle(free, 10, 1.0, NOW)
    assert quotas.admit(key(rpm=1), NOW) is None


# --- commands ---------------------------------------------------------------------------------------------


def test_adding_writes_the_secret_and_nothing_else_on_stdout(make_project: Make, invoke: Invoke) -> None:
    project = make_project()
    done = invoke("keys", "add", "app", "--task", "support/*", "--task", "sentiment", "--rpm", "60", project=project)
    secret = done.stdout.removesuffix("\n")
    assert secret.startswith("ps_") and len(secret) == 46
    assert secret not in done.stderr and "added: app (run; support/*, sentiment)" in done.stderr
    found = open_keys(project).find(secret)
    assert found is not None and (found.name, found.scopes, found.rpm) == ("app", ("run",), 60)
    assert (project.root / "promptsmith.keys").exists()


def test_the_settings_say_where_the_file_is(make_project: Make, invoke: Invoke) -> None:
    project = make_project(config='[service]\nkeys = "secrets.jsonl"\n')
    invoke("keys", "add", "app", "--scope", "admin", "--scope", "run", project=project)
    assert find_project(project.root).config.service.keys == "secrets.jsonl"
    (one,) = KeyFile(project.root / "secrets.jsonl").keys()
    assert one.scopes == ("admin", "run")


def test_listing_shows_limits_and_what_was_revoked(make_project: Make, invoke: Invoke) -> None:
    project = make_project()
    empty = invoke("keys", "list", project=project)
    assert empty.stdout == "" and "no keys" in empty.stderr
    invoke("keys", "add", "app", "--tokens-per-day", "100000", "--usd-per-day", "2.5", project=project)
    invoke("keys", "add", "old", project=project)
    revoked = invoke("keys", "revoke", "old", project=project)
    assert revoked.stdout == "" and "revoked: old" in revoked.stderr
    header, *rows = invoke("keys", "list", project=project).stdout.splitlines()
    assert header.split() == ["KEY", "SCOPES", "TASKS", "RPM", "TOKENS/DAY", "USD/DAY", "CREATED", "REVOKED"]
    assert rows[0].split()[:6] == ["app", "run", "all", "-", "100,000", "2.5"]
    assert rows[0].split()[-1] == "-" and rows[1].split()[-1].endswith("Z")
    listed = invoke("keys", "list", "--json", project=project).stdout
    app, old = json.loads(listed)
    assert app["tokens_per_day"] == 100000 and app["usd_per_day"] == 2.5 and app["rpm"] is None and app["revoked"] is None
    assert old["revoked"] and old["scopes"] == ["run"]
    assert not any(one.digest in listed for one in KeyFile(project.root / "promptsmith.keys").keys())  # noqa: SIM118


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "a b"], "can't be a key's name"),
        (["add", "new", "--rpm", "0"], "0 is not in the range"),
        (["add", "new", "--rpm", str(10**16)], "can't be kept"),
        (["add", "new", "--usd-per-day", "nan"], "can't be kept"),
        (["add", "new", "--usd-per-day", "inf"], "can't be kept"),
        (["add", "new", "--scope", "root"], "'root' is not one of"),
        (["add", "new", "--task", "../x"], "can't be a task's name"),
        (["add", "app"], "there is a key 'app' already"),
        (["revoke", "ap"], "did you mean 'app'?"),
    ],
)
def test_errors_are_for_people_and_change_nothing(make_project: Make, invoke: Invoke, arguments: list[str], words: str) -> None:
    project = make_project()
    file = KeyFile(project.root / "promptsmith.keys")
    file.add("app")
    before = file.path.read_bytes()
    done = invoke("keys", *arguments, project=project, code=2)
    assert done.stdout == "" and words in done.stderr
    assert file.path.read_bytes() == before


def test_a_damaged_file_names_its_line(make_project: Make, invoke: Invoke) -> None:
    project = make_project()
    (project.root / "promptsmith.keys").write_text("\n{}\n")
    for arguments in (["list"], ["add", "app"], ["revoke", "app"]):
        done = invoke("keys", *arguments, project=project, code=2)
        assert "promptsmith.keys:2: this line is no key" in done.stderr
