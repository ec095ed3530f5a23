"""A prompt with the record of the search that made it, as the cache keeps it."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ...errors import StoreError, TamperedError
from ...prompt import Prompt
from ...store import Store
from .record import FORMAT, SearchRecord


class Kept(NamedTuple):
    """A prompt, how it was named, and its record; ``None`` when it had no search or the record is in another cache."""

    chosen: str
    """Which ref it is and why, for people."""
    origin: str
    """``cache``, ``lock`` …"""
    prompt: Prompt
    record: SearchRecord | None

    def data(self) -> dict[str, Any]:
        """Everything as JSON values: what the prompt carries, and the whole record."""
        head = {"task": self.prompt.task, "id": self.prompt.id, "chosen": self.chosen, "origin": self.origin}
        return {**head, "provenance": msgspec.to_builtins(self.prompt.provenance), "record": msgspec.to_builtins(self.record)}


def put_record(store: Store, record: SearchRecord) -> str:
    """Keeps ``record`` and returns its digest, which the prompt's provenance names."""
    digest = record.digest()
    store.put_search(digest, msgspec.json.encode(record))
    return digest


def record_of(store: Store, prompt: Prompt) -> SearchRecord | None:
    """The record of the search that made ``prompt``, if it is here.

    Raises :class:`TamperedError` when it is not the one that the prompt names, :class:`StoreError` when it is of a later version.
    """
    digest = prompt.provenance.search.record if prompt.provenance.search is not None else ""
    data = store.search(digest) if digest else None
    if data is None:
        return None
    again = "compile the task again with --force; the prompt itself is not touched"
    try:
        version = msgspec.json.decode(data, type=_Version).format
        if version != FORMAT:
            raise StoreError(
                f"the record {digest[:12]} has format {version}, this promptsmith knows {FORMAT}",
                hint="use the promptsmith that compiled it",
            )
        record = msgspec.json.decode(data, type=SearchRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TamperedError(f"the record {digest[:12]} of the search can't be read ({error})", hint=again) from None
    if record.digest() != digest:
        raise TamperedError(f"the record {digest[:12]} of the search does not have this digest: it was changed", hint=again)
    return record


class _Version(msgspec.Struct, frozen=True):
    format: int = FORMAT
