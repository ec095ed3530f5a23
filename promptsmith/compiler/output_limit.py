"""How many tokens an answer may have, from the contract and the examples, with room for the model's reasoning."""

from __future__ import annotations

from collections.abc import Mapping

from ..canonical import Scalar
from ..catalog.models import allowance
from ..catalog.tokens import estimate
from ..contract import Labels, TextShape
from .material import Material

_LEAST = 64
_TOKENS_A_WORD = 3
"""Generous: long words, names and other scripts take more than English prose."""


def with_output_limit(source: Material) -> Mapping[str, Scalar]:
    """The production model's parameters, with ``max_tokens`` where the task gives none and the model is at an endpoint."""
    parameters = source.model.parameters
    if "max_tokens" in parameters or source.model.name.startswith("builtin/"):
        return parameters
    known = source.known
    effort = parameters.get("effort")
    room = allowance(known, effort if isinstance(effort, str) else None)
    limit = round(_answer_tokens(source) * known.token_factor) + room
    return {**parameters, "max_tokens": min(limit, known.max_output) if known.max_output else limit}


def _answer_tokens(source: Material) -> int:
    shape = source.contract.shape
    seen = max((estimate(example.output) for example in source.visible), default=_LEAST * 4)
    if isinstance(shape, Labels):
        return _LEAST + 2 * max(estimate(label) for label in shape.labels)
    if isinstance(shape, TextShape) and shape.max_words is not None and not source.contract.inferred:
        return _LEAST + _TOKENS_A_WORD * shape.max_words
    # Four times the longest that was seen: a truncated answer is lost, an unused limit costs nothing.
    return 4 * _LEAST + 4 * seen
