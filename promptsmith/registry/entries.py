"""What follows from a task's entry, the same for every registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from ..prompt import Prompt
from ..receipt import Receipt
from .entry import Entry
from .protocol import Move, OutsideMove


class Entries(ABC):
    """Reads everything about a task out of its :class:`Entry`. Raises what :meth:`entry` raises."""

    @abstractmethod
    def entry(self, task: str) -> Entry | None:
        """A task's part of the registry, or ``None``. Raises :class:`LockError` for a damaged one."""

    def resolve(self, task: str, alias: str) -> str | None:
        """The id under an alias, or ``None``."""
        entry = self.entry(task)
        return entry.aliases.get(alias) if entry is not None else None

    def prompts(self, task: str) -> tuple[Prompt, ...]:
        """All prompts of a task that are kept in full: under an alias first, then the most recent."""
        entry = self.entry(task)
        return entry.prompts() if entry is not None else ()

    def history(self, task: str) -> tuple[Move, ...]:
        """Every recorded move of a task's aliases, oldest first."""
        entry = self.entry(task)
        return entry.history if entry is not None else ()

    def receipts(self, task: str) -> Mapping[str, Receipt]:
        """Receipts by prompt id, verified; only those of prompts under an alias have rows."""
        entry = self.entry(task)
        return entry.receipts if entry is not None else {}

    def outside_moves(self, task: str) -> tuple[OutsideMove, ...]:
        """Aliases that were moved without promptsmith: they stand elsewhere than the history says."""
        entry = self.entry(task)
        return entry.outside_moves() if entry is not None else ()

    def block_text(self, task: str) -> str | None:
        """The raw text of a task's block, or ``None``; what :meth:`Entry.from_text` reads."""
        entry = self.entry(task)
        return entry.text if entry is not None else None
