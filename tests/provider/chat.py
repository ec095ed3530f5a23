"""OpenAI chat completions: what a body means, the answer, the stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import sse
from .bodies import ChatBody, ChatMessage, FormatObject, FormatSchema, RefusalPart, TextPart
from .catalog import ModelFacts
from .check import convert
from .openai_rules import check_caching, check_sampling, check_schema_prompt, identity, lifetime, served_tier, tool_name
from .refused import Dialect, Refused
from .schemas import check_openai
from .values import Block, Heard, Outcome, Usage

_FOREIGN_FIELDS = frozenset(
    {"model", "messages", "max_tokens", "temperature", "top_p", "stop", "stream", "stream_options", "response_format"}
)
_FOREIGN_MESSAGE_FIELDS = frozenset({"role", "content"})


def hear(raw: dict[str, Any], facts: ModelFacts, _headers: Mapping[str, str]) -> Heard:
    """The request. Raises :class:`Refused` as OpenAI would, or as a foreign server that knows only the oldest fields."""
    if facts.dialect == "foreign":
        _check_foreign(raw)
    body = convert(raw, ChatBody, facts.dialect)
    _check(body, facts)
    blocks = tuple(block for tool in body.tools or () for block in [Block("tool", sse.wire(tool).decode())])
    blocks += tuple(block for message in body.messages for block in _blocks(message))
    form = body.response_format
    options = body.stream_options
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return Heard(
        protocol="chat",
        facts=facts,
        body=raw,
        blocks=blocks,
        system="\n".join(_text(message) for message in body.messages if message.role in {"system", "developer"}),
        turns=tuple((message.role, _text(message)) for message in body.messages if message.role not in {"system", "developer"}),
        identity=identity(raw, raw.get("response_format"), body.reasoning_effort, body.verbosity),
        cache_key=body.prompt_cache_key or "",
        cache_mode=body.prompt_cache_options.mode if body.prompt_cache_options else "",
        lifetime=lifetime(facts, body.prompt_cache_options, body.prompt_cache_retention),
        schema=form.json_schema.schema if isinstance(form, FormatSchema) else None,
        json_mode=isinstance(form, FormatObject),
        limit=body.max_completion_tokens or body.max_tokens,
        stops=tuple(stops),
        stream=bool(body.stream),
        usage_in_stream=bool(options and options.include_usage),
        padded=facts.dialect == "openai" and (options is None or options.include_obfuscation),
        thinks=facts.reasoning and body.reasoning_effort != "none",
        tool=tool_name(body.tools),
    )


def _check_foreign(raw: Mapping[str, Any]) -> None:
    for name in raw:
        if name not in _FOREIGN_FIELDS:
            raise Refused(400, f"Extra inputs are not permitted: '{name}'", param=name)
    for place, message in enumerate(raw.get("messages") or ()):
        unknown = sorted(set(message) - _FOREIGN_MESSAGE_FIELDS) if isinstance(message, dict) else []
        if unknown:
            raise Refused(400, f"Extra inputs are not permitted: 'messages[{place}].{unknown[0]}'", param="messages")
        for part in message["content"] if isinstance(message, dict) and isinstance(message.get("content"), list) else ():
            if not isinstance(part, dict) or set(part) - {"type", "text"}:
                raise Refused(400, f"Extra inputs are not permitted in 'messages[{place}].content'", param="messages")


def _check(body: ChatBody, facts: ModelFacts) -> None:
    if not body.messages:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."
        raise Refused(400, message, param="messages", code="empty_array")
    if not facts.chat:
        message = "This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did you mean to use v1/responses?"
        raise Refused(404, message, param="model")
    if body.max_tokens is not None and facts.reasoning and facts.dialect == "openai":
        message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        raise Refused(400, message, param="max_tokens", code="unsupported_parameter")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise Refused(400, message, code="invalid_parameter_combination")
    if body.stream_options is not None and not body.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refused(400, message, param="stream_options")
    if body.n not in {None, 1}:
        raise Refused(400, "This provider answers with one choice.", param="n", code="invalid_value")
    _check_messages(body)
    check_sampling(facts, temperature=body.temperature, top_p=body.top_p)
    parts = [part for message in body.messages if isinstance(message.content, list) for part in message.content]
    check_caching(facts, body.prompt_cache_options, body.prompt_cache_retention, marked=any(part.prompt_cache_breakpoint for part in parts))
    _check_format(body)


def _check_messages(body: ChatBody) -> None:
    for place, message in enumerate(body.messages):
        if message.content is None and not (message.role == "assistant" and (message.tool_calls or message.refusal)):
            wanted = "expected a string or array of objects, but got null instead"
            raise Refused(400, f"Invalid value for 'content': {wanted}.", param=f"messages.[{place}].content")
        if message.content == []:
            raise Refused(400, f"Invalid 'messages[{place}].content': empty array.", param=f"messages[{place}].content", code="empty_array")


def _check_format(body: ChatBody) -> None:
    form = body.response_format
    if isinstance(form, FormatSchema):
        asked = form.json_schema
        check_openai(asked.name, asked.schema, strict=bool(asked.strict), field="response_format.json_schema")
    if isinstance(form, FormatObject):
        check_schema_prompt("response_format", "messages", (_text(message) for message in body.messages))


def _blocks(message: ChatMessage) -> list[Block]:
    kind = "tool-result" if message.role == "tool" else message.role
    if not isinstance(message.content, list):
        calls = sse.wire(message.tool_calls).decode() if message.tool_calls else ""
        return [Block(kind, (message.content or message.refusal or "") + calls)]
    return [Block(kind, _part_text(part), _mark(part)) for part in message.content]


def _mark(part: TextPart | RefusalPart) -> str:
    point = part.prompt_cache_breakpoint
    # Without its own lifetime a breakpoint takes the request's, which on chat completions is 30m.
    return (point.ttl or "30m") if point else ""


def _part_text(part: TextPart | RefusalPart) -> str:
    return part.text if isinstance(part, TextPart) else part.refusal


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, list):
        return "".join(_part_text(part) for part in message.content)
    return message.content or message.refusal or ""


# --- the answer -------------------------------------------------------------------------------------------


def render(outcome: Outcome) -> dict[str, Any]:
    """The body of the answer."""
    foreign = outcome.heard.facts.dialect == "foreign"
    message: dict[str, Any] = {"role": "assistant", "content": outcome.said.text}
    if not foreign:
        message |= {"refusal": None, "annotations": []}
    if outcome.said.stop == "refused":
        message |= {"content": None, "refusal": outcome.said.text}
    if outcome.said.stop == "tool":
        message |= {"content": None, "tool_calls": [_call(outcome)]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(outcome)}
    body = {**_head(outcome, "chat.completion"), "choices": [choice]}
    if outcome.said.usage:
        body["usage"] = usage(outcome.usage, foreign=foreign)
    return body


def events(outcome: Outcome) -> list[bytes]:
    """The stream: role, pieces, reason to stop, usage if it was asked for, ``[DONE]``."""
    head = _head(outcome, "chat.completion.chunk")
    wanted = outcome.heard.usage_in_stream and outcome.said.usage
    if wanted:
        head["usage"] = None
    foreign = outcome.heard.facts.dialect == "foreign"
    first = {"role": "assistant", "content": None if outcome.said.stop in {"refused", "tool"} else ""}
    deltas: list[dict[str, Any]] = [first if foreign else {**first, "refusal": None}]
    if outcome.said.stop == "tool":
        call = _call(outcome)
        arguments = call["function"]["arguments"]
        deltas.append({"tool_calls": [{"index": 0, **call, "function": {**call["function"], "arguments": ""}}]})
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in sse.pieces(arguments, 12)]
    else:
        field = "refusal" if outcome.said.stop == "refused" else "content"
        deltas += [{field: piece} for piece in outcome.pieces]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": _finish(outcome)})
    sent = [sse.data(_padded(outcome, {**head, "choices": [choice]})) for choice in choices]
    if wanted:
        sent.append(sse.data(_padded(outcome, {**head, "choices": [], "usage": usage(outcome.usage, foreign=foreign)})))
    return [*sent, sse.DONE]


def error_events(refused: Refused, dialect: Dialect, request_id: str) -> list[bytes]:
    """What an error looks like once the stream has begun."""
    return [sse.data(refused.body(dialect, request_id))]


def usage(used: Usage, *, foreign: bool = False) -> dict[str, Any]:
    """Input includes what was read from the cache and what was written to it."""
    output = used.output + used.thinking
    body: dict[str, Any] = {"prompt_tokens": used.input, "completion_tokens": output, "total_tokens": used.input + output}
    if foreign:
        return body
    body["prompt_tokens_details"] = {"cached_tokens": used.cached, "cache_write_tokens": used.written_total, "audio_tokens": 0}
    body["completion_tokens_details"] = {
        "reasoning_tokens": used.thinking,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    return body


def _head(outcome: Outcome, kind: str) -> dict[str, Any]:
    head: dict[str, Any] = {
        "id": f"chatcmpl-{outcome.number:024d}",
        "object": kind,
        "created": outcome.created,
        "model": outcome.heard.facts.name,
    }
    if outcome.heard.facts.dialect == "openai":
        head |= {"service_tier": served_tier(outcome.heard.body), "system_fingerprint": None}
    return head


def _padded(outcome: Outcome, chunk: dict[str, Any]) -> dict[str, Any]:
    """With filler that makes all chunks of a stream about the same size, as OpenAI sends it by default."""
    if not outcome.heard.padded:
        return chunk
    texts = [choice["delta"].get("content") or "" for choice in chunk["choices"]]
    return {**chunk, "obfuscation": "x" * max(0, 16 - len("".join(texts)))}


def _finish(outcome: Outcome) -> str:
    return {"end": "stop", "length": "length", "refused": "stop", "filtered": "content_filter", "tool": "tool_calls"}[outcome.said.stop]


def _call(outcome: Outcome) -> dict[str, Any]:
    function = {"name": outcome.heard.tool or "ask", "arguments": outcome.said.text or "{}"}
    return {"id": f"call_{outcome.number:024d}", "type": "function", "function": function}
