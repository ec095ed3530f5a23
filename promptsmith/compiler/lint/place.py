"""Where a prompt's text stands in a file: its lines there, and how they are rewritten."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from ...errors import InputError
from ...evals.record import write_whole
from ...task.document import MappingNode, Node, ScalarNode, parse_document, read_bytes, shown, typed
from .fix import Edits, applied

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_BLOCK = re.compile(r"\|[-+0-9]*[ \t]*(?:#.*)?\Z")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt's text in a file. ``block`` says whether each of its lines is a line of the file."""

    path: Path
    text: str
    """The prompt, its line ends LF."""
    top: int = 0
    """The line that stands for the prompt as a whole: of ``prompt:`` in a task file, 0 in a text file."""
    block: bool = True

    @property
    def name(self) -> str:
        return shown(self.path)

    def line(self, line: int) -> int:
        """The line of the file that a line of the prompt is; 0 when the file as a whole is meant."""
        return self.top + line if line and self.block else self.top

    def rewrite(self, edits: Edits) -> None:
        """Changes these lines in the file, in one step, and nothing else.

        Raises :class:`InputError` when the file can't be written, or when its prompt would not read as it should then.
        """
        data = self.path.read_bytes().decode()
        mark = "\ufeff" if data.startswith("\ufeff") else ""
        lines = _LINES.findall(data.removeprefix(mark))
        old = self.text.split("\n")
        for number in sorted(edits, reverse=True):
            at, new = self.top + number - 1, edits[number]
            if new is None:
                del lines[at]
                continue
            body = lines[at].rstrip("\r\n")
            lines[at] = body.removesuffix(old[number - 1]) + new + lines[at][len(body) :]
        written = mark + "".join(lines)
        self._read_back(written, applied(self.text, edits))
        write_whole(self.path.resolve(), written.encode(), "the prompt file")

    def _read_back(self, written: str, wanted: str) -> None:
        if not self.top:
            return
        before, after = (typed(parse_document(data, self.name)) for data in (self.path.read_bytes(), written.encode()))
        if {**before, "prompt": wanted} != after:
            raise InputError(f"the prompt in {self.name} can't be mended in its present form", hint="mend it by hand")


def text_place(path: Path) -> Place:
    """A text file as a prompt. Raises :class:`InputError` when it is not UTF-8 or can't be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    return Place(path=path, text=text.replace("\r\n", "\n").replace("\r", "\n"))


def task_place(path: Path) -> Place:
    """The ``prompt:`` of a task file that has one and can be read."""
    data = read_bytes(path)
    node = _child(parse_document(data, shown(path)), "prompt")
    assert isinstance(node, ScalarNode)
    head = _LINES.findall(data.decode("utf-8-sig"))[node.line - 1].rstrip("\r\n")
    return Place(path=path, text=node.text, top=node.line, block=not node.plain and _BLOCK.search(head) is not None)


def has_prompt(path: Path) -> bool:
    """Whether a task file has a ``prompt:``. Raises :class:`SourceError` for what is no YAML."""
    return _child(parse_document(read_bytes(path), shown(path)), "prompt") is not None


def is_task_file(path: Path) -> bool:
    """Whether a file is a task file: YAML with a ``task:``. Raises :class:`SourceError` for what is no YAML."""
    return path.suffix in (".yaml", ".yml") and _child(parse_document(read_bytes(path), shown(path)), "task") is not None


def _child(node: Node, name: str) -> Node | None:
    pairs = node.pairs if isinstance(node, MappingNode) else ()
    return next((child for key, child in pairs if key.text == name), None)
