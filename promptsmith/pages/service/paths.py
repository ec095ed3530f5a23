"""Addresses of the pages, and what their forms send. The server's routes and the pages take them from here.

=========  ======================  ==============================================================================
``GET``    ``/``                   overview
``GET``    ``/tasks/TASK``         a task; ``?at=`` alias or id, ``?from=`` and ``?to=`` ids to compare
``GET``    ``/provenance/TASK``    where a prompt comes from; ``?at=`` alias or id
``POST``   ``/promote/TASK``       ``prompt`` (id), ``alias``, ``why``, ``expected.ALIAS`` (id that was shown there)
``POST``   ``/rollback/TASK``      ``alias``, ``why``, ``expected.ALIAS``
``POST``   ``/canary/TASK``        ``do`` (``start``, ``stop``); ``alias``; to start: ``prompt``, ``mode``, ``percent``
``GET``    ``/try``, ``/try/TASK`` the form; ``?at=``
``POST``   ``/try/TASK``           ``at``, ``input.NAME``; with ``accept: application/x-ndjson`` the answer streams
``GET``    ``/reports``            ``?task=``; one: ``/reports/ID``
``GET``    ``/traces``             one: ``/traces/RUN``
``GET``    ``/costs``
``GET``    ``/sign-in``            ``?next=``
``POST``   ``/sign-in``            ``key``, ``next`` (and ``user``, for password managers only)
``POST``   ``/sign-out``
=========  ======================  ==============================================================================

Every form of a signed-in viewer also sends ``csrf``.
"""

from __future__ import annotations

from urllib.parse import quote, urlencode

INPUT = "input."
"""Before the name of an input, in the fields of the try-it form."""
EXPECTED = "expected."
"""Before the name of an alias: the id that it named when the page was made, for a compare-and-swap."""


def task(name: str, at: str = "") -> str:
    """The page of a task, or of one prompt of it."""
    return _with("/tasks", name, at)


def provenance(name: str, at: str) -> str:
    """Where a prompt comes from."""
    return _with("/provenance", name, at)


def try_it(name: str, at: str = "") -> str:
    """The try-it form of a task."""
    return _with("/try", name, at)


def act(what: str, name: str) -> str:
    """Where the forms ``promote``, ``rollback`` and ``canary`` of a task are sent."""
    return _with(f"/{what}", name, "")


def report(report_id: str) -> str:
    """One report."""
    return f"/reports/{quote(report_id, safe='', errors='replace')}"


def trace(run: str) -> str:
    """What one run of a plan did."""
    return f"/traces/{quote(run, safe='', errors='replace')}"


def inside(address: str) -> str:
    """``address`` when it is a page of this server, else the overview: where a sign-in may lead."""
    one_place = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if one_place and address.isascii() and address.isprintable() and "\\" not in address else "/"


def _with(before: str, name: str, at: str) -> str:
    path = f"{before}/{quote(name, errors='replace')}"  # a name out of a damaged file may hold what UTF-8 has not
    return f"{path}?{urlencode({'at': at}, errors='replace')}" if at else path
