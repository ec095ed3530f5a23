"""Identity of the meta-prompts that a compile uses: with others it would come to something else."""

from __future__ import annotations

from .draft import meta_prompts_digest
from .material import SCORED


def meta_digest(level: int, *, started: bool) -> str:
    """Digest of every meta-prompt of a compile at ``level``. ``started``: it begins with the prompt for another model."""
    if level < SCORED:
        return meta_prompts_digest(started=started)
    from .search.strategies import search_prompts_digest  # what does not search loads nothing of it

    return search_prompts_digest(level)
