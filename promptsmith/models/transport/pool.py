"""The connections to one server in one event loop: made when needed, kept while they are of use."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from ...errors import InputError
from .deadlines import Deadlines
from .exchange import Connection
from .protocol import CONNECT_SECONDS
from .trust import trusted

_IDLE_SECONDS = 30.0
_LINGER_SECONDS = 0.25
_LOOK_SECONDS = 1.0
"""A connection that was idle for longer is looked at before it is used: servers close idle ones, and this turn of the loop may not
have seen it yet. Looking costs a system call, which busy connections are spared."""
_NAMES_SECONDS = 10.0
_SECOND_ADDRESS_SECONDS = 0.25
"""After which the host's next address is tried beside the first (RFC 8305)."""
_PORTS = {"http": 80, "https": 443}
_CLOSING_TURNS = 100


class ConnectTimeout(TimeoutError):
    """The server was not connected to in time; it has got nothing of the request."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is. ``authority`` is what the header Host says, ``path`` what each request's path begins with."""

    host: str
    port: int
    tls: bool
    authority: str
    path: str

    @classmethod
    def of(cls, url: str) -> Place:
        """Of a base URL as :func:`~.address.base_url` makes it. Raises :class:`InputError` for a host that no DNS name can be."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if not host.isascii():
            try:
                host = host.encode("idna").decode("ascii")
            except UnicodeError:
                raise InputError(f"the base URL {url!r} names a host that can't be one") from None
        port = parts.port or _PORTS[parts.scheme]
        named = f"[{host}]" if ":" in host else host
        authority = named if port == _PORTS[parts.scheme] else f"{named}:{port}"
        return cls(host, port, parts.scheme == "https", authority, quote(parts.path, safe="/%:@!$&'()*+,;=~-._"))


class Pool:
    """Of the running loop. The connection used last is used next, so that those too many grow old, and are closed."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._tls = _context() if place.tls else None
        self._loop = asyncio.get_running_loop()
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # in the order in which they were put back
        self._deadlines = Deadlines(self._all)
        self.watch = self._deadlines.watch
        """From now on a connection may keep its owner waiting for so many seconds."""
        self._names: asyncio.Future[Sequence[AddrInfoType]] | None = None
        self._names_until = 0.0
        self._closed = self._abandoned = False

    # --- an exchange's connection ---------------------------------------------------------------------

    def take(self) -> Connection | None:
        """An idle one that the server has not closed; it is the caller's until it is given back or aborted."""
        while self._idle:
            connection, _ = self._idle.popitem()
            fresh = connection.until - self._loop.time() > _IDLE_SECONDS - _LOOK_SECONDS
            if connection.reusable and (fresh or connection.is_quiet()):
                return connection
            connection.abort()
        return None

    async def connect(self, seconds: float | None) -> Connection:
        """A new one. Raises what the system does, and :class:`ConnectTimeout`."""
        if seconds is None or seconds > CONNECT_SECONDS:
            seconds = CONNECT_SECONDS
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                made = await self._connected()
        except TimeoutError:
            raise ConnectTimeout from None
        if self._closed:  # while it was being made
            made.abort()
            raise ConnectionAbortedError("the client was closed")
        return made

    def give_back(self, connection: Connection) -> None:
        """Its exchange is over: it waits for the next one, or is closed if there can be none."""
        if not connection.reusable or self._closed:
            connection.abort()
            return
        self._idle[connection] = None
        self.watch(connection, _IDLE_SECONDS)

    def leave(self, connection: Connection) -> None:
        """Its caller has what it wanted of the answer; the end may still be on its way, and is waited for without the caller."""
        connection.linger()
        self.watch(connection, _LINGER_SECONDS)

    # --- for PerLoop ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Closes every connection; exchanges under way fail."""
        if self._abandoned:
            return
        self._closed = True
        self._deadlines.stop()
        for connection in list(self._all):
            connection.abort()
        for _ in range(_CLOSING_TURNS):  # until their sockets are closed: the loop may end with this
            if not self._all:
                return
            await asyncio.sleep(0)

    def abandon(self) -> None:
        """Forgets its connections without touching them."""
        self._abandoned = True

    # --------------------------------------------------------------------------------------------------

    async def _connected(self) -> Connection:
        try:
            sock = await aiohappyeyeballs.start_connection(
                await self._addresses(), happy_eyeballs_delay=_SECOND_ADDRESS_SECONDS, interleave=1, loop=self._loop
            )
        except OSError:
            self._names = None  # the server may have moved
            raise
        try:
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._gone, self.give_back),
                sock=sock,
                ssl=self._tls,
                server_hostname=self._place.host if self._tls else None,
            )
        except BaseException:
            sock.close()
            raise
        self._all.add(connection)
        return connection

    def _addresses(self) -> Awaitable[Sequence[AddrInfoType]]:
        """The host's; those who connect at the same time ask once."""
        now = self._loop.time()
        if self._names is None or self._names_until < now:
            self._names = self._loop.create_task(self._looked_up())
            self._names.add_done_callback(_seen)
            self._names_until = now + _NAMES_SECONDS
        return asyncio.shield(self._names)

    async def _looked_up(self) -> Sequence[AddrInfoType]:
        return await self._loop.getaddrinfo(self._place.host, self._place.port, type=socket.SOCK_STREAM)

    def _gone(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)


def _context() -> ssl.SSLContext:
    named = trusted()
    context = named if isinstance(named, ssl.SSLContext) else ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _seen(lookup: asyncio.Future[Sequence[AddrInfoType]]) -> None:
    """Its error is told to those who wait; if they have all gone, nobody needs it."""
    if not lookup.cancelled():
        lookup.exception()
