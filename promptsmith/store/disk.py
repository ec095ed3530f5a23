"""diskcache made safe: nothing is unpickled, nothing evicted, no path leaves the folder, no setting drifts.

diskcache unpickles rows and keys (CVE-2025-69872), opens whatever path a row names, runs every ``sqlite_…`` row of
its Settings table as a PRAGMA, and by default evicts the oldest rows, which are the most stable prompts. So the
file is inspected through a plain read-only connection before diskcache sees it, every setting is passed at each
open and read back, and :class:`SafeDisk` refuses all rows but text keys with text or bytes.

Errors of this module: ``OSError`` for trouble with the disk (read-only, full, locked), :class:`StoreError` for a
damaged file, :class:`TamperedError` for rows, settings or paths that are not ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import diskcache
from diskcache.core import DBNAME, METADATA, MODE_BINARY, MODE_RAW, MODE_TEXT, UNKNOWN

from ..canonical import sha256
from ..errors import StoreError, TamperedError
from .trouble import private_folder

SETTINGS: dict[str, int | str] = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "size_limit": 2**40,
    "cull_limit": 0,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 2**13,
    "sqlite_journal_mode": "wal",
    # No memory map: a file that shrinks under one ends the process with SIGBUS.
    "sqlite_mmap_size": 0,
    "sqlite_synchronous": 1,
    "disk_min_file_size": 2**20,
    "disk_pickle_protocol": 4,
}
"""Every setting that diskcache knows; a test compares the names with the installed version."""

CLEAR = "`promptsmith cache clear` removes it; promoted prompts are safe in promptsmith.lock"
BUSY_SECONDS = 60.0
_ATTEMPTS = 20
_SIDE_FILES = ("", "-wal", "-shm", "-journal")
_VALUE_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")
_PRAGMAS = {name.removeprefix("sqlite_"): value for name, value in SETTINGS.items() if name.startswith("sqlite_")}
# First 16 hex digits of sha256("type name sql"). A trigger, view or index that is not among them is not ours.
_SCHEMA = frozenset(
    (
        "a4f7f67212c4b046",  # table Settings
        "adefc4c8d3640b2d",  # its automatic index
        "b562cb1c98adf967",  # table Cache
        "ed48b4072d69569b",  # index Cache_key_raw
        "8f3d18fb5d2f78e8",  # index Cache_expire_time
        "3be07738edf3ada7",  # trigger Settings_count_insert
        "cf1b5c6c3b96dfd8",  # trigger Settings_count_delete
        "63dcda0fcedce93f",  # trigger Settings_size_insert
        "c193fa494810aa93",  # trigger Settings_size_update
        "dc9a3f2897b442cd",  # trigger Settings_size_delete
    )
)
_ERRNO = {
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_AUTH: errno.EACCES,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_LOCKED: errno.EBUSY,
    sqlite3.SQLITE_PROTOCOL: errno.EBUSY,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}


class Row(NamedTuple):
    """One row to write. ``expires`` is in seconds since the epoch, ``None`` for never."""

    key: str
    value: bytes
    expires: float | None = None


def translate(error: sqlite3.Error, path: str) -> Exception:
    """``error`` as ``OSError`` (trouble with the disk) or :class:`StoreError` (damage) about the file ``path``."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _ERRNO:
        return OSError(_ERRNO[code], str(error), path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError(f"{path} is damaged ({error})", hint=CLEAR)
    if "decode" in str(error):
        return TamperedError(f"{path} holds text that is not UTF-8", hint=CLEAR)
    return StoreError(f"{path} can't be used ({error})", hint=CLEAR)


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Turns SQLite's errors into those of this module."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error


class SafeDisk(diskcache.Disk):  # type: ignore[misc]  # untyped base
    """Reads and writes text keys and text or bytes values, and refuses every other row and path."""

    def put(self, key: object) -> tuple[str, bool]:
        if type(key) is not str:
            raise StoreError(f"a key of the store must be text, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        if raw != 1 or not isinstance(key, str):
            raise self._tampered("a row whose key is not text")
        return key

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, str | None, object]:
        if read or type(value) not in (str, bytes):
            raise StoreError(f"a value of the store must be text or bytes, not {type(value).__name__}")
        data = value.encode() if isinstance(value, str) else value
        assert isinstance(data, bytes)
        if len(data) < self.min_file_size:
            return 0, MODE_RAW, None, value if isinstance(value, str) else sqlite3.Binary(data)
        filename, full = self.filename(key, value)
        try:
            # As bytes for text too: text mode would change line ends on the way.
            self._write(full, iter([data]), "xb")
        except OSError:
            with contextlib.suppress(OSError):
                os.remove(full)
            raise
        return len(data), MODE_TEXT if isinstance(value, str) else MODE_BINARY, filename.replace(os.sep, "/"), None

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> str | bytes:
        if read:
            raise StoreError("the store hands out no file handles")
        if mode == MODE_RAW and filename is None and isinstance(value, str | bytes):
            return value
        if mode in (MODE_BINARY, MODE_TEXT) and value is None:
            data = self._read(self.inside(filename))
            return data if mode == MODE_BINARY else self._decoded(data)
        raise self._tampered("a row that is neither text nor bytes")

    def remove(self, file_path: object) -> None:
        """Removes a value's file; a path of any other shape is left alone, for the row that named it is going."""
        try:
            full = self.inside(file_path)
        except TamperedError:
            return
        with contextlib.suppress(OSError):
            os.remove(full)
            os.rmdir(os.path.dirname(full))
            os.rmdir(os.path.dirname(os.path.dirname(full)))

    def inside(self, filename: object) -> str:
        """The full path of a value's file. Raises :class:`TamperedError` for every path but our own kind."""
        if type(filename) is not str or not _VALUE_FILE.fullmatch(filename):
            raise self._tampered("a row that names a path which is not a value's")
        base = os.path.realpath(self._directory)
        full = os.path.join(base, *filename.split("/"))
        if os.path.realpath(full) != full:
            raise self._tampered("a value's file that is a symbolic link")
        return full

    def _read(self, full: str) -> bytes:
        fd = os.open(full, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise self._tampered("a value's file that is no file")
            return file.read()

    def _decoded(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._tampered("a text that is not UTF-8") from None

    def _tampered(self, what: str) -> TamperedError:
        return TamperedError(f"{os.path.join(self._directory, DBNAME)} holds {what}; it is refused", hint=CLEAR)


_SELECT = "SELECT mode, filename, value, expire_time FROM Cache WHERE key = ? AND raw = 1 AND (expire_time IS NULL OR expire_time > ?)"
_ROWS_A_STATEMENT = 250
"""SQLite takes 32,766 values in one statement from version 3.32 on, and a row has five."""


def _upsert(rows: int) -> str:
    """One statement for so many rows. One for each would hand the interpreter's lock over and back for each."""
    row = f"(?, 1, ?, ?, ?, 0, NULL, 0, {diskcache.core.MODE_RAW}, NULL, ?)"
    return (
        "INSERT INTO Cache (key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename, value) "
        f"VALUES {', '.join([row] * rows)} "
        "ON CONFLICT (key, raw) DO UPDATE SET store_time = excluded.store_time, expire_time = excluded.expire_time, "
        "access_time = excluded.access_time, access_count = 0, tag = NULL, size = 0, mode = excluded.mode, filename = NULL, "
        "value = excluded.value"
    )


def _stored(value: str | bytes) -> str | memoryview:
    return value if isinstance(value, str) else memoryview(value)


class SafeCache(diskcache.Cache):  # type: ignore[misc]  # untyped base
    """One diskcache folder with :class:`SafeDisk`, for any number of threads; not to be used after a fork."""

    writable = True

    def __init__(self, directory: str) -> None:
        self._prepare()
        self._txn_id: int | None = None
        try:
            super().__init__(directory, timeout=BUSY_SECONDS, disk=SafeDisk, **SETTINGS)
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        self._connections: list[tuple[weakref.ref[threading.Thread], sqlite3.Connection]] = []
        self._connections_lock = threading.Lock()

    @property
    def path(self) -> str:
        return os.path.join(str(self._directory), DBNAME)

    @property
    def _con(self) -> sqlite3.Connection:
        # diskcache's own runs all sqlite_… rows of the file as PRAGMAs at each new connection, and after a fork
        # closes the parent's connection, which can wait for a lock that no thread of the child will free.
        con: sqlite3.Connection | None = getattr(self._local, "con", None)
        if con is None:
            con = self._local.con = self._connect()
            self._keep(con)
        return con

    def _connect(self) -> sqlite3.Connection:
        con = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            per_connection(con)
        except sqlite3.Error:
            con.close()
            raise
        return con

    def _keep(self, con: sqlite3.Connection) -> None:
        with self._connections_lock:
            for thread, old in list(self._connections):
                owner = thread()
                if owner is None or not owner.is_alive():
                    self._connections.remove((thread, old))
                    old.close()
            self._connections.append((weakref.ref(threading.current_thread()), con))

    def close(self) -> None:
        """Closes the connections of all threads."""
        with self._connections_lock:
            connections, self._connections = self._connections, []
            self._local = threading.local()
        for _, con in connections:
            con.close()

    def check_settings(self) -> None:
        """Raises :class:`TamperedError` unless every setting holds in the file, in this object and in SQLite."""
        if set(SETTINGS) != set(diskcache.DEFAULT_SETTINGS):
            raise StoreError("this version of diskcache has other settings than the store knows", hint="install diskcache 5.6.3")
        rows = dict(self._sql("SELECT key, value FROM Settings").fetchall())
        _inspect_settings(list(rows.items()), self.path)
        for name, value in SETTINGS.items():
            found: list[object] = [rows.get(name), getattr(self, name, None)]
            if name.startswith("disk_"):
                found.append(getattr(self.disk, name.removeprefix("disk_"), None))
            if name.startswith("sqlite_") and self.writable:
                found.append(self._sql(f"PRAGMA {name.removeprefix('sqlite_')}").fetchone()[0])
            for seen in found:
                if seen != value or type(seen) is not type(value):
                    raise TamperedError(f"{self.path}: setting {name} is {seen!r} and must be {value!r}", hint=CLEAR)

    def value(self, key: str) -> tuple[str | bytes, float | None] | None:
        """Value and expiry (seconds since the epoch) of ``key``, ``None`` when it is missing or expired."""
        # What ``Cache.get`` does, at half its cost: each reply is looked for twice before a model is asked.
        try:
            row = self._con.execute(_SELECT, (key, time.time())).fetchone()
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        if row is None:
            return None
        mode, filename, stored, expires = row
        try:
            value = self.disk.fetch(mode, filename, stored, False)
        except OSError:
            return None  # removed by another process before its file was read
        if expires is not None and type(expires) is not float:
            raise TamperedError(f"{self.path} holds a row whose expiry is no time; it is refused", hint=CLEAR)
        return value, expires

    def keys_between(self, low: str, high: str) -> list[str]:
        """The text keys with ``low <= key < high``, newest first."""
        select = "SELECT key, raw FROM Cache WHERE key >= ? AND key < ? AND raw = 1 ORDER BY store_time DESC, rowid DESC"
        with translated(self.path):
            rows = self._sql(select, (low, high)).fetchall()
        return [self._disk.get(key, raw) for key, raw in rows]

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: all rows of it are kept or none.

        Not ``transact()``: with ``retry`` that one tries for ever on a full disk, without it it hides the reason.
        """
        with translated(self.path):
            con = self._con
            con.execute("BEGIN IMMEDIATE")
            self._txn_id = threading.get_ident()
            try:
                yield
                self._txn_id = None
                con.execute("COMMIT")
            except BaseException:
                self._txn_id = None
                if con.in_transaction:
                    con.execute("ROLLBACK")
                raise

    def write(self, rows: Sequence[Row]) -> None:
        """Writes ``rows`` in one transaction."""
        now = time.time()
        live = [row for row in rows if row.expires is None or row.expires > now]
        # ``Cache.set`` looks for an old row and its file first (about 50 µs a row); one statement does both for a row
        # that needs no file. A file that such a row had before is an orphan, which ``prune`` removes.
        small = [row for row in live if len(row.value) < self.disk.min_file_size]
        with self.writing():
            for start in range(0, len(small), _ROWS_A_STATEMENT):
                part = small[start : start + _ROWS_A_STATEMENT]
                values = [value for row in part for value in (row.key, now, row.expires, now, _stored(row.value))]
                self._con.execute(_upsert(len(part)), values)
            for row in live:
                if len(row.value) >= self.disk.min_file_size:
                    self.set(row.key, row.value, expire=None if row.expires is None else row.expires - now)

    def probe(self) -> None:
        """Raises ``OSError`` when nothing can be written."""
        with translated(self.path):
            self._con.execute("BEGIN IMMEDIATE")
            self._con.execute("ROLLBACK")


class ReadOnlyCache(SafeCache):
    """A folder that can't be written: what it holds is served, and writing raises ``OSError``."""

    writable = False

    def __init__(self, directory: str) -> None:
        # diskcache's own constructor writes its settings at each open, so it can't open such a folder at all.
        self._prepare()
        self._directory = directory
        self._timeout = BUSY_SECONDS
        self._local = threading.local()
        self._txn_id = None
        self._disk = SafeDisk(directory, SETTINGS["disk_min_file_size"], SETTINGS["disk_pickle_protocol"])
        for name, value in SETTINGS.items():
            setattr(self, name, value)

    def _connect(self) -> sqlite3.Connection:
        return read_only(self.path)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        raise OSError(errno.EROFS, "the folder can't be written", self._directory)
        yield

    def probe(self) -> None:
        raise OSError(errno.EROFS, "the folder can't be written", self._directory)


def open_cache(directory: str) -> SafeCache:
    """The cache in ``directory``, which is made when missing; read-only when it can't be written."""
    path = os.path.join(directory, DBNAME)
    _check_path(directory)
    private_folder(directory)
    _check_links(path)
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with translated(path):
                return _opened(directory, path)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        # SQLite does not wait by itself while another process makes the file or turns on its log.
        time.sleep(0.005)


def _opened(directory: str, path: str) -> SafeCache:
    if os.path.exists(path):
        inspect(path)
    try:
        cache = SafeCache(directory)
    except (sqlite3.Error, OSError) as error:
        reason = translate(error, path) if isinstance(error, sqlite3.Error) else error
        if not isinstance(reason, OSError) or reason.errno == errno.EBUSY or not os.path.exists(path):
            raise reason from error
        with contextlib.closing(read_only(path)) as con:
            if unfinished(con):
                raise reason from error  # what is missing there was not tampered with: there was no room for it
        cache = ReadOnlyCache(directory)
    try:
        cache.check_settings()
    except BaseException:
        cache.close()
        raise
    return cache


def _check_path(directory: str) -> None:
    # diskcache expands these in what it is given, and would open another folder than the one inspected.
    if os.path.expandvars(os.path.expanduser(directory)) != directory:
        raise StoreError(f"the cache folder {directory} has a variable's name in its path", hint="move it to a path without '$'")


def _check_links(path: str) -> None:
    for side in _SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path + side).st_mode):
                raise TamperedError(f"{path + side} is a link or no file; it is refused", hint=CLEAR)


def per_connection(con: sqlite3.Connection) -> None:
    """The settings that SQLite forgets between connections, and no functions in a schema that may not be ours."""
    con.execute("PRAGMA trusted_schema = OFF")
    for name in ("cache_size", "mmap_size", "synchronous"):
        con.execute(f"PRAGMA {name} = {_PRAGMAS[name]}").fetchall()


def read_only(path: str) -> sqlite3.Connection:
    """A connection to ``path`` that can't write. Raises ``sqlite3.Error``."""
    for attempt in range(_ATTEMPTS):
        try:
            return _read_only(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if (error.sqlite_errorcode or 0) & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
            # A write-ahead log needs a shared-memory file beside it. In a folder where none can be made nobody writes.
            if not os.access(os.path.dirname(path), os.W_OK):
                return _read_only(path, "mode=ro&immutable=1")
            if attempt == _ATTEMPTS - 1:
                raise
        # Another process has closed the file and is removing its log and shared memory at this moment.
        time.sleep(0.01)
    raise AssertionError("unreachable")


def _read_only(path: str, how: str) -> sqlite3.Connection:
    uri = f"{Path(path).absolute().as_uri()}?{how}"
    con = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        con.execute("PRAGMA trusted_schema = OFF")
        con.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        con.close()
        raise
    return con


def inspect(path: str) -> None:
    """Raises :class:`TamperedError` unless schema and settings of ``path`` are ours, as far as they are there yet."""
    with translated(path), contextlib.closing(read_only(path)) as con:
        inspect_schema(con, path)
        if con.execute("SELECT count(*) FROM sqlite_master WHERE name = 'Settings'").fetchone()[0]:
            _inspect_settings(con.execute("SELECT key, value FROM Settings").fetchall(), path)


def unfinished(con: sqlite3.Connection) -> bool:
    """Whether the making of this file was cut short (a kill, a full disk): nothing is in it, and the next open ends it."""
    tables = {name for (name,) in con.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"Settings", "Cache"} <= tables:
        return True
    if con.execute("SELECT 1 FROM Cache LIMIT 1").fetchone():
        return False
    return not {name for (name,) in con.execute("SELECT key FROM Settings")}.issuperset(SETTINGS)


def inspect_schema(con: sqlite3.Connection, path: str) -> None:
    """Raises :class:`TamperedError` naming a table, view, index or trigger that is not diskcache's."""
    for kind, name, sql in con.execute("SELECT type, name, sql FROM sqlite_master"):
        if sha256(f"{kind} {name} {sql}")[:16] not in _SCHEMA:
            raise TamperedError(f"{path} has a {kind} {name!r} that is not ours; it is refused", hint=CLEAR)


def _inspect_settings(rows: Sequence[tuple[object, object]], path: str) -> None:
    for name, value in rows:
        # Counters kept by triggers, which nobody here reads; one row with an odd size can turn them into NULL.
        if name in METADATA and (value is None or type(value) in (int, float)):
            continue
        if name not in SETTINGS:
            raise TamperedError(f"{path} has a setting {name!r} that is not ours; it is refused", hint=CLEAR)
