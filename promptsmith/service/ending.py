"""What is told of a request that is over: figures, a line in the log, a span, the key's account, the canary's outcome."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from functools import partial

from ..canary import Watch
from ..chat import Usage
from . import http as web
from .door import Door
from .logs import Log, Request
from .metrics import Called, Endpoint, Metrics
from .telemetry import Telemetry
from .visit import Visit


class Ending:
    """One worker's."""

    def __init__(self, metrics: Metrics, log: Log, door: Door, watch: Watch, telemetry: Telemetry | None = None) -> None:
        self.metrics, self.log, self._door, self._watch, self._telemetry = metrics, log, door, watch, telemetry

    now = staticmethod(time.time)

    def over(self, visit: Visit, request: web.Request) -> None:
        """The request has been answered, as far as it goes. Whatever goes wrong here takes no answer back."""
        self.metrics.ended()
        seconds = time.perf_counter() - visit.started
        overhead = max(0.0, seconds - visit.waited)
        # What one of them can't do the others do all the same.
        for tell in (self._settle, partial(self._count, request=request, seconds=seconds, overhead=overhead), self._note):
            try:
                tell(visit)
            except Exception as error:
                self.fault(visit, error)
        self.log.request(self._line(visit, request.method, seconds, overhead))

    def _settle(self, visit: Visit) -> None:
        if visit.endpoint is not None:
            self._door.settle(visit)

    def _count(self, visit: Visit, request: web.Request, seconds: float, overhead: float) -> None:
        if visit.endpoint is None:
            return
        call = _called(visit, visit.endpoint, seconds, overhead)
        self.metrics.called(call)
        if self._telemetry is not None:
            route, now = _ROUTES[visit.endpoint], time.time()
            self._telemetry.called(call, ended=now, method=request.method, route=route, request_id=visit.id, trace=_trace(request.headers))

    def _note(self, visit: Visit) -> None:
        """The outcome for the canary. A client that left says nothing about the prompt.

        Whatever was refused once the arm was known counts as failed: what clients do wrong, they do wrong on both arms, and
        a candidate whose model was retired, or that takes other inputs, answers nobody.
        """
        canary, arm = visit.canary, visit.arm
        if canary is None or not arm or visit.gone:
            return
        broken = visit.code == "contract_broken"  # an answer, and no failed call
        failed = not broken and (visit.status >= 400 or bool(visit.code))
        if visit.adherent is not None or failed:
            self._watch.outcome(canary, arm, visit.adherent, failed)

    @staticmethod
    def _line(visit: Visit, method: str, seconds: float, overhead: float) -> Request:
        usage = visit.usage
        return Request(
            request_id=visit.id,
            key=visit.key.name if visit.key is not None else "",
            method=method,
            path=visit.path,
            status=visit.status,
            task=visit.task,
            prompt=visit.prompt[:12],
            alias=visit.alias,
            model=visit.model,
            arm=visit.arm or "",
            source=visit.source or "",
            ms=round(seconds * 1e3, 3),
            overhead_us=round(overhead * 1e6),
            input=usage.input,
            output=usage.output,
            cached=usage.cached,
            cost=visit.cost if visit.source else None,
            client_gone=visit.gone,
            upstream_id=visit.upstream_id,
            error=visit.error,
        )

    def fault(self, visit: Visit, error: BaseException) -> None:
        """A mistake of ours: its traceback is for the log, and for nobody else."""
        last = traceback.extract_tb(error.__traceback__)[-6:]
        where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(last))
        self.log.event("trouble", "error", request_id=visit.id, error=f"{type(error).__name__}: {error}", where=where)


_ROUTES = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "run": "/v1/run/{task}",
    "count_tokens": "/v1/messages/count_tokens",
}


def _trace(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}


def _called(visit: Visit, endpoint: Endpoint, seconds: float, overhead: float) -> Called:
    usage = visit.usage if visit.source != "cache" else Usage()  # these were taken, and counted, by the call that is in the cache
    return Called(
        task=visit.task,
        prompt=visit.prompt,
        alias=visit.alias,
        model=visit.model,
        endpoint=endpoint,
        arm=(visit.arm or "") if not visit.gone else "",  # who leaves says nothing of an arm
        status=visit.status,
        error=visit.code,
        seconds=seconds,
        overhead_seconds=overhead,
        first_byte_seconds=visit.first_byte,
        input=usage.input,
        output=usage.output,
        cached=usage.cached,
        cost=visit.cost,
        adherent=visit.adherent,
        source=visit.source,
        stream=visit.stream,
    )
