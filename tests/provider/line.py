"""Puts an answer on the line, whole or with a fault somewhere in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from aiohttp import web

from .faults import BEFORE, Fault
from .records import Record

PAGE = b"<!DOCTYPE html>\n<html><head><title>Bad gateway</title></head><body><h1>The page you asked for is not here</h1></body></html>\n"
GARBAGE = bytes(range(128, 256)) + b"\x00\xff{\xfe" + bytes(range(32))
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
_QUARTERS = 4
_NO_LINGER = struct.pack("ii", 1, 0)


class Line:
    """The way back to one client."""

    def __init__(self, request: web.BaseRequest, record: Record, stopping: asyncio.Event) -> None:
        self._request = request
        self._record = record
        self._stopping = stopping

    # --- whole answers ------------------------------------------------------------------------------------

    def body(self, data: bytes, headers: Mapping[str, str], *, status: int = 200, kind: str = JSON) -> web.Response:
        """An answer in one piece; aiohttp sends it."""
        self._begun(status)
        return web.Response(body=data, status=status, headers={**headers, "content-type": kind})

    async def stream(self, events: Sequence[bytes], headers: Mapping[str, str], pace: float) -> web.StreamResponse:
        """A stream, each event in its own write, ``pace`` seconds apart."""
        response = await self._open(headers, EVENTS)
        for number, event in enumerate(events):
            if pace and number:
                await asyncio.sleep(pace)
            await response.write(event)
            self._record.events += 1
        return response

    # --- faulty ones --------------------------------------------------------------------------------------

    async def early(self, fault: Fault, headers: Mapping[str, str]) -> web.StreamResponse | None:
        """The fault in place of an answer; ``None`` when an answer still follows."""
        match fault.kind:
            case "hang":
                await self._hang()
            case "reset":
                self._reset()
            case "close":
                self._close()
            case "slow":
                await asyncio.sleep(fault.seconds)
            case "html":
                return self.body(PAGE, {**headers, **fault.headers()}, status=fault.status, kind="text/html; charset=utf-8")
            case "empty":
                return self.body(b"", headers)
            case "garbage":
                return self.body(GARBAGE, headers)
            case _:
                pass
        return None

    async def faulty(
        self, data: bytes | Sequence[bytes], headers: Mapping[str, str], fault: Fault, pace: float, errors: Sequence[bytes]
    ) -> web.StreamResponse:
        """An answer (bytes for a whole body, a sequence for a stream's events) with ``fault`` at its point.

        ``errors`` is what an HTTP error becomes once the answer has begun.
        """
        whole = isinstance(data, bytes)
        parts = _quarters(data) if isinstance(data, bytes) else list(data)
        place = min(max(fault.at, 0), len(parts))
        before, rest = parts[:place], parts[place:]
        if fault.inside and before:
            cut = len(before[-1]) // 2
            before, rest = [*before[:-1], before[-1][:cut]], [before[-1][cut:], *rest]
        response = await self._open(headers, JSON if whole else EVENTS)
        for number, part in enumerate(before):
            if pace and number:
                await asyncio.sleep(pace)
            await response.write(part)
        self._record.events += 0 if whole else len(before) - (fault.inside and bool(before))
        for part in await self._strike(fault, rest, errors, response):
            await response.write(part)
        return response

    async def _strike(self, fault: Fault, rest: Sequence[bytes], errors: Sequence[bytes], response: web.StreamResponse) -> Sequence[bytes]:
        """Does the fault and returns what is still to be sent."""
        match fault.kind:
            case "hang":
                await self._hang()
            case "reset":
                self._reset()
            case "close":
                self._close()
            case "slow":
                await asyncio.sleep(fault.seconds)
                return rest
            case "drip":
                await self._drip(b"".join(rest), fault.seconds, response)
            case "status":
                # After half an event the error still is one of its own.
                return [b"\n\n", *errors] if fault.inside else errors
            case "html":
                return [PAGE]
            case "garbage":
                return [GARBAGE]
            case "truncated":
                following = next(iter(rest), b"")
                end = b"\n\n" if following.endswith(b"\n\n") else b""
                return [following[: len(following) // 2] + end] if fault.at != BEFORE or end else [b"".join(rest)[:-20]]
            case _:
                pass
        return []

    # --- the tools ----------------------------------------------------------------------------------------

    def _begun(self, status: int) -> None:
        self._record.status = status
        self._record.first_byte = time.monotonic()

    async def _open(self, headers: Mapping[str, str], kind: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={**headers, "content-type": kind, "cache-control": "no-cache"})
        self._begun(200)
        await response.prepare(self._request)
        return response

    async def _drip(self, data: bytes, seconds: float, response: web.StreamResponse) -> None:
        for byte in data:
            await asyncio.sleep(seconds)
            await response.write(bytes([byte]))

    async def _hang(self) -> NoReturn:
        # Ends with the client (aiohttp cancels) or with the provider; never by itself.
        await self._stopping.wait()
        self._reset()

    def _reset(self) -> NoReturn:
        transport = self._request.transport
        if transport is not None:
            # A duplicate, since uvloop's own socket object can't be set; the option is of the socket they share.
            with contextlib.closing(socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))) as shared:
                shared.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            transport.abort()
        raise Ended

    def _close(self) -> NoReturn:
        if self._request.transport is not None:
            self._request.transport.close()
        raise Ended


class Ended(ConnectionError):
    """The provider itself ended the connection; aiohttp takes it for a client that went away."""


def _quarters(data: bytes) -> list[bytes]:
    size = -(-len(data) // _QUARTERS) or 1
    return [data[start : start + size] for start in range(0, len(data), size)]
