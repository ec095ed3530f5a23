"""How long ``promptsmith compile --check`` takes for 1,000 promoted tasks of which none has changed, whole process."""

from __future__ import annotations

from .measure import Figure, interleaved, process, promptsmith, show
from .projects import SENTIMENT, promoted

TASKS = 1000


def figures() -> list[Figure]:
    """The seconds of one check over all tasks."""
    tasks = {f"team-{number % 10}-task-{number:04}": SENTIMENT for number in range(TASKS)}
    with promoted(tasks) as project:
        ours, peer = interleaved(
            promptsmith(["compile", "--check"], project.root),
            process(["-c", "import click, diskcache"], project.root),
            rounds=7,
        )
    return [
        Figure(f"compile --check of {TASKS:,} unchanged tasks", ours, "s", "under a second", peer, "python -c 'import click, diskcache'")
    ]


if __name__ == "__main__":
    show(figures())
