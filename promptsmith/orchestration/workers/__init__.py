"""Workers: what a step can be done by that is no expert. Each kind is a file of its own in ``kinds/``."""

from .registry import Workers
from .values import Ask, Kind, Place, Worker, WorkerCall, WorkerResult

__all__ = ["Ask", "Kind", "Place", "Worker", "WorkerCall", "WorkerResult", "Workers"]
