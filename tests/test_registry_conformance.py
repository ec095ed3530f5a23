"""What every registry does, tried on the lock file and on a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptsmith.config import Config, Project
from promptsmith.contract import JsonShape, TextShape
from promptsmith.errors import InputError, LockConflict, TamperedError, UnknownName
from promptsmith.prompt import Prompt, Serve
from promptsmith.registry.lock import LockFile
from promptsmith.registry.opening import open_registry
from promptsmith.registry.postgres.registry import Postgres
from promptsmith.registry.protocol import Move, Registry

from .databases import Server
from .test_lock_file import prompt, receipt_of

T0 = datetime(2026, 1, 1, tzinfo=UTC)


class Place:
    """Somewhere to keep prompts; every ``open`` is another process's view of the same."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._opened: list[Registry] = []

    def open(self) -> Registry:
        root = self._folder / str(len(self._opened)) if self._url else self._folder
        root.mkdir(exist_ok=True)
        self._opened.append(open_registry(Project(root, Config(registry=self._url)), patient=True))
        return self._opened[-1]

    def close(self) -> None:
        for registry in self._opened:
            registry.close()


@pytest.fixture(params=["lock", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    url = ""
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
    found = Place(tmp_path, url)
    yield found
    found.close()


@pytest.fixture
def registry(place: Place) -> Registry:
    return place.open()


def promote(registry: Registry, *prompts: Prompt, alias: str = "production") -> None:
    for number, item in enumerate(prompts):
        registry.move(item.task, alias, item, why=f"number {number}", who="Ada", forced=True, when=T0 + timedelta(days=number))


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    tick = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it did not come to that")


def test_the_two_kinds_are_what_is_tried(place: Place, request: pytest.FixtureRequest) -> None:
    kind = {"lock": LockFile, "postgres": Postgres}[request.node.callspec.params["place"]]
    assert isinstance(place.open(), kind)


def test_a_new_one_is_empty(registry: Registry) -> None:
    assert registry.tasks() == ()
    assert registry.resolve("a", "production") is None
    assert registry.entry("a") is None
    assert registry.prompt("0" * 64) is None
    assert registry.history("a") == ()
    assert registry.prompts("a") == ()
    assert registry.receipts("a") == {}
    assert registry.outside_moves("a") == ()
    assert registry.problems() == ()
    assert registry.serve("a", lambda _: None, lambda *_: None) == (None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"shape": JsonShape('{"type": "object", "properties": {"a": {"enum": ["yes", 1.0]}}}')},
        {"shape": TextShape(max_words=3, regex=r"^\d+:\s")},
        {"inputs": (), "parameters": {}, "serve": Serve()},
        {"system": ""},
        {"system": "a\x00b\n\u2028c\r\n\x7f\ufeff"},
        {"system": "'; DROP TABLE promptsmith_prompts; --\\x00 %s %(a)s {0} $1 😀"},
        {"system": "x" * 300_000 + "\n---\n- id: " + "a" * 64 + "\n"},
    ],
)
def test_a_prompt_comes_back_as_it_went_in(place: Place, fields: dict[str, Any]) -> None:
    item = prompt(**fields)
    promote(place.open(), item)
    found = place.open()
    assert found.prompt(item.id) == item
    assert found.prompt(item.id, "sentiment") == item
    assert found.prompt(item.id, "another") is None
    assert found.prompts("sentiment") == (item,)
    assert found.resolve("sentiment", "production") == item.id
    assert found.tasks() == ("sentiment",)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    system=st.text(st.characters(codec="utf-8"), max_size=60), why=st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=60)
)
def test_any_text_comes_back(registry: Registry, system: str, why: str) -> None:
    item = prompt(system=system)
    registry.move("sentiment", "any", item, why=why, who=f"{why}\x00")
    assert registry.prompt(item.id) == item
    entry = registry.entry("sentiment")
    assert entry is not None
    assert entry.check().aliases["any"] == item.id


def test_a_lone_surrogate_is_refused_and_nothing_is_written(registry: Registry) -> None:
    with pytest.raises(InputError):
        promote(registry, prompt(system="\ud800"))
    with pytest.raises(InputError):
        registry.move("sentiment", "production", prompt(), why="w", who="\ud800")
    assert registry.tasks() == ()


def test_history_holds_every_move_and_receipts_keep_rows_only_under_an_alias(place: Place) -> None:
    registry = place.open()
    one, two = prompt(mark="1"), prompt(mark="2")
    first = registry.move("sentiment", "production", one, why="first", who="Ada", receipt=receipt_of(one), when=T0)
    second = registry.move("sentiment", "production", two, why="second", who="Bob", receipt=receipt_of(two), when=T0)
    found = place.open()
    assert found.history("sentiment") == (first, second)
    assert first == Move(
        alias="production",
        from_=None,
        to=one.id,
        when="2026-01-01T00:00:00Z",
        who="Ada",
        why="first",
        receipt=receipt_of(one).digest,
    )
    receipts = found.receipts("sentiment")
    assert receipts[two.id].verified() == receipt_of(two)
    assert receipts[one.id] == receipt_of(one).without_rows()


def test_the_prompts_under_aliases_and_four_before_are_at_hand(registry: Registry) -> None:
    items = [prompt(mark=str(n)) for n in range(8)]
    promote(registry, *items)
    assert [item.id for item in registry.prompts("sentiment")] == [item.id for item in (items[7], *items[6:2:-1])]


def test_a_move_to_where_the_alias_stands_changes_nothing(registry: Registry) -> None:
    item = prompt()
    promote(registry, item)
    stamp = registry.stamp()
    assert registry.move("sentiment", "production", item) is None
    assert registry.stamp() == stamp
    assert len(registry.history("sentiment")) == 1


def test_another_way_to_serve_is_a_change_of_the_same_prompt(place: Place) -> None:
    registry = place.open()
    item = prompt()
    promote(registry, item)
    other = msgspec.structs.replace(item, serve=Serve(on_contract_break="error"))
    assert other.id == item.id
    assert registry.move("sentiment", "production", other, who="Ada") is not None
    assert place.open().prompt(item.id) == other


def test_own_moves_are_seen_at_once_and_change_the_stamp(registry: Registry) -> None:
    assert registry.resolve("sentiment", "production") is None
    for number in range(3):
        before, item = registry.stamp(), prompt(mark=str(number))
        promote(registry, item)
        assert registry.resolve("sentiment", "production") == item.id
        assert registry.stamp() != before


def test_moves_of_others_are_seen(place: Place) -> None:
    here, there = place.open(), place.open()
    assert here.resolve("sentiment", "production") is None
    for number in range(3):
        item = prompt(mark=str(number))
        promote(there, item)
        eventually(lambda wanted=item.id: here.resolve("sentiment", "production") == wanted)  # type: ignore[misc]


def test_a_move_expecting_another_prompt_is_refused_and_names_both(registry: Registry) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    promote(registry, one)
    with pytest.raises(LockConflict, match=f"{one.id[:12]}.*not no prompt"):
        registry.move("sentiment", "production", two, expected=None)
    with pytest.raises(LockConflict, match=f"{one.id[:12]}.*not prompt {two.id[:12]}"):
        registry.move("sentiment", "production", two, expected=two.id)
    assert registry.resolve("sentiment", "production") == one.id
    assert registry.move("sentiment", "production", two, expected=one.id) is not None


def test_of_many_that_expect_the_same_exactly_one_moves(place: Place) -> None:
    registries = [place.open() for _ in range(4)]
    won: list[str] = []
    for turn in range(5):
        expected = registries[0].resolve("sentiment", "production") if turn == 0 else won[-1]
        items = [prompt(mark=f"{turn}/{number}") for number in range(4)]
        gate = threading.Barrier(4)
        moved: list[str] = []

        def move(registry: Registry, item: Prompt, expected: str | None = expected, gate: threading.Barrier = gate) -> None:
            gate.wait()
            try:
                registry.move("sentiment", "production", item, expected=expected, who="Ada")
            except LockConflict:
                return
            moved.append(item.id)  # noqa: B023 - the threads end within the turn

        threads = [threading.Thread(target=move, args=pair) for pair in zip(registries, items, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(moved) == 1
        won += moved
    found = place.open()
    assert [row.to for row in found.history("sentiment")] == won
    assert found.resolve("sentiment", "production") == won[-1]


@pytest.mark.parametrize("alias", ["", "A", "a b", "abc123", "latest", "x" * 65, "a\x00"])
def test_an_alias_that_can_not_be_one_is_refused(registry: Registry, alias: str) -> None:
    with pytest.raises(InputError):
        registry.move("sentiment", alias, prompt())
    assert registry.tasks() == ()


@pytest.mark.parametrize("why", ["two\nlines", "x" * 501, "\x00"])
def test_a_reason_that_can_not_be_one_is_refused(registry: Registry, why: str) -> None:
    with pytest.raises(InputError, match="reason"):
        registry.move("sentiment", "production", prompt(), why=why)
    assert registry.tasks() == ()


def test_a_tampered_prompt_and_another_ones_receipt_are_refused(registry: Registry) -> None:
    with pytest.raises(TamperedError):
        registry.move("sentiment", "production", msgspec.structs.replace(prompt(), system="another"))
    with pytest.raises(InputError, match="receipt"):
        registry.move("sentiment", "production", prompt(mark="1"), receipt=receipt_of(prompt(mark="2")))
    assert registry.tasks() == ()


def test_rollback_goes_one_further_back_each_time_and_removes_the_first(registry: Registry) -> None:
    one, two, three = items = [prompt(mark=str(n)) for n in range(3)]
    promote(registry, *items)
    assert registry.rollback("sentiment", "production", who="Ada").to == two.id
    assert registry.rollback("sentiment", "production", who="Ada").to == one.id
    last = registry.rollback("sentiment", "production", why="gone", who="Ada")
    assert (last.from_, last.to, last.rollback) == (one.id, None, True)
    assert registry.resolve("sentiment", "production") is None
    with pytest.raises(UnknownName, match="nothing to roll back"):
        registry.rollback("sentiment", "production")
    with pytest.raises(UnknownName):
        registry.rollback("another", "production")
    assert three.id not in {last.from_, last.to}


def test_a_rollback_expecting_another_prompt_is_refused(registry: Registry) -> None:
    promote(registry, prompt(mark="1"), prompt(mark="2"))
    with pytest.raises(LockConflict):
        registry.rollback("sentiment", "production", expected="0" * 64)


def test_rollback_brings_receipt_rows_back(registry: Registry) -> None:
    one, two = prompt(mark="1"), prompt(mark="2")
    kept = receipt_of(one)
    registry.move("sentiment", "production", one, receipt=kept)
    registry.move("sentiment", "production", two, receipt=receipt_of(two))
    registry.rollback("sentiment", "production", whole=lambda receipt: kept if receipt.digest == kept.digest else None)
    assert registry.receipts("sentiment")[one.id] == kept


def test_removing_an_alias(registry: Registry) -> None:
    promote(registry, prompt(), alias="candidate")
    row = registry.move("sentiment", "candidate", None, who="Ada")
    assert row is not None
    assert row.to is None
    assert registry.resolve("sentiment", "candidate") is None
    assert registry.move("sentiment", "candidate", None) is None
    assert len(registry.history("sentiment")) == 2


def test_two_tasks_may_have_the_same_prompt(registry: Registry) -> None:
    here, there = prompt("a"), prompt("b")
    assert here.id == there.id
    promote(registry, here, there)
    assert registry.prompt(here.id, "a") == here
    assert registry.prompt(here.id, "b") == there
    assert registry.tasks() == ("a", "b")
    registry.move("a", "production", None)
    assert registry.resolve("b", "production") == there.id


def test_serving_gives_what_stands_there(registry: Registry) -> None:
    item = prompt()
    promote(registry, item)
    entry, damaged = registry.serve("sentiment", lambda _: None, lambda *_: None)
    assert entry is not None
    assert damaged is None
    assert entry.aliases == {"production": item.id}
    assert entry.prompt(item.id) == item
    assert registry.standing().origin in {"lock", "registry"}


def test_closing_is_not_the_end(registry: Registry) -> None:
    promote(registry, prompt())
    registry.close()
    registry.close()
    assert registry.resolve("sentiment", "production") == prompt().id
