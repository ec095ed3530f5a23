"""``promptsmith eval`` as a whole process, beside a bare aiohttp script that makes the same calls and counts the right answers.

Harnesses that this machine has (pydantic-evals in the same environment) run in the same round; see benchmarks/README.md
for how to install them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.provider import KEY, provider_process

from .measure import Figure, interleaved, process, promptsmith, show

TASK = """\
task: Classify the sentiment of a customer message.
output: text
scorers: [exact]
models: {production: openai/gpt-6-luna}
examples:
  - {input: "This product is amazing!", output: positive}
  - {input: "It broke after a day.", output: negative}
  - {input: "When does the shop open?", output: neutral}
holdout: {file: holdout.jsonl}
gate: {require: {pass_rate: ">= 0.5"}}
"""
BARE = """
import asyncio, json, sys, aiohttp
rows = [json.loads(line) for line in open(sys.argv[3])]
async def main():
    right, left = 0, iter(rows)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def worker():
            nonlocal right
            for row in left:
                messages = [{"role": "system", "content": "Classify."}, {"role": "user", "content": row["input"]}]
                body = json.dumps({"model": "gpt-6-luna", "messages": messages, "max_completion_tokens": 99}).encode()
                headers = {"authorization": "Bearer " + sys.argv[2], "content-type": "application/json"}
                async with session.post(sys.argv[1] + "/v1/chat/completions", data=body, headers=headers) as response:
                    right += json.loads(await response.read())["choices"][0]["message"]["content"] == row["output"]
        await asyncio.gather(*(worker() for _ in range(64)))
    print(right / len(rows))
asyncio.run(main())
"""
PYDANTIC = """
import asyncio, json, sys
from openai import AsyncOpenAI
from pydantic_evals import Case, Dataset
from pydantic_evals.evaluators import EqualsExpected
rows = [json.loads(line) for line in open(sys.argv[3])]
client = AsyncOpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2])
async def ask(text: str) -> str:
    messages = [{"role": "system", "content": "Classify."}, {"role": "user", "content": text}]
    done = await client.chat.completions.create(model="gpt-6-luna", messages=messages, max_completion_tokens=99)
    return done.choices[0].message.content
cases = [Case(name=str(n), inputs=row["input"], expected_output=row["output"]) for n, row in enumerate(rows)]
report = Dataset(name="x", cases=cases, evaluators=[EqualsExpected()]).evaluate_sync(ask, max_concurrency=64, progress=False)
print(len(report.cases), len(report.failures))
"""
CASES, MANY = 1000, 10_000


@contextlib.contextmanager
def suite(url: str, cases: int) -> Iterator[Path]:
    """A project with ``cases`` sealed rows and a compiled prompt, whose endpoint is the provider at ``url``."""
    os.environ["OPENAI_API_KEY"] = KEY
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "project")
        (root / "evals").mkdir(parents=True)
        (root / "promptsmith.toml").write_text(
            f'[endpoints.openai]\nprotocol = "openai"\nbase_url = "{url}/v1"\napi_key_env = "OPENAI_API_KEY"\nforeign = false\n'
        )
        (root / "evals" / "sentiment.yaml").write_text(TASK)
        words = ("parcel", "lamp", "refund", "invoice", "shop", "order", "card")
        rows = [{"input": f"{words[n % 7]} {words[n // 7 % 7]} number {n * 7919}", "output": "positive"} for n in range(cases)]
        (root / "evals" / "holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run(root, "compile", "sentiment")
        yield root


def run(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One command in the project."""
    command = [sys.executable, "-m", "promptsmith", "--project", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check)


def peers(url: str, root: Path) -> list[tuple[str, Sequence[str]]]:
    """What is measured in the same round."""
    data = str(root / "evals" / "holdout.jsonl")
    found: list[tuple[str, Sequence[str]]] = [("bare aiohttp script", ["-c", BARE, url, KEY, data])]
    if importlib.util.find_spec("pydantic_evals"):
        found.append(("pydantic-evals", ["-c", PYDANTIC, url, KEY, data]))
    return found


def whole(url: str, root: Path, what: str, target: str, *, rounds: int, arguments: Sequence[str] = ("--fresh",)) -> list[Figure]:
    """Wall seconds of a whole eval and of each peer."""
    folder = root.parent
    others = peers(url, root)
    ours = promptsmith(["--project", str(root), "eval", "sentiment", *arguments], folder)
    seconds = interleaved(ours, *(process(command, folder) for _, command in others), rounds=rounds)
    rows = [Figure(what, seconds[0], "s", target, theirs, name) for (name, _), theirs in zip(others, seconds[1:], strict=True)]
    return rows or [Figure(what, seconds[0], "s", target)]


def memory(root: Path) -> tuple[float, float]:
    """Seconds and peak MiB of one eval in a process of its own."""
    before = time.perf_counter()
    run(root, "eval", "sentiment", "--fresh")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return time.perf_counter() - before, peak


def figures() -> list[Figure]:
    """Whole processes."""
    found: list[Figure] = []
    with provider_process("--bare", "--latency", "0.05", "--answer", "constant:positive") as url, suite(url, CASES) as root:
        found += whole(url, root, "eval of 1,000 cases, 50 ms provider, 64 in flight", "at most 1.9 s, going for 1.6", rounds=3)
        run(root, "eval", "sentiment")
        cached = promptsmith(["--project", str(root), "eval", "sentiment"], root.parent)
        found.append(Figure("  the same again, all replies cached", interleaved(cached, rounds=5)[0], "s", "at most 0.8 s"))
    with provider_process("--bare", "--answer", "constant:positive") as url:
        with suite(url, 1) as one, suite(url, CASES) as root:
            alone = promptsmith(["--project", str(one), "eval", "sentiment", "--fresh"], one.parent)
            many = promptsmith(["--project", str(root), "eval", "sentiment", "--fresh"], root.parent)
            first, all_ = interleaved(alone, many, rounds=3)
        found.append(Figure("eval of one case on an endpoint, whole process", first, "s", "at most 0.5 s"))
        found.append(Figure("overhead of a case, provider at once", (all_ - first) / (CASES - 1) * 1000, "ms", "at most 0.8 ms"))
    with provider_process("--bare", "--latency", "0.05", "--answer", "constant:positive") as url, suite(url, MANY) as root:
        seconds, peak = memory(root)
        found.append(Figure("eval of 10,000 cases, 50 ms provider", seconds, "s", "at most 12 s"))
        found.append(Figure("  its peak memory", peak, "MiB", "at most 150 MiB"))
    return found


if __name__ == "__main__":
    show(figures())
