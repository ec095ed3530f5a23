"""What several exporters do alike: parameters by the other side's names, and words for what can't go along."""

from __future__ import annotations

from collections.abc import Mapping

from ..canonical import Scalar
from ..contract import Labels, TextShape, check_line, shorten
from ..prompt import Prompt
from ..task import Example
from .values import Notes, Outgoing


def parameters_as(prompt: Prompt, names: Mapping[str, str], notes: Notes) -> dict[str, Scalar]:
    """The prompt's parameters by the other side's names; those without one are noted."""
    for name in prompt.parameters:
        if name not in names:
            notes.left(None, f"the parameter {name} ({prompt.parameters[name]}) has no place in this format")
    return {names[name]: value for name, value in prompt.parameters.items() if name in names}


def model_left(prompt: Prompt, notes: Notes, key: str) -> bool:
    """Whether the model exists in promptsmith alone, which is noted: somebody has to name another under ``key``."""
    only_here = prompt.model.startswith("builtin/")
    if only_here:
        notes.left(None, f"the model {prompt.model} exists only in promptsmith: name one under {key!r}")
    return only_here


def output_left(prompt: Prompt, notes: Notes) -> None:
    """Notes a contract of labels or limits: the prompt says it in words, and nobody over there enforces it."""
    shape = prompt.contract.shape
    if isinstance(shape, Labels):
        notes.left(None, f"the contract (one of {len(shape.labels)} labels) is told in the prompt and enforced by promptsmith only")
    elif isinstance(shape, TextShape) and shape != TextShape() and not prompt.contract.inferred:
        notes.left(None, "the contract's limits of the text are told in the prompt and enforced by promptsmith only")


def checks_left(prompt: Prompt, notes: Notes) -> None:
    """Notes the checks of constraints."""
    for check in prompt.contract.checks:
        notes.left(None, f"the check {shorten(check_line(check))} is enforced by promptsmith only")


def settings_left(prompt: Prompt, notes: Notes) -> None:
    """Notes what belongs to serving, and bounds of inputs."""
    serve = prompt.serve
    for name in ("on_contract_break", "cache", "fallback", "escalate", "capture"):
        if value := getattr(serve, name):
            notes.left(None, f"serve: {name} ({', '.join(value) if isinstance(value, tuple) else value}) has no place in this format")
    for variable in prompt.inputs:
        if variable.max_chars is not None:
            notes.left(None, f"the limit of {variable.max_chars} characters for the input {variable.name!r} has no place in this format")


def example_inputs(outgoing: Outgoing, example: Example, rename: Mapping[str, str] | None = None) -> dict[str, str]:
    """An example's inputs under the names that the template has."""
    return {(rename or {}).get(name, name): example.inputs[name] for name in outgoing.names}
