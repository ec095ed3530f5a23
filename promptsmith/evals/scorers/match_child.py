"""One regular expression against one text. Run as a program it answers such questions line by line, as JSON.

It imports nothing of the package, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import json
import re
import sys


def look(pattern: str, flags: int, text: str, *, last: bool) -> str | None:
    """What the first (or last) match of ``pattern`` holds: its first group when it took part, else all of it."""
    found = None
    if last:
        for found in re.finditer(pattern, text, flags):  # noqa: B007 - the last one is wanted
            pass
    else:
        found = re.search(pattern, text, flags)
    if found is None:
        return None
    group: str | None = found[1] if found.re.groups else None
    return found[0] if group is None else group


def main() -> None:
    """Answers until its input ends."""
    for line in sys.stdin:
        pattern, flags, text, last = json.loads(line)
        sys.stdout.write(json.dumps([look(pattern, flags, text, last=last)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
