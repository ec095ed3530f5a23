"""A project whose prompts of 2 kB are served: tasks for a model that answers at once, and for one that takes 50 ms."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from promptsmith import compile_task
from promptsmith.config import Project, find_project
from promptsmith.prompt import Prompt
from promptsmith.registry.lock import LockFile
from promptsmith.store.folder import open_store

from .processes import ROOT

QUICK, SLOW = "sentiment", "slow"
MODELS = {QUICK: "echo-0", SLOW: "echo-50"}
"""The provider's model by task."""
_RULE = "Rule {number}: a message that names fault {number} of a machine is negative, whatever else it praises.\n"
_BYTES = 2000

_TASK = """\
task: Classify the sentiment of a customer message.
output: text
models: {{production: local/{model}}}
prompt: |-
{prompt}"""

_CONFIG = """\
[endpoints.local]
protocol = "openai"
base_url = "{url}/v1"
foreign = false
"""
# Not foreign: then streams are asked for their usage, as OpenAI's are, and the ledger knows it.


def words(title: str) -> str:
    """A system prompt of 2 kB that begins with ``title``."""
    text = title + "\n"
    number = 1
    while len(text) < _BYTES:
        text += _RULE.format(number=number)
        number += 1
    return text.rstrip()  # LiteLLM takes blanks off the end of a prompt


def made(root: Path, provider: str, tasks: Mapping[str, tuple[str, str]]) -> tuple[Project, dict[str, Prompt]]:
    """A project in ``root`` with ``tasks`` (model of the provider and system prompt by name), and their prompts, each in production."""
    (root / "evals").mkdir(parents=True)
    (root / "promptsmith.toml").write_text(_CONFIG.format(url=provider))
    for name, (model, system) in tasks.items():
        indented = "".join(f"  {line}\n" for line in system.splitlines())
        (root / "evals" / f"{name}.yaml").write_text(_TASK.format(model=model, prompt=indented))
    project = find_project(root)
    with open_store(project) as store:
        prompts = {name: compile_task(name, project=project, store=store) for name in tasks}
    lock = LockFile(project.lock)
    for name, prompt in prompts.items():
        lock.move(name, "production", prompt, who="Ada", why="benchmark", forced=True)
    return project, prompts


def promptsmith(project: Project, *arguments: str) -> list[str]:
    """The command line of ``promptsmith`` in ``project``: these are the two lines of its console script."""
    return [sys.executable, "-c", "from promptsmith.cli import main; main()", "--project", str(project.root), *arguments]


def key(project: Project, name: str = "bench") -> str:
    """A new key of the service. Raises :class:`RuntimeError` with what the command said when it makes none."""
    done = subprocess.run(promptsmith(project, "keys", "add", name), cwd=ROOT, capture_output=True, text=True, check=False)
    secret = done.stdout.strip()
    if done.returncode or not secret:
        said = done.stderr.strip().splitlines() or ["it wrote nothing"]
        raise RuntimeError(f"promptsmith keys add: {said[-1]}")
    return secret
