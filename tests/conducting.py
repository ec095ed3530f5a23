"""A provider whose models conduct, play experts and judge as a test tells them to."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from promptsmith.orchestration.conductor import template

from .provider import Ask, Provider, Said

STRONG, CHEAP = "openai/gpt-6.1-sol", "openai/gpt-6-luna"
PRICES = f'[prices."{STRONG}"]\ninput = 40\noutput = 200\n[prices."{CHEAP}"]\ninput = 1\noutput = 5\n'
_FENCED = re.compile(r"<([A-Za-z_][\w-]*)>\n(.*?)\n</\1>(?:\n\n|\Z)", re.DOTALL)

Answer = str | Said | Callable[[Ask], "str | Said | Awaitable[str]"]


def settings(provider: Provider, more: str = "", *, prices: str = PRICES) -> str:
    """A project whose conductor is the strong model of ``provider``, and whose experts are the cheap one."""
    address = f'base_url = "{provider.base_url_openai}"\napi_key_env = "OPENAI_API_KEY"\nforeign = false\n'
    models = f'[models]\nproduction = "{CHEAP}"\nconductor = "{STRONG}"\n'
    return f'{models}[compile]\nlevel = 0\n[endpoints.openai]\nprotocol = "openai"\n{address}{prices}{more}'


def parts(text: str) -> list[tuple[str, str]]:
    """The fenced parts of a request, by name, in order; fails when anything stands between them."""
    found, end = [], 0
    while end < len(text):
        match = _FENCED.match(text, end)
        assert match is not None, f"no fence at {text[end : end + 80]!r}"
        found.append((match[1], match[2]))
        end = match.end()
    return found


def step(name: str, *needs: str, expert: str = "", **more: Any) -> dict[str, Any]:
    """A step as a conductor writes it."""
    said = {"id": name, "expert": expert or f"{name}-expert", "instructions": f"Do {name}.", "needs": list(needs), "context": list(needs)}
    return {**said, "problem": not needs, **more}


def plan(*steps: dict[str, Any], synthesis: str = "Put all of it together.", **more: Any) -> str:
    """A plan in JSON with an expert for each name that a step has."""
    names = dict.fromkeys(one["expert"] for one in steps if one.get("expert"))
    experts = [{"name": name, "role": f"Knows {name}.", "scope": "That alone.", "instructions": "Be exact."} for name in names]
    return json.dumps({"analysis": "It has parts.", "experts": experts, "steps": list(steps), "synthesis": synthesis, **more})


def done(answer: str = "The whole answer.", **more: Any) -> str:
    """A decision that the results are enough."""
    empty: dict[str, Any] = {"reason": "Enough.", "ask": [], "experts": [], "steps": [], "insights": [], "conflicts": [], "attribution": []}
    return json.dumps({**empty, "decision": "done", "answer": answer, **more})


def decision(choice: str, **more: Any) -> str:
    """A decision for more work."""
    return done("", **{"decision": choice, **more})


class Models:
    """Answers plans, reviews and ways round in the order given (the last one for all that follow); experts say what they did."""

    def __init__(self, *plans: Answer, reviews: Sequence[Answer] = (), ways: Sequence[Answer] = (), expert: Answer | None = None) -> None:
        self.said: dict[str, list[Answer]] = {"plan": list(plans), "review": list(reviews) or [done()], "replan": list(ways)}
        self.expert: Answer = expert if expert is not None else did
        self.asked: list[tuple[str, Ask]] = []

    def __call__(self, ask: Ask) -> str | Said | Awaitable[str]:
        kind = kind_of(ask)
        self.asked.append((kind, ask))
        if kind == "expert":
            return _one(self.expert, ask)
        said = self.said[kind]
        return _one(said.pop(0) if len(said) > 1 else said[0], ask)

    def of(self, kind: str) -> list[Ask]:
        """What was asked of this kind."""
        return [ask for one, ask in self.asked if one == kind]

    def kinds(self) -> list[str]:
        """The kinds of all calls, in their order."""
        return [kind for kind, _ in self.asked]


def kind_of(ask: Ask) -> str:
    """``plan``, ``review``, ``replan`` or ``expert``."""
    for name, kind in (("conductor", "plan"), ("review", "review"), ("replan", "replan")):
        if ask.system.startswith(template(name).split("\n")[0]):
            return kind
    return "expert"


def _one(answer: Answer, ask: Ask) -> str | Said | Awaitable[str]:
    return answer(ask) if callable(answer) else answer


def did(ask: Ask) -> str:
    assigned = re.search(r"<instructions>\n(.*?)\n</instructions>", ask.text, re.DOTALL)
    return f"Result of: {assigned[1] if assigned else ask.text}"
