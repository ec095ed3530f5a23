"""Keys at the door of a running service: who comes in, how often, for how much, and that no secret ever comes out."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from promptsmith.prompt import Serve
from promptsmith.service.keys import KeyFile

from .provider import KEY, Fault, Provider, Settings
from .serving import SECONDS, SENTIMENT, Answer, Serving, eventually, kept_or_broken, made, project_at, reload, serving, settings_of
from .talking import make_certificate

CHAT = "/v1/chat/completions"
NEVER = "600"
"""A Retry-After that no deadline has room for: then nothing is repeated, and nothing depends on time."""
UNPRICED = '[endpoints.own]\nprotocol = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nforeign = true\n'
ROUNDS = 24
"""Fresh connections that the kernel spreads over two workers: that all go to one has a chance of 2 in 2^24."""


class Kept:
    """A service with two workers whose keys are made by tests."""

    def __init__(self, service: Serving) -> None:
        self.service = service
        self.keys = KeyFile(service.project.root / "promptsmith.keys")
        self.secrets: list[str] = []

    def key(self, name: str, **limits: Any) -> str:
        _, secret = self.keys.add(name, **limits)
        self.secrets.append(secret)
        return secret

    def call(self, secret: str | None, task: str = "sentiment", path: str = CHAT, method: str = "POST") -> Answer:
        body = {"model": task, "messages": [{"role": "user", "content": "It broke after a day."}]} if method == "POST" else None
        return self.service.call(method, path, body, {"authorization": f"Bearer {secret}"} if secret else None)


@pytest.fixture(scope="module")
def kept(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    prompts = (
        made("sentiment", "builtin/nearest", SENTIMENT),
        made("priced"),
        made("unpriced", "own/m"),
        made("team/reply", "builtin/nearest", SENTIMENT),
        made("team/fallback", serve=Serve(fallback=("own/m",))),
        made("team/escalates", serve=Serve(on_contract_break="escalate", escalate="own/m")),
        made("team/careful", serve=Serve(on_contract_break="error", escalate="own/m")),
    )
    project = project_at(tmp_path_factory.mktemp("keys"), settings_of(provider, more=UNPRICED), *prompts)
    first, secret = KeyFile(project.root / "promptsmith.keys").add("first")
    assert first.scopes == ("run",)
    with serving(project, "--workers", "2") as service:
        found = Kept(service)
        found.secrets.append(secret)
        yield found
        assert service.stop() == 0
        assert service.trouble() == []
        written = {path.name: path.read_bytes() for path in project.root.rglob("*") if path.is_file()}
        written |= {f"line {number} of the log": line.encode() for number, line in enumerate(service.lines(), 1)}
        leaks = [
            f"{one} in {name}: {text[:500]!r}" for name, text in written.items() for one in [*found.secrets, KEY] if one.encode() in text
        ]
        assert leaks == []


# --- coming in --------------------------------------------------------------------------------------------


def test_without_a_key_nobody_is_answered(kept: Kept) -> None:
    for method, path in (
        ("POST", CHAT),
        ("POST", "/v1/messages"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/v1/run/sentiment"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/sentiment"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
    ):
        refused = kept.call(None, path=path, method=method)
        assert refused.status == 401, path
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "sentiment" not in refused.body.decode().replace(path, "")
    for path in ("/", "/tasks/sentiment", "/reports", "/traces", "/costs", "/try"):
        seen = kept.call(None, path=path, method="GET")
        assert seen.status == 303
        assert seen.headers["location"].startswith("/sign-in?")
    assert kept.call(None, path="/healthz", method="GET").status == 200
    assert kept.call(None, path="/readyz", method="GET").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer {}"},
        {"authorization": "bearer  {} "},
        {"x-api-key": "{}"},
        {"x-api-key": "{}", "authorization": "Basic eDp5"},
    ],
)
def test_a_key_comes_as_either_protocol_sends_it(kept: Kept, headers: Mapping[str, str]) -> None:
    sent = {name: value.format(kept.secrets[0]) for name, value in headers.items()}
    assert kept.service.call("POST", "/v1/run/sentiment", {"input": "It broke."}, sent).status == 200


def test_a_wrong_key_is_told_no_more_than_a_revoked_one(kept: Kept) -> None:
    """Status, words and headers are the same however near the key is to a right one."""
    revoked = kept.key("gone")
    kept.keys.revoke("gone")
    right = kept.secrets[0]
    last = "A" if right[-2] != "A" else "B"
    wrong = [
        revoked,
        right[:-2] + last + right[-1],
        right[:-1],
        right + "A",
        right.lower(),
        "ps_",
        "x",
        "sk-123",
        "ps_" + "A" * 43,
        "é" * 46,
        "x" * 8000,
    ]
    told = set()
    for secret in wrong:
        refused = kept.service.call("POST", CHAT, {"model": "sentiment"}, {"x-api-key": secret.encode("latin-1").decode("latin-1")})
        assert refused.status == 401, secret
        fixed = {name: value for name, value in refused.headers.items() if not re.search(r"request-id|overhead|date", name)}
        told.add((refused.body, json.dumps(fixed)))
    assert len(told) == 1


def test_a_key_is_good_for_every_worker_until_it_is_revoked(kept: Kept) -> None:
    secret = kept.key("worker")
    assert {kept.call(secret).status for _ in range(ROUNDS)} == {200}
    kept.keys.revoke("worker")
    assert {kept.call(secret).status for _ in range(ROUNDS)} == {401}
    again = kept.key("worker")
    assert kept.call(again).status == 200
    assert kept.call(secret).status == 401


def test_a_connection_that_stays_open_is_asked_again(kept: Kept) -> None:
    secret = kept.key("lasting")
    with openai.OpenAI(api_key=secret, base_url=kept.service.base, max_retries=0) as client:
        [model] = [one for one in client.models.list().data if one.id == "sentiment"]
        assert client.models.retrieve(model.id).id == "sentiment"
        kept.keys.revoke("lasting")
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


# --- what a key may do ------------------------------------------------------------------------------------

_LOOKS = {"/metrics": 200, "/v1/models": 200, "/v1/models/sentiment": 200, "/openapi.json": 200}


@pytest.mark.parametrize(
    ("scopes", "run", "metrics"),
    [(("run",), 200, 403), (("read",), 403, 200), (("admin",), 200, 200), (("run", "read"), 200, 200)],
)
def test_a_scope_is_what_a_key_may_do(kept: Kept, scopes: tuple[Any, ...], run: int, metrics: int) -> None:
    secret = kept.key("-".join(("scope", *scopes)), scopes=scopes)
    assert kept.call(secret).status == run
    assert kept.call(secret, path="/v1/messages/count_tokens").status == run
    assert kept.service.call("POST", "/v1/run/sentiment", {"input": "a"}, {"x-api-key": secret}).status == run
    for path, status in {**_LOOKS, "/metrics": metrics}.items():
        assert kept.call(secret, path=path, method="GET").status == status, path
    refused = kept.call(secret, path="/metrics", method="GET") if metrics == 403 else kept.call(secret)
    if refused.status == 403:
        assert refused.json["error"]["code"] == "not_allowed"


def test_a_task_that_a_key_may_not_call_does_not_exist_for_it(kept: Kept) -> None:
    """The answer to a task of others is word for word the one to a task of nobody, on every way in."""
    secret = kept.key("teamwork", tasks=("team/*",), scopes=("run", "read"))
    assert kept.call(secret, "team/reply").status == 200

    def told(name: str, method: str, path: str, body: object) -> tuple[int, str]:
        got = kept.service.call(method, path, body, {"x-api-key": secret})
        return got.status, re.sub(r"req_\w+", "", got.body.decode()).replace(name, "NAME")

    message = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 5}
    for suffix in ("", "@production", "@candidate", "@ffff", "@latest", "@"):
        for method, path, body in (
            ("POST", CHAT, message),
            ("POST", "/v1/messages", message),
            ("POST", "/v1/messages/count_tokens", message),
            ("POST", "/v1/responses", {"input": "a"}),
            ("POST", "/v1/run/{}", {"input": "a"}),
            ("GET", "/v1/models/{}", None),
        ):
            answers = []
            for name in ("sentiment", "qwertyuio"):
                whole = body if body is None or "{}" in path else {**body, "model": name + suffix}
                answers.append(told(name, method, path.format(name + suffix), whole))
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
    near = kept.call(secret, "sentimant").json["error"]["message"]
    assert "sentiment" not in near
    assert "team/reply" in kept.call(secret, "team/repli").json["error"]["message"]
    listed = [one["id"] for one in kept.call(secret, path="/v1/models", method="GET").json["data"]]
    assert listed == ["team/careful", "team/escalates", "team/fallback", "team/reply"]
    document = kept.call(secret, path="/openapi.json", method="GET")
    assert "sentiment" not in document.body.decode()


# --- how much ---------------------------------------------------------------------------------------------


def test_requests_a_minute_are_counted_over_all_workers(kept: Kept) -> None:
    """Sixty calls at once, over connections of their own: the twenty allowed and not one more."""
    secret = kept.key("hurry", rpm=20)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: kept.call(secret), range(60)))
    assert sorted(one.status for one in answers) == [200] * 20 + [429] * 40
    late = next(one for one in answers if one.status == 429)
    assert late.json["error"]["code"] == "rpm_limit"
    # To the whole second, so that no 60 seconds ever see more.
    assert 1 <= int(late.headers["retry-after"]) <= 61
    assert 0 < int(late.headers["retry-after-ms"]) <= 61_000
    other = kept.key("calm", rpm=20)
    assert kept.call(other).status == 200, "each key has its own count"


@pytest.mark.parametrize(("limit", "code"), [({"tokens_per_day": 1}, "token_limit"), ({"usd_per_day": 1e-9}, "cost_limit")])
@pytest.mark.parametrize("stream", [False, True])
def test_the_amount_of_a_day_is_counted_over_all_workers(kept: Kept, limit: Mapping[str, Any], code: str, stream: bool) -> None:
    secret = kept.key(f"daily-{code}-{stream}", **limit)
    body = {"model": "priced", "messages": [{"role": "user", "content": "Hello"}], "stream": stream}

    def called() -> Answer:
        return kept.service.call("POST", CHAT, body, {"x-api-key": secret})

    assert called().status == 200
    eventually(lambda: called().status == 429, "the call was counted, which is when it has ended")
    later = [called() for _ in range(ROUNDS)]
    assert {one.status for one in later} == {429}
    assert {one.json["error"]["code"] for one in later} == {code}
    assert int(later[0].headers["retry-after"]) <= 86_400
    free = {**body, "model": "sentiment"}
    assert kept.service.call("POST", CHAT, free, {"x-api-key": secret}).status == 429, (
        "a key that has used its day up is done for all tasks"
    )


@pytest.mark.parametrize(("limit", "code"), [({"tokens_per_day": 5}, "token_limit"), ({"usd_per_day": 1e-9}, "cost_limit")])
@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_a_stream_that_is_left_is_counted_all_the_same(tmp_path: Path, limit: Mapping[str, Any], code: str, path: str) -> None:
    """Else whoever leaves before the last event has no limits. A relayed stream, and one that is translated."""
    with Provider(lambda ask: "a rather long answer, in some ten pieces", settings=Settings(pace=0.2, piece=4)) as slow:
        project = project_at(tmp_path / "left", settings_of(slow, service="drain_seconds = 0\n"), made("priced"))
        _, secret = KeyFile(project.root / "promptsmith.keys").add("leaving", **limit)
        body = {"model": "priced", "stream": True, "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
        with serving(project) as service:
            line = http.client.HTTPConnection(service.host, service.port, timeout=SECONDS)
            with contextlib.closing(line):
                line.request("POST", path, json.dumps(body).encode(), {"x-api-key": secret})
                response = line.getresponse()
                assert response.status == 200
                while b"text" not in (piece := response.readline()) and b"content" not in piece:
                    assert piece
                response.close()
            eventually(lambda: any(row.get("client_gone") for row in service.log()), "the service has seen it leave")
            later = service.call("POST", path, {**body, "stream": False}, {"x-api-key": secret})
            assert later.status == 429, later
            assert code in later.body.decode() or path != CHAT


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_left_before_its_answer_is_counted_all_the_same(tmp_path: Path, path: str, stream: bool) -> None:
    """Else a client with a short timeout, which repeats, has no limits. A relayed call, and one that is translated."""
    with Provider(kept_or_broken) as mute:
        mute.faults.every(Fault("hang"))
        project = project_at(tmp_path / "left", settings_of(mute, service="drain_seconds = 0\n"), made("priced"))
        _, secret = KeyFile(project.root / "promptsmith.keys").add("leaving", tokens_per_day=5)
        body = {"model": "priced", "stream": stream, "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
        with serving(project) as service:
            with contextlib.closing(http.client.HTTPConnection(service.host, service.port, timeout=SECONDS)) as line:
                line.request("POST", path, json.dumps(body).encode(), {"x-api-key": secret})
                mute.records.wait(lambda kept: any(record.received is not None for record in kept), SECONDS)
            eventually(lambda: any(row.get("client_gone") for row in service.log()), "the service has seen it leave")
            mute.faults.clear()
            assert service.call("POST", path, {**body, "stream": False}, {"x-api-key": secret}).status == 429


def test_a_call_that_a_provider_refused_costs_nothing(kept: Kept, provider: Provider) -> None:
    secret = kept.key("refunded", usd_per_day=1e-9, tokens_per_day=1)
    provider.faults.every(Fault("status", status=400))
    try:
        assert {kept.call(secret, "priced").status for _ in range(3)} == {400}
    finally:
        provider.faults.clear()
    assert kept.call(secret, "priced").status == 200
    assert kept.call(secret, "priced").status == 429


def test_a_limit_in_dollars_needs_a_price(kept: Kept) -> None:
    """Also of the models that are asked when the first one fails, or breaks the contract."""
    secret = kept.key("thrifty", usd_per_day=5.0)
    for task in ("unpriced", "team/fallback", "team/escalates"):
        refused = kept.call(secret, task)
        assert refused.status == 403, task
        assert refused.json["error"]["code"] == "price_unknown"
        assert "own/m" in refused.json["error"]["message"]
    assert kept.call(secret, "priced").status == 200
    assert kept.call(secret, "team/careful").status == 200, "a model that is never asked needs no price"
    assert kept.call(secret).status == 200, "what answers here costs nothing"


# --- starting ---------------------------------------------------------------------------------------------


def started(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """``promptsmith serve`` where it should not start."""
    command = [sys.executable, "-m", "promptsmith", "serve", "--port", "0", *options]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_it_does_not_listen_beyond_this_machine_without_a_key(tmp_path: Path, provider: Provider, host: str) -> None:
    project = project_at(tmp_path / "open", settings_of(provider), made("sentiment", "builtin/nearest", SENTIMENT))
    for _ in range(2):
        ended = started(project.root, "--host", host)
        assert ended.returncode == 2, ended
        assert ended.stdout == ""
        assert "Traceback" not in ended.stderr
        assert re.search(r"keys add|host", ended.stderr)
        keys = KeyFile(project.root / "promptsmith.keys")
        keys.add("once")
        keys.revoke("once")  # then no key is in force


def test_with_a_key_it_listens_beyond_this_machine_and_never_opens(tmp_path: Path, provider: Provider) -> None:
    """Not when the keys are revoked, nor their file is gone, nor settings are read again, nor a worker is replaced."""
    project = project_at(tmp_path / "wide", settings_of(provider), made("sentiment", "builtin/nearest", SENTIMENT))
    keys = KeyFile(project.root / "promptsmith.keys")
    _, secret = keys.add("only")
    with serving(project, "--host", "0.0.0.0", "--workers", "2") as service:

        def statuses(headers: Mapping[str, str] | None = None) -> set[int]:
            return {service.call("POST", "/v1/run/sentiment", {"input": "a"}, headers).status for _ in range(ROUNDS)}

        assert statuses({"x-api-key": secret}) == {200}
        keys.revoke("only")
        assert statuses() == statuses({"x-api-key": secret}) == {401}
        keys.path.unlink()
        assert statuses() == {401}
        reload(service)
        assert statuses() == {401}
        replace_workers(service)
        assert statuses() == statuses({"x-api-key": secret}) == {401}


def test_keys_that_were_made_once_close_the_loopback_for_good(tmp_path: Path, provider: Provider) -> None:
    project = project_at(tmp_path / "narrow", settings_of(provider), made("sentiment", "builtin/nearest", SENTIMENT))
    keys = KeyFile(project.root / "promptsmith.keys")
    with serving(project) as service:
        assert service.run("sentiment", input="a").status == 200
        _, secret = keys.add("new")
        assert service.run("sentiment", input="a").status == 401
        assert service.call("POST", "/v1/run/sentiment", {"input": "a"}, {"x-api-key": secret}).status == 200
        keys.revoke("new")
        assert service.run("sentiment", input="a").status == 401
        keys.path.unlink()
        reload(service)
        assert service.run("sentiment", input="a").status == 401


def replace_workers(service: Serving) -> None:
    """Kills the workers of a service and waits for others that answer."""
    old = service.workers()
    for pid in old:
        os.kill(pid, signal.SIGKILL)

    def answers() -> bool:
        fresh = set(service.workers()) - set(old)
        with contextlib.suppress(OSError):
            return len(fresh) == len(old) and service.call("GET", "/healthz").status == 200
        return False

    eventually(answers, "new workers answer")


def test_a_keys_file_that_is_damaged_stops_a_start_and_no_service(tmp_path: Path, provider: Provider) -> None:
    project = project_at(tmp_path / "damaged", settings_of(provider), made("sentiment", "builtin/nearest", SENTIMENT))
    keys = KeyFile(project.root / "promptsmith.keys")
    _, secret = keys.add("good")
    with serving(project) as service:
        assert service.call("POST", "/v1/run/sentiment", {"input": "a"}, {"x-api-key": secret}).status == 200
        keys.path.write_bytes(keys.path.read_bytes() + b"<<<<<<< HEAD\n")
        assert service.call("POST", "/v1/run/sentiment", {"input": "a"}, {"x-api-key": secret}).status == 200
        assert service.run("sentiment", input="a").status == 401
    ended = started(project.root)
    assert ended.returncode == 2
    assert "promptsmith.keys:2" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- what must not come out -------------------------------------------------------------------------------


def test_no_secret_is_ever_said(kept: Kept, provider: Provider, tmp_path: Path) -> None:
    """Neither a client's key nor the provider's, wherever a client or a provider puts it. The fixture looks through all files."""
    secret = kept.key("chatty", scopes=("admin",))
    unknown = "ps_" + "Zz9" * 14 + "Z"
    kept.secrets.append(unknown)  # a wrong key may be a typing mistake away from a right one
    auth = {"authorization": f"Bearer {secret}"}
    said: list[bytes] = []

    def ask(method: str, path: str, body: object = None, headers: Mapping[str, str] = auth) -> Answer:
        got = kept.service.call(method, path, body, headers)
        said.append(json.dumps(dict(got.headers)).encode() + got.body)
        return got

    for key in (secret, unknown):
        ask("GET", f"/v1/models/{key}")
        ask("GET", f"/{key}?key={key}")
        ask("GET", f"/v1/models?api_key={key}", headers={})
        ask("POST", CHAT, {"model": key, "messages": []})
        ask("POST", CHAT, {"model": "sentiment", "messages": [{"role": key, "content": "a"}]})
        ask("POST", CHAT, {"model": "sentiment", key: 1, "messages": [{"role": "user", "content": "a"}]})
        ask("POST", f"/v1/run/{key}", {"input": "a"})
        ask("GET", "/metrics", headers={"x-api-key": key})
        ask("GET", "/", headers={"origin": f"https://{key}.example"})
    message = f"Incorrect API key provided: {KEY}. It was sent as Bearer {KEY}."
    for fault in (
        Fault("status", status=401, message=message),
        Fault("status", status=500, message=message, retry_after=NEVER),
        Fault("status", status=429, message=message, retry_after=NEVER),
    ):
        for stream in (False, True):
            provider.faults.every(fault)
            try:
                got = ask("POST", CHAT, {"model": "priced", "messages": [{"role": "user", "content": "a"}], "stream": stream})
            finally:
                provider.faults.clear()
            assert got.status == fault.status
    for path in ("/metrics", "/v1/models", "/openapi.json"):
        assert ask("GET", path).status == 200
    signed = kept.service.call("POST", "/sign-in", f"key={secret}&next=/".encode(), {"content-type": "application/x-www-form-urlencoded"})
    assert signed.status == 303
    cookie = signed.headers["set-cookie"].partition(";")[0]
    assert re.search(r"(?i)httponly", signed.headers["set-cookie"])
    for path in ("/", "/tasks/priced", "/costs", "/try", "/try/priced", "/reports", "/traces"):
        assert ask("GET", path, headers={"cookie": cookie}).status == 200
    ask("POST", "/sign-in", f"key={unknown}&next=/".encode(), {"content-type": "application/x-www-form-urlencoded"})
    everything = b"\n".join(said)
    assert [one for one in (KEY, secret, unknown) if one.encode() in everything] == []
    assert re.search(rb'"key":"chatty"', "\n".join(kept.service.lines()).encode()), "the log knows a key by its name"


# --- TLS --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    made = make_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1,DNS:localhost")
    if made is None:
        pytest.skip("this machine has no openssl to make a certificate with")
    return made


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_speaks_tls(tmp_path: Path, provider: Provider, certificate: tuple[Path, Path], workers: str) -> None:
    cert, key = certificate
    toml = settings_of(provider, service=f'tls_cert = "{cert}"\ntls_key = "{key}"\n')
    with serving(project_at(tmp_path / "tls", toml, made("sentiment", "builtin/nearest", SENTIMENT)), "--workers", workers) as service:
        assert service.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(cert))
        line = http.client.HTTPSConnection("127.0.0.1", service.port, context=trusting, timeout=SECONDS)
        with contextlib.closing(line):
            line.request("POST", "/v1/run/sentiment", b'{"input": "It broke after a day."}')
            assert json.loads(line.getresponse().read())["value"] == "negative"
        old = ssl.create_default_context(cafile=str(cert))
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
        with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", service.port, context=old, timeout=SECONDS)) as line:
            line.request("GET", "/healthz")
            assert line.getresponse().status == 200
        with pytest.raises(OSError), contextlib.closing(http.client.HTTPSConnection("127.0.0.1", service.port, timeout=SECONDS)) as line:  # noqa: PT011
            line.request("GET", "/healthz")  # the certificate is nobody's whom the system trusts
        plain = http.client.HTTPConnection("127.0.0.1", service.port, timeout=SECONDS)
        with pytest.raises((OSError, http.client.HTTPException)), contextlib.closing(plain):
            plain.request("GET", "/healthz")
            plain.getresponse()
        assert service.stop() == 0
        assert service.trouble() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_renewed_certificate_is_taken_when_the_settings_are_read_again(
    tmp_path: Path, provider: Provider, certificate: tuple[Path, Path], workers: int
) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
        assert make_certificate(folder) is not None
    old, new = ((folder / "cert.pem").read_text().strip() for folder in (first, second))
    cert, key = first / "cert.pem", first / "key.pem"
    toml = settings_of(provider, service=f'tls_cert = "{cert}"\ntls_key = "{key}"\n')
    project = project_at(tmp_path / "renewed", toml, made("sentiment", "builtin/nearest", SENTIMENT))
    with serving(project, "--workers", str(workers)) as service:

        def shown() -> set[str]:
            return {ssl.get_server_certificate(("127.0.0.1", service.port), timeout=SECONDS).strip() for _ in range(8 * workers)}

        assert shown() == {old}
        shutil.copy(second / "cert.pem", cert)
        reload(service, "trouble")
        assert shown() == {old}, "a certificate whose key is another's changes nothing"
        assert all("are no certificate and its key" in line["error"] for line in service.log() if line["event"] == "trouble")
        shutil.copy(second / "key.pem", key)
        reload(service)
        assert shown() == {new}
        assert service.stop() == 0


@pytest.mark.parametrize("on", [False, True])
def test_switching_tls_on_or_off_takes_a_restart(tmp_path: Path, provider: Provider, certificate: tuple[Path, Path], on: bool) -> None:
    """The log says so, and all stays as it was, in workers that start later, too."""
    secure = settings_of(provider, service=f'tls_cert = "{certificate[0]}"\ntls_key = "{certificate[1]}"\n')
    before, after = (settings_of(provider), secure) if on else (secure, settings_of(provider))
    project = project_at(tmp_path / "switched", before, made("sentiment", "builtin/nearest", SENTIMENT))
    with serving(project, "--workers", "2") as service:

        def status() -> int:
            trusting = ssl.create_default_context(cafile=str(certificate[0]))
            plain, safe = http.client.HTTPConnection, http.client.HTTPSConnection
            line = plain("127.0.0.1", service.port) if on else safe("127.0.0.1", service.port, context=trusting)
            with contextlib.closing(line):
                line.request("GET", "/readyz")
                return line.getresponse().status

        (project.root / "promptsmith.toml").write_text(after)
        reload(service, "trouble")
        told = [line for line in service.log() if line["event"] == "trouble"]
        assert {line["level"] for line in told} == {"error"}
        assert all("TLS: switching it on or off takes a restart" in line["error"] for line in told)
        [one, *_] = found = service.workers()
        os.kill(one, signal.SIGKILL)
        eventually(lambda: len(service.workers()) == 2 and service.workers() != found, "another worker")
        assert {status() for _ in range(16)} == {200}
        assert service.told("reloaded") == 0
        assert service.stop() == 0


def test_whoever_only_knocks_at_a_tls_port_is_sent_away(tmp_path: Path, provider: Provider, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    toml = settings_of(provider, service=f'tls_cert = "{cert}"\ntls_key = "{key}"\nbody_seconds = 1\n')
    with serving(project_at(tmp_path / "knock", toml, made("sentiment", "builtin/nearest", SENTIMENT))) as service:
        with socket.create_connection((service.host, service.port), timeout=SECONDS) as line:
            line.sendall(b"\x16\x03\x01")
            with contextlib.suppress(ConnectionError):
                assert line.recv(100) == b""
        assert service.stop() == 0
        assert service.trouble() == []


@pytest.mark.parametrize(
    ("cert", "key", "told"),
    [
        ("missing.pem", "key.pem", "missing.pem"),
        ("cert.pem", "missing.pem", "missing.pem"),
        ("key.pem", "cert.pem", "key.pem"),
        ("garbage.pem", "key.pem", "garbage.pem"),
        ("cert.pem", "other.pem", "other.pem"),
        ("cert.pem", ".", "there is no file"),
        ("cert.pem", "", "promptsmith.toml:2"),
        ("", "key.pem", "promptsmith.toml:3"),
    ],
)
def test_wrong_files_for_tls_stop_the_start(
    tmp_path: Path, provider: Provider, certificate: tuple[Path, Path], cert: str, key: str, told: str
) -> None:
    root = tmp_path / "wrong"
    root.mkdir()
    shutil.copy(certificate[0], root / "cert.pem")
    shutil.copy(certificate[1], root / "key.pem")
    (root / "garbage.pem").write_bytes(b"\x00-----BEGIN CERTIFICATE-----\nno\n")
    made_other = ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", str(root / "other.pem")]
    subprocess.run(made_other, check=True, capture_output=True, timeout=SECONDS)
    toml = settings_of(provider, service=f'tls_cert = "{cert}"\ntls_key = "{key}"\n')
    (root / "promptsmith.toml").write_text(toml)
    ended = started(root)
    assert ended.returncode == 2, ended
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "PRIVATE KEY" not in ended.stderr
