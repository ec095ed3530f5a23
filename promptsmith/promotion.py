"""Promote and roll back: the only way an alias moves."""

from __future__ import annotations

from functools import partial

import msgspec

from .config import Project
from .errors import GateError, InputError, StoreError, Unproven
from .evals.gate import Judgement
from .evals.receipts import receipt_of, recheck, whole_receipt
from .evals.report import Report, Reports
from .prompt import Prompt
from .receipt import Receipt
from .registry.protocol import Find, Move, Registry


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """What a move came to. ``move`` is ``None`` when the alias stood there already, served alike and with the same receipt."""

    task: str
    alias: str
    before: str | None
    after: str | None
    move: Move | None


def needs_receipt(project: Project, alias: str) -> bool:
    """Whether an alias moves only with evidence: ``production`` does, unless the project's settings say otherwise."""
    return alias in project.config.protected


def promote(
    registry: Registry,
    project: Project,
    prompt: Prompt,
    *,
    alias: str,
    why: str,
    who: str | None = None,
    force: bool = False,
    receipt: Receipt | None = None,
) -> Promotion:
    """Moves ``alias`` to ``prompt`` by compare-and-swap against what it names now. ``who`` does it; ``None``: the user here.

    A protected alias (``production`` by default) needs a receipt that says promote, or ``force`` with a reason: then
    the move is recorded as forced, and the receipt goes with it where there is one. Raises :class:`GateError`,
    :class:`LockConflict`, :class:`LockError`.
    """
    before = registry.resolve(prompt.task, alias)
    check_reason(why, force=force)
    if before == prompt.id and receipt is None and needs_receipt(project, alias) and not force:
        return Promotion(task=prompt.task, alias=alias, before=before, after=prompt.id, move=None)
    forced = is_forced(project, prompt, alias, force=force, receipt=receipt)
    move = registry.move(prompt.task, alias, prompt, expected=before, who=who, why=why, forced=forced, receipt=receipt)
    return Promotion(task=prompt.task, alias=alias, before=before, after=prompt.id, move=move)


def check_reason(why: str, *, force: bool) -> None:
    """Nothing. Raises :class:`InputError` for a forced move without a reason."""
    if force and not why.strip():
        raise InputError("a forced move needs a reason", hint="--why 'what you know that the gate does not'")


def is_forced(project: Project, prompt: Prompt, alias: str, *, force: bool, receipt: Receipt | None) -> bool:
    """Whether ``prompt`` comes to ``alias`` by force alone. Raises :class:`GateError` when it may not come there at all."""
    proven = receipt is not None and receipt.verdict == "promote"
    if needs_receipt(project, alias) and not proven and not force:
        raise GateError(
            f"{prompt.task}@{alias} is protected, and prompt {prompt.id[:12]} has no receipt that shows it may go there",
            hint="promptsmith promote runs the eval that decides; with --force --why '…' it moves all the same and is recorded as forced",
        )
    return needs_receipt(project, alias) and force and not proven


def refused(prompt: Prompt, alias: str, judgement: Judgement, report: str) -> GateError:
    """What to say when the gate does not let ``prompt`` through."""
    kind, verdict = (GateError, "is rejected") if judgement.verdict == "reject" else (Unproven, "is not proven (inconclusive)")
    return kind(
        f"{prompt.task}@{alias} stays where it is: prompt {prompt.id[:12]} {verdict}: {'; '.join(judgement.reasons)}",
        hint=f"promptsmith report {report} shows every case; --force --why '…' moves it all the same and is recorded as forced",
    )


def proof(report: Report, prompt: Prompt, alias: str, *, force: bool = False) -> Receipt:
    """The receipt of a report that lets ``prompt`` go to ``alias``, or of any report with ``force``.

    Raises :class:`GateError` for a report that does not let it, :class:`StoreError` for one that was changed.
    """
    judgement = report.head.judgement
    if judgement.verdict != "promote" and not force:
        raise refused(prompt, alias, judgement, report.head.id)
    receipt = receipt_of(report)
    if recheck(receipt).verdict != judgement.verdict:
        raise StoreError(f"report {report.head.id} does not give the verdict it has written down", hint="run the eval again")
    return receipt


def rollback(
    registry: Registry, task: str, *, alias: str, why: str, who: str | None = None, find: Find, reports: Reports | None = None
) -> Promotion:
    """Moves ``alias`` back to what it named before; from its first promotion, to nothing. ``who`` does it; ``None``: the user here.

    Works without cache and network as long as the lock holds the earlier prompt; ``find`` looks further. The rows of its
    receipt come back from ``reports`` where the report is still there.
    """
    before = registry.resolve(task, alias)
    whole = partial(whole_receipt, reports) if reports is not None else None
    move = registry.rollback(task, alias, expected=before, who=who, why=why, find=find, whole=whole)
    return Promotion(task=task, alias=alias, before=before, after=move.to, move=move)
