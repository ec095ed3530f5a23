"""``promptsmith retarget``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ...compiler.material import Options
from ...errors import NotCompiled
from ...registry.resolve import Resolved
from ...task import Task
from ...task.values import PREFERENCES
from ..compiling import compiled, unfinished
from ..confirming import confirm_search
from ..frame import Workspace, json_option, open_workspace, project_option, short, story, table, write_json

if TYPE_CHECKING:
    from ...compiler.model_edit import Edit
    from ...prompt import Prompt


@click.command("retarget")
@click.argument("ref", metavar="TASK")
@click.option("--model", required=True, metavar="NAME", help="The production model to compile for.")
@click.option("--meta-model", metavar="NAME", help="The strong model that adapts the prompt.")
@click.option("-O", "level", type=click.IntRange(0, 3), metavar="LEVEL", help="Another level than the current prompt's.")
@click.option("--candidates", type=click.IntRange(1), metavar="N", help="Compare so many candidates, from -O2.")
@click.option("--prefer", type=click.Choice(PREFERENCES), help="What decides among the best candidates, from -O2 (score).")
@click.option("--max-cost", "max_usd", type=click.FloatRange(0), metavar="USD", help="Spend at most so many US dollars.")
@click.option("--max-calls", type=click.IntRange(0), metavar="N", help="Make at most so many calls.")
@click.option("--max-tokens", type=click.IntRange(0), metavar="N", help="Use at most so many tokens.")
@click.option("--max-seconds", type=click.FloatRange(0), metavar="S", help="Stop after so many seconds.")
@click.option("--yes", is_flag=True, help="Do not ask before a search that may cost more than compile.confirm_usd.")
@click.option("--dry-run", is_flag=True, help="Show what would be asked and edited; call and write nothing.")
@click.option("--write", is_flag=True, help="Edit the task file so that it names the model.")
@json_option
@project_option
def command(
    ref: str,
    model: str,
    meta_model: str | None,
    level: int | None,
    dry_run: bool,
    write: bool,
    yes: bool,
    as_json: bool,
    project_dir: str | None,
    **chosen: Any,
) -> None:
    """Compile a task for another production model, beginning with its current prompt.

    The current prompt is the one in production, else the last compiled here (TASK may also be TASK@ALIAS or TASK@ID). It is
    compiled with the options that it was made with: by the template at -O0, else by the meta-model, which is shown the
    current prompt; from -O2 that takes part in the search. Promotes nothing: eval and promote do that.
    """
    import msgspec

    from ...compiler.model_edit import model_edit, write_model
    from ...compiler.retarget import options_for
    from ...evals.vocabulary import load_suite_task

    workspace = open_workspace(project_dir)
    current = _current(workspace, ref)
    before, name = current.prompt, current.prompt.task
    path = workspace.find_task(name)
    task = load_suite_task(path, name)
    options = options_for(before, task, workspace.project.config, model, meta_model=meta_model, level=level)
    given = {name: value for name, value in chosen.items() if value is not None}
    options = msgspec.structs.replace(options, **given)
    story(f"{current.chosen} = {short(before.id)}, for {before.model}")
    edit = None if options.model is None else model_edit(path, model)
    shown = workspace.project.relative(path)
    if dry_run:
        _dry_run(workspace, task, options, before, edit, shown, as_json=as_json)
        return
    confirm_search(workspace, task, options, yes=yes, start=before)
    built = compiled(workspace, task, options, as_json=as_json, start=before)
    after = built.prompt
    reason, code = unfinished(built)
    written = write and edit is not None and not code
    if written and edit is not None:
        write_model(path, task, model, edit, _unchanged(workspace, task, options))
        # Asked for by the file alone now: the same build, and kept as what the file says.
        after = _found(workspace, load_suite_task(path, name), msgspec.structs.replace(options, model=None), before) or after
    sides = [_side(workspace, task, prompt) for prompt in (before, after)]
    if as_json:
        write_json({**_data(before, after, sides, edit, shown, written=written), "unfinished": reason})
        raise SystemExit(code)
    for note in built.notes:
        story(f"{name}: {note}")
    click.echo("\n".join(_told(before, after, sides)))
    if code:
        # Nothing to build on unseen, so the file stays as it is.
        click.echo(f"unfinished ({reason}), and {shown} is as it was: the same command for {name}@{short(before.id)} goes on from here")
        raise SystemExit(code)
    click.echo("\n".join(_edit_lines(edit, shown, model, written=written)))
    click.echo(f"next: promptsmith eval {name}@{short(after.id)}, then promptsmith promote {name}@{short(after.id)}")


def _current(workspace: Workspace, ref: str) -> Resolved:
    try:
        return workspace.resolver.resolve(ref)
    except NotCompiled:
        if "@" in ref:
            raise
        return workspace.resolver.resolve(ref, prefer="latest")


def _found(workspace: Workspace, task: Task, options: Options, before: Prompt) -> Prompt | None:
    from ...compiler.build import ProjectCompiler

    found = ProjectCompiler(workspace.project, workspace.store).cached(task, options, start=before)
    return found.prompt if found else None


def _unchanged(workspace: Workspace, task: Task, options: Options) -> Any:
    """A check that an edited task file says the same as the compile that was just made."""
    import msgspec

    from ...compiler.material import material

    config = workspace.project.config
    expected = material(task, config, options).parts()
    by_file = msgspec.structs.replace(options, model=None)
    return lambda edited: material(edited, config, by_file).parts() == expected


def _dry_run(workspace: Workspace, task: Task, options: Options, before: Prompt, edit: Edit | None, shown: str, *, as_json: bool) -> None:
    from ...compiler.build import started
    from ...compiler.dry_run import dry_run
    from ...compiler.material import material
    from ...models.directory import Directory

    directory = Directory(workspace.project)
    source = started(material(task, workspace.project.config, options), before)
    directory.check(source.model.name)
    plan = dry_run(source, directory.rates.find)
    if as_json:
        write_json({**plan.as_data(), "current": before.id, "edit": _edit_data(edit, shown)})
        return
    click.echo(plan.as_text())
    click.echo("\n".join(_edit_lines(edit, shown, source.model.name, written=False)))


# --- what changed -----------------------------------------------------------------------------------------


class _Side(NamedTuple):
    """A prompt with its model: what its provider caches of it and what its calls cost."""

    model: str
    tokens: int
    least: int
    cacheable: bool
    cold: float | None
    """US dollars of a call, estimated."""
    warm: float | None


def _side(workspace: Workspace, task: Task, prompt: Prompt) -> _Side:
    from ...catalog.models import facts
    from ...economics import estimated
    from ...models.caching import cacheable, static_tokens
    from ...models.directory import Directory

    known = facts(workspace.project.config.catalog_name(prompt.model))
    each = estimated(prompt, known, Directory(workspace.project).rates.find(prompt.model), task.examples)
    tokens = static_tokens(prompt.system, known)
    return _Side(prompt.model, tokens, known.cache_minimum, cacheable(prompt.system, known), each.cold, each.warm)


def _told(before: Prompt, after: Prompt, sides: list[_Side]) -> Iterator[str]:
    from ...compiler.retarget import text_change
    from ...evals.show.words import dollars

    yield f"{before.task}: {short(before.id)} -> {short(after.id)}, -O{after.provenance.level} ({after.provenance.level_why})"
    rows = [
        [label, side.model, str(side.tokens), _caching(side), *(dollars(None if each is None else 1000 * each) for each in side[-2:])]
        for label, side in zip(("before", "after"), sides, strict=True)
    ]
    yield table(rows, ["", "model", "prompt tokens", "provider cache", "1,000 calls cold", "warm"])
    yield "tokens are estimated; a call has an input and an answer as long as the visible examples' mean, without reasoning"
    yield f"text: {text_change(before, after).words()} (promptsmith diff {before.task}@{short(before.id)} {after.task}@{short(after.id)})"


def _caching(side: _Side) -> str:
    if side.cacheable:
        return f"cacheable (least {side.least})"
    return f"too short (least {side.least})" if side.least else "none known"


def _edit_lines(edit: Edit | None, shown: str, model: str, *, written: bool) -> Iterator[str]:
    if edit is None:
        yield f"{shown} names {model} already"
        return
    yield f"{'wrote' if written else 'to keep it, --write edits'} {shown}, line {edit.line}:"
    yield from (f"- {line}" for line in edit.removed)
    yield from (f"+ {line}" for line in edit.added)


def _edit_data(edit: Edit | None, shown: str) -> dict[str, Any] | None:
    if edit is None:
        return None
    return {"file": shown, "line": edit.line, "removed": list(edit.removed), "added": list(edit.added)}


def _data(before: Prompt, after: Prompt, sides: list[_Side], edit: Edit | None, shown: str, *, written: bool) -> dict[str, Any]:
    from ...compiler.retarget import text_change

    def of(prompt: Prompt, side: _Side) -> dict[str, Any]:
        per_1k = {f"{kind}_per_1k_usd": None if each is None else 1000 * each for kind, each in (("cold", side.cold), ("warm", side.warm))}
        return {"id": prompt.id, "model": side.model, "tokens": side.tokens, "cacheable": side.cacheable, **per_1k}

    old, new = sides
    return {
        "task": before.task,
        "level": after.provenance.level,
        "before": of(before, old),
        "after": of(after, new),
        "text": text_change(before, after)._asdict(),
        "edit": _edit_data(edit, shown),
        "written": written,
    }
