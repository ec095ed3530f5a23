"""What is known of providers' models: caching, parameters, limits, retirement. A dated table, no network.

Sources, all read on the day ``AS_OF``: the types and docstrings of the ``openai`` 3.52 and ``anthropic`` 2.11 packages
[SDK], the providers' caching and model pages as quoted elsewhere [DOC], and the ratio of list prices [PRICES]. Where
a number was not found, the table holds the one that promises less; ``None`` is "not known". The provider's own
model list is newer than any table: an unknown name is never refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from typing import Literal

import msgspec

AS_OF = "2026-11-20"

CacheStyle = Literal["explicit", "automatic", "breakpoints", "none"]
"""How a provider caches prefixes.

``explicit``: marks on content parts and a mode that turns the costly implicit mark off (OpenAI from gpt-5.6);
``automatic``: the longest prefix, nothing to send (OpenAI before); ``breakpoints``: ``cache_control`` on blocks
(Anthropic); ``none``: nothing is known of caching there.
"""


class CacheRate(msgspec.Struct, frozen=True):
    """One lifetime of a cached prefix; ``write`` and ``read`` are multiples of the input price."""

    ttl: str
    """As the provider writes it; empty when it can't be chosen."""
    seconds: int
    """0 when the provider does not say."""
    write: float
    read: float


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one model. ``known`` is false when only its provider (or not even that) was recognised."""

    model: str = ""
    known: bool = False
    cache: CacheStyle = "none"
    cache_minimum: int = 0
    """Tokens below which a prefix is silently not cached."""
    cache_rates: tuple[CacheRate, ...] = ()
    structured: bool = False
    """Takes a JSON Schema for its output."""
    temperature: bool = True
    """Takes ``temperature`` and ``top_p``."""
    efforts: tuple[str, ...] = ()
    """Reasoning efforts that its API knows; not every model takes each, which only the provider can say."""
    max_tokens_name: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"
    system_role: Literal["developer", "system"] = "system"
    thinking_always_on: bool = False
    reasoning_allowance: int = 0
    """Tokens to add to an output limit for reasoning at the default effort. Ours, not the provider's: see :func:`allowance`."""
    max_output: int | None = None
    token_factor: float = 1.0
    """What the estimate of :func:`promptsmith.catalog.tokens.estimate` is multiplied with for its tokenizer."""
    stream_usage: bool = False
    """Has ``stream_options.include_usage``; without it no usage may come with a stream."""
    retires: str | None = None
    """Day of its shutdown (ISO), where announced."""
    successor: str | None = None
    """Full name of the model that its provider recommends instead, where one was named."""
    as_of: str = AS_OF

    @property
    def ttls(self) -> tuple[str, ...]:
        """The lifetimes that can be asked for, the shortest first."""
        return tuple(rate.ttl for rate in self.cache_rates if rate.ttl)


OPENAI_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")  # [SDK] types/shared/reasoning_effort.py
ANTHROPIC_EFFORTS = ("low", "medium", "high", "xhigh", "max")  # [SDK] types/output_config_param.py

_ALLOWANCE: Mapping[str, int] = {
    # No provider states how much an effort reasons. 1,024 is the smallest budget that Anthropic accepts [SDK
    # types/thinking_config_enabled_param.py]; each step after "low" doubles twice. A truncated reply is retried with more.
    "none": 0,
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16384,
    "xhigh": 32768,
    "max": 65536,
}


def allowance(facts: ModelFacts, effort: str | None = None) -> int:
    """Tokens to add to an output limit so that reasoning at ``effort`` (``None``: the model's default) does not eat it."""
    if effort is None or not facts.efforts:
        return facts.reasoning_allowance
    return _ALLOWANCE.get(effort, facts.reasoning_allowance)


# --- OpenAI -----------------------------------------------------------------------------------------------

_OPENAI = ModelFacts(
    cache="automatic",
    cache_minimum=1024,  # [DOC] prompt caching guide
    # [DOC] writes are free, reads 0.1 to 0.5 by model; the highest of them, so that no break-even is promised too early.
    cache_rates=(CacheRate("", 0, 1.0, 0.5),),
    structured=True,
    efforts=OPENAI_EFFORTS,
    max_tokens_name="max_completion_tokens",  # [SDK] max_tokens is deprecated, and refused by o-series models
    system_role="developer",  # [SDK] "With o1 models and newer, use developer messages for this purpose instead"
    reasoning_allowance=_ALLOWANCE["medium"],
    stream_usage=True,
)


def _openai(**changes: object) -> ModelFacts:
    return msgspec.structs.replace(_OPENAI, known=True, **changes)


def _marked(read: float) -> ModelFacts:
    # [SDK] completion_create_params.py: "Supported for gpt-5.6 and later models", chat completions have 30m only.
    return _openai(cache="explicit", cache_rates=(CacheRate("30m", 1800, 1.25, read),))


_CHAT_ONLY: Mapping[str, object] = {"efforts": (), "reasoning_allowance": 0, "system_role": "system"}

_OPENAI_FAMILIES: Mapping[str, ModelFacts] = {  # newest first
    "gpt-6.1": _marked(0.05),  # [PRICES] 2 and .1
    "gpt-6": _marked(0.1),  # [PRICES] 10 and 1, 2 and .2, .1 and .01
    "gpt-5.6": _marked(0.1),  # [PRICES] 4 and .4, .2 and .02
    "gpt-5.5": _openai(cache_rates=(CacheRate("", 0, 1.0, 0.1),)),  # [PRICES] 5 and .5
    "gpt-5.4": _openai(),
    "gpt-5.3": _openai(),
    "gpt-5.2": _openai(),
    "gpt-5.1": _openai(),
    "gpt-5": _openai(temperature=False),  # [DOC] community.openai.com/t/1337133: only the default temperature
    "gpt-4.1": _openai(**_CHAT_ONLY),
    "o4-mini": _openai(temperature=False),  # [DOC] community.openai.com/t/1110750: o-series takes no sampling parameters
    "o3": _openai(temperature=False),
    "o1-mini": _openai(temperature=False, structured=False, efforts=()),
    "o1-preview": _openai(temperature=False, structured=False, efforts=()),
    "o1": _openai(temperature=False),
    "gpt-4o-2024-05-13": _openai(structured=False, **_CHAT_ONLY),
    "gpt-4o": _openai(**_CHAT_ONLY),
    "chatgpt-4o": _openai(structured=False, **_CHAT_ONLY),
    "gpt-4": _openai(structured=False, **_CHAT_ONLY),
    "gpt-3.5": _openai(structured=False, **_CHAT_ONLY),
}

# --- Anthropic --------------------------------------------------------------------------------------------


def _claude_rates(read: float) -> tuple[CacheRate, ...]:
    return (CacheRate("5m", 300, 1.25, read), CacheRate("1h", 3600, 2.0, read))  # [DOC] prompt caching page


_ANTHROPIC = ModelFacts(
    cache="breakpoints",
    cache_minimum=4096,  # [DOC] the highest of any model
    cache_rates=_claude_rates(0.1),
    structured=True,  # [SDK] output_config.format is generally available
    temperature=False,  # [SDK] gone from messages.create; with version 2026-10-21 the API refuses even default values [DOC]
    efforts=ANTHROPIC_EFFORTS,
    max_tokens_name="max_tokens",
    # [SDK] "what happens when you omit `thinking` depends on the model": room for it is left where it may be on.
    reasoning_allowance=_ALLOWANCE["medium"],
    token_factor=1.3,  # [DOC] haiku-5-5 page: about 30 % more tokens than Haiku 4.5 since 4.7
    stream_usage=True,
)


def _claude(minimum: int, *, read: float = 0.1, always: bool = False, before_4_7: bool = False) -> ModelFacts:
    old = {"token_factor": 1.0, "reasoning_allowance": 0} if before_4_7 else {}
    return msgspec.structs.replace(
        _ANTHROPIC, known=True, cache_minimum=minimum, cache_rates=_claude_rates(read), thinking_always_on=always, **old
    )


_ANTHROPIC_FAMILIES: Mapping[str, ModelFacts] = {  # newest first; minimums [DOC] of 8 Oct 2026
    "claude-fable-5-2": _claude(512, read=0.025, always=True),  # minimum not seen, as its siblings'; [PRICES] 8 and .2
    "claude-mythos-5-2": _claude(512, read=0.025),
    "claude-haiku-5-5": _claude(512),  # [PRICES] .10 and .01
    "claude-sonnet-5-5": _claude(512, read=0.05),  # [PRICES] 2 and .1, since 7 Oct 2026
    "claude-opus-5-5": _claude(512, read=0.05, always=True),  # [PRICES] 4 and .2; [DOC] thinking can't be turned off
    "claude-fable-5-1": _claude(512, always=True),
    "claude-mythos-5-1": _claude(512),
    "claude-fable-5": _claude(512, always=True),
    "claude-mythos-5": _claude(512),
    "claude-opus-5": _claude(512),
    "claude-sonnet-5": _claude(1024),
    "claude-opus-4-8": _claude(1024),
    "claude-opus-4-7": _claude(2048),
    "claude-mythos-preview": _claude(2048),
    "claude-opus-4-6": _claude(4096, before_4_7=True),
    "claude-sonnet-4-6": _claude(1024, before_4_7=True),
    "claude-opus-4-5": _claude(4096, before_4_7=True),
    "claude-haiku-4-5": _claude(4096, before_4_7=True),
    "claude-sonnet-4-5": _claude(1024, before_4_7=True),
}

# --- retirement -------------------------------------------------------------------------------------------

_RETIRES_ON: Mapping[str, str] = {
    # [SDK] anthropic/_data/deprecated_models.py
    "2026-06-30": "claude-mythos-preview",
    "2026-11-30": "claude-sonnet-4-5 claude-sonnet-4-5-20250929",
    # [DOC] the API's release notes
    "2026-06-15": "claude-opus-4-0 claude-sonnet-4-0",
}
_RETIRES_ON_OPENAI: Mapping[str, str] = {
    # [SDK] openai/types/shared/chat_model.py
    "2024-09-13": "gpt-3.5-turbo-16k gpt-3.5-turbo-0301 gpt-3.5-turbo-0613 gpt-3.5-turbo-16k-0613",
    "2024-12-06": "gpt-4-vision-preview",
    "2025-06-06": "gpt-4-32k gpt-4-32k-0314 gpt-4-32k-0613",
    "2025-07-28": "o1-preview o1-preview-2024-09-12",
    "2025-10-10": "gpt-4o-audio-preview-2024-10-01",
    "2025-10-27": "o1-mini o1-mini-2024-09-12",
    "2026-02-12": "codex-mini-latest",
    "2026-02-17": "chatgpt-4o-latest",
    "2026-03-26": "gpt-4-0125-preview gpt-4-turbo-preview gpt-4-0314",
    "2026-05-07": "gpt-4o-audio-preview gpt-4o-audio-preview-2024-12-17 gpt-4o-audio-preview-2025-06-03"
    " gpt-4o-mini-audio-preview gpt-4o-mini-audio-preview-2024-12-17",
    "2026-07-23": "gpt-5.1-codex gpt-5.1-chat-latest gpt-5-chat-latest gpt-4o-search-preview gpt-4o-mini-search-preview"
    " gpt-4o-search-preview-2025-03-11 gpt-4o-mini-search-preview-2025-03-11",
    "2026-08-10": "gpt-5.3-chat-latest gpt-5.2-chat-latest",
    "2026-09-28": "gpt-3.5-turbo-1106",
    "2026-10-23": "gpt-4.1-nano gpt-4.1-nano-2025-04-14 o4-mini o4-mini-2025-04-16 o3-mini o3-mini-2025-01-31 o1 o1-2024-12-17"
    " gpt-4o-2024-05-13 gpt-4-turbo gpt-4-turbo-2024-04-09 gpt-4-1106-preview gpt-4 gpt-4-0613 gpt-3.5-turbo gpt-3.5-turbo-0125",
    "2026-12-11": "gpt-5 gpt-5-mini gpt-5-nano gpt-5-2025-08-07 gpt-5-mini-2025-08-07 gpt-5-nano-2025-08-07 o3 o3-2025-04-16",
    "2027-01-14": "gpt-4.1 gpt-4.1-mini gpt-4.1-2025-04-14 gpt-4.1-mini-2025-04-14 gpt-4o gpt-4o-2024-11-20 gpt-4o-2024-08-06"
    " gpt-4o-mini gpt-4o-mini-2024-07-18",
    "2027-01-20": "gpt-audio-mini gpt-audio-mini-2025-12-15",
    "2027-04-01": "gpt-5.4-nano gpt-5.4-nano-2026-03-17 gpt-5.1 gpt-5.1-2025-11-13",
}


def _by_name(table: Mapping[str, str], provider: str) -> dict[str, str]:
    return {f"{provider}/{name}": said for said, names in table.items() for name in names.split()}


RETIREMENTS: Mapping[str, str] = {**_by_name(_RETIRES_ON, "anthropic"), **_by_name(_RETIRES_ON_OPENAI, "openai")}
"""Full name to the day of its shutdown (ISO), announced or past."""

# [DOC] the replacement that the provider recommends (OpenAI: deprecations page; Anthropic: model pages and release notes).
# A model that is not here has none that was seen.
_SUCCESSORS_ANTHROPIC: Mapping[str, str] = {
    "claude-sonnet-5-5": "claude-sonnet-4-5 claude-sonnet-4-5-20250929",
    "claude-sonnet-4-6": "claude-sonnet-4-0",
    "claude-opus-4-8": "claude-opus-4-0",
}
_SUCCESSORS_OPENAI: Mapping[str, str] = {
    "gpt-6.1-sol": "gpt-5 gpt-5-2025-08-07 o3 o3-2025-04-16",
    "gpt-6.1-terra": "gpt-5-mini gpt-5-mini-2025-08-07",
    "gpt-6-luna": "gpt-5-nano gpt-5-nano-2025-08-07 gpt-4.1 gpt-4.1-mini gpt-4.1-2025-04-14 gpt-4.1-mini-2025-04-14 gpt-4o"
    " gpt-4o-2024-11-20 gpt-4o-2024-08-06 gpt-4o-mini gpt-4o-mini-2024-07-18",
    "gpt-5.6-sol": "gpt-4 gpt-4-0613 gpt-4-1106-preview gpt-4-turbo gpt-4-turbo-2024-04-09 gpt-4o-2024-05-13 o1 o1-2024-12-17 o3-mini"
    " o3-mini-2025-01-31",
    "gpt-5.6-terra": "gpt-3.5-turbo gpt-3.5-turbo-0125 o4-mini o4-mini-2025-04-16",
    "gpt-5.6-luna": "gpt-4.1-nano gpt-4.1-nano-2025-04-14",
}
SUCCESSORS: Mapping[str, str] = {
    old: f"{provider}/{new}"
    for provider, table in (("anthropic", _SUCCESSORS_ANTHROPIC), ("openai", _SUCCESSORS_OPENAI))
    for old, new in _by_name(table, provider).items()
}
"""Full name to the full name of the model that its provider recommends instead."""

_NO_MODEL = frozenset({"openai/gpt-5.1-mini"})
"""Names that only look right: "Not a supported model ID. Retained for SDK compatibility" [SDK]."""

# [SDK] chat_model.py and model_param.py, without what was shut down by AS_OF and without audio models.
_OPENAI_NAMES = (
    "gpt-6-astra gpt-6.1-sol gpt-6.1-terra gpt-6-sol gpt-6-luna gpt-5.6-sol gpt-5.6-terra gpt-5.6-luna gpt-5.5"
    " gpt-5.5-2026-04-23 gpt-5.4 gpt-5.4-mini gpt-5.4-nano gpt-5.4-mini-2026-03-17 gpt-5.4-nano-2026-03-17 gpt-5.2"
    " gpt-5.2-2025-12-11 gpt-5.2-pro gpt-5.2-pro-2025-12-11 gpt-5.1 gpt-5.1-2025-11-13 gpt-5 gpt-5-mini gpt-5-nano"
    " gpt-5-2025-08-07 gpt-5-mini-2025-08-07 gpt-5-nano-2025-08-07 gpt-4.1 gpt-4.1-mini gpt-4.1-2025-04-14"
    " gpt-4.1-mini-2025-04-14 o3 o3-2025-04-16 gpt-4o gpt-4o-2024-11-20 gpt-4o-2024-08-06 gpt-4o-mini"
    " gpt-4o-mini-2024-07-18"
)
_ANTHROPIC_NAMES = (
    "claude-fable-5-2 claude-mythos-5-2 claude-haiku-5-5 claude-sonnet-5-5 claude-fable-5-1 claude-opus-5-5"
    " claude-mythos-5-1 claude-sonnet-5 claude-fable-5 claude-mythos-5 claude-opus-5 claude-opus-4-8 claude-opus-4-7"
    " claude-opus-4-6 claude-sonnet-4-6 claude-haiku-4-5 claude-haiku-4-5-20251001 claude-opus-4-5"
    " claude-opus-4-5-20251101 claude-sonnet-4-5 claude-sonnet-4-5-20250929"
)

CURRENT: tuple[str, ...] = tuple(
    f"{provider}/{name}" for provider, names in (("openai", _OPENAI_NAMES), ("anthropic", _ANTHROPIC_NAMES)) for name in names.split()
)
"""The models that could be called on ``AS_OF``, by full name, newest first."""

# --- looking up -------------------------------------------------------------------------------------------

_FAMILIES: Mapping[str, Mapping[str, ModelFacts]] = {"openai": _OPENAI_FAMILIES, "anthropic": _ANTHROPIC_FAMILIES}
# What follows a family's name in the name of one of its models. One or two digits would be another version:
# claude-opus-5-7 is no claude-opus-5.
_OF_FAMILY = re.compile(r"(?:[-@:](?!\d{1,2}(?:\D|$)).*)?", re.DOTALL)
_GPT = re.compile(r"gpt-(\d+)(?:\.(\d+))?(?:-|$)")


@lru_cache(maxsize=512)
def facts(model: str) -> ModelFacts:
    """What is known of ``model`` (a full name, ``openai/…`` or ``anthropic/…``); never refuses.

    An unknown model of these two gets what holds for all of them, another endpoint what any server takes, both with
    ``known`` false.
    """
    provider, _, name = model.partition("/")
    found = _family(provider, name.removeprefix("ft:"))
    if model in _NO_MODEL:
        found = msgspec.structs.replace(found, known=False)
    return msgspec.structs.replace(found, model=model, retires=RETIREMENTS.get(model), successor=SUCCESSORS.get(model))


def _family(provider: str, name: str) -> ModelFacts:
    for family, known in _FAMILIES.get(provider, {}).items():
        if name.startswith(family) and _OF_FAMILY.fullmatch(name, len(family)):
            return known
    if provider == "anthropic":
        return _ANTHROPIC
    if provider == "openai":
        version = _GPT.match(name)
        later = version is not None and (int(version[1]), int(version[2] or 0)) >= (5, 6)
        return msgspec.structs.replace(_marked(0.1), known=False) if later else _OPENAI
    return ModelFacts()


def near(model: str, count: int = 3) -> tuple[str, ...]:
    """Up to ``count`` full names of current models that look like ``model``, the nearest first; may be empty."""
    from difflib import get_close_matches  # only for a name that is wrong

    provider, _, name = model.rpartition("/")
    pool = [full for full in CURRENT if full.startswith(f"{provider}/")] or list(CURRENT)
    names = {full.partition("/")[2]: full for full in pool}
    return tuple(names[found] for found in get_close_matches(name.lower(), list(names), n=count, cutoff=0.6))


def retired(model: str, today: date) -> bool:
    """Whether the provider has shut ``model`` down by ``today``, as far as was announced on ``AS_OF``."""
    day = RETIREMENTS.get(model)
    return day is not None and date.fromisoformat(day) <= today
