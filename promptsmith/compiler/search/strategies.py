"""The ways in which ``-O2`` has its drafts written: distinct instructions to the meta-model, each a meta-prompt file.

Drafts that differ in approach, not in sampling noise alone, are what makes choosing among them worth its calls: APE (Zhou et al.
2022, arXiv:2211.01910) searches over instructions that a model induces from examples, ProTeGi (Pryzant et al. 2023,
arXiv:2305.03495) writes them from errors, MIPRO (Opsahl-Ong et al. 2024, arXiv:2406.11695) grounds its proposals in
facts about the data and in tips of different kinds.
"""

from __future__ import annotations

import json
from statistics import median

import msgspec

from ... import canonical
from ...catalog.models import allowance
from ...contract import Contract, JsonShape, TextShape, count_words
from ..draft import meta_prompt
from ..material import SCORED, Material

COMMON = "drafting"
"""The meta-prompt that holds what every strategy has in common, with a place for what it alone says."""
REPAIR = "repair"
REFLECTION = "reflection"

_ROOM_WORDS = 40
"""How long free text has to be before reasoning can be a part of it, and how many words that may take."""
_ROOM_KEYS = frozenset(
    {"analysis", "explanation", "justification", "rationale", "reason", "reasoning", "reasons", "steps", "thinking", "thoughts", "working"}
)
"""Names of keys that hold why the rest of the answer is as it is."""


class Strategy(msgspec.Struct, frozen=True):
    """One way to have a prompt drafted; its meta-prompt file has the same name."""

    name: str
    needs_failures: bool = False
    """Whether it works from answers that failed: of the instructions of the ``-O0`` prompt, without its examples."""


CONTRACT_FIRST = Strategy("contract_first")
CONTRAST_RULES = Strategy("contrast_rules")
SHORTEST = Strategy("shortest")
ERROR_DRIVEN = Strategy("error_driven", needs_failures=True)
WORKED_REASONING = Strategy("worked_reasoning")
STRATEGIES = (CONTRACT_FIRST, CONTRAST_RULES, SHORTEST, ERROR_DRIVEN, WORKED_REASONING)
"""All of them; :func:`strategies_for` says which take part."""


def strategies_for(source: Material) -> tuple[Strategy, ...]:
    """The strategies that can do something for this task, always in the same order.

    ``contrast_rules`` needs examples with different outputs, ``worked_reasoning`` room for it (:func:`room_for_reasoning`).
    """
    without = set()
    if len({example.output for example in source.examples}) < 2:
        without.add(CONTRAST_RULES)
    if not room_for_reasoning(source):
        without.add(WORKED_REASONING)
    return tuple(strategy for strategy in STRATEGIES if strategy not in without)


def system_of(strategy: Strategy) -> str:
    """The instructions to the meta-model: the common ones with those of ``strategy`` in their place."""
    return meta_prompt(COMMON).replace("{strategy}", meta_prompt(strategy.name).strip())


def search_prompts_digest(level: int) -> str:
    """Digest of every meta-prompt that a search at ``level`` (2 or 3) can use, whatever the task; another one is another build."""
    names = [COMMON, REPAIR, *(strategy.name for strategy in STRATEGIES), *([REFLECTION] if level > SCORED else [])]
    return canonical.digest({name: canonical.sha256(meta_prompt(name)) for name in names})


# --- where reasoning may stand ----------------------------------------------------------------------------


def room_for_reasoning(source: Material) -> str:
    """Where the target's reasoning may stand, in words for the meta-model; empty when there is no such place.

    The answer is served as it is, so asking for reasoning in it breaks a label, and any JSON whose schema has no key
    for it. There is room where the model reasons by itself (the catalog's facts, with the effort that the task sets);
    in a key that the user's schema has for it; and in free text that is long: half of the examples have 40 words or
    more, a word limit leaves 40 above that, and no pattern, line limit or character limit says how it looks. Of a
    model that is not in the catalog nothing is known, so it has no reasoning of its own.
    """
    if _reasons(source):
        return "The target model reasons by itself before it answers. Its reasoning stands there; its answer is the answer alone."
    if key := _key_for_it(source.contract):
        return f"The answer itself has a key for it, {json.dumps(key, ensure_ascii=False)}. Reasoning stands there and nowhere else."
    if _is_long_text(source):
        return "The answer is free text of some length. Reasoning may stand at its beginning, in at most two sentences."
    return ""


def _reasons(source: Material) -> bool:
    effort = source.model.parameters.get("effort")
    return source.known.thinking_always_on or allowance(source.known, effort if isinstance(effort, str) else None) > 0


def _key_for_it(contract: Contract) -> str:
    """The first key of a JSON object that is free text and named for reasoning, or an empty string."""
    if not isinstance(contract.shape, JsonShape):
        return ""
    schema = json.loads(contract.shape.schema)
    properties = schema.get("properties") if isinstance(schema, dict) else None
    for key, value in (properties if isinstance(properties, dict) else {}).items():
        is_text = isinstance(value, dict) and value.get("type") == "string" and not value.keys() & {"enum", "const", "pattern", "maxLength"}
        if is_text and key.casefold() in _ROOM_KEYS:
            return str(key)
    return ""


def _is_long_text(source: Material) -> bool:
    shape = source.contract.shape
    if not isinstance(shape, TextShape) or not source.examples:
        return False
    limits = [int(check.value) for check in source.contract.checks if check.kind == "max_words"]
    limits += [shape.max_words] if shape.max_words is not None else []
    formed = shape.regex or shape.max_chars or shape.max_lines or any(check.kind == "regex" for check in source.contract.checks)
    words = median(count_words(example.output) for example in source.examples)
    return not formed and words >= _ROOM_WORDS and all(limit >= words + _ROOM_WORDS for limit in limits)
