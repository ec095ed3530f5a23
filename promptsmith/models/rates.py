"""Prices of models, resolved once: the project's own, then those kept from an earlier look-up, then the list's."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ..catalog.prices import Rate, Rates
from ..config import Price

_KEEP_SECONDS = 7 * 86400
_FREE = Rates((Rate(input=0.0, output=0.0),))


class _Kept(msgspec.Struct, frozen=True):
    """One look-up; ``rates`` is ``None`` when the list did not know the model."""

    at: float
    rates: Rates | None


# See chat.py.
msgspec.json.Decoder(_Kept)


class RateTable:
    """The rates of any model. ``path`` keeps list prices for a week, so that a run need not import the price list."""

    def __init__(self, path: Path, own: Mapping[str, Price]) -> None:
        self._path = path
        self._own = own
        self._known: dict[str, Rates | None] = {}

    def find(self, model: str) -> Rates | None:
        """The rates of ``endpoint/model``; ``None`` when nobody knows them."""
        if model not in self._known:
            self._known[model] = self._resolve(model)
        return self._known[model]

    def _resolve(self, model: str) -> Rates | None:
        own = self._own.get(model) or self._own.get(model.partition("/")[0])
        if own is not None:
            return Rates((Rate(input=own.input, output=own.output, cached=own.cached, written=own.written, written_long=own.written_long),))
        if model.startswith("builtin/"):
            return _FREE
        kept = self._kept()
        found = kept.get(model)
        if found is None or time.time() - found.at > _KEEP_SECONDS:
            from ..catalog.prices import list_rates

            found = kept[model] = _Kept(time.time(), list_rates(model))
            self._keep(kept)
        return found.rates

    def _kept(self) -> dict[str, _Kept]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Kept])
        except (OSError, msgspec.MsgspecError):
            # Not there yet, or not readable: the list is asked again.
            return {}

    def _keep(self, kept: Mapping[str, _Kept]) -> None:
        # Only a shortcut: a folder that can't be written costs a look-up per process and nothing else.
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".rates.")
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(kept))
            os.replace(temporary, self._path)
