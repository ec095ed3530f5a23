"""The names of scorers and their options: what may stand under ``scorers:`` in a task.

The task reader checks by this table, and the reference page is checked against it; nothing here loads a scorer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...contract import Contract, JsonShape, Labels, TextShape, bad_regex, schema_problem
from ...errors import did_you_mean
from ...task.values import ScorerSpec


class Wrong(NamedTuple):
    """One mistake in a list of scorers. ``option`` is empty when the scorer as a whole is meant."""

    spec: ScorerSpec
    option: str
    what: str
    right: str


class Takes(NamedTuple):
    """What an option may hold: ``fits`` says whether a value does, ``right`` what to write when it does not."""

    right: str
    fits: Callable[[Any], bool]


class Option(NamedTuple):
    """One option of a scorer."""

    takes: Takes
    about: str
    default: Any = None
    required: bool = False


Doubts = Iterator[tuple[str, str, str]]
"""Option, what is wrong, what would be right."""


def _no_doubts(options: Mapping[str, Any], contract: Contract | None) -> Doubts:  # noqa: ARG001 - one shape for all kinds
    yield from ()


class Kind(NamedTuple):
    """One scorer: what it does, its own options, and which of them a bare value stands for (``- contains: refund``)."""

    about: str
    options: Mapping[str, Option]
    main: str = ""
    text: bool = False
    """Whether it compares texts, so that ``ignore_case`` and ``strip`` make sense."""
    strip: bool = False
    """Whether blanks around texts are left out unless ``strip: false`` says otherwise."""
    doubts: Callable[[Mapping[str, Any], Contract | None], Doubts] = _no_doubts

    def all_options(self) -> dict[str, Option]:
        """Its own options and those that every scorer has."""
        texts = {**_TEXT_OPTIONS, "strip": _TEXT_OPTIONS["strip"]._replace(default=self.strip)} if self.text else {}
        return {**self.options, **texts, **COMMON}


PASS_FAIL = "pass/fail"  # noqa: S105 - a scale
PAIR_MARKS = ("win", "tie")

# --- what options take ------------------------------------------------------------------------------------


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_text, value))


def _one_of(*names: str) -> Takes:
    return Takes(f"write {' or '.join(names)}", lambda value: value in names)


def scale_of(text: Any) -> tuple[int, int] | None:
    """The lowest and highest mark of a scale such as ``1-5``, or ``None`` when it is none."""
    found = re.fullmatch(r"(\d{1,3})\s*[-–]\s*(\d{1,3})", text.strip(), re.ASCII) if isinstance(text, str) else None  # noqa: RUF001 - people write it
    if found is None or int(found[2]) <= int(found[1]):
        return None
    return int(found[1]), int(found[2])


_TEXT = Takes("write a text; put a number or true in quotes to have it as written", _text)
_TEXTS = Takes("write a list of texts; put numbers in quotes to have them as written", lambda value: _text(value) or _texts(value))
_REGEX = Takes("write a regular expression of Python's re", lambda value: _text(value) and not bad_regex(value))
_SHARE = Takes("write a number from 0 to 1, such as 0.9", lambda value: _number(value) and 0 <= value <= 1)
_AMOUNT = Takes("write a number, 0 or more", lambda value: _number(value) and value >= 0)
_POSITIVE = Takes("write a number above 0", lambda value: _number(value) and value > 0)
_COUNT = Takes("write a whole number, 0 or more", lambda value: _number(value) and isinstance(value, int) and value >= 0)
_FLAG = Takes("write true or false", lambda value: isinstance(value, bool))
_FUNCTION = Takes(
    "write module:function, or file.py:function with a path relative to the task file",
    lambda value: _text(value) and all(part.strip() for part in value.rpartition(":")[::2]),
)
_LETTERS = Takes("write the letters in a row, such as ABCD", lambda value: _text(value) and value.isascii() and value.isalpha())
_SCALE = Takes(
    "write pass/fail, or the lowest and highest mark such as 1-5", lambda value: value == PASS_FAIL or scale_of(value) is not None
)
_MARK = Takes("write the lowest mark that passes", lambda value: _number(value) or value in PAIR_MARKS)
_MODEL = Takes("write endpoint/model", lambda value: _text(value) and "/" in value.strip("/"))
_MODELS = Takes(
    "write a list of different models, each endpoint/model",
    lambda value: _texts(value) and len(set(value)) == len(value) and all("/" in name.strip("/") for name in value),
)
_SCHEMA = Takes(
    "write a JSON Schema, or the path of a file with one",
    lambda value: _text(value) or (isinstance(value, dict | bool) and not schema_problem(value)),
)
_PATHS = Takes(
    "write a list of paths such as order.id, items[0] or items[*].sku", lambda value: _texts(value) and all(map(path_steps, value))
)

_STEP = re.compile(r"""\.?([^.\[\]"]+)|\[(\d{1,9}|\*)\]|\["([^"]+)"\]""")


def path_steps(path: str) -> tuple[str | int | None, ...]:
    """``items[*].sku`` as ``("items", None, "sku")``; empty when it is no path. ``["a.b"]`` is a key with a dot in it."""
    steps: list[str | int | None] = []
    end = 0
    for match in _STEP.finditer(path):
        if match.start() != end:
            return ()
        key, index, quoted = match.groups()
        steps.append(None if index == "*" or key == "*" else int(index) if index else key or quoted)
        end = match.end()
    return tuple(steps) if end == len(path) else ()


# --- doubts that take more than one option ----------------------------------------------------------------


def _word_limit(options: Mapping[str, Any], contract: Contract | None) -> Doubts:  # noqa: ARG001 - one shape for all kinds
    low, high = options.get("min"), options.get("max")
    if low is None and high is None:
        yield "max", "has neither a min nor a max", "write word_limit: {max: 60}"
    elif low is not None and high is not None and low > high:
        yield "min", f"min {low} is more than max {high}", "swap them"


def _json_schema(options: Mapping[str, Any], contract: Contract | None) -> Doubts:
    if "schema" not in options and contract is not None and not isinstance(contract.shape, JsonShape):
        yield "schema", "has no schema, and the task's output has none either", "write json_schema: {schema: …}"


def _json_diff(options: Mapping[str, Any], contract: Contract | None) -> Doubts:  # noqa: ARG001 - one shape for all kinds
    if contract is not None and isinstance(contract.shape, Labels):
        yield "", "compares JSON, and the task's outputs are labels", "use exact or label"


def _judge(options: Mapping[str, Any], contract: Contract | None) -> Doubts:  # noqa: ARG001 - one shape for all kinds
    yield from _one_needed(options, "model", "models", "endpoint/model of the judge, best another than the one judged")
    yield from _one_needed(options, "criteria", "rubric", "what makes an answer good, or a file that says it")
    if "min_kappa" in options and "calibrate" not in options:
        yield "min_kappa", "min_kappa has nothing to be measured on", "name a file of rows that people judged: calibrate: judged.jsonl"
    yield from _marks(options)


def _one_needed(options: Mapping[str, Any], one: str, other: str, about: str) -> Doubts:
    if one in options and other in options:
        yield other, f"both {one} and {other} are given", "keep one of them"
    elif one not in options and other not in options:
        yield one, f"has neither {one} nor {other}", f"add {one}: {about}"


def _marks(options: Mapping[str, Any]) -> Doubts:
    mark, scale = options.get("pass"), options.get("scale", PASS_FAIL)
    if mark is not None and "threshold" in options:
        yield "pass", "both pass and threshold are given", "keep one of them"
    if options.get("pairwise"):
        if "scale" in options:
            yield "scale", "a pairwise judge has no scale", "leave it out: the answer wins, ties or loses"
        if mark is not None and mark not in PAIR_MARKS:
            yield "pass", f"pass is {_shown(mark)}", f"write {' or '.join(PAIR_MARKS)}"
        return
    if options.get("against") is not None:
        yield "against", "only a pairwise judge compares with another answer", "add pairwise: true, or leave against out"
    if scale == PASS_FAIL:
        if mark is not None:
            yield "pass", "pass/fail needs no pass mark", "leave pass out, or name a scale such as 1-5"
        return
    low, high = scale_of(scale) or (0, 0)
    if mark is None:
        if "threshold" not in options:
            yield "pass", "has a scale and no pass mark", f"add pass: {high - 1 if high - low > 1 else high}, the lowest mark that passes"
    elif not _number(mark) or not low < mark <= high:
        yield "pass", f"pass is {_shown(mark)}", f"write a mark above {low} and up to {high}"


# --- the tables -------------------------------------------------------------------------------------------

COMMON: Mapping[str, Option] = {
    "name": Option(_TEXT, "the name in reports; needed for two of one kind"),
    "weight": Option(_AMOUNT, "its share in the score of a case", 1),
    "threshold": Option(_SHARE, "the lowest score that passes"),
    "not": Option(_FLAG, "turned round: passes where it would fail, and the score is 1 minus the score", default=False),
    "extract": Option(
        _REGEX, "grades what the last match of this pattern holds (its first group, if it has one); without a match it fails"
    ),
}
_TEXT_OPTIONS: Mapping[str, Option] = {
    "ignore_case": Option(_FLAG, "upper and lower case are the same", default=False),
    "strip": Option(_FLAG, "blanks around both texts do not count", default=False),
}
_VALUE = Option(_TEXT, "what to compare with; without it the case's expected output")
_VALUES = Option(_TEXTS, "the texts; without it the items of the case's expected output (a JSON list, or lines, or separated by ; or ,)")
_TOLERANCE = {
    "tolerance": Option(_AMOUNT, "numbers that far apart are equal"),
    "relative": Option(_AMOUNT, "numbers that far apart are equal, as a share of the expected one"),
}
_SEPARATOR = Option(_TEXT, "what stands between items; without it lines, else ;, else ,")

FUZZY = ("ratio", "partial_ratio", "token_sort_ratio", "token_set_ratio")

KINDS: Mapping[str, Kind] = {
    "exact": Kind("the output is the expected text", {"value": _VALUE}, "value", text=True, strip=True),
    "label": Kind("as exact, but case and punctuation around the label do not count", {"value": _VALUE}, "value"),
    "contains": Kind("the text occurs in the output", {"value": _VALUE}, "value", text=True),
    "contains_all": Kind(
        "each of the texts occurs in the output; the score is the share that does", {"value": _VALUES}, "value", text=True
    ),
    "contains_any": Kind("at least one of the texts occurs in the output", {"value": _VALUES}, "value", text=True),
    "starts_with": Kind("the output begins with the text", {"value": _VALUE}, "value", text=True, strip=True),
    "ends_with": Kind("the output ends with the text", {"value": _VALUE}, "value", text=True, strip=True),
    "regex": Kind(
        "the pattern matches somewhere in the output",
        {"value": Option(_REGEX, "the pattern; without it the case's expected output is the pattern")},
        "value",
        text=True,
    ),
    "number": Kind(
        "the last number in the output is the expected one",
        {
            "value": Option(Takes("write a number", _number), "the number; without it the last one of the case's expected output"),
            **_TOLERANCE,
            "decimal": Option(
                _one_of(".", ","), "the decimal sign; without it 1,234 is a thousand and 3,14 is three, as grouping by threes tells"
            ),
        },
        "value",
    ),
    "choice": Kind(
        "the output chooses the expected letter: (B), B., Answer: b",
        {
            "value": Option(_LETTERS, "the right letter; without it that of the case's expected output"),
            "letters": Option(_LETTERS, "the letters to choose from", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        },
        "value",
    ),
    "set": Kind(
        "F1 of the items of a list, each counted once and in any order", {"value": _VALUES, "separator": _SEPARATOR}, "value", text=True
    ),
    "list": Kind(
        "F1 of the items of a list by their longest common subsequence: order and repetition count",
        {"value": _VALUES, "separator": _SEPARATOR},
        "value",
        text=True,
    ),
    "json_schema": Kind(
        "the JSON in the output satisfies a JSON Schema",
        {"schema": Option(_SCHEMA, "the schema or the path of a file with one; without it the task's")},
        "schema",
        doubts=_json_schema,
    ),
    "json_diff": Kind(
        "the JSON in the output is the expected value; the score is the share of its parts that are",
        {
            **_TOLERANCE,
            "ignore": Option(_PATHS, "paths that do not count"),
            "ignore_order": Option(_FLAG, "the order of lists does not count", default=False),
        },
        doubts=_json_diff,
    ),
    "fuzzy": Kind(
        "similarity of characters or words (passes from 0.8)",
        {"value": _VALUE, "kind": Option(_one_of(*FUZZY), "which similarity of rapidfuzz", "ratio")},
        "value",
        text=True,
        strip=True,
    ),
    "rouge_l": Kind("ROUGE-L F1 of words: longest common subsequence (passes from 0.5)", {"value": _VALUE}, "value", text=True),
    "word_limit": Kind(
        "the number of words is within limits",
        {"max": Option(_COUNT, "at most so many words"), "min": Option(_COUNT, "at least so many words")},
        "max",
        doubts=_word_limit,
    ),
    "contract": Kind(
        "the output holds the task's contract and the checks of its constraints; the score is the share of rules that hold", {}
    ),
    "same_language": Kind(
        "the output is in the language of the input, told by script and common words; a text too short to tell is unscored",
        {
            "value": Option(_TEXT, "the code of a language, such as de, instead of the input's"),
            "against": Option(_one_of("input", "expected"), "whose language it should be", "input"),
        },
        "value",
    ),
    "latency": Kind("the model took no longer", {"max": Option(_POSITIVE, "seconds", required=True)}, "max"),
    "cost": Kind("the answer cost no more", {"max": Option(_AMOUNT, "US dollars", required=True)}, "max"),
    "python": Kind(
        "a function of your own",
        {
            "function": Option(_FUNCTION, "module:function, or file.py:function beside the task", required=True),
            "timeout": Option(_POSITIVE, "seconds after which a case is unscored", 10),
        },
        "function",
    ),
    "judge": Kind(
        "a language model grades by criteria",
        {
            "model": Option(_MODEL, "the judge, endpoint/model"),
            "models": Option(_MODELS, "several judges: more than half of them must pass the answer"),
            "criteria": Option(_TEXT, "what makes an answer good"),
            "rubric": Option(_TEXT, "a text file with the criteria, relative to the task file"),
            "scale": Option(_SCALE, "the marks", PASS_FAIL),
            "pass": Option(_MARK, "the lowest mark that passes; for a pairwise judge win, or tie"),
            "pairwise": Option(_FLAG, "asks which of two answers is better, in both orders; unless both agree it is a tie", default=False),
            "against": Option(_one_of("expected", "baseline"), "the other answer of a pairwise judge", "expected"),
            "same_model": Option(_FLAG, "lets a model judge its own answers", default=False),
            "calibrate": Option(_TEXT, "a .jsonl file of rows {input, output, human} that people judged"),
            "min_kappa": Option(_SHARE, "Cohen's kappa below which the judge may not gate", 0.4),
        },
        "criteria",
        doubts=_judge,
    ),
}

_ELSEWHERE = {
    "equals": "exact",
    "icontains": "contains: {ignore_case: true}",
    "not_contains": "contains: {not: true, value: …}",
    "similar": "fuzzy",
    "levenshtein": "fuzzy",
    "is_json": "json_schema",
    "llm_rubric": "judge",
    "g_eval": "judge",
    "factuality": "judge",
    "javascript": "python",
    "max_words": "word_limit: {max: …}",
    "min_words": "word_limit: {min: …}",
    "rouge_n": "rouge_l",
}
"""Names that other tools and constraints use, with what they are here."""


def table() -> list[tuple[str, str]]:
    """Every scorer's name with one line about it."""
    return [(name, kind.about) for name, kind in KINDS.items()]


def rules_of(contract: Contract) -> int:
    """How many rules a contract enforces beyond that an answer is not empty."""
    shape = contract.shape
    if not isinstance(shape, TextShape):
        return 1 + len(contract.checks)
    own = 0 if contract.inferred else sum(getattr(shape, name) is not None for name in shape.__struct_fields__)
    return own + len(contract.checks)


def default_specs(contract: Contract) -> tuple[ScorerSpec, ...]:
    """The scorers of a task that names none: ``exact`` for labels, ``json_diff`` for JSON, ``contract`` for a text with limits.

    None for a text without limits and checks: any answer would pass.
    """
    if isinstance(contract.shape, Labels):
        return (ScorerSpec("exact"),)
    if isinstance(contract.shape, JsonShape):
        return (ScorerSpec("json_diff"),)
    return (ScorerSpec("contract"),) if rules_of(contract) else ()


def scorer_names(specs: Sequence[ScorerSpec], contract: Contract) -> tuple[str, ...]:
    """The names under which scores stand in reports, in the suite's order."""
    return tuple(str(spec.options.get("name", spec.name)) for spec in specs or default_specs(contract))


def options_of(spec: ScorerSpec) -> dict[str, Any]:
    """A scorer's options as its kind names them: a bare value (``- python: checks:polite``) stands for its main option."""
    kind = KINDS.get(spec.name)
    given = dict(spec.options)
    if kind is not None and kind.main and "value" in given and "value" not in kind.options and kind.main not in given:
        given = {kind.main if name == "value" else name: value for name, value in given.items()}
    return given


def check_specs(specs: Sequence[ScorerSpec], contract: Contract | None) -> list[Wrong]:
    """Everything that is wrong with a task's scorers, in their order; touches no file and no model."""
    wrong: list[Wrong] = []
    seen: set[str] = set()
    for spec in specs:
        options = options_of(spec)
        found = list(_doubts(spec.name, options, contract))
        wrong += [Wrong(spec, *one) for one in found]
        name = options.get("name", spec.name)
        if not found and name in seen:
            wrong.append(Wrong(spec, "name", f"two scorers are called {name!r}", f"give one a name: {spec.name}: {{name: …}}"))
        seen.add(str(name))
    return wrong


def _doubts(name: str, options: Mapping[str, Any], contract: Contract | None) -> Doubts:
    kind = KINDS.get(name)
    if kind is None:
        yield "", f"unknown scorer {name!r}", _known(name)
        return
    allowed = kind.all_options()
    clean = True
    for option, value in options.items():
        if option not in allowed:
            near = did_you_mean(str(option), allowed)
            yield str(option), f"unknown option {option!r} of scorer {name!r}", near or f"its options are {', '.join(allowed)}"
            clean = False
        elif not allowed[option].takes.fits(value):
            yield option, f"{option} of scorer {name!r} is {_shown(value)}", allowed[option].takes.right + _why_not(allowed[option], value)
            clean = False
    for option, known in kind.options.items():
        if known.required and option not in options:
            yield option, f"scorer {name!r} has no {option}", f"add {option}: {known.about}"
            clean = False
    if clean:
        for option, what, right in kind.doubts(options, contract):
            yield option, f"scorer {name!r}: {what}", right


def _known(name: str) -> str:
    meant = _ELSEWHERE.get(name.replace("-", "_"))
    if meant:
        return f"it is called {meant} here"
    return did_you_mean(name.replace("-", "_"), KINDS) or f"the scorers are {', '.join(KINDS)}"


def _why_not(option: Option, value: Any) -> str:
    if option.takes is _REGEX and isinstance(value, str) and (problem := bad_regex(value)):
        return f" ({problem})"
    if option.takes is _SCHEMA and isinstance(value, dict) and (problem := schema_problem(value)):
        return f" ({problem})"
    return ""


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else f"{text[:59]}…"
