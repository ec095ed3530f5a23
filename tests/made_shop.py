"""A shop's project, made by the real compiler, evals and gate: eight tasks, reports, a canary, a plan that ran, a ledger of two days."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from promptsmith import compile_task, evaluate
from promptsmith.config import Project, find_project
from promptsmith.evals.receipts import receipt_of
from promptsmith.orchestration.outcomes import as_json
from promptsmith.promotion import promote
from promptsmith.prompt import Prompt
from promptsmith.registry.canaries import CanaryFile, Outcome, new_canary
from promptsmith.registry.opening import open_registry
from promptsmith.service.keys import Scope
from promptsmith.service.opening import open_keys
from promptsmith.store.folder import open_store
from promptsmith.store.ledger import LedgerRow

from .made_outcomes import chain, conducted
from .provider import KEY, Ask

LABELS = {
    "billing": ("I was charged twice", "where is my invoice", "refund the second payment"),
    "delivery": ("my parcel is late", "the courier left it in the rain", "change the address of my parcel"),
    "other": ("do you sell lamps", "thank you for the help", "when does the shop open"),
}
MODEL = "openai/gpt-4.1-mini"


def labelled(about: str, model: str, rows: int = 48) -> str:
    """A task with examples and a holdout; each text in it holds the words that make its label."""
    what = about.rstrip(".").rpartition(" ")[2]  # no two tasks have a case in common: every eval on it would count for both
    pairs = [(f"{text}, {what} {number}", label) for number in range(rows // 9 + 1) for label, texts in LABELS.items() for text in texts]
    examples = [f'  - {{input: "{texts[0]}", output: {label}}}' for label, texts in LABELS.items()]
    holdout = [f'  - {{input: "{text}", output: {label}}}' for text, label in pairs[:rows]]
    return "\n".join(
        [f"task: {about}", f"output: [{', '.join(LABELS)}]", f"models: {{production: {model}}}",
         "examples:", *examples, "holdout:", *holdout, ""]
    )  # fmt: skip


TASKS = {
    "support/triage": labelled("Sort a message to the shop by what it is about.", MODEL),
    "support/nearest": labelled("Sort a message to the shop without asking a model.", "builtin/nearest"),
    "support/reply": f"task: Answer a customer of a lamp shop in two sentences.\noutput: text\nmodels: {{production: slow/{MODEL}}}\n",
    "shop/order": """\
task: Read the order out of a message.
output: {json: {sku: string, count: integer}}
models: {production: openai/gpt-4.1-mini}
examples:
  - {input: "two of A1", output: {sku: A1, count: 2}}
""",
    "shop/letter": """\
task: Write a letter to a customer about {{about}}.
inputs:
  about: {about: what it is about, max_chars: 2000}
  tone: {about: how it should sound, default: friendly}
output: text
models: {production: anthropic/claude-haiku-5-5}
""",
    "search/intent": labelled("Say what somebody searches for.", "builtin/nearest", rows=30),
    "search/topic": labelled("Name the topic of a page.", "builtin/nearest", rows=30),
    "drafts/idea": "task: Propose a name for a lamp.\noutput: text\nmodels: {production: openai/gpt-4.1-mini}\n",
}
PROMOTED = [name for name in TASKS if name != "drafts/idea"]


def said(ask: Ask) -> str:
    """What the shop's model answers: the label that the words belong to (unless it may guess), an order, or what it heard."""
    if "Read the order" in ask.system:
        return '{"sku":"A1","count":2}'
    if "Guess." in ask.system:
        return "other"
    return next((label for label, texts in LABELS.items() if any(text in ask.text for text in texts)), f"You said: {ask.text}")


def written(root: Path, toml: str, tasks: dict[str, str]) -> Project:
    """A project of these task files, with nothing compiled."""
    for name, text in tasks.items():
        path = root / "evals" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "promptsmith.toml").write_text(toml)
    return find_project(root)


def compiled(project: Project, name: str) -> Prompt:
    return compile_task(name, project=project, store=open_store(project))


def judged(project: Project, prompt: Prompt) -> Any:
    """The report of an eval that is run now, through the provider of the settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        return evaluate(f"{prompt.task}@{prompt.id[:12]}", project=project)


def in_production(project: Project, name: str, *, proven: bool = False) -> Prompt:
    """Compiles a task and promotes it: with the receipt of an eval if it is to be ``proven``."""
    prompt = compiled(project, name)
    receipt = receipt_of(judged(project, prompt)) if proven else None
    registry = open_registry(project, patient=True)
    promote(registry, project, prompt, alias="production", why="the first", receipt=receipt, force=not proven)
    registry.close()
    return prompt


def another(project: Project, name: str, mark: str) -> Prompt:
    """Another version of a task: its description says ``mark`` too."""
    file = project.task_file(name)
    lines = file.read_text().split("\n")
    file.write_text("\n".join([f"{lines[0]} {mark}", *lines[1:]]))
    return compiled(project, name)


def new_key(project: Project, name: str, *scopes: Scope, **more: Any) -> str:
    """The secret of a new key."""
    registry = open_registry(project, patient=True)
    _, secret = open_keys(project, registry).add(name, scopes=scopes or ("run",), **more)
    registry.close()
    return secret


def shop(root: Path, toml: str) -> Project:
    """All of it."""
    project = written(root, toml, TASKS)
    for name in PROMOTED:
        in_production(project, name, proven=name in ("support/triage", "support/nearest"))
    compiled(project, "drafts/idea")
    judged(project, another(project, "support/triage", "Answer with the label alone."))
    judged(project, compiled(project, "search/intent"))
    _canary(project)
    _history(project)
    return project


def _canary(project: Project) -> None:
    """A candidate for ``search/topic`` that has answered for a while."""
    incumbent = open_registry(project).resolve("search/topic", "production")
    candidate = another(project, "search/topic", "Be brief.")
    canaries = CanaryFile(project.cache / "canaries")
    begun = canaries.start(new_canary("search/topic", "production", candidate=candidate.id, incumbent=incumbent, share=0.1, forced=True))
    for number in range(300):
        canaries.append(begun.id, Outcome("candidate" if number % 10 == 0 else "incumbent", number % 37 != 0, False))


def _history(project: Project) -> None:
    store = open_store(project)
    for run in (conducted(), chain(5)):
        store.put_run(run.run, as_json(run))
    now = time.time()
    for hour in range(48):
        for place, name in enumerate(PROMOTED[:5]):
            for _ in range((hour * 7 + place * 5) % 11):
                store.ledger.append(
                    LedgerRow(
                        time=now - 3600 * hour, task=name, prompt="p", stage="run", model=MODEL, endpoint="openai", input=420, output=12,
                        cost=0.00031 * (place + 1), latency=0.4, source="model", status="end",
                    )
                )  # fmt: skip


def slow_events(text: str) -> list[bytes]:
    """The events of a streamed chat completion, a word each, and its end."""
    words = [f"{word} " for word in text.split(" ")]
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in words]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49}})
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1-mini"}
    return [*(b"data: " + json.dumps({**head, **chunk}).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]
