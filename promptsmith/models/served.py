"""Who serves a model, and so what may be sent there: all that the protocol's owner knows, or only what any server does."""

from __future__ import annotations

import msgspec

from ..catalog.models import ModelFacts, facts
from ..config import Endpoint, Protocol, is_owners

_PROTOCOLS: tuple[Protocol, ...] = ("openai", "anthropic")


def protocol_of(client: object) -> Protocol | None:
    """The protocol that an official client speaks, by the package it is of; ``None`` for what is no such client."""
    packages = {base.__module__.partition(".")[0] for base in type(client).__mro__}
    return next((name for name in _PROTOCOLS if name in packages), None) if hasattr(client, "base_url") else None


def address_of(client: object) -> str:
    """The base URL of an official client."""
    return str(getattr(client, "base_url", ""))


def is_foreign(endpoint: Endpoint, client: object | None = None) -> bool:
    """Whether the server is another than the protocol's owner: then nothing is sent that it might not know.

    The settings say so, else the address to which the calls really go. A cloud (Azure, Bedrock, Vertex) serves the
    owner's models by the owner's protocol and is none.
    """
    if endpoint.foreign is not None:
        return endpoint.foreign
    if client is None:
        return endpoint.is_foreign
    return not _of_cloud(client) and not is_owners(address_of(client), endpoint.protocol)


def served_facts(name: str, endpoint: Endpoint, client: object | None = None) -> ModelFacts:
    """What may be relied on of the model called ``name`` where it is served."""
    model = name.partition("/")[2]
    if is_foreign(endpoint, client):
        # Its name may be an owner's (OPENAI_BASE_URL), what it can do is not.
        return msgspec.structs.replace(facts(name), structured=False, stream_usage=False)
    known = facts(f"{endpoint.protocol}/{model}")
    if client is None or not _of_cloud(client) or endpoint.foreign is False:
        return known
    # Not every cloud knows the newest fields: cache marks, and at Anthropic's clouds output_config.
    return msgspec.structs.replace(known, cache="none", cache_rates=(), structured=known.structured and endpoint.protocol == "openai")


def _of_cloud(client: object) -> bool:
    # Both packages keep their clients for clouds there, and the plain ones elsewhere.
    clouds = tuple(f"{package}.lib." for package in _PROTOCOLS)
    return any(base.__module__.startswith(clouds) for base in type(client).__mro__)
