"""Judging an output: the value found in it, and reasons in words where it breaks the contract."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from .shapes import Check, Contract, JsonShape, Labels, TextShape, count_lines, count_words, normalise_label

if TYPE_CHECKING:
    from jsonschema_rs import Validator

_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_MEASURES: dict[str, tuple[Callable[[str], int], str]] = {
    "words": (count_words, "word"),
    "chars": (len, "character"),
    "lines": (count_lines, "line"),
}
_SHOWN = 60


class Verdict(msgspec.Struct, frozen=True):
    """``value`` is the label as written, the parsed JSON, or the text without surrounding blanks.

    ``reasons`` say how the output breaks the contract (none: it holds); ``notes`` say what of an inferred
    contract it does not match, which is counted and no break.
    """

    value: Any
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.reasons


Validator_ = Callable[[str], Verdict]


def validator(contract: Contract) -> Validator_:
    """A function that judges outputs; make it once per contract."""
    judge = _shape_judge(contract)
    if not contract.checks:
        return judge
    checks = contract.checks

    def both(text: str) -> Verdict:
        verdict = judge(text)
        broken = tuple(reason for check in checks for reason in broken_check(check, text))
        return msgspec.structs.replace(verdict, reasons=verdict.reasons + broken) if broken else verdict

    return both


def broken_check(check: Check, text: str) -> Iterator[str]:
    """Why ``text`` fails ``check``, in words; nothing when it passes."""
    value = check.value
    if check.kind in ("max_words", "min_words"):
        yield from _limit(check.kind, int(value), text)
    elif check.kind == "regex":
        if not re.search(str(value), text):
            yield f"does not match the pattern {value!r}"
    elif check.kind == "contains":
        if str(value).casefold() not in text.casefold():
            yield f"does not contain {value!r}"
    elif str(value).casefold() in text.casefold():
        yield f"contains {value!r}, which it must not"


def _shape_judge(contract: Contract) -> Validator_:
    shape = contract.shape
    if isinstance(shape, Labels):
        return _label_judge(shape, contract.inferred)
    if isinstance(shape, JsonShape):
        return _json_judge(shape, contract.inferred)
    return _text_judge(shape, contract.inferred)


def _label_judge(shape: Labels, inferred: bool) -> Validator_:
    known = {normalise_label(label): Verdict(label) for label in shape.labels}
    # The common answers, found without normalising anything.
    exact = {label: Verdict(label) for label in shape.labels}

    def judge(text: str) -> Verdict:
        verdict = exact.get(text) or known.get(normalise_label(text))
        if verdict is not None:
            return verdict
        answer = text.strip()
        if not answer:
            return Verdict("", ("the answer is empty",))
        if shape.allow_other:
            return Verdict(answer)
        reason = f"{shorten(answer)} is none of the labels {', '.join(shape.labels)}"
        return Verdict(answer, notes=(reason,)) if inferred else Verdict(None, (reason,))

    return judge


def _text_judge(shape: TextShape, inferred: bool) -> Validator_:
    limits = [(name, value) for name in shape.__struct_fields__ if name != "regex" and (value := getattr(shape, name)) is not None]
    pattern = re.compile(shape.regex) if shape.regex is not None else None

    def judge(text: str) -> Verdict:
        answer = text.strip()
        broken = [reason for name, value in limits for reason in _limit(name, value, answer)]
        if pattern is not None and not pattern.search(answer):
            broken.append(f"does not match the pattern {pattern.pattern!r}")
        if not answer:
            return Verdict("", ("the answer is empty",))
        if inferred:
            return Verdict(answer, notes=tuple(broken))
        return Verdict(answer, tuple(broken))

    return judge


def _limit(name: str, limit: int, text: str) -> Iterator[str]:
    bound, _, unit = name.partition("_")
    measure, word = _MEASURES[unit]
    found = measure(text)
    if found > limit if bound == "max" else found < limit:
        side = "more" if bound == "max" else "fewer"
        yield f"has {found} {word}{'s' * (found != 1)}, {side} than {limit}"


def _json_judge(shape: JsonShape, inferred: bool) -> Validator_:
    strict = json.dumps(enforced(json.loads(shape.schema)), ensure_ascii=False) if inferred else shape.schema

    def judge(text: str) -> Verdict:
        try:
            value = find_json(text)
        except ValueError as error:
            return Verdict(None, (str(error),))
        reasons = tuple(_schema_errors(strict, value))
        if reasons or not inferred:
            return Verdict(value, reasons)
        return Verdict(value, notes=tuple(_schema_errors(shape.schema, value)))

    return judge


def find_json(text: str) -> Any:
    """The JSON value in a model's answer: the whole text, a fenced block, or what follows a preamble.

    Raises :class:`ValueError` with a reason in words.
    """
    candidates = [text.strip(), *(match.strip() for match in _FENCE.findall(text))]
    problem = "the answer is empty"
    for candidate in candidates:
        if candidate:
            try:
                return parse_json(candidate)
            except ValueError as error:
                problem = f"is not JSON: {error}"
    for start in _openings(text):
        try:
            return _decoder().raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            continue
    raise ValueError(problem)


def _openings(text: str) -> Iterator[int]:
    # A preamble may hold a few brackets of its own; a megabyte of them is not worth a quadratic search.
    for count, match in enumerate(re.finditer(r"[{\[]", text)):
        if count == 100:
            return
        yield match.start()


@functools.cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def parse_json(text: str) -> Any:
    """The JSON value that ``text`` is. Raises :class:`ValueError`, also for the numbers that only Python's JSON has."""
    try:
        return _decoder().decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        # It would be written back as Infinity, which is no JSON.
        raise ValueError(f"the number {shorten(digits)} is too large")
    return value


@functools.lru_cache(maxsize=256)
def _schema_validator(schema: str) -> Validator:
    import jsonschema_rs

    return jsonschema_rs.validator_for(json.loads(schema), retriever=_refuse_retrieval)


def _refuse_retrieval(uri: str) -> Any:
    # Left to itself the library fetches http and file references while a task is read.
    raise ValueError(f"{uri} is another document, and those are not followed; put what is meant under $defs")


def schema_problem(schema: Any) -> str:
    """Why ``schema`` is not a usable JSON Schema, or an empty string."""
    import jsonschema_rs

    try:
        jsonschema_rs.validator_for(schema, retriever=_refuse_retrieval)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        return str(error).strip().splitlines()[0]
    return ""


def _schema_errors(schema: str, value: Any) -> Iterator[str]:
    try:
        errors = list(_schema_validator(schema).iter_errors(value))
    except (ValueError, UnicodeEncodeError, RecursionError) as error:
        yield f"can't be checked: {error}"
        return
    for broken in errors:
        path = json_path(list(broken.instance_path))
        yield f"{path}: {broken.message}" if path else broken.message


def json_path(steps: list[str | int]) -> str:
    """``["items", 0, "sku"]`` as ``items[0].sku``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")


_WORDS_ONLY = frozenset(
    [
        "enum",
        "const",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "additionalProperties",
    ]
)


def enforced(schema: Any) -> Any:
    """What of an inferred schema is a rule: types and required keys, without enums and bounds."""
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _WORDS_ONLY:
            continue
        if key == "properties":
            kept[key] = {name: enforced(child) for name, child in value.items()}
        elif key == "items":
            kept[key] = enforced(value)
        else:
            kept[key] = value
    return kept


def shorten(text: str, limit: int = _SHOWN) -> str:
    """``text`` quoted, on one line, at most ``limit`` characters."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
