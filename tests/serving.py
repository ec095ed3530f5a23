"""A service under test: a project with prompts in its lock, `promptsmith serve` as a process of its own, and its providers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from promptsmith.canonical import Scalar
from promptsmith.config import Project, find_project
from promptsmith.contract import Contract, JsonShape, Labels, Shape, TextShape
from promptsmith.prompt import Build, Pair, Prompt, Provenance, Serve, Variable, example_block, make_prompt
from promptsmith.registry.lock import LockFile
from promptsmith.store.ledger import LedgerRow

from .provider import KEY, Ask, Provider, Settings

if TYPE_CHECKING:
    import anthropic
    import openai

SECONDS = 30.0
"""How long tests wait for what must come, on however busy a machine."""
OPENAI, ANTHROPIC = "openai/gpt-4.1-mini", "anthropic/claude-haiku-5-5"

SENTIMENT = Labels(("positive", "negative", "neutral"))
ORDER = JsonShape(
    '{"type":"object","properties":{"sku":{"type":"string"},"count":{"type":"integer"}},'
    '"required":["sku","count"],"additionalProperties":false}'
)
LETTER = (Variable("letter"), Variable("tone", default="friendly"))
_PAIRS = (
    Pair({"input": "This product is amazing!"}, "positive"),
    Pair({"input": "It broke after a day."}, "negative"),
    Pair({"input": "When does the shop open?"}, "neutral"),
)


def made(task: str, model: str = OPENAI, shape: Shape | None = None, *, mark: str = "", **more: Any) -> Prompt:
    """A prompt as the compiler would make it; ``mark`` makes its id another one."""
    parameters: dict[str, Scalar] = more.pop("parameters", {"max_tokens": 64})
    system = f"Do the task {task}. {mark}\n\n{example_block(_PAIRS)}\n"
    provenance = Provenance(
        created="2026-01-01T00:00:00Z", version="0.1.0", level=0, level_why="a test", build=Build(key="b" * 64, inputs={}, epoch=1)
    )
    given: dict[str, Any] = {"inputs": (), "serve": Serve(), "system": system, **more}
    return make_prompt(
        task=task, contract=Contract(shape or TextShape()), model=model, parameters=parameters, provenance=provenance, **given
    )


def kept_or_broken(ask: Ask) -> str:
    """An answer for SENTIMENT. A prompt that says so breaks its contract; the others keep it."""
    return "It depends." if "BROKEN" in ask.system else "positive"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(kept_or_broken, settings=Settings(keep_records=100)) as running:
        yield running


def promote(project: Project, *prompts: Prompt, alias: str = "production") -> None:
    """Puts prompts into the project's lock, under ``alias``."""
    lock = LockFile(project.lock)
    for one in prompts:
        lock.move(one.task, alias, one, why="a test", who="Ada", forced=True, when=datetime(2026, 1, 2, tzinfo=UTC))


def settings_of(provider: Provider, *, canned: str = "", more: str = "", service: str = "", foreign: str = "") -> str:
    """A ``promptsmith.toml`` whose endpoints are the loopback ``provider`` and, where named, a ``canned`` and a ``foreign`` one."""
    both = f"{provider.base_url_openai}", f"{provider.base_url_anthropic}"
    text = f"""\
[service]
{service}
[endpoints.openai]
protocol = "openai"
base_url = "{both[0]}"
api_key_env = "OPENAI_API_KEY"
foreign = false
[endpoints.anthropic]
protocol = "anthropic"
base_url = "{both[1]}"
api_key_env = "ANTHROPIC_API_KEY"
foreign = false
[endpoints.answers]
protocol = "openai"
api = "responses"
base_url = "{both[0]}"
api_key_env = "OPENAI_API_KEY"
foreign = false
[endpoints.hasty]
protocol = "openai"
base_url = "{both[0]}"
api_key_env = "OPENAI_API_KEY"
foreign = false
[endpoints.metered]
protocol = "openai"
base_url = "{both[0]}"
api_key_env = "OPENAI_API_KEY"
foreign = false
[limits.metered]
tpm = 200000
deadline = 2
[endpoints.shut]
protocol = "openai"
base_url = "{both[0]}"
api_key_env = "OPENAI_API_KEY"
foreign = false
[limits.shut]
concurrency = 1
deadline = 5
[limits.hasty]
timeout = 60
deadline = 2
[limits."hasty/gpt-5.2"]
concurrency = 1
timeout = 60
deadline = 2
"""
    if canned:
        text += f"""\
[endpoints.canned]
protocol = "openai"
base_url = "{canned}/v1"
foreign = false
[endpoints.canned-a]
protocol = "anthropic"
base_url = "{canned}"
foreign = false
[endpoints.canned-r]
protocol = "openai"
api = "responses"
base_url = "{canned}/v1"
foreign = false
"""
    if foreign:
        text += f'[endpoints.foreign]\nprotocol = "openai"\nbase_url = "{foreign}"\napi_key_env = "OPENAI_API_KEY"\n'
    return text + more


def project_at(root: Path, toml: str, *prompts: Prompt) -> Project:
    """A project in ``root`` with these settings and these prompts in production."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "promptsmith.toml").write_text(toml)
    project = find_project(root)
    promote(project, *prompts)
    return project


class Answer(NamedTuple):
    """What the service answered to one request; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[str, str]]:
        """Name and data of each server-sent event; a comment is an event called ``:``."""
        return events_in(self.body)

    @property
    def data(self) -> list[Any]:
        """The data of each event, parsed where it is JSON."""
        return [data if data == "[DONE]" else json.loads(data) for name, data in self.events if name != ":"]

    @property
    def comment(self) -> dict[str, str]:
        """What the one comment of a stream says."""
        [told] = [data for name, data in self.events if name == ":"]
        return dict(pair.split("=", 1) for pair in told.removeprefix("promptsmith ").split())


def events_in(body: bytes) -> list[tuple[str, str]]:
    """The events of a whole stream, as a reader of its own has them."""
    found = []
    for block in body.decode().replace("\r\n", "\n").split("\n\n"):
        lines = block.split("\n")
        if lines[0].startswith(":"):
            found.append((":", lines.pop(0)[1:].strip()))
        name = next((line[6:].strip() for line in lines if line.startswith("event:")), "")
        data = "\n".join(line[5:].strip() for line in lines if line.startswith("data:"))
        if data:
            found.append((name, data))
    return found


class Serving:
    """A running service."""

    def __init__(self, project: Project, process: subprocess.Popen[str], url: str, lines: list[str]) -> None:
        self.project, self.process, self.url, self._lines = project, process, url, lines
        self.pid = process.pid
        host, _, port = url.partition("://")[2].rpartition(":")
        self.host, self.port = host, int(port)

    @property
    def base(self) -> str:
        """What the OpenAI SDK calls its base URL."""
        return f"{self.url}/v1"

    def log(self) -> list[dict[str, Any]]:
        """Every line of the log so far."""
        return [json.loads(line) for line in list(self._lines) if line.startswith("{")]

    def lines(self) -> list[str]:
        """All that it wrote to stderr so far."""
        return list(self._lines)

    def told(self, event: str) -> int:
        """How many lines of the log so far tell of such an event."""
        return sum(line["event"] == event for line in self.log())

    def trouble(self) -> list[str]:
        """Lines of the log that are no JSON, or tell of a fault: there should be none."""
        bad = [line for line in list(self._lines) if not line.startswith("{")]
        return bad + [line for line in list(self._lines) if '"event":"trouble"' in line]

    def workers(self) -> list[int]:
        """The processes that answer, where there are several."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def ledger(self) -> list[LedgerRow]:
        """All rows, of whichever worker."""
        path = self.project.cache / "ledger.jsonl"
        return [msgspec.json.decode(line, type=LedgerRow) for line in path.read_bytes().splitlines()] if path.exists() else []

    def call(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request over a connection of its own; ``body`` as JSON, or as it is if it is bytes."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())

    def chat(self, model: str, text: str = "Hello", **more: Any) -> Answer:
        return self.call("POST", "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": text}], **more})

    def messages(self, model: str, text: str = "Hello", **more: Any) -> Answer:
        body = {"model": model, "max_tokens": 1000, "messages": [{"role": "user", "content": text}], **more}
        return self.call("POST", "/v1/messages", body, {"anthropic-version": "2023-06-01"})

    def responses(self, model: str, text: str = "Hello", **more: Any) -> Answer:
        return self.call("POST", "/v1/responses", {"model": model, "input": text, **more})

    def run(self, task: str, **body: Any) -> Answer:
        return self.call("POST", f"/v1/run/{task}", body)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it, and returns its status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextlib.contextmanager
def serving(project: Project, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Serving]:
    """`promptsmith serve` in ``project`` as a process, from when it answers until the block ends."""
    command = [sys.executable, "-m", "promptsmith", "serve", "--port", "0", *options]
    env = {**os.environ, "OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY, "PYTHONWARNINGS": "default", **(environment or {})}
    env.pop("PROMPTSMITH_PROJECT", None)
    process = subprocess.Popen(command, cwd=project.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []
    said: queue.Queue[str] = queue.Queue()
    threads = [
        threading.Thread(target=_read, args=(process.stderr, lines.append)),
        threading.Thread(target=_read, args=(process.stdout, said.put)),
    ]
    for thread in threads:
        thread.start()
    try:
        url = _address(process, said, lines)
        yield Serving(project, process, url, lines)
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        if process.poll() is None:
            process.kill()
        process.wait()
        for thread in threads:
            thread.join()
        process.stdout.close()
        process.stderr.close()


def _read(stream: Any, take: Callable[[str], object]) -> None:
    for line in stream:
        take(line.rstrip("\n"))


def _address(process: subprocess.Popen[str], said: queue.Queue[str], lines: list[str]) -> str:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(queue.Empty):
            return said.get(timeout=0.05)
        if process.poll() is not None:
            break
    raise AssertionError("the service did not start:\n" + "\n".join(lines))


def eventually(condition: Callable[[], bool], what: str = "") -> None:
    """Returns once ``condition`` holds."""
    tick = threading.Event()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError(f"it did not come to that: {what}")


def reload(service: Serving, event: str = "reloaded") -> None:
    """SIGHUP, and the wait until every worker has told ``event``."""
    before = service.told(event)
    os.kill(service.pid, signal.SIGHUP)
    eventually(lambda: service.told(event) >= before + max(1, len(service.workers())), f"every worker tells {event}")


# --- a provider that says just these bytes ----------------------------------------------------------------


class Say(NamedTuple):
    """One answer: its pieces are each a write of their own; with several (or ``stream``) they are sent chunked."""

    pieces: Sequence[bytes]
    status: int = 200
    headers: Mapping[str, str] = {}
    stream: bool = False


class Canned:
    """A server that answers each POST with the next of ``says`` (the last one for all that follow), byte for byte."""

    def __init__(self) -> None:
        self.says: list[Say] = []
        self.bodies: list[bytes] = []
        canned = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                canned.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                say = canned.says.pop(0) if len(canned.says) > 1 else canned.says[0]
                with contextlib.suppress(ConnectionError):
                    self._say(say)

            def _say(self, say: Say) -> None:
                chunked = say.stream or len(say.pieces) > 1
                self.send_response(say.status)
                for name, value in say.headers.items():
                    self.send_header(name, value)
                if "content-type" not in say.headers:
                    self.send_header("content-type", "text/event-stream" if say.stream else "application/json")
                if chunked:
                    self.send_header("transfer-encoding", "chunked")
                else:
                    self.send_header("content-length", str(sum(map(len, say.pieces))))
                self.end_headers()
                for piece in say.pieces:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                    self.wfile.flush()
                if chunked:
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Canned:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


# --- all of it --------------------------------------------------------------------------------------------


class World(NamedTuple):
    """A service, and what stands behind it. ``foreign`` speaks chat completions as other people's servers do."""

    provider: Provider
    foreign: Provider
    canned: Canned
    service: Serving

    @property
    def project(self) -> Project:
        return self.service.project

    def reset(self) -> None:
        """As new for the next test; what came before is forgotten."""
        for one in (self.provider, self.foreign):
            one.faults.clear()
            one.answer = spoken
            one.records.wait(lambda kept: all(record.ended is not None for record in kept), SECONDS)
            one.records.clear()
        self.canned.says.clear()
        self.canned.bodies.clear()


def spoken(ask: Ask) -> str:
    """What the provider says unless a test says otherwise: an order, a sentiment, or the words that it heard."""
    if ask.schema is not None and "sku" in str(ask.schema):
        return '{"sku":"A1","count":2}'
    return "positive" if "Do the task label" in ask.system else f"You said: {ask.text}"


@contextlib.contextmanager
def world(
    root: Path, *prompts: Prompt, options: Sequence[str] = (), service: str = "", more: str = "", pace: float = 0.0
) -> Iterator[World]:
    """A service of these prompts, with its providers, which wait ``pace`` seconds between the events of a stream."""
    anybody = Settings(foreign=True, keys=None, pace=pace)
    with Provider(spoken, Settings(pace=pace)) as provider, Provider(spoken, anybody) as foreign, Canned() as canned:
        toml = settings_of(provider, canned=canned.url, foreign=foreign.base_url_openai, service=service, more=more)
        with serving(project_at(root, toml, *prompts), *options) as running:
            yield World(provider, foreign, canned, running)


@pytest.fixture
def at(shared: World) -> World:
    """The module's own world, as new."""
    shared.reset()
    return shared


# The clients are loaded where they are used: this file is loaded for every test there is.


@pytest.fixture
def ours(at: World) -> Iterator[openai.OpenAI]:
    """OpenAI's client at the service; it repeats nothing."""
    import openai

    with openai.OpenAI(api_key="anything", base_url=at.service.base, max_retries=0, timeout=SECONDS) as client:
        yield client


@pytest.fixture
def theirs(at: World) -> Iterator[anthropic.Anthropic]:
    """Anthropic's client at the service; it repeats nothing."""
    import anthropic

    with anthropic.Anthropic(api_key="anything", base_url=at.service.url, max_retries=0, timeout=SECONDS) as client:
        yield client
