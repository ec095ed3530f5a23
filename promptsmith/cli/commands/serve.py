"""``promptsmith serve``."""

from __future__ import annotations

import warnings
from typing import Any

import click

from ..frame import open_project, project_option


@click.command("serve")
@click.option("--host", help="Where to listen (default: 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="The port; 0: any that is free (default: 8337).")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes that share the port (default: 1).")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@project_option
def command(project_dir: str | None, log_level: str, **given: Any) -> None:
    """Serve the promoted prompts to any client of OpenAI's or Anthropic's API, with a prompt's name as the model.

    The address goes to stdout once requests are answered there, the log to stderr, a line of JSON each. SIGTERM lets what is
    under way finish, SIGHUP reads the settings again; a promotion needs neither.
    """
    import msgspec

    from ...service.logs import Log
    from ...service.workers import serve

    project = open_project(project_dir)
    chosen = {name: value for name, value in given.items() if value is not None}
    service = msgspec.structs.replace(project.config.service, **chosen)
    project = msgspec.structs.replace(project, config=msgspec.structs.replace(project.config, service=service))
    log = Log(log_level)  # type: ignore[arg-type]  # click has checked it
    with warnings.catch_warnings():
        # Where a log is read by programs, a damaged lock must not be a line of another kind; and each time is told.
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_args, **_more: log.event("trouble", "warning", error=str(message))
        serve(project, log, click.echo)
