"""The models that an endpoint says it has: a call that costs nothing and shows whether address and key are right."""

from __future__ import annotations

from ..config import Endpoint
from .transport.direct import Direct
from .wire import codec
from .wire.fields import at, decode

_SECONDS = 10.0
_NO_LIST = frozenset({404, 405, 501})


async def listed_models(name: str, endpoint: Endpoint, key: str) -> list[str] | None:
    """Names as the endpoint has them, ``None`` where it has no such list. Raises :class:`ProviderError` and its kin."""
    wire = codec(endpoint.protocol)
    transport = Direct(endpoint.url(), endpoint.protocol, provider=name)
    try:
        answer = await transport.get(wire.models_path, wire.headers(key), timeout=_SECONDS)
    finally:
        await transport.close()
    if answer.status in _NO_LIST:
        return None
    if answer.status >= 300:
        raise wire.error(answer.status, answer.headers, answer.data, provider=name)
    try:
        rows = at(decode(answer.data), "data")
    except ValueError:
        return None
    return [row["id"] for row in rows if isinstance(at(row, "id"), str)] if isinstance(rows, list) else None
