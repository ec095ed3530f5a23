"""What a scorer of the user's own prints is no part of a command's output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TASK = """\
task: Classify the sentiment of a customer message.
output: [positive, negative]
scorers:
  - python: talks.py:grade
examples:
  - {input: "This product is amazing!", output: positive}
  - {input: "It broke after a day.", output: negative}
holdout:
  - {input: "It broke at once.", output: negative}
  - {input: "What an amazing thing!", output: positive}
"""
SCORER = """\
import subprocess

print("loaded")


def grade(output, expected):
    print("graded", output)
    subprocess.run(["echo", "from a process"], check=True)
    return output == expected
"""


def test_what_a_scorer_prints_is_not_in_the_json(tmp_path: Path) -> None:
    (tmp_path / "evals").mkdir()
    (tmp_path / "promptsmith.toml").write_text("")
    (tmp_path / "evals" / "tone.yaml").write_text(TASK)
    (tmp_path / "evals" / "talks.py").write_text(SCORER)
    command = [sys.executable, "-m", "promptsmith"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([*command, "compile", "tone"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    done = subprocess.run([*command, "eval", "tone", "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout), done.stderr
    assert "graded" in done.stderr
    assert "from a process" in done.stderr
