"""How a provider behaves, in one frozen value."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from .catalog import ModelFacts
from .values import Counter, quarter_bytes

KEY = "sk-loopback-0123456789"
"""The key that is right unless ``Settings.keys`` says otherwise."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All times in seconds."""

    keys: frozenset[str] | None = frozenset({KEY})
    """Keys that are let in; ``None`` lets everybody in."""
    models: tuple[ModelFacts, ...] = ()
    """Models beside the built-in ones."""
    foreign: bool = False
    """Be a third party's server that speaks chat completions: any model, old fields only, no usage details, no request id."""
    latency: float = 0.0
    """Before the first byte of an answer."""
    pace: float = 0.0
    """Between two events of a stream."""
    piece: int = 12
    """Most characters in one event of a stream."""
    max_in_flight: int | None = None
    """More requests than this at a time are answered 429 with ``retry-after-ms``."""
    retry_after_ms: int = 50
    rpm: int | None = None
    """More requests than this within ``window`` are answered 429 with ``retry-after``."""
    window: float = 60.0
    max_body: int = 32 * 1024 * 1024
    reasoning_tokens: int = 0
    """Reported (and charged against the output limit) where a request lets the model think."""
    keyless_hits: bool = False
    """From gpt-5.6: whether requests without ``prompt_cache_key`` can find what others wrote."""
    key_rpm: int = 0
    """From gpt-5.6: requests a minute for one key that land on one machine (the real figure is about 15); 0 is no limit."""
    count: Counter = quarter_bytes
    clock: Callable[[], float] = time.monotonic
    """Of cached prefixes and of the rpm window."""
    keep_records: int | None = None
    """Keep only so many records."""
