"""``promptsmith eval`` as a whole process, beside a bare aiohttp script that makes the same calls and counts the right answers.

Other harnesses run in the same rounds where they are named: ``BENCH_PEERS_PYTHON`` is a Python that has pydantic-evals,
openai and inspect-ai, ``BENCH_PROMPTFOO`` the command of promptfoo (such as ``node node_modules/.bin/promptfoo``).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.provider import KEY, Fault, Provider, Settings, constant, provider_process

from .measure import Figure, Measure, interleaved, promptsmith, show

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
INSPECT = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.scorer import exact
from inspect_ai.solver import generate, system_message

@task
def sentiment():
    data = json_dataset("holdout.jsonl", lambda row: Sample(input=row["input"], target=row["output"]))
    return Task(dataset=data, solver=[system_message("Classify."), generate()], scorer=exact())
"""
PROMPTFOO = """
prompts: ['[{"role": "system", "content": "Classify."}, {"role": "user", "content": "{{input}}"}]']
providers: ["openai:chat:gpt-6-luna"]
tests: tests.jsonl
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


class Peer(NamedTuple):
    """A harness: what it is called, its command, and where it runs."""

    name: str
    command: Sequence[str]
    folder: Path


def peers(url: str, root: Path) -> list[Peer]:
    """What is measured in the same round."""
    rows = root / "evals" / "holdout.jsonl"
    found = [Peer("bare aiohttp script", [sys.executable, "-c", BARE, url, KEY, str(rows)], root)]
    python = os.environ.get("BENCH_PEERS_PYTHON")
    if python:
        found.append(Peer("pydantic-evals", [python, "-c", PYDANTIC, url, KEY, str(rows)], root))
        folder = root.parent / "inspect"
        folder.mkdir()
        (folder / "task.py").write_text(INSPECT)
        (folder / "holdout.jsonl").write_text(rows.read_text())
        options = ["--max-connections", "64", "--max-samples", "64", "-M", "responses_api=false", "--display", "none"]
        command = [python, "-m", "inspect_ai._cli.main", "eval", "task.py", "--model", "openai/gpt-6-luna", *options]
        found.append(Peer("inspect-ai", command, folder))
    if os.environ.get("BENCH_PROMPTFOO"):
        folder = root.parent / "promptfoo"
        folder.mkdir()
        (folder / "config.yaml").write_text(PROMPTFOO)
        tests = (json.loads(line) for line in rows.read_text().splitlines())
        lines = [{"vars": {"input": row["input"]}, "assert": [{"type": "equals", "value": row["output"]}]} for row in tests]
        (folder / "tests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        options = ["eval", "-c", "config.yaml", "-j", "64", "--no-cache", "--no-progress-bar", "--no-table"]
        found.append(Peer("promptfoo", [*shlex.split(os.environ["BENCH_PROMPTFOO"]), *options], folder))
    return found


def timed(peer: Peer, url: str) -> Measure:
    """Seconds of a whole process."""
    quiet = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "PROMPTFOO_DISABLE_UPDATE": "1", "PROMPTFOO_CONFIG_DIR": str(peer.folder / "config")}
    environment = {**os.environ, **quiet, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY}

    def measure() -> float:
        begin = time.perf_counter()
        subprocess.run(
            peer.command,
            cwd=peer.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=peer.name != "promptfoo",
        )
        return time.perf_counter() - begin

    return measure


def whole(url: str, root: Path, what: str, target: str, *, rounds: int, arguments: Sequence[str] = ("--fresh",)) -> list[Figure]:
    """Wall seconds of a whole eval and of each peer."""
    others = peers(url, root)
    ours = promptsmith(["--project", str(root), "eval", "sentiment", *arguments], root.parent)
    seconds = interleaved(ours, *(timed(peer, url) for peer in others), rounds=rounds)
    return [Figure(what, seconds[0], "s", target, theirs, peer.name) for peer, theirs in zip(others, seconds[1:], strict=True)]


def memory(root: Path) -> tuple[float, float]:
    """Seconds and peak MiB of one eval in a process of its own."""
    command = [sys.executable, "-m", "promptsmith", "--project", str(root), "eval", "sentiment", "--fresh"]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Of this process alone; the usual figure is the largest of all children so far.
    _, status, used = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return time.perf_counter() - begin, used.ru_maxrss / 1024


def with_faults() -> Figure:
    """Cases with a score where a fifth of all calls fails with 429 or 500."""
    with Provider(constant("positive"), Settings(latency=0.01)) as provider, suite(f"http://127.0.0.1:{provider.port}", CASES) as root:
        provider.faults.chance(0.1, Fault("status", status=429, retry_after_ms="20"), seed=1)
        provider.faults.chance(0.11, Fault("status", status=500), seed=2)
        done = json.loads(run(root, "eval", "sentiment", "--json").stdout)
    return Figure("cases scored of 1,000, a fifth of the calls 429 or 500", done["arms"][0]["scored"], "cases", "1,000")


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
    return [*found, with_faults()]


if __name__ == "__main__":
    show(figures())
