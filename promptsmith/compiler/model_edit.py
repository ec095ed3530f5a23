"""The edit of a task file that names another production model; every other byte of the file stays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InputError, SourceError
from ..task import ModelSpec, Task, load_task
from .writeback import inserted, replace_file

_MARK = "\ufeff"
_PLAIN = re.compile(r"[A-Za-z0-9_](?:[\w./@-]|:(?=\w))*")


class Edit(msgspec.Struct, frozen=True):
    """The lines that go and come, the first of them at ``line`` (from 1), and the whole new ``text``."""

    line: int
    removed: tuple[str, ...]
    added: tuple[str, ...]
    text: str


def model_edit(path: Path, model: str) -> Edit:
    """The edit after which the task in ``path`` names ``model``; parameters of the old model go with it.

    The file is one that :func:`load_task` has read. Raises :class:`InputError` where it can't be edited by a program.
    """
    # Not utf-8-sig: a mark at the beginning stays where it is.
    before = path.read_bytes().decode()
    mark = _MARK if before.startswith(_MARK) else ""
    try:
        after = mark + _edited(before.removeprefix(mark), model)
    except LookupError:
        raise _by_hand(path, model) from None
    return _as_edit(before, after)


def write_model(path: Path, task: Task, model: str, edit: Edit, is_same: Callable[[Task], bool]) -> None:
    """Writes ``edit``, once it has been read back: it names ``model`` and ``is_same`` says that nothing else changed.

    Raises :class:`InputError` when it does not, :class:`StoreError` when the file can't be written.
    """

    def read_back(temporary: Path) -> None:
        try:
            written = load_task(temporary, name=task.name)
        except SourceError:
            raise _by_hand(path, model) from None
        if written.production != ModelSpec(model) or not is_same(written):
            raise _by_hand(path, model)

    replace_file(path, edit.text, read_back)


def _by_hand(path: Path, model: str) -> InputError:
    return InputError(f"the model can't be put into {path} in its present form", hint=f"write it by hand: models: {{production: {model}}}")


def _edited(text: str, model: str) -> str:
    """Raises :class:`LookupError` for a form that it does not know."""
    import yaml

    # The composer is safe here: the text was read before, event by event, and is neither deep nor large.
    root: Any = yaml.compose(text, Loader=yaml.CSafeLoader)
    newline = "\r\n" if "\r\n" in text else "\n"
    name = model if _PLAIN.fullmatch(model) else json.dumps(model)
    models = _pair(root, "models")
    if models is None:
        added = f"models: {{production: {name}}}"
        return _with_key(text, root, added, newline) if root.flow_style else inserted(text, added + newline, newline)
    production = _pair(models[1], "production")
    if production is None:
        return _with_key(text, models[1], f"production: {name}", newline)
    key, value = production
    start, end = key.end_mark.index, _end(value)
    if value.start_mark.index < start:
        raise LookupError("an alias stands for the value")
    return f"{text[:start]}: {name}{text[end:]}"


def _pair(mapping: Any, name: str) -> tuple[Any, Any] | None:
    return next(((key, value) for key, value in mapping.value if key.value == name), None)


def _with_key(text: str, mapping: Any, added: str, newline: str) -> str:
    """``text`` with a pair before the first one of ``mapping``."""
    if not mapping.value:
        raise LookupError("an empty mapping")
    at = mapping.value[0][0].start_mark
    between = ", " if mapping.flow_style else newline + " " * at.column
    return text[: at.index] + added + between + text[at.index :]


def _end(node: Any) -> int:
    """Where a node ends; the end that YAML gives a block mapping is the beginning of what follows it."""
    while isinstance(node.value, list) and not node.flow_style and node.value:
        node = node.value[-1][1]
    end: int = node.end_mark.index
    return end


def _as_edit(before: str, after: str) -> Edit:
    old, new = before.splitlines(), after.splitlines()
    head = _shared(old, new)
    tail = _shared(old[head:][::-1], new[head:][::-1])
    return Edit(head + 1, tuple(old[head : len(old) - tail]), tuple(new[head : len(new) - tail]), after)


def _shared(old: Sequence[str], new: Sequence[str]) -> int:
    """How many lines both begin with."""
    return next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
