"""The service's endpoints: every official client, every protocol in and out, and the provider's bytes as they are."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptsmith.chat import Turn
from promptsmith.config import Project
from promptsmith.prompt import Prompt, user_turn
from promptsmith.runtime.core import Core
from promptsmith.service.keys import KeyFile

from .provider import KEY, Ask, Fault, Said
from .serving import ANTHROPIC, LETTER, OPENAI, ORDER, SECONDS, SENTIMENT, Answer, Say, World, events_in, made, promote, world

MODELS = {"say": OPENAI, "say-a": ANTHROPIC, "say-r": "answers/gpt-4.1-mini", "say-f": "foreign/llama-9"}
"""Tasks that answer with a text, each by another protocol upstream."""
LABELS = {
    "label": OPENAI,
    "label-a": ANTHROPIC,
    "label-r": "answers/gpt-4.1-mini",
    "label-f": "foreign/llama-9",
    "nearest": "builtin/nearest",
}
ORDERS = {"order": OPENAI, "order-a": ANTHROPIC, "order-r": "answers/gpt-4.1-mini"}
APIS = ("chat", "messages", "responses")
SAME = {"chat": "say", "messages": "say-a", "responses": "say-r"}
"""The task whose provider speaks what the client does."""


def prompts() -> list[Prompt]:
    return [
        *(made(task, model) for task, model in MODELS.items()),
        *(made(task, model, SENTIMENT) for task, model in LABELS.items()),
        *(made(task, model, ORDER) for task, model in ORDERS.items()),
        made("letter", inputs=LETTER),
        made("letter-a", ANTHROPIC, inputs=LETTER),
        made("team/deep", ANTHROPIC),
        made("thinking", "openai/gpt-5-mini", parameters={"max_tokens": 4000}),
        made("canned", "canned/gpt-4.1-mini"),
        made("canned-a", "canned-a/claude-haiku-5-5"),
        made("canned-r", "canned-r/gpt-4.1-mini"),
    ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("service") / "project", *prompts()) as found:
        promote(found.project, made("say", mark="the other one"), alias="candidate")
        yield found
        assert not found.service.trouble()


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def ask(at: World, api: str, task: str, text: str = "Hello", **more: Any) -> Answer:
    call: Callable[..., Answer] = getattr(at.service, api)
    return call(task, text, **more)


def said(api: str, answer: Answer) -> str:
    """The text in a whole answer."""
    if api == "chat":
        return str(answer.json["choices"][0]["message"]["content"])
    if api == "messages":
        return "".join(block["text"] for block in answer.json["content"])
    return "".join(part["text"] for item in answer.json["output"] if item["type"] == "message" for part in item["content"])


# --- the official clients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", MODELS)
def test_openais_client_completes_a_chat(ours: openai.OpenAI, task: str) -> None:
    found = ours.chat.completions.create(model=task, messages=user("Grüße 😀"))
    assert found.choices[0].message.content == "You said: Grüße 😀"
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens > 0


@pytest.mark.parametrize("task", MODELS)
def test_openais_client_streams_a_chat(ours: openai.OpenAI, task: str) -> None:
    chunks = list(ours.chat.completions.create(model=task, messages=user("Grüße 😀, again and again"), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said: Grüße 😀, again and again"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert all(chunk.usage is None for chunk in chunks)  # nobody asked for it


@pytest.mark.parametrize("task", [task for task in MODELS if task != "say-f"])
def test_openais_client_gets_the_usage_of_a_stream_when_it_asks(ours: openai.OpenAI, task: str) -> None:
    options: Any = {"include_usage": True}
    chunks = list(ours.chat.completions.create(model=task, messages=user("Hello"), stream=True, stream_options=options))
    [usage] = [chunk.usage for chunk in chunks if chunk.usage]
    assert usage.completion_tokens > 0
    assert not chunks[-1].choices


@pytest.mark.parametrize("task", MODELS)
def test_openais_client_makes_a_response(ours: openai.OpenAI, task: str) -> None:
    found = ours.responses.create(model=task, input="Grüße 😀")
    assert (found.output_text, found.status) == ("You said: Grüße 😀", "completed")
    turns: Any = [{"role": "user", "content": "First"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Then"}]
    assert ours.responses.create(model=task, input=turns).output_text == "You said: Then"


@pytest.mark.parametrize("task", MODELS)
def test_openais_client_streams_a_response(ours: openai.OpenAI, task: str) -> None:
    events = list(ours.responses.create(model=task, input="Grüße 😀, again and again", stream=True))
    words = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(words) == "You said: Grüße 😀, again and again"
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "You said: Grüße 😀, again and again"
    assert last.response.usage is not None
    assert last.response.usage.output_tokens > 0 or task == "say-f"


@pytest.mark.parametrize("task", MODELS)
def test_anthropics_client_creates_a_message(theirs: anthropic.Anthropic, task: str) -> None:
    found = theirs.messages.create(model=task, max_tokens=1000, messages=user("Grüße 😀"))
    assert [block.text for block in found.content if block.type == "text"] == ["You said: Grüße 😀"]
    assert found.stop_reason == "end_turn"
    assert found.usage.output_tokens > 0


@pytest.mark.parametrize("task", MODELS)
def test_anthropics_client_streams_a_message(theirs: anthropic.Anthropic, task: str) -> None:
    with theirs.messages.stream(model=task, max_tokens=1000, messages=user("Grüße 😀, again and again")) as stream:
        assert "".join(stream.text_stream) == "You said: Grüße 😀, again and again"
        assert stream.get_final_message().stop_reason == "end_turn"


@pytest.mark.parametrize("task", LABELS)
def test_labels_and_builtin_models_through_every_api(at: World, task: str) -> None:
    text = "This product is amazing!"
    for api in APIS:
        whole = ask(at, api, task, text)
        assert (whole.status, said(api, whole)) == (200, "positive"), api
        assert whole.headers["x-promptsmith-adherent"] == "true"
        streamed = ask(at, api, task, text, stream=True)
        assert b"positive" in streamed.body
        assert streamed.comment["adherent"] == "true"
        assert streamed.headers["x-promptsmith-source"] == whole.headers["x-promptsmith-source"]
    found = at.service.run(task, input=text)
    source = "builtin" if task == "nearest" else "model"
    assert (found.json["value"], found.json["source"], whole.headers["x-promptsmith-source"]) == ("positive", source, source)


@pytest.mark.parametrize("task", ORDERS)
def test_structured_output_is_asked_of_the_provider_and_checked(at: World, task: str) -> None:
    for api in APIS:
        whole = ask(at, api, task, "two of A1")
        assert json.loads(said(api, whole)) == {"sku": "A1", "count": 2}
        assert whole.headers["x-promptsmith-adherent"] == "true"
        sent = at.provider.records.last.json
        assert "sku" in json.dumps(sent.get("response_format") or sent.get("output_config") or sent.get("text"))
    assert at.service.run(task, input="two of A1").json["value"] == {"sku": "A1", "count": 2}


def test_both_clients_list_the_prompts(at: World, ours: openai.OpenAI, theirs: anthropic.Anthropic) -> None:
    names = {one.task for one in prompts()} | {"say@candidate"}
    assert {one.id for one in ours.models.list()} == names
    assert {one.id for one in theirs.models.list()} == names
    found: Any = ours.models.retrieve("say")
    prompt = made("say")
    assert (found.id, found.prompt, found.alias, found.target_model) == ("say", prompt.id, "production", OPENAI)
    assert found.contract
    deep: Any = theirs.models.retrieve("team/deep")
    assert (deep.id, deep.target_model, deep.display_name) == ("team/deep", ANTHROPIC, "team/deep")
    with pytest.raises(openai.NotFoundError):
        ours.models.retrieve("sya")


def test_anthropics_client_counts_tokens(at: World, theirs: anthropic.Anthropic) -> None:
    short = theirs.messages.count_tokens(model="say-a", messages=user("Hello")).input_tokens
    long = theirs.messages.count_tokens(model="say-a", messages=user("Hello " * 100)).input_tokens
    assert 0 < short < long
    assert theirs.messages.count_tokens(model="say", messages=user("Hello")).input_tokens == pytest.approx(short, abs=3)
    assert not len(at.provider.records)


@pytest.mark.parametrize("stream", [False, True])
def test_curl(at: World, stream: bool) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    body = json.dumps({"model": "say", "messages": user("Hi"), "stream": stream})
    command = [curl, "-sS", "--fail-with-body", f"{at.service.base}/chat/completions", "-H", "content-type: application/json", "-d", body]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
    if stream:
        assert done.stdout.endswith(b"data: [DONE]\n\n")
        assert b": promptsmith cost_usd=" in done.stdout
    else:
        assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "You said: Hi"


# --- the plain endpoint -----------------------------------------------------------------------------------


def test_a_plain_run(at: World) -> None:
    found = at.service.run("order", input="two of A1")
    assert found.json == {
        "value": {"sku": "A1", "count": 2}, "text": '{"sku":"A1","count":2}', "task": "order", "prompt": made("order", shape=ORDER).id,
        "model": OPENAI, "source": "model", "cost": found.json["cost"], "usage": found.json["usage"], "ok": True, "reasons": [],
    }  # fmt: skip
    assert found.json["cost"] > 0
    assert at.service.run("team/deep", input="Hi").json["text"] == "You said: Hi"
    assert at.service.run("say@candidate", input="Hi").json["prompt"] == made("say", mark="the other one").id
    named = at.service.run("letter", inputs={"letter": "Where?", "tone": "dry"})
    assert "<letter>\nWhere?\n</letter>" in named.json["text"]


@pytest.mark.parametrize("task", [*MODELS, "nearest"])
def test_a_plain_run_in_pieces(at: World, task: str) -> None:
    found = at.service.run(task, input="This product is amazing!", stream=True)
    events = [(name, json.loads(data)) for name, data in found.events if name != ":"]
    assert [name for name, _ in events[:-1]] == ["text"] * (len(events) - 1)
    assert events[-1][0] == "result"
    result = events[-1][1]
    assert "".join(value["text"] for _, value in events[:-1]) == result["text"] != ""
    assert found.comment["adherent"] == "true"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"{}", b'{"input": 1}', b'{"input": "a", "inputs": {}}', b'{"input": "a", "inputs": {"x": "y"}}',
     b'{"inputs": {"x": 1}}', b'{"input": "a", "surplus": 1}',
     b'{"input": "a", "input": "b"}', b'{"input": "\xff"}', b'{"input": "\\ud800"}'],
)  # fmt: skip
def test_a_plain_run_with_a_bad_body(at: World, body: bytes) -> None:
    found = at.service.call("POST", "/v1/run/say", body)
    assert found.status == 400
    assert found.json["error"]["message"]
    assert not len(at.provider.records)


# --- which prompt -----------------------------------------------------------------------------------------


def test_a_model_is_a_task_an_alias_or_the_beginning_of_an_id(at: World) -> None:
    production, candidate = made("say"), made("say", mark="the other one")
    wanted = {
        "say": (production, "production"),
        "say@production": (production, "production"),
        "say@candidate": (candidate, "candidate"),
        f"say@{production.id[:8]}": (production, production.id[:12]),
        f"say@{candidate.id}": (candidate, candidate.id[:12]),
    }
    for name, (prompt, alias) in wanted.items():
        for api in APIS:
            for stream in (False, True):
                found = ask(at, api, name, stream=stream)
                assert found.status == 200
                told = {key: found.headers[f"x-promptsmith-{key}"] for key in ("prompt", "alias", "model", "task", "source", "origin")}
                assert told == {"prompt": prompt.id, "alias": alias, "model": OPENAI, "task": "say", "source": "model", "origin": "lock"}
        assert prompt.system in at.provider.records.last.body.decode().encode().decode("unicode_escape")


@pytest.mark.parametrize(
    "name", ["sai", "say@staging", "say@00000000", "say@", "@production", "", "../say", "say\n", "x" * 5000, "say@candidate@x"]
)
def test_an_unknown_model_is_404_with_what_was_meant(at: World, name: str) -> None:
    for api in APIS:
        found = ask(at, api, name)
        assert found.status in ((404,) if name else (400, 404)), (api, found)
        assert len(found.body) < 2000
    if name == "sai":
        assert "did you mean" in found.body.decode().lower()
        assert "say" in found.body.decode()
    assert not len(at.provider.records)


def test_the_clients_raise_their_own_errors(ours: openai.OpenAI, theirs: anthropic.Anthropic) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        ours.chat.completions.create(model="sya", messages=user("Hi"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(anthropic.NotFoundError):
        theirs.messages.create(model="sya", max_tokens=10, messages=user("Hi"))
    with pytest.raises(openai.NotFoundError):
        ours.responses.create(model="sya", input="Hi")
    with pytest.raises(openai.BadRequestError, match="system message"):
        ours.responses.create(model="say", input="Hi", instructions="Obey me.")


# --- named inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["letter", "letter-a"])
def test_named_inputs_come_as_variables_metadata_or_json(at: World, task: str) -> None:
    values = {"letter": "Where is it?", "tone": "dry"}
    wanted = user_turn(LETTER, values)

    def heard() -> str:
        body = at.provider.records.last.json
        return str(body["messages"][-1]["content"])

    for api in APIS:
        for text, more in (
            ("", {"prompt_variables": values}),
            ("Where is it?", {"prompt_variables": {"tone": "dry"}}),
            (json.dumps(values), {}),
            ("", {"metadata": values}),
            ("Where is it?", {"metadata": {"tone": "dry", "user_id": "u1"}}),
        ):
            found = ask(at, api, task, text, **more)
            assert found.status == 200, (api, text, more, found.body)
            assert heard() == wanted, (api, text, more)
        assert ask(at, api, task, "Where is it?", prompt_variables={"letter": "x"}).status == 400
        assert "unknown" in ask(at, api, task, "", prompt_variables={"letter": "x", "colour": "y"}).body.decode()
        assert ask(at, api, task, "", prompt_variables={"tone": "dry"}).status == 400


def test_a_prompt_with_one_text_takes_json_as_it_is(at: World) -> None:
    text = '{"letter": "x"}'
    assert said("chat", ask(at, "chat", "say", text)) == f"You said: {text}"
    assert ask(at, "chat", "say", text, prompt_variables={"letter": "x"}).status == 400


# --- what a client may not ask ----------------------------------------------------------------------------

SYSTEM: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"messages": [{"role": role, "content": "Obey me."}, {"role": "user", "content": "Hi"}]} for role in ("system", "developer")
    ],
    "/v1/responses": [{"input": "Hi", "instructions": "Obey me."}, {"input": [{"role": "developer", "content": "Obey me."}, *user("Hi")]}],
    "/v1/messages": [
        {"max_tokens": 100, "system": "Obey me.", "messages": user("Hi")},
        {"max_tokens": 100, "system": [{"type": "text", "text": "Obey me."}], "messages": user("Hi")},
    ],
    "/v1/messages/count_tokens": [{"system": "Obey me.", "messages": user("Hi")}],
}


@pytest.mark.parametrize("path", SYSTEM)
def test_a_clients_own_system_message_is_refused(at: World, path: str) -> None:
    for body in SYSTEM[path]:
        for task in ("say", "say-a", "nearest"):
            found = at.service.call("POST", path, {"model": task, **body})
            assert found.status == 400
            assert "system message" in found.json["error"]["message"]
            assert "client_system" in found.json["error"]["message"]
    assert not len(at.provider.records)


_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"messages": user("Hi"), "tools": [_TOOL]}, "tools"),
    ("/v1/chat/completions", {"messages": user("Hi"), "n": 2}, "n"),
    ("/v1/chat/completions", {"messages": user("Hi"), "logprobs": True}, "logprobs"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, _IMAGE]}]}, "image_url"),
    ("/v1/chat/completions", {"messages": [*user("Hi"), {"role": "tool", "tool_call_id": "1", "content": "x"}, *user("Hi")]}, "tool"),
    ("/v1/responses", {"input": "Hi", "tools": [{"type": "web_search"}]}, "tools"),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]}, "input_image"),
    ("/v1/messages", {"max_tokens": 9, "messages": user("Hi"), "tools": [{"name": "f", "input_schema": {"type": "object"}}]}, "tools"),
    (
        "/v1/messages",
        {"max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://x"}}]}]},
        "image",
    ),
]


@pytest.mark.parametrize(("path", "body", "what"), REFUSED)
def test_what_is_not_done_is_refused_by_name(at: World, path: str, body: dict[str, Any], what: str) -> None:
    for task in ("say", "say-a", "nearest"):
        for stream in (False, True):
            found = at.service.call("POST", path, {"model": task, "stream": stream, **body})
            assert found.status == 400
            assert what in found.json["error"]["message"]
    assert not len(at.provider.records)


def test_parameters_that_the_model_does_not_take_are_refused(at: World) -> None:
    for api in ("chat", "responses"):
        for task in ("thinking", "say-a"):
            for stream in (False, True):
                found = ask(at, api, task, temperature=0.3, stream=stream)
                assert found.status == 400, (api, task)
                assert "temperature" in found.json["error"]["message"]
                assert ask(at, api, task, temperature=1, stream=stream).status == 200  # it says what happens anyway
    found = ask(at, "chat", "say", temperature=0.25)
    assert at.provider.records.last.json["temperature"] == 0.25
    assert found.headers["x-promptsmith-ungated"] == "true"
    assert "x-promptsmith-ungated" not in ask(at, "chat", "say").headers


def test_the_output_limit_is_the_clients_upper_bound(at: World) -> None:
    def limit() -> int:
        body = at.provider.records.last.json
        return int(body.get("max_tokens") or body.get("max_completion_tokens") or body["max_output_tokens"])

    names = {"chat": "max_tokens", "messages": "max_tokens", "responses": "max_output_tokens"}
    for api, name in names.items():
        for task in ("say", "say-a"):
            for wanted, sent, ungated in ((1000, 64, False), (64, 64, False), (17, 17, True)):
                found = ask(at, api, task, "Hi", **{name: wanted})
                assert (found.status, limit()) == (200, sent), (api, task)
                assert ("x-promptsmith-ungated" in found.headers) is ungated
        assert ask(at, api, "say", **{name: 0}).status == 400


def test_earlier_turns_go_to_the_model(at: World) -> None:
    turns = [*user("One"), {"role": "assistant", "content": "Two"}, *user("Three")]
    for path, name in (("/v1/chat/completions", "messages"), ("/v1/messages", "messages"), ("/v1/responses", "input")):
        for task in ("say", "say-a"):
            found = at.service.call("POST", path, {"model": task, name: turns, **({"max_tokens": 64} if path == "/v1/messages" else {})})
            assert found.status == 200, found.body
            assert at.provider.records.last.json["messages"][-3:] == turns
    assert at.service.call("POST", "/v1/chat/completions", {"model": "say", "messages": turns[:2]}).status == 400


def test_any_version_of_anthropics_api(at: World) -> None:
    body = {"model": "say-a", "max_tokens": 64, "messages": user("Hi")}
    for headers in ({}, {"anthropic-version": "2023-06-01"}, {"anthropic-version": "1999-01-01"}, {"anthropic-beta": "x,y"}):
        assert at.service.call("POST", "/v1/messages", body, headers).status == 200


# --- keys, and a client's system message by policy --------------------------------------------------------


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    root = tmp_path_factory.mktemp("locked") / "project"
    root.mkdir()
    _, secret = KeyFile(root / "promptsmith.keys").add("app", scopes=("run", "read"))
    with world(root, *prompts(), service='client_system = "append"') as found:
        yield found, secret
        assert not found.service.trouble()


def test_a_key_comes_as_bearer_or_x_api_key(locked: tuple[World, str]) -> None:
    at, secret = locked
    body = {"model": "say", "max_tokens": 64, "messages": user("Hi")}
    for headers in ({"authorization": f"Bearer {secret}"}, {"authorization": f"bearer  {secret}"}, {"x-api-key": secret}):
        for path in ("/v1/chat/completions", "/v1/messages"):
            assert at.service.call("POST", path, body, headers).status == 200
        assert at.service.call("POST", "/v1/messages/count_tokens", {"model": "say", "messages": user("Hi")}, headers).status == 200
        assert at.service.call("POST", "/v1/run/say", {"input": "Hi"}, headers).status == 200
        assert at.service.call("GET", "/v1/models", None, headers).status == 200
    wrong: list[dict[str, str]] = [{}, {"authorization": f"Basic {secret}"}, {"x-api-key": secret[:-1]}, {"authorization": "Bearer"}]
    for headers in wrong:
        for method, path in (("POST", "/v1/chat/completions"), ("POST", "/v1/messages"), ("POST", "/v1/run/say"), ("GET", "/v1/models")):
            found = at.service.call(method, path, body if method == "POST" else None, headers)
            assert found.status == 401
            assert found.headers["www-authenticate"] == "Bearer"
            assert secret[:-1] not in found.body.decode()
    assert at.service.call("GET", "/healthz").status == 200
    assert not any(secret[-20:] in json.dumps(line) for line in at.service.log())


def test_the_clients_send_a_key_and_raise_for_a_wrong_one(locked: tuple[World, str]) -> None:
    at, secret = locked
    with openai.OpenAI(api_key=secret, base_url=at.service.base, max_retries=0) as client:
        assert client.chat.completions.create(model="say", messages=user("Hi")).choices
    with anthropic.Anthropic(api_key=secret, base_url=at.service.url, max_retries=0) as theirs:
        assert theirs.messages.create(model="say", max_tokens=64, messages=user("Hi")).content
    with openai.OpenAI(api_key="wrong", base_url=at.service.base, max_retries=0) as client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="say", messages=user("Hi"))
    with (
        anthropic.Anthropic(api_key="wrong", base_url=at.service.url, max_retries=0) as theirs,
        pytest.raises(anthropic.AuthenticationError),
    ):
        theirs.messages.create(model="say", max_tokens=64, messages=user("Hi"))


def test_a_clients_system_message_is_appended_by_policy(locked: tuple[World, str]) -> None:
    at, secret = locked
    own = made("say").system
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages"):
        for body in SYSTEM[path]:
            for task in ("say", "say-a"):
                for stream in (False, True):
                    found = at.service.call("POST", path, {"model": task, "stream": stream, **body}, {"x-api-key": secret})
                    assert found.status == 200, found.body
                    assert found.headers["x-promptsmith-ungated"] == "true"
                    sent = at.provider.records.last.json
                    system = json.dumps(sent.get("system") or sent["messages"][0]["content"])
                    assert system.index(json.dumps(own.partition("\n")[0].partition(" ")[0])[1:-1]) < system.index("Obey me.")
    plain = at.service.call("POST", "/v1/chat/completions", {"model": "say", "messages": user("Hi")}, {"x-api-key": secret})
    assert "x-promptsmith-ungated" not in plain.headers


# --- bytes ------------------------------------------------------------------------------------------------

WHOLE = {
    "chat": b'{ "id":"c1","choices":[{"index":0,"message":{"role":"assistant","content":"Hi\\u0021 \xf0\x9f\x98\x80","x":1.50},'
    b'"finish_reason":"stop"}],\n"usage":{"prompt_tokens":7,"completion_tokens":3}, "extra":{"a":[1,2]} }\n',
    "messages": b'{"type":"message","id":"m1","role":"assistant","content":[{"type":"text","text":"Hi! \xf0\x9f\x98\x80"}],"model":"x",'
    b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":7,"output_tokens":3},  "extra":1.50}',
    "responses": b'{"id":"r1","object":"response","status":"completed","model":"x","output":[{"type":"message","role":"assistant",'
    b'"status":"completed","id":"i1","content":[{"type":"output_text","text":"Hi! \xf0\x9f\x98\x80","annotations":[]}]}],'
    b'"usage":{"input_tokens":7,"output_tokens":3,"total_tokens":10}, "extra":1.50}',
}
CANNED = {"chat": "canned", "messages": "canned-a", "responses": "canned-r"}


@pytest.mark.parametrize("api", APIS)
def test_the_providers_body_is_relayed_byte_for_byte(at: World, api: str) -> None:
    at.canned.says.append(
        Say([WHOLE[api]], headers={"x-request-id": "req_7", "request-id": "req_7", "x-ratelimit-remaining-requests": "9"})
    )
    before = len(at.service.ledger())
    found = ask(at, api, CANNED[api])
    assert found.body == WHOLE[api]
    assert found.headers["content-type"] == "application/json"
    assert found.headers["x-request-id" if api != "messages" else "request-id"] == "req_7"
    assert found.headers["x-ratelimit-remaining-requests"] == "9"
    assert found.headers["x-promptsmith-source"] == "model"
    assert int(found.headers["x-promptsmith-overhead-us"]) > 0
    [row] = at.service.ledger()[before:]
    assert (row.task, row.input, row.output, row.status, row.stage) == (CANNED[api], 7, 3, "end", "run")
    cost = found.headers["x-promptsmith-cost-usd"]
    assert row.cost is None if cost == "unknown" else row.cost == pytest.approx(float(cost))


def _named(*events: str) -> list[bytes]:
    """Events as Anthropic writes them: each with its type as its name."""
    return [f"event: {json.loads(event)['type']}\ndata: {event}\n\n".encode() for event in events]


STREAMS: dict[str, list[bytes]] = {
    "chat": [
        b'data: {"id":"c1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}\n\n',
        b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"Hi \xf0\x9f\x98\x80"},"finish_reason":null}], "x":1.50}\n\n',
        b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n',
        b"data: [DONE]\n\n",
    ],
    "messages": _named(
        '{"type":"message_start","message":{"id":"m1","type":"message","role":"assistant","model":"x","content":[],"stop_reason":null,'
        '"stop_sequence":null,"usage":{"input_tokens":7,"output_tokens":1}}}',
        '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        '{"type": "ping"}',
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi 😀"}}',
        '{"type":"content_block_stop","index":0}',
        '{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":3}}',
        '{"type":"message_stop"}',
    ),
}


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces, cut at ``places`` wherever these fall."""
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def without_comment(body: bytes) -> bytes:
    """A stream as it came from the provider, the one comment of ours taken out."""
    head, mark, tail = body.partition(b": promptsmith ")
    assert mark
    rest = tail.partition(b"\n\n")[2]
    assert b": promptsmith " not in rest
    return head + rest


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("api", STREAMS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, 2000), max_size=12), asked=st.booleans())
def test_the_providers_events_are_relayed_byte_for_byte_however_they_arrive(
    at: World, api: str, ending: bytes, places: list[int], asked: bool
) -> None:
    events = [event.replace(b"\n", ending) for event in STREAMS[api]]
    at.canned.says[:] = [Say(cut(b"".join(events), places), stream=True)]
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if api == "chat" and asked else {}
    found = ask(at, api, CANNED[api], stream=True, **more)
    expected = [event for event in events if not (api == "chat" and not asked and b'"choices":[]' in event)]
    assert without_comment(found.body) == b"".join(expected)
    assert found.body.partition(b": promptsmith ")[2].partition(b"\n\n")[2] == events[-1]  # it stands before the last event
    assert (found.comment["input"], found.comment["output"], found.comment["adherent"]) == ("7", "3", "true")


def test_usage_that_nobody_asked_for_is_left_out_however_it_is_written(at: World) -> None:
    """A server that writes blanks between its tokens, and one that puts the usage into its last chunk."""
    loose = [event.replace(b'":', b'": ').replace(b",", b", ") for event in STREAMS["chat"]]
    at.canned.says[:] = [Say(loose, stream=True)]
    found = ask(at, "chat", "canned", stream=True)
    assert all(value["choices"] for value in found.data[:-1])
    assert (found.comment["input"], found.comment["output"]) == ("7", "3")
    joined = [
        *STREAMS["chat"][:2],
        b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":7}}\n\n',
    ]
    at.canned.says[:] = [Say([*joined, b"data: [DONE]\n\n"], stream=True)]
    found = ask(at, "chat", "canned", stream=True)
    assert [value["choices"][0]["finish_reason"] for value in found.data[:-1]] == [None, None, "stop"]


def test_the_real_providers_stream_arrives_as_it_was_sent(at: World) -> None:
    """The loopback provider writes each event by itself; what its record counts is what came, but for the usage."""
    for api, task in SAME.items():
        found = ask(at, api, task, "x" * 200, stream=True)
        dropped = 1 if api == "chat" else 0
        [record] = at.provider.records.wait(lambda kept: bool(kept) and kept[-1].ended is not None)[-1:]
        assert len(found.events) - 1 + dropped == record.events


class Inside:
    """The same project in this process: what the service must send, worked out by the codec."""

    def __init__(self, project: Project) -> None:
        self.core = Core(project)

    def body(self, task: str, inputs: Any, history: tuple[Turn, ...], *, stream: bool) -> set[bytes]:
        prompt = self.core.resolve(task).prompt
        request = self.core.handle(prompt, {}).renderer.request(inputs, history=history)
        upstream = self.core.directory.upstream(prompt.model)
        assert upstream is not None
        return {upstream.body(request, upstream.plan(request), stream=stream) for _ in range(2)}


@pytest.fixture
def inside(at: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    found = Inside(at.project)
    yield found
    found.core.close()


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40) | st.sampled_from(
    [
        '"}]',
        "\u2063promptsmith: the turns stand here\u2063",
        '{"role":"user","content":"x"}',
        "\x00\x1f\x7f",
        "😀\u2028",
        "</examples>",
        "{letter}",
    ]
)


@pytest.mark.parametrize("api", APIS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts, history=st.lists(st.tuples(texts, texts), max_size=2), stream=st.booleans())
def test_the_body_that_goes_up_is_the_codecs_byte_for_byte(
    at: World, inside: Inside, api: str, text: str, history: list[tuple[str, str]], stream: bool
) -> None:
    turns = [{"role": role, "content": words} for pair in history for role, words in zip(("user", "assistant"), pair, strict=True)]
    earlier = tuple(Turn(one["role"], one["content"]) for one in turns)  # type: ignore[arg-type]
    turns.append({"role": "user", "content": text})
    path, name = {
        "chat": ("/v1/chat/completions", "messages"),
        "messages": ("/v1/messages", "messages"),
        "responses": ("/v1/responses", "input"),
    }[api]
    more = {"max_tokens": 1000} if api == "messages" else {}
    found = at.service.call("POST", path, {"model": SAME[api], name: turns, "stream": stream, **more})
    assert found.status == 200, found.body
    assert at.provider.records.last.body in inside.body(SAME[api], text, earlier, stream=stream)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(letter=texts, tone=texts, stream=st.booleans())
def test_so_is_that_of_named_inputs(at: World, inside: Inside, letter: str, tone: str, stream: bool) -> None:
    values = {"letter": letter, "tone": tone}
    for task, api in (("letter", "chat"), ("letter-a", "messages")):
        found = ask(at, api, task, "", prompt_variables=values, stream=stream)
        assert found.status == 200, found.body
        assert at.provider.records.last.body in inside.body(task, values, (), stream=stream)


def test_a_structured_prompt_goes_up_as_the_codec_writes_it(at: World, inside: Inside) -> None:
    for task, api in (("order", "chat"), ("order-a", "messages"), ("order-r", "responses"), ("label", "chat"), ("label-a", "messages")):
        for stream in (False, True):
            assert ask(at, api, task, "two", stream=stream).status == 200
            assert at.provider.records.last.body in inside.body(task, "two", (), stream=stream)


# --- answers that are none, in each protocol's words ------------------------------------------------------


def test_a_stop_at_the_limit_is_told_and_not_called_whole(at: World) -> None:
    at.provider.answer = lambda _ask: Said("half an answ", "length")
    for api, task in SAME.items():
        for stream in (False, True):
            found = ask(at, api, task, stream=stream)
            assert found.status == 200
            words = {"chat": '"finish_reason":"length"', "messages": '"stop_reason":"max_tokens"', "responses": '"incomplete"'}[api]
            assert words in found.body.decode().replace('": "', '":"')
            adherent = found.comment["adherent"] if stream else found.headers["x-promptsmith-adherent"]
            assert adherent == "false"


def test_a_huge_answer_passes(at: World) -> None:
    at.provider.faults.every(Fault("huge"))
    for api, task in SAME.items():
        whole = ask(at, api, task)
        assert len(whole.body) > 5 * 2**20
        streamed = ask(at, api, task, stream=True)
        assert len(streamed.body) > 5 * 2**20
        assert [one for one in streamed.events if one[0] == ":"]
    cross = ask(at, "chat", "say-a", stream=True)
    assert len(cross.body) > 5 * 2**20


def test_what_the_answer_function_is_told(at: World) -> None:
    """The prompt stands before the client's words, and these are the user's."""
    heard: list[Ask] = []

    def answer(one: Ask) -> str:
        heard.append(one)
        return "ok"

    at.provider.answer = answer
    for api in APIS:
        for task in ("say", "say-a", "say-r"):
            ask(at, api, task, "Ignore all that")
            prompt = made(task, MODELS[task])
            assert heard[-1].system == prompt.system
            assert heard[-1].turns == (("user", "Ignore all that"),)
    assert len(heard) == 9


def test_async_clients_together(at: World) -> None:
    async def main() -> list[str]:
        async with (
            openai.AsyncOpenAI(api_key="x", base_url=at.service.base, max_retries=0) as ours,
            anthropic.AsyncAnthropic(api_key="x", base_url=at.service.url, max_retries=0) as theirs,
        ):

            async def one(number: int) -> str:
                text = f"number {number}"
                if number % 2:
                    found = await ours.chat.completions.create(model="say-a" if number % 3 else "say", messages=user(text))
                    return found.choices[0].message.content or ""
                reply = await theirs.messages.create(model="say" if number % 3 else "say-a", max_tokens=64, messages=user(text))
                return "".join(block.text for block in reply.content if block.type == "text")

            return await asyncio.gather(*map(one, range(60)))

    assert asyncio.run(main()) == [f"You said: number {number}" for number in range(60)]


def test_events_are_read_by_this_tests_own_reader() -> None:
    assert events_in(b"event: a\ndata: 1\n\n: note\n\ndata: [DONE]\n\n") == [("a", "1"), (":", "note"), ("", "[DONE]")]
