"""``python -m benchmarks``: every figure in one table, then the tables of those that have their own."""

from __future__ import annotations

import argparse
import sys

from . import (
    calls,
    check_1000,
    evals,
    first_chunk,
    load_rows,
    lock_load,
    memory,
    nearest,
    per_reply,
    plans,
    prompt_cache,
    reply_hit,
    resolve,
    run_endpoint,
    run_once,
    search_overhead,
    startup,
)
from .measure import show

SCRIPTS = (
    startup, run_once, resolve, reply_hit, per_reply, nearest, load_rows, check_1000, calls, memory, first_chunk, run_endpoint, evals,
    search_overhead, plans,
)  # fmt: skip


def main() -> None:
    """Measures everything, one after the other: two at a time would slow each other."""
    argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__).parse_args()
    found = []
    for script in SCRIPTS:
        sys.stderr.write(f"{script.__name__} …\n")
        found += script.figures()
    show(found)
    sys.stdout.write("\nloading the lock, 100 tasks:\n")
    lock_load.main()
    sys.stdout.write("\nthe provider's prompt cache:\n")
    prompt_cache.main()


if __name__ == "__main__":
    main()
