"""One connection that carries one HTTP/1.1 exchange at a time (RFC 9112): bytes of a request out, the parsed answer in."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar, cast, overload

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from .deadlines import NEVER
from .mapping import NotHttp

_HEAD_BYTES = 2**16
_PER_HEADER = 32
"""Counted for each header beside its bytes, as HTTP/2 does (RFC 9113, 6.5.2): so their number is bounded, too."""
_WAITING_BYTES = 2**18
_LINGER_BYTES = 2**16
_ONE_WRITE_BYTES = 2**16
T = TypeVar("T")


class TooLong(Exception):
    """The body is longer than was allowed."""


class Headers(Mapping[str, str]):
    """An answer's headers, to be asked in any case; of several with one name the first counts. Most are never looked at."""

    __slots__ = ("_made", "_raw")

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._made: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        made = self._made
        if made is None:
            made = self._made = {}
            for name, value in self._raw:
                made.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t"))
        return made

    def __getitem__(self, name: str) -> str:
        return self._all()[name.lower()]

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, /, default: T) -> str | T: ...

    def get(self, name: str, /, default: object = None) -> object:  # the Mapping's own raises, and catches
        return self._all().get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"Headers({self._all()!r})"


class Connection(asyncio.Protocol):
    """Idle, or busy with the exchange that :meth:`begin` began and whose owner waits for it to be ``over``.

    ``gone`` is told when the connection has ended, ``lingered`` when an answer that nobody waits for any more is over.
    Whatever the server sends while no request is under way ends the connection: it could only be taken for the answer
    to the next request.
    """

    __slots__ = (
        "_dry",
        "_error",
        "_gone",
        "_head",
        "_keep",
        "_lingered",
        "_lingers",
        "_loop",
        "_most",
        "_parser",
        "_paused",
        "_poll",
        "_raw",
        "_size",
        "_spent",
        "_transport",
        "_waiter",
        "_waiting",
        "_whole",
        "encoding",
        "over",
        "parts",
        "status",
        "until",
    )

    def __init__(self, gone: Callable[[Connection], None], lingered: Callable[[Connection], None]) -> None:
        self._gone, self._lingered = gone, lingered
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._poll: select.poll | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.until = NEVER
        """When, by the loop's clock, what is waited for comes too late; of an idle connection, when it is closed."""
        self.over = True
        """Nothing more is expected: the answer is whole, or will not become so."""
        self._spent = False
        self._clear()

    def _clear(self) -> None:
        self.status = 0
        """Of the answer, when its head has come; 0 before."""
        self.parts: list[bytes] = []
        """Of the body, as they came; whoever takes them calls :meth:`take`."""
        self.encoding = b""
        """The answer's Content-Encoding."""
        self._raw: list[tuple[bytes, bytes]] = []
        self._error: Exception | None = None
        self._head = self._dry = self._size = self._waiting = 0
        self._keep = self._paused = self._lingers = False

    # --- for the owner of the exchange ----------------------------------------------------------------

    def begin(self, head: bytes, body: bytes, *, whole: bool, most: int) -> None:
        """Sends a request. ``whole``: its answer is waited for to the end; of a stream, no more is read than there is room for.

        A body of more than ``most`` bytes is refused.
        """
        self._clear()
        self._whole, self._most = whole, most
        self.over = False
        transport = self._transport
        if transport is None:  # closed since it was made
            self._fail(_lost(None, begun=False))
        elif len(body) > _ONE_WRITE_BYTES:
            transport.write(head)
            transport.write(body)
        else:
            transport.write(head + body)

    def waiting(self) -> asyncio.Future[None]:
        """Done when there is something new; one task waits at a time."""
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def failed(self) -> Exception | None:
        """What ended the exchange before its answer was whole; it is told once."""
        error, self._error = self._error, None
        return error

    @property
    def headers(self) -> Headers:
        return Headers(self._raw)

    def take(self) -> bytes:
        """All that has come of the body since the last time."""
        parts = self.parts
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        self.parts = []
        self._waiting = 0
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()
        return taken

    def linger(self) -> None:
        """Nobody waits for the rest of the answer. If it comes soon and is short, the connection can be used again."""
        self._lingers = True
        self.take()
        self._most = self._size + _LINGER_BYTES

    @property
    def reusable(self) -> bool:
        """The answer was whole, nothing was left over on either side, and the server keeps the connection open."""
        transport = self._transport
        return (
            transport is not None
            and self._keep
            and not self._spent
            and not self._paused
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def is_quiet(self) -> bool:
        """Asks the system itself, for what the loop may not have seen yet: that the server has closed the connection."""
        if self._transport is None or self._transport.is_closing():
            return False
        return self._poll is None or not self._poll.poll(0)

    def abort(self) -> None:
        """Closes the connection at once; what was not sent is dropped, and whoever waits is told."""
        self._spent = True
        self._fail(ConnectionAbortedError("the client closed it"))
        if self._transport is not None:
            self._transport.abort()

    def late(self) -> None:
        """``until`` has passed."""
        self.until = NEVER
        if self.over or self._lingers:
            self.abort()
        else:
            self._fail(TimeoutError())

    # --- asyncio.Protocol -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._parser = parser = HttpResponseParser(self)
        # As aiohttp reads it: servers written by hand end lines without CR, and some pad the sizes of chunks.
        parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self.over:
            self.abort()
            return
        assert self._parser is not None
        self._dry += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._spent = True
            self._fail(_cause(error))
        if self._dry > _HEAD_BYTES:
            self._fail(NotHttp(f"more than {_HEAD_BYTES // 1024} KiB without anything of a body"))
        if self.over or (self.status and not self._whole):
            self._wake()
        if self.over and self._lingers:
            self._lingered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over:
            if exc is None and self.status and self._ends_with_connection():
                self.over = True
            else:
                self._fail(_lost(exc, begun=bool(self._raw or self._dry or self.status)))
            self._wake()
        self._transport = self._parser = self._poll = None  # the parser refers back to its connection
        self._gone(self)

    # --- HttpResponseParser calls these ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.over:
            self._spent = True  # bytes behind the answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        self._head += len(name) + len(value) + _PER_HEADER
        if self._head > _HEAD_BYTES:
            raise NotHttp(f"its headers are longer than {_HEAD_BYTES // 1024} KiB")
        if len(name) == 16 and name.lower() == b"content-encoding":
            self.encoding = value.strip().lower()
        self._raw.append((name, value))

    def on_headers_complete(self) -> None:
        if self.over:
            return
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            self._dry = 0
        elif status == 101:
            raise NotHttp("it changes to another protocol, which nobody asked for")
        else:
            self._raw, self.encoding = [], b""  # 1xx: the answer is still to come

    def on_body(self, data: bytes) -> None:
        if self.over:
            return
        self._dry = 0
        self._size += len(data)
        if self._size > self._most:
            raise TooLong
        if self._lingers:
            return
        self.parts.append(data)
        if not self._whole:
            self._waiting += len(data)
            if self._waiting > _WAITING_BYTES and not self._paused:
                assert self._transport is not None
                self._transport.pause_reading()
                self._paused = True

    def on_message_complete(self) -> None:
        if self.status and not self.over:
            assert self._parser is not None
            self._keep = self._parser.should_keep_alive()
            self.over = True

    # --------------------------------------------------------------------------------------------------

    def _ends_with_connection(self) -> bool:
        """The answer says nothing of its length (RFC 9112, 6.3)."""
        headers = self.headers
        return "content-length" not in headers and "chunked" not in headers.get("transfer-encoding", "").lower()

    def _fail(self, error: Exception) -> None:
        """Unless the answer was whole before."""
        if not self.over:
            self._error = error
            self.over = True
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)


def _cause(error: Exception) -> Exception:
    """What a callback of ours has raised, or else the parser's own words."""
    if isinstance(error, HttpParserCallbackError) and isinstance(error.__context__, NotHttp | TooLong):
        return error.__context__
    if isinstance(error, HttpParserUpgrade):
        return NotHttp("it changes to another protocol, which nobody asked for")
    return NotHttp(str(error))


def _lost(exc: Exception | None, *, begun: bool) -> ConnectionError:
    # Not raised from exc: behind the handshake, an error of TLS is a broken line and no doubt about a certificate.
    where = "in the middle of its answer" if begun else "before it answered"
    return ConnectionResetError(f"closed {where}" if exc is None else f"{where}: {' '.join(str(exc).split()) or type(exc).__name__}")
