"""OpenAI responses: what a body means, the answer, the stream of typed events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import sse
from .bodies import FormatObject, InputMessage, InputText, OutputText, ResponsesBody, ResponsesFormatSchema, ResponsesSearchTool
from .catalog import ModelFacts
from .check import convert
from .openai_rules import check_caching, check_sampling, check_schema_prompt, identity, lifetime, served_tier, tool_name
from .refused import Dialect, Refused
from .schemas import check_openai
from .values import Block, Heard, Outcome, Usage

_ECHOED = ("instructions", "max_output_tokens", "prompt_cache_key", "prompt_cache_retention", "reasoning", "temperature", "text", "top_p")
_UNBUILT = ("background", "conversation", "prompt")


def hear(raw: dict[str, Any], facts: ModelFacts, _headers: Mapping[str, str]) -> Heard:
    """The request. Raises :class:`Refused` as OpenAI would."""
    body = convert(raw, ResponsesBody, "openai")
    messages = [InputMessage(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    _check(body, messages, facts)
    default = lifetime(facts, body.prompt_cache_options, body.prompt_cache_retention)
    blocks = [Block("tool", sse.wire(tool).decode()) for tool in body.tools or ()]
    if body.instructions:
        blocks.append(Block("instructions", body.instructions))
    blocks += [block for message in messages for block in _blocks(message, default)]
    systems = [body.instructions] if body.instructions else []
    form = body.text.format if body.text else None
    effort = body.reasoning.effort if body.reasoning else None
    options = body.prompt_cache_options
    return Heard(
        protocol="responses",
        facts=facts,
        body=raw,
        blocks=tuple(blocks),
        system="\n".join([*systems, *(_text(message) for message in messages if message.role in {"system", "developer"})]),
        turns=tuple((message.role, _text(message)) for message in messages if message.role not in {"system", "developer"}),
        identity=identity(raw, (raw.get("text") or {}).get("format"), effort, body.text.verbosity if body.text else None),
        cache_key=body.prompt_cache_key or "",
        cache_mode=options.mode if options else "",
        lifetime=default,
        schema=form.schema if isinstance(form, ResponsesFormatSchema) else None,
        json_mode=isinstance(form, FormatObject),
        limit=body.max_output_tokens,
        stream=bool(body.stream),
        prewarm=bool(options and options.prewarm),
        thinks=facts.reasoning and effort != "none",
        tool=tool_name(body.tools),
    )


def _check(body: ResponsesBody, messages: list[InputMessage], facts: ModelFacts) -> None:
    if body.previous_response_id:
        message = f"Previous response with id '{body.previous_response_id}' not found."
        raise Refused(400, message, param="previous_response_id", code="previous_response_not_found")
    for name in _UNBUILT:
        if getattr(body, name):
            raise Refused(400, f"This provider does not support '{name}'.", param=name, code="unsupported_parameter")
    if body.stream_options is not None and not body.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refused(400, message, param="stream_options")
    for tool in body.tools or ():
        if str(tool.get("type", "")).startswith("web_search"):
            convert(tool, ResponsesSearchTool, "openai")
    check_sampling(facts, temperature=body.temperature, top_p=body.top_p)
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    marked = any(part.prompt_cache_breakpoint for part in parts if isinstance(part, InputText))
    check_caching(facts, body.prompt_cache_options, body.prompt_cache_retention, marked=marked)
    form = body.text.format if body.text else None
    if isinstance(form, ResponsesFormatSchema):
        check_openai(form.name, form.schema, strict=bool(form.strict), field="text.format")
    if isinstance(form, FormatObject):
        check_schema_prompt("text.format", "input", [body.instructions or "", *(_text(message) for message in messages)])


def _blocks(message: InputMessage, lifetime: str) -> list[Block]:
    if isinstance(message.content, str):
        return [Block(message.role, message.content)]
    return [Block(message.role, part.text, _mark(part, lifetime)) for part in message.content]


def _mark(part: InputText | OutputText, lifetime: str) -> str:
    point = part.prompt_cache_breakpoint if isinstance(part, InputText) else None
    return (point.ttl or lifetime) if point else ""


def _text(message: InputMessage) -> str:
    return message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)


# --- the answer -------------------------------------------------------------------------------------------


def render(outcome: Outcome) -> dict[str, Any]:
    """The body of the answer."""
    item = _item(outcome)
    status, details = _status(outcome)
    said = {"status": status, "incomplete_details": details, "output": [*_search(outcome), *([item] if item else [])]}
    return {**_head(outcome), **said, "usage": usage(outcome.usage) if outcome.said.usage else None}


def events(outcome: Outcome) -> list[bytes]:
    """The stream: typed events, numbered from 0."""
    begun = {**_head(outcome), "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    sent: list[dict[str, Any]] = [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]
    item = _item(outcome)
    if item is not None:
        sent += _tool_events(outcome, item) if item["type"] == "function_call" else _text_events(outcome, item)
    whole = render(outcome)
    sent.append({"type": f"response.{whole['status']}", "response": whole})
    return [sse.named(event["type"], {**event, "sequence_number": number}) for number, event in enumerate(sent)]


def error_events(refused: Refused, dialect: Dialect, request_id: str) -> list[bytes]:
    """What an error looks like once the stream has begun."""
    error = refused.body(dialect, request_id)["error"]
    code = error["code"] or error["type"]
    return [sse.named("error", {"type": "error", "code": code, "message": error["message"], "param": error["param"], "sequence_number": 0})]


def _text_events(outcome: Outcome, item: dict[str, Any]) -> list[dict[str, Any]]:
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    part = item["content"][0]
    refusal = part["type"] == "refusal"
    kind, field = ("refusal", "refusal") if refusal else ("output_text", "text")
    logprobs: dict[str, Any] = {} if refusal else {"logprobs": []}
    empty = {**part, field: ""}
    sent: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress", "content": []}},
        {"type": "response.content_part.added", **at, "part": empty},
    ]
    deltas = [{"type": f"response.{kind}.delta", **at, "delta": piece, **logprobs} for piece in outcome.pieces]
    return [
        *sent,
        *deltas,
        {"type": f"response.{kind}.done", **at, field: part[field], **logprobs},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ]


def _tool_events(outcome: Outcome, item: dict[str, Any]) -> list[dict[str, Any]]:
    at = {"item_id": item["id"], "output_index": 0}
    deltas = [{"type": "response.function_call_arguments.delta", **at, "delta": piece} for piece in sse.pieces(item["arguments"], 12)]
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress", "arguments": ""}},
        *deltas,
        {"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"]},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ]


def _item(outcome: Outcome) -> dict[str, Any] | None:
    said = outcome.said
    if said.text is None or outcome.heard.prewarm:
        return None
    if said.stop == "tool":
        name = outcome.heard.tool or "ask"
        ids = {"id": f"fc_{outcome.number:024d}", "call_id": f"call_{outcome.number:024d}"}
        return {"type": "function_call", **ids, "name": name, "arguments": said.text, "status": "completed"}
    cited = [{"type": "url_citation", "url": url, "title": "A page", "start_index": 0, "end_index": 1} for url in said.cites or ()]
    part: dict[str, Any] = {"type": "output_text", "text": said.text, "annotations": cited, "logprobs": []}
    if said.stop == "refused":
        part = {"type": "refusal", "refusal": said.text}
    status = _status(outcome)[0]
    return {"id": f"msg_{outcome.number:024d}", "type": "message", "role": "assistant", "status": status, "content": [part]}


def _search(outcome: Outcome) -> list[dict[str, Any]]:
    """The item of a web search, where there was one."""
    if outcome.said.cites is None:
        return []
    action = {"type": "search", "query": outcome.heard.turns[-1][1][:40]}
    status = "failed" if outcome.said.search_error else "completed"
    return [{"type": "web_search_call", "id": f"ws_{outcome.number:024d}", "status": status, "action": action}]


def _status(outcome: Outcome) -> tuple[str, dict[str, str] | None]:
    reason = {"length": "max_output_tokens", "filtered": "content_filter"}.get(outcome.said.stop)
    return ("incomplete", {"reason": reason}) if reason else ("completed", None)


def _head(outcome: Outcome) -> dict[str, Any]:
    raw = outcome.heard.body
    options = raw.get("prompt_cache_options") or {}
    head: dict[str, Any] = {
        "id": f"resp_{outcome.number:024d}",
        "object": "response",
        "created_at": outcome.created,
        "error": None,
        "model": outcome.heard.facts.name,
        "parallel_tool_calls": True,
        "tool_choice": raw.get("tool_choice") or "auto",
        "tools": raw.get("tools") or [],
        "service_tier": served_tier(raw),
        "truncation": "disabled",
        "metadata": raw.get("metadata") or {},
    }
    head |= {name: raw.get(name) for name in _ECHOED}
    if outcome.heard.facts.caching == "breakpoints":
        head["prompt_cache_options"] = {"mode": options.get("mode", "implicit"), "ttl": options.get("ttl", "30m")}
    if options.get("comparison_response_id"):
        head["prompt_cache_diagnostics"] = {"type": "unavailable"}
    return head


def usage(used: Usage) -> dict[str, Any]:
    """Input includes what was read from the cache and what was written to it."""
    output = used.output + used.thinking
    details: dict[str, Any] = {"cached_tokens": used.cached, "cache_write_tokens": used.written_total}
    if used.written:
        details["cache_write_tokens_details"] = {
            "ttl_30m_tokens": used.written.get("30m", 0),
            "ttl_12h_tokens": used.written.get("12h", 0),
        }
    return {
        "input_tokens": used.input,
        "input_tokens_details": details,
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": used.thinking},
        "total_tokens": used.input + output,
    }
