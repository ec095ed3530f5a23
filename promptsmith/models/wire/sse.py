"""Server-sent events out of bytes, in whatever pieces these arrive (WHATWG HTML, 9.2.6).

Two deviations, both against answers that are no stream at all: a line that can't be a field raises instead of being
ignored, and so does text that is not UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ...errors import MalformedReply

MAX_EVENT = 64 * 2**20
"""Bytes of one line or one event; more is no reply of a language model."""

_OTHER_FIELD = re.compile(r"id$|retry$|[A-Za-z_-]+:")
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event; ``name`` is empty when the stream named none."""

    name: str
    data: str


class EventParser:
    """Collects bytes and gives the events that they complete; linear in their number."""

    def __init__(self) -> None:
        # The pieces of an unfinished line are joined only once its end has come: appending to one bytes object
        # would copy a 5 MB event as often as it has pieces.
        self._line: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._first = True
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that end in ``data``, one by one: what follows the last one that is wanted is not looked at.

        Raises :class:`MalformedReply` for what is no event stream.
        """
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if not data:
            return
        self._after_cr = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self.between(data):
            *whole, data = data.split(b"\n\n")
            for event in whole:
                # Nearly all events are one such line; the others are read line by line.
                if event.startswith(b"data: ") and b"\n" not in event and len(event) <= MAX_EVENT:
                    yield Event("", _text(event)[6:])
                else:
                    yield from self._lines(event + b"\n\n")
        yield from self._lines(data)

    def between(self, data: bytes) -> bool:
        """Whether ``data``, which comes next, begins a new event."""
        if self._first and not self._line and data[:1] != _BOM[:1]:
            self._first = False
        return not (self._first or self._line or self._data or self._name or self._after_cr)

    def _lines(self, data: bytes) -> Iterator[Event]:
        *ended, rest = data.split(b"\n")
        events: list[Event] = []
        for piece in ended:
            self._keep(piece)
            self._end_line(events)
            if events:
                yield events.pop()
        self._keep(rest)

    def close(self) -> list[Event]:
        """What the last lines make when the stream ends without the empty line after them."""
        events: list[Event] = []
        if self._line:
            self._end_line(events)
        self._dispatch(events)
        return events

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._line.append(piece)
            self._size += len(piece)
            if self._size > MAX_EVENT:
                raise MalformedReply(f"an event of the stream is longer than {MAX_EVENT >> 20} MB")

    def _end_line(self, events: list[Event]) -> None:
        raw = b"".join(self._line)
        self._line.clear()
        if self._first:
            self._first = False
            raw = raw.removeprefix(_BOM)
        if not raw:
            self._dispatch(events)
            return
        self._field(_text(raw))

    def _field(self, line: str) -> None:
        if line.startswith(":"):
            # A comment keeps a slow stream alive, for hours if need be, and is no part of an event.
            self._size = 0 if not self._data else self._size
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif not _OTHER_FIELD.match(line):
            raise MalformedReply(f"the stream has a line that is no server-sent event: {line[:80]!r}")

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            events.append(Event(self._name, "\n".join(self._data)))
        self._name = ""
        self._data.clear()
        self._size = 0


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise MalformedReply(f"the stream is not UTF-8 (byte {error.start} of a line)") from None
