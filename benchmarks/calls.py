"""A thousand calls to a provider that takes 50 ms, 64 in flight: ``run_many``, journaled, beside a bare aiohttp client.

Also the CPU of one call without the provider's time, and what the sync face adds to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp

from promptsmith import AsyncRuntime, Runtime
from promptsmith.config import Project, find_project
from promptsmith.runtime import Failure, run_many
from promptsmith.store import DiskStore
from tests.provider import KEY, provider_process

from .measure import MICRO, Figure, Measure, interleaved, show
from .projects import promoted

MODEL = "openai/gpt-6-luna"
CALLS, IN_FLIGHT, ONE_BY_ONE = 1000, 64, 500
TASK = """\
task: Classify the sentiment of a customer message.
output: [positive, negative, neutral]
models: {production: openai/gpt-6-luna}
examples:
  - {input: "This product is amazing!", output: positive}
  - {input: "It broke after a day.", output: negative}
  - {input: "When does the shop open?", output: neutral}
"""


@contextlib.contextmanager
def served(url: str) -> Iterator[Project]:
    """A project whose OpenAI endpoint is the provider at ``url``."""
    os.environ["OPENAI_API_KEY"] = KEY
    with promoted({"sentiment": TASK}) as project:
        (project.root / "promptsmith.toml").write_text(
            f'[endpoints.openai]\nprotocol = "openai"\nbase_url = "{url}/v1"\napi_key_env = "OPENAI_API_KEY"\nforeign = false\n'
        )
        yield find_project(project.root)


def timed(work: Callable[[], Awaitable[None]], clock: Callable[[], float]) -> Measure:
    """Seconds of ``clock`` that ``work`` takes, its event loop included."""

    def measure() -> float:
        begin = clock()
        asyncio.run(work())  # type: ignore[arg-type]  # the work is a coroutine function
        return clock() - begin

    return measure


def ours(project: Project) -> Callable[[], Awaitable[None]]:
    """``CALLS`` inputs through ``run_many``, each reply journaled before it is handed on, in a fresh store."""

    async def work() -> None:
        with tempfile.TemporaryDirectory() as folder, DiskStore(Path(folder)) as store:
            runtime = AsyncRuntime(project, store=store)
            results = await run_many(runtime, "sentiment", [f"message {n}" for n in range(CALLS)], concurrency=IN_FLIGHT)
            assert not any(isinstance(result, Failure) for result in results)

    return work


def bare(url: str, system: str) -> Callable[[], Awaitable[None]]:
    """The same bodies with nothing around them."""

    async def work() -> None:
        numbers = iter(range(CALLS))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def worker() -> None:
                for number in numbers:
                    messages = [{"role": "developer", "content": system}, {"role": "user", "content": f"message {number}"}]
                    body = json.dumps({"model": "gpt-6-luna", "messages": messages, "max_completion_tokens": 100}).encode()
                    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
                    async with session.post(f"{url}/v1/chat/completions", data=body, headers=headers) as response:
                        json.loads(await response.read())

            await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))

    return work


def one_by_one(project: Project, *, sync: bool) -> Measure:
    """CPU seconds of ``ONE_BY_ONE`` single calls in a row, all threads counted, through either face."""

    async def awaited() -> None:
        runtime = AsyncRuntime(project)
        for number in range(ONE_BY_ONE):
            await runtime.run("sentiment", f"message {number}")

    async def blocking() -> None:
        # Inside a running loop, as the other: so both pay for one loop's start and end.
        runtime = Runtime(project)
        for number in range(ONE_BY_ONE):
            runtime.run("sentiment", f"message {number}")

    return timed(blocking if sync else awaited, time.process_time)


def figures() -> list[Figure]:
    """Wall time with a 50 ms provider, CPU per call with one that answers at once."""
    with provider_process("--bare", "--latency", "0.05", "--answer", "constant:positive") as url, served(url) as project:
        system = system_of(project)
        wall = interleaved(timed(ours(project), time.perf_counter), timed(bare(url, system), time.perf_counter), rounds=5)
    with provider_process("--bare", "--answer", "constant:positive") as url, served(url) as project:
        cpu = interleaved(timed(ours(project), time.process_time), timed(bare(url, system), time.process_time), rounds=5)
        faces = interleaved(one_by_one(project, sync=True), one_by_one(project, sync=False), rounds=5)
    mine, its = (seconds / CALLS * MICRO for seconds in cpu)
    blocking, awaited = (seconds / ONE_BY_ONE * MICRO for seconds in faces)
    return [
        Figure("1,000 calls, 50 ms provider, 64 in flight", wall[0], "s", "at most 1.12 times", wall[1], "bare aiohttp"),
        Figure("CPU of one call, all in", mine, "µs", "at most 450 µs or 2 times", its, "bare aiohttp"),
        Figure("CPU that the sync face adds to a call", blocking - awaited, "µs", "at most 200 µs"),
        Figure("  CPU of one call by itself, sync", blocking, "µs", "-", awaited, "the async face"),
    ]


def system_of(project: Project) -> str:
    """The system prompt that is served, for a peer to send as well."""
    return AsyncRuntime(project).resolve("sentiment").prompt.system


if __name__ == "__main__":
    show(figures())
