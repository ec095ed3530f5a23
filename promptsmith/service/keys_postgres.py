"""Keys in the server registry: one set for the services of many machines."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ..errors import InputError, RegistryError
from ..registry.postgres import rows
from ..registry.postgres.registry import Postgres
from .keys import Key, KeyRing, KeysWarning, Scope, check_free, key_in_force, make_key

if TYPE_CHECKING:
    from psycopg import Connection

_decode = msgspec.json.Decoder(Key).decode
_encode = msgspec.json.Encoder().encode


class KeyTable:
    """The keys in one database. A :class:`promptsmith.service.keys.KeyStore`.

    They are found in memory, which the registry's listener keeps up to date; while the database is out of reach, as they
    were last. Where nobody knows them (a first start without the database) no key is in force, and none is not enough.
    """

    def __init__(self, registry: Postgres) -> None:
        self._registry = registry
        self._seen: tuple[tuple[bytes, ...] | None, KeyRing] = None, KeyRing()
        self._closed = False

    def keys(self) -> tuple[Key, ...]:
        """All keys, revoked ones too, oldest first. Raises :class:`RegistryError` when nobody knows them or one is damaged."""
        known = self._registry.keys()
        if known is None:
            raise RegistryError("the keys are in the registry, which does not answer, and no copy of them is here", retryable=True)
        return _read(known)

    def find(self, secret: str) -> Key | None:
        """The key in force with this secret."""
        return self._ring().find(secret)

    def empty(self) -> bool:
        """Whether there is no key, not even a revoked one, and was none before; not when nobody knows."""
        empty = self._registry.keys() is not None and self._ring().empty
        self._closed |= not empty
        return not self._closed

    def stamp(self) -> object:
        """Differs whenever the keys may have changed."""
        return self._registry.keys()

    def _ring(self) -> KeyRing:
        known = self._registry.keys()
        seen, ring = self._seen
        if known is not seen and known is not None:
            try:
                ring = KeyRing(_read(known))
            except RegistryError as error:
                if seen is None:
                    raise
                warnings.warn(f"{error.message}; the keys that were read last stay in force", KeysWarning, stacklevel=4)
            self._seen = known, ring
        return ring

    def add(
        self,
        name: str,
        *,
        scopes: Sequence[Scope] = ("run",),
        tasks: Sequence[str] = (),
        rpm: int | None = None,
        tokens_per_day: int | None = None,
        usd_per_day: float | None = None,
    ) -> tuple[Key, str]:
        """Adds a key; it and its secret, which is kept nowhere. Raises :class:`InputError`, :class:`RegistryError`."""
        key, secret = make_key(name, scopes=scopes, tasks=tasks, rpm=rpm, tokens_per_day=tokens_per_day, usd_per_day=usd_per_day)
        with self._registry.session() as conn, conn.transaction():
            check_free(name, _held(conn))
            conn.execute("INSERT INTO promptsmith_keys (digest, name, body) VALUES (%s, %s, %s)", (key.digest, key.name, _encode(key)))
        return key, secret

    def revoke(self, name: str) -> Key:
        """Takes the key of this name out of force. Raises :class:`UnknownName`, :class:`RegistryError`."""
        with self._registry.session() as conn, conn.transaction():
            revoked = msgspec.structs.replace(key_in_force(name, _held(conn)), revoked=round(time.time(), 3))
            values = (_encode(revoked), revoked.digest)
            conn.execute("UPDATE promptsmith_keys SET revoked = true, body = %s WHERE digest = %s", values)
        return revoked


def _held(conn: Connection) -> tuple[Key, ...]:
    """All keys, which nobody else changes until the transaction ends."""
    conn.execute("LOCK TABLE promptsmith_keys IN SHARE ROW EXCLUSIVE MODE")
    return _read(rows.keys(conn))


def _read(bodies: tuple[bytes, ...]) -> tuple[Key, ...]:
    try:
        return tuple(map(_decode, bodies))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InputError) as error:
        raise RegistryError(f"the registry holds a damaged key: {error}", hint="remove its row from promptsmith_keys") from None
