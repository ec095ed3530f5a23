"""``promptsmith plan trace``."""

from __future__ import annotations

from pathlib import Path

import click

from ..frame import json_option, open_workspace, project_option, story, styled, width


@click.command("trace")
@click.argument("run", metavar="RUN|FILE")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it as one offline HTML page.")
@json_option
@click.option("--otel", is_flag=True, help="Write its OpenTelemetry spans as JSON, a span a line (extra: otel).")
@click.option("--content", is_flag=True, help="With --otel: spans with the texts that were sent and answered.")
@project_option
def trace_command(run: str, html: Path | None, as_json: bool, otel: bool, content: bool, project_dir: str | None) -> None:
    """Show what a run of a plan did: its steps, timings, cost, decisions, and its answer.

    RUN is the key of a run kept in the cache, or how it begins. FILE is what --json wrote.
    """
    from ...orchestration.outcomes import as_json as encoded
    from ...orchestration.outcomes import load_outcome, read_outcome

    if as_json and otel:
        raise click.UsageError("--json is the whole run, --otel its spans: give one of them")
    path = Path(run)
    is_file = path.suffix == ".json" or path.is_file()
    outcome = read_outcome(path) if is_file else load_outcome(open_workspace(project_dir).store, run)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(encoded(outcome), indent=2).decode())
    elif otel:
        from ...orchestration.otel import span_lines

        for line in span_lines(outcome, content=content):
            click.echo(line)
    elif html is None:
        from ...orchestration.terminal import terminal

        click.echo(terminal(outcome, width=width(), color=styled()))
    if html is not None:
        from ...evals.record import write_whole
        from ...pages.trace import html as page

        write_whole(html, page(outcome).encode("utf-8", "replace"), "the page")
        story(f"written: {html}")
