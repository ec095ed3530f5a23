"""Which formats there are, and which one a file is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from . import dotprompt, dspy, github, langfuse, openai_hosted, promptfoo, prompty
from .bodies import request_body
from .carried import checks_left, model_left, output_left, settings_left
from .source import Source
from .values import Foreign, Here, Notes, Outgoing


class Import(NamedTuple):
    """A format that can be read."""

    about: str
    accepts: Callable[[Source], bool]
    read: Callable[[Source, Notes, Here], Foreign]


# Asked in this order: what an extension decides comes first, and promptfoo, which takes any table, last.
IMPORTS: Mapping[str, Import] = {
    "dotprompt": Import("Google dotprompt (.prompt)", dotprompt.accepts, dotprompt.read),
    "prompty": Import("Prompty 1 and 2 (.prompty)", prompty.accepts, prompty.read),
    "github": Import("GitHub Models (.prompt.yml)", github.accepts, github.read),
    "dspy": Import("DSPy program state (.json)", dspy.accepts, dspy.read),
    "openai": Import("OpenAI hosted prompt (pmpt_ JSON)", openai_hosted.accepts, openai_hosted.read),
    "langfuse": Import("Langfuse prompts and dataset items (.json, .jsonl)", langfuse.accepts, langfuse.read),
    "promptfoo": Import("promptfoo (.yaml, .json, .csv, .jsonl)", promptfoo.accepts, promptfoo.read),
}


def detect(source: Source) -> str:
    """The format of a file by its extension and content. Raises :class:`InputError` when it is none of them."""
    for name, form in IMPORTS.items():
        if form.accepts(source):
            return name
    raise InputError(f"{source.file} is no prompt file that can be read", hint=f"name its format: --from {'|'.join(IMPORTS)}")


def imported(path: Path, here: Here, form: str = "") -> tuple[str, Foreign, Notes]:
    """The file's format, what it holds, and what of it has no equivalent.

    Raises :class:`SourceError` for a file
    that can't be read, :class:`InputError` for one that holds nothing to import.
    """
    source = Source(path)
    name = form or detect(source)
    notes = Notes(source.file)
    found = IMPORTS[name].read(source, notes, here)
    if not found.prompt.strip() and not found.cases and not found.description.strip():
        told = "".join(f"\n  {note}" for note in notes)
        raise InputError(f"{source.file} holds no prompt and no examples that could be imported as {name}{told}")
    return name, found, notes


def _text(outgoing: Outgoing, notes: Notes) -> str:
    prompt = outgoing.prompt
    notes.left(None, f"the model {prompt.model} and its parameters are left out: a text has no place for them")
    for variable in prompt.inputs:
        notes.left(None, f"the input {variable.name!r} is left out; it belongs into the user's message between tags of its name")
    output_left(prompt, notes)
    checks_left(prompt, notes)
    settings_left(prompt, notes)
    return prompt.system


def _body(protocol: str) -> Callable[[Outgoing, Notes], str]:
    def write(outgoing: Outgoing, notes: Notes) -> str:
        prompt = outgoing.prompt
        model_left(prompt, notes, "model")
        if prompt.contract.inferred:
            output_left(prompt, notes)
        checks_left(prompt, notes)
        settings_left(prompt, notes)
        notes.left(None, f"{'the name of each input' if prompt.inputs else 'INPUT'} stands where the input goes")
        return json.dumps(request_body(prompt, protocol), indent=2, ensure_ascii=False) + "\n"

    return write


EXPORTS: Mapping[str, Callable[[Outgoing, Notes], str]] = {
    "promptfoo": promptfoo.write,
    "github": github.write,
    "dotprompt": dotprompt.write,
    "prompty": prompty.write,
    "openai": _body("openai"),
    "anthropic": _body("anthropic"),
    "text": _text,
}


def exported(outgoing: Outgoing, form: str) -> tuple[str, Notes]:
    """A prompt as a file of another format, and what that format can't carry."""
    notes = Notes()
    return EXPORTS[form](outgoing, notes), notes
