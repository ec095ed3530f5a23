"""Answer functions for an :class:`~tests.provider.Provider`. Each holds its answer to the request's schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .schemas import fit
from .values import Ask, Said

if TYPE_CHECKING:
    from promptsmith.models.nearest import Index


def fitted(ask: Ask, text: str) -> str:
    """The text, or where structured output was asked for a JSON text that satisfies the schema and says it."""
    return text if ask.schema is None else fit(text, ask.schema)


def echo(ask: Ask) -> str:
    """The last user turn."""
    return fitted(ask, ask.text)


def constant(text: str) -> Callable[[Ask], str]:
    """Always ``text``."""
    return lambda ask: fitted(ask, text)


def scripted(said: Iterable[str | Said]) -> Callable[[Ask], str | Said]:
    """One after the other, in the order in which requests are answered; one request too many is an error of the test."""
    left = iter(said)

    def answer(ask: Ask) -> str | Said:
        try:
            one = next(left)
        except StopIteration:
            raise AssertionError(f"request {ask.number} has no scripted answer left") from None
        return fitted(ask, one) if isinstance(one, str) else one

    return answer


def nearest() -> Callable[[Ask], str]:
    """Answers by the example block of the system prompt, as ``builtin/nearest`` does; echoes where there is none."""
    indexes: dict[str, Index] = {}

    def answer(ask: Ask) -> str:
        # Imported on use: a benchmark's provider process does not pay for it.
        from promptsmith.models.nearest import Index
        from promptsmith.prompt import read_examples, turn_text

        index = indexes.get(ask.system)
        if index is None:
            pairs = read_examples(ask.system)
            if not pairs:
                return echo(ask)
            index = indexes[ask.system] = Index(pairs)
        return fitted(ask, index.answer(turn_text(ask.text)))

    return answer
