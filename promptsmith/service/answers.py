"""Answers that are not a provider's bytes: another protocol's, a builtin model's, cached, repaired or a fallback's, by the runtime."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from ..chat import Chunk, Reply
from ..models.wire import Codec
from ..registry.resolve import Resolved
from ..runtime.core import Call, Core
from ..runtime.values import Given, Result, RunOptions
from .metrics import Source
from .visit import Visit


async def whole(core: Core, call: Call, visit: Visit) -> Result:
    """What the call comes to. Raises what :meth:`Core.perform` raises."""
    try:
        result = await core.perform(call)
    finally:
        visit.fallbacks = tuple(one.model for one in call.passed)
    note(result, visit)
    return result


async def stream(
    core: Core, resolved: Resolved, given: Given, options: RunOptions, codec: Codec, visit: Visit, *, usage: bool
) -> AsyncGenerator[bytes, None]:
    """The answer as events of ``codec``'s protocol.

    The first thing yielded is empty: from then on the answer has begun, and what goes wrong can only be told as an event.
    """
    writer = codec.writer(model=visit.model, id=visit.id, usage=usage)
    begun = False
    async with aclosing(core.stream(resolved, given, **options)) as chunks:
        async for chunk in chunks:
            if not begun:
                begun = True
                yield b""
                yield writer.start()
            if chunk.result is None:
                yield writer.chunk(Chunk(chunk.text))
            else:
                note(chunk.result, visit)
                yield visit.comment() + writer.chunk(Chunk("", as_reply(chunk.result)))


async def plain_stream(core: Core, resolved: Resolved, given: Given, options: RunOptions, visit: Visit) -> AsyncGenerator[bytes, None]:
    """The answer to a plain run as events: ``text`` for each piece, and at the end ``result`` with the typed value."""
    begun = False
    async with aclosing(core.stream(resolved, given, **options)) as chunks:
        async for chunk in chunks:
            if not begun:
                begun = True
                yield b""
            if chunk.result is None:
                yield _event("text", {"text": chunk.text})
            else:
                note(chunk.result, visit)
                yield visit.comment() + _event("result", told(chunk.result))


def _event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"


def told(result: Result) -> dict[str, Any]:
    """A result as ``POST /v1/run/{task}`` gives it."""
    usage = result.usage
    return {
        "value": result.value,
        "text": result.text,
        "task": result.task,
        "prompt": result.prompt,
        "model": result.model,
        "source": source_of(result),
        "cost": result.cost,
        "usage": {"input": usage.input, "output": usage.output, "cached": usage.cached},
        "ok": result.ok,
        "reasons": list(result.reasons),
    }


def note(result: Result, visit: Visit) -> None:
    """Writes into ``visit`` what the answer came to."""
    visit.model, visit.usage, visit.cost, visit.stop = result.model, result.usage, result.cost, result.stop
    visit.source = source_of(result)
    visit.adherent, visit.ungated, visit.attempts = result.ok, result.ungated, result.calls
    visit.waited += result.waited


def as_reply(result: Result) -> Reply:
    """The answer as a reply to be written in a protocol."""
    return Reply(text=result.text, model=result.model, stop=result.stop, usage=result.usage, cost=result.cost)


def source_of(result: Result) -> Source:
    """Where an answer came from; a builtin model's is named as that."""
    if result.source == "cache":
        return "cache"
    return "builtin" if result.model.startswith("builtin/") else "model"
