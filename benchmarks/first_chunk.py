"""The time that ``AsyncRuntime.stream`` adds to the first piece of a streamed answer, over a bare aiohttp stream.

Both on a warm connection in one event loop, taking turns; the bare client parses each event only as far as its text.
"""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp

from promptsmith import AsyncRuntime
from tests.provider import KEY, provider_process

from .calls import served, system_of
from .measure import MILLI, Figure, interleaved, show

ROUNDS = 300


async def ours(runtime: AsyncRuntime) -> float:
    """Seconds to the first text; the stream is then read to its end, as the bare one is, and its connection kept."""
    first, begin = 0.0, time.perf_counter()
    async for chunk in runtime.stream("sentiment", "I love it"):
        if chunk.text and not first:
            first = time.perf_counter() - begin
    return first


async def bare(session: aiohttp.ClientSession, url: str, system: str) -> float:
    """The same request with nothing around it."""
    first, begin = 0.0, time.perf_counter()
    messages = [{"role": "developer", "content": system}, {"role": "user", "content": "I love it"}]
    body = {"model": "gpt-6-luna", "messages": messages, "max_completion_tokens": 100, "stream": True}
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    async with session.post(f"{url}/v1/chat/completions", data=json.dumps(body).encode(), headers=headers) as response:
        async for line in response.content:
            if line.startswith(b"data: {") and not first:
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    first = time.perf_counter() - begin
    return first


def figures() -> list[Figure]:
    """What is added, and both whole."""
    with provider_process("--answer", "constant:positive") as url, served(url) as project, asyncio.Runner() as runner:
        runtime, system = AsyncRuntime(project), system_of(project)
        session = runner.run(_session())
        mine, its = interleaved(lambda: runner.run(ours(runtime)), lambda: runner.run(bare(session, url, system)), rounds=ROUNDS)
        runner.run(session.close())
    return [
        Figure("first streamed chunk, added", (mine - its) * MILLI, "ms", "at most 0.5 ms"),
        Figure("  to the first streamed chunk, whole", mine * MILLI, "ms", "-", its * MILLI, "bare aiohttp"),
    ]


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


if __name__ == "__main__":
    show(figures())
