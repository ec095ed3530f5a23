"""What both official clients have in common as a way for our bytes; each one's own calls are in its adapter."""

from __future__ import annotations

import asyncio
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from ...errors import InputError, MalformedReply, ModelError
from ..waiting import within
from .address import Protocol, base_url
from .headers import answered, check_headers
from .loops import PerLoop
from .mapping import mapped_errors
from .protocol import CONNECT_SECONDS, MAX_REPLY_BYTES, Answer, Streamed

if TYPE_CHECKING:
    import httpx2

_CREDENTIALS = frozenset({"authorization", "x-api-key", "content-type", "accept", "user-agent"})


class SdkTransport(ABC):
    """Calls through an official client's low-level ``post``: its credentials, clouds and profiles, our bytes and retries.

    ``client`` is any asynchronous client of the package, used as it is and never closed; without one, a client is made
    (per event loop, at first use) from ``url`` and ``key``. The credentials that the package finds in its environment
    are used for the package's own address only: without a key, another server gets none.
    """

    package: ClassVar[str]
    home: ClassVar[str]
    """The host that the environment's credentials are for."""
    protocol: ClassVar[Protocol]
    example: ClassVar[str]
    """The client that most people have."""

    def __init__(
        self,
        client: object | None = None,
        *,
        url: str = "",
        key: str | None = None,
        provider: str = "",
        key_variable: str = "",
        max_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self.base_url = base_url(url, self.protocol) if url else ""
        self._given = None if client is None else self._checked(client)
        self._key = key or None
        self._keyless = client is None and bool(url) and not key and urlsplit(self.base_url).hostname != self.home
        self._provider = provider or self.protocol
        self._max = max_bytes
        if key:
            check_headers({"authorization": key})
        self._errors = mapped_errors(self._provider, address=self.base_url or _address(self._given), key_variable=key_variable)
        self._clients = PerLoop(self._made, self._closed, lambda client: None)

    @property
    def _shown_key(self) -> str | None:
        """The key to make a client with: something, where none is to be sent, or it would look for one itself."""
        return "none" if self._keyless else self._key

    @abstractmethod
    def _made(self) -> Any:
        """A new client, with its own retries off."""

    @abstractmethod
    async def _send(self, client: Any, path: str, content: Mapping[str, Any], options: Mapping[str, Any]) -> httpx2.Response:
        """The client's answer with its body unread; ``content`` is the body as the client's ``post`` takes it."""

    async def post(self, path: str, headers: Mapping[str, str], body: bytes, *, timeout: float | None) -> Answer:  # noqa: ASYNC109
        """The whole answer; as :class:`~.protocol.Transport`."""
        with self._errors:
            return await within(timeout, self._collected(path, headers, body))

    async def _collected(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        async with self.stream(path, headers, body, timeout=None) as answer:
            try:
                data = b"".join([piece async for piece in answer.pieces])
            except BaseException as error:
                answered(error, answer.status, answer.headers)
                raise
            return Answer(answer.status, answer.headers, data)

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
        with self._errors:
            client = self._given or self._clients.find() or await self._client()
            # A cloud's client moves parts of the body into the address, for which it must be a mapping.
            content = {"content": body} if self._given is None else {"body": msgspec.json.decode(body)}
            own: dict[str, Any] = {name: value for name, value in headers.items() if name.lower() not in _CREDENTIALS}
            if self._keyless:
                own = {**own, "Authorization": sys.modules[self.package].Omit()}
            options = {"headers": own, "timeout": _timeouts(timeout), "max_retries": 0}
            try:
                response = await self._send(client, path, content, options)
            except Exception as error:  # of a class that exists only once the package is loaded: looked at in the next line
                answered = getattr(error, "response", None) if isinstance(error, sys.modules[self.package].APIStatusError) else None
                if answered is None:
                    raise
                response = answered
        try:
            self._check_kind(response)
            yield Streamed(response.status_code, response.headers, self._pieces(response))
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Closes the clients made here; a later call makes new ones."""
        await self._clients.close()

    async def _client(self) -> Any:
        if self.package not in sys.modules:
            # Loading it takes 0.5 to 1.2 seconds, for which the loop's other calls should not wait.
            await asyncio.to_thread(import_module, self.package)
        return await self._clients.get()

    @staticmethod
    async def _closed(client: Any) -> None:
        await client.close()

    async def _pieces(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        size = 0
        with self._errors:
            async for piece in response.aiter_bytes():
                size += len(piece)
                if size > self._max:
                    raise MalformedReply(f"{self._provider} sent more than {self._max // 2**20} MB for one reply", provider=self._provider)
                yield piece

    def _check_kind(self, response: httpx2.Response) -> None:
        if "vnd.amazon.eventstream" in response.headers.get("content-type", ""):
            raise ModelError(
                f"{self._provider} streams in Amazon's own format, which can't be read", hint="ask for the whole reply instead"
            )

    def _checked(self, client: object) -> object:
        """Itself. Raises :class:`InputError` for what is no asynchronous client of the package."""
        kind = type(client)
        if not any(base.__module__.split(".")[0] == self.package for base in kind.__mro__):
            raise InputError(
                f"{kind.__name__} is no client of the package {self.package!r}",
                hint=f"hand in an object like {self.package}.{self.example}()",
            )
        if not inspect.iscoroutinefunction(getattr(client, "post", None)):
            raise InputError(
                f"{self.package}.{kind.__name__} is a blocking client; promptsmith needs an asynchronous one",
                hint=f"hand in {self.package}.Async{kind.__name__}, made with the same arguments",
            )
        return client


def _address(client: object) -> str:
    """Where a client's calls go, for messages."""
    return str(getattr(client, "base_url", "")).rstrip("/")


def _timeouts(limit: float | None) -> httpx2.Timeout:
    """``limit`` seconds for each wait, and the usual for a connection."""
    import httpx2

    return httpx2.Timeout(limit, connect=CONNECT_SECONDS)
