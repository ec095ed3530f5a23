"""A small world to search prompts in: rows, a production model whose answers depend on the prompt, a model that writes prompts.

Each row holds one of twelve words that decides its label. The production model knows a word when the instructions have a rule for it, or
when an example in the prompt has it; else it guesses. It adds words around some labels unless it is told to write the label alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from promptsmith.chat import Chunk, Reply, Request, Usage
from promptsmith.compiler.build import Compiled, ProjectCompiler
from promptsmith.compiler.draft import meta_prompt
from promptsmith.compiler.material import Options
from promptsmith.compiler.search.record import SearchRecord
from promptsmith.compiler.search.strategies import STRATEGIES
from promptsmith.compiler.search.values import Status
from promptsmith.config import find_project
from promptsmith.prompt import Prompt
from promptsmith.store.folder import open_store
from promptsmith.task import Task
from tests.provider import Ask, Provider

WORDS = {
    "invoice": "billing", "refund": "billing", "charge": "billing",
    "crash": "bug", "freeze": "bug", "glitch": "bug",
    "lovely": "praise", "superb": "praise", "charming": "praise",
    "password": "account", "username": "account", "profile": "account",
}  # fmt: skip
LABELS = ("billing", "bug", "praise", "account")
ALONE = "Write the label alone."
SMALL, BIG = "toy/small", "toy/big"
PRICES = "".join(f"[prices.'{name}']\ninput = 1\noutput = 4\n" for name in (SMALL, BIG))


def number(*parts: object) -> int:
    """The same for the same parts."""
    return int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()[:6], "big")


def text_of(n: int, seed: int = 0) -> str:
    """The input of row ``n``; it says which, so any leak of it can be seen."""
    word = list(WORDS)[number("word", seed, n) % len(WORDS)]
    return f"note {letters(seed, n)} tells of some {word} seen {('today', 'lately', 'twice')[n % 3]}"


def letters(seed: int, n: int) -> str:
    """What names a row in its text: a word that is nowhere else."""
    return "q" + "".join("bcdfghjklmnpqrstvwxz"[digit] for digit in (seed % 20, *(n // 20**place % 20 for place in range(4)))) + "q"


def rows(count: int, seed: int = 0, first: int = 0) -> list[dict[str, str]]:
    return [{"input": text_of(n, seed), "output": label_of(text_of(n, seed))} for n in range(first, first + count)]


def label_of(text: str) -> str:
    return next((label for word, label in WORDS.items() if word in text), LABELS[0])


def a_task(count: int = 60, seed: int = 0, **more: Any) -> Task:
    given: dict[str, Any] = {"name": "notes", "output": list(LABELS), "models": {"production": SMALL, "meta": BIG}, **more}
    given.setdefault("examples", rows(count, seed))
    return Task("Sort customer notes by what they are about.", **given)


# --- what the models say ----------------------------------------------------------------------------------


def answers(system: str, text: str) -> str:
    """The production model's answer."""
    word = next((word for word in WORDS if word in text), "")
    chance = number("answer", text)
    label = label_of(text) if word and word in system else LABELS[chance % len(LABELS)]
    wordy = ALONE not in system and chance % 5 == 0
    return f"That is a difficult one, it could be {label} or something else" if wordy else label


def rule(word: str) -> str:
    return f'A note that has "{word}" in it is {WORDS[word]}.'


def drafted(words: Iterable[str], *more: str) -> str:
    return "\n".join([f"Sort the note. Answer with one label: {', '.join(LABELS)}.", *map(rule, words), *more])


def writes(system: str, turns: Sequence[str], sample: int = 0) -> str:
    """The meta-model's answer: a draft by the strategy it is told, or the current prompt with rules for what failed."""
    given = turns[0]
    if system == meta_prompt("reflection"):
        current, failures = between("current_prompt", given), between("failures", given)
        lacking = [word for word in WORDS if word in failures and rule(word) not in current]
        added = [rule(word) for word in lacking[sample : sample + 2]]
        if "could be" in failures and ALONE not in current:
            added.append(ALONE)
        return f"<diagnosis>It has no rule for {', '.join(lacking)}.</diagnosis>\n<prompt>\n" + "\n".join([current, *added]) + "\n</prompt>"
    place = next((place for place, one in enumerate(STRATEGIES) if meta_prompt(one.name).strip() in system), 0)
    known = [word for n, word in enumerate(WORDS) if number("draft", place, sample, n) % 4 == 0]
    return drafted(known, *([ALONE] if place % 2 else []))


def between(name: str, text: str) -> str:
    """What stands between the tags ``name`` of a request."""
    found = re.search(rf"<{name}((?:-\d+)?)>\n(.*?)\n</{name}\1>", text, re.DOTALL)
    assert found is not None, f"no <{name}> in the request"
    return found[2]


def lines_of(name: str, text: str) -> list[dict[str, str]]:
    """The JSON lines between the tags ``name``."""
    return [json.loads(line) for line in between(name, text).splitlines() if line.startswith("{")]


class Model:
    """A model in this process that keeps what it was asked. ``says`` is given the request; an error it returns is raised.

    With ``at_once`` no more calls than that are under way; ``pace`` gives the turns that a call takes.
    """

    def __init__(
        self, name: str, says: Callable[[Request], object], *, at_once: int | None = None, pace: Callable[[Request], int] = lambda _: 0
    ) -> None:
        self.name, self.says, self.pace = name, says, pace
        self.asked: list[Request] = []
        self._at_once, self._places = at_once, asyncio.Semaphore(at_once or 1)

    async def reply(self, request: Request) -> Reply:
        if self._at_once is None:
            return await self._reply(request)
        async with self._places:
            return await self._reply(request)

    async def _reply(self, request: Request) -> Reply:
        self.asked.append(request)
        for _ in range(self.pace(request)):
            await asyncio.sleep(0)
        said = self.says(request)
        if isinstance(said, Exception):
            raise said
        if isinstance(said, Reply):
            return said
        text = str(said)
        usage = Usage(input=(request.size() + 3) // 4, output=1 + len(text) // 4)
        return Reply(text=text, model=self.name, usage=usage, cost=(usage.input + 4 * usage.output) / 1e6)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk("", await self.reply(request))


def small(says: Callable[[str, str], object] = answers, **more: Any) -> Model:
    return Model(SMALL, lambda request: says(request.system, request.turns[-1].text), **more)


def big(says: Callable[[str, Sequence[str], int], object] = writes, **more: Any) -> Model:
    return Model(BIG, lambda request: says(request.system, [turn.text for turn in request.turns], request.sample), **more)


# --- a compile --------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What a compile came to, and all that was asked on the way."""

    compiled: Compiled
    small: Model
    big: Model
    statuses: tuple[Status, ...]

    @property
    def record(self) -> SearchRecord:
        assert self.compiled.record is not None
        return self.compiled.record

    @property
    def prompt(self) -> Prompt:
        return self.compiled.prompt

    @property
    def template(self) -> Any:
        return next(one for one in self.record.candidates if one.origin.kind == "template")


def compiled(
    task: Task,
    level: int = 2,
    *,
    production: Model | None = None,
    meta: Model | None = None,
    more: Mapping[str, object] | None = None,
    config: str = PRICES,
    folder: Path | None = None,
    force: bool = False,
    **options: Any,
) -> Found:
    """A compile in a project of its own, or in ``folder``."""
    production, meta = production or small(), meta or big()
    seen: list[Status] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        (root / "promptsmith.toml").write_text(config)
        project = find_project(root)
        with open_store(project) as store:
            compiler = ProjectCompiler(project, store, {SMALL: production, BIG: meta, **(more or {})})
            made = asyncio.run(compiler.build(task, Options(level=level, **options), force=force, on_status=seen.append))
    return Found(made, production, meta, tuple(seen))


# --- over a provider --------------------------------------------------------------------------------------

LUNA, SOL = "openai/gpt-6-luna", "openai/gpt-6-sol"


def served(ask: Ask) -> str:
    """Both models behind a provider: the production model is the one with the smaller name."""
    return writes(ask.system, [text for _, text in ask.turns]) if ask.model in SOL else answers(ask.system, ask.text)


def endpoint(provider: Provider) -> str:
    url = f'base_url = "{provider.base_url_openai}"\napi_key_env = "OPENAI_API_KEY"\nforeign = false\n'
    return f'[endpoints.openai]\nprotocol = "openai"\n{url}'


def task_file(more: str = "", examples: str = "examples: {file: rows.jsonl}") -> str:
    lines = [
        "task: Sort customer notes by what they are about.",
        f"output: [{', '.join(LABELS)}]",
        f"models: {{production: {LUNA}, meta: {SOL}}}",
        examples,
    ]
    return "\n".join([*lines, *([more] if more else [])]) + "\n"
