"""One prompt of a task, and everything about the task: versions, receipt, canary, moves."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from ...compiler.search import words as made
from ...contract import Contract, check_line, format_lines
from ...errors import InputError
from ...evals.gate import name_against
from ...evals.show import words as shown
from ...prompt import Pair, Prompt, read_examples
from ...receipt import Counts, Receipt
from ..diff import Piece, word_diff
from ..frame import Frame
from ..plot import Bar, Plot
from ..scatter import axis
from . import paths, render
from .values import TaskPage
from .words import NONE, short

TEXT, CELL, COMPARED = 300_000, 2_000, 200_000
"""Characters of the prompt's text, of one text of an example, of a text that is compared."""
EXAMPLES, MOVES = 200, 200
"""Examples and moves that are shown; the rest is counted."""
PERCENT = 10
"""Share of the calls that a canary takes unless another is asked for."""


class Difference(NamedTuple):
    """Two versions: what differs beside the text, by name, and the text; both word by word."""

    older: Prompt
    newer: Prompt
    facts: tuple[tuple[str, list[Piece]], ...]
    text: tuple[Piece, ...]
    cut: bool


def html(values: TaskPage, frame: Frame) -> str:
    """The page. Forms that move an alias are for an admin; with a lock file as registry they are commands to run."""
    prompt = values.prompt
    examples, odd = _examples(prompt)
    aliases = values.aliases()
    search = prompt.provenance.search
    return render(
        "task",
        frame.at("overview"),
        page=values,
        prompt=prompt,
        text=shown.shortened(prompt.system, TEXT),
        contract=contract_lines(prompt.contract),
        examples=examples[:EXAMPLES],
        more_examples=max(0, len(examples) - EXAMPLES),
        odd=odd,
        # The first line of the summary is about where the record is, which the page of the search itself knows.
        made=[*made.made(prompt), *(made.summarised(search)[1:] if search is not None else [])],
        no_search=made.no_search(prompt),
        receipt=values.receipt,
        counts=list(_counts(values.receipt)) if values.receipt is not None else [],
        plot=rates(values.receipt) if values.receipt is not None else None,
        difference=_difference_line(values.receipt) if values.receipt is not None else "",
        rules=[f"{metric} {condition}" for metric, condition in values.receipt.rules.require.items()] if values.receipt else [],
        compared=_compared(*values.compared) if values.compared is not None else None,
        ids=_chosen_ids(values),
        moves=values.moves[:MOVES],
        more_moves=max(0, len(values.moves) - MOVES),
        aliases=aliases,
        others=[one for one in values.versions if one.id != aliases.get("production")],
        commands=_commands(values),
        looks=_looks(values.receipt) if values.receipt is not None else "",
        percent=PERCENT,
        expected=paths.EXPECTED,
    )


# --- the prompt -------------------------------------------------------------------------------------------


def contract_lines(contract: Contract) -> list[str]:
    """What every answer must satisfy, a line each, and whether that was written or inferred."""
    origin = ["Inferred from the examples."] if contract.inferred else []
    return [*origin, *format_lines(contract), *map(check_line, contract.checks)]


def _examples(prompt: Prompt) -> tuple[list[tuple[list[tuple[str, str]], str]], str]:
    """Inputs and output of each, and why there are none that can be read."""
    try:
        return [_example(pair) for pair in read_examples(prompt.system)], ""
    except InputError as error:
        return [], error.message


def _example(pair: Pair) -> tuple[list[tuple[str, str]], str]:
    inputs = [(name, shown.shortened(text, CELL)) for name, text in pair.inputs.items()]
    return inputs, shown.shortened(pair.output, CELL)


# --- two versions -----------------------------------------------------------------------------------------


def _chosen_ids(values: TaskPage) -> tuple[str, str]:
    """What the two selects stand at: what is compared, else what is shown against what was there before it."""
    if values.compared is not None:
        return values.compared[0].id, values.compared[1].id
    ids = [version.id for version in values.versions]
    place = ids.index(values.prompt.id) if values.prompt.id in ids else 0
    if place + 1 < len(ids):
        return ids[place + 1], values.prompt.id
    return values.prompt.id, ids[0] if ids else ""  # nothing was there before the oldest: what came after it


def _compared(older: Prompt, newer: Prompt) -> Difference:
    before, after = (shown.shortened(one.system, COMPARED) for one in (older, newer))
    facts = zip(_facts(older), _facts(newer), strict=True)
    return Difference(
        older,
        newer,
        tuple((name, word_diff(was, now)) for (name, was), (_, now) in facts if was != now),
        tuple(word_diff(before, after)),
        max(len(older.system), len(newer.system)) > COMPARED,
    )


def _facts(prompt: Prompt) -> list[tuple[str, str]]:
    return [
        ("model", prompt.model),
        ("parameters", ", ".join(f"{name} {value}" for name, value in prompt.parameters.items()) or NONE),
        ("contract", "\n".join(contract_lines(prompt.contract))),
        ("inputs", ", ".join(one.name for one in prompt.inputs) or "one text"),
        ("level", f"-O{prompt.provenance.level}"),
    ]


# --- receipt ----------------------------------------------------------------------------------------------


def _counts(receipt: Receipt) -> Iterator[tuple[str, str, Counts, str]]:
    """Each arm: role, who, its counts, its pass rate with the interval."""
    yield "candidate", short(receipt.prompt), receipt.counts, _rate(receipt.counts, receipt.intervals.get("pass_rate"))
    if receipt.baseline is not None:
        who = short(receipt.against) if len(receipt.against) == 64 else receipt.against
        yield "baseline", who, receipt.baseline, _rate(receipt.baseline, receipt.intervals.get("baseline"))


def _rate(counts: Counts, interval: tuple[float, float] | None) -> str:
    scored = counts.cases - counts.unscored
    if not scored:
        return shown.UNKNOWN
    rate = counts.passed / scored
    return shown.share_within((rate, *interval)) if interval is not None else shown.share(rate)


def rates(receipt: Receipt) -> Plot | None:
    """The pass rates of a receipt with their intervals; ``None`` when it has none."""
    arms = [("candidate", receipt.counts, "pass_rate"), ("baseline", receipt.baseline, "baseline")]
    found = [
        (role, counts.passed / (counts.cases - counts.unscored), *receipt.intervals[name], _rate(counts, receipt.intervals[name]))
        for role, counts, name in arms
        if counts is not None and counts.cases > counts.unscored and name in receipt.intervals
    ]
    if not found:
        return None
    across = axis([end for _, rate, lower, upper, _ in found for end in (rate, lower, upper)], highest=1.0)
    bars = [Bar(role, said, across.place(lower), across.place(rate), across.place(upper), role) for role, rate, lower, upper, said in found]
    ticks = [across.line(value, f"{100 * value:.3g} %", "tick") for value in across.ticks()]
    return Plot("Pass rate, 95 % interval", "; ".join(f"{bar.label} {bar.value}" for bar in bars), tuple(bars), tuple(ticks), ())


def _looks(receipt: Receipt) -> str:
    were = "was" if receipt.looks == 1 else "were"
    scored = f"{shown.count(receipt.looks, 'prompt')} {were} ever scored on these cases"
    return f"{scored}; they were revealed {shown.count(receipt.reveals, 'time')}"


def _difference_line(receipt: Receipt) -> str:
    found = receipt.intervals.get("difference")
    margin = f"; a drop of up to {100 * receipt.rules.margin:g} points could go unseen" if receipt.baseline is not None else ""
    against = name_against(receipt.against) or "baseline"
    return f"candidate minus {against}, in points: {shown.within(*found)}{margin}" if found is not None else ""


# --- moves ------------------------------------------------------------------------------------------------


def _commands(values: TaskPage) -> dict[str, str]:
    """What to run where the service can't move an alias itself."""
    task, shown_id = shlex.quote(values.task), short(values.prompt.id)
    return {
        "promote": f"promptsmith promote {task}@{shown_id} --to production",
        "canary": f"promptsmith promote {task}@{shown_id} --to production --canary {PERCENT}",
        "stop": f"promptsmith promote {task} --to {values.canary.alias if values.canary else 'production'} --stop-canary",
        "rollback": f"promptsmith rollback {task}",
    }
