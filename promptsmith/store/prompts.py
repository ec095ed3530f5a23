"""Compiled prompts on disk: verified at every read, never evicted."""

from __future__ import annotations

import re

import msgspec

from ..canonical import sha256
from ..errors import InputError, TamperedError
from ..prompt import Prompt
from .seal import seal, unseal
from .shelf import Shelf

_ID = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{0,64}")
_encode = msgspec.json.Encoder().encode

PROMPT, BUILD, LATEST, TASK = "prompt ", "build ", "latest ", "task "
"""Beginnings of keys: a prompt by id, a build key's prompt id, a task's last prompt id, a task and one of its ids."""


class Prompts:
    """The prompts on ``shelf``. All methods raise ``OSError`` for trouble with the disk."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def get(self, prompt_id: str) -> Prompt | None:
        """The prompt with this id. Raises :class:`TamperedError` unless its content still has that id."""
        data = self._value(PROMPT + prompt_id)
        return None if data is None else read_prompt(prompt_id, data)

    def put(self, prompt: Prompt, build_key: str | None = None) -> None:
        """Keeps ``prompt`` as the latest of its task, and as what ``build_key`` built; all of it or nothing.

        What is not part of the identity (task, provenance, serve) is taken from the newest of equal prompts.
        """
        from .disk import Row

        prompt.verified()
        task = sha256(prompt.task)
        rows = [Row(PROMPT + prompt.id, seal(_encode(prompt)))]
        named = [LATEST + task, f"{TASK}{task} {prompt.id}", *([BUILD + build_key] if build_key else [])]
        rows += [Row(key, seal(prompt.id.encode(), key)) for key in named]
        self._shelf.writing().write(rows)

    def built(self, build_key: str) -> Prompt | None:
        """What ``build_key`` built; ``None`` when nothing, or when that prompt is gone and is to be built again."""
        prompt_id = self._id(BUILD + build_key)
        return None if prompt_id is None else self.get(prompt_id)

    def latest(self, task: str) -> str | None:
        """The id that was kept last for ``task``."""
        return self._id(LATEST + sha256(task))

    def ids(self, prefix: str = "", task: str | None = None) -> list[str]:
        """Ids beginning with ``prefix``, of ``task`` or of all, newest first."""
        if not _PREFIX.fullmatch(prefix):
            return []
        start = PROMPT if task is None else f"{TASK}{sha256(task)} "
        cache = self._shelf.reading()
        # 'g' follows every hex digit.
        keys = [] if cache is None else cache.keys_between(start + prefix, start + prefix + "g")
        return [key.removeprefix(start) for key in keys]

    def _value(self, key: str) -> str | bytes | None:
        cache = self._shelf.reading()
        found = None if cache is None else cache.value(key)
        return None if found is None else found[0]

    def _id(self, key: str) -> str | None:
        data = self._value(key)
        return None if data is None else read_id(key, data)


def read_prompt(prompt_id: str, data: object) -> Prompt:
    """The prompt in a row. Raises :class:`TamperedError` for a wrong digest, shape or id."""
    body = unseal(data, f"prompt {prompt_id[:12]} in the cache")
    try:
        prompt = msgspec.json.decode(body, type=Prompt)
        found = prompt.verified()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InputError) as error:
        raise TamperedError(f"prompt {prompt_id[:12]} in the cache can't be read ({error})", hint="compile the task again") from None
    if found.id != prompt_id:
        raise TamperedError(f"the cache holds prompt {found.id[:12]} in the place of {prompt_id[:12]}", hint="compile the task again")
    return found


def read_id(key: str, data: object) -> str:
    """The prompt id in a row. Raises :class:`TamperedError`."""
    prompt_id = unseal(data, f"the row {key!r} in the cache", key).decode("utf-8", "replace")
    if not _ID.fullmatch(prompt_id):
        raise TamperedError(f"the row {key!r} in the cache holds no prompt id", hint="compile the task again")
    return prompt_id
