"""JSON and server-sent events as bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()


def wire(value: Any) -> bytes:
    """JSON. A lone surrogate becomes its escape, which is how a provider lets one through."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def data(value: Any) -> bytes:
    """An event without a name."""
    return b"data: %s\n\n" % wire(value)


def named(name: str, value: Any) -> bytes:
    """An event with a name."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), wire(value))


def pieces(text: str, size: int) -> tuple[str, ...]:
    """The text as a stream delivers it, at most ``size`` characters each."""
    return tuple(text[start : start + size] for start in range(0, len(text), size))
