"""The request bodies as each protocol defines them: every field it knows, and no other.

Fields are those of the official SDKs (a test compares them). Parts of a body that this provider gives no
meaning to are only checked to be the right kind of JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Json = dict[str, Any]
Whole = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Tier = Literal["auto", "default", "flex", "scale", "priority", "fast"]
Retention = Literal["in_memory", "24h"]
Verbosity = Literal["low", "medium", "high"]


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON object whose unknown members are errors."""


# --- OpenAI -----------------------------------------------------------------------------------------------


class Breakpoint(Strict):
    mode: Literal["explicit"]
    ttl: Literal["30m", "12h"] | None = None


class TextPart(Strict, tag_field="type", tag="text"):
    text: str
    prompt_cache_breakpoint: Breakpoint | None = None


class RefusalPart(Strict, tag_field="type", tag="refusal"):
    refusal: str
    prompt_cache_breakpoint: Breakpoint | None = None


class ChatMessage(Strict):
    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[Json] | None = None
    tool_call_id: str | None = None
    audio: Json | None = None
    function_call: Json | None = None


class ChatSchema(Strict):
    name: str
    schema: Json
    description: str | None = None
    strict: bool | None = None


class FormatText(Strict, tag_field="type", tag="text"):
    pass


class FormatObject(Strict, tag_field="type", tag="json_object"):
    pass


class FormatSchema(Strict, tag_field="type", tag="json_schema"):
    json_schema: ChatSchema


class ChatStreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = True


class ChatCacheOptions(Strict):
    mode: Literal["implicit", "explicit"] = "implicit"
    ttl: Literal["30m"] = "30m"


class ChatBody(Strict):
    """POST /v1/chat/completions."""

    model: str
    messages: list[ChatMessage]
    audio: Json | None = None
    frequency_penalty: float | None = None
    function_call: str | Json | None = None
    functions: list[Json] | None = None
    logit_bias: Json | None = None
    logprobs: bool | None = None
    max_completion_tokens: Whole | None = None
    max_tokens: Whole | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    moderation: Json | None = None
    n: Whole | None = None
    parallel_tool_calls: bool | None = None
    prediction: Json | None = None
    presence_penalty: float | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: ChatCacheOptions | None = None
    prompt_cache_retention: Retention | None = None
    reasoning_effort: Effort | None = None
    response_format: FormatText | FormatObject | FormatSchema | None = None
    safety_identifier: str | None = None
    seed: int | None = None
    service_tier: Tier | None = None
    stop: str | list[str] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ChatStreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    tool_choice: str | Json | None = None
    tools: list[Json] | None = None
    top_logprobs: int | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    user: str | None = None
    verbosity: Verbosity | None = None
    web_search_options: Json | None = None


class InputText(Strict, tag_field="type", tag="input_text"):
    text: str
    prompt_cache_breakpoint: Breakpoint | None = None


class OutputText(Strict, tag_field="type", tag="output_text"):
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] | None = None


class InputMessage(Strict):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | OutputText]
    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class ResponsesFormatSchema(Strict, tag_field="type", tag="json_schema"):
    name: str
    schema: Json
    description: str | None = None
    strict: bool | None = None


class ResponsesText(Strict):
    format: FormatText | FormatObject | ResponsesFormatSchema | None = None
    verbosity: Verbosity | None = None


class ResponsesCacheOptions(Strict):
    mode: Literal["implicit", "explicit"] = "implicit"
    ttl: Literal["30m", "12h"] = "30m"
    prewarm: bool = False
    comparison_response_id: str | None = None


class ResponsesReasoning(Strict):
    effort: Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class ResponsesStreamOptions(Strict):
    include_obfuscation: bool = True


class ResponsesBody(Strict):
    """POST /v1/responses."""

    model: str
    input: str | list[InputMessage]
    access_programs: Json | None = None
    background: bool | None = None
    context_management: list[Json] | None = None
    conversation: str | Json | None = None
    image: Json | None = None
    include: list[str] | None = None
    instructions: str | None = None
    max_output_tokens: Whole | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    moderation: Json | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    prompt: Json | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: ResponsesCacheOptions | None = None
    prompt_cache_retention: Retention | None = None
    reasoning: ResponsesReasoning | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    text: ResponsesText | None = None
    tool_choice: str | Json | None = None
    tools: list[Json] | None = None
    top_logprobs: int | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None


class SearchFilters(Strict):
    allowed_domains: list[str] | None = None


class ResponsesSearchTool(Strict):
    """The hosted tool ``web_search``."""

    type: Literal["web_search", "web_search_2025_08_26"]
    external_web_access: bool | None = None
    filters: SearchFilters | None = None
    search_context_size: Literal["low", "medium", "high"] | None = None
    user_location: Json | None = None


# --- Anthropic --------------------------------------------------------------------------------------------


class CacheControl(Strict):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class TextBlock(Strict, tag_field="type", tag="text"):
    text: str
    cache_control: CacheControl | None = None
    citations: list[Json] | None = None


class ToolUseBlock(Strict, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: Json
    caller: Json | None = None
    cache_control: CacheControl | None = None


class ToolResultBlock(Strict, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[Json] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class ClaudeMessage(Strict):
    role: Literal["user", "assistant", "system"]
    content: str | list[TextBlock | ToolUseBlock | ToolResultBlock]


class ClaudeFormat(Strict, tag_field="type", tag="json_schema"):
    schema: Json


class OutputConfig(Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: ClaudeFormat | None = None


class ThinkingEnabled(Strict, tag_field="type", tag="enabled"):
    budget_tokens: Annotated[int, msgspec.Meta(ge=1024)]
    display: Literal["summarized", "omitted"] | None = None


class ThinkingAdaptive(Strict, tag_field="type", tag="adaptive"):
    display: Literal["summarized", "omitted"] | None = None


class ThinkingDisabled(Strict, tag_field="type", tag="disabled"):
    pass


class ThinkingBetween(Strict, tag_field="type", tag="between_tools"):
    pass


Thinking = ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | ThinkingBetween


class ClaudeSearchTool(Strict):
    """The server tool ``web_search``."""

    type: Literal["web_search_20250305"]
    name: Literal["web_search"]
    allowed_callers: list[str] | None = None
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None
    cache_control: CacheControl | None = None
    defer_loading: bool | None = None
    max_uses: Whole | None = None
    strict: bool | None = None
    user_location: Json | None = None


class CountBody(Strict, kw_only=True):
    """POST /v1/messages/count_tokens."""

    model: str
    messages: list[ClaudeMessage]
    cache_control: CacheControl | None = None
    output_config: OutputConfig | None = None
    speed: Literal["standard", "fast"] | None = None
    system: str | list[TextBlock] | None = None
    thinking: Thinking | None = None
    tool_choice: Json | None = None
    tools: list[Json] | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None


class MessagesBody(CountBody, kw_only=True):
    """POST /v1/messages."""

    max_tokens: Natural
    container: str | Json | None = None
    diagnostics: Json | None = None
    inference_geo: str | None = None
    metadata: Json | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None


class SamplingBody(MessagesBody, kw_only=True):
    """POST /v1/messages under anthropic-version 2023-06-01, on models that still sample as they are told."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Natural | None = None
