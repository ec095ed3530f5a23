"""Contracts: what every output must satisfy. Inferred from examples, told in words, checked with reasons."""

from .infer import explain, infer
from .shapes import (
    CHECKS,
    TEXT_LIMITS,
    Check,
    CheckKind,
    Contract,
    JsonShape,
    Labels,
    Shape,
    TextShape,
    bad_regex,
    count_lines,
    count_words,
    normalise_label,
)
from .validate import Validator_ as Validator
from .validate import Verdict, find_json, json_path, schema_problem, shorten, validator
from .words import as_schema, check_line, error_lines, format_lines

__all__ = [
    "CHECKS",
    "TEXT_LIMITS",
    "Check",
    "CheckKind",
    "Contract",
    "JsonShape",
    "Labels",
    "Shape",
    "TextShape",
    "Validator",
    "Verdict",
    "as_schema",
    "bad_regex",
    "check_line",
    "count_lines",
    "count_words",
    "error_lines",
    "explain",
    "find_json",
    "format_lines",
    "infer",
    "json_path",
    "normalise_label",
    "schema_problem",
    "shorten",
    "validator",
]
