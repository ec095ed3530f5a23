"""The project: where it is, and what its ``promptsmith.toml`` (or ``[tool.promptsmith]``) says."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from . import canonical
from .errors import InputError, Problem, SourceError, did_you_mean

CONFIG_NAME = "promptsmith.toml"
DEFAULT_MODEL = "builtin/nearest"
ENVIRONMENT = "PROMPTSMITH_PROJECT"

Protocol = Literal["openai", "anthropic"]
Api = Literal["chat", "responses"]
"""The two APIs of the protocol ``openai``: chat completions and Responses."""


_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Whole = Annotated[int, msgspec.Meta(ge=0)]
_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]  # without the upper end, inf would be one


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings refuse keys that do not exist: a misspelled one would silently do nothing."""


class Models(_Section, frozen=True):
    """Which models tasks use that name none."""

    production: _Name = DEFAULT_MODEL
    meta: str = ""
    conductor: str = ""
    """Who plans and puts results together; empty: the meta-model."""


class CompileSettings(_Section, frozen=True):
    """Defaults of ``compile``; ``example_tokens`` bounds the examples inside a prompt.

    A search that may cost more than ``confirm_usd`` is to be confirmed.
    """

    level: Annotated[int, msgspec.Meta(ge=0, le=3)] | None = None
    seed: _Whole = 0
    example_tokens: _Whole = 6000
    confirm_usd: _Amount = 1.0


class CacheSettings(_Section, frozen=True):
    """The cache folder (relative to the project) and how long replies and finished journals stay."""

    folder: _Name = "cache"
    reply_days: _Amount = 30.0
    reply_megabytes: _Amount = 1024.0

    @property
    def reply_seconds(self) -> float:
        return self.reply_days * 86400

    @property
    def reply_bytes(self) -> int:
        return int(self.reply_megabytes * 2**20)


class Limit(_Section, frozen=True):
    """What one model is asked at most at a time; ``timeout`` in seconds for one attempt.

    ``deadline`` is in seconds for a call with all its attempts and the waits between them: twice the timeout unless set.

    ``rpm`` and ``tpm`` are requests and tokens (input and output) a minute; without them only the provider's 429 limits.
    """

    concurrency: Annotated[int, msgspec.Meta(ge=1)] = 64
    timeout: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 120.0
    deadline: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    rpm: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    tpm: Annotated[float, msgspec.Meta(gt=0, le=1e12)] | None = None


_Fault = tuple[str, str, str]
"""The key whose value is of the right kind and can't work, what is wrong with it, what would be right."""
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name (RFC 9110, 5.6.2)."""
_PORTS = {"http": 80, "https": 443}


def _endpoint_faults(values: Mapping[str, Any]) -> Iterator[_Fault]:
    if values.get("api") and values.get("protocol") == "anthropic":
        yield "api", "api chooses between the two APIs of the protocol openai, and the protocol anthropic has only its own", "leave api out"
    if values.get("base_url") and not _origin(values["base_url"]):  # which may have a password in it, so it is not repeated
        yield "base_url", "base_url is no http:// or https:// address", "it looks like http://localhost:8000/v1"


def _service_faults(values: Mapping[str, Any]) -> Iterator[_Fault]:
    cert, key = values.get("tls_cert"), values.get("tls_key")
    if bool(cert) != bool(key):
        yield "tls_cert" if cert else "tls_key", "tls_cert and tls_key belong together, and only one is set", "set both, or neither"
    for one in values.get("cors", ()):
        if one == "*":
            yield "cors", "cors = '*' would let the pages of every site spend money here", "name each origin: https://app.example.com"
        elif not _ORIGIN.fullmatch(one) or _origin(one) != one:
            likely = _origin(one if "://" in one else f"https://{one}")
            right = f"write {likely!r}" if _ORIGIN.fullmatch(likely) else "https://app.example.com is one: a scheme, a host, maybe a port"
            yield "cors", f"cors: {one!r} is no origin as browsers send it", right
    header = values.get("sticky_header")
    if header and not _TOKEN.fullmatch(header):
        yield "sticky_header", f"sticky_header: {header!r} can't be a header's name", "letters, digits and '-': x-promptsmith-sticky"


def _origin(url: str) -> str:
    """The origin of an address, as browsers write it (RFC 6454, 6.2); empty for what is none over HTTP."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    if parts.scheme not in _PORTS or not host:
        return ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


def _check(section: msgspec.Struct, faults: Iterator[_Fault]) -> None:
    """Nothing. Raises :class:`InputError` for the first of the faults."""
    for _, what, right in faults:
        raise InputError(f"{type(section).__name__.lower()}: {what}", hint=right)


class Endpoint(_Section, frozen=True):
    """A server that speaks one of the two protocols; its models are called ``<its name>/<model>``.

    ``api_key_env`` names the variable that holds its key. ``transport``: ``direct`` (our own client), ``sdk`` (the
    official one), or ``auto``: production calls direct, the meta-model's by the SDK. ``foreign`` says whether the server
    is another than the protocol's owner; without it the address decides. ``api`` is which of OpenAI's two APIs is
    called: chat completions unless set. Raises :class:`InputError` for an ``api`` of another protocol, and for a
    ``base_url`` that is no address.
    """

    protocol: Protocol
    base_url: str = ""
    api_key_env: str = ""
    transport: Literal["auto", "direct", "sdk"] = "auto"
    foreign: bool | None = None
    api: Api | None = None

    def __post_init__(self) -> None:
        _check(self, _endpoint_faults(msgspec.structs.asdict(self)))

    def url(self) -> str:
        """The base URL: the one set here, else the one in the protocol's own variable, else its owner's."""
        variable, owner = _ADDRESSES[self.protocol]
        return self.base_url or os.environ.get(variable) or owner

    @property
    def is_foreign(self) -> bool:
        """Whether the server is another than the protocol's owner."""
        return not is_owners(self.url(), self.protocol) if self.foreign is None else self.foreign


_ADDRESSES: Mapping[Protocol, tuple[str, str]] = {
    "openai": ("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    "anthropic": ("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
}


def is_owners(url: str, protocol: Protocol) -> bool:
    """Whether ``url`` is at the protocol's owner."""
    try:
        return urlsplit(url).hostname == urlsplit(_ADDRESSES[protocol][1]).hostname
    except ValueError:  # it is no address at all, which whoever calls it says
        return False


ENDPOINTS = {
    "openai": Endpoint(protocol="openai", api_key_env="OPENAI_API_KEY"),
    "anthropic": Endpoint(protocol="anthropic", api_key_env="ANTHROPIC_API_KEY"),
}
"""The endpoints that every project has; one of the same name in its settings takes their place."""


class Price(_Section, frozen=True):
    """US dollars per million tokens of a model (or of all of an endpoint) that the price list does not know, or has wrong."""

    input: _Amount
    output: _Amount
    cached: _Amount | None = None
    written: _Amount | None = None
    written_long: _Amount | None = None


class ExpertSettings(_Section, frozen=True):
    """What stands in the settings about the experts of one name, whichever plan they are in."""

    model: str = ""
    """Who plays the role; empty: whom the plan names."""


class Service(_Section, frozen=True):
    """``promptsmith serve``. Times in seconds, sizes in KiB.

    ``client_system`` says what becomes of a client's own system message: it is refused, or appended to the prompt.
    """

    host: _Name = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8337
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    keys: _Name = "promptsmith.keys"
    """The file of hashed keys, relative to the project."""
    client_system: Literal["refuse", "append"] = "refuse"
    body_kib: Annotated[int, msgspec.Meta(ge=1, le=2**20)] = 4096
    body_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    """How long a client may take to send its request."""
    header_kib: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    idle_seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 75.0
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=10**6)] = 1024
    """Requests at a time in one worker; more are refused with 503 and a Retry-After."""
    answer_seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 900.0
    """How long one request may take in all, a slow reader's time included."""
    drain_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 30.0
    """How long a worker that is told to end lets its requests finish."""
    tls_cert: str = ""
    tls_key: str = ""
    cors: tuple[str, ...] = ()
    """Origins whose pages may call; empty: none."""
    sticky_header: _Name = "x-promptsmith-sticky"
    """Whose value keeps a caller on the same side of a canary."""

    def __post_init__(self) -> None:
        _check(self, _service_faults(msgspec.structs.asdict(self)))


class Config(_Section, frozen=True):
    """All settings of a project."""

    models: Models = Models()
    compile: CompileSettings = CompileSettings()
    cache: CacheSettings = CacheSettings()
    limits: dict[str, Limit] = {}
    endpoints: dict[str, Endpoint] = {}
    prices: dict[str, Price] = {}
    experts: dict[str, ExpertSettings] = {}
    workers: dict[str, dict[str, Any]] = {}
    """By name. What else a section may hold is decided by its ``kind`` (see :func:`own_section`)."""
    service: Service = Service()
    registry: str = ""
    """Where promoted prompts live besides the lock: ``postgresql://…``; empty: in the lock alone."""
    evals: _Name = "evals"
    lock: _Name = "promptsmith.lock"
    protected: tuple[str, ...] = ("production",)

    def catalog_name(self, model: str) -> str:
        """What the catalog calls ``model``: by its owner's name where an endpoint of another name serves the owner's models."""
        head, _, rest = model.partition("/")
        endpoint = self.endpoints.get(head)
        return model if endpoint is None or endpoint.is_foreign else f"{endpoint.protocol}/{rest}"

    def limit(self, model: str) -> Limit:
        """The limit of ``model``, of its endpoint, or the default."""
        return self.limits.get(model) or self.limits.get(model.partition("/")[0]) or Limit()

    def build_defaults(self) -> str:
        """Digest of the settings that tasks build with when they say nothing themselves."""
        return canonical.digest(
            {
                "production": self.models.production,
                "meta": self.models.meta,
                "level": str(self.compile.level),
                "seed": str(self.compile.seed),
                "example_tokens": str(self.compile.example_tokens),
            }
        )


# See chat.py.
msgspec.json.Decoder(Config)


_TABLES: dict[str, type[msgspec.Struct]] = {"limits": Limit, "endpoints": Endpoint, "prices": Price, "experts": ExpertSettings}
"""Sections whose keys are the user's own, and what stands under each."""


class Project(msgspec.Struct, frozen=True):
    """A project's folders. ``file`` is ``None`` outside any project: then only tasks made in Python work."""

    root: Path
    config: Config = Config()
    file: Path | None = None

    @property
    def evals(self) -> Path:
        return self.root / self.config.evals

    @property
    def cache(self) -> Path:
        return self.root / self.config.cache.folder

    @property
    def lock(self) -> Path:
        return self.root / self.config.lock

    def task_file(self, name: str) -> Path:
        """The file of a task. Raises :class:`InputError` for a name that leads out of the folder."""
        check_task_name(name)
        return self.evals / f"{name}.yaml"

    def task_names(self) -> list[str]:
        """The names of all task files, sorted."""
        return sorted(path.relative_to(self.evals).with_suffix("").as_posix() for path in self.evals.rglob("*.yaml"))

    def relative(self, path: Path) -> str:
        """``path`` as the project names it, with forward slashes."""
        return Path(os.path.relpath(path, self.root)).as_posix()


_TASK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def check_task_name(name: str) -> str:
    """Itself. Raises :class:`InputError` for what can't be a task's name."""
    if not _TASK_NAME.fullmatch(name):
        raise InputError(
            f"{name!r} can't be a task's name",
            hint="a task's name is its path below evals/ without .yaml: letters, digits, '_', '-' and '.', parts joined by '/'",
        )
    return name


def find_project(explicit: str | os.PathLike[str] | None = None) -> Project:
    """The project at ``explicit``, at ``PROMPTSMITH_PROJECT``, or the nearest from the current folder upwards.

    Without any, a project with no file whose cache lies in the user's cache folder. Raises :class:`InputError`
    when a named folder is no project, :class:`SourceError` when its settings are wrong.
    """
    named = explicit or os.environ.get(ENVIRONMENT)
    if named:
        root = Path(named).expanduser().resolve()
        project = _project_at(root)
        if project is None:
            raise InputError(
                f"{root} is no promptsmith project: it has neither {CONFIG_NAME} nor [tool.promptsmith] in pyproject.toml",
                hint=f"make one with: promptsmith init {root}",
            )
        return project
    here = Path.cwd()
    project = project_above(here)
    if project is not None:
        return project
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Project(root=here, config=Config(cache=CacheSettings(folder=str(base / "promptsmith"))))


def project_above(folder: Path) -> Project | None:
    """The nearest project from ``folder`` upwards. Raises :class:`SourceError` when its settings are wrong."""
    return next(filter(None, map(_project_at, (folder, *folder.parents))), None)


def _project_at(folder: Path) -> Project | None:
    own = folder / CONFIG_NAME
    if own.is_file():
        return Project(folder, read_config(own), own)
    shared = folder / _SHARED
    if shared.is_file() and _names_us(shared):
        return Project(folder, read_config(shared), shared)
    return None


_SHARED = "pyproject.toml"
_TABLE = ("tool", "promptsmith")


def _names_us(shared: Path) -> bool:
    """Whether a pyproject.toml has our table; one that is no TOML is read on when it looks as if, for the error's sake."""
    try:
        data = shared.read_bytes()
        if b"promptsmith" not in data:
            return False
        tool = tomllib.loads(data.decode("utf-8-sig")).get("tool")
    except OSError:
        return False
    except (ValueError, RecursionError):
        return b"[tool.promptsmith" in data
    return isinstance(tool, dict) and "promptsmith" in tool


def read_config(path: Path) -> Config:
    """The settings in ``path``. Raises :class:`SourceError` with every mistake and its line."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
        values: Any = tomllib.loads(text)
    except OSError as error:
        raise SourceError([Problem(str(path), 0, f"can't be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError([Problem(str(path), line, f"is not UTF-8 (byte {error.start})", "save it as UTF-8")]) from None
    except (ValueError, RecursionError) as error:  # tomllib lets those of overlong numbers and deep lists through
        raise SourceError([Problem(str(path), _line_of_error(error, text), f"is not TOML: {error}")]) from None
    for name in _table(path):
        values = values.get(name, {})
    return _converted(values, Config, (), path, text)


_Settings = TypeVar("_Settings", bound=msgspec.Struct)


def own_section(project: Project, steps: tuple[str, ...], values: Any, kind: type[_Settings]) -> _Settings:
    """A section whose keys another part of promptsmith knows, as a ``kind``.

    ``steps`` are the keys that lead to it. Raises :class:`SourceError` with every mistake and its line.
    """
    path = project.file or project.root / CONFIG_NAME
    return _converted(values, kind, steps, path, _read_again(path))


def section_problem(project: Project, steps: tuple[str, ...], what: str, right: str) -> Problem:
    """A mistake below ``steps`` in the project's settings, with its line."""
    path = project.file or project.root / CONFIG_NAME
    return Problem(str(path), _Lines(_read_again(path)).line((*_table(path), *steps)), what, right)


def _read_again(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""  # only the lines of mistakes are lost


def _table(path: Path) -> tuple[str, ...]:
    return _TABLE if path.name == _SHARED else ()


def _converted(values: Any, kind: type[_Settings], steps: tuple[str, ...], path: Path, text: str) -> _Settings:
    try:
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, InputError) as error:
        # msgspec stops at the first mistake; people want all of them.
        where = _Lines(text)
        found = list(_mistakes(values, kind, steps)) or [(steps, str(error), "")]
        raise SourceError(Problem(str(path), where.line((*_table(path), *at)), what, right) for at, what, right in found) from None


def _line_of_error(error: Exception, text: str) -> int:
    found = re.search(r"line (\d+)", str(error))
    if found is None:
        return text.count("\n") + 1 if isinstance(error, tomllib.TOMLDecodeError) else 0
    return int(found[1])


_Mistake = tuple[tuple[str, ...], str, str]
"""The keys that lead to it, what is wrong, what would be right."""


def _mistakes(value: Any, kind: Any, steps: tuple[str, ...]) -> Iterator[_Mistake]:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    if not isinstance(value, dict):
        yield steps, f"{'.'.join(steps)} is no table", f"its keys are {', '.join(fields)}"
        return
    for key, child in value.items():
        here = (*steps, key)
        field = fields.get(key)
        if field is None:
            section = f"[{'.'.join(steps)}]" if steps else "the top level"
            yield here, f"unknown key {key!r} in {section}", did_you_mean(key, fields) or f"the keys are {', '.join(fields)}"
        elif isinstance(field, type) and issubclass(field, msgspec.Struct):
            yield from _mistakes(child, field, here)
        elif key in _TABLES and isinstance(child, dict):
            for name, table in child.items():
                yield from _mistakes(table, _TABLES[key], (*here, name))
        else:
            yield from _wrong_value(child, field, here)
    if kind in _FAULTS:
        # Of a value of the wrong kind that has been said, and no more can be.
        fit = {key: child for key, child in value.items() if key in fields and not [*_wrong_value(child, fields[key], ())]}
        yield from (((*steps, key), f"{'.'.join(steps)}: {what}", right) for key, what, right in _FAULTS[kind](fit))


def _wrong_value(value: Any, kind: Any, steps: tuple[str, ...]) -> Iterator[_Mistake]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        yield steps, f"{'.'.join(steps)}: {error}", ""


_FAULTS: dict[type[msgspec.Struct], Callable[[Mapping[str, Any]], Iterator[_Fault]]] = {
    Endpoint: _endpoint_faults,
    Service: _service_faults,
}


_KEY = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\.)?""")


class _Lines:
    """Where the keys of a TOML text stand, by reading it as people write it (tomllib tells no lines)."""

    def __init__(self, text: str) -> None:
        self._found: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.split("\n"), 1):
            start = line.lstrip()
            if start.startswith("["):
                table = _dotted(start.lstrip("["))
                self._note(table, number)
            elif "=" in start and not start.startswith("#"):
                self._note((*table, *_dotted(start)), number)

    def _note(self, steps: tuple[str, ...], number: int) -> None:
        for length in range(1, len(steps) + 1):
            self._found.setdefault(steps[:length], number)

    def line(self, steps: tuple[str, ...]) -> int:
        """The line of the key, else of the nearest one around it; 0 when there is none."""
        while steps and steps not in self._found:
            steps = steps[:-1]
        return self._found.get(steps, 0)


def _dotted(text: str) -> tuple[str, ...]:
    """The parts of the dotted key that ``text`` begins with."""
    parts: list[str] = []
    while found := _KEY.match(text):
        parts.append(found[1] or found[2] or found[3] or "")
        text = text[found.end() :]
        if not found[4]:
            break
    return tuple(parts)
