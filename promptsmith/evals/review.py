"""Captured calls that wait for a label: each input once, without those that were labelled, dropped or can't be labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .. import canonical
from ..errors import InputError
from ..prompt import bind
from ..store import Store
from ..store.captures import Capture
from ..task import Example, Task


class Waiting(NamedTuple):
    """One input: its last captured call, and how many there are."""

    call: Capture
    times: int


class Queue(NamedTuple):
    """What waits, the longest waiting first; ``left`` counts by reason what is not offered."""

    rows: list[Waiting]
    settled: int
    """Captured inputs that were labelled or dropped."""
    left: Mapping[str, int]


def queue(store: Store, task: Task, known: Mapping[str, Example], misplaced: Callable[[Mapping[str, str]], str] = lambda _: "") -> Queue:
    """The captured calls of ``task`` to label.

    ``known`` are the rows that it has, by the digest of their input; ``misplaced`` says why an input can't go where
    the labels go.
    """
    settled = store.captures.settled(task.name)
    last: dict[str, Waiting] = {}
    for call in store.captures.rows(task.name):
        last[call.id] = Waiting(call, last[call.id].times + 1 if call.id in last else 1)
    rows, done, left = [], 0, Counter[str]()
    for one in last.values():
        if one.call.id in settled or canonical.input_digest(one.call.inputs) in known:
            done += 1
        elif why := _unfit(task, one.call.inputs) or misplaced(one.call.inputs):
            left[why] += 1
        else:
            rows.append(one)
    return Queue(rows, done, dict(left))


def _unfit(task: Task, inputs: Mapping[str, str]) -> str:
    try:
        bind(task.inputs, inputs)
    except InputError:
        return "their inputs are not those that the task takes today"
    return ""
