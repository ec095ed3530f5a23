r"""The try-it form: a plain form whose answer is a page, and a script that shows the answer while it comes.

The script asks for the same address with ``accept: application/x-ndjson`` and reads one JSON object a line: ``{"text": …}``
for each piece, then ``{"facts": [[name, words], …], "why": …}`` or ``{"error": …}``. An answer that ends with neither broke
off, and the page says so. Both ways show the same text: what does not print by its code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...evals.show.words import dollars
from ...prompt import TEXT_INPUT, Variable
from .. import shown
from ..frame import Frame
from . import paths, render
from .values import Answer, TryIt
from .words import latency, short

STREAM = "application/x-ndjson"
"""Media type by which the script asks for an answer in pieces."""


def html(values: TryIt, frame: Frame) -> str:
    """The form, with the answer to what was sent."""
    answer = values.answer
    return render(
        "try",
        frame.at("try"),
        script="service/try.js",
        page=values,
        fields=[(one, f"{paths.INPUT}{one.name}", values.given.get(one.name, one.default or "")) for one in _inputs(values.inputs)],
        facts=facts(answer) if answer is not None else [],
        broken=_broken(answer) if answer is not None else "",
    )


def choose(tasks: Sequence[str], frame: Frame) -> str:
    """The page that has no task yet."""
    return render("try_tasks", frame.at("try"), tasks=tasks)


def piece(text: str) -> bytes:
    """A piece of an answer, as a line of the stream."""
    return _line({"text": shown(text)})


def ended(answer: Answer) -> bytes:
    """The last line of an answer that came whole."""
    return _line({"facts": [[name, shown(said)] for name, said in facts(answer)], "why": shown(_broken(answer))})


def failed(why: str) -> bytes:
    """The last line of an answer that broke off."""
    return _line({"error": shown(why)})


def facts(answer: Answer) -> list[tuple[str, str]]:
    """What is known of an answer."""
    contract = "not checked" if answer.kept is None else "kept" if answer.kept else "broken"
    known = [("contract", contract), ("prompt", short(answer.prompt)), ("model", answer.model), ("from", answer.source or "model")]
    if answer.seconds is not None:
        known.append(("took", latency(answer.seconds)))
    return [*known, ("tokens", f"{answer.input:,} in, {answer.output:,} out"), ("cost", dollars(answer.usd))]


def _broken(answer: Answer) -> str:
    return (answer.why or "the answer breaks the contract") if answer.kept is False else ""


def _inputs(declared: tuple[Variable, ...]) -> tuple[Variable, ...]:
    return declared or (Variable(TEXT_INPUT),)


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
