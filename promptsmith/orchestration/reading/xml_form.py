"""The plan in a reply that was to be XML: prose, fences and quoted examples around it, a cut-off end.

The element is found by its tags, then it alone is read by expat, the parser of the standard library. A document type
can stand only before an element, so none is ever read: no entity but XML's own five is known, and nothing is opened.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple
from xml.parsers import expat

from ...contract import shorten
from ...errors import Problem, SourceError
from ...task.document import MAX_DEPTH, MappingNode, Node, Problems, ScalarNode, SequenceNode
from .json_form import CUT
from .known import BOUNDS

_ROOTS = ("plan", "tasks", "subtasks", "steps")
_MARK = re.compile(rf"<!--|<!\[CDATA\[|<(/?)({'|'.join(_ROOTS)}|analysis)(?=[\s/>]|\Z)")
_EMPTY = re.compile(r"""(?:\s+[\w:.-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*\s*/>""")
_BEGUN = re.compile(r"""[^<>]*(?:>\s*(?:<|\Z)|\Z)""")
"""Behind a tag's name: the tag is cut, or an element or nothing follows it. A tag that prose mentions is followed by prose."""

_OF_RECORDS = {
    "steps": frozenset(["step", "task", "subtask"]),
    "tasks": frozenset(["step", "task", "subtask"]),
    "subtasks": frozenset(["step", "task", "subtask"]),
    "experts": frozenset(["expert"]),
    "inputs": frozenset(["input"]),
}
_OF_NAMES = frozenset(["needs", "depends_on", "context", "context_needed", "result"])
_VALUES = frozenset(["output", "arguments", "default"])
_TEXT_IS = {"step": "instructions", "task": "instructions", "subtask": "instructions", "input": "about"}
"""What the bare text of an element stands for."""
_ITEMS = frozenset(["item", "label"])

NO_PLAN = "answer with one <plan> element, or with <tasks>"
_ESCAPE = "in a text write &lt; for < and &amp; for &, or put the text into <![CDATA[…]]>"


def xml_node(text: str, file: str, problems: Problems) -> Node:
    """The plan in a text: the last of the outermost complete elements called plan, tasks, subtasks or steps.

    An ``<analysis>`` before it becomes the plan's. Raises :class:`SourceError` when there is no such element, it is no
    XML, or it was cut off.
    """
    chosen, analysis = _chosen(text, file)
    root = _Tree(file, _line(text, chosen.start)).read(text[chosen.start : chosen.end])
    node = _Nodes(problems).plan(root)
    if analysis is None or any(key.text == "analysis" for key, _ in node.pairs):
        return node
    line = _line(text, analysis.start)
    said = ScalarNode(_analysis_text(text[analysis.start : analysis.end]), plain=True, line=line)
    return MappingNode((*node.pairs, (ScalarNode("analysis", plain=True, line=line), said)), node.line)


# --- finding the element ----------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """An element in the text; an opening tag whose element has no end stops at -1."""

    name: str
    start: int
    end: int = -1


def _chosen(text: str, file: str) -> tuple[_Piece, _Piece | None]:
    whole, open_ = _pieces(text)
    plans = [piece for piece in whole if piece.name != "analysis"]
    analyses = [piece for piece in whole if piece.name == "analysis"]
    for piece in open_:
        if _is_cut(piece, text, plans, analyses):
            what = f"the answer was cut off: <{piece.name}> begins here and has no end"
            raise SourceError([Problem(file, _line(text, piece.start), what, CUT)])
    if not plans:
        what = "the answer is empty" if not text.strip() else f"there is no <plan> and no <tasks> in {shorten(text.strip())}"
        raise SourceError([Problem(file, 0, what, NO_PLAN)])
    before = [piece for piece in analyses if piece.start < plans[-1].start]
    return plans[-1], before[-1] if before else None


def _is_cut(piece: _Piece, text: str, plans: list[_Piece], analyses: list[_Piece]) -> bool:
    """Whether an element that has no end was begun, and not only its tag mentioned."""
    if piece.name == "analysis":  # what looks like a plan behind it may be one that it quotes
        return not analyses
    if any(other.name == piece.name and other.start > piece.start for other in plans):
        return False
    return _BEGUN.match(text, piece.start + 1 + len(piece.name)) is not None


def _pieces(text: str) -> tuple[list[_Piece], list[_Piece]]:
    """The outermost elements, and the tags that open none."""
    whole: list[_Piece] = []
    open_: list[_Piece] = []
    waiting = dict.fromkeys((*_ROOTS, "analysis"), 0)
    for tag, closes in _tags(text):
        start = tag.start
        if not closes and tag.end < 0:
            open_.append(tag)
            waiting[tag.name] += 1
            continue
        if closes:
            if not waiting[tag.name]:
                continue
            while (top := open_.pop()).name != tag.name:
                waiting[top.name] -= 1
            waiting[tag.name] -= 1
            start = top.start
        while whole and whole[-1].start > start:
            whole.pop()
        whole.append(_Piece(tag.name, start, tag.end))
    return whole, open_


def _tags(text: str) -> Iterator[tuple[_Piece, bool]]:
    """Each tag that matters, and whether it closes; comments and CDATA are passed over."""
    position = 0
    ends = {"<!--": "-->", "<![CDATA[": "]]>"}
    while (match := _MARK.search(text, position)) is not None:
        position = match.end()
        if match[2] is None:
            end = text.find(ends[match[0]], position) if match[0] in ends else -1
            if end < 0:
                ends.pop(match[0], None)  # it is never closed: no use in looking again
            else:
                position = end + 3
            continue
        closing = text.find(">", position) if match[1] else -1
        if not match[1]:
            empty = _EMPTY.match(text, position)
            yield _Piece(match[2], match.start(), empty.end() if empty else -1), False
        elif closing >= 0:
            yield _Piece(match[2], match.start(), closing + 1), True


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _analysis_text(element: str) -> str:
    """The text of an analysis, which need not be XML: it may quote anything."""
    inner = element[element.find(">") + 1 : element.rfind("<")]
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        inner = inner.replace(entity, char)
    return _trimmed(inner)


def _trimmed(text: str) -> str:
    """A text without the blanks round it; one that begins on a line of its own without its indentation too."""
    text = text.replace("\r\n", "\n")
    first = text.split("\n", 1)[0]
    return (text if first.strip() else textwrap.dedent(text)).strip()


# --- reading it -------------------------------------------------------------------------------------------


class _Element:
    """One element of the document."""

    __slots__ = ("attributes", "children", "line", "name", "texts")

    def __init__(self, name: str, attributes: dict[str, str], line: int) -> None:
        self.name, self.attributes, self.line = name, attributes, line
        self.children: list[_Element] = []
        self.texts: list[str] = []

    def text(self) -> str:
        return _trimmed("".join(self.texts))


class _Tree:
    """Reads one element with expat."""

    def __init__(self, file: str, line: int) -> None:
        self.file, self.before = file, line - 1
        self.open: list[_Element] = []
        self.root: _Element | None = None
        self.nodes = 0

    def read(self, text: str) -> _Element:
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        try:
            self.parser.Parse(text.encode(), True)
        except UnicodeEncodeError:
            raise self._error(1, "a text has a lone surrogate", "replace it") from None
        except expat.ExpatError as error:
            raise self._error(error.lineno, *_in_words(error, text)) from None
        assert self.root is not None
        return self.root

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.nodes += 1 + 2 * len(attributes)
        if len(self.open) >= MAX_DEPTH:
            raise self._error(self.parser.CurrentLineNumber, f"elements are nested more than {MAX_DEPTH} deep", "write it flatter")
        if self.nodes > BOUNDS.nodes:
            raise self._error(self.parser.CurrentLineNumber, f"there are more than {BOUNDS.nodes:,} elements", BOUNDS.smaller)
        element = _Element(name, attributes, self.parser.CurrentLineNumber + self.before)
        if self.open:
            self.open[-1].children.append(element)
        else:
            self.root = element
        self.open.append(element)

    def _end(self, _name: str) -> None:
        self.open.pop()

    def _text(self, text: str) -> None:
        self.open[-1].texts.append(text)

    def _error(self, line: int, what: str, right: str) -> SourceError:
        return SourceError([Problem(self.file, line + self.before, what, right)])


def _in_words(error: expat.ExpatError, text: str) -> tuple[str, str]:
    """What is wrong with a document, and what would be right."""
    lines = text.split("\n")
    line = lines[error.lineno - 1] if error.lineno <= len(lines) else ""
    words = expat.ErrorString(error.code) or "not well-formed"
    near = shorten(line.encode()[max(error.offset - 20, 0) : error.offset + 20].decode(errors="ignore").strip())
    if words == "undefined entity":
        return f"an entity that XML does not know stands near {near}", "write the character itself; " + _ESCAPE
    if words == "mismatched tag":
        return f"an element is closed that is not the last one opened, near {near}", "close each element; " + _ESCAPE
    return f"this is not XML: {words}, near {near}", _ESCAPE


class _Nodes:
    """Elements as the nodes that the tables read."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def plan(self, root: _Element) -> MappingNode:
        if root.name == "plan":
            return self._record(root)
        name = ScalarNode(root.name, plain=True, line=root.line)
        return MappingNode(((name, self._list(root)),), root.line)

    def _record(self, element: _Element) -> MappingNode:
        pairs: dict[str, tuple[ScalarNode, Node]] = {}
        for name, text in element.attributes.items():
            value = ScalarNode(text, plain=True, line=element.line)
            pairs[name] = ScalarNode(name, plain=True, line=element.line), _split(value) if name in _OF_NAMES else value
        for child in element.children:
            if child.name in pairs:
                self._wrong(child, f"<{element.name}> has {child.name!r} twice", "keep one of them")
            pairs.setdefault(child.name, (ScalarNode(child.name, plain=True, line=child.line), self._value(child)))
        self._bare_text(element, pairs)
        return MappingNode(tuple(pairs.values()), element.line)

    def _bare_text(self, element: _Element, pairs: dict[str, tuple[ScalarNode, Node]]) -> None:
        text = element.text()
        name = _TEXT_IS.get(element.name)
        if text and name and not element.children and name not in pairs:
            pairs[name] = ScalarNode(name, plain=True, line=element.line), ScalarNode(text, plain=True, line=element.line)
        elif text:
            what = f"the text {shorten(text)} stands in <{element.name}> beside its elements"
            self._wrong(element, what, f"put it into an element; {_ESCAPE}" if name is None else f"put it into <{name}>; {_ESCAPE}")

    def _value(self, element: _Element) -> Node:
        if element.name in _OF_RECORDS or element.name in _OF_NAMES:
            return self._list(element)
        if element.name == "limits":
            return self._record(element)
        if element.name in _VALUES:
            return self._any(element) if element.children else ScalarNode(element.text(), plain=False, line=element.line)
        return self._leaf(element)

    def _list(self, element: _Element) -> Node:
        for name in element.attributes:
            self._wrong(element, f"<{element.name}> has the attribute {name!r}", "leave it out")
        if element.name in _OF_NAMES:
            return self._names(element)
        if text := element.text():
            self._wrong(element, f"the text {shorten(text)} stands in <{element.name}> beside its elements", _ESCAPE)
        return SequenceNode(tuple(self._item(element, child) for child in element.children), element.line)

    def _names(self, element: _Element) -> Node:
        text = ScalarNode(element.text(), plain=True, line=element.line)
        return SequenceNode(tuple(self._leaf(child) for child in element.children), element.line) if element.children else _split(text)

    def _item(self, parent: _Element, element: _Element) -> Node:
        known = _OF_RECORDS[parent.name]
        if element.name not in known:
            self._wrong(element, f"<{element.name}> stands in <{parent.name}>", f"write <{'>, <'.join(sorted(known))}>; {_ESCAPE}")
        if element.name == "input" and not element.children and not element.attributes:
            return self._leaf(element)
        return self._record(element)

    def _leaf(self, element: _Element) -> ScalarNode:
        for child in element.children:
            self._wrong(child, f"<{child.name}> stands in the text of <{element.name}>", _ESCAPE)
        for name in element.attributes:
            self._wrong(element, f"<{element.name}> has the attribute {name!r}", "leave it out")
        return ScalarNode(element.text(), plain=True, line=element.line)

    def _any(self, element: _Element) -> Node:
        """Any value: elements called item or label are a list, others a mapping, a text what YAML takes it for."""
        if not element.children:
            return self._leaf(element)
        if all(child.name in _ITEMS for child in element.children):
            return SequenceNode(tuple(self._any(child) for child in element.children), element.line)
        pairs: dict[str, tuple[ScalarNode, Node]] = {}
        for child in element.children:
            if child.name in pairs:
                self._wrong(child, f"<{element.name}> has {child.name!r} twice", "write a list as <item> elements")
            pairs[child.name] = ScalarNode(child.name, plain=True, line=child.line), self._any(child)
        return MappingNode(tuple(pairs.values()), element.line)

    def _wrong(self, element: _Element, what: str, right: str) -> None:
        self.problems.at(self.problems.where(ScalarNode("", plain=True, line=element.line)), what, right)


def _split(node: ScalarNode) -> Node:
    """Names with commas or blanks between them as a list; ``true`` and ``false`` stay what they are."""
    if node.text.strip() in ("true", "false"):
        return ScalarNode(node.text.strip(), plain=True, line=node.line)
    names = re.split(r"[\s,]+", node.text.strip(" \t\r\n,"))
    return SequenceNode(tuple(ScalarNode(name, plain=True, line=node.line) for name in names if name), node.line)
