"""What families are written with: facets of common forms, and words that make inputs vary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .world import Facet, Kind, Slots

NAMES = (
    "Ada", "Bo", "Carla", "Deniz", "Emil", "Farah", "Goran", "Hanna", "Ivo", "Jun", "Kaya", "Lior", "Mina", "Nils", "Oona", "Pavel",
    "Quinn", "Rosa", "Sami", "Tessa", "Umar", "Vera", "Wim", "Xenia", "Yusuf", "Zoe",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NUMBERS = tuple(str(number) for number in range(1012, 9990, 173))


def always(output: str) -> Callable[[Slots], str]:
    """The same output for every input of a kind."""
    return lambda slots: output


def rule(name: str, about: str, topic: str, right: str, astray: str, *, alone: float = 0.25) -> Facet:
    """A rule that inputs about ``topic`` (in words; ``about`` recognises it) get the label ``right``, not ``astray``."""
    return Facet(
        name=name,
        about=about,
        right=rf"\b{right}\b",
        astray=rf"\b{astray}\b",
        says=(
            f"Messages about {topic} are {right}.",
            f"Answer {right} whenever the matter is {topic}.",
            f"{topic[0].upper()}{topic[1:]}: always {right}, whatever else the message says.",
        ),
        wrong=(f"Messages about {topic} are {astray}.", f"Answer {astray} whenever the matter is {topic}."),
        alone=alone,
    )


def easy(name: str, weight: float, label: str, *texts: str) -> Kind:
    """Inputs that the model gets right unaided."""
    return Kind(name, weight, texts, always(label))


def odd(name: str, weight: float, facet: str, label: str, instead: str, *texts: str) -> Kind:
    """Inputs whose label is told by one facet; without it the answer is ``instead``."""
    return Kind(name, weight, texts, always(label), {facet: instead})


def in_json(values: Mapping[str, Any]) -> str:
    """A JSON answer, as a task's examples have it."""
    return json.dumps(dict(values))


def value_of(
    name: str,
    key: str,
    patterns: tuple[str, str, str],
    says: tuple[str, ...],
    wrong: str,
    instead: Callable[[Slots], Any],
    *,
    alone: float = 0.25,
) -> Facet:
    """A rule for one key of a JSON answer, whose value is ``instead`` of the slots without it. ``patterns``: about, right, astray."""

    def spoil(expected: str, slots: Slots) -> str:
        return json.dumps({**json.loads(expected), key: instead(slots)})

    return Facet(name, *patterns, says, (wrong,), alone, key, spoil=spoil)


def schema(**types: Sequence[str] | str) -> dict[str, Any]:
    """A JSON Schema of a flat object whose keys are all required."""
    properties = {key: {"type": list(kind) if not isinstance(kind, str) else kind} for key, kind in types.items()}
    return {"type": "object", "properties": properties, "required": list(types), "additionalProperties": False}
