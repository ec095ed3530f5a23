"""What runs of plans came to, as the cache keeps them and as files hold them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from ..errors import InputError, TamperedError, UnknownName
from ..store import Store
from ..store.plans import AGAIN, read
from .values import Outcome

SHORTEST = 4
"""Digits of a run's key that name it, when no other key begins so."""
_SEALED = b'{"sha256":"'


def as_json(outcome: Outcome) -> bytes:
    """The outcome as JSON. What is no Unicode text (half a surrogate pair that a model wrote) becomes ``?``."""
    try:
        return msgspec.json.encode(outcome)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(outcome), ensure_ascii=False).encode("utf-8", "replace")


def load_outcome(store: Store, run: str) -> Outcome:
    """The run with this key, or whose key alone begins so.

    Raises :class:`UnknownName` when there is none or more than one, :class:`TamperedError` when its file was changed.
    """
    keys = store.runs(run) if len(run) >= SHORTEST else []
    key = run if run in keys else keys[0] if len(keys) == 1 else ""
    data = store.run(key) if key else None
    if data is None:
        if keys:
            raise UnknownName(f"{run!r} begins the keys of {len(keys)} runs", hint=f"one of: {', '.join(keys[:5])}")
        newest = ", ".join(key[:12] for key in store.runs()[:5])
        raise UnknownName(f"no run {run!r} is kept here", hint=f"the newest: {newest}" if newest else "no plan was run with this cache yet")
    return _decoded(data, f"the run {key[:12]}", AGAIN)


def read_outcome(path: Path) -> Outcome:
    """The run in a file: of ``--json``, or of a cache. Raises :class:`InputError`, :class:`TamperedError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    if data.startswith(_SEALED):
        data = read(data, path.stem, str(path))
    try:
        return msgspec.json.decode(data, type=Outcome)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no run of a plan ({error})", hint="give what --json wrote, or the key of a run in the cache") from None


def _decoded(data: bytes, what: str, again: str) -> Outcome:
    try:
        return msgspec.json.decode(data, type=Outcome)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TamperedError(f"{what} can't be read ({error})", hint=again) from None
