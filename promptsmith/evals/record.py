"""Recorded replies: what an eval used, as JSON lines for git, so that CI can repeat it with no key."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ..chat import Reply, Stop, Usage
from ..errors import InputError, Problem, SourceError
from ..redact import redact
from ..store.whole import drafted

SUFFIX = ".replies.jsonl"
"""Where a task's record stands unless another file is named: beside the task file."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One final outcome under the key of its first request; no inputs, secrets taken out."""

    key: str
    model: str
    reply: str
    stop: Stop = "end"
    usage: Usage = Usage()
    cost: float | None = None
    """US dollars."""
    latency: float = 0.0
    """Seconds."""

    @classmethod
    def of(cls, key: str, reply: Reply, usage: Usage, cost: float | None, latency: float) -> Recorded:
        return cls(key=key, model=reply.model, reply=reply.text, stop=reply.stop, usage=usage, cost=cost, latency=latency)

    def as_reply(self) -> Reply:
        return Reply(text=self.reply, model=self.model, stop=self.stop, usage=self.usage, cost=self.cost, latency=self.latency, attempts=0)


def record_beside(task_file: Path) -> Path | None:
    """The record that stands beside a task file, if there is one."""
    path = task_file.with_suffix(SUFFIX)
    return path if path.is_file() else None


_decode = msgspec.json.Decoder(Recorded).decode
_encode = msgspec.json.Encoder().encode


def read_record(path: Path) -> dict[str, Recorded]:
    """The replies of a record, by key. Raises :class:`SourceError` naming each line that is none, :class:`InputError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the record {path} can't be read: {error.strerror}", hint="make it with: promptsmith eval … --record FILE"
        ) from None
    found: dict[str, Recorded] = {}
    problems = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            problems.append(
                Problem(str(path), number, f"this line is no recorded reply: {error}", "record again, or take the file from git")
            )
            continue
        if found.setdefault(row.key, row) != row:
            problems.append(Problem(str(path), number, f"the reply {row.key[:12]} stands twice, with different words", "record again"))
    if problems:
        raise SourceError(problems)
    return found


def write_record(path: Path, rows: Iterable[Recorded]) -> None:
    """Replaces the record whole, sorted by key so that git shows what changed. Raises :class:`InputError`."""
    clean = (msgspec.structs.replace(row, reply=redact(row.reply)) for row in rows)
    text = b"".join(_encode(row) + b"\n" for row in sorted(clean, key=lambda row: row.key))
    write_whole(path, text, "the record")


def write_whole(path: Path, data: bytes, what: str) -> None:
    """Puts ``data`` at ``path`` in one step. Raises :class:`InputError` saying ``what`` could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with drafted(path, data) as draft:
            os.replace(draft, path)
    except OSError as error:
        raise InputError(f"{what} {path} can't be written: {error.strerror}") from None
