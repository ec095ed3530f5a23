"""How many tokens a text is about, without a tokenizer (none can be had offline for current models)."""

from __future__ import annotations


def estimate(text: str) -> int:
    """About how many tokens ``text`` has: four ASCII characters each, about one and a half of any other script.

    An estimate for budgets of examples and for display; money is counted from the provider's own usage.
    """
    plain = len(text.encode("ascii", "ignore"))
    return -(-plain // 4) + -(-2 * (len(text) - plain) // 3)
