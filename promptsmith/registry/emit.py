"""Writes YAML that is pleasant to diff and comes back from every YAML reader as it went in.

PyYAML's own dumpers turn a whole prompt into one quoted line for a single emoji, tab or trailing blank. Here
every text of printable characters that has line breaks stands as a literal block with explicit indentation
(``|2-``), whatever blanks it starts or ends with; what a block can't hold stands in double quotes with escapes.
A text stands bare only when neither YAML 1.1 nor 1.2 could take it for anything else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

import msgspec

from .. import canonical
from ..canonical import Scalar
from ..errors import InputError

Value = Scalar | Sequence["Value"] | Mapping[str, "Value"]
FlowValue = str | int | dict[str, str]

LONG = 100
"""A text with more characters stands as a block even without a line break."""

_KEY_MOST = 1000  # a YAML reader gives up on a key after 1024 characters
# A word, or hex digits with one of acdf among them: so neither 1e5 nor 0b11, and no number in any YAML.
_BARE = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*|[0-9][0-9a-f]*[acdf][0-9a-f]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "infinity"})
# What YAML prints as itself, without the breaks that readers normalise (CR, NEL, U+2028/9) and the byte order mark.
# Both are compiled by re when first used, which takes 5 ms: reading a lock needs neither.
_UNFIT = "[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
_ESCAPED = "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"


class Quoted(str):
    """A text that stands in quotes on one line however long it is."""

    __slots__ = ()


class Flow(dict[str, FlowValue]):
    """A mapping that stands on one line as JSON, for what only programs compare: a person skips it as a whole."""

    __slots__ = ()


def emit(value: Value, indent: int = 0) -> str:
    """``value`` as YAML lines, each ended by LF, starting ``indent`` columns in.

    Raises :class:`InputError` for a lone surrogate, a key over 1,000 characters or a value of another type.
    """
    if not _has_lines(value):
        return f"{' ' * indent}{_scalar(value, indent - 2)}\n"
    if isinstance(value, Mapping):
        return "".join(f"{' ' * indent}{key(name)}:{_after(item, indent)}" for name, item in value.items())
    assert isinstance(value, Sequence)
    return "".join(_item(item, indent) for item in value)


def key(name: str) -> str:
    """A mapping's key: bare or in quotes, on one line."""
    text = _inline(name)
    if len(text) > _KEY_MOST:
        raise InputError(f"{name[:60]!r}… is too long for a key: {len(text)} characters as written, the most is {_KEY_MOST}")
    return text


def is_bare(text: str) -> bool:
    """Whether ``text`` needs no quotes."""
    return _BARE.fullmatch(text) is not None and text.lower() not in _WORDS


def fits(text: str) -> bool:
    """Whether ``text`` holds only characters that a block can hold."""
    return not re.search(_UNFIT, text)


def flow(value: Mapping[str, FlowValue]) -> str:
    """A mapping as JSON on one line, which every YAML reader takes for the same (YAML 1.2, 7.4)."""
    return _escaped(msgspec.json.format(msgspec.json.encode(value), indent=0).decode())


def _checked_flow(value: Flow) -> str:
    for name, item in value.items():
        key(name)
        for inner in item if isinstance(item, dict) else ():
            key(inner)
    try:
        return flow(value)
    except UnicodeEncodeError:
        raise InputError("a text has a lone surrogate, which no UTF-8 text can hold") from None


def _has_lines(value: Value) -> bool:
    """Whether a value stands on lines of its own, one an item."""
    return bool(value) and isinstance(value, Mapping | Sequence) and not isinstance(value, str | Flow)


def _after(value: Value, indent: int) -> str:
    return f"\n{emit(value, indent + 2)}" if _has_lines(value) else f" {_scalar(value, indent)}\n"


def _item(value: Value, indent: int) -> str:
    if isinstance(value, Mapping) and _has_lines(value):
        return f"{' ' * indent}- {emit(value, indent + 2)[indent + 2 :]}"
    return f"{' ' * indent}-{_after(value, indent)}"


def _scalar(value: Value, indent: int) -> str:
    """``indent`` is the column of the key or dash that the value belongs to, -2 for a bare document."""
    if isinstance(value, str):
        return _text(value, indent)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Flow) and value:
        return _checked_flow(value)
    if isinstance(value, Mapping | Sequence):
        return "{}" if isinstance(value, Mapping) else "[]"
    raise InputError(f"a lock holds texts, numbers, true, false, null, lists and mappings, not {type(value).__name__}")


def _float(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    digits, exponent, power = repr(value).partition("e")
    # YAML 1.1 takes 1e-07 for a text: it wants a point.
    return f"{digits}.0e{power}" if exponent and "." not in digits else repr(value)


def _text(text: str, indent: int) -> str:
    if isinstance(text, Quoted) or ("\n" not in text and len(text) <= LONG) or not fits(text):
        return _inline(text)
    if not text.endswith("\n"):
        chomp, lines = "-", text.split("\n")
    else:
        # Clipping keeps one final line end, but none where there is no other character.
        chomp = "+" if text == "\n" or text.endswith("\n\n") else ""
        lines = text[:-1].split("\n")
    pad = " " * (indent + 2 if indent >= 0 else 2)
    body = "\n".join(pad + line if line else "" for line in lines)
    return f"|2{chomp}\n{body}"


def _inline(text: str) -> str:
    if is_bare(text) and not isinstance(text, Quoted):
        return text
    canonical.encode(text)
    return _escaped(json.dumps(str(text), ensure_ascii=False))


def _escaped(quoted: str) -> str:
    if quoted.isascii() and "\x7f" not in quoted:
        return quoted
    return re.sub(_ESCAPED, lambda match: f"\\u{ord(match[0]):04x}", quoted)
