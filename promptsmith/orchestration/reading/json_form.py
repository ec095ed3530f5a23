"""The plan in a reply that was to be JSON: fences, prose and quoted examples around it, a cut-off end."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...contract import json_path, shorten
from ...errors import Problem, SourceError
from ...task.document import Node, Problems, from_python
from ...task.values import Where
from .known import BOUNDS

_START = re.compile(r'\{\s*(?=["}]|\Z)|\[\s*(?=[{\]]|\Z)')
"""Where an object, or a list of objects, may begin."""
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]|"', re.DOTALL)
_REST = re.compile(r"[\w.+-]*[\s`]*")
"""What may stand behind the place of an error when the text ends there."""
_STEPS = ("steps", "subtasks", "tasks", "plan")
_NAMED = re.compile(rf'"(?:{"|".join(_STEPS)})"\s*:')
_TASK_KEYS = frozenset({"id", "type", "description", "instruction", "instructions", "expert", "worker"})
_MOST_FAILED = 100
_MOST_JUNK = 5
"""Beginnings that can't be read, and those among them that have no end: each may cost a look at the whole text."""

CUT = "ask for a shorter plan, or allow the answer more tokens"
NO_PLAN = "answer with one JSON object that has 'steps'"


class _Object(dict[str, Any]):
    """A JSON object that knows which keys stood in it twice."""

    twice: tuple[str, ...] = ()


class _Part(NamedTuple):
    """A value in the text, or why the text that looks like one is none."""

    start: int
    value: Any = None
    problem: str = ""


def json_node(text: str, file: str, problems: Problems) -> Node:
    """The plan in a text, which is the last of the outermost ones.

    Raises :class:`SourceError` when there is none, it is no JSON, or it was cut off.
    """
    parts = list(_parts(text, file))
    likely = [part for part in parts if _is_likely(part)]
    chosen = next(iter(likely[::-1] or parts[::-1]), None)
    if chosen is None:
        what = "the answer is empty" if not text.strip() else f"there is no JSON object in {shorten(text.strip())}"
        raise SourceError([Problem(file, 0, what, NO_PLAN)])
    if chosen.problem:
        raise SourceError([Problem(file, _line(text, chosen.start), chosen.problem, "write JSON as json.org has it")])
    _tell_doubled(chosen.value, problems)
    return from_python(chosen.value, file, BOUNDS.nodes)


def _is_likely(part: _Part) -> bool:
    if part.problem:
        return True
    if isinstance(part.value, dict):
        return any(name in part.value for name in _STEPS)
    return (
        isinstance(part.value, list)
        and bool(part.value)
        and all(isinstance(item, dict) and _TASK_KEYS & item.keys() for item in part.value)
    )


def _parts(text: str, file: str) -> Iterator[_Part]:
    """The outermost values of a text, and what looks like a plan and can't be read. Raises when the text ends within one."""
    failed = junk = position = 0
    while (match := _START.search(text, position)) is not None:
        start = match.start()
        try:
            value, position = _DECODER.raw_decode(text, start)
            if not junk or isinstance(value, dict):  # behind a broken beginning a list may be a part of it
                yield _Part(start, value)
            continue
        except RecursionError:
            raise SourceError([Problem(file, _line(text, start), "the JSON is nested too deeply", NO_PLAN)]) from None
        except ValueError as error:
            at, why = _place(error, start)
        failed += 1
        end = _end(text, start)
        if failed > _MOST_FAILED or junk > _MOST_JUNK:
            raise SourceError([Problem(file, _line(text, start), "the brackets in this text lead nowhere", NO_PLAN)])
        if end is not None:
            position = end
            if _NAMED.search(text, start, end):
                yield _Part(at, problem=f"the JSON can't be read: {why}")
            continue
        if _at_end(text, at, why):
            raise SourceError([Problem(file, _line(text, start), "the answer was cut off: the JSON that begins here has no end", CUT)])
        junk += 1
        position = start + 1


def _place(error: ValueError, start: int) -> tuple[int, str]:
    if isinstance(error, json.JSONDecodeError):
        return error.pos, f"{error.msg[:1].lower()}{error.msg[1:]} (column {error.colno})"
    return start, str(error)


def _at_end(text: str, at: int, why: str) -> bool:
    return why.startswith("unterminated string") or _REST.fullmatch(text, at) is not None


def _end(text: str, start: int) -> int | None:
    """Where the brackets that open at ``start`` are closed, texts left out; ``None``: nowhere."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if token[0] == '"':
            return None
        if depth == 0:
            return token.end()
    return None


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


# --- values -----------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        found.twice = tuple(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return found


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {shorten(digits)} is too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refused, parse_float=_finite, strict=False)


def _tell_doubled(value: Any, problems: Problems) -> None:
    waiting: list[tuple[Any, list[str | int]]] = [(value, [])]
    while waiting:
        at, path = waiting.pop()
        if isinstance(at, _Object):
            for key in at.twice:
                problems.at(Where(problems.file, path=json_path([*path, key])), "the key stands twice", "keep one of them")
        children = at.items() if isinstance(at, dict) else enumerate(at) if isinstance(at, list) else ()
        waiting += [(child, [*path, key]) for key, child in children if isinstance(child, dict | list)]
