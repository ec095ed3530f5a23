"""A YAML text as a tree of light nodes that know their line and whether they were quoted.

The tree is built from libyaml's *event* stream. Its composer was rejected: it recurses in C (deep input kills
the process), expands nothing but counts nothing either, and forgets which scalars were quoted.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from ..contract import shorten
from ..errors import Problem, SourceError
from .values import Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import yaml

MAX_BYTES = 16 * 1024 * 1024
"""Of a task file; also the most characters that its aliases may expand to."""
MAX_NODES = 100_000
"""Of a document, aliases counted as what they stand for."""
MAX_DEPTH = 100
MAX_DIGITS = 640
"""Of a whole number: the most that every Python turns into text and back (``sys.int_info.str_digits_check_threshold``)."""

_LISTED_LINES = 20
_SMALLER = "put the examples into a JSONL or CSV file and name it with 'file:'"


class Bounds(NamedTuple):
    """How large a document may be, and what is said of one that is too large or empty."""

    nodes: int = MAX_NODES
    smaller: str = _SMALLER
    empty: str = "write at least 'task:' and 'examples:'"


TASK_FILE = Bounds()


class ScalarNode(msgspec.Struct, frozen=True):
    """One scalar. ``plain`` says that it stood without quotes and is no block; lines and columns count from 1."""

    text: str
    plain: bool
    line: int = 0
    column: int = 0
    tag: str = ""
    """An explicit tag. It is an error that has been reported; typing ignores it."""
    path: str = ""
    """Where it stands in a Python value (``examples[3].input``); empty for a file, which has lines."""


class SequenceNode(msgspec.Struct, frozen=True):
    """A list."""

    items: tuple[Node, ...]
    line: int = 0
    path: str = ""


class MappingNode(msgspec.Struct, frozen=True):
    """A mapping, in the order written."""

    pairs: tuple[tuple[ScalarNode, Node], ...]
    line: int = 0
    path: str = ""


Node = ScalarNode | SequenceNode | MappingNode


class Problems:
    """Collects what is wrong with a source, so that all of it is told at once."""

    def __init__(self, file: str = "") -> None:
        self.file = file
        self._found: list[Problem] = []

    def add(self, node: Node, what: str, right: str = "") -> None:
        """Notes a mistake at a node of this file."""
        self.at(self.where(node), what, right)

    def at(self, where: Where, what: str, right: str = "") -> None:
        """Notes a mistake at a place in any file."""
        self._found.append(Problem(where.file, where.line, f"{where.path}: {what}" if where.path else what, right))

    def where(self, node: Node) -> Where:
        return Where(self.file, node.line, node.path)

    def extend(self, found: Iterable[Problem]) -> None:
        self._found.extend(found)

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found)

    def raise_if_any(self) -> None:
        """Raises :class:`SourceError` with everything collected."""
        if self._found:
            raise SourceError(self._found)


# --- bytes and text ---------------------------------------------------------------------------------------


def shown(path: str | os.PathLike[str]) -> str:
    """A path as messages show it: relative to the current folder when below it."""
    full = Path(os.path.abspath(path))
    try:
        near = full.relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):  # not below it, or the current folder is gone
        near = str(full)
    return near.encode("utf-8", "backslashreplace").decode()


def cannot_read(file: str, error: OSError | ValueError) -> Problem:
    """The problem of a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return Problem(file, 0, "there is no such file")
    if isinstance(error, IsADirectoryError):
        return Problem(file, 0, "this is a folder", "name a file")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Problem(file, 0, f"the file can't be read: {reason}")


def not_utf8(file: str, data: bytes, error: UnicodeDecodeError, *, line: int, offset: int) -> Problem:
    """The problem of bytes that are no UTF-8; ``line`` and ``offset`` are where ``data`` begins in the file."""
    at = line + _count_breaks(data[: error.start].decode("utf-8", "replace"))
    what = f"byte {data[error.start]:#04x} (at offset {offset + error.start}) is not UTF-8"
    return Problem(file, at, what, "save the file as UTF-8")


def utf16_problem(file: str, data: bytes) -> Problem | None:
    """The problem of a file that begins with a UTF-16 mark."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Problem(file, 1, "the file is UTF-16", "save it as UTF-8")
    return None


def nul_problem(file: str, line: int) -> Problem:
    """The problem of a NUL byte in a file that should be text."""
    return Problem(file, line, "there is a NUL byte, so this is not a text file", "write text only (an escape where a text needs U+0000)")


def read_bytes(path: str | os.PathLike[str], bounds: Bounds = TASK_FILE) -> bytes:
    """The content of a task file, or of another. Raises :class:`SourceError`; never reads more than ``MAX_BYTES``."""
    file = shown(path)
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise SourceError([cannot_read(file, error)]) from None
    check_size(len(data), file, bounds)
    return data


def check_size(size: int, file: str, bounds: Bounds = TASK_FILE) -> None:
    """Raises :class:`SourceError` when a text has more than ``MAX_BYTES``."""
    if size > MAX_BYTES:
        raise SourceError([Problem(file, 0, f"the file is larger than {MAX_BYTES // 1024 // 1024} MB", bounds.smaller)])


_BREAK = re.compile(r"\r\n?|\n")
_SHIFTS_LINES = re.compile("[\x85\u2028\u2029]")
# YAML 1.2's c-printable turned round; U+0085 is printable there, and refused before with words of its own.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _count_breaks(text: str) -> int:
    return sum(1 for _ in _BREAK.finditer(text))


def _line_at(text: str, index: int) -> int:
    return _count_breaks(text[:index]) + 1


def decoded(data: bytes, file: str) -> str:
    """The text that UTF-8 bytes are, without a byte order mark. Raises :class:`SourceError`."""
    wide = utf16_problem(file, data)
    if wide:
        raise SourceError([wide])
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if b"\0" in data[: error.start]:
            raise SourceError([nul_problem(file, data.count(b"\n", 0, data.index(b"\0")) + 1)]) from None
        raise SourceError([not_utf8(file, data, error, line=1, offset=0)]) from None


def _check_characters(text: str, file: str) -> None:
    bad = _UNPRINTABLE.search(text)
    if bad:
        line = _line_at(text, bad.start())
        if bad[0] == "\0":
            raise SourceError([nul_problem(file, line)])
        what = f"the character U+{ord(bad[0]):04X} can't stand in YAML"
        right = "write a character" if 0xD800 <= ord(bad[0]) <= 0xDFFF else "write it as an escape in double quotes"
        raise SourceError([Problem(file, line, what, right)])
    # libyaml counts these as line ends where editors do not, so every later line number would be wrong.
    shifting = [
        Problem(
            file,
            _line_at(text, match.start()),
            f"the character U+{ord(match[0]):04X} shifts the lines after it",
            "write it as an escape in double quotes",
        )
        for _, match in zip(range(_LISTED_LINES), _SHIFTS_LINES.finditer(text), strict=False)
    ]
    if shifting:
        raise SourceError(shifting)


# --- text to nodes ----------------------------------------------------------------------------------------


def read_document(path: str | os.PathLike[str], problems: Problems | None = None) -> Node:
    """The document in a file; see :func:`parse_document`."""
    return parse_document(read_bytes(path), shown(path), problems)


def parse_document(data: bytes | str, file: str, problems: Problems | None = None, bounds: Bounds = TASK_FILE) -> Node:
    """The document in ``data``. Raises :class:`SourceError`.

    Duplicate keys, tags, keys that are no scalar and overlong numbers leave a tree that can be read on: with
    ``problems`` they are added there (to be told with what the reader finds), without it they are raised at the end.
    """
    found = Problems(file) if problems is None else problems
    check_size(len(data), file, bounds)
    text = decoded(data, file) if isinstance(data, bytes) else data.removeprefix("\ufeff")
    _check_characters(text, file)
    node = _build(text, file, found, bounds)
    if problems is None:
        found.raise_if_any()
    return node


def _build(text: str, file: str, problems: Problems, bounds: Bounds) -> Node:
    # Imported here so that a task built in Python, and a lookup of names in this module, load no YAML.
    import yaml

    builder = _Builder(file, problems, bounds)
    steps: dict[type, Callable[[Any], None]] = {
        yaml.ScalarEvent: builder.scalar,
        yaml.AliasEvent: builder.alias,
        yaml.SequenceStartEvent: builder.open_list,
        yaml.MappingStartEvent: builder.open_mapping,
        yaml.SequenceEndEvent: builder.close,
        yaml.MappingEndEvent: builder.close,
        yaml.DocumentStartEvent: builder.document,
    }
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            step = steps.get(type(event))
            if step is not None:
                step(event)
    except yaml.MarkedYAMLError as error:
        raise SourceError([_syntax_problem(error, text, file)]) from None
    except yaml.YAMLError as error:
        raise SourceError([Problem(file, 0, f"this is not valid YAML: {' '.join(str(error).split())}")]) from None
    if builder.root is None or (isinstance(builder.root, ScalarNode) and builder.root.plain and not builder.root.text):
        raise SourceError([Problem(file, 0, "the file is empty", bounds.empty)])
    return builder.root


class _Size(NamedTuple):
    """What a node weighs with its aliases expanded. ``height`` counts the lists and mappings under one another."""

    nodes: int
    chars: int
    height: int


class _Open:
    """A list or mapping whose end has not come yet. ``children`` holds a mapping's keys and values in turn."""

    __slots__ = ("anchor", "before", "children", "height", "line", "mapping")

    def __init__(self, *, mapping: bool, anchor: str | None, line: int, before: tuple[int, int]) -> None:
        self.mapping, self.anchor, self.line, self.before = mapping, anchor, line, before
        self.children: list[Node] = []
        self.height = 1


class _Builder:
    """Turns events into nodes with a stack of its own; an alias shares the node it names and adds its size."""

    def __init__(self, file: str, problems: Problems, bounds: Bounds) -> None:
        self.file, self.problems, self.bounds = file, problems, bounds
        self.root: Node | None = None
        self._documents = 0
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Open | tuple[Node, _Size]] = {}
        self._nodes = self._chars = 0

    def document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            self._fail(_line(event), "a second document begins here", "keep one document in a file, without '---' between")

    def scalar(self, event: Any) -> None:
        mark = event.start_mark
        node = ScalarNode(event.value, not event.style, mark.line + 1, mark.column + 1, event.tag or "")
        self._check_tag(event.tag, node)
        if node.plain and len(node.text) > MAX_DIGITS and _INTEGER.fullmatch(node.text):
            self.problems.add(node, f"a number of {len(node.text)} digits", "put it in quotes if it is meant as text")
        self._count(_Size(1, len(node.text), 0), node.line)
        if event.anchor:
            self._anchors[event.anchor] = node, _Size(1, len(node.text), 0)
        self._attach(node, 0)

    def alias(self, event: Any) -> None:
        line, name = _line(event), str(event.anchor)
        target = self._anchors.get(name)
        if target is None:
            self._fail(line, f"the alias *{name} names no anchor before it", f"put the text in quotes, or set &{name} first")
        if isinstance(target, _Open):
            self._fail(line, f"the alias *{name} stands inside what it names", "write it out")
        node, size = target
        self._count(size, line)
        self._attach(node, size.height)

    def open_list(self, event: Any) -> None:
        self._open(event, mapping=False)

    def open_mapping(self, event: Any) -> None:
        self._open(event, mapping=True)

    def _open(self, event: Any, *, mapping: bool) -> None:
        line = _line(event)
        self._count(_Size(1, 0, 1), line)
        frame = _Open(mapping=mapping, anchor=event.anchor, line=line, before=(self._nodes - 1, self._chars))
        self._check_tag(event.tag, SequenceNode((), line))
        if event.anchor:
            self._anchors[event.anchor] = frame
        self._stack.append(frame)

    def close(self, _event: Any) -> None:
        frame = self._stack.pop()
        node = self._mapping(frame) if frame.mapping else SequenceNode(tuple(frame.children), frame.line)
        # An anchor of the same name set inside wins over this one: an alias means the last one before it.
        if frame.anchor and self._anchors[frame.anchor] is frame:
            nodes, chars = frame.before
            self._anchors[frame.anchor] = node, _Size(self._nodes - nodes, self._chars - chars, frame.height)
        self._attach(node, frame.height)

    def _mapping(self, frame: _Open) -> MappingNode:
        pairs: dict[str, tuple[ScalarNode, Node]] = {}
        for key, value in zip(frame.children[::2], frame.children[1::2], strict=True):
            if not isinstance(key, ScalarNode):
                self.problems.add(key, "a key is a list or a mapping", "write a word as the key")
            elif key.text in pairs:
                first = pairs[key.text][0].line
                self.problems.add(key, f"the key {shorten(key.text)} stands twice (first in line {first})", "keep one of them")
            else:
                pairs[key.text] = key, value
        return MappingNode(tuple(pairs.values()), frame.line)

    def _attach(self, node: Node, height: int) -> None:
        if not self._stack:
            self.root = node
            return
        frame = self._stack[-1]
        frame.children.append(node)
        frame.height = max(frame.height, height + 1)

    def _count(self, size: _Size, line: int) -> None:
        self._nodes += size.nodes
        self._chars += size.chars
        if len(self._stack) + size.height > MAX_DEPTH:
            self._fail(line, f"lists and mappings are nested more than {MAX_DEPTH} deep", "write it flatter")
        if self._nodes > self.bounds.nodes:
            what = f"the file has more than {self.bounds.nodes:,} nodes once its aliases are expanded"
            self._fail(line, what, self.bounds.smaller)
        if self._chars > MAX_BYTES:
            self._fail(line, f"the aliases expand to more than {MAX_BYTES // 1024 // 1024} MB of text", "write fewer of them")

    def _check_tag(self, tag: str | None, node: Node) -> None:
        if tag:
            name = tag.replace("tag:yaml.org,2002:", "!!", 1)
            self.problems.add(node, f"the tag {shorten(name)} has no meaning here", "leave it out")

    def _fail(self, line: int, what: str, right: str) -> NoReturn:
        raise SourceError([Problem(self.file, line, what, right)])


def _line(event: Any) -> int:
    # Any: the stubs call marks optional, though libyaml sets them on every event.
    return int(event.start_mark.line) + 1


# --- syntax errors in words -------------------------------------------------------------------------------

_TAB = ("a tab stands in the indentation", "use spaces: YAML allows no tabs there")
_FIT = "check the indentation, and the quotes round texts"
_BY_START = {  # the beginning of libyaml's words -> ours; {first} is the line where the surrounding part begins
    "found unexpected end of stream": ("the quote that opens here is never closed", "close it"),
    "found unexpected document indicator": ("the quote that opens here is not closed before '---' or '...'", "close it"),
    "mapping values are not allowed": ("a ': ' stands where no key can be", "put a text with ': ' in quotes, and check the indentation"),
    "could not find expected ':'": ("this line has no ': '", "write 'key: value', or indent it under the text it belongs to"),
    "did not find expected ',' or ']'": (
        "the list that begins with '[' in line {first} is not closed",
        "write ',' between its items and ']' at its end",
    ),
    "did not find expected ',' or '}'": (
        "the mapping that begins with '{{' in line {first} is not closed",
        "write ',' between its pairs and '}' at its end",
    ),
    "did not find expected key": ("this does not fit into the mapping that begins in line {first}", _FIT),
    "did not find expected '-' indicator": ("this does not fit into the list that begins in line {first}", _FIT),
    "found invalid Unicode character escape": (
        "an escape names no character (half of a surrogate pair, or beyond U+10FFFF)",
        "write the character itself, or \\U and its eight hex digits",
    ),
    "found unknown escape character": (
        "a backslash in double quotes begins an escape, and this one does not exist",
        "write \\\\ or use single quotes",
    ),
    "did not find expected hexdecimal number": ("an escape lacks its hex digits", "write \\\\ for a backslash, or use single quotes"),
}
_AT_CONTEXT = ("found unexpected end of stream", "found unexpected document indicator", "could not find expected ':'")


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    words = str(error.problem or "")
    mark = error.problem_mark or error.context_mark
    context = error.context_mark or mark
    if mark is None or context is None:
        return Problem(file, 0, f"this is not valid YAML: {words}")
    last = _line_at(text.rstrip(), len(text))
    line = min(mark.line + 1, last)
    character = text[mark.index : mark.index + 1]
    if words.startswith("found a tab") or character == "\t" or _tab_indented(text, mark.line):
        return Problem(file, line, *_TAB)
    if words.startswith("found character that cannot start"):
        return Problem(file, line, f"a text can't begin with {character!r}", "put it in quotes")
    for start, (what, right) in _BY_START.items():
        if words.startswith(start):
            line = context.line + 1 if start in _AT_CONTEXT else line
            return Problem(file, line, what.format(first=context.line + 1), right)
    return Problem(file, line, f"this is not valid YAML: {words}")


def _tab_indented(text: str, line: int) -> bool:
    lines = _BREAK.split(text, maxsplit=line + 1)
    start = lines[line] if line < len(lines) else ""
    return "\t" in start[: len(start) - len(start.lstrip(" \t"))]


# --- values -----------------------------------------------------------------------------------------------

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_NOT_A_NUMBER = frozenset({".nan", ".NaN", ".NAN"})
_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


def typed(node: Node) -> Any:
    """The value by the YAML 1.2 core schema: ``true``, ``010`` (ten), ``0x1F``, ``.inf``, ``~``; quoted scalars are text.

    An alias that occurs many times is built many times; the parser has bounded that.
    """
    if isinstance(node, SequenceNode):
        return [typed(item) for item in node.items]
    if isinstance(node, MappingNode):
        return {key.text: typed(value) for key, value in node.pairs}
    return _resolve(node.text) if node.plain else node.text


def written(node: ScalarNode) -> str:
    """The scalar as it was written: ``yes``, ``1.10``, ``010`` and ``null`` stay these texts."""
    return node.text


def _resolve(text: str) -> str | int | float | bool | None:
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= MAX_DIGITS and _INTEGER.fullmatch(text):
        bases = {"0o": 8, "0x": 16}
        return int(text, bases.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    infinite = _INFINITE.fullmatch(text)
    if infinite:
        return -math.inf if infinite[1] == "-" else math.inf
    return math.nan if text in _NOT_A_NUMBER else text


# --- Python values ----------------------------------------------------------------------------------------


def from_python(value: Any, file: str = "", most_nodes: int = MAX_NODES) -> Node:
    """A tree for a value made of dicts with text keys, lists, tuples, text, numbers, booleans and ``None``.

    Raises :class:`SourceError` naming the place (``examples[3].input``) of anything else.
    """
    return _FromPython(file, most_nodes).node(value, "", 0)


class _FromPython:
    def __init__(self, file: str, most_nodes: int) -> None:
        self.file, self.most_nodes = file, most_nodes
        self._nodes = 0

    def node(self, value: Any, path: str, depth: int) -> Node:
        self._nodes += 1
        # A container that holds itself ends here too.
        if depth > MAX_DEPTH or self._nodes > self.most_nodes:
            raise self._error(path, f"more than {self.most_nodes:,} values, or nested more than {MAX_DEPTH} deep")
        if isinstance(value, dict):
            return MappingNode(tuple(self._pair(key, item, path, depth) for key, item in value.items()), path=path)
        if isinstance(value, list | tuple):
            return SequenceNode(tuple(self.node(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)), path=path)
        return self._scalar(value, path)

    def _pair(self, key: object, item: object, path: str, depth: int) -> tuple[ScalarNode, Node]:
        if not isinstance(key, str):
            raise self._error(path, f"the key {shorten(repr(key))} is {type(key).__name__}", "write text as the key")
        here = f"{path}.{key}" if path else key
        return self._text(key, here), self.node(item, here, depth + 1)

    def _scalar(self, value: object, path: str) -> ScalarNode:
        if isinstance(value, str):
            return self._text(value, path)
        if value is None:
            return ScalarNode("null", plain=True, path=path)
        if isinstance(value, bool):
            return ScalarNode("true" if value else "false", plain=True, path=path)
        # The base types' own words: subclasses (numpy's floats, IntEnum) print themselves differently.
        if isinstance(value, int):
            if value.bit_length() > MAX_DIGITS * 3:
                raise self._error(path, f"a number of {value.bit_length()} bits", "give it as text")
            return ScalarNode(int.__repr__(value), plain=True, path=path)
        if isinstance(value, float):
            plain = {math.inf: ".inf", -math.inf: "-.inf"}.get(float(value), float.__repr__(value))
            return ScalarNode(".nan" if math.isnan(value) else plain, plain=True, path=path)
        raise self._error(
            path, f"a value of type {type(value).__name__} can't stand in a task", "use text, numbers, True, False, None, lists and dicts"
        )

    def _text(self, value: str, path: str) -> ScalarNode:
        text = str.__str__(value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self._error(
                path, f"the text has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start + 1}", "replace it"
            ) from None
        return ScalarNode(text, plain=False, path=path)

    def _error(self, path: str, what: str, right: str = "") -> SourceError:
        place = path.encode("utf-8", "backslashreplace").decode()
        return SourceError([Problem(self.file, 0, f"{place}: {what}" if place else what, right)])
