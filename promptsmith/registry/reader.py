"""Reads what ``emit`` writes in any spelling that YAML has for it, refuses all else and says where.

It works on parser events: no tags, anchors or aliases, no doubled keys, no text that another YAML reader could
take for a number. (libyaml's composer crashes on deep nesting, its event parser does not.)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

import yaml
from yaml.events import MappingEndEvent, MappingStartEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent

from ..errors import LockError
from .emit import is_bare

_DEEPEST = 100
_WORDS: dict[str, Any] = {"null": None, "true": True, "false": False, ".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,400})")
_FLOAT = re.compile(r"-?[0-9]+\.[0-9]+(?:e[-+][0-9]+)?")
# Not every platform's PyYAML has the C parser; both give the same events.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Refuse = Callable[[int, str], LockError]
"""Makes the error for a line (counted from 0 within the text) and what is wrong there."""


def read(text: str, refuse: Refuse) -> Any:
    """The value that ``text`` holds: dicts, lists, texts, numbers, booleans, ``None``."""
    if "\r" in text:
        raise refuse(text.count("\n", 0, text.index("\r")), "has a bare carriage return")
    loader = None
    try:
        loader = _Loader(text)
        return _Reader(loader.get_event, refuse).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise refuse(mark.line if mark else 0, f"is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        # The reader's complaint about a character that YAML does not allow comes without a line.
        position = int(getattr(error, "position", 0) or 0)
        raise refuse(text.count("\n", 0, position), "holds a character that YAML does not allow") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Reader:
    __slots__ = ("_next", "_refuse")

    def __init__(self, next_event: Callable[[], Any], refuse: Refuse) -> None:
        self._next = next_event
        self._refuse = refuse

    def document(self) -> Any:
        self._next()  # stream start
        start = self._next()
        if getattr(start, "explicit", True):
            self._fail(start, "is not one plain YAML document")
        value = self._node(self._next(), 0)
        end = self._next()
        if getattr(end, "explicit", True) or type(self._next()).__name__ != "StreamEndEvent":
            self._fail(end, "is not one plain YAML document")
        return value

    def _node(self, event: Any, depth: int) -> Any:
        kind = type(event)
        if kind is ScalarEvent and event.anchor is None and event.tag is None:
            return event.value if event.style else self._plain(event)
        if getattr(event, "anchor", None) is not None or getattr(event, "tag", None) is not None:
            self._fail(event, "uses an anchor, alias or tag, which promptsmith never writes")
        if depth > _DEEPEST:
            self._fail(event, "is nested too deeply")
        if kind is MappingStartEvent:
            return self._mapping(depth + 1)
        if kind is SequenceStartEvent:
            return self._sequence(depth + 1)
        return self._fail(event, "is not one plain YAML document")

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        following = self._next
        while type(event := following()) is not MappingEndEvent:
            name = self._node(event, depth) if type(event) is ScalarEvent else None
            if not isinstance(name, str):
                self._fail(event, "has a key that is no text")
            if name in found:
                self._fail(event, f"has the key {name!r} twice")
            found[name] = self._node(following(), depth)
        return found

    def _sequence(self, depth: int) -> list[Any]:
        found: list[Any] = []
        while type(event := self._next()) is not SequenceEndEvent:
            found.append(self._node(event, depth))
        return found

    def _plain(self, event: Any) -> Any:
        text: str = event.value
        if is_bare(text):
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        return self._fail(event, f"has {text[:40]!r} without quotes")

    def _fail(self, event: Any, what: str) -> NoReturn:
        raise self._refuse(event.start_mark.line, what)
