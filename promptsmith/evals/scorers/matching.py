r"""Regular expressions that users wrote, against texts that models wrote, in bounded time.

Python's ``re`` backtracks, holds the interpreter's lock while it does, and can't be told to stop: ``(a+)+$`` on
forty letters, or ``\w+@`` on a megabyte of them, would stop the whole process. So a match runs here only when
the pattern's form and the text's length bound it to :data:`STEPS` steps; any other runs in a child process that
is killed after :data:`SECONDS`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import threading
import weakref
from functools import cached_property
from pathlib import Path

from .match_child import look
from .protocol import Unscored

STEPS = 20_000_000
"""About half a second of ``re`` in the worst case; the usual match takes microseconds."""
SECONDS = 3.0
_PATIENCE = 3
"""So many times a pattern may run out of time; then it is no longer tried."""

_ATOMS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_REPEAT = re.compile(r"[*+]|\{\d*,?\d*\}")
_OPTIONAL = re.compile(r"(?<![(*+?}])\?")
_NESTED = re.compile(r"\)(?:[*+]|\{)|\(\?[a-zA-Z]*x|\\[1-9]|\(\?P=|\(\?\(")


def longest(pattern: str) -> int:
    """How long a text may be so that any search for ``pattern`` in it takes at most about :data:`STEPS` steps.

    0 when a group is repeated or referred to: then the steps can double with every character. Otherwise a search
    tries at most each way to put one border more than there are repetitions into the text, each with every choice
    of the options and alternatives.
    """
    bare = _ATOMS.sub(lambda atom: atom[0] if atom[0][1:2].isdigit() else "x", pattern)
    if _NESTED.search(bare):
        return 0
    groups = max(1, bare.count("("))
    choices = 2 ** len(_OPTIONAL.findall(bare)) * (bare.count("|") / groups + 1) ** groups
    borders = len(_REPEAT.findall(bare)) + 1
    length = int(STEPS / (len(bare) + choices))
    while length and math.comb(length + borders - 1, borders) * choices > STEPS:
        length = length * 9 // 10
    return length


class Matcher:
    """Matches in a child process, which is started on first use and ends with this object."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._end: weakref.finalize[[subprocess.Popen[str]], Matcher] | None = None

    def look(self, pattern: str, flags: int, text: str, *, last: bool) -> str | None:
        """As :func:`match_child.look`. Raises :class:`TimeoutError` after ``seconds``. Blocks its thread."""
        with self._lock:
            child = self._running()
            assert child.stdin is not None
            assert child.stdout is not None
            timer = threading.Timer(self.seconds, child.kill)
            timer.daemon = True
            timer.start()
            try:
                child.stdin.write(json.dumps([pattern, flags, text, last]) + "\n")
                child.stdin.flush()
                answer = child.stdout.readline()
            except BrokenPipeError:
                answer = ""
            finally:
                timer.cancel()
            if not answer:
                self._stop()
                raise TimeoutError
            found: str | None = json.loads(answer)[0]
            return found

    def _running(self) -> subprocess.Popen[str]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._stop()
        program = str(Path(__file__).with_name("match_child.py"))
        child = subprocess.Popen(  # noqa: S603 - our own file, by this interpreter
            [sys.executable, "-I", "-S", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
        )
        self._child, self._end = child, weakref.finalize(self, _ended, child)
        return child

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._child = self._end = None


def _ended(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


class Pattern:
    """One regular expression; ``matcher`` is where it runs when it might take long."""

    def __init__(self, text: str, matcher: Matcher, *, ignore_case: bool = False) -> None:
        self.text = text
        self._flags = int(re.IGNORECASE) if ignore_case else 0
        self._matcher = matcher
        self._late = 0

    @cached_property
    def _longest(self) -> int:
        return longest(self.text)

    async def last(self, text: str) -> str | None:
        """What the last match holds, or ``None``. Raises :class:`Unscored` when it takes too long."""
        return await self._look(text, last=True)

    async def first(self, text: str) -> str | None:
        """What the first match holds, or ``None``. Raises :class:`Unscored` when it takes too long."""
        return await self._look(text, last=False)

    async def _look(self, text: str, *, last: bool) -> str | None:
        if len(text) <= self._longest:
            return look(self.text, self._flags, text, last=last)
        if self._late < _PATIENCE:
            try:
                return await asyncio.to_thread(self._matcher.look, self.text, self._flags, text, last=last)
            except TimeoutError:
                self._late += 1
        raise Unscored(
            f"the pattern {self.text!r} did not end within {self._matcher.seconds:g} s on a text of {len(text):,} characters",
            hint="it backtracks: repeat no group that itself begins or ends with a repetition, and anchor the pattern",
        )
