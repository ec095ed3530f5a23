"""Writes what a plan made as files: below one folder, through no link, over nothing that is there unless that is wanted."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ..contract import shorten
from ..errors import InputError

_PART = re.compile(r"[A-Za-z0-9_.-][A-Za-z0-9_. -]{0,199}")
_ASKED = "name another folder, or say that files may be replaced"


def write_files(folder: Path, files: Mapping[str, str], *, overwrite: bool = False) -> list[Path]:
    """Writes ``files``, by their path below ``folder`` with forward slashes, and returns where they stand.

    Nothing is written when one of them can't be: a path that leads out of the folder, or through a symbolic link, or, without
    ``overwrite``, to a file that is there. Raises :class:`InputError` naming it.
    """
    places = {name: _place(folder, name) for name in files}
    for path in places.values():
        _check(folder, path, overwrite=overwrite)
    for name, path in places.items():
        _write(folder, path, files[name], overwrite=overwrite)
    return list(places.values())


def _place(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or "\\" in name or any(part in ("..", "/") or not _PART.fullmatch(part) for part in parts):
        raise InputError(
            f"{shorten(name)} can't be a file below {folder}", hint="a path has letters, digits, '_', '-' and '.', parts joined by '/'"
        )
    return folder.joinpath(*parts)


def _check(folder: Path, path: Path, *, overwrite: bool) -> None:
    # The folder itself is the caller's word, and may be a link; nothing below it may.
    for part in [*reversed([one for one in path.parents if one != folder and folder in one.parents]), path]:
        if part.is_symlink():
            raise InputError(f"{part} is a symbolic link, through which nothing is written", hint="name another folder")
        if part != path and part.exists() and not part.is_dir():
            raise InputError(f"{part} is no folder", hint=_ASKED)
    if path.is_dir():
        raise InputError(f"{path} is a folder", hint=_ASKED)
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already", hint=_ASKED)


def _write(folder: Path, path: Path, text: str, *, overwrite: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | (os.O_TRUNC if overwrite else os.O_EXCL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check(folder, path, overwrite=overwrite)  # again: a link may have come in between
        with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
            file.write(text.encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from None
