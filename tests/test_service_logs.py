"""The service's log: whole lines of JSON whoever else writes, without keys, and nothing that breaks serving. And its spans."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith import redact as redacting
from promptsmith.errors import InputError
from promptsmith.redact import MASK, may_hold_secret, redact
from promptsmith.service.logs import LEVELS, LINE_BYTES, Log, Request
from promptsmith.service.metrics import Called
from promptsmith.service.telemetry import Telemetry, exporters, open_telemetry

KEY = "sk-ant-0123456789abcdefghij"
TEXTS = [name for name, kind in Request.__annotations__.items() if kind == "str"]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[tuple[Log, Callable[[], list[dict[str, Any]]]]]:
    """A log, and a function that gives its lines so far."""
    with (tmp_path / "log").open("ab") as stream:
        yield Log("debug", stream), lambda: [json.loads(line) for line in (tmp_path / "log").read_text("utf-8").split("\n")[:-1]]


Written = tuple[Log, Callable[[], list[dict[str, Any]]]]


def test_a_request_is_one_line_with_what_is_known(written: Written) -> None:
    log, lines = written
    at = datetime(2026, 11, 21, 20, 40, 7, 123456, tzinfo=UTC)
    log.request(
        Request(
            time=at, request_id="r1", key="app", method="POST", path="/v1/chat/completions", status=200, task="sentiment", prompt="abc",
            alias="production", model="openai/gpt-4o-mini", arm="candidate", source="model", ms=312.5, overhead_us=81, input=100,
            output=10, cached=4, cost=0.0001, upstream_id="u1",
        )
    )  # fmt: skip
    log.request(Request(request_id="r2", client_gone=True, cost=0.0))
    first, second = lines()
    assert first == {
        "level": "info", "event": "request", "time": "2026-11-21T20:40:07.123456Z", "request_id": "r1", "key": "app", "method": "POST",
        "path": "/v1/chat/completions", "status": 200, "task": "sentiment", "prompt": "abc", "alias": "production",
        "model": "openai/gpt-4o-mini", "arm": "candidate", "source": "model", "ms": 312.5, "overhead_us": 81, "input": 100, "output": 10,
        "cached": 4, "cost": 0.0001, "upstream_id": "u1",
    }  # fmt: skip
    assert set(second) == {"level", "event", "time", "request_id", "cost", "client_gone"}
    assert datetime.fromisoformat(second["time"]).tzinfo is not None


def test_levels_follow_from_how_a_request_ended(written: Written) -> None:
    log, lines = written
    for status, error, gone in [(200, "", False), (404, "no such prompt", False), (502, "", False), (200, "broke off", False)]:
        log.request(Request(request_id="r", status=status, error=error, client_gone=gone))
    log.request(Request(request_id="r", status=499, error="client left", client_gone=True))
    assert [line["level"] for line in lines()] == ["info", "warning", "error", "error", "info"]


def test_changes_of_the_service_are_lines_too(written: Written) -> None:
    log, lines = written
    log.event("started", address="127.0.0.1:8337", workers=2)
    log.event("trouble", "warning", error=f"upstream said {KEY}")
    first, second = lines()
    assert (first["level"], first["event"], first["workers"], first["pid"]) == ("info", "started", 2, os.getpid())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", first["time"])
    assert (second["level"], second["error"]) == ("warning", f"upstream said {MASK}")


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_below_the_level_is_not_written(written: Written, level: Any) -> None:
    log, lines = written
    log.level = level
    assert log.level == level
    for one in LEVELS:
        log.event("reloaded", one)
    for status in (200, 400, 500):
        log.request(Request(request_id="r", status=status))
    shown = LEVELS[LEVELS.index(level) :]
    assert [line["level"] for line in lines()] == [*shown, *(one for one in ("info", "warning", "error") if one in shown)]


@pytest.mark.parametrize("name", TEXTS)
def test_no_field_shows_a_key(written: Written, name: str) -> None:
    log, lines = written
    log.request(Request(**{"request_id": "r", name: f"before {KEY} after"}))
    assert lines()[0][name] == f"before {MASK} after"


def test_all_fields_that_are_texts_are_looked_at() -> None:
    assert len(TEXTS) == 12
    assert {"path", "error", "upstream_id", "request_id", "key"} <= set(TEXTS)


secrets = st.one_of(
    st.from_regex(re.compile(redacting._KEYS, re.VERBOSE | re.DOTALL)),
    st.from_regex(redacting._HEADER),
    st.from_regex(redacting._URL_LOGIN),
)


@given(text=secrets, before=st.text(max_size=10), after=st.text(max_size=10))
def test_the_quick_look_passes_nothing_that_would_be_masked(text: str, before: str, after: str) -> None:
    whole = before + text + after
    assert may_hold_secret(whole) or redact(whole) == whole
    assert may_hold_secret(text) or redact(text) == text


def test_the_quick_look_passes_usual_requests() -> None:
    for text in ("/v1/chat/completions", "req_011CSabcdefghijkl", "openai/gpt-4o-mini", "0123456789abcdef"):
        assert not may_hold_secret(text)


@given(text=st.text(st.characters(), max_size=3000), name=st.sampled_from(TEXTS))
def test_any_text_is_one_whole_line(tmp_path_factory: pytest.TempPathFactory, text: str, name: str) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    with path.open("ab") as stream:
        Log("info", stream).request(Request(**{"request_id": "r", name: text}))
    data = path.read_bytes()
    assert data.count(b"\n") == 1
    assert len(data) <= LINE_BYTES
    json.loads(data)


@pytest.mark.parametrize("char", ["x", "é", "\x01", "😀", "\ud800", '"'])
def test_a_line_is_never_longer_than_a_pipe_takes_whole(written: Written, tmp_path: Path, char: str) -> None:
    log, lines = written
    log.request(Request(**dict.fromkeys(TEXTS, char * 5000)))
    log.event("trouble", error=char * 5000)
    assert all(len(line) + 1 <= LINE_BYTES for line in (tmp_path / "log").read_bytes().split(b"\n"))
    first, second = lines()
    assert set(TEXTS) <= set(first)
    assert first["error"].endswith("…")
    assert len(second["error"]) >= 128


def test_a_key_is_masked_before_a_long_text_is_cut(written: Written) -> None:
    log, lines = written
    log.request(Request(request_id="r", error="x" * 500 + " " + KEY + " " + "y" * 5000))
    assert "sk-" not in lines()[0]["error"]


def test_lines_of_several_processes_do_not_mix() -> None:
    code = (
        "import sys; from promptsmith.service.logs import Log, Request\n"
        "log = Log()\n"
        "for n in range(500): log.request(Request(request_id=f'{sys.argv[1]}-{n}', error='e' * (n * 7 % 3900)))\n"
        "assert log.lost == 0\n"
    )
    read, write = os.pipe()
    children = [subprocess.Popen([sys.executable, "-c", code, str(number)], stderr=write) for number in range(3)]
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        lines = [json.loads(line) for line in stream]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert {line["request_id"] for line in lines} == {f"{child}-{number}" for child in range(3) for number in range(500)}
    assert len(lines) == 1500


def test_lines_of_several_threads_do_not_mix(written: Written) -> None:
    log, lines = written
    threads = [threading.Thread(target=lambda n=n: [log.request(Request(request_id=f"{n}-{i}")) for i in range(200)]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({line["request_id"] for line in lines()}) == 800


def test_a_reader_that_has_gone_breaks_nothing() -> None:
    read, write = os.pipe()
    log = Log("info", write)
    os.close(read)
    log.request(Request(request_id="r"))
    log.event("stopped")
    assert log.lost == 2
    os.close(write)
    log.request(Request(request_id="r"))
    assert log.lost == 3


def test_a_reader_that_has_stopped_does_not_stop_a_stream_that_does_not_block() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    log = Log("info", write)
    for _ in range(200):
        log.request(Request(request_id="r", error="x" * 3000))
    assert log.lost > 100
    os.close(read)
    os.close(write)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes")
def test_a_line_that_a_full_disk_cut_off_is_not_gone_on_with(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from promptsmith.service.logs import Log, Request\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY))\n"
        "log = Log('info', open(sys.argv[1], 'ab'))\n"
        "for n in range(3): log.request(Request(request_id=f'r{n}'))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "log.request(Request(request_id='r3')); print(log.lost)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr
    lines = (tmp_path / "log").read_text().split("\n")
    assert json.loads(lines[0])["request_id"] == "r0"
    assert json.loads(lines[-2])["request_id"] == "r3"


def test_the_guides_lines_are_lines() -> None:
    guide = (Path(__file__).parent.parent / "docs" / "guides" / "operations.md").read_text("utf-8")
    block = next(one for one in re.findall(r"```text\n(.*?)```", guide, re.DOTALL) if '"event"' in one)
    started, request = [json.loads(line) for line in block.replace("\n ", " ").splitlines()]
    assert started["event"] == "started"
    facts = {name: value for name, value in request.items() if name not in ("level", "event")}
    assert msgspec.convert(facts | {"event": "request"}, Request).level == request["level"]
    assert set(facts) <= set(Request.__struct_fields__)


# --- spans ------------------------------------------------------------------------------------------------

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=value"}


def called(**more: Any) -> Called:
    base: dict[str, Any] = {
        "task": "sentiment", "prompt": "ab" * 32, "alias": "production", "model": "gemini/flash", "endpoint": "chat", "seconds": 2.0,
        "overhead_seconds": 0.0001, "first_byte_seconds": 0.5, "input": 100, "output": 10, "cached": 40, "cost": 0.25, "stream": True,
    }  # fmt: skip
    return Called(**{**base, **more})


def span(call: Called, trace: dict[str, str]) -> Any:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    telemetry = Telemetry(SimpleSpanProcessor(kept))
    telemetry.called(call, ended=1000.0, method="POST", route="/v1/chat/completions", request_id="r1", trace=trace)
    telemetry.close()
    (one,) = kept.get_finished_spans()
    return one


def test_a_request_is_a_span_below_the_clients() -> None:
    from opentelemetry.trace import SpanKind

    one = span(called(), TRACE)
    assert (one.name, one.kind) == ("POST /v1/chat/completions", SpanKind.SERVER)
    assert f"{one.context.trace_id:032x}" == TRACE["traceparent"].split("-")[1]
    assert f"{one.parent.span_id:016x}" == TRACE["traceparent"].split("-")[2]
    assert one.context.trace_state.get("vendor") == "value"
    assert (one.start_time, one.end_time) == (998_000_000_000, 1_000_000_000_000)
    assert one.resource.attributes["service.name"] == "promptsmith"
    assert dict(one.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "flash",
        "gen_ai.request.stream": True,
        "gen_ai.prompt.name": "sentiment",
        "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "promptsmith.request.id": "r1",
        "promptsmith.prompt.id": "ab" * 32,
        "promptsmith.prompt.alias": "production",
        "promptsmith.source": "model",
        "promptsmith.cost.usd": 0.25,
        "promptsmith.overhead": 0.0001,
    }


@pytest.mark.parametrize("trace", [{}, {"traceparent": "00-0-0-01"}, {"traceparent": "\x00"}, {"traceparent": ""}, {"baggage": "a=b"}])
def test_without_a_good_traceparent_a_trace_begins(trace: dict[str, str]) -> None:
    assert span(called(), trace).parent is None


def test_names_are_the_conventions_own() -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
    from opentelemetry.semconv.attributes import error_attributes, http_attributes

    modules = (gen_ai_attributes, error_attributes, http_attributes)
    known = {name for module in modules for name in vars(module).values() if isinstance(name, str)}
    for call in (called(), called(status=502, error="upstream_reset", adherent=False, arm="candidate")):
        assert {name for name in span(call, {}).attributes if not name.startswith("promptsmith.")} <= known


def test_failures_of_the_service_are_errors_and_those_of_clients_have_a_type() -> None:
    from opentelemetry.trace import StatusCode

    found = [
        span(called(status=status, error=error), {}) for status, error in [(200, ""), (404, "unknown_model"), (502, ""), (200, "broken")]
    ]
    assert [one.status.status_code for one in found] == [StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR, StatusCode.ERROR]
    assert [one.attributes.get("error.type") for one in found] == [None, "unknown_model", "502", "broken"]
    assert all(one.status.description is None for one in found)


def test_a_count_of_tokens_is_no_chat_and_a_refused_request_has_no_model() -> None:
    assert "gen_ai.operation.name" not in span(called(endpoint="count_tokens"), {}).attributes
    refused = span(called(task="", prompt="", alias="", model="", status=401, error="no_key", cost=None), {}).attributes
    assert not {"gen_ai.request.model", "gen_ai.provider.name", "promptsmith.cost.usd"} & set(refused)


def test_variables_switch_spans_on() -> None:
    assert exporters({}) == ()
    assert exporters({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}) == ()
    assert exporters({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}) == ("otlp_proto_http",)
    assert exporters({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}) == ("otlp_proto_grpc",)
    assert exporters({"OTEL_TRACES_EXPORTER": "console, otlp"}) == ("console", "otlp_proto_http")
    assert exporters({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "console"}) == ()
    assert exporters({"OTEL_METRICS_EXPORTER": "console", "OTEL_SERVICE_NAME": "x"}) == ()


def test_mistakes_in_the_variables_say_what_is_right() -> None:
    with pytest.raises(InputError, match="which no exporter speaks") as caught:
        exporters({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "morse"})
    assert caught.value.hint == "one of: http/protobuf, grpc"
    with pytest.raises(InputError, match="'pigeon'") as caught:
        open_telemetry({"OTEL_TRACES_EXPORTER": "pigeon"})
    assert caught.value.hint == "OTEL_TRACES_EXPORTER is otlp, console or none"


def test_spans_reach_the_exporter_when_the_worker_ends_and_variables_name_the_service() -> None:
    code = (
        "import os; from promptsmith.service.telemetry import open_telemetry; from promptsmith.service.metrics import Called\n"
        "telemetry = open_telemetry(os.environ)\n"
        "call = Called(task='t', prompt='p', alias='a', model='m/x', endpoint='chat')\n"
        "telemetry.called(call, ended=1.0, method='POST', route='/v1/messages', request_id='r', trace={})\n"
        "telemetry.close()\n"
    )
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "mine"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    shown = json.loads(done.stdout)
    assert shown["name"] == "POST /v1/messages"
    assert shown["resource"]["attributes"]["service.name"] == "mine"


def test_without_the_variables_nothing_is_imported() -> None:
    code = (
        "import sys; from promptsmith.service.telemetry import open_telemetry\n"
        "assert open_telemetry({}) is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
