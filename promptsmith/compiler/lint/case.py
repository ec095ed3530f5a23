"""A whole prompt to be judged: its text, what it is for, who serves it, and which texts it must not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import msgspec

from ...canonical import Scalar
from ...catalog.models import ModelFacts
from ...config import Project
from ...contract import Contract, TextShape, check_line, format_lines
from ...errors import UnknownName
from ...evals.suite import dev_rows, sealed_texts
from ...models.directory import Directory
from ...models.served import is_foreign, served_facts
from ...prompt import Prompt, example_lines
from ...task import Constraint, Example, ModelSpec, Task
from .reading import INSTRUCTION_TOKENS, Subject

Texts = Mapping[str, Sequence[str]]
"""Case ids with the texts that give the case away."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The production model of a prompt, as far as it is at an endpoint of the project."""

    name: str
    parameters: Mapping[str, Scalar]
    facts: ModelFacts
    protocol: str
    foreign: bool
    api: str | None = None


class Case(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What is judged. ``declared`` is false for a text of which nothing is known: then its contract says nothing."""

    system: str
    contract: Contract = Contract(TextShape(), inferred=True)
    declared: bool = True
    description: str = ""
    allowed: str = ""
    instruction_tokens: int = INSTRUCTION_TOKENS
    example_tokens: int | None = None
    target: Target | None = None
    holdout: Texts = {}
    dev: Texts = {}
    dev_shown: bool = True
    """Whether dev rows may stand among the examples: below ``-O2`` nothing is chosen by their score."""

    @cached_property
    def instructions(self) -> Subject:
        """The prompt without its example block, whose lines are left empty so that the others keep their numbers."""
        lines = self.system.split("\n")
        for number in example_lines(self.system):
            lines[number] = ""
        return self._subject("\n".join(lines))

    @cached_property
    def whole(self) -> Subject:
        """The whole prompt."""
        return self._subject(self.system)

    def _subject(self, text: str) -> Subject:
        return Subject(
            text=text,
            contract=self.contract,
            description=self.description,
            allowed=self.allowed,
            most_tokens=self.instruction_tokens,
        )


def case_of_text(text: str, task: Task | None, project: Project, tokens: int | None = None) -> Case:
    """A text as the prompt of ``task``: the one in its ``prompt:``, or a file's. Without a task nothing is known of it."""
    if task is None:
        return Case(system=text, declared=False, instruction_tokens=tokens or INSTRUCTION_TOKENS)
    spec = task.production or ModelSpec(project.config.models.production)
    return Case(
        system=text,
        contract=task.contract,
        description=task.description,
        allowed=_own_words(task, task.contract),
        instruction_tokens=tokens or INSTRUCTION_TOKENS,
        example_tokens=_example_tokens(task, {}, project),
        target=_target(spec.name, spec.parameters, project),
        dev_shown=False,
        holdout=_texts(task.holdout, task.contract),
        dev=_texts(dev_rows(task.examples, task.data_seed), task.contract),
    )


def case_of_prompt(prompt: Prompt, task: Task | None, project: Project, tokens: int | None = None) -> Case:
    """A compiled prompt; with its task, where that still has a file, what the user said there is no fault."""
    made = prompt.provenance
    return Case(
        system=prompt.system,
        contract=prompt.contract,
        description=task.description if task else "",
        allowed=_own_words(task, prompt.contract),
        instruction_tokens=tokens or INSTRUCTION_TOKENS,
        example_tokens=_example_tokens(task, made.build.options, project),
        target=_target(prompt.model, prompt.parameters, project),
        dev_shown=made.level < 2,
        holdout=_texts(task.holdout, task.contract) if task else {},
        dev=_texts(dev_rows(task.examples, task.data_seed), task.contract) if task else {},
    )


def _texts(rows: Sequence[Example], contract: Contract) -> Texts:
    return {row.id: sealed_texts(row.inputs, row.output, contract) for row in rows}


def _own_words(task: Task | None, contract: Contract) -> str:
    own = format_lines(contract)
    if task is not None:
        own += [task.description, *map(_constraint_words, task.constraints), *(variable.about for variable in task.inputs)]
    return "\n".join(own)


def _constraint_words(constraint: Constraint) -> str:
    return f"{constraint.say}\n{check_line(constraint.check)}" if constraint.check else constraint.say


def _example_tokens(task: Task | None, flags: Mapping[str, str], project: Project) -> int:
    if "example_tokens" in flags:
        return int(flags["example_tokens"])
    own = task.options.example_tokens if task else None
    return project.config.compile.example_tokens if own is None else own


def _target(name: str, parameters: Mapping[str, Scalar], project: Project) -> Target | None:
    try:
        endpoint = Directory(project).endpoint(name)
    except UnknownName:
        return None
    if endpoint is None:
        return None
    return Target(
        name=name,
        parameters=parameters,
        facts=served_facts(name, endpoint),
        protocol=endpoint.protocol,
        foreign=is_foreign(endpoint),
        api=endpoint.api,
    )
