"""What all spans have in common: names of the OpenTelemetry conventions, and values as OpenTelemetry takes them.

Apart from the spans of plans, which need much more: the service loads this at its start.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError

SCHEMA = "https://opentelemetry.io/schemas/1.41.0"
PROVIDERS: Mapping[str, str] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "groq": "groq",
    "perplexity": "perplexity",
    "xai": "x_ai",
}
"""By the endpoint's name, the conventions' own; any other endpoint's name stands as it is."""
Attributes = dict[str, Any]


def needs(module: str) -> None:
    """Raises :class:`InputError` when the extra is not installed."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise InputError("OpenTelemetry is not installed", hint="pip install 'promptsmith[otel]'")


def provider_of(model: str) -> str:
    """What the conventions call the provider of ``endpoint/model``."""
    endpoint = model.partition("/")[0]
    return PROVIDERS.get(endpoint, endpoint)


def model_of(model: str) -> str:
    """The name without its endpoint."""
    return model.partition("/")[2] or model


def given(own: Attributes) -> Attributes:
    """What is known, as OpenTelemetry takes it."""
    return {name: _plain(value) for name, value in own.items() if value is not None and value not in ("", ())}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return text(value)
    return [text(one) for one in value] if isinstance(value, Sequence) else value


def text(value: str) -> str:
    """``value`` as exporters can write it: in UTF-8, which half a surrogate pair has no form in."""
    return value.encode("utf-8", "replace").decode()
