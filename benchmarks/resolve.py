"""How long a ref takes to resolve in a process that has resolved it before; the lock's ``stat`` is in it."""

from __future__ import annotations

import os

from promptsmith.registry.resolve import Resolver
from promptsmith.store import DiskStore

from .measure import MICRO, Figure, interleaved, seconds_of, show
from .projects import promoted

CALLS = 20_000


def figures() -> list[Figure]:
    """A ref that was resolved before."""
    with promoted() as project, DiskStore(project.cache) as store:
        resolver = Resolver(project, store)
        path, known = os.fspath(project.lock), {"sentiment": resolver.resolve("sentiment")}

        def bare() -> object:
            os.stat(path)
            return known["sentiment"]

        ours, peer = interleaved(seconds_of(lambda: resolver.resolve("sentiment"), CALLS), seconds_of(bare, CALLS))
    return [Figure("resolve a ref, warm", ours * MICRO, "µs", "at most 3 µs", peer * MICRO, "os.stat and a dict lookup")]


if __name__ == "__main__":
    show(figures())
