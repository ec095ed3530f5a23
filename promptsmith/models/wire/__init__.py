"""The wire protocols, as pure functions of bytes and values: what to send, what came back, and the same as a server."""

from __future__ import annotations

from ...errors import InputError
from .failures import retry_after
from .fields import DEFAULT_OUTPUT, cache_key, encode, max_output
from .protocol import CachePlan, ClientCodec, Codec, Incoming, StreamDecoder, StreamWriter

__all__ = [
    "DEFAULT_OUTPUT", "PROTOCOLS", "CachePlan", "ClientCodec", "Codec", "Incoming", "StreamDecoder", "StreamWriter", "cache_key",
    "client_codec", "codec", "encode", "max_output", "retry_after",
]  # fmt: skip

PROTOCOLS = ("anthropic", "openai")


def codec(protocol: str) -> Codec:
    """The codec of a protocol, in both directions. Raises :class:`InputError` for an unknown one."""
    # Imported here, since a process mostly speaks one of them.
    if protocol == "openai":
        from .openai import OpenAI

        return OpenAI()
    if protocol == "anthropic":
        from .anthropic import Anthropic

        return Anthropic()
    raise InputError(f"unknown protocol {protocol!r}", hint=f"the protocols are {' and '.join(PROTOCOLS)}")


def client_codec(protocol: str, api: str | None = None) -> ClientCodec:
    """The codec of an endpoint's calls. ``api`` is one of OpenAI's two, without it chat completions."""
    if protocol == "openai" and api == "responses":
        from .openai_responses import OpenAIResponses

        return OpenAIResponses()
    return codec(protocol)
