"""The same task for another production model: which options stay, and what changes in the text."""

from __future__ import annotations

import difflib
from typing import NamedTuple

import msgspec

from ..config import Config
from ..errors import InputError
from ..prompt import Prompt, example_line, read_examples
from ..task import ModelSpec, Task
from .material import SCORED, Options
from .template import instructions_of


def options_for(
    before: Prompt, task: Task, config: Config, model: str, *, meta_model: str | None = None, level: int | None = None
) -> Options:
    """The options that ``before`` was compiled with, but for the model; ``meta_model`` and ``level`` as asked for now.

    Raises :class:`InputError` when ``before`` is for ``model`` already.
    """
    if before.model == model:
        raise InputError(f"{before.task}@{before.id[:12]} is for {model} already", hint="name another model")
    kept = Options.from_given(before.provenance.build.options)
    named = task.production or ModelSpec(config.models.production)
    # Once the file names the model, it decides, parameters included: no option of a command is to outlive a later edit.
    kept = msgspec.structs.replace(kept, model=None if named.name == model else model)
    if meta_model is not None:
        kept = msgspec.structs.replace(kept, meta_model=meta_model, level=None)
    if level is None:
        return kept
    # An engine is a part of the level that it was named for.
    return msgspec.structs.replace(kept, level=level, engine=kept.engine if level > SCORED else None)


class TextChange(NamedTuple):
    """Lines of the instructions, and examples, that one prompt has and the other has not."""

    added: int
    removed: int
    examples_added: int
    examples_removed: int

    def words(self) -> str:
        """For a person."""
        if not any(self):
            return "the same"
        return f"instructions +{self.added} -{self.removed} lines, examples +{self.examples_added} -{self.examples_removed}"


def text_change(before: Prompt, after: Prompt) -> TextChange:
    """What differs between two prompts' texts."""
    was, now = (instructions_of(prompt.system).split("\n") for prompt in (before, after))
    changes = [code for code in difflib.SequenceMatcher(None, was, now, autojunk=False).get_opcodes() if code[0] != "equal"]
    old, new = ({example_line(pair) for pair in read_examples(prompt.system)} for prompt in (before, after))
    return TextChange(
        added=sum(code[4] - code[3] for code in changes),
        removed=sum(code[2] - code[1] for code in changes),
        examples_added=len(new - old),
        examples_removed=len(old - new),
    )
