"""Judges a whole prompt: by what drafts are judged by, and by what only a whole prompt can be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from ...contract import TEXT_LIMITS, Contract, TextShape
from . import RULES
from .case import Case
from .contract import foreign_limits
from .contradictions import contradictions, foreign_answers, foreign_values, labels_in_prose
from .examples import against_instructions, broken_examples, disagreeing, imbalance, lines_of_examples, misspelt_outputs, too_many
from .findings import LintFinding, in_order
from .leaks import dev_texts, holdout_texts
from .leftovers import more_placeholders
from .reading import Rule
from .safety import more_secrets, open_inputs, personal_data, secrets
from .target import below_minimum, far_above_minimum, rejected_parameters
from .volatile import more_volatile_text

OF_INSTRUCTIONS: Sequence[Rule] = (
    *RULES,
    labels_in_prose,
    foreign_values,
    foreign_answers,
    contradictions,
    more_placeholders,
    more_volatile_text,
    open_inputs,
)
OF_ALL_TEXT: Sequence[Rule] = (secrets, more_secrets, personal_data)
OF_CASES: Sequence[Callable[[Case], Iterator[LintFinding]]] = (
    broken_examples,
    misspelt_outputs,
    against_instructions,
    disagreeing,
    imbalance,
    too_many,
    holdout_texts,
    dev_texts,
    below_minimum,
    far_above_minimum,
    rejected_parameters,
)


def check(case: Case, names: Collection[str]) -> list[LintFinding]:
    """The findings whose faults are among ``names``, in line order."""
    rules = [rule for rule in OF_INSTRUCTIONS if rule is not foreign_limits or _has_limits(case.contract)]
    found = [finding for rule in rules for finding in rule(case.instructions)]
    found += [finding for rule in OF_ALL_TEXT for finding in rule(case.whole)]
    found += [finding for look in OF_CASES for finding in look(case)]
    shown = lines_of_examples(case)
    # An example may speak of a date: it is what the example is about.
    return in_order(one for one in found if one.code in names and not (one.code == "volatile" and one.line in shown))


def _has_limits(contract: Contract) -> bool:
    """Whether another limit would be against the contract: one that leaves length open, or only describes it, allows any."""
    shape = contract.shape
    if not isinstance(shape, TextShape):
        return True
    return not contract.inferred and any(getattr(shape, name) is not None for name in TEXT_LIMITS)
