"""What a model is to the rest of promptsmith."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

from ..chat import Chunk, Reply, Request


@runtime_checkable
class Model(Protocol):
    """Answers requests. Raises :class:`~promptsmith.errors.ModelError` when it can't."""

    @property
    def name(self) -> str:
        """The full name, ``endpoint/model``."""

    async def reply(self, request: Request) -> Reply:
        """The whole answer."""

    def stream(self, request: Request) -> AsyncIterator[Chunk]:
        """The answer in pieces; the last chunk carries the whole reply."""
