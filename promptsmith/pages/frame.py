"""What stands round a page that the service shows: navigation, who looks, and what the page may do.

An offline page has none of it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Place = Literal["overview", "try", "reports", "traces", "costs", ""]
"""The part of the navigation that a page belongs to."""

PLACES: tuple[tuple[Place, str, str], ...] = (
    ("overview", "/", "Overview"),
    ("try", "/try", "Try it"),
    ("reports", "/reports", "Reports"),
    ("traces", "/traces", "Traces"),
    ("costs", "/costs", "Costs"),
)
"""Part, address, name; the task pages belong to the overview."""


class Notice(msgspec.Struct, frozen=True):
    """What came of the last form, said above the page."""

    text: str
    good: bool = True


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """The frame of one answer.

    ``nonce`` is a fresh random text for each answer; the header that names it is :func:`policy`. Without it a page has
    neither style nor script.
    """

    nonce: str
    project: str = ""
    who: str = ""
    """Name of the key that is signed in; empty: nobody is, or no key is needed."""
    admin: bool = False
    """Whether the viewer may move aliases; without it no page has a form that does."""
    csrf: str = ""
    """The token that every form sends back as ``csrf``."""
    server_registry: bool = False
    """Whether the service may move aliases itself; with a lock file it shows the command to run."""
    here: Place = ""
    notice: Notice | None = None

    def at(self, place: Place) -> Frame:
        """The same frame with the navigation at ``place``."""
        return msgspec.structs.replace(self, here=place)


def policy(nonce: str) -> str:
    """The Content-Security-Policy of a page of the service (https://www.w3.org/TR/CSP3/).

    A server adds ``frame-ancestors 'none'`` to it in the header: within a page that rule is not read.
    """
    rules = ("default-src 'none'", f"style-src 'nonce-{nonce}'", f"script-src 'nonce-{nonce}'")
    return "; ".join([*rules, "connect-src 'self'", "form-action 'self'", "img-src data:", "base-uri 'none'"])
