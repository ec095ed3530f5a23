"""Who comes in: keys, what they may do, and how much of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import PromptsmithError, did_you_mean
from ..registry.resolve import Resolver
from .keys import Key, KeyStore, Scope, allowed
from .refusals import Refusal
from .visit import Visit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .quotas import Quotas


class Door:
    """Where no key was ever made everybody comes in, which the service allows on the loopback only.

    ``closed``: a key is asked for even if there is none (any more).
    """

    def __init__(self, keys: KeyStore, quotas: Quotas, *, closed: bool = False) -> None:
        self._keys, self._quotas, self._closed = keys, quotas, closed

    def key(self, headers: Mapping[str, str]) -> Key | None:
        """The key that a request brings; ``None`` where none is asked for. Raises :class:`Refusal` with status 401."""
        secret = secret_in(headers)
        if not secret:
            if self.open():
                return None
            raise Refusal(
                401, "no key came with the request", code="no_key", hint="send 'Bearer <key>' as Authorization, or the key as x-api-key"
            )
        found = self._keys.find(secret)
        if found is None and not self.open():
            raise Refusal(401, "the key is not known here, or was revoked", code="wrong_key", hint="promptsmith keys list shows the keys")
        return found

    def enter(self, headers: Mapping[str, str], visit: Visit, scope: Scope) -> None:
        """Lets a request in. Raises :class:`Refusal`: 401 without a key, 403 for one that may not, 429 for one that may not now."""
        visit.key = key = self.key(headers)
        if key is None:
            return
        if not allowed(key, scope):
            raise Refusal(403, f"the key {key.name!r} may not do this: it lacks the scope {scope!r}", code="not_allowed")
        if scope == "run":
            self.count(key)

    def look(self, headers: Mapping[str, str], visit: Visit) -> Scope:
        """Lets in whoever has a key, to see what there is to call; the scope to see it with. Raises :class:`Refusal` with status 401."""
        visit.key = key = self.key(headers)
        return "run" if key is None or allowed(key, "run") else "read"

    def open(self) -> bool:
        """Whether no key is asked for: none was ever made."""
        return not self._closed and self._keys.empty()

    def count(self, key: Key | None) -> None:
        """Counts a call for its key. Raises :class:`Refusal` with status 429 when that is one too many."""
        refused = self._quotas.admit(key, time.time()) if key is not None else None
        if refused is not None:
            raise Refusal(429, refused.words, code=refused.code, retry_after=refused.retry_after)

    @staticmethod
    def check_price(key: Key | None, model: str, known: bool) -> None:
        """Nothing. Raises :class:`Refusal` where a limit in dollars could not be kept."""
        if key is not None and key.usd_per_day is not None and not known:
            raise Refusal(
                403,
                f"the key {key.name!r} has a limit in dollars, and the price of {model} is not known",
                code="price_unknown",
                hint=f"set it: [prices.'{model}'] input and output",
            )

    @staticmethod
    def allows(key: Key | None, task: str, scope: Scope = "run") -> bool:
        """Whether the key may call the task; without a key everybody may."""
        return key is None or allowed(key, scope, task)

    def settle(self, visit: Visit) -> None:
        """Counts what the request came to for its key."""
        if visit.key is not None and visit.source in ("model", "builtin"):  # a builtin model may come after one that was paid
            tokens = visit.usage.input + visit.usage.output or visit.guess
            self._quotas.settle(visit.key, tokens, visit.cost or visit.guess_cost, time.time())

    def unknown(self, error: PromptsmithError, ref: str, key: Key | None, resolver: Resolver) -> Refusal:
        """The refusal of a model's name. It names what this key may call and nothing else."""
        if key is None or not key.tasks:
            return Refusal(404, error.message, code="model_not_found", hint=error.hint)
        mine = [task for task in resolver.tasks() if self.allows(key, task)]
        near = did_you_mean(ref.partition("@")[0][:200], mine)
        if ref.partition("@")[0] in mine:
            return Refusal(404, error.message, code="model_not_found")
        return Refusal(
            404, f"unknown task {ref[:200]!r}", code="model_not_found", hint=near or f"this key may call {', '.join(mine) or 'nothing'}"
        )


def secret_in(headers: Mapping[str, str]) -> str:
    """The key in a request's headers, in the manner of either protocol; empty without one."""
    value = headers.get("authorization")
    if value:
        scheme, _, secret = value.partition(" ")
        if scheme.lower() == "bearer":
            return secret.strip()
    return headers.get("x-api-key", "").strip()
