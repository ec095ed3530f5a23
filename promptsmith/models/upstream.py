"""One model's calls as bytes, within its limits: for the service, which has a client's request and hands on the answer as it came."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from ..catalog.models import ModelFacts
from ..catalog.prices import Rates
from ..chat import Request, Usage
from ..config import Limit
from ..errors import ProviderError, RateLimited
from .endpoint import EndpointModel
from .limits import Gate, Place, gate_for
from .retry import Retry, RetryBudget, SystemClock, Trial
from .transport.protocol import Answer, Streamed
from .waiting import Span, within
from .wire import CachePlan, ClientCodec


class Upstream:
    """The same gate, retries and connections that the runtime's calls of this model have; each method makes one attempt.

    Raises :class:`ProviderError` and its kin for every answer that is none.
    """

    def __init__(self, model: EndpointModel, limit: Limit, policy: Retry, budget: RetryBudget) -> None:
        self._model = model
        self._gate: Gate | None = gate_for(model, limit)
        self._limit, self._policy, self._budget = limit, policy, budget
        self._clock = SystemClock()

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def facts(self) -> ModelFacts:
        return self._model.facts

    @property
    def rates(self) -> Rates | None:
        return self._model.rates

    @property
    def codec(self) -> ClientCodec:
        return self._model.codec

    @property
    def counts_tokens(self) -> bool:
        """Whether calls must say about how many tokens they are."""
        return self._gate is not None and self._gate.counts_tokens

    def plan(self, request: Request) -> CachePlan:
        """The provider-cache plan of a call that begins now."""
        return self._model.plan(request)

    def body(self, request: Request, plan: CachePlan, *, stream: bool, usage: bool = False) -> bytes:
        """The whole body of a request. Raises :class:`InputError` for parameters that the model does not take.

        ``usage``: whoever asked wants the usage of a stream, whether or not the server may know that.
        """
        return self._model.body(request, plan, stream=stream, usage=usage)

    def cost(self, usage: Usage, plan: CachePlan) -> float | None:
        """US dollars; ``None`` where nobody knows the price."""
        return self._model.cost(usage, plan)

    def trial(self) -> Trial:
        """The attempts of one call that begins now."""
        return Trial(self._policy, self._clock, self._budget, self.name)

    async def post(self, body: bytes, span: Span, tokens: float = 0.0) -> Answer:
        """The whole answer, whose status is below 300, within what is left of ``span``."""
        gate = self._gate
        place = await self._entered(gate, span, tokens) if gate is not None else None
        try:
            answer = await self._model.post(body, span.left())
        except BaseException as error:
            self._over(place, error)
            raise
        if gate is not None and place is not None:
            gate.accepted(place, Usage())
        return answer

    @asynccontextmanager
    async def stream(self, body: bytes, span: Span, tokens: float = 0.0) -> AsyncIterator[tuple[Streamed, bytes]]:
        """The answer as it comes, with its first piece: up to there another attempt can be made."""
        gate = self._gate
        place = await self._entered(gate, span, tokens) if gate is not None else None
        try:
            async with self._model.begun(body, span.left()) as answer:
                yield answer, await anext(answer.pieces, b"")
        except BaseException as error:
            self._over(place, error)
            raise
        if gate is not None and place is not None:
            gate.accepted(place, Usage())

    @staticmethod
    async def _entered(gate: Gate, span: Span, tokens: float) -> Place:
        # Somebody waits for the answer, so that the time for it includes the time for a place. Raises Late.
        place = gate.at_once(tokens)
        return place if place is not None else await within(span.left(), gate.enter(tokens))

    def _over(self, place: Place | None, error: BaseException) -> None:
        if self._gate is None or place is None:
            return
        if isinstance(error, RateLimited) and error.retryable:
            self._gate.refused(place, error.retry_after)
        else:
            self._gate.left(place)

    def named(self, error: ProviderError, headers: Mapping[str, str]) -> ProviderError:
        """``error`` with the provider's id of the call in it."""
        error.provider = error.provider or self.name.partition("/")[0]
        error.request_id = error.request_id or self.codec.request_id(headers)
        return error
