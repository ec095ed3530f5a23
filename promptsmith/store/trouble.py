"""What happens when the disk can't be used: one warning, and serving goes on."""

from __future__ import annotations

import contextlib
import os
import warnings

from ..errors import StoreError


class StoreWarning(UserWarning):
    """The cache folder can't be used as it should; nothing is lost but what would have been kept there."""


class Trouble:
    """Says once per store that its folder can't be used.

    Inside the store an ``OSError`` means trouble with the disk (read-only, full, no permission, locked), and is
    noted here; damage and tampering are :class:`StoreError` and pass to the caller.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._noted: OSError | None = None
        # Taking its one element is atomic, and no lock is left behind in a forked child.
        self._first = iter((True,))

    def note(self, error: OSError) -> None:
        """Keeps ``error`` for the next :meth:`say`; for threads in which a warning could reach nobody."""
        if self._noted is None:
            self._noted = error

    def say(self) -> None:
        """Warns about what was noted, unless this store has warned before."""
        if self._noted is not None and next(self._first, False):
            text = f"{self._folder} can't be used ({reason(self._noted)}); answers are served, but nothing is kept there"
            warnings.warn(text, StoreWarning, stacklevel=4)

    def tell(self, error: OSError) -> None:
        """:meth:`note` and :meth:`say`."""
        self.note(error)
        self.say()


def reason(error: OSError) -> str:
    """``error`` in a few words, with the file that it is about."""
    what = error.strerror or str(error) or type(error).__name__
    return f"{what}: {error.filename}" if error.filename else what


def unwritable(folder: str, error: OSError) -> StoreError:
    """The error of those who must not go on when nothing can be kept."""
    return StoreError(
        f"the cache folder {folder} can't be written ({reason(error)})",
        hint="what is paid for is kept there: make it writable, free some space, or choose another folder",
    )


def private_folder(path: str) -> None:
    """Makes the folder ``path``, for its owner only, and takes other people's rights from one that exists.

    Raises ``OSError``, and :class:`StoreError` when ``path`` is a symbolic link.
    """
    if os.path.islink(path):
        raise StoreError(f"{path} is a symbolic link; the cache does not follow links", hint="replace it by a folder")
    os.makedirs(path, 0o700, exist_ok=True)
    if os.name == "posix" and os.stat(path).st_mode & 0o077:
        # Not our folder, or a read-only file system: `cache verify` reports it, serving goes on.
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)
