"""The store: prompts, replies, journals, ledger and single flight behind one small protocol.

The names below are loaded when they are asked for, so that the ledger can be read without diskcache.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from ..chat import Reply
    from ..prompt import Prompt
    from .captures import Captures
    from .folder import DiskStore
    from .journal import Journal, Outcome
    from .ledger import Ledger, LedgerRow
    from .maintain import Finding
    from .trouble import StoreWarning

__all__ = ["DiskStore", "Finding", "Journal", "Ledger", "LedgerRow", "Outcome", "Store", "StoreWarning"]

_HOMES = {
    "DiskStore": "folder",
    "Finding": "maintain",
    "Journal": "journal",
    "Outcome": "journal",
    "Ledger": "ledger",
    "LedgerRow": "ledger",
    "StoreWarning": "trouble",
}

T = TypeVar("T")


class Store(Protocol):
    """What the floors above need of a store; :class:`DiskStore` says what each method does."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def captures(self) -> Captures: ...
    @property
    def writable(self) -> bool: ...
    def prompt(self, prompt_id: str) -> Prompt | None: ...
    def put_prompt(self, prompt: Prompt, build_key: str | None = None) -> bool: ...
    def built(self, build_key: str) -> Prompt | None: ...
    def latest(self, task: str) -> str | None: ...
    def prompt_ids(self, prefix: str = "", task: str | None = None) -> list[str]: ...
    def reply(self, key: str) -> Reply | None: ...
    def put_reply(self, key: str, reply: Reply) -> None: ...
    def journal(self, kind: str, key: str, describe: Mapping[str, object] | None = None) -> Journal: ...
    def remember_lock(self, task: str, text: str) -> None: ...
    def last_lock(self, task: str) -> str | None: ...
    def last_lock_at(self, task: str) -> float | None: ...
    async def once(self, key: str, find: Callable[[], T | None], make: Callable[[], Awaitable[T]], *, looked: bool = False) -> T: ...
    async def once_build(self, key: str, find: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T: ...
    def check_writable(self) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
