"""What the compiler read from a task, in words, before anything is built."""

from __future__ import annotations

from collections import Counter

from ..catalog.tokens import estimate
from ..contract import Labels, explain, format_lines
from .material import Material
from .select import examples_for
from .template import system_prompt


def explained(source: Material) -> str:
    """Lines about the contract, the examples, their balance and lengths, and what the prompt will hold."""
    chosen = examples_for(source)
    lines = [
        f"task       {source.name}",
        f"level      -O{source.level} ({source.level_why})",
        f"model      {source.model.name}",
        f"contract   {explain(source.contract) if source.contract.inferred else 'declared in the task file'}",
        *(f"           {line}" for line in format_lines(source.contract)),
        f"examples   {len(source.examples)} visible, {len(chosen)} chosen by coverage within {source.example_tokens} tokens",
    ]
    if source.examples:
        lengths = sorted(sum(map(len, example.inputs.values())) for example in source.examples)
        lines.append(f"inputs     {lengths[0]} to {lengths[-1]} characters, half of them up to {lengths[(len(lengths) - 1) // 2]}")
        if isinstance(source.contract.shape, Labels):
            lines += _balance(source, source.contract.shape)
    lines.append(f"prompt     about {estimate(system_prompt(source, chosen))} tokens (estimated, four characters each)")
    return "\n".join(lines)


def _balance(source: Material, shape: Labels) -> list[str]:
    counts = Counter(example.output for example in source.examples)
    lines = ["labels     " + ", ".join(f"{label} {count}" for label, count in counts.most_common())]
    missing = [label for label in shape.labels if label not in counts]
    if missing:
        lines.append(f"           no example shows {', '.join(missing)}")
    return lines
