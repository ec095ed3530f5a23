"""promptfoo's own command as a client of the service: every answer is a prompt's, with its tokens, judged by promptfoo's assertions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from promptsmith.prompt import Prompt
from promptsmith.service.keys import KeyFile

from .provider import Record, echo, nearest, refused_url
from .serving import ANTHROPIC, LETTER, OPENAI, ORDER, SENTIMENT, World, made, world

SECONDS = 300.0
"""Only for a command that hangs."""
CASES = {"This product is amazing!": "positive", "It broke after a day.": "negative", "When does the shop open?": "neutral"}
WRONG = "It broke after a day."
"""Asserted a second time, with an answer that is wrong."""
OWN_SYSTEM = '[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{{message}}"}]'
FAILED = 100
"""promptfoo's status when a case failed."""


def prompts() -> list[Prompt]:
    return [
        made("sentiment", "builtin/nearest", SENTIMENT),
        made("label", OPENAI, SENTIMENT),
        made("label-a", ANTHROPIC, SENTIMENT),
        made("order", OPENAI, ORDER),
        made("letter", OPENAI, inputs=LETTER),
    ]


@pytest.fixture(scope="module")
def command() -> str:
    found = os.environ.get("PROMPTFOO") or shutil.which("promptfoo")
    if not found:
        pytest.skip("no promptfoo here: npm install promptfoo in a folder of its own, and set PROMPTFOO to its node_modules/.bin/promptfoo")
    return found


class Shared(NamedTuple):
    at: World
    secret: str
    command: str

    def openai(self, name: str, task: str, *, api: str = "chat", **config: Any) -> Any:
        base = {"apiBaseUrl": self.at.service.base, "apiKey": self.secret}
        return {"id": f"openai:{api}:{task}", "label": name, "config": {**base, **config}}

    def anthropic(self, name: str, task: str, **config: Any) -> Any:
        base = {"apiBaseUrl": self.at.service.url, "apiKey": self.secret}
        return {"id": f"anthropic:messages:{task}", "label": name, "config": {**base, **config}}


class Evaluated(NamedTuple):
    """What promptfoo wrote down."""

    status: int
    results: list[Any]
    counts: tuple[int, int, int]
    """Cases passed, failed, and without an answer."""

    def of(self, name: str) -> list[Any]:
        """The results of the provider labelled ``name``, in the order of the tests."""
        return sorted((one for one in self.results if one["provider"]["label"] == name), key=lambda one: int(one["testIdx"]))


@pytest.fixture(scope="module")
def shared(command: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    root = tmp_path_factory.mktemp("promptfoo") / "project"
    root.mkdir()
    _, secret = KeyFile(root / "promptsmith.keys").add("promptfoo", scopes=("run",))
    with world(root, *prompts()) as at:
        yield Shared(at, secret, command)
        assert not at.service.trouble()


@pytest.fixture
def to(shared: Shared) -> Shared:
    shared.at.reset()
    shared.at.provider.answer = nearest()
    return shared


def evaluate(to: Shared, folder: Path, providers: Sequence[Any], tests: Sequence[Any], prompt: str = "{{message}}") -> Evaluated:
    """What :func:`run` makes of a config with these."""
    return run(to, folder, json.dumps({"prompts": [prompt], "providers": providers, "tests": tests}))  # JSON is YAML


def run(to: Shared, folder: Path, config: str) -> Evaluated:
    """`promptfoo eval` of this config, in an empty home; whoever is not on this machine can't be reached."""
    (folder / "promptfooconfig.yaml").write_text(config, "utf-8")
    with refused_url() as nowhere:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PROMPTFOO_CONFIG_DIR": str(folder / "kept"),
            "PROMPTFOO_DISABLE_TELEMETRY": "1",
            "PROMPTFOO_DISABLE_UPDATE": "1",
            "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
            # With telemetry off, it still tells its makers that it is off.
            "HTTP_PROXY": nowhere,
            "HTTPS_PROXY": nowhere,
            "NO_PROXY": "127.0.0.1",
        }
        line = [to.command, "eval", "-o", "out.json", "--no-cache", "--no-share", "--no-progress-bar"]
        done = subprocess.run(
            line, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    assert done.returncode in {0, FAILED}, done.stdout + done.stderr
    results = json.loads((folder / "out.json").read_text())["results"]
    stats = results["stats"]
    return Evaluated(done.returncode, results["results"], (stats["successes"], stats["failures"], stats["errors"]))


def equals(message: str, wanted: str) -> Any:
    return {"vars": {"message": message}, "assert": [{"type": "equals", "value": wanted}]}


def sent(to: Shared) -> list[Record]:
    return to.at.provider.records.all()


def tokens(results: Sequence[Any]) -> Counter[tuple[int, int]]:
    """Of each answer: tokens in, tokens out."""
    used = [one["response"]["tokenUsage"] for one in results]
    assert all(one["total"] == one["prompt"] + one["completion"] for one in used)
    return Counter((one["prompt"], one["completion"]) for one in used)


def test_every_case_is_answered_by_the_prompt(to: Shared, tmp_path: Path) -> None:
    providers = [
        to.openai("chat, builtin", "sentiment"),
        to.openai("chat", "label", omitDefaults=True),
        to.openai("chat to Anthropic", "label-a", omitDefaults=True),
        to.openai("responses", "label", api="responses"),
        to.anthropic("messages, builtin", "sentiment"),
        to.anthropic("messages", "label-a", extra_body={"temperature": None}),
        to.anthropic("messages, streamed", "label-a", extra_body={"temperature": None}, stream=True),
        to.anthropic("messages to OpenAI", "label"),
    ]
    names = [provider["label"] for provider in providers]
    done = evaluate(to, tmp_path, providers, [*(equals(*case) for case in CASES.items()), equals(WRONG, "positive")])

    assert done.status == FAILED
    assert done.counts == (3 * len(names), len(names), 0)
    for name in names:
        found = done.of(name)
        assert [one["response"]["output"] for one in found] == [*CASES.values(), CASES[WRONG]], name
        assert [one["success"] for one in found] == [True, True, True, False], name
        assert "negative" in found[-1]["gradingResult"]["reason"]

    # A builtin model has no tokens; all others are what the provider counted.
    of_models = [name for name in names if "builtin" not in name]
    assert all(tokens(done.of(name)) == {(0, 0): 4} for name in names if name not in of_models)
    assert tokens([one for name in of_models for one in done.of(name)]) == Counter(
        (record.usage.input, record.usage.output) for record in sent(to) if record.usage is not None
    )
    assert len(sent(to)) == 4 * len(of_models)
    assert sum(record.events > 0 for record in sent(to)) == 4  # the one that streams

    ids = {prompt.task: prompt.id for prompt in prompts()}
    for name, task in (("chat, builtin", "sentiment"), ("chat", "label"), ("chat to Anthropic", "label-a")):
        for one in done.of(name):
            told = one["response"]["metadata"]["http"]["headers"]
            assert told["x-promptsmith-prompt"] == ids[task]
            assert told["x-promptsmith-source"] == ("builtin" if task == "sentiment" else "model")
            assert told["x-promptsmith-adherent"] == "true"
            # Without omitDefaults promptfoo sends a temperature of its own.
            assert ("x-promptsmith-ungated" in told) == (name == "chat, builtin")


def test_json_is_checked_by_promptfoo_against_the_same_contract(to: Shared, tmp_path: Path) -> None:
    to.at.provider.answer = lambda ask: '{"sku":"B2","count":7}' if "seven" in ask.text else '{"sku":"A1","count":2}'
    providers = [to.openai("chat", "order", omitDefaults=True), to.anthropic("messages", "order")]
    schema = msgspec.json.decode(ORDER.schema)
    kept = [{"type": "is-json", "value": schema}, {"type": "javascript", "value": "JSON.parse(output).count === 2"}]
    broken = [{"type": "is-json", "value": {"required": ["colour"]}}]
    tests = [{"vars": {"message": "two of A1"}, "assert": kept}, {"vars": {"message": "seven of B2"}, "assert": broken}]
    done = evaluate(to, tmp_path, providers, tests)
    assert done.counts == (2, 2, 0)
    for name in ("chat", "messages"):
        assert [json.loads(one["response"]["output"])["sku"] for one in done.of(name)] == ["A1", "B2"]
        assert [one["success"] for one in done.of(name)] == [True, False]


def test_named_inputs_from_promptfoos_variables(to: Shared, tmp_path: Path) -> None:
    """As a JSON object in the message, which its template writes; or at the plain path, by its provider for any HTTP."""
    plain = {
        "url": f"{to.at.service.url}/v1/run/letter",
        "method": "POST",
        "headers": {"authorization": f"Bearer {to.secret}", "content-type": "application/json"},
        "body": {"inputs": {"letter": "{{letter}}", "tone": "{{tone}}"}},
        "transformResponse": "json.text",
    }
    providers = [to.openai("chat", "letter", omitDefaults=True), {"id": "http", "label": "run", "config": plain}]
    to.at.provider.answer = echo
    words = {"letter": 'Where is "it"?', "tone": "dry"}
    prompt = '[{"role": "user", "content": {{ {letter: letter, tone: tone} | dump | dump }} }]'
    tests = [{"vars": words, "assert": [{"type": "contains", "value": word} for word in words.values()]}]
    done = evaluate(to, tmp_path, providers, tests, prompt)
    assert done.counts == (2, 0, 0), done.results
    assert done.status == 0
    [one, other] = sent(to)
    assert one.json["messages"] == other.json["messages"]
    assert '<letter>\nWhere is "it"?\n</letter>' in one.json["messages"][-1]["content"]


def test_the_guides_config(to: Shared, tmp_path: Path) -> None:
    guide = (Path(__file__).parent.parent / "docs" / "guides" / "serve.md").read_text("utf-8")
    [config] = re.findall(r"^```text\n(prompts:.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    done = run(to, tmp_path, config.replace("http://127.0.0.1:8337", to.at.service.url).replace("ps_…", to.secret))
    assert done.status == 0
    assert done.counts == (2, 0, 0)
    [told] = [one["response"]["metadata"]["http"]["headers"] for one in done.results if one["provider"]["id"].startswith("openai")]
    assert "x-promptsmith-ungated" not in told


@pytest.mark.parametrize(
    ("task", "config", "prompt", "error"),
    [
        ("sentimnet", {}, "{{message}}", "404 .*did you mean 'sentiment'"),
        ("sentiment", {"apiKey": "ps_wrong"}, "{{message}}", "401 .*the key is not known"),
        ("label-a", {}, "{{message}}", "400 .*does not take the parameter temperature"),
        ("sentiment", {}, OWN_SYSTEM, "400 .*system message"),
    ],
    ids=["name", "key", "parameter", "system message"],
)
def test_promptfoo_shows_what_the_service_refuses(to: Shared, tmp_path: Path, task: str, config: Any, prompt: str, error: str) -> None:
    """One run each: it stops at the first 401 or 404 (with status 0, in promptfoo 0.123)."""
    done = evaluate(to, tmp_path, [to.openai("chat", task, **config)], [equals(*case) for case in list(CASES.items())[:1]], prompt)
    [found] = done.of("chat")
    assert not found["success"]
    assert re.search(error, found["error"].replace("\n", " ")), found["error"]
    assert not sent(to)
