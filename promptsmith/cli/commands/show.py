"""``promptsmith show``."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ...catalog.tokens import estimate
from ...contract import format_lines
from ..frame import open_workspace, project_option, story, write_json


@click.command("show")
@click.argument("ref")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="The text alone, or everything as JSON.",
)
@project_option
def command(ref: str, form: str, project_dir: str | None) -> None:
    """Show the prompt REF names: its system text on stdout, what is known about it on stderr."""
    workspace = open_workspace(project_dir)
    resolved = workspace.resolver.resolve(ref, prefer="latest")
    prompt = resolved.prompt
    if form == "json":
        data: dict[str, Any] = msgspec.to_builtins(prompt)
        write_json({**data, "chosen": resolved.chosen, "origin": resolved.origin})
        return
    made = prompt.provenance
    story(f"{resolved.chosen}, from the {resolved.origin}")
    story(f"id        {prompt.id}")
    story(f"model     {prompt.model} {' '.join(f'{name}={value}' for name, value in prompt.parameters.items())}".rstrip())
    story(f"compiled  {made.created} by promptsmith {made.version}, -O{made.level} ({made.level_why}), seed {made.seed}")
    story(f"examples  {made.shown} in the prompt, about {estimate(prompt.system)} tokens in all (estimated)")
    story(f"contract  {'inferred: ' if prompt.contract.inferred else ''}{format_lines(prompt.contract)[0]}")
    for variable in prompt.inputs:
        story(f"input     {variable.name}{' (default given)' if variable.default is not None else ''}")
    story("")
    click.echo(prompt.system)
