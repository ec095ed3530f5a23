"""``promptsmith run``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from ...errors import InputError
from ...runtime import Result, RunOptions, Runtime
from ..frame import json_option, lasted, open_project, project_option, short, story, write_json


@click.command("run")
@click.argument("ref")
@click.argument("text", required=False)
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="A named input; @FILE as value reads a file.")
@click.option("--file", "source", type=click.Path(path_type=Path), help="Many inputs: a .jsonl, .csv or .tsv file.")
@click.option("--out", type=click.Path(path_type=Path), help="Where their answers go, as JSONL (default: stdout).")
@click.option("--model", metavar="NAME", help="Ask this model instead; the result is then ungated.")
@click.option("--concurrency", type=click.IntRange(1), metavar="N", help="Calls under way at once.")
@click.option("--cache/--no-cache", default=None, help="Whether replies may come from the reply cache.")
@click.option("--stream", is_flag=True, help="Write the answer as it arrives.")
@json_option
@project_option
def command(
    ref: str,
    text: str | None,
    variables: tuple[str, ...],
    source: Path | None,
    out: Path | None,
    model: str | None,
    concurrency: int | None,
    cache: bool | None,
    stream: bool,
    as_json: bool,
    project_dir: str | None,
) -> None:
    """Serve TEXT (or standard input, '-') with the prompt REF names; a bare task means @production."""
    runtime = Runtime(open_project(project_dir))
    options: RunOptions = {}
    if model:
        options["model"] = model
    if cache is not None:
        options["cache"] = cache
    if source is not None:
        if text is not None or variables or stream:
            raise click.UsageError("--file brings the inputs; TEXT, --var and --stream don't go with it")
        from .bulk_run import bulk_run

        raise SystemExit(bulk_run(runtime, ref, source, out, concurrency, options))
    if out is not None:
        raise click.UsageError("--out goes with --file")
    given = _given(text, variables)
    result = _streamed(runtime, ref, given, options) if stream and not as_json else runtime.run(ref, given, **options)
    _write(result, as_json, streamed=stream and not as_json)


def _given(text: str | None, variables: tuple[str, ...]) -> str | dict[str, str]:
    if variables:
        if text is not None:
            raise click.UsageError("give TEXT or --var, not both")
        return dict(variable(each) for each in variables)
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        raise click.UsageError("no input: give TEXT, '-' for standard input, --var or --file")
    return _decoded(sys.stdin.buffer.read(), "standard input")


def variable(option: str) -> tuple[str, str]:
    """The name and text that a ``--var`` gives."""
    name, equals, value = option.partition("=")
    if not equals:
        raise click.UsageError(f"--var {option!r} has no '='; write --var name=value")
    if not value.startswith("@"):
        return name, value
    try:
        return name, _decoded(Path(value[1:]).read_bytes(), value[1:])
    except OSError as error:
        raise InputError(f"{value[1:]} can't be read: {error.strerror}") from None


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8-sig").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8 (byte {error.start})") from None


def _streamed(runtime: Runtime, ref: str, given: str | dict[str, str], options: RunOptions) -> Result:
    result: Result | None = None
    for chunk in runtime.stream(ref, given, **options):
        if chunk.text:
            click.echo(chunk.text, nl=False)
        result = chunk.result or result
    click.echo()
    assert result is not None
    return result


def _write(result: Result, as_json: bool, *, streamed: bool) -> None:
    if as_json:
        write_json(as_data(result))
        return
    if not streamed:
        click.echo(result.value if isinstance(result.value, str) else json.dumps(result.value, ensure_ascii=False))
    ungated = " (ungated)" if result.ungated else ""
    story(f"{result.chosen} = {short(result.prompt)} from the {origin_of(result)}, answered by {result.model}{ungated}")
    for note in result.notes:
        story(f"note: {note}")


def as_data(result: Result) -> dict[str, Any]:
    """A result as plain data for JSON."""
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(result)
    return {"value": data.pop("value"), "ok": result.ok, **data}


def origin_of(result: Result) -> str:
    """Where the prompt came from, and how old that is when it is a copy."""
    if result.age == 0:
        return result.origin
    return f"{result.origin} copy ({'age unknown' if result.age is None else f'{lasted(result.age)} old'})"
