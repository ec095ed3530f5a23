"""What can go wrong, as values; which request it happens to; and how a fault is written in a header or a model's name."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import Literal, cast, get_args

import msgspec

from .refused import Refused
from .values import Said

Kind = Literal[
    # The line: these can happen at any point of an answer.
    "status", "hang", "reset", "close", "slow", "drip", "html", "empty", "garbage", "truncated",
    # The answer itself.
    "huge", "surrogate", "not_json", "length", "refusal", "filter", "tool", "no_usage", "null",
]  # fmt: skip
"""
``status``     an HTTP error; once a stream has begun, the protocol's own error event
``hang``       nothing more, the connection stays open
``reset``      the connection is reset (RST)
``close``      the connection is closed early, in order (FIN)
``slow``       a pause of ``seconds``
``drip``       byte by byte, ``seconds`` between bytes
``html``       a page instead of JSON, with ``status``; in a stream, the page and the end
``empty``      nothing, and the answer is over
``garbage``    bytes that are no text
``truncated``  JSON that breaks off though the HTTP message is complete; in a stream, an event like that and the end
``huge``       a text of 5 MB;  ``surrogate``  a text with a lone surrogate;  ``not_json``  a text that is no JSON
``length``, ``refusal``, ``filter``, ``tool``  the reason to stop;  ``no_usage``, ``null``  no usage, a null content
"""

ANSWER_KINDS: frozenset[Kind] = frozenset({"huge", "surrogate", "not_json", "length", "refusal", "filter", "tool", "no_usage", "null"})
LINE_KINDS: tuple[Kind, ...] = tuple(kind for kind in cast("tuple[Kind, ...]", get_args(Kind)) if kind not in ANSWER_KINDS)
STATUSES = (400, 401, 403, 404, 408, 409, 413, 429, 500, 502, 503, 529)

BEFORE = -1
"""``Fault.at``: before the headers of the answer."""
HEADERS = 0
"""``Fault.at``: after the headers, before the first event."""

HUGE = 5 * 1024 * 1024


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that goes wrong.

    ``at`` is the point: ``BEFORE``, ``HEADERS``, or after that many events of a stream; with ``inside`` the last of
    them is sent by half. An answer that is no stream counts as four events of a quarter of its bytes each.
    """

    kind: Kind
    at: int = BEFORE
    inside: bool = False
    status: int = 500
    seconds: float = 0.05
    retry_after: str = ""
    """The ``retry-after`` header: seconds, or an HTTP date."""
    retry_after_ms: str = ""
    should_retry: str = ""
    """The ``x-should-retry`` header."""
    code: str = ""
    """The provider's own code of the error, such as ``insufficient_quota``."""
    message: str = ""

    def headers(self) -> dict[str, str]:
        """The headers about retrying."""
        named = {"retry-after": self.retry_after, "retry-after-ms": self.retry_after_ms, "x-should-retry": self.should_retry}
        return {name: value for name, value in named.items() if value}

    def refused(self) -> Refused:
        return Refused(self.status, self.message, code=self.code or None, headers=self.headers())

    def said(self, said: Said) -> Said:
        """The answer with what this fault makes of it."""
        text = said.text or ""
        half = text[: len(text) // 2]
        made: dict[str, Said] = {
            "surrogate": Said(text + "\ud83d end"),
            "not_json": Said('{"label": positive, and that is my answer'),
            "length": Said(half, "length"),
            "refusal": Said("I can't help with that.", "refused"),
            "filter": Said(half, "filtered"),
            "tool": Said('{"question": "what now?"}', "tool"),
            "no_usage": Said(said.text, said.stop, usage=False),
            "null": Said(None),
        }
        return Said("x" * HUGE) if self.kind == "huge" else made[self.kind]

    @staticmethod
    def parse(text: str) -> Fault:
        """A fault as text: a kind or a status, then fields: ``429,retry_after=2``, ``reset,at=3,inside=true``."""
        name, *fields = text.split(",")
        values: dict[str, str] = {"kind": name}
        if name.isdecimal():
            values = {"kind": "status", "status": name}
        for field in fields:
            key, _, value = field.partition("=")
            values[key.strip().replace("-", "_")] = value
        return msgspec.convert(values, Fault, strict=False)


def http_date(seconds: float, now: float) -> str:
    """An HTTP date ``seconds`` after the wall time ``now``, for ``retry_after``."""
    return formatdate(now + seconds, usegmt=True)


def every_fault() -> list[Fault]:
    """One fault of each kind and status, before the headers."""
    statuses = [Fault("status", status=status) for status in STATUSES]
    pages = [Fault("html", status=200), Fault("html", status=502)]
    rest = [Fault(kind) for kind in LINE_KINDS if kind not in {"status", "html"}]
    return statuses + pages + rest + [Fault(kind) for kind in sorted(ANSWER_KINDS)]


def at_every_point(kind: Kind, events: int) -> list[Fault]:
    """That fault at each point of a stream of ``events`` events: before and after headers, after and inside each event."""
    after = [Fault(kind, at=number) for number in range(1, events + 1)]
    inside = [Fault(kind, at=number, inside=True) for number in range(1, events + 1)]
    return [Fault(kind), Fault(kind, at=HEADERS), *after, *inside]


class Schedule:
    """Decides which request meets which fault. Safe to change from any thread while requests come in.

    A request's own wish (header ``x-fault``, or ``model!fault``) goes before its number, its number before ``every``,
    and that before chance. Chance depends on seed and number alone, so it is the same whatever the interleaving.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """No faults."""
        with self._lock:
            self._numbered: Mapping[int, Fault] = {}
            self._every: Fault | None = None
            self._chances: tuple[tuple[float, Fault, int], ...] = ()

    def on(self, numbers: int | Iterable[int], fault: Fault) -> None:
        """On these requests, by their number from 1."""
        wanted = [numbers] if isinstance(numbers, int) else list(numbers)
        with self._lock:
            self._numbered = {**self._numbered, **dict.fromkeys(wanted, fault)}

    def every(self, fault: Fault) -> None:
        """On every request."""
        with self._lock:
            self._every = fault

    def chance(self, probability: float, fault: Fault, *, seed: int = 0) -> None:
        """On about this share of the requests; further chances are tried in the order in which they were given."""
        with self._lock:
            self._chances = (*self._chances, (probability, fault, seed))

    def pick(self, number: int, wish: str) -> Fault | None:
        """The fault of request ``number``. Raises ``ValueError`` for a wish that is no fault."""
        if wish:
            return Fault.parse(wish)
        if number in self._numbered:
            return self._numbered[number]
        if self._every is not None:
            return self._every
        for place, (probability, fault, seed) in enumerate(self._chances):
            if random.Random(f"{seed} {place} {number}").random() < probability:
                return fault
        return None
