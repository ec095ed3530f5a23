"""How long a lock takes to load and an alias to resolve, beside PyYAML on the same file in the same run.

100 tasks, prompts of 4 kB, receipts of 100 cases; once with one prompt kept per task, once with five. Each task has
labels of its own, which its prompts share. Run it as ``python -m benchmarks.lock_load``; every figure is a median of
the CPU time of the thread, in milliseconds unless it says otherwise: the files are in the page cache, so on an idle
machine that is also the time on the clock.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import yaml

from promptsmith.contract import Contract, Labels
from promptsmith.prompt import Build, Prompt, Provenance, Serve, make_prompt
from promptsmith.receipt import CaseRow, Counts, Receipt, make_receipt
from promptsmith.registry.blocks import HEADER
from promptsmith.registry.entry import block
from promptsmith.registry.lock import LockFile
from promptsmith.registry.protocol import Move

TASKS = 100
WORDS = ("classify", "the", "message", "a", "customer", "wrote", "by", "what", "they", "want", "done", "about", "their", "order", "label")


def made_prompt(task: str, rng: random.Random) -> Prompt:
    """A prompt of 4 kB."""
    lines: list[str] = []
    while sum(map(len, lines)) + len(lines) < 4096:
        lines.append(" ".join(rng.choices(WORDS, k=12)))
    parts = ("constraints", "contract", "examples", "inputs", "model", "options", "prompt", "seed", "task")
    build = Build(
        key=f"{rng.getrandbits(256):064x}", inputs={part: f"{rng.getrandbits(64):016x}" for part in parts}, epoch=1,
        sources={f"evals/{task}.yaml": "c" * 64}, defaults="d" * 64,
    )  # fmt: skip
    visible = " ".join(f"{rng.getrandbits(48):012x}" for _ in range(40))
    labels = Labels(tuple(f"{task}-{label}" for label in ("positive", "negative", "neutral")))
    return make_prompt(
        task=task, system="\n".join(lines)[:4096] + "\n", contract=Contract(labels),
        model="openai/gpt-5-mini", parameters={"max_output": 64, "temperature": 0.0}, inputs=(), serve=Serve(),
        provenance=Provenance(
            created="2026-01-01T00:00:00Z", version="0.1.0", level=0, level_why="no meta-model", build=build, visible=visible, shown=12,
        ),
    )  # fmt: skip


def made_receipt(prompt: Prompt, rng: random.Random) -> Receipt:
    """A receipt of 100 cases."""
    rows = [CaseRow(f"{rng.getrandbits(48):012x}", rng.random() < 0.9, True, 1.0) for _ in range(100)]
    return make_receipt(
        suite="d" * 64, prompt=prompt.id, model=prompt.model, verdict="promote", counts=Counts(100, 90), rows=rows,
        intervals={"score": (0.8, 0.95)}, looks=1, cost=0.01,
    )  # fmt: skip


def made_block(task: str, kept: int, rng: random.Random) -> str:
    """A task's block with ``kept`` prompts."""
    prompts = [made_prompt(task, rng) for _ in range(kept)]
    receipts = {prompt.id: made_receipt(prompt, rng) for prompt in prompts}
    when = datetime(2026, 1, 1, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ids = [None, *(prompt.id for prompt in reversed(prompts))]
    moves = [
        Move(alias="production", from_=before, to=after, when=when, who="Ada", why="better on negation", receipt=receipts[after].digest)
        for before, after in itertools.pairwise(ids)
        if after
    ]
    return block(task, {"production": prompts[0].id}, prompts, moves, receipts)


def median(work: Callable[[], object], times: int = 31) -> float:
    """Milliseconds of CPU time of this thread."""
    taken = []
    for _ in range(times):
        begin = time.thread_time()
        work()
        taken.append((time.thread_time() - begin) * 1000)
    return statistics.median(taken)


def current(path: Path) -> None:
    """A fresh reader; every task's aliases and the prompts under them read, and each prompt's digest verified."""
    lock = LockFile(path)
    for task in lock.tasks():
        assert lock.resolve(task, "production")


def kept(path: Path) -> None:
    """The same, and every kept prompt read and verified."""
    lock = LockFile(path)
    for task in lock.tasks():
        assert lock.prompts(task)


def everything(path: Path) -> None:
    """The same, and history and receipts, digests of rows included (what ``doctor`` does)."""
    assert LockFile(path).problems() == ()


def one(path: Path) -> None:
    """A fresh reader that needs one task, as ``promptsmith run`` does."""
    assert LockFile(path).resolve("task-050", "production")


def resolve_us(path: Path) -> float:
    """Microseconds for an alias of an unchanged file, its ``stat`` included."""
    lock = LockFile(path)
    return median(lambda: [lock.resolve("task-050", "production") for _ in range(10_000)], 7) / 10


def main() -> None:
    """Prints the table."""
    out = sys.stdout.write
    out(f"{'':34}{'one kept':>12}{'five kept':>12}\n")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.lock") for number in (1, 5)]
        for path, number in zip(paths, (1, 5), strict=True):
            rng = random.Random(number)  # the same file each time
            path.write_bytes(HEADER + "".join(made_block(f"task-{i:03}", number, rng) for i in range(TASKS)).encode())
        rows: list[tuple[str, Callable[[Path], float]]] = [
            ("file, MB", lambda p: p.stat().st_size / 1e6),
            ("load, current prompts verified", lambda p: median(lambda: current(p))),
            ("  and all kept prompts verified", lambda p: median(lambda: kept(p))),
            ("  and history and receipts", lambda p: median(lambda: everything(p))),
            ("load for one task", lambda p: median(lambda: one(p))),
            ("PyYAML CSafeLoader, not verified", lambda p: median(lambda: yaml.load(p.read_bytes(), yaml.CSafeLoader), 5)),
            ("resolve, unchanged file, µs", resolve_us),
        ]
        for name, measure in rows:
            out(f"{name:34}" + "".join(f"{measure(path):12.2f}" for path in paths) + "\n")
        slow = median(lambda: yaml.safe_load(paths[0].read_bytes()), 1)
        out(f"{'PyYAML safe_load, not verified':34}{slow:12.0f}{'':>12}\n")


if __name__ == "__main__":
    main()
