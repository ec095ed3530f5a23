"""promptsmith: a build system for prompts. You write the eval; it writes the prompt, proves it, and serves it.

Names are loaded when they are used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import VERSION as __version__  # noqa: N811 - the name that tools look for

if TYPE_CHECKING:
    from .binding import AsyncRuntime, Runtime, compile_task, evaluate, run_plan, solve, stream_solve
    from .chat import Reply, Request, Turn, Usage
    from .errors import PromptsmithError
    from .orchestration.plans import Plan
    from .orchestration.solve import AsyncSolver
    from .orchestration.values import Outcome
    from .runtime.values import Event, Failure, Result, StreamChunk
    from .task import Task, load_task

_HOMES = {
    "AsyncRuntime": "binding",
    "AsyncSolver": "orchestration.solve",
    "Event": "runtime.values",
    "Failure": "runtime.values",
    "Outcome": "orchestration.values",
    "Plan": "orchestration.plans",
    "PromptsmithError": "errors",
    "Reply": "chat",
    "Request": "chat",
    "Result": "runtime.values",
    "Runtime": "binding",
    "StreamChunk": "runtime.values",
    "Task": "task",
    "Turn": "chat",
    "Usage": "chat",
    "compile_task": "binding",
    "evaluate": "binding",
    "load_task": "task",
    "run_plan": "binding",
    "solve": "binding",
    "stream_solve": "binding",
}

__all__ = [
    "AsyncRuntime",
    "AsyncSolver",
    "Event",
    "Failure",
    "Outcome",
    "Plan",
    "PromptsmithError",
    "Reply",
    "Request",
    "Result",
    "Runtime",
    "StreamChunk",
    "Task",
    "Turn",
    "Usage",
    "__version__",
    "compile_task",
    "evaluate",
    "load_task",
    "run_plan",
    "solve",
    "stream_solve",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
