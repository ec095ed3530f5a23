"""An HTTP/1.1 server (RFC 9110, RFC 9112) for one worker: requests in, one task for each, answers out in as few writes as they take.

The parser is llhttp in its strict mode: whatever two servers could read in two ways is refused (RFC 9112, 11.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from http.cookies import SimpleCookie
from typing import Literal, NamedTuple, TypeVar, cast, overload
from urllib.parse import parse_qsl, unquote, urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from ..errors import InputError
from ..models.transport.deadlines import NEVER, Deadlines
from ..models.wire import codec

T = TypeVar("T")
_HEADERS = 128
_QUEUED = 16
"""Requests that may wait behind the one being answered, before no more is read of their connection."""
_SLICE = 2**14
"""Bytes parsed at a time: so that what has come can be left unread in the middle of it."""
_BODY_BYTES = 2**17
"""Of a body that its handler has not taken yet, before no more is read."""
_ONE_WRITE_BYTES = 2**16
_SKIPPED_BYTES = 2**16
"""Of a body that its handler did not want, for which the connection is kept: many clients send it in a packet of its own."""
_SKIP_SECONDS = 1.0
_LINGER_SECONDS, _LINGER_BYTES = 5.0, 2**24
"""For how long, and how much, a client is heard out that still sends after its last answer."""
_LOOK_SECONDS = 0.1
"""The least between two looks at all connections: a limit is kept to that."""
_LEFT_SECONDS = 1.0
"""Between two looks at a client of whom nothing is read: whether it is still there."""
_CLOSING_TURNS = 100
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STATUS = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n" for one in HTTPStatus}
_BODILESS = frozenset({204, 304})
_OVER = b"0\r\n\r\n"


class Limits(NamedTuple):
    """Of one server. ``head_bytes`` bounds the request line, and all headers together."""

    head_bytes: int
    head_seconds: float
    """How long a connection may take to send a request's headers, its first request's counted from its beginning."""
    idle_seconds: float
    """How long a connection is kept open between two requests, and how long its client may leave an answer untaken after it."""


class Headers(Mapping[str, str]):
    """A request's, to be asked in any case; of several with one name the first counts. Bytes that are no UTF-8 become surrogates."""

    __slots__ = ("_raw",)

    def __init__(self, raw: dict[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        return _text(self._raw[name.lower().encode("latin-1", "replace")])

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, /, default: T) -> str | T: ...

    def get(self, name: str, /, default: object = None) -> object:  # the Mapping's own raises, and catches
        value = self._raw.get(name.lower().encode("latin-1", "replace"))
        return default if value is None else _text(value)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower().encode("latin-1", "replace") in self._raw

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"


def _text(value: bytes) -> str:
    return value.strip(b" \t").decode("utf-8", "surrogateescape")


class Body:
    """A request's body as it comes. Whoever does not take it keeps the client from sending more."""

    __slots__ = ("_connection", "_eof", "_error", "_pieces", "_waiter", "asked", "size", "total_bytes")

    def __init__(self, connection: Connection, *, asked: bool) -> None:
        self._connection = connection
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: InputError | None = None
        self._eof = False
        self.asked = asked
        """The client waits to be told that somebody reads it (RFC 9110, 10.1.1)."""
        self.size = 0
        """Bytes that have come and are not taken."""
        self.total_bytes = 0

    def is_eof(self) -> bool:
        """Whether all of it has come."""
        return self._eof

    def read_nowait(self) -> bytes:
        """All that has come since the last time."""
        pieces = self._pieces
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self.size = 0
        self._connection.read_on()
        return taken

    async def readany(self) -> bytes:
        """The same, waited for; empty behind the end. Raises :class:`InputError` for a body that breaks its framing."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._eof:
                return b""
            if self.asked:
                self.asked = False
                self._connection.go_on()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.read_nowait()

    def feed(self, data: bytes) -> None:
        self.asked = False
        self._pieces.append(data)
        self.size += len(data)
        self.total_bytes += len(data)
        self._wake()

    def end(self, error: InputError | None = None) -> None:
        self._eof, self._error = error is None, error
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)


class Request:
    """One request. ``target`` is what stands in its request line, less a scheme and a host."""

    __slots__ = ("begun", "connection", "content", "headers", "keep", "method", "old", "path", "path_qs", "query_string")

    def __init__(self, connection: Connection, method: str, target: str, headers: Headers, *, keep: bool, old: bool) -> None:
        self.connection = connection
        self.method, self.path_qs = method, target
        raw, _, self.query_string = target.partition("?")
        self.path = unquote(raw) if "%" in raw else raw
        self.headers = headers
        self.content = Body(connection, asked=not old and headers.get("expect") is not None)
        self.keep = keep
        """Whether the connection can be used again behind the answer."""
        self.old = old
        """HTTP/1.0."""
        self.begun = False
        """Something of its answer is on its way."""

    @property
    def query(self) -> dict[str, str]:
        """The query's fields; of several with one name the first counts."""
        found: dict[str, str] = {}
        for name, value in parse_qsl(self.query_string, keep_blank_values=True, errors="replace"):
            found.setdefault(name, value)
        return found

    @property
    def cookies(self) -> dict[str, str]:
        """By name; of several with one name the first counts, whose path is the longest (RFC 6265, 5.4)."""
        found: dict[str, str] = {}
        for pair in (self.headers.get("cookie") or "").split(";"):
            name, is_one, value = pair.strip().partition("=")
            if is_one and name:
                value = value.strip()
                quoted = len(value) >= 2 and value[0] == value[-1] == '"'
                found.setdefault(name.strip(), value[1:-1] if quoted else value)
        return found

    @property
    def content_length(self) -> int | None:
        """Bytes of the body as announced; ``None``: nothing is said of it, or it comes in chunks."""
        said = self.headers.get("content-length")
        return None if said is None else int(said)

    @property
    def transport(self) -> asyncio.Transport | None:
        """``None`` when the client has left."""
        return self.connection.transport

    @property
    def protocol(self) -> Connection:
        return self.connection


class StreamResponse:
    """An answer in pieces; its head goes out with the first one. Header names are in lower case."""

    __slots__ = ("_cookies", "begun", "ended", "headers", "request", "status")

    def __init__(self, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers = dict(headers or {})
        self._cookies: SimpleCookie | None = None
        self.request: Request | None = None
        self.begun = self.ended = False

    @property
    def prepared(self) -> bool:
        """Its headers are out of the handler's hands."""
        return self.request is not None

    async def prepare(self, request: Request) -> None:
        """From now on it is the answer to ``request``."""
        self.request = request

    async def write(self, data: bytes) -> None:
        """Sends a piece, and waits while the client has not taken what came before. Raises ``ConnectionResetError`` when it has left."""
        if data:
            await self._sent(data, last=False)

    async def write_eof(self, data: bytes = b"") -> None:
        """Sends the last piece, and the end with it. Raises as :meth:`write` does."""
        if not self.ended:
            await self._sent(data, last=True)

    async def _sent(self, data: bytes, *, last: bool) -> None:
        assert self.request is not None, "prepare comes first"
        connection = self.request.connection
        connection.send(self.request, self, data, last=last)
        if connection.stuffed:
            await connection.taken()

    def set_cookie(
        self, name: str, value: str, *, max_age: int, path: str, httponly: bool, samesite: Literal["Strict", "Lax"], secure: bool
    ) -> None:
        """Adds a ``set-cookie`` header (RFC 6265)."""
        self._cookie(name, value, {"max-age": max_age, "path": path, "httponly": httponly, "samesite": samesite, "secure": secure})

    def del_cookie(self, name: str, *, path: str, httponly: bool, samesite: Literal["Strict", "Lax"], secure: bool) -> None:
        """Adds one that ends the cookie."""
        over = "Thu, 01 Jan 1970 00:00:00 GMT"
        rest = {"max-age": 0, "expires": over, "path": path, "httponly": httponly, "samesite": samesite, "secure": secure}
        self._cookie(name, "", rest)

    def _cookie(self, name: str, value: str, attributes: Mapping[str, object]) -> None:
        if self._cookies is None:
            self._cookies = SimpleCookie()
        self._cookies[name] = value
        morsel = self._cookies[name]
        for key, given in attributes.items():
            morsel[key] = given if isinstance(given, bool) else str(given)

    def lines(self) -> list[str]:
        """Its headers as they are sent."""
        lines = [f"{name}: {value}\r\n" for name, value in self.headers.items()]
        if self._cookies is not None:
            lines += (f"set-cookie: {morsel.OutputString()}\r\n" for morsel in self._cookies.values())
        return lines


class Response(StreamResponse):
    """An answer that is whole."""

    __slots__ = ("body",)

    def __init__(self, *, status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status=status, headers=headers)
        self.body = body


Handler = Callable[[Request], Awaitable[StreamResponse]]
Refused = Callable[[Request, int, str], None]
"""Is told of a request that no handler sees: what is known of it, its status, and what is wrong with its headers."""


class _Bad(Exception):
    """What came is no request that can be answered."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Server:
    """Makes the :class:`Connection` of each client, and ends those that have been quiet for too long."""

    def __init__(self, handler: Handler, limits: Limits, refused: Refused = lambda request, status, text: None) -> None:
        self.handler, self.refused = handler, refused
        self.limits = limits
        """May be others later, which hold from each connection's next request on."""
        self.closing = False
        self._all: set[Connection] = set()
        self._nobody = asyncio.Event()
        self._deadlines = Deadlines(self._all, pause=_LOOK_SECONDS)
        self.watch = self._deadlines.watch
        """Ends a connection unless it is told otherwise within so many seconds."""
        self._second = 0
        self._date = ""

    def __call__(self) -> Connection:
        """For ``loop.create_server``."""
        return Connection(self)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._all)

    async def sent(self) -> None:
        """Returns when the clients have taken what was written for them."""
        while any(one.transport is not None and one.transport.get_write_buffer_size() for one in self._all):  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(_LOOK_SECONDS)

    def pre_shutdown(self) -> None:
        """Closes the connections that have nothing to answer; the others close behind their answer."""
        self.closing = True
        for connection in list(self._all):
            connection.end()

    async def shutdown(self, timeout: float) -> None:  # noqa: ASYNC109 - a connection that is over by then has ended well
        """:meth:`pre_shutdown`, and ends what is not over ``timeout`` seconds later; the tasks of its requests are cancelled."""
        self.pre_shutdown()
        if self._all:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._nobody.wait()
        tasks = [connection.task for connection in self._all if connection.task is not None]
        for connection in list(self._all):
            connection.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(_CLOSING_TURNS):  # until their sockets are closed: the loop may end with this
            if not self._all:
                break
            await asyncio.sleep(0)
        self._deadlines.stop()

    # --- for connections ------------------------------------------------------------------------------

    def come(self, connection: Connection) -> None:
        self._all.add(connection)
        self._nobody.clear()

    def gone(self, connection: Connection) -> None:
        self._all.discard(connection)
        if not self._all:
            self._nobody.set()

    def date(self) -> str:
        """The time as a header has it (RFC 9110, 5.6.7); worked out once a second."""
        second = int(time.time())
        if second != self._second:
            at = time.gmtime(second)
            self._second = second
            self._date = (
                f"date: {_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year:04}"
                f" {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT\r\n"
            )
        return self._date


class Connection(asyncio.Protocol):
    """One client's: its requests are answered one after the other, each by a task of its own.

    A client that closes its side has left, whether or not it still reads: the two look the same from here.
    """

    __slots__ = (
        "_bad",
        "_body",
        "_cancelled",
        "_count",
        "_deaf",
        "_dry",
        "_extra",
        "_head_size",
        "_heading",
        "_held",
        "_limits",
        "_looking",
        "_loop",
        "_muted",
        "_parser",
        "_paused",
        "_queue",
        "_raw",
        "_request",
        "_server",
        "_skips",
        "_target",
        "_unread",
        "_upgrade",
        "_waiter",
        "stuffed",
        "task",
        "transport",
        "until",
    )

    def __init__(self, server: Server) -> None:
        self._server, self._limits = server, server.limits
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self._parser: HttpRequestParser | None = None
        self.until = NEVER
        """When, by the loop's clock, it is ended."""
        self.task: asyncio.Task[None] | None = None
        """Of the request that is being answered."""
        self.stuffed = False
        """The client has not taken what was sent to it."""
        self._waiter: asyncio.Future[None] | None = None
        self._queue: deque[Request | _Bad] = deque()
        self._request: Request | None = None
        self._body: Body | None = None  # which is still coming
        self._bad: _Bad | None = None
        self._cancelled = self._deaf = self._extra = self._paused = self._muted = self._heading = self._skips = False
        self._held = b""
        self._upgrade: bytes | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._raw: dict[bytes, bytes] = {}
        self._target = b""
        self._head_size = self._count = self._dry = self._unread = 0

    # --- for the request's task -----------------------------------------------------------------------

    def send(self, request: Request, response: StreamResponse, data: bytes, *, last: bool) -> None:
        """A piece of an answer. Raises ``ConnectionResetError`` when nobody is there to take it."""
        transport = self.transport
        if transport is None or self._request is not request or transport.is_closing():
            raise ConnectionResetError("the client has left")
        assert not response.ended, "its last piece was sent"
        head = b""
        if not response.begun:
            length = len(data) if isinstance(response, Response) else None
            head = self._head(request, response, length)
            response.begun = True
            if length is not None:
                self._write(transport, head, b"" if request.method == "HEAD" or response.status in _BODILESS else data)
                response.ended = True
                return
        response.ended = last
        if request.method == "HEAD" or response.status in _BODILESS:
            piece = b""
        elif request.old:
            piece = data
        elif data:
            piece = b"%x\r\n%b\r\n%b" % (len(data), data, _OVER if last else b"")
        else:
            piece = _OVER
        self._write(transport, head, piece)

    @staticmethod
    def _write(transport: asyncio.Transport, head: bytes, rest: bytes) -> None:
        if len(rest) > _ONE_WRITE_BYTES and head:
            transport.write(head)
            transport.write(rest)
        elif head or rest:
            transport.write(head + rest)

    async def taken(self) -> None:
        """Returns when the client has taken enough of what was sent."""
        while self.stuffed:
            waiter = self._waiter = self._loop.create_future()
            await waiter
        if self.transport is None:
            raise ConnectionResetError("the client has left")

    def go_on(self) -> None:
        """Tells the client that its body is being read."""
        if self.transport is not None and self._request is not None and not self._request.begun:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def read_on(self) -> None:
        """There may be room again for what the client sends."""
        while self._paused and not self._is_full():
            held, self._held = self._held, b""
            if held:
                self._feed(held)
            if not self._held and not self._is_full():
                self._paused = False
                if self.transport is not None:
                    self.transport.resume_reading()

    # --- for the server -------------------------------------------------------------------------------

    def end(self) -> None:
        """Closes it unless a request is under way, or is on its way."""
        if self.task is None and not self._queue and not self._heading and self.transport is not None and not self._deaf:
            self._close()

    def abort(self) -> None:
        """Ends it at once; what was not sent is dropped."""
        self._left()
        if self.transport is not None:
            self.transport.abort()

    def late(self) -> None:
        """Ends it because its time is over."""
        if self._heading and self.task is None and not (self._queue or self._deaf or self.stuffed):
            text = f"the headers did not arrive within {self._limits.head_seconds:g} seconds"
            self._server.refused(self._begun(), 408, text)
        self.abort()

    # --- asyncio.Protocol -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._parser = HttpRequestParser(self)
        self._server.come(self)
        self._server.watch(self, self._limits.head_seconds)
        if self._server.closing:
            self._close()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._extra = True
            self._unread += len(data)
            if self._unread > _LINGER_BYTES:
                self.abort()
        elif self._held:
            self._held += data
        else:
            self._feed(data)

    def eof_received(self) -> None:
        self._left()
        self._server.watch(self, _LINGER_SECONDS)  # for what is not sent yet

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the client has left, for whatever reason
        self.transport = self._parser = self._body = self._request = None  # these refer back to their connection
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._left()
        self.resume_writing()
        self._server.gone(self)

    def pause_writing(self) -> None:
        self.stuffed = True

    def resume_writing(self) -> None:
        self.stuffed = False
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        elif self.task is None and self.transport is not None and not self.transport.is_closing():
            self._next()

    # --- HttpRequestParser calls these ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._muted:
            return
        self._heading = True
        self._limits = self._server.limits
        self._raw, self._target = {}, b""
        self._head_size = self._count = 0
        if self.task is None and not self._queue:
            self._watch_head()

    def on_url(self, url: bytes) -> None:
        if not self._muted:
            self._target += url
            if len(self._target) > self._limits.head_bytes:
                raise self._no(414, f"the request line is longer than {self._limits.head_bytes // 1024} KiB")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._muted:
            return
        self._head_size += len(name) + len(value)
        self._count += 1
        if self._head_size > self._limits.head_bytes:
            raise self._no(431, f"the headers are longer than {self._limits.head_bytes // 1024} KiB")
        if self._count > _HEADERS:
            raise self._no(431, f"there are more than {_HEADERS} headers")
        if not self._heading:
            return  # a trailer
        name = name.lower()
        raw = self._raw
        if name not in raw:
            raw[name] = value
        elif name == b"cookie":
            raw[name] += b"; " + value
        elif name == b"host":
            raise self._no(400, "there are two Host headers")

    def on_headers_complete(self) -> None:
        if self._muted or self._deaf:
            return
        assert self._parser is not None
        self._heading = False
        self._dry = 0
        request = self._made(self._parser)
        self._body = request.content
        self._queue.append(request)
        if self.task is None:
            self._next()

    def on_body(self, data: bytes) -> None:
        self._dry = 0
        if self._deaf:
            return
        if self._skips:
            self._unread += len(data)
            if self._unread > _SKIPPED_BYTES:
                self._close()
        elif self._body is not None:
            self._body.feed(data)

    def on_message_complete(self) -> None:
        self._dry = 0
        if self._upgrade is None and self._body is not None:
            self._body.end()
            self._body = None
            if self._skips and not self._deaf:
                self._skips = False
                self._next()

    # --- what comes -----------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        if len(data) <= _SLICE:
            self._parse(data)
        else:
            view = memoryview(data)
            for at in range(0, len(data), _SLICE):
                if self._deaf:
                    self._extra = True
                    return
                if self._is_full():
                    self._held = data[at:]
                    break
                self._parse(view[at : at + _SLICE])
        if not self._paused and self.transport is not None and not self._deaf and self._is_full():
            self._paused = True
            self.transport.pause_reading()
            if self._looking is None:
                self._looking = self._loop.call_later(_LEFT_SECONDS, self._look)

    def _look(self) -> None:
        """Asks the system whether the client has left: the loop does not see it while nothing is read."""
        self._looking = None
        if not self._paused or self.transport is None or not hasattr(select, "poll"):
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), getattr(select, "POLLRDHUP", 0))
        if poll.poll(0):
            self.abort()
        else:
            self._looking = self._loop.call_later(_LEFT_SECONDS, self._look)

    def _is_full(self) -> bool:
        return len(self._queue) >= _QUEUED or (self._body is not None and self._body.size >= _BODY_BYTES)

    def _parse(self, data: bytes | memoryview) -> None:
        if self._parser is None or self._deaf:
            self._extra = True
            return
        self._dry += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as error:
            self._stay(bytes(data[error.args[0] :]))
            return
        except HttpParserError as error:
            self._refuse(self._bad or _Bad(400, f"this is no HTTP/1.1 request: {error}"))
            return
        # The parser tells of a header, or a trailer, when it is whole: until then its bytes are counted here.
        if self._dry > 2 * self._limits.head_bytes + _SLICE:
            self._refuse(_Bad(431, f"the headers are longer than {self._limits.head_bytes // 1024} KiB"))

    def _stay(self, rest: bytes) -> None:
        """Answers in HTTP/1.1 to a client that would also speak something else (RFC 9110, 7.8).

        The parser takes what follows such a head for the other protocol. A new one reads the body that the head told of.
        """
        framing, self._upgrade = self._upgrade, None
        self._parser = HttpRequestParser(self)
        self._muted = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + (framing or b"") + b"\r\n")
        self._muted = False
        if rest:
            self._parse(rest)

    def _made(self, parser: HttpRequestParser) -> Request:
        raw = self._raw
        version = parser.get_http_version()
        old = version == "1.0"
        if not old and version != "1.1":
            raise self._no(400, f"HTTP/{version} is not spoken here")
        if b"host" not in raw and not old:
            raise self._no(400, "there is no Host header")
        if b"transfer-encoding" in raw and (old or raw[b"transfer-encoding"].strip(b" ").lower() != b"chunked"):
            raise self._no(400, "a body comes as it is, or in chunks; nothing else can be in Transfer-Encoding")
        if b"expect" in raw and raw[b"expect"].strip(b" \t").lower() != b"100-continue":
            raise self._no(417, "only 100-continue can be expected")
        method = parser.get_method().decode("ascii")
        if method == "CONNECT":
            raise self._no(400, "this is no proxy")
        if parser.should_upgrade():
            named = ((name, raw[name]) for name in (b"content-length", b"transfer-encoding") if name in raw)
            self._upgrade = b"".join(b"%b: %b\r\n" % one for one in named)
        return Request(self, method, self._place(), Headers(raw), keep=parser.should_keep_alive(), old=old)

    def _place(self) -> str:
        """The target as path and query."""
        target = self._target.decode("ascii").partition("#")[0]
        if target.startswith("/") or target == "*":
            return target
        # As proxies are asked (RFC 9112, 3.2.2). The host counts that stands there, so it may not be another one.
        try:
            parts = urlsplit(target)
        except ValueError:
            raise self._no(400, "the request line holds no address") from None
        if parts.scheme.lower() not in {"http", "https"} or parts.netloc.lower().encode() != self._raw.get(b"host", b"").strip().lower():
            raise self._no(400, "the request line names another host than the Host header")
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def _no(self, status: int, text: str) -> _Bad:
        self._bad = _Bad(status, text)
        return self._bad

    def _refuse(self, bad: _Bad) -> None:
        """No more is read: nobody knows where the next request would begin."""
        self._deaf = self._extra = True
        self._heading = False
        if self._body is not None:
            self._body.end(InputError(f"the request's body can't be read: {bad.text}"))
            if self._skips:
                self._close()
            return  # its request is answered, and the connection closed
        self._queue.append(bad)
        if self.task is None:
            self._next()

    def _begun(self) -> Request:
        """What is known of a request whose headers have not come, or can't be read."""
        parser = self._parser
        # The parser has a method before it has read one.
        method = parser.get_method().decode("ascii") if parser is not None and self._target else ""
        return Request(self, method, self._target.decode("latin-1"), Headers({}), keep=False, old=False)

    def _left(self) -> None:
        """The client takes no answers any more."""
        self._deaf = True
        self._queue.clear()
        self._held = b""
        if self.task is not None and not self._cancelled:
            self._cancelled = True  # once: what the handler still does about it is let be
            self.task.cancel()

    # --- what goes ------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Begins with the next request that has come whole with its headers."""
        if self._skips:
            return
        if self.stuffed:
            self._server.watch(self, self._limits.idle_seconds)
            return
        if self._queue:
            found = self._queue.popleft()
            if isinstance(found, _Bad):
                self._tell(found)
                return
            self.until = NEVER
            self._request = found
            self.task = self._loop.create_task(self._answered(found))
            if self._paused:
                self.read_on()
        elif self._deaf:
            self._close()
        elif self._heading:
            self._watch_head()
        elif self._server.closing:
            self._close()
        else:
            self._server.watch(self, self._limits.idle_seconds)

    def _watch_head(self) -> None:
        self._server.watch(self, self._limits.head_seconds)

    async def _answered(self, request: Request) -> None:
        try:
            response = await self._server.handler(request)
            self._finish(request, response)
        except asyncio.CancelledError:
            self._broken()
            raise
        except Exception:  # the handler's own mistake: it has told of it, and the client learns no more than that
            if self.transport is None or not self._fault(request):
                self._broken()
                return
        self.task = self._request = None
        if not request.keep or self._server.closing:
            self._close()
        elif request.content.is_eof():
            self._next()
        elif self._deaf:
            self._close()
        else:
            self._skip(request.content)

    def _skip(self, content: Body) -> None:
        """Waits a little for the rest of a body that nobody wanted: the next request begins behind it."""
        self._skips, self._unread = True, 0
        self._server.watch(self, _SKIP_SECONDS)
        content.read_nowait()

    def _finish(self, request: Request, response: StreamResponse) -> None:
        """Sends what is left of the answer."""
        if response.request is not None:
            if not response.ended:
                self.send(request, response, b"", last=True)
            return
        if request.begun:
            raise ConnectionAbortedError("another answer has begun")
        response.request = request
        self.send(request, response, response.body if isinstance(response, Response) else b"", last=True)

    def _fault(self, request: Request) -> bool:
        """Whether the client could be told that something is wrong here."""
        if request.begun:
            return False
        response = _refusal(500, "something went wrong in the service")
        with contextlib.suppress(ConnectionError):
            self._finish(request, response)
        return response.ended

    def _broken(self) -> None:
        """The answer does not become whole, which the client sees by the connection's sudden end."""
        self.task = self._request = None
        if self.transport is not None:
            self.transport.abort()

    def _tell(self, bad: _Bad) -> None:
        """The answer to what is no request."""
        request = Request(self, "GET", "/", Headers({}), keep=False, old=False)
        self._request = request
        with contextlib.suppress(ConnectionError):
            self._finish(request, _refusal(bad.status, bad.text))
        self._server.refused(self._begun(), bad.status, bad.text)
        self._request = None
        self._close()

    def _head(self, request: Request, response: StreamResponse, length: int | None) -> bytes:
        """The status line and the headers. Raises ``ValueError`` for a header that would end before its end."""
        lines = response.lines()
        headers = response.headers
        if "server" not in headers:
            lines.append("server: promptsmith\r\n")
        if length is None and request.old:
            request.keep = False  # its end is the connection's
        elif response.status not in _BODILESS:
            lines.append("transfer-encoding: chunked\r\n" if length is None else f"content-length: {length}\r\n")
        if self._server.closing or not self._can_skip(request):
            request.keep = False
        if not request.keep:
            lines.append("connection: close\r\n")
        elif request.old:
            lines.append("connection: keep-alive\r\n")
        text = "".join(lines)
        if text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text:
            raise ValueError("a header holds a line break or a NUL")
        status = _STATUS.get(response.status) or f"HTTP/1.1 {response.status} \r\n"
        head = f"{status}{self._server.date()}{text}\r\n".encode("utf-8", "surrogateescape")
        request.begun = True
        return head

    def _can_skip(self, request: Request) -> bool:
        """Whether the rest of the body, if there is any, is soon over."""
        content = request.content
        if content.is_eof():
            return True
        return not content.asked and not self._deaf and (request.content_length or 0) - content.total_bytes <= _SKIPPED_BYTES

    def _close(self) -> None:
        """Behind its last answer. A client that still sends is heard out for a while: or else the answer could be lost to it."""
        transport = self.transport
        self._deaf, self._skips = True, False
        if transport is None:
            return
        unread = self._extra or self._body is not None or bool(self._held)
        self._queue.clear()
        self._held = b""
        if unread and transport.can_write_eof() and not transport.is_closing():
            self._server.watch(self, _LINGER_SECONDS)
            transport.write_eof()
            if self._paused:
                self._paused = False
                transport.resume_reading()
        else:
            self._server.watch(self, self._limits.idle_seconds)
            transport.close()


_openai = codec("openai")


def _refusal(status: int, text: str) -> Response:
    body = _openai.write_error(status, text, code="bad_request" if status < 500 else "internal_error")
    return Response(status=status, body=body, headers={"content-type": "application/json"})
