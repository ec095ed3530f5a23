"""The lock: what it holds, how it moves, and that neither damage, haste nor a kill loses anything."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from promptsmith import canonical
from promptsmith.contract import Check, Contract, JsonShape, Labels, Shape, TextShape
from promptsmith.errors import InputError, LockConflict, LockError, StoreError, TamperedError, UnknownName
from promptsmith.prompt import Build, Prompt, Provenance, Serve, Variable, make_prompt
from promptsmith.receipt import CaseRow, Counts, Receipt, make_receipt
from promptsmith.registry.blocks import EMPTY
from promptsmith.registry.emit import emit
from promptsmith.registry.entry import Entry, block
from promptsmith.registry.lock import GITATTRIBUTES, GITIGNORE, LockFile, whoami
from promptsmith.registry.protocol import Move, OutsideMove, Registry

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NAME = "promptsmith.lock"


def prompt(task: str = "sentiment", mark: str = "", **fields: Any) -> Prompt:
    shape: Shape = fields.pop("shape", Labels(("yes", "no", "1.10", "null")))
    build = Build(
        key="b" * 64,
        inputs={"task": "1e" + "5" * 14, "examples": "f" * 16},
        epoch=1,
        sources={"evals/z.yaml": "c" * 64, "evals/a b.csv": "0" * 64},
        options={"seed": "07"},
    )
    given: dict[str, Any] = {
        "task": task,
        "system": f'Classify.  \n\n\t{mark} 😀\n<examples>\n{{"input": "x"}}\n</examples>\n',
        "contract": Contract(shape, checks=(Check("max_words", 5), Check("contains", "5", "say five")), inferred=True),
        "model": "builtin/nearest",
        "parameters": {"top_p": 1.0, "temperature": 0.0, "n": 1, "stop": None, "stream": True, "effort": "on"},
        "inputs": (Variable("text", about="what they wrote"), Variable("tone", default="", max_chars=40)),
        "serve": Serve(on_contract_break="repair", fallback=("builtin/nearest",)),
        "provenance": Provenance(
            created="2026-01-01T00:00:00Z",
            version="0.1.0",
            level=0,
            level_why="no meta-model is named",
            build=build,
            seed=3,
            visible=" ".join(["0123456789ab"] * 40),
            shown=7,
            notes=("a note: with # marks", "12"),
        ),
    }
    return make_prompt(**{**given, **fields})


def receipt_of(item: Prompt, cases: int = 3) -> Receipt:
    rows = [CaseRow(f"case {i}:%", i % 2 == 0, None if i % 3 else True, i % 7 / 7) for i in range(cases)]
    return make_receipt(
        suite="d" * 64,
        prompt=item.id,
        model=item.model,
        verdict="promote",
        counts=Counts(cases, cases // 2),
        rows=rows,
        intervals={"score": (0, 1)},
        looks=2,
        cost=0,
    )


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    return LockFile(tmp_path / NAME)


def promote(lock: LockFile, *prompts: Prompt, alias: str = "production") -> None:
    for number, item in enumerate(prompts):
        lock.move(item.task, alias, item, why=f"number {number}", who="Ada", forced=True, when=T0 + timedelta(days=number))


def again(lock: LockFile) -> LockFile:
    return LockFile(lock.path)


def protocol_holds(lock: LockFile) -> Registry:
    return lock  # mypy checks that a LockFile is a Registry


# --- what it holds ------------------------------------------------------------------------------------------


def test_a_file_that_does_not_exist_is_an_empty_lock(lock: LockFile) -> None:
    assert lock.tasks() == ()
    assert lock.resolve("a", "production") is None
    assert lock.entry("a") is None
    assert lock.prompt("0" * 64) is None
    assert lock.history("a") == ()
    assert lock.prompts("a") == ()
    assert lock.problems() == ()
    assert lock.serve("a", lambda _: None, lambda *_: None) == (None, None)
    assert not lock.path.exists()
    lock.path.write_bytes(EMPTY)
    assert lock.tasks() == ()
    assert lock.entry("a") is None
    promote(lock, prompt())
    assert lock.tasks() == ("sentiment",)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"shape": JsonShape('{"type": "object", "properties": {"a": {"enum": ["yes", 1.0]}}}')},
        {"shape": TextShape(max_words=3, regex=r"^\d+:\s")},
        {"inputs": (), "parameters": {}, "serve": Serve()},
        {"system": "one line"},
        {"system": "\n\n"},
        {"system": ""},
        {"system": "a\x00b\n\u2028c\n"},
        {"system": " leading\n\n\n"},
        {"system": "x" * 10_000 + "\n---\n...\n%\n# c\n- id: " + "a" * 64 + "\n"},
        {"system": "  sentiment:\n    aliases:\n"},
        {"parameters": {"big": 2**64 + 1, "small": 1e-07, "text": "2026-01-01", "huge": 1e22}},
        {"renderer": 1},
    ],
)
def test_a_prompt_read_back_equals_the_one_written(lock: LockFile, fields: dict[str, Any]) -> None:
    fields.pop("renderer", None)
    item = prompt(**fields)
    promote(lock, item)
    back = again(lock).prompt(item.id)
    assert back == item
    assert back is not None
    assert back.verified() == item
    assert {name: repr(value) for name, value in back.parameters.items()} == {name: repr(value) for name, value in item.parameters.items()}
    loaded = yaml.safe_load(lock.path.read_text())
    assert loaded["tasks"]["sentiment"]["prompts"][0]["system"] == item.system
    assert loaded["tasks"]["sentiment"]["aliases"] == {"production": item.id}


def test_the_renderer_version_is_always_written(lock: LockFile) -> None:
    """Its default rises with the renderer; a prompt that omitted it would change its id."""
    promote(lock, prompt())
    assert f"        renderer: {canonical.RENDERER}\n" in lock.path.read_text()


def test_the_file_reads_well(lock: LockFile) -> None:
    """version first, tasks sorted, aliases sorted, then prompts, history, receipts; system last, as a block."""
    item = prompt("b/two")
    promote(lock, item)
    promote(lock, prompt("a/one"))
    lock.move("b/two", "canary", item, why="try", who="Ada", receipt=receipt_of(item), when=T0)
    text = lock.path.read_text()
    assert text.startswith("version: 1\ntasks:\n  a/one:\n    aliases:\n      production: ")
    assert re.findall(r"^ {2,4}(?! )(.*):$", text, re.M) == [
        "a/one",
        "aliases",
        "prompts",
        "history",
        "b/two",
        "aliases",
        "prompts",
        "history",
        "receipts",
    ]
    assert re.findall(r"^        (\w+):", text[text.index("  b/two:") : text.index("    history:", text.index("  b/two:"))], re.M) == [
        "model",
        "parameters",
        "inputs",
        "contract",
        "renderer",
        "serve",
        "provenance",
        "system",
    ]
    assert "        system: |2\n          Classify.  \n\n          \t 😀\n" in text
    assert text.index("canary: ") < text.index("production: ", text.index("  b/two:"))
    assert '        rows: "case%200%3A%25:1:1:0.0 ' in text
    assert "\r" not in text
    assert text.endswith("\n")


def test_history_holds_every_move_and_receipts_keep_rows_only_under_an_alias(lock: LockFile) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    lock.move("sentiment", "production", one, receipt=receipt_of(one, 100), why='first: "it" works, really', who="Ada Lovelace", when=T0)
    assert len(lock.receipts("sentiment")[one.id].parse_rows()) == 100
    lock.move("sentiment", "production", two, forced=True, why="hotfix", who="Bob", when=T0 + timedelta(hours=1))
    fresh = again(lock)
    first, second = fresh.history("sentiment")
    assert (first.from_, first.to, first.when, first.who) == (None, one.id, "2026-01-01T00:00:00Z", "Ada Lovelace")
    assert first.why == 'first: "it" works, really'
    assert first.receipt == receipt_of(one, 100).digest
    assert not first.forced
    assert (second.from_, second.to, second.forced, second.receipt) == (one.id, two.id, True, None)
    kept = fresh.receipts("sentiment")[one.id]
    assert kept.rows == ""
    assert kept.digest == first.receipt
    assert kept.verified() is kept


def test_the_prompts_under_aliases_and_four_before_each_are_kept_most_recent_first(lock: LockFile) -> None:
    many = [prompt(mark=str(i)) for i in range(8)]
    promote(lock, *many)
    promote(lock, many[7], alias="staging")
    assert [item.id for item in again(lock).prompts("sentiment")] == [item.id for item in many[:2:-1]]
    other = [prompt(mark=f"s{i}") for i in range(6)]
    promote(lock, *other, alias="staging")
    kept = [item.id for item in again(lock).prompts("sentiment")]
    assert kept[:2] == [many[7].id, other[5].id]
    assert {item.id for item in many[3:]} <= set(kept), "moves of one alias must not push out what another would roll back to"


def test_loading_and_emitting_reproduces_the_file_byte_for_byte(lock: LockFile) -> None:
    items = [prompt("one", mark=str(i)) for i in range(7)]
    promote(lock, *items)
    lock.move("one", "canary", items[0], why="w" * 300, who="é \u2028", receipt=receipt_of(items[0]), when=T0)
    promote(lock, prompt("on"), prompt("ünder strich: x"))
    fresh = again(lock)
    entries = [fresh.entry(task) for task in fresh.tasks()]
    assert fresh.tasks() == ("on", "one", "ünder strich: x")
    blocks = "".join(block(e.task, e.aliases, e.prompts(), e.history, e.receipts) for e in entries if e)
    assert ("version: 1\ntasks:\n" + blocks).encode() == lock.path.read_bytes()
    assert yaml.safe_load(lock.path.read_text())["tasks"].keys() == set(fresh.tasks())


def test_a_move_to_where_the_alias_stands_does_not_touch_the_file(lock: LockFile) -> None:
    item = prompt()
    lock.move("sentiment", "production", item, receipt=receipt_of(item), who="Ada")
    before = (lock.path.stat().st_mtime_ns, lock.path.stat().st_ino, lock.path.read_bytes())
    assert lock.move("sentiment", "production", item, why="again", who="Bob", forced=True) is None
    assert lock.move("sentiment", "production", item, receipt=receipt_of(item), who="Bob") is None
    assert lock.move("sentiment", "canary", None, who="Bob") is None
    assert lock.move("other", "canary", None, who="Bob") is None
    assert (lock.path.stat().st_mtime_ns, lock.path.stat().st_ino, lock.path.read_bytes()) == before
    renewed = lock.move("sentiment", "production", item, receipt=receipt_of(item, 9), who="Bob")
    assert renewed is not None
    assert lock.receipts("sentiment")[item.id] == receipt_of(item, 9)


def test_a_change_from_anywhere_is_seen_at_the_next_resolve(lock: LockFile) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    promote(lock, one)
    reader = again(lock)
    assert reader.resolve("sentiment", "production") == one.id
    old = lock.path.read_bytes()
    promote(lock, two)
    assert reader.resolve("sentiment", "production") == two.id
    lock.path.write_bytes(old)
    assert reader.resolve("sentiment", "production") == one.id
    lock.path.unlink()
    assert reader.resolve("sentiment", "production") is None


def test_an_unchanged_file_is_not_read_again(lock: LockFile) -> None:
    """The same entry object answers as long as stat says the file is the same."""
    promote(lock, prompt())
    first = lock.entry("sentiment")
    assert lock.entry("sentiment") is first
    os.utime(lock.path, ns=(0, 0))
    assert lock.entry("sentiment") is not first


def test_an_answer_from_the_lock_loads_neither_yaml_nor_filelock(lock: LockFile) -> None:
    promote(lock, prompt())
    code = (
        "import sys; from promptsmith.registry.lock import LockFile; "
        f"assert LockFile({str(lock.path)!r}).prompts('sentiment'); print({{'yaml', 'filelock', 'subprocess'}} & set(sys.modules))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "set()\n"


def test_quick_moves_always_raise_the_time_that_readers_tell_files_apart_by(lock: LockFile) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    times = []
    for number in range(20):
        promote(lock, (one, two)[number % 2])
        times.append(lock.path.stat().st_mtime_ns)
    assert times == sorted(set(times))


# --- moves --------------------------------------------------------------------------------------------------


def test_a_move_expecting_another_prompt_is_refused_and_names_both(lock: LockFile) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    lock.move("sentiment", "production", one, expected=None, who="Ada")
    before = lock.path.read_bytes()
    with pytest.raises(LockConflict, match=f"names prompt {one.id[:12]}, not prompt {two.id[:12]}"):
        lock.move("sentiment", "production", two, expected=two.id, who="Ada")
    with pytest.raises(LockConflict, match="not no prompt"):
        lock.move("sentiment", "production", two, expected=None, who="Ada")
    assert lock.path.read_bytes() == before
    assert lock.move("sentiment", "production", two, expected=one.id, who="Ada") is not None


@pytest.mark.parametrize(
    ("alias", "why"),
    [
        ("cafe", "all hex"),
        ("2024", "all hex"),
        ("latest", "always means"),
        ("Prod", "lower-case"),
        ("", "lower-case"),
        ("a b", "lower-case"),
        ("x" * 65, "64"),
        ("x\n", "lower"),
    ],
)
def test_an_alias_that_can_not_be_one_is_refused_with_the_reason(lock: LockFile, alias: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        lock.move("sentiment", alias, prompt(), who="Ada")
    assert not lock.path.exists()


def test_what_can_not_be_written_is_refused_before_anything_is(lock: LockFile) -> None:
    item = prompt()
    promote(lock, item)
    before = lock.path.read_bytes()
    with pytest.raises(InputError, match="surrogate"):
        lock.move("sentiment", "production", None, why="bad \ud800", who="Ada")
    with pytest.raises(TamperedError):
        lock.move("sentiment", "production", msgspec.structs.replace(item, system="other"), who="Ada")
    with pytest.raises(InputError, match="receipt is for prompt"):
        lock.move("sentiment", "production", prompt(mark="2"), receipt=receipt_of(item), who="Ada")
    with pytest.raises(TamperedError):
        lock.move("sentiment", "canary", item, receipt=msgspec.structs.replace(receipt_of(item), looks=1), who="Ada")
    assert lock.path.read_bytes() == before


@pytest.mark.parametrize(
    ("why", "what"),
    [
        ("w" * 501, "501 characters, the most is 500"),
        ("a\nb", r"U\+000A"),
        ("a\x1b[31mb", r"U\+001B"),
        ("a\x85", r"U\+0085"),
        ("\u2028", r"U\+2028"),
    ],
)
def test_a_reason_is_one_line_of_at_most_500_characters(lock: LockFile, why: str, what: str) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    lock.move("sentiment", "production", one, why="é" * 500, who="Ada")
    before = lock.path.read_bytes()
    with pytest.raises(InputError, match=what) as caught:
        lock.move("sentiment", "production", two, why=why, who="Ada")
    assert caught.value.hint
    with pytest.raises(InputError, match=what):
        lock.rollback("sentiment", "production", why=why, who="Ada")
    assert lock.path.read_bytes() == before


def test_what_only_programs_compare_stands_on_one_line_of_json_and_also_reads_as_lines(lock: LockFile) -> None:
    """Files of before the build record stood on one line load as well, and are written anew at the task's next move."""
    item = prompt()
    promote(lock, item)
    text = lock.path.read_text()
    line = re.search(r"^ {10}build: (.*)\n", text, re.M)
    assert line
    assert msgspec.json.decode(line[1], type=Build) == item.provenance.build
    assert yaml.safe_load(text)["tasks"]["sentiment"]["prompts"][0]["provenance"]["build"] == msgspec.json.decode(line[1])
    lock.path.write_text(text.replace(line[0], f"          build:\n{emit(msgspec.json.decode(line[1]), 12)}"))
    assert "            key: bbbb" in lock.path.read_text()
    assert again(lock).problems() == ()
    assert again(lock).prompt(item.id) == item
    lock.move("sentiment", "canary", item, who="Ada")
    assert line[0] in lock.path.read_text()


def test_rollback_goes_one_further_back_each_time_and_removes_the_first(lock: LockFile) -> None:
    one, two, three = (prompt(mark=m) for m in "123")
    promote(lock, one, two, three, three)
    assert lock.rollback("sentiment", "production", who="Bob").to == two.id
    assert lock.rollback("sentiment", "production", who="Bob").to == one.id
    assert lock.prompts("sentiment")[0] == one
    last = lock.rollback("sentiment", "production", who="Bob", why="all wrong")
    assert last.to is None
    assert last.rollback
    assert lock.resolve("sentiment", "production") is None
    assert [m.to for m in again(lock).history("sentiment")] == [one.id, two.id, three.id, two.id, one.id, None]
    with pytest.raises(UnknownName, match="nothing to roll back"):
        lock.rollback("sentiment", "production", who="Bob")
    promote(lock, two)
    assert lock.rollback("sentiment", "production", who="Bob").to is None


def test_rollback_after_a_new_promotion_goes_to_what_stood_before_it(lock: LockFile) -> None:
    one, two, three = (prompt(mark=m) for m in "123")
    promote(lock, one, two)
    lock.rollback("sentiment", "production", who="Bob")
    promote(lock, three)
    assert lock.rollback("sentiment", "production", who="Bob").to == one.id
    promote(lock, two, one)  # promoting an old one again is a promotion, not a rollback
    assert lock.rollback("sentiment", "production", who="Bob").to == two.id


def test_rollback_beyond_the_kept_five_asks_find_and_else_names_the_git_command(lock: LockFile) -> None:
    many = [prompt(mark=str(i)) for i in range(7)]
    promote(lock, *many)
    for expected in (5, 4, 3, 2):
        assert lock.rollback("sentiment", "production", who="B").to == many[expected].id
    before = lock.path.read_bytes()
    with pytest.raises(UnknownName, match=f"{many[1].id}.*2026-01-02T00:00:00Z") as caught:
        lock.rollback("sentiment", "production", who="B")
    assert f"git log -S{many[1].id} -- {NAME}" in caught.value.hint
    assert lock.path.read_bytes() == before
    assert lock.rollback("sentiment", "production", who="B", find={many[1].id: many[1]}.get).to == many[1].id
    assert again(lock).prompt(many[1].id) == many[1]


def test_a_move_made_outside_shows_as_such(lock: LockFile) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    promote(lock, one, two)
    assert lock.outside_moves("sentiment") == ()
    lock.path.write_text(lock.path.read_text().replace(f"production: {two.id}", f"production: {one.id}"))
    assert lock.resolve("sentiment", "production") == one.id
    assert lock.outside_moves("sentiment") == (OutsideMove("production", two.id, one.id),)
    assert lock.rollback("sentiment", "production", who="B").to is None, "it stood on the first prompt"


def test_a_symlinked_lock_is_written_through_to_its_target(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "the.lock"
    link = tmp_path / NAME
    link.symlink_to(target)
    promote(LockFile(link), prompt())
    assert link.is_symlink()
    assert LockFile(target).resolve("sentiment", "production")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_files_mode_stays_and_only_listed_files_are_left_beside_it(lock: LockFile) -> None:
    promote(lock, prompt())
    lock.path.chmod(0o640)
    promote(lock, prompt(mark="2"))
    assert lock.path.stat().st_mode & 0o777 == 0o640
    left = {f"/{p.name}\n" for p in lock.path.parent.iterdir()} - {f"/{NAME}\n"}
    assert left <= set(GITIGNORE.splitlines(keepends=True))
    assert GITATTRIBUTES == "promptsmith.lock -text\n"


def test_who_is_gits_user_else_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("LOGNAME", "osuser")
    assert whoami(tmp_path) == "osuser"
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "config", "user.name", "Ada L."], cwd=tmp_path, check=True)
    assert whoami(tmp_path) == "Ada L."
    LockFile(tmp_path / NAME).move("a", "production", prompt("a"))
    assert LockFile(tmp_path / NAME).history("a")[0].who == "Ada L."
    monkeypatch.setenv("PATH", "")
    assert whoami(tmp_path) == "osuser"


# --- damage -------------------------------------------------------------------------------------------------


def three_tasks(lock: LockFile) -> dict[str, Prompt]:
    items = {name: prompt(name) for name in ("alpha", "beta", "gamma")}
    promote(lock, *items.values())
    return items


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


Harm = Callable[[str], str]


def in_beta(old: str, new: str) -> Harm:
    def harm(text: str) -> str:
        start = text.index("  beta:")
        assert old in text[start:]
        return text[:start] + text[start:].replace(old, new, 1)

    return harm


HARMS: dict[str, tuple[Harm, str]] = {
    "system changed": (in_beta("Classify.", "Classify!"), "does not match its id"),
    "parameter changed": (in_beta("top_p: 1.0", "top_p: 1"), "does not match its id"),
    "unquoted": (in_beta('effort: "on"', "effort: on"), "without quotes"),
    "unknown field": (in_beta("        model:", "        extra: 1\n        model:"), "unknown field `extra`"),
    "unknown deep field": (in_beta("          shape:", "          extra: 1\n          shape:"), "unknown field `extra`"),
    "unknown build field": (in_beta('build: {"key"', 'build: {"extra": 1, "key"'), "unknown field `extra`"),
    "build doubled key": (in_beta('build: {"key"', 'build: {"key": "a", "key"'), "twice"),
    "build cut": (in_beta('build: {"key"', 'build: {"key'), "without quotes"),
    "doubled key": (in_beta("        model:", "        model: a\n        model:"), "twice"),
    "anchor": (in_beta("production: ", "production: &a "), "anchor"),
    "bad alias": (in_beta("production: ", "cafe: "), "all hex"),
    "alias without prompt": (in_beta("production: ", "production: " + "a" * 64 + "\n      x: "), "not among its prompts"),
    "left garbage": (in_beta("    history:", " garbage\n    history:"), "does not belong"),
    "unknown section": (in_beta("    history:", "    more:\n      a: b\n    history:"), "has only"),
    "sections swapped": (in_beta("    prompts:", "    receipts:"), "has only"),
    "markers": (in_beta("      production", "<<<<<<< HEAD\n      production: x\n=======\n      production"), "merge marker left"),
    "conflict": (
        lambda t: in_beta("    history:", ">>>>>>> x\n    history:")(in_beta("    aliases:", "<<<<<<< HEAD\n=======\n    aliases:")(t)),
        "conflict",
    ),
    "left marker": (in_beta("    history:", "=======\n    history:"), "merge marker left over"),
    "tab": (in_beta("        model:", "\t model:"), "does not belong"),
    "carriage return": (in_beta("model: builtin/nearest", "model: builtin/nearest\rx"), "carriage"),
    "control": (in_beta("builtin/nearest", "builtin\x07nearest"), "YAML"),
    "truncated prompt": (in_beta("        provenance:", "        wrong:"), "shape"),
    "no sections": (in_beta("    aliases:\n", ""), "begin"),
}


@pytest.mark.parametrize("name", HARMS)
def test_damage_stops_only_its_task_and_is_named_with_its_line(lock: LockFile, name: str) -> None:
    items = three_tasks(lock)
    good = lock.path.read_text()
    harm, what = HARMS[name]
    bad = harm(good)
    lock.path.write_bytes(bad.encode())
    fresh = again(lock)
    with pytest.raises(LockError, match=what) as caught:
        fresh.entry("beta")
    where = re.match(rf"{re.escape(NAME)}:(\d+): task 'beta' ", caught.value.message)
    assert where
    assert line_of(bad, "  beta:") <= int(where[1]) <= line_of(bad, "  gamma:")
    with pytest.raises(LockError):
        fresh.resolve("beta", "production")
    assert fresh.tasks() == ("alpha", "beta", "gamma")
    for other in ("alpha", "gamma"):
        assert fresh.resolve(other, "production") == items[other].id
        assert fresh.prompt(items[other].id, other) == items[other]
    assert [p for p in fresh.problems() if "'beta'" in p] == list(fresh.problems()) != []


@pytest.mark.parametrize("name", HARMS)
def test_a_move_of_another_task_carries_damage_over_untouched(lock: LockFile, name: str) -> None:
    three_tasks(lock)
    bad = HARMS[name][0](lock.path.read_text()).encode()
    lock.path.write_bytes(bad)
    start, end = bad.index(b"  beta:"), bad.index(b"  gamma:")
    promote(again(lock), prompt("alpha", mark="2"), prompt("gamma", mark="2"), prompt("aa"), prompt("zz"))
    after = lock.path.read_bytes()
    assert bad[start:end] in after
    fresh = again(lock)
    assert fresh.tasks() == ("aa", "alpha", "beta", "gamma", "zz")
    assert len(fresh.history("gamma")) == 2
    assert fresh.resolve("zz", "production")
    with pytest.raises(LockError, match=f"{NAME}:"):
        fresh.move("beta", "production", prompt("beta", mark="2"), who="Ada")
    assert lock.path.read_bytes() == after


def test_a_wrong_digest_names_the_line_of_the_prompt(lock: LockFile) -> None:
    three_tasks(lock)
    bad = in_beta("Classify.", "Classify!")(lock.path.read_text())
    lock.path.write_text(bad)
    line = bad[: bad.index("      - id:", bad.index("  beta:"))].count("\n") + 1
    with pytest.raises(LockError, match=f"{NAME}:{line}: task 'beta' is damaged") as caught:
        lock.entry("beta")
    assert "from git" in caught.value.hint


def git(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *identity, *args], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("style", ["merge", "diff3"])
@pytest.mark.parametrize("kind", ["same task moved", "different tasks added", "one task added beside a moved one"])
def test_a_real_git_conflict_damages_only_tasks_that_it_touches(lock: LockFile, kind: str, style: str) -> None:
    items = three_tasks(lock)
    folder = lock.path.parent
    (folder / ".gitattributes").write_text(GITATTRIBUTES)
    (folder / ".gitignore").write_text(GITIGNORE)
    for command in (
        ["init", "-q"],
        ["config", "merge.conflictStyle", style],
        ["add", "."],
        ["commit", "-qm", "base"],
        ["checkout", "-qb", "theirs"],
    ):
        assert git(folder, *command).returncode == 0, command
    sides = {
        "same task moved": (prompt("beta", mark="ours"), prompt("beta", mark="theirs")),
        "different tasks added": (prompt("bf"), prompt("bg")),
        "one task added beside a moved one": (prompt("bf"), prompt("beta", mark="theirs")),
    }[kind]
    promote(lock, sides[1])
    git(folder, "commit", "-qam", "theirs")
    git(folder, "checkout", "-q", "main")
    promote(lock, sides[0])
    git(folder, "commit", "-qam", "ours")
    merged = git(folder, "merge", "theirs")
    text = lock.path.read_text()
    assert ("<<<<<<<" in text) == (merged.returncode != 0)
    fresh = again(lock)
    for name in ("alpha", "gamma"):
        assert fresh.resolve(name, "production") == items[name].id
    for name in {"beta", "bf", "bg"} & set(fresh.tasks()):
        with contextlib.suppress(LockError):
            entry = fresh.entry(name)
            assert entry is not None
            entry.check()
            assert f"  {name}:\n" in text
            assert entry.text in text
    if kind == "same task moved":
        with pytest.raises(LockError, match=rf"{NAME}:{line_of(text, '<<<<<<<')}: task 'beta' has an unresolved merge conflict"):
            fresh.entry("beta")
    promote(again(lock), prompt("gamma", mark="2"))
    assert "<<<<<<<" not in text or re.search("<<<<<<<.*>>>>>>>[^\n]*", text, re.S)[0] in lock.path.read_text()  # type: ignore[index]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version: 2\nwhatever: {}\n", "written by a newer promptsmith"),
        (b"version: 99", "written by a newer promptsmith"),
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"tasks:\n", "does not begin"),
        (b"<<<<<<< a\nversion: 1\n", "conflict"),
        (b"version: 0\ntasks:\n", "no version 0"),
        (b"version: 1\n", "no 'tasks:'"),
        (b"\x00\xff\xfe", "does not begin"),
        (b"version: one\n", "does not begin"),
        (b"version: 1\ntasks: []\n", "no 'tasks:'"),
    ],
)
def test_a_file_that_is_no_lock_or_a_newer_one_is_refused_and_never_written(lock: LockFile, content: bytes, what: str) -> None:
    lock.path.write_bytes(content)
    calls: list[Callable[[], Any]] = [
        lock.tasks,
        lambda: lock.resolve("a", "b"),
        lambda: lock.entry("a"),
        lambda: lock.prompt("a"),
        lambda: lock.history("a"),
        lambda: promote(lock, prompt()),
        lambda: lock.rollback("a", "production", who="x"),
        lambda: lock.serve("a", lambda _: None, lambda *_: None),
    ]
    for call in calls:
        with pytest.raises(LockError, match=what):
            call()
    assert len(lock.problems()) == 1
    assert lock.path.read_bytes() == content


def test_windows_line_ends_are_read(lock: LockFile) -> None:
    items = three_tasks(lock)
    lock.path.write_bytes(lock.path.read_bytes().replace(b"\n", b"\r\n"))
    assert again(lock).prompt(items["beta"].id, "beta") == items["beta"]


def test_bytes_that_are_no_text_and_a_cut_off_end_damage_only_their_task(lock: LockFile) -> None:
    items = three_tasks(lock)
    good = lock.path.read_bytes()
    lock.path.write_bytes(good.replace("😀".encode(), b"\xff\xff", 1))
    assert lock.resolve("beta", "production") == items["beta"].id
    with pytest.raises(LockError, match="no UTF-8"):
        lock.entry("alpha")
    lock.path.write_bytes(good[:-9])
    assert lock.resolve("beta", "production") == items["beta"].id
    with pytest.raises(LockError, match="middle of a line"):
        lock.entry("gamma")


def test_a_task_that_stands_twice_is_refused(lock: LockFile) -> None:
    three_tasks(lock)
    text = lock.path.read_text()
    lock.path.write_text(text + text[text.index("  beta:") : text.index("  gamma:")])
    with pytest.raises(LockError, match="stands twice"):
        lock.entry("beta")
    assert lock.resolve("gamma", "production")
    assert lock.resolve("alpha", "production")


def test_damage_to_older_prompts_and_history_leaves_serving_and_is_found_by_problems(lock: LockFile) -> None:
    one, two = prompt(mark="older"), prompt(mark="newer")
    promote(lock, one, two)
    good = lock.path.read_text()
    for old, new in (
        ("older", "altered"),
        ("who: Ada", "who: [Ada]"),
        ("number 1", 'number 1" x'),
        ("from: null", "from: null\n        x: y"),
    ):
        assert old in good
        lock.path.write_text(good.replace(old, new, 1))
        assert lock.resolve("sentiment", "production") == two.id
        assert len(lock.problems()) == 1
        assert lock.problems()[0].startswith(f"{NAME}:")
        with pytest.raises(LockError):
            lock.rollback("sentiment", "production", who="x")


def test_a_tampered_receipt_is_found(lock: LockFile) -> None:
    item = prompt()
    lock.move("sentiment", "production", item, receipt=receipt_of(item), who="Ada")
    text = lock.path.read_text()
    for old, new, what in (
        ("looks: 2", "looks: 1", "does not match its digest"),
        (":1:1:0.0", ":0:1:0.0", "does not match its digest"),
        ("looks: 2", "looks: 2\n        later: 1", "another shape"),
    ):
        assert old in text
        lock.path.write_text(text.replace(old, new, 1))
        assert lock.resolve("sentiment", "production") == item.id
        with pytest.raises(LockError, match=what):
            lock.receipts("sentiment")
        assert what in lock.problems()[0]


def test_damaged_tasks_are_served_from_the_last_good_copy(lock: LockFile) -> None:
    items = three_tasks(lock)
    kept: dict[str, str] = {}
    calls: list[str] = []

    def remember(task: str, text: str) -> None:
        calls.append(task)
        kept[task] = text

    reader = again(lock)
    for _ in range(3):
        entry, damaged = reader.serve("beta", kept.get, remember)
        assert entry is not None
        assert damaged is None
    assert calls == ["beta"]
    assert kept["beta"] == reader.block_text("beta")
    lock.path.write_text(in_beta("Classify.", "Classify!")(lock.path.read_text()))
    for late in (reader, again(lock)):  # from memory, then from the kept copy alone
        entry, damaged = late.serve("beta", kept.get if late is not reader else lambda _: None, remember)
        assert entry is not None
        assert entry.prompt(items["beta"].id) == items["beta"]
        assert damaged is not None
        assert damaged.startswith(f"{NAME}:")
    assert calls == ["beta"]
    for copy in (None, "", "rubbish", kept["beta"].replace("Classify.", "no"), kept["beta"].replace("beta", "other")):
        with pytest.raises(LockError, match=f"{NAME}:"):
            again(lock).serve("beta", lambda _, c=copy: c, remember)  # type: ignore[misc]
    lock.path.write_bytes(b"")
    entry, damaged = again(lock).serve("beta", kept.get, remember)
    assert entry is not None
    assert damaged is not None
    assert "empty" in damaged
    lock.path.write_bytes(b"version: 2\n")
    with pytest.raises(LockError, match="newer"):
        reader.serve("beta", kept.get, remember)


def test_a_cache_that_fails_does_not_stop_serving(lock: LockFile) -> None:
    three_tasks(lock)

    def fails(*_: str) -> Any:
        raise StoreError("the disk is full")

    entry, damaged = lock.serve("beta", fails, fails)
    assert entry is not None
    assert damaged is None


def test_from_text_reads_what_block_text_gives(lock: LockFile) -> None:
    items = three_tasks(lock)
    text = lock.block_text("alpha")
    assert text is not None
    assert Entry.from_text("alpha", text).check().prompts() == (items["alpha"],)
    assert lock.block_text("none") is None


def test_seeded_damage_anywhere_is_never_a_traceback_and_never_a_wrong_prompt(lock: LockFile) -> None:
    """400 random cuts, flips and copied pieces: each ends in a LockError or in prompts that match their ids."""
    promote(lock, prompt("alpha"), prompt("beta"), prompt("beta", mark="2"))
    good = lock.path.read_bytes()
    rng = random.Random(5)
    for _ in range(400):
        at, other = sorted(rng.randrange(len(good)) for _ in range(2))
        bad = rng.choice(
            [
                good[:at] + good[at + rng.randrange(1, 40) :],
                good[:at] + bytes([rng.randrange(256)]) + good[at + 1 :],
                good[:at] + good[other : other + 60] + good[at:],
                good[:other],
                good[:at] + b"\n" + good[at:],
            ]
        )
        lock.path.write_bytes(bad)
        fresh = again(lock)
        fresh.problems()
        with contextlib.suppress(LockError):
            for task in fresh.tasks():
                with contextlib.suppress(LockError):
                    for item in fresh.prompts(task):
                        item.verified()
                    fresh.history(task)


# --- haste, kills, full disks -------------------------------------------------------------------------------

SPAWN = multiprocessing.get_context("spawn")


def climb(path: str, worker: int, moves: int) -> None:
    """Moves by compare-and-swap until each has gone through, on a task of its own and on a shared one."""
    lock = LockFile(path)
    for number in range(moves):
        lock.move(f"own-{worker}", "production", prompt(f"own-{worker}", mark=str(number)), who=str(worker), why=str(number))
        while True:
            found = lock.resolve("shared", "production")
            try:
                lock.move(
                    "shared", "production", prompt("shared", mark=f"{worker}.{number}"), expected=found, who=str(worker), why=str(number)
                )
                break
            except LockConflict:
                continue


def test_sixteen_processes_promoting_at_once_lose_nothing(lock: LockFile) -> None:
    moves = 3
    workers = [SPAWN.Process(target=climb, args=(str(lock.path), number, moves)) for number in range(16)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        assert lock.problems() == ()  # a reader never sees anything but whole files
        time.sleep(0.01)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 16
    history = lock.history("shared")
    assert len(history) == 16 * moves
    assert all(before.to == after.from_ for before, after in itertools.pairwise(history))
    assert all([m.why for m in history if m.who == str(w)] == [str(n) for n in range(moves)] for w in range(16))
    assert all([m.why for m in lock.history(f"own-{w}")] == [str(n) for n in range(moves)] for w in range(16))


CHILD = """
import sys
sys.path.insert(0, {tests!r})
from test_lock_file import *
lock = LockFile({path!r})
items = [prompt("alpha", mark="x" * 200_000), prompt("alpha", mark="y" * 200_000)]
print("ready", flush=True)
while True:
    for item in items:
        if lock.move("alpha", "production", item, who="child", why="w"):
            print("moved", flush=True)
"""


def test_kill_9_leaves_the_old_file_or_the_new_one(lock: LockFile) -> None:
    """24 kills, spread over the time that a move or two take; after each the file is whole and the next writer goes on."""
    three_tasks(lock)
    rng = random.Random(11)
    seen = 0
    code = CHILD.format(tests=str(Path(__file__).parent), path=str(lock.path))
    kept: dict[str, Any] = {}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        begun = time.perf_counter()
        assert child.stdout.readline() == "moved\n"
        one_move = time.perf_counter() - begun  # on this machine
        child.kill()
    for _ in range(24):
        before = len(again(lock).history("alpha"))
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, 2.5 * one_move))
            child.send_signal(signal.SIGKILL)
            moved = child.stdout.read().count("moved\n")
        fresh = again(lock)
        assert fresh.problems() == ()
        done = len(fresh.history("alpha")) - before
        assert moved <= done <= moved + 1
        seen += done
        one_move *= 1 / 1.2 if done else 1.2  # as busy as it is by now
        kept = {name: fresh.block_text(name) for name in ("beta", "gamma")}
        assert all(kept.values())
    assert seen > 0, "no kill came after a move: the delays are too short to show anything"
    promote(lock, prompt("alpha", mark="end"))
    assert {name: lock.block_text(name) for name in kept} == kept
    assert not (lock.path.parent / f".{NAME}.tmp").exists()


def killed_at(path: Path, step: int, to: Prompt) -> tuple[int, int]:
    """Move in a forked child that kills itself with SIGKILL before the ``step``-th line of the registry's code.

    Returns the signal that ended it, and how many lines it ran (0 when it was killed).
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        lines = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal lines
            if "/registry/" not in frame.f_code.co_filename:
                return None
            lines += event == "line"
            if lines == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        LockFile(path).move(to.task, "production", to, who="child", why="w", when=T0)
        sys.settrace(None)
        os.write(write_end, str(lines).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        said = pipe.read()
    return os.WTERMSIG(os.waitpid(pid, 0)[1]), int(said or 0)


def test_a_kill_before_any_line_of_a_move_leaves_the_old_file_or_the_new_one(lock: LockFile) -> None:
    """100 places spread evenly over one whole move, and each of the last 60 lines, where the file is replaced."""
    three_tasks(lock)
    to = prompt("alpha", mark="2")
    old = lock.path.read_bytes()
    ended, total = killed_at(lock.path, -1, to)
    new = lock.path.read_bytes()
    assert ended == 0
    assert total > 500
    assert new != old
    found = set()
    for step in sorted({*range(1, total, total // 100), *range(total - 60, total)}):
        lock.path.write_bytes(old)
        assert killed_at(lock.path, step, to) == (signal.SIGKILL, 0)
        assert lock.path.read_bytes() in (old, new)
        found.add(lock.path.read_bytes())
    assert found == {old, new}, "the kills did not reach from before the change to after it"
    promote(lock, prompt("beta", mark="2"))
    assert lock.problems() == ()
    assert not (lock.path.parent / f".{NAME}.tmp").exists()


def in_child(work: Callable[[], None]) -> str:
    """What ``work`` raises, in a forked child whose limits and user may change."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "nothing"
        try:
            work()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_can_not_be_written_gives_an_error_and_changes_nothing(open_folder: Path) -> None:
    lock = LockFile(open_folder / NAME)
    promote(lock, prompt())
    (open_folder / f".{NAME}.lck").unlink(missing_ok=True)
    before = lock.path.read_bytes()
    lock.path.chmod(0o644)
    open_folder.chmod(0o555)

    def work() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        assert lock.resolve("sentiment", "production")
        promote(lock, prompt(mark="2"))

    said = in_child(work)
    assert said.startswith(f"LockError: {NAME} can't be written: Permission denied; nothing was changed"), said
    assert lock.path.read_bytes() == before


def test_a_full_disk_gives_an_error_and_leaves_the_old_file(lock: LockFile) -> None:
    promote(lock, prompt())
    before = lock.path.read_bytes()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, len(before) + 10))
        promote(lock, prompt(mark="2"))

    said = in_child(work)
    assert said.startswith(f"LockError: {NAME} can't be written: File too large; nothing was changed"), said
    assert lock.path.read_bytes() == before
    assert not (lock.path.parent / f".{NAME}.tmp").exists()
    promote(lock, prompt(mark="2"))
    assert len(lock.history("sentiment")) == 2


def test_a_guard_that_can_not_be_made_and_a_lock_that_is_a_folder_are_errors(tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.lck").mkdir()
    with pytest.raises(LockError, match="can't be written"):
        promote(LockFile(tmp_path / NAME), prompt())
    (tmp_path / "folder" / NAME).mkdir(parents=True)
    with pytest.raises(LockError, match="can't be read"):
        LockFile(tmp_path / "folder" / NAME).entry("a")


def test_a_move_reads_back_as_the_same_struct() -> None:
    row = Move(alias="a", from_=None, to="b", when="w", who="x", why="y")
    assert msgspec.to_builtins(row) == {"alias": "a", "from": None, "to": "b", "when": "w", "who": "x", "why": "y"}
    assert msgspec.convert(msgspec.to_builtins(row), Move) == row
