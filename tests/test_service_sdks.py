"""The official SDKs as developers use them beyond a plain call: every parameter, typed answers, helpers, histories, errors."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent
from anthropic.types.beta import BetaModelInfo
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from promptsmith.prompt import Serve
from promptsmith.service.keys import KeyFile

from .provider import Fault, Provider
from .serving import ANTHROPIC, LETTER, OPENAI, ORDER, SECONDS, SENTIMENT, Say, World, made, project_at, serving, settings_of, world
from .test_service_truth import fresh

RESPONSES = "answers/gpt-4.1-mini"
SAY = {"say": OPENAI, "say-a": ANTHROPIC, "say-r": RESPONSES, "say-f": "foreign/llama-9"}
ORDERS = {"order": OPENAI, "order-a": ANTHROPIC, "order-r": RESPONSES}
LABELS = {"label": OPENAI, "label-a": ANTHROPIC, "label-r": RESPONSES, "nearest": "builtin/nearest"}
TASKS = (*SAY, "cached", "nearest", "think", "think-r", "think-a")
"""A model behind each API, another provider's, an answer that is kept, one that comes from no provider, and some that reason."""
TEXT = "It broke after a day."


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    prompts = [
        *itertools.starmap(made, SAY.items()),
        *(made(task, model, ORDER) for task, model in ORDERS.items()),
        *(made(task, model, SENTIMENT) for task, model in LABELS.items()),
        made("cached", serve=Serve(cache=True)),
        made("think", "openai/gpt-5.2"),
        made("think-r", "answers/gpt-5.2"),
        made("think-a", "anthropic/claude-sonnet-5"),
        made("letter", inputs=LETTER),
        made("canned", "canned/gpt-4.1-mini"),
        made("hasty", "hasty/gpt-4.1"),
    ]
    with world(tmp_path_factory.mktemp("sdks") / "project", *prompts) as found:
        yield found
        assert not found.service.trouble()


def user(text: str = TEXT) -> Any:
    return [{"role": "user", "content": text}]


# --- every parameter --------------------------------------------------------------------------------------

_FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
CHAT: Mapping[str, Any] = {
    "audio": {"format": "wav", "voice": "alloy"}, "frequency_penalty": 0.51, "function_call": "auto", "functions": [_FUNCTION],
    "logit_bias": {"50": 1}, "logprobs": True, "max_completion_tokens": 21, "max_tokens": 22, "metadata": {"trace": "b"},
    "modalities": ["text", "audio"], "moderation": {"model": "omni-moderation-latest"}, "n": 2, "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"}, "presence_penalty": 0.52, "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"}, "prompt_cache_retention": "24h", "reasoning_effort": "low",
    "response_format": {"type": "json_object"}, "safety_identifier": "me", "seed": 33, "service_tier": "flex", "stop": "</x>",
    "store": True, "stream_options": {"include_usage": True, "include_obfuscation": False}, "temperature": 0.53, "tool_choice": "auto",
    "tools": [{"type": "function", "function": _FUNCTION}], "top_logprobs": 2, "top_p": 0.54, "user": "me", "verbosity": "low",
    "web_search_options": {},
}  # fmt: skip
RESPONSE: Mapping[str, Any] = {
    "access_programs": {"cyber": "standard"}, "background": True, "background_options": {"a": 1},
    "context_management": [{"type": "compaction"}], "conversation": "conv_1", "image": {"context_compression": "enabled"},
    "include": ["message.output_text.logprobs"], "instructions": "Be kind.", "max_output_tokens": 21, "max_tool_calls": 2,
    "metadata": {"trace": "b"}, "moderation": {"model": "omni-moderation-latest"}, "parallel_tool_calls": False,
    "previous_response_id": "resp_1", "prompt": {"id": "pmpt_1"}, "prompt_cache_key": "k", "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h", "reasoning": {"effort": "low", "summary": "auto"}, "safety_identifier": "me",
    "service_tier": "flex", "store": True, "stream_options": {"include_obfuscation": False}, "temperature": 0.53,
    "text": {"verbosity": "low"}, "tool_choice": "auto", "tools": [{"type": "function", **_FUNCTION}], "top_logprobs": 2,
    "top_p": 0.54, "truncation": "auto", "user": "me",
}  # fmt: skip
MESSAGE: Mapping[str, Any] = {
    "billing_policy": {"a": 1}, "cache_control": {"type": "ephemeral"}, "compaction": {"type": "x"}, "container": "c",
    "context_management": {"edits": []}, "diagnostics": {"prompt_cache": True}, "fallback_credit_token": "x",
    "fallbacks": [{"model": "y"}], "inference_geo": "us", "mcp_servers": [{"type": "url", "url": "http://x", "name": "n"}],
    "metadata": {"user_id": "me"}, "output_config": {"effort": "low", "task_budget": {"type": "tokens", "total": 9}},
    "service_tier": "standard_only", "speed": "fast", "stop_sequences": ["</x>"], "system": "Be kind.",
    "thinking": {"type": "enabled", "budget_tokens": 1024}, "thread": {"id": "x"}, "tool_choice": {"type": "auto"},
    "tools": [{"name": "f", "input_schema": {"type": "object"}}], "betas": ["a-beta-2026"], "user_profile_id": "up_1",
    "workspace_id": "ws_1",
}  # fmt: skip
ALWAYS = {"messages", "model", "input", "max_tokens", "stream", "timeout", "extra_headers", "extra_query", "extra_body"}
ANSWERED = {"user", "safety_identifier", "function_call", "tool_choice", "metadata", "stream_options"}
"""What is done without the model, or asks for nothing: who calls decides on canaries, and no tools are the default."""
OTHERWISE = {
    "betas": "anthropic-beta", "user_profile_id": "anthropic-user-profile-id", "workspace_id": "anthropic-workspace-id",
    "reasoning_effort": "effort", "stop_sequences": "stop", "reasoning": "effort", "output_config": "effort", "text": "verbosity",
    "instructions": "system message", "system": "system message", "response_format": "response format",
    "max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens",
}  # fmt: skip
"""Where a parameter goes in a header, and what it is called in a refusal."""
LEFT = ("reasoning.summary", "thinking.budget_tokens", "output_config.task_budget", "metadata.trace", "stream_options.include_obfuscation")
"""Parts of a parameter's value that go nowhere while the rest of it is done."""
SENT = {
    "frequency_penalty": 0.51, "presence_penalty": 0.52, "temperature": 0.53, "top_p": 0.54, "max_completion_tokens": 21,
    "max_output_tokens": 21, "max_tokens": 22, "seed": 33, "stop": "</x>", "stop_sequences": "</x>",
    "service_tier": ("flex", "standard_only"), "reasoning_effort": "low", "reasoning": "low", "output_config": "low", "text": "low",
    "verbosity": "low", "inference_geo": "us", "speed": "fast", "store": True, "thinking": "adaptive",
}  # fmt: skip
"""What the provider is sent of a parameter."""


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def what_became(at: World, name: str, call: Callable[..., Any], value: Any, *, stream: bool) -> str:
    """What a call with one more parameter came to; empty where that parameter was dropped without a word."""
    at.provider.records.clear()
    at.foreign.records.clear()
    try:
        raw = call(stream=stream, **{name: value})
        if stream:
            list(raw.parse())
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        assert error.status_code == 400, error
        named = OTHERWISE.get(name, name)
        return "refused" if named in str(error) or name in str(error) else f"a refusal that names no field: {error}"
    ignored = raw.headers.get("x-promptsmith-ignored", "").split(", ")
    if {name, OTHERWISE.get(name)} & set(ignored):
        return "named"
    parts = [part for part in LEFT if part.partition(".")[0] == name and part.partition(".")[2] in value]
    if not set(parts) <= set(ignored):
        return ""
    if name in ANSWERED:
        return "done"
    wanted = SENT[name] if isinstance(SENT[name], tuple) else (SENT[name],)
    sent = [leaf for one in (at.provider, at.foreign) for record in one.records.all() for leaf in leaves(record.json)]
    return "sent" if any(item in sent for item in wanted) else ""


def check_all(at: World, values: Mapping[str, Any], method: Callable[..., Any], said: Callable[[str], dict[str, Any]]) -> None:
    dropped = []
    for (name, value), task, stream in itertools.product(values.items(), TASKS, (False, True)):
        # No two requests alike, as one of the tasks keeps its answers.
        call = functools.partial(method, model=task, **said(fresh()))
        became = what_became(at, name, call, value, stream=stream)
        if became not in {"refused", "named", "sent", "done"}:
            dropped.append(f"{name} of {task}, stream={stream}: {became or 'dropped silently'}")
    assert not dropped, "\n".join(dropped)


def parameters(method: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(method).parameters) - ALWAYS


def test_every_parameter_of_a_chat_completion_is_done_refused_or_named(at: World, ours: openai.OpenAI) -> None:
    assert set(CHAT) - ALWAYS == parameters(ours.chat.completions.create)
    check_all(at, CHAT, ours.chat.completions.with_raw_response.create, lambda text: {"messages": user(text)})


def test_every_parameter_of_a_response_is_done_refused_or_named(at: World, ours: openai.OpenAI) -> None:
    assert set(RESPONSE) == parameters(ours.responses.create)
    check_all(at, RESPONSE, ours.responses.with_raw_response.create, lambda text: {"input": text})


def test_every_parameter_of_a_message_is_done_refused_or_named(at: World, theirs: anthropic.Anthropic) -> None:
    assert set(MESSAGE) == parameters(theirs.beta.messages.create) | parameters(theirs.messages.create)
    check_all(at, MESSAGE, theirs.beta.messages.with_raw_response.create, lambda text: {"max_tokens": 2000, "messages": user(text)})


def test_a_parameter_of_the_other_provider_is_not_taken_for_a_misspelt_one(theirs: anthropic.Anthropic) -> None:
    """`speed` and `top_k` are right where they come from; "did you mean 'seed'?" sends people the wrong way."""
    for more in ({"speed": "fast"}, {"extra_body": {"top_k": 5}}):
        with pytest.raises(anthropic.BadRequestError) as caught:
            theirs.messages.create(model="say", max_tokens=64, messages=user(), **more)  # type: ignore[call-overload]
        assert "did you mean" not in str(caught.value)


def test_values_that_ask_for_nothing_are_passed_over(at: World, ours: openai.OpenAI, theirs: anthropic.Anthropic) -> None:
    """As libraries on top of the SDKs send them by themselves, whatever model the prompt is for."""
    nothing: dict[str, Any] = {
        "n": 1, "temperature": 1.0, "top_p": 1, "presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "logprobs": False,
        "tools": [], "tool_choice": "none", "functions": [], "stop": [], "response_format": {"type": "text"}, "store": False, "seed": None,
        "parallel_tool_calls": True, "verbosity": "medium", "service_tier": "auto", "modalities": [],
    }  # fmt: skip
    for task in ("say", "say-a", "say-r", "think", "think-a", "think-r", "nearest"):
        said = ours.chat.completions.create(model=task, messages=user("Hi"), **nothing).choices[0].message.content
        assert said == ("positive" if task == "nearest" else "You said: Hi")
    # Who does not reason by itself does not have to be told not to.
    disabled: Any = {"type": "disabled"}
    for task in ("say", "say-r"):
        for effort in ({"reasoning_effort": "none"}, {"extra_body": {"reasoning_effort": "none"}}):
            assert ours.chat.completions.create(model=task, messages=user("Hi"), **effort).choices[0].message.content == "You said: Hi"
        assert ours.responses.create(model=task, input="Hi", reasoning={"effort": "none"}).output_text == "You said: Hi"
        theirs.messages.create(model=task, max_tokens=64, messages=user(), thinking=disabled)
    for record in at.provider.records.all():
        assert not {"thinking", "effort", "reasoning_effort", "reasoning"} & set(record.json) or record.model.startswith("gpt-5"), (
            record.json
        )
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        theirs.messages.create(model="think", max_tokens=64, messages=user(), thinking=disabled)
    with pytest.raises(openai.BadRequestError, match="no effort 'none'"):
        ours.chat.completions.create(model="think-a", messages=user(), reasoning_effort="none")


def test_reasoning_to_be_kept_by_the_client_is_not_there_and_that_is_told(ours: openai.OpenAI) -> None:
    for task in ("think", "think-r", "think-a"):
        raw = ours.responses.with_raw_response.create(model=task, input=TEXT, include=["reasoning.encrypted_content"])
        assert raw.headers["x-promptsmith-ignored"] == "include"
        assert raw.parse().output_text == f"You said: {TEXT}"


def test_marks_in_the_clients_own_blocks_go_nowhere_and_are_named(ours: openai.OpenAI, theirs: anthropic.Anthropic) -> None:
    mark = {"type": "ephemeral"}
    blocks: Any = [{"type": "text", "text": "one ", "cache_control": mark}, {"type": "text", "text": "two"}]
    for task in ("say", "say-a"):
        found = theirs.messages.with_raw_response.create(model=task, max_tokens=64, messages=user(blocks))
        assert [block.text for block in found.parse().content if block.type == "text"] == ["You said: one two"]
        assert found.headers["x-promptsmith-ignored"] == "messages.content.cache_control"
        named: Any = [{"role": "user", "name": "Ann", "content": [{"type": "text", "text": "one"}]}]
        assert (
            ours.chat.completions.with_raw_response.create(model=task, messages=named).headers["x-promptsmith-ignored"] == "messages.name"
        )


def test_a_schema_in_whose_place_the_contract_stands_is_named(ours: openai.OpenAI, theirs: anthropic.Anthropic) -> None:
    """serve.md: it is "replaced by the contract where it is JSON"."""
    schema = {"type": "object", "properties": {"other": {"type": "string"}}, "required": ["other"], "additionalProperties": False}
    form: Any = {"type": "json_schema", "json_schema": {"name": "other", "schema": schema}}
    text: Any = {"format": {"type": "json_schema", "name": "other", "schema": schema}}
    for task in ORDERS:
        chat = ours.chat.completions.with_raw_response.create(model=task, messages=user(), response_format=form)
        response = ours.responses.with_raw_response.create(model=task, input=TEXT, text=text)
        config: Any = {"format": {"type": "json_schema", "schema": schema}}
        message = theirs.messages.with_raw_response.create(model=task, max_tokens=64, messages=user(), output_config=config)
        told = [one.headers["x-promptsmith-ignored"] for one in (chat, response, message)]
        assert told == ["response_format", "text.format", "output_config.format"]


# --- typed answers ----------------------------------------------------------------------------------------

WHOLE: Mapping[str, tuple[Any, Any, str]] = {
    "chat": (TypeAdapter(ChatCompletion), TypeAdapter(ChatCompletionChunk), "chatcmpl-"),
    "responses": (TypeAdapter(Response), TypeAdapter(ResponseStreamEvent), "resp_"),
    "messages": (TypeAdapter(Message), TypeAdapter(RawMessageStreamEvent), "msg_"),
}


@pytest.mark.parametrize("api", WHOLE)
def test_answers_are_what_the_sdks_types_say_and_have_ids_of_their_kind(at: World, api: str) -> None:
    whole, event, prefix = WHOLE[api]
    for task in (*TASKS, *ORDERS, *LABELS):
        asked: Callable[..., Any] = getattr(at.service, api)
        answer = asked(task, TEXT)
        found = whole.validate_json(answer.body, strict=True)
        assert found.id.startswith(prefix), (task, found.id)
        events = [one for one in asked(task, TEXT, stream=True).data if one != "[DONE]" and one.get("type") != "ping"]
        read = [event.validate_json(json.dumps(one), strict=True) for one in events]
        ids = {getattr(getattr(one, "response", None) or getattr(one, "message", None) or one, "id", None) for one in read} - {None}
        assert len(ids) == 1
        assert str(ids.pop()).startswith(prefix)


def test_models_are_what_both_sdks_types_say(at: World) -> None:
    """`client.models.retrieve(…).lifecycle` is a required field of Anthropic's, and none of its values is null."""
    for path in ("/v1/models/say", "/v1/models/say@production"):
        body = at.service.call("GET", path).body
        for kind in (Model, ModelInfo, BetaModelInfo):
            TypeAdapter(kind).validate_json(body, strict=True)
    for row in at.service.call("GET", "/v1/models").json["data"]:
        TypeAdapter(ModelInfo).validate_json(json.dumps(row), strict=True)


class Order(BaseModel):
    sku: str
    count: int


@pytest.mark.parametrize("task", ORDERS)
def test_the_helpers_parse_orders_whole_and_streamed(ours: openai.OpenAI, theirs: anthropic.Anthropic, task: str) -> None:
    order = Order(sku="A1", count=2)
    assert ours.chat.completions.parse(model=task, messages=user(), response_format=Order).choices[0].message.parsed == order
    with ours.chat.completions.stream(model=task, messages=user(), response_format=Order, stream_options={"include_usage": True}) as chat:
        assert {"content.delta", "content.done"} <= {event.type for event in chat}
        completion = chat.get_final_completion()
        assert (completion.choices[0].message.parsed, completion.choices[0].finish_reason) == (order, "stop")
        assert completion.usage is not None
        assert completion.usage.prompt_tokens > 0
    assert ours.responses.parse(model=task, input=TEXT, text_format=Order).output_parsed == order
    with ours.responses.stream(model=task, input=TEXT, text_format=Order) as response:
        assert "response.completed" in {event.type for event in response}
        assert response.get_final_response().output_parsed == order
    whole = theirs.messages.parse(model=task, max_tokens=64, messages=user(), output_format=Order)
    assert whole.parsed_output == order
    assert theirs.beta.messages.parse(model=task, max_tokens=64, messages=user(), output_format=Order).parsed_output == order
    with theirs.messages.stream(model=task, max_tokens=64, messages=user(), output_format=Order) as message:
        final = message.get_final_message()
        assert (final.parsed_output, final.stop_reason) == (order, "end_turn")
        assert (final.usage.input_tokens, final.usage.output_tokens) == (whole.usage.input_tokens, whole.usage.output_tokens)


@pytest.mark.parametrize("task", [*ORDERS, "label", "label-a", "nearest", "say", "say-a", "say-f"])
def test_a_response_tells_what_form_its_text_has(ours: openai.OpenAI, task: str) -> None:
    """Libraries parse a text by `text.format`, which OpenAI's own responses repeat, and take no other for JSON."""
    whole = ours.responses.create(model=task, input=TEXT)
    with ours.responses.stream(model=task, input=TEXT) as stream:
        answers = [event.response for event in stream if event.type in {"response.created", "response.completed"}]
    for response in (whole, *answers):
        assert response.text is not None
        told = response.text.format
        assert told is not None
        if task in ORDERS:
            assert told.type == "json_schema"
            assert told.schema_ == json.loads(ORDER.schema)
        else:
            assert told.type == "text"


def test_who_asks_for_typed_answers_by_a_tool_is_told_the_other_way(ours: openai.OpenAI, theirs: anthropic.Anthropic) -> None:
    """Libraries ask by a tool first, and by a response format when they are told to."""
    tool: Any = {"name": "Order", "input_schema": Order.model_json_schema()}
    function: Any = {"type": "function", "function": {"name": "Order", "parameters": tool["input_schema"]}}
    for task in ORDERS:
        with pytest.raises(openai.BadRequestError, match=r"does not do tools, tool_choice.*without a tool.*by a response format"):
            ours.chat.completions.create(model=task, messages=user(), tools=[function], tool_choice="required")
        with pytest.raises(anthropic.BadRequestError, match=r"does not do tools, tool_choice.*without a tool.*by a response format"):
            theirs.messages.create(model=task, max_tokens=64, messages=user(), tools=[tool], tool_choice={"type": "tool", "name": "Order"})
    with pytest.raises(openai.BadRequestError, match="it answers a text"):
        ours.chat.completions.create(model="say", messages=user(), tools=[function])


def test_raw_and_streaming_responses_tell_the_service_s_headers_and_one_id(ours: openai.OpenAI, theirs: anthropic.Anthropic) -> None:
    for task in ("say", "say-a", "nearest"):
        chat = ours.chat.completions.with_raw_response.create(model=task, messages=user())
        assert chat.parse()._request_id == chat.request_id == chat.headers["x-request-id"]
        message = theirs.messages.with_raw_response.create(model=task, max_tokens=64, messages=user())
        assert message.parse()._request_id == message.request_id == message.headers["request-id"]
        with ours.responses.with_streaming_response.create(model=task, input=TEXT, stream=True) as response:
            assert response.headers["x-promptsmith-task"] == task
            assert sum(line.startswith("event: response.") for line in response.iter_lines()) >= 8
        assert chat.headers["x-promptsmith-model"] == message.headers["x-promptsmith-model"] != ""


def test_counting_tokens_tells_what_it_is_of_and_what_it_left_out(theirs: anthropic.Anthropic) -> None:
    raw = theirs.messages.with_raw_response.count_tokens(model="say-a", messages=user(), cache_control={"type": "ephemeral"})
    assert isinstance(raw.parse(), MessageTokensCount)
    assert (raw.headers["x-promptsmith-model"], raw.headers["x-promptsmith-ignored"]) == (ANTHROPIC, "cache_control")
    assert theirs.beta.messages.count_tokens(model="say-a", messages=user()).input_tokens == raw.parse().input_tokens


# --- histories and inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [*SAY, "cached"])
def test_what_the_sdks_gave_is_a_turn_of_the_next_call(at: World, ours: openai.OpenAI, theirs: anthropic.Anthropic, task: str) -> None:
    """As the SDKs' own documents have it: the answer's object, or its dump, among the messages; reasoning among them."""
    first = ours.chat.completions.create(model=task, messages=user("one")).choices[0].message
    for given in (first, first.model_dump()):
        turns: Any = [*user("one"), given, *user("two")]
        assert ours.chat.completions.create(model=task, messages=turns).choices[0].message.content == "You said: two"
    answered = ours.responses.create(model=task, input="one").output
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"}
    for items in (answered, [one.model_dump() for one in answered], [thought, *answered]):
        given_items: Any = [*user("one"), *items, *user("two")]
        assert ours.responses.create(model=task, input=given_items).output_text == "You said: two"
    message = theirs.messages.create(model=task, max_tokens=64, messages=user("one"))
    thinking = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "redacted_thinking", "data": "x"}]
    for content in (message.content, [*thinking, *message.content]):
        replied: Any = [*user("one"), {"role": "assistant", "content": content}, *user("two")]
        raw = theirs.messages.with_raw_response.create(model=task, max_tokens=64, messages=replied)
        assert [block.text for block in raw.parse().content if block.type == "text"] == ["You said: two"]
    assert raw.headers["x-promptsmith-ignored"] == "messages.content.redacted_thinking, messages.content.thinking"
    for one in (at.foreign if task == "say-f" else at.provider).records.all():
        sent = [turn for turn in one.json.get("messages") or one.json["input"] if turn["role"] in {"user", "assistant"}]
        assert [turn["content"] for turn in sent] in (["one"], ["one", "You said: one", "two"])


def test_named_inputs_come_by_every_way_of_both_sdks(ours: openai.OpenAI, theirs: anthropic.Anthropic) -> None:
    variables = {"prompt_variables": {"letter": "Dear", "tone": "rude"}}
    answers = [
        ours.chat.completions.create(model="letter", messages=user(""), extra_body=variables).choices[0].message.content,
        ours.responses.create(model="letter", input="", extra_body=variables).output_text,
        ours.responses.create(model="letter", input="", metadata=variables["prompt_variables"]).output_text,
        ours.chat.completions.create(model="letter", messages=user(json.dumps(variables["prompt_variables"]))).choices[0].message.content,
        ours.chat.completions.create(model="letter", messages=user("Dear"), metadata={"tone": "rude"}).choices[0].message.content,
        theirs.messages.create(model="letter", max_tokens=64, messages=user(" "), extra_body=variables).content[0].text,  # type: ignore[union-attr]
    ]
    assert len(set(answers)) == 1
    raw = ours.chat.completions.with_raw_response.create(model="letter", messages=user("Dear"), metadata={"tone": "rude", "trace": "7"})
    assert raw.headers["x-promptsmith-ignored"] == "metadata.trace"
    with pytest.raises(openai.BadRequestError, match="did you mean 'letter'"):
        ours.chat.completions.create(model="letter", messages=user(""), extra_body={"prompt_variables": {"lettr": "Dear"}})


# --- errors -----------------------------------------------------------------------------------------------


def test_anthropics_client_hears_every_error_in_its_own_form(theirs: anthropic.Anthropic) -> None:
    """`error.type` and `error.error_code` are read from the body, which was OpenAI's wherever the path was not Anthropic's alone."""
    calls: list[Callable[[], object]] = [
        lambda: theirs.models.retrieve("sya"),
        lambda: theirs.beta.models.retrieve("sya"),
        lambda: theirs.messages.create(model="sya", max_tokens=9, messages=user()),
        lambda: theirs.messages.count_tokens(model="sya", messages=user()),
        theirs.messages.batches.list,
        lambda: theirs.messages.batches.create(requests=[]),
    ]
    for call in calls:
        with pytest.raises(anthropic.NotFoundError) as caught:
            call()
        assert (caught.value.type, caught.value.error_code) in {("not_found_error", code) for code in ("model_not_found", "not_found")}
        assert caught.value.request_id


def test_openais_client_hears_every_error_in_its_own_form(ours: openai.OpenAI) -> None:
    calls: list[Callable[[], object]] = [
        lambda: ours.models.retrieve("sya"),
        lambda: ours.responses.retrieve("resp_1"),
        lambda: ours.embeddings.create(model="say", input="x"),
        lambda: ours.chat.completions.create(model="sya", messages=user(), extra_headers={"anthropic-version": "2023-06-01"}),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert (caught.value.type, caught.value.code) in {("invalid_request_error", code) for code in ("model_not_found", "not_found")}


@pytest.mark.parametrize("stream", [False, True])
def test_the_providers_own_word_for_an_error_is_the_clients(
    at: World, ours: openai.OpenAI, theirs: anthropic.Anthropic, stream: bool
) -> None:
    """Programs branch on it; the figures have our own, which does not change with the provider."""
    long = {"message": "too long", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}
    at.canned.says[:] = [Say([json.dumps({"error": long}).encode()], status=400)]
    with pytest.raises(openai.BadRequestError, match="messages: too long") as caught:
        ours.chat.completions.create(model="canned", messages=user(), stream=stream)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(anthropic.BadRequestError) as translated:
        theirs.messages.create(model="canned", max_tokens=9, messages=user(), stream=stream)
    assert translated.value.error_code == "context_length_exceeded"
    figures = at.service.call("GET", "/metrics").body
    assert b"provider_refused" in figures and b"context_length_exceeded" not in figures
    at.canned.says[:] = [Say([json.dumps({"error": {**long, "code": "{spoilt}\r\nx: y"}}).encode()], status=400)]
    with pytest.raises(openai.BadRequestError) as spoilt:
        ours.chat.completions.create(model="canned", messages=user(), stream=stream)
    assert spoilt.value.code == "provider_refused"


@pytest.mark.parametrize("stream", [False, True])
def test_the_attempts_of_client_and_service_do_not_multiply(at: World, stream: bool) -> None:
    """A client that repeats by itself repeats what the service has not, and waits as long as a provider asks to."""
    with openai.OpenAI(api_key="anything", base_url=at.service.base, timeout=SECONDS) as ours:
        at.provider.faults.every(Fault("status", status=503))
        with pytest.raises(openai.InternalServerError) as caught:
            ours.chat.completions.create(model="hasty", messages=user(), stream=stream)
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert 1 < len(at.provider.records) <= 6
        at.provider.records.clear()
        at.provider.faults.every(Fault("status", status=503, retry_after="3"))
        with pytest.raises(openai.InternalServerError) as asked:
            ours.with_options(max_retries=1).chat.completions.create(model="hasty", messages=user(), stream=stream)
        assert asked.value.response.headers["x-should-retry"] == "true"
        assert len(at.provider.records) == 2


def test_both_clients_raise_what_a_keys_limits_come_to(at: World) -> None:
    with Provider() as provider:
        project = project_at(at.project.root.parent / "keyed", settings_of(provider), made("say"), made("other"))
        keys = KeyFile(project.root / "promptsmith.keys")
        _, once = keys.add("once", tasks=("say",), rpm=1)
        _, reads = keys.add("reads", scopes=("read",))
        with serving(project) as service:

            def asked(secret: str, model: str) -> list[type[Exception]]:
                kinds: list[type[Exception]] = []
                for path in ("chat", "responses", "messages"):
                    try:
                        if path == "messages":
                            with anthropic.Anthropic(auth_token=secret, api_key=None, base_url=service.url, max_retries=0) as theirs:
                                theirs.messages.create(model=model, max_tokens=9, messages=user())
                        else:
                            with openai.OpenAI(api_key=secret, base_url=service.base, max_retries=0) as ours:
                                if path == "chat":
                                    ours.chat.completions.create(model=model, messages=user())
                                else:
                                    ours.responses.create(model=model, input=TEXT)
                    except (openai.APIStatusError, anthropic.APIStatusError) as error:
                        kinds.append(type(error))
                        if error.status_code == 429:
                            assert int(error.response.headers["retry-after"]) >= 1
                return kinds

            assert asked(once, "say") == [openai.RateLimitError, anthropic.RateLimitError]
            assert asked(reads, "say") == [openai.PermissionDeniedError] * 2 + [anthropic.PermissionDeniedError]
            assert asked("ps_wrong", "say") == [openai.AuthenticationError] * 2 + [anthropic.AuthenticationError]


@pytest.mark.parametrize("broken", ["reset", "contract"])
def test_the_streaming_helpers_raise_what_the_service_tells_over_a_broken_stream(
    at: World, ours: openai.OpenAI, theirs: anthropic.Anthropic, broken: str
) -> None:
    """`responses.stream` checks that all events are of one response: "Lifecycle response identity changed." hid what had happened."""
    at.provider.answer = lambda _: "It depends on what you want to hear, and on more than that. " * 3
    if broken == "reset":
        at.provider.faults.every(Fault("reset", at=7))
    words = "broke .*off" if broken == "reset" else "breaks the contract"
    for task in ("label", "label-a", "label-r"):
        with pytest.raises(openai.APIError, match=words), ours.chat.completions.stream(model=task, messages=user()) as chat:
            list(chat)
        with pytest.raises(openai.APIError, match=words), ours.responses.stream(model=task, input=TEXT) as response:
            list(response)
        with pytest.raises(anthropic.APIError, match=words), theirs.messages.stream(model=task, max_tokens=64, messages=user()) as message:
            list(message)
        events = [one for one in at.service.responses(task, TEXT, stream=True).data if "response" in one]
        assert len({one["response"]["id"] for one in events}) == 1
        numbers = [one["sequence_number"] for one in events]
        assert numbers == sorted(set(numbers))


def test_the_sdks_repeat_what_may_do_better_and_nothing_else(at: World) -> None:
    """With the SDK's own repeats left on: an answer that breaks its contract was paid for, and is not asked for again."""
    at.provider.answer = lambda _: "It depends."
    with (
        openai.OpenAI(api_key="x", base_url=at.service.base, timeout=SECONDS) as ours,
        anthropic.Anthropic(api_key="x", base_url=at.service.url, timeout=SECONDS) as theirs,
    ):
        for task in ("label", "label-a", "label-r"):
            at.provider.records.clear()
            with pytest.raises(openai.InternalServerError):
                ours.chat.completions.create(model=task, messages=user())
            with pytest.raises(anthropic.InternalServerError):
                theirs.messages.create(model=task, max_tokens=64, messages=user())
            assert len(at.provider.records) == 2
        at.provider.records.clear()
        at.provider.faults.every(Fault("status", status=400, message="no such thing"))
        with pytest.raises(openai.BadRequestError, match="no such thing"):
            ours.responses.create(model="say", input=TEXT)
        assert len(at.provider.records) == 1


# --- many at a time ---------------------------------------------------------------------------------------


def test_many_calls_of_both_async_clients_get_each_its_own_answer(at: World) -> None:
    async def all_said() -> list[str | None]:
        async with (
            openai.AsyncOpenAI(api_key="x", base_url=at.service.base, max_retries=0, timeout=SECONDS) as ours,
            anthropic.AsyncAnthropic(api_key="x", base_url=at.service.url, max_retries=0, timeout=SECONDS) as theirs,
        ):

            async def said(number: int) -> str | None:
                task, text = tuple(SAY)[number % 4], f"word {number}"
                way = number // 4 % 6
                if way == 0:
                    return (await ours.chat.completions.create(model=task, messages=user(text))).choices[0].message.content
                if way == 1:
                    async with ours.chat.completions.stream(model=task, messages=user(text)) as chat:
                        return (await chat.get_final_completion()).choices[0].message.content
                if way == 2:
                    return (await ours.responses.create(model=task, input=text)).output_text
                if way == 3:
                    async with ours.responses.stream(model=task, input=text) as response:
                        return (await response.get_final_response()).output_text
                if way == 4:
                    message = await theirs.messages.create(model=task, max_tokens=64, messages=user(text))
                    return "".join(block.text for block in message.content if block.type == "text")
                async with theirs.messages.stream(model=task, max_tokens=64, messages=user(text)) as stream:
                    return await stream.get_final_text()

            return list(await asyncio.gather(*map(said, range(96))))

    assert asyncio.run(all_said()) == [f"You said: word {number}" for number in range(96)]
