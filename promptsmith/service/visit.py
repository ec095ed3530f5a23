"""One request on its way through the service: what is known of it, for its headers, its log line and its figures."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable
from typing import TypeVar

from ..chat import Usage
from ..models.wire import Codec, StreamWriter
from ..redact import redact
from ..registry.canaries import Arm, Canary
from . import cors
from .keys import Key
from .metrics import Endpoint, Source

T = TypeVar("T")


class Visit:
    """Filled in as the request goes on. Times are ``time.perf_counter()`` seconds, ``cost`` is in US dollars."""

    __slots__ = (
        "adherent", "alias", "arm", "attempts", "caches", "canary", "code", "complete", "cors", "cost", "endpoint", "error",
        "fallbacks", "first_byte", "gone", "guess", "guess_cost", "id", "ignored", "key", "late", "model", "origin", "path", "prompt",
        "source", "started", "status", "stop", "stream", "task", "ungated", "upstream_id", "usage", "waited", "writer",
    )  # fmt: skip

    def __init__(self, path: str, endpoint: Endpoint | None) -> None:
        self.started = time.perf_counter()
        self.id = f"req_{os.urandom(12).hex()}"
        self.path, self.endpoint = path, endpoint
        self.key: Key | None = None
        self.task = self.prompt = self.alias = self.model = self.origin = ""
        self.canary: Canary | None = None
        """The canary that the request takes part in."""
        self.arm: Arm | None = None
        self.source: Source | None = None
        self.status = 0
        self.stream = False
        self.usage = Usage()
        self.guess = 0
        """About how many tokens it took, where the provider counted none."""
        self.guess_cost = 0.0
        """About what these cost."""
        self.cost: float | None = 0.0
        self.attempts = 0
        self.adherent: bool | None = None
        """Whether the answer satisfies its contract; ``None``: there was no whole answer to judge."""
        self.stop = ""
        self.fallbacks: tuple[str, ...] = ()
        """The models whose answers were none, so that another one was asked."""
        self.ungated = False
        self.ignored: tuple[str, ...] = ()
        """Fields of the request that change nothing, by the names that the client gave them."""
        self.code = self.error = ""
        self.complete = False
        """The piece that comes next is the last one of its stream."""
        self.caches = False
        """Whether the answer may come from the reply cache, and goes there."""
        self.cors = ""
        """The other site whose page calls."""
        self.upstream_id = ""
        self.waited = 0.0
        """Seconds spent waiting for the model, for the client's request, and for the client to take the answer."""
        self.first_byte: float | None = None
        self.writer: StreamWriter | None = None
        """What writes the answer's events, where they are not the provider's."""
        self.late = False
        """It took longer than the service allows."""
        self.gone = False
        """The client left before its answer was complete."""

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.started

    async def wait(self, what: Awaitable[T]) -> T:
        """What ``what`` comes to; the time that it takes is none of ours."""
        began = time.perf_counter()
        try:
            return await what
        finally:
            self.waited += time.perf_counter() - began

    def overhead(self) -> float:
        """Seconds of our own so far."""
        return max(0.0, time.perf_counter() - self.started - self.waited)

    def ids(self) -> dict[str, str]:
        """The request's id under the names of both protocols: the provider's, or else ours."""
        known = self.upstream_id or self.id
        return {"x-request-id": known, "request-id": known}

    def reply_id(self, codec: Codec) -> str:
        """The id of an answer that is written here, of the kind that the client's protocol has."""
        return codec.reply_ids + self.id.removeprefix("req_")

    def headers(self) -> dict[str, str]:
        """What every answer says of itself."""
        told = {"x-promptsmith-request-id": self.id}
        if self.cors:
            told |= cors.headers(self.cors)
        if self.prompt:
            told["x-promptsmith-prompt"] = self.prompt
            told["x-promptsmith-task"] = self.task
            told["x-promptsmith-alias"] = self.alias
            told["x-promptsmith-model"] = self.model
            told["x-promptsmith-origin"] = self.origin
        if self.source:
            told["x-promptsmith-source"] = self.source
            told["x-promptsmith-cache"] = "hit" if self.source == "cache" else "miss" if self.caches else "off"
        if self.arm:
            told["x-promptsmith-arm"] = self.arm
        if self.fallbacks:
            told["x-promptsmith-fallback"] = f"{', '.join(self.fallbacks)} failed"
        if self.ungated:
            told["x-promptsmith-ungated"] = "true"
        if self.ignored:
            told["x-promptsmith-ignored"] = _listed(self.ignored)
        if self.attempts > 1:
            told["x-promptsmith-attempts"] = str(self.attempts)
        return told

    def outcome_headers(self) -> dict[str, str]:
        """:meth:`headers`, and what is known once the answer is whole."""
        told = self.headers()
        if self.adherent is not None:
            told["x-promptsmith-adherent"] = "true" if self.adherent else "false"
        if self.source:
            told["x-promptsmith-cost-usd"] = shown_cost(self.cost)
        told["x-promptsmith-overhead-us"] = str(round(self.overhead() * 1e6))
        return told

    def comment(self) -> bytes:
        """The same for a stream, whose headers are gone: an SSE comment, which every client skips."""
        adherent = {True: "true", False: "false", None: "unknown"}[self.adherent]
        usage = f"input={self.usage.input} output={self.usage.output} cached={self.usage.cached}"
        overhead = round(self.overhead() * 1e6)
        told = (
            f": promptsmith cost_usd={shown_cost(self.cost)} {usage} adherent={adherent} overhead_us={overhead} prompt={self.prompt[:12]}"
        )
        return told.encode() + b"\n\n"


_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NAMES = 16


def _listed(names: tuple[str, ...]) -> str:
    """A client's names as a header can have them: of any other kind, and of more than a few, only how many there are."""
    shown = [name for name in names if _NAME.fullmatch(name) and redact(name) == name][:_NAMES]
    left = len(names) - len(shown)
    return ", ".join([*shown, f"and {left} more"] if left else shown)


def shown_cost(cost: float | None) -> str:
    """US dollars as text, ``unknown`` where nobody knows a price."""
    return "unknown" if cost is None else f"{cost:.9f}".rstrip("0").rstrip(".") or "0"
