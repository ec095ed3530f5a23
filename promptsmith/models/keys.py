"""API keys: from the environment, else from a ``.env`` beside the project's settings. Never shown, never stored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import AuthenticationFailed, InputError


def find_key(variable: str, folder: Path) -> str:
    """The key in ``variable``, or an empty string. Raises :class:`InputError` for one that can't be a key."""
    key = os.environ.get(variable) or read_env(folder / ".env").get(variable, "")
    if key != key.strip():
        # Not taken off in silence: other programs that read the variable would fail with it.
        raise InputError(f"the key in {variable} has a line break or a blank at its end or beginning", hint="set it to the key alone")
    if any(char.isspace() or not char.isprintable() for char in key):
        raise InputError(f"the key in {variable} has a line break, a blank or a control character inside", hint="set it to the key alone")
    if not key.isascii():
        raise InputError(f"the key in {variable} has characters that no key has", hint="set it to the key alone")
    return key


def need_key(variable: str, folder: Path, provider: str) -> str:
    """As :func:`find_key`. Raises :class:`AuthenticationFailed` naming the variable when there is none."""
    key = find_key(variable, folder)
    if not key:
        raise AuthenticationFailed(
            f"there is no key for {provider}: {variable} is not set",
            provider=provider,
            hint=f"export {variable}=…, or write {variable}=… into a .env file beside the project's settings",
        )
    return key


def read_env(path: Path) -> Mapping[str, str]:
    """The ``NAME=value`` lines of a ``.env`` file; quotes around a value and ``export`` before a name are taken off."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            found[name.strip()] = value.strip().strip("'\"")
    return found
