"""How long ``promptsmith --help`` takes, whole process, beside importing click alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .measure import MILLI, Figure, interleaved, process, promptsmith, show


def figures() -> list[Figure]:
    """The overview of all commands."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder, "empty")
        here.mkdir()
        ours, peer = interleaved(promptsmith(["--help"], here), process(["-c", "import click"], here), rounds=25)
    what, target, against = "promptsmith --help, whole process", "at most 1.5 times its peer", "python -c 'import click'"
    return [Figure(what, ours * MILLI, "ms", target, peer * MILLI, against)]


if __name__ == "__main__":
    show(figures())
