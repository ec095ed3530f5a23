"""The models this provider serves, and the rules of each (reference: providers.md, sections 1, 2 and 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from .refused import Dialect

Caching = Literal["marked", "breakpoints", "automatic", "none"]
"""``marked``: Anthropic's cache_control. ``breakpoints``: OpenAI from gpt-5.6. ``automatic``: older OpenAI models."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One model: what it accepts, and how its prompts are cached."""

    name: str
    dialect: Dialect
    caching: Caching
    minimum: int = 1024
    """Fewest tokens of a prefix that is cached; a shorter one is silently not."""
    chat: bool = True
    """Whether chat completions serve it; some OpenAI models are for responses only."""
    reasoning: bool = True
    """OpenAI: ``max_tokens`` is refused in favour of ``max_completion_tokens``."""
    fixed_temperature: bool = False
    """OpenAI: only the default temperature is accepted."""
    retentions: tuple[str, ...] = ("in_memory", "24h")
    """OpenAI: the values of ``prompt_cache_retention`` that it accepts."""
    sampling: bool = False
    """Anthropic: temperature and its like are accepted under anthropic-version 2023-06-01."""
    prefill: bool = False
    """Anthropic: the last turn may be the assistant's."""
    always_thinks: bool = False
    """Anthropic: thinking can't be disabled."""
    forced_tools: bool = True
    """Anthropic: ``tool_choice`` may force a tool."""


_RETENTIONS = ("in_memory", "24h")


def _openai(
    names: str,
    caching: Caching,
    *,
    chat: bool = True,
    reasoning: bool = True,
    fixed: bool = False,
    retentions: tuple[str, ...] = _RETENTIONS,
) -> list[ModelFacts]:
    return [
        ModelFacts(
            name=name, dialect="openai", caching=caching, chat=chat, reasoning=reasoning, fixed_temperature=fixed, retentions=retentions
        )
        for name in names.split()
    ]


def _anthropic(
    names: str,
    minimum: int,
    *,
    sampling: bool = False,
    prefill: bool = False,
    always_thinks: bool = False,
    forced_tools: bool = True,
) -> list[ModelFacts]:
    return [
        ModelFacts(
            name=name,
            dialect="anthropic",
            caching="marked",
            minimum=minimum,
            sampling=sampling,
            prefill=prefill,
            always_thinks=always_thinks,
            forced_tools=forced_tools,
        )
        for name in names.split()
    ]


_BUILTIN: tuple[ModelFacts, ...] = (
    *_openai("gpt-6-astra gpt-6.1-sol gpt-6.1-terra gpt-6-sol gpt-6-luna", "breakpoints", retentions=("24h",)),
    *_openai("gpt-5.6-sol gpt-5.6-terra gpt-5.6-luna", "breakpoints", retentions=("24h",)),
    *_openai("gpt-5.5 gpt-5.5-2026-04-23", "automatic", retentions=("24h",)),
    *_openai("gpt-5.4 gpt-5.4-mini gpt-5.4-nano gpt-5.2 gpt-5.1", "automatic"),
    *_openai("gpt-5 gpt-5-mini gpt-5-nano o3", "automatic", fixed=True),
    *_openai("gpt-5.5-pro", "automatic", chat=False, retentions=("24h",)),
    *_openai("gpt-5-pro o3-pro", "automatic", chat=False, fixed=True),
    *_openai("gpt-4.1 gpt-4.1-mini gpt-4o gpt-4o-mini", "automatic", reasoning=False),
    *_anthropic("claude-haiku-5-5 claude-opus-5 claude-mythos-5 claude-mythos-5-1 claude-mythos-5-2", 512),
    *_anthropic("claude-sonnet-5-5", 512, forced_tools=False),
    *_anthropic("claude-fable-5 claude-fable-5-2", 512, always_thinks=True),
    *_anthropic("claude-opus-5-5 claude-fable-5-1", 512, always_thinks=True, forced_tools=False),
    *_anthropic("claude-opus-4-8 claude-sonnet-5", 1024),
    *_anthropic("claude-sonnet-4-6", 1024, sampling=True),
    *_anthropic("claude-sonnet-4-5 claude-sonnet-4-5-20250929", 1024, sampling=True, prefill=True),
    *_anthropic("claude-opus-4-7", 2048),
    *_anthropic("claude-opus-4-6", 4096, sampling=True),
    *_anthropic("claude-opus-4-5 claude-haiku-4-5 claude-haiku-4-5-20251001", 4096, sampling=True, prefill=True),
)


def models(extra: Iterable[ModelFacts] = ()) -> Mapping[str, ModelFacts]:
    """All models by name, those of a test (``extra``) before the built-in ones."""
    return {facts.name: facts for facts in (*_BUILTIN, *extra)}
