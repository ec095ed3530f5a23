"""What the runtime and the commands ask of any place where promoted prompts live."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, Protocol

import msgspec

from ..prompt import Prompt
from ..receipt import Receipt


class Anywhere(enum.Enum):
    """The type of :data:`ANY`."""

    ANY = "any"


ANY: Final = Anywhere.ANY
"""As ``expected``: move the alias wherever it stands now."""

Expected = str | None | Literal[Anywhere.ANY]
Find = Callable[[str], Prompt | None]
"""Looks a prompt up by its id elsewhere: in the cache, in another registry."""


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

    def resolve(self, task: str, alias: str) -> str | None:
        """The id under an alias, or ``None``."""
        ...

    def prompt(self, prompt_id: str, task: str | None = None) -> Prompt | None:
        """A prompt by its whole id, verified, or ``None`` when it is not kept here."""
        ...

    def history(self, task: str) -> tuple[Move, ...]:
        """Every recorded move, oldest first."""
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
    ) -> Move:
        """Move an alias back to what it named before."""
        ...
