"""``models/transport/{direct,lean}.py``, which mean the same.

Addresses, bytes both ways, connections, faults of the line, proxies, TLS, loops and forks.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from promptsmith.errors import InputError, MalformedReply, ProviderDown, ProviderError
from promptsmith.models.transport.address import base_url, proxy_for
from promptsmith.models.transport.direct import Direct
from promptsmith.models.transport.lean import Lean
from promptsmith.models.wire.failures import retry_after
from tests.provider import KEY, Fault, Provider, Settings, refused_url
from tests.talking import CHUNKED, chunk, http, line, make_certificate, says, server_side

HEADERS = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
BODY = b'{"model":"gpt-6-luna","messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"model":"gpt-6-luna","stream":true,"messages":[{"role":"user","content":"one two three four five six seven"}]}'
CHAT = "/chat/completions"
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


Way = type[Direct] | type[Lean]


@pytest.fixture(params=[Direct, Lean])
def way(request: pytest.FixtureRequest) -> Way:
    """Each transport of our own: they mean the same."""
    made: Way = request.param
    return made


async def streamed(client: Direct | Lean, *, seconds: float) -> bytes:
    """The whole of a stream."""
    async with client.stream(CHAT, {}, b"{}", timeout=seconds) as answer:
        return b"".join([piece async for piece in answer.pieces])


# --- addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "openai", "anthropic"),
    [
        ("http://h:1", "http://h:1/v1", "http://h:1"),
        ("http://h:1/", "http://h:1/v1", "http://h:1"),
        ("http://h:1/v1", "http://h:1/v1", "http://h:1"),
        ("http://h:1/v1/", "http://h:1/v1", "http://h:1"),
        ("https://h/openai/v1//", "https://h/openai/v1", "https://h/openai"),
        ("https://h/gateway", "https://h/gateway", "https://h/gateway"),
        ("http://[::1]:8000", "http://[::1]:8000/v1", "http://[::1]:8000"),
    ],
)
def test_a_base_url_is_taken_as_people_write_it(text: str, openai: str, anthropic: str) -> None:
    assert base_url(text, "openai") == openai
    assert base_url(text, "anthropic") == anthropic


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("api.openai.com/v1", "http://api.openai.com/v1 or https://"),
        ("localhost:11434", "http://localhost:11434"),
        ("ftp://h/v1", "ftp://"),
        ("http://", "names no host"),
        ("http:///v1", "names no host"),
        ("http://h:99999", "Port out of range"),
        ("http://h:x", "can't be read"),
        ("http://[::1", "can't be read"),
        ("http://h/v1?x=1", "query"),
        ("http://h/v1#x", "fragment"),
        ("http://h /v1", "blanks"),
        ("http://h/v1\n", "blanks"),
        ("https://h/v1/chat/completions", "leave '/chat/completions' out"),
        ("https://h/v1/messages/", "leave '/messages' out"),
    ],
)
def test_a_wrong_base_url_is_an_input_error_that_says_what_is_right(way: Way, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        way(text, "openai")
    assert says in str(caught.value)


def test_a_password_in_a_base_url_is_refused_and_not_repeated(way: Way) -> None:
    with pytest.raises(InputError) as caught:
        way("https://me:hunter2@h/v1", "openai")
    assert "hunter2" not in str(caught.value)
    assert "api_key_env" in str(caught.value)


# --- bytes both ways ----------------------------------------------------------------------------------


def test_a_call_arrives_as_it_was_given_and_comes_back_whole(way: Way) -> None:
    with Provider() as provider:

        async def main() -> None:
            client = way(provider.url, "openai")
            answer = await client.post(CHAT, HEADERS, BODY, timeout=5)
            assert (answer.status, answer.headers["CONTENT-TYPE"].split(";")[0]) == (200, "application/json")
            assert b"chat.completion" in answer.data

        asyncio.run(main())
        record = provider.records.last
        assert (record.method, record.path, record.body) == ("POST", "/v1/chat/completions", BODY)
        assert record.headers["authorization"] == f"Bearer {KEY}"
        assert record.headers["content-type"] == "application/json"
        assert record.headers["user-agent"].startswith("promptsmith/")


def test_an_error_of_the_provider_is_an_answer_for_the_codec(way: Way) -> None:
    with Provider() as provider:
        provider.faults.on(1, Fault("status", status=429, retry_after_ms="1500"))

        async def main() -> None:
            client = way(provider.url, "openai")
            answer = await client.post(CHAT, HEADERS, BODY, timeout=5)
            assert answer.status == 429
            assert retry_after(answer.headers) == 1.5
            async with client.stream(CHAT, {**HEADERS, "authorization": "Bearer wrong"}, STREAM, timeout=5) as streamed:
                assert streamed.status == 401
                assert b"invalid_api_key" in b"".join([piece async for piece in streamed.pieces])

        asyncio.run(main())


def test_a_stream_comes_in_pieces_while_the_server_is_still_writing(way: Way) -> None:
    async def main() -> None:
        more = asyncio.Event()

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(CHUNKED + chunk(b"first"))
            await writer.drain()
            await more.wait()
            writer.write(chunk(b"second") + chunk(b""))

        async with line(answer) as server, way(server.url, "openai").stream(CHAT, {}, b"{}", timeout=5) as streamed:
            assert await anext(streamed.pieces) == b"first"
            more.set()  # the server had not gone on before: the first piece was not held back
            assert await anext(streamed.pieces) == b"second"
            assert [piece async for piece in streamed.pieces] == []

    asyncio.run(main())


def test_five_megabytes_each_way(way: Way) -> None:
    """No warning of aiohttp's about large bodies gets through (warnings are errors here)."""
    with Provider() as provider:
        provider.faults.on(1, Fault("huge"))
        long = BODY.replace(b"hi", b"x" * (5 * 2**20))

        async def main() -> None:
            answer = await way(provider.url, "openai").post(CHAT, HEADERS, long, timeout=20)
            assert answer.status == 200
            assert len(answer.data) > 5 * 2**20

        asyncio.run(main())
        assert provider.records.last.body == long


def test_a_server_that_compresses_though_not_asked_is_understood(way: Way) -> None:
    async def main() -> None:
        packed = gzip.compress(b"hello" * 1000, mtime=0)
        async with line(says(http(packed, "content-encoding: gzip"))) as server:
            client = way(server.url, "openai")
            assert (await client.post(CHAT, {}, b"{}", timeout=5)).data == b"hello" * 1000
            async with client.stream(CHAT, {}, b"{}", timeout=5) as streamed:
                assert b"".join([piece async for piece in streamed.pieces]) == b"hello" * 1000
            assert b"accept-encoding: identity" in server.seen.lower()

    asyncio.run(main())


@pytest.mark.parametrize(
    "reply",
    [
        http(b"x" * 3000),
        CHUNKED + chunk(b"x" * 1500) + chunk(b"x" * 1500) + chunk(b""),
        http(gzip.compress(b"x" * 100_000, mtime=0), "content-encoding: gzip"),
    ],
    ids=["declared", "chunked", "a small package with much inside"],
)
def test_a_reply_that_is_too_long_is_refused(way: Way, reply: bytes) -> None:
    async def main() -> None:
        async with line(says(reply)) as server:
            client = way(server.url, "openai", max_bytes=2000)
            with pytest.raises(MalformedReply, match="more than 0 MB"):
                await client.post(CHAT, {}, b"{}", timeout=5)
            with pytest.raises(MalformedReply):
                await streamed(client, seconds=5)

    asyncio.run(main())


def test_a_reply_without_end_is_cut_off(way: Way) -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while True:
            writer.write(chunk(b"x" * 65536))
            await writer.drain()

    async def main() -> None:
        async with line(endless) as server:
            with pytest.raises(MalformedReply, match="more than 1 MB"):
                await way(server.url, "openai", max_bytes=2**20).post(CHAT, {}, b"{}", timeout=20)
            await asyncio.wait_for(server.ended.acquire(), 5)

    asyncio.run(main())


def test_a_redirect_is_not_followed(way: Way) -> None:
    """It would become a GET, or carry the key to another place; the codec names the base URL."""

    async def main() -> None:
        async with line(says(http(b"", "location: http://127.0.0.1:1/elsewhere", status="302 Found"))) as server:
            answer = await way(server.url, "openai").post(CHAT, {}, b"{}", timeout=5)
            assert answer.status == 302

    asyncio.run(main())


def test_cookies_are_not_kept(way: Way) -> None:
    async def main() -> None:
        async with line(says(http(b"{}", "set-cookie: server=7"))) as server:
            client = way(server.url, "openai")
            await client.post(CHAT, {}, b"{}", timeout=5)
            await client.post(CHAT, {}, b"{}", timeout=5)
            assert server.opened == 1
            assert b"cookie" not in server.seen.lower()

    asyncio.run(main())


@pytest.mark.parametrize("key", ["sk-1\nx-evil: 1", "sk-1\r\n", "sk-1\x00", "sk-ключ"])
def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_sent(way: Way, key: str) -> None:
    async def main() -> None:
        async with line(says(http(b"{}"))) as server:
            client = way(server.url, "openai")
            with pytest.raises(InputError, match="nothing was sent") as caught:
                await client.post(CHAT, {"authorization": f"Bearer {key}"}, b"{}", timeout=5)
            with pytest.raises(InputError):
                async with client.stream(CHAT, {"authorization": f"Bearer {key}"}, b"{}", timeout=5):
                    pass
            assert server.opened == 0
            assert "sk-1" not in str(caught.value)

    asyncio.run(main())


# --- connections --------------------------------------------------------------------------------------


def test_calls_one_after_the_other_share_a_connection(way: Way) -> None:
    async def main() -> None:
        async with line(says(http(b"{}"))) as server:
            client = way(server.url, "openai")
            for _ in range(5):
                await client.post(CHAT, {}, b"{}", timeout=5)
            async with client.stream(CHAT, {}, b"{}", timeout=5) as streamed:
                assert [piece async for piece in streamed.pieces] == [b"{}"]
            await client.post(CHAT, {}, b"{}", timeout=5)
            assert server.opened == 1
            await client.close()
            await server.ended.acquire()
            await client.post(CHAT, {}, b"{}", timeout=5)  # closed is not for ever
            assert server.opened == 2

    asyncio.run(main())


async def _silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client goes


def test_a_cancelled_call_closes_its_connection(way: Way) -> None:
    async def main() -> None:
        async with line(_silent) as server:
            client = way(server.url, "openai")
            call = asyncio.create_task(client.post(CHAT, {}, b"{}", timeout=60))
            await server.asked.acquire()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.wait_for(server.ended.acquire(), 5)

    asyncio.run(main())


def test_a_stream_that_is_left_early_closes_its_connection(way: Way) -> None:
    async def begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + chunk(b"first"))
        await writer.drain()
        await reader.read()

    async def main() -> None:
        async with line(begun) as server:
            client = way(server.url, "openai")
            async with client.stream(CHAT, {}, b"{}", timeout=60) as streamed:
                assert await anext(streamed.pieces) == b"first"
            await asyncio.wait_for(server.ended.acquire(), 5)

    asyncio.run(main())


def test_time_is_up_for_a_whole_answer_and_for_each_wait_of_a_stream(way: Way) -> None:
    async def begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + chunk(b"first"))
        await writer.drain()
        await reader.read()

    async def main() -> None:
        async with line(begun) as server:
            client = way(server.url, "openai", provider="acme")
            with pytest.raises(ProviderDown, match="did not answer in time") as caught:
                await client.post(CHAT, {}, b"{}", timeout=0.05)
            assert caught.value.retryable
            assert caught.value.provider == "acme"
            await asyncio.wait_for(server.ended.acquire(), 5)
            with pytest.raises(ProviderDown, match="did not answer in time"):
                await streamed(client, seconds=0.05)
            await asyncio.wait_for(server.ended.acquire(), 5)

    asyncio.run(main())


def test_a_consumer_that_takes_its_time_does_not_use_up_the_timeout_of_a_stream(way: Way) -> None:
    async def main() -> None:
        async with line(says(CHUNKED + chunk(b"first") + chunk(b"second") + chunk(b""))) as server:
            async with way(server.url, "openai").stream(CHAT, {}, b"{}", timeout=0.5) as streamed:
                pieces = []
                async for piece in streamed.pieces:
                    pieces.append(piece)
                    await asyncio.sleep(0.6)
            assert b"".join(pieces) == b"firstsecond"

    asyncio.run(main())


# --- faults of the line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind", "retryable"),
    [
        (b"", ProviderDown, True),
        (b"HTTP/1.1 200 OK\r\ncontent-le", ProviderDown, True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{half", ProviderDown, True),
        (CHUNKED + chunk(b"{half"), ProviderDown, True),
        (b"\x00\xff\xfe garbage \x01\r\n\r\n", MalformedReply, False),
        (CHUNKED + b"zz\r\nnot a chunk\r\n", MalformedReply, False),
        (http(b"no gzip at all", "content-encoding: gzip"), MalformedReply, False),
    ],
    ids=["nothing", "half a header", "half a body", "half the chunks", "garbage", "garbage for a chunk", "not what it says to be"],
)
def test_what_breaks_off_or_is_no_http(way: Way, reply: bytes, kind: type[ProviderError], retryable: bool) -> None:
    async def broken(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        writer.close()

    async def main() -> None:
        async with line(broken) as server:
            client = way(server.url, "openai", provider="acme")
            with pytest.raises(kind) as caught:
                await client.post(CHAT, {}, b"{}", timeout=5)
            assert (caught.value.retryable, caught.value.provider) == (retryable, "acme")
            with pytest.raises(kind):
                await streamed(client, seconds=5)

    asyncio.run(main())


def test_nobody_listens(way: Way) -> None:
    async def main(url: str) -> None:
        with pytest.raises(ProviderDown, match=f"nothing answers at {url}/v1") as caught:
            await way(url, "openai").post(CHAT, {}, b"{}", timeout=5)
        assert caught.value.retryable
        assert "is the server running?" in caught.value.hint

    with refused_url() as url:
        asyncio.run(main(url))


def test_a_host_that_does_not_exist(way: Way) -> None:
    async def main() -> None:
        with pytest.raises(ProviderDown, match=r"http://no-such-host\.invalid/v1"):
            await way("http://no-such-host.invalid", "openai").post(CHAT, {}, b"{}", timeout=5)

    asyncio.run(main())


# --- proxies ------------------------------------------------------------------------------------------


def test_an_http_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with line(says(http(b"from the proxy"))) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("http://", "http://user:pass@"))
            direct = Direct("http://provider.example/v1", "openai")
            answer = await direct.post(CHAT, {}, b"{}", timeout=5)
            assert answer.data == b"from the proxy"
            assert proxy.seen.startswith(b"POST http://provider.example/v1/chat/completions HTTP/1.1")
            assert b"proxy-authorization: basic dxnlcjpwyxnz" in proxy.seen.lower()

    asyncio.run(main())


def test_no_proxy_excepts_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", "internal.example,127.0.0.1")
    assert proxy_for("https://api.example/v1") == "http://proxy:1"
    assert proxy_for("https://internal.example/v1") is None
    assert proxy_for("https://127.0.0.1:8000/v1") is None
    assert proxy_for("http://api.example/v1") is None


def test_a_proxy_written_without_a_scheme_and_one_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    assert proxy_for("https://api.example") == "http://proxy:3128"
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy:1080")
    with pytest.raises(InputError, match="socks5 proxy"):
        proxy_for("https://api.example")


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(url: str) -> None:
        monkeypatch.setenv("HTTP_PROXY", url)
        with pytest.raises(ProviderDown, match=url.removeprefix("http://")) as caught:
            await Direct("http://provider.example", "openai").post(CHAT, {}, b"{}", timeout=5)
        assert "HTTPS_PROXY" in caught.value.hint

    with refused_url() as url:
        asyncio.run(main(url))


# --- TLS ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that no system trusts, for 127.0.0.1, and its key."""
    made = make_certificate(tmp_path_factory.mktemp("tls"))
    if made is None:
        pytest.skip("there is no openssl to make a certificate with")
    return made


def test_a_certificate_that_nobody_vouches_for_is_refused_once_and_for_all(way: Way, certificate: tuple[Path, Path]) -> None:
    async def main() -> None:
        async with line(says(http(b"{}")), server_side(certificate)) as server:
            with pytest.raises(ProviderDown, match="not trusted") as caught:
                await way(server.url, "openai").post(CHAT, {"authorization": "Bearer x"}, b"{}", timeout=5)
            assert not caught.value.retryable
            assert "SSL_CERT_FILE" in caught.value.hint
            assert b"Bearer" not in server.seen

    asyncio.run(main())


def test_an_authority_named_by_the_environment_is_trusted(
    way: Way, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with line(says(http(b"{}")), server_side(certificate)) as server:
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
            client = way(server.url, "openai")
            assert (await client.post(CHAT, {}, b"{}", timeout=5)).status == 200
            await client.close()
            monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file.pem")
            with pytest.raises(InputError, match=r"SSL_CERT_FILE names /no/such/file\.pem"):
                await client.post(CHAT, {}, b"{}", timeout=5)

    asyncio.run(main())


def test_https_goes_through_a_proxy_as_a_tunnel(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy sees CONNECT and then only bytes that it can't read."""

    async def main() -> None:
        async with line(says(http(b"through")), server_side(certificate)) as server:
            tunnels: list[bytes] = []

            async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                host, port = server.url.removeprefix("https://").split(":")
                there, back = await asyncio.open_connection(host, int(port))
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

                async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                    while data := await source.read(65536):
                        tunnels.append(data)
                        sink.write(data)
                    sink.close()

                await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

            async with line(tunnel) as proxy:
                monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
                monkeypatch.setenv("HTTPS_PROXY", proxy.url)
                direct = Direct(server.url, "openai")
                answer = await direct.post(CHAT, {"authorization": "Bearer secret"}, b"{}", timeout=5)
                assert answer.data == b"through"
                assert proxy.seen.startswith(b"CONNECT " + server.url.removeprefix("https://").encode())
                assert b"secret" not in proxy.seen + b"".join(tunnels)
                assert b"secret" in server.seen
                await direct.close()

    asyncio.run(main())


# --- loops, threads, forks ----------------------------------------------------------------------------


def test_one_transport_serves_several_loops_at_once_and_one_after_the_other(way: Way) -> None:
    with Provider() as provider:
        client = way(provider.url, "openai")
        statuses: list[int] = []

        async def calls() -> None:
            answers = await asyncio.gather(*(client.post(CHAT, HEADERS, BODY, timeout=10) for _ in range(5)))
            statuses.extend(answer.status for answer in answers)

        asyncio.run(calls())
        threads = [threading.Thread(target=asyncio.run, args=(calls(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(calls())
        assert statuses == [200] * 30
        assert not client._per_loop._kept, "what belonged to a loop is closed with it"


def _run(way: Way, code: str, url: str) -> subprocess.CompletedProcess[str]:
    """``code`` in a process where every warning would be seen: ``-X dev`` shows unclosed sockets, too."""
    head = f"import asyncio, os, sys, threading\nfrom {way.__module__} import {way.__name__}\n"
    given = f"client = {way.__name__}({url!r}, 'openai')\nHEADERS = {HEADERS!r}\nBODY = {BODY!r}\n"
    patient = "async def call():\n    asyncio.get_running_loop().slow_callback_duration = 60  # -X dev says so of a busy machine\n"
    call = patient + "    return (await client.post('/chat/completions', HEADERS, BODY, timeout=10)).status\n"
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", head + given + call + code], capture_output=True, text=True, timeout=30, cwd=ROOT, check=False
    )


ENDINGS = {
    "asyncio.run": "print(asyncio.run(call()))",
    "uvloop": "import uvloop\nprint(uvloop.run(call()))",
    "a loop that is closed after its generators": """
loop = asyncio.new_event_loop()
print(loop.run_until_complete(call()))
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
""",
    "the sync runtime's thread": """
from promptsmith.runtime.loop import LOOP
print(LOOP.wait(call()))
""",
    "a transport that is dropped": """
async def main():
    global client
    print(await call())
    del client
    await asyncio.sleep(0.01)
asyncio.run(main())
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_said_at_the_end(way: Way, ending: str) -> None:
    """However a loop ends: no 'Unclosed client session', no ResourceWarning, no hanging process."""
    if ending == "uvloop":
        pytest.importorskip("uvloop")
    with Provider() as provider:
        done = _run(way, ENDINGS[ending], provider.url)
    assert (done.stdout, done.stderr, done.returncode) == ("200\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_opens_its_own_connections_and_leaves_its_parents_alone(way: Way) -> None:
    code = """
import warnings
async def main():
    assert await call() == 200
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid == 0:
        status = []
        asyncio._set_running_loop(None)
        thread = threading.Thread(target=lambda: status.append(asyncio.run(call())))
        thread.start(); thread.join()
        assert len(client._per_loop._inherited) == 1
        print("child", status[0], flush=True)
        os._exit(0)
    await asyncio.to_thread(os.waitpid, pid, 0)
    print("parent", await call())
asyncio.run(main())
"""
    with Provider() as provider:
        done = _run(way, code, provider.url)
        assert (done.stdout, done.stderr) == ("child 200\nparent 200\n", "")
        assert provider.records.statuses == {200: 3}


# --- what is loaded -----------------------------------------------------------------------------------


def _loaded(module: str) -> set[str]:
    code = f"import {module}, sys; print('\\n'.join(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_only_the_direct_transport_loads_aiohttp_and_none_an_sdk() -> None:
    clients = {"aiohttp", "openai", "anthropic", "httpx2", "pydantic"}
    assert _loaded("promptsmith.models.transport.direct") & clients == {"aiohttp"}
    assert _loaded("promptsmith.models.transport.lean") & clients == set()
    others = ["transport.protocol", "transport.mapping", "transport.sdk_openai", "transport.sdk_anthropic", "retry", "limits", "wrappers"]
    assert _loaded(", ".join(f"promptsmith.models.{name}" for name in others)) & clients == set()


def test_settings_of_the_test_server_are_not_what_makes_calls_pass(way: Way) -> None:
    """The peer refuses a wrong key: the tests above could fail."""
    with Provider(settings=Settings(keys=frozenset({"other"}))) as provider:

        async def main() -> int:
            return (await way(provider.url, "openai").post(CHAT, HEADERS, BODY, timeout=5)).status

        assert asyncio.run(main()) == 401
