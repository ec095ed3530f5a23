"""Spans of requests, as a collector gets them over OTLP from a real service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .provider import Provider, Settings
from .serving import OPENAI, SENTIMENT, eventually, made, project_at, serving, settings_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Its address, and the resource spans that it was sent."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    kept: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            kept.extend(sent.resource_spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_each_request_is_a_span_at_the_collector_below_the_clients(tmp_path: Path) -> None:
    with Provider(lambda _: "positive", settings=Settings(keep_records=10)) as provider, collector() as (address, kept):
        project = project_at(tmp_path / "traced", settings_of(provider), made("sentiment", OPENAI, SENTIMENT))
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_SERVICE_NAME": "shop"}
        with serving(project, "--workers", "2", environment=environment) as service:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            body = {"model": "sentiment", "messages": [{"role": "user", "content": "a secret of the user"}]}
            for more in ({}, {"stream": True}):
                assert service.call("POST", "/v1/chat/completions", {**body, **more}, headers).status == 200
            eventually(lambda: sum(len(scope.spans) for one in kept for scope in one.scope_spans) >= 2, "both spans have come")
            assert service.stop() == 0
            assert service.trouble() == []
    spans = [span for one in kept for scope in one.scope_spans for span in scope.spans]
    assert [(span.name, span.trace_id.hex(), span.parent_span_id.hex()) for span in spans] == [
        ("POST /v1/chat/completions", TRACE, PARENT)
    ] * 2
    assert {value.value.string_value for one in kept for value in one.resource.attributes if value.key == "service.name"} == {"shop"}
    for span in spans:
        told = {one.key: one.value for one in span.attributes}
        assert told["gen_ai.request.model"].string_value == OPENAI.partition("/")[2]
        assert told["gen_ai.usage.input_tokens"].int_value > 0
        assert told["http.response.status_code"].int_value == 200
        assert span.end_time_unix_nano > span.start_time_unix_nano
    assert "secret of the user" not in str(kept)
