"""Faults of the two HTTP/1.1 implementations, the service's server and its client to providers, each as it was found."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptsmith.errors import MalformedReply
from promptsmith.models.transport.lean import Lean
from promptsmith.service import http
from promptsmith.service.http import Request, Response, StreamResponse

from .provider import Provider, constant
from .serving import SECONDS, Canned, Say, Serving, eventually, made, project_at, serving, settings_of
from .talking import CHUNKED, chunk, line, says
from .talking import http as answer_of
from .test_service_http import HEAD, LAST, Run, connected, listening, run, statuses, until
from .test_transport_lean import CHAT, no_proxy_from_outside, pool_of, posted, streamed

__all__ = ["no_proxy_from_outside", "run"]  # fixtures

REFUSAL = {"message": "no", "type": "x"}


# --- what a provider says, on its way into our own headers --------------------------------------------------


@pytest.fixture(scope="module")
def canned() -> Iterator[Canned]:
    with Canned() as running:
        yield running


@pytest.fixture(scope="module")
def service(canned: Canned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Each test has a model of its own: a 429 holds up the calls of one model that come after it."""
    prompts = [made(f"task-{name}", f"canned/{name}") for name in "abcde"]
    with Provider(constant("Fine.")) as provider:
        project = project_at(
            tmp_path_factory.mktemp("faults"), settings_of(provider, canned=canned.url), *prompts, made("task-m", "canned-a/m")
        )
        with serving(project) as running:
            yield running


IDS = {"a cookie": "a\r\nset-cookie: x=y", "a line": "a\nb", "nul": "a\0b", "half a character": "a\ud800b", "too long": "a" * 200_000}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "messages"])
@pytest.mark.parametrize("said", IDS.values(), ids=IDS)
def test_an_id_in_the_body_of_a_providers_error_does_not_hide_the_error(
    service: Serving, canned: Canned, said: str, api: str, stream: bool
) -> None:
    """It becomes x-request-id, where no header gave another; the status and words of the error are what the client needs."""
    canned.says = [Say([json.dumps({"error": REFUSAL, "request_id": said}).encode()], 400)]
    answer = service.chat("task-a", stream=stream) if api == "chat" else service.messages("task-m", stream=stream)
    assert answer.status == 400
    assert "set-cookie" not in answer.headers
    assert answer.headers["x-promptsmith-error"] == "upstream"
    assert "(400): no" in answer.json["error"]["message"]
    assert 0 < len(answer.headers["x-request-id"]) < 1000


@pytest.mark.parametrize(("name", "seconds"), [("b", "1e308"), ("c", "1e306")])
def test_a_wait_longer_than_any_is_passed_on_or_left_out(service: Serving, canned: Canned, name: str, seconds: str) -> None:
    canned.says = [Say([json.dumps({"error": REFUSAL}).encode()], 429, {"retry-after": seconds})]
    assert service.chat(f"task-{name}").status == 429


@pytest.mark.parametrize("code", ["²", "9" * 5000], ids=["a digit that is no number", "too many digits"])
def test_a_code_that_looks_like_a_number_is_no_fault(service: Serving, canned: Canned, code: str) -> None:
    canned.says = [Say([json.dumps({"error": {**REFUSAL, "code": code}}, ensure_ascii=False).encode()], 200, {"x-should-retry": "false"})]
    answer = service.chat("task-d")
    assert answer.json["error"]["code"] != "internal_error"
    assert service.trouble() == []


@pytest.mark.parametrize("status", [600, 999])
def test_a_status_that_http_has_not_is_told_as_a_bad_gateway(service: Serving, canned: Canned, status: int) -> None:
    """RFC 9110, 15: beyond 599 there is none; they are for use inside of a program."""
    canned.says = [Say([json.dumps({"error": REFUSAL}).encode()], status, {"x-should-retry": "false"})]
    assert service.chat("task-e").status == 502


# --- the server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"chunked\t", b" \tChunked \t"])
def test_an_upgrade_whose_framing_the_parser_refuses_is_refused(run: Run, value: bytes) -> None:
    """The parser looks at the framing of an upgrade only when it is asked to read the body; that is an answer, not a traceback."""
    trouble: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: trouble.append(context))
        async with listening() as (_, port), connected(port) as client:
            client.send(HEAD + b"upgrade: h2c\r\nconnection: upgrade\r\ntransfer-encoding:" + value + b"\r\n\r\n1\r\na\r\n0\r\n\r\n" + LAST)
            assert statuses(await client.rest()) == [400]

    run(main)
    assert trouble == []


def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing_for_the_collector(run: Run) -> None:
    """The service collects seldom (every 20 000 objects): until then each such client would keep its body in memory."""

    def left() -> int:
        return sum(isinstance(one, http.Connection) for one in gc.get_objects())

    async def handler(request: Request) -> StreamResponse:
        if request.path == "/a":
            await asyncio.sleep(SECONDS)
        return Response()

    async def main() -> None:
        async with listening(handler) as (server, port):
            for _ in range(10):
                async with connected(port) as client:
                    client.send(b"GET /a HTTP/1.1\r\nhost: h\r\n\r\nPOST /b HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf")
                    await until(lambda: any(one._body is not None for one in server._all))
                await until(lambda: server.connections == 0)
            await asyncio.sleep(0.05)
            assert left() <= before + 1

    gc.collect()
    gc.disable()
    try:
        before = left()
        run(main)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "behind",
    [
        b"POST /b HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n" + b"b" * 300_000,
        b"GET /b HTTP/1.1\r\nhost: h\r\n\r\n" * 2000,
    ],
    ids=["a body", "requests"],
)
def test_a_client_that_leaves_while_it_is_not_read_ends_its_request(run: Run, behind: bytes) -> None:
    """What it sent ahead fills its place, so nothing is read of its connection; its call is paid for all the same."""

    async def main() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def handler(_: Request) -> StreamResponse:
            begun.set()
            try:
                await asyncio.sleep(SECONDS)
            finally:
                ended.set()
            return Response()

        async with listening(handler) as (server, port):
            loop = asyncio.get_running_loop()
            client = socket.create_connection(("127.0.0.1", port))
            client.setblocking(False)
            await loop.sock_sendall(client, b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n" + behind)
            await begun.wait()
            await until(lambda: all(one._paused for one in server._all))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            client.close()
            async with asyncio.timeout(SECONDS / 4):
                await ended.wait()
            await until(lambda: server.connections == 0)

    run(main)


def test_an_answer_on_its_way_is_not_cut_off_by_the_end_of_the_service(tmp_path: Path) -> None:
    """It was answered, and its client reads slowly: the seconds for draining are for it, too."""
    message = {"role": "assistant", "content": "F" * 12_000_000}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    reply = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": usage, "choices": choices}
    body = json.dumps({"model": "long", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    with Provider(constant("Fine.")) as provider, Canned() as canned:
        canned.says = [Say([json.dumps(reply).encode()])]
        project = project_at(tmp_path, settings_of(provider, canned=canned.url), made("long", "canned/long"))
        with serving(project) as service, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(SECONDS)
            client.connect((service.host, service.port))
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            eventually(lambda: any(one["event"] == "request" for one in service.log()), "the request is answered")
            service.process.send_signal(signal.SIGTERM)
            eventually(lambda: service.told("draining") == 1, "it ends")
            threading.Event().wait(1.5)  # longer than the connections of what is answered were given
            got = bytearray()
            while piece := client.recv(2**20):
                got += piece
            assert json.loads(got.partition(b"\r\n\r\n")[2]) == reply
            assert service.process.wait(SECONDS) == 0


# --- the client ---------------------------------------------------------------------------------------------


def test_a_connection_whose_time_is_over_is_not_used_in_the_same_turn(run: Run) -> None:
    """Aborted is not closed: until the loop says so it stands among the idle ones, and a request on it fails without being sent."""

    async def main() -> None:
        async with line(says(answer_of(b"fine"))) as server:
            lean = Lean(server.url, "openai")
            assert await posted(lean) == b"fine"
            (idle,) = pool_of(lean)._idle
            idle.late()  # as its timer does after 30 seconds
            assert await posted(lean) == b"fine"
            assert server.opened == 2
            await lean.close()

    run(main)


@pytest.mark.parametrize("last", [b"", b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"], ids=["end", "bytes"])
def test_a_connection_that_is_closing_is_not_used(run: Run, last: bytes) -> None:
    """The server's end, or bytes that nobody asked for, have come, and the loop has only to say that it is closed."""

    async def main() -> None:
        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer_of(b"fine"))
            if server.opened == 1:
                await asyncio.sleep(0.02)
                writer.write(last)
                if not last:
                    writer.close()

        async with line(answer) as server:
            lean = Lean(server.url, "openai")
            assert await posted(lean) == b"fine"
            (idle,) = pool_of(lean)._idle
            while idle._transport is not None and not idle._transport.is_closing():
                await asyncio.sleep(0)
            assert await posted(lean) == b"fine"
            assert server.opened == 2
            await lean.close()

    run(main)


MEMBERS = gzip.compress(b"hello", mtime=0) + gzip.compress(b" world", mtime=0)


@pytest.mark.parametrize(
    "pieces", [[MEMBERS], [MEMBERS[:30], MEMBERS[30:]], [bytes([one]) for one in MEMBERS]], ids=["one", "two", "bytes"]
)
def test_all_of_what_is_compressed_in_parts_is_read(run: Run, pieces: list[bytes]) -> None:
    """RFC 1952, 2.2: a gzip file is one or more members, one after the other; half of it is not the answer."""

    async def main() -> None:
        head = CHUNKED[:-2] + b"content-encoding: gzip\r\n\r\n"
        async with line(says(head + b"".join(map(chunk, pieces)) + b"0\r\n\r\n")) as server:
            lean = Lean(server.url, "openai")
            assert await posted(lean) == b"hello world"
            assert await streamed(lean) == b"hello world"
            await lean.close()

    run(main)


def test_what_stands_behind_something_compressed_is_refused(run: Run) -> None:
    async def main() -> None:
        async with line(says(answer_of(MEMBERS + b"garbage", "content-encoding: gzip"))) as server:
            lean = Lean(server.url, "openai")
            for ask in (posted, streamed):
                with pytest.raises(MalformedReply):
                    await ask(lean)
            await lean.close()

    run(main)


def test_nothing_needs_no_unpacking(run: Run) -> None:
    """An empty answer of a gateway that says gzip to everything: its status counts, and whether it is worth another try."""

    async def main() -> None:
        async with line(says(answer_of(b"", "content-encoding: gzip", "retry-after: 1", status="503 Service Unavailable"))) as server:
            lean = Lean(server.url, "openai")
            answer = await lean.post(CHAT, {}, b"{}", timeout=5)
            assert (answer.status, answer.data) == (503, b"")
            assert await streamed(lean) == b""
            assert server.opened == 1
            await lean.close()

    run(main)
