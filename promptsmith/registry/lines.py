"""Reads YAML line by line, exactly as ``emit`` writes it, and declines at the first line of any other shape.

This is the quick way: with it an answer from the lock needs no YAML package, whose import takes longer (20 ms) than
everything else about the lock. What it declines goes to ``reader``, which knows all of YAML and says what is wrong
and where; a test holds the two against each other.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from .emit import fits, is_bare

_KEY = re.compile(r'([A-Za-z0-9/][A-Za-z0-9_./-]*|"(?:[^"\\]|\\.)*"):(?: (.+))?')
_WORDS: dict[str, Any] = {"null": None, "true": True, "false": False}
_EMPTY: dict[str, type[dict[str, Any] | list[Any]]] = {"{}": dict, "[]": list}
_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,400})")
_FLOAT = re.compile(r"-?[0-9]+\.[0-9]+(?:e[-+][0-9]+)?")
_HALF = re.compile(r"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")
_KEY_MOST = 1000
_DEEPEST = 100


class Declined(Exception):
    """A line is not one that ``emit`` writes; never seen outside this package."""


def read_lines(text: str) -> Any:
    """The value that ``text`` holds. Raises :class:`Declined` where only a YAML parser can tell."""
    # What is printable fits; of the rest only the search tells, at twenty times the cost.
    if not text.endswith("\n") or not (text.replace("\n", " ").replace("\t", " ").isprintable() or fits(text)):
        raise Declined
    reader = _Lines(text.split("\n"))
    indent = _indent(reader.lines[0])
    value = reader.node(indent)
    if reader.at != reader.end:
        raise Declined
    return value


class _Lines:
    __slots__ = ("at", "end", "lines")

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.at = 0
        self.end = len(lines) - 1  # behind the last line end stands nothing

    def node(self, indent: int) -> Any:
        if indent > 2 * _DEEPEST or self.at == self.end or _indent(self.lines[self.at]) != indent:
            raise Declined
        return self.sequence(indent) if self.lines[self.at].startswith("-", indent) else self.mapping(indent)

    def mapping(self, indent: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.at < self.end and (depth := _indent(line := self.lines[self.at])) >= indent:
            match = _KEY.fullmatch(line, indent)
            if match is None or depth != indent:
                raise Declined
            written, rest = match.groups()
            name = _quoted(written) if written[0] == '"' else written if is_bare(written) else _decline()
            if name in found or len(written) > _KEY_MOST:
                raise Declined
            self.at += 1
            found[name] = self.node(indent + 2) if rest is None else self.scalar(rest, indent)
        return found

    def sequence(self, indent: int) -> list[Any]:
        found: list[Any] = []
        while self.at < self.end and (depth := _indent(line := self.lines[self.at])) >= indent:
            if depth != indent or not line.startswith("-", indent):
                raise Declined
            rest = line[indent + 2 :]
            if line[indent + 1 :] == "":
                self.at += 1
                found.append(self.node(indent + 2))
            elif line[indent + 1] != " " or not rest:
                raise Declined
            elif _KEY.fullmatch(rest):
                self.lines[self.at] = f"{' ' * (indent + 2)}{rest}"
                found.append(self.mapping(indent + 2))
            else:
                self.at += 1
                found.append(self.scalar(rest, indent))
        return found

    def scalar(self, text: str, indent: int) -> Any:
        if text[0] in '"|':
            return _quoted(text) if text[0] == '"' else self.block(text, " " * (indent + 2))
        if is_bare(text):
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        return _EMPTY[text]() if text in _EMPTY else _decline()

    def block(self, header: str, pad: str) -> str:
        lines, start, at, end = self.lines, self.at, self.at, self.end
        while at < end and (lines[at].startswith(pad) or not lines[at]):
            at += 1
        self.at = at
        width = len(pad)
        text = "\n".join([line[width:] for line in lines[start:at]])
        body = text.rstrip("\n")
        if header == "|2-":
            return body
        if header == "|2":
            return body and body + "\n"
        if header != "|2+":
            raise Declined
        return text + "\n" if at > start else ""


def _indent(line: str) -> int:
    """The column of the first character; a line without one is never written outside a block."""
    bare = line.lstrip(" ")
    if not bare:
        raise Declined
    return len(line) - len(bare)


def _quoted(text: str) -> str:
    # JSON joins two escaped halves of a surrogate pair, YAML does not.
    if "\\u" in text and _HALF.search(text):
        raise Declined
    try:
        value = json.loads(text)
    except ValueError:
        raise Declined from None
    return value if isinstance(value, str) else _decline()


def _decline() -> NoReturn:
    raise Declined
