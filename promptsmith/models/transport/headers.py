"""What may stand in a header, and what an answer's headers say of a call that then failed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...errors import InputError, ProviderError
from ..waiting import named

_UNSENDABLE = re.compile(r"[^\t\x20-\x7e]")


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises :class:`InputError` for what would end a header early, or could not be written into one."""
    for name, value in headers.items():
        if _UNSENDABLE.search(value) or _UNSENDABLE.search(name):
            # Not shown: it is most often the key.
            raise InputError(
                f"the header {name!r} can't be sent: it has a line break, or another character that headers can't carry, in it",
                hint="the key was probably read with a line break at its end, or copied with something around it; nothing was sent",
            )


def answered(error: BaseException, status: int, headers: Mapping[str, str], provider: str = "") -> None:
    """Notes in ``error``, which ended a call after an answer had begun, which answer it was."""
    request_id = headers.get("request-id") or headers.get("x-request-id") or ""
    if isinstance(error, ProviderError):
        error.provider = error.provider or provider
        error.status = error.status or status
        error.request_id = error.request_id or request_id
    else:
        named(error, request_id)
