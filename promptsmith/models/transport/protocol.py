"""What carries bytes to a provider and back, whatever they mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

MAX_REPLY_BYTES = 64 * 2**20
"""A longer reply is refused: it is no answer to a prompt, and it would be held in memory whole."""

CONNECT_SECONDS = 5.0
"""To find the host, connect and agree on TLS: a server that is there needs less."""


class Answer(NamedTuple):
    """What came back to one call, errors of the provider included. ``headers`` may be asked in any case."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class Streamed(NamedTuple):
    """An answer on its way: ``pieces`` of any size, as they arrive; for an error status they are its body."""

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]


class Transport(Protocol):
    """Carries calls to one endpoint, from any number of tasks, threads and event loops.

    A status that the provider answers with is no error here. Raises
    :class:`~promptsmith.errors.InputError` for a header that can't be sent (before anything is),
    :class:`~promptsmith.errors.ProviderDown` when the answer does not come within ``timeout`` seconds or breaks off, and
    :class:`~promptsmith.errors.MalformedReply` when what comes is not HTTP or longer than ``MAX_REPLY_BYTES``.
    """

    async def post(self, path: str, headers: Mapping[str, str], body: bytes, *, timeout: float | None) -> Answer:  # noqa: ASYNC109  # the client's own, cheaper than a scope around it
        """The whole answer, within ``timeout`` seconds in all."""

    def stream(self, path: str, headers: Mapping[str, str], body: bytes, *, timeout: float | None) -> AbstractAsyncContextManager[Streamed]:
        """The answer as it comes; ``timeout`` limits each wait, and leaving the context early closes the connection."""

    async def close(self) -> None:
        """Closes the connections; a later call opens new ones."""
