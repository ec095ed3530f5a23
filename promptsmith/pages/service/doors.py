"""What stands before the other pages: the sign-in, and what went wrong."""

from __future__ import annotations

from ..frame import Frame
from . import paths, render
from .values import Fault


def sign_in(frame: Frame, *, leads_to: str = "/", wrong: str = "") -> str:
    """The form that takes a key. ``leads_to`` is the page to go on to; ``wrong`` says why the last key was not taken."""
    return render("sign_in", frame, leads_to=paths.inside(leads_to), wrong=wrong)


def fault(values: Fault, frame: Frame) -> str:
    """The error page."""
    return render("fault", frame, fault=values)
