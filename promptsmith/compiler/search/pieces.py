"""Instructions as pieces that can be taken away: sections, list items, sentences, blocks; in any language.

Where it is not clear whether a sentence ends, it does not: two sentences in one piece are only deleted together.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import msgspec

Kind = Literal["heading", "open", "close", "rule", "item", "sentence", "block"]
"""``open`` and ``close``: a tag alone on its line, with its partner. ``block``: a code fence, quotation, table or JSON value."""


class Piece(msgspec.Struct, frozen=True):
    """A stretch of the text with the blanks behind it. The texts of all pieces, in order, are the text."""

    index: int
    text: str
    kind: Kind
    parent: int
    """The piece that this one hangs on and goes with: the heading or tag of its section, the item that it is nested in, the line with
    a colon that announces its list; -1 for none."""

    @property
    def announces(self) -> bool:
        """Whether it ends with a colon."""
        return self.text.rstrip(f"{_CLOSERS} \t\n").endswith((":", "："))

    @property
    def says(self) -> bool:
        """Whether it is more than the end of a section or a line drawn between two."""
        return self.kind not in ("close", "rule")


def pieces(instructions: str) -> tuple[Piece, ...]:
    """The pieces of a text whose lines end with a line feed."""
    reading = _Reading()
    for line in _lines(instructions):
        reading.take(line)
    return reading.finished()


def joined(whole: Sequence[Piece], dropped: Collection[int]) -> str:
    """The text of all pieces without the dropped ones, by index, and what hangs on them.

    A heading, a pair of tags or an announcing line goes with the last of what hung on it. No blank lines are left behind. Numbers of
    list items stay, for other lines may speak of them.
    """
    gone = all_gone(whole, dropped)
    if not gone:
        return "".join(piece.text for piece in whole)
    parts: list[str] = []
    gap = ""
    for piece in whole:
        text = piece.text.rstrip()
        blanks = piece.text[len(text) :]
        if piece.index not in gone:
            parts += [gap if parts else "", text]
            gap = blanks
        else:
            gap = _wider(gap, blanks)
    last = whole[-1].text
    return "".join(parts).lstrip("\n") + last[len(last.rstrip()) :] if parts else ""


def _wider(gap: str, other: str) -> str:
    """What stands where both stood: a blank line at most."""
    widest = max(gap, other, key=lambda blanks: blanks.count("\n"))
    return widest if widest.count("\n") < 2 else "\n\n"


def all_gone(whole: Sequence[Piece], dropped: Collection[int]) -> frozenset[int]:
    """Every piece that is gone when ``dropped`` are: what hangs on them, what held nothing else, and lines drawn beside nothing."""
    gone: set[int] = set()
    for piece in whole:
        if piece.index in dropped or piece.parent in gone:
            gone.add(piece.index)
    if not gone:
        return frozenset()
    holds: set[int] = set()
    held = {piece.parent for piece in whole if piece.says}
    for piece in reversed(whole):
        falls = piece.kind in ("heading", "open") or piece.announces
        if falls and piece.index in held and piece.index not in holds:
            gone.add(piece.index)
        if piece.says and piece.index not in gone:
            holds.add(piece.parent)
    gone |= {piece.index for piece in whole if not piece.says and piece.parent in gone}
    return frozenset(gone | _idle_rules([piece for piece in whole if piece.index not in gone]))


def _idle_rules(left: Sequence[Piece]) -> set[int]:
    """Lines drawn at either end of the text, or below another one."""
    idle: set[int] = set()
    before: Piece | None = None
    for piece in left:
        if piece.kind == "rule" and (before is None or before.kind == "rule"):
            idle.add(piece.index)
        else:
            before = piece
    if before is not None and before.kind == "rule":
        idle.add(before.index)
    return idle


# --- lines ------------------------------------------------------------------------------------------------


class _Line(NamedTuple):
    """One line, or several that must stay together."""

    text: str
    kind: Kind | Literal["blank", "text"]
    indent: int
    level: int = 0
    """Of a heading: 1 is the highest."""
    tag: str = ""


_FENCE = re.compile(r"`{3,}|~{3,}")
_HEADING = re.compile(r" {0,3}(#{1,6})\s+\S")
_BOLD_HEADING = re.compile(r"\s{0,3}(\*\*|__)[^*_]*[^*_.!?。！？]\1[:：]?")
_UNDERLINE = re.compile(r" {0,3}(?:(=+)|-{3,})[ \t]*\n?")
_RULE = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}")
_ITEM = re.compile(r"(?:[-*+•‣◦▪–·・]|\(?\d{1,3}[.)、．]|\(?[A-Za-z][.)])(?:\s+|(?<=[、．・]))\S")
_OPEN = re.compile(r"\s*<([A-Za-z][\w.-]*)(?:\s[^<>]*)?>")
_LOWEST_HEADING = 7


def _lines(text: str) -> Iterator[_Line]:
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    closes: dict[int, str] = {}
    brackets = _Brackets(lines)
    start, blank_before = 0, True
    while start < len(lines):
        line = _line(lines, start, closes, brackets, blank_before)
        yield line
        start += max(1, line.text.count("\n") + (not line.text.endswith("\n")))
        blank_before = line.kind == "blank"


def _line(lines: Sequence[str], start: int, closes: dict[int, str], brackets: _Brackets, blank_before: bool) -> _Line:
    """The line that begins at ``start``; ``closes`` holds the closing tags that are waited for, by line."""
    if not lines[start].strip():
        return _Line(lines[start], "blank", 0)
    return _block(lines, start) or _border(lines, start, closes) or _prose(lines, start, brackets.end(start), blank_before)


def _block(lines: Sequence[str], start: int) -> _Line | None:
    """A code fence, a quotation or a table."""
    bare = lines[start].lstrip()
    if fence := _FENCE.match(bare):
        end = _fence_end(lines, start, fence[0])
    elif bare.startswith((">", "|")):
        end = _run_end(lines, start, bare[0])
    else:
        return None
    return _Line("".join(lines[start:end]), "block", _indent(lines[start]))


def _border(lines: Sequence[str], start: int, closes: dict[int, str]) -> _Line | None:
    """A heading, a tag or a line drawn across."""
    line = lines[start].rstrip()
    indent = _indent(line)
    if start in closes:
        return _Line(lines[start], "close", indent, tag=closes[start])
    if (tag := _OPEN.fullmatch(line)) and (end := _tag_end(lines, start, tag[1])):
        closes[end] = tag[1]
        return _Line(lines[start], "open", indent, tag=tag[1])
    if heading := _HEADING.match(line):
        return _Line(lines[start], "heading", indent, len(heading[1]))
    if _BOLD_HEADING.fullmatch(line):
        return _Line(lines[start], "heading", indent, _LOWEST_HEADING)
    return _Line(lines[start], "rule", indent) if _RULE.fullmatch(line) else None


def _prose(lines: Sequence[str], start: int, end: int, blank_before: bool) -> _Line:
    """All else, up to ``end`` when it begins a JSON value."""
    bare, indent = lines[start].strip(), _indent(lines[start])
    text = "".join(lines[start:end])
    if _ITEM.match(bare):
        return _Line(text, "item", indent)
    if bare[0] in "{[" and text.rstrip(", \t\n").endswith(("}", "]")):
        return _Line(text, "block", indent)
    if blank_before and end == start + 1 < len(lines) and (under := _UNDERLINE.fullmatch(lines[end])):
        return _Line(text + lines[end], "heading", indent, 1 if under[1] else 2)
    return _Line(text, "text", indent)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _fence_end(lines: Sequence[str], start: int, mark: str) -> int:
    """Behind the closing line; an open fence goes on to the end."""
    for number in range(start + 1, len(lines)):
        bare = lines[number].strip()
        if len(bare) >= len(mark) and set(bare) == {mark[0]}:
            return number + 1
    return len(lines)


def _tag_end(lines: Sequence[str], start: int, tag: str) -> int | None:
    """The line of the closing tag; ``None`` when there is none, or the same tag opens again before it."""
    for number in range(start + 1, len(lines)):
        bare = lines[number].strip()
        if bare == f"</{tag}>":
            return number
        if bare == f"<{tag}>":
            return None
    return None


def _run_end(lines: Sequence[str], start: int, mark: str) -> int:
    end = start
    while end < len(lines) and lines[end].lstrip().startswith(mark):
        end += 1
    return end


class _Brackets:
    """Where the braces and square brackets that a line leaves open are closed. What stands between double quotes does not count."""

    def __init__(self, lines: Sequence[str]) -> None:
        marks = [re.sub(r'"(?:\\.|[^"\\\n])*"|[^]{}[]', "", line) for line in lines]
        self._opened = list(map(_opened, marks))
        self._depths = list(accumulate(mark.count("{") + mark.count("[") - mark.count("}") - mark.count("]") for mark in marks))
        self._least = list(accumulate(reversed(self._depths), min))[::-1]

    def end(self, start: int) -> int:
        """Behind the closing line; behind the line itself when it leaves nothing open, or for good."""
        closed = self._depths[start] - self._opened[start]
        if not self._opened[start] or self._least[start] > closed:
            return start + 1
        return next(number for number in range(start, len(self._depths)) if self._depths[number] <= closed) + 1


def _opened(marks: str) -> int:
    depth = 0
    for mark in marks:
        depth = max(0, depth + (1 if mark in "{[" else -1))
    return depth


# --- pieces -----------------------------------------------------------------------------------------------


class _Section(NamedTuple):
    piece: int
    level: int
    tag: str = ""


class _Reading:
    """Lines become pieces."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._blanks = ""
        """Blank lines before the first piece."""
        self._paragraph = ""
        self._sections: list[_Section] = []
        self._items: list[tuple[int, int]] = []
        """Indent and index of each item that the next line may be nested in."""
        self._lead = -1
        """What announced the list that is read."""

    def take(self, line: _Line) -> None:
        if line.kind == "text" and (self._paragraph or not self._goes_on(line)):
            self._paragraph += line.text
            return
        self._end_paragraph()
        if line.kind == "blank":
            self._add_blanks(line.text)
        elif line.kind in ("item", "block", "text"):
            self._take_in_list(line)
        else:
            self._take_border(line)

    def finished(self) -> tuple[Piece, ...]:
        self._end_paragraph()
        if self._blanks:
            self._add("", "rule", -1)
        return tuple(self._pieces)

    def _goes_on(self, line: _Line) -> bool:
        """Whether the line belongs to a list item: by its indent, or as the rest of a sentence that is in the middle."""
        if not self._items:
            return False
        if line.indent > self._items[0][0]:
            return True
        last = self._pieces[-1].text
        said = last.rstrip()
        return last[len(said) :].count("\n") == 1 and line.text.lstrip()[0].islower() and not said.endswith((".", "!", "?", ":"))

    def _take_in_list(self, line: _Line) -> None:
        if line.kind == "item":
            while self._items and self._items[-1][0] >= line.indent:
                self._items.pop()
            if not self._items and self._lead < 0:
                self._lead = self._announcing()
            self._items.append((line.indent, len(self._pieces)))
            parent = self._items[-2][1] if len(self._items) > 1 else self._lead if self._lead >= 0 else self._section()
            self._add(line.text, "item", parent)
        elif line.kind == "text" or (self._items and line.indent > self._items[0][0]):
            while len(self._items) > 1 and self._items[-1][0] >= line.indent > 0:
                self._items.pop()
            self._add_to_item(line, self._items[-1][1])
        else:
            self._end_list()
            lead = self._announcing()
            self._add(line.text, "block", lead if lead >= 0 else self._section())

    def _add_to_item(self, line: _Line, item: int) -> None:
        if item == len(self._pieces) - 1:
            self._pieces[-1] = msgspec.structs.replace(self._pieces[-1], text=self._pieces[-1].text + line.text)
        else:
            self._add(line.text, "block" if line.kind == "block" else "sentence", item)

    def _take_border(self, line: _Line) -> None:
        self._end_list()
        if line.kind == "heading":
            while self._sections and not self._sections[-1].tag and self._sections[-1].level >= line.level:
                self._sections.pop()
        if line.kind == "close":
            self._close(line)
            return
        self._add(line.text, "heading" if line.kind == "heading" else "open" if line.tag else "rule", self._section())
        if line.kind in ("heading", "open"):
            self._sections.append(_Section(len(self._pieces) - 1, line.level, line.tag))

    def _close(self, line: _Line) -> None:
        while any(section.tag == line.tag for section in self._sections):
            section = self._sections.pop()
            if section.tag == line.tag:
                self._add(line.text, "close", section.piece)
                return
        self._add(line.text, "sentence", self._section())  # its partner was closed by another tag around it

    def _end_paragraph(self) -> None:
        if self._paragraph:
            self._end_list()
            for sentence in sentences(self._paragraph):
                self._add(sentence, "sentence", self._section())
            self._paragraph = ""

    def _end_list(self) -> None:
        self._items, self._lead = [], -1

    def _announcing(self) -> int:
        """The piece before this one, when it announces it."""
        last = self._pieces[-1] if self._pieces else None
        return last.index if last is not None and last.kind in ("sentence", "item") and last.announces else -1

    def _section(self) -> int:
        return self._sections[-1].piece if self._sections else -1

    def _add(self, text: str, kind: Kind, parent: int) -> None:
        self._pieces.append(Piece(len(self._pieces), self._blanks + text, kind, parent))
        self._blanks = ""

    def _add_blanks(self, text: str) -> None:
        if self._pieces:
            self._pieces[-1] = msgspec.structs.replace(self._pieces[-1], text=self._pieces[-1].text + text)
        else:
            self._blanks += text


# --- sentences --------------------------------------------------------------------------------------------

_CLOSERS = ")\\]\"'”’»」』）】*_`"
_END = re.compile(rf"(?:(?<![.!?…])[.!?…]+[{_CLOSERS}]*(?=\s)|[。！？｡．।॥؟۔።։។]+[{_CLOSERS}]*)\s*")
_QUOTED = re.compile(
    r"`+[^`]*`+|(?<!\w)\"[^\"]*\"(?!\w)|(?<!\w)'[^'\n]*'(?!\w)|[“„][^“”]*[“”]|‘[^’]*’|«[^»]*»|‹[^›]*›|「[^」]*」|『[^』]*』"
    r"|\b[A-Za-z][A-Za-z0-9+.-]*://\S*[^\s.!?…,;:)]|\bwww\.\S*[^\s.!?…,;:)]"
)
_PAIRS = {")": "(", "]": "[", "}": "{", "）": "（", "】": "【"}
_VOWELS = frozenset("aeiouyαεηιουωаеёиоуыэюяіїє")
_SHORT = frozenset(
    "al approx art aprox ca cap cf ed eds ej env est etc evtl ex exc excl fig ggf incl inkl inc jr max min misc mio op pag par pos "
    "prof resp seq sec sog sra ste tab tel univ usw vol zzgl".split()
)
"""Abbreviations that have a vowel, of several languages."""
_SHORT_BEFORE_NUMBER = 4


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph with the blanks behind them; none ends within quotes, brackets, code, an URL or at an abbreviation."""
    inside = _protected(paragraph)
    found: list[str] = []
    start = 0
    for match in _END.finditer(paragraph):
        end = match.end()
        if end < len(paragraph) and not inside[end] and not _is_short(paragraph, match) and not _goes_on_small(paragraph, end):
            found.append(paragraph[start:end])
            start = end
    return [*found, paragraph[start:]] if start < len(paragraph) else found


def _protected(text: str) -> list[bool]:
    """For each place whether nothing may end there: within what is quoted or bracketed."""
    quotes = [(match.start() + 1, match.end()) for match in _QUOTED.finditer(text)]
    brackets: list[tuple[int, int]] = []
    quoted = _covered(quotes, len(text))
    opened: dict[str, list[int]] = {mark: [] for mark in _PAIRS.values()}
    for place, char in enumerate(text):
        if quoted[place]:
            continue
        if char in opened:
            opened[char].append(place)
        elif opened.get(_PAIRS.get(char, "")):
            brackets.append((opened[_PAIRS[char]].pop() + 1, place + 1))
    return _covered(quotes + brackets, len(text))


def _covered(spans: Iterable[tuple[int, int]], length: int) -> list[bool]:
    steps = [0] * (length + 1)
    for start, end in spans:
        steps[start] += 1
        steps[end] -= 1
    return [depth > 0 for depth in accumulate(steps)]


def _goes_on_small(text: str, place: int) -> bool:
    """Whether what follows begins with a small letter, so that the sentence has not ended."""
    rest = text[place : place + 8].lstrip("([{\"'“‘«*_`")
    return rest[:1].islower()


def _is_short(text: str, match: re.Match[str]) -> bool:
    """Whether the full stop stands for an abbreviation, an initial, an ordinal or a decimal."""
    mark = match[0].rstrip()
    if mark.startswith(("..", "…")):
        return True
    before, following = text[max(0, match.start() - 40) : match.start()], text[match.end() : match.end() + 1]
    if mark[0] == "．":
        return before[-1:].isdigit() and following.isdigit()
    word = re.findall(r"\S*\Z", before)[0].lstrip("([{\"'“‘«*_`")
    return mark[0] == "." and (not word or word.isdigit() or _is_abbreviation(word) or _counts(word, following))


def _counts(word: str, following: str) -> bool:
    """As in "No. 5" and "Abb. 2"."""
    return following.isdigit() and word.isalpha() and len(word) <= _SHORT_BEFORE_NUMBER


def _is_abbreviation(word: str) -> bool:
    letters = re.split(r"[.\-]", word)
    dotted = "." in word and all(part.isalpha() and len(part) <= 3 for part in letters)
    return dotted or (len(word) == 1 and word.isalpha()) or word.casefold() in _SHORT or _has_no_vowel(word)


def _has_no_vowel(word: str) -> bool:
    """As in "bzw.", "Dr.", "см."; capitals alone are an acronym."""
    if not 2 <= len(word) <= 5 or not word.isalpha() or word.isupper() or word.lower() == word.upper():
        return False
    return _VOWELS.isdisjoint(unicodedata.normalize("NFD", word.casefold()))
