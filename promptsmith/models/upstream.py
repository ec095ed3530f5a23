"""One model's calls as bytes, within its limits: for the service, which has a client's request and hands on the answer as it came."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType

from ..catalog.models import ModelFacts
from ..chat import Request, Usage
from ..config import Limit
from ..errors import RateLimited
from .endpoint import EndpointModel
from .limits import Gate, Place, gate_for
from .retry import Retry, RetryBudget, SystemClock, Trial
from .transport.protocol import Answer, Streamed
from .waiting import Span
from .wire import CachePlan, ClientCodec


class Upstream:
    """The same gate, retries and connections that the runtime's calls of this model have; each method makes one attempt.

    Raises :class:`ProviderError` and its kin for every answer that is none.
    """

    def __init__(self, model: EndpointModel, limit: Limit, policy: Retry, budget: RetryBudget) -> None:
        self.model = model
        self.gate: Gate | None = gate_for(model, limit)
        self._limit, self._policy, self._budget = limit, policy, budget
        self._clock = SystemClock()

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def facts(self) -> ModelFacts:
        return self.model.facts

    @property
    def codec(self) -> ClientCodec:
        return self.model.codec

    @property
    def counts_tokens(self) -> bool:
        """Whether calls must say about how many tokens they are."""
        return self.gate is not None and self.gate.counts_tokens

    def plan(self, request: Request) -> CachePlan:
        """The provider-cache plan of a call that begins now."""
        return self.model.plan(request)

    def body(self, request: Request, plan: CachePlan, *, stream: bool, usage: bool = False) -> bytes:
        """The whole body of a request. Raises :class:`InputError` for parameters that the model does not take.

        ``usage``: whoever asked wants the usage of a stream, whether or not the server may know that.
        """
        return self.model.body(request, plan, stream=stream, usage=usage)

    def cost(self, usage: Usage, plan: CachePlan) -> float | None:
        """US dollars; ``None`` where nobody knows the price."""
        return self.model.cost(usage, plan)

    def trial(self) -> Trial:
        """The attempts of one call that begins now."""
        return Trial(self._policy, self._clock, self._budget, self.name)

    async def post(self, body: bytes, span: Span, tokens: float = 0.0) -> Answer:
        """The whole answer, whose status is below 300, within what is left of ``span``."""
        gate = self.gate
        place = await gate.enter_within(span, tokens) if gate is not None else None
        try:
            answer = await self.model.post(body, span.left())
        except BaseException as error:
            self.over(place, error)
            raise
        self.over(place, None)
        return answer

    def stream(self, body: bytes, span: Span, tokens: float = 0.0) -> UpstreamStream:
        """The answer as it comes, with its first piece: up to there another attempt can be made."""
        return UpstreamStream(self, body, span, tokens)

    def told(self, tokens: float, used: Usage) -> None:
        """What a call really took for which ``tokens`` were thought of when it began."""
        if self.gate is not None:
            self.gate.told(tokens, used)

    def over(self, place: Place | None, error: BaseException | None) -> None:
        """Gives a place back, and tells the gate how the attempt ended."""
        if self.gate is None or place is None:
            return
        if error is None:
            self.gate.accepted(place, Usage())
        elif isinstance(error, RateLimited) and error.retryable:
            self.gate.refused(place, error.retry_after)
        else:
            self.gate.left(place)


class UpstreamStream:
    """The context that one streamed attempt is read in. A class: two generators around each stream cost more than its bytes."""

    __slots__ = ("_answer", "_asked", "_place", "_upstream")

    def __init__(self, upstream: Upstream, body: bytes, span: Span, tokens: float) -> None:
        self._upstream = upstream
        self._asked = body, span, tokens
        self._place: Place | None = None
        self._answer: AbstractAsyncContextManager[Streamed] | None = None

    async def __aenter__(self) -> tuple[Streamed, bytes]:
        upstream, (body, span, tokens) = self._upstream, self._asked
        if upstream.gate is not None:
            self._place = await upstream.gate.enter_within(span, tokens)
        try:
            self._answer = context = upstream.model.opened(body, span.left())
            answer = await context.__aenter__()
            try:
                if answer.status >= 300:
                    await upstream.model.refuse(answer)
                return answer, await anext(answer.pieces, b"")
            except BaseException as error:
                await context.__aexit__(type(error), error, error.__traceback__)
                raise
        except BaseException as error:
            upstream.over(self._place, error)
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._answer is not None
        try:
            await self._answer.__aexit__(kind, error, trace)
        finally:
            self._upstream.over(self._place, error)
