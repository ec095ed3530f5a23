"""An exported task run by promptfoo's own CLI, beside the same inputs through promptsmith: the same answers must pass.

Needs ``BENCH_PROMPTFOO``, the command of promptfoo (such as ``node node_modules/.bin/promptfoo``); see README.md. Both
ask one loopback provider, which answers by the nearest examples of the system prompt that it is sent.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from promptsmith import Result, Runtime, load_task
from promptsmith.config import find_project
from tests.provider import KEY, provider_process

from .calls import served
from .evals import run

TASKS = Path(__file__).parent.parent / "evals"


def by_promptfoo(command: str, url: str, root: Path) -> tuple[int, int]:
    """Tests and passes that promptfoo counts in the exported file."""
    run(root, "export", "intent@production", "--to", "promptfoo", "--out", str(root / "promptfooconfig.yaml"))
    quiet = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "PROMPTFOO_DISABLE_UPDATE": "1", "PROMPTFOO_CONFIG_DIR": str(root / "config")}
    environment = {**os.environ, **quiet, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY}
    options = ["eval", "-c", "promptfooconfig.yaml", "--no-cache", "--no-progress-bar", "--no-table", "-o", "out.json"]
    subprocess.run([*shlex.split(command), *options], cwd=root, env=environment, capture_output=True, check=False)
    stats = json.loads((root / "out.json").read_text())["results"]["stats"]
    return sum(stats[name] for name in ("successes", "failures", "errors")), stats["successes"]


def by_promptsmith(root: Path) -> tuple[int, int]:
    """The same inputs through the runtime."""
    task = load_task(root / "evals" / "intent.yaml", name="intent")
    with Runtime(find_project(root)) as runtime:
        results = runtime.run_many("intent", [dict(row.inputs) for row in task.examples], on_contract_break="pass")
    pairs = zip(results, task.examples, strict=True)
    return len(results), sum(isinstance(result, Result) and result.value == row.output for result, row in pairs)


def main() -> None:
    """Prints both counts; exit 1 when they differ."""
    command = os.environ.get("BENCH_PROMPTFOO")
    if not command:
        sys.stdout.write("promptfoo is not named: set BENCH_PROMPTFOO\n")
        return
    with provider_process("--answer", "nearest") as url, served(url) as project:
        text = (TASKS / "intent.yaml").read_text("utf-8").replace("task: ", "models: {production: openai/gpt-6-luna}\ntask: ", 1)
        data = project.root / "evals" / "data"
        data.mkdir()
        (data / "intent.holdout.jsonl").write_bytes((TASKS / "data" / "intent.holdout.jsonl").read_bytes())
        (project.root / "evals" / "intent.yaml").write_text(text, "utf-8")
        run(project.root, "compile", "intent")
        run(project.root, "promote", "intent", "--force", "--why", "a benchmark")
        theirs, ours = by_promptfoo(command, url, project.root), by_promptsmith(project.root)
    sys.stdout.write(f"promptfoo:   {theirs[1]} of {theirs[0]} pass\npromptsmith: {ours[1]} of {ours[0]} pass\n")
    raise SystemExit(theirs != ours)


if __name__ == "__main__":
    main()
