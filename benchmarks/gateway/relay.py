"""``python -m benchmarks.gateway.relay``: the least that a gateway of aiohttp can do, beside which others are measured.

It puts a system prompt in by the model's name, passes the request on and relays the answer. No keys, limits, ledger, metrics, retries
or checks; an upstream that fails is a failed request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from aiohttp import ClientSession, TCPConnector, web

Prompts = Mapping[str, tuple[str, str]]
"""By the model's name for clients: the upstream's name for the model, and the system prompt."""
_HEADERS = {"content-type": "application/json", "authorization": "Bearer none"}


def handler(session: ClientSession, upstream: str, prompts: Prompts) -> Callable[[web.BaseRequest], Any]:
    """Relays one request."""

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        body["model"], system = prompts[body["model"]]
        body["messages"].insert(0, {"role": "system", "content": system})
        async with session.post(upstream + request.path, data=msgspec.json.encode(body), headers=_HEADERS) as answer:
            kind = answer.headers.get("content-type", "")
            if not body.get("stream"):
                return web.Response(body=await answer.read(), status=answer.status, headers={"content-type": kind})
            response = web.StreamResponse(status=answer.status, headers={"content-type": kind})
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    return relay


async def _serve(port: int, upstream: str, prompts: Prompts) -> None:
    async with ClientSession(connector=TCPConnector(limit=0), auto_decompress=False) as session:
        runner = web.ServerRunner(web.Server(handler(session, upstream, prompts), access_log=None))
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", port), reuse_port=True, backlog=4096)
        await web.SockSite(runner, listener).start()
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        await told.wait()
        await runner.cleanup()


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway.relay", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--upstream", required=True, metavar="URL")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help='JSON: {"name": ["model", "system prompt"]}')
    options = parser.parse_args()
    prompts = msgspec.json.decode(options.prompts.read_bytes(), type=dict[str, tuple[str, str]])
    for _ in range(options.workers - 1):
        if not os.fork():
            break
    uvloop.run(_serve(options.port, options.upstream, prompts))


if __name__ == "__main__":
    main()
