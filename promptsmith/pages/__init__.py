"""Every HTML that the product shows: one stylesheet, one escaping rule, nothing loaded from anywhere.

Values reach a page only through the templates, where everything is escaped, and what does not print is shown by its code. A
page's own style and script are named in its Content-Security-Policy, by their hashes or, where the service shows it, by a
nonce: markup that got in nevertheless could neither run nor fetch.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evals.show.words import visible
from .frame import PLACES, Frame, policy

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_FOLDER = Path(__file__).parent
_KEPT = "\n\t\u00a0\u202f\u200c\u200d"
"""Shown as they are: line feeds and tabs, the blanks of typography, and what joins letters and emoji."""


def page(template: str, *, script: str = "", frame: Frame | None = None, **values: Any) -> str:
    """A whole HTML page. ``script`` names a file of this package that is put into it; ``frame`` is what the service puts round it."""
    style, code = _file("style.css"), _file(script) if script else ""
    if frame is not None:
        style += _file("service/service.css")
    rules = _policy(style, code) if frame is None else policy(frame.nonce)
    whole = {"policy": rules, "style": _trusted(style), "script": _trusted(code), "frame": frame, "places": PLACES}
    return _environment().get_template(template).render(values, **whole)


def shown(text: str) -> str:
    """``text`` as every page shows it, before it is escaped: what does not print by its code."""
    return visible(text, _KEPT)


def shown_size(text: str) -> int:
    """Bytes that ``text`` takes on a page."""
    from markupsafe import escape

    return len(escape(shown(text)).encode("utf-8"))


def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _trusted(text: str) -> str:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704  # a file of this package, whole


def _policy(style: str, script: str) -> str:
    """What the page may load (https://www.w3.org/TR/CSP3/): its own style and script, nothing else."""
    rules = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'", f"style-src '{_hash(style)}'"]
    return "; ".join([*rules, f"script-src '{_hash(script)}'"] if script else rules)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printing,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["field"] = _field
    return made


def _printing(value: object) -> object:
    return shown(value) if type(value) is str else value


def _field(text: str) -> Markup:
    """``text`` for a field that sends it back: escaped, with every character that UTF-8 has as it is."""
    from markupsafe import escape

    return escape(text.encode("utf-8", "replace").decode())
