"""The runtime: resolve, render, call, check, repair or escalate."""

from .asynchronous import AsyncRuntime
from .core import HookWarning
from .many import run_many
from .sync import Runtime
from .values import Compiler, Event, Failure, Result, RunOptions, StreamChunk

__all__ = ["AsyncRuntime", "Compiler", "Event", "Failure", "HookWarning", "Result", "RunOptions", "Runtime", "StreamChunk", "run_many"]
