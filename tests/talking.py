"""A server that speaks bytes, for what no proper server would say."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Line:
    """A server that speaks bytes: what it was sent, how many connections there were, and how many have ended."""

    def __init__(self, answer: Handler) -> None:
        self._answer = answer
        self.opened = 0
        self.asked = asyncio.Semaphore(0)
        self.ended = asyncio.Semaphore(0)
        self.seen = bytearray()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while head := await self.head(reader):
                self.seen += head
                length = next((int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length")), 0)
                self.seen += await reader.readexactly(length)
                self.asked.release()
                await self._answer(reader, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.ended.release()
            writer.close()

    @staticmethod
    async def head(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""


@asynccontextmanager
async def line(answer: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Line]:
    made = Line(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()


def says(data: bytes) -> Handler:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def make_certificate(folder: Path, name: str = "IP:127.0.0.1") -> tuple[Path, Path] | None:
    """A certificate that no system trusts, for ``name``, and its key; ``None`` where there is no openssl to make them."""
    made = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=test", "-addext", f"subjectAltName={name}", "-out", str(made[0]), "-keyout", str(made[1])]
    try:
        subprocess.run([*command, *names], check=True, capture_output=True)
    except FileNotFoundError:
        return None
    return made


def server_side(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context
