"""Workers: functions, fetches and searches, what they refuse, and what never ends a run."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pydantic
import pytest
from aiohttp import web
from anthropic.types import Message, WebSearchTool20250305Param
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from openai.types.responses import Response, WebSearchToolParam
from yarl import URL

from promptsmith.budget import NO_LIMITS, Budget
from promptsmith.catalog.models import ModelFacts
from promptsmith.chat import Reply, Request, Turn
from promptsmith.config import Project, find_project
from promptsmith.errors import InputError, PromptsmithError, ProviderError, SourceError, UnknownName, WorkerError
from promptsmith.evals.asking import Asker
from promptsmith.models.directory import Directory
from promptsmith.models.wire import client_codec
from promptsmith.orchestration.workers import WorkerResult, Workers
from promptsmith.orchestration.workers.addresses import check_address, host_of, parsed
from promptsmith.orchestration.workers.kinds.fetch import Fetcher, FetchSettings
from promptsmith.orchestration.workers.registry import kind_names
from promptsmith.runtime.loop import LOOP
from promptsmith.store.folder import open_store
from tests.provider import KEY, Provider, Said, scripted
from tests.talking import make_certificate

FUNCTIONS = """
import asyncio, os, sys, threading

def upper(text):
    return text.upper()

def told(instructions, problem="", arguments=None, context=None):
    return [instructions, problem, arguments, context]

def sized(n: int, word="x"):
    return word * n

async def slowly(text):
    await asyncio.sleep(0)
    return {"text": text, "thread": threading.current_thread() is threading.main_thread()}

def everything(**given):
    return given

def prints(text):
    print("noise on stdout")
    sys.stdout.write("more of it\\n")
    return text

def raises(text):
    raise ValueError("no good")

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("not even that")

def mute():
    raise Mute

def leaves():
    sys.exit(3)

def nothing():
    pass

def odd():
    return {"when": object()}

def circle():
    a = []
    a.append(a)
    return a

def infinite():
    return float("inf")

def broken_text():
    return "half \\ud800"

def hangs():
    threading.Event().wait()

def by_place(text, /):
    return text

def uses_runtime(text):
    from promptsmith import Runtime
    from promptsmith.errors import UnknownName
    with Runtime(os.environ["PROJECT"]) as runtime:
        try:
            runtime.run("none", text)
        except UnknownName as error:
            return error.message
"""


def functions(**named: str) -> str:
    return "".join(f'[workers.{name}]\nkind = "function"\nfunction = "work.py:{function}"\n' for name, function in named.items())


class Crew:
    """A project's workers, called from a test that is not async."""

    def __init__(self, project: Project, models: Mapping[str, object] | None = None) -> None:
        self.project = project
        self.workers = Workers(project, models)

    def call(self, name: str, arguments: Mapping[str, Any] | None = None, *, allow_functions: bool = False, **more: Any) -> WorkerResult:
        return LOOP.wait(self.workers.call(name, arguments or {}, allow_functions=allow_functions, **more))


@pytest.fixture
def crew(make_project: Callable[..., Project]) -> Callable[..., Crew]:
    def make(config: str = "", name: str = "project", models: Mapping[str, object] | None = None) -> Crew:
        project = make_project(config=config, name=name)
        (project.root / "work.py").write_text(FUNCTIONS)
        return Crew(project, models)

    return make


# --- the registry -----------------------------------------------------------------------------------------


def test_each_kind_is_a_file() -> None:
    from promptsmith.orchestration.workers import kinds

    files = {path.stem for path in Path(kinds.__path__[0]).glob("*.py")} - {"__init__"}
    assert set(kind_names()) == files == {"fetch", "function", "search"}


ECHO = """
from promptsmith.orchestration.workers import Kind, Worker, WorkerResult
from promptsmith.orchestration.workers.values import WorkerSettings

class EchoSettings(WorkerSettings, frozen=True, kw_only=True):
    times: int = 1

def make(settings, place):
    async def echo(call, ask):
        return WorkerResult(text=call.instructions * settings.times)
    return Worker(echo)

KIND = Kind(EchoSettings, make)
"""


def test_a_new_kind_is_one_new_file(crew: Callable[..., Crew], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from promptsmith.orchestration.workers import kinds

    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "echo_test.py").write_text(ECHO)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path / "kinds")])
    made = crew('[workers.twice]\nkind = "echo_test"\ntimes = 2\n')
    assert made.call("twice", instructions="ab").text == "abab"
    with pytest.raises(SourceError, match=r"unknown key 'tims' in \[workers.twice\], did you mean 'times'"):
        crew('[workers.twice]\nkind = "echo_test"\ntims = 2\n', "other")


def test_every_mistake_in_the_settings_is_told_with_its_line(crew: Callable[..., Crew]) -> None:
    config = (
        '[workers.up]\nkind = "function"\nfunction = "work.py:upper"\nfuncton = "x"\n'
        '[workers.web]\nkind = "fetch"\nhosts = ["https://example.com/"]\n'
        '[workers.other]\nkind = "fetsh"\n[workers.none]\ntimeout = 3\n[workers.late]\nkind = "search"\nmodel = "a/b"\ntimeout = 0\n'
    )
    with pytest.raises(SourceError) as caught:
        crew(config)
    told = str(caught.value).replace(str(Path(caught.value.problems[0].file)), "F")
    assert "F:4: unknown key 'funct" in told
    assert "did you mean 'function'" in told
    assert "F:5: " in told
    assert "'https://example.com/' is no host" in told
    assert "F:9: [workers.other] has no kind 'fetsh', did you mean 'fetch'" in told
    assert "F:10: [workers.none] says no kind, the kinds are fetch, function, search" in told
    assert "F:15: workers.late.timeout" in told


def test_mistakes_in_a_shared_settings_file_have_their_line(tmp_path: Path) -> None:
    shared = tmp_path / "pyproject.toml"
    shared.write_text('[project]\nname = "x"\n[tool.promptsmith.workers.up]\nkind = "function"\nfunction = "a:b"\nretries = 3\n')
    with pytest.raises(SourceError, match=r"pyproject.toml:6: unknown key 'retries' in \[workers.up\]"):
        Workers(find_project(tmp_path))


def test_the_settings_of_the_docs_are_workers(make_project: Callable[..., Project]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "reference" / "settings.md").read_text("utf-8")
    config = page.partition("```toml\n")[2].partition("```")[0]
    workers = Workers(make_project(config=config))
    assert {workers.kind(name) for name in workers.names} == set(kind_names())


def test_only_registered_workers_but_for_persons(crew: Callable[..., Crew]) -> None:
    made = crew(functions(up="upper"))
    assert made.workers.names == {"up"}
    with pytest.raises(UnknownName, match="did you mean 'up'"):
        made.call("upp")
    with pytest.raises(UnknownName, match="only plans that a person wrote name functions"):
        made.call("work.py:upper", {"text": "a"})
    with pytest.raises(UnknownName, match="only plans that a person wrote"):
        made.call("os:system", {"command": "true"})
    assert made.call("work.py:upper", {"text": "a"}, allow_functions=True).text == "A"
    assert made.call("work:upper", {"text": "a"}, allow_functions=True).text == "A", "a module beside the settings"
    with pytest.raises(UnknownName, match="none is registered here"):
        crew("", "empty").call("up")


def test_the_kind_and_identity_of_a_worker(crew: Callable[..., Crew]) -> None:
    """What decides its results is in its identity: its function's code, its settings but for its limits."""
    made = crew(functions(up="upper"))
    first = made.workers.identity("up")
    assert made.workers.kind("up") == made.workers.kind("work.py:upper") == "function"
    assert crew(functions(up="upper") + "timeout = 3\nmax_bytes = 5\n").workers.identity("up") == first
    assert crew(functions(up="prints")).workers.identity("up") != first
    changed = crew(functions(up="upper"))
    (changed.project.root / "work.py").write_text(FUNCTIONS.replace("text.upper()", "text.lower()"))
    assert changed.workers.identity("up") != first


# --- functions --------------------------------------------------------------------------------------------


def test_a_function_gets_what_it_names(crew: Callable[..., Crew]) -> None:
    made = crew(functions(up="upper", told="told", sized="sized", all="everything"))
    assert made.call("up", {"text": "a"}) == WorkerResult(text="A", value="A")
    assert made.call("up", context={"text": "b"}).text == "B"
    assert made.call("up", {"text": "a"}, context={"text": "b"}).text == "A", "a constant of the plan goes first"
    assert made.call("up", context={"draft": "c"}).text == "C", "the one text that is there for the one that is missing"
    result = made.call("told", instructions="I", problem="P", context={"list": [1, "two"]})
    assert result.value == ["I", "P", {}, {"list": [1, "two"]}]
    assert json.loads(result.text) == result.value
    assert made.call("sized", {"n": 3}, context={"word": "ab", "other": "x"}).text == "ababab"
    assert made.call("all", {"a": 1}, context={"step-one": {"b": 2}}).value == {"a": 1, "step_one": {"b": 2}}


def test_what_a_function_cant_be_given_is_named(crew: Callable[..., Crew]) -> None:
    made = crew(functions(up="upper", sized="sized", place="by_place", none="not_there"))
    with pytest.raises(InputError, match=r"takes 'text', which the step does not give it\n.*the step gives nothing"):
        made.call("up")
    with pytest.raises(InputError, match="'text', which"):
        made.call("up", context={"a": "1", "b": "2"})
    with pytest.raises(InputError, match=r"takes no argument 'txet'\n.*did you mean 'text'"):
        made.call("up", {"txet": "a"})
    with pytest.raises(InputError, match="by place"):
        made.call("place", {"text": "a"})
    with pytest.raises(InputError, match="has no function 'not_there'"):
        made.call("none")
    with pytest.raises(InputError, match="can't be read"):
        made.call("gone.py:f", allow_functions=True)
    with pytest.raises(InputError, match="can't be imported"):
        made.call("no_such_module:f", allow_functions=True)
    with pytest.raises(InputError, match="is a class"):
        made.call("work.py:Mute", allow_functions=True)


def test_a_module_that_ends_its_process_is_only_refused(crew: Callable[..., Crew], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "leaving_module.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("leaving_module:f", f"{tmp_path}/leaving_module.py:f"):
        with pytest.raises(InputError, match=r"SystemExit: 3"):
            crew().call(name, allow_functions=True)


def test_async_functions_and_the_sync_face(crew: Callable[..., Crew], monkeypatch: pytest.MonkeyPatch) -> None:
    made = crew(functions(slowly="slowly", runtime="uses_runtime"))
    assert made.call("slowly", {"text": "a"}).value == {"text": "a", "thread": False}
    monkeypatch.setenv("PROJECT", str(made.project.root))
    assert made.call("runtime", {"text": "a"}).text == "unknown task 'none'"


def test_what_a_function_prints_is_no_result(crew: Callable[..., Crew], capsys: pytest.CaptureFixture[str]) -> None:
    made = crew(functions(prints="prints"))
    assert made.call("prints", {"text": "a"}) == WorkerResult(text="a", value="a")
    assert capsys.readouterr().out == "noise on stdout\nmore of it\n"


def test_a_function_that_prints_into_a_closed_pipe_fails_alone(crew: Callable[..., Crew], monkeypatch: pytest.MonkeyPatch) -> None:
    made = crew(functions(prints="prints"))
    with open(os.devnull, "w") as closed:
        pass
    monkeypatch.setattr(sys, "stdout", closed)
    with pytest.raises(WorkerError, match="raised ValueError: I/O operation on closed file"):
        made.call("prints", {"text": "a"})


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("raises", r"the worker w raised ValueError: no good \(work.py:\d+\)"),
        ("mute", r"raised Mute \(work.py:\d+\)"),
        ("leaves", "raised SystemExit: 3"),
        ("nothing", "returned nothing"),
        ("odd", "returned dict, which is no data"),
        ("circle", "returned list, which is no data"),
        ("infinite", "returned float, which is no data"),
        ("broken_text", "lone surrogate"),
    ],
)
def test_a_function_that_fails_is_a_failed_worker(crew: Callable[..., Crew], function: str, says: str) -> None:
    made = crew(functions(w=function))
    with pytest.raises(WorkerError, match=says):
        made.call("w", {"text": "a"} if function == "raises" else {})


def test_a_function_that_hangs_is_left_behind(crew: Callable[..., Crew]) -> None:
    made = crew(functions(w="hangs"))
    with pytest.raises(WorkerError, match=r"did not end within 0.05 s") as caught:
        made.call("w", timeout=0.05)
    assert caught.value.retryable
    with pytest.raises(WorkerError, match=r"did not end within 0.06 s"):
        crew(functions(w="hangs") + "timeout = 0.06\n").call("w")
    hanging = [thread for thread in threading.enumerate() if thread.name == "promptsmith-worker"]
    assert hanging
    assert all(thread.daemon for thread in hanging), "none of them keeps Python from ending"


def test_results_are_bounded_and_never_cut(crew: Callable[..., Crew]) -> None:
    made = crew(functions(w="sized") + "max_bytes = 100\n")
    assert len(made.call("w", {"n": 100}).text) == 100
    with pytest.raises(WorkerError, match="returned 101 bytes, more than its limit of 100"):
        made.call("w", {"n": 101})
    with pytest.raises(WorkerError, match="returned 102 bytes"):
        made.call("w", {"n": 51, "word": "é"})
    with pytest.raises(WorkerError, match=r"returned 5,000,000 bytes, more than its limit of 1,048,576"):
        crew(functions(w="sized")).call("w", {"n": 5_000_000})


def test_a_function_of_an_installed_package(crew: Callable[..., Crew], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "site" / "acme-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[promptsmith.workers]\nshorten = textwrap:shorten\n")
    monkeypatch.syspath_prepend(package.parent)
    made = crew('[workers.s]\nkind = "function"\nfunction = "shorten"\n[workers.t]\nkind = "function"\nfunction = "shortn"\n')
    assert made.call("s", {"text": "one two three", "width": 10}).text == "one [...]"
    with pytest.raises(InputError, match="did you mean 'shorten'"):
        made.call("t")


# --- fetch: addresses -------------------------------------------------------------------------------------

PUBLIC = "93.184.215.14"
REFUSED = """
    127.0.0.1 127.9.9.9 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 0.1.2.3 224.0.0.1 239.1.1.1 240.0.0.1
    255.255.255.255 192.0.2.1 198.18.0.1 :: ::1 fe80::1 fe80::1%eth0 fc00::1 fd12::1 ff02::1 2001:db8::1 ::ffff:127.0.0.1
    ::ffff:93.184.215.14 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::5db8:d70e 64:ff9b:1::1 2002:7f00:1:: 2001:0:1::1 fec0::1
    """


@pytest.mark.parametrize("address", REFUSED.split())
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(WorkerError, match="not a public one"):
        check_address(address, 80, ())


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"])
def test_public_addresses_pass(address: str) -> None:
    check_address(address, 443, ())


def test_tests_may_open_one_address_and_port() -> None:
    check_address("127.0.0.1", 8001, ("127.0.0.1:8001",))
    check_address("::1", 8001, ("[::1]:8001",))
    for address, port in (("127.0.0.1", 8002), ("127.0.0.2", 8001), ("::ffff:127.0.0.1", 8001)):
        with pytest.raises(WorkerError):
            check_address(address, port, ("127.0.0.1:8001",))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is empty"),
        ("example.com", "is fetched by nothing"),
        ("file:///etc/passwd", "is fetched by file"),
        ("gopher://example.com/", "is fetched by gopher"),
        ("data:text/plain,x", "is fetched by data"),
        ("http:///path", "names no host|no address"),
        ("http://example.com@evil.com/", "user or password"),
        ("http://example.com:80@evil.com/", "user or password"),
        ("http://:secret@example.com/", "user or password"),
        ("http://example.com\\@evil.com/", "backslash"),
        ("http://example.com /", "blanks"),
        ("http://example.com/\r\nHost: evil", "blanks"),
        ("http://example.com:99999/", "no address"),
        ("http://[::1/", "no address"),
    ],
)
def test_what_is_no_address(url: str, says: str) -> None:
    with pytest.raises(WorkerError, match=says):
        asyncio.run(fetcher().page(url))


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(WorkerError) as caught:
        asyncio.run(fetcher().page("http://me:hunter2@example.com/"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "1.2.3.4.5", "example.com.0x10"],
)
def test_a_number_that_is_read_as_an_address_is_refused_even_when_listed(host: str) -> None:
    with pytest.raises(WorkerError, match="is a number"):
        asyncio.run(fetcher(hosts=(host,)).page(f"http://{host}/"))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "[64:ff9b::7f00:1]", "169.254.169.254"])
def test_private_addresses_are_refused_even_when_listed(host: str) -> None:
    """And whatever the resolver says of them: the address itself would be connected to."""
    with pytest.raises(WorkerError, match="not a public one"):
        asyncio.run(fetcher(hosts=(host_of(URL(f"http://{host}/")),)).page(f"http://{host}/"))


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("docs.example.com", True),
        ("DOCS.Example.COM", True),
        ("docs.example.com.", True),
        ("a.wild.org", True),
        ("b.a.wild.org", True),
        ("wild.org", False),
        ("evilwild.org", False),
        ("docs.example.com.evil.org", False),
        ("example.com", False),
        ("xdocs.example.com", False),
        ("docs\u3002example\u3002com", True),  # IDNA reads the ideographic full stop as a dot, here as anywhere else
    ],
)
def test_hosts_are_compared_whole(host: str, passes: bool) -> None:
    asked: list[str] = []

    async def resolve(name: str, _port: int) -> list[str]:
        asked.append(name)
        return []

    found = Fetcher(FetchSettings(kind="fetch", hosts=("docs.example.com", "*.wild.org")), resolve)
    with pytest.raises(WorkerError, match="can't be found" if passes else "is not among those"):
        asyncio.run(found.page(f"http://{host}/"))
    assert bool(asked) is passes


@pytest.mark.parametrize(
    "host", ["http://example.com", "example.com:80", "example.com/x", "*", "*.com", "a.*.com", "Example.com", "a b", ""]
)
def test_entries_of_the_list_that_are_no_hosts(host: str) -> None:
    with pytest.raises(InputError):
        FetchSettings(kind="fetch", hosts=(host,))


def test_ports_are_listed_too() -> None:
    with pytest.raises(WorkerError, match="the port 22 is not among"):
        asyncio.run(fetcher().page("http://example.com:22/"))


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_an_error_in_words(text: str) -> None:
    try:
        url = parsed(text)
    except WorkerError:
        return
    assert url.scheme in ("http", "https")
    assert url.raw_host
    assert url.raw_user is None


def fetcher(hosts: tuple[str, ...] = ("example.com",), answers: Sequence[str] = (PUBLIC,), **more: Any) -> Fetcher:
    """One that would never get to a connection in these tests."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return answers

    return Fetcher(FetchSettings(kind="fetch", hosts=hosts, **more), resolve)


# --- fetch: pages -----------------------------------------------------------------------------------------

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def site(handle: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on loopback; gives its port."""
    server = web.Server(handle, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    where = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await where.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Net:
    """A site, and a fetcher whose resolver finds it under names."""

    def __init__(
        self, handle: Handler, hosts: tuple[str, ...] = ("good.example",), answers: Mapping[str, list[str]] | None = None, **more: Any
    ):
        self.handle, self.hosts, self.more = handle, hosts, more
        self.answers = answers or {}
        self.asked: list[str] = []
        self.port = 0

    async def resolve(self, host: str, _port: int) -> list[str]:
        self.asked.append(host)
        left = self.answers.get(host, ["127.0.0.1"])
        return [left.pop(0)] if len(left) > 1 else left

    def page(self, path: str = "/", host: str = "good.example") -> Any:
        async def fetched() -> Any:
            async with site(self.handle) as port:
                self.port = port
                settings = FetchSettings(kind="fetch", hosts=self.hosts, ports=(port,), allow_private=(f"127.0.0.1:{port}",), **self.more)
                return await Fetcher(settings, self.resolve).page(f"http://{host}:{port}{path}")

        return asyncio.run(fetched())


def text_page(text: str = "hello", **more: Any) -> Handler:
    async def handle(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, **more)

    return handle


def routes(**pages: Callable[[web.Request], web.StreamResponse]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return pages[request.path.strip("/") or "start"](request)

    return handle


def to(location: str, status: int = 302) -> Callable[[web.Request], web.StreamResponse]:
    return lambda request: web.Response(status=status, headers={"Location": location.replace("PORT", str(request.url.port))})


def test_a_page_comes_with_its_address() -> None:
    net = Net(text_page("hëllo", content_type="text/html", charset="latin-1"))
    page = net.page("/a?b=c#d")
    assert page == (f"http://good.example:{net.port}/a?b=c", "text/html", "hëllo")


def test_nothing_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine good.example login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    seen: list[dict[str, str]] = []

    def first(request: web.Request) -> web.StreamResponse:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(status=302, headers={"Location": "/second", "Set-Cookie": "a=b"})

    def second(request: web.Request) -> web.StreamResponse:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(text="done")

    assert Net(routes(start=first, second=second)).page().text == "done"
    assert [set(headers) for headers in seen] == [{"host", "accept", "accept-encoding", "user-agent", "connection"}] * 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_checked(status: int) -> None:
    net = Net(routes(start=to("/next", status), next=to("http://other.example:PORT/end"), end=lambda _: web.Response(text="end")))
    net.hosts = ("good.example", "other.example")
    page = net.page()
    assert (page.url, page.text) == (f"http://other.example:{net.port}/end", "end")
    assert net.asked == ["good.example", "good.example", "other.example"], "each connection is checked anew"


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("http://evil.example:PORT/", "'evil.example' is not among those"),
        ("http://good.example:1/", "the port 1 is not among"),
        ("http://127.0.0.1:PORT/", "'127.0.0.1' is not among those"),
        ("http://[::1]:PORT/", "'::1' is not among those"),
        ("http://good.example@evil.example:PORT/", "redirects to what can't be fetched: the address has a user"),
        ("//evil.example:PORT/", "'evil.example' is not among those"),
        ("file:///etc/passwd", "redirects to what can't be fetched: 'file"),
        ("http://2130706433:PORT/", "is a number"),
        ("", "redirects to nowhere"),
        ("http://[", "no address"),
    ],
)
def test_where_a_redirect_may_not_lead(location: str, says: str) -> None:
    served: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        served.append(request.host)
        return to(location)(request)

    with pytest.raises(WorkerError, match=says):
        Net(handle).page()
    assert len(served) == 1


def test_a_redirect_to_a_listed_host_with_a_private_address_is_refused() -> None:
    net = Net(routes(start=to("http://inside.example:PORT/secret"), secret=lambda _: web.Response(text="secret")))
    net.hosts, net.answers = ("*.example",), {"inside.example": ["10.0.0.7"]}
    net.hosts = ("good.example", "inside.example")
    with pytest.raises(WorkerError, match=r"the address 10.0.0.7 is not a public one"):
        net.page()


def test_redirects_end() -> None:
    with pytest.raises(WorkerError, match="redirects in a circle"):
        Net(routes(start=to("/a"), a=to("/b"), b=to("/a"))).page()

    async def onward(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": f"/{int(request.path[1:] or 0) + 1}"})

    with pytest.raises(WorkerError, match="redirects more than 5 times"):
        Net(onward).page()
    with pytest.raises(WorkerError, match="redirects more than 0 times"):
        Net(onward, redirects=0).page()


def test_dns_that_changes_its_answer_finds_no_second_question() -> None:
    """Rebinding: the first answer is checked and connected to; the second, a private one, is never asked for."""
    net = Net(text_page("from the checked address"), answers={"good.example": ["127.0.0.1", "10.0.0.7", "10.0.0.7"]})
    assert net.page().text == "from the checked address"
    assert net.asked == ["good.example"]
    back = Net(routes(start=to("/next")), answers={"good.example": ["127.0.0.1", "10.0.0.7", "10.0.0.7"]})
    with pytest.raises(WorkerError, match=r"10.0.0.7 is not a public one"):
        back.page()


def test_one_private_address_among_others_is_enough_to_refuse() -> None:
    with pytest.raises(WorkerError, match=r"the address 10.0.0.1 is not a public one"):
        asyncio.run(fetcher(answers=(PUBLIC, "10.0.0.1")).page("http://example.com/"))
    with pytest.raises(WorkerError, match="can't be found"):
        asyncio.run(fetcher(answers=()).page("http://example.com/"))


def test_a_huge_body_is_refused_whatever_it_says_of_itself() -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        for _ in itertools.count():
            await response.write(b"x" * 65536)
            sent += 65536
        return response

    with pytest.raises(WorkerError, match="is longer than 100,000 bytes"):
        Net(endless, max_bytes=100_000).page()
    assert sent < 20_000_000, "it is not read to its end"
    with pytest.raises(WorkerError, match="is longer than 4 bytes"):
        Net(text_page("hello"), max_bytes=4).page()


def test_a_slow_page_is_given_up(crew: Callable[..., Crew]) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"x")
            await asyncio.sleep(0.02)
        return response

    async def called() -> None:
        async with site(slow) as port:
            project = crew(
                f'[workers.web]\nkind = "fetch"\nhosts = ["127.0.0.1"]\nports = [{port}]\nallow_private = ["127.0.0.1:{port}"]\n'
                "timeout = 0.2\n"
            ).project
            await Workers(project).call("web", {"url": f"http://127.0.0.1:{port}/"}, allow_functions=False)

    with pytest.raises(WorkerError, match=r"the worker web did not end within 0.2 s"):
        asyncio.run(called())


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        ("text/plain", True), ("text/html; charset=utf-8", True), ("application/json", True), ("application/ld+json", True),
        ("application/xml", True), ("application/atom+xml", True), ("TEXT/HTML", True), ("image/png", False), ("application/pdf", False),
        ("application/octet-stream", False), ("application/javascript", False), ("text", False),
    ],
)  # fmt: skip
def test_only_text_json_and_xml(kind: str, passes: bool) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.headers["Content-Type"] = kind
        await response.prepare(request)
        await response.write(b"\xef\xbb\xbf{}")
        return response

    if passes:
        assert Net(handle).page().text == "{}"
    else:
        with pytest.raises(WorkerError, match="only text, JSON and XML are fetched"):
            Net(handle).page()


def test_what_is_not_asked_for_is_refused() -> None:
    def packed(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"})

    with pytest.raises(WorkerError, match="came compressed"):
        Net(routes(start=packed)).page()
    for status, again in ((404, False), (403, False), (429, True), (503, True), (204, False)):
        with pytest.raises(WorkerError, match=f"answered with status {status}") as caught:
            Net(text_page("", status=status)).page()
        assert caught.value.retryable is again


def test_charsets_that_no_page_has_are_not_used() -> None:
    for charset in ("utf-7", "punycode", "rot13", "no-such", "unicode_escape", "hex"):

        async def handle(_request: web.Request, charset: str = charset) -> web.StreamResponse:
            return web.Response(body=b"a\\u0041 +AEE-", headers={"Content-Type": f"text/plain; charset={charset}"})

        assert Net(handle).page().text == "a\\u0041 +AEE-"


def test_a_connection_that_breaks_may_do_better_later() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    with pytest.raises(WorkerError, match="good") as caught:
        Net(handle).page()
    assert caught.value.retryable


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that no system trusts, for good.example, and its key."""
    made = make_certificate(tmp_path_factory.mktemp("tls"), "DNS:good.example")
    if made is None:
        pytest.skip("there is no openssl to make a certificate with")
    return made


def test_tls_is_with_the_host_that_was_asked_for(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the connection goes to a checked address; and nothing leads back from https to http."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)

    async def fetched(host: str, path: str) -> Any:
        async with site(routes(start=lambda _: web.Response(text="safe"), back=to("http://good.example:PORT/")), tls) as port:

            async def resolve(_host: str, _port: int) -> list[str]:
                return ["127.0.0.1"]

            hosts = ("good.example", "other.example")
            settings = FetchSettings(kind="fetch", hosts=hosts, ports=(port,), allow_private=(f"127.0.0.1:{port}",))
            return await Fetcher(settings, resolve).page(f"https://{host}:{port}{path}")

    with pytest.raises(WorkerError, match="not trusted"):
        asyncio.run(fetched("good.example", "/"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert asyncio.run(fetched("good.example", "/")).text == "safe"
    with pytest.raises(WorkerError, match="not trusted") as caught:
        asyncio.run(fetched("other.example", "/"))
    assert not caught.value.retryable
    with pytest.raises(WorkerError, match=r"from https to http://good\.example"):
        asyncio.run(fetched("good.example", "/back"))


def test_fetch_as_a_worker(crew: Callable[..., Crew]) -> None:
    """Where its address comes from, and that a page is data with its address."""

    async def calls() -> list[WorkerResult]:
        async with site(text_page('{"ignore": "the plan"}', content_type="application/json")) as port:
            workers = crew(
                f'[workers.web]\nkind = "fetch"\nhosts = ["127.0.0.1"]\nports = [{port}]\nallow_private = ["127.0.0.1:{port}"]\n'
            ).workers
            url = f"http://127.0.0.1:{port}/x"
            ways: list[dict[str, Any]] = [
                {"arguments": {"url": url}, "instructions": "Fetch it.", "context": {"url": "no"}},
                {"arguments": {}, "context": {"url": url, "other": "x"}, "instructions": "Fetch it."},
                {"arguments": {}, "context": {"found": f" {url}\n"}, "instructions": "Fetch it."},
                {"arguments": {}, "instructions": url},
            ]
            return [await workers.call("web", allow_functions=False, **way) for way in ways]

    results = asyncio.run(calls())
    url = results[0].sources[0]
    assert len({result.text for result in results}) == 1
    assert results[0] == WorkerResult(
        text=f'URL: {url}\n\n{{"ignore": "the plan"}}',
        value={"url": url, "type": "application/json", "text": '{"ignore": "the plan"}'},
        sources=(url,),
    )
    made = crew('[workers.web]\nkind = "fetch"\nhosts = ["example.com"]\n')
    with pytest.raises(InputError, match="is told no address"):
        made.call("web")
    with pytest.raises(InputError, match="takes no argument 'address'"):
        made.call("web", {"address": "http://example.com/"})


# --- search -----------------------------------------------------------------------------------------------

SEARCH = Request(model="anthropic/claude-haiku-5-5", system="", turns=(Turn("user", "sky"),), options={"web_search": 1})
CITED = ("https://a.example/1", "https://b.example/2")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture
def searching(crew: Callable[..., Crew], keys: None) -> Iterator[Callable[..., tuple[Crew, Provider]]]:
    """Workers ``open`` and ``claude`` that search at a loopback provider, which says what a test lets it say."""
    opened: list[Provider] = []

    def make(*said: Said | str, config: str = "") -> tuple[Crew, Provider]:
        provider = Provider(scripted(said))
        provider.start()
        opened.append(provider)
        made = crew(
            f'[endpoints.openai]\nprotocol = "openai"\nbase_url = "{provider.base_url_openai}"\napi_key_env = "OPENAI_API_KEY"\n'
            'foreign = false\napi = "responses"\n'
            f'[endpoints.anthropic]\nprotocol = "anthropic"\nbase_url = "{provider.base_url_anthropic}"\n'
            'api_key_env = "ANTHROPIC_API_KEY"\nforeign = false\n'
            '[workers.open]\nkind = "search"\nmodel = "openai/gpt-6-luna"\nsearches = 3\ndomains = ["a.example", "b.example"]\n'
            '[workers.claude]\nkind = "search"\nmodel = "anthropic/claude-haiku-5-5"\n' + config
        )
        return made, provider

    yield make
    for provider in opened:
        provider.stop()


@pytest.mark.parametrize("worker", ["open", "claude"])
def test_a_search_answers_with_what_it_cites(searching: Callable[..., tuple[Crew, Provider]], worker: str) -> None:
    made, _ = searching(Said("The sky is blue.", cites=(*CITED, CITED[0])))
    result = made.call(worker, instructions="Which colour has the sky?")
    before = "I will look it up.\n\n" if worker == "claude" else ""
    assert result.text == (f"{before}The sky is blue.\n\nSources:\n- https://a.example/1\n- https://b.example/2")
    assert result.sources == CITED
    assert result.value["sources"] == list(CITED)
    assert result.model.endswith(("luna", "5-5"))
    assert result.usage.counted
    assert result.cost is None, "searches are billed beside the tokens"


def test_what_goes_out_is_what_the_sdks_know(searching: Callable[..., tuple[Crew, Provider]]) -> None:
    made, provider = searching(Said("x", cites=CITED), Said("x", cites=CITED))
    made.call("open", {"query": "sky colour"}, problem="P", context={"notes": ["a", 1]})
    made.call("claude", {"query": "sky colour"})
    first, second = (record.json for record in provider.records.all())
    assert pydantic.TypeAdapter(WebSearchToolParam).validate_python(first["tools"][0]) == {
        "type": "web_search",
        "filters": {"allowed_domains": ["a.example", "b.example"]},
    }
    assert first["max_tool_calls"] == 3
    assert second["tools"] == [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]
    assert pydantic.TypeAdapter(WebSearchTool20250305Param).validate_python(second["tools"][0])
    assert first["input"][-1]["content"] == 'sky colour\n\n<problem>\nP\n</problem>\n\n<notes>\n["a", 1]\n</notes>'
    assert second["messages"][-1]["content"] == "sky colour"


def test_the_providers_answers_are_what_the_sdks_know() -> None:
    """The loopback provider's own shape of a search, held against the SDKs' types."""
    import anthropic
    import openai

    tool: Any = {"type": "web_search_20250305", "name": "web_search"}
    with (
        Provider(scripted([Said("x", cites=CITED), Said("y", cites=CITED)])) as provider,
        anthropic.Anthropic(api_key=KEY, base_url=provider.base_url_anthropic, max_retries=0) as claude,
        openai.OpenAI(api_key=KEY, base_url=provider.base_url_openai, max_retries=0) as gpt,
    ):
        message = claude.messages.create(
            model="claude-haiku-5-5", max_tokens=64, messages=[{"role": "user", "content": "hi"}], tools=[tool]
        )
        response = gpt.responses.create(model="gpt-6-luna", input="hi", tools=[{"type": "web_search"}])
    Message.model_validate(message.to_dict(), strict=False)
    Response.model_validate(response.to_dict(), strict=False)
    assert [block.type for block in message.content] == ["text", "server_tool_use", "web_search_tool_result", "text"]
    assert [item.type for item in response.output] == ["web_search_call", "message"]


@pytest.mark.parametrize(
    ("worker", "said", "says", "again"),
    [
        ("claude", Said("From memory."), "answered without searching", False),
        ("open", Said("From memory."), "answered without searching", False),
        ("claude", Said("No.", cites=(), search_error="too_many_requests"), "web search .* failed: too_many_requests", True),
        ("claude", Said("No.", cites=(), search_error="query_too_long"), "web search .* failed: query_too_long", False),
        ("open", Said("No.", cites=(), search_error="failed"), "web search .* failed", True),
        ("claude", Said("I won't.", stop="refused", cites=CITED), "refused", False),
        ("open", Said("I won't.", stop="refused", cites=CITED), "refused", False),
    ],
)
def test_what_is_no_search_is_no_result(
    searching: Callable[..., tuple[Crew, Provider]], worker: str, said: Said, says: str, again: bool
) -> None:
    made, provider = searching(*[said] * 20, config="[limits.anthropic]\ndeadline = 5\n[limits.openai]\ndeadline = 5\n")
    with pytest.raises(ProviderError, match=says) as caught:
        made.call(worker, instructions="Which colour has the sky?")
    assert caught.value.retryable is again
    assert again or len(provider.records) == 1


def test_a_search_without_a_cited_page_says_so(searching: Callable[..., tuple[Crew, Provider]]) -> None:
    made, _ = searching(Said("Nothing was found.", cites=()))
    assert made.call("open", instructions="x").text == "Nothing was found.\n\nSources:\nnone was cited"


def test_where_no_search_can_be_had(crew: Callable[..., Crew], keys: None) -> None:
    search = '[workers.s]\nkind = "search"\nmodel = "{}"\n'
    for model, says in (
        ("builtin/nearest", "builtin/nearest is at no endpoint that has web search"),
        ("openai/gpt-6-luna", "chat completions, which have no such tool"),
        ("opnai/x", "unknown model 'opnai/x'"),
    ):
        with pytest.raises(PromptsmithError, match=says):
            crew(search.format(model)).call("s", instructions="x")
    foreign = search.format("local/x") + '[endpoints.local]\nprotocol = "anthropic"\nbase_url = "http://127.0.0.1:9"\n'
    with pytest.raises(InputError, match="nothing says that it has web search"):
        crew(foreign).call("s", instructions="x")


def test_what_a_search_must_be_told(searching: Callable[..., tuple[Crew, Provider]]) -> None:
    made, provider = searching()
    with pytest.raises(InputError, match="nothing to search for"):
        made.call("open")
    with pytest.raises(InputError, match="takes no argument 'q'"):
        made.call("open", {"q": "x"})
    assert not len(provider.records)


def test_a_run_searches_through_its_own_books(searching: Callable[..., tuple[Crew, Provider]]) -> None:
    """By its journal and its cache: an equal search is paid once, and cites the same pages the second time."""
    made, provider = searching(Said("Blue.", cites=CITED))
    store = open_store(made.project)

    async def call(calls: bool) -> WorkerResult:
        asker = Asker(Directory(made.project), store, Budget(NO_LIMITS), task="plan", calls=calls)

        async def ask(request: Request) -> Reply:
            return (await asker.ask(request, stage="plan")).reply

        with store.journal("plan", f"{int(calls)}" * 64) as asker.journal:
            return await made.workers.call("open", {"query": "sky"}, allow_functions=False, ask=ask)

    first = LOOP.wait(call(calls=True))
    store.flush()
    again = LOOP.wait(call(calls=False))
    assert (again.text, again.sources) == (first.text, first.sources)
    assert again.sources == CITED
    assert len(provider.records) == 1
    store.close()


def test_another_number_of_searches_is_another_request() -> None:
    keys = {
        SEARCH.key(),
        *(replace(SEARCH, options=more).key() for more in ({}, {"web_search": 2}, {"web_search": 1, "web_search_domains": "a"})),
    }
    assert len(keys) == 4


@pytest.mark.parametrize(("protocol", "api"), [("anthropic", None), ("openai", "responses"), ("openai", "chat")])
def test_what_no_codec_sends(protocol: str, api: str | None) -> None:
    codec = client_codec(protocol, api)
    with pytest.raises(InputError, match="is not streamed"):
        codec.body(SEARCH, stream=True, facts=ModelFacts())
    with pytest.raises(InputError, match="nothing says that it has web search"):
        codec.body(SEARCH, stream=False, facts=ModelFacts(), foreign=True)
    with pytest.raises(InputError, match="from 1 up"):
        codec.body(replace(SEARCH, options={"web_search": 0}), stream=False, facts=ModelFacts())
    if api == "chat":
        with pytest.raises(InputError, match="chat completions, which have no web search"):
            codec.body(SEARCH, stream=False, facts=ModelFacts())
    else:
        assert "tools" in codec.body(SEARCH, stream=False, facts=ModelFacts())
        assert "tools" not in codec.body(replace(SEARCH, options={}), stream=False, facts=ModelFacts())


def test_a_turn_that_pauses_in_its_searches_is_no_answer() -> None:
    paused = {"type": "message", "content": [{"type": "text", "text": "I will"}], "stop_reason": "pause_turn", "usage": {}}
    with pytest.raises(ProviderError, match=r"paused its turn in the middle of its searches\n.*allow fewer searches"):
        client_codec("anthropic").reply(json.dumps(paused).encode(), SEARCH)


def test_a_search_that_was_not_offered_is_refused() -> None:
    """As any other tool call: only a request with web search may be answered with one."""
    said = {
        "type": "message",
        "content": [{"type": "server_tool_use", "id": "a", "name": "web_search", "input": {}}],
        "stop_reason": "end_turn",
    }
    with pytest.raises(ProviderError, match="tool call"):
        client_codec("anthropic").reply(json.dumps(said).encode(), replace(SEARCH, options={}))
    called = {"status": "completed", "output": [{"type": "web_search_call", "id": "a", "status": "completed"}]}
    with pytest.raises(ProviderError, match="tool call"):
        client_codec("openai", "responses").reply(json.dumps(called).encode(), replace(SEARCH, options={}))


JUNK = st.sampled_from([None, True, 1, "text", [], [1], {}, [{}], [["a"]], {"type": 1}, [{"type": "url_citation", "url": 3}]])
KINDS = st.sampled_from(["text", "server_tool_use", "web_search_tool_result", "web_search_call", "message", "output_text", "other", 5])
FIELDS = st.sampled_from(["content", "url", "citations", "annotations", "text", "error_code", "status", "name"])
BLOCKS = st.lists(st.builds(lambda kind, rest: {"type": kind, **rest}, KINDS, st.dictionaries(FIELDS, JUNK)), max_size=4)


@given(BLOCKS | st.lists(JUNK), BLOCKS)
def test_no_answer_of_a_search_is_a_traceback(blocks: list[Any], inner: list[Any]) -> None:
    whole = [*blocks, {"type": "message", "content": inner}, {"type": "web_search_tool_result", "content": inner}]
    for protocol, api, body in (
        ("anthropic", None, {"type": "message", "content": whole, "stop_reason": "end_turn"}),
        ("openai", "responses", {"status": "completed", "output": whole}),
    ):
        with contextlib.suppress(PromptsmithError):
            client_codec(protocol, api).reply(json.dumps(body).encode(), SEARCH)
