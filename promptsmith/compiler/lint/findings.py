"""What the lint can find: every fault with its code, and findings of them.

A code is never given to another fault; one that is no longer looked for leaves a gap. The hundreds group them:
1 the contract, 2 the examples, 3 text of cases, 4 what is no prompt, 5 safety, 6 the model and its costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from ...contract import shorten
from ...errors import InputError, did_you_mean

Severity = Literal["error", "warning"]


class Fault(msgspec.Struct, frozen=True):
    """One kind of fault. ``about`` is a sentence for lists."""

    code: str
    name: str
    severity: Severity
    about: str
    fixable: bool = False


FAULTS: tuple[Fault, ...] = (
    Fault("PS101", "missing-label", "error", "A label of the contract is not named."),
    Fault("PS102", "missing-key", "error", "A key of the JSON Schema is not named."),
    Fault("PS103", "foreign-label", "error", "Something stands among the labels and is none."),
    Fault("PS104", "foreign-key", "error", "A JSON key is not in the schema."),
    Fault("PS105", "foreign-limit", "error", "A limit is none of the contract's."),
    Fault("PS106", "asks-to-explain", "error", "It asks for more than a label or JSON."),
    Fault("PS107", "asks-for-markdown", "error", "It asks for markdown where a label or JSON is wanted."),
    Fault("PS108", "foreign-value", "error", "Something stands among the values of a key and is none."),
    Fault("PS109", "foreign-answer", "error", "It tells the model to give an answer that is no label."),
    Fault("PS110", "contradiction", "error", "Two instructions can't both be followed."),
    Fault("PS201", "broken-example", "error", "An example's output breaks the contract, or the example can't be read."),
    Fault("PS202", "misspelt-output", "warning", "An example's output is a label in another spelling.", fixable=True),
    Fault("PS203", "examples-disagree", "error", "Two examples have one input and different outputs."),
    Fault("PS204", "example-against-instruction", "error", "An example does what an instruction forbids."),
    Fault("PS205", "label-imbalance", "warning", "The examples show one label far more often than another."),
    Fault("PS301", "holdout-text", "error", "Text of a sealed case stands in the prompt."),
    Fault("PS302", "dev-text", "error", "Text of a case that only scores stands in the prompt."),
    Fault("PS401", "placeholder", "error", "A placeholder was left that nothing fills."),
    Fault("PS402", "meta-chatter", "error", "It talks about the prompt.", fixable=True),
    Fault("PS403", "empty", "error", "There is no text."),
    Fault("PS404", "is-json", "error", "It is a JSON value, not a prompt."),
    Fault("PS405", "echo", "error", "It is the task's description and nothing else."),
    Fault("PS406", "other-language", "error", "It is written in another language than the task."),
    Fault("PS501", "secret", "error", "It holds a key, a token or a password."),
    Fault("PS502", "personal-data", "warning", "It holds an e-mail address, a phone number or an IBAN."),
    Fault("PS503", "open-input", "error", "User input would be put among the instructions with no fence around it."),
    Fault("PS601", "volatile", "error", "A date, a time or an id will not stay true.", fixable=True),
    Fault("PS602", "below-cache-minimum", "warning", "It is too short for the provider to cache."),
    Fault("PS603", "far-above-cache-minimum", "warning", "Even cached, it costs more than a short prompt that is not."),
    Fault("PS604", "rejected-parameter", "error", "The production model does not take a parameter."),
    Fault("PS605", "too-long", "error", "It is over its token budget."),
)
_BY_NAME = {fault.name: fault for fault in FAULTS}


class LintFinding(msgspec.Struct, frozen=True):
    """One fault. ``code`` is the fault's name; ``line`` counts from 1, 0 when the prompt as a whole is meant."""

    code: str
    line: int
    what: str

    @property
    def fault(self) -> Fault:
        return _BY_NAME[self.code]

    def __str__(self) -> str:
        return f"line {self.line}: {self.what} [{self.code}]" if self.line else f"{self.what} [{self.code}]"


def in_order(findings: Iterable[LintFinding]) -> list[LintFinding]:
    """Findings in line order, each once."""
    return sorted(dict.fromkeys(findings), key=lambda finding: (finding.line, finding.code))


def listed(findings: Sequence[LintFinding], most: int = 20) -> str:
    """Findings as lines, for a person or a meta-model."""
    lines = [f"- {finding}" for finding in findings[:most]]
    if len(findings) > most:
        lines.append(f"- and {len(findings) - most} more")
    return "\n".join(lines) or shorten("")


def chosen(select: str, ignore: str) -> frozenset[str]:
    """The names of the faults to look for. Both are lists of codes, beginnings of codes or names, with commas between.

    Raises :class:`InputError` for one that there is not.
    """
    wanted = _names(select) or frozenset(_BY_NAME)
    return wanted - _names(ignore)


def _names(codes: str) -> frozenset[str]:
    return frozenset(name for word in codes.split(",") if word.strip() for name in _matching(word.strip()))


def _matching(word: str) -> Iterable[str]:
    found = [fault.name for fault in FAULTS if fault.name == word.lower() or fault.code.startswith(word.upper())]
    if not found:
        near = did_you_mean(word, [*_BY_NAME, *(fault.code for fault in FAULTS)])
        raise InputError(f"there is no lint code {word!r}", hint=near or "the codes are PS101 to PS605, and PS1 means all that begin so")
    return found
