"""What the runtime and the commands ask of any place where promoted prompts live."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

import msgspec

from ..prompt import Prompt
from ..receipt import Receipt

if TYPE_CHECKING:
    from .entry import Entry


class Anywhere(enum.Enum):
    """The type of :data:`ANY`."""

    ANY = "any"


ANY: Final = Anywhere.ANY
"""As ``expected``: move the alias wherever it stands now."""

Expected = str | None | Literal[Anywhere.ANY]
Find = Callable[[str], Prompt | None]
"""Looks a prompt up by its id elsewhere: in the cache, in another registry."""
Whole = Callable[[Receipt], Receipt | None]
"""Looks up the same receipt with its rows."""

LAST_GOOD = "last good"
SHIPPED = "shipped lock"


class Standing(NamedTuple):
    """Where entries come from."""

    origin: str
    """``lock``; of a server registry ``registry``, ``last good`` (a copy), or ``shipped lock`` (there was no copy)."""
    since: float | None = None
    """For a copy: Unix time at which it was last known to be what the registry says (``None``: not known)."""


LOCK: Final = Standing("lock")


class LockWarning(UserWarning):
    """The lock is damaged for a task; its last good copy is served."""


class RegistryWarning(LockWarning):
    """The server registry is out of reach; a copy is served."""


class Move(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """One move of an alias; ``None`` as ``from_`` or ``to`` is no prompt."""

    alias: str
    from_: str | None
    to: str | None
    when: str
    """UTC time, RFC 3339, whole seconds."""
    who: str
    why: str
    forced: bool = False
    rollback: bool = False
    receipt: str | None = None
    """Digest of the receipt that the move was made on."""


# See chat.py.
msgspec.json.Decoder(Move)


class OutsideMove(msgspec.Struct, frozen=True):
    """An alias that stands elsewhere than its last recorded move left it (a git revert does that)."""

    alias: str
    recorded: str | None
    found: str | None


class Registry(Protocol):
    """Promoted prompts by task and alias. Every method raises :class:`LockError` where the place is damaged."""

    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks that were ever promoted, sorted."""
        ...

    def entry(self, task: str) -> Entry | None:
        """All that is known of a task, or ``None``."""
        ...

    def resolve(self, task: str, alias: str) -> str | None:
        """The id under an alias, or ``None``."""
        ...

    def prompt(self, prompt_id: str, task: str | None = None) -> Prompt | None:
        """A prompt by its whole id, verified, or ``None`` when it is not kept here."""
        ...

    def prompts(self, task: str) -> tuple[Prompt, ...]:
        """The prompts of a task that are at hand: under an alias first, then the most recent."""
        ...

    def history(self, task: str) -> tuple[Move, ...]:
        """Every recorded move, oldest first."""
        ...

    def receipts(self, task: str) -> Mapping[str, Receipt]:
        """Receipts by prompt id, verified; only those of prompts under an alias have rows."""
        ...

    def outside_moves(self, task: str) -> tuple[OutsideMove, ...]:
        """Aliases that were moved without promptsmith."""
        ...

    def problems(self) -> tuple[str, ...]:
        """Everything that is damaged, a line each."""
        ...

    def stamp(self) -> Hashable:
        """What changes whenever an answer could; cheap enough for every request."""
        ...

    def standing(self) -> Standing:
        """Where entries come from now, and how fresh they are."""
        ...

    def serve(
        self, task: str, last_good: Callable[[str], str | None], remember: Callable[[str, str], None]
    ) -> tuple[Entry | None, str | None]:
        """A task's entry to answer from, and what is damaged (``None``: nothing). Waits for no network once it is open."""
        ...

    def move(
        self,
        task: str,
        alias: str,
        to: Prompt | None,
        *,
        expected: Expected = ANY,
        why: str = "",
        who: str | None = None,
        receipt: Receipt | None = None,
        forced: bool = False,
        when: datetime | None = None,
    ) -> Move | None:
        """Move an alias by compare-and-swap; ``None`` when nothing was to change."""
        ...

    def rollback(
        self,
        task: str,
        alias: str,
        *,
        expected: Expected = ANY,
        why: str = "",
        who: str | None = None,
        when: datetime | None = None,
        find: Find | None = None,
        whole: Whole | None = None,
    ) -> Move:
        """Move an alias back to what it named before."""
        ...

    def close(self) -> None:
        """Ends what runs in the background; nothing is lost without it."""
        ...
