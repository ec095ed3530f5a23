"""Keys of the service: who may do what, and how much of it. Only the digest of a key's secret is kept."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

import msgspec

from ..config import check_task_name
from ..errors import InputError, Problem, SourceError, UnknownName, did_you_mean
from ..registry.writing import cannot, exclusive
from ..store.counters import MOST_USD
from ..store.whole import drafted

Scope = Literal["run", "read", "admin"]
"""``run``: call prompts. ``read``: look at pages, figures and reports. ``admin``: both, and move aliases."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "ps_"
_SECRET_LENGTH = len(PREFIX) + 43
"""Of 32 bytes in URL-safe base64."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST = 10**15


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A key: its name, what it may do, its limits (``None``: none), and the SHA-256 of its secret in hex.

    ``tasks`` are names of tasks, or beginnings like ``support/*``; empty means all. ``rpm`` are requests in any 60 seconds,
    the others count by the UTC day. ``created`` and ``revoked`` are Unix times. Raises :class:`InputError` for what can't be
    a key.
    """

    name: str
    digest: str
    created: float
    scopes: tuple[Scope, ...] = ("run",)
    tasks: tuple[str, ...] = ()
    rpm: int | None = None
    tokens_per_day: int | None = None
    usd_per_day: float | None = None
    revoked: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"{self.name!r} can't be a key's name", hint="1 to 64 letters, digits, '_', '-', '.' and '@'")
        if not _DIGEST.fullmatch(self.digest):
            raise InputError("the digest of a key's secret is 64 hex digits")
        if not self.scopes or not set(self.scopes) <= set(SCOPES):
            raise InputError(f"the key {self.name} has the scopes {list(self.scopes)}", hint=f"one or more of: {', '.join(SCOPES)}")
        for pattern in self.tasks:
            check_task_name(pattern.removesuffix("/*"))
        for field, most in (("rpm", _MOST), ("tokens_per_day", _MOST), ("usd_per_day", MOST_USD)):
            value = getattr(self, field)
            if value is not None and not 0 < value <= most:  # nan is not larger than 0 either
                raise InputError(f"a limit of {value} {field} can't be kept", hint=f"more than 0, up to {most:g}, or no limit")

    @property
    def limited(self) -> bool:
        """Whether there is any limit to keep."""
        return self.rpm is not None or self.tokens_per_day is not None or self.usd_per_day is not None


_decode = msgspec.json.Decoder(Key).decode
_encode = msgspec.json.Encoder().encode


def allowed(key: Key, scope: Scope, task: str | None = None) -> bool:
    """Whether ``key`` may do what ``scope`` says, with ``task`` where it is about one."""
    if scope not in key.scopes and "admin" not in key.scopes:
        return False
    return task is None or not key.tasks or any(_covers(pattern, task) for pattern in key.tasks)


def _covers(pattern: str, task: str) -> bool:
    return task.startswith(pattern[:-1]) if pattern.endswith("/*") else task == pattern


class KeyRing:
    """The keys in force, by the digest of their secret. ``empty``: whether there are none, not even revoked ones."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self.empty = not keys
        self._keys = {key.digest: key for key in keys if key.revoked is None}

    def find(self, secret: str) -> Key | None:
        """The key with this secret, unless there is none or it was revoked.

        What is looked up is the SHA-256 of 256 random bits, so how long it takes says nothing about any secret, and no
        secret stays in memory.
        """
        if len(secret) != _SECRET_LENGTH or not secret.isascii():
            return None
        digest = hashlib.sha256(secret.encode()).hexdigest()
        key = self._keys.get(digest)
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None


class KeyStore(Protocol):
    """Where keys are kept: in a file of this machine, or in a database for many."""

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
        """Makes a key; it and its secret, which is kept nowhere. Raises :class:`InputError` when its name is taken or it can't be one."""

    def keys(self) -> tuple[Key, ...]:
        """All keys, revoked ones too, oldest first. Raises what is wrong with where they are kept."""

    def revoke(self, name: str) -> Key:
        """Takes the key of this name out of force. Raises :class:`UnknownName` when there is none in force."""

    def find(self, secret: str) -> Key | None:
        """The key in force with this secret."""

    def empty(self) -> bool:
        """Whether there is no key, not even a revoked one, and was none before: what was closed once does not open by itself."""

    def stamp(self) -> object:
        """Differs whenever the keys may have changed."""


def make_key(
    name: str,
    *,
    scopes: Sequence[Scope] = ("run",),
    tasks: Sequence[str] = (),
    rpm: int | None = None,
    tokens_per_day: int | None = None,
    usd_per_day: float | None = None,
) -> tuple[Key, str]:
    """A new key and its secret. Raises :class:`InputError` for what can't be a key."""
    secret = PREFIX + secrets.token_urlsafe(32)
    key = Key(
        name=name,
        digest=hashlib.sha256(secret.encode()).hexdigest(),
        created=round(time.time(), 3),
        scopes=tuple(dict.fromkeys(scopes)),
        tasks=tuple(dict.fromkeys(tasks)),
        rpm=rpm,
        tokens_per_day=tokens_per_day,
        usd_per_day=usd_per_day,
    )
    return key, secret


def check_free(name: str, keys: Iterable[Key]) -> None:
    """Raises :class:`InputError` when a key in force has this name."""
    if any(key.name == name and key.revoked is None for key in keys):
        raise InputError(f"there is a key {name!r} already", hint=f"take another name, or first: promptsmith keys revoke {name}")


def key_in_force(name: str, keys: Sequence[Key]) -> Key:
    """The key of this name. Raises :class:`UnknownName` when there is none, or when it was revoked."""
    for key in keys:
        if key.name == name and key.revoked is None:
            return key
    if any(key.name == name for key in keys):
        raise UnknownName(f"the key {name!r} is revoked already")
    in_force = [key.name for key in keys if key.revoked is None]
    raise UnknownName(f"there is no key {name!r}", hint=did_you_mean(name, in_force) or "see: promptsmith keys list")


class KeysWarning(UserWarning):
    """The keys file is damaged; the keys that were read last stay in force."""


Stamp = tuple[int, int, int]
_ABSENT: Stamp = (0, 0, 0)


class KeyFile:
    """The keys in the file ``path``: a line of JSON each, readable for its owner only.

    A file that is not there holds no keys. What is found in it is looked up again whenever it changes: one ``stat`` for
    each :meth:`find`. A :class:`KeyStore`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.abspath(path))
        self._file = str(self.path)
        self._seen: tuple[Stamp | None, KeyRing] = None, KeyRing()

    def keys(self) -> tuple[Key, ...]:
        """All keys, revoked ones too, in the order in which they were added.

        Raises :class:`SourceError` naming each line that is no key, :class:`InputError` when the file can't be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise InputError(f"the keys file {self.path} can't be read: {error.strerror}") from None
        return _read(data, self.path.name)

    def find(self, secret: str) -> Key | None:
        """The key in force with this secret.

        When the file is damaged, the keys that were read last stay in force, with one :class:`KeysWarning`; if there were
        none, raises as :meth:`keys` does.
        """
        return self._current().find(secret)

    def empty(self) -> bool:
        """Whether there is no key, not even a revoked one, and was none before. Raises as :meth:`find`.

        So a service that was started with keys lets nobody in when their file is removed.
        """
        return self._current().empty

    def stamp(self) -> Stamp:
        """Time, inode and size of the file, all zero when there is none: one ``stat``."""
        try:
            status = os.stat(self._file)
        except OSError:
            return _ABSENT
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _current(self) -> KeyRing:
        stamp, ring = self._seen
        if stamp is None or stamp != self.stamp():
            ring = self._read_again(ring, first=stamp is None)
        return ring

    def _read_again(self, old: KeyRing, *, first: bool) -> KeyRing:
        # Before the file: what changes while it is read is read again the next time.
        stamp = self.stamp()
        try:
            ring = KeyRing(self.keys())
        except (SourceError, InputError) as error:
            if first:
                raise
            self._seen = stamp, old
            warnings.warn(f"{error.message}; the keys that were read last stay in force", KeysWarning, stacklevel=4)
            return old
        ring.empty &= old.empty
        self._seen = stamp, ring
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
        """Adds a key; it and its secret, which is kept nowhere.

        Raises :class:`InputError` when its name is taken or it can't be a key, :class:`SourceError` when the file is
        damaged, :class:`LockError` when it can't be written.
        """
        key, secret = make_key(name, scopes=scopes, tasks=tasks, rpm=rpm, tokens_per_day=tokens_per_day, usd_per_day=usd_per_day)
        with exclusive(self.path) as target:
            keys = self.keys()
            check_free(name, keys)
            _write(target, (*keys, key))
        return key, secret

    def revoke(self, name: str) -> Key:
        """Takes the key of this name out of force; it stays in the file. Raises :class:`UnknownName`, and as :meth:`add`."""
        with exclusive(self.path) as target:
            keys = self.keys()
            key = key_in_force(name, keys)
            revoked = msgspec.structs.replace(key, revoked=round(time.time(), 3))
            _write(target, [revoked if old is key else old for old in keys])
        return revoked


def _read(data: bytes, file: str) -> tuple[Key, ...]:
    keys: list[Key] = []
    problems: list[Problem] = []
    names: set[str] = set()
    digests: set[str] = set()
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            key = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            problems.append(Problem(file, number, f"this line is no key: {error}", "take the file from a backup, or remove the line"))
            continue
        except InputError as error:
            problems.append(Problem(file, number, error.message, error.hint))
            continue
        if key.digest in digests or (key.revoked is None and key.name in names):
            problems.append(Problem(file, number, f"the key {key.name!r} stands twice", "remove one of the lines"))
        digests.add(key.digest)
        if key.revoked is None:
            names.add(key.name)
        keys.append(key)
    if problems:
        raise SourceError(problems)
    return tuple(keys)


def _write(target: Path, keys: Iterable[Key]) -> None:
    data = b"".join(_encode(key) + b"\n" for key in keys)
    try:
        before = os.stat(target) if target.exists() else None
        with drafted(target, data, mode=0o600, durable=True) as draft:
            draft.chmod(0o600)
            after = os.stat(draft)
            # Inodes are used again and the kernel's clock for files is coarse: no later file may look like this one.
            if before is not None and after.st_mtime_ns <= before.st_mtime_ns:
                os.utime(draft, ns=(after.st_atime_ns, before.st_mtime_ns + 1000))
            os.replace(draft, target)
    except OSError as error:
        raise cannot(target, error) from None
