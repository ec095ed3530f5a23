"""``promptsmith export``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import InputError, PromptsmithError, StoreError
from ...prompt import Prompt, layout, read_examples
from ..frame import Workspace, open_workspace, project_option, short, story

if TYPE_CHECKING:
    from ...task import Example

FORMATS = ("promptfoo", "github", "dotprompt", "prompty", "openai", "anthropic", "text")


@click.command("export")
@click.argument("ref")
@click.option("--to", "form", type=click.Choice(FORMATS), required=True, help="The format to write.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write (default: standard output).")
@click.option("--force", is_flag=True, help="Write over FILE if it is there.")
@project_option
def command(ref: str, form: str, out: Path | None, force: bool, project_dir: str | None) -> None:
    """Write the prompt REF names as a file of another tool, or as a ready request body.

    What the format can't carry is named on stderr. Visible examples go along where the format has tests; sealed
    cases never do.
    """
    from ...formats import Outgoing, exported

    workspace = open_workspace(project_dir)
    resolved = workspace.resolver.resolve(ref, prefer="latest")
    prompt = resolved.prompt
    text, notes = exported(Outgoing(prompt=prompt, examples=_visible(workspace, prompt)), form)
    for note in notes:
        story(note)
    story(f"{resolved.chosen}, prompt {short(prompt.id)}, as {form}")
    if out is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    _write(out, text, force=force)
    story(f"wrote {out}")


def _visible(workspace: Workspace, prompt: Prompt) -> tuple[Example, ...]:
    """The task's visible examples; those in the prompt when the task has gone or takes other inputs by now."""
    from ...task import Example, load_task

    path = workspace.project.task_file(prompt.task)
    try:
        task = load_task(path, name=prompt.task) if path.is_file() else None
    except PromptsmithError as error:
        story(f"the task file can't be read, so the examples are those in the prompt: {error}")
        task = None
    if task is not None and layout(task.inputs) == layout(prompt.inputs):
        return task.examples
    return tuple(Example(id="", inputs=pair.inputs, output=pair.output, json=pair.json) for pair in read_examples(prompt.system))


def _write(path: Path, text: str, *, force: bool) -> None:
    """Gives the file its name when it is whole. Raises :class:`InputError` when one is there and ``force`` is not set."""
    from ...formats.taskfile import place_new
    from ...store.whole import drafted

    if not force and os.path.lexists(path):
        raise InputError(f"{path} is there already", hint="give another name, or --force")
    try:
        with drafted(path, text.encode()) as draft:
            draft.chmod(0o644)  # whatever the file that is written over has
            if force:
                os.replace(draft, path)
            else:
                place_new(draft, path)
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror}") from None
