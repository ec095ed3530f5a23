"""The command line. Each command is a file of its own, imported when it is called.

``promptsmith --help`` imports click and this file and nothing else.
"""

from __future__ import annotations

import importlib
import keyword
import sys
import warnings
from typing import Any

import click

from ..errors import PromptsmithError, did_you_mean
from ..version import VERSION

COMMANDS: dict[str, str] = {
    "init": "Make a project: settings, a first task, the lock's place in git.",
    "demo": "Compile, serve, judge and promote in a folder of its own, with no key.",
    "compile": "Compile tasks into prompts.",
    "run": "Serve one input, or a file of inputs, with a compiled prompt.",
    "eval": "Judge prompts on their sealed holdout.",
    "report": "List the reports kept here, or open one.",
    "compare": "Put reports side by side.",
    "promote": "Move an alias to a prompt.",
    "rollback": "Move an alias back to what it named before.",
    "push": "Bring the server registry to where the lock is.",
    "pull": "Bring the lock to where the server registry is.",
    "history": "Show every move of a task's aliases.",
    "show": "Show a prompt.",
    "diff": "Compare two prompts.",
    "list": "List tasks and what is in production.",
    "status": "Say which prompts are stale, missing or moved by hand.",
    "outdated": "List prompts whose model goes away or whose sources changed.",
    "retarget": "Compile a task for another production model, from its current prompt.",
    "lint": "Find faults in prompts.",
    "plan": "Check plans, and see what a run of one did.",
    "import": "Make a task of another tool's prompt, prompt file or test suite.",
    "export": "Write a prompt as another tool's file, or as a request body.",
    "examples": "Label captured calls, add examples, count them.",
    "solve": "Solve a problem with several experts, or run a plan.",
    "advise": "Say whether one prompt is enough, and prove it on cases.",
    "serve": "Serve prompts behind the APIs of OpenAI and Anthropic.",
    "keys": "Add, list and revoke keys of the service.",
    "cost": "Add up what was called and paid.",
    "savings": "Measure what the cheap model saves against a strong one.",
    "cache": "Look into the cache, check it, prune it, clear it.",
    "doctor": "Check project, cache and lock.",
}
"""Every command and its one line of help; kept here so that the overview needs no command's module."""


class LazyGroup(click.Group):
    """Finds a command in the module of its name. Click would import all of them for its overview."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        # A keyword is no module's name.
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        module = importlib.import_module(f".commands.{name}", __name__)
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f"No such command {args[0]!r}.{' ' + near.capitalize() if near else ''}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PromptsmithError as error:
            click.echo(f"error: {error}", err=True)
            for note in getattr(error, "__notes__", ()):
                click.echo(f"  {note}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            # The reader went away (`promptsmith show … | head`): not an error, and nothing more can be written.
            sys.stderr.close()
            ctx.exit(0)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="promptsmith")
@click.option("--project", metavar="DIR", help="The project's folder (default: found from here upwards).")
@click.pass_context
def cli(ctx: click.Context, project: str | None) -> None:
    """A build system for prompts: write the eval, compile the prompt, prove it, serve it.

    Exit codes: 0 done, 1 a gate or check said no, 2 usage or bad input, 3 inconclusive, 4 a model failed,
    5 stopped by a budget.
    """
    ctx.obj = project


def main() -> None:
    """The console script."""
    # Where in our own code a warning was raised says nothing to people at a command line.
    warnings.showwarning = lambda message, *_args, **_more: click.echo(f"warning: {message}", err=True)
    cli(prog_name="promptsmith")
