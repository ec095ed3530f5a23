"""Before a search that costs: its plan in a line, and a question where it may cost more than a set sum."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from .frame import Workspace, story

if TYPE_CHECKING:
    from ..compiler.material import Options
    from ..prompt import Prompt
    from ..task import Task


def confirm_search(
    workspace: Workspace, task: Task, options: Options, *, yes: bool, force: bool = False, start: Prompt | None = None
) -> None:
    """Tells what the compile will do and asks whether it may, when it is a search that the cache does not spare.

    Raises :class:`InputError` when nobody is there to be asked, :class:`click.Abort` when the answer is no.
    """
    from ..compiler.build import ProjectCompiler, started
    from ..compiler.material import SCORED, material

    config = workspace.project.config
    source = started(material(task, config, options, workspace.project.root), start)
    if source.level < SCORED:
        return
    if not force and ProjectCompiler(workspace.project, workspace.store).cached(task, options, start=start) is not None:
        return
    from ..compiler.search.plan import plan_search
    from ..models.directory import Directory

    plan = plan_search(source, Directory(workspace.project).rates.find)
    story(plan.line())
    why = plan.asks(config.compile.confirm_usd)
    if not why or yes:
        return
    if not sys.stdin.isatty():
        raise InputError(
            f"{task.name}: {why}, and nobody is here to be asked",
            hint="confirm it with --yes, or limit it: --max-cost USD (compile.confirm_usd is the sum that needs no question)",
        )
    click.confirm(f"{task.name}: {why}. Go on?", abort=True, err=True)
