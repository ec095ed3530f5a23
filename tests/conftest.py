"""What tests share: a clean environment, and small projects on disk."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from click.testing import Result as Ended
from hypothesis import settings

from promptsmith.chat import Chunk, Reply, Request
from promptsmith.cli import cli
from promptsmith.config import Project, find_project

from .databases import database, mortal, opened, postgres
from .serving import at, ours, provider, theirs

__all__ = ["at", "database", "mortal", "opened", "ours", "postgres", "provider", "theirs"]
"""Fixtures that stand in files of their own."""

# How long an example takes depends on what else the machine does; a suite with timed assertions is a flaky one.
# HYPOTHESIS_EXAMPLES asks for more of them than the suite has time for.
settings.register_profile("promptsmith", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "40")))
settings.load_profile("promptsmith")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell: the children of tests would inherit it, and never hear of a Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # there is no such hook without the plugin
def pytest_xdist_auto_num_workers() -> int:
    """More workers than cores: many tests wait for processes of their own."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


SENTIMENT = """\
task: Classify the sentiment of a customer message.
output: [positive, negative, neutral]
examples:
  - {input: "This product is amazing!", output: positive}
  - {input: "It broke after a day.", output: negative}
  - {input: "When does the shop open?", output: neutral}
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test depends on, or touches, the project or the user's folders that it is started from."""
    monkeypatch.delenv("PROMPTSMITH_PROJECT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Project]:
    """Makes a project: task files by name (default: ``sentiment``), data files by path below ``evals/``, settings."""

    def make(
        tasks: Mapping[str, str] | None = None,
        data: Mapping[str, str | list[object]] | None = None,
        config: str = "",
        name: str = "project",
    ) -> Project:
        root = tmp_path / name
        (root / "evals").mkdir(parents=True, exist_ok=True)
        (root / "promptsmith.toml").write_text(config)
        for task, text in ({"sentiment": SENTIMENT} if tasks is None else tasks).items():
            path = root / "evals" / f"{task}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for file, rows in (data or {}).items():
            path = root / "evals" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            path.write_text(text, encoding="utf-8")
        return find_project(root)

    return make


class Toy:
    """A model in this process that keeps what it was asked and counts how many calls were under way at once.

    It answers ``say``: a text, a whole reply, an error to raise, a function of the request to one of these, or a
    list of them, one a call (the last for all that follow).
    """

    def __init__(self, say: object = "positive", name: str = "toy/small", seconds: float = 0.0) -> None:
        self.name, self.say, self.seconds = name, say, seconds
        self.asked: list[Request] = []
        self.under_way = self.most = self.cancelled = 0

    async def reply(self, request: Request) -> Reply:
        self.asked.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        return self._said(request)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        reply = await self.reply(request)
        for word in reply.text.split(" "):
            yield Chunk(f"{word} ")
        yield Chunk("", reply)

    def _said(self, request: Request) -> Reply:
        say = self.say
        if isinstance(say, list):
            say = say[min(len(self.asked), len(say)) - 1]
        if callable(say):
            say = say(request)
        if isinstance(say, Exception):
            raise say
        return say if isinstance(say, Reply) else Reply(text=str(say), model=self.name, cost=0.001)


@pytest.fixture
def toy() -> type[Toy]:
    """The class of models that answer what a test tells them to."""
    return Toy


@pytest.fixture
def promoted(make_project: Callable[..., Project]) -> Callable[..., Project]:
    """As ``make_project``, with every task compiled and promoted to production."""

    def make(*args: object, **more: object) -> Project:
        from promptsmith import Runtime, compile_task
        from promptsmith.promotion import promote
        from promptsmith.registry.lock import LockFile

        project = make_project(*args, **more)
        with Runtime(project) as runtime:
            for name in project.task_names():
                prompt = compile_task(name, project=project, store=runtime.asynchronous.store)
                promote(LockFile(project.lock), project, prompt, alias="production", why="a test", force=True)
        return project

    return make


@pytest.fixture
def invoke() -> Callable[..., Ended]:
    """Runs a command in this process. An exception that is no exit fails the test, and so does another exit ``code``."""

    def run(*args: str | Path, project: Project | Path | None = None, given: str | bytes | None = None, code: int = 0) -> Ended:
        root = project.root if isinstance(project, Project) else project
        at = [] if root is None else ["--project", str(root)]
        ended = CliRunner().invoke(cli, [*at, *map(str, args)], input=given, catch_exceptions=False)
        assert ended.exit_code == code, f"exit {ended.exit_code}, not {code}:\n{ended.output}"
        return ended

    return run
