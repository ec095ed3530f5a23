"""Reads a body as its protocol defines it, and words what is wrong with it as the provider does."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from .refused import Dialect, Refused

T = TypeVar("T")

_FAULT = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_VALUE = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)
_TYPE = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_BOUND = re.compile(r"Expected `(\w+)` ([<>]=) (\S+)")
_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a decimal",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def parse(data: bytes, dialect: Dialect) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if dialect == "anthropic":
            raise Refused(400, f"The request body is not valid JSON: {error}") from None
        raise Refused(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(raw, dict):
        raise Refused(400, "Input should be an object" if dialect == "anthropic" else "The JSON body of your request must be an object.")
    return raw


def convert(raw: dict[str, Any], kind: type[T], dialect: Dialect) -> T:
    """The body as ``kind``."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        found = _FAULT.fullmatch(str(error))
        assert found is not None
        what, path = found["what"], (found["path"] or "").lstrip(".")
        raise (_anthropic(what, path) if dialect == "anthropic" else _openai(what, path)) from None


def _openai(what: str, path: str) -> Refused:
    if match := _UNKNOWN.fullmatch(what):
        name = f"{path}.{match[1]}" if path else match[1]
        return Refused(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    if match := _MISSING.fullmatch(what):
        if not path and match[1] == "model":
            return Refused(400, "you must provide a model parameter")
        name = f"{path}.{match[1]}" if path else match[1]
        return Refused(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    if match := _BOUND.fullmatch(what):
        side = "below minimum" if match[2] == ">=" else "above maximum"
        noun = "integer" if match[1] == "int" else "decimal"
        code = f"{noun}_{'below_min' if match[2] == '>=' else 'above_max'}_value"
        return Refused(400, f"Invalid '{path}': {noun} {side} value. Expected a value {match[2]} {match[3]}.", param=path, code=code)
    if match := _TYPE.fullmatch(what):
        expected = " or ".join(_WORDS.get(word, word) for word in match[1].split(" | ") if word != "null")
        got = _WORDS.get(match[2], match[2])
        return Refused(400, f"Invalid type for '{path}': expected {expected}, but got {got} instead.", param=path, code="invalid_type")
    if match := _VALUE.fullmatch(what):
        return Refused(400, f"Invalid value: {match[1]}.", param=path, code="invalid_value")
    return Refused(400, f"Invalid '{path}': {what}.", param=path or None, code="invalid_value")


def _anthropic(what: str, path: str) -> Refused:
    at = path.replace("[", ".").replace("]", "")
    if match := _UNKNOWN.fullmatch(what):
        return Refused(400, f"{at}.{match[1]}: Extra inputs are not permitted" if at else f"{match[1]}: Extra inputs are not permitted")
    if match := _MISSING.fullmatch(what):
        return Refused(400, f"{at}.{match[1]}: Field required" if at else f"{match[1]}: Field required")
    if match := _BOUND.fullmatch(what):
        side = "greater" if match[2] == ">=" else "less"
        return Refused(400, f"{at}: Input should be {side} than or equal to {match[3]}")
    if match := _TYPE.fullmatch(what):
        expected = " or ".join(_WORDS.get(word, word).split()[-1] for word in match[1].split(" | ") if word != "null")
        return Refused(400, f"{at}: Input should be a valid {expected}")
    if match := _VALUE.fullmatch(what):
        if at.endswith(".type"):
            return Refused(400, f"{at[:-5]}: Input tag {match[1]} found using 'type' does not match any of the expected tags")
        return Refused(400, f"{at}: Input should be one of the permitted values, not {match[1]}")
    return Refused(400, f"{at}: {what}")
