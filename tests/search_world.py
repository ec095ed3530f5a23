"""A small world for searches: a task with hidden rules, and models that answer by what stands in the request, whatever comes first.

The production model answers a message right when the prompt states the rule of its word, or shows the message. The meta-model
finds rules in the pairs that it is shown. Both are functions of the request alone, so that every run of a search is the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from promptsmith.chat import Chunk, Reply, Request, Usage
from promptsmith.config import Project, find_project

from .provider import Ask

LABELS = ("billing", "shipping", "returns")
WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "indigo", "juniper", "kelp", "lotus")
MODEL, META = "openai/gpt-6-luna", "openai/gpt-6-sol"
PRODUCTION_PRICE, META_PRICE = (1.0, 4.0), (5.0, 20.0)
"""US dollars for a million tokens in and out."""
IN_FLIGHT = 16
_RULE = re.compile(r"Messages about (\w+) are (\w+)\.")
_PAIR = re.compile(r'"input": "([^"]*)", "(?:expected|output)": "(\w+)"')


def number(text: str, most: int) -> int:
    """From 0 up to, but not, ``most``: the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % most


def right(word: str) -> str:
    """The label of messages about ``word``."""
    return LABELS[WORDS.index(word) % len(LABELS)]


def task(rows: int = 28, *, more: str = "", words: int = len(WORDS)) -> str:
    """The task file: its messages hold one word each that decides."""
    lines = []
    for row in range(rows):
        word = WORDS[row % words]
        lines.append(f"  - {{input: {json.dumps(f'{word} {number(str(row), 9973)} please look')}, output: {right(word)}}}")
    head = f"task: Sort each message.\noutput: [{', '.join(LABELS)}]\nmodels: {{meta: {META}, production: {MODEL}}}\n{more}"
    return f"{head}examples:\n" + "\n".join(lines) + "\n"


def answered(system: str, text: str) -> str:
    """What the production model says: right by a rule or by a shown message; else, and on one rule in eight, by chance."""
    word = next((one for one in WORDS if one in text), "")
    rules = dict(_RULE.findall(system))
    if text in dict(_PAIR.findall(system)):
        return dict(_PAIR.findall(system))[text]
    if word in rules and number(f"{system} {word}", 8):
        return rules[word]
    return LABELS[number(f"{system} {text}", len(LABELS))]


def written(system: str, text: str) -> str:
    """What the meta-model says: the rules of the current prompt, and up to three more from the pairs that it is shown."""
    rules = dict(_RULE.findall(text))
    seen = {given.split()[0]: label for given, label in _PAIR.findall(text) if label in LABELS}
    for word in sorted(seen, key=lambda one: number(f"{text} {one}", 1 << 30))[:3]:
        rules[word] = seen[word]
    stated = "\n".join(f"- Messages about {word} are {label}." for word, label in rules.items())
    prompt = f"Sort each message into one of the labels {', '.join(LABELS)}. Answer with the label alone.\n{stated}"
    if "<diagnosis>" in system:
        return f"<diagnosis>Rules for {len(seen)} words were missing.</diagnosis>\n<prompt>{prompt}</prompt>"
    return prompt


class World:
    """Answers a provider's requests in random times, and can do something when the n-th different one is answered."""

    def __init__(self, seed: int = 0, *, slowest: float = 0.012) -> None:
        self._random, self._slowest = random.Random(seed), slowest
        self._known: set[bytes] = set()
        self.at: dict[int, Callable[[], None]] = {}
        """What to do just before the answer to this request goes out: different requests are counted, from 1."""

    @property
    def different(self) -> int:
        """How many different requests were answered."""
        return len(self._known)

    async def __call__(self, ask: Ask) -> str:
        await asyncio.sleep(self._random.random() * self._slowest)
        body = msgspec.json.encode(ask.body, order="deterministic")
        if body not in self._known:
            self._known.add(body)
            self.at.pop(len(self._known), lambda: None)()
        return written(ask.system, ask.text) if META.endswith(ask.model) else answered(ask.system, ask.text)


class WorldModel:
    """The same world in this process, as a model, with usage and a price."""

    def __init__(self, name: str, price: tuple[float, float], pace: random.Random | None = None) -> None:
        self.name, self._price, self._pace = name, price, pace
        self.answered = self.most = self._under_way = 0
        self.usage, self.usd = Usage(), 0.0

    async def reply(self, request: Request) -> Reply:
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        for _ in range(self._pace.randrange(20) if self._pace else 0):
            await asyncio.sleep(0)
        self._under_way -= 1
        user = request.turns[-1].text
        text = written(request.system, user) if self.name == META else answered(request.system, user)
        usage = Usage(input=request.size() // 4 + 1, output=len(text) // 4 + 1)
        cost = (usage.input * self._price[0] + usage.output * self._price[1]) / 1e6
        self.answered += 1
        self.usage += usage
        self.usd += cost
        return Reply(text=text, model=self.name, usage=usage, cost=cost)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk("", await self.reply(request))


def models(seed: int = 0) -> dict[str, Any]:
    """Both models, answering in an order that ``seed`` decides."""
    pace = random.Random(seed)
    return {MODEL: WorldModel(MODEL, PRODUCTION_PRICE, pace), META: WorldModel(META, META_PRICE, pace)}


def config(url: str = "", *, more: str = "") -> str:
    """A project's settings: prices, 16 calls in flight, and the provider at ``url`` as the endpoint."""
    prices = "".join(
        f"[prices.'{name}']\ninput = {given}\noutput = {made}\n" for name, (given, made) in ((MODEL, PRODUCTION_PRICE), (META, META_PRICE))
    )
    endpoint = f'[endpoints.openai]\nprotocol = "openai"\nforeign = false\nbase_url = "{url}"\napi_key_env = "OPENAI_API_KEY"\n'
    return f"[limits.openai]\nconcurrency = {IN_FLIGHT}\n{more}{prices}{endpoint if url else ''}"


def project_in(folder: Path, url: str = "", *, text: str = "", more: str = "") -> Project:
    """A project in a new folder, with the task ``sort``."""
    (folder / "evals").mkdir(parents=True)
    (folder / "promptsmith.toml").write_text(config(url, more=more))
    (folder / "evals" / "sort.yaml").write_text(text or task())
    return find_project(folder)
