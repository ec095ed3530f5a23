"""``compile --write-contract``: puts an inferred contract into the task file, where it becomes a rule."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..contract import Contract, JsonShape, Labels
from ..errors import InputError, SourceError, StoreError
from ..store.whole import drafted
from ..task import Task, load_task

_REFUSED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def write_contract(path: Path, task: Task) -> str:
    """Adds ``output:`` to the task file; every other byte stays. Returns what was done, in words.

    The new text is read back before it replaces the old one. Raises :class:`StoreError` when it can't be written.
    """
    if not task.contract.inferred:
        return f"{path.name} declares its contract already; nothing written"
    # Not utf-8-sig: a mark at the beginning stays where it is.
    text = path.read_bytes().decode()
    newline = "\r\n" if "\r\n" in text else "\n"
    added = f"output: {_as_yaml(_as_output(task.contract))}{newline}"
    written = inserted(text, added, newline)
    replace_file(path, written, lambda temporary: _read_back(temporary, path, task))
    return f"wrote the inferred contract into {path.name}: {added.strip()}"


def _as_output(contract: Contract) -> Any:
    shape = contract.shape
    if isinstance(shape, Labels):
        return list(shape.labels)
    if isinstance(shape, JsonShape):
        return {"json": json.loads(shape.schema)}
    limits = {name: value for name in shape.__struct_fields__ if (value := getattr(shape, name)) is not None}
    return {"text": limits} if limits else "text"


def _as_yaml(value: Any) -> str:
    """JSON is YAML's flow style (quoted labels stay the written text that they are) but for characters YAML refuses."""
    # Not ensure_ascii: it writes an emoji as a surrogate pair, which is no escape in YAML.
    return _REFUSED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def inserted(text: str, added: str, newline: str) -> str:
    """``text`` with ``added`` before its examples, or at its end."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith(("examples:", '"examples":', "'examples':")):
            return "".join([*lines[:number], added, *lines[number:]])
    return text + ("" if text.endswith(("\n", "\r")) else newline) + added


def _read_back(written: Path, path: Path, task: Task) -> None:
    """Raises :class:`InputError` unless ``written`` says the contract that was inferred."""
    try:
        contract = load_task(written, name=task.name).contract
    except SourceError:
        contract = None
    if contract is None or contract.inferred or contract.shape != task.contract.shape:
        raise InputError(f"the contract can't be added to {path} in its present form", hint="add an output: key by hand")


def replace_file(path: Path, text: str, read_back: Callable[[Path], None]) -> None:
    """Puts ``text`` in the place of the file's, whole or not at all, once ``read_back`` has read it and raised nothing.

    Raises :class:`StoreError` when it can't be written.
    """
    target = path.resolve()
    try:
        with drafted(target, text.encode(), durable=True) as draft:
            read_back(draft)
            os.replace(draft, target)
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror}") from None
