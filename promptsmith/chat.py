"""Neutral values between the runtime and any model: what is asked, what came back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from . import canonical
from .canonical import Scalar

Role = Literal["user", "assistant"]
WEB_SEARCH = "web_search"
"""The option of a request that turns the provider's own web search on: at most so many searches."""
WEB_SEARCH_DOMAINS = "web_search_domains"
"""The domains that it keeps to, joined by blanks; absent: any."""
Stop = Literal["end", "length", "refused", "filtered", "aborted"]
"""Why a model stopped. Only ``end`` is a complete reply."""


class Turn(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Role
    text: str


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one call. ``input`` is the total, the cached parts are contained in it."""

    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0

    @property
    def counted(self) -> bool:
        """Whether anything was counted: a server that reports no usage leaves all at 0."""
        return self.input > 0 or self.output > 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.written + other.written,
            self.reasoning + other.reasoning,
        )


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call to a model, in no provider's words.

    ``model`` is the full name (``endpoint/model``), ``static`` the identity of everything before the turns: a
    prompt id, or empty for calls without one (then the system text's digest is used).
    """

    model: str
    system: str
    turns: tuple[Turn, ...]
    parameters: Mapping[str, Scalar] = {}
    static: str = ""
    schema: str = ""
    """JSON Schema (as JSON text) that the output should be held to, or empty."""
    sample: int = 0
    options: Mapping[str, Scalar] = {}
    """Everything else a caller set. What is not in ``canonical.UNKEYED`` changes the key."""

    @property
    def endpoint(self) -> str:
        return self.model.partition("/")[0]

    def size(self) -> int:
        """UTF-8 bytes of all that is asked: no tokenizer makes more tokens of it."""
        return len(self.system.encode()) + sum(len(turn.text.encode()) for turn in self.turns)

    def head(self) -> str:
        """The part of the key that all requests with this prompt, model and parameters share."""
        return canonical.reply_head(
            static=self.static or canonical.sha256(self.system),
            schema=self.schema,
            endpoint=self.endpoint,
            model=self.model,
            params=self.parameters,
            options=self.options,
        )

    def key(self) -> str:
        """Identity of this request, 64 hex digits (design: reply key)."""
        return canonical.reply_key(self.head(), ((turn.role, turn.text) for turn in self.turns), self.sample)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a model answered. ``cost`` is in US dollars, ``None`` when the price is unknown."""

    text: str
    model: str
    stop: Stop = "end"
    usage: Usage = Usage()
    cost: float | None = None
    latency: float = 0.0
    """Seconds from request to last byte, of the call that produced it."""
    attempts: int = 1
    request_id: str = ""
    sources: tuple[str, ...] = ()
    """URLs that the answer to a request with web search cites, in order."""

    @property
    def complete(self) -> bool:
        return self.stop == "end"


# msgspec reads a type's fields when it first decodes one, and a second thread that comes in between crashes the process
# (0.22). So each type is learned where its module is imported, which one thread does.
msgspec.json.Decoder(Reply)


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a streamed reply; the last one carries the whole reply and no text of its own."""

    text: str
    reply: Reply | None = None


def total_cost(costs: Iterable[float | None]) -> float | None:
    """The sum of ``costs`` in US dollars; ``None`` when one of them is unknown."""
    total = 0.0
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total
