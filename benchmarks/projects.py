"""Temporary projects with promoted prompts, made the way users make them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from promptsmith import compile_task
from promptsmith.config import Project, find_project
from promptsmith.prompt import Prompt
from promptsmith.registry.blocks import HEADER
from promptsmith.registry.entry import block
from promptsmith.registry.protocol import Move
from promptsmith.store import DiskStore

SENTIMENT = """\
task: Classify the sentiment of a customer message.
output: [positive, negative, neutral]
examples:
  - {input: "This product is amazing!", output: positive}
  - {input: "I love how quiet the new machine is.", output: positive}
  - {input: "It broke after a day.", output: negative}
  - {input: "Nobody answers the phone and my refund is late.", output: negative}
  - {input: "When does the shop open?", output: neutral}
  - {input: "Please send the invoice to my new address.", output: neutral}
"""


@contextlib.contextmanager
def promoted(tasks: Mapping[str, str] | None = None) -> Iterator[Project]:
    """A project with ``tasks`` (YAML by name; default: one, ``sentiment``), each compiled and in production."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "project")
        evals = root / "evals"
        evals.mkdir(parents=True)
        (root / "promptsmith.toml").write_text("")
        for name, text in (tasks or {"sentiment": SENTIMENT}).items():
            (evals / f"{name}.yaml").write_text(text, encoding="utf-8")
        project = find_project(root)
        with DiskStore(project.cache) as store:
            prompts = [compile_task(name, project=project, store=store) for name in project.task_names()]
        project.lock.write_bytes(_lock(prompts))
        yield project


def _lock(prompts: Sequence[Prompt]) -> bytes:
    # Written in one go: a thousand promotions would each replace the whole file.
    blocks = []
    for prompt in prompts:
        move = Move(alias="production", from_=None, to=prompt.id, when="2026-01-01T00:00:00Z", who="Ada", why="first", forced=True)
        blocks.append(block(prompt.task, {"production": prompt.id}, [prompt], [move], {}))
    return HEADER + "".join(blocks).encode()
