"""The examples inside a prompt: held against the contract, the instructions and each other."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ...canonical import normalise
from ...catalog.tokens import estimate
from ...contract import Labels, count_lines, count_words, infer, normalise_label, validator
from ...prompt import example_lines
from .case import Case
from .contradictions import limits_of_answer
from .findings import LintFinding
from .reading import bullet_lists, inline_lists, is_filled_later, numbered, sentences

FEW, TIMES = 4, 3
"""One label is shown too often from so many examples on, when they are so many times those of the rarest label."""


class Shown(NamedTuple):
    """An example as it stands in a prompt."""

    line: int
    """Where its output stands."""
    given: str
    output: str
    written: str
    """The output as its line has it, quotes and escapes included; empty where that is not clear."""
    first: int
    """Where its input stands."""


def shown_examples(system: str) -> Iterator[Shown | LintFinding]:
    """The examples of a prompt: of its example block, JSON lines, ``Input:`` with ``Output:``, ``"text" -> label``.

    A line of the block that can't be read is a finding.
    """
    block = example_lines(system)
    for number, line in numbered(system):
        inside = block[1:-1]
        if number - 1 in inside or line.lstrip().startswith('{"'):
            shown = _json_line(number, line)
            if shown:
                yield shown
            elif number - 1 in inside:
                yield LintFinding("broken-example", number, "stands in the example block and is no example")
    yield from _written_out(system)


_OUTPUT = re.compile(r'"output"\s*:\s*(.*?)\s*\}\s*,?\s*$')


def _json_line(number: int, line: str) -> Shown | None:
    try:
        row = json.loads(line.strip().removesuffix(","))
        given, output = row["input"], row["output"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    found = _OUTPUT.search(line)
    written = found[1] if found and found[1] == json.dumps(output, ensure_ascii=False) else ""
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    return Shown(number, given if isinstance(given, str) else json.dumps(given, ensure_ascii=False), text, written, number)


_GIVEN = re.compile(
    r"(?i)^[\s>*-]*(?:example\s*\d*\s*[:.)-]\s*)?(?:input|message|text|question|q|user|customer|ticket|e-?mail|review)\s*\d*\**\s*:\**\s*(\S.*)$"
)
_TAKEN = re.compile(
    r"(?i)^[\s>*-]*(?:output|answer|label|a|assistant|response|sentiment|category|class|intent|result|expected)\s*\d*\**\s*:\**\s*(\S.*?)\s*$"
)
_ARROW = re.compile(r"^[\s>*-]*(?:\d+[.)]\s*)?[\"“](.+)[\"”]\s*(?:->|=>|→|⇒)\s*(\S.*?)\s*$")


def _written_out(system: str) -> Iterator[Shown]:
    """Examples in words. Two lines alone may describe the form; they are an example below that word, or when they are repeated."""
    pairs: list[Shown] = []
    given, start, called = "", 0, 0
    for number, line in numbered(system):
        called = called or (number if re.search(r"(?i)\bexamples?\b", line) else 0)
        if arrow := _ARROW.match(line):
            yield Shown(number, arrow[1], _unquoted(arrow[2]), arrow[2], number)
        elif given and (taken := _TAKEN.match(line)):
            pairs.append(Shown(number, _unquoted(given), _unquoted(taken[1]), taken[1], start))
            given = ""
        elif match := _GIVEN.match(line):
            given, start = match[1], number
        elif line.strip():
            given = ""
    for pair in pairs:
        if (len(pairs) > 1 or 0 < called <= pair.line) and not is_filled_later(pair.given + pair.output):
            yield pair


def _unquoted(text: str) -> str:
    text = text.strip().strip("`*")
    return text[1:-1] if len(text) > 1 and text[0] + text[-1] in ('""', "''", "“”") else text


def lines_of_examples(case: Case) -> set[int]:
    """Which lines of a prompt are examples."""
    return {number for shown in _examples(case) for number in range(shown.first, shown.line + 1)}


def _examples(case: Case) -> list[Shown]:
    return [shown for shown in shown_examples(case.system) if isinstance(shown, Shown)]


# --- each by itself ---------------------------------------------------------------------------------------


def broken_examples(case: Case) -> Iterator[LintFinding]:
    """Every example must be readable, and its output keep the contract."""
    judge = validator(case.contract)
    for shown in shown_examples(case.system):
        if isinstance(shown, LintFinding):
            yield shown
        elif case.declared and (reasons := judge(shown.output).reasons):
            yield LintFinding("broken-example", shown.line, f"the output of the example breaks the contract: {'; '.join(reasons)}")


def misspelt_outputs(case: Case) -> Iterator[LintFinding]:
    """A label must be shown as it is to be written."""
    for line, _, shown, label in respelled(case):
        yield LintFinding("misspelt-output", line, f"shows {shown!r} where the label is {label!r}")


def respelled(case: Case) -> Iterator[tuple[int, str, str, str]]:
    """Outputs that are labels in another spelling: line, output as the line has it, the output, the label."""
    shape = case.contract.shape
    if not isinstance(shape, Labels):
        return
    known = {normalise_label(label): label for label in shape.labels}
    for shown in _examples(case):
        label = known.get(normalise_label(shown.output))
        if label is not None and label != shown.output:
            yield shown.line, shown.written, shown.output, label


# --- against the instructions -----------------------------------------------------------------------------

_COUNTS: Mapping[str, Callable[[str], int]] = {
    "word": count_words,
    "character": len,
    "line": count_lines,
    "sentence": lambda text: len(re.findall(r"[.!?]+(?:\s|$)", text.strip() + " ")) or 1,
}
_FORBIDDEN = re.compile(
    r"(?i)\b(?:do not|don't|never|must not|should not)\s+(?:use|write|say|contain|include|mention)\s+(?:the (?:word|phrase)s?\s+)?[\"'“]([^\"'“”]+)[\"'”]"
)
_FORBIDDEN_SIGN = re.compile(
    r"(?i)\b(?:no|without|never use|do not use|don't use|avoid)\s+(?:any )?(semicolons?|exclamation marks?|question marks?|emojis?)\b"
)
_SIGNS = {"semicolon": ";", "exclamation mark": "!", "question mark": "?", "emoji": "[\U0001f300-\U0001faff\u2600-\u27bf]"}
_LISTING = re.compile(r"(?i)\b(?:one of|labels?|categor(?:y|ies)|class(?:es)?|choose (?:from|between))\b")


def against_instructions(case: Case) -> Iterator[LintFinding]:
    """No example that does what an instruction forbids. What breaks the contract too is told as that."""
    judge = validator(case.contract)
    shown = [one for one in _examples(case) if not (case.declared and judge(one.output).reasons)]
    for number, sentence in sentences(_without_examples(case)):
        for one in shown:
            for why in _broken_by(one.output, sentence):
                yield LintFinding("example-against-instruction", one.line, f"the output of the example {why}, against line {number}")
    if not case.declared:
        yield from _outside_list(case, shown)


def _without_examples(case: Case) -> str:
    taken = lines_of_examples(case)
    return "\n".join("" if number in taken else line for number, line in numbered(case.instructions.text))


def _broken_by(output: str, sentence: str) -> Iterator[str]:
    for limit in limits_of_answer(sentence):
        count = _COUNTS.get(limit.unit)
        found = count(output) if count else limit.value
        if (limit.most and found > limit.value) or (limit.least and found < limit.value):
            yield f"has {found} {limit.unit}{'s' * (found != 1)}"
    for match in _FORBIDDEN.finditer(sentence):
        if re.search(rf"(?i)(?<!\w){re.escape(match[1])}(?!\w)", output):
            yield f"contains {match[1]!r}"
    for match in _FORBIDDEN_SIGN.finditer(sentence):
        sign = match[1].lower().rstrip("s")
        if re.search(_SIGNS[sign] if sign == "emoji" else re.escape(_SIGNS[sign]), output):
            yield f"contains {match[1].rstrip('s')}s"


def _outside_list(case: Case, shown: list[Shown]) -> Iterator[LintFinding]:
    """Outputs outside the list of labels that a prompt with no known contract gives."""
    text = _without_examples(case)
    lines = ["", *text.split("\n")]
    for number, items in [*bullet_lists(text), *inline_lists(text)]:
        before = next((line for line in reversed(lines[:number]) if line.strip()), "")
        known = set(map(normalise_label, items))
        if len(known) < 2 or not _LISTING.search(f"{before}\n{lines[number]}"):
            continue
        if not any(normalise_label(one.output) in known for one in shown):
            continue
        for one in shown:
            if normalise_label(one.output) not in known and count_words(one.output) <= 3:
                what = f"the output {one.output!r} of the example is not in the list of line {number}"
                yield LintFinding("example-against-instruction", one.line, what)


# --- against each other -----------------------------------------------------------------------------------


def disagreeing(case: Case) -> Iterator[LintFinding]:
    """One input has one output."""
    first: dict[str, Shown] = {}
    for shown in _examples(case):
        other = first.setdefault(normalise(shown.given), shown)
        if normalise_label(other.output) != normalise_label(shown.output):
            what = f"says {shown.output!r} where line {other.line} says {other.output!r} for the same input"
            yield LintFinding("examples-disagree", shown.line, what)


def imbalance(case: Case) -> Iterator[LintFinding]:
    """No label is shown far more often than another: the model would lean towards it."""
    shown = _examples(case)
    if not shown:
        return
    shape = case.contract.shape if case.declared else infer([one.output for one in shown]).shape
    if not isinstance(shape, Labels):
        return
    counts = Counter({normalise_label(label): 0 for label in shape.labels})
    counts.update(name for one in shown if (name := normalise_label(one.output)) in counts)
    (commonest, most), (rarest, least) = counts.most_common()[0], counts.most_common()[-1]
    if most >= FEW and most >= TIMES * max(least, 1):
        yield LintFinding("label-imbalance", 0, f"of its examples {most} show {commonest!r} and {least} show {rarest!r}")


def too_many(case: Case) -> Iterator[LintFinding]:
    """The examples keep their own token budget."""
    if case.example_tokens is None:
        return
    lines = case.system.split("\n")
    tokens = sum(estimate(lines[number]) + 1 for number in example_lines(case.system)[1:-1])
    if tokens > case.example_tokens:
        yield LintFinding("too-long", 0, f"its examples have about {tokens} tokens, more than their budget of {case.example_tokens}")
