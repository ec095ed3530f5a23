"""What a compile gets to see. It has no field for the holdout, so no compiler can leak it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, count
from pathlib import Path
from typing import NamedTuple

import msgspec

from .. import canonical
from ..budget import NO_LIMITS, Limits
from ..canonical import Scalar
from ..catalog.models import ModelFacts, facts
from ..config import Config
from ..contract import Contract
from ..errors import InputError, did_you_mean
from ..evals.scorers import build_scorers, default_specs, judges
from ..evals.scorers.vocabulary import options_of
from ..evals.suite import DEV_LEAST, DEV_ROWS, dev_rows
from ..evals.vocabulary import VOCABULARY
from ..prompt import Pair, Variable, example_line, layout
from ..task import Constraint, Example, ModelSpec, ScorerSpec, Task, source_digest_of
from ..task.values import ENGINES, PREFERENCES, Prefer

BUILT_LEVELS = (0, 1, 2, 3)
"""The levels that this version can compile."""
SCORED = 2
"""The lowest level that scores candidates: what decides how they are scored matters from there."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options that a caller set for one compile; ``None`` leaves the choice to the task file, then the project."""

    level: int | None = None
    model: str | None = None
    seed: int | None = None
    example_tokens: int | None = None
    meta_model: str | None = None
    candidates: int | None = None
    engine: str | None = None
    prefer: Prefer | None = None
    max_usd: float | None = None
    max_calls: int | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        _known("engine", self.engine, ENGINES)
        _known("preference", self.prefer, PREFERENCES)
        if self.candidates is not None and self.candidates < 1:
            raise InputError(f"{self.candidates} candidates can't be compared", hint="ask for 1 or more")

    @property
    def limits(self) -> Limits:
        """What this compile may spend, as far as the caller set it. Raises :class:`InputError` for a negative limit."""
        return Limits(usd=self.max_usd, calls=self.max_calls, tokens=self.max_tokens, seconds=self.max_seconds)

    def given(self, level: int = BUILT_LEVELS[-1]) -> dict[str, str]:
        """The options that were set and that decide what a compile at ``level`` comes to, as the lock keeps them."""
        silent = _NEVER_KEPT if level >= SCORED else _NEVER_KEPT | _SEARCH
        kept = {name: getattr(self, name) for name in self.__struct_fields__ if name not in silent}
        return {name: str(value) for name, value in kept.items() if value is not None}

    @classmethod
    def from_given(cls, given: Mapping[str, str]) -> Options:
        """The inverse of :meth:`given`."""
        return msgspec.convert(dict(given), cls, strict=False)


_NEVER_KEPT = frozenset({"max_seconds"})
"""A time limit decides whether a compile ends, never what it comes to."""
_SEARCH = frozenset({"candidates", "engine", "prefer", "max_usd", "max_calls", "max_tokens"})
"""Below the levels that search, a budget too decides only whether a compile ends."""


def _known(what: str, name: str | None, names: tuple[str, ...]) -> None:
    if name is not None and name not in names:
        raise InputError(f"unknown {what} {name!r}", hint=did_you_mean(name, names) or f"there are {', '.join(names)}")


# See chat.py.
msgspec.json.Decoder(Options)


DEFAULTS = Options()
"""Nothing set: file and settings decide."""


class Start(msgspec.Struct, frozen=True):
    """The prompt that a compile begins with: the same task's for another model, or from ``-O2`` one written by hand."""

    id: str
    """Prompt id; empty for one written by hand."""
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
    visible: tuple[Example, ...]
    """All rows that are not sealed."""
    examples: tuple[Example, ...]
    """The compile part of ``visible``: it may be shown. All of it where there is no dev part."""
    dev: tuple[Example, ...] = ()
    """The dev part of ``visible``, from ``-O2``: it is only scored."""
    data_seed: int = 0
    """Decides which visible rows are dev."""
    constraints: tuple[Constraint, ...]
    written: str | None
    """The prompt that the task's author wrote by hand."""
    prompt: str | None
    """The same where it is taken as it is; from ``-O2`` the search begins with it (``start``)."""
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
    scorers: tuple[str, ...] = ()
    """From ``-O2``: what decides how an answer is graded, one text for each scorer (its version) and for each row with checks."""
    files: Mapping[str, str] = {}
    """From ``-O2``: sha256 (line ends normalised) of each file that scorers name, by absolute path. They stand in ``scorers`` too."""
    judges: tuple[str, ...] = ()
    """From ``-O2``: the models that judge an answer, one name for each call. They stand in ``scorers`` too."""
    candidates: int | None = None
    """Drafts to compare; ``None``: as many as the dev part can tell apart."""
    engine: str = ENGINES[0]
    prefer: Prefer = PREFERENCES[0]
    limits: Limits = NO_LIMITS
    """The file's budget, tightened by the flags."""
    unscored: str = ""
    """Why a compile that was asked for ``-O2`` or ``-O3`` scores nothing; empty when it does, or was not asked to."""
    start: Start | None = None
    """Part of the build key from ``-O1``; no part of what the user wrote, so it makes no prompt stale."""

    def parts(self) -> dict[str, str]:
        """The user's part of the build key."""
        checks = [f"{c.check.kind}={c.check.value}" if c.check else "" for c in self.constraints]
        return canonical.build_parts(
            description=self.description,
            prompt=self.written,
            inputs=layout(self.inputs),
            contract=self.contract.digest(),
            examples=[example_line(pair_of(example)) for example in self.visible],
            constraints=[f"{line.say}\n{check}" for line, check in zip(self.constraints, checks, strict=True)],
            model=self.model.name,
            params=self.model.parameters,
            level=self.level,
            options=self.build_options(),
            seed=self.seed,
            data_seed=self.data_seed if self.level >= SCORED else None,
            scorers=self.scorers if self.level >= SCORED else None,
        )

    def build_options(self) -> dict[str, Scalar]:
        """Every option, as the build key takes it in: those of a search only where there is one."""
        options: dict[str, Scalar] = {"example_tokens": self.example_tokens}
        if self.level < SCORED:
            return options
        budget = {f"budget.{name}": getattr(self.limits, name) for name in ("usd", "calls", "tokens")}
        search: dict[str, Scalar] = {"candidates": self.candidates, "engine": self.engine, "prefer": self.prefer, **budget}
        return options | {name: value for name, value in search.items() if value is not None}


def pair_of(example: Example) -> Pair:
    """An example as it stands in a prompt."""
    return Pair(example.inputs, example.output, example.json)


def material(task: Task, config: Config, options: Options, root: Path | None = None) -> Material:
    """The compiler's view of ``task``: flags win over the task file, the file over the project's settings.

    The files that scorers name are beside the task file, else below ``root`` (default: the current folder). They are
    read from ``-O2``: raises :class:`SourceError` for what is wrong there, :class:`InputError` for a level that this
    task can't be compiled at.
    """
    model = task.production or ModelSpec(config.models.production)
    if options.model is not None:
        # Parameters belong to the model they were written for.
        model = ModelSpec(options.model, model.parameters if options.model == model.name else {})
    meta = _meta(task, config, options)
    chosen = _level(task, config, options, meta)
    level = chosen.level
    sealed = set(map(id, chosen.dev))
    visible = _apart(task.examples)
    scored = [id(row) in sealed for row in task.examples]
    by_hand = task.prompt if level >= SCORED else None
    grading = _grading(task, root) if level >= SCORED else _Grading()
    return Material(
        name=task.name,
        description=task.description,
        inputs=task.inputs,
        contract=task.contract,
        visible=visible,
        examples=tuple(row for row, is_dev in zip(visible, scored, strict=True) if not is_dev),
        dev=tuple(compress(visible, scored)),
        data_seed=task.data_seed,
        constraints=task.constraints,
        written=task.prompt,
        prompt=None if by_hand is not None else task.prompt,
        model=model,
        known=facts(config.catalog_name(model.name)),
        meta=meta if level else None,
        meta_known=facts(config.catalog_name(meta.name)) if meta else ModelFacts(),
        level=level,
        level_why=chosen.why,
        seed=_first(options.seed, task.options.seed, config.compile.seed),
        example_tokens=_first(options.example_tokens, task.options.example_tokens, config.compile.example_tokens),
        scorers=grading.versions,
        files=grading.files,
        judges=grading.judges,
        candidates=task.options.candidates if options.candidates is None else options.candidates,
        engine=options.engine or task.options.engine or ENGINES[0],
        prefer=options.prefer or task.options.prefer or PREFERENCES[0],
        limits=msgspec.convert(dict(task.options.budget), Limits).tightened(options.limits),
        unscored=chosen.unscored,
        start=None if by_hand is None else Start("", model.name, by_hand),
    )


def _apart(rows: Sequence[Example]) -> tuple[Example, ...]:
    """``rows`` with an id each: one that repeats or contradicts another is a row of its own."""
    taken = {row.id for row in rows}
    apart: list[Example] = []
    seen: set[str] = set()
    for row in rows:
        name = row.id if row.id not in seen else next(name for n in count(2) if (name := f"{row.id}-{n}") not in taken)
        seen.add(row.id)
        taken.add(name)
        apart.append(row if name == row.id else msgspec.structs.replace(row, id=name))
    return tuple(apart)


class _Grading(NamedTuple):
    """What decides how an answer is graded, and the model of each call that grading one takes."""

    versions: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    files: Mapping[str, str] = {}


def _grading(task: Task, root: Path | None) -> _Grading:
    root = (root or Path()).absolute()
    folder = Path(task.file).parent if task.file else root
    scorers = build_scorers(task.scorers, task.contract, folder=folder)
    checked = [f"{canonical.input_digest(row.inputs)} {check.kind}={check.value}" for row in task.examples for check in row.checks]
    if checked and not task.scorers:
        checked.append("alone")  # they stand in for scorers that nobody named
    # A judge that compares two answers sees them in both orders.
    asked = [name for one in judges(scorers) for name in one.judge.models for _ in range(2 if one.judge.pairs else 1)]
    files = {str(path): source_digest_of(path) for spec in task.scorers for path in _files(spec, folder, root)}
    return _Grading((*(scorer.version for scorer in scorers), *checked), tuple(asked), files)


def _files(spec: ScorerSpec, folder: Path, root: Path) -> Iterator[Path]:
    """The files that a scorer names, and the module of its function where that is one of the project's own."""
    yield from (folder / name for name in VOCABULARY.files(spec) if (folder / name).is_file())
    module = sys.modules.get(str(options_of(spec).get("function", "")).rpartition(":")[0])
    file = Path(getattr(module, "__file__", None) or "/").resolve()
    own = file.is_relative_to(root.resolve()) and "site-packages" not in file.parts
    if own and file.is_file():
        yield root / file.relative_to(root.resolve())


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _meta(task: Task, config: Config, options: Options) -> ModelSpec | None:
    if options.meta_model is not None:
        same = task.meta is not None and task.meta.name == options.meta_model
        return task.meta if same else ModelSpec(options.meta_model)
    if task.meta is not None:
        return task.meta
    return ModelSpec(config.models.meta) if config.models.meta else None


class _Level(NamedTuple):
    """The level of a compile and why, and the rows that it scores."""

    level: int
    why: str
    dev: tuple[Example, ...] = ()
    unscored: str = ""


def _level(task: Task, config: Config, options: Options, meta: ModelSpec | None) -> _Level:
    level, why = _asked_level(task, config, options, meta)
    if level not in BUILT_LEVELS:
        raise InputError(f"there is no level {level}", hint=f"compile with -O{BUILT_LEVELS[0]} to -O{BUILT_LEVELS[-1]}")
    if level and meta is None:
        raise InputError(
            f"-O{level} ({why}) needs a meta-model, and none is named",
            hint="name one by --meta-model, in the task file (models: {meta: …}) or in the settings ([models] meta), or compile with -O0",
        )
    if level < SCORED:
        return _Level(level, why)
    dev = tuple(dev_rows(task.examples, task.data_seed))
    graded = task.scorers or default_specs(task.contract) or any(row.checks for row in task.examples)
    if dev and graded:
        return _Level(level, why, dev)
    unscored = f"unscored: {_too_few(task)}" if graded else f"unscored: {_UNGRADED}"
    # A prompt written by hand is not thrown away for a draft that nothing has shown to be better.
    return _Level(1 if task.prompt is None else 0, f"-O{level} {why}; {unscored}", unscored=unscored)


_UNGRADED = "the task names no scorers, and its contract has nothing to grade a text by"


def _too_few(task: Task) -> str:
    rows = len(task.examples)
    told = f"{rows} example{'s' * (rows != 1)}"
    if rows < DEV_ROWS:
        return f"{told}, and a dev part needs {DEV_ROWS}"
    return f"{told}, which data seed {task.data_seed} does not part into {DEV_LEAST} to show and {DEV_LEAST} to score"


def _asked_level(task: Task, config: Config, options: Options, meta: ModelSpec | None) -> tuple[int, str]:
    if options.level is not None:
        return options.level, "asked for"
    if task.options.level is not None:
        return task.options.level, "set in the task file"
    if task.prompt is not None:
        return 0, "its prompt is written by hand"
    if config.compile.level is not None:
        return config.compile.level, "set in the project's settings"
    return (1, f"the meta-model {meta.name} is named") if meta else (0, "no meta-model is named")
