"""``promptsmith promote``."""

from __future__ import annotations

import click

from ...errors import PromptsmithError, StoreError
from ...promotion import Promotion, needs_receipt, promote, refused
from ...receipt import Receipt
from ...registry.entry import check_alias, check_why
from ...registry.resolve import Resolved
from ..frame import Workspace, json_option, open_workspace, project_option, short, story, write_json


@click.command("promote")
@click.argument("ref")
@click.option("--to", "alias", default="production", show_default=True, metavar="ALIAS", help="The alias to move.")
@click.option("--why", default="", metavar="TEXT", help="The reason, kept in the lock's history.")
@click.option("--force", is_flag=True, help="Move a protected alias without the gate's consent; recorded as forced.")
@json_option
@project_option
def command(ref: str, alias: str, why: str, force: bool, as_json: bool, project_dir: str | None) -> None:
    """Move an alias to the prompt REF names; a bare task means the last one compiled here.

    A protected alias (production) moves when the gate says promote: by a report of exactly this eval if there is one, else
    by an eval that is run now. What production names already has its receipt renewed. Exit codes: 0 moved, 1 rejected,
    3 inconclusive.
    """
    workspace = open_workspace(project_dir)
    # Before an eval that may be paid for.
    check_alias(alias)
    check_why(why)
    resolved = workspace.resolver.resolve(ref, prefer="latest")
    story(f"{resolved.chosen} = {short(resolved.prompt.id)}")
    receipt, verdict = _evidence(workspace, resolved, alias, force=force)
    moved = promote(workspace.lock, workspace.project, resolved.prompt, alias=alias, why=why, force=force, receipt=receipt)
    if as_json:
        forced = moved.move is not None and moved.move.forced
        data = {"task": moved.task, "alias": alias, "from": moved.before, "to": moved.after, "verdict": verdict}
        write_json({**data, "moved": moved.move is not None, "forced": forced, "receipt": receipt.digest if receipt else None})
        return
    click.echo(_told(moved, receipt))


def _told(moved: Promotion, receipt: Receipt | None) -> str:
    place = f"{moved.task}@{moved.alias}"
    if moved.move is None:
        return f"{place} is {short(moved.after)} already"
    if moved.before == moved.after:
        how = f"with receipt {receipt.digest[:12]}" if receipt else "served as its task file says now"
        return f"{place} stays {short(moved.after)}, {how}"
    note = ""
    if moved.move.forced:
        note = f", forced (the gate says {receipt.verdict})" if receipt else ", forced (no receipt)"
    elif receipt is not None:
        note = f", receipt {receipt.digest[:12]}"
    return f"{place}: {short(moved.before)} -> {short(moved.after)}{note}"


def _evidence(workspace: Workspace, resolved: Resolved, alias: str, *, force: bool) -> tuple[Receipt | None, str | None]:
    """The receipt that goes into the lock and the gate's verdict. Raises :class:`GateError` when that is not promote."""
    if not needs_receipt(workspace.project, alias):
        return None, None
    from ...evals.receipts import receipt_of, recheck
    from ...evals.show.terminal import summary
    from ...evals.vocabulary import load_suite_task
    from ...proving import Prover
    from ...runtime.loop import LOOP
    from ..progress import progress

    name = resolved.prompt.task
    prover = Prover(workspace.project, workspace.store, workspace.lock)
    try:
        task = load_suite_task(workspace.find_task(name), name)
        report = prover.found(task, resolved)
    except PromptsmithError as error:
        if not force:
            raise
        story(f"no receipt goes with this move: {error.message}")
        return None, None
    if report is None and force:
        return None, None  # a forced move waits for nothing and pays for nothing
    if report is None:
        report = LOOP.wait(prover.evaluate(task, resolved, on_progress=progress()))
    story(summary(report))
    judgement = report.head.judgement
    if judgement.verdict != "promote" and not force:
        raise refused(resolved.prompt, alias, judgement, report.head.id)
    receipt = receipt_of(report)
    if recheck(receipt).verdict != judgement.verdict:
        raise StoreError(f"report {report.head.id} does not give the verdict it has written down", hint="run the eval again")
    return receipt, judgement.verdict
