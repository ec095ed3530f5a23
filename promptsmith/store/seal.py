"""A digest in front of stored bytes, so that damage is seen at the next read.

It shows damage and exchanged rows, not forgery: whoever can write the file can write a new digest. The prompt's
own id is the stronger check, review of the lock in git the defence.
"""

from __future__ import annotations

import hashlib

from ..errors import TamperedError


def seal(body: bytes, key: str = "") -> bytes:
    """sha256 (64 hex digits) of ``key`` and ``body``, a line end, and ``body``."""
    return f"{_digest(body, key)}\n".encode() + body


def unseal(data: object, what: str, key: str = "") -> bytes:
    """The body of sealed ``data``. Raises :class:`TamperedError` naming ``what``."""
    if isinstance(data, bytes) and data[64:65] == b"\n":
        body = data[65:]
        if data[:64] == _digest(body, key).encode():
            return body
    raise TamperedError(f"{what} does not match its digest: it was changed after it was stored")


def _digest(body: bytes, key: str) -> str:
    state = hashlib.sha256(key.encode("utf-8", "surrogatepass"))
    state.update(body)
    return state.hexdigest()
