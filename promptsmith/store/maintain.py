"""Looking after a cache folder: what is in it, what is wrong with it, and removing what has had its time.

``verify`` and ``prune`` go row by row in plain SQL, since diskcache's own iteration dies on one bad row. Nothing
here follows a symbolic link, and nothing removes the ledger or a file that is not the store's.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..errors import StoreError, TamperedError
from .captures import SETTLED, count_rows, trim
from .captures import SUFFIX as CAPTURE_SUFFIX
from .copies import SUFFIX as COPY_SUFFIX
from .disk import SETTINGS, SafeDisk, inspect, per_connection, read_only, translated, unfinished
from .journal import SUFFIX, is_finished, read_rows
from .layout import CAPTURES, JOURNALS, LEDGER, LOCK_COPIES, PLANS, PROMPTS, REPLIES, REPORT_SUFFIX, REPORTS, SEARCHES
from .ledger import Ledger
from .plans import SUFFIX as PLAN_SUFFIX
from .plans import read as read_plan_run
from .prompts import PROMPT, read_id, read_prompt
from .replies import CLEARED, read_reply
from .seal import unseal
from .searches import SUFFIX as SEARCH_SUFFIX
from .searches import read as read_search
from .trouble import Trouble, reason

DB = "cache.db"
DB_FILES = (DB, f"{DB}-wal", f"{DB}-shm", f"{DB}-journal")
ORPHAN_SECONDS = 3600.0
"""A value's file without a row is removed when it is older: a younger one may be about to get its row."""
_BATCH = 500
_HEX = re.compile(r"[0-9a-f]{2}")


class Finding(NamedTuple):
    """One thing that is wrong: in which part, at which key or file, and what."""

    part: str
    key: str
    what: str


# --- stats ------------------------------------------------------------------------------------------------


def stats(folder: str) -> dict[str, dict[str, object]]:
    """What the folder holds, per part; bytes are on disk, times in seconds since the epoch (``None`` when empty)."""
    return {
        PROMPTS: _cache_stats(os.path.join(folder, PROMPTS), PROMPT),
        REPLIES: _cache_stats(os.path.join(folder, REPLIES), ""),
        JOURNALS: _journal_stats(os.path.join(folder, JOURNALS)),
        CAPTURES: _capture_stats(os.path.join(folder, CAPTURES)),
        REPORTS: _file_stats(_files(os.path.join(folder, REPORTS), REPORT_SUFFIX)),
        SEARCHES: _file_stats(_files(os.path.join(folder, SEARCHES), SEARCH_SUFFIX)),
        PLANS: _file_stats(_files(os.path.join(folder, PLANS), PLAN_SUFFIX)),
        LOCK_COPIES: _file_stats(_files(os.path.join(folder, LOCK_COPIES), COPY_SUFFIX)),
        "ledger": _ledger_stats(os.path.join(folder, LEDGER)),
    }


def _cache_stats(directory: str, prefix: str) -> dict[str, object]:
    found: dict[str, object] = {"entries": 0, "bytes": _folder_bytes(directory), "oldest": None, "newest": None}
    path = os.path.join(directory, DB)
    if os.path.isfile(path):
        try:
            inspect(path)
            with translated(path), contextlib.closing(read_only(path)) as con:
                select = "SELECT count(*), min(store_time), max(store_time) FROM Cache WHERE substr(key, 1, ?) = ?"
                found["entries"], found["oldest"], found["newest"] = con.execute(select, (len(prefix), prefix)).fetchone()
        except (StoreError, OSError) as error:
            found["problem"] = error.message if isinstance(error, StoreError) else reason(error)
    return found


def _journal_stats(directory: str) -> dict[str, object]:
    files = _files(directory, SUFFIX)
    finished = sum(_finished(path) for path in files)
    return {**_file_stats(files), "finished": finished, "unfinished": len(files) - finished}


def _capture_stats(directory: str) -> dict[str, object]:
    files = _files(directory, CAPTURE_SUFFIX)
    found = _file_stats(files)
    try:
        return {**found, "entries": sum(count_rows(path)[0] for path in files), "tasks": len(files)}
    except OSError as error:
        return {**found, "problem": reason(error)}


def _file_stats(files: Sequence[str]) -> dict[str, object]:
    found = [os.lstat(path) for path in files]
    times = [entry.st_mtime for entry in found]
    return {
        "entries": len(files),
        "bytes": sum(entry.st_size for entry in found),
        "oldest": min(times, default=None),
        "newest": max(times, default=None),
    }


def _ledger_stats(path: str) -> dict[str, object]:
    rows = size = 0
    if os.path.isfile(path):
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                rows += block.count(b"\n")
    return {"rows": rows, "bytes": size}


# --- verify -----------------------------------------------------------------------------------------------


def verify(folder: str) -> list[Finding]:
    """Everything that is wrong in the folder; empty when all is well. Reads every row and never writes."""
    found: list[Finding] = []
    for part in (PROMPTS, REPLIES):
        found += _verify_cache(part, os.path.join(folder, part))
    found += _verify_journals(os.path.join(folder, JOURNALS))
    found += _verify_captures(os.path.join(folder, CAPTURES))
    found += _verify_records(SEARCHES, os.path.join(folder, SEARCHES), SEARCH_SUFFIX, read_search)
    found += _verify_records(PLANS, os.path.join(folder, PLANS), PLAN_SUFFIX, read_plan_run)
    found += _verify_copies(os.path.join(folder, LOCK_COPIES))
    ledger = Ledger(os.path.join(folder, LEDGER), Trouble(folder))
    for _ in ledger.rows():
        pass
    if ledger.damaged > ledger.cut:
        found.append(Finding("ledger", LEDGER, f"{ledger.damaged - ledger.cut} damaged lines"))
    return found


def _verify_cache(part: str, directory: str) -> Iterator[Finding]:
    yield from (Finding(part, "", what) for what in _folder_faults(directory))
    path = os.path.join(directory, DB)
    if os.path.islink(directory) or not os.path.lexists(path):
        return
    if not stat.S_ISREG(os.lstat(path).st_mode):
        yield Finding(part, DB, "is a link or no file")
        return
    try:
        inspect(path)
        with translated(path), contextlib.closing(read_only(path)) as con:
            if not unfinished(con):
                yield from _verify_file(part, directory, con)
    except StoreError as error:
        yield Finding(part, DB, error.message)
    except OSError as error:
        yield Finding(part, DB, reason(error))


def _verify_file(part: str, directory: str, con: sqlite3.Connection) -> Iterator[Finding]:
    # Text that is not UTF-8 must not end the walk.
    con.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    for (line,) in con.execute("PRAGMA quick_check"):
        if line != "ok":
            yield Finding(part, DB, str(line))
    yield from (Finding(part, str(name), "setting is not ours") for name in _drifted(con))
    disk = SafeDisk(directory, SETTINGS["disk_min_file_size"], SETTINGS["disk_pickle_protocol"])
    named: set[str] = set()
    last = -(2**63)
    select = "SELECT rowid, key, raw, expire_time, mode, filename, value FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT 1"
    while (row := con.execute(select, (last,)).fetchone()) is not None:
        last, *columns = row
        if isinstance(row[5], str):
            named.add(row[5])
        what = _row_fault(part, disk, columns)
        if what:
            yield Finding(part, f"row {last} ({_shown(columns[0])})", what)
        if last == 2**63 - 1:
            break
    yield from (Finding(part, name, "a value's file without a row") for name in _value_files(directory) if name not in named)


def _row_fault(part: str, disk: SafeDisk, columns: Sequence[object]) -> str:
    key, raw, expires, mode, filename, value = columns
    try:
        name = disk.get(key, raw)
        data = disk.fetch(mode, filename, value, False)
        if expires is not None and type(expires) is not float:
            return "its expiry is no time"
        if part == REPLIES:
            read_reply(name, data)
        elif name.startswith(PROMPT):
            read_prompt(name.removeprefix(PROMPT), data)
        else:
            read_id(name, data)
    except StoreError as error:
        return error.message
    except FileNotFoundError:
        return f"its file {filename} is missing"
    except OSError as error:
        return f"its file can't be read ({reason(error)})"
    return ""


def _shown(key: object) -> str:
    return repr(key) if len(repr(key)) <= 40 else f"{repr(key)[:40]}…"


def _drifted(con: sqlite3.Connection) -> list[str]:
    rows = dict(con.execute("SELECT key, value FROM Settings").fetchall())
    return [name for name, value in SETTINGS.items() if rows.get(name) != value]


def _folder_faults(directory: str) -> Iterator[str]:
    if os.path.islink(directory):
        yield "is a symbolic link"
    elif os.path.isdir(directory):
        mode = stat.S_IMODE(os.stat(directory).st_mode)
        if os.name == "posix" and mode & 0o077:
            yield f"others may use this folder (mode {mode:04o}, 0700 would be right)"


def _verify_journals(directory: str) -> Iterator[Finding]:
    yield from (Finding(JOURNALS, "", what) for what in _folder_faults(directory))
    for path in _files(directory, SUFFIX):
        name = os.path.basename(path)
        try:
            damaged = sum(row is None for row in read_rows(path))
        except OSError as error:
            yield Finding(JOURNALS, name, reason(error))
            continue
        if damaged:
            yield Finding(JOURNALS, name, f"{damaged} damaged lines, which are skipped when it is replayed")


def _verify_captures(directory: str) -> Iterator[Finding]:
    yield from (Finding(CAPTURES, "", what) for what in _folder_faults(directory))
    for entry in _entries(directory):
        if not entry.name.endswith((CAPTURE_SUFFIX, SETTLED)):
            continue
        if not entry.is_file(follow_symlinks=False):
            yield Finding(CAPTURES, entry.name, "is a link or no file")
            continue
        mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
        if os.name == "posix" and mode & 0o077:
            yield Finding(CAPTURES, entry.name, f"others may use this file (mode {mode:04o}, 0600 would be right)")
        if entry.name.endswith(CAPTURE_SUFFIX):
            yield from _damaged_captures(entry)


def _damaged_captures(entry: os.DirEntry[str]) -> Iterator[Finding]:
    try:
        damaged = count_rows(entry.path)[1]
    except OSError as error:
        yield Finding(CAPTURES, entry.name, reason(error))
        return
    if damaged:
        yield Finding(CAPTURES, entry.name, f"{damaged} damaged lines, which are skipped")


def _verify_copies(directory: str) -> Iterator[Finding]:
    for path in _files(directory, COPY_SUFFIX):
        name = os.path.basename(path)
        try:
            with open(path, "rb") as file:
                unseal(file.read(), "the copy", name.removesuffix(COPY_SUFFIX))
        except TamperedError as error:
            yield Finding(LOCK_COPIES, name, error.message)
        except OSError as error:
            yield Finding(LOCK_COPIES, name, reason(error))


def _verify_records(part: str, directory: str, suffix: str, read: Callable[[bytes, str, str], bytes]) -> Iterator[Finding]:
    yield from (Finding(part, "", what) for what in _folder_faults(directory))
    for path in _files(directory, suffix):
        name = os.path.basename(path)
        try:
            with open(path, "rb") as file:
                read(file.read(), name.removesuffix(suffix), "the record")
        except TamperedError as error:
            yield Finding(part, name, error.message)
        except OSError as error:
            yield Finding(part, name, reason(error))


# --- prune ------------------------------------------------------------------------------------------------


def prune(folder: str, reply_ttl: float | None, size_limit: int | None, now: float) -> dict[str, int]:
    """Removes expired replies, then the oldest until ``size_limit`` bytes; what else holds answers and is older than the TTL.

    That is finished journals, captured calls, reports and runs of plans.
    Prompts and the records of their searches stay. ``now`` is in seconds since the epoch. Raises :class:`StoreError` when the
    folder can't be written.
    """
    counts = {"expired": 0, "over_limit": 0, "orphans": 0, "journals": 0, "captures": 0, "reports": 0, "plans": 0}
    directory = os.path.join(folder, REPLIES)
    with _changing(directory) as con:
        if con is not None:
            counts["expired"] = _delete(con, directory, _expired(con, reply_ttl, now))
            counts["over_limit"] = _delete(con, directory, _over_limit(con, size_limit))
            counts["orphans"] = _remove_orphans(con, directory, now)
    if reply_ttl is not None:
        for path in _files(os.path.join(folder, JOURNALS), SUFFIX):
            if os.lstat(path).st_mtime < now - reply_ttl and _finished(path):
                os.remove(path)
                counts["journals"] += 1
        for part, suffix in ((REPORTS, REPORT_SUFFIX), (PLANS, PLAN_SUFFIX)):
            for path in _files(os.path.join(folder, part), suffix):
                if os.lstat(path).st_mtime < now - reply_ttl:
                    _remove(path)
                    counts[part] += 1
        counts["captures"] = sum(_trimmed(path, now - reply_ttl) for path in _files(os.path.join(folder, CAPTURES), CAPTURE_SUFFIX))
    return counts


def _trimmed(path: str, since: float) -> int:
    try:
        return trim(path, since)
    except OSError as error:
        raise StoreError(f"{path} can't be pruned ({reason(error)})") from error


def _expired(con: sqlite3.Connection, ttl: float | None, now: float) -> list[int]:
    # A time that is no number compares as later than any other and would never expire: such rows go too.
    select = """
        SELECT rowid FROM Cache WHERE expire_time < ? OR store_time < ?
        OR typeof(store_time) NOT IN ('real', 'integer') OR typeof(expire_time) NOT IN ('real', 'integer', 'null')"""
    return [rowid for (rowid,) in con.execute(select, (now, now - ttl if ttl is not None else -1e18))]


def _over_limit(con: sqlite3.Connection, limit: int | None) -> list[int]:
    if limit is None:
        return []
    kept, over = 0, []
    # A key stands in the row and in the index, beside some 100 bytes of columns; so the sum is near the file's size.
    select = """
        SELECT rowid, 100 + coalesce(length(value), 0) + 2 * coalesce(length(key), 0) + max(0, CAST(coalesce(size, 0) AS INTEGER))
        FROM Cache ORDER BY store_time DESC, rowid DESC"""
    for rowid, size in con.execute(select):
        kept += size
        if kept > limit:
            over.append(rowid)
    return over


def _remove_orphans(con: sqlite3.Connection, directory: str, now: float) -> int:
    named = {name for (name,) in con.execute("SELECT CAST(filename AS BLOB) FROM Cache WHERE filename IS NOT NULL")}
    disk, removed = SafeDisk(directory), 0
    for name in _value_files(directory):
        full = os.path.join(directory, name)
        if name.encode() not in named and os.lstat(full).st_mtime < now - ORPHAN_SECONDS:
            disk.remove(name)
            removed += not os.path.lexists(full)
    return removed


# --- clear ------------------------------------------------------------------------------------------------


def clear(folder: str, replies_only: bool) -> dict[str, int]:
    """Removes what holds answers (replies, journals, captured calls, reports, runs of plans), and prompts unless ``replies_only``.

    The records of searches go with the prompts. Returns how many of each. Never the ledger, the looks, nor what is not the
    store's. Rows are deleted, not files, so a folder that is open elsewhere stays usable; only a damaged file is removed whole.
    Raises :class:`StoreError`, before anything is removed, when a part is a symbolic link.
    """
    parts = [REPLIES] if replies_only else [REPLIES, PROMPTS]
    kept_with_prompts = () if replies_only else (SEARCHES,)
    for part in (*parts, *kept_with_prompts, JOURNALS, CAPTURES, REPORTS, PLANS):
        path = os.path.join(folder, part)
        if os.path.islink(path):
            raise StoreError(f"{path} is a symbolic link, which clear does not follow", hint="remove the link yourself")
    counts = {part: _clear_cache(os.path.join(folder, part)) for part in parts}
    _tell_cleared(os.path.join(folder, REPLIES))
    journals = _clear_files(os.path.join(folder, JOURNALS), (SUFFIX, ".tmp"))
    captures = _clear_files(os.path.join(folder, CAPTURES), (CAPTURE_SUFFIX, SETTLED, ".tmp"))
    reports = _clear_files(os.path.join(folder, REPORTS), (REPORT_SUFFIX,))
    plans = _clear_files(os.path.join(folder, PLANS), (PLAN_SUFFIX, ".tmp"))
    for part in kept_with_prompts:
        counts[part] = _clear_files(os.path.join(folder, part), (SEARCH_SUFFIX, ".tmp"))
    return {**counts, JOURNALS: journals, CAPTURES: captures, REPORTS: reports, PLANS: plans}


def _tell_cleared(directory: str) -> None:
    """Lets running processes know, which have replies in memory (see :class:`~.replies.Replies`)."""
    path = os.path.join(directory, CLEARED)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600), "ab") as file:
            file.write(b".")
    except FileNotFoundError:
        return  # no folder, no replies
    except OSError as error:
        raise StoreError(f"{path} can't be written ({reason(error)})", hint="restart what is running: it has replies in memory") from error


def _clear_files(directory: str, suffixes: tuple[str, ...]) -> int:
    paths = [entry.path for entry in _entries(directory) if entry.name.endswith(suffixes)]
    for path in paths:
        _remove(path)
    return len(paths)


def _clear_cache(directory: str) -> int:
    try:
        with _changing(directory) as con:
            if con is None:
                return 0
            con.execute("PRAGMA secure_delete = ON")
            count = _delete(con, directory, [rowid for (rowid,) in con.execute("SELECT rowid FROM Cache")])
            for name in _value_files(directory):
                SafeDisk(directory).remove(name)
            # The log still holds the texts; this empties it unless somebody is reading at this moment.
            con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return count
    except StoreError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return _remove_damaged(directory)


def _remove_damaged(directory: str) -> int:
    """Removes a file that is not ours or not readable; who has it open finds that it is gone and makes a new one."""
    for name in DB_FILES:
        _remove(os.path.join(directory, name))
    disk = SafeDisk(directory)
    for name in _value_files(directory):
        disk.remove(name)
    return 1


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(f"{path} can't be removed ({reason(error)})") from error


# --- shared -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _changing(directory: str) -> Iterator[sqlite3.Connection | None]:
    """A connection that may write to the inspected cache in ``directory``, or ``None`` when there is none."""
    path = os.path.join(directory, DB)
    if os.path.islink(directory):
        raise StoreError(f"{directory} is a symbolic link, which is not followed")
    if not os.path.lexists(path):
        yield None
        return
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise TamperedError(f"{path} is a link or no file")
    try:
        with translated(path):
            inspect(path)
            with contextlib.closing(sqlite3.connect(path, timeout=60.0, isolation_level=None)) as con:
                per_connection(con)
                con.text_factory = bytes
                tables = con.execute("SELECT count(*) FROM sqlite_master WHERE name = 'Cache'").fetchone()[0]
                yield con if tables else None
    except OSError as error:
        raise StoreError(f"{directory} can't be changed ({reason(error)})") from error


def _delete(con: sqlite3.Connection, directory: str, rowids: Sequence[int]) -> int:
    """Deletes rows in small transactions, so that a running service gets its turn, and then their files."""
    disk, count = SafeDisk(directory), 0
    for start in range(0, len(rowids), _BATCH):
        files: list[object] = []
        con.execute("BEGIN IMMEDIATE")
        try:
            for rowid in rowids[start : start + _BATCH]:
                files += [name for (name,) in con.execute("SELECT filename FROM Cache WHERE rowid = ? AND filename IS NOT NULL", (rowid,))]
                count += con.execute("DELETE FROM Cache WHERE rowid = ?", (rowid,)).rowcount
            con.execute("COMMIT")
        except BaseException:
            if con.in_transaction:
                con.execute("ROLLBACK")
            raise
        for name in files:
            disk.remove(name.decode("utf-8", "replace") if isinstance(name, bytes) else name)
    return count


def _entries(directory: str) -> list[os.DirEntry[str]]:
    """Files and links of a folder (not of one behind a link), by name."""
    if os.path.islink(directory) or not os.path.isdir(directory):
        return []
    with os.scandir(directory) as entries:
        return sorted((entry for entry in entries if not entry.is_dir(follow_symlinks=False)), key=lambda entry: entry.name)


def _files(directory: str, suffix: str) -> list[str]:
    return [entry.path for entry in _entries(directory) if entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False)]


def _value_files(directory: str) -> list[str]:
    """Paths (``xx/yy/….val``) of the value files below ``directory``."""
    found = []
    for first in _hex_folders(directory):
        for second in _hex_folders(os.path.join(directory, first)):
            names = _files(os.path.join(directory, first, second), ".val")
            found += [f"{first}/{second}/{os.path.basename(name)}" for name in names]
    return found


def _hex_folders(directory: str) -> list[str]:
    if os.path.islink(directory) or not os.path.isdir(directory):
        return []
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if _HEX.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False))


def _folder_bytes(directory: str) -> int:
    files = [os.path.join(directory, name) for name in (*DB_FILES, *_value_files(directory))]
    return sum(os.lstat(path).st_size for path in files if os.path.lexists(path))


def _finished(path: str) -> bool:
    try:
        return is_finished(path)
    except OSError:
        return False  # not ours to judge, so not ours to remove
