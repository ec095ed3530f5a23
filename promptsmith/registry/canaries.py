"""Canaries: which callers a candidate answers beside the prompt under an alias, and what became of their calls.

All states stand in one small file, read at the price of one ``stat`` as long as it stays the same, and replaced whole.
Every call's outcome is one record of three bytes, appended to the file of its canary in one write: whoever reads the
file, in whichever process, reads the same outcomes in the same order.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Annotated, Literal, NamedTuple, Protocol

import msgspec

from ..errors import InputError, PromptsmithError, StoreError, UnknownName
from ..prompt import Prompt
from ..receipt import Receipt
from ..store.trouble import private_folder, reason, unwritable
from .entry import check_alias
from .resolve import PRODUCTION, Resolved, Resolver
from .writing import exclusive, replace

FILE_NAME = "canaries.json"
SUFFIX = ".outcomes"
KEPT = 100
"""How many ended canaries are remembered, with their outcomes."""

Arm = Literal["candidate", "incumbent"]
Mode = Literal["canary", "shadow"]
State = Literal["running", "stopped", "complete"]

_PromptId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class ArmCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one arm's calls. A call without an answer has failed, and says nothing about adherence."""

    calls: _Count = 0
    failed: _Count = 0
    judged: _Count = 0
    """Answers that were held against the contract."""
    kept: _Count = 0
    """Answers that satisfy it."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Both arms."""

    candidate: ArmCounts = ArmCounts()
    incumbent: ArmCounts = ArmCounts()


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate beside the prompt under an alias. Times are Unix seconds.

    ``canary``: the candidate answers its share of the callers. ``shadow``: it is asked beside, and its answer thrown away.
    A complete canary keeps its share until the alias moves (``ended``).
    """

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}$")]
    task: str
    alias: str
    candidate: _PromptId
    incumbent: _PromptId
    share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    salt: str
    started: float
    mode: Mode = "canary"
    state: State = "running"
    planned: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Calls of the candidate after which it is first asked whether it may be complete."""
    margin: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    """The drop, as a share, that must be ruled out for it to be complete."""
    who: str = ""
    forced: bool = False
    """Started without the gate's consent."""
    receipt: str | None = None
    """Digest of the receipt that it was started on."""
    note: str = ""
    """Why it was started."""
    why: str = ""
    """Why it was stopped, or is complete."""
    ended: float | None = None
    """Since then it has no share."""
    counts: Counts | None = None
    """What was counted when it was stopped, or became complete."""

    @property
    def command(self) -> str:
        """What moves the alias to the candidate."""
        forced = " --force --why '…'" if self.forced else ""
        return f"promptsmith promote {self.task}@{self.candidate[:12]} --to {self.alias}{forced}"


# See chat.py.
msgspec.json.Decoder(Canary)


class Outcome(NamedTuple):
    """What became of one call. ``adherent`` is ``None`` when nobody could tell whether its answer keeps the contract."""

    arm: Arm
    adherent: bool | None
    failed: bool


class Verdict(NamedTuple):
    """How a canary stands: its state, why, and whether that takes its share from it."""

    state: State
    why: str
    ends: bool = True


class CanaryStore(Protocol):
    """Where canaries live. ``active`` is asked at each request; ``outcomes`` come in one order for everybody."""

    def active(self, task: str, alias: str) -> Canary | None:
        """The canary that has a share of an alias. Never raises."""
        ...

    def all(self) -> tuple[Canary, ...]:
        """Every canary that is remembered, oldest first."""
        ...

    def start(self, canary: Canary, prompt: Prompt | None = None, receipt: Receipt | None = None) -> Canary:
        """Starts it, or gives the one of the same two prompts that runs already another share.

        ``prompt`` is the candidate and ``receipt`` its evidence, for a place that many machines share.
        """
        ...

    def settle(self, canary_id: str, verdict: Verdict, counts: Counts | None = None) -> Canary:
        """Writes down how a canary stands; one that has ended stays as it is, and the same verdict twice changes nothing."""
        ...

    def append(self, canary_id: str, outcome: Outcome) -> None:
        """Adds one outcome. Raises ``OSError`` or :class:`StoreError`."""
        ...

    def outcomes(self, canary_id: str, after: int = 0) -> tuple[Sequence[Outcome], int]:
        """The outcomes that came after a place (0: from the first), and the place after them."""
        ...

    def close(self, canary_id: str) -> None:
        """Lets go of what is open for its outcomes."""
        ...

    def end(self) -> None:
        """Ends what runs in the background, and lets go of everything."""
        ...


class CanaryWarning(UserWarning):
    """Canaries can't be read or written as they should; the incumbent answers."""


def new_canary(
    task: str,
    alias: str,
    *,
    candidate: str,
    incumbent: str | None,
    share: float,
    mode: Mode = "canary",
    planned: int = 1000,
    who: str = "",
    note: str = "",
    forced: bool = False,
    receipt: str | None = None,
) -> Canary:
    """A canary that begins now. Raises :class:`InputError` for one that makes no sense."""
    check_alias(alias)
    if incumbent is None:
        raise InputError(f"{task}@{alias} names no prompt yet, so there is nothing to run beside", hint="promote it without --canary")
    if incumbent == candidate:
        raise InputError(f"{task}@{alias} is prompt {candidate[:12]} already", hint="name another prompt, such as TASK@latest")
    if not 0 < share <= 1:
        raise InputError(f"the share of a canary is {share:.0%}", hint="give more than 0 and at most 100 percent")
    return Canary(
        id=os.urandom(6).hex(), task=task, alias=alias, candidate=candidate, incumbent=incumbent, share=float(share),
        salt=os.urandom(8).hex(), started=time.time(), mode=mode, planned=planned, who=who, note=note, forced=forced, receipt=receipt,
    )  # fmt: skip


def check_room(old: Canary | None, canary: Canary) -> None:
    """Nothing. Raises :class:`InputError` while ``old``, with another candidate, has a share of the same alias."""
    if old is not None and old.candidate != canary.candidate and old.incumbent == canary.incumbent:
        raise InputError(
            f"canary {old.id} runs beside {old.task}@{old.alias} with prompt {old.candidate[:12]}",
            hint=f"end it first: promptsmith promote {old.task} --to {old.alias} --stop-canary",
        )


def begun(old: Canary | None, canary: Canary) -> tuple[Canary, ...]:
    """What stands in the place of ``old``, which has a share of the alias, once ``canary`` was started; the last one is active.

    The same two prompts in the same mode: ``old`` with the new share, or else ``old``, ended, and ``canary``. Raises what
    :func:`check_room` does.
    """
    if old is None:
        return (canary,)
    if (old.candidate, old.incumbent, old.mode) == (canary.candidate, canary.incumbent, canary.mode):
        proof = {} if canary.forced else {"forced": False, "receipt": canary.receipt}
        return (msgspec.structs.replace(old, share=canary.share, **proof),)
    check_room(old, canary)
    return settled(old, Verdict("stopped", f"{canary.mode} {canary.id} took its place")), canary


def settled(canary: Canary, verdict: Verdict, counts: Counts | None = None) -> Canary:
    """``canary`` once ``verdict`` was written down: one that has ended, or was told the same before, stays as it is."""
    state, why, ends = verdict
    if canary.ended is not None or (canary.state == state and not ends):
        return canary
    ended = time.time() if ends else None
    if canary.state == state:  # complete: it stays what it was complete by
        return msgspec.structs.replace(canary, ended=ended)
    return msgspec.structs.replace(canary, state=state, why=why, ended=ended, counts=counts or canary.counts)


def arm_of(canary: Canary, sticky: str | None) -> Arm:
    """Which arm answers: for a ``sticky`` value always the same one, without one by chance.

    Who is on the candidate stays there when the share is raised.
    """
    if sticky is None:
        return "candidate" if SystemRandom().random() < canary.share else "incumbent"
    # Whatever text a client sends has a place, half a surrogate pair too.
    drawn = hashlib.sha256(f"{canary.salt}\n{sticky}".encode("utf-8", "surrogatepass")).digest()
    return "candidate" if int.from_bytes(drawn[:6]) < canary.share * 2**48 else "incumbent"


def serving(resolver: Resolver, canaries: CanaryStore, ref: str, sticky: str | None) -> Resolved:
    """What ``ref`` means for the caller ``sticky``: the candidate or the incumbent of the canary beside its alias, if one runs.

    A candidate that is not to be had here leaves the incumbent. Raises what :meth:`Resolver.resolve` does.
    """
    resolved = resolver.resolve(ref)
    task, _, alias = ref.partition("@")
    canary = canaries.active(task, alias or PRODUCTION)
    if canary is None or canary.mode == "shadow" or canary.incumbent != resolved.prompt.id:
        return resolved
    name = f"canary {canary.id}"
    if arm_of(canary, sticky) == "incumbent":
        return msgspec.structs.replace(resolved, chosen=f"{resolved.chosen}; {name} leaves this caller with the incumbent")
    try:
        found = resolver.resolve(f"{task}@{canary.candidate}")
    except PromptsmithError as error:
        return msgspec.structs.replace(resolved, chosen=f"{resolved.chosen}; the candidate of {name} is not here: {error.message}")
    return msgspec.structs.replace(found, chosen=f"{found.chosen} ({name} beside @{canary.alias} gives it this caller)")


# --- records ------------------------------------------------------------------------------------------------

_ADHERENT: dict[bool | None, bytes] = {True: b"+", False: b"-", None: b"?"}
_WRITTEN = {
    Outcome(arm, adherent, failed): arm[:1].encode() + (b"!" if failed else _ADHERENT[adherent]) + b"\n"
    for arm in ("candidate", "incumbent")
    for adherent in (True, False, None)
    for failed in (False, True)
}
_READ = {line[:-1]: Outcome(one.arm, None if one.failed else one.adherent, one.failed) for one, line in _WRITTEN.items()}
_FEW, _MANY = 1024, 1 << 20
"""Bytes read at a time: a server finds few new records, and making room for many takes 20 µs."""

# --- the file -----------------------------------------------------------------------------------------------

_Stamp = tuple[int, int, int]
_ABSENT: _Stamp = (0, 0, 0)
_UNREAD: _Stamp = (-1, -1, -1)


class _States(msgspec.Struct, frozen=True, kw_only=True):
    """The file of all states."""

    version: Literal[1] = 1
    canaries: tuple[Canary, ...] = ()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_States)


class _View(NamedTuple):
    """The file as it was at one moment; ``damage`` says why it could not be read, and the rest is then from before."""

    stamp: _Stamp
    states: _States
    active: dict[tuple[str, str], Canary]
    damage: str = ""


class CanaryFile:
    """Canaries in ``folder``, which is made by the first one. Safe to share between threads and across a fork."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._path = self._folder / FILE_NAME
        self._file = os.fspath(self._path)
        self._view = _View(_UNREAD, _States(), {})
        self._open: dict[str, int] = {}
        self._told = _UNREAD
        """The damage that was warned of."""

    # --- states -------------------------------------------------------------------------------------------

    def active(self, task: str, alias: str) -> Canary | None:
        """The canary that has a share of an alias.

        When the file is damaged, what it last said stays, with one warning; a process that never read it has none.
        """
        view = self._current()
        if view.damage and view.stamp != self._told:
            self._told = view.stamp
            so = "what it said before holds" if view.active else "no canary runs"
            warnings.warn(f"{view.damage}; {so}", CanaryWarning, stacklevel=3)
        return view.active.get((task, alias))

    def all(self) -> tuple[Canary, ...]:
        """Every canary that is remembered, oldest first. Raises :class:`StoreError` when the file is damaged."""
        return self._whole().canaries

    def start(self, canary: Canary, prompt: Prompt | None = None, receipt: Receipt | None = None) -> Canary:  # noqa: ARG002 - all on this machine
        """Starts ``canary``, or gives the running one of the same two prompts another share: who is on the candidate stays.

        Raises :class:`InputError` while another candidate runs beside the alias.
        """

        def change(known: tuple[Canary, ...]) -> tuple[tuple[Canary, ...], Canary]:
            old = next((one for one in known if _beside(one) == _beside(canary) and one.ended is None), None)
            after = begun(old, canary)
            if old is None:
                return (*known, *after), canary
            return (*_put(known, after[0]), *after[1:]), after[-1]

        return self._changed(change)

    def settle(self, canary_id: str, verdict: Verdict, counts: Counts | None = None) -> Canary:
        """Writes down how a canary stands; one that has ended stays as it is, and the same verdict twice changes nothing.

        Raises :class:`UnknownName` for one that is not known.
        """

        def change(known: tuple[Canary, ...]) -> tuple[tuple[Canary, ...], Canary]:
            old = next((one for one in known if one.id == canary_id), None)
            if old is None:
                raise UnknownName(f"there is no canary {canary_id}")
            after = settled(old, verdict, counts)
            return _put(known, after), after

        return self._changed(change)

    def _changed(self, change: Callable[[tuple[Canary, ...]], tuple[tuple[Canary, ...], Canary]]) -> Canary:
        try:
            private_folder(os.fspath(self._folder))
        except OSError as error:
            raise unwritable(os.fspath(self._folder), error) from error
        with exclusive(self._path) as target:
            before = self._whole().canaries
            after, one = change(before)
            if after != before:
                kept = _remembered(after)
                replace(target, msgspec.json.format(_encoder.encode(_States(canaries=kept)), indent=1) + b"\n")
                for gone in {each.id for each in after} - {each.id for each in kept}:
                    with contextlib.suppress(OSError):
                        os.unlink(self._outcomes_of(gone))
            return one

    def _whole(self) -> _States:
        view = self._current()
        if view.damage:
            raise StoreError(view.damage, hint=f"repair or remove {self._path}; without it no canary runs")
        return view.states

    def _current(self) -> _View:
        view = self._view
        try:
            found = os.stat(self._file)
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        except OSError:  # also a folder that nobody may look into: reading says so
            stamp = _ABSENT
        if stamp != view.stamp:
            view = self._view = self._read(stamp, view)
        return view

    def _read(self, stamp: _Stamp, before: _View) -> _View:
        try:
            data = self._path.read_bytes()
            states = _decoder.decode(data)
        except FileNotFoundError:
            return _View(_ABSENT, _States(), {})
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            what = reason(error) if isinstance(error, OSError) else str(error)
            damage = f"{self._path.name} can't be read: {what}"
            return before._replace(stamp=stamp, damage=damage)
        return _View(stamp, states, {_beside(one): one for one in states.canaries if one.ended is None})

    # --- outcomes -----------------------------------------------------------------------------------------

    def append(self, canary_id: str, outcome: Outcome) -> None:
        """Adds one outcome in one write. Raises ``OSError``."""
        fd = self._open.get(canary_id)
        os.write(self._opened(canary_id) if fd is None else fd, _WRITTEN[outcome])

    def outcomes(self, canary_id: str, after: int = 0) -> tuple[Sequence[Outcome], int]:
        """The outcomes from byte ``after`` on, and the byte after them. Raises ``OSError``.

        The beginning of a record, as a full disk leaves it, waits for its end; a line that is no record is left out.
        """
        fd = self._open.get(canary_id)
        if fd is not None:
            return _records(fd, after)
        try:
            fd = os.open(self._outcomes_of(canary_id), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            return (), after
        try:
            return _records(fd, after)
        finally:
            os.close(fd)

    def close(self, canary_id: str) -> None:
        """Closes the file of its outcomes; the next one opens it again."""
        fd = self._open.pop(canary_id, None)
        if fd is not None:
            os.close(fd)

    def end(self) -> None:
        """Closes all files; the next outcome opens its own again."""
        for canary_id in list(self._open):
            self.close(canary_id)

    def _opened(self, canary_id: str) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_BINARY"):
            flags |= getattr(os, name, 0)
        fd = os.open(self._outcomes_of(canary_id), flags, 0o600)
        kept = self._open.setdefault(canary_id, fd)
        if kept != fd:  # another thread was first
            os.close(fd)
        return kept

    def _outcomes_of(self, canary_id: str) -> str:
        if not re.fullmatch("[0-9a-f]{12}", canary_id):
            raise InputError(f"{canary_id[:80]!r} is no canary's id")
        return os.path.join(self._folder, f"{canary_id}{SUFFIX}")


def _records(fd: int, after: int) -> tuple[Sequence[Outcome], int]:
    data, size = _read_at(fd, after, _FEW), _FEW
    while len(data) == size:
        data += _read_at(fd, after + size, _MANY)
        size += _MANY
    end = data.rfind(b"\n") + 1
    return [_READ[line] for line in data[:end].split(b"\n") if line in _READ], after + end


def _read_at(fd: int, place: int, size: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, size, place)
    os.lseek(fd, place, os.SEEK_SET)
    return os.read(fd, size)


def _beside(canary: Canary) -> tuple[str, str]:
    return canary.task, canary.alias


def _put(known: tuple[Canary, ...], changed: Canary) -> tuple[Canary, ...]:
    return tuple(changed if one.id == changed.id else one for one in known)


def _remembered(canaries: tuple[Canary, ...]) -> tuple[Canary, ...]:
    """All that run, and the last :data:`KEPT` that ended."""
    ended = [one.id for one in canaries if one.ended is not None]
    dropped = set(ended[:-KEPT])
    return tuple(one for one in canaries if one.id not in dropped)
