"""The service's log: a line of JSON for each request and each change of the service's state, for whoever collects ``stderr``.

A line is one ``write`` of at most 4096 bytes, which a pipe takes whole (POSIX ``PIPE_BUF``, 4096 on Linux), so lines of several
workers never mix. Bodies are never in it, and whatever in a text looks like a key is masked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, Protocol, get_args

import msgspec

from ..redact import may_hold_secret, redact

Level = Literal["debug", "info", "warning", "error"]
State = Literal["started", "reloaded", "draining", "stopped", "trouble", "canary"]
LEVELS: tuple[Level, ...] = get_args(Level)
LINE_BYTES = 4096
_WAIT_SECONDS = 0.02
_ROOM = LINE_BYTES - 32  # the level and the line's end take the rest
_LENGTHS = (512, 128, 24)
"""To how many characters texts are cut until the line is short enough."""
_HEADS = {level: f'{{"level":"{level}",'.encode() for level in LEVELS}

_encode = msgspec.json.Encoder().encode
Fact = str | int | float | bool | None


def _now() -> datetime:
    return datetime.now(UTC)


class Stream(Protocol):
    """What has a descriptor, as ``sys.stderr`` has."""

    def fileno(self) -> int: ...


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag_field="event", tag="request"):
    """One request that has ended; the names are those in the line. What is empty is left out."""

    time: datetime = msgspec.field(default_factory=_now)
    """When it ended, written as RFC 3339 has it."""
    request_id: str
    key: str = ""
    """The key's name, never the key."""
    method: str = ""
    path: str = ""
    """Without the query."""
    status: int = 0
    task: str = ""
    prompt: str = ""
    alias: str = ""
    model: str = ""
    arm: str = ""
    source: str = ""
    ms: float = 0.0
    overhead_us: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    cost: float | None = None
    """US dollars; left out when the price is unknown."""
    client_gone: bool = False
    upstream_id: str = ""
    """The provider's request id."""
    error: str = ""

    @property
    def level(self) -> Level:
        """``error``: failed here or at the provider. ``warning``: refused. A client that left is neither."""
        if self.client_gone:
            return "info"
        if 400 <= self.status < 500:
            return "warning"
        return "error" if self.status >= 500 or self.error else "info"


class Log:
    """Writes lines of ``level`` and above to ``stream``; any thread may. A stream that takes none is no error: ``lost`` counts."""

    def __init__(self, level: Level = "info", stream: int | Stream = 2) -> None:
        self._stream = stream  # a file that nobody else has would be closed
        self._fd = stream if isinstance(stream, int) else stream.fileno()
        self._cut = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting = b""
        self.lost = 0
        self.level = level

    @property
    def level(self) -> Level:
        return self._level

    @level.setter
    def level(self, level: Level) -> None:
        self._level: Level = level
        self._shown = frozenset(LEVELS[LEVELS.index(level) :])

    def request(self, request: Request) -> None:
        """One line for a request."""
        level = request.level
        if level not in self._shown:
            return
        line = b"" if may_hold_secret(_texts(request)) else _encode(request)
        if not line or len(line) > _ROOM:
            line = _careful(_facts(request))
        self._soon(_HEADS[level] + line[1:] + b"\n")

    def together(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on lines of requests wait a moment for others, since a write costs more than all else about a line.

        They must then be written from ``loop`` alone.
        """
        self._loop = loop

    def flush(self) -> None:
        """Writes the lines that wait."""
        waiting, self._waiting = self._waiting, b""
        if waiting:
            self._write(waiting)

    def _soon(self, line: bytes) -> None:
        if self._loop is None:
            self._write(line)
            return
        if len(self._waiting) + len(line) > LINE_BYTES:
            self.flush()
        if not self._waiting:
            self._loop.call_later(_WAIT_SECONDS, self.flush)
        self._waiting += line

    def event(self, state: State, level: Level = "info", **facts: Fact) -> None:
        """One line for a change of the service: it has started, takes no more requests."""
        if level in self._shown:
            self.flush()
            line = _careful({"event": state, "time": msgspec.to_builtins(_now()), "pid": os.getpid(), **facts})
            self._write(_HEADS[level] + line[1:] + b"\n")

    def _write(self, line: bytes) -> None:
        # What a full disk has cut off is not gone on with.
        line = b"\n" + line if self._cut else line
        try:
            self._cut = os.write(self._fd, line) != len(line)
        except OSError:
            # Nobody reads (EPIPE), or the pipe of a reader that has stopped is full (EAGAIN): requests go on.
            self.lost += 1
        else:
            self.lost += self._cut


def _texts(one: Request) -> str:
    """All texts in the line."""
    names = f"{one.key} {one.task} {one.prompt} {one.alias} {one.model} {one.arm} {one.source}"
    return f"{one.request_id} {one.method} {one.path} {names} {one.upstream_id} {one.error}"


def _facts(request: Request) -> dict[str, Fact]:
    given = {name: getattr(request, name) for name in request.__struct_fields__}
    kept = {name: value for name, value in given.items() if value or name == "request_id"}
    return {"event": "request", **kept, "time": msgspec.to_builtins(request.time)}


def _careful(facts: Mapping[str, Fact]) -> bytes:
    """The line with keys masked, and as short as it has to be."""
    clean = {name: _masked(value) if isinstance(value, str) else value for name, value in facts.items()}
    line = _encode(clean)
    for most in _LENGTHS:
        if len(line) <= _ROOM:
            break
        line = _encode({name: _short(value, most) if isinstance(value, str) else value for name, value in clean.items()})
    return line


def _masked(text: str) -> str:
    """``text`` without keys, and as UTF-8 can have it."""
    return redact(text.encode("utf-8", "replace").decode()) if may_hold_secret(text) else text


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
