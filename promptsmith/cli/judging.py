"""What commands that judge prompts share: the task and prompt that a ref means, and running the eval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry.resolve import Prefer, Resolved
from ..task import Task
from .frame import Workspace, code_prints_aside, goes_on_after_ctrl_c

if TYPE_CHECKING:
    from ..evals.evaluate import EvalOptions
    from ..evals.report import Report


def resolved_suite(workspace: Workspace, ref: str, prefer: Prefer) -> tuple[Task, Resolved]:
    """The task that is judged on, its scorers and gate checked, and the prompt that ``ref`` means."""
    from ..evals.vocabulary import load_suite_task

    resolved = workspace.resolver.resolve(ref, prefer=prefer)
    name = resolved.prompt.task
    return load_suite_task(workspace.find_task(name), name), resolved


def evaluated(workspace: Workspace, task: Task, resolved: Resolved, options: EvalOptions) -> Report:
    """The report of an eval that is run now, with its progress on a terminal."""
    from ..proving import Prover
    from ..runtime.loop import LOOP
    from .progress import progress

    prover = Prover(workspace.project, workspace.store, workspace.registry)
    with goes_on_after_ctrl_c(), code_prints_aside():
        return LOOP.wait(prover.evaluate(task, resolved, options, on_progress=progress()))
