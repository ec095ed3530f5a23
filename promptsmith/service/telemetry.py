"""A span for each request, with the attributes of the GenAI and HTTP semantic conventions; the packages are an extra (``otel``).

It is switched on as every program with OpenTelemetry is, by the variables of its specification
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/): an ``OTEL_TRACES_EXPORTER`` other than
``none``, or an ``OTEL_EXPORTER_OTLP_ENDPOINT``. Without them nothing of it is imported. A span is made when its request has ended,
with the times that were measured, below the span that the client's ``traceparent`` names (W3C Trace Context). No text of a
prompt or an answer is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..orchestration.conventions import SCHEMA, given, model_of, needs, provider_of
from ..version import VERSION
from .metrics import Called

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PACKAGES = {"otlp_proto_http": "'promptsmith[otel]'", "otlp_proto_grpc": "opentelemetry-exporter-otlp-proto-grpc"}


def open_telemetry(environ: Mapping[str, str]) -> Telemetry | None:
    """``None`` unless the variables ask for spans; for each worker, after the fork.

    Raises :class:`InputError` when a package is missing that they need, or an exporter does not exist.
    """
    names = exporters(environ)
    if not names:
        return None
    needs("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return Telemetry(*(BatchSpanProcessor(_exporter(name)) for name in names))


def exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The entry points of the exporters that the variables name, none where spans are off. Raises :class:`InputError`."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    named = environ.get(_EXPORTER, "").strip() or ("otlp" if _first(environ, _ENDPOINTS) else "none")
    names = [name.strip() for name in named.split(",")]
    return tuple(_otlp(environ) if name == "otlp" else name for name in names if name not in ("", "none"))


def _otlp(environ: Mapping[str, str]) -> str:
    protocol = _first(environ, _PROTOCOLS) or "http/protobuf"
    if protocol not in _OTLP:
        raise InputError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, which no exporter speaks", hint=f"one of: {', '.join(_OTLP)}")
    return _OTLP[protocol]


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environ[name].strip() for name in names if environ.get(name, "").strip()), "")


def _exporter(name: str) -> Any:
    for found in entry_points(group="opentelemetry_traces_exporter", name=name):
        return found.load()()
    package = _PACKAGES.get(name)
    raise InputError(
        f"no OpenTelemetry exporter of spans is called {name!r} here",
        hint=f"pip install {package}" if package else f"{_EXPORTER} is otlp, console or none",
    )


class Telemetry:
    """Makes spans. ``processors`` are where they go; a worker that ends closes it."""

    def __init__(self, *processors: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come before our name.
        resource = Resource.create({SERVICE_NAME: "promptsmith"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource)
        for processor in processors:
            self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("promptsmith", VERSION, SCHEMA)
        self._continued = TraceContextTextMapPropagator()

    def called(self, call: Called, *, ended: float, method: str, route: str, request_id: str, trace: Mapping[str, str]) -> None:
        """The span of a request that ended at ``ended`` (seconds since the epoch).

        ``route`` is the endpoint's pattern, not the path, and ``trace`` the client's ``traceparent`` and ``tracestate``; others
        of its headers, and a malformed one, do no harm.
        """
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, Status, StatusCode

        span = self._tracer.start_span(
            f"{method} {route}",
            self._continued.extract(trace, Context()),
            SpanKind.SERVER,
            given(_attributes(call, method, route, request_id)),
            start_time=round((ended - call.seconds) * 1e9),
        )
        if call.error or call.status >= 400:
            span.set_attribute("error.type", call.error or str(call.status))
        # What the client did wrong is no error of the server (semantic conventions for HTTP spans).
        if call.status >= 500 or (call.error and call.status < 400):
            span.set_status(Status(StatusCode.ERROR))
        span.end(round(ended * 1e9))

    def close(self) -> None:
        """Sends what is still here; blocks until that is done or has failed."""
        self._provider.shutdown()


def _attributes(call: Called, method: str, route: str, request_id: str) -> dict[str, Any]:
    return {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": call.status,
        "gen_ai.operation.name": "chat" if call.endpoint != "count_tokens" else None,
        "gen_ai.provider.name": provider_of(call.model),
        "gen_ai.request.model": model_of(call.model),
        "gen_ai.request.stream": call.stream or None,
        "gen_ai.prompt.name": call.task,
        "gen_ai.response.time_to_first_chunk": call.first_byte_seconds if call.stream else None,
        "gen_ai.usage.input_tokens": call.input or None,
        "gen_ai.usage.output_tokens": call.output or None,
        "gen_ai.usage.cache_read.input_tokens": call.cached or None,
        "promptsmith.request.id": request_id,
        "promptsmith.prompt.id": call.prompt,
        "promptsmith.prompt.alias": call.alias,
        "promptsmith.arm": call.arm,
        "promptsmith.source": call.source,
        "promptsmith.cost.usd": call.cost,
        "promptsmith.adherent": call.adherent,
        "promptsmith.overhead": call.overhead_seconds,
    }
