"""The receipts of a lock, their verdicts computed again from their rows; needs no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from ..errors import LockError, TamperedError, UnknownName, did_you_mean
from ..receipt import Receipt
from ..registry.entry import Entry
from ..registry.protocol import Registry
from .receipts import recheck

State = Literal["proven", "forced", "no receipt", "no rows", "differs", "damaged"]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One alias of the lock, and whether its receipt says what its rows say."""

    task: str
    alias: str
    prompt: str
    receipt: str = ""
    state: State
    why: str = ""

    def failed(self, *, strict: bool) -> bool:
        """What is not proven fails only a strict check, unless it is wrong."""
        return self.state in ("differs", "damaged") or (strict and self.state != "proven")

    def as_data(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def cells(self) -> tuple[str, ...]:
        return (f"{self.task}@{self.prompt[:12]}", self.alias, self.receipt[:12] or "-", self.state, self.why)


def check_lock(registry: Registry, tasks: Sequence[str] = ()) -> list[Checked]:
    """Every alias of the lock (of these tasks). Raises :class:`UnknownName` for a task that is not in it."""
    known = registry.tasks()
    for name in tasks:
        if name not in known:
            raise UnknownName(f"the lock has no task {name!r}", hint=did_you_mean(name, known))
    return [row for name in tasks or known for row in _task(registry, name)]


def _task(registry: Registry, name: str) -> Iterator[Checked]:
    try:
        entry = registry.entry(name)
        if entry is None:
            return
        entry.check()
    except LockError as error:
        yield Checked(task=name, alias="-", prompt="", state="damaged", why=error.message)
        return
    for alias, prompt_id in entry.aliases.items():
        yield _alias(entry, alias, prompt_id)


def _alias(entry: Entry, alias: str, prompt_id: str) -> Checked:
    forced = entry.forced(alias)
    receipt = entry.receipts.get(prompt_id)
    found: tuple[State, str] = ("no receipt", "") if receipt is None else _receipt(receipt)
    state, why = found
    if state not in {"differs", "damaged"} and forced is not None:
        state, why = "forced", f"{forced.why}; the gate said {receipt.verdict}" if receipt else forced.why
    return Checked(task=entry.task, alias=alias, prompt=prompt_id, receipt=receipt.digest if receipt else "", state=state, why=why)


def _receipt(receipt: Receipt) -> tuple[State, str]:
    try:
        receipt.verified()
        if receipt.counts.cases and not receipt.rows:
            return "no rows", "its rows left the lock when another prompt took its place: promote it again to renew its receipt"
        judgement = recheck(receipt)
    except TamperedError as error:
        return "damaged", error.message
    if judgement.verdict != receipt.verdict:
        return "differs", f"the receipt says {receipt.verdict}, its rows say {judgement.verdict}: {'; '.join(judgement.reasons)}"
    if judgement.verdict != "promote":
        return "no receipt", f"its receipt says {judgement.verdict}: {'; '.join(judgement.reasons)}"
    return "proven", "; ".join(judgement.reasons)
