"""What commands share: the project option, opening the project's parts, and writing results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

import click

from ..config import Project, find_project
from ..errors import InputError
from ..registry.opening import open_registry
from ..registry.protocol import Move, Registry
from ..registry.resolve import Resolver
from ..store.folder import open_store

F = TypeVar("F", bound=Callable[..., Any])


def project_option(function: F) -> F:
    """``--project`` after the command's name, as well as before it."""
    help_text = "The project's folder (default: found from here upwards)."
    return click.option("--project", "project_dir", metavar="DIR", help=help_text)(function)


def json_option(function: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Write the result as JSON.")(function)


class Workspace:
    """A project with its store and resolver, as most commands need them."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.store = open_store(project)
        self.resolver = Resolver(project, self.store, open_registry(project, patient=True))

    @property
    def registry(self) -> Registry:
        return self.resolver.registry

    def find_task(self, name: str) -> Path:
        """The file of a task. Raises :class:`UnknownName` when there is none."""
        return self.resolver.task_file(name)


def open_project(project_dir: str | None) -> Project:
    """The project that the command is about. Raises :class:`InputError` outside any project."""
    named = project_dir or click.get_current_context().find_root().obj
    project = find_project(named)
    if project.file is None:
        raise InputError(
            "this is no promptsmith project: no promptsmith.toml here or in a folder above", hint="make one with: promptsmith init"
        )
    return project


def open_workspace(project_dir: str | None) -> Workspace:
    """The project that the command is about, opened."""
    return Workspace(open_project(project_dir))


def write_json(value: Any) -> None:
    """``value`` as indented JSON on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def story(text: str) -> None:
    """A line about what happens, for people: on stderr, where it does not mix with the result."""
    click.echo(text, err=True)


@contextmanager
def code_prints_aside() -> Iterator[None]:
    """What code of the user's own, and processes that it starts, print inside goes to stderr: stdout is for the result alone."""
    if None in (sys.stdout, sys.stderr):  # a closed one; its descriptor may be another file's by now
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield
        return
    sys.stdout.flush()
    with redirect_stdout(cast(TextIO, _Aside())), _descriptor_aside():
        yield


@contextmanager
def goes_on_after_ctrl_c() -> Iterator[None]:
    """For work that is journaled: tells a person who ends it that nothing of it is lost."""
    try:
        yield
    except KeyboardInterrupt:
        story("stopped: the same command goes on from here")
        raise


@contextmanager
def _descriptor_aside() -> Iterator[None]:
    """Descriptor 1, which a process inherits, leads where descriptor 2 does; as it was where one of them is closed."""
    try:
        kept = os.dup(1)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class _Aside:
    """stderr as it is at each moment: a live view puts a stream of its own in its place."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Left-aligned columns, each row on one line; controls are shown by their codes and can't move the cursor."""
    rows = [[_on_one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
    return "\n".join(lines)


def _on_one_line(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(text.split()))


def how_moved(move: Move) -> str:
    """How an alias came where it is, in one word."""
    return "forced" if move.forced else "rollback" if move.rollback else "promoted"


def short(prompt_id: str | None) -> str:
    """The twelve digits by which people are shown an id."""
    return prompt_id[:12] if prompt_id else "-"


def lasted(seconds: float) -> str:
    """A time span for people, in the largest unit that it fills."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' * (count != 1)}"
    return f"{seconds:.0f} seconds"


def width() -> int:
    """Columns of the terminal, 100 when there is none."""
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def styled() -> bool:
    """Whether stdout is a terminal that may be coloured (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
