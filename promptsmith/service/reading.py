"""A client's body, within limits of size and time."""

from __future__ import annotations

from ..config import Service
from ..models.waiting import Late, within
from .http import Body, Request
from .refusals import Refusal
from .visit import Visit


async def body(request: Request, settings: Service, visit: Visit) -> bytes:
    """The whole body. Raises :class:`Refusal` for one that is too large, too slow or compressed."""
    most = settings.body_kib * 1024
    length = request.content_length
    if length is not None and length > most:
        raise _too_large(settings)
    encoding = request.headers.get("content-encoding")
    if encoding and encoding.lower() != "identity":
        raise Refusal(
            415, f"a body with content-encoding {encoding[:40]!r} is not read", code="unsupported_encoding", hint="send it uncompressed"
        )
    content = request.content
    if content.is_eof():
        # It came with its headers, as nearly all do.
        data = content.read_nowait() if content.total_bytes else b""
        if len(data) > most:
            raise _too_large(settings)
        return data
    try:
        return await visit.wait(within(settings.body_seconds, _collected(content, most, settings)))
    except Late:
        raise Refusal(408, f"the request did not arrive within {settings.body_seconds:g} seconds", code="request_timeout") from None


async def _collected(content: Body, most: int, settings: Service) -> bytes:
    pieces, size = [], 0
    while piece := await content.readany():
        size += len(piece)
        if size > most:
            raise _too_large(settings)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(settings: Service) -> Refusal:
    return Refusal(
        413, f"the request is larger than {settings.body_kib} KiB", code="request_too_large", hint="[service] body_kib sets the limit"
    )
