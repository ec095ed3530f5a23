"""The pytest plugin: ``pytest evals/`` judges the task files of a promptsmith project, one item a case and one for the gate.

pytest loads this module in every project of an environment that has promptsmith installed. It therefore imports nothing
but pytest, and looks no further than at file names until it meets a YAML file below a project's settings.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .pytest_items import TaskFile

_SINCE = "promptsmith_since"
"""Where a worker of pytest-xdist finds when the run began, in seconds since the epoch."""
_BEGAN = pytest.StashKey[float]()
_CONFIGURED = pytest.StashKey[dict[Path, bool]]()
"""Which folders may belong to a project."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options with a prefix of their own: other plugins have a ``--model``."""
    group = parser.getgroup("promptsmith", "task files of promptsmith")
    group.addoption("--promptsmith-model", metavar="NAME", help="serve the prompts with this model instead of their own")
    group.addoption(
        "--promptsmith-cached-only",
        action="store_true",
        help="make no call: an answer that neither the record beside a task file nor the cache has is an error",
    )
    group.addoption("--promptsmith-repeat", metavar="K", type=_count, default=1, help="ask for so many answers to each case")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called by pytest-xdist for each worker it starts: all of them get the same beginning of the run."""
    node.workerinput[_SINCE] = node.config.stash.setdefault(_BEGAN, time.time())


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> TaskFile | None:
    """The collector of a task file; ``None`` for every other file."""
    if file_path.suffix != ".yaml" or not _configured(file_path.parent, parent.config.stash.setdefault(_CONFIGURED, {})):
        return None
    from .pytest_items import task_file

    return task_file(parent, file_path, since=getattr(parent.config, "workerinput", {}).get(_SINCE))


def _configured(folder: Path, seen: dict[Path, bool]) -> bool:
    """Whether ``folder`` or one above it may have settings of promptsmith; ``config.py`` says whether they are ones."""
    known = seen.get(folder)
    if known is None:
        known = seen[folder] = _may_have_settings(folder) or (folder != folder.parent and _configured(folder.parent, seen))
    return known


def _may_have_settings(folder: Path) -> bool:
    try:
        return (folder / "promptsmith.toml").is_file() or b"promptsmith" in (folder / "pyproject.toml").read_bytes()
    except OSError:
        return False


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)
