"""How often a provider's prompt cache is written and read: ours beside a naive use, the same prompt and inputs.

The naive client sends the system prompt and the input with no marks, as most code does. From gpt-5.6 on the provider
then marks the latest message itself, so each call writes the whole prompt and none reads it. Counts, not times.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import openai

from promptsmith import Runtime, Usage
from promptsmith.config import Project, find_project
from promptsmith.runtime import Failure
from tests.provider import KEY, Provider, constant

from .projects import promoted

CALLS = 50
MODEL = "gpt-6-luna"
TASK = f"task: Sort it.\noutput: [positive, negative]\nmodels: {{production: openai/{MODEL}}}\nexamples:\n" + "".join(
    f'  - {{input: "{word} number {n}, with enough text around it that the prompt is worth caching", output: {label}}}\n'
    for n in range(60)
    for word, label in (("fine", "positive"), ("awful", "negative"))
)


def ours(project: Project) -> list[Usage]:
    """The usage of each call through ``run_many``."""
    with Runtime(project) as runtime:
        results = runtime.run_many("sentiment", [f"input {n}" for n in range(CALLS)], concurrency=16)
    return [result.usage for result in results if not isinstance(result, Failure)]


def naive(url: str, system: str) -> list[Usage]:
    """The usage of each call of the official client, used as its first example shows."""
    found = []
    with openai.OpenAI(api_key=KEY, base_url=url) as client:
        for n in range(CALLS):
            messages = [{"role": "system", "content": system}, {"role": "user", "content": f"input {n}"}]
            usage: Any = client.chat.completions.create(model=MODEL, messages=messages).usage  # type: ignore[arg-type]  # plain dicts
            details = usage.prompt_tokens_details
            found.append(Usage(input=usage.prompt_tokens, cached=details.cached_tokens or 0, written=details.cache_write_tokens or 0))
    return found


def main() -> None:
    """Prints writes, reads and tokens of both."""
    os.environ["OPENAI_API_KEY"] = KEY
    with Provider(constant("positive")) as provider, promoted({"sentiment": TASK}) as made:
        settings = f'[endpoints.openai]\nprotocol = "openai"\nbase_url = "{provider.base_url_openai}"\n'
        (made.root / "promptsmith.toml").write_text(settings + 'api_key_env = "OPENAI_API_KEY"\nforeign = false\n')
        project = find_project(made.root)
        system = Runtime(project).resolve("sentiment").prompt.system
        rows = {"promptsmith": ours(project), "naive": naive(provider.base_url_openai, system)}
    for name, usages in rows.items():
        writes, reads = (sum(getattr(usage, field) > 0 for usage in usages) for field in ("written", "cached"))
        written, cached = (sum(getattr(usage, field) for usage in usages) for field in ("written", "cached"))
        sys.stdout.write(f"{name:12} {len(usages)} calls: {writes} writes ({written} tokens), {reads} reads ({cached} tokens)\n")


if __name__ == "__main__":
    main()
