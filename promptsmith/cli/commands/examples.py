"""``promptsmith examples``: captured calls and other inputs become labelled rows of a task's data."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from ...errors import InputError, PromptsmithError
from ..frame import Workspace, json_option, open_workspace, project_option, short, story, table, write_json

if TYPE_CHECKING:
    from ...evals.labelling import Labelling, Place, Side
    from ...evals.review import Waiting
    from ...task import Example, Task

F = TypeVar("F", bound=Callable[..., Any])

_ONE_KEY = 9
"""So many labels are chosen by one key; more by a number and Enter."""
_SHOWN = 2000
"""Characters of one text that are shown."""


@click.group("examples")
def command() -> None:
    """Label captured calls, add examples, count them."""


def _where_options(function: F) -> F:
    """``--to`` and ``--file``."""
    file = click.Path(path_type=Path, dir_okay=False)
    function = click.option("--file", type=file, metavar="F", help="Put rows into this .jsonl file.")(function)
    sides, about = click.Choice(["examples", "holdout"]), "What rows are for: the compiler, or (said on purpose) the sealed suite."
    return click.option("--to", "side", type=sides, default="examples", show_default=True, help=about)(function)


# --- list -------------------------------------------------------------------------------------------------


@command.command("list")
@click.argument("name", metavar="TASK")
@click.option("--captured", is_flag=True, help="Show the captured calls that wait for a label.")
@json_option
@project_option
def list_command(name: str, captured: bool, as_json: bool, project_dir: str | None) -> None:
    """Count the rows of TASK, and the captured calls that wait for a label."""
    from ...evals.labelling import TaskRows
    from ...evals.review import queue

    workspace = open_workspace(project_dir)
    task = _task(workspace, name)
    rows = TaskRows(workspace.project, task)
    waiting = queue(workspace.store, task, rows.known())
    unnamed = {workspace.project.relative(path): len(found) for path, found in rows.unnamed().items()}
    if as_json:
        counts = {"examples": len(task.examples), "holdout": len(task.holdout), "unnamed": unnamed}
        calls = [_as_data(one) for one in waiting.rows] if captured else len(waiting.rows)
        write_json({"task": name, **counts, "captured": calls, "settled": waiting.settled, "left": dict(waiting.left)})
        return
    if captured:
        _write_captured(waiting.rows)
        return
    click.echo(f"examples: {_counted(task, task.examples)}")
    click.echo(f"holdout: {_counted(task, task.holdout)}")
    for path, count in unnamed.items():
        click.echo(f"{path}: {count} labelled rows, which the task file does not name")
    click.echo(f"captured: {len(waiting.rows)} to label, {waiting.settled} labelled or dropped")
    for why, count in waiting.left.items():
        click.echo(f"captured and left out: {count}: {why}")


def _counted(task: Task, rows: Sequence[Example]) -> str:
    from ...contract import Labels

    counts = Counter(row.output for row in rows)
    if not rows or not isinstance(task.contract.shape, Labels):
        return str(len(rows))
    return f"{len(rows)} ({', '.join(f'{label} {count}' for label, count in counts.most_common())})"


def _write_captured(rows: Sequence[Waiting]) -> None:
    if not rows:
        story("no captured call waits for a label")
        return
    header = ("id", "when", "times", "prompt", "contract", "input", "output")
    click.echo(table([_cells(one) for one in rows], header))


def _cells(one: Waiting) -> list[str]:
    from ...contract import shorten

    call = one.call
    given = " | ".join(call.inputs.values())
    holds = "holds" if call.ok else "broken"
    return [call.id, _when(call.time), str(one.times), short(call.prompt), holds, shorten(given, 60), shorten(call.output, 40)]


def _as_data(one: Waiting) -> dict[str, Any]:
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(one.call)
    return {**data, "times": one.times}


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


# --- add --------------------------------------------------------------------------------------------------


@command.command("add")
@click.argument("name", metavar="TASK")
@click.option("--input", "text", metavar="TEXT", help="The input of a task with one free text.")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="A named input; @FILE as value reads a file.")
@click.option("--output", required=True, metavar="TEXT", help="The right answer: a label, a text, or JSON.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A group that reports break down by.")
@_where_options
@json_option
@project_option
def add_command(
    name: str,
    text: str | None,
    variables: tuple[str, ...],
    output: str,
    tags: tuple[str, ...],
    side: Side,
    file: Path | None,
    as_json: bool,
    project_dir: str | None,
) -> None:
    """Add one labelled row to the data of TASK.

    The row has to satisfy the task's contract, and its input must be new. It goes to the examples unless --to holdout is
    said: whoever picks rows by what a prompt answered to them would make the suite easier, or harder, than what comes in.
    """
    from .run import variable

    if (text is None) == (not variables):
        raise click.UsageError("give --input TEXT, or --var NAME=VALUE for each named input")
    workspace = open_workspace(project_dir)
    task = _task(workspace, name)
    given = dict(variable(each) for each in variables) if text is None else text
    place, added = _added(workspace, task, side, file, given, output, tags)
    path = workspace.project.relative(place.path)
    if as_json:
        write_json({"task": name, "file": path, "to": side, "id": added.id, "output": added.output, "line": place.line})
        return
    click.echo(f"{path}: {added.id} added to the {side} of {name}")
    _tell_line(workspace, task, place)


def _added(
    workspace: Workspace,
    task: Task,
    side: Side,
    file: Path | None,
    given: str | Mapping[str, str],
    output: str,
    tags: Sequence[str],
) -> tuple[Place, Example]:
    from ...evals.labelling import Labelling

    labelling = Labelling(workspace.project, task, side, file)
    added = labelling.add(given, output, tags)
    for note in added.notes:
        story(f"note: {note}")
    workspace.store.captures.settle(task.name, added.row.id)
    return labelling.place, added.row


def _tell_line(workspace: Workspace, task: Task, place: Place) -> None:
    """What a person has to write into the task file, which no command does for them."""
    if not place.line:
        return
    file = workspace.project.relative(Path(task.file))
    instead = f" in place of its {place.side} ({place.instead} rows, which the file begins with)" if place.instead else ""
    story(f"{file} does not name this file yet; put this line into it{instead}:\n  {place.line}")


# --- review -----------------------------------------------------------------------------------------------


@command.command("review")
@click.argument("name", metavar="TASK")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Give each row this tag.")
@_where_options
@project_option
def review_command(name: str, tags: tuple[str, ...], side: Side, file: Path | None, project_dir: str | None) -> None:
    """Label the captured calls of TASK, one key a row.

    Each label is written at once, so Ctrl-C loses none. Rows that were labelled or dropped are not shown again. Without a
    terminal the keys are read from standard input, one a line.
    """
    from ...evals.labelling import Labelling
    from ...evals.review import queue

    workspace = open_workspace(project_dir)
    task = _task(workspace, name)
    labelling = Labelling(workspace.project, task, side, file)
    waiting = queue(workspace.store, task, labelling.known(), labelling.misplaced)
    for why, count in waiting.left.items():
        story(f"{count} captured calls are left out: {why}")
    if not waiting.rows:
        story(f"no captured call of {name} waits for a label")
        return
    review = _Review(workspace, task, labelling, tags)
    try:
        review.all(waiting.rows)
    except (KeyboardInterrupt, EOFError):
        story("")  # each label is on disk
    click.echo(review.told(len(waiting.rows)))
    if review.counts["labelled"]:
        _tell_line(workspace, task, labelling.place)


class _Hand(Protocol):
    """Where keys come from. Both methods raise ``EOFError`` when there are no more."""

    def key(self, ask: str) -> str: ...

    def line(self, ask: str, begun: str = "") -> str: ...


class _Terminal:
    """One key at a time, as pressed."""

    def key(self, ask: str) -> str:
        click.echo(ask, nl=False, err=True)
        char = click.getchar()
        if char in ("\x03", "\x04"):
            raise EOFError
        click.echo(char if char.isprintable() else "", err=True)
        return char

    def line(self, ask: str, begun: str = "") -> str:
        click.echo(f"{ask}{begun}", nl=False, err=True)
        return begun + _read_line()


class _Lines:
    """A line of standard input for each key and each text."""

    def key(self, ask: str) -> str:
        return self.line(ask).strip()

    def line(self, ask: str, begun: str = "") -> str:
        click.echo(f"{ask}{begun}", nl=False, err=True)
        text = begun + _read_line()
        click.echo("", err=True)
        return text


def _read_line() -> str:
    line: bytes = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 (byte {error.start} of a line)") from None


class _Review:
    """One sitting: shows rows, takes keys, writes labels."""

    def __init__(self, workspace: Workspace, task: Task, labelling: Labelling, tags: Sequence[str]) -> None:
        self._workspace, self._task, self._labelling, self._tags = workspace, task, labelling, tags
        self._choices = choices(task)
        self._hand: _Hand = _Terminal() if sys.stdin.isatty() else _Lines()
        self.counts: Counter[str] = Counter()

    def all(self, rows: Sequence[Waiting]) -> None:
        """Every row until there are no more or somebody quits."""
        story(f"labels go to {self._workspace.project.relative(self._labelling.place.path)} ({self._labelling.place.side})")
        if len(self._choices) > _ONE_KEY:
            story("  ".join(f"{key} {label}" for key, label in self._choices.items()))
        for number, one in enumerate(rows, 1):
            story(f"\n[{number}/{len(rows)}] {_heading(one)}")
            for line in _shown(one):
                story(line)
            if not self._one(one):
                return

    def told(self, rows: int) -> str:
        """What came of it."""
        done = ", ".join(f"{self.counts[word]} {word}" for word in ("labelled", "dropped", "skipped"))
        return f"{done}, {rows - self.counts.total()} not seen"

    def _one(self, one: Waiting) -> bool:
        """Asks until the row is done with; false when somebody quits."""
        while True:
            key = self._hand.key(self._menu())
            if key == "q":
                return False
            if key == "s":
                self.counts["skipped"] += 1
                return True
            if key == "d":
                self._workspace.store.captures.settle(self._task.name, one.call.id)
                self.counts["dropped"] += 1
                return True
            output = self._output(key, one)
            if output is not None and self._labelled(one, output):
                return True

    def _menu(self) -> str:
        labels = "  ".join(f"{key} {label}" for key, label in self._choices.items()) if 0 < len(self._choices) <= _ONE_KEY else ""
        own = "c choose by number or name" if self._choices else "t type  e edit"
        return f"a right  {labels}  {own}  s skip  d drop  q quit > " if labels else f"a right  {own}  s skip  d drop  q quit > "

    def _output(self, key: str, one: Waiting) -> str | None:
        """The right output that ``key`` stands for, asked on if need be; ``None`` when there is none."""
        if key == "a":
            return one.call.output
        if self._choices:
            return self._choice(key)
        if key == "t":
            return self._hand.line("right output: ")
        if key == "e":
            return _edited(one.call.output, self._task)
        return _no_choice(key)

    def _choice(self, key: str) -> str | None:
        from ...contract import normalise_label

        if key == "c":
            key = self._hand.line("label: ").strip()
        elif key.isdecimal() and len(self._choices) > _ONE_KEY and isinstance(self._hand, _Terminal):
            key = self._hand.line("", key).strip()  # the first digit of a number
        named = {normalise_label(label): label for label in self._choices.values()}
        return self._choices.get(key) or named.get(normalise_label(key)) or _no_choice(key)

    def _labelled(self, one: Waiting, output: str) -> bool:
        try:
            added = self._labelling.add(one.call.inputs, output, self._tags)
        except PromptsmithError as error:
            story(f"not written: {error}")
            return False
        for note in added.notes:
            story(f"note: {note}")
        self._workspace.store.captures.settle(self._task.name, one.call.id)
        self.counts["labelled"] += 1
        return True


def _no_choice(key: str) -> str | None:
    if key:
        story(f"{key!r} is no choice here")
    return None


def choices(task: Task) -> dict[str, str]:
    """What is typed for each label: its number, but its own name where a label is itself a number."""
    from ...contract import Labels

    shape = task.contract.shape
    if not isinstance(shape, Labels):
        return {}
    if any(label.isdecimal() for label in shape.labels):
        return {label: label for label in shape.labels}
    return {str(number): label for number, label in enumerate(shape.labels, 1)}


def _heading(one: Waiting) -> str:
    call = one.call
    often = f", {one.times} calls" if one.times > 1 else ""
    return f"{_when(call.time)}, prompt {short(call.prompt)}, {call.model}{often}"


def _shown(one: Waiting) -> list[str]:
    from ...evals.show.words import shortened, visible

    rows = [(name, text) for name, text in one.call.inputs.items()] + [("answer", one.call.output)]
    wide = max(len(name) for name, _ in rows)
    lines = []
    for name, text in rows:
        # Users' text: a control character in it would reach the terminal.
        first, *more = visible(shortened(text, _SHOWN), keep="\n").split("\n")
        lines += [f"  {name.ljust(wide)}  {first}", *(f"  {'':{wide}}  {line}" for line in more)]
    return lines + [f"  breaks the contract: {visible(reason)}" for reason in one.call.reasons]


def _edited(output: str, task: Task) -> str | None:
    """The output as a person leaves it in their editor."""
    from ...contract import JsonShape

    is_json = isinstance(task.contract.shape, JsonShape)
    if is_json:
        try:
            output = json.dumps(json.loads(output), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass  # what is no JSON is shown as it is, to be mended
    try:
        text = click.edit(output, extension=".json" if is_json else ".txt", require_save=False)
    except click.ClickException as error:
        story(error.format_message())
        return None
    return None if text is None else text.removesuffix("\n")


def _task(workspace: Workspace, name: str) -> Task:
    from ...task import load_task

    return load_task(workspace.find_task(name), name=name)
