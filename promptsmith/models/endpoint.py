"""A model at an endpoint: the neutral request goes out by a codec and a transport, the reply comes back with its price."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NoReturn

import msgspec

from ..catalog.models import ModelFacts
from ..catalog.prices import Rates
from ..chat import WEB_SEARCH, Chunk, Reply, Request, Usage
from ..errors import ProviderError
from .caching import CachePlanner
from .transport.headers import answered
from .transport.protocol import Answer, Streamed, Transport
from .waiting import Late, within
from .wire import CachePlan, ClientCodec, encode

_LONG = "1h"
_TAIL_SECONDS = 0.25


class EndpointModel:
    """One model. Raises :class:`~promptsmith.errors.ProviderError` and its kin, each naming the provider."""

    def __init__(
        self,
        name: str,
        *,
        codec: ClientCodec,
        transport: Transport,
        facts: ModelFacts,
        rates: Rates | None,
        key: str,
        foreign: bool,
        once: bool,
        timeout: float | None,
        limits_key: str,
    ) -> None:
        self.name = name
        self.limits_key = limits_key
        """What its limits are shared by: all runtimes of a process that call the same model at the same address."""
        self.facts, self.rates = facts, rates
        self.codec, self._transport = codec, transport
        self._foreign, self._timeout = foreign, timeout
        self._provider = name.partition("/")[0]
        self._headers = {**codec.headers(key), "content-type": "application/json"}
        self._planner = CachePlanner(facts, once=once or foreign)

    def warms(self, request: Request) -> bool:
        """Whether one call should go before many: the first writes the provider's prompt cache that the others read."""
        return self._planner.marks(request.static or request.system, request.system)

    async def reply(self, request: Request) -> Reply:
        """The whole answer of one attempt; repeating it is decided above."""
        plan = self.plan(request)
        body = self.body(request, plan, stream=False)
        started = time.perf_counter()
        answer = await self.post(body)
        try:
            reply = self.codec.reply(answer.data, request, request_id=self.codec.request_id(answer.headers))
        except ProviderError as error:
            answered(error, answer.status, answer.headers, self._provider)
            raise
        return self._priced(request, reply, plan, time.perf_counter() - started)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        """The answer of one attempt in pieces."""
        plan = self.plan(request)
        body = self.body(request, plan, stream=True)
        started = time.perf_counter()
        async with self.begun(body) as answer:
            try:
                decoder = self.codec.stream(request, request_id=self.codec.request_id(answer.headers))
                async for piece in answer.pieces:
                    for chunk in decoder.feed(piece):
                        if chunk.text:
                            yield chunk
                    if decoder.done:
                        await _ended(answer.pieces)
                        break
                reply = decoder.close()
            except BaseException as error:
                answered(error, answer.status, answer.headers, self._provider)
                raise
        yield Chunk("", self._priced(request, reply, plan, time.perf_counter() - started))

    # --- as bytes -------------------------------------------------------------------------------------

    def body(self, request: Request, plan: CachePlan, *, stream: bool, usage: bool = False) -> bytes:
        """The request's body. Raises :class:`InputError` for parameters that the model does not take."""
        facts = msgspec.structs.replace(self.facts, stream_usage=True) if usage else self.facts
        return encode(self.codec.body(request, stream=stream, facts=facts, foreign=self._foreign, cache=plan))

    def fitted(self, request: Request) -> Request:
        """``request``, which was meant for another model, with what this one takes of its parameters."""
        return self.codec.fitted(request, facts=self.facts, foreign=self._foreign)

    async def post(self, body: bytes, at_most: float | None = None) -> Answer:
        """The whole answer to ``body``, whose status is below 300; ``at_most`` seconds are left for it."""
        answer = await self._transport.post(self.codec.path, self._headers, body, timeout=self._seconds(at_most))
        if answer.status >= 300:
            raise self._refused(answer.status, answer.headers, answer.data)
        return answer

    @asynccontextmanager
    async def begun(self, body: bytes) -> AsyncIterator[Streamed]:
        """The answer to ``body`` as it comes; its status is below 300."""
        async with self.opened(body, None) as answer:
            if answer.status >= 300:
                await self.refuse(answer)
            yield answer

    def opened(self, body: bytes, at_most: float | None) -> AbstractAsyncContextManager[Streamed]:
        """The answer to ``body`` as it comes, whatever its status is."""
        return self._transport.stream(self.codec.path, self._headers, body, timeout=self._seconds(at_most))

    async def refuse(self, answer: Streamed) -> NoReturn:
        """Raises the error that an answer with a status of 300 or more is."""
        try:
            data = b"".join([piece async for piece in answer.pieces])
        except BaseException as error:
            answered(error, answer.status, answer.headers, self._provider)
            raise
        raise self._refused(answer.status, answer.headers, data)

    def _seconds(self, at_most: float | None) -> float | None:
        return self._timeout if at_most is None else at_most if self._timeout is None else min(at_most, self._timeout)

    def cost(self, usage: Usage, plan: CachePlan) -> float | None:
        """US dollars of a call; ``None`` where nobody knows the price."""
        # A server that counted nothing (many do not for a stream) has not said that it was free.
        priced = self.rates is not None and (usage.counted or self.rates.free)
        return self.rates.cost(usage, long=plan.ttl == _LONG) if self.rates is not None and priced else None

    def _refused(self, status: int, headers: Mapping[str, str], data: bytes) -> ProviderError:
        error = self.codec.error(status, headers, data, provider=self._provider)
        if status == 404:
            error.hint = _not_there(self.name, self.facts) or error.hint
        return error

    def plan(self, request: Request) -> CachePlan:
        """Whether the static part of a call that begins now is marked for the provider's cache."""
        return self._planner.plan(request.static or request.system, request.system)

    def _priced(self, request: Request, reply: Reply, plan: CachePlan, seconds: float) -> Reply:
        # Searches are billed by number beside the tokens, and no price list here has that price.
        cost = None if WEB_SEARCH in request.options else self.cost(reply.usage, plan)
        return msgspec.structs.replace(reply, model=self.name, latency=seconds, cost=cost)


def _not_there(name: str, known: ModelFacts) -> str:
    """What to do about a model that its provider does not know; empty where no table knows more."""
    from ..catalog.models import CURRENT, RETIREMENTS, near  # only for a name that is wrong

    endpoint, (owner, _, model) = name.partition("/")[0], known.model.partition("/")
    table = f"the table of models and prices of {known.as_of}"
    if known.model in CURRENT:
        return f"{model} is in {table}: may this key use it, and is the endpoint's base_url right?"
    if known.model in RETIREMENTS:
        return f"its shutdown was announced for {RETIREMENTS[known.model]}, says {table}"
    others = [f"{endpoint}/{full.partition('/')[2]}" for full in near(known.model) if full.startswith(f"{owner}/")]
    return f"near names in {table}: {', '.join(others)}; else, is the endpoint's base_url right?" if others else ""


async def _ended(pieces: AsyncIterator[bytes]) -> None:
    """Reads to the end of a stream whose reply is complete: then its connection can be used again, else it is closed.

    Whatever happens behind the end can't make the reply another one.
    """
    with contextlib.suppress(ProviderError, Late, StopAsyncIteration):
        await within(_TAIL_SECONDS, anext(pieces))
