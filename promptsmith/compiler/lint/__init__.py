"""Finds what is wrong with a system prompt before anybody pays for calls with it.

Each finding has a code, the line where it stands and a reason that a meta-model can act on. The checks look for what
the contract says, so text in the task that tries to instruct the meta-model changes nothing in how its answer is judged.

:func:`lint` is what drafts of the compiler are judged by; ``check.py`` judges whole prompts by that and more.
"""

from __future__ import annotations

from collections.abc import Sequence

from .contract import asks_for_more, foreign_keys, foreign_labels, foreign_limits, missing_names
from .findings import LintFinding, in_order, listed
from .leftovers import meta_chatter, not_a_prompt, placeholders, too_long
from .reading import Rule, Subject
from .safety import secrets
from .volatile import volatile_text

__all__ = ["RULES", "LintFinding", "Subject", "lint", "listed"]

RULES: Sequence[Rule] = (
    missing_names,
    foreign_labels,
    foreign_keys,
    foreign_limits,
    asks_for_more,
    placeholders,
    meta_chatter,
    secrets,
    volatile_text,
    not_a_prompt,
    too_long,
)


def lint(subject: Subject) -> list[LintFinding]:
    """All findings, in line order."""
    return in_order(finding for rule in RULES for finding in rule(subject))
