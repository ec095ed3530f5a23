"""``promptsmith init``."""

from __future__ import annotations

import os
import shlex
from importlib.resources import files
from pathlib import Path

import click

from ...errors import InputError
from ...registry.lock import GITATTRIBUTES, GITIGNORE
from ..frame import story

_GITIGNORE = f"/cache/*\n!/cache/README.md\n!/cache/.gitignore\n{GITIGNORE}/.env\n"
_CACHE_README = """Build products of promptsmith: compiled prompts, replies, journals, reports and the ledger.
Nothing here belongs into git. Production runs from promptsmith.lock without this folder.
"""


@click.command("init")
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@click.option("--ci", type=click.Choice(["github"]), help="Also write a workflow that checks prompts in CI.")
def command(folder: Path, ci: str | None) -> None:
    """Make a promptsmith project in FOLDER (default: here). Writes what is missing, overwrites nothing."""
    written = [name for name, text in project_files(ci).items() if _write(folder / name, text)]
    for name in written:
        story(f"wrote {folder / name}" if str(folder) != "." else f"wrote {name}")
    if not written:
        story("everything is there already; nothing written")
    there = "" if str(folder) == "." else f"cd {shlex.quote(str(folder))} && "
    click.echo(f"Next: {there}promptsmith compile sentiment && promptsmith run sentiment@latest 'I love it'")


def project_files(ci: str | None = None) -> dict[str, str]:
    """Every file of a new project, by its path in it."""
    texts = {
        "promptsmith.toml": _template("promptsmith.toml"),
        "evals/task.schema.json": files("promptsmith").joinpath("task.schema.json").read_text("utf-8"),
        "evals/sentiment.yaml": _template("sentiment.yaml").replace("@SCHEMA@", "task.schema.json"),
        "evals/data/sentiment.holdout.jsonl": _template("sentiment.holdout.jsonl"),
        "cache/README.md": _CACHE_README,
        "cache/.gitignore": "*\n!README.md\n!.gitignore\n",
        ".gitignore": _GITIGNORE,
        ".gitattributes": GITATTRIBUTES,
    }
    if ci == "github":
        texts[".github/workflows/promptsmith.yml"] = _template("github-workflow.yml")
    return texts


def _template(name: str) -> str:
    return files("promptsmith").joinpath("templates", name).read_text("utf-8")


def _write(path: Path, text: str) -> bool:
    """Writes a file that does not exist yet; says whether it did."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        if path.parent.is_dir():
            return False
        raise InputError(f"{path.parent} is a file, so {path} can't be made") from None
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    return True
