"""Calls over connections of our own, for the service: what they cost is most of what a relayed request costs.

Means the same as :class:`~.direct.Direct`, at a fifth of its CPU time (less than half, for a stream). HTTP is read by
llhttp (``httptools``), as aiohttp reads it. It knows no proxies: where one is on the way, :class:`~.direct.Direct` is used.

No request is ever sent twice from here. A server that closes a connection which was kept for the next request may do so
just as that request is on its way; from here that looks the same as a server that died over it, and calls are paid for
(RFC 9110, 9.2.2: a client should not repeat a POST that may have been acted upon). So a connection is looked at before it
is used, idle ones are closed before servers do, and what is left is a :class:`~promptsmith.errors.ProviderDown` that is
repeated, counted and paid for where all the others are: in ``models/retry.py``.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType

from ...errors import MalformedReply
from ...version import VERSION
from .address import Protocol, base_url
from .exchange import Connection, TooLong
from .headers import answered, check_headers
from .loops import PerLoop
from .mapping import NotHttp, mapped_errors
from .pool import Place, Pool
from .protocol import MAX_REPLY_BYTES, Answer, Streamed

_OURS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": f"promptsmith/{VERSION}", "content-type": "application/json"}
_PLAIN = (b"", b"identity")
_PACKED = (b"gzip", b"x-gzip", b"deflate")
_UNPACKED_BYTES = 2**16
_PACKED_BYTES = 2**14
"""Looked at at a time: what is left behind each member is copied."""
_ANY_WRAPPING = zlib.MAX_WBITS + 32
"""zlib's way of saying: gzip or zlib, see for yourself."""


class Lean:
    """Calls to one endpoint. Raises :class:`InputError` for a base URL that can't be used.

    Redirects are not followed: they would turn the call into a GET, or take the key to another place.
    """

    def __init__(self, url: str, protocol: Protocol, *, provider: str = "", max_bytes: int = MAX_REPLY_BYTES) -> None:
        self.base_url = base_url(url, protocol)
        self._max = max_bytes
        self._errors = mapped_errors(provider or protocol, address=self.base_url)
        self._provider = provider or protocol
        self._place = place = Place.of(self.base_url)
        self._heads: dict[tuple[str, str], tuple[dict[str, str], bytes]] = {}
        self._per_loop = PerLoop(lambda: Pool(place), Pool.close, Pool.abandon)

    async def post(self, path: str, headers: Mapping[str, str], body: bytes, *, timeout: float | None) -> Answer:  # noqa: ASYNC109
        """The whole answer; as :class:`~.protocol.Transport`."""
        head = b"%bcontent-length: %d\r\n\r\n" % (self._head("POST", path, headers), len(body))
        return await self._answer(head, body, timeout)

    async def get(self, path: str, headers: Mapping[str, str], *, timeout: float | None) -> Answer:  # noqa: ASYNC109
        """What stands at ``path``. Raises as :meth:`post`."""
        return await self._answer(self._head("GET", path, headers) + b"\r\n", b"", timeout)

    def stream(self, path: str, headers: Mapping[str, str], body: bytes, *, timeout: float | None) -> Stream:
        """The answer as it comes; as :class:`~.protocol.Transport`."""
        head = b"%bcontent-length: %d\r\n\r\n" % (self._head("POST", path, headers), len(body))
        return Stream(self, head, body, timeout)

    async def close(self) -> None:
        """Closes the connections; a later call opens new ones."""
        await self._per_loop.close()

    async def _answer(self, head: bytes, body: bytes, seconds: float | None) -> Answer:
        pool = self._per_loop.find() or await self._per_loop.get()
        connection = pool.take()
        if connection is None:
            connection, seconds = await self._connected(pool, seconds)
        try:
            with self._errors:
                connection.begin(head, body, whole=True, most=self._max)
                pool.watch(connection, seconds)
                while not connection.over:
                    await connection.waiting()
                self._check(connection)
                data = connection.take()
                if connection.encoding not in _PLAIN:
                    data = b"".join(self._unpacked(connection.encoding, data))
        except BaseException as error:
            connection.abort()  # half read, it is of no use to anybody; and the server sees that nobody waits
            if connection.status:
                answered(error, connection.status, connection.headers)
            raise
        answer = Answer(connection.status, connection.headers, data)
        pool.give_back(connection)
        return answer

    async def _connected(self, pool: Pool, seconds: float | None) -> tuple[Connection, float | None]:
        """A new connection, and what of the ``seconds`` is left."""
        began = asyncio.get_running_loop().time()
        with self._errors:
            connection = await pool.connect(seconds)
        return connection, None if seconds is None else max(0.0, seconds - (asyncio.get_running_loop().time() - began))

    def _head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """All of a request's head that is the same from call to call. Raises :class:`InputError` for what can't be sent."""
        kept = self._heads.get((method, path))
        if kept is not None and kept[0] == headers:
            return kept[1]
        check_headers(headers)
        sent = {**_OURS, **{name.lower(): value for name, value in headers.items()}}
        if method == "GET" and "content-type" not in (name.lower() for name in headers):
            del sent["content-type"]
        lines = [f"{method} {self._place.path}{path} HTTP/1.1", f"host: {self._place.authority}"]
        lines += [f"{name}: {value}" for name, value in sent.items()]
        head = "\r\n".join([*lines, ""]).encode("ascii")
        self._heads[method, path] = dict(headers), head
        return head

    def _check(self, connection: Connection) -> None:
        """Raises what ended the exchange before its answer was whole."""
        error = connection.failed()
        if error is not None:
            try:
                raise self._too_long() if isinstance(error, TooLong) else error
            finally:
                del error  # its traceback holds this frame

    def _too_long(self) -> MalformedReply:
        return MalformedReply(f"{self.base_url} sent more than {self._max // 2**20} MB for one reply", provider=self._provider)

    def _unpacked(self, encoding: bytes, data: bytes) -> Iterator[bytes]:
        """What was compressed though we had asked for it not to be. Raises as :class:`Unpacker`, and for what is too long."""
        unpacker = Unpacker(encoding)
        size = 0
        for piece in unpacker.feed(data):
            size += len(piece)
            if size > self._max:
                raise self._too_long()
            yield piece
        unpacker.close()


class Stream:
    """One answer on its way: the context that it is read in, and its pieces. After the context there are none.

    Left by an error, or by whoever is cancelled, it closes its connection at once. Left without one, its reader has what
    it wanted: if the end of the answer comes within a quarter of a second the connection is used again, else it is closed.
    """

    __slots__ = ("_body", "_connection", "_head", "_lean", "_pool", "_seconds", "_size", "_unpacker", "_unpacking")

    def __init__(self, lean: Lean, head: bytes, body: bytes, seconds: float | None) -> None:
        self._lean, self._head, self._body, self._seconds = lean, head, body, seconds
        self._pool: Pool | None = None
        self._connection: Connection | None = None
        self._unpacker: Unpacker | None = None
        self._unpacking: Iterator[bytes] = iter(())
        self._size = 0

    async def __aenter__(self) -> Streamed:
        lean = self._lean
        pool = self._pool = lean._per_loop.find() or await lean._per_loop.get()
        connection = pool.take()
        if connection is None:
            connection, _ = await lean._connected(pool, self._seconds)
        self._connection = connection
        try:
            with lean._errors:
                connection.begin(self._head, self._body, whole=False, most=lean._max)
                pool.watch(connection, self._seconds)
                while not connection.status:
                    lean._check(connection)
                    await connection.waiting()
                pool.watch(connection, None)
                if connection.encoding not in _PLAIN:
                    self._unpacker = Unpacker(connection.encoding)
        except BaseException as error:
            connection.abort()
            if connection.status:
                answered(error, connection.status, connection.headers)
            raise
        return Streamed(connection.status, connection.headers, self)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        connection, self._connection = self._connection, None
        if connection is None or self._pool is None:
            return
        if connection.over:
            self._pool.give_back(connection)
        elif error is None:
            self._pool.leave(connection)
        else:
            connection.abort()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with self._lean._errors:
            piece = await (self._piece() if self._unpacker is None else self._unpacked(self._unpacker))
        if not piece:
            raise StopAsyncIteration
        return piece

    async def _piece(self) -> bytes:
        """What has come since the last one; empty at the end."""
        connection, pool = self._connection, self._pool
        if connection is None or pool is None:
            return b""
        if not connection.parts and not connection.over:
            # A wait is the server's to end; while the consumer is busy, nobody waits.
            pool.watch(connection, self._seconds)
            while not connection.parts and not connection.over:
                await connection.waiting()
            pool.watch(connection, None)
        if connection.parts:
            return connection.take()
        self._lean._check(connection)
        return b""

    async def _unpacked(self, unpacker: Unpacker) -> bytes:
        """What the next piece, or the rest of the last one, holds."""
        while not (piece := next(self._unpacking, b"")):
            packed = await self._piece()
            if not packed:
                unpacker.close()
                return b""
            self._unpacking = unpacker.feed(packed)
        self._size += len(piece)
        if self._size > self._lean._max:
            raise self._lean._too_long()
        return piece


class Unpacker:
    """Undoes a Content-Encoding, in pieces that are small however much is inside. Raises :class:`NotHttp`."""

    def __init__(self, encoding: bytes) -> None:
        if encoding not in _PACKED:
            name = encoding.decode("latin-1")[:40]
            raise NotHttp(f"it is compressed as {name!r}, though we had asked for it as it is (accept-encoding: identity)")
        self._name = encoding.decode("ascii")
        self._packed = zlib.decompressobj(_ANY_WRAPPING)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` brings."""
        for start in range(0, len(data), _PACKED_BYTES):
            rest = data[start : start + _PACKED_BYTES]
            while rest:
                self._begun = True
                if self._packed.eof:  # a gzip file may have several members (RFC 1952, 2.2)
                    self._packed = zlib.decompressobj(_ANY_WRAPPING)
                try:
                    piece = self._packed.decompress(rest, _UNPACKED_BYTES)
                except zlib.error as error:
                    raise NotHttp(f"its content-encoding is {self._name}, and it is not: {error}") from None
                rest = self._packed.unused_data if self._packed.eof else self._packed.unconsumed_tail
                if piece:
                    yield piece

    def close(self) -> None:
        """At the end. Nothing at all is nothing, however it is wrapped."""
        if self._begun and not self._packed.eof:
            raise NotHttp(f"its content-encoding is {self._name}, and it ends too early")
