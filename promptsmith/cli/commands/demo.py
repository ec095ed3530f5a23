"""``promptsmith demo``."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path

import click

from ...errors import InputError

_OWN = ("sentiment", ("The battery died after two days and nobody answers my mails.", "Which colours does the lamp come in?"))
_SHOWN = ("intent", ("I was charged twice for the same order", "my card has not arrived, can you check?"))


@click.command("demo")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--tasks", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Show these task files as well.")
def command(folder: Path | None, tasks: Path | None) -> None:
    """Compile, serve, judge and promote in a folder of its own (default: a new temporary one), with no key."""
    place = folder or Path(tempfile.mkdtemp(prefix="promptsmith-demo-"))
    click.echo(f"# A project of its own in {place}. The model is builtin/nearest, which is no language model:")
    click.echo("# it answers by the nearest examples of the compiled prompt, so everything below is real and needs no key.")
    _say("A new project: one task with 20 visible and 40 sealed examples.")
    _run("init", str(place))
    at = ("--project", str(place))
    main, texts = _OWN
    if tasks is not None:
        _copy(tasks, place / "evals")
        main, texts = _SHOWN if (tasks / f"{_SHOWN[0]}.yaml").is_file() else _OWN
    _way(at, main, texts, place)
    if main != _OWN[0]:
        _say(f"The verdict on another task, {_OWN[0]}, whatever it is.")
        _run(*at, "compile", _OWN[0])
        _run(*at, "eval", _OWN[0])
    click.echo(f"\n# All of it is in {place}: look at promptsmith.lock, and at {place / 'report.html'} in a browser.")


def _way(at: tuple[str, ...], task: str, texts: tuple[str, ...], place: Path) -> None:
    _say(f"Compile {task} and ask the prompt something.")
    _run(*at, "compile", task)
    _serve(at, f"{task}@latest", texts)
    _say("Judge it on its sealed examples, and let the gate decide whether it may go into production.")
    _run(*at, "eval", task, "--html", str(place / "report.html"))
    passed = _run(*at, "promote", task, "--why", "first prompt") == 0
    if not passed:
        _say("The gate does not let it pass. A team that knows better can move it; the lock says so for ever.")
        _run(*at, "promote", task, "--force", "--why", "the demo needs something in production")
    _serve(at, task, texts)
    _say("A worse prompt of the same task, made on purpose: room for a single example.")
    _run(*at, "compile", task, "--example-tokens", "30")
    _run(*at, "promote", task, "--why", "smaller is cheaper")
    _say("Forced into production all the same, and back again with one command.")
    _run(*at, "promote", task, "--force", "--why", "smaller is cheaper")
    _run(*at, "rollback", task, "--why", "it answers worse")
    _serve(at, task, texts)
    _run(*at, "history", task)
    _run(*at, "eval", "--locked")
    _run(*at, "list")


def _copy(tasks: Path, evals: Path) -> None:
    if not tasks.is_dir():
        raise InputError(f"{tasks} is no folder of task files")
    shutil.copytree(tasks, evals, dirs_exist_ok=True)


def _say(text: str) -> None:
    click.echo(f"\n# {text}")


def _serve(at: tuple[str, ...], ref: str, texts: tuple[str, ...]) -> None:
    for text in texts:
        _run(*at, "run", ref, text)


def _run(*args: str) -> int:
    """Runs a command as a person would; its exit code, which is shown unless it is 0."""
    from .. import cli

    shown = args[2:] if args[0] == "--project" else args
    click.echo(f"$ promptsmith {shlex.join(shown)}")
    try:
        code = cli.main(args=list(args), prog_name="promptsmith", standalone_mode=False)
    except SystemExit as end:
        code = end.code
    code = code if isinstance(code, int) else 0
    if code:
        click.echo(f"# exit code {code}")
    return code
