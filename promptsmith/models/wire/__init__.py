"""The wire protocols, as pure functions of bytes and values: what to send, what came back, and the same as a server."""

from __future__ import annotations

from ...errors import InputError
from .failures import retry_after
from .fields import DEFAULT_OUTPUT, cache_key, encode, max_output, read_body
from .protocol import CachePlan, ClientCodec, Codec, Incoming, StreamDecoder, StreamWriter

__all__ = [
    "DEFAULT_OUTPUT", "PROTOCOLS", "CachePlan", "ClientCodec", "Codec", "Incoming", "StreamDecoder", "StreamWriter", "cache_key",
    "client_codec", "codec", "encode", "max_output", "read_body", "retry_after",
]  # fmt: skip

PROTOCOLS = ("anthropic", "openai")


def codec(protocol: str, api: str | None = None) -> Codec:
    """The codec of a protocol, in both directions. ``api`` is one of OpenAI's two, without it chat completions.

    Raises :class:`InputError` for an unknown protocol.
    """
    # Imported here, since a process mostly speaks one of them.
    if protocol == "openai" and api == "responses":
        from .openai_responses import OpenAIResponses

        return OpenAIResponses()
    if protocol == "openai":
        from .openai import OpenAI

        return OpenAI()
    if protocol == "anthropic":
        from .anthropic import Anthropic

        return Anthropic()
    raise InputError(f"unknown protocol {protocol!r}", hint=f"the protocols are {' and '.join(PROTOCOLS)}")


def client_codec(protocol: str, api: str | None = None) -> ClientCodec:
    """The codec of an endpoint's calls (see :func:`codec`)."""
    return codec(protocol, api)
