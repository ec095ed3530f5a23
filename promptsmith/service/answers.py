"""Answers that are not a provider's bytes: another protocol's, a builtin model's, cached, repaired or a fallback's, by the runtime."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from ..catalog.tokens import estimate
from ..chat import Chunk, Reply, Usage, total_cost
from ..contract import JsonShape
from ..errors import ContractError
from ..models.limits import input_tokens
from ..models.wire import Codec, StreamWriter
from ..models.wrappers import may_have_counted
from ..runtime.core import Call, Core
from ..runtime.values import Result, StreamChunk
from .metrics import Source
from .visit import Visit


async def whole(core: Core, call: Call, visit: Visit) -> Result:
    """What the call comes to. Raises what :meth:`Core.perform` raises."""
    began = time.perf_counter()
    try:
        result = await core.perform(call)
    except BaseException as error:
        visit.waited += time.perf_counter() - began
        _note_failed(core, call, visit, error)
        raise
    finally:
        visit.fallbacks = tuple(call.skipped)
    note(result, visit)
    return result


async def stream(core: Core, call: Call, codec: Codec, visit: Visit, *, created: int, usage: bool) -> AsyncGenerator[bytes, None]:
    """The answer as events of ``codec``'s protocol.

    The first thing yielded is empty: from then on the answer has begun, and what goes wrong can only be told as an event.
    """
    writer: StreamWriter | None = None
    async with aclosing(pieces(core, call, visit)) as chunks:
        async for chunk in chunks:
            if writer is None:
                schema = schema_of(call)
                writer = codec.writer(model=visit.model, id=visit.reply_id(codec), created=created, usage=usage, schema=schema)
                visit.writer = writer
                yield b""
                yield writer.start()
            if chunk.result is None:
                yield writer.chunk(Chunk(chunk.text))
            else:
                note(chunk.result, visit)
                visit.complete = True
                yield visit.comment() + writer.chunk(Chunk("", as_reply(chunk.result)))


async def plain_stream(core: Core, call: Call, visit: Visit) -> AsyncGenerator[bytes, None]:
    """The answer to a plain run as events: ``text`` for each piece, and at the end ``result`` with the typed value."""
    begun = False
    async with aclosing(pieces(core, call, visit)) as chunks:
        async for chunk in chunks:
            if not begun:
                begun = True
                yield b""
            if chunk.result is None:
                yield _event("text", {"text": chunk.text})
            else:
                note(chunk.result, visit)
                visit.complete = True
                yield visit.comment() + _event("result", told(chunk.result))


async def pieces(core: Core, call: Call, visit: Visit) -> AsyncGenerator[StreamChunk, None]:
    """The pieces of an answer; before the first one is given, ``visit`` knows what the headers of a stream can tell."""
    waited, began = 0.0, time.perf_counter()
    said = ""
    try:
        async with aclosing(core.streamed(call)) as chunks:
            async for chunk in chunks:
                said += chunk.text
                waited += time.perf_counter() - began
                if not visit.source:
                    visit.model, visit.ungated = call.answering, call.is_ungated(call.answering)
                    visit.source = _source(bool(call.found), call.answering)
                    visit.fallbacks = tuple(call.skipped)
                yield chunk
                began = time.perf_counter()
    except BaseException as error:
        visit.waited += waited + time.perf_counter() - began
        visit.fallbacks = tuple(call.skipped)
        _note_failed(core, call, visit, error, said)
        raise


def _guess(core: Core, call: Call, said: str, visit: Visit) -> None:
    """Writes down about what a stream took that was left before its end."""
    usage = Usage(input=input_tokens(call.request), output=estimate(said))
    rates = core.directory.rates.find(visit.model)
    visit.guess, visit.guess_cost = usage.input + usage.output, rates.cost(usage) if rates is not None else 0.0


def _note_failed(core: Core, call: Call, visit: Visit, error: BaseException, said: str = "") -> None:
    """What a call cost that came to nothing, so that whoever made it is charged all the same; a broken contract is an answer.

    ``said`` is what was heard of it.
    """
    if isinstance(error, ContractError):
        visit.adherent = False
    paid = call.paid()
    if not paid and call.found:
        visit.source = "cache"
        if call.replies:
            visit.model = call.replies[-1].model
            visit.ungated = call.is_ungated(visit.model)
    elif not paid and may_have_counted(error) and not call.answering.startswith("builtin/"):
        visit.source, visit.model = "model", call.answering
        visit.cost = None  # the provider may have begun to answer, and nobody has said what that costs
        _guess(core, call, said, visit)
    if paid:
        visit.usage = sum((one.usage for one in paid), Usage())
        visit.cost = total_cost(one.cost for one in paid)
        visit.model, visit.source = paid[-1].model, _source(False, paid[-1].model)
        visit.attempts, visit.upstream_id = sum([one.attempts for one in paid]), paid[-1].request_id


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
    visit.adherent, visit.ungated, visit.attempts, visit.upstream_id = result.ok, result.ungated, result.attempts, result.request_id
    visit.waited += result.waited


def schema_of(call: Call) -> str:
    """The JSON Schema that the answer is held to, empty where it is no JSON."""
    shape = call.handle.prompt.contract.shape
    return shape.schema if isinstance(shape, JsonShape) else ""


def as_reply(result: Result) -> Reply:
    """The answer as a reply to be written in a protocol."""
    return Reply(text=result.text, model=result.model, stop=result.stop, usage=result.usage, cost=result.cost)


def source_of(result: Result) -> Source:
    """Where an answer came from; a builtin model's is named as that."""
    return _source(result.source == "cache", result.model)


def _source(found: bool, model: str) -> Source:
    return "cache" if found else "builtin" if model.startswith("builtin/") else "model"
