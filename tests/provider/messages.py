"""Anthropic messages: what a body means, the answer, the stream, and the token count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from . import sse
from .bodies import (
    CacheControl,
    ClaudeMessage,
    ClaudeSearchTool,
    CountBody,
    MessagesBody,
    SamplingBody,
    TextBlock,
    ThinkingDisabled,
    ThinkingEnabled,
    ToolResultBlock,
    ToolUseBlock,
)
from .catalog import ModelFacts
from .check import convert
from .openai_rules import tool_name
from .refused import Dialect, Refused
from .schemas import check_anthropic
from .values import Block, Heard, Outcome, Usage

VERSIONS = ("2023-06-01", "2026-10-21")
_MOST_MARKS = 4
_Content = TextBlock | ToolUseBlock | ToolResultBlock


def hear(raw: dict[str, Any], facts: ModelFacts, headers: Mapping[str, str]) -> Heard:
    """The request. Raises :class:`Refused` as Anthropic would under the version that ``headers`` name."""
    early = headers["anthropic-version"] == VERSIONS[0]
    body: MessagesBody = convert(raw, SamplingBody if early else MessagesBody, "anthropic")
    _check(body, facts)
    if isinstance(body, SamplingBody) and not facts.sampling:
        _check_sampling(body)
    if not facts.prefill and body.messages[-1].role == "assistant":
        raise Refused(400, "This model does not support assistant message prefill. The conversation must end with a user message.")
    if isinstance(body.thinking, ThinkingEnabled) and body.thinking.budget_tokens >= body.max_tokens:
        raise Refused(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
    return _heard(raw, body, facts)


def count_heard(raw: dict[str, Any], facts: ModelFacts) -> Heard:
    """The request of a token count."""
    body = convert(raw, CountBody, "anthropic")
    _check(body, facts)
    return _heard(raw, body, facts)


def _heard(raw: dict[str, Any], body: CountBody, facts: ModelFacts) -> Heard:
    form = body.output_config.format if body.output_config else None
    messages = body if isinstance(body, MessagesBody) else None
    return Heard(
        protocol="messages",
        facts=facts,
        body=raw,
        blocks=tuple(_blocks(raw, body)),
        system="\n".join(block.text for block in _system(body)),
        turns=tuple((message.role, "".join(_text(block) for block in _content(message))) for message in body.messages),
        identity=(body.speed or "", sse.wire((raw.get("output_config") or {}).get("format")).decode()),
        schema=form.schema if form else None,
        limit=messages.max_tokens if messages else None,
        stops=tuple(messages.stop_sequences or ()) if messages else (),
        stream=bool(messages and messages.stream),
        prewarm=bool(messages and messages.max_tokens == 0),
        thinks=not isinstance(body.thinking, ThinkingDisabled),
        tool=tool_name(body.tools),
    )


def _check(body: CountBody, facts: ModelFacts) -> None:
    if not body.messages:
        raise Refused(400, "messages: at least one message is required")
    for place, message in enumerate(body.messages):
        content = _content(message)
        if not content or (isinstance(message.content, str) and not message.content):
            raise Refused(400, f"messages.{place}: {message.role} messages must have non-empty content")
        if any(isinstance(block, TextBlock) and not block.text for block in content):
            raise Refused(400, "messages: text content blocks must be non-empty")
    if any(not block.text for block in _system(body)) and isinstance(body.system, list):
        raise Refused(400, "system: text content blocks must be non-empty")
    _check_marks(_marks(body))
    for tool in body.tools or ():
        if str(tool.get("type", "")).startswith("web_search"):
            convert(tool, ClaudeSearchTool, "anthropic")
    if isinstance(body.thinking, ThinkingDisabled) and facts.always_thinks:
        raise Refused(400, "thinking.type: thinking can't be disabled on this model")
    forced = (body.tool_choice or {}).get("type") in {"any", "tool"}
    if forced and not facts.forced_tools:
        raise Refused(400, "tool_choice.type: forced tool use is not supported on this model")
    if body.output_config and body.output_config.format:
        check_anthropic(body.output_config.format.schema)


def _check_sampling(body: SamplingBody) -> None:
    for name, value in (("temperature", body.temperature), ("top_p", body.top_p), ("top_k", body.top_k)):
        if value is not None and not (name == "temperature" and value == 1):
            raise Refused(400, f"{name}: only the default value is supported on this model")


def _marks(body: CountBody) -> list[CacheControl]:
    tools = [convert(tool["cache_control"], CacheControl, "anthropic") for tool in body.tools or () if tool.get("cache_control")]
    blocks: list[_Content] = [*_system(body), *(block for message in body.messages for block in _content(message))]
    found = tools + [block.cache_control for block in blocks if block.cache_control]
    # The automatic one goes to the last block; where that is marked already there is nothing to add.
    return [*found, body.cache_control] if body.cache_control and not blocks[-1].cache_control else found


def _check_marks(marks: list[CacheControl]) -> None:
    if len(marks) > _MOST_MARKS:
        raise Refused(400, f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. Found {len(marks)}.")
    if "5m" in (ttls := [mark.ttl for mark in marks]) and "1h" in ttls[ttls.index("5m") :]:
        order = "Note that blocks are processed in the following order: `tools`, `system`, `messages`."
        raise Refused(400, f"cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. {order}")


def _blocks(raw: Mapping[str, Any], body: CountBody) -> Iterable[Block]:
    found = [Block("tool", sse.wire(tool).decode(), _tool_mark(tool)) for tool in body.tools or ()]
    found += [Block("system", block.text, _mark(block)) for block in _system(body)]
    # Thinking and tool choice are part of what the messages (not tools and system) are hashed with.
    found.append(Block(f"settings {sse.wire([raw.get('thinking'), raw.get('tool_choice')]).decode()}", ""))
    found += [Block(message.role, _text(block), _mark(block)) for message in body.messages for block in _content(message)]
    if body.cache_control:
        found[-1] = found[-1]._replace(mark=found[-1].mark or body.cache_control.ttl)
    return found


def _system(body: CountBody) -> list[TextBlock]:
    if isinstance(body.system, str):
        return [TextBlock(text=body.system)]
    return body.system or []


def _content(message: ClaudeMessage) -> list[_Content]:
    return [TextBlock(text=message.content)] if isinstance(message.content, str) else list(message.content)


def _text(block: _Content) -> str:
    if isinstance(block, TextBlock):
        return block.text
    if isinstance(block, ToolUseBlock):
        return sse.wire(block.input).decode()
    return block.content if isinstance(block.content, str) else sse.wire(block.content).decode()


def _tool_mark(tool: Mapping[str, Any]) -> str:
    control = tool.get("cache_control")
    return str(control.get("ttl", "5m")) if control else ""


def _mark(block: _Content) -> str:
    return block.cache_control.ttl if block.cache_control else ""


# --- the answer -------------------------------------------------------------------------------------------


def render(outcome: Outcome) -> dict[str, Any]:
    """The body of the answer."""
    body = {**_head(outcome), "content": _blocks_said(outcome), **_stop(outcome)}
    if outcome.said.usage:
        body["usage"] = usage(outcome.usage)
    return body


def events(outcome: Outcome) -> list[bytes]:
    """The stream; usage in ``message_delta`` is cumulative."""
    used = outcome.usage
    start = {**_head(outcome), "content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    if outcome.said.usage:
        start["usage"] = usage(used._replace(output=min(used.output, 1), thinking=0))
    sent: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for block in _blocks_said(outcome):
        tool = block["type"] == "tool_use"
        empty = {**block, "input": {}} if tool else {**block, "text": ""}
        sent += [{"type": "content_block_start", "index": 0, "content_block": empty}, {"type": "ping"}]
        if tool:
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in sse.pieces(outcome.said.text or "{}", 12)]
        else:
            deltas = [{"type": "text_delta", "text": piece} for piece in outcome.pieces]
        sent += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
        sent.append({"type": "content_block_stop", "index": 0})
    last: dict[str, Any] = {"type": "message_delta", "delta": _stop(outcome)}
    if outcome.said.usage:
        kept = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens", "output_tokens_details")
        last["usage"] = {name: value for name, value in usage(used).items() if name in kept}
    return [sse.named(event["type"], event) for event in [*sent, last, {"type": "message_stop"}]]


def error_events(refused: Refused, dialect: Dialect, request_id: str) -> list[bytes]:
    """What an error looks like once the stream has begun."""
    return [sse.named("error", refused.body(dialect, request_id))]


def usage(used: Usage) -> dict[str, Any]:
    """``input_tokens`` is only what was neither read from the cache nor written to it."""
    written = used.written_total
    return {
        "input_tokens": used.input - used.cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": used.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": used.written.get("5m", 0),
            "ephemeral_1h_input_tokens": used.written.get("1h", 0),
        },
        "output_tokens": used.output + used.thinking,
        "output_tokens_details": {"thinking_tokens": used.thinking},
        "service_tier": "standard",
    }


def _head(outcome: Outcome) -> dict[str, Any]:
    head: dict[str, Any] = {
        "id": f"msg_{outcome.number:024d}",
        "type": "message",
        "role": "assistant",
        "model": outcome.heard.facts.name,
    }
    if "diagnostics" in outcome.heard.body:
        head["diagnostics"] = {"cache_miss_reason": {"type": "unavailable"}}
    return head


def _blocks_said(outcome: Outcome) -> list[dict[str, Any]]:
    said = outcome.said
    if said.text is None or outcome.heard.prewarm:
        return []
    if said.stop == "tool":
        name = outcome.heard.tool or "ask"
        return [{"type": "tool_use", "id": f"toolu_{outcome.number:024d}", "name": name, "input": msgspec.json.decode(said.text)}]
    text = {"type": "text", "text": said.text}
    return [text] if said.cites is None else [*_search(outcome), text | {"citations": [_citation(url) for url in said.cites]}]


def _search(outcome: Outcome) -> list[dict[str, Any]]:
    """A search and what it found, after a few words of the model."""
    said, use = outcome.said, f"srvtoolu_{outcome.number:024d}"
    query = outcome.heard.turns[-1][1][:40]
    found: Any = [{"type": "web_search_result", "url": url, "title": "A page", "encrypted_content": "…"} for url in said.cites or ()]
    if said.search_error:
        found = {"type": "web_search_tool_result_error", "error_code": said.search_error}
    return [
        {"type": "text", "text": "I will look it up."},
        {"type": "server_tool_use", "id": use, "name": "web_search", "input": {"query": query}},
        {"type": "web_search_tool_result", "tool_use_id": use, "content": found},
    ]


def _citation(url: str) -> dict[str, Any]:
    return {"type": "web_search_result_location", "url": url, "title": "A page", "encrypted_index": "…", "cited_text": "words"}


def _stop(outcome: Outcome) -> dict[str, Any]:
    said = outcome.said
    reasons = {"end": "end_turn", "length": "max_tokens", "refused": "refusal", "filtered": "refusal", "tool": "tool_use"}
    reason = "stop_sequence" if said.stop == "end" and said.stop_sequence else reasons[said.stop]
    details = {"type": "refusal", "category": "general_harms", "explanation": None} if reason == "refusal" else None
    return {"stop_reason": reason, "stop_sequence": said.stop_sequence or None, "stop_details": details}
