"""What a compile gets to see. It has no field for the holdout, so no compiler can leak it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .. import canonical
from ..canonical import Scalar
from ..catalog.models import ModelFacts, facts
from ..config import Config
from ..contract import Contract
from ..errors import InputError
from ..prompt import Pair, Variable, example_line, layout
from ..task import Constraint, Example, ModelSpec, Task

LEVELS = (0, 1, 2, 3)
BUILT_LEVELS = (0, 1)
"""The levels that this version can compile."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options that a caller set for one compile; ``None`` leaves the choice to the task file, then the project."""

    level: int | None = None
    model: str | None = None
    seed: int | None = None
    example_tokens: int | None = None
    meta_model: str | None = None

    def given(self) -> dict[str, str]:
        """The options that were set, as the lock keeps them."""
        return {name: str(value) for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}

    @classmethod
    def from_given(cls, given: Mapping[str, str]) -> Options:
        """The inverse of :meth:`given`."""
        return msgspec.convert(dict(given), cls, strict=False)


# See chat.py.
msgspec.json.Decoder(Options)


DEFAULTS = Options()
"""Nothing set: file and settings decide."""


class Start(msgspec.Struct, frozen=True):
    """The prompt that a meta-model begins with when it writes one of the same task for another model."""

    id: str
    model: str
    """What it was written for."""
    instructions: str
    """Its text without its examples."""


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """A task as the compiler sees it, with every choice made."""

    name: str
    description: str
    inputs: tuple[Variable, ...]
    contract: Contract
    examples: tuple[Example, ...]
    constraints: tuple[Constraint, ...]
    prompt: str | None
    model: ModelSpec
    known: ModelFacts
    """What the catalog knows of the production model."""
    meta: ModelSpec | None
    """The model that writes the prompt; ``None`` at ``-O0``."""
    meta_known: ModelFacts
    level: int
    level_why: str
    seed: int
    example_tokens: int
    extra: Mapping[str, Scalar] = {}
    """Options that only higher levels use; part of the identity wherever they are set."""
    start: Start | None = None
    """Part of the build key from ``-O1``; no part of what the user wrote, so it makes no prompt stale."""

    def parts(self) -> dict[str, str]:
        """The user's part of the build key."""
        checks = [f"{c.check.kind}={c.check.value}" if c.check else "" for c in self.constraints]
        return canonical.build_parts(
            description=self.description,
            prompt=self.prompt,
            inputs=layout(self.inputs),
            contract=self.contract.digest(),
            examples=[example_line(pair_of(example)) for example in self.examples],
            constraints=[f"{line.say}\n{check}" for line, check in zip(self.constraints, checks, strict=True)],
            model=self.model.name,
            params=self.model.parameters,
            level=self.level,
            options=self.build_options(),
            seed=self.seed,
        )

    def build_options(self) -> dict[str, Scalar]:
        """Every option, as the build key takes it in."""
        return {"example_tokens": self.example_tokens, **self.extra}


def pair_of(example: Example) -> Pair:
    """An example as it stands in a prompt."""
    return Pair(example.inputs, example.output, example.json)


def material(task: Task, config: Config, options: Options) -> Material:
    """The compiler's view of ``task``: flags win over the task file, the file over the project's settings."""
    model = task.production or ModelSpec(config.models.production)
    if options.model is not None:
        # Parameters belong to the model they were written for.
        model = ModelSpec(options.model, model.parameters if options.model == model.name else {})
    meta = _meta(task, config, options)
    level, why = _level(task, config, options, meta)
    return Material(
        name=task.name,
        description=task.description,
        inputs=task.inputs,
        contract=task.contract,
        examples=task.examples,
        constraints=task.constraints,
        prompt=task.prompt,
        model=model,
        known=facts(config.catalog_name(model.name)),
        meta=meta if level else None,
        meta_known=facts(config.catalog_name(meta.name)) if meta else ModelFacts(),
        level=level,
        level_why=why,
        seed=_first(options.seed, task.options.seed, config.compile.seed),
        example_tokens=_first(options.example_tokens, task.options.example_tokens, config.compile.example_tokens),
        extra=_extra(task),
    )


def _extra(task: Task) -> dict[str, Scalar]:
    options = task.options
    named = {"candidates": options.candidates, "engine": options.engine, "prefer": options.prefer}
    # A time limit decides whether a compile ends, never what it comes to.
    budget = {f"budget.{name}": float(value) for name, value in options.budget.items() if name != "seconds"}
    return {name: value for name, value in (named | budget).items() if value is not None}


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _meta(task: Task, config: Config, options: Options) -> ModelSpec | None:
    if options.meta_model is not None:
        same = task.meta is not None and task.meta.name == options.meta_model
        return task.meta if same else ModelSpec(options.meta_model)
    if task.meta is not None:
        return task.meta
    return ModelSpec(config.models.meta) if config.models.meta else None


def _level(task: Task, config: Config, options: Options, meta: ModelSpec | None) -> tuple[int, str]:
    level, why = _default_level(task, meta)
    if options.level is not None:
        level, why = options.level, "asked for"
    elif task.options.level is not None:
        level, why = task.options.level, "set in the task file"
    elif config.compile.level is not None:
        level, why = config.compile.level, "set in the project's settings"
    if level not in BUILT_LEVELS:
        raise InputError(
            f"-O{level} ({why}) can't be compiled by this version of promptsmith, which has -O0 and -O1",
            hint="compile with -O1",
        )
    if level and meta is None:
        raise InputError(
            f"-O{level} ({why}) needs a meta-model, and none is named",
            hint="name one by --meta-model, in the task file (models: {meta: …}) or in the settings ([models] meta), or compile with -O0",
        )
    return level, why


def _default_level(task: Task, meta: ModelSpec | None) -> tuple[int, str]:
    if task.prompt is not None:
        return 0, "its prompt is written by hand"
    return (1, f"the meta-model {meta.name} is named") if meta else (0, "no meta-model is named")
