"""Compiling at the command line: a search is shown while it runs, and its end is told."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ..errors import BudgetError, ProviderDown
from .frame import Workspace, code_prints_aside, goes_on_after_ctrl_c, story

if TYPE_CHECKING:
    from ..compiler.build import Compiled
    from ..compiler.material import Options
    from ..prompt import Prompt
    from ..task import Task


_UNFINISHED: Mapping[str, int] = {"provider": ProviderDown.exit_code, "time": BudgetError.exit_code}


def unfinished(built: Compiled) -> tuple[str, int]:
    """Why its search did not end, and the exit code for that; empty and 0 when it did.

    What such a search leaves is the best so far, and no result to build on unseen: another run would go on from there.
    """
    reason = built.record.reason if built.record is not None and built.unfinished else ""
    return reason, _UNFINISHED.get(reason, 0)


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
    with goes_on_after_ctrl_c(), code_prints_aside(), nullcontext() if as_json else live(limits) as seen:
        built = LOOP.wait(compiler.build(task, options, force=force, start=start, on_status=seen))
    if built.record is not None:
        from ..compiler.search.words import told_search

        for line in told_search(built.record):
            story(f"{task.name}: {line}")
    return built
