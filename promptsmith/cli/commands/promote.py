"""``promptsmith promote``."""

from __future__ import annotations

import click
import msgspec

from ...errors import InputError, PromptsmithError
from ...promotion import Promotion, check_reason, is_forced, needs_receipt, promote, proof
from ...receipt import Receipt
from ...registry.canaries import check_room, new_canary
from ...registry.canary_stores import open_canaries
from ...registry.entry import check_alias, check_why
from ...registry.moving import whoami
from ...registry.resolve import Resolved
from ..canaries import begin, stop
from ..canaries import moved as ended_by_move
from ..frame import Workspace, json_option, open_workspace, project_option, short, story, write_json


@click.command("promote")
@click.argument("ref")
@click.option("--to", "alias", default="production", show_default=True, metavar="ALIAS", help="The alias to move.")
@click.option("--why", default="", metavar="TEXT", help="The reason, kept in the lock's history.")
@click.option("--force", is_flag=True, help="Move a protected alias without the gate's consent; recorded as forced.")
@click.option(
    "--canary",
    "percent",
    type=click.FloatRange(0, 100, min_open=True),
    metavar="PERCENT",
    help="Don't move the alias yet: the service lets REF answer this share of the callers, and watches.",
)
@click.option("--shadow", is_flag=True, help="Don't move the alias: the service asks REF beside it and throws the answers away.")
@click.option(
    "--canary-calls",
    "planned",
    type=click.IntRange(1),
    metavar="N",
    help="Calls of REF after which a canary may be complete (default: 1000).",
)
@click.option("--stop-canary", is_flag=True, help="End what --canary or --shadow began beside the alias of the task REF.")
@json_option
@project_option
def command(
    ref: str,
    alias: str,
    why: str,
    force: bool,
    percent: float | None,
    shadow: bool,
    planned: int | None,
    stop_canary: bool,
    as_json: bool,
    project_dir: str | None,
) -> None:
    """Move an alias to the prompt REF names; a bare task means the last one compiled here.

    A protected alias (production) moves when the gate says promote: by a report of exactly this eval if there is one, else
    by an eval that is run now. What production names already has its receipt renewed. A canary or shadow of a protected
    alias needs the same consent. Exit codes: 0 moved (or begun), 1 rejected, 3 inconclusive.
    """
    workspace = open_workspace(project_dir)
    # Before an eval that may be paid for.
    check_alias(alias)
    check_why(why)
    begins = percent is not None or shadow
    if stop_canary:
        if begins or force or planned:
            raise click.UsageError("--stop-canary goes with --to and --why alone")
        stop(workspace, ref.partition("@")[0], alias, why, as_json=as_json)
        return
    if planned and not begins:
        raise click.UsageError("--canary-calls goes with --canary or --shadow")
    resolved = workspace.resolver.resolve(ref, prefer="latest")
    story(f"{resolved.chosen} = {short(resolved.prompt.id)}")
    if begins:
        share = 1.0 if percent is None else percent / 100
        _begin(workspace, resolved, alias, share=share, shadow=shadow, planned=planned, why=why, force=force, as_json=as_json)
        return
    receipt, verdict = _evidence(workspace, resolved, alias, force=force)
    moved = promote(workspace.registry, workspace.project, resolved.prompt, alias=alias, why=why, force=force, receipt=receipt)
    ended_by_move(workspace, moved.task, alias)
    if as_json:
        forced = moved.move is not None and moved.move.forced
        data = {"task": moved.task, "alias": alias, "from": moved.before, "to": moved.after, "verdict": verdict}
        write_json({**data, "moved": moved.move is not None, "forced": forced, "receipt": receipt.digest if receipt else None})
        return
    click.echo(_told(moved, receipt))


def _begin(
    workspace: Workspace,
    resolved: Resolved,
    alias: str,
    *,
    share: float,
    shadow: bool,
    planned: int | None,
    why: str,
    force: bool,
    as_json: bool,
) -> None:
    check_reason(why, force=force)
    prompt = resolved.prompt
    canary = new_canary(
        prompt.task,
        alias,
        candidate=prompt.id,
        incumbent=workspace.registry.resolve(prompt.task, alias),
        share=share,
        mode="shadow" if shadow else "canary",
        who=whoami(workspace.project.root),
        note=why,
    )
    old = open_canaries(workspace.project, workspace.registry, patient=True).active(prompt.task, alias)
    check_room(old, canary)
    same = old is not None and (old.candidate, old.incumbent, old.mode) == (canary.candidate, canary.incumbent, canary.mode)
    if old is not None and same and planned not in {None, old.planned}:
        told = f"canary {old.id} is looked at after {old.planned} calls, and that stands while it runs"
        raise InputError(told, hint="end it first: --stop-canary")
    receipt, verdict = _evidence(workspace, resolved, alias, force=force)
    forced = is_forced(workspace.project, prompt, alias, force=force, receipt=receipt)
    proof = receipt.digest if receipt else None
    canary = msgspec.structs.replace(canary, forced=forced, receipt=proof, planned=planned or canary.planned)
    begin(workspace, canary, prompt, receipt, verdict, as_json=as_json)


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
    from ...evals.show.terminal import summary
    from ...evals.vocabulary import load_suite_task
    from ...proving import Prover
    from ...runtime.loop import LOOP
    from ..progress import progress

    name = resolved.prompt.task
    prover = Prover(workspace.project, workspace.store, workspace.registry)
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
    return proof(report, resolved.prompt, alias, force=force), report.head.judgement.verdict
