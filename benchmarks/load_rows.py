"""How long a task with 10,000 rows takes to load, from CSV, from JSONL and written in the task file itself."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

import yaml

from promptsmith.task import load_task

from .measure import Figure, Measure, interleaved, seconds_of, show

LABELS = ("late", "lost", "fine")
ROWS = [(f"Customer {number} writes that order {number * 7} is late, again", LABELS[number % 3]) for number in range(10_000)]
HEAD = "task: Say what happened to the order.\noutput: [late, lost, fine]\n"
TARGET = "about a second"


def _task(folder: Path, name: str, examples: str) -> Measure:
    path = folder / f"{name}.yaml"
    path.write_text(f"{HEAD}examples:{examples}\n")

    def load() -> None:
        assert len(load_task(path).examples) == len(ROWS)

    return seconds_of(load)


def _read_csv(path: Path) -> None:
    with path.open(newline="") as file:
        assert sum(1 for _ in csv.reader(file)) == len(ROWS) + 1


def _read_jsonl(path: Path) -> None:
    with path.open() as file:
        assert sum(1 for _ in map(json.loads, file)) == len(ROWS)


def _read_yaml(path: Path) -> None:
    with path.open() as file:
        yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe loaders


def figures() -> list[Figure]:
    """One row for each format."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "rows.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("input", "output"), *ROWS])
        lines = [json.dumps({"input": text, "output": label}) for text, label in ROWS]
        (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
        peers = [
            ("CSV", _task(folder, "csv", " {file: rows.csv}"), seconds_of(lambda: _read_csv(folder / "rows.csv")), "csv.reader"),
            ("JSONL", _task(folder, "jsonl", " {file: rows.jsonl}"), seconds_of(lambda: _read_jsonl(folder / "rows.jsonl")), "json.loads"),
            (
                "YAML",
                _task(folder, "inline", "".join(f"\n  - {line}" for line in lines)),
                seconds_of(lambda: _read_yaml(folder / "inline.yaml")),
                "yaml.load, C loader",
            ),
        ]
        found = []
        for kind, ours, peer, against in peers:
            mine, other = interleaved(ours, peer, rounds=5)
            found.append(Figure(f"load {len(ROWS):,} rows of {kind}", mine, "s", TARGET, other, against))
    return found


if __name__ == "__main__":
    show(figures())
