"""``-O1``: the meta-model drafts the instructions; they are cleaned, linted and, once, repaired."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

import msgspec

from .. import canonical
from ..catalog.models import allowance
from ..chat import Reply, Request, Turn, Usage, total_cost
from ..contract import check_line, format_lines, shorten
from ..errors import DraftError, PromptsmithError
from ..models import Model
from ..prompt import example_line, fenced
from ..redact import redact
from .analysis import analyse
from .clean import cleaned
from .facts import fact_lines
from .lint import LintFinding, Subject, lint, listed
from .material import Material, pair_of
from .select import by_coverage

META_PROMPTS = ("draft", "repair")
RETARGET_PROMPTS = ("retarget", "repair")
_ONE_INPUT = "one free text, which is the user's whole message"
_DRAFT_TOKENS = 4096
_SHOWN_TOKENS = 12_000
"""About how many tokens of examples the meta-model is shown."""


class Draft(msgspec.Struct, frozen=True):
    """Instructions that passed the lint, and what they took."""

    text: str
    calls: int
    cost: float | None
    meta: str
    usage: Usage = Usage()

    @property
    def told(self) -> str:
        """What it took, in words."""
        cost = "at an unknown price" if self.cost is None else f"for ${self.cost:.4f}"
        return f"written by {self.meta} in {self.calls} call{'s' * (self.calls != 1)} {cost}"


@cache
def meta_prompt(name: str) -> str:
    """A meta-prompt, as its file holds it."""
    return files("promptsmith").joinpath("compiler", "meta_prompts", f"{name}.md").read_text("utf-8")


def meta_prompts_digest(*, started: bool = False) -> str:
    """Digest of every meta-prompt that ``-O1`` uses; another one is another build. ``started``: it begins with a prompt."""
    return canonical.digest({name: canonical.sha256(meta_prompt(name)) for name in (RETARGET_PROMPTS if started else META_PROMPTS)})


def first_request(source: Material) -> Request:
    """What the meta-model is asked first: the task as fenced data, apart from the instructions."""
    assert source.meta is not None
    return asking(source, meta_prompt("retarget" if source.start else "draft"), fences(brief(source)))


async def draft(source: Material, model: Model) -> Draft:
    """Instructions from the meta-model. Raises :class:`DraftError` saying what came back and what was paid.

    A truncated answer is asked for once more with double the room; faults that the lint finds are told to the
    meta-model once. What still has faults then, was refused, or is empty never becomes a prompt. An error names the replies
    that were ``paid``.
    """
    paid: list[Reply] = []
    try:
        return await _drafted(source, model, paid)
    except PromptsmithError as error:
        error.paid = tuple(paid)
        raise


async def _drafted(source: Material, model: Model, paid: list[Reply]) -> Draft:
    request = first_request(source)
    reply = await _ask(model, request, paid)
    text, faults = _looked_at(source, reply)
    if faults:
        reply = await _ask(model, repairing(request, reply.text, faults), paid)
        text, faults = _looked_at(source, reply)
    if faults:
        raise DraftError(
            f"the meta-model {reply.model} wrote no prompt that can be used; {_spent(paid)}. What is wrong with it:\n{listed(faults)}",
            hint=f"it wrote {shorten(redact(text), 200)}",
        )
    return Draft(text, len(paid), total_cost(reply.cost for reply in paid), reply.model, sum((one.usage for one in paid), Usage()))


async def _ask(model: Model, request: Request, paid: list[Reply]) -> Reply:
    reply = await model.reply(request)
    paid.append(reply)
    if reply.stop == "length":
        reply = await model.reply(longer(request))
        paid.append(reply)
    if reply.stop != "end":
        why = {"length": "was cut off at its length limit, twice"}.get(reply.stop, f"was {reply.stop}")
        raise DraftError(
            f"the answer of the meta-model {reply.model} {why}; {_spent(paid)}", hint=f"it said {shorten(redact(reply.text), 200)}"
        )
    return reply


def _looked_at(source: Material, reply: Reply) -> tuple[str, list[LintFinding]]:
    text = cleaned(reply.text)
    return text, lint(subject(source, text))


def subject(source: Material, text: str) -> Subject:
    """``text`` as instructions for this task, for the lint."""
    own = [line.say for line in source.constraints] + [variable.about for variable in source.inputs]
    own += [check_line(line.check) for line in source.constraints if line.check]
    return Subject(text=text, contract=source.contract, description=source.description, allowed="\n".join(own))


def asking(source: Material, system: str, told: str, sample: int = 0) -> Request:
    """A request to the meta-model of ``source``; another ``sample`` makes it another request."""
    assert source.meta is not None
    room = _DRAFT_TOKENS + allowance(source.meta_known)
    return Request(
        model=source.meta.name,
        system=system,
        turns=(Turn("user", told),),
        parameters={"max_tokens": room, **source.meta.parameters},
        sample=sample,
    )


def longer(request: Request) -> Request:
    """``request`` with double the room for its answer, which was cut off."""
    return msgspec.structs.replace(request, parameters={**request.parameters, "max_tokens": 2 * int(request.parameters["max_tokens"] or 0)})


def repairing(request: Request, said: str, faults: Sequence[LintFinding]) -> Request:
    """``request`` gone on with: what was answered to it, and what is wrong with that."""
    told = meta_prompt("repair").replace("{faults}", listed(faults)).strip()
    return msgspec.structs.replace(request, turns=(*request.turns, Turn("assistant", said.strip() or "(nothing)"), Turn("user", told)))


def brief(source: Material, *, placed: bool = True) -> dict[str, str]:
    """The task as named texts. ``placed``: it is settled which examples will stand behind the prompt, and told."""
    parts = {
        **outline(source),
        "examples": "\n".join(_shown(source)) or "none",
        "facts": "\n".join(fact_lines(analyse(source), placed=placed)),
        "target": target(source),
    }
    if source.start is not None:
        parts |= {"old_target": f"{source.start.model} followed the current prompt.", "current_prompt": source.start.instructions}
    return parts


def outline(source: Material) -> dict[str, str]:
    """What the user wrote of the task, its examples left out."""
    return {
        "task": source.description.strip(),
        "inputs": "\n".join(f"{v.name}: {v.about}".rstrip(": ") for v in source.inputs) or _ONE_INPUT,
        "contract": "\n".join(format_lines(source.contract)),
        "constraints": "\n".join(check_line(c.check) if c.check and not c.say else c.say for c in source.constraints) or "none",
    }


def fences(parts: Mapping[str, str]) -> str:
    """Texts between tags. What stands there can't close its tag, and is called data by the meta-prompt."""
    return "\n\n".join(fenced(name, text) for name, text in parts.items())


def _shown(source: Material) -> Sequence[str]:
    chosen = by_coverage(source.examples, tokens=_SHOWN_TOKENS, seed=source.seed)
    return [example_line(pair_of(example)) for example in chosen]


def target(source: Material) -> str:
    """What is known of the model that will follow the prompt."""
    known = source.known
    lines = [f"{source.model.name} follows the prompt."]
    if source.model.parameters:
        lines.append(f"It is called with {json.dumps(dict(source.model.parameters))}.")
    if known.structured:
        lines.append("It can be held to a JSON Schema by its provider, so the form matters less than the content.")
    if known.efforts:
        lines.append("It reasons before it answers; its answer is still the answer alone.")
    return "\n".join(lines)


def _spent(paid: Sequence[Reply]) -> str:
    cost = total_cost(reply.cost for reply in paid)
    usage = sum((reply.usage for reply in paid), Usage())
    money = "at an unknown price" if cost is None else f"${cost:.4f}"
    return f"{len(paid)} call{'s' * (len(paid) != 1)}, {usage.input} tokens in and {usage.output} out, {money}"
