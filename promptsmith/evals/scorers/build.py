"""From the scorers that a task names to scorers that grade."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...chat import Reply, Request
from ...contract import Contract, JsonShape, schema_problem
from ...errors import InputError, Problem, SourceError
from ...task.values import ScorerSpec
from . import answers, function, items, json_values, language, limits, similar, text
from .calibration import Judged, read_calibration
from .common import Common, Inner, Wrapped, folded
from .judge import Ask, Judge, Scale
from .matching import Matcher, Pattern
from .protocol import Scorer, Unscored
from .vocabulary import KINDS, PASS_FAIL, check_specs, default_specs, options_of, path_steps, scale_of

VERSIONS: Mapping[str, int] = {**dict.fromkeys(KINDS, 1)}
"""Raised for a scorer when the same answer could be graded differently."""


class Calibrated(NamedTuple):
    """A judge of a suite with what says how far it may be trusted."""

    name: str
    judge: Judge
    file: Path | None
    """Rows that people judged; ``None`` where the task names none, and nothing is known about the judge."""
    min_kappa: float

    def rows(self) -> list[Judged]:
        """The rows of ``file``. Raises :class:`SourceError`."""
        return read_calibration(self.file, self.judge) if self.file is not None else []

    def trust(self) -> str:
        """What decides whether this judge may gate, for an eval's identity: the demanded kappa and the digest of the rows."""
        rows = _digest(self.file.read_text("utf-8")) if self.file is not None else ""
        return f"{self.name} {self.min_kappa:g} {rows}"


class _Place(NamedTuple):
    """What scorers of one suite share."""

    contract: Contract
    folder: Path
    ask: Ask | None
    matcher: Matcher


def build(specs: Sequence[ScorerSpec], contract: Contract, *, folder: Path, ask: Ask | None) -> tuple[Scorer, ...]:
    """See :func:`promptsmith.evals.scorers.build_scorers`."""
    specs = tuple(specs) or default_specs(contract)
    wrong = check_specs(specs, contract)
    if wrong:
        raise SourceError(Problem(one.spec.where.file, one.spec.where.line, one.what, one.right) for one in wrong)
    place = _Place(contract, folder, ask, Matcher())
    built: list[Scorer] = []
    problems: list[Problem] = []
    for spec in specs:
        try:
            built.append(_scorer(spec, place))
        except InputError as error:
            problems.append(Problem(spec.where.file, spec.where.line, f"scorer {spec.name!r}: {error.message}", error.hint))
    if problems:
        raise SourceError(problems)
    return tuple(built)


def judging(scorers: Iterable[Scorer]) -> tuple[Calibrated, ...]:
    """See :func:`promptsmith.evals.scorers.judges`."""
    return tuple(scorer.calibrated for scorer in scorers if isinstance(scorer, _Judging))


class _Judging(Wrapped):
    """A judge as a scorer, which can say what it is to be calibrated with."""

    def __init__(self, judge: Judge, common: Common, version: str, *, file: Path | None, min_kappa: float) -> None:
        super().__init__(judge.grade, common, version)
        self.calibrated = Calibrated(common.name, judge, file, min_kappa)


def _scorer(spec: ScorerSpec, place: _Place) -> Scorer:
    kind = KINDS[spec.name]
    given = options_of(spec)
    options = {name: given.get(name, option.default) for name, option in kind.all_options().items()}
    # A pattern is not folded, and its flag folds the text for it.
    by_flag = spec.name == "regex"
    common = Common(
        name=options["name"] or spec.name,
        weight=options["weight"],
        threshold=None if spec.name == "judge" else options["threshold"],
        negated=options["not"],
        extract=Pattern(options["extract"], place.matcher) if options["extract"] else None,
        ignore_case=kind.text and options["ignore_case"] and not by_flag,
        strip=kind.text and options["strip"],
    )
    if kind.text and not by_flag and "value" in kind.options:
        value = (options["value"],) if spec.name in _SEVERAL and isinstance(options["value"], str) else options["value"]
        options["value"] = text.prepared(value, lambda one: folded(one, ignore_case=common.ignore_case, strip=common.strip))
    if spec.name == "judge":
        return _judging(options, given, common, place)
    inner, parts = _MAKERS[spec.name](options, place)
    return Wrapped(inner, common, _version(spec.name, given, *parts))


_SEVERAL = ("contains_all", "contains_any", "set", "list")


def _version(name: str, given: Mapping[str, Any], *parts: str) -> str:
    """Name, version number, the options as written in a stable order, and digests of what they name."""
    options = {option: value for option, value in given.items() if option not in _UNGRADED}
    written = json.dumps(options, sort_keys=True, ensure_ascii=True, default=str) if options else ""
    return " ".join(filter(None, [f"{name}/{VERSIONS[name]}", written, *parts]))


_UNGRADED = ("calibrate", "min_kappa")
"""Options that say who may decide, and change no grade."""

Made = tuple[Inner, Sequence[str]]
"""A way of grading, and digests of what it was made from besides its options."""


def _schema(options: Mapping[str, Any], place: _Place) -> Made:
    schema, shape = options["schema"], place.contract.shape
    if schema is None:
        assert isinstance(shape, JsonShape)
        found = shape.schema
    else:
        found = json.dumps(_read_json(place.folder, schema) if isinstance(schema, str) else schema, ensure_ascii=False)
    return json_values.json_schema(found), [f"schema:{_digest(found)}"]


def _read_json(folder: Path, name: str) -> Any:
    text = _read_text(folder, name, "the schema file")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the schema file {name!r} is not JSON: {error}") from None
    problem = schema_problem(schema) if isinstance(schema, dict | bool) else "it is no object"
    if problem:
        raise InputError(f"the schema file {name!r} is no JSON Schema: {problem}")
    return schema


def _read_text(folder: Path, name: str, what: str) -> str:
    try:
        return (folder / name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{what} {name!r} can't be read: {why}", hint="give a path relative to the task file") from None


def _digest(content: str) -> str:
    from ... import canonical

    return canonical.sha256(content)[:16]


def _json_diff(options: Mapping[str, Any], place: _Place) -> Made:
    rules = json_values.Rules(options["tolerance"] or 0.0, options["relative"] or 0.0, options["ignore_order"])
    ignore = options["ignore"] or ()
    paths = [path_steps(path) for path in ([ignore] if isinstance(ignore, str) else ignore)]
    return json_values.json_diff(rules, paths, typed=isinstance(place.contract.shape, JsonShape)), ()


def _function(options: Mapping[str, Any], place: _Place) -> Made:
    loaded = function.load(options["function"], place.folder)
    made = function.python(loaded, options["function"], timeout=options["timeout"], threshold=options["threshold"])
    return made, [f"sha256:{loaded.digest}"] if loaded.digest else ()


def _number(options: Mapping[str, Any], place: _Place) -> Made:  # noqa: ARG001 - one shape for all makers
    value, tolerance, relative = options["value"], options["tolerance"] or 0.0, options["relative"] or 0.0
    return answers.number(value, tolerance=tolerance, relative=relative, decimal=options["decimal"]), ()


_MAKERS: Mapping[str, Callable[[Mapping[str, Any], _Place], Made]] = {
    "exact": lambda options, place: (text.exact(options["value"]), ()),
    "label": lambda options, place: (text.label(options["value"]), ()),
    "contains": lambda options, place: (text.contains(options["value"]), ()),
    "contains_all": lambda options, place: (text.contains_all(options["value"]), ()),
    "contains_any": lambda options, place: (text.contains_any(options["value"]), ()),
    "starts_with": lambda options, place: (text.starts_with(options["value"]), ()),
    "ends_with": lambda options, place: (text.ends_with(options["value"]), ()),
    "regex": lambda options, place: (text.regex(options["value"], place.matcher, ignore_case=options["ignore_case"]), ()),
    "number": _number,
    "choice": lambda options, place: (answers.choice(options["value"], options["letters"]), ()),
    "set": lambda options, place: (items.as_set(options["value"], options["separator"]), ()),
    "list": lambda options, place: (items.as_list(options["value"], options["separator"]), ()),
    "json_schema": _schema,
    "json_diff": _json_diff,
    "fuzzy": lambda options, place: (similar.fuzzy(options["value"], options["kind"]), ()),
    "rouge_l": lambda options, place: (similar.rouge_l(options["value"]), ()),
    "word_limit": lambda options, place: (text.word_limit(options["min"], options["max"]), ()),
    "contract": lambda options, place: (limits.holds_contract(place.contract), [f"contract:{place.contract.digest()[:16]}"]),
    "same_language": lambda options, place: (language.same_language(options["value"], options["against"]), ()),
    "latency": lambda options, place: (limits.latency(options["max"]), ()),
    "cost": lambda options, place: (limits.cost(options["max"]), ()),
    "python": _function,
}


# --- judges -----------------------------------------------------------------------------------------------


def _judging(options: Mapping[str, Any], given: Mapping[str, Any], common: Common, place: _Place) -> Scorer:
    criteria = options["criteria"] or _read_text(place.folder, options["rubric"], "the rubric").strip()
    if not criteria:
        raise InputError(f"the rubric {options['rubric']!r} is empty", hint="write there what makes an answer good")
    models = options["models"] or options["model"]
    judge = Judge(
        [models] if isinstance(models, str) else models,
        criteria,
        place.ask or _nobody,
        scale=_scale(options),
        pairs=options["against"] if options["pairwise"] else "",
        same_model=options["same_model"],
    )
    file = place.folder / options["calibrate"] if options["calibrate"] else None
    if file is not None:
        read_calibration(file, judge)
    version = _version("judge", given, f"rubric:{judge.digest()}")
    return _Judging(judge, common, version, file=file, min_kappa=options["min_kappa"])


async def _nobody(request: Request) -> Reply:
    raise Unscored(f"the judge {request.model} can't be asked: no model is called here")


def _scale(options: Mapping[str, Any]) -> Scale:
    """The marks and the lowest that passes; a threshold is the same mark said as a score."""
    mark, threshold = options["pass"], options["threshold"]
    if options["pairwise"]:
        return Scale(mark=threshold if threshold is not None else 0.5 if mark == "tie" else 1.0)
    if options["scale"] == PASS_FAIL:
        return Scale()
    low, high = scale_of(options["scale"]) or (0, 1)
    return Scale(low, high, mark if mark is not None else low + threshold * (high - low))
