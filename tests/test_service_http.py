"""The HTTP server of a worker, asked by raw sockets under both loops: what it reads, refuses, sends, and when it hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.errors import InputError
from promptsmith.service.http import Headers, Limits, Request, Response, Server, StreamResponse

from .talking import make_certificate, server_side

SECONDS = 20.0
LIMITS = Limits(head_bytes=16 * 1024, head_seconds=SECONDS, idle_seconds=SECONDS)
GET = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def runs(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(SECONDS):
                await main()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(limited())

    return runs


async def echo(request: Request) -> StreamResponse:
    """Says what it was asked."""
    pieces = []
    while piece := await request.content.readany():
        pieces.append(piece)
    said = f"{request.method} {request.path_qs} {dict(request.headers)} ".encode("utf-8", "surrogateescape")
    return Response(body=said + b"".join(pieces), headers={"content-type": "text/plain"})


async def polite(request: Request) -> StreamResponse:
    """The same, with an answer to a body that can't be read."""
    try:
        return await echo(request)
    except InputError:
        return Response(status=400)


@contextlib.asynccontextmanager
async def listening(
    handler: Callable[[Request], Awaitable[StreamResponse]] = echo,
    limits: Limits = LIMITS,
    tls: ssl.SSLContext | None = None,
    refused: Callable[[Request, int, str], None] = lambda request, status, text: None,
) -> AsyncIterator[tuple[Server, int]]:
    made = Server(handler, limits, refused)
    listener = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0, ssl=tls)
    try:
        yield made, listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await made.shutdown(0.0)
        assert made.connections == 0


class Line(NamedTuple):
    """A client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """All that comes until the server closes, or resets."""
        found = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := await self.reader.read(65536):
                found += piece
        return bytes(found)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif "transfer-encoding" in headers:
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        else:
            body = b""
        return int(head[0].split(" ")[1]), headers, body


@contextlib.asynccontextmanager
async def connected(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, limit=2**24)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def asked(run: Run, data: bytes, handler: Callable[[Request], Awaitable[StreamResponse]] = echo, limits: Limits = LIMITS) -> bytes:
    """All that is said to ``data``, whose last answer closes the connection."""
    found = b""

    async def main() -> None:
        nonlocal found
        async with listening(handler, limits) as (_, port), connected(port) as line:
            line.send(data)
            found = await line.rest()

    run(main)
    return found


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def statuses(answer: bytes) -> list[int]:
    return [int(one) for one in re.findall(rb"HTTP/1\.1 (\d\d\d) ", answer)]


# --- what is read -----------------------------------------------------------------------------------------


def test_a_request_has_what_was_sent(run: Run) -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> StreamResponse:
        seen.append(request)
        assert request.content.is_eof()
        assert request.content.read_nowait() == b"abc"
        return Response(body=b"ok")

    asked(
        run,
        b"POST /t%C3%A4sk/a%2Fb?x=1&y=a+b&x=2&z HTTP/1.1\r\nHost: h\r\nX-One:  a \t\r\nx-one: b\r\nX-Bytes: \xff\r\n"
        b'Cookie: s="1"; t=2; =3; s=9; odd\r\ncookie: u=a=b\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc',
        handler,
    )
    [one] = seen
    assert (one.method, one.path, one.query_string) == ("POST", "/täsk/a/b", "x=1&y=a+b&x=2&z")
    assert one.path_qs == "/t%C3%A4sk/a%2Fb?x=1&y=a+b&x=2&z"
    assert one.query == {"x": "1", "y": "a b", "z": ""}
    assert one.headers["x-ONE"] == one.headers.get("X-one") == "a"
    assert one.headers["x-bytes"] == "\udcff"
    assert one.headers.get("nothing") is None
    assert one.headers.get("nothing", "") == ""
    assert "X-One" in one.headers
    assert "none" not in one.headers
    assert 3 not in one.headers
    assert "host" in set(one.headers)
    assert len(one.headers) == 6
    assert one.cookies == {"s": "1", "t": "2", "u": "a=b"}
    assert (one.content_length, one.content.total_bytes) == (3, 3)
    assert one.transport is None


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"//a", "//a"),
        (b"/a#b?c", "/a"),
        (b"/%", "/%"),
        (b"/%ff", "/\ufffd"),
        (b"*", "*"),
        (b"http://h/b?c", "/b"),
        (b"http://H", "/"),
    ],
)
def test_a_path_is_what_the_address_names(run: Run, target: bytes, path: str) -> None:
    async def handler(request: Request) -> StreamResponse:
        return Response(body=request.path.encode())

    answer = asked(run, b"OPTIONS " + target + b" HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n", handler)
    assert statuses(answer) == [200]
    assert answer.endswith(b"\r\n\r\n" + path.encode())


REQUESTS = (
    b"\r\nGET /one?a=b HTTP/1.1\r\nhost: h\r\nEmpty:\r\nname: value\r\n\r\n",
    b"POST /two HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello",
    b"POST /three HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\ntrailer: x\r\n\r\n",
    b"POST /four HTTP/1.1\r\nhost: h\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 4\r\n\r\nbody",
    b"POST /five HTTP/1.1\r\nhost: h\r\nupgrade: h2c\r\nconnection: upgrade\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    b"GET /six HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    LAST,
)


class Held(asyncio.Transport):
    """A transport that keeps what is written: for requests split anyhow, without a network that joins them again."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.ended = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def spoken(pieces: Sequence[bytes]) -> bytes:
    """What is answered to ``pieces``, less the date."""

    async def main() -> bytes:
        connection = Server(polite, LIMITS)()
        transport = Held()
        connection.connection_made(transport)
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        await until(lambda: transport.closed or transport.ended)
        connection.connection_lost(None)
        return transport.written

    return re.sub(rb"date: [^\r]*", b"", asyncio.run(main()))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_split_of_the_bytes_gives_the_same_requests(data: st.DataObject) -> None:
    whole = b"".join(REQUESTS)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=40)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    answer = spoken(pieces)
    assert answer == spoken([whole])
    assert statuses(answer) == [200] * len(REQUESTS)


def test_each_of_these_requests_is_what_it_says() -> None:
    answer = spoken([bytes([one]) for one in b"".join(REQUESTS)])
    said = re.findall(rb"(\w+) (/\S*) \{.*?\} (\w*)", answer)
    assert said == [
        (b"GET", b"/one?a=b", b"HTTP"),
        (b"POST", b"/two", b"helloHTTP"),
        (b"POST", b"/three", b"abcdeHTTP"),
        (b"POST", b"/four", b"bodyHTTP"),
        (b"POST", b"/five", b"aHTTP"),
        (b"GET", b"/six", b"HTTP"),
        (b"GET", b"/last", b""),
    ]
    assert b"'empty': '', 'name': 'value'" in answer


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 20))
def test_no_bytes_are_a_fault(noise: bytes, at: int, cut: int) -> None:
    """Bytes put into good requests: answers and refusals, and an end."""
    whole = b"".join(REQUESTS)
    answer = spoken([whole[:at] + noise + whole[at + cut :], LAST, b"\x00"])
    assert set(statuses(answer)) <= {200, 400, 414, 417, 431}


# --- what is refused --------------------------------------------------------------------------------------

HEAD = b"POST /a HTTP/1.1\r\nhost: h\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcde", 400),
        (HEAD + b"content-length: 5\r\ncontent-length: 5\r\n\r\nabcde", 400),
        (HEAD + b"content-length: 5, 5\r\n\r\nabcde", 400),
        (HEAD + b"content-length: -5\r\n\r\nabcde", 400),
        (HEAD + b"content-length: +5\r\n\r\nabcde", 400),
        (HEAD + b"content-length: 0x5\r\n\r\nabcde", 400),
        (HEAD + b"content-length: \r\n\r\n", 400),
        (HEAD + b"content-length: 99999999999999999999\r\n\r\n", 400),
        (HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"transfer-encoding: identity\r\n\r\n", 400),
        (HEAD + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /a HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"a: b\r\n c\r\n\r\n", 400),
        (HEAD + b" a: b\r\n\r\n", 400),
        (HEAD + b"a b: c\r\n\r\n", 400),
        (HEAD + b"a\x00: c\r\n\r\n", 400),
        (HEAD + b"a(: c\r\n\r\n", 400),
        (HEAD + b": c\r\n\r\n", 400),
        (HEAD + b"a: b\x00\r\n\r\n", 400),
        (HEAD + b"a: b\x01\r\n\r\n", 400),
        (HEAD + b"a: b\rc: d\r\n\r\n", 400),
        (HEAD + b"a: b\nc: d\r\n\r\n", 400),
        (HEAD + b"host: h\r\n\r\n", 400),
        (HEAD + b"expect: 200-ok\r\n\r\n", 417),
        (b"GET /a HTTP/1.1\r\n\r\n", 400),
        (b"GET /a HTTP/0.9\r\nhost: h\r\n\r\n", 400),
        (b"GET /a HTTP/2.0\r\nhost: h\r\n\r\n", 400),
        (b"GET /a HTTP/1.2\r\nhost: h\r\n\r\n", 400),
        (b"GET /a\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT h:443 HTTP/1.1\r\nhost: h\r\n\r\n", 400),
        (b"BREW /a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
        (b"get /a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nhost: h\r\n\r\n", 400),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nhost: h\r\n\r\n", 400),
        (b"GET http://other/ HTTP/1.1\r\nhost: h\r\n\r\n", 400),
        (b"GET ftp://h/ HTTP/1.1\r\nhost: h\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nhost: h\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /" + b"a" * 16 * 1024 + b" HTTP/1.1\r\nhost: h\r\n\r\n", 414),
        (b"GET /" + b"a" * 300_000, 414),
        (HEAD + b"a: " + b"b" * 16 * 1024 + b"\r\n\r\n", 431),
        (HEAD + b"a" * 300_000, 431),
        (HEAD + b"a: " + b"b" * 300_000, 431),
        (HEAD + b"a: b\r\n" * 128 + b"\r\n", 431),
        (HEAD + b"a: b\r\n" * 50_000 + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused_and_closes_the_connection(run: Run, data: bytes, status: int) -> None:
    """Nothing behind it is taken for a request, and what came before it is answered first."""
    answer = asked(run, GET + data + GET)
    assert statuses(answer) == [200, status]
    head, _, body = answer.partition(b"HTTP/1.1 %d " % status)[2].partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"content-type: application/json" in head
    assert re.match(rb'\{"error":\{"message":"[^"]', body)


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (HEAD + b"a: " + b"b" * 16 * 1024 + b"\r\n\r\n", ("POST", "/a", 431)),
        (b"POST /b?key=1 HTTP/1.1\r\nho st: h\r\n\r\n", ("POST", "/b", 400)),
        (b"PUT /c%20d HTTP/1.1\r\n\r\n", ("PUT", "/c d", 400)),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nhost: h\r\n\r\n", ("", "", 400)),
        (b"BREW /a HTTP/1.1\r\nhost: h\r\n\r\n", ("", "", 400)),
        (b"\x16\x03\x01\x02\x00\x01", ("", "", 400)),
        (b"POST /slow HTTP/1.1\r\nhost: h\r\n", ("POST", "/slow", 408)),
        (b"PO", ("", "", 408)),
        (b"", None),
    ],
)
@pytest.mark.parametrize("second", [False, True])
def test_what_no_handler_sees_is_told(run: Run, data: bytes, known: tuple[str, str, int] | None, second: bool) -> None:
    """With what is known of it. A connection that was only quiet is no request."""
    told: list[tuple[str, str, int]] = []

    def refused(request: Request, status: int, text: str) -> None:
        assert text
        told.append((request.method, request.path, status))

    async def main() -> None:
        limits = LIMITS._replace(head_seconds=0.2, idle_seconds=0.2)
        async with listening(limits=limits, refused=refused) as (_, port), connected(port) as line:
            if second:
                line.send(GET.replace(b"GET", b"PATCH"))
                await line.answer()
            line.send(data)
            await line.rest()

    run(main)
    assert told == ([known] if known else [])


def test_other_limits_hold_from_the_next_request_on(run: Run) -> None:
    large = HEAD + b"a: " + b"b" * 6000 + b"\r\n\r\n"

    async def main() -> None:
        async with listening(limits=LIMITS._replace(head_bytes=4096)) as (server, port), connected(port) as old:
            old.send(GET)
            assert (await old.answer())[0] == 200
            async with connected(port) as line:
                line.send(large)
                assert (await line.answer())[0] == 431
            server.limits = LIMITS
            async with connected(port) as line:
                for one in (line, old):
                    one.send(large)
                    assert (await one.answer())[0] == 200

    run(main)


def test_a_head_may_be_as_long_as_the_limits_say(run: Run) -> None:
    value = b"v" * (16 * 1024 - len(b"hosthconnectionclose") - 1)
    path = b"/" + b"p" * (16 * 1024 - 1)
    assert statuses(asked(run, b"GET " + path + b" HTTP/1.1\r\nhost: h\r\nconnection: close\r\nv: " + value + b"\r\n\r\n")) == [200]
    many = b"".join(b"n%d: 1\r\n" % number for number in range(126))
    assert statuses(asked(run, b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n" + many + b"\r\n")) == [200]


@pytest.mark.parametrize("rest", [b"t: " + b"a" * 300_000, b"t: a\r\n" * 200 + b"\r\n"])
def test_trailers_are_bounded_as_headers_are(run: Run, rest: bytes) -> None:
    said: list[str] = []

    async def handler(request: Request) -> StreamResponse:
        try:
            return await echo(request)
        except InputError as error:
            said.append(error.message)
            return Response(status=400)

    answer = asked(run, HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n" + rest, handler)
    assert statuses(answer) == [400]
    assert "headers" in said[0]


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"3\r\nabcX", b"3 \r\nabc\r\n", b"3\nabc\r\n", b"f" * 40 + b"\r\n", b"3;a\nb\r\nabc\r\n"])
def test_a_body_that_breaks_its_framing_is_told_to_its_handler(run: Run, chunk: bytes) -> None:
    said: list[str] = []

    async def handler(request: Request) -> StreamResponse:
        with contextlib.suppress(InputError):
            return await echo(request)
        said.append("broken")
        return Response(status=400)

    answer = asked(run, HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n" + chunk + b"0\r\n\r\n" + GET, handler)
    assert statuses(answer) == [400]
    assert b"connection: close" in answer
    assert said == ["broken"]


# --- answers ----------------------------------------------------------------------------------------------


def test_an_answer_has_date_server_and_length(run: Run) -> None:
    async def handler(_: Request) -> StreamResponse:
        response = Response(status=404, body=b"abc", headers={"x-a": "ä"})
        response.headers.update({"x-b": "c"})
        assert not response.prepared
        return response

    answer = asked(run, LAST, handler)
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert status == "HTTP/1.1 404 Not Found"
    date = datetime.strptime(headers.pop("date"), "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - date).total_seconds()) < 60
    assert headers == {"x-a": "ä", "x-b": "c", "server": "promptsmith", "content-length": "3", "connection": "close"}
    assert body == b"abc"


def streamed(*pieces: bytes, last: bytes = b"") -> Callable[[Request], Awaitable[StreamResponse]]:
    async def handler(request: Request) -> StreamResponse:
        response = StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        assert response.prepared
        for piece in pieces:
            await response.write(piece)
        await response.write_eof(last)
        return response

    return handler


def test_a_stream_goes_out_in_chunks(run: Run) -> None:
    answer = asked(run, LAST, streamed(b"a", b"", b"b" * 17, last=b"end"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert b"content-length" not in head
    assert body == b"1\r\na\r\n11\r\n" + b"b" * 17 + b"\r\n3\r\nend\r\n0\r\n\r\n"
    assert asked(run, LAST, streamed(b"a")).endswith(b"\r\n\r\n1\r\na\r\n0\r\n\r\n")
    assert asked(run, LAST, streamed(last=b"all")).endswith(b"\r\n\r\n3\r\nall\r\n0\r\n\r\n")
    assert asked(run, LAST, streamed()).endswith(b"\r\n\r\n0\r\n\r\n")


def test_an_answer_takes_as_few_writes_as_it_can() -> None:
    """The head of a stream goes with its first piece, and its end with the last one."""

    class Counting(Held):
        writes = 0

        def write(self, data: Any) -> None:
            super().write(data)
            self.writes += 1

    async def main() -> None:
        for handler, writes in (
            (echo, 1),
            (streamed(last=b"all"), 1),
            (streamed(b"a", b"b", last=b"c"), 3),
            (streamed(b"a" * 100_000, last=b"c"), 3),
        ):
            connection, transport = Server(handler, LIMITS)(), Counting()
            connection.connection_made(transport)
            connection.data_received(LAST)
            await until(lambda: transport.closed)  # noqa: B023 - it is over before the next one is made
            assert transport.writes == writes
            connection.connection_lost(None)

    asyncio.run(main())


def test_a_stream_that_is_not_ended_is_ended_behind_its_handler(run: Run) -> None:
    async def handler(request: Request) -> StreamResponse:
        response = StreamResponse()
        await response.prepare(request)
        await response.write(b"a")
        return response

    assert asked(run, LAST, handler).endswith(b"\r\n\r\n1\r\na\r\n0\r\n\r\n")


@pytest.mark.parametrize("handler", [echo, streamed(b"a", last=b"b"), streamed(last=b"a")])
def test_head_has_no_body(run: Run, handler: Callable[[Request], Awaitable[StreamResponse]]) -> None:
    answer = asked(run, b"HEAD /a HTTP/1.1\r\nhost: h\r\n\r\n" + LAST.replace(b"GET", b"HEAD"), handler)
    assert statuses(answer) == [200, 200]
    assert answer.count(b"\r\n\r\n") == 2
    assert answer.endswith(b"\r\n\r\n")
    if handler is echo:
        assert int(re.findall(rb"content-length: (\d+)", answer)[0]) > 20


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_never_have_a_body(run: Run, status: int) -> None:
    async def handler(_: Request) -> StreamResponse:
        return Response(status=status)

    answer = asked(run, GET + LAST, handler)
    assert statuses(answer) == [status, status]
    assert b"content-length" not in answer
    assert answer.endswith(b"\r\n\r\n")


def test_http_1_0(run: Run) -> None:
    """Closes unless asked not to; a stream ends with the connection."""
    assert asked(run, b"GET /a HTTP/1.0\r\n\r\n").count(b"connection: close") == 1
    kept = b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
    answer = asked(run, kept + b"GET /b HTTP/1.0\r\n\r\n")
    assert statuses(answer) == [200, 200]
    assert (answer.count(b"connection: keep-alive"), answer.count(b"connection: close")) == (1, 1)
    answer = asked(run, kept, streamed(b"a", b"b", last=b"c"))
    assert b"chunked" not in answer
    assert b"connection: close" in answer
    assert answer.endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb: c", "a\rb", "a\x00b", "\ud800"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_header_that_holds_a_line_break_is_not_sent(run: Run, value: str, stream: bool) -> None:
    async def handler(request: Request) -> StreamResponse:
        response = StreamResponse(headers={"x-a": value}) if stream else Response(headers={"x-a": value})
        if stream:
            await response.prepare(request)
            await response.write(b"a")
        return response

    answer = asked(run, LAST, handler)
    assert statuses(answer) == [500]
    assert b"x-a" not in answer


def test_cookies(run: Run) -> None:
    async def handler(_: Request) -> StreamResponse:
        response = Response(status=303, headers={"location": "/"})
        response.set_cookie("s", "a b", max_age=60, path="/", httponly=True, samesite="Strict", secure=True)
        response.del_cookie("t", path="/", httponly=True, samesite="Strict", secure=False)
        return response

    first, second = sorted(re.findall(r"set-cookie: ([^\r]*)", asked(run, LAST, handler).decode()))
    assert set(first.split("; ")) == {'s="a b"', "Max-Age=60", "Path=/", "HttpOnly", "SameSite=Strict", "Secure"}
    deleted = {'t=""', "Max-Age=0", "Path=/", "HttpOnly", "SameSite=Strict", "expires=Thu, 01 Jan 1970 00:00:00 GMT"}
    assert set(second.split("; ")) == deleted


def test_a_mistake_is_told_without_its_words(run: Run) -> None:
    async def handler(request: Request) -> StreamResponse:
        if request.path == "/last":
            return Response(body=b"well")
        raise RuntimeError("secret")

    answer = asked(run, GET + LAST, handler)
    assert statuses(answer) == [500, 200]
    assert b"secret" not in answer
    assert b"Traceback" not in answer


def test_a_mistake_in_the_middle_of_a_stream_does_not_look_like_its_end(run: Run) -> None:
    async def handler(request: Request) -> StreamResponse:
        response = StreamResponse()
        await response.prepare(request)
        await response.write(b"a")
        await asyncio.sleep(0.05)
        if request.path == "/a":
            raise RuntimeError("secret")
        return Response(body=b"another")

    for request in (GET, LAST):
        answer = asked(run, request, handler)
        assert statuses(answer) in ([200], [])
        assert b"0\r\n\r\n" not in answer


# --- connections ------------------------------------------------------------------------------------------


def test_requests_of_one_connection_are_answered_one_after_the_other(run: Run) -> None:
    now = most = 0

    async def handler(request: Request) -> StreamResponse:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return Response(body=request.path.encode())

    requests = b"".join(b"GET /%d HTTP/1.1\r\nhost: h\r\n\r\n" % number for number in range(300))
    answer = asked(run, requests + LAST, handler)
    assert re.findall(rb"\r\n\r\n/(\d+|last)", answer) == [b"%d" % number for number in range(300)] + [b"last"]
    assert most == 1


def test_a_client_that_sends_ahead_is_not_read_for_ever(run: Run) -> None:
    """However many requests it sends, few of them are kept, and all are answered in the end."""
    count = 30_000
    release = asyncio.Event()
    answered = 0

    async def handler(_: Request) -> StreamResponse:
        nonlocal answered
        await release.wait()
        answered += 1
        return Response(body=b"x")

    async def main() -> None:
        async with listening(handler) as (_, port), connected(port) as line:
            line.send(GET * count)
            await asyncio.sleep(0.1)
            assert sum(isinstance(one, Request) for one in gc.get_objects()) < 2000
            release.set()
            for _ in range(count):
                status, _, _ = await line.answer()
                assert status == 200
        assert answered == count

    run(main)


def test_a_connection_is_used_again(run: Run) -> None:
    async def main() -> None:
        async with listening() as (server, port), connected(port) as line:
            for number in range(20):
                line.send(b"POST /%d HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nb" % number)
                status, headers, body = await line.answer()
                assert (status, body[-2:]) == (200, b" b")
                assert "connection" not in headers
                assert server.connections == 1
        await until(lambda: server.connections == 0)

    run(main)


def test_a_quiet_connection_is_closed(run: Run) -> None:
    async def main() -> None:
        limits = LIMITS._replace(idle_seconds=0.2)
        async with listening(limits=limits) as (server, port), connected(port) as line:
            line.send(GET)
            assert (await line.answer())[0] == 200
            assert await line.rest() == b""
            await until(lambda: server.connections == 0)

    run(main)


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"G", b"GET /a HTTP/1.1\r\nhost: h\r\nx: "])
@pytest.mark.parametrize("second", [False, True])
def test_a_head_that_does_not_come_ends_the_connection(run: Run, begun: bytes, second: bool) -> None:
    """However it drips; the first on a connection and a later one, which may only be begun with late."""

    async def main() -> None:
        limits = LIMITS._replace(head_seconds=0.3, idle_seconds=0.3 if begun in {b"", b"\r\n"} else SECONDS)
        async with listening(limits=limits) as (_, port), connected(port) as line:
            if second:
                line.send(GET)
                await line.answer()
            line.send(begun)
            reading = asyncio.ensure_future(line.rest())
            while not reading.done():
                with contextlib.suppress(ConnectionError):
                    line.send(begun[-1:].replace(b" ", b"a").replace(b"G", b"") if begun != b"\r\n" else b"")
                await asyncio.sleep(0.02)
            assert await reading == b""

    run(main)


def test_a_slow_handler_is_no_quiet_connection(run: Run) -> None:
    async def handler(_: Request) -> StreamResponse:
        await asyncio.sleep(0.5)
        return Response(body=b"late")

    limits = LIMITS._replace(head_seconds=0.1, idle_seconds=0.1)
    assert asked(run, LAST, handler, limits).endswith(b"late")


def test_a_client_that_leaves_ends_its_request_at_once(run: Run) -> None:
    """By closing, by resetting, or by closing its side; and those that it sent ahead are not begun with."""

    async def main() -> None:
        begun: list[str] = []
        ended: list[str] = []

        async def handler(request: Request) -> StreamResponse:
            begun.append(request.path)
            try:
                await asyncio.sleep(SECONDS)
            except asyncio.CancelledError:
                ended.append(request.path)
                await asyncio.sleep(0.01)  # what it has to put right is let be
                ended.append("put right")
                raise
            return Response()

        leave: list[Callable[[Line], None]] = [
            lambda line: line.writer.close(),
            lambda line: line.writer.transport.abort(),
            lambda line: line.writer.write_eof(),
        ]
        async with listening(handler) as (server, port):
            for leaves in leave:
                begun.clear()
                ended.clear()
                async with connected(port) as line:
                    line.send(GET + LAST)
                    await until(lambda: begun == ["/a"])
                    leaves(line)
                    await until(lambda: ended == ["/a", "put right"])
                await until(lambda: server.connections == 0)
                assert begun == ["/a"]

    run(main)


def test_a_stream_to_nobody_is_an_error_of_the_connection(run: Run) -> None:
    async def main() -> None:
        caught: list[BaseException] = []

        async def handler(request: Request) -> StreamResponse:
            response = StreamResponse()
            await response.prepare(request)
            try:
                while True:
                    await response.write(b"x" * 1000)
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(0.005)
            except OSError as error:
                caught.append(error)
                raise

        async with listening(handler) as (server, port):
            async with connected(port) as line:
                line.send(GET)
                await line.reader.readuntil(b"xxx")
                line.writer.transport.abort()
            await until(lambda: bool(caught) and server.connections == 0)
            assert isinstance(caught[0], ConnectionResetError)

    run(main)


def test_a_body_is_read_no_faster_than_it_is_taken(run: Run) -> None:
    async def main() -> None:
        size, most = 20_000_000, 0
        release = asyncio.Event()

        async def handler(request: Request) -> StreamResponse:
            nonlocal most
            await release.wait()
            got = 0
            while piece := await request.content.readany():
                most = max(most, len(piece))
                got += len(piece)
            return Response(body=b"%d" % got)

        async with listening(handler) as (_, port), connected(port) as line:
            line.send(b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % size)
            line.send(b"b" * size)
            await asyncio.sleep(0.2)
            assert line.writer.transport.get_write_buffer_size() > 0  # it had to stop
            release.set()
            assert (await line.answer())[2] == b"%d" % size
            assert most < 1_000_000

    run(main)


def test_a_stream_is_made_no_faster_than_it_is_taken(run: Run) -> None:
    async def main() -> None:
        sent = 0
        count, piece = 400, b"x" * 65536

        async def handler(request: Request) -> StreamResponse:
            nonlocal sent
            response = StreamResponse()
            await response.prepare(request)
            for _ in range(count):
                await response.write(piece)
                sent += 1
            await response.write_eof()
            return response

        async with listening(handler) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65536)
            writer.write(LAST)
            await asyncio.sleep(0.3)
            assert 0 < sent < count
            body = (await Line(reader, writer).rest()).partition(b"\r\n\r\n")[2]
            assert body.count(b"x") == count * len(piece)
            assert sent == count
            writer.close()

    run(main)


def test_a_client_that_does_not_take_its_answer_is_cut_off(run: Run) -> None:
    async def main() -> None:
        async def handler(_: Request) -> StreamResponse:
            return Response(body=b"x" * 30_000_000)

        async with listening(handler, LIMITS._replace(idle_seconds=0.3)) as (server, port):
            for request in (GET, LAST):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
                writer.write(request)
                await reader.readuntil(b"\r\n")
                await until(lambda: server.connections == 0)
                writer.close()

    run(main)


def test_a_client_that_waits_to_be_let_on_is_told_once_somebody_reads(run: Run) -> None:
    async def main() -> None:
        async def handler(request: Request) -> StreamResponse:
            return Response(status=413) if request.path == "/large" else await echo(request)

        async with listening(handler) as (_, port):
            async with connected(port) as line:
                line.send(b"POST /a HTTP/1.1\r\nhost: h\r\nexpect: 100-Continue\r\ncontent-length: 3\r\n\r\n")
                assert await line.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                line.send(b"abc")
                assert (await line.answer())[2].endswith(b" abc")
                line.send(b"POST /a HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc")
                assert (await line.answer())[0] == 200  # it came already
            async with connected(port) as line:
                line.send(b"POST /large HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
                status, headers, _ = await line.answer()
                assert (status, headers["connection"]) == (413, "close")
                assert await line.rest() == b""

    run(main)


def test_a_body_that_nobody_reads_does_not_cost_the_client_its_answer(run: Run) -> None:
    """It goes on sending for a while, and reads the refusal all the same."""

    async def handler(_: Request) -> StreamResponse:
        return Response(status=413, body=b"too large")

    answer = asked(run, b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 3000000\r\n\r\n" + b"b" * 3_000_000 + GET, handler)
    assert statuses(answer) == [413]
    assert b"connection: close" in answer
    assert answer.endswith(b"too large")


@pytest.mark.parametrize("ends", [True, False])
def test_a_short_body_that_nobody_wanted_is_skipped(run: Run, ends: bool) -> None:
    """It may come behind its answer; one that does not end costs the connection."""

    async def main() -> None:
        async def handler(request: Request) -> StreamResponse:
            return Response(status=401, body=request.path.encode())

        async with listening(handler) as (server, port):
            for framing, body in ((b"content-length: 60000", b"b" * 60000), (b"transfer-encoding: chunked", b"1\r\na\r\n0\r\n\r\n")):
                async with connected(port) as line:
                    for number in range(3):
                        line.send(b"POST /%d HTTP/1.1\r\nhost: h\r\n%b\r\n\r\n" % (number, framing))
                        status, headers, said = await line.answer()
                        assert (status, said, headers.get("connection")) == (401, b"/%d" % number, None)
                        line.send(body if ends else body[:4])
                        if not ends:
                            assert await line.rest() == b""
                            break
                    assert server.connections == ends
            async with connected(port) as line:
                line.send(b"POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
                assert (await line.answer())[0] == 401
                line.send((b"%x\r\n" % 100_000 + b"b" * 100_000 + b"\r\n") if ends else b"zz\r\n")
                line.send(GET)
                assert await line.rest() == b""

    run(main)


def test_a_body_that_came_whole_and_is_not_read_leaves_the_connection_as_it_was(run: Run) -> None:
    async def handler(request: Request) -> StreamResponse:
        return Response(body=request.path.encode())

    hidden = b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(GET) + GET
    assert re.findall(rb"\r\n\r\n(/a|/last)", asked(run, hidden + LAST, handler)) == [b"/a", b"/last"]


# --- the end ----------------------------------------------------------------------------------------------


def test_the_server_ends_when_its_requests_have(run: Run) -> None:
    """Quiet connections are closed at once, busy ones behind their answer, which says so; a head on its way may come."""

    async def main() -> None:
        release = asyncio.Event()

        async def handler(request: Request) -> StreamResponse:
            if request.path == "/a":
                await release.wait()
            return Response(body=b"done")

        async with listening(handler) as (server, port), contextlib.AsyncExitStack() as stack:
            fresh, quiet, busy, begun = [await stack.enter_async_context(connected(port)) for _ in range(4)]
            quiet.send(b"GET /b HTTP/1.1\r\nhost: h\r\n\r\n")
            await quiet.answer()
            busy.send(GET + GET)
            begun.send(GET[:-2])
            await until(lambda: server.connections == 4)
            await asyncio.sleep(0.05)
            server.pre_shutdown()
            assert await fresh.rest() == b""
            assert await quiet.rest() == b""
            release.set()
            assert re.findall(rb"connection: close|done", await busy.rest()) == [b"connection: close", b"done"]
            begun.send(b"\r\n")
            assert re.findall(rb"connection: close|done", await begun.rest()) == [b"connection: close", b"done"]
            await server.shutdown(SECONDS)
            assert server.connections == 0

    run(main)


def test_what_does_not_end_is_ended(run: Run) -> None:
    async def main() -> None:
        cancelled = asyncio.Event()

        async def handler(_: Request) -> StreamResponse:
            try:
                await asyncio.sleep(SECONDS)
            finally:
                cancelled.set()
            return Response()

        async with listening(handler) as (server, port), connected(port) as line:
            line.send(GET)
            await until(lambda: server.connections == 1)
            await asyncio.sleep(0.05)
            await server.shutdown(0.05)
            assert cancelled.is_set()
            assert server.connections == 0
            assert await line.rest() == b""

    run(main)


def test_tls(run: Run, tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    if made is None:
        pytest.skip("there is no openssl to make a certificate with")
    client_side = ssl.create_default_context(cafile=made[0])

    async def main() -> None:
        async with listening(tls=server_side(made)) as (server, port):
            async with connected(port, client_side) as line:
                for _ in range(3):
                    line.send(b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\n" + b"b" * 100_000)
                    status, _, body = await line.answer()
                    assert (status, body.count(b"b")) == (200, 100_000)
                line.send(LAST)
                assert statuses(await line.rest()) == [200]
            async with connected(port, client_side) as line:
                line.send(b"nonsense\r\n\r\n")
                assert statuses(await line.rest()) == [400]
            await until(lambda: server.connections == 0)

    run(main)


def test_headers_are_a_mapping() -> None:
    headers = Headers({b"a": b"1", b"b": b" 2 "})
    assert dict(headers) == {"a": "1", "b": "2"}
    assert repr(headers) == "Headers({'a': '1', 'b': '2'})"
    with pytest.raises(KeyError):
        headers["c"]
