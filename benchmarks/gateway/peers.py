"""The gateways that are measured, each with its own way to be started and asked."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from promptsmith.config import Project

from .load import Target
from .processes import ROOT
from .project import MODELS, QUICK, SLOW, key, promptsmith
from .provider import digest

USER = "I love how quiet the new machine is."
PATH = "/v1/chat/completions"
RELAY, OURS, DIRECT = "aiohttp relay", "promptsmith", "direct"
_MASTER = "sk-0f3a52c19d7e4b688c2d5a90"
_LITELLM = """\
model_list:
{models}
prompts:
{prompts}
litellm_settings: {{num_retries: 0, telemetry: false}}
"""
_LITELLM_MODEL = '  - model_name: {task}\n    litellm_params: {{model: openai/{model}, api_base: "{url}/v1", api_key: none}}\n'
_LITELLM_PROMPT = """\
  - prompt_id: {task}
    litellm_params: {{prompt_id: {task}, prompt_integration: dotprompt, prompt_file: "{file}"}}
"""


class Setup(NamedTuple):
    """What all of them serve."""

    provider: str
    project: Project
    systems: Mapping[str, str]
    """The system prompt by task."""
    folder: Path


class Peer(NamedTuple):
    """One way to the provider. ``command`` takes port and workers; without one nothing is started."""

    name: str
    request: Callable[[str, list[dict[str, str]]], dict[str, object]]
    """The body for a task and the user's turn, but for what asks for a stream."""
    headers: Mapping[str, str] = {}
    command: Callable[[int, int], Sequence[str]] | None = None
    environment: Mapping[str, str] = {}
    takes_workers: bool = False

    def target(self, setup: Setup, base: str, task: str = QUICK, *, stream: bool = False) -> Target:
        """The request, and the answer that is right: the provider saw the task's prompt and the user's message."""
        body = self.request(task, [{"role": "user", "content": USER}])
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return Target(base + PATH, dict(self.headers), json.dumps(body), digest(setup.systems[task], USER))


def direct(setup: Setup) -> Peer:
    """No gateway: the client carries the prompt."""
    return Peer(DIRECT, _carried(setup))


def _carried(setup: Setup) -> Callable[[str, list[dict[str, str]]], dict[str, object]]:
    return lambda task, turns: {"model": MODELS[task], "messages": [{"role": "system", "content": setup.systems[task]}, *turns]}


def _named(task: str, turns: list[dict[str, str]]) -> dict[str, object]:
    return {"model": task, "messages": turns}


def relay(setup: Setup) -> Peer:
    """The bare relay of aiohttp."""
    prompts = setup.folder / "relay.json"
    prompts.write_text(json.dumps({task: [MODELS[task], system] for task, system in setup.systems.items()}))

    def command(port: int, workers: int) -> Sequence[str]:
        options = ["--port", str(port), "--workers", str(workers), "--upstream", setup.provider, "--prompts", str(prompts)]
        return [sys.executable, "-m", "benchmarks.gateway.relay", *options]

    return Peer(RELAY, _named, command=command, takes_workers=True)


def ours(setup: Setup) -> Peer:
    """``promptsmith serve`` with a key, its ledger and its metrics. Raises :class:`RuntimeError` when it can't be started."""
    done = subprocess.run(promptsmith(setup.project, "serve", "--help"), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError("there is no promptsmith serve yet")
    secret = key(setup.project)

    def command(port: int, workers: int) -> Sequence[str]:
        return promptsmith(setup.project, "serve", "--port", str(port), "--workers", str(workers))

    return Peer(OURS, _named, {"authorization": f"Bearer {secret}"}, command, takes_workers=True)


def litellm(setup: Setup, program: str) -> Peer:
    """LiteLLM's proxy in its lightest configuration, its prompt named by ``prompt_id``. ``program`` is its command."""
    for task in (QUICK, SLOW):
        (setup.folder / f"{task}.prompt").write_text(f"---\nmodel: {task}\n---\nSystem: {setup.systems[task]}")
    config = setup.folder / "litellm.yaml"
    models = "".join(_LITELLM_MODEL.format(task=task, model=MODELS[task], url=setup.provider) for task in MODELS)
    prompts = "".join(_LITELLM_PROMPT.format(task=task, file=setup.folder / f"{task}.prompt") for task in MODELS)
    config.write_text(_LITELLM.format(models=models, prompts=prompts))

    def command(port: int, workers: int) -> Sequence[str]:
        return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", str(workers)]

    environment = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches prices over the network at its start
        "LITELLM_MASTER_KEY": _MASTER,
    }

    def request(task: str, turns: list[dict[str, str]]) -> dict[str, object]:
        return {"model": task, "prompt_id": task, "messages": turns}

    return Peer("LiteLLM", request, {"authorization": f"Bearer {_MASTER}"}, command, environment)


def portkey(setup: Setup, program: str) -> Peer:
    """Portkey's gateway, which knows no prompts without an account: the client carries it. ``program`` is its command."""
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{setup.provider}/v1", "authorization": "Bearer none"}

    def command(port: int, workers: int) -> Sequence[str]:  # noqa: ARG001 - it is always one process
        return [*shlex.split(program), f"--port={port}", "--headless"]

    return Peer("Portkey", _carried(setup), headers, command)
