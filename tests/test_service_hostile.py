"""What bad clients send: never a 500, never a traceback, never more than was asked for; and whoever comes next is answered."""

from __future__ import annotations

import contextlib
import errno
import gzip
import http.client
import json
import re
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from promptsmith.registry.canaries import CanaryFile, new_canary
from promptsmith.store.layout import CANARIES

from .provider import Provider, constant
from .provider import Settings as ProviderSettings
from .serving import (
    LETTER,
    ORDER,
    SECONDS,
    SENTIMENT,
    Answer,
    Canned,
    Say,
    Serving,
    eventually,
    made,
    project_at,
    promote,
    serving,
    settings_of,
)

CHAT, MESSAGES, RESPONSES, COUNT, RUN = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/messages/count_tokens", "/v1/run/echo"
POSTS = (CHAT, MESSAGES, RESPONSES, COUNT, RUN)
APP = "https://app.example.com"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(constant("Fine."), settings=ProviderSettings(keep_records=100)) as running:
        yield running


@pytest.fixture(scope="module")
def service(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A service without keys that never has an internal fault, whatever the tests of this file send to it."""
    incumbent, candidate = made("shared"), made("shared", mark="another")
    prompts = made("echo"), made("letters", inputs=LETTER), made("sentiment", "builtin/nearest", SENTIMENT), made("team/reply"), incumbent
    toml = settings_of(provider, service=f'body_kib = 64\nbody_seconds = 2\ncors = ["{APP}"]\n')
    project = project_at(tmp_path_factory.mktemp("hostile"), toml, *prompts)
    promote(project, candidate, alias="candidate")
    canary = new_canary("shared", "production", candidate=candidate.id, incumbent=incumbent.id, share=0.5)
    CanaryFile(project.cache / CANARIES).start(canary)
    with serving(project) as running:
        yield running
        assert_answers(running)
        assert running.stop() == 0
        assert running.trouble() == []
        assert {line["status"] for line in running.log() if line["event"] == "request"} & {500, 501} == set()


def assert_answers(service: Serving) -> None:
    """A client that does nothing wrong is answered."""
    answer = service.chat("sentiment", "It broke after a day.")
    assert answer.status == 200, answer.body
    assert answer.json["choices"][0]["message"]["content"] == "negative"


@contextlib.contextmanager
def connected(service: Serving) -> Iterator[socket.socket]:
    with socket.create_connection((service.host, service.port), timeout=SECONDS) as line:
        yield line


def received(line: socket.socket) -> bytes:
    """All that comes until the other side closes, or resets."""
    found = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := line.recv(65536):
            found += piece
    return bytes(found)


def head_of(method: str, path: str, headers: Mapping[str, str | bytes] | None = None, *, length: int | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1".encode("latin-1"), b"host: localhost", b"connection: close"]
    for name, value in (headers or {}).items():
        lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode("latin-1")))
    if length is not None:
        lines.append(b"content-length: %d" % length)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def sent(service: Serving, method: str, path: str, body: bytes = b"", headers: Mapping[str, str | bytes] | None = None) -> Answer:
    """The answer to these very bytes, which no library has put right."""
    with connected(service) as line:
        with contextlib.suppress(ConnectionError):
            line.sendall(head_of(method, path, headers, length=len(body)) + body)
        return answered(line, method)


def answered(line: socket.socket, method: str = "POST") -> Answer:
    """The next answer on a connection."""
    response = http.client.HTTPResponse(line, method=method)
    response.begin()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def refused(answer: Answer, *statuses: int) -> None:
    """It is a refusal with one of these statuses, in JSON, and says nothing about our insides."""
    assert answer.status in statuses, answer
    error = answer.json["error"]
    assert error["message"]
    assert not re.search(rb"Traceback|File \"|\.py\b|NoneType|msgspec|aiohttp", answer.body), answer.body


def chat(text: object = "Hello", model: object = "echo", **more: object) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 50, **more}).encode()


# --- bodies -----------------------------------------------------------------------------------------------

BODIES: Mapping[str, bytes] = {
    "empty": b"",
    "blank": b" \n ",
    "no JSON": b"{model: echo}",
    "cut": b'{"model": "echo", "messages": [{"role": "us',
    "two values": b'{"model": "echo"} {"model": "echo"}',
    "null": b"null",
    "number": b"17",
    "text": b'"echo"',
    "array": b"[]",
    "true": b"true",
    "deep array": b"[" * 30_000,
    "deep object": b'{"model":' * 6_000,
    "deep and whole": b'{"model":"echo","messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep metadata": b'{"model":"echo","input":"a","metadata":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
    "twice": b'{"model":"echo","model":"sentiment","input":"a","input":"b","max_tokens":1,"messages":[{"role":"user","content":"a"}]}',
    "twice inside": b'{"model":"echo","max_tokens":1,"input":"a","inputs":{"a":"b","a":"c"},"messages":[{"role":"user","role":"user"}]}',
    "twice by escape": b'{"model":"echo","mod\\u0065l":"x","input":"a","inp\\u0075t":"b","messages":[{"role":"user","content":"a"}]}',
    "not UTF-8": b'{"model":"echo","input":"\xff","messages":[{"role":"user","content":"\xff"}]}',
    "overlong UTF-8": b'{"model":"echo","input":"\xc0\xaf","messages":[{"role":"user","content":"\xc0\xaf"}]}',
    "a surrogate in UTF-8": b'{"model":"echo","input":"\xed\xa0\x80","messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
    "an escaped surrogate": b'{"model":"echo","input":"\\ud800","max_tokens":5,"messages":[{"role":"user","content":"\\ud800"}]}',
    "UTF-16": '{"model":"echo"}'.encode("utf-16"),
    "NaN": b'{"model":"echo","temperature":NaN,"input":NaN,"max_tokens":5,"messages":[{"role":"user","content":"a"}]}',
    "Infinity": b'{"model":"echo","temperature":-Infinity,"input":Infinity,"messages":[{"role":"user","content":"a"}]}',
    "beyond a double": b'{"model":"echo","temperature":1e999,"input":"a","max_tokens":5,"messages":[{"role":"user","content":"a"}]}',
    "a long number": b'{"model":"echo","max_tokens":' + b"9" * 5000 + b',"input":"a","messages":[{"role":"user","content":"a"}]}',
    "a control character": b'{"model":"echo","input":"a\x00b","messages":[{"role":"user","content":"a\nb"}]}',
    "a form": b"model=echo&input=a",
    "a keyword": b"__import__('os').system('true')",
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_no_request_is_refused(service: Serving, path: str, body: bytes) -> None:
    refused(sent(service, "POST", path, body, {"content-type": "application/json"}), 400)


WRONG: tuple[object, ...] = (None, True, 3, -1, 2.5, 10**400, "", "x" * 5000, [], [None], {}, {"a": {"b": []}})


@pytest.mark.parametrize(
    "field", ["model", "messages", "input", "inputs", "stream", "max_tokens", "metadata", "prompt_variables", "temperature", "user"]
)
@pytest.mark.parametrize("path", POSTS)
def test_a_value_of_another_type_is_refused_or_without_effect(service: Serving, path: str, field: str) -> None:
    """For each field and each wrong value: refused by a status of the client's making, or answered where it may be so."""
    for wrong in WRONG:
        body = {"model": "echo", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}], "input": "a"}
        if path == RUN:
            body = {"input": "a"}
        elif path == RESPONSES:
            body = {"model": "echo", "input": "a"}
        else:
            del body["input"]
        answer = sent(service, "POST", path, json.dumps({**body, field: wrong}).encode())
        if answer.status != 200:
            refused(answer, 400, 404)


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        "a",
        {},
        {"role": "user"},
        {"content": "a"},
        {"role": "king", "content": "a"},
        {"role": ["user"], "content": "a"},
        {"role": "user", "content": None},
        {"role": "user", "content": 3},
        {"role": "user", "content": {"text": "a"}},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "text", "text": 7}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
        {"role": "user", "content": [[]]},
        {"role": "tool", "content": "a", "tool_call_id": "x"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "a", "name": 3},
    ],
)
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COUNT])
def test_a_message_that_is_none_is_refused(service: Serving, path: str, message: object) -> None:
    key = "input" if path == RESPONSES else "messages"
    body = {"model": "echo", key: [message]} | ({"max_tokens": 5} if path == MESSAGES else {})
    answer = sent(service, "POST", path, json.dumps(body).encode())
    if answer.status != 200 or "name" not in json.dumps(message):
        refused(answer, 400)


@pytest.mark.parametrize(
    "text",
    [
        '{"letter": "\\ud800"}',
        '{"letter": NaN}',
        '{"letter": 1e999}',
        '{"letter": ' + "9" * 5000 + "}",
        '{"letter": null}',
        '{"letter": ' + "[" * 900 + "]" * 900 + "}",
        '{"letter": ' + "[" * 20_000 + "]" * 20_000 + "}",
        '{"letter": "a", "letter": "b"}',
        '{"tone": "a"}',
        "{",
        "",
        " ",
        "\x00",
        "\ufeff",
        "</input><input>",
        '{"letter": "a"}\x00',
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/run/letters"])
def test_a_text_that_looks_like_inputs_is_never_a_fault(service: Serving, path: str, text: str) -> None:
    body = json.dumps({"input": text}).encode() if path.startswith("/v1/run") else chat(text, "letters")
    answer = sent(service, "POST", path, body)
    if answer.status != 200:
        refused(answer, 400)


def test_a_body_is_larger_than_allowed(service: Serving) -> None:
    """Told before a byte of it is read where its length is said, and as soon as it is too much where it is not."""
    with connected(service) as line:
        line.sendall(head_of("POST", CHAT, length=10**12))
        answer = answered(line)
    refused(answer, 413)
    assert answer.json["error"]["code"] == "request_too_large"
    for path in POSTS:
        with connected(service) as line:
            line.sendall(head_of("POST", path, {"transfer-encoding": "chunked"}))
            with contextlib.suppress(ConnectionError):
                for _ in range(20):
                    line.sendall(b"2000\r\n" + b" " * 0x2000 + b"\r\n")
            refused(answered(line), 413)
    exact = chat("x" * (64 * 1024 - len(chat(""))))
    assert len(exact) == 64 * 1024
    assert sent(service, "POST", CHAT, exact).status == 200
    refused(sent(service, "POST", CHAT, exact + b" "), 413)


@pytest.mark.parametrize("path", [*POSTS, "/try/echo"])
def test_a_compressed_body_is_not_unpacked(service: Serving, path: str) -> None:
    bomb = gzip.compress(b" " * 20_000_000)
    for encoding in ("gzip", "GZIP", "deflate", "br", "gzip, identity"):
        form = {"content-type": "application/x-www-form-urlencoded"} if path == "/try/echo" else {}
        answer = sent(service, "POST", path, bomb, {"content-encoding": encoding, **form})
        assert answer.status == 415, answer


@pytest.mark.parametrize(
    "framing",
    [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5\r\ntransfer-encoding: chunked",
        "content-length: -5",
        "content-length: 5, 5",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, chunked",
    ],
)
def test_a_body_with_two_ends_is_refused(service: Serving, framing: str) -> None:
    """What a proxy before us may take for two requests (RFC 9112, 11.2) is none at all."""
    with connected(service) as line:
        begun = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\n0\r\n\r\n"
        line.sendall(f"{begun}GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        answer = received(line)
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer)
    assert b'"status":"ok"' not in answer


# --- names and paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", [Serving.chat, Serving.messages, Serving.responses])
@pytest.mark.parametrize(
    ("model", "near"),
    [("sentimant", "sentiment"), ("Sentiment", "sentiment"), ("team/repli", "team/reply"), ("shared@canidate", "candidate")],
)
def test_an_unknown_model_says_which_is_near(service: Serving, api: Callable[..., Answer], model: str, near: str) -> None:
    answer = api(service, model)
    refused(answer, 404)
    assert near in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "model",
    [
        "nothing-like-it",
        "",
        "@",
        "echo@",
        "echo@@",
        "@production",
        "echo@production@production",
        "echo@ffff",
        "echo@f",
        "echo@" + "f" * 64,
        "echo@" + "f" * 65,
        "../../etc/passwd",
        "echo/../echo",
        "/echo",
        "echo/",
        "ECHO",
        "echo\r\nset-cookie: a=b",
        "echo@\r\nset-cookie: a=b",
        "echo\x00",
        "ech\u043e",
        "echo ",
        "x" * 50_000,
        "echo@" + "x" * 50_000,
        "echo@latest",
        "openai/gpt-4.1-mini",
        "%65cho",
        "*",
        "${echo}",
    ],
)
def test_a_model_that_is_none_is_not_found(service: Serving, model: str) -> None:
    answer = sent(service, "POST", CHAT, chat(model=model))
    refused(answer, 400, 404)
    assert "set-cookie" not in answer.headers
    assert len(answer.body) < 2_000


@pytest.mark.parametrize(
    "path",
    [
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/run/%2e%2e/%2e%2e/etc/passwd",
        "/v1/run/..%2f..%2fetc%2fpasswd",
        "//v1/models",
        "/v1//models",
        "/v1/models/",
        "/v1/models/..",
        "/v1/models/%2e%2e%2fkeys",
        "/v1/run/",
        "/v1/run//echo",
        "/v1/run/echo/",
        "/v1/run/%00",
        "/v1/run/echo%00",
        "/v1/run/%ff",
        "/v1/run/%ED%A0%80",
        "/v1/models/%252e%252e",
        "/tasks/%2e%2e",
        "/tasks/..%2f..%2fpromptsmith.keys",
        "/reports/../../x",
        "/reports/%2e%2e%2f%2e%2e%2fpromptsmith",
        "/traces/%2e%2e%2fx",
        "/traces/%00",
        "/provenance/..%2fx",
        "/try/%2e%2e",
        "/static/../x",
        "/promptsmith.toml",
        "/promptsmith.lock",
        "/promptsmith.keys",
        "/.git/config",
        "/v1/run/echo%0d%0aset-cookie:%20a=b",
        "/" + "a/" * 6000,
        "/tasks/echo?at=%00",
        "/tasks/echo?from=..%2f..&to=%ff",
        "/v1/models/echo%40..%2f..",
        "/v1/run/echo%40%0a",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_leads_nowhere_else(service: Serving, method: str, path: str) -> None:
    answer = sent(service, method, path, b'{"input": "a"}' if method == "POST" else b"", {"content-type": "application/json"})
    assert 400 <= answer.status < 500, answer
    assert "set-cookie" not in answer.headers
    assert not re.search(rb"root:|\[endpoints|Traceback|File \"", answer.body)


@pytest.mark.parametrize(
    "target",
    [b"/v1/run/\x00", b"/\xff", b"*", b"http://[/", b"example.com:443", b"/" + b"a" * 100_000, b"/?" + b"a" * 100_000, b"/a b", b""],
)
def test_a_request_line_that_is_none_is_refused(service: Serving, target: bytes) -> None:
    with connected(service) as line:
        with contextlib.suppress(ConnectionError):
            line.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = received(line)
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer) or answer == b""
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"get /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"BREW /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\na: b\r\n c\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\na: b\rc: d\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\na: \x00\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\na b: c\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
    ],
)
def test_bytes_that_are_no_request_end_the_connection(service: Serving, data: bytes) -> None:
    with connected(service) as line:
        with contextlib.suppress(ConnectionError):
            line.sendall(data)
            line.shutdown(socket.SHUT_WR)
        answer = received(line)
    assert b"Traceback" not in answer
    assert re.match(rb"HTTP/\S+ 4\d\d ", answer) or answer == b""


# --- headers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "x-promptsmith-sticky",
        "authorization",
        "x-api-key",
        "cookie",
        "traceparent",
        "anthropic-version",
        "accept",
        "user-agent",
        "content-type",
        "te",
    ],
)
@pytest.mark.parametrize("value", [b"\xff\xfe", b"Bearer \xc3\x28", b"\xf0\x9f\x98\x80", b"x" * 15_000, b"", b"a=b; =; ;;, \x80"])
def test_header_values_that_are_no_text_do_no_harm(service: Serving, name: str, value: bytes) -> None:
    """With a canary beside the alias, so that the sticky header is looked at."""
    answer = sent(service, "POST", CHAT, chat(model="shared"), {name: value})
    assert answer.status == 200, answer
    assert "\n" not in "".join(answer.headers.values())
    assert value == b"" or not any(value.decode("latin-1") in told for told in answer.headers.values())


def test_nothing_of_a_client_stands_in_the_headers_of_an_answer(service: Serving) -> None:
    mark = "zebra"
    everywhere = {
        "x-promptsmith-sticky": mark,
        "x-request-id": mark,
        "x-promptsmith-request-id": mark,
        "user-agent": mark,
        "x-forwarded-host": mark,
        "x-promptsmith-arm": mark,
    }
    body = {"model": "shared", "user": mark, "metadata": {"user_id": mark}, "messages": [{"role": "user", "content": mark}]}
    answer = service.call("POST", f"{CHAT}?{mark}={mark}", body, everywhere)
    assert answer.status == 200
    assert mark not in json.dumps(dict(answer.headers))
    unknown = service.call("POST", CHAT, {**body, "model": mark}, everywhere)
    assert unknown.status == 404
    assert mark not in json.dumps(dict(unknown.headers))


def test_headers_of_a_provider_can_not_break_an_answer(tmp_path: Path, provider: Provider) -> None:
    """What stands in a provider's own headers goes on only where it is text."""
    completion = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Fine."}}],
    }
    odd = {"x-request-id": "re\xffq\x80", "openai-processing-ms": "\xe9", "x-ratelimit-limit-requests": "\xff", "retry-after": "soon\xff"}
    refusing = Say([b'{"error": {"message": "no", "type": "x"}}'], 400, odd)
    with Canned() as canned:
        project = project_at(tmp_path / "odd", settings_of(provider, canned=canned.url), made("odd", "canned/m"))
        with serving(project) as service:
            canned.says = [Say([json.dumps(completion).encode()], 200, odd)]
            assert service.chat("odd").status == 200
            canned.says = [refusing]
            refused(service.chat("odd"), 400)
            assert service.trouble() == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/v1/models/echo", "/openapi.json", "/metrics", "/", "/tasks/echo"])
def test_head_is_get_without_the_body(service: Serving, path: str) -> None:
    whole, head = sent(service, "GET", path), sent(service, "HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


@pytest.mark.parametrize("path", [*POSTS, "/v1/run/team/reply"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_what_takes_post_takes_nothing_else(service: Serving, path: str, method: str) -> None:
    answer = sent(service, method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models", "/v1/models/echo"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_what_is_read_can_only_be_read(service: Serving, path: str, method: str) -> None:
    answer = sent(service, method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


_LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(["echo", "user", "text", "letters"])
)
_NAMES = st.sampled_from(
    [
        "model",
        "messages",
        "role",
        "content",
        "input",
        "inputs",
        "stream",
        "max_tokens",
        "metadata",
        "prompt_variables",
        "user",
        "type",
        "text",
        "stream_options",
        "include_usage",
        "system",
        "instructions",
        "tools",
        "response_format",
        "n",
        "stop",
        "canary_key",
        "letter",
        "tone",
        "reasoning",
    ]
)
_VALUES = st.recursive(_LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4), max_leaves=12)
_MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": _VALUES}), min_size=1, max_size=3
)
_SHAPED = st.fixed_dictionaries(
    {"model": st.sampled_from(["echo", "letters", "sentiment", "shared"])},
    optional={
        "messages": _MESSAGES,
        "input": _VALUES,
        "max_tokens": st.just(50),
        "stream": st.booleans(),
        "metadata": _VALUES,
        "tools": _VALUES,
        "prompt_variables": _VALUES,
        "stream_options": _VALUES,
        "user": st.text(max_size=9),
        "temperature": _LEAF,
        "response_format": _VALUES,
    },
)
_BODIES = st.one_of(st.binary(max_size=60), (_SHAPED | _VALUES).map(lambda value: json.dumps(value).encode()))
_HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "content-type",
            "content-encoding",
            "authorization",
            "x-api-key",
            "cookie",
            "accept",
            "x-promptsmith-sticky",
            "range",
            "if-none-match",
            "anthropic-version",
            "traceparent",
            "expect",
            "x-http-method-override",
            "forwarded",
        ]
    ),
    st.binary(max_size=20).map(lambda value: bytes(byte for byte in value if byte >= 32 and byte != 127)),
    max_size=3,
)


@settings(max_examples=250, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["POST", "POST", "POST", "GET", "HEAD", "PUT", "OPTIONS"]),
    path=st.sampled_from([*POSTS, "/v1/run/letters", "/try/letters", "/promote/echo", "/sign-in", "/sign-out", "/canary/echo"])
    | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map(lambda text: f"/{text}"),
    headers=_HEADERS,
    body=_BODIES,
)
def test_whatever_comes_is_no_fault(service: Serving, method: str, path: str, headers: dict[str, bytes], body: bytes) -> None:
    answer = sent(service, method, path, body, headers)
    assert answer.status < 500 or answer.status == 502, answer
    assert not re.search(rb"Traceback|File \\?\"", answer.body)


# --- other sites ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        f"{APP}.evil.example",
        "http://app.example.com",
        f"{APP}:444",
        "null",
        "https://",
        "\xff",
        "http://[",
        f"{APP}, {APP}",
        f"{APP}/",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", CHAT), ("POST", RUN), ("GET", "/v1/models"), ("OPTIONS", CHAT), ("GET", "/metrics"), ("POST", "/try/echo")],
)
def test_pages_of_other_sites_may_not_call(service: Serving, origin: str, method: str, path: str) -> None:
    answer = sent(service, method, path, chat() if method == "POST" else b"", {"origin": origin, "content-type": "text/plain"})
    refused(answer, 403)
    assert not any(name.startswith("access-control-") for name in answer.headers)


def test_a_named_site_may_call(service: Serving) -> None:
    asks = {"origin": APP, "access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    preflight = service.call("OPTIONS", CHAT, None, asks)
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == APP
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert {"authorization", "content-type", "x-api-key", "*"} <= set(preflight.headers["access-control-allow-headers"].split(", "))
    for body in (chat(), chat(stream=True), chat(model="sentiment"), chat(model="sentiment", stream=True), chat(model="nothing"), b"{"):
        answer = sent(service, "POST", CHAT, body, {"origin": APP})
        assert answer.headers["access-control-allow-origin"] == APP, answer
        assert answer.headers["vary"].lower() == "origin"
        assert "access-control-allow-credentials" not in answer.headers
    same = sent(service, "POST", CHAT, chat(), {"origin": "http://localhost"})
    assert same.status == 200
    assert "access-control-allow-origin" not in same.headers


def test_no_site_may_call_unless_named(tmp_path: Path, provider: Provider) -> None:
    with serving(project_at(tmp_path / "closed", settings_of(provider), made("echo"))) as service:
        for method in ("POST", "OPTIONS"):
            answer = sent(service, method, CHAT, chat(), {"origin": APP})
            refused(answer, 403)
            assert not any(name.startswith("access-control-") for name in answer.headers)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8337", "\xff", "[", ""])
def test_a_name_that_another_site_gives_this_machine_is_refused(service: Serving, host: str) -> None:
    """DNS rebinding: to a browser such a page is of the same origin."""
    with connected(service) as line:
        line.sendall(f"GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode("latin-1"))
        assert re.match(rb"HTTP/1\.[01] 40[03] ", received(line))


# --- connections ------------------------------------------------------------------------------------------


def test_requests_that_come_at_once_are_answered_in_their_order(service: Serving) -> None:
    texts = ["It broke after a day.", "When does the shop open?", "This product is amazing!"] * 10
    requests = b""
    for text in texts:
        body = chat(text, "sentiment")
        requests += head_of("POST", CHAT, length=len(body)).replace(b"connection: close\r\n", b"") + body
    with connected(service) as line:
        line.sendall(requests + head_of("GET", "/healthz"))
        answer = received(line)
    assert answer.count(b"HTTP/1.1 200 OK") == len(texts) + 1
    said = re.findall(rb'"content":"(\w+)"', answer)
    assert said == [b"negative", b"neutral", b"positive"] * 10


def test_a_request_after_a_refused_one_is_read_where_it_begins(service: Serving) -> None:
    """The body of a refused request is not taken for the next request."""
    hidden = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"
    with connected(service) as line:
        line.sendall(
            head_of("POST", "/healthz", length=len(hidden)).replace(b"connection: close\r\n", b"") + hidden + head_of("GET", "/readyz")
        )
        answer = received(line)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b" 400 " not in answer
    assert answer.count(b"HTTP/1.1") == 2


def test_a_client_that_closes_its_side_costs_nothing(service: Serving) -> None:
    """A half-closed connection: whoever sends no more has left, or is answered; nobody else notices."""
    body = chat("It broke after a day.", "sentiment")
    for cut in (len(body), len(body) // 2, 0):
        with connected(service) as line:
            line.sendall(head_of("POST", CHAT, length=len(body)) + body[:cut])
            line.shutdown(socket.SHUT_WR)
            answer = received(line)
            assert answer == b"" or (cut == len(body) and answer.startswith(b"HTTP/1.1 200 "))
    assert_answers(service)


def test_a_client_that_sends_its_body_slowly_is_cut_off(service: Serving) -> None:
    """Byte by byte, so that no single pause is long; [service] body_seconds is 2 here."""
    lines = []
    try:
        for path in POSTS:
            line = socket.create_connection((service.host, service.port), timeout=SECONDS)
            line.sendall(head_of("POST", path, length=1000))
            lines.append(line)
        answers = dripped(lines, b" ")
    finally:
        for line in lines:
            line.close()
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in answer
    assert_answers(service)


def test_a_client_that_sends_its_headers_slowly_is_cut_off(service: Serving) -> None:
    lines = []
    try:
        for begun in (b"", b"P", b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx: "):
            line = socket.create_connection((service.host, service.port), timeout=SECONDS)
            line.sendall(begun)
            lines.append(line)
        assert set(dripped(lines[2:], b"a")) == {b""}
        assert [received(line) for line in lines[:2]] == [b"", b""]
    finally:
        for line in lines:
            line.close()
    assert_answers(service)


def dripped(lines: list[socket.socket], drop: bytes) -> list[bytes]:
    """What each connection is told when it sends one byte after the other until the service has had enough."""
    told: dict[socket.socket, bytes] = {}
    until = time.monotonic() + SECONDS
    while len(told) < len(lines):
        assert time.monotonic() < until, "a slow client was let be"
        for line in lines:
            if line not in told:
                try:
                    line.sendall(drop)
                except ConnectionError:
                    told[line] = b""
        # Not select(): a test before this one may have left thousands of descriptors, and it takes none above 1023.
        with selectors.DefaultSelector() as waiting:
            for line in lines:
                if line not in told:
                    waiting.register(line, selectors.EVENT_READ)
            for ready, _ in waiting.select(0.1):
                line = cast("socket.socket", ready.fileobj)
                told[line] = received(line)
    return [told[line] for line in lines]


def test_a_client_that_waits_to_be_let_on_is_told(service: Serving) -> None:
    """``expect: 100-continue``, which curl sends with a large body: it waits until it is told that somebody reads it."""
    whole = chat("It broke after a day.", "sentiment")
    with connected(service) as line:
        line.sendall(head_of("POST", CHAT, {"expect": "100-continue"}, length=len(whole)))
        assert line.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(whole)
        assert answered(line).status == 200
    with connected(service) as line:
        line.sendall(head_of("POST", CHAT, {"expect": "100-continue"}, length=10**9))
        refused(answered(line), 413)


def test_an_answer_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    with Provider(constant("Fine."), settings=ProviderSettings(latency=SECONDS)) as slow:
        toml = settings_of(slow, service="answer_seconds = 0.5\ndrain_seconds = 0\n")
        with serving(project_at(tmp_path / "late", toml, made("echo"))) as service:
            for stream in (False, True):
                answer = service.chat("echo", stream=stream)
                refused(answer, 504)
                assert answer.json["error"]["code"] == "timeout"
            eventually(lambda: all(record.aborted for record in slow.records.all()), "the provider is not waited for any more")
            assert service.stop() == 0


def test_a_probe_needs_no_host(service: Serving) -> None:
    """Load balancers ask with HTTP/1.0, or with the address that they know."""
    for request in (b"GET /healthz HTTP/1.0\r\n\r\n", b"GET /readyz HTTP/1.1\r\nhost: 10.0.0.7:8337\r\nconnection: close\r\n\r\n"):
        with connected(service) as line:
            line.sendall(request)
            assert re.match(rb"HTTP/1\.[01] 200 ", received(line))


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("stream", [False, True])
def test_fields_that_change_nothing_are_named_as_far_as_a_header_can(service: Serving, path: str, stream: bool) -> None:
    turns = [{"role": "user", "content": "Hello"}]
    body = {"model": "echo", "stream": stream, **({"input": "Hello"} if path == RESPONSES else {"messages": turns, "max_tokens": 64})}
    assert "x-promptsmith-ignored" not in service.call("POST", path, body).headers
    assert service.call("POST", path, {**body, "zzz": 1, "min_p": 0.1}).headers["x-promptsmith-ignored"] == "min_p, zzz"
    odd = {"a\r\nset-cookie: b=c": 1, "ü": 1, "": 1, "x, y": 1, "z" * 65: 1}
    told = service.call("POST", path, {**body, **odd, **{f"field-{number:02}": number for number in range(20)}})
    assert told.status == 200
    assert told.headers["x-promptsmith-ignored"] == ", ".join([*(f"field-{number:02}" for number in range(16)), "and 9 more"])
    assert "set-cookie" not in told.headers


def test_names_out_of_the_air_leave_nothing_behind(service: Serving) -> None:
    """Figures have labels of what was called, and not of what somebody asked for."""

    def series() -> int:
        return len(service.call("GET", "/metrics").body.splitlines())

    def asked(start: int) -> None:
        for number in range(start, start + 100):
            name = f"no-such-{number}"
            assert service.chat(name).status == 404
            assert service.run(name, input="a").status == 404
            assert service.chat(f"sentiment@x{number}").status == 404
            assert service.call("GET", f"/{name}").status == 404

    asked(0)
    before = series()
    asked(100)
    assert series() == before


def test_more_requests_than_it_takes_are_told_to_come_again(tmp_path: Path) -> None:
    with Provider(constant("Fine."), settings=ProviderSettings(latency=SECONDS)) as slow:
        project = project_at(tmp_path / "busy", settings_of(slow, service="concurrency = 2\ndrain_seconds = 0\n"), made("echo"))
        with serving(project) as service, contextlib.ExitStack() as stack:
            for _ in range(2):
                line = stack.enter_context(connected(service))
                line.sendall(head_of("POST", CHAT, length=len(chat())) + chat())
            eventually(lambda: len(slow.records) == 2, "two requests are under way")
            answer = service.chat("echo")
            refused(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
            assert service.call("GET", "/healthz").status == 200, "that the service is busy does not mean that it is broken"


def test_ten_thousand_connections_leave_room_for_a_client(service: Serving) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 10_000 + 200
    room = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if room - 200 < 2_000:
        pytest.skip(f"this system lets a process have {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, room), hard))
    lines: list[socket.socket] = []
    try:
        for number in range(room - 200):
            line = socket.socket()
            # A reset at the end leaves no port waiting.
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            lines.append(line)
            try:
                line.connect((service.host, service.port))
                line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" if number % 2 else b"")
            except OSError as error:
                if error.errno in {errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE} and number >= 2_000:
                    break
                raise
            if number % 1000 == 0:
                assert_answers(service)
        assert_answers(service)
        # All of them are silent, and go within [service] body_seconds.
        eventually(lambda: descriptors(service.pid) < 200, "the service closes what says nothing")
    finally:
        for line in lines:
            line.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert_answers(service)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# --- the service's own document ---------------------------------------------------------------------------


def test_the_service_keeps_to_its_own_document(provider: Provider, tmp_path: Path) -> None:
    """schemathesis: requests made from the document, right ones and wrong ones, and every answer is one that it names."""
    prompts = (
        made("sentiment", "builtin/nearest", SENTIMENT),
        made("letters", inputs=LETTER),
        made("team/reply"),
        made("order", "builtin/nearest", ORDER),
        made("odd.name", "anthropic/claude-haiku-5-5"),
    )
    project = project_at(tmp_path / "described", settings_of(provider), *prompts)
    statuses: dict[int, int] = {}
    with serving(project) as service:
        document = service.call("GET", "/openapi.json").json
        for path in (CHAT, MESSAGES, RESPONSES, COUNT):
            body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            body["properties"]["model"]["enum"] = [one.task for one in prompts]  # a name out of the air gets no further than a 404
        schema = schemathesis.openapi.from_dict(document)
        operations = [one.ok() for one in schema.get_all_operations()]
        labels = {operation.label for operation in operations}
        assert {f"POST {path}" for path in (CHAT, MESSAGES, RESPONSES, COUNT, "/v1/run/sentiment", "/v1/run/team/reply")} <= labels
        assert {"GET /v1/models", "GET /healthz", "GET /readyz"} <= labels

        def held(case: Any) -> None:
            response = case.call(base_url=service.url, headers=_plain(case.headers))
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            # A model of examples alone can't keep a schema, and says so with a status that the document has.
            checks = [status_code_conformance, content_type_conformance, response_schema_conformance, unsupported_method]
            if response.status_code == 502:
                assert "breaks the contract" in response.text
            else:
                checks += [not_a_server_error, negative_data_rejection]
            case.validate_response(response, checks=checks)

        for operation in operations:
            bounded(operation, held, schemathesis.GenerationMode.POSITIVE)
            if operation.body:
                bounded(operation, held, schemathesis.GenerationMode.NEGATIVE)
        assert service.trouble() == []
    assert statuses[200] > 30, statuses
    assert statuses[400] > 50, statuses
    assert set(statuses) <= {200, 400, 404, 502}, statuses


def _plain(headers: Any) -> dict[str, str]:
    return {name: value for name, value in (headers or {}).items() if isinstance(value, str)}


def bounded(operation: Any, test: Callable[[Any], None], mode: Any) -> None:
    """Up to ten requests to an operation, the same ones each time."""
    cases = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=10,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def run(case: Any) -> None:
        test(case)

    run()
