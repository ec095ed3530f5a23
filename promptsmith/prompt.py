r"""The compiled prompt, and the two texts whose writing and reading must agree: example block and user turn.

The example block holds one JSON object a line between ``<examples>`` and ``</examples>``. JSON keeps an
example's text on its line; ``</`` inside it is written ``<\/``, so nothing in an example can close the block,
and characters that an editor or YAML would break a line at are written as escapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from . import canonical
from .canonical import Scalar
from .contract import Contract
from .errors import InputError, TamperedError, did_you_mean

TEXT_INPUT = "input"
"""The name of the one free-text input of a task that declares none."""

_OPEN = "<examples>"
_CLOSE = "</examples>"
_TAGGED = re.compile(r"<([A-Za-z_][\w-]*)>\n(.*?)\n</\1>(?:\n|\Z)", re.DOTALL)
# Compiled by re when first used: serving a prompt writes no example.
_UNSAFE = "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]"


class Variable(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One declared input. ``default`` is used when a call leaves it out; ``max_chars`` bounds its length."""

    name: str
    default: str | None = None
    max_chars: int | None = None
    about: str = ""


class Build(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the prompt was built from, so that a later look can tell whether it is stale (design: ``compile --check``)."""

    key: str
    inputs: dict[str, str]
    """16 hex digits for each part of what the user wrote (task, examples, contract, ...): names what changed."""
    epoch: int
    sources: dict[str, str] = {}
    """sha256 of each file the task names (line ends normalised), by path relative to the project."""
    defaults: str = ""
    """Digest of what the project's settings contributed."""
    options: dict[str, str] = {}
    """Options that came from flags of the command, as text."""
    meta_prompts: str = ""
    start: str = ""
    """Id of the prompt for another model that the meta-model began with; empty when it wrote this one from the task alone."""


class FrontRow(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One candidate that no other beat in score, tokens and dollars at once."""

    id: str
    score: float
    """Mean score on the dev cases, 0 to 1."""
    tokens: float
    """Mean tokens of a call, in and out."""
    usd_per_1k: float | None = None
    """US dollars for 1,000 calls with the provider's prompt cache warm; ``None``: price unknown."""


class Searched(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a search (``-O2``, ``-O3``) came to, in short; the whole record stands in the cache."""

    engine: str
    reason: str
    """Why it ended: done, perfect, plateau, budget, time or provider."""
    prefer: str
    dev: int
    """Cases that candidates were scored on."""
    candidates: int
    score: float | None = None
    """Mean score of this prompt on the dev cases, as seen: not corrected for having been chosen; ``None``: not scored."""
    template: float | None = None
    """The same of the ``-O0`` prompt."""
    gain: tuple[float, float, float] | None = None
    """Over the ``-O0`` prompt, corrected for the choice: estimate, lower and upper end, as shares."""
    compared: int = 0
    """Candidates that it was chosen among, by which ``gain`` is corrected."""
    calls: int = 0
    usd: float | None = None
    front: tuple[FrontRow, ...] = ()
    record: str = ""
    """sha256 of the record."""


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where a prompt comes from. Not part of its identity."""

    created: str
    """UTC time, RFC 3339, whole seconds."""
    version: str
    """The promptsmith version that built it."""
    level: int
    level_why: str
    build: Build
    seed: int = 0
    meta: str = ""
    visible: str = ""
    """12 hex digits of the normalised input of each visible example, joined by blanks."""
    shown: int = 0
    """How many examples stand in the prompt."""
    notes: tuple[str, ...] = ()
    search: Searched | None = None
    """From ``-O2``."""


class Serve(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How answers are served; not part of the identity."""

    on_contract_break: str = ""
    cache: bool = False
    fallback: tuple[str, ...] = ()
    escalate: str = ""
    capture: float = 0.0
    """The share of live calls (0 to 1) whose redacted inputs and outputs are kept in the cache folder for review."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A compiled prompt: immutable, addressed by its content."""

    id: str
    task: str
    system: str
    contract: Contract
    model: str
    parameters: dict[str, Scalar] = {}
    inputs: tuple[Variable, ...] = ()
    renderer: int
    """Required, so that it is written with every prompt: a default would change ids when the renderer's version rises."""
    serve: Serve = Serve()
    provenance: Provenance

    def computed_id(self) -> str:
        """The id that this content has."""
        return canonical.prompt_id(
            system=self.system,
            contract=self.contract.digest(),
            model=self.model,
            params=self.parameters,
            layout=layout(self.inputs),
            renderer=self.renderer,
        )

    def verified(self) -> Prompt:
        """Itself. Raises :class:`TamperedError` when the content does not have the id that it carries."""
        found = self.computed_id()
        if found != self.id:
            raise TamperedError(
                f"prompt {self.id[:12]} of {self.task} does not match its id (its content is {found[:12]}): "
                "it was changed after it was compiled",
                hint="restore it from git or compile the task again",
            )
        return self


# See chat.py.
msgspec.json.Decoder(Prompt)


def make_prompt(
    *,
    task: str,
    system: str,
    contract: Contract,
    model: str,
    parameters: Mapping[str, Scalar],
    inputs: Sequence[Variable],
    serve: Serve,
    provenance: Provenance,
) -> Prompt:
    """A prompt with the id that its content has. Line ends in ``system`` become LF; a lone surrogate is an error."""
    prompt = Prompt(
        id="",
        task=task,
        system=system.replace("\r\n", "\n").replace("\r", "\n"),
        contract=contract,
        model=model,
        parameters=dict(sorted(parameters.items())),
        inputs=tuple(inputs),
        renderer=canonical.RENDERER,
        serve=serve,
        provenance=provenance,
    )
    return msgspec.structs.replace(prompt, id=prompt.computed_id())


def layout(inputs: Sequence[Variable]) -> str:
    """How the user turn is laid out, as identity sees it: ``text``, or the declared variables in order."""
    return msgspec.json.encode(inputs).decode() if inputs else "text"


# --- the example block ------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """One example as it stands in a prompt: its input variables and its output text."""

    inputs: Mapping[str, str]
    output: str
    json: bool = False
    """Whether the output is a JSON value: then it stands in the line as JSON, not as a string (but see ``example_line``)."""


def example_line(pair: Pair) -> str:
    """The line of one example, without its line end.

    A JSON output that is itself a string stands there as text with its quotes: bare, it could not be told from the
    text output without them, and the quotes belong to the answer.
    """
    given: object = pair.inputs[TEXT_INPUT] if list(pair.inputs) == [TEXT_INPUT] else dict(pair.inputs)
    head = json.dumps(given, ensure_ascii=False)
    bare = pair.json and not pair.output.lstrip().startswith('"')
    tail = _one_line(pair.output) if bare else json.dumps(pair.output, ensure_ascii=False)
    line = f'{{"input": {head}, "output": {tail}}}'
    return re.sub(_UNSAFE, lambda match: f"\\u{ord(match[0]):04x}", line.replace("</", "<\\/"))


def _one_line(text: str) -> str:
    # Line breaks between JSON tokens carry no meaning, and inside strings they can only stand escaped.
    return text.replace("\r", " ").replace("\n", " ")


def example_block(pairs: Iterable[Pair]) -> str:
    """The block of all ``pairs``, its tags included, without a final line end."""
    return "\n".join([_OPEN, *map(example_line, pairs), _CLOSE])


def read_examples(system: str) -> list[Pair]:
    """The pairs of the last example block in a system prompt; empty when it has none.

    Raises :class:`InputError` for a block that was not written by :func:`example_block`.
    """
    span = example_lines(system)
    lines = system.split("\n")
    return [_read_line(lines[number], number + 1) for number in span[1:-1]]


def example_lines(system: str) -> range:
    """Which lines of a system prompt (counted from 0) are its last example block, tags included; empty when it has none."""
    lines = system.split("\n")
    if _CLOSE not in lines:
        return range(0)
    end = len(lines) - 1 - lines[::-1].index(_CLOSE)
    start = max((number for number, line in enumerate(lines[:end]) if line == _OPEN), default=None)
    return range(0) if start is None else range(start, end + 1)


def _read_line(line: str, number: int) -> Pair:
    try:
        row = json.loads(line)
        given, output = row["input"], row["output"]
        inputs = {TEXT_INPUT: given} if isinstance(given, str) else {key: str(value) for key, value in given.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(
            f"line {number} of the system prompt stands in the example block but is no example",
            hint='an example is one line: {"input": "…", "output": "…"}',
        ) from None
    if isinstance(output, str):
        return Pair(inputs, output)
    return Pair(inputs, json.dumps(output, ensure_ascii=False), json=True)


def without_examples(system: str) -> str:
    """A system prompt without its last example block; for looking at the instructions alone."""
    block = example_lines(system)
    if not block:
        return system
    lines = system.split("\n")
    return "\n".join([*lines[: block.start], *lines[block.stop :]]).rstrip()


# --- the user turn ----------------------------------------------------------------------------------------


def bind(inputs: Sequence[Variable], given: str | Mapping[str, str]) -> dict[str, str]:
    """The variables of one call, complete and in declared order.

    Raises :class:`InputError` naming a missing, unknown, non-text or overlong variable.
    """
    declared = inputs or (Variable(TEXT_INPUT),)
    names = [variable.name for variable in declared]
    if isinstance(given, str):
        if len([v for v in declared if v.default is None]) > 1 or not names:
            raise InputError(
                f"this task takes named inputs ({', '.join(names)}), not one text",
                hint="give them by name: --var name=value, or a mapping in Python",
            )
        given = {next((v.name for v in declared if v.default is None), names[0]): given}
    if not isinstance(given, Mapping):
        raise InputError(f"an input is a text or a mapping of names to texts, not {type(given).__name__}")
    for name in given:
        if name not in names:
            raise InputError(f"unknown input {name!r}; this task takes {', '.join(names)}", hint=did_you_mean(str(name), names))
    return {variable.name: _value(variable, given) for variable in declared}


def _value(variable: Variable, given: Mapping[str, str]) -> str:
    text = given.get(variable.name, variable.default)
    if text is None:
        raise InputError(f"input {variable.name!r} is missing", hint=variable.about)
    if not isinstance(text, str):
        raise InputError(f"input {variable.name!r} must be text, not {type(text).__name__}")
    if variable.max_chars is not None and len(text) > variable.max_chars:
        raise InputError(f"input {variable.name!r} has {len(text)} characters, more than its limit of {variable.max_chars}")
    return text


def user_turn(inputs: Sequence[Variable], values: Mapping[str, str]) -> str:
    """The user turn: the text itself for a task with one free-text input, else each variable between its own tags.

    A tag that occurs in a value gets a number, so no value can close its tag; the values pass unchanged.
    """
    if not inputs:
        return values[TEXT_INPUT]
    names = [variable.name for variable in inputs]
    return "\n".join(_tagged(name, values[name], names) for name in names)


def fenced(name: str, text: str) -> str:
    """``text`` between tags called ``name``, numbered when it holds such a tag itself: it can't close its fence."""
    return _tagged(name, text, (name,))


def turn_text(turn: str) -> str:
    """A user turn without the tags that :func:`user_turn` put around its variables; any other text is itself."""
    values, end = [], 0
    while end < len(turn):
        found = _TAGGED.match(turn, end)
        if found is None:
            return turn
        values.append(found[2])
        end = found.end()
    return "\n".join(values)


def _tagged(name: str, text: str, names: Sequence[str]) -> str:
    tag, number = name, 1
    while f"</{tag}>" in text or (tag in names and tag != name):
        number += 1
        tag = f"{name}-{number}"
    return f"<{tag}>\n{text}\n</{tag}>"
