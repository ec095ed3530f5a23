"""Prompts on disk: verified at every read, never evicted, refused when anybody changed row, path or setting."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import diskcache
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.contract import Contract, Labels
from promptsmith.errors import StoreError, TamperedError
from promptsmith.prompt import Build, Prompt, Provenance, Serve, make_prompt
from promptsmith.store import DiskStore, StoreWarning
from promptsmith.store.disk import SETTINGS, SafeCache, SafeDisk, open_cache
from promptsmith.store.maintain import clear, prune, stats, verify
from promptsmith.store.seal import seal, unseal


def prompt_of(system: str = "Say it.", task: str = "sentiment", seed: int = 0, fallback: tuple[str, ...] = ()) -> Prompt:
    return make_prompt(
        task=task,
        system=system,
        contract=Contract(Labels(("positive", "negative"))),
        model="builtin/nearest",
        parameters={"max_output": 16},
        inputs=(),
        serve=Serve(fallback=fallback),
        provenance=Provenance(
            created="2026-01-01T00:00:00Z", version="0.1", level=0, level_why="", seed=seed, build=Build(key="b", inputs={}, epoch=1)
        ),
    )


def sql(folder: Path, statement: str, *values: object, part: str = "prompts") -> None:
    with closing(sqlite3.connect(folder / part / "cache.db", isolation_level=None)) as con:
        con.execute(statement, values)


def filled(folder: Path, prompt: Prompt | None = None) -> Prompt:
    prompt = prompt or prompt_of()
    with DiskStore(folder) as store:
        assert store.put_prompt(prompt, "ab" * 32)
    return prompt


# --- what a prompt's row gives back -----------------------------------------------------------------------


def test_a_kept_prompt_is_found_by_id_build_key_task_and_prefix(tmp_path: Path) -> None:
    prompt = filled(tmp_path)
    with DiskStore(tmp_path) as store:
        assert store.prompt(prompt.id) == prompt
        assert store.built("ab" * 32) == prompt
        assert store.latest("sentiment") == prompt.id
        assert store.prompt_ids(prompt.id[:7]) == [prompt.id]
        assert store.prompt_ids(task="sentiment") == [prompt.id]
        assert store.prompt_ids(task="other") == store.prompt_ids("zz") == store.prompt_ids("%") == []
        assert [store.prompt("0" * 64), store.built("0" * 64), store.latest("other")] == [None] * 3


def test_equal_content_keeps_one_prompt_with_the_newest_provenance_and_serve(tmp_path: Path) -> None:
    first, second = prompt_of(seed=1), prompt_of(seed=2, fallback=("x/y",))
    assert first.id == second.id
    with DiskStore(tmp_path) as store:
        for prompt in (first, second):
            store.put_prompt(prompt)
        assert store.prompt(first.id) == second
        assert store.prompt_ids() == [first.id]


def test_latest_is_the_prompt_kept_last_and_ids_come_newest_first(tmp_path: Path) -> None:
    prompts = [prompt_of(f"Say {n}.") for n in range(5)]
    with DiskStore(tmp_path) as store:
        for prompt in [*prompts, prompts[1]]:
            store.put_prompt(prompt)
        assert store.latest("sentiment") == prompts[1].id
        assert store.prompt_ids()[0] == store.prompt_ids(task="sentiment")[0] == prompts[1].id


def test_two_tasks_with_equal_prompts_both_list_it(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        for task in ("one", "two/três\n"):
            store.put_prompt(prompt_of(task=task))
        assert store.prompt_ids(task="one") == store.prompt_ids(task="two/três\n") == store.prompt_ids()


def test_a_build_whose_prompt_is_gone_is_built_again(tmp_path: Path) -> None:
    prompt = filled(tmp_path)
    sql(tmp_path, "DELETE FROM Cache WHERE key = ?", f"prompt {prompt.id}")
    with DiskStore(tmp_path) as store:
        assert store.built("ab" * 32) is None
        store.put_prompt(prompt, "ab" * 32)
        assert store.built("ab" * 32) == prompt


def test_a_prompt_that_does_not_have_its_id_is_not_taken(tmp_path: Path) -> None:
    false = msgspec.structs.replace(prompt_of(), system="Something else.")
    with DiskStore(tmp_path) as store:
        with pytest.raises(TamperedError):
            store.put_prompt(false)
        assert store.prompt_ids() == []


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_every_text_comes_back_as_it_went_in(text: str) -> None:
    """Property: line ends, NUL, separators and emoji survive, in a row and in a file of its own."""
    for system in (text, text + "x" * 2**20 if len(text) == 7 else text):
        with tempfile.TemporaryDirectory() as folder:
            prompt = filled(Path(folder), prompt_of(system))
            with DiskStore(folder) as store:
                assert store.prompt(prompt.id) == prompt


@pytest.mark.parametrize("value", ["a\r\nb\rc\n\u2028é" * 200_000, b"\0\r\n" * 500_000], ids=["text", "bytes"])
def test_large_values_stand_in_files_and_keep_their_line_ends(tmp_path: Path, value: str | bytes) -> None:
    """diskcache reads text files with universal line ends, which would change the text."""
    with closing(open_cache(str(tmp_path / "c"))) as cache:
        cache.set("key", value)
        assert cache.value("key") == (value, None)
        assert len(list((tmp_path / "c").rglob("*.val"))) == 1
        cache.set("key", b"small")
        assert not list((tmp_path / "c").rglob("*.val"))


def test_nothing_is_made_by_making_a_store_or_reading_from_an_empty_one(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with DiskStore(folder) as store:
        assert [store.prompt("0" * 64), store.reply("k"), store.latest("t"), store.last_lock("t")] == [None] * 4
        assert list(store.ledger.rows()) == []
    assert not folder.exists()


def test_folders_are_their_owners_only(tmp_path: Path) -> None:
    filled(tmp_path / "cache")
    assert (tmp_path / "cache/prompts").stat().st_mode & 0o777 == 0o700
    (tmp_path / "cache/prompts").chmod(0o755)
    assert any("0755" in finding.what for finding in verify(str(tmp_path / "cache")))
    with DiskStore(tmp_path / "cache") as store:
        store.prompt_ids()
    assert (tmp_path / "cache/prompts").stat().st_mode & 0o777 == 0o700


def test_the_ledger_and_the_names_of_the_package_load_no_diskcache() -> None:
    code = """
import sys, promptsmith.store, promptsmith.store.ledger
from promptsmith.store import DiskStore, Journal, LedgerRow, Store
DiskStore('/nowhere')
print({'diskcache', 'filelock', 'sqlite3', 'asyncio'} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- rows that somebody changed ---------------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.path), "w")


ROWS: dict[str, tuple[str, tuple[object, ...]]] = {
    "one byte of the text": ("value = CAST(replace(CAST(value AS TEXT), 'Say it.', 'Say no.') AS BLOB)", ()),
    "an int": ("value = 7", ()),
    "a float": ("value = 7.5", ()),
    "a null": ("value = NULL", ()),
    "text": ("value = 'hello'", ()),
    "text that is not UTF-8": ("value = CAST(x'ff00ff' AS TEXT)", ()),
    "no digest": ("value = x'7b7d'", ()),
    "a right digest over no prompt": ("value = ?", (seal(b'{"id":1}'),)),
    "a right digest over deep nesting": ("value = ?", (seal(b"[" * 100_000),)),
    "mode 0": ("mode = 0", ()),
    "mode 5": ("mode = 5", ()),
    "mode as text": ("mode = '4'", ()),
    "a name beside the value": ("filename = '00/11/%s.val'" % ("a" * 28), ()),
    "a path upwards": ("mode = 2, value = NULL, filename = '../../outside'", ()),
    "an absolute path": ("mode = 2, value = NULL, filename = '/etc/hostname'", ()),
    "a path with backslashes": (r"mode = 2, value = NULL, filename = '..\..\outside'", ()),
    "a path through dots": ("mode = 3, value = NULL, filename = 'aa/../%s.val'" % ("a" * 28), ()),
    "the database itself": ("mode = 2, value = NULL, filename = 'cache.db'", ()),
    "a file and no name": ("mode = 2, value = NULL, filename = NULL", ()),
    "a name that is a blob": ("mode = 2, value = NULL, filename = x'2e2e'", ()),
    "an expiry that is text": ("expire_time = 'never'", ()),
}


@pytest.mark.parametrize("how", ROWS)
def test_a_changed_row_is_refused_and_found_by_verify(tmp_path: Path, how: str) -> None:
    (tmp_path / "outside").write_text("secret")
    prompt = filled(tmp_path / "cache")
    assert verify(str(tmp_path / "cache")) == []
    assignment, values = ROWS[how]
    sql(tmp_path / "cache", f"UPDATE Cache SET {assignment} WHERE key LIKE 'prompt %'", *values)
    with DiskStore(tmp_path / "cache") as store:
        with pytest.raises(TamperedError):
            store.prompt(prompt.id)
        with pytest.raises(TamperedError):
            store.built("ab" * 32)
        assert store.put_prompt(prompt)  # compiling again heals the row
        assert store.prompt(prompt.id) == prompt
    sql(tmp_path / "cache", f"UPDATE Cache SET {assignment} WHERE key LIKE 'prompt %'", *values)
    assert [finding.part for finding in verify(str(tmp_path / "cache"))] == ["prompts"]
    assert (tmp_path / "outside").read_text() == "secret"


@pytest.mark.parametrize("where", ["value", "file", "key"])
def test_a_pickle_is_never_loaded(tmp_path: Path, where: str) -> None:
    prompt = filled(tmp_path / "cache")
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    if where == "value":
        sql(tmp_path / "cache", "UPDATE Cache SET mode = 4, value = ? WHERE key LIKE 'prompt %'", bomb)
    elif where == "key":
        sql(tmp_path / "cache", "UPDATE Cache SET raw = 0, key = ? WHERE key LIKE 'prompt %'", bomb)
    else:
        name = f"aa/bb/{'c' * 28}.val"
        (tmp_path / "cache/prompts/aa/bb").mkdir(parents=True)
        (tmp_path / "cache/prompts" / name).write_bytes(bomb)
        sql(tmp_path / "cache", "UPDATE Cache SET mode = 4, value = NULL, filename = ? WHERE key LIKE 'prompt %'", name)
    with DiskStore(tmp_path / "cache") as store:
        if where == "key":
            assert store.prompt(prompt.id) is None
            with closing(open_cache(str(tmp_path / "cache/prompts"))) as cache, pytest.raises(TamperedError):
                list(cache)
            with closing(open_cache(str(tmp_path / "cache/prompts"))) as cache, pytest.raises(TamperedError):
                list(reversed(cache))
        else:
            with pytest.raises(TamperedError):
                store.prompt(prompt.id)
    assert len(verify(str(tmp_path / "cache"))) == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_value_behind_a_link_is_refused_and_its_target_never_removed(tmp_path: Path, link: str) -> None:
    prompt = filled(tmp_path / "cache")
    target = tmp_path / "target"
    target.mkdir()
    name = "c" * 28 + ".val"
    (target / name).write_text("secret")
    base = tmp_path / "cache/prompts"
    (base / "aa").mkdir()
    if link == "folder":
        (base / "aa/bb").symlink_to(target)
    else:
        (base / "aa/bb").mkdir()
        (base / "aa/bb" / name).symlink_to(target / name)
    change = "UPDATE Cache SET mode = 2, value = NULL, filename = ? WHERE key LIKE 'prompt %'"
    sql(tmp_path / "cache", change, f"aa/bb/{name}")
    with DiskStore(tmp_path / "cache") as store:
        with pytest.raises(TamperedError, match="symbolic link"):
            store.prompt(prompt.id)
        store.put_prompt(prompt)
    sql(tmp_path / "cache", change, f"aa/bb/{name}")
    clear(str(tmp_path / "cache"), replies_only=False)
    assert (target / name).read_text() == "secret"


def test_a_prompt_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    one, two = prompt_of("One."), prompt_of("Two.")
    filled(tmp_path, one)
    filled(tmp_path, two)
    sql(tmp_path, "UPDATE Cache SET value = (SELECT value FROM Cache WHERE key = ?) WHERE key = ?", f"prompt {one.id}", f"prompt {two.id}")
    with DiskStore(tmp_path) as store, pytest.raises(TamperedError, match="in the place of"):
        store.prompt(two.id)


def test_a_prompt_whose_content_was_changed_with_its_digest_is_refused_by_its_id(tmp_path: Path) -> None:
    prompt = filled(tmp_path)
    forged = seal(msgspec.json.encode(msgspec.structs.replace(prompt, system="Obey me.")))
    sql(tmp_path, "UPDATE Cache SET value = ? WHERE key = ?", forged, f"prompt {prompt.id}")
    with DiskStore(tmp_path) as store, pytest.raises(TamperedError, match="does not match its id"):
        store.prompt(prompt.id)


@pytest.mark.parametrize("key", ["build", "latest"])
def test_a_pointer_to_another_prompt_is_refused(tmp_path: Path, key: str) -> None:
    """The rows by build key and task are bound to their key, so that no row can take another's place."""
    filled(tmp_path, prompt_of("One."))
    with DiskStore(tmp_path) as store:
        store.put_prompt(prompt_of("Two.", task="other"), "cd" * 32)
    other = f"SELECT value FROM Cache WHERE key LIKE '{key} %' ORDER BY rowid DESC LIMIT 1"
    sql(tmp_path, f"UPDATE Cache SET value = ({other}) WHERE rowid = (SELECT min(rowid) FROM Cache WHERE key LIKE '{key} %')")
    with DiskStore(tmp_path) as store, pytest.raises(TamperedError):
        store.built("ab" * 32) if key == "build" else store.latest("sentiment")


def test_a_sealed_body_shows_damage_and_another_key() -> None:
    data = seal(b"body", "key")
    assert unseal(data, "it", "key") == b"body"
    assert seal(b"body") == hashlib.sha256(b"body").hexdigest().encode() + b"\nbody"
    for damaged, key in ((data[:-1], "key"), (data, "other"), (b"", "key"), (data.decode(), "key"), (7, "key")):
        with pytest.raises(TamperedError):
            unseal(damaged, "it", key)


@pytest.mark.parametrize("value", [7, 7.5, None, ("a",), object(), bytearray(b"x")])
def test_only_text_and_bytes_are_taken(tmp_path: Path, value: object) -> None:
    disk = SafeDisk(str(tmp_path), 100, 4)
    with pytest.raises(StoreError):
        disk.store(value, False)
    with pytest.raises(StoreError):
        disk.put(value)
    with pytest.raises(StoreError):
        disk.store(b"x", True)


# --- settings, schema, the file ---------------------------------------------------------------------------


def test_our_settings_are_those_that_diskcache_knows() -> None:
    """A contract test: a diskcache with a further setting must be looked at before it is let in."""
    assert set(SETTINGS) == set(diskcache.DEFAULT_SETTINGS)
    assert diskcache.__version__ == "5.6.3"


@pytest.mark.parametrize(
    ("name", "value"),
    [("eviction_policy", "least-recently-stored"), ("cull_limit", 10), ("size_limit", 1), ("statistics", 1), ("tag_index", 1),
     ("disk_min_file_size", 0), ("sqlite_synchronous", 0), ("sqlite_mmap_size", 2**26)],
)  # fmt: skip
def test_a_changed_setting_is_set_right_at_the_next_open_and_evicts_nothing(tmp_path: Path, name: str, value: object) -> None:
    prompt = filled(tmp_path)
    sql(tmp_path, "UPDATE Settings SET value = ? WHERE key = ?", value, name)
    assert [(finding.key, finding.what) for finding in verify(str(tmp_path))] == [(name, "setting is not ours")]
    with DiskStore(tmp_path) as store:
        store.put_prompt(prompt_of("More."))
        assert store.prompt(prompt.id) == prompt
    with closing(sqlite3.connect(tmp_path / "prompts/cache.db")) as con:
        assert con.execute("SELECT value FROM Settings WHERE key = ?", (name,)).fetchone() == (SETTINGS[name],)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sqlite_user_version", 77), ("sqlite_foo", "x; DROP TABLE Cache"), ("disk_evil", "x"), ("_disk", "x"), ("count", "many"),
     (b"count", 1)],
)  # fmt: skip
def test_a_foreign_setting_is_refused_before_it_can_run(tmp_path: Path, name: object, value: object) -> None:
    """diskcache runs every sqlite_… row as a PRAGMA and every disk_… row as an argument."""
    prompt = filled(tmp_path)
    sql(tmp_path, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", name, value)
    with DiskStore(tmp_path) as store, pytest.raises(TamperedError):
        store.prompt(prompt.id)
    with closing(sqlite3.connect(tmp_path / "prompts/cache.db")) as con:
        assert con.execute("PRAGMA user_version").fetchone() == (0,)
    assert [finding.key for finding in verify(str(tmp_path))] == ["cache.db"]


def test_a_setting_that_passing_it_cannot_change_back_is_refused(tmp_path: Path) -> None:
    """SQLite takes auto_vacuum only when a file is made: passed again it is ignored, so it must be read back."""
    prompt = filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "prompts/cache.db", isolation_level=None)) as con:
        for statement in ("PRAGMA journal_mode = delete", "PRAGMA auto_vacuum = 0", "VACUUM"):
            con.execute(statement)
    with DiskStore(tmp_path) as store, pytest.raises(TamperedError, match="sqlite_auto_vacuum is 0 and must be 1"):
        store.prompt(prompt.id)


def test_a_setting_that_comes_while_the_file_is_open_does_not_run(tmp_path: Path) -> None:
    """A new thread's connection would run it, were the settings read again there."""
    prompt = filled(tmp_path)
    with closing(open_cache(str(tmp_path / "prompts"))) as cache:
        sql(tmp_path, "INSERT INTO Settings VALUES ('sqlite_user_version', 77)")
        cache._local.__dict__.clear()  # as a new thread sees it
        assert cache.value(f"prompt {prompt.id}") is not None
        assert cache._sql("PRAGMA user_version").fetchone() == (0,)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END",
        "CREATE VIEW v AS SELECT * FROM Cache",
        "CREATE TABLE more (x)",
        "CREATE INDEX i ON Cache (tag)",
        "DROP TRIGGER Settings_count_insert; CREATE TRIGGER Settings_count_insert AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END",
    ],
)
def test_a_foreign_trigger_view_table_or_index_is_refused(tmp_path: Path, statement: str) -> None:
    prompt = filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "prompts/cache.db")) as con:
        con.executescript(statement)
    with DiskStore(tmp_path) as store:
        with pytest.raises(TamperedError, match="not ours"):
            store.prompt(prompt.id)
        with pytest.raises(StoreError):
            store.check_writable()


@pytest.mark.parametrize("content", [b"this is not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5000], ids=["text", "header"])
def test_a_damaged_file_is_named_and_clear_makes_the_folder_usable_again(tmp_path: Path, content: bytes) -> None:
    prompt = filled(tmp_path)
    for file in (tmp_path / "prompts").iterdir():
        file.unlink()
    (tmp_path / "prompts/cache.db").write_bytes(content)
    with DiskStore(tmp_path) as store:
        with pytest.raises(StoreError, match=r"cache\.db.*\n.*promptsmith cache clear"):
            store.prompt(prompt.id)
        with pytest.raises(StoreError):
            store.put_prompt(prompt)
        assert [finding.key for finding in verify(str(tmp_path))] == ["cache.db"]
        assert "problem" in stats(str(tmp_path))["prompts"]
        clear(str(tmp_path), replies_only=False)
        assert store.put_prompt(prompt)
        assert store.prompt(prompt.id) == prompt


@pytest.mark.parametrize("what", ["folder", "cache.db", "cache.db-wal"])
def test_a_link_in_the_place_of_folder_or_file_is_refused(tmp_path: Path, what: str) -> None:
    prompt = filled(tmp_path / "cache")
    filled(tmp_path / "other")
    path = tmp_path / "cache/prompts" / ("" if what == "folder" else what)
    if path.exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tmp_path / "other/prompts" / what).touch()
    path.symlink_to(tmp_path / "other/prompts" / ("" if what == "folder" else what))
    with DiskStore(tmp_path / "cache") as store, pytest.raises(StoreError, match="link"):
        store.prompt(prompt.id)


def test_a_folder_removed_while_it_is_open_is_made_anew(tmp_path: Path) -> None:
    """`rm -r cache` beside a running service: later prompts must not go to a file without a name."""
    first, second = prompt_of("One."), prompt_of("Two.")
    with DiskStore(tmp_path / "cache") as store:
        store.put_prompt(first)
        shutil.rmtree(tmp_path / "cache")
        assert store.prompt(first.id) is None
        store.put_prompt(second)
        with DiskStore(tmp_path / "cache") as other:
            assert other.prompt(second.id) == second


def test_a_path_with_a_variable_is_refused_instead_of_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    with DiskStore(tmp_path / "$ELSEWHERE") as store, pytest.raises(StoreError, match="variable"):
        store.put_prompt(prompt_of())
    assert not (tmp_path / "elsewhere").exists()


# --- many at once, and all or nothing ---------------------------------------------------------------------

HAMMER = """
import sys
from promptsmith.store import DiskStore
sys.path.insert(0, sys.argv[3])
from test_store_prompts import prompt_of
from promptsmith.chat import Reply
folder, me = sys.argv[1], int(sys.argv[2])
with DiskStore(folder) as store:
    for n in range(25):
        prompt = prompt_of(f"Say {n % 5 if n % 2 else f'{me}-{n}'}.", task=f"t{n % 3}")
        assert store.put_prompt(prompt, f"{me:032x}{n:032x}")
        assert store.prompt(prompt.id).id == prompt.id
        assert store.built(f"{me:032x}{n:032x}").id == prompt.id
        for copy in range(4):
            key = f"{me}-{n}-{copy}"
            store.put_reply(key, Reply(text=key, model="m/x"))
            assert store.reply(f"{me}-{n // 2}-{copy}").text == f"{me}-{n // 2}-{copy}"
        assert store.latest(f"t{n % 3}") in store.prompt_ids(task=f"t{n % 3}")
"""


def test_sixteen_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    """All of them also make the folder at the same time."""
    here = str(Path(__file__).parent)
    hammers = [subprocess.Popen([sys.executable, "-W", "error", "-c", HAMMER, str(tmp_path), str(n), here]) for n in range(16)]
    assert [hammer.wait() for hammer in hammers] == [0] * 16
    with DiskStore(tmp_path) as store:
        for me in range(16):
            for n in range(25):
                found = store.built(f"{me:032x}{n:032x}")
                assert found is not None
                for copy in range(4):
                    reply = store.reply(f"{me}-{n}-{copy}")
                    assert reply is not None
                    assert reply.text == f"{me}-{n}-{copy}"
        assert len(store.prompt_ids()) == 16 * 13 + 5
    assert verify(str(tmp_path)) == []


def put_half(cache: SafeCache, prompt: Prompt) -> None:
    with cache.writing():
        cache.set(f"prompt {prompt.id}", b"x")
        cache.set("latest", 7)


def test_a_put_that_fails_halfway_leaves_no_row(tmp_path: Path) -> None:
    prompt, more = filled(tmp_path), prompt_of("More.")
    with closing(open_cache(str(tmp_path / "prompts"))) as cache:
        with pytest.raises(StoreError):
            put_half(cache, more)
        assert sorted(cache.keys_between("prompt ", "prompt g")) == [f"prompt {prompt.id}"]
        cache.set("still usable", b"x")


# --- no disk to write to ----------------------------------------------------------------------------------


def test_a_folder_under_a_file_gives_one_warning_and_serving_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = DiskStore(tmp_path / "file/cache")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not store.put_prompt(prompt_of())
        assert [store.prompt("0" * 64), store.latest("t")] == [None, None]
        store.remember_lock("t", "text")
        assert store.last_lock("t") is None
        assert not store.writable
        store.close()
    assert [warning.category for warning in caught] == [StoreWarning]
    with pytest.raises(StoreError, match="can't be written"):
        store.check_writable()
    with pytest.raises(StoreError, match="can't be written"):
        store.journal("compile", "0" * 64)


READ_ONLY = """
import os, sys, warnings
folder, id, uid = sys.argv[1], sys.argv[2], int(sys.argv[3])
import promptsmith.store.folder, promptsmith.store.disk, promptsmith.store.maintain, promptsmith.store.flight, asyncio, filelock, threading
from test_store_prompts import prompt_of
prompt_of()  # whatever is loaded on first use is loaded before the rights to read it are gone
asyncio.run(asyncio.sleep(0))
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
from promptsmith.store import DiskStore
from promptsmith.errors import StoreError
from promptsmith.chat import Reply
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    store = DiskStore(folder)
    assert store.prompt(id).id == id and store.built("ab" * 32).id == id
    assert store.prompt_ids() == [id] and store.latest("sentiment") == id
    assert store.reply("old").text == "kept"
    assert not caught, caught
    assert not store.put_prompt(prompt_of("More."))
    store.put_reply("new", Reply(text="x", model="m/x"))
    store.flush()
    assert store.reply("new").text == "x"
    async def make(): return 5
    assert asyncio.run(store.once("k", lambda: None, make)) == 5
    try: store.check_writable()
    except StoreError as error: assert "can't be written" in str(error)
    else: raise SystemExit("writable")
    store.close()
assert len(caught) == 1, caught
"""


@pytest.mark.parametrize("left", ["as closed", "with a log"])
def test_a_read_only_folder_serves_what_it_holds(left: str) -> None:
    """A real folder without write permission, read by another user when the tests run as root."""
    from promptsmith.chat import Reply

    base = Path(tempfile.mkdtemp())
    try:
        base.chmod(0o755)
        folder = base / "cache"
        prompt = prompt_of()
        store = DiskStore(folder)
        store.put_prompt(prompt, "ab" * 32)
        store.put_reply("old", Reply(text="kept", model="m/x"))
        store.flush()
        if left == "as closed":
            store.close()
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        uid = 65534 if os.geteuid() == 0 else 0
        environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(folder), prompt.id, str(uid)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        store.close()
    finally:
        for path in [base, *base.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(base)


FULL = """
import resource, sys, warnings
from promptsmith.store import DiskStore
from promptsmith.errors import StoreError
from promptsmith.chat import Reply
from test_store_prompts import prompt_of
folder = sys.argv[1]
store = DiskStore(folder)
first = prompt_of("One.")
assert store.put_prompt(first)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    kept = [store.put_prompt(prompt_of("x" * 20_000 + str(n))) for n in range(40)]
    assert True in kept and False in kept, kept
    for n in range(40):
        store.put_reply(str(n), Reply(text="y" * 20_000, model="m/x"))
        store.flush()
    assert store.prompt(first.id) == first
    store.close()
assert len(caught) == 1, caught
store = DiskStore(folder)
journal = store.journal("bulk", "0" * 64)
from promptsmith.store import Outcome
written = 0
try:
    for n in range(40):
        journal.append(Outcome(key=str(n), reply=Reply(text="z" * 20_000, model="m/x")))
        written += 1
except StoreError as error:
    assert "can't be written" in str(error)
assert 0 < written < 40 and len(journal.entries) == written
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(Outcome(key="last"))
journal.close()
again = store.journal("bulk", "0" * 64)
assert set(again.entries) == {*map(str, range(written)), "last"}, again.entries
again.close()
assert store.put_prompt(prompt_of("After."))
store.close()
"""


def test_a_full_disk_loses_nothing_that_was_kept_and_is_usable_again_when_there_is_room(tmp_path: Path) -> None:
    """Files may grow to 200 kB and no further: prompts and replies warn once, a journal refuses to go on."""
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [finding for finding in verify(str(tmp_path)) if finding.part != "journals"] == []


# --- looking after the folder -----------------------------------------------------------------------------


def test_stats_count_what_is_there(tmp_path: Path) -> None:
    assert stats(str(tmp_path))["prompts"] == {"entries": 0, "bytes": 0, "oldest": None, "newest": None}
    filled(tmp_path)
    filled(tmp_path, prompt_of("Two."))
    with DiskStore(tmp_path) as store:
        store.journal("eval", "1" * 64).close()
        with store.journal("eval", "2" * 64) as journal:
            journal.finish()
        store.remember_lock("t", "text")
    found = stats(str(tmp_path))
    assert found["prompts"]["entries"] == 2
    assert isinstance(found["prompts"]["oldest"], float)
    assert (found["journals"]["finished"], found["journals"]["unfinished"]) == (1, 1)
    assert found["lock"]["entries"] == 1


def test_verify_survives_rows_of_every_type_and_names_each(tmp_path: Path) -> None:
    prompt = filled(tmp_path)
    insert = "INSERT INTO Cache (rowid, key, raw, mode, value, filename) VALUES (?, ?, ?, ?, ?, ?)"
    bad: list[tuple[object, ...]] = [
        (-5, "k1", 1, 1, 7, None),
        (0, 7, 1, 1, b"x", None),
        (50, 7.5, 1, 1, b"x", None),
        (51, None, None, None, None, None),
        (52, b"\xff", 0, 4, b"\x80\x04.", None),
        (53, "k2", 1, 2, None, "aa/bb/" + "a" * 28 + ".val"),
        (54, "k3", "text", "text", "text", "text"),
        (2**63 - 1, "k4", 1, 3, None, "../x"),
    ]
    for row in bad:
        sql(tmp_path, insert, *row)
    sql(tmp_path, "INSERT INTO Cache (rowid, key, raw, mode, value) VALUES (60, CAST(x'ff' AS TEXT), 1, 1, CAST(x'fe' AS TEXT))")
    orphan = tmp_path / "prompts/12/34" / ("5" * 28 + ".val")
    orphan.parent.mkdir(parents=True)
    orphan.write_text("left over")
    found = verify(str(tmp_path))
    assert {finding.key.split(" (")[0] for finding in found} == {
        *(f"row {row[0]}" for row in bad), "row 60", f"12/34/{'5' * 28}.val",
    }  # fmt: skip
    with DiskStore(tmp_path) as store:
        assert store.prompt(prompt.id) == prompt


def test_clear_removes_prompts_replies_journals_and_nothing_else(tmp_path: Path) -> None:
    from promptsmith.chat import Reply
    from promptsmith.store import LedgerRow

    for name in ("README.md", ".gitignore"):
        (tmp_path / name).write_text("tracked")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_text("outside")
    prompt = filled(tmp_path)
    with DiskStore(tmp_path) as store, DiskStore(tmp_path) as other:
        assert other.prompt(prompt.id)
        store.put_reply("r", Reply(text="x", model="m/x"))
        store.flush()
        store.put_reply("waiting", Reply(text="x", model="m/x"))
        store.journal("eval", "1" * 64).close()
        store.ledger.append(LedgerRow(time=1.0, task="t", prompt="", stage="run", model="m", endpoint="e"))
        (tmp_path / "journals/link.jsonl").symlink_to(outside)
        assert store.clear(replies_only=True)["replies"] >= 1
        assert store.reply("r") is store.reply("waiting") is None
        assert store.prompt(prompt.id) == prompt
        store.clear(replies_only=False)
        assert other.prompt(prompt.id) is store.prompt(prompt.id) is None
        assert other.put_prompt(prompt)
        assert store.prompt(prompt.id) == prompt
        assert len(list(store.ledger.rows())) == 1
    assert (tmp_path / "README.md").read_text() == (tmp_path / ".gitignore").read_text() == "tracked"
    assert outside.read_text() == "outside"
    assert not any((tmp_path / "journals").iterdir())


def test_clear_takes_the_texts_off_the_disk(tmp_path: Path) -> None:
    filled(tmp_path, prompt_of("A very private sentence."))
    clear(str(tmp_path), replies_only=False)
    assert not any(b"very private" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_clear_does_not_follow_a_linked_part_and_then_removes_nothing(tmp_path: Path) -> None:
    prompt = filled(tmp_path / "cache")
    other = filled(tmp_path / "other")
    (tmp_path / "cache/journals").symlink_to(tmp_path / "other")
    with pytest.raises(StoreError, match="symbolic link"):
        clear(str(tmp_path / "cache"), replies_only=False)
    with DiskStore(tmp_path / "cache") as store, DiskStore(tmp_path / "other") as linked:
        assert [store.prompt(prompt.id), linked.prompt(other.id)] == [prompt, other]


def test_prune_never_removes_a_prompt(tmp_path: Path) -> None:
    prompt = filled(tmp_path)
    prune(str(tmp_path), reply_ttl=0.0, size_limit=0, now=4e9)
    with DiskStore(tmp_path) as store:
        assert store.prompt(prompt.id) == prompt


# --- last good copies of the lock -------------------------------------------------------------------------


def test_last_good_copies_come_back_and_an_unchanged_one_is_not_written_again(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        for task, text in (("a/b", "x: 1\r\n"), ("../../é", "y: 2")):
            store.remember_lock(task, text)
            assert store.last_lock(task) == text
        inodes = {path: path.stat().st_ino for path in (tmp_path / "lock").iterdir()}
        for path in inodes:
            os.utime(path, (1000, 1000))
        assert store.last_lock_at("a/b") == 1000
        store.remember_lock("a/b", "x: 1\r\n")
        assert {path: path.stat().st_ino for path in (tmp_path / "lock").iterdir()} == inodes
        assert store.last_lock_at("a/b") > 1000
        assert store.last_lock_at("nobody") is None
        store.remember_lock("a/b", "x: 2")
        assert {path: path.stat().st_ino for path in (tmp_path / "lock").iterdir()} != inodes
        assert store.last_lock("a/b") == "x: 2"
    assert len(inodes) == 2


def test_a_changed_or_exchanged_copy_is_refused(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.remember_lock("a", "text")
        first = next((tmp_path / "lock").iterdir())
        store.remember_lock("b", "other")
        second = next(path for path in (tmp_path / "lock").iterdir() if path != first)
        shutil.copy(first, second)
        with pytest.raises(TamperedError):
            store.last_lock("b")
        first.write_bytes(first.read_bytes()[:-1])
        assert {(finding.part, finding.key) for finding in verify(str(tmp_path))} == {("lock", first.name), ("lock", second.name)}
        with pytest.raises(TamperedError):
            store.last_lock("a")
        store.remember_lock("a", "text")
        assert store.last_lock("a") == "text"
