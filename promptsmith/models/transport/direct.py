"""Calls over a pooled aiohttp client of our own: no SDK is loaded, and a call costs a quarter of the SDK's CPU.

aiohttp's ``trust_env`` is not used: it asks the environment for a proxy, and ``.netrc`` for a password, in a thread
per request (and then refuses the request, which has its key already). The proxy is looked up once per client.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from ...errors import MalformedReply
from ...version import VERSION
from .address import Protocol, base_url, proxy_for
from .headers import answered, check_headers
from .loops import PerLoop
from .mapping import mapped_errors
from .protocol import CONNECT_SECONDS, MAX_REPLY_BYTES, Answer, Streamed
from .trust import trusted

_KEEPALIVE_SECONDS = 30.0
_LARGE_BYTES = 2**20
_OURS = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": f"promptsmith/{VERSION}"}
"""Compressed streams arrive late, and replies are small; a server that compresses all the same is understood."""


class Direct:
    """Calls to one endpoint. Raises :class:`InputError` for a base URL or proxy that can't be used.

    Redirects are not followed: they would turn the call into a GET, or take the key to another place.
    """

    def __init__(self, url: str, protocol: Protocol, *, provider: str = "", max_bytes: int = MAX_REPLY_BYTES) -> None:
        self.base_url = base_url(url, protocol)
        self._max = max_bytes
        self._errors = mapped_errors(provider or protocol, address=self.base_url)
        self._provider = provider or protocol
        self._urls: dict[str, URL] = {}
        self._per_loop = PerLoop(self._session, aiohttp.ClientSession.close, aiohttp.ClientSession.detach)

    def _session(self) -> aiohttp.ClientSession:
        # Reading the system's certificates takes 20 ms: not for a server that is called without TLS.
        trust = trusted() if self.base_url.startswith("https:") else True
        connector = _Connector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, ssl=trust)  # limits stand above, in models/limits.py
        # A cookie set by a gateway would tie all later calls to one of its servers.
        jar = aiohttp.DummyCookieJar()
        return aiohttp.ClientSession(connector=connector, cookie_jar=jar, proxy=proxy_for(self.base_url), headers=_OURS)

    async def post(self, path: str, headers: Mapping[str, str], body: bytes, *, timeout: float | None) -> Answer:  # noqa: ASYNC109
        """The whole answer; as :class:`~.protocol.Transport`."""
        return await self._answer("POST", path, headers, _body(body), timeout)

    async def get(self, path: str, headers: Mapping[str, str], *, timeout: float | None) -> Answer:  # noqa: ASYNC109
        """What stands at ``path``. Raises as :meth:`post`."""
        return await self._answer("GET", path, headers, None, timeout)

    async def _answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | io.BytesIO | None, seconds: float | None
    ) -> Answer:
        check_headers(headers)
        session = self._per_loop.find() or await self._per_loop.get()
        with self._errors:
            limit = aiohttp.ClientTimeout(total=seconds, connect=CONNECT_SECONDS)
            response = await session.request(method, self._url(path), data=body, headers=headers, timeout=limit, allow_redirects=False)
            try:
                with self._errors:
                    short = self._is_short(response)
                    data = await response.read() if short else b"".join([piece async for piece in self._pieces(response)])
            except BaseException as error:
                response.close()  # half read, the connection is of no use to anybody
                answered(error, response.status, response.headers)
                raise
            return Answer(response.status, response.headers, data)

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout: float | None,  # noqa: ASYNC109
    ) -> AsyncIterator[Streamed]:
        """The answer as it comes; as :class:`~.protocol.Transport`."""
        check_headers(headers)
        session = self._per_loop.find() or await self._per_loop.get()
        with self._errors:
            # Not a total: that would count the time which the consumer takes, too.
            limit = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=timeout)
            response = await session.post(self._url(path), data=_body(body), headers=headers, timeout=limit, allow_redirects=False)
        try:
            yield Streamed(response.status, response.headers, self._mapped(response))
        finally:
            # One that was read to its end has gone back to the pool by itself; any other is closed.
            response.close()

    async def close(self) -> None:
        """Closes the connections; a later call opens new ones."""
        await self._per_loop.close()

    async def _mapped(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        with self._errors:
            async for piece in self._pieces(response):
                yield piece

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        size = 0
        while piece := await response.content.readany():
            size += len(piece)
            if size > self._max:
                raise MalformedReply(f"{self.base_url} sent more than {self._max // 2**20} MB for one reply", provider=self._provider)
            yield piece

    def _is_short(self, response: aiohttp.ClientResponse) -> bool:
        """The server said so, and it can't be a small package with much inside."""
        size = response.content_length
        return size is not None and size <= self._max and "Content-Encoding" not in response.headers

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.base_url + path, encoded=True)
        return url


class _Connector(aiohttp.TCPConnector):
    """One that is dropped in silence: after a fork, or when its loop is over, closing its connections would be wrong."""

    def __del__(self, *_: object) -> None:
        pass


def _body(data: bytes) -> bytes | io.BytesIO:
    # aiohttp warns of long bytes, which it sends in one piece; a file it sends in several.
    return data if len(data) <= _LARGE_BYTES else io.BytesIO(data)
