"""Records of searches: what candidates were tried and what they scored, one JSON file each, beside the prompts."""

from __future__ import annotations

import os
import re

from ..errors import TamperedError
from .copies import bytes_of, replace
from .seal import seal, unseal
from .trouble import private_folder

SUFFIX = ".json"
AGAIN = "remove it and compile the task again with --force; the prompt itself is not touched"
_NAMED = re.compile(r"[0-9a-f]{64}")
_DIGEST, _RECORD, _END = b'{"sha256":"', b'","record":', b"}\n"
"""What stands round the digest and the record, so that the sealed file is JSON too."""


class Searches:
    """The records in ``directory``, each named by the first 32 hex digits of its digest. Methods raise ``OSError``."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def put(self, digest: str, data: bytes) -> None:
        """Keeps ``data``, a JSON object, as the record with this digest."""
        private_folder(self._directory)
        replace(self._path(digest), write(data, digest[:32]))

    def get(self, digest: str) -> bytes | None:
        """The record as it was kept. Raises :class:`TamperedError` when the file was changed."""
        if not _NAMED.fullmatch(digest):  # it stands in files that people edit, and names a path
            return None
        path = self._path(digest)
        data = bytes_of(path)
        return None if data is None else read(data, digest[:32], path)

    def _path(self, digest: str) -> str:
        return os.path.join(self._directory, f"{digest[:32]}{SUFFIX}")


def write(data: bytes, name: str) -> bytes:
    """The file that holds ``data`` under ``name``: ``{"sha256": …, "record": …}``; the digest is over name and record."""
    return _DIGEST + seal(data, name)[:64] + _RECORD + data + _END


def read(data: bytes, name: str, path: str, what: str = "record of a search", again: str = AGAIN) -> bytes:
    """The record in a file's bytes. Raises :class:`TamperedError` naming ``path``, ``what`` it is not, and what to do."""
    start, middle = len(_DIGEST), len(_DIGEST) + 64
    body = data[middle + len(_RECORD) : -len(_END)]
    if data != _DIGEST + data[start:middle] + _RECORD + body + _END:
        raise TamperedError(f"{path} is no {what}, or was cut", hint=again)
    try:
        return unseal(data[start:middle] + b"\n" + body, path, name)
    except TamperedError as error:
        raise TamperedError(error.message, hint=again) from None
