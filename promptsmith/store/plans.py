"""Runs of plans: what each came to, one JSON file a run, in a folder of their own."""

from __future__ import annotations

import os
import re

from . import searches
from .copies import bytes_of, replace
from .trouble import private_folder

SUFFIX = ".json"
AGAIN = "remove it and run the plan again: what its journal and the reply cache hold is not paid twice"
_NAMED = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")


class Plans:
    """The runs in ``directory``, each named by its key. Methods raise ``OSError``."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def put(self, run: str, data: bytes) -> None:
        """Keeps ``data``, a JSON object, as what this run came to; in the place of an earlier one with the same key."""
        if not _NAMED.fullmatch(run):
            raise ValueError(f"{run!r} is no key of a run")
        private_folder(self._directory)
        replace(self._path(run), searches.write(data, run))

    def get(self, run: str) -> bytes | None:
        """The run as it was kept. Raises :class:`TamperedError` when the file was changed."""
        if not _NAMED.fullmatch(run):  # people type it, and it names a path
            return None
        path = self._path(run)
        data = bytes_of(path)
        return None if data is None else read(data, run, path)

    def runs(self, prefix: str = "") -> list[str]:
        """Keys that begin with ``prefix``, the newest first."""
        try:
            with os.scandir(self._directory) as entries:
                found = [
                    (entry.stat(follow_symlinks=False).st_mtime, entry.name.removesuffix(SUFFIX))
                    for entry in entries
                    if entry.name.endswith(SUFFIX) and entry.name.startswith(prefix) and entry.is_file(follow_symlinks=False)
                ]
        except FileNotFoundError:
            return []
        return [name for _, name in sorted(found, reverse=True) if _NAMED.fullmatch(name)]

    def _path(self, run: str) -> str:
        return os.path.join(self._directory, f"{run}{SUFFIX}")


def read(data: bytes, run: str, path: str) -> bytes:
    """The run in a file's bytes. Raises :class:`TamperedError` naming ``path`` and what to do."""
    return searches.read(data, run, path, "run of a plan", AGAIN)
