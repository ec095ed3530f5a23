"""``models/transport/lean.py``: what is its own. What it shares with ``direct.py`` is tried in ``test_transport_direct.py``."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
import zlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.config import Project
from promptsmith.errors import MalformedReply, ProviderDown
from promptsmith.models.directory import Directory
from promptsmith.models.transport.direct import Direct
from promptsmith.models.transport.exchange import Connection, Headers
from promptsmith.models.transport.lean import Lean
from promptsmith.models.transport.pool import Place, Pool
from tests.talking import CHUNKED, Handler, chunk, http, line, make_certificate, says, server_side

CHAT = "/chat/completions"
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test in each kind of loop: the service's is uvloop's, whose transports have their own ways."""
    if request.param == "asyncio":
        return asyncio.run
    return pytest.importorskip("uvloop").run  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def posted(lean: Lean, *, seconds: float | None = 5) -> bytes:
    return (await lean.post(CHAT, {}, b"{}", timeout=seconds)).data


async def streamed(lean: Lean, *, seconds: float | None = 5) -> bytes:
    async with lean.stream(CHAT, {}, b"{}", timeout=seconds) as answer:
        return b"".join([piece async for piece in answer.pieces])


def pool_of(lean: Lean) -> Pool:
    pool = lean._per_loop.find()
    assert pool is not None
    return pool


def in_turn(*answers: bytes, close: bool = False) -> Handler:
    """One answer after the other, on whatever connection; with ``close`` each one's is closed behind it."""
    rest = list(answers)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(rest.pop(0))
        if close:
            writer.close()

    return answer


# --- however the bytes arrive -------------------------------------------------------------------------


class Sent(asyncio.Transport):
    """The other side of a connection whose bytes a test feeds by hand: it keeps what it was told to do."""

    def __init__(self) -> None:
        super().__init__({"socket": socket.socket()})
        self.data = b""
        self.aborted = self.paused = False

    def write(self, data: Any) -> None:
        self.data += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


WHOLE = {
    "content-length": http(b"hello world", "x-request-id: r1", "Retry-After:  3 "),
    "chunked": CHUNKED + chunk(b"hello") + b"6;name=value\r\n world\r\n" + b"0\r\nx-trailer: 1\r\n\r\n",
    "after 1xx": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + http(b"hello world"),
    "empty": http(b"", status="503 Service Unavailable"),
    "no content": b"HTTP/1.1 204 No Content\r\nx-request-id: r2\r\n\r\n",
    "lines without CR": b"HTTP/1.1 200 OK\ncontent-length: 11\n\nhello world",
    "old": b"HTTP/1.0 200 OK\r\ncontent-length: 11\r\n\r\nhello world",
    "not kept open": http(b"hello world", "connection: close"),
    "to the end of the connection": b"HTTP/1.1 200 OK\r\nx-request-id: r3\r\n\r\nhello world",
}


def _read(pieces: list[bytes], *, whole: bool, end: bool) -> tuple[int, dict[str, str], bytes, bool, bool]:
    """What a connection makes of ``pieces``, and whether it can be used again."""

    async def main() -> tuple[int, dict[str, str], bytes, bool, bool]:
        connection = Connection(lambda _: None, lambda _: None)
        transport = Sent()
        connection.connection_made(transport)
        try:
            connection.begin(b"POST / HTTP/1.1\r\n\r\n", b"", whole=whole, most=100)
            got = b""
            for piece in pieces:
                connection.data_received(piece)
                if not whole:
                    got += connection.take()
            reusable = connection.reusable
            if end:
                connection.connection_lost(None)
            error = connection.failed()
            assert error is None, error
            return connection.status, dict(connection.headers), got + connection.take(), connection.over, reusable
        finally:
            transport.get_extra_info("socket").close()

    return asyncio.run(main())


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(WHOLE)), whole=st.booleans(), data=st.data())
def test_any_split_of_the_bytes_gives_the_same_answer(name: str, whole: bool, data: st.DataObject) -> None:
    answer = WHOLE[name]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1))))
    pieces = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    end = name.startswith("to the end")
    got = _read(pieces, whole=whole, end=end)
    assert got == _read([answer], whole=whole, end=end)
    assert got[0] == (503 if name == "empty" else 204 if name == "no content" else 200)
    assert got[2] == (b"" if name in ("empty", "no content") else b"hello world")
    assert got[3:] == (True, name not in ("old", "not kept open", "to the end of the connection"))
    assert "x-trailer" not in got[1]
    assert "link" not in got[1]
    if name == "content-length":
        assert got[1] == {"content-length": "11", "x-request-id": "r1", "retry-after": "3"}


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(WHOLE)), whole=st.booleans(), data=st.data())
def test_no_bytes_make_a_connection_fall_over(name: str, whole: bool, data: st.DataObject) -> None:
    """An answer with something else in the middle: it is over with an answer or an error, or still waits for more; nothing is raised."""
    answer = WHOLE[name]
    start, end = sorted((data.draw(st.integers(0, len(answer))), data.draw(st.integers(0, len(answer)))))
    sent = answer[:start] + data.draw(st.binary(max_size=20)) + answer[end:]
    cut = data.draw(st.integers(0, len(sent)))

    async def main() -> None:
        connection = Connection(lambda _: None, lambda _: None)
        transport = Sent()
        connection.connection_made(transport)
        try:
            connection.begin(b"POST / HTTP/1.1\r\n\r\n", b"", whole=whole, most=100)
            waiter = connection.waiting()
            connection.data_received(sent[:cut])
            connection.data_received(sent[cut:])
            connection.connection_lost(None)
            assert connection.over
            assert waiter.done()
            assert connection.status or connection.failed() is not None
            assert not connection.reusable
        finally:
            transport.get_extra_info("socket").close()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["content-length", "chunked", "after 1xx", "no content"])
def test_no_beginning_of_an_answer_is_taken_for_an_answer(run: Run, name: str) -> None:
    """The connection closes behind each byte of a valid answer but the last."""
    answer = WHOLE[name]

    async def main() -> None:
        beginnings = [answer[:size] for size in range(len(answer)) for _ in range(2)]
        async with line(in_turn(*beginnings, close=True)) as server:
            lean = Lean(server.url, "openai", provider="acme")
            for _ in range(len(answer)):
                for ask in (posted, streamed):
                    with pytest.raises((ProviderDown, MalformedReply)) as caught:
                        await ask(lean)
                    assert caught.value.provider == "acme"

    run(main())


def test_a_slow_drip_of_bytes_is_an_answer(run: Run) -> None:
    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in WHOLE["chunked"]:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async def main() -> None:
        async with line(drip) as server:
            lean = Lean(server.url, "openai")
            assert await posted(lean) == b"hello world"
            assert await streamed(lean) == b"hello world"
            assert server.opened == 1

    run(main())


@pytest.mark.parametrize("shape", ["content-length", "chunked"])
def test_long_answers(run: Run, shape: str) -> None:
    body = bytes(range(256)) * (5 * 2**12)
    reply = http(body) if shape == "content-length" else CHUNKED + b"".join(chunk(body[at : at + 7001]) for at in range(0, len(body), 7001))
    reply += b"" if shape == "content-length" else chunk(b"")

    async def main() -> None:
        async with line(says(reply)) as server:
            lean = Lean(server.url, "openai")
            assert await posted(lean, seconds=20) == body
            assert await streamed(lean, seconds=20) == body
            assert server.opened == 1

    run(main())


def test_headers_may_be_asked_in_any_case_and_the_first_of_a_name_counts() -> None:
    headers = Headers([(b"X-Request-ID", b"a\xe9"), (b"x-request-id", b"b"), (b"Date", b"now ")])
    assert (headers["x-REQUEST-id"], headers.get("DATE"), headers.get("nothing")) == ("aé", "now", None)
    assert (list(headers), len(headers), "Date" in headers, 7 in headers) == (["x-request-id", "date"], 2, True, False)


# --- what is no HTTP, or too much ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        b"\x16\x03\x01 an answer in TLS\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na header without a colon\r\n\r\n",
        CHUNKED + b"fffffffffffffffff\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 70_000 + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 3000 + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * 400_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
        CHUNKED + chunk(b"x") + b"0\r\n" + b"t: y\r\n" * 80_000,
        CHUNKED + b"1;" + b"x" * 400_000,
    ],
    ids=lambda reply: repr(reply[:40]) + f"… {len(reply)}",
)
def test_bad_framing_is_a_malformed_reply(run: Run, reply: bytes) -> None:
    """The server keeps the connection open: it is the bytes that are refused."""

    async def main() -> None:
        async with line(says(reply)) as server:
            lean = Lean(server.url, "openai", provider="acme")
            for ask in (posted, streamed):
                with pytest.raises(MalformedReply) as caught:
                    await ask(lean)
                assert (caught.value.provider, caught.value.retryable) == ("acme", False)
                await asyncio.wait_for(server.ended.acquire(), 5)

    run(main())


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (http(b"x", "content-encoding: br"), "'br', though we had asked"),
        (http(gzip.compress(b"hello", mtime=0)[:-4], "content-encoding: gzip"), "ends too early"),
        (http(b"hello", "content-encoding: deflate"), "content-encoding is deflate, and it is not"),
    ],
)
def test_what_is_compressed_wrongly_is_refused(run: Run, reply: bytes, words: str) -> None:
    async def main() -> None:
        async with line(says(reply)) as server:
            for ask in (posted, streamed):
                with pytest.raises(MalformedReply, match=words):
                    await ask(Lean(server.url, "openai"))

    run(main())


@pytest.mark.parametrize(
    ("name", "packed"), [("deflate", zlib.compress(b"hello" * 50_000)), ("x-gzip", gzip.compress(b"hello" * 50_000, mtime=0))]
)
def test_what_is_compressed_though_not_asked_is_understood(run: Run, name: str, packed: bytes) -> None:
    async def main() -> None:
        async with line(says(http(packed, f"content-encoding: {name}"))) as server:
            lean = Lean(server.url, "openai")
            assert await posted(lean) == b"hello" * 50_000
            assert await streamed(lean) == b"hello" * 50_000
            assert server.opened == 1

    run(main())


def test_what_broke_off_says_which_answer_it_was(run: Run) -> None:
    async def main() -> None:
        async with line(in_turn(b"HTTP/1.1 200 OK\r\nx-request-id: r7\r\ncontent-length: 9\r\n\r\nhalf", close=True)) as server:
            with pytest.raises(ProviderDown, match="broke the connection off: closed in the middle of its answer") as caught:
                await posted(Lean(server.url, "openai"))
            assert (caught.value.request_id, caught.value.status) == ("r7", 200)

    run(main())


def test_what_came_before_a_stream_broke_off_is_handed_out(run: Run) -> None:
    async def main() -> None:
        async with line(in_turn(CHUNKED + chunk(b"first"), close=True)) as server:
            pieces = []
            async with Lean(server.url, "openai").stream(CHAT, {}, b"{}", timeout=5) as answer:
                with pytest.raises(ProviderDown):
                    async for piece in answer.pieces:
                        pieces.append(piece)
            assert pieces == [b"first"]

    run(main())


# --- connections that are kept ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra", [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong", b"HTTP/1.1 20"], ids=["a byte", "an answer", "half a line"]
)
def test_bytes_behind_an_answer_are_for_nobody(run: Run, extra: bytes) -> None:
    async def main() -> None:
        async with line(in_turn(http(b"one") + extra, http(b"two"))) as server:
            lean = Lean(server.url, "openai")
            assert await posted(lean) == b"one"
            await asyncio.wait_for(server.ended.acquire(), 5)
            assert await posted(lean) == b"two"
            assert server.opened == 2

    run(main())


def test_bytes_on_an_idle_connection_end_it(run: Run) -> None:
    """Such as the 408 of a server that has waited for a request long enough: it is no answer to the next one."""

    async def main() -> None:
        late = asyncio.Event()

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(http(b"fine"))
            if not late.is_set():
                await late.wait()
                writer.write(http(b"too late", status="408 Request Timeout"))

        async with line(answer) as server:
            lean = Lean(server.url, "openai")
            assert await posted(lean) == b"fine"
            late.set()
            await asyncio.wait_for(server.ended.acquire(), 5)
            assert await posted(lean) == b"fine"
            assert server.opened == 2

    run(main())


@pytest.mark.parametrize("name", ["old", "not kept open"])
def test_a_connection_that_the_server_gives_up_is_not_used_again(run: Run, name: str) -> None:
    async def main() -> None:
        async with line(says(WHOLE[name])) as server:
            lean = Lean(server.url, "openai")
            for _ in range(3):
                assert await posted(lean) == b"hello world"
            assert server.opened == 3

    run(main())


def test_an_idle_connection_that_the_server_closes_is_forgotten_at_once(run: Run) -> None:
    async def main() -> None:
        async with line(in_turn(http(b"one"), http(b"two"), close=True)) as server:
            lean = Lean(server.url, "openai")
            assert await posted(lean) == b"one"
            while pool_of(lean)._all:
                await asyncio.sleep(0.001)
            assert not pool_of(lean)._idle
            assert await posted(lean) == b"two"

    run(main())


def test_a_connection_that_was_closed_unseen_is_looked_at_before_it_is_used(run: Run) -> None:
    """The loop is held up while the server closes: only the system knows."""
    listener = socket.create_server(("127.0.0.1", 0))
    closed = threading.Event()

    def serve() -> None:
        for body in (b"one", b"two"):
            there, _ = listener.accept()
            with there:
                while b"\r\n\r\n{}" not in there.recv(65536):
                    pass
                there.sendall(http(body))
                if body == b"one":
                    answered.wait()
        listener.close()

    answered = threading.Event()
    thread = threading.Thread(target=lambda: (serve(), closed.set()), daemon=True)

    async def main() -> None:
        lean = Lean(f"http://127.0.0.1:{listener.getsockname()[1]}", "openai")
        assert await posted(lean) == b"one"
        (connection,) = pool_of(lean)._idle
        assert connection.is_quiet()
        connection.until -= 2  # as if it had been idle for longer
        answered.set()
        while connection.is_quiet():
            pass  # without giving way to the loop
        assert await posted(lean) == b"two"
        await lean.close()

    thread.start()
    run(main())
    thread.join(10)
    assert closed.is_set()


def test_a_request_is_never_sent_twice(run: Run) -> None:
    """The server closes a connection just as the next request comes in: it may have been acted upon, and is paid for."""

    async def main() -> None:
        rest = [http(b"one")]

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(rest.pop()) if rest else writer.close()

        async with line(answer) as server:
            for ask in (posted, streamed):
                rest[:] = [http(b"one")]
                lean = Lean(server.url, "openai")
                assert await ask(lean) == b"one"
                before = server.seen.count(b"POST ")
                with pytest.raises(ProviderDown, match="closed before it answered") as caught:
                    await ask(lean)
                assert caught.value.retryable
                assert server.seen.count(b"POST ") == before + 1
            assert server.opened == 2

    run(main())


def test_the_connection_used_last_is_used_next_and_old_ones_are_closed(run: Run) -> None:
    async def main() -> None:
        async with line(says(http(b"{}"))) as server:
            lean = Lean(server.url, "openai")
            await asyncio.gather(*(posted(lean) for _ in range(4)))
            pool = pool_of(lean)
            assert server.opened == len(pool._idle) == 4
            last = next(reversed(pool._idle))
            await posted(lean)
            assert next(reversed(pool._idle)) is last
            for connection in list(pool._idle)[:3]:
                pool.watch(connection, 0)
            for _ in range(3):
                await asyncio.wait_for(server.ended.acquire(), 5)
            assert list(pool._all) == [last]
            pool.watch(last, 0.01)  # the timer, which has slept for long, is set for the next one
            await asyncio.wait_for(server.ended.acquire(), 5)

    run(main())


def test_an_answer_before_all_of_the_request_was_read_ends_the_connection(run: Run) -> None:
    async def main() -> None:
        async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(http(b"too long", status="413 Content Too Large"))
            with contextlib.suppress(ConnectionError):
                await ended.wait()
            writer.close()

        ended = asyncio.Event()
        server = await asyncio.start_server(early, "127.0.0.1", 0, limit=1024)
        lean = Lean(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "openai")
        answer = await lean.post(CHAT, {}, b"x" * (64 * 2**20), timeout=20)
        assert (answer.status, answer.data) == (413, b"too long")
        assert not pool_of(lean)._idle
        ended.set()
        server.close()

    run(main())


def test_closing_ends_the_calls_under_way(run: Run) -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        async with line(silent) as server:
            lean = Lean(server.url, "openai")
            calls = [asyncio.create_task(ask(lean, seconds=None)) for ask in (posted, streamed)]
            for _ in calls:
                await server.asked.acquire()
            await lean.close()
            for call in calls:
                with pytest.raises(ProviderDown, match="the client closed it"):
                    await asyncio.wait_for(call, 5)
            for _ in calls:
                await asyncio.wait_for(server.ended.acquire(), 5)

    run(main())


def test_headers_that_change_are_sent_as_they_are_now(run: Run) -> None:
    """The encoded head is kept from call to call: not longer than what it was made of is the same."""

    async def main() -> None:
        async with line(says(http(b"{}"))) as server:
            lean = Lean(server.url, "openai")
            headers = {"Authorization": "Bearer old"}
            await lean.post(CHAT, headers, b"{}", timeout=5)
            headers["Authorization"] = "Bearer new"
            await lean.post(CHAT, headers, b"{}", timeout=5)
            await lean.get("/models", {"User-Agent": "mine"}, timeout=5)
            first, second, third = server.seen.split(b"HTTP/1.1\r\n")[1:]
            assert b"Bearer old" in first
            assert b"Bearer new" in second
            assert b"Bearer old" not in second
            assert third.lower().count(b"user-agent: mine") == 1
            assert b"promptsmith/" not in third
            assert b"content-length" not in third
            assert server.seen.count(b"POST /v1/chat/completions ") == 2
            assert b"GET /v1/models " in server.seen

    run(main())


# --- streams ------------------------------------------------------------------------------------------


def test_a_consumer_that_does_not_keep_up_holds_the_server_back(run: Run) -> None:
    size = 32 * 2**20

    async def main() -> None:
        async with line(says(http(b"x" * size))) as server:
            async with Lean(server.url, "openai").stream(CHAT, {}, b"{}", timeout=5) as answer:
                connection = answer.pieces._connection  # type: ignore[attr-defined]
                while not connection._paused:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.05)
                assert sum(map(len, connection.parts)) < 2**20
                got = 0
                async for piece in answer.pieces:
                    got += len(piece)
                    assert len(piece) < 2**20
            assert got == size

    run(main())


def test_a_stream_that_is_whole_but_not_read_leaves_nothing_behind(run: Run) -> None:
    """Not for the next call either: not its bytes, and not a connection that is held back."""

    async def main() -> None:
        async with line(in_turn(http(b"x" * 400_000), http(b"two"))) as server:
            lean = Lean(server.url, "openai")
            async with lean.stream(CHAT, {}, b"{}", timeout=5) as answer:
                connection = answer.pieces._connection  # type: ignore[attr-defined]
                while not connection._paused:
                    await asyncio.sleep(0.001)
            assert await posted(lean) == b"two"

    run(main())


def test_a_stream_left_by_an_error_is_closed_at_once_and_has_no_more_pieces(run: Run) -> None:
    async def begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + chunk(b"first"))
        await writer.drain()
        await reader.read()

    async def main() -> None:
        async with line(begun) as server:
            lean = Lean(server.url, "openai")
            with pytest.raises(KeyError):
                async with lean.stream(CHAT, {}, b"{}", timeout=60) as answer:
                    assert await anext(answer.pieces) == b"first"
                    raise KeyError
            await asyncio.wait_for(server.ended.acquire(), 5)
            assert [piece async for piece in answer.pieces] == []

    run(main())


def test_a_cancelled_stream_reaches_the_server(run: Run) -> None:
    async def begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + chunk(b"first"))
        await writer.drain()
        await reader.read()

    async def main() -> None:
        async with line(begun) as server:
            call = asyncio.create_task(streamed(Lean(server.url, "openai"), seconds=None))
            await server.asked.acquire()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.wait_for(server.ended.acquire(), 5)

    run(main())


def test_whoever_has_seen_the_last_event_need_not_wait_for_the_end_of_the_answer(run: Run) -> None:
    """The connection is used again if the end comes soon; and if the answer goes on instead, it is closed."""

    async def main() -> None:
        left = asyncio.Event()
        ends = [chunk(b""), chunk(b"x" * 100_000) + chunk(b"")]

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(CHUNKED + chunk(b"data: [DONE]"))
            await writer.drain()
            await left.wait()
            left.clear()
            writer.write(ends.pop(0))

        async with line(answer) as server:
            lean = Lean(server.url, "openai")
            for _ in range(2):
                async with lean.stream(CHAT, {}, b"{}", timeout=5) as streamed:
                    assert await anext(streamed.pieces) == b"data: [DONE]"
                left.set()
                while any(not connection.over for connection in pool_of(lean)._all):
                    await asyncio.sleep(0.001)
            assert server.opened == 1
            await asyncio.wait_for(server.ended.acquire(), 5)
            assert not pool_of(lean)._idle

    run(main())


# --- the way there ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://h/v1", Place("h", 80, False, "h", "/v1")),
        ("http://h:80/v1", Place("h", 80, False, "h", "/v1")),
        ("https://H:8443/a b%20c", Place("h", 8443, True, "h:8443", "/a%20b%20c")),
        ("http://[::1]:8000/v1", Place("::1", 8000, False, "[::1]:8000", "/v1")),
        ("https://bücher.example", Place("xn--bcher-kva.example", 443, True, "xn--bcher-kva.example", "")),
    ],
)
def test_where_a_base_url_is(url: str, place: Place) -> None:
    assert Place.of(url) == place


def test_tls_and_its_name(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path)
    if certificate is None:
        pytest.skip("there is no openssl to make a certificate with")

    async def main() -> None:
        async with line(says(http(b"{}")), server_side(certificate)) as server:
            with pytest.raises(ProviderDown, match="not trusted"):
                await posted(Lean(server.url, "openai"))
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
            lean = Lean(server.url, "openai")
            assert [await posted(lean), await streamed(lean), await posted(lean)] == [b"{}"] * 3
            assert server.opened == 1
            with pytest.raises(ProviderDown, match="not trusted"):  # the certificate is for 127.0.0.1 alone
                await posted(Lean(server.url.replace("127.0.0.1", "localhost"), "openai"))
            await lean.close()

    run(main())


def test_a_server_that_takes_no_connection_in_time(run: Run) -> None:
    """A full backlog: the system neither refuses nor accepts."""

    async def main() -> None:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            address = deaf.getsockname()
            waiting = []
            try:
                for _ in range(8):
                    one = socket.socket()
                    one.setblocking(False)
                    one.connect_ex(address)
                    waiting.append(one)
                with pytest.raises(ProviderDown, match="could not be connected to in time") as caught:
                    await posted(Lean(f"http://127.0.0.1:{address[1]}", "openai"), seconds=0.2)
                assert not caught.value.counted
            finally:
                for one in waiting:
                    one.close()

    run(main())


def test_a_server_calls_over_it_where_no_proxy_is_on_the_way(make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(config='[endpoints.local]\nprotocol = "openai"\nbase_url = "http://llm.example:1/v1"\n')

    def carrier(*, lean: bool) -> object:
        directory = Directory(project, lean=lean)
        directory.model("local/m")
        (made,) = directory._transports.values()
        return made

    assert isinstance(carrier(lean=True), Lean)
    assert isinstance(carrier(lean=False), Direct)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert isinstance(carrier(lean=True), Direct)
    monkeypatch.setenv("NO_PROXY", "llm.example")
    assert isinstance(carrier(lean=True), Lean)
