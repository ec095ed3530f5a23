"""Peak memory of a thousand calls through ``run_many``, 64 in flight, each journaled, in a process that does nothing else."""

from __future__ import annotations

import subprocess
import sys

from tests.provider import KEY, provider_process

from .calls import CALLS, IN_FLIGHT, served, system_of
from .measure import Figure, show

# Not getrusage on Linux: there a child's ru_maxrss begins with what its parent had when it was started.
PEAK = """
def peak():
    try:
        lines = open("/proc/self/status").read().split("VmHWM:")[1].split()
        return int(lines[0]) * 1024
    except FileNotFoundError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""
OURS = """
import asyncio, sys
from promptsmith import AsyncRuntime
project, calls, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
async def main():
    async with AsyncRuntime(project) as runtime:
        results = await runtime.run_many("sentiment", [f"message {n}" for n in range(calls)], concurrency=at_once)
    assert len(results) == calls and all(result.ok for result in results)
asyncio.run(main())
print(peak())
"""
BARE = """
import asyncio, json, sys, aiohttp
url, key, system, calls, at_once = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
async def main():
    numbers, answers = iter(range(calls)), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def worker():
            for number in numbers:
                messages = [{"role": "developer", "content": system}, {"role": "user", "content": f"message {number}"}]
                body = json.dumps({"model": "gpt-6-luna", "messages": messages, "max_completion_tokens": 100}).encode()
                headers = {"authorization": "Bearer " + key, "content-type": "application/json"}
                async with session.post(url + "/v1/chat/completions", data=body, headers=headers) as response:
                    answers.append(json.loads(await response.read()))
        await asyncio.gather(*(worker() for _ in range(at_once)))
    assert len(answers) == calls
asyncio.run(main())
print(peak())
"""


def peak(code: str, *arguments: object) -> float:
    """The most memory (resident set, MiB) that a new process took for ``code``."""
    command = [sys.executable, "-c", PEAK + code, *map(str, arguments)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) / 2**20


def figures() -> list[Figure]:
    """Ours and a bare client's; memory hardly varies, so once is enough."""
    with provider_process("--bare", "--latency", "0.05", "--answer", "constant:positive") as url, served(url) as project:
        mine = peak(OURS, project.root, CALLS, IN_FLIGHT)
        its = peak(BARE, url, KEY, system_of(project), CALLS, IN_FLIGHT)
    return [Figure("1,000 calls, peak memory", mine, "MiB", "at most 70 MiB", its, "bare aiohttp")]


if __name__ == "__main__":
    show(figures())
