"""``promptsmith lint``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ...errors import InputError, PromptsmithError
from ..frame import Workspace, json_option, open_workspace, project_option, short, story, write_json

if TYPE_CHECKING:
    from ...compiler.lint.case import Case
    from ...compiler.lint.findings import LintFinding
    from ...compiler.lint.place import Place
    from ...config import Project
    from ...prompt import Prompt
    from ...task import Task


@click.command("lint")
@click.argument("what", nargs=-1, metavar="[REF|FILE]...")
@click.option("--task", metavar="TASK", help="Judge text files as prompts of this task.")
@click.option("--select", default="", metavar="CODES", help="Look for these only: codes, names, or how codes begin (PS1), with commas.")
@click.option("--ignore", default="", metavar="CODES", help="Look for all but these.")
@click.option("--fix", is_flag=True, help="Mend what can be mended safely, in text files and in prompt: of task files.")
@click.option("--tokens", type=click.IntRange(min=1), help="The most tokens that instructions may have (4000).")
@json_option
@project_option
def command(
    what: tuple[str, ...], task: str | None, select: str, ignore: str, fix: bool, tokens: int | None, as_json: bool, project_dir: str | None
) -> None:
    """Find faults in prompts. Exit 1 when there are any.

    Without an argument: in every prompt in production, and in every prompt: that a task file has of its own. A FILE is a
    task file with such a prompt, or any text. The codes are explained in docs/lint.
    """
    from ...compiler.lint.findings import chosen

    names = chosen(select, ignore)
    errors: list[str] = []
    looked = [_look(item, names, fix) for item in _subjects(what, task, tokens, project_dir, errors)]
    if as_json:
        write_json({"subjects": [one.as_data() for one in looked], "errors": errors})
    else:
        _tell(looked, everything=not what)
    for error in errors:
        story(f"error: {error}")
    if errors:
        raise SystemExit(2)
    if any(one.findings for one in looked):
        raise SystemExit(1)


class Item(NamedTuple):
    """One prompt to look at; without a ``place`` it is compiled, and never edited."""

    name: str
    case: Case
    place: Place | None = None
    source: str = ""
    """For a compiled prompt: what to change instead."""

    def at(self, line: int) -> int:
        return self.place.line(line) if self.place else line


class Looked(NamedTuple):
    """What was found in one prompt, and what was mended."""

    item: Item
    findings: Sequence[LintFinding]
    fixed: Sequence[LintFinding]
    fixable: int
    """How many more could be mended, were it not for where the prompt stands, or had it been asked for."""
    asked: bool
    """Whether mending was asked for."""

    def as_data(self) -> dict[str, Any]:
        return {"subject": self.item.name, "findings": self._rows(self.findings), "fixed": self._rows(self.fixed)}

    def _rows(self, findings: Sequence[LintFinding]) -> list[dict[str, Any]]:
        return [
            {
                "code": one.fault.code,
                "name": one.code,
                "severity": one.fault.severity,
                "line": self.item.at(one.line),
                "what": one.what,
            }
            for one in findings
        ]


def _tell(looked: Sequence[Looked], *, everything: bool) -> None:
    for one in looked:
        for row in one.as_data()["findings"]:
            where = f"{one.item.name}:{row['line']}" if row["line"] else one.item.name
            click.echo(f"{where}: {row['severity']} {row['code']} {row['name']}: {row['what']}")
        if one.fixed:
            story(f"{one.item.name}: mended {_count(len(one.fixed), 'finding')}")
        if one.fixable or (one.asked and one.findings and one.item.place is None):
            story(f"{one.item.name}: {_what_to_do(one)}")
        if not one.findings:
            story(f"{one.item.name}: no fault found")
    if everything and not looked:
        story("no prompt is in production here, and no task has a prompt: of its own")


def _what_to_do(one: Looked) -> str:
    what = _count(one.fixable, "finding")
    if one.item.place is None:
        return f"is compiled and never edited; change {one.item.source} and compile it again"
    if not one.item.place.block:
        return f"{what} could be mended by --fix if prompt: were a block (|)"
    return f"{what} can be mended by --fix"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _look(item: Item, names: frozenset[str], fix: bool) -> Looked:
    from ...compiler.lint.check import check
    from ...compiler.lint.fix import fixable

    fixed: list[LintFinding] = []
    while fix and (mended := _mended_once(item, names)) is not None:
        item = mended[0]
        fixed += mended[1]
    findings = check(item.case, names)
    return Looked(item, findings, fixed, fixable(item.case, findings), fix)


def _mended_once(item: Item, names: frozenset[str]) -> tuple[Item, list[LintFinding]] | None:
    """The prompt after one round of mending, with what was mended; ``None`` when there is nothing to mend."""
    from msgspec.structs import replace

    from ...compiler.lint.check import check
    from ...compiler.lint.fix import applied, edits_for

    findings, place = check(item.case, names), item.place
    edits = edits_for(item.case, findings)
    text = applied(item.case.system, edits)
    if place is None or not place.block or text == item.case.system:
        return None
    place.rewrite(edits)
    mended = Item(item.name, replace(item.case, system=text), replace(place, text=text))
    return mended, [one for one in findings if one.line in edits]


# --- what is looked at ------------------------------------------------------------------------------------


def _subjects(what: Sequence[str], task: str | None, tokens: int | None, project_dir: str | None, errors: list[str]) -> Iterator[Item]:
    """The prompts that the arguments name. Without any, a task that can't be read is told and the others are looked at."""
    finder = _Finder(task, tokens, project_dir)
    for name in what:
        yield finder.named(name)
    for name in finder.workspace.resolver.tasks() if not what else ():
        try:
            yield from finder.all_of(name)
        except PromptsmithError as error:
            errors.append(str(error))


class _Finder:
    """Finds prompts by name. The project is opened when a name needs it: a text file can be looked at anywhere."""

    def __init__(self, task: str | None, tokens: int | None, project_dir: str | None) -> None:
        self._task, self._tokens, self._project_dir = task, tokens, project_dir
        self._workspace: Workspace | None = None

    @property
    def workspace(self) -> Workspace:
        if self._workspace is None:
            self._workspace = open_workspace(self._project_dir)
        return self._workspace

    def named(self, name: str) -> Item:
        """The prompt of a file or ref. A bare task that has a ``prompt:`` means that one."""
        path = Path(name)
        if path.is_file():
            return self._file(path)
        if path.suffix in (".txt", ".md", ".yaml", ".yml", ".prompt", ".json") or name.startswith((".", "/")):
            what = f"{name} is a folder" if path.is_dir() else f"there is no file {name}"
            raise InputError(what, hint="name files, refs, or nothing for all prompts of the project")
        if "@" not in name:
            own = self._own(name)
            if own is not None:
                return own
        prompt = self.workspace.resolver.resolve(name, prefer="latest").prompt
        return self._compiled(prompt, f"{prompt.task}@{short(prompt.id)}")

    def all_of(self, task: str) -> Iterator[Item]:
        """A task's own ``prompt:`` and what it has in production; once when that is the same."""
        own = self._own(task)
        if own is not None:
            yield own
        entry, _ = self.workspace.resolver.entry(task)
        prompt_id = entry.aliases.get("production") if entry else None
        prompt = entry.prompt(prompt_id) if entry and prompt_id else None
        if prompt is not None and not (own and own.case.system == prompt.system and own.case.contract == prompt.contract):
            yield self._compiled(prompt, f"{task}@production")

    def _file(self, path: Path) -> Item:
        from ...compiler.lint.case import case_of_text
        from ...compiler.lint.place import is_task_file, text_place

        if is_task_file(path):
            return self._task_file(path, path.stem, self._project_of(path))
        place = text_place(path)
        if self._task is None:
            from ...config import Project

            return Item(place.name, case_of_text(place.text, None, Project(path.parent), self._tokens), place)
        from ...task import load_task

        task = load_task(self.workspace.find_task(self._task), name=self._task)
        return Item(place.name, case_of_text(place.text, task, self.workspace.project, self._tokens), place)

    def _task_file(self, path: Path, name: str, project: Project) -> Item:
        from ...compiler.lint.case import case_of_text
        from ...compiler.lint.place import task_place
        from ...task import load_task

        task = load_task(path, name=name)
        if task.prompt is None:
            raise InputError(f"{path} has no prompt: of its own", hint="look at the one that was compiled from it: promptsmith lint TASK")
        place = task_place(path)
        return Item(place.name, case_of_text(place.text, task, project, self._tokens), place)

    def _project_of(self, path: Path) -> Project:
        """The project that was named, else the one that a file lies in, else the defaults."""
        from ...config import Project, find_project, project_above

        explicit = self._project_dir or click.get_current_context().find_root().obj
        return find_project(explicit) if explicit else project_above(path.resolve().parent) or Project(path.parent)

    def _own(self, name: str) -> Item | None:
        """A task's own ``prompt:``."""
        from ...compiler.lint.place import has_prompt

        path = self.workspace.project.task_file(name)
        if not path.is_file() or not has_prompt(path):
            return None
        return self._task_file(path, name, self.workspace.project)

    def _compiled(self, prompt: Prompt, name: str) -> Item:
        from ...compiler.lint.case import case_of_prompt

        project = self.workspace.project
        path = project.task_file(prompt.task)
        case = case_of_prompt(prompt, self._source(path, prompt.task), project, self._tokens)
        return Item(name, case, source=project.relative(path))

    @staticmethod
    def _source(path: Path, name: str) -> Task | None:
        """The task that a prompt was compiled from, where its file is still there."""
        from ...task import load_task

        return load_task(path, name=name) if path.is_file() else None
