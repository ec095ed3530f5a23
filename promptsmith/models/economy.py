"""What is known of a prompt before it is called: whether its provider can cache it, and what its tokens cost."""

from __future__ import annotations

from collections.abc import Iterator

from ..catalog.models import facts
from ..chat import Usage
from ..config import Project
from ..prompt import Prompt
from .caching import break_even, cacheable, static_tokens
from .directory import Directory


def economy(project: Project, prompt: Prompt) -> Iterator[tuple[str, str]]:
    """Lines with their labels, ``caching`` and ``cost``; none for a builtin model, which costs nothing."""
    if prompt.model.startswith("builtin/"):
        return
    known = facts(project.config.catalog_name(prompt.model))
    tokens = static_tokens(prompt.system, known)
    cached = cacheable(prompt.system, known)
    least = f"about {tokens} tokens, the least is {known.cache_minimum}"
    if cached:
        yield "caching", f"cacheable on {prompt.model} ({least}); pays from call {break_even(known.cache_rates[0])}"
    elif known.cache_rates:
        yield "caching", f"too short to be cached on {prompt.model} ({least})"
    else:
        yield "caching", f"nothing is known of caching on {prompt.model}"
    rates = Directory(project).rates.find(prompt.model)
    if rates is None:
        yield "cost", "unknown: no price is known for the model"
        return
    uses = (
        {"cold": Usage(input=tokens, written=tokens), "warm": Usage(input=tokens, cached=tokens)}
        if cached
        else {"each": Usage(input=tokens)}
    )
    shown = ", ".join(f"${1000 * rates.cost(usage):.4f} {name}" for name, usage in uses.items())
    yield "cost", f"of the prompt's tokens, 1,000 calls: {shown} (estimated)"
