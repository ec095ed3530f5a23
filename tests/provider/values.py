"""The values that pass between the parts of the provider."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from .catalog import ModelFacts

Protocol = Literal["chat", "responses", "messages"]
"""Chat completions and responses are OpenAI's, messages are Anthropic's."""

Stop = Literal["end", "length", "refused", "filtered", "tool"]

Counter = Callable[[str], int]
"""Text to its number of tokens."""


def quarter_bytes(text: str) -> int:
    """The default counter: one token for four bytes of UTF-8, rounded down."""
    return len(text.encode("utf-8", "surrogatepass")) // 4


class Block(NamedTuple):
    """A piece of the prompt, in the order in which the provider hashes them."""

    kind: str
    """``tool``, or the role it belongs to."""
    text: str
    mark: str = ""
    """The lifetime asked for by an explicit breakpoint at its end (``5m``, ``1h``, ``30m``, ``12h``), or empty for none."""


class Heard(NamedTuple):
    """A request that passed all checks, in no protocol's words."""

    protocol: Protocol
    facts: ModelFacts
    body: dict[str, Any]
    blocks: tuple[Block, ...]
    system: str
    turns: tuple[tuple[str, str], ...]
    """Role and text of each turn after the system text."""
    identity: tuple[str, ...] = ()
    """What besides the blocks makes the prompt another one for the prefix cache."""
    cache_key: str = ""
    cache_mode: str = ""
    """OpenAI's ``prompt_cache_options.mode``, or empty where there is none."""
    lifetime: str = ""
    """Default lifetime of what this request writes."""
    schema: dict[str, Any] | None = None
    json_mode: bool = False
    """Any JSON object is asked for, without a schema."""
    limit: int | None = None
    """Most output tokens."""
    stops: tuple[str, ...] = ()
    stream: bool = False
    usage_in_stream: bool = True
    padded: bool = False
    """Chat completions: chunks carry an ``obfuscation`` field."""
    prewarm: bool = False
    """Fill the cache and answer nothing."""
    thinks: bool = True
    """Whether the request lets the model reason."""
    tool: str = ""
    """The first tool's name."""


class Ask(NamedTuple):
    """What an answer function is told of a request."""

    protocol: Protocol
    model: str
    system: str
    turns: tuple[tuple[str, str], ...]
    schema: dict[str, Any] | None
    body: dict[str, Any]
    headers: Mapping[str, str]
    """Names in lower case."""
    number: int
    """The request's number at this provider, from 1."""

    @property
    def text(self) -> str:
        """The last user turn."""
        return next((text for role, text in reversed(self.turns) if role == "user"), "")


class Said(msgspec.Struct, frozen=True):
    """An answer with more to it than its text."""

    text: str | None
    """``None`` is a null content."""
    stop: Stop = "end"
    stop_sequence: str = ""
    usage: bool = True
    """Whether usage is reported."""
    cites: tuple[str, ...] | None = None
    """The web was searched for it, and these URLs are cited; ``None``: it was not searched."""
    search_error: str = ""
    """The search came to nothing, for this reason."""


Answer = Callable[[Ask], "str | Said | Awaitable[str | Said]"]
"""Runs in the provider's event loop, so it must be quick or awaitable; what it raises is a 500 and is raised again by ``stop``."""


class Usage(NamedTuple):
    """Tokens of one request. ``input`` is the total; ``written`` holds tokens by lifetime."""

    input: int
    output: int
    cached: int = 0
    written: Mapping[str, int] = {}
    thinking: int = 0

    @property
    def written_total(self) -> int:
        return sum(self.written.values())


class Outcome(NamedTuple):
    """Everything that a protocol needs to write its answer down."""

    heard: Heard
    said: Said
    usage: Usage
    number: int
    request_id: str
    created: int
    pieces: tuple[str, ...]
    """The text as a stream delivers it."""
