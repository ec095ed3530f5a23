"""The provider as a process of its own, for benchmarks: it must not share a core's lock with what is measured."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parent.parent.parent


@contextlib.contextmanager
def provider_process(*options: str) -> Iterator[str]:
    """The address of a provider started with ``options`` (see ``python -m tests.provider --help``)."""
    command = [sys.executable, "-m", "tests.provider", *options]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"{' '.join(command)} ended with status {process.wait()}")
            yield url
        finally:
            process.terminate()
