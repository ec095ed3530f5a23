"""What chat completions and responses have in common: rules of models, caching options, the cache's identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import sse
from .bodies import ChatCacheOptions, ResponsesCacheOptions
from .catalog import ModelFacts
from .refused import Refused

CacheOptions = ChatCacheOptions | ResponsesCacheOptions | None


def check_sampling(facts: ModelFacts, *, temperature: float | None, top_p: float | None) -> None:
    """The 400 of models that sample only one way."""
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if facts.fixed_temperature and value not in {None, 1}:
            message = f"Unsupported value: '{name}' does not support {value:g} with this model. Only the default (1) value is supported."
            raise Refused(400, message, param=name, code="unsupported_value")


def check_caching(facts: ModelFacts, options: CacheOptions, retention: str | None, *, marked: bool) -> None:
    """The 400s for caching parameters that the model does not know."""
    if facts.caching != "breakpoints" and facts.dialect == "openai":
        name = "prompt_cache_options" if options is not None else "prompt_cache_breakpoint" if marked else ""
        if name:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            raise Refused(400, message, param=name, code="unsupported_parameter")
    if retention is not None and retention not in facts.retentions:
        message = f"Unsupported value: 'prompt_cache_retention' does not support '{retention}' with this model."
        raise Refused(400, message, param="prompt_cache_retention", code="unsupported_value")


def check_schema_prompt(field: str, where: str, texts: Iterable[str]) -> None:
    """JSON mode wants the word JSON somewhere in the prompt."""
    if not any("json" in text.casefold() for text in texts):
        message = f"'{where}' must contain the word 'json' in some form, to use '{field}' of type 'json_object'."
        raise Refused(400, message, param=where)


def identity(raw: Mapping[str, Any], form: object, effort: str | None, verbosity: str | None) -> tuple[str, ...]:
    """What besides model, key and blocks makes a prompt another one for the cache (the enum of cache diagnostics)."""
    return (sse.wire(form).decode(), effort or "", verbosity or "", str(raw.get("service_tier") or ""))


def served_tier(raw: Mapping[str, Any]) -> str:
    """The tier that a request was served in, as the answer names it."""
    tier = str(raw.get("service_tier") or "auto")
    return {"auto": "default", "fast": "priority"}.get(tier, tier)


def lifetime(facts: ModelFacts, options: CacheOptions, retention: str | None) -> str:
    """How long what this request writes can be read, unless a breakpoint says otherwise."""
    if facts.caching == "breakpoints":
        return options.ttl if options else "30m"
    return "24h" if retention == "24h" else "10m"


def tool_name(tools: list[dict[str, Any]] | None) -> str:
    """The name of the first tool, in either protocol's shape."""
    for tool in tools or ():
        function = tool.get("function")
        return str(function.get("name", "") if isinstance(function, dict) else tool.get("name", ""))
    return ""
