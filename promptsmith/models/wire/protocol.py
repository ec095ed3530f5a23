"""What a codec is, and the values that go in and out of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ...canonical import Scalar
from ...catalog.models import ModelFacts
from ...chat import Chunk, Reply, Request, Turn
from ...errors import ProviderError


class CachePlan(msgspec.Struct, frozen=True):
    """Whether the static part of one call is marked for the provider's prompt cache; decided elsewhere.

    ``ttl`` is the lifetime as the provider writes it (empty: its default), ``key`` the routing key (empty: made from
    the request's static identity).
    """

    mark: bool = False
    ttl: str = ""
    key: str = ""


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """A request that somebody else's client sent, in no provider's words."""

    model: str
    system: str = ""
    turns: tuple[Turn, ...] = ()
    parameters: Mapping[str, Scalar] = {}
    """By the names that promptsmith uses (``max_tokens``, ``effort``, ``stop`` …)."""
    schema: str = ""
    """JSON Schema (as JSON text) that the client wants its answer held to, as it sent it."""
    stream: bool = False
    stream_usage: bool = False
    """The client asked for the usage at the end of the stream."""
    user: str = ""
    """Whom the client calls for, as it names them: the same one stays on the same side of a canary."""
    metadata: Mapping[str, str] = {}
    variables: Mapping[str, str] = {}
    """Values for a prompt's input variables (``prompt_variables`` in the body)."""
    unsupported: tuple[str, ...] = ()
    """What the request asks for and promptsmith does not do, in words: to be refused."""
    ignored: tuple[str, ...] = ()
    """Fields, and parts of fields, that change nothing here, by name."""


class StreamDecoder(Protocol):
    """Bytes of a streamed reply become chunks. An answer that was wrapped for its schema comes in one piece."""

    @property
    def done(self) -> bool:
        """Whether the protocol's own end has come: nothing that follows belongs to the reply."""

    def feed(self, data: bytes) -> list[Chunk]:
        """The pieces of text that ``data`` completes. Raises :class:`ProviderError` for errors in the stream."""

    def close(self) -> Reply:
        """The whole reply. Raises :class:`ProviderDown` when the stream ended before the reply did."""

    def so_far(self) -> Reply:
        """What came until now, as an aborted reply: for settling a call that was cut."""


class StreamWriter(Protocol):
    """A streamed reply becomes bytes of the protocol: ``start`` once, then every chunk, the last one with the reply.

    A reply of which nothing came before, as the words of a refusal do, is written whole at the end.
    """

    def start(self) -> bytes: ...

    def chunk(self, chunk: Chunk) -> bytes: ...

    def error(self, status: int, message: str, *, code: str = "") -> bytes:
        """The end of a stream that failed in the middle: what the protocol's own clients raise on."""


class ClientCodec(Protocol):
    """One API as its client has it. Pure: bytes and values in, bytes and values out."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str:
        """What follows the base URL."""

    @property
    def models_path(self) -> str:
        """Where the list of models is: a GET, which costs nothing."""

    def headers(self, api_key: str) -> dict[str, str]:
        """Credentials and version; without ``Authorization`` for an empty key. The content type is the transport's."""

    def body(
        self, request: Request, *, stream: bool, facts: ModelFacts, foreign: bool = False, cache: CachePlan | None = None
    ) -> dict[str, Any]:
        """The request's JSON body, to be read only. Raises :class:`InputError` for parameters that the model does not take.

        ``foreign`` says that the server is another than the protocol's owner: it is sent what the user asked for and
        nothing that it might not know.
        """

    def fitted(self, request: Request, *, facts: ModelFacts, foreign: bool = False) -> Request:
        """``request``, which was meant for another model, without the parameters for which :meth:`body` would raise."""

    def reply(self, data: bytes, request: Request, *, request_id: str = "") -> Reply:
        """The reply in a response's body. Raises :class:`ProviderError`."""

    def stream(self, request: Request, *, request_id: str = "") -> StreamDecoder: ...

    def error(self, status: int, headers: Mapping[str, str], data: bytes, *, provider: str = "") -> ProviderError:
        """The error that a response with a status of 300 or more is."""

    def request_id(self, headers: Mapping[str, str]) -> str:
        """The provider's id of a call, or an empty string."""


class Codec(ClientCodec, Protocol):
    """One wire protocol in both directions. ``schema`` is the JSON Schema (as JSON text) that a written reply is held to."""

    @property
    def reply_ids(self) -> str:
        """What the ids of its replies begin with."""

    def read_request(self, data: bytes) -> Incoming:
        """What a client sent. Raises :class:`InputError` naming the field that is wrong."""

    def write_reply(self, reply: Reply, *, model: str, id: str, created: int = 0, schema: str = "") -> bytes: ...

    def writer(self, *, model: str, id: str, created: int = 0, usage: bool = True, schema: str = "") -> StreamWriter: ...

    def write_error(self, status: int, message: str, *, code: str = "", request_id: str = "") -> bytes: ...
