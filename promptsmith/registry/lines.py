"""Reads YAML line by line, exactly as ``emit`` writes it, and declines at the first line of any other shape.

This is the quick way: with it an answer from the lock needs no YAML package, whose import takes longer (20 ms) than
everything else about the lock. What it declines goes to ``reader``, which knows all of YAML and says what is wrong
and where; a test holds the two against each other.
"""

from __future__ import annotations

import re
from collections.abc import Sized
from functools import lru_cache
from typing import Annotated, Any, NoReturn

import msgspec

from .emit import FlowValue, fits, flow, is_bare

# One line of a mapping and one of a sequence; what follows the key or the dash is looked at later.
_ENTRY = re.compile(r'( *)([A-Za-z0-9/][A-Za-z0-9_./-]*|"(?:[^"\\]|\\.)*"):(?: (.+))?')
_ITEM = re.compile(r"( *)-(?: (.+))?")
_COLUMN = re.compile(r"( *)[^ \n]")
_WORDS: dict[str, Any] = {"null": None, "true": True, "false": False}
_EMPTY: dict[str, type[dict[str, Any] | list[Any]]] = {"{}": dict, "[]": list}
_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,400})")
_FLOAT = re.compile(r"-?[0-9]+\.[0-9]+(?:e[-+][0-9]+)?")
_HALF = re.compile(r"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")
_PRINTABLE = b"\t\n" + bytes(range(0x20, 0x7F))
_KEY_MOST = 1000
_DEEPEST = 100
_SHORT = 120
_PAIR = ":"
"""Opens a mapping that begins behind a dash."""
# Written with escapes, a key is at most six times as long.
_FlowKey = Annotated[str, msgspec.Meta(max_length=_KEY_MOST // 6)]
_decode_flow = msgspec.json.Decoder(dict[_FlowKey, str | int | dict[_FlowKey, str]]).decode
_decode_text = msgspec.json.Decoder(str).decode


class Declined(Exception):
    """A line is not one that ``emit`` writes; never seen outside this package."""


def read_lines(text: str) -> Any:
    """The value that ``text`` holds. Raises :class:`Declined` where only a YAML parser can tell."""
    if not text.endswith("\n") or not _fits(text):
        raise Declined
    reader = _Lines(text)
    value = reader.node(reader.column())
    if reader.at != reader.end:
        raise Declined
    return value


def _fits(text: str) -> bool:
    # An eighth of what the search costs, for most texts.
    return not text.encode().translate(None, _PRINTABLE) if text.isascii() else fits(text)


class _Lines:
    """``at`` is where the next line begins, or its part behind a dash."""

    __slots__ = ("at", "end", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.end = len(text)

    def column(self) -> int:
        """Where the line's first character stands; a line without one is never written outside a block."""
        match = _COLUMN.match(self.text, self.at)
        return match.end(1) - self.at if match else _decline()

    def node(self, column: int) -> Any:
        if column > 2 * _DEEPEST or self.at == self.end:
            raise Declined
        return self.sequence(column) if self.text.startswith("-", self.at + column) else self.mapping(column, column)

    def mapping(self, column: int, blanks: int) -> dict[str, Any]:
        """``blanks`` stand before the first key: none of them behind a dash."""
        found: dict[str, Any] = {}
        text, at, end = self.text, self.at, self.end
        while at < end:
            after = text.index("\n", at) + 1
            entry = (_known_entry if after - at <= _SHORT else _entry)(text[at : after - 1])
            if entry is None or entry[0] != blanks:
                self.leave(found, column, at, entry)
                break
            _, name, opens, value = entry
            if name in found:
                raise Declined
            at = after
            if opens is not None:
                self.at = at
                value = self.opened(opens, column)
                at = self.at
            found[name] = value
            blanks = column
        self.at = at
        return found

    def sequence(self, column: int) -> list[Any]:
        found: list[Any] = []
        text, at, end = self.text, self.at, self.end
        while at < end:
            after = text.index("\n", at) + 1
            item = (_known_item if after - at <= _SHORT else _item)(text[at : after - 1])
            if item is None or item[0] != column:
                self.leave(found, column, at, item)
                break
            _, opens, value = item
            if opens == _PAIR:
                self.at = at + column + 2
                value = self.mapping(column + 2, 0)
                at = self.at
            elif opens is not None:
                self.at = after
                value = self.opened(opens, column)
                at = self.at
            else:
                at = after
            found.append(value)
        self.at = at
        return found

    def leave(self, found: Sized, column: int, at: int, line: tuple[int, *tuple[Any, ...]] | None) -> None:
        """Raises :class:`Declined` unless the line at ``at`` stands further left than what was found."""
        self.at = at
        if not found or (line[0] if line else self.column()) >= column:
            raise Declined

    def opened(self, opens: str, column: int) -> Any:
        """The value that is more than a scalar on the line of its key or dash."""
        if not opens:
            return self.node(column + 2)
        if opens[0] == "|":
            return self.block(opens, column + 2)
        return _EMPTY[opens]() if opens in _EMPTY else _flow(opens)

    def block(self, header: str, column: int) -> str:
        """All lines that are indented as far as ``column`` or empty."""
        before = self.at - 1  # the line end before the block
        match = _after_block(column).search(self.text, before)
        self.at = match.start() + 1 if match else self.end
        text = self.text[before : self.at].replace("\n" + " " * column, "\n")[1:]
        if header == "|2+":
            return text
        body = text.rstrip("\n")
        if header == "|2-":
            return body
        return body and body + "\n" if header == "|2" else _decline()


def _entry(line: str) -> tuple[int, str, str | None, Any] | None:
    """A mapping's line: the blanks before its key, the key, what opens its value (``None``: nothing), the value."""
    match = _ENTRY.fullmatch(line)
    if match is None:
        return None
    blanks, written, rest = match.groups()
    if len(written) > _KEY_MOST or not (written[0] == '"' or is_bare(written)):
        raise Declined
    return len(blanks), _quoted(written) if written[0] == '"' else written, *_value(rest)


def _item(line: str) -> tuple[int, str | None, Any] | None:
    """A sequence's line: the blanks before its dash, what opens its value, the value."""
    match = _ITEM.fullmatch(line)
    if match is None:
        return None
    blanks, rest = match.groups()
    if rest and ":" in rest and rest[0] != " " and _ENTRY.fullmatch(rest):
        return len(blanks), _PAIR, None
    return len(blanks), *_value(rest)


def _value(text: str | None) -> tuple[str | None, Any]:
    if text is None or text[0] in "|{[":
        return text or "", None
    return None, _scalar(text)


def _scalar(text: str) -> Any:
    if text[0] == '"':
        return _quoted(text)
    if is_bare(text):
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else _decline()


# From one prompt to the next most lines of its settings are the same, and looking them up takes a tenth of the time.
_known_entry = lru_cache(4096)(_entry)
_known_item = lru_cache(4096)(_item)


@lru_cache(256)
def _after_block(column: int) -> re.Pattern[str]:
    """Finds the line end before a line that is neither indented as far as ``column`` nor empty."""
    return re.compile(rf"\n(?! {{{column}}})[^\n]")


def _quoted(text: str) -> str:
    # JSON joins two escaped halves of a surrogate pair, YAML does not.
    if "\\u" in text and _HALF.search(text):
        raise Declined
    try:
        return _decode_text(text)
    except msgspec.MsgspecError:
        raise Declined from None


def _flow(text: str) -> dict[str, FlowValue]:
    try:
        value: dict[str, FlowValue] = _decode_flow(text)
    except msgspec.MsgspecError:
        raise Declined from None
    # JSON knows spellings that YAML reads otherwise, and takes a key twice.
    return value if flow(value) == text else _decline()


def _decline() -> NoReturn:
    raise Declined
