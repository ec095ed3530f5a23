"""``fetch``: one HTTP GET of a page on a list of hosts; no shell, no cookies, no credentials, no proxy.

Host, port and resolved address are checked before each connection, those after redirects included, and the connection goes to the
very address that was checked: DNS that answers otherwise the second time (rebinding) is never asked a second time.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, NamedTuple

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ....errors import InputError, WorkerError
from ....models.transport.mapping import mapped_errors
from ....models.transport.trust import trusted
from ....models.wire.fields import tidy
from ....version import VERSION
from ..addresses import check_address, check_host, check_pattern, host_of, is_address, parsed
from ..values import Ask, Bytes, Kind, Place, Worker, WorkerCall, WorkerResult, WorkerSettings

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host and port. Raises :class:`OSError`."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEXTUAL = re.compile(r"text/[\w.+-]+|application/(?:json|xml|[\w.+-]+\+(?:json|xml))")
_HEADERS = {
    "Accept": "text/*, application/json, application/xml;q=0.9",
    "Accept-Encoding": "identity",
    "User-Agent": f"promptsmith/{VERSION}",
}
_CHARSETS = re.compile(
    r"ascii|utf-(?:8|16|32)(?:-[bl]e|-sig)?|iso8859-\d+|cp\d+|koi8-[rut]|shift_jis\w*|euc_\w+|gb(?:2312|k|18030)|big5\w*|iso2022_\w+|mac-\w+|tis-620"
)
"""Python's names of the charsets that pages are written in; its other codecs can be slow, or hide characters."""
_URL = "url"


class FetchSettings(WorkerSettings, frozen=True, kw_only=True):
    """``[workers.NAME] kind = "fetch"``. Raises :class:`InputError` for an entry of ``hosts`` that is no host."""

    hosts: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """The hosts that it may fetch from: ``docs.example.com``, or ``*.example.com`` for all below it (itself not)."""
    ports: tuple[Annotated[int, msgspec.Meta(ge=1, le=65535)], ...] = (80, 443)
    max_bytes: Bytes = 400_000
    redirects: Annotated[int, msgspec.Meta(ge=0, le=20)] = 5
    """That are followed at most."""
    allow_private: tuple[str, ...] = ()
    """For tests alone: ``address:port`` pairs that may be connected to although they are not public."""

    def __post_init__(self) -> None:
        for host in self.hosts:
            check_pattern(host)


class Page(NamedTuple):
    """What came back at last."""

    url: str
    kind: str
    text: str


class Fetcher:
    """Fetches pages within one worker's settings. ``resolve`` finds addresses (default: the system's resolver)."""

    def __init__(self, settings: FetchSettings, resolve: Resolve | None = None) -> None:
        self._settings = settings
        self._resolve = resolve or _system_resolve

    async def page(self, text: str) -> Page:
        """What stands at an address. Raises :class:`WorkerError` saying what was refused or went wrong."""
        url = parsed(text)
        seen: list[URL] = []
        while True:
            if url in seen:
                raise WorkerError(f"{seen[0]} redirects in a circle, by {url}")
            seen.append(url)
            if len(seen) > self._settings.redirects + 1:
                raise WorkerError(f"{seen[0]} redirects more than {self._settings.redirects} times")
            found = await self._get(url)
            if isinstance(found, Page):
                return found
            if url.scheme == "https" and found.scheme == "http":
                raise WorkerError(f"{url} redirects from https to {found}, which anybody on the way could read or change")
            url = found

    async def _get(self, url: URL) -> Page | URL:
        """The page, or where it has gone to."""
        check_host(url, self._settings.hosts, self._settings.ports)
        pinned = _Pinned(await self._addresses(url))
        trust = trusted() if url.scheme == "https" else True
        connector = aiohttp.TCPConnector(resolver=pinned, use_dns_cache=False, force_close=True, limit=1, ssl=trust)
        # A session for each request: no cookie outlives it. What is sent compressed all the same is refused, and so can't grow.
        session = aiohttp.ClientSession(connector=connector, headers=_HEADERS, trust_env=False, auto_decompress=False)
        limit = aiohttp.ClientTimeout(total=None)  # the worker's own stands around all of it
        errors = mapped_errors(host_of(url), address=str(url.origin()))
        async with session:
            try:
                async with session.get(url, allow_redirects=False, timeout=limit) as response:
                    return await self._read(url, response)
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                known = errors.mapped(error)
                told = known.message if known else f"{url.origin()}: {error}"
                raise WorkerError(told, retryable=getattr(known, "retryable", True)) from None

    async def _addresses(self, url: URL) -> list[str]:
        host, port = host_of(url), url.port or 0
        try:
            # The connector takes an address in the place of a host as it stands, so that is what is checked.
            found = [host] if is_address(host) else list(dict.fromkeys(await self._resolve(host, port)))
        except (OSError, UnicodeError):  # the latter for labels that no DNS name can have
            found = []
        if not found:
            raise WorkerError(f"the host {host!r} can't be found", retryable=True)
        for address in found:
            check_address(address, port, self._settings.allow_private)
        return found

    async def _read(self, url: URL, response: aiohttp.ClientResponse) -> Page | URL:
        if response.status in _REDIRECTS:
            return _target(url, response)
        if response.status != 200:
            again = response.status == 429 or response.status >= 500
            raise WorkerError(f"{url} answered with status {response.status}", retryable=again)
        kind = response.content_type if "Content-Type" in response.headers else ""
        if not _TEXTUAL.fullmatch(kind.lower()):
            raise WorkerError(f"{url} is {tidy(kind, 60) or 'of no stated type'}", hint="only text, JSON and XML are fetched")
        packed = response.headers.get("Content-Encoding", "identity").lower()
        if packed != "identity":
            raise WorkerError(f"{url} came compressed ({tidy(packed, 60)}), which was not asked for")
        data = await self._body(url, response)
        return Page(str(url), kind, data.decode(_charset(response), "replace").removeprefix("\ufeff"))

    async def _body(self, url: URL, response: aiohttp.ClientResponse) -> bytes:
        most = self._settings.max_bytes
        pieces: list[bytes] = []
        size = 0
        while piece := await response.content.readany():
            size += len(piece)
            if size > most:
                raise WorkerError(f"{url} is longer than {most:,} bytes", hint="raise max_bytes in the worker's settings")
            pieces.append(piece)
        return b"".join(pieces)


class _Pinned(AbstractResolver):
    """Says the addresses that were checked, to whatever host it is asked for: the connection is made to these."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:  # noqa: ARG002
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Holds nothing."""


async def _system_resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _target(url: URL, response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location", "")
    if not location:
        raise WorkerError(f"{url} redirects to nowhere")
    try:
        return parsed(str(url.join(URL(location))))
    except WorkerError as error:
        raise WorkerError(f"{url} redirects to what can't be fetched: {error.message}", hint=error.hint) from None
    except ValueError:
        raise WorkerError(f"{url} redirects to {location[:120]!r}, which is no address") from None


def _charset(response: aiohttp.ClientResponse) -> str:
    try:
        name = codecs.lookup(response.charset or "utf-8").name
    except LookupError:
        return "utf-8"
    return name if _CHARSETS.fullmatch(name) else "utf-8"


# --- as a worker ------------------------------------------------------------------------------------------


def _make(settings: FetchSettings, place: Place) -> Worker:  # noqa: ARG001 - the kind's signature
    fetcher = Fetcher(settings)

    async def fetch(call: WorkerCall, _ask: Ask) -> WorkerResult:
        page = await fetcher.page(_address(call))
        value: dict[str, Any] = {"url": page.url, "type": page.kind, "text": page.text}
        return WorkerResult(text=f"URL: {page.url}\n\n{page.text}", value=value, sources=(page.url,))

    return Worker(fetch)


def _address(call: WorkerCall) -> str:
    """The argument ``url``, else the context of that name, else the only context, else the step's instructions."""
    odd = [name for name in call.arguments if name != _URL]
    if odd:
        raise InputError(f"the worker {call.worker} takes no argument {odd[0]!r}", hint=f"it takes {_URL}")
    only = next(iter(call.context.values())) if len(call.context) == 1 else call.instructions
    asked = call.arguments.get(_URL, call.context.get(_URL, only))
    if isinstance(asked, str) and asked.strip():
        return asked.strip()
    raise InputError(f"the worker {call.worker} is told no address", hint=f"give the step the argument {_URL}, or a context of that name")


KIND = Kind(FetchSettings, _make)
