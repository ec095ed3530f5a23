"""The pages of the service: pure functions from the values in :mod:`values` and a :class:`Frame` to HTML.

The answer's header must carry ``policy(frame.nonce)``. Reports, traces and provenance are the offline pages, which take a
frame too.
"""

from __future__ import annotations

from typing import Any

from .. import page
from ..frame import Frame
from . import paths, words


def render(template: str, frame: Frame, *, script: str = "", **values: Any) -> str:
    """A page of the service. Its template asks ``to`` for addresses and ``say`` for figures in words."""
    return page(f"service/{template}.html", script=script, frame=frame, to=paths, say=words, **values)
