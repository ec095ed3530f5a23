"""A foreign file as bytes, text, tree, rows or front matter, with the line of everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ..errors import Problem, SourceError
from ..task.document import (
    MappingNode,
    Node,
    Problems,
    ScalarNode,
    SequenceNode,
    cannot_read,
    from_python,
    not_utf8,
    nul_problem,
    parse_document,
    read_bytes,
    shown,
    utf16_problem,
)
from ..task.rows import NotJson, Row, parse_json, read_rows

_RULE = re.compile(r"---[ \t]*")


class Source:
    """One file, read when it is asked for. Everything raises :class:`SourceError` for what can't be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = shown(path)
        self.name = path.name.lower()

    @cached_property
    def text(self) -> str:
        """The text. Line ends become LF; a byte order mark is dropped."""
        data = read_bytes(self.path)
        if wide := utf16_problem(self.file, data):
            raise SourceError([wide])
        if b"\0" in data:
            raise SourceError([nul_problem(self.file, data.count(b"\n", 0, data.index(b"\0")) + 1)])
        try:
            text = data.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise SourceError([not_utf8(self.file, data, error, line=1, offset=0)]) from None
        if not text.strip():
            raise SourceError([Problem(self.file, 0, "the file is empty")])
        return text.replace("\r\n", "\n").replace("\r", "\n")

    @cached_property
    def first_line(self) -> str:
        """The first line of a file of any size, at most 64 kB of it; its rows are judged when they are read."""
        try:
            with self.path.open("rb") as file:
                return file.readline(1 << 16).decode("utf-8", "replace")
        except OSError as error:
            raise SourceError([cannot_read(self.file, error)]) from None

    @property
    def is_table(self) -> bool:
        return self.name.endswith((".csv", ".tsv", ".jsonl"))

    @cached_property
    def is_json(self) -> bool:
        if self.is_table:
            return False
        return self.name.endswith(".json") or (not self.name.endswith((".yaml", ".yml")) and self.text.lstrip()[:1] in ("{", "["))

    @cached_property
    def tree(self) -> Node:
        """The document: YAML with its lines, or JSON with paths (``messages[0].content``) in their place."""
        if not self.is_json:
            return parse_document(self.text, self.file)
        try:
            return from_python(parse_json(self.text), self.file)
        except NotJson as error:
            raise SourceError([Problem(self.file, 0, str(error))]) from None

    @cached_property
    def front(self) -> tuple[Node | None, str, int]:
        """The front matter (``None`` when there is none or it is empty), the body, and the line where the body begins."""
        lines = self.text.split("\n")
        start = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")), 0)
        if not _RULE.fullmatch(lines[start]):
            return None, self.text, 1
        end = next((number for number in range(start + 1, len(lines)) if _RULE.fullmatch(lines[number])), 0)
        if not end:
            raise SourceError([Problem(self.file, start + 1, "the front matter that begins here is never closed", "write '---' below it")])
        head = lines[start + 1 : end]
        # The lines before it stay as empty ones, so that every mistake names its line in the whole file.
        node = parse_document("\n" * (start + 1) + "\n".join(head), self.file) if any(map(_says_something, head)) else None
        return node, "\n".join(lines[end + 1 :]), end + 2

    def rows(self) -> Iterator[Row]:
        """The records of a CSV, TSV or JSONL file."""
        problems = Problems(self.file)
        yield from read_rows(self.path, problems)
        problems.raise_if_any()


def row_node(row: Row) -> Node:
    """The values of a record as a tree whose nodes all stand in the record's line."""
    return in_line(from_python(dict(row.values), row.where.file), row.where.line)


def in_line(node: Node, line: int) -> Node:
    """A tree whose nodes all stand in ``line``."""
    if isinstance(node, ScalarNode):
        return ScalarNode(node.text, node.plain, line)
    if isinstance(node, SequenceNode):
        return SequenceNode(tuple(in_line(item, line) for item in node.items), line)
    pairs = ((ScalarNode(key.text, key.plain, line), in_line(value, line)) for key, value in node.pairs)
    return MappingNode(tuple(pairs), line)


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
