"""``promptsmith run`` on a provider's endpoint as a whole process, beside a bare aiohttp script that makes the same call."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.provider import KEY, provider_process

from .calls import served
from .measure import MILLI, Figure, interleaved, process, promptsmith, show

BARE = """
import asyncio, json, sys, aiohttp
async def main():
    async with aiohttp.ClientSession() as session:
        body = json.dumps({"model": "gpt-6-luna", "messages": [{"role": "user", "content": "I love it"}], "max_completion_tokens": 99})
        headers = {"authorization": "Bearer " + sys.argv[2], "content-type": "application/json"}
        async with session.post(sys.argv[1] + "/v1/chat/completions", data=body, headers=headers) as response:
            print(json.loads(await response.read())["choices"][0]["message"]["content"])
asyncio.run(main())
"""


def figures() -> list[Figure]:
    """Milliseconds of each, and their ratio."""
    with (
        provider_process("--bare", "--answer", "constant:positive") as url,
        served(url) as project,
        tempfile.TemporaryDirectory() as folder,
    ):
        ours, bare = interleaved(
            promptsmith(["--project", str(project.root), "run", "sentiment", "I love it"], Path(folder)),
            process(["-c", BARE, url, KEY], Path(folder)),
            rounds=9,
        )
    what = "promptsmith run on an endpoint, whole process"
    return [Figure(what, ours * MILLI, "ms", "at most 1.3 times its peer", bare * MILLI, "a bare aiohttp script")]


if __name__ == "__main__":
    show(figures())
