"""Tasks: the source that prompts are compiled from."""

from .reader import source_digest, source_digest_of
from .task import Task, load_task
from .values import CompileOptions, Constraint, Example, ModelSpec, ScorerSpec, Where

__all__ = [
    "CompileOptions",
    "Constraint",
    "Example",
    "ModelSpec",
    "ScorerSpec",
    "Task",
    "Where",
    "load_task",
    "source_digest",
    "source_digest_of",
]
