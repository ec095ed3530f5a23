"""``promptsmith demo``."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

import click

_INPUTS = (
    "The battery died after two days and nobody answers my mails.",
    "Best headphones I have ever owned, thank you!",
    "Which colours does the lamp come in?",
)


@click.command("demo")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def command(folder: Path | None) -> None:
    """Compile, serve, promote and roll back in a folder of its own (default: a new temporary one), with no key."""
    place = folder or Path(tempfile.mkdtemp(prefix="promptsmith-demo-"))
    click.echo(f"# A project of its own in {place}. The model is builtin/nearest, which is no language model:")
    click.echo("# it answers by the nearest examples of the compiled prompt, so everything below is real and needs no key.")
    _say("A new project: one task with 20 visible and 40 sealed examples.")
    _run("init", str(place))
    at = ("--project", str(place))
    _say("Compile it with room for few examples, and put it into production (forced: the eval gate is not part of this).")
    click.echo("# The first message is a complaint; so few examples may well get it wrong.")
    _run(*at, "compile", "sentiment", "--example-tokens", "150")
    _run(*at, "promote", "sentiment", "--force", "--why", "first prompt, small example budget")
    _serve(at)
    _say("The same task with room for all examples is another prompt.")
    _run(*at, "compile", "sentiment", "--example-tokens", "6000")
    _run(*at, "promote", "sentiment", "--force", "--why", "all examples")
    _serve(at)
    _say("What is in production, how it came there, and back again.")
    _run(*at, "list")
    _run(*at, "rollback", "sentiment", "--why", "show that it takes one command")
    _serve(at)
    _run(*at, "history", "sentiment")
    _run(*at, "status")
    click.echo(f"\n# All of it is in {place}: look at promptsmith.lock.")


def _say(text: str) -> None:
    click.echo(f"\n# {text}")


def _serve(at: tuple[str, ...]) -> None:
    for text in _INPUTS:
        _run(*at, "run", "sentiment", text)


def _run(*args: str) -> None:
    from .. import cli

    shown = [arg for arg in args if arg != "--project"] if args[0] == "--project" else list(args)
    click.echo(f"$ promptsmith {shlex.join(shown[1:] if args[0] == '--project' else shown)}")
    result = cli.main(args=list(args), prog_name="promptsmith", standalone_mode=False)
    if isinstance(result, int) and result:
        raise SystemExit(result)
