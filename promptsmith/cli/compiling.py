"""Compiling at the command line: a search is shown while it runs, and its end is told."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from .frame import Workspace, story

if TYPE_CHECKING:
    from ..compiler.build import Compiled
    from ..compiler.material import Options
    from ..prompt import Prompt
    from ..task import Task


def compiled(
    workspace: Workspace, task: Task, options: Options, *, as_json: bool, force: bool = False, start: Prompt | None = None
) -> Compiled:
    """What :meth:`~promptsmith.compiler.build.ProjectCompiler.build` returns; it raises the same."""
    from ..compiler.build import ProjectCompiler
    from ..compiler.material import material
    from ..runtime.loop import LOOP
    from .live import live

    compiler = ProjectCompiler(workspace.project, workspace.store)
    limits = material(task, workspace.project.config, options, workspace.project.root).limits
    with nullcontext() if as_json else live(limits) as seen:
        built = LOOP.wait(compiler.build(task, options, force=force, start=start, on_status=seen))
    if built.record is not None:
        from ..compiler.search.words import told_search

        for line in told_search(built.record):
            story(f"{task.name}: {line}")
    return built
