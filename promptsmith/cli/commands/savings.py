"""``promptsmith savings``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ...budget import Limits
from ...errors import InputError
from ...task import Task
from ..frame import Workspace, json_option, open_workspace, project_option, short, story, table, write_json

if TYPE_CHECKING:
    from ...savings import Savings, Side

_KINDS = ("cold", "warm")


@click.command("savings")
@click.argument("ref", metavar="TASK")
@click.option("--strong", metavar="NAME", help="The model that would do everything otherwise (default: the meta-model).")
@click.option("--calls", type=click.IntRange(1), default=10_000, show_default=True, metavar="N", help="Add up what so many calls cost.")
@click.option("--max-cost", type=click.FloatRange(0), metavar="USD", help="Spend at most so many US dollars.")
@click.option("--max-calls", type=click.IntRange(0), metavar="N", help="Make at most so many calls.")
@click.option("--max-tokens", type=click.IntRange(0), metavar="N", help="Use at most so many tokens.")
@click.option("--max-seconds", type=click.FloatRange(0), metavar="S", help="Stop after so many seconds.")
@json_option
@project_option
def command(
    ref: str,
    strong: str | None,
    calls: int,
    max_cost: float | None,
    max_calls: int | None,
    max_tokens: int | None,
    max_seconds: float | None,
    as_json: bool,
    project_dir: str | None,
) -> None:
    """Measure what the compiled prompt on its cheap model saves against a strong model for everything.

    Both answer the holdout with the same compiled prompt, so that only the model differs, and are graded by the task's
    scorers. Costs are those of the tokens that the providers counted. It is a look at the holdout by this prompt, and
    decides nothing. Exit codes: 4 when some cases got no answer, 5 when a limit stopped it.
    """
    from ...evals.vocabulary import load_suite_task
    from ...runtime.loop import LOOP
    from ...savings import measure
    from ..progress import progress

    workspace = open_workspace(project_dir)
    resolved = workspace.resolver.resolve(ref, prefer="latest")
    name = resolved.prompt.task
    task = load_suite_task(workspace.find_task(name), name)
    story(f"{resolved.chosen} = {short(resolved.prompt.id)}")
    entry = workspace.registry.entry(name)
    limits = Limits(usd=max_cost, calls=max_calls, tokens=max_tokens, seconds=max_seconds)
    found = LOOP.wait(
        measure(
            workspace.project,
            workspace.store,
            task,
            resolved,
            strong or _meta_model(workspace, task),
            receipts=tuple(entry.receipts.values()) if entry else (),
            limits=limits,
            on_progress=progress(),
        )
    )
    if as_json:
        write_json(_data(found, calls))
    else:
        click.echo("\n".join(_told(found, calls)))
    if found.stopped:
        story(f"incomplete: {found.stopped}; the figures are about the cases that both answered")
        raise SystemExit(5 if found.by_limit else 4)


def _meta_model(workspace: Workspace, task: Task) -> str:
    named = task.meta.name if task.meta else workspace.project.config.models.meta
    if not named:
        raise InputError(
            "no strong model is named to compare with", hint="name one by --strong, or a meta-model in the task file or the settings"
        )
    return named


def _told(found: Savings, calls: int) -> Iterator[str]:
    from ...economics import after_calls
    from ...evals.show.words import count, dollars, plain, share, within

    cases = count(found.cheap.answered, "case")
    yield f"{found.task}@{short(found.prompt)}: {cases} of the holdout, the same compiled prompt for both models"
    rows = [
        [
            label,
            side.model,
            share(side.pass_rate),
            plain(side.score),
            *(dollars(_thousand(each)) for each in (side.cold, side.warm, side.paid)),
        ]
        for label, side in (("strong", found.strong), ("cheap", found.cheap))
    ]
    yield table(rows, ["", "model", "passed", "score", "1,000 calls cold", "warm", "as priced here"])
    for side in (found.strong, found.cheap):
        yield f"{side.model}: {_caching(side)}"
    if found.difference is not None:
        observed, lower, upper = found.difference
        yield f"cheap minus strong: {100 * observed:+.1f} points {within(lower, upper)}"
    for kind in _KINDS:
        yield f"saved {kind}: {share(found.saved(kind))}"
    paid = found.compile
    failed = f", and {count(paid.failed, 'failed call')} whose cost nobody knows" if paid.failed else ""
    yield f"compiles of this task so far: {dollars(paid.usd)} in {count(paid.calls, 'call')} by this ledger{failed}"
    for kind in _KINDS:
        cheap, strong = (after_calls(calls, before, getattr(side, kind)) for side, before in ((found.cheap, paid.usd), (found.strong, 0.0)))
        yield f"{calls:,} calls {kind}: {dollars(cheap)} with the compile against {dollars(strong)}; {_payback(found, kind)}"
    yield f"report {found.report} holds the cases"


def _thousand(each: float | None) -> float | None:
    return None if each is None else 1000 * each


def _caching(side: Side) -> str:
    tokens, seen = side.prefix
    if seen == "cached":
        return f"its provider cached {tokens:,} tokens of each call"
    if seen == "none":
        return "nothing of a call is cached by its provider, warm is cold"
    return "no call showed whether its provider caches the prompt, so warm is unknown"


def _payback(found: Savings, kind: str) -> str:
    calls = found.pays_from(kind)
    if calls is None:
        return "when the compile is paid back is unknown"
    return "the compile is never paid back" if calls == "never" else f"the compile is paid back after {calls:,} call{'s' * (calls != 1)}"


def _data(found: Savings, calls: int) -> dict[str, Any]:
    from ...economics import after_calls

    def of(side: Side, investment: float | None) -> dict[str, Any]:
        return {
            "model": side.model,
            "pass_rate": side.pass_rate,
            "score": side.score,
            **{f"{kind}_per_1k_usd": _thousand(getattr(side, kind)) for kind in (*_KINDS, "paid")},
            "provider_cache": {"tokens": side.prefix.tokens, "seen": side.prefix.seen},
            "calls_usd": {kind: after_calls(calls, investment, getattr(side, kind)) for kind in _KINDS},
        }

    return {
        "task": found.task,
        "prompt": found.prompt,
        "chosen": found.chosen,
        "same_prompt": True,
        "report": found.report,
        "cases": found.cases,
        "answered": found.cheap.answered,
        "strong": of(found.strong, 0.0),
        "cheap": of(found.cheap, found.compile.usd),
        "difference": found.difference,
        "saved": {kind: found.saved(kind) for kind in _KINDS},
        "compile": {"usd": found.compile.usd, "calls": found.compile.calls, "failed": found.compile.failed},
        "calls": calls,
        "pays_from": {kind: found.pays_from(kind) for kind in _KINDS},
        "stopped": found.stopped,
    }
