"""The client's side of HTTP/1.1 on one kept connection: one request after the other, as little work as possible for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from .provider import joined

_END = b"\r\n\r\n"
_LAST_CHUNK = b"0" + _END
# Of a whole answer. A stream's events end in LF LF, so that these five bytes can't stand at the end of a piece of one.


class Answer(NamedTuple):
    """One answer. Times in seconds: when the request was sent, and when the first byte of the body and the last one came."""

    head: bytes
    raw: bytes
    chunked: bool
    sent: float
    first: float
    last: float

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    @property
    def body(self) -> bytes:
        return joined(self.raw) if self.chunked else self.raw

    def header(self, name: str) -> str:
        """A header's value, or empty."""
        _, _, rest = self.head.lower().partition(f"\r\n{name.lower()}:".encode())
        return rest.partition(b"\r\n")[0].strip().decode()


class Connection(asyncio.Protocol):
    """Calls ``answered`` after each answer and ``lost`` when the connection ended; either may :meth:`send` or close."""

    def __init__(self, answered: Callable[[Connection, Answer], None], lost: Callable[[Connection], None]) -> None:
        self._answered = answered
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._head = 0
        self._wanted = -1
        self._chunked = False
        self._sent = self._first = 0.0
        self.waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's name
        self._transport = None
        self._lost(self)

    def send(self, request: bytes) -> None:
        self.waiting = True
        self._head = 0
        self._first = 0.0
        self._sent = time.perf_counter()
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        buffer = self._buffer = self._buffer + data if self._buffer else data
        if not self._head and not self._read_head(buffer):
            return
        start = self._head
        if not self._first and len(buffer) > start:
            self._first = now
        if not (buffer.endswith(_LAST_CHUNK) if self._chunked else len(buffer) >= start + self._wanted):
            return
        self._buffer = b""
        self.waiting = False
        self._answered(self, Answer(buffer[: start - 2], buffer[start:], self._chunked, self._sent, self._first or now, now))

    def _read_head(self, buffer: bytes) -> bool:
        end = buffer.find(_END)
        if end < 0:
            return False
        head = buffer[:end].lower()
        self._head = end + 4
        self._chunked = b"\r\ntransfer-encoding: chunked" in head
        _, found, length = head.partition(b"\r\ncontent-length:")
        self._wanted = int(length.partition(b"\r\n")[0]) if found else 0
        return True


def request(url: str, headers: dict[str, str], body: bytes) -> bytes:
    """A POST of JSON as bytes."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + _END + body


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL that names both."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"{url} names no host and port")
    return parts.hostname, parts.port


class Line:
    """A connection to be awaited, that is made again when it was lost."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._connection: Connection | None = None
        self._future: asyncio.Future[Answer] | None = None

    async def ask(self, data: bytes) -> Answer:
        """The answer to one request. Raises :class:`OSError` when the connection was refused or lost before the answer was whole."""
        loop = asyncio.get_running_loop()
        if self._connection is None:
            _, self._connection = await loop.create_connection(lambda: Connection(self._answered, self._lost), *self._address)
        self._future = loop.create_future()
        self._connection.send(data)
        return await self._future

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _answered(self, connection: Connection, answer: Answer) -> None:
        if answer.header("connection").lower() == "close":
            connection.close()
            self._connection = None
        if self._future is not None and not self._future.done():
            self._future.set_result(answer)

    def _lost(self, connection: Connection) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        if connection.waiting and self._future is not None and not self._future.done():
            self._future.set_exception(ConnectionResetError("the connection was lost before the answer was whole"))
