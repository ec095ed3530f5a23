"""``promptsmith diff``."""

from __future__ import annotations

import difflib
import json
from typing import Any

import click
import msgspec

from ...prompt import Prompt, example_line, read_examples
from ..frame import json_option, open_workspace, project_option, short, write_json


@click.command("diff")
@click.argument("a")
@click.argument("b")
@json_option
@project_option
def command(a: str, b: str, as_json: bool, project_dir: str | None) -> None:
    """Compare two prompts: model, contract, inputs, examples and the rest of the text."""
    resolver = open_workspace(project_dir).resolver
    before, after = resolver.resolve(a, prefer="latest").prompt, resolver.resolve(b, prefer="latest").prompt
    parts = compared(before, after)
    if as_json:
        write_json({"a": before.id, "b": after.id, "same": before.id == after.id, **parts})
    else:
        click.echo(_readable(before, after, parts), nl=False)


def compared(before: Prompt, after: Prompt) -> dict[str, Any]:
    """What differs between two prompts, part by part; a part that is the same is left out."""
    parts: dict[str, Any] = {}
    for name, (old, new) in {
        "model": ({"model": before.model, **before.parameters}, {"model": after.model, **after.parameters}),
        "contract": (_contract(before), _contract(after)),
        "inputs": (msgspec.to_builtins(before.inputs), msgspec.to_builtins(after.inputs)),
    }.items():
        if old != new:
            parts[name] = _structural(old, new)
    old_lines, new_lines = ([example_line(pair) for pair in read_examples(prompt.system)] for prompt in (before, after))
    removed, added = [line for line in old_lines if line not in set(new_lines)], [line for line in new_lines if line not in set(old_lines)]
    if removed or added:
        parts["examples"] = {"removed": removed, "added": added}
    text = list(_text_diff(before, after, set(old_lines) | set(new_lines)))
    if text:
        parts["text"] = text
    return parts


def _contract(prompt: Prompt) -> Any:
    data = msgspec.to_builtins(prompt.contract)
    shape = data["shape"]
    if "schema" in shape:
        shape["schema"] = json.loads(shape["schema"])
    return data


def _structural(old: Any, new: Any) -> list[str]:
    from deepdiff import DeepDiff

    found: list[str] = DeepDiff(old, new, verbose_level=2).pretty().splitlines()
    return found


def _text_diff(before: Prompt, after: Prompt, examples: set[str]) -> list[str]:
    """A unified diff of the lines that are no examples (those are listed apart)."""
    old, new = ([line for line in prompt.system.split("\n") if line not in examples] for prompt in (before, after))
    return list(difflib.unified_diff(old, new, short(before.id), short(after.id), lineterm=""))


def _readable(before: Prompt, after: Prompt, parts: dict[str, Any]) -> str:
    if not parts:
        return f"{short(before.id)} and {short(after.id)}: the same\n"
    lines = [f"{before.task} {short(before.id)} -> {after.task} {short(after.id)}"]
    for name in ("model", "contract", "inputs"):
        if name in parts:
            lines += ["", f"{name}:", *(f"  {line}" for line in parts[name])]
    if "examples" in parts:
        change = parts["examples"]
        lines += ["", f"examples: {len(change['removed'])} removed, {len(change['added'])} added"]
        lines += [f"- {line}" for line in change["removed"]] + [f"+ {line}" for line in change["added"]]
    if "text" in parts:
        lines += ["", "text:", *parts["text"]]
    return "\n".join(lines) + "\n"
