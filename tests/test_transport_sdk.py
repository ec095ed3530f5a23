"""``models/transport/sdk_*.py``: the official clients carry the same bytes as ``direct``, and fail in the same words."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from promptsmith.errors import AuthenticationFailed, InputError, MalformedReply, ProviderDown, RateLimited
from promptsmith.models.transport.direct import Direct
from promptsmith.models.transport.mapping import mapped_errors
from promptsmith.models.transport.protocol import Answer, Transport
from promptsmith.models.transport.sdk_anthropic import SdkAnthropic
from promptsmith.models.transport.sdk_openai import SdkOpenAI
from promptsmith.models.wire.anthropic import Anthropic
from promptsmith.models.wire.openai import OpenAI
from tests.provider import KEY, Fault, Provider, Settings, constant, refused_url

ROOT = Path(__file__).parent.parent
TURNS = b'"messages":[{"role":"user","content":"one two three four five six seven"}]'
OPENAI = b'{"model":"gpt-6-luna",' + TURNS + b"}"
ANTHROPIC = b'{"model":"claude-haiku-5-5","max_tokens":64,' + TURNS + b"}"


@pytest.fixture(autouse=True)
def no_credentials_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE")
    for name in (*names, "ANTHROPIC_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))


class Way:
    """One protocol: its codec's part of a call, and both transports to a provider."""

    def __init__(self, protocol: Any, codec: Any, body: bytes, sdk: Any) -> None:
        self.protocol, self.body, self._sdk = protocol, body, sdk
        self.path = codec.path
        self.headers = codec.headers(KEY)
        self.streamed = body[:-1] + b',"stream":true}'

    def direct(self, url: str) -> Direct:
        return Direct(url, self.protocol)

    def sdk(self, url: str, **given: Any) -> Any:
        return self._sdk(url=url, key=KEY, **given)

    async def post(self, transport: Transport, *, seconds: float = 10, **headers: str) -> Answer:
        return await transport.post(self.path, {**self.headers, **headers}, self.body, timeout=seconds)

    async def stream(self, transport: Transport, *, seconds: float = 10, **headers: str) -> Answer:
        async with transport.stream(self.path, {**self.headers, **headers}, self.streamed, timeout=seconds) as answer:
            return Answer(answer.status, answer.headers, b"".join([piece async for piece in answer.pieces]))


WAYS = {
    "openai": Way("openai", OpenAI(), OPENAI, SdkOpenAI),
    "anthropic": Way("anthropic", Anthropic(), ANTHROPIC, SdkAnthropic),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def without_ids(data: bytes) -> bytes:
    """An answer of the provider without what differs between two equal calls."""
    return re.sub(rb'"(id|created)":\s?("[^"]*"|\d+)', b"", data)


def test_both_ways_send_the_same_and_bring_back_the_same(way: Way) -> None:
    """Method, path, JSON body, auth and version headers; status and body of the answer, streams included."""
    with Provider(constant("positive")) as provider:

        async def main() -> None:
            for transport in (way.direct(provider.url), way.sdk(provider.url)):
                results.append(await way.post(transport))
                results.append(await way.stream(transport))

        results: list[Answer] = []
        asyncio.run(main())
        compared = ("authorization", "x-api-key", "anthropic-version", "content-type")
        sent = [
            (record.method, record.path, record.json, {name: record.headers.get(name) for name in compared})
            for record in provider.records.all()
        ]
        assert sent[:2] == sent[2:]
        assert sent[0] != sent[1]
        assert [answer.status for answer in results] == [200] * 4
        assert [without_ids(answer.data) for answer in results[:2]] == [without_ids(answer.data) for answer in results[2:]]
        assert b"positive" in results[2].data
        assert b"data: " in results[3].data


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 429, 500, 502, 503, 529])
def test_an_error_of_the_provider_is_the_same_answer_both_ways(way: Way, status: int) -> None:
    """Not an exception of the SDK's: one codec reads both. And it was asked once, for the SDK's own retries are off."""
    with Provider() as provider:
        provider.faults.every(Fault("status", status=status, retry_after="7"))

        async def main() -> tuple[Answer, Answer, Answer]:
            sdk = way.sdk(provider.url)
            return await way.post(way.direct(provider.url)), await way.post(sdk), await way.stream(sdk)

        answers = asyncio.run(main())
        assert {answer.status for answer in answers} == {status}
        assert {answer.headers["Retry-After"] for answer in answers} == {"7"}
        assert all(b"error" in answer.data for answer in answers)
        assert len(provider.records) == 3


def test_a_client_that_was_handed_in_is_used_as_it_is_but_does_not_retry(way: Way) -> None:
    clients: dict[str, Any] = {"openai": openai.AsyncOpenAI, "anthropic": anthropic.AsyncAnthropic}
    with Provider(settings=Settings(keys=frozenset({"its own key"}))) as provider:
        provider.faults.on(1, Fault("status", status=500))
        url = provider.base_url_openai if way.protocol == "openai" else provider.url

        async def main() -> None:
            headers = {"x-its-own": "1"}
            async with clients[way.protocol](api_key="its own key", base_url=url, max_retries=5, default_headers=headers) as client:
                transport = type(way.sdk(provider.url))(client)
                assert (await way.post(transport)).status == 500
                assert len(provider.records) == 1
                assert (await way.post(transport)).status == 200
                assert (await way.stream(transport)).status == 200
                await transport.close()
                assert not client.is_closed()

        asyncio.run(main())
        assert provider.records.last.headers["x-its-own"] == "1"
        assert provider.records.last.headers["authorization"] == "Bearer its own key"
        assert provider.records.last.json["stream"] is True


@asynccontextmanager
async def listening(reply: bytes) -> AsyncIterator[tuple[str, bytearray]]:
    """A server that says ``reply`` to everything, and what it heard."""
    heard = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(65536))
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
    finally:
        server.close()


OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def test_azures_client_moves_the_model_into_the_path() -> None:
    """It needs the body as a mapping: bytes would go out with no deployment in the address."""

    async def main() -> None:
        async with listening(OK) as (url, heard):
            client = openai.AsyncAzureOpenAI(azure_endpoint=url, api_key="azure key", api_version="2026-01-01")
            way = WAYS["openai"]
            assert (await way.post(SdkOpenAI(client))).status == 200
            assert heard.startswith(b"POST /openai/deployments/gpt-6-luna/chat/completions?api-version=2026-01-01 ")
            assert b"api-key: azure key" in heard
            assert KEY.encode() not in heard, "the codec's credentials are not for a client with its own"
            await client.close()

    asyncio.run(main())


def test_a_blocking_client_is_refused_with_the_right_one_named() -> None:
    with openai.OpenAI(api_key="x") as client, pytest.raises(InputError, match=r"openai\.AsyncOpenAI"):
        SdkOpenAI(client)
    with (
        openai.AzureOpenAI(api_key="x", azure_endpoint="http://h", api_version="1") as azure,
        pytest.raises(InputError, match="AsyncAzureOpenAI"),
    ):
        SdkOpenAI(azure)
    with anthropic.Anthropic(api_key="x") as other, pytest.raises(InputError, match=r"anthropic\.AsyncAnthropic"):
        SdkAnthropic(other)


@pytest.mark.parametrize("client", ["a key", object(), openai.AsyncOpenAI])
def test_what_is_no_client_is_refused(client: object) -> None:
    with pytest.raises(InputError, match=r"is no client of the package 'openai'[\s\S]*openai\.AsyncOpenAI\(\)"):
        SdkOpenAI(client)


def test_the_other_providers_client_is_refused() -> None:
    with pytest.raises(InputError, match="AsyncOpenAI is no client of the package 'anthropic'"):
        SdkAnthropic(openai.AsyncOpenAI(api_key="x"))


def test_a_missing_key_says_which_variable_to_set(way: Way) -> None:
    variable = f"{way.protocol.upper()}_API_KEY"

    async def main() -> None:
        transport = type(way.sdk("http://h"))(key_variable=variable)
        with pytest.raises(AuthenticationFailed, match=f"{variable} is not set") as caught:
            await way.post(transport)
        assert f"export {variable}=" in caught.value.hint

    asyncio.run(main())


def test_the_environments_own_key_is_found(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    with Provider() as provider:
        monkeypatch.setenv(f"{way.protocol.upper()}_API_KEY", KEY)
        monkeypatch.setenv(f"{way.protocol.upper()}_BASE_URL", provider.base_url_openai if way.protocol == "openai" else provider.url)

        async def main() -> int:
            return (await way.post(type(way.sdk("http://h"))())).status

        assert asyncio.run(main()) == 200


def test_the_environments_own_key_does_not_go_to_another_server(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local model that needs no key must not be sent the user's key for the real provider."""
    monkeypatch.setenv(f"{way.protocol.upper()}_API_KEY", "sk-the-real-one")
    with Provider(settings=Settings(keys=None)) as provider:

        async def main() -> int:
            return (await type(way.sdk("http://h"))(url=provider.url).post(way.path, {}, way.body, timeout=10)).status

        assert asyncio.run(main()) == 200
        assert not {"authorization", "x-api-key"} & set(provider.records.last.headers)


def test_a_key_with_a_line_break_is_refused_before_anything_is_sent(way: Way) -> None:
    with pytest.raises(InputError, match="nothing was sent"):
        type(way.sdk("http://h"))(url="http://h", key="sk-1\nx: y")


# --- what goes wrong ----------------------------------------------------------------------------------


def both(way: Way, url: str, **given: Any) -> list[Any]:
    return [Direct(url, way.protocol, **given), way.sdk(url, **given)]


def test_nobody_listens(way: Way) -> None:
    async def main(url: str) -> None:
        for transport in both(way, url):
            with pytest.raises(ProviderDown, match=f"nothing answers at {url}") as caught:
                await way.post(transport)
            assert caught.value.retryable

    with refused_url() as url:
        asyncio.run(main(url))


def test_a_client_on_httpx2_fails_in_the_same_words(way: Way) -> None:
    """Without aiohttp below: other exceptions, from another library."""
    made: dict[str, Any] = {"openai": openai.AsyncOpenAI, "anthropic": anthropic.AsyncAnthropic}

    async def main(nobody: str, url: str) -> None:
        suffix = "/v1" if way.protocol == "openai" else ""
        for base, words in ((nobody, "nothing answers at|can't be reached"), (url, "broke the connection off")):
            async with made[way.protocol](api_key=KEY, base_url=base + suffix) as client:
                with pytest.raises(ProviderDown, match=words) as caught:
                    await way.post(type(way.sdk("http://h"))(client))
                assert caught.value.retryable
        async with made[way.protocol](api_key=KEY, base_url=url + suffix) as client:
            provider.faults.every(Fault("hang"))
            with pytest.raises(ProviderDown, match="in time"):
                await way.post(type(way.sdk("http://h"))(client), seconds=0.2)
            provider.faults.every(Fault("hang", at=1))
            with pytest.raises(ProviderDown, match="in time"):
                await way.stream(type(way.sdk("http://h"))(client), seconds=0.2)

    with refused_url() as nobody, Provider() as provider:
        provider.faults.every(Fault("reset", at=1))
        asyncio.run(main(nobody, provider.url))


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_a_connection_that_breaks_off_is_the_same_both_ways(way: Way, kind: Any) -> None:
    with Provider() as provider:
        provider.faults.every(Fault(kind, at=1))

        async def main() -> None:
            for transport in both(way, provider.url):
                with pytest.raises(ProviderDown, match="broke the connection off") as caught:
                    await way.post(transport)
                assert caught.value.retryable
                with pytest.raises(ProviderDown):
                    await way.stream(transport)

        asyncio.run(main())


def test_a_server_that_is_too_slow_is_the_same_both_ways(way: Way) -> None:
    with Provider() as provider:

        async def main() -> None:
            for transport in both(way, provider.url):
                provider.faults.every(Fault("hang"))
                with pytest.raises(ProviderDown, match="did not answer in time"):
                    await way.post(transport, seconds=0.3)
                provider.faults.every(Fault("hang", at=1))
                with pytest.raises(ProviderDown, match="did not answer in time"):
                    await way.stream(transport, seconds=0.3)

        asyncio.run(main())


def test_too_long_a_reply_is_refused_both_ways(way: Way) -> None:
    with Provider(constant("x" * 4000)) as provider:

        async def main() -> None:
            for transport in both(way, provider.url, max_bytes=200):
                with pytest.raises(MalformedReply, match="sent more than"):
                    await way.post(transport)
                with pytest.raises(MalformedReply, match="sent more than"):
                    await way.stream(transport)

        asyncio.run(main())


@pytest.mark.parametrize("streamed", [False, True])
def test_a_cancelled_call_closes_its_connection(way: Way, streamed: bool) -> None:
    with Provider() as provider:
        provider.faults.every(Fault("hang", at=1))

        async def main() -> None:
            transport = way.sdk(provider.url)
            call = asyncio.create_task(way.stream(transport, seconds=60) if streamed else way.post(transport, seconds=60))
            await asyncio.to_thread(provider.records.wait, lambda records: bool(records) and records[0].first_byte is not None)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            # The provider sees the client go while the loop still runs: nothing waits for its end.
            await asyncio.to_thread(provider.records.wait, lambda records: records[0].aborted is not None)

        asyncio.run(main())


def test_a_proxy_of_the_environment_is_used_both_ways(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with listening(OK) as (url, heard):
            monkeypatch.setenv("HTTP_PROXY", url)
            for transport in both(way, "http://provider.example"):
                heard.clear()
                assert (await way.post(transport)).status == 200
                assert heard.startswith(b"POST http://provider.example/v1/")

    asyncio.run(main())


def test_an_error_in_fetching_credentials_is_mapped_too() -> None:
    async def expired() -> str:
        raise openai.OpenAIError("the login has expired")

    async def main() -> None:
        client = openai.AsyncOpenAI(api_key=expired)
        with pytest.raises(AuthenticationFailed, match="the login has expired"):
            await WAYS["openai"].post(SdkOpenAI(client))
        await client.close()

    asyncio.run(main())


def test_status_errors_that_do_not_come_through_a_transport_are_mapped_with_all_they_say() -> None:
    """As when a user's own code calls the SDK inside ours."""
    import httpx2

    request = httpx2.Request("POST", "http://h")
    response = httpx2.Response(
        429, headers={"x-request-id": "req_9", "retry-after-ms": "250"}, json={"error": {"message": "slow"}}, request=request
    )
    with pytest.raises(RateLimited) as caught, mapped_errors("openai"):
        raise openai.RateLimitError("slow", response=response, body=None)
    error = caught.value
    assert (error.status, error.request_id, error.retry_after, error.retryable, error.provider) == (429, "req_9", 0.25, True, "openai")


@pytest.mark.parametrize("error", [KeyError("x"), asyncio.CancelledError(), InputError("ours"), ZeroDivisionError()])
def test_what_no_transport_raises_passes_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, mapped_errors("openai"):
        raise error
    assert caught.value is error


# --- warnings, loops, what is loaded ------------------------------------------------------------------


def test_a_deprecated_model_is_warned_of_and_answered() -> None:
    way = WAYS["anthropic"]
    body = ANTHROPIC.replace(b"claude-haiku-5-5", b"claude-sonnet-4-5")

    with Provider(settings=Settings(foreign=False)) as provider:

        async def main() -> Answer:
            return await way.sdk(provider.url).post(way.path, way.headers, body, timeout=10)

        with pytest.warns(DeprecationWarning, match="claude-sonnet-4-5.*end-of-life"):
            assert asyncio.run(main()).status in {200, 404}
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("error", DeprecationWarning)
            assert asyncio.run(main()).status in {200, 404}
        assert [str(one.message) for one in shown if "claude-sonnet-4-5" in str(one.message)], "neither an error nor lost"


def test_one_transport_serves_several_loops(way: Way) -> None:
    with Provider() as provider:
        transport = way.sdk(provider.url)
        statuses: list[int] = []

        async def calls() -> None:
            statuses.extend([answer.status for answer in await asyncio.gather(*(way.post(transport) for _ in range(3)))])

        asyncio.run(calls())
        threads = [threading.Thread(target=asyncio.run, args=(calls(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(calls())
        assert statuses == [200] * 15


@pytest.mark.parametrize("ending", ["print(asyncio.run(call()))", "from promptsmith.runtime.loop import LOOP\nprint(LOOP.wait(call()))"])
def test_nothing_is_said_at_the_end(way: Way, ending: str) -> None:
    name = type(way.sdk("http://h")).__name__
    code = f"""
import asyncio
from promptsmith.models.transport.sdk_{way.protocol} import {name}
async def call(): return (await transport.post({way.path!r}, {{}}, {way.body!r}, timeout=20)).status
"""
    with Provider() as provider:
        made = f"transport = {name}(url={provider.url!r}, key={KEY!r})\n"
        done = subprocess.run(
            [sys.executable, "-W", "default::ResourceWarning", "-c", code + made + ending],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("200\n", "")


def test_the_sdk_is_loaded_by_the_first_call_and_not_before() -> None:
    code = """
import sys, asyncio
from promptsmith.models.transport.sdk_openai import SdkOpenAI
from promptsmith.models.transport.sdk_anthropic import SdkAnthropic
made = SdkOpenAI(url="http://127.0.0.1:1", key="x"), SdkAnthropic(url="http://127.0.0.1:1", key="x")
loaded = {name for name in ("openai", "anthropic", "httpx2", "aiohttp") if name in sys.modules}
async def main():
    try:
        await made[0].post("/chat/completions", {}, b"{}", timeout=5)
    except Exception as error:
        print(loaded, "openai" in sys.modules, "anthropic" in sys.modules, type(error).__name__)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "set() True False ProviderDown\n"
