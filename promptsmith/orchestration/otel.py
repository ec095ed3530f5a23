"""A run of a plan as OpenTelemetry spans, with the GenAI semantic conventions; the packages are an extra (``otel``).

Names of spans and attributes are those of the conventions as of 2026 (https://opentelemetry.io/docs/specs/semconv/gen-ai/, status
Development): the run is ``invoke_workflow``, a step of an expert ``invoke_agent`` and one of a worker ``execute_tool``, each call
of a model ``chat``. What the conventions have no name for begins with ``promptsmith.``.

Spans are made when the run has ended, with the times that were measured. Texts (problem, what was sent and answered, reasons)
are left out unless they are asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from ..chat import Usage
from ..version import VERSION
from . import trace as words
from .conventions import SCHEMA, Attributes, given, model_of, needs, provider_of, text
from .values import Event, Outcome, Step, StepResult

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider


def export(outcome: Outcome, *, provider: TracerProvider | None = None, content: bool = False) -> None:
    """Makes the spans of a run, below the span that is current now. ``provider``: where they go (default: the global one).

    Raises :class:`InputError` when OpenTelemetry is not installed.
    """
    needs("opentelemetry.trace")
    from opentelemetry import trace

    tracer = trace.get_tracer("promptsmith", VERSION, provider, SCHEMA)
    _Run(outcome, tracer, content=content).spans()


def span_lines(outcome: Outcome, *, content: bool = False) -> Iterator[str]:
    """The spans as the SDK writes them, as JSON, one a line; parents behind their children. Raises :class:`InputError`."""
    needs("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    export(outcome, provider=provider, content=content)
    return (span.to_json(indent=None) for span in kept.get_finished_spans())


class _Run:
    """The spans of one run."""

    def __init__(self, outcome: Outcome, tracer: Tracer, *, content: bool) -> None:
        self._outcome, self._tracer, self._content = outcome, tracer, content
        self._began = outcome.began or time.time() - outcome.seconds

    def spans(self) -> None:
        from opentelemetry.trace import SpanKind

        outcome, plan = self._outcome, self._outcome.plan
        # A plan's name is a person's; one that a model wrote names each of its plans anew, which this attribute may not.
        name = plan.name if plan.author == "person" else ""
        own = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": name,
            "promptsmith.run": outcome.run,
            "promptsmith.state": outcome.state,
            "promptsmith.rounds": outcome.rounds,
            "promptsmith.steps": len(plan.steps),
            "promptsmith.cost.usd": words.spent(outcome),
            "promptsmith.baseline.usd": outcome.baseline_usd,
            **self._said(outcome.problem, outcome.answer),
        }
        span = self._start(" ".join(filter(None, ["invoke_workflow", name])), SpanKind.INTERNAL, 0.0, own, None)
        if outcome.state != "done":
            self._fail(span, f"plan_{outcome.cause or outcome.state}", outcome.why)
        for row in words.traced(outcome):
            if row.ran:
                self._step(span, row.step, row.result)
        for event in outcome.events:
            self._event(span, event)
        last = max([outcome.seconds, *(one.ended for one in outcome.results)])
        span.end(self._at(last))

    def _step(self, parent: Span, step: Step, result: StepResult) -> None:
        from opentelemetry.trace import SpanKind

        worker = bool(step.worker)
        operation, name = ("execute_tool", step.worker) if worker else ("invoke_agent", step.expert)
        own = {
            "gen_ai.operation.name": operation,
            "gen_ai.tool.name" if worker else "gen_ai.agent.name": name,
            "gen_ai.tool.type": "function" if worker else None,
            "promptsmith.step.id": step.id,
            "promptsmith.step.needs": step.needs,
            "promptsmith.step.attempts": result.attempts,
            "promptsmith.step.source": result.source,
            "promptsmith.prompt.id": result.prompt,
            **self._model(result.model),
            **_usage(result.usage),
            "promptsmith.cost.usd": result.cost,
        }
        own |= self._tool(result) if worker else self._said(result.sent, result.text)
        span = self._start(f"{operation} {name}", SpanKind.INTERNAL, result.started, own, parent)
        if result.state != "done":
            self._fail(span, "step_failed", result.error)
        if result.model and result.source in ("model", ""):
            self._calls(span, step, result)
        span.end(self._at(result.ended))

    def _calls(self, parent: Span, step: Step, result: StepResult) -> None:
        """One span for each attempt: from the retry before it to its own, or to the end of the step."""
        from opentelemetry.trace import SpanKind

        again = [event for event in words.retries(self._outcome, step.id) if result.started <= event.at <= result.ended]
        borders = [result.started, *(event.at for event in again), result.ended]
        used = sum((event.usage for event in again), Usage())
        counted = all(event.usage.counted for event in again)
        for place, (start, end) in enumerate(pairwise(borders)):
            event = again[place] if place < len(again) else None
            usage = event.usage if event is not None else _less(result.usage, used) if counted else Usage()
            model = event.model if event is not None and event.model else result.model
            own = {"gen_ai.operation.name": "chat", **self._model(model), **_usage(usage)}
            if event is None:
                own |= self._said(result.sent, result.text)
            span = self._start(f"chat {model_of(model)}", SpanKind.CLIENT, start, own, parent)
            if event is not None or result.state != "done":
                self._fail(span, "attempt_failed", result.error if event is None else event.text)
            span.end(self._at(end))

    def _event(self, parent: Span, event: Event) -> None:
        """A call of the conductor, the compiler or the judge as a span; any other decision as an event of the run."""
        from opentelemetry.trace import SpanKind

        if event.role in ("expert", "worker") or event.kind.startswith("step_"):
            if event.kind == "step_skipped":
                parent.add_event("promptsmith.step_skipped", {"promptsmith.step.id": event.step}, self._at(event.at))
            return
        if not (event.model and event.usage.counted):
            own: Attributes = {"promptsmith.step.id": event.step, "promptsmith.text": event.text if self._content else None}
            parent.add_event(f"promptsmith.{event.kind}", given(own), self._at(event.at))
            return
        own = {
            "gen_ai.operation.name": "chat",
            "promptsmith.role": event.role,
            "promptsmith.decision": event.kind,
            "promptsmith.step.id": event.step,
            **self._model(event.model),
            **_usage(event.usage),
            "promptsmith.cost.usd": event.cost,
            "promptsmith.text": event.text if self._content else None,
        }
        start = max(0.0, event.at - event.seconds)
        self._start(f"chat {model_of(event.model)}", SpanKind.CLIENT, start, own, parent).end(self._at(event.at))

    # --- parts of a span ----------------------------------------------------------------------------------

    def _start(self, name: str, kind: SpanKind, at: float, own: Attributes, parent: Span | None) -> Span:
        from opentelemetry import context, trace

        within = context.get_current() if parent is None else trace.set_span_in_context(parent)
        return self._tracer.start_span(text(name), within, kind, given(own), start_time=self._at(at))

    def _fail(self, span: Span, kind: str, why: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR, text(why) if self._content else None))

    def _at(self, seconds: float) -> int:
        """Nanoseconds since the epoch."""
        return round((self._began + seconds) * 1e9)

    def _model(self, name: str) -> Attributes:
        return {"gen_ai.provider.name": provider_of(name), "gen_ai.request.model": model_of(name)} if name else {}

    def _said(self, sent: str, answered: str) -> Attributes:
        """What went in and came out, in the conventions' form; nothing unless it is asked for."""
        if not self._content:
            return {}
        return {
            "gen_ai.input.messages": _messages("user", sent) if sent else None,
            "gen_ai.output.messages": _messages("assistant", answered, finish_reason="stop") if answered else None,
        }

    def _tool(self, result: StepResult) -> Attributes:
        return {"gen_ai.tool.call.arguments": result.sent, "gen_ai.tool.call.result": result.text} if self._content else {}


def _messages(role: str, text: str, **more: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}], **more}])


def _usage(usage: Usage) -> Attributes:
    if not usage.counted:
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.input,
        "gen_ai.usage.output_tokens": usage.output,
        "gen_ai.usage.cache_read.input_tokens": usage.cached or None,
        "gen_ai.usage.cache_creation.input_tokens": usage.written or None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning or None,
    }


def _less(whole: Usage, part: Usage) -> Usage:
    return Usage(*(max(0, getattr(whole, name) - getattr(part, name)) for name in Usage.__struct_fields__))
