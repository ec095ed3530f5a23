"""How long ``promptsmith run`` takes for one input on ``builtin/nearest``, whole process."""

from __future__ import annotations

from .measure import MILLI, Figure, interleaved, process, promptsmith, show
from .projects import promoted


def figures() -> list[Figure]:
    """One input, one process."""
    with promoted() as project:
        ours, peer = interleaved(
            promptsmith(["run", "sentiment", "I love it"], project.root),
            process(["-c", "import click, diskcache"], project.root),
            rounds=25,
        )
    what, target, against = "promptsmith run of one input, whole process", "at most 3 times its peer", "python -c 'import click, diskcache'"
    return [Figure(what, ours * MILLI, "ms", target, peer * MILLI, against)]


if __name__ == "__main__":
    show(figures())
