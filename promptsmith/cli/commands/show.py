"""``promptsmith show``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from ...catalog.tokens import estimate
from ...contract import format_lines
from ...models.economy import economy
from ...registry.resolve import Resolved
from ..frame import Workspace, open_workspace, project_option, story, styled, width, write_json


@click.command("show")
@click.argument("ref")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "openai", "anthropic"]),
    default="text",
    show_default=True,
    help="The text alone, everything as JSON, or a provider's request body.",
)
@click.option("--provenance", is_flag=True, help="Show where the prompt comes from: its search with every candidate.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write that as one offline HTML page.")
@project_option
def command(ref: str, form: str, provenance: bool, html: Path | None, project_dir: str | None) -> None:
    """Show the prompt REF names: its system text on stdout, what is known about it on stderr."""
    if (provenance or html) and form not in ("text", "json"):
        raise click.UsageError(f"--format {form} is a request body: --provenance is text or json")
    workspace = open_workspace(project_dir)
    resolved = workspace.resolver.resolve(ref, prefer="latest")
    prompt = resolved.prompt
    if provenance or html:
        _provenance(workspace, resolved, html, as_json=form == "json")
        return
    if form == "json":
        data: dict[str, Any] = msgspec.to_builtins(prompt)
        write_json({**data, "chosen": resolved.chosen, "origin": resolved.origin})
        return
    if form in ("openai", "anthropic"):
        from ...formats.bodies import request_body

        write_json(request_body(prompt, form))
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
    for label, line in economy(workspace.project, prompt):
        story(f"{label:<9} {line}")
    story("")
    click.echo(prompt.system)


def _provenance(workspace: Workspace, resolved: Resolved, html: Path | None, *, as_json: bool) -> None:
    """Where a prompt comes from: on stdout, unless it is only wanted as a page."""
    from ...compiler.search.kept import Kept, record_of
    from ...compiler.search.terminal import terminal

    kept = Kept(resolved.chosen, resolved.origin, resolved.prompt, record_of(workspace.store, resolved.prompt))
    if as_json:
        write_json(kept.data())
    elif html is None:
        click.echo(terminal(kept, width=width(), color=styled()))
    if html is not None:
        from ...evals.record import write_whole
        from ...pages.provenance import html as page

        write_whole(html, page(kept).encode("utf-8", "replace"), "the page")
        story(f"written: {html}")
