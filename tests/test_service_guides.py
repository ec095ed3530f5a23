"""The guides of the service, word by word, where two features meet."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from promptsmith.canary import course
from promptsmith.config import Project
from promptsmith.prompt import Prompt, Serve
from promptsmith.registry.canaries import Counts, new_canary
from promptsmith.registry.canary_stores import open_canaries
from promptsmith.registry.opening import open_registry
from promptsmith.store.folder import open_store

from .databases import Server
from .provider import Ask, Fault, Provider, Said, Settings
from .serving import (
    ANTHROPIC,
    LETTER,
    SECONDS,
    SENTIMENT,
    Answer,
    Serving,
    World,
    eventually,
    kept_or_broken,
    made,
    project_at,
    promote,
    serving,
    settings_of,
    world,
)  # fmt: skip

NEAREST = "builtin/nearest"
ESCALATES = Serve(cache=True, on_contract_break="escalate", escalate=ANTHROPIC)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    prompts = [
        made("letter", NEAREST, SENTIMENT, inputs=LETTER),
        made("nearest", NEAREST, SENTIMENT, parameters={}),
        made("stronger", shape=SENTIMENT, serve=ESCALATES),
        made("shadowed-letter", inputs=LETTER),
        made("shadowed-params", ANTHROPIC),
        made("captured", serve=Serve(capture=1.0)),
        made("moved", NEAREST, SENTIMENT),
        made("spare", shape=SENTIMENT, serve=Serve(cache=True, fallback=(ANTHROPIC,))),
        made("claude", ANTHROPIC),
    ]
    with world(tmp_path_factory.mktemp("guides") / "project", *prompts) as found:
        yield found


def begin(project: Project, incumbent: Prompt, candidate: Prompt, **more: Any) -> str:
    """The id of a canary that is started."""
    promote(project, candidate, alias="candidate")
    store = open_canaries(project, open_registry(project))
    return store.start(
        new_canary(incumbent.task, "production", candidate=candidate.id, incumbent=incumbent.id, **{"share": 1.0, **more})
    ).id


def counted(project: Project, canary: str) -> Counts:
    store = open_canaries(project, open_registry(project))
    [found] = [one for one in store.all() if one.id == canary]
    return course(store, found).counts


def state(project: Project, canary: str) -> str:
    [found] = [one for one in open_canaries(project, open_registry(project)).all() if one.id == canary]
    return found.state


def settled(at: World) -> None:
    """Returns when the provider has answered all that it was asked."""
    tick = threading.Event()
    tick.wait(0.5)
    at.provider.records.wait(lambda kept: all(record.ended is not None for record in kept), SECONDS)
    tick.wait(0.2)


# --- canaries ---------------------------------------------------------------------------------------------

REFUSED = {
    "an input is missing": ("shadowed-letter", {"prompt_variables": {"tone": "cold"}}, ""),
    "an input is unknown": ("shadowed-letter", {"prompt_variables": {"lettr": "Dear all"}}, ""),
    "a parameter is not taken": ("shadowed-params", {"temperature": 0.5}, "Hello"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_request_that_is_refused_before_a_model_is_asked_counts_on_neither_side_of_a_shadow(at: World, why: str) -> None:
    """canary.md: "A request that is refused before a model is asked counts on neither side."

    Over the three chat APIs the shadow is begun before inputs and parameters are looked at (/v1/run does it the right way round).
    """
    task, body, text = REFUSED[why]
    named = "letter" in task
    incumbent = made(task, inputs=LETTER) if named else made(task, ANTHROPIC)
    candidate = made(task, inputs=LETTER, mark=why) if named else made(task, mark=why)
    canary = begin(at.project, incumbent, candidate, mode="shadow")
    assert at.service.chat(task, text, **body).status == 400
    settled(at)
    counts = counted(at.project, canary)
    open_canaries(at.project, open_registry(at.project)).settle(canary, _stopped(), None)
    assert not at.provider.records.all(), "a call was paid for beside a request that was refused"
    assert (counts.incumbent.calls, counts.candidate.calls) == (0, 0), counts


def _stopped() -> Any:
    from promptsmith.registry.canaries import Verdict

    return Verdict("stopped", "the end of the test")


def test_the_answer_of_a_shadow_is_thrown_away_and_not_captured(at: World) -> None:
    """canary.md: a shadow's answer is thrown away, nobody sees it; feedback.md: live calls are captured, each once.

    The one live call is captured twice, and `examples review` shows the last row of an input: the answer that no caller got.
    """
    serve = Serve(capture=1.0)
    incumbent, candidate = made("captured", serve=serve), made("captured", serve=serve, mark="new")
    at.provider.answer = lambda ask: "of the candidate" if "new" in ask.system else "of the incumbent"
    canary = begin(at.project, incumbent, candidate, mode="shadow")
    assert at.service.chat("captured").status == 200
    eventually(lambda: counted(at.project, canary).candidate.calls == 1, "the shadow was asked")
    settled(at)
    rows = [(row.prompt, row.output) for row in open_store(at.project).captures.rows("captured")]
    assert rows == [(incumbent.id, "of the incumbent")]


def ends(service: Serving, canary: str) -> list[dict[str, Any]]:
    return [line for line in service.log() if line["event"] == "canary" and line["canary"] == canary]


def test_the_end_of_a_canary_whose_alias_was_moved_is_in_the_log(at: World) -> None:
    """operations.md: the event `canary` is "one has come to its end"; canary.md: "also ends when its alias is moved meanwhile"."""
    incumbent = made("moved", NEAREST, SENTIMENT)
    canary = begin(at.project, incumbent, made("moved", NEAREST, SENTIMENT, mark="2"), share=0.5)
    assert at.service.chat("moved").headers["x-promptsmith-arm"]
    promote(at.project, made("moved", NEAREST, SENTIMENT, mark="3"))
    assert "x-promptsmith-arm" not in at.service.chat("moved").headers
    assert state(at.project, canary) == "stopped"
    threading.Event().wait(0.3)
    assert len(ends(at.service, canary)) == 1


def test_the_end_of_a_canary_is_in_the_log_once(tmp_path: Path) -> None:
    """operations.md: a line "for each change of the service". Each request that was under way at the stop writes the line again."""
    incumbent, candidate = made("label", shape=SENTIMENT), made("label", shape=SENTIMENT, mark="BROKEN")
    with Provider(kept_or_broken, Settings(latency=1.0)) as provider:
        project = project_at(tmp_path / "project", settings_of(provider), incumbent)
        with serving(project) as service:
            canary = begin(project, incumbent, candidate, share=0.5)
            with ThreadPoolExecutor(120) as pool:
                list(pool.map(lambda number: service.chat("label", f"text {number}").status, range(120)))
            assert state(project, canary) == "stopped"
            eventually(lambda: bool(ends(service, canary)), "it is told")
            threading.Event().wait(0.3)
            assert len(ends(service, canary)) == 1


# --- the response cache, and the stronger model -----------------------------------------------------------


def broken_once() -> Any:
    asked: list[Ask] = []

    def answer(ask: Ask) -> str:
        asked.append(ask)
        return "It depends." if len(asked) == 1 else "positive"

    return answer


def test_tokens_of_a_reply_out_of_the_cache_are_not_counted_beside_those_of_the_stronger_model(at: World) -> None:
    """keys.md: "A call is counted when it ends, in and out, at what it cost"; the figures are of tokens that a model took.

    The first answer is kept and breaks the contract, the stronger model fails. The next equal call pays the stronger model alone
    (so say ledger and cost), and is charged the tokens of both.
    """
    assert at.service.chat("claude").status == 200
    number = at.provider.records.last.number
    at.provider.answer = broken_once()
    at.provider.faults.on(range(number + 2, number + 20), Fault("status", status=400))
    assert at.service.chat("stronger", "mixed").status == 400
    at.provider.faults.clear()
    found = at.service.chat("stronger", "mixed")
    assert (found.status, found.headers["x-promptsmith-source"]) == (200, "model")
    row = at.service.ledger()[-1]
    assert (row.model, row.source) == (ANTHROPIC, "model")
    mine = found.headers["x-promptsmith-request-id"]
    eventually(lambda: any(line.get("request_id") == mine for line in at.service.log()), "its line")
    [line] = [line for line in at.service.log() if line.get("request_id") == mine]
    assert (line["input"], line["output"]) == (row.input, row.output)


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_of_a_fallbacks_reply_out_of_the_cache_are_not_counted_beside_those_of_the_first_model(at: World, stream: bool) -> None:
    """The same where the first model refuses each time (paid each time), and the answer of the fallback is in the cache."""
    at.provider.answer = lambda ask: Said("No.", "refused") if "gpt" in ask.model else "positive"
    text = f"refused {stream}"
    assert at.service.chat("spare", text, stream=stream).status == 200
    before = len(at.service.ledger())
    found = at.service.chat("spare", text, stream=stream)
    assert found.status == 200
    rows = at.service.ledger()[before:]
    assert [row.source for row in rows] == ["model", "cache"]
    mine = found.headers["x-promptsmith-request-id"]
    eventually(lambda: any(line.get("request_id") == mine for line in at.service.log()), "its line")
    [line] = [line for line in at.service.log() if line.get("request_id") == mine]
    assert line["cost"] == pytest.approx(sum(row.cost or 0.0 for row in rows))
    assert line["input"] == sum(row.input for row in rows)


@pytest.mark.parametrize("path", ["chat", "run"])
def test_a_broken_answer_of_the_stronger_model_names_it_out_of_the_cache_too(at: World, path: str) -> None:
    """serve.md: `x-promptsmith-model` is "by which model", `-ungated` "a call that the eval does not speak for"."""
    at.provider.answer = lambda _: "It depends."

    def ask() -> Answer:
        text = f"never kept {path}"
        return at.service.chat("stronger", text) if path == "chat" else at.service.run("stronger", input=text)

    paid, kept = ask(), ask()
    assert (paid.status, kept.status, kept.headers["x-promptsmith-source"]) == (502, 502, "cache")
    assert ANTHROPIC in kept.json["error"]["message"]
    assert paid.headers["x-promptsmith-model"] == ANTHROPIC
    assert kept.headers["x-promptsmith-model"] == ANTHROPIC


# --- what a client may say --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["prompt_variables", "metadata"])
@pytest.mark.parametrize("api", ["chat", "messages", "responses"])
def test_the_one_input_that_is_not_given_is_what_the_last_message_says(at: World, api: str, way: str) -> None:
    """serve.md: "An input without a default that is not among them is what the last message says." """
    ask = getattr(at.service, api)
    assert ask("letter", "Dear all", **{way: {"tone": "formal"}}).status == 200
    found = ask("letter", "Hello", **{way: {"letter": "Dear all"}})  # which may be there because a message has to be
    assert found.status == 400
    assert "leave the message empty" in found.body.decode()


def test_a_call_of_a_builtin_prompt_over_anthropics_api_is_not_ungated(at: World) -> None:
    """serve.md, its first example: /v1/messages with max_tokens, which that protocol demands, on a prompt of builtin/nearest.

    No token limit changes what it answers, and any other way the same call is not marked. So each call of every Anthropic SDK is
    "a call that the eval does not speak for".
    """
    assert "x-promptsmith-ungated" not in at.service.chat("nearest").headers
    found = at.service.messages("nearest")
    assert found.status == 200
    assert "x-promptsmith-ungated" not in found.headers


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_who_calls_is_no_parameter_of_the_model_by_its_newer_name_either(at: World, api: str) -> None:
    """serve.md: "Any client may call any prompt." canary.md: `user` says who calls. OpenAI's newer name of it, `safety_identifier`,

    is read for the canary's arm as well, but is a 400 on a prompt of Anthropic's (and marks all others ungated).
    """
    ask = getattr(at.service, api)
    assert ask("claude", user="u1").status == 200
    found = ask("claude", safety_identifier="u1")
    assert found.status == 200, found.body
    assert "x-promptsmith-ungated" not in found.headers


# --- deployed ---------------------------------------------------------------------------------------------


def cli(root: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "promptsmith", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done


def test_a_key_is_revoked_where_its_folder_is_mounted_as_the_containerfile_says(tmp_path: Path) -> None:
    """keys.md: "Running services refuse the key from their next request on." A link is what a mount is: it leads to the folder."""
    keys = '[service]\nkeys = "keys/promptsmith.keys"\n'
    outside = project_at(tmp_path / "outside", keys, made("label", NEAREST, SENTIMENT))
    inside = project_at(tmp_path / "inside", keys, made("label", NEAREST, SENTIMENT))
    secret = cli(outside.root, "keys", "add", "shop").stdout.strip()
    (inside.root / "keys").symlink_to(outside.root / "keys")
    with serving(inside) as service:
        bearer = {"authorization": f"Bearer {secret}"}
        body = {"model": "label", "messages": [{"role": "user", "content": "Hello"}]}
        assert service.call("POST", "/v1/chat/completions", body, bearer).status == 200
        cli(outside.root, "keys", "revoke", "shop")
        assert service.call("POST", "/v1/chat/completions", body, bearer).status == 401


def test_status_shows_a_copy_with_a_warning_while_the_database_is_gone(mortal: Server, tmp_path: Path) -> None:
    """registry.md: "Commands that decide something (`promote`, `status`, `history`) wait up to eight seconds for it, and warn when they
    show a copy." `history` does; `status` shows the copy with the warning, and then fails with the same words as an error.
    """
    project = project_at(tmp_path / "project", f'registry = "{mortal.url(mortal.new_database())}"\n', made("label", NEAREST, SENTIMENT))
    cli(project.root, "push")
    cli(project.root, "status")
    mortal.kill()
    try:
        assert "last good copy" in cli(project.root, "history", "label").stderr
        found = cli(project.root, "status")
    finally:
        mortal.start()
    assert "last good copy" in found.stderr
